//! Which CPUs this process may use, how they lie to each other, and pinning a thread to one.
//!
//! The CPUs are those of the affinity mask, which a cgroup's cpuset narrows as well. Where they
//! lie comes from hwloc if it was built in, else from sysfs.

use crate::base::limits::MAX_CORES;
use std::{collections::BTreeMap, fs, io, path::Path};

/// Why the CPUs could not be listed, chosen or pinned to.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The affinity mask of the process cannot be read.
    #[error("cannot read the CPU affinity mask of this process: {0}")]
    Affinity(io::Error),
    /// A CPU was asked for that this process may not use, or that is not there.
    #[error(
        "CPU {cpu} is not one of the CPUs that this process may use ({allowed}); choose among these, or widen the affinity mask or the cgroup's cpuset"
    )]
    NotAllowed {
        /// The CPU asked for.
        cpu: usize,
        /// The CPUs there are, as a list of ranges.
        allowed: String,
    },
    /// The same CPU was asked for twice.
    #[error("CPU {0} is listed twice; each lane core needs a CPU of its own")]
    Twice(usize),
    /// The kernel refused to pin the thread.
    #[error("cannot pin this thread to CPU {cpu}: {source}")]
    Pin {
        /// The CPU asked for.
        cpu: usize,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Where the description of the CPUs came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The hwloc library (feature `hwloc`).
    Hwloc,
    /// `/sys/devices/system`.
    Sysfs,
    /// Only the affinity mask: every CPU is taken for a core of its own on node 0.
    Affinity,
}

/// One logical CPU that this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// Place among the allowed threads of its physical core: 0 unless it is an SMT sibling.
    pub sibling: usize,
    /// NUMA node; 0 where the machine has none.
    pub node: usize,
    /// The kernel's number of the CPU.
    pub id: usize,
}

/// The CPUs of this process.
#[derive(Debug, Clone)]
pub struct Topology {
    cpus: Vec<Cpu>,
    source: Source,
}

/// A CPU as a source describes it: physical core (any number that differs between cores) and node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    core: usize,
    node: usize,
}

impl Topology {
    /// Looks at the host. Call it before any thread is pinned: a pinned thread sees one CPU only.
    pub fn detect() -> Result<Topology, TopologyError> {
        let allowed = allowed()?;
        #[cfg(feature = "hwloc")]
        if let Some(t) = hwloc::places().and_then(|p| Self::join(&allowed, &p, Source::Hwloc)) {
            return Ok(t);
        }
        Ok(Self::from_sysfs(&allowed, Path::new("/sys/devices/system")))
    }

    /// The CPUs, first threads of each physical core before SMT siblings, then by node and number.
    pub fn cpus(&self) -> &[Cpu] {
        &self.cpus
    }

    /// Where the description came from.
    pub fn source(&self) -> Source {
        self.source
    }

    /// The CPUs for `count` lane cores, at most as many as there are.
    ///
    /// `None` asks for the default: every physical core, or fewer where the cgroup's CPU quota is
    /// smaller. SMT siblings are used only when more CPUs are asked for than there are cores.
    /// Never empty and never more than [`MAX_CORES`].
    pub fn lane_cpus(&self, count: Option<usize>) -> &[Cpu] {
        let wanted = count.unwrap_or_else(|| {
            let cores = self.cpus.iter().filter(|c| c.sibling == 0).count();
            // Counts the quota in, rounded down to whole CPUs.
            std::thread::available_parallelism().map_or(cores, |n| cores.min(n.get()))
        });
        &self.cpus[..wanted.clamp(1, MAX_CORES).min(self.cpus.len())]
    }

    /// The CPUs named by the operator, in that order; each must be allowed and named once.
    pub fn select(&self, ids: &[usize]) -> Result<Vec<Cpu>, TopologyError> {
        let mut chosen: Vec<Cpu> = Vec::with_capacity(ids.len());
        for &cpu in ids {
            if chosen.iter().any(|c| c.id == cpu) {
                return Err(TopologyError::Twice(cpu));
            }
            match self.cpus.iter().find(|c| c.id == cpu) {
                Some(c) => chosen.push(*c),
                None => {
                    return Err(TopologyError::NotAllowed {
                        cpu,
                        allowed: self.list(),
                    });
                }
            }
        }
        Ok(chosen)
    }

    fn list(&self) -> String {
        let mut ids: Vec<usize> = self.cpus.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        format_cpulist(&ids)
    }

    fn from_sysfs(allowed: &[usize], root: &Path) -> Topology {
        sysfs(allowed, root)
            .and_then(|p| Self::join(allowed, &p, Source::Sysfs))
            .unwrap_or_else(|| Topology {
                cpus: allowed
                    .iter()
                    .map(|&id| Cpu {
                        sibling: 0,
                        node: 0,
                        id,
                    })
                    .collect(),
                source: Source::Affinity,
            })
    }

    /// The allowed CPUs with their places; `None` where one of them has no place.
    fn join(
        allowed: &[usize],
        places: &BTreeMap<usize, Place>,
        source: Source,
    ) -> Option<Topology> {
        let mut threads: BTreeMap<usize, usize> = BTreeMap::new();
        let mut cpus = Vec::with_capacity(allowed.len());
        for &id in allowed {
            let place = places.get(&id)?;
            let next = threads.entry(place.core).or_default();
            cpus.push(Cpu {
                sibling: *next,
                node: place.node,
                id,
            });
            *next += 1;
        }
        cpus.sort_unstable();
        Some(Topology { cpus, source })
    }
}

/// Pins the calling thread to one CPU.
pub fn pin_current(cpu: usize) -> Result<(), TopologyError> {
    // A number beyond the kernel's set type would panic inside the call below.
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(TopologyError::Pin {
            cpu,
            source: io::Error::from_raw_os_error(libc::EINVAL),
        });
    }
    if core_affinity::set_for_current(core_affinity::CoreId { id: cpu }) {
        Ok(())
    } else {
        Err(TopologyError::Pin {
            cpu,
            source: io::Error::last_os_error(),
        })
    }
}

/// Numbers of the CPUs in this thread's affinity mask, rising and not empty.
fn allowed() -> Result<Vec<usize>, TopologyError> {
    match core_affinity::get_core_ids() {
        Some(ids) if !ids.is_empty() => Ok(ids.into_iter().map(|c| c.id).collect()),
        _ => Err(TopologyError::Affinity(io::Error::last_os_error())),
    }
}

/// Places of `allowed` from a sysfs tree; `None` where it does not describe all of them.
fn sysfs(allowed: &[usize], root: &Path) -> Option<BTreeMap<usize, Place>> {
    let mut nodes = BTreeMap::new();
    for entry in fs::read_dir(root.join("node")).into_iter().flatten() {
        let Ok(entry) = entry else { continue };
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix("node"));
        let Some(node) = number.and_then(|n| n.parse::<usize>().ok()) else {
            continue;
        };
        for cpu in read_cpulist(&entry.path().join("cpulist")).unwrap_or_default() {
            nodes.insert(cpu, node);
        }
    }
    let place = |&cpu: &usize| {
        let file = format!("cpu/cpu{cpu}/topology/thread_siblings_list");
        // The lowest thread, allowed or not, names the core.
        let core = *read_cpulist(&root.join(file))?.first()?;
        // No node directory at all: a kernel without NUMA.
        let node = nodes.get(&cpu).copied().unwrap_or(0);
        Some((cpu, Place { core, node }))
    };
    allowed.iter().map(place).collect()
}

fn read_cpulist(file: &Path) -> Option<Vec<usize>> {
    parse_cpulist(&fs::read_to_string(file).ok()?)
}

/// The kernel's list format, such as `0-3,8`; `None` where it is anything else or absurdly long.
fn parse_cpulist(text: &str) -> Option<Vec<usize>> {
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

/// The inverse of [`parse_cpulist`], for rising numbers.
fn format_cpulist(cpus: &[usize]) -> String {
    cpus.chunk_by(|a, b| a + 1 == *b)
        .map(|run| match run {
            [first, .., last] => format!("{first}-{last}"),
            _ => format!("{}", run[0]),
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(feature = "hwloc")]
mod hwloc {
    use super::Place;
    use hwlocality::{Topology, object::types::ObjectType};
    use std::collections::BTreeMap;

    /// Places of every CPU that hwloc sees; `None` where it cannot look at the host.
    pub(super) fn places() -> Option<BTreeMap<usize, Place>> {
        let host = Topology::new().ok()?;
        let place = |pu: &hwlocality::object::TopologyObject| {
            let core = pu
                .first_ancestor_with_type(ObjectType::Core)
                .map_or_else(|| pu.logical_index(), |core| core.logical_index());
            let node = pu
                .nodeset()
                .and_then(|n| n.first_set())
                .map_or(0, usize::from);
            Some((pu.os_index()?, Place { core, node }))
        };
        host.objects_with_type(ObjectType::PU).map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes, four cores, two threads each; numbered as Linux does, siblings last.
    fn tree() -> std::path::PathBuf {
        let root = std::env::temp_dir().join(format!("ctp96-topology-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for cpu in 0..8 {
            let dir = root.join(format!("cpu/cpu{cpu}/topology"));
            fs::create_dir_all(&dir).expect("temporary directory");
            let core = cpu % 4;
            fs::write(
                dir.join("thread_siblings_list"),
                format!("{core},{}\n", core + 4),
            )
            .expect("write");
        }
        for (node, cpus) in [(0, "0-1,4-5\n"), (1, "2-3,6-7\n")] {
            let dir = root.join(format!("node/node{node}"));
            fs::create_dir_all(&dir).expect("temporary directory");
            fs::write(dir.join("cpulist"), cpus).expect("write");
        }
        fs::write(root.join("node/online"), "0-1\n").expect("write");
        root
    }

    #[test]
    fn sysfs_gives_nodes_and_puts_siblings_last() {
        let root = tree();
        let ids = |cpus: &[Cpu]| cpus.iter().map(|c| (c.id, c.node)).collect::<Vec<_>>();
        let all = Topology::from_sysfs(&[0, 1, 2, 3, 4, 5, 6, 7], &root);
        assert_eq!(all.source(), Source::Sysfs);
        let four = [(0, 0), (1, 0), (2, 1), (3, 1)];
        assert_eq!(ids(all.lane_cpus(Some(4))), four);
        assert_eq!(
            ids(&all.lane_cpus(Some(99))[4..]),
            [(4, 0), (5, 0), (6, 1), (7, 1)]
        );
        assert!(all.lane_cpus(None).len() <= 4 && all.lane_cpus(Some(0)).len() == 1);
        // A mask that holds one thread of core 1 and both of core 3.
        let some = Topology::from_sysfs(&[3, 5, 7], &root);
        assert_eq!(ids(some.lane_cpus(Some(2))), [(5, 0), (3, 1)]);
        assert_eq!(some.cpus()[2].sibling, 1);
        assert!(matches!(
            some.select(&[5, 0]),
            Err(TopologyError::NotAllowed { cpu: 0, allowed }) if allowed == "3,5,7"
        ));
        assert!(matches!(some.select(&[5, 5]), Err(TopologyError::Twice(5))));
        assert_eq!(
            ids(&some.select(&[7, 5]).expect("both allowed")),
            [(7, 1), (5, 0)]
        );
        // CPU 9 is not described: nothing is guessed.
        let odd = Topology::from_sysfs(&[0, 9], &root);
        assert_eq!((odd.source(), odd.cpus().len()), (Source::Affinity, 2));
        fs::remove_dir_all(root).expect("own directory");
    }

    #[test]
    fn cpu_lists_parse_as_the_kernel_prints_them() {
        assert_eq!(
            parse_cpulist("0-3,8,10-11\n"),
            Some(vec![0, 1, 2, 3, 8, 10, 11])
        );
        assert_eq!(parse_cpulist("\n"), Some(vec![]));
        for bad in ["x", "3-1", "1-", "0-99999999999", "-1"] {
            assert_eq!(parse_cpulist(bad), None, "{bad}");
        }
        assert_eq!(format_cpulist(&[0, 1, 2, 3, 8, 10, 11]), "0-3,8,10-11");
    }

    #[test]
    fn this_host_can_be_pinned_to_each_of_its_cpus() {
        let t = Topology::detect().expect("an affinity mask");
        assert_eq!(t.cpus()[0].sibling, 0);
        for cpu in t.cpus().to_vec() {
            std::thread::spawn(move || {
                pin_current(cpu.id).expect("an allowed CPU");
                assert_eq!(allowed().expect("a mask"), [cpu.id]);
            })
            .join()
            .expect("the thread finishes");
        }
        for absent in [1023, 1024, usize::MAX] {
            if t.select(&[absent]).is_err() {
                assert!(
                    matches!(pin_current(absent), Err(TopologyError::Pin { cpu, .. }) if cpu == absent)
                );
            }
        }
    }

    #[cfg(feature = "hwloc")]
    #[test]
    fn hwloc_and_sysfs_agree_about_this_host() {
        let allowed = allowed().expect("an affinity mask");
        let a = hwloc::places().and_then(|p| Topology::join(&allowed, &p, Source::Hwloc));
        let a = a.expect("hwloc sees this host");
        let b = Topology::from_sysfs(&allowed, Path::new("/sys/devices/system"));
        assert_eq!(a.cpus(), b.cpus());
    }
}
