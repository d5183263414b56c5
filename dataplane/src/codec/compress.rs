//! Compression with contexts that live as long as the lane.

use super::policy::{Codec, CodecId, Policy};
use super::probe::looks_compressible;
use crate::base::limits::{MAX_DATA_SYMBOLS, MAX_SYMBOL_LEN};
use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use zstd_safe::CCtx;

/// Largest block that a compressor is prepared for: the largest slot, bytes.
pub const MAX_BLOCK_LEN: usize = MAX_DATA_SYMBOLS * MAX_SYMBOL_LEN;
/// Blocks below this are left raw: a symbol is a multiple of 64 bytes, so there is nothing to save.
const MIN_LEN: usize = 128;
/// A result must save at least 1/16 of the block, or the receiver's work is not worth it.
const MIN_SAVING_SHIFT: u32 = 4;
/// Longest run of blocks that are passed over after repeated misses.
const MAX_PENALTY: u32 = 16;

enum Context {
    None,
    Lz4 {
        table: CompressTable,
        /// LZ4 wants room for its worst case; where the destination has less it goes through here.
        scratch: Vec<u8>,
    },
    Deflate(libdeflater::Compressor),
    Zstd(CCtx<'static>, i8),
}

/// Compresses the slots of one lane. Not shared: one per lane and thread.
///
/// After construction it takes nothing from the Rust heap for blocks of up to [`MAX_BLOCK_LEN`];
/// longer ones are left raw. Zstandard may resize its own C workspace when block sizes change by
/// more than a factor of three.
pub struct Compressor {
    policy: Policy,
    context: Context,
    /// Blocks still to pass over.
    skip: u32,
    /// How many to pass over after the next miss.
    penalty: u32,
}

impl Compressor {
    /// Contexts for a policy. Where the C heap has no room for one, this panics, as a failed
    /// allocation of the Rust heap ends the process.
    pub fn new(policy: Policy) -> Compressor {
        let context = match policy.codec() {
            None => Context::None,
            Some((Codec::Lz4, _)) => Context::Lz4 {
                table: CompressTable::large(),
                scratch: vec![0; get_maximum_output_size(MAX_BLOCK_LEN)],
            },
            Some((Codec::Deflate, level)) => {
                let level = libdeflater::CompressionLvl::new(i32::from(level)).unwrap_or_default();
                Context::Deflate(libdeflater::Compressor::new(level))
            }
            Some((Codec::Zstd, level)) => Context::Zstd(CCtx::create(), level),
        };
        Compressor {
            policy,
            context,
            skip: 0,
            penalty: 1,
        }
    }

    /// The policy it was made for.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The level it compresses at, as the slot preamble carries it (two's complement; 0 for
    /// [`Policy::None`]). Informative: the receiver does not need it.
    pub fn level_byte(&self) -> u8 {
        self.policy.codec().map_or(0, |(_, level)| level as u8)
    }

    /// Compresses `src` into the front of `dst` if that pays, and returns the encoding and its
    /// length; `None` means that the block is to be sent raw, and `dst` then holds rubbish.
    ///
    /// It pays when the result is at least 1/16 shorter than `src` and fits `dst`. Blocks that
    /// look incompressible are not tried; after a block that was tried in vain the next 1, 2, 4 .. 16 are
    /// passed over.
    pub fn compress(&mut self, src: &[u8], dst: &mut [u8]) -> Option<(CodecId, usize)> {
        let (codec, _) = self.policy.codec()?;
        if !(MIN_LEN..=MAX_BLOCK_LEN).contains(&src.len()) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if !looks_compressible(src) {
            return None;
        }
        let room = dst.len().min(src.len() - (src.len() >> MIN_SAVING_SHIFT));
        let len = self.encode(src, dst, room);
        if len.is_some() {
            self.penalty = 1;
        } else {
            self.skip = self.penalty;
            self.penalty = (self.penalty * 2).min(MAX_PENALTY);
        }
        len.map(|n| (codec.id(), n))
    }

    /// Length of the encoding, or `None` where it takes more than `room` bytes of `dst`.
    fn encode(&mut self, src: &[u8], dst: &mut [u8], room: usize) -> Option<usize> {
        match &mut self.context {
            Context::None => None,
            Context::Lz4 { table, scratch } => {
                let worst = get_maximum_output_size(src.len());
                if dst.len() >= worst {
                    let n = compress_into_with_table(src, dst, table).ok()?;
                    return (n <= room).then_some(n);
                }
                let n = compress_into_with_table(src, &mut scratch[..worst], table).ok()?;
                dst[..room].get_mut(..n)?.copy_from_slice(&scratch[..n]);
                Some(n)
            }
            // These two stop as soon as the room is used up.
            Context::Deflate(c) => c.deflate_compress(src, &mut dst[..room]).ok(),
            Context::Zstd(c, level) => c.compress(&mut dst[..room], src, i32::from(*level)).ok(),
        }
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compressor({})", self.policy)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::codec::Decompressor;

    /// Pseudo-random bytes (xorshift64*).
    pub fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut s = seed.wrapping_mul(2).wrapping_add(0x9E37_79B9_7F4A_7C15);
        (0..len)
            .map(|_| {
                s ^= s >> 12;
                s ^= s << 25;
                s ^= s >> 27;
                (s.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 56) as u8
            })
            .collect()
    }

    /// Words in a random order.
    pub fn text(len: usize) -> Vec<u8> {
        let words =
            "the of lane slot window symbol frame and receiver sends a proof in order that \
                     every byte which enters leaves it once more verified before delivery"
                .split(' ')
                .collect::<Vec<_>>();
        let mut out = Vec::with_capacity(len + 16);
        for r in random(7, len) {
            if out.len() >= len {
                break;
            }
            out.extend_from_slice(words[r as usize % words.len()].as_bytes());
            out.push(b' ');
        }
        out.resize(len, b'.');
        out
    }

    /// Records with numbers.
    pub fn json(len: usize) -> Vec<u8> {
        let mut out = String::with_capacity(len + 64);
        for (i, r) in random(9, len).into_iter().enumerate() {
            if out.len() >= len {
                break;
            }
            let rate = u32::from(r) * 977;
            out.push_str(&format!(
                "{{\"id\":{i},\"lane\":{},\"rate\":{rate}}},\n",
                r % 16
            ));
        }
        let mut out = out.into_bytes();
        out.resize(len, b' ');
        out
    }

    fn policies() -> Vec<Policy> {
        let fixed = [
            "lz4",
            "deflate:1",
            "deflate:6",
            "deflate:12",
            "zstd:-5",
            "zstd:1",
            "zstd:3",
        ];
        let mut all: Vec<Policy> = fixed.iter().map(|p| p.parse().unwrap()).collect();
        all.push(Policy::Auto);
        all
    }

    #[test]
    fn compressible_data_round_trips_at_every_size() {
        let mut d = Decompressor::new();
        for policy in policies() {
            let mut c = Compressor::new(policy);
            for len in [
                128,
                129,
                1_000,
                65_534,
                65_535,
                65_536,
                90_048,
                MAX_BLOCK_LEN,
            ] {
                for src in [text(len), json(len), vec![0; len]] {
                    let mut dst = vec![0; len];
                    let Some((id, n)) = c.compress(&src, &mut dst) else {
                        assert!(len < 4_096, "{policy}: {len} left raw");
                        c.skip = 0;
                        continue;
                    };
                    assert!(n <= len - len / 16);
                    let mut back = vec![1; len];
                    d.decompress(id, &dst[..n], &mut back).unwrap();
                    assert_eq!(back, src);
                }
            }
        }
    }

    #[test]
    fn blocks_that_do_not_pay_are_left_raw() {
        for policy in policies() {
            let mut c = Compressor::new(policy);
            let mut dst = vec![0; 2 * MAX_BLOCK_LEN];
            assert_eq!(c.compress(&random(1, 90_048), &mut dst), None);
            assert_eq!(c.skip, 0, "the probe should have kept it from being tried");
            assert_eq!(c.compress(&text(127), &mut dst), None);
            assert_eq!(c.compress(&vec![0; MAX_BLOCK_LEN + 1], &mut dst), None);
            assert_eq!(c.compress(&[], &mut dst), None);
            assert_eq!(c.compress(&text(4_096), &mut dst[..64]), None);
            assert_eq!(c.compress(&text(4_096), &mut []), None);
        }
        let mut none = Compressor::new(Policy::None);
        assert_eq!(none.compress(&text(4_096), &mut [0; 8_192]), None);
    }

    #[test]
    fn misses_back_off_and_a_hit_resets() {
        // Random letters out of 128: uneven enough for the probe, no repeats for LZ4.
        let hard: Vec<u8> = random(5, 8_192).iter().map(|b| b & 0x7f).collect();
        let mut dst = vec![0; 16_384];
        let mut c = Compressor::new(Policy::Auto);
        let mut gaps = vec![];
        for _ in 0..5 {
            assert_eq!(c.compress(&hard, &mut dst), None);
            gaps.push(c.skip);
            for _ in 0..c.skip {
                assert_eq!(c.compress(&text(8_192), &mut dst), None, "passed over");
            }
        }
        assert_eq!(gaps, [1, 2, 4, 8, 16]);
        assert!(c.compress(&text(8_192), &mut dst).is_some());
        assert_eq!(c.penalty, 1);
    }

    #[test]
    fn levels_reach_the_preamble() {
        assert_eq!(Compressor::new(Policy::None).level_byte(), 0);
        assert_eq!(
            Compressor::new("zstd:-1".parse().unwrap()).level_byte() as i8,
            -1
        );
    }
}
