//! The loops every SIMD kernel shares, over 64-byte blocks.
//!
//! A kernel module brings `V` (64 bytes in registers), `S` (a block made ready for multiplying),
//! and `zero`, `load`, `store`, `xor`, `split`, `madd` (`acc ^ c * s`) and `horner` (`2 * q ^ d`);
//! this macro gives it `fold` and `dot`. Both walk all sources once per output block and keep the
//! sums in registers, so each output byte is written once.

macro_rules! lane_kernels {
    ($features:literal, $group:literal) => {
        /// Whether all slices are `blocks` long.
        fn uniform(src: &[&[Block]], blocks: usize) -> bool {
            src.iter().all(|s| s.len() == blocks)
        }

        /// Repair row 0 into `p` (if `P`) and repair row 1 into `q` (if `Q`), in one pass.
        ///
        /// Row 1 has weights `2^i`, so Horner's rule from the last symbol down needs one
        /// doubling a symbol and no table.
        #[target_feature(enable = $features)]
        pub(in crate::fec) fn fold<const P: bool, const Q: bool>(
            src: &[&[Block]],
            p: &mut [Block],
            q: &mut [Block],
        ) {
            let blocks = if P { p.len() } else { q.len() };
            assert!(uniform(src, blocks) && (!Q || q.len() == blocks));
            let mut at = 0;
            // Two blocks at a time hide the latency of the doubling.
            while at + 2 <= blocks {
                fold_blocks::<P, Q, 2>(src, at, p, q);
                at += 2;
            }
            if at < blocks {
                fold_blocks::<P, Q, 1>(src, at, p, q);
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn fold_blocks<const P: bool, const Q: bool, const B: usize>(
            src: &[&[Block]],
            at: usize,
            p: &mut [Block],
            q: &mut [Block],
        ) {
            let mut sum = [zero(); B];
            let mut poly = [zero(); B];
            for s in src.iter().rev() {
                for b in 0..B {
                    // SAFETY: `fold`, the only caller, checked that every source is as long as
                    // the outputs and that `at + B` does not pass that length.
                    let d = load(unsafe { s.get_unchecked(at + b) });
                    if P {
                        sum[b] = xor(sum[b], d);
                    }
                    if Q {
                        poly[b] = horner(poly[b], d);
                    }
                }
            }
            for b in 0..B {
                if P {
                    store(&mut p[at + b], sum[b]);
                }
                if Q {
                    store(&mut q[at + b], poly[b]);
                }
            }
        }

        /// `dst[r] = sum over i of coef[r][i] * src[i]`.
        #[target_feature(enable = $features)]
        pub(in crate::fec) fn dot(src: &[&[Block]], coef: &[Block], dst: &mut [&mut [Block]]) {
            assert!(src.len() <= MAX_DATA && coef.len() == dst.len());
            for (c, d) in coef.chunks($group).zip(dst.chunks_mut($group)) {
                match d.len() {
                    1 => dot_rows::<1>(src, c, d),
                    2 => dot_rows::<2>(src, c, d),
                    3 => dot_rows::<3>(src, c, d),
                    4 => dot_rows::<4>(src, c, d),
                    5 => dot_rows::<5>(src, c, d),
                    _ => dot_rows::<6>(src, c, d),
                }
            }
        }

        #[target_feature(enable = $features)]
        fn dot_rows<const R: usize>(src: &[&[Block]], coef: &[Block], dst: &mut [&mut [Block]]) {
            let blocks = dst.first().map_or(0, |d| d.len());
            assert!(uniform(src, blocks) && src.len() <= MAX_DATA);
            assert!(coef.len() == R && dst.len() == R && dst.iter().all(|d| d.len() == blocks));
            for at in 0..blocks {
                let mut acc = [zero(); R];
                for (i, s) in src.iter().enumerate() {
                    // SAFETY: every source is `blocks` long (checked above) and `at < blocks`.
                    let d = split(load(unsafe { s.get_unchecked(at) }));
                    for r in 0..R {
                        // SAFETY: `coef` has R rows of MAX_DATA weights and there are at most
                        // MAX_DATA sources (both checked above).
                        let c = unsafe { *coef.get_unchecked(r).get_unchecked(i) };
                        acc[r] = madd(acc[r], &d, c);
                    }
                }
                for r in 0..R {
                    store(&mut dst[r][at], acc[r]);
                }
            }
        }
    };
}

pub(super) use lane_kernels;
