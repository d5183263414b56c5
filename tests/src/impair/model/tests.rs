use super::*;

fn due(fate: Fate) -> Option<u64> {
    match fate {
        Fate::Passes { due, .. } => Some(due),
        Fate::Dropped(_) => None,
    }
}

#[test]
fn the_rate_is_exact_over_many_frames() {
    // 1,514 bytes at 377 Mb/s take 32,127.32 ns: kept in picoseconds, each is off by less than one.
    let path = Path {
        rate: 377_000_000,
        queue: u64::MAX,
        delay: Duration::from_millis(3),
        ..Path::default()
    };
    let mut d = Direction::new(path, 1);
    let last = (0..100_000).map(|_| due(d.judge(0, 1514)).unwrap()).last();
    let exact = 1514.0 * 8.0 * 100_000.0 / 377e6 * 1e9 + 3e6;
    assert!(
        (last.unwrap() as f64 - exact).abs() < 102.0,
        "{last:?} {exact}"
    );
    // A frame that finds the link free takes its own time only.
    let late = d.judge(60_000_000_000, 1514);
    assert_eq!(due(late), Some(60_000_000_000 + 32_128 + 3_000_000));
}

#[test]
fn the_queue_drops_at_its_tail_and_drains_with_the_rate() {
    let path = Path {
        rate: 8_000_000_000, // a byte a nanosecond
        queue: 10_000,
        ..Path::default()
    };
    let mut d = Direction::new(path, 1);
    let passed = (0..12).filter(|_| due(d.judge(0, 1000)).is_some()).count();
    assert_eq!(passed, 10);
    assert_eq!(d.queue_high(), 10_000);
    assert_eq!(d.judge(999, 1000), Fate::Dropped(Cause::Queue));
    assert_eq!(due(d.judge(1000, 1000)), Some(11_000));
    // A short frame fits where a long one does not.
    assert_eq!(due(d.judge(1500, 500)), Some(11_500));
}

#[test]
fn time_that_runs_backwards_does_not_go_back() {
    let path = Path {
        delay: Duration::from_nanos(10),
        ..Path::default()
    };
    let mut d = Direction::new(path, 1);
    assert_eq!(due(d.judge(100, 60)), Some(110));
    assert_eq!(due(d.judge(50, 60)), Some(110));
}

#[test]
fn random_loss_has_its_share_and_no_memory() {
    for p in [0.001, 0.01, 0.05] {
        let path = Path {
            loss: Loss::Random(p),
            ..Path::default()
        };
        let mut d = Direction::new(path, 7);
        let n = 400_000;
        let (mut lost, mut pairs, mut before) = (0, 0, false);
        for t in 0..n {
            let gone = d.judge(t, 1000) == Fate::Dropped(Cause::Loss);
            lost += u64::from(gone);
            pairs += u64::from(gone && before);
            before = gone;
        }
        let mean = n as f64 * p;
        assert!(
            (lost as f64 - mean).abs() < 5.0 * mean.sqrt(),
            "{p}: {lost}"
        );
        let mean = n as f64 * p * p;
        assert!(
            (pairs as f64 - mean).abs() < 5.0 * mean.sqrt() + 1.0,
            "{p}: {pairs}"
        );
    }
}

#[test]
fn bursts_have_their_share_and_their_length() {
    let loss = Loss::bursts(0.02, 8.0);
    assert!((loss.mean() - 0.02).abs() < 1e-12);
    let mut d = Direction::new(
        Path {
            loss,
            ..Path::default()
        },
        3,
    );
    let (n, mut lost, mut bursts, mut before) = (1_000_000, 0_u64, 0_u64, false);
    for t in 0..n {
        let gone = matches!(d.judge(t, 1000), Fate::Dropped(_));
        lost += u64::from(gone);
        bursts += u64::from(gone && !before);
        before = gone;
    }
    let share = lost as f64 / n as f64;
    let length = lost as f64 / bursts as f64;
    assert!((share - 0.02).abs() < 0.002, "{share}");
    assert!((length - 8.0).abs() < 0.8, "{length}");
    assert_eq!(Loss::bursts(0.0, 8.0), Loss::None);
    assert_eq!(Loss::bursts(0.1, 1.0), Loss::Random(0.1));
}

#[test]
fn a_seed_decides_everything() {
    let path = Path {
        loss: Loss::Random(0.3),
        duplicate: 0.1,
        reorder: 0.1,
        reorder_by: Duration::from_nanos(5),
        ..Path::default()
    };
    let run = |seed| {
        let mut d = Direction::new(path, seed);
        (0..1000).map(|t| d.judge(t, 100)).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn marks_only_what_waits_long_and_may_be_marked() {
    let path = Path {
        rate: 8_000_000_000,
        queue: 10_000,
        mark: 3_000,
        ..Path::default()
    };
    let mut d = Direction::new(path, 1);
    let marks = (0..5).map(|_| match d.judge(0, 1000) {
        Fate::Passes { mark, .. } => mark,
        Fate::Dropped(_) => panic!("there is room"),
    });
    assert_eq!(marks.collect::<Vec<_>>(), [false, false, false, true, true]);
}

/// The Internet checksum of an IPv4 header.
fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn a_mark_keeps_the_header_valid() {
    for ecn in 0..4_u8 {
        for id in [0_u16, 1, 0x1234, 0xfffe, 0xffff] {
            let mut frame = vec![0; 14 + 20 + 8];
            frame[12..14].copy_from_slice(&IPV4);
            frame[14] = 0x45;
            frame[15] = 0xb8 | ecn;
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            frame[22] = 64;
            frame[23] = 17;
            frame[26..34].copy_from_slice(&[10, 96, 0, 1, 10, 96, 0, 2]);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
            assert_eq!(mark_ce(&mut frame), ecn != 0);
            assert_eq!(checksum(&frame[14..34]), 0, "ecn {ecn} id {id}");
            assert_eq!(frame[15], if ecn == 0 { 0xb8 } else { 0xbb });
        }
    }
    let mut frame = vec![0; 14 + 40];
    frame[12..14].copy_from_slice(&IPV6);
    frame[14..16].copy_from_slice(&[0x6b, 0x25]);
    assert!(mark_ce(&mut frame));
    assert_eq!(frame[14..16], [0x6b, 0x35]);
    assert!(!mark_ce(&mut [0; 10]) && !mark_ce(&mut [0; 80]));
}

#[test]
fn what_hosts_send_by_themselves_is_known() {
    let frame = |kind: [u8; 2], bytes: &[(usize, u8)]| {
        let mut frame = vec![0; 90];
        frame[12..14].copy_from_slice(&kind);
        for &(at, value) in bytes {
            frame[14 + at] = value;
        }
        frame
    };
    let own = [
        frame(ARP, &[]),
        frame(IPV4, &[(9, 2)]),
        frame(IPV6, &[(6, 58), (40, 135)]),
        frame(IPV6, &[(6, 0), (40, 58), (48, 143)]),
    ];
    let traffic = [
        frame(IPV4, &[(9, 17)]),
        frame(IPV6, &[(6, 58), (40, 128)]),
        frame(IPV6, &[(6, 17)]),
        frame(IPV6, &[(6, 0), (40, 17)]),
        vec![],
        vec![8],
        frame(IPV6, &[(6, 58)])[..54].to_vec(),
    ];
    assert!(own.iter().all(|f| is_control(f)));
    assert!(!traffic.iter().any(|f| is_control(f)));
}

#[test]
fn nonsense_is_refused() {
    let bad = [
        Path {
            loss: Loss::Random(1.5),
            ..Path::default()
        },
        Path {
            duplicate: -0.1,
            ..Path::default()
        },
        Path {
            rate: 1_000_000,
            queue: 1000,
            ..Path::default()
        },
        Path {
            loss: Loss::Bursts {
                start: 0.1,
                end: 0.0,
                bad: 1.0,
                good: 0.0,
            },
            ..Path::default()
        },
    ];
    for path in bad {
        assert!(path.check(1500).is_err(), "{path:?}");
    }
    let good = Path {
        rate: 100_000_000,
        queue: 100_000,
        delay: Duration::from_millis(10),
        ..Path::default()
    };
    good.check(1500).unwrap();
    assert_eq!(good.most_bytes(), Some(225_000));
}
