//! The chain value over the digests of a lane's slots.

use super::{Digest, Level, digest};

/// Bytes that go into one step of the chain: previous value, slot number, digest.
pub const CHAIN_INPUT_LEN: usize = 32 + 8 + 32;

/// The chain over the slots of one lane and direction (*wire*).
///
/// ```text
/// value(0)     = 32 zero bytes
/// value(n + 1) = H(value(n) || n as u64 little-endian || digest(n))      72 bytes in
/// ```
///
/// where `H` is [`digest`] at the chain's level, so that a fast value is 16 bytes and 16 zeros.
/// A value says which content came in which order: slots lost, repeated or exchanged change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    level: Level,
    value: [u8; 32],
    upto: u64,
}

impl Chain {
    /// The chain before slot 0.
    pub const fn new(level: Level) -> Chain {
        Chain {
            level,
            value: [0; 32],
            upto: 0,
        }
    }

    /// Appends a slot. Slots are to be appended in rising order from 0; any other order gives a
    /// value that matches no honest peer's.
    pub fn push(&mut self, slot: u64, content: &Digest) {
        let mut input = [0; CHAIN_INPUT_LEN];
        input[..32].copy_from_slice(&self.value);
        input[32..40].copy_from_slice(&slot.to_le_bytes());
        input[40..].copy_from_slice(&content.0);
        self.value = digest(self.level, &input).0;
        self.upto = slot.saturating_add(1);
    }

    /// The chain value over the slots below [`Chain::upto`].
    pub const fn value(&self) -> [u8; 32] {
        self.value
    }

    /// One more than the last slot appended; 0 at the start.
    pub const fn upto(&self) -> u64 {
        self.upto
    }

    /// The level of the digests and of the chain.
    pub const fn level(&self) -> Level {
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(level: Level, slots: &[(u64, &[u8])]) -> [u8; 32] {
        let mut c = Chain::new(level);
        for (slot, content) in slots {
            c.push(*slot, &digest(level, content));
        }
        c.value()
    }

    #[test]
    fn the_formula_is_the_documented_one() {
        for level in [Level::Fast, Level::Full] {
            let mut value = [0u8; 32];
            let mut c = Chain::new(level);
            assert_eq!((c.value(), c.upto()), (value, 0));
            for n in 0..200u64 {
                let d = digest(level, &n.to_be_bytes());
                let input = [&value[..], &n.to_le_bytes(), &d.0].concat();
                assert_eq!(input.len(), CHAIN_INPUT_LEN);
                value = digest(level, &input).0;
                c.push(n, &d);
                assert_eq!((c.value(), c.upto()), (value, n + 1));
            }
        }
    }

    #[test]
    fn known_answers() {
        let slots: [(u64, &[u8]); 2] = [(0, b"ctp"), (1, b"")];
        let hex = |v: [u8; 32]| Digest(v).to_string();
        assert_eq!(hex(chain(Level::Fast, &slots)), FAST);
        assert_eq!(hex(chain(Level::Full, &slots)), FULL);
    }
    // Made with the Python packages xxhash and blake3 from the formula above.
    const FAST: &str = "5296f85f530bafc5e182136e690c82ac00000000000000000000000000000000";
    const FULL: &str = "99c651292182a39ca74817d2b7d7cd134e68256e5e829c77f61c019db9613eac";

    #[test]
    fn order_number_and_content_all_count() {
        for level in [Level::Fast, Level::Full] {
            let good = chain(level, &[(0, b"a"), (1, b"b")]);
            let others: [&[(u64, &[u8])]; 6] = [
                &[(0, b"b"), (1, b"a")],
                &[(1, b"a"), (0, b"b")],
                &[(0, b"a"), (2, b"b")],
                &[(0, b"a")],
                &[(0, b"a"), (1, b"b"), (1, b"b")],
                &[(0, b"a"), (1, b"c")],
            ];
            for other in others {
                assert_ne!(chain(level, other), good);
            }
        }
        assert_ne!(
            chain(Level::Fast, &[(0, b"a")]),
            chain(Level::Full, &[(0, b"a")])
        );
    }
}
