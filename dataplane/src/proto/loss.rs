//! How many frames are lost, from two numbers of an acknowledgement: the newest packet number that
//! arrived and how many arrived in all.

use crate::base::Nanos;
use crate::base::limits::REPLAY_WINDOW;

/// Packet reordering threshold, RFC 9002 section 6.1.1.
const REORDER_MIN: u64 = 3;
/// The threshold never adapts beyond this: what is later than the replay window is refused.
const REORDER_MAX: u64 = REPLAY_WINDOW / 2;
/// Nor the time threshold beyond a round trip and so many eighths.
const PATIENCE_MAX: u64 = 7;
/// They fall again when so many frames have come without one that was too late.
const CALM_FRAMES: u64 = 65_536;
/// Time constant of the smoothed loss, frames.
const SMOOTH_FRAMES: f32 = 512.0;

/// Counts lost frames of one lane.
///
/// `gap = largest + 1 - received` frames below the newest are missing. They count as lost once
/// frames sent a reordering threshold later have arrived, or after 9/8 of a round trip; when late
/// frames arrive after all, the count falls again and the threshold doubles.
#[derive(Clone, Copy, Debug)]
pub(super) struct LossCounter {
    any: bool,
    largest: u64,
    received: u64,
    lost: u64,
    /// Frames written off without any word from the peer, see [`LossCounter::write_off`].
    gone_floor: u64,
    snap_largest: u64,
    snap_gap: u64,
    snap_at: Nanos,
    reorder: u64,
    /// Eighths of a round trip that frames are waited for beyond 9/8 of it.
    patience: u64,
    /// Frames received when one of the two last changed.
    changed_at: u64,
    smoothed: f32,
    pub(super) healed: u64,
    /// Packet numbers below this were judged, and what came of those since
    /// [`LossCounter::take_judged`].
    judged_below: u64,
    judged: (u64, u64),
}

impl LossCounter {
    pub(super) fn new() -> LossCounter {
        LossCounter {
            any: false,
            largest: 0,
            received: 0,
            lost: 0,
            gone_floor: 0,
            snap_largest: 0,
            snap_gap: 0,
            snap_at: 0,
            reorder: REORDER_MIN,
            patience: 0,
            changed_at: 0,
            smoothed: 0.0,
            healed: 0,
            judged_below: 0,
            judged: (0, 0),
        }
    }

    /// Newest packet number that arrived; `None` before the first.
    pub(super) fn largest(&self) -> Option<u64> {
        self.any.then_some(self.largest)
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Reordering threshold in packets.
    pub(super) fn reorder(&self) -> u64 {
        self.reorder
    }

    /// Age at which a frame older than an acknowledged one is lost, from the round trip (9/8 of it, RFC
    /// 9002 section 6.1.2): more after answers that turned out to be spurious, up to twice the round
    /// trip, as RACK's reordering window grows (RFC 8985 section 6.2).
    pub(super) fn delay(&self, rtt: Nanos) -> Nanos {
        rtt.saturating_add(rtt / 8 * (1 + self.patience))
    }

    /// What was sent again was only late.
    pub(super) fn spurious(&mut self) {
        self.patience = (self.patience + 1).min(PATIENCE_MAX);
        self.changed_at = self.received;
    }

    /// Smoothed share of frames lost, 0..=1.
    pub(super) fn rate(&self) -> f32 {
        self.smoothed
    }

    fn gap(&self) -> u64 {
        if self.any {
            (self.largest + 1).saturating_sub(self.received)
        } else {
            0
        }
    }

    /// Frames in flight of `sent`.
    pub(super) fn in_flight(&self, sent: u64) -> u64 {
        sent.saturating_sub((self.received + self.lost).max(self.gone_floor))
    }

    /// Takes numbers that were checked against what was sent and never run backwards. Gives frames
    /// (newly received, newly lost).
    pub(super) fn on_ack(
        &mut self,
        now: Nanos,
        largest: u64,
        received: u64,
        loss_delay: Nanos,
    ) -> (u64, u64) {
        let fresh = received.saturating_sub(self.received);
        self.any = true;
        self.largest = largest;
        self.received = received;
        let gap = self.gap();
        if gap < self.lost {
            let healed = self.lost - gap;
            self.healed += healed;
            self.lost = gap;
            self.reorder = (self.reorder * 2).min(REORDER_MAX);
            self.changed_at = received;
        } else if received.saturating_sub(self.changed_at) >= CALM_FRAMES {
            self.reorder = (self.reorder / 2).max(REORDER_MIN);
            self.patience = self.patience.saturating_sub(1);
            self.changed_at = received;
        }
        self.snap_gap = self.snap_gap.min(gap);
        let lost = self.confirm(now, loss_delay);
        if self.snap_gap <= self.lost && gap > self.lost {
            // The gap appears here: threshold and time run from now.
            (self.snap_largest, self.snap_gap, self.snap_at) = (largest, gap, now);
        }
        let n = (fresh + lost) as f32;
        if n > 0.0 {
            let w = (n / SMOOTH_FRAMES).min(1.0);
            self.smoothed += (lost as f32 / n - self.smoothed) * w;
        }
        (fresh, lost)
    }

    /// Counts what became certain by now; gives frames newly lost.
    pub(super) fn confirm(&mut self, now: Nanos, loss_delay: Nanos) -> u64 {
        let gap = self.gap();
        let packets = self.largest >= self.snap_largest + self.reorder;
        let time = now >= self.snap_at.saturating_add(loss_delay);
        if !packets && !time {
            return 0;
        }
        // What was missing at the snapshot and still is. By time alone nothing newer counts.
        let sure = self.snap_gap.min(gap);
        let lost = sure.saturating_sub(self.lost);
        self.lost += lost;
        self.judged.0 += (self.snap_largest + 1).saturating_sub(self.judged_below);
        self.judged.1 += lost;
        self.judged_below = self.judged_below.max(self.snap_largest + 1);
        self.snap_largest = self.largest;
        self.snap_gap = gap;
        self.snap_at = now;
        lost
    }

    /// Frames whose fate became certain since the last call, and how many of them were lost. Both are of
    /// the same frames, in whatever lumps they come.
    pub(super) fn take_judged(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.judged)
    }

    /// When [`LossCounter::confirm`] will next count something, if nothing arrives.
    pub(super) fn timer(&self, loss_delay: Nanos) -> Option<Nanos> {
        (self.gap() > self.lost).then(|| self.snap_at.saturating_add(loss_delay))
    }

    /// Everything sent so far is no longer in flight, whatever became of it: every slot is
    /// complete, and a probe timeout passed.
    pub(super) fn write_off(&mut self, sent: u64) {
        self.gone_floor = sent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_count_after_the_threshold_and_heal() {
        let mut c = LossCounter::new();
        assert_eq!(c.on_ack(0, 9, 10, 1000), (10, 0));
        // 10..=12 missing, 13 arrived: not yet lost.
        assert_eq!(c.on_ack(10, 13, 11, 1000), (1, 0));
        assert_eq!(c.in_flight(20), 9);
        // Three newer ones arrived: lost.
        assert_eq!(c.on_ack(20, 16, 14, 1000), (3, 3));
        assert_eq!(c.in_flight(20), 3);
        // One of them was only late.
        assert_eq!(c.on_ack(30, 16, 15, 1000), (1, 0));
        assert_eq!((c.healed, c.in_flight(20), c.reorder()), (1, 3, 6));
    }

    #[test]
    fn time_alone_confirms_a_tail() {
        let mut c = LossCounter::new();
        c.on_ack(0, 9, 10, 1000);
        c.on_ack(10, 11, 11, 1000);
        assert_eq!(c.timer(1000), Some(1010));
        assert_eq!(c.confirm(1009, 1000), 0);
        assert_eq!(c.confirm(1010, 1000), 1);
        assert_eq!(c.timer(1000), None);
        assert_eq!(c.in_flight(12), 0);
    }

    #[test]
    fn a_write_off_empties_the_flight_and_later_acks_take_over() {
        let mut c = LossCounter::new();
        c.on_ack(0, 4, 5, 1000);
        c.write_off(10);
        assert_eq!(c.in_flight(10), 0);
        assert_eq!(c.in_flight(14), 4);
        c.on_ack(9000, 13, 9, 1000);
        c.confirm(20_000, 1000);
        assert_eq!(c.in_flight(14), 0);
    }
}
