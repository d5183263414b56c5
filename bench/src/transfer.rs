//! Contenders side by side: the same bytes over the same link, interleaved run by run.
//!
//! Absolute figures drift with the machine's mood, so every round runs every contender once, and
//! ratios are taken within a round before the median is.

use crate::Result;
use crate::contender::{Contender, Sample, Task};
use crate::host::{Host, MachineTime};
use crate::site::Site;
use crate::stats::{median, range};
use crate::units::show_bytes;
use ctp96::base::limits::TARGET_BYTES_PER_S;
use serde::Serialize;
use std::fmt::Write;

/// What to compare, and how often.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// MTUs of the veth pairs, bytes.
    pub mtus: Vec<u32>,
    /// Measured runs of each contender at each MTU.
    pub runs: usize,
    /// True: every frame crosses alone, as on a wire; false: super-packets cross whole.
    pub per_frame: bool,
    /// Share of frames that the receiving host loses, 0 to 1.
    pub loss: f64,
    /// One run.
    #[serde(flatten)]
    pub task: Task,
}

/// One measured run and what the machine did besides.
#[derive(Clone, Debug, Serialize)]
struct Run {
    #[serde(flatten)]
    sample: Sample,
    gb_per_s: f64,
    cpu_s_per_gb: f64,
    /// Packet work in ksoftirqd, charged to neither side, seconds.
    ksoftirqd_s: f64,
    /// CPU time that neither side used, as a share of all CPUs' time: other load on the machine.
    other_load: f64,
    /// CPU time that the hypervisor took, as a share of all CPUs' time.
    steal: f64,
}

/// One contender at one MTU.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    mtu: u32,
    stack: String,
    reference: bool,
    gb_per_s: f64,
    gb_per_s_min: f64,
    gb_per_s_max: f64,
    of_target: f64,
    cpu_s_per_gb: f64,
    send_cpu_s_per_gb: f64,
    recv_cpu_s_per_gb: f64,
    /// Throughput against the reference row of the same round, median over the rounds.
    throughput_ratio: Option<f64>,
    /// CPU time per byte against the reference row of the same round, median over the rounds.
    cpu_ratio: Option<f64>,
    runs: Vec<Run>,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    host: Host,
    plan: Plan,
    notes: Vec<String>,
    rows: Vec<Row>,
}

/// Runs the comparison. `progress` is told each run as it ends.
///
/// # Errors
/// The lab cannot be made, or a contender fails; nothing is reported then.
pub fn compare(
    plan: &Plan,
    contenders: &[Box<dyn Contender>],
    notes: Vec<String>,
    mut progress: impl FnMut(&str),
) -> Result<Report> {
    let host = Host::describe();
    let mut sites = Vec::new();
    for &mtu in &plan.mtus {
        let site = Site::veth(mtu, plan.per_frame)?;
        if let (Site::Veth(lab), true) = (&site, plan.loss > 0.0) {
            lab.right.lose_received(plan.loss)?;
        }
        sites.push((mtu, site));
    }
    // runs[mtu][contender][round]
    let mut runs = vec![vec![Vec::new(); contenders.len()]; sites.len()];
    for round in 1..=plan.runs {
        for (at, (mtu, site)) in sites.iter().enumerate() {
            for (which, contender) in contenders.iter().enumerate() {
                let run = measure(contender.as_ref(), site, &plan.task, host.cpus)
                    .map_err(|e| format!("{} at MTU {mtu}: {e}", contender.name()))?;
                progress(&format!(
                    "round {round}/{} MTU {mtu} {}: {:.2} GB/s, {:.2} CPU s/GB, other load {:.0} %",
                    plan.runs,
                    contender.name(),
                    run.gb_per_s,
                    run.cpu_s_per_gb,
                    run.other_load * 100.0
                ));
                runs[at][which].push(run);
            }
        }
    }
    let mut rows = Vec::new();
    for ((mtu, _), of_mtu) in sites.iter().zip(runs) {
        let reference = contenders.iter().position(|c| c.is_reference());
        let reference = reference.map(|i| of_mtu[i].clone());
        for (contender, runs) in contenders.iter().zip(of_mtu) {
            rows.push(Row::new(
                *mtu,
                contender.as_ref(),
                runs,
                reference.as_deref(),
            ));
        }
    }
    Ok(Report {
        host,
        plan: plan.clone(),
        notes,
        rows,
    })
}

fn measure(contender: &dyn Contender, site: &Site, task: &Task, cpus: usize) -> Result<Run> {
    let (before, started) = (MachineTime::now(), std::time::Instant::now());
    let sample = contender.transfer(site, task)?;
    let (spent, elapsed) = (
        MachineTime::now().since(&before),
        started.elapsed().as_secs_f64(),
    );
    let capacity = elapsed * cpus.max(1) as f64;
    let own = sample.send_cpu_s + sample.recv_cpu_s + spent.ksoftirqd_s;
    Ok(Run {
        gb_per_s: sample.gb_per_s(),
        cpu_s_per_gb: sample.cpu_s_per_gb(),
        ksoftirqd_s: spent.ksoftirqd_s,
        other_load: ((spent.busy_s - own) / capacity).max(0.0),
        steal: spent.steal_s / capacity,
        sample,
    })
}

impl Row {
    fn new(mtu: u32, contender: &dyn Contender, runs: Vec<Run>, reference: Option<&[Run]>) -> Self {
        let of = |f: fn(&Run) -> f64| median(runs.iter().map(f));
        let ratio = |f: fn(&Run) -> f64| {
            reference.map(|r| median(runs.iter().zip(r).map(|(own, other)| f(own) / f(other))))
        };
        let (gb_per_s_min, gb_per_s_max) = range(runs.iter().map(|r| r.gb_per_s));
        let gb_per_s = of(|r| r.gb_per_s);
        Self {
            mtu,
            stack: contender.name(),
            reference: contender.is_reference(),
            gb_per_s,
            gb_per_s_min,
            gb_per_s_max,
            of_target: gb_per_s * 1e9 / TARGET_BYTES_PER_S,
            cpu_s_per_gb: of(|r| r.cpu_s_per_gb),
            send_cpu_s_per_gb: of(|r| r.sample.send_cpu_s / (r.sample.bytes as f64 / 1e9)),
            recv_cpu_s_per_gb: of(|r| r.sample.recv_cpu_s / (r.sample.bytes as f64 / 1e9)),
            throughput_ratio: ratio(|r| r.gb_per_s),
            cpu_ratio: ratio(|r| r.cpu_s_per_gb),
            runs,
        }
    }
}

impl Report {
    /// The report as a table for people.
    pub fn table(&self) -> String {
        let plan = &self.plan;
        let mut out = format!("{}\n", self.host.lines());
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        let crossing = if plan.per_frame {
            "every frame alone"
        } else {
            "super-packets whole"
        };
        let _ = writeln!(
            out,
            "{} a run, median of {}, chunks of {}, sender on CPU {}, receiver on CPU {}; veth, {}, \
             {} % random loss",
            show_bytes(plan.task.bytes),
            plan.runs,
            show_bytes(plan.task.chunk as u64),
            plan.task.sender_core,
            plan.task.receiver_core,
            crossing,
            plan.loss * 100.0
        );
        let _ = writeln!(
            out,
            "\n| MTU | stack | GB/s | min - max | % of 25 GB/s | CPU s/GB | send + recv | x TLS | \
             CPU vs TLS | other load |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
        );
        for row in &self.rows {
            let ratio = |r: Option<f64>| r.map_or("-".to_owned(), |r| format!("{r:.2}"));
            let _ = writeln!(
                out,
                "| {} | {} | {:.2} | {:.2} - {:.2} | {:.1} | {:.2} | {:.2} + {:.2} | {} | {} | \
                 {:.0} % |",
                row.mtu,
                row.stack,
                row.gb_per_s,
                row.gb_per_s_min,
                row.gb_per_s_max,
                row.of_target * 100.0,
                row.cpu_s_per_gb,
                row.send_cpu_s_per_gb,
                row.recv_cpu_s_per_gb,
                ratio(row.throughput_ratio),
                ratio(row.cpu_ratio),
                median(row.runs.iter().map(|r| r.other_load + r.steal)) * 100.0
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(&'static str, bool);

    impl Contender for Fixed {
        fn name(&self) -> String {
            self.0.to_owned()
        }
        fn is_reference(&self) -> bool {
            self.1
        }
        fn transfer(&self, _: &Site, _: &Task) -> Result<Sample> {
            Err("not run in this test".into())
        }
    }

    fn run(gb_per_s: f64, cpu_s_per_gb: f64) -> Run {
        let bytes = 1_000_000_000;
        let (wall_s, half) = (1.0 / gb_per_s, cpu_s_per_gb / 2.0);
        let sample = Sample {
            bytes,
            wall_s,
            send_cpu_s: half,
            recv_cpu_s: half,
        };
        Run {
            gb_per_s: sample.gb_per_s(),
            cpu_s_per_gb: sample.cpu_s_per_gb(),
            ksoftirqd_s: 0.0,
            other_load: 0.0,
            steal: 0.0,
            sample,
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine halves its speed after the first round; ours is always twice the reference.
        let reference = [run(2.0, 1.0), run(1.0, 2.0), run(1.0, 2.0)];
        let ours = vec![run(4.0, 0.5), run(2.0, 1.0), run(2.0, 1.0)];
        let row = Row::new(1500, &Fixed("ours", false), ours, Some(&reference));
        assert!((row.throughput_ratio.unwrap() - 2.0).abs() < 1e-9);
        assert!((row.cpu_ratio.unwrap() - 0.5).abs() < 1e-9);
        assert!((row.gb_per_s - 2.0).abs() < 1e-9);
        assert!((row.of_target - 0.08).abs() < 1e-9);
        let alone = Row::new(1500, &Fixed("alone", false), vec![run(1.0, 1.0)], None);
        assert_eq!(alone.throughput_ratio, None);
    }
}
