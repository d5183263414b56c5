//! Hostile frames on a live lane: each kind is counted by its cause, none is answered, and the
//! transfer under attack loses, repeats and repairs nothing.

use ctp96::backend::Backend;
use ctp96::backend::sim::{Link, Rng, SimBackend, SimNet};
use ctp96::base::limits::{HEADER_LEN, MAX_FRAME_LEN};
use ctp96::obs::Counter;
use ctp96::wire::{FrameKind, Header};
use std::net::SocketAddr;
use tests::rig::{B, Capture, Damage, Flow, INDEX_B, LANE, Rig, Setup};

const INBOX: usize = 4 << 20;
const LIMIT: u64 = 20_000_000_000;

struct Attack {
    net: SimNet,
    rig: Rig<SimBackend>,
    evil: SimBackend,
}

fn attack(seed: u64) -> Attack {
    let net = SimNet::new(seed, Link::default());
    let rig = Rig::over_sim(
        &net,
        INBOX,
        &Setup {
            seed,
            ..Setup::default()
        },
    );
    let addr: SocketAddr = ([10, 96, 6, 6], 666).into();
    let evil = net.endpoint(addr, INBOX).expect("an endpoint");
    Attack { net, rig, evil }
}

impl Attack {
    /// Sends `frame` to the second side from an address of its own.
    fn inject(&mut self, frame: &[u8]) {
        let mut f = self.evil.claim(&B, frame.len()).expect("room");
        f.copy_from_slice(frame);
        self.evil.commit(f);
        let report = self.evil.flush().expect("the network takes it");
        assert_eq!(report.sent_frames, 1);
    }

    fn counters(&self) -> [Vec<u64>; 2] {
        [self.rig.a.counters(), self.rig.b.counters()]
    }

    /// Injects `frames` into a lane at rest; they must leave by the exits in `causes` and by no
    /// other, and must not make either side send anything.
    fn at_rest(&mut self, what: &str, frames: &[Vec<u8>], causes: &[Counter]) {
        self.rig.idle(500_000_000);
        let before = self.counters();
        for f in frames {
            self.inject(f);
            self.rig.idle(1_000_000);
        }
        self.rig.idle(500_000_000);
        let after = self.counters();
        let delta = |side: usize, c: Counter| after[side][c as usize] - before[side][c as usize];
        let n = frames.len() as u64;
        assert_eq!(delta(1, Counter::RxFrames), n, "{what}: frames seen");
        let counted: u64 = causes.iter().map(|&c| delta(1, c)).sum();
        assert_eq!(counted, n, "{what}: counted by cause");
        for side in 0..2 {
            assert_eq!(
                delta(side, Counter::TxFrames),
                0,
                "{what}: side {side} sent something"
            );
        }
        for c in [
            Counter::RxSlotsStarted,
            Counter::RxSlotsCompleted,
            Counter::PayloadBytesOut,
        ] {
            assert_eq!(delta(1, c), 0, "{what}: {}", c.name());
        }
        assert_eq!(self.evil.stats().rx_frames, 0);
        let mut got = Vec::with_capacity(4);
        self.evil.recv(&mut got).expect("the network answers");
        assert!(got.is_empty(), "{what}: a stranger was answered");
        self.rig.b.assert_balanced(what);
    }

    fn transfer(&mut self, flow: &mut Flow) {
        let until = self.rig.now() + LIMIT;
        while !flow.complete() || self.rig.a.tx.slots_witnessed() < flow.received() {
            let busy = flow.send(&mut self.rig.a.tx) | flow.receive(&mut self.rig.b.rx);
            self.rig.round(busy);
            assert!(self.rig.now() < until, "no progress");
        }
    }

    /// Genuine frames of a small transfer, all of which have arrived.
    fn genuine(&mut self) -> Vec<Vec<u8>> {
        self.rig.a.tap().capture = Capture::Copy;
        let largest = self.rig.a.tx.slot_capacity();
        let mut flow = Flow::new(5, 4, largest);
        self.transfer(&mut flow);
        self.rig.a.tap().capture = Capture::Off;
        std::mem::take(&mut self.rig.a.tap().captured)
    }
}

/// A symbol frame for the live lane with a valid header and a packet number of its own.
fn forged(pn: u64, slot: u64, symbol: u8, rng: &mut Rng) -> Vec<u8> {
    let h = Header {
        kind: FrameKind::Symbol,
        epoch: (pn & 3) as u8,
        lane: LANE,
        symbol,
        session: INDEX_B,
        pn,
        slot: slot as u32,
        k: 64,
        class: (slot % 96) as u8,
        len: 512,
        part: false,
    };
    let mut f: Vec<u8> = (0..h.frame_len()).map(|_| rng.next_u64() as u8).collect();
    h.encode(f.first_chunk_mut().expect("longer than a header"));
    f
}

#[test]
fn each_kind_is_counted_by_its_cause_and_answered_by_nothing() {
    let mut t = attack(0x5eed);
    let real = t.genuine();
    let mut rng = Rng::new(3);

    t.at_rest("replayed", &real, &[Counter::RxReplayed]);
    let cut: Vec<_> = real
        .iter()
        .flat_map(|f| (1..f.len()).step_by(37).map(|n| f[..n].to_vec()))
        .collect();
    t.at_rest("truncated", &cut, &[Counter::RxMalformed]);
    let long: Vec<_> = real.iter().map(|f| [&f[..], &[0]].concat()).collect();
    t.at_rest("one byte longer", &long, &[Counter::RxMalformed]);
    let over = [vec![0x11; MAX_FRAME_LEN + 1], vec![0; 60_000]];
    t.at_rest("oversized", &over, &[Counter::RxOversized]);

    let foreign = |at: usize, xor: u8| -> Vec<Vec<u8>> {
        real.iter()
            .map(|f| {
                let mut f = f.clone();
                f[at] ^= xor;
                f
            })
            .collect()
    };
    t.at_rest("another version", &foreign(0, 0x30), &[Counter::RxForeign]);
    t.at_rest("another session", &foreign(4, 1), &[Counter::RxForeign]);
    t.at_rest(
        "a session far away",
        &foreign(7, 0x80),
        &[Counter::RxForeign],
    );
    t.at_rest("another lane", &foreign(2, 1), &[Counter::RxForeign]);
    t.at_rest(
        "a lane that cannot be",
        &foreign(2, 0x80),
        &[Counter::RxMalformed],
    );
    t.at_rest("reserved flags", &foreign(1, 0x80), &[Counter::RxMalformed]);

    // Packet numbers never seen, so nothing but the tag stands in the way: slots inside and
    // outside the window, data and repair symbols, every epoch.
    let fake: Vec<_> = (0..400)
        .map(|i| forged(1_000_000 + i, i * 7 % 150, (i % 96) as u8, &mut rng))
        .collect();
    t.at_rest("forged", &fake, &[Counter::RxAuthFailed]);
    let control: Vec<_> = (0..100u64)
        .map(|i| {
            let h = Header::control(INDEX_B, LANE, 50_000 + i, 200);
            let mut f: Vec<u8> = (0..h.frame_len()).map(|_| rng.next_u64() as u8).collect();
            h.encode(f.first_chunk_mut().expect("longer than a header"));
            f
        })
        .collect();
    t.at_rest("forged control", &control, &[Counter::RxAuthFailed]);
    let noise: Vec<_> = (0..500)
        .map(|_| {
            (0..1 + rng.below(1500))
                .map(|_| rng.next_u64() as u8)
                .collect()
        })
        .collect();
    let any = [
        Counter::RxMalformed,
        Counter::RxForeign,
        Counter::RxHandshake,
    ];
    t.at_rest("noise", &noise, &any);

    // The lane is as good as new.
    let mut flow = Flow::new(9, 200, t.rig.a.tx.slot_capacity());
    t.transfer(&mut flow);
    flow.assert_equal();
    for c in [Counter::TxSymbolsResent, Counter::TxSymbolsRepair] {
        assert_eq!(t.rig.a.counter(c), 0, "{}", c.name());
    }
    assert_eq!(t.rig.close(), [0, 0]);
}

#[test]
fn damaged_copies_ahead_of_the_original_do_not_take_its_place() {
    let mut t = attack(0xc0de);
    // Keep a whole flight from the wire, so that the receiver has seen none of it.
    t.rig.a.tap().capture = Capture::Withhold;
    let mut flow = Flow::new(2, 3, t.rig.a.tx.slot_capacity());
    let until = t.rig.now() + 1_000_000;
    while t.rig.now() < until {
        let busy = flow.send(&mut t.rig.a.tx);
        t.rig.round(busy);
    }
    t.rig.a.tap().capture = Capture::Off;
    let withheld = std::mem::take(&mut t.rig.a.tap().captured);
    let mut symbols: Vec<_> = withheld
        .into_iter()
        .filter(|f| Header::parse(f).is_ok_and(|h| h.kind == FrameKind::Symbol))
        .collect();
    assert!(symbols.len() > 20, "{} symbols withheld", symbols.len());
    let before = t.counters();
    let mut rng = Rng::new(1);
    let mut injected = 0;
    for f in &symbols {
        for _ in 0..3 {
            let mut bad = f.clone();
            let at = HEADER_LEN + rng.below((f.len() - HEADER_LEN) as u64) as usize;
            bad[at] ^= 1 << rng.below(8);
            t.inject(&bad);
            injected += 1;
        }
    }
    // Then the originals, last first: reordered, from another address, and still genuine.
    symbols.reverse();
    let first = symbols.len() as u64;
    symbols.iter().for_each(|f| t.inject(f));
    t.transfer(&mut flow);
    flow.assert_equal();
    let after = t.counters();
    let delta = |c: Counter| after[1][c as usize] - before[1][c as usize];
    assert_eq!(delta(Counter::RxAuthFailed), injected);
    assert!(delta(Counter::RxSymbolsStored) >= first);
    t.rig.idle(500_000_000);
    t.rig.b.assert_balanced("after reordering");
    assert_eq!(t.rig.close(), [0, 0]);
}

#[test]
fn a_transfer_under_attack_is_not_disturbed() {
    under_attack(0.0);
    // With loss, repair symbols flow too, and forged ones must not take their buffers.
    under_attack(0.02);
}

fn under_attack(loss: f64) {
    let mut t = attack(0xbad);
    let old = t.genuine();
    let mut rng = Rng::new(8);
    let mut flow = Flow::new(4, 800, t.rig.a.tx.slot_capacity());
    let started = t.rig.now();
    let mut injected = 0u64;
    let mut n = 0u64;
    t.rig.a.tap().capture = Capture::Copy;
    t.rig.a.tap().set_damage(Damage {
        drop: loss,
        cut: 0.0,
    });
    while !flow.complete() || t.rig.a.tx.slots_witnessed() < flow.received() + 4 {
        let busy = flow.send(&mut t.rig.a.tx) | flow.receive(&mut t.rig.b.rx);
        n += 1;
        if t.rig.now() > started {
            let live = t.rig.a.tap().captured.pop();
            t.rig.a.tap().captured.clear();
            let f = match n % 6 {
                0 => old[rng.below(old.len() as u64) as usize].clone(),
                1 => {
                    // Forged symbols of slots that are being filled, repair symbols above all.
                    let slot = flow.received() + rng.below(100);
                    forged((1 << 40) + n, slot, 64 + rng.below(32) as u8, &mut rng)
                }
                2 => live.clone().unwrap_or_else(|| old[0].clone()),
                3 => {
                    let mut f = live.unwrap_or_else(|| old[0].clone());
                    let at = rng.below(f.len() as u64) as usize;
                    f[at] ^= 0xff;
                    f
                }
                4 => vec![0x11; 1 + rng.below(60_000) as usize],
                _ => forged(
                    rng.next_u64() >> 1,
                    rng.next_u64(),
                    rng.below(96) as u8,
                    &mut rng,
                ),
            };
            t.inject(&f);
            injected += 1;
        }
        t.rig.round(busy);
        assert!(t.rig.now() < started + LIMIT, "no progress");
    }
    flow.assert_equal();
    assert!(injected > 300, "{injected} frames injected");
    for c in [Counter::TxSymbolsResent, Counter::TxSymbolsRepair] {
        let n = t.rig.a.counter(c);
        assert!(
            loss > 0.0 || n == 0,
            "{} is {n}: the attack caused it",
            c.name()
        );
    }
    assert_eq!(t.rig.b.counter(Counter::RxSymbolsNoBuffer), 0);
    t.rig.idle(500_000_000);
    t.rig.b.assert_balanced("after the attack");
    let mut got = Vec::with_capacity(4);
    t.evil.recv(&mut got).expect("the network answers");
    assert!(got.is_empty(), "a stranger was answered");
    let stats = t.net.stats();
    assert_eq!((stats.lost, stats.inbox_full), (0, 0), "{stats:?}");
    assert_eq!(t.rig.close(), [0, 0]);
}
