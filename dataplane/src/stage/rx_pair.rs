//! Receive: two data symbols of one slot, opened at once.

use super::lane::Lane;
use super::rx::{FrameCtx, FrameExit};
use crate::base::limits::HEADER_LEN;
use crate::obs::Counter;
use crate::wire::{FrameKind, Header};

impl Lane {
    /// Whether [`on_pair`](Self::on_pair) is worth a call.
    #[inline]
    pub fn opens_pairs(&self) -> bool {
        self.opener.pairs()
    }

    /// As [`on_frame`](Self::on_frame) for a frame and the one after it, where both are data symbols
    /// that the same slot, begun already, still lacks. `None`, with nothing done, where they are not:
    /// then each is for `on_frame`.
    pub fn on_pair(
        &mut self,
        hdrs: [&Header; 2],
        frames: [&mut [u8]; 2],
        ctx: &mut FrameCtx,
    ) -> Option<[FrameExit; 2]> {
        let [a, b] = hdrs;
        let alike = a.kind == FrameKind::Symbol
            && b.kind == FrameKind::Symbol
            && !a.part
            && !b.part
            && (a.epoch, a.slot, a.k, a.len) == (b.epoch, b.slot, b.k, b.len);
        // Rising numbers: then the first cannot push the second out of the replay window.
        if !alike
            || a.pn >= b.pn
            || self.close_sent > 0
            || !self.replay.check(a.pn)
            || !self.replay.check(b.pn)
        {
            return None;
        }
        let slot = self
            .rx
            .admit_pair(a.slot, [a.symbol, b.symbol], a.k, a.len)?;
        let (k, len) = (usize::from(a.k), usize::from(a.len));
        let [x, y] = frames;
        let (head, sealed) = x.split_first_chunk_mut::<HEADER_LEN>()?;
        let (head2, sealed2) = y.split_first_chunk_mut::<HEADER_LEN>()?;
        let places = hdrs.map(|h| {
            let at = usize::from(h.symbol) * len;
            at..at + len
        });
        let target = self.rx_writer.get_mut(slot)?;
        let outs = target.buf.get_disjoint_mut(places).ok()?;
        let opened = self.opener.open_pair(
            ctx.now,
            a.epoch,
            [a.pn, b.pn],
            [&*head, &*head2],
            [sealed, sealed2],
            outs,
        );
        let mut exits = [FrameExit::AuthFailed; 2];
        for ((exit, opened), h) in exits.iter_mut().zip(opened).zip(hdrs) {
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
        ctx.counters.add(Counter::RxPaired, 2);
        Some(exits)
    }
}
