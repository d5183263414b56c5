//! The control thread: handshakes, sessions coming and going, liveness. It touches no payload.

use super::command::{CoreCommand, CoreEvent};
use super::config::EngineConfig;
use super::error::ConnectError;
use super::snapshot::{LaneInfo, SessionInfo, Snapshot};
use crate::base::limits::FRAME_OVERHEAD;
use crate::base::{Clock, Nanos};
use crate::crypto::Provider;
use crate::crypto::identity::PublicKey;
use crate::crypto::schedule::{Direction, SessionSecrets};
use crate::mem::Arena;
use crate::obs::{Counter, ThreadStats};
use crate::proto::manager::{Manager, ManagerEvent, Negotiated, Role, Side};
use crate::proto::{CcConfig, CcKind, LaneTxConfig, RepairAhead};
use crate::ring::Wakeup;
use crate::stage::{
    CloseReason, LaneEnds, LaneParams, LaneShared, LaneStatus, SessionShared, open_lane,
};
use crate::verify::Level;
use crate::wire::handshake::{Params, agreed_suite, suite_name};
use crossbeam_channel::{Receiver, Sender, TrySendError, never, select};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a peer's socket is taken to hold until its first acknowledgement says so, bytes.
const FIRST_FLIGHT: u32 = 256 << 10;
/// Round trip that is assumed before the first sample, nanoseconds.
const INITIAL_RTT_NS: Nanos = 10_000_000;

/// The control thread looks at its sessions at least this often.
const TICK: Duration = Duration::from_millis(100);
/// Sent data that has waited this long with nothing heard starts a fresh handshake: a peer that
/// restarted knows nothing of the session and stays silent, but it answers an OFFER.
const STALL_NS: Nanos = 3_000_000_000;

/// Everything the user of a new session gets.
pub struct SessionEnds {
    /// Our index.
    pub index: u32,
    /// Peer's public key.
    pub peer: PublicKey,
    /// Peer's name in the configuration.
    pub peer_name: String,
    /// Peer's address.
    pub addr: SocketAddr,
    /// Whether we asked for the session.
    pub initiator: bool,
    /// Key with which the peer signs receipts (Ed25519).
    pub receipt_key: [u8; 32],
    /// Whether the peer runs on this very host, so that clocks compare.
    pub same_host: bool,
    /// The lanes' application ends.
    pub lanes: Vec<LaneEnds>,
}

/// Answer to a connect.
pub type ConnectReply = Result<SessionEnds, ConnectError>;

pub(super) enum Call {
    Connect {
        peer: PublicKey,
        addr: Option<SocketAddr>,
        timeout: Duration,
        reply: Sender<ConnectReply>,
    },
    Close {
        index: u32,
        reason: CloseReason,
    },
    Stop,
}

pub(super) struct CoreLink {
    pub(super) commands: Sender<CoreCommand>,
    pub(super) wakeup: Arc<Wakeup>,
    pub(super) rx_capacity: usize,
}

impl CoreLink {
    fn send(&self, c: CoreCommand) {
        // The channel is bounded far above what a node can have under way; a core that has gone
        // takes nothing any more, which is what a stop means.
        let _ = self.commands.send(c);
        self.wakeup.wake();
    }

    /// For datagrams, which may be lost: never waits for a core that is busy.
    fn offer(&self, c: CoreCommand) {
        if self.commands.try_send(c).is_ok() {
            self.wakeup.wake();
        }
    }
}

struct Live {
    peer: PublicKey,
    addr: SocketAddr,
    initiator: bool,
    suite: u8,
    symbol_len: usize,
    since: Nanos,
    shared: Arc<SessionShared>,
    lanes: Vec<(Arc<LaneShared>, Arc<Mutex<LaneStatus>>)>,
    ended: usize,
    pinged: Nanos,
    revived: Nanos,
    confirmed: bool,
}

struct Established {
    local_index: u32,
    remote_index: u32,
    peer: PublicKey,
    remote_addr: SocketAddr,
    role: Role,
    secrets: SessionSecrets,
    remote: Params,
    negotiated: Negotiated,
    replaces: Option<u32>,
}

struct Waiter {
    peer: PublicKey,
    deadline: Nanos,
    reply: Sender<ConnectReply>,
}

pub(super) struct Control {
    pub(super) cfg: EngineConfig,
    /// Of AES-256-GCM.
    pub(super) provider: Provider,
    /// Best suite that we state.
    pub(super) suite: u8,
    pub(super) manager: Manager,
    pub(super) boot_id: u64,
    pub(super) cores: Vec<CoreLink>,
    pub(super) arena: Arena,
    pub(super) clock: Clock,
    pub(super) events: Receiver<CoreEvent>,
    pub(super) calls: Receiver<Call>,
    pub(super) accepted: Sender<SessionEnds>,
    pub(super) snapshot: Arc<Mutex<Snapshot>>,
    pub(super) stats: Arc<ThreadStats>,
    sessions: HashMap<u32, Live>,
    waiters: Vec<Waiter>,
    stopping: bool,
}

impl Control {
    #[allow(
        clippy::too_many_arguments,
        reason = "one call site, each value used once"
    )]
    pub(super) fn new(
        cfg: EngineConfig,
        provider: Provider,
        suite: u8,
        manager: Manager,
        boot_id: u64,
        cores: Vec<CoreLink>,
        arena: Arena,
        clock: Clock,
        events: Receiver<CoreEvent>,
        calls: Receiver<Call>,
        accepted: Sender<SessionEnds>,
        snapshot: Arc<Mutex<Snapshot>>,
        stats: Arc<ThreadStats>,
    ) -> Control {
        Control {
            cfg,
            provider,
            suite,
            manager,
            boot_id,
            cores,
            arena,
            clock,
            events,
            calls,
            accepted,
            snapshot,
            stats,
            sessions: HashMap::new(),
            waiters: Vec::new(),
            stopping: false,
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        while !self.stopping {
            let now = self.clock.now();
            let wait = self.manager.next_timeout().map_or(TICK, |t| {
                Duration::from_nanos(t.saturating_sub(now)).min(TICK)
            });
            select! {
                recv(self.events) -> e => match e {
                    Ok(e) => self.on_event(e),
                    // Every core has gone: only calls are left to serve.
                    Err(_) => self.events = never(),
                },
                recv(self.calls) -> c => match c {
                    Ok(c) => self.on_call(c),
                    Err(_) => self.stopping = true,
                },
                default(wait) => {}
            }
            self.tick();
        }
        for index in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.close(index, CloseReason::Shutdown);
        }
        // Give the cores one round to tell the peers.
        std::thread::sleep(Duration::from_millis(20));
        for c in &self.cores {
            c.send(CoreCommand::Stop);
        }
    }

    fn peer_name(&self, key: &PublicKey) -> String {
        self.cfg
            .peers
            .iter()
            .find(|p| p.key == *key)
            .map_or_else(|| key.to_string(), |p| p.name.clone())
    }

    fn on_call(&mut self, call: Call) {
        match call {
            Call::Connect {
                peer,
                addr,
                timeout,
                reply,
            } => {
                let now = self.clock.now();
                let Some(known) = self.cfg.peers.iter().find(|p| p.key == peer) else {
                    let _ = reply.send(Err(ConnectError::UnknownPeer(peer.to_string())));
                    return;
                };
                let Some(addr) = addr.or(known.endpoint) else {
                    let _ = reply.send(Err(ConnectError::NoEndpoint(known.name.clone())));
                    return;
                };
                let deadline =
                    now.saturating_add(timeout.as_nanos().min(u128::from(u64::MAX)) as u64);
                self.waiters.push(Waiter {
                    peer,
                    deadline,
                    reply,
                });
                self.handshake(peer, addr, now);
            }
            Call::Close { index, reason } => self.close(index, reason),
            Call::Stop => self.stopping = true,
        }
    }

    fn handshake(&mut self, peer: PublicKey, addr: SocketAddr, now: Nanos) {
        if let Err(e) = self.manager.connect(&peer, Some(addr), now) {
            self.fail(&peer, &e.to_string());
        }
    }

    fn fail(&mut self, peer: &PublicKey, reason: &str) {
        let name = self.peer_name(peer);
        for w in self.waiters.extract_if(.., |w| w.peer == *peer) {
            let _ = w.reply.send(Err(ConnectError::Refused {
                peer: name.clone(),
                reason: reason.to_owned(),
            }));
        }
    }

    fn on_event(&mut self, event: CoreEvent) {
        match event {
            CoreEvent::Handshake { from, bytes } => {
                let now = self.clock.now();
                let cores = &self.cores;
                let mut out = |to: SocketAddr, bytes: &[u8]| send_datagram(cores, to, bytes);
                if let Some(e) = self.manager.on_datagram(from, &bytes, now, &mut out) {
                    self.on_manager(e);
                }
            }
            CoreEvent::LaneEnded { local_index, .. } => {
                if let Some(s) = self.sessions.get_mut(&local_index) {
                    s.ended += 1;
                    if s.ended == s.lanes.len() {
                        self.sessions.remove(&local_index);
                        self.stats.counters.add(Counter::SessionsClosed, 1);
                        self.manager.close(local_index);
                    }
                }
            }
        }
    }

    fn on_manager(&mut self, event: ManagerEvent) {
        match event {
            ManagerEvent::Established {
                local_index,
                remote_index,
                peer,
                remote_addr,
                role,
                secrets,
                remote,
                negotiated,
                replaces,
                ..
            } => self.establish(Established {
                local_index,
                remote_index,
                peer,
                remote_addr,
                role,
                secrets,
                remote,
                negotiated,
                replaces,
            }),
            ManagerEvent::Refused {
                peer, reason, by, ..
            } => {
                let by = match by {
                    Side::Local => "by our policy",
                    Side::Remote => "by the peer",
                };
                self.stats.counters.add(Counter::HandshakesRefused, 1);
                self.fail(&peer, &format!("{reason} ({by})"));
            }
            ManagerEvent::TimedOut { .. } => {}
        }
    }

    fn establish(&mut self, e: Established) {
        let now = self.clock.now();
        if let Some(old) = e.replaces {
            self.close(old, CloseReason::PeerRestarted);
        }
        let name = self.peer_name(&e.peer);
        let initiator = e.role == Role::Initiator;
        let suite = agreed_suite(self.suite, e.remote.attestation.suite);
        let opened = self.open_lanes(&e, suite, now);
        let (ends, lanes, shared) = match opened {
            Ok(o) => o,
            Err(source) => {
                eprintln!("ctp96: no memory for a session with {name}: {source}");
                self.manager.close(e.local_index);
                let mut first = Some(source);
                for w in self.waiters.extract_if(.., |w| w.peer == e.peer) {
                    let _ = w.reply.send(Err(match first.take() {
                        Some(source) => ConnectError::Memory {
                            peer: name.clone(),
                            source,
                        },
                        None => ConnectError::Refused {
                            peer: name.clone(),
                            reason: "no memory".into(),
                        },
                    }));
                }
                return;
            }
        };
        let ends = SessionEnds {
            index: e.local_index,
            peer: e.peer,
            peer_name: name,
            addr: e.remote_addr,
            initiator,
            receipt_key: e.remote.attestation.receipt_key,
            same_host: e.remote.boot_id >> 32 == self.boot_id >> 32,
            lanes: ends,
        };
        self.stats.counters.add(Counter::SessionsOpened, 1);
        self.sessions.insert(
            e.local_index,
            Live {
                peer: e.peer,
                addr: e.remote_addr,
                initiator,
                suite,
                symbol_len: usize::from(e.negotiated.symbol_len),
                since: now,
                shared,
                lanes,
                ended: 0,
                pinged: now,
                revived: now,
                confirmed: false,
            },
        );
        let waiter = self.waiters.iter().position(|w| w.peer == e.peer);
        let lost = match waiter.filter(|_| initiator) {
            Some(i) => self.waiters.swap_remove(i).reply.send(Ok(ends)).is_err(),
            None => match self.accepted.try_send(ends) {
                Ok(()) => false,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => true,
            },
        };
        if lost {
            // Nobody takes it: the peer is told rather than left with a session that goes nowhere.
            self.close(e.local_index, CloseReason::Finished);
        }
    }

    #[allow(clippy::type_complexity, reason = "used once, just above")]
    fn open_lanes(
        &mut self,
        e: &Established,
        suite: u8,
        now: Nanos,
    ) -> Result<
        (
            Vec<LaneEnds>,
            Vec<(Arc<LaneShared>, Arc<Mutex<LaneStatus>>)>,
            Arc<SessionShared>,
        ),
        crate::mem::ArenaError,
    > {
        let shared = Arc::new(SessionShared::default());
        shared.last_rx.store(now, Ordering::Relaxed);
        // The stronger of what both sides want.
        let level = match Level::from_wire(e.remote.attestation.witness) {
            Some(Level::Full) => Level::Full,
            _ => self.cfg.level,
        };
        // Of what we state ourselves at most, so it is known. The secrets are this session's alone:
        // no key is ever used with two suites.
        let provider = Provider::for_suite(suite, self.provider).unwrap_or(self.provider);
        let sending = Direction::sending(e.role == Role::Initiator);
        let n = usize::from(e.negotiated.lanes);
        let mut opened = Vec::with_capacity(n);
        for lane in 0..n {
            let core = lane % self.cores.len();
            let link = &self.cores[core];
            let port = e.remote.base_port + (lane % usize::from(e.remote.cores.max(1))) as u16;
            let lane_shared = Arc::new(LaneShared::new(
                lane as u8,
                link.wakeup.clone(),
                shared.clone(),
            ));
            // The lanes of all sessions on a core share its socket buffer.
            let lanes_on_core = n.div_ceil(self.cores.len()).max(1);
            let params = LaneParams {
                lane: lane as u8,
                local_index: e.local_index,
                remote_index: e.remote_index,
                dest: SocketAddr::new(e.remote_addr.ip(), port),
                symbol_len: usize::from(e.negotiated.symbol_len),
                window: usize::from(e.negotiated.window_slots),
                provider,
                tx_secret: *e.secrets.direction(sending),
                rx_secret: *e.secrets.direction(sending.reverse()),
                level,
                tx: LaneTxConfig {
                    window_slots: e.negotiated.window_slots,
                    symbol_len: e.negotiated.symbol_len,
                    inflight_limit: FIRST_FLIGHT,
                    repair_ahead: match self.cfg.repair_ahead {
                        Some(n) => RepairAhead::Fixed(n),
                        None => RepairAhead::Adaptive,
                    },
                    cc: CcConfig {
                        kind: match self.cfg.fixed_rate {
                            Some(r) => CcKind::Fixed(r.bytes_per_s / n as u64),
                            None => CcKind::Bbr,
                        },
                        max_rate: None,
                        frame: u64::from(e.negotiated.symbol_len) + FRAME_OVERHEAD as u64,
                        initial_rtt: INITIAL_RTT_NS,
                        seed: u64::from(e.local_index) << 8 | lane as u64,
                    },
                },
                linger: self.cfg.linger,
                inflight_limit: (link.rx_capacity / lanes_on_core).min(u32::MAX as usize) as u32,
                now,
            };
            let (lane, ends) = open_lane(params, &self.arena, lane_shared)?;
            opened.push((core, lane, ends));
        }
        let mut ends = Vec::with_capacity(n);
        let mut watch = Vec::with_capacity(n);
        for (core, lane, end) in opened {
            watch.push((end.shared.clone(), end.status.clone()));
            self.cores[core].send(CoreCommand::Open {
                local_index: e.local_index,
                lane: Box::new(lane),
            });
            ends.push(end);
        }
        Ok((ends, watch, shared))
    }

    fn close(&mut self, index: u32, reason: CloseReason) {
        if let Some(s) = self.sessions.get(&index) {
            for (lane, _) in &s.lanes {
                lane.close(reason);
            }
        }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        let cores = &self.cores;
        let mut out = |to: SocketAddr, bytes: &[u8]| send_datagram(cores, to, bytes);
        for e in self.manager.on_timeout(now, &mut out) {
            self.on_manager(e);
        }
        let ours = self.cfg.identity.public().to_string();
        for w in self.waiters.extract_if(.., |w| w.deadline <= now) {
            let peer = self.cfg.peers.iter().find(|p| p.key == w.peer);
            let peer = peer.map_or_else(|| w.peer.to_string(), |p| p.name.clone());
            let _ = w.reply.send(Err(ConnectError::TimedOut {
                peer,
                ours: ours.clone(),
            }));
        }
        let mut revive = Vec::new();
        let mut dead = Vec::new();
        for (&index, s) in &mut self.sessions {
            if s.lanes.iter().all(|(l, _)| l.closed().is_some()) {
                continue;
            }
            let last = s.shared.last_rx.load(Ordering::Relaxed);
            if !s.confirmed && last > s.since {
                s.confirmed = true;
                self.manager.confirm(index);
            }
            let quiet = now.saturating_sub(last);
            if let Some(n) = s
                .shared
                .closed_by_peer
                .load(Ordering::Acquire)
                .checked_sub(1)
            {
                dead.push((index, CloseReason::from_wire(n as u16)));
                continue;
            }
            if quiet > self.cfg.idle_close {
                dead.push((index, CloseReason::Idle));
                continue;
            }
            let since = |l: &Arc<LaneShared>| l.waiting_since.load(Ordering::Relaxed);
            let stalled = s.lanes.iter().any(|(l, _)| {
                let t = since(l);
                t != 0 && now.saturating_sub(t) > STALL_NS
            });
            if stalled && quiet > STALL_NS && now - s.revived > STALL_NS {
                s.revived = now;
                revive.push((s.peer, s.addr));
            }
            let keepalive = self.cfg.keepalive;
            if quiet > keepalive && now - s.pinged > keepalive / 2 {
                s.pinged = now;
                if let Some(core) = self.cores.first() {
                    core.send(CoreCommand::Ping { local_index: index });
                }
            }
        }
        for (index, reason) in dead {
            self.close(index, reason);
        }
        for (peer, addr) in revive {
            self.handshake(peer, addr, now);
        }
        self.publish(now);
    }

    fn publish(&self, now: Nanos) {
        let arena = self.arena.stats();
        let mut s = Snapshot {
            uptime_s: now as f64 / 1e9,
            memory_bytes: arena.total * arena.buf_len,
            memory_lent_bytes: arena.lent * arena.buf_len,
            huge_pages: arena.huge,
            ..Snapshot::default()
        };
        for (&index, live) in &self.sessions {
            s.sessions.push(SessionInfo {
                index,
                peer: self.peer_name(&live.peer),
                peer_key: live.peer.to_string(),
                addr: live.addr.to_string(),
                initiator: live.initiator,
                lanes: live.lanes.len(),
                suite: suite_name(live.suite).to_owned(),
                symbol_len: live.symbol_len,
                age_s: now.saturating_sub(live.since) as f64 / 1e9,
                quiet_s: now.saturating_sub(live.shared.last_rx.load(Ordering::Relaxed)) as f64
                    / 1e9,
                srtt_ns: live.shared.srtt.load(Ordering::Relaxed),
            });
            for (shared, status) in &live.lanes {
                let status = status
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let closed = shared.closed().map(|r| r.to_string());
                s.lanes.push(LaneInfo {
                    session: index,
                    status,
                    closed,
                });
            }
        }
        s.sessions.sort_by_key(|i| i.index);
        s.lanes.sort_by_key(|l| (l.session, l.status.lane));
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = s;
    }
}

fn send_datagram(cores: &[CoreLink], to: SocketAddr, bytes: &[u8]) {
    if let Some(core) = cores.first() {
        core.offer(CoreCommand::Datagram {
            to,
            bytes: bytes.to_vec(),
        });
    }
}
