//! What a frame may carry on a lane's path: packetization-layer path MTU discovery (RFC 8899).
//!
//! The path is the lane's own: addresses and ports, which routers hash. Sizes are symbol lengths, the
//! multiples of 64 that a frame carries; the packet is 40 bytes longer, and UDP and IP headers come
//! on top.
//!
//! A probe is a PING padded to the size in question, beside a small PING at the same time. The size
//! passes when the padded one is answered. It counts as lost only when the small one was
//! answered and the padded one was not, so silence, a peer that is not there yet and a link that is
//! down are no verdict about sizes. Three lost probes of a size decide against it.
//!
//! - *Searching* begins with the largest size, or with what the kernel believes; if that passes, one
//!   round trip settles it. Else the usual sizes and then halves of what is left.
//! - *Complete* lasts until frames of full size stay unanswered, or until the raise timer.
//! - *Checking*: full-size frames vanish while others may pass. If probes of the size in use are lost, it is
//!   a black hole: back to the base size, and a new search.
//!
//! What routers say (ICMP "fragmentation needed", "packet too big") reaches this machine as a hint by
//! way of the kernel. A hint chooses which size is probed next, nothing else.

use crate::base::Nanos;
use crate::base::limits::{BASE_SYMBOL_LEN, SYMBOL_ALIGN};
use serde::{Deserialize, Serialize};

#[cfg(test)]
mod tests;

/// Lost probes that decide against a size (MAX_PROBES of RFC 8899).
pub const MAX_PROBES: u8 = 3;
/// After so long a larger size is tried again (PMTU_RAISE_TIMER of RFC 8899), nanoseconds.
pub const RAISE_NS: Nanos = 600_000_000_000;
/// A probe is not judged earlier than this, nanoseconds: the peer's core may be asleep or busy.
const MIN_WAIT_NS: Nanos = 20_000_000;
/// How long the base size is left alone that the path did not carry, nanoseconds.
const ERROR_NS: Nanos = 5_000_000_000;
/// Most doublings of the pause between probes that nobody answers at all.
const MAX_BACKOFF: u32 = 7;
/// Sizes tried before halving: those of MTU 1,500 and 9,000.
const USUAL: [u16; 2] = [1408, 8896];
const STEP: u16 = SYMBOL_ALIGN as u16;
const BASE: u16 = BASE_SYMBOL_LEN as u16;

/// Marks the ids of probes among pings.
const PROBE_ID: u64 = 1 << 63;
/// Marks the small one of the two.
const SMALL_ID: u64 = 1 << 62;

/// Where the search stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PmtuState {
    /// There is no search: it is switched off, or the largest size is what every path carries.
    #[default]
    Fixed,
    /// The base size is being confirmed after a black hole.
    Base,
    /// Larger sizes are tried.
    Searching,
    /// The largest size that passes is known.
    Complete,
    /// Frames of full size go unanswered; probes of the same size tell why.
    Checking,
    /// Not even the base size passes.
    Error,
}

/// Where the size in use came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PmtuOrigin {
    /// The configuration, without a probe.
    #[default]
    Configured,
    /// Nothing is known yet: the base size.
    Base,
    /// A probe of this size came through.
    Probe,
    /// The kernel named the size (ICMP, a route or the interface), and a probe of it came through.
    Hint,
    /// A larger size stopped passing.
    BlackHole,
}

/// How the search is done.
#[derive(Clone, Copy, Debug)]
pub struct PmtuConfig {
    /// Largest symbol of the session, bytes.
    pub max: u16,
    /// Whether to search; if not, the largest size is used as it is.
    pub search: bool,
    /// Symbol length that the kernel believes the path to carry, where it does not say more.
    pub hint: Option<u16>,
}

/// A probe to send now: two pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Bytes of the padded one's plaintext.
    pub symbol: u16,
    /// Id of the padded one.
    pub id: u64,
    /// Id of the small one.
    pub small_id: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    n: u32,
    deadline: Nanos,
    small_back: bool,
}

/// See the module's text. No method allocates, and none panics, whatever the peer sends.
#[derive(Clone, Copy, Debug)]
pub struct Pmtu {
    max: u16,
    current: u16,
    /// Smallest size known not to pass.
    high: u16,
    state: PmtuState,
    origin: PmtuOrigin,
    candidate: u16,
    hint: Option<u16>,
    /// Whether the first size tried has been decided about.
    decided: bool,
    first: u16,
    tries: u8,
    sent: Option<Sent>,
    seq: u32,
    /// Probes numbered below it say nothing about the path as it is now.
    valid_from: u32,
    next_at: Nanos,
    backoff: u32,
    heard: bool,
    probes: u64,
    lost: u64,
    black_holes: u64,
}

impl Pmtu {
    /// A path of which nothing is known at `now`.
    pub fn new(cfg: &PmtuConfig, now: Nanos) -> Pmtu {
        let search = cfg.search && cfg.max > BASE;
        let hint = cfg.hint.map(floor).filter(|&h| h < cfg.max);
        let first = hint.map_or(cfg.max, |h| h.max(BASE + STEP));
        let mut me = Pmtu {
            max: cfg.max,
            current: if search { BASE } else { cfg.max },
            high: cfg.max.saturating_add(STEP),
            state: PmtuState::Fixed,
            origin: PmtuOrigin::Configured,
            candidate: first,
            hint,
            decided: !search,
            first,
            tries: 0,
            sent: None,
            seq: 0,
            valid_from: 0,
            next_at: now,
            backoff: 0,
            heard: false,
            probes: 0,
            lost: 0,
            black_holes: 0,
        };
        if search {
            (me.state, me.origin) = (PmtuState::Searching, PmtuOrigin::Base);
        }
        me
    }

    /// Bytes that a frame may carry: a larger symbol goes in parts.
    pub fn current(&self) -> u16 {
        self.current
    }

    /// Symbol length that new slots should be made for. Until the first size tried is decided about
    /// it is that one: on most paths it passes.
    pub fn offer(&self) -> u16 {
        if self.decided {
            self.current
        } else {
            self.first
        }
    }

    /// Where the search stands.
    pub fn state(&self) -> PmtuState {
        self.state
    }

    /// Where the size in use came from.
    pub fn origin(&self) -> PmtuOrigin {
        self.origin
    }

    /// Probes sent, probes lost, black holes found.
    pub fn counts(&self) -> (u64, u64, u64) {
        (self.probes, self.lost, self.black_holes)
    }

    /// Whether the kernel's opinion about the path would help now.
    pub fn wants_hint(&self) -> bool {
        self.tries > 0 || self.state == PmtuState::Checking
    }

    fn active(&self) -> bool {
        !matches!(self.state, PmtuState::Fixed | PmtuState::Complete)
    }

    /// When [`Pmtu::poll`] has something to do, if nothing arrives.
    pub fn next_timeout(&self) -> Option<Nanos> {
        match (&self.sent, self.state) {
            (_, PmtuState::Fixed) => None,
            (Some(s), _) => Some(s.deadline),
            (None, PmtuState::Complete) if self.current >= self.max => None,
            (None, _) => Some(self.next_at),
        }
    }

    /// The probe that should leave now, if any. `pto` is the probe timeout of the path (RFC 9002),
    /// nanoseconds.
    pub fn poll(&mut self, now: Nanos, pto: Nanos) -> Option<Probe> {
        if let Some(s) = self.sent {
            if now < s.deadline {
                return None;
            }
            self.sent = None;
            if s.small_back {
                self.backoff = 0;
                self.lost += 1;
                self.tries += 1;
                let hinted = self.hint.is_some_and(|h| h < self.current);
                let enough = match self.state {
                    PmtuState::Checking if hinted => 1,
                    _ => MAX_PROBES,
                };
                if self.tries >= enough {
                    self.too_large(now);
                }
            } else {
                // Nobody is there: that says nothing about sizes.
                self.backoff = (self.backoff + 1).min(MAX_BACKOFF);
                self.next_at = now + (wait(pto) << self.backoff) - wait(pto);
            }
        }
        if self.state == PmtuState::Complete && self.current < self.max && now >= self.next_at {
            self.search_up(now);
        }
        if !self.active() || now < self.next_at {
            return None;
        }
        self.seq += 1;
        self.probes += 1;
        self.sent = Some(Sent {
            n: self.seq,
            deadline: now + wait(pto),
            small_back: false,
        });
        let id = PROBE_ID | u64::from(self.candidate) << 32 | u64::from(self.seq);
        Some(Probe {
            symbol: self.candidate,
            id,
            small_id: id | SMALL_ID,
        })
    }

    /// An authentic frame of the peer came in: if it is the first, the peer may have come up only
    /// after the first probe left, so another goes at once.
    pub fn on_heard(&mut self, now: Nanos) {
        if self.heard {
            return;
        }
        self.heard = true;
        if self.active() {
            self.sent = None;
            self.backoff = 0;
            self.next_at = now;
        }
    }

    /// Takes the peer's answer to the ping `id`; says whether it confirmed the size in use.
    pub fn on_pong(&mut self, now: Nanos, id: u64) -> bool {
        let (n, symbol) = (id as u32, (id >> 32 & 0xffff) as u16);
        let ours = id & PROBE_ID != 0 && (self.valid_from..=self.seq).contains(&n) && n > 0;
        if !ours || self.state == PmtuState::Fixed {
            return false;
        }
        self.heard = true;
        if id & SMALL_ID != 0 {
            if let Some(s) = self.sent.as_mut().filter(|s| s.n == n) {
                s.small_back = true;
            }
            return false;
        }
        if symbol < self.current || symbol > self.max {
            return false;
        }
        self.passed(now, symbol);
        true
    }

    /// The path carries `symbol`, which is not below the size in use.
    fn passed(&mut self, now: Nanos, symbol: u16) {
        let news = symbol > self.current || self.active() && symbol == self.candidate;
        if symbol > self.current {
            self.current = symbol;
            self.origin = match self.hint {
                Some(h) if h == symbol => PmtuOrigin::Hint,
                _ => PmtuOrigin::Probe,
            };
        }
        self.high = self.high.max(symbol.saturating_add(STEP));
        if !news {
            return;
        }
        self.decided = true;
        self.sent = None;
        (self.tries, self.backoff, self.next_at) = (0, 0, now);
        // What the kernel named and a probe has proven is taken for the answer.
        match self.next_candidate().filter(|_| self.hint != Some(symbol)) {
            Some(c) => (self.state, self.candidate) = (PmtuState::Searching, c),
            None => self.complete(now),
        }
    }

    /// The candidate does not pass.
    fn too_large(&mut self, now: Nanos) {
        (self.tries, self.next_at, self.decided) = (0, now, true);
        match self.state {
            PmtuState::Checking => {
                self.black_holes += 1;
                self.high = self.current;
                self.current = BASE;
                self.origin = PmtuOrigin::BlackHole;
                self.valid_from = self.seq + 1;
                (self.state, self.candidate) = (PmtuState::Base, BASE);
            }
            PmtuState::Base | PmtuState::Error => {
                self.state = PmtuState::Error;
                self.next_at = now + ERROR_NS;
            }
            _ => {
                self.high = self.high.min(self.candidate);
                match self.next_candidate() {
                    Some(c) => self.candidate = c,
                    None => self.complete(now),
                }
            }
        }
    }

    fn next_candidate(&self) -> Option<u16> {
        let (low, high) = (self.current, self.high);
        if high <= low.saturating_add(STEP) {
            return None;
        }
        let between = |&s: &u16| low < s && s < high;
        let known = self.hint.filter(between);
        let largest = Some(self.max).filter(between);
        let usual = USUAL.into_iter().find(between);
        let half = floor(low + (high - low) / 2).max(low + STEP);
        Some(known.or(largest).or(usual).unwrap_or(half))
    }

    fn complete(&mut self, now: Nanos) {
        self.state = PmtuState::Complete;
        self.next_at = now + RAISE_NS;
    }

    fn search_up(&mut self, now: Nanos) {
        self.hint = None;
        self.high = self.max.saturating_add(STEP);
        self.tries = 0;
        self.next_at = now;
        match self.next_candidate() {
            Some(c) => (self.state, self.candidate) = (PmtuState::Searching, c),
            None => self.complete(now),
        }
    }

    /// The kernel believes that the path carries symbols of `symbol` bytes.
    pub fn on_hint(&mut self, now: Nanos, symbol: u16) {
        if self.state == PmtuState::Fixed {
            return;
        }
        let symbol = floor(symbol).max(BASE);
        let before = self.hint.replace(symbol).unwrap_or(self.max);
        match self.state {
            PmtuState::Complete if symbol < self.current => self.suspect(now),
            // It was less before: an interface or a route has grown.
            PmtuState::Complete if symbol > before && symbol > self.current => {
                self.search_up(now);
            }
            PmtuState::Searching if self.current < symbol && symbol < self.candidate => {
                self.sent = None;
                self.candidate = symbol;
                self.first = self.first.min(symbol);
                (self.tries, self.next_at) = (0, now);
            }
            PmtuState::Searching if symbol < self.current => self.suspect(now),
            _ => {}
        }
    }

    /// Frames of the size in use stay unanswered: find out whether it is their size.
    pub fn suspect(&mut self, now: Nanos) {
        if matches!(self.state, PmtuState::Complete | PmtuState::Searching) && self.current > BASE {
            self.state = PmtuState::Checking;
            self.candidate = self.current;
            self.sent = None;
            (self.tries, self.backoff, self.next_at) = (0, 0, now);
        }
    }
}

/// How long to wait for the answer to a probe.
fn wait(pto: Nanos) -> Nanos {
    pto.saturating_mul(2).clamp(MIN_WAIT_NS, 10_000_000_000)
}

const fn floor(symbol: u16) -> u16 {
    symbol - symbol % STEP
}
