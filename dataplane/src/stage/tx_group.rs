//! Send: several data symbols of one slot, sealed at once.

use super::lane::Lane;
use super::shared::CloseReason;
use super::tx::SendCtx;
use crate::backend::{Backend, TxFrame};
use crate::base::limits::{FRAME_OVERHEAD, HEADER_LEN};
use crate::crypto::MAX_GROUP;
use crate::obs::Counter;
use crate::proto::{SymbolKind, TxSymbol};

impl Lane {
    /// How many frames may go out together from `sym` on, where `budget` are left; 1 if it goes alone.
    #[inline]
    pub(super) fn may_group(&self, sym: &TxSymbol, budget: usize) -> usize {
        if sym.parts != 1 || sym.kind != SymbolKind::First {
            return 1;
        }
        let left = usize::from(sym.k.saturating_sub(sym.index));
        self.sealer.group().min(budget).min(left)
    }

    /// Sends `first`, and symbols after it as long as they are the next ones of the same slot, `most`
    /// together; says how many frames that were. 0: no frame is free, and `first` is still to be sent.
    pub(super) fn send_group<B: Backend>(
        &mut self,
        first: &TxSymbol,
        most: usize,
        ctx: &mut SendCtx<B>,
    ) -> Result<usize, CloseReason> {
        let len = usize::from(first.symbol_len);
        if self.tx_reader.get(first.slot).is_none() {
            return Ok(1);
        }
        // As for one after the other, a frame begins while the deficit is above zero.
        let due = (ctx.deficit.max(1) as usize).div_ceil(len + FRAME_OVERHEAD);
        let most = most.min(MAX_GROUP).min(due);
        let most = most.min(1 + self.tx.granted(ctx.now, first));
        let sent = match most {
            2 => self.send_run::<2, B>(first, ctx),
            3 => self.send_run::<3, B>(first, ctx),
            4 => self.send_run::<4, B>(first, ctx),
            _ => None,
        };
        match sent {
            Some(sent) => sent.map(|()| most),
            None => self.send_symbol(first, None, ctx).map(usize::from),
        }
    }

    /// Sends `first` and the `N - 1` symbols after it; nothing is done where there is no room for all.
    #[inline]
    fn send_run<const N: usize, B: Backend>(
        &mut self,
        first: &TxSymbol,
        ctx: &mut SendCtx<B>,
    ) -> Option<Result<(), CloseReason>> {
        let with = (self.steering.flow(), self.path.ecn.mark());
        let len = usize::from(first.symbol_len) + FRAME_OVERHEAD;
        let frames = ctx.backend.claim_run::<N>(&self.dest, with, len)?;
        self.tx.take_granted(ctx.now, first, N - 1);
        Some(self.seal_symbols(first, frames, ctx))
    }

    /// Seals symbols of one slot, `first` and those after it, into a frame each.
    #[inline]
    fn seal_symbols<const N: usize, B: Backend>(
        &mut self,
        first: &TxSymbol,
        mut frames: [TxFrame; N],
        ctx: &mut SendCtx<B>,
    ) -> Result<(), CloseReason> {
        let len = usize::from(first.symbol_len);
        // All were claimed with it: nothing has left in between.
        let mark = self.path.ecn.mark();
        let head = self.symbol_header(first);
        let mut heads = [[0; HEADER_LEN]; N];
        for (i, place) in (0..).zip(&mut heads) {
            head.nth(i).encode(place);
        }
        let at = usize::from(first.index) * len;
        let content = self.tx_reader.get(first.slot);
        let sealed = match content.and_then(|slot| slot.buf.get(at..at + N * len)) {
            Some(content) => {
                let plains = std::array::from_fn(|i| &content[i * len..(i + 1) * len]);
                let mut rest = frames.iter_mut();
                let outs = std::array::from_fn(|_| {
                    let frame = rest.next().and_then(|f| f.get_mut(HEADER_LEN..));
                    frame.unwrap_or_default()
                });
                let pns = std::array::from_fn(|i| first.pn + i as u64);
                self.sealer
                    .seal_group(ctx.now, pns, heads.each_mut(), plains, outs)
                    .map(|sealed| sealed.is_ok())
            }
            // The slot was there when the first frame was claimed.
            None => [false; N],
        };
        for ((ok, head), mut frame) in sealed.into_iter().zip(heads).zip(frames) {
            match frame.first_chunk_mut() {
                Some(place) if ok => *place = head,
                // It is claimed and will go out: as zeros, which no receiver accepts.
                _ => frame.fill(0),
            }
            ctx.backend.commit(frame);
        }
        let n = N as u64;
        for pn in first.pn..first.pn + n {
            self.path.ecn.on_sent(ctx.now, pn, mark);
        }
        ctx.counters
            .add(Counter::TxFramesEct, if mark == 0 { 0 } else { n });
        ctx.counters.add(Counter::TxFrames, n);
        ctx.counters
            .add(Counter::TxBytes, n * (len + FRAME_OVERHEAD) as u64);
        ctx.counters.add(Counter::TxSymbolsFirst, n);
        ctx.counters.add(Counter::TxPaired, n);
        match sealed.contains(&false) {
            false => Ok(()),
            true => Err(CloseReason::KeyLimit),
        }
    }
}
