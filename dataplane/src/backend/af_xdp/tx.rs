//! The sending half of a socket: frames claimed, waiting, and with the kernel.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::socket::{METADATA_LEN, TX_BATCH, Xsk};
use crate::backend::frame::{Region, TxFrame, next_owner};
use crate::base::limits::HEADER_LEN;
use crate::wire::eth::{CHECKSUM_AT, MAX_HEADERS};

/// Where the CTP-96 frame starts in its place, so that the payload behind its header is 64-byte
/// aligned and the longest headers fit before it.
pub(super) const FRAME_AT: usize = 128 - HEADER_LEN;
// Headers and what is asked of the device stand before the frame in its place.
const _: () = assert!(MAX_HEADERS + METADATA_LEN <= FRAME_AT);
/// System calls that may pass without the kernel taking anything before it is left for later.
const STALLS: u32 = 2;

/// A frame with its headers, ready to go.
#[derive(Clone, Copy)]
struct Ready {
    index: u16,
    start: u16,
    len: u16,
    /// Bytes of `len` that are payload.
    payload: u16,
    /// Whether something is asked of the device, in the bytes before `start`.
    asks: bool,
}

/// What became of a transmission.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Posted {
    /// Frames handed over.
    pub(super) frames: u64,
    /// Bytes of their payloads.
    pub(super) bytes: u64,
    /// System calls.
    pub(super) calls: u64,
    /// Frames that the device had no room for and dropped.
    pub(super) lost: u64,
    /// Whether the kernel was short of memory; the frames stay queued.
    pub(super) short: bool,
    /// Whether the interface is down.
    pub(super) down: bool,
}

/// Frames for sending: each one or more adjacent chunks, which the writer sees as one piece.
pub(super) struct TxSide {
    region: Arc<Region>,
    /// First byte of the first frame in the mapping.
    base: usize,
    chunk: usize,
    stride: usize,
    free: Vec<u16>,
    /// Chunks of each frame that the kernel still has.
    with_kernel: Box<[u8]>,
    queue: VecDeque<Ready>,
    claimed: usize,
    cancelled: u64,
    owner: u32,
}

impl TxSide {
    /// `count` frames of `run` chunks each, from `base` of the mapping on.
    pub(super) fn new(
        region: Arc<Region>,
        base: usize,
        (chunk, run): (usize, usize),
        count: u16,
    ) -> TxSide {
        TxSide {
            region,
            base,
            chunk,
            stride: chunk * run,
            free: (0..count).rev().collect(),
            with_kernel: vec![0; usize::from(count)].into_boxed_slice(),
            queue: VecDeque::with_capacity(usize::from(count)),
            claimed: 0,
            cancelled: 0,
            owner: next_owner(),
        }
    }

    /// Longest frame that fits.
    pub(super) fn room(&self) -> usize {
        self.stride - FRAME_AT
    }

    /// Frames claimed and not settled.
    pub(super) fn claimed(&self) -> usize {
        self.claimed
    }

    /// Frames cancelled since the start.
    pub(super) fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// Frames committed that are not in the ring yet.
    pub(super) fn queued(&self) -> u64 {
        self.queue.len() as u64
    }

    /// Room for `len` bytes; `tag` comes back with the commit.
    #[inline]
    pub(super) fn claim(&mut self, len: usize, tag: u16) -> Option<TxFrame> {
        if len == 0 || len > self.room() {
            return None;
        }
        let index = self.free.pop()?;
        self.claimed += 1;
        let at = self.base + usize::from(index) * self.stride + FRAME_AT;
        let ptr = self.region.at(at, len);
        // SAFETY: `at` checked the range, the mapping starts zeroed; the frame is on no free list
        // until it is settled and the kernel is done with it, and `Drop` keeps the mapping while
        // one is out.
        Some(unsafe { TxFrame::new(ptr, len, (index, tag), self.owner) })
    }

    /// Whether `frame` was claimed here.
    pub(super) fn owns(&self, frame: &TxFrame) -> bool {
        frame.owner == self.owner
    }

    /// Takes a frame back unsent, whose user asked for that.
    pub(super) fn cancel(&mut self, frame: TxFrame) {
        let index = frame.buf;
        std::mem::forget(frame);
        self.claimed -= 1;
        self.cancelled += 1;
        self.free.push(index);
    }

    /// Takes a frame back unsent that cannot go.
    pub(super) fn give_up(&mut self, frame: TxFrame) {
        let index = frame.buf;
        std::mem::forget(frame);
        self.claimed -= 1;
        self.free.push(index);
    }

    /// Takes a filled frame. `headers` writes what goes before it, given the number of bytes, and
    /// says whether that worked; if not, the frame is given up. With `sum_from`, the UDP checksum of
    /// the header that starts there is left to be completed below.
    #[inline]
    pub(super) fn commit(
        &mut self,
        frame: TxFrame,
        header_len: usize,
        sum_from: Option<usize>,
        headers: impl FnOnce(&mut [u8]) -> bool,
    ) -> bool {
        let (index, len) = (frame.buf, frame.len());
        std::mem::forget(frame);
        self.claimed -= 1;
        let total = header_len + len;
        let start = FRAME_AT.saturating_sub(header_len);
        // At most `METADATA_LEN` bytes more than headers, which fit (see `FRAME_AT`).
        let before = if sum_from.is_some() { METADATA_LEN } else { 0 };
        if header_len > FRAME_AT - before || total > usize::from(u16::MAX) {
            self.free.push(index);
            return false;
        }
        let at = self.base + usize::from(index) * self.stride + start - before;
        let ptr = self.region.at(at, before + total);
        // SAFETY: `at` checked the range, which lies inside this frame's place; the only handle to
        // it was just taken apart.
        let bytes = unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr(), before + total) };
        let (metadata, bytes) = bytes.split_at_mut(before);
        if !headers(bytes) {
            self.free.push(index);
            return false;
        }
        if let (Some(from), Some(metadata)) = (sum_from, metadata.first_chunk_mut()) {
            ask_for_checksum(metadata, from);
        }
        self.queue.push_back(Ready {
            index,
            start: start as u16,
            len: total as u16,
            payload: len as u16,
            asks: sum_from.is_some(),
        });
        true
    }

    /// Takes back the chunks that the kernel is done with.
    #[inline]
    pub(super) fn reap(&mut self, xsk: &mut Xsk) {
        let mut any = false;
        while let Some(addr) = xsk.completion.pop() {
            any = true;
            let index = (addr as usize).wrapping_sub(self.base) / self.stride;
            // What the kernel gives back is what it was given; anything else is passed over.
            if let Some(left) = self.with_kernel.get_mut(index)
                && *left > 0
            {
                *left -= 1;
                if *left == 0 {
                    self.free.push(index as u16);
                }
            }
        }
        if any {
            xsk.completion.release();
        }
    }

    /// Moves waiting frames to the ring and wakes the kernel, a batch at a time.
    pub(super) fn post(&mut self, xsk: &mut Xsk) -> Posted {
        let mut out = Posted::default();
        loop {
            let mut batch = 0;
            while batch < TX_BATCH
                && let Some(&frame) = self.queue.front()
            {
                if !self.put(frame, xsk) {
                    break;
                }
                self.queue.pop_front();
                batch += 1;
                out.frames += 1;
                out.bytes += u64::from(frame.payload);
            }
            if batch > 0 {
                xsk.tx.publish();
            }
            self.kick(xsk, &mut out);
            self.reap(xsk);
            if batch == 0 || out.short || out.down || self.queue.is_empty() {
                return out;
            }
        }
    }

    /// Writes the descriptors of one frame, all or none.
    fn put(&mut self, frame: Ready, xsk: &mut Xsk) -> bool {
        let start = self.base + usize::from(frame.index) * self.stride + usize::from(frame.start);
        let end = start + usize::from(frame.len);
        // Chunks are aligned to their size in the mapping.
        let pieces = end.div_ceil(self.chunk) - start / self.chunk;
        if (pieces > 1 && !xsk.multi_buffer) || !xsk.tx.has_room(pieces as u32) {
            return false;
        }
        let mut at = start;
        while at < end {
            let stop = end.min((at / self.chunk + 1) * self.chunk);
            let more = if stop < end { libc::XDP_PKT_CONTD } else { 0 };
            let asks = if frame.asks && at == start {
                libc::XDP_TX_METADATA
            } else {
                0
            };
            xsk.tx.push(libc::xdp_desc {
                addr: at as u64,
                len: (stop - at) as u32,
                options: more | asks,
            });
            at = stop;
        }
        self.with_kernel[usize::from(frame.index)] = pieces as u8;
        true
    }

    /// Has the kernel send what is in the ring.
    fn kick(&mut self, xsk: &mut Xsk, out: &mut Posted) {
        if xsk.zero_copy {
            // The driver sends by itself and says when it wants a call.
            if xsk.tx.needs_wakeup() && xsk.tx.waiting() > 0 {
                out.calls += 1;
                if let Err(e) = xsk.kick_tx() {
                    out.down |= is_down(&e);
                }
            }
            return;
        }
        let mut stalls = 0;
        let mut waiting = xsk.tx.waiting();
        while waiting > 0 && stalls < STALLS {
            out.calls += 1;
            if let Err(e) = xsk.kick_tx() {
                match e.raw_os_error().unwrap_or(0) {
                    // The device dropped one frame and the next may go.
                    libc::EBUSY => out.lost += 1,
                    // More than one call sends, or the completion ring is full.
                    libc::EAGAIN | libc::EINTR => self.reap(xsk),
                    libc::ENOBUFS | libc::ENOMEM => {
                        out.short = true;
                        return;
                    }
                    _ => {
                        out.down |= is_down(&e);
                        return;
                    }
                }
            }
            let now = xsk.tx.waiting();
            stalls = if now == waiting { stalls + 1 } else { 0 };
            waiting = now;
        }
    }
}

/// struct xsk_tx_metadata with a request for a checksum: flags, where to sum from, and where behind
/// that the sum goes.
#[inline]
fn ask_for_checksum(metadata: &mut [u8; METADATA_LEN], from: usize) {
    let flags = u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM);
    *metadata = [0; METADATA_LEN];
    metadata[..8].copy_from_slice(&flags.to_ne_bytes());
    metadata[8..10].copy_from_slice(&(from as u16).to_ne_bytes());
    metadata[10..12].copy_from_slice(&(CHECKSUM_AT as u16).to_ne_bytes());
}

fn is_down(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::ENETDOWN | libc::ENXIO | libc::EBADF)
    )
}

impl Drop for TxSide {
    fn drop(&mut self) {
        if self.claimed > 0 {
            self.region.leak();
        }
    }
}
