//! Why a node did not start, and why a session was not opened.

use crate::mem::ArenaError;

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The key is not among the peers of this node.
    #[error("no peer with the public key {0}; add it to the configuration")]
    UnknownPeer(String),
    /// The peer has no address.
    #[error("peer {0} has no endpoint; give one in the configuration")]
    NoEndpoint(String),
    /// No answer. A node that does not know our key stays silent, so this covers that too.
    #[error(
        "no answer from {peer}: is the daemon running there, is the UDP port open, and does it \
         list our public key {ours}?"
    )]
    TimedOut {
        /// Peer name or key.
        peer: String,
        /// Our public key.
        ours: String,
    },
    /// The peer, or our own policy, refused the session.
    #[error("session with {peer} refused: {reason}")]
    Refused {
        /// Peer name or key.
        peer: String,
        /// Reason in words.
        reason: String,
    },
    /// No buffers for another session.
    #[error("no memory for a session with {peer}: {source}")]
    Memory {
        /// Peer name or key.
        peer: String,
        /// What ran out.
        source: ArenaError,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
    /// The lane was taken before, or the session has fewer lanes.
    #[error("lane {0} is not available: taken already, or beyond the lanes of this session")]
    NoLane(usize),
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is out of range.
    #[error("{0}")]
    Config(String),
    /// A socket, ring or thread could not be made.
    #[error("cannot open {what}: {source}")]
    Io {
        /// What was being opened.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// The slot arena could not be made.
    #[error(transparent)]
    Memory(#[from] ArenaError),
}
