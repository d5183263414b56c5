//! Suites over a network: CTP-96 in its variants, beside what users pick today, at the same site in
//! the same rounds.

use super::runner::{Figures, Outcome, Spec};
use super::sites::Sites;
use crate::baseline::{quic, tcp, tls, udp};
use crate::contender::{Contender, Sample, Task};
use crate::ctp::{Ctp, Setup};
use crate::load::Load;
use crate::peer::{self, SideReport, Stack};
use crate::site::Site;
use crate::units::show_bytes;
use crate::{Result, pipe, rings};
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
    fn contender<'a>(
        &self,
        site: &'a Rc<Site>,
        what: impl Contender + 'a,
    ) -> impl FnMut(bool) -> Outcome + 'a {
        let (bed, mut size) = (*self, Size::new(self.seconds));
        move |warming| {
            let sample = what.transfer(site, &bed.task(size.bytes))?;
            if warming {
                size.learn(&sample);
            }
            Ok(figures(&sample))
        }
    }

    /// CTP-96 set up as `setup`.
    fn ctp<'a>(&self, site: &'a Rc<Site>, setup: Setup) -> impl FnMut(bool) -> Outcome + 'a {
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
    fn udp<'a>(&self, site: &'a Rc<Site>) -> impl FnMut(bool) -> Outcome + 'a {
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

    /// The whole protocol over shared memory.
    fn memory<'a>(&self, mtu: u32, suite: &'a str) -> impl FnMut(bool) -> Outcome + 'a {
        let (bed, mut size) = (*self, Size::new(self.seconds));
        let symbol_len = symbol_len_for_mtu(mtu as usize);
        let provider = match suite {
            "aegis-256x2" => Provider::Aegis256x2,
            "aegis-256" => Provider::Aegis256,
            _ => calibrate(symbol_len, Duration::from_millis(20)).provider,
        };
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

/// Adds what the nodes saw.
pub fn observed(mut figures: Figures, sides: [SideReport; 2]) -> Figures {
    for node in sides.into_iter().filter_map(|s| s.node) {
        if node.side == "send" {
            let count = |name: &str| node.counters.get(name).copied().unwrap_or(0) as f64;
            let resent = count("tx_symbols_resent") / count("tx_symbols_first");
            figures = figures.and("resent_share", resent);
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

/// CTP-96 with each suite against TCP, TLS 1.3, QUIC and the bare socket.
///
/// # Errors
/// No certificate can be made.
pub fn throughput<'a>(
    bed: Bed,
    sites: &'a Sites,
    memory: &[u32],
    backend: &str,
    suites: &'a [String],
) -> Result<Vec<Spec<'a>>> {
    let mut specs = sites.skipped();
    let (provider, _) = tls::calibrate()?;
    let credentials = tls::Credentials::new(provider)?;
    for &mtu in memory {
        let text = mtu.to_string();
        for suite in suites {
            let params = [
                ("over", "memory"),
                ("mtu", &text),
                ("stack", "ctp96"),
                ("suite", suite),
            ];
            specs.push(Spec::new(&params, bed.memory(mtu, suite)).group("memory"));
        }
    }
    for site in sites.all() {
        let (over, mtu) = (site.name(), site.mtu().to_string());
        let group = format!("{over} {mtu}");
        let spec = |stack: &str, suite: &str| {
            vec![
                ("over".to_owned(), over.to_owned()),
                ("mtu".to_owned(), mtu.clone()),
                ("stack".to_owned(), stack.to_owned()),
                ("suite".to_owned(), suite.to_owned()),
            ]
        };
        let aes = "aes-256-gcm";
        let congestion = "cubic".to_owned();
        let tcp = tcp::Tcp {
            congestion: congestion.clone(),
        };
        let run = bed.contender(site, tcp);
        specs.push(
            Spec::owned(spec("tcp", "none"), run)
                .group(&*group)
                .baseline("tcp"),
        );
        let tls = tls::Tls {
            congestion,
            credentials: credentials.clone(),
            reference: true,
        };
        let run = bed.contender(site, tls);
        specs.push(
            Spec::owned(spec("tls1.3", aes), run)
                .group(&*group)
                .baseline("tls"),
        );
        let quic = quic::Quic {
            credentials: credentials.clone(),
        };
        let run = bed.contender(site, quic);
        specs.push(
            Spec::owned(spec("quic", aes), run)
                .group(&*group)
                .baseline("quic"),
        );
        let run = bed.udp(site);
        specs.push(
            Spec::owned(spec("bare udp", "none"), run)
                .group(&*group)
                .baseline("udp"),
        );
        for suite in suites {
            let row = ctp_row(backend, "fast", suite);
            let mut setup = Setup::new(site, &row, false);
            setup.observe = true;
            let run = bed.ctp(site, setup);
            specs.push(Spec::owned(spec("ctp96", suite), run).group(&*group));
        }
    }
    Ok(specs)
}

/// A row of one backend, level and suite.
pub fn ctp_row(backend: &str, verify: &str, suite: &str) -> Ctp {
    Ctp {
        backend: backend.to_owned(),
        verify: verify.to_owned(),
        suite: suite.to_owned(),
    }
}

/// Streams over lanes.
pub fn concurrency<'a>(
    bed: Bed,
    sites: &'a Sites,
    backend: &str,
    streams: &[u32],
    lanes: usize,
    message: usize,
) -> Vec<Spec<'a>> {
    let mut specs = sites.skipped();
    for site in sites.all() {
        for &n in streams {
            let mut setup = Setup::new(site, &ctp_row(backend, "fast", "auto"), false);
            setup.lanes = lanes.min(n as usize).max(1);
            setup.load = Load::Messages {
                streams: n,
                len: message,
            };
            setup.observe = true;
            let (streams, used) = (n.to_string(), setup.lanes.to_string());
            let len = show_bytes(message as u64);
            let params = [
                ("over", site.name()),
                ("streams", &streams),
                ("lanes", &used),
                ("message", &len),
            ];
            let spec = Spec::new(&params, bed.ctp(site, setup)).group(site.name());
            specs.push(if n == 1 {
                spec.baseline("1 stream")
            } else {
                spec
            });
        }
    }
    specs
}

/// Message sizes.
pub fn payload<'a>(bed: Bed, sites: &'a Sites, backend: &str, sizes: &[u64]) -> Vec<Spec<'a>> {
    let mut specs = sites.skipped();
    for site in sites.all() {
        for &len in sizes {
            let mut setup = Setup::new(site, &ctp_row(backend, "fast", "auto"), false);
            setup.load = Load::Messages {
                streams: 1,
                len: len as usize,
            };
            setup.observe = true;
            let (bytes, mtu) = (len.to_string(), site.mtu().to_string());
            let params = [("over", site.name()), ("mtu", &mtu), ("message", &bytes)];
            specs.push(Spec::new(&params, bed.ctp(site, setup)));
        }
    }
    specs
}

/// Fast against full verification, end to end.
pub fn verification<'a>(bed: Bed, sites: &'a Sites, backend: &str) -> Vec<Spec<'a>> {
    let mut specs = sites.skipped();
    for site in sites.all() {
        let mtu = site.mtu().to_string();
        for level in ["fast", "full"] {
            let mut setup = Setup::new(site, &ctp_row(backend, level, "auto"), false);
            setup.observe = true;
            let params = [
                ("what", "end to end"),
                ("over", site.name()),
                ("mtu", &mtu),
                ("level", level),
            ];
            let spec =
                Spec::new(&params, bed.ctp(site, setup)).group(format!("{} {mtu}", site.name()));
            specs.push(if level == "fast" {
                spec.baseline("fast")
            } else {
                spec
            });
        }
    }
    specs
}

/// Backend x queues at every site; the bare socket and bare AF_XDP rings beside them.
pub fn network<'a>(
    bed: Bed,
    sites: &'a Sites,
    crossing: &str,
    backends: &[String],
    queues: &[usize],
) -> Vec<Spec<'a>> {
    let mut specs = sites.skipped();
    for site in sites.all() {
        let mtu = site.mtu().to_string();
        let group = format!("{} {mtu} {crossing}", site.name());
        let case = |path: &str, queues: &str| {
            vec![
                ("over".to_owned(), site.name().to_owned()),
                ("mtu".to_owned(), mtu.clone()),
                ("crossing".to_owned(), crossing.to_owned()),
                ("path".to_owned(), path.to_owned()),
                ("queues".to_owned(), queues.to_owned()),
            ]
        };
        let run = bed.udp(site);
        specs.push(
            Spec::owned(case("bare udp", "1"), run)
                .group(&*group)
                .baseline("bare udp"),
        );
        if backends.iter().any(|b| b == "af_xdp") && matches!(**site, Site::Veth(_)) {
            let symbol = symbol_len_for_mtu(site.mtu() as usize) as f64;
            let bytes = ((bed.seconds * 150e3) as u64).max(20_000) * symbol as u64;
            let run = move |_: bool| {
                let cores = [bed.sender_core, bed.receiver_core];
                let (mpps, lost) = rings::bare_round(bytes, false, cores, site)?;
                Ok(Figures::of("gb_per_s", mpps * symbol / 1e3)
                    .and("mframes_per_s", mpps)
                    .and("lost_share", lost))
            };
            specs.push(
                Spec::owned(case("bare af_xdp", "1"), run)
                    .group(&*group)
                    .baseline("bare af_xdp"),
            );
        }
        for backend in backends {
            for &n in queues {
                if backend == "af_xdp" && !matches!(**site, Site::Veth(_)) {
                    continue;
                }
                let mut setup = Setup::new(site, &ctp_row(backend, "fast", "auto"), false);
                setup.lanes = n;
                setup.cores = n;
                // One lane a queue; slots in place use one lane only.
                if n > 1 {
                    setup.load = Load::Messages {
                        streams: n as u32,
                        len: 64 << 10,
                    };
                }
                let params = case(backend, &n.to_string());
                let mut inner = bed.ctp(site, setup);
                let symbol = symbol_len_for_mtu(site.mtu() as usize) as f64;
                let run = move |warming: bool| {
                    if let Site::Veth(lab) = &**site {
                        for host in lab.hosts() {
                            host.set_queues(n as u32)?;
                        }
                    }
                    let figures = inner(warming)?;
                    let gb = figures.values.get("gb_per_s").copied();
                    Ok(figures.and("mframes_per_s", gb.unwrap_or(f64::NAN) * 1e3 / symbol))
                };
                specs.push(Spec::owned(params, run).group(&*group));
            }
        }
    }
    specs
}
