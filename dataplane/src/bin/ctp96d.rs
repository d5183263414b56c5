//! `ctp96d`: the CTP-96 daemon.

use clap::Parser;
use ctp96::control::api::{Job, JobState};
use ctp96::control::config::{Config, EXAMPLE};
use ctp96::control::daemon::Daemon;
use ctp96::control::server::Listener;
use ctp96::control::signals::Signals;
use ctp96::obs::text;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between two looks at sessions and jobs, for the log.
const WATCH: Duration = Duration::from_secs(1);
/// Time that an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Moves bulk data between hosts: encrypted, loss-tolerant, verified end to end.
#[derive(Parser)]
#[command(
    name = "ctp96d",
    version,
    after_help = "\
First start on a host:
  mkdir -p /etc/ctp96
  ctp96 keys gen /etc/ctp96/identity.key      # prints the public key, for the peers' files
  ctp96d --print-example > /etc/ctp96/ctp96d.toml
  $EDITOR /etc/ctp96/ctp96d.toml              # add a [[peer]] for each other host
  ctp96d --check && ctp96d

`ctp96 status` shows what the daemon does; `ctp96 stop`, SIGTERM or SIGINT ends it in order
(a second signal at once). Logs go to standard error.

Exit status: 0 stopped as asked, 1 could not start, 2 bad usage or configuration."
)]
struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/ctp96/ctp96d.toml")]
    config: PathBuf,
    /// Check the configuration and this host against it, and exit
    #[arg(long)]
    check: bool,
    /// Print an annotated example configuration, and exit
    #[arg(long)]
    print_example: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_example {
        // A closed pipe is the reader's choice.
        let _ = std::io::stdout().write_all(EXAMPLE.as_bytes());
        return ExitCode::SUCCESS;
    }
    let config = match Config::load(&args.config) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("{e}");
            if !args.config.exists() {
                eprintln!(
                    "write one from the example: ctp96d --print-example > {}",
                    args.config.display()
                );
            }
            return ExitCode::from(2);
        }
    };
    if args.check {
        return match Daemon::check(&config) {
            Ok(()) => {
                println!("{}: good", args.config.display());
                ExitCode::SUCCESS
            }
            Err(e) => {
                eprintln!("{}: {e}", args.config.display());
                ExitCode::from(2)
            }
        };
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log("error", &e);
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), String> {
    let signals = Signals::block().map_err(|e| format!("cannot block signals: {e}"))?;
    let listener = Listener::bind(&config.node.control_socket).map_err(|e| e.to_string())?;
    let socket = config.node.control_socket.clone();
    let daemon = match Daemon::start(config) {
        Ok(d) => Arc::new(d),
        Err(e) => {
            let _ = std::fs::remove_file(&socket);
            return Err(e.to_string());
        }
    };
    let server = listener
        .serve(daemon.clone())
        .map_err(|e| format!("no thread for the control socket: {e}"))?;
    let version = env!("CARGO_PKG_VERSION");
    log(
        "info",
        &format!("ctp96d {version} is ready\n{}", daemon.summary().trim_end()),
    );
    for w in daemon.warnings() {
        log("warning", w);
    }

    let mut watch = Watch::default();
    let signal = loop {
        match signals.wait(WATCH) {
            Some(s) => break s,
            None => watch.look(&daemon),
        }
    };
    log(
        "info",
        &format!("{}: stopping; once more to stop at once", signal.name()),
    );
    let impatient = std::thread::Builder::new().spawn(move || {
        let again = signals.wait(STOP_LIMIT);
        match again {
            Some(s) => log("warning", &format!("{}: stopped at once", s.name())),
            None => log("warning", "the orderly stop took too long; stopped at once"),
        }
        // What is not durable yet is sent again by the peer; journals survive this.
        std::process::exit(1);
    });
    drop(server);
    watch.look(&daemon);
    // The service first: its threads hold sessions, and the node lives as long as they do.
    drop(daemon);
    log("info", "stopped");
    drop(impatient);
    Ok(())
}

/// Turns changes of sessions and jobs into log lines.
#[derive(Default)]
struct Watch {
    sessions: BTreeMap<u32, String>,
    jobs: HashMap<u64, (JobState, Option<String>)>,
}

impl Watch {
    fn look(&mut self, daemon: &Daemon) {
        let now: BTreeMap<u32, String> = daemon
            .snapshot()
            .sessions
            .iter()
            .map(|s| {
                (
                    s.index,
                    format!("session {:08x} with {} ({})", s.index, s.peer, s.addr),
                )
            })
            .collect();
        for (_, what) in now.iter().filter(|(i, _)| !self.sessions.contains_key(i)) {
            log("info", &format!("{what} opened"));
        }
        for (_, what) in self.sessions.iter().filter(|(i, _)| !now.contains_key(i)) {
            log("info", &format!("{what} closed"));
        }
        self.sessions = now;
        for job in daemon.jobs() {
            let state = (job.state, job.why.clone());
            if self.jobs.get(&job.id) != Some(&state) {
                log(
                    if job.state == JobState::Failed {
                        "warning"
                    } else {
                        "info"
                    },
                    &said(&job),
                );
                self.jobs.insert(job.id, state);
            }
        }
    }
}

fn said(job: &Job) -> String {
    let what = if job.sending { "to" } else { "from" };
    let mut text = format!("job {} {what} {}: {}", job.id, job.peer, job.state.name());
    match &job.why {
        Some(why) => text.push_str(&format!(": {why}")),
        None if job.state == JobState::Done => text.push_str(&format!(
            ", {} files, {}, {} resumed, {}",
            job.files_total,
            text::bytes(job.bytes_total),
            text::bytes(job.bytes_resumed),
            text::rate(job.bytes_per_s)
        )),
        None => {}
    }
    text
}

fn log(level: &str, message: &str) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    // One write, so that lines of several threads do not mix; a lost log is no reason to stop.
    let line = format!("{} {level}: {message}\n", utc(now.as_secs()));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Seconds since the Unix epoch as `2026-11-23T17:25:00Z` (days to date: Hinnant, "chrono-
/// compatible low-level date algorithms").
fn utc(s: u64) -> String {
    let (days, s) = (s / 86_400 + 719_468, s % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (year + era * 400, month + 3),
        _ => (year + era * 400 + 1, month - 9),
    };
    let (h, m, s) = (s / 3_600, s / 60 % 60, s % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_790_000_000, "2026-09-21T14:13:20Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(s), text);
        }
    }

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }
}
