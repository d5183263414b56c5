//! Several data symbols of one slot at once: what one after the other would do.

use super::{LaneRx, Progress};
use crate::base::Nanos;
use crate::base::limits::WINDOW_SLOTS;
use crate::base::seq::{class, extend_slot};

impl LaneRx {
    /// The slot of data symbols that may be opened into it at once, and how many of them, from the
    /// first on: it holds something already, has none of them, and is not complete before the last.
    /// `None` where that is otherwise for the first already; changes nothing.
    #[inline]
    pub fn admit_group(
        &self,
        slot_low: u32,
        symbols: &[u8],
        k: u8,
        len: u16,
    ) -> Option<(u64, usize)> {
        let slot = extend_slot(slot_low, self.base)?;
        let c = class(slot, WINDOW_SLOTS);
        let s = &self.slots[c];
        let ours = slot >= self.base && slot < self.credit && !self.complete.contains(c);
        // k and length of a slot that holds something were judged with its first symbol.
        let same = !s.have.is_empty() && s.k == k && s.len == len;
        if !(ours && same) {
            return None;
        }
        let (mut have, mut count) = (s.have, s.count);
        for &symbol in symbols {
            if symbol >= k || count >= k || !have.insert(usize::from(symbol)) {
                break;
            }
            count += 1;
        }
        let n = usize::from(count - s.count);
        (n > 0).then_some((slot, n))
    }

    /// As [`LaneRx::stored`] for one symbol of `(k, len)` after the other, all of which
    /// [`LaneRx::admit_group`] allowed; what the last of them led to.
    pub fn stored_group(
        &mut self,
        now: Nanos,
        slot: u64,
        symbols: &[u8],
        of: (u8, u16),
        pns: &[u64],
    ) -> Progress {
        let next = self.largest_pn.wrapping_add(1);
        let in_order = self.received > 0
            && pns
                .iter()
                .zip(0..)
                .all(|(&pn, i)| pn == next.wrapping_add(i));
        if in_order {
            self.arrived_in_order(now, pns.len() as u64, of.1);
        } else {
            for &pn in pns {
                self.arrived(now, pn, of.1);
            }
        }
        self.put(now, slot, symbols, of)
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
        /// admitted as a group leaves the receiver as one symbol after the other does.
        #[test]
        fn a_group_is_one_symbol_after_the_other(
            k in 2u8..=64,
            len in prop_oneof![Just(64u16), Just(1408), Just(8896)],
            steps in prop::collection::vec(
                (
                    0u64..3_000,
                    prop_oneof![4 => Just(None), 1 => (0u8..70).prop_map(Some)],
                    prop_oneof![6 => Just(0i64), 1 => -3i64..4],
                    1usize..=4,
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
                let symbols: Vec<u8> = (0..n as u8).map(|i| first.saturating_add(i)).collect();
                pn = pn.saturating_add_signed(skew);
                let pns: Vec<u64> = (0..n as u64).map(|i| pn + i).collect();
                let admitted = group.admit_group(slot as u32, &symbols, k, len);
                if let Some((at, n)) = admitted {
                    prop_assert_eq!(at, slot);
                    let mut last = Progress::Duplicate;
                    for (i, (&symbol, &pn)) in symbols.iter().zip(&pns).take(n).enumerate() {
                        let admit = single.admit(slot as u32, symbol, k, len);
                        prop_assert_eq!(admit, Admit::Store { slot, first: false });
                        last = single.stored(now, slot, symbol, k, len, pn);
                        prop_assert!(i + 1 == n || last == Progress::Partial);
                    }
                    let got = group.stored_group(now, slot, &symbols[..n], (k, len), &pns[..n]);
                    prop_assert_eq!(got, last);
                    next = if jump.is_none() { next + n as u64 } else { next };
                    pn += n as u64;
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
