//! `ctp96 record`: the daemon's histograms over time, in a log that other tools read.

use crate::cli::RecordArgs;
use crate::hist::{log, since};
use crate::out::{self, Failure};
use ctp96::control::api::{HistReply, Request, StatusReply};
use ctp96::control::client::Client;
use ctp96::control::signals::Signals;
use ctp96::obs::text::count;
use hdrhistogram::Histogram as Hdr;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What was recorded.
#[derive(Debug, Serialize)]
struct Recorded {
    ok: bool,
    file: PathBuf,
    intervals: u64,
    seconds: f64,
    /// Values of each histogram.
    values: BTreeMap<String, u64>,
}

/// Runs the command.
///
/// # Errors
/// See [`Failure`]; what was recorded up to then stays in the file.
pub fn run(socket: &Path, args: &RecordArgs, as_json: bool) -> Result<(), Failure> {
    // Ctrl-C ends the last interval early instead of losing it.
    let signals = Signals::block()
        .map_err(|e| Failure::Failed(format!("cannot take signals in order: {e}")))?;
    let mut client = Client::connect(socket)?;
    let status: StatusReply = client.call(&Request::Status)?;
    let file = open(args)?;
    let comment = format!(
        "ctp96 record: ctp96d {} on {}, nanoseconds, one tag for each histogram",
        status.version, status.listen
    );
    let mut last = look(&mut client)?;
    let (began, began_at) = (SystemTime::now(), Instant::now());
    let mut r = Recorded {
        ok: true,
        file: args.to.clone(),
        intervals: 0,
        seconds: 0.0,
        values: BTreeMap::new(),
    };
    let outcome = log::write(file, began, &comment, |log| {
        let (mut from, mut due) = (Duration::ZERO, Duration::ZERO);
        let mut ended = false;
        while !ended {
            due += args.every;
            let end = args.span.map_or(due, |span| due.min(span));
            ended = wait(&signals, began_at, end) || args.span.is_some_and(|span| end >= span);
            let now = look(&mut client)?;
            let at = began_at.elapsed();
            let gained: Vec<_> = now
                .iter()
                .zip(&last)
                .map(|((name, now), (_, before))| (name.as_str(), since(now, before)))
                .collect();
            log.interval(
                from,
                at.saturating_sub(from),
                gained.iter().map(|(name, h)| (*name, h)),
            )?;
            for (name, h) in &gained {
                *r.values.entry((*name).to_owned()).or_default() += h.len();
            }
            r.intervals += 1;
            r.seconds = at.as_secs_f64();
            drop(gained);
            (from, last) = (at, now);
            // After a pause of this process, such as Ctrl-Z, the rhythm starts anew.
            if at > due + args.every {
                due = at;
            }
        }
        Ok(())
    });
    if let Err(f) = outcome {
        let kept = format!("; {} intervals are in {}", r.intervals, r.file.display());
        return Err(match f {
            Failure::Unreachable(text) => Failure::Unreachable(text + &kept),
            Failure::Failed(text) => Failure::Failed(text + &kept),
            other => other,
        });
    }
    if as_json {
        out::json(&r);
    } else {
        out::text(&format!(
            "{}: {} intervals in {:.1} s, {} values; `ctp96 hist --log {0}` sums them up\n",
            r.file.display(),
            r.intervals,
            r.seconds,
            count(r.values.values().sum())
        ));
    }
    Ok(())
}

fn open(args: &RecordArgs) -> Result<File, Failure> {
    let mut how = OpenOptions::new();
    how.write(true);
    if args.force {
        how.create(true).truncate(true);
    } else {
        how.create_new(true);
    }
    let shown = args.to.display();
    how.open(&args.to).map_err(|e| {
        Failure::Failed(match e.kind() {
            io::ErrorKind::AlreadyExists => {
                format!("{shown} is there already; --force replaces it")
            }
            _ => format!("cannot make {shown}: {e}"),
        })
    })
}

/// Waits until `end` after `began`, or for a signal: then `true`.
fn wait(signals: &Signals, began: Instant, end: Duration) -> bool {
    loop {
        let left = end.saturating_sub(began.elapsed());
        if left.is_zero() {
            return false;
        }
        if signals.wait(left).is_some() {
            return true;
        }
    }
}

/// Every histogram as it is now.
fn look(client: &mut Client) -> Result<Vec<(String, Hdr<u64>)>, Failure> {
    let reply: HistReply = client.call(&Request::Hist { lane: None })?;
    reply
        .hists
        .iter()
        .map(|row| {
            let values = row.values().ok_or_else(|| {
                Failure::Failed(format!("the daemon's histogram {} is unreadable", row.name))
            })?;
            Ok((row.name.clone(), values))
        })
        .collect()
}
