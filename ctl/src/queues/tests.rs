use super::journal::{Entry, Identity, Journal, Progress, VERSION};
use super::*;
use crate::host::Reading;
use crate::host::nic::Settings;
use std::fs;
use std::path::PathBuf;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("ctp96-queues-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn journal() -> Journal {
    let none = "the driver has no such setting";
    let step = Step {
        why: "a test".into(),
        run: act::Act::command(&["true"]),
        undo: act::Act::Write {
            path: "/dev/null".into(),
            text: "0".into(),
        },
    };
    Journal {
        version: VERSION,
        identity: Identity {
            interface: "eth1".into(),
            index: 2,
            address: "02:00:00:00:00:01".into(),
            boot: "b".into(),
            netns: "net:[1]".into(),
        },
        before: Settings {
            channels: Reading::unreadable(none),
            rss: Reading::Known(vec![0, 1]),
            hash_udp4: Reading::Known("sd".into()),
            hash_udp6: Reading::unreadable(none),
            rules: Reading::unreadable(none),
            features: Reading::Known([].into()),
            coalesce: Reading::unreadable(none),
            irqs: vec![],
        },
        entries: vec![Entry {
            step,
            progress: Progress::Planned,
        }],
    }
}

#[test]
fn the_journal_survives_and_there_is_one_at_a_time() {
    let dir = Dir::new("journal");
    assert!(
        JournalFile::load(&dir.0, "eth1")
            .expect("no file")
            .is_none()
    );
    let mut file = JournalFile::create(&dir.0, journal()).expect("made");
    let again = JournalFile::create(&dir.0, journal());
    assert!(again.is_err_and(|e| e.contains("restore")));
    file.mark(0, Progress::Started).expect("saved");
    let read = JournalFile::load(&dir.0, "eth1")
        .expect("readable")
        .expect("there");
    assert_eq!(read.journal.entries[0].progress, Progress::Started);
    assert_eq!(read.journal, file.journal, "nothing is lost in the file");
    read.remove().expect("removed");
    assert!(
        JournalFile::load(&dir.0, "eth1")
            .expect("no file")
            .is_none()
    );
}

#[test]
fn a_damaged_journal_is_not_obeyed() {
    let dir = Dir::new("damaged");
    let path = JournalFile::create(&dir.0, journal())
        .expect("made")
        .path()
        .to_owned();
    let text = fs::read_to_string(&path).expect("readable");
    let other = text.replace("\"eth1\"", "\"eth2\"");
    let newer = text.replace("\"version\": 1", "\"version\": 9");
    for bad in ["{", &text[..text.len() / 2], &other, &newer] {
        fs::write(&path, bad).expect("written");
        let e = JournalFile::load(&dir.0, "eth1").expect_err("damaged");
        assert!(
            e.contains("cannot be used") && e.contains("queues show eth1"),
            "{e}"
        );
    }
    // Cut off before its first write: nothing had been changed.
    fs::write(&path, "").expect("written");
    assert!(JournalFile::load(&dir.0, "eth1").expect("taken").is_none());
    assert!(!path.exists());
}

#[test]
fn switches() {
    assert_eq!(parse_switch("rx-gro=off"), Ok(("rx-gro".into(), false)));
    assert_eq!(parse_switch("rx-gro=on"), Ok(("rx-gro".into(), true)));
    for bad in ["rx-gro", "=on", "rx-gro=maybe", ""] {
        assert!(parse_switch(bad).is_err(), "{bad}");
    }
}
