//! The hot calls: what runs for every frame or every slot, one by one, with fixed inputs.
//!
//! Kernels are chosen by name wherever detection would choose by CPU, so that the counts are the
//! same on every x86-64 with AVX2; `detected` shows what detection takes under valgrind, which hides
//! AVX-512, VAES and GFNI.

use ctp96::base::Bits96;
use ctp96::base::limits::{FRAME_OVERHEAD, HEADER_LEN, WINDOW_SLOTS};
use ctp96::codec::{Compressor, Decompressor, looks_compressible};
use ctp96::crypto::{LaneOpener, LaneSealer, OpenKey, Provider, ReplayWindow, SealKey, copy};
use ctp96::fec::{Fec, Kernel};
use ctp96::obs::{Hist, HistSet};
use ctp96::ring::spsc;
use ctp96::verify::{self, Level};
use ctp96::window::window;
use ctp96::wire::ack::ACK_MAX_LEN;
use ctp96::wire::{Ack, FrameKind, Header, Report};
use std::hint::black_box;

/// Symbol length at MTU 1500, bytes.
const SYMBOL: usize = 1408;
/// Data symbols of a full slot.
const K: usize = 64;
/// Calls counted of what takes less than a microsecond.
const LIGHT: u32 = 256;
/// Calls counted of what works on a frame.
const FRAME: u32 = 32;
/// Calls counted of what works on a slot.
const SLOT: u32 = 4;

/// One hot call.
pub struct Call {
    /// Its name in the baseline.
    pub name: String,
    /// How often it is called while instructions are counted.
    pub times: u32,
    /// Does it once.
    pub once: Box<dyn FnMut()>,
}

/// Every hot call.
#[derive(Default)]
pub struct Calls {
    /// Those that this CPU has.
    pub all: Vec<Call>,
    /// Those that it lacks, with the reason.
    pub lacking: Vec<(String, String)>,
}

impl Calls {
    fn add(&mut self, name: impl Into<String>, times: u32, once: impl FnMut() + 'static) {
        self.all.push(Call {
            name: name.into(),
            times,
            once: Box::new(once),
        });
    }
}

/// The hot calls, each ready to run.
pub fn all() -> Calls {
    let mut c = Calls::default();
    // What the counting itself costs; taken off the others.
    c.add(crate::EMPTY, LIGHT, || {});
    window_and_ring(&mut c);
    erasure_code(&mut c);
    cipher(&mut c);
    lane(&mut c);
    codec(&mut c);
    wire(&mut c);
    rest(&mut c);
    c
}

/// Bytes that do not compress (xorshift64).
fn random(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Bytes as a log has them, which compress.
fn text(len: usize) -> Vec<u8> {
    let line = b"status=ok latency_us=1234 host=node-07\n";
    (0..len)
        .map(|i| line[i % line.len()] ^ (i / 5000) as u8)
        .collect()
}

fn window_and_ring(c: &mut Calls) {
    let (mut writer, mut reader) = window::<u64, WINDOW_SLOTS>();
    let mut n = 0;
    c.add("window/publish, take, release", LIGHT, move || {
        let _ = black_box(writer.begin(n, n));
        writer.publish(n);
        reader.take(n);
        black_box(reader.get(n));
        reader.release(n);
        black_box(writer.reclaim(n));
        n += 1;
    });
    let (mut tx, mut rx) = spsc::<u64>(256);
    c.add("ring/push, pop", LIGHT, move || {
        let _ = black_box(tx.push(black_box(7)));
        black_box(rx.pop());
    });
    let (mut tx, mut rx) = spsc::<u64>(256);
    let (batch, mut out) = ([7_u64; 32], [0_u64; 32]);
    c.add("ring/32 in, 32 out", LIGHT, move || {
        black_box(tx.push_slice(black_box(&batch)));
        black_box(rx.pop_slice(&mut out));
    });
}

fn erasure_code(c: &mut Calls) {
    let kernels = [Kernel::Scalar, Kernel::Avx2];
    let mut kernels: Vec<_> = kernels.map(|k| (k.name(), Fec::with_kernel(k))).to_vec();
    kernels.push(("detected", Some(Fec::detect())));
    for (name, fec) in kernels {
        for m in [1, 2, 8] {
            let (encode, decode) = (
                format!("fec/{name} encode 64+{m}"),
                format!("fec/{name} decode {m} lost"),
            );
            let Some(fec) = fec else {
                let why = format!("this CPU has no {name}");
                c.lacking.push((encode, why.clone()));
                c.lacking.push((decode, why));
                continue;
            };
            let data = random(K * SYMBOL);
            let mut repair = vec![0; m * SYMBOL];
            fec.encode(K, SYMBOL, &data, m, &mut repair);
            let (mut damaged, at_hand) = (data.clone(), repair.clone());
            c.add(encode, SLOT, move || {
                fec.encode(K, SYMBOL, black_box(&data), m, &mut repair);
                black_box(&repair);
            });
            let have = Bits96::first(K + m).minus(Bits96::first(m));
            c.add(decode, SLOT, move || {
                let done = fec.decode(K, SYMBOL, black_box(&mut damaged), &at_hand, have);
                black_box(done.is_ok());
            });
        }
    }
}

fn cipher(c: &mut Calls) {
    let providers = [
        Provider::Ring,
        Provider::AwsLc,
        Provider::AesGcm,
        Provider::Aegis256x2,
    ];
    for p in providers {
        let (key, opener) = (SealKey::new(p, &[7; 32]), OpenKey::new(p, &[7; 32]));
        let plain = random(SYMBOL);
        let mut sealed = vec![0; SYMBOL + 16];
        let _ = key.seal(&[0; 12], &[0; 24], &plain, &mut sealed);
        let (mut frame, mut out, original) = (sealed.clone(), vec![0; SYMBOL], sealed.clone());
        c.add(format!("aead/{p} seal 1408"), FRAME, move || {
            let done = key.seal(&[0; 12], &[0; 24], black_box(&plain), &mut sealed);
            black_box(done.is_ok());
        });
        // Some providers open in place, so each call needs the ciphertext anew: its copy counts.
        c.add(format!("aead/{p} open 1408"), FRAME, move || {
            frame.copy_from_slice(black_box(&original));
            let done = opener.open(&[0; 12], &[0; 24], &mut frame, &mut out);
            black_box(done.is_ok());
        });
    }
}

/// Sealing and opening as a lane does, with nonces, epochs, usage limits and replay window.
fn lane(c: &mut Calls) {
    let secret = [9; 32];
    let plain = random(SYMBOL);
    let mut sealer = LaneSealer::new(Provider::AwsLc, &secret, 0);
    let (mut header, mut out) = ([0; HEADER_LEN], vec![0; SYMBOL + 16]);
    let mut pn = 0;
    c.add("lane/seal 1408", FRAME, move || {
        let done = sealer.seal(1, pn, &mut header, black_box(&plain), &mut out);
        black_box(done.is_ok());
        pn += 1;
    });
    let mut sealer = LaneSealer::new(Provider::AwsLc, &secret, 0);
    let mut opener = LaneOpener::new(Provider::AwsLc, &secret, 0);
    let (plain, mut header) = (random(SYMBOL), [0; HEADER_LEN]);
    // A frame for each call, the unmeasured first one included: every number opens once.
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for pn in 0..=u64::from(FRAME) {
        let mut out = vec![0; SYMBOL + 16];
        let _ = sealer.seal(1, pn, &mut header, &plain, &mut out);
        frames.push(out);
    }
    let mut replay = ReplayWindow::new();
    let mut out = vec![0; SYMBOL];
    let mut pn = 0;
    c.add("lane/check, open 1408, commit", FRAME, move || {
        let frame = &mut frames[pn as usize % (FRAME as usize + 1)];
        let fresh = replay.check(pn);
        let done = opener.open(1, 0, pn, &header, black_box(frame), &mut out);
        black_box(fresh && done.is_ok() && replay.commit(pn));
        pn += 1;
    });
}

fn codec(c: &mut Calls) {
    let (slot, noise) = (text(K * SYMBOL), random(K * SYMBOL));
    for name in ["lz4", "zstd:1", "deflate:1"] {
        // The names are those of the documentation; one that is gone is a missing call.
        let Ok(policy) = name.parse() else { continue };
        let mut compressor = Compressor::new(policy);
        let mut room = vec![0; slot.len()];
        let Some((id, n)) = compressor.compress(&slot, &mut room) else {
            continue;
        };
        let packed = room[..n].to_vec();
        let raw = slot.clone();
        c.add(format!("codec/compress {name}"), SLOT, move || {
            black_box(compressor.compress(black_box(&raw), &mut room));
        });
        let mut decompressor = Decompressor::new();
        let mut out = vec![0; slot.len()];
        c.add(format!("codec/decompress {name}"), SLOT, move || {
            let done = decompressor.decompress(id, black_box(&packed), &mut out);
            black_box(done.is_ok());
        });
    }
    c.add("codec/probe text", FRAME, move || {
        black_box(looks_compressible(black_box(&slot)));
    });
    c.add("codec/probe random", FRAME, move || {
        black_box(looks_compressible(black_box(&noise)));
    });
}

fn wire(c: &mut Calls) {
    let header = Header {
        kind: FrameKind::Symbol,
        epoch: 0,
        lane: 3,
        symbol: 5,
        session: 9,
        pn: 1 << 33,
        slot: 77,
        k: K as u8,
        class: 0,
        len: SYMBOL as u16,
        part: false,
    };
    let mut bytes = [0; HEADER_LEN];
    let mut frame = vec![0; SYMBOL + FRAME_OVERHEAD];
    if let Some(first) = frame.first_chunk_mut() {
        header.encode(first);
    }
    c.add("header/encode", LIGHT, move || {
        black_box(&header).encode(black_box(&mut bytes));
    });
    c.add("header/parse", LIGHT, move || {
        black_box(Header::parse(black_box(&frame)).is_ok());
    });
    let mut ack = Ack {
        base: 1000,
        largest_pn: 99_999,
        received: 64_000,
        credit: 1096,
        ..Ack::default()
    };
    for i in 0..4 {
        ack.push_report(Report {
            offset: 3 * i,
            deficit: 2,
            have: Bits96::first(60),
        });
    }
    let mut body = vec![0; ACK_MAX_LEN];
    let n = ack.encode(&mut body).unwrap_or(0);
    let written = body[..n].to_vec();
    c.add("ack/encode, 4 reports", LIGHT, move || {
        black_box(black_box(&ack).encode(&mut body));
    });
    c.add("ack/decode, 4 reports", LIGHT, move || {
        black_box(Ack::decode(black_box(&written)).is_ok());
    });
}

fn rest(c: &mut Calls) {
    let hists = HistSet::new();
    let mut ns = 1_000_u64;
    c.add("histogram/record", LIGHT, move || {
        hists.record(Hist::StageSeal, black_box(ns));
        ns += 997;
    });
    let slot = random(K * SYMBOL);
    for level in [Level::Fast, Level::Full] {
        let slot = slot.clone();
        c.add(format!("digest/{level} slot"), SLOT, move || {
            black_box(verify::digest(level, black_box(&slot)));
        });
    }
    let mut to = vec![0; SYMBOL];
    c.add("copy/1408", LIGHT, move || {
        copy(&mut to, black_box(&slot[..SYMBOL]));
        black_box(&to);
    });
}
