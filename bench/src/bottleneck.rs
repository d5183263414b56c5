//! Where the time of a transfer goes, stage by stage, and which stage limits it.

use crate::peer::NodeReport;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What the pieces do alone on this host, GB/s or seconds of CPU time per GB; zero where it was not
/// measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ceilings {
    /// Bare sealing at the run's symbol length.
    pub seal_gb_per_s: f64,
    /// Bare opening.
    pub open_gb_per_s: f64,
    /// Bare digest of a slot.
    pub digest_gb_per_s: f64,
    /// Sending over a bare UDP socket.
    pub send_cpu_s_per_gb: f64,
    /// Receiving over a bare UDP socket.
    pub recv_cpu_s_per_gb: f64,
    /// Copying from and to memory.
    pub copy_gb_per_s: f64,
    /// Clocks a nanosecond of the CPU's time counter.
    pub clock_ghz: f64,
}

/// One side of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bottleneck {
    /// The case that was run.
    pub case: String,
    /// `send` or `receive`.
    pub side: String,
    /// CPU time over wall time; 1 is one full core.
    pub busy: f64,
    /// Whether this side is the busier one.
    pub limits: bool,
    /// Frames sent or received.
    pub frames: u64,
    /// CPU time per frame, nanoseconds.
    pub cpu_ns_per_frame: f64,
    /// CPU time per frame outside the stages below (copying in or out, protocol, polling),
    /// nanoseconds.
    pub rest_ns_per_frame: f64,
    /// What a bare copy from and to memory takes for a frame here, nanoseconds: the ceiling of what
    /// the application does outside the stages.
    #[serde(default)]
    pub rest_ceiling_ns: Option<f64>,
    /// Clocks a nanosecond of the CPU's time counter; 0 where it has none.
    #[serde(default)]
    pub clock_ghz: f64,
    /// Time in which this side's CPU was idle, as a share: asleep, or without anything to run.
    #[serde(default)]
    pub idle_time: f64,
    /// Rounds of the lane core that found nothing to do, as a share.
    pub idle_rounds: f64,
    /// Times that the lane core slept.
    pub sleeps: u64,
    /// Slots in flight over slots of the window, on average; only the sender knows.
    pub window_filled: Option<f64>,
    /// Turns of the application, as a share, at which the ring of slots between it and the core had
    /// one for it at once: a free one at the sender, a complete one at the receiver.
    #[serde(default)]
    pub at_once: Option<f64>,
    /// Stages, the dearest first.
    pub stages: Vec<StageCost>,
    /// The dearest stage.
    pub limiting: String,
    /// Its time over that of its bare call, where that was measured.
    #[serde(default)]
    pub limiting_times_ceiling: Option<f64>,
    /// What would make it cheaper.
    pub advice: String,
}

/// One stage of one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageCost {
    /// Name of its histogram.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Frames per call.
    pub frames_per_call: f64,
    /// Time per frame, nanoseconds. Time, not CPU time: a stage that is interrupted counts on.
    pub ns_per_frame: f64,
    /// As a share of the side's CPU time per frame.
    pub share: f64,
    /// What the bare call takes for a frame here, nanoseconds.
    pub ceiling_ns: Option<f64>,
    /// Time over the bare call's time.
    pub times_ceiling: Option<f64>,
}

/// Puts the figures of both sides of a run together.
pub fn analyse(case: &str, sides: &[NodeReport], ceilings: &Ceilings) -> Vec<Bottleneck> {
    let busiest = sides.iter().map(busy).fold(0.0, f64::max);
    let one = |node| side(case, node, ceilings, busiest);
    sides.iter().filter_map(one).collect()
}

fn busy(node: &NodeReport) -> f64 {
    node.cpu_s / node.wall_s.max(1e-9)
}

fn side(case: &str, node: &NodeReport, ceilings: &Ceilings, busiest: f64) -> Option<Bottleneck> {
    let counter = |name: &str| node.counters.get(name).copied().unwrap_or(0);
    let frames = counter(match node.side.as_str() {
        "send" => "tx_frames_sent",
        _ => "rx_frames",
    });
    if frames == 0 {
        return None;
    }
    let per_frame = |ns: f64| ns / frames as f64;
    let cpu_ns = per_frame(node.cpu_s * 1e9);
    let len = node.symbol_len as f64;
    let of_rate = |gb_per_s: f64| (gb_per_s > 0.0).then(|| len / gb_per_s);
    let of_cost = |s_per_gb: f64| (s_per_gb > 0.0).then_some(len * s_per_gb);
    let mut stages: Vec<StageCost> = node
        .stages
        .iter()
        .map(|s| {
            let ns = per_frame(s.total_ns as f64);
            let ceiling_ns = match (s.name.as_str(), node.side.as_str()) {
                ("stage_seal", "send") => of_rate(ceilings.seal_gb_per_s),
                ("stage_open", "receive") => of_rate(ceilings.open_gb_per_s),
                ("stage_digest", _) => of_rate(ceilings.digest_gb_per_s),
                ("stage_send", "send") => of_cost(ceilings.send_cpu_s_per_gb),
                ("stage_recv", "receive") => of_cost(ceilings.recv_cpu_s_per_gb),
                _ => None,
            };
            StageCost {
                name: s.name.clone(),
                calls: s.calls,
                frames_per_call: frames as f64 / s.calls.max(1) as f64,
                ns_per_frame: ns,
                share: ns / cpu_ns.max(1e-9),
                ceiling_ns,
                times_ceiling: ceiling_ns.map(|c| ns / c),
            }
        })
        .collect();
    stages.sort_by(|a, b| b.ns_per_frame.total_cmp(&a.ns_per_frame));
    let in_stages: f64 = stages.iter().map(|s| s.ns_per_frame).sum();
    let rest = (cpu_ns - in_stages).max(0.0);
    let rest_ceiling_ns = of_rate(ceilings.copy_gb_per_s);
    let (limiting, limiting_times_ceiling) = match stages.first() {
        Some(s) if s.ns_per_frame >= rest => (s.name.clone(), s.times_ceiling),
        _ => (
            "application and protocol".to_owned(),
            rest_ceiling_ns.map(|c| rest / c),
        ),
    };
    let steps = counter("core_steps").max(1);
    Some(Bottleneck {
        case: case.to_owned(),
        side: node.side.clone(),
        busy: busy(node),
        limits: busy(node) >= busiest,
        frames,
        cpu_ns_per_frame: cpu_ns,
        rest_ns_per_frame: rest,
        rest_ceiling_ns,
        clock_ghz: ceilings.clock_ghz,
        idle_time: (1.0 - busy(node)).clamp(0.0, 1.0),
        idle_rounds: counter("core_steps_idle") as f64 / steps as f64,
        sleeps: counter("core_sleeps"),
        window_filled: node.occupancy.as_ref().map(|o| {
            let all = o.counts.len().max(1) as f64 * f64::from(o.samples.max(1));
            o.counts.iter().map(|&n| f64::from(n)).sum::<f64>() / all
        }),
        at_once: node.at_once,
        advice: advice(&limiting, &node.side, limiting_times_ceiling).to_owned(),
        limiting,
        limiting_times_ceiling,
        stages,
    })
}

/// What to change about a stage.
fn advice(stage: &str, side: &str, times_ceiling: Option<f64>) -> &'static str {
    let near = times_ceiling.is_some_and(|times| times < 1.5);
    match stage {
        // What a sender opens is acknowledgements, what a receiver seals too.
        "stage_open" if side == "send" => {
            "Acknowledgements coming in, and what they release: fewer of them (larger frames, MTU \
             9000), or another core for a further lane."
        }
        "stage_seal" if side == "receive" => {
            "Acknowledgements going out: fewer of them (larger frames, MTU 9000)."
        }
        "stage_seal" | "stage_open" if near => {
            "It is near the bare cipher: larger frames (MTU 9000), a faster suite, a CPU with wider \
             AES, or more lane cores."
        }
        "stage_seal" | "stage_open" => {
            "It takes well over the bare cipher: the frames come from memory and not from the \
             cache, or the protocol around the cipher costs more than it does."
        }
        "stage_send" => {
            "The kernel's send path: larger frames, segmentation offload on the NIC, or AF_XDP with \
             a driver that can do zero copy."
        }
        "stage_recv" => {
            "The kernel's receive path: larger frames, receive offload, interrupts on another CPU, \
             or AF_XDP with a driver that can do zero copy."
        }
        "stage_digest" => "Verification level fast, unless signed receipts are needed.",
        "stage_compress" | "stage_decompress" => "A faster codec, or none on this path.",
        "stage_decode" | "stage_repair" => "Loss on the path: find out where frames are dropped.",
        _ => {
            "Time outside the stages: write slots in place instead of copying messages, and give \
             application and lane core a CPU each."
        }
    }
}

impl Bottleneck {
    /// Clocks that so many nanoseconds are.
    pub fn clocks(&self, ns: f64) -> Option<f64> {
        (self.clock_ghz > 0.0).then_some(ns * self.clock_ghz)
    }

    /// How much time was idle and how full the ring of slots was, in a line.
    pub fn idleness(&self) -> String {
        let mut out = format!(
            "idle {:.0} % of the time; {:.0} % of the lane core's rounds found nothing, {} sleeps",
            self.idle_time * 100.0,
            self.idle_rounds * 100.0,
            self.sleeps
        );
        if let Some(w) = self.window_filled {
            let _ = write!(out, "; ring of slots {:.0} % full on average", w * 100.0);
        }
        if let Some(share) = self.at_once {
            let what = match self.side.as_str() {
                "send" => "a free slot",
                _ => "a complete slot",
            };
            let _ = write!(
                out,
                "; {what} at once in {:.0} % of the application's turns",
                share * 100.0
            );
        }
        out
    }

    /// The limiting stage, its distance from its ceiling, and what to change.
    pub fn verdict(&self) -> String {
        let distance = match self.limiting_times_ceiling {
            Some(x) => format!("{x:.2} times the bare call on this host"),
            None => "no bare call to compare with was measured".to_owned(),
        };
        format!("limiting: {}, {distance}. {}", self.limiting, self.advice)
    }
}

/// As a table for people.
pub fn table(all: &[Bottleneck]) -> String {
    let mut out = String::new();
    for b in all {
        let _ = writeln!(
            out,
            "\n{} | {}: {:.0} % of a core, {:.0} ns of CPU a frame{}, {} frames{}\n\n| stage | \
             clocks a frame | ns a frame | share | frames a call | bare, ns | x bare |\n| --- | --- \
             | --- | --- | --- | --- | --- |",
            b.case,
            b.side,
            b.busy * 100.0,
            b.cpu_ns_per_frame,
            b.clocks(b.cpu_ns_per_frame)
                .map_or(String::new(), |c| format!(" ({c:.0} clocks)")),
            b.frames,
            if b.limits { ", the busier side" } else { "" }
        );
        let opt = |v: Option<f64>, n: usize| v.map_or("-".to_owned(), |v| format!("{v:.n$}"));
        for s in &b.stages {
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} % | {:.1} | {} | {} |",
                s.name,
                opt(b.clocks(s.ns_per_frame), 0),
                s.ns_per_frame,
                s.share * 100.0,
                s.frames_per_call,
                opt(s.ceiling_ns, 0),
                opt(s.times_ceiling, 2)
            );
        }
        let _ = writeln!(
            out,
            "| outside the stages | {} | {:.0} | {:.0} % | - | {} | {} |\n",
            opt(b.clocks(b.rest_ns_per_frame), 0),
            b.rest_ns_per_frame,
            b.rest_ns_per_frame / b.cpu_ns_per_frame.max(1e-9) * 100.0,
            opt(b.rest_ceiling_ns, 0),
            opt(b.rest_ceiling_ns.map(|c| b.rest_ns_per_frame / c), 2)
        );
        let _ = writeln!(out, "{}\n{}", b.idleness(), b.verdict());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::StageReport;

    fn node(side: &str, cpu_s: f64) -> NodeReport {
        let stage = |name: &str, calls, total_ns| StageReport {
            name: name.to_owned(),
            calls,
            total_ns,
        };
        let mut node = NodeReport {
            side: side.to_owned(),
            symbol_len: 1408,
            wall_s: 1.0,
            cpu_s,
            stages: vec![
                stage("stage_send", 100, 200_000_000),
                stage("stage_seal", 200, 500_000_000),
            ],
            ..NodeReport::default()
        };
        node.counters.insert("tx_frames_sent".into(), 1_000_000);
        node.counters.insert("rx_frames".into(), 1_000_000);
        node
    }

    #[test]
    fn the_dearest_stage_is_named_with_its_distance() {
        let ceilings = Ceilings {
            seal_gb_per_s: 4.0,
            copy_gb_per_s: 7.04,
            clock_ghz: 2.5,
            ..Ceilings::default()
        };
        let all = analyse("c", &[node("send", 0.9), node("receive", 0.8)], &ceilings);
        assert_eq!(all[0].limiting, "stage_seal");
        assert!(all[0].limits && !all[1].limits);
        let seal = &all[0].stages[0];
        assert!((seal.ns_per_frame - 500.0).abs() < 1e-6);
        assert!((seal.ceiling_ns.unwrap() - 352.0).abs() < 1e-6);
        assert!((seal.frames_per_call - 5000.0).abs() < 1e-6);
        assert!((all[0].rest_ns_per_frame - 200.0).abs() < 1e-6);
        assert!(table(&all).contains("| stage_seal | 1250 | 500 |"));
        // 500 ns over 352 for the bare call; 200 ns outside the stages over 200 for a bare copy.
        assert!(all[0].verdict().contains("stage_seal, 1.42 times"));
        assert!((all[0].rest_ceiling_ns.unwrap() - 200.0).abs() < 1e-6);
        assert!((all[0].idle_time - 0.1).abs() < 1e-6);
        assert!(all[0].idleness().contains("idle 10 % of the time"));
    }

    #[test]
    fn time_outside_the_stages_can_be_the_limit() {
        let all = analyse("c", &[node("send", 2.0)], &Ceilings::default());
        assert_eq!(all[0].limiting, "application and protocol");
        let near = advice("stage_seal", "send", Some(1.2));
        assert!(near.starts_with("It is near the bare cipher"));
        let acks = advice("stage_open", "send", None);
        assert!(acks.starts_with("Acknowledgements"), "{acks}");
        assert!(analyse("c", &[NodeReport::default()], &Ceilings::default()).is_empty());
    }
}
