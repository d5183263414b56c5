//! Whether a lane's path keeps the marks of explicit congestion notification, after RFC 9000 section
//! 13.4.2 and appendix A.4.
//!
//! A lane first marks ten data frames ECT(0), *testing*, and then none until it has heard what became
//! of them, *unknown*. The peer counts what it received by codepoint, so the books can be checked exactly:
//!
//! - ECT(0) and CE together are at most what was sent marked;
//! - what came unmarked is at most what was sent unmarked;
//! - ECT(1) is never sent.
//!
//! While they balance and a mark has come through, the path is *capable* and every data frame is
//! marked. Where they do not it has *failed*: a path that clears marks, rewrites them, or drops marked frames.
//! No frame is marked then, and the peer's CE count is not listened to, until another test after
//! ten minutes.

use crate::base::Nanos;
use crate::wire::control::EcnCounts;
use serde::{Deserialize, Serialize};

/// Data frames marked to test a path.
pub const TEST_FRAMES: u64 = 10;
/// After so long a path that failed is tested again, nanoseconds.
pub const RETRY_NS: Nanos = 600_000_000_000;
/// ECT(0) in the two bits of the IP header (RFC 3168).
pub const ECT0: u8 = 2;
/// Congestion experienced, there too.
pub const CE: u8 = 3;

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EcnState {
    /// Switched off.
    #[default]
    Off,
    /// Marked frames are being sent to see what becomes of them.
    Testing,
    /// They are under way.
    Unknown,
    /// Marks come through.
    Capable,
    /// Marks were cleared: frames sent marked came unmarked.
    Bleached,
    /// Marks were changed to what nobody sent.
    Mangled,
    /// Marked frames did not arrive.
    Dropped,
}

/// The state for an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcnStatus {
    /// What is known of the path to the peer.
    pub state: EcnState,
    /// Data frames sent marked ECT(0).
    pub sent: u64,
    /// Of all data frames sent, those that the peer says came marked CE.
    pub ce: u64,
}

/// The validation of one lane's path. No method allocates or panics.
#[derive(Clone, Copy, Debug)]
pub struct Ecn {
    state: EcnState,
    /// Data frames sent marked and unmarked.
    marked: u64,
    unmarked: u64,
    /// Of these, those of the test under way.
    test_left: u64,
    /// Packet number after the last one of the test, and when that was sent.
    test_end: u64,
    test_ended_at: Nanos,
    /// What earlier failed tests left in the peer's counts.
    excused: EcnCounts,
    excused_plain: u64,
    seen: EcnCounts,
    received: u64,
    retry_at: Nanos,
    failures: u64,
}

impl Ecn {
    /// A path of which nothing is known; `on` as the configuration says.
    pub fn new(on: bool) -> Ecn {
        Ecn {
            state: if on { EcnState::Testing } else { EcnState::Off },
            marked: 0,
            unmarked: 0,
            test_left: TEST_FRAMES,
            test_end: 0,
            test_ended_at: 0,
            excused: EcnCounts::default(),
            excused_plain: 0,
            seen: EcnCounts::default(),
            received: 0,
            retry_at: 0,
            failures: 0,
        }
    }

    /// The ECN bits that the next data frame carries.
    #[inline]
    pub fn mark(&self) -> u8 {
        match self.state {
            EcnState::Testing | EcnState::Capable => ECT0,
            _ => 0,
        }
    }

    /// The data frame `pn` left with the bits `mark`, which [`Ecn::mark`] gave when it was claimed:
    /// the test may have ended since.
    #[inline]
    pub fn on_sent(&mut self, now: Nanos, pn: u64, mark: u8) {
        if mark == 0 {
            self.unmarked += 1;
            return;
        }
        self.marked += 1;
        if matches!(self.state, EcnState::Testing | EcnState::Unknown) {
            self.test_left = self.test_left.saturating_sub(1);
            if self.test_left == 0 {
                self.state = EcnState::Unknown;
                self.test_end = pn + 1;
                self.test_ended_at = now;
            }
        }
    }

    /// Whether marks have come through, or may yet: the peer's CE count is to be believed.
    pub fn believes(&self) -> bool {
        self.state == EcnState::Capable
    }

    /// Takes what an acknowledgement says: `largest` packet number received, `received` data frames
    /// in all, and how these were marked. `patience` is how long after the test its last frame may
    /// still be under way, nanoseconds. Says whether the path failed just now.
    pub fn on_ack(
        &mut self,
        now: Nanos,
        largest: u64,
        received: u64,
        counts: EcnCounts,
        patience: Nanos,
    ) -> bool {
        if self.state == EcnState::Off || received < self.received || received == 0 {
            return false;
        }
        (self.received, self.seen) = (received, counts);
        if self.failed() {
            if now >= self.retry_at {
                self.test_again();
            }
            return false;
        }
        let ours = counts.ect0.saturating_add(counts.ce);
        let all = ours.saturating_add(counts.ect1);
        let plain = received.saturating_sub(all);
        if counts.ect1 > self.excused.ect1 || all > received || ours > self.marked_in_all() {
            return self.fail(now, EcnState::Mangled);
        }
        if plain > self.unmarked + self.excused_plain {
            return self.fail(now, EcnState::Bleached);
        }
        let through = ours > self.excused.ect0.saturating_add(self.excused.ce);
        if self.state == EcnState::Unknown {
            if through {
                self.state = EcnState::Capable;
            } else if largest >= self.test_end && now >= self.test_ended_at.saturating_add(patience)
            {
                // Either they are missing, or they came without their marks.
                let missing = largest.saturating_add(1).saturating_sub(received);
                let why = match missing >= TEST_FRAMES {
                    true => EcnState::Dropped,
                    false => EcnState::Bleached,
                };
                return self.fail(now, why);
            }
        }
        false
    }

    fn marked_in_all(&self) -> u64 {
        let strange = self.excused.ect0.saturating_add(self.excused.ce);
        self.marked.saturating_add(strange)
    }

    fn failed(&self) -> bool {
        use EcnState::{Bleached, Dropped, Mangled};
        matches!(self.state, Bleached | Dropped | Mangled)
    }

    fn fail(&mut self, now: Nanos, why: EcnState) -> bool {
        self.state = why;
        self.failures += 1;
        self.retry_at = now.saturating_add(RETRY_NS);
        true
    }

    fn test_again(&mut self) {
        self.state = EcnState::Testing;
        self.test_left = TEST_FRAMES;
        let all = self.seen.ect0.saturating_add(self.seen.ect1);
        let plain = self
            .received
            .saturating_sub(all.saturating_add(self.seen.ce));
        // What of the earlier marked frames is still out may come back with any mark.
        self.excused = self.seen;
        self.excused_plain = plain.saturating_sub(self.unmarked);
    }

    /// For an operator.
    pub fn status(&self) -> EcnStatus {
        EcnStatus {
            state: self.state,
            sent: self.marked,
            ce: self.seen.ce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    /// What a path does to the mark of a frame: `None` drops it.
    type Fate = fn(pn: u64, bits: u8) -> Option<u8>;

    /// Sends `frames` over a path that does `fate`, one each 100 us, acknowledged in eights after
    /// 5 ms; gives the machine and the number of failures it reported.
    fn drive(e: &mut Ecn, from: u64, frames: u64, seen: &mut (u64, EcnCounts), fate: Fate) -> u32 {
        let mut failures = 0;
        let mut under_way = std::collections::VecDeque::new();
        for pn in from..from + frames {
            let now = pn * 100_000;
            let bits = e.mark();
            e.on_sent(now, pn, bits);
            under_way.push_back((pn, fate(pn, bits)));
            while under_way.len() > 50 {
                let (pn, bits) = under_way.pop_front().expect("not empty");
                let Some(bits) = bits else { continue };
                seen.0 += 1;
                match bits {
                    1 => seen.1.ect1 += 1,
                    2 => seen.1.ect0 += 1,
                    3 => seen.1.ce += 1,
                    _ => {}
                }
                if pn % 8 == 0 {
                    failures += u32::from(e.on_ack(now, pn, seen.0, seen.1, 30 * MS));
                }
            }
        }
        failures
    }

    fn after(frames: u64, fate: Fate) -> (Ecn, u32) {
        let mut e = Ecn::new(true);
        let failures = drive(&mut e, 0, frames, &mut Default::default(), fate);
        (e, failures)
    }

    #[test]
    fn a_path_that_keeps_marks_is_capable_after_a_round_trip() {
        let (e, failures) = after(5000, |_, bits| Some(bits));
        assert_eq!((e.status().state, failures), (EcnState::Capable, 0));
        // All but those of the first round trip.
        assert!(e.status().sent > 4900 && e.status().sent < 4970);
    }

    #[test]
    fn marks_and_losses_do_not_disturb() {
        let (e, failures) = after(20_000, |pn, bits| match (pn % 7, pn % 5) {
            (0, _) => None,
            (_, 0) if bits == 2 => Some(3),
            _ => Some(bits),
        });
        assert_eq!((e.status().state, failures), (EcnState::Capable, 0));
        assert!(e.status().ce > 2000 && e.believes());
    }

    #[test]
    fn a_path_that_clears_marks_is_found_by_the_test() {
        let (e, failures) = after(2000, |_, _| Some(0));
        assert_eq!((e.status().state, failures), (EcnState::Bleached, 1));
        assert_eq!((e.mark(), e.status().sent), (0, TEST_FRAMES));
    }

    #[test]
    fn a_path_that_rewrites_marks_fails() {
        let (e, failures) = after(2000, |_, bits| Some(if bits == 2 { 1 } else { bits }));
        assert_eq!((e.status().state, failures), (EcnState::Mangled, 1));
        assert!(!e.believes() && e.mark() == 0);
    }

    #[test]
    fn a_path_that_drops_marked_frames_costs_ten_frames() {
        let (e, failures) = after(2000, |_, bits| (bits == 0).then_some(0));
        assert_eq!((e.status().state, failures), (EcnState::Dropped, 1));
        assert_eq!(e.status().sent, TEST_FRAMES);
    }

    #[test]
    fn a_path_that_turns_bad_is_noticed() {
        let (mut e, mut seen) = (Ecn::new(true), Default::default());
        assert_eq!(drive(&mut e, 0, 2000, &mut seen, |_, b| Some(b)), 0);
        assert_eq!(e.status().state, EcnState::Capable);
        assert_eq!(drive(&mut e, 2000, 2000, &mut seen, |_, _| Some(0)), 1);
        assert_eq!(e.status().state, EcnState::Bleached);
    }

    #[test]
    fn after_ten_minutes_the_path_is_tested_again() {
        let (mut e, mut seen) = (Ecn::new(true), Default::default());
        drive(&mut e, 0, 2000, &mut seen, |_, _| Some(0));
        assert_eq!(e.status().state, EcnState::Bleached);
        let later = RETRY_NS / 100_000 + 4000;
        // Still bad: ten more frames marked, and found out again.
        assert_eq!(drive(&mut e, later, 2000, &mut seen, |_, _| Some(0)), 1);
        assert_eq!(e.status().sent, 2 * TEST_FRAMES);
        let later = 2 * later;
        assert_eq!(drive(&mut e, later, 2000, &mut seen, |_, b| Some(b)), 0);
        assert_eq!(e.status().state, EcnState::Capable);
    }

    #[test]
    fn a_peer_that_reports_nothing_counts_as_a_path_that_clears() {
        let mut e = Ecn::new(true);
        for pn in 0..20 {
            e.on_sent(0, pn, e.mark());
        }
        assert!(e.on_ack(MS, 19, 20, EcnCounts::default(), MS));
        assert_eq!(e.status().state, EcnState::Bleached);
    }

    #[test]
    fn absurd_counts_do_not_overflow_and_old_ones_are_ignored() {
        let counts = EcnCounts {
            ect0: u64::MAX,
            ect1: u64::MAX,
            ce: u64::MAX,
        };
        let mut e = Ecn::new(true);
        e.on_sent(0, 0, ECT0);
        assert!(e.on_ack(u64::MAX, u64::MAX, u64::MAX, counts, u64::MAX));
        assert!(!e.on_ack(0, 0, 5, EcnCounts::default(), 0));
        let mut off = Ecn::new(false);
        off.on_sent(0, 0, 0);
        assert!(!off.on_ack(0, 0, 1, counts, 0) && off.mark() == 0);
    }
}
