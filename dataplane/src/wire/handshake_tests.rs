use super::*;
use proptest::prelude::*;

prop_compose! {
    fn proposals()(
        small in any::<[u8; 8]>(), port in any::<u16>(), symbol in any::<u16>(),
        index in any::<u32>(), boot in any::<u64>(), time in any::<u64>(),
        build in any::<[u8; 16]>(), key in any::<[u8; 32]>(),
    ) -> Proposal {
        Proposal {
            refusal: small[0],
            params: Params {
                session_index: index,
                lanes: small[1],
                cores: small[2],
                base_port: port,
                symbol_len: symbol,
                window_slots: small[3],
                boot_id: boot,
                timestamp: time,
                attestation: Attestation {
                    suite: small[4],
                    witness: small[5],
                    fail_closed: small[6],
                    build,
                    receipt_key: key,
                },
            },
        }
    }
}

fn frame(kind: Kind, session: u32, body: &[u8]) -> Vec<u8> {
    let mut f = Frame::header(kind, session, body.len()).to_vec();
    f.extend_from_slice(body);
    f
}

#[test]
fn the_header_is_strict_in_every_bit() {
    for (kind, session) in [(Kind::Offer, 0), (Kind::Counter, 77), (Kind::Accept, 78)] {
        let good = frame(kind, session, &[1, 2, 3]);
        let parsed = Frame::parse(&good).unwrap();
        assert_eq!(
            (parsed.kind, parsed.session, parsed.body),
            (kind, session, &[1, 2, 3][..])
        );
        assert!(is_handshake(&good));
        for cut in 0..good.len() {
            assert!(Frame::parse(&good[..cut]).is_err());
        }
        for bit in 0..HEADER_LEN * 8 {
            let mut f = good.clone();
            f[bit / 8] ^= 1 << (bit % 8);
            match Frame::parse(&f) {
                Err(_) => {}
                // Another kind or another session finds other keys and fails there.
                Ok(p) => assert!(p.kind != kind || p.session != session, "bit {bit}"),
            }
        }
    }
}

#[test]
fn too_long_a_body_is_refused() {
    let mut f = frame(Kind::Offer, 0, &vec![0; MAX_BODY]);
    assert!(Frame::parse(&f).is_ok());
    f.push(0);
    f[22..24].copy_from_slice(&(MAX_BODY as u16 + 1).to_le_bytes());
    assert_eq!(Frame::parse(&f), Err(HandshakeError::Length));
}

#[test]
fn the_layout_is_pinned() {
    let p = Proposal {
        refusal: 0,
        params: Params {
            session_index: 0x0403_0201,
            lanes: 16,
            cores: 4,
            base_port: 9696,
            symbol_len: 1408,
            window_slots: 96,
            boot_id: 5,
            timestamp: 6,
            attestation: Attestation {
                suite: 1,
                witness: 2,
                fail_closed: 1,
                build: [7; 16],
                receipt_key: [8; 32],
            },
        },
    };
    assert!(p.params.is_valid());
    let mut b = Vec::new();
    p.encode(&mut b);
    let mut want = vec![1, 0, 16, 4, 0xe0, 0x25, 0x80, 0x05, 1, 2, 3, 4, 96, 1, 2, 1];
    want.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    want.extend_from_slice(&[7; 16]);
    want.extend_from_slice(&[8; 32]);
    assert_eq!(b, want);
    assert_eq!(b.len(), PARAMS_LEN);
    assert_eq!(timestamp_of(&b), Some(6));
}

#[test]
fn out_of_range_values_are_invalid() {
    let mut b = vec![1, 0, 16, 4, 0xe0, 0x25, 0x80, 0x05, 1, 2, 3, 4, 96, 1, 2, 1];
    b.resize(PARAMS_LEN, 0);
    let good = Proposal::decode(&b).unwrap().params;
    assert!(good.is_valid());
    let cases: [fn(&mut Params); 12] = [
        |p| p.lanes = 0,
        |p| p.lanes = 129,
        |p| p.cores = 0,
        |p| p.cores = 65,
        |p| p.window_slots = 0,
        |p| p.window_slots = 97,
        |p| p.symbol_len = 0,
        |p| p.symbol_len = 1400,
        |p| p.symbol_len = 9216,
        |p| p.base_port = 0,
        |p| p.base_port = u16::MAX - 2,
        |p| p.attestation.fail_closed = 2,
    ];
    for (i, change) in cases.iter().enumerate() {
        let mut p = good;
        change(&mut p);
        assert!(!p.is_valid(), "case {i}");
    }
}

#[test]
fn unknown_extensions_are_skipped_or_refused() {
    let mut base = vec![VERSION];
    base.resize(PARAMS_LEN, 0);
    for kind in [ext::MLKEM_KEY, ext::COOKIE, 999] {
        let mut b = base.clone();
        push_extension(&mut b, kind, b"abc").unwrap();
        assert!(Proposal::decode(&b).is_ok());
        push_extension(&mut b, kind | ext::CRITICAL, b"abc").unwrap();
        let want = Err(HandshakeError::CriticalExtension(kind));
        assert_eq!(Proposal::decode(&b), want);
    }
    for tail in [
        &[0u8][..],
        &[0, 0, 1],
        &[0, 0, 1, 0],
        &[0, 0, 0xff, 0xff, 1],
    ] {
        let mut b = base.clone();
        b.extend_from_slice(tail);
        assert_eq!(Proposal::decode(&b), Err(HandshakeError::Length));
    }
    assert!(push_extension(&mut base, 1, &vec![0; 65_536]).is_err());
}

proptest! {
    #[test]
    fn proposals_round_trip_with_padding(p in proposals(), min in 0usize..400) {
        let mut b = Vec::new();
        p.encode(&mut b);
        pad(&mut b, min);
        prop_assert!(b.len() >= min && b.len() <= min.max(PARAMS_LEN) + 4);
        prop_assert_eq!(Proposal::decode(&b), Ok(p));
        for cut in 0..PARAMS_LEN {
            prop_assert!(Proposal::decode(&b[..cut]).is_err());
        }
    }

    #[test]
    fn accepts_round_trip(small in any::<[u8; 3]>(), symbol_len in any::<u16>(),
        initiator_index in any::<u32>(), responder_index in any::<u32>(), confirm in any::<[u8; 32]>())
    {
        let a = Accept { refusal: small[0], lanes: small[1], window_slots: small[2], symbol_len,
            initiator_index, responder_index, confirm };
        let b = a.encode();
        prop_assert_eq!(Accept::decode(&b), Ok(a));
        prop_assert!(Accept::decode(&b[..ACCEPT_LEN - 1]).is_err());
    }

    #[test]
    fn garbage_never_panics(mut data in proptest::collection::vec(any::<u8>(), 0..400), valid_start: bool) {
        if valid_start && !data.is_empty() {
            data[0] = VERSION;
        }
        let _ = Frame::parse(&data);
        let _ = Proposal::decode(&data);
        let _ = Accept::decode(&data);
        let _ = timestamp_of(&data);
        let _ = is_handshake(&data);
        prop_assert!(Extensions(&data).count() <= data.len() / 4 + 1);
    }
}
