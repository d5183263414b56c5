//! Packet input and output for one lane core.
//!
//! A [`Backend`] belongs to one thread. Frames are move-only handles into memory that was mapped at
//! construction: [`Burst`] on the way in, [`TxFrame`] on the way out. Whoever holds one has its
//! bytes for itself and must give it back; nothing is copied, counted by reference or allocated per
//! frame, and everything works in batches.
//!
//! - [`af_xdp`]: past the kernel's network stack, through AF_XDP sockets.
//! - [`udp`]: UDP sockets with segmentation offload, through `sendmmsg`/`recvmmsg` or io_uring.
//! - [`mem`]: a pair joined by shared memory, for two cores without a kernel between them.
//! - [`sim`]: a network in virtual time with seeded faults, for tests.

pub mod af_xdp;
mod burst;
mod frame;
pub mod mem;
pub mod mtu;
mod poll;
pub mod sim;
mod stats;
#[cfg(test)]
mod suite;
mod tx;
pub mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use frame::{Burst, TxFrame};
pub use stats::{DropCause, Stats};

use crate::ring::Wakeup;

/// Longest frame that [`Backend::claim`] gives, bytes.
pub const MAX_CLAIM: usize = tx::MAX_SUPER_LEN;

/// What one [`Backend::flush`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// Frames handed to the kernel, the device or the peer.
    pub sent_frames: u64,
    /// Frames given up, each counted by its cause in [`Stats::tx_dropped`].
    pub dropped_frames: u64,
    /// Frames that stay queued because there was no room below; the next flush tries them again.
    pub pending_frames: u64,
}

/// Packet input and output of one core. Not a trait object: engines are generic over it.
pub trait Backend {
    /// Short name for logs and status, such as `udp-mmsg`.
    fn name(&self) -> &'static str;

    /// The address that peers send to.
    fn local_addr(&self) -> SocketAddr;

    /// Appends what has arrived to `out` and says how many bursts that was; never blocks and never
    /// grows `out` past its capacity. Errors are those after which the socket is of no use; what a
    /// peer or the network can cause is counted in [`Stats`] instead.
    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize>;

    /// Takes a burst back. A burst of another backend is a bug: debug builds stop, others leak it.
    fn release(&mut self, burst: Burst);

    /// Room for a frame of `len` bytes (1 to [`MAX_CLAIM`]) to `to`; nothing when the pool is
    /// exhausted, in which case a flush frees it. Consecutive claims with the same peer and length
    /// are the ones that leave in one piece.
    fn claim(&mut self, to: &SocketAddr, len: usize) -> Option<TxFrame>;

    /// As [`Backend::claim`], for a lane that steers its frames: 0 sends from the backend's own
    /// port, every other flow from another one, so that the peer's network device may put it on
    /// another queue. A backend that has no such choice sends them all alike.
    #[inline]
    fn claim_flow(&mut self, to: &SocketAddr, flow: u16, len: usize) -> Option<TxFrame> {
        let _ = flow;
        self.claim(to, len)
    }

    /// As [`Backend::claim_flow`], with the two ECN bits that the packet carries (RFC 3168). A
    /// backend that cannot set them sends the packet without.
    #[inline]
    fn claim_marked(
        &mut self,
        to: &SocketAddr,
        (flow, ecn): (u16, u8),
        len: usize,
    ) -> Option<TxFrame> {
        let _ = ecn;
        self.claim_flow(to, flow, len)
    }

    /// `N` frames in a row, as [`Backend::claim_marked`] for each; nothing where there is no room for all of
    /// them, and there may be for one.
    #[inline]
    fn claim_run<const N: usize>(
        &mut self,
        to: &SocketAddr,
        with: (u16, u8),
        len: usize,
    ) -> Option<[TxFrame; N]> {
        claim_singly(self, to, with, len)
    }

    /// Frames claimed from here on do not leave in one piece with those before: a super-packet that
    /// the path does not carry is dropped whole where software forwards it.
    fn cut(&mut self) {}

    /// Receive queue of the network device that this backend reads; `None` for sockets.
    fn queue(&self) -> Option<u16> {
        None
    }

    /// Whether frames that come in on `queue` of the network device are this backend's to read.
    fn serves(&self, queue: u16) -> bool {
        self.queue() == Some(queue)
    }

    /// Takes a filled frame; it leaves with the next flush. A frame still claimed at that time
    /// holds back the ones claimed after it.
    fn commit(&mut self, frame: TxFrame);

    /// Takes a frame that shall not be sent after all.
    fn cancel(&mut self, frame: TxFrame);

    /// Sends what was committed, as far as there is room below. Errors as in [`Backend::recv`].
    fn flush(&mut self) -> io::Result<FlushReport>;

    /// Sleeps until something arrives, [`Wakeup::wake`] is called or `timeout` passes; may also
    /// return for no reason. The caller has called [`Wakeup::prepare_sleep`] and looked at its own
    /// queues after that, or work that came just before is noticed only at the timeout.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// What other threads wake this core with.
    fn wakeup(&self) -> Arc<Wakeup>;

    /// Payload bytes in datagrams of at least 1,200 bytes that may be on the way to this backend
    /// at once without its dropping any, on a careful estimate.
    fn rx_capacity_bytes(&self) -> usize;

    /// Handles that are out: bursts not released and frames neither committed nor cancelled.
    fn outstanding(&self) -> usize;

    /// What was counted since the start.
    fn stats(&self) -> Stats;

    /// As [`Backend::stats`], by no system call: what the kernel counts may be a tenth of a second old.
    fn glance(&self) -> Stats {
        self.stats()
    }
}

/// `N` frames one after the other; none where there is no room for all.
#[inline]
fn claim_singly<const N: usize, B: Backend + ?Sized>(
    backend: &mut B,
    to: &SocketAddr,
    with: (u16, u8),
    len: usize,
) -> Option<[TxFrame; N]> {
    let mut frames = [const { None }; N];
    for place in &mut frames {
        *place = backend.claim_marked(to, with, len);
        if place.is_none() {
            break;
        }
    }
    if frames.iter().all(Option::is_some) {
        // Just checked: none is missing.
        return Some(frames.map(|f| f.expect("all are there")));
    }
    frames.into_iter().flatten().for_each(|f| backend.cancel(f));
    None
}
