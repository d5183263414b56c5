//! Figures that fit their columns.

use ctp96::obs::text::bytes;

/// Bytes in at most eight characters, `1.5 MiB`.
pub fn short(n: u64) -> String {
    let whole = bytes(n);
    match whole.split_once(' ') {
        // At most four digits, since the next unit begins at 1,024.
        Some((number, unit)) if number.len() > 4 => {
            let cut: String = number.chars().take(4).collect();
            format!("{} {unit}", cut.trim_end_matches('.'))
        }
        _ => whole,
    }
}

/// A number in at most six characters, `12.3k`.
pub fn decimal(n: f64) -> String {
    match n {
        n if n <= 0.0 => "0".into(),
        n if n < 9.95 => format!("{n:.1}"),
        n if n < 9_999.5 => format!("{n:.0}"),
        n if n < 999_950.0 => format!("{:.1}k", n / 1e3),
        n if n < 999_950_000.0 => format!("{:.1}M", n / 1e6),
        n if n < 999.95e9 => format!("{:.1}G", n / 1e9),
        n => format!("{:.0e}", n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_their_columns() {
        for n in [
            0,
            1023,
            1024,
            123_456,
            1 << 20,
            (1 << 30) - 1,
            5 << 40,
            u64::MAX,
        ] {
            assert!(short(n).len() <= 9, "{}", short(n));
        }
        assert_eq!(short(1023 << 10), "1023 KiB");
        assert_eq!(short(3 << 19), "1.50 MiB");
        for n in [
            0.0, 0.04, 9.94, 9.96, 9_999.4, 9_999.6, 999_960.0, 1e9, 9.99e11, 1e30,
        ] {
            assert!(decimal(n).len() <= 6, "{}", decimal(n));
        }
        assert_eq!(
            (decimal(12_345.0), decimal(0.5)),
            ("12.3k".into(), "0.5".into())
        );
    }
}
