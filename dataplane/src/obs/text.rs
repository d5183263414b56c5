//! Numbers and tables for people: fixed-width, one unit system, no colour.

use super::counters::Counter;
use super::hist::Summary;
use crate::base::limits::TARGET_BYTES_PER_S;
use std::fmt::Write as _;

/// A rate in decimal units, `1.60 GB/s` for 1.6e9 bytes per second.
pub fn rate(bytes_per_s: f64) -> String {
    let (value, unit) = match bytes_per_s {
        r if r >= 1e9 => (r / 1e9, "GB/s"),
        r if r >= 1e6 => (r / 1e6, "MB/s"),
        r if r >= 1e3 => (r / 1e3, "kB/s"),
        r => (r, "B/s"),
    };
    format!("{value:.2} {unit}")
}

/// A rate as a share of [`TARGET_BYTES_PER_S`] (25 GB/s), `6.4 %` for 1.6e9.
pub fn percent_of_target(bytes_per_s: f64) -> String {
    format!("{:.1} %", bytes_per_s / TARGET_BYTES_PER_S * 100.0)
}

/// A rate with its share of the target: `1.60 GB/s (6.4 % of 25 GB/s)`.
pub fn rate_and_target(bytes_per_s: f64) -> String {
    format!(
        "{} ({} of {:.0} GB/s)",
        rate(bytes_per_s),
        percent_of_target(bytes_per_s),
        TARGET_BYTES_PER_S / 1e9
    )
}

/// Bytes per second of `bytes` in `ns` nanoseconds; 0 when no time passed.
pub fn bytes_per_s(bytes: u64, ns: u64) -> f64 {
    if ns == 0 {
        0.0
    } else {
        bytes as f64 / (ns as f64 / 1e9)
    }
}

/// An amount of memory or data in binary units, `1.50 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}

/// A duration given in nanoseconds, with three to four digits: `850 ns`, `12.3 us`, `4.56 s`.
pub fn duration(ns: u64) -> String {
    if ns < 1_000 {
        return format!("{ns} ns");
    }
    let v = ns as f64;
    let (value, unit) = match ns {
        ..1_000_000 => (v / 1e3, "us"),
        1_000_000..1_000_000_000 => (v / 1e6, "ms"),
        1_000_000_000..120_000_000_000 => (v / 1e9, "s"),
        _ => {
            let s = ns / 1_000_000_000;
            return if s < 7_200 {
                format!("{} min {:02} s", s / 60, s % 60)
            } else {
                format!("{} h {:02} min", s / 3600, s / 60 % 60)
            };
        }
    };
    if value < 10.0 {
        format!("{value:.2} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A count with its thousands separated: `12,288`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// A fixed-width table of latency summaries, one row per `(name, summary)`.
pub fn hist_table<'a>(rows: impl IntoIterator<Item = (&'a str, Summary)>) -> String {
    let mut out = format!(
        "{:<18}{:>14}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}\n",
        "", "count", "mean", "p50", "p90", "p99", "p99.9", "max"
    );
    for (name, s) in rows {
        let mut row = format!("{name:<18}{:>14}", count(s.count));
        let values = [s.mean.round() as u64, s.p50, s.p90, s.p99, s.p999, s.max];
        for ns in values {
            let text = if s.count == 0 {
                "-".to_owned()
            } else {
                duration(ns)
            };
            // Writing to a String cannot fail.
            let _ = write!(row, "{text:>11}");
        }
        out.push_str(&row);
        out.push('\n');
    }
    out
}

/// A fixed-width table of counters: name, value, sentence. Zeros are left out unless `all`.
pub fn counter_table(snapshot: &[u64], all: bool) -> String {
    let mut out = String::new();
    for (&c, &v) in Counter::ALL.iter().zip(snapshot) {
        if v != 0 || all {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{:<28}{:>20}  {}", c.name(), count(v), c.label());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(rate_and_target(1.6e9), "1.60 GB/s (6.4 % of 25 GB/s)");
        assert_eq!(rate(999.0), "999.00 B/s");
        assert_eq!(rate(2.5e6), "2.50 MB/s");
        assert_eq!(bytes_per_s(25, 1), 25e9);
        assert_eq!(bytes_per_s(25, 0), 0.0);
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(3 << 29), "1.50 GiB");
        assert_eq!(bytes(u64::MAX), "16384.00 PiB");
        for (ns, text) in [
            (0, "0 ns"),
            (850, "850 ns"),
            (12_345, "12.3 us"),
            (4_560_000, "4.56 ms"),
            (4_560_000_000, "4.56 s"),
            (125_000_000_000, "2 min 05 s"),
            (8_000_000_000_000, "2 h 13 min"),
        ] {
            assert_eq!(duration(ns), text);
        }
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(n), text);
        }
    }

    #[test]
    fn tables_are_aligned() {
        let s = Summary {
            count: 1_000_000,
            mean: 1_500.0,
            p50: 1_400,
            p90: 2_000,
            p99: 30_000,
            p999: 1_000_000,
            max: 4_000_000_000,
        };
        let t = hist_table([("rtt", s), ("one_way_slot", Summary::default())]);
        let lines: Vec<_> = t.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|l| l.len() == lines[0].len()));
        assert!(lines[1].contains("1.40 us") && lines[2].ends_with('-'));
        let c = counter_table(&[1_000, 0, 7], false);
        assert_eq!(c.lines().count(), 2);
        assert!(c.starts_with("rx_frames") && c.contains("1,000"));
    }
}
