//! Congestion control: how many bytes may be in flight, and how fast they may leave.
//!
//! The default is a model of the path, BBRv3; CUBIC is there for comparison, `fixed:<rate>` for owned
//! links. One controller serves a path, whatever the number of lanes ([`super::path`]).

mod bbr;
mod cubic;
mod fixed;

pub use bbr::Bbr;
pub use cubic::Cubic;
pub use fixed::Fixed;

use crate::base::Nanos;

/// What one acknowledgement says of the path. Bytes are whole frames, header and tag included.
#[derive(Clone, Copy, Debug, Default)]
pub struct AckSample {
    /// When the acknowledgement arrived.
    pub now: Nanos,
    /// Bytes delivered since the path was made.
    pub delivered: u64,
    /// Bytes that were delivered when the newest acknowledged frame was sent.
    pub prior_delivered: u64,
    /// Newly delivered bytes.
    pub acked_bytes: u64,
    /// Newly delivered frames.
    pub acked_frames: u64,
    /// Frames newly known lost.
    pub lost_frames: u64,
    /// Frames newly reported with the CE mark.
    pub ce_frames: u64,
    /// Round-trip sample, nanoseconds.
    pub rtt: Option<Nanos>,
    /// Delivery rate, bytes per second.
    pub rate: Option<u64>,
    /// The sender, not the path, limited that rate.
    pub app_limited: bool,
    /// Bytes in flight before this acknowledgement.
    pub prior_in_flight: u64,
    /// Bytes in flight after it.
    pub in_flight: u64,
}

/// A congestion controller.
pub trait Controller {
    /// Takes an acknowledgement.
    fn on_ack(&mut self, s: &AckSample);
    /// A probe timeout fired for the `count`-th time without an answer.
    fn on_pto(&mut self, count: u32);
    /// Nothing is in flight and sending starts again at `now`.
    fn on_idle_restart(&mut self, now: Nanos);
    /// Most bytes that may be in flight.
    fn cwnd(&self) -> u64;
    /// Bytes per second.
    fn pacing_rate(&self) -> u64;
    /// For status output.
    fn name(&self) -> &'static str;
}

/// Which controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CcKind {
    /// Model of the path, BBRv3.
    #[default]
    Bbr,
    /// Loss-based, for comparison.
    Cubic,
    /// Constant rate in bytes per second, for links that nobody else uses.
    Fixed(u64),
}

impl CcKind {
    /// Reads `bbr`, `cubic` or `fixed:<rate>`, the rate with a decimal unit: `10gbit`, `900mbit`, `1.2GB`,
    /// `500MB`, or plain bytes per second.
    pub fn parse(text: &str) -> Option<CcKind> {
        match text {
            "bbr" => Some(CcKind::Bbr),
            "cubic" => Some(CcKind::Cubic),
            _ => parse_rate(text.strip_prefix("fixed:")?).map(CcKind::Fixed),
        }
    }
}

/// Reads a rate with a decimal unit into bytes per second; `None` where it is not one, is zero or
/// exceeds 1 TB/s.
pub fn parse_rate(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 9] = [
        ("kbit", 1e3 / 8.0),
        ("mbit", 1e6 / 8.0),
        ("gbit", 1e9 / 8.0),
        ("bit", 1.0 / 8.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("B", 1.0),
        ("", 1.0),
    ];
    let (unit, scale) = UNITS.iter().find(|(u, _)| text.ends_with(u))?;
    let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    let rate = number * scale;
    (rate.is_finite() && (1.0..=1e12).contains(&rate)).then_some(rate as u64)
}

/// How a path's controller starts.
#[derive(Clone, Copy, Debug)]
pub struct CcConfig {
    /// Which controller.
    pub kind: CcKind,
    /// Never faster than this, bytes per second.
    pub max_rate: Option<u64>,
    /// Frame length in bytes at the negotiated symbol length.
    pub frame: u64,
    /// Expected round trip before the first sample (the handshake's), nanoseconds.
    pub initial_rtt: Nanos,
    /// Desynchronises the probing of sessions that share a bottleneck.
    pub seed: u64,
}

/// A controller chosen by configuration, without dynamic dispatch, and the cap on its rate.
#[derive(Debug)]
pub struct Cc {
    model: Model,
    max_rate: u64,
}

// One of each per path, made at construction: the size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Model {
    Bbr(Bbr),
    Cubic(Cubic),
    Fixed(Fixed),
}

impl Cc {
    /// The controller that `cfg` asks for.
    pub fn new(cfg: &CcConfig) -> Cc {
        Cc {
            model: match cfg.kind {
                CcKind::Bbr => Model::Bbr(Bbr::new(cfg)),
                CcKind::Cubic => Model::Cubic(Cubic::new(cfg)),
                CcKind::Fixed(rate) => Model::Fixed(Fixed::new(rate, cfg.initial_rtt)),
            },
            max_rate: cfg.max_rate.unwrap_or(u64::MAX).max(1),
        }
    }
}

macro_rules! each {
    ($self:ident, $m:ident => $e:expr) => {
        match &$self.model {
            Model::Bbr($m) => $e,
            Model::Cubic($m) => $e,
            Model::Fixed($m) => $e,
        }
    };
    (mut $self:ident, $m:ident => $e:expr) => {
        match &mut $self.model {
            Model::Bbr($m) => $e,
            Model::Cubic($m) => $e,
            Model::Fixed($m) => $e,
        }
    };
}

impl Controller for Cc {
    fn on_ack(&mut self, s: &AckSample) {
        each!(mut self, m => m.on_ack(s))
    }
    fn on_pto(&mut self, count: u32) {
        each!(mut self, m => m.on_pto(count))
    }
    fn on_idle_restart(&mut self, now: Nanos) {
        each!(mut self, m => m.on_idle_restart(now))
    }
    fn cwnd(&self) -> u64 {
        each!(self, m => m.cwnd())
    }
    fn pacing_rate(&self) -> u64 {
        each!(self, m => m.pacing_rate()).min(self.max_rate)
    }
    fn name(&self) -> &'static str {
        each!(self, m => m.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_parse() {
        assert_eq!(CcKind::parse("bbr"), Some(CcKind::Bbr));
        let fixed = |t: &str| CcKind::parse(&format!("fixed:{t}"));
        assert_eq!(fixed("10gbit"), Some(CcKind::Fixed(1_250_000_000)));
        assert_eq!(fixed("1.2GB"), Some(CcKind::Fixed(1_200_000_000)));
        assert_eq!(fixed("8bit"), Some(CcKind::Fixed(1)));
        assert_eq!(fixed("500"), Some(CcKind::Fixed(500)));
        for bad in ["", "0", "-1", "nan", "inf", "1e300", "10 parsecs", "GB"] {
            assert_eq!(fixed(bad), None, "{bad}");
        }
        assert_eq!(CcKind::parse("cubic"), Some(CcKind::Cubic));
        assert_eq!(CcKind::parse("reno"), None);
    }
}
