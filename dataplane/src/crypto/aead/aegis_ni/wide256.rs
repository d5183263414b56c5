//! AEGIS-256 with VAES in registers of 256 bits, for CPUs without AVX-512: two to four messages of the
//! same length at once.
//!
//! As [`wide`](super::wide), with a block of two messages in a register, and one or two sets of them.

// The index of a message or of a set counts in several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::super::NONCE_LEN;
use super::plain::{lengthened, load_header};
use super::wide::{LANES, first};
use super::{C0, C1, load, padded, store};
use crate::base::limits::TAG_LEN;
use std::arch::x86_64::{
    __m128i, __m256i, _mm_set_epi64x, _mm_setzero_si128, _mm_xor_si128, _mm256_aesenc_epi128,
    _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_permute2x128_si256, _mm256_set_m128i,
    _mm256_setzero_si256, _mm256_storeu_si256, _mm256_xor_si256,
};

/// Bytes of each message that are loaded, and stored, at once.
const STEP: usize = 32;

/// Proof that this CPU has what these functions are compiled for.
#[derive(Clone, Copy, Debug)]
pub(in crate::crypto::aead) struct Wide256(());

impl Wide256 {
    /// `None` where instructions are missing.
    pub(super) fn detect() -> Option<Wide256> {
        let all = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("vaes");
        all.then_some(Wide256(()))
    }

    /// As [`Wide::seal`](super::wide::Wide::seal).
    #[inline]
    pub(super) fn seal(
        self,
        key: &[u8; 32],
        nonces: &[&[u8; NONCE_LEN]],
        aads: &[&[u8]],
        plains: &[&[u8]],
        texts: &mut [&mut [u8]],
    ) -> [[u8; TAG_LEN]; LANES] {
        // SAFETY: `self` exists only where `detect` found all features.
        unsafe { seal(key, nonces, aads, plains, texts) }
    }

    /// As [`Wide::open`](super::wide::Wide::open).
    #[inline]
    pub(super) fn open(
        self,
        key: &[u8; 32],
        nonces: &[&[u8; NONCE_LEN]],
        aads: &[&[u8]],
        texts: &[&[u8]],
        outs: &mut [&mut [u8]],
    ) -> [[u8; TAG_LEN]; LANES] {
        // SAFETY: `self` exists only where `detect` found all features.
        unsafe { open(key, nonces, aads, texts, outs) }
    }
}

/// A block of each of `2 * W` messages.
type Blocks<const W: usize> = [__m256i; W];

/// A block of each of `N` messages; the first one's where there is one too few.
#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn gather<const N: usize, const W: usize>(blocks: [__m128i; N]) -> Blocks<W> {
    let mut all = [_mm256_setzero_si256(); W];
    for w in 0..W {
        let odd = if 2 * w + 1 < N { 2 * w + 1 } else { 0 };
        all[w] = _mm256_set_m128i(blocks[odd], blocks[2 * w]);
    }
    all
}

/// The block of message `i`.
#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn block<const W: usize>(all: &Blocks<W>, i: usize) -> __m128i {
    match i % 2 {
        0 => _mm256_castsi256_si128(all[i / 2]),
        _ => _mm256_extracti128_si256::<1>(all[i / 2]),
    }
}

#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn load_step(bytes: &[u8; STEP]) -> __m256i {
    // SAFETY: reads the 32 bytes of the reference; the unaligned form takes any address.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn store_step(bytes: &mut [u8; STEP], value: __m256i) {
    // SAFETY: writes the 32 bytes of the reference; the unaligned form takes any address.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
}

/// The first blocks of two registers, and the second ones. Its own inverse.
#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn transpose(a: __m256i, b: __m256i) -> (__m256i, __m256i) {
    (
        _mm256_permute2x128_si256::<0x20>(a, b),
        _mm256_permute2x128_si256::<0x31>(a, b),
    )
}

#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn xor(a: __m256i, b: __m256i) -> __m256i {
    _mm256_xor_si256(a, b)
}

/// The states of two messages.
#[derive(Clone, Copy)]
struct Pair([__m256i; 6]);

impl Pair {
    /// The update, where `first` is the first block combined with what is taken in.
    #[inline]
    #[target_feature(enable = "aes,avx2,vaes")]
    fn update_with(&mut self, first: __m256i) {
        let s = &mut self.0;
        let last = s[5];
        s[5] = _mm256_aesenc_epi128(s[4], s[5]);
        s[4] = _mm256_aesenc_epi128(s[3], s[4]);
        s[3] = _mm256_aesenc_epi128(s[2], s[3]);
        s[2] = _mm256_aesenc_epi128(s[1], s[2]);
        s[1] = _mm256_aesenc_epi128(s[0], s[1]);
        s[0] = _mm256_aesenc_epi128(last, first);
    }

    /// Takes in a block of each message and returns its counterpart.
    #[inline]
    #[target_feature(enable = "aes,avx2,vaes")]
    fn crypt<const OPEN: bool>(&mut self, x: __m256i) -> __m256i {
        let s = &self.0;
        let one = xor(xor(x, s[1]), s[4]);
        let other = xor(s[5], _mm256_and_si256(s[2], s[3]));
        let y = xor(one, other);
        let first = match OPEN {
            true => xor(xor(s[0], one), other),
            false => xor(s[0], x),
        };
        self.update_with(first);
        y
    }
}

/// The states of `2 * W` messages under one key, which never mix.
#[derive(Clone, Copy)]
struct States<const W: usize>([Pair; W]);

impl<const W: usize> States<W> {
    #[inline]
    #[target_feature(enable = "aes,avx2,vaes")]
    fn new<const N: usize>(key: &[u8; 32], nonces: [(__m128i, __m128i); N]) -> States<W> {
        let [k0, k1] = padded(key);
        let (k0, k1) = (load(&k0), load(&k1));
        let (c0, c1) = (load(&C0), load(&C1));
        let zero = _mm_setzero_si128();
        let (mut n0, mut n1) = ([zero; N], [zero; N]);
        for i in 0..N {
            n0[i] = _mm_xor_si128(nonces[i].0, k0);
            n1[i] = _mm_xor_si128(nonces[i].1, k1);
        }
        let (kn0, kn1) = (gather::<N, W>(n0), gather::<N, W>(n1));
        let all = |x| _mm256_broadcastsi128_si256(x);
        let mut states = States([Pair([_mm256_setzero_si256(); 6]); W]);
        for w in 0..W {
            states.0[w] = Pair([
                kn0[w],
                kn1[w],
                all(c1),
                all(c0),
                all(_mm_xor_si128(k0, c0)),
                all(_mm_xor_si128(k1, c1)),
            ]);
        }
        for _ in 0..4 {
            for m in [[all(k0); W], [all(k1); W], kn0, kn1] {
                states.update(m);
            }
        }
        states
    }

    #[inline]
    #[target_feature(enable = "aes,avx2,vaes")]
    fn update(&mut self, m: Blocks<W>) {
        for w in 0..W {
            let s = &mut self.0[w];
            s.update_with(xor(s.0[0], m[w]));
        }
    }

    /// Takes in associated data that is no header: any length, the same for each.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "aes,avx2,vaes")]
    fn absorb<const N: usize>(mut self, aads: [&[u8]; N]) -> States<W> {
        for at in (0..aads[0].len()).step_by(16) {
            let end = (at + 16).min(aads[0].len());
            let mut m = [_mm_setzero_si128(); N];
            for i in 0..N {
                m[i] = load(&padded::<1>(&aads[i][at..end])[0]);
            }
            self.update(gather(m));
        }
        self
    }

    /// Takes in the fewer than 32 bytes of text that are left, and writes their counterparts.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "aes,avx2,vaes")]
    fn rest<const N: usize, const OPEN: bool>(
        mut self,
        ins: [&[u8]; N],
        outs: [&mut [u8]; N],
    ) -> States<W> {
        for at in (0..ins[0].len()).step_by(16) {
            let end = (at + 16).min(ins[0].len());
            let mut m = [_mm_setzero_si128(); N];
            for i in 0..N {
                m[i] = load(&padded::<1>(&ins[i][at..end])[0]);
            }
            // What a copy of the state gives for the text is the text's counterpart.
            let mut y: Blocks<W> = gather(m);
            for w in 0..W {
                let mut copy = self.0[w];
                y[w] = copy.crypt::<false>(y[w]);
            }
            for i in 0..N {
                let mut last = [0; 16];
                store(&mut last, block(&y, i));
                outs[i][at..end].copy_from_slice(&last[..end - at]);
                if OPEN {
                    // The state takes in the text padded with zeros, not with key stream.
                    last[end - at..].fill(0);
                    m[i] = load(&last);
                }
            }
            self.update(gather(m));
        }
        self
    }

    #[inline]
    #[target_feature(enable = "aes,avx2,vaes")]
    fn tags<const N: usize>(mut self, aad_len: usize, text_len: usize) -> [[u8; TAG_LEN]; LANES] {
        // Lengths in bits; frames are far shorter than 2^60 bytes.
        let lengths = _mm_set_epi64x((text_len as i64) << 3, (aad_len as i64) << 3);
        let mut m = [_mm256_broadcastsi128_si256(lengths); W];
        for w in 0..W {
            m[w] = xor(m[w], self.0[w].0[3]);
        }
        for _ in 0..7 {
            self.update(m);
        }
        for w in 0..W {
            let s = &self.0[w].0;
            m[w] = xor(xor(xor(s[0], s[1]), s[2]), xor(xor(s[3], s[4]), s[5]));
        }
        let mut tags = [[0; TAG_LEN]; LANES];
        for i in 0..N {
            store(&mut tags[i], block(&m, i));
        }
        tags
    }
}

// These two are not generic, for the reason that `plain` gives.

#[target_feature(enable = "aes,avx2,vaes")]
fn seal(
    key: &[u8; 32],
    nonces: &[&[u8; NONCE_LEN]],
    aads: &[&[u8]],
    plains: &[&[u8]],
    texts: &mut [&mut [u8]],
) -> [[u8; TAG_LEN]; LANES] {
    match plains.len() {
        2 => crypt::<2, 1, false>(key, nonces, aads, plains, texts),
        3 => crypt::<3, 2, false>(key, nonces, aads, plains, texts),
        _ => crypt::<4, 2, false>(key, nonces, aads, plains, texts),
    }
}

#[target_feature(enable = "aes,avx2,vaes")]
fn open(
    key: &[u8; 32],
    nonces: &[&[u8; NONCE_LEN]],
    aads: &[&[u8]],
    texts: &[&[u8]],
    outs: &mut [&mut [u8]],
) -> [[u8; TAG_LEN]; LANES] {
    match texts.len() {
        2 => crypt::<2, 1, true>(key, nonces, aads, texts, outs),
        3 => crypt::<3, 2, true>(key, nonces, aads, texts, outs),
        _ => crypt::<4, 2, true>(key, nonces, aads, texts, outs),
    }
}

/// [`with_nonces`] with the nonces of lanes.
///
/// # Panics
/// If there are not `N` of everything, as `seal` and `open` demand of their callers.
#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn crypt<const N: usize, const W: usize, const OPEN: bool>(
    key: &[u8; 32],
    nonces: &[&[u8; NONCE_LEN]],
    aads: &[&[u8]],
    ins: &[&[u8]],
    outs: &mut [&mut [u8]],
) -> [[u8; TAG_LEN]; LANES] {
    let (nonces, aads) = (*first::<_, N>(nonces), *first(aads));
    let outs: &mut [_; N] = outs.first_chunk_mut().expect("an output for each message");
    let outs = outs.each_mut().map(|out| &mut **out);
    with_nonces::<N, W, OPEN>(key, lengthened(nonces), aads, *first(ins), outs)
}

/// Both directions: they differ in which side of the exclusive-or is the text that the state takes in.
#[inline]
#[target_feature(enable = "aes,avx2,vaes")]
fn with_nonces<const N: usize, const W: usize, const OPEN: bool>(
    key: &[u8; 32],
    nonces: [(__m128i, __m128i); N],
    aads: [&[u8]; N],
    ins: [&[u8]; N],
    outs: [&mut [u8]; N],
) -> [[u8; TAG_LEN]; LANES] {
    let zero = _mm_setzero_si128();
    let (len, aad_len) = (ins[0].len(), aads[0].len());
    let mut states = States::<W>::new(key, nonces);
    let mut header = [[zero; N]; 2];
    let mut headers = 0;
    for i in 0..N {
        if let Some((head, tail)) = load_header(aads[i]) {
            (header[0][i], header[1][i]) = (head, tail);
            headers += 1;
        }
    }
    if headers == N {
        states.update(gather(header[0]));
        states.update(gather(header[1]));
    } else {
        states = states.absorb(aads);
    }
    let whole = len / STEP;
    let mut from: [&[[u8; STEP]]; N] = [&[]; N];
    let mut to: [&mut [[u8; STEP]]; N] = std::array::from_fn(|_| Default::default());
    let mut rests: [&mut [u8]; N] = std::array::from_fn(|_| Default::default());
    for (i, out) in outs.into_iter().enumerate() {
        from[i] = &ins[i].as_chunks().0[..whole];
        let (steps, rest) = out[..len].split_at_mut(whole * STEP);
        (to[i], rests[i]) = (&mut steps.as_chunks_mut().0[..whole], rest);
    }
    // A copy that nothing has the address of, so that it stays in registers.
    let mut copy = states;
    for at in 0..whole {
        let mut x = [(_mm256_setzero_si256(), _mm256_setzero_si256()); W];
        for w in 0..W {
            let odd = if 2 * w + 1 < N { 2 * w + 1 } else { 0 };
            x[w] = transpose(load_step(&from[2 * w][at]), load_step(&from[odd][at]));
        }
        for w in 0..W {
            x[w].0 = copy.0[w].crypt::<OPEN>(x[w].0);
        }
        for w in 0..W {
            x[w].1 = copy.0[w].crypt::<OPEN>(x[w].1);
        }
        for w in 0..W {
            let (a, b) = transpose(x[w].0, x[w].1);
            store_step(&mut to[2 * w][at], a);
            if 2 * w + 1 < N {
                store_step(&mut to[2 * w + 1][at], b);
            }
        }
    }
    states = copy;
    if len > whole * STEP {
        let mut tails = ins;
        for tail in &mut tails {
            *tail = &tail[whole * STEP..len];
        }
        states = states.rest::<N, OPEN>(tails, rests);
    }
    states.tags::<N>(aad_len, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::aegis::aegis256::Aegis256;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn two_to_four_at_once_equal_libaegis(
            key: [u8; 32],
            nonces: [[u8; NONCE_LEN]; 4],
            (aads, plains) in (
                prop_oneof![Just(24), 0usize..100],
                prop_oneof![Just(1408), 0usize..300],
            ).prop_flat_map(|(a, p)| {
                let bytes = |n| proptest::collection::vec(any::<u8>(), n);
                (
                    proptest::collection::vec(bytes(a), 4),
                    proptest::collection::vec(bytes(p), 4),
                )
            }),
        ) {
            let Some(wide) = Wide256::detect() else { return Ok(()) };
            let expected: Vec<_> = (0..4)
                .map(|i| {
                    let mut long = [0; 32];
                    long[..NONCE_LEN].copy_from_slice(&nonces[i]);
                    Aegis256::<TAG_LEN>::new(&key, &long).encrypt(&plains[i], &aads[i])
                })
                .collect();
            for n in 2..=4 {
                let nonces: Vec<_> = nonces[..n].iter().collect();
                let aads: Vec<_> = aads[..n].iter().map(|a| &a[..]).collect();
                let ins: Vec<_> = plains[..n].iter().map(|p| &p[..]).collect();
                let blank = || -> Vec<_> { plains[..n].iter().map(|p| vec![0xEE; p.len()]).collect() };
                let mut texts = blank();
                let mut outs: Vec<_> = texts.iter_mut().map(|t| &mut t[..]).collect();
                let tags = wide.seal(&key, &nonces, &aads, &ins, &mut outs);
                prop_assert!(tags[n..].iter().all(|t| *t == [0; TAG_LEN]));
                let sealed: Vec<_> = texts.iter().cloned().zip(tags).collect();
                prop_assert_eq!(&sealed[..], &expected[..n]);
                let ins: Vec<_> = texts.iter().map(|t| &t[..]).collect();
                let mut opened = blank();
                let mut outs: Vec<_> = opened.iter_mut().map(|t| &mut t[..]).collect();
                prop_assert_eq!(wide.open(&key, &nonces, &aads, &ins, &mut outs), tags);
                prop_assert_eq!(&opened[..], &plains[..n]);
            }
        }
    }
}
