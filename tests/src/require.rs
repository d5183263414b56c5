//! What a test needs from the machine.
//!
//! A test that cannot run here says so with one line, `SKIPPED: <test>: <reason>`, on the real
//! standard error (past the capture of the test harness), and returns. Where the environment
//! variable `CI` is set, everything is expected to run, so the same situation is a failure.

use crate::lab::{Lab, LabConfig, tool};
use std::io::Write;
use std::sync::OnceLock;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// Something that a test needs and that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// The right and the tools to make network namespaces and veth pairs.
    Netns,
    /// `ethtool`, to turn segmentation offloads off ([`crate::lab::Offloads::PerFrame`]).
    Ethtool,
    /// clang with the BPF target, libbpf's headers and `tc`, for [`crate::loss`].
    BpfLoss,
    /// The right to load XDP programs, and a kernel for this one.
    Xdp,
}

impl Requirement {
    /// Why this requirement is not met here; `None` if it is. Probed once per process.
    pub fn missing(&self) -> Option<String> {
        static NETNS: OnceLock<Option<String>> = OnceLock::new();
        static ETHTOOL: OnceLock<Option<String>> = OnceLock::new();
        static LOSS: OnceLock<Option<String>> = OnceLock::new();
        static XDP: OnceLock<Option<String>> = OnceLock::new();
        match self {
            Self::Netns => NETNS.get_or_init(netns_missing).clone(),
            Self::Ethtool => ETHTOOL
                .get_or_init(|| tool_missing("ethtool", "--version"))
                .clone(),
            Self::BpfLoss => LOSS.get_or_init(loss_missing).clone(),
            Self::Xdp => XDP.get_or_init(xdp_missing).clone(),
        }
    }
}

/// The first of `needs` that is not met, as a reason.
pub fn first_missing(needs: &[Requirement]) -> Option<String> {
    needs.iter().find_map(Requirement::missing)
}

/// True where a skip counts as a failure: `CI` is set to something other than `false` or `0`.
pub fn skips_are_failures() -> bool {
    std::env::var("CI").is_ok_and(|v| !v.is_empty() && v != "false" && v != "0")
}

/// Reports that the running test cannot run here.
///
/// # Panics
/// Where skips are failures, see [`skips_are_failures`].
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed test");
    // One write to the stream itself: the harness captures only the print macros, and lines of
    // tests that run side by side must not mix.
    let line = format!("\nSKIPPED: {test}: {}\n", reason.replace('\n', "; "));
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(
        !skips_are_failures(),
        "{test} must run where CI is set: {reason}"
    );
}

/// Returns from the test, reporting the reason, unless every given [`Requirement`] is met.
#[macro_export]
macro_rules! require_or_skip {
    ($($need:expr),+ $(,)?) => {
        if let Some(reason) = $crate::require::first_missing(&[$($need),+]) {
            $crate::require::skip(&reason);
            return;
        }
    };
}

fn tool_missing(name: &str, version_flag: &str) -> Option<String> {
    match tool(name, &[version_flag]) {
        Ok(_) => None,
        Err(e) => Some(e.to_string()),
    }
}

fn netns_missing() -> Option<String> {
    let caps = match effective_capabilities() {
        Some(caps) => caps,
        None => return Some("cannot read the capabilities in /proc/self/status".into()),
    };
    for (bit, name) in [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
    ] {
        if caps & (1 << bit) == 0 {
            return Some(format!("network namespaces need {name} (run as root)"));
        }
    }
    if let Some(reason) = tool_missing("ip", "-V") {
        return Some(reason);
    }
    // Capabilities do not tell everything (seccomp, read-only /run): make one and see.
    Lab::new(&LabConfig::default()).err().map(|e| e.to_string())
}

fn loss_missing() -> Option<String> {
    tool_missing("tc", "-V").or_else(|| crate::loss::compile(0.5).err().map(|e| e.to_string()))
}

fn xdp_missing() -> Option<String> {
    use xdp_prog::AttachError::{Kernel, Permission};
    let options = xdp_prog::Options {
        ports: vec![1],
        ..xdp_prog::Options::default()
    };
    match xdp_prog::Loaded::new(&options) {
        // Any other failure is one of the program or its loader, and the test must show it.
        Err(e @ (Permission(_) | Kernel(_))) => Some(e.to_string()),
        _ => None,
    }
}

fn effective_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}
