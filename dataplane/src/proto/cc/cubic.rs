//! CUBIC (RFC 9438) with HyStart++ (RFC 9406), for comparison. Every loss is congestion to it: on
//! paths that lose by themselves it is slow by design.

use super::{AckSample, CcConfig, Controller};
use crate::base::Nanos;
use crate::proto::pacer::SUPER_PACKET;

/// RFC 9438: decrease, and growth in frames per second cubed.
const BETA: f64 = 0.7;
const C: f64 = 0.4;
/// Growth that matches Reno on short paths: 3 (1 - beta) / (1 + beta).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// HyStart++: bounds of the round-trip growth that ends slow start, samples of a round, divisor of growth
/// in conservative slow start and its rounds.
const RTT_THRESH: (Nanos, Nanos) = (4_000_000, 16_000_000);
const RTT_SAMPLES: u32 = 8;
const CSS_DIVISOR: f64 = 4.0;
const CSS_ROUNDS: u32 = 5;
/// Pace over window per round trip: twice in slow start, a fifth more later, as Linux does.
const PACE: (f64, f64) = (2.0, 1.2);

/// See the module's text.
#[derive(Debug)]
pub struct Cubic {
    frame: f64,
    cwnd: f64,
    ssthresh: f64,
    /// Window before the last decrease, frames; when growth from it began; time to reach it again, s.
    w_max: f64,
    epoch: Option<Nanos>,
    k: f64,
    w_est: f64,
    srtt: Nanos,
    initial_rtt: Nanos,
    next_round: u64,
    /// Losses of frames sent before this much was delivered belong to the decrease that was made.
    recovery_until: u64,
    round_min: Nanos,
    last_round_min: Nanos,
    samples: u32,
    /// Conservative slow start: its round, and the round trip at its start.
    css: Option<(u32, Nanos)>,
    saved: Option<(f64, f64)>,
}

impl Cubic {
    /// Starts as the default controller does.
    pub fn new(cfg: &CcConfig) -> Cubic {
        let frame = cfg.frame.max(1) as f64;
        Cubic {
            frame,
            cwnd: (SUPER_PACKET as f64 / frame).max(10.0),
            ssthresh: f64::INFINITY,
            w_max: 0.0,
            epoch: None,
            k: 0.0,
            w_est: 0.0,
            srtt: 0,
            initial_rtt: cfg.initial_rtt.max(100_000),
            next_round: 0,
            recovery_until: 0,
            round_min: Nanos::MAX,
            last_round_min: Nanos::MAX,
            samples: 0,
            css: None,
            saved: None,
        }
    }

    fn slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    fn hystart(&mut self, s: &AckSample, round_start: bool) {
        if round_start {
            self.last_round_min = self.round_min;
            self.round_min = Nanos::MAX;
            self.samples = 0;
            if let Some((rounds, _)) = &mut self.css {
                *rounds += 1;
                if *rounds >= CSS_ROUNDS {
                    self.ssthresh = self.cwnd;
                    self.css = None;
                    return;
                }
            }
        }
        let Some(rtt) = s.rtt else { return };
        self.round_min = self.round_min.min(rtt);
        self.samples += 1;
        if self.samples < RTT_SAMPLES || self.last_round_min == Nanos::MAX {
            return;
        }
        match self.css {
            None => {
                let grown = (self.last_round_min / 8).clamp(RTT_THRESH.0, RTT_THRESH.1);
                if self.round_min >= self.last_round_min.saturating_add(grown) {
                    self.css = Some((0, self.last_round_min));
                }
            }
            // The delay was a passing one.
            Some((_, base)) if self.round_min < base => self.css = None,
            Some(_) => {}
        }
    }

    fn grow(&mut self, s: &AckSample) {
        let acked = s.acked_bytes as f64 / self.frame;
        if self.slow_start() {
            let divisor = if self.css.is_some() { CSS_DIVISOR } else { 1.0 };
            self.cwnd = (self.cwnd + acked / divisor).min(self.ssthresh.max(self.cwnd));
            return;
        }
        let now = s.now;
        let rtt = self.srtt as f64 / 1e9;
        let epoch = match self.epoch {
            Some(e) => e,
            None => {
                self.epoch = Some(now);
                self.w_est = self.cwnd;
                self.w_max = self.w_max.max(self.cwnd);
                self.k = ((self.w_max - self.cwnd) / C).max(0.0).cbrt();
                now
            }
        };
        let t = now.saturating_sub(epoch) as f64 / 1e9;
        let target = C * (t + rtt - self.k).powi(3) + self.w_max;
        let alpha = if self.w_est < self.w_max { ALPHA } else { 1.0 };
        self.w_est += alpha * acked / self.cwnd;
        let target = target.clamp(self.cwnd, 1.5 * self.cwnd);
        self.cwnd += (target - self.cwnd) * (acked / self.cwnd).min(1.0);
        self.cwnd = self.cwnd.max(self.w_est);
    }

    fn decrease(&mut self) {
        // Fast convergence: a flow that lost before it came back leaves room for a new one.
        self.w_max = match self.cwnd < self.w_max {
            true => self.cwnd * (1.0 + BETA) / 2.0,
            false => self.cwnd,
        };
        self.cwnd = (self.cwnd * BETA).max(2.0);
        self.ssthresh = self.cwnd;
        self.epoch = None;
        self.css = None;
    }
}

impl Controller for Cubic {
    fn on_ack(&mut self, s: &AckSample) {
        if let Some(rtt) = s.rtt {
            self.srtt = match self.srtt {
                0 => rtt,
                old => old - old / 8 + rtt / 8,
            };
        }
        if s.acked_bytes > 0 {
            // What a timeout took away comes back with the first delivery: the path was dark, not full.
            if let Some((cwnd, ssthresh)) = self.saved.take() {
                (self.cwnd, self.ssthresh) = (cwnd.max(2.0), ssthresh);
            }
        }
        let round_start = s.acked_bytes > 0 && s.prior_delivered >= self.next_round;
        if round_start {
            self.next_round = s.delivered;
        }
        if s.lost_frames + s.ce_frames > 0 {
            if s.delivered >= self.recovery_until {
                self.recovery_until = s.delivered + s.in_flight.max(1);
                self.decrease();
            }
            return;
        }
        if self.slow_start() {
            self.hystart(s, round_start);
        }
        // RFC 9438 section 5.8: no growth while the application is the limit.
        let used = s.prior_in_flight as f64 >= self.cwnd * self.frame / 2.0;
        if s.acked_bytes > 0 && used && s.delivered >= self.recovery_until {
            self.grow(s);
        }
    }

    fn on_pto(&mut self, count: u32) {
        if count >= 3 && self.saved.is_none() {
            let half = (self.cwnd * BETA).max(2.0);
            self.saved = Some((half, half));
            self.cwnd = 2.0;
            self.epoch = None;
        }
    }

    fn on_idle_restart(&mut self, _now: Nanos) {
        self.epoch = None;
    }

    fn cwnd(&self) -> u64 {
        (self.cwnd * self.frame).min((1u64 << 50) as f64) as u64
    }

    fn pacing_rate(&self) -> u64 {
        let rtt = match self.srtt {
            0 => self.initial_rtt,
            rtt => rtt,
        };
        let gain = if self.slow_start() { PACE.0 } else { PACE.1 };
        let rate = gain * self.cwnd * self.frame * 1e9 / rtt.max(1) as f64;
        rate.clamp(1.0, 1e15) as u64
    }

    fn name(&self) -> &'static str {
        "cubic"
    }
}
