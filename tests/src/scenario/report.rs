//! What a run found.

use super::Scenario;
use super::host::Count;
use super::link::LinkStats;
use ctp96::base::Nanos;

/// Percentiles, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// Median.
    pub p50: Nanos,
    /// 99 %.
    pub p99: Nanos,
    /// 99.9 %.
    pub p999: Nanos,
    /// Largest.
    pub max: Nanos,
}

impl Percentiles {
    pub(crate) fn of(values: &mut [Nanos]) -> Percentiles {
        values.sort_unstable();
        let at = |share: f64| {
            let i = (values.len() as f64 * share) as usize;
            values.get(i.min(values.len().saturating_sub(1))).copied()
        };
        Percentiles {
            p50: at(0.5).unwrap_or(0),
            p99: at(0.99).unwrap_or(0),
            p999: at(0.999).unwrap_or(0),
            max: values.last().copied().unwrap_or(0),
        }
    }
}

/// What one session or lane got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionReport {
    /// Payload delivered in order, bytes per second.
    pub goodput: f64,
    /// From a slot's first symbol sent (or when a message was due) to its delivery in order.
    pub latency: Percentiles,
}

/// Figures between [`Scenario::warm`] and [`Scenario::end`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Payload delivered in order, bytes per second, all sessions.
    pub goodput: f64,
    /// That over what the link could carry: rate x (1 - loss), headers taken off.
    pub share: f64,
    /// Bytes on the wire, both ways, beyond the first transmission of data, over these.
    pub overhead: f64,
    /// Of that: acknowledgements and pings.
    pub control: f64,
    /// Repair symbols sent.
    pub repair: u64,
    /// Data symbols sent again.
    pub resent: u64,
    /// Delivery latency over all slots.
    pub latency: Percentiles,
    /// Wait in the bottleneck's queue, nanoseconds: largest and 99 %.
    pub queue: Percentiles,
    /// Share of frames that the queue or policer dropped.
    pub drops: f64,
    /// Each session.
    pub sessions: Vec<SessionReport>,
    /// Each lane, session by session.
    pub lanes: Vec<SessionReport>,
    /// Payload delivered in order in each hundredth of the time, bytes.
    pub curve: Vec<u64>,
    /// Frames that the simulator carried in the whole run.
    pub frames: u64,
    /// Probe timeouts in the whole run.
    pub pto: u64,
    /// Frames counted lost that arrived after all, in the whole run.
    pub late: u64,
    /// Repair symbols that a receiver had no buffer for, in the whole run.
    pub refused: u64,
}

impl Report {
    /// Jain's fairness index of the sessions' goodput (Jain, Chiu, Hawe 1984): 1 where all are equal.
    pub fn jain(&self) -> f64 {
        jain(self.sessions.iter().map(|s| s.goodput))
    }

    /// Largest wait in the queue over the round trip: the queue in bandwidth-delay products.
    pub fn queue_bdp(&self, s: &Scenario) -> f64 {
        self.queue.max as f64 / s.path.rtt as f64
    }
}

/// Jain's index of any shares.
pub fn jain(shares: impl Iterator<Item = f64>) -> f64 {
    let (mut n, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for x in shares {
        n += 1.0;
        sum += x;
        squares += x * x;
    }
    if squares > 0.0 {
        sum * sum / (n * squares)
    } else {
        0.0
    }
}

/// Collects while a run goes on.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) now: Count,
    pub(crate) at_warm: Count,
    pub(crate) sent: u64,
    pub(crate) sent_at_warm: u64,
    pub(crate) drops_at_warm: u64,
    pub(crate) latency: Vec<Vec<Nanos>>,
    pub(crate) delivered: Vec<u64>,
    pub(crate) waits: Vec<Nanos>,
    pub(crate) max_wait: Nanos,
    pub(crate) curve: Vec<u64>,
}

impl Tally {
    pub(crate) fn report(mut self, s: &Scenario, link: &LinkStats) -> Report {
        let secs = (s.end - s.warm) as f64 / 1e9;
        let (a, b) = (self.at_warm, self.now);
        let first = (b.first - a.first).max(1) as f64;
        let control = (b.control - a.control) as f64;
        let beyond = (b.repair - a.repair + b.resent - a.resent) as f64 + control;
        let goodput = (b.delivered - a.delivered) as f64 / secs;
        let arrives = (1.0 - s.path.loss.share()) * (1.0 - s.path.corrupt);
        let wire = s.path.capacity(s.warm, s.end) / secs * arrives;
        let bound = wire * f64::from(s.symbol_len()) / s.wire_frame() as f64;
        let sent = (self.sent - self.sent_at_warm).max(1) as f64;
        let mut queue = Percentiles::of(&mut self.waits);
        queue.max = self.max_wait;
        let got = |latency: &mut [Nanos], bytes: u64| SessionReport {
            goodput: bytes as f64 / secs,
            latency: Percentiles::of(latency),
        };
        let mut sessions = Vec::new();
        let mut from = 0;
        for session in &s.sessions {
            let to = from + session.lanes.len();
            let bytes = self.delivered[from..to].iter().sum();
            sessions.push(got(&mut self.latency[from..to].concat(), bytes));
            from = to;
        }
        let lanes = self
            .latency
            .iter_mut()
            .zip(&self.delivered)
            .map(|(l, &bytes)| got(l, bytes))
            .collect();
        let mut all: Vec<Nanos> = self.latency.concat();
        Report {
            goodput,
            share: goodput / bound,
            overhead: beyond / first,
            control: control / first,
            repair: b.repair_symbols - a.repair_symbols,
            resent: b.resent_symbols - a.resent_symbols,
            latency: Percentiles::of(&mut all),
            queue,
            drops: (link.queue_drops - self.drops_at_warm) as f64 / sent,
            sessions,
            lanes,
            curve: self.curve,
            frames: self.sent,
            pto: 0,
            late: 0,
            refused: 0,
        }
    }
}
