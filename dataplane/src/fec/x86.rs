//! x86-64 kernels: AVX2 byte shuffles, GFNI at 256 bits, GFNI at 512 bits.

/// Two nibble look-ups (VPSHUFB) a byte.
pub(super) mod avx2 {
    use crate::fec::gf::NIBBLES;
    use crate::fec::lanes::lane_kernels;
    use crate::fec::{Block, MAX_DATA};
    use std::arch::x86_64::*;

    type V = [__m256i; 2];
    /// Low nibbles of both halves, then high nibbles of both halves.
    type S = [__m256i; 4];

    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> V {
        [_mm256_setzero_si256(); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(b: &Block) -> V {
        let p = b.as_ptr();
        // SAFETY: both reads lie in the 64 bytes of `b`; no alignment is asked for.
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(b: &mut Block, v: V) {
        let p = b.as_mut_ptr();
        // SAFETY: both writes lie in the 64 bytes of `b`; no alignment is asked for.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor(a: V, b: V) -> V {
        [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn split(v: V) -> S {
        let mask = _mm256_set1_epi8(15);
        [
            _mm256_and_si256(v[0], mask),
            _mm256_and_si256(v[1], mask),
            _mm256_and_si256(_mm256_srli_epi16::<4>(v[0]), mask),
            _mm256_and_si256(_mm256_srli_epi16::<4>(v[1]), mask),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn madd(acc: V, s: &S, c: u8) -> V {
        let t = &NIBBLES[usize::from(c)];
        // SAFETY: each table is 16 bytes long; no alignment is asked for.
        let (lo, hi) = unsafe {
            (
                _mm_loadu_si128(t.lo.as_ptr().cast()),
                _mm_loadu_si128(t.hi.as_ptr().cast()),
            )
        };
        let (lo, hi) = (
            _mm256_broadcastsi128_si256(lo),
            _mm256_broadcastsi128_si256(hi),
        );
        let product =
            |l, h| _mm256_xor_si256(_mm256_shuffle_epi8(lo, l), _mm256_shuffle_epi8(hi, h));
        [
            _mm256_xor_si256(acc[0], product(s[0], s[2])),
            _mm256_xor_si256(acc[1], product(s[1], s[3])),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn horner(q: V, d: V) -> V {
        let poly = _mm256_set1_epi8(0x1d);
        let step = |q, d| {
            let carry = _mm256_and_si256(_mm256_cmpgt_epi8(_mm256_setzero_si256(), q), poly);
            _mm256_xor_si256(_mm256_xor_si256(_mm256_add_epi8(q, q), d), carry)
        };
        [step(q[0], d[0]), step(q[1], d[1])]
    }

    // 4 rows take 8 of the 16 registers for sums; more would spill.
    lane_kernels!("avx2", 4);
}

/// One GF2P8AFFINEQB a byte, in 256-bit registers.
pub(super) mod gfni {
    use crate::fec::gf::AFFINE;
    use crate::fec::lanes::lane_kernels;
    use crate::fec::{Block, MAX_DATA};
    use std::arch::x86_64::*;

    type V = [__m256i; 2];
    type S = V;

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn zero() -> V {
        [_mm256_setzero_si256(); 2]
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn load(b: &Block) -> V {
        let p = b.as_ptr();
        // SAFETY: both reads lie in the 64 bytes of `b`; no alignment is asked for.
        unsafe {
            [
                _mm256_loadu_si256(p.cast()),
                _mm256_loadu_si256(p.add(32).cast()),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn store(b: &mut Block, v: V) {
        let p = b.as_mut_ptr();
        // SAFETY: both writes lie in the 64 bytes of `b`; no alignment is asked for.
        unsafe {
            _mm256_storeu_si256(p.cast(), v[0]);
            _mm256_storeu_si256(p.add(32).cast(), v[1]);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn xor(a: V, b: V) -> V {
        [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn split(v: V) -> S {
        v
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn madd(acc: V, s: &S, c: u8) -> V {
        let m = _mm256_set1_epi64x(AFFINE[usize::from(c)] as i64);
        let product = |v| _mm256_gf2p8affine_epi64_epi8::<0>(v, m);
        [
            _mm256_xor_si256(acc[0], product(s[0])),
            _mm256_xor_si256(acc[1], product(s[1])),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn horner(q: V, d: V) -> V {
        madd(d, &q, 2)
    }

    // 6 rows take 12 of the 16 registers for sums.
    lane_kernels!("avx2,gfni", 6);
}

/// One GF2P8AFFINEQB a byte, a block in one 512-bit register.
pub(super) mod gfni512 {
    use crate::fec::gf::AFFINE;
    use crate::fec::lanes::lane_kernels;
    use crate::fec::{Block, MAX_DATA};
    use std::arch::x86_64::*;

    type V = __m512i;
    type S = V;

    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn zero() -> V {
        _mm512_setzero_si512()
    }

    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn load(b: &Block) -> V {
        // SAFETY: the read is the 64 bytes of `b`; no alignment is asked for.
        unsafe { _mm512_loadu_si512(b.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn store(b: &mut Block, v: V) {
        // SAFETY: the write is the 64 bytes of `b`; no alignment is asked for.
        unsafe { _mm512_storeu_si512(b.as_mut_ptr().cast(), v) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn xor(a: V, b: V) -> V {
        _mm512_xor_si512(a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn split(v: V) -> S {
        v
    }

    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn madd(acc: V, s: &S, c: u8) -> V {
        let m = _mm512_set1_epi64(AFFINE[usize::from(c)] as i64);
        _mm512_xor_si512(acc, _mm512_gf2p8affine_epi64_epi8::<0>(*s, m))
    }

    #[inline]
    #[target_feature(enable = "avx512f,gfni")]
    fn horner(q: V, d: V) -> V {
        madd(d, &q, 2)
    }

    lane_kernels!("avx512f,gfni", 6);
}
