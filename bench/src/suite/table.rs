//! A document as tables for the terminal.

use crate::bottleneck;
use crate::schema::{Case, Document, Noise, Suite};
use std::fmt::Write;

/// Everything in a document.
pub fn document(doc: &Document) -> String {
    let m = &doc.method;
    let mut out = format!(
        "{}\n{} rounds of about {} s a case after {} unmeasured, interleaved; medians; sender on CPU \
         {}, receiver on CPU {}; {:.0} s in all\nnoise: {}\n",
        doc.host.lines(),
        m.runs,
        m.seconds,
        m.warmup,
        m.sender_core,
        m.receiver_core,
        doc.seconds,
        noise(&doc.noise)
    );
    for s in &doc.suites {
        let _ = writeln!(
            out,
            "\n## {}: {}\n\n{:.0} s; noise: {}\n\n{}",
            s.name,
            s.title,
            s.seconds,
            noise(&s.noise),
            suite(s)
        );
    }
    if !doc.bottlenecks.is_empty() {
        let _ = write!(
            out,
            "\n## where the time goes\n{}",
            bottleneck::table(&doc.bottlenecks)
        );
    }
    if let Some(t) = &doc.target {
        let _ = writeln!(out, "\n## target\n\n{}", t.text());
    }
    out
}

/// The three figures of noise in a line.
pub fn noise(n: &Noise) -> String {
    format!(
        "other load {:.0} %, steal {:.1} %, clock {:+.1} %",
        n.other_load * 100.0,
        n.steal * 100.0,
        n.clock_drift * 100.0
    )
}

/// A number with three significant digits at least.
pub fn number(v: f64) -> String {
    let a = v.abs();
    match () {
        () if a == 0.0 => "0".to_owned(),
        () if a >= 100.0 => format!("{v:.0}"),
        () if a >= 10.0 => format!("{v:.1}"),
        () if a >= 1.0 => format!("{v:.2}"),
        () if a >= 0.1 => format!("{v:.3}"),
        () => format!("{v:.4}"),
    }
}

/// Names in the order in which they first come.
fn union<'a>(cases: &'a [Case], names: impl Fn(&'a Case) -> Vec<String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in cases.iter().flat_map(names) {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

/// Columns and rows of a suite; the last column says why a case has no figures.
pub fn grid(s: &Suite) -> (Vec<String>, Vec<Vec<String>>) {
    let params = union(&s.cases, |c| c.params.iter().map(|p| p.0.clone()).collect());
    let metrics = union(&s.cases, |c| {
        c.metrics.iter().map(|m| m.name.clone()).collect()
    });
    let ratios = union(&s.cases, |c| {
        let name = |r: &crate::schema::Ratio| format!("{} / {}", r.metric, r.to);
        c.ratios.iter().map(name).collect()
    });
    let unit = |name: &String| {
        let hit = s.cases.iter().find_map(|c| c.metric(name));
        match hit.map(|m| m.unit.as_str()) {
            None | Some("") => name.clone(),
            Some(unit) => format!("{name}, {unit}"),
        }
    };
    let mut head = params.clone();
    for (i, m) in metrics.iter().enumerate() {
        head.push(unit(m));
        if i == 0 {
            head.push("min - max".to_owned());
        }
    }
    head.extend(ratios.iter().cloned());
    let notes = s
        .cases
        .iter()
        .any(|c| c.skipped.is_some() || c.failed.is_some());
    if notes {
        head.push("note".to_owned());
    }
    let row = |c: &Case| {
        let mut row: Vec<String> = params.iter().map(|p| c.param(p).to_owned()).collect();
        for (i, name) in metrics.iter().enumerate() {
            let m = c.metric(name);
            row.push(m.map_or(String::new(), |m| number(m.median)));
            if i == 0 {
                let ends =
                    |m: &crate::schema::Metric| format!("{} - {}", number(m.min), number(m.max));
                row.push(m.map_or(String::new(), ends));
            }
        }
        for name in &ratios {
            let hit = c
                .ratios
                .iter()
                .find(|r| format!("{} / {}", r.metric, r.to) == *name);
            row.push(hit.map_or(String::new(), |r| format!("{:.2}", r.median)));
        }
        if notes {
            row.push(match (&c.skipped, &c.failed) {
                (Some(why), _) => format!("SKIPPED: {why}"),
                (_, Some(why)) => format!("FAILED: {why}"),
                _ => String::new(),
            });
        }
        row
    };
    (head, s.cases.iter().map(row).collect())
}

/// A suite as a table, columns aligned.
pub fn suite(s: &Suite) -> String {
    let (head, rows) = grid(s);
    let width = |i: usize| {
        let cells = std::iter::once(&head).chain(&rows);
        cells.map(|r| r[i].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(c, w)| format!(" {c:w$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule: String = widths
        .iter()
        .map(|w| format!(" {} |", "-".repeat((*w).max(3))))
        .collect();
    let mut out = line(&head);
    let _ = writeln!(out, "|{rule}");
    for row in &rows {
        out += &line(row);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::sample;

    #[test]
    fn every_row_has_every_column() {
        let mut doc = sample(1.5);
        doc.suites[0].cases.push(Case {
            params: vec![("stack".into(), "quic".into())],
            skipped: Some("not here".into()),
            ..Case::default()
        });
        let (head, rows) = grid(&doc.suites[0]);
        assert!(rows.iter().all(|r| r.len() == head.len()));
        assert_eq!(head.last().map(String::as_str), Some("note"));
        let text = document(&doc);
        assert!(text.contains("SKIPPED: not here") && text.contains("| 1.50"));
    }

    #[test]
    fn numbers_keep_what_matters() {
        let shown = [0.0, 1234.5, 12.34, 1.234, 0.1234, 0.01234].map(number);
        assert_eq!(shown, ["0", "1234", "12.3", "1.23", "0.123", "0.0123"]);
    }
}
