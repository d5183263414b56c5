//! Jobs: what a user asked for or a peer began, and how far it is.

use crate::codec::Policy;
use crate::crypto::identity::PublicKey;
use crate::crypto::receipt::Receipt;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Finished jobs that are remembered.
const KEEP: usize = 1000;
/// Notes kept per job.
const MAX_NOTES: usize = 100;

/// Number of a job, unique while the service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the bytes of a job come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Files, and directories with everything below them. Symbolic links are skipped.
    Files(Vec<PathBuf>),
    /// So many zero bytes, for measuring.
    Zero(u64),
    /// So many incompressible bytes, for measuring.
    Random(u64),
}

/// Where the bytes of a job go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// A directory at the peer, relative to its receive root for us, or below one of its roots by
    /// absolute path; empty for the root itself.
    Dir(String),
    /// Verified by the peer and thrown away, for measuring.
    Discard,
}

/// What to send, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendJob {
    /// The peer.
    pub peer: PublicKey,
    /// What to send.
    pub source: Source,
    /// Where to put it.
    pub dest: Dest,
    /// Lanes to use at most; all of the session when `None`.
    pub lanes: Option<usize>,
    /// Compression of this job; the node's own when `None`.
    pub compression: Option<Policy>,
}

/// Whether we send or receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the peer.
    Send,
    /// From the peer.
    Receive,
}

/// What a job is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum JobState {
    /// A session is being opened, or the job is next in the queue of its peer.
    Connecting,
    /// Data is moving.
    Running,
    /// The session is lost or was never there; it is tried again.
    Waiting {
        /// Why, in words.
        why: String,
    },
    /// Every object is durable under its final name at the receiver.
    Done,
    /// It ended without all of its objects.
    Failed {
        /// Why, in words.
        why: String,
    },
    /// The user ended it.
    Cancelled,
}

impl JobState {
    /// Whether it will not change any more.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            JobState::Done | JobState::Failed { .. } | JobState::Cancelled
        )
    }
}

/// How far a job is.
#[derive(Debug, Clone, Serialize)]
pub struct JobStatus {
    /// Its number.
    pub id: JobId,
    /// Whether we send or receive.
    pub direction: Direction,
    /// The peer.
    pub peer: PublicKey,
    /// What it is doing.
    #[serde(flatten)]
    pub state: JobState,
    /// Objects in all, directories included.
    pub files_total: u64,
    /// Objects that are durable under their final name.
    pub files_done: u64,
    /// Objects that failed.
    pub files_failed: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes that are verified and durable at the receiver, those of earlier runs included.
    pub bytes_done: u64,
    /// Bytes that were durable at the receiver already when the data began to move, so that they
    /// were not sent (again).
    pub bytes_resumed: u64,
    /// Bytes of objects handed to the lanes so far, lost sessions included.
    pub bytes_sent: u64,
    /// When it began, seconds since the Unix epoch.
    pub started_unix_s: u64,
    /// Seconds since it began, up to its end.
    pub elapsed_s: f64,
    /// Bytes per second: `bytes_done` without `bytes_resumed`, over the time in which data moved.
    pub rate: f64,
    /// Sessions that were lost while it ran.
    pub reconnects: u64,
    /// What went wrong, if anything did: the state's reason or the first object's.
    pub error: Option<String>,
    /// Objects that failed or were skipped and why; the first hundred.
    pub notes: Vec<String>,
    /// Signed receipts of the receiver, one per file (verification level `full`).
    pub receipts: Vec<Receipt>,
    /// Rises with every change.
    pub version: u64,
}

#[derive(Debug)]
struct Inner {
    status: JobStatus,
    moving_since: Option<Instant>,
    moved: Duration,
    ended: Option<Instant>,
}

/// A job that is shared between its user and the threads that work for it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    started: Instant,
    cancel: AtomicBool,
    /// Bytes handed to lanes; added to by lane threads.
    pub(super) sent: AtomicU64,
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Job {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, i: &Inner) -> JobStatus {
        let mut s = i.status.clone();
        s.bytes_sent = self.sent.load(Ordering::Relaxed);
        let end = i.ended.unwrap_or_else(Instant::now);
        s.elapsed_s = end.duration_since(self.started).as_secs_f64();
        let moved = i.moved
            + i.moving_since
                .map_or(Duration::ZERO, |t| end.saturating_duration_since(t));
        let bytes = s.bytes_done.saturating_sub(s.bytes_resumed) as f64;
        s.rate = if moved.is_zero() {
            0.0
        } else {
            bytes / moved.as_secs_f64()
        };
        s
    }

    pub(super) fn status(&self) -> JobStatus {
        self.fill(&self.lock())
    }

    /// Changes the status; a finished job stays as it is.
    pub(super) fn update(&self, change: impl FnOnce(&mut JobStatus)) {
        let mut i = self.lock();
        if i.status.state.is_final() {
            return;
        }
        change(&mut i.status);
        i.status.version += 1;
        let now = Instant::now();
        let running = i.status.state == JobState::Running;
        match (running, i.moving_since) {
            (true, None) => i.moving_since = Some(now),
            (false, Some(t)) => {
                i.moved += now - t;
                i.moving_since = None;
            }
            _ => {}
        }
        if i.status.state.is_final() {
            i.ended = Some(now);
        }
        drop(i);
        self.changed.notify_all();
    }

    pub(super) fn set_state(&self, state: JobState) {
        self.update(|s| {
            if let JobState::Failed { why } = &state {
                s.error = Some(why.clone());
            }
            s.state = state;
        });
    }

    pub(super) fn note(&self, text: String) {
        self.update(|s| push_note(s, text));
    }

    pub(super) fn wait(&self, since: u64, timeout: Duration) -> JobStatus {
        let deadline = Instant::now() + timeout;
        let mut i = self.lock();
        while i.status.version <= since && !i.status.state.is_final() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            i = self
                .changed
                .wait_timeout(i, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        self.fill(&i)
    }

    pub(super) fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }
}

/// Counts a failed object and keeps the reason.
pub(super) fn push_failure(s: &mut JobStatus, text: String) {
    s.files_failed += 1;
    if s.error.is_none() {
        s.error = Some(text.clone());
    }
    push_note(s, text);
}

fn push_note(s: &mut JobStatus, text: String) {
    if s.notes.len() < MAX_NOTES {
        s.notes.push(text);
    }
}

/// Every job of a service.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    all: Mutex<BTreeMap<JobId, Arc<Job>>>,
    next: AtomicU64,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Job>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn create(&self, direction: Direction, peer: PublicKey) -> Arc<Job> {
        let id = JobId(self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let unix = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
        let status = JobStatus {
            id,
            direction,
            peer,
            state: JobState::Connecting,
            files_total: 0,
            files_done: 0,
            files_failed: 0,
            bytes_total: 0,
            bytes_done: 0,
            bytes_resumed: 0,
            bytes_sent: 0,
            started_unix_s: unix,
            elapsed_s: 0.0,
            rate: 0.0,
            reconnects: 0,
            error: None,
            notes: Vec::new(),
            receipts: Vec::new(),
            version: 1,
        };
        let job = Arc::new(Job {
            id,
            started: Instant::now(),
            cancel: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                status,
                moving_since: None,
                moved: Duration::ZERO,
                ended: None,
            }),
            changed: Condvar::new(),
        });
        let mut all = self.lock();
        all.insert(id, job.clone());
        if all.len() > KEEP {
            let old = all
                .iter()
                .find(|(_, j)| j.lock().status.state.is_final())
                .map(|(id, _)| *id);
            old.and_then(|id| all.remove(&id));
        }
        job
    }

    pub(super) fn get(&self, id: JobId) -> Option<Arc<Job>> {
        self.lock().get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_job_never_changes_and_waiters_see_changes() {
        let jobs = Jobs::default();
        let job = jobs.create(Direction::Send, PublicKey([1; 32]));
        let v = job.status().version;
        let j = job.clone();
        let t = std::thread::spawn(move || j.wait(v, Duration::from_secs(60)));
        job.update(|s| s.files_done = 3);
        assert_eq!(t.join().expect("it only waits").files_done, 3);
        job.set_state(JobState::Done);
        job.set_state(JobState::Cancelled);
        job.note("late".into());
        let s = job.wait(u64::MAX, Duration::from_secs(60));
        assert_eq!((s.state, s.error), (JobState::Done, None));
        assert!(jobs.get(job.id).is_some() && jobs.get(JobId(99)).is_none());
    }

    #[test]
    fn old_jobs_are_forgotten_but_never_live_ones() {
        let jobs = Jobs::default();
        let live = jobs.create(Direction::Send, PublicKey([1; 32]));
        for _ in 0..KEEP + 50 {
            jobs.create(Direction::Receive, PublicKey([1; 32]))
                .set_state(JobState::Done);
        }
        assert!(jobs.all().len() <= KEEP + 1);
        assert!(jobs.get(live.id).is_some());
    }
}
