//! A document as one page that needs nothing but itself.

use crate::bottleneck::Bottleneck;
use crate::schema::{Case, Document, Occupancy, Suite};
use crate::suite::table::{grid, noise, number};
use crate::svg::{self, Line, escape};
use crate::target::Target;
use ctp96::base::limits::WINDOW_SLOTS;
use std::fmt::Write;

const STYLE: &str = "
:root{color-scheme:light}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{font:16px/1.5 system-ui,sans-serif;color:#1b1f24;background:#fff;margin:0 auto;max-width:72rem;padding:1rem}
h1{font-size:1.5rem;margin:.5rem 0}h2{font-size:1.2rem;margin:2rem 0 .5rem;border-top:1px solid #d0d7de;padding-top:1rem}
h3{font-size:1rem;margin:1rem 0 .3rem}
p,ul{margin:.4rem 0}.verdict{font-size:1.3rem;font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr));gap:.5rem 2.5rem;align-items:start}
figure{margin:0 0 .8rem;break-inside:avoid}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #e4e8ec;white-space:nowrap}
th{font-weight:600;background:#f6f8fa}th:first-child,td:first-child{text-align:left}
td.note{white-space:normal;min-width:14rem;text-align:left}
svg{width:100%;max-width:48rem;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:#1b1f24}
@media(max-width:40rem){svg text{font-size:19px}}
.grid{stroke:#e4e8ec}.ground{fill:#eef1f4}
.bars{display:grid;grid-template-columns:minmax(6.5rem,auto) 1fr auto;gap:.25rem .6rem;align-items:center;font-size:.85rem}
.bars .name{text-align:right}.bars .value{font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{position:relative;height:1.1rem}.bar i{display:block;height:100%;background:#0072b2}
.bar b{position:absolute;top:-1px;bottom:-1px;width:3px;margin-left:-1px;background:#d55e00}
.legend span{margin-right:1rem;white-space:nowrap}.legend i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;border-radius:2px}
.note{color:#57606a;font-size:.9rem}
@page{size:A4 landscape;margin:10mm}
@media print{svg{max-width:17cm}body{max-width:none;padding:0;font-size:11px}.note,.bars,.legend{font-size:10px}table{font-size:7px}
th,td{padding:1px 3px}td.note{min-width:9rem}h2,h3{break-after:avoid}tr{break-inside:avoid}.scroll{overflow:visible}
.plots{grid-template-columns:1fr 1fr}.plots figure{margin-bottom:3mm}}
";

/// The page.
pub fn report(doc: &Document) -> String {
    let mut s = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    s += "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">";
    let _ = write!(
        s,
        "<title>CTP-96 on {} x {}</title><style>{STYLE}</style></head><body>",
        doc.host.cpus,
        escape(&doc.host.cpu)
    );
    head(&mut s, doc);
    if let Some(plot) = throughput(doc) {
        section(&mut s, "Throughput", &plot);
    }
    for (suite, param, title) in [
        (
            "payload",
            "message",
            "Throughput against message size, bytes",
        ),
        ("concurrency", "streams", "Throughput against streams"),
    ] {
        if let Some(plot) = doc.suite(suite).and_then(|x| against(x, param, title)) {
            section(&mut s, title, &plot);
        }
    }
    let curves = latency(doc);
    if !curves.is_empty() {
        section(&mut s, "Latency at held rates", &curves);
    }
    if !doc.bottlenecks.is_empty() {
        section(&mut s, "Where the time goes", &stages(&doc.bottlenecks));
    }
    if let Some(o) = doc.occupancy.as_ref().and_then(occupancy) {
        section(&mut s, "Windows", &o);
    }
    s += "<h2>All figures</h2>";
    for suite in &doc.suites {
        table(&mut s, suite);
    }
    s + "</body></html>\n"
}

/// A plot with its heading, which print keeps together.
fn figure(s: &mut String, title: &str, body: &str) {
    let _ = write!(s, "<figure><h3>{}</h3>{body}</figure>", escape(title));
}

/// Plots side by side where there is room.
fn plots(all: &str) -> String {
    format!("<div class=\"plots\">{all}</div>")
}

/// A case's parameters as people say them: `veth, MTU 1500, ctp96, aes-256-gcm`.
fn spoken(id: &str) -> String {
    let part = |(k, v): (&str, &str)| match k {
        "mtu" => format!("MTU {v}"),
        "level" => format!("level {v}"),
        "streams" | "lanes" => format!("{v} {k}"),
        "message" => format!("messages of {v}"),
        _ => v.to_owned(),
    };
    // A value may hold blanks, so a part begins at the word before a `=`.
    let mut parts: Vec<(String, String)> = Vec::new();
    for word in id.split(' ') {
        match (word.split_once('='), parts.last_mut()) {
            (Some((k, v)), _) => parts.push((k.to_owned(), v.to_owned())),
            (None, Some(last)) => last.1 = format!("{} {word}", last.1),
            (None, None) => parts.push((String::new(), word.to_owned())),
        }
    }
    let parts = parts.iter().map(|(k, v)| part((k, v)));
    parts.collect::<Vec<_>>().join(", ")
}

fn section(s: &mut String, title: &str, body: &str) {
    let _ = write!(s, "<h2>{}</h2>{body}", escape(title));
}

fn head(s: &mut String, doc: &Document) {
    let (h, m) = (&doc.host, &doc.method);
    s.push_str("<h1>CTP-96: how fast, and why</h1>");
    if let Some(t) = &doc.target {
        let _ = write!(
            s,
            "<p class=\"verdict\" id=\"verdict\">{}</p>",
            escape(&t.verdict())
        );
    }
    let _ = write!(
        s,
        "<p>{}</p><p>{} rounds of about {} s a case after {} unmeasured, every round running every \
         case once; medians. Sender on CPU {}, receiver on CPU {}.</p><p class=\"note\">Noise: {}.</p>",
        escape(&h.lines()).replace('\n', "<br>"),
        m.runs,
        m.seconds,
        m.warmup,
        m.sender_core,
        m.receiver_core,
        noise(&doc.noise)
    );
    if let Some(t) = &doc.target {
        section(s, "Target", &target(t));
    }
}

/// What the target would take, and what that rests on.
fn target(t: &Target) -> String {
    let list = |items: Vec<String>| {
        let items = items.iter().map(|i| format!("<li>{}</li>", escape(i)));
        format!("<ul>{}</ul>", items.collect::<String>())
    };
    format!(
        "<p>{}</p>{}<p>Assumed:</p>{}",
        escape(&t.basis()),
        list(t.needs()),
        list(t.assumptions.clone())
    )
}

fn rate(c: &Case) -> Option<f64> {
    c.metric("gb_per_s").map(|m| m.median)
}

fn throughput(doc: &Document) -> Option<String> {
    let mut out = String::new();
    let suite = doc.suite("throughput")?;
    let mut places: Vec<(&str, &str)> = Vec::new();
    for c in suite.cases.iter().filter(|c| rate(c).is_some()) {
        let place = (c.param("over"), c.param("mtu"));
        if !places.contains(&place) {
            places.push(place);
        }
    }
    for (over, mtu) in places {
        let at = |c: &&Case| c.param("over") == over && c.param("mtu") == mtu;
        let bar = |c: &Case| {
            let suite = match c.param("suite") {
                "none" => "",
                suite => suite,
            };
            Some((format!("{} {suite}", c.param("stack")), rate(c)?, None))
        };
        let all: Vec<_> = suite.cases.iter().filter(at).filter_map(bar).collect();
        let title = format!("{over}, MTU {mtu}");
        figure(&mut out, &title, &svg::bars(&title, "GB/s", &all));
    }
    (!out.is_empty()).then(|| plots(&out))
}

/// Throughput against a parameter that is a number, one line for each of the other parameters.
fn against(suite: &Suite, param: &str, title: &str) -> Option<String> {
    let mut all: Vec<Line> = Vec::new();
    let mut ticks: Vec<(f64, String)> = Vec::new();
    for c in &suite.cases {
        let (Some(y), Ok(x)) = (rate(c), c.param(param).parse::<f64>()) else {
            continue;
        };
        let others = c.params.iter().filter(|(k, _)| k != param && k != "lanes");
        let name = others.map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        let name = spoken(&name.join(" "));
        match all.iter_mut().find(|l| l.name == name) {
            Some(line) => line.points.push((x, y)),
            None => all.push(Line {
                name,
                points: vec![(x, y)],
            }),
        }
        if !ticks.iter().any(|t| t.0 == x) {
            let label = match param {
                "message" => crate::units::show_bytes(x as u64),
                _ => c.param(param).to_owned(),
            };
            ticks.push((x, label));
        }
    }
    for line in &mut all {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    (!all.is_empty()).then(|| svg::lines(title, param, "GB/s", true, false, &all, &ticks))
}

/// Percentiles at the held rates, on an axis that stretches the tail.
fn latency(doc: &Document) -> String {
    let Some(suite) = doc.suite("sustained") else {
        return String::new();
    };
    // 1 / (1 - p): each further nine takes the same room.
    let stretch = |p: f64| 100.0 / (100.0 - p).max(0.001);
    let mut all = Vec::new();
    for c in &suite.cases {
        for curve in &c.curves {
            if !curve.name.starts_with("from when") {
                continue;
            }
            let inner = curve.points.iter().filter(|p| p.0 < 100.0);
            let points = inner.map(|&(p, ns)| (stretch(p), (ns as f64 / 1e3).max(0.001)));
            all.push(Line {
                name: [c.param("stack"), c.param("rate"), &curve.name].join(", "),
                points: points.collect(),
            });
        }
    }
    if all.is_empty() {
        return String::new();
    }
    let ticks = [50.0, 90.0, 99.0, 99.9, 99.99].map(|p| (stretch(p), format!("{p} %")));
    svg::lines("latency", "percentile", "us", true, true, &all, &ticks)
        + "<p class=\"note\">From when due: what a user of the held rate sees, stalls of the sender \
           included. From when sent: without them.</p>"
}

fn stages(all: &[Bottleneck]) -> String {
    let mut out = String::new();
    for b in all {
        let mut rows: Vec<_> = b
            .stages
            .iter()
            .map(|x| (x.name.clone(), x.ns_per_frame, x.ceiling_ns))
            .collect();
        rows.push((
            "outside the stages".to_owned(),
            b.rest_ns_per_frame,
            b.rest_ceiling_ns,
        ));
        let title = format!("{}: {}", spoken(&b.case), b.side);
        let clocks = b.clocks(b.cpu_ns_per_frame);
        let body = format!(
            "{}<p class=\"note\">{:.0} % of a core, {} ns of CPU time a frame{}{}. {}.<br><strong>{}\
             </strong></p>",
            svg::bars(&title, "ns", &rows),
            b.busy * 100.0,
            number(b.cpu_ns_per_frame),
            clocks.map_or(String::new(), |c| format!(", {c:.0} clocks")),
            if b.limits { ", the busier side" } else { "" },
            capital(&b.idleness()),
            escape(&capital(&b.verdict()))
        );
        figure(&mut out, &title, &body);
    }
    "<p class=\"note\">Nanoseconds per frame; the mark is what the bare call takes here. The figures \
     in clocks, frames a call and shares are in the table at the end of this section.</p>"
        .to_owned()
        + &plots(&out)
        + &stage_table(all)
}

/// Every stage of both sides with clocks, share and frames a call.
fn stage_table(all: &[Bottleneck]) -> String {
    let mut s = String::from(
        "<div class=\"scroll\"><table data-stages><thead><tr><th>transfer</th><th>side</th><th>stage\
         </th><th>clocks a frame</th><th>ns a frame</th><th>share of cycles</th><th>frames a call</th>\
         <th>bare call, ns</th><th>x bare</th></tr></thead><tbody>",
    );
    let opt = |v: Option<f64>| v.map_or("-".to_owned(), number);
    for b in all {
        let share = |ns: f64| format!("{:.0} %", ns / b.cpu_ns_per_frame.max(1e-9) * 100.0);
        let mut row = |name: &str, ns: f64, calls: Option<f64>, bare: Option<f64>| {
            let cells = [
                spoken(&b.case),
                b.side.clone(),
                name.to_owned(),
                opt(b.clocks(ns)),
                number(ns),
                share(ns),
                opt(calls),
                opt(bare),
                opt(bare.map(|c| ns / c)),
            ];
            s.push_str("<tr>");
            for cell in cells {
                let _ = write!(s, "<td>{}</td>", escape(&cell));
            }
            s.push_str("</tr>");
        };
        for x in &b.stages {
            row(
                &x.name,
                x.ns_per_frame,
                Some(x.frames_per_call),
                x.ceiling_ns,
            );
        }
        row(
            "outside the stages",
            b.rest_ns_per_frame,
            None,
            b.rest_ceiling_ns,
        );
    }
    s + "</tbody></table></div>"
}

/// With a capital letter.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| {
        c.to_uppercase().collect::<String>() + chars.as_str()
    })
}

/// The atlas: 128 lanes of 96 slots as 48 pages of 256 addresses.
fn occupancy(o: &Occupancy) -> Option<String> {
    const PAGES: usize = 48;
    const PAGE: usize = 256;
    if o.samples == 0 || o.counts.len() > PAGES * PAGE {
        return None;
    }
    let mut cells: Vec<Option<f64>> = vec![None; PAGES * PAGE];
    for (cell, &n) in cells.iter_mut().zip(&o.counts) {
        *cell = Some(f64::from(n) / f64::from(o.samples));
    }
    let lanes: Vec<Option<f64>> = cells[..o.counts.len()].to_vec();
    let n = o.counts.len() / WINDOW_SLOTS;
    Some(format!(
        "<h3>The atlas: 48 pages of 256 addresses</h3>{}<p class=\"note\">Lane by lane of 96 slots; the \
         darker, the more often its slot was in flight. {} samples of {}. Grey: lanes that the session \
         did not have.</p><h3>The same, a row for each of its {n} lanes</h3>{}<p class=\"note\">96 \
         slots from left to right.</p>",
        svg::map("slots in flight, 48 x 256", PAGE, &cells),
        o.samples,
        escape(&spoken(&o.case)),
        svg::map("slots in flight, lane by lane", WINDOW_SLOTS, &lanes)
    ))
}

fn table(s: &mut String, suite: &Suite) {
    let (head, rows) = grid(suite);
    let _ = write!(
        s,
        "<h3>{}: {}</h3><p class=\"note\">{:.0} s. Noise: {}.</p><div class=\"scroll\"><table \
         data-suite=\"{}\"><thead><tr>",
        escape(&suite.name),
        escape(&suite.title),
        suite.seconds,
        noise(&suite.noise),
        escape(&suite.name)
    );
    for h in &head {
        let _ = write!(s, "<th>{}</th>", escape(h));
    }
    s.push_str("</tr></thead><tbody>");
    for row in &rows {
        s.push_str("<tr>");
        for cell in row {
            let class = match cell.starts_with("SKIPPED: ") || cell.starts_with("FAILED: ") {
                true => " class=\"note\"",
                false => "",
            };
            let _ = write!(s, "<td{class}>{}</td>", escape(cell));
        }
        s.push_str("</tr>");
    }
    s.push_str("</tbody></table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Curve;
    use crate::schema::tests::sample;

    #[test]
    fn a_page_needs_nothing_but_itself() {
        let mut doc = sample(1.23);
        doc.host.cpu = "<script>alert(1)</script>".into();
        doc.suites[0].cases[0].params = [("over", "veth"), ("mtu", "1500"), ("stack", "ctp96")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .to_vec();
        let mut hist = ctp96::obs::hist::empty_hdr();
        hist.saturating_record(1000);
        doc.suites.push(doc.suites[0].clone());
        doc.suites[1].name = "sustained".into();
        doc.suites[1].cases[0]
            .curves
            .push(Curve::of("from when due", &hist));
        doc.occupancy = Some(Occupancy {
            case: "c".into(),
            samples: 2,
            counts: vec![1; 192],
        });
        let page = report(&doc);
        assert!(page.contains("<td>1.23</td>") && page.contains("from when due"));
        assert!(!page.contains("<script"));
        for outside in ["http://", "https://", "url(", "@import", "src="] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn cases_are_named_as_people_say_it() {
        let id = "over=veth mtu=1500 stack=quic (s2n-quic) streams=4";
        assert_eq!(spoken(id), "veth, MTU 1500, quic (s2n-quic), 4 streams");
        assert_eq!(spoken("plain"), "plain");
    }

    #[test]
    fn a_map_of_other_windows_is_left_out() {
        let o = Occupancy {
            samples: 1,
            counts: vec![1; 48 * 256 + 1],
            ..Occupancy::default()
        };
        assert!(occupancy(&o).is_none());
        assert!(occupancy(&Occupancy::default()).is_none());
    }
}
