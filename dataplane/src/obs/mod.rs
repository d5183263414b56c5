//! Observability: counters whose books must balance, latency histograms, and their text.
//!
//! Every thread that counts owns one [`ThreadStats`] and is its only writer; readers sum all of
//! them while the writers run, so looking never stops a core. See [`counters`] for the table of
//! counters and the conservation equations over them, [`hist`] for the histograms, [`registry`]
//! for how a process keeps track of its writers, and [`text`] for printing.

pub mod counters;
pub mod hist;
pub mod registry;
pub mod text;

pub use counters::{BALANCES, Balance, Counter, CounterSet, Imbalance, check_balances};
pub use hist::{Hist, HistSet, Histogram, Summary};
pub use registry::{Registry, ThreadStats, Writer};
