//! `ctp96 hist --html`: one page that needs nothing else, neither network nor script.

use super::curve::{MARKS, at, extent, height, scale};
use ctp96::control::api::HistRow;
use ctp96::obs::text::{count, duration};
use hdrhistogram::Histogram as Hdr;
use std::fmt::Write as _;

// The drawing's own units; the page scales it.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;
/// Points of a curve.
const POINTS: usize = 120;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#667;--grid:#d8dce2;--line:#0b62c4;--back:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--dim:#9aa3ad;--grid:#333a42;--line:#6db3ff;\
--back:#14171a}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--back);margin:0 auto;\
padding:1rem;max-width:75rem}
h1{font-size:1.3rem}h2{font-size:1rem;margin:0}p{color:var(--dim);margin:.2rem 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));\
gap:1.4rem;margin-top:1.4rem}
section{break-inside:avoid}svg{width:100%;height:auto}
svg text{font-size:11px;fill:var(--dim)}.grid{stroke:var(--grid)}
.curve{fill:none;stroke:var(--line);stroke-width:2}
@media print{body{max-width:none}}";

/// The page; `from` says where the figures come from.
pub fn page(rows: &[HistRow], from: &str) -> String {
    // Writing to a String cannot fail, so the results are dropped.
    let mut out =
        String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    let _ = write!(
        out,
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>CTP-96 latencies</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>CTP-96 latencies</h1>\n<p>{}</p>\n<div class=\"scroll\"><table><thead><tr>",
        escape(from)
    );
    for head in ["", "count", "mean", "p50", "p90", "p99", "p99.9", "max"] {
        let _ = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>\n");
    let shown: Vec<(&HistRow, Hdr<u64>)> = rows
        .iter()
        .filter_map(|r| Some((r, r.values().filter(|v| !v.is_empty())?)))
        .collect();
    for (row, _) in &shown {
        let s = &row.summary;
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td>",
            escape(&name(row)),
            count(s.count)
        );
        for ns in [s.mean.round() as u64, s.p50, s.p90, s.p99, s.p999, s.max] {
            let _ = write!(out, "<td>{}</td>", duration(ns));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
    let none: Vec<_> = rows
        .iter()
        .filter(|r| r.summary.count == 0)
        .map(name)
        .collect();
    if !none.is_empty() {
        let _ = writeln!(out, "<p>nothing recorded: {}</p>", escape(&none.join(", ")));
    }
    out.push_str("<div class=\"plots\">\n");
    for (row, values) in &shown {
        let _ = write!(
            out,
            "<section><h2>{}</h2><p>{}</p>\n{}</section>\n",
            escape(&name(row)),
            escape(&row.label),
            drawing(values)
        );
    }
    out.push_str(
        "</div>\n<p>Horizontal: percentile, further right the rarer. Vertical: time, logarithmic, \
         each with its own scale.</p>\n</body></html>\n",
    );
    out
}

fn name(row: &HistRow) -> String {
    match &row.of {
        Some(of) => format!("{} ({of})", row.name),
        None => row.name.clone(),
    }
}

fn drawing(values: &Hdr<u64>) -> String {
    let (ends, extent) = (scale(values), extent(values));
    let x = |nines: f64| LEFT + nines / extent * (WIDTH - LEFT - RIGHT);
    let y = |up: f64| TOP + (1.0 - up) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"percentile curve\">\n"
    );
    for i in 0..=4u32 {
        let up = f64::from(i) / 4.0;
        let ns = ends.0 * (ends.1 / ends.0).powf(up);
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 5.0,
            y(up) + 4.0,
            duration(ns.round() as u64),
            y = y(up),
        );
    }
    for (nines, text) in MARKS.iter().filter(|(nines, _)| *nines <= extent) {
        let _ = writeln!(
            out,
            "<path class=\"grid\" d=\"M{x:.1} {TOP}V{:.1}\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{text}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - 8.0,
            x = x(*nines),
        );
    }
    let mut path = String::new();
    for i in 0..=POINTS {
        let nines = extent * i as f64 / POINTS as f64;
        let up = height(at(values, nines), ends);
        let _ = write!(
            path,
            "{}{:.1} {:.1}",
            if i == 0 { "M" } else { "L" },
            x(nines),
            y(up)
        );
    }
    let _ = write!(out, "<path class=\"curve\" d=\"{path}\"/>\n</svg>");
    out
}

/// Text as it may stand in an element.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctp96::obs::{Hist, Histogram};

    #[test]
    fn the_page_stands_alone_and_has_the_figures() {
        let h = Histogram::new();
        for i in 1..=1_000u64 {
            h.record(i * 1_000);
        }
        let rows = [
            HistRow::of(Hist::Rtt, &h.snapshot()),
            HistRow::of(Hist::StageSeal, &Histogram::new().snapshot()),
        ];
        let text = page(&rows, "log <a&b>");
        assert_eq!(text.matches("<svg").count(), 1);
        assert_eq!(text.matches("<svg").count(), text.matches("</svg>").count());
        for want in [
            "log &lt;a&amp;b&gt;",
            "<td>1,000</td>",
            "nothing recorded: stage_seal",
            &duration(rows[0].summary.p99),
        ] {
            assert!(text.contains(want), "{want}");
        }
        for foreign in ["http", "src=", "href", "<script", "@import", "url("] {
            assert!(!text.contains(foreign), "{foreign}");
        }
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }
}
