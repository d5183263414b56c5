//! The packet numbers that one packet-number space of a lane has accepted (RFC 4303 §3.4.3,
//! RFC 6479), as a sliding window of 16,384.

use crate::base::limits::REPLAY_WINDOW;

const WORD_BITS: u64 = 64;
const WORDS: usize = (REPLAY_WINDOW / WORD_BITS) as usize;
const _: () = assert!(REPLAY_WINDOW.is_power_of_two() && REPLAY_WINDOW >= WORD_BITS);

/// A sliding window over the packet numbers of one space (data or control) of one direction.
///
/// A number is acceptable if it is greater than every accepted one, or one of the 16,384 up to and
/// with the greatest and not accepted yet. The owner calls [`check`](Self::check) before it opens
/// a frame and [`commit`](Self::commit) only after the tag verified, so that a forged packet number
/// cannot move the window. 2 KiB, allocated once.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// Bit `pn % REPLAY_WINDOW` says whether `pn` was accepted, for each `pn` in the window.
    bits: Box<[u64; WORDS]>,
    /// Greatest accepted number; `None` before the first.
    greatest: Option<u64>,
}

impl ReplayWindow {
    /// A window that has accepted nothing.
    pub fn new() -> ReplayWindow {
        ReplayWindow {
            bits: Box::new([0; WORDS]),
            greatest: None,
        }
    }

    /// Greatest packet number accepted so far.
    pub fn greatest(&self) -> Option<u64> {
        self.greatest
    }

    /// Whether `pn` would be accepted: neither seen nor too old. Changes nothing.
    #[inline]
    pub fn check(&self, pn: u64) -> bool {
        match self.greatest {
            None => true,
            Some(greatest) if pn > greatest => true,
            Some(greatest) => greatest - pn < REPLAY_WINDOW && !self.is_set(pn),
        }
    }

    /// Records `pn`, whose frame has been authenticated. False, with nothing changed, if
    /// [`check`](Self::check) would have refused it.
    #[inline]
    pub fn commit(&mut self, pn: u64) -> bool {
        match self.greatest {
            None => self.greatest = Some(pn),
            Some(greatest) if pn > greatest => {
                self.clear_after(greatest, pn);
                self.greatest = Some(pn);
            }
            Some(greatest) if greatest - pn >= REPLAY_WINDOW || self.is_set(pn) => return false,
            Some(_) => {}
        }
        let (word, bit) = place(pn);
        self.bits[word] |= bit;
        true
    }

    /// [`commit`](Self::commit) for `pn` and the `n - 1` numbers after it.
    #[inline]
    pub fn commit_run(&mut self, pn: u64, n: u64) {
        let last = pn.saturating_add(n.saturating_sub(1));
        match self.greatest {
            // All new, and in one word.
            Some(greatest) if pn > greatest && n > 0 && pn % WORD_BITS + n <= WORD_BITS => {
                self.clear_after(greatest, last);
                self.greatest = Some(last);
                let (word, _) = place(pn);
                self.bits[word] |= u64::MAX >> (WORD_BITS - n) << (pn % WORD_BITS);
            }
            _ => {
                for i in 0..n {
                    self.commit(pn.saturating_add(i));
                }
            }
        }
    }

    #[inline]
    fn is_set(&self, pn: u64) -> bool {
        let (word, bit) = place(pn);
        self.bits[word] & bit != 0
    }

    /// Clears the bits of `greatest + 1 ..= pn`: their places still hold numbers that leave the
    /// window. At most one pass over the 256 words, however far the jump.
    fn clear_after(&mut self, greatest: u64, pn: u64) {
        if pn - greatest >= REPLAY_WINDOW {
            self.bits.fill(0);
            return;
        }
        let mut at = greatest + 1;
        while at <= pn {
            let (word, _) = place(at);
            let first = at % WORD_BITS;
            let count = (WORD_BITS - first).min(pn - at + 1);
            let ones = u64::MAX >> (WORD_BITS - count);
            self.bits[word] &= !(ones << first);
            match at.checked_add(count) {
                Some(after) => at = after,
                None => break,
            }
        }
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow::new()
    }
}

/// Word and bit of `pn`.
#[inline]
fn place(pn: u64) -> (usize, u64) {
    let at = pn % REPLAY_WINDOW;
    ((at / WORD_BITS) as usize, 1 << (at % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The definition, without any arithmetic on bits.
    #[derive(Default)]
    struct Oracle {
        seen: BTreeSet<u64>,
    }

    impl Oracle {
        fn accepts(&self, pn: u64) -> bool {
            let fresh = match self.seen.last() {
                None => true,
                Some(&max) => pn > max || u128::from(pn) + u128::from(REPLAY_WINDOW) > max.into(),
            };
            fresh && !self.seen.contains(&pn)
        }
    }

    fn run(numbers: impl IntoIterator<Item = u64>) {
        let (mut window, mut oracle) = (ReplayWindow::new(), Oracle::default());
        for pn in numbers {
            let expect = oracle.accepts(pn);
            assert_eq!(window.check(pn), expect, "check {pn}");
            assert_eq!(window.commit(pn), expect, "commit {pn}");
            if expect {
                oracle.seen.insert(pn);
            }
            assert!(!window.check(pn), "{pn} twice");
            assert_eq!(window.greatest(), oracle.seen.last().copied());
        }
    }

    #[test]
    fn the_window_holds_exactly_16384_numbers() {
        let mut window = ReplayWindow::new();
        assert!(window.commit(REPLAY_WINDOW));
        assert!(!window.check(0));
        assert!(window.check(1) && window.commit(1) && !window.check(1));
        assert!(window.commit(REPLAY_WINDOW + 2));
        assert!(!window.check(2) && window.check(3));
    }

    #[test]
    fn check_changes_nothing() {
        let mut window = ReplayWindow::new();
        assert!(window.commit(5));
        let before = window.clone();
        assert!(window.check(u64::MAX) && window.check(4) && !window.check(5));
        assert_eq!(window.bits, before.bits);
        assert_eq!(window.greatest, before.greatest);
    }

    #[test]
    fn the_ends_of_the_number_space_are_ordinary() {
        run([0, u64::MAX - 1, u64::MAX, u64::MAX - REPLAY_WINDOW, 0]);
        run([u64::MAX - 200, u64::MAX, u64::MAX - 100, u64::MAX - 200]);
        run([1 << 63, (1 << 63) + 1, (1 << 63) - 1]);
    }

    #[test]
    fn every_jump_clears_what_it_passes() {
        for jump in [
            1,
            63,
            64,
            65,
            4096,
            REPLAY_WINDOW - 1,
            REPLAY_WINDOW,
            REPLAY_WINDOW + 1,
        ] {
            let dense = 0..2 * REPLAY_WINDOW;
            let last = 2 * REPLAY_WINDOW - 1;
            run(dense.chain([last + jump]).chain(last + 1..last + jump));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            start in prop_oneof![Just(0u64), Just(1 << 63), Just(u64::MAX - 40_000), any::<u64>()],
            steps in prop::collection::vec(
                prop_oneof![
                    8 => -70i64..70,
                    4 => -17_000i64..17_000,
                    2 => 16_300i64..16_500,
                    2 => -16_500i64..-16_300,
                    1 => any::<i64>(),
                ],
                1..400,
            ),
        ) {
            let mut at = start;
            run(std::iter::once(start).chain(steps.into_iter().map(move |step| {
                at = at.wrapping_add_signed(step);
                at
            })));
        }

        #[test]
        fn a_run_is_one_number_after_the_other(
            start in prop_oneof![Just(0u64), 0u64..1 << 40],
            steps in prop::collection::vec((-70i64..20_000, 1u64..70), 1..60),
        ) {
            let (mut single, mut runs) = (ReplayWindow::new(), ReplayWindow::new());
            let mut at = start;
            for (step, n) in steps {
                at = at.saturating_add_signed(step);
                (at..at + n).for_each(|pn| { single.commit(pn); });
                runs.commit_run(at, n);
                prop_assert_eq!((&runs.bits, runs.greatest), (&single.bits, single.greatest));
            }
        }
    }
}
