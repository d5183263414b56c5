//! `ctp96 doctor`: what this host can do, what stands in the way, and what to do about it.

mod nic;
mod page;
mod refusal;
mod system;

use crate::host::cpu::Cpus;
use crate::host::kernel::Kernel;
use crate::host::memory::Memory;
use crate::host::nic::{Nic, find, links, read};
use crate::host::probe::Trials;
use crate::host::rights::Rights;
use crate::out::{self, Failure};
use ctp96::engine::topology::Topology;
use serde::Serialize;

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// A fact without a verdict.
    Info,
    /// It works, with a loss that the finding names.
    Warn,
    /// A packet path is closed, or traffic cannot pass.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Section of the page: `kernel`, `rights`, .., or an interface.
    pub area: String,
    /// What was found.
    pub what: String,
    /// How to take it.
    pub status: Status,
    /// What follows from it.
    pub effect: String,
    /// The command that changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn new(status: Status, what: impl Into<String>, effect: impl Into<String>) -> Finding {
        Finding {
            area: String::new(),
            what: what.into(),
            status,
            effect: effect.into(),
            fix: None,
        }
    }

    fn ok(what: impl Into<String>, effect: impl Into<String>) -> Finding {
        Finding::new(Status::Ok, what, effect)
    }

    fn info(what: impl Into<String>, effect: impl Into<String>) -> Finding {
        Finding::new(Status::Info, what, effect)
    }

    fn warn(what: impl Into<String>, effect: impl Into<String>) -> Finding {
        Finding::new(Status::Warn, what, effect)
    }

    fn bad(what: impl Into<String>, effect: impl Into<String>) -> Finding {
        Finding::new(Status::Bad, what, effect)
    }

    fn fix(mut self, command: impl Into<String>) -> Finding {
        self.fix = Some(command.into());
        self
    }

    fn fix_if(self, command: Option<String>) -> Finding {
        Finding {
            fix: command,
            ..self
        }
    }
}

/// Everything about the host but its interfaces.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct System {
    /// The kernel.
    pub kernel: Kernel,
    /// What this process may do.
    pub rights: Rights,
    /// What the kernel said to trial calls.
    pub trials: Trials,
    /// CPUs.
    pub cpus: Cpus,
    /// Memory.
    pub memory: Memory,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    bad: usize,
    warnings: usize,
    host: System,
    interfaces: Vec<Nic>,
    findings: Vec<Finding>,
}

/// Looks at the host and prints the page; without names, at every interface that is up.
pub fn run(interfaces: &[String], json: bool) -> Result<(), Failure> {
    let links = if interfaces.is_empty() {
        let all = links().map_err(|e| Failure::Failed(format!("cannot list interfaces: {e}")))?;
        all.into_iter().filter(|l| l.up && !l.loopback).collect()
    } else {
        let found: Result<Vec<_>, String> = interfaces.iter().map(|name| find(name)).collect();
        found.map_err(Failure::Failed)?
    };
    let topology = Topology::detect().map_err(|e| Failure::Failed(e.to_string()))?;
    let mut allowed: Vec<usize> = topology.cpus().iter().map(|c| c.id).collect();
    allowed.sort_unstable();
    let rights = Rights::read()
        .ok_or_else(|| Failure::Failed("cannot read /proc/self: is /proc mounted?".into()))?;
    let host = System {
        kernel: Kernel::read(),
        rights,
        trials: Trials::run(),
        cpus: Cpus::read(allowed),
        memory: Memory::read(),
    };
    let nics: Vec<Nic> = links.iter().map(read).collect();
    let mut findings = system::findings(&host);
    findings.extend(nics.iter().flat_map(|n| nic::findings(n, &host)));
    let count = |s| findings.iter().filter(|f| f.status == s).count();
    let (bad, warnings) = (count(Status::Bad), count(Status::Warn));
    let report = Report {
        ok: bad == 0,
        bad,
        warnings,
        host,
        interfaces: nics,
        findings,
    };
    if json {
        out::json(&report);
    } else {
        out::text(&page::render(&report.host, &report.findings));
    }
    if bad > 0 {
        return Err(Failure::Reported);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Reading;
    use std::collections::BTreeMap;

    /// A host on which nothing is wrong.
    pub fn good() -> System {
        let options = crate::host::kernel::OPTIONS;
        System {
            kernel: Kernel {
                release: "6.18.1".into(),
                arch: "x86_64",
                options: Reading::Known(
                    options.iter().map(|o| ((*o).into(), "y".into())).collect(),
                ),
                lsm: Some(vec!["capability".into(), "apparmor".into()]),
                lockdown: Some("none".into()),
                io_uring_disabled: Some(0),
                bpf_jit: Some(1),
                rmem_max: Some(64 << 20),
                wmem_max: Some(64 << 20),
                iommu_groups: 0,
                iommu_types: BTreeMap::new(),
                irqbalance: false,
            },
            rights: Rights {
                effective: u64::MAX,
                uid: 0,
                seccomp: false,
                no_new_privs: false,
                initial_user_namespace: true,
                memlock: None,
            },
            trials: Trials {
                io_uring: None,
                xdp_program: None,
                af_xdp: None,
            },
            cpus: Cpus {
                model: "CPU".into(),
                online: 4,
                allowed: vec![0, 1, 2, 3],
                quota: 4,
                flags: [
                    "aes",
                    "vaes",
                    "vpclmulqdq",
                    "gfni",
                    "avx2",
                    "avx512f",
                    "pclmulqdq",
                ]
                .map(str::to_owned)
                .into(),
                governors: BTreeMap::from([("performance".into(), 4)]),
                clock: Some(("tsc".into(), vec!["tsc".into()])),
                nodes: BTreeMap::from([(0, vec![0, 1, 2, 3])]),
                virtual_machine: false,
            },
            memory: Memory {
                total: 64 << 30,
                available: 60 << 30,
                huge_total: 4096,
                huge_free: 4096,
                transparent: Some("madvise".into()),
            },
        }
    }

    #[test]
    fn a_good_host_has_nothing_to_complain_about() {
        let worst = system::findings(&good())
            .into_iter()
            .filter(|f| f.status > Status::Info)
            .collect::<Vec<_>>();
        assert_eq!(worst, []);
    }
}
