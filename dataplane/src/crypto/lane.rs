//! The two ends of one lane in one direction: nonces, epochs and key usage limits.
//!
//! **Epochs.** A key serves one epoch. The sealer moves to the next epoch at 2^32 blocks of 16 bytes
//! or 120 s after the key's first use, whichever comes first. The low two bits of the epoch travel
//! in every header. The opener holds the keys that the four values stand for at any moment
//! (previous, current, next, next but one), so it tries exactly one key and never two; it moves on
//! when a frame under a later key verifies, and wipes the previous key 10 s after that. Both ends
//! expand keys ahead, and in place: a switch costs two HKDF expansions and one key expansion (a
//! few microseconds each 120 s) and allocates nothing.
//!
//! **Nonces.** `nonce = iv XOR packet number`, and a sealer accepts only rising packet numbers in
//! each of the two spaces (data; control, with bit 63 set), so no nonce comes twice under a key.
//!
//! **Limits.** Whatever else fails, a key never seals nor opens more than
//! [`KEY_HARD_STOP_BLOCKS`](limits::KEY_HARD_STOP_BLOCKS), and a lane gives up at 2^52 failed opens
//! over all its keys (RFC 9001 §6.6). 2^34 blocks lie below the 2^23 packets of 2^16 bytes (2^35
//! blocks) that RFC 9001 appendix B.1 allows one AES-GCM key. AEGIS-256X2 and AEGIS-256 would bear far
//! more; their keys have the same limits.

use super::aead::{AeadError, NONCE_LEN, OpenKey, Provider, SealKey};
use super::schedule::KeyChain;
use crate::base::clock::Nanos;
use crate::base::limits::{self, HEADER_LEN, TAG_LEN};

/// Set in the packet numbers of control frames, clear in those of symbol frames.
pub const CONTROL_PN: u64 = 1 << 63;
/// How long the opener keeps the previous epoch's key after a switch, nanoseconds.
pub const PREVIOUS_KEY_NS: Nanos = 10_000_000_000;
/// Failed opens of one lane after which it opens nothing more (RFC 9001 §6.6, AES-GCM).
pub const MAX_FAILED_OPENS: u64 = 1 << 52;

/// Byte of the frame header that carries the epoch, and the bits of it that do.
const EPOCH_BYTE: usize = 1;
const EPOCH_MASK: u8 = 0b11;
/// Keys that an opener holds: one for each value of the epoch bits.
const HELD: usize = EPOCH_MASK as usize + 1;

/// What a key and a lane may do; a value so that tests can reach the limits.
#[derive(Clone, Copy, Debug)]
struct Usage {
    ratchet_blocks: u64,
    ratchet_age: Nanos,
    hard_stop_blocks: u64,
    failed_opens: u64,
}

const USAGE: Usage = Usage {
    ratchet_blocks: limits::EPOCH_MAX_BLOCKS,
    ratchet_age: limits::EPOCH_MAX_AGE_NS,
    hard_stop_blocks: limits::KEY_HARD_STOP_BLOCKS,
    failed_opens: MAX_FAILED_OPENS,
};
const _: () = assert!(USAGE.ratchet_blocks < USAGE.hard_stop_blocks);

/// AES blocks that a message of `len` bytes costs its key: those of the text and the tag's mask.
fn blocks(len: usize) -> u64 {
    len.div_ceil(16) as u64 + 1
}

/// The IV with the packet number XORed into its last 8 bytes, big endian (as RFC 8446 §5.3).
fn nonce(iv: &[u8; NONCE_LEN], pn: u64) -> [u8; NONCE_LEN] {
    let mut nonce = *iv;
    for (n, p) in nonce[NONCE_LEN - 8..].iter_mut().zip(pn.to_be_bytes()) {
        *n ^= p;
    }
    nonce
}

/// Why a frame was not sealed. Nothing of it may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The packet number is not greater than the last one of its space: its nonce might be used.
    #[error("packet number {pn} is not above {last}")]
    PacketNumber {
        /// The number asked for.
        pn: u64,
        /// The last number sealed in that space.
        last: u64,
    },
    /// The key has sealed as many blocks as a key ever may.
    #[error("the lane key reached its hard limit")]
    KeyExhausted,
    /// `out` is not 16 bytes longer than the plaintext.
    #[error("the output buffer does not fit the frame")]
    Length,
    /// The AEAD provider failed; the packet number counts as used.
    #[error("sealing failed: {0}")]
    Aead(AeadError),
}

/// Why a frame was not opened. Nothing of it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The epoch bits name the epoch before the current one, whose key is gone.
    #[error("no key is held for the frame's epoch")]
    NoKey,
    /// The tag does not verify; `out` has been zeroed.
    #[error("authentication failed")]
    Auth,
    /// Too many frames have failed to verify on this lane: it opens nothing any more.
    #[error("the lane's forgery limit is reached")]
    ForgeryLimit,
    /// The key has opened as many blocks as an honest peer may ever seal under it.
    #[error("the lane key reached its hard limit")]
    KeyExhausted,
    /// `out` is not 16 bytes shorter than the sealed frame.
    #[error("the buffers do not fit the frame")]
    Length,
    /// The AEAD provider failed; `out` has been zeroed.
    #[error("the AEAD provider failed")]
    Provider,
}

struct EpochSealKey {
    key: SealKey,
    iv: [u8; NONCE_LEN],
}

impl EpochSealKey {
    fn new(provider: Provider, chain: &mut KeyChain) -> EpochSealKey {
        let material = chain.next_epoch();
        EpochSealKey {
            key: SealKey::new(provider, &material.key),
            iv: material.iv,
        }
    }

    fn rekey(&mut self, chain: &mut KeyChain) {
        let material = chain.next_epoch();
        self.key.rekey(&material.key);
        self.iv = material.iv;
    }
}

/// Seals the frames of one lane and direction. Owned by the lane's core.
pub struct LaneSealer {
    chain: KeyChain,
    current: EpochSealKey,
    /// Expanded ahead, so that a switch is a swap.
    next: EpochSealKey,
    epoch: u64,
    /// Blocks sealed under `current`.
    blocks: u64,
    /// First use of `current`.
    since: Option<Nanos>,
    last_data: Option<u64>,
    last_control: Option<u64>,
    usage: Usage,
}

impl LaneSealer {
    /// The sealer of `lane` under a direction's secret (see [`super::schedule`]), at epoch 0.
    /// Allocates; nothing after it does.
    pub fn new(provider: Provider, direction_secret: &[u8; 32], lane: u8) -> LaneSealer {
        LaneSealer::with_usage(provider, direction_secret, lane, USAGE)
    }

    fn with_usage(provider: Provider, secret: &[u8; 32], lane: u8, usage: Usage) -> LaneSealer {
        let mut chain = KeyChain::new(secret, lane);
        LaneSealer {
            current: EpochSealKey::new(provider, &mut chain),
            next: EpochSealKey::new(provider, &mut chain),
            chain,
            epoch: 0,
            blocks: 0,
            since: None,
            last_data: None,
            last_control: None,
            usage,
        }
    }

    /// The epoch of the last frame sealed (0 before any); its low two bits are on the wire.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Blocks of 16 bytes that the current key has sealed.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Seals `plain` as packet `pn`: writes the epoch into bits 0-1 of `header[1]`, authenticates
    /// the header and puts ciphertext and tag into `out`, 16 bytes longer than `plain`. Bit 63 of
    /// `pn` selects its space.
    ///
    /// # Errors
    /// See [`SealError`]; after any of them `out` must not be sent.
    #[inline]
    pub fn seal(
        &mut self,
        now: Nanos,
        pn: u64,
        header: &mut [u8; HEADER_LEN],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        if out.len() != plain.len() + TAG_LEN {
            return Err(SealError::Length);
        }
        let last = if pn & CONTROL_PN == 0 {
            &mut self.last_data
        } else {
            &mut self.last_control
        };
        if let Some(last) = *last
            && pn <= last
        {
            return Err(SealError::PacketNumber { pn, last });
        }
        let cost = blocks(plain.len());
        let age = now.saturating_sub(self.since.unwrap_or(now));
        let total = self.blocks.saturating_add(cost);
        if total > self.usage.ratchet_blocks || age >= self.usage.ratchet_age {
            self.ratchet();
        }
        if self.blocks.saturating_add(cost) > self.usage.hard_stop_blocks {
            return Err(SealError::KeyExhausted);
        }
        // The number and the blocks count as used before the key is: a provider that fails half
        // way must not see the nonce again.
        if pn & CONTROL_PN == 0 {
            self.last_data = Some(pn);
        } else {
            self.last_control = Some(pn);
        }
        self.blocks += cost;
        self.since.get_or_insert(now);
        header[EPOCH_BYTE] = (header[EPOCH_BYTE] & !EPOCH_MASK) | (self.epoch as u8 & EPOCH_MASK);
        let nonce = nonce(&self.current.iv, pn);
        self.current
            .key
            .seal(&nonce, header, plain, out)
            .map_err(SealError::Aead)
    }

    /// Moves to the next epoch and expands the key of the one after it over the retired key.
    #[cold]
    fn ratchet(&mut self) {
        std::mem::swap(&mut self.current, &mut self.next);
        self.next.rekey(&mut self.chain);
        self.epoch += 1;
        self.blocks = 0;
        self.since = None;
    }
}

struct EpochOpenKey {
    key: OpenKey,
    iv: [u8; NONCE_LEN],
    /// Blocks opened under `key`.
    blocks: u64,
}

impl EpochOpenKey {
    /// A place without a key: an all-zero one, which the opener never uses.
    fn vacant(provider: Provider) -> EpochOpenKey {
        EpochOpenKey {
            key: OpenKey::new(provider, &[0; 32]),
            iv: [0; NONCE_LEN],
            blocks: 0,
        }
    }

    fn rekey(&mut self, chain: &mut KeyChain) {
        let material = chain.next_epoch();
        self.key.rekey(&material.key);
        self.iv = material.iv;
        self.blocks = 0;
    }

    fn wipe(&mut self) {
        self.key.rekey(&[0; 32]);
        self.iv = [0; NONCE_LEN];
    }
}

/// Opens the frames of one lane and direction. Owned by the lane's core, which also holds the two
/// [`ReplayWindow`](super::ReplayWindow)s: check, open, then commit.
pub struct LaneOpener {
    /// At the key of the epoch after all those held.
    chain: KeyChain,
    /// `held[e % 4]` is the key of epoch `e`, for `epoch - 1 ..= epoch + 2`.
    held: [EpochOpenKey; HELD],
    epoch: u64,
    /// When the previous epoch's key goes; `None` if there is none.
    previous_until: Option<Nanos>,
    opened: u64,
    failed: u64,
    usage: Usage,
}

impl LaneOpener {
    /// The opener of `lane` under a direction's secret (see [`super::schedule`]), at epoch 0.
    /// Allocates; nothing after it does.
    pub fn new(provider: Provider, direction_secret: &[u8; 32], lane: u8) -> LaneOpener {
        LaneOpener::with_usage(provider, direction_secret, lane, USAGE)
    }

    fn with_usage(provider: Provider, secret: &[u8; 32], lane: u8, usage: Usage) -> LaneOpener {
        let mut chain = KeyChain::new(secret, lane);
        let mut held = std::array::from_fn(|_| EpochOpenKey::vacant(provider));
        // Epochs 0, 1 and 2; there is none before 0.
        for key in &mut held[..HELD - 1] {
            key.rekey(&mut chain);
        }
        LaneOpener {
            chain,
            held,
            epoch: 0,
            previous_until: None,
            opened: 0,
            failed: 0,
            usage,
        }
    }

    /// The latest epoch from which a frame has verified (0 before any).
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Frames that verified.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Frames that did not verify under a key that was held.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Opens packet `pn`: verifies `sealed` (ciphertext, then tag) with the header `aad`, and puts
    /// the plaintext into `out`, 16 bytes shorter. `epoch_bits` are bits 0-1 of `aad[1]`; higher
    /// bits are ignored. `sealed` may be overwritten. `out` is written before the tag has verified,
    /// so it must not hold bytes that are still needed.
    ///
    /// # Errors
    /// See [`OpenError`]. `out` is zeros after `Auth` and `Provider`, untouched after the others.
    #[inline]
    pub fn open(
        &mut self,
        now: Nanos,
        epoch_bits: u8,
        pn: u64,
        aad: &[u8; HEADER_LEN],
        sealed: &mut [u8],
        out: &mut [u8],
    ) -> Result<(), OpenError> {
        if sealed.len() < TAG_LEN || sealed.len() - TAG_LEN != out.len() {
            return Err(OpenError::Length);
        }
        if self.failed >= self.usage.failed_opens {
            return Err(OpenError::ForgeryLimit);
        }
        self.expire(now);
        let place = usize::from(epoch_bits & EPOCH_MASK);
        // 0 current, 1 next, 2 next but one, 3 previous.
        let ahead = place.wrapping_sub(self.epoch as usize) % HELD;
        if ahead == HELD - 1 && self.previous_until.is_none() {
            return Err(OpenError::NoKey);
        }
        let held = &mut self.held[place];
        let cost = blocks(out.len());
        if held.blocks.saturating_add(cost) > self.usage.hard_stop_blocks {
            return Err(OpenError::KeyExhausted);
        }
        let nonce = nonce(&held.iv, pn);
        match held.key.open(&nonce, aad, sealed, out) {
            Ok(()) => {
                held.blocks += cost;
                self.opened += 1;
                if ahead == 1 || ahead == 2 {
                    self.promote(ahead, now);
                }
                Ok(())
            }
            Err(AeadError::Auth) => {
                self.failed += 1;
                Err(OpenError::Auth)
            }
            Err(AeadError::Length) => Err(OpenError::Length),
            Err(AeadError::Provider) => Err(OpenError::Provider),
        }
    }

    /// Wipes the previous epoch's key if its time is over. [`open`](Self::open) does it too; call
    /// this now and then for lanes on which nothing arrives.
    #[inline]
    pub fn expire(&mut self, now: Nanos) {
        if let Some(until) = self.previous_until
            && now >= until
        {
            self.previous_until = None;
            self.held[(self.epoch as usize).wrapping_sub(1) % HELD].wipe();
        }
    }

    /// Moves on by `steps` epochs: each retires the oldest key held for one further ahead.
    #[cold]
    fn promote(&mut self, steps: usize, now: Nanos) {
        for _ in 0..steps {
            let oldest = (self.epoch as usize).wrapping_sub(1) % HELD;
            self.held[oldest].rekey(&mut self.chain);
            self.epoch += 1;
        }
        self.previous_until = Some(now.saturating_add(PREVIOUS_KEY_NS));
    }
}

mod group;
#[cfg(test)]
mod tests;
