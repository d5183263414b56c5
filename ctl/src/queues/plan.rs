//! What to change so that each lane core has a queue of its own: from the state and a wish to a
//! list of steps, each with its inverse. Nothing here touches the host.

use super::act::Act;
use crate::host::Reading;
use crate::host::ethtool::{TableForm, table_form};
use crate::host::nic::{Irq, Settings};
use serde::{Deserialize, Serialize};

/// A change and what takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is for.
    pub why: String,
    /// The change.
    pub run: Act,
    /// Its inverse.
    pub undo: Act,
}

/// What the operator wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Number of queues; none is one for each CPU, as many as there are.
    pub queues: Option<u32>,
    /// CPUs of the lane cores, in order; queue `i` belongs to the `i`-th.
    pub cpus: Vec<usize>,
    /// Port of lane core 0: steer port + i to queue i.
    pub port: Option<u16>,
    /// Interrupt moderation on receive, microseconds.
    pub rx_usecs: Option<u32>,
    /// Leave interrupts where they are.
    pub keep_interrupts: bool,
    /// Offloads to switch, by the kernel's names.
    pub features: Vec<(String, bool)>,
}

/// The steps, and what is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Queues after it.
    pub queues: u32,
    /// In order.
    pub steps: Vec<Step>,
    /// Why something is not changed.
    pub notes: Vec<String>,
}

/// The driver's table with a hash modulo `queues`, as every driver has it at first.
fn is_default(table: &[u32], queues: u32) -> bool {
    queues > 0 && table.iter().zip(0_u32..).all(|(q, i)| *q == i % queues)
}

/// Steps for everything but interrupts, which drivers hand out anew with the queues.
///
/// # Errors
/// What of the wish this interface cannot do.
pub fn plan(name: &str, now: &Settings, wish: &Wish) -> Result<Plan, String> {
    let mut plan = Plan::default();
    let (current, most) = match &now.channels {
        Reading::Known(c) => (c.receiving(), c.most()),
        Reading::Unreadable { .. } => (1, 1),
    };
    let queues = match wish.queues {
        Some(n) if n == 0 || n > most.max(1) => {
            return Err(format!(
                "{name} can have 1 to {} queues, not {n}",
                most.max(1)
            ));
        }
        Some(n) => n,
        None => most.clamp(1, (wish.cpus.len() as u32).max(1)),
    };
    plan.queues = queues;
    switch_features(name, now, wish, &mut plan)?;
    let channels = set_channels(name, now, queues, &mut plan);
    let spread = spread(name, now, current, queues, &mut plan);
    // The kernel refuses to remove queues that the table still uses: spread first, then shrink.
    let pair = if queues < current {
        [spread, channels]
    } else {
        [channels, spread]
    };
    plan.steps.extend(pair.into_iter().flatten());
    if let Some(port) = wish.port {
        steer(name, now, port, queues, &mut plan)?;
    }
    if queues > 1 {
        hash_ports(name, now, &mut plan);
    }
    if let Some(usecs) = wish.rx_usecs {
        moderate(name, now, usecs, &mut plan)?;
    }
    Ok(plan)
}

fn set_channels(name: &str, now: &Settings, queues: u32, plan: &mut Plan) -> Option<Step> {
    let c = match &now.channels {
        Reading::Known(c) => c,
        Reading::Unreadable { unreadable } => {
            plan.notes.push(format!("number of queues: {unreadable}"));
            return None;
        }
    };
    let words = |combined: u32, rx: u32, tx: u32| {
        let mut words = vec!["ethtool".to_owned(), "-L".into(), name.into()];
        let all = [
            ("combined", combined, c.max_combined),
            ("rx", rx, c.max_rx),
            ("tx", tx, c.max_tx),
        ];
        for (kind, n, max) in all {
            if max > 0 {
                words.extend([kind.to_owned(), n.to_string()]);
            }
        }
        Act::Command(words)
    };
    let run = if c.max_combined > 0 {
        // Queues of one direction, where a driver has them beside pairs, are of no use here.
        words(queues, 0, 0)
    } else {
        words(0, queues, queues)
    };
    let undo = words(c.combined, c.rx, c.tx);
    (run != undo).then(|| Step {
        why: format!("number of queues: {queues}, one for each lane core"),
        run,
        undo,
    })
}

fn spread(name: &str, now: &Settings, current: u32, queues: u32, plan: &mut Plan) -> Option<Step> {
    let table = match &now.rss {
        Reading::Known(t) => t,
        Reading::Unreadable { unreadable } => {
            plan.notes.push(format!("RSS table: {unreadable}"));
            return None;
        }
    };
    if is_default(table, queues) || (is_default(table, current) && queues >= current) {
        // A driver spreads its own table over new queues itself; `respread` looks afterwards.
        return None;
    }
    let undo = if is_default(table, current) {
        Act::command(&["ethtool", "-X", name, "default"])
    } else {
        let Some(undo) = write_back(name, table) else {
            plan.notes.push(
                "RSS table: somebody has written one that ethtool cannot write back, so it stays"
                    .into(),
            );
            return None;
        };
        undo
    };
    Some(even(name, queues, undo))
}

/// The step that a table takes which the driver has not spread over all queues by itself.
pub fn respread(name: &str, now: &Settings, queues: u32) -> Option<Step> {
    let table = now.rss.known()?;
    if is_default(table, queues) {
        return None;
    }
    Some(even(name, queues, write_back(name, table)?))
}

fn even(name: &str, queues: u32, undo: Act) -> Step {
    Step {
        why: format!("spread arriving lanes evenly over {queues} queues"),
        run: Act::command(&["ethtool", "-X", name, "equal", &queues.to_string()]),
        undo,
    }
}

/// The command that writes `table`; `None` where ethtool has none.
fn write_back(name: &str, table: &[u32]) -> Option<Act> {
    let mut words = vec!["ethtool".to_owned(), "-X".into(), name.into()];
    match table_form(table)? {
        TableForm::Equal(n) => words.extend(["equal".to_owned(), n.to_string()]),
        TableForm::Weight(weights) => {
            words.push("weight".into());
            words.extend(weights.iter().map(u32::to_string));
        }
    }
    Some(Act::Command(words))
}

fn hash_ports(name: &str, now: &Settings, plan: &mut Plan) {
    let flows = [("udp4", &now.hash_udp4), ("udp6", &now.hash_udp6)];
    for (flow, fields) in flows {
        match fields {
            Reading::Known(f) if f.contains('f') && f.contains('n') => {}
            // No letter says "nothing", so an empty set could not be written back.
            Reading::Known(f) if f.is_empty() => {
                plan.notes
                    .push(format!("receive hash of {flow}: there is none"));
            }
            Reading::Known(f) => plan.steps.push(Step {
                why: format!("spread {flow} by ports, or all lanes arrive on one queue"),
                run: Act::command(&["ethtool", "-N", name, "rx-flow-hash", flow, "sdfn"]),
                undo: Act::command(&["ethtool", "-N", name, "rx-flow-hash", flow, f]),
            }),
            Reading::Unreadable { unreadable } => {
                plan.notes
                    .push(format!("receive hash of {flow}: {unreadable}"));
            }
        }
    }
}

fn steer(
    name: &str,
    now: &Settings,
    port: u16,
    queues: u32,
    plan: &mut Plan,
) -> Result<(), String> {
    let rules = match &now.rules {
        Reading::Known(r) => r,
        Reading::Unreadable { unreadable } => {
            let note = format!(
                "steering port {port} and up: {unreadable}; lanes reach their queues by hash"
            );
            plan.notes.push(note);
            return Ok(());
        }
    };
    let last = u32::from(port) + queues - 1;
    if last > u32::from(u16::MAX) {
        return Err(format!("ports {port} to {last}: the last is beyond 65535"));
    }
    if let Some(f) = now.features.known().and_then(|f| f.get("rx-ntuple-filter"))
        && !f.on
    {
        if !f.changeable {
            plan.notes.push(format!(
                "steering port {port} and up: the driver has no ntuple filters"
            ));
            return Ok(());
        }
        plan.steps.push(Step {
            why: "steering rules need ntuple filters".into(),
            run: Act::command(&["ethtool", "-K", name, "ntuple", "on"]),
            undo: Act::command(&["ethtool", "-K", name, "ntuple", "off"]),
        });
    }
    // From the end of the table: its beginning, where rules weigh most, is left to the operator.
    let size = if rules.size == 0 { 1024 } else { rules.size };
    let mut free = (0..size).rev().filter(|l| !rules.locations.contains(l));
    for queue in 0..queues {
        let port = (u32::from(port) + queue).to_string();
        for flow in ["udp4", "udp6"] {
            let Some(location) = free.next() else {
                return Err(format!("the table of steering rules of {name} is full"));
            };
            let (queue, location) = (queue.to_string(), location.to_string());
            plan.steps.push(Step {
                why: format!("{flow} port {port} to queue {queue}, whose lane core listens there"),
                run: Act::command(&[
                    "ethtool",
                    "-N",
                    name,
                    "flow-type",
                    flow,
                    "dst-port",
                    &port,
                    "action",
                    &queue,
                    "loc",
                    &location,
                ]),
                undo: Act::command(&["ethtool", "-N", name, "delete", &location]),
            });
        }
    }
    Ok(())
}

fn moderate(name: &str, now: &Settings, usecs: u32, plan: &mut Plan) -> Result<(), String> {
    let c = match &now.coalesce {
        Reading::Known(c) => c,
        Reading::Unreadable { unreadable } => {
            return Err(format!(
                "--rx-usecs: interrupt moderation of {name}: {unreadable}"
            ));
        }
    };
    let switch = |on: bool| if on { "on" } else { "off" };
    // A driver without adaptive moderation refuses the word.
    let act = |adaptive: bool, usecs: u32| {
        let usecs = usecs.to_string();
        let adaptive = ["adaptive-rx", switch(adaptive)];
        let head = ["ethtool", "-C", name];
        let used = if c.adaptive_rx { &adaptive[..] } else { &[] };
        Act::command(&[&head[..], used, &["rx-usecs", &usecs]].concat())
    };
    if c.adaptive_rx || c.rx_usecs != usecs {
        plan.steps.push(Step {
            why: format!("an interrupt at the latest {usecs} us after a frame"),
            run: act(false, usecs),
            undo: act(c.adaptive_rx, c.rx_usecs),
        });
    }
    Ok(())
}

fn switch_features(name: &str, now: &Settings, wish: &Wish, plan: &mut Plan) -> Result<(), String> {
    let features = match &now.features {
        Reading::Known(f) => f,
        Reading::Unreadable { unreadable } => {
            plan.notes.push(format!("offloads: {unreadable}"));
            return Ok(());
        }
    };
    let mut wanted = wish.features.clone();
    // XDP and LRO exclude each other.
    if !wanted.iter().any(|(f, _)| f == "rx-lro") {
        wanted.push(("rx-lro".into(), false));
    }
    for (feature, on) in wanted {
        let asked = wish.features.iter().any(|(f, _)| *f == feature);
        let Some(f) = features.get(&feature) else {
            if asked {
                return Err(format!(
                    "--set: {name} has no offload {feature:?} (see queues show)"
                ));
            }
            continue;
        };
        if f.on == on {
            continue;
        }
        if !f.changeable {
            if asked {
                return Err(format!("--set: {name} cannot switch {feature}"));
            }
            plan.notes
                .push(format!("{feature} is on, and {name} cannot switch it off"));
            continue;
        }
        let switch = |on: bool| if on { "on" } else { "off" };
        plan.steps.push(Step {
            why: match asked {
                true => "asked for with --set".into(),
                false => "LRO merges frames before XDP sees them".into(),
            },
            run: Act::command(&["ethtool", "-K", name, &feature, switch(on)]),
            undo: Act::command(&["ethtool", "-K", name, &feature, switch(f.on)]),
        });
    }
    Ok(())
}

/// Steps that bring the interrupts of each queue to the CPU of its lane core.
pub fn place_interrupts(
    irqs: &[Irq],
    queues: u32,
    wish: &Wish,
    notes: &mut Vec<String>,
) -> Vec<Step> {
    if wish.keep_interrupts {
        return Vec::new();
    }
    if irqs.is_empty() {
        notes.push("interrupts: this interface shows none of its own".into());
    }
    let mut steps = Vec::new();
    for i in irqs {
        let kind = if i.rx.is_empty() { "send" } else { "receive" };
        let Some(queue) = i.rx.first().or(i.tx.first()).filter(|q| **q < queues) else {
            continue;
        };
        let Some(cpu) = wish.cpus.get(*queue as usize % wish.cpus.len().max(1)) else {
            continue;
        };
        let text = cpu.to_string();
        if i.cpus == text {
            continue;
        }
        let path = format!("/proc/irq/{}/smp_affinity_list", i.irq);
        steps.push(Step {
            why: format!(
                "the interrupt of {kind} queue {queue} to CPU {cpu}, where its lane core runs"
            ),
            run: Act::Write {
                path: path.clone(),
                text,
            },
            undo: Act::Write {
                path,
                text: i.cpus.clone(),
            },
        });
    }
    steps
}

#[cfg(test)]
mod tests;
