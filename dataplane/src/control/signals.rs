//! Signals of the daemon, taken by waiting for them: no handler ever interrupts anything.
//!
//! SIGTERM, SIGINT and SIGHUP are blocked in every thread and taken by one. SIGPIPE is ignored by
//! the Rust runtime already: a client that goes away shows as an error of the write.

use std::io;
use std::mem::MaybeUninit;
use std::time::Duration;

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(i32);

impl StopSignal {
    /// Its name, such as `SIGTERM`.
    pub fn name(self) -> &'static str {
        match self.0 {
            libc::SIGINT => "SIGINT",
            libc::SIGHUP => "SIGHUP",
            _ => "SIGTERM",
        }
    }
}

/// The blocked signals, ready to be waited for.
#[derive(Clone, Copy)]
pub struct Signals {
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals in this thread and in every thread that it starts from now on. Call it
    /// before the first one is started.
    ///
    /// # Errors
    /// The kernel's answer; none is known for these arguments.
    pub fn block() -> io::Result<Signals> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initialises the set that `as_mut_ptr` points to; sigaddset then
        // works on an initialised one, with valid signal numbers.
        let set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            set.assume_init()
        };
        // SAFETY: `set` is a valid signal set, and a null old set is allowed.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if rc == 0 {
            Ok(Signals { set })
        } else {
            Err(io::Error::from_raw_os_error(rc))
        }
    }

    /// The next signal, or `None` after `timeout` (or a little earlier).
    pub fn wait(&self, timeout: Duration) -> Option<StopSignal> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as libc::c_long,
        };
        // SAFETY: the set and the timespec are valid for the call, and a null info is allowed.
        let signal = unsafe { libc::sigtimedwait(&self.set, std::ptr::null_mut(), &timeout) };
        (signal > 0).then_some(StopSignal(signal))
    }
}

/// Asks this process to stop, as `kill` would.
pub fn raise_stop() {
    // SAFETY: kill takes two integers; the target is this process.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_waited_for() {
        std::thread::spawn(|| {
            let signals = Signals::block().expect("valid signals");
            assert_eq!(signals.wait(Duration::ZERO), None);
            // To this thread alone: the other threads of the test process do not block it.
            // SAFETY: pthread_self is this thread, which runs, and the signal number is valid.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGINT) };
            let got = signals.wait(Duration::from_secs(5)).expect("it is pending");
            assert_eq!(got.name(), "SIGINT");
        })
        .join()
        .expect("the thread finishes");
    }
}
