//! Rings and wake-ups between an application thread and a lane core.

pub mod wakeup;

pub use wakeup::Wakeup;
