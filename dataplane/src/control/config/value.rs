//! Values with units and choices: sizes, rates, cores, repair symbols.

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

const BINARY: &[(&str, u64)] = &[
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const DECIMAL: &[(&str, u64)] = &[
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
/// Bits, as bytes per 8 of them; so only whole thousands of bits are exact.
const BITS: &[(&str, u64)] = &[
    ("Tbit", 125_000_000_000),
    ("Gbit", 125_000_000),
    ("Mbit", 125_000),
    ("kbit", 125),
];

/// A number with an optional fraction, times a unit; integer arithmetic, rounded down.
fn scaled(text: &str, tables: &[&[(&str, u64)]]) -> Option<u64> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim_start());
    let factor = match unit {
        "" => 1,
        _ => {
            tables
                .iter()
                .flat_map(|t| t.iter())
                .find(|(u, _)| *u == unit)?
                .1
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || number.ends_with('.') {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
        let part = part / 10u128.pow(fraction.len() as u32);
        value = value.checked_add(u64::try_from(part).ok()?)?;
    }
    Some(value)
}

fn largest_exact(n: u64, units: &[(&'static str, u64)]) -> Option<(u64, &'static str)> {
    let exact = units.iter().find(|(_, f)| n >= *f && n.is_multiple_of(*f));
    exact.map(|&(unit, factor)| (n / factor, unit))
}

/// An amount of bytes: `512MiB`, `1.5GiB`, `10GB`, `4096`.
///
/// KiB to PiB are powers of 1,024, kB to TB powers of 1,000; a bare number is bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(s: &str) -> Result<ByteSize, String> {
        scaled(s, &[BINARY, DECIMAL]).map(ByteSize).ok_or_else(|| {
            format!("`{s}` is no size; write a number and a unit of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB or PiB")
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = largest_exact(self.0, BINARY);
        let (n, unit) = exact
            .or_else(|| largest_exact(self.0, DECIMAL))
            .unwrap_or((0, "B"));
        write!(f, "{n}{unit}")
    }
}

/// How the sending rate of a path is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CcMode {
    /// By a model of the path (BBRv3): safe on paths shared with others.
    #[default]
    Auto,
    /// By loss (CUBIC), as most of TCP does: slow on paths that lose by themselves.
    Cubic,
    /// A constant rate, for links that nobody else uses. `fixed:2.5GB/s`, `fixed:10Gbit/s`.
    Fixed {
        /// The rate, bytes on the wire per second.
        bytes_per_s: u64,
    },
}

impl FromStr for CcMode {
    type Err = String;

    fn from_str(s: &str) -> Result<CcMode, String> {
        match s {
            "auto" | "bbr" => return Ok(CcMode::Auto),
            "cubic" => return Ok(CcMode::Cubic),
            _ => {}
        }
        let rate = s.strip_prefix("fixed:").and_then(|r| {
            let r = r.trim().strip_suffix("/s").unwrap_or(r.trim());
            scaled(r, &[BITS, DECIMAL])
        });
        match rate {
            Some(bytes_per_s) if bytes_per_s > 0 => Ok(CcMode::Fixed { bytes_per_s }),
            _ => Err(format!(
                "`{s}` is no mode; write auto, cubic, or fixed: and a rate such as fixed:2.5GB/s or fixed:10Gbit/s"
            )),
        }
    }
}

impl fmt::Display for CcMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            CcMode::Auto => f.write_str("auto"),
            CcMode::Cubic => f.write_str("cubic"),
            CcMode::Fixed { bytes_per_s } => {
                let (n, unit) = largest_exact(bytes_per_s, DECIMAL).unwrap_or((0, "B"));
                write!(f, "fixed:{n}{unit}/s")
            }
        }
    }
}

/// Which cores run lanes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cores {
    /// Chosen from the topology: physical cores near the NIC, one left to the system.
    #[default]
    Auto,
    /// This many, chosen in the same way.
    Count(usize),
    /// Exactly these CPU numbers.
    List(Vec<usize>),
}

/// Lanes of each session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lanes {
    /// As many as the stated path needs, and at least one for each core.
    Auto,
    /// This many.
    Count(usize),
}

/// What a path carries: `10Gbit/s`, `1.2GB/s`. Bytes on the wire per second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(s: &str) -> Result<Rate, String> {
        let number = s.trim().strip_suffix("/s").unwrap_or(s.trim());
        match scaled(number, &[BITS, DECIMAL]) {
            Some(n) if n > 0 && number.ends_with(['t', 'B']) => Ok(Rate(n)),
            _ => Err(format!(
                "`{s}` is no rate; write a number and a unit such as 10Gbit/s or 1.2GB/s"
            )),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = largest_exact(self.0, BITS).or_else(|| largest_exact(self.0, DECIMAL));
        let (n, unit) = exact.unwrap_or((0, "B"));
        write!(f, "{n}{unit}/s")
    }
}

impl FromStr for Lanes {
    type Err = String;

    fn from_str(s: &str) -> Result<Lanes, String> {
        if s == "auto" {
            return Ok(Lanes::Auto);
        }
        Err(format!("`{s}` is neither \"auto\" nor a number"))
    }
}

/// Repair symbols sent ahead with each slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Repair {
    /// As the measured loss asks for: none on a clean path.
    #[default]
    Auto,
    /// Always this many for each slot.
    Ahead(u8),
}

/// Deserializes from a string through `FromStr`, or from an integer through `from_int`.
struct TextOrInt<T> {
    expecting: &'static str,
    from_int: fn(u64) -> Result<T, String>,
    result: PhantomData<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for TextOrInt<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<T, E> {
        s.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<T, E> {
        (self.from_int)(n).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<T, E> {
        let n = u64::try_from(n).map_err(|_| E::custom(format!("{n} is negative")))?;
        self.visit_u64(n)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TextOrInt {
            expecting: "a size such as \"512MiB\"",
            from_int: |n| Ok(ByteSize(n)),
            result: PhantomData,
        })
    }
}

impl<'de> Deserialize<'de> for CcMode {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TextOrInt {
            expecting: "\"auto\", \"cubic\" or \"fixed:<rate>\"",
            from_int: |n| Err(format!("a bare {n} is ambiguous; write \"fixed:{n}MB/s\"")),
            result: PhantomData,
        })
    }
}

impl FromStr for Repair {
    type Err = String;

    fn from_str(s: &str) -> Result<Repair, String> {
        if s == "auto" {
            return Ok(Repair::Auto);
        }
        Err(format!("`{s}` is neither \"auto\" nor a number"))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TextOrInt {
            expecting: "a rate such as \"10Gbit/s\"",
            from_int: |n| Err(format!("a bare {n} is ambiguous; write \"{n}Gbit/s\"")),
            result: PhantomData,
        })
    }
}

impl<'de> Deserialize<'de> for Lanes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TextOrInt {
            expecting: "\"auto\" or a number of lanes",
            from_int: |n| Ok(Lanes::Count(usize::try_from(n).unwrap_or(usize::MAX))),
            result: PhantomData,
        })
    }
}

impl<'de> Deserialize<'de> for Repair {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(TextOrInt {
            expecting: "\"auto\" or a number of symbols",
            from_int: |n| match u8::try_from(n) {
                Ok(n) => Ok(Repair::Ahead(n)),
                Err(_) => Err(format!("{n} is too many")),
            },
            result: PhantomData,
        })
    }
}

struct CoresVisitor;

impl<'de> Visitor<'de> for CoresVisitor {
    type Value = Cores;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\", a number of cores, or a list of CPU numbers")
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<Cores, E> {
        match s {
            "auto" => Ok(Cores::Auto),
            _ => Err(E::invalid_value(de::Unexpected::Str(s), &self)),
        }
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Cores, E> {
        match usize::try_from(n) {
            Ok(n) => Ok(Cores::Count(n)),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(n), &self)),
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Cores, A::Error> {
        let mut list = Vec::new();
        while let Some(cpu) = seq.next_element()? {
            list.push(cpu);
        }
        Ok(Cores::List(list))
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(CoresVisitor)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for CcMode {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for Lanes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Lanes::Auto => s.serialize_str("auto"),
            Lanes::Count(n) => n.serialize(s),
        }
    }
}

impl Serialize for Repair {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Repair::Auto => s.serialize_str("auto"),
            Repair::Ahead(n) => s.serialize_u8(*n),
        }
    }
}

impl Serialize for Cores {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Cores::Auto => s.serialize_str("auto"),
            Cores::Count(n) => n.serialize(s),
            Cores::List(list) => list.serialize(s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_and_rates_parse() {
        for (text, n) in [
            ("512MiB", 512 << 20),
            ("1.5 GiB", 3 << 29),
            ("10GB", 10_000_000_000),
            ("4096", 4096),
            ("0", 0),
            ("0.001kB", 1),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(n)));
        }
        for bad in [
            "",
            "MiB",
            "1mib",
            "-1",
            "1..5GB",
            "1.",
            ".5GB",
            "1GiB/s",
            "99999999PiB",
            "1 2",
        ] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        for (text, bytes_per_s) in [
            ("fixed:2.5GB/s", 2_500_000_000),
            ("fixed:10Gbit/s", 1_250_000_000),
            ("fixed:100Mbit", 12_500_000),
        ] {
            assert_eq!(text.parse(), Ok(CcMode::Fixed { bytes_per_s }));
        }
        assert_eq!("bbr".parse(), Ok(CcMode::Auto));
        assert_eq!("cubic".parse(), Ok(CcMode::Cubic));
        assert_eq!(CcMode::Cubic.to_string(), "cubic");
        for bad in [
            "",
            "fixed",
            "fixed:",
            "fixed:0MB/s",
            "fixed:1GiB/s",
            "reno",
            "AUTO",
        ] {
            assert!(
                bad.parse::<CcMode>()
                    .unwrap_err()
                    .contains("fixed:10Gbit/s"),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn printing_is_exact(n in any::<u64>(), shift in 0u32..50) {
            let n = (n >> shift) << (shift / 2);
            prop_assert_eq!(ByteSize(n).to_string().parse(), Ok(ByteSize(n)));
            let mode = CcMode::Fixed { bytes_per_s: n.max(1) };
            prop_assert_eq!(mode.to_string().parse(), Ok(mode));
        }

        #[test]
        fn any_text_is_parsed_or_refused(s in ".{0,24}") {
            let _ = (s.parse::<ByteSize>(), s.parse::<CcMode>());
        }
    }
}
