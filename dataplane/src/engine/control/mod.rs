//! The control thread: handshakes, sessions coming and going, liveness. It touches no payload.

mod open;
mod route;

use super::command::{CoreCommand, CoreEvent};
use super::config::EngineConfig;
use super::error::ConnectError;
use super::snapshot::{LaneInfo, SessionInfo, Snapshot};
use crate::base::{Clock, Nanos};
use crate::crypto::Provider;
use crate::crypto::identity::PublicKey;
use crate::mem::Arena;
use crate::obs::{Counter, ThreadStats};
use crate::proto::manager::{Manager, ManagerEvent, Side};
use crate::ring::Wakeup;
use crate::stage::{CloseReason, LaneEnds, LaneShared, LaneStatus, SessionShared};
use crate::wire::handshake::suite_name;
use crossbeam_channel::{Receiver, Sender, never, select};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// When a handshake was last started because of the peer's silence.
    revived: Nanos,
    /// Whether that handshake is still wanted.
    reviving: bool,
    confirmed: bool,
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

    /// A peer that was asked for a new handshake because it had been silent, and has spoken on its
    /// old session since, was starved and not restarted: the old session goes on.
    fn forget_needless_handshakes(&mut self) {
        for s in self.sessions.values_mut() {
            let heard = s.shared.last_rx.load(Ordering::Relaxed);
            if s.reviving && heard > s.revived {
                s.reviving = false;
                // Somebody who asked for a session of his own still gets it.
                if self.waiters.iter().all(|w| w.peer != s.peer) {
                    self.manager.abandon(&s.peer);
                }
            }
        }
    }

    fn on_event(&mut self, event: CoreEvent) {
        match event {
            CoreEvent::Handshake { from, bytes } => {
                // The peer's core answers on the session before its control thread answers here.
                self.forget_needless_handshakes();
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
                rtt,
                ..
            } => self.establish(open::Established {
                local_index,
                remote_index,
                peer,
                remote_addr,
                role,
                secrets,
                remote,
                negotiated,
                replaces,
                rtt,
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

    fn close(&mut self, index: u32, reason: CloseReason) {
        if let Some(s) = self.sessions.get(&index) {
            for (lane, _) in &s.lanes {
                lane.close(reason);
            }
        }
    }

    fn tick(&mut self) {
        self.forget_needless_handshakes();
        let now = self.clock.now();
        let cores = &self.cores;
        let mut out = |to: SocketAddr, bytes: &[u8]| send_datagram(cores, to, bytes);
        for e in self.manager.on_timeout(now, &mut out) {
            self.on_manager(e);
        }
        self.refresh_hints();
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
                s.reviving = true;
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
