//! Wire formats: encoding and decoding only, no state, no time, no allocation.
//!
//! Every parser here takes bytes that an attacker chose. None of them panics, and none accepts a
//! value outside the range that its field's documentation states; fields that a frame kind does not
//! use must be zero, so that every accepted frame has exactly one encoding.

pub mod ack;
pub mod control;
pub mod eth;
pub mod handshake;
pub mod header;
pub mod part;

pub use ack::{Ack, AckError, Report, Reports};
pub use control::{ControlError, Message};
pub use header::{FrameKind, Header, ParseError};
pub use part::PartHead;

/// Bit of the packet number that tells the control space from the data space (*wire*).
///
/// Symbols count in the space with this bit clear, control frames in the space with it set, so the
/// two never share a nonce under the same key.
pub const CONTROL_PN_BIT: u64 = 1 << 63;

/// A cursor that reads little-endian integers and gives `None` past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A cursor that writes little-endian integers and gives `None` past the end.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Writer<'a> {
        Writer { out, at: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.at.checked_add(bytes.len())?;
        self.out.get_mut(self.at..end)?.copy_from_slice(bytes);
        self.at = end;
        Some(())
    }

    /// Bytes written so far.
    pub(crate) fn written(&self) -> usize {
        self.at
    }
}
