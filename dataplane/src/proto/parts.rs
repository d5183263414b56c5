//! Which parts of symbols a receiver holds.

use crate::base::limits::{MAX_SYMBOLS, WINDOW_SLOTS};

/// What a part is to its symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartIn {
    /// It is here already.
    Duplicate,
    /// Others are still missing.
    Partial,
    /// It was the last one missing.
    Whole,
}

/// The parts held of each symbol of the window, by class: 18 KiB, taken when the lane opens.
#[derive(Debug)]
pub(super) struct Parts {
    masks: Box<[[u16; MAX_SYMBOLS]]>,
    /// In how many parts the symbols of a slot come; 0 where none came in parts.
    parts: [u8; WINDOW_SLOTS],
}

impl Parts {
    pub(super) fn new() -> Parts {
        Parts {
            masks: vec![[0; MAX_SYMBOLS]; WINDOW_SLOTS].into_boxed_slice(),
            parts: [0; WINDOW_SLOTS],
        }
    }

    /// Takes part `part` of `parts` (at most 16) of a symbol.
    pub(super) fn put(&mut self, class: usize, symbol: usize, part: u8, parts: u8) -> PartIn {
        if self.parts[class] != parts {
            // The sender cuts differently now, because the path has changed.
            self.clear(class);
            self.parts[class] = parts;
        }
        let mask = &mut self.masks[class][symbol];
        let bit = 1u16 << (part & 15);
        if *mask & bit != 0 {
            return PartIn::Duplicate;
        }
        *mask |= bit;
        if mask.count_ones() < u32::from(parts) {
            return PartIn::Partial;
        }
        *mask = 0;
        PartIn::Whole
    }

    /// What was here of a symbol is no longer.
    pub(super) fn forget(&mut self, class: usize, symbol: usize) {
        if let Some(mask) = self.masks[class].get_mut(symbol) {
            *mask = 0;
        }
    }

    /// The class belongs to another slot now.
    pub(super) fn clear(&mut self, class: usize) {
        if self.parts[class] != 0 {
            self.parts[class] = 0;
            self.masks[class].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_whole_once_every_part_is_here() {
        let mut p = Parts::new();
        assert_eq!(p.put(3, 95, 1, 3), PartIn::Partial);
        assert_eq!(p.put(3, 95, 1, 3), PartIn::Duplicate);
        assert_eq!(p.put(3, 94, 2, 3), PartIn::Partial);
        assert_eq!(p.put(3, 95, 0, 3), PartIn::Partial);
        assert_eq!(p.put(3, 95, 2, 3), PartIn::Whole);
        // Cut differently: what was here of the old cut does not count.
        assert_eq!(p.put(3, 94, 0, 2), PartIn::Partial);
        assert_eq!(p.put(3, 94, 1, 2), PartIn::Whole);
        assert_eq!(p.put(4, 0, 0, 2), PartIn::Partial);
        p.forget(4, 0);
        p.forget(4, 200);
        assert_eq!(p.put(4, 0, 1, 2), PartIn::Partial);
        p.clear(4);
        assert_eq!(p.put(4, 0, 1, 2), PartIn::Partial);
    }
}
