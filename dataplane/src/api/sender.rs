//! The sending end of a lane.

mod claim;

pub use claim::Claim;

use super::error::{Closed, SendError};
use crate::base::clock::host_monotonic_ns;
use crate::base::limits::{MAX_MESSAGE_LEN, SLOT_PREAMBLE_LEN, WINDOW_SLOTS};
use crate::base::seq::class;
use crate::codec::{Compressor, Policy};
use crate::mem::SlotBuf;
use crate::obs::{Counter, Hist, ThreadStats};
use crate::stage::{LaneEnds, LaneShared, LaneStatus, Preamble, SlotFlags, TxSlot, TxWants};
use crate::verify::{self, Level};
use crate::window::Writer;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Bytes that may wait for their first transmission before the application has to wait. Deeper
/// queues gain nothing (the path is full either way) and cost the cache: slots would be sealed
/// after they have left it. Two slots may wait whatever their size, so that the core never starves.
const BACKLOG_BYTES: usize = 1 << 20;
/// Records up to this many bytes share a slot with others; larger messages get slots of their own.
const RECORD_MAX: usize = 16 << 10;

/// Sends slots and messages on one lane, in order. One thread at a time.
///
/// Dropping it without [`LaneSender::finish`] leaves the lane open until the session ends.
pub struct LaneSender {
    writer: Writer<TxSlot, WINDOW_SLOTS>,
    /// Slot that is filled next.
    next: u64,
    /// Slots below this have given their buffer back.
    reclaimed: u64,
    /// Free buffers; the last one returned is used first, while it is warm.
    free: Vec<SlotBuf>,
    scratch: SlotBuf,
    window: u64,
    /// Content bytes of a slot of the session's longest symbols.
    largest: usize,
    level: Level,
    compressor: Compressor,
    /// Bytes of records in slot `next`, which is open in the window; 0 when there is none.
    open: usize,
    /// Slots that the core has begun to send, as far as seen here.
    begun: u64,
    /// Bytes of the slots from `begun` on, in all and by class.
    backlog: usize,
    sizes: [u32; WINDOW_SLOTS],
    shared: Arc<LaneShared>,
    status: Arc<Mutex<LaneStatus>>,
    stats: Arc<ThreadStats>,
}

impl LaneSender {
    pub(super) fn new(
        writer: Writer<TxSlot, WINDOW_SLOTS>,
        bufs: Vec<SlotBuf>,
        scratch: SlotBuf,
        ends: &Parts,
        policy: Policy,
        stats: Arc<ThreadStats>,
    ) -> LaneSender {
        LaneSender {
            writer,
            next: 0,
            reclaimed: 0,
            free: bufs,
            scratch,
            window: ends.window as u64,
            largest: crate::stage::Lane::capacity(ends.symbol_len),
            level: ends.level,
            compressor: Compressor::new(policy),
            open: 0,
            begun: 0,
            backlog: 0,
            sizes: [0; WINDOW_SLOTS],
            shared: ends.shared.clone(),
            status: ends.status.clone(),
            stats,
        }
    }

    /// Content bytes that one slot holds now, and so the most that the next [`Claim`] takes: 64
    /// symbols of the length that the path carries. It changes when the path MTU is found to be less
    /// than configured or changes, so a `Claim`'s own length is what counts.
    pub fn slot_capacity(&self) -> usize {
        let symbol = self.shared.symbol_len.load(Ordering::Relaxed) as usize;
        match symbol {
            0 => self.largest,
            n => crate::stage::Lane::capacity(n).min(self.largest),
        }
    }

    /// Lane number in its session.
    pub fn lane(&self) -> u8 {
        self.shared.lane
    }

    /// Changes the lane's weight, 1 (the default) to 1,000; other values count as the nearest. Lanes of
    /// a session that have more to send than they may share rate and window by weight, and lanes on
    /// one core its time. It takes effect within a tenth of a second.
    pub fn set_weight(&mut self, weight: u32) {
        let w = weight.clamp(1, crate::proto::path::MAX_WEIGHT);
        self.shared.weight.store(w, Ordering::Relaxed);
    }

    /// The lane's weight.
    pub fn weight(&self) -> u32 {
        self.shared.weight.load(Ordering::Relaxed)
    }

    /// Changes the compression of the slots that follow.
    pub fn set_compression(&mut self, policy: Policy) {
        self.compressor = Compressor::new(policy);
    }

    /// Slots handed over so far.
    pub fn slots_sent(&self) -> u64 {
        self.next
    }

    /// Slots that the peer's application has verified and taken, by its witness.
    pub fn slots_witnessed(&self) -> u64 {
        self.shared.witnessed.load(Ordering::Acquire)
    }

    /// Slots that are complete at the peer.
    pub fn slots_acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Acquire)
    }

    /// The core's latest figures of this lane.
    pub fn status(&self) -> LaneStatus {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn room(&mut self) -> Result<(), SendError> {
        if let Some(r) = self.shared.closed() {
            return Err(Closed(r).into());
        }
        while self.reclaimed < self.next {
            match self.writer.reclaim(self.reclaimed) {
                Some(slot) => {
                    self.free.push(slot.buf);
                    self.reclaimed += 1;
                }
                None => break,
            }
        }
        if self.next - self.reclaimed >= self.window || self.free.is_empty() {
            return Err(SendError::WouldBlock);
        }
        Ok(())
    }

    /// As `room`, and few enough bytes wait for the wire.
    fn room_and_rest(&mut self) -> Result<(), SendError> {
        self.room()?;
        self.rest()
    }

    /// As `room_and_rest`, to be waited for: tells the core what is missing, if anything is.
    fn room_or_want(&mut self) -> Result<(), SendError> {
        loop {
            let wants = match self.room() {
                Err(SendError::WouldBlock) => TxWants::ROOM,
                Err(e) => return Err(e),
                Ok(()) => match self.rest() {
                    Err(SendError::WouldBlock) => TxWants::QUEUE,
                    done => return done,
                },
            };
            if !self.shared.tx_want(wants) {
                return Err(SendError::WouldBlock);
            }
        }
    }

    /// Whether few enough bytes wait for the wire.
    fn rest(&mut self) -> Result<(), SendError> {
        let begun = self.shared.begun.load(Ordering::Acquire).min(self.next);
        while self.begun < begun {
            self.backlog -= self.sizes[class(self.begun, WINDOW_SLOTS)] as usize;
            self.begun += 1;
        }
        if self.backlog >= BACKLOG_BYTES && self.next - self.begun >= 2 {
            return Err(SendError::WouldBlock);
        }
        Ok(())
    }

    /// Notes a slot that was handed over.
    fn queued(&mut self, bytes: usize) {
        self.sizes[class(self.next, WINDOW_SLOTS)] = bytes as u32;
        self.backlog += bytes;
        self.next += 1;
    }

    /// A slot of the arena to write into, or `WouldBlock` when the window is full or enough waits
    /// for the wire already.
    pub fn try_claim(&mut self) -> Result<Claim<'_>, SendError> {
        self.close_open();
        self.room_and_rest()?;
        self.claim_any()
    }

    /// A slot of the arena while the window has one.
    fn claim_any(&mut self) -> Result<Claim<'_>, SendError> {
        self.room()?;
        match self.free.pop() {
            Some(buf) => Ok(Claim {
                buf: Some(buf),
                flags: 0,
                room: self.slot_capacity(),
                lane: self,
            }),
            None => Err(SendError::WouldBlock),
        }
    }

    /// As [`LaneSender::try_claim`], waiting for room at most `timeout`.
    pub fn claim(&mut self, timeout: Duration) -> Result<Claim<'_>, SendError> {
        self.close_open();
        self.wait_room(Instant::now().checked_add(timeout))?;
        self.try_claim()
    }

    /// Waits until a claim would succeed or the lane has ended.
    fn wait_room(&mut self, deadline: Option<Instant>) -> Result<(), SendError> {
        let shared = self.shared.clone();
        let mut result = Err(SendError::TimedOut);
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        shared.tx_ready.wait(left, || match self.room_or_want() {
            Err(SendError::WouldBlock) => false,
            done => {
                result = done;
                true
            }
        });
        result
    }

    /// For async callers: ready when [`LaneSender::try_claim`] or [`LaneSender::try_send`] of one
    /// slot would not block; otherwise the waker of `cx` is called when it is worth another try.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let shared = self.shared.clone();
        let mut result = Err(SendError::WouldBlock);
        match shared.tx_ready.poll(cx, || {
            result = self.room_or_want();
            result != Err(SendError::WouldBlock)
        }) {
            Poll::Ready(()) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends one message of at most 16 MiB, waiting for room as long as it takes.
    ///
    /// Small messages share slots: they leave when the core has nothing older to send, when 20 us
    /// have passed, or when the slot is full. Nothing has to be flushed.
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.check_len(message)?;
        if message.len() <= self.record_max() {
            if self.append(message) {
                return Ok(());
            }
            self.wait_room(None)?;
            return self.start_record(message);
        }
        self.close_open();
        let mut rest = message;
        loop {
            self.wait_room(None)?;
            rest = self.send_part(rest)?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// As [`LaneSender::send`], but gives `WouldBlock`, with nothing sent, where that would wait.
    /// A message that needs more slots than the window has can only be sent by `send`.
    pub fn try_send(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.check_len(message)?;
        if message.len() <= self.record_max() {
            if self.append(message) {
                return Ok(());
            }
            self.room()?;
            return self.start_record(message);
        }
        self.close_open();
        self.room()?;
        let slots = message.len().div_ceil(self.slot_capacity()) as u64;
        if self.next - self.reclaimed + slots > self.window {
            return Err(SendError::WouldBlock);
        }
        let mut rest = message;
        while !rest.is_empty() {
            rest = self.send_part(rest)?;
        }
        Ok(())
    }

    /// Sends what is gathered in an open slot now instead of within 20 us.
    pub fn flush(&mut self) {
        self.close_open();
    }

    /// Says that nothing follows on this lane, and waits until the peer's application has verified
    /// and taken everything (its witness covers every slot), at most `timeout`.
    pub fn finish(mut self, timeout: Duration) -> Result<(), SendError> {
        let deadline = Instant::now() + timeout;
        self.close_open();
        self.wait_room(Some(deadline))?;
        let mut c = self.claim_any()?;
        c.flags = SlotFlags::FIN;
        c.commit(0);
        self.drain(deadline)
    }

    /// Waits until the peer's application has verified and taken every slot sent so far.
    pub fn wait_witnessed(&mut self, timeout: Duration) -> Result<(), SendError> {
        self.close_open();
        self.drain(Instant::now() + timeout)
    }

    fn drain(&self, deadline: Instant) -> Result<(), SendError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let done = || self.slots_witnessed() >= self.next;
        self.shared.tx_want(TxWants::ANY);
        self.shared
            .tx_ready
            .wait(Some(left), || done() || self.shared.closed().is_some());
        match self.shared.closed() {
            _ if done() => Ok(()),
            Some(r) => Err(Closed(r).into()),
            None => Err(SendError::TimedOut),
        }
    }

    /// Longest message that shares a slot with others.
    fn record_max(&self) -> usize {
        RECORD_MAX.min(self.slot_capacity() - 4)
    }

    fn check_len(&self, message: &[u8]) -> Result<(), SendError> {
        if message.len() > MAX_MESSAGE_LEN {
            return Err(SendError::TooLarge(message.len()));
        }
        match self.shared.closed() {
            Some(r) => Err(Closed(r).into()),
            None => Ok(()),
        }
    }

    /// Sends the first slot's worth of `rest` and returns what is left of it.
    fn send_part<'m>(&mut self, rest: &'m [u8]) -> Result<&'m [u8], SendError> {
        let mut c = self.claim_any()?;
        let (now, later) = rest.split_at(rest.len().min(c.len()));
        c.flags = if later.is_empty() { 0 } else { SlotFlags::MORE };
        c.fill(now);
        Ok(later)
    }

    /// Adds a record to the open slot, if there is one with room that the core has not taken.
    fn append(&mut self, message: &[u8]) -> bool {
        if self.open == 0 || self.open + 4 + message.len() > self.slot_capacity() {
            return false;
        }
        let seq = self.next;
        if !self.writer.reopen(seq) {
            // The core has it: it is on its way.
            self.queued(self.open);
            self.open = 0;
            return false;
        }
        let at = SLOT_PREAMBLE_LEN + self.open;
        if let Some(slot) = self.writer.get_mut(seq) {
            slot.buf[at..at + 4].copy_from_slice(&(message.len() as u32).to_le_bytes());
            slot.buf[at + 4..at + 4 + message.len()].copy_from_slice(message);
            self.open += 4 + message.len();
            slot.raw_len = self.open as u32;
            slot.enc_len = self.open as u32;
        }
        self.writer.open(seq);
        self.stats
            .counters
            .add(Counter::PayloadBytesIn, message.len() as u64);
        self.shared.core.wake();
        true
    }

    fn start_record(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.close_open();
        self.room()?;
        let Some(mut buf) = self.free.pop() else {
            return Err(SendError::WouldBlock);
        };
        let at = SLOT_PREAMBLE_LEN;
        buf[at..at + 4].copy_from_slice(&(message.len() as u32).to_le_bytes());
        buf[at + 4..at + 4 + message.len()].copy_from_slice(message);
        let len = (4 + message.len()) as u32;
        let slot = TxSlot {
            buf,
            raw_len: len,
            enc_len: len,
            flags: SlotFlags(SlotFlags::RECORDS),
            closed: false,
            committed_at: host_monotonic_ns(),
        };
        if let Err(slot) = self.writer.begin(self.next, slot) {
            self.free.push(slot.buf);
            return Err(SendError::WouldBlock);
        }
        self.writer.open(self.next);
        self.open = len as usize;
        self.stats
            .counters
            .add(Counter::PayloadBytesIn, message.len() as u64);
        self.shared.core.wake();
        Ok(())
    }

    /// Hands the open slot over, if there is one.
    fn close_open(&mut self) {
        if self.open == 0 {
            return;
        }
        // Where the core was faster, it has the slot already.
        if self.writer.reopen(self.next) {
            self.writer.publish(self.next);
            self.shared.core.wake();
        }
        self.queued(self.open);
        self.open = 0;
    }

    /// Hands over a slot whose content is the first `len` bytes of `buf`, or a copy of `copied`.
    fn commit(&mut self, mut buf: SlotBuf, len: usize, copied: Option<&[u8]>, flags: u8) {
        let content = &mut buf[SLOT_PREAMBLE_LEN..SLOT_PREAMBLE_LEN + len];
        let start = host_monotonic_ns();
        let digest = match copied {
            Some(src) => verify::digest_copy(self.level, content, src),
            None => verify::digest(self.level, content),
        };
        let digested = host_monotonic_ns();
        let room = &mut self.scratch[SLOT_PREAMBLE_LEN..SLOT_PREAMBLE_LEN + self.largest];
        let (codec, enc_len) = match self.compressor.compress(&*content, room) {
            Some((codec, n)) => {
                std::mem::swap(&mut buf, &mut self.scratch);
                (codec as u8, n)
            }
            None => (0, len),
        };
        self.stats.counters.add(Counter::PayloadBytesIn, len as u64);
        self.stats
            .counters
            .add(Counter::BytesBeforeCodec, len as u64);
        self.stats
            .counters
            .add(Counter::BytesAfterCodec, enc_len as u64);
        let committed_at = host_monotonic_ns();
        self.stats.hists.record(Hist::StageDigest, digested - start);
        if self.compressor.policy() != Policy::None {
            self.stats
                .hists
                .record(Hist::StageCompress, committed_at - digested);
        }
        let p = Preamble {
            raw_len: len as u32,
            enc_len: enc_len as u32,
            codec,
            flags: SlotFlags(flags),
            level: self.level as u8,
            digest,
            committed_at,
        };
        if let Some(head) = buf.first_chunk_mut() {
            p.encode(head);
        }
        let slot = TxSlot {
            buf,
            raw_len: p.raw_len,
            enc_len: p.enc_len,
            flags: p.flags,
            closed: true,
            committed_at,
        };
        match self.writer.begin(self.next, slot) {
            Ok(()) => {
                self.writer.publish(self.next);
                self.queued(enc_len);
                self.shared.core.wake();
            }
            // `room` has seen this class free and only this thread fills it, so this is out of
            // reach; keeping the buffer loses nothing but the message.
            Err(slot) => self.free.push(slot.buf),
        }
    }
}

impl Drop for LaneSender {
    fn drop(&mut self) {
        self.close_open();
    }
}

/// What both ends need of [`LaneEnds`].
pub(super) struct Parts {
    pub(super) window: usize,
    pub(super) symbol_len: usize,
    pub(super) level: Level,
    pub(super) shared: Arc<LaneShared>,
    pub(super) status: Arc<Mutex<LaneStatus>>,
}

impl Parts {
    pub(super) fn of(e: &LaneEnds) -> Parts {
        Parts {
            window: e.window,
            symbol_len: e.symbol_len,
            level: e.level,
            shared: e.shared.clone(),
            status: e.status.clone(),
        }
    }
}
