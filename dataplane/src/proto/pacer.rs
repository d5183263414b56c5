//! A token bucket that releases whole super-packets, so that no timer runs per frame.

use crate::base::Nanos;

/// Bytes that one GSO super-packet may hold; the pacer releases up to this much at a time.
pub const SUPER_PACKET: u64 = 65_536;
/// A stalled core may catch up on this much time at once, nanoseconds: shared cores lose slices
/// of some hundred microseconds, and the bandwidth of that time should not be lost with them.
const CATCH_UP_NS: u64 = 200_000;
/// The bucket holds that, at least two bursts, and never more than this, bytes.
const BUCKET: u64 = 16 * SUPER_PACKET;
/// Slow senders release about this much time's worth at once rather than 64 KiB, nanoseconds: an eighth
/// of the round trip within these bounds, since queues of short paths hold little.
const QUANTUM_NS: std::ops::RangeInclusive<u64> = 125_000..=1_000_000;

/// Paces one lane.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    tokens: i64,
    last: Nanos,
    in_burst: bool,
    span: Nanos,
}

fn bytes_in(rate: u64, ns: Nanos) -> u64 {
    // Dividing 128 bits is a call of some 40 ns; it is needed only for spans of seconds.
    let bytes = match rate.checked_mul(ns) {
        Some(product) => product / 1_000_000_000,
        None => (u128::from(rate) * u128::from(ns) / 1_000_000_000).min(1 << 40) as u64,
    };
    bytes.min(1 << 40)
}

impl Pacer {
    /// Full of tokens for one super-packet.
    pub fn new(now: Nanos) -> Pacer {
        Pacer {
            tokens: SUPER_PACKET as i64,
            last: now,
            in_burst: false,
            span: *QUANTUM_NS.end(),
        }
    }

    /// Tells the shortest round trip of the path, nanoseconds.
    pub fn set_rtt(&mut self, rtt: Nanos) {
        self.span = (rtt / 8).clamp(*QUANTUM_NS.start(), *QUANTUM_NS.end());
    }

    fn quantum(&self, rate: u64) -> i64 {
        bytes_in(rate, self.span).clamp(1, SUPER_PACKET) as i64
    }

    /// Whether a frame may leave now at `rate` bytes per second. A burst that began goes on until
    /// the tokens are used; after that, none begins before a quantum has gathered.
    pub fn ready(&mut self, now: Nanos, rate: u64) -> bool {
        if now > self.last {
            let fresh = bytes_in(rate, now - self.last);
            // Time advances only by what it bought: a slow rate polled often loses no fractions.
            if fresh > 0 {
                let cap = bytes_in(rate, CATCH_UP_NS).min(BUCKET) as i64;
                self.tokens = (self.tokens + fresh as i64).min(cap.max(2 * self.quantum(rate)));
                // `fresh` is at most 2^40, so the product may need more than 64 bits.
                let paid = match fresh.checked_mul(1_000_000_000) {
                    Some(product) => product / rate.max(1),
                    None => (u128::from(fresh) * 1_000_000_000 / u128::from(rate.max(1))) as u64,
                };
                self.last += paid.min(now - self.last);
            }
        }
        if self.in_burst {
            self.in_burst = self.tokens > 0;
        } else {
            self.in_burst = self.tokens >= self.quantum(rate);
        }
        self.in_burst
    }

    /// How many frames of `len` bytes the burst that [`Pacer::ready`] allowed still has.
    pub fn frames_left(&self, len: u64) -> u64 {
        (self.tokens.max(0) as u64).div_ceil(len.max(1))
    }

    /// Pays for a frame of `len` bytes.
    pub fn on_sent(&mut self, len: u64) {
        self.tokens -= len as i64;
    }

    /// When the next burst may begin at `rate` bytes per second.
    pub fn next_burst(&self, rate: u64) -> Nanos {
        let missing = (self.quantum(rate) - self.tokens).max(0) as u128;
        let wait = missing * 1_000_000_000 / u128::from(rate.max(1));
        self.last
            .saturating_add(wait.min(10_000_000_000) as u64)
            .saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(rate: u64, frame: u64, dur: Nanos) -> (u64, u64, u64) {
        let (mut p, mut now, mut sent, mut bursts, mut biggest) = (Pacer::new(0), 0, 0, 0, 0);
        while now < dur {
            let mut burst = 0;
            while p.ready(now, rate) {
                p.on_sent(frame);
                burst += frame;
            }
            sent += burst;
            biggest = biggest.max(burst);
            bursts += 1;
            now = p.next_burst(rate).max(now + 1);
        }
        (sent, bursts, biggest)
    }

    #[test]
    fn keeps_the_rate_in_super_packets() {
        for rate in [1_000_000, 100_000_000, 5_000_000_000u64] {
            let (sent, bursts, biggest) = drive(rate, 1448, 1_000_000_000);
            let off = (sent as f64 / rate as f64 - 1.0).abs();
            assert!(
                off < 0.02 || sent < rate + 2 * SUPER_PACKET,
                "{rate} {sent}"
            );
            assert!(sent as f64 > rate as f64 * 0.98);
            assert!(biggest <= 2 * SUPER_PACKET + 1448);
            assert!(bursts <= (rate / SUPER_PACKET).max(1100) + 2, "{bursts}");
        }
    }

    #[test]
    fn a_stall_is_made_up_for_within_bounds() {
        let mut p = Pacer::new(0);
        let mut sent = 0;
        while p.ready(1_000_000_000, 5_000_000_000) {
            p.on_sent(1448);
            sent += 1448;
        }
        assert!(sent <= BUCKET + 1448 && sent >= 1_000_000);
    }
}
