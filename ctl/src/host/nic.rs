//! A network interface and everything about it that decides how CTP-96 uses it.

use super::ethtool::{self, Channels, Coalesce, Feature, Rings, Rules};
use super::netlink::{self, Attached, Link, Queue, Xdp};
use super::{Reading, line, number, sys};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

const UDP4: u32 = 2;
const UDP6: u32 = 6;

/// The settings that `ctp96 queues` may change, as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Queues.
    pub channels: Reading<Channels>,
    /// RSS indirection table.
    pub rss: Reading<Vec<u32>>,
    /// Fields that the receive hash of UDP over IPv4 takes, as letters of ethtool.
    pub hash_udp4: Reading<String>,
    /// The same for IPv6.
    pub hash_udp6: Reading<String>,
    /// Steering rules.
    pub rules: Reading<Rules>,
    /// Offloads, by the kernel's names.
    pub features: Reading<BTreeMap<String, Feature>>,
    /// Interrupt moderation.
    pub coalesce: Reading<Coalesce>,
    /// Interrupts of the queues.
    pub irqs: Vec<Irq>,
}

/// An interrupt, the queues it serves and the CPUs it may come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Irq {
    /// Its number.
    pub irq: u32,
    /// Receive queues that it serves.
    pub rx: Vec<u32>,
    /// Send queues that it serves.
    pub tx: Vec<u32>,
    /// CPUs, as the kernel's list.
    pub cpus: String,
}

/// PCI Express link.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pcie {
    /// GT/s of a lane now.
    pub gts: f64,
    /// Lanes now.
    pub width: u32,
    /// GT/s that the device could.
    pub max_gts: f64,
    /// Lanes that the device could.
    pub max_width: u32,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Nic {
    /// Name.
    pub name: String,
    /// Interface index.
    pub index: u32,
    /// Kind of a virtual link.
    pub kind: Option<String>,
    /// It is up.
    pub up: bool,
    /// It has a carrier.
    pub running: bool,
    /// MTU.
    pub mtu: u32,
    /// Driver.
    pub driver: Reading<String>,
    /// Bus address, empty for virtual interfaces.
    pub bus: String,
    /// Speed in Mbit/s.
    pub speed_mbps: Option<u32>,
    /// Settings that can be changed.
    pub settings: Settings,
    /// Ring sizes.
    pub rings: Reading<Rings>,
    /// What the driver does for XDP.
    pub xdp: Reading<Xdp>,
    /// XDP program that is on it now.
    pub attached: Option<Attached>,
    /// NUMA node; `None` where it has none.
    pub numa_node: Option<u32>,
    /// PCI Express link.
    pub pcie: Option<Pcie>,
    /// A default route leads through it.
    pub default_route: bool,
    /// sysfs shows this interface; not so in another network namespace than the mount's.
    pub in_sysfs: bool,
}

fn broken() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADMSG)
}

/// The interfaces of this network namespace.
pub fn links() -> io::Result<Vec<Link>> {
    let answers = sys::netlink(libc::NETLINK_ROUTE, &netlink::links_request())?;
    Ok(answers
        .iter()
        .filter_map(|a| netlink::parse_link(a))
        .collect())
}

/// The link of that name, or a sentence that names those there are.
pub fn find(name: &str) -> Result<Link, String> {
    let all = links().map_err(|e| format!("cannot list the interfaces: {e}"))?;
    let names: Vec<_> = all.iter().map(|l| l.name.clone()).collect();
    all.into_iter().find(|l| l.name == name).ok_or_else(|| {
        format!(
            "there is no interface {name:?} in this network namespace; there are: {}",
            names.join(", ")
        )
    })
}

/// Everything about one interface.
pub fn read(link: &Link) -> Nic {
    let name = link.name.as_str();
    let fixed = |question| sys::fixed(name, question);
    let parsed = |r: io::Result<Vec<u8>>| r.and_then(|b| ethtool::driver(&b).ok_or_else(broken));
    let driver = parsed(fixed(sys::DRIVER));
    let bus = driver.as_ref().map_or_else(|_| "", |d| &d.1).to_owned();
    let rings = fixed(sys::RINGS).and_then(|b| ethtool::rings(&b).ok_or_else(broken));
    let device = sysfs_device(link);
    let family = netdev_family();
    let xdp = match &family {
        Ok(f) => sys::netlink(
            libc::NETLINK_GENERIC,
            &netlink::device_request(*f, link.index),
        )
        .and_then(|a| {
            let first = a.first().ok_or_else(broken)?;
            netlink::parse_device(first).ok_or_else(broken)
        })
        .into(),
        Err(e) => Reading::unreadable(format!(
            "this kernel does not report it (netlink family netdev, Linux 6.3): {e}"
        )),
    };
    let device_dir = device.as_ref().map(|d| d.join("device"));
    Nic {
        name: link.name.clone(),
        index: link.index,
        kind: link.kind.clone(),
        up: link.up,
        running: link.running,
        mtu: link.mtu,
        driver: driver.map(|d| d.0).into(),
        speed_mbps: fixed(sys::LINK).ok().and_then(|b| ethtool::speed(&b)),
        settings: settings(link, family.ok(), &bus, device.as_deref()),
        bus,
        rings: rings.into(),
        xdp,
        attached: link.xdp,
        numa_node: device_dir
            .as_ref()
            .and_then(|d| line(d.join("numa_node"))?.parse().ok()),
        pcie: device_dir.as_deref().and_then(pcie),
        default_route: default_routes().contains(name),
        in_sysfs: device.is_some(),
    }
}

/// The settings of an interface as they are now.
pub fn read_settings(link: &Link) -> Settings {
    let bus = sys::fixed(&link.name, sys::DRIVER).ok();
    let bus = bus.and_then(|b| ethtool::driver(&b)).unwrap_or_default().1;
    let device = sysfs_device(link);
    settings(link, netdev_family().ok(), &bus, device.as_deref())
}

fn settings(link: &Link, family: Option<u16>, bus: &str, device: Option<&Path>) -> Settings {
    let name = link.name.as_str();
    let fixed = |question| sys::fixed(name, question);
    let hash = |flow| sys::hash_fields(name, flow).map(ethtool::hash_letters);
    let features = sys::features(name)
        .and_then(|(names, state)| ethtool::features(&names, &state).ok_or_else(broken));
    let table = sys::rss(name).and_then(|b| ethtool::rss_table(&b).ok_or_else(broken));
    // A device with a hash and no table answers with an empty one.
    let table = table.and_then(|t| match t.is_empty() {
        true => Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)),
        false => Ok(t),
    });
    Settings {
        channels: fixed(sys::CHANNELS)
            .and_then(|b| ethtool::channels(&b).ok_or_else(broken))
            .into(),
        rss: table.into(),
        hash_udp4: hash(UDP4).into(),
        hash_udp6: hash(UDP6).into(),
        rules: sys::rules(name)
            .and_then(|b| ethtool::rules(&b).ok_or_else(broken))
            .into(),
        features: features.into(),
        coalesce: fixed(sys::COALESCE)
            .and_then(|b| ethtool::coalesce(&b).ok_or_else(broken))
            .into(),
        irqs: irqs(link, family, bus, device),
    }
}

fn netdev_family() -> io::Result<u16> {
    let answers = sys::netlink(libc::NETLINK_GENERIC, &netlink::family_request("netdev"))?;
    let first = answers.first().ok_or_else(broken)?;
    netlink::parse_family(first).ok_or_else(broken)
}

/// `/sys/class/net/NAME`, if that is this interface: sysfs shows the network namespace it was
/// mounted in, which may have another interface of the same name.
fn sysfs_device(link: &Link) -> Option<PathBuf> {
    let dir = Path::new("/sys/class/net").join(&link.name);
    let same = number(dir.join("ifindex")) == Some(link.index.into())
        && line(dir.join("address")).is_some_and(|a| a == link.address);
    same.then_some(dir)
}

fn irqs(link: &Link, family: Option<u16>, bus: &str, device: Option<&Path>) -> Vec<Irq> {
    let mut found = family
        .and_then(|f| irqs_by_netlink(link, f))
        .unwrap_or_default();
    if found.is_empty() {
        let table = std::fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let mut names = vec![link.name.clone()];
        names.extend((!bus.is_empty()).then(|| format!("pci:{bus}")));
        let device = device.and_then(|d| std::fs::canonicalize(d.join("device")).ok());
        if let Some(name) = device.as_deref().and_then(Path::file_name) {
            names.push(name.to_string_lossy().into_owned());
        }
        // Without sysfs the name may belong to an interface of another network namespace.
        if device.is_some() {
            found = parse_interrupts(&table, &names);
        }
    }
    for irq in &mut found {
        let file = format!("/proc/irq/{}/smp_affinity_list", irq.irq);
        irq.cpus = line(file).unwrap_or_default();
    }
    found.retain(|i| !i.cpus.is_empty());
    found
}

fn irqs_by_netlink(link: &Link, family: u16) -> Option<Vec<Irq>> {
    let ask = |request: Vec<u8>| sys::netlink(libc::NETLINK_GENERIC, &request).ok();
    let queues = ask(netlink::queues_request(family, link.index))?;
    let napis = ask(netlink::napis_request(family, link.index))?;
    let queues: Vec<Queue> = queues
        .iter()
        .filter_map(|a| netlink::parse_queue(a))
        .collect();
    let napis: BTreeMap<u32, u32> = napis
        .iter()
        .filter_map(|a| netlink::parse_napi(a))
        .collect();
    Some(join_irqs(&queues, &napis))
}

/// Interrupts with their queues, from queues with their NAPI and NAPIs with their interrupt.
fn join_irqs(queues: &[Queue], napis: &BTreeMap<u32, u32>) -> Vec<Irq> {
    let mut by_irq: BTreeMap<u32, Irq> = BTreeMap::new();
    for q in queues {
        let Some(irq) = q.napi.and_then(|n| napis.get(&n)) else {
            continue;
        };
        let entry = by_irq.entry(*irq).or_insert_with(|| new_irq(*irq));
        if q.rx {
            entry.rx.push(q.id);
        } else {
            entry.tx.push(q.id);
        }
    }
    by_irq.into_values().collect()
}

fn new_irq(irq: u32) -> Irq {
    Irq {
        irq,
        rx: vec![],
        tx: vec![],
        cpus: String::new(),
    }
}

/// Interrupts of `/proc/interrupts` whose action contains one of `names` and ends in the number of
/// a queue, as in `ice-eth1-TxRx-3`, `mlx5_comp3@pci:0000:01:00.0` or `virtio2-input.0`.
fn parse_interrupts(table: &str, names: &[String]) -> Vec<Irq> {
    let mut found = Vec::new();
    for l in table.lines() {
        let Some((number, rest)) = l.split_once(':') else {
            continue;
        };
        let (Ok(irq), Some(action)) = (number.trim().parse(), rest.split_whitespace().last())
        else {
            continue;
        };
        let parts: Vec<&str> = action.split(['-', '@', '.']).collect();
        let named = names.iter().any(|n| {
            let at_pci = n.starts_with("pci:") && action.ends_with(n.as_str());
            at_pci || parts.contains(&n.as_str())
        });
        let head = action.split('@').next().unwrap_or(action);
        let tail = head.rsplit(|c: char| !c.is_ascii_digit()).next();
        // A device with one interrupt calls it by the interface's own name.
        let queue = match names.iter().any(|n| n == head) {
            true => Some(0),
            false => tail.and_then(|t| t.parse::<u32>().ok()),
        };
        let Some(queue) = queue.filter(|_| named) else {
            continue;
        };
        let lower = action.to_ascii_lowercase();
        let only_rx = lower.contains("input") || (lower.contains("rx") && !lower.contains("tx"));
        let only_tx = lower.contains("output") || (lower.contains("tx") && !lower.contains("rx"));
        let mut entry = new_irq(irq);
        if !only_tx {
            entry.rx.push(queue);
        }
        if !only_rx {
            entry.tx.push(queue);
        }
        found.push(entry);
    }
    found
}

fn default_routes() -> BTreeSet<String> {
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    parse_routes(&file("/proc/net/route"), &file("/proc/net/ipv6_route"))
}

/// Interfaces of default routes in the kernel's two tables.
fn parse_routes(v4: &str, v6: &str) -> BTreeSet<String> {
    const REJECT: u32 = 0x200;
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let v4 = v4.lines().skip(1).filter_map(|l| {
        let f: Vec<_> = l.split_whitespace().collect();
        let default = zero(f.get(1)?) && zero(f.get(7)?);
        default.then(|| f[0].to_owned())
    });
    let v6 = v6.lines().filter_map(|l| {
        let f: Vec<_> = l.split_whitespace().collect();
        let flags = u32::from_str_radix(f.get(8)?, 16).ok()?;
        let default = zero(f[0]) && f[1] == "00" && flags & REJECT == 0 && *f.get(9)? != "lo";
        default.then(|| f[9].to_owned())
    });
    v4.chain(v6).collect()
}

fn pcie(device: &Path) -> Option<Pcie> {
    let read = |name: &str| line(device.join(name));
    let width = |name: &str| read(name)?.parse().ok();
    Some(Pcie {
        gts: parse_gts(&read("current_link_speed")?)?,
        width: width("current_link_width")?,
        max_gts: parse_gts(&read("max_link_speed")?)?,
        max_width: width("max_link_width")?,
    })
}

/// `16.0 GT/s PCIe`
fn parse_gts(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

impl Pcie {
    /// Bytes a second in one direction, before the overhead of packets.
    pub fn bytes_per_s(&self) -> f64 {
        // 8b/10b below 8 GT/s, 128b/130b up to 32 GT/s; FLIT mode above costs about the same.
        let code = if self.gts < 8.0 { 0.8 } else { 128.0 / 130.0 };
        self.gts * 1e9 * f64::from(self.width) * code / 8.0
    }
}

#[cfg(test)]
mod tests;
