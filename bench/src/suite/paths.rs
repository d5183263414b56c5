//! CTP-96 beside TCP and QUIC over paths with a rate, a delay and loss, and over a fast link with
//! loss alone: how much of what the path can carry arrives in a given time.
//!
//! Every round sets the same path with the same seed for every stack. Time counts from when the
//! connection stands, so starting up is part of it.

use super::net::ctp_row;
use super::runner::{Figures, Outcome, Refusal, Spec};
use crate::Result;
use crate::baseline::{quic, tcp, tls};
use crate::ctp::Setup;
use crate::peer::{self, SideReport, Stack};
use crate::schema::{Case, Suite};
use crate::site::{Site, fair_tcp};
use crate::suite::cli::Paths;
use crate::units::show_bits;
use ::tests::impair::{Emulator, Loss, Options, Path, Traffic};
use ::tests::lab::Lab;
use ::tests::require::{Requirement, first_missing};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// Times that a run is tried again when the emulator could not keep up.
const TRIES: u32 = 3;
/// Frames may leave the emulator this late at least (p99) without spoiling a run.
const LATE_MIN: Duration = Duration::from_micros(250);
/// Ethernet header, bytes.
const ETHERNET: u64 = 14;

/// What all cases of the suite share.
#[derive(Clone, Copy)]
pub struct Bed {
    /// CPUs of sender and receiver.
    pub cores: [usize; 2],
    /// Length of a run, seconds.
    pub seconds: f64,
}

/// A stack of the comparison.
struct Contender {
    name: &'static str,
    congestion: &'static str,
    stack: Stack,
    is_ctp: bool,
}

/// Names of the stacks, in the order of the table.
pub const STACKS: [&str; 5] = ["tcp-cubic", "tcp-bbr", "quic-cubic", "quic-bbr", "ctp96"];

fn contenders(site: &Site, o: &Paths, credentials: &tls::Credentials) -> Vec<Contender> {
    let asked = |name: &&str| o.stack.iter().any(|s| s == *name);
    let make = |name: &'static str| {
        let mut setup = Setup::new(site, &ctp_row(&o.backend, "fast", &o.suite), false);
        setup.observe = true;
        let (stack, congestion) = match name {
            "tcp-cubic" => (Stack::Tcp, "cubic"),
            "tcp-bbr" => (Stack::Tcp, "bbr"),
            "quic-cubic" => (Stack::Quic(quic::Setup::new(site, credentials)), "cubic"),
            "quic-bbr" => (Stack::Quic(quic::Setup::new(site, credentials)), "bbr"),
            _ => (Stack::Ctp(setup), "bbr-like"),
        };
        Contender {
            name,
            congestion,
            is_ctp: matches!(stack, Stack::Ctp(_)),
            stack,
        }
    };
    STACKS.iter().copied().filter(asked).map(make).collect()
}

/// Why a stack cannot run here.
fn lacking(c: &Contender) -> Option<String> {
    let offered = tcp::available();
    let tcp = matches!(c.stack, Stack::Tcp);
    (tcp && !offered.iter().any(|o| o == c.congestion)).then(|| {
        let offered = offered.join(", ");
        format!("this kernel offers {offered}, not {}", c.congestion)
    })
}

/// The sites of the suite.
pub struct Sites {
    path: Option<Rc<Site>>,
    /// Sites that lose frames at the receiver, with the per cent.
    direct: Vec<(f64, Rc<Site>)>,
    missing: Vec<String>,
}

impl Sites {
    /// Makes what `o` asks for.
    ///
    /// # Errors
    /// A site that could be made here cannot be.
    pub fn open(o: &Paths) -> Result<Sites> {
        let mut sites = Sites {
            path: None,
            direct: Vec::new(),
            missing: Vec::new(),
        };
        if let Some(why) = first_missing(&[Requirement::Netns, Requirement::Ethtool]) {
            sites.missing.push(why);
            return Ok(sites);
        }
        if !o.rtt.is_empty() && !o.loss.is_empty() {
            sites.path = Some(Rc::new(Site::path(&Options {
                mtu: o.mtu,
                frames: o.frames,
                core: o.emulator_core,
                ..Options::default()
            })?));
        }
        for &loss in &o.direct {
            if let Some(why) = first_missing(&[Requirement::BpfLoss]) {
                sites.missing.push(why);
                break;
            }
            let site = Site::veth(o.mtu, true)?;
            if let Site::Veth(lab) = &site {
                fair_tcp(lab)?;
                lab.right.lose_received(loss / 100.0)?;
            }
            sites.direct.push((loss, Rc::new(site)));
        }
        Ok(sites)
    }
}

/// The path of one cell of the table, there and back.
fn paths(o: &Paths, rtt_ms: f64, loss: f64) -> [Path; 2] {
    let delay = Duration::from_secs_f64(rtt_ms / 2e3);
    let bdp = o.rate as f64 / 8.0 * rtt_ms / 1e3;
    let there = Path {
        rate: o.rate,
        queue: ((bdp * o.queue_bdp) as u64).max(o.queue_min),
        delay,
        loss: Loss::bursts(loss / 100.0, o.burst),
        ..Path::default()
    };
    let back = Path {
        loss: Loss::bursts(o.loss_back / 100.0, o.burst),
        ..there
    };
    [there, back]
}

/// Every stack over every path.
///
/// # Errors
/// No certificate can be made.
pub fn cases<'a>(bed: Bed, o: &'a Paths, sites: &'a Sites) -> Result<Vec<Spec<'a>>> {
    let (provider, _) = tls::calibrate()?;
    let credentials = tls::Credentials::new(provider)?;
    let mut specs = Vec::new();
    for why in &sites.missing {
        specs.push(Spec::new(&[("over", "path")], move |_| {
            Err(Refusal::Skipped(why.clone()))
        }));
    }
    if let Some(site) = &sites.path {
        for &rtt in &o.rtt {
            for &loss in &o.loss {
                let group = format!("{rtt} {loss}");
                let shape = paths(o, rtt, loss);
                for c in contenders(site, o, &credentials) {
                    let params = params("path", &format!("{rtt} ms"), loss, c.name);
                    let run = emulated(bed, site, shape, o.seed, c);
                    specs.push(run.map_params(params, &group));
                }
            }
        }
    }
    for (loss, site) in &sites.direct {
        let group = format!("veth {loss}");
        for c in contenders(site, o, &credentials) {
            let params = params("veth", "none added", *loss, c.name);
            let run = direct(bed, site, c);
            specs.push(run.map_params(params, &group));
        }
    }
    Ok(specs)
}

fn params(over: &str, rtt: &str, loss: f64, stack: &str) -> Vec<(String, String)> {
    let pairs = [
        ("over", over.to_owned()),
        ("round trip", rtt.to_owned()),
        ("loss", format!("{loss} %")),
        ("stack", stack.to_owned()),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v)).to_vec()
}

/// A run of one stack, before it is a case.
struct Runnable<'a> {
    name: &'static str,
    is_ctp: bool,
    run: Box<dyn FnMut(bool) -> Outcome + 'a>,
}

impl<'a> Runnable<'a> {
    fn map_params(self, params: Vec<(String, String)>, group: &str) -> Spec<'a> {
        let spec = Spec::owned(params, self.run).group(group);
        if self.is_ctp {
            spec
        } else {
            spec.baseline(self.name)
        }
    }
}

fn emulated<'a>(
    bed: Bed,
    site: &'a Rc<Site>,
    shape: [Path; 2],
    seed: u64,
    c: Contender,
) -> Runnable<'a> {
    let (name, is_ctp) = (c.name, c.is_ctp);
    let mut round = 0;
    let run = move |_: bool| {
        if let Some(why) = lacking(&c) {
            return Err(Refusal::Skipped(why));
        }
        let emulator = site.emulator().ok_or("a path without its emulator")?;
        round += 1;
        let mut why = String::new();
        for _ in 0..TRIES {
            // The same losses for every stack of a round, as far as they send the same frames.
            emulator.set(&shape, seed.wrapping_add(round))?;
            let seen = Cell::new([Traffic::default(); 2]);
            let look = || seen.set(emulator.traffic());
            let sides = peer::run_timed(
                site,
                bed.cores,
                bed.seconds,
                c.congestion,
                c.stack.clone(),
                look,
            )?;
            quiet(emulator, &shape);
            let traffic = seen.get();
            let round_trip = shape[0].delay + shape[1].delay;
            let late = (round_trip / 10).max(LATE_MIN);
            match traffic.iter().find_map(|t| t.overload(late)) {
                Some(reason) => why = reason,
                None => return Ok(path_figures(&shape, &traffic, sides)),
            }
        }
        Err(Refusal::Failed(format!(
            "the emulator was the bottleneck {TRIES} times: {why}"
        )))
    };
    Runnable {
        name,
        is_ctp,
        run: Box::new(run),
    }
}

/// Lets what one run has left on the path leave it before the next.
fn quiet(emulator: &Emulator, shape: &[Path; 2]) {
    let round_trip = shape[0].delay + shape[1].delay;
    for _ in 0..20 {
        let before = emulator.traffic();
        std::thread::sleep(round_trip + Duration::from_millis(20));
        let after = emulator.traffic();
        if (0..2).all(|i| before[i].seen_frames == after[i].seen_frames && after[i].waiting() == 0)
        {
            break;
        }
    }
}

/// Payload that arrived a second, bits.
fn goodput(received: &SideReport) -> f64 {
    received.bytes as f64 * 8.0 / received.wall_s.max(1e-9)
}

fn path_figures(shape: &[Path; 2], traffic: &[Traffic; 2], sides: [SideReport; 2]) -> Figures {
    let [there, back] = traffic;
    let bits = goodput(&sides[1]);
    let bound = shape[0].rate as f64 * (1.0 - shape[0].loss.mean());
    let share = |n: u64| n as f64 / there.seen_frames.max(1) as f64;
    let late = there.late_p99.max(back.late_p99);
    let figures = Figures::of("mbit_per_s", bits / 1e6)
        .and("of_bound", bits / bound)
        .and("wire_overhead", overhead(there.seen_bytes, &sides[1]))
        .and("path_loss", share(there.lost_frames))
        .and("queue_loss", share(there.queue_frames))
        .and("emulator_late_us", late as f64 / 1e3);
    super::bed::observed(figures, sides)
}

/// What was sent beyond the payload that arrived, headers and repetitions included.
fn overhead(wire_bytes: u64, received: &SideReport) -> f64 {
    wire_bytes as f64 / received.bytes.max(1) as f64 - 1.0
}

fn direct<'a>(bed: Bed, site: &'a Rc<Site>, c: Contender) -> Runnable<'a> {
    let (name, is_ctp) = (c.name, c.is_ctp);
    let run = move |_: bool| {
        if let Some(why) = lacking(&c) {
            return Err(Refusal::Skipped(why));
        }
        let Site::Veth(lab) = &**site else {
            return Err("no veth pair".into());
        };
        let sent = |lab: &Lab| lab.left.link_counters().map(|c| c.tx_bytes);
        let (before, after) = (sent(lab)?, Cell::new(0));
        let look = || after.set(sent(lab).unwrap_or(0));
        let sides = peer::run_timed(
            site,
            bed.cores,
            bed.seconds,
            c.congestion,
            c.stack.clone(),
            look,
        )?;
        let bytes = after.get().saturating_sub(before);
        let figures = Figures::of("mbit_per_s", goodput(&sides[1]) / 1e6)
            .and("wire_overhead", overhead(bytes, &sides[1]));
        Ok(super::bed::observed(figures, sides))
    };
    Runnable {
        name,
        is_ctp,
        run: Box::new(run),
    }
}

/// What the paths were, for people.
pub fn conditions(o: &Paths, sites: &Sites) -> String {
    let emulator = sites.path.as_ref().and_then(|s| s.emulator());
    let scheduled = emulator.map_or("not needed".to_owned(), |e| e.scheduling().to_owned());
    format!(
        "rate {} (Ethernet frames of up to {} bytes), queue {} x rate x round trip but at least {} \
         bytes, loss behind the rate on the way there ({}, on the way back {} %), TCP buffers up to \
         {} MiB, QUIC windows 32 MiB; emulator: {scheduled}",
        show_bits(o.rate),
        u64::from(o.mtu) + ETHERNET,
        o.queue_bdp,
        o.queue_min,
        if o.burst > 1.0 {
            format!("in bursts of {} frames on average", o.burst)
        } else {
            "each frame by itself".to_owned()
        },
        o.loss_back,
        crate::site::TCP_BUFFER >> 20,
    )
}

/// Where CTP-96 is ahead and where it is not, cell by cell.
pub fn verdict(suite: &Suite) -> String {
    let mut out = String::new();
    for case in suite.cases.iter().filter(|c| c.param("stack") == "ctp96") {
        out += &format!("{}: {}\n", place(case), verdict_of(case));
    }
    out
}

fn place(case: &Case) -> String {
    let (rtt, loss) = (case.param("round trip"), case.param("loss"));
    format!("{}, round trip {rtt}, loss {loss}", case.param("over"))
}

fn verdict_of(case: &Case) -> String {
    if case.metrics.is_empty() {
        return "no figure".to_owned();
    }
    let ratios = case.ratios.iter().filter(|r| r.metric == "mbit_per_s");
    let (mut behind, mut least) = (Vec::new(), f64::INFINITY);
    for r in ratios {
        least = least.min(r.median);
        if r.median < 1.0 {
            behind.push(format!("{} ({:.2} x)", r.to, r.median));
        }
    }
    match behind.is_empty() {
        true if least.is_infinite() => "nothing to compare with".to_owned(),
        true => format!("ahead of all ({least:.2} x the best)"),
        false => format!("behind {}", behind.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Better, Metric, Ratio};

    #[test]
    fn the_bound_and_the_overhead_are_those_of_the_wire() {
        let shape = paths(&Paths::default(), 20.0, 1.0);
        let traffic = Traffic {
            seen_frames: 1000,
            seen_bytes: 1_500_000,
            lost_frames: 10,
            ..Traffic::default()
        };
        let side = SideReport {
            bytes: 1_200_000,
            wall_s: 0.1,
            cpu_s: 0.0,
            node: None,
        };
        let figures = path_figures(&shape, &[traffic; 2], [side.clone(), side]);
        let v = |name: &str| figures.values[name];
        assert!((v("mbit_per_s") - 96.0).abs() < 1e-9);
        let bound = Paths::default().rate as f64 * 0.99;
        assert!((v("of_bound") - 96e6 / bound).abs() < 1e-9);
        assert!((v("wire_overhead") - 0.25).abs() < 1e-9);
        assert!((v("path_loss") - 0.01).abs() < 1e-9);
    }

    #[test]
    fn a_queue_is_never_shorter_than_its_floor() {
        let o = Paths::default();
        let short = paths(&o, 0.1, 0.0)[0];
        assert_eq!((short.queue, short.loss), (o.queue_min, Loss::None));
        let long = paths(&o, 100.0, 1.0)[0];
        assert_eq!(long.queue, (o.rate as f64 / 80.0) as u64);
        assert_eq!(long.delay, Duration::from_millis(50));
    }

    #[test]
    fn the_verdict_names_who_is_ahead() {
        let ratio = |to: &str, median| Ratio {
            metric: "mbit_per_s".into(),
            to: to.into(),
            median,
        };
        let mut case = Case {
            params: params("path", "20 ms", 1.0, "ctp96"),
            metrics: vec![Metric::new("mbit_per_s", "", Better::Higher, vec![1.0])],
            ratios: vec![ratio("tcp-bbr", 1.2), ratio("tcp-cubic", 9.0)],
            ..Case::default()
        };
        assert_eq!(verdict_of(&case), "ahead of all (1.20 x the best)");
        case.ratios[0].median = 0.9;
        assert_eq!(verdict_of(&case), "behind tcp-bbr (0.90 x)");
        assert_eq!(place(&case), "path, round trip 20 ms, loss 1 %");
    }
}
