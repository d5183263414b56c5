//! The receiving side of a transfer as the lanes see it: verified bytes go from the slot into the
//! partial object by one `pwrite`, and into the set of extents in larger pieces.

use super::extents::Extents;
use super::manifest::Entry;
use super::record::{Head, Kind};
use super::sys;
use crossbeam_channel::Sender;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Partial objects that are kept open.
const OPEN_FILES: usize = 64;
/// A lane hands over what it wrote in one run at least this often, bytes.
const HAND_OVER: u64 = 4 << 20;

/// Separate extents that one object may have: a sender in order has a few per lane.
const MAX_PIECES: usize = 65_536;

/// What a transfer's worker thread is told.
pub(super) enum Event {
    /// A control message of the sender.
    Message(Kind, Vec<u8>),
    /// Bytes were written.
    Wake,
    /// Bytes could not be written: the transfer cannot go on.
    Broken(String),
}

/// State of one object that lanes and worker share.
#[derive(Debug, Default)]
pub(super) struct ObjectState {
    pub(super) size: u64,
    pub(super) written: Mutex<Extents>,
    /// Whether bytes for it are taken.
    pub(super) open: AtomicBool,
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An accepted transfer.
pub(super) struct Table {
    /// Where partial objects are; `None` throws the bytes away.
    pub(super) staging: Option<File>,
    pub(super) objects: Vec<ObjectState>,
    cache: Mutex<VecDeque<(u32, Arc<File>)>>,
    /// Objects with bytes that are not in the journal yet.
    pub(super) dirty: Mutex<BTreeSet<u32>>,
    /// Objects whose last byte was written.
    pub(super) complete: Mutex<Vec<u32>>,
    pub(super) received: AtomicU64,
}

/// Name of a partial object in the staging directory.
pub(super) fn part_name(index: u32) -> String {
    format!("{index}.part")
}

impl Table {
    pub(super) fn new(staging: Option<File>, entries: &[Entry]) -> Table {
        let object = |e: &Entry| ObjectState {
            size: e.size,
            ..ObjectState::default()
        };
        Table {
            staging,
            objects: entries.iter().map(object).collect(),
            cache: Mutex::new(VecDeque::with_capacity(OPEN_FILES)),
            dirty: Mutex::default(),
            complete: Mutex::default(),
            received: AtomicU64::new(0),
        }
    }

    /// The partial object, opened or made with its final size.
    pub(super) fn part(&self, index: u32) -> io::Result<Option<Arc<File>>> {
        let Some(staging) = &self.staging else {
            return Ok(None);
        };
        let mut cache = lock(&self.cache);
        if let Some(at) = cache.iter().position(|c| c.0 == index) {
            return Ok(cache.get(at).map(|c| c.1.clone()));
        }
        let flags = libc::O_RDWR | libc::O_CREAT;
        let file = sys::open_at(staging.as_fd(), &part_name(index), flags, 0o600)?;
        let size = self.objects[index as usize].size;
        if file.metadata()?.len() != size {
            file.set_len(size)?;
        }
        let file = Arc::new(file);
        if cache.len() == OPEN_FILES {
            cache.pop_front();
        }
        cache.push_back((index, file.clone()));
        Ok(Some(file))
    }

    /// Forgets an open partial object.
    pub(super) fn close(&self, index: u32) {
        lock(&self.cache).retain(|c| c.0 != index);
    }
}

/// A transfer that comes in within one session.
pub(super) struct Incoming {
    pub(super) tag: u64,
    pub(super) events: Sender<Event>,
    /// Set once the transfer is accepted.
    pub(super) table: OnceLock<Table>,
    /// The session has ended and every lane has handed over what it wrote.
    pub(super) stop: AtomicBool,
    wake: AtomicBool,
}

impl Incoming {
    pub(super) fn new(tag: u64, events: Sender<Event>) -> Incoming {
        Incoming {
            tag,
            events,
            table: OnceLock::new(),
            stop: AtomicBool::new(false),
            wake: AtomicBool::new(false),
        }
    }

    fn wake(&self) {
        if !self.wake.swap(true, Ordering::AcqRel) {
            // A full channel wakes the worker as well.
            let _ = self.events.try_send(Event::Wake);
        }
    }

    /// The worker looks now: the next change wakes it again.
    pub(super) fn woken(&self) {
        self.wake.store(false, Ordering::Release);
    }

    fn hand_over(&self, table: &Table, index: u32, start: u64, end: u64) {
        let o = &table.objects[index as usize];
        let (whole, pieces) = {
            let mut w = lock(&o.written);
            w.add(start, end);
            (w.covers(o.size), w.ranges().len())
        };
        if pieces > MAX_PIECES {
            o.open.store(false, Ordering::Release);
            let why = "the sender sends an object in more than 65536 scattered pieces";
            let _ = self.events.send(Event::Broken(why.into()));
        }
        table.received.fetch_add(end - start, Ordering::Relaxed);
        if table.staging.is_some() {
            lock(&table.dirty).insert(index);
        }
        if whole {
            lock(&table.complete).push(index);
        }
        self.wake();
    }
}

/// Why data of a slot was refused: the peer broke the protocol.
pub(super) struct BadData;

/// What a lane that receives keeps between slots.
#[derive(Default)]
pub(super) struct LaneWriter {
    transfer: Option<Arc<Incoming>>,
    file: Option<(u32, Option<Arc<File>>)>,
    /// Run of bytes that was written and not handed over.
    start: u64,
    end: u64,
}

impl LaneWriter {
    /// Stores the body of one data record. `find` gives the transfer of a tag.
    pub(super) fn data(
        &mut self,
        head: &Head,
        body: &[u8],
        find: impl FnOnce(u64) -> Option<Arc<Incoming>>,
    ) -> Result<(), BadData> {
        if self.transfer.as_ref().is_none_or(|t| t.tag != head.tag) {
            self.flush();
            self.file = None;
            self.transfer = find(head.tag);
        }
        // Data of a transfer that has ended meanwhile is nothing to wonder at.
        let Some(transfer) = self.transfer.clone() else {
            return Ok(());
        };
        let table = transfer.table.get().ok_or(BadData)?;
        let object = table.objects.get(head.index as usize).ok_or(BadData)?;
        let end = head.offset.checked_add(body.len() as u64).ok_or(BadData)?;
        if end > object.size {
            return Err(BadData);
        }
        if body.is_empty() || !object.open.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.file.as_ref().is_none_or(|f| f.0 != head.index) {
            self.flush();
            match table.part(head.index) {
                Ok(f) => self.file = Some((head.index, f)),
                Err(e) => {
                    object.open.store(false, Ordering::Release);
                    let _ = transfer.events.send(Event::Broken(e.to_string()));
                    return Ok(());
                }
            }
        }
        if let Some((_, Some(f))) = &self.file
            && let Err(e) = f.write_all_at(body, head.offset)
        {
            object.open.store(false, Ordering::Release);
            let _ = transfer.events.send(Event::Broken(e.to_string()));
            return Ok(());
        }
        if self.start == self.end || head.offset != self.end {
            self.flush();
            self.start = head.offset;
        }
        self.end = end;
        if self.end - self.start >= HAND_OVER {
            self.flush();
        }
        Ok(())
    }

    /// Hands over what was written since the last time.
    pub(super) fn flush(&mut self) {
        if self.start < self.end
            && let (Some(t), Some((index, _))) = (&self.transfer, &self.file)
            && let Some(table) = t.table.get()
        {
            t.hand_over(table, *index, self.start, self.end);
        }
        self.start = self.end;
    }

    /// Forgets the file at hand, so that an idle lane keeps nothing open.
    pub(super) fn rest(&mut self) {
        self.flush();
        self.file = None;
        self.transfer = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::testdir::TestDir;
    use crossbeam_channel::bounded;

    fn head(index: u32, offset: u64) -> Head {
        Head {
            kind: Kind::Data,
            more: false,
            tag: 9,
            index,
            len: 0,
            offset,
        }
    }

    #[test]
    fn bytes_land_where_they_belong_and_bad_places_are_refused() {
        let t = TestDir::new("incoming");
        let (tx, rx) = bounded(16);
        let inc = Arc::new(Incoming::new(9, tx));
        let entry = |size| Entry {
            name: "a".into(),
            size,
            mtime_ns: 0,
            mode: libc::S_IFREG,
        };
        let table = Table::new(Some(File::open(t.path()).unwrap()), &[entry(10), entry(4)]);
        for o in &table.objects {
            o.open.store(true, Ordering::Relaxed);
        }
        let mut w = LaneWriter::default();
        let find = |_| Some(inc.clone());
        assert!(w.data(&head(0, 0), b"x", find).is_err(), "not accepted yet");
        assert!(inc.table.set(table).is_ok());
        let table = inc.table.get().unwrap();
        assert!(w.data(&head(0, 5), b"56789", find).is_ok());
        assert!(w.data(&head(1, 0), b"abcd", find).is_ok());
        assert!(w.data(&head(0, 0), b"01", find).is_ok());
        assert!(w.data(&head(0, 2), b"234", find).is_ok());
        for (i, offset, body) in [(0, 6, &b"67890"[..]), (2, 0, b"a"), (0, u64::MAX, b"a")] {
            assert!(w.data(&head(i, offset), body, find).is_err());
        }
        w.rest();
        assert_eq!(
            std::fs::read(t.path().join("0.part")).unwrap(),
            b"0123456789"
        );
        assert_eq!(std::fs::read(t.path().join("1.part")).unwrap(), b"abcd");
        assert_eq!(*lock(&table.complete), [1, 0]);
        assert_eq!(table.received.load(Ordering::Relaxed), 14);
        assert!(matches!(rx.try_recv(), Ok(Event::Wake)));
        assert!(rx.try_recv().is_err(), "one wake-up for all");
    }
}
