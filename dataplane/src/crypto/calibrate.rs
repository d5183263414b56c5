//! Which AES-256-GCM provider is fastest on the running CPU, for the symbols of this node, and how
//! fast AEGIS-256X2 and AEGIS-256 are beside it.

use super::aead::{OpenKey, Provider, SealKey, aegis256, aegis256x2};
use crate::base::limits::{FRAME_OVERHEAD, HEADER_LEN, MAX_SYMBOL_LEN, SYMBOL_ALIGN};
use crate::wire::handshake::{SUITE_AEGIS_256, SUITE_AEGIS_256X2, SUITE_AES_256_GCM};
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
    pub aegis_256x2: Speed,
    /// AEGIS-256, two symbols at once where that is how frames are sealed here.
    pub aegis_256: Speed,
}

impl Speed {
    /// Time to seal and open a byte once each, nanoseconds.
    fn time(&self) -> f64 {
        1.0 / self.seal_gbps + 1.0 / self.open_gbps
    }
}

impl Calibration {
    /// The suite that takes the least time to seal and open, `aes_gcm` being what does AES-256-GCM,
    /// among those whose output was right. A suite implies those with lower numbers, so AEGIS-256 is
    /// out of the question where AEGIS-256X2 is wrong.
    pub fn best_suite(&self, aes_gcm: Provider) -> u8 {
        let Some(rival) = self.speeds.iter().find(|s| s.provider == aes_gcm) else {
            return SUITE_AES_256_GCM;
        };
        let (x2, one) = (&self.aegis_256x2, &self.aegis_256);
        if !x2.correct {
            SUITE_AES_256_GCM
        } else if one.correct && one.time() < x2.time().min(rival.time()) {
            SUITE_AEGIS_256
        } else if x2.time() < rival.time() {
            SUITE_AEGIS_256X2
        } else {
            SUITE_AES_256_GCM
        }
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
        Provider::Aegis256,
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
    let [a, b, c, aegis_256x2, aegis_256] = benches.map(|b| Speed {
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
        aegis_256x2,
        aegis_256,
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
    /// The same by AEGIS-256X2 and by AEGIS-256, of the library in one call.
    aegis_references: [Vec<u8>; 2],
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
        let first = &plain[..symbol_len];
        let aegis_references =
            [aegis256x2::seal_in_one_call, aegis256::seal_in_one_call].map(|seal| {
                let mut out = vec![0; reference.len()];
                seal(&KEY, &[0; 12], &AAD, first, &mut out);
                out
            });
        Area {
            symbol_len,
            frames: vec![0; count * (symbol_len + FRAME_OVERHEAD)],
            out: vec![0; plain.len()],
            plain,
            reference,
            aegis_references,
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
        let reference = match provider {
            Provider::Aegis256x2 => &area.aegis_references[0],
            Provider::Aegis256 => &area.aegis_references[1],
            Provider::Ring | Provider::AwsLc | Provider::AesGcm => &area.reference,
        };
        let plain = &area.plain[..area.symbol_len];
        let (sealed, other) = area.frames.split_at_mut(reference.len());
        let resealed = bench.sealer.seal(&nonce(0), &AAD, plain, sealed);
        bench.correct &= resealed.is_ok() && *sealed == reference[..];
        // A batch has room for two frames at every symbol length.
        if bench.sealer.pairs()
            && let Some(other) = other.get_mut(..reference.len())
        {
            for (nonces, at) in [([0, 1], 0), ([1, 0], 1)] {
                let nonces = nonces.map(nonce);
                sealed.fill(0);
                other.fill(0);
                let resealed = bench.sealer.seal_pair(
                    nonces.each_ref(),
                    [&AAD; 2],
                    [plain; 2],
                    [&mut *sealed, &mut *other],
                );
                bench.correct &=
                    resealed.iter().all(Result::is_ok) && [&*sealed, &*other][at] == &reference[..];
            }
        }
        (bench.seal, bench.open) = (Duration::MAX, Duration::MAX);
        bench
    }

    /// Seals and opens the area once.
    fn round(&mut self, area: &mut Area) {
        let len = area.symbol_len;
        let stride = len + FRAME_OVERHEAD;
        area.out.fill(0);
        let start = Instant::now();
        let frames = area.frames.chunks_mut(2 * stride);
        for (i, (plains, frames)) in area.plain.chunks(2 * len).zip(frames).enumerate() {
            let nonces = [2 * i, 2 * i + 1].map(nonce);
            let (a, b) = frames.split_at_mut(stride);
            let (x, y) = plains.split_at(len);
            if self.sealer.pairs() && b.len() == stride {
                let outs = [&mut a[HEADER_LEN..], &mut b[HEADER_LEN..]];
                let sealed = self
                    .sealer
                    .seal_pair(nonces.each_ref(), [&AAD; 2], [x, y], outs);
                self.correct &= sealed.iter().all(Result::is_ok);
                continue;
            }
            for ((nonce, plain), frame) in nonces.iter().zip([x, y]).zip([a, b]) {
                let Some(out) = frame.get_mut(HEADER_LEN..) else {
                    break;
                };
                self.correct &= self.sealer.seal(nonce, &AAD, plain, out).is_ok();
            }
        }
        let sealed = Instant::now();
        let frames = area.frames.chunks_mut(2 * stride);
        for (i, (outs, frames)) in area.out.chunks_mut(2 * len).zip(frames).enumerate() {
            let nonces = [2 * i, 2 * i + 1].map(nonce);
            let (a, b) = frames.split_at_mut(stride);
            let (x, y) = outs.split_at_mut(len);
            if self.opener.pairs() && b.len() == stride {
                let sealed = [&mut a[HEADER_LEN..], &mut b[HEADER_LEN..]];
                let opened = self
                    .opener
                    .open_pair(nonces.each_ref(), [&AAD; 2], sealed, [x, y]);
                self.correct &= opened.iter().all(Result::is_ok);
                continue;
            }
            for ((nonce, out), frame) in nonces.iter().zip([x, y]).zip([a, b]) {
                let Some(sealed) = frame.get_mut(HEADER_LEN..) else {
                    break;
                };
                self.correct &= self.opener.open(nonce, &AAD, sealed, out).is_ok();
            }
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
            assert_eq!(c.aegis_256x2.provider, Provider::Aegis256x2);
            assert_eq!(c.aegis_256.provider, Provider::Aegis256);
            for aegis in [&c.aegis_256x2, &c.aegis_256] {
                assert!(aegis.correct, "{}", aegis.provider);
                assert!(aegis.seal_gbps > 0.0 && aegis.open_gbps > 0.0);
            }
        }
    }

    #[test]
    fn a_wrong_reference_convicts_every_provider() {
        let mut area = Area::new(64, 2);
        area.reference[5] ^= 1;
        for provider in Provider::ALL {
            assert!(!Bench::new(provider, &mut area).correct);
        }
        for (i, provider) in [Provider::Aegis256x2, Provider::Aegis256]
            .into_iter()
            .enumerate()
        {
            assert!(Bench::new(provider, &mut area).correct);
            area.aegis_references[i][5] ^= 1;
            assert!(!Bench::new(provider, &mut area).correct);
        }
    }

    #[test]
    fn the_suite_that_is_right_and_fastest_is_best() {
        use Provider::{AwsLc, Ring};
        let mut c = calibrate(64, Duration::ZERO);
        let set = |s: &mut Speed, gbps: f64| (s.seal_gbps, s.open_gbps) = (gbps, gbps);
        for s in &mut c.speeds {
            set(s, 2.0);
        }
        set(&mut c.speeds[0], 9.0);
        for (x2, one, best) in [
            (1.5, 1.9, SUITE_AES_256_GCM),
            (1.9, 1.5, SUITE_AES_256_GCM),
            (3.0, 2.5, SUITE_AEGIS_256X2),
            (2.5, 3.0, SUITE_AEGIS_256),
            (1.5, 3.0, SUITE_AEGIS_256),
            (3.0, 3.0, SUITE_AEGIS_256X2),
        ] {
            set(&mut c.aegis_256x2, x2);
            set(&mut c.aegis_256, one);
            assert_eq!(c.best_suite(AwsLc), best, "{x2} {one}");
            assert_eq!(c.best_suite(Ring), SUITE_AES_256_GCM);
            assert_eq!(c.best_suite(Provider::Aegis256x2), SUITE_AES_256_GCM);
        }
        set(&mut c.aegis_256x2, 4.0);
        set(&mut c.aegis_256, 5.0);
        c.aegis_256.correct = false;
        assert_eq!(c.best_suite(AwsLc), SUITE_AEGIS_256X2);
        (c.aegis_256.correct, c.aegis_256x2.correct) = (true, false);
        assert_eq!(c.best_suite(AwsLc), SUITE_AES_256_GCM);
    }
}
