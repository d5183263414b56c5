//! The log of sent bursts: round-trip samples, delivery rate and bytes in flight without a record
//! per packet.
//!
//! Frames that leave within a small fraction of a round trip share one entry. The delivery rate
//! follows draft-cheng-iccrg-delivery-rate-estimation with bursts in the place of packets; what the
//! path had delivered when a burst left is the path's to know ([`Mark`]), since lanes share it.

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
    mark: Mark,
}

/// How far the path was when a burst left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Bytes that the path had delivered.
    pub delivered: u64,
    /// When it had.
    pub delivered_at: Nanos,
    /// When the newest frame that was delivered then had been sent.
    pub first_sent_at: Nanos,
    /// The sender, not the path, was the limit.
    pub app_limited: bool,
}

/// What an acknowledgement says of the frames that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// When the newest acknowledged frame was sent, and how far the path was; `None` where that is
    /// no longer known.
    pub sent: Option<(Nanos, Mark)>,
    /// Bytes that this acknowledgement reports as newly delivered.
    pub bytes: u64,
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

    /// Bytes sent since the lane opened.
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// Notes a frame of `len` bytes; frames within `granularity` of the first share an entry, unless
    /// `alone` asks for a new one. `mark` is asked for each new entry. Gives its packet number.
    pub fn on_sent(
        &mut self,
        now: Nanos,
        len: u64,
        granularity: Nanos,
        alone: bool,
        mark: impl FnOnce() -> Mark,
    ) -> u64 {
        let pn = self.next_pn;
        match self.bursts.back_mut() {
            Some(b) if !alone && now.saturating_sub(b.sent_at) <= granularity => {
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
                    mark: mark(),
                });
            }
        }
        self.bytes_sent += len;
        self.next_pn += 1;
        self.last_sent_at = now;
        pn
    }

    /// Notes `n` more frames of `len` bytes, sent together with the latest one.
    #[inline]
    pub fn on_more(&mut self, n: u64, len: u64) {
        if let Some(b) = self.bursts.back_mut() {
            b.frames += n;
            b.bytes += n * len;
        }
        self.bytes_sent += n * len;
        self.next_pn += n;
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
    pub fn on_acked(&mut self, largest: u64, fresh: u64) -> Acked {
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
        Acked {
            sent: burst
                .filter(|_| advanced && fresh > 0)
                .map(|b| (b.sent_at, b.mark)),
            bytes: fresh.saturating_mul(self.mean_frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_when_and_how_far() {
        let mut log = SentLog::new(1000);
        for t in 0..1000u64 {
            let mark = || Mark {
                delivered: t,
                ..Mark::default()
            };
            log.on_sent(t * 1000, 1000, 0, t == 0, mark);
            if t >= 50 {
                let a = log.on_acked(t - 50, 1);
                let (at, mark) = a.sent.expect("is logged");
                assert_eq!(
                    (at, mark.delivered, a.bytes),
                    ((t - 50) * 1000, t - 50, 1000)
                );
            }
        }
        assert_eq!(log.in_flight_bytes(50), 50_000);
        assert_eq!(log.bytes_sent(), 1_000_000);
        assert_eq!(log.on_acked(949, 0).sent, None);
    }

    #[test]
    fn a_full_log_forgets_the_oldest() {
        let mut log = SentLog::new(1000);
        for t in 0..5000u64 {
            log.on_sent(t, 1000, 0, false, Mark::default);
        }
        assert_eq!(log.bursts.capacity(), BURSTS);
        assert_eq!(log.on_acked(10, 11).sent, None);
        assert_eq!(log.on_acked(4999, 1).sent.map(|s| s.0), Some(4999));
        assert_eq!(log.in_flight_bytes(0), 0);
    }
}
