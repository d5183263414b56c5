//! What a histogram gained between two looks at it.

use hdrhistogram::Histogram as Hdr;
use std::collections::BTreeMap;

/// The values in `now` that were not in `before`. Where `before` has more values it is of an
/// earlier run of the daemon, and everything in `now` is new.
///
/// A snapshot keeps the largest value exactly and the others as the middle of their bucket. Once a
/// larger one comes, the former largest value moves to its middle, so a plain subtraction would find
/// a value missing; such a one is taken off its nearest neighbour, which is in the same bucket.
pub fn since(now: &Hdr<u64>, before: &Hdr<u64>) -> Hdr<u64> {
    if before.len() > now.len() {
        return now.clone();
    }
    let mut cells: BTreeMap<u64, i128> = BTreeMap::new();
    for v in now.iter_recorded() {
        *cells.entry(v.value_iterated_to()).or_default() += i128::from(v.count_at_value());
    }
    for v in before.iter_recorded() {
        *cells.entry(v.value_iterated_to()).or_default() -= i128::from(v.count_at_value());
    }
    let missing: Vec<(u64, i128)> = cells
        .iter()
        .filter(|(_, n)| **n < 0)
        .map(|(v, n)| (*v, -n))
        .collect();
    for (value, mut owed) in missing {
        cells.insert(value, 0);
        while owed > 0 {
            let near = |(v, n): (&u64, &i128)| (*n > 0).then_some((v.abs_diff(value), *v));
            let below = cells.range(..value).rev().find_map(near);
            let above = cells.range(value..).find_map(near);
            // There are as many positive ones at least, since `now` has no fewer values.
            let Some((_, at)) = below.into_iter().chain(above).min() else {
                break;
            };
            if let Some(n) = cells.get_mut(&at) {
                let taken = owed.min(*n);
                *n -= taken;
                owed -= taken;
            }
        }
    }
    let mut out = Hdr::new_from(now);
    // Recording a value no times would still raise the maximum.
    for (value, n) in cells.into_iter().filter(|(_, n)| *n > 0) {
        out.saturating_record_n(value, u64::try_from(n).unwrap_or(0));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctp96::obs::Histogram;

    #[test]
    fn a_new_maximum_leaves_no_value_missing() {
        let h = Histogram::new();
        h.record_n(1_000_003, 5);
        let before = h.snapshot();
        assert_eq!(since(&before, &before).len(), 0);
        h.record(50);
        h.record(9_000_001);
        let d = since(&h.snapshot(), &before);
        assert_eq!((d.len(), d.count_at(50)), (2, 1));
        assert!(d.max().abs_diff(9_000_001) < 10_000, "{}", d.max());
    }

    #[test]
    fn intervals_add_up_to_the_whole() {
        let h = Histogram::new();
        let (mut last, mut sum) = (h.snapshot(), 0);
        let mut x = 1u64;
        for i in 0..50 {
            for _ in 0..i {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                h.record(x >> (24 + x % 30));
            }
            let now = h.snapshot();
            let d = since(&now, &last);
            assert_eq!(d.len(), i, "interval {i}");
            sum += d.len();
            last = now;
        }
        assert_eq!(sum, h.count());
    }

    #[test]
    fn fewer_values_mean_a_restart() {
        let (old, new) = (Histogram::new(), Histogram::new());
        old.record_n(100, 9);
        new.record(7);
        assert_eq!(since(&new.snapshot(), &old.snapshot()).len(), 1);
    }
}
