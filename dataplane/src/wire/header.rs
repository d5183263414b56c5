//! The clear frame header: 24 bytes, little-endian, authenticated as AAD in sealed frames.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | frame kind (low nibble), version (high nibble, 1) |
//! | 1 | flags: bits 0-1 key epoch; bit 2 part of a symbol; the others zero |
//! | 2 | lane, 0..=127 |
//! | 3 | symbol index: `0..k` data, `k..k+32` repair |
//! | 4..8 | session index of the receiver |
//! | 8..16 | packet number (bit 63: control space) |
//! | 16..20 | slot, low 32 bits |
//! | 20 | k, data symbols in the slot |
//! | 21 | slot class, slot mod 96 |
//! | 22..24 | payload bytes, AEAD tag not counted |

use super::CONTROL_PN_BIT;
use crate::base::limits::{
    HEADER_LEN, MAX_DATA_SYMBOLS, MAX_FRAME_LEN, MAX_LANES, MAX_REPAIR_SYMBOLS, MAX_SYMBOL_LEN,
    PART_HEAD_LEN, SYMBOL_ALIGN, TAG_LEN, WINDOW_SLOTS,
};

/// Protocol version in the high nibble of byte 0 (*wire*).
pub const VERSION: u8 = 1;

/// Bit of the flags byte: the frame carries one part of a symbol (*wire*).
const PART: u8 = 4;

/// What a frame carries (*wire*: low nibble of byte 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// One sealed symbol of a slot.
    Symbol = 1,
    /// Sealed control messages of a lane, see [`crate::wire::control`].
    Control = 2,
    /// First handshake message, initiator to responder.
    Offer = 3,
    /// Second handshake message, responder to initiator.
    Counter = 4,
    /// Third handshake message, initiator to responder.
    Accept = 5,
    /// Reserved for the address-validation cookie.
    Cookie = 6,
}

impl FrameKind {
    /// The kind with this nibble.
    pub const fn from_nibble(n: u8) -> Option<FrameKind> {
        Some(match n {
            1 => FrameKind::Symbol,
            2 => FrameKind::Control,
            3 => FrameKind::Offer,
            4 => FrameKind::Counter,
            5 => FrameKind::Accept,
            6 => FrameKind::Cookie,
            _ => return None,
        })
    }

    /// Whether frames of this kind are sealed by a lane key and end with a 16-byte tag.
    pub const fn is_sealed(self) -> bool {
        matches!(self, FrameKind::Symbol | FrameKind::Control)
    }

    /// Whether frames of this kind belong to the handshake.
    pub const fn is_handshake(self) -> bool {
        !self.is_sealed()
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ParseError {
    /// Fewer than 24 bytes.
    #[error("shorter than a header")]
    Truncated,
    /// More bytes than the largest frame.
    #[error("longer than the largest frame")]
    Oversized,
    /// Not this protocol version.
    #[error("unknown protocol version")]
    Version,
    /// Not a frame kind of this version.
    #[error("unknown frame kind")]
    Kind,
    /// A bit or field that this kind does not use is not zero.
    #[error("reserved bits set")]
    Reserved,
    /// Lane of 128 or above.
    #[error("lane out of range")]
    Lane,
    /// Packet number in the space of another kind.
    #[error("packet number in the wrong space")]
    PacketNumber,
    /// k of zero or above 64.
    #[error("symbol count out of range")]
    SymbolCount,
    /// Symbol index of k + 32 or above.
    #[error("symbol index out of range")]
    SymbolIndex,
    /// Class of 96 or above.
    #[error("slot class out of range")]
    Class,
    /// Symbol length zero, not a multiple of 64, or above the largest symbol.
    #[error("symbol length not allowed")]
    SymbolLen,
    /// The length field does not agree with the frame's length.
    #[error("length field disagrees with the frame")]
    Length,
}

impl ParseError {
    /// Whether the bytes look like another protocol or version rather than a damaged frame.
    pub const fn is_foreign(self) -> bool {
        matches!(self, ParseError::Version)
    }
}

/// A decoded header. For kinds other than [`FrameKind::Symbol`], unused fields are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame carries.
    pub kind: FrameKind,
    /// Low two bits of the key epoch, 0..=3.
    pub epoch: u8,
    /// Lane, 0..=127.
    pub lane: u8,
    /// Symbol index: `0..k` data, `k..k+32` repair.
    pub symbol: u8,
    /// Session index of the receiver.
    pub session: u32,
    /// Packet number; bit 63 is set in control frames and clear in symbols.
    pub pn: u64,
    /// Low 32 bits of the slot number.
    pub slot: u32,
    /// Data symbols in the slot, 1..=64.
    pub k: u8,
    /// Slot number modulo 96.
    pub class: u8,
    /// Payload bytes that follow the header, tag not counted.
    pub len: u16,
    /// The payload is a [`crate::wire::part::PartHead`] and one part of the symbol; symbols only.
    pub part: bool,
}

impl Header {
    /// A control frame's header; bit 63 of `pn` is set here.
    pub const fn control(session: u32, lane: u8, pn: u64, len: u16) -> Header {
        Header {
            kind: FrameKind::Control,
            epoch: 0,
            lane,
            symbol: 0,
            session,
            pn: pn | CONTROL_PN_BIT,
            slot: 0,
            k: 0,
            class: 0,
            len,
            part: false,
        }
    }

    /// A handshake frame's header: everything but kind, session and length is zero.
    pub const fn handshake(kind: FrameKind, session: u32, len: u16) -> Header {
        Header {
            kind,
            epoch: 0,
            lane: 0,
            symbol: 0,
            session,
            pn: 0,
            slot: 0,
            k: 0,
            class: 0,
            len,
            part: false,
        }
    }

    /// Writes the header. Only the low two bits of `epoch` are written.
    pub fn encode(&self, out: &mut [u8; HEADER_LEN]) {
        out[0] = self.kind as u8 | VERSION << 4;
        out[1] = self.epoch & 3 | if self.part { PART } else { 0 };
        out[2] = self.lane;
        out[3] = self.symbol;
        out[4..8].copy_from_slice(&self.session.to_le_bytes());
        out[8..16].copy_from_slice(&self.pn.to_le_bytes());
        out[16..20].copy_from_slice(&self.slot.to_le_bytes());
        out[20] = self.k;
        out[21] = self.class;
        out[22..24].copy_from_slice(&self.len.to_le_bytes());
    }

    /// Length of the whole frame that this header announces.
    pub const fn frame_len(&self) -> usize {
        let tag = if self.kind.is_sealed() { TAG_LEN } else { 0 };
        HEADER_LEN + self.len as usize + tag
    }

    /// Reads and checks the header of a whole frame (one UDP datagram or GRO segment).
    ///
    /// # Errors
    /// The first check that fails, in the order version, kind, then field by field.
    pub fn parse(frame: &[u8]) -> Result<Header, ParseError> {
        if frame.len() > MAX_FRAME_LEN {
            return Err(ParseError::Oversized);
        }
        let Some(h) = Header::read(frame) else {
            return Err(ParseError::Truncated);
        };
        let h = h?;
        h.check_fields()?;
        if frame.len() != h.frame_len() {
            return Err(ParseError::Length);
        }
        Ok(h)
    }

    /// How many frames of `burst`, which begins with the frame that `self` is the header of and is cut
    /// every `segment` bytes, hold the data symbols of one slot one after the other, with packet numbers
    /// one after the other and everything else alike; at most `most`. The `i`-th header is then
    /// [`nth`](Self::nth)`(i)`, without parsing it.
    #[inline]
    pub fn run(&self, burst: &[u8], segment: usize, most: usize) -> usize {
        let words = |frame: &[u8]| {
            let (words, _) = frame.get(..HEADER_LEN)?.as_chunks::<8>();
            Some([words[0], words[1], words[2]].map(u64::from_le_bytes))
        };
        if self.kind != FrameKind::Symbol || self.part {
            return 1;
        }
        let Some([kind, pn, slot]) = words(burst) else {
            return 1;
        };
        // Below k no index reaches the next byte, and no number the space of control frames.
        let most = most
            .min(usize::from(self.k.saturating_sub(self.symbol)))
            .min(usize::try_from(CONTROL_PN_BIT - pn.min(CONTROL_PN_BIT)).unwrap_or(usize::MAX));
        let mut n = 1;
        for frame in burst.chunks(segment).take(most).skip(1) {
            let i = n as u64;
            if frame.len() != self.frame_len()
                || words(frame) != Some([kind + (i << 24), pn + i, slot])
            {
                break;
            }
            n += 1;
        }
        n
    }

    /// The header `i` frames on in a [`run`](Self::run).
    #[inline]
    pub const fn nth(&self, i: u8) -> Header {
        Header {
            symbol: self.symbol.wrapping_add(i),
            pn: self.pn.wrapping_add(i as u64),
            ..*self
        }
    }

    fn read(frame: &[u8]) -> Option<Result<Header, ParseError>> {
        // An array: the compiler then sees that no access is out of bounds.
        let b = frame.first_chunk::<HEADER_LEN>()?;
        if b[0] >> 4 != VERSION {
            return Some(Err(ParseError::Version));
        }
        let Some(kind) = FrameKind::from_nibble(b[0] & 0xf) else {
            return Some(Err(ParseError::Kind));
        };
        let flags = b[1];
        if flags & !(3 | PART) != 0 {
            return Some(Err(ParseError::Reserved));
        }
        let u32_at = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        Some(Ok(Header {
            kind,
            epoch: flags & 3,
            lane: b[2],
            symbol: b[3],
            session: u32_at(4),
            pn: u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32,
            slot: u32_at(16),
            k: b[20],
            class: b[21],
            len: u16::from_le_bytes([b[22], b[23]]),
            part: flags & PART != 0,
        }))
    }

    fn check_fields(&self) -> Result<(), ParseError> {
        if self.lane as usize >= MAX_LANES {
            return Err(ParseError::Lane);
        }
        if self.kind == FrameKind::Symbol {
            return self.check_symbol();
        }
        if self.part || self.symbol != 0 || self.slot != 0 || self.k != 0 || self.class != 0 {
            return Err(ParseError::Reserved);
        }
        if self.kind == FrameKind::Control {
            if self.pn & CONTROL_PN_BIT == 0 {
                return Err(ParseError::PacketNumber);
            }
        } else if self.epoch != 0 || self.lane != 0 || self.pn != 0 {
            return Err(ParseError::Reserved);
        }
        Ok(())
    }

    fn check_symbol(&self) -> Result<(), ParseError> {
        let (k, len) = (self.k as usize, self.len as usize);
        if self.pn & CONTROL_PN_BIT != 0 {
            return Err(ParseError::PacketNumber);
        }
        if k == 0 || k > MAX_DATA_SYMBOLS {
            return Err(ParseError::SymbolCount);
        }
        if self.symbol as usize >= k + MAX_REPAIR_SYMBOLS {
            return Err(ParseError::SymbolIndex);
        }
        if self.class as usize >= WINDOW_SLOTS {
            return Err(ParseError::Class);
        }
        let least = if self.part {
            PART_HEAD_LEN + SYMBOL_ALIGN
        } else {
            SYMBOL_ALIGN
        };
        if len < least || !len.is_multiple_of(SYMBOL_ALIGN) || len > MAX_SYMBOL_LEN {
            return Err(ParseError::SymbolLen);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn symbol() -> Header {
        Header {
            kind: FrameKind::Symbol,
            epoch: 2,
            lane: 5,
            symbol: 65,
            session: 0x0403_0201,
            pn: 0x0807_0605_0403_0201,
            slot: 0xddcc_bbaa,
            k: 64,
            class: 7,
            len: 1408,
            part: false,
        }
    }

    fn frame(h: &Header) -> Vec<u8> {
        let mut out = vec![0u8; h.frame_len()];
        h.encode(out.first_chunk_mut().unwrap());
        out
    }

    #[test]
    fn known_answer() {
        let mut out = [0u8; 24];
        symbol().encode(&mut out);
        assert_eq!(
            out,
            [
                0x11, 0x02, 5, 65, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 0xaa, 0xbb, 0xcc, 0xdd, 64,
                7, 0x80, 0x05
            ]
        );
        let part = Header {
            part: true,
            ..symbol()
        };
        let mut out = [0u8; 24];
        part.encode(&mut out);
        assert_eq!(out[1], 6);
        let mut out = [0u8; 24];
        Header::control(0x0a, 127, 9, 65).encode(&mut out);
        assert_eq!(
            out,
            [
                0x12, 0, 127, 0, 0x0a, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 65, 0
            ]
        );
        let mut out = [0u8; 24];
        Header::handshake(FrameKind::Offer, 0, 0x1234).encode(&mut out);
        assert_eq!((out[0], out[22], out[23]), (0x13, 0x34, 0x12));
        assert!(out[1..22].iter().all(|&b| b == 0));
    }

    #[test]
    fn each_bad_field_has_its_error() {
        let bad = |f: &dyn Fn(&mut Header), want| {
            let mut h = symbol();
            f(&mut h);
            assert_eq!(Header::parse(&frame(&h)), Err(want));
        };
        bad(&|h| h.lane = 128, ParseError::Lane);
        bad(&|h| h.k = 0, ParseError::SymbolCount);
        bad(&|h| h.k = 65, ParseError::SymbolCount);
        bad(&|h| h.symbol = 96, ParseError::SymbolIndex);
        bad(&|h| (h.k, h.symbol) = (1, 33), ParseError::SymbolIndex);
        bad(&|h| h.class = 96, ParseError::Class);
        bad(&|h| h.len = 1409, ParseError::SymbolLen);
        bad(&|h| h.len = 0, ParseError::SymbolLen);
        bad(&|h| (h.part, h.len) = (true, 64), ParseError::SymbolLen);
        bad(&|h| h.pn |= CONTROL_PN_BIT, ParseError::PacketNumber);
        let mut f = frame(&symbol());
        f[0] = 0x21;
        assert_eq!(Header::parse(&f), Err(ParseError::Version));
        f[0] = 0x17;
        assert_eq!(Header::parse(&f), Err(ParseError::Kind));
        f[0] = 0x11;
        f[1] = 8;
        assert_eq!(Header::parse(&f), Err(ParseError::Reserved));
        f[1] = 0;
        f.push(0);
        assert_eq!(Header::parse(&f), Err(ParseError::Length));
        assert_eq!(
            Header::parse(&vec![0x11; MAX_FRAME_LEN + 1]),
            Err(ParseError::Oversized)
        );
        assert_eq!(Header::parse(&f[..23]), Err(ParseError::Truncated));
        let mut h = Header::control(1, 2, 3, 8);
        h.pn = 3;
        assert_eq!(Header::parse(&frame(&h)), Err(ParseError::PacketNumber));
        let mut h = Header::control(1, 2, 3, 8);
        h.part = true;
        assert_eq!(Header::parse(&frame(&h)), Err(ParseError::Reserved));
        let mut h = Header::handshake(FrameKind::Counter, 1, 8);
        h.lane = 1;
        assert_eq!(Header::parse(&frame(&h)), Err(ParseError::Reserved));
    }

    /// A burst of `n` frames from `h` on, as a sender makes it.
    fn burst(h: &Header, n: u8) -> Vec<u8> {
        (0..n).flat_map(|i| frame(&h.nth(i))).collect()
    }

    #[test]
    fn a_run_ends_with_the_slot_and_with_the_number_space() {
        let h = Header {
            symbol: 60,
            ..symbol()
        };
        let run = |h: &Header, n, most| h.run(&burst(h, n), h.frame_len(), most);
        assert_eq!(run(&h, 4, 4), 4);
        assert_eq!((run(&h, 4, 3), run(&h, 2, 4)), (3, 2));
        assert_eq!(run(&Header { symbol: 62, ..h }, 4, 4), 2);
        // Repair symbols, parts and other kinds go alone.
        assert_eq!(run(&Header { symbol: 64, ..h }, 4, 4), 1);
        assert_eq!(run(&Header { part: true, ..h }, 4, 4), 1);
        assert_eq!(run(&Header::control(1, 2, 3, 64), 4, 4), 1);
        let last = CONTROL_PN_BIT - 1;
        assert_eq!(run(&Header { pn: last - 1, ..h }, 4, 4), 2);
        assert_eq!(run(&Header { pn: last, ..h }, 4, 4), 1);
    }

    proptest! {
        #[test]
        fn round_trip(k in 1u8..=64, sym in 0u8..96, epoch in 0u8..4, lane in 0u8..128,
                      session: u32, pn in 0..CONTROL_PN_BIT, slot: u32, class in 0u8..96,
                      units in 2u16..=(MAX_SYMBOL_LEN / 64) as u16, part: bool) {
            prop_assume!(sym < k + 32);
            let h = Header { kind: FrameKind::Symbol, epoch, lane, symbol: sym, session, pn, slot,
                             k, class, len: units * 64, part };
            prop_assert_eq!(Header::parse(&frame(&h)), Ok(h));
        }

        #[test]
        fn garbage_never_panics_and_what_parses_re_encodes(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u8..8, fit: bool,
        ) {
            if let Some(b) = bytes.first_mut() {
                *b = VERSION << 4 | kind;
            }
            if fit && bytes.len() >= 40 {
                let tag = if kind <= 2 { 16 } else { 0 };
                let len = (bytes.len() - 24 - tag) as u16;
                bytes[22..24].copy_from_slice(&len.to_le_bytes());
                bytes[1] &= 7;
                bytes[2..4].fill(0);
                bytes[16..22].fill(0);
                if kind > 2 { bytes[1] = 0; bytes[8..16].fill(0); }
            }
            if let Ok(h) = Header::parse(&bytes) {
                let mut out = [0u8; 24];
                h.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..24]);
                prop_assert_eq!(h.frame_len(), bytes.len());
            }
        }

        #[test]
        fn a_truncated_frame_never_parses(cut in 0usize..1448) {
            let f = frame(&symbol());
            prop_assert!(Header::parse(&f[..cut]).is_err());
        }

        /// Whatever a run takes in without parsing it parses, to what `nth` says; and one changed byte
        /// of a header ends the run there.
        #[test]
        fn a_run_holds_what_parsing_gives(k in 1u8..=64, sym in 0u8..64, pn in 0..CONTROL_PN_BIT,
                                          slot: u32, at in 0usize..4 * HEADER_LEN, flip in 0u8..8) {
            let h = Header { symbol: sym.min(k - 1), k, pn, slot, ..symbol() };
            let len = h.frame_len();
            let mut bytes = burst(&h, 4);
            let whole = h.run(&bytes, len, 4);
            let (hit, byte) = (at / HEADER_LEN, at % HEADER_LEN);
            bytes[hit * len + byte] ^= 1 << flip;
            if hit > 0 {
                prop_assert_eq!(h.run(&bytes, len, 4), whole.min(hit));
            }
            // A receiver has parsed the first.
            for i in 0..if hit > 0 { h.run(&bytes, len, 4) } else { 0 } {
                prop_assert_eq!(Header::parse(&bytes[i * len..][..len]), Ok(h.nth(i as u8)));
            }
        }
    }
}
