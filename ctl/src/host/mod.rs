//! What this host has, read from the kernel and judged nowhere here.
//!
//! Parsers are pure functions on text or bytes; [`sys`] holds the system calls, and the functions
//! named `read` join the two.

pub mod cpu;
pub mod drivers;
pub mod ethtool;
pub mod kernel;
pub mod memory;
pub mod netlink;
pub mod nic;
pub mod probe;
pub mod rights;
pub mod sys;

use serde::{Deserialize, Serialize};
use std::path::Path;

/// A value, or the reason why it could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reading<T> {
    /// It was read.
    Known(T),
    /// It was not, and this is why.
    Unreadable {
        /// A phrase that ends a sentence.
        unreadable: String,
    },
}

impl<T> Reading<T> {
    /// The value, if it was read.
    pub fn known(&self) -> Option<&T> {
        match self {
            Reading::Known(v) => Some(v),
            Reading::Unreadable { .. } => None,
        }
    }

    /// A reason instead of a value.
    pub fn unreadable(why: impl Into<String>) -> Reading<T> {
        Reading::Unreadable {
            unreadable: why.into(),
        }
    }

    /// What the value is made into, or the reason.
    pub fn describe(&self, text: impl FnOnce(&T) -> String) -> String {
        match self {
            Reading::Known(v) => text(v),
            Reading::Unreadable { unreadable } => format!("not readable: {unreadable}"),
        }
    }
}

impl<T> From<std::io::Result<T>> for Reading<T> {
    fn from(r: std::io::Result<T>) -> Reading<T> {
        match r {
            Ok(v) => Reading::Known(v),
            Err(e) => Reading::unreadable(match e.raw_os_error() {
                Some(libc::EOPNOTSUPP) => "the driver has no such setting".to_owned(),
                Some(libc::EPERM | libc::EACCES) => {
                    "the kernel refuses it without CAP_NET_ADMIN".to_owned()
                }
                _ => e.to_string(),
            }),
        }
    }
}

/// A short file as text without the line's end; `None` where it cannot be read.
pub fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim_end().to_owned())
}

/// A number from a file of one number.
pub fn number(path: impl AsRef<Path>) -> Option<u64> {
    line(path)?.trim().parse().ok()
}

/// The kernel's list format, such as `0-3,8`; `None` where it is anything else or absurdly long.
pub fn parse_cpulist(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let (low, high): (usize, usize) = (low.parse().ok()?, high.parse().ok()?);
        if low > high || high > 1 << 16 {
            return None;
        }
        cpus.extend(low..=high);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_keep_their_reason_through_json() {
        let some: Reading<Vec<u32>> = Reading::Known(vec![1, 2]);
        let none: Reading<Vec<u32>> =
            std::io::Result::<Vec<u32>>::Err(std::io::Error::from_raw_os_error(libc::EOPNOTSUPP))
                .into();
        for r in [some, none.clone()] {
            let text = serde_json::to_string(&r).expect("JSON");
            assert_eq!(
                serde_json::from_str::<Reading<Vec<u32>>>(&text).expect("back"),
                r
            );
        }
        assert_eq!(
            none.describe(|_| String::new()),
            "not readable: the driver has no such setting"
        );
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpulist("0-2,8\n"), Some(vec![0, 1, 2, 8]));
        for bad in ["a", "3-1", "0-99999999"] {
            assert_eq!(parse_cpulist(bad), None, "{bad}");
        }
    }
}
