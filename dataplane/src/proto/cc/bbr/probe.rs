//! ProbeBW: when to try for more, and when to let the queue drain.

use super::{AckSample, Bbr, State};
use crate::base::Nanos;

const UP_GAIN: f64 = 1.25;
const DOWN_GAIN: f64 = 0.9;
/// While cruising with a queue that does not go away: rates are overestimated by a little, here or
/// by others.
const CROWDED_GAIN: f64 = 0.96;
/// Slow enough to see, on a lossy path without a queue that shows, the loss that stays when the sender
/// is slower than it.
const LONG_DOWN_GAIN: f64 = 0.75;
/// On such a path one phase down in this many is such a long one; the first few all are.
const LONG_EVERY: u32 = 4;
const LONG_FIRST: u32 = 3;
/// A long phase down never takes longer, nanoseconds.
const LONG_MAX_NS: Nanos = 2_000_000_000;
/// Between two tries for more pass two to three seconds, or this many rounds if those are shorter;
/// with fewer frames in flight than the larger number, as many rounds as frames, so that a Reno
/// flow beside us gets its share.
const WAIT_NS: Nanos = 2_000_000_000;
const WAIT_ROUNDS: (u64, u64) = (12, 24);
/// Rounds after which what comes back was sent after the phase up.
const SETTLED: u64 = 2;
/// Growth of the rate in a round for which probing up goes on.
const UP_GROWTH: f64 = 1.1;
/// With others on the path a phase up ends when the rate has grown by so much: they may be giving way for a
/// moment only.
const SHARED_GROWTH: f64 = 1.35;
/// A phase up ends after so many round trips whatever it finds.
const UP_MAX_RTTS: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Down,
    Cruise,
    Refill,
    Up,
}

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) phase: Phase,
    since: Nanos,
    /// When the last phase down began.
    cycle_at: Nanos,
    rounds: u64,
    wait: Nanos,
    wait_rounds: u64,
    up_rounds: u32,
    /// Rate at the last look while probing up, and whether it grew since the one before.
    up_bw: u64,
    /// Rate that it ends at, and whether a queue stood while cruising before.
    up_until: f64,
    shared: bool,
    /// Round trip when it began.
    up_rtt: Nanos,
    growing: bool,
    pub(super) crowded: bool,
    long_down: bool,
    downs: u32,
    seed: u64,
}

impl Probe {
    pub(super) fn new(seed: u64) -> Probe {
        Probe {
            phase: Phase::Down,
            since: 0,
            cycle_at: 0,
            rounds: 0,
            wait: WAIT_NS,
            wait_rounds: WAIT_ROUNDS.1,
            up_rounds: 0,
            up_bw: 0,
            up_until: f64::INFINITY,
            shared: false,
            up_rtt: 0,
            growing: false,
            crowded: false,
            long_down: false,
            downs: 0,
            seed: seed ^ 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(super) fn gain(&self) -> f64 {
        match self.phase {
            Phase::Up => UP_GAIN,
            Phase::Down if self.long_down => LONG_DOWN_GAIN,
            Phase::Down => DOWN_GAIN,
            Phase::Cruise if self.crowded => CROWDED_GAIN,
            Phase::Cruise | Phase::Refill => 1.0,
        }
    }

    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Tries for more again after `rounds` more rounds, and up to as many again.
    pub(super) fn retry_after(&mut self, rounds: u64) {
        let at = self.rounds + rounds + self.random() % rounds.max(1);
        self.wait_rounds = self.wait_rounds.min(at);
    }

    /// Flows that share a path must not probe in step.
    fn draw_wait(&mut self, frames_in_flight: u64) {
        let (least, most) = WAIT_ROUNDS;
        self.wait = WAIT_NS + self.random() % (WAIT_NS / 2);
        let rounds = frames_in_flight.clamp(least, most);
        self.wait_rounds = rounds + self.random() % (rounds / 2).max(1);
    }
}

impl Bbr {
    /// In a phase that congests the path on purpose, or still seeing what it did.
    pub(super) fn probing(&self) -> bool {
        match self.state {
            State::Startup | State::Drain => true,
            State::ProbeRtt => false,
            State::ProbeBw => match self.probe.phase {
                Phase::Refill | Phase::Up => true,
                // A queue that drains fast ends the phase down before that.
                Phase::Down | Phase::Cruise => self.probe.rounds < SETTLED,
            },
        }
    }

    fn enter_phase(&mut self, phase: Phase, now: Nanos) {
        self.state = State::ProbeBw;
        self.probe.phase = phase;
        self.probe.since = now;
    }

    pub(super) fn enter_cruise(&mut self, now: Nanos) {
        self.enter_phase(Phase::Cruise, now);
    }

    pub(super) fn enter_down(&mut self, now: Nanos) {
        let frames = self.bdp(self.bandwidth(), 1.0) / self.frame;
        let p = &mut self.probe;
        p.draw_wait(frames);
        p.cycle_at = now;
        p.rounds = 0;
        p.downs = p.downs.wrapping_add(1);
        let turn = p.downs <= LONG_FIRST || p.downs.is_multiple_of(LONG_EVERY);
        p.long_down = turn && self.loss.wants_slow();
        self.loss.take_measured();
        self.enter_phase(Phase::Down, now);
    }

    fn time_to_probe(&self, now: Nanos) -> bool {
        let p = &self.probe;
        p.rounds >= p.wait_rounds || now.saturating_sub(p.cycle_at) >= p.wait
    }

    fn drained(&mut self, s: &AckSample) -> bool {
        let spent = s.now.saturating_sub(self.probe.since);
        if self.probe.long_down {
            return self.loss.take_measured() || spent > LONG_MAX_NS;
        }
        let bdp = self.bdp(self.max_bandwidth(), 1.0).max(self.min_cwnd());
        spent > self.rtt() && s.in_flight <= bdp.min(self.bounds.with_headroom())
    }

    /// One acknowledgement in ProbeBW.
    pub(super) fn advance_probe(&mut self, s: &AckSample, round_start: bool, congested: bool) {
        self.probe.rounds += u64::from(round_start);
        self.probe.crowded = self
            .bounds
            .crowded(self.min_rtt, self.loss.near(self.min_rtt));
        self.probe.shared |= self.probe.crowded && self.probe.phase == Phase::Cruise;
        let settling = matches!(self.probe.phase, Phase::Down | Phase::Cruise);
        if round_start && self.probe.rounds == SETTLED && settling {
            self.loss.restart();
        }
        let spent = s.now.saturating_sub(self.probe.since);
        if self.probe.phase == Phase::Down && self.drained(s) {
            self.enter_cruise(s.now);
            return;
        }
        match self.probe.phase {
            Phase::Down | Phase::Cruise => {
                let long = self.probe.phase == Phase::Down && self.probe.long_down;
                if !long && self.time_to_probe(s.now) {
                    self.bounds.lift();
                    self.loss.restart();
                    self.probe.rounds = 0;
                    self.enter_phase(Phase::Refill, s.now);
                }
            }
            Phase::Refill => {
                if round_start && spent >= self.rtt() {
                    self.probe.up_rounds = 0;
                    self.probe.up_bw = self.max_bandwidth();
                    self.probe.up_until = match std::mem::take(&mut self.probe.shared) {
                        true => SHARED_GROWTH * self.probe.up_bw as f64,
                        false => f64::INFINITY,
                    };
                    self.probe.up_rtt = s.rtt.unwrap_or(self.rtt());
                    // A new cycle: the filter forgets the one before last.
                    if !s.app_limited {
                        self.bw = [0, self.bw[0]];
                        self.loss.new_cycle();
                    }
                    self.enter_phase(Phase::Up, s.now);
                }
            }
            Phase::Up => self.probe_up(s, round_start, congested, spent),
        }
    }

    fn probe_up(&mut self, s: &AckSample, round_start: bool, congested: bool, spent: Nanos) {
        if congested {
            self.inflight_too_high(s);
            self.enter_down(s.now);
            return;
        }
        self.probe.up_rounds += u32::from(round_start);
        // The bound follows while it is what keeps the flight small: faster each round.
        let hi = self.bounds.inflight_hi;
        if hi != u64::MAX && s.prior_in_flight + 2 * self.quantum() >= hi {
            let slope = 0.25 * f64::from(1 << self.probe.up_rounds.min(2));
            let hi = hi.saturating_add((s.acked_bytes as f64 * slope) as u64);
            let free = hi > 2 * self.target(super::UP_CWND_GAIN);
            self.bounds.inflight_hi = if free { u64::MAX } else { hi };
        }
        let bw = self.max_bandwidth();
        if round_start {
            self.probe.growing = bw as f64 >= self.probe.up_bw as f64 * UP_GROWTH;
            if self.probe.growing {
                self.probe.up_bw = bw;
            }
        }
        // What comes back in the first round was sent before.
        let tried = self.probe.up_rounds >= 3 && !self.probe.growing;
        let full = spent > self.rtt() && s.prior_in_flight >= self.bdp(bw, UP_GAIN);
        // Only what this very probing added: others may have had a queue there before.
        let queue = self.probe.up_rtt + (self.rtt() / 5).max(super::MIN_MODEL_RTT_NS / 2);
        let queued = s.rtt.is_some_and(|r| r > queue);
        if full && (tried || queued)
            || spent > UP_MAX_RTTS * self.rtt().max(super::MIN_MODEL_RTT_NS)
        {
            self.enter_down(s.now);
        } else if bw as f64 > self.probe.up_until {
            self.enter_down(s.now);
            self.probe.retry_after(super::bounds::RETRY_ROUNDS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::cc::{CcConfig, CcKind};

    fn bbr() -> Bbr {
        Bbr::new(&CcConfig {
            kind: CcKind::Bbr,
            max_rate: None,
            frame: 1448,
            initial_rtt: 10_000_000,
            seed: 1,
        })
    }

    #[test]
    fn what_is_added_whatever_the_rate_grows_with_the_root_of_the_flight() {
        let mut b = bbr();
        b.min_rtt = Some(100_000_000);
        let mut frames = |in_flight: u64| {
            b.bw = [in_flight * 1448 * 10, 0];
            b.up_step() / (1448.0 * 10.0)
        };
        assert!((frames(10) - 8.0).abs() < 0.01);
        assert!((frames(100) - 8.0).abs() < 0.1);
        assert!((frames(10_000) - 80.0).abs() < 0.1);
    }

    #[test]
    fn who_gave_way_tries_again_soon_and_never_later_than_it_would_have() {
        let mut b = bbr();
        b.enter_down(0);
        b.probe.rounds = 3;
        b.probe.retry_after(8);
        assert!((11..19).contains(&b.probe.wait_rounds));
        b.probe.wait_rounds = 5;
        b.probe.retry_after(8);
        assert_eq!(b.probe.wait_rounds, 5);
    }

    #[test]
    fn what_probing_lost_is_no_congestion_however_fast_its_queue_drains() {
        let mut b = bbr();
        b.enter_down(0);
        assert!(b.probing());
        b.probe.rounds = SETTLED - 1;
        b.enter_cruise(1_000_000);
        assert!(b.probing());
        b.probe.rounds = SETTLED;
        assert!(!b.probing());
    }
}
