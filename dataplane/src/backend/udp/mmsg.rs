//! UDP through `sendmmsg` and `recvmmsg`: one system call for a batch of super-packets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use super::msg::{RxBatch, TxBatch};
use super::offload::{Next, Offload};
use super::socket::UdpSocket;
use super::{DropCounter, UdpConfig, fatal, sleep_limit};
use crate::backend::burst::{BurstPool, FRAME_PAD, RX_STRIDE};
use crate::backend::tx::{Run, TxQueue};
use crate::backend::{Backend, Burst, FlushReport, Stats, TxFrame, poll};
use crate::ring::Wakeup;

/// Super-packets of one system call, in either direction.
const BATCH: usize = 32;

/// A UDP socket driven by batched system calls.
pub struct Mmsg {
    socket: UdpSocket,
    wakeup: Arc<Wakeup>,
    pool: BurstPool,
    rx: RxBatch,
    /// Buffers that the next receive fills, in the order of its messages. They stay set up from
    /// one call to the next: most calls find few messages, and many none.
    ready: Vec<u16>,
    /// How many of the first of them the last receive used up.
    spent: usize,
    drops: DropCounter,
    tx: TxQueue,
    tx_batch: TxBatch,
    runs: Vec<Run>,
    offload: Offload,
    stats: Stats,
}

impl Mmsg {
    /// Binds the socket and maps the buffers.
    pub fn open(config: &UdpConfig) -> io::Result<Mmsg> {
        let socket = UdpSocket::open(config)?;
        let mut tx = TxQueue::new(config.tx_buffers).map_err(io::Error::other)?;
        tx.offload = socket.gso;
        Ok(Mmsg {
            wakeup: Arc::new(Wakeup::new()?),
            pool: BurstPool::new(config.rx_buffers).map_err(io::Error::other)?,
            rx: RxBatch::new(BATCH),
            ready: Vec::with_capacity(BATCH),
            spent: 0,
            drops: DropCounter::default(),
            tx,
            tx_batch: TxBatch::new(BATCH, socket.v6),
            runs: Vec::with_capacity(BATCH),
            offload: Offload::new(socket.gso),
            stats: Stats::default(),
            socket,
        })
    }

    /// The descriptor, to be polled.
    pub(in crate::backend) fn fd(&self) -> RawFd {
        self.socket.fd()
    }

    /// Sets up a buffer for each message that has none, the one returned last first.
    fn refill(&mut self) {
        const LEN: usize = RX_STRIDE - FRAME_PAD;
        let mut set = |pool: &BurstPool, i: usize, index: u16| {
            self.rx.set(i, pool.at(index, FRAME_PAD, LEN), LEN);
        };
        for i in (0..std::mem::take(&mut self.spent)).rev() {
            match self.pool.take() {
                Some(index) => self.ready[i] = index,
                // Fewer messages then: the last one's buffer takes this place.
                None => {
                    self.ready.swap_remove(i);
                }
            }
            if let Some(&index) = self.ready.get(i) {
                set(&self.pool, i, index);
            }
        }
        while self.ready.len() < BATCH
            && let Some(index) = self.pool.take()
        {
            set(&self.pool, self.ready.len(), index);
            self.ready.push(index);
        }
    }

    /// Why segmentation offload is off, if it is.
    pub fn offload_note(&self) -> Option<String> {
        self.offload.note()
    }
}

impl Backend for Mmsg {
    fn name(&self) -> &'static str {
        "udp-mmsg"
    }

    fn local_addr(&self) -> SocketAddr {
        self.socket.local
    }

    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize> {
        let room = (out.capacity() - out.len()).min(BATCH);
        if room == 0 {
            return Ok(0);
        }
        self.refill();
        let n = self.ready.len().min(room);
        if n == 0 {
            self.stats.rx_no_buffer += 1;
            return Ok(0);
        }
        // SAFETY: the buffers in `ready`, which the first `n` messages name, are out of the pool
        // and not lent to anybody.
        let got = unsafe { self.rx.recv(self.socket.fd(), n) };
        let got = match got {
            Ok(got) => got,
            Err(e) => {
                return match e.raw_os_error().unwrap_or(0) {
                    libc::EAGAIN | libc::EINTR => Ok(0),
                    errno if fatal(errno) => Err(e),
                    // What an ICMP message or a shortage left behind: the socket lives on.
                    _ => {
                        self.stats.rx_errors += 1;
                        Ok(0)
                    }
                };
            }
        };
        self.spent = got;
        let before = out.len();
        for i in 0..got {
            let index = self.ready[i];
            let m = self.rx.get(i);
            if let Some(now) = m.control.drops {
                self.drops.update(now, &mut self.stats.rx_kernel_drops);
            }
            let from = match m.from {
                Some(from) if m.len > 0 && !m.truncated => from,
                _ => {
                    self.stats.rx_truncated += u64::from(m.truncated);
                    self.stats.rx_empty += u64::from(!m.truncated);
                    self.pool.put(index);
                    continue;
                }
            };
            let shape = (m.len, m.control.segment.unwrap_or(m.len));
            let burst = self.pool.lend(index, FRAME_PAD, shape, from, m.control.ecn);
            self.stats.rx_frames += burst.segments() as u64;
            self.stats.rx_bytes += m.len as u64;
            out.push(burst);
        }
        let n = out.len() - before;
        self.stats.rx_bursts += n as u64;
        Ok(n)
    }

    fn release(&mut self, burst: Burst) {
        if let Some(index) = self.pool.reclaim(burst) {
            self.pool.put(index);
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
        self.tx.close();
        loop {
            let runs = &mut self.runs;
            runs.clear();
            self.tx.runs(|run| {
                runs.push(run);
                runs.len() < BATCH
            });
            let Some(&oldest) = runs.first() else {
                break;
            };
            for (i, run) in runs.iter().enumerate() {
                let data = (self.tx.ptr(run), run.len);
                self.tx_batch.set(i, data, &run.to, (run.segment, run.ecn));
            }
            // SAFETY: a run consists of committed frames, so its bytes are initialised, mapped and
            // in nobody's hands.
            match unsafe { self.tx_batch.send(self.socket.fd(), self.runs.len()) } {
                Ok(n) => {
                    for &run in &self.runs[..n] {
                        self.offload.sent();
                        self.tx.sent(run, &mut self.stats, &mut report);
                    }
                    if n == 0 {
                        break;
                    }
                }
                Err(e) => {
                    let errno = e.raw_os_error().unwrap_or(0);
                    let (tx, stats) = (&mut self.tx, &mut self.stats);
                    match self.offload.refused(tx, oldest, errno, stats, &mut report) {
                        Next::Again => {}
                        Next::Later => break,
                        Next::Fatal(_) => return Err(e),
                    }
                }
            }
        }
        report.pending_frames = self.tx.pending();
        Ok(report)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = sleep_limit(timeout, self.tx.pending());
        self.wakeup.prepare_sleep();
        let slept = poll::readable([self.socket.fd(), self.wakeup.fd()], timeout);
        self.wakeup.cancel();
        slept
    }

    fn wakeup(&self) -> Arc<Wakeup> {
        self.wakeup.clone()
    }

    fn rx_capacity_bytes(&self) -> usize {
        self.socket.capacity()
    }

    fn outstanding(&self) -> usize {
        self.pool.lent() + self.tx.claimed()
    }

    fn stats(&self) -> Stats {
        let mut s = self.stats;
        self.tx.fill_stats(&mut s);
        s
    }
}
