//! What goes into and comes out of the manager.

use std::net::SocketAddr;
use std::sync::Arc;

use thiserror::Error;

use super::rate::RateConfig;
use super::{Indices, MS, PublicKey};
use crate::base::Nanos;
use crate::crypto::schedule::SessionSecrets;
use crate::wire::handshake::{Attestation, HandshakeError, Params, SUITE_AES_256_GCM};

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
    /// Lowest suite that will do; a number implies those below it.
    pub suite: u8,
    /// Lowest witness level that will do.
    pub min_witness: u8,
    /// Whether it must be fail-closed.
    pub require_fail_closed: bool,
}

impl Policy {
    pub(super) fn check(&self, peer: &Attestation) -> Result<(), Refusal> {
        if peer.suite < self.suite {
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
    /// Suite below the policy's.
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
    /// How often ACCEPT is repeated at most. The wait starts at `first_retry` and doubles up to an
    /// eighth of `accept_wait`, so that the repeats fall into the time that the responder waits.
    pub accept_repeats: u8,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            first_retry: 250 * MS,
            max_retry: 5_000 * MS,
            give_up: 30_000 * MS,
            accept_wait: 10_000 * MS,
            accept_repeats: 10,
        }
    }
}

/// Everything of a [`Manager`](super::Manager) that has a default but the wall clock.
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
    /// Follows the indices that the manager gives out.
    pub indices: Arc<Indices>,
}

impl Options {
    /// Defaults: the policy asks of peers what `local` offers itself, and the mandatory suite.
    pub fn new(unix_ns_at_zero: u64, local: &Params) -> Options {
        Options {
            unix_ns_at_zero,
            policy: Policy {
                suite: SUITE_AES_256_GCM,
                min_witness: local.attestation.witness,
                require_fail_closed: local.attestation.fail_closed == 1,
            },
            timing: Timing::default(),
            rate: RateConfig::default(),
            entropy: Box::new(OsEntropy),
            indices: Arc::default(),
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
    pub(super) fn of(a: &Params, b: &Params) -> Negotiated {
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
        /// From our last message to the answer, nanoseconds: a round trip and the work of both sides,
        /// and more where an answer was lost. `None` where it is not known which of several messages
        /// was answered.
        rtt: Option<Nanos>,
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
    /// Datagrams given to [`Manager::on_datagram`](super::Manager::on_datagram); the sum of the following nine.
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
