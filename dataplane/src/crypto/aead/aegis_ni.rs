//! AEGIS-256X2 and AEGIS-256 (draft-irtf-cfrg-aegis-aead) with AES-NI: whole messages, out of place.
//!
//! A frame is one short message, so what a library does once per message (choosing an
//! implementation, keeping a state that can be fed in pieces, wiping it) costs as much here as a
//! good part of the message itself: see docs/ARCHITECTURE.md for the figures. This kernel keeps the
//! twelve AES blocks of the state in registers from the first byte to the tag: those of one message
//! of AEGIS-256X2 (this file), or six each of two messages of AEGIS-256 ([`plain`]). Where there is
//! VAES, six registers of 512 bits ([`wide`]) or twelve of 256 ([`wide256`]) are the states of four
//! messages of AEGIS-256. libaegis remains the reference: the tests compare the two, and so does the calibration at every start.

pub(super) mod plain;
pub(super) mod wide;
mod wide256;

use crate::base::limits::TAG_LEN;
use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_and_si128, _mm_loadu_si128, _mm_set_epi64x, _mm_storeu_si128,
    _mm_xor_si128,
};

/// A block for each of the two lanes.
type Pair = [[u8; 16]; 2];
/// Bytes that one update of the state takes in.
const RATE: usize = size_of::<Pair>();

/// The Fibonacci sequence modulo 256, which the draft starts the state from.
const C0: [u8; 16] = [
    0x00, 0x01, 0x01, 0x02, 0x03, 0x05, 0x08, 0x0d, 0x15, 0x22, 0x37, 0x59, 0x90, 0xe9, 0x79, 0x62,
];
const C1: [u8; 16] = [
    0xdb, 0x3d, 0x18, 0x55, 0x6d, 0xc2, 0x2f, 0xf1, 0x20, 0x11, 0x31, 0x42, 0x73, 0xb5, 0x28, 0xdd,
];

/// Proof that this CPU has AES-NI and AVX (for the three-operand forms).
#[derive(Clone, Copy, Debug)]
pub(super) struct AesNi(());

impl AesNi {
    /// `None` where the instructions are missing.
    pub(super) fn detect() -> Option<AesNi> {
        (is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx")).then_some(AesNi(()))
    }

    /// Encrypts `plain` to `text`, which is as long, and returns the tag.
    #[inline]
    pub(super) fn seal(
        self,
        key: &[u8; 32],
        nonce: &[u8; 32],
        aad: &[u8],
        plain: &[u8],
        text: &mut [u8],
    ) -> [u8; TAG_LEN] {
        debug_assert_eq!(plain.len(), text.len());
        // SAFETY: `self` exists only where `detect` found both features.
        unsafe { seal(key, nonce, aad, plain, text) }
    }

    /// Decrypts `text` to `out`, which is as long, and returns the tag that `text` should have.
    #[inline]
    pub(super) fn open(
        self,
        key: &[u8; 32],
        nonce: &[u8; 32],
        aad: &[u8],
        text: &[u8],
        out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        debug_assert_eq!(text.len(), out.len());
        // SAFETY: `self` exists only where `detect` found both features.
        unsafe { open(key, nonce, aad, text, out) }
    }
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn load(block: &[u8; 16]) -> __m128i {
    // SAFETY: reads the 16 bytes of the reference; the unaligned form takes any address.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn store(block: &mut [u8; 16], value: __m128i) {
    // SAFETY: writes the 16 bytes of the reference; the unaligned form takes any address.
    unsafe { _mm_storeu_si128(block.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn load_pair(pair: &Pair) -> (__m128i, __m128i) {
    (load(&pair[0]), load(&pair[1]))
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn store_pair(pair: &mut Pair, a: __m128i, b: __m128i) {
    store(&mut pair[0], a);
    store(&mut pair[1], b);
}

/// The whole pairs of `bytes`, and the rest: fewer than [`RATE`] bytes.
#[inline]
fn pairs(bytes: &[u8]) -> (&[Pair], &[u8]) {
    let whole = bytes.as_chunks::<16>().0.as_chunks::<2>().0;
    (whole, &bytes[whole.len() * RATE..])
}

/// [`pairs`], to write to.
#[inline]
fn pairs_mut(bytes: &mut [u8]) -> (&mut [Pair], &mut [u8]) {
    let (whole, rest) = bytes.split_at_mut(bytes.len() / RATE * RATE);
    (whole.as_chunks_mut::<16>().0.as_chunks_mut::<2>().0, rest)
}

/// At most `N` blocks of bytes, filled up with zeros.
#[inline(always)]
fn padded<const N: usize>(bytes: &[u8]) -> [[u8; 16]; N] {
    let mut blocks = [[0; 16]; N];
    // In steps of eight: a call of memcpy would cost more than the few moves that a header takes.
    let (words, rest) = bytes.as_chunks::<8>();
    let (out, out_rest) = blocks.as_flattened_mut().split_at_mut(words.len() * 8);
    for (to, from) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *to = *from;
    }
    for (to, from) in out_rest.iter_mut().zip(rest) {
        *to = *from;
    }
    blocks
}

/// Six blocks: the state of AEGIS-256, or of one lane of AEGIS-256X2.
#[derive(Clone, Copy)]
struct Six([__m128i; 6]);

impl Six {
    /// The state before its first update; `kn` is key XOR nonce.
    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn new(k: (__m128i, __m128i), kn: (__m128i, __m128i)) -> Six {
        let (c0, c1) = (load(&C0), load(&C1));
        Six([
            kn.0,
            kn.1,
            c1,
            c0,
            _mm_xor_si128(k.0, c0),
            _mm_xor_si128(k.1, c1),
        ])
    }

    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn update(&mut self, m: __m128i) {
        let s = &mut self.0;
        let last = s[5];
        s[5] = _mm_aesenc_si128(s[4], s[5]);
        s[4] = _mm_aesenc_si128(s[3], s[4]);
        s[3] = _mm_aesenc_si128(s[2], s[3]);
        s[2] = _mm_aesenc_si128(s[1], s[2]);
        s[1] = _mm_aesenc_si128(s[0], s[1]);
        s[0] = _mm_aesenc_si128(last, _mm_xor_si128(s[0], m));
    }

    /// The block that text is combined with.
    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn key_stream(&self) -> __m128i {
        let s = &self.0;
        let and = _mm_and_si128(s[2], s[3]);
        _mm_xor_si128(_mm_xor_si128(s[1], s[4]), _mm_xor_si128(s[5], and))
    }

    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn sum(&self) -> __m128i {
        let s = &self.0;
        let low = _mm_xor_si128(_mm_xor_si128(s[0], s[1]), s[2]);
        _mm_xor_si128(low, _mm_xor_si128(_mm_xor_si128(s[3], s[4]), s[5]))
    }
}

/// The state: two lanes that never mix before the tag.
struct State {
    a: Six,
    b: Six,
}

impl State {
    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn new(key: &[u8; 32], nonce: &[u8; 32]) -> State {
        let (k0, k1) = load_pair(&padded(key));
        let (n0, n1) = load_pair(&padded(nonce));
        let (kn0, kn1) = (_mm_xor_si128(k0, n0), _mm_xor_si128(k1, n1));
        let six = Six::new((k0, k1), (kn0, kn1));
        let mut state = State { a: six, b: six };
        // The lane's number, then the number of lanes less one.
        let (context_a, context_b) = (_mm_set_epi64x(0, 0x0100), _mm_set_epi64x(0, 0x0101));
        for _ in 0..4 {
            for m in [k0, k1, kn0, kn1] {
                for i in [3, 5] {
                    state.a.0[i] = _mm_xor_si128(state.a.0[i], context_a);
                    state.b.0[i] = _mm_xor_si128(state.b.0[i], context_b);
                }
                state.update(m, m);
            }
        }
        state
    }

    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn update(&mut self, a: __m128i, b: __m128i) {
        self.a.update(a);
        self.b.update(b);
    }

    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn absorb(&mut self, aad: &[u8]) {
        let (whole, rest) = pairs(aad);
        for pair in whole {
            let (a, b) = load_pair(pair);
            self.update(a, b);
        }
        if !rest.is_empty() {
            let (a, b) = load_pair(&padded(rest));
            self.update(a, b);
        }
    }

    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn tag(mut self, aad_len: usize, text_len: usize) -> [u8; TAG_LEN] {
        // Lengths in bits; frames are far shorter than 2^60 bytes.
        let lengths = _mm_set_epi64x((text_len as i64) << 3, (aad_len as i64) << 3);
        let a = _mm_xor_si128(self.a.0[3], lengths);
        let b = _mm_xor_si128(self.b.0[3], lengths);
        for _ in 0..7 {
            self.update(a, b);
        }
        let mut tag = [0; TAG_LEN];
        store(&mut tag, _mm_xor_si128(self.a.sum(), self.b.sum()));
        tag
    }
}

#[target_feature(enable = "aes,avx")]
fn seal(
    key: &[u8; 32],
    nonce: &[u8; 32],
    aad: &[u8],
    plain: &[u8],
    text: &mut [u8],
) -> [u8; TAG_LEN] {
    let mut state = State::new(key, nonce);
    state.absorb(aad);
    let (whole, rest) = pairs(plain);
    let (outs, out_rest) = pairs_mut(text);
    for (pair, out) in whole.iter().zip(outs) {
        let (a, b) = load_pair(pair);
        let (x, y) = (state.a.key_stream(), state.b.key_stream());
        store_pair(out, _mm_xor_si128(a, x), _mm_xor_si128(b, y));
        state.update(a, b);
    }
    if !rest.is_empty() {
        let (a, b) = load_pair(&padded(rest));
        let (x, y) = (state.a.key_stream(), state.b.key_stream());
        let mut last = [[0; 16]; 2];
        store_pair(&mut last, _mm_xor_si128(a, x), _mm_xor_si128(b, y));
        out_rest.copy_from_slice(&last.as_flattened()[..rest.len()]);
        state.update(a, b);
    }
    state.tag(aad.len(), plain.len())
}

#[target_feature(enable = "aes,avx")]
fn open(
    key: &[u8; 32],
    nonce: &[u8; 32],
    aad: &[u8],
    text: &[u8],
    out: &mut [u8],
) -> [u8; TAG_LEN] {
    let mut state = State::new(key, nonce);
    state.absorb(aad);
    let (whole, rest) = pairs(text);
    let (outs, out_rest) = pairs_mut(out);
    for (pair, out) in whole.iter().zip(outs) {
        let (a, b) = load_pair(pair);
        let a = _mm_xor_si128(a, state.a.key_stream());
        let b = _mm_xor_si128(b, state.b.key_stream());
        store_pair(out, a, b);
        state.update(a, b);
    }
    if !rest.is_empty() {
        let (a, b) = load_pair(&padded(rest));
        let (x, y) = (state.a.key_stream(), state.b.key_stream());
        let mut last = [[0; 16]; 2];
        store_pair(&mut last, _mm_xor_si128(a, x), _mm_xor_si128(b, y));
        // The state takes in the text padded with zeros, not with key stream.
        last.as_flattened_mut()[rest.len()..].fill(0);
        out_rest.copy_from_slice(&last.as_flattened()[..rest.len()]);
        let (a, b) = load_pair(&last);
        state.update(a, b);
    }
    state.tag(aad.len(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::aegis::aegis256x2::Aegis256X2;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_libaegis(
            key: [u8; 32],
            nonce: [u8; 32],
            aad in proptest::collection::vec(any::<u8>(), 0..100),
            plain in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let Some(ni) = AesNi::detect() else { return Ok(()) };
            let (expected, expected_tag) =
                Aegis256X2::<TAG_LEN>::new(&key, &nonce).encrypt(&plain, &aad);
            let mut text = vec![0; plain.len()];
            let tag = ni.seal(&key, &nonce, &aad, &plain, &mut text);
            prop_assert_eq!(&text, &expected);
            prop_assert_eq!(tag, expected_tag);
            let mut opened = vec![0; plain.len()];
            prop_assert_eq!(ni.open(&key, &nonce, &aad, &text, &mut opened), tag);
            prop_assert_eq!(opened, plain);
        }
    }
}
