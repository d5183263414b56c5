//! What a session takes: lanes, memory, and what it can have in flight.

use super::{Config, Lanes};
use crate::base::limits;
use crate::stage::{Lane, bufs_per_lane};

/// Lanes of a session where nothing asks for more.
const AUTO_LANES: usize = 4;

impl Config {
    /// Lanes that the stated path needs, see [`limits::lanes_for`]; `None` where none is stated. May be
    /// more than there can be.
    pub fn lanes_for_path(&self) -> Option<u64> {
        let (rate, rtt) = (self.path.rate?, self.path.rtt_ms?);
        Some(limits::lanes_for(
            rate.0,
            rtt.saturating_mul(1_000_000),
            self.session.window_slots,
            self.symbol_len(),
        ))
    }

    fn symbol_len(&self) -> usize {
        limits::symbol_len_for_mtu(self.node.mtu.clamp(limits::MIN_MTU, limits::MAX_MTU))
    }

    /// Lanes of each session, at least; with `"auto"` a node of many cores has one for each. Those that the
    /// stated path needs are taken as far as the budget holds them.
    pub fn lanes(&self) -> usize {
        match self.session.lanes {
            Lanes::Count(n) => n,
            Lanes::Auto => {
                let n = self.lanes_for_path().unwrap_or(AUTO_LANES as u64);
                let n = n.min(self.memory.budget.0 / self.lane_bytes().max(1));
                (n as usize).clamp(AUTO_LANES, limits::MAX_LANES)
            }
        }
    }

    /// Bytes of the slot arena that a lane takes: the windows of both directions, scratch and repair
    /// buffers, of full slots at this MTU.
    fn lane_bytes(&self) -> u64 {
        (bufs_per_lane(self.session.window_slots) as u64)
            .saturating_mul(Lane::buf_len(self.symbol_len()).next_multiple_of(4096) as u64)
    }

    /// Bytes of the slot arena that one session takes.
    pub fn session_bytes(&self) -> u64 {
        self.session_bytes_of(self.lanes() as u64)
    }

    /// Bytes of the slot arena that a session of `lanes` lanes would take.
    pub fn session_bytes_of(&self, lanes: u64) -> u64 {
        lanes.saturating_mul(self.lane_bytes())
    }

    /// Payload that one session can have in flight, bytes.
    pub fn window_bytes(&self) -> u64 {
        let slots = self.lanes().saturating_mul(self.session.window_slots);
        (slots as u64).saturating_mul((limits::MAX_DATA_SYMBOLS * self.symbol_len()) as u64)
    }
}
