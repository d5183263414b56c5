//! What travels through the two windows of a lane.

use super::preamble::SlotFlags;
use crate::mem::SlotBuf;

/// A slot on its way out: filled by the application, sent by the lane core, freed when acked.
#[derive(Debug)]
pub struct TxSlot {
    /// Preamble and content.
    pub buf: SlotBuf,
    /// Content bytes before compression.
    pub raw_len: u32,
    /// Content bytes in the buffer after the preamble.
    pub enc_len: u32,
    /// Flags for the preamble.
    pub flags: SlotFlags,
    /// Whether the preamble is written. A slot that the core takes while it is still open for
    /// more records has none yet; the core then writes it.
    pub closed: bool,
    /// `CLOCK_MONOTONIC` when the first byte went in.
    pub committed_at: u64,
}

/// A slot on its way in: filled symbol by symbol by the lane core, read by the application.
#[derive(Debug)]
pub struct RxSlot {
    /// Data symbols, contiguous from the start.
    pub buf: SlotBuf,
    /// Repair symbols, held from the first one received until the slot is complete.
    pub repair: Option<SlotBuf>,
    /// Bytes of data symbols: `k * symbol_len`.
    pub len: u32,
}
