//! Why the kernel refused, as a sentence, and the way out.

use super::System;
use crate::host::rights::Cap;

/// Gives the daemon what AF_XDP takes. A unit says it with `AmbientCapabilities=`.
pub const SETCAP: &str =
    "setcap cap_net_admin,cap_net_raw,cap_bpf,cap_ipc_lock+ep /usr/local/bin/ctp96d";

/// Why a call ended with `errno`, and what to do. `needed` are the capabilities that it takes,
/// `option` the kernel option that builds it in.
pub fn explain(
    errno: i32,
    needed: &[Cap],
    option: &str,
    host: &System,
) -> (String, Option<String>) {
    let rights = &host.rights;
    match errno {
        libc::EPERM | libc::EACCES => permission(needed, host),
        libc::ENOSYS | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT if rights.seccomp => (
            format!(
                "the kernel was built without CONFIG_{option}, or the seccomp filter that applies \
                 to this process hides it"
            ),
            Some(SECCOMP_FIX.into()),
        ),
        libc::ENOSYS | libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT => (
            format!("the kernel was built without CONFIG_{option}"),
            Some(format!("use a kernel with CONFIG_{option}=y")),
        ),
        libc::ENOMEM => (
            "it may lock no more memory: the limit (memlock) is used up and the process lacks \
             CAP_IPC_LOCK"
                .into(),
            Some("LimitMEMLOCK=infinity in the daemon's unit, or ulimit -l unlimited".into()),
        ),
        libc::EMFILE | libc::ENFILE => (
            "too many files are open".into(),
            Some("LimitNOFILE=65536 in the daemon's unit, or ulimit -n 65536".into()),
        ),
        other => (
            format!(
                "the kernel says: {}",
                std::io::Error::from_raw_os_error(other)
            ),
            None,
        ),
    }
}

const SECCOMP_FIX: &str = "allow io_uring_setup, bpf and socket(AF_XDP) in the container's seccomp \
    profile, or in SystemCallFilter= and RestrictAddressFamilies= of the unit";

fn permission(needed: &[Cap], host: &System) -> (String, Option<String>) {
    let rights = &host.rights;
    let lacking = rights.lacks(needed);
    if !lacking.is_empty() {
        let mut why = format!(
            "it needs {}, and this process (user {}) lacks {}",
            needed
                .iter()
                .map(|c| c.name())
                .collect::<Vec<_>>()
                .join(", "),
            rights.uid,
            lacking.join(", ")
        );
        if rights.no_new_privs {
            why.push_str("; no_new_privs is set, so file capabilities have no effect either");
        }
        return (why, Some(SETCAP.into()));
    }
    if !needed.is_empty() && !rights.initial_user_namespace {
        let why = "this process has the capabilities in a user namespace of its own (a rootless \
            container), and the kernel wants them in the host's";
        let fix = "run the daemon outside the user namespace, or with the host's root";
        return (why.into(), Some(fix.into()));
    }
    if rights.seccomp {
        let why = "capabilities suffice, and a seccomp filter applies to this process: it refuses";
        return (why.into(), Some(SECCOMP_FIX.into()));
    }
    if let Some(mode) = host.kernel.lockdown.as_deref().filter(|m| *m != "none") {
        return (
            format!("kernel lockdown is in {mode} mode and may refuse this"),
            Some("boot without lockdown= and without Secure Boot's lockdown".into()),
        );
    }
    // capability, lockdown and the like decide by what was looked at above.
    let modules: Vec<&str> = host
        .kernel
        .lsm
        .iter()
        .flatten()
        .map(String::as_str)
        .filter(|m| ["apparmor", "selinux", "smack", "tomoyo", "bpf", "landlock"].contains(m))
        .collect();
    if modules.is_empty() {
        let why = "the kernel says: operation not permitted; capabilities suffice, and no seccomp \
            filter, lockdown or security module is visible from here";
        return (why.into(), None);
    }
    (
        format!(
            "capabilities suffice and there is no seccomp filter, so a security module ({}) \
             refuses",
            modules.join(", ")
        ),
        Some("journalctl -k --grep 'avc|apparmor' names the rule".into()),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::good;
    use super::*;

    const NEEDED: [Cap; 2] = [Cap::NetAdmin, Cap::Bpf];

    #[test]
    fn each_cause_has_its_sentence() {
        let mut host = good();
        let why = |host: &System, errno| explain(errno, &NEEDED, "BPF_SYSCALL", host).0;
        host.kernel.lsm = None;
        assert!(why(&host, libc::EPERM).contains("operation not permitted"));
        host.kernel.lsm = Some(vec!["capability".into(), "selinux".into()]);
        assert!(why(&host, libc::EPERM).contains("security module (selinux)"));
        host.kernel.lockdown = Some("integrity".into());
        assert!(why(&host, libc::EPERM).contains("lockdown is in integrity mode"));
        host.rights.seccomp = true;
        assert!(why(&host, libc::EPERM).contains("seccomp filter"));
        assert!(why(&host, libc::ENOSYS).contains("hides it"));
        host.rights.initial_user_namespace = false;
        assert!(why(&host, libc::EPERM).contains("rootless"));
        host.rights.effective = 1 << 12;
        let (text, fix) = explain(libc::EACCES, &NEEDED, "BPF_SYSCALL", &host);
        assert!(text.contains("lacks CAP_BPF") && !text.contains("lacks CAP_NET_ADMIN"));
        assert!(fix.is_some_and(|f| f.contains("setcap")));
        host.rights.seccomp = false;
        assert!(why(&host, libc::ENOSYS).contains("without CONFIG_BPF_SYSCALL"));
        assert!(why(&host, libc::ENOMEM).contains("CAP_IPC_LOCK"));
        assert!(why(&host, libc::EINVAL).contains("Invalid argument"));
    }
}
