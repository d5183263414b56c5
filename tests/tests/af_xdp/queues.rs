//! More queues than cores, and queues that come and go.

use super::*;
use tests::lab::run_in;

fn set_queues(lab: &Lab, n: u32) {
    for host in lab.hosts() {
        host.set_queues(n).expect("the requirement was probed");
    }
}

/// One core reads two queues into one memory: frames of either arrive directly, none is passed to
/// the kernel, and nothing leaks.
fn shared_memory(mtu: u32) {
    let lab = lab(mtu);
    set_queues(&lab, 2);
    let both = AfXdpConfig {
        queues: Some(vec![vec![0, 1]]),
        ..config(AttachMode::Native)
    };
    let b = try_open(&lab.right, lab.right.v4().into(), &both, 1, mtu);
    let mut b = b.unwrap_or_else(|e| panic!("{e}")).pop().expect("one");
    assert!(b.note().contains("2 queues in one memory"), "{}", b.note());
    assert!(b.serves(0) && b.serves(1) && !b.serves(2));
    // A frame arrives on the queue that it was sent on.
    let a = try_open(
        &lab.left,
        lab.left.v4().into(),
        &config(AttachMode::Native),
        2,
        mtu,
    );
    let Ok([mut a0, mut a1]) = <[AfXdp; 2]>::try_from(a.expect("two queues")) else {
        panic!("two backends");
    };
    until_direct(&mut a0, &mut b);
    until_direct(&mut a1, &mut b);
    let before = b.stats();
    let len = if mtu == 9000 { 8896 } else { 1408 };
    let to = b.local_addr();
    // Several times as many as there are chunks for either queue.
    let (rounds, batch) = (if mtu == 9000 { 150 } else { 200 }, 50);
    let mut out = Vec::<Burst>::with_capacity(64);
    let mut got = [0u64; 2];
    for round in 0..rounds {
        for a in [&mut a0, &mut a1] {
            for n in 0..batch {
                assert!(put(a, to, round * batch + n, len));
            }
            assert_eq!(a.flush().expect("flush").sent_frames, batch);
        }
        let start = Instant::now();
        while got.iter().sum::<u64>() < 2 * batch * (round + 1) {
            assert!(start.elapsed() < GIVE_UP, "{got:?} {:?}", b.stats());
            if b.recv(&mut out).expect("recv") == 0 {
                b.wait(Some(Duration::from_millis(50))).expect("wait");
            }
            for mut burst in out.drain(..) {
                let queue = usize::from(burst.queue().expect("it came directly"));
                let from = [a0.local_addr(), a1.local_addr()][queue];
                assert_eq!(burst.from(), from);
                for bytes in burst.segments_mut() {
                    // Each queue's frames come in order.
                    assert!(*bytes == content(got[queue], len), "queue {queue}");
                    got[queue] += 1;
                }
                b.release(burst);
            }
        }
    }
    let after = b.stats();
    let all = 2 * rounds * batch;
    assert_eq!(got, [all / 2; 2]);
    assert_eq!(after.rx_direct - before.rx_direct, all);
    assert_eq!(
        (after.rx_kernel_drops, after.rx_errors, after.rx_no_buffer),
        (0, 0, 0)
    );
    for x in [&a0, &a1, &b] {
        assert_eq!(x.outstanding(), 0);
    }
}

#[test]
fn two_queues_of_one_core_share_its_memory() {
    require_or_skip!(Netns, Ethtool, Xdp);
    shared_memory(1500);
    shared_memory(9000);
}

#[test]
fn lists_of_queues_that_cannot_be_are_refused() {
    require_or_skip!(Netns, Ethtool, Xdp);
    let lab = lab(1500);
    set_queues(&lab, 2);
    for (queues, cores, want) in [
        (vec![vec![0], vec![0]], 2, "twice"),
        (vec![vec![]], 1, "0 queues"),
        (vec![vec![0, 2]], 1, "no receive queue 2"),
        (vec![vec![0, 1, 2, 3, 4]], 1, "5 queues"),
    ] {
        let cfg = AfXdpConfig {
            queues: Some(queues),
            ..config(AttachMode::Native)
        };
        let e = try_open(&lab.left, lab.left.v4().into(), &cfg, cores, 1500);
        let e = e.err().expect("refused");
        assert!(e.contains(want), "{want}: {e}");
    }
}

/// The interface gets more queues while frames move, and fewer: what arrives on queues without a
/// socket comes in through the kernel, and those with one go on. Queues in use cannot be taken.
#[test]
fn a_change_of_the_number_of_queues_is_survived() {
    require_or_skip!(Netns, Ethtool, Xdp);
    let lab = lab(1500);
    set_queues(&lab, 1);
    let mut a = open(&lab.left, lab.left.v4().into(), AttachMode::Native, 1500);
    let mut b = open(&lab.right, lab.right.v4().into(), AttachMode::Native, 1500);
    let exchange = |a: &mut AfXdp, b: &mut AfXdp| {
        until_direct(a, b);
        until_direct(b, a);
        for n in 0..200 {
            assert!(put(a, b.local_addr(), n, 1408));
        }
        a.flush().expect("flush");
        for (n, (_, bytes)) in collect(b, 200).into_iter().enumerate() {
            assert!(bytes == content(n as u64, 1408));
        }
    };
    exchange(&mut a, &mut b);
    // As many as a veth interface has on a host of two CPUs. With an XDP program on it, it must have as
    // many to receive as its peer has to send at any time.
    for (n, order) in [(2, ["rx", "tx"]), (1, ["tx", "rx"]), (2, ["rx", "tx"])] {
        for kind in order {
            for host in lab.hosts() {
                run_in(host, "ethtool", &["-L", LINK, kind, n.to_string().as_str()])
                    .expect("no queue with a socket is taken");
            }
            exchange(&mut a, &mut b);
        }
        assert_eq!((a.outstanding(), b.outstanding()), (0, 0), "{n} queues");
    }
    drop((a, b));
    set_queues(&lab, 2);
    let cfg = config(AttachMode::Native);
    let b = try_open(&lab.right, lab.right.v4().into(), &cfg, 2, 1500).expect("two queues");
    let e = lab.right.set_queues(1).expect_err("queue 1 is in use");
    drop(b);
    println!("taking a queue that has a socket: {e}");
    lab.right.set_queues(1).expect("it is free now");
}
