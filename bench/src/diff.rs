//! What changed between two runs beyond their noise.
//!
//! A figure changed if no round of one run lies among the rounds of the other, and the medians are
//! further apart than a floor. Where there are fewer than three rounds the ends say little, so the
//! floor is four times as high.

use crate::schema::{Better, Case, Document, Metric};
use crate::suite::table::number;
use serde::Serialize;
use std::fmt::Write;

/// One figure in both runs.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Change {
    /// Suite.
    pub suite: String,
    /// Case.
    pub case: String,
    /// Metric.
    pub metric: String,
    /// Median before.
    pub before: f64,
    /// Median after.
    pub after: f64,
    /// Relative change of the median.
    pub change: f64,
    /// What to think of it.
    pub verdict: Verdict,
}

/// What to think of a change.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Worse beyond the noise.
    Worse,
    /// Better beyond the noise.
    Better,
    /// Other beyond the noise, and neither better nor worse.
    Other,
    /// Within the noise.
    Same,
}

/// Everything that two runs have in common, and what they do not.
#[derive(Clone, Debug, Serialize)]
pub struct Changes {
    /// Figures in both.
    pub figures: Vec<Change>,
    /// Cases that gave figures before and give none now, with the reason.
    pub lost: Vec<String>,
    /// Why the comparison may mislead.
    pub warnings: Vec<String>,
}

/// Compares two documents; `floor` is a share.
pub fn compare(before: &Document, after: &Document, floor: f64) -> Changes {
    let mut changes = Changes {
        figures: Vec::new(),
        lost: Vec::new(),
        warnings: warnings(before, after),
    };
    for old_suite in &before.suites {
        let Some(new_suite) = after.suite(&old_suite.name) else {
            changes.lost.push(format!("{}: not run", old_suite.name));
            continue;
        };
        for old in &old_suite.cases {
            let (name, id) = (&old_suite.name, old.id());
            let new = new_suite.cases.iter().find(|c| c.id() == id);
            if let Some(why) = gone(old, new) {
                changes.lost.push(format!("{name}: {id}: {why}"));
            }
            let Some(new) = new else { continue };
            for a in &old.metrics {
                if let Some(b) = new.metric(&a.name) {
                    let (change, verdict) = judge(a, b, floor);
                    changes.figures.push(Change {
                        suite: name.clone(),
                        case: id.clone(),
                        metric: a.name.clone(),
                        before: a.median,
                        after: b.median,
                        change,
                        verdict,
                    });
                }
            }
        }
    }
    changes
}

fn gone(old: &Case, new: Option<&Case>) -> Option<String> {
    if old.metrics.is_empty() {
        return None;
    }
    match new {
        None => Some("not run".to_owned()),
        Some(c) => match (&c.failed, &c.skipped) {
            (Some(why), _) => Some(format!("failed: {why}")),
            (_, Some(why)) => Some(format!("skipped: {why}")),
            _ => None,
        },
    }
}

fn judge(a: &Metric, b: &Metric, floor: f64) -> (f64, Verdict) {
    let change = if a.median == b.median {
        0.0
    } else {
        (b.median - a.median) / a.median.abs().max(f64::MIN_POSITIVE)
    };
    let few = a.values.len().min(b.values.len()) < 3;
    let floor = if few { 4.0 * floor } else { floor };
    let apart = b.min > a.max || b.max < a.min;
    if !apart || change.abs() <= floor {
        return (change, Verdict::Same);
    }
    let verdict = match (b.better, change > 0.0) {
        (Better::Neither, _) => Verdict::Other,
        (Better::Higher, true) | (Better::Lower, false) => Verdict::Better,
        _ => Verdict::Worse,
    };
    (change, verdict)
}

fn warnings(a: &Document, b: &Document) -> Vec<String> {
    let mut out = Vec::new();
    let mut differs = |what: &str, x: &str, y: &str| {
        if x != y {
            out.push(format!("{what} differs: {x} before, {y} after"));
        }
    };
    differs("CPU", &a.host.cpu, &b.host.cpu);
    differs(
        "number of CPUs",
        &a.host.cpus.to_string(),
        &b.host.cpus.to_string(),
    );
    differs(
        "CPU features",
        &a.host.features.join(" "),
        &b.host.features.join(" "),
    );
    differs("kernel", &a.host.kernel, &b.host.kernel);
    let method = |d: &Document| {
        let m = &d.method;
        format!(
            "{} rounds of {} s on CPUs {} and {}",
            m.runs, m.seconds, m.sender_core, m.receiver_core
        )
    };
    differs("method", &method(a), &method(b));
    for (d, when) in [(a, "before"), (b, "after")] {
        let n = &d.noise;
        if n.other_load + n.steal > 0.1 || n.clock_drift.abs() > 0.05 {
            out.push(format!(
                "noisy machine {when}: {}",
                crate::suite::table::noise(n)
            ));
        }
    }
    out
}

impl Changes {
    /// Whether something became worse or gives no figures any more.
    pub fn regressed(&self) -> bool {
        !self.lost.is_empty() || self.figures.iter().any(|c| c.verdict == Verdict::Worse)
    }

    /// For people; `all` shows also what stayed the same.
    pub fn table(&self, all: bool) -> String {
        let mut out = String::new();
        for w in &self.warnings {
            let _ = writeln!(out, "warning: {w}");
        }
        let mut shown: Vec<&Change> = self
            .figures
            .iter()
            .filter(|c| all || c.verdict != Verdict::Same)
            .collect();
        shown.sort_by_key(|c| c.verdict);
        if !shown.is_empty() {
            out += "| verdict | suite | case | metric | before | after | change |\n| --- | --- | --- \
                    | --- | --- | --- | --- |\n";
        }
        for c in shown {
            let verdict = match c.verdict {
                Verdict::Worse => "WORSE",
                Verdict::Better => "better",
                Verdict::Other => "other",
                Verdict::Same => "same",
            };
            let _ = writeln!(
                out,
                "| {verdict} | {} | {} | {} | {} | {} | {:+.1} % |",
                c.suite,
                c.case,
                c.metric,
                number(c.before),
                number(c.after),
                c.change * 100.0
            );
        }
        for l in &self.lost {
            let _ = writeln!(out, "LOST {l}");
        }
        let count = |v| self.figures.iter().filter(|c| c.verdict == v).count();
        let _ = write!(
            out,
            "{} worse, {} better, {} other, {} within the noise, {} lost",
            count(Verdict::Worse),
            count(Verdict::Better),
            count(Verdict::Other),
            count(Verdict::Same),
            self.lost.len()
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::sample;

    #[test]
    fn the_noise_of_both_runs_is_no_change() {
        let c = compare(&sample(1.0), &sample(1.015), 0.001);
        assert!(!c.regressed());
        assert!(c.figures.iter().all(|f| f.verdict == Verdict::Same));
        assert_eq!(c.figures.len(), 4);
    }

    #[test]
    fn what_is_slower_beyond_the_noise_is_a_regression() {
        let (fast, slow) = (sample(1.0), sample(0.8));
        let worse = compare(&fast, &slow, 0.05);
        assert!(worse.regressed());
        assert!(worse.table(false).contains("| WORSE | throughput |"));
        assert!(!compare(&slow, &fast, 0.05).regressed());
        // Below the floor it does not count.
        assert!(!compare(&fast, &slow, 0.3).regressed());
    }

    #[test]
    fn a_cost_that_grows_is_worse() {
        let metric = |better, values: [f64; 3]| Metric::new("m", "", better, values.to_vec());
        let (low, high) = ([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]);
        let of = |better| judge(&metric(better, low), &metric(better, high), 0.05).1;
        assert_eq!(of(Better::Lower), Verdict::Worse);
        assert_eq!(of(Better::Higher), Verdict::Better);
        assert_eq!(of(Better::Neither), Verdict::Other);
    }

    #[test]
    fn single_rounds_need_a_larger_change() {
        let one = |v| Metric::new("m", "", Better::Higher, vec![v]);
        assert_eq!(judge(&one(1.0), &one(0.85), 0.05).1, Verdict::Same);
        assert_eq!(judge(&one(1.0), &one(0.75), 0.05).1, Verdict::Worse);
        assert_eq!(judge(&one(0.0), &one(0.0), 0.05).1, Verdict::Same);
    }

    #[test]
    fn a_case_that_fails_now_is_a_regression() {
        let (before, mut after) = (sample(1.0), sample(1.0));
        after.suites[0].cases[1].failed = Some("broken".into());
        after.suites[0].cases[1].metrics.clear();
        let c = compare(&before, &after, 0.05);
        assert!(c.regressed() && c.lost[0].contains("failed: broken"));
        after.suites.clear();
        assert!(compare(&before, &after, 0.05).regressed());
    }

    #[test]
    fn other_machines_are_pointed_out() {
        let (before, mut after) = (sample(1.0), sample(1.0));
        after.host.cpu = "another".into();
        after.noise.steal = 0.5;
        assert_eq!(compare(&before, &after, 0.05).warnings.len(), 2);
    }
}
