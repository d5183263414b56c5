//! One path and its congestion controller, shared by the lanes of a session on whatever cores.
//!
//! Lanes add to a few atomic counters and read two: the rate and the window that the controller
//! allows them. The controller runs under a lock that no lane waits for: whoever brings an
//! acknowledgement tries it, takes in what the others have counted meanwhile, and hands out new
//! shares; whoever finds it taken leaves its sample in a mailbox and goes on.
//!
//! **Shares.** A lane that has more to send than it may is *hungry*. What the others send and have in
//! flight is taken off rate and window, and the hungry ones get the rest by weight. A lane may fill
//! its share of the window whatever the others have in flight, and beyond it what they leave. So a
//! lane with little to send holds nothing back, and is not held up by a bulk lane beside it.

mod spare;
#[cfg(test)]
mod tests;

use super::cc::{AckSample, Cc, CcConfig, Controller};
use super::sent::Mark;
use crate::base::Nanos;
use spare::Spare;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// Largest weight of a lane; the smallest is 1.
pub const MAX_WEIGHT: u32 = 1000;
/// How often the use of lanes that are not hungry is measured at least, nanoseconds.
const USE_SPAN_NS: Nanos = 1_000_000;
/// Shortest time between two sharings out, nanoseconds: once and for each lane, since each costs a
/// few cache misses.
const SHARE_EVERY_NS: (Nanos, Nanos) = (20_000, 1_000);
/// A silence of the whole path of this many smoothed round trips makes one lane's timeouts its own.
const SILENT_RTTS: u64 = 2;

/// What one lane tells and is told. Alone on its cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Share {
    weight: AtomicU32,
    open: AtomicBool,
    hungry: AtomicBool,
    sent: AtomicU64,
    in_flight: AtomicU64,
    rate: AtomicU64,
    window: AtomicU64,
}

/// What lanes leave when another one is just at the controller.
#[derive(Debug)]
struct Mailbox {
    rtt: AtomicU64,
    rate: AtomicU64,
    prior_delivered: AtomicU64,
}

#[derive(Debug)]
struct Model {
    cc: Cc,
    acked: u64,
    lost: u64,
    ce: u64,
    delivered: u64,
    shared_at: Nanos,
    used_at: Nanos,
    /// By lane: bytes sent at `used_at`, and bytes per second before it.
    used: Box<[(u64, u64)]>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Path {
    shares: Box<[Share]>,
    frame: u64,
    delivered: AtomicU64,
    delivered_at: AtomicU64,
    first_sent_at: AtomicU64,
    /// Until so much is delivered, rates say nothing of the path; 0 when they do.
    limited_until: AtomicU64,
    in_flight: AtomicU64,
    acked: AtomicU64,
    lost: AtomicU64,
    ce: AtomicU64,
    hungry: AtomicU32,
    rate: AtomicU64,
    window: AtomicU64,
    mail: Mailbox,
    spare: Spare,
    model: Mutex<Model>,
}

/// What an acknowledgement says to one lane. Bytes are whole frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneAck {
    /// When it arrived.
    pub now: Nanos,
    /// Newly delivered bytes of this lane.
    pub acked_bytes: u64,
    /// Newly delivered frames.
    pub acked_frames: u64,
    /// Frames newly known lost, before FEC.
    pub lost_frames: u64,
    /// Frames newly reported with the CE mark.
    pub ce_frames: u64,
    /// Round-trip sample, nanoseconds.
    pub rtt: Option<Nanos>,
    /// When the newest acknowledged frame was sent, and how far the path was then.
    pub sent: Option<(Nanos, Mark)>,
    /// Bytes of this lane in flight before it.
    pub prior_in_flight: u64,
    /// Bytes of this lane in flight after it.
    pub in_flight: u64,
}

/// `of * part / whole`, saturating.
fn portion(of: u64, part: u64, whole: u64) -> u64 {
    let whole = whole.max(1);
    match of.checked_mul(part) {
        Some(n) => n / whole,
        None => {
            let n = u128::from(of) * u128::from(part) / u128::from(whole);
            u64::try_from(n).unwrap_or(u64::MAX)
        }
    }
}

impl Path {
    /// A path for up to `lanes` lanes, each of weight 1 at first.
    pub fn new(cfg: &CcConfig, lanes: usize) -> Arc<Path> {
        let cc = Cc::new(cfg);
        let (rate, window) = (cc.pacing_rate(), cc.cwnd());
        let lanes = lanes.max(1);
        Arc::new(Path {
            shares: (0..lanes)
                .map(|_| Share {
                    weight: AtomicU32::new(1),
                    open: AtomicBool::new(false),
                    hungry: AtomicBool::new(false),
                    sent: AtomicU64::new(0),
                    in_flight: AtomicU64::new(0),
                    rate: AtomicU64::new((rate / lanes as u64).max(1)),
                    window: AtomicU64::new(window / lanes as u64),
                })
                .collect(),
            frame: cfg.frame.max(1),
            delivered: AtomicU64::new(0),
            delivered_at: AtomicU64::new(0),
            first_sent_at: AtomicU64::new(0),
            limited_until: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            ce: AtomicU64::new(0),
            hungry: AtomicU32::new(0),
            rate: AtomicU64::new(rate),
            window: AtomicU64::new(window),
            mail: Mailbox {
                rtt: AtomicU64::new(u64::MAX),
                rate: AtomicU64::new(0),
                prior_delivered: AtomicU64::new(0),
            },
            spare: Spare::default(),
            model: Mutex::new(Model {
                cc,
                acked: 0,
                lost: 0,
                ce: 0,
                delivered: 0,
                shared_at: 0,
                used_at: 0,
                used: vec![(0, 0); lanes].into_boxed_slice(),
            }),
        })
    }

    /// Bytes per second that all lanes together may send.
    pub fn pacing_rate(&self) -> u64 {
        self.rate.load(Relaxed)
    }

    /// Bytes that all lanes together may have in flight.
    pub fn cwnd(&self) -> u64 {
        self.window.load(Relaxed)
    }

    /// Bytes that all lanes together have in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Bytes delivered by all lanes since the path was made.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Name of the controller.
    pub fn controller(&self) -> &'static str {
        let model = self.model.lock().unwrap_or_else(PoisonError::into_inner);
        model.cc.name()
    }

    fn try_model(&self) -> Option<MutexGuard<'_, Model>> {
        match self.model.try_lock() {
            Ok(m) => Some(m),
            Err(TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn publish(&self, m: &mut Model, now: Nanos) {
        self.rate.store(m.cc.pacing_rate(), Relaxed);
        self.window.store(m.cc.cwnd(), Relaxed);
        self.share_out(m, now);
    }

    /// Rates and windows of the lanes, see the module's text.
    fn share_out(&self, m: &mut Model, now: Nanos) {
        let (rate, window) = (self.rate.load(Relaxed), self.window.load(Relaxed));
        if let [only] = &self.shares[..] {
            only.rate.store(rate, Relaxed);
            only.window.store(window, Relaxed);
            return;
        }
        let since = now.saturating_sub(m.used_at);
        let measure = since >= USE_SPAN_NS;
        let every = SHARE_EVERY_NS
            .0
            .max(SHARE_EVERY_NS.1 * self.shares.len() as u64);
        if now.saturating_sub(m.shared_at) < every {
            return;
        }
        m.shared_at = now;
        let mut weights = 0;
        for (s, used) in self.shares.iter().zip(&mut m.used) {
            if measure {
                let sent = s.sent.load(Relaxed);
                let fresh = sent.saturating_sub(used.0);
                *used = (sent, portion(fresh, 1_000_000_000, since));
            }
            if s.open.load(Relaxed) && s.hungry.load(Relaxed) {
                weights += u64::from(s.weight.load(Relaxed));
            }
        }
        if measure {
            m.used_at = now;
        }
        let least = 2 * self.frame;
        let (mut rest, mut room) = (rate, window);
        for (s, used) in self.shares.iter().zip(&m.used) {
            if !s.open.load(Relaxed) || s.hungry.load(Relaxed) {
                continue;
            }
            let w = u64::from(s.weight.load(Relaxed));
            let fair = portion(rate, w, weights + w);
            rest = rest.saturating_sub(used.1.min(fair));
            s.rate.store(fair.max(1), Relaxed);
            let fair = portion(window, w, weights + w);
            room = room.saturating_sub(s.in_flight.load(Relaxed).min(fair));
            s.window.store(fair.max(least), Relaxed);
        }
        for s in &self.shares {
            if s.open.load(Relaxed) && s.hungry.load(Relaxed) {
                let w = u64::from(s.weight.load(Relaxed));
                s.rate.store(portion(rest, w, weights).max(1), Relaxed);
                s.window
                    .store(portion(room, w, weights).max(least), Relaxed);
            }
        }
    }
}

/// One lane's end of a [`Path`]. Not to be cloned: one lane, one place.
#[derive(Debug)]
pub struct PathLane {
    path: Arc<Path>,
    at: usize,
    /// What the path's sum of bytes in flight has of this lane.
    noted: u64,
    hungry: bool,
}

impl PathLane {
    /// Place `lane` of `path`, which must be below the number of lanes it was made for; a higher one
    /// shares the last place.
    pub fn new(path: Arc<Path>, lane: usize) -> PathLane {
        let at = lane.min(path.shares.len() - 1);
        path.shares[at].open.store(true, Relaxed);
        PathLane {
            path,
            at,
            noted: 0,
            hungry: false,
        }
    }

    /// The path.
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn share(&self) -> &Share {
        // The constructor bounded `at`.
        &self.path.shares[self.at]
    }

    /// Sets the lane's weight, 1 to [`MAX_WEIGHT`].
    pub fn set_weight(&self, weight: u32) {
        let w = weight.clamp(1, MAX_WEIGHT);
        self.share().weight.store(w, Relaxed);
    }

    /// The lane's weight.
    pub fn weight(&self) -> u32 {
        self.share().weight.load(Relaxed)
    }

    /// Bytes per second that this lane may send now.
    pub fn pacing_rate(&self) -> u64 {
        self.share().rate.load(Relaxed)
    }

    /// Bytes that this lane may have in flight now: its share, or what the others leave.
    pub fn cwnd(&self) -> u64 {
        let others = self.path.in_flight().saturating_sub(self.noted);
        let left = self.path.cwnd().saturating_sub(others);
        self.share().window.load(Relaxed).max(left)
    }

    /// Notes that this lane has `in_flight` bytes in flight of `sent` ever sent.
    pub fn note(&mut self, in_flight: u64, sent: u64) {
        if in_flight != self.noted {
            // Wraps for a falling count, and the sum comes out right.
            let change = in_flight.wrapping_sub(self.noted);
            self.path.in_flight.fetch_add(change, Relaxed);
            self.noted = in_flight;
            self.share().in_flight.store(in_flight, Relaxed);
        }
        self.share().sent.store(sent, Relaxed);
    }

    /// What the lanes leave of the budget for repair.
    pub(super) fn spare(&self) -> &Spare {
        &self.path.spare
    }

    /// Pace or window keep this lane from sending.
    pub fn hungry(&mut self) {
        if !self.hungry {
            self.hungry = true;
            self.share().hungry.store(true, Relaxed);
            self.path.hungry.fetch_add(1, Relaxed);
        }
    }

    /// This lane has nothing to send, or may not for another reason than pace and window. Where that
    /// leaves the path short of work, what is measured now says nothing of the path.
    pub fn dry(&mut self) {
        self.sated();
        let p = &*self.path;
        let in_flight = p.in_flight();
        if in_flight < p.cwnd() && p.hungry.load(Relaxed) == 0 {
            let until = p.delivered.load(Relaxed) + in_flight;
            p.limited_until.store(until.max(1), Relaxed);
        }
    }

    fn sated(&mut self) {
        if self.hungry {
            self.hungry = false;
            self.share().hungry.store(false, Relaxed);
            self.path.hungry.fetch_sub(1, Relaxed);
        }
    }

    /// Nothing of this lane is in flight and it sends again at `now`. Gives whether that holds for
    /// the whole path.
    pub fn restart(&mut self, now: Nanos) -> bool {
        let p = &*self.path;
        if p.in_flight().saturating_sub(self.noted) > 0 {
            return false;
        }
        p.delivered_at.store(now, Relaxed);
        p.first_sent_at.store(now, Relaxed);
        if let Some(mut m) = p.try_model() {
            m.cc.on_idle_restart(now);
        }
        true
    }

    /// How far the path is, for the record of a burst that leaves now.
    pub fn mark(&self) -> Mark {
        let p = &*self.path;
        Mark {
            delivered: p.delivered.load(Relaxed),
            delivered_at: p.delivered_at.load(Relaxed),
            first_sent_at: p.first_sent_at.load(Relaxed),
            app_limited: p.limited_until.load(Relaxed) > 0,
        }
    }

    /// Takes an acknowledgement, or losses that a timer confirmed.
    pub fn on_ack(&mut self, a: &LaneAck, sent: u64) {
        let p = &*self.path;
        let elsewhere = p.in_flight().saturating_sub(self.noted);
        p.acked.fetch_add(a.acked_frames, Relaxed);
        p.lost.fetch_add(a.lost_frames, Relaxed);
        p.ce.fetch_add(a.ce_frames, Relaxed);
        let delivered = p.delivered.fetch_add(a.acked_bytes, Relaxed) + a.acked_bytes;
        if a.acked_bytes > 0 {
            p.delivered_at.fetch_max(a.now, Relaxed);
        }
        let until = p.limited_until.load(Relaxed);
        if until > 0 && delivered > until {
            p.limited_until.store(0, Relaxed);
        }
        let (mut rate, mut prior_delivered, mut limited) = (None, 0, true);
        if let Some((sent_at, mark)) = a.sent {
            prior_delivered = mark.delivered;
            limited = mark.app_limited;
            let acking = a.now.saturating_sub(mark.delivered_at);
            let interval = acking.max(sent_at.saturating_sub(mark.first_sent_at));
            let bytes = delivered.saturating_sub(mark.delivered);
            if interval > 0 {
                rate = Some(portion(bytes, 1_000_000_000, interval).min(u64::MAX >> 8));
            }
            p.first_sent_at.fetch_max(sent_at, Relaxed);
        }
        self.note(a.in_flight, sent);
        let p = &*self.path;
        let Some(mut m) = p.try_model() else {
            if let Some(rtt) = a.rtt {
                p.mail.rtt.fetch_min(rtt, Relaxed);
            }
            if let Some(rate) = rate.filter(|_| !limited) {
                p.mail.rate.fetch_max(rate, Relaxed);
            }
            p.mail.prior_delivered.fetch_max(prior_delivered, Relaxed);
            return;
        };
        let mail_rtt = match p.mail.rtt.load(Relaxed) {
            u64::MAX => None,
            _ => Some(p.mail.rtt.swap(u64::MAX, Relaxed)),
        };
        let mail_rate = match p.mail.rate.load(Relaxed) {
            0 => 0,
            _ => p.mail.rate.swap(0, Relaxed),
        };
        if mail_rate > 0 && (limited || rate.is_none_or(|r| r < mail_rate)) {
            (rate, limited) = (Some(mail_rate), false);
        }
        let prior = p.mail.prior_delivered.load(Relaxed);
        let (acked, lost, ce) = (
            p.acked.load(Relaxed),
            p.lost.load(Relaxed),
            p.ce.load(Relaxed),
        );
        let delivered = p.delivered.load(Relaxed);
        let sample = AckSample {
            now: a.now,
            delivered,
            prior_delivered: prior_delivered.max(prior),
            acked_bytes: delivered - m.delivered,
            acked_frames: acked - m.acked,
            lost_frames: lost - m.lost,
            ce_frames: ce - m.ce,
            rtt: match (a.rtt, mail_rtt) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            },
            rate,
            app_limited: limited,
            prior_in_flight: elsewhere + a.prior_in_flight,
            in_flight: p.in_flight(),
        };
        (m.acked, m.lost, m.ce, m.delivered) = (acked, lost, ce, delivered);
        m.cc.on_ack(&sample);
        p.publish(&mut m, a.now);
    }

    /// A probe timeout of this lane fired for the `count`-th time without an answer. That concerns
    /// the path only where no other lane had one either for some round trips.
    pub fn on_pto(&mut self, now: Nanos, count: u32, srtt: Nanos) {
        let p = &*self.path;
        let silent = now.saturating_sub(p.delivered_at.load(Relaxed));
        if silent < srtt.saturating_mul(SILENT_RTTS) {
            return;
        }
        if let Some(mut m) = p.try_model() {
            m.cc.on_pto(count);
            p.publish(&mut m, now);
        }
    }
}

impl Drop for PathLane {
    fn drop(&mut self) {
        self.sated();
        self.note(0, 0);
        self.share().open.store(false, Relaxed);
    }
}
