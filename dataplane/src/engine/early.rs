//! What has come before the lanes that it is for.
//!
//! A peer sends data right behind the handshake's last message. The control thread is still opening the
//! session's lanes then, which takes a millisecond or two: without this, the first flight of every
//! session would be lost and cost it a round trip.

use crate::backend::Burst;
use crate::base::Nanos;
use crate::proto::manager::Indices;
use std::sync::Arc;

/// Bursts that are kept at most: half of a UDP socket's receive buffers.
const MOST: usize = 32;
/// How long opening lanes may take, nanoseconds.
const HOLD_NS: Nanos = 20_000_000;

pub(super) struct Early {
    held: Vec<Burst>,
    until: Nanos,
    /// Lanes have been opened since something was held.
    opened: bool,
    indices: Arc<Indices>,
}

impl Early {
    pub(super) fn new(indices: Arc<Indices>) -> Early {
        Early {
            held: Vec::with_capacity(MOST),
            until: 0,
            opened: false,
            indices,
        }
    }

    /// Lanes have opened.
    pub(super) fn opened(&mut self) {
        self.opened = true;
    }

    /// Puts what was held into `bursts`, which is empty, when its lanes may be there, or the time is over.
    /// Says whether any of it may be held (again).
    pub(super) fn release(&mut self, now: Nanos, bursts: &mut Vec<Burst>) -> bool {
        if self.held.is_empty() {
            return true;
        }
        let over = now >= self.until;
        if over || self.opened {
            self.opened = false;
            bursts.append(&mut self.held);
        }
        !over
    }

    /// Whether a burst for `session`, of which no lane is open here, is worth keeping: a handshake is
    /// about to make that session, and there is room.
    pub(super) fn wants(&self, session: u32) -> bool {
        self.held.len() < MOST && self.indices.holds(session)
    }

    pub(super) fn hold(&mut self, burst: Burst, now: Nanos) {
        if self.held.is_empty() {
            (self.until, self.opened) = (now + HOLD_NS, false);
        }
        self.held.push(burst);
    }

    /// When what is held is given up.
    pub(super) fn next_timeout(&self) -> Option<Nanos> {
        (!self.held.is_empty()).then_some(self.until)
    }

    /// Everything, for the backend to have back.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Burst> {
        self.held.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, mem};
    use crate::base::limits::HEADER_LEN;
    use crate::engine::Core;
    use crate::obs::{Counter, ThreadStats};
    use crate::wire::{FrameKind, Header};
    use crossbeam_channel::bounded;

    const GIVEN: u32 = 0x1234_5607;

    #[test]
    fn frames_of_a_promised_session_wait_and_those_of_strangers_do_not() {
        let (a, b) = ("10.0.0.1:1".parse(), "10.0.0.2:1".parse());
        let (a, b) = (a.expect("literal"), b.expect("literal"));
        let (mut peer, backend) = mem::pair(a, b, 64).expect("memory");
        let (_commands, inbox) = bounded(1);
        let (outbox, _events) = bounded(1);
        let stats = Arc::new(ThreadStats::new("core"));
        let indices = Arc::new(Indices::with(GIVEN));
        let mut core = Core::new(0, backend, inbox, outbox, stats.clone(), indices);
        let foreign = || stats.counters.get(Counter::RxForeign);
        let mut send = |session, frames: u64| {
            let header = Header {
                kind: FrameKind::Symbol,
                epoch: 0,
                part: false,
                lane: 0,
                symbol: 0,
                session,
                pn: 0,
                slot: 0,
                k: 64,
                class: 0,
                len: 1408,
            };
            for _ in 0..frames {
                let mut f = peer.claim(&b, HEADER_LEN + 1408 + 16).expect("room");
                header.encode(f.first_chunk_mut().expect("longer than a header"));
                peer.commit(f);
                // Each by itself, so that each is a burst.
                peer.flush().expect("memory does not fail");
            }
        };
        send(GIVEN, 40);
        core.step(0);
        // Half of the buffers may be kept; the rest goes as a stranger's would.
        assert_eq!((core.backend().outstanding(), foreign()), (MOST, 8));
        assert_eq!(core.next_timeout(0), Some(HOLD_NS));
        send(GIVEN ^ 1 << 8, 3);
        core.step(HOLD_NS - 1);
        assert_eq!((core.backend().outstanding(), foreign()), (MOST, 11));
        core.step(HOLD_NS);
        assert_eq!((core.backend().outstanding(), foreign()), (0, 43));
        assert_eq!(core.next_timeout(HOLD_NS), None);
        assert_eq!(stats.counters.get(Counter::RxFrames), 43);
    }
}
