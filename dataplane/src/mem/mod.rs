//! Memory of the data path: one arena mapped at start, cut into move-only buffers.

pub mod arena;

pub use arena::{Arena, ArenaError, ArenaStats, SlotBuf};
