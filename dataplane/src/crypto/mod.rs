//! Room `crypto`.

pub(crate) mod base64;
pub mod identity;
pub mod noise;
pub mod receipt;
pub mod schedule;
