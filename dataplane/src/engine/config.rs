//! Settings of a node, checked before anything is opened.

use super::error::StartError;
use crate::backend::af_xdp::AfXdpConfig;
use crate::base::Nanos;
use crate::base::limits::{
    DEFAULT_PORT, IDLE_CLOSE_NS, KEEPALIVE_NS, MAX_CORES, MAX_LANES, MAX_MTU, MIN_MTU,
    SLOT_LINGER_NS, WINDOW_SLOTS, symbol_len_for_mtu,
};
use crate::codec::Policy;
use crate::crypto::Provider;
use crate::crypto::identity::Identity;
use crate::proto::CcKind;
use crate::proto::manager::PeerConfig;
use crate::proto::path::MAX_WEIGHT;
use crate::stage::{Lane, bufs_per_lane};
use crate::verify::Level;
use crate::wire::handshake::{SUITE_AEGIS_256, SUITE_AEGIS_256X2, SUITE_AES_256_GCM};
use std::net::{IpAddr, Ipv4Addr};

/// Which packet path to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackendChoice {
    /// AF_XDP where the driver does zero-copy, else UDP with GSO and GRO, which then is faster
    /// (`docs/PERF_NOTES.md` has the figures).
    #[default]
    Auto,
    /// UDP with GSO and GRO through `sendmmsg` and `recvmmsg`.
    Udp,
    /// UDP with GSO and GRO through io_uring.
    IoUring,
    /// The same with sends that the kernel does not copy: for network cards.
    IoUringZeroCopy,
    /// AF_XDP, as [`EngineConfig::af_xdp`] says; the node does not start where it cannot be had.
    AfXdp,
}

/// Which suites to offer. A suite implies those before it in the order AES-256-GCM, AEGIS-256X2,
/// AEGIS-256; a session uses the last that both ends offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SuiteChoice {
    /// The one that is measured to be fastest here, and those before it.
    #[default]
    Auto,
    /// AES-256-GCM only.
    Aes256Gcm,
    /// AEGIS-256X2, and nothing less from peers.
    Aegis256x2,
    /// AEGIS-256, and nothing less from peers.
    Aegis256,
}

impl SuiteChoice {
    /// The number of the suite that is asked for and nothing less; `None` for `Auto`.
    pub fn only(self) -> Option<u8> {
        match self {
            SuiteChoice::Auto => None,
            SuiteChoice::Aes256Gcm => Some(SUITE_AES_256_GCM),
            SuiteChoice::Aegis256x2 => Some(SUITE_AEGIS_256X2),
            SuiteChoice::Aegis256 => Some(SUITE_AEGIS_256),
        }
    }
}

/// What a node is started with.
#[derive(Clone)]
pub struct EngineConfig {
    /// Our long-term key.
    pub identity: Identity,
    /// Address to listen on.
    pub listen: IpAddr,
    /// UDP port of core 0; core `i` has `port + i`. 0 takes any free run of ports.
    pub port: u16,
    /// CPUs for the lane cores, one each; `None` leaves a core to the scheduler.
    pub cores: Vec<Option<usize>>,
    /// Largest path MTU to use, in bytes, 1,280 to 9,216: decides the symbol length.
    pub mtu: usize,
    /// Whether each lane searches for what its path carries, up to that; if not, every path must
    /// carry it.
    pub mtu_discovery: bool,
    /// Whether data frames are marked ECN-capable on paths that keep the mark.
    pub ecn: bool,
    /// Packet path.
    pub backend: BackendChoice,
    /// Settings of AF_XDP.
    pub af_xdp: AfXdpConfig,
    /// Bytes for slot buffers; `None` sizes it for two sessions.
    pub memory: Option<usize>,
    /// Lanes asked for in a session, `1..=128`; the peer may offer fewer.
    pub lanes: usize,
    /// Slots in flight per lane and direction, `1..=96`.
    pub window: usize,
    /// Suites to offer.
    pub suite: SuiteChoice,
    /// Implementation of AES-256-GCM; `None` measures them at start.
    pub provider: Option<Provider>,
    /// Verification level.
    pub level: Level,
    /// Compression of lanes whose user sets none.
    pub compression: Policy,
    /// Congestion control of each session's path. A fixed rate is that of all its lanes together,
    /// bytes on the wire per second.
    pub congestion: CcKind,
    /// Weights of the lanes of a session, by number, 1 to [`MAX_WEIGHT`]; lanes beyond have 1.
    pub lane_weights: Vec<u32>,
    /// Repair symbols sent ahead with every slot; `None` follows the measured loss.
    pub repair_ahead: Option<u8>,
    /// Silence after which the peer is asked for a sign of life, nanoseconds.
    pub keepalive: Nanos,
    /// Silence after which a session is closed, nanoseconds; at least twice the keepalive.
    pub idle_close: Nanos,
    /// How long small messages may gather in an open slot, nanoseconds.
    pub linger: Nanos,
    /// Who may open sessions with us.
    pub peers: Vec<PeerConfig>,
}

impl EngineConfig {
    /// Settings that work on any host: port 9696 on every IPv4 address, one unpinned core,
    /// MTU 1,500, two lanes.
    pub fn new(identity: Identity) -> EngineConfig {
        EngineConfig {
            identity,
            listen: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: DEFAULT_PORT,
            cores: vec![None],
            mtu: 1500,
            mtu_discovery: true,
            ecn: true,
            backend: BackendChoice::Auto,
            af_xdp: AfXdpConfig::default(),
            memory: None,
            lanes: 2,
            window: WINDOW_SLOTS,
            suite: SuiteChoice::Auto,
            provider: None,
            level: Level::Fast,
            compression: Policy::None,
            congestion: CcKind::Bbr,
            lane_weights: Vec::new(),
            repair_ahead: None,
            keepalive: KEEPALIVE_NS,
            idle_close: IDLE_CLOSE_NS,
            linger: SLOT_LINGER_NS,
            peers: Vec::new(),
        }
    }

    /// Symbol length that the MTU allows, bytes.
    pub fn symbol_len(&self) -> usize {
        symbol_len_for_mtu(self.mtu)
    }

    /// Bytes of one session's buffers with these settings.
    pub fn session_bytes(&self) -> usize {
        let buf = Lane::buf_len(self.symbol_len()).next_multiple_of(4096);
        self.lanes * bufs_per_lane(self.window) * buf
    }

    /// Bytes for slot buffers: as configured, or enough for two sessions, so that a peer that
    /// comes back is let in while its old session is still winding down.
    pub fn memory_bytes(&self) -> usize {
        self.memory.unwrap_or(2 * self.session_bytes())
    }

    /// Checks every setting.
    pub fn check(&self) -> Result<(), StartError> {
        let bad = |text: String| Err(StartError::Config(text));
        if !(MIN_MTU..=MAX_MTU).contains(&self.mtu) {
            return bad(format!("mtu {} is outside {MIN_MTU}..={MAX_MTU}", self.mtu));
        }
        if self.cores.is_empty() || self.cores.len() > MAX_CORES {
            return bad(format!(
                "{} lane cores; 1 to {MAX_CORES} are possible",
                self.cores.len()
            ));
        }
        if self.lanes == 0 || self.lanes > MAX_LANES {
            return bad(format!(
                "{} lanes per session; 1 to {MAX_LANES} are possible",
                self.lanes
            ));
        }
        if self.window == 0 || self.window > WINDOW_SLOTS {
            return bad(format!(
                "window of {} slots; 1 to {WINDOW_SLOTS} are possible",
                self.window
            ));
        }
        if let Some(w) = self
            .lane_weights
            .iter()
            .find(|w| !(1..=MAX_WEIGHT).contains(*w))
        {
            return bad(format!(
                "a lane of weight {w}; 1 to {MAX_WEIGHT} are possible"
            ));
        }
        if usize::from(self.port) + self.cores.len() > 65536 {
            return bad(format!(
                "port {} leaves no room for {} cores",
                self.port,
                self.cores.len()
            ));
        }
        if let Some(p) = self.provider
            && p.suite() != SUITE_AES_256_GCM
        {
            return bad(format!(
                "{p} is no provider of AES-256-GCM; ask for its suite instead"
            ));
        }
        if self.keepalive == 0 || self.idle_close < 2 * self.keepalive {
            return bad("the idle time must be at least twice the keepalive interval".into());
        }
        let need = self.session_bytes();
        if self.memory_bytes() < need {
            return bad(format!(
                "memory budget of {} bytes is too small: one session of {} lanes with {} slots of \
                 {} bytes takes {need}; raise the budget or lower lanes, window_slots or mtu",
                self.memory_bytes(),
                self.lanes,
                self.window,
                Lane::buf_len(self.symbol_len()),
            ));
        }
        Ok(())
    }
}
