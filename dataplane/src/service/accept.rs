//! Whether and where an offered transfer may be stored, and what of it is there already.

use super::extents::Extents;
use super::incoming::{Table, lock, part_name};
use super::journal::Journal;
use super::manifest::{Entry, Offer};
use super::message::{Have, MAX_MESSAGE};
use super::path::{STAGING, check_name, split_name};
use super::{ReceiveRule, ServiceConfig, sys};
use crate::crypto::identity::PublicKey;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long an earlier run of the same transfer may take to let go of its staging directory.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Where an object stands at the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Bytes are missing, or the sender has not said that it is whole.
    Open,
    /// It has its final name; its digest is still to be compared.
    Compare,
    /// Durable under its final name.
    Done,
    /// Given up by either side.
    Failed,
}

/// Where a transfer is stored.
pub(super) struct Place {
    /// Destination directory.
    pub(super) base: OwnedFd,
    /// The same, for messages.
    pub(super) shown: PathBuf,
    /// Directory for partial objects, locked.
    pub(super) staging: File,
    pub(super) staging_path: PathBuf,
}

/// An accepted transfer before its data.
pub(super) struct Accepted {
    pub(super) place: Option<Place>,
    pub(super) table: Table,
    pub(super) standing: Vec<Standing>,
    /// Durable bytes of partial objects.
    pub(super) durable: BTreeMap<u32, Extents>,
    /// Bodies of the `Have` messages.
    pub(super) have: Vec<Vec<u8>>,
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|b| format!("{b:02x}")).collect()
}

/// The rule that lets `peer` write to `dest`, and the directory below the rule's root.
pub(super) fn find_rule<'a>(
    rules: &'a [ReceiveRule],
    peer: &PublicKey,
    dest: &str,
) -> Result<(&'a ReceiveRule, String), String> {
    let mut mine = rules.iter().filter(|r| r.peer == *peer).peekable();
    let Some(first) = mine.peek() else {
        return Err("it has no receive rule for this sender; add one to its configuration".into());
    };
    let (rule, rest) = if dest.starts_with('/') {
        if dest.split('/').any(|c| c == "..") {
            return Err(format!("the destination {dest:?} has a `..` component"));
        }
        let found = mine.find_map(|r| Some((r, Path::new(dest).strip_prefix(&r.path).ok()?)));
        let text = || format!("{dest} is not below a directory that this sender may write to");
        let (rule, rest) = found.ok_or_else(text)?;
        (rule, rest.to_string_lossy().into_owned())
    } else {
        (*first, dest.trim_end_matches('/').to_owned())
    };
    if !rest.is_empty() {
        check_name(&rest).map_err(|e| format!("as a destination, {e}"))?;
    }
    Ok((rule, rest))
}

fn open_place(rule: &ReceiveRule, rest: &str, id: &[u8; 32]) -> Result<Place, String> {
    let at = |p: &Path, e: io::Error| format!("cannot write to {}: {e}", p.display());
    std::fs::create_dir_all(&rule.path).map_err(|e| at(&rule.path, e))?;
    let root = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(&rule.path)
        .map_err(|e| at(&rule.path, e))?;
    let shown = rule.path.join(rest);
    let base = sys::open_dir_beneath(root.as_fd(), rest, true).map_err(|e| at(&shown, e))?;
    let name = hex(&id[..16]);
    let staging_path = rule.path.join(STAGING).join(&name);
    let open = || -> io::Result<File> {
        sys::mkdir_at(root.as_fd(), STAGING, 0o700)?;
        let all = sys::open_dir_beneath(root.as_fd(), STAGING, false)?;
        sys::mkdir_at(all.as_fd(), &name, 0o700)?;
        let staging = sys::open_dir_beneath(all.as_fd(), &name, false)?;
        // A journal is worth nothing in a directory that a power cut takes away.
        File::from(all).sync_all()?;
        root.sync_all()?;
        Ok(staging.into())
    };
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let staging = open().map_err(|e| at(&staging_path, e))?;
        match staging.try_lock() {
            // Its last owner may have removed it between our open and our lock.
            Ok(()) if staging.metadata().is_ok_and(|m| m.nlink() > 0) => {
                return Ok(Place {
                    base,
                    shown,
                    staging,
                    staging_path,
                });
            }
            Ok(()) => {}
            Err(TryLockError::Error(e)) => return Err(at(&staging_path, e)),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
        if Instant::now() > deadline {
            return Err("it is receiving the same objects for the same place already".into());
        }
    }
}

/// Whether the object is there under its final name with the size and time of the manifest.
fn final_matches(place: &Place, e: &Entry) -> bool {
    let (dir, leaf) = split_name(&e.name);
    let open = || -> io::Result<bool> {
        let dir = sys::open_dir_beneath(place.base.as_fd(), dir, false)?;
        let m = sys::open_at(dir.as_fd(), leaf, libc::O_PATH, 0)?.metadata()?;
        let t = m.mtime() as i128 * 1_000_000_000 + m.mtime_nsec() as i128;
        Ok(m.is_file() && m.len() == e.size && t == e.mtime_ns as i128)
    };
    open().unwrap_or(false)
}

/// Whether the partial object is there and has its full length.
fn part_is_there(place: &Place, index: u32, size: u64) -> bool {
    let f = sys::open_at(place.staging.as_fd(), &part_name(index), libc::O_PATH, 0);
    f.and_then(|f| f.metadata())
        .is_ok_and(|m| m.is_file() && m.len() == size)
}

/// Checks the policy and finds out what is there. The error is a sentence for the sender.
pub(super) fn accept(
    cfg: &ServiceConfig,
    peer: &PublicKey,
    offer: &Offer,
    entries: &[Entry],
    full: bool,
) -> Result<Accepted, String> {
    let n = entries.len();
    if offer.discard {
        if !cfg.allow_discard {
            return Err("its configuration does not allow measuring (discard)".into());
        }
        let table = Table::new(None, entries);
        open_objects(&table, &vec![Standing::Open; n]);
        return Ok(Accepted {
            place: None,
            table,
            standing: vec![Standing::Open; n],
            durable: BTreeMap::new(),
            have: Vec::new(),
        });
    }
    let (rule, rest) = find_rule(&cfg.receive, peer, &offer.dest)?;
    if let Some(max) = rule.max_bytes
        && offer.total > max
    {
        return Err(format!(
            "the transfer has {} bytes and its limit for this sender is {max} (max_bytes)",
            offer.total
        ));
    }
    let place = open_place(rule, &rest, &offer.id)?;
    let journal = Journal::load(place.staging.as_fd(), &offer.id);
    let known = offer.again || journal != Journal::default();
    let mut standing = vec![Standing::Open; n];
    let mut durable = BTreeMap::new();
    let mut free_needed = 0u64;
    for (i, e) in entries.iter().enumerate() {
        let index = i as u32;
        if e.is_dir() || e.size == 0 {
            continue;
        }
        if let Some(x) = journal.partial.get(&index)
            && x.ranges().last().is_some_and(|r| r.1 <= e.size)
            && part_is_there(&place, index, e.size)
        {
            free_needed += e.size - x.len();
            durable.insert(index, x.clone());
        } else if known && final_matches(&place, e) {
            standing[i] = if full {
                Standing::Compare
            } else {
                Standing::Done
            };
        } else {
            free_needed += e.size;
        }
    }
    let free = sys::free_bytes(place.staging.as_fd()).map_err(|e| e.to_string())?;
    if free_needed > free {
        return Err(format!(
            "{} more bytes are needed below {} and {free} are free; make room there and send again",
            free_needed - free,
            place.shown.display()
        ));
    }
    let staging = place.staging.try_clone().map_err(|e| e.to_string())?;
    let table = Table::new(Some(staging), entries);
    for (&index, x) in &durable {
        let o = &table.objects[index as usize];
        *lock(&o.written) = x.clone();
        if x.covers(o.size) {
            lock(&table.complete).push(index);
        }
    }
    open_objects(&table, &standing);
    let have = encode_have(&standing, &durable);
    Ok(Accepted {
        place: Some(place),
        table,
        standing,
        durable,
        have,
    })
}

fn open_objects(table: &Table, standing: &[Standing]) {
    for (o, s) in table.objects.iter().zip(standing) {
        o.open
            .store(*s == Standing::Open && o.size > 0, Ordering::Release);
    }
}

fn encode_have(standing: &[Standing], durable: &BTreeMap<u32, Extents>) -> Vec<Vec<u8>> {
    let there = |s: &Standing| matches!(s, Standing::Done | Standing::Compare);
    let done = standing
        .iter()
        .enumerate()
        .filter(|(_, s)| there(s))
        .map(|(i, _)| i as u32);
    let done = super::journal::ranges(done);
    let items = done
        .into_iter()
        .map(|(first, count)| Have::Done { first, count })
        .chain(durable.iter().flat_map(|(&index, x)| {
            x.ranges()
                .iter()
                .map(move |&(start, end)| Have::Range { index, start, end })
        }));
    let mut out = Vec::new();
    let mut b = Vec::new();
    for i in items {
        if b.len() + Have::LEN > MAX_MESSAGE {
            out.push(std::mem::take(&mut b));
        }
        i.encode(&mut b);
    }
    if !b.is_empty() {
        out.push(b);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Vec<ReceiveRule> {
        let rule = |peer, path: &str| ReceiveRule {
            peer: PublicKey([peer; 32]),
            peer_name: "p".into(),
            path: path.into(),
            max_bytes: None,
        };
        vec![rule(1, "/srv/a"), rule(2, "/srv/b"), rule(1, "/srv/c")]
    }

    #[test]
    fn a_peer_writes_below_its_own_roots_only() {
        let r = rules();
        let p = PublicKey([1; 32]);
        let ok = |dest: &str| {
            find_rule(&r, &p, dest).map(|(r, rest)| (r.path.display().to_string(), rest))
        };
        let is = |root: &str, rest: &str| Ok((root.to_owned(), rest.to_owned()));
        assert_eq!(ok(""), is("/srv/a", ""));
        assert_eq!(ok("x/y/"), is("/srv/a", "x/y"));
        assert_eq!(ok("/srv/c/x"), is("/srv/c", "x"));
        assert_eq!(ok("/srv/c"), is("/srv/c", ""));
        for bad in [
            "/srv/b",
            "/srv",
            "/",
            "/srv/a/../b",
            "/srv/ab",
            "..",
            "x/../..",
            "a//b",
            ".ctp96-partial",
        ] {
            assert!(ok(bad).is_err(), "{bad}");
        }
        assert!(find_rule(&r, &PublicKey([3; 32]), "").is_err());
    }
}
