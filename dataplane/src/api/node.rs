//! A node: one identity, one set of lane cores, many sessions.

use super::session::Session;
use crate::backend::af_xdp::AfXdpConfig;
use crate::codec::Policy;
use crate::crypto::Provider;
use crate::crypto::identity::{Identity, PublicKey};
use crate::engine::{
    BackendChoice, ConnectError, Engine, EngineConfig, EngineInfo, Snapshot, StartError,
    SuiteChoice,
};
use crate::obs::{Registry, ThreadStats};
use crate::proto::CcKind;
use crate::proto::manager::PeerConfig;
use crate::verify::Level;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Settings of a node that is about to start. Every one has a default that works.
#[derive(Clone)]
pub struct NodeBuilder {
    cfg: EngineConfig,
}

impl NodeBuilder {
    /// Address and UDP port to listen on (default `0.0.0.0:9696`); core `i` takes `port + i`, and
    /// port 0 takes any that are free.
    pub fn listen(mut self, addr: SocketAddr) -> NodeBuilder {
        self.cfg.listen = addr.ip();
        self.cfg.port = addr.port();
        self
    }

    /// Lets a peer in, and names it; `endpoint` is needed to connect to it.
    pub fn peer(self, name: &str, key: PublicKey, endpoint: Option<SocketAddr>) -> NodeBuilder {
        self.peer_config(PeerConfig {
            name: name.to_owned(),
            key,
            endpoint,
            psk: None,
        })
    }

    /// As [`NodeBuilder::peer`], with every setting.
    pub fn peer_config(mut self, peer: PeerConfig) -> NodeBuilder {
        self.cfg.peers.push(peer);
        self
    }

    /// CPUs to pin the lane cores to, one core each (default: one core, not pinned).
    pub fn pin(mut self, cpus: &[usize]) -> NodeBuilder {
        self.cfg.cores = cpus.iter().map(|&c| Some(c)).collect();
        self
    }

    /// Number of lane cores that are left to the scheduler.
    pub fn unpinned_cores(mut self, n: usize) -> NodeBuilder {
        self.cfg.cores = vec![None; n];
        self
    }

    /// Largest path MTU to use, in bytes, 1,280 to 9,216 (default 1,500). Paths that carry less are
    /// found out.
    pub fn mtu(mut self, mtu: usize) -> NodeBuilder {
        self.cfg.mtu = mtu;
        self
    }

    /// Whether lanes search for what their paths carry (default yes). Without it every path must
    /// carry the configured MTU.
    pub fn mtu_discovery(mut self, on: bool) -> NodeBuilder {
        self.cfg.mtu_discovery = on;
        self
    }

    /// Whether data is marked ECN-capable on paths that keep the mark (default yes).
    pub fn ecn(mut self, on: bool) -> NodeBuilder {
        self.cfg.ecn = on;
        self
    }

    /// Packet path (default: the fastest that works here).
    pub fn backend(mut self, backend: BackendChoice) -> NodeBuilder {
        self.cfg.backend = backend;
        self
    }

    /// Settings of AF_XDP, for [`BackendChoice::AfXdp`] and [`BackendChoice::Auto`].
    pub fn af_xdp(mut self, settings: AfXdpConfig) -> NodeBuilder {
        self.cfg.af_xdp = settings;
        self
    }

    /// Bytes for slot buffers (default: two sessions' worth).
    pub fn memory(mut self, bytes: usize) -> NodeBuilder {
        self.cfg.memory = Some(bytes);
        self
    }

    /// Lanes of a session, `1..=128` (default 2), and slots in flight on each, `1..=96`
    /// (default 96).
    pub fn lanes(mut self, lanes: usize, window_slots: usize) -> NodeBuilder {
        self.cfg.lanes = lanes;
        self.cfg.window = window_slots;
        self
    }

    /// Suites to offer (default: the one that is fastest here, and those that it implies).
    pub fn suite(mut self, suite: SuiteChoice) -> NodeBuilder {
        self.cfg.suite = suite;
        self
    }

    /// Implementation of AES-256-GCM (default: measured at start).
    pub fn provider(mut self, provider: Provider) -> NodeBuilder {
        self.cfg.provider = Some(provider);
        self
    }

    /// Verification level (default [`Level::Fast`]).
    pub fn verify(mut self, level: Level) -> NodeBuilder {
        self.cfg.level = level;
        self
    }

    /// Compression of lanes (default `none`). Where an attacker can choose part of the text, leave
    /// it so: lengths leak what compresses with what.
    pub fn compression(mut self, policy: Policy) -> NodeBuilder {
        self.cfg.compression = policy;
        self
    }

    /// Congestion control (default [`CcKind::Bbr`]).
    pub fn congestion(mut self, kind: CcKind) -> NodeBuilder {
        self.cfg.congestion = kind;
        self
    }

    /// A fixed rate in bytes on the wire per second for each session instead of congestion control,
    /// for links that are yours.
    pub fn fixed_rate(self, bytes_per_s: u64) -> NodeBuilder {
        self.congestion(CcKind::Fixed(bytes_per_s))
    }

    /// Weights of the lanes of a session, by number (default 1 for each, at most 1,000): a lane that
    /// has more to send than it may gets rate and window by weight. [`super::LaneSender::set_weight`]
    /// changes them later.
    pub fn lane_weights(mut self, weights: Vec<u32>) -> NodeBuilder {
        self.cfg.lane_weights = weights;
        self
    }

    /// Repair symbols sent ahead with every slot (default: from the measured loss).
    pub fn repair_ahead(mut self, symbols: u8) -> NodeBuilder {
        self.cfg.repair_ahead = Some(symbols);
        self
    }

    /// Opens sockets, sizes memory, starts the threads.
    pub fn start(self) -> Result<Node, StartError> {
        Ok(Node {
            engine: Arc::new(Engine::start(self.cfg)?),
        })
    }
}

/// A running node. Dropping the last handle closes its sessions and stops its threads.
#[derive(Clone)]
pub struct Node {
    engine: Arc<Engine>,
}

impl Node {
    /// Settings for a node with this identity.
    pub fn builder(identity: Identity) -> NodeBuilder {
        NodeBuilder {
            cfg: EngineConfig::new(identity),
        }
    }

    /// A node from a whole configuration.
    pub fn from_config(cfg: EngineConfig) -> Result<Node, StartError> {
        NodeBuilder { cfg }.start()
    }

    /// Opens a session with a configured peer at its configured endpoint, within `timeout`.
    pub fn connect(&self, peer: &PublicKey, timeout: Duration) -> Result<Session, ConnectError> {
        self.connect_at(peer, None, timeout)
    }

    /// As [`Node::connect`], at another address.
    pub fn connect_at(
        &self,
        peer: &PublicKey,
        addr: Option<SocketAddr>,
        timeout: Duration,
    ) -> Result<Session, ConnectError> {
        let ends = self.engine.connect(*peer, addr, timeout)?;
        Ok(Session::new(ends, self.engine.clone()))
    }

    /// The next session that a peer opened with us, within `timeout`.
    pub fn accept(&self, timeout: Duration) -> Result<Session, ConnectError> {
        match self.engine.accept(timeout)? {
            Some(ends) => Ok(Session::new(ends, self.engine.clone())),
            None => Err(ConnectError::TimedOut {
                peer: "any peer".into(),
                ours: self.engine.info().public_key.clone(),
            }),
        }
    }

    /// Address of core 0, which peers connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.engine.local_addr()
    }

    /// Facts that stay the same while the node runs.
    pub fn info(&self) -> &EngineInfo {
        self.engine.info()
    }

    /// Sessions, lanes and memory, at most a tenth of a second old.
    pub fn snapshot(&self) -> Snapshot {
        self.engine.snapshot()
    }

    /// What the XDP program has decided about packets, by name; empty without AF_XDP.
    pub fn verdicts(&self) -> Vec<(&'static str, u64)> {
        self.engine.verdicts()
    }

    /// Counters and histograms of every thread of the node.
    pub fn registry(&self) -> &Registry {
        self.engine.registry()
    }

    /// Statistics for a further thread that works for this node.
    pub fn attach_stats(&self, name: &str) -> Arc<ThreadStats> {
        self.engine.registry().attach(name)
    }
}
