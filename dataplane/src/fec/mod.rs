//! Forward error correction: a systematic, maximum-distance-separable Reed-Solomon code over the
//! symbols of one slot.
//!
//! A slot has `k` data symbols (1 to 64) of `symbol_len` bytes, a multiple of 64, and up to 32
//! repair symbols of the same length. Any `k` of them rebuild the slot.
//!
//! # The code
//!
//! Every byte position is coded by itself, in the field GF(2^8) of bytes taken as polynomials over
//! GF(2) (bit `b` is the coefficient of x^b) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d). Addition is
//! exclusive or; the element 2 (that is, x) generates all 255 non-zero elements. Byte `b` of repair
//! symbol `j` is
//!
//! ```text
//! repair[j][b] = sum over i = 0 .. k-1 of  A[j][i] * data[i][b]
//!
//! A[0][i] = 1
//! A[1][i] = 2^i
//! A[j][i] = 2^i / (1 + 2^(i+j))          for j = 2 .. 31
//! ```
//!
//! with `+`, `*`, `/` and powers those of the field. The weights do not depend on `k`: a shorter
//! slot uses fewer columns. Examples: `A[2][0]` = 1 / (1 + 4) = 0xa7 and `A[31][63]` is checked with
//! the rest of the vectors in this room's tests.
//!
//! # Why any `k` symbols suffice
//!
//! With y_i = 2^-i, row `j >= 2` is `1 / (x_j + y_i)` with x_j = 2^j, row 1 is `1 / (x_1 + y_i)`
//! with x_1 = 0, and row 0 is the limit of `x / (x + y_i)` for x at infinity: a Cauchy matrix
//! extended by the point at infinity. Its x_j and y_i are all different (the exponents 2..31 and
//! 0, 192..254), so every square submatrix is invertible, which is the MDS property.
//! (MacWilliams and Sloane, *The Theory of Error-Correcting Codes*, chapters 10 and 11.)
//!
//! The choice pays in speed: one repair symbol is a plain exclusive or, and the second follows by
//! Horner's rule with one doubling a byte, as in RAID-6.
//!
//! # Cost
//!
//! Encoding reads each data symbol once for rows 0 and 1 together, and once more for each further
//! group of rows. Decoding inverts only the matrix of lost symbols and then costs about
//! `lost * k` symbol operations; one lost symbol with repair symbol 0 at hand is exclusive or.
//! Nothing here allocates.

mod gf;
mod kernel;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use kernel::Kernel;

use crate::base::Bits96;
use crate::base::limits::{MAX_DATA_SYMBOLS, MAX_REPAIR_SYMBOLS, SYMBOL_ALIGN};
use gf::MATRIX;
use kernel::Engine;

const MAX_DATA: usize = MAX_DATA_SYMBOLS;
const MAX_REPAIR: usize = MAX_REPAIR_SYMBOLS;

/// The step of all kernels; symbols are a whole number of them. A row of 64 weights is one too.
type Block = [u8; SYMBOL_ALIGN];

// Rows of weights pass through the kernels as blocks when a decode combines them.
const _: () = assert!(MAX_DATA == SYMBOL_ALIGN);

/// Why a slot cannot be decoded; its buffers are then unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FecError {
    /// `k` is not in 1..=64, or the symbol length is zero or no multiple of 64.
    #[error(
        "{k} data symbols of {symbol_len} bytes: 1 to 64 symbols of a multiple of 64 bytes are allowed"
    )]
    Shape {
        /// Data symbols asked for.
        k: usize,
        /// Symbol length asked for, bytes.
        symbol_len: usize,
    },
    /// A buffer ends before a symbol that it should hold.
    #[error("the buffer of {len} bytes ends before the symbols it should hold ({needed} bytes)")]
    Buffer {
        /// Bytes there are.
        len: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// Fewer repair symbols are at hand than data symbols are lost.
    #[error("{lost} data symbols are lost and {repair} repair symbols are at hand")]
    TooFew {
        /// Data symbols lost.
        lost: usize,
        /// Repair symbols at hand.
        repair: usize,
    },
    /// The lost symbols' matrix has no inverse; the code is MDS, so this cannot be.
    #[error("the matrix of the lost symbols has no inverse")]
    Singular,
}

/// The encoder and decoder; a choice of kernel, free to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fec(Engine);

impl Fec {
    /// With the fastest kernel of this CPU.
    pub fn detect() -> Fec {
        Fec(Engine::detect())
    }

    /// With `kernel`; `None` where this CPU cannot run it.
    pub fn with_kernel(kernel: Kernel) -> Option<Fec> {
        Engine::new(kernel).map(Fec)
    }

    /// The kernel in use.
    pub fn kernel(&self) -> Kernel {
        self.0.kernel()
    }

    /// Computes repair symbol `repair_index` (below 32) of the `k` symbols at the start of `data`
    /// into `out`, which is `symbol_len` bytes long.
    ///
    /// # Panics
    /// Where `k` is not in 1..=64, `symbol_len` is zero or no multiple of 64, `repair_index` is 32
    /// or more, `data` is shorter than `k * symbol_len`, or `out` is not `symbol_len` long.
    pub fn encode_one(
        &self,
        k: usize,
        symbol_len: usize,
        data: &[u8],
        repair_index: usize,
        out: &mut [u8],
    ) {
        assert!(repair_index < MAX_REPAIR, "repair index {repair_index}");
        assert_eq!(out.len(), symbol_len, "length of the repair symbol");
        let mut src = [&[] as &[Block]; MAX_DATA];
        let src = sources(k, symbol_len, data, &mut src);
        let out = out.as_chunks_mut().0;
        match repair_index {
            0 => self.0.row0(src, out),
            1 => self.0.row1(src, out),
            j => self.0.dot(src, &MATRIX[j..=j], &mut [out]),
        }
    }

    /// Computes repair symbols `0..m` of the `k` symbols at the start of `data` into `out`, which
    /// is `m * symbol_len` bytes long; faster than one by one.
    ///
    /// # Panics
    /// As [`Fec::encode_one`], where `m` is above 32, or where `out` is not `m * symbol_len` long.
    pub fn encode(&self, k: usize, symbol_len: usize, data: &[u8], m: usize, out: &mut [u8]) {
        assert!(m <= MAX_REPAIR, "{m} repair symbols");
        assert_eq!(
            Some(out.len()),
            symbol_len.checked_mul(m),
            "length of the repair symbols"
        );
        let mut src = [&[] as &[Block]; MAX_DATA];
        let src = sources(k, symbol_len, data, &mut src);
        let mut rows = out
            .as_chunks_mut()
            .0
            .chunks_exact_mut(symbol_len / SYMBOL_ALIGN);
        match (rows.next(), rows.next()) {
            (Some(p), Some(q)) => self.0.rows01(src, p, q),
            (Some(p), None) => self.0.row0(src, p),
            _ => return,
        }
        let mut dst: [&mut [Block]; MAX_REPAIR] =
            std::array::from_fn(|_| &mut [] as &mut [Block]);
        let mut n = 0;
        for (slot, row) in dst.iter_mut().zip(rows) {
            *slot = row;
            n += 1;
        }
        self.0.dot(src, &MATRIX[2..2 + n], &mut dst[..n]);
    }

    /// Rebuilds the missing data symbols of a slot in place.
    ///
    /// `data` holds the `k` data symbols at multiples of `symbol_len`, `repair` repair symbol `j`
    /// at `j * symbol_len`. Bit `i < k` of `have` says that data symbol `i` is valid, bit `k + j`
    /// that repair symbol `j` is; other bits and the bytes of other symbols are ignored. `repair`
    /// may end after the last symbol in use. Of the repair symbols at hand those of the lowest
    /// index are used.
    ///
    /// # Errors
    /// Any wrong shape, short buffer or lack of symbols gives a [`FecError`]; it never panics.
    pub fn decode(
        &self,
        k: usize,
        symbol_len: usize,
        data: &mut [u8],
        repair: &[u8],
        have: Bits96,
    ) -> Result<(), FecError> {
        let size = check_shape(k, symbol_len, data.len())?;
        let lost_set = Bits96::first(k).minus(have);
        let lost = lost_set.len();
        if lost == 0 {
            return Ok(());
        }
        // `lost[t]` is rebuilt with the help of repair row `rows[t]`.
        let at_hand = have.shift_down(k).and(Bits96::first(MAX_REPAIR));
        if at_hand.len() < lost {
            return Err(FecError::TooFew {
                lost,
                repair: at_hand.len(),
            });
        }
        let mut rows = [0usize; MAX_REPAIR];
        for (row, j) in rows.iter_mut().zip(at_hand.iter()).take(lost) {
            *row = j;
        }
        let rows = &rows[..lost];

        // Sources: each data symbol at its index, each lost one replaced by its repair symbol.
        let mut src = [&[] as &[Block]; MAX_DATA];
        let mut dst: [&mut [Block]; MAX_REPAIR] =
            std::array::from_fn(|_| &mut [] as &mut [Block]);
        let mut t = 0;
        for (i, symbol) in data[..size].chunks_exact_mut(symbol_len).enumerate() {
            let blocks = symbol.as_chunks_mut().0;
            if lost_set.contains(i) {
                src[i] = symbol_at(repair, rows[t], symbol_len)?;
                dst[t] = blocks;
                t += 1;
            } else {
                src[i] = blocks;
            }
        }
        let (src, dst) = (&src[..k], &mut dst[..lost]);

        if let ([0], [out]) = (rows, &mut *dst) {
            self.0.row0(src, out);
            return Ok(());
        }
        let coef = self.recovery_weights(lost_set, rows)?;
        self.0.dot(src, &coef[..lost], dst);
        Ok(())
    }

    /// Weights that turn the present data symbols, with repair symbol `rows[t]` in the place of the
    /// `t`-th lost one, into the lost symbols.
    ///
    /// With M the part of the matrix at `rows` x lost columns: lost = M^-1 (repair - A present).
    fn recovery_weights(
        &self,
        lost_set: Bits96,
        rows: &[usize],
    ) -> Result<[Block; MAX_REPAIR], FecError> {
        let n = rows.len();
        let mut inverse = [[0u8; MAX_DATA]; MAX_REPAIR];
        for (line, &j) in inverse.iter_mut().zip(rows) {
            for (a, i) in line.iter_mut().zip(lost_set.iter()) {
                *a = MATRIX[j][i];
            }
        }
        gf::invert(&mut inverse, n).ok_or(FecError::Singular)?;

        // M^-1 A is itself a dot product, of matrix rows taken as 64-byte symbols.
        let mut src = [&[] as &[Block]; MAX_REPAIR];
        for (s, &j) in src.iter_mut().zip(rows) {
            *s = std::slice::from_ref(&MATRIX[j]);
        }
        let mut coef = [[0u8; MAX_DATA]; MAX_REPAIR];
        let mut dst: [&mut [Block]; MAX_REPAIR] = coef.each_mut().map(std::slice::from_mut);
        self.0.dot(&src[..n], &inverse[..n], &mut dst[..n]);
        for (line, inv) in coef.iter_mut().zip(&inverse).take(n) {
            for (t, i) in lost_set.iter().enumerate() {
                line[i] = inv[t];
            }
        }
        Ok(coef)
    }
}

/// Checks a slot's shape against its buffer; gives the bytes of its data symbols.
fn check_shape(k: usize, symbol_len: usize, len: usize) -> Result<usize, FecError> {
    if k == 0 || k > MAX_DATA || symbol_len == 0 || !symbol_len.is_multiple_of(SYMBOL_ALIGN) {
        return Err(FecError::Shape { k, symbol_len });
    }
    let needed = k
        .checked_mul(symbol_len)
        .ok_or(FecError::Shape { k, symbol_len })?;
    if len < needed {
        Err(FecError::Buffer { len, needed })
    } else {
        Ok(needed)
    }
}

/// Cuts the data of a slot into symbols; panics on a wrong shape.
fn sources<'a, 'b>(
    k: usize,
    symbol_len: usize,
    data: &'a [u8],
    src: &'b mut [&'a [Block]; MAX_DATA],
) -> &'b [&'a [Block]] {
    let size = match check_shape(k, symbol_len, data.len()) {
        Ok(size) => size,
        // The sender chose this shape itself (`cut_slot`): a wrong one is a bug, not an input.
        Err(e) => panic!("{e}"),
    };
    for (s, symbol) in src.iter_mut().zip(data[..size].chunks_exact(symbol_len)) {
        *s = symbol.as_chunks().0;
    }
    &src[..k]
}

/// Symbol `index` of a buffer of symbols.
fn symbol_at(buf: &[u8], index: usize, symbol_len: usize) -> Result<&[Block], FecError> {
    let end = symbol_len.saturating_mul(index + 1);
    match buf.get(end.saturating_sub(symbol_len)..end) {
        Some(symbol) => Ok(symbol.as_chunks().0),
        None => Err(FecError::Buffer {
            len: buf.len(),
            needed: end,
        }),
    }
}
