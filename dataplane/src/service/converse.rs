//! The conversation of a sending job with its receiver, over one session.

use super::job::{Job, JobState, push_failure};
use super::live::{Live, Reply};
use super::manifest::{self, Offer};
use super::message::{self, End, HaveSet, MAX_MESSAGE, Reader};
use super::outgoing::Outgoing;
use super::record::Kind;
use super::source::{Origin, OriginReader};
use crate::codec::Policy;
use crate::crypto::receipt::Receipt;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, unbounded};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often waits look at cancellation and at the session.
const POLL: Duration = Duration::from_millis(100);
/// Objects named in one `Ends` message at most.
const ENDS_BATCH: usize = 4096;
/// Replies of the receiver that may wait to be looked at.
const REPLIES: usize = 256;

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
        // Before every reply: a receiver that reports often must not keep a cancelled job going.
        if self.job.cancelled() {
            self.abort("cancelled by the sender");
            self.job.set_state(JobState::Cancelled);
            return Err(Outcome::Over);
        }
        match self.replies.recv_timeout(POLL) {
            Ok(r) => return Ok(Some(r)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
        }
        if let Some(why) = self.live.ended() {
            return Err(Outcome::Lost(why));
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
            Some((Kind::Have, body)) if have.take(&body, sizes) => {}
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
    let stop = || work.stopped() || live.ended().is_some();
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
                match reader.hash(work.origin(), index, &mut room, stop) {
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
                if work.set_gone(index) {
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
