//! How sessions and lanes share a bottleneck, in virtual time: the shipped controllers, pacer and
//! sharing out over the simulated paths of `tests::scenario`. The figures are deterministic; each test
//! prints what it asserts.

use ctp96::proto::CcKind;
use tests::scenario::{
    App, Loss, MS, Path, SEC, Scenario, Session, SessionReport, Shaper, jain, run,
};

const G: f64 = 1e9;

fn scenario(path: Path, sessions: Vec<Session>, secs: u64) -> Scenario {
    Scenario {
        sessions,
        warm: 0,
        end: secs * SEC,
        ..Scenario::new(5, path, 1500)
    }
}

fn tail_drop(bits_per_s: f64, rtt: u64, products: f64) -> Path {
    let mut path = Path::new(bits_per_s, rtt);
    path.shaper = Shaper::TailDrop((path.bdp() as f64 * products) as u64 + (64 << 10));
    path
}

/// Lanes that a session needs for three bandwidth-delay products of window at 1 Gb/s.
fn lanes(rtt: u64) -> usize {
    if rtt > 20 * MS { 5 } else { 1 }
}

fn megabits(of: &[SessionReport]) -> Vec<u64> {
    of.iter().map(|l| (l.goodput * 8e-6) as u64).collect()
}

fn small_messages() -> App {
    App::Messages {
        every: MS,
        len: 1408,
    }
}

#[test]
fn equal_sessions_get_equal_shares() {
    for rtt in [MS, 20 * MS, 50 * MS, 100 * MS] {
        for n in [2, 4] {
            for products in [0.5, 2.0] {
                let sessions = (0..n).map(|_| Session::bulk(lanes(rtt))).collect();
                let r = run(&scenario(tail_drop(G, rtt, products), sessions, 30));
                let what = format!("{n} sessions, 1G {} ms, queue {products} BDP", rtt / MS);
                println!(
                    "{what}: Jain {:.4}, {:.1} % of the bound, drops {:.2} %, Mb/s {:?}",
                    r.jain(),
                    r.share * 100.0,
                    r.drops * 100.0,
                    megabits(&r.sessions)
                );
                assert!(r.jain() >= 0.95, "{what}");
                assert!(r.share > 0.9, "{what}");
            }
        }
    }
}

#[test]
fn a_late_session_gets_its_share() {
    for rtt in [MS, 20 * MS, 50 * MS, 100 * MS] {
        let early = Session::bulk(lanes(rtt));
        let late = Session {
            start: 2 * SEC,
            ..early.clone()
        };
        let sessions = vec![early.clone(), early, late];
        let mut s = scenario(tail_drop(G, rtt, 2.0), sessions, 32);
        s.warm = 2 * SEC;
        let r = run(&s);
        println!(
            "late session, 1G {} ms: Jain {:.4}, Mb/s {:?}",
            rtt / MS,
            r.jain(),
            megabits(&r.sessions)
        );
        assert!(r.jain() >= 0.9, "rtt {rtt}");
    }
}

#[test]
fn lanes_share_by_weight() {
    for rtt in [MS, 20 * MS] {
        let r = run(&scenario(Path::new(G, rtt), vec![Session::bulk(4)], 30));
        let j = jain(r.lanes.iter().map(|l| l.goodput));
        println!(
            "4 lanes, {} ms: Jain {j:.4}, Mb/s {:?}",
            rtt / MS,
            megabits(&r.lanes)
        );
        assert!(j >= 0.95, "rtt {rtt}");
        // At 1 ms the path holds little more than one slot.
        let least = if rtt == MS { 0.85 } else { 0.93 };
        assert!(r.share > least, "rtt {rtt}: {}", r.share);

        let weighted = Session {
            weights: vec![4, 1],
            ..Session::bulk(2)
        };
        let r = run(&scenario(Path::new(G, rtt), vec![weighted], 10));
        let ratio = r.lanes[0].goodput / r.lanes[1].goodput;
        println!("weights 4 and 1, {} ms: {ratio:.2} to 1", rtt / MS);
        assert!((3.4..4.6).contains(&ratio), "rtt {rtt}: {ratio}");
        assert!(r.share > 0.9, "rtt {rtt}: {}", r.share);
    }
}

#[test]
fn small_messages_pass_a_bulk_transfer() {
    for rtt in [MS, 20 * MS] {
        let one = Session {
            lanes: vec![App::Bulk, small_messages()],
            ..Session::bulk(0)
        };
        let messages = Session {
            lanes: vec![small_messages()],
            ..Session::bulk(0)
        };
        let cases = [
            ("one session", vec![one]),
            ("two sessions", vec![Session::bulk(1), messages]),
        ];
        for (what, sessions) in cases {
            let r = run(&scenario(Path::new(G, rtt), sessions, 10));
            let p99 = r.lanes[1].latency.p99;
            println!(
                "messages beside bulk, {what}, {} ms: p99 {:.2} ms, all {:.1} %",
                rtt / MS,
                p99 as f64 / MS as f64,
                r.share * 100.0
            );
            assert!(p99 < 2 * rtt + MS, "{what}, rtt {rtt}: {p99} ns");
            // Nor does their lane keep the bulk from what they leave.
            assert!(r.share > 0.95, "{what}, rtt {rtt}: {}", r.share);
        }
    }
}

#[test]
fn small_messages_pass_a_bulk_transfer_over_lossy_paths() {
    for loss in [0.001, 0.01, 0.05] {
        for rtt in [MS, 20 * MS] {
            let small = App::Messages {
                every: MS,
                len: 256,
            };
            let session = Session {
                lanes: vec![App::Bulk, small],
                ..Session::bulk(0)
            };
            let mut path = Path::new(G, rtt);
            path.loss = Loss::Random(loss);
            let r = run(&scenario(path, vec![session], 10));
            let of = &r.lanes[1].latency;
            let what = format!("{} % loss, {} ms", loss * 100.0, rtt / MS);
            println!(
                "messages beside bulk, {what}: p50 {:.2} ms, p99 {:.2} ms, all {:.1} %, overhead {:.2} %",
                of.p50 as f64 / MS as f64,
                of.p99 as f64 / MS as f64,
                r.share * 100.0,
                r.overhead * 100.0
            );
            assert!(of.p99 < 2 * rtt + MS, "{what}: {} ns", of.p99);
            // Repair stays within the path's budget; acknowledgements of a second lane come on top.
            assert!(r.overhead < 1.5 * loss + 0.015, "{what}: {:.4}", r.overhead);
            assert!(r.share > 0.9, "{what}: {}", r.share);
        }
    }
}

#[test]
fn lanes_with_little_to_send_hold_nothing_back() {
    let mut lanes = vec![small_messages(); 15];
    lanes.push(App::Bulk);
    let session = Session {
        lanes,
        ..Session::bulk(0)
    };
    let r = run(&scenario(Path::new(G, 20 * MS), vec![session], 10));
    println!("15 message lanes and a bulk lane: {:.1} %", r.share * 100.0);
    assert!(r.share > 0.95, "{}", r.share);
}

#[test]
fn marks_keep_the_queue_short_without_loss() {
    // Marked from a quarter of the product on, in a queue that holds two.
    let mut path = Path::new(G, 20 * MS);
    path.mark = path.bdp() / 4;
    let sessions = (0..4).map(|_| Session::bulk(1)).collect();
    let mut s = scenario(path, sessions, 12);
    s.warm = 2 * SEC;
    let r = run(&s);
    let unmarked = run(&Scenario {
        path: Path::new(G, 20 * MS),
        ..s.clone()
    });
    let (with, without) = (r.queue.p99, unmarked.queue.p99);
    println!(
        "4 sessions with marks: {:.1} %, queue p99 {:.2} ms, drops {:.3} %; without {:.2} ms",
        r.share * 100.0,
        with as f64 / MS as f64,
        r.drops * 100.0,
        without as f64 / MS as f64
    );
    assert_eq!(r.drops, 0.0);
    assert!(r.share > 0.9, "{}", r.share);
    assert!(with < without, "{with} {without}");
}

#[test]
fn random_loss_stops_cubic_and_not_the_default() {
    let alone = |cc, loss| {
        let mut path = Path::new(G, 20 * MS);
        path.loss = if loss > 0.0 {
            Loss::Random(loss)
        } else {
            Loss::None
        };
        let session = Session {
            cc,
            ..Session::bulk(1)
        };
        run(&scenario(path, vec![session], 10)).share
    };
    let clean = alone(CcKind::Cubic, 0.0);
    let (cubic, bbr) = (alone(CcKind::Cubic, 0.01), alone(CcKind::Bbr, 0.01));
    println!(
        "cubic clean {:.1} %; 1 % loss: cubic {:.1} %, default {:.1} %",
        clean * 100.0,
        cubic * 100.0,
        bbr * 100.0
    );
    assert!(clean > 0.95);
    assert!(cubic < 0.1 && bbr > 0.9, "{cubic} {bbr}");
}

#[test]
fn cubic_beside_the_default_is_not_starved() {
    let cubic = Session {
        cc: CcKind::Cubic,
        ..Session::bulk(1)
    };
    let path = tail_drop(G, 20 * MS, 2.0);
    let r = run(&scenario(path, vec![Session::bulk(1), cubic], 30));
    println!(
        "default beside cubic: {:?} Mb/s, Jain {:.3}",
        megabits(&r.sessions),
        r.jain()
    );
    assert!(r.jain() > 0.8, "{:?}", megabits(&r.sessions));
}

#[test]
fn a_fixed_rate_is_that_of_all_lanes_together() {
    for lanes in [1, 4] {
        let session = Session {
            cc: CcKind::Fixed((G / 16.0) as u64),
            ..Session::bulk(lanes)
        };
        let r = run(&scenario(Path::new(G, 20 * MS), vec![session], 5));
        println!("half the rate on {lanes} lanes: {:.1} %", r.share * 100.0);
        assert!((0.45..0.52).contains(&r.share), "{}", r.share);
    }
}
