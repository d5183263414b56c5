//! The worker of one incoming transfer: manifest, policy, journal, and completion of objects.

use super::accept::{Accepted, Standing, accept};
use super::incoming::{Event, Incoming, Table, lock, part_name};
use super::job::{Job, JobState, push_failure};
use super::live::Live;
use super::manifest::{self, Entry, MAX_MANIFEST, Offer};
use super::message::{self, End, Reader};
use super::record::Kind;
use super::{Shared, sys};
use crate::crypto::receipt::{Receipt, Statement};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use std::collections::HashMap;
use std::fs::{File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Bytes after which what was written is made durable and journalled.
const JOURNAL_BYTES: u64 = 64 << 20;
/// Time after which it is, however little it was.
const JOURNAL_TIME: Duration = Duration::from_secs(2);
/// How often the worker looks around, and reports.
const TICK: Duration = Duration::from_millis(200);
/// Objects in one batch of completions.
const BATCH: usize = 256;

/// Why the worker ends before the transfer does.
enum Stop {
    /// The session ended: the transfer may come back.
    Session,
    /// The sender gave it up.
    Aborted(String),
    /// It cannot go on, for a reason that the sender is told.
    Refused(String),
    /// Our user ended it.
    Cancelled,
}

pub(super) struct Receiving<'a> {
    pub(super) shared: &'a Shared,
    pub(super) live: &'a Live,
    pub(super) inc: &'a Incoming,
    pub(super) job: &'a Arc<Job>,
    pub(super) offer: &'a Offer,
    pub(super) entries: &'a [Entry],
    pub(super) full: bool,
    pub(super) accepted: Accepted,
    /// What the sender said about objects that it sent whole.
    pub(super) ends: HashMap<u32, Option<[u8; 32]>>,
    /// Objects that are whole here and may wait for their end.
    pub(super) whole: Vec<u32>,
    pub(super) open: usize,
    pub(super) done_bytes: u64,
    pub(super) journalled: (u64, Instant),
    /// Whether objects were completed since the last journal.
    pub(super) moved: bool,
    pub(super) reported: (u64, u64),
}

/// Runs until the transfer or its session ends.
pub(super) fn run(
    shared: &Shared,
    live: &Live,
    inc: &Incoming,
    events: &Receiver<Event>,
    offer: &Offer,
) {
    let mut entries = Vec::new();
    let job = shared.receive_job(live.session().peer(), &offer.id);
    let result = gather(inc, events, &mut entries).and_then(|()| {
        manifest::check(offer, &live.session().peer(), &entries)
            .map_err(|e| Stop::Refused(e.to_string()))?;
        receive(shared, live, inc, events, offer, &entries, &job)
    });
    let state = match result {
        Ok(state) => state,
        Err(Stop::Session) => {
            shared.suspend(live.session().peer(), offer.id, &job);
            JobState::Waiting {
                why: "the session ended; the sender may come back".into(),
            }
        }
        Err(Stop::Aborted(why)) => JobState::Failed {
            why: format!("given up by the sender: {why}"),
        },
        Err(Stop::Refused(why)) => {
            live.post_wait(Kind::Refuse, inc.tag, message::encode_reason(0, &why));
            JobState::Failed { why }
        }
        Err(Stop::Cancelled) => {
            let why = message::encode_reason(0, "cancelled by the receiver");
            live.post_wait(Kind::Refuse, inc.tag, why);
            JobState::Cancelled
        }
    };
    job.set_state(state);
    live.forget(inc.tag);
}

/// Reads the manifest.
fn gather(inc: &Incoming, events: &Receiver<Event>, entries: &mut Vec<Entry>) -> Result<(), Stop> {
    let mut bytes = 0;
    loop {
        match events.recv_timeout(TICK) {
            Ok(Event::Message(Kind::Entries, body)) => {
                bytes += body.len();
                if bytes > MAX_MANIFEST {
                    return Err(Stop::Refused(manifest::ManifestError::TooLarge.to_string()));
                }
                manifest::decode_entries(&body, entries)
                    .map_err(|e| Stop::Refused(e.to_string()))?;
            }
            Ok(Event::Message(Kind::OfferEnd, _)) => return Ok(()),
            Ok(Event::Message(Kind::Abort, body)) => return Err(aborted(&body)),
            Ok(Event::Message(..)) => return Err(Stop::Refused("data before the manifest".into())),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(Stop::Session),
        }
        if inc.stop.load(Ordering::Acquire) {
            return Err(Stop::Session);
        }
    }
}

fn aborted(body: &[u8]) -> Stop {
    Stop::Aborted(message::decode_reason(body).map_or_else(String::new, |r| r.1))
}

fn receive(
    shared: &Shared,
    live: &Live,
    inc: &Incoming,
    events: &Receiver<Event>,
    offer: &Offer,
    entries: &[Entry],
    job: &Arc<Job>,
) -> Result<JobState, Stop> {
    let full = !offer.discard && (offer.full || shared.full);
    let mut accepted =
        accept(&shared.cfg, &live.session().peer(), offer, entries, full).map_err(Stop::Refused)?;
    let done = |s: &&Standing| **s == Standing::Done;
    let size_of = |i: usize| entries[i].size;
    let there = accepted
        .standing
        .iter()
        .enumerate()
        .filter(|(_, s)| **s == Standing::Done);
    let done_bytes: u64 = there.map(|(i, _)| size_of(i)).sum();
    let open = accepted.standing.len() - accepted.standing.iter().filter(done).count();
    let have = std::mem::take(&mut accepted.have);
    let durable: u64 = accepted.durable.values().map(|x| x.len()).sum();
    let compared: u64 = (0..entries.len())
        .filter(|&i| accepted.standing[i] == Standing::Compare)
        .map(size_of)
        .sum();
    job.update(|s| {
        s.state = JobState::Running;
        s.files_total = entries.len() as u64;
        s.files_done = (entries.len() - open) as u64;
        s.bytes_total = offer.total;
        s.bytes_resumed = done_bytes + durable + compared;
        s.bytes_done = done_bytes + durable;
    });
    // The lanes reach the table through `inc`; the worker keeps the rest.
    let table = std::mem::replace(&mut accepted.table, Table::new(None, &[]));
    if inc.table.set(table).is_err() {
        return Err(Stop::Refused("the transfer was offered twice".into()));
    }
    let mut r = Receiving {
        shared,
        live,
        inc,
        job,
        offer,
        entries,
        full,
        accepted,
        ends: HashMap::new(),
        whole: Vec::new(),
        open,
        done_bytes,
        journalled: (0, Instant::now()),
        moved: false,
        reported: (0, 0),
    };
    for body in have {
        live.post_wait(Kind::Have, inc.tag, body);
    }
    live.post_wait(Kind::Accept, inc.tag, vec![u8::from(full)]);
    r.make_empty();
    let result = r.work(events);
    if result.is_err() {
        // Whatever ends it: what was received is kept for the next time.
        let _ = r.journal();
    }
    result
}

impl Receiving<'_> {
    pub(super) fn table(&self) -> Option<&Table> {
        self.inc.table.get()
    }

    /// Directories and empty objects need no data.
    fn make_empty(&mut self) {
        let empty: Vec<u32> = (0..self.entries.len() as u32)
            .filter(|&i| self.entries[i as usize].size == 0)
            .collect();
        for batch in empty.chunks(BATCH) {
            self.complete(batch);
        }
    }

    fn work(&mut self, events: &Receiver<Event>) -> Result<JobState, Stop> {
        loop {
            self.inc.woken();
            if let Some(t) = self.table() {
                let new = std::mem::take(&mut *lock(&t.complete));
                self.whole.extend(new);
            }
            self.complete_whole();
            let received = self
                .table()
                .map_or(0, |t| t.received.load(Ordering::Relaxed));
            let fresh = received - self.journalled.0;
            let late = self.journalled.1.elapsed() > JOURNAL_TIME && (fresh > 0 || self.moved);
            if fresh >= JOURNAL_BYTES || late {
                self.journal()
                    .map_err(|e| Stop::Refused(self.no_write(&e.to_string())))?;
            }
            self.report(received);
            if self.open == 0 {
                return self.finish();
            }
            if self.inc.stop.load(Ordering::Acquire) {
                return Err(Stop::Session);
            }
            if self.job.cancelled() {
                return Err(Stop::Cancelled);
            }
            let mut next = events.recv_timeout(TICK).ok();
            while let Some(e) = next {
                self.on_event(e)?;
                next = events.try_recv().ok();
            }
        }
    }

    fn no_write(&self, why: &str) -> String {
        let place = self
            .accepted
            .place
            .as_ref()
            .map(|p| p.shown.display().to_string());
        format!(
            "it cannot write to {}: {why}; when that is mended, send again: what is stored there \
             already is not sent again",
            place.unwrap_or_default()
        )
    }

    fn on_event(&mut self, e: Event) -> Result<(), Stop> {
        let malformed = || Stop::Refused("a message of the sender is malformed".into());
        match e {
            Event::Wake => {}
            Event::Broken(why) => return Err(Stop::Refused(self.no_write(&why))),
            Event::Message(Kind::Ends, body) => {
                let mut r = Reader(&body);
                while !r.at_end() {
                    let e = End::decode(&mut r).ok_or_else(malformed)?;
                    match self.accepted.standing.get(e.index as usize) {
                        None => return Err(malformed()),
                        Some(Standing::Compare) => {
                            self.ends.insert(e.index, e.hash);
                            self.whole.push(e.index);
                        }
                        Some(Standing::Open) => {
                            self.ends.insert(e.index, e.hash);
                        }
                        Some(_) => {}
                    }
                }
            }
            Event::Message(Kind::Gone, body) => {
                let (index, why) = message::decode_reason(&body).ok_or_else(malformed)?;
                if index as usize >= self.entries.len() {
                    return Err(malformed());
                }
                self.give_up(index, &format!("the sender could not send it: {why}"));
            }
            Event::Message(Kind::Abort, body) => return Err(aborted(&body)),
            Event::Message(..) => return Err(malformed()),
        }
        Ok(())
    }

    /// Drops an object and its partial bytes.
    fn give_up(&mut self, index: u32, why: &str) {
        let i = index as usize;
        if !matches!(
            self.accepted.standing[i],
            Standing::Open | Standing::Compare
        ) {
            return;
        }
        self.accepted.standing[i] = Standing::Failed;
        self.open -= 1;
        self.moved = true;
        self.accepted.durable.remove(&index);
        if let Some(t) = self.table() {
            t.objects[i].open.store(false, Ordering::Release);
            lock(&t.dirty).remove(&index);
            t.close(index);
        }
        if let Some(p) = &self.accepted.place {
            // It may not exist yet.
            let _ = sys::unlink_at(p.staging.as_fd(), &part_name(index));
        }
        let text = format!("{}: {why}", self.entries[i].name);
        self.job.update(|s| push_failure(s, text));
    }

    pub(super) fn fail(&mut self, index: u32, why: &str) {
        self.give_up(index, why);
        self.live.post_wait(
            Kind::Failed,
            self.inc.tag,
            message::encode_reason(index, why),
        );
    }

    /// Completes every object of which all bytes and the end are here.
    fn complete_whole(&mut self) {
        let whole = std::mem::take(&mut self.whole);
        let mut ready = Vec::new();
        for i in whole {
            match self.accepted.standing[i as usize] {
                Standing::Open | Standing::Compare if self.ends.contains_key(&i) => ready.push(i),
                Standing::Open | Standing::Compare => self.whole.push(i),
                Standing::Done | Standing::Failed => {}
            }
        }
        for batch in ready.chunks(BATCH) {
            self.complete(batch);
        }
    }

    pub(super) fn say_done(&mut self, done: Vec<(u32, Option<[u8; 32]>)>) {
        let mut body = Vec::new();
        let mut bytes = 0;
        let mut receipts = Vec::new();
        for &(index, hash) in &done {
            let i = index as usize;
            let e = &self.entries[i];
            self.accepted.standing[i] = Standing::Done;
            self.accepted.durable.remove(&index);
            if let Some(t) = self.table() {
                lock(&t.dirty).remove(&index);
            }
            self.ends.remove(&index);
            self.open -= 1;
            bytes += e.size;
            let receipt = hash.and_then(|blake3| {
                let what = Statement {
                    sender: self.live.session().peer(),
                    object: e.name.clone(),
                    size: e.size,
                    blake3,
                    completed_unix_s: UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()),
                };
                // Names in a manifest are never longer than a receipt allows.
                Receipt::issue(&self.shared.cfg.identity, what).ok()
            });
            let json = receipt
                .as_ref()
                .and_then(|r| r.to_json().ok())
                .unwrap_or_default();
            receipts.extend(receipt);
            message::encode_done(index, &json, &mut body);
            if body.len() > message::MAX_MESSAGE / 2 {
                self.live
                    .post_wait(Kind::Done, self.inc.tag, std::mem::take(&mut body));
            }
        }
        if !body.is_empty() {
            self.live.post_wait(Kind::Done, self.inc.tag, body);
        }
        self.moved |= !done.is_empty();
        self.done_bytes += bytes;
        let n = done.len() as u64;
        self.job.update(|s| {
            s.files_done += n;
            s.receipts.extend(receipts);
        });
    }

    /// Tells sender and user how far it is, when that has changed.
    fn report(&mut self, received: u64) {
        let durable = match &self.accepted.place {
            Some(_) => {
                self.accepted.durable.values().map(|x| x.len()).sum::<u64>() + self.done_bytes
            }
            None => received,
        };
        if self.reported == (received, durable) {
            return;
        }
        self.reported = (received, durable);
        self.live.post_wait(
            Kind::Progress,
            self.inc.tag,
            message::encode_progress(received, durable),
        );
        self.job.sent.store(received, Ordering::Relaxed);
        self.job.update(|s| s.bytes_done = durable);
    }

    fn finish(&mut self) -> Result<JobState, Stop> {
        let failed = self
            .accepted
            .standing
            .iter()
            .filter(|s| **s == Standing::Failed)
            .count();
        if let Some(p) = &self.accepted.place {
            // Children before their parents: a mode without write permission must not stop us.
            for e in self.entries.iter().rev().filter(|e| e.is_dir()) {
                let set = sys::open_dir_beneath(p.base.as_fd(), &e.name, false).and_then(|d| {
                    File::from(d).set_permissions(Permissions::from_mode(e.mode & 0o777 | 0o700))
                });
                if let Err(err) = set {
                    self.job
                        .note(format!("{}: its mode could not be set: {err}", e.name));
                }
            }
            File::from(
                p.base
                    .try_clone()
                    .map_err(|e| Stop::Refused(e.to_string()))?,
            )
            .sync_all()
            .map_err(|e| Stop::Refused(self.no_write(&e.to_string())))?;
            // Nothing of it is needed any more. What cannot be removed does no harm.
            let _ = std::fs::remove_dir_all(&p.staging_path);
        }
        self.live
            .post_wait(Kind::Finished, self.inc.tag, Vec::new());
        if failed == 0 {
            return Ok(JobState::Done);
        }
        let first = self.job.status().error.unwrap_or_default();
        let why = format!("{failed} of {} objects failed: {first}", self.entries.len());
        Ok(JobState::Failed { why })
    }
}
