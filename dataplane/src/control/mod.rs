//! Room `control`.
pub mod config;
