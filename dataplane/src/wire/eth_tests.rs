use super::*;
use proptest::prelude::*;

/// The checksum as RFC 1071 words it.
fn slow(bytes: &[u8]) -> u16 {
    let mut s = 0u32;
    for pair in bytes.chunks(2) {
        s += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        s = (s & 0xffff) + (s >> 16);
    }
    !(s as u16)
}

fn flow(v6: bool, vlan: Option<u16>) -> Flow {
    let (src, dst) = if v6 {
        ("[fd96::1]:9696", "[fd96::2]:9700")
    } else {
        ("10.96.0.1:9696", "10.96.0.2:9700")
    };
    Flow {
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, 2],
        vlan,
        src: src.parse().expect("address"),
        dst: dst.parse().expect("address"),
    }
}

fn frame(t: &Template, payload: &[u8]) -> Vec<u8> {
    let mut f = vec![0; t.header_len()];
    f.extend_from_slice(payload);
    assert!(t.write(&mut f));
    f
}

/// Worked out by hand, after RFC 791 and RFC 768.
#[test]
fn an_ipv4_header_has_the_known_bytes() {
    let t = Template::new(&flow(false, None)).expect("one family");
    let f = frame(&t, b"abcd");
    assert_eq!(
        f[14..34],
        [
            0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0x26, 0x0b, 10, 96, 0, 1, 10, 96, 0, 2
        ]
    );
    assert_eq!(f[34..42], [0x25, 0xe0, 0x25, 0xe4, 0, 12, 0, 0]);
    assert_eq!(slow(&f[14..34]), 0);
}

/// What a device does that is told to: sums from the UDP header on, over the sum that stands in the
/// checksum's place.
#[test]
fn a_partial_checksum_becomes_the_whole_one() {
    for vlan in [None, Some(5)] {
        let t = Template::new(&flow(true, vlan)).expect("one family");
        for len in [1, 7, 64, 1448] {
            let payload: Vec<u8> = (0..len).map(|i| (i * 37) as u8).collect();
            let want = frame(&t, &payload);
            let mut f = vec![0; t.header_len()];
            f.extend_from_slice(&payload);
            assert!(t.write_partial(&mut f) && t.has_checksum());
            let check = slow(&f[t.udp_at()..]).to_be_bytes();
            let at = t.udp_at() + CHECKSUM_AT;
            f[at..at + 2].copy_from_slice(&check);
            assert_eq!(f, want);
        }
    }
    // Over IPv4 there is none to complete.
    let t = Template::new(&flow(false, None)).expect("one family");
    let mut f = vec![7; 100];
    assert!(t.write_partial(&mut f) && !t.has_checksum());
    let mut whole = vec![7; 100];
    assert!(t.write(&mut whole));
    assert_eq!(f, whole);
}

#[test]
fn marks_are_written_and_the_checksums_hold() {
    for (v6, vlan) in [
        (false, None),
        (true, None),
        (false, Some(7)),
        (true, Some(7)),
    ] {
        let t = Template::new(&flow(v6, vlan)).expect("one family");
        for ecn in 0..4 {
            let mut f = vec![0; t.header_len()];
            f.extend_from_slice(b"abcd");
            assert!(t.write(&mut f) && t.mark(&mut f, ecn));
            let d = parse(&f, f.len()).expect("a datagram");
            assert_eq!((d.ecn, &f[d.payload]), (ecn, &b"abcd"[..]));
            let ip = if vlan.is_some() { 18 } else { 14 };
            if !v6 {
                assert_eq!(slow(&f[ip..ip + IPV4_LEN]), 0);
            }
            // Nothing else has changed but the IPv4 header's checksum.
            let mut plain = frame(&t, b"abcd");
            plain[ip + 1] = f[ip + 1];
            if !v6 {
                plain[ip + 10..ip + 12].copy_from_slice(&f[ip + 10..ip + 12]);
            }
            assert_eq!(plain, f);
        }
    }
}

#[test]
fn families_do_not_mix() {
    let mut f = flow(false, None);
    f.dst = "[::1]:1".parse().expect("address");
    assert_eq!(Template::new(&f), None);
}

#[test]
fn a_frame_beyond_ip_is_refused() {
    let t = Template::new(&flow(true, None)).expect("one family");
    assert!(!t.write(&mut vec![0; 70_000]));
    assert!(!t.write(&mut [0; 10]));
}

#[test]
fn fragments_and_other_protocols_are_told_apart() {
    let t = Template::new(&flow(false, None)).expect("one family");
    let mut f = frame(&t, b"abcd");
    f[14 + 6] = 0x20;
    assert_eq!(parse(&f, f.len()), Err(EthError::Fragment));
    f[14 + 9] = 6;
    assert_eq!(parse(&f, f.len()), Err(EthError::NotUdp));
    f[12] = 0x99;
    assert_eq!(parse(&f, f.len()), Err(EthError::NotUdp));
    let f = frame(&t, b"");
    assert_eq!(parse(&f, f.len()), Err(EthError::Empty));
}

proptest! {
    #[test]
    fn sums_agree_with_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(u16::from_be_bytes(fold(sum(&bytes))), slow(&bytes));
    }

    #[test]
    fn what_is_written_is_parsed(
        v6: bool,
        vlan in proptest::option::of(0u16..4096),
        payload in proptest::collection::vec(any::<u8>(), 1..2000),
        pad in 0usize..20,
    ) {
        let flow = flow(v6, vlan);
        let t = Template::new(&flow).expect("one family");
        let mut f = frame(&t, &payload);
        let want = Datagram {
            from: flow.src,
            to: flow.dst,
            ecn: 0,
            payload: t.header_len()..f.len(),
        };
        if v6 {
            let ip = t.header_len() - UDP_LEN - IPV6_LEN;
            let mut pseudo = f[ip + 8..ip + 40].to_vec();
            pseudo.extend_from_slice(&f[ip + 4..ip + 6]);
            pseudo.extend_from_slice(&[0, 17]);
            pseudo.extend_from_slice(&f[ip + 40..]);
            prop_assert_eq!(slow(&pseudo), 0);
        }
        f.resize(f.len() + pad, 0);
        prop_assert_eq!(parse(&f, f.len()), Ok(want.clone()));
        // The headers alone are enough when the length is known.
        prop_assert_eq!(parse(&f[..t.header_len()], f.len()), Ok(want));
        let end = t.header_len() + payload.len();
        for cut in 0..end {
            prop_assert!(parse(&f[..cut], cut).is_err());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        kind in prop_oneof![Just(0x0800u16), Just(0x86dd), Just(0x8100), any::<u16>()],
    ) {
        if bytes.len() >= 14 {
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
        }
        if let Ok(d) = parse(&bytes, bytes.len()) {
            prop_assert!(!d.payload.is_empty() && d.payload.end <= bytes.len());
        }
    }
}
