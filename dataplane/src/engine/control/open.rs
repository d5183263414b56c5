//! A handshake has ended well: lanes for the session, and whoever waits for it gets it.

use super::route;
use super::{Control, Live, SessionEnds};
use crate::base::Nanos;
use crate::base::limits::FRAME_OVERHEAD;
use crate::crypto::Provider;
use crate::crypto::identity::PublicKey;
use crate::crypto::schedule::{Direction, SessionSecrets};
use crate::engine::command::CoreCommand;
use crate::engine::error::ConnectError;
use crate::obs::Counter;
use crate::proto::manager::{Negotiated, Role};
use crate::proto::{CcConfig, LaneTxConfig, Path, PathLane, RepairAhead};
use crate::stage::{
    CloseReason, LaneEnds, LaneParams, LaneShared, LaneStatus, PathConfig, SessionShared, open_lane,
};
use crate::verify::Level;
use crate::wire::handshake::{Params, agreed_suite};
use crossbeam_channel::TrySendError;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What a peer's socket is taken to hold until its first acknowledgement says so, bytes.
const FIRST_FLIGHT: u32 = 256 << 10;
/// Round trip that is assumed before the first sample where the handshake did not show one, and what
/// is believed of the one that it showed, nanoseconds.
const INITIAL_RTT_NS: Nanos = 10_000_000;
const INITIAL_RTT_RANGE: (Nanos, Nanos) = (1_000_000, 500_000_000);

pub(super) struct Established {
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) peer: PublicKey,
    pub(super) remote_addr: SocketAddr,
    pub(super) role: Role,
    pub(super) secrets: SessionSecrets,
    pub(super) remote: Params,
    pub(super) negotiated: Negotiated,
    pub(super) replaces: Option<u32>,
    pub(super) rtt: Option<Nanos>,
}

impl Control {
    pub(super) fn establish(&mut self, e: Established) {
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
                reviving: false,
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
        let hint = route::symbol_len(e.remote_addr);
        let (least, most) = INITIAL_RTT_RANGE;
        let cc = CcConfig {
            kind: self.cfg.congestion,
            max_rate: None,
            frame: u64::from(e.negotiated.symbol_len) + FRAME_OVERHEAD as u64,
            initial_rtt: e.rtt.unwrap_or(INITIAL_RTT_NS).clamp(least, most),
            seed: now ^ u64::from(e.local_index) << 32,
        };
        let path = Path::new(&cc, n);
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
            if let Some(&w) = self.cfg.lane_weights.get(lane) {
                lane_shared.weight.store(w, Ordering::Relaxed);
            }
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
                    cc,
                },
                probing: PathConfig {
                    search: self.cfg.mtu_discovery,
                    hint,
                    ecn: self.cfg.ecn,
                },
                path: Some(PathLane::new(path.clone(), lane)),
                linger: self.cfg.linger,
                inflight_limit: (link.rx_capacity / lanes_on_core).min(u32::MAX as usize) as u32,
                now,
            };
            let (lane, ends) = open_lane(params, &self.arena, lane_shared)?;
            opened.push((core, lane, ends));
        }
        let mut ends = Vec::with_capacity(n);
        let mut watch = Vec::with_capacity(n);
        let mut per_core: Vec<Vec<_>> = self.cores.iter().map(|_| Vec::new()).collect();
        for (core, lane, end) in opened {
            watch.push((end.shared.clone(), end.status.clone()));
            per_core[core].push(Box::new(lane));
            ends.push(end);
        }
        for (core, lanes) in self.cores.iter().zip(per_core) {
            if !lanes.is_empty() {
                core.send(CoreCommand::Open {
                    local_index: e.local_index,
                    lanes,
                });
            }
        }
        Ok((ends, watch, shared))
    }
}
