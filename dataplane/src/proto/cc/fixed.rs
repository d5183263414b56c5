//! A constant rate, for links that nobody else uses.

use super::{AckSample, Controller};
use crate::base::Nanos;
use crate::proto::pacer::SUPER_PACKET;

/// Round trips shorter than this are taken as this long: the far core may be off its CPU, ns.
const MIN_RTT_NS: u64 = 1_000_000;

/// Sends at a constant rate with two round trips' worth in flight.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    rate: u64,
    rtt: Nanos,
}

impl Fixed {
    /// `rate` in bytes per second, `rtt` expected before the first sample.
    pub fn new(rate: u64, rtt: Nanos) -> Fixed {
        Fixed { rate, rtt }
    }
}

impl Controller for Fixed {
    fn on_ack(&mut self, s: &AckSample) {
        if let Some(rtt) = s.rtt {
            self.rtt = self.rtt - self.rtt / 8 + rtt / 8;
        }
    }

    fn on_pto(&mut self, _count: u32) {}

    fn on_idle_restart(&mut self, _now: Nanos) {}

    fn cwnd(&self) -> u64 {
        let rtt = self.rtt.max(MIN_RTT_NS);
        let two = 2 * u128::from(self.rate) * u128::from(rtt) / 1_000_000_000;
        two.min(1 << 40) as u64 + 4 * SUPER_PACKET
    }

    fn pacing_rate(&self) -> u64 {
        self.rate
    }

    fn name(&self) -> &'static str {
        "fixed"
    }
}
