//! From core to core: a frame that arrived on a queue of another core than its port belongs to.
//!
//! Steering keeps that rare (`ctp96 queues`); where it happens the frame is copied twice, and
//! counted.

use std::net::SocketAddr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::base::limits::MAX_FRAME_LEN;
use crate::ring::Wakeup;

/// Frames under way to one core; what comes beyond is lost, as in a full receive ring.
const DEPTH: usize = 512;

/// Both ends of a bounded queue.
type Queue<T> = (Sender<T>, Receiver<T>);

/// A frame on its way.
pub(super) struct Parcel {
    pub(super) from: SocketAddr,
    pub(super) ecn: u8,
    /// Queue that it came in on.
    pub(super) queue: u16,
    len: usize,
    buf: Box<[u8]>,
}

impl Parcel {
    pub(super) fn payload(&self) -> &[u8] {
        &self.buf[..self.len]
    }
}

/// Where other cores put frames for this one. Its buffers circulate: nothing is allocated later.
pub(super) struct Inlet {
    pub(super) port: u16,
    full: Queue<Parcel>,
    empty: Queue<Box<[u8]>>,
    core: Arc<Wakeup>,
}

impl Inlet {
    pub(super) fn new(port: u16, core: Arc<Wakeup>) -> Inlet {
        let inlet = Inlet {
            port,
            full: bounded(DEPTH),
            empty: bounded(DEPTH),
            core,
        };
        for _ in 0..DEPTH {
            // As many as there is room for.
            let _ = inlet.empty.0.try_send(vec![0; MAX_FRAME_LEN].into());
        }
        inlet
    }

    /// Copies a frame in; `false` when it is lost for want of room.
    pub(super) fn put(&self, payload: &[u8], (from, ecn): (SocketAddr, u8), queue: u16) -> bool {
        if payload.len() > MAX_FRAME_LEN {
            return false;
        }
        let Ok(mut buf) = self.empty.1.try_recv() else {
            return false;
        };
        buf[..payload.len()].copy_from_slice(payload);
        let parcel = Parcel {
            from,
            ecn,
            queue,
            len: payload.len(),
            buf,
        };
        // Never full: there are no more buffers than places.
        self.full.0.try_send(parcel).is_ok()
    }

    /// Wakes the core, after one or more frames were put.
    pub(super) fn wake(&self) {
        self.core.wake();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.full.1.is_empty()
    }

    pub(super) fn take(&self) -> Option<Parcel> {
        self.full.1.try_recv().ok()
    }

    pub(super) fn give_back(&self, parcel: Parcel) {
        let _ = self.empty.0.try_send(parcel.buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_buffers_circulate() {
        let inlet = Inlet::new(1, Arc::new(Wakeup::new().expect("eventfd")));
        let from = ([10, 0, 0, 1], 2).into();
        for round in 0..3 {
            for i in 0..DEPTH {
                assert!(inlet.put(&[i as u8; 100], (from, 1), 7), "{round}");
            }
            assert!(!inlet.put(&[0; 100], (from, 0), 7));
            for i in 0..DEPTH {
                let p = inlet.take().expect("as many as were put");
                assert_eq!((p.payload(), p.from, p.ecn), (&[i as u8; 100][..], from, 1));
                assert_eq!(p.queue, 7);
                inlet.give_back(p);
            }
            assert!(inlet.is_empty() && inlet.take().is_none());
        }
        assert!(!inlet.put(&vec![0; MAX_FRAME_LEN + 1], (from, 0), 7));
    }
}
