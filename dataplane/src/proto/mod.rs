//! Room `proto`.

pub mod manager;
