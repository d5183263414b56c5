//! The shipped protocol core over a path of any rate, length and quality, in virtual time.
//!
//! [`run`] drives [`ctp96::proto::LaneTx`] and [`ctp96::proto::LaneRx`], the replay window and the
//! congestion controller that a daemon runs, lane by lane; only payload, ciphers and sockets are
//! left out, so that a path of 200 Gb/s costs well under a microsecond a frame. Nothing reads a
//! clock: the same [`Scenario`] gives the same [`Report`] on every machine.
//!
//! Hosts act in steps of [`Scenario::step`], as a lane core does that takes what has come in since
//! its last round. The bottleneck is a queue that drains at [`Path::rate`]; loss lies behind it, so
//! that lost frames have used the link: the bound of every row is `rate x (1 - loss)`.

mod host;
mod link;
mod report;
mod run;

pub use report::{Percentiles, Report, SessionReport, jain};
pub use run::run;

use ctp96::base::Nanos;
use ctp96::base::limits::{FRAME_OVERHEAD, symbol_len_for_mtu};
use ctp96::proto::{CcKind, RepairAhead};

/// A millisecond.
pub const MS: Nanos = 1_000_000;
/// A second.
pub const SEC: Nanos = 1_000_000_000;
/// IPv4 and UDP headers, which the link carries with each frame, bytes.
pub const HEADERS: u64 = 28;
/// Data symbols of a full slot.
pub const FULL: u8 = 64;

/// How frames die between the bottleneck and the receiver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// They do not.
    None,
    /// Each by itself, with this chance.
    Random(f64),
    /// Gilbert-Elliott: a burst begins with chance `start` per frame, ends with chance `end` after
    /// each lost one, and everything in it is lost.
    Bursts {
        /// Chance that a burst begins.
        start: f64,
        /// Chance that it ends.
        end: f64,
    },
}

impl Loss {
    /// Bursts of `mean` frames that lose `share` of all frames.
    pub fn bursts(share: f64, mean: f64) -> Loss {
        let end = 1.0 / mean;
        Loss::Bursts {
            start: end * share / (1.0 - share),
            end,
        }
    }

    /// Share of frames lost in the long run.
    pub fn share(self) -> f64 {
        match self {
            Loss::None => 0.0,
            Loss::Random(p) => p,
            Loss::Bursts { start, end } => start / (start + end),
        }
    }
}

/// What holds the path to its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shaper {
    /// A queue of so many bytes; what does not fit is dropped.
    TailDrop(u64),
    /// A token bucket of so many bytes and no queue: what finds no token is dropped.
    Policer(u64),
}

/// A path; probabilities are per frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// From when on the bottleneck has which rate, bytes per second with headers; the first is
    /// from 0.
    pub rate: Vec<(Nanos, u64)>,
    /// Round trip without queue, nanoseconds.
    pub rtt: Nanos,
    /// Queue or policer.
    pub shaper: Shaper,
    /// Bytes in the queue from which on frames are marked CE; 0 for never.
    pub mark: u64,
    /// Loss of data frames.
    pub loss: Loss,
    /// Chance that an acknowledgement is lost.
    pub ack_loss: f64,
    /// Chance that a frame (either way) is late.
    pub reorder: f64,
    /// How late at most, nanoseconds.
    pub reorder_by: Nanos,
    /// Chance that a frame arrives twice.
    pub duplicate: f64,
    /// Chance that a frame arrives damaged: its tag does not verify, so it is dropped.
    pub corrupt: f64,
    /// Nothing passes, either way, between these times.
    pub blackhole: Option<(Nanos, Nanos)>,
}

impl Path {
    /// A path without faults with a queue of two bandwidth-delay products and 512 KiB.
    pub fn new(bits_per_s: f64, rtt: Nanos) -> Path {
        let rate = (bits_per_s / 8.0) as u64;
        let bdp = (rate as f64 * rtt as f64 / 1e9) as u64;
        Path {
            rate: vec![(0, rate)],
            rtt,
            shaper: Shaper::TailDrop(2 * bdp + (512 << 10)),
            mark: 0,
            loss: Loss::None,
            ack_loss: 0.0,
            reorder: 0.0,
            reorder_by: 0,
            duplicate: 0.0,
            corrupt: 0.0,
            blackhole: None,
        }
    }

    /// Bandwidth-delay product at the first rate, bytes.
    pub fn bdp(&self) -> u64 {
        (self.rate[0].1 as f64 * self.rtt as f64 / 1e9) as u64
    }

    /// Bytes that the bottleneck can carry between two times, outside of the blackhole.
    pub fn capacity(&self, from: Nanos, to: Nanos) -> f64 {
        let whole = self.integral(from, to);
        match self.blackhole {
            Some((a, b)) if a < to && b > from => whole - self.integral(a.max(from), b.min(to)),
            _ => whole,
        }
    }

    fn integral(&self, from: Nanos, to: Nanos) -> f64 {
        let mut sum = 0.0;
        for (i, &(at, rate)) in self.rate.iter().enumerate() {
            let end = self.rate.get(i + 1).map_or(to, |n| n.0.min(to));
            sum += end.saturating_sub(at.max(from)) as f64 * rate as f64 / 1e9;
        }
        sum
    }
}

/// What a lane's application does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Fills the window with full slots for ever.
    Bulk,
    /// A message of one symbol every `every` nanoseconds.
    Messages {
        /// Nanoseconds between two messages.
        every: Nanos,
        /// Bytes of each, a multiple of 64 up to a full symbol.
        len: u16,
    },
}

/// Lanes that share a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// One application for each lane.
    pub lanes: Vec<App>,
    /// Weight of each lane; 1 where none is given.
    pub weights: Vec<u32>,
    /// When it begins.
    pub start: Nanos,
    /// Congestion control.
    pub cc: CcKind,
}

impl Session {
    /// `lanes` bulk lanes from the start with the default controller.
    pub fn bulk(lanes: usize) -> Session {
        Session {
            lanes: vec![App::Bulk; lanes],
            weights: Vec::new(),
            start: 0,
            cc: CcKind::Bbr,
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Seed of everything that happens by chance.
    pub seed: u64,
    /// The path that all sessions share.
    pub path: Path,
    /// Path MTU, bytes.
    pub mtu: usize,
    /// Senders.
    pub sessions: Vec<Session>,
    /// Repair symbols sent ahead.
    pub repair_ahead: RepairAhead,
    /// Bytes that the receiver's socket holds for each lane.
    pub inflight_limit: u32,
    /// Figures are taken from here on, nanoseconds.
    pub warm: Nanos,
    /// End of the run, nanoseconds.
    pub end: Nanos,
    /// Hosts act at multiples of this, nanoseconds.
    pub step: Nanos,
    /// How much faster the receiver's clock runs than the sender's, parts per million.
    pub skew_ppm: i64,
}

impl Scenario {
    /// One session of as many bulk lanes as the path needs, see [`lanes_for`].
    pub fn new(seed: u64, path: Path, mtu: usize) -> Scenario {
        let lanes = lanes_for(&path, mtu);
        // A round of a busy core takes microseconds; on long paths coarser rounds change nothing
        // and save simulation time.
        let step = (path.rtt / 1000).clamp(1_000, 20_000);
        let warm = (30 * path.rtt).max(50 * MS);
        // Slower paths get longer runs for the same number of frames.
        let rtts = if path.rate[0].1 > 2_000_000_000 {
            20
        } else {
            60
        };
        Scenario {
            seed,
            warm,
            end: warm + (rtts * path.rtt).max(100 * MS),
            path,
            mtu,
            sessions: vec![Session::bulk(lanes)],
            repair_ahead: RepairAhead::Adaptive,
            inflight_limit: u32::MAX,
            step,
            skew_ppm: 0,
        }
    }

    /// Bytes of a symbol.
    pub fn symbol_len(&self) -> u16 {
        symbol_len_for_mtu(self.mtu) as u16
    }

    /// Bytes that a full frame takes on the wire, headers included.
    pub fn wire_frame(&self) -> u64 {
        u64::from(self.symbol_len()) + FRAME_OVERHEAD as u64 + HEADERS
    }
}

/// Lanes whose windows hold three bandwidth-delay products: a slot that lost a symbol takes a second
/// round trip, one whose repair is lost a third, and the window waits for it.
pub fn lanes_for(path: &Path, mtu: usize) -> usize {
    let lane = 96 * u64::from(FULL) * symbol_len_for_mtu(mtu) as u64;
    let most = path.rate.iter().map(|r| r.1).max().unwrap_or(0);
    let bdp = (most as f64 * path.rtt as f64 / 1e9) as u64;
    (3 * bdp).div_ceil(lane).clamp(1, 128) as usize
}

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Draws nothing where `p` is 0, so that a fault that is off costs no time.
    pub(crate) fn chance(&mut self, p: f64) -> bool {
        p > 0.0 && self.unit() < p
    }
}
