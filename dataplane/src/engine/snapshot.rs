//! What an operator can see of a node, taken without stopping a core.

use crate::stage::LaneStatus;
use serde::{Deserialize, Serialize};

/// Facts that stay the same while a node runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Our public key, base64.
    pub public_key: String,
    /// One entry per lane core.
    pub cores: Vec<CoreInfo>,
    /// Symbol length, bytes.
    pub symbol_len: usize,
    /// Largest path MTU used, bytes.
    #[serde(default)]
    pub mtu: usize,
    /// Whether lanes search for what their paths carry.
    #[serde(default)]
    pub mtu_discovery: bool,
    /// Whether data is marked ECN-capable where the path keeps the mark.
    #[serde(default)]
    pub ecn: bool,
    /// Slots in flight per lane and direction.
    pub window_slots: usize,
    /// Verification level.
    pub verify: String,
    /// Best suite that this node offers.
    pub suite: String,
    /// Implementation of AES-256-GCM in use.
    pub provider: String,
    /// Why that one, with the figures of the calibration.
    pub provider_why: String,
    /// Kernel of the erasure code.
    pub fec_kernel: String,
    /// Why this backend.
    pub backend_why: String,
    /// Random number of this run, to tell a restart.
    pub boot_id: u64,
}

/// One lane core.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CoreInfo {
    /// Number.
    pub id: usize,
    /// CPU that it is pinned to.
    pub cpu: Option<usize>,
    /// Address that it listens on.
    pub addr: String,
    /// Backend name.
    pub backend: String,
    /// Payload bytes that its socket holds without loss.
    pub rx_capacity_bytes: usize,
}

/// One lane of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaneInfo {
    /// Our index of the session.
    pub session: u32,
    /// The core's figures.
    #[serde(flatten)]
    pub status: LaneStatus,
    /// Why it ended, if it has.
    pub closed: Option<String>,
}

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Our index.
    pub index: u32,
    /// Peer name, or its key.
    pub peer: String,
    /// Peer's public key, base64.
    pub peer_key: String,
    /// Peer's address.
    pub addr: String,
    /// Whether we asked for it.
    pub initiator: bool,
    /// Lanes.
    pub lanes: usize,
    /// Suite in use.
    pub suite: String,
    /// Symbol length agreed, bytes.
    pub symbol_len: usize,
    /// Seconds since it was established.
    pub age_s: f64,
    /// Seconds since an authenticated frame came in.
    pub quiet_s: f64,
    /// Smoothed round trip, nanoseconds.
    pub srtt_ns: u64,
}

/// Sessions and memory at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Seconds since the start.
    pub uptime_s: f64,
    /// Live sessions.
    pub sessions: Vec<SessionInfo>,
    /// Their lanes.
    pub lanes: Vec<LaneInfo>,
    /// Bytes of slot buffers in all.
    pub memory_bytes: usize,
    /// Bytes of slot buffers lent to lanes.
    pub memory_lent_bytes: usize,
    /// Whether slot buffers are on 2 MiB pages.
    pub huge_pages: bool,
}
