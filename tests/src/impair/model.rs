//! What a path does to a frame: pure arithmetic, time is an argument.
//!
//! ```text
//!  arrives -> queue (bytes, tail drop, CE above a threshold) -> rate -> loss -> delay -> leaves
//! ```
//!
//! The link is a fluid queue: the bytes that wait are those that the rate has not yet carried away,
//! so nothing has to happen between two arrivals. Loss lies behind the rate, as on a bad cable: a
//! frame that is lost has used its share, and the most that a transport can get is
//! `rate x (1 - loss)`.

use ctp96::backend::sim::Rng;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Length of an Ethernet header, bytes.
pub const ETHERNET: u64 = 14;
/// Picoseconds in a second: at 100 Gb/s a nanosecond is twelve bytes.
const PS: u128 = 1_000_000_000_000;

/// How frames are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// Not at all.
    #[default]
    None,
    /// Each by itself with this probability, 0 to 1.
    Random(f64),
    /// In bursts: the model of Gilbert (1960) and Elliott (1963), a chain of two states that moves
    /// once a frame.
    Bursts {
        /// Chance to go from the good state to the bad one, 0 to 1.
        start: f64,
        /// Chance to go back, above 0 to 1; the mean length of a bad stretch is its inverse.
        end: f64,
        /// Chance of loss in the bad state, 0 to 1.
        bad: f64,
        /// Chance of loss in the good state, 0 to 1.
        good: f64,
    },
}

impl Loss {
    /// Bursts of `length` frames on average, all of them lost, which make up `share` of all frames.
    /// A length of 1 or less, or no loss at all, gives independent losses.
    pub fn bursts(share: f64, length: f64) -> Loss {
        if share <= 0.0 {
            return Loss::None;
        }
        if length <= 1.0 {
            return Loss::Random(share);
        }
        let end = 1.0 / length;
        Loss::Bursts {
            start: (end * share / (1.0 - share)).min(1.0),
            end,
            bad: 1.0,
            good: 0.0,
        }
    }

    /// Share of frames that are lost in the long run, 0 to 1.
    pub fn mean(&self) -> f64 {
        match *self {
            Loss::None => 0.0,
            Loss::Random(p) => p,
            Loss::Bursts {
                start,
                end,
                bad,
                good,
            } => (start * bad + end * good) / (start + end),
        }
    }

    fn check(&self) -> Result<(), String> {
        let parts = match *self {
            Loss::None => vec![],
            Loss::Random(p) => vec![p],
            Loss::Bursts {
                start,
                end,
                bad,
                good,
            } => vec![start, end, bad, good],
        };
        match parts.iter().find(|p| !(0.0..=1.0).contains(*p)) {
            Some(p) => Err(format!("a loss of {p} is not a probability")),
            None if matches!(*self, Loss::Bursts { end, .. } if end <= 0.0) => {
                Err("a burst of losses that never ends".to_owned())
            }
            None => Ok(()),
        }
    }
}

/// One direction of a path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// Bits a second, Ethernet headers included (14 bytes a frame; no preamble, check sum or gap);
    /// 0 for no limit.
    pub rate: u64,
    /// Bytes that may wait for the rate, the frame on the wire included; what does not fit is
    /// dropped at the tail. Means nothing without a rate.
    pub queue: u64,
    /// One-way delay after the last bit has left.
    pub delay: Duration,
    /// Loss behind the rate.
    pub loss: Loss,
    /// ECN-capable packets that find this many bytes waiting are marked CE (RFC 3168); 0 for never.
    pub mark: u64,
    /// Chance that a frame arrives twice, 0 to 1.
    pub duplicate: f64,
    /// Chance that a frame is held back by `reorder_by`, 0 to 1.
    pub reorder: f64,
    /// How long it is held back.
    pub reorder_by: Duration,
}

impl Default for Path {
    fn default() -> Path {
        Path {
            rate: 0,
            queue: 256 << 10,
            delay: Duration::ZERO,
            loss: Loss::None,
            mark: 0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::ZERO,
        }
    }
}

impl Path {
    /// Says what is wrong with the figures for frames of `mtu`.
    ///
    /// # Errors
    /// A probability outside 0..=1, or a queue that no full frame fits.
    pub fn check(&self, mtu: u32) -> Result<(), String> {
        self.loss.check()?;
        for (name, p) in [("duplicate", self.duplicate), ("reorder", self.reorder)] {
            if !(0.0..=1.0).contains(&p) {
                return Err(format!("{name}: {p} is not a probability"));
            }
        }
        let frame = u64::from(mtu) + ETHERNET;
        if self.rate > 0 && self.queue < frame {
            return Err(format!(
                "a queue of {} bytes does not hold one frame of {frame}",
                self.queue
            ));
        }
        Ok(())
    }

    /// Bytes on the way at most: a full queue, and what is delayed behind it. Unknown without a
    /// rate.
    pub fn most_bytes(&self) -> Option<u64> {
        if self.rate == 0 {
            return None;
        }
        let held = if self.reorder > 0.0 {
            self.reorder_by
        } else {
            Duration::ZERO
        };
        let away = (self.delay + held).as_nanos() * u128::from(self.rate) / 8_000_000_000;
        Some(self.queue + away as u64)
    }
}

/// Why a frame does not come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The queue was full.
    Queue,
    /// The path lost it.
    Loss,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It does not come out.
    Dropped(Cause),
    /// It comes out.
    Passes {
        /// When, nanoseconds on the caller's clock.
        due: u64,
        /// Whether it is to be marked CE, if it is ECN-capable.
        mark: bool,
        /// Whether it comes out twice.
        twice: bool,
        /// Whether it was held back.
        late: bool,
    },
}

/// One direction with its memory.
#[derive(Debug)]
pub struct Direction {
    path: Path,
    rng: Rng,
    /// When the last bit queued so far has left, picoseconds.
    busy_until: u128,
    in_burst: bool,
    last_arrival: u64,
    queue_high: u64,
}

impl Direction {
    /// A direction without traffic; `seed` alone decides about its chances.
    pub fn new(path: Path, seed: u64) -> Direction {
        Direction {
            path,
            rng: Rng::new(seed),
            busy_until: 0,
            in_burst: false,
            last_arrival: 0,
            queue_high: 0,
        }
    }

    /// Most bytes that have waited for the rate.
    pub fn queue_high(&self) -> u64 {
        self.queue_high
    }

    /// Decides about a frame of `len` bytes that arrives at `now` nanoseconds. Times that run
    /// backwards count as the latest before.
    pub fn judge(&mut self, now: u64, len: usize) -> Fate {
        let now = now.max(self.last_arrival);
        self.last_arrival = now;
        let (mut due, mut mark) = (now, false);
        if self.path.rate > 0 {
            let (rate, len) = (u128::from(self.path.rate), len as u128);
            let at = u128::from(now) * 1000;
            let start = self.busy_until.max(at);
            // Both are bounded by queue / rate, far below the range of the product.
            let waiting = ((start - at) * rate / (8 * PS)) as u64 + len as u64;
            if waiting > self.path.queue {
                return Fate::Dropped(Cause::Queue);
            }
            self.queue_high = self.queue_high.max(waiting);
            mark = self.path.mark > 0 && waiting > self.path.mark;
            self.busy_until = start + len * 8 * PS / rate;
            due = self.busy_until.div_ceil(1000) as u64;
        }
        if self.lost() {
            return Fate::Dropped(Cause::Loss);
        }
        due += self.path.delay.as_nanos() as u64;
        let late = self.rng.chance(self.path.reorder);
        if late {
            due += self.path.reorder_by.as_nanos() as u64;
        }
        let twice = self.rng.chance(self.path.duplicate);
        Fate::Passes {
            due,
            mark,
            twice,
            late,
        }
    }

    /// When a frame that arrives at `now` comes out that is only delayed, nanoseconds. For address
    /// resolution: a loss there would test the kernel's one-second timers and not the transport.
    pub fn delay_only(&self, now: u64) -> u64 {
        now.max(self.last_arrival) + self.path.delay.as_nanos() as u64
    }

    fn lost(&mut self) -> bool {
        match self.path.loss {
            Loss::None => false,
            Loss::Random(p) => self.rng.chance(p),
            Loss::Bursts {
                start,
                end,
                bad,
                good,
            } => {
                let turns = if self.in_burst { end } else { start };
                if self.rng.chance(turns) {
                    self.in_burst = !self.in_burst;
                }
                self.rng.chance(if self.in_burst { bad } else { good })
            }
        }
    }
}

/// Where the fields of an Ethernet frame lie.
const ETHERTYPE: usize = 12;
const IP: usize = ETHERNET as usize;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Whether a frame is of the kind that hosts send by themselves, at times of their own: ARP, IPv6
/// neighbour discovery, group membership (IGMP, and MLD behind its hop-by-hop options).
pub fn is_control(frame: &[u8]) -> bool {
    let at = |i: usize| frame.get(IP + i).copied();
    match frame.get(ETHERTYPE..IP) {
        Some(kind) if kind == ARP => true,
        Some(kind) if kind == IPV4 => at(9) == Some(2),
        // Next header ICMPv6 with types 133 to 137; or options of eight bytes before it.
        Some(kind) if kind == IPV6 => match at(6) {
            Some(58) => at(40).is_some_and(|t| (133..=137).contains(&t)),
            Some(0) => at(40) == Some(58) && at(41) == Some(0),
            _ => false,
        },
        _ => false,
    }
}

/// Marks an ECN-capable IPv4 or IPv6 packet in `frame` as CE; false if it is not ECN-capable. One
/// that is marked already counts as marked.
pub fn mark_ce(frame: &mut [u8]) -> bool {
    match frame.get(ETHERTYPE..IP) {
        Some(kind) if kind == IPV4 && frame.len() >= IP + 20 => {
            let old = u16::from_be_bytes([frame[IP], frame[IP + 1]]);
            if old & 3 == 0 {
                return false;
            }
            let new = old | 3;
            frame[IP + 1] = new as u8;
            // RFC 1624, equation 3: HC' = ~(~HC + ~m + m').
            let sum = u16::from_be_bytes([frame[IP + 10], frame[IP + 11]]);
            let wide = u32::from(!sum) + u32::from(!old) + u32::from(new);
            let wide = (wide & 0xffff) + (wide >> 16);
            let wide = (wide & 0xffff) + (wide >> 16);
            frame[IP + 10..IP + 12].copy_from_slice(&(!(wide as u16)).to_be_bytes());
            true
        }
        Some(kind) if kind == IPV6 && frame.len() >= IP + 40 => {
            // Traffic class: the low half of the first byte and the high half of the second.
            if frame[IP + 1] & 0x30 == 0 {
                return false;
            }
            frame[IP + 1] |= 0x30;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
