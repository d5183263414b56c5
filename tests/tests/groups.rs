//! Several frames sealed and opened at once: each is judged by itself, and what comes of them is what
//! would come of them one after the other.

use ctp96::backend::Backend;
use ctp96::backend::mem;
use ctp96::backend::sim::{Link, SimBackend, SimNet};
use ctp96::base::limits::HEADER_LEN;
use ctp96::crypto::{Provider, SealKey};
use ctp96::obs::Counter;
use ctp96::stage::PathConfig;
use ctp96::wire::{FrameKind, Header};
use std::net::SocketAddr;
use tests::rig::{A, B, Capture, Damage, Flow, Rig, Setup};

const INBOX: usize = 4 << 20;
const LIMIT: u64 = 60_000_000_000;

/// Frames that are taken at once on this CPU: 4, 2, or 1 without a kernel for more.
fn at_once() -> u64 {
    SealKey::new(Provider::Aegis256, &[0; 32]).group() as u64
}

/// Of frames that follow each other and all fit, how many go with others.
fn grouped(frames: u64) -> u64 {
    match at_once() {
        1 => 0,
        2 => frames / 2 * 2,
        // What is left over after groups of four: one goes alone.
        n => frames - u64::from(frames % n == 1),
    }
}

/// Symbols of the first slot that were sent and did not arrive, in the order of their numbers.
fn withheld(rig: &mut Rig<SimBackend>, content: &[u8]) -> Vec<Vec<u8>> {
    rig.a.tap().capture = Capture::Withhold;
    let mut slot = rig.a.tx.try_claim().expect("room");
    slot[..content.len()].copy_from_slice(content);
    slot.commit(content.len());
    rig.idle(1_000_000);
    let all = std::mem::take(&mut rig.a.tap().captured);
    let of_slot_0 = |f: &Vec<u8>| {
        Header::parse(f).is_ok_and(|h| {
            h.kind == FrameKind::Symbol && h.slot == 0 && h.symbol < h.k && h.pn < 64
        })
    };
    let all: Vec<_> = all.into_iter().filter(of_slot_0).collect();
    for (i, f) in all.iter().enumerate() {
        let h = Header::parse(f).expect("just looked at");
        assert_eq!((usize::from(h.symbol), h.pn), (i, i as u64));
    }
    all
}

/// Frames of one burst; then how many are stored, refused and replayed, and how many of them were
/// opened with others.
type Case = (&'static str, Vec<Vec<u8>>, [u64; 4]);

fn flip(frame: &[u8], at: usize) -> Vec<u8> {
    let mut f = frame.to_vec();
    f[at] ^= 0x10;
    f
}

#[test]
fn a_bad_frame_of_a_group_spoils_nothing_but_itself() {
    let net = SimNet::new(7, Link::default());
    let setup = Setup {
        provider: Provider::Aegis256,
        ..Setup::default()
    };
    let mut rig = Rig::over_sim(&net, INBOX, &setup);
    let addr: SocketAddr = ([10, 96, 6, 6], 666).into();
    let mut other = net.endpoint(addr, INBOX).expect("an endpoint");
    let content: Vec<u8> = (0..rig.a.tx.slot_capacity())
        .map(|i| (i * 31 + (i >> 8)) as u8)
        .collect();
    let f = withheld(&mut rig, &content);
    assert!(f.len() > 38, "{} symbols of the first slot", f.len());
    assert_eq!(rig.b.counter(Counter::RxFrames), 0);
    let (text, tag) = (HEADER_LEN + 100, f[0].len() - 1);

    let cases: Vec<Case> = vec![
        ("a slot's first", vec![f[0].clone()], [1, 0, 0, 0]),
        ("two", vec![f[1].clone(), f[2].clone()], [2, 0, 0, 2]),
        (
            "first forged",
            vec![flip(&f[3], text), f[4].clone()],
            [1, 1, 0, 2],
        ),
        (
            "second forged",
            vec![f[5].clone(), flip(&f[6], tag)],
            [1, 1, 0, 2],
        ),
        (
            "both forged",
            vec![flip(&f[7], tag), flip(&f[8], text)],
            [0, 2, 0, 2],
        ),
        (
            "what they were forged from",
            vec![f[3].clone(), f[6].clone(), f[7].clone(), f[8].clone()],
            [4, 0, 0, grouped(3)],
        ),
        ("both again", vec![f[1].clone(), f[2].clone()], [0, 0, 2, 0]),
        (
            "one again, one new",
            vec![f[8].clone(), f[9].clone()],
            [1, 0, 1, 0],
        ),
        (
            "one new, one again",
            vec![f[10].clone(), f[9].clone()],
            [1, 0, 1, 0],
        ),
        (
            "one twice",
            vec![f[11].clone(), f[11].clone()],
            [1, 0, 1, 0],
        ),
        (
            "a forged copy ahead of the genuine one",
            vec![flip(&f[12], text), f[12].clone()],
            [1, 1, 0, 0],
        ),
        (
            "a forged copy behind the genuine one",
            vec![f[13].clone(), flip(&f[13], text)],
            [1, 0, 1, 0],
        ),
        ("falling", vec![f[15].clone(), f[14].clone()], [2, 0, 0, 0]),
        (
            "another packet number",
            vec![f[16].clone(), flip(&f[17], 9)],
            [1, 1, 0, 0],
        ),
        (
            "another place in the slot",
            vec![flip(&f[18], 3), f[17].clone()],
            [1, 1, 0, 0],
        ),
        (
            "another key epoch",
            vec![f[18].clone(), {
                let mut g = f[19].clone();
                g[1] ^= 1;
                g
            }],
            [1, 1, 0, 0],
        ),
        (
            "three",
            vec![f[19].clone(), f[20].clone(), f[21].clone()],
            [3, 0, 0, grouped(3)],
        ),
        (
            "one of four forged",
            vec![
                f[22].clone(),
                f[23].clone(),
                flip(&f[24], tag),
                f[25].clone(),
            ],
            [3, 1, 0, grouped(4)],
        ),
        (
            "three of four forged",
            vec![
                flip(&f[26], tag),
                flip(&f[27], text),
                flip(&f[28], tag),
                f[29].clone(),
            ],
            [1, 3, 0, grouped(4)],
        ),
        (
            "what they were forged from, and one more",
            [24, 26, 27, 28, 30].map(|i: usize| f[i].clone()).to_vec(),
            [5, 0, 0, grouped(3)],
        ),
        (
            "one again behind three new ones",
            [31, 32, 33, 30].map(|i: usize| f[i].clone()).to_vec(),
            [3, 0, 1, grouped(3)],
        ),
        (
            "a forged copy among its neighbours",
            vec![
                f[34].clone(),
                flip(&f[35], text),
                f[35].clone(),
                f[36].clone(),
            ],
            [3, 1, 0, if at_once() == 1 { 0 } else { 4 }],
        ),
    ];
    for (what, frames, expected) in cases {
        let before = rig.b.counters();
        for f in &frames {
            let mut room = other.claim(&B, f.len()).expect("room");
            room.copy_from_slice(f);
            other.commit(room);
        }
        other.flush().expect("the network takes it");
        // Long enough for the core to refresh its gauges.
        rig.idle(150_000_000);
        let after = rig.b.counters();
        let got = [
            Counter::RxSymbolsStored,
            Counter::RxAuthFailed,
            Counter::RxReplayed,
            Counter::RxPaired,
        ]
        .map(|c| after[c as usize] - before[c as usize]);
        let [stored, forged, replayed, paired] = expected;
        let paired = if at_once() == 1 { 0 } else { paired };
        assert_eq!(got, [stored, forged, replayed, paired], "{what}");
        let c = Counter::RxFrames as usize;
        assert_eq!(after[c] - before[c], frames.len() as u64, "{what}");
        rig.b.assert_balanced(what);
    }

    // What was stored is right: the slot is delivered, and its digest agrees.
    rig.a.tap().capture = Capture::Off;
    let until = rig.now() + LIMIT;
    loop {
        if let Ok(slot) = rig.b.rx.try_slot() {
            assert!(*slot == *content);
            break;
        }
        rig.round(false);
        assert!(rig.now() < until, "no progress");
    }
    rig.idle(500_000_000);
    assert_eq!(rig.a.tx.slots_witnessed(), 1);
    assert_eq!(rig.close(), [0, 0]);
}

/// Both ways at once over a link that loses and cuts frames, from a pool that runs out of frames
/// between those of a group.
fn both_ways<T: Backend>(mut rig: Rig<T>, slots: u64) {
    for side in [&mut rig.a, &mut rig.b] {
        side.tap().set_damage(Damage {
            drop: 0.03,
            cut: 0.01,
        });
    }
    let largest = rig.a.tx.slot_capacity();
    let mut flows = [Flow::new(1, slots, largest), Flow::new(2, slots, largest)];
    let until = rig.now() + LIMIT;
    while !flows.iter().all(Flow::complete) {
        let [there, back] = &mut flows;
        let busy = there.send(&mut rig.a.tx)
            | there.receive(&mut rig.b.rx)
            | back.send(&mut rig.b.tx)
            | back.receive(&mut rig.a.rx);
        rig.round(busy);
        assert!(rig.now() < until, "no progress");
    }
    flows.iter().for_each(Flow::assert_equal);
    rig.idle(500_000_000);
    for side in [&rig.a, &rig.b] {
        side.assert_balanced("after the transfer");
        for (paired, all) in [
            (Counter::TxPaired, Counter::TxSymbolsFirst),
            (Counter::RxPaired, Counter::RxFrames),
        ] {
            let (paired, all) = (side.counter(paired), side.counter(all));
            assert!(paired < all, "{paired} of {all}");
            assert!(paired >= all / 4 || at_once() == 1, "{paired} of {all}");
        }
    }
    assert_eq!(rig.close(), [0, 0]);
}

#[test]
fn groups_survive_loss_and_short_pools() {
    for (symbol_len, seed) in [(512, 1), (1408, 2), (8896, 3)] {
        let setup = Setup {
            provider: Provider::Aegis256,
            symbol_len,
            seed,
            // While the path carries less than a symbol, that goes in parts, which are no group.
            path: PathConfig {
                search: false,
                ..PathConfig::default()
            },
            ..Setup::default()
        };
        let net = SimNet::new(seed, Link::default());
        both_ways(Rig::over_sim(&net, INBOX, &setup), 100);
        // A buffer holds 117, 44 or 7 frames of these lengths, and two of them are soon full.
        let (a, b) = mem::pair(A, B, 2).expect("memory");
        both_ways(Rig::new(a, b, None, &setup), 100);
    }
}

#[test]
fn suites_that_gain_nothing_are_not_grouped() {
    let setup = Setup {
        provider: Provider::Aegis256x2,
        ..Setup::default()
    };
    let (a, b) = mem::pair(A, B, 8).expect("memory");
    let mut rig = Rig::new(a, b, None, &setup);
    let mut flow = Flow::new(1, 20, rig.a.tx.slot_capacity());
    let until = rig.now() + LIMIT;
    while !flow.complete() {
        let busy = flow.send(&mut rig.a.tx) | flow.receive(&mut rig.b.rx);
        rig.round(busy);
        assert!(rig.now() < until, "no progress");
    }
    flow.assert_equal();
    for (side, c) in [(&rig.a, Counter::TxPaired), (&rig.b, Counter::RxPaired)] {
        assert_eq!(side.counter(c), 0);
    }
    assert_eq!(rig.close(), [0, 0]);
}
