//! Bodies of control messages. All numbers are little-endian; layouts in [`super`].

use super::extents::Extents;

/// Most bytes of one control message. Longer lists are sent as several messages.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Longest reason in words that is sent or taken, bytes.
const MAX_REASON: usize = 2048;

/// Reads a body from its start; every call gives `None` past the end.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (a, b) = self.0.split_at_checked(n)?;
        self.0 = b;
        Some(a)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (a, b) = self.0.split_first_chunk()?;
        self.0 = b;
        Some(*a)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(|[b]| b)
    }

    /// The next `u16`.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next `u32`.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next `u64`.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Whether everything was read.
    pub fn at_end(&self) -> bool {
        self.0.is_empty()
    }
}

/// Body of `Gone` and `Failed`: object index and reason.
pub fn encode_reason(index: u32, why: &str) -> Vec<u8> {
    let mut end = why.len().min(MAX_REASON);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    let mut b = index.to_le_bytes().to_vec();
    b.extend_from_slice(&why.as_bytes()[..end]);
    b
}

/// Object index and reason; the index is 0 in `Abort` and `Refuse`.
pub fn decode_reason(body: &[u8]) -> Option<(u32, String)> {
    let mut r = Reader(body);
    let index = r.u32()?;
    let text: String = String::from_utf8_lossy(r.0)
        .chars()
        .take(MAX_REASON)
        .collect();
    // What a peer says is shown to people: no control characters.
    Some((
        index,
        text.chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    ))
}

/// One item of `Have`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Have {
    /// Objects `first..first + count` are durable under their final names.
    Done {
        /// First index.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Bytes `start..end` of an object are durable.
    Range {
        /// Object index.
        index: u32,
        /// First byte.
        start: u64,
        /// Byte after the last.
        end: u64,
    },
}

impl Have {
    /// Bytes of one item.
    pub const LEN: usize = 24;

    /// Appends the item.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (index, count, start, end) = match *self {
            Have::Done { first, count } => (first, count, 0, 0),
            Have::Range { index, start, end } => (index, 0, start, end),
        };
        out.extend_from_slice(&index.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&start.to_le_bytes());
        out.extend_from_slice(&end.to_le_bytes());
    }

    /// Reads the next item.
    pub fn decode(r: &mut Reader) -> Option<Have> {
        let (index, count, start, end) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?);
        match count {
            0 if start < end => Some(Have::Range { index, start, end }),
            0 => None,
            _ => Some(Have::Done {
                first: index,
                count,
            }),
        }
    }
}

/// What the sender knows to be durable at the receiver, gathered from `Have` messages.
#[derive(Debug, Default)]
pub struct HaveSet {
    /// Ranges of done objects.
    pub done: Vec<(u32, u32)>,
    /// Partial objects, in the order given.
    pub partial: std::collections::BTreeMap<u32, Extents>,
}

impl HaveSet {
    /// Takes one message for a transfer of `sizes.len()` objects; false when it is malformed.
    pub fn take(&mut self, body: &[u8], size_of: impl Fn(u32) -> Option<u64>) -> bool {
        let mut r = Reader(body);
        while !r.at_end() {
            match Have::decode(&mut r) {
                Some(Have::Done { first, count }) => {
                    let last = first.checked_add(count - 1);
                    if last.and_then(&size_of).is_none() {
                        return false;
                    }
                    self.done.push((first, count));
                }
                Some(Have::Range { index, start, end }) => {
                    if size_of(index).is_none_or(|s| end > s) {
                        return false;
                    }
                    self.partial.entry(index).or_default().add(start, end);
                }
                None => return false,
            }
        }
        true
    }
}

/// One item of `Ends`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Object index.
    pub index: u32,
    /// BLAKE3 of the object, where the transfer is verified as a whole.
    pub hash: Option<[u8; 32]>,
}

impl End {
    /// Appends the item.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index.to_le_bytes());
        out.push(u8::from(self.hash.is_some()));
        out.extend_from_slice(self.hash.as_ref().map_or(&[][..], |h| h));
    }

    /// Reads the next item.
    pub fn decode(r: &mut Reader) -> Option<End> {
        let index = r.u32()?;
        let hash = match r.u8()? {
            0 => None,
            1 => Some(r.array()?),
            _ => return None,
        };
        Some(End { index, hash })
    }
}

/// Appends one item of `Done`: object index, and its receipt as JSON (empty for none).
pub fn encode_done(index: u32, receipt: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&(receipt.len() as u32).to_le_bytes());
    out.extend_from_slice(receipt.as_bytes());
}

/// Reads the next item of `Done`.
pub fn decode_done<'a>(r: &mut Reader<'a>) -> Option<(u32, &'a str)> {
    let index = r.u32()?;
    let len = r.u32()? as usize;
    Some((index, std::str::from_utf8(r.bytes(len)?).ok()?))
}

/// Body of `Progress`: bytes received in this session, bytes durable in all.
pub fn encode_progress(received: u64, durable: u64) -> Vec<u8> {
    [received.to_le_bytes(), durable.to_le_bytes()].concat()
}

/// Reads `Progress`.
pub fn decode_progress(body: &[u8]) -> Option<(u64, u64)> {
    let mut r = Reader(body);
    Some((r.u64()?, r.u64()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_reason(&b);
            let _ = decode_progress(&b);
            HaveSet::default().take(&b, |i| (i < 10).then_some(1000));
            let mut r = Reader(&b);
            while End::decode(&mut r).is_some() {}
            let mut r = Reader(&b);
            while decode_done(&mut r).is_some() {}
        }

        #[test]
        fn items_survive_the_wire(index: u32, hash: Option<[u8; 32]>, text in ".{0,50}", start in 0u64..1000, n in 1u64..1000) {
            let mut b = Vec::new();
            let end = End { index, hash };
            end.encode(&mut b);
            encode_done(index, &text, &mut b);
            let range = Have::Range { index, start, end: start + n };
            range.encode(&mut b);
            let mut r = Reader(&b);
            prop_assert_eq!(End::decode(&mut r), Some(end));
            prop_assert_eq!(decode_done(&mut r), Some((index, &text[..])));
            prop_assert_eq!(Have::decode(&mut r), Some(range));
            prop_assert!(r.at_end());
        }
    }

    #[test]
    fn have_is_checked_against_the_manifest() {
        let size_of = |i: u32| (i < 3).then_some(100);
        let item = |h: Have| {
            let mut b = Vec::new();
            h.encode(&mut b);
            HaveSet::default().take(&b, size_of)
        };
        assert!(item(Have::Done { first: 0, count: 3 }));
        assert!(!item(Have::Done { first: 1, count: 3 }));
        assert!(!item(Have::Done {
            first: u32::MAX,
            count: 2
        }));
        assert!(item(Have::Range {
            index: 2,
            start: 0,
            end: 100
        }));
        assert!(!item(Have::Range {
            index: 2,
            start: 0,
            end: 101
        }));
        assert!(!item(Have::Range {
            index: 3,
            start: 0,
            end: 1
        }));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let b = encode_reason(7, &"\u{20ac}".repeat(2000));
        let (i, t) = decode_reason(&b).expect("it has an index");
        assert_eq!(i, 7);
        assert!(t.chars().all(|c| c == '\u{20ac}') && t.len() <= MAX_REASON);
    }
}
