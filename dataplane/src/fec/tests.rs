//! The code against second implementations, every kernel against all of them.
// Rows and columns keep the names that the formulas have.
#![allow(clippy::needless_range_loop)]

use super::gf::{AFFINE, MATRIX, NIBBLES, POLYNOMIAL, inv, invert, mul};
use super::{Fec, FecError, Kernel, MAX_DATA, MAX_REPAIR};
use crate::base::Bits96;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn kernels() -> impl Iterator<Item = Fec> {
    Kernel::ALL.into_iter().filter_map(Fec::with_kernel)
}

/// Shift-and-add multiplication: shares nothing with the tables.
fn mul_bitwise(a: u8, b: u8) -> u8 {
    let (mut a, mut sum) = (u16::from(a), 0u16);
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            sum ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= POLYNOMIAL;
        }
    }
    sum as u8
}

fn pow_bitwise(a: u8, n: usize) -> u8 {
    (0..n).fold(1, |p, _| mul_bitwise(p, a))
}

/// The formula of the room's documentation, word for word.
fn weight(j: usize, i: usize) -> u8 {
    match j {
        0 => 1,
        1 => pow_bitwise(2, i),
        _ => {
            let divisor = 1 ^ pow_bitwise(2, i + j);
            mul_bitwise(pow_bitwise(2, i), pow_bitwise(divisor, 254))
        }
    }
}

fn reference_encode(k: usize, len: usize, data: &[u8], m: usize) -> Vec<u8> {
    let mut out = vec![0; m * len];
    for j in 0..m {
        for i in 0..k {
            let w = weight(j, i);
            for b in 0..len {
                out[j * len + b] ^= mul_bitwise(w, data[i * len + b]);
            }
        }
    }
    out
}

/// Textbook decoder: the k x k matrix of the symbols at hand, inverted with row swaps, times them.
fn reference_decode(k: usize, len: usize, data: &[u8], repair: &[u8], have: Bits96) -> Vec<u8> {
    let rows: Vec<usize> = have.iter().take(k).collect();
    let mut m: Vec<Vec<u8>> = rows
        .iter()
        .enumerate()
        .map(|(r, &s)| {
            let mut line = vec![0; 2 * k];
            for (i, w) in line[..k].iter_mut().enumerate() {
                *w = if s < k {
                    u8::from(i == s)
                } else {
                    weight(s - k, i)
                };
            }
            line[k + r] = 1;
            line
        })
        .collect();
    for p in 0..k {
        let swap = (p..k)
            .find(|&r| m[r][p] != 0)
            .expect("an MDS matrix has full rank");
        m.swap(p, swap);
        let scale = pow_bitwise(m[p][p], 254);
        m[p].iter_mut().for_each(|a| *a = mul_bitwise(*a, scale));
        let pivot = m[p].clone();
        for (r, line) in m.iter_mut().enumerate() {
            let factor = line[p];
            if r != p && factor != 0 {
                line.iter_mut()
                    .zip(&pivot)
                    .for_each(|(a, &b)| *a ^= mul_bitwise(factor, b));
            }
        }
    }
    let mut out = vec![0; k * len];
    for (i, line) in m.iter().enumerate() {
        for (&s, &w) in rows.iter().zip(&line[k..]) {
            let symbol = if s < k {
                &data[s * len..][..len]
            } else {
                &repair[(s - k) * len..][..len]
            };
            for b in 0..len {
                out[i * len + b] ^= mul_bitwise(w, symbol[b]);
            }
        }
    }
    out
}

/// Reproducible bytes (xorshift64*).
fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(2).wrapping_add(1);
    (0..n)
        .map(|_| {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            (x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
        })
        .collect()
}

/// `data` with the symbols outside `have` overwritten.
fn damage(k: usize, len: usize, data: &[u8], have: Bits96) -> Vec<u8> {
    let mut d = data.to_vec();
    (0..k)
        .filter(|&i| !have.contains(i))
        .for_each(|i| d[i * len..][..len].fill(0xee));
    d
}

#[test]
fn tables_agree_with_bitwise_arithmetic() {
    for a in 0..=255u8 {
        for b in 0..=255u8 {
            let product = mul_bitwise(a, b);
            assert_eq!(mul(a, b), product);
            let t = &NIBBLES[usize::from(a)];
            assert_eq!(
                t.lo[usize::from(b & 15)] ^ t.hi[usize::from(b >> 4)],
                product
            );
            // GF2P8AFFINEQB as the Intel SDM defines it: bit i = parity(matrix.byte[7-i] & b).
            let matrix = AFFINE[usize::from(a)].to_le_bytes();
            let affine = (0..8).fold(0u8, |x, i| {
                x | ((matrix[7 - i] & b).count_ones() as u8 & 1) << i
            });
            assert_eq!(affine, product);
        }
        assert_eq!(inv(a).map(|i| mul_bitwise(a, i)), (a != 0).then_some(1));
    }
}

#[test]
fn the_matrix_is_the_documented_one() {
    for (j, row) in MATRIX.iter().enumerate() {
        for (i, &w) in row.iter().enumerate() {
            assert_eq!(w, weight(j, i), "row {j}, column {i}");
        }
    }
    assert_eq!(
        [MATRIX[2][0], MATRIX[2][63], MATRIX[31][0]],
        [0xa7, 0xe4, 0x59]
    );
    assert_eq!(MATRIX[31][63], 0xf8);
    assert_eq!(
        hex(&Sha256::digest(MATRIX.as_flattened())),
        "e06948e3478937061578a197c7c4ce6fd906e30bb9d662e2f25c32e4fe03d1ae"
    );
}

#[test]
fn every_1x1_and_2x2_submatrix_is_invertible() {
    for j in 0..MAX_REPAIR {
        for i in 0..MAX_DATA {
            assert_ne!(MATRIX[j][i], 0);
            for j2 in j + 1..MAX_REPAIR {
                for i2 in i + 1..MAX_DATA {
                    assert_ne!(
                        mul(MATRIX[j][i], MATRIX[j2][i2]),
                        mul(MATRIX[j][i2], MATRIX[j2][i]),
                        "rows {j}, {j2}; columns {i}, {i2}"
                    );
                }
            }
        }
    }
}

fn hex(b: &[u8]) -> String {
    b.iter().map(|x| format!("{x:02x}")).collect()
}

/// Made by a separate program from the formula alone: 64 symbols of 64 bytes, byte `b` of symbol
/// `i` being `7i + 13b + (ib >> 3) mod 256`, all 32 repair symbols.
#[test]
fn known_answer() {
    let data: Vec<u8> = (0..64 * 64)
        .map(|at: usize| (at / 64, at % 64))
        .map(|(i, b)| (i * 7 + b * 13 + ((i * b) >> 3)) as u8)
        .collect();
    let first: [(usize, &str); 5] = [
        (0, "c0f0a008201070480040007800a05058"),
        (1, "d738d8d7782c13a3ba8c928ad27d2a9b"),
        (2, "aa4598356039f7242ae53e11b5132ee4"),
        (3, "9fd044e17562a1b3aa4d32614871f756"),
        (31, "faf663314bc9bb87f3a5ad18f650027d"),
    ];
    for fec in kernels() {
        let mut out = vec![0; 32 * 64];
        fec.encode(64, 64, &data, 32, &mut out);
        for (j, start) in first {
            assert_eq!(hex(&out[j * 64..][..16]), start, "symbol {j}");
        }
        assert_eq!(
            hex(&Sha256::digest(&out)),
            "e59857cd4760fbe438c37c26884d17eacaf4069adebac6f30f9e9d68460c3d4d",
            "{}",
            fec.kernel().name()
        );
    }
}

#[test]
fn every_pattern_of_loss_in_small_slots() {
    let len = 128;
    for fec in kernels() {
        for k in 1..=5 {
            for m in 0..=4 {
                let data = bytes((k * 8 + m) as u64, k * len);
                let repair = reference_encode(k, len, &data, m);
                for pattern in 0u32..1 << (k + m) {
                    let mut have = Bits96::EMPTY;
                    (0..k + m).filter(|s| pattern >> s & 1 == 1).for_each(|s| {
                        have.insert(s);
                    });
                    let damaged = damage(k, len, &data, have);
                    let mut got = damaged.clone();
                    let result = fec.decode(k, len, &mut got, &repair, have);
                    let lost = k - have.and(Bits96::first(k)).len();
                    let at_hand = have.shift_down(k).len();
                    if lost <= at_hand {
                        assert_eq!(result, Ok(()));
                        assert_eq!(got, data, "k {k} m {m} pattern {pattern:b}");
                    } else {
                        assert_eq!(
                            result,
                            Err(FecError::TooFew {
                                lost,
                                repair: at_hand
                            })
                        );
                        assert_eq!(got, damaged, "a failed decode leaves the data alone");
                    }
                }
            }
        }
    }
}

#[test]
fn the_widest_loss_is_rebuilt() {
    let (k, len) = (64, 192);
    let data = bytes(5, k * len);
    for fec in kernels() {
        let mut repair = vec![0; 32 * len];
        fec.encode(k, len, &data, 32, &mut repair);
        for first_lost in [0, 1, 17, 32] {
            let mut have = Bits96::first(96);
            (first_lost..first_lost + 32).for_each(|i| have.remove(i));
            let mut got = damage(k, len, &data, have);
            assert_eq!(fec.decode(k, len, &mut got, &repair, have), Ok(()));
            assert_eq!(got, data);
        }
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let fec = Fec::detect();
    let mut data = vec![0; 64 * 64];
    let have = Bits96::first(3);
    for (k, len) in [
        (0, 64),
        (65, 64),
        (usize::MAX, 64),
        (4, 0),
        (4, 63),
        (4, 65),
    ] {
        let shape = Err(FecError::Shape { k, symbol_len: len });
        assert_eq!(fec.decode(k, len, &mut data, &[], have), shape);
    }
    let huge = usize::MAX - 63;
    assert!(fec.decode(64, huge, &mut data, &[], have).is_err());
    let short = Err(FecError::Buffer {
        len: 64,
        needed: 256,
    });
    assert_eq!(fec.decode(4, 64, &mut data[..64], &[], have), short);
    // Symbol 3 is lost, repair symbol 2 is said to be there, and its buffer ends at symbol 1.
    let mut have = Bits96::first(3);
    have.insert(4 + 2);
    let missing = Err(FecError::Buffer {
        len: 128,
        needed: 192,
    });
    assert_eq!(fec.decode(4, 64, &mut data, &[0; 128], have), missing);
}

#[test]
#[should_panic(expected = "65 data symbols")]
fn encoding_a_wrong_shape_is_a_bug_of_the_caller() {
    Fec::detect().encode_one(65, 64, &[0; 65 * 64], 0, &mut [0; 64]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_square_submatrix_is_invertible(
        rows in proptest::sample::subsequence((0..MAX_REPAIR).collect::<Vec<_>>(), 1..=MAX_REPAIR),
        seed in any::<u64>(),
    ) {
        let n = rows.len();
        let mut columns: Vec<usize> = (0..MAX_DATA).collect();
        for (i, r) in bytes(seed, n).into_iter().enumerate() {
            columns.swap(i, i + usize::from(r) % (MAX_DATA - i));
        }
        let mut m = [[0; MAX_DATA]; MAX_REPAIR];
        for (line, &j) in m.iter_mut().zip(&rows) {
            for (a, &i) in line.iter_mut().zip(&columns[..n]) {
                *a = MATRIX[j][i];
            }
        }
        let original = m;
        prop_assert_eq!(invert(&mut m, n), Some(()));
        for r in 0..n {
            for c in 0..n {
                let sum = (0..n).fold(0, |s, x| s ^ mul_bitwise(m[r][x], original[x][c]));
                prop_assert_eq!(sum, u8::from(r == c));
            }
        }
    }

    #[test]
    fn every_kernel_encodes_like_the_reference(
        k in 1usize..=64,
        m in 0usize..=32,
        blocks in 1usize..=5,
        offset in 0usize..64,
        seed in any::<u64>(),
    ) {
        let len = 64 * blocks;
        let buf = bytes(seed, offset + k * len + 7);
        let data = &buf[offset..];
        let want = reference_encode(k, len, data, m);
        for fec in kernels() {
            let mut out = vec![0x55; m * len];
            fec.encode(k, len, data, m, &mut out);
            prop_assert!(out == want, "encode with {}", fec.kernel().name());
            for (j, want) in want.chunks_exact(len).enumerate() {
                let mut one = vec![0xaa; len + 1];
                fec.encode_one(k, len, data, j, &mut one[1..]);
                prop_assert!(&one[1..] == want, "symbol {j} with {}", fec.kernel().name());
            }
        }
    }

    #[test]
    fn every_kernel_decodes_like_the_reference(
        k in 1usize..=64,
        m in 1usize..=32,
        blocks in 1usize..=4,
        loss in any::<u128>(),
        thin in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let len = 64 * blocks;
        let data = bytes(seed, k * len);
        let repair = reference_encode(k, len, &data, m);
        // Losses fall on random symbols until no more than k are left.
        let loss = if thin { loss & loss.rotate_right(64) } else { loss };
        let mut have = Bits96::first(k + m);
        for s in (0..k + m).filter(|s| loss >> s & 1 == 1) {
            if have.len() > k {
                have.remove(s);
            }
        }
        let damaged = damage(k, len, &data, have);
        prop_assert!(reference_decode(k, len, &damaged, &repair, have) == data);
        // Symbols not at hand must not be read.
        let mut repair = repair;
        (0..m).filter(|j| !have.contains(k + j)).for_each(|j| repair[j * len..][..len].fill(0x99));
        for fec in kernels() {
            let mut got = damaged.clone();
            got.extend_from_slice(&[0x77; 65]);
            prop_assert_eq!(fec.decode(k, len, &mut got, &repair, have), Ok(()));
            prop_assert!(got[..k * len] == data, "decode with {}", fec.kernel().name());
            prop_assert!(got[k * len..].iter().all(|&b| b == 0x77));
        }
    }

    #[test]
    fn decode_survives_any_input(
        k in 0usize..=70,
        len in prop_oneof![Just(0usize), Just(64), Just(128), Just(100), any::<usize>()],
        data_len in 0usize..9000,
        repair_len in 0usize..3000,
        have in any::<[u8; 12]>(),
    ) {
        let have = Bits96::from_bytes(have);
        let before = bytes(1, data_len);
        let repair = bytes(2, repair_len);
        for fec in kernels() {
            let mut data = before.clone();
            if fec.decode(k, len, &mut data, &repair, have).is_err() {
                prop_assert_eq!(&data, &before);
            }
        }
    }
}
