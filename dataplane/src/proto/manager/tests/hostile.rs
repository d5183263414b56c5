use proptest::prelude::*;

use super::*;

#[test]
fn every_cut_and_every_flipped_bit_of_every_message_is_silence() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    /// Cuts, extensions and flips of `good` must change nothing at `m`.
    fn torment(m: &mut Manager, from: SocketAddr, good: &[u8], step: usize) {
        let mut silent = |f: &[u8]| {
            let (sent, event) = give(m, from, f, 1_000 * MS);
            assert!(sent.is_empty() && event.is_none());
            if let Some(i) = m.peers.values_mut().next().and_then(|p| p.intent.as_mut()) {
                i.forged = 0; // the bound on forgeries has a test of its own
            }
        };
        for cut in 0..good.len() {
            silent(&good[..cut]);
        }
        silent(&[good, &[0]].concat());
        for bit in (0..good.len() * 8).step_by(step) {
            let mut f = good.to_vec();
            f[bit / 8] ^= 1 << (bit % 8);
            silent(&f);
        }
    }
    let relaxed = RateConfig {
        per_source: 1_000_000_000,
        source_burst: 1_000_000,
        total: 1_000_000_000,
        total_burst: 1_000_000,
    };
    b.rate = RateLimiter::new(relaxed, [0; 32]);
    let o = offer(&mut a, 0);
    torment(&mut b, addr(1), &o, 3);
    let (counter, _) = give(&mut b, addr(1), &o, 1_000 * MS);
    assert_eq!(counter.len(), 1, "the true OFFER still counts");
    torment(&mut a, addr(2), &counter[0].1, 1);
    let (accept, event) = give(&mut a, addr(2), &counter[0].1, 1_000 * MS);
    let sa = session(event);
    torment(&mut b, addr(1), &accept[0].1, 1);
    let sb = session(give(&mut b, addr(1), &accept[0].1, 1_000 * MS).1);
    agree(&sa, &sb);
    balanced(&a);
    balanced(&b);
}

#[test]
fn forged_counters_are_bounded_work_per_offer() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    let o = offer(&mut a, 0);
    let (counter, _) = give(&mut b, addr(1), &o, 0);
    let mut forged = counter[0].1.clone();
    forged[HEADER_LEN + 40] ^= 1;
    for _ in 0..100 {
        give(&mut a, addr(2), &forged, 0);
    }
    assert_eq!(a.stats().auth_failed, u64::from(MAX_FORGED_COUNTERS));
    // The next OFFER starts afresh.
    let due = a.next_timeout().unwrap();
    let (o, _) = tick(&mut a, due);
    let (counter, _) = give(&mut b, addr(1), &o[0].1, due);
    session(give(&mut a, addr(2), &counter[0].1, due).1);
}

#[test]
fn a_flood_of_offers_is_rationed() {
    let mut b = node(2, 1, |_, _| ());
    b.rate = RateLimiter::new(RateConfig::default(), [0; 32]);
    let mut f = vec![0; 500];
    f[..HEADER_LEN].copy_from_slice(&Frame::header(Kind::Offer, 0, 500 - HEADER_LEN));
    for _ in 0..200 {
        give(&mut b, addr(1), &f, 0);
    }
    assert_eq!((b.stats().auth_failed, b.stats().rate_limited), (10, 190));
}

proptest! {
    #[test]
    fn garbage_is_silence(
        kind in 0u8..16, session in any::<u32>(), body in proptest::collection::vec(any::<u8>(), 0..600),
        raw in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut m = node(2, 1, |_, _| ());
        m.connect(&id(1).public(), None, 0).unwrap();
        let own = tick(&mut m, 0).0.remove(0).1;
        let pending = m.peers.values().next().unwrap().intent.as_ref().unwrap().index.unwrap();
        for session in [0, session, pending] {
            let mut f = Frame::header(Kind::Offer, session, body.len()).to_vec();
            f[0] = 0x10 | kind;
            f.extend_from_slice(&body);
            let (sent, event) = give(&mut m, addr(1), &f, 0);
            prop_assert!(sent.is_empty() && event.is_none());
        }
        for f in [&raw, &own] {
            let (sent, event) = give(&mut m, addr(1), f, 0);
            prop_assert!(sent.is_empty() && event.is_none());
        }
        balanced(&m);
    }
}
