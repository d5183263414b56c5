//! Completion of received objects, and the journal: everything that waits for the disk.

use super::accept::{Accepted, Standing};
use super::incoming::{lock, part_name};
use super::journal::{Journal, ranges};
use super::path::split_name;
use super::receive::Receiving;
use super::sys;
use std::collections::BTreeMap;
use std::fs::{File, FileTimes, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// From so many objects on, one `syncfs` takes the place of a sync of each.
const SYNC_ALL: usize = 32;

impl Receiving<'_> {
    /// Gives objects their final names: digest, mode, time and data first, then the rename, then
    /// the directories. Only then are they reported as done.
    pub(super) fn complete(&mut self, batch: &[u32]) {
        let Accepted {
            place: Some(place), ..
        } = &self.accepted
        else {
            self.say_done(batch.iter().map(|&i| (i, None)).collect());
            return;
        };
        let Ok(staging) = place.staging.try_clone() else {
            return;
        };
        let together = batch.len() >= SYNC_ALL;
        let mut ready = Vec::with_capacity(batch.len());
        let mut failed = Vec::new();
        for &i in batch {
            match self.prepare(i, !together) {
                Ok(hash) => ready.push((i, hash)),
                Err(why) => failed.push((i, why)),
            }
        }
        if together && let Err(e) = sys::sync_fs(staging.as_fd()) {
            failed.extend(ready.drain(..).map(|(i, _)| (i, e.to_string())));
        }
        let mut dirs: BTreeMap<String, OwnedFd> = BTreeMap::new();
        let mut made = false;
        let mut done = Vec::with_capacity(ready.len());
        for (i, hash) in ready {
            match self.place(i, &mut dirs, &mut made) {
                Ok(()) => done.push((i, hash)),
                Err(e) => failed.push((i, format!("cannot be put in place: {e}"))),
            }
        }
        // New directories have to be durable up to the root: one call for all of them.
        let synced = match made {
            true => sys::sync_fs(staging.as_fd()),
            false => dirs
                .into_values()
                .try_for_each(|fd| File::from(fd).sync_all()),
        };
        if let Err(e) = synced {
            failed.extend(done.drain(..).map(|(i, _)| (i, e.to_string())));
        }
        for (i, why) in failed {
            self.fail(i, &why);
        }
        self.say_done(done);
    }

    /// Checks an object and makes its bytes durable (unless the caller does it for many at once).
    fn prepare(&mut self, index: u32, sync: bool) -> Result<Option<[u8; 32]>, String> {
        let e = &self.entries[index as usize];
        if e.is_dir() {
            return Ok(None);
        }
        let text = |err: io::Error| err.to_string();
        let compare = self.accepted.standing[index as usize] == Standing::Compare;
        let file = if compare {
            let Some(p) = &self.accepted.place else {
                return Ok(None);
            };
            let (dir, leaf) = split_name(&e.name);
            let dir = sys::open_dir_beneath(p.base.as_fd(), dir, false).map_err(text)?;
            Arc::new(sys::open_at(dir.as_fd(), leaf, libc::O_RDONLY, 0).map_err(text)?)
        } else {
            match self.table().map(|t| t.part(index)) {
                Some(Ok(Some(f))) => f,
                Some(Err(err)) => return Err(text(err)),
                _ => return Ok(None),
            }
        };
        if let Some(t) = self.table() {
            t.objects[index as usize]
                .open
                .store(false, Ordering::Release);
        }
        if file.metadata().map_err(text)?.len() != e.size {
            return Err("the stored object does not have its size; was it changed here?".into());
        }
        let mut hash = None;
        if self.full {
            let ours = self.hash(&file)?;
            let theirs = match (e.size, self.ends.get(&index)) {
                (0, _) => ours,
                (_, Some(Some(h))) => *h,
                _ => return Err("the sender gave no digest".into()),
            };
            if ours != theirs {
                return Err("BLAKE3 of what was stored differs from the sender's".into());
            }
            hash = Some(ours);
        }
        if !compare {
            file.set_permissions(Permissions::from_mode(e.mode & 0o777))
                .map_err(text)?;
            file.set_times(FileTimes::new().set_modified(time_of(e.mtime_ns)))
                .map_err(text)?;
            if sync {
                file.sync_all().map_err(text)?;
            }
        }
        Ok(hash)
    }

    fn hash(&self, file: &Arc<File>) -> Result<[u8; 32], String> {
        let mut h = blake3::Hasher::new();
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        loop {
            let n = file.read_at(&mut buf, at).map_err(|e| e.to_string())?;
            if n == 0 {
                return Ok(*h.finalize().as_bytes());
            }
            h.update(&buf[..n]);
            at += n as u64;
        }
    }

    /// Renames an object to its final name, or makes a directory; `made` is set when directories
    /// were made.
    fn place(
        &self,
        index: u32,
        dirs: &mut BTreeMap<String, OwnedFd>,
        made: &mut bool,
    ) -> io::Result<()> {
        let e = &self.entries[index as usize];
        let Some(p) = &self.accepted.place else {
            return Ok(());
        };
        if self.accepted.standing[index as usize] == Standing::Compare {
            return Ok(());
        }
        if e.is_dir() {
            return open_or_make(p.base.as_fd(), &e.name, made).map(drop);
        }
        let (dir, leaf) = split_name(&e.name);
        if !dirs.contains_key(dir) {
            dirs.insert(dir.to_owned(), open_or_make(p.base.as_fd(), dir, made)?);
        }
        if let Some(to) = dirs.get(dir) {
            sys::rename_at(p.staging.as_fd(), &part_name(index), to.as_fd(), leaf)?;
        }
        if let Some(t) = self.table() {
            t.close(index);
        }
        Ok(())
    }

    /// Makes what was written durable and writes it down.
    pub(super) fn journal(&mut self) -> io::Result<()> {
        let (Some(t), Some(p)) = (self.inc.table.get(), &self.accepted.place) else {
            return Ok(());
        };
        let received = t.received.load(Ordering::Relaxed);
        let dirty = std::mem::take(&mut *lock(&t.dirty));
        let dirty: Vec<_> = dirty
            .into_iter()
            .filter(|&i| self.accepted.standing[i as usize] == Standing::Open)
            // Taken before the sync: what is written meanwhile counts the next time.
            .map(|i| (i, lock(&t.objects[i as usize].written).clone()))
            .collect();
        let together = dirty.len() >= SYNC_ALL;
        for (i, x) in dirty {
            if !together && let Some(f) = t.part(i)? {
                f.sync_data()?;
            }
            self.accepted.durable.insert(i, x);
        }
        if together {
            sys::sync_fs(p.staging.as_fd())?;
        }
        let standing = self.accepted.standing.iter().enumerate();
        let done = standing
            .filter(|(_, s)| **s == Standing::Done)
            .map(|(i, _)| i as u32);
        let j = Journal {
            done: ranges(done),
            partial: self.accepted.durable.clone(),
        };
        j.store(p.staging.as_fd(), &self.offer.id)?;
        self.journalled = (received, Instant::now());
        self.moved = false;
        Ok(())
    }
}

/// Opens a directory below `base`, making it where it is missing; `made` says so.
fn open_or_make(base: BorrowedFd, rel: &str, made: &mut bool) -> io::Result<OwnedFd> {
    match sys::open_dir_beneath(base, rel, false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            *made = true;
            sys::open_dir_beneath(base, rel, true)
        }
        r => r,
    }
}

fn time_of(ns: i64) -> SystemTime {
    let d = Duration::from_nanos(ns.unsigned_abs());
    if ns < 0 {
        UNIX_EPOCH - d
    } else {
        UNIX_EPOCH + d
    }
}
