//! Which AES-256-GCM provider is fastest on the running CPU, for the symbols of this node, and how
//! fast AEGIS-256X2 and AEGIS-256 are beside it.

use super::aead::{MAX_GROUP, OpenKey, Provider, SealKey, aegis256, aegis256x2};
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
    /// AEGIS-256, as many symbols at once as lanes take on this CPU.
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

/// Whether symbols that are sealed `N` at once come out as `reference`, whatever place they have.
fn groups_are_right<const N: usize>(
    sealer: &SealKey,
    plain: &[u8],
    frames: &mut [u8],
    reference: &[u8],
) -> bool {
    (0..N).all(|at| {
        let nonces: [[u8; 12]; N] = std::array::from_fn(|i| nonce(usize::from(i != at)));
        frames.fill(0);
        let mut places = frames.chunks_exact_mut(reference.len());
        // A batch has room for seven frames at every symbol length.
        let outs: [&mut [u8]; N] = std::array::from_fn(|_| places.next().unwrap_or_default());
        let sealed = sealer.seal_group(nonces.each_ref(), [&AAD; N], [plain; N], outs);
        let frame = frames.chunks_exact(reference.len()).nth(at);
        sealed.iter().all(Result::is_ok) && frame == Some(reference)
    })
}

/// Seals the first `N` symbols of `plain`, the batch's from `at` on, to the first frames of `frames`.
fn seal_some<const N: usize>(
    sealer: &SealKey,
    at: usize,
    len: usize,
    plain: &[u8],
    frames: &mut [u8],
) -> bool {
    let nonces: [[u8; 12]; N] = std::array::from_fn(|i| nonce(at + i));
    let mut frames = frames.chunks_mut(len + FRAME_OVERHEAD);
    let outs: [&mut [u8]; N] = std::array::from_fn(|_| {
        frames
            .next()
            .map(|f| &mut f[HEADER_LEN..])
            .unwrap_or_default()
    });
    let plains = std::array::from_fn(|i| &plain[i * len..(i + 1) * len]);
    let sealed = sealer.seal_group(nonces.each_ref(), [&AAD; N], plains, outs);
    sealed.iter().all(Result::is_ok)
}

/// The other way round.
fn open_some<const N: usize>(
    opener: &OpenKey,
    at: usize,
    len: usize,
    frames: &mut [u8],
    out: &mut [u8],
) -> bool {
    let nonces: [[u8; 12]; N] = std::array::from_fn(|i| nonce(at + i));
    let mut frames = frames.chunks_mut(len + FRAME_OVERHEAD);
    let sealed: [&mut [u8]; N] = std::array::from_fn(|_| {
        frames
            .next()
            .map(|f| &mut f[HEADER_LEN..])
            .unwrap_or_default()
    });
    let mut outs = out.chunks_mut(len);
    let outs = std::array::from_fn(|_| outs.next().unwrap_or_default());
    let opened = opener.open_group(nonces.each_ref(), [&AAD; N], sealed, outs);
    opened.iter().all(Result::is_ok)
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
        let sealed = &mut area.frames[..reference.len()];
        let resealed = bench.sealer.seal(&nonce(0), &AAD, plain, sealed);
        bench.correct &= resealed.is_ok() && *sealed == reference[..];
        let frames = &mut area.frames[..];
        bench.correct &= match bench.sealer.group() {
            MAX_GROUP => {
                groups_are_right::<2>(&bench.sealer, plain, frames, reference)
                    && groups_are_right::<3>(&bench.sealer, plain, frames, reference)
                    && groups_are_right::<4>(&bench.sealer, plain, frames, reference)
            }
            2 => groups_are_right::<2>(&bench.sealer, plain, frames, reference),
            _ => true,
        };
        (bench.seal, bench.open) = (Duration::MAX, Duration::MAX);
        bench
    }

    /// Seals and opens the area once.
    fn round(&mut self, area: &mut Area) {
        let len = area.symbol_len;
        let stride = len + FRAME_OVERHEAD;
        area.out.fill(0);
        let count = area.plain.len() / len;
        let (most, mut at) = (self.sealer.group(), 0);
        let start = Instant::now();
        while at < count {
            let (plain, frames) = (&area.plain[at * len..], &mut area.frames[at * stride..]);
            let n = most.min(count - at);
            self.correct &= match n {
                4 => seal_some::<4>(&self.sealer, at, len, plain, frames),
                3 => seal_some::<3>(&self.sealer, at, len, plain, frames),
                2 => seal_some::<2>(&self.sealer, at, len, plain, frames),
                _ => seal_some::<1>(&self.sealer, at, len, plain, frames),
            };
            at += n;
        }
        let sealed = Instant::now();
        at = 0;
        while at < count {
            let (frames, out) = (&mut area.frames[at * stride..], &mut area.out[at * len..]);
            let n = most.min(count - at);
            self.correct &= match n {
                4 => open_some::<4>(&self.opener, at, len, frames, out),
                3 => open_some::<3>(&self.opener, at, len, frames, out),
                2 => open_some::<2>(&self.opener, at, len, frames, out),
                _ => open_some::<1>(&self.opener, at, len, frames, out),
            };
            at += n;
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
        // Room for the largest group.
        let mut area = Area::new(64, MAX_GROUP);
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
