//! End-to-end verification of content: digests of slots, the chain over them, coherence proofs.
//!
//! The authenticated encryption already stops every attacker on the network: a symbol that was
//! forged or altered never reaches a slot. What it cannot see is damage done *outside* it: a bit
//! that flips in memory before the seal or after the open, a codec that gives back other bytes, an
//! erasure decoder or a window that puts a byte in the wrong place, an application that reads a
//! slot twice. So each slot carries a digest of its content taken before compression, and the
//! receiver takes it again after decompression (boundary proof); both ends chain these digests in
//! slot order and compare the chain every 96 slots (coherence proof).
//!
//! Against such accidents a non-cryptographic 128-bit digest is enough, and it runs at memory
//! speed: that is [`Level::Fast`]. [`Level::Full`] uses BLAKE3, so that the witness (the
//! receiver's signed chain value) also convinces a third party who trusts neither end: nobody can
//! find other content with the same digest.
//!
//! No comparison here is constant-time: digests travel inside the encryption and are no secrets.

mod chain;
mod ledger;
mod xxh3;

pub use chain::{CHAIN_INPUT_LEN, Chain};
pub use ledger::{Coherence, LEDGER_SLOTS, Ledger, is_proof_point};

use std::fmt;
use std::str::FromStr;

/// How strong the digests are (*wire*: 0 fast, 1 full).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Level {
    /// XXH3, 128 bits: catches accidents.
    #[default]
    Fast = 0,
    /// BLAKE3, 256 bits: also collision-resistant.
    Full = 1,
}

impl Level {
    /// The level of a wire value; `None` for one that this version does not know.
    pub const fn from_wire(v: u8) -> Option<Level> {
        match v {
            0 => Some(Level::Fast),
            1 => Some(Level::Full),
            _ => None,
        }
    }

    /// `fast` or `full`.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Fast => "fast",
            Level::Full => "full",
        }
    }

    /// Bytes of a digest that are not zero padding: 16 or 32.
    pub const fn digest_len(self) -> usize {
        match self {
            Level::Fast => 16,
            Level::Full => 32,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(s: &str) -> Result<Level, UnknownLevel> {
        match s {
            "fast" => Ok(Level::Fast),
            "full" => Ok(Level::Full),
            _ => Err(UnknownLevel(s.to_owned())),
        }
    }
}

/// A verification level that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown verification level `{0}`; use fast or full")]
pub struct UnknownLevel(pub String);

/// A digest of 32 bytes; of 16 and as many zeros at [`Level::Fast`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    fn fast(hash: u128) -> Digest {
        let mut out = [0; 32];
        out[..16].copy_from_slice(&hash.to_le_bytes());
        Digest(out)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The digest of `content` (*wire*).
///
/// Fast: XXH3-128 with seed 0 as a little-endian integer, then 16 zero bytes. Full: BLAKE3-256.
pub fn digest(level: Level, content: &[u8]) -> Digest {
    match level {
        Level::Fast => Digest::fast(xxh3::hash(content)),
        Level::Full => Digest(*blake3::hash(content).as_bytes()),
    }
}

/// Copies `src` to `dst` and gives its digest. At [`Level::Fast`] that is one pass over memory, which
/// costs no more than the copy alone where `src` is not in the cache.
///
/// # Panics
/// If the lengths differ.
pub fn digest_copy(level: Level, dst: &mut [u8], src: &[u8]) -> Digest {
    match level {
        Level::Fast => Digest::fast(xxh3::hash_copy(dst, src)),
        Level::Full => {
            crate::crypto::copy::copy(dst, src);
            digest(level, dst)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // XXH3-128 of nothing: 99aa06d3014798d86001c324468d497f (xxHash reference, seed 0).
        assert_eq!(
            digest(Level::Fast, b"").to_string(),
            "7f498d4624c30160d8984701d306aa9900000000000000000000000000000000"
        );
        // BLAKE3 of nothing, from the BLAKE3 test vectors.
        assert_eq!(
            digest(Level::Full, b"").to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        // BLAKE3 of "abc".
        assert_eq!(
            digest(Level::Full, b"abc").to_string(),
            "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
        );
    }

    #[test]
    fn any_flipped_bit_changes_the_digest() {
        let content: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        for level in [Level::Fast, Level::Full] {
            let good = digest(level, &content);
            for bit in 0..content.len() * 8 {
                let mut bad = content.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(digest(level, &bad), good);
            }
            assert_ne!(digest(level, &content[..299]), good);
            assert!(good.0[level.digest_len()..].iter().all(|&b| b == 0));
        }
    }

    #[test]
    fn levels_have_names_and_numbers() {
        for level in [Level::Fast, Level::Full] {
            assert_eq!(Level::from_wire(level as u8), Some(level));
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!(Level::from_wire(2), None);
        assert!(
            "FAST"
                .parse::<Level>()
                .unwrap_err()
                .to_string()
                .contains("use fast or full")
        );
    }
}
