//! The path's own loss, told apart from loss by congestion.
//!
//! BBRv3 takes a round that loses more than 2 % for congestion. A path that loses 5 % by itself would
//! never be filled then. Loss by congestion comes with a full queue: what is lost while round trips are
//! near the shortest, compared with the longest that probing has shown, is the path's own. Where round
//! trips show no queue (a policer, or hardly any buffer), it is what stays lost while the sender is
//! clearly slower than the path, and then little of it is believed, because others may be the cause.

use super::super::AckSample;
use super::Nanos;

/// BBRv3's loss threshold, here above the path's own loss.
const EXCESS: f64 = 0.02;
/// In startup the path's own is hardly known, and overrunning it at twice its rate loses a lot.
const STARTUP_EXCESS: f64 = 0.1;
/// Frames that an epoch has at least, or losses: what is fewer says little.
const EPOCH_FRAMES: u64 = 200;
const EPOCH_LOSSES: u64 = 20;
/// Losses of an epoch below which nothing is concluded (BBRv3's startup loss count).
const FEW: u64 = 6;
/// Frames of one measurement: at 5 % its standard deviation is a fifth.
const MEASURE_FRAMES: u64 = 500;
/// Share of the queue seen below which a round trip is near the shortest.
const NEAR: u64 = 4;
/// A queue shows in round trips where it lengthens them by this share and time, nanoseconds, which is
/// more than delayed acknowledgements do.
const SHOWS: (u64, Nanos) = (8, 250_000);
/// What is believed of a path whose queue does not show.
const UNSEEN_MAX: f64 = 0.06;
/// Loss below which there is nothing to tell apart.
const LOSSY: f64 = 0.005;
/// The path's own loss is believed up to this: more is congestion, whoever causes it.
const BASE_MAX: f64 = 0.4;
/// Startup's figure is believed up to this: its first epoch may have overrun the path already.
const STARTUP_MAX: f64 = 0.1;
/// It is sent over up to this: a fifth, where BBR's own probing stops growing.
const SENT_OVER_MAX: f64 = 0.2;

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathLoss {
    acked: u64,
    lost: u64,
    /// Smoothed loss of epochs.
    recent: f64,
    /// The path's own loss, smoothed, and its mean deviation.
    quiet: f64,
    deviation: f64,
    /// Loss in the last two spans below the path's rate.
    slow: [f64; 2],
    measuring: (u64, u64),
    measured: bool,
    /// Longest round trip in this probing cycle and the one before, and whether the last one was near
    /// the shortest.
    longest: [Nanos; 2],
    near: bool,
    /// Whether the queue shows in round trips.
    shows: bool,
    /// Startup has no such span: the smallest loss of its epochs.
    startup: Option<f64>,
    in_startup: bool,
}

impl PathLoss {
    pub(super) fn new() -> PathLoss {
        PathLoss {
            acked: 0,
            lost: 0,
            recent: 0.0,
            quiet: 0.0,
            deviation: 0.0,
            slow: [0.0; 2],
            measuring: (0, 0),
            measured: false,
            longest: [0; 2],
            near: false,
            shows: false,
            startup: None,
            in_startup: true,
        }
    }

    /// Loss that does not depend on the rate, 0..=0.4.
    pub(super) fn base(&self) -> f64 {
        let base = if self.in_startup {
            self.startup.unwrap_or(0.0)
        } else if self.shows {
            self.quiet
        } else {
            self.slow[0].min(self.slow[1]).min(UNSEEN_MAX)
        };
        base.min(BASE_MAX)
    }

    /// Share of frames to send on top of what shall arrive.
    pub(super) fn sent_over(&self) -> f64 {
        self.base().min(SENT_OVER_MAX)
    }

    /// Whether it takes a span below the path's rate to measure the path's own loss.
    pub(super) fn wants_slow(&self) -> bool {
        self.recent > LOSSY && !self.shows
    }

    /// A quarter of the longest queue seen, as time: a round trip no more than that above the
    /// shortest is near it.
    pub(super) fn near(&self, min_rtt: Option<Nanos>) -> Nanos {
        let longest = self.longest[0].max(self.longest[1]);
        longest.saturating_sub(min_rtt.unwrap_or(0)) / NEAR
    }

    /// A probing cycle begins: what the last but one showed is forgotten.
    pub(super) fn new_cycle(&mut self) {
        self.longest = [0, self.longest[0]];
    }

    /// Startup is over: its figure stands until a better one is measured.
    pub(super) fn end_startup(&mut self) {
        self.quiet = self.base();
        self.slow = [self.quiet; 2];
        self.in_startup = false;
    }

    /// What is counted from now on is of another phase.
    pub(super) fn restart(&mut self) {
        (self.acked, self.lost) = (0, 0);
    }

    /// Counts an acknowledgement; `slow` says that the sender is, and was a round trip ago, clearly
    /// slower than the path. Gives whether an epoch ended with congestion.
    pub(super) fn update(
        &mut self,
        s: &AckSample,
        round_start: bool,
        slow: bool,
        min_rtt: Option<Nanos>,
    ) -> bool {
        self.acked += s.acked_frames;
        self.lost += s.lost_frames;
        self.measure(s, slow, min_rtt);
        let all = self.acked + self.lost;
        let enough = all >= EPOCH_FRAMES || self.lost >= EPOCH_LOSSES;
        if !round_start || !enough {
            return false;
        }
        let rate = self.lost as f64 / all as f64;
        let base = self.base();
        let q = base.max(rate).min(0.5);
        let noise = (q * (1.0 - q) / all as f64).sqrt();
        let excess = if self.in_startup {
            STARTUP_EXCESS
        } else {
            EXCESS
        };
        let limit = base * 1.25 + excess + 3.0 * noise.max(self.deviation);
        // The first epoch of all has nothing to be compared with.
        let first = self.in_startup && self.startup.is_none();
        let congested = rate > limit && self.lost >= FEW && !first;
        self.recent += (rate - self.recent) / 4.0;
        if self.in_startup {
            let before = self.startup.unwrap_or(STARTUP_MAX);
            self.startup = Some(before.min(rate));
        }
        self.restart();
        congested
    }

    fn measure(&mut self, s: &AckSample, slow: bool, min_rtt: Option<Nanos>) {
        let min = min_rtt.unwrap_or(0);
        let mut now_near = self.near;
        if let Some(rtt) = s.rtt {
            self.longest[0] = self.longest[0].max(rtt);
            let queue = self.longest[0].max(self.longest[1]).saturating_sub(min);
            let shows = queue > min / SHOWS.0 + SHOWS.1;
            if shows != self.shows {
                self.measuring = (0, 0);
                self.shows = shows;
            }
            now_near = rtt <= min + queue / NEAR;
        }
        // A loss is told a little after it happened: the round trips on both sides count.
        let quiet = if self.shows {
            self.near && now_near
        } else {
            slow
        };
        self.near = now_near;
        if !quiet {
            if !self.shows {
                self.measuring = (0, 0);
            }
            return;
        }
        let (acked, lost) = &mut self.measuring;
        *acked += s.acked_frames;
        *lost += s.lost_frames;
        let all = *acked + *lost;
        if all < MEASURE_FRAMES {
            return;
        }
        let rate = *lost as f64 / all as f64;
        self.measuring = (0, 0);
        self.measured = true;
        if self.shows {
            self.deviation += ((rate - self.quiet).abs() - self.deviation) / 8.0;
            self.quiet += (rate - self.quiet) / 4.0;
        } else {
            self.slow = [rate, self.slow[0]];
        }
    }

    /// Whether a measurement was finished since this was last asked.
    pub(super) fn take_measured(&mut self) -> bool {
        std::mem::take(&mut self.measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Option<Nanos> = Some(20_000_000);

    /// Rounds of frames some of which are lost, at a round trip in milliseconds.
    fn feed(l: &mut PathLoss, rounds: u64, lost: u64, rtt: u64, slow: bool) -> bool {
        let mut congested = false;
        for _ in 0..rounds {
            let s = AckSample {
                acked_frames: 1000 - lost,
                lost_frames: lost,
                rtt: Some(rtt * 1_000_000),
                ..AckSample::default()
            };
            congested |= l.update(&s, true, slow, MIN);
        }
        congested
    }

    #[test]
    fn loss_without_a_queue_is_the_paths_and_loss_with_one_is_not() {
        let mut l = PathLoss::new();
        l.end_startup();
        assert!(!feed(&mut l, 5, 10, 20, false), "1 % is never congestion");
        assert!(feed(&mut l, 1, 100, 30, false));
        feed(&mut l, 20, 50, 20, false);
        assert!((0.04..0.06).contains(&l.base()), "{}", l.base());
        assert!(!feed(&mut l, 5, 50, 20, false));
        assert!(feed(&mut l, 1, 300, 30, false));
        // However long it goes on.
        feed(&mut l, 100, 300, 30, false);
        assert!((0.04..0.06).contains(&l.base()), "{}", l.base());
        assert!(feed(&mut l, 1, 300, 30, false));
        // It is gone again when it is.
        feed(&mut l, 30, 0, 20, false);
        assert!(l.base() < 0.001);
    }

    #[test]
    fn where_no_queue_shows_only_slow_spans_count_and_little_is_believed() {
        let mut l = PathLoss::new();
        l.end_startup();
        feed(&mut l, 20, 300, 20, false);
        assert_eq!(l.base(), 0.0);
        assert!(l.wants_slow());
        feed(&mut l, 20, 300, 20, true);
        assert_eq!(l.base(), UNSEEN_MAX);
        feed(&mut l, 2, 30, 20, true);
        assert!((0.02..0.04).contains(&l.base()), "{}", l.base());
    }

    #[test]
    fn startup_takes_its_smallest_loss_for_the_paths() {
        let mut l = PathLoss::new();
        assert!(!feed(&mut l, 4, 50, 20, false));
        assert!(feed(&mut l, 1, 400, 30, false));
        l.end_startup();
        assert!(l.base() <= 0.05);
    }
}
