//! What a finished transfer says: how much, how fast, and where the time went.

use crate::hist::since;
use ctp96::control::api::{HistReply, HistRow, Job};
use ctp96::obs::Summary;
use ctp96::obs::text::{bytes, duration, hist_table, rate_and_target};
use serde::Serialize;
use std::fmt::Write as _;

/// One quantity over the time of the transfer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Machine-readable name.
    pub name: String,
    /// What is measured.
    #[serde(skip)]
    pub label: String,
    /// Percentiles.
    #[serde(flatten)]
    pub summary: Summary,
    /// Sum of all values, nanoseconds.
    pub total_ns: u64,
}

/// What was recorded between two looks at the histograms. A daemon that was restarted in between
/// counts from zero, so then everything it has recorded belongs to the transfer.
pub fn between(before: &HistReply, after: &HistReply) -> Vec<Row> {
    let delta = |now: &HistRow| {
        let mut values = now.values()?;
        let old = before
            .hists
            .iter()
            .find(|b| b.name == now.name)
            .and_then(HistRow::values);
        if let Some(old) = old {
            values = since(&values, &old);
        }
        Some(Row {
            name: now.name.clone(),
            label: now.label.clone(),
            summary: Summary::of(&values),
            total_ns: (values.mean() * values.len() as f64) as u64,
        })
    };
    after
        .hists
        .iter()
        .filter_map(delta)
        .filter(|r| r.summary.count > 0)
        .collect()
}

/// The result of a transfer.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether every object arrived.
    pub ok: bool,
    /// The job at its end.
    pub job: Job,
    /// Seconds from the request to the end, waiting for daemons included.
    pub wall_s: f64,
    /// Times that the daemon of this host went away meanwhile.
    pub restarts: u32,
    /// Bytes that this command saw moved; resumed ones do not count.
    pub moved_bytes: u64,
    /// Bytes a second: over the time in which data moved, or over `wall_s` after a restart.
    pub bytes_per_s: f64,
    /// That, as a share of 25 GB/s, per cent.
    pub target_percent: f64,
    /// Histograms of this host's daemon over the transfer.
    pub hists: Vec<Row>,
}

impl Outcome {
    /// As text for people.
    pub fn text(&self) -> String {
        let (j, mut out) = (&self.job, String::new());
        // Writing to a String cannot fail, so the results of writeln! are dropped.
        let _ = writeln!(
            out,
            "{} of {} objects, {} ({} bytes) durable at {} after {}",
            j.files_done,
            j.files_total,
            bytes(j.bytes_done),
            j.bytes_done,
            j.peer,
            duration((self.wall_s * 1e9) as u64)
        );
        let _ = writeln!(out, "  throughput  {}", rate_and_target(self.bytes_per_s));
        let _ = writeln!(
            out,
            "  resumed     {} were durable there already and were not sent again",
            bytes(j.bytes_resumed)
        );
        if self.restarts > 0 || j.reconnects > 0 {
            let _ = writeln!(
                out,
                "  lost        the daemon here {} times, the session {} times",
                self.restarts, j.reconnects
            );
        }
        for note in &j.notes {
            let _ = writeln!(out, "  {note}");
        }
        let stages: Vec<&Row> = self
            .hists
            .iter()
            .filter(|r| r.name.starts_with("stage_"))
            .collect();
        if !stages.is_empty() && self.wall_s > 0.0 {
            let _ = writeln!(
                out,
                "\nwhere the time went on this host, as a share of one core:"
            );
            let mut sorted = stages;
            let staged: u64 = sorted.iter().map(|r| r.total_ns).sum();
            sorted.sort_by_key(|r| std::cmp::Reverse(r.total_ns));
            for r in sorted {
                let _ = writeln!(
                    out,
                    "  {:<18}{:>10}{:>8.1} %  {}",
                    r.name,
                    duration(r.total_ns),
                    r.total_ns as f64 / (self.wall_s * 1e9) * 100.0,
                    r.label
                );
            }
            let rest = ((self.wall_s * 1e9) as u64).saturating_sub(staged);
            let _ = writeln!(
                out,
                "  {:<18}{:>10}{:>8.1} %  Outside: waiting for files, disks, the window or the peer.",
                "the rest",
                duration(rest),
                rest as f64 / (self.wall_s * 1e9) * 100.0
            );
        }
        if !self.hists.is_empty() {
            let _ = writeln!(out, "\nlatencies and stage times during the transfer:");
            let rows = self.hists.iter().map(|r| (r.name.as_str(), r.summary));
            out.push_str(&hist_table(rows));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctp96::control::api::JobState;
    use ctp96::obs::{Hist, Histogram};

    fn reply(rtt: &Histogram, seal: &Histogram) -> HistReply {
        HistReply {
            hists: vec![
                HistRow::of(Hist::Rtt, &rtt.snapshot()),
                HistRow::of(Hist::StageSeal, &seal.snapshot()),
            ],
        }
    }

    #[test]
    fn only_the_time_between_counts() {
        let (rtt, seal) = (Histogram::new(), Histogram::new());
        rtt.record_n(1_000_000, 5);
        let before = reply(&rtt, &seal);
        assert_eq!(between(&before, &before), vec![]);
        seal.record_n(1_000, 3);
        rtt.record(50);
        let rows = between(&before, &reply(&rtt, &seal));
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].summary.count, rows[1].summary.count), (1, 3));
        assert!(rows[0].summary.max < 100 && (2_900..3_100).contains(&rows[1].total_ns));
        // The daemon was restarted: fewer values than before.
        let fresh = Histogram::new();
        fresh.record(7);
        let rows = between(&before, &reply(&fresh, &Histogram::new()));
        assert_eq!((rows.len(), rows[0].summary.count), (1, 1));
    }

    #[test]
    fn the_summary_names_target_resumption_and_stages() {
        let (rtt, seal) = (Histogram::new(), Histogram::new());
        let before = reply(&rtt, &seal);
        seal.record(250_000_000);
        let mut job = crate::progress::tests::job();
        (job.state, job.bytes_done, job.bytes_resumed) = (JobState::Done, 1 << 30, 1 << 29);
        let text = Outcome {
            ok: true,
            job,
            wall_s: 1.0,
            restarts: 1,
            moved_bytes: 1 << 29,
            bytes_per_s: 2.5e9,
            target_percent: 10.0,
            hists: between(&before, &reply(&rtt, &seal)),
        }
        .text();
        for want in [
            "10.0 % of 25 GB/s",
            "512.00 MiB were durable",
            "stage_seal",
            "25.0 %",
            "here 1 times",
        ] {
            assert!(text.contains(want), "{want}: {text}");
        }
    }
}
