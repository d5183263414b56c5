//! Symbols beyond the first transmission: sent ahead of a loss, as the answer to one, to get an answer.

use super::LaneTx;
use super::types::{RepairAhead, SymbolKind, TxSymbol};
use crate::base::Nanos;
use crate::base::limits::{FRAME_OVERHEAD, MAX_DATA_SYMBOLS, MAX_REPAIR_SYMBOLS, WINDOW_SLOTS};
use crate::base::seq::class;
use crate::proto::ahead::Plan;

impl LaneTx {
    pub(super) fn repair_ahead(&mut self, k: u8, symbol_len: u16) -> u8 {
        let n = match self.ahead {
            RepairAhead::Fixed(n) => n,
            RepairAhead::Adaptive => {
                let full = self.plan().ahead;
                // Shorter slots lose less; what covers them would cost more of them.
                let n = (u32::from(full) * u32::from(k) / MAX_DATA_SYMBOLS as u32) as u8;
                n + self.spared(k, symbol_len, n)
            }
        };
        n.min(MAX_REPAIR_SYMBOLS as u8)
    }

    /// Repair symbols of a short slot beyond its own `n`, from what the path's lanes leave of theirs.
    fn spared(&mut self, k: u8, symbol_len: u16, n: u8) -> u8 {
        let share = self.repair.budget();
        if share == 0.0 {
            self.repaired = 0;
            return 0;
        }
        let frame = u64::from(symbol_len) + FRAME_OVERHEAD as u64;
        let own = (f64::from(k) * frame as f64 * share) as i64;
        let spare = self.path.spare();
        spare.add(own - self.repaired);
        self.repaired = 0;
        // What lasts longer than a round trip is no message, and its time is not that of one slot.
        if usize::from(k) == MAX_DATA_SYMBOLS || self.flights() > 1 {
            return 0;
        }
        let wanted = self.repair.short(k, self.next_slot - self.base);
        let got = spare.take(wanted.saturating_sub(n), frame);
        // Paid for already.
        self.repaired = -(i64::from(got) * frame as i64);
        got
    }

    /// For how many round trips the lane has had more to send than it could.
    fn flights(&self) -> u64 {
        let sent = self.log.bytes_sent() - self.busy_from;
        sent / self.in_flight().max(FRAME_OVERHEAD as u64)
    }

    /// Repair symbols of the next slot and of the next answer.
    pub(super) fn plan(&mut self) -> Plan {
        let flights = self.flights();
        let spare = self.path.spare();
        self.repair
            .plan(self.cur - self.base, flights, || spare.left())
    }

    pub(super) fn send_owed(&mut self, now: Nanos, slot: u64) -> Option<TxSymbol> {
        let c = class(slot, WINDOW_SLOTS);
        let m = &mut self.metas[c];
        let (index, kind) = if m.owed_repair > 0 && m.repair_left() > 0 {
            m.owed_repair -= 1;
            m.repair_used += 1;
            (m.k + m.repair_used - 1, SymbolKind::Repair)
        } else if let Some(i) = m.owed_data.lowest() {
            m.owed_repair = 0;
            m.owed_data.remove(i);
            (i as u8, SymbolKind::Resent)
        } else {
            m.owed_repair = 0;
            self.owing.remove(c);
            return None;
        };
        let ends = !m.owes();
        if ends {
            self.owing.remove(c);
        }
        Some(self.emit(now, slot, index, kind, ends))
    }

    /// A symbol of the oldest incomplete slot, to make the peer answer: outside window and pace.
    pub(super) fn probe(&mut self, now: Nanos) -> Option<TxSymbol> {
        self.skip_done();
        let slot = (self.base..self.cur).find(|s| !self.done.contains(class(*s, WINDOW_SLOTS)));
        let Some(slot) = slot else {
            let can = self.cur < self.next_slot && self.cur < self.credit;
            return if can { self.send_first(now) } else { None };
        };
        let c = class(slot, WINDOW_SLOTS);
        if self.owing.contains(c) {
            return self.send_owed(now, slot);
        }
        let m = &mut self.metas[c];
        if m.repair_left() > 0 {
            m.repair_used += 1;
            let index = m.k + m.repair_used - 1;
            return Some(self.emit(now, slot, index, SymbolKind::Repair, false));
        }
        // Missing data in turn, so that one unlucky symbol is not the only one tried.
        let missing = m.missing();
        let next = match missing.shift_down(m.probe_cursor as usize).lowest() {
            Some(i) => i + m.probe_cursor as usize,
            None => missing.lowest().unwrap_or(0),
        };
        m.probe_cursor = ((next + 1) % MAX_DATA_SYMBOLS) as u8;
        Some(self.emit(now, slot, next as u8, SymbolKind::Resent, false))
    }
}
