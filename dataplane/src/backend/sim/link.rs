//! One direction of a simulated link, and the random numbers that decide about it.

use crate::base::Nanos;

/// IPv4 and UDP headers, counted against rate and MTU.
const HEADERS: u64 = 28;

/// How one direction of a link behaves. Probabilities are 0 to 1 per datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// One-way delay, nanoseconds.
    pub delay: Nanos,
    /// Extra delay, evenly spread from 0 to this, nanoseconds; it may reorder.
    pub jitter: Nanos,
    /// Bytes per second, headers included; 0 for no limit.
    pub rate: u64,
    /// Bytes that may wait for the link when it has a rate; what does not fit is dropped.
    pub queue: u64,
    /// Bytes in the queue from which on datagrams that are marked ECN-capable are marked CE (RFC
    /// 3168); 0 for never.
    pub mark: u64,
    /// What the link does to ECN marks besides.
    pub ecn: EcnFault,
    /// Largest packet, headers included, bytes; 0 for no limit.
    pub mtu: usize,
    /// Chance of loss.
    pub loss: f64,
    /// Chance that a burst of losses begins (Gilbert-Elliott model: everything is lost in it).
    pub burst_start: f64,
    /// Chance that a burst of losses ends, tried after each loss.
    pub burst_end: f64,
    /// Chance of a second copy.
    pub duplicate: f64,
    /// Chance that one bit is flipped.
    pub corrupt: f64,
    /// Chance of arriving late.
    pub reorder: f64,
    /// How late, nanoseconds.
    pub reorder_by: Nanos,
    /// Whether everything sent vanishes.
    pub blackhole: bool,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            delay: 50_000,
            jitter: 0,
            rate: 0,
            queue: 1 << 20,
            mark: 0,
            ecn: EcnFault::Keep,
            mtu: 0,
            loss: 0.0,
            burst_start: 0.0,
            burst_end: 0.5,
            duplicate: 0.0,
            corrupt: 0.0,
            reorder: 0.0,
            reorder_by: 100_000,
            blackhole: false,
        }
    }
}

/// What a link does to the ECN bits of a datagram.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EcnFault {
    /// Leaves them alone, as it should.
    #[default]
    Keep,
    /// Clears them.
    Bleach,
    /// Writes ECT(1) over every mark.
    Rewrite,
    /// Loses datagrams that are marked.
    Drop,
}

impl EcnFault {
    pub(super) fn apply(self, ecn: u8) -> u8 {
        match self {
            EcnFault::Bleach => 0,
            EcnFault::Rewrite if ecn != 0 => 1,
            _ => ecn,
        }
    }
}

/// What a link does with a datagram.
pub(super) enum Verdict {
    Lost,
    QueueFull,
    TooLong,
    Blackholed,
    Arrives {
        at: Nanos,
        ce: bool,
        corrupt: bool,
        late: bool,
    },
}

/// A link with its memory.
pub(super) struct LinkState {
    pub(super) link: Link,
    in_burst: bool,
    /// When the last bit queued so far has left.
    busy_until: Nanos,
}

impl LinkState {
    pub(super) fn new(link: Link) -> LinkState {
        LinkState {
            link,
            in_burst: false,
            busy_until: 0,
        }
    }

    pub(super) fn judge(&mut self, now: Nanos, len: usize, ecn: u8, rng: &mut Rng) -> Verdict {
        let link = self.link;
        let size = len as u64 + HEADERS;
        if link.blackhole {
            return Verdict::Blackholed;
        }
        if link.ecn == EcnFault::Drop && ecn != 0 {
            return Verdict::Lost;
        }
        if link.mtu > 0 && size > link.mtu as u64 {
            return Verdict::TooLong;
        }
        let (mut at, mut ce) = (now, false);
        if link.rate > 0 {
            let start = self.busy_until.max(now);
            let waiting = u128::from(start - now) * u128::from(link.rate) / 1_000_000_000;
            if waiting + u128::from(size) > u128::from(link.queue.max(size)) {
                return Verdict::QueueFull;
            }
            ce = link.mark > 0 && ecn != 0 && waiting >= u128::from(link.mark);
            let takes = u128::from(size) * 1_000_000_000 / u128::from(link.rate);
            at = start + takes as Nanos;
            self.busy_until = at;
        }
        // Behind the queue, as on a bad cable: what is lost has used its share of the rate.
        if !self.in_burst {
            self.in_burst = rng.chance(link.burst_start);
        }
        if self.in_burst {
            self.in_burst = !rng.chance(link.burst_end);
            return Verdict::Lost;
        }
        if rng.chance(link.loss) {
            return Verdict::Lost;
        }
        at += link.delay;
        if link.jitter > 0 {
            at += rng.below(link.jitter + 1);
        }
        let late = rng.chance(link.reorder);
        if late {
            at += link.reorder_by;
        }
        Verdict::Arrives {
            at,
            ce,
            corrupt: rng.chance(link.corrupt),
            late,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, the same everywhere. Not for keys.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator that `seed` alone determines.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not zero.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True with probability `p`; consumes nothing when `p` is zero, so that a fault switched off
    /// leaves the others where they were.
    pub fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && ((self.next_u64() >> 11) as f64) < p * (1u64 << 53) as f64
    }
}
