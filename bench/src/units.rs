//! Byte counts on the command line and in tables.

/// Parses `4GiB`, `500MB`, `64k`, `1048576`: decimal units (kB, MB, GB, TB) are powers of 1,000,
/// binary ones (KiB, MiB, GiB, TiB) of 1,024; a bare letter is binary.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .replace('_', "")
        .parse()
        .map_err(|_| format!("`{text}` is not a byte count"))?;
    let scale: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        other => {
            return Err(format!(
                "`{other}` is not a unit (kB MB GB TB, KiB MiB GiB TiB)"
            ));
        }
    };
    number
        .checked_mul(scale)
        .ok_or_else(|| format!("`{text}` is too large"))
}

/// Parses a bit rate: `400Mbit`, `1G`, `2.5Gbit`, `56000`; decimal, a second.
pub fn parse_bits(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a bit rate; give for instance 300Mbit or 1G");
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("/s").unwrap_or(&lower);
    let lower = lower.strip_suffix("bit").or(lower.strip_suffix('b'));
    let lower = lower.unwrap_or(text.trim()).to_ascii_lowercase();
    let (number, scale) = match lower.chars().last() {
        Some('k') => (&lower[..lower.len() - 1], 1e3),
        Some('m') => (&lower[..lower.len() - 1], 1e6),
        Some('g') => (&lower[..lower.len() - 1], 1e9),
        _ => (&*lower, 1.0),
    };
    let value = number.trim().parse::<f64>().map_err(|_| wrong())? * scale;
    match value {
        v if v.is_finite() && (1.0..=1e13).contains(&v) => Ok(v.round() as u64),
        _ => Err(wrong()),
    }
}

/// `300 Mb/s`, `1.5 Gb/s`.
pub fn show_bits(rate: u64) -> String {
    let r = rate as f64;
    match () {
        () if r >= 1e9 => format!("{} Gb/s", r / 1e9),
        () if r >= 1e6 => format!("{} Mb/s", r / 1e6),
        () if r >= 1e3 => format!("{} kb/s", r / 1e3),
        () => format!("{rate} b/s"),
    }
}

/// `4 GiB`, `1.5 MiB`: binary, at most one decimal.
pub fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 {
        format!("{value:.0} {}", units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_decimal_or_binary_as_written() {
        assert_eq!(parse_bytes("4GiB"), Ok(4 << 30));
        assert_eq!(parse_bytes("4 GB"), Ok(4_000_000_000));
        assert_eq!(parse_bytes("64k"), Ok(65_536));
        assert_eq!(parse_bytes("1_000"), Ok(1_000));
        for wrong in ["", "GiB", "1.5GiB", "-1", "5 parsec", "99999999999TiB"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_bytes(4 << 30), "4 GiB");
        assert_eq!(show_bytes(1536), "1.5 KiB");
        assert_eq!(show_bytes(7), "7 B");
    }

    #[test]
    fn bit_rates_are_decimal() {
        assert_eq!(parse_bits("400Mbit"), Ok(400_000_000));
        assert_eq!(parse_bits("2.5 Gbit/s"), Ok(2_500_000_000));
        assert_eq!(parse_bits("1G"), Ok(1_000_000_000));
        assert_eq!(parse_bits("64kb"), Ok(64_000));
        assert_eq!(parse_bits("56000"), Ok(56_000));
        for wrong in ["", "M", "-1M", "0", "fast", "1T", "infG"] {
            assert!(parse_bits(wrong).is_err(), "{wrong}");
        }
        assert_eq!(show_bits(400_000_000), "400 Mb/s");
        assert_eq!(show_bits(2_500_000_000), "2.5 Gb/s");
    }
}
