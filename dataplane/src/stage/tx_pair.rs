//! Send: two data symbols of one slot, sealed at once.

use super::lane::Lane;
use super::shared::CloseReason;
use super::tx::SendCtx;
use crate::backend::Backend;
use crate::base::limits::{FRAME_OVERHEAD, HEADER_LEN};
use crate::obs::Counter;
use crate::proto::{SymbolKind, TxSymbol};

impl Lane {
    /// Whether `sym`, with room for `budget` frames, may go out together with the one after it.
    #[inline]
    pub(super) fn may_pair(&self, sym: &TxSymbol, budget: usize) -> bool {
        self.sealer.pairs()
            && sym.parts == 1
            && budget >= 2
            && sym.kind == SymbolKind::First
            && sym.index + 1 < sym.k
    }

    /// Sends `a`, and the symbol after it if that is the next one of the same slot; says how many
    /// frames that were. 0: no frame is free, and `a` is still to be sent. What came after `a` and
    /// did not go out with it is deferred, so the order stays.
    pub(super) fn send_pair<B: Backend>(
        &mut self,
        a: &TxSymbol,
        ctx: &mut SendCtx<B>,
    ) -> Result<usize, CloseReason> {
        let len = usize::from(a.symbol_len);
        if self.tx_reader.get(a.slot).is_none() {
            return Ok(1);
        }
        // Before the next symbol is taken: only one can be deferred.
        let Some(mut frame) = self.claim_symbol(len, ctx) else {
            return Ok(0);
        };
        let next = self.tx.poll_send(ctx.now);
        let second = match next {
            Some(b) if b.slot == a.slot && b.kind == SymbolKind::First && b.parts == 1 => {
                self.claim_symbol(len, ctx).map(|frame| (b, frame))
            }
            _ => None,
        };
        let Some((b, mut frame2)) = second else {
            self.deferred = next;
            return self.send_symbol(a, Some(frame), ctx).map(usize::from);
        };
        // Both were claimed with it: nothing has left in between.
        let mark = self.path.ecn.mark();
        let hdrs = [self.symbol_header(a), self.symbol_header(&b)];
        let sealed = match (
            self.tx_reader.get(a.slot),
            frame.split_first_chunk_mut::<HEADER_LEN>(),
            frame2.split_first_chunk_mut::<HEADER_LEN>(),
        ) {
            (Some(slot), Some((head, out)), Some((head2, out2))) => {
                hdrs[0].encode(head);
                hdrs[1].encode(head2);
                let plains = [a, &b].map(|s| {
                    let at = usize::from(s.index) * len;
                    &slot.buf[at..at + len]
                });
                let pns = [a.pn, b.pn];
                self.sealer
                    .seal_pair(ctx.now, pns, [head, head2], plains, [out, out2])
                    .map(|sealed| sealed.map_err(|_| CloseReason::KeyLimit))
            }
            // The slot was there above, and each frame is as long as was asked for.
            _ => [Err(CloseReason::Protocol); 2],
        };
        for (sealed, mut frame) in sealed.iter().zip([frame, frame2]) {
            if sealed.is_err() {
                // It is claimed and will go out: as zeros, which no receiver accepts.
                frame.fill(0);
            }
            ctx.backend.commit(frame);
        }
        self.path.ecn.on_sent(ctx.now, a.pn, mark);
        self.path.ecn.on_sent(ctx.now, b.pn, mark);
        ctx.counters
            .add(Counter::TxFramesEct, if mark == 0 { 0 } else { 2 });
        ctx.counters.add(Counter::TxFrames, 2);
        ctx.counters
            .add(Counter::TxBytes, 2 * (len + FRAME_OVERHEAD) as u64);
        ctx.counters.add(Counter::TxSymbolsFirst, 2);
        ctx.counters.add(Counter::TxPaired, 2);
        let [first, second] = sealed;
        first.and(second).map(|()| 2)
    }
}
