//! The receiving end of a lane.

use super::error::{Closed, RecvError};
use super::message::Assembler;
use crate::base::clock::host_monotonic_ns;
use crate::base::limits::{SLOT_PREAMBLE_LEN, WINDOW_SLOTS};
use crate::codec::{CodecId, Decompressor};
use crate::mem::SlotBuf;
use crate::obs::{Counter, Hist, ThreadStats};
use crate::stage::{CloseReason, Lane, LaneShared, Preamble, RxSlot, SlotFlags};
use crate::verify::{self, Chain, Level};
use crate::window::{Reader, SlotState};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Longest one-way time that is believed when two clocks may differ, nanoseconds.
const ONE_WAY_MAX: u64 = 10_000_000_000;

/// Receives slots and messages of one lane, in order, each verified before it is seen.
pub struct LaneReceiver {
    reader: Reader<RxSlot, WINDOW_SLOTS>,
    next: u64,
    scratch: SlotBuf,
    capacity: usize,
    level: Level,
    chain: Chain,
    decompressor: Decompressor,
    assembler: Assembler,
    finished: bool,
    same_host: bool,
    shared: Arc<LaneShared>,
    stats: Arc<ThreadStats>,
}

/// Where the content of the slot at hand is.
#[derive(Clone, Copy)]
struct Content {
    len: usize,
    flags: SlotFlags,
    in_scratch: bool,
}

impl LaneReceiver {
    pub(super) fn new(
        reader: Reader<RxSlot, WINDOW_SLOTS>,
        scratch: SlotBuf,
        ends: &super::sender::Parts,
        same_host: bool,
        stats: Arc<ThreadStats>,
    ) -> LaneReceiver {
        LaneReceiver {
            reader,
            next: 0,
            scratch,
            capacity: Lane::capacity(ends.symbol_len),
            level: ends.level,
            chain: Chain::new(ends.level),
            decompressor: Decompressor::new(),
            assembler: Assembler::default(),
            finished: false,
            same_host,
            shared: ends.shared.clone(),
            stats,
        }
    }

    /// Lane number in its session.
    pub fn lane(&self) -> u8 {
        self.shared.lane
    }

    /// Slots verified and taken so far.
    pub fn slots_taken(&self) -> u64 {
        self.next
    }

    /// The next slot, if it has arrived; it goes back to the window when the view is dropped.
    pub fn try_slot(&mut self) -> Result<SlotView<'_>, RecvError> {
        let content = self.open_next()?;
        Ok(SlotView {
            content,
            lane: self,
        })
    }

    /// As [`LaneReceiver::try_slot`], waiting at most `timeout`.
    pub fn slot(&mut self, timeout: Duration) -> Result<SlotView<'_>, RecvError> {
        let content = self.wait_next(Instant::now().checked_add(timeout))?;
        Ok(SlotView {
            content,
            lane: self,
        })
    }

    /// Waits for the next message and puts it into `out` (replacing what was there).
    ///
    /// A message larger than 16 MiB is a violation of the protocol by the peer and closes the lane.
    pub fn recv(&mut self, out: &mut Vec<u8>) -> Result<(), RecvError> {
        loop {
            match self.try_recv(out) {
                Err(RecvError::WouldBlock) => self.wait_ready(None)?,
                done => return done,
            }
        }
    }

    /// As [`LaneReceiver::recv`], giving up after `timeout`.
    pub fn recv_timeout(&mut self, out: &mut Vec<u8>, timeout: Duration) -> Result<(), RecvError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.try_recv(out) {
                Err(RecvError::WouldBlock) => self.wait_ready(Some(deadline))?,
                done => return done,
            }
        }
    }

    /// The next message, if all of it has arrived.
    pub fn try_recv(&mut self, out: &mut Vec<u8>) -> Result<(), RecvError> {
        loop {
            if self.assembler.next_message(out) {
                return Ok(());
            }
            let content = self.open_next()?;
            let flags = content.flags;
            // The assembler is taken out for the call: it copies from the slot this struct holds.
            let mut assembler = std::mem::take(&mut self.assembler);
            let ok = assembler.take_slot(self.bytes(content), flags);
            self.assembler = assembler;
            self.release();
            if !ok {
                return Err(self.violation("message framing"));
            }
        }
    }

    /// For async callers: the next message, or `Pending` with the waker of `cx` registered.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Poll<Result<(), RecvError>> {
        let shared = self.shared.clone();
        let mut result = Err(RecvError::WouldBlock);
        match shared.rx_ready.poll(cx, || {
            result = self.try_recv(out);
            result != Err(RecvError::WouldBlock)
        }) {
            Poll::Ready(()) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    }

    fn wait_ready(&mut self, deadline: Option<Instant>) -> Result<(), RecvError> {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let ready = self.shared.rx_ready.wait(left, || {
            self.reader.state(self.next) == Some(SlotState::Ready) || self.shared.closed().is_some()
        });
        if ready {
            Ok(())
        } else {
            Err(RecvError::TimedOut)
        }
    }

    fn wait_next(&mut self, deadline: Option<Instant>) -> Result<Content, RecvError> {
        loop {
            match self.open_next() {
                Err(RecvError::WouldBlock) => self.wait_ready(deadline)?,
                done => return done,
            }
        }
    }

    fn violation(&mut self, what: &'static str) -> RecvError {
        self.stats.counters.add(Counter::CoherenceViolations, 1);
        self.shared.close(CloseReason::Violation);
        RecvError::Violation {
            slot: self.next,
            what,
        }
    }

    /// Takes slot `next`, decompresses and verifies it. Nothing unverified leaves this function.
    fn open_next(&mut self) -> Result<Content, RecvError> {
        if self.finished {
            return Err(RecvError::Finished);
        }
        if self.reader.state(self.next) != Some(SlotState::Ready)
            || !self.shared.begin_take()
            || !self.reader.take(self.next)
        {
            return Err(match self.shared.closed() {
                Some(r) => Closed(r).into(),
                None => RecvError::WouldBlock,
            });
        }
        let Some(slot) = self.reader.get(self.next) else {
            return Err(RecvError::WouldBlock);
        };
        let bytes = &slot.buf[..slot.len as usize];
        let start = host_monotonic_ns();
        let mut decompressed = start;
        let verdict = match Preamble::decode(bytes, self.capacity) {
            Err(_) => Err("slot preamble"),
            Ok(p) if p.level != self.level as u8 => Err("verification level"),
            Ok(p) => {
                let enc = &bytes[SLOT_PREAMBLE_LEN..SLOT_PREAMBLE_LEN + p.enc_len as usize];
                let raw = p.raw_len as usize;
                let content = if p.codec == 0 {
                    Ok(enc)
                } else {
                    let room = &mut self.scratch[..raw];
                    match CodecId::from_wire(p.codec) {
                        Some(c) if self.decompressor.decompress(c, enc, room).is_ok() => {
                            Ok(&self.scratch[..raw])
                        }
                        _ => Err("decompression"),
                    }
                };
                if p.codec != 0 {
                    decompressed = host_monotonic_ns();
                }
                match content {
                    Err(e) => Err(e),
                    Ok(c) if verify::digest(self.level, c) != p.digest => Err("boundary proof"),
                    Ok(_) => Ok(p),
                }
            }
        };
        let p = match verdict {
            Ok(p) => p,
            Err(what) => {
                self.stats.counters.add(Counter::RxSlotsMismatched, 1);
                return Err(self.violation(what));
            }
        };
        let now = host_monotonic_ns();
        if p.codec != 0 {
            self.stats
                .hists
                .record(Hist::StageDecompress, decompressed - start);
        }
        self.stats
            .hists
            .record(Hist::StageDigest, now - decompressed);
        if self.same_host {
            let t = now.saturating_sub(p.committed_at);
            if t < ONE_WAY_MAX {
                self.stats.hists.record(Hist::OneWaySlot, t);
            }
        }
        self.chain.push(self.next, &p.digest);
        self.stats.counters.add(Counter::RxSlotsDelivered, 1);
        self.stats
            .counters
            .add(Counter::PayloadBytesOut, u64::from(p.raw_len));
        let content = Content {
            len: p.raw_len as usize,
            flags: p.flags,
            in_scratch: p.codec != 0,
        };
        if p.flags.has(SlotFlags::FIN) {
            self.finished = true;
            self.release();
            return Err(RecvError::Finished);
        }
        Ok(content)
    }

    fn bytes(&self, c: Content) -> &[u8] {
        if c.in_scratch {
            return &self.scratch[..c.len];
        }
        match self.reader.get(self.next) {
            Some(s) => &s.buf[SLOT_PREAMBLE_LEN..SLOT_PREAMBLE_LEN + c.len],
            None => &[],
        }
    }

    fn release(&mut self) {
        self.reader.release(self.next);
        self.next += 1;
        self.shared
            .delivered
            .publish(self.next, &self.chain.value());
        // A sleeping core looks at acknowledgements by timer; it is woken only where the sender
        // may be waiting: for credit, or for the last witness.
        if self.shared.credit_wanted.load(Ordering::Relaxed)
            || self.reader.state(self.next) != Some(SlotState::Ready)
        {
            self.shared.core.wake();
        }
    }
}

/// One verified slot: derefs to its content.
pub struct SlotView<'a> {
    lane: &'a mut LaneReceiver,
    content: Content,
}

impl SlotView<'_> {
    /// Flags that the sender set.
    pub fn flags(&self) -> SlotFlags {
        self.content.flags
    }
}

impl Deref for SlotView<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.lane.bytes(self.content)
    }
}

impl Drop for SlotView<'_> {
    fn drop(&mut self) {
        self.lane.release();
    }
}
