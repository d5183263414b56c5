//! The queues of an interface as text.

use crate::host::Reading;
use crate::host::ethtool::{TableForm, table_form};
use crate::host::nic::{Nic, Settings};
use std::fmt::Write as _;

/// `ctp96 queues show`
pub fn show(nic: &Nic, cpus: &[usize]) -> String {
    let s = &nic.settings;
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<13}{value}");
    };
    row("interface", interface(nic));
    row(
        "channels",
        s.channels.describe(|c| {
            let kinds = [
                ("combined", c.combined, c.max_combined),
                ("rx", c.rx, c.max_rx),
                ("tx", c.tx, c.max_tx),
            ];
            let kinds = kinds.iter().filter(|(_, _, max)| *max > 0);
            let kinds: Vec<_> = kinds
                .map(|(k, n, max)| format!("{k} {n} of {max}"))
                .collect();
            kinds.join(", ")
        }),
    );
    row(
        "RSS table",
        s.rss.describe(|t| match table_form(t) {
            Some(TableForm::Equal(n)) => format!("{} entries, evenly over {n} queues", t.len()),
            Some(TableForm::Weight(w)) => format!("{} entries, by weights {w:?}", t.len()),
            None => format!("{} entries, written by hand", t.len()),
        }),
    );
    row("RSS fields", fields(s));
    row(
        "steering",
        s.rules.describe(|r| match r.locations.as_slice() {
            [] => format!("no rules, room for {}", r.size),
            l => format!("{} rules, at {l:?}, room for {}", l.len(), r.size),
        }),
    );
    row(
        "moderation",
        s.coalesce.describe(|c| {
            format!(
                "receive {} us or {} frames{}, send {} us or {} frames{}",
                c.rx_usecs,
                c.rx_frames,
                if c.adaptive_rx { " (adaptive)" } else { "" },
                c.tx_usecs,
                c.tx_frames,
                if c.adaptive_tx { " (adaptive)" } else { "" }
            )
        }),
    );
    let rings = |r: &crate::host::ethtool::Rings| {
        format!(
            "receive {} of {}, send {} of {}",
            r.rx, r.max_rx, r.tx, r.max_tx
        )
    };
    row("rings", nic.rings.describe(rings));
    row("offloads", offloads(s));
    row("NUMA", numa(nic, cpus));
    if s.irqs.is_empty() {
        row("interrupts", "none of its own are visible".into());
    }
    for i in &s.irqs {
        let queues = |name: &str, ids: &[u32]| match ids {
            [] => String::new(),
            ids => format!(
                " {name} {}",
                ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
            ),
        };
        row(
            &format!("interrupt {}", i.irq),
            format!(
                "queues{}{}, on CPU {}",
                queues("rx", &i.rx),
                queues("tx", &i.tx),
                i.cpus
            ),
        );
    }
    out
}

fn interface(nic: &Nic) -> String {
    let driver = nic.driver.describe(Clone::clone);
    let mut text = format!("{}, driver {driver}", nic.name);
    if !nic.bus.is_empty() {
        let _ = write!(text, " at {}", nic.bus);
    }
    let _ = write!(text, ", MTU {}", nic.mtu);
    if nic.default_route {
        text.push_str(", carries a default route");
    }
    text
}

fn fields(s: &Settings) -> String {
    let one = |r: &Reading<String>| {
        r.describe(|f| {
            if f.is_empty() {
                "none".into()
            } else {
                f.clone()
            }
        })
    };
    let (v4, v6) = (one(&s.hash_udp4), one(&s.hash_udp6));
    if v4 == v6 {
        format!("UDP: {v4}")
    } else {
        format!("UDP over IPv4: {v4}; over IPv6: {v6}")
    }
}

fn offloads(s: &Settings) -> String {
    s.features.describe(|f| {
        let names = [
            "rx-gro",
            "rx-gro-hw",
            "rx-lro",
            "rx-hashing",
            "rx-ntuple-filter",
            "tx-udp-segmentation",
        ];
        let states = names.iter().filter_map(|n| {
            let f = f.get(*n)?;
            let state = if f.on { "on" } else { "off" };
            let fixed = if f.changeable { "" } else { " (fixed)" };
            Some(format!("{n} {state}{fixed}"))
        });
        states.collect::<Vec<_>>().join(", ")
    })
}

fn numa(nic: &Nic, cpus: &[usize]) -> String {
    let list: Vec<_> = cpus.iter().map(usize::to_string).collect();
    let list = list.join(",");
    match nic.numa_node {
        Some(node) => format!("node {node}; CPUs for lane cores, nearest first: {list}"),
        None => format!("no node of its own; CPUs for lane cores: {list}"),
    }
}
