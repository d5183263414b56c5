//! CPU features, frequency governor, clock source and NUMA nodes.

use super::{line, parse_cpulist};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The CPUs of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpus {
    /// Name of the first one.
    pub model: String,
    /// CPUs that are online.
    pub online: usize,
    /// CPUs that this process may use.
    pub allowed: Vec<usize>,
    /// Whole CPUs that the cgroup's quota leaves, at most those allowed.
    pub quota: usize,
    /// Features of the first one, by the kernel's names.
    #[serde(skip)]
    pub flags: BTreeSet<String>,
    /// Frequency governors with the number of CPUs that each rules; empty where the host does not
    /// let itself be asked.
    pub governors: BTreeMap<String, usize>,
    /// Clock source in use, and those there are.
    pub clock: Option<(String, Vec<String>)>,
    /// NUMA nodes and their CPUs.
    pub nodes: BTreeMap<u32, Vec<usize>>,
    /// A hypervisor runs this host.
    pub virtual_machine: bool,
}

impl Cpus {
    /// Looks at `/proc/cpuinfo` and `/sys/devices/system`.
    pub fn read(allowed: Vec<usize>) -> Cpus {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let (model, flags, online) = parse_cpuinfo(&info);
        let system = Path::new("/sys/devices/system");
        let clock = system.join("clocksource/clocksource0");
        let clock = line(clock.join("current_clocksource")).map(|now| {
            let all = line(clock.join("available_clocksource")).unwrap_or_default();
            (now, all.split_whitespace().map(str::to_owned).collect())
        });
        let mut governors = BTreeMap::new();
        for cpu in &allowed {
            let file = system.join(format!("cpu/cpu{cpu}/cpufreq/scaling_governor"));
            if let Some(name) = line(file) {
                *governors.entry(name).or_default() += 1;
            }
        }
        Cpus {
            model,
            online: online.max(1),
            quota: std::thread::available_parallelism().map_or(allowed.len(), usize::from),
            allowed,
            virtual_machine: flags.contains("hypervisor"),
            flags,
            governors,
            clock,
            nodes: nodes(&system.join("node")),
        }
    }

    /// The first CPU has the feature.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

fn nodes(dir: &Path) -> BTreeMap<u32, Vec<usize>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("node"));
        let Some(node) = number.and_then(|n| n.parse().ok()) else {
            continue;
        };
        let cpus = line(entry.path().join("cpulist")).and_then(|l| parse_cpulist(&l));
        found.insert(node, cpus.unwrap_or_default());
    }
    found
}

/// Model, features of the first CPU, and the number of CPUs. On arm64 the features have another
/// name and there is no model.
fn parse_cpuinfo(text: &str) -> (String, BTreeSet<String>, usize) {
    let field = |names: &[&str]| {
        text.lines().find_map(|l| {
            let (key, value) = l.split_once(':')?;
            names.contains(&key.trim()).then(|| value.trim())
        })
    };
    let flags = field(&["flags", "Features"]).unwrap_or_default();
    let cpus = text.lines().filter(|l| {
        l.split_once(':')
            .is_some_and(|(k, _)| k.trim() == "processor")
    });
    (
        field(&["model name", "Model"]).unwrap_or("CPU").to_owned(),
        flags.split_whitespace().map(str::to_owned).collect(),
        cpus.count(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuinfo_of_both_architectures() {
        let x86 = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu aes avx2 vaes\n\n\
            processor\t: 1\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu aes avx2\n";
        let (model, flags, cpus) = parse_cpuinfo(x86);
        assert_eq!((model.as_str(), cpus), ("AMD EPYC 7763", 2));
        assert!(flags.contains("vaes") && !flags.contains("gfni"));
        let arm = "processor\t: 0\nBogoMIPS\t: 50\nFeatures\t: fp asimd aes pmull\n";
        let (model, flags, cpus) = parse_cpuinfo(arm);
        assert_eq!((model.as_str(), cpus), ("CPU", 1));
        assert!(flags.contains("pmull"));
        assert_eq!(parse_cpuinfo("").2, 0);
    }
}
