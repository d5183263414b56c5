//! Round-trip time estimation, RFC 9002 section 5, and the probe timeout of section 6.2.1.

use crate::base::Nanos;

/// Timer granularity of the probe timeout (RFC 9002 kGranularity), nanoseconds.
pub const GRANULARITY_NS: Nanos = 1_000_000;
/// Acknowledgement delays above this are not believed, nanoseconds.
pub const MAX_ACK_DELAY_NS: Nanos = 25_000_000;
/// Longest probe timeout after backoff, nanoseconds: progress resumes soon after an outage ends.
pub const MAX_PTO_NS: Nanos = 1_000_000_000;

/// Smoothed round-trip time of one path.
#[derive(Clone, Copy, Debug)]
pub struct RttEstimator {
    latest: Nanos,
    smoothed: Nanos,
    var: Nanos,
    min: Nanos,
    has_sample: bool,
}

impl RttEstimator {
    /// Starts from `initial` nanoseconds (the handshake's round trip where it is known).
    pub fn new(initial: Nanos) -> RttEstimator {
        let initial = initial.max(1);
        RttEstimator {
            latest: initial,
            smoothed: initial,
            var: initial / 2,
            min: initial,
            has_sample: false,
        }
    }

    /// Takes a sample; `ack_delay` is what the peer says it waited. Gives the adjusted sample.
    pub fn update(&mut self, sample: Nanos, ack_delay: Nanos) -> Nanos {
        let sample = sample.max(1);
        self.latest = sample;
        if !self.has_sample {
            self.has_sample = true;
            (self.min, self.smoothed, self.var) = (sample, sample, sample / 2);
            return sample;
        }
        self.min = self.min.min(sample);
        let delay = ack_delay.min(MAX_ACK_DELAY_NS);
        // A peer cannot push the estimate below the smallest round trip ever seen.
        let adjusted = if sample >= self.min.saturating_add(delay) {
            sample - delay
        } else {
            sample
        };
        self.var = (self.var * 3 + self.smoothed.abs_diff(adjusted)) / 4;
        self.smoothed = (self.smoothed * 7 + adjusted) / 8;
        adjusted
    }

    /// Whether a sample was ever taken.
    pub fn has_sample(&self) -> bool {
        self.has_sample
    }

    /// Latest sample, nanoseconds, not adjusted.
    pub fn latest(&self) -> Nanos {
        self.latest
    }

    /// Smoothed round-trip time, nanoseconds.
    pub fn smoothed(&self) -> Nanos {
        self.smoothed
    }

    /// Smallest sample, nanoseconds.
    pub fn min(&self) -> Nanos {
        self.min
    }

    /// Mean deviation, nanoseconds.
    pub fn var(&self) -> Nanos {
        self.var
    }

    /// The larger of latest and smoothed round trip, which losses are judged by (RFC 9002 section
    /// 6.1.2), nanoseconds.
    pub fn recent(&self) -> Nanos {
        self.latest.max(self.smoothed)
    }

    /// Probe timeout without backoff, nanoseconds, for a peer that delays acks by `max_ack_delay`.
    pub fn pto(&self, max_ack_delay: Nanos) -> Nanos {
        self.smoothed + (4 * self.var).max(GRANULARITY_NS) + max_ack_delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_rfc_9002() {
        let mut r = RttEstimator::new(333_000_000);
        assert_eq!(r.update(100_000, 0), 100_000);
        assert_eq!((r.smoothed(), r.var(), r.min()), (100_000, 50_000, 100_000));
        // 180 us with 20 us of delay: adjusted 160, var (3*50+60)/4, smoothed (7*100+160)/8.
        assert_eq!(r.update(180_000, 20_000), 160_000);
        assert_eq!((r.smoothed(), r.var()), (107_500, 52_500));
        // A delay that would undercut the minimum is not believed.
        assert_eq!(r.update(110_000, 20_000), 110_000);
        assert_eq!(r.pto(0), r.smoothed() + GRANULARITY_NS);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut r = RttEstimator::new(0);
        r.update(u64::MAX / 64, u64::MAX);
        r.update(0, u64::MAX);
        assert!(r.pto(0) > 0 && r.recent() > 0);
    }
}
