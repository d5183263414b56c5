//! Everything between this node and one peer: the one session there is at a time, the queue of
//! jobs that we send, and getting a session back when it is lost.

use super::Shared;
use super::converse::{self, Outcome, Prepared};
use super::job::{Direction, Job, JobState};
use super::live::{Live, join_all};
use super::manifest::{Offer, total, transfer_id};
use super::source::Origin;
use super::{Dest, SendJob, Source};
use crate::api::Session;
use crate::crypto::identity::PublicKey;
use crate::engine::ConnectError;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A session that nobody needs is closed after this long.
const IDLE: Duration = Duration::from_secs(10);
/// First and longest pause between attempts to reach the peer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(100);
/// As [`TICK`], while there is neither a session nor a job.
const RESTING: Duration = Duration::from_secs(5);

/// What a link is told.
pub(super) enum Order {
    /// The peer opened a session, or our attempt to open one succeeded.
    Session(Box<Session>),
    /// Our attempt failed.
    NoSession(ConnectError),
    /// Send this.
    Send(Arc<Job>, SendJob),
    /// End everything.
    Stop,
}

/// A handle of a link's thread.
pub(super) struct Link {
    pub(super) orders: Sender<Order>,
    pub(super) thread: JoinHandle<()>,
}

struct Queued {
    job: Arc<Job>,
    what: SendJob,
    prepared: Option<Prepared>,
    waiting_since: Option<Instant>,
}

struct Used {
    live: Arc<Live>,
    threads: Vec<JoinHandle<()>>,
    last_used: Instant,
}

struct Runner {
    shared: Arc<Shared>,
    peer: PublicKey,
    orders: Receiver<Order>,
    to_self: Sender<Order>,
    used: Option<Used>,
    queue: VecDeque<Queued>,
    connector: Option<JoinHandle<()>>,
    backoff: Duration,
    next_attempt: Instant,
    stopping: bool,
}

impl Link {
    pub(super) fn start(shared: Arc<Shared>, peer: PublicKey) -> std::io::Result<Link> {
        let (tx, orders) = unbounded();
        let to_self = tx.clone();
        let thread = std::thread::Builder::new()
            .name("ctp96-link".into())
            .spawn(move || {
                Runner {
                    shared,
                    peer,
                    orders,
                    to_self,
                    used: None,
                    queue: VecDeque::new(),
                    connector: None,
                    backoff: BACKOFF.0,
                    next_attempt: Instant::now(),
                    stopping: false,
                }
                .run();
            })?;
        Ok(Link { orders: tx, thread })
    }
}

impl Runner {
    fn run(mut self) {
        while !self.stopping {
            match self.orders.recv_timeout(self.pause()) {
                Ok(o) => self.take(o),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.stopping = true,
            }
            while let Ok(o) = self.orders.try_recv() {
                self.take(o);
            }
            if self.stopping {
                break;
            }
            if self.used.as_ref().is_some_and(|u| u.live.ended().is_some()) {
                self.tear_down();
            }
            self.drop_cancelled();
            if self.queue.is_empty() {
                self.rest();
            } else if self.used.is_some() {
                self.send_next();
            } else {
                self.reach();
            }
        }
        for q in self.queue.drain(..) {
            q.job.set_state(JobState::Failed {
                why: "the service has stopped".into(),
            });
        }
        self.tear_down();
        if let Some(c) = self.connector.take() {
            let _ = c.join();
        }
    }

    /// How long nothing but a new order is of interest.
    fn pause(&self) -> Duration {
        match (self.queue.is_empty(), &self.used) {
            (false, Some(_)) => Duration::ZERO,
            (true, None) => RESTING,
            _ => TICK,
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Session(s) => self.install(*s),
            Order::NoSession(e) => self.unreachable(&e),
            Order::Send(job, what) => {
                self.next_attempt = Instant::now();
                self.backoff = BACKOFF.0;
                self.queue.push_back(Queued {
                    job,
                    what,
                    prepared: None,
                    waiting_since: None,
                });
            }
            Order::Stop => self.stopping = true,
        }
    }

    fn install(&mut self, session: Session) {
        // Crossed attempts: the engine has closed the older one before the newer one came here.
        if session.closed().is_some() {
            return;
        }
        self.tear_down();
        self.backoff = BACKOFF.0;
        match Live::start(session, self.shared.clone()) {
            Ok((live, threads)) => {
                self.used = Some(Used {
                    live,
                    threads,
                    last_used: Instant::now(),
                })
            }
            Err(why) => self.wait(&why),
        }
    }

    fn tear_down(&mut self) {
        let Some(u) = self.used.take() else { return };
        u.live.fail("the session was closed".into());
        join_all(u.threads);
        u.live.stop_workers();
    }

    fn drop_cancelled(&mut self) {
        self.queue.retain(|q| {
            if q.job.cancelled() {
                q.job.set_state(JobState::Cancelled);
            }
            !q.job.cancelled()
        });
    }

    /// Nothing to send: an unused session gives its memory back.
    fn rest(&mut self) {
        if let Some(u) = &mut self.used {
            if u.live.busy() {
                u.last_used = Instant::now();
            } else if u.last_used.elapsed() > IDLE {
                self.tear_down();
            }
        }
    }

    fn wait(&mut self, why: &str) {
        let patience = self.shared.patience;
        for q in &mut self.queue {
            let since = *q.waiting_since.get_or_insert_with(Instant::now);
            if since.elapsed() > patience {
                let s = patience.as_secs();
                let why = format!("{why}; given up after {s} seconds of trying");
                q.job.set_state(JobState::Failed { why });
            } else {
                q.job.set_state(JobState::Waiting {
                    why: why.to_owned(),
                });
            }
        }
        self.queue.retain(|q| !q.job.status().state.is_final());
    }

    fn unreachable(&mut self, e: &ConnectError) {
        if let Some(c) = self.connector.take() {
            let _ = c.join();
        }
        self.next_attempt = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        if self.used.is_some() {
            return;
        }
        if matches!(
            e,
            ConnectError::UnknownPeer(_) | ConnectError::NoEndpoint(_)
        ) {
            for q in self.queue.drain(..) {
                q.job.set_state(JobState::Failed { why: e.to_string() });
            }
        }
        self.wait(&e.to_string());
    }

    /// Opens a session in the background; the peer may open one first.
    fn reach(&mut self) {
        if self.connector.as_ref().is_some_and(JoinHandle::is_finished) {
            self.connector = None;
        }
        if self.connector.is_some() || Instant::now() < self.next_attempt {
            return;
        }
        let (node, peer, to) = (self.shared.node.clone(), self.peer, self.to_self.clone());
        let spawned = std::thread::Builder::new()
            .name("ctp96-connect".into())
            .spawn(move || {
                let order = match node.connect(&peer, ATTEMPT) {
                    Ok(s) => Order::Session(Box::new(s)),
                    Err(e) => Order::NoSession(e),
                };
                let _ = to.send(order);
            });
        match spawned {
            Ok(t) => {
                self.connector = Some(t);
                // Should the attempt end without a session that lives, there is a pause as well.
                self.next_attempt = Instant::now() + self.backoff;
                self.backoff = (self.backoff * 2).min(BACKOFF.1);
            }
            Err(e) => self.wait(&format!("a thread could not be started: {e}")),
        }
    }

    fn send_next(&mut self) {
        let (Some(mut q), Some(u)) = (self.queue.pop_front(), &mut self.used) else {
            return;
        };
        if q.prepared.is_none() {
            match prepare(&self.shared, &q.job, &q.what) {
                Ok(p) => q.prepared = Some(p),
                Err(why) => {
                    q.job.set_state(JobState::Failed { why });
                    return;
                }
            }
        }
        let Some(p) = &mut q.prepared else { return };
        let outcome = converse::run(&u.live, p);
        u.last_used = Instant::now();
        self.backoff = BACKOFF.0;
        match outcome {
            Outcome::Over => {
                // Its compression must not stay for the next job.
                if q.what.compression.is_some() && !u.live.busy() {
                    self.tear_down();
                }
            }
            Outcome::Lost(why) if u.live.violated() => {
                let why = format!(
                    "{why}; nothing unverified was passed on. Check the memory and storage of both hosts, then send again"
                );
                q.job.set_state(JobState::Failed { why });
            }
            Outcome::Lost(why) => {
                p.offer.again = true;
                let moved = q.job.status().state == JobState::Running;
                q.job.update(|s| s.reconnects += 1);
                if moved {
                    q.waiting_since = None;
                }
                self.queue.push_front(q);
                self.next_attempt = Instant::now() + self.backoff;
                self.wait(&why);
            }
        }
    }
}

/// Finds out what there is to send.
fn prepare(shared: &Shared, job: &Arc<Job>, what: &SendJob) -> Result<Prepared, String> {
    let origin = match &what.source {
        Source::Zero(n) => Origin::generated(*n, false),
        Source::Random(n) => Origin::generated(*n, true),
        Source::Files(paths) => {
            let (origin, left) = Origin::scan(paths)?;
            for s in left.skipped {
                job.note(s);
            }
            let failed = left.failed.len() as u64;
            job.update(|s| {
                s.files_total += failed;
                for f in left.failed {
                    super::job::push_failure(s, f);
                }
            });
            origin
        }
    };
    let sum =
        total(&origin.entries).ok_or("the sizes of the files add up to more than 2^64 bytes")?;
    let (discard, dest) = match &what.dest {
        Dest::Dir(d) => (false, d.clone()),
        Dest::Discard => (true, String::new()),
    };
    let count = origin.entries.len() as u32;
    job.update(|s| {
        s.files_total += u64::from(count);
        s.bytes_total = sum;
    });
    let sender = shared.cfg.identity.public();
    let offer = Offer {
        id: transfer_id(&sender, discard, &dest, &origin.entries),
        discard,
        again: false,
        full: shared.full,
        dest,
        count,
        total: sum,
    };
    Ok(Prepared {
        job: job.clone(),
        origin: Arc::new(origin),
        offer,
        lanes: what.lanes.unwrap_or(usize::MAX).max(1),
        compression: what.compression,
    })
}

impl Shared {
    /// The job of an incoming transfer: a new one, or the one that waits for it to come back.
    pub(super) fn receive_job(&self, peer: PublicKey, id: &[u8; 32]) -> Arc<Job> {
        let waiting = super::incoming::lock(&self.suspended).remove(&(peer, *id));
        match waiting {
            Some((job, _)) if !job.status().state.is_final() => {
                job.update(|s| {
                    s.reconnects += 1;
                    s.state = JobState::Connecting;
                });
                job
            }
            _ => self.jobs.create(Direction::Receive, peer),
        }
    }

    /// Keeps the job of a transfer whose session was lost.
    pub(super) fn suspend(&self, peer: PublicKey, id: [u8; 32], job: &Arc<Job>) {
        super::incoming::lock(&self.suspended).insert((peer, id), (job.clone(), Instant::now()));
    }

    /// Ends jobs of transfers that did not come back.
    pub(super) fn expire_suspended(&self) {
        super::incoming::lock(&self.suspended).retain(|_, (job, since)| {
            if job.cancelled() {
                job.set_state(JobState::Cancelled);
            } else if since.elapsed() > self.patience {
                let why = "the sender did not come back".to_owned();
                job.set_state(JobState::Failed { why });
            }
            !job.status().state.is_final()
        });
    }
}
