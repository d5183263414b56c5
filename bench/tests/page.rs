//! The report in a real browser: it renders on a phone's screen and on a desk's, and the figures in
//! its tables are those of the document.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/run.json");
/// A browser that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A directory of one test, removed with the value.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("ctp96-page-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("temporary directory");
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(args: &[&str]) -> std::process::Output {
    let program = env!("CARGO_BIN_EXE_ctp96-bench");
    Command::new(program)
        .args(args)
        .output()
        .expect("ctp96-bench starts")
}

/// Writes the report and gives its path.
fn page(dir: &Dir) -> PathBuf {
    let path = dir.0.join("report.html");
    let out = bench(&["report", DOCUMENT, "--html", &path.to_string_lossy()]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    path
}

fn document() -> Value {
    let text = std::fs::read_to_string(DOCUMENT).expect("the document of the tests");
    serde_json::from_str(&text).expect("valid JSON")
}

/// The browser's name, or nothing where there is none.
fn browser() -> Option<&'static str> {
    let found = |name: &&str| {
        let version = Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        version.is_ok_and(|s| s.success())
    };
    let hit = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(found);
    if hit.is_none() {
        tests::require::skip("no chromium to show the report in");
    }
    hit
}

/// Runs the browser without a screen and gives what it printed.
fn browse(browser: &str, dir: &Dir, args: &[&str], page: &Path) -> String {
    let printed = dir.0.join("printed");
    let mut child = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        // No network: whatever the page asked for outside itself would be missing.
        .args(["--disable-dev-shm-usage", "--proxy-server=127.0.0.1:9"])
        .arg(format!(
            "--user-data-dir={}",
            dir.0.join("profile").display()
        ))
        .args(args)
        .arg(format!("file://{}", page.display()))
        .stdout(std::fs::File::create(&printed).expect("output file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the browser starts");
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the browser can be waited for") {
            assert!(status.success(), "the browser ended with {status}");
            return std::fs::read_to_string(&printed).expect("what it printed");
        }
        if started.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the browser hangs");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Text between the first `from` and the `to` that follows, and what comes after.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<(&'a str, &'a str)> {
    let start = text.find(from)? + from.len();
    let end = start + text[start..].find(to)?;
    Some((&text[start..end], &text[end..]))
}

fn cells(row: &str, tag: &str) -> Vec<String> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let mut rest = row;
    let mut out = Vec::new();
    while let Some((cell, after)) = between(rest, &open, &close) {
        out.push(cell.to_owned());
        rest = after;
    }
    out
}

/// Compares every metric of every case with its cell; says how many there were.
fn compare(html: &str, doc: &Value) -> usize {
    let mut compared = 0;
    for suite in doc["suites"].as_array().expect("suites") {
        let name = suite["name"].as_str().expect("a suite's name");
        let mark = format!("data-suite=\"{name}\"");
        let (table, _) = between(html, &mark, "</table>").expect("the suite's table");
        let (head, body) = between(table, "<thead>", "</thead>").expect("a head");
        let head = cells(head, "th");
        let rows: Vec<Vec<String>> = cells(body, "tr").iter().map(|r| cells(r, "td")).collect();
        let cases = suite["cases"].as_array().expect("cases");
        assert_eq!(rows.len(), cases.len(), "rows of {name}");
        for (row, case) in rows.iter().zip(cases) {
            for m in case["metrics"].as_array().expect("metrics") {
                let (metric, unit) = (m["name"].as_str(), m["unit"].as_str());
                let (metric, unit) = (metric.expect("a name"), unit.expect("a unit"));
                let column = match unit {
                    "" => metric.to_owned(),
                    unit => format!("{metric}, {unit}"),
                };
                let at = head.iter().position(|h| *h == column);
                let at = at.unwrap_or_else(|| panic!("no column {column} in {name}"));
                let shown: f64 = row[at].parse().expect("a number in the cell");
                let median = m["median"].as_f64().expect("a median");
                // As many digits as are shown.
                assert!(
                    (shown - median).abs() <= 0.006 * median.abs() + 0.000_06,
                    "{name} {metric}: {shown} is shown, {median} was measured"
                );
                compared += 1;
            }
        }
    }
    compared
}

#[test]
fn the_page_as_written_has_the_figures_of_the_document() {
    let dir = Dir::new("written");
    let html = std::fs::read_to_string(page(&dir)).expect("the page");
    assert!(compare(&html, &document()) > 20);
}

/// Every text between `from` and `to` in order.
fn all_between<'a>(text: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    let (mut rest, mut out) = (text, Vec::new());
    while let Some((hit, after)) = between(rest, from, to) {
        out.push(hit);
        rest = after;
    }
    out
}

/// The part of the page under one heading.
fn section<'a>(html: &'a str, heading: &str) -> &'a str {
    let mark = format!("<h2>{heading}</h2>");
    let start = html.find(&mark).unwrap_or_else(|| panic!("no {heading}")) + mark.len();
    let end = html[start..].find("<h2>").map_or(html.len(), |n| start + n);
    &html[start..end]
}

/// Whether a number as shown is the one measured.
fn same(shown: &str, measured: f64) -> bool {
    let shown: f64 = shown.parse().unwrap_or(f64::NAN);
    (shown - measured).abs() <= 0.006 * measured.abs() + 0.000_06
}

fn suite<'a>(doc: &'a Value, name: &str) -> &'a Vec<Value> {
    let suites = doc["suites"].as_array().expect("suites");
    let hit = suites.iter().find(|s| s["name"] == name);
    hit.and_then(|s| s["cases"].as_array()).expect("its cases")
}

fn throughput_of(case: &Value) -> Option<f64> {
    let metrics = case["metrics"].as_array()?;
    let hit = metrics.iter().find(|m| m["name"] == "gb_per_s")?;
    hit["median"].as_f64()
}

/// Holds what the plots show against the document; says how many figures there were.
fn compare_plots(html: &str, doc: &Value) -> usize {
    let mut compared = 0;
    // Bars of the throughput suite, in the order of its cases.
    let bars = section(html, "Throughput");
    let bars = all_between(bars, "<span class=\"value\">", " GB/s</span>");
    let cases = suite(doc, "throughput");
    let rates: Vec<f64> = cases.iter().filter_map(throughput_of).collect();
    assert_eq!(bars.len(), rates.len(), "bars of throughput");
    for (bar, rate) in bars.iter().zip(&rates) {
        assert!(same(bar, *rate), "{bar} is drawn, {rate} was measured");
    }
    compared += bars.len();
    // Points of the two curves; each says `line: y at x`.
    for (name, heading) in [
        ("payload", "Throughput against message size, bytes"),
        ("concurrency", "Throughput against streams"),
    ] {
        let points = all_between(section(html, heading), "<title>", "</title>");
        let rates: Vec<f64> = suite(doc, name).iter().filter_map(throughput_of).collect();
        assert_eq!(points.len(), rates.len(), "points of {name}");
        for point in &points {
            let y = point
                .rsplit(": ")
                .next()
                .and_then(|p| p.split(" at ").next());
            let y = y.expect("a point's height");
            let hit = rates.iter().any(|r| same(y, *r));
            assert!(hit, "{name}: {y} is drawn and was not measured");
        }
        compared += points.len();
    }
    // Stage bars of both sides of every transfer that was looked into.
    let bars = section(html, "Where the time goes");
    let bars = all_between(bars, "<span class=\"value\">", " ns</span>");
    let mut measured = Vec::new();
    for b in doc["bottlenecks"].as_array().expect("bottlenecks") {
        let stages = b["stages"].as_array().expect("stages");
        measured.extend(stages.iter().map(|s| s["ns_per_frame"].as_f64()));
        measured.push(b["rest_ns_per_frame"].as_f64());
    }
    assert_eq!(bars.len(), measured.len(), "bars of stages");
    for (bar, ns) in bars.iter().zip(&measured) {
        let ns = ns.expect("nanoseconds");
        assert!(same(bar, ns), "{bar} ns is drawn, {ns} was measured");
    }
    compared += bars.len();
    // The map: a cell for each slot of each lane, drawn twice, as dark as it was full.
    let shades = all_between(section(html, "Windows"), "fill=\"hsl(205 80% ", "%)");
    let occupancy = &doc["occupancy"];
    let counts = occupancy["counts"].as_array().expect("counts");
    let samples = occupancy["samples"].as_f64().expect("samples");
    assert_eq!(shades.len(), 2 * counts.len(), "cells of the map");
    for (shade, count) in shades.iter().zip(counts.iter().chain(counts)) {
        let share = count.as_f64().expect("a count") / samples;
        let shade: f64 = shade.parse().expect("a shade");
        assert!(
            (shade - (92.0 - 67.0 * share)).abs() < 0.6,
            "{share} as {shade}"
        );
    }
    let (verdict, _) = between(html, "id=\"verdict\">", "</p>").expect("a verdict");
    let reached = doc["target"]["reached"].as_f64().expect("a share") * 100.0;
    let shown = all_between(verdict, ": ", " %");
    let near = |s: &&str| s.parse().is_ok_and(|s: f64| (s - reached).abs() < 0.06);
    assert!(shown.first().is_some_and(near), "{verdict}: {reached}");
    compared + shades.len() + 1
}

#[test]
fn the_plots_have_the_figures_of_the_document() {
    let dir = Dir::new("plots");
    let html = std::fs::read_to_string(page(&dir)).expect("the page");
    assert!(compare_plots(&html, &document()) > 100);
    // And would not have those of another.
    let mut doc = document();
    let suites = doc["suites"].as_array_mut().expect("suites");
    let suite = suites.iter_mut().find(|s| s["name"] == "throughput");
    let case = suite.and_then(|s| s["cases"].as_array_mut()?.last_mut());
    let metrics = case.and_then(|c| c["metrics"].as_array_mut());
    for m in metrics.into_iter().flatten() {
        m["median"] = (m["median"].as_f64().expect("a median") * 1.05).into();
    }
    assert!(std::panic::catch_unwind(|| compare_plots(&html, &doc)).is_err());
}

#[test]
fn a_wrong_figure_would_be_noticed() {
    let dir = Dir::new("wrong");
    let html = std::fs::read_to_string(page(&dir)).expect("the page");
    let mut doc = document();
    let median = &mut doc["suites"][0]["cases"][0]["metrics"][0]["median"];
    *median = (median.as_f64().expect("a median") * 1.05).into();
    let verdict = std::panic::catch_unwind(|| compare(&html, &doc));
    assert!(verdict.is_err());
}

#[test]
fn a_browser_shows_the_figures_of_the_document() {
    let Some(browser) = browser() else { return };
    let dir = Dir::new("dom");
    let html = browse(browser, &dir, &["--dump-dom"], &page(&dir));
    assert!(compare(&html, &document()) > 20);
    assert!(compare_plots(&html, &document()) > 100);
    let verdict = between(&html, "id=\"verdict\">", "<").expect("a verdict").0;
    assert!(verdict.contains("25 GB/s"), "{verdict}");
    assert!(html.matches("<svg").count() >= 4, "plots are missing");
}

#[test]
fn a_browser_draws_it_on_a_phone_and_on_a_desk() {
    let Some(browser) = browser() else { return };
    let dir = Dir::new("screen");
    let page = page(&dir);
    let blank = dir.0.join("blank.html");
    std::fs::write(&blank, "<!doctype html><title>x</title>").expect("a blank page");
    for (width, height) in [(500, 900), (1200, 900)] {
        let shot = |page: &Path| {
            let file = dir.0.join("shot.png");
            let screen = format!("--screenshot={}", file.display());
            let size = format!("--window-size={width},{height}");
            browse(browser, &dir, &[&screen, &size], page);
            std::fs::read(&file).expect("a screenshot")
        };
        let (drawn, empty) = (shot(&page), shot(&blank));
        assert_eq!(drawn[..8], *b"\x89PNG\r\n\x1a\n", "a PNG");
        let side =
            |at: usize| u32::from_be_bytes(drawn[at..at + 4].try_into().expect("four bytes"));
        assert_eq!((side(16), side(20)), (width, height));
        // Text and lines do not compress to what a blank page does.
        assert!(
            drawn.len() > 4 * empty.len(),
            "{} bytes drawn, {} bytes blank",
            drawn.len(),
            empty.len()
        );
    }
}

/// A page that shows the report in a frame as wide as a phone and writes down how wide it wanted to
/// be: browsers have no windows that small.
const PHONE: &str = "<!doctype html><title>x</title><body style=\"margin:0\">\
    <iframe id=\"f\" src=\"report.html\" style=\"width:390px;height:3000px;border:0\"></iframe>\
    <p id=\"wide\"></p><script>onload=()=>{const d=document.getElementById('f').contentDocument;\
    const t=[...d.querySelectorAll('svg text')].map(e=>e.getBoundingClientRect().height);\
    document.getElementById('wide').textContent=\
    'w'+d.documentElement.scrollWidth+';t'+Math.min(...t)+';'}</script></body>";

#[test]
fn a_phone_needs_no_scrolling_sideways_and_no_magnifier() {
    let Some(browser) = browser() else { return };
    let dir = Dir::new("phone");
    page(&dir);
    let phone = dir.0.join("phone.html");
    std::fs::write(&phone, PHONE).expect("the frame");
    let flag = "--allow-file-access-from-files";
    let html = browse(browser, &dir, &["--dump-dom", flag], &phone);
    let said = between(&html, "id=\"wide\">w", "</p>").expect("a width").0;
    let (wide, rest) = said.split_once(";t").expect("width and text");
    let wide: f64 = wide.parse().expect("a width");
    assert!(wide <= 390.0, "the page is {wide} pixels wide");
    let text: f64 = rest.trim_end_matches(';').parse().expect("a height");
    assert!(text >= 10.0, "text in a plot is {text} pixels high");
}

#[test]
fn it_prints() {
    let Some(browser) = browser() else { return };
    let dir = Dir::new("print");
    let file = dir.0.join("report.pdf");
    let to = format!("--print-to-pdf={}", file.display());
    browse(browser, &dir, &[&to], &page(&dir));
    let pdf = std::fs::read(&file).expect("a PDF");
    assert!(
        pdf.starts_with(b"%PDF-") && pdf.len() > 20_000,
        "{} bytes",
        pdf.len()
    );
}

#[test]
fn the_exit_code_of_diff_tells_a_regression() {
    let dir = Dir::new("diff");
    let same = bench(&["diff", DOCUMENT, DOCUMENT]);
    assert_eq!(same.status.code(), Some(0));
    let mut doc = document();
    let hit = doc["suites"][0]["cases"][0]["metrics"]
        .as_array_mut()
        .and_then(|all| all.iter_mut().find(|m| m["better"] == "higher"));
    let metric = hit.expect("a throughput");
    for key in ["median", "min", "max"] {
        metric[key] = (metric[key].as_f64().expect("a number") / 3.0).into();
    }
    let slower = dir.0.join("slower.json");
    std::fs::write(&slower, doc.to_string()).expect("the slower document");
    let worse = bench(&["diff", DOCUMENT, &slower.to_string_lossy()]);
    assert_eq!(worse.status.code(), Some(1));
    let said = String::from_utf8_lossy(&worse.stdout).into_owned();
    assert!(said.contains("WORSE") && said.contains("1 worse"), "{said}");
    std::fs::write(&slower, "{\"schema\": 99}").expect("no document");
    let refused = bench(&["diff", DOCUMENT, &slower.to_string_lossy()]);
    assert_eq!(refused.status.code(), Some(2));
}

#[cfg(debug_assertions)]
#[test]
fn a_debug_build_measures_nothing() {
    for command in ["all", "throughput", "encryption", "serve", "pipe", "rings"] {
        let out = bench(&[command]);
        assert_eq!(out.status.code(), Some(1), "{command}");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.contains("need a release build"), "{command}: {said}");
    }
}
