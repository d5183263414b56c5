//! AEGIS-256: one message, or several of the same length at once.
//!
//! Its state is half that of AEGIS-256X2, so the beginning and the tag of a message cost half as
//! much: a frame of 1,408 bytes takes 678 AES rounds where AEGIS-256X2 takes 816. But a message
//! alone waits for its own state, above all when it is opened: the state cannot go on before the text
//! is there. Two messages in turn keep the CPU's AES unit busy, and their twelve blocks still fit its
//! registers.

// The index of a message counts in several arrays at once.
#![allow(clippy::needless_range_loop)]

use super::super::NONCE_LEN;
use super::{AesNi, Six, load, padded, store};
use crate::base::limits::TAG_LEN;
use std::arch::x86_64::{__m128i, _mm_set_epi64x, _mm_setzero_si128, _mm_xor_si128};

impl AesNi {
    /// Encrypts `plain` to `text`, which is as long, and returns the tag.
    #[inline]
    pub(in crate::crypto::aead) fn seal_plain(
        self,
        key: &[u8; 32],
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        text: &mut [u8],
    ) -> [u8; TAG_LEN] {
        // SAFETY: `self` exists only where `detect` found both features.
        unsafe { seal(key, nonce, aad, plain, text) }
    }

    /// Decrypts `text` to `out`, which is as long, and returns the tag that `text` should have.
    #[inline]
    pub(in crate::crypto::aead) fn open_plain(
        self,
        key: &[u8; 32],
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        text: &[u8],
        out: &mut [u8],
    ) -> [u8; TAG_LEN] {
        // SAFETY: `self` exists only where `detect` found both features.
        unsafe { open(key, nonce, aad, text, out) }
    }

    /// Encrypts each of `plains` to its place in `texts`, and returns the tags. All of `plains` and
    /// `texts` have one length, both of `aads` another.
    #[inline]
    pub(in crate::crypto::aead) fn seal_two(
        self,
        key: &[u8; 32],
        nonces: [&[u8; NONCE_LEN]; 2],
        aads: [&[u8]; 2],
        plains: [&[u8]; 2],
        texts: [&mut [u8]; 2],
    ) -> [[u8; TAG_LEN]; 2] {
        // SAFETY: `self` exists only where `detect` found both features.
        unsafe { seal_two(key, nonces, aads, plains, texts) }
    }

    /// Decrypts each of `texts` to its place in `outs`, and returns the tags that they should have.
    /// Lengths as for [`seal_two`](Self::seal_two).
    #[inline]
    pub(in crate::crypto::aead) fn open_two(
        self,
        key: &[u8; 32],
        nonces: [&[u8; NONCE_LEN]; 2],
        aads: [&[u8]; 2],
        texts: [&[u8]; 2],
        outs: [&mut [u8]; 2],
    ) -> [[u8; TAG_LEN]; 2] {
        // SAFETY: `self` exists only where `detect` found both features.
        unsafe { open_two(key, nonces, aads, texts, outs) }
    }
}

/// The states of `N` messages under one key, which never mix.
struct States<const N: usize>([Six; N]);

impl<const N: usize> States<N> {
    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn new(key: &[u8; 32], nonces: [(__m128i, __m128i); N]) -> States<N> {
        let zero = _mm_setzero_si128();
        let [k0, k1] = padded(key);
        let (k0, k1) = (load(&k0), load(&k1));
        let mut states = States([Six([zero; 6]); N]);
        let (mut kn0, mut kn1) = ([zero; N], [zero; N]);
        for i in 0..N {
            kn0[i] = _mm_xor_si128(k0, nonces[i].0);
            kn1[i] = _mm_xor_si128(k1, nonces[i].1);
            states.0[i] = Six::new((k0, k1), (kn0[i], kn1[i]));
        }
        for _ in 0..4 {
            for m in [[k0; N], [k1; N], kn0, kn1] {
                states.update(m);
            }
        }
        states
    }

    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn update(&mut self, m: [__m128i; N]) {
        for i in 0..N {
            self.0[i].update(m[i]);
        }
    }

    /// Takes in associated data that is no header: any length, the same for each.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "aes,avx")]
    fn absorb(mut self, aads: [&[u8]; N]) -> States<N> {
        let mut m = [_mm_setzero_si128(); N];
        for at in (0..aads[0].len()).step_by(16) {
            for i in 0..N {
                let end = (at + 16).min(aads[i].len());
                m[i] = load(&padded::<1>(&aads[i][at..end])[0]);
            }
            self.update(m);
        }
        self
    }

    /// Takes in the fewer than 16 bytes of text that are left, and writes their counterparts.
    #[cold]
    #[inline(never)]
    #[target_feature(enable = "aes,avx")]
    fn rest<const OPEN: bool>(mut self, ins: [&[u8]; N], outs: [&mut [u8]; N]) -> States<N> {
        let mut m = [_mm_setzero_si128(); N];
        for (i, out) in outs.into_iter().enumerate() {
            let mut last = padded::<1>(ins[i]);
            let from = load(&last[0]);
            store(&mut last[0], _mm_xor_si128(from, self.0[i].key_stream()));
            // The state takes in the text padded with zeros, not with key stream.
            last[0][ins[i].len()..].fill(0);
            out.copy_from_slice(&last[0][..ins[i].len()]);
            m[i] = if OPEN { load(&last[0]) } else { from };
        }
        self.update(m);
        self
    }

    #[inline]
    #[target_feature(enable = "aes,avx")]
    fn tags(mut self, aad_len: usize, text_len: usize) -> [[u8; TAG_LEN]; N] {
        // Lengths in bits; frames are far shorter than 2^60 bytes.
        let lengths = _mm_set_epi64x((text_len as i64) << 3, (aad_len as i64) << 3);
        let mut m = [lengths; N];
        for i in 0..N {
            m[i] = _mm_xor_si128(self.0[i].0[3], lengths);
        }
        for _ in 0..7 {
            self.update(m);
        }
        let mut tags = [[0; TAG_LEN]; N];
        for i in 0..N {
            store(&mut tags[i], self.0[i].sum());
        }
        tags
    }
}

/// The header of a frame as two blocks, the second filled up with zeros; `None` if it is none.
#[inline]
#[target_feature(enable = "aes,avx")]
pub(super) fn load_header(aad: &[u8]) -> Option<(__m128i, __m128i)> {
    let (head, tail) = aad.split_first_chunk()?;
    let tail = i64::from_le_bytes(tail.try_into().ok()?);
    Some((load(head), _mm_set_epi64x(0, tail)))
}

/// The 32-byte nonces of lanes, each as two blocks: their own 12 bytes, then zeros.
///
/// They are read as they were written, four bytes and eight: a load of 16 bytes would wait until both
/// stores have left the core, right at the start of the message.
#[inline]
#[target_feature(enable = "aes,avx")]
pub(super) fn lengthened<const N: usize>(nonces: [&[u8; NONCE_LEN]; N]) -> [(__m128i, __m128i); N] {
    let zero = _mm_setzero_si128();
    let mut long = [(zero, zero); N];
    for i in 0..N {
        let [a, b, c, d, tail @ ..] = *nonces[i];
        let (head, tail) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(tail));
        long[i].0 = _mm_set_epi64x((tail >> 32) as i64, (u64::from(head) | tail << 32) as i64);
    }
    long
}

// These four are not generic, so that the compiler makes them here, once: a caller's crate may divide
// its code into many units, in which the states would leave the registers.

#[target_feature(enable = "aes,avx")]
fn seal(
    key: &[u8; 32],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    plain: &[u8],
    text: &mut [u8],
) -> [u8; TAG_LEN] {
    let [tag] = crypt::<1, false>(key, lengthened([nonce]), [aad], [plain], [text]);
    tag
}

#[target_feature(enable = "aes,avx")]
fn open(
    key: &[u8; 32],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    text: &[u8],
    out: &mut [u8],
) -> [u8; TAG_LEN] {
    let [tag] = crypt::<1, true>(key, lengthened([nonce]), [aad], [text], [out]);
    tag
}

#[target_feature(enable = "aes,avx")]
fn seal_two(
    key: &[u8; 32],
    nonces: [&[u8; NONCE_LEN]; 2],
    aads: [&[u8]; 2],
    plains: [&[u8]; 2],
    texts: [&mut [u8]; 2],
) -> [[u8; TAG_LEN]; 2] {
    crypt::<2, false>(key, lengthened(nonces), aads, plains, texts)
}

#[target_feature(enable = "aes,avx")]
fn open_two(
    key: &[u8; 32],
    nonces: [&[u8; NONCE_LEN]; 2],
    aads: [&[u8]; 2],
    texts: [&[u8]; 2],
    outs: [&mut [u8]; 2],
) -> [[u8; TAG_LEN]; 2] {
    crypt::<2, true>(key, lengthened(nonces), aads, texts, outs)
}

/// Both directions: they differ in which side of the exclusive-or is the text that the state takes in.
#[inline]
#[target_feature(enable = "aes,avx")]
fn crypt<const N: usize, const OPEN: bool>(
    key: &[u8; 32],
    nonces: [(__m128i, __m128i); N],
    aads: [&[u8]; N],
    ins: [&[u8]; N],
    outs: [&mut [u8]; N],
) -> [[u8; TAG_LEN]; N] {
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
        states.update(header[0]);
        states.update(header[1]);
    } else {
        states = states.absorb(aads);
    }
    let whole = len / 16;
    let mut from: [&[[u8; 16]]; N] = [&[]; N];
    let mut to: [&mut [[u8; 16]]; N] = std::array::from_fn(|_| Default::default());
    let mut rests: [&mut [u8]; N] = std::array::from_fn(|_| Default::default());
    for (i, out) in outs.into_iter().enumerate() {
        from[i] = &ins[i].as_chunks().0[..whole];
        let (blocks, rest) = out[..len].split_at_mut(whole * 16);
        (to[i], rests[i]) = (&mut blocks.as_chunks_mut().0[..whole], rest);
    }
    let mut m = [zero; N];
    for at in 0..whole {
        for i in 0..N {
            let x = load(&from[i][at]);
            let y = _mm_xor_si128(x, states.0[i].key_stream());
            store(&mut to[i][at], y);
            m[i] = if OPEN { y } else { x };
        }
        states.update(m);
    }
    if len > whole * 16 {
        let mut tails = ins;
        for tail in &mut tails {
            *tail = &tail[whole * 16..len];
        }
        states = states.rest::<OPEN>(tails, rests);
    }
    states.tags(aad_len, len)
}

#[cfg(test)]
mod tests {
    use super::super::super::aegis256::vectors::{KEY, NONCE, VECTORS, hex};
    use super::*;
    use ::aegis::aegis256::Aegis256;
    use proptest::prelude::*;

    /// Nonces of 32 bytes, which no lane has: to the cipher itself.
    #[target_feature(enable = "aes,avx")]
    fn with_nonces<const N: usize, const OPEN: bool>(
        key: &[u8; 32],
        nonces: [&[u8; 32]; N],
        aads: [&[u8]; N],
        ins: [&[u8]; N],
        outs: [&mut [u8]; N],
    ) -> [[u8; TAG_LEN]; N] {
        let zero = _mm_setzero_si128();
        let mut long = [(zero, zero); N];
        for (long, nonce) in long.iter_mut().zip(nonces) {
            let [a, b] = padded(nonce);
            *long = (load(&a), load(&b));
        }
        crypt::<N, OPEN>(key, long, aads, ins, outs)
    }

    fn seal_one(key: &[u8; 32], nonce: &[u8; 32], aad: &[u8], plain: &[u8]) -> (Vec<u8>, [u8; 16]) {
        let mut text = vec![0xEE; plain.len()];
        // SAFETY: the tests that call this have seen `detect` find both features.
        let tag = unsafe { with_nonces::<1, false>(key, [nonce], [aad], [plain], [&mut text]) };
        (text, tag[0])
    }

    #[test]
    fn known_answers_of_the_draft_hold() {
        if AesNi::detect().is_none() {
            return;
        }
        let [key, nonce] = [KEY, NONCE].map(|t| hex::<Vec<u8>>(t).try_into().unwrap());
        for [ad, message, text, tag] in VECTORS {
            let [ad, message] = [ad, message].map(hex::<Vec<u8>>);
            let (got, got_tag) = seal_one(&key, &nonce, &ad, &message);
            assert_eq!((&got, &got_tag[..]), (&hex(text), &hex::<Vec<u8>>(tag)[..]));
        }
    }

    proptest! {
        #[test]
        fn one_and_two_at_once_equal_libaegis(
            key: [u8; 32],
            nonces: [[u8; 32]; 2],
            (aads, plains) in (
                prop_oneof![Just(24), 0usize..100],
                prop_oneof![Just(1408), 0usize..300],
            ).prop_flat_map(|(a, p)| {
                let bytes = |n| proptest::collection::vec(any::<u8>(), n);
                ([bytes(a), bytes(a)], [bytes(p), bytes(p)])
            }),
        ) {
            let Some(ni) = AesNi::detect() else { return Ok(()) };
            let [a, b] = [0, 1].map(|i| {
                Aegis256::<TAG_LEN>::new(&key, &nonces[i]).encrypt(&plains[i], &aads[i])
            });
            let len = plains[0].len();
            let [mut x, mut y] = [vec![0xEE; len], vec![0xEE; len]];
            for (i, (text, tag)) in [&a, &b].into_iter().enumerate() {
                prop_assert_eq!(
                    &seal_one(&key, &nonces[i], &aads[i], &plains[i]),
                    &(text.clone(), *tag)
                );
                // SAFETY: `detect` found both features.
                let got = unsafe {
                    with_nonces::<1, true>(&key, [&nonces[i]], [&aads[i]], [text], [&mut x])
                };
                prop_assert_eq!((&x, &got), (&plains[i], &[*tag]));
            }
            let aads = aads.each_ref().map(|a| &a[..]);
            let ins = plains.each_ref().map(|p| &p[..]);
            // SAFETY: as above.
            let tags = unsafe {
                with_nonces::<2, false>(&key, nonces.each_ref(), aads, ins, [&mut x, &mut y])
            };
            prop_assert_eq!(((&x, tags[0]), (&y, tags[1])), ((&a.0, a.1), (&b.0, b.1)));
            // SAFETY: as above.
            let tags = unsafe {
                let texts = [&a.0[..], &b.0[..]];
                with_nonces::<2, true>(&key, nonces.each_ref(), aads, texts, [&mut x, &mut y])
            };
            prop_assert_eq!((&x, &y, tags), (&plains[0], &plains[1], [a.1, b.1]));

            // The nonces of lanes are these, lengthened.
            let short = nonces.each_ref().map(|n| *n.first_chunk::<12>().unwrap());
            let long = short.map(|n| {
                let mut long = [0; 32];
                long[..12].copy_from_slice(&n);
                long
            });
            let expected = [0, 1].map(|i| seal_one(&key, &long[i], aads[i], ins[i]));
            let tags = ni.seal_two(&key, short.each_ref(), aads, ins, [&mut x, &mut y]);
            prop_assert_eq!([(x, tags[0]), (y, tags[1])], expected);
        }
    }
}
