//! Fuzz targets for whole messages and what handles them: handshake frames and the manager behind
//! them, slot preambles, configuration, and frames into a live lane core.

use ctp96::backend::Backend;
use ctp96::backend::sim::{Link, SimNet};
use ctp96::control::api::parse_request;
use ctp96::control::config::{Config, EXAMPLE};
use ctp96::crypto::identity::Identity;
use ctp96::obs::Counter;
use ctp96::proto::manager::{Manager, ManagerEvent, Options, PeerConfig};
use ctp96::service::manifest::{self, Entry, Offer};
use ctp96::service::message::{self, End, Have};
use ctp96::service::record::{self, HEAD, Head};
use ctp96::stage::{Preamble, SlotFlags};
use ctp96::verify::Digest;
use ctp96::wire::Header;
use ctp96::wire::handshake::{
    Accept, Attestation, Extensions, Frame, Kind, Params, Proposal, SUITE_AES_256_GCM, ext, pad,
    push_extension,
};
use std::net::SocketAddr;
use tests::fuzz::{Plan, fuzz, fuzz_with};
use tests::rig::{B, Capture, Flow, Rig, Setup};

const UNIX: u64 = 1_790_000_000_000_000_000;

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

#[test]
fn handshake_frames() {
    let corpus = [
        (Kind::Offer, 0, 300),
        (Kind::Counter, 7, 0),
        (Kind::Accept, u32::MAX, 2048),
    ]
    .map(|(kind, session, len)| {
        let mut f = Frame::header(kind, session, len).to_vec();
        f.resize(f.len() + len, 0xa5);
        f
    });
    fuzz("handshake frame", &corpus, |input| {
        let Ok(f) = Frame::parse(input) else {
            return false;
        };
        let again = [&Frame::header(f.kind, f.session, f.body.len()), f.body].concat();
        assert_eq!(again, input, "an accepted frame has one encoding");
        assert!(Header::parse(input).is_ok(), "the core hands it on");
        true
    });
}

#[test]
fn handshake_payloads() {
    let mut plain = Vec::new();
    Proposal {
        refusal: 0,
        params: params(),
    }
    .encode(&mut plain);
    let mut padded = plain.clone();
    pad(&mut padded, 256);
    let mut extended = plain.clone();
    push_extension(&mut extended, ext::COOKIE, &[1; 16]).unwrap();
    push_extension(&mut extended, ext::PADDING, &[]).unwrap();
    fuzz("proposal", &[plain, padded, extended], |input| {
        for e in Extensions(input) {
            if e.is_err() {
                break;
            }
        }
        let Ok(p) = Proposal::decode(input) else {
            return false;
        };
        let mut again = Vec::new();
        p.encode(&mut again);
        assert_eq!(Proposal::decode(&again), Ok(p));
        if p.params.is_valid() {
            assert!(p.params.lanes <= 128 && p.params.window_slots <= 96);
            assert!(
                p.params
                    .base_port
                    .checked_add(u16::from(p.params.cores) - 1)
                    .is_some()
            );
        }
        true
    });
    let accept = Accept {
        refusal: 0,
        lanes: 4,
        window_slots: 96,
        symbol_len: 1408,
        initiator_index: 3,
        responder_index: 9,
        confirm: [6; 32],
    };
    fuzz("accept", &[accept.encode().to_vec()], |input| {
        let Ok(a) = Accept::decode(input) else {
            return false;
        };
        assert_eq!(
            a.encode()[..],
            *input,
            "an accepted payload has one encoding"
        );
        true
    });
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 9696))
}

fn id(n: u8) -> Identity {
    Identity::from_secret(&[n; 32])
}

fn node(n: u8, peer: u8) -> Manager {
    let local = params();
    let config = PeerConfig {
        key: id(peer).public(),
        name: format!("node {peer}"),
        endpoint: Some(addr(peer)),
        psk: None,
    };
    Manager::new(id(n), local, vec![config], Options::new(UNIX, &local)).unwrap()
}

/// What `m` answers to `frame`, and whether a session came of it.
fn give(m: &mut Manager, from: u8, frame: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut sent = Vec::new();
    let event = m.on_datagram(addr(from), frame, 1, &mut |_, f: &[u8]| {
        sent.push(f.to_vec())
    });
    (
        sent,
        matches!(event, Some(ManagerEvent::Established { .. })),
    )
}

/// A handshake up to the frame of `stage`: who must get it, and the frame itself.
fn up_to(stage: Kind) -> (Manager, u8, Vec<u8>) {
    let (mut a, mut b) = (node(1, 2), node(2, 1));
    a.connect(&id(2).public(), None, 0).unwrap();
    let mut offer = Vec::new();
    a.on_timeout(0, &mut |_, f: &[u8]| offer = f.to_vec());
    if stage == Kind::Offer {
        return (b, 1, offer);
    }
    let (counter, _) = give(&mut b, 1, &offer);
    assert!(counter[0].len() <= offer.len());
    if stage == Kind::Counter {
        return (a, 2, counter[0].clone());
    }
    let (accept, established) = give(&mut a, 2, &counter[0]);
    assert!(established);
    (b, 1, accept[0].clone())
}

/// A mutated frame of one handshake as the same mutation of another's: ephemeral keys differ from
/// run to run, so a corpus is good for one run only.
fn transplant(corpus: &[u8], mutated: &[u8], live: &[u8]) -> Vec<u8> {
    let same = |i: usize| corpus.get(i) == Some(&mutated[i]);
    (0..mutated.len())
        .map(|i| {
            live.get(i)
                .copied()
                .filter(|_| same(i))
                .unwrap_or(mutated[i])
        })
        .collect()
}

#[test]
fn handshakes_with_the_manager() {
    for stage in [Kind::Offer, Kind::Counter, Kind::Accept] {
        let corpus = [up_to(stage).2];
        // A whole handshake an input, so one in three hundred.
        let plan = Plan::from_env().share(300);
        fuzz_with(&format!("manager, {stage:?}"), plan, &corpus, |input| {
            let (mut m, from, genuine) = up_to(stage);
            let frame = transplant(&corpus[0], input, &genuine);
            let forged = frame != genuine;
            if forged {
                let (sent, established) = give(&mut m, from, &frame);
                assert!(
                    !established && sent.is_empty(),
                    "a forged {stage:?} was answered"
                );
            }
            // Whatever came before it, the genuine frame does its work.
            let (sent, established) = give(&mut m, from, &genuine);
            assert!(
                sent.iter().all(|f| f.len() <= genuine.len()),
                "an answer is larger"
            );
            assert_eq!(sent.len(), usize::from(stage != Kind::Accept));
            assert_eq!(established, stage != Kind::Offer);
            !forged
        });
    }
}

#[test]
fn slot_preambles() {
    let preamble = |raw_len, enc_len, codec, flags, slot: usize| {
        let p = Preamble {
            raw_len,
            enc_len,
            codec,
            flags: SlotFlags(flags),
            level: 1,
            digest: Digest([7; 32]),
            committed_at: 1 << 50,
        };
        let mut bytes = vec![0x5a; slot];
        p.encode(bytes.first_chunk_mut().unwrap());
        bytes
    };
    const MAX_RAW: usize = 4096 - 64;
    let corpus = [
        preamble(0, 0, 0, SlotFlags::FIN, 64),
        preamble(100, 100, 0, SlotFlags::RECORDS, 192),
        preamble(MAX_RAW as u32, 60, 3, SlotFlags::MORE, 128),
    ];
    fuzz("slot preamble", &corpus, |input| {
        let Ok(p) = Preamble::decode(input, MAX_RAW) else {
            return false;
        };
        // What the receiver indexes with.
        assert!(input.get(64..64 + p.enc_len as usize).is_some());
        assert!(p.raw_len as usize <= MAX_RAW);
        assert!(p.codec != 0 || p.raw_len == p.enc_len);
        let mut again = [0; 64];
        p.encode(&mut again);
        assert_eq!(
            Preamble::decode(&[&again, &input[64..]].concat(), MAX_RAW),
            Ok(p)
        );
        true
    });
}

#[test]
fn configurations() {
    // Keys without a default are commented out with a bare `#`: switched on, they are a second
    // valid file.
    let full: Vec<&str> = EXAMPLE
        .lines()
        .map(|l| match l.strip_prefix('#') {
            Some(r) if r.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => r,
            _ => l,
        })
        .collect();
    // Comments only dilute the mutations.
    let bare = |text: &str| -> Vec<u8> {
        let lines = text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty());
        lines.collect::<Vec<_>>().join("\n").into_bytes()
    };
    let corpus = [
        bare(EXAMPLE),
        bare(&full.join("\n")),
        b"[node]\nport = 1\n".to_vec(),
    ];
    fuzz_with(
        "configuration",
        Plan::from_env().share(20),
        &corpus,
        |input| {
            let Ok(text) = std::str::from_utf8(input) else {
                return false;
            };
            match Config::parse(text) {
                Ok(c) => {
                    assert_eq!(
                        Config::parse(&c.to_toml()).ok(),
                        Some(c),
                        "written and read again"
                    );
                    true
                }
                Err(e) => {
                    assert!(!e.problems.is_empty(), "a refusal says why");
                    assert!(!e.to_string().is_empty());
                    false
                }
            }
        },
    );
}

#[test]
fn control_requests() {
    let corpus = [
        r#"{"op":"status"}"#,
        r#"{"op":"counters","check":true}"#,
        r#"{"op":"send","peer":"archive","files":["/a b","/c"],"dir":"in/x","lanes":3}"#,
        r#"{"op":"send","peer":"b","zero":1073741824,"discard":true,"compress":"zstd:1"}"#,
        r#"{"op":"send","peer":"b","random":18446744073709551615}"#,
        r#"{"op":"job","id":3,"since":9,"wait_ms":500}"#,
        r#"{"op":"cancel","id":0}"#,
    ]
    .map(|line| line.as_bytes().to_vec());
    fuzz("control request", &corpus, |input| {
        match parse_request(input) {
            Ok(r) => {
                let line = r.to_line();
                assert_eq!(line.matches('\n').count(), 1, "one line");
                assert_eq!(
                    parse_request(line.as_bytes()),
                    Ok(r),
                    "written and read again"
                );
                true
            }
            Err(e) => {
                assert!(!e.0.is_empty(), "a refusal says why");
                false
            }
        }
    });
}

#[test]
fn service_records() {
    let head = |kind, len: u32, index, offset| {
        let mut h = [0; HEAD];
        Head {
            kind,
            more: false,
            tag: 77,
            index,
            len,
            offset,
        }
        .encode(&mut h);
        h.to_vec()
    };
    let offer = head(record::Kind::Offer, 0, 0, 0);
    let data = [head(record::Kind::Data, 100, 3, 1 << 40), vec![7; 128]].concat();
    let two = [
        head(record::Kind::Done, 8, 0, 0),
        vec![1; 64],
        offer.clone(),
    ]
    .concat();
    fuzz("service records", &[offer, data, two], |input| {
        let mut rest = input;
        while !rest.is_empty() {
            let Ok((head, body, after)) = record::next_record(rest) else {
                return false;
            };
            assert_eq!(body.len(), head.len as usize);
            assert!(
                after.len() < rest.len(),
                "a record that takes nothing never ends"
            );
            let mut again = [0; HEAD];
            head.encode(&mut again);
            assert_eq!(again[..], rest[..HEAD], "an accepted head has one encoding");
            rest = after;
        }
        !input.is_empty()
    });
}

#[test]
fn service_manifests() {
    let entry = |name: &str, size, mode| Entry {
        name: name.into(),
        size,
        mtime_ns: -1,
        mode,
    };
    let entries = [
        entry("a.bin", 1 << 40, libc::S_IFREG | 0o644),
        entry("dir", 0, libc::S_IFDIR | 0o755),
        entry("dir/été/x", 0, libc::S_IFREG),
    ];
    let corpus = manifest::encode_entries(&entries, 1 << 20);
    fuzz("manifest entries", &corpus, |input| {
        let mut out = Vec::new();
        if manifest::decode_entries(input, &mut out).is_err() {
            return false;
        }
        for e in &out {
            let path = std::path::Path::new(&e.name);
            let inside = path
                .components()
                .all(|c| matches!(c, std::path::Component::Normal(_)));
            assert!(
                inside && !e.name.is_empty(),
                "{:?} leaves its folder",
                e.name
            );
            assert!(!e.name.contains('\0') && e.size <= i64::MAX as u64);
        }
        assert_eq!(manifest::encode_entries(&out, usize::MAX).concat(), input);
        true
    });
    let offer = Offer {
        id: [5; 32],
        discard: false,
        again: true,
        full: true,
        dest: "in/2026".into(),
        count: 3,
        total: 1 << 40,
    };
    fuzz(
        "transfer offer",
        &[offer.encode()],
        |input| match Offer::decode(input) {
            Ok(o) => {
                assert_eq!(o.encode(), input, "an accepted offer has one encoding");
                true
            }
            Err(_) => false,
        },
    );
}

#[test]
fn service_replies() {
    let mut have = Vec::new();
    Have::Done { first: 2, count: 9 }.encode(&mut have);
    Have::Range {
        index: 1,
        start: 64,
        end: 1 << 41,
    }
    .encode(&mut have);
    fuzz("have", &[have], |input| {
        let mut r = message::Reader(input);
        while !r.at_end() {
            let Some(h) = Have::decode(&mut r) else {
                return false;
            };
            let mut again = Vec::new();
            h.encode(&mut again);
            assert_eq!(Have::decode(&mut message::Reader(&again)), Some(h));
        }
        true
    });
    let mut done = Vec::new();
    message::encode_done(4, "{}", &mut done);
    message::encode_done(5, "", &mut done);
    fuzz("done", &[done], |input| {
        let mut r = message::Reader(input);
        while !r.at_end() {
            if message::decode_done(&mut r).is_none() {
                return false;
            }
        }
        true
    });
    let mut ends = Vec::new();
    End {
        index: 1,
        hash: None,
    }
    .encode(&mut ends);
    End {
        index: 2,
        hash: Some([3; 32]),
    }
    .encode(&mut ends);
    fuzz("ends", &[ends], |input| {
        let mut r = message::Reader(input);
        let mut again = Vec::new();
        while !r.at_end() {
            let Some(e) = End::decode(&mut r) else {
                return false;
            };
            e.encode(&mut again);
        }
        assert_eq!(again, input, "an accepted list has one encoding");
        true
    });
    fuzz(
        "reason",
        &[message::encode_reason(9, "no room on the disk")],
        |input| {
            let Some((_, text)) = message::decode_reason(input) else {
                return false;
            };
            assert!(!text.chars().any(char::is_control), "it is shown to people");
            true
        },
    );
}

#[test]
fn frames_into_a_live_core() {
    let net = SimNet::new(11, Link::default());
    let mut rig = Rig::over_sim(&net, 4 << 20, &Setup::default());
    let mut evil = net.endpoint(([10, 96, 6, 6], 666).into(), 1 << 20).unwrap();
    rig.a.tap().capture = Capture::Copy;
    let mut flow = Flow::new(1, 6, rig.a.tx.slot_capacity());
    while !flow.complete() || rig.a.tx.slots_witnessed() < 6 {
        let busy = flow.send(&mut rig.a.tx) | flow.receive(&mut rig.b.rx);
        rig.round(busy);
    }
    rig.a.tap().capture = Capture::Off;
    rig.idle(500_000_000);
    // Symbols and control messages: the last ones are the smallest.
    let mut corpus = std::mem::take(&mut rig.a.tap().captured);
    corpus.sort_by_key(Vec::len);
    corpus.dedup_by_key(|f| f.len());
    corpus.truncate(8);
    let sent = [&rig.a, &rig.b].map(|s| s.counter(Counter::TxFrames));
    let (mut n, before) = (0, rig.b.counter(Counter::RxFrames));
    fuzz_with("live core", Plan::from_env().share(4), &corpus, |input| {
        if input.is_empty() {
            return false;
        }
        let mut f = evil.claim(&B, input.len()).unwrap();
        f.copy_from_slice(input);
        evil.commit(f);
        evil.flush().unwrap();
        n += 1;
        // Past the delay of the link, a step each.
        for _ in 0..2 {
            rig.round(false);
        }
        Header::parse(input).is_ok()
    });
    rig.idle(500_000_000);
    assert_eq!(rig.b.counter(Counter::RxFrames) - before, n);
    rig.b.assert_balanced("after fuzzing");
    assert_eq!(
        sent,
        [&rig.a, &rig.b].map(|s| s.counter(Counter::TxFrames)),
        "something was sent"
    );
    let mut flow = Flow::new(2, 200, rig.a.tx.slot_capacity());
    let until = rig.now() + 20_000_000_000;
    while !flow.complete() {
        let busy = flow.send(&mut rig.a.tx) | flow.receive(&mut rig.b.rx);
        rig.round(busy);
        assert!(rig.now() < until, "the lane does not work any more");
    }
    flow.assert_equal();
    assert_eq!(rig.close(), [0, 0]);
}
