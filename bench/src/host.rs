//! The machine that a figure belongs to, and what else it was doing meanwhile.

use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// CPU features that decide the speed of AEAD, FEC and digests.
const FEATURES: [&str; 12] = [
    "aes",
    "vaes",
    "pclmulqdq",
    "vpclmulqdq",
    "gfni",
    "avx2",
    "avx512f",
    "avx512bw",
    "sha_ni",
    "sse4_2",
    "bmi2",
    "erms",
];

/// What is printed above every table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Start of the run, UTC, `YYYY-MM-DD HH:MM`.
    pub date: String,
    /// Model name of the CPU.
    pub cpu: String,
    /// Logical CPUs.
    pub cpus: usize,
    /// CPU features present, of those that matter here.
    pub features: Vec<String>,
    /// Kernel release.
    pub kernel: String,
    /// Memory, bytes.
    pub memory: u64,
    /// Version of this program.
    pub version: String,
}

impl Host {
    /// Reads `/proc`; what cannot be read is left empty.
    pub fn describe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|l| l.starts_with(name));
            line.and_then(|l| l.split_once(':'))
                .map_or("", |(_, v)| v.trim())
        };
        // x86 says `flags`, 64-bit Arm `Features`.
        let flags: HashSet<&str> = [field("flags"), field("Features")]
            .into_iter()
            .flat_map(str::split_whitespace)
            .collect();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory
            .split_whitespace()
            .nth(1)
            .and_then(|v| v.parse::<u64>().ok());
        Self {
            date: utc_minute(SystemTime::now()),
            cpu: field("model name").to_owned(),
            cpus: cpuinfo
                .lines()
                .filter(|l| l.starts_with("processor"))
                .count(),
            features: FEATURES
                .iter()
                .filter(|f| flags.contains(*f))
                .map(|f| f.to_string())
                .collect(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            memory: kib.unwrap_or(0) * 1024,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Two lines for the head of a report.
    pub fn lines(&self) -> String {
        format!(
            "{} UTC, ctp96-bench {}, Linux {}, {} x {}, {} memory\ncpu features: {}",
            self.date,
            self.version,
            self.kernel,
            self.cpus,
            self.cpu,
            crate::units::show_bytes(self.memory),
            self.features.join(" ")
        )
    }
}

/// CPU time of the whole machine since boot, seconds summed over its CPUs.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineTime {
    /// Everything but idle, waiting for I/O and steal.
    pub busy_s: f64,
    /// Time that the hypervisor gave to somebody else.
    pub steal_s: f64,
    /// Run time of the ksoftirqd threads: packet work that no process is charged for.
    pub ksoftirqd_s: f64,
}

impl MachineTime {
    /// Reads `/proc/stat` and the ksoftirqd threads; zero where they cannot be read.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        // user nice system idle iowait irq softirq steal, in ticks of 1/100 s (USER_HZ).
        let ticks: Vec<f64> = stat
            .lines()
            .next()
            .unwrap_or("")
            .split_whitespace()
            .skip(1)
            .filter_map(|v| v.parse().ok())
            .collect();
        let tick = |i: usize| ticks.get(i).copied().unwrap_or(0.0) / 100.0;
        Self {
            busy_s: tick(0) + tick(1) + tick(2) + tick(5) + tick(6),
            steal_s: tick(7),
            ksoftirqd_s: ksoftirqd_seconds(),
        }
    }

    /// Time spent since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            busy_s: self.busy_s - earlier.busy_s,
            steal_s: self.steal_s - earlier.steal_s,
            ksoftirqd_s: self.ksoftirqd_s - earlier.ksoftirqd_s,
        }
    }
}

fn ksoftirqd_seconds() -> f64 {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0.0;
    };
    let mut nanoseconds = 0.0;
    for path in entries.flatten().map(|e| e.path()) {
        let is_ksoftirqd =
            fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"));
        if is_ksoftirqd {
            let schedstat = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
            nanoseconds += schedstat
                .split_whitespace()
                .next()
                .and_then(|v| v.parse().ok())
                .unwrap_or(0.0);
        }
    }
    nanoseconds / 1e9
}

/// User and system time of this process and of the children that have ended, seconds; 0 where the
/// kernel does not say.
pub fn children_and_self_cpu_seconds() -> f64 {
    let seconds = |who| crate::peer::cpu_seconds(who).unwrap_or(0.0);
    seconds(libc::RUSAGE_SELF) + seconds(libc::RUSAGE_CHILDREN)
}

/// Rounds a second of a fixed loop of dependent multiplications, in millions: the best of a few
/// short slices, so that it follows the CPU's clock and not what else runs.
pub fn spin_rate() -> f64 {
    const ROUNDS: u64 = 500_000;
    let mut best = 0.0_f64;
    let mut x = 1_u64;
    for _ in 0..10 {
        let started = std::time::Instant::now();
        for _ in 0..ROUNDS {
            x = std::hint::black_box(x.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        }
        best = best.max(ROUNDS as f64 / started.elapsed().as_secs_f64() / 1e6);
    }
    std::hint::black_box(x);
    best
}

/// Clocks a nanosecond of the counter that the CPU counts time with (x86: the TSC, at its nominal
/// clock whatever the core's own is); 0 where there is none that a program may read.
pub fn clock_ghz() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: rdtsc reads a counter that every x86-64 has, and touches no memory.
        let clocks = || unsafe { core::arch::x86_64::_rdtsc() };
        let (started, first) = (std::time::Instant::now(), clocks());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let passed = clocks().saturating_sub(first);
        passed as f64 / started.elapsed().as_nanos().max(1) as f64
    }
    #[cfg(not(target_arch = "x86_64"))]
    0.0
}

/// `YYYY-MM-DD HH:MM` in UTC.
fn utc_minute(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil_from_days(seconds / 86_400);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}",
        seconds / 3600 % 24,
        seconds / 60 % 60
    )
}

/// Days since 1970-01-01 to year, month, day (Hinnant's civil_from_days, years from 1970 on).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (
        yoe + era * 400 + u64::from(month <= 2),
        month,
        doy - (153 * mp + 2) / 5 + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |s| utc_minute(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01 00:00");
        assert_eq!(at(951_782_400), "2000-02-29 00:00");
        assert_eq!(at(1_735_689_599), "2024-12-31 23:59");
    }

    #[test]
    fn this_machine_has_a_description() {
        let host = Host::describe();
        assert!(host.cpus >= 1 && !host.kernel.is_empty() && host.memory > 0);
        assert!(MachineTime::now().busy_s > 0.0);
        #[cfg(target_arch = "x86_64")]
        assert!((0.5..10.0).contains(&clock_ghz()), "{} GHz", clock_ghz());
        assert!(spin_rate() > 0.0 && children_and_self_cpu_seconds() > 0.0);
    }
}
