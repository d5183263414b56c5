//! The sans-IO protocol core of a lane: what to send, when, and what to make of acknowledgements.
//!
//! Nothing here reads a clock, owns a socket or allocates after construction. [`LaneTx`] numbers
//! symbols and answers deficits, [`LaneRx`] keeps have-sets and builds acknowledgements, [`cc`]
//! decides how much may be in flight and how fast.

pub mod cc;
pub mod ecn;
pub mod lane_rx;
pub mod lane_tx;
pub mod manager;
pub mod pacer;
pub mod path;
pub mod pmtu;
pub mod rtt;
pub mod sent;
pub mod steer;

mod ahead;
mod flight;
mod loss;
mod parts;
#[cfg(test)]
mod simtest;

pub use cc::{Cc, CcConfig, CcKind, Controller};
pub use ecn::{Ecn, EcnState, EcnStatus};
pub use lane_rx::{Admit, LaneRx, LaneRxConfig, Progress};
pub use lane_tx::{
    AckOutcome, AckReject, LaneTx, LaneTxConfig, LaneTxStats, RepairAhead, SymbolKind, TxSymbol,
};
pub use pacer::Pacer;
pub use path::{LaneAck, Path, PathLane};
pub use pmtu::{Pmtu, PmtuConfig, PmtuOrigin, PmtuState};
pub use rtt::RttEstimator;
pub use steer::{Arrival, Steering};
