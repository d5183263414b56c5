//! Receive: several data symbols of one slot that follow each other, opened at once.

use super::lane::Lane;
use super::rx::{FrameCtx, FrameExit};
use crate::base::limits::HEADER_LEN;
use crate::crypto::MAX_GROUP;
use crate::obs::{Counter, CounterSet};
use crate::wire::Header;

/// How the frames of a group left.
pub enum GroupExits {
    /// All of so many in the same way.
    Alike(FrameExit, usize),
    /// Each in its own; the first so many count.
    Each([FrameExit; MAX_GROUP], usize),
}

impl GroupExits {
    /// Frames in the group.
    #[inline]
    pub fn frames(&self) -> usize {
        match self {
            GroupExits::Alike(_, n) | GroupExits::Each(_, n) => *n,
        }
    }

    /// Counts each frame where it left.
    #[inline]
    pub fn count(&self, counters: &CounterSet) {
        match self {
            GroupExits::Alike(exit, n) => counters.add(exit.counter(), *n as u64),
            GroupExits::Each(exits, n) => {
                for exit in exits.iter().take(*n) {
                    counters.add(exit.counter(), 1);
                }
            }
        }
    }
}

impl Lane {
    /// Whether [`on_group`](Self::on_group) is worth a call.
    #[inline]
    pub fn opens_groups(&self) -> bool {
        self.opener.group() > 1
    }

    /// As [`on_frame`](Self::on_frame) for a frame and those after it, as far as they are the next data
    /// symbols of the same slot, begun already, and it lacks them. `burst` begins with the frame, whose
    /// header is `first`, and is cut every `segment` bytes. `None`, with nothing done, where that is no
    /// two of them: then the frame is for `on_frame`.
    #[inline]
    pub fn on_group(
        &mut self,
        first: &Header,
        burst: &mut [u8],
        segment: usize,
        ctx: &mut FrameCtx,
    ) -> Option<GroupExits> {
        let run = first.run(burst, segment, self.opener.group().min(MAX_GROUP));
        if run < 2 || self.close_sent > 0 {
            return None;
        }
        // Rising numbers: none can push another out of the replay window.
        let fresh = (0..run as u64).take_while(|i| self.replay.check(first.pn + i));
        let run = (first.symbol, fresh.count() as u8);
        match self.rx.admit_run(first.slot, run, first.k, first.len)? {
            (slot, 2) => self.open_run::<2>(slot, first, burst, segment, ctx),
            (slot, 3) => self.open_run::<3>(slot, first, burst, segment, ctx),
            (slot, 4) => self.open_run::<4>(slot, first, burst, segment, ctx),
            _ => None,
        }
    }

    fn open_run<const N: usize>(
        &mut self,
        slot: u64,
        first: &Header,
        burst: &mut [u8],
        segment: usize,
        ctx: &mut FrameCtx,
    ) -> Option<GroupExits> {
        let (k, len) = (usize::from(first.k), usize::from(first.len));
        let mut frames = burst.chunks_mut(segment);
        let mut heads: [&[u8; HEADER_LEN]; N] = [&[0; HEADER_LEN]; N];
        let mut sealed: [&mut [u8]; N] = std::array::from_fn(|_| Default::default());
        for (head, sealed) in heads.iter_mut().zip(&mut sealed) {
            let (h, s) = frames.next()?.split_first_chunk_mut()?;
            (*head, *sealed) = (h, s);
        }
        let at = usize::from(first.symbol) * len;
        let target = self.rx_writer.get_mut(slot)?;
        let mut places = target.buf.get_mut(at..at + N * len)?.chunks_exact_mut(len);
        let outs = std::array::from_fn(|_| places.next().unwrap_or_default());
        let pns = std::array::from_fn(|i| first.pn + i as u64);
        let opened = self
            .opener
            .open_group(ctx.now, first.epoch, pns, heads, sealed, outs);
        ctx.counters.add(Counter::RxPaired, N as u64);
        if opened.iter().any(Result::is_err) {
            return Some(self.settle(slot, first, opened.map(|o| o.is_ok()), ctx));
        }
        self.replay.commit_run(first.pn, N as u64);
        self.rx.on_ecn_of(ctx.ecn, N as u64);
        self.arrived_on = ctx.queue;
        self.heard(ctx.now);
        let (run, of) = ((first.symbol, N as u8), (first.k, first.len));
        let progress = self.rx.stored_run(ctx.now, slot, run, of, first.pn);
        // Only the last one can have made the slot complete.
        let exit = self.on_progress(slot, (k, len), progress, ctx);
        Some(GroupExits::Alike(exit, N))
    }

    /// Frames of a run not all of which verified, one by one.
    #[cold]
    fn settle<const N: usize>(
        &mut self,
        slot: u64,
        first: &Header,
        opened: [bool; N],
        ctx: &mut FrameCtx,
    ) -> GroupExits {
        let size = (usize::from(first.k), usize::from(first.len));
        let mut exits = [FrameExit::AuthFailed; MAX_GROUP];
        for (i, ok) in (0..).zip(opened) {
            let h = first.nth(i);
            // A place whose frame was bad holds zeros and is no symbol's: the genuine one may come.
            if !ok {
                self.rx.spoiled(slot, h.symbol);
                continue;
            }
            self.replay.commit(h.pn);
            self.rx.on_ecn(ctx.ecn);
            self.arrived_on = ctx.queue;
            self.heard(ctx.now);
            let progress = self.rx.stored(ctx.now, slot, h.symbol, h.k, h.len, h.pn);
            exits[usize::from(i)] = self.on_progress(slot, size, progress, ctx);
        }
        GroupExits::Each(exits, N)
    }
}
