//! One part of a symbol that is longer than a frame of the path may be.
//!
//! Slots are cut before it is known what the path carries, and a path may shrink. A symbol then goes
//! in several SYMBOL frames with the part flag. Their plaintext is a head of 64 bytes and a part:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..2 | length of the whole symbol |
//! | 2 | number of the part, from 0 |
//! | 3 | parts in all, 2 to 9 |
//! | 4..64 | zero |
//!
//! Every part but the last has [`part_len`] bytes, a multiple of 64.

use crate::base::limits::{MAX_PARTS, MAX_SYMBOL_LEN, PART_HEAD_LEN, SYMBOL_ALIGN, align_symbol};
use std::ops::Range;

/// Bytes of each part but the last when a symbol of `symbol_len` bytes is cut in `parts`.
pub const fn part_len(symbol_len: usize, parts: usize) -> usize {
    align_symbol(symbol_len.div_ceil(parts))
}

/// In how many parts a symbol travels where a frame may carry `room` bytes: 1 where it fits whole.
/// `room` is at least two alignments; more than [`MAX_PARTS`] there are only for a `room` below the
/// base size.
pub const fn parts_for(symbol_len: usize, room: usize) -> usize {
    if symbol_len <= room {
        return 1;
    }
    let most = room - PART_HEAD_LEN;
    symbol_len.div_ceil(most - most % SYMBOL_ALIGN)
}

/// What stands before a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHead {
    /// Bytes of the whole symbol: a multiple of 64, at most 9,088.
    pub symbol_len: u16,
    /// Which part, below `parts`.
    pub part: u8,
    /// Parts in all, 2 to 9.
    pub parts: u8,
}

impl PartHead {
    /// Where the part lies in its symbol; empty for a head that no receiver accepts.
    pub fn range(&self) -> Range<usize> {
        let len = usize::from(self.symbol_len);
        let each = part_len(len, usize::from(self.parts).max(1));
        let from = (usize::from(self.part) * each).min(len);
        from..(from + each).min(len)
    }

    /// Writes the head.
    pub fn encode(&self, out: &mut [u8; PART_HEAD_LEN]) {
        out.fill(0);
        out[..2].copy_from_slice(&self.symbol_len.to_le_bytes());
        out[2] = self.part;
        out[3] = self.parts;
    }

    /// Reads the plaintext of a part frame: the head, and the bytes of the part. Nothing where a
    /// field is out of range, a reserved byte is not zero, or the length is not the part's.
    pub fn decode(plain: &[u8]) -> Option<(PartHead, &[u8])> {
        let (head, body) = plain.split_first_chunk::<PART_HEAD_LEN>()?;
        let h = PartHead {
            symbol_len: u16::from_le_bytes([head[0], head[1]]),
            part: head[2],
            parts: head[3],
        };
        let len = usize::from(h.symbol_len);
        let range = h.range();
        let sound = len <= MAX_SYMBOL_LEN
            && len.is_multiple_of(SYMBOL_ALIGN)
            && (2..=MAX_PARTS).contains(&usize::from(h.parts))
            && h.part < h.parts
            && !range.is_empty()
            && range.len() == body.len()
            && head[4..].iter().all(|&b| b == 0);
        sound.then_some((h, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::BASE_SYMBOL_LEN;
    use proptest::prelude::*;

    #[test]
    fn known_answer() {
        let h = PartHead {
            symbol_len: 1408,
            part: 1,
            parts: 2,
        };
        let mut plain = [0xff; PART_HEAD_LEN + 704];
        h.encode(plain.first_chunk_mut().unwrap());
        assert_eq!(plain[..5], [0x80, 0x05, 1, 2, 0]);
        assert_eq!(h.range(), 704..1408);
        let (got, body) = PartHead::decode(&plain).unwrap();
        assert_eq!((got, body.len()), (h, 704));
        let with = |at: usize, v: u8| {
            let mut p = plain;
            p[at] = v;
            PartHead::decode(&p).is_some()
        };
        assert!(with(2, 0) && !with(2, 2) && !with(3, 1) && !with(3, 0) && !with(3, 10));
        assert!(!with(0, 0x81) && !with(1, 0xff) && !with(63, 1));
        assert!(PartHead::decode(&plain[..plain.len() - 64]).is_none());
        assert!(PartHead::decode(&plain[..63]).is_none());
    }

    #[test]
    fn the_parts_of_every_symbol_cover_it_once_and_fit_the_base_frame() {
        for symbol_len in (64..=MAX_SYMBOL_LEN).step_by(64) {
            for room in [BASE_SYMBOL_LEN, 1408, 2048, 8896] {
                let parts = parts_for(symbol_len, room);
                assert!(parts <= MAX_PARTS, "{symbol_len} in {room}: {parts}");
                if parts == 1 {
                    assert!(symbol_len <= room);
                    continue;
                }
                let mut at = 0;
                for part in 0..parts {
                    let h = PartHead {
                        symbol_len: symbol_len as u16,
                        part: part as u8,
                        parts: parts as u8,
                    };
                    let r = h.range();
                    assert_eq!(r.start, at, "{symbol_len} in {room}");
                    assert!(!r.is_empty() && r.len() + PART_HEAD_LEN <= room);
                    let mut plain = vec![7; PART_HEAD_LEN + r.len()];
                    h.encode(plain.first_chunk_mut().unwrap());
                    assert_eq!(PartHead::decode(&plain).unwrap().0, h);
                    at = r.end;
                }
                assert_eq!(at, symbol_len);
            }
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_what_decodes_re_encodes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300), zero: bool,
        ) {
            if zero && bytes.len() > 4 {
                let n = bytes.len().min(PART_HEAD_LEN);
                bytes[4..n].fill(0);
            }
            if let Some((h, body)) = PartHead::decode(&bytes) {
                let mut out = [0; PART_HEAD_LEN];
                h.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..PART_HEAD_LEN]);
                prop_assert_eq!(h.range().len(), body.len());
            }
        }
    }
}
