//! Receive: several data symbols of one slot, opened at once.

use super::lane::Lane;
use super::rx::{FrameCtx, FrameExit};
use crate::base::limits::HEADER_LEN;
use crate::crypto::MAX_GROUP;
use crate::obs::Counter;
use crate::wire::{FrameKind, Header};

/// How the frames of a group left, in their order.
pub struct GroupExits {
    exits: [FrameExit; MAX_GROUP],
    count: usize,
}

impl GroupExits {
    fn of<const N: usize>(some: [FrameExit; N]) -> GroupExits {
        let mut exits = [FrameExit::AuthFailed; MAX_GROUP];
        exits[..N].copy_from_slice(&some);
        GroupExits { exits, count: N }
    }

    /// One for each frame.
    #[inline]
    pub fn all(&self) -> &[FrameExit] {
        &self.exits[..self.count]
    }
}

impl Lane {
    /// Whether [`on_group`](Self::on_group) is worth a call.
    #[inline]
    pub fn opens_groups(&self) -> bool {
        self.opener.group() > 1
    }

    /// As [`on_frame`](Self::on_frame) for a frame and those after it, as far as all are data symbols
    /// that the same slot, begun already, still lacks. `burst` begins with the frame, whose header is
    /// `first`, and is cut every `segment` bytes. `None`, with nothing done, where that is no two of
    /// them: then the frame is for `on_frame`.
    pub fn on_group(
        &mut self,
        first: &Header,
        burst: &mut [u8],
        segment: usize,
        ctx: &mut FrameCtx,
    ) -> Option<GroupExits> {
        if first.kind != FrameKind::Symbol
            || first.part
            || self.close_sent > 0
            || !self.replay.check(first.pn)
        {
            return None;
        }
        let most = self.opener.group().min(MAX_GROUP);
        let (mut hdrs, mut n) = ([*first; MAX_GROUP], 1);
        for frame in burst.chunks(segment).take(most).skip(1) {
            let Ok(h) = Header::parse(frame) else {
                break;
            };
            let alike = h.kind == FrameKind::Symbol
                && !h.part
                && (h.session, h.lane) == (first.session, first.lane)
                && (h.epoch, h.slot, h.k, h.len) == (first.epoch, first.slot, first.k, first.len);
            // Rising numbers: then none can push another out of the replay window.
            if !alike || h.pn <= hdrs[n - 1].pn || !self.replay.check(h.pn) {
                break;
            }
            hdrs[n] = h;
            n += 1;
        }
        let symbols = hdrs.map(|h| h.symbol);
        let (slot, n) = self
            .rx
            .admit_group(first.slot, &symbols[..n], first.k, first.len)?;
        let [a, b, c, d] = hdrs;
        match n {
            2 => self.open_symbols(slot, [a, b], burst, segment, ctx),
            3 => self.open_symbols(slot, [a, b, c], burst, segment, ctx),
            4 => self.open_symbols(slot, [a, b, c, d], burst, segment, ctx),
            _ => None,
        }
    }

    fn open_symbols<const N: usize>(
        &mut self,
        slot: u64,
        hdrs: [Header; N],
        burst: &mut [u8],
        segment: usize,
        ctx: &mut FrameCtx,
    ) -> Option<GroupExits> {
        let (k, len) = (usize::from(hdrs[0].k), usize::from(hdrs[0].len));
        let mut frames = burst.chunks_mut(segment);
        let mut heads: [&[u8; HEADER_LEN]; N] = [&[0; HEADER_LEN]; N];
        let mut sealed: [&mut [u8]; N] = std::array::from_fn(|_| Default::default());
        for (head, sealed) in heads.iter_mut().zip(&mut sealed) {
            let (h, s) = frames.next()?.split_first_chunk_mut()?;
            (*head, *sealed) = (h, s);
        }
        let places = hdrs.each_ref().map(|h| {
            let at = usize::from(h.symbol) * len;
            at..at + len
        });
        let target = self.rx_writer.get_mut(slot)?;
        let outs = target.buf.get_disjoint_mut(places).ok()?;
        let pns = hdrs.each_ref().map(|h| h.pn);
        let opened = self
            .opener
            .open_group(ctx.now, hdrs[0].epoch, pns, heads, sealed, outs);
        ctx.counters.add(Counter::RxPaired, N as u64);
        if opened.iter().all(Result::is_ok) {
            for pn in pns {
                self.replay.commit(pn);
                self.rx.on_ecn(ctx.ecn);
            }
            self.arrived_on = ctx.queue;
            self.heard(ctx.now);
            let symbols = hdrs.each_ref().map(|h| h.symbol);
            let of = (hdrs[0].k, hdrs[0].len);
            let progress = self.rx.stored_group(ctx.now, slot, &symbols, of, &pns);
            // Only the last one can have made the slot complete.
            let exit = self.on_progress(slot, (k, len), progress, ctx);
            return Some(GroupExits::of([exit; N]));
        }
        let mut exits = [FrameExit::AuthFailed; N];
        for ((exit, opened), h) in exits.iter_mut().zip(opened).zip(&hdrs) {
            // A place whose frame was bad holds zeros and is no symbol's: the genuine one may come.
            if opened.is_ok() {
                self.replay.commit(h.pn);
                self.rx.on_ecn(ctx.ecn);
                self.arrived_on = ctx.queue;
                self.heard(ctx.now);
                let progress = self.rx.stored(ctx.now, slot, h.symbol, h.k, h.len, h.pn);
                *exit = self.on_progress(slot, (k, len), progress, ctx);
            } else {
                self.rx.spoiled(slot, h.symbol);
            }
        }
        Some(GroupExits::of(exits))
    }
}
