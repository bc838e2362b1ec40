//! The SSH wire encoding (RFC 4251 section 5): big-endian integers and length-prefixed strings.
//!
//! The reader borrows and never allocates by a length that it was told; what is short is [`Short`].

/// The input ended before what it announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// Reads SSH wire values off the front of a slice.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn string(&mut self) -> Result<&'a [u8], Short> {
        let len = usize::try_from(self.u32()?).map_err(|_| Short)?;
        let (head, tail) = self.rest.split_at_checked(len).ok_or(Short)?;
        self.rest = tail;
        Ok(head)
    }
}

/// Appends a `string`.
pub(crate) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // The prefix never lies about what follows: what does not fit 32 bits is cut (and then refused on reading back).
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let bytes = bytes.get(..len as usize).unwrap_or(bytes);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a `uint32`.
pub(crate) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a `uint64`.
pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_and_short_input_is_told() {
        let mut out = Vec::new();
        put_u32(&mut out, 7);
        put_u64(&mut out, 1 << 40);
        put_string(&mut out, b"abc");
        let mut reader = Reader::new(&out);
        assert_eq!((reader.u32(), reader.u64(), reader.string()), (Ok(7), Ok(1 << 40), Ok(&b"abc"[..])));
        assert!(reader.is_empty());
        assert_eq!(reader.u8(), Err(Short));
        assert_eq!(Reader::new(&[0xff; 5]).string(), Err(Short));
        assert_eq!(Reader::new(&[0, 0, 0, 2, 1]).string(), Err(Short));
    }
}
