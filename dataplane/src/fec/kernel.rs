//! Which arithmetic runs: the kernels by name, their detection, and the calls into them.

use super::gf::{MATRIX, add_scaled};
use super::{Block, MAX_DATA};

/// The arithmetic behind a [`Fec`](super::Fec); all give the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Portable table look-ups; the oracle the others are tested against.
    Scalar,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX2 and GFNI.
    Gfni,
    /// x86-64 with AVX-512F and GFNI.
    Gfni512,
    /// AArch64 with Advanced SIMD.
    Neon,
}

impl Kernel {
    /// Every kernel, slowest first.
    pub const ALL: [Kernel; 5] = [
        Kernel::Scalar,
        Kernel::Neon,
        Kernel::Avx2,
        Kernel::Gfni,
        Kernel::Gfni512,
    ];

    /// Short name, for logs and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Scalar => "scalar",
            Kernel::Avx2 => "avx2",
            Kernel::Gfni => "gfni",
            Kernel::Gfni512 => "gfni512",
            Kernel::Neon => "neon",
        }
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Kernel::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("gfni"),
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni512 => {
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("gfni")
            }
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            _ => false,
        }
    }
}

/// A kernel that this CPU was seen to support; the proof behind every call below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Engine(Kernel);

/// Calls `$f` of the kernel's module, or `$scalar`.
macro_rules! call {
    ($self:ident, $scalar:expr, $($f:tt)+) => {
        match $self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Engine::new` saw AVX2.
            Kernel::Avx2 => unsafe { super::x86::avx2::$($f)+ },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Engine::new` saw AVX2 and GFNI.
            Kernel::Gfni => unsafe { super::x86::gfni::$($f)+ },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Engine::new` saw AVX-512F and GFNI.
            Kernel::Gfni512 => unsafe { super::x86::gfni512::$($f)+ },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `Engine::new` saw Advanced SIMD.
            Kernel::Neon => unsafe { super::neon::$($f)+ },
            _ => $scalar,
        }
    };
}

impl Engine {
    /// `None` where this CPU cannot run `kernel`.
    pub(super) fn new(kernel: Kernel) -> Option<Engine> {
        kernel.is_available().then_some(Engine(kernel))
    }

    /// The fastest there is.
    pub(super) fn detect() -> Engine {
        let fastest = Kernel::ALL.into_iter().rev().find(|k| k.is_available());
        Engine(fastest.unwrap_or(Kernel::Scalar))
    }

    pub(super) fn kernel(self) -> Kernel {
        self.0
    }

    /// Repair row 0: the sum of all sources.
    pub(super) fn row0(self, src: &[&[Block]], p: &mut [Block]) {
        call!(
            self,
            scalar_dot(src, &MATRIX[..1], &mut [p]),
            fold::<true, false>(src, p, &mut [])
        )
    }

    /// Repair row 1: the sum of `2^i * src[i]`.
    pub(super) fn row1(self, src: &[&[Block]], q: &mut [Block]) {
        call!(
            self,
            scalar_dot(src, &MATRIX[1..2], &mut [q]),
            fold::<false, true>(src, &mut [], q)
        )
    }

    /// Repair rows 0 and 1 in one pass.
    pub(super) fn rows01(self, src: &[&[Block]], p: &mut [Block], q: &mut [Block]) {
        call!(
            self,
            scalar_dot(src, &MATRIX[..2], &mut [p, q]),
            fold::<true, true>(src, p, q)
        )
    }

    /// `dst[r] = sum over i of coef[r][i] * src[i]`; all sources and outputs of one length.
    pub(super) fn dot(self, src: &[&[Block]], coef: &[Block], dst: &mut [&mut [Block]]) {
        call!(self, scalar_dot(src, coef, dst), dot(src, coef, dst))
    }
}

fn scalar_dot(src: &[&[Block]], coef: &[Block], dst: &mut [&mut [Block]]) {
    assert!(src.len() <= MAX_DATA && coef.len() == dst.len());
    for (coef, dst) in coef.iter().zip(dst) {
        let dst = dst.as_flattened_mut();
        dst.fill(0);
        for (&c, s) in coef.iter().zip(src) {
            add_scaled(dst, c, s.as_flattened());
        }
    }
}
