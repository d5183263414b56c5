//! Path MTU and congestion marks of whole lanes in a simulated network, in virtual time: links that
//! carry less than configured, links that shrink in mid-transfer, links that mark, clear, rewrite
//! or drop marks. Every byte arrives once and in order, and the books balance.

use ctp96::backend::sim::{EcnFault, Link, SimBackend, SimNet};
use ctp96::base::Nanos;
use ctp96::obs::Counter;
use ctp96::proto::{EcnState, PmtuOrigin, PmtuState};
use ctp96::stage::PathStatus;
use tests::rig::{A, B, Rig, Setup};

const MS: Nanos = 1_000_000;
const INBOX: usize = 4 << 20;
/// IPv4 and UDP headers, header and tag of the frame.
const OVERHEAD: usize = 28 + 40;

/// A transfer from the first side to the second, whose slots are as large as they may be.
struct Run {
    net: SimNet,
    rig: Rig<SimBackend>,
    sent: u64,
    received: u64,
    out: blake3::Hasher,
    got: blake3::Hasher,
}

impl Run {
    fn new(seed: u64, symbol_len: usize, link: Link) -> Run {
        let net = SimNet::new(seed, link);
        let setup = Setup {
            seed,
            symbol_len,
            ..Setup::default()
        };
        let rig = Rig::over_sim(&net, INBOX, &setup);
        Run {
            net,
            rig,
            sent: 0,
            received: 0,
            out: blake3::Hasher::new(),
            got: blake3::Hasher::new(),
        }
    }

    fn set_to_b(&self, f: impl FnOnce(&mut Link)) {
        let mut link = self.net.link(A, B);
        f(&mut link);
        self.net.set_link(A, B, link);
    }

    fn path(&self) -> PathStatus {
        self.rig.a.tx.status().path
    }

    /// Moves `bytes` more within `limit` of virtual time.
    fn transfer(&mut self, bytes: u64, limit: Nanos) {
        let (goal, until) = (self.sent + bytes, self.rig.now() + limit);
        while self.received < goal {
            let mut busy = false;
            while self.sent < goal
                && let Ok(mut claim) = self.rig.a.tx.try_claim()
            {
                let len = claim.len();
                let word = self.sent.to_le_bytes();
                claim[..].fill(word[0] ^ word[2]);
                claim[..8].copy_from_slice(&word);
                self.out.update(&claim);
                claim.commit(len);
                self.sent += len as u64;
                busy = true;
            }
            while let Ok(slot) = self.rig.b.rx.try_slot() {
                self.got.update(&slot);
                self.received += slot.len() as u64;
                busy = true;
            }
            assert!(
                self.rig.now() < until,
                "{} of {} bytes after {} ms: {:?} {:?}",
                self.received,
                self.sent,
                self.rig.now() / MS,
                self.path(),
                self.net.stats()
            );
            self.rig.round(busy);
        }
        // The last slot may go beyond.
        while let Ok(slot) = self.rig.b.rx.try_slot() {
            self.got.update(&slot);
            self.received += slot.len() as u64;
        }
        assert_eq!(self.sent, self.received);
        assert_eq!(self.out.finalize(), self.got.finalize(), "content");
    }

    fn settle(&mut self) -> PathStatus {
        self.rig.idle(400 * MS);
        self.path()
    }

    fn finish(mut self) {
        // Last acknowledgements, and the gauges.
        self.rig.idle(500 * MS);
        self.rig.a.assert_balanced("first side");
        self.rig.b.assert_balanced("second side");
        for side in [&self.rig.a, &self.rig.b] {
            assert_eq!(side.counter(Counter::CoherenceViolations), 0);
            assert_eq!(side.counter(Counter::RxSymbolsInconsistent), 0);
        }
        assert_eq!(self.rig.close(), [0, 0]);
    }
}

fn delay(ms: u64) -> Link {
    Link {
        delay: ms * MS,
        ..Link::default()
    }
}

#[test]
fn a_path_that_carries_the_configured_mtu_runs_at_full_size_after_one_round_trip() {
    for (symbol, ms) in [(1408, 1), (8896, 1), (1408, 50), (8896, 50)] {
        let mut r = Run::new(1, symbol, delay(ms));
        r.transfer(20 << 20, 60_000 * MS);
        let p = r.settle();
        assert_eq!((usize::from(p.symbol_len), p.probes_lost), (symbol, 0));
        assert_eq!(
            (p.state, p.origin),
            (PmtuState::Complete, PmtuOrigin::Probe)
        );
        assert_eq!(p.mtu as usize, symbol + OVERHEAD);
        // What was sent before the answer came: at most the first window, in parts.
        let parts = r.rig.a.counter(Counter::TxSymbolParts);
        let first = r.rig.a.counter(Counter::TxSymbolsFirst);
        assert!(parts <= 300, "{parts} of {first} frames were parts");
        r.finish();
    }
}

#[test]
fn a_path_that_carries_less_is_found_out_and_filled() {
    for (symbol, mtu, want) in [
        (1408, 1400, 1280),
        (1408, 1280, 1152),
        (8896, 1500, 1408),
        (8896, 4000, 3904),
        (8896, 1220, 1152),
    ] {
        let mut r = Run::new(2, symbol, Link { mtu, ..delay(2) });
        r.transfer(10 << 20, 60_000 * MS);
        r.rig.idle(10_000 * MS);
        r.transfer(10 << 20, 60_000 * MS);
        let p = r.settle();
        assert_eq!(usize::from(p.symbol_len), want, "MTU {mtu}: {p:?}");
        assert_eq!(
            (p.state, p.black_holes),
            (PmtuState::Complete, 0),
            "MTU {mtu}"
        );
        assert!(p.mtu as usize <= mtu);
        assert_eq!(r.rig.a.tx.slot_capacity(), 64 * want - 64);
        r.finish();
    }
}

#[test]
fn a_path_that_shrinks_in_mid_transfer_loses_nothing() {
    for (symbol, mtu, want) in [(1408, 1400, 1280), (8896, 1500, 1408), (8896, 1300, 1216)] {
        for ms in [0, 5, 40] {
            for seed in 0..3 {
                let mut r = Run::new(seed, symbol, delay(ms));
                r.transfer(10 << 20, 60_000 * MS);
                // The window is full of slots that are too long for the path.
                r.set_to_b(|l| l.mtu = mtu);
                let from = r.rig.now();
                r.transfer(10 << 20, 60_000 * MS);
                let took = (r.rig.now() - from) / MS;
                r.rig.idle(10_000 * MS);
                let p = r.settle();
                println!("symbol {symbol}, MTU {mtu}, {ms} ms, seed {seed}: {took} ms, {p:?}");
                assert_eq!(usize::from(p.symbol_len), want, "{p:?}");
                assert_eq!(p.black_holes, 1);
                assert!(r.rig.a.counter(Counter::TxSymbolParts) > 0);
                r.transfer(5 << 20, 60_000 * MS);
                r.finish();
            }
        }
    }
}

#[test]
fn a_shrinking_path_with_loss_loses_nothing_either() {
    for seed in 0..4 {
        let link = Link {
            loss: 0.03,
            reorder: 0.05,
            duplicate: 0.02,
            ..delay(5)
        };
        let mut r = Run::new(seed, 8896, link);
        r.transfer(10 << 20, 60_000 * MS);
        r.set_to_b(|l| l.mtu = 1500);
        r.transfer(10 << 20, 120_000 * MS);
        assert!(r.path().black_holes <= 1);
        assert!(r.rig.b.counter(Counter::RxSymbolParts) > 0);
        r.rig.idle(400 * MS);
        r.finish();
    }
}

#[test]
fn an_outage_and_heavy_loss_shrink_nothing() {
    let mut r = Run::new(5, 1408, delay(5));
    r.transfer(5 << 20, 60_000 * MS);
    r.set_to_b(|l| l.blackhole = true);
    // Something must be out that is not answered.
    while let Ok(claim) = r.rig.a.tx.try_claim() {
        let len = claim.len();
        r.out.update(&claim);
        r.sent += len as u64;
        claim.commit(len);
    }
    r.rig.idle(3_000 * MS);
    r.set_to_b(|l| (l.blackhole, l.loss) = (false, 0.2));
    r.transfer(10 << 20, 120_000 * MS);
    let p = r.settle();
    assert_eq!((p.symbol_len, p.black_holes), (1408, 0), "{p:?}");
    r.finish();
}

#[test]
fn a_path_that_grows_is_used_after_the_raise_timer() {
    let mut r = Run::new(
        6,
        8896,
        Link {
            mtu: 1500,
            ..delay(1)
        },
    );
    r.transfer(1 << 20, 60_000 * MS);
    r.rig.idle(20_000 * MS);
    assert_eq!(r.path().symbol_len, 1408);
    r.set_to_b(|l| l.mtu = 9000);
    r.rig.idle(605_000 * MS);
    assert_eq!(r.path().symbol_len, 8896);
    r.transfer(10 << 20, 60_000 * MS);
    r.finish();
}

#[test]
fn a_lane_without_search_uses_the_configured_size() {
    let net = SimNet::new(
        7,
        Link {
            mtu: 1400,
            ..delay(1)
        },
    );
    let mut setup = Setup {
        symbol_len: 1408,
        ..Setup::default()
    };
    setup.path.search = false;
    let mut rig = Rig::over_sim(&net, INBOX, &setup);
    rig.idle(300 * MS);
    let p = rig.a.tx.status().path;
    assert_eq!(
        (p.symbol_len, p.state, p.probes),
        (1408, PmtuState::Fixed, 0)
    );
    assert_eq!(p.origin, PmtuOrigin::Configured);
}

#[test]
fn a_queue_that_marks_slows_the_sender_before_it_drops() {
    let link = |mark| Link {
        rate: 12_500_000,
        queue: 512 << 10,
        mark,
        ..delay(5)
    };
    let run = |mark| {
        let mut r = Run::new(8, 1408, link(mark));
        r.transfer(20 << 20, 60_000 * MS);
        r.rig.idle(400 * MS);
        let (s, p) = (r.net.stats(), r.path());
        println!("mark {mark}: {s:?} {:?}", p.ecn);
        assert_eq!(p.ecn.state, EcnState::Capable);
        r.finish();
        (s, p.ecn)
    };
    let (s, ecn) = run(64 << 10);
    assert!(s.ce_marked > 0 && ecn.ce > 0);
    // Each mark of a data frame that arrived is counted once.
    assert!(ecn.ce <= s.ce_marked);
    let (s, ecn) = run(0);
    assert_eq!((s.ce_marked, ecn.ce), (0, 0));
}

#[test]
fn a_link_that_spoils_marks_is_found_out_and_the_transfer_goes_on() {
    for (fault, want) in [
        (EcnFault::Bleach, EcnState::Bleached),
        (EcnFault::Rewrite, EcnState::Mangled),
        (EcnFault::Drop, EcnState::Dropped),
    ] {
        let mut r = Run::new(
            9,
            1408,
            Link {
                ecn: fault,
                ..delay(5)
            },
        );
        r.transfer(10 << 20, 60_000 * MS);
        let p = r.settle();
        assert_eq!((p.ecn.state, p.ecn.sent), (want, 10));
        assert_eq!(r.rig.a.counter(Counter::EcnFailures), 1);
        assert_eq!(r.rig.a.counter(Counter::TxFramesEct), 10);
        r.finish();
    }
}

#[test]
fn a_link_that_begins_to_clear_marks_is_noticed() {
    let mut r = Run::new(10, 1408, delay(5));
    r.transfer(5 << 20, 60_000 * MS);
    r.rig.idle(200 * MS);
    assert_eq!(r.path().ecn.state, EcnState::Capable);
    r.set_to_b(|l| l.ecn = EcnFault::Bleach);
    r.transfer(5 << 20, 60_000 * MS);
    let p = r.settle();
    assert_eq!(p.ecn.state, EcnState::Bleached);
    r.finish();
}

#[test]
fn without_ecn_nothing_is_marked() {
    let net = SimNet::new(11, delay(1));
    let mut setup = Setup::default();
    setup.path.ecn = false;
    let mut rig = Rig::over_sim(&net, INBOX, &setup);
    let claim = rig.a.tx.try_claim().expect("room");
    claim.commit(1000);
    rig.idle(300 * MS);
    assert_eq!(rig.a.tx.status().path.ecn.state, EcnState::Off);
    assert_eq!(rig.a.counter(Counter::TxFramesEct), 0);
    assert!(rig.b.rx.try_slot().is_ok());
}
