//! Decompression into a destination of the exact expected length.

use super::policy::CodecId;
use zstd_safe::DCtx;

/// Why a block could not be decompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecompressError {
    /// The input is no valid encoding, or would give more bytes than expected.
    #[error("the block is no valid {} data of the expected length", .0.name())]
    Invalid(CodecId),
    /// The input is valid but gives fewer bytes than expected.
    #[error("the block decompressed to {got} bytes, {expected} were expected")]
    Short {
        /// Bytes it gave.
        got: usize,
        /// Bytes the preamble promised.
        expected: usize,
    },
    /// The C heap had no room for a context when the decompressor was made.
    #[error("no memory for a decompression context")]
    NoContext,
}

/// Magic number of a Zstandard frame, RFC 8878 section 3.1.1.
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();

/// Decompresses the slots of one lane, whatever their encoding. Not shared: one per thread.
pub struct Decompressor {
    deflate: libdeflater::Decompressor,
    zstd: Option<DCtx<'static>>,
}

impl Decompressor {
    /// Contexts for every codec, about 110 KB in all.
    pub fn new() -> Decompressor {
        Decompressor {
            deflate: libdeflater::Decompressor::new(),
            zstd: DCtx::try_create(),
        }
    }

    /// Decodes `src` into `dst`, which must be exactly as long as the content.
    ///
    /// Reads nothing but `src` and writes nothing but `dst`, whatever the input; allocates
    /// nothing. On an error `dst` holds rubbish.
    pub fn decompress(
        &mut self,
        codec: CodecId,
        src: &[u8],
        dst: &mut [u8],
    ) -> Result<(), DecompressError> {
        let expected = dst.len();
        let invalid = DecompressError::Invalid(codec);
        let got = match codec {
            CodecId::Raw => {
                if src.len() > expected {
                    return Err(invalid);
                }
                dst[..src.len()].copy_from_slice(src);
                src.len()
            }
            CodecId::Lz4 => lz4_flex::block::decompress_into(src, dst).map_err(|_| invalid)?,
            CodecId::Deflate => self
                .deflate
                .deflate_decompress(src, dst)
                .map_err(|_| invalid)?,
            CodecId::Zstd => {
                // The library would also accept the formats of zstd 0.1 to 0.7 and frames that
                // are skipped; the wire format has neither.
                if !src.starts_with(&ZSTD_MAGIC) {
                    return Err(invalid);
                }
                let context = self.zstd.as_mut().ok_or(DecompressError::NoContext)?;
                context.decompress(dst, src).map_err(|_| invalid)?
            }
        };
        if got != expected {
            return Err(DecompressError::Short { got, expected });
        }
        Ok(())
    }
}

impl Default for Decompressor {
    fn default() -> Self {
        Decompressor::new()
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::compress::tests::{json, random};
    use crate::codec::{Compressor, Policy};
    use proptest::prelude::*;

    const GUARD: usize = 64;

    /// Decompresses into the middle of a larger buffer and checks that its margins stay as they were.
    fn guarded(codec: CodecId, src: &[u8], len: usize) -> Result<Vec<u8>, DecompressError> {
        let mut buf = vec![0xA5; len + 2 * GUARD];
        let result = Decompressor::new().decompress(codec, src, &mut buf[GUARD..GUARD + len]);
        assert!(
            buf[..GUARD]
                .iter()
                .chain(&buf[GUARD + len..])
                .all(|&b| b == 0xA5)
        );
        result.map(|()| buf[GUARD..GUARD + len].to_vec())
    }

    fn encoded(policy: &str, src: &[u8]) -> (CodecId, Vec<u8>) {
        let mut dst = vec![0; src.len()];
        let policy: Policy = policy.parse().unwrap();
        let (id, n) = Compressor::new(policy).compress(src, &mut dst).unwrap();
        dst.truncate(n);
        (id, dst)
    }

    const POLICIES: [&str; 3] = ["lz4", "deflate:6", "zstd:1"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn garbage_never_panics_or_strays(
            src in proptest::collection::vec(any::<u8>(), 0..600),
            len in 0usize..2_000,
            magic in any::<bool>(),
        ) {
            let mut src = src;
            if magic {
                src.splice(0..0, ZSTD_MAGIC);
            }
            for codec in CodecId::ALL {
                if let Ok(out) = guarded(codec, &src, len) {
                    prop_assert_eq!(out.len(), len);
                }
            }
        }

        #[test]
        fn damaged_blocks_never_panic_or_stray(
            len in 256usize..8_192,
            flips in proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6),
            cut in any::<prop::sample::Index>(),
            wrong_len in 0usize..10_000,
        ) {
            let src = json(len);
            for policy in POLICIES {
                let (id, good) = encoded(policy, &src);
                let mut bad = good.clone();
                for (at, mask) in &flips {
                    let i = at.index(bad.len());
                    bad[i] ^= mask;
                }
                let _ = guarded(id, &bad, len);
                let _ = guarded(id, &bad, wrong_len);
                let _ = guarded(id, &good[..cut.index(good.len())], len);
            }
        }
    }

    #[test]
    fn the_length_must_be_exact() {
        let src = json(4_096);
        for policy in POLICIES {
            let (id, enc) = encoded(policy, &src);
            assert_eq!(guarded(id, &enc, 4_096).unwrap(), src);
            assert_eq!(guarded(id, &enc, 4_095), Err(DecompressError::Invalid(id)));
            let short = DecompressError::Short {
                got: 4_096,
                expected: 4_097,
            };
            assert_eq!(guarded(id, &enc, 4_097), Err(short));
            assert!(guarded(id, &enc, 0).is_err());
            assert!(guarded(id, &[], 4_096).is_err());
        }
        assert!(guarded(CodecId::Raw, &src, 4_095).is_err());
        assert!(guarded(CodecId::Raw, &src, 4_097).is_err());
        assert_eq!(guarded(CodecId::Raw, &src, 4_096).unwrap(), src);
    }

    #[test]
    fn another_codecs_output_is_refused() {
        let src = json(4_096);
        let (_, lz4) = encoded("lz4", &src);
        let (_, zstd) = encoded("zstd:1", &src);
        assert!(guarded(CodecId::Zstd, &lz4, 4_096).is_err());
        assert!(guarded(CodecId::Deflate, &zstd, 4_096).is_err());
        assert!(guarded(CodecId::Lz4, &random(4, 500), 4_096).is_err());
    }

    #[test]
    fn known_encodings_decode() {
        // RFC 1951 stored block, LZ4 literals-only block, RFC 8878 frame with one raw block.
        let stored = [1, 3, 0, 0xFC, 0xFF, b'c', b't', b'p'];
        let lz4 = [0x30, b'c', b't', b'p'];
        let zstd = [
            0x28, 0xB5, 0x2F, 0xFD, 0x20, 3, 0x19, 0, 0, b'c', b't', b'p',
        ];
        for (id, src) in [
            (CodecId::Deflate, &stored[..]),
            (CodecId::Lz4, &lz4),
            (CodecId::Zstd, &zstd),
        ] {
            assert_eq!(guarded(id, src, 3).unwrap(), b"ctp");
        }
    }
}
