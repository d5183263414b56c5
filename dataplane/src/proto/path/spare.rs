//! What the lanes of a path leave of the budget for repair, for slots too short to have any of their own.
//!
//! A slot of one symbol cannot have a fiftieth of a repair symbol, and a whole one is beyond the budget of a
//! lane of such slots. Of the path's it is little, where another lane moves bulk.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// What is kept at most, and owed at most, bytes: a burst of short messages' worth.
const MOST: i64 = 64 << 10;

/// Bytes to spare; lanes on different cores add and take.
#[derive(Debug, Default)]
pub struct Spare(AtomicI64);

impl Spare {
    /// Adds what a lane left, or takes off what it used beyond its own (negative). That makes no debt:
    /// only what [`take`](Self::take) gave on credit does.
    pub(in crate::proto) fn add(&self, bytes: i64) {
        let sum = |now: i64| {
            let least = if now < 0 { -MOST } else { 0 };
            Some(now.saturating_add(bytes).clamp(least, MOST))
        };
        // The closure never gives `None`.
        let _ = self.0.fetch_update(Relaxed, Relaxed, sum);
    }

    /// The part of the budget that is left to lanes that have one of their own, 0..=1: with debts,
    /// less and less.
    pub(in crate::proto) fn left(&self) -> f64 {
        let there = self.0.load(Relaxed).min(0);
        (1.0 + there as f64 * 2.0 / MOST as f64).max(0.0)
    }

    /// Takes up to `wanted` times `each` bytes, on credit too; gives how many times.
    pub(in crate::proto) fn take(&self, wanted: u8, each: u64) -> u8 {
        let each = i64::try_from(each).unwrap_or(i64::MAX).max(1);
        let there = (self.0.load(Relaxed).saturating_add(MOST)).max(0) / each;
        let n = there.min(i64::from(wanted)) as u8;
        if n > 0 {
            self.0.fetch_sub(i64::from(n) * each, Relaxed);
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_on_credit_is_paid_back() {
        let s = Spare::default();
        assert_eq!((s.take(0, 100), s.left()), (0, 1.0));
        s.add(250);
        assert_eq!((s.take(3, 100), s.left()), (3, 1.0 - 100.0 / MOST as f64));
        s.add(-250);
        s.add(300);
        assert_eq!(s.left(), 1.0);
        // No more than so much, and then bulk has nothing left.
        assert_eq!((s.take(255, 1 << 10), s.left()), (64, 0.0));
        assert_eq!(s.take(1, 1 << 10), 0);
        s.add(i64::MAX);
        assert_eq!((s.left(), s.take(1, u64::MAX)), (1.0, 0));
    }

    #[test]
    fn what_a_lane_needs_beyond_its_budget_is_no_debt() {
        let s = Spare::default();
        s.add(-1000);
        s.add(i64::MIN);
        assert_eq!(s.left(), 1.0);
    }
}
