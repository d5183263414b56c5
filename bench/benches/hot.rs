//! Micro-benchmarks of what runs for every frame or slot: window, ring, erasure code, cipher, codec,
//! header. `cargo bench -p ctp96-bench`; criterion keeps the last run and says what changed.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ctp96::base::Bits96;
use ctp96::base::limits::{FRAME_OVERHEAD, HEADER_LEN, WINDOW_SLOTS};
use ctp96::codec::{Compressor, Decompressor};
use ctp96::crypto::{OpenKey, Provider, SealKey};
use ctp96::fec::Fec;
use ctp96::ring::spsc;
use ctp96::verify::{self, Level};
use ctp96::window::window;
use ctp96::wire::{FrameKind, Header};
use std::hint::black_box;

/// Symbol length at MTU 1500.
const SYMBOL: usize = 1408;
/// Data symbols of a full slot.
const K: usize = 64;

fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn window_slot(c: &mut Criterion) {
    let (mut writer, mut reader) = window::<u64, WINDOW_SLOTS>();
    let mut n = 0;
    c.bench_function("window/one slot through", |b| {
        b.iter(|| {
            writer.begin(n, n).expect("the window is empty");
            writer.publish(n);
            reader.take(n);
            let value = reader.get(n).copied();
            reader.release(n);
            writer.reclaim(n);
            n += 1;
            value
        })
    });
}

fn ring_batch(c: &mut Criterion) {
    let (mut tx, mut rx) = spsc::<u64>(256);
    let batch = [7_u64; 32];
    let mut out = [0_u64; 32];
    let mut group = c.benchmark_group("ring");
    group.throughput(Throughput::Elements(batch.len() as u64));
    group.bench_function("32 items in and out", |b| {
        b.iter(|| {
            tx.push_slice(black_box(&batch));
            rx.pop_slice(&mut out)
        })
    });
    group.finish();
}

fn erasure_code(c: &mut Criterion) {
    let fec = Fec::detect();
    let data = bytes(K * SYMBOL);
    let mut group = c.benchmark_group("fec");
    group.throughput(Throughput::Bytes((K * SYMBOL) as u64));
    for m in [1, 2, 8] {
        let mut repair = vec![0; m * SYMBOL];
        group.bench_function(format!("encode 64+{m}"), |b| {
            b.iter(|| fec.encode(K, SYMBOL, black_box(&data), m, &mut repair))
        });
        let have = Bits96::first(K + m).minus(Bits96::first(m));
        let mut damaged = data.clone();
        group.bench_function(format!("decode {m} lost"), |b| {
            b.iter(|| fec.decode(K, SYMBOL, black_box(&mut damaged), &repair, have))
        });
        assert_eq!(damaged, data, "decoded bytes");
    }
    group.finish();
}

fn cipher(c: &mut Criterion) {
    let plain = bytes(SYMBOL);
    let mut group = c.benchmark_group("aead");
    group.throughput(Throughput::Bytes(SYMBOL as u64));
    for p in [
        Provider::Ring,
        Provider::AwsLc,
        Provider::Aegis256x2,
        Provider::Aegis256,
    ] {
        let (key, opener) = (SealKey::new(p, &[7; 32]), OpenKey::new(p, &[7; 32]));
        let mut sealed = vec![0; SYMBOL + 16];
        let mut out = vec![0; SYMBOL];
        group.bench_function(format!("seal {p}"), |b| {
            b.iter(|| key.seal(&[0; 12], &[0; 24], black_box(&plain), &mut sealed))
        });
        let mut frame = sealed.clone();
        group.bench_function(format!("open {p}"), |b| {
            b.iter(|| {
                frame.copy_from_slice(black_box(&sealed));
                opener.open(&[0; 12], &[0; 24], &mut frame, &mut out)
            })
        });
        assert_eq!(out, plain, "opened bytes");
    }
    group.finish();
    cipher_at_once::<2>(c, &plain);
    cipher_at_once::<4>(c, &plain);
}

/// Several frames a call.
fn cipher_at_once<const N: usize>(c: &mut Criterion, plain: &[u8]) {
    let mut group = c.benchmark_group("aead");
    group.throughput(Throughput::Bytes((N * SYMBOL) as u64));
    let p = Provider::Aegis256;
    let (key, opener) = (SealKey::new(p, &[7; 32]), OpenKey::new(p, &[7; 32]));
    let nonces: [[u8; 12]; N] = std::array::from_fn(|i| [i as u8; 12]);
    let mut sealed: [Vec<u8>; N] = std::array::from_fn(|_| vec![0; SYMBOL + 16]);
    group.bench_function(format!("seal {p}, {N} at once"), |b| {
        b.iter(|| {
            let plains = [black_box(plain); N];
            let outs = sealed.each_mut().map(|s| &mut s[..]);
            key.seal_group(nonces.each_ref(), [&[0; 24]; N], plains, outs)
        })
    });
    let mut outs: [Vec<u8>; N] = std::array::from_fn(|_| vec![0; SYMBOL]);
    group.bench_function(format!("open {p}, {N} at once"), |b| {
        b.iter(|| {
            let sealed = black_box(&mut sealed).each_mut().map(|s| &mut s[..]);
            let outs = outs.each_mut().map(|o| &mut o[..]);
            opener.open_group(nonces.each_ref(), [&[0; 24]; N], sealed, outs)
        })
    });
    assert!(outs.iter().all(|o| o == plain), "opened bytes");
    group.finish();
}

fn digest(c: &mut Criterion) {
    let content = bytes(K * SYMBOL);
    let mut slot = vec![0; content.len()];
    let mut group = c.benchmark_group("digest");
    group.throughput(Throughput::Bytes(content.len() as u64));
    for level in [Level::Fast, Level::Full] {
        group.bench_function(format!("{level}"), |b| {
            b.iter(|| verify::digest(level, black_box(&content)))
        });
        group.bench_function(format!("{level}, while copying"), |b| {
            b.iter(|| verify::digest_copy(level, &mut slot, black_box(&content)))
        });
        assert_eq!(slot, content, "copied bytes");
    }
    group.finish();
}

fn codec(c: &mut Criterion) {
    let slot: Vec<u8> = (0..K * SYMBOL)
        .map(|i| b"status=ok latency_us=1234 host=node-07\n"[i % 39] ^ (i / 5000) as u8)
        .collect();
    let mut room = vec![0; slot.len()];
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Bytes(slot.len() as u64));
    for text in ["lz4", "zstd:1", "deflate:1"] {
        let mut compressor = Compressor::new(text.parse().expect("a policy"));
        group.bench_function(format!("compress {text}"), |b| {
            b.iter(|| compressor.compress(black_box(&slot), &mut room))
        });
        let (id, n) = compressor
            .compress(&slot, &mut room)
            .expect("it compresses well");
        let packed = room[..n].to_vec();
        let mut decompressor = Decompressor::new();
        let mut out = vec![0; slot.len()];
        group.bench_function(format!("decompress {text}"), |b| {
            b.iter(|| decompressor.decompress(id, black_box(&packed), &mut out))
        });
        assert_eq!(out, slot, "decompressed bytes");
    }
    group.finish();
}

fn header(c: &mut Criterion) {
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
    let mut frame = vec![0; SYMBOL + FRAME_OVERHEAD];
    c.bench_function("header/encode", |b| {
        b.iter(|| {
            let first = frame.first_chunk_mut::<HEADER_LEN>();
            black_box(&header).encode(first.expect("room for a header"));
        })
    });
    assert!(Header::parse(&frame).is_ok(), "a valid frame");
    c.bench_function("header/parse", |b| {
        b.iter(|| Header::parse(black_box(&frame)))
    });
}

criterion_group!(
    hot,
    window_slot,
    ring_batch,
    erasure_code,
    cipher,
    digest,
    codec,
    header
);
criterion_main!(hot);
