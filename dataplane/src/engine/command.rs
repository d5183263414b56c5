//! What the control thread and the lane cores say to each other.

use crate::stage::{CloseReason, Lane};
use std::net::SocketAddr;

/// From the control thread to a core.
pub enum CoreCommand {
    /// Take all lanes that this core has of the session with our index `local_index`. All at once:
    /// frames of a session that is open, but not their lane, are strangers'.
    Open {
        /// Our index of the session.
        local_index: u32,
        /// The core's halves.
        lanes: Vec<Box<Lane>>,
    },
    /// End every lane of a session.
    Close {
        /// Our index of the session.
        local_index: u32,
        /// What the peer and the application are told.
        reason: CloseReason,
    },
    /// Ask the peer of a session for a sign of life.
    Ping {
        /// Our index of the session.
        local_index: u32,
    },
    /// Send these bytes as one datagram (handshakes).
    Datagram {
        /// Destination.
        to: SocketAddr,
        /// UDP payload.
        bytes: Vec<u8>,
    },
    /// Leave the loop.
    Stop,
}

/// From a core to the control thread.
#[derive(Debug)]
pub enum CoreEvent {
    /// A handshake frame came in.
    Handshake {
        /// Where it came from.
        from: SocketAddr,
        /// The whole frame.
        bytes: Vec<u8>,
    },
    /// A lane ended and its buffers are back.
    LaneEnded {
        /// Our index of the session.
        local_index: u32,
        /// Lane number.
        lane: u8,
    },
}
