//! The scenario table: what the shipped protocol core makes of fast, long, lossy and broken paths.
//!
//! ```sh
//! cargo test -p tests --test scenarios              # every row
//! cargo test -p tests --test scenarios -- 200G      # rows whose name contains this
//! CTP96_SCENARIOS=all cargo test -p tests --test scenarios   # more rows, three seeds each
//! ```
//!
//! Prints one line per scenario and fails if a row misses its floor. Virtual time and seeded chance:
//! the figures are the same on every machine, so a changed figure is a changed protocol.

mod rows;

use rows::Row;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tests::scenario::{Report, run};

const HEAD: &str = "\
scenario                       lanes   goodput (floor) | overhead (limit) control | repair resent | latency p50    p99  p99.9 ms | queue (limit) BDP drops | seed";

fn main() -> ExitCode {
    let mut filter = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.as_str() {
            "--list" => return ExitCode::SUCCESS,
            "--help" | "-h" => {
                println!("{}", rows::HELP);
                return ExitCode::SUCCESS;
            }
            // Options of the usual test harness mean nothing here.
            a if a.starts_with('-') => {}
            _ => filter.push(arg),
        }
    }
    let all = std::env::var("CTP96_SCENARIOS").is_ok_and(|v| v == "all");
    let rows: Vec<Row> = rows::rows(all)
        .into_iter()
        .filter(|r| filter.is_empty() || filter.iter().any(|f| r.name.contains(f.as_str())))
        .collect();
    println!("{HEAD}");
    let failures = Mutex::new(Vec::new());
    let printed = Mutex::new((0, vec![None; rows.len()]));
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(rows.len()) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = rows.get(i) else { return };
                    let report = run(&row.scenario);
                    let missed = row.missed(&report);
                    let line = line(row, &report, &missed);
                    // In the order of the table, whichever thread was first.
                    let Ok(mut out) = printed.lock() else { return };
                    out.1[i] = Some(line);
                    while let Some(Some(l)) = out.1.get(out.0) {
                        println!("{l}");
                        out.0 += 1;
                    }
                    if let Ok(mut f) = failures.lock()
                        && !missed.is_empty()
                    {
                        f.push(format!("{}: {}", row.name, missed.join(", ")));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    let done = printed.into_inner().map_or(0, |p| p.0);
    if done < rows.len() {
        println!(
            "FAILED: {} of {} scenarios did not finish",
            rows.len() - done,
            rows.len()
        );
        return ExitCode::FAILURE;
    }
    println!("{}", rows::WHY);
    for f in &failures {
        println!("FAILED {f}");
    }
    println!(
        "{} scenarios, {} below their floor",
        rows.len(),
        failures.len()
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn line(row: &Row, r: &Report, missed: &[String]) -> String {
    let s = &row.scenario;
    let lanes: usize = s.sessions.iter().map(|s| s.lanes.len()).sum();
    let ms = |ns: u64| {
        let v = ns as f64 / 1e6;
        format!("{v:.*}", if v < 10.0 { 3 } else { 1 })
    };
    let mark = if missed.is_empty() { ' ' } else { '!' };
    format!(
        "{:<30} {lanes:>5} {:>7.1} % ({:>3.0} %) | {:>6.2} % ({:>5.2}) {:>5.2} % | {:>6} {:>6} | {:>11} {:>6} {:>6}    | {:>5.2} ({:>4.2}) {:>8.3} % | {}{mark}",
        row.name,
        r.share * 100.0,
        row.least * 100.0,
        r.overhead * 100.0,
        row.most_overhead * 100.0,
        r.control * 100.0,
        r.repair,
        r.resent,
        ms(r.latency.p50),
        ms(r.latency.p99),
        ms(r.latency.p999),
        r.queue_bdp(s),
        row.most_queue,
        r.drops * 100.0,
        s.seed,
    )
}
