//! Two lane cores on one thread, in virtual time, joined by any backend.
//!
//! [`Rig`] builds both sides of one lane with fixed secrets, exactly as the control thread does
//! after a handshake, and drives the cores and the applications on top of them. [`Tap`] sits
//! between a core and its backend: it sees every frame that leaves, can drop, cut or withhold it,
//! and proves that no packet number is used twice.

mod tap;

use crossbeam_channel::{Receiver, Sender, bounded};
use ctp96::api::{LaneReceiver, LaneSender, RecvError, SendError, lane_ends};
use ctp96::backend::sim::{Rng, SimBackend, SimNet};
use ctp96::backend::{Backend, Burst, FlushReport, Stats, TxFrame};
use ctp96::base::Nanos;
use ctp96::base::limits::FRAME_OVERHEAD;
use ctp96::codec::Policy;
use ctp96::crypto::Provider;
use ctp96::engine::{Core, CoreCommand, CoreEvent};
use ctp96::mem::{Arena, ArenaStats};
use ctp96::obs::{Counter, ThreadStats, check_balances, counters::merge};
use ctp96::proto::{CcConfig, CcKind, LaneTxConfig, RepairAhead};
use ctp96::ring::Wakeup;
use ctp96::stage::{
    CloseReason, Lane, LaneParams, LaneShared, PathConfig, SessionShared, bufs_per_lane, open_lane,
};
use ctp96::verify::Level;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
pub use tap::{Capture, Damage, Tap};

/// Address of the first side.
pub const A: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1)),
    9696,
);
/// Address of the second side.
pub const B: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 2)),
    9696,
);
/// Session index of the first side.
pub const INDEX_A: u32 = 0x0a01;
/// Session index of the second side.
pub const INDEX_B: u32 = 0x0b02;
/// The lane that the rig opens.
pub const LANE: u8 = 3;

/// Virtual time that a round with work takes, nanoseconds.
const ROUND: Nanos = 1_000;
/// Longest jump of virtual time, nanoseconds: the cores' housekeeping stays regular.
const JUMP: Nanos = 20_000_000;

/// How both sides of a rig are set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Decides the damage.
    pub seed: u64,
    /// Largest symbol, bytes.
    pub symbol_len: usize,
    /// Slots in flight each way.
    pub window: usize,
    /// Verification level.
    pub level: Level,
    /// Compression.
    pub compression: Policy,
    /// Repair symbols sent ahead; `None` adapts.
    pub repair_ahead: Option<u8>,
    /// What seals and opens.
    pub provider: Provider,
    /// Path MTU search and congestion marks.
    pub path: PathConfig,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            seed: 1,
            symbol_len: 512,
            window: 96,
            level: Level::Fast,
            compression: Policy::None,
            repair_ahead: None,
            provider: Provider::Ring,
            path: PathConfig::default(),
        }
    }
}

/// One side of a rig.
pub struct Side<B: Backend> {
    /// The lane core.
    pub core: Core<Tap<B>>,
    /// The application's sending end.
    pub tx: LaneSender,
    /// The application's receiving end.
    pub rx: LaneReceiver,
    commands: Sender<CoreCommand>,
    events: Receiver<CoreEvent>,
    stats: [Arc<ThreadStats>; 3],
    arena: Arena,
    index: u32,
    /// What core and application share of the lane.
    pub lane: Arc<LaneShared>,
}

impl<B: Backend> Side<B> {
    fn new(
        backend: Tap<B>,
        first: bool,
        setup: &Setup,
        (dest, peer_capacity): (SocketAddr, usize),
    ) -> Side<B> {
        let (index, remote_index) = if first {
            (INDEX_A, INDEX_B)
        } else {
            (INDEX_B, INDEX_A)
        };
        let secrets = [[0x11; 32], [0x22; 32]];
        let arena = Arena::new(
            bufs_per_lane(setup.window),
            Lane::buf_len(setup.symbol_len).next_multiple_of(4096),
        )
        .expect("memory for one lane");
        let wakeup = backend.wakeup();
        let session = Arc::new(SessionShared::default());
        let params = LaneParams {
            lane: LANE,
            local_index: index,
            remote_index,
            dest,
            symbol_len: setup.symbol_len,
            window: setup.window,
            provider: setup.provider,
            tx_secret: secrets[usize::from(!first)],
            rx_secret: secrets[usize::from(first)],
            level: setup.level,
            linger: ctp96::base::limits::SLOT_LINGER_NS,
            probing: setup.path,
            tx: LaneTxConfig {
                window_slots: setup.window as u8,
                symbol_len: setup.symbol_len as u16,
                inflight_limit: peer_capacity.min(256 << 10) as u32,
                repair_ahead: setup
                    .repair_ahead
                    .map_or(RepairAhead::Adaptive, RepairAhead::Fixed),
                cc: CcConfig {
                    kind: CcKind::Bbr,
                    max_rate: None,
                    frame: (setup.symbol_len + FRAME_OVERHEAD) as u64,
                    initial_rtt: 10_000_000,
                    seed: setup.seed ^ u64::from(index),
                },
            },
            path: None,
            inflight_limit: backend.rx_capacity_bytes().min(u32::MAX as usize) as u32,
            now: 0,
        };
        let shared = Arc::new(LaneShared::new(LANE, wakeup, session));
        let (lane, ends) =
            open_lane(params, &arena, shared.clone()).expect("the arena was sized for it");
        let stats = ["core", "send", "receive"].map(|n| Arc::new(ThreadStats::new(n)));
        let ends_stats = (stats[1].clone(), stats[2].clone());
        let (tx, rx) = lane_ends(ends, setup.compression, true, ends_stats);
        let (commands, inbox) = bounded(16);
        let (outbox, events) = bounded(1024);
        let core = Core::new(0, backend, inbox, outbox, stats[0].clone(), Arc::default());
        let side = Side {
            core,
            tx,
            rx,
            commands,
            events,
            stats,
            arena,
            index,
            lane: shared,
        };
        side.command(CoreCommand::Open {
            local_index: index,
            lanes: vec![Box::new(lane)],
        });
        side
    }

    fn command(&self, command: CoreCommand) {
        self.commands.send(command).expect("the core is there");
    }

    /// All counters of this side, in the order of [`Counter::ALL`].
    pub fn counters(&self) -> Vec<u64> {
        merge(self.stats.iter().map(|s| &s.counters))
    }

    /// One counter of this side.
    pub fn counter(&self, c: Counter) -> u64 {
        self.counters()[c as usize]
    }

    /// The tap below the core.
    pub fn tap(&mut self) -> &mut Tap<B> {
        self.core.backend_mut()
    }

    /// Slot buffers lent out.
    pub fn arena(&self) -> ArenaStats {
        self.arena.stats()
    }

    /// Handshake frames that the core handed up and nobody took.
    pub fn handshakes(&self) -> usize {
        self.events.len()
    }

    /// Every conservation equation must hold, and no frame handle may be out.
    ///
    /// # Panics
    /// With the broken equations.
    pub fn assert_balanced(&self, when: &str) {
        let broken: Vec<String> = check_balances(&self.counters())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            broken.is_empty(),
            "{when}: books of side {:#x} do not balance:\n  {}",
            self.index,
            broken.join("\n  ")
        );
        assert_eq!(
            self.core.backend().outstanding(),
            0,
            "{when}: frames are out"
        );
    }
}

/// Two joined sides and the time they share.
pub struct Rig<B: Backend> {
    /// The side that opened the session.
    pub a: Side<B>,
    /// The other side.
    pub b: Side<B>,
    net: Option<SimNet>,
    now: Nanos,
}

impl Rig<SimBackend> {
    /// Two sides over a simulated network; see [`SimNet`] for its links.
    ///
    /// # Panics
    /// Memory or file descriptors are short.
    pub fn over_sim(net: &SimNet, inbox_bytes: usize, setup: &Setup) -> Rig<SimBackend> {
        let a = net.endpoint(A, inbox_bytes).expect("an endpoint");
        let b = net.endpoint(B, inbox_bytes).expect("an endpoint");
        Rig::new(a, b, Some(net.clone()), setup)
    }
}

impl<B: Backend> Rig<B> {
    /// Two sides over `a` and `b`, which must be joined and have the addresses [`A`] and [`B`].
    ///
    /// # Panics
    /// Memory is short.
    pub fn new(a: B, b: B, net: Option<SimNet>, setup: &Setup) -> Rig<B> {
        let peer = |x: &B| (x.local_addr(), x.rx_capacity_bytes());
        let peers = [peer(&a), peer(&b)];
        let tap = |inner, salt| Tap::new(inner, Damage::default(), setup.seed ^ salt);
        Rig {
            a: Side::new(tap(a, 0xa), true, setup, peers[1]),
            b: Side::new(tap(b, 0xb), false, setup, peers[0]),
            net,
            now: 0,
        }
    }

    /// Virtual time, nanoseconds.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// One round of both cores; `busy` says that the applications had work. Then time moves: by
    /// a microsecond after work, else to whatever comes next.
    pub fn round(&mut self, busy: bool) {
        let worked = self.a.core.step(self.now) | self.b.core.step(self.now);
        let next = if worked || busy {
            self.now + ROUND
        } else {
            let due = [
                self.a.core.next_timeout(self.now),
                self.b.core.next_timeout(self.now),
                self.net.as_ref().and_then(SimNet::next_arrival),
            ];
            let due = due.into_iter().flatten().min().unwrap_or(Nanos::MAX);
            due.clamp(self.now + ROUND, self.now + JUMP)
        };
        self.now = next;
        if let Some(net) = &self.net {
            net.advance_to(next);
        }
    }

    /// Lets `span` nanoseconds pass without the applications.
    pub fn idle(&mut self, span: Nanos) {
        let until = self.now + span;
        while self.now < until {
            self.round(false);
        }
    }

    /// Ends the session from the first side and lets both sides let go of the lane; returns how
    /// many slot buffers are still lent once the applications' ends are gone too.
    pub fn close(mut self) -> [usize; 2] {
        self.a.command(CoreCommand::Close {
            local_index: INDEX_A,
            reason: CloseReason::Finished,
        });
        let (told, until) = (self.now + 5_000_000_000, self.now + 10_000_000_000);
        let mut idle_out = false;
        while self.a.core.lane_count() + self.b.core.lane_count() > 0 {
            assert!(self.now < until, "a lane does not end");
            if self.now > told && !idle_out {
                // Every notice was lost: what the control thread does after the idle time.
                idle_out = true;
                let reason = CloseReason::Idle;
                self.b.command(CoreCommand::Close {
                    local_index: INDEX_B,
                    reason,
                });
            }
            self.round(false);
        }
        self.idle(300_000_000);
        self.a.assert_balanced("after close");
        self.b.assert_balanced("after close");
        [self.a, self.b].map(|side| {
            let Side {
                core,
                tx,
                rx,
                arena,
                ..
            } = side;
            drop((core, tx, rx));
            arena.stats().lent
        })
    }
}

/// One direction of application traffic: slots whose content depends on their number and a seed.
pub struct Flow {
    seed: u64,
    slots: u64,
    largest: usize,
    sent: u64,
    received: u64,
    hash_in: blake3::Hasher,
    hash_out: blake3::Hasher,
    bytes: u64,
    pattern: Vec<u8>,
}

impl Flow {
    /// `slots` slots of up to `largest` bytes, every fifth of them tiny or empty.
    pub fn new(seed: u64, slots: u64, largest: usize) -> Flow {
        let mut rng = Rng::new(seed);
        let mut pattern = Vec::with_capacity(2 * largest.max(4096));
        while pattern.len() < 2 * largest.max(4096) {
            pattern.extend_from_slice(&rng.next_u64().to_le_bytes());
        }
        Flow {
            seed,
            slots,
            largest,
            sent: 0,
            received: 0,
            hash_in: blake3::Hasher::new(),
            hash_out: blake3::Hasher::new(),
            bytes: 0,
            pattern,
        }
    }

    fn shape(&self, n: u64) -> (usize, usize) {
        let mut rng = Rng::new(self.seed ^ n.wrapping_mul(0x9e37_79b9));
        let largest = if n % 5 == 4 {
            70.min(self.largest)
        } else {
            self.largest
        };
        let len = rng.below(largest as u64 + 1) as usize;
        (
            rng.below((self.pattern.len() - len) as u64 + 1) as usize,
            len,
        )
    }

    /// Fills and commits as many slots as there is room for; says whether there was any.
    ///
    /// # Panics
    /// The lane has closed.
    pub fn send(&mut self, tx: &mut LaneSender) -> bool {
        let mut any = false;
        while self.sent < self.slots {
            match tx.try_claim() {
                Ok(mut claim) => {
                    let (at, len) = self.shape(self.sent);
                    let content = &self.pattern[at..at + len];
                    claim[..len].copy_from_slice(content);
                    // So that no two slots are the same.
                    let n = len.min(8);
                    claim[..n].copy_from_slice(&self.sent.to_le_bytes()[..n]);
                    self.hash_in.update(&claim[..len]);
                    claim.commit(len);
                    self.sent += 1;
                    self.bytes += len as u64;
                    any = true;
                }
                Err(SendError::WouldBlock) => break,
                Err(e) => panic!("slot {} cannot be sent: {e}", self.sent),
            }
        }
        any
    }

    /// Takes every slot that is there and checks it; says whether there was any.
    ///
    /// # Panics
    /// A slot is not the one that was sent at this place, or the lane has closed.
    pub fn receive(&mut self, rx: &mut LaneReceiver) -> bool {
        let mut any = false;
        loop {
            match rx.try_slot() {
                Ok(slot) => {
                    assert!(self.received < self.sent, "a slot that nobody sent");
                    let (_, len) = self.shape(self.received);
                    assert_eq!(slot.len(), len, "length of slot {}", self.received);
                    let n = len.min(8);
                    assert_eq!(
                        slot[..n],
                        self.received.to_le_bytes()[..n],
                        "order of slots"
                    );
                    self.hash_out.update(&slot);
                    self.received += 1;
                    any = true;
                }
                Err(RecvError::WouldBlock) => return any,
                Err(e) => panic!("slot {} cannot be received: {e}", self.received),
            }
        }
    }

    /// Whether every slot has arrived.
    pub fn complete(&self) -> bool {
        self.received == self.slots
    }

    /// Slots received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes sent so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Everything must have arrived once, in order, with the same content.
    ///
    /// # Panics
    /// It has not.
    pub fn assert_equal(&self) {
        assert_eq!((self.sent, self.received), (self.slots, self.slots));
        assert_eq!(self.hash_in.finalize(), self.hash_out.finalize(), "content");
    }
}
