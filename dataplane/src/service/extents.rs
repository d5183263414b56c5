//! Which byte ranges of an object are there.

/// A set of bytes as sorted, disjoint, non-adjacent ranges `(start, end)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extents(Vec<(u64, u64)>);

impl Extents {
    /// The empty set.
    pub const fn new() -> Extents {
        Extents(Vec::new())
    }

    /// Adds `start..end`; nothing if that is empty. Amortized cost is that of one binary search
    /// while ranges mostly grow.
    pub fn add(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // Ranges that touch or overlap the new one: first..last.
        let first = self.0.partition_point(|r| r.1 < start);
        let last = first + self.0[first..].partition_point(|r| r.0 <= end);
        if first == last {
            self.0.insert(first, (start, end));
            return;
        }
        let merged = (start.min(self.0[first].0), end.max(self.0[last - 1].1));
        self.0[first] = merged;
        self.0.drain(first + 1..last);
    }

    /// Bytes in the set.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|r| r.1 - r.0).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the set is exactly `0..size`.
    pub fn covers(&self, size: u64) -> bool {
        if size == 0 {
            self.0.is_empty()
        } else {
            self.0 == [(0, size)]
        }
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// The ranges of `0..size` that are missing.
    pub fn missing(&self, size: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let starts = std::iter::once(0).chain(self.0.iter().map(|r| r.1));
        let ends = self.0.iter().map(|r| r.0).chain(std::iter::once(size));
        starts
            .zip(ends.map(move |e| e.min(size)))
            .filter(|(a, b)| a < b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_bitmap(adds in proptest::collection::vec((0u64..200, 0u64..60), 0..40)) {
            let mut e = Extents::new();
            let mut bits = [false; 260];
            for (start, len) in adds {
                e.add(start, start + len);
                bits[start as usize..(start + len) as usize].fill(true);
                prop_assert_eq!(e.len(), bits.iter().filter(|b| **b).count() as u64);
            }
            let mut got = [false; 260];
            for w in e.ranges().windows(2) {
                prop_assert!(w[0].1 < w[1].0, "sorted and not adjacent");
            }
            for &(a, b) in e.ranges() {
                prop_assert!(a < b);
                got[a as usize..b as usize].fill(true);
            }
            prop_assert_eq!(got, bits);
            for size in [0u64, 1, 100, 200, 260] {
                let mut inverse = [true; 260];
                for (a, b) in e.missing(size) {
                    prop_assert!(a < b && b <= size);
                    inverse[a as usize..b as usize].fill(false);
                }
                for i in 0..size as usize {
                    prop_assert_eq!(inverse[i], bits[i]);
                }
                let full = bits[..size as usize].iter().all(|b| *b);
                let beyond = bits[size as usize..].iter().any(|b| *b);
                prop_assert_eq!(e.covers(size), full && !beyond);
            }
        }
    }
}
