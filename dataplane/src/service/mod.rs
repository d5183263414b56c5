//! Room `service`.
