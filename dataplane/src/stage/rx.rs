//! Receive: one frame at a time from a burst into the window (several at once: `rx_group`).

use super::lane::Lane;
use super::shared::{CloseReason, TxWants};
use super::slots::RxSlot;
use crate::base::Nanos;
use crate::base::clock::host_monotonic_ns;
use crate::base::limits::{COHERENCE_INTERVAL, HEADER_LEN, MAX_SYMBOL_LEN, TAG_LEN};
use crate::fec::Fec;
use crate::obs::{Counter, CounterSet, Hist, HistSet};
use crate::proto::{Admit, Arrival, Progress};
use crate::verify::{Coherence, Level};
use crate::wire::control::{self, Message};
use crate::wire::{FrameKind, Header, PartHead};
use std::sync::atomic::Ordering;

/// The application is woken when so many slots wait for it, or one has waited long enough: waking it
/// for each costs two changes of threads where it runs on the core's CPU.
const ANNOUNCE_AT: u32 = 8;
/// How long a complete slot waits for others in the midst of a bulk transfer, nanoseconds.
const ANNOUNCE_HOLD: Nanos = 200_000;

/// What the stages of a core share while they handle one batch.
pub struct FrameCtx<'a> {
    /// The node's clock at the start of the batch, nanoseconds.
    pub now: Nanos,
    /// Counters of this core.
    pub counters: &'a CounterSet,
    /// Histograms of this core.
    pub hists: &'a HistSet,
    /// Erasure code.
    pub fec: &'a Fec,
    /// ECN bits of the IP header that the frame came with.
    pub ecn: u8,
    /// Receive queue of the network device that the frame came in on, where known.
    pub queue: Option<u16>,
    /// Room for one symbol.
    pub scratch: &'a mut [u8; MAX_SYMBOL_LEN],
}

/// How a frame left the receive stage. Each is one counter; every frame has exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameExit {
    /// A symbol that is now in its slot.
    Stored,
    /// A part of a symbol, which is not whole yet.
    Part,
    /// A symbol that was there already.
    Duplicate,
    /// A symbol of a slot outside the window.
    OutOfWindow,
    /// A symbol that contradicts its slot's first one.
    Inconsistent,
    /// No buffer was free for it.
    NoBuffer,
    /// A packet number seen before, or too old to tell.
    Replayed,
    /// The tag did not verify, or the key may not be used.
    AuthFailed,
    /// A control frame.
    Control,
    /// A control frame that authenticated but does not parse.
    Malformed,
    /// A frame for a lane that has ended.
    Closed,
}

impl FrameExit {
    /// The counter of this exit.
    pub const fn counter(self) -> Counter {
        match self {
            FrameExit::Stored => Counter::RxSymbolsStored,
            FrameExit::Part => Counter::RxSymbolParts,
            FrameExit::Duplicate => Counter::RxSymbolsDuplicate,
            FrameExit::OutOfWindow => Counter::RxSymbolsOutOfWindow,
            FrameExit::Inconsistent => Counter::RxSymbolsInconsistent,
            FrameExit::NoBuffer => Counter::RxSymbolsNoBuffer,
            FrameExit::Replayed => Counter::RxReplayed,
            FrameExit::AuthFailed => Counter::RxAuthFailed,
            FrameExit::Control => Counter::RxControl,
            FrameExit::Malformed => Counter::RxMalformed,
            FrameExit::Closed => Counter::RxForeign,
        }
    }
}

impl Lane {
    /// Handles one frame that the parser and the session table have assigned to this lane.
    /// `frame` is exactly the length that its header says.
    pub fn on_frame(&mut self, hdr: &Header, frame: &mut [u8], ctx: &mut FrameCtx) -> FrameExit {
        let Some((head, sealed)) = frame.split_first_chunk_mut::<HEADER_LEN>() else {
            return FrameExit::Malformed;
        };
        if self.close_sent > 0 {
            // The books of this lane are closed: what comes now belongs to no lane.
            return FrameExit::Closed;
        }
        let exit = match hdr.kind {
            FrameKind::Symbol if hdr.part => self.on_part(hdr, head, sealed, ctx),
            FrameKind::Symbol => self.on_symbol(hdr, head, sealed, ctx),
            FrameKind::Control => self.on_control(hdr, head, sealed, ctx),
            _ => FrameExit::Malformed,
        };
        let authentic = !matches!(
            exit,
            FrameExit::AuthFailed | FrameExit::Replayed | FrameExit::NoBuffer
        );
        if authentic {
            self.heard(ctx.now);
        }
        exit
    }

    /// Notes an authentic frame.
    #[inline]
    pub(super) fn heard(&mut self, now: Nanos) {
        // `now` is that of the batch, so this is one store for all its frames.
        if self.last_rx != now {
            self.last_rx = now;
            self.path.pmtu.on_heard(now);
            self.shared.session.last_rx.store(now, Ordering::Relaxed);
        }
    }

    fn on_symbol(
        &mut self,
        hdr: &Header,
        head: &[u8; HEADER_LEN],
        sealed: &mut [u8],
        ctx: &mut FrameCtx,
    ) -> FrameExit {
        if !self.replay.check(hdr.pn) {
            return FrameExit::Replayed;
        }
        let len = usize::from(hdr.len);
        let (slot, first) = match self.rx.admit(hdr.slot, hdr.symbol, hdr.k, hdr.len) {
            Admit::Store { slot, first } => (slot, first),
            other => {
                // Authenticate before it may count against the peer or advance the replay window.
                let Some(out) = ctx.scratch.get_mut(..len) else {
                    return FrameExit::Malformed;
                };
                if self
                    .opener
                    .open(ctx.now, hdr.epoch, hdr.pn, head, sealed, out)
                    .is_err()
                {
                    return FrameExit::AuthFailed;
                }
                self.replay.commit(hdr.pn);
                return match other {
                    Admit::Duplicate => {
                        self.rx.on_ecn(ctx.ecn);
                        self.rx.duplicate(ctx.now, hdr.pn);
                        FrameExit::Duplicate
                    }
                    Admit::OutOfWindow => FrameExit::OutOfWindow,
                    _ => FrameExit::Inconsistent,
                };
            }
        };
        // A slot's first symbol claims a buffer only after its tag has verified: until then the
        // buffer stays ours, so that a forged header can pin nothing.
        let mut fresh = if first {
            match self.rx_free.pop() {
                Some(buf) => Some(RxSlot {
                    buf,
                    repair: None,
                    len: 0,
                }),
                None => return FrameExit::NoBuffer,
            }
        } else {
            None
        };
        let k = usize::from(hdr.k);
        let symbol = usize::from(hdr.symbol);
        let mut lent_repair = false;
        let opened = {
            let target = match fresh.as_mut() {
                Some(s) => Some(s),
                None => self.rx_writer.get_mut(slot),
            };
            let Some(target) = target else {
                return FrameExit::NoBuffer;
            };
            let (buf, at) = if symbol < k {
                (&mut target.buf, symbol * len)
            } else {
                if target.repair.is_none() {
                    target.repair = self.repair_free.pop();
                    lent_repair = true;
                }
                match target.repair.as_mut() {
                    Some(buf) => (buf, (symbol - k) * len),
                    None => {
                        self.rx_free.extend(fresh.map(|s| s.buf));
                        return FrameExit::NoBuffer;
                    }
                }
            };
            match buf.get_mut(at..at + len) {
                Some(out) => self
                    .opener
                    .open(ctx.now, hdr.epoch, hdr.pn, head, sealed, out)
                    .is_ok(),
                None => false,
            }
        };
        if !opened {
            self.rx.spoiled(slot, hdr.symbol);
            if let Some(s) = fresh {
                self.rx_free.push(s.buf);
                self.repair_free.extend(s.repair);
            } else if lent_repair && let Some(s) = self.rx_writer.get_mut(slot) {
                // A forged symbol must not pin the buffer that genuine ones need.
                self.repair_free.extend(s.repair.take());
            }
            return FrameExit::AuthFailed;
        }
        self.replay.commit(hdr.pn);
        self.arrived_on = ctx.queue;
        if let Some(mut s) = fresh {
            s.len = (k * len) as u32;
            if let Err(s) = self.rx_writer.begin(slot, s) {
                self.rx_free.push(s.buf);
                self.repair_free.extend(s.repair);
                return FrameExit::OutOfWindow;
            }
            ctx.counters.add(Counter::RxSlotsStarted, 1);
        }
        self.rx.on_ecn(ctx.ecn);
        let progress = self
            .rx
            .stored(ctx.now, slot, hdr.symbol, hdr.k, hdr.len, hdr.pn);
        self.on_progress(slot, (k, len), progress, ctx)
    }

    /// What follows from a symbol that is in its slot now.
    pub(super) fn on_progress(
        &mut self,
        slot: u64,
        (k, len): (usize, usize),
        progress: Progress,
        ctx: &mut FrameCtx,
    ) -> FrameExit {
        match progress {
            Progress::Partial | Progress::Duplicate => {}
            Progress::Complete => self.complete(slot, ctx),
            Progress::NeedsDecode => {
                let have = self.rx.slot_have(slot);
                let start = host_monotonic_ns();
                let ok = match self.rx_writer.get_mut(slot) {
                    Some(RxSlot {
                        buf,
                        repair: Some(repair),
                        ..
                    }) => ctx
                        .fec
                        .decode(k, len, &mut buf[..k * len], repair, have)
                        .is_ok(),
                    _ => false,
                };
                if !ok {
                    // The code recovers any k of k + 32 symbols; failing here means a defect, and
                    // nothing may be passed on.
                    self.close(CloseReason::Violation);
                    return FrameExit::Stored;
                }
                ctx.counters.add(Counter::RxSlotsDecoded, 1);
                ctx.hists
                    .record(Hist::StageDecode, host_monotonic_ns() - start);
                self.complete(slot, ctx);
            }
        }
        FrameExit::Stored
    }

    /// One part of a symbol that is longer than a frame of the path may be. These are few, so it is
    /// opened beside the slot and copied: nothing of the slot is touched before the tag has verified.
    #[cold]
    fn on_part(
        &mut self,
        hdr: &Header,
        head: &[u8; HEADER_LEN],
        sealed: &mut [u8],
        ctx: &mut FrameCtx,
    ) -> FrameExit {
        if !self.replay.check(hdr.pn) {
            return FrameExit::Replayed;
        }
        let mut plain = [0u8; MAX_SYMBOL_LEN];
        let Some(plain) = plain.get_mut(..usize::from(hdr.len)) else {
            return FrameExit::Malformed;
        };
        let opened = self
            .opener
            .open(ctx.now, hdr.epoch, hdr.pn, head, sealed, plain);
        if opened.is_err() {
            return FrameExit::AuthFailed;
        }
        self.replay.commit(hdr.pn);
        let Some((part, bytes)) = PartHead::decode(plain) else {
            return FrameExit::Inconsistent;
        };
        let (k, len) = (usize::from(hdr.k), usize::from(part.symbol_len));
        let symbol = usize::from(hdr.symbol);
        let admitted = self.rx.admit(hdr.slot, hdr.symbol, hdr.k, part.symbol_len);
        let (slot, first) = match admitted {
            Admit::Store { slot, first } => (slot, first),
            Admit::Duplicate => {
                self.rx.on_ecn(ctx.ecn);
                self.rx.duplicate(ctx.now, hdr.pn);
                return FrameExit::Duplicate;
            }
            Admit::OutOfWindow => return FrameExit::OutOfWindow,
            Admit::Inconsistent => return FrameExit::Inconsistent,
        };
        if first {
            let Some(buf) = self.rx_free.pop() else {
                return FrameExit::NoBuffer;
            };
            let fresh = RxSlot {
                buf,
                repair: None,
                len: (k * len) as u32,
            };
            if let Err(s) = self.rx_writer.begin(slot, fresh) {
                self.rx_free.push(s.buf);
                return FrameExit::OutOfWindow;
            }
        }
        let Some(target) = self.rx_writer.get_mut(slot) else {
            return FrameExit::NoBuffer;
        };
        let (buf, at) = if symbol < k {
            (Some(&mut target.buf), symbol * len)
        } else {
            if target.repair.is_none() {
                target.repair = self.repair_free.pop();
            }
            (target.repair.as_mut(), (symbol - k) * len)
        };
        let range = part.range();
        let place = buf.and_then(|b| b.get_mut(at + range.start..at + range.end));
        let Some(place) = place else {
            // No buffer for repair symbols; the slot itself must not stay begun without a symbol.
            if first && let Some(s) = self.rx_writer.cancel(slot) {
                self.rx_free.push(s.buf);
            }
            return FrameExit::NoBuffer;
        };
        place.copy_from_slice(bytes);
        if first {
            ctx.counters.add(Counter::RxSlotsStarted, 1);
        }
        self.arrived_on = ctx.queue;
        self.rx.on_ecn(ctx.ecn);
        let of = (hdr.symbol, hdr.k);
        let before = self.rx.slot_have(slot).contains(symbol);
        let progress = self.rx.part_stored(ctx.now, slot, of, part, hdr.pn);
        let whole = !before && self.rx.slot_have(slot).contains(symbol);
        match self.on_progress(slot, (k, len), progress, ctx) {
            FrameExit::Stored if !whole => FrameExit::Part,
            exit => exit,
        }
    }

    fn complete(&mut self, slot: u64, ctx: &FrameCtx) {
        if let Some(s) = self.rx_writer.get_mut(slot) {
            self.repair_free.extend(s.repair.take());
        }
        self.rx_writer.publish(slot);
        self.rx_ready += 1;
        ctx.counters.add(Counter::RxSlotsCompleted, 1);
        if self.unannounced == 0 {
            self.complete_since = ctx.now;
        }
        self.unannounced += 1;
        if self.unannounced >= ANNOUNCE_AT {
            self.announce();
        }
    }

    /// As [`announce`](Self::announce), in the midst of a bulk transfer: where the first of the slots
    /// has waited for 200 us.
    #[inline]
    pub fn announce_late(&mut self, now: Nanos) {
        if self.unannounced > 0 && now.saturating_sub(self.complete_since) >= ANNOUNCE_HOLD {
            self.announce();
        }
    }

    /// Wakes the application for slots that were completed since it was last told. The core calls
    /// this when it has caught up with what came in.
    #[inline]
    pub fn announce(&mut self) {
        if self.unannounced > 0 {
            self.unannounced = 0;
            self.shared.rx_ready.notify();
        }
    }

    fn on_control(
        &mut self,
        hdr: &Header,
        head: &[u8; HEADER_LEN],
        sealed: &mut [u8],
        ctx: &mut FrameCtx,
    ) -> FrameExit {
        if !self.replay_control.check(hdr.pn) {
            return FrameExit::Replayed;
        }
        let len = sealed.len().saturating_sub(TAG_LEN);
        // The scratch is borrowed for the message, so `self` and the counters stay free.
        let scratch = &mut *ctx.scratch;
        let Some(out) = scratch.get_mut(..len) else {
            return FrameExit::Malformed;
        };
        if self
            .opener
            .open(ctx.now, hdr.epoch, hdr.pn, head, sealed, out)
            .is_err()
        {
            return FrameExit::AuthFailed;
        }
        self.replay_control.commit(hdr.pn);
        let out = &*out;
        for m in control::Iter::new(out) {
            let Ok(m) = m else {
                return FrameExit::Malformed;
            };
            match m {
                Message::Ecn(counts) => self.path.reported = counts,
                Message::Ack(mut ack) => {
                    let patience = 3 * self.tx.base_pto();
                    if self.path.vet(ctx.now, &mut ack, patience) {
                        ctx.counters.add(Counter::EcnFailures, 1);
                    }
                    let reader = &mut self.tx_reader;
                    let mut done = 0;
                    let r = self.tx.on_ack(ctx.now, &ack, |slot| {
                        reader.release(slot);
                        done += 1;
                    });
                    ctx.counters.add(Counter::AcksReceived, 1);
                    if let Some(rtt) = r.rtt_sample {
                        ctx.hists.record(Hist::Rtt, rtt);
                        self.shared
                            .session
                            .srtt
                            .store(self.tx.rtt().smoothed(), Ordering::Relaxed);
                    }
                    if done > 0 {
                        self.tx_done += done;
                        ctx.counters.add(Counter::TxSlotsAcked, done);
                        self.shared.acked.store(self.tx.base(), Ordering::Release);
                        self.shared.tx_notify(TxWants::ROOM);
                    }
                    if r.rejected.is_some() {
                        self.close(CloseReason::Protocol);
                    }
                }
                Message::Witness { upto, level, chain } => {
                    self.on_witness(upto, level, chain, ctx.counters);
                }
                Message::Ping { id, t } => {
                    self.pongs.push(id, t);
                    self.rx.request_ack(ctx.now);
                }
                Message::Arrival { queue, home } => {
                    let srtt = self.tx.rtt().smoothed();
                    self.steering
                        .on_arrival(ctx.now, srtt, Arrival { queue, home });
                }
                Message::Pong { id, .. } => {
                    if self.path.pmtu.on_pong(ctx.now, id) {
                        self.tx.clear_large();
                        self.follow_path();
                    }
                }
                Message::Padding(_) | Message::Unknown { .. } => {}
                Message::LaneClose { reason, .. } => self.close(CloseReason::from_wire(reason)),
                Message::SessionClose { reason } => {
                    // The control thread closes the other lanes, which may live on other cores.
                    let session = &self.shared.session;
                    session
                        .closed_by_peer
                        .store(u32::from(reason) + 1, Ordering::Release);
                    self.close(CloseReason::from_wire(reason));
                }
            }
        }
        FrameExit::Control
    }

    /// Compares the peer's chain value with ours at the same slot (the coherence proof).
    fn on_witness(&mut self, upto: u64, level: u8, chain: [u8; 32], counters: &CounterSet) {
        if upto <= self.witnessed {
            return;
        }
        let level = Level::from_wire(level);
        match level.map(|level| self.ledger.compare(level, upto, chain)) {
            Some(Coherence::Proven { upto }) => {
                let interval = |n: u64| n / COHERENCE_INTERVAL;
                let proofs = interval(upto) - interval(self.witnessed);
                counters.add(Counter::CoherenceProofsOk, proofs);
                self.witnessed = upto;
                self.shared.witnessed.store(upto, Ordering::Release);
                self.shared.tx_notify(TxWants::WITNESS);
            }
            Some(Coherence::Stale) => {}
            Some(Coherence::Violation { .. }) => {
                counters.add(Counter::CoherenceViolations, 1);
                self.close(CloseReason::Violation);
            }
            Some(Coherence::Impossible) | None => self.close(CloseReason::Protocol),
        }
    }
}
