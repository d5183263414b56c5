//! An open session: an authenticated peer and the lanes to it.

use super::receiver::LaneReceiver;
use super::sender::{LaneSender, Parts};
use crate::codec::Policy;
use crate::crypto::identity::PublicKey;
use crate::engine::{ConnectError, Engine, SessionEnds};
use crate::obs::{ThreadStats, Writer};
use crate::stage::{CloseReason, LaneEnds, LaneShared};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// A session with one peer. Lanes are taken from it once each; the session closes when it and
/// every lane end taken from it are dropped, or by [`Session::close`].
pub struct Session {
    index: u32,
    peer: PublicKey,
    peer_name: String,
    addr: SocketAddr,
    initiator: bool,
    receipt_key: [u8; 32],
    same_host: bool,
    lanes: Mutex<Vec<Option<LaneEnds>>>,
    watch: Vec<Arc<LaneShared>>,
    engine: Arc<Engine>,
}

impl Session {
    pub(super) fn new(ends: SessionEnds, engine: Arc<Engine>) -> Session {
        Session {
            index: ends.index,
            peer: ends.peer,
            peer_name: ends.peer_name,
            addr: ends.addr,
            initiator: ends.initiator,
            receipt_key: ends.receipt_key,
            same_host: ends.same_host,
            watch: ends.lanes.iter().map(|l| l.shared.clone()).collect(),
            lanes: Mutex::new(ends.lanes.into_iter().map(Some).collect()),
            engine,
        }
    }

    /// Our index of the session.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The peer's public key, authenticated by the handshake.
    pub fn peer(&self) -> PublicKey {
        self.peer
    }

    /// The peer's name in our configuration.
    pub fn peer_name(&self) -> &str {
        &self.peer_name
    }

    /// The peer's address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Whether we asked for the session.
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Ed25519 key with which the peer signs receipts, vouched for by the handshake.
    pub fn peer_receipt_key(&self) -> [u8; 32] {
        self.receipt_key
    }

    /// Lanes of the session.
    pub fn lanes(&self) -> usize {
        self.watch.len()
    }

    /// Takes both ends of lane `n`: ours to send on and ours to receive from. Once each.
    pub fn lane(&self, n: usize) -> Result<(LaneSender, LaneReceiver), ConnectError> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = lanes
            .get_mut(n)
            .and_then(Option::take)
            .ok_or(ConnectError::NoLane(n))?;
        let registry = self.engine.registry();
        let [sending, receiving] = [true, false].map(|sends| {
            registry.attach_writer(Writer::LaneEnd {
                session: self.index,
                lane: n,
                sends,
            })
        });
        let stats = (sending, receiving);
        Ok(lane_ends(
            ends,
            self.engine.compression(),
            self.same_host,
            stats,
        ))
    }

    /// Why the session ended, once every lane of it has.
    pub fn closed(&self) -> Option<CloseReason> {
        let mut reason = None;
        for l in &self.watch {
            reason = Some(l.closed()?);
        }
        reason
    }

    /// Ends every lane now. What the peer has not acknowledged may be lost.
    pub fn close(&self) {
        self.engine.close(self.index, CloseReason::Finished);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Lane ends that were never taken can carry nothing any more.
        let lanes = self.lanes.get_mut().unwrap_or_else(PoisonError::into_inner);
        for l in lanes.iter().flatten() {
            l.shared.close(CloseReason::Finished);
        }
    }
}

/// The application's ends of a lane that the caller drives itself, without a [`super::Node`]:
/// for programs that run the lane core on their own thread, and for simulations. `same_host` says
/// that both ends share a clock; `stats` are for the sending and the receiving end.
pub fn lane_ends(
    ends: LaneEnds,
    compression: Policy,
    same_host: bool,
    stats: (Arc<ThreadStats>, Arc<ThreadStats>),
) -> (LaneSender, LaneReceiver) {
    let parts = Parts::of(&ends);
    (
        LaneSender::new(
            ends.tx_writer,
            ends.tx_bufs,
            ends.tx_scratch,
            &parts,
            compression,
            stats.0,
        ),
        LaneReceiver::new(ends.rx_reader, ends.rx_scratch, &parts, same_host, stats.1),
    )
}
