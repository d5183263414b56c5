//! The sender's memory of its own chain, against which coherence proofs are compared.

use super::{Chain, Digest, Level};
use crate::base::limits::{COHERENCE_INTERVAL, WINDOW_SLOTS};

/// Chain values remembered. The receiver's proof for a slot arrives at most one window after the
/// slot was committed; twice that leaves room for a proof that was overtaken by later ones.
pub const LEDGER_SLOTS: usize = 2 * WINDOW_SLOTS;

/// Whether the receiver owes a coherence proof once the slots below `upto` are delivered.
pub const fn is_proof_point(upto: u64) -> bool {
    upto > 0 && upto.is_multiple_of(COHERENCE_INTERVAL)
}

/// What a coherence proof of the peer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coherence {
    /// Both ends agree on every slot below `upto`: what the peer's application got is what ours
    /// gave.
    Proven {
        /// End of the proven prefix.
        upto: u64,
    },
    /// The values differ: some slot below `upto` is not the same at both ends. The lane must close.
    Violation {
        /// End of the prefix that differs.
        upto: u64,
        /// Our value.
        ours: [u8; 32],
        /// The peer's value.
        theirs: [u8; 32],
    },
    /// The proof is older than the values still remembered, and is covered by a newer one.
    Stale,
    /// The proof speaks of slots that were never committed, or of another level: a protocol
    /// violation.
    Impossible,
}

impl Coherence {
    /// Whether the lane may go on.
    pub const fn is_ok(self) -> bool {
        matches!(self, Coherence::Proven { .. } | Coherence::Stale)
    }
}

/// The chain of a sending lane with its last [`LEDGER_SLOTS`] values (6 KiB, made once).
#[derive(Debug)]
pub struct Ledger {
    chain: Chain,
    /// Value over the slots below `n`, at `n % LEDGER_SLOTS`.
    values: Box<[[u8; 32]; LEDGER_SLOTS]>,
    proven: u64,
}

impl Ledger {
    /// The ledger of a lane that has sent nothing.
    pub fn new(level: Level) -> Ledger {
        Ledger {
            chain: Chain::new(level),
            values: Box::new([[0; 32]; LEDGER_SLOTS]),
            proven: 0,
        }
    }

    /// Appends a committed slot; slots must be appended in order from 0.
    pub fn push(&mut self, slot: u64, content: &Digest) {
        self.chain.push(slot, content);
        let at = self.chain.upto() % LEDGER_SLOTS as u64;
        self.values[at as usize] = self.chain.value();
    }

    /// The chain so far.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// End of the longest prefix that the peer has proven.
    pub fn proven(&self) -> u64 {
        self.proven
    }

    /// Compares the peer's value over the slots below `upto` with our own.
    pub fn compare(&mut self, level: Level, upto: u64, theirs: [u8; 32]) -> Coherence {
        if level != self.chain.level() || upto > self.chain.upto() {
            return Coherence::Impossible;
        }
        if self.chain.upto() - upto >= LEDGER_SLOTS as u64 {
            return Coherence::Stale;
        }
        let ours = self.values[(upto % LEDGER_SLOTS as u64) as usize];
        if ours != theirs {
            return Coherence::Violation { upto, ours, theirs };
        }
        self.proven = self.proven.max(upto);
        Coherence::Proven { upto }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::digest;

    #[test]
    fn a_proof_is_compared_with_the_prefix_that_it_names() {
        for level in [Level::Fast, Level::Full] {
            let mut ledger = Ledger::new(level);
            let mut peer = Chain::new(level);
            let mut values = vec![peer.value()];
            for slot in 0..500u64 {
                let d = digest(level, &slot.to_le_bytes());
                ledger.push(slot, &d);
                peer.push(slot, &d);
                values.push(peer.value());
            }
            for upto in 0..=500u64 {
                let got = ledger.compare(level, upto, values[upto as usize]);
                let kept = 500 - upto < LEDGER_SLOTS as u64;
                let want = if kept {
                    Coherence::Proven { upto }
                } else {
                    Coherence::Stale
                };
                assert_eq!(got, want);
                if kept {
                    let mut wrong = values[upto as usize];
                    wrong[3] ^= 1;
                    let got = ledger.compare(level, upto, wrong);
                    assert!(matches!(got, Coherence::Violation { upto: u, .. } if u == upto));
                    assert!(!got.is_ok());
                }
            }
            assert_eq!(ledger.proven(), 500);
        }
    }

    #[test]
    fn impossible_proofs_are_told_from_stale_ones() {
        let mut ledger = Ledger::new(Level::Fast);
        assert_eq!(
            ledger.compare(Level::Fast, 0, [0; 32]),
            Coherence::Proven { upto: 0 }
        );
        assert_eq!(
            ledger.compare(Level::Fast, 1, [0; 32]),
            Coherence::Impossible
        );
        assert_eq!(
            ledger.compare(Level::Full, 0, [0; 32]),
            Coherence::Impossible
        );
        assert_eq!(
            ledger.compare(Level::Fast, u64::MAX, [0; 32]),
            Coherence::Impossible
        );
        assert!(!Coherence::Impossible.is_ok() && Coherence::Stale.is_ok());
    }

    #[test]
    fn proofs_are_due_every_96_slots() {
        let due: Vec<_> = (0..300).filter(|&n| is_proof_point(n)).collect();
        assert_eq!(due, [96, 192, 288]);
    }
}
