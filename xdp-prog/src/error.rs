//! What can go wrong while loading and attaching, in sentences that say what to do.

use crate::netlink::Hook;
use std::error::Error;
use std::io;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Why the program is not on the interface.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The options contradict themselves or the program's bounds.
    #[error("{0}")]
    Options(String),
    /// There is no interface of this name in this network namespace.
    #[error("there is no network interface {0} here")]
    NoInterface(String),
    /// Another XDP program is on the interface, and it was not to be displaced.
    #[error(
        "{interface} already has an XDP program: id {id}{}, {hook} mode (bpftool prog show id {id}). \
         It was left in place; to displace it, set replace_foreign",
        .name.as_ref().map(|n| format!(" ({n})")).unwrap_or_default()
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// The kernel's number of the other program.
        id: u32,
        /// Its name, if it has one that we may see.
        name: Option<String>,
        /// Where it hangs.
        hook: Hook,
    },
    /// The kernel did not allow it; the text says which right is missing, as far as it can be known.
    #[error("{0}")]
    Permission(String),
    /// The kernel is too old for the program.
    #[error("the XDP program needs Linux 5.18 or newer; this is {0}")]
    Kernel(String),
    /// The kernel or the driver refused to attach.
    #[error("{interface} does not take the XDP program in {mode} mode: {reason}")]
    Refused {
        /// The interface.
        interface: String,
        /// The mode or modes that were tried.
        mode: String,
        /// What the kernel said, with what is known about the cause.
        reason: String,
    },
    /// Something else failed: reading the object, creating maps, the verifier, netlink.
    #[error("{step}: {reason}")]
    Failed {
        /// What was being done.
        step: &'static str,
        /// What went wrong.
        reason: String,
    },
}

impl AttachError {
    /// The error for `step`, as a matter of rights where the kernel's answer says so.
    pub(crate) fn at(step: &'static str, error: &(dyn Error + 'static)) -> Self {
        match os_code(error) {
            Some(code @ (libc::EPERM | libc::EACCES)) if !is_verdict_of_verifier(error, code) => {
                Self::Permission(Rights::read().sentence(step))
            }
            _ => Self::Failed {
                step,
                reason: chain(error),
            },
        }
    }
}

/// The sockets' or the counters' map did not take or give a value.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct MapError {
    pub(crate) what: String,
    pub(crate) reason: String,
}

impl MapError {
    pub(crate) fn new(what: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        Self {
            what: what.into(),
            reason: chain(error),
        }
    }
}

/// The operating system's error number in an error or its causes.
pub(crate) fn os_code(error: &(dyn Error + 'static)) -> Option<i32> {
    causes(error).find_map(|e| e.downcast_ref::<io::Error>()?.raw_os_error())
}

/// EACCES is also how the verifier refuses a program; it always says why.
fn is_verdict_of_verifier(error: &(dyn Error + 'static), code: i32) -> bool {
    use aya::programs::ProgramError;
    code == libc::EACCES
        && causes(error).any(|e| match e.downcast_ref::<ProgramError>() {
            Some(ProgramError::LoadError { verifier_log, .. }) => {
                !verifier_log.to_string().trim().is_empty()
            }
            _ => false,
        })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&e: &&'a (dyn Error + 'static)| e.source())
}

/// An error and its causes in one line; of a long text (the verifier's log) the end, which decides.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    const MOST: usize = 1500;
    let mut parts: Vec<String> = Vec::new();
    for e in causes(error) {
        let text = e.to_string();
        // Transparent wrappers repeat their cause.
        if parts.last() != Some(&text) {
            parts.push(text);
        }
    }
    let text = parts.join(": ");
    match text.char_indices().rev().nth(MOST) {
        Some((at, _)) => format!("... {}", text.get(at..).unwrap_or_default()),
        None => text,
    }
}

/// What decides whether this process may load and attach BPF programs.
#[derive(Clone, Debug, Default)]
struct Rights {
    /// Effective capabilities; `None` if unknown.
    effective: Option<u64>,
    seccomp: bool,
    /// The user namespace is not the initial one.
    inner_users: bool,
    lockdown: Option<String>,
}

impl Rights {
    fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .map(str::trim)
        };
        let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let users: Vec<&str> = users.split_whitespace().collect();
        let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
        let lockdown = lockdown
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'))
            .map(|(level, _)| level.to_owned())
            .filter(|level| level != "none");
        Self {
            effective: field("CapEff:").and_then(|v| u64::from_str_radix(v, 16).ok()),
            seccomp: field("Seccomp:") == Some("2"),
            inner_users: !users.is_empty() && users != ["0", "0", "4294967295"],
            lockdown,
        }
    }

    fn sentence(&self, step: &str) -> String {
        let has = |bit: u32| self.effective.is_none_or(|caps| caps & (1 << bit) != 0);
        let mut missing = Vec::new();
        if !has(CAP_SYS_ADMIN) {
            for (bit, name) in [(CAP_BPF, "CAP_BPF"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")] {
                if !has(bit) {
                    missing.push(name);
                }
            }
        }
        if !missing.is_empty() {
            return format!(
                "{step} is not permitted: the process lacks {}. Run it as root, or give it \
                 CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW (AmbientCapabilities= of its systemd unit, \
                 or setcap cap_bpf,cap_net_admin,cap_net_raw+ep)",
                missing.join(" and ")
            );
        }
        let mut causes = Vec::new();
        if self.inner_users {
            causes.push(
                "its capabilities count only inside its user namespace (a rootless container), and \
                 BPF wants them in the initial one"
                    .to_owned(),
            );
        }
        if self.seccomp {
            causes.push(
                "a seccomp filter is on the process (containers: allow the bpf system call)"
                    .to_owned(),
            );
        }
        if let Some(level) = &self.lockdown {
            causes.push(format!("kernel lockdown is at {level}"));
        }
        if causes.is_empty() {
            causes.push(
                "neither a user namespace, nor seccomp, nor lockdown is the reason, so look for a \
                 security module (SELinux, AppArmor: the audit log names it)"
                    .to_owned(),
            );
        }
        format!(
            "{step} is not permitted, although the process has the capabilities: {}",
            causes.join("; or ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BPF_AND_NET: u64 = 1 << CAP_BPF | 1 << CAP_NET_ADMIN;

    fn sentence(rights: &Rights) -> String {
        rights.sentence("loading")
    }

    #[test]
    fn the_missing_capability_is_named() {
        let with = |effective| {
            sentence(&Rights {
                effective: Some(effective),
                ..Rights::default()
            })
        };
        assert!(with(0).contains("lacks CAP_BPF and CAP_NET_ADMIN."));
        assert!(with(1 << CAP_NET_ADMIN).contains("lacks CAP_BPF."));
        assert!(with(1 << CAP_BPF).contains("lacks CAP_NET_ADMIN."));
        assert!(with(BPF_AND_NET).contains("security module"));
        assert!(with(1 << CAP_SYS_ADMIN).contains("security module"));
    }

    #[test]
    fn other_causes_are_named_when_the_capabilities_are_there() {
        let all = Rights {
            effective: Some(BPF_AND_NET),
            seccomp: true,
            inner_users: true,
            lockdown: Some("confidentiality".into()),
        };
        let text = sentence(&all);
        for cause in [
            "seccomp",
            "user namespace",
            "lockdown is at confidentiality",
        ] {
            assert!(text.contains(cause), "{text}");
        }
    }

    #[test]
    fn a_refusal_for_want_of_rights_becomes_a_sentence_and_others_keep_their_text() {
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        assert!(matches!(
            AttachError::at("loading", &refused),
            AttachError::Permission(_)
        ));
        let other = io::Error::from_raw_os_error(libc::ENOMEM);
        let text = AttachError::at("loading", &other).to_string();
        assert!(text.starts_with("loading: "), "{text}");
    }

    #[test]
    fn a_long_chain_keeps_its_end() {
        let long = io::Error::other(format!("{}end", "x".repeat(5000)));
        let text = chain(&long);
        assert!(text.len() < 1600 && text.ends_with("end"));
    }
}
