//! What the two sides of a lane tell each other without a lock.

use crate::ring::{Notify, Wakeup};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// Why a lane or session ended. The numbers go on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[repr(u16)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// The application finished or let go of it.
    Finished = 1,
    /// The node is shutting down.
    Shutdown = 2,
    /// Nothing was heard from the peer for the idle time.
    Idle = 3,
    /// The peer came back with a new session.
    PeerRestarted = 4,
    /// A digest or chain value did not match: fail-closed.
    Violation = 5,
    /// The peer broke the protocol.
    Protocol = 6,
    /// A key reached its usage limit and could not be replaced.
    KeyLimit = 7,
}

impl CloseReason {
    /// The reason with this wire number; unknown numbers count as [`CloseReason::Protocol`].
    pub fn from_wire(n: u16) -> CloseReason {
        match n {
            0 | 1 => CloseReason::Finished,
            2 => CloseReason::Shutdown,
            3 => CloseReason::Idle,
            4 => CloseReason::PeerRestarted,
            5 => CloseReason::Violation,
            7 => CloseReason::KeyLimit,
            _ => CloseReason::Protocol,
        }
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CloseReason::Finished => "finished",
            CloseReason::Shutdown => "the node is shutting down",
            CloseReason::Idle => "nothing heard from the peer",
            CloseReason::PeerRestarted => "the peer restarted",
            CloseReason::Violation => "verification failed (fail-closed)",
            CloseReason::Protocol => "the peer broke the protocol",
            CloseReason::KeyLimit => "a key reached its usage limit",
        })
    }
}

/// How far the application has taken a lane, and the chain value there: the witness in the making.
///
/// Written by one thread, read by another: a sequence lock whose reader gives up after a few tries
/// (it will look again at the next acknowledgement).
#[derive(Debug, Default)]
pub struct Delivered {
    version: AtomicU64,
    upto: AtomicU64,
    chain: [AtomicU64; 4],
}

impl Delivered {
    /// Publishes that every slot below `upto` was verified and taken, with the chain value there.
    pub fn publish(&self, upto: u64, chain: &[u8; 32]) {
        let v = self.version.load(Ordering::Relaxed);
        self.version.store(v.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.upto.store(upto, Ordering::Relaxed);
        for (a, b) in self.chain.iter().zip(chain.chunks_exact(8)) {
            a.store(
                b.iter().rev().fold(0, |n, &x| n << 8 | u64::from(x)),
                Ordering::Relaxed,
            );
        }
        self.version.store(v.wrapping_add(2), Ordering::Release);
    }

    /// Slots taken so far.
    pub fn upto(&self) -> u64 {
        self.upto.load(Ordering::Acquire)
    }

    /// The latest pair, or `None` while a writer is at it.
    pub fn read(&self) -> Option<(u64, [u8; 32])> {
        for _ in 0..4 {
            let v = self.version.load(Ordering::Acquire);
            if v & 1 == 1 {
                std::hint::spin_loop();
                continue;
            }
            let upto = self.upto.load(Ordering::Relaxed);
            let mut chain = [0; 32];
            for (a, b) in self.chain.iter().zip(chain.chunks_exact_mut(8)) {
                b.copy_from_slice(&a.load(Ordering::Relaxed).to_le_bytes());
            }
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == v {
                return Some((upto, chain));
            }
        }
        None
    }
}

/// What a sending application waits for, in bits: it is woken for nothing else, since each wake-up is
/// a change of threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxWants(pub u32);

impl TxWants {
    /// Fewer slots that wait for their first transmission.
    pub const QUEUE: TxWants = TxWants(1);
    /// A slot given back by the peer's acknowledgement.
    pub const ROOM: TxWants = TxWants(2);
    /// The peer's word that its application has taken more.
    pub const WITNESS: TxWants = TxWants(4);
    /// Anything that moves.
    pub const ANY: TxWants = TxWants(7);
}

/// State of a session that its lanes on several cores share.
#[derive(Debug, Default)]
pub struct SessionShared {
    /// When an authenticated frame last came in, in the node's clock, nanoseconds.
    pub last_rx: AtomicU64,
    /// When a frame last went out, nanoseconds.
    pub last_tx: AtomicU64,
    /// Smoothed round trip of the lane that measured last, nanoseconds.
    pub srtt: AtomicU64,
    /// Symbol length that the kernel believes the path to carry; 0 while nobody has asked it.
    pub mtu_hint: AtomicU32,
    /// A lane would like to know that.
    pub mtu_wanted: AtomicBool,
    /// The peer has closed the whole session, with this wire reason plus one; 0 while it has not.
    pub closed_by_peer: AtomicU32,
}

/// State that a lane's core side and its application side share.
#[derive(Debug)]
pub struct LaneShared {
    /// Lane number in its session.
    pub lane: u8,
    /// Wakes the application that waits for room to send.
    pub tx_ready: Notify,
    /// What it waits for: one of [`TxWants`].
    tx_wants: AtomicU32,
    /// Wakes the application that waits for a slot to read.
    pub rx_ready: Notify,
    /// Wakes the lane core.
    pub core: Arc<Wakeup>,
    /// What the application has taken.
    pub delivered: Delivered,
    /// Slot whose first transmission began last, plus one.
    pub begun: AtomicU64,
    /// Symbol length that new slots should be made for, bytes: 64 times it is what one holds.
    pub symbol_len: AtomicU32,
    /// Slots below this are complete at the peer.
    pub acked: AtomicU64,
    /// Slots below this were verified and taken by the peer's application (its witness).
    pub witnessed: AtomicU64,
    /// Weight of the lane beside others, see [`crate::proto::path`]; 1 to
    /// [`crate::proto::path::MAX_WEIGHT`].
    pub weight: AtomicU32,
    /// The core wants to be woken when the application gives slots back.
    pub credit_wanted: AtomicBool,
    /// Since when sent data has waited for any answer, nanoseconds; 0 when none is owed.
    pub waiting_since: AtomicU64,
    /// Session-wide state.
    pub session: Arc<SessionShared>,
    /// Slots that the application has taken; `TAKES_ENDED` once it may take no more.
    takes: AtomicU64,
    closed: AtomicU32,
}

/// Set in `takes` by the core that lets go of a lane.
const TAKES_ENDED: u64 = 1 << 63;

impl LaneShared {
    /// State of a new, open lane.
    pub fn new(lane: u8, core: Arc<Wakeup>, session: Arc<SessionShared>) -> LaneShared {
        LaneShared {
            lane,
            tx_ready: Notify::new(),
            tx_wants: AtomicU32::new(TxWants::ANY.0),
            rx_ready: Notify::new(),
            core,
            delivered: Delivered::default(),
            begun: AtomicU64::new(0),
            symbol_len: AtomicU32::new(0),
            acked: AtomicU64::new(0),
            witnessed: AtomicU64::new(0),
            weight: AtomicU32::new(1),
            credit_wanted: AtomicBool::new(false),
            waiting_since: AtomicU64::new(0),
            session,
            takes: AtomicU64::new(0),
            closed: AtomicU32::new(0),
        }
    }

    /// The application says what it will wait for; true where that is new. Then it must look at its
    /// condition once more before it waits.
    pub fn tx_want(&self, wants: TxWants) -> bool {
        if self.tx_wants.load(Ordering::Relaxed) == wants.0 {
            return false;
        }
        self.tx_wants.store(wants.0, Ordering::Relaxed);
        // Orders the word before the next look at the condition; pairs with the fence in
        // `Notify::notify_if`.
        fence(Ordering::SeqCst);
        true
    }

    /// Wakes the sending application if it waits for `what`. Call it after that was made true.
    #[inline]
    pub fn tx_notify(&self, what: TxWants) {
        self.tx_ready
            .notify_if(|| self.tx_wants.load(Ordering::Relaxed) & what.0 != 0);
    }

    /// Counts a slot that the application is about to take; false when the core has closed the
    /// lane's books, and the slot counts as dropped at close.
    pub fn begin_take(&self) -> bool {
        self.takes.fetch_add(1, Ordering::AcqRel) & TAKES_ENDED == 0
    }

    /// Slots that the application has taken so far.
    pub fn taken(&self) -> u64 {
        self.takes.load(Ordering::Acquire) & !TAKES_ENDED
    }

    /// Lets the application take nothing more and says how many slots it took. Once only.
    pub fn end_takes(&self) -> u64 {
        self.takes.fetch_or(TAKES_ENDED, Ordering::AcqRel) & !TAKES_ENDED
    }

    /// Ends the lane; the first reason given stays. Wakes everybody who waits on it.
    pub fn close(&self, reason: CloseReason) {
        let _ = self
            .closed
            .compare_exchange(0, reason as u32, Ordering::AcqRel, Ordering::Acquire);
        self.tx_ready.notify();
        self.rx_ready.notify();
        self.core.wake();
    }

    /// Why the lane ended, if it has.
    pub fn closed(&self) -> Option<CloseReason> {
        match self.closed.load(Ordering::Acquire) {
            0 => None,
            n => Some(CloseReason::from_wire(n as u16)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_never_sees_half_an_update() {
        let d = Arc::new(Delivered::default());
        let w = d.clone();
        let t = std::thread::spawn(move || {
            for i in 0..200_000u64 {
                w.publish(i, &[i as u8; 32]);
            }
        });
        while !t.is_finished() {
            if let Some((upto, chain)) = d.read() {
                assert_eq!(chain, [upto as u8; 32]);
            }
        }
        t.join().expect("the writer only stores");
        assert_eq!(d.read(), Some((199_999, [199_999u64 as u8; 32])));
    }
}
