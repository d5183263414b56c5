use super::*;
use proptest::prelude::*;

const SECRET: [u8; 32] = [0x5A; 32];
const S: Nanos = 1_000_000_000;

fn pair_with(usage: Usage) -> (LaneSealer, LaneOpener) {
    (
        LaneSealer::with_usage(Provider::AwsLc, &SECRET, 3, usage),
        LaneOpener::with_usage(Provider::Ring, &SECRET, 3, usage),
    )
}

fn aegis() -> (LaneSealer, LaneOpener) {
    let p = Provider::Aegis256x2;
    (
        LaneSealer::new(p, &SECRET, 3),
        LaneOpener::new(p, &SECRET, 3),
    )
}

#[test]
fn aegis_frames_open_across_epochs_and_only_untouched() {
    let (mut tx, mut rx) = aegis();
    for pn in 0..3 {
        // A ratchet between frames.
        let now = pn * limits::EPOCH_MAX_AGE_NS;
        let frame = seal(&mut tx, now, pn);
        for at in [0, PLAIN.len() - 1, PLAIN.len(), PLAIN.len() + TAG_LEN - 1] {
            let mut forged = frame.clone();
            forged.sealed[at] ^= 1;
            assert_eq!(open(&mut rx, now, &forged), Err(OpenError::Auth));
        }
        let mut other = frame.clone();
        other.pn += 1;
        assert_eq!(open(&mut rx, now, &other), Err(OpenError::Auth));
        let mut other = frame.clone();
        other.header[5] ^= 1;
        assert_eq!(open(&mut rx, now, &other), Err(OpenError::Auth));
        assert_eq!(open(&mut rx, now, &frame), Ok(()));
    }
    assert_eq!((tx.epoch(), rx.epoch()), (2, 2));
    assert_eq!(rx.opened(), 3);
    // The other suite does not open it, though the keys are the same.
    let (mut tx, _) = aegis();
    let (_, mut gcm) = pair();
    let frame = seal(&mut tx, 0, 0);
    assert_eq!(open(&mut gcm, 0, &frame), Err(OpenError::Auth));
}

fn pair() -> (LaneSealer, LaneOpener) {
    pair_with(USAGE)
}

#[derive(Clone)]
struct Frame {
    pn: u64,
    header: [u8; HEADER_LEN],
    sealed: Vec<u8>,
}

const PLAIN: [u8; 64] = [0xC3; 64];

fn try_seal(tx: &mut LaneSealer, now: Nanos, pn: u64) -> Result<Frame, SealError> {
    let mut header = [0xFC; HEADER_LEN];
    let mut sealed = vec![0; PLAIN.len() + TAG_LEN];
    tx.seal(now, pn, &mut header, &PLAIN, &mut sealed)?;
    Ok(Frame { pn, header, sealed })
}

fn seal(tx: &mut LaneSealer, now: Nanos, pn: u64) -> Frame {
    try_seal(tx, now, pn).unwrap()
}

fn open(rx: &mut LaneOpener, now: Nanos, frame: &Frame) -> Result<(), OpenError> {
    let mut sealed = frame.sealed.clone();
    let mut out = vec![0xEE; sealed.len() - TAG_LEN];
    let bits = frame.header[EPOCH_BYTE];
    let result = rx.open(now, bits, frame.pn, &frame.header, &mut sealed, &mut out);
    match result {
        Ok(()) => assert_eq!(out, PLAIN),
        Err(OpenError::Auth | OpenError::Provider) => assert!(out.iter().all(|&b| b == 0)),
        Err(_) => assert!(out.iter().all(|&b| b == 0xEE)),
    }
    result
}

#[test]
fn frames_open_at_the_other_end_and_nowhere_else() {
    let (mut tx, mut rx) = pair();
    let frame = seal(&mut tx, 0, 0);
    assert_eq!(
        frame.header[EPOCH_BYTE], 0xFC,
        "flags other than the epoch stay"
    );
    assert_eq!(open(&mut rx, 0, &frame), Ok(()));
    let mut other_lane = LaneOpener::new(Provider::Ring, &SECRET, 4);
    assert_eq!(open(&mut other_lane, 0, &frame), Err(OpenError::Auth));
    let mut other_secret = LaneOpener::new(Provider::Ring, &[0x5B; 32], 3);
    assert_eq!(open(&mut other_secret, 0, &frame), Err(OpenError::Auth));
    let renumbered = Frame { pn: 1, ..frame };
    assert_eq!(open(&mut rx, 0, &renumbered), Err(OpenError::Auth));
    assert_eq!((rx.opened(), rx.failed()), (1, 1));
}

#[test]
fn a_frame_is_gcm_under_the_documented_key_and_nonce() {
    let mut tx = LaneSealer::new(Provider::Ring, &SECRET, 3);
    let pn = CONTROL_PN | 0x0102_0304;
    let mut frame = seal(&mut tx, 0, pn);
    let material = KeyChain::new(&SECRET, 3).next_epoch();
    let mut nonce = material.iv;
    for (i, byte) in [0x80, 0, 0, 0, 1, 2, 3, 4].into_iter().enumerate() {
        nonce[4 + i] ^= byte;
    }
    let mut out = [0; PLAIN.len()];
    let key = OpenKey::new(Provider::AesGcm, &material.key);
    assert_eq!(
        key.open(&nonce, &frame.header, &mut frame.sealed, &mut out),
        Ok(())
    );
    assert_eq!(out, PLAIN);
}

#[test]
fn a_packet_number_seals_once_in_each_space() {
    let (mut tx, _) = pair();
    seal(&mut tx, 0, 5);
    seal(&mut tx, 0, CONTROL_PN);
    seal(&mut tx, 0, 6);
    seal(&mut tx, 0, CONTROL_PN | 1);
    for (pn, last) in [
        (6, 6),
        (0, 6),
        (CONTROL_PN | 1, CONTROL_PN | 1),
        (CONTROL_PN, CONTROL_PN | 1),
    ] {
        let got = try_seal(&mut tx, 0, pn).err();
        assert_eq!(got, Some(SealError::PacketNumber { pn, last }));
    }
    // An epoch later the old numbers stay refused.
    seal(&mut tx, 120 * S, 7);
    assert_eq!(tx.epoch(), 1);
    assert!(try_seal(&mut tx, 120 * S, 7).is_err());
}

#[test]
fn a_refused_length_uses_up_nothing() {
    let (mut tx, mut rx) = pair();
    let mut header = [0; HEADER_LEN];
    let short = tx.seal(0, 0, &mut header, &PLAIN, &mut [0; PLAIN.len()]);
    assert_eq!(short, Err(SealError::Length));
    assert_eq!(tx.blocks(), 0);
    let frame = seal(&mut tx, 0, 0);
    assert_eq!(tx.blocks(), 5);
    let mut out = [0; PLAIN.len()];
    let cut = rx.open(0, 0, 0, &frame.header, &mut [0; TAG_LEN - 1], &mut []);
    assert_eq!(cut, Err(OpenError::Length));
    let long = rx.open(
        0,
        0,
        0,
        &frame.header,
        &mut frame.sealed.clone(),
        &mut out[1..],
    );
    assert_eq!(long, Err(OpenError::Length));
    assert_eq!(rx.failed(), 0);
}

#[test]
fn age_counts_from_the_first_use_of_a_key() {
    let (mut tx, mut rx) = pair();
    let start = 1_000 * S;
    for (pn, (at, epoch)) in [
        (start, 0),
        (start + 120 * S - 1, 0),
        (start + 120 * S, 1),
        (start + 239 * S, 1),
        (start + 900 * S, 2),
        (start + 1_019 * S, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let frame = seal(&mut tx, at, pn as u64);
        assert_eq!(tx.epoch(), epoch);
        assert_eq!(frame.header[EPOCH_BYTE], 0xFC | epoch as u8);
        assert_eq!(open(&mut rx, at, &frame), Ok(()));
        assert_eq!(rx.epoch(), epoch);
    }
}

#[test]
fn blocks_ratchet_before_the_limit_is_passed() {
    let usage = Usage {
        ratchet_blocks: 12,
        ..USAGE
    };
    let (mut tx, mut rx) = pair_with(usage);
    for pn in 0..100 {
        let frame = seal(&mut tx, 0, pn);
        assert!(tx.blocks() <= 12);
        assert_eq!(tx.epoch(), pn / 2, "two frames of 5 blocks fit 12");
        assert_eq!(open(&mut rx, 0, &frame), Ok(()));
        assert_eq!(rx.epoch(), tx.epoch());
    }
}

#[test]
fn a_key_stops_at_the_hard_limit() {
    let usage = Usage {
        ratchet_blocks: u64::MAX,
        hard_stop_blocks: 14,
        ..USAGE
    };
    let (mut tx, mut rx) = pair_with(usage);
    let first = seal(&mut tx, 0, 0);
    let second = seal(&mut tx, 0, 1);
    assert_eq!(try_seal(&mut tx, 0, 2).err(), Some(SealError::KeyExhausted));
    assert_eq!(tx.blocks(), 10);
    assert_eq!(open(&mut rx, 0, &first), Ok(()));
    assert_eq!(open(&mut rx, 0, &second), Ok(()));
    assert_eq!(open(&mut rx, 0, &second), Err(OpenError::KeyExhausted));
}

#[test]
fn the_previous_key_lasts_ten_seconds() {
    let (mut tx, mut rx) = pair();
    let old: Vec<Frame> = (0..3).map(|pn| seal(&mut tx, 0, pn)).collect();
    let new = seal(&mut tx, 120 * S, 3);
    assert_eq!(open(&mut rx, 0, &old[0]), Ok(()));
    assert_eq!(open(&mut rx, 120 * S, &new), Ok(()));
    assert_eq!(open(&mut rx, 130 * S - 1, &old[1]), Ok(()));
    assert_eq!(rx.epoch(), 1, "a late frame does not move the epoch back");
    assert_eq!(open(&mut rx, 130 * S, &old[2]), Err(OpenError::NoKey));
    assert_eq!(rx.failed(), 0);
}

#[test]
fn before_the_first_switch_there_is_no_previous_key() {
    let (mut tx, mut rx) = pair();
    let mut frame = seal(&mut tx, 0, 0);
    frame.header[EPOCH_BYTE] |= 3;
    assert_eq!(open(&mut rx, 0, &frame), Err(OpenError::NoKey));
}

#[test]
fn one_epoch_may_be_lost_whole_and_forgeries_do_not_move_the_epoch() {
    let (mut tx, mut rx) = pair();
    let e0 = [seal(&mut tx, 0, 0), seal(&mut tx, 0, 1)];
    let e1 = seal(&mut tx, 120 * S, 2);
    let e2 = seal(&mut tx, 240 * S, 3);
    assert_eq!(open(&mut rx, 0, &e0[0]), Ok(()));
    for bits in 1..3 {
        let mut forged = e0[1].clone();
        forged.header[EPOCH_BYTE] |= bits;
        assert_eq!(open(&mut rx, 0, &forged), Err(OpenError::Auth));
    }
    assert_eq!((rx.epoch(), rx.failed()), (0, 2));
    assert_eq!(open(&mut rx, 240 * S, &e2), Ok(()));
    assert_eq!(rx.epoch(), 2);
    assert_eq!(
        open(&mut rx, 241 * S, &e1),
        Ok(()),
        "epoch 1 is now the previous one"
    );
    assert_eq!(
        open(&mut rx, 241 * S, &e0[1]),
        Err(OpenError::Auth),
        "its bits now mean epoch 4"
    );
    for (step, pn) in (4..20).enumerate() {
        let at = (360 + 120 * step as u64) * S;
        let frame = seal(&mut tx, at, pn);
        assert_eq!(open(&mut rx, at, &frame), Ok(()));
        assert_eq!((tx.epoch(), rx.epoch()), (pn - 1, pn - 1));
    }
}

#[test]
fn an_expired_key_is_replaced_and_never_used() {
    let (mut tx, mut rx) = pair();
    let e0 = seal(&mut tx, 0, 0);
    let e1 = seal(&mut tx, 120 * S, 1);
    assert_eq!(open(&mut rx, 120 * S, &e1), Ok(()));
    rx.expire(130 * S);
    assert_eq!(
        open(&mut rx, 0, &e0),
        Err(OpenError::NoKey),
        "even if the clock went back"
    );
    let e2 = seal(&mut tx, 240 * S, 2);
    assert_eq!(open(&mut rx, 240 * S, &e2), Ok(()));
    let e3 = seal(&mut tx, 360 * S, 3);
    assert_eq!(open(&mut rx, 360 * S, &e3), Ok(()));
    assert_eq!(rx.epoch(), 3);
}

#[test]
fn the_forgery_limit_closes_the_lane() {
    let usage = Usage {
        failed_opens: 3,
        ..USAGE
    };
    let (mut tx, mut rx) = pair_with(usage);
    let good = seal(&mut tx, 0, 0);
    let mut bad = good.clone();
    bad.sealed[0] ^= 1;
    for _ in 0..3 {
        assert_eq!(open(&mut rx, 0, &bad), Err(OpenError::Auth));
    }
    assert_eq!(open(&mut rx, 0, &good), Err(OpenError::ForgeryLimit));
    assert_eq!((rx.opened(), rx.failed()), (0, 3));
}

proptest! {
    /// Whatever the gaps, delays and losses: what arrives within the previous key's time, from an
    /// epoch at most two ahead, opens; and no (epoch, packet number) is ever sealed twice.
    #[test]
    fn epochs_follow_over_a_bad_link(
        steps in prop::collection::vec((0u64..90, any::<bool>(), 0u64..3, 0u64..9), 1..120),
    ) {
        let usage = Usage { ratchet_blocks: 24, ..USAGE };
        let (mut tx, mut rx) = pair_with(usage);
        let (mut now, mut data, mut control) = (0, 0, CONTROL_PN);
        let mut sealed = std::collections::BTreeSet::new();
        let mut late: Vec<(u64, Frame)> = Vec::new();
        for (gap, is_control, lost, delay) in steps {
            now += gap * S;
            let counter = if is_control { &mut control } else { &mut data };
            let pn = *counter;
            *counter += 1;
            let frame = seal(&mut tx, now, pn);
            prop_assert!(sealed.insert((tx.epoch(), pn)));
            if lost == 0 && tx.epoch() <= rx.epoch() + 1 {
                // Lost, or late: at most one epoch is ever missed whole.
                late.push((tx.epoch(), frame));
                continue;
            }
            prop_assert_eq!(open(&mut rx, now, &frame), Ok(()));
            prop_assert_eq!(rx.epoch(), tx.epoch());
            let switched_at = now;
            for (epoch, frame) in late.drain(..) {
                let got = open(&mut rx, switched_at + delay * S, &frame);
                let age = rx.epoch() - epoch;
                match age {
                    0 => prop_assert_eq!(got, Ok(())),
                    1 => prop_assert!(matches!(got, Ok(()) | Err(OpenError::NoKey))),
                    _ => prop_assert!(got.is_err()),
                }
            }
        }
    }
}
