//! The map of a session's window: the addresses of its slots, 96 for each lane, drawn as a heat map.
//!
//! Address `96 * lane + class` is one slot of one lane. A full session of 128 lanes has 12,288
//! addresses, 48 pages of 256.

use super::model::Lane;
use ctp96::base::Bits96;
use ctp96::base::limits::{MAX_LANES, WINDOW_SLOTS};
use ctp96::stage::LaneStatus;

/// Addresses of a page.
pub const PAGE: usize = 256;
/// From nothing to everything.
const SHADES: &[u8] = b".:-=+*%#";

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the peer.
    Out,
    /// From the peer.
    In,
}

impl Direction {
    /// The other one.
    pub fn other(self) -> Direction {
        match self {
            Direction::Out => Direction::In,
            Direction::In => Direction::Out,
        }
    }

    /// Slots of a lane's window that hold something.
    pub fn occupied(self, s: &LaneStatus) -> Bits96 {
        match self {
            Direction::Out => s.tx_slots,
            Direction::In => s.rx_open.or(s.rx_held),
        }
    }
}

/// One character of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Addresses that hold a slot.
    pub used: usize,
    /// Addresses of open lanes; where there is none the cell stands for no slot at all.
    pub of: usize,
    /// Whether the selected lane has one of them.
    pub selected: bool,
}

impl Cell {
    /// Its character.
    pub fn shade(self) -> char {
        if self.of == 0 {
            return ' ';
        }
        char::from(SHADES[self.heat()])
    }

    /// From 0, empty, to 7, full; anything between is at least 1 and at most 6.
    pub fn heat(self) -> usize {
        let top = SHADES.len() - 1;
        match self.used {
            0 => 0,
            n if n >= self.of => top,
            n => (n * top / self.of).clamp(1, top - 1),
        }
    }
}

/// A session's window, drawn.
#[derive(Debug)]
pub struct Atlas {
    /// Cells, row by row.
    pub cells: Vec<Cell>,
    /// Cells of a row.
    pub width: usize,
    /// Addresses of a cell.
    pub scale: usize,
    /// Addresses that hold a slot.
    pub used: usize,
    /// Addresses of the session's lanes.
    pub of: usize,
}

impl Atlas {
    /// Draws the lanes of a session into at most `width` columns and `rows` rows. The scale is the
    /// smallest power of two that fits, so that pages and rows line up.
    pub fn draw<'a>(
        lanes: impl Iterator<Item = &'a Lane>,
        direction: Direction,
        selected: Option<u8>,
        width: usize,
        rows: usize,
    ) -> Atlas {
        let mut addresses: Vec<Option<(bool, bool)>> = Vec::new();
        let (mut used, mut of) = (0, 0);
        for lane in lanes.filter(|l| usize::from(l.info.status.lane) < MAX_LANES) {
            let s = &lane.info.status;
            let from = usize::from(s.lane) * WINDOW_SLOTS;
            let slots = direction.occupied(s);
            if addresses.len() < from + WINDOW_SLOTS {
                addresses.resize(from + WINDOW_SLOTS, None);
            }
            for class in 0..WINDOW_SLOTS {
                addresses[from + class] = Some((slots.contains(class), selected == Some(s.lane)));
            }
            used += slots.len();
            of += WINDOW_SLOTS;
        }
        // A power of two as well, for the same reason.
        let width = 1 << width.clamp(1, PAGE).ilog2();
        let room = width * rows.max(1);
        let mut scale = 1;
        while addresses.len().div_ceil(scale) > room {
            scale *= 2;
        }
        let cell = |chunk: &[Option<(bool, bool)>]| Cell {
            used: chunk.iter().flatten().filter(|(used, _)| *used).count(),
            of: chunk.iter().flatten().count(),
            selected: chunk.iter().flatten().any(|(_, selected)| *selected),
        };
        Atlas {
            cells: addresses.chunks(scale).map(cell).collect(),
            width,
            scale,
            used,
            of,
        }
    }

    /// The rows, each with the page that begins in its first cell.
    pub fn rows(&self) -> impl Iterator<Item = (Option<usize>, &[Cell])> {
        self.cells.chunks(self.width).enumerate().map(|(i, cells)| {
            let address = i * self.width * self.scale;
            let page = address.is_multiple_of(PAGE).then_some(address / PAGE);
            (page, cells)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::lane;
    use super::*;

    #[test]
    fn a_full_session_is_forty_eight_pages() {
        let lanes: Vec<_> = (0..128).map(|n| lane(1, n, 96)).collect();
        let a = Atlas::draw(lanes.iter(), Direction::Out, None, 256, 48);
        assert_eq!((a.width, a.scale, a.used, a.of), (256, 1, 12_288, 12_288));
        let pages: Vec<_> = a.rows().map(|(page, _)| page).collect();
        assert_eq!(pages, (0..48).map(Some).collect::<Vec<_>>());
        assert!(a.cells.iter().all(|c| c.shade() == '#'));
        // On a small terminal each character is several slots.
        let a = Atlas::draw(lanes.iter(), Direction::Out, Some(3), 35, 11);
        assert_eq!((a.width, a.scale, a.cells.len()), (32, 64, 192));
        assert_eq!(a.rows().count(), 6);
        // Lane 3 has the addresses 288 to 383: cells 4 and 5.
        let marked: Vec<_> = (0..192).filter(|&i| a.cells[i].selected).collect();
        assert_eq!(marked, [4, 5]);
    }

    #[test]
    fn shades_tell_empty_from_little_and_full_from_nearly() {
        let cell = |used| Cell {
            used,
            of: 64,
            selected: false,
        };
        let text: String = [0, 1, 32, 63, 64].map(|n| cell(n).shade()).iter().collect();
        assert_eq!(text, ".:=%#");
        let gone = Cell { of: 0, ..cell(0) };
        assert_eq!(gone.shade(), ' ');
    }

    #[test]
    fn every_bit_has_its_place_in_both_directions() {
        let mut l = lane(1, 1, 0);
        l.info.status.tx_slots.insert(5);
        l.info.status.rx_open.insert(6);
        l.info.status.rx_held.insert(7);
        let used = |d| {
            let a = Atlas::draw([&l].into_iter(), d, None, 64, 4);
            assert_eq!((a.scale, a.of), (1, 96));
            assert_eq!(a.cells[0].shade(), ' ', "there is no lane 0");
            (0..192)
                .filter(|&i| a.cells[i].used == 1)
                .collect::<Vec<_>>()
        };
        assert_eq!(used(Direction::Out), [96 + 5]);
        assert_eq!(used(Direction::In), [96 + 6, 96 + 7]);
        let none = Atlas::draw(std::iter::empty(), Direction::In, None, 0, 0);
        assert_eq!((none.rows().count(), none.of), (0, 0));
    }
}
