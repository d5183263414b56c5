use super::*;
use crate::proto::cc::CcKind;
use std::sync::atomic::Ordering::SeqCst;

fn path(lanes: usize) -> Arc<Path> {
    let cfg = CcConfig {
        kind: CcKind::Fixed(1_000_000),
        max_rate: None,
        frame: 1000,
        initial_rtt: 10_000_000,
        seed: 1,
    };
    Path::new(&cfg, lanes)
}

fn lanes(path: &Arc<Path>) -> Vec<PathLane> {
    (0..path.shares.len())
        .map(|i| PathLane::new(path.clone(), i))
        .collect()
}

/// Lets the controller look, so that shares are given out anew.
fn look(lane: &mut PathLane, now: Nanos) {
    let (in_flight, sent) = (lane.noted, lane.share().sent.load(Relaxed));
    let ack = LaneAck {
        now,
        in_flight,
        prior_in_flight: in_flight,
        ..LaneAck::default()
    };
    lane.on_ack(&ack, sent);
}

#[test]
fn the_hungry_get_what_the_others_leave_by_weight() {
    let p = path(3);
    let mut l = lanes(&p);
    l[0].set_weight(3);
    l[0].hungry();
    l[1].hungry();
    // The third sends 100 kB/s of its own accord.
    l[2].note(1000, 0);
    look(&mut l[0], 10_000_000);
    l[2].note(2000, 1000);
    look(&mut l[0], 20_000_000);
    assert_eq!(l[0].pacing_rate(), 675_000);
    assert_eq!(l[1].pacing_rate(), 225_000);
    // It may have its fair part at once when it needs it.
    assert_eq!(l[2].pacing_rate(), 200_000);
    // Its flight is taken off the window before that is shared.
    let room = p.cwnd() - 2000;
    assert_eq!(l[0].share().window.load(Relaxed), room * 3 / 4);
    assert_eq!(l[1].share().window.load(Relaxed), room / 4);
}

#[test]
fn a_lane_alone_has_everything_and_a_dry_one_holds_nothing() {
    let p = path(4);
    let mut l = lanes(&p);
    l.iter_mut().for_each(PathLane::hungry);
    look(&mut l[0], 10_000_000);
    assert_eq!(l[0].pacing_rate(), 250_000);
    l[1..].iter_mut().for_each(PathLane::dry);
    look(&mut l[0], 20_000_000);
    assert_eq!(l[0].pacing_rate(), 1_000_000);
    assert_eq!(l[0].cwnd(), p.cwnd());
    // Closed lanes count no more, whatever they had in flight.
    l[2].note(5000, 5000);
    l[2].hungry();
    l.truncate(1);
    assert_eq!(p.in_flight(), 0);
    look(&mut l[0], 30_000_000);
    assert_eq!(l[0].cwnd(), p.cwnd());
}

#[test]
fn a_share_of_the_window_is_there_whatever_the_others_have_in_flight() {
    let p = path(2);
    let mut l = lanes(&p);
    let whole = p.cwnd();
    l[0].hungry();
    l[0].note(whole, whole);
    look(&mut l[0], 10_000_000);
    // The second lane may begin with its half although the first fills the window alone, and the
    // first may then only have what is left.
    assert!(l[1].cwnd() >= whole / 2);
    l[1].note(whole / 2, whole / 2);
    l[1].hungry();
    look(&mut l[1], 20_000_000);
    assert!(l[0].cwnd() <= whole / 2 + 2000, "{}", l[0].cwnd());
}

#[test]
fn rates_say_nothing_after_all_lanes_ran_dry() {
    let p = path(2);
    let mut l = lanes(&p);
    l[0].hungry();
    l[1].dry();
    assert!(!l[1].mark().app_limited, "the first has more to send");
    l[0].dry();
    assert!(l[0].mark().app_limited);
    let ack = LaneAck {
        now: 1,
        acked_bytes: 2000,
        acked_frames: 2,
        ..LaneAck::default()
    };
    l[0].on_ack(&ack, 2000);
    assert!(!l[0].mark().app_limited);
}

#[test]
fn the_rate_is_that_of_all_lanes_together() {
    let p = path(2);
    let mut l = lanes(&p);
    let first = l[0].mark();
    // Each lane delivers 1,000 bytes a microsecond.
    for t in 1..=1000u64 {
        for lane in &mut l {
            let ack = LaneAck {
                now: t * 1000,
                acked_bytes: 1000,
                acked_frames: 1,
                sent: Some((t * 500, first)),
                ..LaneAck::default()
            };
            lane.on_ack(&ack, 0);
        }
    }
    assert_eq!(p.delivered(), 2_000_000);
}

#[test]
fn one_lanes_timeouts_are_its_own_while_another_lives() {
    let cfg = CcConfig {
        kind: CcKind::Bbr,
        max_rate: None,
        frame: 1000,
        initial_rtt: 10_000_000,
        seed: 1,
    };
    let p = Path::new(&cfg, 2);
    let mut l = lanes(&p);
    let ack = |now| LaneAck {
        now,
        acked_bytes: 1000,
        acked_frames: 1,
        ..LaneAck::default()
    };
    l[0].on_ack(&ack(1_000_000_000), 0);
    let before = p.cwnd();
    l[1].on_pto(1_005_000_000, 3, 10_000_000);
    assert_eq!(p.cwnd(), before);
    l[1].on_pto(1_500_000_000, 3, 10_000_000);
    assert_eq!(p.cwnd(), 4000);
    l[0].on_ack(&ack(1_600_000_000), 0);
    assert!(p.cwnd() > 4000);
}

#[test]
fn no_count_is_lost_between_cores() {
    const ROUNDS: u64 = 20_000;
    let p = path(4);
    let threads: Vec<_> = lanes(&p)
        .into_iter()
        .map(|mut lane| {
            std::thread::spawn(move || {
                for i in 1..=ROUNDS {
                    lane.hungry();
                    lane.note(1000, i * 1000);
                    let ack = LaneAck {
                        now: i * 1000,
                        acked_bytes: 1000,
                        acked_frames: 1,
                        lost_frames: 1,
                        ..LaneAck::default()
                    };
                    lane.on_ack(&ack, i * 1000);
                    lane.dry();
                }
                lane
            })
        })
        .collect();
    let mut l: Vec<PathLane> = threads
        .into_iter()
        .map(|t| t.join().expect("no thread panics"))
        .collect();
    // Whatever was left behind while the lock was taken is taken in by the next.
    look(&mut l[0], ROUNDS * 1000 + 1);
    let m = p.model.lock().expect("nobody panicked");
    assert_eq!((m.acked, m.lost), (4 * ROUNDS, 4 * ROUNDS));
    assert_eq!(m.delivered, 4 * ROUNDS * 1000);
    assert_eq!(p.hungry.load(SeqCst), 0);
    assert_eq!(p.in_flight(), 0);
}
