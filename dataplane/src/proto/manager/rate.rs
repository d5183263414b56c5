//! Rationing of handshake work per source and in total, in constant memory.
//!
//! A token bucket is kept as one number, its theoretical arrival time (GCRA, ITU-T I.371). Sources hash
//! with a secret key into a fixed table, so the table cannot grow, and nobody can pick an address that
//! shares a bucket with a victim's. What remains to floods from many forged sources is the ration in
//! total; against those the cookie extension is reserved.

use std::net::IpAddr;

use crate::base::Nanos;

const BUCKETS: usize = 4096;

/// How much handshake work is done for others.
#[derive(Clone, Copy, Debug)]
pub struct RateConfig {
    /// OFFERs a second that one source may cause to be processed.
    pub per_source: u32,
    /// OFFERs of one source that may come at once.
    pub source_burst: u32,
    /// OFFERs a second of all sources together.
    pub total: u32,
    /// OFFERs of all sources that may come at once.
    pub total_burst: u32,
}

impl Default for RateConfig {
    fn default() -> Self {
        RateConfig {
            per_source: 20,
            source_burst: 10,
            total: 1000,
            total_burst: 200,
        }
    }
}

#[derive(Clone, Copy)]
struct Pace {
    interval: Nanos,
    tolerance: Nanos,
}

impl Pace {
    fn new(per_second: u32, burst: u32) -> Pace {
        let interval = 1_000_000_000 / u64::from(per_second.max(1));
        Pace {
            interval,
            tolerance: interval * u64::from(burst.max(1) - 1),
        }
    }

    /// The new state of a bucket if one more event conforms.
    fn admit(self, arrival: Nanos, now: Nanos) -> Option<Nanos> {
        let arrival = arrival.max(now);
        (arrival - now <= self.tolerance).then(|| arrival.saturating_add(self.interval))
    }
}

pub(super) struct RateLimiter {
    secret: [u8; 32],
    source: Pace,
    total: Pace,
    buckets: Box<[Nanos]>,
    all: Nanos,
}

impl RateLimiter {
    pub(super) fn new(config: RateConfig, secret: [u8; 32]) -> RateLimiter {
        RateLimiter {
            secret,
            source: Pace::new(config.per_source, config.source_burst),
            total: Pace::new(config.total, config.total_burst),
            buckets: vec![0; BUCKETS].into_boxed_slice(),
            all: 0,
        }
    }

    /// Takes one token of the source and one of all, or none of either.
    pub(super) fn admit(&mut self, from: IpAddr, now: Nanos) -> bool {
        let place = self.place(from);
        let bucket = &mut self.buckets[place];
        match (
            self.source.admit(*bucket, now),
            self.total.admit(self.all, now),
        ) {
            (Some(source), Some(all)) => {
                *bucket = source;
                self.all = all;
                true
            }
            _ => false,
        }
    }

    /// Whole IPv4 address, or the IPv6 /64: one site has all addresses of that.
    fn place(&self, from: IpAddr) -> usize {
        let mut source = [0; 9];
        match from.to_canonical() {
            IpAddr::V4(a) => source[..4].copy_from_slice(&a.octets()),
            IpAddr::V6(a) => {
                source[0] = 6;
                source[1..].copy_from_slice(&a.octets()[..8]);
                source[8] ^= 0x80;
            }
        }
        let h = blake3::keyed_hash(&self.secret, &source);
        usize::from(u16::from_le_bytes([h.as_bytes()[0], h.as_bytes()[1]])) % BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Nanos = 1_000_000_000;

    #[test]
    fn a_source_gets_its_burst_and_then_its_rate() {
        let mut r = RateLimiter::new(RateConfig::default(), [3; 32]);
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        let b: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!((0..50).filter(|_| r.admit(a, S)).count(), 10);
        assert!(r.admit(b, S), "another source is not touched");
        assert!(
            !r.admit("::ffff:192.0.2.1".parse().unwrap(), S),
            "the same host, mapped"
        );
        // 20 a second from here on.
        let n = (1..=1000)
            .filter(|ms| r.admit(a, S + ms * 1_000_000))
            .count();
        assert_eq!(n, 20);
    }

    #[test]
    fn all_sources_share_a_total_and_a_site_its_prefix() {
        let mut r = RateLimiter::new(RateConfig::default(), [3; 32]);
        let n = (0..5000u32)
            .filter(|&i| r.admit(IpAddr::V4((0x0a00_0000 + i).into()), S))
            .count();
        assert_eq!(n, 200);
        let mut r = RateLimiter::new(RateConfig::default(), [3; 32]);
        let site = 0x2001_0db8_u128 << 96;
        let n = (0..100u128)
            .filter(|i| r.admit(IpAddr::V6((site + i).into()), S))
            .count();
        assert_eq!(n, 10);
    }

    #[test]
    fn extreme_settings_and_times_do_not_overflow() {
        let config = RateConfig {
            per_source: 0,
            source_burst: u32::MAX,
            total: 0,
            total_burst: 0,
        };
        let mut r = RateLimiter::new(config, [0; 32]);
        let a = IpAddr::from([127, 0, 0, 1]);
        assert!(r.admit(a, u64::MAX - 5));
        assert!(!r.admit(a, u64::MAX - 4) || r.all == u64::MAX);
    }
}
