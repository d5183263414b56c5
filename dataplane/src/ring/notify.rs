//! Waiting for a lane event on an application thread or in a task.

use super::futex::Futex;
use crate::base::sync::{AtomicU32, Ordering, fence};
#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(not(loom))]
use std::sync::Mutex;
use std::{
    sync::TryLockError,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Set in `interested` while a task's waker is stored; the other bits count sleeping threads.
const WAKER: u32 = 1 << 31;

/// Wakes those who wait for a condition that another thread makes true.
///
/// The condition itself lives elsewhere (the state of a slot, a flag): first make it true, then
/// call [`Notify::notify`]. While nobody waits that costs a fence and one load. Any number of threads and one task can wait at the same time.
pub struct Notify {
    interested: AtomicU32,
    /// Changes with every notification that somebody may be waiting for.
    epoch: Futex,
    /// Held for a few instructions. The notifying side only ever tries it, so a lane core never
    /// waits for a task that was preempted in here.
    waker: Mutex<Option<Waker>>,
}

impl Notify {
    /// Nobody waits yet.
    pub fn new() -> Notify {
        Notify {
            interested: AtomicU32::new(0),
            epoch: Futex::new(),
            waker: Mutex::new(None),
        }
    }

    /// Wakes everybody who waits. Call it after the condition was made true.
    #[inline]
    pub fn notify(&self) {
        // Orders the condition's store before the load; pairs with the fence in `announced`.
        fence(Ordering::SeqCst);
        let interested = self.interested.load(Ordering::Relaxed);
        if interested != 0 {
            self.wake(interested);
        }
    }

    /// As [`Notify::notify`] where `wanted` gives true. A waiter that says what it waits for must look
    /// at its condition again after a sequentially consistent fence behind saying so.
    #[inline]
    pub fn notify_if(&self, wanted: impl FnOnce() -> bool) {
        fence(Ordering::SeqCst);
        let interested = self.interested.load(Ordering::Relaxed);
        if interested != 0 && wanted() {
            self.wake(interested);
        }
    }

    #[cold]
    fn wake(&self, interested: u32) {
        if interested & !WAKER != 0 {
            self.epoch.bump_and_wake();
        }
        if interested & WAKER != 0 {
            let mut slot = match self.waker.try_lock() {
                Ok(slot) => slot,
                Err(TryLockError::Poisoned(e)) => e.into_inner(),
                // Whoever holds it is either a task registering, which looks at its condition
                // after unlocking, or another notification, which wakes the task after unlocking.
                // Our fence came before that unlock, so they see what we were called for.
                Err(TryLockError::WouldBlock) => return,
            };
            self.interested.fetch_and(!WAKER, Ordering::Relaxed);
            let waker = slot.take();
            drop(slot);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Blocks this thread until `ready` gives true, for at most `timeout` (`None`: without end);
    /// says whether it gave true.
    ///
    /// `ready` runs on this thread, at once and after every notification.
    pub fn wait(&self, timeout: Option<Duration>, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        // A timeout too far away to express is no timeout.
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        self.interested.fetch_add(1, Ordering::Relaxed);
        let _leave = Leave(&self.interested);
        loop {
            let seen = self.epoch.load();
            Self::announced();
            if ready() {
                return true;
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return false;
            }
            self.epoch.sleep(seen, left);
        }
    }

    /// The same for a task: `Ready` once `ready` gives true, otherwise the task is woken by the next
    /// notification. A later call replaces the waker of an earlier one.
    pub fn poll(&self, cx: &mut Context<'_>, mut ready: impl FnMut() -> bool) -> Poll<()> {
        if ready() {
            return Poll::Ready(());
        }
        let mut waker = Some(cx.waker().clone());
        {
            let mut slot = self.waker.lock().unwrap_or_else(|e| e.into_inner());
            std::mem::swap(&mut *slot, &mut waker);
            self.interested.fetch_or(WAKER, Ordering::Relaxed);
        }
        // The replaced waker is foreign code: it is dropped outside the lock.
        drop(waker);
        Self::announced();
        if ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Orders the announcement in `interested` before the last look at the condition; pairs with
    /// the fence in `notify`. Whichever fence comes second sees what was stored before the first.
    fn announced() {
        fence(Ordering::SeqCst);
    }
}

impl Default for Notify {
    fn default() -> Self {
        Notify::new()
    }
}

impl std::fmt::Debug for Notify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notify").finish_non_exhaustive()
    }
}

/// Takes a sleeping thread off the count, also where its condition panics.
struct Leave<'a>(&'a AtomicU32);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
