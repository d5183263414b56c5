//! `queues apply` and `queues restore`: the steps on the host.

use super::journal::{Entry, Identity, Journal, JournalFile, Progress, VERSION};
use super::plan::{Plan, Step, Wish, place_interrupts, respread};
use crate::host::line;
use crate::host::netlink::Link;
use crate::host::nic::{Settings, read_settings};
use std::path::Path;

/// Says what is done, when it is done.
pub type Say<'a> = &'a mut dyn FnMut(&str);

fn boot() -> String {
    line("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

fn netns() -> String {
    let link = std::fs::read_link("/proc/self/ns/net");
    link.map_or_else(|_| String::new(), |p| p.to_string_lossy().into_owned())
}

/// Who the journal is about.
pub fn identity(link: &Link) -> Identity {
    Identity {
        interface: link.name.clone(),
        index: link.index,
        address: link.address.clone(),
        boot: boot(),
        netns: netns(),
    }
}

/// Makes the changes. If one fails, those before it are undone.
///
/// # Errors
/// What failed, and what was undone.
pub fn apply(
    link: &Link,
    before: Settings,
    plan: &Plan,
    wish: &Wish,
    state: &Path,
    say: Say<'_>,
) -> Result<Vec<Step>, String> {
    let planned = |step: &Step| Entry {
        step: step.clone(),
        progress: Progress::Planned,
    };
    let mut file = JournalFile::create(
        state,
        Journal {
            version: VERSION,
            identity: identity(link),
            before,
            entries: plan.steps.iter().map(planned).collect(),
        },
    )?;
    let mut result = steps(&mut file, 0, say);
    if result.is_ok() {
        // With the new number of queues the driver may have handed out other interrupts, and has
        // left an RSS table alone that somebody had written.
        let now = read_settings(link);
        let mut more: Vec<Step> = respread(&link.name, &now, plan.queues)
            .into_iter()
            .collect();
        more.extend(place_interrupts(
            &now.irqs,
            plan.queues,
            wish,
            &mut Vec::new(),
        ));
        let first = file.journal.entries.len();
        file.journal.entries.extend(more.iter().map(planned));
        result = file.save().and_then(|()| steps(&mut file, first, say));
    }
    if let Err(failed) = result {
        say("undoing what was done");
        let undone = undo(link, file, say);
        return Err(match undone {
            Ok(()) => format!("{failed}. Everything is as it was before"),
            Err(e) => format!("{failed}. Undoing it failed as well: {e}"),
        });
    }
    let done = std::mem::take(&mut file.journal.entries);
    let done: Vec<Step> = done.into_iter().map(|e| e.step).collect();
    if done.is_empty() {
        // Nothing was changed, so there is nothing to restore.
        file.remove()?;
    }
    Ok(done)
}

fn steps(file: &mut JournalFile, first: usize, say: Say<'_>) -> Result<(), String> {
    for i in first..file.journal.entries.len() {
        file.mark(i, Progress::Started)?;
        let step = &file.journal.entries[i].step;
        say(&step.run.to_string());
        step.run
            .run()
            .map_err(|e| format!("`{}` failed: {e}", step.run))?;
        file.mark(i, Progress::Done)?;
    }
    Ok(())
}

/// Undoes what the journal holds, last step first, and compares with the settings before.
///
/// # Errors
/// What still differs; the journal stays then.
pub fn undo(link: &Link, mut file: JournalFile, say: Say<'_>) -> Result<(), String> {
    let mut failures = Vec::new();
    for i in (0..file.journal.entries.len()).rev() {
        let entry = &file.journal.entries[i];
        if entry.progress == Progress::Planned {
            continue;
        }
        say(&entry.step.undo.to_string());
        match entry.step.undo.run() {
            Ok(()) => file.mark(i, Progress::Planned)?,
            // A step that a crash cut off may never have happened, so that there is nothing to
            // undo; the comparison below decides.
            Err(e) => failures.push(format!("`{}` failed: {e}", entry.step.undo)),
        }
    }
    let mut now = read_settings(link);
    // Interrupts that came back with the queues have their default CPUs.
    for irq in &file.journal.before.irqs {
        let is = now.irqs.iter().find(|i| i.irq == irq.irq);
        if is.is_some_and(|i| i.cpus != irq.cpus) {
            let path = format!("/proc/irq/{}/smp_affinity_list", irq.irq);
            let act = super::act::Act::Write {
                path,
                text: irq.cpus.clone(),
            };
            say(&act.to_string());
            if let Err(e) = act.run() {
                failures.push(e);
            }
        }
    }
    now.irqs = read_settings(link).irqs;
    let rest = differences(&file.journal.before, &now);
    if rest.is_empty() {
        return file.remove();
    }
    Err(format!(
        "{} of {} differ from before: {}{}{}. The journal stays at {}",
        rest.len(),
        link.name,
        rest.join("; "),
        if failures.is_empty() { "" } else { ". " },
        failures.join("; "),
        file.path().display()
    ))
}

/// Which settings are not what they were.
pub fn differences(before: &Settings, now: &Settings) -> Vec<String> {
    fn show<T: serde::Serialize>(value: &T) -> String {
        serde_json::to_string(value).unwrap_or_default()
    }
    let mut found = Vec::new();
    let mut compare = |what: &str, before: String, now: String| {
        if before != now {
            found.push(format!("{what} was {before} and is {now}"));
        }
    };
    compare("channels", show(&before.channels), show(&now.channels));
    compare("RSS table", show(&before.rss), show(&now.rss));
    compare(
        "hash of udp4",
        show(&before.hash_udp4),
        show(&now.hash_udp4),
    );
    compare(
        "hash of udp6",
        show(&before.hash_udp6),
        show(&now.hash_udp6),
    );
    compare("steering rules", show(&before.rules), show(&now.rules));
    compare("moderation", show(&before.coalesce), show(&now.coalesce));
    if let (Some(before), Some(now)) = (before.features.known(), now.features.known()) {
        for (name, f) in before {
            let is = now.get(name);
            compare(name, show(&Some(f.on)), show(&is.map(|f| f.on)));
        }
    }
    for irq in &before.irqs {
        // Interrupts of queues that are back may have another number; the old one is then gone.
        if let Some(is) = now.irqs.iter().find(|i| i.irq == irq.irq) {
            compare(
                &format!("interrupt {}", irq.irq),
                show(&irq.cpus),
                show(&is.cpus),
            );
        }
    }
    found
}

/// Why a journal is not about an interface of this name, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// The settings it would undo are gone.
    Gone(&'static str),
    /// It belongs to another network namespace.
    Elsewhere,
}

/// Whether the journal is about the interface of this name, if there is one.
pub fn stale(journal: &Identity, link: Option<&Link>) -> Option<Stale> {
    stale_in(journal, link, &boot(), &netns())
}

fn stale_in(journal: &Identity, link: Option<&Link>, boot: &str, netns: &str) -> Option<Stale> {
    if journal.boot != boot {
        return Some(Stale::Gone("this host has booted since"));
    }
    // Before anything about the interface: another namespace may have none of this name.
    if journal.netns != netns {
        return Some(Stale::Elsewhere);
    }
    match link {
        None => Some(Stale::Gone("there is no such interface any more")),
        Some(l) if (l.index, &l.address) != (journal.index, &journal.address) => {
            Some(Stale::Gone("the interface has been made anew since"))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Reading;
    use crate::host::nic::Irq;

    fn settings() -> Settings {
        let none = "-";
        Settings {
            channels: Reading::unreadable(none),
            rss: Reading::Known(vec![0, 1]),
            hash_udp4: Reading::unreadable(none),
            hash_udp6: Reading::unreadable(none),
            rules: Reading::unreadable(none),
            features: Reading::unreadable(none),
            coalesce: Reading::unreadable(none),
            irqs: vec![Irq {
                irq: 9,
                rx: vec![0],
                tx: vec![],
                cpus: "0-1".into(),
            }],
        }
    }

    #[test]
    fn differences_are_named() {
        let before = settings();
        assert_eq!(differences(&before, &settings()), [""; 0]);
        let mut now = settings();
        now.rss = Reading::Known(vec![0, 0]);
        now.irqs[0].cpus = "1".into();
        let found = differences(&before, &now);
        assert_eq!(found.len(), 2);
        assert!(
            found[0].contains("RSS table was [0,1] and is [0,0]"),
            "{found:?}"
        );
        assert!(found[1].contains("interrupt 9"));
    }

    #[test]
    fn a_journal_is_about_one_interface_of_one_boot() {
        let journal = Identity {
            interface: "eth1".into(),
            index: 2,
            address: "02:00".into(),
            boot: "x".into(),
            netns: "net:[1]".into(),
        };
        let link = |index| Link {
            name: "eth1".into(),
            index,
            address: "02:00".into(),
            ..Link::default()
        };
        let (same, other) = (link(2), link(3));
        let check = |link, boot, netns| stale_in(&journal, link, boot, netns);
        assert_eq!(check(Some(&same), "x", "net:[1]"), None);
        let gone = |s| matches!(s, Some(Stale::Gone(_)));
        assert!(gone(check(Some(&same), "y", "net:[1]")));
        assert!(gone(check(Some(&other), "x", "net:[1]")));
        assert!(gone(check(None, "x", "net:[1]")));
        assert_eq!(check(None, "x", "net:[2]"), Some(Stale::Elsewhere));
    }
}
