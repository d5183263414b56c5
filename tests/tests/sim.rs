//! Whole lanes in a simulated network: two real lane cores, real seals, real erasure code, virtual
//! time, a seeded bad link. For every seed: each byte arrives exactly once and in order, within
//! bounded virtual time; no packet number is used twice; every frame, slot and buffer is accounted
//! for, in the network and on both sides.

use ctp96::backend::sim::{Link, SimNet};
use ctp96::base::Nanos;
use ctp96::obs::Counter;
use ctp96::verify::Level;
use std::sync::atomic::Ordering;
use tests::rig::{A, B, Damage, Flow, Rig, Setup};

const MS: Nanos = 1_000_000;
const INBOX: usize = 4 << 20;

struct Scenario {
    name: &'static str,
    to_b: Link,
    to_a: Link,
    cut: f64,
    /// Both directions vanish in this span.
    outage: Option<(Nanos, Nanos)>,
    slots: u64,
    seeds: u64,
    /// Virtual time within which it must be done.
    limit: Nanos,
    setup: Setup,
    /// What must have happened, so that a scenario that stopped testing anything fails.
    witness: &'static [Counter],
}

impl Scenario {
    fn new(name: &'static str, link: Link) -> Scenario {
        Scenario {
            name,
            to_b: link,
            to_a: link,
            cut: 0.0,
            outage: None,
            slots: 400,
            seeds: 4,
            limit: 20_000 * MS,
            setup: Setup::default(),
            witness: &[],
        }
    }

    fn witness(self, witness: &'static [Counter]) -> Scenario {
        Scenario { witness, ..self }
    }

    fn run(&self, seed: u64) {
        let net = SimNet::new(seed, Link::default());
        net.set_link(A, B, self.to_b);
        net.set_link(B, A, self.to_a);
        let setup = Setup { seed, ..self.setup };
        let mut rig = Rig::over_sim(&net, INBOX, &setup);
        for side in [&mut rig.a, &mut rig.b] {
            side.tap().set_damage(Damage {
                drop: 0.0,
                cut: self.cut,
            });
        }
        let largest = rig.a.tx.slot_capacity();
        let mut flows = [
            Flow::new(seed ^ 1, self.slots, largest),
            Flow::new(seed ^ 2, self.slots, largest),
        ];
        let mut dark = false;
        loop {
            if let Some((from, to)) = self.outage
                && dark != (from..to).contains(&rig.now())
            {
                dark = !dark;
                net.set_link(
                    A,
                    B,
                    Link {
                        blackhole: dark,
                        ..self.to_b
                    },
                );
                net.set_link(
                    B,
                    A,
                    Link {
                        blackhole: dark,
                        ..self.to_a
                    },
                );
            }
            let mut busy = flows[0].send(&mut rig.a.tx) | flows[1].send(&mut rig.b.tx);
            busy |= flows[0].receive(&mut rig.b.rx) | flows[1].receive(&mut rig.a.rx);
            let witnessed = [&rig.a.tx, &rig.b.tx]
                .iter()
                .all(|t| t.slots_witnessed() == self.slots);
            if witnessed && flows.iter().all(Flow::complete) {
                break;
            }
            assert!(
                rig.now() < self.limit,
                "no progress: {} and {} of {} slots arrived, {:?}",
                flows[0].received(),
                flows[1].received(),
                self.slots,
                net.stats()
            );
            rig.round(busy);
        }
        let done = rig.now();
        flows.iter().for_each(Flow::assert_equal);
        // Late duplicates, last acknowledgements and the gauges.
        rig.idle(500 * MS);
        let s = net.stats();
        assert_eq!(
            s.sent + s.duplicated,
            s.delivered
                + s.lost
                + s.queue_full
                + s.too_long
                + s.blackholed
                + s.no_such_peer
                + s.inbox_full
                + s.in_flight,
            "frames in the network: {s:?}"
        );
        for side in [&rig.a, &rig.b] {
            side.assert_balanced("after the transfer");
            assert_eq!(side.counter(Counter::RxSlotsDelivered), self.slots);
            assert_eq!(side.counter(Counter::TxSlotsAcked), self.slots);
            assert_eq!(side.counter(Counter::CoherenceViolations), 0);
        }
        for &c in self.witness {
            let n = rig.a.counter(c) + rig.b.counter(c);
            assert!(n > 0, "{} is zero: this tests nothing", c.name());
        }
        let resent = |c| rig.a.counter(c) + rig.b.counter(c);
        eprintln!(
            "{:<24} seed {seed:#x}: {:>6.2} MB each way in {:>8.1} ms virtual; first {} repair {} resent {}",
            self.name,
            flows[0].bytes() as f64 / 1e6,
            done as f64 / 1e6,
            resent(Counter::TxSymbolsFirst),
            resent(Counter::TxSymbolsRepair),
            resent(Counter::TxSymbolsResent),
        );
        assert_eq!(
            rig.close(),
            [0, 0],
            "slot buffers are still lent after the close"
        );
    }
}

fn check(s: &Scenario) {
    for n in 0..s.seeds {
        // A seed of one's own choice: SIM_SEED=0x1234.
        let seed = match std::env::var("SIM_SEED") {
            Ok(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16)
                .unwrap_or_else(|_| panic!("SIM_SEED={text} is not hexadecimal")),
            Err(_) => 0x96_0000 + n,
        };
        // The network prints its seed too when a panic passes through it.
        s.run(seed);
    }
}

fn loss(p: f64) -> Link {
    Link {
        loss: p,
        ..Link::default()
    }
}

fn delay(ms: u64) -> Link {
    Link {
        delay: ms * MS,
        ..Link::default()
    }
}

#[test]
fn clean() {
    check(&Scenario {
        slots: 1000,
        ..Scenario::new("clean", Link::default())
    });
}

#[test]
fn loss_of_one_in_a_thousand() {
    check(&Scenario::new("loss 0.1 %", loss(0.001)));
}

#[test]
fn loss_of_two_percent() {
    check(
        &Scenario::new("loss 2 %", loss(0.02))
            .witness(&[Counter::TxSymbolsRepair, Counter::RxSlotsDecoded]),
    );
}

#[test]
fn loss_of_ten_percent() {
    check(&Scenario::new("loss 10 %", loss(0.1)).witness(&[Counter::RxSlotsDecoded]));
}

#[test]
fn loss_of_thirty_percent() {
    let s = Scenario::new("loss 30 %", loss(0.3)).witness(&[Counter::RxSlotsDecoded]);
    check(&Scenario {
        limit: 60_000 * MS,
        ..s
    });
}

#[test]
fn loss_in_bursts() {
    let link = Link {
        burst_start: 0.002,
        burst_end: 0.05,
        ..Link::default()
    };
    check(&Scenario::new("bursts of about 20", link).witness(&[Counter::TxSymbolsRepair]));
}

#[test]
fn loss_of_data_only_and_of_acknowledgements_only() {
    let clean = Link::default();
    check(&Scenario {
        to_a: clean,
        ..Scenario::new("loss 10 % one way", loss(0.1))
    });
    check(&Scenario {
        to_b: clean,
        ..Scenario::new("loss 30 % other way", loss(0.3))
    });
}

#[test]
fn reordering() {
    let link = Link {
        reorder: 0.2,
        reorder_by: 300_000,
        jitter: 100_000,
        ..Link::default()
    };
    check(&Scenario::new("reorder", link));
}

#[test]
fn duplication() {
    let link = Link {
        duplicate: 0.3,
        jitter: 50_000,
        ..Link::default()
    };
    check(&Scenario::new("duplicate", link).witness(&[Counter::RxReplayed]));
}

#[test]
fn corruption() {
    let link = Link {
        corrupt: 0.05,
        ..Link::default()
    };
    check(&Scenario::new("corrupt 5 %", link).witness(&[Counter::RxAuthFailed]));
}

#[test]
fn truncation() {
    let s = Scenario::new("truncate 5 %", Link::default()).witness(&[Counter::RxMalformed]);
    check(&Scenario { cut: 0.05, ..s });
}

#[test]
fn delays() {
    for (name, ms) in [
        ("delay 1 ms", 1),
        ("delay 20 ms", 20),
        ("delay 100 ms", 100),
    ] {
        check(&Scenario {
            limit: 60_000 * MS,
            ..Scenario::new(name, delay(ms))
        });
    }
}

#[test]
fn delay_and_loss() {
    let link = Link {
        loss: 0.02,
        ..delay(20)
    };
    check(&Scenario {
        limit: 60_000 * MS,
        ..Scenario::new("delay 20 ms, loss 2 %", link)
    });
}

#[test]
fn a_bottleneck_with_a_short_queue() {
    let link = Link {
        rate: 12_500_000,
        queue: 64 << 10,
        ..delay(5)
    };
    check(&Scenario {
        limit: 60_000 * MS,
        ..Scenario::new("100 Mb/s, 64 KB queue", link)
    });
}

#[test]
fn a_blackhole_of_two_seconds() {
    let link = Link {
        rate: 25_000_000,
        queue: 256 << 10,
        ..delay(1)
    };
    let s = Scenario::new("blackhole 2 s", link);
    check(&Scenario {
        outage: Some((20 * MS, 2020 * MS)),
        ..s
    });
}

#[test]
fn a_blackhole_from_the_start() {
    let s = Scenario::new("blackhole at start", delay(1));
    check(&Scenario {
        outage: Some((0, 500 * MS)),
        ..s
    });
}

#[test]
fn everything_at_once() {
    let link = Link {
        loss: 0.05,
        burst_start: 0.001,
        burst_end: 0.1,
        duplicate: 0.05,
        corrupt: 0.02,
        reorder: 0.1,
        jitter: 200_000,
        ..delay(2)
    };
    let setup = Setup {
        level: Level::Full,
        symbol_len: 1408,
        ..Setup::default()
    };
    let s = Scenario::new("everything", link).witness(&[
        Counter::RxAuthFailed,
        Counter::RxReplayed,
        Counter::RxSlotsDecoded,
    ]);
    check(&Scenario {
        cut: 0.02,
        slots: 150,
        limit: 60_000 * MS,
        setup,
        ..s
    });
}

#[test]
fn a_window_of_one_slot_still_moves() {
    let setup = Setup {
        window: 1,
        ..Setup::default()
    };
    check(&Scenario {
        setup,
        slots: 60,
        ..Scenario::new("window of one", loss(0.05))
    });
}

#[test]
fn a_receiver_that_stops_reading_is_not_taken_for_dead() {
    // The control thread starts a fresh handshake, which ends the session, when sent data has
    // waited for 1.5 s and nothing at all was heard meanwhile. A peer whose application is slow (a
    // disk that syncs) is alive and must be heard.
    let net = SimNet::new(3, Link::default());
    let mut rig = Rig::over_sim(&net, INBOX, &Setup::default());
    let mut flow = Flow::new(3, 600, rig.a.tx.slot_capacity());
    let reads_again = 6_000 * MS;
    let mut silent = 0;
    while !flow.complete() {
        let mut busy = flow.send(&mut rig.a.tx);
        if rig.now() < 100_000 || rig.now() > reads_again {
            busy |= flow.receive(&mut rig.b.rx);
        }
        rig.round(busy);
        let waits = rig.a.lane.waiting_since.load(Ordering::Relaxed);
        if waits != 0 {
            let heard = rig
                .a
                .lane
                .session
                .last_rx
                .load(Ordering::Relaxed)
                .max(waits);
            silent = silent.max(rig.now().saturating_sub(heard));
        }
        assert!(rig.now() < 20_000 * MS, "no progress");
    }
    flow.assert_equal();
    assert!(silent < 1_000 * MS, "silent for {} ms", silent / MS);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let net = SimNet::new(7, loss(0.05));
        let mut rig = Rig::over_sim(&net, INBOX, &Setup::default());
        let mut flow = Flow::new(7, 60, rig.a.tx.slot_capacity());
        while !flow.complete() {
            let busy = flow.send(&mut rig.a.tx) | flow.receive(&mut rig.b.rx);
            rig.round(busy);
            assert!(rig.now() < 20_000 * MS);
        }
        (rig.now(), net.stats(), rig.a.counter(Counter::TxFrames))
    };
    assert_eq!(run(), run());
}
