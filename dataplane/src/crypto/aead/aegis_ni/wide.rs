//! AEGIS-256 with VAES and AVX-512: two to four messages of the same length at once.
//!
//! A register holds the same block of the state of each message, so six instructions are the update
//! of all of them, where [`plain`](super::plain) needs six for each. Text comes from four places and
//! goes to four: 64 bytes of each are loaded at once and transposed, in blocks of 16, which takes
//! fewer instructions than putting every register together from four loads.
//!
//! Lanes that are left over compute what the first one does, and are not looked at.

// The index of a message counts in several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::super::NONCE_LEN;
use super::plain::{lengthened, load_header};
use super::wide256::Wide256;
use super::{C0, C1, load, padded, store};
use crate::base::limits::TAG_LEN;
use std::arch::x86_64::{
    __m128i, __m512i, _mm_set_epi64x, _mm_setzero_si128, _mm_xor_si128, _mm512_aesenc_epi128,
    _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_extracti32x4_epi32, _mm512_inserti32x4,
    _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_ternarylogic_epi64,
    _mm512_xor_si512,
};

/// Messages that a register holds a block of: most at once.
pub(super) const LANES: usize = 4;
/// Bytes of each message that are loaded, and stored, at once.
const STEP: usize = LANES * 16;

/// Proof that this CPU has what these functions are compiled for.
#[derive(Clone, Copy, Debug)]
pub(in crate::crypto::aead) struct Wide512(());

impl Wide512 {
    /// `None` where instructions are missing.
    fn detect() -> Option<Wide512> {
        let all = is_x86_feature_detected!("aes")
            && is_x86_feature_detected!("avx")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx512f");
        all.then_some(Wide512(()))
    }
}

/// The widest registers that this CPU has for VAES.
#[derive(Clone, Copy, Debug)]
pub(in crate::crypto::aead) enum Wide {
    /// These functions.
    Avx512(Wide512),
    /// Those of [`wide256`](super::wide256).
    Avx2(Wide256),
}

impl Wide {
    /// `None` where there is no VAES.
    pub(in crate::crypto::aead) fn detect() -> Option<Wide> {
        let wide = Wide512::detect().map(Wide::Avx512);
        wide.or_else(|| Wide256::detect().map(Wide::Avx2))
    }

    /// Encrypts each of two to four `plains` to its place in `texts`, and returns the tags in their
    /// order, then zeros. All of `plains` and `texts` have one length, all of `aads` another.
    #[inline]
    pub(in crate::crypto::aead) fn seal(
        self,
        key: &[u8; 32],
        nonces: &[&[u8; NONCE_LEN]],
        aads: &[&[u8]],
        plains: &[&[u8]],
        texts: &mut [&mut [u8]],
    ) -> [[u8; TAG_LEN]; LANES] {
        match self {
            // SAFETY: the proof exists only where `detect` found all features.
            Wide::Avx512(_) => unsafe { seal(key, nonces, aads, plains, texts) },
            Wide::Avx2(wide) => wide.seal(key, nonces, aads, plains, texts),
        }
    }

    /// Decrypts each of two to four `texts` to its place in `outs`, and returns the tags that they
    /// should have. Lengths as for [`seal`](Self::seal).
    #[inline]
    pub(in crate::crypto::aead) fn open(
        self,
        key: &[u8; 32],
        nonces: &[&[u8; NONCE_LEN]],
        aads: &[&[u8]],
        texts: &[&[u8]],
        outs: &mut [&mut [u8]],
    ) -> [[u8; TAG_LEN]; LANES] {
        match self {
            // SAFETY: as in `seal`.
            Wide::Avx512(_) => unsafe { open(key, nonces, aads, texts, outs) },
            Wide::Avx2(wide) => wide.open(key, nonces, aads, texts, outs),
        }
    }
}

/// A block of each message; the first one's where there are fewer than four.
#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn gather<const N: usize>(blocks: [__m128i; N]) -> __m512i {
    let at = |i: usize| blocks[if i < N { i } else { 0 }];
    let v = _mm512_castsi128_si512(at(0));
    let v = _mm512_inserti32x4::<1>(v, at(1));
    let v = _mm512_inserti32x4::<2>(v, at(2));
    _mm512_inserti32x4::<3>(v, at(3))
}

/// The blocks that [`gather`] put together.
#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn scatter(v: __m512i) -> [__m128i; LANES] {
    [
        _mm512_extracti32x4_epi32::<0>(v),
        _mm512_extracti32x4_epi32::<1>(v),
        _mm512_extracti32x4_epi32::<2>(v),
        _mm512_extracti32x4_epi32::<3>(v),
    ]
}

#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn load_step(bytes: &[u8; STEP]) -> __m512i {
    // SAFETY: reads the 64 bytes of the reference; the unaligned form takes any address.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn store_step(bytes: &mut [u8; STEP], value: __m512i) {
    // SAFETY: writes the 64 bytes of the reference; the unaligned form takes any address.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}

/// Block `i` of register `j` becomes block `j` of register `i`.
#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn transpose([a, b, c, d]: [__m512i; LANES]) -> [__m512i; LANES] {
    // Even blocks of two registers, and odd ones.
    let (ab0, ab1) = (
        _mm512_shuffle_i32x4::<0x88>(a, b),
        _mm512_shuffle_i32x4::<0xDD>(a, b),
    );
    let (cd0, cd1) = (
        _mm512_shuffle_i32x4::<0x88>(c, d),
        _mm512_shuffle_i32x4::<0xDD>(c, d),
    );
    [
        _mm512_shuffle_i32x4::<0x88>(ab0, cd0),
        _mm512_shuffle_i32x4::<0x88>(ab1, cd1),
        _mm512_shuffle_i32x4::<0xDD>(ab0, cd0),
        _mm512_shuffle_i32x4::<0xDD>(ab1, cd1),
    ]
}

#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// The states of four messages under one key, which never mix.
struct States([__m512i; 6]);

impl States {
    #[inline]
    #[target_feature(enable = "aes,avx,vaes,avx512f")]
    fn new<const N: usize>(key: &[u8; 32], nonces: [(__m128i, __m128i); N]) -> States {
        let [k0, k1] = padded(key);
        let (k0, k1) = (load(&k0), load(&k1));
        let (c0, c1) = (load(&C0), load(&C1));
        let kn0 = gather(nonces.map(|n| n.0));
        let kn1 = gather(nonces.map(|n| n.1));
        let all = |x| _mm512_broadcast_i32x4(x);
        let (kn0, kn1) = (
            _mm512_xor_si512(all(k0), kn0),
            _mm512_xor_si512(all(k1), kn1),
        );
        let mut states = States([
            kn0,
            kn1,
            all(c1),
            all(c0),
            all(_mm_xor_si128(k0, c0)),
            all(_mm_xor_si128(k1, c1)),
        ]);
        for _ in 0..4 {
            for m in [all(k0), all(k1), kn0, kn1] {
                states.update(m);
            }
        }
        states
    }

    /// The update, where `first` is the first block combined with what is taken in.
    #[inline]
    #[target_feature(enable = "aes,avx,vaes,avx512f")]
    fn update_with(&mut self, first: __m512i) {
        let s = &mut self.0;
        let last = s[5];
        s[5] = _mm512_aesenc_epi128(s[4], s[5]);
        s[4] = _mm512_aesenc_epi128(s[3], s[4]);
        s[3] = _mm512_aesenc_epi128(s[2], s[3]);
        s[2] = _mm512_aesenc_epi128(s[1], s[2]);
        s[1] = _mm512_aesenc_epi128(s[0], s[1]);
        s[0] = _mm512_aesenc_epi128(last, first);
    }

    #[inline]
    #[target_feature(enable = "aes,avx,vaes,avx512f")]
    fn update(&mut self, m: __m512i) {
        self.update_with(_mm512_xor_si512(self.0[0], m));
    }

    /// Takes in a block of each message and returns its counterpart.
    #[inline]
    #[target_feature(enable = "aes,avx,vaes,avx512f")]
    fn crypt<const OPEN: bool>(&mut self, x: __m512i) -> __m512i {
        let s = &self.0;
        // The key stream in two halves, neither of which waits for the other: opening waits for it.
        let one = xor3(x, s[1], s[4]);
        let other = _mm512_ternarylogic_epi64::<0x78>(s[5], s[2], s[3]);
        let y = _mm512_xor_si512(one, other);
        let first = match OPEN {
            true => xor3(s[0], one, other),
            false => _mm512_xor_si512(s[0], x),
        };
        self.update_with(first);
        y
    }

    /// Takes in associated data that is no header: any length, the same for each.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "aes,avx,vaes,avx512f")]
    fn absorb<const N: usize>(mut self, aads: [&[u8]; N]) -> States {
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

    /// Takes in the fewer than 64 bytes of text that are left, and writes their counterparts.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "aes,avx,vaes,avx512f")]
    fn rest<const N: usize, const OPEN: bool>(
        mut self,
        ins: [&[u8]; N],
        outs: [&mut [u8]; N],
    ) -> States {
        for at in (0..ins[0].len()).step_by(16) {
            let end = (at + 16).min(ins[0].len());
            let mut m = [_mm_setzero_si128(); N];
            for i in 0..N {
                m[i] = load(&padded::<1>(&ins[i][at..end])[0]);
            }
            let s = &self.0;
            let stream = xor3(
                s[1],
                s[4],
                _mm512_ternarylogic_epi64::<0x78>(s[5], s[2], s[3]),
            );
            let stream = scatter(stream);
            for i in 0..N {
                let mut last = [0; 16];
                store(&mut last, _mm_xor_si128(m[i], stream[i]));
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
    #[target_feature(enable = "aes,avx,vaes,avx512f")]
    fn tags<const N: usize>(mut self, aad_len: usize, text_len: usize) -> [[u8; TAG_LEN]; LANES] {
        // Lengths in bits; frames are far shorter than 2^60 bytes.
        let lengths = _mm_set_epi64x((text_len as i64) << 3, (aad_len as i64) << 3);
        let m = _mm512_xor_si512(self.0[3], _mm512_broadcast_i32x4(lengths));
        for _ in 0..7 {
            self.update(m);
        }
        let s = &self.0;
        let low = xor3(s[0], s[1], s[2]);
        let sums = scatter(_mm512_xor_si512(low, xor3(s[3], s[4], s[5])));
        let mut tags = [[0; TAG_LEN]; LANES];
        for i in 0..N {
            store(&mut tags[i], sums[i]);
        }
        tags
    }
}

// These two are not generic, for the reason that `plain` gives.

#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn seal(
    key: &[u8; 32],
    nonces: &[&[u8; NONCE_LEN]],
    aads: &[&[u8]],
    plains: &[&[u8]],
    texts: &mut [&mut [u8]],
) -> [[u8; TAG_LEN]; LANES] {
    match plains.len() {
        2 => crypt::<2, false>(key, nonces, aads, plains, texts),
        3 => crypt::<3, false>(key, nonces, aads, plains, texts),
        _ => crypt::<4, false>(key, nonces, aads, plains, texts),
    }
}

#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn open(
    key: &[u8; 32],
    nonces: &[&[u8; NONCE_LEN]],
    aads: &[&[u8]],
    texts: &[&[u8]],
    outs: &mut [&mut [u8]],
) -> [[u8; TAG_LEN]; LANES] {
    match texts.len() {
        2 => crypt::<2, true>(key, nonces, aads, texts, outs),
        3 => crypt::<3, true>(key, nonces, aads, texts, outs),
        _ => crypt::<4, true>(key, nonces, aads, texts, outs),
    }
}

/// [`with_nonces`] with the nonces of lanes.
///
/// # Panics
/// If there are not `N` of everything, as `seal` and `open` demand of their callers.
#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn crypt<const N: usize, const OPEN: bool>(
    key: &[u8; 32],
    nonces: &[&[u8; NONCE_LEN]],
    aads: &[&[u8]],
    ins: &[&[u8]],
    outs: &mut [&mut [u8]],
) -> [[u8; TAG_LEN]; LANES] {
    let (nonces, aads) = (*first::<_, N>(nonces), *first(aads));
    let outs: &mut [_; N] = outs.first_chunk_mut().expect("an output for each message");
    let outs = outs.each_mut().map(|out| &mut **out);
    with_nonces::<N, OPEN>(key, lengthened(nonces), aads, *first(ins), outs)
}

/// The first `N`, where a caller is bound to give as many.
#[inline]
pub(super) fn first<T, const N: usize>(all: &[T]) -> &[T; N] {
    all.first_chunk()
        .expect("as many of each as there are messages")
}

/// Both directions: they differ in which side of the exclusive-or is the text that the state takes in.
#[inline]
#[target_feature(enable = "aes,avx,vaes,avx512f")]
fn with_nonces<const N: usize, const OPEN: bool>(
    key: &[u8; 32],
    nonces: [(__m128i, __m128i); N],
    aads: [&[u8]; N],
    ins: [&[u8]; N],
    outs: [&mut [u8]; N],
) -> [[u8; TAG_LEN]; LANES] {
    let zero = _mm_setzero_si128();
    let (len, aad_len) = (ins[0].len(), aads[0].len());
    let mut states = States::new(key, nonces);
    // What is rare lies in functions of its own, with the states handed over and back: else they
    // would leave the registers for it here.
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
    let mut copy = States(states.0);
    for at in 0..whole {
        let mut x = [load_step(&from[0][at]); LANES];
        for i in 1..N {
            x[i] = load_step(&from[i][at]);
        }
        x = transpose(x);
        for x in &mut x {
            *x = copy.crypt::<OPEN>(*x);
        }
        x = transpose(x);
        for i in 0..N {
            store_step(&mut to[i][at], x[i]);
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
mod tests;
