//! A number that threads can sleep on until it changes: the kernel's futex, or under loom a model
//! of it (the kernel, too, compares and queues under one lock).

#[cfg(not(loom))]
pub(super) use linux::Futex;
#[cfg(loom)]
pub(super) use model::Futex;

#[cfg(not(loom))]
mod linux {
    use crate::base::sync::{AtomicU32, Ordering};
    use std::{
        ptr::{from_ref, null},
        time::Duration,
    };

    pub(in crate::ring) struct Futex(AtomicU32);

    impl Futex {
        pub(in crate::ring) fn new() -> Futex {
            Futex(AtomicU32::new(0))
        }

        pub(in crate::ring) fn load(&self) -> u32 {
            self.0.load(Ordering::Relaxed)
        }

        /// Adds one and wakes every sleeper.
        pub(in crate::ring) fn bump_and_wake(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            // SAFETY: the address is a live, aligned u32; FUTEX_WAKE reads no other argument.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.0.as_ptr(),
                    libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                    i32::MAX,
                );
            }
        }

        /// Sleeps while the number is `seen`, at most for `timeout`; may return early.
        pub(in crate::ring) fn sleep(&self, seen: u32, timeout: Option<Duration>) {
            let ts = timeout.map(|t| libc::timespec {
                tv_sec: t.as_secs().min(i32::MAX as u64) as libc::time_t,
                tv_nsec: t.subsec_nanos().into(),
            });
            // SAFETY: the address is a live, aligned u32, and the timeout is null or points at a
            // timespec that outlives the call. Every error (EAGAIN, EINTR, ETIMEDOUT) means "look
            // again", which the caller does.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.0.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    seen,
                    ts.as_ref().map_or(null(), from_ref),
                );
            }
        }
    }
}

#[cfg(loom)]
mod model {
    use loom::sync::{Condvar, Mutex};
    use std::time::Duration;

    pub(in crate::ring) struct Futex(Mutex<u32>, Condvar);

    impl Futex {
        pub(in crate::ring) fn new() -> Futex {
            Futex(Mutex::new(0), Condvar::new())
        }

        pub(in crate::ring) fn load(&self) -> u32 {
            *self.0.lock().expect("loom mutexes are never poisoned")
        }

        pub(in crate::ring) fn bump_and_wake(&self) {
            *self.0.lock().expect("loom mutexes are never poisoned") += 1;
            self.1.notify_all();
        }

        pub(in crate::ring) fn sleep(&self, seen: u32, _timeout: Option<Duration>) {
            let guard = self.0.lock().expect("loom mutexes are never poisoned");
            if *guard == seen {
                drop(self.1.wait(guard));
            }
        }
    }
}
