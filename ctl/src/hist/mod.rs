//! `ctp96 hist`: latency percentiles of the running daemon or of a log, in several forms.

mod curve;
mod html;
pub mod log;
mod since;

pub use since::since;

use crate::cli::{HistArgs, HistForm};
use crate::out::{self, Failure};
use ctp96::control::api::{HistReply, HistRow, Request};
use ctp96::control::client::Client;
use ctp96::obs::text::hist_table;
use std::fmt::Write as _;
use std::path::Path;

/// Runs the command.
///
/// # Errors
/// See [`Failure`].
pub fn run(socket: &Path, args: &HistArgs, as_json: bool) -> Result<(), Failure> {
    let form = args.form();
    if as_json && form != HistForm::Table {
        return Err(Failure::Usage(
            "give one of --json, --csv, --plot and --html".into(),
        ));
    }
    let (mut reply, origin) = match &args.log {
        Some(path) => {
            let log = log::read(path)?;
            let origin = log.origin(path);
            (log.hists, origin)
        }
        None => {
            let lane = args.lane.map(usize::from);
            let reply: HistReply = Client::connect(socket)?.call(&Request::Hist { lane })?;
            let origin = match lane {
                Some(n) => format!("lane {n} of the daemon at {}", socket.display()),
                None => format!("the daemon at {} since its start", socket.display()),
            };
            (reply, origin)
        }
    };
    only(&mut reply, &args.names)?;
    if as_json {
        out::json(&reply);
        return Ok(());
    }
    out::text(&match form {
        HistForm::Csv => csv(&reply.hists),
        HistForm::Plot => curve::plots(&reply.hists),
        HistForm::Html => html::page(&reply.hists, &origin),
        HistForm::Table if args.log.is_some() => format!("{origin}\n\n{}", table(&reply)),
        HistForm::Table => table(&reply),
    });
    Ok(())
}

/// Leaves the histograms that were asked for; all where none was.
fn only(reply: &mut HistReply, names: &[String]) -> Result<(), Failure> {
    if let Some(odd) = names
        .iter()
        .find(|n| !reply.hists.iter().any(|h| h.name == **n))
    {
        let known: Vec<_> = reply.hists.iter().map(|h| h.name.as_str()).collect();
        return Err(Failure::Usage(format!(
            "there is no histogram {odd:?}; there are {}",
            known.join(", ")
        )));
    }
    if !names.is_empty() {
        reply.hists.retain(|h| names.contains(&h.name));
    }
    Ok(())
}

/// The table for people, one for each origin of the figures.
fn table(r: &HistReply) -> String {
    // Writing to a String cannot fail, so the results are dropped.
    let (some, none): (Vec<_>, Vec<_>) = r.hists.iter().partition(|h| h.summary.count > 0);
    let mut out = String::new();
    let mut origins: Vec<Option<&str>> = Vec::new();
    for h in &some {
        if !origins.contains(&h.of.as_deref()) {
            origins.push(h.of.as_deref());
        }
    }
    for of in &origins {
        match of {
            Some(core) if core.starts_with("core") => {
                let _ = writeln!(out, "{core}, all of its lanes together:");
            }
            Some(lane) => {
                let _ = writeln!(out, "{lane} alone:");
            }
            None => {}
        }
        let rows = some.iter().filter(|h| h.of.as_deref() == *of);
        out.push_str(&hist_table(rows.map(|h| (h.name.as_str(), h.summary))));
        out.push('\n');
    }
    for h in some.iter().filter(|h| !h.label.is_empty()) {
        let _ = writeln!(out, "{:<18}{}", h.name, h.label);
    }
    if !none.is_empty() {
        let names: Vec<_> = none.iter().map(|h| h.name.as_str()).collect();
        let _ = writeln!(out, "nothing recorded: {}", names.join(", "));
    }
    out
}

/// `--csv`: a line for each histogram, times in nanoseconds.
fn csv(rows: &[HistRow]) -> String {
    let mut out = String::from("histogram,of,count,mean_ns,p50_ns,p90_ns,p99_ns,p99_9_ns,max_ns\n");
    for r in rows {
        let s = &r.summary;
        let _ = writeln!(
            out,
            "{},{},{},{:.1},{},{},{},{},{}",
            field(&r.name),
            r.of.as_deref().unwrap_or("node"),
            s.count,
            s.mean,
            s.p50,
            s.p90,
            s.p99,
            s.p999,
            s.max
        );
    }
    out
}

/// A text as a field: in quotes where it would break the line (tags of foreign logs may).
fn field(text: &str) -> String {
    if text.contains(['"', '\n', '\r', ',']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctp96::obs::{Hist, Histogram};

    fn reply() -> HistReply {
        let h = Histogram::new();
        h.record_n(2_000, 3);
        let of = |of: &str, hist, h: &Histogram| HistRow {
            of: Some(of.into()),
            ..HistRow::of(hist, &h.snapshot())
        };
        HistReply {
            hists: vec![
                of("lane 3", Hist::StageDigest, &h),
                of("core 1", Hist::StageSeal, &h),
                of("core 1", Hist::Rtt, &Histogram::new()),
            ],
        }
    }

    #[test]
    fn a_table_says_whose_values_it_has() {
        let text = table(&reply());
        let lane = text.find("lane 3 alone:").expect("the lane's own");
        let core = text
            .find("core 1, all of its lanes together:")
            .expect("the core's");
        assert!(lane < core, "{text}");
        assert!(text.contains("nothing recorded: rtt"), "{text}");
        let mut node = reply();
        node.hists.iter_mut().for_each(|h| h.of = None);
        assert!(!table(&node).contains("alone"));
    }

    #[test]
    fn csv_has_a_line_for_each() {
        let text = csv(&reply().hists);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].starts_with("stage_digest,lane 3,3,2"), "{text}");
        assert_eq!(lines[3], "rtt,core 1,0,0.0,0,0,0,0,0");
        let commas = |l: &&str| l.matches(',').count();
        assert!(lines.iter().map(commas).all(|n| n == 8), "{text}");
        assert_eq!(field("a\"b,"), "\"a\"\"b,\"");
    }

    #[test]
    fn names_choose() {
        let mut r = reply();
        only(&mut r, &["rtt".into()]).expect("there is one");
        assert_eq!(r.hists.len(), 1);
        let e = only(&mut r, &["rrt".into()]).expect_err("there is none");
        assert!(e.text().contains("there are rtt"), "{}", e.text());
    }
}
