//! From ring to window and back: what a lane core does with batches of frames and slots.
//!
//! [`Lane`] is the core's half of a lane; the application's halves are in [`crate::api`]. They
//! meet in two windows (one a direction) and in [`LaneShared`].

mod lane;
mod path;
mod preamble;
mod rx;
mod rx_group;
mod shared;
mod slots;
mod tx;
mod tx_group;

pub use lane::{Lane, LaneEnds, LaneParams, LaneStatus, bufs_per_lane, open_lane};
pub use path::{PathConfig, PathStatus, udp_overhead};
pub use preamble::{Preamble, PreambleError, SlotFlags};
pub use rx::{FrameCtx, FrameExit};
pub use shared::{CloseReason, Delivered, LaneShared, SessionShared, TxWants};
pub use slots::{RxSlot, TxSlot};
pub use tx::SendCtx;
