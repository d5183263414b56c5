//! Session indices: 24 random bits over an 8-bit place, so that the data path finds a session by one
//! array access and a stranger cannot guess an index.

use super::{Entropy, PublicKey};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(super) const SLOTS: usize = 256;

/// The session indices that are given out, for readers on other threads. A frame with one of them whose
/// lanes are not open is not a stranger's: it has overtaken the work that its session's last handshake
/// message made.
#[derive(Debug)]
pub struct Indices([AtomicU32; SLOTS]);

impl Default for Indices {
    fn default() -> Indices {
        Indices([const { AtomicU32::new(0) }; SLOTS])
    }
}

impl Indices {
    /// With one index given out.
    #[cfg(test)]
    pub(crate) fn with(index: u32) -> Indices {
        let indices = Indices::default();
        indices.set(index as usize % SLOTS, index);
        indices
    }

    /// Whether `index` is given out: to a live session, or to one that a handshake is about to make.
    pub fn holds(&self, index: u32) -> bool {
        index != 0 && self.0[index as usize % SLOTS].load(Ordering::Relaxed) == index
    }

    fn set(&self, place: usize, index: u32) {
        self.0[place].store(index, Ordering::Relaxed);
    }
}

pub(super) struct IndexTable {
    live: [Option<(u32, PublicKey)>; SLOTS],
    /// Last index of each place, so that the next one differs.
    last: [u32; SLOTS],
    /// Where to look next: a place freed just now is the last to be used again.
    next: usize,
    seen: Arc<Indices>,
}

impl IndexTable {
    /// An empty table that `seen` follows.
    pub(super) fn new(seen: Arc<Indices>) -> IndexTable {
        IndexTable {
            live: [None; SLOTS],
            last: [0; SLOTS],
            next: 0,
            seen,
        }
    }

    /// Takes a free place for `peer`; `None` when full or without randomness.
    pub(super) fn alloc(&mut self, peer: PublicKey, entropy: &mut dyn Entropy) -> Option<u32> {
        let place = (0..SLOTS)
            .map(|i| (self.next + i) % SLOTS)
            .find(|&p| self.live[p].is_none())?;
        let mut r = [0; 3];
        entropy.fill(&mut r).ok()?;
        let mut high = u32::from_le_bytes([r[0], r[1], r[2], 0]);
        // Zero stands for "no session" in OFFER.
        while high == 0 || high == self.last[place] >> 8 {
            high = (high + 1) & 0x00ff_ffff;
        }
        let index = high << 8 | place as u32;
        self.live[place] = Some((index, peer));
        self.last[place] = index;
        self.seen.set(place, index);
        self.next = (place + 1) % SLOTS;
        Some(index)
    }

    /// Whose index it is.
    pub(super) fn get(&self, index: u32) -> Option<PublicKey> {
        self.live[index as usize % SLOTS]
            .filter(|(i, _)| *i == index)
            .map(|(_, key)| key)
    }

    /// Frees an index; one that is not taken is left alone.
    pub(super) fn free(&mut self, index: Option<u32>) {
        if let Some(index) = index
            && self.get(index).is_some()
        {
            self.live[index as usize % SLOTS] = None;
            self.seen.set(index as usize % SLOTS, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EntropyError;
    use super::*;

    /// Always the same bytes: the worst source.
    struct Stuck(u8);

    impl Entropy for Stuck {
        fn fill(&mut self, out: &mut [u8]) -> Result<(), EntropyError> {
            out.fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn indices_are_unique_never_zero_and_bounded() {
        for byte in [0, 0xff] {
            let indices = Arc::new(Indices::default());
            let mut t = IndexTable::new(indices.clone());
            let key = PublicKey([1; 32]);
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..SLOTS {
                let i = t.alloc(key, &mut Stuck(byte)).unwrap();
                assert!(i >> 8 != 0 && seen.insert(i));
                assert_eq!(t.get(i), Some(key));
                assert!(indices.holds(i) && !indices.holds(i ^ 1 << 8));
            }
            assert_eq!(t.alloc(key, &mut Stuck(byte)), None);
            let old = *seen.first().unwrap();
            t.free(Some(old));
            assert_eq!(t.get(old), None);
            assert!(!indices.holds(old) && !indices.holds(0));
            let new = t.alloc(key, &mut Stuck(byte)).unwrap();
            assert_eq!(new % 256, old % 256);
            assert_ne!(new, old, "a freed index is not given out again at once");
            t.free(Some(old));
            assert_eq!(t.get(new), Some(key), "a stale index frees nothing");
        }
    }
}
