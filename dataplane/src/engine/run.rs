//! The loop of a lane core's thread: spin under load, sleep when idle.

use super::core::Core;
use crate::backend::Backend;
use crate::base::{Clock, Nanos};
use crate::obs::{Counter, CounterSet};
use std::time::Duration;

/// Rounds without work before the core thinks of sleeping. A round with an empty receive costs
/// about a microsecond, so this spins for roughly the time that a wake-up costs.
const SPIN_ROUNDS: u32 = 32;
/// Where nothing comes for longer than that, rounds are wasted: so many are left where nothing came
/// in them again and again, and all of them are tried once in [`RETRY_SPIN`] times.
const LEAST_SPIN: u32 = 2;
const RETRY_SPIN: u32 = 64;
/// A yield that takes longer has given the CPU to somebody with work of their own, for the length
/// of a scheduler's slice. One who sleeps instead gets the CPU back as soon as there is work.
const CROWDED: Nanos = 200_000;
/// Idle times without a yield after one that was crowded.
const CROWDED_FOR: u32 = 64;
/// In the midst of a bulk transfer a core that has caught up lets frames gather for so long instead
/// of polling for each: a timer costs less than the empty polls, and unlike a wait for the socket
/// it costs the sending side nothing. Network cards hold interrupts back for as long.
const NAP: Nanos = 200_000;
/// No nap is taken that would be shorter: the timer alone takes a few microseconds.
const MIN_NAP: Nanos = 5_000;
/// Naps in a row after which the transfer is taken to have paused.
const MAX_NAPS: u32 = 20;
/// Longest sleep: bounds how late a command without a wake-up is seen.
const MAX_SLEEP: Duration = Duration::from_millis(100);

/// Runs `core` on the calling thread until it is told to stop.
pub fn run<B: Backend>(core: &mut Core<B>, clock: Clock, counters: &CounterSet) {
    tight_timers();
    let wakeup = core.backend().wakeup();
    let mut idle = 0;
    // Idle times for which the CPU is taken to have other work.
    let mut crowded = 0;
    let mut spin = Spin::new();
    while !core.stopped() {
        let now = clock.now();
        if core.step(now) {
            if idle > 0 {
                spin.paid(idle);
            }
            idle = 0;
            if core.light() {
                core.announce();
                nap(core, now);
            }
            continue;
        }
        idle += 1;
        if idle < MAX_NAPS && core.bulk() && nap(core, now) {
            continue;
        }
        if idle < spin.rounds && crowded == 0 {
            // The application may live on this very core: let it run.
            std::thread::yield_now();
            if clock.now().saturating_sub(now) > CROWDED {
                crowded = CROWDED_FOR;
            }
            continue;
        }
        crowded = crowded.saturating_sub(1);
        spin.wasted();
        wakeup.prepare_sleep();
        // Whatever came before the flag was up is seen by this round; what comes after wakes us.
        let now = clock.now();
        if !core.step(now) && !core.stopped() {
            let until = core.next_timeout(now).map_or(MAX_SLEEP, |t| {
                Duration::from_nanos(t.saturating_sub(clock.now())).min(MAX_SLEEP)
            });
            if !until.is_zero() {
                counters.add(Counter::CoreSleeps, 1);
                if core.backend_mut().wait(Some(until)).is_err() {
                    counters.add(Counter::RxErrors, 1);
                    // A broken wait must not become a hot loop.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        wakeup.cancel();
        idle = 0;
    }
}

/// Lets frames gather, unless a timer is due before that is worth it.
fn nap<B: Backend>(core: &Core<B>, now: Nanos) -> bool {
    let due = core
        .next_timeout(now)
        .map_or(NAP, |t| t.saturating_sub(now));
    if due >= MIN_NAP {
        std::thread::sleep(Duration::from_nanos(due.min(NAP)));
    }
    due >= MIN_NAP
}

/// How many rounds without work are worth their time.
struct Spin {
    rounds: u32,
    wasted: u32,
}

impl Spin {
    fn new() -> Spin {
        Spin {
            rounds: SPIN_ROUNDS,
            wasted: 0,
        }
    }

    /// Work came after so many of them.
    fn paid(&mut self, after: u32) {
        self.rounds = self.rounds.max(after.saturating_mul(2)).min(SPIN_ROUNDS);
        self.wasted = 0;
    }

    /// None came.
    fn wasted(&mut self) {
        self.wasted += 1;
        self.rounds = if self.wasted.is_multiple_of(RETRY_SPIN) {
            SPIN_ROUNDS
        } else {
            (self.rounds / 2).max(LEAST_SPIN)
        };
    }
}

/// Timers of this thread fire within a microsecond: pacing and ack delays are tens of them.
fn tight_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1000, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_ends_where_it_never_pays_and_returns_where_it_does() {
        let mut s = Spin::new();
        let mut spent = 0;
        for _ in 0..10 * RETRY_SPIN {
            spent += s.rounds;
            s.wasted();
        }
        assert!(spent < 10 * RETRY_SPIN * 2 * LEAST_SPIN, "{spent}");
        // That was a time to try all of them again.
        assert_eq!(s.rounds, SPIN_ROUNDS);
        s.wasted();
        s.paid(1);
        assert!(s.rounds < SPIN_ROUNDS);
        s.paid(20);
        assert_eq!(s.rounds, SPIN_ROUNDS);
    }
}
