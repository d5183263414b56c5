//! Send: slots from the window into sealed frames (several at once: `tx_group`), acknowledgements, timers.

use super::lane::Lane;
use super::preamble::Preamble;
use super::shared::{CloseReason, TxWants};
use crate::backend::{Backend, TxFrame};
use crate::base::clock::host_monotonic_ns;
use crate::base::limits::{
    FRAME_OVERHEAD, HEADER_LEN, MAX_DATA_SYMBOLS, MAX_SYMBOL_LEN, PART_HEAD_LEN, SLOT_PREAMBLE_LEN,
    align_symbol, cut_slot,
};
use crate::base::{Nanos, seq};
use crate::fec::Fec;
use crate::obs::{Counter, CounterSet, Hist, HistSet};
use crate::proto::ecn::ECT0;
use crate::proto::{SymbolKind, TxSymbol};
use crate::verify;
use crate::window::SlotState;
use crate::wire::control::EcnCounts;
use crate::wire::{CONTROL_PN_BIT, FrameKind, Header};
use crate::wire::{Message, PartHead};
use std::sync::atomic::Ordering;

/// The application is woken when this few slots wait for their first transmission.
const REFILL_AT: u64 = 2;
/// A witness is sent at least every so many slots.
const WITNESS_EVERY: u64 = 16;
/// How long the last witness may be missing before the peer is asked for it, nanoseconds.
const WITNESS_WAIT: Nanos = 50_000_000;
/// Room for an acknowledgement, a witness, and pings and pongs.
const CONTROL_ROOM: usize = 512;

/// What the stages of a core share while they send one batch.
pub struct SendCtx<'a, B: Backend> {
    /// The node's clock at the start of the batch, nanoseconds.
    pub now: Nanos,
    /// Where frames go.
    pub backend: &'a mut B,
    /// Counters of this core.
    pub counters: &'a CounterSet,
    /// Histograms of this core.
    pub hists: &'a HistSet,
    /// Erasure code.
    pub fec: &'a Fec,
    /// Room for one repair symbol.
    pub scratch: &'a mut [u8; MAX_SYMBOL_LEN],
    /// Frames that the lane may still send in this batch.
    pub budget: usize,
    /// Bytes of data frames that it may still send: one begins while it is above zero.
    pub deficit: i64,
}

impl Lane {
    /// One round of sending; returns whether anything was done.
    pub fn pump<B: Backend>(&mut self, ctx: &mut SendCtx<B>) -> bool {
        if let Some(reason) = self.shared.closed() {
            return self.tell_closed(reason, ctx);
        }
        self.tx
            .path()
            .set_weight(self.shared.weight.load(Ordering::Relaxed));
        let released = self.collect_released();
        if released > 0 {
            self.rx.released(ctx.now, self.rx_released);
        }
        let taken = self.take_slots(ctx);
        self.tx.on_timeout(ctx.now);
        let probed = self.pump_path(ctx);
        let sent = self.send_symbols(ctx);
        let told = self.send_control(ctx);
        self.note_waiting(ctx.now);
        released > 0 || taken || probed || sent || told
    }

    /// When the lane wants the core's attention next without any input; `None` for never.
    pub fn next_timeout(&self, now: Nanos) -> Option<Nanos> {
        if self.shared.closed().is_some() {
            return Some(now + 50_000_000);
        }
        let linger = match self.tx_reader.state(self.tx_next) {
            Some(SlotState::Open) => Some(now + self.linger),
            _ => None,
        };
        [
            linger,
            self.ping_due_at(),
            self.path_timeout(),
            self.tx.next_timeout(now),
            self.rx.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Asks the peer for a sign of life with the next control frame.
    pub fn ping(&mut self) {
        self.ping_wanted = true;
    }

    /// Everything is acknowledged but the witness for the last slots is missing: it may be lost.
    fn ping_due_at(&self) -> Option<Nanos> {
        (self.witnessed < self.tx_next && self.tx_pending() == 0)
            .then(|| self.ping_at.max(self.last_rx) + WITNESS_WAIT)
    }

    fn ping_due(&self, now: Nanos) -> bool {
        self.ping_wanted || self.ping_due_at().is_some_and(|t| now >= t)
    }

    /// Lets the application go on filling when few slots are left that wait for the wire.
    fn note_begun(&self, slot: u64) {
        self.shared.begun.store(slot + 1, Ordering::Release);
        if self.tx_next - (slot + 1) <= REFILL_AT {
            self.shared.tx_notify(TxWants::QUEUE);
        }
    }

    fn note_waiting(&self, now: Nanos) {
        let since = &self.shared.waiting_since;
        let waits = self.tx_pending() > 0;
        let was = since.load(Ordering::Relaxed);
        if !waits {
            if was != 0 {
                since.store(0, Ordering::Relaxed);
            }
        } else if was == 0 || was < self.last_rx {
            since.store(now.max(1), Ordering::Relaxed);
        }
    }

    fn take_slots<B: Backend>(&mut self, ctx: &mut SendCtx<B>) -> bool {
        let mut any = false;
        while self.tx.can_push() {
            let seq = self.tx_next;
            let open = match self.tx_reader.state(seq) {
                Some(SlotState::Ready) => false,
                Some(SlotState::Open) => true,
                _ => break,
            };
            if open {
                // Let records gather while earlier slots keep the wire busy, but not for long.
                if self.open_seen.0 != seq {
                    self.open_seen = (seq, ctx.now);
                }
                if self.tx.pending() > 0 && ctx.now - self.open_seen.1 < self.linger {
                    break;
                }
                if !self.tx_reader.take_open(seq) {
                    break;
                }
            } else if !self.tx_reader.take(seq) {
                break;
            }
            let level = self.level;
            let room = usize::from(self.path.pmtu.current());
            let Some(slot) = self.tx_reader.get_mut(seq) else {
                break;
            };
            let total = SLOT_PREAMBLE_LEN + slot.enc_len as usize;
            // A slot made for a longer symbol than the path carries now is cut as for that one, and its
            // symbols go in parts.
            let least = align_symbol(total.div_ceil(MAX_DATA_SYMBOLS));
            let (k, len) = cut_slot(total, room.max(least));
            if !slot.closed {
                let digest = verify::digest(level, &slot.buf[SLOT_PREAMBLE_LEN..total]);
                let p = Preamble {
                    raw_len: slot.raw_len,
                    enc_len: slot.enc_len,
                    codec: 0,
                    flags: slot.flags,
                    level: level as u8,
                    digest,
                    committed_at: slot.committed_at,
                };
                if let Some(head) = slot.buf.first_chunk_mut() {
                    p.encode(head);
                }
                slot.closed = true;
            }
            // What follows the content inside the last symbols goes on the wire: no old bytes there.
            slot.buf[total..k * len].fill(0);
            let mut digest = [0; 32];
            digest.copy_from_slice(&slot.buf[16..48]);
            self.ledger.push(seq, &verify::Digest(digest));
            self.tx.push_slot(seq, k as u8, len as u16);
            self.tx_next += 1;
            ctx.counters.add(Counter::TxSlotsCommitted, 1);
            any = true;
        }
        any
    }

    fn send_symbols<B: Backend>(&mut self, ctx: &mut SendCtx<B>) -> bool {
        let mut any = false;
        while ctx.budget > 0 && ctx.deficit > 0 {
            let Some(sym) = self.deferred.take().or_else(|| self.tx.poll_send(ctx.now)) else {
                break;
            };
            let most = self.may_group(&sym, ctx.budget);
            let sent = if sym.parts > 1 {
                self.send_parts(&sym, ctx)
            } else if most > 1 {
                self.send_group(&sym, most, ctx)
            } else {
                self.send_symbol(&sym, None, ctx).map(usize::from)
            };
            match sent {
                Ok(0) => {
                    // No frame is free: this very symbol goes first next time.
                    self.deferred = Some(sym);
                    break;
                }
                Ok(frames) => {
                    any = true;
                    ctx.budget = ctx.budget.saturating_sub(frames);
                    let frame = usize::from(sym.symbol_len) + FRAME_OVERHEAD;
                    // The parts of a symbol are together a little longer than it is.
                    let symbols = frames / usize::from(sym.parts);
                    ctx.deficit -= (symbols * frame) as i64;
                    if sym.index == 0 && sym.kind == SymbolKind::First {
                        self.note_begun(sym.slot);
                    }
                }
                Err(reason) => {
                    self.close(reason);
                    break;
                }
            }
        }
        any
    }

    /// Room for a symbol of `len` bytes.
    #[inline]
    pub(super) fn claim_symbol<B: Backend>(
        &self,
        len: usize,
        ctx: &mut SendCtx<B>,
    ) -> Option<TxFrame> {
        let with = (self.steering.flow(), self.path.ecn.mark());
        ctx.backend
            .claim_marked(&self.dest, with, len + FRAME_OVERHEAD)
    }

    /// The header of a symbol's frame; the sealer fills in the epoch.
    #[inline]
    pub(super) fn symbol_header(&self, sym: &TxSymbol) -> Header {
        Header {
            kind: FrameKind::Symbol,
            epoch: 0,
            lane: self.lane,
            symbol: sym.index,
            session: self.remote_index,
            pn: sym.pn,
            slot: sym.slot as u32,
            k: sym.k,
            class: seq::class(sym.slot, 96) as u8,
            len: sym.symbol_len,
            part: false,
        }
    }

    /// Seals one symbol into a frame, `claimed` if it has one already; `Ok(false)` when the backend
    /// has none free.
    pub(super) fn send_symbol<B: Backend>(
        &mut self,
        sym: &TxSymbol,
        claimed: Option<TxFrame>,
        ctx: &mut SendCtx<B>,
    ) -> Result<bool, CloseReason> {
        let len = usize::from(sym.symbol_len);
        let k = usize::from(sym.k);
        let Some(slot) = self.tx_reader.get(sym.slot) else {
            // Acknowledged while it waited for a frame: nothing to send any more.
            if let Some(frame) = claimed {
                ctx.backend.cancel(frame);
            }
            return Ok(true);
        };
        let Some(mut frame) = claimed.or_else(|| self.claim_symbol(len, ctx)) else {
            return Ok(false);
        };
        let index = usize::from(sym.index);
        let plain = if index < k {
            &slot.buf[index * len..(index + 1) * len]
        } else {
            let out = &mut ctx.scratch[..len];
            let start = host_monotonic_ns();
            ctx.fec
                .encode_one(k, len, &slot.buf[..k * len], index - k, out);
            ctx.hists
                .record(Hist::StageRepair, host_monotonic_ns() - start);
            &*out
        };
        // As it was claimed with: nothing has left since.
        let mark = self.path.ecn.mark();
        let hdr = self.symbol_header(sym);
        let sealed = seal_frame(&mut self.sealer, &hdr, plain, &mut frame, ctx.now);
        ctx.backend.commit(frame);
        self.path.ecn.on_sent(ctx.now, sym.pn, mark);
        ctx.counters.add(Counter::TxFrames, 1);
        ctx.counters
            .add(Counter::TxBytes, (len + FRAME_OVERHEAD) as u64);
        ctx.counters.add(Counter::TxFramesEct, u64::from(mark != 0));
        ctx.counters.add(kind_counter(sym.kind), 1);
        sealed.map(|()| true)
    }

    /// As `send_symbol`, for one that is longer than a frame may be now; says how many frames that were. 0 leaves `parts_sent`
    /// at the part that goes next.
    #[cold]
    fn send_parts<B: Backend>(
        &mut self,
        sym: &TxSymbol,
        ctx: &mut SendCtx<B>,
    ) -> Result<usize, CloseReason> {
        let (len, k) = (usize::from(sym.symbol_len), usize::from(sym.k));
        let index = usize::from(sym.index);
        while self.parts_sent < sym.parts {
            let Some(slot) = self.tx_reader.get(sym.slot) else {
                break;
            };
            let head = PartHead {
                symbol_len: sym.symbol_len,
                part: self.parts_sent,
                parts: sym.parts,
            };
            let range = head.range();
            let body = PART_HEAD_LEN + range.len();
            let (flow, mark) = (self.steering.flow(), self.path.ecn.mark());
            let claimed = ctx
                .backend
                .claim_marked(&self.dest, (flow, mark), body + FRAME_OVERHEAD);
            let Some(mut frame) = claimed else {
                return Ok(0);
            };
            let mut plain = [0u8; MAX_SYMBOL_LEN];
            let (top, rest) = plain.split_at_mut(PART_HEAD_LEN);
            if let Some(top) = top.first_chunk_mut() {
                head.encode(top);
            }
            let part = &mut rest[..range.len()];
            if index < k {
                let at = index * len;
                part.copy_from_slice(&slot.buf[at + range.start..at + range.end]);
            } else {
                let out = &mut ctx.scratch[..len];
                ctx.fec
                    .encode_one(k, len, &slot.buf[..k * len], index - k, out);
                part.copy_from_slice(&out[range]);
            }
            let pn = sym.pn + u64::from(self.parts_sent);
            let hdr = Header {
                kind: FrameKind::Symbol,
                epoch: 0,
                lane: self.lane,
                symbol: sym.index,
                session: self.remote_index,
                pn,
                slot: sym.slot as u32,
                k: sym.k,
                class: seq::class(sym.slot, 96) as u8,
                len: body as u16,
                part: true,
            };
            let sealed = seal_frame(&mut self.sealer, &hdr, &plain[..body], &mut frame, ctx.now);
            ctx.backend.commit(frame);
            self.path.ecn.on_sent(ctx.now, pn, mark);
            ctx.counters.add(Counter::TxFrames, 1);
            ctx.counters
                .add(Counter::TxBytes, (body + FRAME_OVERHEAD) as u64);
            ctx.counters.add(Counter::TxFramesEct, u64::from(mark != 0));
            let counter = match self.parts_sent {
                0 => kind_counter(sym.kind),
                _ => Counter::TxSymbolParts,
            };
            ctx.counters.add(counter, 1);
            self.parts_sent += 1;
            if sealed.is_err() {
                self.parts_sent = 0;
            }
            sealed?;
        }
        self.parts_sent = 0;
        Ok(usize::from(sym.parts))
    }

    fn send_control<B: Backend>(&mut self, ctx: &mut SendCtx<B>) -> bool {
        // A witness goes out when the application has caught up with what came in, and on the way
        // there often enough that the sender's record of chain values covers it.
        let upto = self.shared.delivered.upto();
        let witness_due = upto > self.witness_sent
            && (upto >= self.witness_sent + WITNESS_EVERY || upto == self.rx_ready);
        let ack_due = self.rx.ack_due(ctx.now) || witness_due || !self.pongs.is_empty();
        let ping = self.ping_due(ctx.now) | self.tx.take_ping_owed();
        if !ack_due && !ping {
            return false;
        }
        let mut body = [0u8; CONTROL_ROOM];
        let mut n = 0;
        if ack_due {
            let ack = self
                .rx
                .build_ack(ctx.now, self.rx_released, self.inflight_limit);
            let ecn = self.rx.ecn();
            if ecn != EcnCounts::default() {
                n += Message::Ecn(ecn).encode_into(&mut body[n..]).unwrap_or(0);
            }
            n += Message::Ack(ack).encode_into(&mut body[n..]).unwrap_or(0);
            if let Some((upto, chain)) = self.shared.delivered.read()
                && upto > 0
            {
                self.witness_sent = upto;
                let w = Message::Witness {
                    upto,
                    level: self.level as u8,
                    chain,
                };
                n += w.encode_into(&mut body[n..]).unwrap_or(0);
            }
            if let (Some(queue), Some(home)) = (self.arrived_on, ctx.backend.queue()) {
                // A core may read several queues: each of them is home.
                let home = match ctx.backend.serves(queue) {
                    true => queue,
                    false => home,
                };
                let arrival = Message::Arrival { queue, home };
                n += arrival.encode_into(&mut body[n..]).unwrap_or(0);
            }
            ctx.counters.add(Counter::AcksSent, 1);
        }
        if ping {
            self.ping_at = ctx.now;
            self.ping_wanted = false;
            let m = Message::Ping {
                id: self.control_pn,
                t: ctx.now,
            };
            n += m.encode_into(&mut body[n..]).unwrap_or(0);
            ctx.counters.add(Counter::Keepalives, 1);
        }
        while let Some((id, t)) = self.pongs.pop() {
            n += Message::Pong { id, t }
                .encode_into(&mut body[n..])
                .unwrap_or(0);
        }
        self.send_control_frame(&body[..n], ctx)
    }

    fn tell_closed<B: Backend>(&mut self, reason: CloseReason, ctx: &mut SendCtx<B>) -> bool {
        // Three times, 100 ms apart: a lost notice costs the peer no more than its idle time.
        if self.close_sent >= 3 || (self.close_sent > 0 && ctx.now - self.close_at < 100_000_000) {
            return false;
        }
        if self.close_sent == 0 {
            let (pending, _) = self.rx_pending();
            ctx.counters.add(Counter::RxSlotsAbandoned, pending);
            ctx.counters
                .add(Counter::TxSlotsAbandoned, self.tx_pending());
            self.tx_done = self.tx_next;
        }
        self.close_at = ctx.now;
        self.close_sent += 1;
        let mut body = [0u8; CONTROL_ROOM];
        let m = Message::LaneClose {
            reason: reason as u16,
            final_slot: self.tx_next,
        };
        let n = m.encode_into(&mut body).unwrap_or(0);
        self.send_control_frame(&body[..n], ctx)
    }

    pub(super) fn send_control_frame<B: Backend>(
        &mut self,
        body: &[u8],
        ctx: &mut SendCtx<B>,
    ) -> bool {
        if body.is_empty() {
            return false;
        }
        // Marked like data frames, so that both leave in one piece.
        let mark = if self.path.ecn.believes() { ECT0 } else { 0 };
        let claimed = ctx
            .backend
            .claim_marked(&self.dest, (0, mark), body.len() + FRAME_OVERHEAD);
        let Some(mut frame) = claimed else {
            return false;
        };
        let hdr = Header {
            kind: FrameKind::Control,
            epoch: 0,
            lane: self.lane,
            symbol: 0,
            session: self.remote_index,
            pn: self.control_pn | CONTROL_PN_BIT,
            slot: 0,
            k: 0,
            class: 0,
            len: body.len() as u16,
            part: false,
        };
        self.control_pn += 1;
        if let Err(reason) = seal_frame(&mut self.sealer, &hdr, body, &mut frame, ctx.now) {
            self.close(reason);
        }
        ctx.backend.commit(frame);
        ctx.counters.add(Counter::TxFrames, 1);
        ctx.counters
            .add(Counter::TxBytes, (body.len() + FRAME_OVERHEAD) as u64);
        ctx.counters.add(Counter::TxControl, 1);
        true
    }
}

fn kind_counter(kind: SymbolKind) -> Counter {
    match kind {
        SymbolKind::First => Counter::TxSymbolsFirst,
        SymbolKind::Repair => Counter::TxSymbolsRepair,
        SymbolKind::Resent => Counter::TxSymbolsResent,
    }
}

/// Header, then the sealed payload and tag, into a frame of exactly the right length.
fn seal_frame(
    sealer: &mut crate::crypto::lane::LaneSealer,
    hdr: &Header,
    plain: &[u8],
    frame: &mut [u8],
    now: Nanos,
) -> Result<(), CloseReason> {
    let Some((head, out)) = frame.split_first_chunk_mut::<HEADER_LEN>() else {
        return Err(CloseReason::Protocol);
    };
    hdr.encode(head);
    if sealer.seal(now, hdr.pn, head, plain, out).is_err() {
        // The frame is already claimed and will go out: as zeros, which no receiver accepts.
        frame.fill(0);
        return Err(CloseReason::KeyLimit);
    }
    Ok(())
}
