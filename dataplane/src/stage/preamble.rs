//! The first 64 bytes of a slot: what is inside it and the boundary proof over it.

use crate::base::limits::SLOT_PREAMBLE_LEN;
use crate::verify::Digest;

/// Flags of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotFlags(pub u8);

impl SlotFlags {
    /// The content is whole records, each a little-endian `u32` length and that many bytes.
    pub const RECORDS: u8 = 1;
    /// The message goes on in the next slot.
    pub const MORE: u8 = 2;
    /// The sender has finished: nothing follows on this lane.
    pub const FIN: u8 = 4;

    /// Whether `bit` is set.
    pub const fn has(self, bit: u8) -> bool {
        self.0 & bit != 0
    }
}

/// Why a preamble was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The slot is shorter than a preamble.
    #[error("slot shorter than its preamble")]
    Short,
    /// The encoded length runs past the slot, or the raw length past what a slot may hold.
    #[error("slot lengths out of range (raw {raw}, encoded {enc})")]
    Length {
        /// Bytes before compression.
        raw: u32,
        /// Bytes in the slot.
        enc: u32,
    },
    /// An unknown flag.
    #[error("unknown slot flag {0:#x}")]
    Flag(u8),
}

/// The decoded preamble. Layout in `docs/PROTOCOL.md`, section "Slot".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Content bytes before compression.
    pub raw_len: u32,
    /// Content bytes in the slot.
    pub enc_len: u32,
    /// Codec number; 0 means the content is as the application gave it.
    pub codec: u8,
    /// Slot flags.
    pub flags: SlotFlags,
    /// Verification level of the digest.
    pub level: u8,
    /// Digest of the content before compression (boundary proof).
    pub digest: Digest,
    /// The sender's `CLOCK_MONOTONIC` at commit, nanoseconds; comparable on the same host only.
    pub committed_at: u64,
}

impl Preamble {
    /// Writes the preamble into the first 64 bytes of `slot`.
    pub fn encode(&self, slot: &mut [u8; SLOT_PREAMBLE_LEN]) {
        slot[0..4].copy_from_slice(&self.raw_len.to_le_bytes());
        slot[4..8].copy_from_slice(&self.enc_len.to_le_bytes());
        slot[8] = self.codec;
        slot[9] = self.flags.0;
        slot[10] = self.level;
        slot[11..16].fill(0);
        slot[16..48].copy_from_slice(&self.digest.0);
        slot[48..56].copy_from_slice(&self.committed_at.to_le_bytes());
        slot[56..64].fill(0);
    }

    /// Reads the preamble of a completed slot of `slot.len()` bytes whose content, decompressed,
    /// may be at most `max_raw` bytes.
    pub fn decode(slot: &[u8], max_raw: usize) -> Result<Preamble, PreambleError> {
        let Some(p) = slot.first_chunk::<SLOT_PREAMBLE_LEN>() else {
            return Err(PreambleError::Short);
        };
        let u32_at = |i: usize| u32::from_le_bytes([p[i], p[i + 1], p[i + 2], p[i + 3]]);
        let raw = u32_at(0);
        let enc = u32_at(4);
        if enc as usize > slot.len() - SLOT_PREAMBLE_LEN || raw as usize > max_raw {
            return Err(PreambleError::Length { raw, enc });
        }
        if p[8] == 0 && raw != enc {
            return Err(PreambleError::Length { raw, enc });
        }
        if p[9] & !(SlotFlags::RECORDS | SlotFlags::MORE | SlotFlags::FIN) != 0 {
            return Err(PreambleError::Flag(p[9]));
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&p[16..48]);
        let mut at = [0; 8];
        at.copy_from_slice(&p[48..56]);
        Ok(Preamble {
            raw_len: raw,
            enc_len: enc,
            codec: p[8],
            flags: SlotFlags(p[9]),
            level: p[10],
            digest: Digest(digest),
            committed_at: u64::from_le_bytes(at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(p) = Preamble::decode(&bytes, 100) {
                prop_assert!(p.enc_len as usize + SLOT_PREAMBLE_LEN <= bytes.len());
                prop_assert!(p.raw_len <= 100);
            }
        }

        #[test]
        fn encode_then_decode_is_the_identity(raw in 0u32..1000, flags in 0u8..8, codec in 1u8..9, at in any::<u64>(), d in any::<[u8; 32]>()) {
            let p = Preamble { raw_len: raw, enc_len: raw / 2, codec, flags: SlotFlags(flags), level: 1, digest: Digest(d), committed_at: at };
            let mut slot = [0u8; 1064];
            let head = slot.first_chunk_mut::<64>().expect("longer than 64");
            p.encode(head);
            prop_assert_eq!(Preamble::decode(&slot, 1000), Ok(p));
        }
    }
}
