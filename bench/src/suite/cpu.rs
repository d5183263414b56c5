//! Suites that need no network: what the pieces do on a core by themselves. They are the ceilings
//! that the whole is held against.

use super::runner::{Figures, Outcome, Refusal, Spec, rate};
use crate::Result;
use crate::corpus::{self, Corpus};
use crate::peer::pin;
use ctp96::base::Bits96;
use ctp96::codec::{Compressor, Decompressor, Policy, PolicyError};
use ctp96::crypto::{OpenKey, Provider, SealKey};
use ctp96::fec::{Fec, Kernel};
use ctp96::verify::{self, Level};
use std::hint::black_box;
use std::sync::Barrier;

/// Working set that fits the second-level cache, bytes.
pub const HOT: usize = 64 << 10;
/// Working set that does not fit any cache of today's cores, bytes.
pub const COLD: usize = 128 << 20;
/// Content of a full slot at MTU 1500, bytes.
const SLOT: usize = 64 * 1408;
const GIGA: f64 = 1e9;

/// Every provider of every suite.
pub fn providers() -> Vec<Provider> {
    let mut all = Provider::ALL.to_vec();
    all.extend([Provider::Aegis256x2, Provider::Aegis256]);
    all
}

/// Name of a provider's suite.
pub fn suite_name(p: Provider) -> &'static str {
    match p {
        Provider::Aegis256x2 | Provider::Aegis256 => p.name(),
        _ => "aes-256-gcm",
    }
}

/// Suite x provider x frame size.
pub fn encryption<'a>(sizes: &[usize], core: usize, seconds: f64) -> Vec<Spec<'a>> {
    let mut specs = Vec::new();
    for &len in sizes {
        let copy = move |_| memcpy(len.max(64), HOT, core, seconds);
        let bytes = len.to_string();
        let group = format!("len {len}");
        let params = [("suite", "none"), ("provider", "memcpy"), ("frame", &bytes)];
        specs.push(
            Spec::new(&params, copy)
                .group(group.as_str())
                .baseline("memcpy"),
        );
        for p in providers() {
            let params = [
                ("suite", suite_name(p)),
                ("provider", p.name()),
                ("frame", &bytes),
            ];
            let run = move |_: bool| aead(p, len, core, seconds);
            specs.push(Spec::new(&params, run).group(group.as_str()));
            // The row above is as lanes do it; these are what they gain by it.
            for fewer in [1, 2] {
                if fewer < SealKey::new(p, &[7; 32]).group() {
                    let name = format!("{}, {fewer} at once", p.name());
                    let params = [
                        ("suite", suite_name(p)),
                        ("provider", name.as_str()),
                        ("frame", &bytes),
                    ];
                    let run = move |_: bool| aead_at_once(p, fewer, len, core, seconds);
                    specs.push(Spec::new(&params, run).group(group.as_str()));
                }
            }
        }
    }
    specs
}

/// Seals and opens frames of `len` bytes with the bare provider, as many at once as lanes do.
pub fn aead(provider: Provider, len: usize, core: usize, seconds: f64) -> Outcome {
    let at_once = SealKey::new(provider, &[7; 32]).group();
    aead_at_once(provider, at_once, len, core, seconds)
}

/// As [`aead`], with the number of frames that are handed over at once.
pub fn aead_at_once(
    provider: Provider,
    at_once: usize,
    len: usize,
    core: usize,
    seconds: f64,
) -> Outcome {
    let (seal, open) = match at_once {
        4 => rates::<4>(provider, len, core, seconds)?,
        2 => rates::<2>(provider, len, core, seconds)?,
        _ => rates::<1>(provider, len, core, seconds)?,
    };
    let slower = seal.min(open);
    Ok(Figures::of("seal_gb_per_s", seal)
        .and("open_gb_per_s", open)
        .and("gb_per_s", slower))
}

fn rates<const N: usize>(
    provider: Provider,
    len: usize,
    core: usize,
    seconds: f64,
) -> Result<(f64, f64)> {
    let seal = seal_rate_of::<N>(provider, len, core, seconds / 2.0)?;
    Ok((seal, open_rate_of::<N>(provider, len, core, seconds / 2.0)?))
}

fn nonce(n: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&n.to_be_bytes());
    nonce
}

/// GB/s of sealing from a working set that fits the cache, as many frames a call as lanes take.
pub fn seal_rate(provider: Provider, len: usize, core: usize, seconds: f64) -> Result<f64> {
    match SealKey::new(provider, &[7; 32]).group() {
        4 => seal_rate_of::<4>(provider, len, core, seconds),
        2 => seal_rate_of::<2>(provider, len, core, seconds),
        _ => seal_rate_of::<1>(provider, len, core, seconds),
    }
}

fn seal_rate_of<const N: usize>(
    provider: Provider,
    len: usize,
    core: usize,
    seconds: f64,
) -> Result<f64> {
    pin(core)?;
    let key = SealKey::new(provider, &[7; 32]);
    let plain = vec![3; len];
    let mut outs: [Vec<u8>; N] = std::array::from_fn(|_| vec![0; len + 16]);
    let mut n = 0;
    let bytes = rate(seconds, || {
        for _ in 0..64 / N {
            let nonces: [[u8; 12]; N] = std::array::from_fn(|i| nonce(n + i as u64));
            let outs = outs.each_mut().map(|out| &mut out[..]);
            for sealed in key.seal_group(nonces.each_ref(), [&[0; 24]; N], [&plain; N], outs) {
                sealed?;
            }
            n += N as u64;
        }
        Ok((64 / N * N * len) as f64)
    })?;
    black_box(&outs);
    Ok(bytes / GIGA)
}

/// GB/s of opening, the copy of the ciphertext to where it is opened included.
pub fn open_rate(provider: Provider, len: usize, core: usize, seconds: f64) -> Result<f64> {
    match OpenKey::new(provider, &[7; 32]).group() {
        4 => open_rate_of::<4>(provider, len, core, seconds),
        2 => open_rate_of::<2>(provider, len, core, seconds),
        _ => open_rate_of::<1>(provider, len, core, seconds),
    }
}

fn open_rate_of<const N: usize>(
    provider: Provider,
    len: usize,
    core: usize,
    seconds: f64,
) -> Result<f64> {
    pin(core)?;
    let key = SealKey::new(provider, &[7; 32]);
    let opener = OpenKey::new(provider, &[7; 32]);
    let mut sealed = vec![0; len + 16];
    key.seal(&nonce(0), &[0; 24], &vec![3; len], &mut sealed)?;
    let mut frames: [Vec<u8>; N] = std::array::from_fn(|_| sealed.clone());
    let mut outs: [Vec<u8>; N] = std::array::from_fn(|_| vec![0; len]);
    let bytes = rate(seconds, || {
        for _ in 0..64 / N {
            // Some providers open in place, so each call needs the ciphertext anew.
            for frame in &mut frames {
                frame.copy_from_slice(&sealed);
            }
            let frames = frames.each_mut().map(|frame| &mut frame[..]);
            let outs = outs.each_mut().map(|out| &mut out[..]);
            let zero = nonce(0);
            for opened in opener.open_group([&zero; N], [&[0; 24]; N], frames, outs) {
                opened?;
            }
        }
        Ok((64 / N * N * len) as f64)
    })?;
    Ok(bytes / GIGA)
}

/// GB/s of copying pieces of `len` bytes through a working set of `set` bytes.
pub fn memcpy(len: usize, set: usize, core: usize, seconds: f64) -> Outcome {
    pin(core)?;
    Ok(Figures::of("gb_per_s", copy_rate(len, set, seconds)?))
}

/// As [`memcpy`], on whatever CPU the thread is.
pub fn copy_rate(len: usize, set: usize, seconds: f64) -> Result<f64> {
    let pieces = (set / len).max(1);
    let src = vec![1_u8; pieces * len];
    // Not zeroes, which the kernel would hand out page by page within the measurement.
    let mut dst = vec![2_u8; pieces * len];
    let mut at = 0;
    let per_batch = pieces.min(64);
    let bytes = rate(seconds, || {
        for _ in 0..per_batch {
            let range = at * len..(at + 1) * len;
            dst[range.clone()].copy_from_slice(black_box(&src[range]));
            at = (at + 1) % pieces;
        }
        Ok((per_batch * len) as f64)
    })?;
    black_box(&dst);
    Ok(bytes / GIGA)
}

/// GB/s of copying on `cores` CPUs at once, from and to memory.
pub fn memory_bandwidth(cores: &[usize], seconds: f64) -> Result<f64> {
    on_cores(cores, || {
        copy_rate(SLOT, COLD / cores.len().max(1), seconds)
    })
}

/// Runs `work` on each of `cores` at the same time and adds up the rates.
fn on_cores(cores: &[usize], work: impl Fn() -> Result<f64> + Sync) -> Result<f64> {
    let start = Barrier::new(cores.len());
    let one = |core: usize| -> Result<f64> {
        let pinned = pin(core);
        start.wait();
        pinned?;
        work()
    };
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cores.iter().map(|&c| scope.spawn(move || one(c))).collect();
        let mut sum = 0.0;
        for t in threads {
            sum += t.join().map_err(|_| "a measuring thread panicked")??;
        }
        Ok(sum)
    })
}

/// As [`on_cores`], for work that pins itself.
pub fn on_each(cores: &[usize], work: impl Fn(usize) -> Result<f64> + Sync) -> Result<f64> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .map(|&c| scope.spawn(move || work(c)))
            .collect();
        let mut sum = 0.0;
        for t in threads {
            sum += t.join().map_err(|_| "a measuring thread panicked")??;
        }
        Ok(sum)
    })
}

/// Encodes `m` repair symbols of `k`, and decodes with as many data symbols lost; GB/s of data.
pub fn fec(kernel: Kernel, k: usize, m: usize, len: usize, core: usize, seconds: f64) -> Outcome {
    let Some(fec) = Fec::with_kernel(kernel) else {
        let why = format!("this CPU has no {}", kernel.name());
        return Err(Refusal::Skipped(why));
    };
    pin(core)?;
    let mut data = corpus::random(k * len);
    let mut repair = vec![0; m * len];
    let slot = (k * len) as f64;
    let encode = rate(seconds / 2.0, || {
        fec.encode(k, len, black_box(&data), m, &mut repair);
        Ok(slot)
    })?;
    // The first m symbols are lost; all repair symbols are there.
    let have = Bits96::first(k + m).minus(Bits96::first(m));
    let before = data.clone();
    data[..m * len].fill(0);
    let decode = rate(seconds / 2.0, || {
        fec.decode(k, len, &mut data, &repair, have)?;
        Ok(slot)
    })?;
    if data != before {
        return Err("the erasure code gave other bytes back".into());
    }
    Ok(Figures::of("encode_gb_per_s", encode / GIGA).and("decode_gb_per_s", decode / GIGA))
}

/// Digest of a slot's content, GB/s.
pub fn digest_rate(level: Level, core: usize, seconds: f64) -> Result<f64> {
    pin(core)?;
    let slot = corpus::random(SLOT);
    let bytes = rate(seconds, || {
        black_box(verify::digest(level, black_box(&slot)));
        Ok(SLOT as f64)
    })?;
    Ok(bytes / GIGA)
}

/// The digests of both levels by themselves.
pub fn digests<'a>(core: usize, seconds: f64) -> Vec<Spec<'a>> {
    [Level::Fast, Level::Full]
        .into_iter()
        .map(|level| {
            let params = [("what", "digest alone"), ("level", level.name())];
            let spec = Spec::new(&params, move |_| {
                Ok(Figures::of("gb_per_s", digest_rate(level, core, seconds)?))
            });
            match level {
                Level::Fast => spec.group("digest").baseline("fast"),
                Level::Full => spec.group("digest"),
            }
        })
        .collect()
}

/// Codec x level x corpus.
///
/// # Errors
/// A policy that does not parse.
pub fn compression<'a>(
    policies: &[String],
    corpora: &'a [Corpus],
    core: usize,
    seconds: f64,
) -> Result<Vec<Spec<'a>>> {
    let mut specs = Vec::new();
    for corpus in corpora {
        let params = [("codec", "memcpy"), ("corpus", corpus.name.as_str())];
        let run = move |_: bool| {
            pin(core)?;
            let mb_per_s = copy_rate(SLOT, corpus.bytes.len(), seconds / 2.0)? * 1e3;
            Ok(Figures::of("compress_mb_per_s", mb_per_s)
                .and("decompress_mb_per_s", mb_per_s)
                .and("saved", 1.0))
        };
        let spec = Spec::new(&params, run).group(corpus.name.as_str());
        specs.push(spec.baseline("memcpy"));
    }
    for text in policies {
        let policy: Policy = text.parse().map_err(|e: PolicyError| e.to_string())?;
        if policy == Policy::None {
            return Err("none is no codec".into());
        }
        for corpus in corpora {
            let params = [("codec", text.as_str()), ("corpus", corpus.name.as_str())];
            let run = move |_: bool| codec(policy, &corpus.bytes, core, seconds);
            specs.push(Spec::new(&params, run).group(corpus.name.as_str()));
        }
    }
    Ok(specs)
}

/// Compresses a corpus slot by slot and takes it apart again; what does not pay stays raw, as on a
/// lane.
fn codec(policy: Policy, corpus: &[u8], core: usize, seconds: f64) -> Outcome {
    pin(core)?;
    let mut compressor = Compressor::new(policy);
    let mut decompressor = Decompressor::new();
    let mut room = vec![0; SLOT];
    let slots: Vec<&[u8]> = corpus.chunks(SLOT).collect();
    let mut packed = Vec::with_capacity(slots.len());
    for slot in &slots {
        let packed_slot = compressor.compress(slot, &mut room);
        packed.push(packed_slot.map(|(id, n)| (id, room[..n].to_vec())));
    }
    let after: usize = slots
        .iter()
        .zip(&packed)
        .map(|(raw, p)| p.as_ref().map_or(raw.len(), |(_, b)| b.len()))
        .sum();
    let mut at = 0;
    let compress = rate(seconds / 2.0, || {
        let slot = slots[at];
        at = (at + 1) % slots.len();
        black_box(compressor.compress(slot, &mut room));
        Ok(slot.len() as f64)
    })?;
    let mut figures = Figures::of("compress_mb_per_s", compress / 1e6)
        .and("saved", corpus.len() as f64 / after.max(1) as f64);
    let pairs: Vec<_> = slots
        .iter()
        .zip(&packed)
        .filter_map(|(raw, p)| Some((*raw, p.as_ref()?)))
        .collect();
    if !pairs.is_empty() {
        let mut at = 0;
        let mut out = vec![0; SLOT];
        let bytes = rate(seconds / 2.0, || {
            let (raw, (id, packed)) = pairs[at];
            at = (at + 1) % pairs.len();
            decompressor.decompress(*id, packed, &mut out[..raw.len()])?;
            if out[..raw.len()] != *raw {
                return Err("decompression gave other bytes back".into());
            }
            Ok(raw.len() as f64)
        })?;
        figures = figures.and("decompress_mb_per_s", bytes / 1e6);
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_gives_figures() {
        let seconds = 0.002;
        let scalar = fec(Kernel::Scalar, 8, 2, 64, 0, seconds);
        assert!(scalar.is_ok_and(|f| f.values.len() == 2));
        for p in [Provider::Aegis256x2, Provider::Aegis256] {
            let aegis = aead(p, 64, 0, seconds);
            assert!(aegis.is_ok_and(|f| f.values.len() == 3));
        }
        assert!(digest_rate(Level::Fast, 0, seconds).unwrap() > 0.0);
        let text = corpus::text(2 * SLOT);
        let policy = "zstd:1".parse().unwrap();
        let figures = codec(policy, &text, 0, seconds).ok().unwrap();
        assert!(figures.values["saved"] > 1.5);
        let random = corpus::random(SLOT);
        let figures = codec(policy, &random, 0, seconds).ok().unwrap();
        assert_eq!(figures.values["saved"], 1.0);
        assert!(!figures.values.contains_key("decompress_mb_per_s"));
    }

    #[test]
    fn what_is_no_codec_is_refused() {
        let corpora = corpus::all();
        for bad in ["none", "gzip", "zstd:99"] {
            assert!(compression(&[bad.to_owned()], &corpora, 0, 0.1).is_err());
        }
    }
}
