//! `ctp96 queues`: which queue of an interface serves which lane core.

mod act;
mod journal;
mod plan;
mod run;
mod show;

use crate::cli::{QueuesCommand, TuneArgs};
use crate::host::nic::{Nic, find, read};
use crate::host::parse_cpulist;
use crate::out::{self, Failure};
use ctp96::engine::topology::Topology;
use journal::JournalFile;
use plan::{Plan, Step, Wish};
use run::Stale;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// A step as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    why: String,
    run: String,
    undo: String,
}

impl From<&Step> for Row {
    fn from(s: &Step) -> Row {
        Row {
            why: s.why.clone(),
            run: s.run.to_string(),
            undo: s.undo.to_string(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Reply {
    ok: bool,
    interface: String,
    /// Queues after it.
    queues: u32,
    /// CPU of the lane core of each queue.
    cpus: Vec<usize>,
    commands: Vec<Row>,
    notes: Vec<String>,
}

/// `ctp96 queues ..`
pub fn run(command: &QueuesCommand, json: bool) -> Result<(), Failure> {
    match command {
        QueuesCommand::Show { interface } => {
            let nic = nic(interface)?;
            let cpus = nearest(&nic)?;
            if json {
                out::json(&nic);
            } else {
                out::text(&show::show(&nic, &cpus));
            }
            Ok(())
        }
        QueuesCommand::Plan { tune } => {
            let (nic, wish, plan) = planned(tune)?;
            let reply = reply(&nic, &wish, &plan.steps, &plan);
            print(json, &reply, &text_of_plan(&reply));
            Ok(())
        }
        QueuesCommand::Apply {
            tune,
            yes_default_route,
            state,
        } => apply(tune, *yes_default_route, state, json),
        QueuesCommand::Restore { interface, state } => restore(interface, state, json),
    }
}

fn nic(interface: &str) -> Result<Nic, Failure> {
    Ok(read(&find(interface).map_err(Failure::Failed)?))
}

/// CPUs that this process may use, those of the interface's NUMA node first.
fn nearest(nic: &Nic) -> Result<Vec<usize>, Failure> {
    let topology = Topology::detect().map_err(|e| Failure::Failed(e.to_string()))?;
    let mut cpus = topology.cpus().to_vec();
    if let Some(node) = nic.numa_node {
        // Stable: within a node the order of the topology stays, physical cores first.
        cpus.sort_by_key(|c| (c.sibling, c.node != node as usize));
    }
    Ok(cpus.iter().map(|c| c.id).collect())
}

fn planned(tune: &TuneArgs) -> Result<(Nic, Wish, Plan), Failure> {
    let nic = nic(&tune.interface)?;
    let allowed = nearest(&nic)?;
    let cpus = match &tune.cpus {
        None => allowed,
        Some(list) => {
            let cpus = parse_cpulist(list)
                .filter(|c| !c.is_empty())
                .ok_or_else(|| Failure::Usage(format!("--cpus {list:?} is no list like 0-3,8")))?;
            if let Some(cpu) = cpus.iter().find(|c| !allowed.contains(c)) {
                let text = format!("--cpus: this process may not use CPU {cpu}");
                return Err(Failure::Usage(text));
            }
            cpus
        }
    };
    let wish = Wish {
        queues: tune.queues,
        cpus,
        port: tune.port,
        rx_usecs: tune.rx_usecs,
        keep_interrupts: tune.keep_interrupts,
        features: tune.set.clone(),
    };
    let mut plan = plan::plan(&nic.name, &nic.settings, &wish).map_err(Failure::Failed)?;
    let interrupts =
        plan::place_interrupts(&nic.settings.irqs, plan.queues, &wish, &mut plan.notes);
    let channels = nic.settings.channels.known();
    let renewed = channels.is_some_and(|c| c.receiving() != plan.queues);
    if renewed && !nic.settings.irqs.is_empty() && !wish.keep_interrupts {
        plan.notes
            .push("interrupts: apply reads them anew once the number of queues has changed".into());
    }
    plan.steps.extend(interrupts);
    Ok((nic, wish, plan))
}

fn reply(nic: &Nic, wish: &Wish, steps: &[Step], plan: &Plan) -> Reply {
    let cpus = wish.cpus.iter().cycle().take(plan.queues as usize);
    Reply {
        ok: true,
        interface: nic.name.clone(),
        queues: plan.queues,
        cpus: cpus.copied().collect(),
        commands: steps.iter().map(Row::from).collect(),
        notes: plan.notes.clone(),
    }
}

fn print(json: bool, reply: &impl Serialize, text: &str) {
    if json {
        out::json(reply);
    } else {
        out::text(text);
    }
}

/// The line of the daemon's configuration that goes with these queues.
fn cores(r: &Reply) -> String {
    format!("node.cores = {:?} puts lane core i beside queue i", r.cpus)
}

fn text_of_plan(r: &Reply) -> String {
    let mut out = String::new();
    if r.commands.is_empty() {
        let _ = writeln!(out, "nothing to change on {}", r.interface);
    }
    for c in &r.commands {
        let _ = writeln!(out, "# {}\n{}\n#   undo: {}", c.why, c.run, c.undo);
    }
    for note in &r.notes {
        let _ = writeln!(out, "# left as it is: {note}");
    }
    let _ = writeln!(out, "# {}", cores(r));
    out
}

fn apply(tune: &TuneArgs, yes: bool, state: &Path, json: bool) -> Result<(), Failure> {
    let (nic, wish, mut plan) = planned(tune)?;
    if nic.default_route && !yes {
        return Err(Failure::Failed(format!(
            "{0} carries a default route, so a step that fails may cut you off from this host. \
             See `ctp96 queues plan {0}`; if you have another way in, add --yes-default-route",
            nic.name
        )));
    }
    let link = find(&nic.name).map_err(Failure::Failed)?;
    // What a reboot has undone already needs no restore.
    if let Some(old) = JournalFile::load(state, &nic.name).map_err(Failure::Failed)?
        && let Some(Stale::Gone(_)) = run::stale(&old.journal.identity, Some(&link))
    {
        old.remove().map_err(Failure::Failed)?;
    }
    // Those for interrupts are made again once the others are done.
    plan.steps.retain(
        |s| !matches!(&s.run, act::Act::Write { path, .. } if path.starts_with("/proc/irq/")),
    );
    let mut say = |line: &str| {
        if !json {
            out::text(&format!("+ {line}\n"));
        }
    };
    let before = nic.settings.clone();
    let done = run::apply(&link, before, &plan, &wish, state, &mut say).map_err(Failure::Failed)?;
    let reply = reply(&nic, &wish, &done, &plan);
    let mut text = String::new();
    for note in &reply.notes {
        let _ = writeln!(text, "left as it is: {note}");
    }
    if done.is_empty() {
        let _ = writeln!(text, "nothing to change on {}", nic.name);
    } else {
        let _ = writeln!(text, "done; `ctp96 queues restore {}` undoes it", nic.name);
    }
    let _ = writeln!(text, "{}", cores(&reply));
    print(json, &reply, &text);
    Ok(())
}

fn restore(interface: &str, state: &Path, json: bool) -> Result<(), Failure> {
    let nothing = |why: String| {
        let reply = serde_json::json!({
            "ok": true, "interface": interface, "commands": [], "notes": [why]
        });
        print(json, &reply, &format!("{why}\n"));
        Ok(())
    };
    let Some(file) = JournalFile::load(state, interface).map_err(Failure::Failed)? else {
        return nothing(format!(
            "nothing to undo: there is no {}",
            journal::path(state, interface).display()
        ));
    };
    let link = find(interface);
    match run::stale(&file.journal.identity, link.as_ref().ok()) {
        None => {}
        Some(Stale::Elsewhere) => {
            return Err(Failure::Failed(format!(
                "{} is about {interface} in another network namespace: run this command there",
                file.path().display()
            )));
        }
        Some(Stale::Gone(why)) => {
            file.remove().map_err(Failure::Failed)?;
            return nothing(format!(
                "nothing to undo: {why}, and its settings went with it"
            ));
        }
    }
    let link = link.map_err(Failure::Failed)?;
    let mut ran = Vec::new();
    let mut say = |line: &str| {
        ran.push(line.to_owned());
        if !json {
            out::text(&format!("+ {line}\n"));
        }
    };
    run::undo(&link, file, &mut say).map_err(Failure::Failed)?;
    let reply = serde_json::json!({
        "ok": true, "interface": interface, "commands": ran, "notes": []
    });
    print(json, &reply, &format!("{interface} is as it was before\n"));
    Ok(())
}

/// `NAME=on` or `NAME=off`
pub fn parse_switch(text: &str) -> Result<(String, bool), String> {
    match text.split_once('=') {
        Some((name, "on")) if !name.is_empty() => Ok((name.to_owned(), true)),
        Some((name, "off")) if !name.is_empty() => Ok((name.to_owned(), false)),
        _ => Err(format!("{text:?} is not NAME=on or NAME=off")),
    }
}

#[cfg(test)]
mod tests;
