//! Frames over bare AF_XDP sockets against the whole of CTP-96 over AF_XDP, on the same veth pair and
//! in the same run: what protocol, crypto and verification cost of the frame rate.

use crate::Result;
use crate::contender::{Contender, Task};
use crate::ctp::{self, Ctp};
use crate::host::{Host, MachineTime};
use crate::peer::{self, Job, Ready, Role, SideReport, Stack};
use crate::site::Site;
use crate::stats::{median, range};
use crate::units::show_bytes;
use ::tests::lab::LINK;
use ctp96::backend::af_xdp::{self, AfXdpConfig, AttachMode, Bare};
use ctp96::base::limits::symbol_len_for_mtu;
use ctp96::wire::{FrameKind, Header};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// After this long without a frame the sender has ended.
const SILENCE: Duration = Duration::from_millis(300);

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
}

#[derive(Clone, Debug, Serialize)]
struct Row {
    mtu: u32,
    symbol_len: usize,
    /// Millions of frames a second that arrived, per round.
    bare_mpps: Vec<f64>,
    /// Millions of symbols a second that were delivered, per round.
    ctp_mpps: Vec<f64>,
    /// One by the other, per round.
    ratios: Vec<f64>,
    ratio: f64,
    /// Frames of the bare rounds that did not arrive, as a share.
    bare_lost: f64,
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
             {}, sender on CPU {}, receiver on CPU {}, one queue\n\n| MTU | bytes a frame | bare \
             Mframes/s | min - max | CTP-96 Mframes/s | min - max | CTP-96 / bare |\n| --- | --- \
             | --- | --- | --- | --- | --- |",
            show_bytes(p.bytes),
            p.runs,
            if p.generic { "generic" } else { "native" },
            p.suite,
            p.sender_core,
            p.receiver_core
        );
        for r in &self.rows {
            let m = |v: &[f64]| median(v.iter().copied());
            let (lo, hi) = range(r.bare_mpps.iter().copied());
            let (clo, chi) = range(r.ctp_mpps.iter().copied());
            let _ = writeln!(
                out,
                "| {} | {} | {:.3} | {lo:.3} - {hi:.3} | {:.3} | {clo:.3} - {chi:.3} | {:.0} % |",
                r.mtu,
                r.symbol_len,
                m(&r.bare_mpps),
                m(&r.ctp_mpps),
                r.ratio * 100.0
            );
        }
        out
    }
}

/// Runs the plan.
pub fn run(plan: &Plan, mut progress: impl FnMut(&str)) -> Result<Report> {
    let mut rows = Vec::new();
    for &mtu in &plan.mtus {
        let site = Site::veth(mtu, false)?;
        let symbol_len = symbol_len_for_mtu(mtu as usize);
        let mut row = Row {
            mtu,
            symbol_len,
            bare_mpps: Vec::new(),
            ctp_mpps: Vec::new(),
            ratios: Vec::new(),
            ratio: 0.0,
            bare_lost: 0.0,
            steal_s: 0.0,
        };
        let before = MachineTime::now();
        let ctp = Ctp {
            backend: "af_xdp".into(),
            verify: "fast".into(),
            suite: plan.suite.clone(),
        };
        for round in 1..=plan.runs {
            let (bare, lost) = bare_round(
                plan.bytes,
                plan.generic,
                [plan.sender_core, plan.receiver_core],
                &site,
            )?;
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
                "round {round}/{} MTU {mtu}: bare {bare:.3}, CTP-96 {whole:.3} Mframes/s",
                plan.runs
            ));
            row.bare_mpps.push(bare);
            row.ctp_mpps.push(whole);
            row.ratios.push(whole / bare);
            row.bare_lost += lost / f64::from(plan.runs);
        }
        row.ratio = median(row.ratios.iter().copied());
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
pub fn bare_round(bytes: u64, generic: bool, cores: [usize; 2], site: &Site) -> Result<(f64, f64)> {
    let stack = Stack::Bare(Setup {
        mtu: site.mtu() as usize,
        generic,
    });
    let job = |role, core| Job {
        role,
        bytes,
        chunk: 0,
        core,
        congestion: String::new(),
        stack: stack.clone(),
        seconds: None,
    };
    let bind = site.bind();
    let receive = job(Role::Receive { bind }, cores[1]);
    let mut receiver = site.receiver(&receive)?;
    let ready: Ready = receiver.hear()?;
    let send = job(Role::Send { to: ready.addr }, cores[0]);
    let mut sender = site.sender(&send)?;
    let sent: SideReport = sender.hear()?;
    let received: SideReport = receiver.hear()?;
    let frame = symbol_len_for_mtu(site.mtu() as usize) as f64;
    let rate = received.bytes as f64 / frame / received.wall_s / 1e6;
    Ok((rate, 1.0 - received.bytes as f64 / sent.bytes as f64))
}

fn open(setup: &Setup, listen: SocketAddr) -> Result<Bare> {
    let config = AfXdpConfig {
        interface: Some(LINK.to_owned()),
        mode: if setup.generic {
            AttachMode::Generic
        } else {
            AttachMode::Native
        },
        ..AfXdpConfig::default()
    };
    let seat = af_xdp::open(&config, listen, 1, setup.mtu)?.seats.pop();
    Ok(seat.ok_or("no seat")?.open_bare()?)
}

/// A symbol's frame of the length that the MTU gives. Its content is nobody's business.
fn frame(setup: &Setup) -> Vec<u8> {
    let header = Header {
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
    };
    let mut bytes = vec![0x5a; header.frame_len()];
    if let Some(first) = bytes.first_chunk_mut() {
        header.encode(first);
    }
    bytes
}

/// Sends the job's payload in frames to `to`.
pub fn send(job: &Job, to: SocketAddr, setup: &Setup) -> Result<SideReport> {
    let mut bare = open(setup, ([0, 0, 0, 0], 0).into())?;
    let symbol = symbol_len_for_mtu(setup.mtu) as u64;
    let frames = job.bytes / symbol;
    let took = bare.send(to, &frame(setup), frames)?;
    Ok(SideReport {
        bytes: frames * symbol,
        wall_s: took.as_secs_f64(),
        cpu_s: 0.0,
        node: None,
    })
}

/// Counts frames until the sender has ended.
pub fn receive(job: &Job, bind: IpAddr, setup: &Setup) -> Result<SideReport> {
    let mut bare = open(setup, SocketAddr::new(bind, 0))?;
    peer::say(&Ready {
        addr: bare.local_addr(),
    })?;
    let symbol = symbol_len_for_mtu(setup.mtu) as u64;
    let (frames, took) = bare.receive(job.bytes / symbol, SILENCE)?;
    Ok(SideReport {
        bytes: frames * symbol,
        wall_s: took.as_secs_f64(),
        cpu_s: 0.0,
        node: None,
    })
}
