//! What can go wrong for the user of a session.

use crate::stage::CloseReason;

/// The lane or session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lane is closed: {0}")]
pub struct Closed(pub CloseReason);

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The window is full: the peer's application has not taken enough yet, or the path is slower
    /// than the sender. Try again, or wait with the blocking call.
    #[error("the window is full")]
    WouldBlock,
    /// The wait ended without room.
    #[error("no room in the window within the time given")]
    TimedOut,
    /// The message is larger than 16 MiB.
    #[error("a message of {0} bytes is over the limit of 16 MiB; send it as several")]
    TooLarge(usize),
    /// The lane has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// Nothing is ready.
    #[error("nothing has arrived yet")]
    WouldBlock,
    /// The wait ended with nothing.
    #[error("nothing arrived within the time given")]
    TimedOut,
    /// The peer finished this lane, and everything it sent was taken.
    #[error("the peer has finished this lane")]
    Finished,
    /// A slot was not what its sender digested. The lane is closed and nothing of the slot was
    /// passed on.
    #[error("slot {slot} failed verification ({what}); the lane is closed")]
    Violation {
        /// Slot number.
        slot: u64,
        /// Which check failed.
        what: &'static str,
    },
    /// The lane has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}
