//! A deterministic simulator of lanes over a bad link, in virtual time, and the invariants that hold
//! whatever the link does. Every failure names the seed of its run.

use super::*;
use crate::base::Nanos;
use crate::wire::ack::Ack;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const SYMBOL: u16 = 1408;
const FRAME: u64 = 1448;
const K: u8 = 64;
const MS: Nanos = 1_000_000;

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }
}

/// The link and the hosts at its ends.
#[derive(Clone, Copy)]
struct World {
    seed: u64,
    flows: usize,
    rate: u64,
    rtt: Nanos,
    /// Bytes that the bottleneck's queue holds.
    queue: u64,
    loss: f64,
    ack_loss: f64,
    /// Chance that an acknowledgement arrives twice. A second copy of a symbol never gets past the
    /// replay window, so it is not modelled.
    dup: f64,
    /// Chance that a frame takes an extra delay of up to half a round trip.
    reorder: f64,
    /// Every 2 ms a host stands still for up to this long.
    stall: Nanos,
    inflight_limit: u32,
    slots: u64,
    /// Symbols in slots: 64, or 1 to 64 by chance.
    mixed: bool,
    /// Nothing passes between these times.
    blackhole: (Nanos, Nanos),
    cc: CcKind,
}

impl World {
    fn new(seed: u64, rate: u64, rtt: Nanos, loss: f64) -> World {
        World {
            seed,
            flows: 1,
            rate,
            rtt,
            queue: (rate as f64 * rtt as f64 / 1e9) as u64 * 2 + 400_000,
            loss,
            ack_loss: 0.0,
            dup: 0.0,
            reorder: 0.0,
            stall: 0,
            inflight_limit: 64 << 20,
            slots: 1500,
            mixed: false,
            blackhole: (0, 0),
            cc: CcKind::Bbr,
        }
    }
}

enum Ev {
    Symbol(usize, TxSymbol),
    Ack(usize, Box<Ack>),
    Ping(usize),
    Wake,
}

struct Flow {
    tx: LaneTx,
    rx: LaneRx,
    pushed: u64,
    tx_done: Vec<bool>,
    rx_done: Vec<bool>,
    released: u64,
    last_pn: Option<u64>,
    unprocessed: u64,
    done_at: Vec<Nanos>,
    wake_at: Nanos,
}

#[derive(Debug)]
struct Report {
    stats: Vec<LaneTxStats>,
    /// Share of what the link or the window allows, after the first quarter.
    goodput: Vec<f64>,
    end: Nanos,
    tail_drops: u64,
    max_outstanding: u64,
}

struct Sim {
    w: World,
    rng: Rng,
    now: Nanos,
    seq: u64,
    heap: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    events: Vec<Option<Ev>>,
    free: Vec<usize>,
    flows: Vec<Flow>,
    busy_until: Nanos,
    tail_drops: u64,
    max_outstanding: u64,
}

impl Sim {
    fn new(w: World) -> Sim {
        let flows = (0..w.flows)
            .map(|i| Flow {
                tx: LaneTx::new(LaneTxConfig {
                    window_slots: 96,
                    symbol_len: SYMBOL,
                    inflight_limit: w.inflight_limit.min(128 << 10),
                    repair_ahead: RepairAhead::Adaptive,
                    cc: CcConfig {
                        kind: w.cc,
                        max_rate: None,
                        frame: FRAME,
                        initial_rtt: w.rtt,
                        seed: w.seed + i as u64,
                    },
                }),
                rx: LaneRx::new(LaneRxConfig {
                    window_slots: 96,
                    max_symbol_len: SYMBOL,
                }),
                pushed: 0,
                tx_done: vec![false; w.slots as usize],
                rx_done: vec![false; w.slots as usize],
                released: 0,
                last_pn: None,
                unprocessed: 0,
                done_at: vec![0; w.slots as usize],
                wake_at: u64::MAX,
            })
            .collect();
        Sim {
            rng: Rng(w.seed),
            w,
            now: 0,
            seq: 0,
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            flows,
            busy_until: 0,
            tail_drops: 0,
            max_outstanding: 0,
        }
    }

    fn at(&mut self, t: Nanos, ev: Ev) {
        let id = match self.free.pop() {
            Some(id) => {
                self.events[id] = Some(ev);
                id
            }
            None => {
                self.events.push(Some(ev));
                self.events.len() - 1
            }
        };
        self.seq += 1;
        self.heap.push(Reverse((t, self.seq, id)));
    }

    /// When a host that is to act at `t` really acts.
    fn scheduled(&self, t: Nanos) -> Nanos {
        if self.w.stall == 0 {
            return t;
        }
        let period = t / (2 * MS);
        let mut r = Rng(self.w.seed ^ period.wrapping_mul(77));
        let start = period * 2 * MS + r.next() % MS;
        let end = start + r.next() % self.w.stall;
        if (start..end).contains(&t) { end } else { t }
    }

    fn blackholed(&self) -> bool {
        (self.w.blackhole.0..self.w.blackhole.1).contains(&self.now)
    }

    fn transmit(&mut self, flow: usize, s: TxSymbol) {
        let len = u64::from(s.symbol_len) + 40;
        let ns = |bytes: u64, rate: u64| (bytes as u128 * 1_000_000_000 / rate as u128) as u64;
        let waiting = self.busy_until.saturating_sub(self.now);
        let queued = (waiting as u128 * self.w.rate as u128 / 1_000_000_000) as u64;
        if queued + len > self.w.queue {
            self.tail_drops += 1;
            self.flows[flow].unprocessed -= len;
            return;
        }
        self.busy_until = self.busy_until.max(self.now) + ns(len, self.w.rate);
        if self.rng.chance(self.w.loss) || self.blackholed() {
            self.flows[flow].unprocessed -= len;
            return;
        }
        let mut t = self.busy_until + self.w.rtt / 2;
        if self.rng.chance(self.w.reorder) {
            t += (self.rng.unit() * self.w.rtt as f64 / 2.0) as u64;
        }
        let t = self.scheduled(t);
        self.at(t, Ev::Symbol(flow, s));
    }

    fn pump_tx(&mut self, i: usize) {
        let w = self.w;
        let f = &mut self.flows[i];
        f.tx.on_timeout(self.now);
        while f.pushed < w.slots && f.tx.can_push() {
            let (k, len) = if w.mixed {
                let k = 1 + self.rng.next() % u64::from(K);
                (k as u8, 64 * (1 + self.rng.next() % 22) as u16)
            } else {
                (K, SYMBOL)
            };
            assert!(f.tx.push_slot(f.pushed, k, len));
            f.pushed += 1;
        }
        while let Some(s) = self.flows[i].tx.poll_send(self.now) {
            let f = &mut self.flows[i];
            assert!(f.last_pn.is_none_or(|p| s.pn > p), "pn, seed {}", w.seed);
            f.last_pn = Some(s.pn);
            assert!(s.slot < f.rx.credit(), "credit, seed {}", w.seed);
            assert!((s.index as usize) < s.k as usize + 32);
            f.unprocessed += u64::from(s.symbol_len) + 40;
            self.max_outstanding = self.max_outstanding.max(f.unprocessed);
            self.transmit(i, s);
        }
        let f = &mut self.flows[i];
        if f.tx.take_ping_owed() && !self.rng.chance(w.ack_loss) {
            let t = self.now + w.rtt / 2;
            self.at(t, Ev::Ping(i));
        }
    }

    fn pump_rx(&mut self, i: usize) {
        let f = &mut self.flows[i];
        f.released = f.rx.base();
        f.rx.released(self.now, f.released);
        if f.rx.ack_due(self.now) {
            let ack = f.rx.build_ack(self.now, f.released, self.w.inflight_limit);
            if !self.rng.chance(self.w.ack_loss) && !self.blackholed() {
                let mut t = self.now + self.w.rtt / 2;
                if self.rng.chance(self.w.reorder) {
                    t += (self.rng.unit() * self.w.rtt as f64 / 2.0) as u64;
                }
                let t = self.scheduled(t);
                if self.rng.chance(self.w.dup) {
                    self.at(t + self.w.rtt, Ev::Ack(i, Box::new(ack)));
                }
                self.at(t, Ev::Ack(i, Box::new(ack)));
            }
        }
    }

    fn on_symbol(&mut self, i: usize, s: TxSymbol) {
        let seed = self.w.seed;
        let f = &mut self.flows[i];
        f.unprocessed -= u64::from(s.symbol_len) + 40;
        match f.rx.admit(s.slot as u32, s.index, s.k, s.symbol_len) {
            Admit::Store { slot, .. } => {
                assert_eq!(slot, s.slot);
                let before = f.rx.slot_have(slot);
                let p =
                    f.rx.stored(self.now, slot, s.index, s.k, s.symbol_len, s.pn);
                assert!(!before.contains(s.index as usize));
                if matches!(p, Progress::Complete | Progress::NeedsDecode) {
                    assert!(!f.rx_done[slot as usize], "completed twice, seed {seed}");
                    f.rx_done[slot as usize] = true;
                    f.done_at[slot as usize] = self.now;
                }
            }
            Admit::Duplicate => f.rx.duplicate(self.now, s.pn),
            other => panic!("{other:?}, seed {seed}"),
        }
    }

    fn run(mut self) -> Report {
        let w = self.w;
        for i in 0..w.flows {
            self.pump_tx(i);
            self.rearm(i);
        }
        let limit = 2000 * MS * 1000;
        while let Some(Reverse((t, _, id))) = self.heap.pop() {
            assert!(t < limit, "no end in sight, seed {}", w.seed);
            self.now = self.now.max(t);
            let ev = self.events[id].take().unwrap();
            self.free.push(id);
            let mut touched = None;
            match ev {
                Ev::Symbol(i, s) => {
                    self.on_symbol(i, s);
                    touched = Some(i);
                }
                Ev::Ack(i, ack) => {
                    let f = &mut self.flows[i];
                    let done = &mut f.tx_done;
                    let rx_done = &f.rx_done;
                    let out = f.tx.on_ack(self.now, &ack, |slot| {
                        assert!(!done[slot as usize], "acked twice, seed {}", w.seed);
                        assert!(rx_done[slot as usize], "acked unreceived, seed {}", w.seed);
                        done[slot as usize] = true;
                    });
                    assert_eq!(out.rejected, None, "seed {}", w.seed);
                    touched = Some(i);
                }
                Ev::Ping(i) => {
                    self.flows[i].rx.request_ack(self.now);
                    touched = Some(i);
                }
                Ev::Wake => {}
            }
            for i in 0..w.flows {
                if touched == Some(i) || self.flows[i].wake_at <= self.now {
                    self.flows[i].wake_at = u64::MAX;
                    self.pump_rx(i);
                    self.pump_tx(i);
                    self.rearm(i);
                }
            }
            if self
                .flows
                .iter()
                .all(|f| f.tx.pending() == 0 && f.pushed == w.slots)
            {
                break;
            }
        }
        for f in &self.flows {
            assert!(f.tx_done.iter().all(|&d| d), "stuck, seed {}", w.seed);
            assert!(f.rx_done.iter().all(|&d| d));
        }
        Report {
            stats: self.flows.iter().map(|f| f.tx.stats()).collect(),
            goodput: self.flows.iter().map(|f| goodput(&w, f)).collect(),
            end: self.now,
            tail_drops: self.tail_drops,
            max_outstanding: self.max_outstanding,
        }
    }

    fn rearm(&mut self, i: usize) {
        let f = &mut self.flows[i];
        let t = [f.tx.next_timeout(self.now), f.rx.next_timeout()];
        let Some(t) = t.into_iter().flatten().min() else {
            return;
        };
        let t = t.max(self.now + 1);
        if t < f.wake_at {
            f.wake_at = t;
            let real = self.scheduled(t);
            self.flows[i].wake_at = real;
            self.at(real, Ev::Wake);
        }
    }
}

fn goodput(w: &World, f: &Flow) -> f64 {
    let from = w.slots as usize / 4;
    let mut done = f.done_at.clone();
    done.sort_unstable();
    let ns = (done[done.len() - 1] - done[from]).max(1);
    let bytes = (w.slots as usize - 1 - from) as f64 * f64::from(K) * f64::from(SYMBOL);
    let link = w.rate as f64 * (1.0 - w.loss) * f64::from(SYMBOL) / FRAME as f64;
    // With loss the oldest slot takes a second round trip, and credit waits for it.
    let rtts = if w.loss > 0.0 { 2.0 } else { 1.0 };
    let window = 96.0 * f64::from(K) * f64::from(SYMBOL) / (rtts * w.rtt as f64 / 1e9);
    bytes / (ns as f64 / 1e9) / link.min(window)
}

fn run(w: World) -> Report {
    Sim::new(w).run()
}

fn sent(s: &LaneTxStats) -> f64 {
    (s.first + s.repair + s.resent) as f64 / s.first as f64
}

const PATHS: [(u64, Nanos); 4] = [
    (2_000_000_000, MS / 10),
    (1_000_000_000, MS),
    (100_000_000, 20 * MS),
    (50_000_000, 100 * MS),
];

#[test]
fn a_clean_path_carries_no_repair_and_is_filled() {
    for (i, (rate, rtt)) in PATHS.into_iter().enumerate() {
        let mut w = World::new(i as u64, rate, rtt, 0.0);
        w.queue *= 4;
        let r = run(w);
        let s = r.stats[0];
        assert_eq!((s.repair, s.resent, s.lost_frames), (0, 0, 0), "rtt {rtt}");
        assert_eq!(s.first, w.slots * u64::from(K));
        println!(
            "clean rtt {:>6} us: {:5.1} %",
            rtt / 1000,
            r.goodput[0] * 100.0
        );
        assert!(r.goodput[0] > 0.8, "rtt {rtt}: {}", r.goodput[0]);
    }
}

#[test]
fn lossy_paths_keep_their_rate_within_bounded_overhead() {
    // Least share of the bound, most frames per data symbol.
    let want = [
        (0.001, 0.65, 1.02),
        (0.02, 0.65, 1.08),
        (0.1, 0.45, 1.25),
        (0.3, 0.25, 1.8),
    ];
    for (rate, rtt) in PATHS {
        for (loss, least, most) in want {
            let mut w = World::new(7, rate, rtt, loss);
            w.slots = 1000;
            // Deep enough that what is lost is lost by chance.
            w.queue *= 4;
            w.ack_loss = loss;
            let r = run(w);
            let s = r.stats[0];
            println!(
                "rtt {:>6} us loss {:>4.1} %: goodput {:5.1} % of bound, {:.3} frames per symbol, pto {}, late {}, drops {}, end {} ms",
                rtt / 1000,
                loss * 100.0,
                r.goodput[0] * 100.0,
                sent(&s),
                s.pto_fired,
                s.late_frames,
                r.tail_drops,
                r.end / MS
            );
            assert!(
                r.goodput[0] > least,
                "rtt {rtt} loss {loss}: {}",
                r.goodput[0]
            );
            assert!(sent(&s) < most, "rtt {rtt} loss {loss}: {}", sent(&s));
        }
    }
}

#[test]
fn every_kind_of_trouble_at_once_ends_with_every_slot_complete() {
    for seed in 0..24 {
        let (rate, rtt) = PATHS[seed as usize % 4];
        let mut r = Rng(seed);
        let mut w = World::new(seed, rate, rtt, r.unit() * 0.3);
        w.slots = 200;
        w.ack_loss = r.unit() * 0.6;
        w.dup = r.unit() * 0.1;
        w.reorder = r.unit() * 0.3;
        w.stall = 1 + (r.unit() * 900_000.0) as u64;
        w.mixed = seed % 3 == 1;
        w.queue = 40_000 + (r.unit() * 400_000.0) as u64;
        w.inflight_limit = 20_000 + (r.unit() * 1e6) as u32;
        w.blackhole = if seed % 5 == 2 {
            (rtt * 5, rtt * 5 + 300 * MS)
        } else {
            (0, 0)
        };
        run(w);
    }
}

#[test]
fn reordering_alone_settles_to_little_waste() {
    for (rate, rtt) in PATHS {
        let mut w = World::new(3, rate, rtt, 0.0);
        w.reorder = 0.01;
        w.queue *= 4;
        let r = run(w);
        println!(
            "reorder rtt {} us: {:?} {:.3}",
            rtt / 1000,
            r.goodput,
            sent(&r.stats[0])
        );
        assert!(sent(&r.stats[0]) < 1.15, "{}", sent(&r.stats[0]));
        assert!(r.goodput[0] > 0.5);
    }
}

#[test]
fn the_peers_socket_is_never_overrun() {
    for limit in [30_000, 200_000, 1_000_000] {
        // Shorter than the hosts' own scheduling may take: nothing counts as being on the wire.
        let mut w = World::new(11, 1_000_000_000, MS / 4, 0.01);
        w.inflight_limit = limit;
        w.slots = 300;
        w.stall = 300_000;
        let r = run(w);
        // Probes may exceed it by two frames.
        assert!(
            r.max_outstanding <= u64::from(limit) + 2 * FRAME,
            "{}",
            r.max_outstanding
        );
    }
}

#[test]
fn shared_noisy_cores_on_a_short_path_still_run_fast() {
    let mut w = World::new(5, 5_000_000_000, 150_000, 0.0);
    w.stall = 400_000;
    w.queue = 8 << 20;
    w.inflight_limit = 8 << 20;
    w.slots = 4000;
    let r = run(w);
    println!("noisy 150 us path: {:.1} % of 5 GB/s", r.goodput[0] * 100.0);
    assert!(r.goodput[0] > 0.6, "{}", r.goodput[0]);
}

#[test]
fn a_shallow_queue_is_not_flooded() {
    for (rate, rtt) in PATHS {
        let mut w = World::new(13, rate, rtt, 0.0);
        // A quarter of the path's product, and at least three super-packets.
        w.queue = ((rate as f64 * rtt as f64 / 1e9) as u64 / 4).max(200_000);
        let r = run(w);
        let lost = r.stats[0].lost_frames as f64 / (r.stats[0].first as f64 * sent(&r.stats[0]));
        println!(
            "shallow rtt {} us: goodput {:.2} loss {:.3}",
            rtt / 1000,
            r.goodput[0],
            lost
        );
        assert!(lost < 0.15, "{lost}");
        assert!(r.goodput[0] > 0.5, "{}", r.goodput[0]);
    }
}

#[test]
fn two_flows_on_one_bottleneck_both_live() {
    for (rate, rtt) in PATHS {
        let mut w = World::new(17, rate, rtt, 0.0);
        w.flows = 2;
        w.slots = 1500;
        let r = run(w);
        let (a, b) = (r.goodput[0], r.goodput[1]);
        println!(
            "two flows rtt {} us: {a:.2} {b:.2} drops {}",
            rtt / 1000,
            r.tail_drops
        );
        assert!(a.min(b) > 0.1, "{a} {b}");
    }
}

#[test]
fn a_fixed_rate_holds() {
    let mut w = World::new(19, 1_000_000_000, MS, 0.02);
    w.cc = CcKind::Fixed(500_000_000);
    let r = run(w);
    println!("fixed half: {:.2}", r.goodput[0]);
    assert!((0.45..0.55).contains(&r.goodput[0]), "{}", r.goodput[0]);
}
