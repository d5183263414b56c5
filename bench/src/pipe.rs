//! The pipe without a kernel: seal on one core, open on the other, everything between included.
//!
//! Both ends run the code that the daemon runs (windows, digests, witnesses, acknowledgements,
//! congestion control) over the shared-memory backend. The bare AEAD calls are measured on the same
//! two cores in the same round, so that the ratio holds where absolute figures drift.

use crate::Result;
use crate::host::{Host, MachineTime};
use crate::peer::pin;
use crate::stats::{median, range};
use crate::units::show_bytes;
use crossbeam_channel::bounded;
use ctp96::api::{LaneReceiver, LaneSender, RecvError, SendError, lane_ends};
use ctp96::backend::mem::{self, MemBackend};
use ctp96::base::limits::{FRAME_OVERHEAD, symbol_len_for_mtu};
use ctp96::base::{Clock, Nanos};
use ctp96::codec::Policy;
use ctp96::crypto::{OpenKey, Provider, SealKey, calibrate};
use ctp96::engine::{Core, CoreCommand};
use ctp96::mem::Arena;
use ctp96::obs::ThreadStats;
use ctp96::proto::{CcConfig, CcKind, LaneTxConfig, RepairAhead};
use ctp96::stage::{LaneParams, LaneShared, SessionShared, bufs_per_lane, open_lane};
use ctp96::verify::Level;
use serde::Serialize;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Super-packets in flight each way: enough that neither core waits for the other's batch.
const BUFFERS: u16 = 64;
/// A stall this long is a failure.
const STALL: Duration = Duration::from_secs(20);

/// What to measure.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// MTUs whose symbol lengths are used, bytes.
    pub mtus: Vec<u32>,
    /// Payload of one run, bytes.
    pub bytes: u64,
    /// Rounds; the median is reported.
    pub runs: u32,
    /// Verification level.
    pub verify: String,
    /// `aes-256-gcm`, `aegis-256x2` or `aegis-256`.
    pub suite: String,
    /// CPU that seals.
    pub sender_core: usize,
    /// CPU that opens.
    pub receiver_core: usize,
}

/// One symbol length.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    symbol_len: usize,
    provider: String,
    pipe_gb_per_s: Vec<f64>,
    seal_gb_per_s: Vec<f64>,
    open_gb_per_s: Vec<f64>,
    /// Pipe over the slower of the two bare calls, per round.
    ratios: Vec<f64>,
    ratio: f64,
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
        out.push('\n');
        let _ = writeln!(
            out,
            "{} a run, median of {}, verification {}, seal on CPU {}, open on CPU {}, no kernel \
             between\n\n| symbol | provider | pipe GB/s | min - max | bare seal | bare open | pipe \
             / slower call |\n| --- | --- | --- | --- | --- | --- | --- |",
            show_bytes(p.bytes),
            p.runs,
            p.verify,
            p.sender_core,
            p.receiver_core
        );
        for r in &self.rows {
            let (lo, hi) = range(r.pipe_gb_per_s.iter().copied());
            let m = |v: &[f64]| median(v.iter().copied());
            let _ = writeln!(
                out,
                "| {} | {} | {:.2} | {lo:.2} - {hi:.2} | {:.2} | {:.2} | {:.0} % |",
                r.symbol_len,
                r.provider,
                m(&r.pipe_gb_per_s),
                m(&r.seal_gb_per_s),
                m(&r.open_gb_per_s),
                r.ratio * 100.0
            );
        }
        out
    }
}

/// Runs the plan.
pub fn run(plan: &Plan, progress: impl Fn(&str)) -> Result<Report> {
    let level: Level = plan.verify.parse()?;
    let mut rows = Vec::new();
    for &mtu in &plan.mtus {
        let symbol_len = symbol_len_for_mtu(mtu as usize);
        pin(plan.sender_core)?;
        let provider = match plan.suite.as_str() {
            "aegis-256x2" => Provider::Aegis256x2,
            "aegis-256" => Provider::Aegis256,
            _ => calibrate(symbol_len, Duration::from_millis(50)).provider,
        };
        let mut row = Row {
            symbol_len,
            provider: provider.name().to_owned(),
            pipe_gb_per_s: Vec::new(),
            seal_gb_per_s: Vec::new(),
            open_gb_per_s: Vec::new(),
            ratios: Vec::new(),
            ratio: 0.0,
            steal_s: 0.0,
        };
        let before = MachineTime::now();
        for round in 1..=plan.runs {
            let seal = bare_seal(provider, symbol_len, plan.sender_core)?;
            let open = bare_open(provider, symbol_len, plan.receiver_core)?;
            let pipe = one_run(plan, provider, symbol_len, level)?;
            progress(&format!(
                "round {round}/{} symbol {symbol_len}: pipe {pipe:.2}, seal {seal:.2}, open \
                 {open:.2} GB/s",
                plan.runs
            ));
            row.ratios.push(pipe / seal.min(open));
            row.pipe_gb_per_s.push(pipe);
            row.seal_gb_per_s.push(seal);
            row.open_gb_per_s.push(open);
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

/// How long a bare call is measured.
const BARE: Duration = Duration::from_millis(300);

/// As many frames a call as lanes take.
fn bare_seal(provider: Provider, len: usize, core: usize) -> Result<f64> {
    pin(core)?;
    let key = SealKey::new(provider, &[7; 32]);
    match key.group() {
        4 => bare_seal_of::<4>(&key, len),
        2 => bare_seal_of::<2>(&key, len),
        _ => bare_seal_of::<1>(&key, len),
    }
}

fn bare_seal_of<const N: usize>(key: &SealKey, len: usize) -> Result<f64> {
    let plain = vec![3; len];
    let mut outs: [Vec<u8>; N] = std::array::from_fn(|_| vec![0; len + 16]);
    timed(N * len, |n| {
        let nonces: [[u8; 12]; N] = std::array::from_fn(|i| nonce(N as u64 * n + i as u64));
        let outs = outs.each_mut().map(|out| &mut out[..]);
        for sealed in key.seal_group(nonces.each_ref(), [&[0; 24]; N], [&plain; N], outs) {
            sealed?;
        }
        Ok(())
    })
}

/// As many frames a call as lanes take.
fn bare_open(provider: Provider, len: usize, core: usize) -> Result<f64> {
    pin(core)?;
    let key = SealKey::new(provider, &[7; 32]);
    let opener = OpenKey::new(provider, &[7; 32]);
    let mut sealed = vec![0; len + 16];
    key.seal(&nonce(0), &[0; 24], &vec![3; len], &mut sealed)?;
    match opener.group() {
        4 => bare_open_of::<4>(&opener, &sealed),
        2 => bare_open_of::<2>(&opener, &sealed),
        _ => bare_open_of::<1>(&opener, &sealed),
    }
}

fn bare_open_of<const N: usize>(opener: &OpenKey, sealed: &[u8]) -> Result<f64> {
    let len = sealed.len() - 16;
    let mut frames: [Vec<u8>; N] = std::array::from_fn(|_| sealed.to_vec());
    let mut outs: [Vec<u8>; N] = std::array::from_fn(|_| vec![0; len]);
    timed(N * len, |_| {
        // Some providers open in place, so each call needs the ciphertext anew; the copy is from
        // and to the first-level cache and is part of what a receiver pays anyway.
        for frame in &mut frames {
            frame.copy_from_slice(sealed);
        }
        let frames = frames.each_mut().map(|frame| &mut frame[..]);
        let outs = outs.each_mut().map(|out| &mut out[..]);
        let zero = nonce(0);
        for opened in opener.open_group([&zero; N], [&[0; 24]; N], frames, outs) {
            opened?;
        }
        Ok(())
    })
}

fn nonce(n: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&n.to_be_bytes());
    nonce
}

fn timed(len: usize, mut call: impl FnMut(u64) -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut n = 0;
    while start.elapsed() < BARE {
        for _ in 0..64 {
            call(n)?;
            n += 1;
        }
    }
    Ok(n as f64 * len as f64 / start.elapsed().as_secs_f64() / 1e9)
}

struct End {
    core: Core<MemBackend>,
    tx: LaneSender,
    rx: LaneReceiver,
    /// Keeps the command channel open, as a control thread would.
    _commands: crossbeam_channel::Sender<CoreCommand>,
}

fn end(
    backend: MemBackend,
    peer: SocketAddr,
    arena: &Arena,
    provider: Provider,
    symbol_len: usize,
    level: Level,
    initiator: bool,
) -> Result<End> {
    use ctp96::backend::Backend;
    let shared = Arc::new(LaneShared::new(
        0,
        backend.wakeup(),
        Arc::new(SessionShared::default()),
    ));
    let secrets = ([1; 32], [2; 32]);
    let (tx_secret, rx_secret) = match initiator {
        true => secrets,
        false => (secrets.1, secrets.0),
    };
    let params = LaneParams {
        lane: 0,
        local_index: 1,
        remote_index: 1,
        dest: peer,
        symbol_len,
        window: 96,
        provider,
        tx_secret,
        rx_secret,
        level,
        linger: ctp96::base::limits::SLOT_LINGER_NS,
        probing: ctp96::stage::PathConfig::default(),
        tx: LaneTxConfig {
            window_slots: 96,
            symbol_len: symbol_len as u16,
            inflight_limit: 1 << 30,
            repair_ahead: RepairAhead::Adaptive,
            cc: CcConfig {
                kind: CcKind::Bbr,
                max_rate: None,
                frame: (symbol_len + FRAME_OVERHEAD) as u64,
                initial_rtt: 100_000,
                seed: 1,
            },
        },
        path: None,
        inflight_limit: backend.rx_capacity_bytes().min(u32::MAX as usize) as u32,
        now: 0,
    };
    let (lane, ends) = open_lane(params, arena, shared)?;
    let stats = |name: &str| Arc::new(ThreadStats::new(name));
    let (tx, rx) = lane_ends(ends, Policy::None, true, (stats("send"), stats("receive")));
    let (commands, commands_rx) = bounded(4);
    let (events, _) = bounded(4);
    commands
        .send(CoreCommand::Open {
            local_index: 1,
            lanes: vec![Box::new(lane)],
        })
        .map_err(|_| "the command channel is closed")?;
    let core = Core::new(
        0,
        backend,
        commands_rx,
        events,
        stats("core"),
        Arc::default(),
    );
    Ok(End {
        core,
        tx,
        rx,
        _commands: commands,
    })
}

/// GB/s of one run of `plan`.
///
/// # Errors
/// The pipe stalls, or does not deliver what was sent.
pub fn one_run(plan: &Plan, provider: Provider, symbol_len: usize, level: Level) -> Result<f64> {
    let addr = |n: u8| SocketAddr::from(([127, 0, 0, n], 9696));
    let (a, b) = mem::pair(addr(1), addr(2), BUFFERS)?;
    let arena = Arena::new(
        2 * bufs_per_lane(96),
        ctp96::stage::Lane::buf_len(symbol_len),
    )?;
    let mut left = end(a, addr(2), &arena, provider, symbol_len, level, true)?;
    let mut right = end(b, addr(1), &arena, provider, symbol_len, level, false)?;
    let clock = Clock::start();
    let finished = Arc::new(AtomicBool::new(false));
    let bytes = plan.bytes;
    let core = plan.receiver_core;
    let done = finished.clone();
    let receiver = std::thread::spawn(move || -> Result<u64> {
        pin(core)?;
        let mut got = 0;
        while !done.load(Ordering::Relaxed) {
            right.core.step(clock.now());
            loop {
                match right.rx.try_slot() {
                    Ok(slot) => got += slot.len() as u64,
                    Err(RecvError::WouldBlock) => break,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(got)
    });
    pin(plan.sender_core)?;
    // Written once per buffer and then sent as it stands: the pipe is measured, not the source.
    let mut left_bytes = bytes;
    let capacity = left.tx.slot_capacity() as u64;
    let start = clock.now();
    let mut progress: (Nanos, u64) = (start, 0);
    let sent = loop {
        while left_bytes > 0 {
            match left.tx.try_claim() {
                Ok(slot) => {
                    let n = left_bytes.min(capacity);
                    slot.commit(n as usize);
                    left_bytes -= n;
                }
                Err(SendError::WouldBlock) => break,
                Err(e) => break_with(&finished, e)?,
            }
        }
        let now = clock.now();
        left.core.step(now);
        let witnessed = left.tx.slots_witnessed();
        if left_bytes == 0 && witnessed == left.tx.slots_sent() {
            break now - start;
        }
        if witnessed != progress.1 {
            progress = (now, witnessed);
        } else if now - progress.0 > STALL.as_nanos() as u64 {
            break_with(&finished, "the pipe stalled")?;
        }
    };
    if std::env::var_os("CTP96_BENCH_STAGES").is_some() {
        eprintln!("{:#?}", left.tx.status());
    }
    finished.store(true, Ordering::Relaxed);
    let got = receiver.join().map_err(|_| "the receiver panicked")??;
    if got != bytes {
        return Err(format!("{bytes} bytes sent, {got} received").into());
    }
    Ok(bytes as f64 / sent as f64)
}

/// Lets the receiver end, then fails.
fn break_with<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    finished: &AtomicBool,
    e: E,
) -> Result<()> {
    finished.store(true, Ordering::Relaxed);
    Err(e.into())
}
