//! Two backends joined by shared memory: no kernel on the data path.
//!
//! A super-packet that one side committed is the other side's burst, in the same bytes; only its
//! index travels, and comes back when the burst is released. So a frame is never copied, and a slow
//! receiver makes [`Backend::claim`] fail instead of losing anything.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::frame::{Region, next_owner};
use super::tx::{MAX_SUPER_LEN, Run, TxQueue};
use super::{Backend, Burst, FlushReport, Stats, TxFrame, poll};
use crate::ring::Wakeup;

/// A super-packet on its way.
struct Parcel {
    index: u16,
    offset: usize,
    len: usize,
    segment: usize,
    frames: u16,
    ecn: u8,
}

/// One end of a pair; see [`pair`].
pub struct MemBackend {
    local: SocketAddr,
    remote: SocketAddr,
    tx: TxQueue,
    batch: Vec<Run>,
    to_peer: Sender<Parcel>,
    back_from_peer: Receiver<u16>,
    rx_region: Arc<Region>,
    from_peer: Receiver<Parcel>,
    back_to_peer: Sender<u16>,
    lent: usize,
    owner: u32,
    buffers: u16,
    wakeup: Arc<Wakeup>,
    peer_wakeup: Arc<Wakeup>,
    stats: Stats,
}

/// Makes two joined ends with `buffers` super-packets of 64 KiB in each direction; frames claimed
/// for any address but the other end's are dropped as unreachable.
///
/// Fails when the memory or the eventfds cannot be had.
pub fn pair(a: SocketAddr, b: SocketAddr, buffers: u16) -> io::Result<(MemBackend, MemBackend)> {
    let queue = || TxQueue::new(buffers).map_err(io::Error::other);
    let (tx_a, tx_b) = (queue()?, queue()?);
    let (wake_a, wake_b) = (Arc::new(Wakeup::new()?), Arc::new(Wakeup::new()?));
    // Every buffer is in one place at a time, so a queue of `buffers` entries is never full.
    let n = usize::from(buffers);
    let (a_to_b, b_from_a) = bounded(n);
    let (b_to_a, a_from_b) = bounded(n);
    let (a_back, b_back_in) = bounded(n);
    let (b_back, a_back_in) = bounded(n);
    let (region_a, region_b) = (tx_a.region().clone(), tx_b.region().clone());
    let end = |(local, remote), tx, to_peer, back_from_peer, rx_region, from_peer, back_to_peer| {
        move |wakeup, peer_wakeup| MemBackend {
            local,
            remote,
            tx,
            batch: Vec::with_capacity(n),
            to_peer,
            back_from_peer,
            rx_region,
            from_peer,
            back_to_peer,
            lent: 0,
            owner: next_owner(),
            buffers,
            wakeup,
            peer_wakeup,
            stats: Stats::default(),
        }
    };
    let end_a = end((a, b), tx_a, a_to_b, a_back_in, region_b, a_from_b, a_back);
    let end_b = end((b, a), tx_b, b_to_a, b_back_in, region_a, b_from_a, b_back);
    Ok((end_a(wake_a.clone(), wake_b.clone()), end_b(wake_b, wake_a)))
}

impl MemBackend {
    fn reap(&mut self) {
        while let Ok(index) = self.back_from_peer.try_recv() {
            self.tx.attach(index);
        }
    }
}

impl Backend for MemBackend {
    fn name(&self) -> &'static str {
        "mem"
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize> {
        let mut n = 0;
        while out.len() < out.capacity() {
            let Ok(p) = self.from_peer.try_recv() else {
                break;
            };
            let ptr = self.rx_region.at(p.offset, p.len);
            let shape = (p.len, p.segment);
            self.lent += 1;
            self.stats.rx_bursts += 1;
            self.stats.rx_frames += u64::from(p.frames);
            self.stats.rx_bytes += p.len as u64;
            // SAFETY: the peer took the buffer out of its queue when it sent the parcel and reuses
            // it only after `release` sent the index back; the bytes are committed frames; `Drop`
            // keeps the mapping while a burst is out.
            out.push(unsafe { Burst::new(ptr, shape, self.remote, p.ecn, p.index, self.owner) });
            n += 1;
        }
        Ok(n)
    }

    fn release(&mut self, burst: Burst) {
        let (owner, index) = (burst.owner, burst.index);
        std::mem::forget(burst);
        debug_assert_eq!(owner, self.owner, "burst released to another backend");
        if owner == self.owner {
            self.lent -= 1;
            // Fails only when the peer is gone, and then nobody needs the buffer.
            let _ = self.back_to_peer.try_send(index);
            self.peer_wakeup.wake();
        }
    }

    fn claim(&mut self, to: &SocketAddr, len: usize) -> Option<TxFrame> {
        self.claim_marked(to, (0, 0), len)
    }

    fn claim_marked(
        &mut self,
        to: &SocketAddr,
        (_, ecn): (u16, u8),
        len: usize,
    ) -> Option<TxFrame> {
        if let Some(f) = self.tx.claim_marked(to, ecn, len) {
            return Some(f);
        }
        self.reap();
        self.tx.claim_marked(to, ecn, len)
    }

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
        self.reap();
        self.tx.close();
        let mut report = FlushReport::default();
        let batch = &mut self.batch;
        batch.clear();
        self.tx.runs(|run| {
            batch.push(run);
            batch.len() < batch.capacity()
        });
        for run in self.batch.drain(..) {
            if run.to != self.remote {
                let cause = super::DropCause::Unreachable;
                self.tx.refuse(run, cause, &mut self.stats, &mut report);
                continue;
            }
            self.tx.detach(run, &mut self.stats, &mut report);
            let parcel = Parcel {
                index: run.index,
                offset: run.offset,
                len: run.len,
                segment: run.segment,
                frames: run.frames,
                ecn: run.ecn,
            };
            if self.to_peer.try_send(parcel).is_err() {
                // The peer is gone: as with a wire, the frames are lost behind this end.
                self.tx.attach(run.index);
            }
        }
        if report.sent_frames > 0 {
            self.peer_wakeup.wake();
        }
        report.pending_frames = self.tx.pending();
        Ok(report)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.wakeup.prepare_sleep();
        let slept = if self.from_peer.is_empty() {
            poll::readable([self.wakeup.fd()], timeout)
        } else {
            Ok(())
        };
        self.wakeup.cancel();
        slept
    }

    fn wakeup(&self) -> Arc<Wakeup> {
        self.wakeup.clone()
    }

    fn rx_capacity_bytes(&self) -> usize {
        usize::from(self.buffers) * MAX_SUPER_LEN
    }

    fn outstanding(&self) -> usize {
        self.lent + self.tx.claimed()
    }

    fn stats(&self) -> Stats {
        let mut s = self.stats;
        self.tx.fill_stats(&mut s);
        s
    }
}

impl Drop for MemBackend {
    fn drop(&mut self) {
        if self.lent > 0 {
            self.rx_region.leak();
        }
    }
}
