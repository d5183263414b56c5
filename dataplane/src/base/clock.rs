//! Time as a number: nanoseconds of a monotonic clock, passed in as an argument.

use std::time::Instant;

/// Nanoseconds since the clock's own start. Protocol code only compares and subtracts these.
pub type Nanos = u64;

/// A monotonic clock whose zero is the moment it was made.
///
/// The protocol core never reads one: the engine does, once a batch, and hands the value down, so
/// that the simulator can hand down virtual time instead.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts a clock at zero.
    pub fn start() -> Clock {
        Clock {
            start: Instant::now(),
        }
    }

    /// Nanoseconds since the start; good for 584 years.
    pub fn now(&self) -> Nanos {
        self.start.elapsed().as_nanos() as Nanos
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::start()
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the same for every process of a host, so that a stamp made by
/// one daemon can be compared by another on the same host.
pub fn host_monotonic_ns() -> Nanos {
    let mut ts = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `ts` is a valid, writable timespec and CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut ts) };
    ts.tv_sec as u64 * 1_000_000_000 + ts.tv_nsec as u64
}
