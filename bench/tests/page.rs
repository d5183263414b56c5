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
