//! Hostile acknowledgements and small cases of the lane's two ends.

use crate::base::Bits96;
use crate::proto::*;
use crate::wire::ack::tests::any_ack;
use crate::wire::ack::{Ack, Report};
use proptest::prelude::*;

fn tx() -> LaneTx {
    LaneTx::new(LaneTxConfig {
        window_slots: 96,
        symbol_len: 1408,
        inflight_limit: 1 << 20,
        repair_ahead: RepairAhead::Adaptive,
        cc: CcConfig {
            kind: CcKind::Fixed(10_000_000_000),
            max_rate: None,
            frame: 1448,
            initial_rtt: 1_000_000,
            seed: 1,
        },
    })
}

fn rx() -> LaneRx {
    LaneRx::new(LaneRxConfig {
        window_slots: 96,
        max_symbol_len: 1408,
    })
}

fn drain(t: &mut LaneTx, now: &mut u64) -> Vec<TxSymbol> {
    let mut out = Vec::new();
    for _ in 0..1000 {
        while let Some(s) = t.poll_send(*now) {
            out.push(s);
        }
        *now += 1000;
    }
    out
}

#[test]
fn dishonest_acknowledgements_are_refused_and_change_nothing() {
    let (mut t, mut now) = (tx(), 0);
    assert!(t.push_slot(0, 4, 1408) && t.push_slot(1, 4, 1408));
    assert_eq!(drain(&mut t, &mut now).len(), 8);
    assert!(t.push_slot(2, 4, 1408));
    let good = Ack {
        largest_pn: 7,
        received: 8,
        base: 2,
        credit: 98,
        inflight_limit: 1 << 20,
        ..Ack::default()
    };
    let mut refuse = |ack: Ack, why| {
        let out = t.on_ack(now, &ack, |_| panic!("completed"));
        assert_eq!(out.rejected, Some(why));
    };
    refuse(
        Ack {
            largest_pn: 8,
            ..good
        },
        AckReject::LargestPn,
    );
    refuse(
        Ack {
            largest_pn: u64::MAX,
            ..good
        },
        AckReject::LargestPn,
    );
    refuse(
        Ack {
            received: 9,
            ..good
        },
        AckReject::Received,
    );
    refuse(Ack { base: 3, ..good }, AckReject::Complete);
    refuse(
        Ack {
            base: u64::MAX,
            ..good
        },
        AckReject::Complete,
    );
    refuse(
        Ack {
            complete: Bits96::first(96),
            ..good
        },
        AckReject::Complete,
    );
    refuse(Ack { credit: 99, ..good }, AckReject::Credit);
    let mut done = Vec::new();
    let out = t.on_ack(now, &good, |s| done.push(s));
    assert_eq!((out.rejected, out.acked_slots, done), (None, 2, vec![0, 1]));
    let old = Ack {
        base: 1,
        largest_pn: 3,
        received: 4,
        credit: 97,
        ..good
    };
    assert!(t.on_ack(now, &old, |_| panic!("twice")).stale);
    assert_eq!(t.stats().rejected_acks, 7);
}

#[test]
fn a_deficit_is_answered_once_and_with_repair() {
    let (mut t, mut now) = (tx(), 0);
    for slot in 0..2 {
        assert!(t.push_slot(slot, 8, 1408));
    }
    assert_eq!(drain(&mut t, &mut now).len(), 16);
    // Slot 0 lacks two symbols; slot 1 is complete, so packets far beyond slot 0 arrived.
    let mut ack = Ack {
        largest_pn: 15,
        received: 14,
        complete: [1].into_iter().fold(Bits96::EMPTY, |mut s, i| {
            s.insert(i);
            s
        }),
        credit: 96,
        inflight_limit: 1 << 20,
        ..Ack::default()
    };
    ack.push_report(Report {
        offset: 0,
        deficit: 2,
        have: Bits96::first(6),
    });
    t.on_ack(now, &ack, |s| assert_eq!(s, 1));
    // The same acknowledgement again asks for nothing more.
    let sent: Vec<_> = std::iter::from_fn(|| t.poll_send(now)).collect();
    t.on_ack(now, &ack, |_| panic!("twice"));
    assert_eq!(t.poll_send(now), None);
    let got: Vec<_> = sent.iter().map(|s| (s.slot, s.index, s.kind)).collect();
    assert_eq!(
        got,
        [(0, 8, SymbolKind::Repair), (0, 9, SymbolKind::Repair)]
    );
}

#[test]
fn an_exhausted_credit_asks_for_word() {
    let mut t = LaneTx::new(LaneTxConfig {
        window_slots: 1,
        symbol_len: 1408,
        inflight_limit: 1 << 20,
        repair_ahead: RepairAhead::Fixed(0),
        cc: CcConfig {
            kind: CcKind::Bbr,
            max_rate: None,
            frame: 1448,
            initial_rtt: 1_000_000,
            seed: 0,
        },
    });
    let mut now = 0;
    assert!(t.push_slot(0, 1, 64));
    drain(&mut t, &mut now);
    let ack = Ack {
        base: 1,
        received: 1,
        credit: 1,
        inflight_limit: 1 << 20,
        ..Ack::default()
    };
    t.on_ack(now, &ack, |_| ());
    assert!(t.push_slot(1, 1, 64));
    assert_eq!(t.poll_send(now), None);
    assert!(!t.take_ping_owed());
    now = t.next_timeout(now).unwrap();
    t.on_timeout(now);
    assert!(t.take_ping_owed() && !t.take_ping_owed());
    t.on_ack(now, &Ack { credit: 2, ..ack }, |_| ());
    assert_eq!(t.poll_send(now).map(|s| s.slot), Some(1));
}

#[test]
fn a_silent_peer_is_probed_with_backoff() {
    let (mut t, mut now) = (tx(), 0);
    assert!(t.push_slot(0, 2, 1408));
    drain(&mut t, &mut now);
    let mut gaps = Vec::new();
    for _ in 0..6 {
        let at = t.next_timeout(now).unwrap();
        gaps.push(at - now);
        now = at;
        t.on_timeout(now);
        let n = std::iter::from_fn(|| t.poll_send(now)).count();
        assert!((1..=2).contains(&n), "{n}");
    }
    assert!(
        gaps[2..].windows(2).all(|g| g[1] > g[0] + g[0] / 2),
        "{gaps:?}"
    );
}

#[test]
fn the_receiver_judges_by_slot_and_shape() {
    let mut r = rx();
    assert_eq!(
        r.admit(0, 0, 2, 128),
        Admit::Store {
            slot: 0,
            first: true
        }
    );
    assert_eq!(r.stored(0, 0, 0, 2, 128, 0), Progress::Partial);
    assert_eq!(r.admit(0, 0, 2, 128), Admit::Duplicate);
    assert_eq!(
        r.admit(0, 1, 2, 128),
        Admit::Store {
            slot: 0,
            first: false
        }
    );
    assert_eq!(r.admit(0, 1, 3, 128), Admit::Inconsistent);
    assert_eq!(r.admit(0, 1, 2, 192), Admit::Inconsistent);
    assert_eq!(r.admit(0, 34, 2, 128), Admit::Inconsistent);
    assert_eq!(r.admit(96, 0, 2, 128), Admit::OutOfWindow);
    assert_eq!(r.admit(u32::MAX, 0, 2, 128), Admit::Duplicate);
    assert_eq!(r.admit(95, 0, 2, 130), Admit::Inconsistent);
    assert_eq!(r.stored(0, 0, 33, 2, 128, 1), Progress::NeedsDecode);
    assert_eq!(r.slot_have(0).iter().collect::<Vec<_>>(), [0, 33]);
    assert_eq!((r.base(), r.admit(0, 1, 2, 128)), (1, Admit::Duplicate));
    // Completed but not released: no credit yet.
    assert_eq!(r.admit(96, 0, 2, 128), Admit::OutOfWindow);
    r.released(0, 1);
    assert_eq!(
        r.admit(96, 0, 2, 128),
        Admit::Store {
            slot: 96,
            first: true
        }
    );
}

#[test]
fn acknowledgements_are_due_when_they_help() {
    let mut r = rx();
    assert_eq!(r.next_timeout(), None);
    // In the middle of a slot more is expected, until it stays away.
    r.stored(1000, 0, 0, 2, 64, 0);
    assert_eq!(r.next_timeout(), Some(1_501_000));
    assert!(!r.ack_due(1_500_999) && r.ack_due(1_501_000));
    // The first gap asks at once.
    r.stored(2000, 0, 1, 2, 64, 2);
    assert!(r.ack_due(2000));
    let ack = r.build_ack(2000, 0, 5);
    assert_eq!((ack.base, ack.received, ack.largest_pn), (1, 2, 2));
    assert_eq!(
        (ack.lost_before_fec, ack.credit, ack.inflight_limit),
        (1, 96, 5)
    );
    assert!(!r.ack_due(u64::MAX));
    // So does the next, or a duplicate, only after a while or with enough data to be worth it.
    r.duplicate(3000, 3);
    assert!(!r.ack_due(1_502_999) && r.ack_due(1_503_000));
    r.build_ack(1_600_000, 0, 5);
    r.duplicate(1_601_000, 4);
    for symbol in 0..3 {
        assert!(!r.ack_due(2_000_000));
        r.stored(1_602_000, 1, symbol, 64, 1408, 5 + u64::from(symbol));
    }
    assert!(!r.ack_due(1_701_999) && r.ack_due(1_702_000));
    r.stored(1_602_000, 1, 3, 64, 1408, 9);
    assert!(!r.ack_due(1_619_999) && r.ack_due(1_620_000));
    r.build_ack(1_620_000, 0, 5);
    // A slot that leaves another open waits, one that does not is acknowledged soon.
    r.stored(1_630_000, 2, 0, 1, 64, 10);
    assert!(!r.ack_due(1_800_000));
    // Four complete slots ask at once.
    for slot in 3..6 {
        assert!(!r.ack_due(1_640_000));
        r.stored(1_640_000, slot, 0, 1, 64, 8 + slot);
    }
    assert!(r.ack_due(1_640_000));
    r.build_ack(1_640_000, 0, 5);
    let mut r = rx();
    r.stored(1000, 0, 0, 1, 64, 0);
    assert_eq!(r.next_timeout(), Some(101_000));
}

#[test]
fn acknowledgements_are_spaced_by_data() {
    let mut r = rx();
    let (mut now, mut acks, mut first) = (0, 0, 0);
    let frames = 64 * 96;
    for pn in 0..frames {
        // 100 MB/s.
        now += 14_080;
        let slot = pn / 64;
        r.stored(now, slot, (pn % 64) as u8, 64, 1408, pn);
        if r.ack_due(now) {
            r.build_ack(now, slot, 1 << 20);
            acks += 1;
            first += u64::from(pn < 256);
        }
    }
    // 48 KiB are 35 of them, and 100 us seven more; slots end now and then. The first ones are
    // closer together.
    assert!((frames / 45..frames / 25).contains(&acks), "{acks}");
    assert!(first > 8, "{first}");
}

#[test]
fn all_incomplete_slots_are_reported_in_turn() {
    let mut r = rx();
    for slot in 0..40u64 {
        r.stored(0, slot, 0, 2, 64, slot);
    }
    let mut seen = Bits96::EMPTY;
    for _ in 0..3 {
        let ack = r.build_ack(0, 0, 0);
        assert_eq!(ack.reports().len(), 16);
        for rep in ack.reports() {
            assert_eq!((rep.deficit, rep.have.len()), (1, 1));
            seen.insert(rep.offset as usize);
        }
    }
    assert_eq!(seen, Bits96::first(40));
    assert_eq!(r.pending(), 40);
}

proptest! {
    /// Whatever the peer claims, the sender neither panics nor completes a slot that was not
    /// sent, and still delivers when an honest word follows.
    #[test]
    fn any_acknowledgement_is_survived(
        acks in proptest::collection::vec((any_ack(), 0u64..100, 0u64..300, 0u64..200, any::<[bool; 5]>()), 1..40),
    ) {
        let (mut t, mut now) = (tx(), 0u64);
        let mut sent = Bits96::EMPTY;
        for (mut a, base, pn, credit, small) in acks {
            now += 50_000;
            t.push_slot(t.next_slot(), 3, 64);
            while let Some(s) = t.poll_send(now) {
                if s.index == 2 { sent.insert(s.slot as usize); }
            }
            if small[0] { a.base = base % (t.next_slot() + 1); }
            if small[1] { a.largest_pn = pn % (t.next_slot() * 3 + 1); }
            if small[2] { a.received = pn / 2; }
            if small[3] { a.credit = credit; }
            if small[4] { a.complete = Bits96::EMPTY; }
            let out = t.on_ack(now, &a, |s| assert!(sent.contains(s as usize)));
            prop_assert!(out.rejected.is_none() || out.acked_slots == 0);
            t.on_timeout(now);
            let _ = (t.next_timeout(now), t.in_flight());
        }
    }

    /// Whatever frames an authenticated peer makes, the receiver neither panics nor counts
    /// wrongly, and its acknowledgement encodes.
    #[test]
    fn any_symbols_are_survived(frames in proptest::collection::vec(
        (0u32..300, 0u8..110, 0u8..70, 0u16..24, any::<u32>(), any::<bool>()), 0..300)) {
        let mut r = rx();
        let mut released = 0;
        for (slot, sym, k, len, pn, ack) in frames {
            if let Admit::Store { slot, .. } = r.admit(slot, sym, k, len * 64) {
                prop_assert!(slot >= r.base() && slot < r.credit());
                r.stored(u64::from(pn), slot, sym, k, len * 64, u64::from(pn));
            }
            if ack {
                released = r.base();
                let a = r.build_ack(u64::from(pn), released, 0);
                let mut out = [0u8; crate::wire::ack::ACK_MAX_LEN];
                let n = a.encode(&mut out).unwrap();
                prop_assert_eq!(Ack::decode(&out[..n]), Ok(a));
                prop_assert!(a.received <= a.largest_pn + 1);
            }
        }
        prop_assert!(r.credit() <= released + 96);
    }
}

/// Frames are granted by the slot; all the same the peer's limit and the pace hold to the frame.
#[test]
fn grants_keep_to_the_peers_limit_and_to_the_pace() {
    for inflight_limit in [1449, 100_000, 150_000, 1 << 20] {
        let mut t = LaneTx::new(LaneTxConfig {
            window_slots: 96,
            symbol_len: 1408,
            inflight_limit,
            repair_ahead: RepairAhead::Fixed(0),
            cc: CcConfig {
                kind: CcKind::Fixed(1_000_000_000),
                max_rate: None,
                frame: 1448,
                initial_rtt: 1_000_000,
                seed: 1,
            },
        });
        for slot in 0..20 {
            assert!(t.push_slot(slot, 64, 1408));
        }
        let (mut sent, mut order) = (0, Vec::new());
        for at in (0..200_000).step_by(10_000) {
            while let Some(s) = t.poll_send(at) {
                sent += 1448;
                order.push((s.slot, s.index));
            }
            assert!(sent <= u64::from(inflight_limit).max(1448), "{at} {sent}");
            // One nanosecond a byte, two super-packets at once, and the frame that ends a burst.
            assert!(sent <= at + 2 * 65_536 + 1448, "{at} {sent}");
        }
        assert!(sent + 1448 > u64::from(inflight_limit).min(200_000));
        assert!(order.is_sorted() && order.iter().all(|&(_, i)| i < 64));
        order.dedup();
        assert_eq!(order.len() as u64 * 1448, sent);
    }
}

#[test]
fn symbols_longer_than_a_frame_take_several_packet_numbers() {
    let (mut t, mut now) = (tx(), 0);
    t.set_room(1152);
    assert!(t.push_slot(0, 4, 1408) && t.push_slot(1, 4, 1152));
    let out = drain(&mut t, &mut now);
    let seen: Vec<_> = out.iter().map(|s| (s.slot, s.pn, s.parts)).collect();
    let want: Vec<_> = (0..4)
        .map(|i| (0, 2 * i, 2))
        .chain((0..4).map(|i| (1, 8 + i, 1)))
        .collect();
    assert_eq!(seen, want);
    // Frames of the base size and parts cast no doubt on the path.
    assert_eq!(t.large_since(), None);
    let ack = Ack {
        largest_pn: 11,
        received: 12,
        base: 2,
        credit: 98,
        inflight_limit: 1 << 20,
        ..Ack::default()
    };
    assert_eq!(t.on_ack(now, &ack, |_| ()).rejected, None);
    assert_eq!(t.in_flight(), 0);
}

#[test]
fn full_size_frames_without_any_answer_raise_a_doubt_and_an_answer_settles_it() {
    let (mut t, mut now) = (tx(), 5);
    assert!(t.push_slot(0, 4, 1408) && t.push_slot(1, 4, 1408));
    drain(&mut t, &mut now);
    assert_eq!(t.large_since(), Some(5));
    let mut ack = Ack {
        largest_pn: 0,
        received: 1,
        credit: 96,
        inflight_limit: 1 << 20,
        ..Ack::default()
    };
    // Nothing of it is held: that a frame arrived may be a probe's doing.
    t.on_ack(now, &ack, |_| ());
    assert_eq!(t.large_since(), Some(5));
    (ack.largest_pn, ack.received) = (3, 2);
    ack.push_report(Report {
        offset: 0,
        deficit: 2,
        have: Bits96::first(2),
    });
    t.on_ack(now, &ack, |_| ());
    assert_eq!(t.large_since(), None);
}

#[test]
fn a_receiver_puts_parts_together_and_reports_whole_symbols_only() {
    use crate::wire::PartHead;
    let mut r = rx();
    let part = |part, parts| PartHead {
        symbol_len: 1408,
        part,
        parts,
    };
    let first = Admit::Store {
        slot: 0,
        first: true,
    };
    assert_eq!(r.admit(0, 1, 2, 1408), first);
    let put = |r: &mut LaneRx, symbol, p, pn| r.part_stored(1000, 0, (symbol, 2), p, pn);
    assert_eq!(put(&mut r, 1, part(1, 2), 0), Progress::Partial);
    // The slot has begun, but holds no symbol.
    assert_eq!((r.pending(), r.slot_have(0).len()), (1, 0));
    assert_eq!(r.build_ack(1000, 0, 0).reports(), []);
    let next = Admit::Store {
        slot: 0,
        first: false,
    };
    assert_eq!(r.admit(0, 1, 2, 1408), next);
    assert_eq!(r.admit(0, 1, 2, 1152), Admit::Inconsistent);
    assert_eq!(put(&mut r, 1, part(0, 2), 1), Progress::Partial);
    assert_eq!(
        r.slot_have(0),
        [1].into_iter().fold(Bits96::EMPTY, |mut s, i| {
            s.insert(i);
            s
        })
    );
    // A forged frame in its place takes what was there of repair symbol 0; it comes again.
    assert_eq!(put(&mut r, 2, part(1, 3), 2), Progress::Partial);
    r.spoiled(0, 2);
    // Repair symbol 0 completes the slot.
    assert_eq!(put(&mut r, 2, part(0, 3), 3), Progress::Partial);
    assert_eq!(put(&mut r, 2, part(2, 3), 4), Progress::Partial);
    assert_eq!(put(&mut r, 2, part(2, 3), 5), Progress::Partial);
    assert_eq!(put(&mut r, 2, part(1, 3), 6), Progress::NeedsDecode);
    assert_eq!((r.base(), r.received(), r.pending()), (1, 7, 0));
    assert_eq!(put(&mut r, 0, part(0, 2), 7), Progress::Duplicate);
}

proptest! {
    // Comparing all state as text is slow.
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Symbols taken together are those that come one after the other, and leave the sender as they
    /// would: whatever the slots, the pauses and the answers in between.
    #[test]
    fn taken_together_is_one_after_the_other(
        slots in prop::collection::vec(1u8..=64, 1..12),
        turns in prop::collection::vec((0u64..400_000, 1usize..=4, any::<bool>()), 1..120),
    ) {
        let (mut single, mut run) = (tx(), tx());
        for (i, &k) in slots.iter().enumerate() {
            prop_assert!(single.push_slot(i as u64, k, 1408) && run.push_slot(i as u64, k, 1408));
        }
        let (mut now, mut sent) = (0, 0u64);
        for (pause, most, answer) in turns {
            now += pause;
            while let Some(first) = run.poll_send(now) {
                prop_assert_eq!(single.poll_send(now), Some(first));
                sent += 1;
                let n = run.granted(now, &first).min(most - 1);
                run.take_granted(now, &first, n);
                for i in 1..=n as u64 {
                    let next = TxSymbol { index: first.index + i as u8, pn: first.pn + i, ..first };
                    prop_assert_eq!(single.poll_send(now), Some(next));
                    sent += 1;
                }
            }
            prop_assert_eq!(single.poll_send(now), None);
            prop_assert_eq!(format!("{single:?}"), format!("{run:?}"));
            if answer && sent > 0 {
                // Half is lost, so that something is owed.
                let ack = Ack {
                    largest_pn: sent - 1,
                    received: sent.div_ceil(2),
                    credit: 96,
                    inflight_limit: 1 << 20,
                    ..Ack::default()
                };
                single.on_ack(now, &ack, |_| {});
                run.on_ack(now, &ack, |_| {});
            }
        }
    }
}
