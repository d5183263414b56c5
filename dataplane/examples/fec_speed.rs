//! Speed of the FEC kernels, GB/s (1e9 bytes of data symbols a second of this thread's CPU time, so
//! that a busy machine counts less), one core, median of 5, the same buffers again and again.
//! Run: `cargo run --release -p ctp96 --example fec_speed`.

use ctp96::base::Bits96;
use ctp96::fec::{Fec, Kernel};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use std::hint::black_box;
use std::time::Duration;

const ENCODE: [(usize, usize); 4] = [(32, 2), (64, 1), (64, 2), (64, 8)];
const LOST: [usize; 2] = [1, 8];
const SYMBOL_LEN: [usize; 2] = [1408, 8896];

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `t` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Median over 5 runs of about 20 ms each, GB/s.
fn speed(bytes: usize, mut f: impl FnMut()) -> f64 {
    let mut figures = [0.0; 5];
    for figure in &mut figures {
        let start = cpu_time();
        let mut rounds = 0u32;
        while cpu_time() - start < Duration::from_millis(20) {
            for _ in 0..8 {
                f();
            }
            rounds += 8;
        }
        *figure = bytes as f64 * f64::from(rounds) / (cpu_time() - start).as_secs_f64() / 1e9;
    }
    figures.sort_by(f64::total_cmp);
    figures[2]
}

fn sample(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8)
        .collect()
}

fn row(name: &str, symbol_len: usize, figures: &[f64]) {
    print!("| {name} | {symbol_len} ");
    figures.iter().for_each(|f| print!("| {f:.2} "));
    println!("|");
}

fn own(fec: Fec, symbol_len: usize) -> Vec<f64> {
    let mut data = sample(64 * symbol_len);
    let mut repair = vec![0; 8 * symbol_len];
    let mut figures = Vec::new();
    for (k, m) in ENCODE {
        figures.push(speed(k * symbol_len, || {
            fec.encode(
                k,
                symbol_len,
                black_box(&data),
                m,
                &mut repair[..m * symbol_len],
            );
        }));
    }
    fec.encode(64, symbol_len, &data, 8, &mut repair);
    let original = data.clone();
    // Repair symbol 0 at hand, then one lost symbol without it, then eight.
    for (lost, drop_row_0) in [(LOST[0], false), (LOST[0], true), (LOST[1], false)] {
        let mut have = Bits96::first(72);
        (0..lost).for_each(|i| have.remove(7 * i));
        if drop_row_0 {
            have.remove(64);
        }
        (0..lost).for_each(|i| data[7 * i * symbol_len..][..symbol_len].fill(0));
        figures.push(speed(64 * symbol_len, || {
            let done = fec.decode(64, symbol_len, black_box(&mut data), &repair, have);
            assert!(done.is_ok());
        }));
        assert!(data == original, "decoded data differ");
    }
    figures
}

fn peer(symbol_len: usize) -> Result<Vec<f64>, reed_solomon_simd::Error> {
    let data = sample(64 * symbol_len);
    let symbols: Vec<&[u8]> = data.chunks_exact(symbol_len).collect();
    let mut figures = Vec::new();
    for (k, m) in ENCODE {
        let mut encoder = ReedSolomonEncoder::new(k, m, symbol_len)?;
        let mut round = || -> Result<(), reed_solomon_simd::Error> {
            for s in &symbols[..k] {
                encoder.add_original_shard(black_box(s))?;
            }
            let result = encoder.encode()?;
            black_box(result.recovery_iter().count());
            Ok(())
        };
        round()?;
        figures.push(speed(k * symbol_len, || {
            black_box(round().is_ok());
        }));
    }
    let mut encoder = ReedSolomonEncoder::new(64, 8, symbol_len)?;
    for s in &symbols {
        encoder.add_original_shard(s)?;
    }
    let repair: Vec<Vec<u8>> = encoder
        .encode()?
        .recovery_iter()
        .map(<[u8]>::to_vec)
        .collect();
    for (lost, first_row) in [(LOST[0], 0), (LOST[0], 1), (LOST[1], 0)] {
        let mut decoder = ReedSolomonDecoder::new(64, 8, symbol_len)?;
        let mut round = || -> Result<(), reed_solomon_simd::Error> {
            for (i, s) in symbols.iter().enumerate() {
                if i % 7 != 0 || i / 7 >= lost {
                    decoder.add_original_shard(i, black_box(s))?;
                }
            }
            #[allow(
                clippy::needless_range_loop,
                reason = "rows keep the names of the formulas"
            )]
            for j in first_row..first_row + lost {
                decoder.add_recovery_shard(j, &repair[j])?;
            }
            let result = decoder.decode()?;
            black_box(result.restored_original_iter().count());
            Ok(())
        };
        round()?;
        figures.push(speed(64 * symbol_len, || {
            black_box(round().is_ok());
        }));
    }
    Ok(figures)
}

fn main() -> Result<(), reed_solomon_simd::Error> {
    println!(
        "| kernel | symbol, B | enc (32,2) | (64,1) | (64,2) | (64,8) | dec 1 of (64,8), row 0 \
         | 1, without row 0 | 8 of (64,8) |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for symbol_len in SYMBOL_LEN {
        for fec in Kernel::ALL.into_iter().filter_map(Fec::with_kernel) {
            row(fec.kernel().name(), symbol_len, &own(fec, symbol_len));
        }
        row("reed-solomon-simd", symbol_len, &peer(symbol_len)?);
    }
    Ok(())
}
