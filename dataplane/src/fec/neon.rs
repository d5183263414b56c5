//! AArch64 kernel: two nibble look-ups (TBL) a byte.

use super::gf::NIBBLES;
use super::lanes::lane_kernels;
use super::{Block, MAX_DATA};
use std::arch::aarch64::*;

type V = [uint8x16_t; 4];
/// Low nibbles, high nibbles.
type S = (V, V);

#[inline]
#[target_feature(enable = "neon")]
fn zero() -> V {
    [vdupq_n_u8(0); 4]
}

#[inline]
#[target_feature(enable = "neon")]
fn load(b: &Block) -> V {
    let p = b.as_ptr();
    // SAFETY: the four reads of 16 bytes lie in the 64 bytes of `b`; no alignment is asked for.
    unsafe {
        [
            vld1q_u8(p),
            vld1q_u8(p.add(16)),
            vld1q_u8(p.add(32)),
            vld1q_u8(p.add(48)),
        ]
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(b: &mut Block, v: V) {
    let p = b.as_mut_ptr();
    // SAFETY: the four writes of 16 bytes lie in the 64 bytes of `b`; no alignment is asked for.
    unsafe {
        vst1q_u8(p, v[0]);
        vst1q_u8(p.add(16), v[1]);
        vst1q_u8(p.add(32), v[2]);
        vst1q_u8(p.add(48), v[3]);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn zip(a: V, b: V, f: impl Fn(uint8x16_t, uint8x16_t) -> uint8x16_t) -> V {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[inline]
#[target_feature(enable = "neon")]
fn xor(a: V, b: V) -> V {
    zip(a, b, |a, b| veorq_u8(a, b))
}

#[inline]
#[target_feature(enable = "neon")]
fn split(v: V) -> S {
    let mask = vdupq_n_u8(15);
    (
        zip(v, v, |v, _| vandq_u8(v, mask)),
        zip(v, v, |v, _| vshrq_n_u8::<4>(v)),
    )
}

#[inline]
#[target_feature(enable = "neon")]
fn madd(acc: V, s: &S, c: u8) -> V {
    let t = &NIBBLES[usize::from(c)];
    // SAFETY: each table is 16 bytes long; no alignment is asked for.
    let (lo, hi) = unsafe { (vld1q_u8(t.lo.as_ptr()), vld1q_u8(t.hi.as_ptr())) };
    let product = zip(s.0, s.1, |l, h| {
        veorq_u8(vqtbl1q_u8(lo, l), vqtbl1q_u8(hi, h))
    });
    xor(acc, product)
}

#[inline]
#[target_feature(enable = "neon")]
fn horner(q: V, d: V) -> V {
    let poly = vdupq_n_u8(0x1d);
    zip(q, d, |q, d| {
        let carry = vandq_u8(
            vreinterpretq_u8_s8(vshrq_n_s8::<7>(vreinterpretq_s8_u8(q))),
            poly,
        );
        veorq_u8(veorq_u8(vaddq_u8(q, q), d), carry)
    })
}

// 4 rows take 16 of the 32 registers for sums, the nibbles 8 more.
lane_kernels!("neon", 4);
