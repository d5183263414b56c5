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

use std::collections::BTreeMap;
use std::net::SocketAddr;

use thiserror::Error;

use crate::base::Nanos;
use crate::crypto::identity::{Identity, PublicKey};
use crate::crypto::noise::{self, Finished, Initiator};
use crate::crypto::schedule::SessionSecrets;
use crate::wire::handshake::{Attestation, Frame, HandshakeError, Kind, Params};

pub use rate::RateConfig;
use rate::RateLimiter;
use table::IndexTable;

/// Most sessions, live and opening, of one node: the low 8 bits of an index are its place.
pub const MAX_SESSIONS: usize = table::SLOTS;
/// Unanswered OFFERs after which the side with the lower key answers the peer's OFFER.
pub const SIMULTANEOUS_TRIES: u32 = 2;
/// COUNTERs that may fail to verify per OFFER: bounds the work that a guessed index can cause.
const MAX_FORGED_COUNTERS: u8 = 16;

const MS: Nanos = 1_000_000;

/// A source of randomness; injected so that tests and the simulator can repeat a run.
pub trait Entropy: Send {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), EntropyError>;
}

/// There is no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("no randomness is available")]
pub struct EntropyError;

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(out).map_err(|_| EntropyError)
    }
}

/// What a peer's security profile must offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The suite it must use.
    pub suite: u8,
    /// Lowest witness level that will do.
    pub min_witness: u8,
    /// Whether it must be fail-closed.
    pub require_fail_closed: bool,
}

impl Policy {
    fn check(&self, peer: &Attestation) -> Result<(), Refusal> {
        if peer.suite != self.suite {
            Err(Refusal::Suite)
        } else if peer.witness < self.min_witness {
            Err(Refusal::Witness)
        } else if self.require_fail_closed && peer.fail_closed != 1 {
            Err(Refusal::FailClosed)
        } else {
            Ok(())
        }
    }
}

/// Why a known peer gets no session. The discriminant is the code on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Handshake version.
    #[error("unsupported handshake version")]
    Version,
    /// A critical extension that is not known.
    #[error("unknown critical extension")]
    Extension,
    /// Malformed or out-of-range parameters.
    #[error("invalid parameters")]
    Parameters,
    /// Suite other than the policy's.
    #[error("cipher suite does not meet the policy")]
    Suite,
    /// Witness level below the policy's.
    #[error("witness level is below the policy")]
    Witness,
    /// Not fail-closed.
    #[error("peer is not fail-closed, the policy requires it")]
    FailClosed,
    /// No room for another session.
    #[error("no room for another session")]
    Busy,
    /// A code of a later version.
    #[error("refused with unknown code {0}")]
    Other(u8),
}

impl Refusal {
    /// The code on the wire; never zero.
    pub const fn code(self) -> u8 {
        match self {
            Refusal::Version => 1,
            Refusal::Extension => 2,
            Refusal::Parameters => 3,
            Refusal::Suite => 4,
            Refusal::Witness => 5,
            Refusal::FailClosed => 6,
            Refusal::Busy => 7,
            Refusal::Other(code) => code,
        }
    }

    /// The refusal of a code; `None` for zero.
    pub const fn from_code(code: u8) -> Option<Refusal> {
        Some(match code {
            0 => return None,
            1 => Refusal::Version,
            2 => Refusal::Extension,
            3 => Refusal::Parameters,
            4 => Refusal::Suite,
            5 => Refusal::Witness,
            6 => Refusal::FailClosed,
            7 => Refusal::Busy,
            other => Refusal::Other(other),
        })
    }
}

impl From<HandshakeError> for Refusal {
    fn from(e: HandshakeError) -> Refusal {
        match e {
            HandshakeError::Version => Refusal::Version,
            HandshakeError::CriticalExtension(_) => Refusal::Extension,
            _ => Refusal::Parameters,
        }
    }
}

/// A peer that we talk to.
#[derive(Clone)]
pub struct PeerConfig {
    /// Its public key.
    pub key: PublicKey,
    /// Name for people.
    pub name: String,
    /// Where to reach it, if known.
    pub endpoint: Option<SocketAddr>,
    /// Pre-shared key, the same on both sides; none is a key of zeros.
    pub psk: Option<[u8; 32]>,
}

impl std::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConfig")
            .field("key", &self.key)
            .field("name", &self.name)
            .field("endpoint", &self.endpoint)
            .field("psk", &self.psk.is_some())
            .finish()
    }
}

/// Intervals of the handshake, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// First wait for COUNTER; doubles with each OFFER, and each wait varies by a quarter.
    pub first_retry: Nanos,
    /// Longest wait for COUNTER.
    pub max_retry: Nanos,
    /// After this long without COUNTER a handshake has timed out.
    pub give_up: Nanos,
    /// How long a responder waits for ACCEPT.
    pub accept_wait: Nanos,
    /// How often ACCEPT is repeated at most.
    pub accept_repeats: u8,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            first_retry: 250 * MS,
            max_retry: 5_000 * MS,
            give_up: 30_000 * MS,
            accept_wait: 10_000 * MS,
            accept_repeats: 6,
        }
    }
}

/// Everything of a [`Manager`] that has a default but the wall clock.
pub struct Options {
    /// Unix time, in nanoseconds, of `now == 0`.
    pub unix_ns_at_zero: u64,
    /// What peers must offer.
    pub policy: Policy,
    /// Intervals.
    pub timing: Timing,
    /// Rationing of handshake work.
    pub rate: RateConfig,
    /// Randomness.
    pub entropy: Box<dyn Entropy>,
}

impl Options {
    /// Defaults: the policy asks of peers what `local` offers itself.
    pub fn new(unix_ns_at_zero: u64, local: &Params) -> Options {
        Options {
            unix_ns_at_zero,
            policy: Policy {
                suite: local.attestation.suite,
                min_witness: local.attestation.witness,
                require_fail_closed: local.attestation.fail_closed == 1,
            },
            timing: Timing::default(),
            rate: RateConfig::default(),
            entropy: Box::new(OsEntropy),
        }
    }
}

/// Names one `connect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandshakeId(pub u64);

/// Who sent OFFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Initiator,
    /// The peer did.
    Responder,
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node.
    Local,
    /// The peer.
    Remote,
}

/// Values that both sides use: the lesser of the two offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Lanes.
    pub lanes: u8,
    /// Largest symbol, bytes, a multiple of 64.
    pub symbol_len: u16,
    /// Window, slots per lane.
    pub window_slots: u8,
}

impl Negotiated {
    /// From two valid offers.
    fn of(a: &Params, b: &Params) -> Negotiated {
        Negotiated {
            lanes: a.lanes.min(b.lanes),
            symbol_len: a.symbol_len.min(b.symbol_len),
            window_slots: a.window_slots.min(b.window_slots),
        }
    }
}

/// What the manager has to tell.
// One event per handshake, moved once: boxing the large variant would gain nothing.
#[allow(clippy::large_enum_variant)]
pub enum ManagerEvent {
    /// A session may carry data.
    Established {
        /// The `connect` that it answers, if there was one.
        handshake: Option<HandshakeId>,
        /// Our index: in the headers of frames that we receive.
        local_index: u32,
        /// The peer's index: in the headers of frames that we send.
        remote_index: u32,
        /// The authenticated peer.
        peer: PublicKey,
        /// Where the last handshake message came from.
        remote_addr: SocketAddr,
        /// Who sent OFFER.
        role: Role,
        /// Data-plane secrets.
        secrets: SessionSecrets,
        /// The peer's parameters.
        remote: Params,
        /// What both use.
        negotiated: Negotiated,
        /// Our index of the session that this one replaces. It is free from now on.
        replaces: Option<u32>,
    },
    /// A known peer and we cannot agree.
    Refused {
        /// The `connect` that it ends, if there was one.
        handshake: Option<HandshakeId>,
        /// The authenticated peer.
        peer: PublicKey,
        /// Why.
        reason: Refusal,
        /// Who refuses.
        by: Side,
    },
    /// A `connect` got no answer.
    TimedOut {
        /// Which.
        handshake: HandshakeId,
        /// The peer.
        peer: PublicKey,
    },
}

/// Why a manager or peer cannot be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ManagerError {
    /// The local parameters are out of range.
    #[error("the local parameters are out of range")]
    Parameters,
    /// The peer's key is our own.
    #[error("peer {0} has this node's own key")]
    OwnKey(PublicKey),
    /// The peer's key is a point of small order: anybody could pose as it.
    #[error("peer {0} has a key that gives no shared secret")]
    WeakKey(PublicKey),
    /// The key is configured twice.
    #[error("peer {0} is configured twice")]
    Duplicate(PublicKey),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// Why `connect` did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConnectError {
    /// The key is not configured.
    #[error("peer {0} is not configured")]
    UnknownPeer(PublicKey),
    /// Neither an address was given nor is an endpoint configured.
    #[error("peer {0} has no endpoint")]
    NoEndpoint(PublicKey),
}

/// Handshake datagrams by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManagerStats {
    /// Datagrams given to [`Manager::on_datagram`]; the sum of the following nine.
    pub received: u64,
    /// Not a handshake frame of this version, or too short an OFFER.
    pub malformed: u64,
    /// OFFERs beyond the ration.
    pub rate_limited: u64,
    /// Failed to authenticate.
    pub auth_failed: u64,
    /// Authenticated OFFERs of keys that are not configured.
    pub unknown_peer: u64,
    /// OFFERs not newer than the last.
    pub replayed: u64,
    /// For no handshake that we know of, duplicates included.
    pub foreign: u64,
    /// OFFERs ignored because ours wins.
    pub ignored: u64,
    /// Ended in a refusal, by either side.
    pub refused: u64,
    /// Moved a handshake forward.
    pub progressed: u64,
    /// Frames sent.
    pub sent: u64,
    /// Sessions established.
    pub established: u64,
}

/// Our attempt to reach a peer.
struct Intent {
    id: HandshakeId,
    addr: SocketAddr,
    give_up: Nanos,
    due: Nanos,
    interval: Nanos,
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
            options,
            peers: BTreeMap::new(),
            table: IndexTable::new(),
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
            tries: 0,
            index: None,
            forged: 0,
            noise: None,
        });
        Ok(id)
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
            Kind::Accept => self.on_accept(from, &frame),
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
                a.interval = a
                    .interval
                    .saturating_mul(2)
                    .min(self.options.timing.max_retry);
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
        let spread = u128::from(interval / 2) * u128::from(u16::from_le_bytes(r)) >> 16;
        // At most half of a u64, so the cast keeps the value.
        (interval - interval / 4).saturating_add(spread as u64)
    }
}

#[cfg(test)]
mod tests;
