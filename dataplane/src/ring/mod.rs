//! Hand-over between threads: a bounded single-producer single-consumer ring, and the two ways to
//! wake a sleeper without paying for it while nobody sleeps.
//!
//! - [`spsc`]: moves items, one at a time or in batches.
//! - [`Notify`]: an application thread or task waits for its lane; the lane core notifies.
//! - [`Wakeup`]: a lane core sleeps in the kernel on its sockets and this descriptor; application
//!   threads wake it.
//!
//! Both wake-ups rest on one pattern. The sleeper says that it will sleep, *then* looks for work a
//! last time; the waker makes work visible, *then* looks whether anybody sleeps. A sequentially
//! consistent fence between the two steps on each side makes it impossible that both look too
//! early, so no wake-up is lost.

mod futex;
#[cfg(all(test, loom))]
mod loom;
mod notify;
mod queue;
#[cfg(all(test, not(loom)))]
mod tests;
mod wakeup;

pub use notify::Notify;
pub use queue::{Consumer, Producer, spsc};
pub use wakeup::{SleepFlag, Wakeup};
