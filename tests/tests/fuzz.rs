//! Fuzz targets for everything that reads bytes from outside, and the canary that proves that the
//! driver finds what is there. A target asserts more than "no panic": what it accepts must mean
//! the same after another turn of encoding.

use ctp96::base::limits::PART_HEAD_LEN;
use ctp96::codec::{CodecId, Compressor, Decompressor, Policy};
use ctp96::control::config::{Config, EXAMPLE};
use ctp96::crypto::identity::{Identity, PublicKey};
use ctp96::crypto::noise;
use ctp96::wire::control::EcnCounts;
use ctp96::wire::handshake::{self, Accept, Attestation, Params, Proposal};
use ctp96::wire::{Ack, Header, Message, PartHead, Report, control};
use tests::frames;
use tests::fuzz::{DEFAULT_SEED, Plan, fuzz, fuzz_with, run};

#[test]
fn frame_headers() {
    fuzz("frame header", &frames::corpus(), |input| {
        let Ok(header) = Header::parse(input) else {
            return false;
        };
        let mut again = [0; 24];
        header.encode(&mut again);
        assert_eq!(again, input[..24], "an accepted frame has one encoding");
        assert_eq!(input.len(), header.frame_len());
        true
    });
}

fn acks() -> [Ack; 2] {
    let mut full = Ack {
        base: 1 << 40,
        largest_pn: 12_345,
        received: 12_000,
        ..Ack::default()
    };
    for offset in (0..96).step_by(6) {
        assert!(full.push_report(Report {
            offset,
            deficit: 64 - offset / 2,
            ..Report::default()
        }));
    }
    [Ack::default(), full]
}

#[test]
fn acknowledgements() {
    let corpus = acks().map(|ack| {
        let mut bytes = vec![0; ack.encoded_len()];
        ack.encode(&mut bytes).unwrap();
        bytes
    });
    fuzz("acknowledgement", &corpus, |input| {
        let Ok(ack) = Ack::decode(input) else {
            return false;
        };
        let mut again = [0; 1024];
        let n = ack.encode(&mut again).unwrap();
        assert_eq!(
            &again[..n],
            input,
            "an accepted acknowledgement has one encoding"
        );
        true
    });
}

#[test]
fn control_messages() {
    let messages = [
        Message::Ping { id: 1, t: 2 },
        Message::Ack(acks()[1]),
        Message::Witness {
            upto: 960,
            level: 1,
            chain: [7; 32],
        },
        Message::Pong { id: u64::MAX, t: 0 },
        Message::LaneClose {
            reason: 0,
            final_slot: 97,
        },
        Message::SessionClose { reason: 1 },
        Message::Arrival { queue: 1, home: 2 },
        Message::Ecn(EcnCounts {
            ect0: 1 << 40,
            ect1: 0,
            ce: 7,
        }),
        Message::Padding(5),
    ];
    let mut all = Vec::new();
    let mut corpus = Vec::new();
    for message in messages {
        let mut bytes = vec![0; message.encoded_len()];
        message.encode_into(&mut bytes).unwrap();
        all.extend_from_slice(&bytes);
        corpus.push(bytes);
    }
    corpus.push(all);
    fuzz("control messages", &corpus, |input| {
        let mut again = [0; 1024];
        for message in control::Iter::new(input) {
            let Ok(message) = message else { return false };
            if matches!(message, Message::Unknown { .. } | Message::Padding(_)) {
                continue;
            }
            let n = message.encode_into(&mut again).unwrap();
            let mut decoded = control::Iter::new(&again[..n]);
            assert_eq!(decoded.next(), Some(Ok(message)));
            assert_eq!(decoded.next(), None);
        }
        true
    });
}

#[test]
fn parts_of_symbols() {
    let corpus = [(1408, 0, 2), (1408, 1, 2), (8896, 8, 9)].map(|(symbol_len, part, parts)| {
        let head = PartHead {
            symbol_len,
            part,
            parts,
        };
        let mut bytes = vec![0x5a; PART_HEAD_LEN + head.range().len()];
        head.encode(bytes.first_chunk_mut().unwrap());
        bytes
    });
    fuzz("part of a symbol", &corpus, |input| {
        let Some((head, body)) = PartHead::decode(input) else {
            return false;
        };
        let mut again = [0; PART_HEAD_LEN];
        head.encode(&mut again);
        assert_eq!(
            again,
            input[..PART_HEAD_LEN],
            "an accepted head has one encoding"
        );
        let range = head.range();
        assert_eq!(range.len(), body.len());
        assert!(range.end <= usize::from(head.symbol_len));
        true
    });
}

#[test]
fn handshake_frames() {
    let corpus = [
        [
            &handshake::Frame::header(handshake::Kind::Offer, 0, 300)[..],
            &[7; 300],
        ]
        .concat(),
        [
            &handshake::Frame::header(handshake::Kind::Accept, 9, 64)[..],
            &[7; 64],
        ]
        .concat(),
    ];
    fuzz("handshake frame", &corpus, |input| {
        let Ok(frame) = handshake::Frame::parse(input) else {
            return false;
        };
        let header = handshake::Frame::header(frame.kind, frame.session, frame.body.len());
        assert_eq!(
            [&header[..], frame.body].concat(),
            input,
            "an accepted frame has one encoding"
        );
        assert!(handshake::is_handshake(input) && Header::parse(input).is_ok());
        true
    });
}

fn proposal() -> Proposal {
    let attestation = Attestation {
        suite: handshake::SUITE_AES_256_GCM,
        witness: 1,
        fail_closed: 1,
        build: [4; 16],
        receipt_key: [5; 32],
    };
    let params = Params {
        session_index: 77,
        lanes: 16,
        cores: 2,
        base_port: 9696,
        symbol_len: 1408,
        window_slots: 96,
        boot_id: 3,
        timestamp: 1 << 60,
        attestation,
    };
    Proposal { refusal: 0, params }
}

#[test]
fn handshake_payloads() {
    let mut plain = Vec::new();
    proposal().encode(&mut plain);
    let mut padded = plain.clone();
    handshake::push_extension(&mut padded, handshake::ext::MLKEM_KEY, &[1; 40]).unwrap();
    handshake::pad(&mut padded, handshake::OFFER_PAYLOAD_MIN);
    fuzz("handshake proposal", &[plain, padded], |input| {
        let Ok(proposal) = Proposal::decode(input) else {
            return false;
        };
        let mut again = Vec::new();
        proposal.encode(&mut again);
        assert_eq!(
            again,
            input[..again.len()],
            "accepted parameters have one encoding"
        );
        assert_eq!(
            handshake::timestamp_of(input),
            Some(proposal.params.timestamp)
        );
        let _ = proposal.params.is_valid();
        true
    });
    let accept = Accept {
        refusal: 0,
        lanes: 16,
        window_slots: 96,
        symbol_len: 1408,
        initiator_index: 1,
        responder_index: 2,
        confirm: [9; 32],
    };
    fuzz("handshake accept", &[accept.encode().to_vec()], |input| {
        let Ok(accept) = Accept::decode(input) else {
            return false;
        };
        assert_eq!(
            accept.encode()[..],
            *input,
            "an accepted answer has one encoding"
        );
        true
    });
}

#[test]
fn configurations() {
    let default = Config::parse("").unwrap().to_toml().into_bytes();
    let corpus = [Vec::new(), default, EXAMPLE.as_bytes().to_vec()];
    // A parse of some kilobytes of TOML, twice where it is accepted: one in fifty.
    fuzz_with(
        "configuration",
        Plan::from_env().share(50),
        &corpus,
        |input| {
            let Ok(text) = std::str::from_utf8(input) else {
                return false;
            };
            match Config::parse(text) {
                Ok(config) => {
                    let again = config.to_toml();
                    assert_eq!(Config::parse(&again).unwrap().to_toml(), again);
                    true
                }
                Err(e) => {
                    assert!(!e.to_string().is_empty());
                    false
                }
            }
        },
    );
}

#[test]
fn handshake_offers() {
    let (us, them) = (
        Identity::from_secret(&[1; 32]),
        Identity::from_secret(&[2; 32]),
    );
    let corpus: Vec<Vec<u8>> = [0, 80, 256]
        .map(|len| {
            let mut offer = vec![0; len + noise::OFFER_OVERHEAD];
            let mut state = noise::Initiator::new(&them, &us.public(), &[0; 32]).unwrap();
            let n = state.write_offer(&vec![3; len], &mut offer).unwrap();
            assert_eq!(n, offer.len());
            offer
        })
        .to_vec();
    let mut payload = vec![0; 64 * 1024];
    // Two X25519 operations an input: one in fifty.
    fuzz_with(
        "handshake offer",
        Plan::from_env().share(50),
        &corpus,
        |input| {
            let Ok((_, from, n)) = noise::Responder::read_offer(&us, input, &mut payload) else {
                return false;
            };
            assert_eq!(from, them.public());
            assert!(
                corpus.iter().any(|c| c == input),
                "a forged offer was accepted"
            );
            assert_eq!(n, input.len() - noise::OFFER_OVERHEAD);
            true
        },
    );
}

#[test]
fn public_keys_as_text() {
    let text = Identity::from_secret(&[9; 32]).public().to_string();
    fuzz("public key text", &[text.into_bytes()], |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return false;
        };
        let Ok(key) = text.parse::<PublicKey>() else {
            return false;
        };
        assert_eq!(key.to_string().parse::<PublicKey>().ok(), Some(key));
        true
    });
}

#[test]
fn compressed_slots() {
    let text: Vec<u8> = (0..4_096_u32)
        .map(|i| b"coherence window "[i as usize % 17])
        .collect();
    let mut decompressor = Decompressor::new();
    let mut out = vec![0; text.len()];
    for policy in ["lz4", "deflate:6", "zstd:1"] {
        let mut compressor = Compressor::new(policy.parse::<Policy>().unwrap());
        let mut packed = vec![0; text.len()];
        let (codec, n) = compressor.compress(&text, &mut packed).unwrap();
        assert_ne!(codec, CodecId::Raw);
        packed.truncate(n);
        let corpus = [packed];
        fuzz_with(policy, Plan::from_env().share(4), &corpus, |input| {
            let accepted = decompressor.decompress(codec, input, &mut out).is_ok();
            if input == corpus[0] {
                assert_eq!(out, text);
            }
            accepted
        });
    }
}

/// A message as a careless parser reads it: a type byte, a length, and a body of that length.
fn careless(input: &[u8]) -> bool {
    let Some((&[kind, lo, hi], body)) = input.split_first_chunk::<3>() else {
        return false;
    };
    let len = usize::from(u16::from_le_bytes([lo, hi]));
    if kind != 0x96 {
        return false;
    }
    // The bug: the length is the sender's word, and nobody compared it with what arrived.
    body[..len].iter().all(|b| *b == 7)
}

fn careless_corpus() -> Vec<Vec<u8>> {
    vec![vec![0x96, 4, 0, 7, 7, 7, 7], vec![0x96, 0, 0]]
}

#[test]
fn the_canary_is_found_and_the_finding_repeats() {
    let plan = Plan {
        iters: 10_000,
        seed: DEFAULT_SEED,
    };
    let found = run("canary", plan, &careless_corpus(), careless).unwrap_err();
    assert!(found.message.contains("out of range"), "{found}");
    assert!(
        std::panic::catch_unwind(|| careless(&found.input)).is_err(),
        "{found}"
    );
    assert_eq!(
        run("canary", plan, &careless_corpus(), careless).unwrap_err(),
        found
    );
    let hex: String = found.input.iter().map(|b| format!("{b:02x}")).collect();
    assert!(found.to_string().contains(&hex));
}

#[test]
fn a_bug_behind_two_fields_is_reached_by_mutation() {
    let deep = |input: &[u8]| {
        let fields = input.first_chunk::<8>().map(|f| u64::from_le_bytes(*f));
        // Needs two fields at once, neither of which any prefix of the corpus has.
        assert!(
            fields != Some(0x0000_0060_0000_ffff),
            "both fields at their limits"
        );
        true
    };
    let plan = Plan {
        iters: 2_000_000,
        seed: DEFAULT_SEED,
    };
    let found = run("deep", plan, &[vec![0; 8]], deep).unwrap_err();
    assert!(found.nth > 8, "{found}");
}

#[test]
#[should_panic(expected = "refuses member 0 of its corpus")]
fn a_corpus_that_the_target_refuses_is_an_error() {
    let _ = run("refusing", Plan { iters: 1, seed: 1 }, &[vec![1]], |_| {
        false
    });
}

#[test]
fn another_seed_gives_other_inputs() {
    let inputs = |seed| {
        let mut seen = Vec::new();
        run("recorder", Plan { iters: 50, seed }, &[vec![0; 8]], |i| {
            seen.push(i.to_vec());
            true
        })
        .unwrap();
        seen
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}
