//! Object transfer between two nodes: files and directories, striped over the lanes of a session,
//! resumable, verified, stored atomically.
//!
//! # The transfer protocol
//!
//! It runs inside the slots of a session's lanes; the records in them are described in
//! [`mod@record`]. Control messages travel on lane 0, data on every lane. Each direction of a session is
//! independent: both peers may send objects at the same time. Numbers are little-endian.
//!
//! | message | from | body |
//! | --- | --- | --- |
//! | `Offer` 1 | sender | transfer id (32), flags `u8` (1 discard, 2 offered before in this job, 4 digests and receipts wanted), objects `u32`, bytes `u64`, destination (UTF-8, rest) |
//! | `Entries` 2 | sender | per object: name length `u16`, name, size `u64`, mtime `i64` ns, `st_mode` `u32` |
//! | `OfferEnd` 3 | sender | empty |
//! | `Data` 4 | sender | bytes of the object in the head, at its offset; any lane |
//! | `Ends` 5 | sender | per object that was read whole and did not change: index `u32`, `u8` 1 and BLAKE3 (32), or `u8` 0 |
//! | `Gone` 6 | sender | index `u32`, reason |
//! | `Abort` 7 | sender | `u32` 0, reason |
//! | `Have` 16 | receiver | items of 24 bytes: index `u32`, count `u32`, start `u64`, end `u64`; count 0: bytes start..end of the object are durable; else so many objects from index on are done |
//! | `Accept` 17 | receiver | `u8` 1 when digests are wanted: `Ends` carries them, `Done` receipts |
//! | `Refuse` 18 | receiver | `u32` 0, reason: the transfer is over |
//! | `Progress` 19 | receiver | bytes received in this session `u64`, bytes durable `u64` |
//! | `Done` 20 | receiver | per object under its final name: index `u32`, length `u32`, receipt (JSON) |
//! | `Failed` 21 | receiver | index `u32`, reason |
//! | `Finished` 22 | receiver | empty: every object is done or failed |
//!
//! 1. The sender sends `Offer`, `Entries` and `OfferEnd`. The transfer id is BLAKE3 of
//!    `CTP-96 transfer v1\0`, the sender's public key, the discard flag (one byte), the length of the
//!    destination `u32`, the destination, and every entry as above. The same objects for the same
//!    place have the same id, whoever was restarted meanwhile: that is what a transfer resumes by.
//! 2. The receiver checks everything, its policy and its free space, looks up what is durable, and
//!    answers `Have` as often as needed and `Accept`, or `Refuse`.
//! 3. The sender sends what is missing. A body never crosses a slot; several may share one.
//!    `Ends` and the last data may overtake each other on different lanes.
//! 4. An object of which all bytes and the end are there is checked, made durable, renamed, and
//!    reported in `Done`. `Finished` ends the transfer, and only then is a job done.
//!
//! A session that is lost ends every transfer in it; the sender offers again in the next one.
//! A peer that breaks these rules loses the session.
//!
//! # What is on disk
//!
//! Partial objects are `N.part` in `.ctp96-partial/<transfer id>/` below the receive root, beside
//! a journal of durable bytes that is replaced atomically every 64 MiB or two seconds, each time
//! after the bytes it names were synced. So a kill at any moment loses only what is younger.
//! A complete object is synced with its mode (permission bits only) and modification time, renamed
//! to its final name, *replacing* what has that name (a link itself, never its target), and the
//! directory is synced. Directories keep at least `rwx` for their owner. The staging directory goes
//! when the transfer is over. Transfers that never come back leave theirs; it may be deleted.
//!
//! # Names
//!
//! Relative, UTF-8, no empty, `.` or `..` component, no NUL; both sides check. The receiver resolves
//! them with `openat2` (`RESOLVE_BENEATH`, no symbolic links), or component by component without
//! following links, so nothing leads out of a receive root.

mod accept;
mod complete;
mod converse;
pub mod extents;
mod incoming;
mod job;
mod journal;
mod link;
mod live;
pub mod manifest;
pub mod message;
mod outgoing;
pub mod path;
mod receive;
pub mod record;
mod source;
mod sys;
#[cfg(test)]
mod testdir;

pub use job::{Dest, Direction, JobId, JobState, JobStatus, SendJob, Source};

use crate::api::Node;
use crate::crypto::identity::{Identity, PublicKey};
use crate::engine::ConnectError;
use crate::verify::Level;
use incoming::lock;
use job::{Job, Jobs};
use link::{Link, Order};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a job tries to get a lost session back.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long `accept` waits before it looks whether the service is to stop.
const ACCEPT: Duration = Duration::from_millis(200);

/// Who may write where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveRule {
    /// The sender.
    pub peer: PublicKey,
    /// Its name in the configuration.
    pub peer_name: String,
    /// Directory that it may write below. The first rule of a peer is its default.
    pub path: PathBuf,
    /// Most bytes of one transfer; no limit when `None`.
    pub max_bytes: Option<u64>,
}

/// Settings of the service.
#[derive(Clone)]
pub struct ServiceConfig {
    /// The node's identity: it signs receipts and is part of transfer ids.
    pub identity: Identity,
    /// Directory of this service alone; locked while it runs.
    pub state_dir: PathBuf,
    /// Who may write where. Nobody else may.
    pub receive: Vec<ReceiveRule>,
    /// Whether peers may send bytes to be thrown away, for measuring.
    pub allow_discard: bool,
}

/// Why the service did not start or a job was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The state directory cannot be used.
    #[error("state directory {}: {source}", path.display())]
    State {
        /// The directory or file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Another process has the state directory.
    #[error("another daemon is running with the state directory {}; stop it, or give this one a directory of its own", .0.display())]
    Locked(PathBuf),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(std::io::Error),
    /// A job that names nothing.
    #[error("no files were named")]
    Nothing,
    /// The service is stopping.
    #[error("the service is stopping")]
    Stopped,
}

pub(crate) struct Shared {
    cfg: ServiceConfig,
    node: Node,
    jobs: Jobs,
    /// Whether this node verifies whole objects.
    full: bool,
    patience: Duration,
    #[allow(
        clippy::type_complexity,
        reason = "a map from transfer to its waiting job"
    )]
    suspended: Mutex<HashMap<(PublicKey, [u8; 32]), (Arc<Job>, Instant)>>,
    stopping: AtomicBool,
    links: Mutex<HashMap<PublicKey, Link>>,
}

impl Shared {
    fn tell(self: &Arc<Self>, peer: PublicKey, order: Order) -> Result<(), ServiceError> {
        let mut links = lock(&self.links);
        if self.stopping.load(Ordering::Acquire) {
            return Err(ServiceError::Stopped);
        }
        let link = match links.entry(peer) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => {
                e.insert(Link::start(self.clone(), peer).map_err(ServiceError::Thread)?)
            }
        };
        link.orders.send(order).map_err(|_| ServiceError::Stopped)
    }
}

/// The running service of a node. Dropping it ends its sessions and jobs; what was received is
/// written down first.
pub struct Service {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    _lock: File,
}

impl Service {
    /// Takes over the node's sessions: the service accepts every one that a peer opens.
    pub fn start(node: Node, cfg: ServiceConfig) -> Result<Service, ServiceError> {
        let state = |path: &PathBuf| {
            let path = path.clone();
            move |source| ServiceError::State { path, source }
        };
        std::fs::create_dir_all(&cfg.state_dir).map_err(state(&cfg.state_dir))?;
        let path = cfg.state_dir.join("service.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(state(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(ServiceError::Locked(cfg.state_dir));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(state(&path)(e)),
        }
        let full = node.info().verify == Level::Full.name();
        let shared = Arc::new(Shared {
            cfg,
            node,
            jobs: Jobs::default(),
            full,
            patience: PATIENCE,
            suspended: Mutex::default(),
            stopping: AtomicBool::new(false),
            links: Mutex::default(),
        });
        let s = shared.clone();
        let acceptor = std::thread::Builder::new()
            .name("ctp96-accept".into())
            .spawn(move || accept_sessions(&s))
            .map_err(ServiceError::Thread)?;
        Ok(Service {
            shared,
            acceptor: Some(acceptor),
            _lock: file,
        })
    }

    /// Queues a job and returns at once. Jobs to the same peer run one after the other.
    pub fn send(&self, what: SendJob) -> Result<JobId, ServiceError> {
        if matches!(&what.source, Source::Files(f) if f.is_empty()) {
            return Err(ServiceError::Nothing);
        }
        let job = self.shared.jobs.create(Direction::Send, what.peer);
        let id = job.id;
        self.shared.tell(what.peer, Order::Send(job, what))?;
        Ok(id)
    }

    /// How far a job is. Receiving jobs have numbers too.
    pub fn job(&self, id: JobId) -> Option<JobStatus> {
        self.shared.jobs.get(id).map(|j| j.status())
    }

    /// Every job, oldest first; the last thousand that have ended among them.
    pub fn jobs(&self) -> Vec<JobStatus> {
        self.shared.jobs.all().iter().map(|j| j.status()).collect()
    }

    /// Ends a job soon; false when there is none with this number. What the receiver has stored
    /// stays there for the next time.
    pub fn cancel(&self, id: JobId) -> bool {
        self.shared.jobs.get(id).map(|j| j.cancel()).is_some()
    }

    /// Waits until the job's version is above `since`, it has ended, or `timeout` is over.
    pub fn wait_change(&self, id: JobId, since: u64, timeout: Duration) -> Option<JobStatus> {
        self.shared.jobs.get(id).map(|j| j.wait(since, timeout))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let links: Vec<_> = lock(&self.shared.links).drain().map(|(_, l)| l).collect();
        for l in &links {
            let _ = l.orders.send(Order::Stop);
        }
        for l in links {
            let _ = l.thread.join();
        }
        if let Some(a) = self.acceptor.take() {
            let _ = a.join();
        }
    }
}

fn accept_sessions(shared: &Arc<Shared>) {
    while !shared.stopping.load(Ordering::Acquire) {
        match shared.node.accept(ACCEPT) {
            Ok(s) => {
                // An error means that the service stops, or has no thread left: the session ends
                // when it is dropped, and the peer tries again.
                let _ = shared.tell(s.peer(), Order::Session(Box::new(s)));
            }
            Err(ConnectError::Stopped) => return,
            Err(_) => shared.expire_suspended(),
        }
    }
}
