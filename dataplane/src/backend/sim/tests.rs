use super::*;

fn addr(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 9696).into()
}

fn pair(seed: u64, link: Link) -> (SimNet, SimBackend, SimBackend) {
    let net = SimNet::new(seed, link);
    let a = net.endpoint(addr(1), 1 << 30).expect("endpoint");
    let b = net.endpoint(addr(2), 1 << 30).expect("endpoint");
    (net, a, b)
}

fn send(a: &mut SimBackend, to: SocketAddr, n: u32, len: usize) {
    let mut f = a.claim_marked(&to, (0, 2), len).expect("room");
    f.fill(0);
    f[..4].copy_from_slice(&n.to_le_bytes());
    a.commit(f);
    a.flush().expect("flush");
}

fn take(b: &mut SimBackend) -> Vec<(u32, usize, u8)> {
    let (mut got, mut out) = (Vec::new(), Vec::with_capacity(4));
    while b.recv(&mut out).expect("recv") > 0 {
        for mut burst in out.drain(..) {
            let ecn = burst.ecn();
            for s in burst.segments_mut() {
                let n = s[..4].try_into().map_or(u32::MAX, u32::from_le_bytes);
                got.push((n, s.len(), ecn));
            }
            b.release(burst);
        }
    }
    got
}

fn balanced(s: &SimStats) -> bool {
    s.sent + s.duplicated
        == s.delivered
            + s.lost
            + s.queue_full
            + s.too_long
            + s.blackholed
            + s.no_such_peer
            + s.inbox_full
            + s.in_flight
}

#[test]
fn a_clean_link_delivers_everything_at_its_time() {
    let (net, mut a, mut b) = pair(1, Link::default());
    for n in 0..100 {
        send(&mut a, addr(2), n, if n % 10 == 9 { 100 } else { 1448 });
    }
    assert_eq!(net.next_arrival(), Some(50_000));
    assert_eq!(net.advance_to(49_999), 0);
    assert!(take(&mut b).is_empty());
    assert_eq!(net.advance_to(50_000), 100);
    let got = take(&mut b);
    assert!(got.iter().map(|g| g.0).eq(0..100));
    assert!(
        got.iter()
            .all(|g| g.1 == if g.0 % 10 == 9 { 100 } else { 1448 })
    );
    assert_eq!(b.stats().rx_bursts, 10, "datagrams arrive joined");
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
    assert!(balanced(&net.stats()));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let bad = Link {
        jitter: 30_000,
        rate: 100_000_000,
        loss: 0.05,
        burst_start: 0.01,
        duplicate: 0.02,
        corrupt: 0.03,
        reorder: 0.05,
        ..Link::default()
    };
    let run = |seed| {
        let (net, mut a, mut b) = pair(seed, bad);
        let mut got = Vec::new();
        for n in 0..2000 {
            send(&mut a, addr(2), n, 1000);
            net.advance_to(u64::from(n) * 12_000);
            got.extend(take(&mut b));
        }
        net.advance_to(u64::MAX);
        got.extend(take(&mut b));
        let s = net.stats();
        assert!(balanced(&s) && s.in_flight == 0, "{s:?}");
        assert!(s.lost > 0 && s.duplicated > 0 && s.corrupted > 0 && s.reordered > 0);
        assert_eq!(b.stats().rx_frames, s.delivered);
        (got, s)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

#[test]
fn loss_comes_at_about_its_rate_and_in_bursts_where_asked() {
    let rates = |link: Link| {
        let (net, mut a, mut b) = pair(3, link);
        for n in 0..20_000 {
            send(&mut a, addr(2), n, 64);
            net.advance_to(net.now() + 1);
        }
        net.advance_to(u64::MAX);
        let got = take(&mut b);
        let gaps = got.windows(2).filter(|w| w[1].0 != w[0].0 + 1).count();
        (20_000 - got.len(), gaps)
    };
    let (lost, gaps) = rates(Link {
        loss: 0.01,
        ..Link::default()
    });
    assert!(
        (150..250).contains(&lost) && gaps * 10 > lost * 9,
        "{lost} in {gaps}"
    );
    let link = Link {
        burst_start: 0.001,
        burst_end: 0.1,
        ..Link::default()
    };
    let (lost, gaps) = rates(link);
    assert!(lost > 80 && gaps * 5 < lost, "{lost} in {gaps}");
}

#[test]
fn a_rate_spaces_datagrams_and_its_queue_marks_and_drops() {
    let link = Link {
        delay: 1000,
        rate: 1_000_000_000,
        queue: 10 * 1028,
        mark: 5 * 1028,
        mtu: 1500,
        ..Link::default()
    };
    let (net, mut a, mut b) = pair(4, link);
    for n in 0..20 {
        send(&mut a, addr(2), n, 1000);
    }
    send(&mut a, addr(2), 99, 1473);
    let mut times = Vec::new();
    while let Some(at) = net.next_arrival() {
        times.push(at);
        net.advance_to(at);
    }
    assert_eq!(times, (1..=10).map(|i| 1000 + i * 1028).collect::<Vec<_>>());
    let s = net.stats();
    assert_eq!((s.queue_full, s.too_long, s.ce_marked), (10, 1, 5));
    let got = take(&mut b);
    assert!(got.iter().all(|g| (g.2 == 3) == (g.0 >= 5)), "{got:?}");
    assert!(balanced(&s));
}

#[test]
fn a_link_may_clear_rewrite_or_drop_marks() {
    let through = |ecn| {
        let link = Link {
            ecn,
            ..Link::default()
        };
        let (net, mut a, mut b) = pair(6, link);
        send(&mut a, addr(2), 0, 100);
        let mut plain = a.claim(&addr(2), 90).expect("room");
        plain.fill(0);
        a.commit(plain);
        a.flush().expect("flush");
        net.advance_to(u64::MAX);
        assert!(balanced(&net.stats()));
        take(&mut b).iter().map(|g| (g.1, g.2)).collect::<Vec<_>>()
    };
    assert_eq!(through(EcnFault::Keep), [(100, 2), (90, 0)]);
    assert_eq!(through(EcnFault::Bleach), [(100, 0), (90, 0)]);
    assert_eq!(through(EcnFault::Rewrite), [(100, 1), (90, 0)]);
    assert_eq!(through(EcnFault::Drop), [(90, 0)]);
}

#[test]
fn blackholes_strangers_and_full_inboxes_are_counted() {
    let net = SimNet::new(5, Link::default());
    let mut a = net.endpoint(addr(1), 1000).expect("endpoint");
    let mut b = net.endpoint(addr(2), 1000).expect("endpoint");
    assert!(net.endpoint(addr(2), 1).is_err());
    let down = Link {
        blackhole: true,
        ..net.link(addr(1), addr(2))
    };
    net.set_link(addr(1), addr(2), down);
    send(&mut a, addr(2), 0, 300);
    send(&mut a, addr(3), 0, 300);
    net.set_link(addr(1), addr(2), Link::default());
    for n in 1..6 {
        send(&mut a, addr(2), n, 300);
    }
    // The other direction was never touched.
    send(&mut b, addr(1), 9, 300);
    net.advance_to(1_000_000);
    let s = net.stats();
    assert_eq!((s.blackholed, s.no_such_peer, s.inbox_full), (1, 1, 2));
    assert!(balanced(&s));
    assert_eq!(
        take(&mut b).iter().map(|g| g.0).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(take(&mut a).len(), 1);
    assert_eq!(
        (b.stats().rx_kernel_drops, b.rx_capacity_bytes()),
        (2, 1000)
    );
    send(&mut a, "[::1]:1".parse().expect("address"), 0, 100);
    assert_eq!(a.stats().dropped(DropCause::Unreachable), 1);
}
