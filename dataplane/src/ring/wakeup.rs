//! Waking a lane core that sleeps in the kernel.
//!
//! The sleeper calls [`Wakeup::prepare_sleep`], looks at its queues once more, sleeps with
//! [`Wakeup::fd`] in its poll set, and calls [`Wakeup::finish_sleep`]. Whoever gives it work
//! publishes that work first and calls [`Wakeup::wake`] after. The two fences make it impossible
//! that the sleeper misses the work while the waker misses the flag.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// An eventfd and a flag that says whether anybody sleeps on it.
#[derive(Debug)]
pub struct Wakeup {
    fd: OwnedFd,
    sleeping: AtomicBool,
}

impl Wakeup {
    /// Makes a non-blocking eventfd; fails when the process is out of descriptors.
    pub fn new() -> io::Result<Wakeup> {
        // SAFETY: eventfd takes two integers and touches no memory of ours.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Wakeup {
            fd,
            sleeping: AtomicBool::new(false),
        })
    }

    /// The descriptor that becomes readable on a wake-up.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Wakes the sleeper, if there is one; otherwise a fence and one load.
    #[inline]
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            let one = 1u64;
            // SAFETY: writes the eight bytes of a live local to a descriptor that we own. It can
            // only fail when the counter is full, and then the sleeper is awake anyway.
            unsafe { libc::write(self.fd.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Announces sleep: work published after this call wakes the sleeper.
    pub fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Ends the announcement and empties the eventfd.
    pub fn finish_sleep(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
        let mut n = 0u64;
        // SAFETY: reads eight bytes into a live local from a non-blocking descriptor that we own.
        unsafe { libc::read(self.fd.as_raw_fd(), (&raw mut n).cast(), 8) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(w: &Wakeup) -> bool {
        let mut p = libc::pollfd {
            fd: w.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&mut p, 1, 0) == 1 }
    }

    #[test]
    fn only_a_sleeper_costs_a_syscall() {
        let w = Wakeup::new().expect("eventfd");
        w.wake();
        assert!(!readable(&w));
        w.prepare_sleep();
        w.wake();
        w.wake();
        assert!(readable(&w));
        w.finish_sleep();
        assert!(!readable(&w));
    }
}
