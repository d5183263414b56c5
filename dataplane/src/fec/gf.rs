//! The field GF(2^8), the code's matrix, and the tables the kernels read; all built at compile time.

use super::{MAX_DATA, MAX_REPAIR};

/// The field polynomial: x^8 + x^4 + x^3 + x^2 + 1. Its root, 2, generates the whole group.
pub(super) const POLYNOMIAL: u16 = 0x11d;

/// `EXP[e]` is `2^e`; doubled so that a sum of two logarithms needs no reduction.
static EXP: [u8; 510] = exp_table();
/// `LOG[a]` is the exponent of `a` to the base 2; `LOG[0]` is never used.
static LOG: [u8; 256] = log_table();

/// Products of one coefficient with the 16 low and the 16 high nibbles, for byte-shuffle kernels.
#[repr(C, align(32))]
pub(super) struct Nibbles {
    /// `lo[n]` is `c * n`.
    pub lo: [u8; 16],
    /// `hi[n]` is `c * 16n`.
    pub hi: [u8; 16],
}

/// `NIBBLES[c]` multiplies by `c`.
pub(super) static NIBBLES: [Nibbles; 256] = nibble_tables();

/// `AFFINE[c]` is the 8 x 8 bit matrix that multiplies by `c`, in the layout of GF2P8AFFINEQB:
/// byte `7 - i` holds the row of output bit `i` (Intel SDM, volume 2).
pub(super) static AFFINE: [u64; 256] = affine_tables();

/// `MATRIX[j][i]` is the weight of data symbol `i` in repair symbol `j`; see the room's doc.
pub(super) static MATRIX: [[u8; MAX_DATA]; MAX_REPAIR] = matrix();

const fn exp_table() -> [u8; 510] {
    let mut t = [0u8; 510];
    let mut x: u16 = 1;
    let mut e = 0;
    while e < 255 {
        t[e] = x as u8;
        t[e + 255] = x as u8;
        x <<= 1;
        if x & 0x100 != 0 {
            x ^= POLYNOMIAL;
        }
        e += 1;
    }
    t
}

const fn log_table() -> [u8; 256] {
    let exp = exp_table();
    let mut t = [0u8; 256];
    let mut e = 0;
    while e < 255 {
        t[exp[e] as usize] = e as u8;
        e += 1;
    }
    t
}

const fn mul_with(exp: &[u8; 510], log: &[u8; 256], a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        0
    } else {
        exp[log[a as usize] as usize + log[b as usize] as usize]
    }
}

const fn nibble_tables() -> [Nibbles; 256] {
    let (exp, log) = (exp_table(), log_table());
    let mut t = [const {
        Nibbles {
            lo: [0; 16],
            hi: [0; 16],
        }
    }; 256];
    let mut c = 0;
    while c < 256 {
        let mut n = 0;
        while n < 16 {
            t[c].lo[n] = mul_with(&exp, &log, c as u8, n as u8);
            t[c].hi[n] = mul_with(&exp, &log, c as u8, (n as u8) << 4);
            n += 1;
        }
        c += 1;
    }
    t
}

const fn affine_tables() -> [u64; 256] {
    let (exp, log) = (exp_table(), log_table());
    let mut t = [0u64; 256];
    let mut c = 0;
    while c < 256 {
        let mut bit_in = 0;
        while bit_in < 8 {
            let product = mul_with(&exp, &log, c as u8, 1 << bit_in);
            let mut bit_out = 0;
            while bit_out < 8 {
                if product >> bit_out & 1 == 1 {
                    t[c] |= 1 << (8 * (7 - bit_out) + bit_in);
                }
                bit_out += 1;
            }
            bit_in += 1;
        }
        c += 1;
    }
    t
}

const fn matrix() -> [[u8; MAX_DATA]; MAX_REPAIR] {
    let (exp, log) = (exp_table(), log_table());
    let mut t = [[1u8; MAX_DATA]; MAX_REPAIR];
    let mut i = 0;
    while i < MAX_DATA {
        t[1][i] = exp[i];
        let mut j = 2;
        while j < MAX_REPAIR {
            // i + j is in 2..=94, so the divisor 1 + 2^(i+j) is never zero.
            let divisor = 1 ^ exp[i + j];
            t[j][i] = exp[i + 255 - log[divisor as usize] as usize];
            j += 1;
        }
        i += 1;
    }
    t
}

/// The product `a * b`.
pub(super) fn mul(a: u8, b: u8) -> u8 {
    mul_with(&EXP, &LOG, a, b)
}

/// The inverse of `a`; `None` for zero.
pub(super) fn inv(a: u8) -> Option<u8> {
    (a != 0).then(|| EXP[255 - LOG[a as usize] as usize])
}

/// `row ^= c * other`, element by element.
pub(super) fn add_scaled(row: &mut [u8], c: u8, other: &[u8]) {
    let t = &NIBBLES[c as usize];
    for (a, &b) in row.iter_mut().zip(other) {
        *a ^= t.lo[usize::from(b & 15)] ^ t.hi[usize::from(b >> 4)];
    }
}

/// Replaces the leading `n` x `n` part of `m` by its inverse (Gauss-Jordan, in place).
///
/// No rows are swapped: in an MDS code every leading minor is invertible, so every pivot is
/// non-zero. `None` where a pivot is zero, which for parts of [`MATRIX`] cannot be.
pub(super) fn invert(m: &mut [[u8; MAX_DATA]; MAX_REPAIR], n: usize) -> Option<()> {
    for p in 0..n {
        let scale = inv(m[p][p])?;
        m[p][p] = 1;
        for a in &mut m[p][..n] {
            *a = mul(*a, scale);
        }
        let pivot = m[p];
        for (r, row) in m[..n].iter_mut().enumerate() {
            if r != p {
                let factor = std::mem::take(&mut row[p]);
                add_scaled(&mut row[..n], factor, &pivot[..n]);
            }
        }
    }
    Some(())
}
