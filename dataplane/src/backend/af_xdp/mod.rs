//! AF_XDP: frames pass between the queue of a network device and this process's own memory, past
//! the kernel's network stack.
//!
//! One backend is one core is one receive queue, or up to [`MAX_QUEUES`]: sockets of further queues
//! share the frame memory of the first. Beside its AF_XDP socket each has an ordinary UDP
//! socket on the same port, the *kernel side*. It reserves the port, keeps the kernel from
//! answering that nobody listens, and carries what AF_XDP cannot: frames to an address that routes
//! elsewhere or whose MAC address is not known yet (sending them makes the kernel find it), frames
//! that arrive on a queue without socket, IP fragments. [`Stats::rx_direct`] and
//! [`Stats::tx_direct`] say how many frames took the short way.
//!
//! The data path makes no system call but the wake-ups of the rings. Routes and neighbours are
//! followed by a thread of their own, which also tells a core when its kernel side has
//! something to read.

mod bare;
mod device;
mod inlet;
mod netlink;
mod nic;
mod open;
mod paths;
mod retry;
mod ring;
mod rx;
mod socket;
mod tx;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub use bare::{Bare, Echoed, turn_round};
pub use open::{AfXdpConfig, Checksum, Opened, Seat, Watch, ZeroCopy, open, why_not_by_default};
pub use xdp_prog::AttachMode;

use super::udp::Mmsg;
use super::{Backend, Burst, DropCause, FlushReport, Stats, TxFrame, poll};
use crate::ring::Wakeup;
use crate::wire::eth::{self, EthError};
use inlet::Inlet;
use nic::{Dropped, Nic};
use paths::Paths;
use retry::Retry;
use rx::{Arrival, Place, RxSide};
use socket::{Inflow, Xsk, XskDrops};
use tx::{Posted, TxSide};

/// A frame remembers its path in the low bits of its tag and its ECN bits above.
const ECN_SHIFT: u32 = 14;
const PATH_MASK: u16 = (1 << ECN_SHIFT) - 1;
const _: () = assert!(paths::MAX_PATHS <= PATH_MASK as usize);

/// Receive queues that one core may serve.
pub const MAX_QUEUES: usize = 4;

/// The AF_XDP socket of one core, with its kernel side.
pub struct AfXdp {
    // First, so that the sockets are closed before the memory goes.
    xsk: Xsk,
    /// Of further queues whose frames come into the same memory.
    more: Vec<Inflow>,
    rx: RxSide,
    tx: TxSide,
    paths: Paths,
    kernel: Mmsg,
    kernel_ready: Arc<AtomicBool>,
    wakeup: Arc<Wakeup>,
    nic: Arc<Nic>,
    /// Drops of our sockets as the watcher saw them last.
    dropped: Vec<Arc<Dropped>>,
    queue: u32,
    local: SocketAddr,
    /// Of every core, ours among them; empty where there is one core.
    inlets: Arc<[Inlet]>,
    /// Other cores that got frames in this round, one bit each.
    given: u64,
    retry: Retry,
    /// The ring to look at first.
    turn: usize,
    me: usize,
    capacity: usize,
    /// Frames refused since the last flush.
    refused: u64,
    /// Whether UDP checksums are completed below.
    sum_below: bool,
    name: &'static str,
    note: String,
    /// Our own side only.
    stats: Stats,
}

impl AfXdp {
    /// How the socket is bound and what was not had, for the status.
    pub fn note(&self) -> &str {
        &self.note
    }

    /// Whether the driver reads and writes our memory without a copy.
    pub fn is_zero_copy(&self) -> bool {
        self.xsk.zero_copy
    }

    /// One frame received on `queue`: hands it out, passes it on to the core it belongs to, or drops
    /// it.
    fn deliver(&mut self, place: Place, queue: u32, out: &mut Vec<Burst>) {
        let bytes = self.rx.bytes(&place);
        let datagram = match eth::parse(bytes, place.len) {
            Ok(d) => d,
            Err(e) => {
                match e {
                    EthError::Empty => self.stats.rx_empty += 1,
                    _ => self.stats.rx_errors += 1,
                }
                self.rx.put(place);
                return;
            }
        };
        let (at, len) = (datagram.payload.start, datagram.payload.len());
        if datagram.to.port() == self.local.port() {
            let burst = self.rx.lend(place, (at, len), datagram.from, datagram.ecn);
            let burst = burst.on_queue(queue as u16);
            self.stats.rx_direct += 1;
            self.count(&burst);
            out.push(burst);
            return;
        }
        let to = self
            .inlets
            .iter()
            .position(|i| i.port == datagram.to.port());
        match to {
            Some(core) => {
                let payload = &bytes[datagram.payload.clone()];
                let of = (datagram.from, datagram.ecn);
                if self.inlets[core].put(payload, of, queue as u16) {
                    self.stats.rx_misdirected += 1;
                    self.given |= 1 << core;
                } else {
                    self.stats.rx_kernel_drops += 1;
                }
            }
            None => self.stats.rx_errors += 1,
        }
        self.rx.put(place);
    }

    fn count(&mut self, burst: &Burst) {
        self.stats.rx_bursts += 1;
        self.stats.rx_frames += 1;
        self.stats.rx_bytes += burst.total_len() as u64;
    }

    /// Receive ring `source`: 0 is the core's own socket, the others follow.
    fn receive_ring(&mut self, source: usize, out: &mut Vec<Burst>) {
        let queue = match self.more.get(source.wrapping_sub(1)) {
            Some(inflow) => inflow.queue,
            None => self.queue,
        };
        let mut any = false;
        while out.len() < out.capacity() {
            let ring = match self.more.get_mut(source.wrapping_sub(1)) {
                Some(inflow) => &mut inflow.rx,
                None => &mut self.xsk.rx,
            };
            let Some(desc) = ring.pop() else {
                break;
            };
            any = true;
            match self.rx.take(source, &desc) {
                Arrival::Frame(place) => self.deliver(place, queue, out),
                Arrival::More => {}
                Arrival::TooLong => self.stats.rx_truncated += 1,
                Arrival::NoBuffer => self.stats.rx_no_buffer += 1,
                Arrival::Bogus => self.stats.rx_errors += 1,
            }
        }
        let (rx, fill) = match self.more.get_mut(source.wrapping_sub(1)) {
            Some(inflow) => (&inflow.rx, &mut inflow.fill),
            None => (&self.xsk.rx, &mut self.xsk.fill),
        };
        if any {
            rx.release();
        }
        self.rx.refill(source, fill);
        if !any && (self.xsk.busy_poll || fill.needs_wakeup()) {
            match self.more.get(source.wrapping_sub(1)) {
                Some(inflow) => inflow.kick_rx(),
                None => self.xsk.kick_rx(),
            }
        }
    }

    /// Tells other cores that they got something.
    fn wake_others(&mut self) {
        while self.given != 0 {
            let core = self.given.trailing_zeros();
            self.given &= self.given - 1;
            if let Some(inlet) = self.inlets.get(core as usize) {
                inlet.wake();
            }
        }
    }

    fn receive_inlet(&mut self, out: &mut Vec<Burst>) {
        let inlets = self.inlets.clone();
        let Some(inlet) = inlets.get(self.me) else {
            return;
        };
        while out.len() < out.capacity()
            && let Some(parcel) = inlet.take()
        {
            match self.rx.adopt(parcel.payload()) {
                Some(place) => {
                    let shape = (0, place.len);
                    let burst = self.rx.lend(place, shape, parcel.from, parcel.ecn);
                    let burst = burst.on_queue(parcel.queue);
                    self.count(&burst);
                    out.push(burst);
                }
                None => self.stats.rx_no_buffer += 1,
            }
            inlet.give_back(parcel);
        }
    }

    /// Counts a committed frame that will not be sent; the next flush reports it.
    fn refuse(&mut self, cause: DropCause) {
        self.stats.tx_dropped[cause as usize] += 1;
        self.refused += 1;
    }

    fn account(&mut self, posted: Posted, report: &mut FlushReport) {
        self.stats.tx_frames += posted.frames;
        self.stats.tx_direct += posted.frames;
        self.stats.tx_bytes += posted.bytes;
        self.stats.tx_sends += posted.calls;
        self.stats.tx_lost_below += posted.lost;
        self.stats.tx_retries += u64::from(posted.short || posted.down);
        report.sent_frames += posted.frames;
    }
}

impl Backend for AfXdp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize> {
        let before = out.len();
        // A different ring first each time, so that a full batch starves none.
        let rings = self.more.len() + 1;
        for i in 0..rings {
            self.receive_ring((self.turn + i) % rings, out);
        }
        self.turn = (self.turn + 1) % rings;
        self.wake_others();
        self.receive_inlet(out);
        // Lowered first: what comes from now on raises it again.
        if out.len() < out.capacity()
            && self.kernel_ready.load(Ordering::Relaxed)
            && self.kernel_ready.swap(false, Ordering::Acquire)
            && self.kernel.recv(out)? > 0
        {
            // There may be more.
            self.kernel_ready.store(true, Ordering::Relaxed);
        }
        Ok(out.len() - before)
    }

    fn release(&mut self, burst: Burst) {
        if self.rx.owns(&burst) {
            self.rx.reclaim(burst);
        } else {
            self.kernel.release(burst);
        }
    }

    #[inline]
    fn claim(&mut self, to: &SocketAddr, len: usize) -> Option<TxFrame> {
        self.claim_flow(to, 0, len)
    }

    fn queue(&self) -> Option<u16> {
        Some(self.queue as u16)
    }

    fn serves(&self, queue: u16) -> bool {
        let queue = u32::from(queue);
        queue == self.queue || self.more.iter().any(|inflow| inflow.queue == queue)
    }

    #[inline]
    fn claim_flow(&mut self, to: &SocketAddr, flow: u16, len: usize) -> Option<TxFrame> {
        self.claim_marked(to, (flow, 0), len)
    }

    #[inline]
    fn claim_marked(
        &mut self,
        to: &SocketAddr,
        (flow, ecn): (u16, u8),
        len: usize,
    ) -> Option<TxFrame> {
        let room = self.tx.room();
        let shared = &self.nic.shared;
        match self.paths.get(to, flow, &shared.hops, |ip| shared.ask(ip)) {
            Some((path, _)) if len <= room => {
                let path = path | u16::from(ecn & 3) << ECN_SHIFT;
                if let Some(frame) = self.tx.claim(len, path) {
                    return Some(frame);
                }
                self.tx.reap(&mut self.xsk);
                self.tx.claim(len, path)
            }
            _ => self.kernel.claim_marked(to, (flow, ecn), len),
        }
    }

    #[inline]
    fn commit(&mut self, frame: TxFrame) {
        if !self.tx.owns(&frame) {
            self.kernel.commit(frame);
            return;
        }
        // The path may have been lost since the claim.
        let (path, ecn) = (
            frame.segment & PATH_MASK,
            (frame.segment >> ECN_SHIFT) as u8,
        );
        let direct = self.paths.direct(path);
        if direct.is_some_and(|d| frame.len() > d.max_len) {
            self.refuse(DropCause::TooLong);
            self.tx.give_up(frame);
            return;
        }
        let template = direct.map(|d| &d.template);
        let header_len = template.map_or(0, |t| t.header_len());
        let done = match template {
            Some(t) if self.sum_below && t.has_checksum() => {
                let from = Some(t.udp_at());
                self.tx.commit(frame, header_len, from, |b| {
                    t.write_partial(b) && t.mark(b, ecn)
                })
            }
            Some(t) => self
                .tx
                .commit(frame, header_len, None, |b| t.write(b) && t.mark(b, ecn)),
            None => self.tx.commit(frame, header_len, None, |_| false),
        };
        if !done {
            self.refuse(DropCause::Unreachable);
        }
    }

    fn cut(&mut self) {
        self.kernel.cut();
    }

    fn cancel(&mut self, frame: TxFrame) {
        if self.tx.owns(&frame) {
            self.tx.cancel(frame);
        } else {
            self.kernel.cancel(frame);
        }
    }

    fn flush(&mut self) -> io::Result<FlushReport> {
        self.tx.reap(&mut self.xsk);
        self.paths.refresh(&self.nic.shared.hops);
        let mut report = self.kernel.flush()?;
        let posted = self.tx.post(&mut self.xsk);
        self.account(posted, &mut report);
        report.pending_frames += self.tx.queued();
        report.dropped_frames += std::mem::take(&mut self.refused);
        Ok(report)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let retry = if self.tx.queued() > 0 || self.xsk.tx.waiting() > 0 {
            Some(self.retry.next(self.xsk.tx.taken()))
        } else {
            self.retry = Retry::default();
            (self.kernel.stats().tx_pending > 0).then_some(retry::SHORT)
        };
        let timeout = match (timeout, retry) {
            (Some(t), Some(r)) => Some(t.min(r)),
            (t, r) => t.or(r),
        };
        // The kernel needs chunks to put frames in while we sleep.
        self.rx.refill(0, &mut self.xsk.fill);
        for (i, inflow) in self.more.iter_mut().enumerate() {
            self.rx.refill(i + 1, &mut inflow.fill);
        }
        self.wakeup.prepare_sleep();
        let work = self.xsk.rx.has_some()
            || self.more.iter().any(|inflow| inflow.rx.has_some())
            || self.kernel_ready.load(Ordering::Acquire)
            || self.inlets.get(self.me).is_some_and(|i| !i.is_empty());
        let slept = if work {
            Ok([false; 2 + MAX_QUEUES])
        } else {
            // The kernel passes over numbers below zero.
            let mut fds = [-1; 2 + MAX_QUEUES];
            fds[0] = self.kernel.fd();
            fds[1] = self.wakeup.fd();
            fds[2] = self.xsk.fd().as_raw_fd();
            for (fd, inflow) in fds[3..].iter_mut().zip(&self.more) {
                *fd = inflow.fd().as_raw_fd();
            }
            poll::which_readable(fds, timeout)
        };
        self.wakeup.cancel();
        if slept?[0] {
            self.kernel_ready.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn wakeup(&self) -> Arc<Wakeup> {
        self.wakeup.clone()
    }

    fn rx_capacity_bytes(&self) -> usize {
        self.capacity
    }

    fn outstanding(&self) -> usize {
        self.rx.lent() + self.tx.claimed() + self.kernel.outstanding()
    }

    fn stats(&self) -> Stats {
        let further = self.more.iter().map(Inflow::drops);
        self.stats_with(further.chain([self.xsk.drops()]))
    }

    fn glance(&self) -> Stats {
        self.stats_with(self.dropped.iter().map(|d| d.get()))
    }
}

impl AfXdp {
    fn stats_with(&self, dropped: impl Iterator<Item = XskDrops>) -> Stats {
        let mut s = self.stats;
        for drops in dropped {
            s.rx_kernel_drops += drops.rx;
            s.rx_errors += drops.refused;
        }
        s.tx_pending = self.tx.queued();
        s.tx_cancelled = self.tx.cancelled();
        s.plus(&self.kernel.stats())
    }
}

impl Drop for AfXdp {
    fn drop(&mut self) {
        self.nic.clear_socket(self.queue);
        for inflow in &self.more {
            self.nic.clear_socket(inflow.queue);
        }
    }
}
