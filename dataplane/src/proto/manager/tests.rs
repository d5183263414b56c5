mod hostile;
mod link;
mod policy;

use super::*;
use crate::base::limits::HEADER_LEN;
use crate::crypto::schedule::SessionSecrets;
use crate::wire::handshake::{
    Attestation, OFFER_PAYLOAD_MIN, Proposal, SUITE_AES_256_GCM, agreed_suite, ext, pad,
    push_extension,
};

const UNIX: u64 = 1_790_000_000_000_000_000;

/// xorshift64: repeatable "randomness" for tests.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Entropy for Seeded {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), EntropyError> {
        out.iter_mut().for_each(|b| *b = (self.next() >> 32) as u8);
        Ok(())
    }
}

fn params() -> Params {
    Params {
        session_index: 0,
        lanes: 16,
        cores: 2,
        base_port: 9696,
        symbol_len: 1408,
        window_slots: 96,
        boot_id: 1,
        timestamp: 0,
        attestation: Attestation {
            suite: SUITE_AES_256_GCM,
            witness: 1,
            fail_closed: 1,
            build: [4; 16],
            receipt_key: [0; 32],
        },
    }
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 9696))
}

fn id(n: u8) -> Identity {
    Identity::from_secret(&[n; 32])
}

/// Node `n` with node `peer` configured; `change` may alter parameters and the psk.
fn node(n: u8, peer: u8, change: impl FnOnce(&mut Params, &mut PeerConfig)) -> Manager {
    let mut local = params();
    let mut config = PeerConfig {
        key: id(peer).public(),
        name: format!("node {peer}"),
        endpoint: Some(addr(peer)),
        psk: None,
    };
    let mut options = Options::new(UNIX, &local);
    options.entropy = Box::new(Seeded(u64::from(n) + 77));
    // Repeated runs of one test must not meet the ration.
    options.rate = RateConfig {
        per_source: 1000,
        source_burst: 1000,
        total: 10_000,
        total_burst: 10_000,
    };
    change(&mut local, &mut config);
    Manager::new(id(n), local, vec![config], options).unwrap()
}

type Change<T> = fn(&mut T);
type Sent = Vec<(SocketAddr, Vec<u8>)>;

fn tick(m: &mut Manager, now: Nanos) -> (Sent, Vec<ManagerEvent>) {
    let mut sent = Vec::new();
    let events = m.on_timeout(now, &mut |to, f: &[u8]| sent.push((to, f.to_vec())));
    (sent, events)
}

fn give(
    m: &mut Manager,
    from: SocketAddr,
    frame: &[u8],
    now: Nanos,
) -> (Sent, Option<ManagerEvent>) {
    let mut sent = Sent::new();
    let event = m.on_datagram(from, frame, now, &mut |to, f: &[u8]| {
        sent.push((to, f.to_vec()))
    });
    let replies: usize = sent.iter().map(|(_, f)| f.len()).sum();
    assert!(
        replies <= frame.len(),
        "a reply of {replies} bytes to {}",
        frame.len()
    );
    (sent, event)
}

struct Session {
    local: u32,
    remote: u32,
    role: Role,
    secrets: SessionSecrets,
    negotiated: Negotiated,
    replaces: Option<u32>,
    handshake: Option<HandshakeId>,
    peer: PublicKey,
}

fn session(event: Option<ManagerEvent>) -> Session {
    match event {
        Some(ManagerEvent::Established {
            handshake,
            local_index,
            remote_index,
            peer,
            role,
            secrets,
            negotiated,
            replaces,
            ..
        }) => Session {
            local: local_index,
            remote: remote_index,
            role,
            secrets,
            negotiated,
            replaces,
            handshake,
            peer,
        },
        Some(ManagerEvent::Refused { reason, .. }) => panic!("refused: {reason}"),
        Some(ManagerEvent::TimedOut { .. }) => panic!("timed out"),
        None => panic!("no event"),
    }
}

fn refusal(event: Option<ManagerEvent>) -> (Refusal, Side) {
    match event {
        Some(ManagerEvent::Refused { reason, by, .. }) => (reason, by),
        _ => panic!("not refused"),
    }
}

fn agree(a: &Session, b: &Session) {
    assert_eq!((a.local, a.remote), (b.remote, b.local));
    assert_eq!(
        (a.secrets.i2r, a.secrets.r2i),
        (b.secrets.i2r, b.secrets.r2i)
    );
    assert_eq!(a.negotiated, b.negotiated);
    assert_ne!(a.role, b.role);
}

/// OFFER of node 1 to node 2.
fn offer(a: &mut Manager, now: Nanos) -> Vec<u8> {
    a.connect(&id(2).public(), None, now).unwrap();
    let (mut sent, events) = tick(a, now);
    assert!(events.is_empty());
    assert_eq!((sent.len(), sent[0].0), (1, addr(2)));
    sent.remove(0).1
}

/// A whole handshake from 1 to 2 on a perfect link.
fn handshake(a: &mut Manager, b: &mut Manager, now: Nanos) -> (Session, Session) {
    let offer = offer(a, now);
    let (counter, none) = give(b, addr(1), &offer, now);
    assert!(none.is_none(), "the responder is not established by OFFER");
    let (accept, event) = give(a, addr(2), &counter[0].1, now);
    let sa = session(event);
    let (silence, event) = give(b, addr(1), &accept[0].1, now);
    assert!(silence.is_empty());
    let sb = session(event);
    agree(&sa, &sb);
    (sa, sb)
}

fn balanced(m: &Manager) {
    let s = m.stats();
    let sum = s.malformed
        + s.rate_limited
        + s.auth_failed
        + s.unknown_peer
        + s.replayed
        + s.foreign
        + s.ignored
        + s.refused
        + s.progressed;
    assert_eq!(s.received, sum, "{s:?}");
}

/// OFFER of node 1 to node 2 with a payload of the test's own making.
fn crafted(payload: &[u8]) -> Vec<u8> {
    let mut noise = Initiator::new(&id(1), &id(2).public(), &noise::NO_PSK).unwrap();
    let mut body = [0; 2048];
    let n = noise.write_offer(payload, &mut body).unwrap();
    let mut f = Frame::header(Kind::Offer, 0, n).to_vec();
    f.extend_from_slice(&body[..n]);
    f
}

#[test]
fn a_handshake_establishes_both_sides_and_negotiates_the_lesser_values() {
    let mut a = node(1, 2, |p, _| {
        p.lanes = 4;
        p.symbol_len = 8896;
    });
    let mut b = node(2, 1, |p, _| p.window_slots = 48);
    let (sa, sb) = handshake(&mut a, &mut b, 5);
    let want = Negotiated {
        lanes: 4,
        symbol_len: 1408,
        window_slots: 48,
    };
    assert_eq!(sa.negotiated, want);
    assert_eq!((sa.role, sb.role), (Role::Initiator, Role::Responder));
    assert_eq!((sa.peer, sb.peer), (id(2).public(), id(1).public()));
    assert_eq!(sa.handshake, Some(HandshakeId(1)));
    assert_eq!((sa.replaces, sb.replaces, sb.handshake), (None, None, None));
    assert_eq!(a.live_index(&id(2).public()), Some(sa.local));
    assert_eq!(b.live_index(&id(1).public()), Some(sb.local));
    balanced(&a);
    balanced(&b);
}

#[test]
fn accept_is_repeated_until_confirmed_and_a_lost_one_is_made_good() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    let o = offer(&mut a, 0);
    let (counter, _) = give(&mut b, addr(1), &o, 0);
    let (lost, event) = give(&mut a, addr(2), &counter[0].1, 0);
    let sa = session(event);
    let due = a.next_timeout().unwrap();
    assert!(tick(&mut a, due - 1).0.is_empty());
    let (again, _) = tick(&mut a, due);
    assert_eq!(again, lost, "byte for byte");
    let sb = session(give(&mut b, addr(1), &again[0].1, due).1);
    agree(&sa, &sb);
    // A duplicate is silence.
    let (sent, event) = give(&mut b, addr(1), &again[0].1, due);
    assert!(sent.is_empty() && event.is_none());
    a.confirm(sa.local);
    assert_eq!(a.next_timeout(), None);
}

#[test]
fn accept_repeats_are_bounded() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    handshake(&mut a, &mut b, 0);
    let mut n = 0;
    while let Some(due) = a.next_timeout() {
        n += tick(&mut a, due).0.len();
        assert!(n <= 10);
    }
    assert_eq!(n, 10);
}

#[test]
fn unanswered_offers_back_off_and_time_out() {
    let mut a = node(1, 2, |_, _| ());
    let id = a.connect(&id(2).public(), None, 0).unwrap();
    let (mut times, mut frames) = (Vec::new(), std::collections::BTreeSet::new());
    loop {
        let now = a.next_timeout().unwrap();
        let (sent, events) = tick(&mut a, now);
        for (_, f) in sent {
            times.push(now);
            assert!(frames.insert(f), "each OFFER is fresh");
        }
        if let Some(ManagerEvent::TimedOut { handshake, .. }) = events.first() {
            assert_eq!(*handshake, id);
            assert_eq!(now, 30_000 * MS);
            break;
        }
    }
    let waits: Vec<_> = times.windows(2).map(|w| w[1] - w[0]).collect();
    let mut nominal = 250 * MS;
    for w in &waits {
        assert!(*w >= nominal * 3 / 4 && *w <= nominal * 5 / 4, "{waits:?}");
        nominal = (nominal * 2).min(5_000 * MS);
    }
    assert!(waits[0] != 250 * MS, "jitter");
    assert_eq!(a.next_timeout(), None);
}

#[test]
fn strangers_and_wrong_keys_get_silence() {
    // 3 is not configured at 2.
    let mut c = node(3, 2, |_, _| ());
    let mut b = node(2, 1, |_, _| ());
    let o = offer(&mut c, 0);
    let (sent, event) = give(&mut b, addr(3), &o, 0);
    assert!(sent.is_empty() && event.is_none());
    assert_eq!(b.stats().unknown_peer, 1);
    // An OFFER for node 2 that reaches node 4.
    let mut d = node(4, 1, |_, _| ());
    let o = offer(&mut node(1, 2, |_, _| ()), 0);
    let (sent, event) = give(&mut d, addr(1), &o, 0);
    assert!(sent.is_empty() && event.is_none());
    assert_eq!(d.stats().auth_failed, 1);
    assert_eq!((b.next_timeout(), d.next_timeout()), (None, None));
}

#[test]
fn a_replayed_or_older_offer_gets_silence() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    let first = offer(&mut a, 0);
    let later = a.next_timeout().unwrap();
    let second = tick(&mut a, later).0.remove(0).1;
    assert_eq!(give(&mut b, addr(1), &second, later).0.len(), 1);
    for f in [&second, &first, &second] {
        let (sent, event) = give(&mut b, addr(9), f, later);
        assert!(sent.is_empty() && event.is_none());
    }
    assert_eq!(b.stats().replayed, 3);
    balanced(&b);
}

#[test]
fn two_offers_in_the_same_instant_have_rising_timestamps() {
    let mut a = node(1, 2, |_, _| ());
    let t = a.next_timestamp(7);
    assert_eq!(t, UNIX + 7);
    assert_eq!(a.next_timestamp(7), t + 1);
    assert_eq!(a.next_timestamp(3), t + 2);
}

#[test]
fn psk_mismatch_establishes_nobody() {
    let mut a = node(1, 2, |_, c| c.psk = Some([1; 32]));
    let mut b = node(2, 1, |_, c| c.psk = Some([2; 32]));
    let o = offer(&mut a, 0);
    let (counter, event) = give(&mut b, addr(1), &o, 0);
    assert!(event.is_none());
    let (sent, event) = give(&mut a, addr(2), &counter[0].1, 0);
    assert!(sent.is_empty() && event.is_none());
    assert_eq!(a.stats().auth_failed, 1);
    // With the same key it works.
    let mut a = node(1, 2, |_, c| c.psk = Some([2; 32]));
    let mut b = node(2, 1, |_, c| c.psk = Some([2; 32]));
    handshake(&mut a, &mut b, 0);
}

#[test]
fn an_offer_that_is_not_padded_gets_silence() {
    let mut b = node(2, 1, |_, _| ());
    let params = Params {
        session_index: 5 << 8,
        timestamp: UNIX,
        ..params()
    };
    let mut payload = Vec::new();
    Proposal { refusal: 0, params }.encode(&mut payload);
    let (sent, event) = give(&mut b, addr(1), &crafted(&payload), 0);
    assert!(sent.is_empty() && event.is_none());
    assert_eq!(b.stats().malformed, 1);
}

#[test]
fn a_restarted_peer_replaces_its_session_only_with_accept() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    let (_, old) = handshake(&mut a, &mut b, 0);
    // Node 1 restarts: nothing is left of it but its key and the clock.
    let mut a = node(1, 2, |p, _| p.boot_id = 2);
    let o = offer(&mut a, 60_000 * MS);
    let (counter, event) = give(&mut b, addr(1), &o, 60_000 * MS);
    assert!(event.is_none());
    assert_eq!(
        b.live_index(&id(1).public()),
        Some(old.local),
        "usable until ACCEPT"
    );
    let (accept, event) = give(&mut a, addr(2), &counter[0].1, 60_000 * MS);
    let sa = session(event);
    let sb = session(give(&mut b, addr(1), &accept[0].1, 60_000 * MS).1);
    agree(&sa, &sb);
    assert_eq!(sb.replaces, Some(old.local));
    assert_ne!(sb.local, old.local);
    assert_ne!(
        sb.local % 256,
        old.local % 256,
        "the old place is not the new one"
    );
    assert_eq!(b.live_index(&id(1).public()), Some(sb.local));
    assert!(!b.close(old.local));
    assert!(b.close(sb.local));
}

#[test]
fn an_offer_without_accept_expires_and_leaves_the_old_session_alone() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    let (_, old) = handshake(&mut a, &mut b, 0);
    let o = offer(&mut node(1, 2, |_, _| ()), 1_000 * MS);
    give(&mut b, addr(1), &o, 1_000 * MS);
    assert_eq!(b.next_timeout(), Some(11_000 * MS));
    tick(&mut b, 11_000 * MS);
    assert_eq!(b.next_timeout(), None);
    assert_eq!(b.live_index(&id(1).public()), Some(old.local));
}

#[test]
fn an_abandoned_attempt_hears_no_counter() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    let b_key = id(2).public();
    a.connect(&b_key, None, 0).unwrap();
    let (offers, _) = tick(&mut a, 0);
    let (counters, _) = give(&mut b, addr(1), &offers[0].1, MS);
    assert!(a.abandon(&b_key) && !a.abandon(&b_key));
    let (accepts, event) = give(&mut a, addr(2), &counters[0].1, 2 * MS);
    assert!(accepts.is_empty() && event.is_none());
    assert_eq!((a.next_timeout(), a.live_index(&b_key)), (None, None));
    // The next attempt is one like any other.
    a.connect(&b_key, None, 3 * MS).unwrap();
    let (offers, _) = tick(&mut a, 3 * MS);
    let (counters, _) = give(&mut b, addr(1), &offers[0].1, 4 * MS);
    let (_, event) = give(&mut a, addr(2), &counters[0].1, 5 * MS);
    assert!(matches!(event, Some(ManagerEvent::Established { .. })));
}

#[test]
fn opening_at_once_gives_one_session_with_the_lower_key_as_initiator() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    let a_lower = id(1).public() < id(2).public();
    a.connect(&id(2).public(), None, 0).unwrap();
    b.connect(&id(1).public(), None, 0).unwrap();
    let (oa, ob) = (tick(&mut a, 0).0.remove(0).1, tick(&mut b, 0).0.remove(0).1);
    let (to_b, ea) = give(&mut a, addr(2), &ob, 0);
    let (to_a, eb) = give(&mut b, addr(1), &oa, 0);
    assert!(ea.is_none() && eb.is_none());
    assert_eq!((to_b.is_empty(), to_a.is_empty()), (a_lower, !a_lower));
    let (sa, sb) = if a_lower {
        let (accept, event) = give(&mut a, addr(2), &to_a[0].1, 0);
        (
            session(event),
            session(give(&mut b, addr(1), &accept[0].1, 0).1),
        )
    } else {
        let (accept, event) = give(&mut b, addr(1), &to_b[0].1, 0);
        let sb = session(event);
        (session(give(&mut a, addr(2), &accept[0].1, 0).1), sb)
    };
    agree(&sa, &sb);
    assert_eq!(sa.role == Role::Initiator, a_lower);
    assert!(
        sa.handshake.is_some() && sb.handshake.is_some(),
        "both connects are answered"
    );
}

#[test]
fn the_lower_side_gives_way_when_its_offers_do_not_arrive() {
    let (low, high) = if id(1).public() < id(2).public() {
        (1, 2)
    } else {
        (2, 1)
    };
    let (mut a, mut b) = (node(low, high, |_, _| ()), node(high, low, |_, _| ()));
    a.connect(&id(high).public(), None, 0).unwrap();
    b.connect(&id(low).public(), None, 0).unwrap();
    let mut now = 0;
    for _ in 0..20 {
        // Nothing of the lower side's own OFFERs arrives; its answers do.
        tick(&mut a, now);
        for (_, f) in tick(&mut b, now).0 {
            let (counter, _) = give(&mut a, addr(high), &f, now);
            if let Some((_, c)) = counter.first() {
                let (accept, event) = give(&mut b, addr(low), c, now);
                let sb = session(event);
                let sa = session(give(&mut a, addr(high), &accept[0].1, now).1);
                agree(&sa, &sb);
                assert!(sa.handshake.is_some());
                return;
            }
        }
        now = a.next_timeout().unwrap().min(b.next_timeout().unwrap());
    }
    panic!("the lower side never gave way");
}

#[test]
fn a_full_table_says_busy() {
    let (mut a, mut b) = (node(1, 2, |_, _| ()), node(2, 1, |_, _| ()));
    while b.table.alloc(id(9).public(), &mut Seeded(5)).is_some() {}
    let o = offer(&mut a, 0);
    let (counter, event) = give(&mut b, addr(1), &o, 0);
    assert_eq!(refusal(event), (Refusal::Busy, Side::Local));
    let (_, event) = give(&mut a, addr(2), &counter[0].1, 0);
    assert_eq!(refusal(event), (Refusal::Busy, Side::Remote));
}

#[test]
fn bad_set_ups_are_refused() {
    let mut m = node(1, 2, |_, _| ());
    let peer = |key| PeerConfig {
        key,
        name: String::new(),
        endpoint: None,
        psk: None,
    };
    let own = id(1).public();
    assert_eq!(m.add_peer(peer(own)), Err(ManagerError::OwnKey(own)));
    let two = id(2).public();
    assert_eq!(m.add_peer(peer(two)), Err(ManagerError::Duplicate(two)));
    let weak = PublicKey([0; 32]);
    assert_eq!(m.add_peer(peer(weak)), Err(ManagerError::WeakKey(weak)));
    let three = id(3).public();
    assert_eq!(
        m.connect(&three, None, 0),
        Err(ConnectError::UnknownPeer(three))
    );
    m.add_peer(peer(three)).unwrap();
    assert_eq!(
        m.connect(&three, None, 0),
        Err(ConnectError::NoEndpoint(three))
    );
    assert!(m.connect(&three, Some(addr(3)), 0).is_ok());
    assert_eq!(m.remove_peer(&three), None);
    let local = Params {
        lanes: 0,
        ..params()
    };
    let made = Manager::new(id(1), local, vec![], Options::new(0, &local));
    assert!(matches!(made, Err(ManagerError::Parameters)));
}

#[test]
fn refusal_codes_round_trip() {
    assert_eq!(Refusal::from_code(0), None);
    for code in 1..=255 {
        assert_eq!(Refusal::from_code(code).map(Refusal::code), Some(code));
    }
}
