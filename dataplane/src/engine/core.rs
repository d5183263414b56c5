//! One lane core: a backend, the lanes it owns, and one step of work.

use super::command::{CoreCommand, CoreEvent};
use super::early::Early;
use super::turns::{TURN_FRAMES, Turns};
use crate::backend::{Backend, Burst};
use crate::base::Nanos;
use crate::base::clock::Clock;
use crate::base::limits::{MAX_LANES, MAX_SYMBOL_LEN};
use crate::fec::Fec;
use crate::obs::{Counter, Hist, ThreadStats};
use crate::proto::ecn::CE;
use crate::proto::manager::Indices;
use crate::stage::{FrameCtx, Lane, SendCtx};
use crate::wire::{Header, ParseError};
use crossbeam_channel::{Receiver, Sender};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Bursts taken from the backend in one step.
const RX_BATCH: usize = 64;
/// Sessions of a node; the low byte of an index is its place in the table.
const TABLE: usize = 256;
const NO_LANE: u16 = u16::MAX;
/// Frames in [`BULK_SPAN`] that tell a bulk transfer from small messages and acknowledgements.
const BULK_FRAMES: usize = 16;
/// A round in which less came than this was hardly worth its system calls and the change to the
/// application's thread, where as much and more comes in [`BULK_SPAN`].
const LIGHT_BYTES: u64 = 256 << 10;
/// Time over which arrivals are counted for that, nanoseconds.
const BULK_SPAN: Nanos = 200_000;
/// How often figures for operators are refreshed, nanoseconds.
const STATUS_EVERY: Nanos = 100_000_000;

struct Entry {
    index: u32,
    lanes: [u16; MAX_LANES],
}

/// A lane core. `step` does one round of work and never blocks, so a thread or a simulator can
/// drive it.
pub struct Core<B: Backend> {
    id: usize,
    backend: B,
    table: Vec<Option<Box<Entry>>>,
    lanes: Vec<Option<Box<Lane>>>,
    local_index: Vec<u32>,
    turns: Turns,
    commands: Receiver<CoreCommand>,
    events: Sender<CoreEvent>,
    stats: Arc<ThreadStats>,
    fec: Fec,
    bursts: Vec<Burst>,
    early: Early,
    scratch: Box<[u8; MAX_SYMBOL_LEN]>,
    status_at: Nanos,
    stop: bool,
    stage_clock: Clock,
    /// Whether [`BULK_FRAMES`] came in the last [`BULK_SPAN`] that has ended.
    bulk: bool,
    /// Whether [`LIGHT_BYTES`] came in that span, and what came in the latest round.
    heavy: bool,
    came: u64,
    /// Frames and bytes since the present span began, and when it ends.
    arriving: (usize, u64, Nanos),
}

impl<B: Backend> Core<B> {
    /// A core without lanes. `events` takes handshake frames and lanes that have ended; it must
    /// be bounded, and a full one costs the frame, not the core. `indices` are those that the manager
    /// gives out.
    pub fn new(
        id: usize,
        backend: B,
        commands: Receiver<CoreCommand>,
        events: Sender<CoreEvent>,
        stats: Arc<ThreadStats>,
        indices: Arc<Indices>,
    ) -> Core<B> {
        Core {
            id,
            backend,
            table: (0..TABLE).map(|_| None).collect(),
            lanes: Vec::new(),
            local_index: Vec::new(),
            turns: Turns::new(),
            commands,
            events,
            stats,
            fec: Fec::detect(),
            bursts: Vec::with_capacity(RX_BATCH),
            early: Early::new(indices),
            scratch: Box::new([0; MAX_SYMBOL_LEN]),
            status_at: 0,
            stop: false,
            stage_clock: Clock::start(),
            bulk: false,
            heavy: false,
            came: 0,
            arriving: (0, 0, 0),
        }
    }

    /// The backend, for its address, wake-up and statistics.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, to sleep in it.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Whether a bulk transfer is arriving.
    pub fn bulk(&self) -> bool {
        self.bulk
    }

    /// Whether so little of a fast transfer had come in the latest round, with nothing to send beside
    /// it, that the next round is worth more if it comes later. A slow sender may be waiting for what
    /// is told to it then.
    pub fn light(&self) -> bool {
        self.heavy
            && (1..LIGHT_BYTES).contains(&self.came)
            && self.lanes.iter().flatten().all(|l| l.tx_pending() == 0)
    }

    /// Whether a stop was asked for.
    pub fn stopped(&self) -> bool {
        self.stop
    }

    /// One round: commands, receive, send, acknowledge, flush. Returns whether anything was done.
    pub fn step(&mut self, now: Nanos) -> bool {
        self.stats.counters.add(Counter::CoreSteps, 1);
        let mut worked = self.take_commands(now);
        self.came = self.receive(now);
        worked |= self.came > 0;
        worked |= self.send(now);
        if now.saturating_sub(self.status_at) >= STATUS_EVERY {
            self.status_at = now;
            self.housekeeping(now);
        }
        if !worked {
            self.stats.counters.add(Counter::CoreStepsIdle, 1);
        }
        worked
    }

    /// The earliest moment at which `step` has something to do without input.
    pub fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        self.lanes
            .iter()
            .flatten()
            .filter_map(|l| l.next_timeout(now))
            .chain(self.early.next_timeout())
            .min()
    }

    fn take_commands(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Ok(c) = self.commands.try_recv() {
            any = true;
            match c {
                CoreCommand::Open { local_index, lanes } => {
                    for lane in lanes {
                        self.open(local_index, lane);
                    }
                    self.early.opened();
                }
                CoreCommand::Close {
                    local_index,
                    reason,
                } => {
                    for (lane, &index) in self.lanes.iter_mut().zip(&self.local_index) {
                        if let Some(l) = lane
                            && index == local_index
                        {
                            l.close(reason);
                        }
                    }
                }
                CoreCommand::Ping { local_index } => {
                    for (lane, &index) in self.lanes.iter_mut().zip(&self.local_index) {
                        if let Some(l) = lane
                            && index == local_index
                        {
                            l.ping();
                            break;
                        }
                    }
                }
                CoreCommand::Datagram { to, bytes } => self.send_raw(&to, &bytes),
                CoreCommand::Stop => {
                    self.stop = true;
                    for burst in self.early.drain() {
                        self.backend.release(burst);
                    }
                }
            }
        }
        let _ = now;
        any
    }

    fn open(&mut self, local_index: u32, lane: Box<Lane>) {
        let place = match self.lanes.iter().position(Option::is_none) {
            Some(i) => i,
            None => {
                self.lanes.push(None);
                self.local_index.push(0);
                self.lanes.len() - 1
            }
        };
        let number = usize::from(lane.number());
        let at = local_index as usize % TABLE;
        let entry = match &mut self.table[at] {
            Some(e) if e.index == local_index => e,
            other => other.insert(Box::new(Entry {
                index: local_index,
                lanes: [NO_LANE; MAX_LANES],
            })),
        };
        if number < MAX_LANES && place < usize::from(NO_LANE) {
            entry.lanes[number] = place as u16;
        }
        self.lanes[place] = Some(lane);
        self.local_index[place] = local_index;
        self.turns.join(place);
        self.weigh();
    }

    fn weigh(&mut self) {
        let lanes = self.lanes.iter().flatten();
        self.turns.weigh(lanes.map(|l| l.weight()));
    }

    fn send_raw(&mut self, to: &std::net::SocketAddr, bytes: &[u8]) {
        if let Some(mut f) = self.backend.claim(to, bytes.len()) {
            f.copy_from_slice(bytes);
            self.backend.commit(f);
            self.stats.counters.add(Counter::TxFrames, 1);
            self.stats
                .counters
                .add(Counter::TxBytes, bytes.len() as u64);
            self.stats.counters.add(Counter::TxHandshake, 1);
        }
    }

    /// Tells applications of what came in, before the thread sleeps.
    pub fn announce(&mut self) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.announce();
        }
    }

    /// Handles what has come in; says how many bytes that were.
    fn receive(&mut self, now: Nanos) -> u64 {
        let (frames, bytes, end) = self.arriving;
        if now >= end {
            self.bulk = frames >= BULK_FRAMES;
            self.heavy = bytes >= LIGHT_BYTES;
            self.arriving = (0, 0, now + BULK_SPAN);
        }
        let start = self.stage_clock.now();
        let may_wait = self.early.release(now, &mut self.bursts);
        if self.backend.recv(&mut self.bursts).is_err() {
            self.stats.counters.add(Counter::RxErrors, 1);
        }
        if self.bursts.is_empty() {
            self.announce();
            return 0;
        }
        let got = self.stage_clock.now();
        self.arriving.0 += self.bursts.iter().map(Burst::segments).sum::<usize>();
        self.stats.hists.record(Hist::StageRecv, got - start);
        let mut ctx = FrameCtx {
            now,
            counters: &self.stats.counters,
            hists: &self.stats.hists,
            fec: &self.fec,
            ecn: 0,
            queue: None,
            scratch: &mut self.scratch,
        };
        let mut came = 0;
        'bursts: for mut burst in self.bursts.drain(..) {
            let from = burst.from();
            ctx.ecn = burst.ecn();
            ctx.queue = burst.queue();
            let (mut frames, bytes) = (0, burst.total_len() as u64);
            let segment = burst.segment_len();
            let mut left = burst.bytes_mut();
            while !left.is_empty() {
                let end = segment.min(left.len());
                let frame = &mut left[..end];
                let mut done = 1;
                let exit = match Header::parse(frame) {
                    Err(ParseError::Oversized) => Some(Counter::RxOversized),
                    Err(e) if e.is_foreign() => Some(Counter::RxForeign),
                    Err(_) => Some(Counter::RxMalformed),
                    Ok(h) if h.kind.is_handshake() => {
                        let e = CoreEvent::Handshake {
                            from,
                            bytes: frame.to_vec(),
                        };
                        // A full queue drops the handshake; the peer sends it again.
                        let _ = self.events.try_send(e);
                        Some(Counter::RxHandshake)
                    }
                    Ok(h) => {
                        let place = match &self.table[h.session as usize % TABLE] {
                            Some(e) if e.index == h.session && usize::from(h.lane) < MAX_LANES => {
                                e.lanes[usize::from(h.lane)]
                            }
                            Some(e) if e.index == h.session => NO_LANE,
                            _ if frames == 0 && may_wait && self.early.wants(h.session) => {
                                self.early.hold(burst, now);
                                continue 'bursts;
                            }
                            _ => NO_LANE,
                        };
                        match self.lanes.get_mut(usize::from(place)) {
                            Some(Some(lane)) => {
                                if lane.opens_groups()
                                    && let Some(exits) = lane.on_group(&h, left, segment, &mut ctx)
                                {
                                    exits.count(&self.stats.counters);
                                    done = exits.frames();
                                    None
                                } else {
                                    let frame = &mut left[..end];
                                    Some(lane.on_frame(&h, frame, &mut ctx).counter())
                                }
                            }
                            _ => Some(Counter::RxForeign),
                        }
                    }
                };
                if let Some(exit) = exit {
                    self.stats.counters.add(exit, 1);
                }
                let (_, after) = left.split_at_mut((done * segment).min(left.len()));
                (frames, left) = (frames + done as u64, after);
            }
            self.stats.counters.add(Counter::RxFrames, frames);
            self.stats.counters.add(Counter::RxBytes, bytes);
            if ctx.ecn != 0 {
                self.stats.counters.add(Counter::RxFramesEct, frames);
                let marked = if ctx.ecn == CE { frames } else { 0 };
                self.stats.counters.add(Counter::RxFramesCe, marked);
            }
            came += bytes;
            self.arriving.1 += bytes;
            self.backend.release(burst);
        }
        for lane in self.lanes.iter_mut().flatten() {
            // More of a bulk transfer follows at once: the round that finds nothing tells of it.
            if self.bulk {
                lane.announce_late(now);
            } else {
                lane.announce();
            }
        }
        self.stats
            .hists
            .record(Hist::StageOpen, self.stage_clock.now() - got);
        came
    }

    fn send(&mut self, now: Nanos) -> bool {
        let start = self.stage_clock.now();
        let mut worked = false;
        let n = self.lanes.len();
        for i in 0..n {
            let at = self.turns.place(i, n);
            let Some(lane) = &mut self.lanes[at] else {
                continue;
            };
            let mut ctx = SendCtx {
                now,
                backend: &mut self.backend,
                counters: &self.stats.counters,
                hists: &self.stats.hists,
                fec: &self.fec,
                scratch: &mut self.scratch,
                budget: TURN_FRAMES,
                deficit: self.turns.begin(at, lane.weight()),
            };
            worked |= lane.pump(&mut ctx);
            let left = ctx.deficit;
            self.turns.end(at, left);
        }
        self.turns.next_round(n);
        let sealed = self.stage_clock.now();
        let flushed = match self.backend.flush() {
            Ok(r) => {
                self.stats
                    .counters
                    .add(Counter::TxFramesSent, r.sent_frames);
                self.stats
                    .counters
                    .add(Counter::TxFramesDropped, r.dropped_frames);
                r.sent_frames > 0
            }
            Err(_) => {
                self.stats.counters.add(Counter::TxErrors, 1);
                false
            }
        };
        if worked {
            self.stats.hists.record(Hist::StageSeal, sealed - start);
        }
        if flushed {
            self.stats
                .hists
                .record(Hist::StageSend, self.stage_clock.now() - sealed);
        }
        worked || flushed
    }

    /// Figures for readers, and lanes that have ended.
    fn housekeeping(&mut self, now: Nanos) {
        self.weigh();
        let (mut rx, mut ready, mut tx) = (0, 0, 0);
        for (i, place) in self.lanes.iter_mut().enumerate() {
            let Some(lane) = place else { continue };
            lane.publish_status(self.id);
            lane.publish_counters(now, &self.stats.counters);
            if lane.finished(now) {
                let index = self.local_index[i];
                let number = lane.number();
                if let Some(e) = &mut self.table[index as usize % TABLE]
                    && e.index == index
                {
                    e.lanes[usize::from(number)] = NO_LANE;
                }
                // A full queue leaves the lane for the next round.
                if self
                    .events
                    .try_send(CoreEvent::LaneEnded {
                        local_index: index,
                        lane: number,
                    })
                    .is_ok()
                {
                    self.stats
                        .counters
                        .add(Counter::RxSlotsDroppedAtClose, lane.end());
                    *place = None;
                    continue;
                }
            }
            let (a, b) = lane.rx_pending();
            rx += a;
            ready += b;
            tx += lane.tx_pending();
        }
        let backend = self.backend.glance();
        for (counter, value) in [
            (Counter::RxSocketDropped, backend.rx_kernel_drops),
            (Counter::RxDirect, backend.rx_direct),
            (Counter::RxMisdirected, backend.rx_misdirected),
            (Counter::TxDirect, backend.tx_direct),
            (Counter::TxLostBelow, backend.tx_lost_below),
            (
                Counter::FramesOutstanding,
                self.backend.outstanding() as u64,
            ),
        ] {
            self.stats.counters.store(counter, value);
        }
        self.stats.counters.store(Counter::RxSlotsPending, rx);
        self.stats
            .counters
            .store(Counter::RxSlotsReadyPending, ready);
        self.stats.counters.store(Counter::TxSlotsPending, tx);
    }

    /// Lanes that this core owns now.
    pub fn lane_count(&self) -> usize {
        self.lanes.iter().flatten().count()
    }

    /// When any lane of this core last heard from its peer, nanoseconds.
    pub fn last_rx(&self) -> Nanos {
        self.lanes
            .iter()
            .flatten()
            .map(|l| l.shared().session.last_rx.load(Ordering::Relaxed))
            .max()
            .unwrap_or(0)
    }
}
