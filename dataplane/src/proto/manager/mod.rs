//! The handshake manager: who may talk to us, and which sessions exist. Sans-IO: datagrams and the
//! time come in as arguments, frames go out through a closure.
//!
//! OFFER -> COUNTER -> ACCEPT (messages in [`crate::wire::handshake`], keys in
//! [`crate::crypto::noise`]):
//!
//! - The initiator repeats OFFER, each time with a fresh ephemeral key and a later timestamp, with
//!   exponential backoff and jitter. It is established when COUNTER verifies and then repeats ACCEPT, byte
//!   for byte, until [`Manager::confirm`] or a few times. The responder never repeats anything: every
//!   frame it sends answers a larger one.
//! - The responder is established by ACCEPT only, and must not send data before. A session that the
//!   peer had before stays usable until that moment.
//! - A stranger, a wrong key, a replay or anything malformed is answered with silence. A configured peer
//!   whose profile or parameters do not do is told so inside COUNTER, authenticated.
//! - Both open at once: the side with the lower public key stays initiator, the other drops its own
//!   attempt. After [`SIMULTANEOUS_TRIES`] unanswered OFFERs the lower side gives way too, since then
//!   probably only the peer's datagrams get through.
//! - Handshake work is rationed per source address and in total, in constant memory.
//!
//! OFFER timestamps must rise strictly per peer. They are Unix time, so that they rise over restarts;
//! a node whose clock was set back is refused until its clock has caught up.

mod initiator;
mod rate;
mod responder;
mod table;
mod types;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::base::Nanos;
use crate::crypto::identity::{Identity, PublicKey};
use crate::crypto::noise::{self, Finished, Initiator};
use crate::wire::handshake::{Frame, Kind, Params};

pub use rate::RateConfig;
use rate::RateLimiter;
use table::IndexTable;
pub use table::Indices;
pub use types::*;

/// Most sessions, live and opening, of one node: the low 8 bits of an index are its place.
pub const MAX_SESSIONS: usize = table::SLOTS;
/// Unanswered OFFERs after which the side with the lower key answers the peer's OFFER.
pub const SIMULTANEOUS_TRIES: u32 = 2;
/// COUNTERs that may fail to verify per OFFER: bounds the work that a guessed index can cause.
const MAX_FORGED_COUNTERS: u8 = 16;

const MS: Nanos = 1_000_000;

/// Our attempt to reach a peer.
struct Intent {
    id: HandshakeId,
    addr: SocketAddr,
    give_up: Nanos,
    due: Nanos,
    interval: Nanos,
    /// When the latest OFFER left.
    offered: Nanos,
    tries: u32,
    index: Option<u32>,
    forged: u8,
    noise: Option<Initiator>,
}

/// COUNTER is sent, ACCEPT is awaited.
struct Responding {
    index: u32,
    keys: Finished,
    remote: Params,
    negotiated: Negotiated,
    /// When COUNTER left.
    countered: Nanos,
    expires: Nanos,
}

/// An ACCEPT to repeat.
struct AcceptRepeat {
    frame: Vec<u8>,
    addr: SocketAddr,
    due: Nanos,
    interval: Nanos,
    left: u8,
}

struct Live {
    index: u32,
    accept: Option<AcceptRepeat>,
}

struct Peer {
    config: PeerConfig,
    last_offer: Option<u64>,
    intent: Option<Intent>,
    responding: Option<Responding>,
    live: Option<Live>,
}

impl Peer {
    fn psk(&self) -> [u8; 32] {
        self.config.psk.unwrap_or(noise::NO_PSK)
    }

    /// Forgets our own attempt's keys, so that a COUNTER to it is no longer heard; it is resumed at
    /// `resume` at the earliest.
    fn suspend_intent(&mut self, table: &mut IndexTable, resume: Nanos) {
        if let Some(i) = &mut self.intent {
            i.noise = None;
            i.due = i.due.max(resume);
            table.free(i.index.take());
        }
    }

    fn end_intent(&mut self, table: &mut IndexTable) -> Option<HandshakeId> {
        let i = self.intent.take()?;
        table.free(i.index);
        Some(i.id)
    }

    fn end_responding(&mut self, table: &mut IndexTable) {
        if let Some(r) = self.responding.take() {
            table.free(Some(r.index));
        }
    }

    fn replace_live(&mut self, table: &mut IndexTable, live: Live) -> Option<u32> {
        let old = self.live.replace(live)?.index;
        table.free(Some(old));
        Some(old)
    }
}

/// The handshake manager.
pub struct Manager {
    identity: Identity,
    local: Params,
    options: Options,
    peers: BTreeMap<PublicKey, Peer>,
    table: IndexTable,
    rate: RateLimiter,
    last_timestamp: u64,
    next_id: u64,
    stats: ManagerStats,
}

impl Manager {
    /// A manager for `identity`. `local` is the template of what we state in handshakes: its session
    /// index and timestamp are filled in each time, its receipt key from the identity.
    ///
    /// # Errors
    /// [`ManagerError`] for parameters out of range, unusable peers, or a lack of randomness.
    pub fn new(
        identity: Identity,
        mut local: Params,
        peers: Vec<PeerConfig>,
        mut options: Options,
    ) -> Result<Manager, ManagerError> {
        local.attestation.receipt_key = identity.receipt_key();
        if !local.is_valid() {
            return Err(ManagerError::Parameters);
        }
        let mut secret = [0; 32];
        options.entropy.fill(&mut secret)?;
        let mut manager = Manager {
            identity,
            local,
            rate: RateLimiter::new(options.rate, secret),
            table: IndexTable::new(options.indices.clone()),
            options,
            peers: BTreeMap::new(),
            last_timestamp: 0,
            next_id: 1,
            stats: ManagerStats::default(),
        };
        for peer in peers {
            manager.add_peer(peer)?;
        }
        Ok(manager)
    }

    /// Adds a peer.
    pub fn add_peer(&mut self, config: PeerConfig) -> Result<(), ManagerError> {
        let key = config.key;
        if key == self.identity.public() {
            return Err(ManagerError::OwnKey(key));
        }
        if !self.identity.is_usable_peer(&key) {
            return Err(ManagerError::WeakKey(key));
        }
        if self.peers.contains_key(&key) {
            return Err(ManagerError::Duplicate(key));
        }
        let peer = Peer {
            config,
            last_offer: None,
            intent: None,
            responding: None,
            live: None,
        };
        self.peers.insert(key, peer);
        Ok(())
    }

    /// Removes a peer and all it has; gives our index of its live session, which is free from now on.
    pub fn remove_peer(&mut self, key: &PublicKey) -> Option<u32> {
        let mut peer = self.peers.remove(key)?;
        peer.end_intent(&mut self.table);
        peer.end_responding(&mut self.table);
        let live = peer.live.take()?.index;
        self.table.free(Some(live));
        Some(live)
    }

    /// The configured peers.
    pub fn peers(&self) -> impl Iterator<Item = &PeerConfig> {
        self.peers.values().map(|p| &p.config)
    }

    /// Counts since the start.
    pub fn stats(&self) -> ManagerStats {
        self.stats
    }

    /// Our index of the live session with a peer.
    pub fn live_index(&self, key: &PublicKey) -> Option<u32> {
        Some(self.peers.get(key)?.live.as_ref()?.index)
    }

    /// Starts a handshake towards `addr`, or the configured endpoint; the first OFFER goes out with the
    /// next [`Manager::on_timeout`], which is due at once. Where one is under way, its id is given and
    /// it goes on towards the new address.
    pub fn connect(
        &mut self,
        key: &PublicKey,
        addr: Option<SocketAddr>,
        now: Nanos,
    ) -> Result<HandshakeId, ConnectError> {
        let peer = self
            .peers
            .get_mut(key)
            .ok_or(ConnectError::UnknownPeer(*key))?;
        let addr = addr
            .or(peer.config.endpoint)
            .ok_or(ConnectError::NoEndpoint(*key))?;
        if let Some(i) = &mut peer.intent {
            i.addr = addr;
            return Ok(i.id);
        }
        let id = HandshakeId(self.next_id);
        self.next_id += 1;
        peer.intent = Some(Intent {
            id,
            addr,
            give_up: now.saturating_add(self.options.timing.give_up),
            due: now,
            interval: self.options.timing.first_retry,
            offered: now,
            tries: 0,
            index: None,
            forged: 0,
            noise: None,
        });
        Ok(id)
    }

    /// Gives up our own attempt to reach a peer, without an event; a COUNTER to it is not heard any
    /// more. Gives whether there was one.
    pub fn abandon(&mut self, key: &PublicKey) -> bool {
        let peer = self.peers.get_mut(key);
        peer.and_then(|p| p.end_intent(&mut self.table)).is_some()
    }

    /// The engine has received an authentic frame on a session: ACCEPT has arrived, it is not repeated
    /// any more.
    pub fn confirm(&mut self, local_index: u32) {
        if let Some(live) = self.live_mut(local_index) {
            live.accept = None;
        }
    }

    /// A session has ended; its index is free from now on. Gives whether it was live.
    pub fn close(&mut self, local_index: u32) -> bool {
        let Some(peer) = self
            .table
            .get(local_index)
            .and_then(|k| self.peers.get_mut(&k))
        else {
            return false;
        };
        if peer.live.as_ref().is_none_or(|l| l.index != local_index) {
            return false;
        }
        peer.live = None;
        self.table.free(Some(local_index));
        true
    }

    fn live_mut(&mut self, index: u32) -> Option<&mut Live> {
        let peer = self.peers.get_mut(&self.table.get(index)?)?;
        peer.live.as_mut().filter(|l| l.index == index)
    }

    /// Handles one datagram; `out` sends the reply, if any. Never panics, whatever the bytes.
    pub fn on_datagram(
        &mut self,
        from: SocketAddr,
        frame: &[u8],
        now: Nanos,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Option<ManagerEvent> {
        self.stats.received += 1;
        let Ok(frame) = Frame::parse(frame) else {
            self.stats.malformed += 1;
            return None;
        };
        match frame.kind {
            Kind::Offer => self.on_offer(from, &frame, now, out),
            Kind::Counter => self.on_counter(from, &frame, now, out),
            Kind::Accept => self.on_accept(from, &frame, now),
        }
    }

    /// When [`Manager::on_timeout`] is next due; `None` while nothing is under way.
    pub fn next_timeout(&self) -> Option<Nanos> {
        self.peers
            .values()
            .flat_map(|p| {
                [
                    p.intent.as_ref().map(|i| i.due.min(i.give_up)),
                    p.responding.as_ref().map(|r| r.expires),
                    p.live
                        .as_ref()
                        .and_then(|l| l.accept.as_ref())
                        .map(|a| a.due),
                ]
            })
            .flatten()
            .min()
    }

    /// Does what is due: first and repeated OFFERs, repeated ACCEPTs, giving up.
    pub fn on_timeout(
        &mut self,
        now: Nanos,
        out: &mut impl FnMut(SocketAddr, &[u8]),
    ) -> Vec<ManagerEvent> {
        let mut events = Vec::new();
        let mut offers = Vec::new();
        for (key, peer) in &mut self.peers {
            if peer.responding.as_ref().is_some_and(|r| r.expires <= now) {
                peer.end_responding(&mut self.table);
            }
            if let Some(i) = &peer.intent {
                if i.give_up <= now {
                    if let Some(handshake) = peer.end_intent(&mut self.table) {
                        events.push(ManagerEvent::TimedOut {
                            handshake,
                            peer: *key,
                        });
                    }
                } else if i.due <= now {
                    offers.push(*key);
                }
            }
            if let Some(live) = &mut peer.live
                && let Some(a) = &mut live.accept
                && a.due <= now
            {
                out(a.addr, &a.frame);
                self.stats.sent += 1;
                a.left = a.left.saturating_sub(1);
                let longest = self.options.timing.accept_wait / 8;
                a.interval = a.interval.saturating_mul(2).min(longest);
                a.due = now.saturating_add(a.interval.max(1));
                if a.left == 0 {
                    live.accept = None;
                }
            }
        }
        for key in offers {
            self.send_offer(&key, now, out);
        }
        events
    }

    /// A timestamp later than every one before.
    fn next_timestamp(&mut self, now: Nanos) -> u64 {
        let wall = self.options.unix_ns_at_zero.saturating_add(now);
        self.last_timestamp = wall.max(self.last_timestamp.saturating_add(1));
        self.last_timestamp
    }

    /// Three to five quarters of `interval`; without randomness just `interval`.
    fn jittered(&mut self, interval: Nanos) -> Nanos {
        let mut r = [0; 2];
        if self.options.entropy.fill(&mut r).is_err() {
            return interval;
        }
        let spread = (u128::from(interval / 2) * u128::from(u16::from_le_bytes(r))) >> 16;
        // At most half of a u64, so the cast keeps the value.
        (interval - interval / 4).saturating_add(spread as u64)
    }
}

#[cfg(test)]
mod tests;
