//! `ctp96-counts`: how many instructions the hot calls take, held against a stored baseline.
//!
//! A count is the same in every run, however busy the machine is, so a change of a few per cent shows.
//! It is no time: what waits for memory costs more than it counts.

mod calls;
mod gate;

use clap::{Parser, Subcommand};
use gate::{Baseline, Makers, Trouble};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Name of the call that does nothing.
const EMPTY: &str = "empty";
/// Exit code where this machine lacks what counting needs.
const LACKING: u8 = 3;
/// The baseline of this tree.
const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.json");

/// Counts the instructions of what runs for every frame or slot, under valgrind, and holds them
/// against a stored baseline. Exit code: 0 as before or better, 1 a call became dearer, 2 something
/// went wrong, 3 this machine cannot count.
#[derive(Parser)]
#[command(name = "ctp96-counts", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count and compare with the baseline.
    Check {
        /// The baseline.
        #[arg(long, default_value = BASELINE)]
        baseline: PathBuf,
        /// Do this call twice each time, to see that the gate closes.
        #[arg(long, value_name = "CALL")]
        burden: Option<String>,
    },
    /// Count and write the baseline anew; commit it with the change that moved it, and say why there.
    Renew {
        /// The baseline.
        #[arg(long, default_value = BASELINE)]
        baseline: PathBuf,
    },
    /// Do every call without counting; what `check` runs under valgrind.
    #[command(hide = true)]
    Run {
        #[arg(long)]
        burden: Option<String>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check { baseline, burden } => check(&baseline, burden.as_deref()),
        Command::Renew { baseline } => renew(&baseline),
        Command::Run { burden } => {
            run(burden.as_deref());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|trouble| {
        let (why, code) = match trouble {
            Trouble::Lacking(why) => (why, LACKING),
            Trouble::Failed(why) => (why, 2),
        };
        eprintln!("ctp96-counts: {why}");
        ExitCode::from(code)
    })
}

/// Counts with this very program.
fn counted(burden: Option<&str>) -> Result<std::collections::BTreeMap<String, f64>, Trouble> {
    if cfg!(debug_assertions) {
        let why = "counts need a release build: cargo run --release -p ctp96-counts -- check";
        return Err(Trouble::Failed(why.into()));
    }
    let program = std::env::current_exe().map_err(|e| Trouble::Failed(e.to_string()))?;
    gate::count(&program, burden)
}

fn check(path: &Path, burden: Option<&str>) -> Result<ExitCode, Trouble> {
    let here = Makers::here()?;
    let baseline = Baseline::load(path)?;
    let lacking = calls::all().lacking;
    let comparison = gate::compare(&baseline, &here, &counted(burden)?);
    println!("{}", comparison.table());
    for (name, why) in &lacking {
        println!("SKIPPED: {name}: {why}");
    }
    let failures = comparison.failures(&lacking);
    if !failures.is_empty() {
        let names: Vec<_> = failures.iter().map(|r| r.name.as_str()).collect();
        println!(
            "{} calls are dearer than the baseline, or not in it: {}\nIf that is meant: cargo run \
             --release -p ctp96-counts -- renew",
            failures.len(),
            names.join("; ")
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(match lacking.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(LACKING),
    })
}

fn renew(path: &Path) -> Result<ExitCode, Trouble> {
    let makers = Makers::here()?;
    let lacking = calls::all().lacking;
    if let Some((name, why)) = lacking.first() {
        return Err(Trouble::Lacking(format!("{name}: {why}")));
    }
    let failed = |e: String| Trouble::Failed(format!("{}: {e}", path.display()));
    let baseline = Baseline {
        makers,
        calls: counted(None)?,
    };
    let text = serde_json::to_string_pretty(&baseline).map_err(|e| failed(e.to_string()))?;
    std::fs::write(path, text + "\n").map_err(|e| failed(e.to_string()))?;
    println!(
        "{} calls written to {}",
        baseline.calls.len(),
        path.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// Does each call once unmeasured and then as often as is counted, and names it.
fn run(burden: Option<&str>) {
    for mut call in calls::all().all {
        let again = burden == Some(call.name.as_str());
        (call.once)();
        println!("{} {}", call.times, call.name);
        ctp96_counted(&mut *call.once, call.times, again);
    }
}

/// What valgrind looks for, by this name: it counts from here to the end of this function.
// SAFETY: the prefix is this project's, and nothing else in the program has that symbol.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn ctp96_counted(once: &mut dyn FnMut(), times: u32, again: bool) {
    for _ in 0..times {
        once();
        if again {
            once();
        }
    }
}
