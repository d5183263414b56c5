//! The rows of the table and their floors.

use ctp96::base::Nanos;
use tests::scenario::{Loss, MS, Path, Report, SEC, Scenario, Shaper};

pub const HELP: &str = "\
The scenario table of CTP-96: the shipped protocol core over simulated paths, in virtual time.

usage: cargo test -p tests --test scenarios [-- NAME...]

NAME     only rows whose name contains one of these, e.g. 200G or 'reorder'
CTP96_SCENARIOS=all    more rows, and three seeds for each

Exit code 1 if a row misses its floor.";

pub const WHY: &str = "\
goodput: payload delivered in order over rate x (1 - loss) less headers. overhead: bytes on the wire both
ways beyond first transmissions of data, over these; control is its part for acknowledgements. latency:
from a slot's first symbol to its delivery in order. queue: largest wait for the bottleneck over the
round trip. repair, resent: symbols. Figures begin after 30 round trips.
Floors: 95, 90, 80 % at up to 0.1, 1, 5 % loss and overhead at most 1.5 x loss + 1 %; 95 % without loss,
with no repair symbol and overhead below 1 %; queue below 1.25 BDP where the sender is alone and the
path is longer than its hosts' scheduling (from 1 ms). Other floors: the measured figure less a
twentieth, for what no bound is set.";

pub struct Row {
    pub name: String,
    pub scenario: Scenario,
    /// Least share of the bound.
    pub least: f64,
    /// Most overhead.
    pub most_overhead: f64,
    /// Longest queue in bandwidth-delay products.
    pub most_queue: f64,
    /// Whether a repair symbol is a failure.
    pub no_repair: bool,
}

impl Row {
    fn new(name: impl Into<String>, scenario: Scenario) -> Row {
        let loss = scenario.path.loss.share() + scenario.path.corrupt;
        Row {
            name: name.into(),
            least: match loss {
                p if p <= 0.0011 => 0.95,
                p if p <= 0.011 => 0.90,
                _ => 0.80,
            },
            most_overhead: loss * 1.5 + 0.01,
            most_queue: 1.25,
            no_repair: loss == 0.0,
            scenario,
        }
    }

    /// Floors other than the usual ones: goodput, overhead, queue.
    fn floors(self, least: f64, most_overhead: f64, most_queue: f64) -> Row {
        Row {
            least,
            most_overhead,
            most_queue,
            ..self
        }
    }

    fn repair_allowed(self) -> Row {
        Row {
            no_repair: false,
            ..self
        }
    }

    pub fn missed(&self, r: &Report) -> Vec<String> {
        let mut m = Vec::new();
        if r.share < self.least {
            m.push(format!(
                "goodput {:.1} % below {:.1} %",
                r.share * 100.0,
                self.least * 100.0
            ));
        }
        if r.overhead > self.most_overhead {
            m.push(format!(
                "overhead {:.2} % above {:.2} %",
                r.overhead * 100.0,
                self.most_overhead * 100.0
            ));
        }
        let queue = r.queue_bdp(&self.scenario);
        if queue > self.most_queue {
            m.push(format!("queue {queue:.2} above {:.2} BDP", self.most_queue));
        }
        if self.no_repair && r.repair > 0 {
            m.push(format!("{} repair symbols on a clean path", r.repair));
        }
        m
    }
}

const G: f64 = 1e9;

fn mtu_for(rate: f64) -> usize {
    if rate > 10.0 * G { 9000 } else { 1500 }
}

fn grid(rate: f64, rtt: Nanos, loss: f64, seed: u64) -> Row {
    let mut path = Path::new(rate, rtt);
    if loss > 0.0 {
        path.loss = Loss::Random(loss);
        // Acknowledgements cross the same bad air.
        path.ack_loss = loss;
    }
    let name = format!(
        "{}G {} ms loss {} %",
        rate / G,
        rtt as f64 / 1e6,
        loss * 100.0
    );
    Row::new(name, Scenario::new(seed, path, mtu_for(rate)))
}

/// 10 Gb/s and 20 ms, which the odd paths start from.
fn base(seed: u64, change: impl FnOnce(&mut Path)) -> Scenario {
    let mut path = Path::new(10.0 * G, 20 * MS);
    change(&mut path);
    Scenario::new(seed, path, 1500)
}

pub fn rows(all: bool) -> Vec<Row> {
    let seeds: &[u64] = if all { &[1, 2, 3] } else { &[1] };
    let mut rows = Vec::new();
    for &seed in seeds {
        let rates = [1.0, 10.0, 100.0, 200.0];
        for loss in [0.0, 0.001, 0.01, 0.05] {
            for rtt in [MS, 20 * MS, 100 * MS] {
                rows.extend(rates.map(|r| grid(r * G, rtt, loss, seed)));
            }
        }
        if all {
            for loss in [0.0001, 0.02, 0.1] {
                for rtt in [5 * MS, 50 * MS] {
                    rows.extend(rates.map(|r| grid(r * G, rtt, loss, seed)));
                }
            }
        }
        rows.extend(short_and_very_long(seed));
        rows.extend(odd(seed));
    }
    rows
}

fn short_and_very_long(seed: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for rate in [1.0, 10.0, 200.0] {
        for loss in [0.0, 0.01] {
            let row = grid(rate * G, 50_000, loss, seed);
            // The window never goes below what hosts need that are scheduled by the millisecond.
            rows.push(Row {
                most_queue: f64::INFINITY,
                ..row
            });
        }
    }
    for rate in [1.0, 10.0] {
        rows.extend([0.0, 0.01].map(|loss| grid(rate * G, 200 * MS, loss, seed)));
    }
    rows
}

fn odd(seed: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    for (loss, mean) in [(0.001, 5.0), (0.01, 10.0), (0.05, 10.0), (0.01, 100.0)] {
        let s = base(seed, |p| p.loss = Loss::bursts(loss, mean));
        rows.push(Row::new(
            format!("bursts of {mean}, loss {} %", loss * 100.0),
            s,
        ));
    }
    for (share, by) in [(0.01, MS), (0.1, 5 * MS), (0.5, MS / 2), (0.02, 15 * MS)] {
        let s = base(seed, |p| (p.reorder, p.reorder_by) = (share, by));
        let name = format!("reorder {} % by {} ms", share * 100.0, by as f64 / 1e6);
        // The reordering must be met before it is known.
        rows.push(Row::new(name, s).repair_allowed());
    }
    let s = base(seed, |p| {
        (p.reorder, p.reorder_by, p.loss) = (0.05, 2 * MS, Loss::Random(0.01));
    });
    rows.push(Row::new("reorder 5 %, loss 1 %", s));
    rows.push(Row::new(
        "duplicate 2 %",
        base(seed, |p| p.duplicate = 0.02),
    ));
    rows.push(Row::new("corrupt 1 %", base(seed, |p| p.corrupt = 0.01)));
    rows.push(Row::new("ack loss 30 %", base(seed, |p| p.ack_loss = 0.3)));
    let s = base(seed, |p| {
        p.ack_loss = 0.6;
        p.loss = Loss::Random(0.001);
    });
    rows.push(Row::new("ack loss 60 %, loss 0.1 %", s));
    for ppm in [200, -200, 20_000] {
        let s = Scenario {
            skew_ppm: ppm,
            ..base(seed, |_| {})
        };
        rows.push(Row::new(format!("clock skew {ppm} ppm"), s));
    }
    for share in [4, 10] {
        let s = base(seed, |p| p.shaper = Shaper::TailDrop(p.bdp() / share));
        rows.push(
            Row::new(format!("queue of 1/{share} BDP"), s)
                .floors(0.85, 0.05, 1.25)
                .repair_allowed(),
        );
    }
    let s = base(seed, |p| p.shaper = Shaper::TailDrop(10 * p.bdp()));
    rows.push(Row::new("queue of 10 BDP", s));
    let s = base(seed, |p| p.shaper = Shaper::Policer(p.bdp() / 4));
    rows.push(
        Row::new("policer, burst 1/4 BDP", s)
            .floors(0.80, 0.08, 1.25)
            .repair_allowed(),
    );
    // A socket of 8 MiB holds a fifteenth of what this path has under way.
    let mut s = Scenario::new(seed, Path::new(10.0 * G, 100 * MS), 1500);
    s.inflight_limit = (8 << 20) / s.sessions[0].lanes.len() as u32;
    rows.push(Row::new("10G 100 ms, socket of 8 MiB", s));
    rows.push(rate_steps(seed));
    rows.push(blackhole(seed));
    let s = Scenario {
        warm: 2 * SEC,
        end: 32 * SEC,
        ..Scenario::new(seed, Path::new(G, 20 * MS), 1500)
    };
    rows.push(Row::new("1G 20 ms for 30 s", s));
    rows.push(everything(seed));
    rows
}

fn rate_steps(seed: u64) -> Row {
    let mut s = base(seed, |p| {
        let rate = p.rate[0].1;
        p.rate = vec![
            (0, rate),
            (2 * SEC, rate / 4),
            (4 * SEC, rate),
            (6 * SEC, rate / 2),
        ];
    });
    (s.warm, s.end) = (SEC, 8 * SEC);
    // The fall to a quarter finds a flight of four times the new product.
    Row::new("rate steps 10, 2.5, 10, 5G", s)
        .floors(0.85, 0.05, 8.0)
        .repair_allowed()
}

fn blackhole(seed: u64) -> Row {
    let mut path = Path::new(G, 20 * MS);
    path.blackhole = Some((2 * SEC, 12 * SEC));
    let mut s = Scenario::new(seed, path, 1500);
    (s.warm, s.end) = (SEC, 17 * SEC);
    Row::new("blackhole of 10 s", s)
        .floors(0.75, 0.10, 1.25)
        .repair_allowed()
}

fn everything(seed: u64) -> Row {
    let s = Scenario {
        skew_ppm: -100,
        ..base(seed, |p| {
            p.loss = Loss::bursts(0.02, 4.0);
            p.ack_loss = 0.2;
            (p.reorder, p.reorder_by) = (0.05, 2 * MS);
            p.duplicate = 0.01;
            p.corrupt = 0.002;
        })
    };
    Row::new("everything at once", s)
}
