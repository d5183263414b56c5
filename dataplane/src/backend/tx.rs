//! Packing outgoing frames into super-packets.
//!
//! Consecutive frames to the same peer and of the same length lie back to back in one 64 KiB
//! buffer, so that one send with UDP_SEGMENT carries up to 64 of them; a shorter frame may end the
//! row. The same buffers serve a kernel without that offload: then each frame is sent by itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::Arc;

use super::FlushReport;
use super::frame::{Region, TxFrame, next_owner};
use super::stats::{DropCause, Stats};
use crate::base::limits::HEADER_LEN;
use crate::mem::ArenaError;

/// Bytes left free before the first frame of a buffer: header and pad are 64 bytes, so the first
/// payload is 64-byte aligned. glibc's copy runs up to 20 times slower when source and
/// destination differ by 1 to 31 bytes modulo 4,096.
pub(crate) const FRAME_PAD: usize = 64 - HEADER_LEN;
/// Bytes of one super-packet buffer.
const STRIDE: usize = 64 << 10;
/// Most frames of one super-packet: UDP_MAX_SEGMENTS of every kernel since 4.18.
pub(crate) const MAX_SEGMENTS: usize = 64;
/// Most payload bytes of one super-packet; an IPv4 datagram carries 65,507.
pub(crate) const MAX_SUPER_LEN: usize = 65_000;
/// Flushes in a row in which one super-packet may find the kernel without a buffer before it is
/// dropped. An idle core retries every half millisecond, so this is about a tenth of a second.
const MAX_TRIES: u16 = 200;

/// Frames that lie back to back in one buffer.
#[derive(Debug, Clone, Copy)]
struct Super {
    to: SocketAddr,
    /// Length of each frame but the last.
    segment: u32,
    /// ECN bits of every frame.
    ecn: u8,
    /// Bytes of all frames.
    len: u32,
    /// Frames claimed.
    frames: u16,
    /// Frames committed or cancelled.
    settled: u16,
    /// Frames sent or dropped.
    done: u16,
    /// Flushes that found no kernel buffer.
    tries: u16,
    /// Frames cancelled, one bit each.
    dead: u64,
}

/// A run of frames that goes out in one send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Buffer it lies in.
    pub(crate) index: u16,
    /// Frames in it.
    pub(crate) frames: u16,
    /// First byte, counted from the start of the mapping.
    pub(crate) offset: usize,
    /// Bytes.
    pub(crate) len: usize,
    /// Length of each frame but the last.
    pub(crate) segment: usize,
    /// Where to.
    pub(crate) to: SocketAddr,
    /// ECN bits of the IP header.
    pub(crate) ecn: u8,
}

/// The frames claimed, committed and not yet sent, with the buffers that they lie in.
pub(crate) struct TxQueue {
    region: Arc<Region>,
    supers: Box<[Super]>,
    /// Last in, first out: the buffer touched last is written next.
    free: Vec<u16>,
    /// In the order of their first claim.
    queue: VecDeque<u16>,
    /// The newest super-packet while it still takes frames.
    open: Option<u16>,
    claimed: usize,
    pending: u64,
    cancelled: u64,
    owner: u32,
    /// Whether a run covers all frames of a super-packet, or one frame.
    pub(crate) offload: bool,
}

impl TxQueue {
    /// Maps `count` buffers.
    pub(crate) fn new(count: u16) -> Result<TxQueue, ArenaError> {
        let empty = Super {
            to: ([0, 0, 0, 0], 0).into(),
            segment: 0,
            ecn: 0,
            len: 0,
            frames: 0,
            settled: 0,
            done: 0,
            tries: 0,
            dead: 0,
        };
        Ok(TxQueue {
            region: Region::new(usize::from(count) * STRIDE)?,
            supers: vec![empty; usize::from(count)].into_boxed_slice(),
            free: (0..count).rev().collect(),
            queue: VecDeque::with_capacity(usize::from(count)),
            open: None,
            claimed: 0,
            pending: 0,
            cancelled: 0,
            owner: next_owner(),
            offload: true,
        })
    }

    /// The mapping that the buffers lie in.
    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Frames claimed and neither committed nor cancelled.
    pub(crate) fn claimed(&self) -> usize {
        self.claimed
    }

    /// Frames committed and neither sent nor dropped.
    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }

    /// Copies the counters that live here into `stats`.
    pub(crate) fn fill_stats(&self, stats: &mut Stats) {
        stats.tx_pending = self.pending;
        stats.tx_cancelled = self.cancelled;
    }

    /// Address of the bytes of a run.
    pub(crate) fn ptr(&self, run: &Run) -> NonNull<u8> {
        self.region.at(run.offset, run.len)
    }

    /// Offset in the mapping of byte `at` of the frames of buffer `index`.
    fn offset(index: u16, at: usize) -> usize {
        usize::from(index) * STRIDE + FRAME_PAD + at
    }

    /// Room for `len` bytes to `to`, or nothing when all buffers are taken.
    #[inline]
    pub(crate) fn claim(&mut self, to: &SocketAddr, len: usize) -> Option<TxFrame> {
        self.claim_marked(to, 0, len)
    }

    /// As [`TxQueue::claim`], with the ECN bits of the packet; frames that differ in them do not
    /// leave in one piece.
    #[inline]
    pub(crate) fn claim_marked(&mut self, to: &SocketAddr, ecn: u8, len: usize) -> Option<TxFrame> {
        if len == 0 || len > MAX_SUPER_LEN {
            debug_assert!(false, "frame of {len} bytes claimed");
            return None;
        }
        if let Some(index) = self.open {
            let s = &mut self.supers[usize::from(index)];
            let fits = len <= s.segment as usize
                && usize::from(s.frames) < MAX_SEGMENTS
                && s.len as usize + len <= MAX_SUPER_LEN;
            if fits && s.to == *to && s.ecn == ecn {
                let at = s.len as usize;
                let frame = s.frames;
                s.len += len as u32;
                s.frames += 1;
                if len < s.segment as usize {
                    self.open = None;
                }
                return Some(self.hand_out(index, frame, at, len));
            }
            self.open = None;
        }
        let index = self.free.pop()?;
        self.supers[usize::from(index)] = Super {
            to: *to,
            segment: len as u32,
            ecn,
            len: len as u32,
            frames: 1,
            settled: 0,
            done: 0,
            tries: 0,
            dead: 0,
        };
        self.queue.push_back(index);
        self.open = Some(index);
        Some(self.hand_out(index, 0, 0, len))
    }

    /// `N` frames in a row in the newest super-packet, if it has room for all of them.
    #[inline]
    pub(crate) fn claim_run<const N: usize>(
        &mut self,
        to: &SocketAddr,
        ecn: u8,
        len: usize,
    ) -> Option<[TxFrame; N]> {
        if let Some(index) = self.open {
            let s = &mut self.supers[usize::from(index)];
            let fits = len == s.segment as usize
                && usize::from(s.frames) + N <= MAX_SEGMENTS
                && s.len as usize + N * len <= MAX_SUPER_LEN;
            if fits && s.to == *to && s.ecn == ecn {
                let (at, frame) = (s.len as usize, s.frames);
                s.len += (N * len) as u32;
                s.frames += N as u16;
                return Some(std::array::from_fn(|i| {
                    self.hand_out(index, frame + i as u16, at + i * len, len)
                }));
            }
        }
        None
    }

    #[inline]
    fn hand_out(&mut self, index: u16, frame: u16, at: usize, len: usize) -> TxFrame {
        self.claimed += 1;
        let ptr = self.region.at(Self::offset(index, at), len);
        // SAFETY: `at` checked the range and the mapping starts zeroed. Frames of one buffer are
        // disjoint (`len` of the super-packet only grows), a buffer is reused only after every
        // frame of it was settled, and `Drop` keeps the mapping while a frame is out.
        unsafe { TxFrame::new(ptr, len, (index, frame), self.owner) }
    }

    #[inline]
    fn settle(&mut self, frame: TxFrame) -> Option<(usize, u16)> {
        let (owner, buf, segment) = (frame.owner, frame.buf, frame.segment);
        std::mem::forget(frame);
        debug_assert_eq!(owner, self.owner, "frame committed to another backend");
        if owner != self.owner {
            return None;
        }
        self.claimed -= 1;
        self.supers[usize::from(buf)].settled += 1;
        Some((usize::from(buf), segment))
    }

    /// Takes a filled frame; it goes out with the next flush.
    #[inline]
    pub(crate) fn commit(&mut self, frame: TxFrame) {
        if self.settle(frame).is_some() {
            self.pending += 1;
        }
    }

    /// Takes a frame that shall not be sent.
    pub(crate) fn cancel(&mut self, frame: TxFrame) {
        if let Some((buf, segment)) = self.settle(frame) {
            self.supers[buf].dead |= 1 << segment;
            self.cancelled += 1;
        }
    }

    /// Ends the newest super-packet, so that everything committed can go out.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// The next runs to send, oldest first; `f` says whether it takes more. A super-packet with a frame still claimed, and all behind it, wait.
    pub(crate) fn runs(&mut self, mut f: impl FnMut(Run) -> bool) {
        let mut at = 0;
        while let Some(&index) = self.queue.get(at) {
            let i = usize::from(index);
            if self.supers[i].settled < self.supers[i].frames || self.open == Some(index) {
                return;
            }
            if self.supers[i].dead != 0 && !self.close_gaps(index) {
                self.queue.remove(at);
                self.free.push(index);
                continue;
            }
            let s = self.supers[i];
            let mut done = s.done;
            while done < s.frames {
                let frames = if self.offload { s.frames - done } else { 1 };
                let start = usize::from(done) * s.segment as usize;
                let end = (start + usize::from(frames) * s.segment as usize).min(s.len as usize);
                let run = Run {
                    index,
                    frames,
                    offset: Self::offset(index, start),
                    len: end - start,
                    segment: s.segment as usize,
                    to: s.to,
                    ecn: s.ecn,
                };
                if !f(run) {
                    return;
                }
                done += frames;
            }
            at += 1;
        }
    }

    /// Moves frames down over cancelled ones; false when none is left.
    fn close_gaps(&mut self, index: u16) -> bool {
        let s = &mut self.supers[usize::from(index)];
        let segment = s.segment as usize;
        let all = self.region.at(Self::offset(index, 0), s.len as usize);
        // SAFETY: every frame of this buffer is settled, so no handle to its bytes is out, and
        // the range was checked by `at`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(all.as_ptr(), s.len as usize) };
        let (mut to, mut kept) = (0, 0);
        for i in 0..usize::from(s.frames) {
            let from = i * segment;
            let end = (from + segment).min(bytes.len());
            if s.dead >> i & 1 == 0 {
                bytes.copy_within(from..end, to);
                to += end - from;
                kept += 1;
            }
        }
        s.dead = 0;
        s.frames = kept;
        s.settled = kept;
        s.len = to as u32;
        s.segment = s.segment.min(s.len.max(1));
        kept > 0
    }

    /// The run was sent.
    pub(crate) fn sent(&mut self, run: Run, stats: &mut Stats, report: &mut FlushReport) {
        stats.tx_sends += 1;
        stats.tx_frames += u64::from(run.frames);
        stats.tx_bytes += run.len as u64;
        report.sent_frames += u64::from(run.frames);
        self.retire(run);
    }

    /// The kernel refused the run for good.
    pub(crate) fn refuse(
        &mut self,
        run: Run,
        cause: DropCause,
        stats: &mut Stats,
        report: &mut FlushReport,
    ) {
        stats.tx_dropped[cause as usize] += u64::from(run.frames);
        report.dropped_frames += u64::from(run.frames);
        self.retire(run);
    }

    /// The kernel has no buffer for the run now; says whether to try it again later.
    pub(crate) fn put_off(&mut self, run: Run, stats: &mut Stats) -> bool {
        let s = &mut self.supers[usize::from(run.index)];
        s.tries += 1;
        if s.tries <= MAX_TRIES {
            stats.tx_retries += 1;
        }
        s.tries <= MAX_TRIES
    }

    fn retire(&mut self, run: Run) {
        let s = &mut self.supers[usize::from(run.index)];
        s.done += run.frames;
        s.tries = 0;
        self.pending -= u64::from(run.frames);
        if s.done < s.frames {
            return;
        }
        // Almost always the oldest one.
        if let Some(at) = self.queue.iter().position(|&i| i == run.index) {
            self.queue.remove(at);
        }
        self.free.push(run.index);
    }

    /// Takes the buffer of `run` out of the queue without freeing it: somebody else reads it now.
    pub(crate) fn detach(&mut self, run: Run, stats: &mut Stats, report: &mut FlushReport) {
        self.sent(run, stats, report);
        // `sent` freed it as the newest free buffer.
        let freed = self.free.pop();
        debug_assert_eq!(freed, Some(run.index));
    }

    /// Frees a buffer that [`TxQueue::detach`] took out.
    pub(crate) fn attach(&mut self, index: u16) {
        debug_assert!(!self.free.contains(&index));
        self.free.push(index);
    }
}

impl Drop for TxQueue {
    fn drop(&mut self) {
        if self.claimed > 0 {
            self.region.leak();
        }
    }
}

#[cfg(test)]
mod tests;
