//! One lane as its core sees it.

use super::path::{Path, PathConfig, PathStatus};
use super::shared::{CloseReason, LaneShared};
use super::slots::{RxSlot, TxSlot};
use crate::base::limits::{MAX_DATA_SYMBOLS, MAX_REPAIR_SYMBOLS, SLOT_PREAMBLE_LEN, WINDOW_SLOTS};
use crate::base::{Bits96, Nanos};
use crate::crypto::Provider;
use crate::crypto::lane::{LaneOpener, LaneSealer};
use crate::crypto::replay::ReplayWindow;
use crate::mem::{Arena, ArenaError, SlotBuf};
use crate::obs::{Counter, CounterSet};
use crate::proto::{LaneRx, LaneRxConfig, LaneTx, LaneTxConfig, PathLane, Steering, TxSymbol};
use crate::verify::{Ledger, Level};
use crate::window::{self, Reader, Writer};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Buffers kept for repair symbols in a lane of `window` slots: about one slot in six may be
/// short of data symbols at the same time; more wait for a retransmission.
const fn repair_bufs(window: usize) -> usize {
    let n = window / 6;
    if n < 4 { 4 } else { n }
}

/// Arena buffers that a lane of `window` slots takes: a window each way, one more for the slot
/// that the application fills, one each way as codec scratch, and those for repair symbols.
pub const fn bufs_per_lane(window: usize) -> usize {
    2 * window + 3 + repair_bufs(window)
}

/// What a lane is made from.
#[derive(Debug)]
pub struct LaneParams {
    /// Lane number.
    pub lane: u8,
    /// Our index of the session: frames for us carry it.
    pub local_index: u32,
    /// The peer's index of the session: frames for it carry it.
    pub remote_index: u32,
    /// Where the peer's core for this lane listens.
    pub dest: SocketAddr,
    /// Largest symbol, bytes.
    pub symbol_len: usize,
    /// Slots in flight each way, `1..=96`.
    pub window: usize,
    /// AEAD implementation.
    pub provider: Provider,
    /// Secret of the direction in which we send.
    pub tx_secret: [u8; 32],
    /// Secret of the direction in which we receive.
    pub rx_secret: [u8; 32],
    /// Verification level.
    pub level: Level,
    /// Congestion control and repair ahead.
    pub tx: LaneTxConfig,
    /// Path MTU and congestion marks.
    pub probing: PathConfig,
    /// The lane's place on the path that its session's lanes share; without one it has a path of its
    /// own.
    pub path: Option<PathLane>,
    /// Bytes of data frames that our socket can hold before the core reads them.
    pub inflight_limit: u32,
    /// How long small messages may gather in an open slot, nanoseconds.
    pub linger: Nanos,
    /// The node's clock now.
    pub now: Nanos,
}

/// The application's ends of a lane.
pub struct LaneEnds {
    /// Where slots to send go in.
    pub tx_writer: Writer<TxSlot, WINDOW_SLOTS>,
    /// Where received slots come out.
    pub rx_reader: Reader<RxSlot, WINDOW_SLOTS>,
    /// Buffers for slots to send, one more than the window.
    pub tx_bufs: Vec<SlotBuf>,
    /// Scratch for compression.
    pub tx_scratch: SlotBuf,
    /// Scratch for decompression.
    pub rx_scratch: SlotBuf,
    /// Slots in flight at most.
    pub window: usize,
    /// Largest symbol, bytes.
    pub symbol_len: usize,
    /// Verification level.
    pub level: Level,
    /// State shared with the core.
    pub shared: Arc<LaneShared>,
    /// Figures of the lane, refreshed by the core.
    pub status: Arc<Mutex<LaneStatus>>,
}

/// Figures of a lane for an operator; refreshed a few times a second.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct LaneStatus {
    /// Lane number.
    pub lane: u8,
    /// Lane core that owns it.
    pub core: usize,
    /// Next slot to send.
    pub tx_next: u64,
    /// Slots below this are complete at the peer.
    pub tx_acked: u64,
    /// Slots below this were verified and taken at the peer.
    pub tx_witnessed: u64,
    /// Slots received complete and given back by the application.
    pub rx_released: u64,
    /// Data frames in flight, bytes.
    pub in_flight: u64,
    /// Congestion window, bytes.
    pub cwnd: u64,
    /// Pacing rate, bytes per second; 0 means not paced.
    pub pacing_rate: u64,
    /// Smoothed round trip, nanoseconds.
    pub srtt_ns: u64,
    /// Frames that the sender found lost.
    pub lost: u64,
    /// Repair symbols sent.
    pub repair: u64,
    /// Data symbols sent again.
    pub resent: u64,
    /// Flow that frames go out on: 0 from the core's own port, else from one chosen to reach the
    /// peer's queue.
    #[serde(default)]
    pub flow: u16,
    /// Flows tried for that so far.
    #[serde(default)]
    pub flows_tried: u16,
    /// Queues of the peer's network device that our frames reach and should reach, by its report;
    /// nothing where it reads a socket.
    #[serde(default)]
    pub peer_queue: Option<(u16, u16)>,
    /// Queue of our network device that the peer's frames reach, where it is known.
    #[serde(default)]
    pub queue: Option<u16>,
    /// What the path to the peer carries.
    #[serde(default)]
    pub path: PathStatus,
    /// The window to the peer: slots handed over and not yet complete there, by class (slot
    /// number modulo 96).
    #[serde(default)]
    pub tx_slots: Bits96,
    /// The window from the peer: slots that have some symbols, but not enough.
    #[serde(default)]
    pub rx_open: Bits96,
    /// The window from the peer: complete slots that the application has not given back.
    #[serde(default)]
    pub rx_held: Bits96,
}

/// The core's half of a lane.
pub struct Lane {
    pub(super) lane: u8,
    pub(super) remote_index: u32,
    pub(super) dest: SocketAddr,
    /// What one frame carries at most now; longer symbols go in parts.
    pub(super) room: u16,
    pub(super) path: Path,
    pub(super) inflight_limit: u32,
    pub(super) level: Level,
    pub(super) linger: Nanos,
    pub(super) shared: Arc<LaneShared>,
    pub(super) status: Arc<Mutex<LaneStatus>>,
    // Outgoing.
    pub(super) tx: LaneTx,
    pub(super) tx_reader: Reader<TxSlot, WINDOW_SLOTS>,
    pub(super) tx_next: u64,
    pub(super) tx_done: u64,
    pub(super) sealer: LaneSealer,
    pub(super) control_pn: u64,
    pub(super) ledger: Ledger,
    pub(super) witnessed: u64,
    /// The slot that was found open for records, and when.
    pub(super) open_seen: (u64, Nanos),
    pub(super) deferred: Option<TxSymbol>,
    /// Parts of the symbol at hand that have left already.
    pub(super) parts_sent: u8,
    pub(super) pongs: Pongs,
    pub(super) steering: Steering,
    pub(super) close_sent: u32,
    pub(super) close_at: Nanos,
    pub(super) ping_wanted: bool,
    pub(super) ping_at: Nanos,
    pub(super) witness_sent: u64,
    // Incoming.
    pub(super) rx: LaneRx,
    pub(super) rx_writer: Writer<RxSlot, WINDOW_SLOTS>,
    pub(super) rx_released: u64,
    pub(super) rx_ready: u64,
    /// Slots completed since the application was last woken for some.
    pub(super) unannounced: u32,
    /// When the first of them was.
    pub(super) complete_since: Nanos,
    pub(super) rx_free: Vec<SlotBuf>,
    pub(super) repair_free: Vec<SlotBuf>,
    pub(super) opener: LaneOpener,
    pub(super) replay: ReplayWindow,
    pub(super) replay_control: ReplayWindow,
    pub(super) last_rx: Nanos,
    /// Receive queue of the network device that the latest data frame came in on.
    pub(super) arrived_on: Option<u16>,
    /// What of the protocol's own figures is already in the core's counters.
    pub(super) counted: Counted,
}

/// Pings that wait for their answer, at most four: a probe of the path is two at once.
#[derive(Default)]
pub(super) struct Pongs {
    n: usize,
    list: [(u64, u64); 4],
}

impl Pongs {
    pub(super) fn push(&mut self, id: u64, t: u64) {
        // The sender of a fifth asks again.
        if let Some(place) = self.list.get_mut(self.n) {
            *place = (id, t);
            self.n += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.n == 0
    }

    pub(super) fn pop(&mut self) -> Option<(u64, u64)> {
        self.n = self.n.checked_sub(1)?;
        self.list.get(self.n).copied()
    }
}

#[derive(Default)]
pub(super) struct Counted {
    pto: u64,
    epochs: u64,
}

/// Makes both halves of a lane; takes its buffers from `arena`.
pub fn open_lane(
    p: LaneParams,
    arena: &Arena,
    shared: Arc<LaneShared>,
) -> Result<(Lane, LaneEnds), ArenaError> {
    let repair = repair_bufs(p.window);
    let mut bufs = arena.take(bufs_per_lane(p.window))?;
    let mut split = |n: usize| bufs.split_off(bufs.len() - n);
    let mut scratch = split(2);
    let tx_bufs = split(p.window + 1);
    let rx_free = split(p.window);
    let repair_free = split(repair);
    // Two buffers were split off just above.
    let (tx_scratch, rx_scratch) = match (scratch.pop(), scratch.pop()) {
        (Some(a), Some(b)) => (a, b),
        _ => {
            return Err(ArenaError::Exhausted {
                free: 0,
                total: 0,
                asked: 2,
            });
        }
    };
    let (tx_writer, tx_reader) = window::window();
    let (rx_writer, rx_reader) = window::window();
    let status = Arc::new(Mutex::new(LaneStatus {
        lane: p.lane,
        ..LaneStatus::default()
    }));
    let ends = LaneEnds {
        tx_writer,
        rx_reader,
        tx_bufs,
        tx_scratch,
        rx_scratch,
        window: p.window,
        symbol_len: p.symbol_len,
        level: p.level,
        shared: shared.clone(),
        status: status.clone(),
    };
    let mut lane = Lane {
        lane: p.lane,
        remote_index: p.remote_index,
        dest: p.dest,
        room: u16::MAX,
        path: Path::new(&p.probing, p.symbol_len, &p.dest, p.now),
        inflight_limit: p.inflight_limit,
        level: p.level,
        linger: p.linger,
        shared,
        status,
        tx: match p.path {
            Some(path) => LaneTx::on_path(p.tx, path),
            None => LaneTx::new(p.tx),
        },
        tx_reader,
        tx_next: 0,
        tx_done: 0,
        sealer: LaneSealer::new(p.provider, &p.tx_secret, p.lane),
        control_pn: 0,
        ledger: Ledger::new(p.level),
        witnessed: 0,
        open_seen: (u64::MAX, 0),
        deferred: None,
        parts_sent: 0,
        pongs: Pongs::default(),
        steering: Steering::default(),
        close_sent: 0,
        close_at: 0,
        ping_wanted: false,
        ping_at: p.now,
        witness_sent: 0,
        rx: LaneRx::new(LaneRxConfig {
            window_slots: p.window as u8,
            max_symbol_len: p.symbol_len as u16,
        }),
        rx_writer,
        rx_released: 0,
        rx_ready: 0,
        unannounced: 0,
        complete_since: 0,
        rx_free,
        repair_free,
        opener: LaneOpener::new(p.provider, &p.rx_secret, p.lane),
        replay: ReplayWindow::new(),
        replay_control: ReplayWindow::new(),
        last_rx: p.now,
        arrived_on: None,
        counted: Counted::default(),
    };
    lane.follow_path();
    Ok((lane, ends))
}

impl Lane {
    /// Lane number in its session.
    pub fn number(&self) -> u8 {
        self.lane
    }

    /// State shared with the application.
    pub fn shared(&self) -> &Arc<LaneShared> {
        &self.shared
    }

    /// Bytes of one buffer of the arena for symbols of `symbol_len`.
    pub const fn buf_len(symbol_len: usize) -> usize {
        // The larger of 64 data symbols and 32 repair symbols.
        symbol_len
            * if MAX_DATA_SYMBOLS > MAX_REPAIR_SYMBOLS {
                MAX_DATA_SYMBOLS
            } else {
                MAX_REPAIR_SYMBOLS
            }
    }

    /// The lane's weight beside others.
    pub fn weight(&self) -> u32 {
        self.tx.path().weight()
    }

    /// Content bytes that one slot holds.
    pub const fn capacity(symbol_len: usize) -> usize {
        symbol_len * MAX_DATA_SYMBOLS - SLOT_PREAMBLE_LEN
    }

    /// Slots begun and not yet complete, and slots complete and not yet taken.
    pub fn rx_pending(&self) -> (u64, u64) {
        let begun = if self.close_sent > 0 {
            0
        } else {
            self.rx.pending() as u64
        };
        (begun, self.rx_ready.saturating_sub(self.shared.taken()))
    }

    /// Adds what the protocol core has counted since the last call.
    pub fn publish_counters(&mut self, now: Nanos, counters: &CounterSet) {
        self.opener.expire(now);
        let pto = self.tx.stats().pto_fired;
        let epochs = self.sealer.epoch();
        self.path.publish_counters(counters);
        counters.add(Counter::PtoFired, pto - self.counted.pto);
        counters.add(Counter::EpochsRatcheted, epochs - self.counted.epochs);
        self.counted = Counted { pto, epochs };
    }

    /// Slots taken from the application and not yet acknowledged.
    pub fn tx_pending(&self) -> u64 {
        self.tx_next - self.tx_done
    }

    /// Refreshes the figures for operators, unless one is just reading them.
    pub fn publish_status(&self, core: usize) {
        let Ok(mut s) = self.status.try_lock() else {
            return;
        };
        let t = self.tx.stats();
        *s = LaneStatus {
            lane: self.lane,
            core,
            tx_next: self.tx_next,
            tx_acked: self.shared.acked.load(Ordering::Relaxed),
            tx_witnessed: self.witnessed,
            rx_released: self.rx_released,
            in_flight: self.tx.in_flight(),
            cwnd: self.tx.path().cwnd(),
            pacing_rate: self.tx.path().pacing_rate(),
            srtt_ns: self.tx.rtt().smoothed(),
            lost: t.lost_frames,
            repair: t.repair,
            resent: t.resent,
            flow: self.steering.flow(),
            flows_tried: self.steering.tried(),
            peer_queue: self.steering.arrival().map(|a| (a.queue, a.home)),
            queue: self.arrived_on,
            path: self.path.status(),
            tx_slots: self.tx.pending_slots(),
            rx_open: self.rx.open_slots(),
            rx_held: self.rx.held_slots(self.rx_released),
        };
    }

    /// Takes back every slot that the application has released; returns how many.
    pub(super) fn collect_released(&mut self) -> usize {
        let mut n = 0;
        while let Some(slot) = self.rx_writer.reclaim(self.rx_released) {
            // Both vectors were made with room for every buffer of the lane.
            self.rx_free.push(slot.buf);
            self.repair_free.extend(slot.repair);
            self.rx_released += 1;
            n += 1;
        }
        n
    }

    /// Ends the lane for `reason`; the peer is told by the next `pump`.
    pub fn close(&mut self, reason: CloseReason) {
        self.shared.close(reason);
    }

    /// Closes the books of a finished lane: says how many complete slots nobody took.
    pub fn end(&mut self) -> u64 {
        self.rx_ready.saturating_sub(self.shared.end_takes())
    }

    /// Whether the lane has ended and the peer has been told often enough, or long enough ago.
    pub fn finished(&self, now: Nanos) -> bool {
        self.shared.closed().is_some()
            && self.close_sent > 0
            && now.saturating_sub(self.close_at) > 2_000_000_000
    }
}
