//! Loading the program, attaching it, and its maps.

use crate::error::{chain, os_code};
use crate::link::{self, XdpLink};
use crate::netlink::{Attached, Hook, Link, Netlink, Which};
use crate::rules::{MAX_ADDRESSES, Verdicts};
use crate::{AttachError, AttachMode, MAX_PORTS, MapError, OBJECT, Options};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, XskMap};
use aya::programs::{ProgramError, TestRun, TestRunOptions, Xdp, loaded_programs};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// Queues that can be given a socket whatever the options say, so that a later change of the
/// interface's queue count fits.
const MIN_QUEUES: u32 = 128;
const NS_PER_S: u64 = 1_000_000_000;
const LOADING: &str = "loading the XDP program";
const QUERYING: &str = "asking the kernel about interfaces";
const ATTACHING: &str = "attaching the XDP program";

/// The program in the kernel, with its maps, but on no interface.
pub struct Loaded {
    ebpf: Ebpf,
    name: &'static str,
    sockets: XskMap<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Loaded {
    /// Loads the program with its maps filled as the options say.
    ///
    /// # Errors
    /// Options out of bounds, a kernel older than 5.18, missing rights, or what the kernel said.
    pub fn new(options: &Options) -> Result<Self, AttachError> {
        check_options(options)?;
        check_kernel()?;
        let (interval, burst) = match u64::from(options.handshakes_per_second) {
            0 => (0, 0),
            n => (NS_PER_S / n, NS_PER_S / n * n),
        };
        let check_address = u32::from(!options.addresses.is_empty());
        let failed = |e: &(dyn Error + 'static)| AttachError::at(LOADING, e);
        let mut ebpf = EbpfLoader::new()
            // No types of the kernel are used, so its own type information is not needed.
            .btf(None)
            .verifier_log_level(VerifierLogLevel::DEBUG)
            .override_global("handshake_interval_ns", &interval, true)
            .override_global("handshake_burst_ns", &burst, true)
            .override_global("check_address", &check_address, true)
            .map_max_entries("sockets", options.queues.max(MIN_QUEUES))
            .load(OBJECT)
            .map_err(|e| failed(&e))?;
        let missing = |what: &str| AttachError::Failed {
            step: LOADING,
            reason: format!("the object has no {what}"),
        };
        let name = if options.frags {
            "ctp96_frags"
        } else {
            "ctp96"
        };
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .ok_or_else(|| missing(name))?
            .try_into()
            .map_err(|e| failed(&e))?;
        program.load().map_err(|e| failed(&e))?;
        let mut map = |name: &str| ebpf.take_map(name).ok_or_else(|| missing(name));
        let mut ports: Array<_, u64> = map("ports")?.try_into().map_err(|e| failed(&e))?;
        for (word, bits) in port_words(&options.ports) {
            ports.set(word, bits, 0).map_err(|e| failed(&e))?;
        }
        let mut addresses: HashMap<_, [u8; 16], u8> =
            map("addresses")?.try_into().map_err(|e| failed(&e))?;
        for address in &options.addresses {
            addresses
                .insert(mapped(*address), 1, 0)
                .map_err(|e| failed(&e))?;
        }
        let sockets = map("sockets")?.try_into().map_err(|e| failed(&e))?;
        let verdicts = map("verdicts")?.try_into().map_err(|e| failed(&e))?;
        Ok(Self {
            ebpf,
            name,
            sockets,
            verdicts,
        })
    }

    /// Frames that arrive on `queue` go to this AF_XDP socket from now on. The socket must have a
    /// receive ring; the kernel delivers only if it is bound to that queue of the interface.
    ///
    /// # Errors
    /// The queue is beyond the map, or `fd` is no such socket.
    pub fn set_socket(&mut self, queue: u32, fd: BorrowedFd<'_>) -> Result<(), MapError> {
        self.sockets
            .set(queue, fd, 0)
            .map_err(|e| MapError::new(format!("giving queue {queue} a socket"), &e))
    }

    /// Frames that arrive on `queue` go to the kernel from now on.
    pub fn clear_socket(&mut self, queue: u32) {
        // Fails only if there is no socket, which is what is wanted.
        let _ = self.sockets.unset(queue);
    }

    /// What has been decided about the packets so far.
    ///
    /// # Errors
    /// The kernel did not give a count.
    pub fn verdicts(&self) -> Result<Verdicts, MapError> {
        Verdicts::read_with(|index| {
            let counts = self.verdicts.get(&index, 0)?;
            Ok(counts.iter().fold(0, |sum: u64, n| sum.wrapping_add(*n)))
        })
        .map_err(|e: aya::maps::MapError| MapError::new("reading the verdicts", &e))
    }

    /// Runs the program once on a packet without sending or receiving it (BPF_PROG_TEST_RUN). The
    /// answer is the XDP action: 1 drop, 2 pass, 4 redirect. With `first_buffer`, only that many
    /// bytes lie in the first buffer (Linux 6.18 or newer).
    ///
    /// # Errors
    /// The kernel refused: for example, the packet has fewer than 14 bytes.
    pub fn test_run(&self, packet: &[u8], first_buffer: Option<u32>) -> Result<u32, MapError> {
        let failed = |e: &(dyn Error + 'static)| MapError::new("running the XDP program", e);
        let program = self.program().map_err(|e| failed(&e))?;
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = [0u8; 24];
        if let Some(end) = first_buffer {
            context[4..8].copy_from_slice(&end.to_ne_bytes());
        }
        let options = TestRunOptions {
            data_in: Some(packet),
            ctx_in: first_buffer.is_some().then_some(&context),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).map_err(|e| failed(&e))?;
        Ok(result.return_value)
    }

    fn program(&self) -> Result<&Xdp, ProgramError> {
        match self.ebpf.program(self.name) {
            Some(program) => program.try_into(),
            None => Err(ProgramError::NotLoaded),
        }
    }

    fn id(&self) -> Option<u32> {
        Some(self.program().ok()?.info().ok()?.id())
    }

    fn attach(&self, index: u32, hook: Hook) -> Result<XdpLink, Box<dyn Error>> {
        let program = self.program()?.fd()?;
        Ok(XdpLink::create(program.as_fd(), index, hook)?)
    }
}

/// The program on an interface. Dropping it, or the end of the process in any way, detaches it.
#[derive(Debug)]
pub struct Program {
    // Before `loaded`, so that the interface is free before the maps go.
    _link: XdpLink,
    loaded: Loaded,
    hook: Hook,
    reason: Option<String>,
    link: Link,
    netlink: Netlink,
}

impl Program {
    /// Loads the program and puts it on the interface `ifname` of the calling thread's network
    /// namespace. No socket is set yet, so all good frames still go to the kernel.
    ///
    /// # Errors
    /// See [`AttachError`]. Nothing is left on the interface then; but a foreign program that was
    /// to be displaced may be gone.
    pub fn attach(ifname: &str, opts: &Options) -> Result<Program, AttachError> {
        let netlink = Netlink::open().map_err(|e| AttachError::at(QUERYING, &e))?;
        let link = query(&netlink, Which::Name(ifname))?
            .ok_or_else(|| AttachError::NoInterface(ifname.to_owned()))?;
        if !opts.replace_foreign
            && let Some(other) = link.programs.first()
        {
            return Err(foreign_error(&link, *other));
        }
        let loaded = Loaded::new(opts)?;
        for other in &link.programs {
            displace(&netlink, &link, *other)?;
        }
        let hooks: &[Hook] = match opts.mode {
            AttachMode::Auto => &[Hook::Native, Hook::Generic],
            AttachMode::Native => &[Hook::Native],
            AttachMode::Generic => &[Hook::Generic],
        };
        let mut refusals: Vec<String> = Vec::new();
        for hook in hooks {
            match loaded.attach(link.index, *hook) {
                Ok(attached) => {
                    return Ok(Program {
                        _link: attached,
                        loaded,
                        hook: *hook,
                        reason: refusals.pop(),
                        link,
                        netlink,
                    });
                }
                Err(e) => {
                    still_free(&netlink, &link, e.as_ref())?;
                    refusals.push(refusal(&link, *hook, opts, e.as_ref())?);
                }
            }
        }
        let modes: Vec<String> = hooks.iter().map(Hook::to_string).collect();
        Err(AttachError::Refused {
            interface: link.name,
            mode: modes.join(" or "),
            reason: refusals.join("; "),
        })
    }

    /// Where the program runs: native or generic.
    pub fn mode(&self) -> AttachMode {
        match self.hook {
            Hook::Native | Hook::Hardware => AttachMode::Native,
            Hook::Generic => AttachMode::Generic,
        }
    }

    /// Why native mode was refused, where [`AttachMode::Auto`] fell back to generic mode.
    pub fn mode_reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Number of the interface.
    pub fn ifindex(&self) -> u32 {
        self.link.index
    }

    /// MTU of the interface when the program was attached.
    pub fn mtu(&self) -> u32 {
        self.link.mtu
    }

    /// The kernel's number of the program, as `bpftool prog show id` takes it.
    pub fn id(&self) -> Option<u32> {
        self.loaded.id()
    }

    /// Whether the program is still on the interface: it is not once the interface is gone or
    /// somebody detached it.
    pub fn is_attached(&self) -> bool {
        let found = self.netlink.link(Which::Index(self.link.index));
        let (Ok(Some(link)), Some(id)) = (found, self.id()) else {
            return false;
        };
        link.programs.iter().any(|p| p.id == id)
    }

    /// See [`Loaded::set_socket`].
    ///
    /// # Errors
    /// The queue is beyond the map, or `fd` is no AF_XDP socket with a receive ring.
    pub fn set_socket(&mut self, queue: u32, fd: BorrowedFd<'_>) -> Result<(), MapError> {
        self.loaded.set_socket(queue, fd)
    }

    /// Frames that arrive on `queue` go to the kernel from now on.
    pub fn clear_socket(&mut self, queue: u32) {
        self.loaded.clear_socket(queue);
    }

    /// What has been decided about the packets so far, summed over the CPUs.
    ///
    /// # Errors
    /// The kernel did not give a count.
    pub fn verdicts(&self) -> Result<Verdicts, MapError> {
        self.loaded.verdicts()
    }
}

fn check_options(options: &Options) -> Result<(), AttachError> {
    let ports = options.ports.len();
    if ports == 0 || ports > MAX_PORTS || options.ports.contains(&0) {
        return Err(AttachError::Options(format!(
            "the XDP program takes 1 to {MAX_PORTS} UDP ports, none of them 0; {ports} were given"
        )));
    }
    if options.addresses.len() as u64 > MAX_ADDRESSES {
        return Err(AttachError::Options(format!(
            "the XDP program takes up to {MAX_ADDRESSES} addresses; {} were given",
            options.addresses.len()
        )));
    }
    Ok(())
}

fn check_kernel() -> Result<(), AttachError> {
    // Where the version cannot be told, loading tells.
    match KernelVersion::current() {
        Ok(version) if version < KernelVersion::new(5, 18, 0) => {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
            let release = release.unwrap_or_else(|_| format!("{version:?}"));
            Err(AttachError::Kernel(release.trim().to_owned()))
        }
        _ => Ok(()),
    }
}

/// The words of the port map that are not zero.
fn port_words(ports: &[u16]) -> std::collections::BTreeMap<u32, u64> {
    let mut words = std::collections::BTreeMap::new();
    for port in ports {
        *words.entry(u32::from(port >> 6)).or_insert(0) |= 1u64 << (port & 63);
    }
    words
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn query(netlink: &Netlink, which: Which<'_>) -> Result<Option<Link>, AttachError> {
    netlink
        .link(which)
        .map_err(|e| AttachError::at(QUERYING, &e))
}

fn foreign_error(link: &Link, other: Attached) -> AttachError {
    let name = loaded_programs()
        .filter_map(Result::ok)
        .find(|p| p.id() == other.id)
        .and_then(|p| p.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty());
    AttachError::Foreign {
        interface: link.name.clone(),
        id: other.id,
        name,
        hook: other.hook,
    }
}

fn displace(netlink: &Netlink, on: &Link, other: Attached) -> Result<(), AttachError> {
    let failed = |e: std::io::Error| AttachError::at("removing the other XDP program", &e);
    if link::detach_other(on.index, other).map_err(failed)? {
        return Ok(());
    }
    netlink.remove(on.index, other.hook).map_err(failed)
}

/// An error if the kernel refused because somebody was quicker than we after the first look.
fn still_free(
    netlink: &Netlink,
    link: &Link,
    error: &(dyn Error + 'static),
) -> Result<(), AttachError> {
    if !matches!(os_code(error), Some(libc::EBUSY | libc::EEXIST)) {
        return Ok(());
    }
    let now = query(netlink, Which::Index(link.index))?;
    match now.as_ref().and_then(|l| l.programs.first()) {
        Some(other) => Err(foreign_error(link, *other)),
        None => Ok(()),
    }
}

/// What a failed attempt to attach means: the text of the refusal, or an error that makes another
/// mode pointless.
fn refusal(
    link: &Link,
    hook: Hook,
    opts: &Options,
    error: &(dyn Error + 'static),
) -> Result<String, AttachError> {
    let said = chain(error);
    let code = os_code(error);
    match code {
        Some(libc::EPERM | libc::EACCES) => return Err(AttachError::at(ATTACHING, error)),
        Some(libc::ENODEV) => return Err(AttachError::NoInterface(link.name.clone())),
        _ => {}
    }
    let hint = match (code, hook) {
        (Some(libc::EOPNOTSUPP), Hook::Native) if opts.frags => {
            ": the driver has no native XDP, or none for packets of several buffers"
        }
        (Some(libc::EOPNOTSUPP), Hook::Native) => {
            ": the driver has no native XDP, or the MTU does not fit one of its buffers"
        }
        (Some(libc::ERANGE | libc::EINVAL), Hook::Native) if !opts.frags && link.mtu > 1500 => {
            ": the MTU probably does not fit one of the driver's buffers; packets of several \
             buffers (frags) or a smaller MTU may help"
        }
        (Some(libc::ENOMEM | libc::ENOSPC), Hook::Native) => {
            ": drivers that give XDP queues of its own need as many as there are CPUs (ethtool -L)"
        }
        _ => "",
    };
    Ok(format!("{hook} mode, MTU {}: {said}{hint}", link.mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_bits() {
        let words = port_words(&[9696, 9697, 64, 65535]);
        let bits: u32 = words.values().map(|w| w.count_ones()).sum();
        assert_eq!(bits, 4);
        assert_eq!(words[&1], 1);
        assert_eq!(words[&(9696 / 64)], 0b11 << (9696 % 64));
        assert_eq!(words[&1023], 1 << 63);
    }

    #[test]
    fn options_out_of_bounds_are_refused_before_anything_is_loaded() {
        let with = |ports: Vec<u16>, addresses: usize| {
            check_options(&Options {
                ports,
                addresses: vec![IpAddr::from([127, 0, 0, 1]); addresses],
                ..Options::default()
            })
        };
        assert!(with(vec![1], 64).is_ok() && with((1..=128).collect(), 0).is_ok());
        for bad in [
            with(vec![], 0),
            with(vec![0], 0),
            with((1..=129).collect(), 0),
            with(vec![1], 65),
        ] {
            assert!(matches!(bad, Err(AttachError::Options(_))));
        }
    }
}
