//! Speed and ratio of every codec and level on this machine, and the price of the probe.
//!
//! `cargo run --release --example codec_speed` prints one row per codec and level for four kinds
//! of block of 90,048 bytes (the content of a full slot at MTU 1500): MB/s (1e6 bytes of raw content per
//! second, median of five runs of at least 40 ms each, one core, working set hot) and ratio.

use ctp96::codec::{CodecId, Compressor, Decompressor, Policy, looks_compressible};
use ctp96::verify::{Level, digest};
use std::hint::black_box;
use std::time::{Duration, Instant};

const BLOCK: usize = 90_048;

/// Median nanoseconds of one call.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut runs: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            let mut calls = 0u32;
            while start.elapsed() < Duration::from_millis(40) {
                f();
                calls += 1;
            }
            start.elapsed().as_nanos() as f64 / f64::from(calls)
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[2]
}

fn mb_per_s(ns: f64) -> f64 {
    BLOCK as f64 / ns * 1e3
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Prose-like: words drawn with falling frequency from a vocabulary of 2,000.
fn text(r: &mut Random) -> Vec<u8> {
    let vocabulary: Vec<String> = (0..2_000)
        .map(|_| {
            let len = 2 + r.next() % 9;
            (0..len)
                .map(|_| b"etaoinshrdlucmfw"[(r.next() % 16) as usize] as char)
                .collect()
        })
        .collect();
    let mut out = Vec::with_capacity(BLOCK + 16);
    while out.len() < BLOCK {
        let rank = (2_000f64.powf((r.next() >> 11) as f64 / (1u64 << 53) as f64)) as usize - 1;
        out.extend_from_slice(vocabulary[rank].as_bytes());
        out.push(if r.next().is_multiple_of(12) {
            b'\n'
        } else {
            b' '
        });
    }
    out.truncate(BLOCK);
    out
}

fn json(r: &mut Random) -> Vec<u8> {
    let mut out = String::with_capacity(BLOCK + 200);
    let mut id = 1_000_000;
    while out.len() < BLOCK {
        id += r.next() % 5;
        out.push_str(&format!(
            "{{\"id\":{id},\"host\":\"node-{:02}\",\"level\":\"{}\",\"latency_us\":{},\"ok\":{}}}\n",
            r.next() % 64,
            ["info", "warn", "error"][(r.next() % 3) as usize],
            r.next() % 100_000,
            r.next().is_multiple_of(2),
        ));
    }
    out.truncate(BLOCK);
    out.into_bytes()
}

fn main() {
    let mut r = Random(0x1234_5678_9ABC_DEF1);
    // From the middle of this very program: its code, past the headers and tables.
    let exe = std::fs::read("/proc/self/exe").unwrap_or_default();
    let middle = (exe.len() / 3) & !4095;
    let elf = exe
        .get(middle..middle + BLOCK)
        .map_or_else(|| vec![0; BLOCK], <[u8]>::to_vec);
    let random: Vec<u8> = (0..BLOCK).map(|_| (r.next() >> 32) as u8).collect();
    let blocks = [
        ("text", text(&mut r)),
        ("elf", elf),
        ("json", json(&mut r)),
        ("random", random),
    ];

    println!(
        "{:<12}{:<9}{:>14}{:>16}{:>8}",
        "codec", "block", "compress", "decompress", "ratio"
    );
    let levels = [
        "lz4",
        "zstd:-5",
        "zstd:-3",
        "zstd:-1",
        "zstd:1",
        "zstd:2",
        "zstd:3",
        "deflate:1",
        "deflate:3",
        "deflate:6",
        "deflate:9",
        "deflate:12",
        "auto",
    ];
    let mut decompressor = Decompressor::new();
    for name in levels {
        let Ok(policy) = name.parse::<Policy>() else {
            continue;
        };
        let mut compressor = Compressor::new(policy);
        for (kind, block) in &blocks {
            let mut out = vec![0; BLOCK];
            let compress = time(|| {
                black_box(compressor.compress(black_box(block), &mut out));
            });
            match compressor.compress(block, &mut out) {
                None => println!(
                    "{name:<12}{kind:<9}{:>9.0} MB/s  left raw",
                    mb_per_s(compress)
                ),
                Some((id, n)) => {
                    let mut back = vec![0; BLOCK];
                    let decompress = time(|| {
                        let _ = black_box(decompressor.decompress(id, &out[..n], &mut back));
                    });
                    assert!(back == *block, "{name} does not give {kind} back");
                    println!(
                        "{name:<12}{kind:<9}{:>9.0} MB/s{:>11.0} MB/s{:>8.2}",
                        mb_per_s(compress),
                        mb_per_s(decompress),
                        BLOCK as f64 / n as f64
                    );
                }
            }
        }
    }

    println!("\nper block of {BLOCK} bytes:");
    for (kind, block) in &blocks {
        let mut out = vec![0; BLOCK];
        let probe = time(|| {
            black_box(looks_compressible(black_box(block)));
        });
        let copy = time(|| {
            let _ = black_box(decompressor.decompress(CodecId::Raw, black_box(block), &mut out));
        });
        let fast = time(|| {
            black_box(digest(Level::Fast, black_box(block)));
        });
        let full = time(|| {
            black_box(digest(Level::Full, black_box(block)));
        });
        println!(
            "{kind:<9} probe {probe:>5.0} ns ({:.0} GB/s), copy {copy:>6.0} ns, \
             digest fast {:.1} GB/s, full {:.1} GB/s",
            BLOCK as f64 / probe,
            BLOCK as f64 / fast,
            BLOCK as f64 / full
        );
    }

    let histogram = ctp96::obs::Histogram::new();
    let ns = time(|| {
        for v in 0..1_000u64 {
            histogram.record(black_box(v * 977));
        }
    }) / 1e3;
    let counters = ctp96::obs::CounterSet::new();
    let add = time(|| {
        for _ in 0..1_000 {
            black_box(&counters).add(ctp96::obs::Counter::RxFrames, black_box(1));
        }
    }) / 1e3;
    println!("\nhistogram record {ns:.1} ns, counter add {add:.1} ns");
}
