//! The percentile curve of a histogram, and its plot in characters.

use ctp96::control::api::HistRow;
use ctp96::obs::text::{count, duration};
use hdrhistogram::Histogram as Hdr;
use std::fmt::Write as _;

/// Marks of the axis: how many nines, and what is written there.
pub const MARKS: [(f64, &str); 7] = [
    (0.0, "0"),
    (0.301, "50"),
    (1.0, "90"),
    (2.0, "99"),
    (3.0, "99.9"),
    (4.0, "99.99"),
    (5.0, "99.999"),
];

/// Columns and rows of a plot in characters.
const COLUMNS: usize = 60;
const ROWS: usize = 12;

/// The value below which all but one in 10^`nines` values are.
pub fn at(values: &Hdr<u64>, nines: f64) -> u64 {
    values.value_at_quantile(1.0 - 10f64.powf(-nines))
}

/// How far to the right the curve has something to say: one value in so many is the largest.
pub fn extent(values: &Hdr<u64>) -> f64 {
    (values.len() as f64).log10().clamp(1.0, 5.5)
}

/// Smallest and largest value of the scale, a little apart at least.
pub fn scale(values: &Hdr<u64>) -> (f64, f64) {
    let low = (values.min_nz().min(values.max()) as f64).max(1.0);
    (low, (values.max() as f64).max(low * 1.1))
}

/// Where `ns` is between the ends of the scale, 0 to 1, logarithmic.
pub fn height(ns: u64, (low, high): (f64, f64)) -> f64 {
    (((ns as f64).max(low) / low).ln() / (high / low).ln()).clamp(0.0, 1.0)
}

/// `ctp96 hist --plot`: one plot for each histogram that has values.
pub fn plots(rows: &[HistRow]) -> String {
    let drawn: Vec<String> = rows
        .iter()
        .filter_map(|r| Some(plot(r, &r.values().filter(|v| !v.is_empty())?)))
        .collect();
    if drawn.is_empty() {
        return "nothing recorded yet\n".into();
    }
    drawn.join("\n")
}

fn plot(row: &HistRow, values: &Hdr<u64>) -> String {
    let (ends, extent) = (scale(values), extent(values));
    let step = extent / (COLUMNS - 1) as f64;
    let tops: Vec<usize> = (0..COLUMNS)
        .map(|column| {
            let up = height(at(values, column as f64 * step), ends);
            (up * (ROWS - 1) as f64).round() as usize
        })
        .collect();
    // Steps are drawn as such.
    let sign = |y: usize, column: usize| match (tops[column], tops[column.saturating_sub(1)]) {
        (top, _) if y == top => '*',
        (top, before) if (before..top).contains(&y) => '|',
        _ => ' ',
    };
    // Writing to a String cannot fail, so the results are dropped.
    let mut out = String::new();
    let of = row
        .of
        .as_deref()
        .map_or(String::new(), |o| format!(", {o}"));
    let n = count(values.len());
    let _ = writeln!(out, "{}{of}: {} {n} values", row.name, row.label);
    for y in (0..ROWS).rev() {
        let value = ends.0 * (ends.1 / ends.0).powf(y as f64 / (ROWS - 1) as f64);
        let label = if y % 3 == 2 || y == 0 {
            duration(value.round() as u64)
        } else {
            String::new()
        };
        let line: String = (0..COLUMNS).map(|column| sign(y, column)).collect();
        let _ = writeln!(out, "{label:>10} |{}", line.trim_end());
    }
    let _ = writeln!(out, "{:>10} +{}", "", "-".repeat(COLUMNS));
    let mut axis = String::new();
    for (nines, text) in MARKS.iter().filter(|(nines, _)| *nines <= extent) {
        let column = (nines / step).round() as usize;
        if axis.is_empty() || column > axis.len() {
            let _ = write!(axis, "{:column$}{text}", "", column = column - axis.len());
        }
    }
    let _ = writeln!(out, "{:>10}  {axis} percentile", "");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctp96::obs::{Hist, Histogram};

    #[test]
    fn a_curve_rises_from_the_smallest_to_the_largest_value() {
        let h = Histogram::new();
        for i in 1..=10_000u64 {
            h.record(i * 1_000);
        }
        let row = HistRow::of(Hist::Rtt, &h.snapshot());
        let values = row.values().expect("values");
        assert!(at(&values, 0.0) < 2_000 && at(&values, 4.0) > 9_900_000);
        assert!((4_900_000..5_100_000).contains(&at(&values, 0.301)));
        let text = plots(&[
            row,
            HistRow::of(Hist::StageSeal, &Histogram::new().snapshot()),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 1 + ROWS + 2, "{text}");
        assert!(lines[0].starts_with("rtt: ") && lines[0].ends_with("10,000 values"));
        assert!(
            lines[1].contains('*') && lines[ROWS].contains("*"),
            "{text}"
        );
        assert!(lines[1].find('*') > lines[ROWS].find('*'), "{text}");
        assert!(text.contains("99.99 percentile"), "{text}");
        assert!(
            text.lines().all(|l| l.len() < 100 && l.is_ascii()),
            "{text}"
        );
    }

    #[test]
    fn a_single_value_and_none_are_drawn_too() {
        let h = Histogram::new();
        h.record(5);
        assert!(plots(&[HistRow::of(Hist::Rtt, &h.snapshot())]).contains('*'));
        let zero = Histogram::new();
        zero.record(0);
        assert!(plots(&[HistRow::of(Hist::Rtt, &zero.snapshot())]).contains('*'));
        assert_eq!(plots(&[]), "nothing recorded yet\n");
    }
}
