//! The sending side of a transfer within one session: what is missing at the receiver, cut into
//! runs that the lanes pull, and the conversation with the receiver around it.

use super::job::{Job, JobState, push_failure};
use super::live::{Live, Reply};
use super::manifest::{self, Offer};
use super::message::{self, End, HaveSet, MAX_MESSAGE, Reader};
use super::record::{HEAD, Head, Kind, padded};
use super::source::{Origin, OriginReader};
use crate::api::{LaneSender, SendError};
use crate::codec::Policy;
use crate::crypto::receipt::Receipt;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that a lane takes from the shared cursor at once.
const RUN: u64 = 2 << 20;
/// A record with less body than this is not begun at the end of a slot.
const MIN_BODY: usize = 1024;
/// How often waits look at cancellation and at the session.
const POLL: Duration = Duration::from_millis(100);
/// Objects named in one `Ends` message at most.
const ENDS_BATCH: usize = 4096;
/// Replies of the receiver that may wait to be looked at.
const REPLIES: usize = 256;

/// A missing range, at `start` of the line of all missing bytes.
#[derive(Debug, Clone, Copy)]
struct Segment {
    start: u64,
    index: u32,
    offset: u64,
    len: u64,
}

/// What the lanes work on together.
pub(super) struct Outgoing {
    pub(super) tag: u64,
    job: Arc<Job>,
    origin: Arc<Origin>,
    segments: Vec<Segment>,
    total: u64,
    /// Next byte of the line that no lane has taken.
    cursor: AtomicU64,
    /// Bytes of each object that were not read yet.
    left: Vec<AtomicU64>,
    gone: Vec<AtomicBool>,
    ended: Sender<u32>,
    stop: AtomicBool,
    pub(super) lanes: usize,
    pub(super) compression: Option<Policy>,
}

/// What a lane keeps between slots.
#[derive(Default)]
pub(super) struct LaneWork {
    reader: OriginReader,
    at: u64,
    end: u64,
    segment: usize,
}

/// What one call of [`Outgoing::send_slot`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A slot went out, or an object was skipped: call again.
    Sent,
    /// No room in the window for a while: look around and call again.
    NoRoom,
    /// Nothing is left for this lane.
    Exhausted,
    /// The lane has ended.
    Closed,
}

impl Outgoing {
    fn new(
        tag: u64,
        job: Arc<Job>,
        origin: Arc<Origin>,
        have: &HaveSet,
        ended: Sender<u32>,
        full: bool,
        p: (usize, Option<Policy>),
    ) -> Outgoing {
        let (lanes, compression) = p;
        let n = origin.entries.len();
        let mut done = vec![false; n];
        for &(first, count) in &have.done {
            done[first as usize..(first + count) as usize].fill(true);
        }
        let mut segments = Vec::new();
        let mut left = Vec::with_capacity(n);
        let mut total = 0;
        let none = super::extents::Extents::new();
        for (i, e) in origin.entries.iter().enumerate() {
            let mut missing = 0;
            if !done[i] {
                let there = have.partial.get(&(i as u32)).unwrap_or(&none);
                for (a, b) in there.missing(e.size) {
                    segments.push(Segment {
                        start: total,
                        index: i as u32,
                        offset: a,
                        len: b - a,
                    });
                    missing += b - a;
                    total += b - a;
                }
            }
            // All bytes are there: only the end has to be said, or the digest compared.
            if missing == 0 && e.size > 0 && (full || !done[i]) {
                let _ = ended.send(i as u32);
            }
            left.push(AtomicU64::new(missing));
        }
        Outgoing {
            tag,
            job,
            origin,
            segments,
            total,
            cursor: AtomicU64::new(0),
            left,
            gone: (0..n).map(|_| AtomicBool::new(false)).collect(),
            ended,
            stop: AtomicBool::new(false),
            lanes,
            compression,
        }
    }

    /// Fills and sends one slot.
    pub(super) fn send_slot(&self, tx: &mut LaneSender, w: &mut LaneWork, live: &Live) -> Step {
        if self.stop.load(Ordering::Relaxed) {
            return Step::Exhausted;
        }
        if w.at == w.end && !self.next_run(tx.slot_capacity(), w) {
            return Step::Exhausted;
        }
        let mut claim = match tx.claim(POLL) {
            Ok(c) => c,
            Err(SendError::Closed(_)) => return Step::Closed,
            Err(_) => return Step::NoRoom,
        };
        let mut used = 0;
        let mut sent = 0;
        loop {
            let room = claim.len() - used;
            if room < HEAD + MIN_BODY {
                break;
            }
            if w.at == w.end && !self.next_run(claim.len(), w) {
                break;
            }
            let s = self.segments[w.segment];
            let skip = w.at - s.start;
            let n = (s.len - skip).min(w.end - w.at).min((room - HEAD) as u64);
            let advance = |w: &mut LaneWork, n: u64| {
                w.at += n;
                if w.at == s.start + s.len {
                    w.segment += 1;
                }
            };
            if self.gone[s.index as usize].load(Ordering::Relaxed) {
                let rest = (s.len - skip).min(w.end - w.at);
                advance(w, rest);
                continue;
            }
            let (head, body) = claim[used..].split_at_mut(HEAD);
            let len = n as usize;
            let offset = s.offset + skip;
            advance(w, n);
            if let Err(why) = w
                .reader
                .read(&self.origin, s.index, offset, &mut body[..len])
            {
                self.give_up(s.index, &why, live);
                continue;
            }
            let all = padded(len).min(body.len());
            body[len..all].fill(0);
            if let Some(head) = head.first_chunk_mut() {
                let h = Head {
                    kind: Kind::Data,
                    more: false,
                    tag: self.tag,
                    index: s.index,
                    len: len as u32,
                    offset,
                };
                h.encode(head);
            }
            used += HEAD + all;
            sent += n;
            if self.left[s.index as usize].fetch_sub(n, Ordering::AcqRel) == n {
                // The last bytes of the object were read, by whichever lane: what was read before
                // is valid only if nothing changed up to now.
                match w.reader.check(&self.origin, s.index) {
                    Ok(()) => {
                        let _ = self.ended.send(s.index);
                    }
                    Err(why) => self.give_up(s.index, &why, live),
                }
            }
        }
        if used > 0 {
            claim.commit(used);
            self.job.sent.fetch_add(sent, Ordering::Relaxed);
        }
        Step::Sent
    }

    /// Takes the next run off the line.
    fn next_run(&self, slot: usize, w: &mut LaneWork) -> bool {
        // Whole slots, so that the runs of one large file leave no short slot between them.
        let body = (slot - HEAD) as u64;
        let run = (RUN / body).max(1) * body;
        if self.cursor.load(Ordering::Relaxed) >= self.total {
            return false;
        }
        w.at = self.cursor.fetch_add(run, Ordering::Relaxed);
        if w.at >= self.total {
            w.end = w.at;
            return false;
        }
        w.end = (w.at + run).min(self.total);
        w.segment = self.segments.partition_point(|s| s.start + s.len <= w.at);
        true
    }

    /// An object that cannot be sent: the receiver drops it, the others go on.
    fn give_up(&self, index: u32, why: &str, live: &Live) {
        if !self.gone[index as usize].swap(true, Ordering::AcqRel) {
            live.post(Kind::Gone, self.tag, message::encode_reason(index, why));
            self.job.update(|s| push_failure(s, why.to_owned()));
        }
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How a job's run over one session ended.
pub(super) enum Outcome {
    /// It is in its final state.
    Over,
    /// The session is gone; try again.
    Lost(String),
}

/// Everything that stays the same for a job over its sessions.
pub(super) struct Prepared {
    pub(super) job: Arc<Job>,
    pub(super) origin: Arc<Origin>,
    pub(super) offer: Offer,
    pub(super) lanes: usize,
    pub(super) compression: Option<Policy>,
}

struct Conversation<'a> {
    live: &'a Arc<Live>,
    job: &'a Arc<Job>,
    replies: Receiver<Reply>,
    tag: u64,
}

impl Conversation<'_> {
    fn reply(&self) -> Result<Option<Reply>, Outcome> {
        match self.replies.recv_timeout(POLL) {
            Ok(r) => return Ok(Some(r)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
        }
        if let Some(why) = self.live.ended() {
            return Err(Outcome::Lost(why));
        }
        if self.job.cancelled() {
            self.abort("cancelled by the sender");
            self.job.set_state(JobState::Cancelled);
            return Err(Outcome::Over);
        }
        Ok(None)
    }

    fn abort(&self, why: &str) {
        self.live
            .post(Kind::Abort, self.tag, message::encode_reason(0, why));
    }

    fn fail(&self, why: String) -> Outcome {
        self.job.set_state(JobState::Failed { why });
        Outcome::Over
    }

    fn broken(&self) -> Outcome {
        self.abort("a reply could not be understood");
        self.fail("the peer sent a reply that could not be understood; are both daemons of the same version?".into())
    }
}

/// Runs a job over a session until it ends or the session does.
pub(super) fn run(live: &Arc<Live>, p: &Prepared) -> Outcome {
    let tag = live.next_tag();
    let (tx, replies) = bounded(REPLIES);
    let talk = Conversation {
        live,
        job: &p.job,
        replies,
        tag,
    };
    live.expect_replies(Some((tag, tx)));
    let outcome = converse(&talk, p);
    live.expect_replies(None);
    live.set_work(None);
    match outcome {
        Ok(o) | Err(o) => o,
    }
}

fn converse(talk: &Conversation, p: &Prepared) -> Result<Outcome, Outcome> {
    let live = talk.live;
    let tag = talk.tag;
    live.post(Kind::Offer, tag, p.offer.encode());
    for m in manifest::encode_entries(&p.origin.entries, MAX_MESSAGE) {
        live.post(Kind::Entries, tag, m);
    }
    live.post(Kind::OfferEnd, tag, Vec::new());

    let sizes = |i: u32| p.origin.entries.get(i as usize).map(|e| e.size);
    let mut have = HaveSet::default();
    let full = loop {
        match talk.reply()? {
            None => {}
            Some((Kind::Have, body)) => {
                if !have.take(&body, sizes) {
                    return Err(talk.broken());
                }
            }
            Some((Kind::Accept, body)) => break body.first() == Some(&1),
            Some((Kind::Refuse, body)) => return Err(talk.fail(refusal(&body))),
            Some(_) => return Err(talk.broken()),
        }
    };
    let resumed = resumed_bytes(&have, &p.origin);
    let done_before: u64 = have.done.iter().map(|d| u64::from(d.1)).sum();
    p.job.update(|s| {
        s.state = JobState::Running;
        s.bytes_resumed = resumed;
        s.bytes_done = s.bytes_done.max(resumed);
        s.files_done = done_before;
    });

    let (ended_tx, ended) = unbounded();
    let work = Arc::new(Outgoing::new(
        tag,
        p.job.clone(),
        p.origin.clone(),
        &have,
        ended_tx,
        full,
        (p.lanes, p.compression),
    ));
    let hashes = Hashes::new(p.origin.entries.len(), full);
    live.set_work(Some(work.clone()));
    std::thread::scope(|s| {
        s.spawn(|| say_ends(&work, &ended, &hashes, live));
        let r = watch(talk, p, &work, &hashes, &have);
        work.stop();
        r
    })
}

fn refusal(body: &[u8]) -> String {
    match message::decode_reason(body) {
        Some((_, why)) => format!("the peer refused: {why}"),
        None => "the peer refused without a reason".into(),
    }
}

fn resumed_bytes(have: &HaveSet, o: &Origin) -> u64 {
    let done = have
        .done
        .iter()
        .flat_map(|&(first, count)| first..first + count);
    let whole: u64 = done.map(|i| o.entries[i as usize].size).sum();
    whole
        + have
            .partial
            .values()
            .map(super::extents::Extents::len)
            .sum::<u64>()
}

/// BLAKE3 of the objects, to compare with what receipts say.
struct Hashes {
    full: bool,
    known: Mutex<Vec<Option<[u8; 32]>>>,
}

impl Hashes {
    fn new(n: usize, full: bool) -> Hashes {
        Hashes {
            full,
            known: Mutex::new(vec![None; if full { n } else { 0 }]),
        }
    }

    fn set(&self, index: u32, hash: [u8; 32]) {
        let mut k = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(h) = k.get_mut(index as usize) {
            *h = Some(hash);
        }
    }

    fn get(&self, index: u32) -> Option<[u8; 32]> {
        let k = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        k.get(index as usize).copied().flatten()
    }
}

/// Tells the receiver which objects were sent whole, with their digests where wanted.
fn say_ends(work: &Outgoing, ended: &Receiver<u32>, hashes: &Hashes, live: &Live) {
    let mut reader = OriginReader::default();
    let mut room = if hashes.full {
        vec![0; 1 << 20]
    } else {
        Vec::new()
    };
    let stop = || work.stop.load(Ordering::Relaxed) || live.ended().is_some();
    while !stop() {
        let Ok(first) = ended.recv_timeout(POLL) else {
            continue;
        };
        let mut body = Vec::new();
        let began = Instant::now();
        for index in std::iter::once(first)
            .chain(ended.try_iter())
            .take(ENDS_BATCH)
        {
            let hash = if hashes.full {
                match reader.hash(&work.origin, index, &mut room, stop) {
                    Ok(h) => {
                        hashes.set(index, h);
                        Some(h)
                    }
                    Err(_) if stop() => return,
                    Err(why) => {
                        work.give_up(index, &why, live);
                        continue;
                    }
                }
            } else {
                None
            };
            End { index, hash }.encode(&mut body);
            if began.elapsed() > POLL {
                break;
            }
        }
        live.post(Kind::Ends, work.tag, body);
    }
}

/// Follows the receiver's replies to the end of the transfer.
fn watch(
    talk: &Conversation,
    p: &Prepared,
    work: &Outgoing,
    hashes: &Hashes,
    have: &HaveSet,
) -> Result<Outcome, Outcome> {
    let n = p.origin.entries.len() as u64;
    let mut done = vec![false; n as usize];
    for &(first, count) in &have.done {
        done[first as usize..(first + count) as usize].fill(true);
    }
    loop {
        let Some((kind, body)) = talk.reply()? else {
            continue;
        };
        match kind {
            Kind::Progress => {
                let (_, durable) = message::decode_progress(&body).ok_or_else(|| talk.broken())?;
                p.job.update(|s| s.bytes_done = durable.min(s.bytes_total));
            }
            Kind::Done => {
                let mut r = Reader(&body);
                while !r.at_end() {
                    let (index, receipt) =
                        message::decode_done(&mut r).ok_or_else(|| talk.broken())?;
                    let Some(seen) = done.get_mut(index as usize) else {
                        return Err(talk.broken());
                    };
                    let new = !std::mem::replace(seen, true);
                    take_done(talk, p, hashes, index, receipt, new);
                }
            }
            Kind::Failed => {
                let (index, why) = message::decode_reason(&body).ok_or_else(|| talk.broken())?;
                if index as u64 >= n {
                    return Err(talk.broken());
                }
                if !work.gone[index as usize].swap(true, Ordering::AcqRel) {
                    let text = format!("{} at the peer: {why}", p.origin.shown(index));
                    p.job.update(|s| push_failure(s, text));
                }
            }
            Kind::Refuse => return Err(talk.fail(refusal(&body))),
            Kind::Finished => {
                let s = p.job.status();
                let state = if s.files_failed == 0 {
                    JobState::Done
                } else {
                    let first = s.error.unwrap_or_default();
                    let why = format!(
                        "{} of {} objects failed: {first}",
                        s.files_failed, s.files_total
                    );
                    JobState::Failed { why }
                };
                p.job.update(|s| {
                    if state == JobState::Done {
                        s.bytes_done = s.bytes_total;
                        s.files_done = s.files_total;
                    }
                });
                p.job.set_state(state);
                return Ok(Outcome::Over);
            }
            _ => return Err(talk.broken()),
        }
    }
}

/// Counts an object that is durable, after checking its receipt.
fn take_done(
    talk: &Conversation,
    p: &Prepared,
    hashes: &Hashes,
    index: u32,
    receipt: &str,
    new: bool,
) {
    let e = &p.origin.entries[index as usize];
    if receipt.is_empty() {
        if hashes.full && !e.is_dir() && !p.offer.discard {
            let text = format!("{}: the peer sent no receipt", p.origin.shown(index));
            p.job.update(|s| push_failure(s, text));
            return;
        }
        p.job.update(|s| s.files_done += u64::from(new));
        return;
    }
    let checked = Receipt::from_json(receipt)
        .map_err(|e| e.to_string())
        .and_then(|r| {
            r.verify_from(&talk.live.session().peer_receipt_key())
                .map_err(|e| e.to_string())?;
            let hash = if e.size == 0 {
                Some(*blake3::hash(&[]).as_bytes())
            } else {
                hashes.get(index)
            };
            let same = hash == Some(r.blake3);
            if r.object != e.name
                || r.size != e.size
                || r.receiver != talk.live.session().peer()
                || !same
            {
                return Err("it is about another object".into());
            }
            Ok(r)
        });
    p.job.update(|s| match checked {
        Ok(r) => {
            s.files_done += u64::from(new);
            if !new {
                // Done in an earlier session and compared again in this one.
                s.receipts.retain(|old| old.object != r.object);
            }
            s.receipts.push(r);
        }
        Err(why) => {
            push_failure(
                s,
                format!(
                    "{}: the peer's receipt is not valid: {why}",
                    p.origin.shown(index)
                ),
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::PublicKey;
    use crate::service::job::{Direction, Jobs};

    #[test]
    fn runs_cover_exactly_what_is_missing() {
        let origin = Arc::new(Origin::generated(10_000_000, false));
        let mut have = HaveSet::default();
        have.partial.entry(0).or_default().add(5, 1_000_000);
        have.partial
            .entry(0)
            .or_default()
            .add(9_999_999, 10_000_000);
        let job = Jobs::default().create(Direction::Send, PublicKey([1; 32]));
        let (tx, ended) = unbounded();
        let o = Outgoing::new(1, job, origin, &have, tx, false, (1, None));
        assert_eq!(o.total, 5 + 8_999_999);
        let mut w = LaneWork::default();
        let mut covered = 0;
        while o.next_run(90_048, &mut w) {
            assert_eq!(w.at, covered);
            let s = o.segments[w.segment];
            assert!(s.start <= w.at && w.at < s.start + s.len);
            covered = w.end;
        }
        assert_eq!(covered, o.total);
        assert!(ended.is_empty());
    }

    #[test]
    fn an_object_that_is_whole_only_needs_its_end_said() {
        let origin = Arc::new(Origin::generated(1000, false));
        let mut have = HaveSet::default();
        have.partial.entry(0).or_default().add(0, 1000);
        let job = Jobs::default().create(Direction::Send, PublicKey([1; 32]));
        let (tx, ended) = unbounded();
        let o = Outgoing::new(1, job, origin, &have, tx, false, (1, None));
        assert_eq!((o.total, ended.try_recv()), (0, Ok(0)));
    }
}
