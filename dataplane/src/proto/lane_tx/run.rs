//! Data symbols of one slot that follow each other, let out at once: what one after the other would do.

use super::{LaneTx, SymbolKind, TxSymbol};
use crate::base::Nanos;
use crate::base::limits::WINDOW_SLOTS;
use crate::base::seq::class;

impl LaneTx {
    /// How many data symbols may leave right behind `s`, which [`LaneTx::poll_send`] has just given:
    /// the next ones of its slot, in frames of their own.
    #[inline]
    pub fn granted(&self, now: Nanos, s: &TxSymbol) -> usize {
        let m = &self.metas[class(self.cur, WINDOW_SLOTS)];
        let next = self.cur == s.slot && m.next_first == s.index.wrapping_add(1);
        let free = self.grant.at == now && self.grant.slot == s.slot && self.owing.is_empty();
        if !(next && free && s.kind == SymbolKind::First && s.parts == 1) {
            return 0;
        }
        usize::from(m.k - m.next_first.min(m.k))
            .min(usize::try_from(self.grant.frames).unwrap_or(usize::MAX))
    }

    /// Takes `n` of the symbols that [`LaneTx::granted`] just told of: they and their packet numbers
    /// follow `s` and each other.
    #[inline]
    pub fn take_granted(&mut self, now: Nanos, s: &TxSymbol, n: usize) {
        debug_assert!(n <= self.granted(now, s));
        if n == 0 {
            return;
        }
        self.grant.frames = self.grant.frames.saturating_sub(n as u64);
        let len = self.frame_len(s.slot);
        self.log.on_more(n as u64, len);
        self.pacer.on_sent(n as u64 * len);
        self.stats.first += n as u64;
        let m = &mut self.metas[class(s.slot, WINDOW_SLOTS)];
        m.next_first += n as u8;
        if m.fully_sent() && m.ahead_left.min(m.repair_left() as u8) == 0 {
            self.cur += 1;
            m.round_ended(now, s.pn + n as u64);
        }
    }
}
