//! Runs of one case, again and again: how much to move, on which CPUs, and what each run tells.

use super::cpu;
use super::runner::{Figures, Outcome};
use crate::baseline::udp;
use crate::contender::{Contender, Sample, Task};
use crate::ctp::Setup;
use crate::load::Load;
use crate::peer::{self, SideReport, Stack};
use crate::pipe;
use crate::site::Site;
use ctp96::base::limits::{FRAME_OVERHEAD, symbol_len_for_mtu};
use ctp96::crypto::{Provider, calibrate};
use ctp96::verify::Level;
use std::rc::Rc;
use std::time::Duration;

/// Bytes that an application hands over at a time.
const CHUNK: usize = 256 << 10;
/// Bytes of the first, unmeasured run of a case.
const PROBE: u64 = 48 << 20;
/// Bytes of a run at most.
const MOST: u64 = 64 << 30;

/// What the runs of a suite share.
#[derive(Clone, Copy)]
pub struct Bed {
    /// CPU of the sender.
    pub sender_core: usize,
    /// CPU of the receiver.
    pub receiver_core: usize,
    /// Length that a run aims at, seconds.
    pub seconds: f64,
}

/// A run's size: what a warm-up did a second, times the length that is aimed at.
struct Size {
    bytes: u64,
    seconds: f64,
}

impl Size {
    fn new(seconds: f64) -> Size {
        Size {
            bytes: PROBE,
            seconds,
        }
    }

    fn learn(&mut self, sample: &Sample) {
        let bytes = sample.bytes as f64 / sample.wall_s.max(1e-9) * self.seconds;
        self.bytes = (bytes as u64).clamp(1 << 20, MOST);
    }
}

/// What every transfer gives.
pub fn figures(sample: &Sample) -> Figures {
    let gb = sample.bytes as f64 / 1e9;
    Figures::of("gb_per_s", sample.gb_per_s())
        .and("cpu_s_per_gb", sample.cpu_s_per_gb())
        .and("send_cpu_s_per_gb", sample.send_cpu_s / gb)
        .and("recv_cpu_s_per_gb", sample.recv_cpu_s / gb)
}

impl Bed {
    /// A task of `bytes`.
    pub fn task(&self, bytes: u64) -> Task {
        Task {
            bytes,
            chunk: CHUNK,
            sender_core: self.sender_core,
            receiver_core: self.receiver_core,
        }
    }

    /// One of the others.
    pub fn contender<'a>(
        &self,
        site: &'a Rc<Site>,
        what: impl Contender + 'a,
    ) -> impl FnMut(bool) -> Outcome + 'a {
        self.in_pieces(site, what, CHUNK)
    }

    /// One of the others, to which the application hands `chunk` bytes at a time.
    pub fn in_pieces<'a>(
        &self,
        site: &'a Rc<Site>,
        what: impl Contender + 'a,
        chunk: usize,
    ) -> impl FnMut(bool) -> Outcome + 'a {
        let (bed, mut size) = (*self, Size::new(self.seconds));
        move |warming| {
            let task = Task {
                chunk,
                ..bed.task(size.bytes)
            };
            let sample = what.transfer(site, &task)?;
            if warming {
                size.learn(&sample);
            }
            Ok(figures(&sample))
        }
    }

    /// CTP-96 set up as `setup`.
    pub fn ctp<'a>(&self, site: &'a Rc<Site>, setup: Setup) -> impl FnMut(bool) -> Outcome + 'a {
        let (bed, mut size) = (*self, Size::new(self.seconds));
        move |warming| {
            let task = bed.task(setup.load.whole(size.bytes));
            let stack = Stack::Ctp(setup.clone());
            let (sample, sides) = peer::run_observed(site, &task, "bbr-like", stack)?;
            if warming {
                size.learn(&sample);
            }
            let mut figures = figures(&sample);
            if let Load::Messages { len, .. } = setup.load {
                let k = sample.bytes as f64 / len as f64 / sample.wall_s / 1e3;
                figures = figures.and("kmessages_per_s", k);
            }
            Ok(observed(figures, sides))
        }
    }

    /// The bare socket: what arrives is counted, and what is lost.
    pub fn udp<'a>(&self, site: &'a Rc<Site>) -> impl FnMut(bool) -> Outcome + 'a {
        let (bed, mut size) = (*self, Size::new(self.seconds));
        let frame = symbol_len_for_mtu(site.mtu() as usize) + FRAME_OVERHEAD;
        move |warming| {
            let stack = Stack::Udp(udp::Setup { frame });
            let task = bed.task(size.bytes);
            let [sent, received] = peer::run_sides(site, &task, "", stack)?;
            let sample = Sample {
                bytes: received.bytes,
                wall_s: received.wall_s,
                send_cpu_s: sent.cpu_s * received.bytes as f64 / sent.bytes.max(1) as f64,
                recv_cpu_s: received.cpu_s,
            };
            if warming {
                size.learn(&sample);
            }
            let lost = 1.0 - received.bytes as f64 / sent.bytes.max(1) as f64;
            Ok(figures(&sample).and("lost_share", lost))
        }
    }

    /// Sealing on one core and opening on another at best: the slower of the two, frame by frame
    /// from the cache.
    pub fn bare_cipher<'a>(&self, mtu: u32, suite: &'a str) -> impl FnMut(bool) -> Outcome + 'a {
        let bed = *self;
        let symbol_len = symbol_len_for_mtu(mtu as usize);
        let provider = provider_of(suite, symbol_len);
        move |_| {
            let seconds = (bed.seconds / 5.0).max(0.02);
            let seal = cpu::seal_rate(provider, symbol_len, bed.sender_core, seconds)?;
            let open = cpu::open_rate(provider, symbol_len, bed.receiver_core, seconds)?;
            Ok(Figures::of("gb_per_s", seal.min(open)))
        }
    }

    /// The whole protocol over shared memory.
    pub fn memory<'a>(&self, mtu: u32, suite: &'a str) -> impl FnMut(bool) -> Outcome + 'a {
        let (bed, mut size) = (*self, Size::new(self.seconds));
        let symbol_len = symbol_len_for_mtu(mtu as usize);
        let provider = provider_of(suite, symbol_len);
        move |warming| {
            let plan = pipe::Plan {
                mtus: vec![mtu],
                bytes: size.bytes,
                runs: 1,
                verify: "fast".to_owned(),
                suite: suite.to_owned(),
                sender_core: bed.sender_core,
                receiver_core: bed.receiver_core,
            };
            let gb_per_s = pipe::one_run(&plan, provider, symbol_len, Level::Fast)?;
            if warming {
                size.bytes = ((gb_per_s * 1e9 * bed.seconds) as u64).clamp(1 << 20, MOST);
            }
            Ok(Figures::of("gb_per_s", gb_per_s))
        }
    }
}

/// The implementation that a node would use for `suite`.
fn provider_of(suite: &str, symbol_len: usize) -> Provider {
    match suite {
        "aegis-256x2" => Provider::Aegis256x2,
        "aegis-256" => Provider::Aegis256,
        _ => calibrate(symbol_len, Duration::from_millis(20)).provider,
    }
}

/// Adds what the nodes saw.
pub fn observed(mut figures: Figures, sides: [SideReport; 2]) -> Figures {
    for node in sides.into_iter().filter_map(|s| s.node) {
        if node.side == "send" {
            let count = |name: &str| node.counters.get(name).copied().unwrap_or(0) as f64;
            let resent = count("tx_symbols_resent") / count("tx_symbols_first");
            figures = figures.and("resent_share", resent).and(
                "repair_share",
                count("tx_symbols_repair") / count("tx_symbols_first"),
            );
        }
        figures.curves.extend(node.curves.iter().cloned());
        figures.series.extend(node.series.clone());
        if let Some(occupancy) = &node.occupancy {
            figures.occupancy = Some(occupancy.clone());
        }
        figures.sides.push(node);
    }
    figures
}
