//! The bottleneck and the way behind it.

use super::{Loss, Path, Rng, Shaper};
use ctp96::base::Nanos;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// What became of frames in the network.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinkStats {
    pub(crate) queue_drops: u64,
    pub(crate) lost: u64,
    pub(crate) corrupted: u64,
    pub(crate) duplicated: u64,
}

struct Queued<T> {
    len: u64,
    ce: bool,
    item: T,
}

struct Arriving<T> {
    at: Nanos,
    ce: bool,
    item: T,
}

/// A direction: queue, then loss, then delay. Frames leave it in order but for those made late.
pub(crate) struct Link<T> {
    path: Path,
    rng: Rng,
    /// Lossless and of any rate where false: the way back.
    forward: bool,
    queue: VecDeque<Queued<T>>,
    queued: u64,
    /// When the head of the queue began to leave.
    head_from: Nanos,
    step_at: usize,
    tokens: f64,
    tokens_at: Nanos,
    in_burst: bool,
    pipe: VecDeque<Arriving<T>>,
    late: BinaryHeap<Reverse<(Nanos, u64)>>,
    late_items: Vec<Option<Arriving<T>>>,
    late_free: Vec<usize>,
    pub(crate) stats: LinkStats,
}

impl<T: Clone> Link<T> {
    pub(crate) fn new(path: &Path, seed: u64, forward: bool) -> Link<T> {
        let tokens = match path.shaper {
            Shaper::Policer(burst) => burst as f64,
            Shaper::TailDrop(_) => 0.0,
        };
        Link {
            path: path.clone(),
            rng: Rng(seed),
            forward,
            queue: VecDeque::new(),
            queued: 0,
            head_from: 0,
            step_at: 0,
            tokens,
            tokens_at: 0,
            in_burst: false,
            pipe: VecDeque::new(),
            late: BinaryHeap::new(),
            late_items: Vec::new(),
            late_free: Vec::new(),
            stats: LinkStats::default(),
        }
    }

    fn rate_at(&mut self, t: Nanos) -> u64 {
        while self
            .path
            .rate
            .get(self.step_at + 1)
            .is_some_and(|s| s.0 <= t)
        {
            self.step_at += 1;
        }
        self.path.rate[self.step_at].1
    }

    /// Takes a frame of `len` bytes on the wire. Gives how long it will wait for the link, where it
    /// is not dropped.
    pub(crate) fn send(&mut self, now: Nanos, len: u64, item: T) -> Option<Nanos> {
        if !self.forward {
            if self.rng.chance(self.path.ack_loss) {
                self.stats.lost += 1;
                return None;
            }
            self.depart(now, false, item);
            return Some(0);
        }
        match self.path.shaper {
            Shaper::Policer(burst) => {
                let rate = self.rate_at(now) as f64;
                let fresh = (now - self.tokens_at) as f64 * rate / 1e9;
                self.tokens = (self.tokens + fresh).min(burst as f64);
                self.tokens_at = now;
                if self.tokens < len as f64 {
                    self.stats.queue_drops += 1;
                    return None;
                }
                self.tokens -= len as f64;
                self.lose_or_depart(now, false, item);
                Some(0)
            }
            Shaper::TailDrop(limit) => {
                self.advance(now);
                if self.queued + len > limit {
                    self.stats.queue_drops += 1;
                    return None;
                }
                if self.queue.is_empty() {
                    self.head_from = now;
                }
                let rate = self.rate_at(now).max(1);
                let gone = (now - self.head_from) as f64 * rate as f64 / 1e9;
                let wait = (self.queued as f64 - gone).max(0.0) / rate as f64 * 1e9;
                let ce = self.path.mark > 0 && self.queued >= self.path.mark;
                self.queued += len;
                self.queue.push_back(Queued { len, ce, item });
                Some(wait as Nanos)
            }
        }
    }

    /// Lets everything leave the queue that is through by `now`.
    fn advance(&mut self, now: Nanos) {
        while let Some(head) = self.queue.front() {
            let len = head.len;
            let at = self.head_leaves(len);
            if at > now {
                return;
            }
            self.head_from = at;
            self.queued -= len;
            if let Some(q) = self.queue.pop_front() {
                self.lose_or_depart(at, q.ce, q.item);
            }
        }
    }

    fn head_leaves(&mut self, len: u64) -> Nanos {
        let rate = self.rate_at(self.head_from).max(1);
        self.head_from + (len * 1_000_000_000 / rate).max(1)
    }

    fn lose_or_depart(&mut self, at: Nanos, ce: bool, item: T) {
        let lost = match self.path.loss {
            Loss::None => false,
            Loss::Random(p) => self.rng.chance(p),
            Loss::Bursts { start, end } => {
                self.in_burst = if self.in_burst {
                    !self.rng.chance(end)
                } else {
                    self.rng.chance(start)
                };
                self.in_burst
            }
        };
        if lost {
            self.stats.lost += 1;
        } else if self.rng.chance(self.path.corrupt) {
            self.stats.corrupted += 1;
        } else {
            if self.rng.chance(self.path.duplicate) {
                self.stats.duplicated += 1;
                self.depart(at, ce, item.clone());
            }
            self.depart(at, ce, item);
        }
    }

    fn depart(&mut self, at: Nanos, ce: bool, item: T) {
        if let Some((from, to)) = self.path.blackhole
            && (from..to).contains(&at)
        {
            self.stats.lost += 1;
            return;
        }
        let due = at + self.path.rtt / 2;
        if self.rng.chance(self.path.reorder) {
            let at = due + (self.rng.unit() * self.path.reorder_by as f64) as Nanos;
            let entry = Some(Arriving { at, ce, item });
            let id = match self.late_free.pop() {
                Some(id) => {
                    self.late_items[id] = entry;
                    id
                }
                None => {
                    self.late_items.push(entry);
                    self.late_items.len() - 1
                }
            };
            self.late.push(Reverse((at, id as u64)));
        } else {
            self.pipe.push_back(Arriving { at: due, ce, item });
        }
    }

    /// The next frame that has arrived by `now`, and whether it is marked.
    pub(crate) fn arrived(&mut self, now: Nanos) -> Option<(bool, T)> {
        self.advance(now);
        let late = self.late.peek().map(|Reverse((at, _))| *at);
        let pipe = self.pipe.front().map(|a| a.at);
        let take_late = match (late, pipe) {
            (Some(l), Some(p)) => l < p,
            (Some(_), None) => true,
            _ => false,
        };
        let entry = if take_late {
            if late? > now {
                return None;
            }
            let Reverse((_, id)) = self.late.pop()?;
            self.late_free.push(id as usize);
            self.late_items[id as usize].take()?
        } else {
            if pipe? > now {
                return None;
            }
            self.pipe.pop_front()?
        };
        Some((entry.ce, entry.item))
    }

    /// When something may arrive next.
    pub(crate) fn next_arrival(&mut self) -> Option<Nanos> {
        let late = self.late.peek().map(|Reverse((at, _))| *at);
        let pipe = match self.pipe.front() {
            Some(a) => Some(a.at),
            None => {
                let len = self.queue.front().map(|q| q.len);
                len.map(|len| self.head_leaves(len) + self.path.rtt / 2)
            }
        };
        [late, pipe].into_iter().flatten().min()
    }
}
