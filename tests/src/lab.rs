//! Two hosts in one machine: a pair of network namespaces joined by a veth pair.
//!
//! ```text
//!   left (10.96.0.1, fd96::1) ctp0 ======== ctp0 right (10.96.0.2, fd96::2)
//! ```
//!
//! The namespaces are private, so the addresses are the same in every lab and labs never collide;
//! the names carry the owner's process id, and a new lab first sweeps those whose owner has died.
//! Code enters a namespace with `setns` on a thread of its own, or in the child before `exec`:
//! unlike `ip netns exec`, that leaves the mounts (cgroup, sysfs) as they are.

use crate::impair::Emulator;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

mod router;

pub use router::Treatment;

/// Name of the veth interface, the same on both hosts.
pub const LINK: &str = "ctp0";
/// Interface of the namespace between the two hosts that leads to the left one.
pub(crate) const TO_LEFT: &str = "to-a";
/// The same, to the right one.
pub(crate) const TO_RIGHT: &str = "to-b";
const PREFIX: &str = "ctp96-";
const NETNS_DIR: &str = "/run/netns";

/// Why a lab could not be made or used.
#[derive(Debug)]
pub struct LabError(String);

impl LabError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LabError {}

/// How packets larger than the MTU cross the pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// As veth does by default: a GSO super-packet (up to 64 KB) crosses whole, as one skb.
    #[default]
    Whole,
    /// Segmentation offloads and GRO off: every frame crosses alone, so that loss, counters and
    /// cost per packet are those of a real wire. Needs `ethtool`.
    PerFrame,
    /// As [`Offloads::PerFrame`], and checksums are computed by the host that sends, so that what
    /// is on the wire is complete.
    Off,
}

/// What kind of pair to make.
#[derive(Clone, Debug)]
pub struct LabConfig {
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// Segmentation offloads of both ends.
    pub offloads: Offloads,
}

impl Default for LabConfig {
    fn default() -> Self {
        Self {
            mtu: 1500,
            offloads: Offloads::Whole,
        }
    }
}

/// Two joined namespaces; dropping it removes both.
#[derive(Debug)]
pub struct Lab {
    /// What carries frames between them, in the wire; ends before its interfaces do.
    emulator: Option<Box<Emulator>>,
    /// One end: 10.96.0.1, fd96::1.
    pub left: Host,
    /// The other end: 10.96.0.2, fd96::2.
    pub right: Host,
    /// What lies between them, if not the pair alone.
    wire: Option<Host>,
    mtu: u32,
}

impl Lab {
    /// Makes the namespaces and the pair, and waits until both ends are up.
    ///
    /// # Errors
    /// The command that failed and what it said. What was made until then is removed.
    pub fn new(config: &LabConfig) -> Result<Self, LabError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep_stale();
        let id = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let left = Host::new(format!("{id}-a"), 1)?;
        let right = Host::new(format!("{id}-b"), 2)?;
        let lab = Self {
            left,
            right,
            wire: None,
            emulator: None,
            mtu: config.mtu,
        };
        let (a, b) = (lab.left.name(), lab.right.name());
        let pair = [
            "-n", a, "link", "add", LINK, "type", "veth", "peer", "name", LINK,
        ];
        tool("ip", &[&pair[..], &["netns", b]].concat())?;
        for host in lab.hosts() {
            host.prepare(config)?;
        }
        for host in lab.hosts() {
            host.set_link_up(true)?;
        }
        Ok(lab)
    }

    /// As [`Lab::new`], with a third namespace between the two instead of one pair: its interfaces
    /// [`TO_LEFT`] and [`TO_RIGHT`] lead to the hosts, and nothing forwards between them yet.
    pub(crate) fn with_wire(config: &LabConfig) -> Result<Self, LabError> {
        let mut lab = Self::new(config)?;
        let name = lab.left.name().trim_end_matches('a').to_owned() + "w";
        let wire = Host::new(name.clone(), 3)?;
        lab.left.ip(&["link", "del", LINK])?;
        let mtu = config.mtu.to_string();
        for (host, port) in [(&lab.left, TO_LEFT), (&lab.right, TO_RIGHT)] {
            let pair = [
                "link", "add", port, "mtu", &mtu, "type", "veth", "peer", "name", LINK, "netns",
            ];
            wire.ip(&[&pair[..], &[host.name()]].concat())?;
            wire.ip(&["link", "set", port, "addrgenmode", "none"])?;
            wire.ip(&["link", "set", port, "up"])?;
        }
        for host in lab.hosts() {
            host.prepare(config)?;
            host.set_link_up(true)?;
        }
        lab.wire = Some(wire);
        Ok(lab)
    }

    /// The namespace between the two, if there is one.
    pub(crate) fn wire(&self) -> Option<&Host> {
        self.wire.as_ref()
    }

    /// What carries frames between the two, of a lab that [`Lab::with_emulator`] made.
    pub fn emulator(&self) -> Option<&Emulator> {
        self.emulator.as_deref()
    }

    pub(crate) fn set_emulator(&mut self, emulator: Emulator) {
        self.emulator = Some(Box::new(emulator));
    }

    /// MTU of both ends, bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Both ends.
    pub fn hosts(&self) -> [&Host; 2] {
        [&self.left, &self.right]
    }
}

/// One end of a [`Lab`]: a network namespace with one veth interface.
#[derive(Debug)]
pub struct Host {
    name: String,
    netns: Arc<File>,
    index: u8,
}

impl Host {
    fn new(name: String, index: u8) -> Result<Self, LabError> {
        tool("ip", &["netns", "add", &name])?;
        match File::open(Path::new(NETNS_DIR).join(&name)) {
            Ok(file) => Ok(Self {
                name,
                netns: Arc::new(file),
                index,
            }),
            Err(e) => {
                let _ = tool("ip", &["netns", "del", &name]);
                Err(LabError::new(format!("open namespace {name}: {e}")))
            }
        }
    }

    fn prepare(&self, config: &LabConfig) -> Result<(), LabError> {
        let mtu = config.mtu.to_string();
        self.ip(&["link", "set", "lo", "up"])?;
        // No link-local address: nothing but the test's own traffic on the wire.
        self.ip(&["link", "set", LINK, "addrgenmode", "none"])?;
        self.ip(&["link", "set", LINK, "mtu", &mtu])?;
        match config.offloads {
            Offloads::Whole => Ok(()),
            Offloads::PerFrame => self.switch_off(&["tso", "tx-udp-segmentation", "gro"]),
            Offloads::Off => self.switch_off(&["tso", "tx-udp-segmentation", "gro", "tx", "rx"]),
        }
    }

    /// Only once the interface is up: an IPv6 address added before does not join its
    /// solicited-node group, and nobody would answer for it.
    fn add_addresses(&self) -> Result<(), LabError> {
        let v4 = format!("{}/24", self.v4());
        let v6 = format!("{}/64", self.v6());
        self.ip(&["addr", "replace", &v4, "dev", LINK])?;
        self.ip(&["addr", "replace", &v6, "dev", LINK, "nodad"])
            .map(drop)
    }

    fn switch_off(&self, features: &[&str]) -> Result<(), LabError> {
        let mut args = vec!["-K", LINK];
        for feature in features {
            args.extend([feature, "off"]);
        }
        run_tool(self.command("ethtool").args(&args)).map(drop)
    }

    /// Name of the namespace, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// IPv4 address of this end.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 96, 0, self.index)
    }

    /// IPv6 address of this end.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, u16::from(self.index))
    }

    /// Both addresses of this end.
    pub fn addrs(&self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }

    /// Runs `ip` with `args` in this namespace; the answer is its standard output.
    ///
    /// # Errors
    /// The command and what it said.
    pub fn ip(&self, args: &[&str]) -> Result<String, LabError> {
        tool("ip", &[&["-n", self.name()], args].concat())
    }

    /// Takes the interface up or down (down: frames in both directions are lost).
    ///
    /// # Errors
    /// The command and what it said.
    pub fn set_link_up(&self, up: bool) -> Result<(), LabError> {
        self.ip(&["link", "set", LINK, if up { "up" } else { "down" }])?;
        // The kernel forgets IPv6 addresses when an interface goes down.
        if up { self.add_addresses() } else { Ok(()) }
    }

    /// MAC address of the interface, as six pairs of hexadecimal digits.
    ///
    /// # Errors
    /// `ip` failed or its answer lacks the address.
    pub fn mac(&self) -> Result<String, LabError> {
        let text = self.ip(&["-j", "link", "show", LINK])?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| LabError::new(format!("ip -j link show: {e}")))?;
        let mac = json[0]["address"].as_str();
        mac.map(str::to_owned)
            .ok_or_else(|| LabError::new("ip -j link show has no address"))
    }

    /// Tells this host where `other` is, so that neither asks: what crosses is the test's traffic
    /// alone.
    pub(crate) fn know(&self, other: &Host) -> Result<(), LabError> {
        let mac = other.mac()?;
        for addr in other.addrs() {
            let addr = addr.to_string();
            let fixed = ["lladdr", &mac, "dev", LINK, "nud", "permanent"];
            self.ip(&[&["neigh", "replace", &addr][..], &fixed].concat())?;
        }
        Ok(())
    }

    /// Sets a network sysctl of this namespace, such as `ipv4/tcp_rmem`.
    ///
    /// # Errors
    /// The kernel has none of that name in namespaces, or refuses the value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), LabError> {
        let path = Path::new("/proc/sys/net").join(name);
        // The kernel shows /proc/sys/net of the namespace that the looking thread is in.
        self.run(|| std::fs::write(&path, value))?
            .map_err(|e| LabError::new(format!("{}: {e}", path.display())))
    }

    /// Gives the interface `n` queues each way. Needs `ethtool`.
    ///
    /// # Errors
    /// The command and what it said.
    pub fn set_queues(&self, n: u32) -> Result<(), LabError> {
        let n = n.to_string();
        let args = ["-L", LINK, "rx", &n, "tx", &n];
        run_tool(self.command("ethtool").args(args)).map(drop)
    }

    /// Runs `f` on a new thread inside this namespace and returns its value. Sockets that `f`
    /// opens and threads that it starts stay in the namespace for good. A panic in `f` goes on in
    /// the caller.
    ///
    /// # Errors
    /// The kernel refuses to enter the namespace; `f` has not run then.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let fd = self.netns.as_raw_fd();
        let joined = std::thread::scope(|scope| {
            let thread = scope.spawn(move || enter(fd).map(|()| f()));
            thread.join()
        });
        match joined {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => Err(LabError::new(format!("enter namespace {}: {e}", self.name))),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A command that will run inside this namespace.
    ///
    /// The child is killed when the *thread* that spawned it ends, so that a dying test leaves no
    /// daemon behind: spawn from a thread that lives as long as the child should.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let netns = Arc::clone(&self.netns);
        let mut command = Command::new(program);
        // SAFETY: the closure runs in the forked child before exec and makes two system calls,
        // setns and prctl, which are async-signal-safe; it allocates nothing, takes no lock, and
        // the descriptor is kept open by the Arc that it owns.
        unsafe {
            command.pre_exec(move || {
                enter(netns.as_raw_fd())?;
                // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory of ours.
                let rc = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if rc == 0 {
                    Ok(())
                } else {
                    Err(io::Error::last_os_error())
                }
            });
        }
        command
    }

    /// What the interface has counted since it was made.
    ///
    /// # Errors
    /// `ip` failed or its answer lacks a counter.
    pub fn link_counters(&self) -> Result<LinkCounters, LabError> {
        let text = self.ip(&["-s", "-j", "link", "show", LINK])?;
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| LabError::new(format!("ip -j link show: {e}")))?;
        let get = |direction: &str, counter: &str| {
            json[0]["stats64"][direction][counter]
                .as_u64()
                .ok_or_else(|| {
                    LabError::new(format!(
                        "ip -j link show has no counter {direction}.{counter}"
                    ))
                })
        };
        Ok(LinkCounters {
            rx_packets: get("rx", "packets")?,
            rx_bytes: get("rx", "bytes")?,
            rx_dropped: get("rx", "dropped")?,
            tx_packets: get("tx", "packets")?,
            tx_bytes: get("tx", "bytes")?,
            tx_dropped: get("tx", "dropped")?,
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The pair first: it would outlive the name for as long as a process holds the namespace.
        let _ = self.ip(&["link", "del", LINK]);
        let _ = tool("ip", &["netns", "del", &self.name]);
    }
}

/// Counters of a veth interface. A super-packet that crosses whole counts as one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets dropped on the way in by the interface itself.
    pub rx_dropped: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Packets dropped on the way out by the interface itself.
    pub tx_dropped: u64,
}

/// Removes the labs of processes that no longer run, with whatever still runs inside them.
/// Returns the names of the namespaces removed.
pub fn sweep_stale() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(NETNS_DIR) else {
        return Vec::new();
    };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let Some(owner) = owner_of(&name) else {
            continue;
        };
        if Path::new(&format!("/proc/{owner}")).exists() {
            continue;
        }
        kill_inside(&name);
        if tool("ip", &["netns", "del", &name]).is_ok() {
            removed.push(name);
        }
    }
    removed
}

/// The process id in the name of a lab's namespace, `ctp96-<pid>-<n>-<a|b>`.
fn owner_of(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let owner = parts.next()?.parse().ok()?;
    parts.next()?.parse::<u32>().ok()?;
    (matches!(parts.next()?, "a" | "b" | "w") && parts.next().is_none()).then_some(owner)
}

fn kill_inside(netns: &str) {
    let Ok(pids) = tool("ip", &["netns", "pids", netns]) else {
        return;
    };
    for pid in pids.lines().filter_map(|l| l.trim().parse::<i32>().ok()) {
        // SAFETY: kill takes two integers; the process runs in a namespace whose owner is dead.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

fn enter(netns: RawFd) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which the caller keeps open, and a flag; it changes only
    // the network namespace of the calling thread.
    let rc = unsafe { libc::setns(netns, libc::CLONE_NEWNET) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs a command inside the namespace of `host` and returns its standard output.
///
/// # Errors
/// As for [`tool`].
pub fn run_in(host: &Host, program: &str, args: &[&str]) -> Result<String, LabError> {
    run_tool(host.command(program).args(args))
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// The command line with its exit status and what it wrote to standard error.
pub fn tool(program: &str, args: &[&str]) -> Result<String, LabError> {
    run_tool(Command::new(program).args(args))
}

pub(crate) fn run_tool(command: &mut Command) -> Result<String, LabError> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|a| a.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| LabError::new(format!("cannot run `{line}`: {e}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(LabError::new(format!(
        "`{line}` failed ({}): {}",
        output.status,
        said.trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner_of("ctp96-123-0-a"), Some(123));
        assert_eq!(owner_of("ctp96-123-7-b"), Some(123));
        for other in [
            "ctp96-123",
            "ctp96-123-0",
            "ctp96-123-0-c",
            "ctp96-x-0-a",
            "web",
            "ctp96-",
        ] {
            assert_eq!(owner_of(other), None, "{other}");
        }
        assert_eq!(owner_of("ctp96-123-0-a-b"), None);
    }
}
