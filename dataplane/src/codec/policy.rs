//! Which codec a lane uses: names, levels, and the numbers on the wire.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How the content of a slot is encoded (*wire*: byte 8 of the slot preamble).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum CodecId {
    /// As it is.
    Raw = 0,
    /// LZ4 block format, without a length prefix.
    Lz4 = 1,
    /// Raw DEFLATE, RFC 1951.
    Deflate = 2,
    /// One Zstandard frame, RFC 8878, without dictionary or checksum.
    Zstd = 3,
}

impl CodecId {
    /// Every encoding.
    pub const ALL: [CodecId; 4] = [CodecId::Raw, CodecId::Lz4, CodecId::Deflate, CodecId::Zstd];

    /// The encoding of a wire value; `None` for a value that this version does not know.
    pub fn from_wire(v: u8) -> Option<CodecId> {
        CodecId::ALL.into_iter().find(|&c| c as u8 == v)
    }

    /// Its name, as used in a policy.
    pub const fn name(self) -> &'static str {
        match self {
            CodecId::Raw => "none",
            CodecId::Lz4 => "lz4",
            CodecId::Deflate => "deflate",
            CodecId::Zstd => "zstd",
        }
    }
}

/// A compression algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Codec {
    /// LZ4: the fastest; has no levels (always 1).
    Lz4,
    /// DEFLATE, levels 1 to 12.
    Deflate,
    /// Zstandard, levels -5 (fastest) to 3, without 0 (which zstd takes as 3).
    Zstd,
}

impl Codec {
    /// How its output is marked on the wire.
    pub const fn id(self) -> CodecId {
        match self {
            Codec::Lz4 => CodecId::Lz4,
            Codec::Deflate => CodecId::Deflate,
            Codec::Zstd => CodecId::Zstd,
        }
    }

    /// The levels it may run at. Zstandard's excludes 0.
    pub const fn levels(self) -> RangeInclusive<i8> {
        match self {
            Codec::Lz4 => 1..=1,
            Codec::Deflate => 1..=12,
            Codec::Zstd => -5..=3,
        }
    }
}

/// What a lane does about compression.
///
/// Parses from and prints as `none`, `auto`, `lz4`, `deflate:6`, `zstd:1`, `zstd:-1`; a codec
/// named without a level gets 1 (`zstd`), 6 (`deflate`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// Never compress.
    #[default]
    None,
    /// Probe each block, and compress what looks compressible with LZ4, the codec that costs the
    /// least time per byte saved.
    Auto,
    /// Probe each block, and compress what looks compressible with this codec and level.
    Fixed(Codec, i8),
}

impl Policy {
    /// Codec and level that blocks are compressed with, where they are.
    pub const fn codec(self) -> Option<(Codec, i8)> {
        match self {
            Policy::None => None,
            Policy::Auto => Some((Codec::Lz4, 1)),
            Policy::Fixed(codec, level) => Some((codec, level)),
        }
    }
}

/// A compression policy that cannot be understood; says what was given and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No such policy.
    #[error(
        "unknown compression policy `{0}`; use none, auto, lz4, deflate:1..12 or zstd:-5..3, such as `deflate:6`"
    )]
    Unknown(String),
    /// The codec exists, the level does not.
    #[error("{codec} has no level `{level}`; use {lowest} to {highest}{but}")]
    Level {
        /// Codec named.
        codec: &'static str,
        /// Level given.
        level: String,
        /// Lowest allowed.
        lowest: i8,
        /// Highest allowed.
        highest: i8,
        /// Exception, or empty.
        but: &'static str,
    },
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Policy, PolicyError> {
        let (name, level) = match text.split_once(':') {
            Some((n, l)) => (n, Some(l)),
            None => (text, None),
        };
        let (codec, default) = match (name, level) {
            ("none", None) => return Ok(Policy::None),
            ("auto", None) => return Ok(Policy::Auto),
            ("lz4", None) => return Ok(Policy::Fixed(Codec::Lz4, 1)),
            ("deflate", _) => (Codec::Deflate, 6),
            ("zstd", _) => (Codec::Zstd, 1),
            _ => return Err(PolicyError::Unknown(text.to_owned())),
        };
        let Some(level) = level else {
            return Ok(Policy::Fixed(codec, default));
        };
        let zstd_zero = |v| codec == Codec::Zstd && v == 0;
        match level.parse::<i8>() {
            Ok(v) if codec.levels().contains(&v) && !zstd_zero(v) => Ok(Policy::Fixed(codec, v)),
            _ => Err(PolicyError::Level {
                codec: codec.id().name(),
                level: level.to_owned(),
                lowest: *codec.levels().start(),
                highest: *codec.levels().end(),
                but: if codec == Codec::Zstd {
                    ", without 0"
                } else {
                    ""
                },
            }),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::None => f.write_str("none"),
            Policy::Auto => f.write_str("auto"),
            Policy::Fixed(Codec::Lz4, _) => f.write_str("lz4"),
            Policy::Fixed(codec, level) => write!(f, "{}:{level}", codec.id().name()),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = PolicyError;

    fn try_from(s: String) -> Result<Policy, PolicyError> {
        s.parse()
    }
}

impl From<Policy> for String {
    fn from(p: Policy) -> String {
        p.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_policy_prints_as_it_parses() {
        let mut all = vec!["none".to_owned(), "auto".into(), "lz4".into()];
        all.extend((1..=12).map(|l| format!("deflate:{l}")));
        all.extend((-5..=3).filter(|&l| l != 0).map(|l| format!("zstd:{l}")));
        for text in all {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        assert_eq!("deflate".parse(), Ok(Policy::Fixed(Codec::Deflate, 6)));
        assert_eq!("zstd".parse(), Ok(Policy::Fixed(Codec::Zstd, 1)));
    }

    #[test]
    fn bad_policies_say_what_is_allowed() {
        for (text, part) in [
            ("", "unknown compression policy ``"),
            ("gzip", "use none, auto"),
            ("auto:1", "unknown"),
            ("deflate:13", "use 1 to 12"),
            ("deflate:", "no level ``"),
            ("zstd:0", "-5 to 3, without 0"),
            ("zstd:-6", "-5 to 3"),
        ] {
            let e = text.parse::<Policy>().unwrap_err().to_string();
            assert!(e.contains(part), "{text}: {e}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,20}") {
            let _ = text.parse::<Policy>();
        }
    }

    #[test]
    fn wire_values_are_fixed() {
        for (v, id) in [
            (0, CodecId::Raw),
            (1, CodecId::Lz4),
            (2, CodecId::Deflate),
            (3, CodecId::Zstd),
        ] {
            assert_eq!(CodecId::from_wire(v), Some(id));
        }
        assert_eq!(CodecId::from_wire(4), None);
    }
}
