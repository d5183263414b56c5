//! How equally sessions share a path, over several seeds: Jain's index, mean and least. `--test sharing`
//! asserts its bound for one seed.
//!
//! `cargo run --release -p tests --example fairness -- [SEEDS]`, 6 by default.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tests::scenario::{MS, Path, SEC, Scenario, Session, Shaper, run};

/// Bits per second of the path.
const RATE: f64 = 1e9;

/// Sessions that begin together, or two of which the second begins later.
#[derive(Clone, Copy)]
enum Start {
    Together(usize),
    Late,
}

#[derive(Clone, Copy)]
struct Row {
    rtt_ms: u64,
    /// Queue in bandwidth-delay products.
    queue: f64,
    start: Start,
}

fn jain(row: Row, seed: u64) -> (f64, f64) {
    let rtt = row.rtt_ms * MS;
    let mut path = Path::new(RATE, rtt);
    path.shaper = Shaper::TailDrop((path.bdp() as f64 * row.queue) as u64 + (64 << 10));
    // Three products of window.
    let lanes = if row.rtt_ms > 20 { 5 } else { 1 };
    let (n, from) = match row.start {
        Start::Together(n) => (n, 0),
        Start::Late => (2, 5 * SEC),
    };
    let mut sessions = vec![Session::bulk(lanes); n];
    sessions[n - 1].start = from;
    let r = run(&Scenario {
        sessions,
        warm: from,
        end: from + 30 * SEC,
        ..Scenario::new(seed, path, 1500)
    });
    (r.jain(), r.share)
}

fn main() {
    let given = std::env::args().nth(1).map(|a| a.parse::<u64>());
    let Some(seeds) = given.unwrap_or(Ok(6)).ok().filter(|n| *n > 0) else {
        eprintln!("fairness: give the number of seeds, 1 or more");
        std::process::exit(2);
    };
    let mut rows = Vec::new();
    for rtt_ms in [1, 20, 50, 100] {
        for queue in [0.5, 1.0, 2.0] {
            for start in [Start::Together(2), Start::Together(4), Start::Late] {
                rows.push(Row {
                    rtt_ms,
                    queue,
                    start,
                });
            }
        }
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![Vec::new(); rows.len()]);
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|s| {
        for _ in 0..cpus {
            s.spawn(|| {
                loop {
                    let job = next.fetch_add(1, Relaxed);
                    let Some(row) = rows.get(job / seeds as usize) else {
                        break;
                    };
                    let of = jain(*row, 1 + job as u64 % seeds);
                    if let Ok(mut all) = results.lock() {
                        all[job / seeds as usize].push(of);
                    }
                }
            });
        }
    });
    println!("1 Gb/s, 30 s, seeds 1 to {seeds}; late: one session 5 s after another, from then on");
    println!("round trip  queue  sessions  Jain mean  least  of the bound");
    let results = results.into_inner().unwrap_or_default();
    for (row, of) in rows.iter().zip(results) {
        let n = of.len().max(1) as f64;
        let start = match row.start {
            Start::Together(n) => n.to_string(),
            Start::Late => "late".to_owned(),
        };
        println!(
            "{:>7} ms  {:>5}  {start:>8}  {:>9.3}  {:.3}  {:>10.1} %",
            row.rtt_ms,
            row.queue,
            of.iter().map(|o| o.0).sum::<f64>() / n,
            of.iter().map(|o| o.0).fold(1.0, f64::min),
            of.iter().map(|o| o.1).sum::<f64>() / n * 100.0
        );
    }
}
