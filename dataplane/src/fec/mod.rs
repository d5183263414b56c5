//! Room `fec`.
