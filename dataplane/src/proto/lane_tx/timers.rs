//! The timers of a lane's sender: loss, probe timeout (RFC 9002 section 6.2) and pace.

use super::{Blocked, LaneTx};
use crate::base::Nanos;
use crate::base::limits::{ACK_DELAY_NS, ACK_QUIET_NS, WINDOW_SLOTS};
use crate::base::seq::class;
use crate::proto::path::LaneAck;
use crate::proto::rtt::MAX_PTO_NS;

/// What the peer's acknowledgements may wait when sending stops at the end of a slot (its timer, and
/// as long again where its core is busy), and in the middle of one, nanoseconds.
const PEER_DELAY_NS: (Nanos, Nanos) = (2 * ACK_DELAY_NS, ACK_QUIET_NS + ACK_DELAY_NS);

impl LaneTx {
    fn pto(&self) -> Nanos {
        let pto = self.base_pto();
        pto.saturating_mul(1 << self.pto_count.min(20))
            .min(MAX_PTO_NS.max(pto))
    }

    /// The probe timeout without backoff, nanoseconds.
    pub fn base_pto(&self) -> Nanos {
        self.rtt.pto(match self.in_slot() {
            false => PEER_DELAY_NS.0,
            true => PEER_DELAY_NS.1,
        })
    }

    pub(super) fn loss_delay(&self) -> Nanos {
        self.loss.delay(self.rtt.recent())
    }

    /// Whether a slot has begun to leave and has not ended.
    fn in_slot(&self) -> bool {
        self.cur < self.next_slot && self.metas[class(self.cur, WINDOW_SLOTS)].next_first > 0
    }

    /// Whether something unanswered is out, or the peer's silence on credit holds everything up.
    fn waits(&self) -> bool {
        let sent = self.cur > self.base || self.in_slot();
        sent || self.credit_blocked() || self.loss.in_flight(self.log.next_pn()) > 0
    }

    fn credit_blocked(&self) -> bool {
        self.cur < self.next_slot && self.cur >= self.credit
    }

    fn pto_at(&self) -> Option<Nanos> {
        let base = self.pto_base.max(self.log.last_sent_at());
        self.waits().then(|| base.saturating_add(self.pto()))
    }

    /// When [`LaneTx::on_timeout`] or [`LaneTx::poll_send`] should be called again, if nothing
    /// arrives; `now` or earlier means at once.
    pub fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        let pace = match self.blocked {
            Blocked::Pacer => Some(self.pacer.next_burst(self.path.pacing_rate())),
            Blocked::No if self.cur < self.next_slot || !self.owing.is_empty() => Some(now),
            _ => None,
        };
        let probes = (self.probes > 0).then_some(now);
        let loss = self.loss.timer(self.loss_delay());
        [pace, probes, loss, self.slot_timer, self.pto_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Runs every timer that is due by `now`.
    pub fn on_timeout(&mut self, now: Nanos) {
        self.grant.frames = 0;
        let loss_delay = self.loss_delay();
        if self.loss.timer(loss_delay).is_some_and(|t| t <= now) {
            let lost = self.loss.confirm(now, loss_delay);
            if lost > 0 {
                self.stats.lost_frames += lost;
                self.note_judged();
                let in_flight = self.in_flight();
                let ack = LaneAck {
                    now,
                    lost_frames: lost,
                    prior_in_flight: in_flight,
                    in_flight,
                    ..LaneAck::default()
                };
                self.path.on_ack(&ack, self.log.bytes_sent());
            }
        }
        if self.slot_timer.is_some_and(|t| t <= now) {
            self.evaluate(now);
        }
        if self.pto_at().is_some_and(|t| t <= now) {
            self.on_pto(now);
        }
    }

    fn on_pto(&mut self, now: Nanos) {
        self.skip_done();
        let incomplete =
            self.cur > self.base || self.cur < self.next_slot && self.cur < self.credit;
        if !incomplete && !self.credit_blocked() {
            // Only symbols that nobody needs any more are out; no answer to them is owed.
            self.loss.write_off(self.log.next_pn());
            return;
        }
        self.stats.pto_fired += 1;
        self.pto_count = self.pto_count.saturating_add(1);
        self.pto_base = now;
        self.path.on_pto(now, self.pto_count, self.rtt.smoothed());
        if incomplete {
            self.probes = if self.pto_count > 1 { 2 } else { 1 };
        } else {
            self.ping_owed = true;
        }
    }

    /// Whether the engine should send a ping now: credit is used up and nothing is in flight that
    /// would bring an acknowledgement. Asking clears it.
    pub fn take_ping_owed(&mut self) -> bool {
        std::mem::take(&mut self.ping_owed)
    }
}
