//! What the target would take on this kind of host, from what was measured on it.

use crate::schema::{Case, Document};
use ctp96::base::limits::{FRAME_OVERHEAD, symbol_len_for_mtu};
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// IPv4, UDP and Ethernet with preamble, FCS and gap: bytes of a frame that are not ours.
const WIRE: f64 = 28.0 + 38.0;
/// Bits per second of the port that is counted.
const PORT: f64 = 200e9;
/// Times that a byte of payload is read or written in memory on one side, sockets in use: source or
/// destination, slot, frame, and the kernel's copy, each once in and once out.
const PASSES: f64 = 6.0;

/// The target, held against the fastest transfer of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// What is aimed at, GB/s.
    pub gb_per_s: f64,
    /// The fastest transfer over a network path, GB/s.
    pub measured_gb_per_s: f64,
    /// The case in which it was reached.
    pub case: String,
    /// One over the other.
    pub reached: f64,
    /// CPU time of the sender per GB in that case, seconds.
    pub send_cpu_s_per_gb: f64,
    /// CPU time of the receiver.
    pub recv_cpu_s_per_gb: f64,
    /// Cores of this kind that the sender would need.
    pub send_cores: f64,
    /// Cores of this kind that the receiver would need.
    pub recv_cores: f64,
    /// 200GbE ports.
    pub ports_200g: u32,
    /// Bits per second on the wire.
    pub wire_gbit_per_s: f64,
    /// Memory traffic of one side, GB/s.
    pub memory_gb_per_s: f64,
    /// Memory traffic that this host does when all its cores copy, GB/s; 0 if not measured.
    pub host_memory_gb_per_s: f64,
    /// What the figures rest on.
    pub assumptions: Vec<String>,
}

/// Works it out from the throughput and acceleration suites of a document.
pub fn of(doc: &Document) -> Option<Target> {
    let network = doc.suite("throughput")?.cases.iter();
    let ours = network.filter(|c| c.param("stack") == "ctp96" && c.param("over") != "memory");
    let rate = |c: &Case| c.metric("gb_per_s").map_or(0.0, |m| m.median);
    let best = ours.max_by(|a, b| rate(a).total_cmp(&rate(b)))?;
    if rate(best) <= 0.0 {
        return None;
    }
    let cost = |name: &str| best.metric(name).map_or(0.0, |m| m.median);
    let (send, recv) = (cost("send_cpu_s_per_gb"), cost("recv_cpu_s_per_gb"));
    let gb_per_s = doc.method.target / 1e9;
    let mtu: usize = best.param("mtu").parse().ok()?;
    let symbol = symbol_len_for_mtu(mtu) as f64;
    let wire = (symbol + FRAME_OVERHEAD as f64 + WIRE) / symbol * doc.method.target * 8.0;
    let copied = doc.suite("acceleration").map_or(0.0, |s| {
        let copies = s
            .cases
            .iter()
            .filter(|c| c.param("what") == "memcpy from memory");
        copies.map(rate).fold(0.0, f64::max)
    });
    Some(Target {
        gb_per_s,
        measured_gb_per_s: rate(best),
        case: best.id(),
        reached: rate(best) / gb_per_s,
        send_cpu_s_per_gb: send,
        recv_cpu_s_per_gb: recv,
        send_cores: gb_per_s * send,
        recv_cores: gb_per_s * recv,
        ports_200g: (wire / PORT).ceil() as u32,
        wire_gbit_per_s: wire / 1e9,
        memory_gb_per_s: gb_per_s * PASSES,
        // A copy reads and writes.
        host_memory_gb_per_s: 2.0 * copied,
        assumptions: vec![
            "cores do not slow each other down: every core adds what one does here".to_owned(),
            format!(
                "a byte of payload is read or written {PASSES} times in memory on each side, none of \
                 them from the cache"
            ),
            "no loss, no repair symbols, no compression".to_owned(),
            format!("frames of MTU {mtu} over IPv4 and Ethernet; PCIe and the NIC keep up"),
        ],
    })
}

impl Target {
    /// The verdict in a sentence.
    pub fn verdict(&self) -> String {
        let share = self.reached * 100.0;
        if self.reached >= 1.0 {
            format!("{} GB/s reached: {share:.0} %", self.gb_per_s)
        } else {
            format!("{} GB/s not reached: {share:.1} %", self.gb_per_s)
        }
    }

    /// What was measured.
    pub fn basis(&self) -> String {
        format!(
            "{}. Fastest transfer: {:.2} GB/s ({}). Calculated from its {:.2} s of CPU time per GB on \
             the sender and {:.2} on the receiver, {} GB/s would take",
            self.verdict(),
            self.measured_gb_per_s,
            self.case,
            self.send_cpu_s_per_gb,
            self.recv_cpu_s_per_gb,
            self.gb_per_s
        )
    }

    /// What the target would take: cores, ports, memory.
    pub fn needs(&self) -> Vec<String> {
        let mut memory = format!("memory: {:.0} GB/s on each side", self.memory_gb_per_s);
        if self.host_memory_gb_per_s > 0.0 {
            let _ = write!(
                memory,
                "; all cores of this host together move {:.0} GB/s when they copy (measured)",
                self.host_memory_gb_per_s
            );
        }
        vec![
            format!(
                "cores of this kind: {:.0} to send, {:.0} to receive",
                self.send_cores.ceil(),
                self.recv_cores.ceil()
            ),
            format!(
                "wire: {:.0} Gb/s, {} ports of 200GbE",
                self.wire_gbit_per_s, self.ports_200g
            ),
            memory,
        ]
    }

    /// For the terminal.
    pub fn text(&self) -> String {
        let lines = |items: &[String]| items.iter().map(|i| format!("\n  {i}")).collect::<String>();
        format!(
            "{}{}\nif{}",
            self.basis(),
            lines(&self.needs()),
            lines(&self.assumptions)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Better, Metric, tests::sample};

    #[test]
    fn cores_and_ports_follow_from_the_cost() {
        let mut doc = sample(1.0);
        let metric = |name: &str, v: f64| Metric::new(name, "", Better::Lower, vec![v]);
        let case = &mut doc.suites[0].cases[0];
        case.params = [("over", "veth"), ("mtu", "1500"), ("stack", "ctp96")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .to_vec();
        case.metrics.push(metric("send_cpu_s_per_gb", 0.8));
        case.metrics.push(metric("recv_cpu_s_per_gb", 0.6));
        let t = of(&doc).unwrap();
        assert!((t.reached - 0.04).abs() < 1e-9);
        assert!((t.send_cores - 20.0).abs() < 1e-9 && (t.recv_cores - 15.0).abs() < 1e-9);
        assert_eq!(t.ports_200g, 2);
        assert_eq!(t.verdict(), "25 GB/s not reached: 4.0 %");
        assert!((t.wire_gbit_per_s - 215.0).abs() < 1.0);
        assert!(t.text().contains("20 to send, 15 to receive"));
        doc.suites.clear();
        assert!(of(&doc).is_none());
    }
}
