//! A network in virtual time with seeded faults.
//!
//! A [`SimNet`] joins any number of [`SimBackend`]s. Nothing happens by itself: frames are judged
//! when they are flushed, and arrive when [`SimNet::advance_to`] passes their time. The same seed
//! and the same calls give the same run, to the byte; the seed is printed when a test fails.

mod link;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use link::{EcnFault, Link, Rng};
use link::{LinkState, Verdict};

use super::burst::{BurstPool, FRAME_PAD};
use super::tx::{MAX_SEGMENTS, MAX_SUPER_LEN, Run, TxQueue};
use super::{Backend, Burst, DropCause, FlushReport, Stats, TxFrame};
use crate::base::Nanos;
use crate::ring::Wakeup;

/// What became of the datagrams of a [`SimNet`]:
/// `sent + duplicated == delivered + lost + queue_full + too_long + blackholed + no_such_peer +
/// inbox_full + in_flight`, at any time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimStats {
    /// Flushed by an endpoint.
    pub sent: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Put into an endpoint's inbox.
    pub delivered: u64,
    /// Lost at random or in a burst.
    pub lost: u64,
    /// Dropped because a link's queue was full.
    pub queue_full: u64,
    /// Longer than a link's MTU allows.
    pub too_long: u64,
    /// Swallowed by a link that was down.
    pub blackholed: u64,
    /// Sent to an address without an endpoint.
    pub no_such_peer: u64,
    /// Dropped because an endpoint's inbox was full.
    pub inbox_full: u64,
    /// Still on the way.
    pub in_flight: u64,
    /// Delivered with a bit flipped.
    pub corrupted: u64,
    /// Sent behind a later one on purpose.
    pub reordered: u64,
    /// Marked CE by a queue.
    pub ce_marked: u64,
}

struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    ecn: u8,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Inbox {
    queue: VecDeque<Datagram>,
    bytes: usize,
    limit: usize,
    dropped: u64,
}

struct Net {
    seed: u64,
    rng: Rng,
    now: Nanos,
    next: u64,
    default_link: Link,
    /// Ordered maps: a hash map's order would differ from run to run.
    links: BTreeMap<(SocketAddr, SocketAddr), LinkState>,
    inboxes: BTreeMap<SocketAddr, Inbox>,
    /// Arrival time, then order of sending; the datagram's place in `slots`.
    events: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    slots: Vec<Option<Datagram>>,
    free_slots: Vec<usize>,
    spare: Vec<Vec<u8>>,
    stats: SimStats,
}

impl Net {
    fn copy(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut v = self.spare.pop().unwrap_or_default();
        v.clear();
        v.extend_from_slice(bytes);
        v
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, ecn: u8, bytes: &[u8]) {
        self.stats.sent += 1;
        let (now, default) = (self.now, self.default_link);
        let link = self
            .links
            .entry((from, to))
            .or_insert_with(|| LinkState::new(default));
        let copies = if self.rng.chance(link.link.duplicate) {
            2
        } else {
            1
        };
        self.stats.duplicated += copies - 1;
        for _ in 0..copies {
            let Some(link) = self.links.get_mut(&(from, to)) else {
                continue;
            };
            let ecn = link.link.ecn.apply(ecn);
            let (at, ce, corrupt, late) = match link.judge(now, bytes.len(), ecn, &mut self.rng) {
                Verdict::Lost => {
                    self.stats.lost += 1;
                    continue;
                }
                Verdict::QueueFull => {
                    self.stats.queue_full += 1;
                    continue;
                }
                Verdict::TooLong => {
                    self.stats.too_long += 1;
                    continue;
                }
                Verdict::Blackholed => {
                    self.stats.blackholed += 1;
                    continue;
                }
                Verdict::Arrives {
                    at,
                    ce,
                    corrupt,
                    late,
                } => (at, ce, corrupt, late),
            };
            let mut data = self.copy(bytes);
            if corrupt {
                let bit = self.rng.below(data.len() as u64 * 8);
                data[(bit / 8) as usize] ^= 1 << (bit % 8);
                self.stats.corrupted += 1;
            }
            self.stats.reordered += u64::from(late);
            self.stats.ce_marked += u64::from(ce);
            let datagram = Datagram {
                from,
                to,
                ecn: if ce { 3 } else { ecn },
                bytes: data,
            };
            let slot = match self.free_slots.pop() {
                Some(slot) => {
                    self.slots[slot] = Some(datagram);
                    slot
                }
                None => {
                    self.slots.push(Some(datagram));
                    self.slots.len() - 1
                }
            };
            self.events.push(Reverse((at, self.next, slot)));
            self.next += 1;
            self.stats.in_flight += 1;
        }
    }

    fn advance_to(&mut self, now: Nanos) -> usize {
        let mut delivered = 0;
        self.now = self.now.max(now);
        while let Some(&Reverse((at, _, slot))) = self.events.peek() {
            if at > self.now {
                break;
            }
            self.events.pop();
            self.free_slots.push(slot);
            self.stats.in_flight -= 1;
            let Some(d) = self.slots[slot].take() else {
                continue;
            };
            match self.inboxes.get_mut(&d.to) {
                None => {
                    self.stats.no_such_peer += 1;
                    self.spare.push(d.bytes);
                }
                Some(inbox) if inbox.bytes + d.bytes.len() > inbox.limit => {
                    self.stats.inbox_full += 1;
                    inbox.dropped += 1;
                    self.spare.push(d.bytes);
                }
                Some(inbox) => {
                    self.stats.delivered += 1;
                    delivered += 1;
                    inbox.bytes += d.bytes.len();
                    inbox.queue.push_back(d);
                }
            }
        }
        delivered
    }
}

/// A handle to the network: makes endpoints, sets links, moves time.
#[derive(Clone)]
pub struct SimNet(Arc<Mutex<Net>>);

impl SimNet {
    /// An empty network at time zero whose links are all like `link`.
    pub fn new(seed: u64, link: Link) -> SimNet {
        SimNet(Arc::new(Mutex::new(Net {
            seed,
            rng: Rng::new(seed),
            now: 0,
            next: 0,
            default_link: link,
            links: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            events: BinaryHeap::new(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            spare: Vec::new(),
            stats: SimStats::default(),
        })))
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The seed that reproduces this run.
    pub fn seed(&self) -> u64 {
        self.net().seed
    }

    /// Virtual time, nanoseconds.
    pub fn now(&self) -> Nanos {
        self.net().now
    }

    /// Adds an endpoint whose inbox holds `inbox_bytes` of payload, the counterpart of a socket's
    /// receive queue. Fails when the address is taken or memory is short.
    pub fn endpoint(&self, addr: SocketAddr, inbox_bytes: usize) -> io::Result<SimBackend> {
        // First, because a backend takes its inbox along when it is dropped.
        if self.net().inboxes.contains_key(&addr) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let backend = SimBackend::new(self.clone(), addr, inbox_bytes)?;
        let inbox = Inbox {
            limit: inbox_bytes,
            ..Inbox::default()
        };
        self.net().inboxes.insert(addr, inbox);
        Ok(backend)
    }

    /// Changes the link from one address to another, one direction only; what is on the way stays
    /// on the way.
    pub fn set_link(&self, from: SocketAddr, to: SocketAddr, link: Link) {
        let mut net = self.net();
        let state = net
            .links
            .entry((from, to))
            .or_insert_with(|| LinkState::new(link));
        state.link = link;
    }

    /// The link from one address to another, to be changed and set again.
    pub fn link(&self, from: SocketAddr, to: SocketAddr) -> Link {
        let net = self.net();
        net.links
            .get(&(from, to))
            .map_or(net.default_link, |s| s.link)
    }

    /// When the next datagram arrives, if any is on the way.
    pub fn next_arrival(&self) -> Option<Nanos> {
        self.net().events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Moves time forward to `now` (never back) and delivers what is due by then; says how many
    /// datagrams reached an inbox.
    pub fn advance_to(&self, now: Nanos) -> usize {
        self.net().advance_to(now)
    }

    /// What became of all datagrams so far.
    pub fn stats(&self) -> SimStats {
        self.net().stats
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "simulated network: seed {:#x}, stopped at {} ns, {:?}",
                self.seed, self.now, self.stats
            );
        }
    }
}

/// One endpoint of a [`SimNet`].
pub struct SimBackend {
    net: SimNet,
    addr: SocketAddr,
    capacity: usize,
    pool: BurstPool,
    tx: TxQueue,
    runs: Vec<Run>,
    wakeup: Arc<Wakeup>,
    stats: Stats,
}

const BUFFERS: u16 = 64;

impl SimBackend {
    fn new(net: SimNet, addr: SocketAddr, capacity: usize) -> io::Result<SimBackend> {
        let mut tx = TxQueue::new(BUFFERS).map_err(io::Error::other)?;
        // Every frame meets its own fate.
        tx.offload = false;
        Ok(SimBackend {
            net,
            addr,
            capacity,
            pool: BurstPool::new(BUFFERS).map_err(io::Error::other)?,
            tx,
            runs: Vec::with_capacity(usize::from(BUFFERS) * MAX_SEGMENTS),
            wakeup: Arc::new(Wakeup::new()?),
            stats: Stats::default(),
        })
    }

    /// Takes datagrams that would have arrived joined (same peer, same length, a shorter last one)
    /// out of the inbox into buffer `index`.
    fn join(&mut self, index: u16) -> Option<Burst> {
        let mut net = self.net.net();
        let net = &mut *net;
        let inbox = net.inboxes.get_mut(&self.addr)?;
        let first = inbox.queue.pop_front()?;
        let (from, ecn, segment) = (first.from, first.ecn, first.bytes.len());
        let (mut at, mut frames, mut next) = (0, 0, Some(first));
        while let Some(d) = next.take() {
            let n = d.bytes.len();
            let ptr = self.pool.at(index, FRAME_PAD + at, n);
            // SAFETY: `at` checked the range, the buffer is taken and not lent, and the source is
            // a separate vector.
            unsafe { std::ptr::copy_nonoverlapping(d.bytes.as_ptr(), ptr.as_ptr(), n) };
            at += n;
            frames += 1;
            inbox.bytes -= n;
            net.spare.push(d.bytes);
            let more = n == segment && frames < MAX_SEGMENTS;
            next = inbox.queue.pop_front_if(|d| {
                more && d.from == from
                    && d.ecn == ecn
                    && d.bytes.len() <= segment
                    && at + d.bytes.len() <= MAX_SUPER_LEN
            });
        }
        Some(self.pool.lend(index, FRAME_PAD, (at, segment), from, ecn))
    }
}

impl Backend for SimBackend {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize> {
        let before = out.len();
        while out.len() < out.capacity() {
            let Some(index) = self.pool.take() else {
                self.stats.rx_no_buffer += 1;
                break;
            };
            let Some(burst) = self.join(index) else {
                self.pool.put(index);
                break;
            };
            self.stats.rx_bursts += 1;
            self.stats.rx_frames += burst.segments() as u64;
            self.stats.rx_bytes += burst.total_len() as u64;
            out.push(burst);
        }
        Ok(out.len() - before)
    }

    fn release(&mut self, burst: Burst) {
        if let Some(index) = self.pool.reclaim(burst) {
            self.pool.put(index);
        }
    }

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

    fn commit(&mut self, frame: TxFrame) {
        self.tx.commit(frame);
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.tx.cancel(frame);
    }

    fn flush(&mut self) -> io::Result<FlushReport> {
        let mut report = FlushReport::default();
        self.tx.close();
        let runs = &mut self.runs;
        runs.clear();
        self.tx.runs(|run| {
            runs.push(run);
            true
        });
        let mut net = self.net.net();
        for run in self.runs.drain(..) {
            if run.to.is_ipv4() != self.addr.is_ipv4() {
                let cause = DropCause::Unreachable;
                self.tx.refuse(run, cause, &mut self.stats, &mut report);
                continue;
            }
            // SAFETY: a run consists of committed frames, so its bytes are initialised, mapped and
            // in nobody's hands.
            let bytes = unsafe { std::slice::from_raw_parts(self.tx.ptr(&run).as_ptr(), run.len) };
            net.send(self.addr, run.to, run.ecn, bytes);
            self.tx.sent(run, &mut self.stats, &mut report);
        }
        report.pending_frames = self.tx.pending();
        Ok(report)
    }

    /// Returns at once: time is the simulation's to move.
    fn wait(&mut self, _timeout: Option<Duration>) -> io::Result<()> {
        self.wakeup.cancel();
        Ok(())
    }

    fn wakeup(&self) -> Arc<Wakeup> {
        self.wakeup.clone()
    }

    fn rx_capacity_bytes(&self) -> usize {
        self.capacity
    }

    fn outstanding(&self) -> usize {
        self.pool.lent() + self.tx.claimed()
    }

    fn stats(&self) -> Stats {
        let mut s = self.stats;
        self.tx.fill_stats(&mut s);
        s.rx_kernel_drops = self
            .net
            .net()
            .inboxes
            .get(&self.addr)
            .map_or(0, |i| i.dropped);
        s
    }
}

impl Drop for SimBackend {
    fn drop(&mut self) {
        self.net.net().inboxes.remove(&self.addr);
    }
}

#[cfg(test)]
mod tests;
