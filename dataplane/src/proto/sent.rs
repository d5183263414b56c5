//! The log of sent bursts: round-trip samples, delivery rate and bytes in flight without a record
//! per packet.
//!
//! Frames that leave within a small fraction of a round trip share one entry. The delivery rate
//! follows draft-cheng-iccrg-delivery-rate-estimation with bursts in the place of packets.

use crate::base::Nanos;
use std::collections::VecDeque;

/// Entries kept; with one entry per 1/128 round trip this covers eight round trips in flight.
const BURSTS: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Burst {
    first_pn: u64,
    frames: u64,
    bytes: u64,
    bytes_before: u64,
    sent_at: Nanos,
    delivered: u64,
    delivered_at: Nanos,
    first_sent_at: Nanos,
    app_limited: bool,
}

/// What an acknowledgement says about the path's rate.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RateSample {
    /// Bytes per second, where the interval was long enough to tell.
    pub rate: Option<u64>,
    /// The sender, not the path, was the limit when the frames were sent.
    pub app_limited: bool,
    /// Bytes delivered when the newest acknowledged frame was sent.
    pub prior_delivered: u64,
    /// When the newest acknowledged frame was sent; `None` where that is no longer known.
    pub sent_at: Option<Nanos>,
    /// Bytes that this acknowledgement reports as newly delivered.
    pub acked_bytes: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct SentLog {
    bursts: VecDeque<Burst>,
    next_pn: u64,
    bytes_sent: u64,
    covered_bytes: u64,
    covered_pn: u64,
    mean_frame: u64,
    delivered: u64,
    delivered_at: Nanos,
    first_sent_at: Nanos,
    app_limited_until: u64,
    last_sent_at: Nanos,
}

impl SentLog {
    /// An empty log; `frame` is the expected frame length in bytes.
    pub fn new(frame: u64) -> SentLog {
        SentLog {
            bursts: VecDeque::with_capacity(BURSTS),
            next_pn: 0,
            bytes_sent: 0,
            covered_bytes: 0,
            covered_pn: 0,
            mean_frame: frame.max(1),
            delivered: 0,
            delivered_at: 0,
            first_sent_at: 0,
            app_limited_until: 0,
            last_sent_at: 0,
        }
    }

    /// The packet number that the next frame gets; also the count of frames sent.
    pub fn next_pn(&self) -> u64 {
        self.next_pn
    }

    /// When the latest frame was sent.
    pub fn last_sent_at(&self) -> Nanos {
        self.last_sent_at
    }

    /// Bytes that the peer is known to have received.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Notes a frame of `len` bytes; frames within `granularity` of the first share an entry. `idle`
    /// says that nothing was in flight. Gives its packet number.
    pub fn on_sent(&mut self, now: Nanos, len: u64, granularity: Nanos, idle: bool) -> u64 {
        if idle {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        let pn = self.next_pn;
        match self.bursts.back_mut() {
            Some(b) if !idle && now.saturating_sub(b.sent_at) <= granularity => {
                b.frames += 1;
                b.bytes += len;
            }
            _ => {
                // Never above the capacity, so never a reallocation.
                if self.bursts.len() == BURSTS {
                    self.bursts.pop_front();
                }
                self.bursts.push_back(Burst {
                    first_pn: pn,
                    frames: 1,
                    bytes: len,
                    bytes_before: self.bytes_sent,
                    sent_at: now,
                    delivered: self.delivered,
                    delivered_at: self.delivered_at,
                    first_sent_at: self.first_sent_at,
                    app_limited: self.app_limited_until > 0,
                });
            }
        }
        self.bytes_sent += len;
        self.next_pn += 1;
        self.last_sent_at = now;
        pn
    }

    /// The sender ran out of things to send with `in_flight` bytes under way: rates measured until
    /// these are delivered say nothing about the path.
    pub fn on_app_limited(&mut self, in_flight: u64) {
        self.app_limited_until = (self.delivered + in_flight).max(1);
    }

    /// Bytes of `frames` frames in flight, by the mean length of what is above the newest
    /// acknowledged packet number.
    pub fn in_flight_bytes(&self, frames: u64) -> u64 {
        let above = self.next_pn.saturating_sub(self.covered_pn);
        match self
            .bytes_sent
            .saturating_sub(self.covered_bytes)
            .checked_div(above)
        {
            Some(mean) => frames.saturating_mul(mean),
            None => frames.saturating_mul(self.mean_frame),
        }
    }

    /// Notes that `fresh` more frames were received and that `largest` (below
    /// [`SentLog::next_pn`], never lower than before) is the newest of them.
    pub fn on_acked(&mut self, now: Nanos, largest: u64, fresh: u64) -> RateSample {
        let advanced = largest >= self.covered_pn;
        while self.bursts.get(1).is_some_and(|b| b.first_pn <= largest) {
            self.bursts.pop_front();
        }
        let burst = self
            .bursts
            .front()
            .copied()
            .filter(|b| b.first_pn <= largest);
        if advanced {
            let upto = match burst {
                Some(b) => {
                    let n = (largest + 1 - b.first_pn).min(b.frames);
                    b.bytes_before + b.bytes * n / b.frames
                }
                // Forgotten: what is still logged began here.
                None => self
                    .bursts
                    .front()
                    .map_or(self.bytes_sent, |b| b.bytes_before),
            };
            let frames = largest + 1 - self.covered_pn;
            let mean = upto.saturating_sub(self.covered_bytes) / frames.max(1);
            if mean > 0 {
                self.mean_frame = mean;
            }
            self.covered_bytes = upto.max(self.covered_bytes);
            self.covered_pn = largest + 1;
        }
        let acked_bytes = fresh.saturating_mul(self.mean_frame);
        let mut sample = RateSample {
            acked_bytes,
            ..RateSample::default()
        };
        if fresh > 0 {
            self.delivered += acked_bytes;
            self.delivered_at = now;
        }
        if self.app_limited_until > 0 && self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
        let Some(b) = burst.filter(|_| advanced && fresh > 0) else {
            return sample;
        };
        sample.sent_at = Some(b.sent_at);
        sample.prior_delivered = b.delivered;
        sample.app_limited = b.app_limited;
        let ack_elapsed = now.saturating_sub(b.delivered_at);
        let send_elapsed = b.sent_at.saturating_sub(b.first_sent_at);
        let interval = ack_elapsed.max(send_elapsed);
        let bytes = self.delivered - b.delivered;
        if interval > 0 {
            let rate = u128::from(bytes) * 1_000_000_000 / u128::from(interval);
            sample.rate = Some(rate.min(u128::from(u64::MAX >> 8)) as u64);
        }
        self.first_sent_at = b.sent_at;
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_the_rate_of_a_steady_flow() {
        let mut log = SentLog::new(1000);
        // 1,000 bytes per microsecond, acknowledged 50 us later.
        let mut last = RateSample::default();
        for t in 0..1000u64 {
            log.on_sent(t * 1000, 1000, 0, t == 0);
            if t >= 50 {
                last = log.on_acked(t * 1000, t - 50, 1);
            }
        }
        assert_eq!(last.rate, Some(1_000_000_000));
        assert_eq!(last.sent_at, Some(949_000));
        assert_eq!(log.in_flight_bytes(50), 50_000);
        assert_eq!(log.delivered(), 950_000);
    }

    #[test]
    fn a_full_log_forgets_the_oldest() {
        let mut log = SentLog::new(1000);
        for t in 0..5000u64 {
            log.on_sent(t, 1000, 0, false);
        }
        assert_eq!(log.bursts.capacity(), BURSTS);
        assert_eq!(log.on_acked(6000, 10, 11).sent_at, None);
        assert_eq!(log.on_acked(6000, 4999, 1).sent_at, Some(4999));
        assert_eq!(log.in_flight_bytes(0), 0);
    }
}
