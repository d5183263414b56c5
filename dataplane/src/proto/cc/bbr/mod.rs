//! BBRv3 (draft-ietf-ccwg-bbr): a model of the path, made of the largest delivery rate of two probing
//! cycles, the smallest round trip, and bounds that loss, ECN marks and standing queues set.
//!
//! Where this differs from the draft, it is for these reasons:
//! - loss counts only beyond what the path loses by itself (`loss.rs`), and what it does lose is sent
//!   over, up to a fifth;
//! - probing up ends when a quarter more than the path's product is in flight (as BBRv2 had it) rather
//!   than after three rounds without growth: it keeps the queue short;
//! - a standing queue while cruising lowers the short-term bounds like loss: that is how a path that
//!   became slower shows where buffers are deep;
//! - who lowered its rate for a queue that then drained probes again soon, what probing adds grows with
//!   the root of the flight, and beside others it stops at a third more: shares become equal sooner;
//! - a queue that stands slows the sender down, so without one the pace is as near to the path's rate as
//!   0.2 % and not 1 %;
//! - windows allow for the scheduling of hosts on paths under a millisecond.

mod bounds;
mod loss;
mod probe;

use super::{AckSample, CcConfig, Controller};
use crate::base::Nanos;
use crate::proto::pacer::SUPER_PACKET;
use bounds::{Bounds, QUEUE_MIN_RTT_NS};
use loss::PathLoss;
use probe::{Phase, Probe};

/// 4 ln 2: doubles the rate each round.
const STARTUP_GAIN: f64 = 2.77;
const DRAIN_GAIN: f64 = 0.5;
/// Rounds without growth that end startup, in quarters: one with a queue counts whole.
const FULL_ROUNDS: u32 = 12;
const MAX_BOOST: f64 = 8.0;
/// Frames of the first flight on paths whose round trip takes at least this, nanoseconds.
const FIRST_FRAMES: u64 = 72;
const FAR_NS: Nanos = 5_000_000;
/// It is spread over a round trip or this, nanoseconds, whichever is shorter.
const FIRST_FLIGHT_NS: Nanos = 10_000_000;
/// Window over bandwidth-delay product, and while probing for more.
const CWND_GAIN: f64 = 2.0;
const UP_CWND_GAIN: f64 = 2.25;
/// See [`Bbr::up_step`].
const UP_FRAMES: f64 = 8.0;
/// Frames in flight from which that grows with their square root: on a long path eight are nothing.
const UP_FROM: f64 = 100.0;
const PROBE_RTT_CWND_GAIN: f64 = 0.5;
/// Paced this much below the estimate, so that queues drain; the second where a queue that stands shows
/// in round trips and slows the sender down by itself.
const PACING_MARGIN: (f64, f64) = (0.99, 0.998);
/// Rates are smoothed over a round trip, and over this at most, nanoseconds.
const SMOOTH_NS: Nanos = 2_000_000;
/// Rounds that the filter of aggregated acknowledgements remembers.
const EXTRA_ROUNDS: usize = 10;
/// The window is sized for at least this round trip, nanoseconds: below it, what delays an answer
/// is not the path but the scheduling of the two hosts.
const MIN_MODEL_RTT_NS: u64 = 500_000;
/// Paths with a shorter round trip keep [`LAN_MIN_CWND`], nanoseconds.
const LAN_RTT_NS: u64 = 1_000_000;
const LAN_MIN_CWND: u64 = 4 * SUPER_PACKET;
/// Age at which the smallest round trip is forgotten, and after which the window is lowered to see it again, ns.
const MIN_RTT_WINDOW_NS: u64 = 10_000_000_000;
/// One longer by no more than this part of it is as good.
const NEAR_MIN: u64 = 64;
const PROBE_RTT_EVERY_NS: u64 = 5_000_000_000;
/// How long the window stays low then; shorter where round trips are short.
const PROBE_RTT_NS: (u64, u64) = (20_000_000, 200_000_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    ProbeBw,
    ProbeRtt,
}

/// See the module's text.
#[derive(Debug)]
pub struct Bbr {
    state: State,
    frame: u64,
    /// Largest delivery rate in this probing cycle and the one before.
    bw: [u64; 2],
    /// Delivery rate, smoothed over [`SMOOTH_NS`] at most.
    rate: f64,
    rate_at: Nanos,
    next_round_delivered: u64,
    min_rtt: Option<Nanos>,
    min_rtt_at: Nanos,
    /// When one about as short was last seen.
    near_min_at: Nanos,
    full_bw: u64,
    full_rounds: u32,
    filled: bool,
    /// Startup's window grows by this where the rate does not and no queue says why.
    boost: f64,
    drain_at: Nanos,
    probe: Probe,
    bounds: Bounds,
    loss: PathLoss,
    /// Since when the pace is clearly below the path's rate.
    slow_since: Option<Nanos>,
    probe_rtt_done: Option<Nanos>,
    saved_cwnd: u64,
    cwnd: u64,
    pacing: u64,
    extra: [u64; EXTRA_ROUNDS],
    extra_at: usize,
    aggregate_from: Nanos,
    aggregate_acked: u64,
    collapsed: bool,
    idle_restart: bool,
}

fn bytes(rate: f64, ns: Nanos) -> u64 {
    (rate * ns as f64 / 1e9) as u64
}

/// Time that `bytes` take at `rate`, nanoseconds, at most ten seconds.
fn time_for(bytes: u64, rate: u64) -> Nanos {
    (bytes as f64 * 1e9 / rate.max(1) as f64).min(1e10) as Nanos
}

impl Bbr {
    /// Starts with a window of ten frames or one GSO super-packet, whichever is more. 64 KiB is 45
    /// frames of 1,448 bytes: above RFC 6928's ten, in the range that content networks start
    /// with, and safe because it is paced over the expected round trip rather than sent as a burst.
    /// Where a round trip costs more than a slot's time on most paths, it is a slot of such frames with
    /// what its being sent in parts adds, so that half a round trip brings the first one.
    pub fn new(cfg: &CcConfig) -> Bbr {
        let slot = match cfg.initial_rtt >= FAR_NS {
            true => (FIRST_FRAMES * cfg.frame).min(2 * SUPER_PACKET),
            false => 0,
        };
        let cwnd = (10 * cfg.frame).max(SUPER_PACKET).max(slot);
        let rtt = cfg.initial_rtt.clamp(100_000, FIRST_FLIGHT_NS) as f64 / 1e9;
        Bbr {
            state: State::Startup,
            frame: cfg.frame.max(1),
            bw: [0; 2],
            rate: 0.0,
            rate_at: 0,
            next_round_delivered: 0,
            min_rtt: None,
            min_rtt_at: 0,
            near_min_at: 0,
            full_bw: 0,
            full_rounds: 0,
            filled: false,
            boost: 1.0,
            drain_at: 0,
            probe: Probe::new(cfg.seed),
            bounds: Bounds::new(),
            loss: PathLoss::new(),
            slow_since: None,
            probe_rtt_done: None,
            saved_cwnd: 0,
            cwnd,
            pacing: (STARTUP_GAIN * cwnd as f64 / rtt) as u64,
            extra: [0; EXTRA_ROUNDS],
            extra_at: 0,
            aggregate_from: 0,
            aggregate_acked: 0,
            collapsed: false,
            idle_restart: false,
        }
    }

    /// Estimated bandwidth of the path, bytes per second.
    pub fn max_bandwidth(&self) -> u64 {
        self.bw[0].max(self.bw[1])
    }

    /// The same within the short-term bound: what is used.
    pub fn bandwidth(&self) -> u64 {
        self.max_bandwidth().min(self.bounds.bw_lo)
    }

    /// Smallest round trip of the last ten seconds.
    pub fn min_rtt(&self) -> Option<Nanos> {
        self.min_rtt
    }

    fn rtt(&self) -> Nanos {
        self.min_rtt.unwrap_or(0)
    }

    /// What must be in flight for the path to be full, lost frames included, times `gain`.
    fn bdp(&self, bw: u64, gain: f64) -> u64 {
        (gain * bytes(bw as f64, self.rtt()) as f64 / (1.0 - self.loss.sent_over())) as u64
    }

    /// Bytes that leave at once: a super-packet, less on slow and on short paths.
    fn quantum(&self) -> u64 {
        let span = (self.rtt() / 8).clamp(62_500, 1_000_000);
        bytes(self.pacing as f64, span).clamp(2 * self.frame, SUPER_PACKET.max(2 * self.frame))
    }

    /// The window that `gain` asks for, with room for what hosts and acknowledgements gather.
    fn target(&self, gain: f64) -> u64 {
        let Some(rtt) = self.min_rtt else {
            return self.cwnd;
        };
        let gain = if self.filled { gain } else { gain * self.boost };
        let bdp = self.bdp(self.bandwidth(), gain);
        // A short path's window is sized for what delays the hosts.
        let bdp = (bdp as u128 * u128::from(rtt.max(MIN_MODEL_RTT_NS)) / u128::from(rtt.max(1)))
            .min(1 << 50) as u64;
        let extra = match self.filled {
            true => self.extra.iter().copied().max().unwrap_or(0).min(bdp),
            false => 0,
        };
        bdp + extra + 2 * self.quantum()
    }

    fn min_cwnd(&self) -> u64 {
        let lan = self.filled && self.min_rtt.is_some_and(|r| r < LAN_RTT_NS);
        if lan { LAN_MIN_CWND } else { 0 }.max(4 * self.frame)
    }

    fn update_round(&mut self, s: &AckSample) -> bool {
        if s.acked_bytes == 0 || s.prior_delivered < self.next_round_delivered {
            return false;
        }
        self.next_round_delivered = s.delivered;
        true
    }

    fn update_bandwidth(&mut self, s: &AckSample) {
        let Some(rate) = s.rate else { return };
        // Acknowledgements in lumps, of several lanes at that, scatter the rates of short paths: the
        // largest of them would be far too much.
        let span = self.rtt().min(SMOOTH_NS);
        let weight = match self.filled {
            true => s.now.saturating_sub(self.rate_at) as f64 / span.max(1) as f64,
            false => 1.0,
        };
        self.rate_at = s.now;
        self.rate += (rate as f64 - self.rate) * weight.min(1.0);
        let rate = self.rate as u64;
        if !s.app_limited || rate > self.max_bandwidth() {
            self.bw[0] = self.bw[0].max(rate);
        }
    }

    fn update_aggregation(&mut self, s: &AckSample, round_start: bool) {
        if round_start {
            self.extra_at = (self.extra_at + 1) % EXTRA_ROUNDS;
            self.extra[self.extra_at] = 0;
        }
        let bw = self.bandwidth() as f64;
        let expected = bytes(bw, s.now.saturating_sub(self.aggregate_from));
        if self.aggregate_acked <= expected {
            self.aggregate_from = s.now;
            self.aggregate_acked = 0;
        }
        self.aggregate_acked += s.acked_bytes;
        let expected = bytes(bw, s.now.saturating_sub(self.aggregate_from));
        let extra = self.aggregate_acked.saturating_sub(expected).min(self.cwnd);
        let slot = &mut self.extra[self.extra_at];
        *slot = (*slot).max(extra);
    }

    /// Startup ends after three rounds with a queue and without a quarter more, or one that also loses
    /// or is marked as only an overrun path does. While the rate still grows, no loss ends it: it is the path's own.
    fn check_full(&mut self, s: &AckSample, congested: bool) {
        if self.filled {
            return;
        }
        let bw = self.max_bandwidth();
        if bw as f64 >= self.full_bw as f64 * 1.25 {
            (self.full_bw, self.full_rounds) = (bw, 0);
            return;
        }
        // With more in flight than the path holds the sender cannot have been the limit.
        if s.app_limited && !congested && s.prior_in_flight < self.bdp(bw, 1.25) {
            return;
        }
        // A path that is full has a queue. Without one, lost acknowledgements or busy hosts may be
        // what keeps the rate down.
        let queue = s
            .rtt
            .is_some_and(|r| r > self.rtt() + self.rtt() / 8 + MIN_MODEL_RTT_NS / 2);
        self.full_rounds += match (congested, queue) {
            (true, true) => FULL_ROUNDS,
            (true, false) => FULL_ROUNDS / 2,
            (false, true) => 4,
            (false, false) => 1,
        };
        if queue {
            self.boost = 1.0;
            self.cwnd = self.cwnd.min(self.target(CWND_GAIN));
        } else if self.full_rounds > 1 {
            // More in flight tells which it is.
            self.boost = (self.boost * 1.25).min(MAX_BOOST);
        }
        self.filled = self.full_rounds >= FULL_ROUNDS;
        if self.filled && congested {
            self.bounds.after_startup(s);
        }
    }

    fn update_min_rtt(&mut self, s: &AckSample) {
        let expired = s.now.saturating_sub(self.min_rtt_at) > MIN_RTT_WINDOW_NS;
        if let Some(rtt) = s.rtt {
            if expired || self.min_rtt.is_none_or(|m| rtt <= m) {
                self.min_rtt = Some(rtt);
                self.min_rtt_at = s.now;
            }
            if self.min_rtt.is_some_and(|m| rtt <= m + m / NEAR_MIN) {
                self.near_min_at = s.now;
            }
        }
        let stale = s.now.saturating_sub(self.near_min_at) > PROBE_RTT_EVERY_NS;
        if stale && self.filled && self.state != State::ProbeRtt && !self.idle_restart {
            self.state = State::ProbeRtt;
            self.saved_cwnd = self.cwnd;
            self.probe_rtt_done = None;
        }
        if self.state == State::ProbeRtt {
            self.probe_rtt(s);
        }
        if s.acked_bytes > 0 {
            self.idle_restart = false;
        }
    }

    fn probe_rtt_cwnd(&self) -> u64 {
        self.bdp(self.bandwidth(), PROBE_RTT_CWND_GAIN)
            .max(self.min_cwnd())
    }

    fn probe_rtt(&mut self, s: &AckSample) {
        match self.probe_rtt_done {
            None if s.in_flight <= self.probe_rtt_cwnd() => {
                let (short, long) = PROBE_RTT_NS;
                self.probe_rtt_done = Some(s.now + (self.rtt() * 20).clamp(short, long));
            }
            Some(at) if s.now >= at => {
                self.near_min_at = s.now;
                self.cwnd = self.cwnd.max(self.saved_cwnd);
                self.enter_cruise(s.now);
            }
            _ => {}
        }
    }

    fn set_pacing(&mut self) {
        let bw = self.bandwidth() as f64;
        if bw == 0.0 {
            return;
        }
        let gain = match self.state {
            State::Startup => STARTUP_GAIN,
            State::Drain => DRAIN_GAIN,
            State::ProbeBw => self.probe.gain(),
            State::ProbeRtt => 1.0,
        };
        // With a queue standing, more of the same only lengthens it.
        let crowded = self.state == State::ProbeBw && self.probe.crowded;
        let over = if crowded { 0.0 } else { self.loss.sent_over() };
        let up = self.state == State::ProbeBw && self.probe.phase == Phase::Up;
        let bw = gain * bw + if up { self.up_step() } else { 0.0 };
        let margin = match self.rtt() >= QUEUE_MIN_RTT_NS {
            true => PACING_MARGIN.1,
            false => PACING_MARGIN.0,
        };
        let rate = (bw * margin / (1.0 - over)) as u64;
        let rate = rate.max(self.frame * 10);
        if self.filled || rate > self.pacing {
            self.pacing = rate;
        }
    }

    /// What probing up adds whatever the rate, or by its root, so that a small share of a path grows faster
    /// than a large one: so many frames a round trip.
    fn up_step(&self) -> f64 {
        let flight = self.bdp(self.bandwidth(), 1.0) as f64 / self.frame as f64;
        let frames = UP_FRAMES * (flight / UP_FROM).max(1.0).sqrt();
        frames * self.frame as f64 * 1e9 / self.rtt().max(MIN_MODEL_RTT_NS) as f64
    }

    /// Whether the pace is, and was a round trip and a half ago, a fifth or more below the path's
    /// rate: what is lost then is lost whatever the rate.
    fn slow(&mut self, now: Nanos) -> bool {
        let path = self.max_bandwidth() as f64 / (1.0 - self.loss.sent_over());
        let slow = self.filled && (self.pacing as f64) < 0.8 * path;
        if !slow {
            self.slow_since = None;
            return false;
        }
        let since = *self.slow_since.get_or_insert(now);
        now.saturating_sub(since) > self.rtt() + self.rtt() / 2
    }

    fn set_cwnd(&mut self, s: &AckSample) {
        let up = self.state == State::ProbeBw && self.probe.phase == Phase::Up;
        let target = self.target(if up { UP_CWND_GAIN } else { CWND_GAIN });
        let grown = self.cwnd.saturating_add(s.acked_bytes);
        if self.filled {
            self.cwnd = grown.min(target);
        } else if self.cwnd < target {
            self.cwnd = grown;
        }
        let cap = match self.state {
            State::ProbeRtt => self.probe_rtt_cwnd(),
            State::ProbeBw if self.probe.phase == Phase::Cruise => self.bounds.with_headroom(),
            State::ProbeBw => self.bounds.inflight_hi,
            State::Startup | State::Drain => u64::MAX,
        };
        let cap = cap.min(self.bounds.inflight_lo);
        self.cwnd = self.cwnd.min(cap).max(self.min_cwnd());
    }
}

impl Controller for Bbr {
    fn on_ack(&mut self, s: &AckSample) {
        if s.acked_bytes > 0 {
            self.collapsed = false;
        }
        let round_start = self.update_round(s);
        self.update_bandwidth(s);
        self.update_aggregation(s, round_start);
        let slow = self.slow(s.now);
        let lossy = self.loss.update(s, round_start, slow, self.min_rtt);
        self.bounds.observe(s, round_start);
        let queued = self.bounds.queued(s, self.min_rtt);
        let marked = self.bounds.heavily_marked();
        if round_start {
            self.check_full(s, lossy || marked);
        }
        if self.state == State::Startup && self.filled {
            self.state = State::Drain;
            self.drain_at = s.now;
            self.loss.end_startup();
        }
        let bdp = self.bdp(self.bandwidth(), 1.0);
        if self.state == State::Drain {
            let long = s.now.saturating_sub(self.drain_at) > 3 * self.rtt() + MIN_MODEL_RTT_NS;
            if s.in_flight <= bdp.max(self.min_cwnd()) || long {
                self.enter_down(s.now);
            }
        }
        if self.state == State::ProbeBw {
            self.advance_probe(s, round_start, lossy || marked);
        }
        self.check_drained(s);
        if !self.probing() {
            self.adapt_bounds(s, round_start, lossy, queued);
        }
        self.update_min_rtt(s);
        self.set_pacing();
        self.set_cwnd(s);
    }

    fn on_pto(&mut self, count: u32) {
        // Three probe timeouts in a row: persistent congestion (RFC 9002 section 7.6). The model
        // is kept; the window returns with the first delivery.
        if count >= 3 {
            self.collapsed = true;
        }
    }

    fn on_idle_restart(&mut self, now: Nanos) {
        self.idle_restart = true;
        self.aggregate_from = now;
        self.aggregate_acked = 0;
    }

    fn cwnd(&self) -> u64 {
        if self.collapsed {
            return 4 * self.frame;
        }
        self.cwnd
    }

    fn pacing_rate(&self) -> u64 {
        self.pacing.max(1)
    }

    fn name(&self) -> &'static str {
        "bbr"
    }
}
