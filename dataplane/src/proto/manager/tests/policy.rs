//! What a side refuses, and how the other learns of it.

use super::*;

#[test]
fn a_weaker_initiator_is_told_so_inside_counter() {
    let cases: [(Change<Params>, Refusal); 3] = [
        (|p| p.attestation.witness = 0, Refusal::Witness),
        (|p| p.attestation.fail_closed = 0, Refusal::FailClosed),
        (|p| p.attestation.suite = 0, Refusal::Suite),
    ];
    for (change, reason) in cases {
        let mut a = node(1, 2, |p, _| change(p));
        let mut b = node(2, 1, |_, _| ());
        let o = offer(&mut a, 0);
        let (counter, event) = give(&mut b, addr(1), &o, 0);
        assert_eq!(refusal(event), (reason, Side::Local));
        assert_eq!(b.next_timeout(), None, "no state is kept for it");
        let (sent, event) = give(&mut a, addr(2), &counter[0].1, 0);
        assert!(sent.is_empty());
        assert_eq!(refusal(event), (reason, Side::Remote));
        assert_eq!(a.next_timeout(), None, "a refusal ends the attempt");
        balanced(&a);
        balanced(&b);
    }
}

#[test]
fn a_suite_is_a_minimum_and_the_lesser_is_agreed() {
    // What each side states, and the least that the responder wants.
    for (ours, theirs, least, agreed) in [
        (1, 1, 1, Some(1)),
        (1, 2, 1, Some(1)),
        (2, 1, 1, Some(1)),
        (2, 2, 1, Some(2)),
        (2, 9, 2, Some(2)),
        (9, 2, 2, Some(2)),
        (1, 2, 2, None),
        (0, 2, 1, None),
    ] {
        let mut a = node(1, 2, |p, _| p.attestation.suite = ours);
        let mut b = node(2, 1, |p, _| p.attestation.suite = theirs);
        b.options.policy.suite = least;
        let o = offer(&mut a, 0);
        let (counter, event) = give(&mut b, addr(1), &o, 0);
        let Some(agreed) = agreed else {
            assert_eq!(refusal(event), (Refusal::Suite, Side::Local));
            continue;
        };
        assert!(event.is_none());
        let (_, event) = give(&mut a, addr(2), &counter[0].1, 0);
        match event {
            Some(ManagerEvent::Established { remote, .. }) => {
                assert_eq!(remote.attestation.suite, theirs, "as stated");
                assert_eq!(agreed_suite(ours, remote.attestation.suite), agreed);
            }
            _ => panic!("no session for {ours} and {theirs}"),
        }
    }
}

#[test]
fn a_weaker_responder_is_refused_and_told_so_inside_accept() {
    let mut a = node(1, 2, |_, _| ());
    let mut b = node(2, 1, |p, _| p.attestation.fail_closed = 0);
    let o = offer(&mut a, 0);
    let (counter, _) = give(&mut b, addr(1), &o, 0);
    let (accept, event) = give(&mut a, addr(2), &counter[0].1, 0);
    assert_eq!(refusal(event), (Refusal::FailClosed, Side::Local));
    let (_, event) = give(&mut b, addr(1), &accept[0].1, 0);
    assert_eq!(refusal(event), (Refusal::FailClosed, Side::Remote));
    assert_eq!((a.next_timeout(), b.next_timeout()), (None, None));
    assert_eq!(
        (a.live_index(&id(2).public()), b.live_index(&id(1).public())),
        (None, None)
    );
}

#[test]
fn unusable_offers_of_a_known_peer_are_refused_with_the_reason() {
    let cases: [(Change<Vec<u8>>, Refusal); 6] = [
        (|b| b[0] = 2, Refusal::Version),
        (|b| b[1] = 1, Refusal::Parameters),
        (|b| b[2] = 0, Refusal::Parameters),
        (|b| b[8..12].fill(0), Refusal::Parameters),
        (|b| b.push(1), Refusal::Parameters),
        (
            |b| push_extension(b, ext::MLKEM_KEY | ext::CRITICAL, &[0; 32]).unwrap(),
            Refusal::Extension,
        ),
    ];
    for (change, reason) in cases {
        let mut b = node(2, 1, |_, _| ());
        let params = Params {
            session_index: 5 << 8,
            timestamp: UNIX,
            ..params()
        };
        let mut payload = Vec::new();
        Proposal { refusal: 0, params }.encode(&mut payload);
        pad(&mut payload, OFFER_PAYLOAD_MIN);
        change(&mut payload);
        let f = crafted(&payload);
        let (sent, event) = give(&mut b, addr(1), &f, 0);
        assert_eq!(refusal(event), (reason, Side::Local));
        assert_eq!(sent.len(), 1);
        let (sent, event) = give(&mut b, addr(1), &f, 0);
        assert!(
            sent.is_empty() && event.is_none(),
            "a refused OFFER is not replayed either"
        );
    }
}
