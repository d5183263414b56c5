//! Values of options, and what they may be.

use crate::units::parse_bytes;

fn figure(
    text: &str,
    range: std::ops::RangeInclusive<f64>,
    what: &str,
) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(v) if range.contains(&v) => Ok(v),
        _ => Err(format!("give {what}, {} to {}", range.start(), range.end())),
    }
}

/// A round trip on the command line, milliseconds.
///
/// # Errors
/// Not a number in range.
pub fn rtt(text: &str) -> std::result::Result<f64, String> {
    figure(text, 0.0..=2000.0, "milliseconds")
}

/// A share on the command line.
///
/// # Errors
/// Not a number in range.
pub fn per_cent(text: &str) -> std::result::Result<f64, String> {
    figure(text, 0.0..=99.0, "per cent")
}

/// A mean number of frames on the command line.
///
/// # Errors
/// Not a number in range.
pub fn burst(text: &str) -> std::result::Result<f64, String> {
    figure(text, 1.0..=10_000.0, "a mean number of frames")
}

/// A factor on the command line.
///
/// # Errors
/// Not a number in range.
pub fn multiple(text: &str) -> std::result::Result<f64, String> {
    figure(text, 0.0..=100.0, "a multiple")
}

pub(super) fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.01..=86_400.0).contains(&s) => Ok(s),
        _ => Err("give seconds, 0.01 to 86400".to_owned()),
    }
}

pub(super) fn message(text: &str) -> std::result::Result<u64, String> {
    match parse_bytes(text)? {
        n if (32..=16 << 20).contains(&n) => Ok(n),
        _ => Err("a message has 32 bytes to 16 MiB".to_owned()),
    }
}

pub(super) fn frame(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=1 << 20).contains(&n) => Ok(n),
        _ => Err("a frame has 1 to 1048576 bytes".to_owned()),
    }
}

pub(super) fn lanes(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=128).contains(&n) => Ok(n),
        _ => Err("a session has 1 to 128 lanes".to_owned()),
    }
}

pub(super) fn queues(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (1..=16).contains(&n) => Ok(n),
        _ => Err("give 1 to 16 queues".to_owned()),
    }
}

pub(super) fn held_rate(text: &str) -> std::result::Result<u64, String> {
    match parse_bytes(text)? {
        n if (100_000..=100_000_000_000).contains(&n) => Ok(n),
        _ => Err("a held rate is 100 kB to 100 GB a second".to_owned()),
    }
}
