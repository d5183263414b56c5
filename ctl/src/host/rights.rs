//! What this process may do: capabilities, seccomp, user namespace, memlock.

use serde::Serialize;

/// A capability that some packet path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Cap {
    /// Configure interfaces, attach XDP programs, exceed socket buffer limits.
    #[serde(rename = "CAP_NET_ADMIN")]
    NetAdmin,
    /// Make AF_XDP sockets.
    #[serde(rename = "CAP_NET_RAW")]
    NetRaw,
    /// Lock memory beyond the limit.
    #[serde(rename = "CAP_IPC_LOCK")]
    IpcLock,
    /// Use io_uring where it is restricted, and stand in for CAP_BPF.
    #[serde(rename = "CAP_SYS_ADMIN")]
    SysAdmin,
    /// Load BPF programs.
    #[serde(rename = "CAP_BPF")]
    Bpf,
}

impl Cap {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Cap::NetAdmin => "CAP_NET_ADMIN",
            Cap::NetRaw => "CAP_NET_RAW",
            Cap::IpcLock => "CAP_IPC_LOCK",
            Cap::SysAdmin => "CAP_SYS_ADMIN",
            Cap::Bpf => "CAP_BPF",
        }
    }

    fn bit(self) -> u32 {
        match self {
            Cap::NetAdmin => 12,
            Cap::NetRaw => 13,
            Cap::IpcLock => 14,
            Cap::SysAdmin => 21,
            Cap::Bpf => 39,
        }
    }
}

/// What the kernel lets this process do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rights {
    /// Effective capabilities, as the kernel's bit set.
    pub effective: u64,
    /// Effective user.
    pub uid: u32,
    /// A seccomp filter applies.
    pub seccomp: bool,
    /// `no_new_privs` is set: file capabilities and setuid have no effect.
    pub no_new_privs: bool,
    /// The user namespace is the host's own.
    pub initial_user_namespace: bool,
    /// Soft limit of locked memory, bytes; `None` is no limit.
    pub memlock: Option<u64>,
}

impl Rights {
    /// The process has the capability, at least in its own user namespace.
    pub fn has(&self, cap: Cap) -> bool {
        let bit = |c: Cap| self.effective & (1 << c.bit()) != 0;
        // What CAP_BPF allows, CAP_SYS_ADMIN allows as before.
        bit(cap) || (cap == Cap::Bpf && bit(Cap::SysAdmin))
    }

    /// Those of `needed` that it has not.
    pub fn lacks(&self, needed: &[Cap]) -> Vec<&'static str> {
        needed
            .iter()
            .filter(|c| !self.has(**c))
            .map(|c| c.name())
            .collect()
    }

    /// From `/proc/self`; `None` where that cannot be read.
    pub fn read() -> Option<Rights> {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).ok();
        let mut rights = parse_status(&file("status")?)?;
        rights.initial_user_namespace = file("uid_map").is_none_or(|m| is_whole_map(&m));
        rights.memlock = parse_memlock(&file("limits")?)?;
        Some(rights)
    }
}

/// The lines of `/proc/self/status` that matter.
fn parse_status(text: &str) -> Option<Rights> {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        Some(line.strip_prefix(':')?.trim())
    };
    Some(Rights {
        effective: u64::from_str_radix(field("CapEff")?, 16).ok()?,
        uid: field("Uid")?.split_whitespace().nth(1)?.parse().ok()?,
        // 2 is a filter; 1, strict mode, could not even open this file.
        seccomp: field("Seccomp").is_some_and(|v| v != "0"),
        no_new_privs: field("NoNewPrivs").is_some_and(|v| v == "1"),
        initial_user_namespace: true,
        memlock: None,
    })
}

/// The identity map over all numbers, which only the initial user namespace has.
fn is_whole_map(text: &str) -> bool {
    text.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The soft limit in `/proc/self/limits`: `Some(None)` is no limit.
fn parse_memlock(text: &str) -> Option<Option<u64>> {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        n => Some(Some(n.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tctp96\nUid:\t1000\t1001\t1000\t1000\nCapInh:\t0000000000000000\n\
        CapEff:\t0000000000003000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

    #[test]
    fn capabilities_and_filters_are_read() {
        let r = parse_status(STATUS).expect("complete");
        assert!(r.has(Cap::NetAdmin) && r.has(Cap::NetRaw) && !r.has(Cap::Bpf));
        let needed = [Cap::NetRaw, Cap::Bpf, Cap::IpcLock];
        assert_eq!(r.lacks(&needed), ["CAP_BPF", "CAP_IPC_LOCK"]);
        assert!(r.seccomp && r.no_new_privs);
        let admin = parse_status(&STATUS.replace("3000", "200000")).expect("complete");
        assert!(admin.has(Cap::Bpf) && !admin.has(Cap::NetAdmin));
        assert_eq!(r.uid, 1001, "the effective one");
        assert!(
            !parse_status(&STATUS.replace("Seccomp:\t2", "Seccomp:\t0"))
                .unwrap()
                .seccomp
        );
        assert_eq!(parse_status("CapEff:\txyz\n"), None);
    }

    #[test]
    fn limits_and_namespaces() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max locked memory         8388608              16777216             bytes\n\
            Max file locks            unlimited            unlimited            locks\n";
        assert_eq!(parse_memlock(limits), Some(Some(8 << 20)));
        let none = limits.replace("8388608  ", "unlimited");
        assert_eq!(parse_memlock(&none), Some(None));
        assert_eq!(parse_memlock(""), None);
        assert!(is_whole_map("         0          0 4294967295\n"));
        assert!(!is_whole_map("         0       1000          1\n"));
    }

    #[test]
    fn this_process_has_rights() {
        assert!(Rights::read().is_some());
    }
}
