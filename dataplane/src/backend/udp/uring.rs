//! UDP through io_uring: one multishot receive that fills provided buffers, sends submitted in
//! batches and completed inline, and a sleep that ends on either side's completion.
//!
//! The ring defers its work to the owner's own calls (DEFER_TASKRUN), so nothing of it runs, and
//! no buffer is written, while the owner is elsewhere. The kernel raises a flag in shared memory
//! when there is something to do: a core that polls an idle socket makes no system call at all.
//!
//! Sends carry MSG_DONTWAIT. They are complete when the submission returns, in order, and a full
//! socket buffer shows as EAGAIN exactly as with `sendmmsg`. Zero-copy sends (SENDMSG_ZC) are there
//! to be asked for: the kernel keeps a buffer until it notifies that it has let go of it, which a
//! network card's driver makes worth while. Over loopback and veth the kernel copies all the same and
//! notifies on top of it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::bufring::BufRing;
use super::msg::{CONTROL_LEN, TxBatch, parse_control, parse_name};
use super::offload::{Next, Offload};
use super::socket::UdpSocket;
use super::{DropCounter, UdpConfig, fatal, sleep_limit};
use crate::backend::burst::{BurstPool, RX_STRIDE};
use crate::backend::tx::{FRAME_PAD, Run, TxQueue};
use crate::backend::{Backend, Burst, FlushReport, Stats, TxFrame};
use crate::ring::Wakeup;

/// Super-packets of one submission.
const BATCH: usize = 32;
/// Room for a batch, the receive and the poll.
const ENTRIES: u32 = 64;
const GROUP: u16 = 0;
const SOCKET: Fixed = Fixed(0);
const WAKEUP: Fixed = Fixed(1);
/// What a completion belongs to; sends use their place in the batch.
const RECV: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
/// Marks a zero-copy send: its buffer stands above the place in the batch.
const ZERO_COPY: u64 = 1 << 32;
const ZERO_COPY_INDEX: u32 = 16;
/// A send whose completion was not seen yet.
const UNKNOWN: i32 = i32::MIN;

/// Bytes in front of what a multishot RECVMSG delivers: four u32 (name, control and payload
/// length, flags).
const OUT_HEADER: usize = 16;
/// Room for the name; more than it needs, to put the control data at a multiple of 16.
const OUT_NAME: usize = 32;
/// Where the payload begins. Behind a 24-byte frame header it is 64-byte aligned.
const OUT_PAYLOAD: usize = OUT_HEADER + OUT_NAME + CONTROL_LEN;
const _: () = assert!(OUT_PAYLOAD % 64 == FRAME_PAD);
const _: () = assert!(RX_STRIDE - OUT_PAYLOAD >= 65_507);

/// A UDP socket driven by an io_uring.
pub struct Uring {
    // First, so that the ring is gone before the memory that it writes to.
    ring: IoUring,
    buffers: BufRing,
    /// Buffers in the provided ring, in completions not yet read, and nowhere else.
    provided: usize,
    pool: BurstPool,
    /// Bursts that turned up while something else was waited for.
    arrived: VecDeque<Burst>,
    /// Template of the receive: lengths only. Boxed, because the kernel keeps its address.
    template: Box<Template>,
    receiving: bool,
    waking: bool,
    started: bool,
    drops: DropCounter,
    tx: TxQueue,
    tx_batch: TxBatch,
    runs: Vec<Run>,
    results: Vec<i32>,
    /// For each send buffer, what the kernel still holds of it; empty without zero-copy sends.
    lent: Vec<Lent>,
    offload: Offload,
    wakeup: Arc<Wakeup>,
    stats: Stats,
    socket: UdpSocket,
}

/// A send buffer that zero-copy sends were made from.
#[derive(Clone, Copy, Default)]
struct Lent {
    /// Sends that the kernel has not let go of.
    holds: u16,
    /// Whether it is out of the queue and becomes free with the last of them.
    detached: bool,
}

struct Template(libc::msghdr);

// SAFETY: its pointers are null.
unsafe impl Send for Template {}

fn builder() -> io_uring::Builder {
    let mut b = IoUring::builder();
    // Disabled until the owner's thread first uses it: that thread becomes the single issuer.
    b.setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(4 * ENTRIES);
    b
}

impl Uring {
    /// Whether this process may use io_uring, with what it takes: Linux 6.1, no seccomp filter
    /// against it and no `kernel.io_uring_disabled`.
    pub fn available() -> io::Result<()> {
        let why = |e: io::Error| {
            let hint = match e.raw_os_error() {
                Some(libc::ENOSYS) => "the kernel has no io_uring",
                Some(libc::EPERM) => "forbidden by kernel.io_uring_disabled or a seccomp filter",
                Some(libc::EINVAL) => "the kernel is older than 6.1",
                _ => "io_uring_setup failed",
            };
            io::Error::new(e.kind(), format!("{hint} ({e})"))
        };
        let ring = builder().build(8).map_err(why)?;
        BufRing::register(&ring, 8, GROUP).map_err(why)?;
        Ok(())
    }

    /// Binds the socket, makes the ring and maps the buffers. The thread that first receives,
    /// flushes or waits owns the ring from then on: the same calls from another one are errors.
    pub fn open(config: &UdpConfig) -> io::Result<Uring> {
        let socket = UdpSocket::open(config)?;
        let wakeup = Arc::new(Wakeup::new()?);
        let ring = builder().build(ENTRIES)?;
        ring.submitter()
            .register_files(&[socket.fd() as RawFd, wakeup.fd()])?;
        let count = config.rx_buffers.next_power_of_two();
        let mut tx = TxQueue::new(config.tx_buffers).map_err(io::Error::other)?;
        tx.offload = socket.gso;
        // SAFETY: all-zero bytes are a valid msghdr.
        let mut template: libc::msghdr = unsafe { std::mem::zeroed() };
        template.msg_namelen = OUT_NAME as libc::socklen_t;
        template.msg_controllen = CONTROL_LEN as _;
        let mut me = Uring {
            buffers: BufRing::register(&ring, count, GROUP)?,
            ring,
            provided: 0,
            pool: BurstPool::new(count).map_err(io::Error::other)?,
            arrived: VecDeque::with_capacity(usize::from(count)),
            template: Box::new(Template(template)),
            receiving: false,
            waking: false,
            started: false,
            drops: DropCounter::default(),
            tx,
            tx_batch: TxBatch::new(BATCH, socket.v6),
            runs: Vec::with_capacity(BATCH),
            results: Vec::with_capacity(BATCH),
            lent: if config.zero_copy {
                vec![Lent::default(); usize::from(config.tx_buffers)]
            } else {
                Vec::new()
            },
            offload: Offload::new(socket.gso),
            wakeup,
            stats: Stats::default(),
            socket,
        };
        while let Some(index) = me.pool.take() {
            me.provide(index);
        }
        Ok(me)
    }

    /// Why segmentation offload is off, if it is.
    pub fn offload_note(&self) -> Option<String> {
        self.offload.note()
    }

    /// Gives buffer `index` to the kernel.
    fn provide(&mut self, index: u16) {
        self.buffers
            .push(index, self.pool.at(index, 0, RX_STRIDE), RX_STRIDE);
        self.provided += 1;
    }

    fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: what the entries point to outlives them: the template is boxed and dropped after
        // the ring; headers and data of sends are read during the submission that follows at once.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Enables the ring on the first call and keeps the receive armed.
    fn arm(&mut self) -> io::Result<()> {
        if !self.started {
            self.ring.submitter().register_enable_rings()?;
            self.started = true;
        }
        if self.receiving || self.provided == 0 {
            return Ok(());
        }
        let template: *const libc::msghdr = &self.template.0;
        let recv = opcode::RecvMsgMulti::new(SOCKET, template, GROUP)
            .build()
            .user_data(RECV);
        if self.push(&recv) {
            self.receiving = true;
            self.submit()?;
        }
        Ok(())
    }

    /// Submits everything queued and runs the ring's deferred work. Nothing stays behind in the
    /// submission queue, where it would go out later with headers that mean something else.
    fn submit(&mut self) -> io::Result<()> {
        for _ in 0..1000 {
            match self.ring.submit() {
                Ok(_) => {}
                // A signal, a shortage of memory, or completions to be read first.
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => self.drain()?,
                    _ => return Err(e),
                },
            }
            if self.ring.submission().is_empty() {
                return Ok(());
            }
        }
        Err(io::Error::other("the ring takes no submissions"))
    }

    /// Runs the ring's deferred work, if there is any, and handles what comes of it.
    fn catch_up(&mut self) -> io::Result<()> {
        let queue = self.ring.submission();
        let work = queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if work {
            self.submit()?;
            self.drain()?;
        }
        Ok(())
    }

    /// Handles all completions; an error means that the socket is of no use any more.
    fn drain(&mut self) -> io::Result<()> {
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else {
                return Ok(());
            };
            match entry.user_data() {
                RECV => self.on_recv(&entry)?,
                WAKE => self.waking = false,
                place if place & ZERO_COPY != 0 => self.on_zero_copy(&entry),
                place => {
                    if let Some(r) = self.results.get_mut(place as usize) {
                        *r = entry.result();
                    }
                }
            }
        }
    }

    /// A zero-copy send has two completions: what became of it, and, if the first says that more
    /// comes, that the kernel has let go of its bytes.
    fn on_zero_copy(&mut self, entry: &cqueue::Entry) {
        let index = (entry.user_data() >> ZERO_COPY_INDEX) as u16;
        let place = entry.user_data() as u16;
        let Some(lent) = self.lent.get_mut(usize::from(index)) else {
            return;
        };
        if cqueue::notif(entry.flags()) {
            lent.holds = lent.holds.saturating_sub(1);
            if lent.holds == 0 && std::mem::take(&mut lent.detached) {
                self.tx.attach(index);
            }
            return;
        }
        lent.holds += u16::from(cqueue::more(entry.flags()));
        if let Some(r) = self.results.get_mut(usize::from(place)) {
            *r = entry.result();
        }
    }

    /// The run went out: its buffer is free again, or will be when the kernel lets go of it.
    fn sent(&mut self, run: Run, report: &mut FlushReport) {
        match self.lent.get_mut(usize::from(run.index)) {
            // A run that is a whole super-packet; only such ones are sent without a copy.
            Some(lent) if lent.holds > 0 => {
                lent.detached = true;
                self.tx.detach(run, &mut self.stats, report);
            }
            _ => self.tx.sent(run, &mut self.stats, report),
        }
    }

    fn on_recv(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(entry.flags()) {
            self.receiving = false;
        }
        let index = cqueue::buffer_select(entry.flags());
        self.provided -= usize::from(index.is_some());
        match (entry.result(), index) {
            (n, Some(index)) if n >= 0 => {
                if let Some(burst) = self.burst(index, n as usize) {
                    self.arrived.push_back(burst);
                }
                return Ok(());
            }
            (_, Some(index)) => self.provide(index),
            (_, None) => {}
        }
        match -entry.result() {
            libc::ENOBUFS => self.stats.rx_no_buffer += 1,
            e if fatal(e) => return Err(io::Error::from_raw_os_error(e)),
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => {}
            _ => self.stats.rx_errors += 1,
        }
        Ok(())
    }

    /// Moves bursts to `out` as far as there is room.
    fn hand_out(&mut self, out: &mut Vec<Burst>) -> usize {
        let n = self.arrived.len().min(out.capacity() - out.len());
        out.extend(self.arrived.drain(..n));
        n
    }

    /// Makes a burst of buffer `index`, of which the kernel wrote the first `filled` bytes.
    fn burst(&mut self, index: u16, filled: usize) -> Option<Burst> {
        let head = self.pool.at(index, 0, OUT_PAYLOAD);
        // SAFETY: the range is checked and initialised (zeroed at first), and the kernel is done
        // with the buffer once its completion is there.
        let head = unsafe { std::slice::from_raw_parts(head.as_ptr(), OUT_PAYLOAD) };
        let word = |i: usize| {
            let b = head[4 * i..4 * i + 4].try_into().unwrap_or_default();
            u32::from_ne_bytes(b) as usize
        };
        let (name, control, flags) = (word(0), word(1), word(3));
        let name = &head[OUT_HEADER..][..name.min(OUT_NAME)];
        let control = parse_control(&head[OUT_HEADER + OUT_NAME..][..control.min(CONTROL_LEN)]);
        let len = filled.min(RX_STRIDE).saturating_sub(OUT_PAYLOAD);
        let truncated = flags & libc::MSG_TRUNC as usize != 0;
        if let Some(now) = control.drops {
            self.drops.update(now, &mut self.stats.rx_kernel_drops);
        }
        match parse_name(name) {
            Some(from) if len > 0 && !truncated => {
                let shape = (len, control.segment.unwrap_or(len));
                Some(self.pool.lend(index, OUT_PAYLOAD, shape, from, control.ecn))
            }
            _ => {
                self.stats.rx_truncated += u64::from(truncated);
                self.stats.rx_empty += u64::from(!truncated);
                self.provide(index);
                None
            }
        }
    }

    /// Sends `runs` and leaves what became of each in `results`.
    fn send(&mut self) -> io::Result<()> {
        self.results.clear();
        for i in 0..self.runs.len() {
            let run = self.runs[i];
            let data = (self.tx.ptr(&run), run.len);
            self.tx_batch.set(i, data, &run.to, (run.segment, run.ecn));
            let (header, flags) = (self.tx_batch.header(i), libc::MSG_DONTWAIT as u32);
            // Without offload several runs share a buffer, which comes back only as a whole.
            let send = if self.lent.is_empty() || !self.tx.offload {
                opcode::SendMsg::new(SOCKET, header)
                    .flags(flags)
                    .build()
                    .user_data(i as u64)
            } else {
                let index = u64::from(run.index) << ZERO_COPY_INDEX;
                opcode::SendMsgZc::new(SOCKET, header)
                    .flags(flags)
                    .build()
                    .user_data(ZERO_COPY | index | i as u64)
            };
            if !self.push(&send) {
                break;
            }
            self.results.push(UNKNOWN);
        }
        self.runs.truncate(self.results.len());
        self.submit()?;
        self.drain()?;
        // They complete inline; should one ever not, its memory must not be reused before.
        while self.results.contains(&UNKNOWN) {
            match self.ring.submit_and_wait(1) {
                Err(e) if e.raw_os_error() != Some(libc::EINTR) => return Err(e),
                _ => self.drain()?,
            }
        }
        Ok(())
    }

    /// Sleeps in the ring until there is a completion.
    fn sleep(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.waking {
            let poll = opcode::PollAdd::new(WAKEUP, libc::POLLIN as u32)
                .build()
                .user_data(WAKE);
            self.waking = self.push(&poll);
        }
        let slept = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(t) => {
                let ts = Timespec::from(t);
                let args = SubmitArgs::new().timespec(&ts);
                self.ring.submitter().submit_with_args(1, &args)
            }
        };
        match slept {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(e),
            },
        }
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        if self.lent.is_empty() {
            "udp-uring"
        } else {
            "udp-uring-zc"
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.socket.local
    }

    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize> {
        self.arm()?;
        self.drain()?;
        let mut n = self.hand_out(out);
        if n == 0 && out.len() < out.capacity() {
            self.catch_up()?;
            n = self.hand_out(out);
        }
        for burst in &out[out.len() - n..] {
            self.stats.rx_bursts += 1;
            self.stats.rx_frames += burst.segments() as u64;
            self.stats.rx_bytes += burst.total_len() as u64;
        }
        Ok(n)
    }

    fn release(&mut self, burst: Burst) {
        if let Some(index) = self.pool.reclaim(burst) {
            self.provide(index);
        }
    }

    #[inline]
    fn claim(&mut self, to: &SocketAddr, len: usize) -> Option<TxFrame> {
        self.tx.claim(to, len)
    }

    #[inline]
    fn claim_marked(
        &mut self,
        to: &SocketAddr,
        (_, ecn): (u16, u8),
        len: usize,
    ) -> Option<TxFrame> {
        self.tx.claim_marked(to, ecn, len)
    }

    #[inline]
    fn claim_run<const N: usize>(
        &mut self,
        to: &SocketAddr,
        with: (u16, u8),
        len: usize,
    ) -> Option<[TxFrame; N]> {
        let run = self.tx.claim_run(to, with.1, len);
        run.or_else(|| crate::backend::claim_singly(self, to, with, len))
    }

    #[inline]
    fn commit(&mut self, frame: TxFrame) {
        self.tx.commit(frame);
    }

    fn cut(&mut self) {
        self.tx.close();
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.tx.cancel(frame);
    }
    fn flush(&mut self) -> io::Result<FlushReport> {
        let mut report = FlushReport::default();
        self.arm()?;
        self.tx.close();
        if !self.lent.is_empty() {
            // Buffers come back with notifications, also to an owner who receives nothing.
            self.catch_up()?;
        }
        let mut later = false;
        while !later {
            let most = if self.offload.on_trial() { 1 } else { BATCH };
            let runs = &mut self.runs;
            runs.clear();
            self.tx.runs(|run| {
                runs.push(run);
                runs.len() < most
            });
            if runs.is_empty() {
                break;
            }
            self.send()?;
            // First what went: it shows whether an earlier refusal was for lack of offload.
            for i in 0..self.runs.len() {
                if self.results[i] >= 0 {
                    self.offload.sent();
                    self.sent(self.runs[i], &mut report);
                }
            }
            for i in 0..self.runs.len() {
                let (run, errno) = (self.runs[i], -self.results[i]);
                if errno <= 0 {
                    continue;
                }
                let (tx, stats) = (&mut self.tx, &mut self.stats);
                match self.offload.refused(tx, run, errno, stats, &mut report) {
                    Next::Again => {}
                    Next::Later => later = true,
                    Next::Fatal(e) => return Err(io::Error::from_raw_os_error(e)),
                }
            }
        }
        if !self.lent.is_empty() {
            self.catch_up()?;
        }
        report.pending_frames = self.tx.pending();
        Ok(report)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.arm()?;
        self.drain()?;
        if !self.arrived.is_empty() {
            return Ok(());
        }
        let timeout = sleep_limit(timeout, self.tx.pending());
        self.wakeup.prepare_sleep();
        let slept = self.sleep(timeout);
        self.wakeup.cancel();
        slept?;
        self.drain()
    }

    fn wakeup(&self) -> Arc<Wakeup> {
        self.wakeup.clone()
    }

    fn rx_capacity_bytes(&self) -> usize {
        self.socket.capacity()
    }

    fn outstanding(&self) -> usize {
        self.pool.lent() - self.arrived.len() + self.tx.claimed()
    }

    fn stats(&self) -> Stats {
        let mut s = self.stats;
        self.tx.fill_stats(&mut s);
        s
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        while let Some(burst) = self.arrived.pop_front() {
            self.pool.reclaim(burst);
        }
        // Lets go of the socket now rather than when the kernel gets round to it, so that the port
        // is free again. From another thread this is refused, and then the kernel does it later.
        let submitter = self.ring.submitter();
        let _ = submitter.register_sync_cancel(None, CancelBuilder::any());
        let _ = submitter.unregister_files();
    }
}
