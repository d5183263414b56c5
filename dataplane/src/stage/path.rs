//! What a lane knows of its path: how much a frame may carry, and whether congestion marks survive.

use super::lane::Lane;
use super::tx::SendCtx;
use crate::backend::Backend;
use crate::base::Nanos;
use crate::base::limits::{FRAME_OVERHEAD, MAX_SYMBOL_LEN};
use crate::obs::{Counter, CounterSet};
use crate::proto::pmtu::{Pmtu, PmtuConfig, PmtuOrigin, PmtuState};
use crate::proto::{Ecn, EcnStatus};
use crate::wire::Message;
use crate::wire::ack::Ack;
use crate::wire::control::{EcnCounts, MESSAGE_HEADER_LEN};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// Full-size frames that nobody has answered for so many probe timeouts are looked into.
const DOUBT_PTOS: Nanos = 3;
/// And not earlier than this, nanoseconds: a core of the peer may have lost its CPU for a while.
const MIN_DOUBT_NS: Nanos = 20_000_000;
/// Bytes of an encoded ping.
const PING_LEN: usize = MESSAGE_HEADER_LEN + 16;

/// What a lane does about its path.
#[derive(Debug, Clone, Copy)]
pub struct PathConfig {
    /// Whether to search for the path MTU; if not, the negotiated symbol length is used as it is.
    pub search: bool,
    /// Symbol length that the kernel believes the path to carry, where it is known.
    pub hint: Option<u16>,
    /// Whether to mark data frames ECN-capable where the path keeps the mark.
    pub ecn: bool,
}

impl Default for PathConfig {
    fn default() -> PathConfig {
        PathConfig {
            search: true,
            hint: None,
            ecn: true,
        }
    }
}

/// The path of a lane for an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Longest IP packet that is sent on the path, bytes.
    pub mtu: u32,
    /// Symbol length that such a packet carries, bytes.
    pub symbol_len: u16,
    /// Where the search for it stands.
    pub state: PmtuState,
    /// Where it came from.
    pub origin: PmtuOrigin,
    /// Probes sent.
    pub probes: u64,
    /// Probes lost while a small frame passed.
    pub probes_lost: u64,
    /// Times that a size in use stopped passing.
    pub black_holes: u64,
    /// Congestion marks.
    pub ecn: EcnStatus,
}

pub(super) struct Path {
    pub(super) pmtu: Pmtu,
    pub(super) ecn: Ecn,
    /// Counts that came before the acknowledgement in the same frame.
    pub(super) reported: EcnCounts,
    /// Congestion marks that the controller has been told of, modulo 2^32.
    ce: u32,
    /// The session's hint as last looked at.
    hint_seen: u32,
    counted: (u64, u64, u64),
    overhead: u32,
}

impl Path {
    pub(super) fn new(cfg: &PathConfig, max: usize, dest: &SocketAddr, now: Nanos) -> Path {
        let config = PmtuConfig {
            max: max.min(MAX_SYMBOL_LEN) as u16,
            search: cfg.search,
            hint: cfg.hint,
        };
        Path {
            pmtu: Pmtu::new(&config, now),
            ecn: Ecn::new(cfg.ecn),
            reported: EcnCounts::default(),
            ce: 0,
            hint_seen: 0,
            counted: (0, 0, 0),
            overhead: (FRAME_OVERHEAD + udp_overhead(dest)) as u32,
        }
    }

    pub(super) fn status(&self) -> PathStatus {
        let (probes, probes_lost, black_holes) = self.pmtu.counts();
        let symbol_len = self.pmtu.current();
        PathStatus {
            mtu: u32::from(symbol_len) + self.overhead,
            symbol_len,
            state: self.pmtu.state(),
            origin: self.pmtu.origin(),
            probes,
            probes_lost,
            black_holes,
            ecn: self.ecn.status(),
        }
    }

    pub(super) fn publish_counters(&mut self, counters: &CounterSet) {
        let now = self.pmtu.counts();
        counters.add(Counter::PmtuProbes, now.0 - self.counted.0);
        counters.add(Counter::PmtuProbesLost, now.1 - self.counted.1);
        counters.add(Counter::PmtuBlackHoles, now.2 - self.counted.2);
        self.counted = now;
    }

    /// The acknowledgement with the congestion marks that are to be believed: those of a path that
    /// has passed the test.
    pub(super) fn vet(&mut self, now: Nanos, ack: &mut Ack, patience: Nanos) -> bool {
        let counts = std::mem::take(&mut self.reported);
        let failed = self
            .ecn
            .on_ack(now, ack.largest_pn, ack.received, counts, patience);
        if self.ecn.believes() {
            self.ce = ack.ce;
        }
        ack.ce = self.ce;
        failed
    }
}

/// Bytes of IP and UDP headers to `dest`.
pub fn udp_overhead(dest: &SocketAddr) -> usize {
    match dest.ip().to_canonical().is_ipv4() {
        true => 28,
        false => 48,
    }
}

impl Lane {
    /// Follows the search for the path MTU; says whether it sent something.
    pub(super) fn pump_path<B: Backend>(&mut self, ctx: &mut SendCtx<B>) -> bool {
        let pto = self.tx.base_pto();
        let hint = self.shared.session.mtu_hint.load(Ordering::Relaxed);
        if hint != self.path.hint_seen {
            self.path.hint_seen = hint;
            self.path.pmtu.on_hint(ctx.now, hint as u16);
        }
        if let Some(t) = self.doubt_at(pto)
            && ctx.now >= t
        {
            self.tx.clear_large();
            self.path.pmtu.suspect(ctx.now);
        }
        let holes = self.path.pmtu.counts().2;
        let mut sent = false;
        if let Some(p) = self.path.pmtu.poll(ctx.now, pto) {
            let mut body = [0u8; MAX_SYMBOL_LEN];
            let len = usize::from(p.symbol);
            let now = ctx.now;
            let ping = |id| Message::Ping { id, t: now };
            let pad = Message::Padding((len - PING_LEN - MESSAGE_HEADER_LEN) as u16);
            let n = ping(p.id).encode_into(&mut body).unwrap_or(0);
            let m = body.get_mut(n..len).and_then(|b| pad.encode_into(b));
            // Each by itself, so that neither shares the fate of the other or of data.
            ctx.backend.cut();
            if n + m.unwrap_or(0) == len {
                sent |= self.send_control_frame(&body[..len], ctx);
            }
            ctx.backend.cut();
            let n = ping(p.small_id).encode_into(&mut body).unwrap_or(0);
            sent |= self.send_control_frame(&body[..n], ctx);
            ctx.backend.cut();
        }
        if self.path.pmtu.wants_hint() {
            self.shared
                .session
                .mtu_wanted
                .store(true, Ordering::Relaxed);
        }
        self.follow_path();
        if self.path.pmtu.counts().2 > holes {
            self.tx.on_black_hole(ctx.now);
        }
        sent
    }

    /// When full-size frames will have been unanswered for too long.
    fn doubt_at(&self, pto: Nanos) -> Option<Nanos> {
        let since = self.tx.large_since()?;
        let idle = !matches!(
            self.path.pmtu.state(),
            PmtuState::Complete | PmtuState::Searching
        );
        (!idle).then(|| since.saturating_add((DOUBT_PTOS * pto).max(MIN_DOUBT_NS)))
    }

    pub(super) fn path_timeout(&self) -> Option<Nanos> {
        let doubt = self.doubt_at(self.tx.base_pto());
        [self.path.pmtu.next_timeout(), doubt]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets sender and application know what the search has found.
    pub(super) fn follow_path(&mut self) {
        let room = self.path.pmtu.current();
        if self.room != room {
            self.room = room;
            self.tx.set_room(room);
        }
        let offer = u32::from(self.path.pmtu.offer());
        if self.shared.symbol_len.load(Ordering::Relaxed) != offer {
            self.shared.symbol_len.store(offer, Ordering::Relaxed);
        }
    }
}
