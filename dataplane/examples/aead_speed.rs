//! Seal and open speed of every AES-256-GCM provider on this CPU.
//!
//! `cargo run --release -p ctp96 --example aead_speed`
//!
//! GB/s = 1e9 bytes of symbol payload a second, of this thread's CPU time (so a busy machine
//! disturbs little), median of five runs, providers taking turns. "hot" works on 64 KB of symbols;
//! "stream" takes the source from 64 MB in order (the
//! slots of a seal, the frames of an open) into a 64 KB destination. Frames lie packed, payload 24
//! bytes into each. `ring (copy first)` copies out and opens there, instead of opening in the frame
//! and copying out afterwards as the `ring` provider does.

use ctp96::base::limits::{FRAME_OVERHEAD, HEADER_LEN, TAG_LEN};
use ctp96::crypto::{LaneOpener, LaneSealer, OpenKey, Provider, SealKey, calibrate, copy};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use std::hint::black_box;
use std::time::Duration;

const KEY: [u8; 32] = [0x42; 32];
const AAD: [u8; HEADER_LEN] = [7; HEADER_LEN];
const HOT: usize = 64 << 10;
const STREAM: usize = 64 << 20;
/// Bytes that one hot run works through.
const HOT_WORK: usize = 8 << 20;
const RUNS: usize = 5;

fn nonce(i: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(i as u64).to_be_bytes());
    nonce
}

fn main() {
    let mut symbols = vec![0u8; STREAM];
    for (i, byte) in symbols.iter_mut().enumerate() {
        *byte = (i * 31 + (i >> 8)) as u8;
    }
    println!("| provider | symbol | seal hot | seal stream | open hot | open stream |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for len in [64, 1408, 8896] {
        table(&symbols, len);
    }
    println!();
    for len in [64, 1408, 8896] {
        let c = calibrate(len, Duration::from_millis(5));
        println!(
            "calibrate({len} B, 5 ms): {} after {} rounds",
            c.provider, c.rounds
        );
        for s in c.speeds {
            println!(
                "  {}: seal {:.2}, open {:.2} GB/s",
                s.provider, s.seal_gbps, s.open_gbps
            );
        }
    }
    println!();
    epoch_switch();
}

fn table(symbols: &[u8], len: usize) {
    let stride = len + FRAME_OVERHEAD;
    let hot_count = (HOT / len).max(1);
    let stream_count = STREAM / stride;
    let mut frames = vec![0u8; stream_count * stride];
    let mut hot_frames = vec![0u8; hot_count * stride];
    let mut out = vec![0u8; hot_count * len];
    let ring_key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &KEY).expect("32 bytes"));
    let keys: Vec<_> = Provider::ALL
        .into_iter()
        .map(|p| (p, SealKey::new(p, &KEY), OpenKey::new(p, &KEY)))
        .collect();
    let rounds = HOT_WORK / (hot_count * len);
    let mut results: Vec<[Vec<f64>; 4]> = vec![[const { Vec::new() }; 4]; keys.len() + 1];
    for _ in 0..RUNS {
        for (at, (_, sealer, opener)) in keys.iter().enumerate() {
            let seal = |source: usize, frame: &mut [u8]| {
                let plain = &symbols[source * len..][..len];
                let done = sealer.seal(&nonce(source), &AAD, plain, &mut frame[HEADER_LEN..]);
                assert!(done.is_ok());
            };
            let hot = gbps(rounds * hot_count * len, || {
                for _ in 0..rounds {
                    for i in 0..hot_count {
                        seal(i, &mut hot_frames[i * stride..][..stride]);
                    }
                }
            });
            let stream = gbps(stream_count * len, || {
                for i in 0..stream_count {
                    seal(i, &mut hot_frames[i % hot_count * stride..][..stride]);
                }
            });
            results[at][0].push(hot);
            results[at][1].push(stream);
            // Opening may spoil a frame: each is opened once.
            for i in 0..stream_count {
                seal(i, &mut frames[i * stride..][..stride]);
            }
            let mut open = |source: usize, to: usize| {
                let sealed = &mut frames[source * stride..][HEADER_LEN..stride];
                let out = &mut out[to * len..][..len];
                assert!(opener.open(&nonce(source), &AAD, sealed, out).is_ok());
            };
            let stream = gbps(stream_count * len, || {
                for i in 0..stream_count {
                    open(i, i % hot_count);
                }
            });
            let mut time = 0;
            for _ in 0..rounds {
                for i in 0..hot_count {
                    seal(i, &mut hot_frames[i * stride..][..stride]);
                }
                let start = cpu_ns();
                for i in 0..hot_count {
                    let sealed = &mut hot_frames[i * stride..][HEADER_LEN..stride];
                    let out = &mut out[i * len..][..len];
                    assert!(opener.open(&nonce(i), &AAD, sealed, out).is_ok());
                }
                time += cpu_ns() - start;
            }
            let hot = (rounds * hot_count * len) as f64 / time as f64;
            results[at][2].push(hot);
            results[at][3].push(stream);
        }
        // The frames of the last provider above may be spoilt.
        for i in 0..stream_count {
            let plain = &symbols[i * len..][..len];
            let sealed = &mut frames[i * stride..][HEADER_LEN..stride];
            assert!(keys[0].1.seal(&nonce(i), &AAD, plain, sealed).is_ok());
        }
        let mut copy_and_open = |source: usize, to: usize| {
            let sealed = &mut frames[source * stride..][HEADER_LEN..stride];
            let (text, tag) = sealed
                .split_last_chunk_mut::<TAG_LEN>()
                .expect("long enough");
            let nonce = Nonce::assume_unique_for_key(nonce(source));
            let (aad, tag) = (Aad::from(&AAD), Tag::from(*tag));
            assert!(
                ring_key
                    .open_in_place_separate_tag(nonce, aad, tag, text, 0..)
                    .is_ok()
            );
            copy(&mut out[to * len..][..len], text);
        };
        let stream = gbps(stream_count * len, || {
            for i in 0..stream_count {
                copy_and_open(i, i % hot_count);
            }
        });
        let mut time = 0;
        let short_rounds = rounds / 8;
        for _ in 0..short_rounds {
            for i in 0..hot_count {
                let frame = &mut hot_frames[i * stride..][..stride];
                let plain = &symbols[i * len..][..len];
                assert!(
                    keys[0]
                        .1
                        .seal(&nonce(i), &AAD, plain, &mut frame[HEADER_LEN..])
                        .is_ok()
                );
            }
            let start = cpu_ns();
            for i in 0..hot_count {
                let sealed = &mut hot_frames[i * stride..][HEADER_LEN..stride];
                let (text, tag) = sealed
                    .split_last_chunk_mut::<TAG_LEN>()
                    .expect("long enough");
                let nonce = Nonce::assume_unique_for_key(nonce(i));
                let (aad, tag) = (Aad::from(&AAD), Tag::from(*tag));
                assert!(
                    ring_key
                        .open_in_place_separate_tag(nonce, aad, tag, text, 0..)
                        .is_ok()
                );
                copy(&mut out[i * len..][..len], text);
            }
            time += cpu_ns() - start;
        }
        let last = results.len() - 1;
        results[last][2].push((short_rounds * hot_count * len) as f64 / time as f64);
        results[last][3].push(stream);
        black_box(&out);
    }
    let names = keys.iter().map(|k| k.0.name()).chain(["ring (copy first)"]);
    for (name, mut row) in names.zip(results) {
        let cells = row.each_mut().map(|runs| match median(runs) {
            Some(gbps) => format!("{gbps:.2}"),
            None => "-".to_owned(),
        });
        println!("| {name} | {len} | {} |", cells.join(" | "));
    }
}

fn gbps(bytes: usize, work: impl FnOnce()) -> f64 {
    let start = cpu_ns();
    work();
    bytes as f64 / (cpu_ns() - start).max(1) as f64
}

/// CPU time of this thread, nanoseconds.
fn cpu_ns() -> u64 {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid, writable timespec, and Linux always has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}

fn median(runs: &mut [f64]) -> Option<f64> {
    runs.sort_by(f64::total_cmp);
    runs.get(runs.len() / 2).copied()
}

/// What a lane pays on top of the AEAD for a frame, and for a switch of epochs.
fn epoch_switch() {
    const FRAMES: u64 = 20_000;
    for provider in Provider::ALL {
        let mut sealer = LaneSealer::new(provider, &KEY, 0);
        let mut opener = LaneOpener::new(provider, &KEY, 0);
        let (plain, mut out) = ([0u8; 64], [0u8; 64]);
        let mut sealed = [0u8; 64 + TAG_LEN];
        let mut ns = [0; 2];
        let mut pn = 0;
        for (at, step) in [0, 120_000_000_000].into_iter().enumerate() {
            let mut now = 0;
            let start = cpu_ns();
            for _ in 0..FRAMES {
                let mut header = AAD;
                assert!(
                    sealer
                        .seal(now, pn, &mut header, &plain, &mut sealed)
                        .is_ok()
                );
                let bits = header[1];
                let opened = opener.open(now, bits, pn, &header, &mut sealed, &mut out);
                assert!(opened.is_ok());
                pn += 1;
                now += step;
            }
            ns[at] = (cpu_ns() - start) / FRAMES;
        }
        println!(
            "{provider}: seal + open of a 64 B frame through a lane {} ns; with an epoch switch at \
             both ends {} ns",
            ns[0], ns[1]
        );
    }
}
