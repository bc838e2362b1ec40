//! Serial numbers as `epoch · 2^40 + n`, unique per CA for ever.
//!
//! An epoch begins when continuity of the counter cannot be proved (a restored store): numbers of the new epoch
//! cannot meet those of the old one, however many of the old one were lost.

use crate::spec::Serial;

/// Bits of the counter within an epoch.
const COUNTER_BITS: u32 = 40;

/// The largest counter of an epoch.
pub const MAX_N: u64 = (1 << COUNTER_BITS) - 1;

/// The largest epoch: with it the serial still fits 63 bits.
pub const MAX_EPOCH: u32 = (1 << (63 - COUNTER_BITS)) - 1;

/// Why no serial can be made of an epoch and a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SerialError {
    /// The epoch does not fit beside the counter.
    #[error("epoch {epoch} is above {MAX_EPOCH}")]
    Epoch {
        /// The refused epoch.
        epoch: u32,
    },
    /// The counter is 0 or has run out.
    #[error("serial counter {n} is not within 1..={MAX_N}")]
    Counter {
        /// The refused counter.
        n: u64,
    },
}

/// Joins epoch and counter; counters start at 1 in every epoch.
///
/// # Errors
/// When either is out of range; it never wraps into another epoch.
pub fn serial(epoch: u32, n: u64) -> Result<Serial, SerialError> {
    if epoch > MAX_EPOCH {
        return Err(SerialError::Epoch { epoch });
    }
    if n == 0 || n > MAX_N {
        return Err(SerialError::Counter { n });
    }
    Serial::new((u64::from(epoch) << COUNTER_BITS) | n).map_err(|_| SerialError::Counter { n })
}

/// Tells the epoch a serial was drawn in.
pub fn epoch_of(serial: Serial) -> u32 {
    // INVARIANT: a Serial is below 2^63, so the shifted value has 23 bits.
    (serial.value() >> COUNTER_BITS) as u32
}

/// Tells the counter of a serial within its epoch.
pub fn n_of(serial: Serial) -> u64 {
    serial.value() & MAX_N
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges() {
        assert_eq!(serial(0, 1).unwrap().value(), 1);
        assert_eq!(serial(1, 1).unwrap().value(), (1 << 40) + 1);
        assert_eq!(serial(MAX_EPOCH, MAX_N).unwrap().value(), i64::MAX as u64);
        assert_eq!(serial(0, 0), Err(SerialError::Counter { n: 0 }));
        assert_eq!(serial(0, MAX_N + 1), Err(SerialError::Counter { n: MAX_N + 1 }));
        assert_eq!(serial(3, u64::MAX), Err(SerialError::Counter { n: u64::MAX }));
        assert_eq!(serial(MAX_EPOCH + 1, 1), Err(SerialError::Epoch { epoch: MAX_EPOCH + 1 }));
        assert!(serial(1, 1).unwrap() > serial(0, MAX_N).unwrap());
    }

    proptest! {
        #[test]
        fn parts_come_back(epoch in 0..=MAX_EPOCH, n in 1..=MAX_N) {
            let joined = serial(epoch, n).unwrap();
            prop_assert_eq!((epoch_of(joined), n_of(joined)), (epoch, n));
            prop_assert!((1..=i64::MAX as u64).contains(&joined.value()));
        }
    }
}
