//! XXH3-128 of long inputs with AVX2 or AVX-512, chosen at run time, also while copying.
//!
//! The crate `xxhash-rust` picks its instructions when it is compiled, which for a portable binary
//! means SSE2. It still does short inputs and other CPUs, and is the oracle of the tests. The
//! algorithm and its constants are those of the xxHash specification, version 0.8 (doc/xxhash_spec.md).

use xxhash_rust::xxh3::xxh3_128;

/// Inputs up to this length have algorithms of their own (*specification*).
const SHORT: usize = 240;

/// XXH3-128 with seed 0.
pub(super) fn hash(input: &[u8]) -> u128 {
    #[cfg(target_arch = "x86_64")]
    if input.len() > SHORT
        && let Some(kernel) = x86::detect()
    {
        return x86::hash(kernel, input);
    }
    xxh3_128(input)
}

/// Copies `src` to `dst` and gives its XXH3-128 with seed 0: one pass over memory instead of two.
///
/// # Panics
/// If the lengths differ.
pub(super) fn hash_copy(dst: &mut [u8], src: &[u8]) -> u128 {
    assert_eq!(
        dst.len(),
        src.len(),
        "copy between slices of different lengths"
    );
    #[cfg(target_arch = "x86_64")]
    if src.len() > SHORT
        && let Some(kernel) = x86::detect()
    {
        return x86::hash_copy(kernel, dst, src);
    }
    crate::crypto::copy::copy(dst, src);
    xxh3_128(dst)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Bytes that are mixed in at once.
    const STRIPE: usize = 64;
    /// Stripes between two scramblings: the secret moves by 8 bytes for each.
    const BLOCK_STRIPES: usize = (SECRET.len() - STRIPE) / 8;
    const BLOCK: usize = STRIPE * BLOCK_STRIPES;
    const LAST_SECRET: usize = SECRET.len() - STRIPE;

    const P32_1: u64 = 0x9E37_79B1;
    const P32_2: u64 = 0x85EB_CA77;
    const P32_3: u64 = 0xC2B2_AE3D;
    const P64_1: u64 = 0x9E37_79B1_85EB_CA87;
    const P64_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
    const P64_3: u64 = 0x1656_67B1_9E37_79F9;
    const P64_4: u64 = 0x85EB_CA77_C2B2_AE63;
    const P64_5: u64 = 0x27D4_EB2F_1656_67C5;

    /// The default secret of the specification.
    const SECRET: [u8; 192] = [
        0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad,
        0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3,
        0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc,
        0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6,
        0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65,
        0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19,
        0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9,
        0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31,
        0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb,
        0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0,
        0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d,
        0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f,
        0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
    ];

    /// Instructions that this CPU was seen to have; the proof behind every call below.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Kernel {
        Avx2,
        Avx512,
    }

    /// The fastest kernel of this CPU.
    #[inline]
    pub(super) fn detect() -> Option<Kernel> {
        if is_x86_feature_detected!("avx512f") {
            Some(Kernel::Avx512)
        } else if is_x86_feature_detected!("avx2") {
            Some(Kernel::Avx2)
        } else {
            None
        }
    }

    type Acc = [u64; 8];

    pub(super) fn hash(kernel: Kernel, input: &[u8]) -> u128 {
        assert!(input.len() > super::SHORT);
        let mut acc = START;
        let from = input.as_ptr();
        // SAFETY: `detect` saw the instructions; `from` has `input.len()` bytes, more than a
        // stripe; without COPY nothing is written.
        unsafe {
            match kernel {
                Kernel::Avx2 => avx2::<false>(&mut acc, from, input.len(), std::ptr::null_mut()),
                Kernel::Avx512 => {
                    avx512::<false>(&mut acc, from, input.len(), std::ptr::null_mut())
                }
            }
        }
        finish(&acc, input.len())
    }

    pub(super) fn hash_copy(kernel: Kernel, dst: &mut [u8], src: &[u8]) -> u128 {
        assert!(src.len() > super::SHORT && dst.len() == src.len());
        let mut acc = START;
        let (from, to) = (src.as_ptr(), dst.as_mut_ptr());
        // SAFETY: `detect` saw the instructions; both slices have `src.len()` bytes, more than a
        // stripe, and a mutable slice overlaps no other.
        unsafe {
            match kernel {
                Kernel::Avx2 => avx2::<true>(&mut acc, from, src.len(), to),
                Kernel::Avx512 => avx512::<true>(&mut acc, from, src.len(), to),
            }
        }
        finish(&acc, src.len())
    }

    const START: Acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1];

    fn secret64(at: usize) -> u64 {
        SECRET[at..at + 8]
            .iter()
            .rev()
            .fold(0, |n, &b| n << 8 | u64::from(b))
    }

    fn finish(acc: &Acc, len: usize) -> u128 {
        let merge = |secret: usize, start: u64| {
            let mut sum = start;
            for i in 0..4 {
                let a = acc[2 * i] ^ secret64(secret + 16 * i);
                let b = acc[2 * i + 1] ^ secret64(secret + 16 * i + 8);
                let product = u128::from(a) * u128::from(b);
                sum = sum.wrapping_add(product as u64 ^ (product >> 64) as u64);
            }
            sum ^= sum >> 37;
            sum = sum.wrapping_mul(0x1656_6791_9E37_79F9);
            sum ^ sum >> 32
        };
        let len = len as u64;
        let low = merge(11, len.wrapping_mul(P64_1));
        let high = merge(SECRET.len() - 64 - 11, !len.wrapping_mul(P64_2));
        u128::from(high) << 64 | u128::from(low)
    }

    /// The long-input loop, once for each width of vector. `$load`, `$store` and the arithmetic are
    /// intrinsics of that width; `$n` vectors make a stripe.
    macro_rules! kernel {
        ($name:ident, $features:literal, $n:literal, $load:ident, $store:ident, $xor:ident,
         $mul:ident, $shr:ident, $shl:ident, $add:ident, $swap:ident, $set1:ident, $vec:ty) => {
            /// Mixes `len` bytes at `from` into `acc`; with COPY also copies them to `to`.
            ///
            /// # Safety
            /// The CPU has the features; `from` is valid for reads of `len` bytes, at least 64; with
            /// COPY `to` is valid for writes of `len` bytes and does not overlap them.
            #[target_feature(enable = $features)]
            unsafe fn $name<const COPY: bool>(
                acc: &mut Acc,
                from: *const u8,
                len: usize,
                to: *mut u8,
            ) {
                const WIDTH: usize = STRIPE / $n;
                let secret = SECRET.as_ptr();
                // SAFETY: `at + 64 <= len` in every call below, and `key + 64 <= 192`; unaligned
                // loads and stores need no alignment. `acc` is eight words.
                unsafe {
                    let words = acc.as_mut_ptr().cast::<u8>();
                    let mut sums = [$load(words.cast()); $n];
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = $load(words.add(i * WIDTH).cast());
                    }
                    let stripe = |sums: &mut [$vec; $n], at: usize, key: usize, copy: bool| {
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let data = $load(from.add(at + i * WIDTH).cast());
                            if COPY && copy {
                                $store(to.add(at + i * WIDTH).cast(), data);
                            }
                            let mixed = $xor(data, $load(secret.add(key + i * WIDTH).cast()));
                            let product = $mul(mixed, $shr::<32>(mixed));
                            // Each word is added to its neighbour's sum.
                            let swapped = $swap::<0x4E>(data);
                            *sum = $add(*sum, $add(swapped, product));
                        }
                    };
                    let blocks = (len - 1) / BLOCK;
                    for block in 0..blocks {
                        let at = block * BLOCK;
                        for n in 0..BLOCK_STRIPES {
                            if COPY {
                                // The next page is not on its way by itself. Into L2, not L1: that
                                // costs an eighth of the pace on Zen 4 (docs/PERF_NOTES.md).
                                _mm_prefetch::<_MM_HINT_T1>(
                                    from.wrapping_add(at + n * STRIPE + AHEAD).cast(),
                                );
                            }
                            stripe(&mut sums, at + n * STRIPE, n * 8, true);
                        }
                        for (i, sum) in sums.iter_mut().enumerate() {
                            let x = $xor(*sum, $shr::<47>(*sum));
                            let x = $xor(x, $load(secret.add(LAST_SECRET + i * WIDTH).cast()));
                            let prime = $set1(P32_1 as i64);
                            let high = $mul($shr::<32>(x), prime);
                            *sum = $add($mul(x, prime), $shl::<32>(high));
                        }
                    }
                    let at = blocks * BLOCK;
                    let stripes = (len - 1 - at) / STRIPE;
                    for n in 0..stripes {
                        stripe(&mut sums, at + n * STRIPE, n * 8, true);
                    }
                    // The last 64 bytes, whatever of them was mixed in before.
                    stripe(&mut sums, len - STRIPE, LAST_SECRET - 7, true);
                    for (i, &sum) in sums.iter().enumerate() {
                        $store(words.add(i * WIDTH).cast(), sum);
                    }
                }
            }
        };
    }

    /// Bytes between the word at hand and the one that is asked for from memory.
    const AHEAD: usize = 3072;

    kernel!(
        avx2,
        "avx2",
        2,
        _mm256_loadu_si256,
        _mm256_storeu_si256,
        _mm256_xor_si256,
        _mm256_mul_epu32,
        _mm256_srli_epi64,
        _mm256_slli_epi64,
        _mm256_add_epi64,
        _mm256_shuffle_epi32,
        _mm256_set1_epi64x,
        __m256i
    );
    kernel!(
        avx512,
        "avx512f",
        1,
        _mm512_loadu_si512,
        _mm512_storeu_si512,
        _mm512_xor_si512,
        _mm512_mul_epu32,
        _mm512_srli_epi64,
        _mm512_slli_epi64,
        _mm512_add_epi64,
        _mm512_shuffle_epi32,
        _mm512_set1_epi64,
        __m512i
    );

    #[cfg(test)]
    pub(super) fn kernels() -> Vec<Kernel> {
        let mut all = Vec::new();
        if is_x86_feature_detected!("avx2") {
            all.push(Kernel::Avx2);
        }
        if is_x86_feature_detected!("avx512f") {
            all.push(Kernel::Avx512);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_agrees_with_the_oracle_at_every_length_and_alignment() {
        let bytes: Vec<u8> = (0..200_000u32)
            .map(|i| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        let lengths = (0..2200).chain([4095, 4096, 4097, 90_048, 131_071, 199_990]);
        for len in lengths {
            let at = len % 9;
            let input = &bytes[at..at + len];
            let want = xxh3_128(input);
            assert_eq!(hash(input), want, "{len} bytes");
            let mut out = vec![0xA5; len + 2];
            assert_eq!(
                hash_copy(&mut out[1..=len], input),
                want,
                "{len} bytes copied"
            );
            assert_eq!(&out[1..=len], input);
            assert_eq!(
                (out[0], out[len + 1]),
                (0xA5, 0xA5),
                "{len} bytes and no more"
            );
            #[cfg(target_arch = "x86_64")]
            for kernel in x86::kernels().into_iter().filter(|_| len > SHORT) {
                assert_eq!(x86::hash(kernel, input), want, "{kernel:?} {len} bytes");
                out.fill(0);
                assert_eq!(x86::hash_copy(kernel, &mut out[1..=len], input), want);
                assert_eq!(&out[1..=len], input, "{kernel:?} {len} bytes copied");
            }
        }
    }
}
