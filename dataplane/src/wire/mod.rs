//! Room `wire`.

pub mod handshake;
