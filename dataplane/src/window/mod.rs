//! The coherence window of one lane: `N` slots shared by one writer and one reader, without locks.
//!
//! Slot number `seq` lives in cell `seq % N`; `seq / N` is its generation. One atomic word per
//! cell holds the generation together with the state, so a number that is too old or too new
//! never matches and is refused instead of touching another slot's value:
//!
//! ```text
//!                  open             take_open (CAS)
//!           +---------------> OPEN ----------------+
//!           |                  | reopen (CAS)      |
//!   begin   |   +--------------+                   v       release
//! FREE -> FILLING -----------> READY -----------> TAKEN ----------> FREE, next generation
//!   ^       |      publish             take
//!   +-------+ cancel
//! ```
//!
//! The writer owns the value of a cell in FREE and FILLING, the reader in TAKEN; in OPEN and READY
//! nobody touches it. OPEN is a slot that may still grow but may also be taken as it stands: writer and
//! reader race for it with one compare-and-swap each. Every operation is a bounded number of
//! instructions (only [`Reader::next_ready`] and [`Observer::snapshot`] look at more than one
//! cell) and nothing allocates after [`window`].
//!
//! Slots may begin in any order inside the window, which is what a receiver does.

mod halves;
#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, not(loom)))]
mod tests;
mod word;

pub use halves::{Observer, Reader, Writer, window};
pub use word::{SlotState, SlotView};
