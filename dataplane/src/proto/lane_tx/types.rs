//! What a lane's sender is told and what it tells.

use crate::base::Nanos;
use crate::proto::cc::CcConfig;

/// Repair symbols sent with a slot before any loss of it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RepairAhead {
    /// None on a clean path, from the smoothed loss otherwise.
    #[default]
    Adaptive,
    /// Always this many, at most 32.
    Fixed(u8),
}

/// How a lane's sender starts.
#[derive(Clone, Copy, Debug)]
pub struct LaneTxConfig {
    /// Slots in the window, 1..=96; also the credit before the first acknowledgement.
    pub window_slots: u8,
    /// Negotiated symbol length, bytes.
    pub symbol_len: u16,
    /// Bytes that the peer's socket can hold, until it says otherwise.
    pub inflight_limit: u32,
    /// Repair symbols sent ahead.
    pub repair_ahead: RepairAhead,
    /// Congestion control; its `frame` is symbol length plus 40 bytes.
    pub cc: CcConfig,
}

/// Why a symbol is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// A data symbol for the first time.
    First,
    /// A repair symbol.
    Repair,
    /// A data symbol again.
    Resent,
}

/// A symbol to seal and send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxSymbol {
    /// Full slot number.
    pub slot: u64,
    /// `0..k` data, `k..k+32` repair.
    pub index: u8,
    /// Data symbols of the slot.
    pub k: u8,
    /// Bytes of each symbol.
    pub symbol_len: u16,
    /// Packet number, never used before; of the first part where there are several.
    pub pn: u64,
    /// Frames that it takes, with packet numbers from `pn` on: more than one where it is longer than
    /// a frame may be.
    pub parts: u8,
    /// Why it is sent.
    pub kind: SymbolKind,
}

/// What no honest receiver says: the lane should close with this reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AckReject {
    /// A packet number that was never sent (an optimistic acknowledgement).
    #[error("acknowledges a packet number that was never sent")]
    LargestPn,
    /// More frames received than lie at or below the largest packet number.
    #[error("counts more frames than were sent")]
    Received,
    /// A slot complete that was not wholly sent.
    #[error("completes a slot that was not sent")]
    Complete,
    /// Credit beyond the window.
    #[error("grants credit beyond the window")]
    Credit,
}

/// What an acknowledgement led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckOutcome {
    /// Slots newly complete.
    pub acked_slots: u32,
    /// Frames newly known lost.
    pub lost_frames: u64,
    /// Round-trip sample, nanoseconds, the peer's delay taken off.
    pub rtt_sample: Option<Nanos>,
    /// Older than one seen before: ignored.
    pub stale: bool,
    /// Set where the acknowledgement cannot be honest; nothing was changed.
    pub rejected: Option<AckReject>,
}

/// Counts since the lane opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneTxStats {
    /// Data symbols sent for the first time.
    pub first: u64,
    /// Repair symbols sent.
    pub repair: u64,
    /// Data symbols sent again.
    pub resent: u64,
    /// Frames counted lost, those that arrived late after all taken off.
    pub lost_frames: u64,
    /// Frames that were counted lost and arrived late.
    pub late_frames: u64,
    /// Acknowledgements that showed an answer to a deficit to be needless: the symbols were only late.
    pub spurious: u64,
    /// Slots acknowledged.
    pub acked_slots: u64,
    /// Probe timeouts.
    pub pto_fired: u64,
    /// Acknowledgements taken.
    pub acks: u64,
    /// Acknowledgements ignored as older than one seen.
    pub stale_acks: u64,
    /// Acknowledgements refused.
    pub rejected_acks: u64,
}
