//! The 64-byte head in front of everything that the service puts into a slot.
//!
//! A slot's content is a sequence of records: a head, `len` bytes of body, and zeros up to the
//! next multiple of 64. So bodies are 64-aligned in the slot arena on both sides.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..4 | `C96O` |
//! | 4 | kind (see `Kind`) |
//! | 5 | flags: bit 0, the body goes on in the next record of the same kind (lane 0 only) |
//! | 6..8 | zero |
//! | 8..16 | transfer tag, chosen by the object's sender, unique in its session |
//! | 16..20 | object index (data) |
//! | 20..24 | `len`: bytes of the body |
//! | 24..32 | offset of the body in the object (data) |
//! | 32..64 | zero |
//!
//! All fields are little-endian.

/// Bytes of a head; bodies start and end on multiples of it.
pub const HEAD: usize = 64;
const MAGIC: [u8; 4] = *b"C96O";
/// Flag: the body goes on in the next record.
pub const MORE: u8 = 1;

/// What a record is. Below 16 from the object's sender, from 16 on from its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Begins a manifest.
    Offer = 1,
    /// Entries of the manifest.
    Entries = 2,
    /// The manifest is complete.
    OfferEnd = 3,
    /// Bytes of an object.
    Data = 4,
    /// All bytes of these objects were sent and their source did not change meanwhile.
    Ends = 5,
    /// An object that will not be completed, and why.
    Gone = 6,
    /// The sender gives the transfer up.
    Abort = 7,
    /// What is durable at the receiver already.
    Have = 16,
    /// The receiver takes the transfer; data may come.
    Accept = 17,
    /// The transfer is refused or has failed as a whole, and why.
    Refuse = 18,
    /// How far the receiver is.
    Progress = 19,
    /// These objects are durable under their final name.
    Done = 20,
    /// An object that the receiver could not store, and why.
    Failed = 21,
    /// Every object is done or failed; the transfer is over.
    Finished = 22,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 14] = [
        Kind::Offer,
        Kind::Entries,
        Kind::OfferEnd,
        Kind::Data,
        Kind::Ends,
        Kind::Gone,
        Kind::Abort,
        Kind::Have,
        Kind::Accept,
        Kind::Refuse,
        Kind::Progress,
        Kind::Done,
        Kind::Failed,
        Kind::Finished,
    ];

    fn from_wire(n: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| *k as u8 == n)
    }

    /// Whether the receiver of the objects says this to their sender.
    pub fn is_reply(self) -> bool {
        self as u8 >= 16
    }
}

/// One decoded head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What follows.
    pub kind: Kind,
    /// Whether the body goes on in the next record.
    pub more: bool,
    /// Transfer tag.
    pub tag: u64,
    /// Object index.
    pub index: u32,
    /// Body bytes.
    pub len: u32,
    /// Offset in the object.
    pub offset: u64,
}

/// Why a slot's content is not a sequence of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer than 64 bytes are left.
    #[error("a record is cut short")]
    Short,
    /// Not a head of this protocol.
    #[error("a record has no valid head")]
    Head,
    /// A kind that this version does not know.
    #[error("a record has the unknown kind {0}")]
    Kind(u8),
    /// The body runs past the slot.
    #[error("a record runs past its slot")]
    Length,
}

impl Head {
    /// A head of a control message.
    pub fn control(kind: Kind, tag: u64, len: usize, more: bool) -> Head {
        Head {
            kind,
            more,
            tag,
            index: 0,
            len: len as u32,
            offset: 0,
        }
    }

    /// Writes the head to the start of `out`, which has at least 64 bytes.
    pub fn encode(&self, out: &mut [u8; HEAD]) {
        out.fill(0);
        out[0..4].copy_from_slice(&MAGIC);
        out[4] = self.kind as u8;
        out[5] = if self.more { MORE } else { 0 };
        out[8..16].copy_from_slice(&self.tag.to_le_bytes());
        out[16..20].copy_from_slice(&self.index.to_le_bytes());
        out[20..24].copy_from_slice(&self.len.to_le_bytes());
        out[24..32].copy_from_slice(&self.offset.to_le_bytes());
    }

    /// Reads one head.
    pub fn decode(h: &[u8; HEAD]) -> Result<Head, RecordError> {
        let u32_at = |i: usize| u32::from_le_bytes([h[i], h[i + 1], h[i + 2], h[i + 3]]);
        let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
        if h[..4] != MAGIC || h[5] & !MORE != 0 || h[6..8] != [0; 2] || h[32..] != [0; 32] {
            return Err(RecordError::Head);
        }
        let kind = Kind::from_wire(h[4]).ok_or(RecordError::Kind(h[4]))?;
        let more = h[5] & MORE != 0;
        if more && kind == Kind::Data {
            return Err(RecordError::Head);
        }
        Ok(Head {
            kind,
            more,
            tag: u64_at(8),
            index: u32_at(16),
            len: u32_at(20),
            offset: u64_at(24),
        })
    }
}

/// The next record of a slot's content: its head, its body, and what follows.
pub fn next_record(content: &[u8]) -> Result<(Head, &[u8], &[u8]), RecordError> {
    let (h, rest) = content
        .split_first_chunk::<HEAD>()
        .ok_or(RecordError::Short)?;
    let head = Head::decode(h)?;
    let len = head.len as usize;
    let body = rest.get(..len).ok_or(RecordError::Length)?;
    // The padding of the last record may be left out.
    let rest = rest.get(padded(len)..).unwrap_or(&[]);
    Ok((head, body, rest))
}

/// Body bytes with their padding.
pub const fn padded(len: usize) -> usize {
    len.next_multiple_of(HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_records_or_refused(mut b in proptest::collection::vec(any::<u8>(), 0..400), magic: bool) {
            if magic && b.len() >= 64 {
                b[..4].copy_from_slice(&MAGIC);
                b[4] %= 24;
                b[5] &= 1;
                b[6..8].fill(0);
                b[21..24].fill(0);
                b[32..64].fill(0);
            }
            let mut rest = &b[..];
            while !rest.is_empty() {
                match next_record(rest) {
                    Ok((h, body, r)) => {
                        prop_assert_eq!(body.len(), h.len as usize);
                        prop_assert!(r.len() < rest.len());
                        rest = r;
                    }
                    Err(_) => break,
                }
            }
        }

        #[test]
        fn encode_then_decode_is_the_identity(k in 0usize..14, more: bool, tag: u64, index: u32, len: u32, offset: u64) {
            let kind = Kind::ALL[k];
            let h = Head { kind, more: more && kind != Kind::Data, tag, index, len, offset };
            let mut b = [0xff; HEAD];
            h.encode(&mut b);
            prop_assert_eq!(Head::decode(&b), Ok(h));
        }
    }
}
