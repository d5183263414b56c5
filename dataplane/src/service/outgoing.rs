//! The sending side of a transfer within one session as the lanes see it: what is missing at the
//! receiver, cut into runs that the lanes pull.

use super::job::{Job, push_failure};
use super::live::Live;
use super::message::{self, HaveSet};
use super::record::{HEAD, Head, Kind, padded};
use super::source::{Origin, OriginReader};
use crate::api::{LaneSender, SendError};
use crate::codec::Policy;
use crossbeam_channel::Sender;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that a lane takes from the shared cursor at once.
const RUN: u64 = 2 << 20;
/// A record with less body than this is not begun at the end of a slot.
const MIN_BODY: usize = 1024;
/// How long a lane waits for room before it looks around.
const POLL: Duration = Duration::from_millis(100);

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
    pub(super) fn new(
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
    pub(super) fn give_up(&self, index: u32, why: &str, live: &Live) {
        if self.set_gone(index) {
            live.post(Kind::Gone, self.tag, message::encode_reason(index, why));
            self.job.update(|s| push_failure(s, why.to_owned()));
        }
    }

    /// Marks an object as given up; false when it was already, or there is none.
    pub(super) fn set_gone(&self, index: u32) -> bool {
        self.gone
            .get(index as usize)
            .is_some_and(|g| !g.swap(true, Ordering::AcqRel))
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::identity::PublicKey;
    use crate::service::job::{Direction, Jobs};
    use crossbeam_channel::unbounded;

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
