//! A set of up to 96 small integers: the slots of a window, or the symbols of a slot.

/// A 96-bit set. Bit `i` stands for slot class `base + i` or for symbol `i`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Bits96(u128);

const MASK: u128 = (1 << 96) - 1;

impl Bits96 {
    /// The empty set.
    pub const EMPTY: Bits96 = Bits96(0);

    /// The set `{0, .., n - 1}`; `n` above 96 is taken as 96.
    pub const fn first(n: usize) -> Bits96 {
        if n >= 96 {
            Bits96(MASK)
        } else {
            Bits96((1u128 << n) - 1)
        }
    }

    /// Adds `i`; returns whether it was new. `i` of 96 and above is ignored and gives `false`.
    pub const fn insert(&mut self, i: usize) -> bool {
        if i >= 96 || self.contains(i) {
            return false;
        }
        self.0 |= Bits96::one(i);
        true
    }

    /// Adds `i, .., i + n - 1`, all below 64: what goes beyond is ignored.
    pub const fn insert_run(&mut self, i: usize, n: usize) {
        if i < 64 && n > 0 {
            let ones = if n >= 64 { u64::MAX } else { (1 << n) - 1 };
            self.0 |= (ones << i) as u128;
        }
    }

    /// How many of `i, .., 63` are no members before the first that is; 0 for `i` of 64 and above.
    pub const fn gap(self, i: usize) -> usize {
        if i >= 64 {
            return 0;
        }
        let n = (self.0 as u64 >> i).trailing_zeros() as usize;
        if n > 64 - i { 64 - i } else { n }
    }

    /// Removes `i`.
    pub const fn remove(&mut self, i: usize) {
        if i < 96 {
            self.0 &= !Bits96::one(i);
        }
    }

    /// Whether `i` is a member.
    pub const fn contains(self, i: usize) -> bool {
        // By halves: shifting all 128 bits by a variable takes several times as long.
        if i < 64 {
            self.0 as u64 >> i & 1 == 1
        } else {
            i < 96 && (self.0 >> 64) as u64 >> (i - 64) & 1 == 1
        }
    }

    /// The set `{i}` as bits; `i` is below 96.
    const fn one(i: usize) -> u128 {
        if i < 64 {
            (1u64 << i) as u128
        } else {
            ((1u64 << (i - 64)) as u128) << 64
        }
    }

    /// Number of members.
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Members of both sets.
    pub const fn and(self, o: Bits96) -> Bits96 {
        Bits96(self.0 & o.0)
    }

    /// Members of either set.
    pub const fn or(self, o: Bits96) -> Bits96 {
        Bits96(self.0 | o.0)
    }

    /// Members of `self` that are not in `o`.
    pub const fn minus(self, o: Bits96) -> Bits96 {
        Bits96(self.0 & !o.0)
    }

    /// Every member lowered by `n`; those below `n` leave the set.
    pub const fn shift_down(self, n: usize) -> Bits96 {
        if n >= 96 {
            Bits96(0)
        } else {
            Bits96(self.0 >> n)
        }
    }

    /// Smallest member.
    pub const fn lowest(self) -> Option<usize> {
        if self.0 == 0 {
            None
        } else {
            Some(self.0.trailing_zeros() as usize)
        }
    }

    /// Largest member.
    pub const fn highest(self) -> Option<usize> {
        if self.0 == 0 {
            None
        } else {
            Some(127 - self.0.leading_zeros() as usize)
        }
    }

    /// How many of `0, 1, 2, ..` are members before the first gap.
    pub const fn leading_run(self) -> usize {
        self.0.trailing_ones() as usize
    }

    /// The members in rising order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            if rest == 0 {
                return None;
            }
            let i = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            Some(i)
        })
    }

    /// Twelve bytes, little-endian: bit `i` is bit `i % 8` of byte `i / 8`.
    pub const fn to_bytes(self) -> [u8; 12] {
        let b = self.0.to_le_bytes();
        [
            b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11],
        ]
    }

    /// The inverse of [`Bits96::to_bytes`]; every input is a valid set.
    pub const fn from_bytes(b: [u8; 12]) -> Bits96 {
        Bits96(u128::from_le_bytes([
            b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], 0, 0, 0, 0,
        ]))
    }
}

/// As 24 hexadecimal digits, the highest member first.
impl serde::Serialize for Bits96 {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:024x}", self.0))
    }
}

impl<'de> serde::Deserialize<'de> for Bits96 {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Bits96, D::Error> {
        let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
        match u128::from_str_radix(&text, 16) {
            Ok(bits) if bits <= MASK => Ok(Bits96(bits)),
            _ => Err(serde::de::Error::custom(
                "a set of 96 is 24 hexadecimal digits",
            )),
        }
    }
}

impl std::fmt::Debug for Bits96 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn agrees_with_a_btreeset(ops in proptest::collection::vec((0usize..110, any::<bool>()), 0..200), n in 0usize..110) {
            let mut s = Bits96::EMPTY;
            let mut o = BTreeSet::new();
            for (i, add) in ops {
                if add {
                    let new = i < 96 && o.insert(i);
                    prop_assert_eq!(s.insert(i), new);
                } else {
                    s.remove(i);
                    o.remove(&i);
                }
            }
            prop_assert_eq!(s.len(), o.len());
            prop_assert_eq!(s.iter().collect::<Vec<_>>(), o.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(s.lowest(), o.first().copied());
            prop_assert_eq!(s.highest(), o.last().copied());
            prop_assert_eq!(Bits96::from_bytes(s.to_bytes()), s);
            let down: Vec<_> = o.iter().filter(|&&i| i >= n).map(|i| i - n).collect();
            prop_assert_eq!(s.shift_down(n).iter().collect::<Vec<_>>(), down);
            prop_assert_eq!(s.leading_run(), (0..96).take_while(|i| o.contains(i)).count());
            prop_assert_eq!(Bits96::first(n).len(), n.min(96));
        }
    }

    proptest! {
        #[test]
        fn runs_are_members_one_by_one(there in 0u64.., i in 0usize..70, n in 0usize..70) {
            let mut runs = Bits96::EMPTY;
            (0..64).filter(|b| there >> b & 1 == 1).for_each(|b| { runs.insert(b); });
            let mut single = runs;
            let gap = (i..64).take_while(|&b| !single.contains(b)).count();
            prop_assert_eq!(runs.gap(i), gap);
            runs.insert_run(i, n);
            (i..(i + n).min(64)).for_each(|b| { single.insert(b); });
            prop_assert_eq!(runs, single);
        }
    }

    #[test]
    fn it_survives_json() {
        let mut s = Bits96::EMPTY;
        for i in [0, 5, 63, 64, 95] {
            s.insert(i);
        }
        for set in [s, Bits96::EMPTY, Bits96::first(96)] {
            let text = serde_json::to_string(&set).expect("a text");
            assert_eq!(text.len(), 26);
            assert_eq!(serde_json::from_str::<Bits96>(&text).expect(&text), set);
        }
        for bad in ["\"\"", "\"g\"", "7", "\"1000000000000000000000000\""] {
            assert!(serde_json::from_str::<Bits96>(bad).is_err(), "{bad}");
        }
    }
}
