//! What was changed and how it was before, on disk before each change, so that `restore` can undo
//! it after a crash as well.

use super::plan::Step;
use crate::host::nic::Settings;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How far a step has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Not begun.
    Planned,
    /// Begun: after a crash it may have happened or not.
    Started,
    /// Done.
    Done,
}

/// A step with its progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The change and its inverse.
    pub step: Step,
    /// How far it has got.
    pub progress: Progress,
}

/// The interface that the changes belong to; any other one is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name.
    pub interface: String,
    /// Interface index.
    pub index: u32,
    /// Hardware address.
    pub address: String,
    /// Boot of the host: settings do not survive one.
    pub boot: String,
    /// Network namespace.
    pub netns: String,
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// Form of this file.
    pub version: u32,
    /// Whose settings.
    pub identity: Identity,
    /// Settings before the first change.
    pub before: Settings,
    /// Changes, in order.
    pub entries: Vec<Entry>,
}

/// The form that this code writes and reads.
pub const VERSION: u32 = 1;

/// A journal and its file.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
    /// What is in it.
    pub journal: Journal,
}

fn context(path: &Path) -> impl Fn(io::Error) -> String + '_ {
    move |e| format!("cannot keep the journal {}: {e}", path.display())
}

/// Where the journal of an interface lies. Names of interfaces have no slash.
pub fn path(state: &Path, interface: &str) -> PathBuf {
    state.join(format!("queues-{interface}.json"))
}

impl JournalFile {
    /// Makes the journal; there must be none yet.
    pub fn create(state: &Path, journal: Journal) -> Result<JournalFile, String> {
        let path = path(state, &journal.identity.interface);
        fs::create_dir_all(state).map_err(context(&path))?;
        // Two commands at once: only one of them makes the file.
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(format!(
                    "{} says that the queues of {} were changed before; run `ctp96 queues restore \
                     {}` first",
                    path.display(),
                    journal.identity.interface,
                    journal.identity.interface
                ));
            }
            Err(e) => return Err(context(&path)(e)),
        }
        let file = JournalFile { path, journal };
        file.save()?;
        Ok(file)
    }

    /// The journal of an interface; `None` where there is none.
    pub fn load(state: &Path, interface: &str) -> Result<Option<JournalFile>, String> {
        let path = path(state, interface);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(format!("cannot read {}: {e}", path.display())),
        };
        if text.is_empty() {
            // A crash between making the file and filling it, so before the first change.
            fs::remove_file(&path).map_err(context(&path))?;
            return Ok(None);
        }
        let damaged = |why: String| {
            format!(
                "{} cannot be used: {why}; compare with `ctp96 queues show {interface}`, undo by \
                 hand and remove it",
                path.display()
            )
        };
        let journal: Journal = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if journal.version != VERSION {
            return Err(damaged(format!("it has version {}", journal.version)));
        }
        if journal.identity.interface != interface {
            return Err(damaged(format!(
                "it is about {}",
                journal.identity.interface
            )));
        }
        Ok(Some(JournalFile { path, journal }))
    }

    /// Writes it, whole or not at all, and waits until the disk has it.
    pub fn save(&self) -> Result<(), String> {
        let write = || -> io::Result<()> {
            let new = self.path.with_extension("json.new");
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(&self.journal)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            match self.path.parent() {
                Some(dir) => File::open(dir)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(context(&self.path))
    }

    /// Notes how far the `i`-th step has got.
    pub fn mark(&mut self, i: usize, progress: Progress) -> Result<(), String> {
        if let Some(e) = self.journal.entries.get_mut(i) {
            e.progress = progress;
        }
        self.save()
    }

    /// Removes the file: nothing is left to undo.
    pub fn remove(self) -> Result<(), String> {
        fs::remove_file(&self.path).map_err(context(&self.path))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
