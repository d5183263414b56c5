//! A model of the path in the manner of BBR (draft-ietf-ccwg-bbr): the largest recent delivery rate
//! and the smallest recent round trip set the pace and the window; loss bounds the window only where it
//! grows with the rate, so that random loss does not look like congestion.

use super::{AckSample, CcConfig, Controller};
use crate::base::Nanos;
use crate::proto::pacer::SUPER_PACKET;

/// 4 ln 2: doubles the rate each round.
const STARTUP_GAIN: f64 = 2.77;
const DRAIN_GAIN: f64 = 1.0 / STARTUP_GAIN;
/// Window over bandwidth-delay product.
const CWND_GAIN: f64 = 2.0;
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// Rounds that the bandwidth filter remembers.
const BW_ROUNDS: usize = 10;
/// The window is sized for at least this round trip, nanoseconds: below it, what delays an answer
/// is not the path but the scheduling of the two hosts.
const MIN_MODEL_RTT_NS: u64 = 500_000;
/// Paths with a shorter round trip keep [`LAN_MIN_CWND`], nanoseconds.
const LAN_RTT_NS: u64 = 1_000_000;
const LAN_MIN_CWND: u64 = 4 * SUPER_PACKET;
const MIN_RTT_WINDOW_NS: u64 = 10_000_000_000;
/// How long the window stays low to see the true round trip; shorter where round trips are short.
const PROBE_RTT_NS: (u64, u64) = (20_000_000, 200_000_000);
/// Frames over which a loss rate is taken: at 2 % its standard deviation is then 1 %.
const LOSS_EPOCH_FRAMES: u64 = 200;
/// Epochs whose smallest loss rate is the path's own, which slowing down would not cure.
const LOSS_EPOCHS: usize = 16;
/// Loss above the path's own that counts as congestion.
const LOSS_EXCESS: f64 = 0.05;
/// The path's own loss is believed, and sent over, up to this.
const BASE_LOSS_MAX: f64 = 0.15;
/// Cut of the in-flight bound on congestion, and its growth in rounds without.
const CUT: f64 = 0.85;
const GROW: f64 = 1.25;
/// The bound never falls below this share of the bandwidth-delay product (BBRv3's beta).
const BETA: f64 = 0.7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Startup,
    Drain,
    ProbeBw,
    ProbeRtt,
}

#[derive(Clone, Copy, Debug)]
struct LossEpoch {
    acked: u64,
    bad: u64,
    rates: [f64; LOSS_EPOCHS],
    n: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Bbr {
    state: State,
    frame: u64,
    bw: [u64; BW_ROUNDS],
    round: usize,
    next_round_delivered: u64,
    min_rtt: Option<Nanos>,
    min_rtt_at: Nanos,
    full_bw: u64,
    full_rounds: u32,
    filled: bool,
    cycle: usize,
    cycle_at: Nanos,
    probe_rtt_done: Option<Nanos>,
    saved_cwnd: u64,
    cwnd: u64,
    pacing: u64,
    inflight_hi: u64,
    loss: LossEpoch,
    aggregate_from: Nanos,
    aggregate_acked: u64,
    extra_acked: [u64; BW_ROUNDS],
    collapsed: bool,
    seed: u64,
}

fn bytes(rate: f64, ns: Nanos) -> u64 {
    (rate * ns as f64 / 1e9) as u64
}

impl Bbr {
    /// Starts with a window of ten frames or one GSO super-packet, whichever is more. 64 KiB is 45
    /// frames of 1,448 bytes: above RFC 6928's ten, in the range that content networks start
    /// with, and safe because it is paced over the expected round trip rather than sent as a burst.
    pub fn new(cfg: &CcConfig) -> Bbr {
        let cwnd = (10 * cfg.frame).max(SUPER_PACKET);
        let rtt = cfg.initial_rtt.max(100_000) as f64 / 1e9;
        Bbr {
            state: State::Startup,
            frame: cfg.frame.max(1),
            bw: [0; BW_ROUNDS],
            round: 0,
            next_round_delivered: 0,
            min_rtt: None,
            min_rtt_at: 0,
            full_bw: 0,
            full_rounds: 0,
            filled: false,
            cycle: 0,
            cycle_at: 0,
            probe_rtt_done: None,
            saved_cwnd: 0,
            cwnd,
            pacing: (STARTUP_GAIN * cwnd as f64 / rtt) as u64,
            inflight_hi: u64::MAX,
            loss: LossEpoch {
                acked: 0,
                bad: 0,
                rates: [0.0; LOSS_EPOCHS],
                n: 0,
            },
            aggregate_from: 0,
            aggregate_acked: 0,
            extra_acked: [0; BW_ROUNDS],
            collapsed: false,
            seed: cfg.seed,
        }
    }

    /// Estimated bandwidth of the path, bytes per second.
    pub fn bandwidth(&self) -> u64 {
        self.bw.iter().copied().max().unwrap_or(0)
    }

    /// Smallest round trip of the last ten seconds.
    pub fn min_rtt(&self) -> Option<Nanos> {
        self.min_rtt
    }

    /// Loss that the path has whatever the rate, 0..=0.15.
    fn base_loss(&self) -> f64 {
        let n = self.loss.n.min(LOSS_EPOCHS);
        // Few epochs cannot tell own loss from congestion.
        if n < LOSS_EPOCHS / 4 {
            return 0.0;
        }
        let min = self.loss.rates[..n].iter().copied().fold(1.0, f64::min);
        min.min(BASE_LOSS_MAX)
    }

    fn bdp(&self, rtt: Nanos) -> u64 {
        bytes(self.bandwidth() as f64, rtt)
    }

    /// What must be in flight for the path to be full, lost frames included.
    fn target(&self, gain: f64) -> u64 {
        let Some(rtt) = self.min_rtt else {
            return self.cwnd;
        };
        let bdp = self.bdp(rtt.max(MIN_MODEL_RTT_NS)) as f64 / (1.0 - self.base_loss());
        let extra = self.extra_acked.iter().copied().max().unwrap_or(0);
        let extra = extra.min(bdp as u64);
        (gain * bdp) as u64 + extra + 3 * self.quantum()
    }

    /// Bytes that leave at once: a super-packet, less on slow paths.
    fn quantum(&self) -> u64 {
        bytes(self.pacing as f64, 1_000_000).clamp(2 * self.frame, SUPER_PACKET.max(2 * self.frame))
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
        self.round = (self.round + 1) % BW_ROUNDS;
        true
    }

    fn update_bandwidth(&mut self, s: &AckSample, round_start: bool) {
        if round_start {
            // While the application is the limit, old maxima stay: nothing newer is known.
            let carry = if s.app_limited { self.bandwidth() } else { 0 };
            self.bw[self.round] = carry;
            self.extra_acked[self.round] = 0;
        }
        if let Some(rate) = s.rate
            && (!s.app_limited || rate > self.bandwidth())
        {
            let slot = &mut self.bw[self.round];
            *slot = (*slot).max(rate);
        }
    }

    fn update_aggregation(&mut self, s: &AckSample) {
        let elapsed = s.now.saturating_sub(self.aggregate_from);
        let expected = bytes(self.bandwidth() as f64, elapsed);
        if self.aggregate_acked <= expected {
            self.aggregate_from = s.now;
            self.aggregate_acked = 0;
        }
        self.aggregate_acked += s.acked_bytes;
        let expected = bytes(
            self.bandwidth() as f64,
            s.now.saturating_sub(self.aggregate_from),
        );
        let extra = self.aggregate_acked.saturating_sub(expected).min(self.cwnd);
        let slot = &mut self.extra_acked[self.round];
        *slot = (*slot).max(extra);
    }

    /// Gives whether an epoch ended, and with congestion.
    fn update_loss(&mut self, s: &AckSample) -> Option<bool> {
        let e = &mut self.loss;
        e.acked += s.acked_frames;
        e.bad += s.lost_frames + s.ce_frames;
        if e.acked + e.bad < LOSS_EPOCH_FRAMES {
            return None;
        }
        let rate = e.bad as f64 / (e.acked + e.bad) as f64;
        (e.acked, e.bad) = (0, 0);
        let base = self.base_loss();
        let e = &mut self.loss;
        e.rates[e.n % LOSS_EPOCHS] = rate;
        // Stays above LOSS_EPOCHS once there, without ever overflowing.
        e.n = if e.n + 1 == 2 * LOSS_EPOCHS {
            LOSS_EPOCHS
        } else {
            e.n + 1
        };
        Some(rate > base * 1.5 + LOSS_EXCESS)
    }

    fn check_full(&mut self, s: &AckSample, lossy: bool) {
        if self.filled || s.app_limited {
            return;
        }
        let bw = self.bandwidth();
        if bw as f64 >= self.full_bw as f64 * 1.25 {
            (self.full_bw, self.full_rounds) = (bw, 0);
            return;
        }
        // Three rounds without growth, or one that also loses.
        self.full_rounds += if lossy { 3 } else { 1 };
        self.filled = self.full_rounds >= 3;
    }

    fn enter_probe_bw(&mut self, now: Nanos) {
        self.state = State::ProbeBw;
        // Any phase but the draining one, so that flows do not probe in step.
        self.cycle = [0, 2, 3, 4, 5, 6, 7][(self.seed % 7) as usize];
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1)
            >> 1;
        self.cycle_at = now;
    }

    fn advance_cycle(&mut self, s: &AckSample, congested: bool) {
        let rtt = self.min_rtt.unwrap_or(0);
        let long = s.now.saturating_sub(self.cycle_at) > rtt;
        let done = match CYCLE[self.cycle] {
            g if g > 1.0 => {
                long && (congested || s.prior_in_flight >= self.target(g).min(self.inflight_hi))
                    || s.now.saturating_sub(self.cycle_at) > 4 * rtt.max(MIN_MODEL_RTT_NS)
            }
            g if g < 1.0 => long || s.in_flight <= self.bdp(rtt),
            _ => long,
        };
        if done {
            self.cycle = (self.cycle + 1) % CYCLE.len();
            self.cycle_at = s.now;
        }
    }

    fn update_min_rtt(&mut self, s: &AckSample) {
        let expired = s.now.saturating_sub(self.min_rtt_at) > MIN_RTT_WINDOW_NS;
        if let Some(rtt) = s.rtt
            && (expired || self.min_rtt.is_none_or(|m| rtt <= m))
        {
            self.min_rtt = Some(rtt);
            self.min_rtt_at = s.now;
        }
        if expired && self.filled && self.state != State::ProbeRtt {
            self.state = State::ProbeRtt;
            self.saved_cwnd = self.cwnd;
            self.probe_rtt_done = None;
        }
        if self.state == State::ProbeRtt {
            self.probe_rtt(s);
        }
    }

    fn probe_rtt_cwnd(&self) -> u64 {
        (self.bdp(self.min_rtt.unwrap_or(0)) / 2).max(self.min_cwnd())
    }

    fn probe_rtt(&mut self, s: &AckSample) {
        match self.probe_rtt_done {
            None if s.in_flight <= self.probe_rtt_cwnd() => {
                let (short, long) = PROBE_RTT_NS;
                let rtt = self.min_rtt.unwrap_or(0);
                self.probe_rtt_done = Some(s.now + (rtt * 20).clamp(short, long));
            }
            Some(at) if s.now >= at => {
                self.min_rtt_at = s.now;
                self.cwnd = self.cwnd.max(self.saved_cwnd);
                self.enter_probe_bw(s.now);
            }
            _ => {}
        }
    }

    fn bound_inflight(&mut self, s: &AckSample, congested: Option<bool>) {
        match congested {
            Some(true) if self.state != State::Startup || self.filled => {
                let floor = (self.bdp(self.min_rtt.unwrap_or(0)) as f64 * BETA) as u64;
                let from = self.inflight_hi.min(s.prior_in_flight.max(self.cwnd / 2));
                self.inflight_hi = ((from as f64 * CUT) as u64).max(floor).max(self.min_cwnd());
            }
            Some(false) if self.inflight_hi != u64::MAX => {
                let hi = (self.inflight_hi as f64 * GROW) as u64;
                let free = hi > 2 * self.target(CWND_GAIN);
                self.inflight_hi = if free { u64::MAX } else { hi };
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
            State::ProbeBw => CYCLE[self.cycle],
            State::ProbeRtt => 1.0,
        };
        let rate = (gain * bw * 0.99 / (1.0 - self.base_loss())) as u64;
        let rate = rate.max(self.frame * 10);
        if self.filled || rate > self.pacing {
            self.pacing = rate;
        }
    }

    fn set_cwnd(&mut self, s: &AckSample) {
        let gain = match self.state {
            State::Startup | State::Drain => STARTUP_GAIN,
            _ => CWND_GAIN,
        };
        let target = self.target(gain);
        let grown = self.cwnd.saturating_add(s.acked_bytes);
        if self.filled {
            self.cwnd = grown.min(target);
        } else if self.cwnd < target {
            self.cwnd = grown;
        }
        if self.state == State::ProbeRtt {
            self.cwnd = self.cwnd.min(self.probe_rtt_cwnd());
        }
        self.cwnd = self.cwnd.max(self.min_cwnd());
    }
}

impl Controller for Bbr {
    fn on_ack(&mut self, s: &AckSample) {
        if s.acked_bytes > 0 {
            self.collapsed = false;
        }
        let round_start = self.update_round(s);
        self.update_bandwidth(s, round_start);
        self.update_aggregation(s);
        let congested = self.update_loss(s);
        if round_start {
            self.check_full(s, congested == Some(true));
        }
        if self.state == State::Startup && self.filled {
            self.state = State::Drain;
        }
        let rtt = self.min_rtt.unwrap_or(0);
        if self.state == State::Drain && s.in_flight <= self.bdp(rtt).max(self.min_cwnd()) {
            self.enter_probe_bw(s.now);
        }
        if self.state == State::ProbeBw {
            self.advance_cycle(s, congested == Some(true));
        }
        self.bound_inflight(s, congested);
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
        self.cycle_at = now;
        self.aggregate_from = now;
        self.aggregate_acked = 0;
    }

    fn cwnd(&self) -> u64 {
        if self.collapsed {
            return 4 * self.frame;
        }
        self.cwnd.min(self.inflight_hi)
    }

    fn pacing_rate(&self) -> u64 {
        self.pacing.max(1)
    }

    fn name(&self) -> &'static str {
        "bbr"
    }
}
