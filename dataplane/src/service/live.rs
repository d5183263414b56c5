//! One session in use: a sending and a receiving thread per lane, and what they share.
//!
//! Lane threads that receive never wait for anything that is sent, so two nodes that send to each
//! other cannot block each other: replies go into a queue that the sending thread of lane 0
//! empties.

use super::incoming::{Event, Incoming, LaneWriter, lock};
use super::manifest::Offer;
use super::message::{self, MAX_MESSAGE};
use super::outgoing::{LaneWork, Outgoing, Step};
use super::record::{HEAD, Head, Kind, next_record};
use super::{Shared, receive};
use crate::api::{Closed, LaneReceiver, LaneSender, RecvError, SendError, Session};
use crate::engine::ConnectError;
use crate::stage::CloseReason;
use crossbeam_channel::{SendTimeoutError, Sender, bounded};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a waiting thread looks at the session.
const POLL: Duration = Duration::from_millis(200);
/// Transfers that one peer may have coming in at the same time.
const MAX_INCOMING: usize = 4;
/// Control messages of one transfer that may wait for its worker.
const EVENTS: usize = 64;
/// Queued replies above which a worker waits before it adds one.
const OUTBOX_SOFT: usize = 256;

/// Queued messages that no well-behaved peer makes us have.
const OUTBOX_HARD: usize = 1 << 16;

/// A reply of the receiver of our objects.
pub(super) type Reply = (Kind, Vec<u8>);

#[derive(Default)]
struct Outbox {
    queue: VecDeque<(Kind, u64, Vec<u8>)>,
    work: Option<Arc<Outgoing>>,
}

/// A session and the state of the threads that serve it.
pub(super) struct Live {
    session: Session,
    stopping: AtomicBool,
    violated: AtomicBool,
    why: Mutex<Option<String>>,
    outbox: Mutex<Outbox>,
    changed: Condvar,
    queued: AtomicUsize,
    work_version: AtomicU64,
    replies: Mutex<Option<(u64, Sender<Reply>)>>,
    incoming: Mutex<HashMap<u64, Arc<Incoming>>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    tags: AtomicU64,
    shared: Arc<Shared>,
}

impl Live {
    /// Takes the lanes of a session and starts their threads.
    pub(super) fn start(
        session: Session,
        shared: Arc<Shared>,
    ) -> Result<(Arc<Live>, Vec<JoinHandle<()>>), String> {
        let n = session.lanes();
        let lanes: Result<Vec<_>, ConnectError> = (0..n).map(|i| session.lane(i)).collect();
        let lanes = lanes.map_err(|e| e.to_string())?;
        let index = session.index();
        let live = Arc::new(Live {
            session,
            stopping: AtomicBool::new(false),
            violated: AtomicBool::new(false),
            why: Mutex::new(None),
            outbox: Mutex::default(),
            changed: Condvar::new(),
            queued: AtomicUsize::new(0),
            work_version: AtomicU64::new(0),
            replies: Mutex::new(None),
            incoming: Mutex::default(),
            workers: Mutex::default(),
            tags: AtomicU64::new(1),
            shared,
        });
        let mut threads = Vec::with_capacity(2 * n);
        for (i, (tx, rx)) in lanes.into_iter().enumerate() {
            let (a, b) = (live.clone(), live.clone());
            let spawn = |name: &str, f: Box<dyn FnOnce() + Send>| {
                std::thread::Builder::new()
                    .name(format!("ctp96-{name}-{index:x}-{i}"))
                    .spawn(f)
            };
            let out = spawn("out", Box::new(move || lane_out(&a, i, tx)));
            let inn = spawn("in", Box::new(move || lane_in(&b, i, rx)));
            for t in [out, inn] {
                match t {
                    Ok(t) => threads.push(t),
                    Err(e) => {
                        live.fail(format!("a thread for a lane could not be started: {e}"));
                        join_all(threads);
                        return Err(format!("a thread for a lane could not be started: {e}"));
                    }
                }
            }
        }
        Ok((live, threads))
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Why the session cannot be used any more, once that is so.
    pub(super) fn ended(&self) -> Option<String> {
        if self.stopping.load(Ordering::Acquire) {
            let why = lock(&self.why).clone();
            return Some(why.unwrap_or_else(|| "the session was closed".into()));
        }
        if self.shared.stopping.load(Ordering::Acquire) {
            return Some("the service is stopping".into());
        }
        self.session
            .closed()
            .map(|reason| format!("the session ended: {reason}"))
    }

    /// Notes why a lane ended, and puts it in words.
    fn lane_ended(&self, e: &RecvError) -> String {
        if matches!(
            e,
            RecvError::Violation { .. } | RecvError::Closed(Closed(CloseReason::Violation))
        ) {
            self.violated.store(true, Ordering::Release);
        }
        e.to_string()
    }

    /// Whether it ended because data failed verification.
    pub(super) fn violated(&self) -> bool {
        self.violated.load(Ordering::Acquire)
    }

    /// Ends the session for everybody here; the first reason stays.
    pub(super) fn fail(&self, why: String) {
        lock(&self.why).get_or_insert(why);
        self.stopping.store(true, Ordering::Release);
        self.session.close();
        self.changed.notify_all();
    }

    pub(super) fn next_tag(&self) -> u64 {
        self.tags.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn expect_replies(&self, to: Option<(u64, Sender<Reply>)>) {
        *lock(&self.replies) = to;
    }

    pub(super) fn set_work(&self, work: Option<Arc<Outgoing>>) {
        lock(&self.outbox).work = work;
        self.work_version.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_all();
    }

    /// Queues a control message; never waits.
    pub(super) fn post(&self, kind: Kind, tag: u64, body: Vec<u8>) {
        if self.queued.load(Ordering::Acquire) > OUTBOX_HARD {
            return self.fail("the peer asks much and takes no replies".into());
        }
        lock(&self.outbox).queue.push_back((kind, tag, body));
        self.queued.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_all();
    }

    /// Queues a control message once the queue is short enough: for workers, so that what they
    /// have to say is bounded by what the peer takes.
    pub(super) fn post_wait(&self, kind: Kind, tag: u64, body: Vec<u8>) {
        while self.queued.load(Ordering::Acquire) > OUTBOX_SOFT && self.ended().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.ended().is_none() {
            self.post(kind, tag, body);
        }
    }

    fn find(&self, tag: u64) -> Option<Arc<Incoming>> {
        lock(&self.incoming).get(&tag).cloned()
    }

    /// Forgets a transfer that has ended.
    pub(super) fn forget(&self, tag: u64) {
        lock(&self.incoming).remove(&tag);
    }

    /// Whether anything is coming in or waiting to go out.
    pub(super) fn busy(&self) -> bool {
        self.queued.load(Ordering::Acquire) > 0 || !lock(&self.incoming).is_empty()
    }

    /// Lets the workers write down what the lanes have handed over, and waits for them. Call it
    /// when the lane threads are gone.
    pub(super) fn stop_workers(&self) {
        let all: Vec<_> = lock(&self.incoming).values().cloned().collect();
        for i in all {
            i.stop.store(true, Ordering::Release);
            let _ = i.events.try_send(Event::Wake);
        }
        join_all(std::mem::take(&mut *lock(&self.workers)));
    }

    fn begin_incoming(self: &Arc<Self>, tag: u64, body: &[u8]) {
        let refuse = |why: &str| self.post(Kind::Refuse, tag, message::encode_reason(0, why));
        let offer = match Offer::decode(body) {
            Ok(o) => o,
            Err(e) => return refuse(&e.to_string()),
        };
        let (tx, events) = bounded(EVENTS);
        let inc = Arc::new(Incoming::new(tag, tx));
        {
            let mut all = lock(&self.incoming);
            if all.contains_key(&tag) || all.len() >= MAX_INCOMING {
                drop(all);
                return refuse("it is receiving as many transfers from this sender as it may");
            }
            all.insert(tag, inc.clone());
        }
        let live = self.clone();
        let spawned = std::thread::Builder::new()
            .name("ctp96-receive".into())
            .spawn(move || receive::run(&live.shared, &live, &inc, &events, &offer));
        match spawned {
            Ok(t) => {
                let mut w = lock(&self.workers);
                w.retain(|t| !t.is_finished());
                w.push(t);
            }
            Err(e) => {
                self.forget(tag);
                refuse(&format!("it could not start a thread: {e}"));
            }
        }
    }

    fn dispatch(self: &Arc<Self>, kind: Kind, tag: u64, body: Vec<u8>) {
        if kind == Kind::Offer {
            return self.begin_incoming(tag, &body);
        }
        if kind.is_reply() {
            let to = match &*lock(&self.replies) {
                Some((t, to)) if *t == tag => to.clone(),
                _ => return,
            };
            self.hand(&to, (kind, body));
        } else if let Some(i) = self.find(tag) {
            self.hand(&i.events, Event::Message(kind, body));
        }
    }

    /// Waits for room at a thread that is busy with this very transfer; that holds lane 0 back,
    /// and so in the end the peer.
    fn hand<T>(&self, to: &Sender<T>, mut what: T) {
        loop {
            match to.send_timeout(what, POLL) {
                Err(SendTimeoutError::Timeout(w)) if self.ended().is_none() => what = w,
                _ => return,
            }
        }
    }
}

pub(super) fn join_all(threads: Vec<JoinHandle<()>>) {
    for t in threads {
        let _ = t.join();
    }
}

fn lane_out(live: &Live, lane: usize, mut tx: LaneSender) {
    let mut version = 0;
    let mut work: Option<Arc<Outgoing>> = None;
    let mut state = LaneWork::default();
    while live.ended().is_none() {
        if lane == 0 && live.queued.load(Ordering::Acquire) > 0 {
            let next = lock(&live.outbox).queue.pop_front();
            if let Some((kind, tag, body)) = next {
                let sent = send_control(live, &mut tx, kind, tag, &body);
                live.queued.fetch_sub(1, Ordering::AcqRel);
                if !sent {
                    break;
                }
            }
            continue;
        }
        let now = live.work_version.load(Ordering::Acquire);
        if now != version {
            version = now;
            work = lock(&live.outbox).work.clone().filter(|w| lane < w.lanes);
            state = LaneWork::default();
            if let Some(p) = work.as_ref().and_then(|w| w.compression) {
                tx.set_compression(p);
            }
        }
        match work
            .as_ref()
            .map(|w| w.send_slot(&mut tx, &mut state, live))
        {
            Some(Step::Sent | Step::NoRoom) => continue,
            Some(Step::Closed) => break,
            Some(Step::Exhausted) => {
                work = None;
                state = LaneWork::default();
            }
            None => {}
        }
        let out = lock(&live.outbox);
        let idle = live.work_version.load(Ordering::Acquire) == version
            && (lane != 0 || out.queue.is_empty())
            && !live.stopping.load(Ordering::Acquire);
        if idle {
            drop(
                live.changed
                    .wait_timeout(out, POLL)
                    .unwrap_or_else(PoisonError::into_inner),
            );
        }
    }
    live.changed.notify_all();
}

/// Sends one control message on lane 0, in as many slots as it takes.
fn send_control(live: &Live, tx: &mut LaneSender, kind: Kind, tag: u64, body: &[u8]) -> bool {
    let mut rest = body;
    loop {
        let mut claim = match tx.claim(POLL) {
            Ok(c) => c,
            Err(SendError::Closed(_)) => return false,
            Err(_) if live.ended().is_some() => return false,
            Err(_) => continue,
        };
        let n = rest.len().min(claim.len() - HEAD);
        let (now, later) = rest.split_at(n);
        if let Some(head) = claim.first_chunk_mut() {
            Head::control(kind, tag, n, !later.is_empty()).encode(head);
        }
        claim[HEAD..HEAD + n].copy_from_slice(now);
        claim.commit(HEAD + n);
        rest = later;
        if rest.is_empty() {
            return true;
        }
    }
}

/// A control message that is coming in, in parts.
#[derive(Default)]
struct Assembly {
    kind: Option<Kind>,
    body: Vec<u8>,
}

fn lane_in(live: &Arc<Live>, lane: usize, mut rx: LaneReceiver) {
    let mut writer = LaneWriter::default();
    let mut assembly = Assembly::default();
    let mut quiet_since: Option<Instant> = None;
    let ended = loop {
        let got = match rx.try_slot() {
            Ok(slot) => take_slot(live, lane, &slot, &mut writer, &mut assembly),
            Err(RecvError::WouldBlock) => Ok(false),
            Err(e) => Err(live.lane_ended(&e)),
        };
        let got = match got {
            // Nothing is here: what was written is handed over before the lane sleeps.
            Ok(false) => {
                writer.flush();
                if quiet_since.get_or_insert_with(Instant::now).elapsed() > POLL {
                    writer.rest();
                }
                match rx.slot(POLL) {
                    Ok(slot) => take_slot(live, lane, &slot, &mut writer, &mut assembly),
                    Err(RecvError::TimedOut | RecvError::WouldBlock) => Ok(false),
                    Err(e) => Err(live.lane_ended(&e)),
                }
            }
            other => other,
        };
        match got {
            Ok(true) => quiet_since = None,
            Ok(false) => {}
            Err(why) => break why,
        }
        if live.stopping.load(Ordering::Acquire) {
            break "the session was closed".to_owned();
        }
    };
    writer.rest();
    // A lane alone does not come back: the session ends with it.
    live.fail(format!("the session ended: {ended}"));
}

/// Takes the records of one slot. The error ends the session.
fn take_slot(
    live: &Arc<Live>,
    lane: usize,
    content: &[u8],
    writer: &mut LaneWriter,
    assembly: &mut Assembly,
) -> Result<bool, String> {
    let broken = |what: &str| format!("the peer broke the transfer protocol: {what}");
    let mut rest = content;
    while !rest.is_empty() {
        let (head, body, next) = next_record(rest).map_err(|e| broken(&e.to_string()))?;
        rest = next;
        if head.kind == Kind::Data {
            let stored = writer.data(&head, body, |tag| live.find(tag));
            stored.map_err(|_| broken("data outside of its object"))?;
            continue;
        }
        if lane != 0 {
            return Err(broken("a control message on another lane than 0"));
        }
        if assembly.kind.is_some_and(|k| k != head.kind) {
            return Err(broken("a control message inside another"));
        }
        if assembly.body.len() + body.len() > MAX_MESSAGE {
            return Err(broken("a control message over 1 MiB"));
        }
        assembly.body.extend_from_slice(body);
        assembly.kind = head.more.then_some(head.kind);
        if !head.more {
            live.dispatch(head.kind, head.tag, std::mem::take(&mut assembly.body));
        }
    }
    Ok(true)
}
