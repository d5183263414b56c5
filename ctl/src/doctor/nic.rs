//! Judgement of one interface.

use super::{Finding, Status, System};
use crate::host::Reading;
use crate::host::drivers;
use crate::host::nic::Nic;
use ctp96::base::limits::TARGET_BYTES_PER_S;

/// An AF_XDP frame of one 4 KiB page, less the kernel's headroom of 256 bytes.
const ONE_BUFFER: u32 = 4096 - 256;
/// Ethernet header with a VLAN tag.
const ETHERNET: u32 = 18;

/// The findings of an interface.
pub fn findings(nic: &Nic, host: &System) -> Vec<Finding> {
    let mut all = vec![link(nic)];
    all.extend(xdp(nic, host));
    all.extend(attached(nic));
    all.push(queues(nic, host));
    all.extend(hash(nic));
    all.push(mtu(nic));
    all.extend(offloads(nic));
    all.extend(rings(nic));
    all.extend(numa(nic, host));
    all.extend(pcie(nic));
    if !nic.in_sysfs {
        all.push(Finding::info(
            "sysfs shows another network namespace",
            "NUMA node, PCI Express link and some interrupts of this interface are not visible \
             from here",
        ));
    }
    for f in &mut all {
        f.area.clone_from(&nic.name);
    }
    all
}

fn link(nic: &Nic) -> Finding {
    let driver = nic.driver.known().map_or("unknown", String::as_str);
    let speed = nic.speed_mbps.map_or("no speed reported".to_owned(), |s| {
        format!("{} Gb/s", f64::from(s) / 1000.0)
    });
    let kind = match nic.kind.as_deref() {
        Some(kind) if kind != driver => format!(" ({kind})"),
        _ => String::new(),
    };
    let what = format!("driver {driver}{kind}, {speed}, MTU {}", nic.mtu);
    if !nic.up {
        let fix = format!("ip link set {} up", nic.name);
        return Finding::bad(format!("{what}; it is down"), "nothing can be sent").fix(fix);
    }
    if !nic.running {
        let effect = "no carrier: cable, transceiver or the other end";
        return Finding::bad(format!("{what}; it has no carrier"), effect);
    }
    let wire = |mbps: u32| f64::from(mbps) * 1e6 / 8.0;
    match nic.speed_mbps {
        Some(s) if wire(s) >= TARGET_BYTES_PER_S * 1.1 => {
            Finding::ok(what, "fast enough for 25 GB/s")
        }
        Some(s) => Finding::ok(
            what,
            format!(
                "carries at most {:.1} % of 25 GB/s, headers not counted",
                wire(s) / TARGET_BYTES_PER_S * 100.0
            ),
        ),
        None => Finding::ok(what, "up, with a carrier"),
    }
}

fn xdp(nic: &Nic, host: &System) -> Vec<Finding> {
    let x = match &nic.xdp {
        Reading::Known(x) => x,
        Reading::Unreadable { unreadable } => return vec![by_table(nic, host, unreadable)],
    };
    let mut found = Vec::new();
    let copy_effect = "every frame is copied and handled alone, so UDP with segmentation offload \
        is faster on such an interface: backend = \"auto\" takes UDP, \"af_xdp\" insists";
    let features = nic.settings.features.known();
    let merges = features.and_then(|f| f.get("rx-gro-hw"));
    // virtnet_xdp_set() of the kernel refuses where the host merges frames and cannot be told not to.
    let stuck = nic.driver.known().is_some_and(|d| d == "virtio_net")
        && merges.is_some_and(|f| f.on && !f.changeable);
    found.push(if stuck && x.native {
        let what = "AF_XDP: generic copy mode only, though the driver has zero-copy";
        let effect = "the virtual machine's host merges frames (rx-gro-hw) and gives no way to \
            switch that off; virtio_net then refuses native XDP (from its source, not tried here)";
        Finding::warn(what, effect).fix(
            "on the host, for this NIC: offer ctrl_guest_offloads, or no guest_tso4 and guest_tso6",
        )
    } else if x.zero_copy {
        Finding::ok(
            "AF_XDP: zero-copy, says the driver",
            "backend = \"auto\" takes AF_XDP here, if af_xdp.interface names it",
        )
    } else if x.native && x.redirect {
        Finding::info("AF_XDP: copy mode only, native", copy_effect)
    } else {
        Finding::info(
            "AF_XDP: copy mode only, generic: the driver has no native XDP",
            copy_effect,
        )
    });
    if x.zero_copy && !stuck {
        let needed = (nic.mtu + ETHERNET).div_ceil(ONE_BUFFER);
        let have = x.zero_copy_segments.max(1);
        found.push(if needed <= have {
            let what = format!("buffers of a zero-copy frame: {have}");
            Finding::ok(what, "enough for this MTU")
        } else {
            let what = format!(
                "zero-copy frames of {have} buffers, MTU {} needs {needed}",
                nic.mtu
            );
            let fits = have * ONE_BUFFER - ETHERNET;
            let effect = "AF_XDP zero-copy is refused at this MTU";
            let fix = format!("ip link set {} mtu {fits}, and node.mtu to match", nic.name);
            Finding::warn(what, effect).fix(fix)
        });
    } else if x.native && nic.mtu + ETHERNET > ONE_BUFFER && !x.multi_buffer {
        let effect = "native XDP is refused at this MTU: the driver takes frames of one buffer";
        let fix = format!("ip link set {} mtu 3400, and node.mtu to match", nic.name);
        found.push(Finding::warn(format!("MTU {} without multi-buffer", nic.mtu), effect).fix(fix));
    }
    let metadata: Vec<&str> = [
        (x.tx_checksum, "checksum"),
        (x.tx_timestamp, "timestamp"),
        (x.tx_launch_time, "launch time"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect();
    let multi = if x.multi_buffer { "yes" } else { "no" };
    let what = format!(
        "multi-buffer receive {multi}; transmit metadata: {}",
        if metadata.is_empty() {
            "none".to_owned()
        } else {
            metadata.join(", ")
        }
    );
    found.push(Finding::info(
        what,
        match x.tx_checksum {
            true => "the NIC computes UDP checksums of AF_XDP frames where the path needs them",
            false => {
                "UDP checksums, where the path needs them: by the CPU with zero-copy, by the kernel or \
                 the device in copy mode"
            }
        },
    ));
    found
}

/// For kernels before 6.3.
fn by_table(nic: &Nic, host: &System, why: &str) -> Finding {
    let source = format!("{why}. From the table of drivers in this command, not from the kernel");
    let driver = nic.driver.known().map_or("", String::as_str);
    let Some(entry) = drivers::lookup(driver) else {
        let what = format!("AF_XDP support of the driver {driver:?} is not known");
        return Finding::info(
            what,
            format!("{why}, and it is not in the table of drivers"),
        );
    };
    match (entry.zero_copy, host.kernel.version()) {
        (Some(since), Some(now)) if now >= since => {
            let what = format!(
                "AF_XDP: {driver} has zero-copy since Linux {}.{}",
                since.0, since.1
            );
            Finding::ok(what, source)
        }
        (Some((major, minor)), _) => {
            let what = format!("AF_XDP: {driver} has zero-copy from Linux {major}.{minor}");
            Finding::warn(what, source).fix(format!("install Linux {major}.{minor} or later"))
        }
        (None, _) => Finding::info(format!("AF_XDP: {driver} has copy mode only"), source),
    }
}

fn attached(nic: &Nic) -> Option<Finding> {
    let a = nic.attached?;
    let (mode, off) = match a.mode {
        1 => ("native", "xdpdrv"),
        2 => ("generic", "xdpgeneric"),
        3 => ("offloaded", "xdpoffload"),
        _ => ("several", "xdp"),
    };
    let number = a.program.map_or(String::new(), |p| format!(", number {p}"));
    let what = format!("an XDP program is attached ({mode}{number})");
    let effect = "if it is not ctp96d's own, the daemon refuses to displace it";
    Some(Finding::info(what, effect).fix(format!(
        "stop the program that owns it (bpftool net show dev {0}), or ip link set {0} {off} off",
        nic.name
    )))
}

fn queues(nic: &Nic, host: &System) -> Finding {
    let channels = match &nic.settings.channels {
        Reading::Known(c) => c,
        Reading::Unreadable { unreadable } => {
            let what = format!("number of queues not readable: {unreadable}");
            return Finding::info(what, "one queue is assumed");
        }
    };
    let (now, most) = (channels.receiving(), channels.most());
    let cpus = host.cpus.allowed.len() as u32;
    let what = format!("receive queues: {now} of {most}; CPUs for this process: {cpus}");
    if now >= cpus.min(most.max(1)) {
        let effect = match most < cpus {
            true => "each queue can have a lane core; more cores than queues bring nothing here",
            false => "each lane core can have a queue of its own",
        };
        return Finding::ok(what, effect);
    }
    let effect = "lane cores share queues, so one of them does the receive work of several";
    let fix = format!(
        "ctp96 queues apply {} --queues {}",
        nic.name,
        cpus.min(most)
    );
    Finding::warn(what, effect).fix(fix)
}

fn hash(nic: &Nic) -> Option<Finding> {
    let many = nic.settings.channels.known()?.receiving() > 1;
    let fields = nic.settings.hash_udp4.known()?;
    let list = if fields.is_empty() { "none" } else { fields };
    let what = format!("receive hash of UDP over IPv4, header fields: {list}");
    // f and n are the two ports.
    let ports = fields.contains('f') && fields.contains('n');
    Some(if ports {
        Finding::ok(what, "lanes spread over the queues by their ports")
    } else if !many {
        Finding::ok(what, "with one queue it does not matter")
    } else {
        let effect = "all lanes between two hosts arrive on one queue";
        let fix = format!(
            "ctp96 queues apply {}, or ethtool -N {} rx-flow-hash udp4 sdfn",
            nic.name, nic.name
        );
        Finding::warn(what, effect).fix(fix)
    })
}

fn mtu(nic: &Nic) -> Finding {
    let what = format!("MTU {}", nic.mtu);
    match nic.mtu {
        9000.. => Finding::ok(what, "large frames: least work for each byte"),
        1500..9000 => Finding::info(
            what,
            "frames of 9,000 bytes cost less work for each byte, if every hop of the path takes \
             them: MTU here, node.mtu in the configuration",
        ),
        1280..1500 => Finding::warn(what, "frames of the default node.mtu do not fit").fix(
            format!("node.mtu = {} in the configuration of both nodes", nic.mtu),
        ),
        _ => Finding::bad(what, "CTP-96 needs at least 1280")
            .fix(format!("ip link set {} mtu 1500", nic.name)),
    }
}

fn offloads(nic: &Nic) -> Vec<Finding> {
    let Some(features) = nic.settings.features.known() else {
        return vec![];
    };
    let on = |name: &str| features.get(name).is_some_and(|f| f.on);
    let mut found = Vec::new();
    if on("rx-lro") {
        let effect = "LRO rewrites frames before XDP sees them: native XDP is refused";
        let fix = format!(
            "ctp96 queues apply {}, or ethtool -K {} lro off",
            nic.name, nic.name
        );
        found.push(Finding::warn("LRO is on", effect).fix(fix));
    }
    if on("rx-gro-hw") {
        let effect = "some drivers refuse native XDP while the hardware merges frames; UDP sockets \
            gain from it";
        found.push(Finding::info("hardware GRO is on", effect));
    }
    let udp = on("tx-udp-segmentation");
    let what = format!(
        "GRO {}, UDP segmentation by the interface {}",
        if on("rx-gro") { "on" } else { "off" },
        if udp { "on" } else { "off" }
    );
    found.push(if on("rx-gro") || nic.kind.as_deref() == Some("veth") {
        Finding::ok(what, "UDP sockets move many frames a call")
    } else {
        let effect = "UDP sockets receive every frame alone: several times the CPU time";
        Finding::warn(what, effect).fix(format!("ethtool -K {} gro on", nic.name))
    });
    found
}

fn rings(nic: &Nic) -> Option<Finding> {
    let r = nic.rings.known()?;
    let what = format!("rings of {} to receive and {} to send", r.rx, r.tx);
    let fix = format!("ethtool -G {} rx {} tx {}", nic.name, r.max_rx, r.max_tx);
    Some(if r.rx >= 1024 || r.rx >= r.max_rx {
        Finding::ok(what, "room for bursts")
    } else {
        let effect = format!(
            "of {} and {}: short rings lose frames in bursts",
            r.max_rx, r.max_tx
        );
        Finding::warn(what, effect).fix(fix)
    })
}

fn numa(nic: &Nic, host: &System) -> Option<Finding> {
    let node = nic.numa_node?;
    let near = host.cpus.nodes.get(&node)?;
    if host.cpus.nodes.len() < 2 {
        return None;
    }
    let mine = host
        .cpus
        .allowed
        .iter()
        .filter(|c| near.contains(c))
        .count();
    let what = format!(
        "on NUMA node {node}, with {mine} of the {} CPUs of this process",
        host.cpus.allowed.len()
    );
    Some(if mine == 0 {
        let list: Vec<_> = near.iter().map(usize::to_string).collect();
        let effect = "every byte crosses between the sockets";
        let fix = format!("node.cores = [{}] in the configuration", list.join(", "));
        Finding::warn(what, effect).fix(fix)
    } else {
        Finding::ok(what, "lane cores belong on these")
    })
}

fn pcie(nic: &Nic) -> Option<Finding> {
    let p = nic.pcie.as_ref()?;
    let room = p.bytes_per_s();
    let what = format!(
        "PCI Express: {} lanes at {} GT/s, {:.1} GB/s each way",
        p.width,
        p.gts,
        room / 1e9
    );
    let wire = nic.speed_mbps.map(|s| f64::from(s) * 1e6 / 8.0);
    let narrow = p.width < p.max_width || p.gts < p.max_gts;
    Some(match wire {
        Some(wire) if wire > room => {
            let effect = format!("less than the port's {:.1} GB/s", wire / 1e9);
            let f = Finding::new(Status::Warn, what, effect);
            match narrow {
                true => f.fix(format!(
                    "move the card to a slot of {} lanes at {} GT/s",
                    p.max_width, p.max_gts
                )),
                false => f,
            }
        }
        _ => Finding::ok(what, "more than the port carries"),
    })
}

#[cfg(test)]
mod tests;
