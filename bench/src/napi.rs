//! Threaded NAPI on a veth pair: the receive half of the kernel's work on frames runs in a thread on
//! the receiver's CPU, as a network card's interrupt would have it, and not inside the sender's
//! system call.

use crate::Result;
use ::tests::lab::{LINK, Lab, run_in, tool};
use std::collections::BTreeSet;

/// Gives each queue of both ends a thread, on the CPU of its end.
///
/// # Errors
/// The kernel is older than 5.12, its sysfs cannot be mounted, or `ethtool` is missing.
pub fn enable(lab: &Lab, cores: [usize; 2]) -> Result<()> {
    for (host, core) in lab.hosts().into_iter().zip(cores) {
        let before = Threads::now();
        // A veth interface has NAPI instances only with GRO or an XDP program.
        run_in(host, "ethtool", &["-K", LINK, "gro", "on"])?;
        let write = format!("echo 1 > /sys/class/net/{LINK}/threaded");
        tool("ip", &["netns", "exec", host.name(), "sh", "-c", &write])?;
        before.pin_new(core)?;
    }
    Ok(())
}

/// The threads of interfaces of the lab's name, whatever their namespace.
struct Threads(BTreeSet<i32>);

impl Threads {
    /// Those that there are now.
    fn now() -> Threads {
        let prefix = format!("napi/{LINK}-");
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
        Threads(
            pids.filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|comm| comm.starts_with(&prefix))
            })
            .collect(),
        )
    }

    /// Pins those that have come since to a CPU.
    fn pin_new(&self, core: usize) -> Result<()> {
        let now = Threads::now();
        let mut new = now.0.difference(&self.0).peekable();
        if new.peek().is_none() {
            return Err("the kernel started no NAPI thread".into());
        }
        for &pid in new {
            // SAFETY: all-zero bytes are an empty set.
            let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            // SAFETY: the set is live; numbers beyond it are passed over.
            unsafe { libc::CPU_SET(core, &mut set) };
            // SAFETY: a live set of the given length.
            let r = unsafe { libc::sched_setaffinity(pid, size_of_val(&set), &raw const set) };
            if r != 0 {
                return Err(std::io::Error::last_os_error().into());
            }
        }
        Ok(())
    }
}
