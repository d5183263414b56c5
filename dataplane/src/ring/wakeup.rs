//! Waking a lane core that sleeps in the kernel.

use crate::base::sync::{AtomicBool, Ordering, fence};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

/// The agreement between one sleeper and its wakers, without the kernel's part.
#[derive(Debug)]
pub struct SleepFlag(AtomicBool);

impl SleepFlag {
    /// Awake.
    pub fn new() -> SleepFlag {
        SleepFlag(AtomicBool::new(false))
    }

    /// The sleeper announces that it will sleep. It must look for work once more after this call.
    #[inline]
    pub fn prepare(&self) {
        self.0.store(true, Ordering::Relaxed);
        // Orders the announcement before the last look; pairs with the fence in `claim`.
        fence(Ordering::SeqCst);
    }

    /// The sleeper is awake again, or found work and will not sleep. `true` where no waker has
    /// claimed this sleep; otherwise that waker's signal is there or about to be.
    #[inline]
    pub fn cancel(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// A waker asks, after it made work visible, whether it has to signal: at most one waker of each
    /// sleep is told so.
    #[inline]
    pub fn claim(&self) -> bool {
        // Orders the work before the look at the flag; pairs with the fence in `prepare`.
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

impl Default for SleepFlag {
    fn default() -> Self {
        SleepFlag::new()
    }
}

/// An eventfd that a lane core polls together with its sockets, silent while the core is awake.
///
/// The core: [`prepare_sleep`](Wakeup::prepare_sleep), look at every queue once more; work there is:
/// [`cancel`](Wakeup::cancel); none: poll [`fd`](Wakeup::fd) with the sockets, then `cancel`.
/// Everybody else: make work visible, then [`wake`](Wakeup::wake).
#[derive(Debug)]
pub struct Wakeup {
    flag: SleepFlag,
    event: File,
}

impl Wakeup {
    /// Opens the eventfd. Fails where the process or the system is out of descriptors.
    pub fn new() -> io::Result<Wakeup> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Wakeup {
            flag: SleepFlag::new(),
            event: owned.into(),
        })
    }

    /// Announces that the core will sleep. Look for work once more after this call.
    #[inline]
    pub fn prepare_sleep(&self) {
        self.flag.prepare();
    }

    /// Ends the sleep, or gives up on it, and takes back a signal that came meanwhile. A signal
    /// still on its way only makes the next sleep short.
    pub fn cancel(&self) {
        self.flag.cancel();
        // Also where the flag was still up: an earlier signal may have been left behind by a sleep
        // that was announced twice, and would make every later one short.
        self.drain();
    }

    /// Wakes the core if it sleeps; call it after the work was made visible. Costs a fence and one
    /// load while the core is awake. Says whether a signal was sent.
    #[inline]
    pub fn wake(&self) -> bool {
        let asleep = self.flag.claim();
        if asleep {
            self.signal();
        }
        asleep
    }

    /// The descriptor to poll for reading; non-blocking, owned by this value.
    pub fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Takes back the signal, if there is one: the descriptor is no longer readable.
    pub fn drain(&self) {
        // The only error of a non-blocking eventfd read is "nothing there".
        let _ = (&self.event).read(&mut [0; 8]);
    }

    /// Sleeps on this descriptor alone, between [`prepare_sleep`](Wakeup::prepare_sleep) and
    /// [`cancel`](Wakeup::cancel), for at most `timeout` (`None`: without end); says whether it was
    /// woken by a signal. For cores whose backend has no descriptor of its own.
    pub fn sleep(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let ts = timeout.map(|t| libc::timespec {
            tv_sec: t.as_secs().min(i32::MAX as u64) as libc::time_t,
            tv_nsec: t.subsec_nanos().into(),
        });
        let mut poll = libc::pollfd {
            fd: self.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one live pollfd; the timeout is null or a timespec that outlives the call; a null
        // signal mask leaves signals as they are.
        let n = unsafe {
            libc::ppoll(
                &mut poll,
                1,
                ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                std::ptr::null(),
            )
        };
        match n {
            0.. => Ok(n > 0),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => Ok(false),
                e => Err(e),
            },
        }
    }

    #[cold]
    fn signal(&self) {
        // Adding 1 fails only where the counter is full, and then the descriptor is readable.
        let _ = (&self.event).write(&1u64.to_ne_bytes());
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
