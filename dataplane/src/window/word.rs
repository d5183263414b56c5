//! The word of a cell: generation and state packed in 64 bits.

/// Where a slot is on its way through the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SlotState {
    /// Empty: the writer may begin it.
    Free = 0,
    /// The writer is filling it.
    Filling = 1,
    /// It may grow further, but the reader may also take it as it stands.
    Open = 2,
    /// Complete, waiting for the reader.
    Ready = 3,
    /// The reader works on it.
    Taken = 4,
}

/// What an [`Observer`](super::Observer) sees of one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotView {
    /// Number of the slot that occupies the cell, or that may begin there when it is free.
    pub seq: u64,
    /// Its state at the moment of reading.
    pub state: SlotState,
}

const STATE_BITS: u32 = 3;

/// Generations end here. At `N >= 8` no 64-bit slot number reaches it; for smaller windows the
/// writer refuses numbers from here on, so that a generation never wraps.
pub(super) const MAX_GENERATION: u64 = (1 << (64 - STATE_BITS)) - 1;

/// Cell and generation of a slot number.
#[inline(always)]
pub(super) const fn place<const N: usize>(seq: u64) -> (usize, u64) {
    ((seq % N as u64) as usize, seq / N as u64)
}

/// The word of `state` at `generation`, which must not exceed [`MAX_GENERATION`].
#[inline(always)]
pub(super) const fn pack(generation: u64, state: SlotState) -> u64 {
    generation << STATE_BITS | state as u64
}

/// Generation in a word.
#[inline(always)]
pub(super) const fn generation(word: u64) -> u64 {
    word >> STATE_BITS
}

/// State in a word.
#[inline(always)]
pub(super) const fn state(word: u64) -> SlotState {
    match word & ((1 << STATE_BITS) - 1) {
        0 => SlotState::Free,
        1 => SlotState::Filling,
        2 => SlotState::Open,
        3 => SlotState::Ready,
        // Only `pack` makes words, so what is left is 4.
        _ => SlotState::Taken,
    }
}

/// Whether `word` is `state` at exactly `generation`; generations beyond the packed range never are.
#[inline(always)]
pub(super) const fn is(word: u64, generation: u64, state: SlotState) -> bool {
    generation <= MAX_GENERATION && word == pack(generation, state)
}
