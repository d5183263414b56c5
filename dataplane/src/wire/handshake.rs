//! Handshake frames and the plaintext inside them. Layouts only: no keys, no policy.
//!
//! Frame: the 24-byte header (integers little-endian), then one Noise message of `len` bytes.
//!
//! | bytes | field | OFFER | COUNTER | ACCEPT |
//! | --- | --- | --- | --- | --- |
//! | 0 | kind, version << 4 | 3 | 4 | 5 |
//! | 4..8 | receiver's session index | 0 | initiator's | responder's |
//! | 22..24 | len | | | |
//!
//! Every other header byte is zero and a frame with anything else there is refused, so that no bit
//! of a handshake frame can be changed unnoticed although Noise does not cover the header.
//!
//! OFFER and COUNTER payload: [`Params`] (80 bytes), then extensions to the end, each
//! `type u16 | len u16 | body`. Bit 15 of the type says critical: a receiver that does not know a
//! critical extension refuses, one that does not know an optional extension skips it.
//! ACCEPT payload: [`Accept`] (48 bytes).

use thiserror::Error;

use crate::base::limits::{
    HEADER_LEN, MAX_CORES, MAX_LANES, MAX_SYMBOL_LEN, SYMBOL_ALIGN, WINDOW_SLOTS,
};

/// Version in the frame header and in [`Params`].
pub const VERSION: u8 = 1;
/// Bytes of [`Params`] before the extensions.
pub const PARAMS_LEN: usize = 80;
/// Bytes of [`Accept`].
pub const ACCEPT_LEN: usize = 48;
/// Smallest OFFER payload: padded so that no COUNTER is larger than the OFFER that asked for it.
pub const OFFER_PAYLOAD_MIN: usize = 256;
/// Largest body (Noise message) of a handshake frame, bytes: room for a post-quantum extension.
pub const MAX_BODY: usize = 2048;
/// Largest handshake frame.
pub const MAX_HANDSHAKE_FRAME: usize = HEADER_LEN + MAX_BODY;

/// AES-256-GCM, the mandatory suite.
pub const SUITE_AES_256_GCM: u8 = 1;
/// AEGIS-256X2 with a 128-bit tag; whoever states it understands [`SUITE_AES_256_GCM`] too.
pub const SUITE_AEGIS_256X2: u8 = 2;
/// AEGIS-256 with a 128-bit tag; whoever states it understands [`SUITE_AEGIS_256X2`] too.
pub const SUITE_AEGIS_256: u8 = 3;

/// What people call a suite.
pub const fn suite_name(suite: u8) -> &'static str {
    match suite {
        SUITE_AES_256_GCM => "AES-256-GCM",
        SUITE_AEGIS_256X2 => "AEGIS-256X2",
        SUITE_AEGIS_256 => "AEGIS-256",
        _ => "unknown suite",
    }
}

/// The suite of a session between nodes that state `a` and `b`: each number implies all below it,
/// so it is the lesser. Both statements are in the Noise transcript.
pub const fn agreed_suite(a: u8, b: u8) -> u8 {
    if a < b { a } else { b }
}

/// Extension types, without the critical bit.
pub mod ext {
    /// Set in the type of an extension that must be understood.
    pub const CRITICAL: u16 = 0x8000;
    /// Padding; the body is ignored.
    pub const PADDING: u16 = 0;
    /// Reserved: ML-KEM-768 encapsulation key (1,184 bytes).
    pub const MLKEM_KEY: u16 = 1;
    /// Reserved: ML-KEM-768 ciphertext (1,088 bytes).
    pub const MLKEM_CIPHERTEXT: u16 = 2;
    /// Reserved: cookie against address spoofing.
    pub const COOKIE: u16 = 3;
    /// Reserved: further attestation evidence.
    pub const ATTESTATION: u16 = 4;
}

/// Which of the three handshake messages a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The initiator's first message.
    Offer = 3,
    /// The responder's answer.
    Counter = 4,
    /// The initiator's confirmation.
    Accept = 5,
}

/// Why bytes are not a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// Too short, too long, or not as long as it says.
    #[error("wrong length")]
    Length,
    /// Another protocol version.
    #[error("unsupported version")]
    Version,
    /// Not one of the three handshake kinds.
    #[error("not a handshake frame")]
    Kind,
    /// A byte that must be zero is not.
    #[error("reserved byte is not zero")]
    Reserved,
    /// A critical extension of a type this version does not know.
    #[error("unknown critical extension {0}")]
    CriticalExtension(u16),
}

/// A parsed handshake frame; `body` is the Noise message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Which message.
    pub kind: Kind,
    /// Session index of the receiver; zero in OFFER.
    pub session: u32,
    /// The Noise message.
    pub body: &'a [u8],
}

/// Whether a frame's first byte says handshake of this version: where to hand it to.
pub fn is_handshake(frame: &[u8]) -> bool {
    frame
        .first()
        .is_some_and(|&b| b >> 4 == VERSION && matches!(b & 0x0f, 3..=5))
}

fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(b, at))
}

/// `N` bytes of `b` from `at`. Callers have checked the length; a shorter `b` gives zeros, not a panic.
fn array<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b.get(at..)
        .and_then(|b| b.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

impl<'a> Frame<'a> {
    /// Parses a whole datagram.
    pub fn parse(frame: &'a [u8]) -> Result<Frame<'a>, HandshakeError> {
        let Some((header, body)) = frame.split_first_chunk::<HEADER_LEN>() else {
            return Err(HandshakeError::Length);
        };
        if header[0] >> 4 != VERSION {
            return Err(HandshakeError::Version);
        }
        let kind = match header[0] & 0x0f {
            3 => Kind::Offer,
            4 => Kind::Counter,
            5 => Kind::Accept,
            _ => return Err(HandshakeError::Kind),
        };
        if body.len() > MAX_BODY || body.len() != usize::from(u16_at(header, 22)) {
            return Err(HandshakeError::Length);
        }
        let session = u32::from_le_bytes(array(header, 4));
        let clear = header[1..4].iter().chain(&header[8..22]).all(|&b| b == 0);
        if !clear || (kind == Kind::Offer && session != 0) {
            return Err(HandshakeError::Reserved);
        }
        Ok(Frame {
            kind,
            session,
            body,
        })
    }

    /// The header of a frame with a body of `body_len` bytes (at most [`MAX_BODY`]).
    pub fn header(kind: Kind, session: u32, body_len: usize) -> [u8; HEADER_LEN] {
        debug_assert!(body_len <= MAX_BODY);
        let mut h = [0; HEADER_LEN];
        h[0] = kind as u8 | VERSION << 4;
        h[4..8].copy_from_slice(&session.to_le_bytes());
        h[22..24].copy_from_slice(&(body_len as u16).to_le_bytes());
        h
    }
}

/// A node's security profile, bound into the handshake transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// Best AEAD suite offered, such as [`SUITE_AES_256_GCM`]; it implies those with lower numbers.
    pub suite: u8,
    /// Witness level: how strong a digest backs its witnesses; higher is stronger.
    pub witness: u8,
    /// 1 where a failed check stops the data, 0 where it does not.
    pub fail_closed: u8,
    /// Identifies the build.
    pub build: [u8; 16],
    /// Ed25519 key that signs its receipts.
    pub receipt_key: [u8; 32],
}

/// What each side states in OFFER and COUNTER.
///
/// Layout: version u8, refusal u8, lanes u8, cores u8, base port u16, symbol length u16, session index
/// u32, window slots u8, suite u8, witness u8, fail-closed u8, boot id u64, timestamp u64, build 16,
/// receipt key 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// The sender's index of this session: what the peer writes into the headers of its frames.
    pub session_index: u32,
    /// Lanes wanted, 1 to [`MAX_LANES`].
    pub lanes: u8,
    /// Lane cores of the sender, 1 to [`MAX_CORES`]; core `i` listens on `base_port + i`.
    pub cores: u8,
    /// UDP port of lane core 0.
    pub base_port: u16,
    /// Largest symbol, bytes; a multiple of 64 up to [`MAX_SYMBOL_LEN`].
    pub symbol_len: u16,
    /// Window, slots per lane, 1 to [`WINDOW_SLOTS`].
    pub window_slots: u8,
    /// The high half is the same for all nodes of a host until it reboots, so that peers know
    /// whether clocks compare; the low half is random, so that runs can be told apart.
    pub boot_id: u64,
    /// Unix time in nanoseconds; strictly rising per node, which keeps OFFERs from being replayed.
    pub timestamp: u64,
    /// Security profile.
    pub attestation: Attestation,
}

/// Content of an OFFER or COUNTER: parameters, or why there is to be no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Refusal code; zero is none. Always zero in OFFER.
    pub refusal: u8,
    /// The parameters.
    pub params: Params,
}

impl Params {
    /// Whether every value is in its range.
    pub fn is_valid(&self) -> bool {
        (1..=MAX_LANES).contains(&usize::from(self.lanes))
            && (1..=MAX_CORES).contains(&usize::from(self.cores))
            && (1..=WINDOW_SLOTS).contains(&usize::from(self.window_slots))
            && (SYMBOL_ALIGN..=MAX_SYMBOL_LEN).contains(&usize::from(self.symbol_len))
            && usize::from(self.symbol_len).is_multiple_of(SYMBOL_ALIGN)
            && self.base_port != 0
            && self
                .base_port
                .checked_add(u16::from(self.cores) - 1)
                .is_some()
            && self.attestation.fail_closed <= 1
    }
}

impl Proposal {
    /// Appends the encoding, without extensions.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let p = &self.params;
        let a = &p.attestation;
        out.extend_from_slice(&[VERSION, self.refusal, p.lanes, p.cores]);
        out.extend_from_slice(&p.base_port.to_le_bytes());
        out.extend_from_slice(&p.symbol_len.to_le_bytes());
        out.extend_from_slice(&p.session_index.to_le_bytes());
        out.extend_from_slice(&[p.window_slots, a.suite, a.witness, a.fail_closed]);
        out.extend_from_slice(&p.boot_id.to_le_bytes());
        out.extend_from_slice(&p.timestamp.to_le_bytes());
        out.extend_from_slice(&a.build);
        out.extend_from_slice(&a.receipt_key);
    }

    /// Decodes a payload and walks its extensions; the caller checks [`Params::is_valid`].
    ///
    /// Trailing bytes that are no whole extension are an error, and so is an unknown critical one.
    pub fn decode(payload: &[u8]) -> Result<Proposal, HandshakeError> {
        let (&version, _) = payload.split_first().ok_or(HandshakeError::Length)?;
        if version != VERSION {
            return Err(HandshakeError::Version);
        }
        let Some((b, rest)) = payload.split_first_chunk::<PARAMS_LEN>() else {
            return Err(HandshakeError::Length);
        };
        for extension in Extensions(rest) {
            let extension = extension?;
            // No extension but padding is implemented in this version: the reserved types count as
            // unknown ones, so that a peer which insists on them is told no.
            if extension.critical && extension.kind != ext::PADDING {
                return Err(HandshakeError::CriticalExtension(extension.kind));
            }
        }
        Ok(Proposal {
            refusal: b[1],
            params: Params {
                lanes: b[2],
                cores: b[3],
                base_port: u16_at(b, 4),
                symbol_len: u16_at(b, 6),
                session_index: u32::from_le_bytes(array(b, 8)),
                window_slots: b[12],
                boot_id: u64::from_le_bytes(array(b, 16)),
                timestamp: u64::from_le_bytes(array(b, 24)),
                attestation: Attestation {
                    suite: b[13],
                    witness: b[14],
                    fail_closed: b[15],
                    build: array(b, 32),
                    receipt_key: array(b, 48),
                },
            },
        })
    }
}

/// Timestamp of a payload whose remainder may be unusable: an authenticated OFFER that is refused for
/// its version or extensions must be protected from replay as well.
pub fn timestamp_of(payload: &[u8]) -> Option<u64> {
    (payload.len() >= PARAMS_LEN).then(|| u64::from_le_bytes(array(payload, 24)))
}

/// One extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Type without the critical bit.
    pub kind: u16,
    /// Whether a receiver must understand it.
    pub critical: bool,
    /// Content.
    pub body: &'a [u8],
}

/// Iterates the extensions behind the parameters; ends after the first error.
#[derive(Clone, Debug)]
pub struct Extensions<'a>(pub &'a [u8]);

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, HandshakeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        let Some((head, rest)) = all.split_first_chunk::<4>() else {
            return Some(Err(HandshakeError::Length));
        };
        let Some((body, rest)) = rest.split_at_checked(usize::from(u16_at(head, 2))) else {
            return Some(Err(HandshakeError::Length));
        };
        self.0 = rest;
        let kind = u16_at(head, 0);
        Some(Ok(Extension {
            kind: kind & !ext::CRITICAL,
            critical: kind & ext::CRITICAL != 0,
            body,
        }))
    }
}

/// Appends an extension; `kind` carries the critical bit. Bodies above 65,535 bytes do not fit a
/// handshake frame and are refused.
pub fn push_extension(out: &mut Vec<u8>, kind: u16, body: &[u8]) -> Result<(), HandshakeError> {
    let len = u16::try_from(body.len()).map_err(|_| HandshakeError::Length)?;
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// Pads a payload with zeros to at least `min` bytes by one padding extension.
pub fn pad(out: &mut Vec<u8>, min: usize) {
    let min = min.min(MAX_BODY);
    if out.len() < min {
        // An extension costs four bytes, so the result may pass `min` by up to three.
        let body = min.saturating_sub(out.len() + 4);
        out.extend_from_slice(&ext::PADDING.to_le_bytes());
        out.extend_from_slice(&(body as u16).to_le_bytes());
        out.resize(out.len() + body, 0);
    }
}

/// Content of ACCEPT. Layout: version u8, refusal u8, lanes u8, window slots u8, symbol length u16, zero
/// u16, initiator's index u32, responder's index u32, confirm 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// Refusal code of the initiator; zero is none.
    pub refusal: u8,
    /// Negotiated lanes.
    pub lanes: u8,
    /// Negotiated window, slots.
    pub window_slots: u8,
    /// Negotiated symbol length, bytes.
    pub symbol_len: u16,
    /// The initiator's session index.
    pub initiator_index: u32,
    /// The responder's session index.
    pub responder_index: u32,
    /// Proof of the keys and of the transcript.
    pub confirm: [u8; 32],
}

impl Accept {
    /// The bytes.
    pub fn encode(&self) -> [u8; ACCEPT_LEN] {
        let mut b = [0; ACCEPT_LEN];
        b[..4].copy_from_slice(&[VERSION, self.refusal, self.lanes, self.window_slots]);
        b[4..6].copy_from_slice(&self.symbol_len.to_le_bytes());
        b[8..12].copy_from_slice(&self.initiator_index.to_le_bytes());
        b[12..16].copy_from_slice(&self.responder_index.to_le_bytes());
        b[16..].copy_from_slice(&self.confirm);
        b
    }

    /// Reads them.
    pub fn decode(payload: &[u8]) -> Result<Accept, HandshakeError> {
        let b: &[u8; ACCEPT_LEN] = payload.try_into().map_err(|_| HandshakeError::Length)?;
        if b[0] != VERSION {
            return Err(HandshakeError::Version);
        }
        if b[6..8] != [0, 0] {
            return Err(HandshakeError::Reserved);
        }
        Ok(Accept {
            refusal: b[1],
            lanes: b[2],
            window_slots: b[3],
            symbol_len: u16_at(b, 4),
            initiator_index: u32::from_le_bytes(array(b, 8)),
            responder_index: u32::from_le_bytes(array(b, 12)),
            confirm: array(b, 16),
        })
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
