//! The receiving end of a lane: which symbols are here, when to acknowledge, and what to say.

mod run;

use super::parts::{PartIn, Parts};
use crate::base::limits::{
    ACK_DELAY_NS, ACK_EVERY_BYTES, ACK_EVERY_SLOTS, ACK_MAX_DELAY_NS, ACK_QUIET_NS,
    MAX_DATA_SYMBOLS, MAX_DEFICITS, MAX_REPAIR_SYMBOLS, SYMBOL_ALIGN, WINDOW_SLOTS,
};
use crate::base::seq::{class, extend_slot};
use crate::base::{Bits96, Nanos};
use crate::wire::ack::{Ack, Report};
use crate::wire::control::EcnCounts;
use crate::wire::part::PartHead;

/// Prompt acknowledgements (gap, duplicate, opened credit) are at least this far apart, nanoseconds.
pub const PROMPT_ACK_SPACING_NS: Nanos = 20_000;
/// Gaps and duplicates are reported at that distance only where enough bytes have come to be worth
/// an acknowledgement, so that reordering does not turn every second frame into one. This is the
/// distance until then, nanoseconds.
const GAP_ACK_SPACING_NS: Nanos = 2_000_000;
/// Data that has come since the last acknowledgement is at least this many times as long as that
/// was: many reports make it several times longer.
const ACK_SHARE: u64 = 300;
/// Bytes that are worth one at the start of a lane.
const ACK_FIRST_BYTES: u64 = 4096;

/// What a lane's receiver needs to know at the start.
#[derive(Clone, Copy, Debug)]
pub struct LaneRxConfig {
    /// Slots in the window, 1..=96; also the credit before the first acknowledgement.
    pub window_slots: u8,
    /// Largest symbol that was negotiated, bytes.
    pub max_symbol_len: u16,
}

/// What to do with a symbol, judged by its clear header before decryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Open it into the slot; `first` says that the slot holds nothing yet and needs a buffer.
    Store {
        /// Full slot number.
        slot: u64,
        /// No symbol of the slot is here yet.
        first: bool,
    },
    /// Already here, or its slot is complete. Where the tag verifies, tell [`LaneRx::duplicate`].
    Duplicate,
    /// Beyond the credit that was granted.
    OutOfWindow,
    /// k or length differ from the slot's first symbol, or are out of range.
    Inconsistent,
}

/// What a stored symbol led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The slot still lacks symbols.
    Partial,
    /// All data symbols are here; nothing to decode.
    Complete,
    /// k symbols are here, some of them repair: decode with [`LaneRx::slot_have`].
    NeedsDecode,
    /// It came twice within one batch, or was not admissible: nothing was stored.
    Duplicate,
}

#[derive(Clone, Copy, Debug, Default)]
struct RxSlot {
    have: Bits96,
    /// Members of `have`: counting them for each symbol costs more than the rest of its work.
    count: u8,
    /// Zero until something of the slot is here.
    k: u8,
    len: u16,
}

/// See the module's text. No method allocates; none panics, whatever the peer sends.
#[derive(Debug)]
pub struct LaneRx {
    slots: [RxSlot; WINDOW_SLOTS],
    parts: Parts,
    /// By class: complete slots at or above `base`.
    complete: Bits96,
    window: u64,
    max_symbol_len: u16,
    base: u64,
    /// One more than the highest slot that a symbol came for.
    seen_end: u64,
    credit: u64,
    advertised: u64,
    received: u64,
    largest_pn: u64,
    largest_at: Nanos,
    ecn: EcnCounts,
    complete_since_ack: u32,
    bytes_since_ack: u64,
    /// Bytes that are worth an acknowledgement, see [`LaneRx::worth`].
    ack_every: u64,
    bytes: u64,
    last_ack_at: Option<Nanos>,
    due: Option<Nanos>,
    /// When the first data frame since the last acknowledgement arrived.
    first_unacked: Option<Nanos>,
    /// When that is acknowledged if nothing more happens.
    quiet: Option<Nanos>,
    report_from: u64,
}

impl LaneRx {
    /// A receiver that expects slot 0 first.
    pub fn new(cfg: LaneRxConfig) -> LaneRx {
        let window = u64::from(cfg.window_slots).clamp(1, WINDOW_SLOTS as u64);
        LaneRx {
            slots: [RxSlot::default(); WINDOW_SLOTS],
            parts: Parts::new(),
            complete: Bits96::EMPTY,
            window,
            max_symbol_len: cfg.max_symbol_len,
            base: 0,
            seen_end: 0,
            credit: window,
            advertised: window,
            received: 0,
            largest_pn: 0,
            largest_at: 0,
            ecn: EcnCounts::default(),
            complete_since_ack: 0,
            bytes_since_ack: 0,
            ack_every: ACK_EVERY_BYTES,
            bytes: 0,
            last_ack_at: None,
            due: None,
            first_unacked: None,
            quiet: None,
            report_from: 0,
        }
    }

    /// Judges a symbol by its header fields; changes nothing.
    pub fn admit(&self, slot_low: u32, symbol: u8, k: u8, len: u16) -> Admit {
        let Some(slot) = extend_slot(slot_low, self.base) else {
            return Admit::Duplicate;
        };
        self.judge(slot, symbol, k, len)
    }

    fn judge(&self, slot: u64, symbol: u8, k: u8, len: u16) -> Admit {
        if slot < self.base {
            return Admit::Duplicate;
        }
        // credit <= base + 96, so a slot below it owns its class alone.
        if slot >= self.credit {
            return Admit::OutOfWindow;
        }
        let (kk, sym) = (k as usize, symbol as usize);
        if kk == 0
            || kk > MAX_DATA_SYMBOLS
            || sym >= kk + MAX_REPAIR_SYMBOLS
            || len == 0
            || len > self.max_symbol_len
            || !(len as usize).is_multiple_of(SYMBOL_ALIGN)
        {
            return Admit::Inconsistent;
        }
        let c = class(slot, WINDOW_SLOTS);
        let s = &self.slots[c];
        if self.complete.contains(c) {
            return Admit::Duplicate;
        }
        if s.k == 0 {
            return Admit::Store { slot, first: true };
        }
        if s.k != k || s.len != len {
            return Admit::Inconsistent;
        }
        if s.have.contains(sym) {
            return Admit::Duplicate;
        }
        Admit::Store { slot, first: false }
    }

    /// Notes an authenticated symbol that was stored after [`LaneRx::admit`] said so. `pn` must have
    /// passed the replay window.
    pub fn stored(
        &mut self,
        now: Nanos,
        slot: u64,
        symbol: u8,
        k: u8,
        len: u16,
        pn: u64,
    ) -> Progress {
        self.arrived(now, pn, len);
        if !matches!(self.judge(slot, symbol, k, len), Admit::Store { .. }) {
            return Progress::Duplicate;
        }
        let s = &mut self.slots[class(slot, WINDOW_SLOTS)];
        (s.k, s.len) = (k, len);
        s.count += u8::from(s.have.insert(usize::from(symbol)));
        self.progress(now, slot, k)
    }

    /// What follows from the symbols that the slot has now.
    fn progress(&mut self, now: Nanos, slot: u64, k: u8) -> Progress {
        let c = class(slot, WINDOW_SLOTS);
        let s = &self.slots[c];
        self.seen_end = self.seen_end.max(slot + 1);
        let have = s.have;
        if s.count < k {
            return Progress::Partial;
        }
        self.complete.insert(c);
        while self.base < self.credit && self.complete.contains(class(self.base, WINDOW_SLOTS)) {
            self.complete.remove(class(self.base, WINDOW_SLOTS));
            self.base += 1;
        }
        self.complete_since_ack += 1;
        if self.complete_since_ack >= ACK_EVERY_SLOTS {
            self.want_ack_at(now);
        } else if self.base == self.seen_end || 2 * self.bytes_since_ack >= self.worth() {
            // Nothing is open, so nothing may follow; or it is worth it.
            self.want_ack_at(now.saturating_add(ACK_DELAY_NS));
        }
        if have.and(Bits96::first(k as usize)).len() == k as usize {
            Progress::Complete
        } else {
            Progress::NeedsDecode
        }
    }

    /// Notes one authenticated part of a symbol that was stored after [`LaneRx::admit`] said so for
    /// the whole symbol; the last part missing makes the symbol count as stored.
    pub fn part_stored(
        &mut self,
        now: Nanos,
        slot: u64,
        (symbol, k): (u8, u8),
        part: PartHead,
        pn: u64,
    ) -> Progress {
        let (len, bytes) = (part.symbol_len, part.range().len() as u16);
        if !matches!(self.judge(slot, symbol, k, len), Admit::Store { .. }) {
            self.arrived(now, pn, bytes);
            return Progress::Duplicate;
        }
        let c = class(slot, WINDOW_SLOTS);
        let held = self
            .parts
            .put(c, usize::from(symbol), part.part, part.parts);
        if held == PartIn::Whole {
            return self.stored(now, slot, symbol, k, len, pn);
        }
        self.arrived(now, pn, bytes);
        let s = &mut self.slots[c];
        (s.k, s.len) = (k, len);
        self.seen_end = self.seen_end.max(slot + 1);
        if held == PartIn::Duplicate {
            self.want_gap_ack(now);
        }
        Progress::Partial
    }

    /// The place of a symbol that [`LaneRx::admit`] allowed to be stored was written with a frame that
    /// did not verify: parts of the symbol that were there are lost, and will be sent again.
    #[cold]
    pub fn spoiled(&mut self, slot: u64, symbol: u8) {
        self.parts
            .forget(class(slot, WINDOW_SLOTS), usize::from(symbol));
    }

    /// Notes an authenticated symbol that was [`Admit::Duplicate`]: its sender missed something.
    pub fn duplicate(&mut self, now: Nanos, pn: u64) {
        self.arrived(now, pn, 0);
        self.want_gap_ack(now);
    }

    /// Notes the ECN bits of an authenticated data frame that counts as received.
    #[inline]
    pub fn on_ecn(&mut self, bits: u8) {
        self.on_ecn_of(bits, 1);
    }

    /// As [`LaneRx::on_ecn`], for `n` frames.
    #[inline]
    pub fn on_ecn_of(&mut self, bits: u8, n: u64) {
        match bits & 3 {
            0 => {}
            1 => self.ecn.ect1 += n,
            2 => self.ecn.ect0 += n,
            _ => self.ecn.ce += n,
        }
    }

    /// How the data frames received so far were marked.
    pub fn ecn(&self) -> EcnCounts {
        self.ecn
    }

    /// The peer asked (ping): acknowledge now.
    pub fn request_ack(&mut self, now: Nanos) {
        self.want_ack_at(now);
    }

    /// The application has released every slot below `credit_released`: opens credit, and
    /// acknowledges at once where the sender may be waiting for it.
    pub fn released(&mut self, now: Nanos, credit_released: u64) {
        self.open_credit(credit_released);
        if self.credit == self.advertised {
            return;
        }
        if self.seen_end >= self.advertised {
            self.want_prompt_ack(now);
        } else if self.credit - self.advertised >= self.window.div_ceil(4) {
            self.want_ack_at(now.saturating_add(ACK_DELAY_NS));
        }
    }

    fn open_credit(&mut self, credit_released: u64) {
        // A slot is released only after it is complete and in order.
        let released = credit_released.min(self.base);
        let credit = released + self.window;
        while self.credit < credit {
            // The class now belongs to a new slot; the one before lies below `base`.
            let c = class(self.credit, WINDOW_SLOTS);
            self.slots[c] = RxSlot::default();
            self.parts.clear(c);
            self.credit += 1;
        }
    }

    fn arrived(&mut self, now: Nanos, pn: u64, len: u16) {
        if self.received == 0 || pn > self.largest_pn {
            let expected = if self.received == 0 {
                0
            } else {
                self.largest_pn.saturating_add(1)
            };
            self.largest_pn = pn;
            self.largest_at = now;
            if pn > expected {
                self.want_gap_ack(now);
            }
        }
        self.count_arrived(now, 1, len);
    }

    fn count_arrived(&mut self, now: Nanos, n: u64, len: u16) {
        self.received = (self.received + n).min(self.largest_pn.saturating_add(1));
        // What is worth an acknowledgement grows by less than what has come, so if a frame before
        // the last has made one due, the last one does too.
        self.bytes_since_ack += n * u64::from(len);
        self.bytes += n * u64::from(len);
        if self.bytes_since_ack >= self.worth() {
            self.want_ack_at(now.saturating_add(ACK_DELAY_NS));
        }
        // A sender that waits in the middle of a slot shows by its silence.
        let first = *self.first_unacked.get_or_insert(now);
        let latest = first.saturating_add(ACK_MAX_DELAY_NS);
        self.quiet = Some(now.saturating_add(ACK_QUIET_NS).min(latest));
    }

    /// Bytes since the last acknowledgement that are worth another. While little has come, the sender
    /// has little in flight: then one lost acknowledgement must not be the only one.
    fn worth(&self) -> u64 {
        self.ack_every.min((self.bytes / 8).max(ACK_FIRST_BYTES))
    }

    fn want_gap_ack(&mut self, now: Nanos) {
        if self.bytes_since_ack >= self.worth() {
            self.want_prompt_ack(now);
        } else {
            let spaced = self
                .last_ack_at
                .map_or(0, |t| t.saturating_add(GAP_ACK_SPACING_NS));
            self.want_ack_at(now.max(spaced));
        }
    }

    fn want_prompt_ack(&mut self, now: Nanos) {
        let spaced = self.last_ack_at.map_or(0, |t| t + PROMPT_ACK_SPACING_NS);
        self.want_ack_at(now.max(spaced));
    }

    fn want_ack_at(&mut self, at: Nanos) {
        self.due = Some(self.due.map_or(at, |d| d.min(at)));
    }

    /// Whether an acknowledgement should leave now.
    pub fn ack_due(&self, now: Nanos) -> bool {
        self.next_timeout().is_some_and(|d| d <= now)
    }

    /// When an acknowledgement will be due.
    pub fn next_timeout(&self) -> Option<Nanos> {
        match (self.due, self.quiet) {
            (Some(due), Some(quiet)) => Some(due.min(quiet)),
            (due, quiet) => due.or(quiet),
        }
    }

    /// Builds the acknowledgement and takes it as sent. The application has released every slot
    /// below `credit_released`; `inflight_limit` is what the socket can hold, bytes.
    pub fn build_ack(&mut self, now: Nanos, credit_released: u64, inflight_limit: u32) -> Ack {
        self.open_credit(credit_released);
        let mut ack = Ack {
            base: self.base,
            largest_pn: self.largest_pn,
            received: self.received,
            delay_us: u32::try_from(now.saturating_sub(self.largest_at) / 1000).unwrap_or(u32::MAX),
            ce: self.ecn.ce as u32,
            lost_before_fec: self.lost_before_fec(),
            credit: self.credit,
            inflight_limit,
            ..Ack::default()
        };
        for slot in self.base..self.seen_end {
            if self.complete.contains(class(slot, WINDOW_SLOTS)) {
                ack.complete.insert((slot - self.base) as usize);
            }
        }
        self.push_reports(&mut ack);
        self.advertised = self.credit;
        self.complete_since_ack = 0;
        self.bytes_since_ack = 0;
        self.ack_every = ACK_EVERY_BYTES.max(ACK_SHARE * ack.encoded_len() as u64);
        self.last_ack_at = Some(now);
        (self.due, self.quiet, self.first_unacked) = (None, None, None);
        ack
    }

    /// Reports slots with some symbols but not enough. Fewer than 16 reports mean that no other slot
    /// has any symbol; with 16, every slot between the first and the last reported one is covered,
    /// and the next acknowledgement goes on where this one stopped, so that none waits for older ones.
    fn push_reports(&mut self, ack: &mut Ack) {
        let open = |slot: &u64| self.is_open(*slot);
        let count = (self.base..self.seen_end).filter(open).count();
        let before = (self.base..self.report_from.min(self.seen_end))
            .filter(open)
            .count();
        let skip = before.min(count.saturating_sub(MAX_DEFICITS));
        let mut next = self.base;
        for slot in (self.base..self.seen_end)
            .filter(open)
            .skip(skip)
            .take(MAX_DEFICITS)
        {
            let s = &self.slots[class(slot, WINDOW_SLOTS)];
            ack.push_report(Report {
                offset: (slot - self.base) as u8,
                deficit: (s.k as usize).saturating_sub(s.have.len()) as u8,
                have: s.have,
            });
            next = slot + 1;
        }
        self.report_from = if skip + MAX_DEFICITS >= count {
            self.base
        } else {
            next
        };
    }

    /// Whether a slot holds symbols but is not complete.
    pub fn is_open(&self, slot: u64) -> bool {
        if slot < self.base || slot >= self.seen_end {
            return false;
        }
        let c = class(slot, WINDOW_SLOTS);
        !self.complete.contains(c) && !self.slots[c].have.is_empty()
    }

    /// Frames that never arrived, as far as gaps in packet numbers tell.
    pub fn lost_before_fec(&self) -> u64 {
        if self.received == 0 {
            return 0;
        }
        self.largest_pn
            .saturating_add(1)
            .saturating_sub(self.received)
    }

    /// Symbols held of a slot, also after completion until its class is granted again. Bit i below k is data symbol i, bit k + j is repair symbol j.
    pub fn slot_have(&self, slot: u64) -> Bits96 {
        self.slots[class(slot, WINDOW_SLOTS)].have
    }

    /// Every slot below this one is complete.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Slots below this one may be sent by the peer.
    pub fn credit(&self) -> u64 {
        self.credit
    }

    /// Authenticated data frames received, replays not counted.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// As `is_open`, or some parts of a symbol are here.
    fn is_begun(&self, slot: u64) -> bool {
        let c = class(slot, WINDOW_SLOTS);
        !self.complete.contains(c) && self.slots[c].k != 0
    }

    /// Slots of which something is here but that are not complete, by class.
    pub fn open_slots(&self) -> Bits96 {
        let mut set = Bits96::EMPTY;
        for slot in (self.base..self.seen_end).filter(|slot| self.is_begun(*slot)) {
            set.insert(class(slot, WINDOW_SLOTS));
        }
        set
    }

    /// Complete slots from `released` on, by class: those that wait for an earlier one, and those
    /// that the application has not given back.
    pub fn held_slots(&self, released: u64) -> Bits96 {
        let mut set = self.complete;
        for slot in released.max(self.base.saturating_sub(WINDOW_SLOTS as u64))..self.base {
            set.insert(class(slot, WINDOW_SLOTS));
        }
        set
    }

    /// Slots of which something is here but that are not complete.
    pub fn pending(&self) -> usize {
        (self.base..self.seen_end)
            .filter(|slot| self.is_begun(*slot))
            .count()
    }
}
