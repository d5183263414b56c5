//! The bounds of the model: long-term on what may be in flight, short-term on rate and flight.

use super::{AckSample, Bbr};
use crate::base::Nanos;

/// Cut of a bound on congestion (BBRv3's beta).
const BETA: f64 = 0.7;
/// Share of the long-term bound that cruising leaves to others.
const HEADROOM: f64 = 0.15;
/// Weight of a round in the share of marked frames, and how much of it cuts the flight.
const ECN_GAIN: f64 = 1.0 / 16.0;
const ECN_FACTOR: f64 = 1.0 / 3.0;
/// Share of marked frames of a round that counts like loss.
const ECN_THRESHOLD: f64 = 0.5;
/// Paths shorter than this have round trips that say more of the hosts than of queues, ns.
pub(super) const QUEUE_MIN_RTT_NS: Nanos = 900_000;
/// What hosts and delayed acknowledgements may add to a round trip without its being called a queue that
/// stands, ns, and what they may add to the shortest of a whole round.
const QUEUE_SLACK_NS: Nanos = 2_000_000;
const ROUND_SLACK_NS: Nanos = 125_000;
/// Frames of a round with fewer of which its rate says little.
const SURE_FRAMES: u64 = 32;
/// A standing queue lowers the rate to this at once, at most: what a round delivers while another sender
/// probes says little of this one's share.
const QUEUE_CUT: f64 = 0.85;
/// Where that drained it, and the rate is lower than this by then, the next try for more comes after so many
/// rounds and up to as many again: if it was another sender's queue, that is how the share comes back.
const GAVE_WAY: f64 = 0.95;
pub(super) const RETRY_ROUNDS: u64 = 8;
/// Our own queue drains in so many times the time that what is in flight takes.
const DRAIN_TIMES: u64 = 2;

#[derive(Debug)]
pub(super) struct Bounds {
    /// Most bytes in flight that did not congest the path.
    pub(super) inflight_hi: u64,
    /// The same, and rate, between congestion and the next probing.
    pub(super) inflight_lo: u64,
    pub(super) bw_lo: u64,
    bw_latest: u64,
    inflight_latest: u64,
    /// Smoothed share of marked frames, at rounds that had any.
    ecn_alpha: f64,
    ecn_acked: u64,
    ecn_marked: u64,
    /// Share of marked frames in the round that just ended.
    ecn_round: f64,
    heavy_rounds: u32,
    /// Shortest round trip of this round and of the last whole one.
    round_rtt: [Nanos; 2],
    /// Since when every round trip was long; whether that was acted on in this round.
    long_since: Option<Nanos>,
    queue_seen: bool,
    /// What the rate was before a queue lowered it, and until when that must have shown.
    before_queue: Option<(u64, Nanos)>,
    /// Others hold the queue: it says nothing of the path's rate.
    contended: bool,
}

impl Bounds {
    pub(super) fn new() -> Bounds {
        Bounds {
            inflight_hi: u64::MAX,
            inflight_lo: u64::MAX,
            bw_lo: u64::MAX,
            bw_latest: 0,
            inflight_latest: 0,
            ecn_alpha: 1.0,
            ecn_acked: 0,
            ecn_marked: 0,
            ecn_round: 0.0,
            heavy_rounds: 0,
            round_rtt: [Nanos::MAX; 2],
            long_since: None,
            queue_seen: false,
            before_queue: None,
            contended: false,
        }
    }

    /// Takes in rate, marks and round trip of one acknowledgement.
    pub(super) fn observe(&mut self, s: &AckSample, round_start: bool) {
        self.ecn_acked += s.acked_frames;
        self.ecn_marked += s.ce_frames;
        if round_start {
            self.ecn_round = (self.ecn_marked as f64 / self.ecn_acked.max(1) as f64).min(1.0);
            (self.ecn_acked, self.ecn_marked) = (0, 0);
            self.ecn_alpha += (self.ecn_round - self.ecn_alpha) * ECN_GAIN;
            self.heavy_rounds = match self.ecn_round >= ECN_THRESHOLD {
                true => self.heavy_rounds.saturating_add(1),
                false => 0,
            };
            self.queue_seen = false;
            self.round_rtt = [Nanos::MAX, self.round_rtt[0]];
            // The signals of the round begin with this very sample.
            (self.bw_latest, self.inflight_latest) = (0, 0);
        }
        self.round_rtt[0] = self.round_rtt[0].min(s.rtt.unwrap_or(Nanos::MAX));
        self.bw_latest = self.bw_latest.max(s.rate.unwrap_or(0));
        let round = s.delivered.saturating_sub(s.prior_delivered);
        if s.prior_delivered > 0 {
            self.inflight_latest = self.inflight_latest.max(round);
        }
    }

    /// Whether throughout the last round a queue stood that is more than `near` or, on long paths, an
    /// eighth of the product; `near` is a quarter of the longest seen, as time.
    pub(super) fn crowded(&self, min_rtt: Option<Nanos>, near: Nanos) -> bool {
        min_rtt.is_some_and(|m| {
            let last = self.round_rtt[1];
            let limit = near.min(m / 8).max(ROUND_SLACK_NS);
            m >= QUEUE_MIN_RTT_NS && last != Nanos::MAX && last > m + limit
        })
    }

    /// Whether a queue of half the path's product has stood for a quarter of a round trip; once a
    /// round.
    pub(super) fn queued(&mut self, s: &AckSample, min_rtt: Option<Nanos>) -> bool {
        let (Some(rtt), Some(min)) = (s.rtt, min_rtt) else {
            return false;
        };
        if min < QUEUE_MIN_RTT_NS || rtt < min + min / 2 + QUEUE_SLACK_NS {
            self.long_since = None;
            self.contended &= rtt > min + min / 4;
            return false;
        }
        let since = *self.long_since.get_or_insert(s.now);
        let stands = s.now.saturating_sub(since) >= min / 4 && !self.queue_seen && !self.contended;
        self.queue_seen |= stands;
        stands
    }

    /// Two rounds in which half of the frames were marked.
    pub(super) fn heavily_marked(&self) -> bool {
        self.heavy_rounds >= 2
    }

    pub(super) fn with_headroom(&self) -> u64 {
        if self.inflight_hi == u64::MAX {
            return u64::MAX;
        }
        (self.inflight_hi as f64 * (1.0 - HEADROOM)) as u64
    }

    /// Startup ended by congestion: what was delivered in a round trip is what the path holds.
    pub(super) fn after_startup(&mut self, s: &AckSample) {
        let round = s.delivered.saturating_sub(s.prior_delivered);
        self.inflight_hi = round.max(self.inflight_latest);
    }

    /// Probing begins: short-term bounds are lifted.
    pub(super) fn lift(&mut self) {
        (self.inflight_lo, self.bw_lo) = (u64::MAX, u64::MAX);
    }
}

impl Bbr {
    /// Congestion while probing or after: the bound on what may be in flight falls.
    pub(super) fn inflight_too_high(&mut self, s: &AckSample) {
        let target = self.bdp(self.bandwidth(), 1.0);
        let floor = ((target as f64 * BETA) as u64).max(self.min_cwnd());
        let flight = s.prior_in_flight.min(self.bounds.inflight_hi);
        self.bounds.inflight_hi = match s.app_limited {
            true => self.bounds.inflight_hi,
            false => flight.max(floor),
        };
    }

    /// Looks whether a lowered rate has drained the queue.
    pub(super) fn check_drained(&mut self, s: &AckSample) {
        let (Some((bw, until)), Some(rtt)) = (self.bounds.before_queue, s.rtt) else {
            return;
        };
        if rtt < self.rtt() + self.rtt() / 4 + QUEUE_SLACK_NS / 2 {
            self.bounds.before_queue = None;
            if (self.bandwidth() as f64) < GAVE_WAY * bw as f64 {
                self.probe.retry_after(RETRY_ROUNDS);
            }
        } else if s.now >= until {
            self.bounds.before_queue = None;
            self.bounds.contended = true;
            self.bounds.lift();
            self.bw[1] = self.bw[1].max(bw);
        }
    }

    /// Congestion while not probing: once a round the short-term bounds fall to what was delivered,
    /// and not by more than three tenths.
    pub(super) fn adapt_bounds(
        &mut self,
        s: &AckSample,
        round_start: bool,
        lossy: bool,
        queued: bool,
    ) {
        let marked = round_start && self.bounds.ecn_round > 0.0;
        if !lossy && !queued && !marked {
            return;
        }
        let bw = self.bandwidth();
        if self.bounds.inflight_lo == u64::MAX {
            self.bounds.inflight_lo = self.cwnd;
        }
        let b = &mut self.bounds;
        if marked {
            let keep = 1.0 - b.ecn_alpha * ECN_FACTOR;
            b.inflight_lo = (b.inflight_lo as f64 * keep) as u64;
        }
        if lossy {
            b.bw_lo = b.bw_latest.max((bw as f64 * BETA) as u64);
            b.inflight_lo = b.inflight_latest.max((b.inflight_lo as f64 * BETA) as u64);
        }
        if queued && let Some(rate) = s.rate {
            // The path is slower than it was: what the filter remembers is past. If that is so, the
            // queue goes once less is in flight; if it stays, it is not ours.
            if self.bounds.before_queue.is_none() {
                let drains = super::time_for(s.in_flight, rate.max(1));
                let until = s.now + DRAIN_TIMES * drains + self.rtt();
                self.bounds.before_queue = Some((self.max_bandwidth(), until));
            }
            let sure = self.bounds.inflight_latest >= SURE_FRAMES * self.frame;
            let bw = match sure {
                true => bw.min(rate.max((bw as f64 * QUEUE_CUT) as u64)),
                false => bw,
            };
            self.bw = [bw.min(self.bw[0]), bw.min(self.bw[1])];
            let extra = self.extra.iter().copied().max().unwrap_or(0);
            let fits = self.bdp(bw, 1.0);
            let fits = fits + extra.min(fits);
            self.bounds.inflight_lo = self.bounds.inflight_lo.min(fits);
        }
    }
}
