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

    /// Sends `a`, and symbols after it as long as they are the next ones of the same slot, `most`
    /// together; says how many frames that were. 0: no frame is free, and `a` is still to be sent.
    /// What came after them and did not go out with them is deferred, so the order stays.
    pub(super) fn send_group<B: Backend>(
        &mut self,
        a: &TxSymbol,
        most: usize,
        ctx: &mut SendCtx<B>,
    ) -> Result<usize, CloseReason> {
        let len = usize::from(a.symbol_len);
        if self.tx_reader.get(a.slot).is_none() {
            return Ok(1);
        }
        // Before the next symbol is taken: only one can be deferred.
        let Some(frame) = self.claim_symbol(len, ctx) else {
            return Ok(0);
        };
        let (mut symbols, mut frames) = ([*a; MAX_GROUP], [const { None }; MAX_GROUP]);
        frames[0] = Some(frame);
        let mut n = 1;
        // As for one after the other, a frame begins while the deficit is above zero.
        while n < most.min(MAX_GROUP) && ctx.deficit > (n * (len + FRAME_OVERHEAD)) as i64 {
            let Some(b) = self.tx.poll_send(ctx.now) else {
                break;
            };
            let next = b.slot == a.slot && b.kind == SymbolKind::First && b.parts == 1;
            let frame = match next {
                true => self.claim_symbol(len, ctx),
                false => None,
            };
            if frame.is_none() {
                self.deferred = Some(b);
                break;
            }
            (symbols[n], frames[n]) = (b, frame);
            n += 1;
        }
        let [_, b, c, d] = symbols;
        let sealed = match frames {
            [Some(w), None, ..] => self.send_symbol(a, Some(w), ctx).map(|_| ()),
            [Some(w), Some(x), None, _] => self.seal_symbols([*a, b], [w, x], ctx),
            [Some(w), Some(x), Some(y), None] => self.seal_symbols([*a, b, c], [w, x, y], ctx),
            [Some(w), Some(x), Some(y), Some(z)] => {
                self.seal_symbols([*a, b, c, d], [w, x, y, z], ctx)
            }
            // The first one is there.
            [None, ..] => Ok(()),
        };
        sealed.map(|()| n)
    }

    /// Seals symbols of one slot into a frame each.
    fn seal_symbols<const N: usize, B: Backend>(
        &mut self,
        symbols: [TxSymbol; N],
        mut frames: [TxFrame; N],
        ctx: &mut SendCtx<B>,
    ) -> Result<(), CloseReason> {
        let len = usize::from(symbols[0].symbol_len);
        // All were claimed with it: nothing has left in between.
        let mark = self.path.ecn.mark();
        let mut heads = [[0; HEADER_LEN]; N];
        for (head, symbol) in heads.iter_mut().zip(&symbols) {
            self.symbol_header(symbol).encode(head);
        }
        let sealed = match self.tx_reader.get(symbols[0].slot) {
            Some(slot) => {
                let plains = symbols.each_ref().map(|s| {
                    let at = usize::from(s.index) * len;
                    &slot.buf[at..at + len]
                });
                let outs = frames
                    .each_mut()
                    .map(|f| f.get_mut(HEADER_LEN..).unwrap_or_default());
                let pns = symbols.each_ref().map(|s| s.pn);
                self.sealer
                    .seal_group(ctx.now, pns, heads.each_mut(), plains, outs)
                    .map(|sealed| sealed.map_err(|_| CloseReason::KeyLimit))
            }
            // The slot was there when the first frame was claimed.
            None => [Err(CloseReason::Protocol); N],
        };
        for ((sealed, head), mut frame) in sealed.iter().zip(heads).zip(frames) {
            match frame.first_chunk_mut() {
                Some(place) if sealed.is_ok() => *place = head,
                // It is claimed and will go out: as zeros, which no receiver accepts.
                _ => frame.fill(0),
            }
            ctx.backend.commit(frame);
        }
        for symbol in &symbols {
            self.path.ecn.on_sent(ctx.now, symbol.pn, mark);
        }
        let n = N as u64;
        ctx.counters
            .add(Counter::TxFramesEct, if mark == 0 { 0 } else { n });
        ctx.counters.add(Counter::TxFrames, n);
        ctx.counters
            .add(Counter::TxBytes, n * (len + FRAME_OVERHEAD) as u64);
        ctx.counters.add(Counter::TxSymbolsFirst, n);
        ctx.counters.add(Counter::TxPaired, n);
        sealed.into_iter().collect()
    }
}
