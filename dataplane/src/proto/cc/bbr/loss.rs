//! The path's own loss, told apart from loss by congestion.
//!
//! BBRv3 takes a round that loses more than 2 % for congestion. A path that loses 5 % by itself would
//! never be filled then. What tells the two apart is that loss by congestion goes away when the
//! sender is slower than the path, and the path's own does not: it is measured while that is so.

use super::super::AckSample;

/// BBRv3's loss threshold, here above the path's own loss.
const EXCESS: f64 = 0.02;
/// Frames that an epoch has at least, or losses: what is fewer says little.
const EPOCH_FRAMES: u64 = 200;
const EPOCH_LOSSES: u64 = 20;
/// Losses of an epoch below which nothing is concluded (BBRv3's startup loss count).
const FEW: u64 = 6;
/// Frames over which the path's own loss is measured at least: its standard deviation is a fifth
/// of it at 5 %.
pub(super) const MEASURE_FRAMES: u64 = 500;
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
    /// Smoothed loss of epochs, and its mean deviation.
    recent: f64,
    deviation: f64,
    /// Loss in the last two spans below the path's rate.
    base: [f64; 2],
    measuring: Option<(u64, u64)>,
    measured: bool,
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
            deviation: 0.0,
            base: [0.0; 2],
            measuring: None,
            measured: false,
            startup: None,
            in_startup: true,
        }
    }

    /// Loss that does not depend on the rate, 0..=0.4.
    pub(super) fn base(&self) -> f64 {
        let base = if self.in_startup {
            self.startup.unwrap_or(0.0)
        } else {
            self.base[0].min(self.base[1])
        };
        base.min(BASE_MAX)
    }

    /// Share of frames to send on top of what shall arrive.
    pub(super) fn sent_over(&self) -> f64 {
        self.base().min(SENT_OVER_MAX)
    }

    #[cfg(ccdbg)]
    pub(super) fn recent(&self) -> f64 {
        self.recent
    }

    /// Whether the path loses enough to be worth measuring.
    pub(super) fn lossy(&self) -> bool {
        self.recent > LOSSY
    }

    /// Startup is over: its figure stands until a better one is measured.
    pub(super) fn end_startup(&mut self) {
        self.base = [self.base(); 2];
        self.in_startup = false;
    }

    /// What is counted from now on is of another phase.
    pub(super) fn restart(&mut self) {
        (self.acked, self.lost) = (0, 0);
    }

    /// Counts an acknowledgement; `slow` says that the sender is, and was a round trip ago, clearly
    /// slower than the path. Gives whether an epoch ended with congestion.
    pub(super) fn update(&mut self, s: &AckSample, round_start: bool, slow: bool) -> bool {
        self.acked += s.acked_frames;
        self.lost += s.lost_frames;
        self.measure(s, slow);
        let all = self.acked + self.lost;
        let enough = all >= EPOCH_FRAMES || self.lost >= EPOCH_LOSSES;
        if !round_start || !enough {
            return false;
        }
        let rate = self.lost as f64 / all as f64;
        let base = self.base();
        let q = base.max(rate).min(0.5);
        let noise = (q * (1.0 - q) / all as f64).sqrt();
        let limit = base * 1.25 + EXCESS + 3.0 * noise.max(self.deviation);
        // The first epoch of all has nothing to be compared with.
        let first = self.in_startup && self.startup.is_none();
        let congested = rate > limit && self.lost >= FEW && !first;
        self.recent += (rate - self.recent) / 4.0;
        let off = (rate - base).abs().min(2.0 * limit);
        self.deviation += (off - self.deviation) / 8.0;
        if self.in_startup {
            let before = self.startup.unwrap_or(STARTUP_MAX);
            self.startup = Some(before.min(rate));
        }
        self.restart();
        congested
    }

    fn measure(&mut self, s: &AckSample, slow: bool) {
        if !slow {
            self.measuring = None;
            return;
        }
        let (acked, lost) = self.measuring.get_or_insert((0, 0));
        *acked += s.acked_frames;
        *lost += s.lost_frames;
        let all = *acked + *lost;
        if all >= MEASURE_FRAMES {
            let rate = *lost as f64 / all as f64;
            self.base = [rate, self.base[0]];
            self.measuring = Some((0, 0));
            self.measured = true;
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

    fn feed(l: &mut PathLoss, rounds: u64, frames: u64, lost: u64, slow: bool) -> bool {
        let mut congested = false;
        for _ in 0..rounds {
            let s = AckSample {
                acked_frames: frames - lost,
                lost_frames: lost,
                ..AckSample::default()
            };
            congested |= l.update(&s, true, slow);
        }
        congested
    }

    #[test]
    fn loss_that_stays_below_the_paths_rate_is_the_paths() {
        let mut l = PathLoss::new();
        l.end_startup();
        assert!(!feed(&mut l, 5, 1000, 10, false), "1 % is never congestion");
        assert!(feed(&mut l, 1, 1000, 100, false));
        feed(&mut l, 3, 1000, 50, true);
        assert!((0.04..0.06).contains(&l.base()), "{}", l.base());
        assert!(!feed(&mut l, 5, 1000, 50, false));
        assert!(feed(&mut l, 1, 1000, 300, false));
        // It is gone again when it is.
        feed(&mut l, 3, 1000, 0, true);
        assert_eq!(l.base(), 0.0);
    }

    #[test]
    fn startup_takes_its_smallest_loss_for_the_paths() {
        let mut l = PathLoss::new();
        assert!(!feed(&mut l, 4, 1000, 50, false));
        assert!(feed(&mut l, 1, 1000, 400, false));
        l.end_startup();
        assert!(l.base() <= 0.05);
    }
}
