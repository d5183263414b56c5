//! Memory and huge pages.

use serde::Serialize;
use std::path::Path;

/// Memory of this host, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
    /// Reserved 2 MiB pages.
    pub huge_total: u64,
    /// Those nobody uses.
    pub huge_free: u64,
    /// Transparent huge pages: `always`, `madvise` or `never`.
    pub transparent: Option<String>,
}

impl Memory {
    /// Looks at `/proc/meminfo` and sysfs.
    pub fn read() -> Memory {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let mut memory = parse_meminfo(&info);
        // The default page size may be another; the arena asks for 2 MiB pages.
        let dir = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB");
        let count = |name: &str| super::number(dir.join(name)).unwrap_or(0);
        memory.huge_total = count("nr_hugepages");
        memory.huge_free = count("free_hugepages");
        memory.transparent = super::line("/sys/kernel/mm/transparent_hugepage/enabled")
            .and_then(|l| chosen(&l).map(str::to_owned));
        memory
    }
}

fn parse_meminfo(text: &str) -> Memory {
    let kib = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|v| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    Memory {
        total: kib("MemTotal") << 10,
        available: kib("MemAvailable") << 10,
        ..Memory::default()
    }
}

/// The word in brackets: `always [madvise] never`.
pub fn chosen(line: &str) -> Option<&str> {
    Some(line.split_once('[')?.1.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_and_choices() {
        let m = parse_meminfo("MemTotal:       8042136 kB\nMemFree: 1 kB\nMemAvailable: 2048 kB\n");
        assert_eq!((m.total, m.available), (8_042_136 << 10, 2 << 20));
        assert_eq!(parse_meminfo("MemTotal: many\n").total, 0);
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("none"), None);
    }
}
