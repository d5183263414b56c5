//! Room `window`.
