//! The sending end of a lane: which symbol leaves next, and what an acknowledgement means.
//!
//! There is no record per packet. Each slot remembers the packet number of the last symbol of its
//! latest round; an acknowledgement whose largest packet number lies a reordering threshold beyond
//! it settles the round, and the slot's deficit, as the receiver reports it, is answered with
//! fresh repair symbols or with the missing data.

use super::cc::{AckSample, Cc, CcConfig, Controller};
use super::loss::LossCounter;
use super::pacer::Pacer;
use super::rtt::{MAX_PTO_NS, RttEstimator};
use super::sent::SentLog;
use crate::base::limits::{
    ACK_DELAY_NS, FRAME_OVERHEAD, MAX_DATA_SYMBOLS, MAX_DEFICITS, MAX_REPAIR_SYMBOLS, WINDOW_SLOTS,
};
use crate::base::seq::class;
use crate::base::{Bits96, Nanos};
use crate::wire::ack::Ack;

/// Deficits above this are answered with the missing data itself: the report names it, and it costs
/// neither encoding nor decoding. Small ones take repair symbols, which fill any hole.
const REPAIR_DEFICIT_MAX: usize = 16;
/// Below this smoothed loss a deficit is answered without redundancy.
const REDUNDANT_LOSS: f32 = 0.05;
/// Expected losses per slot below which no repair symbol is sent ahead.
const AHEAD_MIN: f32 = 0.25;
/// What the peer's acknowledgements may wait beyond their timer when its core is busy, nanoseconds.
const PEER_DELAY_NS: Nanos = 2 * ACK_DELAY_NS;

/// Repair symbols sent with a slot before any loss of it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepairAhead {
    /// None on a clean path, from the smoothed loss otherwise.
    #[default]
    Adaptive,
    /// Always this many, at most 32.
    Fixed(u8),
}

/// How a lane's sender starts.
#[derive(Clone, Copy, Debug)]
pub struct LaneTxConfig {
    /// Slots in the window, 1..=96; also the credit before the first acknowledgement.
    pub window_slots: u8,
    /// Negotiated symbol length, bytes.
    pub symbol_len: u16,
    /// Bytes that the peer's socket can hold, until it says otherwise.
    pub inflight_limit: u32,
    /// Repair symbols sent ahead.
    pub repair_ahead: RepairAhead,
    /// Congestion control; its `frame` is symbol length plus 40 bytes.
    pub cc: CcConfig,
}

/// Why a symbol is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// A data symbol for the first time.
    First,
    /// A repair symbol.
    Repair,
    /// A data symbol again.
    Resent,
}

/// A symbol to seal and send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxSymbol {
    /// Full slot number.
    pub slot: u64,
    /// `0..k` data, `k..k+32` repair.
    pub index: u8,
    /// Data symbols of the slot.
    pub k: u8,
    /// Bytes of each symbol.
    pub symbol_len: u16,
    /// Packet number, never used before.
    pub pn: u64,
    /// Why it is sent.
    pub kind: SymbolKind,
}

/// What no honest receiver says: the lane should close with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AckReject {
    /// A packet number that was never sent (an optimistic acknowledgement).
    #[error("acknowledges a packet number that was never sent")]
    LargestPn,
    /// More frames received than lie at or below the largest packet number.
    #[error("counts more frames than were sent")]
    Received,
    /// A slot complete that was not wholly sent.
    #[error("completes a slot that was not sent")]
    Complete,
    /// Credit beyond the window.
    #[error("grants credit beyond the window")]
    Credit,
}

/// What an acknowledgement led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckOutcome {
    /// Slots newly complete.
    pub acked_slots: u32,
    /// Frames newly known lost.
    pub lost_frames: u64,
    /// Round-trip sample, nanoseconds, the peer's delay taken off.
    pub rtt_sample: Option<Nanos>,
    /// Older than one seen before: ignored.
    pub stale: bool,
    /// Set where the acknowledgement cannot be honest; nothing was changed.
    pub rejected: Option<AckReject>,
}

/// Counts since the lane opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneTxStats {
    /// Data symbols sent for the first time.
    pub first: u64,
    /// Repair symbols sent.
    pub repair: u64,
    /// Data symbols sent again.
    pub resent: u64,
    /// Frames counted lost, those that arrived late after all taken off.
    pub lost_frames: u64,
    /// Frames that were counted lost and arrived late.
    pub late_frames: u64,
    /// Slots acknowledged.
    pub acked_slots: u64,
    /// Probe timeouts.
    pub pto_fired: u64,
    /// Acknowledgements taken.
    pub acks: u64,
    /// Acknowledgements ignored as older than one seen.
    pub stale_acks: u64,
    /// Acknowledgements refused.
    pub rejected_acks: u64,
}

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
    fn owes(&self) -> bool {
        self.owed_repair > 0 || !self.owed_data.is_empty()
    }
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
    inflight_limit: u64,
    ahead: RepairAhead,
    log: SentLog,
    loss: LossCounter,
    rtt: RttEstimator,
    cc: Cc,
    pacer: Pacer,
    blocked: Blocked,
    ce: u32,
    probes: u8,
    pto_count: u32,
    pto_base: Nanos,
    ping_owed: bool,
    slot_timer: Option<Nanos>,
    stats: LaneTxStats,
}

impl LaneTx {
    /// A sender whose first slot is 0.
    pub fn new(cfg: LaneTxConfig) -> LaneTx {
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
            ahead: cfg.repair_ahead,
            log: SentLog::new(u64::from(cfg.symbol_len) + FRAME_OVERHEAD as u64),
            loss: LossCounter::new(),
            rtt: RttEstimator::new(cfg.cc.initial_rtt),
            cc: Cc::new(&cfg.cc),
            pacer: Pacer::new(0),
            blocked: Blocked::Idle,
            ce: 0,
            probes: 0,
            pto_count: 0,
            pto_base: 0,
            ping_owed: false,
            slot_timer: None,
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
        self.metas[c] = Meta {
            k,
            symbol_len,
            ahead_left: self.repair_ahead(k),
            ..Meta::default()
        };
        self.done.remove(c);
        self.owing.remove(c);
        self.next_slot += 1;
        true
    }

    fn repair_ahead(&self, k: u8) -> u8 {
        let n = match self.ahead {
            RepairAhead::Fixed(n) => n,
            RepairAhead::Adaptive => {
                let expected = f32::from(k) * self.loss.rate();
                if expected < AHEAD_MIN {
                    return 0;
                }
                // Covers the usual slot; the rest is cheaper to answer once known.
                (expected + 0.7 * expected.sqrt()).round().min(255.0) as u8
            }
        };
        n.min(MAX_REPAIR_SYMBOLS as u8)
    }

    /// Slots below this one are complete.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Slots pushed and not yet complete.
    pub fn pending(&self) -> u64 {
        self.next_slot - self.base - self.done.len() as u64
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

    /// Congestion controller.
    pub fn cc(&self) -> &Cc {
        &self.cc
    }

    /// Smoothed share of frames lost before FEC, 0..=1.
    pub fn loss_rate(&self) -> f32 {
        self.loss.rate()
    }

    /// The symbol that should leave now, if any. Call until it gives `None`.
    pub fn poll_send(&mut self, now: Nanos) -> Option<TxSymbol> {
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
                let in_flight = self.in_flight();
                if in_flight < self.cc.cwnd() {
                    self.log.on_app_limited(in_flight);
                }
                return None;
            }
        };
        let len = self.frame_len(slot);
        let in_flight = self.in_flight();
        if in_flight > 0 {
            if in_flight + len > self.inflight_limit {
                self.blocked = Blocked::Window;
                self.log.on_app_limited(in_flight);
                return None;
            }
            if in_flight + len > self.cc.cwnd() {
                self.blocked = Blocked::Window;
                return None;
            }
        }
        if !self.pacer.ready(now, self.cc.pacing_rate()) {
            self.blocked = Blocked::Pacer;
            return None;
        }
        self.blocked = Blocked::No;
        if slot == self.cur && first {
            self.send_first(now)
        } else {
            self.send_owed(now, slot)
        }
    }

    fn frame_len(&self, slot: u64) -> u64 {
        let m = &self.metas[class(slot, WINDOW_SLOTS)];
        u64::from(m.symbol_len) + FRAME_OVERHEAD as u64
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

    fn send_owed(&mut self, now: Nanos, slot: u64) -> Option<TxSymbol> {
        let c = class(slot, WINDOW_SLOTS);
        let m = &mut self.metas[c];
        let (index, kind) = if m.owed_repair > 0 && m.repair_left() > 0 {
            m.owed_repair -= 1;
            m.repair_used += 1;
            (m.k + m.repair_used - 1, SymbolKind::Repair)
        } else if let Some(i) = m.owed_data.lowest() {
            m.owed_repair = 0;
            m.owed_data.remove(i);
            (i as u8, SymbolKind::Resent)
        } else {
            m.owed_repair = 0;
            self.owing.remove(c);
            return None;
        };
        let ends = !m.owes();
        if ends {
            self.owing.remove(c);
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
        if idle {
            self.cc.on_idle_restart(now);
        }
        // Before the first sample each burst has its own entry, afterwards 128 share a round trip.
        let granularity = if self.rtt.has_sample() {
            self.rtt.smoothed() / 128
        } else {
            0
        };
        let pn = self.log.on_sent(now, len, granularity, idle);
        self.pacer.on_sent(len);
        match kind {
            SymbolKind::First => self.stats.first += 1,
            SymbolKind::Repair => self.stats.repair += 1,
            SymbolKind::Resent => self.stats.resent += 1,
        }
        let m = &mut self.metas[class(slot, WINDOW_SLOTS)];
        if round_ends {
            m.round_last_pn = pn;
            m.round_sent_at = now;
            m.rounds = m.rounds.saturating_add(1);
            m.report_pn = m.report_pn.filter(|&r| r >= pn);
        }
        TxSymbol {
            slot,
            index,
            k: m.k,
            symbol_len: m.symbol_len,
            pn,
            kind,
        }
    }

    /// A symbol of the oldest incomplete slot, to make the peer answer: outside window and pace.
    fn probe(&mut self, now: Nanos) -> Option<TxSymbol> {
        self.skip_done();
        let slot = (self.base..self.cur).find(|s| !self.done.contains(class(*s, WINDOW_SLOTS)));
        let Some(slot) = slot else {
            let can = self.cur < self.next_slot && self.cur < self.credit;
            return if can { self.send_first(now) } else { None };
        };
        let c = class(slot, WINDOW_SLOTS);
        if self.owing.contains(c) {
            return self.send_owed(now, slot);
        }
        let m = &mut self.metas[c];
        if m.repair_left() > 0 {
            m.repair_used += 1;
            let index = m.k + m.repair_used - 1;
            return Some(self.emit(now, slot, index, SymbolKind::Repair, false));
        }
        // Missing data in turn, so that one unlucky symbol is not the only one tried.
        let missing = m.missing();
        let next = match missing.shift_down(m.probe_cursor as usize).lowest() {
            Some(i) => i + m.probe_cursor as usize,
            None => missing.lowest().unwrap_or(0),
        };
        m.probe_cursor = ((next + 1) % MAX_DATA_SYMBOLS) as u8;
        Some(self.emit(now, slot, next as u8, SymbolKind::Resent, false))
    }

    /// Takes an acknowledgement from the authenticated peer; calls `newly_complete` once for each
    /// slot that it completes, in rising order. Where [`AckOutcome::rejected`] is set the
    /// peer breaks the protocol and nothing was changed.
    pub fn on_ack(
        &mut self,
        now: Nanos,
        ack: &Ack,
        mut newly_complete: impl FnMut(u64),
    ) -> AckOutcome {
        if let Err(reason) = self.check(ack) {
            self.stats.rejected_acks += 1;
            return AckOutcome {
                rejected: Some(reason),
                ..AckOutcome::default()
            };
        }
        if self.is_stale(ack) {
            self.stats.stale_acks += 1;
            return AckOutcome {
                stale: true,
                ..AckOutcome::default()
            };
        }
        self.stats.acks += 1;
        self.credit = self.credit.max(ack.credit);
        self.inflight_limit = u64::from(ack.inflight_limit);
        let prior_in_flight = self.in_flight();
        let mut out = AckOutcome {
            acked_slots: self.complete(ack, &mut newly_complete),
            ..AckOutcome::default()
        };
        if ack.received > 0 {
            self.take_numbers(now, ack, prior_in_flight, &mut out);
            self.take_reports(ack);
        }
        // Any word from the peer ends the silence that backoff is for.
        self.pto_count = 0;
        self.pto_base = now;
        self.probes = 0;
        self.evaluate(now);
        out
    }

    fn check(&self, ack: &Ack) -> Result<(), AckReject> {
        if ack.received > 0 {
            if ack.largest_pn >= self.log.next_pn() {
                return Err(AckReject::LargestPn);
            }
            if ack.received > ack.largest_pn + 1 {
                return Err(AckReject::Received);
            }
        }
        if ack.base > self.next_slot {
            return Err(AckReject::Complete);
        }
        let top = ack
            .complete
            .highest()
            .map_or(ack.base, |i| ack.base + i as u64 + 1);
        if top > self.next_slot {
            return Err(AckReject::Complete);
        }
        for slot in self.base..top {
            let c = class(slot, WINDOW_SLOTS);
            let claimed = slot < ack.base || ack.complete.contains((slot - ack.base) as usize);
            if claimed && !self.done.contains(c) && !self.metas[c].fully_sent() {
                return Err(AckReject::Complete);
            }
        }
        if ack.credit > ack.base + self.window {
            return Err(AckReject::Credit);
        }
        Ok(())
    }

    /// Everything in an acknowledgement only grows, so one that is lower anywhere is older.
    fn is_stale(&self, ack: &Ack) -> bool {
        let older = self.loss.largest().is_some_and(|l| ack.largest_pn < l);
        older || ack.base < self.base || ack.received < self.loss.received()
    }

    fn complete(&mut self, ack: &Ack, newly_complete: &mut impl FnMut(u64)) -> u32 {
        let mut n = 0;
        for slot in self.base..self.next_slot {
            let c = class(slot, WINDOW_SLOTS);
            let claimed = slot < ack.base || ack.complete.contains((slot - ack.base) as usize);
            if claimed && self.done.insert(c) {
                self.owing.remove(c);
                newly_complete(slot);
                n += 1;
            }
        }
        while self.base < self.next_slot && self.done.contains(class(self.base, WINDOW_SLOTS)) {
            self.done.remove(class(self.base, WINDOW_SLOTS));
            self.base += 1;
        }
        self.cur = self.cur.max(self.base);
        self.stats.acked_slots += u64::from(n);
        n
    }

    fn take_numbers(&mut self, now: Nanos, ack: &Ack, prior_in_flight: u64, out: &mut AckOutcome) {
        let advanced = self.loss.largest().is_none_or(|l| ack.largest_pn > l);
        let loss_delay = self.rtt.loss_delay();
        let (fresh, lost) = self
            .loss
            .on_ack(now, ack.largest_pn, ack.received, loss_delay);
        let rate = self.log.on_acked(now, ack.largest_pn, fresh);
        if let Some(sent_at) = rate.sent_at.filter(|_| advanced) {
            let sample = now.saturating_sub(sent_at);
            let delay = u64::from(ack.delay_us) * 1000;
            out.rtt_sample = Some(self.rtt.update(sample, delay));
        }
        out.lost_frames = lost;
        self.stats.lost_frames += lost;
        // A counter that runs backwards, or faster than frames do, is nonsense: ignore it.
        let ce = u64::from(ack.ce.wrapping_sub(self.ce));
        self.ce = ack.ce;
        self.cc.on_ack(&AckSample {
            now,
            delivered: self.log.delivered(),
            prior_delivered: rate.prior_delivered,
            acked_bytes: rate.acked_bytes,
            acked_frames: fresh,
            lost_frames: lost,
            ce_frames: if ce <= fresh { ce } else { 0 },
            rtt: out.rtt_sample,
            rate: rate.rate,
            app_limited: rate.app_limited,
            prior_in_flight,
            in_flight: self.in_flight(),
        });
    }

    /// Fewer than 16 reports cover every slot; 16 cover those from the first to the last of them.
    fn take_reports(&mut self, ack: &Ack) {
        let mut reports = ack.reports().iter().peekable();
        let (from, to) = match ack.reports() {
            [first, .., last] if ack.reports().len() == MAX_DEFICITS => (
                ack.base + u64::from(first.offset),
                ack.base + u64::from(last.offset),
            ),
            _ => (ack.base, u64::MAX),
        };
        for slot in self.base..self.cur {
            let c = class(slot, WINDOW_SLOTS);
            while reports
                .peek()
                .is_some_and(|r| ack.base + u64::from(r.offset) < slot)
            {
                reports.next();
            }
            let report = reports
                .peek()
                .filter(|r| ack.base + u64::from(r.offset) == slot);
            if self.done.contains(c) || !(from..=to).contains(&slot) {
                continue;
            }
            let m = &mut self.metas[c];
            let sent = Bits96::first(m.k as usize + m.repair_used as usize);
            m.have = report.map_or(Bits96::EMPTY, |r| r.have.and(sent));
            m.report_pn = Some(ack.largest_pn);
        }
    }

    /// Makes each slot whose round is settled owe what it lacks.
    fn evaluate(&mut self, now: Nanos) {
        self.slot_timer = None;
        let loss_delay = self.rtt.loss_delay();
        for slot in self.base..self.cur {
            let c = class(slot, WINDOW_SLOTS);
            if self.done.contains(c) || self.owing.contains(c) {
                continue;
            }
            let m = &self.metas[c];
            let Some(report_pn) = m.report_pn.filter(|&pn| pn >= m.round_last_pn) else {
                continue;
            };
            let due = m.round_sent_at.saturating_add(loss_delay);
            if report_pn >= m.round_last_pn + self.loss.reorder() || now >= due {
                self.owe(c);
            } else {
                self.slot_timer = Some(self.slot_timer.map_or(due, |t| t.min(due)));
            }
        }
    }

    fn owe(&mut self, c: usize) {
        let p = self.loss.rate().min(0.9);
        let m = &mut self.metas[c];
        // An honest receiver with k symbols says "complete"; one more symbol costs little.
        let deficit = (m.k as usize).saturating_sub(m.have.len()).max(1);
        let mut owed = deficit;
        if p > REDUNDANT_LOSS {
            owed += (deficit as f32 * p / (1.0 - p)).ceil() as usize;
        }
        // Each further round doubles nothing but adds a little, so that the tail is short.
        owed += (m.rounds.saturating_sub(2) as usize).min(4);
        let missing = m.missing();
        let repair = if deficit > REPAIR_DEFICIT_MAX {
            0
        } else {
            owed.min(m.repair_left())
        };
        m.owed_repair = repair as u8;
        m.owed_data = Bits96::EMPTY;
        for i in missing.iter().take(owed - repair) {
            m.owed_data.insert(i);
        }
        if m.owes() {
            self.owing.insert(c);
        }
    }

    fn pto(&self) -> Nanos {
        let pto = self.rtt.pto(PEER_DELAY_NS);
        pto.saturating_mul(1 << self.pto_count.min(20))
            .min(MAX_PTO_NS.max(pto))
    }

    /// Whether something unanswered is out, or the peer's silence on credit holds everything up.
    fn waits(&self) -> bool {
        let sent = self.cur > self.base
            || self.metas[class(self.cur, WINDOW_SLOTS)].next_first > 0
                && self.cur < self.next_slot;
        sent || self.credit_blocked() || self.loss.in_flight(self.log.next_pn()) > 0
    }

    fn credit_blocked(&self) -> bool {
        self.cur < self.next_slot && self.cur >= self.credit
    }

    fn pto_at(&self) -> Option<Nanos> {
        let base = self.pto_base.max(self.log.last_sent_at());
        self.waits().then(|| base.saturating_add(self.pto()))
    }

    /// When [`LaneTx::on_timeout`] or [`LaneTx::poll_send`] should be called again, if nothing
    /// arrives; `now` or earlier means at once.
    pub fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        let pace = match self.blocked {
            Blocked::Pacer => Some(self.pacer.next_burst(self.cc.pacing_rate())),
            Blocked::No if self.cur < self.next_slot || !self.owing.is_empty() => Some(now),
            _ => None,
        };
        let probes = (self.probes > 0).then_some(now);
        let loss = self.loss.timer(self.rtt.loss_delay());
        [pace, probes, loss, self.slot_timer, self.pto_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Runs every timer that is due by `now`.
    pub fn on_timeout(&mut self, now: Nanos) {
        let loss_delay = self.rtt.loss_delay();
        if self.loss.timer(loss_delay).is_some_and(|t| t <= now) {
            let lost = self.loss.confirm(now, loss_delay);
            if lost > 0 {
                self.stats.lost_frames += lost;
                let in_flight = self.in_flight();
                self.cc.on_ack(&AckSample {
                    now,
                    delivered: self.log.delivered(),
                    lost_frames: lost,
                    app_limited: true,
                    prior_in_flight: in_flight,
                    in_flight,
                    ..AckSample::default()
                });
            }
        }
        if self.slot_timer.is_some_and(|t| t <= now) {
            self.evaluate(now);
        }
        if self.pto_at().is_some_and(|t| t <= now) {
            self.on_pto(now);
        }
    }

    fn on_pto(&mut self, now: Nanos) {
        self.skip_done();
        let incomplete =
            self.cur > self.base || self.cur < self.next_slot && self.cur < self.credit;
        if !incomplete && !self.credit_blocked() {
            // Only symbols that nobody needs any more are out; no answer to them is owed.
            self.loss.write_off(self.log.next_pn());
            return;
        }
        self.stats.pto_fired += 1;
        self.pto_count = self.pto_count.saturating_add(1);
        self.pto_base = now;
        self.cc.on_pto(self.pto_count);
        if incomplete {
            self.probes = if self.pto_count > 1 { 2 } else { 1 };
        } else {
            self.ping_owed = true;
        }
    }

    /// Whether the engine should send a ping now: credit is used up and nothing is in flight that
    /// would bring an acknowledgement. Asking clears it.
    pub fn take_ping_owed(&mut self) -> bool {
        std::mem::take(&mut self.ping_owed)
    }
}
