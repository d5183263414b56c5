//! Steering a lane to its queue. A network card picks the receive queue of a frame by a hash that
//! its user rarely knows, of addresses and ports. The lane's core at the peer listens on one queue
//! only; frames on another reach it by way of a second core. So the peer says with its
//! acknowledgements on which queue the lane's frames arrive and on which they should, and while
//! these differ the sender changes the lane's source port: its *flow*.

use crate::base::Nanos;

/// Flows that are tried before the search ends where it began. With q queues and an even hash each
/// hits with 1/q: 64 miss 8 queues once in 5,000 times.
pub const MAX_FLOWS: u16 = 64;
/// The first flow is judged this much after the first report: the very first frames may go by way of
/// the kernel, which has to find the peer. Nanoseconds.
const FIRST_NS: Nanos = 100_000_000;
/// A new flow is judged by what the peer reports this much later, and two round trips: reports of
/// frames of the flow before must have passed. Nanoseconds.
const SETTLE_NS: Nanos = 20_000_000;

/// What the peer says of a lane's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Receive queue that the latest one came in on.
    pub queue: u16,
    /// Receive queue of the lane's core.
    pub home: u16,
}

/// The search for a flow that arrives at home.
#[derive(Clone, Copy, Debug, Default)]
pub struct Steering {
    flow: u16,
    tried: u16,
    judge_at: Nanos,
    arrival: Option<Arrival>,
}

impl Steering {
    /// The flow to send on: 0, the socket's own port, to [`MAX_FLOWS`].
    pub fn flow(&self) -> u16 {
        self.flow
    }

    /// Flows tried so far besides the first.
    pub fn tried(&self) -> u16 {
        self.tried
    }

    /// The peer's latest word.
    pub fn arrival(&self) -> Option<Arrival> {
        self.arrival
    }

    /// Takes the peer's word at a smoothed round trip of `srtt` nanoseconds.
    pub fn on_arrival(&mut self, now: Nanos, srtt: Nanos, arrival: Arrival) {
        if self.arrival.replace(arrival).is_none() {
            self.judge_at = now.saturating_add(FIRST_NS);
        }
        if arrival.queue == arrival.home || now < self.judge_at {
            return;
        }
        if self.tried == MAX_FLOWS {
            // The path hashes no ports, or the card steers by a table: a port changes nothing.
            self.flow = 0;
            return;
        }
        self.tried += 1;
        self.flow = self.tried;
        self.judge_at = now
            .saturating_add(srtt.saturating_mul(2))
            .saturating_add(SETTLE_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A card with `queues` queues and a hash of the flow; reports reach the sender late.
    fn search(queues: u16, home: u16, seed: u64, delay: usize) -> (Steering, usize) {
        let hash = |flow: u16| {
            let x = (u64::from(flow) + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as u16 % queues
        };
        let (mut s, mut changes) = (Steering::default(), 0);
        let mut under_way = std::collections::VecDeque::from(vec![0; delay]);
        for step in 0..100_000 {
            under_way.push_back(s.flow());
            let flow = under_way.pop_front().unwrap_or(0);
            let before = s.flow();
            let queue = hash(flow);
            // A report each millisecond, `delay` milliseconds old.
            let srtt = delay as Nanos * 1_000_000;
            s.on_arrival(step * 1_000_000, srtt, Arrival { queue, home });
            changes += usize::from(before != s.flow());
        }
        (s, changes)
    }

    #[test]
    fn every_lane_finds_its_queue_and_stays() {
        for queues in 1..=8 {
            for home in 0..queues {
                for seed in 0..20 {
                    let (s, changes) = search(queues, home, seed * 131, 10);
                    let found = s.arrival() == Some(Arrival { queue: home, home });
                    assert!(found, "{queues} queues, home {home}, seed {seed}: {s:?}");
                    // Each change was a flow that missed: nothing was judged by an old report.
                    assert_eq!(changes, usize::from(s.flow()));
                    assert_eq!(s.tried(), s.flow());
                }
            }
        }
    }

    #[test]
    fn a_card_that_hashes_no_ports_is_left_alone_after_a_while() {
        let mut s = Steering::default();
        let stray = Arrival { queue: 0, home: 1 };
        let mut flows = Vec::new();
        for step in 0..200 {
            s.on_arrival(step * 1_000_000_000, 1_000_000, stray);
            flows.push(s.flow());
        }
        assert_eq!(flows.iter().max(), Some(&MAX_FLOWS));
        // One report sets the time of the first judgement; then come the flows, one report each.
        assert!(flows[usize::from(MAX_FLOWS) + 1..].iter().all(|&f| f == 0));
        assert_eq!(s.arrival(), Some(stray));
    }

    #[test]
    fn a_lane_at_home_keeps_the_sockets_own_port() {
        let mut s = Steering::default();
        for step in 0..100 {
            s.on_arrival(step * 1_000_000_000, 0, Arrival { queue: 3, home: 3 });
        }
        assert_eq!(s.flow(), 0);
    }
}
