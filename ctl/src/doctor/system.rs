//! Judgement of everything but the interfaces.

use super::refusal::{SETCAP, explain};
use super::{Finding, System};
use crate::host::Reading;
use crate::host::rights::Cap;
use ctp96::obs::text::bytes;

/// What the daemon asks the kernel for, for each of its UDP sockets.
const RECEIVE_QUEUE: u64 = 32 << 20;
const SEND_QUEUE: u64 = 8 << 20;
/// Memory that AF_XDP registers for each queue at MTU 1500: 4,096 frames to receive into and 1,024
/// to send, 2 KiB each. At MTU 9000 it is a good four times that.
const UMEM: u64 = 10 << 20;

/// The findings, section by section.
pub fn findings(host: &System) -> Vec<Finding> {
    let sections: [(&str, Vec<Finding>); 5] = [
        ("kernel", kernel(host)),
        ("rights", rights(host)),
        ("packet paths", paths(host)),
        ("memory", memory(host)),
        ("CPU", cpu(host)),
    ];
    let mut all = Vec::new();
    for (area, mut found) in sections {
        found.iter_mut().for_each(|f| area.clone_into(&mut f.area));
        all.append(&mut found);
    }
    all
}

fn kernel(host: &System) -> Vec<Finding> {
    let kernel = &host.kernel;
    let what = format!("Linux {}", kernel.release);
    let version = match kernel.version() {
        None => Finding::info(
            what,
            "its version has an unknown form; the trials below decide",
        ),
        Some(v) if v >= (6, 11) => Finding::ok(
            what,
            "has everything CTP-96 can use: multi-buffer AF_XDP (6.6), transmit metadata (6.11)",
        ),
        Some(v) if v >= (6, 6) => Finding::info(
            what,
            "no AF_XDP transmit metadata (6.11): the CPU computes UDP checksums",
        ),
        Some(v) if v >= (5, 11) => Finding::warn(
            what,
            "no multi-buffer AF_XDP (6.6): with AF_XDP the MTU must stay below about 3,500",
        )
        .fix("install Linux 6.11 or later"),
        Some(_) => Finding::bad(
            what,
            "too old: AF_XDP lacks BPF links (5.9), so a killed daemon would leave its program \
             behind, and busy polling (5.11)",
        )
        .fix("install Linux 6.11 or later"),
    };
    let mut found = vec![version];
    match &kernel.options {
        Reading::Unreadable { unreadable } => found.push(Finding::info(
            "kernel configuration not readable",
            format!("{unreadable}; the trials below decide"),
        )),
        Reading::Known(options) => {
            let off = |name: &str| options.get(name).is_none_or(|v| v == "n");
            let needed = ["XDP_SOCKETS", "BPF_SYSCALL", "IO_URING"];
            let missing: Vec<_> = needed.into_iter().filter(|o| off(o)).collect();
            if missing.is_empty() {
                let what = format!("options {} are built in", needed.join(", "));
                found.push(Finding::ok(what, "AF_XDP and io_uring exist"));
            } else {
                let list = missing.join("=n, CONFIG_");
                let effect = "the packet paths that need them are closed";
                let fix = format!("use a kernel with CONFIG_{}=y", missing.join("=y, CONFIG_"));
                found.push(Finding::bad(format!("CONFIG_{list}=n"), effect).fix(fix));
            }
            for (option, effect) in [
                (
                    "BPF_JIT",
                    "XDP programs are interpreted: several times slower",
                ),
                (
                    "NET_RX_BUSY_POLL",
                    "AF_XDP cannot busy-poll: interrupts disturb the lane cores",
                ),
                ("HUGETLBFS", "no reserved 2 MiB pages: more TLB misses"),
            ] {
                if off(option) {
                    let fix = format!("use a kernel with CONFIG_{option}=y");
                    found.push(Finding::warn(format!("CONFIG_{option}=n"), effect).fix(fix));
                }
            }
        }
    }
    if kernel.bpf_jit == Some(0) {
        let effect = "XDP programs are interpreted: several times slower";
        let fix = "sysctl -w net.core.bpf_jit_enable=1";
        found.push(Finding::warn("the BPF compiler is switched off", effect).fix(fix));
    }
    match kernel.lockdown.as_deref() {
        None | Some("none") => {}
        Some("confidentiality") => found.push(Finding::warn(
            "kernel lockdown is in confidentiality mode",
            "BPF programs may not read kernel memory; XDP programs do not need to, the trial \
             below tells",
        )),
        Some(mode) => found.push(Finding::info(
            format!("kernel lockdown is in {mode} mode"),
            "does not forbid XDP programs or AF_XDP",
        )),
    }
    found.push(match &kernel.lsm {
        Some(lsm) => Finding::ok(
            format!("security modules: {}", lsm.join(", ")),
            "one of them can refuse what capabilities allow",
        ),
        None => Finding::info(
            "security modules and lockdown are not visible: securityfs is not mounted",
            "if one of them refuses something, it cannot be named below",
        )
        .fix("mount -t securityfs none /sys/kernel/security"),
    });
    found.push(iommu(host));
    found
}

fn iommu(host: &System) -> Finding {
    let kernel = &host.kernel;
    if kernel.iommu_groups == 0 {
        let effect = "DMA goes straight to memory: nothing to pay, and no protection from devices";
        return Finding::ok("no IOMMU in use", effect);
    }
    let types: Vec<_> = kernel
        .iommu_types
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    let what = format!(
        "IOMMU: {} groups ({})",
        kernel.iommu_groups,
        types.join(", ")
    );
    let strict = kernel.iommu_types.contains_key("DMA");
    if strict {
        let effect = "strict translation invalidates the IOTLB at each unmapping, which sockets \
            pay per packet; AF_XDP zero-copy maps its memory once";
        return Finding::warn(what, effect).fix("boot with iommu=pt, if the devices are trusted");
    }
    let effect = "AF_XDP zero-copy maps its memory once, so it pays little";
    Finding::ok(what, effect)
}

fn rights(host: &System) -> Vec<Finding> {
    let rights = &host.rights;
    let mut needed = vec![Cap::NetAdmin, Cap::NetRaw, Cap::Bpf];
    if rights.memlock.is_some_and(|n| n < UMEM) {
        needed.push(Cap::IpcLock);
    }
    let lacking = rights.lacks(&needed);
    let names: Vec<_> = needed.iter().map(|c| c.name()).collect();
    let names = names.join(", ");
    let mut found = vec![if lacking.is_empty() {
        Finding::ok(format!("has {names}"), "all that AF_XDP takes")
    } else {
        let what = format!("user {} lacks {}", rights.uid, lacking.join(", "));
        let effect = "UDP works. AF_XDP needs them all; without CAP_NET_ADMIN the receive queue \
            of a socket is limited by net.core.rmem_max";
        Finding::warn(what, effect).fix(SETCAP)
    }];
    if !rights.initial_user_namespace {
        found.push(Finding::info(
            "runs in a user namespace of its own",
            "capabilities here do not count where the kernel asks for those of the host: XDP \
             programs, locked memory",
        ));
    }
    if rights.seccomp {
        let effect = "it may refuse io_uring, bpf or AF_XDP; the trials below tell";
        found.push(Finding::info(
            "a seccomp filter applies to this process",
            effect,
        ));
    }
    found.push(match rights.memlock {
        None => Finding::ok(
            "locked memory is not limited",
            "AF_XDP can register its memory",
        ),
        Some(n) if rights.has(Cap::IpcLock) && rights.initial_user_namespace => Finding::ok(
            format!(
                "locked memory is limited to {}, CAP_IPC_LOCK lifts that",
                bytes(n)
            ),
            "AF_XDP can register its memory",
        ),
        Some(n) if n >= UMEM => Finding::info(
            format!("locked memory is limited to {}", bytes(n)),
            format!(
                "AF_XDP registers {} for each queue at MTU 1500, four times that at 9000",
                bytes(UMEM)
            ),
        ),
        Some(n) => Finding::warn(
            format!("locked memory is limited to {}", bytes(n)),
            format!(
                "AF_XDP registers {} for each queue at MTU 1500, four times that at 9000: it is \
                 refused",
                bytes(UMEM)
            ),
        )
        .fix("LimitMEMLOCK=infinity in the daemon's unit, or ulimit -l unlimited"),
    });
    found
}

fn paths(host: &System) -> Vec<Finding> {
    let trials = &host.trials;
    let kernel = &host.kernel;
    let mut found = Vec::new();
    let bpf_needs = [Cap::Bpf, Cap::NetAdmin];
    match (trials.af_xdp, trials.xdp_program) {
        (None, None) => found.push(Finding::ok(
            "AF_XDP: socket and XDP program are accepted",
            "the interface's driver decides between zero-copy and copy mode, see below",
        )),
        (socket, program) => {
            if let Some(errno) = socket {
                let (why, fix) = explain(errno, &[Cap::NetRaw], "XDP_SOCKETS", host);
                let effect = format!("{why}. backend = \"auto\" takes UDP sockets instead");
                let what = "AF_XDP: the socket is refused";
                found.push(Finding::bad(what, effect).fix_if(fix));
            }
            if let Some(errno) = program {
                let (why, fix) = explain(errno, &bpf_needs, "BPF_SYSCALL", host);
                let effect = format!("{why}. backend = \"auto\" takes UDP sockets instead");
                let what = "AF_XDP: the XDP program is refused";
                found.push(Finding::bad(what, effect).fix_if(fix));
            }
        }
    }
    let switched_off = match kernel.io_uring_disabled {
        Some(2) => Some("kernel.io_uring_disabled is 2: nobody may use it"),
        Some(1) if !host.rights.has(Cap::SysAdmin) => Some(
            "kernel.io_uring_disabled is 1: it takes CAP_SYS_ADMIN or the group of kernel.io_uring_group",
        ),
        _ => None,
    };
    found.push(match trials.io_uring {
        None => Finding::ok("io_uring: accepted", "backend = \"io_uring\" works"),
        Some(errno) => {
            let (why, fix) = match switched_off {
                Some(why) => (
                    why.to_owned(),
                    Some("sysctl -w kernel.io_uring_disabled=0".to_owned()),
                ),
                None => explain(errno, &[], "IO_URING", host),
            };
            let effect = format!(
                "{why}. sendmmsg and recvmmsg take its place; measured, they cost no more \
                 (docs/PERF_NOTES.md)"
            );
            Finding::warn("io_uring: refused", effect).fix_if(fix)
        }
    });
    found.push(sockets(host));
    found
}

fn sockets(host: &System) -> Finding {
    let kernel = &host.kernel;
    let (Some(receive), Some(send)) = (kernel.rmem_max, kernel.wmem_max) else {
        let effect = "the daemon says at start what its sockets got (ctp96 status)";
        return Finding::info("net.core.rmem_max and wmem_max are not readable", effect);
    };
    let what = format!(
        "socket queues: at most {} to receive, {} to send",
        bytes(receive),
        bytes(send)
    );
    if receive >= RECEIVE_QUEUE && send >= SEND_QUEUE {
        return Finding::ok(what, "what the daemon asks for");
    }
    if host.rights.has(Cap::NetAdmin) {
        let what = format!("{what}; CAP_NET_ADMIN goes beyond");
        return Finding::ok(what, "the daemon gets the queues that it asks for");
    }
    let effect = format!(
        "UDP sockets want {} and {}: a burst beyond that is lost and sent again",
        bytes(RECEIVE_QUEUE),
        bytes(SEND_QUEUE)
    );
    Finding::warn(what, effect).fix(format!(
        "sysctl -w net.core.rmem_max={RECEIVE_QUEUE} net.core.wmem_max={SEND_QUEUE}"
    ))
}

fn memory(host: &System) -> Vec<Finding> {
    let m = &host.memory;
    let mut found = vec![Finding::ok(
        format!("{} of {} available", bytes(m.available), bytes(m.total)),
        "memory.budget takes its share of it",
    )];
    let page = 2_u64 << 20;
    if m.huge_free > 0 {
        let what = format!(
            "{} of {} pages of 2 MiB are free",
            m.huge_free, m.huge_total
        );
        let effect = format!("{} of slots and AF_XDP frames", bytes(m.huge_free * page));
        found.push(Finding::ok(what, effect));
    } else {
        // A quarter of what is there, at most what one session of 16 lanes at MTU 1500 takes.
        let pages = (m.available / 4 / page).clamp(1, 256);
        let what = match m.huge_total {
            0 => "no 2 MiB pages are reserved".to_owned(),
            n => format!("all {n} pages of 2 MiB are in use"),
        };
        let pages = m.huge_total + pages;
        let fix = format!("sysctl -w vm.nr_hugepages={pages}");
        found.push(match m.transparent.as_deref() {
            Some(how @ ("always" | "madvise")) => Finding::info(
                format!("{what}; transparent huge pages: {how}"),
                "slots and AF_XDP frames lie on 2 MiB pages as far as memory is not fragmented when \
                 the daemon starts; reserved ones are certain",
            ),
            _ => Finding::warn(
                what,
                "slots and AF_XDP frames lie on 4 KiB pages: more TLB misses",
            ),
        }
        .fix(fix));
    }
    found
}

fn cpu(host: &System) -> Vec<Finding> {
    let cpus = &host.cpus;
    let mut found = Vec::new();
    if host.kernel.arch == "x86_64" {
        found.extend(vectors(host));
    } else {
        let aes = cpus.has("aes");
        let what = format!("AES instructions: {}", if aes { "yes" } else { "no" });
        found.push(match aes {
            true => Finding::ok(what, "sealing runs in hardware"),
            false => Finding::bad(what, "sealing runs in software: far below line rate"),
        });
    }
    if cpus.quota < cpus.allowed.len() {
        let what = format!("a quota of {} CPUs for {}", cpus.quota, cpus.allowed.len());
        let effect = "the kernel stops lane cores when the quota of a period is used up";
        let fix = "set node.cores to the quota, or raise it (cpu.max of the cgroup, CPUQuota=)";
        found.push(Finding::warn(what, effect).fix(fix));
    }
    if cpus.governors.is_empty() {
        let effect = "no frequency governor to set, as is usual in a virtual machine";
        found.push(Finding::ok("the host decides about CPU frequency", effect));
    } else {
        let list: Vec<_> = cpus
            .governors
            .iter()
            .map(|(name, n)| format!("{name} on {n} CPUs"))
            .collect();
        let what = format!("frequency governor: {}", list.join(", "));
        let steady = cpus.governors.keys().all(|g| g == "performance");
        found.push(match steady {
            true => Finding::ok(what, "lane cores run at full speed at once"),
            false => Finding::warn(what, "after each pause a core is slow for milliseconds")
                .fix("cpupower frequency-set -g performance"),
        });
    }
    if let Some((now, all)) = &cpus.clock {
        let others = all.join(", ");
        found.push(if now == "tsc" || now == "arch_sys_counter" {
            Finding::ok(
                format!("clock source {now}"),
                "reading the time takes no system call",
            )
        } else if all.iter().any(|c| c == "tsc") {
            let what = format!("clock source {now}, of {others}");
            Finding::warn(
                what,
                "reading the time is slower than from tsc; lane cores do it often",
            )
            .fix("echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource")
        } else {
            let what = format!("clock source {now}, there is no tsc");
            Finding::info(what, "reading the time may take a system call")
        });
    }
    if cpus.nodes.len() > 1 {
        let list: Vec<_> = cpus
            .nodes
            .iter()
            .map(|(n, c)| format!("node {n}: {} CPUs", c.len()))
            .collect();
        let effect = "lane cores belong on the node of their NIC: see below for each interface";
        found.push(Finding::info(format!("NUMA: {}", list.join(", ")), effect));
    } else {
        found.push(Finding::ok("one NUMA node", "all memory is equally near"));
    }
    if host.kernel.irqbalance {
        let effect = "it moves interrupts between CPUs, also those that ctp96 queues has placed";
        let fix = "systemctl disable --now irqbalance, or ban the NIC's interrupts in its \
            configuration";
        found.push(Finding::warn("irqbalance runs", effect).fix(fix));
    }
    found
}

fn vectors(host: &System) -> Vec<Finding> {
    let cpus = &host.cpus;
    let has = |flag: &str| if cpus.has(flag) { "yes" } else { "no" };
    let what = format!(
        "AES {}, VAES {}, VPCLMULQDQ {}, AVX2 {}, AVX-512 {}, GFNI {}",
        has("aes"),
        has("vaes"),
        has("vpclmulqdq"),
        has("avx2"),
        has("avx512f"),
        has("gfni")
    );
    let elsewhere = if cpus.virtual_machine {
        "a CPU model of the virtual machine that passes the features on, if the host has them"
    } else {
        "a CPU with VAES (Intel from Ice Lake, AMD from Zen 3)"
    };
    let finding = if !cpus.has("aes") || !cpus.has("pclmulqdq") {
        let effect = "AES-GCM runs in software: far below line rate";
        Finding::bad(what, effect).fix(elsewhere)
    } else if !cpus.has("avx2") {
        let effect = "FEC runs on its scalar kernel, AES-GCM without wide vectors";
        Finding::warn(what, effect).fix(elsewhere)
    } else if !cpus.has("vaes") {
        let effect = "AES-GCM runs without wide vectors, so more cores are needed (HARDWARE.md); \
            the suites aegis-256x2 and aegis-256 gain most on such a CPU";
        Finding::warn(what, effect).fix(elsewhere)
    } else if !cpus.has("gfni") {
        Finding::ok(what, "AES-GCM on wide vectors; FEC on AVX2")
    } else {
        Finding::ok(what, "AES-GCM on wide vectors; FEC on GFNI")
    };
    vec![finding]
}

#[cfg(test)]
mod tests;
