//! Data symbols of one slot that follow each other, entered at once: what one after the other would do.

use super::{LaneRx, Progress};
use crate::base::Nanos;
use crate::base::limits::WINDOW_SLOTS;
use crate::base::seq::{class, extend_slot};

impl LaneRx {
    /// The slot of `n` data symbols from `symbol` on that may be opened into it at once, and how many
    /// of them: it holds something already, has none of them, and is not complete before the last.
    /// `None` where that is otherwise for the first already; changes nothing.
    #[inline]
    pub fn admit_run(
        &self,
        slot_low: u32,
        (symbol, n): (u8, u8),
        k: u8,
        len: u16,
    ) -> Option<(u64, u8)> {
        let slot = extend_slot(slot_low, self.base)?;
        let c = class(slot, WINDOW_SLOTS);
        let s = &self.slots[c];
        let ours = slot >= self.base && slot < self.credit && !self.complete.contains(c);
        // k and length of a slot that holds something were judged with its first symbol.
        let same = s.count > 0 && s.k == k && s.len == len;
        if !(ours && same) {
            return None;
        }
        let free = s.have.gap(usize::from(symbol)) as u8;
        let n = n
            .min(free)
            .min(k.saturating_sub(symbol))
            .min(k.saturating_sub(s.count));
        (n > 0).then_some((slot, n))
    }

    /// As [`LaneRx::stored`] for `n` data symbols of `(k, len)` from `symbol` on, with packet numbers
    /// from `pn` on, all of which [`LaneRx::admit_run`] allowed; what the last of them led to.
    #[inline]
    pub fn stored_run(
        &mut self,
        now: Nanos,
        slot: u64,
        (symbol, n): (u8, u8),
        (k, len): (u8, u16),
        pn: u64,
    ) -> Progress {
        if self.received > 0 && pn == self.largest_pn.wrapping_add(1) {
            self.arrived_in_order(now, u64::from(n), len);
        } else {
            for i in 0..u64::from(n) {
                self.arrived(now, pn.saturating_add(i), len);
            }
        }
        let s = &mut self.slots[class(slot, WINDOW_SLOTS)];
        s.have.insert_run(usize::from(symbol), usize::from(n));
        s.count += n;
        self.progress(now, slot, k)
    }

    /// [`LaneRx::arrived`] for `n` frames whose packet numbers follow the largest one and each other.
    fn arrived_in_order(&mut self, now: Nanos, n: u64, len: u16) {
        self.largest_pn = self.largest_pn.saturating_add(n);
        self.largest_at = now;
        self.count_arrived(now, n, len);
    }
}

#[cfg(test)]
mod tests {
    use super::super::LaneRxConfig;
    use super::*;
    use crate::proto::Admit;
    use proptest::prelude::*;

    proptest! {
        /// Gaps, old numbers, repeated and repair symbols and acknowledgements included: whatever is
        /// admitted as a run leaves the receiver as one symbol after the other does.
        #[test]
        fn a_run_is_one_symbol_after_the_other(
            k in 2u8..=64,
            len in prop_oneof![Just(64u16), Just(1408), Just(8896)],
            steps in prop::collection::vec(
                (
                    0u64..3_000,
                    prop_oneof![4 => Just(None), 1 => (0u8..70).prop_map(Some)],
                    prop_oneof![6 => Just(0i64), 1 => -3i64..4],
                    1u8..=4,
                    any::<bool>(),
                ),
                1..80,
            ),
        ) {
            let config = LaneRxConfig { window_slots: 96, max_symbol_len: 8896 };
            let (mut single, mut group) = (LaneRx::new(config), LaneRx::new(config));
            let (mut now, mut pn, mut next) = (0, 0u64, 0u64);
            for (gap, jump, skew, n, ack) in steps {
                now += gap;
                let slot = next / u64::from(k);
                let first = jump.unwrap_or((next % u64::from(k)) as u8);
                pn = pn.saturating_add_signed(skew);
                let admitted = group.admit_run(slot as u32, (first, n), k, len);
                if let Some((at, n)) = admitted {
                    prop_assert_eq!(at, slot);
                    let mut last = Progress::Duplicate;
                    for i in 0..n {
                        let admit = single.admit(slot as u32, first + i, k, len);
                        prop_assert_eq!(admit, Admit::Store { slot, first: false });
                        last = single.stored(now, slot, first + i, k, len, pn + u64::from(i));
                        prop_assert!(i + 1 == n || last == Progress::Partial);
                    }
                    let got = group.stored_run(now, slot, (first, n), (k, len), pn);
                    prop_assert_eq!(got, last);
                    next = if jump.is_none() { next + u64::from(n) } else { next };
                    pn += u64::from(n);
                } else {
                    // As the stage does it: one by itself.
                    let admit = single.admit(slot as u32, first, k, len);
                    prop_assert_eq!(group.admit(slot as u32, first, k, len), admit);
                    for rx in [&mut single, &mut group] {
                        match admit {
                            Admit::Store { .. } => {
                                rx.stored(now, slot, first, k, len, pn);
                            }
                            _ => rx.duplicate(now, pn),
                        }
                    }
                    next += u64::from(jump.is_none());
                    pn += 1;
                }
                if ack && single.ack_due(now) {
                    let released = single.base();
                    prop_assert_eq!(
                        single.build_ack(now, released, 1 << 20),
                        group.build_ack(now, released, 1 << 20)
                    );
                }
                prop_assert_eq!(format!("{single:?}"), format!("{group:?}"));
            }
        }
    }
}
