//! Frames over bare AF_XDP sockets against the whole of CTP-96 over AF_XDP, on the same veth pair and
//! in the same run: what protocol, crypto and verification cost of the frame rate.
//!
//! There are two bare counterparts. The *forwarder* receives each frame and sends it back over the
//! pair in the same memory, with its addresses exchanged; the generator before it writes each frame's
//! payload once, as an application does. The *sender* writes nothing: it sends the same frames again
//! and again to a receiver that only counts. The forwarder is there twice: on our own rings, and on
//! those of `xsk-rs` ([`crate::xsk`]) behind the same generator.

use crate::Result;
use crate::baseline::Payload;
use crate::contender::{Contender, Task};
use crate::ctp::{self, Ctp};
use crate::host::{Host, MachineTime};
use crate::napi;
use crate::peer::{self, Job, Ready, SideReport, Stack};
use crate::site::Site;
use crate::stats::{median, range};
use crate::units::show_bytes;
use crate::xsk;
use ::tests::lab::LINK;
use ctp96::backend::af_xdp::{self, AfXdpConfig, AttachMode};
use ctp96::base::limits::symbol_len_for_mtu;
use ctp96::wire::{FrameKind, Header};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// After this long without a frame the sender has ended.
pub const SILENCE: Duration = Duration::from_millis(300);

/// What to measure.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// MTUs of the links.
    pub mtus: Vec<u32>,
    /// Payload of one run, bytes.
    pub bytes: u64,
    /// Rounds.
    pub runs: u32,
    /// XDP programs in generic mode.
    pub generic: bool,
    /// Receive work of the kernel in threads of its own.
    pub napi_threads: bool,
    /// Suite of CTP-96.
    pub suite: String,
    /// CPU of the sender.
    pub sender_core: usize,
    /// CPU of the receiver.
    pub receiver_core: usize,
}

/// How the bare sockets of a run are set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    mtu: usize,
    generic: bool,
    /// The receiver sends everything back.
    #[serde(default)]
    forward: bool,
    /// On the rings of `xsk-rs`.
    #[serde(default)]
    xsk_rs: bool,
}

/// How both contenders of a comparison are set up.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// XDP programs in generic mode.
    pub generic: bool,
    /// CPUs of sender and receiver.
    pub cores: [usize; 2],
}

/// One bare counterpart.
#[derive(Clone, Debug, Default, Serialize)]
struct Bare {
    /// Millions of frames a second that arrived, or came back, per round.
    mpps: Vec<f64>,
    /// CTP-96 by this, per round.
    ratios: Vec<f64>,
    ratio: f64,
    /// Frames that did not arrive, as a share.
    lost: f64,
}

impl Bare {
    fn add(&mut self, (mpps, lost): (f64, f64), ctp: f64, runs: u32) {
        self.mpps.push(mpps);
        self.ratios.push(ctp / mpps);
        self.ratio = median(self.ratios.iter().copied());
        self.lost += lost / f64::from(runs);
    }
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    mtu: u32,
    symbol_len: usize,
    /// Millions of symbols a second that were delivered, per round.
    ctp_mpps: Vec<f64>,
    forwarder: Bare,
    /// The forwarder on `xsk-rs`.
    xsk_rs: Bare,
    /// That on our rings by that on `xsk-rs`, per round.
    own_by_xsk_rs: Vec<f64>,
    sender: Bare,
    /// Time that the hypervisor gave to others meanwhile, seconds.
    steal_s: f64,
}

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    host: Host,
    plan: Plan,
    rows: Vec<Row>,
}

impl Report {
    /// As a table.
    pub fn table(&self) -> String {
        let mut out = self.host.lines();
        let p = &self.plan;
        let _ = writeln!(
            out,
            "\n{} a run, median of {}, AF_XDP in copy mode over veth, XDP program in {} mode, suite \
             {}, sender on CPU {}, receiver on CPU {}, one queue. Millions of frames a second; \
             ratios are medians of those of each round{}\n\n| MTU | bytes a frame | bare forwarder | \
             min - max | on xsk-rs | min - max | bare sender | min - max | CTP-96 | min - max | \
             CTP-96 / forwarder | CTP-96 / sender | own / xsk-rs | min - max |\n| --- | --- | --- \
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            show_bytes(p.bytes),
            p.runs,
            if p.generic { "generic" } else { "native" },
            p.suite,
            p.sender_core,
            p.receiver_core,
            if p.napi_threads {
                "; receive work of the kernel in threads on the CPU of each side"
            } else {
                ""
            }
        );
        for r in &self.rows {
            let _ = write!(out, "| {} | {} |", r.mtu, r.symbol_len);
            for v in [
                &r.forwarder.mpps,
                &r.xsk_rs.mpps,
                &r.sender.mpps,
                &r.ctp_mpps,
            ] {
                let (lo, hi) = range(v.iter().copied());
                let _ = write!(
                    out,
                    " {:.3} | {lo:.3} - {hi:.3} |",
                    median(v.iter().copied())
                );
            }
            let (f, s) = (r.forwarder.ratio * 100.0, r.sender.ratio * 100.0);
            let own = r.own_by_xsk_rs.iter().copied();
            let (lo, hi) = range(own.clone());
            let own = median(own);
            let _ = writeln!(out, " {f:.0} % | {s:.0} % | {own:.2} | {lo:.2} - {hi:.2} |");
        }
        out
    }
}

/// Runs the plan.
pub fn run(plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Report> {
    let mut rows = Vec::new();
    for &mtu in &plan.mtus {
        let site = Site::veth(mtu, false)?;
        if let (true, Site::Veth(lab)) = (plan.napi_threads, &site) {
            napi::enable(lab, [plan.sender_core, plan.receiver_core])?;
        }
        let way = Way {
            generic: plan.generic,
            cores: [plan.sender_core, plan.receiver_core],
        };
        let symbol_len = symbol_len_for_mtu(mtu as usize);
        let mut row = Row {
            mtu,
            symbol_len,
            ctp_mpps: Vec::new(),
            forwarder: Bare::default(),
            xsk_rs: Bare::default(),
            own_by_xsk_rs: Vec::new(),
            sender: Bare::default(),
            steal_s: 0.0,
        };
        let before = MachineTime::now();
        let ctp = Ctp {
            backend: "af_xdp".into(),
            verify: "fast".into(),
            suite: plan.suite.clone(),
        };
        for round in 1..=plan.runs {
            let turn = |xsk_rs| forward_round(plan.bytes, way, xsk_rs, &site);
            // Each is the first in every other round.
            let (forwarder, xsk_rs) = if round % 2 == 1 {
                (turn(false)?, turn(true)?)
            } else {
                let xsk_rs = turn(true)?;
                (turn(false)?, xsk_rs)
            };
            let sender = bare_round(plan.bytes, way, &site)?;
            let task = Task {
                bytes: plan.bytes,
                chunk: 256 << 10,
                sender_core: plan.sender_core,
                receiver_core: plan.receiver_core,
            };
            let setup = ctp::Setup::new(&site, &ctp, plan.generic);
            let sample = peer::run_pair(&site, &task, "bbr-like", Stack::Ctp(setup))
                .map_err(|e| format!("{} at MTU {mtu}: {e}", ctp.name()))?;
            // Of full symbols; the last of each slot may be shorter, which counts less.
            let whole = sample.bytes as f64 / symbol_len as f64 / sample.wall_s / 1e6;
            progress(&format!(
                "round {round}/{} MTU {mtu}: forwarder {:.3}, on xsk-rs {:.3}, sender {:.3}, CTP-96 \
                 {whole:.3} Mframes/s",
                plan.runs, forwarder.0, xsk_rs.0, sender.0
            ));
            row.ctp_mpps.push(whole);
            row.forwarder.add(forwarder, whole, plan.runs);
            row.xsk_rs.add(xsk_rs, whole, plan.runs);
            row.own_by_xsk_rs.push(forwarder.0 / xsk_rs.0);
            row.sender.add(sender, whole, plan.runs);
        }
        row.steal_s = MachineTime::now().since(&before).steal_s;
        rows.push(row);
    }
    Ok(Report {
        host: Host::describe(),
        plan: plan.clone(),
        rows,
    })
}

/// Frames a second that arrived, in millions, and the share that did not.
pub fn bare_round(bytes: u64, way: Way, site: &Site) -> Result<(f64, f64)> {
    let [sent, received] = bare_sides(bytes, way, (false, false), site)?;
    Ok(rate(&received, sent.bytes, site))
}

/// Frames a second that a forwarder sent back and that came back, in millions, and the share that
/// did not.
fn forward_round(bytes: u64, way: Way, xsk_rs: bool, site: &Site) -> Result<(f64, f64)> {
    let [back, _] = bare_sides(bytes, way, (true, xsk_rs), site)?;
    Ok(rate(&back, bytes, site))
}

fn rate(arrived: &SideReport, sent: u64, site: &Site) -> (f64, f64) {
    let frame = symbol_len_for_mtu(site.mtu() as usize) as f64;
    let mpps = arrived.bytes as f64 / frame / arrived.wall_s / 1e6;
    (mpps, (1.0 - arrived.bytes as f64 / sent as f64).max(0.0))
}

fn bare_sides(
    bytes: u64,
    way: Way,
    (forward, xsk_rs): (bool, bool),
    site: &Site,
) -> Result<[SideReport; 2]> {
    let stack = Stack::Bare(Setup {
        mtu: site.mtu() as usize,
        generic: way.generic,
        forward,
        xsk_rs,
    });
    let symbol = symbol_len_for_mtu(site.mtu() as usize) as u64;
    let task = Task {
        // Whole frames.
        bytes: (bytes / symbol).max(1) * symbol,
        chunk: 0,
        sender_core: way.cores[0],
        receiver_core: way.cores[1],
    };
    peer::run_sides(site, &task, "", stack)
}

fn mode(setup: &Setup) -> AttachMode {
    if setup.generic {
        AttachMode::Generic
    } else {
        AttachMode::Native
    }
}

fn open(setup: &Setup, listen: SocketAddr) -> Result<af_xdp::Bare> {
    let config = AfXdpConfig {
        interface: Some(LINK.to_owned()),
        mode: mode(setup),
        ..AfXdpConfig::default()
    };
    let seat = af_xdp::open(&config, listen, 1, setup.mtu)?.seats.pop();
    Ok(seat.ok_or("no seat")?.open_bare()?)
}

/// A symbol's header, of the length that the MTU gives.
fn header(setup: &Setup) -> Header {
    Header {
        kind: FrameKind::Symbol,
        epoch: 0,
        lane: 0,
        symbol: 0,
        session: 1,
        pn: 1,
        slot: 0,
        k: 64,
        class: 0,
        len: symbol_len_for_mtu(setup.mtu) as u16,
        part: false,
    }
}

fn side(bytes: u64, took: Duration) -> SideReport {
    SideReport {
        bytes,
        wall_s: took.as_secs_f64(),
        cpu_s: 0.0,
        node: None,
    }
}

/// Sends the job's payload in frames to `to`.
pub fn send(job: &Job, to: SocketAddr, setup: &Setup) -> Result<SideReport> {
    let mut bare = open(setup, ([0, 0, 0, 0], 0).into())?;
    let symbol = symbol_len_for_mtu(setup.mtu);
    let frames = job.bytes / symbol as u64;
    let mut header = header(setup);
    if !setup.forward {
        // Its content is nobody's business.
        let mut frame = vec![0x5a; header.frame_len()];
        if let Some(first) = frame.first_chunk_mut() {
            header.encode(first);
        }
        let took = bare.send(to, &frame, frames)?;
        return Ok(side(frames * symbol as u64, took));
    }
    let mut payload = Payload::new(job.bytes, symbol)?;
    let echoed = bare.send_and_count(to, header.frame_len(), frames, |frame| {
        header.pn += 1;
        if let Some((first, rest)) = frame.split_first_chunk_mut() {
            header.encode(first);
            if let Some(piece) = payload.next_piece() {
                rest[..piece.len()].copy_from_slice(piece);
            }
        }
    })?;
    Ok(side(echoed.back * symbol as u64, echoed.took))
}

/// Counts frames, or sends them back, until the sender has ended.
pub fn receive(job: &Job, bind: IpAddr, setup: &Setup) -> Result<SideReport> {
    let listen = SocketAddr::new(bind, 0);
    let symbol = symbol_len_for_mtu(setup.mtu) as u64;
    if setup.xsk_rs {
        let (frames, took) = xsk::forward(listen, setup.mtu, mode(setup))?;
        return Ok(side(frames * symbol, took));
    }
    let mut bare = open(setup, listen)?;
    peer::say(&Ready {
        addr: bare.local_addr(),
    })?;
    let (frames, took) = if setup.forward {
        bare.forward(SILENCE)?
    } else {
        bare.receive(job.bytes / symbol, SILENCE)?
    };
    Ok(side(frames * symbol, took))
}
