//! Room `engine`.
pub mod topology;
