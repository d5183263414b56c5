//! The run itself: one loop over virtual time.

use super::host::{Receiver, Sender};
use super::link::Link;
use super::report::{Report, Tally};
use super::{HEADERS, Scenario};
use ctp96::base::Nanos;
use ctp96::base::limits::FRAME_OVERHEAD;
use ctp96::proto::TxSymbol;
use ctp96::wire::Message;
use ctp96::wire::ack::Ack;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Every so many frames the wait in the queue is kept for percentiles; the largest always is.
const SAMPLE_WAIT: u64 = 16;

/// What comes back from a receiver, or goes to one outside of the data's queue.
#[derive(Clone)]
enum Control {
    Ack(Box<Ack>),
    Ping,
}

/// The earliest wake-up of each of many lanes.
struct Timers {
    at: Vec<Nanos>,
    heap: BinaryHeap<Reverse<(Nanos, usize)>>,
}

impl Timers {
    fn new(n: usize) -> Timers {
        Timers {
            at: vec![Nanos::MAX; n],
            heap: BinaryHeap::new(),
        }
    }

    fn set(&mut self, lane: usize, at: Option<Nanos>) {
        let at = at.unwrap_or(Nanos::MAX);
        if self.at[lane] != at {
            self.at[lane] = at;
            if at != Nanos::MAX {
                self.heap.push(Reverse((at, lane)));
            }
        }
    }

    fn next(&mut self) -> Option<Nanos> {
        while let Some(&Reverse((at, lane))) = self.heap.peek() {
            if self.at[lane] == at {
                return Some(at);
            }
            self.heap.pop();
        }
        None
    }

    fn pop_due(&mut self, now: Nanos) -> Option<usize> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, lane)) = self.heap.pop()?;
        self.at[lane] = Nanos::MAX;
        Some(lane)
    }
}

/// Lanes to look at in this step, each once.
struct Touched {
    list: Vec<usize>,
    is: Vec<bool>,
}

impl Touched {
    fn new(n: usize) -> Touched {
        Touched {
            list: Vec::with_capacity(n),
            is: vec![false; n],
        }
    }

    fn add(&mut self, lane: usize) {
        if !self.is[lane] {
            self.is[lane] = true;
            self.list.push(lane);
        }
    }

    fn take(&mut self, into: &mut Vec<usize>) {
        into.clear();
        into.append(&mut self.list);
        for &l in into.iter() {
            self.is[l] = false;
        }
    }
}

struct Sim<'a> {
    s: &'a Scenario,
    now: Nanos,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    ahead: Link<(usize, TxSymbol)>,
    back: Link<(usize, Control)>,
    tx_timers: Timers,
    rx_timers: Timers,
    tx_touched: Touched,
    rx_touched: Touched,
    tally: Tally,
}

/// Runs a scenario.
///
/// # Panics
/// Where the protocol core breaks one of its own rules: a packet number used twice, a frame beyond
/// the credit, an acknowledgement that the sender calls dishonest.
pub fn run(s: &Scenario) -> Report {
    let mut senders = Vec::new();
    for (i, session) in s.sessions.iter().enumerate() {
        let path = Sender::path(s, i);
        for lane in 0..session.lanes.len() {
            senders.push(Sender::new(s, i, lane, &path));
        }
    }
    let n = senders.len();
    let mut sim = Sim {
        s,
        now: 0,
        senders,
        receivers: (0..n).map(|_| Receiver::new(s)).collect(),
        ahead: Link::new(&s.path, s.seed ^ 1, true),
        back: Link::new(&s.path, s.seed ^ 2, false),
        tx_timers: Timers::new(n),
        rx_timers: Timers::new(n),
        tx_touched: Touched::new(n),
        rx_touched: Touched::new(n),
        tally: Tally {
            latency: vec![Vec::new(); n],
            delivered: vec![0; n],
            curve: vec![0; 100],
            ..Tally::default()
        },
    };
    sim.go();
    let (mut pto, mut late) = (0, 0);
    for x in &sim.senders {
        pto += x.tx.stats().pto_fired;
        late += x.tx.stats().late_frames;
    }
    let refused = sim.receivers.iter().map(|r| r.refused).sum();
    Report {
        pto,
        late,
        refused,
        ..sim.tally.report(s, &sim.ahead.stats)
    }
}

impl Sim<'_> {
    /// The receiver's clock: it also began a while ago.
    fn far(&self, t: Nanos) -> Nanos {
        let skew = t as i128 * self.s.skew_ppm as i128 / 1_000_000;
        (t as i128 + skew) as Nanos + 1_000_000_000
    }

    /// The sender's clock when the receiver's says `t`.
    fn near(&self, t: Nanos) -> Nanos {
        let t = t.saturating_sub(1_000_000_000) as i128;
        (t * 1_000_000 / (1_000_000 + self.s.skew_ppm as i128)) as Nanos + 1
    }

    fn go(&mut self) {
        let n = self.senders.len();
        for lane in 0..n {
            self.tx_timers.set(lane, Some(self.senders[lane].start));
        }
        let mut lanes = Vec::with_capacity(n);
        let mut warm = false;
        loop {
            let next = [
                self.ahead.next_arrival(),
                self.back.next_arrival(),
                self.tx_timers.next(),
                self.rx_timers.next(),
            ];
            let Some(t) = next.into_iter().flatten().min() else {
                return;
            };
            // At the first step of the hosts at or after it, and never twice in one step.
            let step = self.s.step;
            let t = t.div_ceil(step) * step;
            self.now = t.max(self.now + if self.now == 0 { 0 } else { step });
            if self.now >= self.s.end {
                return;
            }
            if !warm && self.now >= self.s.warm {
                warm = true;
                self.tally.at_warm = self.tally.now;
                self.tally.sent_at_warm = self.tally.sent;
                self.tally.drops_at_warm = self.ahead.stats.queue_drops;
            }
            self.receive(warm, &mut lanes);
            self.send(warm, &mut lanes);
        }
    }

    fn receive(&mut self, warm: bool, lanes: &mut Vec<usize>) {
        let now = self.far(self.now);
        while let Some((ce, (lane, symbol))) = self.ahead.arrived(self.now) {
            self.receivers[lane].on_symbol(now, &symbol, ce);
            self.rx_touched.add(lane);
        }
        while let Some(lane) = self.rx_timers.pop_due(self.now) {
            self.rx_touched.add(lane);
        }
        self.rx_touched.take(lanes);
        let at = (self.now as u128 * 100 / self.s.end as u128) as usize;
        for &lane in lanes.iter() {
            let latency = &mut self.tally.latency[lane];
            let r = &mut self.receivers[lane];
            let bytes = r.take(self.now, now, |ns| {
                if warm {
                    latency.push(ns);
                }
            });
            self.tally.now.delivered += bytes;
            self.tally.curve[at] += bytes;
            if warm {
                self.tally.delivered[lane] += bytes;
            }
            if let Some((len, ack)) = r.ack(now, self.s.inflight_limit) {
                self.tally.now.control += len;
                self.back
                    .send(self.now, len, (lane, Control::Ack(Box::new(ack))));
            }
            let due = self.receivers[lane].rx.next_timeout().map(|t| self.near(t));
            self.rx_timers.set(lane, due);
        }
    }

    fn send(&mut self, warm: bool, lanes: &mut Vec<usize>) {
        let now = self.now;
        while let Some((_, (lane, control))) = self.back.arrived(now) {
            match control {
                Control::Ack(ack) => {
                    self.senders[lane].on_ack(now, &ack);
                    self.tx_touched.add(lane);
                }
                // A ping crosses with the delay of the way there; it is not worth a link of its own.
                Control::Ping => {
                    let far = self.far(now);
                    self.receivers[lane].rx.request_ack(far);
                    self.rx_timers.set(lane, Some(now));
                }
            }
        }
        while let Some(lane) = self.tx_timers.pop_due(now) {
            self.tx_touched.add(lane);
        }
        self.tx_touched.take(lanes);
        for &lane in lanes.iter() {
            let (ahead, tally) = (&mut self.ahead, &mut self.tally);
            let (mut count, mut sent) = (tally.now, 0);
            let more =
                self.senders[lane].pump(now, &mut self.receivers[lane], &mut count, |len, s| {
                    sent += 1;
                    let Some(wait) = ahead.send(now, len, (lane, s)) else {
                        return;
                    };
                    if warm {
                        tally.max_wait = tally.max_wait.max(wait);
                        if (tally.sent + sent).is_multiple_of(SAMPLE_WAIT) {
                            tally.waits.push(wait);
                        }
                    }
                });
            self.tally.now = count;
            self.tally.sent += sent;
            if self.senders[lane].tx.take_ping_owed() {
                let ping = Message::Ping { id: 0, t: 0 }.encoded_len() + FRAME_OVERHEAD;
                let len = ping as u64 + HEADERS;
                self.tally.now.control += len;
                self.back.send(now, len, (lane, Control::Ping));
            }
            let next = if more {
                Some(now)
            } else {
                self.senders[lane].next_timeout(now)
            };
            self.tx_timers.set(lane, next);
        }
    }
}
