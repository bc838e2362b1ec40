//! Cuts an SFTP stream into packets, in bounded memory: content passes by, the rest is held until it is whole.

/// The most of a packet that is held, in bytes; OpenSSH takes packets of at most 256 KiB.
const HELD: usize = 64 * 1024;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Requests.
    Client,
    /// Answers.
    Server,
}

/// A part of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A packet from its type on, as far as it is held; of one that says nothing about files, type and id.
    Whole(&'a [u8]),
    /// What stands before the content of a write or a read's answer.
    Begin(&'a [u8]),
    /// Content; what stands behind it in the packet is left out, as servers do.
    Content(&'a [u8]),
    /// A packet that cannot be one.
    Broken,
}

/// One direction.
#[derive(Debug)]
pub struct Packets {
    side: Side,
    length: Vec<u8>,
    held: Vec<u8>,
    /// What is left of the packet after what is held.
    left: usize,
    /// What is left of the content.
    content: usize,
    rest: Rest,
}

/// What becomes of the bytes that come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Length,
    Hold,
    Content,
    Skip,
}

impl Packets {
    /// The beginning of one direction.
    pub fn new(side: Side) -> Self {
        Self { side, length: Vec::with_capacity(4), held: Vec::new(), left: 0, content: 0, rest: Rest::Length }
    }

    /// Takes bytes, in pieces of any size.
    pub fn feed(&mut self, mut bytes: &[u8], tell: &mut dyn FnMut(Part<'_>)) {
        while let Some(first) = bytes.first().copied() {
            if self.rest == Rest::Length {
                self.length.push(first);
                bytes = bytes.get(1..).unwrap_or_default();
                if let Ok(length) = <[u8; 4]>::try_from(self.length.as_slice()) {
                    self.length.clear();
                    self.begin(u32::from_be_bytes(length), tell);
                }
                continue;
            }
            let wanted = match self.rest {
                Rest::Hold => 1.max(self.wanted()),
                Rest::Content => self.content,
                Rest::Skip | Rest::Length => usize::MAX,
            };
            let (now, later) = bytes.split_at(bytes.len().min(self.left).min(wanted));
            bytes = later;
            self.left -= now.len();
            match self.rest {
                Rest::Content => {
                    tell(Part::Content(now));
                    self.content -= now.len();
                    if self.content == 0 {
                        self.rest = Rest::Skip;
                    }
                }
                Rest::Hold => self.hold(now, tell),
                Rest::Skip | Rest::Length => {}
            }
            if self.left == 0 && self.rest != Rest::Hold {
                self.rest = Rest::Length;
            }
        }
    }

    fn begin(&mut self, length: u32, tell: &mut dyn FnMut(Part<'_>)) {
        self.left = usize::try_from(length).unwrap_or(usize::MAX);
        self.held.clear();
        self.rest = if self.left == 0 { Rest::Length } else { Rest::Hold };
        if self.left == 0 {
            tell(Part::Broken);
        }
    }

    /// How many more bytes are held before it is looked at what they are.
    fn wanted(&self) -> usize {
        let full = self.header().unwrap_or(HELD).min(HELD);
        full.saturating_sub(self.held.len())
    }

    /// How much of a packet is wanted, as far as that is known: what stands before content, or type and id; nothing for all of it.
    fn header(&self) -> Option<usize> {
        let kind = match self.held.first() {
            None => return Some(1),
            Some(kind) => *kind,
        };
        match (self.side, kind) {
            // type, id, length
            (Side::Server, 103) => Some(9),
            // type, id, handle, offset, length
            (Side::Client, 6) => {
                let length = self.held.get(5..9).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
                length.map_or(Some(9), |length| {
                    usize::try_from(u32::from_be_bytes(length)).ok().map(|handle| handle.saturating_add(21))
                })
            }
            // type, id
            _ if self.is_idle() => Some(5),
            _ => None,
        }
    }

    fn is_content(&self) -> bool {
        matches!((self.side, self.held.first()), (Side::Server, Some(103)) | (Side::Client, Some(6)))
    }

    /// True for packets that have no id.
    fn is_greeting(&self) -> bool {
        self.side == Side::Client && self.held.first() == Some(&1)
    }

    /// True for packets that say nothing about files but which request is answered.
    fn is_idle(&self) -> bool {
        match self.side {
            Side::Client => !matches!(self.held.first(), Some(3..=6 | 9..=11 | 13..=15 | 18 | 20 | 200)),
            Side::Server => !matches!(self.held.first(), Some(2 | 101..=103)),
        }
    }

    fn hold(&mut self, bytes: &[u8], tell: &mut dyn FnMut(Part<'_>)) {
        self.held.extend_from_slice(bytes);
        let is_there = Some(self.held.len()) == self.header();
        if self.is_greeting() {
            self.rest = Rest::Skip;
        } else if is_there && self.is_content() {
            self.begin_content(tell);
        } else if is_there {
            tell(Part::Whole(&self.held));
            self.rest = Rest::Skip;
        } else if self.left == 0 || self.held.len() >= HELD {
            let broken = self.header().is_some();
            tell(if broken { Part::Broken } else { Part::Whole(&self.held) });
            self.rest = Rest::Skip;
        }
        if self.left == 0 {
            self.rest = Rest::Length;
        }
    }

    /// The content is as long as the last field before it says.
    fn begin_content(&mut self, tell: &mut dyn FnMut(Part<'_>)) {
        let field = self.held.last_chunk::<4>().map_or(u32::MAX, |field| u32::from_be_bytes(*field));
        self.content = usize::try_from(field).unwrap_or(usize::MAX);
        if self.content > self.left {
            tell(Part::Broken);
            self.rest = Rest::Skip;
            return;
        }
        tell(Part::Begin(&self.held));
        self.rest = if self.content == 0 { Rest::Skip } else { Rest::Content };
    }
}
