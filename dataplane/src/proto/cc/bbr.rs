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
/// A loss rate is taken over whole rounds of at least this many frames: at 2 % its standard deviation is then 1 %.
const LOSS_EPOCH_FRAMES: u64 = 200;
/// On a lossy path one draining phase in this many is long enough to see the loss that stays when
/// the sender is slower than the path; the first few all are.
const LONG_DRAIN_EVERY: u32 = 8;
/// Loss below which there is nothing to tell apart.
const LOSSY: f64 = 0.01;
/// A long drain never takes longer, nanoseconds.
const LONG_DRAIN_MAX_NS: u64 = 2_000_000_000;
/// Loss above the path's own that counts as congestion.
const LOSS_EXCESS: f64 = 0.05;
/// The path's own loss is believed up to this: more is congestion, whoever causes it.
const BASE_LOSS_MAX: f64 = 0.4;
/// The path's own loss is sent over up to this: a fifth, where BBR's own probing stops growing.
const SENT_OVER_MAX: f64 = 0.2;
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

/// Loss of the path, and how much of it does not depend on the rate: the smallest of any epoch
/// since the long drain before last. Congestion loss vanishes in a drain, random loss does not.
#[derive(Clone, Copy, Debug)]
struct PathLoss {
    acked: u64,
    bad: u64,
    recent: f64,
    min: f64,
    min_before: f64,
    drain_epochs: u32,
    long_drain: bool,
    drains: u32,
}

impl PathLoss {
    fn base(&self) -> f64 {
        self.min.min(self.min_before).min(BASE_LOSS_MAX)
    }

    /// Share of frames to send on top of what shall arrive.
    fn sent_over(&self) -> f64 {
        self.base().min(SENT_OVER_MAX)
    }

    /// Gives whether an epoch ended with congestion.
    fn update(&mut self, s: &AckSample, round_start: bool) -> bool {
        self.acked += s.acked_frames;
        self.bad += s.lost_frames + s.ce_frames;
        let all = self.acked + self.bad;
        if all < LOSS_EPOCH_FRAMES || !round_start {
            return false;
        }
        let rate = self.bad as f64 / all as f64;
        (self.acked, self.bad) = (0, 0);
        let congested = rate > self.base() * 1.5 + LOSS_EXCESS;
        self.min = self.min.min(rate);
        self.recent += (rate - self.recent) / 4.0;
        self.drain_epochs = self.drain_epochs.saturating_add(1);
        congested
    }

    fn start_drain(&mut self) {
        self.drains = self.drains.wrapping_add(1);
        let turn = self.drains <= 4 || self.drains.is_multiple_of(LONG_DRAIN_EVERY);
        self.long_drain = turn && self.recent > LOSSY;
        self.drain_epochs = 0;
    }

    fn drained(&self, spent: Nanos, rtt: Nanos) -> bool {
        (spent > 2 * rtt && self.drain_epochs >= 3) || spent > LONG_DRAIN_MAX_NS
    }

    fn end_drain(&mut self) {
        if self.long_drain {
            (self.min_before, self.min, self.long_drain) = (self.min, 1.0, false);
        }
    }
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
    loss: PathLoss,
    aggregate_from: Nanos,
    aggregate_acked: u64,
    extra_acked: [u64; BW_ROUNDS],
    collapsed: bool,
    /// Congestion was seen in this round; the bound was cut in this round.
    round_lossy: bool,
    round_cut: bool,
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
            loss: PathLoss {
                acked: 0,
                bad: 0,
                recent: 0.0,
                min: 1.0,
                min_before: 0.0,
                drain_epochs: 0,
                long_drain: false,
                drains: 0,
            },
            aggregate_from: 0,
            aggregate_acked: 0,
            extra_acked: [0; BW_ROUNDS],
            collapsed: false,
            round_lossy: false,
            round_cut: false,
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

    fn bdp(&self, rtt: Nanos) -> u64 {
        bytes(self.bandwidth() as f64, rtt)
    }

    /// What must be in flight for the path to be full, lost frames included.
    fn target(&self, gain: f64) -> u64 {
        let Some(rtt) = self.min_rtt else {
            return self.cwnd;
        };
        let bdp = self.bdp(rtt.max(MIN_MODEL_RTT_NS)) as f64 / (1.0 - self.loss.sent_over());
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

    fn check_full(&mut self, s: &AckSample) {
        if self.filled || (s.app_limited && !self.round_lossy) {
            return;
        }
        let bw = self.bandwidth();
        if bw as f64 >= self.full_bw as f64 * 1.25 {
            (self.full_bw, self.full_rounds) = (bw, 0);
            return;
        }
        // Three rounds without growth, or one that also loses.
        self.full_rounds += if self.round_lossy { 3 } else { 1 };
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

    fn advance_cycle(&mut self, s: &AckSample) {
        let rtt = self.min_rtt.unwrap_or(0);
        let spent = s.now.saturating_sub(self.cycle_at);
        let gain = CYCLE[self.cycle];
        let done = if gain > 1.0 {
            let full = s.prior_in_flight >= self.target(gain).min(self.inflight_hi);
            let enough = self.round_lossy || full || spent > 4 * rtt.max(MIN_MODEL_RTT_NS);
            spent > rtt && enough
        } else if gain < 1.0 && self.loss.long_drain {
            self.loss.drained(spent, rtt)
        } else if gain < 1.0 {
            spent > rtt || s.in_flight <= self.bdp(rtt)
        } else {
            spent > rtt
        };
        if !done {
            return;
        }
        if gain > 1.0 && !self.round_lossy {
            self.raise_bound();
        }
        if gain > 1.0 {
            self.loss.start_drain();
        } else if gain < 1.0 {
            self.loss.end_drain();
        }
        self.cycle = (self.cycle + 1) % CYCLE.len();
        self.cycle_at = s.now;
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

    /// Lowers the bound on bytes in flight, at most once a round.
    fn cut_bound(&mut self, s: &AckSample) {
        if self.round_cut || !self.filled {
            return;
        }
        self.round_cut = true;
        let floor = (self.bdp(self.min_rtt.unwrap_or(0)) as f64 * BETA) as u64;
        let round = s.delivered.saturating_sub(s.prior_delivered);
        let from = self.inflight_hi.min(s.prior_in_flight.max(round));
        self.inflight_hi = ((from as f64 * CUT) as u64).max(floor).max(self.min_cwnd());
    }

    /// A probe for bandwidth went by without congestion.
    fn raise_bound(&mut self) {
        if self.inflight_hi != u64::MAX {
            let hi = (self.inflight_hi as f64 * GROW) as u64;
            let free = hi > 2 * self.target(CWND_GAIN);
            self.inflight_hi = if free { u64::MAX } else { hi };
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
        let rate = (gain * bw * 0.99 / (1.0 - self.loss.sent_over())) as u64;
        let rate = rate.max(self.frame * 10);
        if self.filled || rate > self.pacing {
            self.pacing = rate;
        }
    }

    fn set_cwnd(&mut self, s: &AckSample) {
        let target = self.target(CWND_GAIN);
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
        let congested = self.loss.update(s, round_start);
        self.round_lossy |= congested;
        if round_start {
            self.check_full(s);
        }
        if self.state == State::Startup && self.filled {
            self.state = State::Drain;
        }
        if congested {
            self.cut_bound(s);
        }
        let rtt = self.min_rtt.unwrap_or(0);
        if self.state == State::Drain && s.in_flight <= self.bdp(rtt).max(self.min_cwnd()) {
            self.enter_probe_bw(s.now);
        }
        if self.state == State::ProbeBw {
            self.advance_cycle(s);
        }
        if round_start {
            (self.round_lossy, self.round_cut) = (false, false);
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
