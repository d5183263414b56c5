//! What an acknowledgement means: completed slots, lost frames, owed symbols.

use super::{AckOutcome, AckReject, LaneTx};
use crate::base::limits::{BASE_SYMBOL_LEN, MAX_DEFICITS, WINDOW_SLOTS};
use crate::base::seq::class;
use crate::base::{Bits96, Nanos};
use crate::proto::path::LaneAck;
use crate::wire::ack::Ack;

/// Deficits above this are answered with the missing data itself: the report names it, and it costs
/// neither encoding nor decoding. Small ones take repair symbols, which fill any hole.
const REPAIR_DEFICIT_MAX: usize = 16;

impl LaneTx {
    /// Takes an acknowledgement from the authenticated peer; calls `newly_complete` once for each
    /// slot that it completes, in rising order. Where [`AckOutcome::rejected`] is set the
    /// peer breaks the protocol and nothing was changed.
    pub fn on_ack(
        &mut self,
        now: Nanos,
        ack: &Ack,
        mut newly_complete: impl FnMut(u64),
    ) -> AckOutcome {
        self.grant.frames = 0;
        if let Err(reason) = self.check(ack) {
            self.stats.rejected_acks += 1;
            return AckOutcome {
                rejected: Some(reason),
                ..AckOutcome::default()
            };
        }
        if self.is_stale(ack) {
            self.stats.stale_acks += 1;
            return AckOutcome {
                stale: true,
                ..AckOutcome::default()
            };
        }
        self.stats.acks += 1;
        self.credit = self.credit.max(ack.credit);
        let prior_in_flight = self.in_flight();
        let mut out = AckOutcome {
            acked_slots: self.complete(now, ack, &mut newly_complete),
            ..AckOutcome::default()
        };
        if ack.received > 0 {
            self.take_numbers(now, ack, prior_in_flight, &mut out);
            self.take_reports(ack);
        }
        self.inflight_limit = self.on_wire.limit(u64::from(ack.inflight_limit));
        // Any word from the peer ends the silence that backoff is for.
        self.pto_count = 0;
        self.pto_base = now;
        self.probes = 0;
        self.evaluate(now);
        out
    }

    fn check(&self, ack: &Ack) -> Result<(), AckReject> {
        if ack.received > 0 {
            if ack.largest_pn >= self.log.next_pn() {
                return Err(AckReject::LargestPn);
            }
            if ack.received > ack.largest_pn + 1 {
                return Err(AckReject::Received);
            }
        }
        if ack.base > self.next_slot {
            return Err(AckReject::Complete);
        }
        let top = ack
            .complete
            .highest()
            .map_or(ack.base, |i| ack.base + i as u64 + 1);
        if top > self.next_slot {
            return Err(AckReject::Complete);
        }
        for slot in self.base..top {
            let c = class(slot, WINDOW_SLOTS);
            let claimed = slot < ack.base || ack.complete.contains((slot - ack.base) as usize);
            if claimed && !self.done.contains(c) && !self.metas[c].fully_sent() {
                return Err(AckReject::Complete);
            }
        }
        if ack.credit > ack.base + self.window {
            return Err(AckReject::Credit);
        }
        Ok(())
    }

    /// Everything in an acknowledgement only grows, so one that is lower anywhere is older.
    fn is_stale(&self, ack: &Ack) -> bool {
        let older = self.loss.largest().is_some_and(|l| ack.largest_pn < l);
        older || ack.base < self.base || ack.received < self.loss.received()
    }

    fn complete(&mut self, now: Nanos, ack: &Ack, newly_complete: &mut impl FnMut(u64)) -> u32 {
        let (mut n, mut spurious) = (0, false);
        for slot in self.base..self.next_slot {
            let c = class(slot, WINDOW_SLOTS);
            let claimed = slot < ack.base || ack.complete.contains((slot - ack.base) as usize);
            if claimed && self.done.insert(c) {
                self.owing.remove(c);
                // Complete sooner than the answer to its deficit could arrive: it needed none.
                let m = &self.metas[c];
                spurious |= m.rounds > 1 && now < m.round_sent_at.saturating_add(self.rtt.min());
                self.note_large(c);
                newly_complete(slot);
                n += 1;
            }
        }
        while self.base < self.next_slot && self.done.contains(class(self.base, WINDOW_SLOTS)) {
            self.done.remove(class(self.base, WINDOW_SLOTS));
            self.base += 1;
        }
        self.cur = self.cur.max(self.base);
        if spurious {
            self.stats.spurious += 1;
            self.loss.spurious();
        }
        self.stats.acked_slots += u64::from(n);
        n
    }

    fn take_numbers(&mut self, now: Nanos, ack: &Ack, prior_in_flight: u64, out: &mut AckOutcome) {
        let advanced = self.loss.largest().is_none_or(|l| ack.largest_pn > l);
        let loss_delay = self.loss_delay();
        let healed = self.loss.healed;
        let (fresh, lost) = self
            .loss
            .on_ack(now, ack.largest_pn, ack.received, loss_delay);
        self.note_judged();
        self.repair.on_healed(self.loss.healed - healed);
        let acked = self.log.on_acked(ack.largest_pn, fresh);
        if let Some((sent_at, _)) = acked.sent.filter(|_| advanced) {
            let sample = now.saturating_sub(sent_at);
            let delay = u64::from(ack.delay_us) * 1000;
            out.rtt_sample = Some(self.rtt.update(sample, delay));
            self.pacer.set_rtt(self.rtt.min());
        }
        if self.rtt.has_sample() {
            let min_rtt = self.rtt.min();
            self.on_wire.on_delivered(now, acked.bytes, min_rtt);
        }
        out.lost_frames = lost;
        self.stats.lost_frames += lost;
        // A counter that runs backwards, or faster than frames do, is nonsense: ignore it.
        let ce = u64::from(ack.ce.wrapping_sub(self.ce));
        self.ce = ack.ce;
        let lane_ack = LaneAck {
            now,
            acked_bytes: acked.bytes,
            acked_frames: fresh,
            lost_frames: lost,
            ce_frames: if ce <= fresh { ce } else { 0 },
            rtt: out.rtt_sample,
            sent: acked.sent,
            prior_in_flight,
            in_flight: self.in_flight(),
        };
        self.path.on_ack(&lane_ack, self.log.bytes_sent());
    }

    pub(super) fn note_judged(&mut self) {
        let (frames, lost) = self.loss.take_judged();
        self.repair.on_frames(frames, lost);
    }

    /// Fewer than 16 reports cover every slot; 16 cover those from the first to the last of them.
    fn take_reports(&mut self, ack: &Ack) {
        let mut reports = ack.reports().iter().peekable();
        let (from, to) = match ack.reports() {
            [first, .., last] if ack.reports().len() == MAX_DEFICITS => (
                ack.base + u64::from(first.offset),
                ack.base + u64::from(last.offset),
            ),
            _ => (ack.base, u64::MAX),
        };
        for slot in self.base..self.cur {
            let c = class(slot, WINDOW_SLOTS);
            while reports
                .peek()
                .is_some_and(|r| ack.base + u64::from(r.offset) < slot)
            {
                reports.next();
            }
            let report = reports
                .peek()
                .filter(|r| ack.base + u64::from(r.offset) == slot);
            if self.done.contains(c) || !(from..=to).contains(&slot) {
                continue;
            }
            let m = &mut self.metas[c];
            let sent = Bits96::first(m.k as usize + m.repair_used as usize);
            let held = m.have.len();
            m.have = report.map_or(Bits96::EMPTY, |r| r.have.and(sent));
            m.report_pn = Some(ack.largest_pn);
            if m.have.len() > held {
                self.note_large(c);
            }
        }
    }

    /// Makes each slot whose round is settled owe what it lacks.
    pub(super) fn evaluate(&mut self, now: Nanos) {
        self.slot_timer = None;
        let loss_delay = self.loss_delay();
        for slot in self.base..self.cur {
            let c = class(slot, WINDOW_SLOTS);
            if self.done.contains(c) || self.owing.contains(c) {
                continue;
            }
            let m = &self.metas[c];
            let Some(report_pn) = m.report_pn.filter(|&pn| pn >= m.round_last_pn) else {
                continue;
            };
            let due = m.round_sent_at.saturating_add(loss_delay);
            if report_pn >= m.round_last_pn + self.loss.reorder() || now >= due {
                self.owe(c);
            } else {
                self.slot_timer = Some(self.slot_timer.map_or(due, |t| t.min(due)));
            }
        }
    }

    /// More of the slot has arrived: if its symbols went in full-size frames, these pass.
    fn note_large(&mut self, c: usize) {
        let m = &self.metas[c];
        if !m.in_parts && usize::from(m.symbol_len) > BASE_SYMBOL_LEN {
            self.large_since = None;
        }
    }

    fn owe(&mut self, c: usize) {
        let p = self.repair.loss().min(0.9);
        let extra = usize::from(self.plan().extra);
        let m = &mut self.metas[c];
        // An honest receiver with k symbols says "complete"; one more symbol costs little.
        let deficit = (m.k as usize).saturating_sub(m.have.len()).max(1);
        let mut owed = deficit + extra;
        // Above a few lost answers the plan's few extra symbols no longer cover them.
        let expected = (deficit as f32 * p / (1.0 - p)) as usize;
        owed += expected.saturating_sub(extra);
        // Each further round doubles nothing but adds a little, so that the tail is short.
        owed += (m.rounds.saturating_sub(2) as usize).min(4);
        let missing = m.missing();
        let repair = if deficit > REPAIR_DEFICIT_MAX {
            0
        } else {
            owed.min(m.repair_left())
        };
        m.owed_repair = repair as u8;
        m.owed_data = Bits96::EMPTY;
        for i in missing.iter().take(owed - repair) {
            m.owed_data.insert(i);
        }
        if m.owes() {
            self.owing.insert(c);
        }
    }
}
