//! What of a lane's bytes in flight is on the wire, and not in the peer's socket.
//!
//! The peer says how much its socket holds. On a long path nearly everything in flight is between the
//! hosts, where no socket has to hold it; there the limit alone would be the rate.

use crate::base::Nanos;

/// Of the smallest round trip this much may be the two hosts' scheduling rather than the wire,
/// nanoseconds: on short paths the limit stays what the peer says.
const HOSTS_NS: Nanos = 500_000;
/// Room beyond the limit over what was delivered in one round trip: with two, a flow that grows can
/// double each round trip, as it does at the start.
const GAIN: u64 = 2;

/// Measures what one lane has delivered in a round trip.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OnWire {
    since: Nanos,
    bytes: u64,
    latest: u64,
    before: u64,
}

impl OnWire {
    /// Takes newly delivered bytes; `min_rtt` is the lane's smallest round trip.
    pub(super) fn on_delivered(&mut self, now: Nanos, bytes: u64, min_rtt: Nanos) {
        self.bytes = self.bytes.saturating_add(bytes);
        let span = now.saturating_sub(self.since);
        if span < min_rtt.max(HOSTS_NS) {
            return;
        }
        let wire = u128::from(min_rtt.saturating_sub(HOSTS_NS));
        let held = u128::from(self.bytes) * wire / u128::from(span);
        self.before = self.latest;
        self.latest = u64::try_from(held).unwrap_or(u64::MAX);
        (self.since, self.bytes) = (now, 0);
    }

    /// Bytes that may be in flight where the peer's socket holds `limit`.
    pub(super) fn limit(&self, limit: u64) -> u64 {
        let wire = self.latest.max(self.before).saturating_mul(GAIN);
        limit.saturating_add(wire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_path_gets_no_more_than_the_peer_says() {
        let mut w = OnWire::default();
        for t in 1..1000 {
            w.on_delivered(t * 100_000, 1_000_000, 400_000);
        }
        assert_eq!(w.limit(1000), 1000);
    }

    #[test]
    fn a_long_one_gets_what_is_on_the_wire_besides() {
        let mut w = OnWire::default();
        // 1 GB/s over 20.5 ms: 20 MB of it between the hosts.
        for t in 1..1000 {
            w.on_delivered(t * 100_000, 100_000, 20_500_000);
        }
        let room = w.limit(1 << 20) - (1 << 20);
        assert!((39_000_000..41_000_000).contains(&room), "{room}");
        // A pause takes it back.
        w.on_delivered(2_000_000_000, 0, 20_500_000);
        w.on_delivered(4_000_000_000, 0, 20_500_000);
        w.on_delivered(6_000_000_000, 0, 20_500_000);
        assert_eq!(w.limit(1 << 20), 1 << 20);
        w.on_delivered(u64::MAX, u64::MAX, u64::MAX);
        assert!(w.limit(u64::MAX) == u64::MAX);
    }
}
