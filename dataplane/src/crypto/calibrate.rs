//! Which AES-256-GCM provider is fastest on the running CPU, for the symbols of this node, and how
//! fast AEGIS-256X2 is beside it.

use super::aead::{OpenKey, Provider, SealKey, aegis256x2};
use crate::base::limits::{FRAME_OVERHEAD, HEADER_LEN, MAX_SYMBOL_LEN, SYMBOL_ALIGN};
use std::time::{Duration, Instant};

/// Bytes of symbols that one measurement seals or opens: within L2, as on the data path.
const BATCH_BYTES: usize = 64 << 10;
/// Most symbols in one measurement.
const MAX_BATCH: usize = 256;
/// Rounds that are run even if the budget is over.
const MIN_ROUNDS: u32 = 3;

/// What one provider did in a [`Calibration`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// The provider.
    pub provider: Provider,
    /// Symbol to frame, GB/s (1e9 bytes of payload a second) of the fastest round.
    pub seal_gbps: f64,
    /// Frame to symbol, GB/s of the fastest round.
    pub open_gbps: f64,
    /// Whether its output was right; a provider whose output was wrong is never chosen.
    pub correct: bool,
}

/// The result of [`calibrate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The AES-256-GCM provider with the lowest time to seal and open a symbol once each.
    pub provider: Provider,
    /// Symbol length measured, bytes.
    pub symbol_len: usize,
    /// Rounds measured.
    pub rounds: u32,
    /// All providers of AES-256-GCM, in the order of [`Provider::ALL`].
    pub speeds: [Speed; Provider::ALL.len()],
    /// AEGIS-256X2.
    pub aegis: Speed,
}

impl Speed {
    /// Time to seal and open a byte once each, nanoseconds.
    fn time(&self) -> f64 {
        1.0 / self.seal_gbps + 1.0 / self.open_gbps
    }
}

impl Calibration {
    /// Whether AEGIS-256X2 is right and takes less time to seal and open than `aes_gcm` does.
    pub fn aegis_beats(&self, aes_gcm: Provider) -> bool {
        let rival = self.speeds.iter().find(|s| s.provider == aes_gcm);
        self.aegis.correct && rival.is_some_and(|r| self.aegis.time() < r.time())
    }
}

/// One provider under measurement.
struct Bench {
    provider: Provider,
    sealer: SealKey,
    opener: OpenKey,
    correct: bool,
    seal: Duration,
    open: Duration,
}

/// Measures every provider on symbols of `symbol_len` bytes (brought to a multiple of 64 within
/// 64 to [`MAX_SYMBOL_LEN`]) for about `budget`, and at least three rounds. 5 ms is enough.
///
/// Providers take turns within each round and each keeps its fastest one, so an interruption or a
/// change of clock speed harms no single provider. Frames lie as on the wire, packed, with the
/// payload 24 bytes into each. Every output is compared with the reference provider's. If no provider
/// but the reference is correct, the reference is chosen.
///
/// Reads the clock and allocates: for start-up only.
pub fn calibrate(symbol_len: usize, budget: Duration) -> Calibration {
    let symbol_len = symbol_len
        .clamp(SYMBOL_ALIGN, MAX_SYMBOL_LEN)
        .next_multiple_of(SYMBOL_ALIGN);
    let count = (BATCH_BYTES / symbol_len).clamp(1, MAX_BATCH);
    let mut area = Area::new(symbol_len, count);
    let aes_gcm = Provider::ALL.len();
    let mut benches = [
        Provider::Ring,
        Provider::AwsLc,
        Provider::AesGcm,
        Provider::Aegis256x2,
    ]
    .map(|provider| Bench::new(provider, &mut area));

    let start = Instant::now();
    let mut rounds = 0;
    while rounds < MIN_ROUNDS || start.elapsed() < budget {
        for turn in 0..benches.len() {
            let at = (turn + rounds as usize) % benches.len();
            benches[at].round(&mut area);
        }
        rounds += 1;
    }

    let chosen = benches[..aes_gcm]
        .iter()
        .filter(|b| b.correct)
        .min_by_key(|b| b.seal + b.open);
    let provider = chosen.map_or(Provider::AesGcm, |b| b.provider);
    let [a, b, c, aegis] = benches.map(|b| Speed {
        provider: b.provider,
        seal_gbps: gbps(count * symbol_len, b.seal),
        open_gbps: gbps(count * symbol_len, b.open),
        correct: b.correct,
    });
    Calibration {
        provider,
        symbol_len,
        rounds,
        speeds: [a, b, c],
        aegis,
    }
}

fn gbps(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_nanos().max(1) as f64
}

/// Symbols to seal, frames to seal them into, and symbols to open those into.
struct Area {
    symbol_len: usize,
    plain: Vec<u8>,
    frames: Vec<u8>,
    out: Vec<u8>,
    /// The first symbol sealed by the reference provider, with nonce zero.
    reference: Vec<u8>,
    /// The same by AEGIS-256X2 in one call.
    aegis_reference: Vec<u8>,
}

const KEY: [u8; 32] = [0x96; 32];
const AAD: [u8; HEADER_LEN] = [0x69; HEADER_LEN];

impl Area {
    fn new(symbol_len: usize, count: usize) -> Area {
        let plain: Vec<u8> = (0..count * symbol_len)
            .map(|i| (i * 31 + (i >> 8)) as u8)
            .collect();
        let mut reference = vec![0; symbol_len + FRAME_OVERHEAD - HEADER_LEN];
        let key = SealKey::new(Provider::AesGcm, &KEY);
        // A failure leaves zeros, with which no provider's output agrees.
        let _ = key.seal(&[0; 12], &AAD, &plain[..symbol_len], &mut reference);
        let mut aegis_reference = vec![0; reference.len()];
        let first = &plain[..symbol_len];
        aegis256x2::seal_in_one_call(&KEY, &[0; 12], &AAD, first, &mut aegis_reference);
        Area {
            symbol_len,
            frames: vec![0; count * (symbol_len + FRAME_OVERHEAD)],
            out: vec![0; plain.len()],
            plain,
            reference,
            aegis_reference,
        }
    }
}

fn nonce(symbol: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&(symbol as u64).to_be_bytes());
    nonce
}

impl Bench {
    fn new(provider: Provider, area: &mut Area) -> Bench {
        let mut bench = Bench {
            provider,
            sealer: SealKey::new(provider, &KEY),
            opener: OpenKey::new(provider, &KEY),
            correct: true,
            seal: Duration::MAX,
            open: Duration::MAX,
        };
        // Checks the provider and warms its code; the times do not count.
        bench.round(area);
        let sealed = &mut area.frames[HEADER_LEN..area.symbol_len + FRAME_OVERHEAD];
        let resealed = bench
            .sealer
            .seal(&nonce(0), &AAD, &area.plain[..area.symbol_len], sealed);
        let reference = match provider {
            Provider::Aegis256x2 => &area.aegis_reference,
            Provider::Ring | Provider::AwsLc | Provider::AesGcm => &area.reference,
        };
        bench.correct &= resealed.is_ok() && *sealed == reference[..];
        (bench.seal, bench.open) = (Duration::MAX, Duration::MAX);
        bench
    }

    /// Seals and opens the area once.
    fn round(&mut self, area: &mut Area) {
        let len = area.symbol_len;
        let stride = len + FRAME_OVERHEAD;
        area.out.fill(0);
        let start = Instant::now();
        let frames = area.frames.chunks_exact_mut(stride);
        for (i, (plain, frame)) in area.plain.chunks_exact(len).zip(frames).enumerate() {
            let sealed = self
                .sealer
                .seal(&nonce(i), &AAD, plain, &mut frame[HEADER_LEN..]);
            self.correct &= sealed.is_ok();
        }
        let sealed = Instant::now();
        let frames = area.frames.chunks_exact_mut(stride);
        for (i, (out, frame)) in area.out.chunks_exact_mut(len).zip(frames).enumerate() {
            let opened = self
                .opener
                .open(&nonce(i), &AAD, &mut frame[HEADER_LEN..], out);
            self.correct &= opened.is_ok();
        }
        let opened = Instant::now();
        self.seal = self.seal.min(sealed - start);
        self.open = self.open.min(opened - sealed);
        self.correct &= area.out == area.plain;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_is_measured_and_correct_and_the_least_time_wins() {
        for (asked, measured) in [
            (0, 64),
            (1400, 1408),
            (8896, 8896),
            (usize::MAX, MAX_SYMBOL_LEN),
        ] {
            let c = calibrate(asked, Duration::ZERO);
            assert_eq!(c.symbol_len, measured);
            assert_eq!(c.rounds, MIN_ROUNDS);
            let chosen = c.speeds.iter().find(|s| s.provider == c.provider).unwrap();
            for (speed, provider) in c.speeds.iter().zip(Provider::ALL) {
                assert_eq!(speed.provider, provider);
                assert!(speed.correct, "{provider}");
                assert!(speed.seal_gbps > 0.0 && speed.open_gbps > 0.0);
                assert!(chosen.time() <= speed.time() * 1.000_001);
            }
            assert_eq!(c.aegis.provider, Provider::Aegis256x2);
            assert!(c.aegis.correct && c.aegis.seal_gbps > 0.0 && c.aegis.open_gbps > 0.0);
        }
    }

    #[test]
    fn a_wrong_reference_convicts_every_provider() {
        let mut area = Area::new(64, 2);
        area.reference[5] ^= 1;
        for provider in Provider::ALL {
            assert!(!Bench::new(provider, &mut area).correct);
        }
        assert!(Bench::new(Provider::Aegis256x2, &mut area).correct);
        area.aegis_reference[5] ^= 1;
        assert!(!Bench::new(Provider::Aegis256x2, &mut area).correct);
    }

    #[test]
    fn aegis_is_preferred_only_when_it_is_right_and_faster() {
        let mut c = calibrate(64, Duration::ZERO);
        for s in &mut c.speeds {
            (s.seal_gbps, s.open_gbps) = (2.0, 2.0);
        }
        (c.aegis.seal_gbps, c.aegis.open_gbps) = (4.0, 1.5);
        assert!(c.aegis_beats(Provider::AwsLc));
        c.speeds[0].open_gbps = 9.0;
        assert!(c.aegis_beats(Provider::AwsLc) && !c.aegis_beats(Provider::Ring));
        assert!(!c.aegis_beats(Provider::Aegis256x2));
        c.aegis.correct = false;
        assert!(!c.aegis_beats(Provider::AwsLc));
    }
}
