//! The sending end of a lane: which symbol leaves next, and what an acknowledgement means.
//!
//! There is no record per packet. Each slot remembers the packet number of the last symbol of its
//! latest round; an acknowledgement whose largest packet number lies a reordering threshold beyond
//! it settles the round, and the slot's deficit, as the receiver reports it, is answered with
//! fresh repair symbols or with the missing data.

mod ack;
mod repair;
mod run;
#[cfg(test)]
mod tests;
mod timers;
mod types;

pub use types::{
    AckOutcome, AckReject, LaneTxConfig, LaneTxStats, RepairAhead, SymbolKind, TxSymbol,
};

use super::ahead::Ahead;
use super::flight::OnWire;
use super::loss::LossCounter;
use super::pacer::Pacer;
use super::path::{Path, PathLane};
use super::rtt::RttEstimator;
use super::sent::SentLog;
use crate::base::limits::{
    BASE_SYMBOL_LEN, FRAME_OVERHEAD, MAX_DATA_SYMBOLS, MAX_REPAIR_SYMBOLS, PART_HEAD_LEN,
    WINDOW_SLOTS,
};
use crate::base::seq::class;
use crate::base::{Bits96, Nanos};
use crate::wire::part;

#[derive(Clone, Copy, Debug, Default)]
struct Meta {
    k: u8,
    symbol_len: u16,
    next_first: u8,
    ahead_left: u8,
    repair_used: u8,
    owed_repair: u8,
    owed_data: Bits96,
    have: Bits96,
    /// Largest packet number of the acknowledgement that `have` is from.
    report_pn: Option<u64>,
    round_last_pn: u64,
    round_sent_at: Nanos,
    rounds: u32,
    probe_cursor: u8,
    /// Some of its symbols went in parts: what arrives of it proves nothing about full frames.
    in_parts: bool,
}

impl Meta {
    fn missing(&self) -> Bits96 {
        Bits96::first(self.k as usize).minus(self.have)
    }
    fn repair_left(&self) -> usize {
        MAX_REPAIR_SYMBOLS - self.repair_used as usize
    }
    fn fully_sent(&self) -> bool {
        self.next_first == self.k
    }
    /// Everything that was due of the slot has left, the last with packet number `last`.
    fn round_ended(&mut self, now: Nanos, last: u64) {
        self.round_last_pn = last;
        self.round_sent_at = now;
        self.rounds = self.rounds.saturating_add(1);
        self.report_pn = self.report_pn.filter(|&r| r >= last);
    }

    fn owes(&self) -> bool {
        self.owed_repair > 0 || !self.owed_data.is_empty()
    }
}

/// Leave to send so many more frames of one slot without another look at window and pace, which
/// costs more than the rest of sending one. Good for one moment and until the next acknowledgement.
#[derive(Clone, Copy, Debug, Default)]
struct Grant {
    slot: u64,
    at: Nanos,
    frames: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blocked {
    No,
    Idle,
    Credit,
    Window,
    Pacer,
}

/// See the module's text. No method allocates; none panics, whatever the peer sends.
#[derive(Debug)]
pub struct LaneTx {
    metas: [Meta; WINDOW_SLOTS],
    /// By class: slots in `base..next_slot` that are complete.
    done: Bits96,
    /// By class: slots that owe repair or data.
    owing: Bits96,
    window: u64,
    base: u64,
    /// Slot of the first transmission under way.
    cur: u64,
    next_slot: u64,
    credit: u64,
    /// The peer's limit and what is on the wire.
    inflight_limit: u64,
    on_wire: OnWire,
    ahead: RepairAhead,
    repair: Ahead,
    log: SentLog,
    loss: LossCounter,
    rtt: RttEstimator,
    path: PathLane,
    pacer: Pacer,
    grant: Grant,
    blocked: Blocked,
    ce: u32,
    probes: u8,
    pto_count: u32,
    pto_base: Nanos,
    ping_owed: bool,
    slot_timer: Option<Nanos>,
    /// Bytes that one frame may carry; longer symbols go in parts.
    room: u16,
    /// Since when frames longer than the base size have gone without any sign that one arrived.
    large_since: Option<Nanos>,
    /// Bytes that had been sent when there was last nothing to send.
    busy_from: u64,
    /// Bytes of repair and of data sent again since the last slot was pushed, less what others spared.
    repaired: i64,
    stats: LaneTxStats,
}

impl LaneTx {
    /// A sender whose first slot is 0, on a path of its own.
    pub fn new(cfg: LaneTxConfig) -> LaneTx {
        LaneTx::on_path(cfg, PathLane::new(Path::new(&cfg.cc, 1), 0))
    }

    /// A sender whose first slot is 0, on a path that it shares; `cfg.cc` counts for nothing but
    /// the round trip expected at first.
    pub fn on_path(cfg: LaneTxConfig, path: PathLane) -> LaneTx {
        let window = u64::from(cfg.window_slots).clamp(1, WINDOW_SLOTS as u64);
        LaneTx {
            metas: [Meta::default(); WINDOW_SLOTS],
            done: Bits96::EMPTY,
            owing: Bits96::EMPTY,
            window,
            base: 0,
            cur: 0,
            next_slot: 0,
            credit: window,
            inflight_limit: u64::from(cfg.inflight_limit),
            on_wire: OnWire::default(),
            ahead: cfg.repair_ahead,
            repair: Ahead::new(),
            log: SentLog::new(u64::from(cfg.symbol_len) + FRAME_OVERHEAD as u64),
            loss: LossCounter::new(),
            rtt: RttEstimator::new(cfg.cc.initial_rtt),
            path,
            pacer: Pacer::new(0),
            grant: Grant::default(),
            blocked: Blocked::Idle,
            ce: 0,
            probes: 0,
            pto_count: 0,
            pto_base: 0,
            ping_owed: false,
            slot_timer: None,
            room: u16::MAX,
            large_since: None,
            busy_from: 0,
            repaired: 0,
            stats: LaneTxStats::default(),
        }
    }

    /// Whether the window has room for another slot.
    pub fn can_push(&self) -> bool {
        self.next_slot < self.base + self.window
    }

    /// The number that the next pushed slot must have.
    pub fn next_slot(&self) -> u64 {
        self.next_slot
    }

    /// Hands over slot `slot` of `k` symbols of `symbol_len` bytes. Gives `false`, and takes nothing,
    /// where the window is full, the number is not [`LaneTx::next_slot`], or k is not in 1..=64.
    pub fn push_slot(&mut self, slot: u64, k: u8, symbol_len: u16) -> bool {
        if !self.can_push() || slot != self.next_slot || k == 0 || k as usize > MAX_DATA_SYMBOLS {
            return false;
        }
        let c = class(slot, WINDOW_SLOTS);
        let ahead_left = self.repair_ahead(k, symbol_len);
        self.metas[c] = Meta {
            k,
            symbol_len,
            ahead_left,
            ..Meta::default()
        };
        self.done.remove(c);
        self.owing.remove(c);
        self.next_slot += 1;
        true
    }

    /// Slots below this one are complete.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Slots pushed and not yet complete.
    pub fn pending(&self) -> u64 {
        self.next_slot - self.base - self.done.len() as u64
    }

    /// The same slots by class: what of the window is occupied.
    pub fn pending_slots(&self) -> Bits96 {
        let mut set = Bits96::EMPTY;
        for slot in self.base..self.next_slot {
            set.insert(class(slot, WINDOW_SLOTS));
        }
        set.minus(self.done)
    }

    /// Bytes in flight: sent, and neither received nor lost as far as is known.
    pub fn in_flight(&self) -> u64 {
        let frames = self.loss.in_flight(self.log.next_pn());
        self.log.in_flight_bytes(frames)
    }

    /// Counts since the lane opened.
    pub fn stats(&self) -> LaneTxStats {
        LaneTxStats {
            late_frames: self.loss.healed,
            ..self.stats
        }
    }

    /// Round-trip estimate.
    pub fn rtt(&self) -> &RttEstimator {
        &self.rtt
    }

    /// The lane's end of the path: rate, window, weight.
    pub fn path(&self) -> &PathLane {
        &self.path
    }

    /// Smoothed share of frames lost before FEC, 0..=1.
    pub fn loss_rate(&self) -> f32 {
        self.loss.rate()
    }

    /// The symbol that should leave now, if any. Call until it gives `None`.
    pub fn poll_send(&mut self, now: Nanos) -> Option<TxSymbol> {
        if self.grant.frames > 0
            && self.grant.at == now
            && self.grant.slot == self.cur
            && self.cur < self.next_slot
            && self.owing.is_empty()
        {
            self.grant.frames -= 1;
            return self.send_first(now);
        }
        while self.probes > 0 {
            self.probes -= 1;
            if let Some(s) = self.probe(now) {
                return Some(s);
            }
        }
        self.skip_done();
        let first = self.cur < self.next_slot;
        let slot = match self.oldest_owing() {
            Some(slot) => slot,
            None if first && self.cur < self.credit => self.cur,
            None => {
                self.blocked = if first {
                    Blocked::Credit
                } else {
                    Blocked::Idle
                };
                if !first {
                    self.busy_from = self.log.bytes_sent();
                }
                self.path.note(self.in_flight(), self.log.bytes_sent());
                self.path.dry();
                return None;
            }
        };
        let len = self.frame_len(slot);
        let in_flight = self.in_flight();
        self.path.note(in_flight, self.log.bytes_sent());
        let cwnd = self.path.cwnd();
        if in_flight > 0 {
            if in_flight + len > self.inflight_limit {
                self.blocked = Blocked::Window;
                self.path.dry();
                return None;
            }
            if in_flight + len > cwnd {
                self.blocked = Blocked::Window;
                self.path.hungry();
                return None;
            }
        }
        if !self.pacer.ready(now, self.path.pacing_rate()) {
            self.blocked = Blocked::Pacer;
            self.path.hungry();
            return None;
        }
        self.blocked = Blocked::No;
        if slot == self.cur && first {
            let window = self.inflight_limit.min(cwnd);
            let frames = (window.saturating_sub(in_flight) / len).min(self.pacer.frames_left(len));
            // The lanes of other cores see at once what this one is about to send.
            let sent = self.log.bytes_sent() + frames * len;
            self.path.note(in_flight + frames * len, sent);
            self.grant = Grant {
                slot,
                at: now,
                // This call's frame is one of them.
                frames: frames.saturating_sub(1),
            };
            self.send_first(now)
        } else {
            self.send_owed(now, slot)
        }
    }

    /// Bytes on the wire that one symbol of a slot takes.
    fn frame_len(&self, slot: u64) -> u64 {
        let len = usize::from(self.metas[class(slot, WINDOW_SLOTS)].symbol_len);
        let bytes = match part::parts_for(len, usize::from(self.room)) {
            1 => len + FRAME_OVERHEAD,
            parts => len + parts * (PART_HEAD_LEN + FRAME_OVERHEAD),
        };
        bytes as u64
    }

    /// From now on a frame carries at most `room` bytes (at least the base size, or every symbol is
    /// shorter than that); longer symbols go in parts.
    pub fn set_room(&mut self, room: u16) {
        self.room = room;
        self.grant.frames = 0;
    }

    /// Since when full-size frames, longer than the base size, have gone without any sign that one
    /// arrived; `None` while there is no such doubt.
    pub fn large_since(&self) -> Option<Nanos> {
        self.large_since
    }

    /// That doubt is settled: the size was confirmed otherwise, or is not used any more.
    pub fn clear_large(&mut self) {
        self.large_since = None;
    }

    /// What is out is lost because of its size, which has just been changed: asks for answers at
    /// once instead of after the backoff that the silence led to.
    pub fn on_black_hole(&mut self, now: Nanos) {
        self.large_since = None;
        self.grant.frames = 0;
        self.pto_count = 0;
        self.pto_base = now;
        self.probes = 2;
    }

    /// A slot may complete before all of its repair symbols sent ahead have left.
    fn skip_done(&mut self) {
        while self.cur < self.next_slot && self.done.contains(class(self.cur, WINDOW_SLOTS)) {
            self.cur += 1;
        }
        self.cur = self.cur.max(self.base);
    }

    fn oldest_owing(&self) -> Option<u64> {
        if self.owing.is_empty() {
            return None;
        }
        let b = class(self.base, WINDOW_SLOTS);
        let ahead = match self.owing.shift_down(b).lowest() {
            Some(i) => i,
            None => self.owing.lowest()? + WINDOW_SLOTS - b,
        };
        Some(self.base + ahead as u64)
    }

    fn send_first(&mut self, now: Nanos) -> Option<TxSymbol> {
        let slot = self.cur;
        let m = &mut self.metas[class(slot, WINDOW_SLOTS)];
        let (index, kind) = if m.next_first < m.k {
            m.next_first += 1;
            (m.next_first - 1, SymbolKind::First)
        } else {
            m.ahead_left = m.ahead_left.saturating_sub(1);
            m.repair_used += 1;
            (m.k + m.repair_used - 1, SymbolKind::Repair)
        };
        let ends = m.fully_sent() && m.ahead_left.min(m.repair_left() as u8) == 0;
        if ends {
            self.cur += 1;
        }
        Some(self.emit(now, slot, index, kind, ends))
    }

    fn emit(
        &mut self,
        now: Nanos,
        slot: u64,
        index: u8,
        kind: SymbolKind,
        round_ends: bool,
    ) -> TxSymbol {
        let len = self.frame_len(slot);
        let idle = self.loss.in_flight(self.log.next_pn()) == 0;
        let idle = idle && self.path.restart(now);
        // Before the first sample each burst has its own entry, afterwards 128 share a round trip.
        let granularity = if self.rtt.has_sample() {
            self.rtt.smoothed() / 128
        } else {
            0
        };
        let c = class(slot, WINDOW_SLOTS);
        let symbol_len = self.metas[c].symbol_len;
        let parts = part::parts_for(usize::from(symbol_len), usize::from(self.room)) as u64;
        let path = &self.path;
        let pn = self
            .log
            .on_sent(now, len / parts, granularity, idle, || path.mark());
        let mut last = pn;
        for n in 1..parts {
            let rest = if n + 1 == parts { len % parts } else { 0 };
            last = self
                .log
                .on_sent(now, len / parts + rest, granularity, false, || path.mark());
        }
        self.pacer.on_sent(len);
        if parts > 1 {
            self.metas[c].in_parts = true;
        } else if usize::from(symbol_len) > BASE_SYMBOL_LEN && self.large_since.is_none() {
            self.large_since = Some(now);
        }
        match kind {
            SymbolKind::First => self.stats.first += 1,
            SymbolKind::Repair => self.stats.repair += 1,
            SymbolKind::Resent => self.stats.resent += 1,
        }
        if kind != SymbolKind::First {
            self.repaired = self.repaired.saturating_add_unsigned(len);
        }
        let m = &mut self.metas[c];
        if round_ends {
            m.round_ended(now, last);
        }
        TxSymbol {
            slot,
            index,
            k: m.k,
            symbol_len: m.symbol_len,
            pn,
            parts: parts as u8,
            kind,
        }
    }
}
