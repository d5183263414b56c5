//! `ctp96-bench impair`: a path for people to try programs over.

use crate::Result;
use crate::suite::cli::{burst, multiple, per_cent, rtt};
use crate::units::{parse_bits, parse_bytes, show_bits};
use ::tests::impair::{Emulator, Loss, Options, Path, Traffic};
use ::tests::lab::Lab;
use ::tests::require::{Requirement, first_missing};
use clap::Args;
use std::time::Duration;

/// The path.
#[derive(Args, Debug)]
pub struct Impair {
    /// Rate each way, bits a second (300Mbit, 1G), Ethernet headers included; without it no limit.
    #[arg(long, value_parser = parse_bits)]
    rate: Option<u64>,
    /// Round trip that is added, milliseconds, half of it each way.
    #[arg(long, default_value = "0", value_parser = rtt)]
    rtt: f64,
    /// Loss from left to right, per cent.
    #[arg(long, default_value = "0", value_parser = per_cent)]
    loss: f64,
    /// Loss from right to left, per cent.
    #[arg(long, default_value = "0", value_parser = per_cent)]
    loss_back: f64,
    /// Frames that are lost in a row on average; 1: each by itself.
    #[arg(long, default_value = "1", value_parser = burst)]
    burst: f64,
    /// Queue in front of the rate, in multiples of rate x round trip.
    #[arg(long, default_value = "1", value_parser = multiple)]
    queue_bdp: f64,
    /// The queue's bytes at least.
    #[arg(long, value_parser = parse_bytes, default_value = "192KiB")]
    queue_min: u64,
    /// Mark ECN-capable packets CE that find this many bytes waiting.
    #[arg(long, value_parser = parse_bytes)]
    mark: Option<u64>,
    /// Frames that come twice, per cent.
    #[arg(long, default_value = "0", value_parser = per_cent)]
    duplicate: f64,
    /// Frames that are held back, per cent.
    #[arg(long, default_value = "0", value_parser = per_cent)]
    reorder: f64,
    /// How long they are held back, milliseconds.
    #[arg(long, default_value = "1", value_parser = rtt)]
    reorder_by: f64,
    /// MTU, bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=9216))]
    mtu: u32,
    /// Decides about every chance.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Frames that there is room for in each direction (1.6 KB of kernel memory each).
    #[arg(long, default_value_t = 16_384)]
    frames: usize,
    /// How often the emulator looks at least, microseconds: frames leave up to this late.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    granularity: u64,
    /// CPU of the emulator.
    #[arg(long)]
    emulator_core: Option<usize>,
    /// Two interfaces of the present namespace to join, instead of a pair of namespaces of our own.
    /// Nothing else may forward between them, and the offloads of whoever sends into them must be
    /// off (ethtool -K DEV tso off gso off gro off tx off).
    #[arg(long, value_delimiter = ',', num_args = 2, value_names = ["LEFT", "RIGHT"])]
    between: Vec<String>,
    /// End after this many seconds instead of at an interrupt.
    #[arg(long)]
    seconds: Option<u64>,
    /// Print each second's counters as a line of JSON.
    #[arg(long)]
    json: bool,
}

impl Impair {
    fn paths(&self) -> [Path; 2] {
        let rate = self.rate.unwrap_or(0);
        let bdp = rate as f64 / 8.0 * self.rtt / 1e3;
        let there = Path {
            rate,
            queue: ((bdp * self.queue_bdp) as u64).max(self.queue_min),
            delay: Duration::from_secs_f64(self.rtt / 2e3),
            loss: Loss::bursts(self.loss / 100.0, self.burst),
            mark: self.mark.unwrap_or(0),
            duplicate: self.duplicate / 100.0,
            reorder: self.reorder / 100.0,
            reorder_by: Duration::from_secs_f64(self.reorder_by / 1e3),
        };
        let back = Path {
            loss: Loss::bursts(self.loss_back / 100.0, self.burst),
            ..there
        };
        [there, back]
    }
}

/// Makes the path and shows what it does until it is interrupted.
///
/// # Errors
/// The path cannot be made.
pub fn run(o: &Impair) -> Result<()> {
    // Before any thread starts, so that all inherit it and the signal waits for us.
    let signals = hold_signals()?;
    let options = Options {
        mtu: o.mtu,
        frames: o.frames,
        granularity: Duration::from_micros(o.granularity),
        core: o.emulator_core,
    };
    let paths = o.paths();
    if let [left, right] = o.between.as_slice() {
        let emulator = Emulator::start([left, right], &options)?;
        eprintln!("{left} <-> {right}, {}", describe(o, &emulator));
        return watch(&emulator, &paths, o, &signals);
    }
    if let Some(why) = first_missing(&[Requirement::Netns, Requirement::Ethtool]) {
        return Err(why.into());
    }
    let lab = Lab::with_emulator(&options)?;
    let emulator = lab.emulator().ok_or("a lab without its emulator")?;
    let (a, b) = (lab.left.name(), lab.right.name());
    eprintln!(
        "left  {a}: {} {}\nright {b}: {} {}\n{}\ntry: ip netns exec {a} ping {}\n\
         end with an interrupt (Ctrl-C), which removes both",
        lab.left.v4(),
        lab.left.v6(),
        lab.right.v4(),
        lab.right.v6(),
        describe(o, emulator),
        lab.right.v4()
    );
    watch(emulator, &paths, o, &signals)
}

fn describe(o: &Impair, emulator: &Emulator) -> String {
    let rate = o.rate.map_or("no limit of rate".to_owned(), show_bits);
    format!(
        "{rate}, round trip {} ms, loss {} % there, {} % back; emulator scheduled {}",
        o.rtt,
        o.loss,
        o.loss_back,
        emulator.scheduling()
    )
}

fn watch(
    emulator: &Emulator,
    paths: &[Path; 2],
    o: &Impair,
    signals: &libc::sigset_t,
) -> Result<()> {
    emulator.set(paths, o.seed)?;
    let mut before = emulator.traffic();
    let mut second = 0;
    while o.seconds.is_none_or(|end| second < end) && !signalled(signals, 1) {
        second += 1;
        let now = emulator.traffic();
        if o.json {
            println!("{}", serde_json::to_string(&now)?);
        } else {
            for (which, (b, n)) in ["left to right", "right to left"]
                .iter()
                .zip(before.iter().zip(&now))
            {
                println!("{}", line(which, b, n));
            }
        }
        before = now;
    }
    let end = emulator.traffic();
    let late = Duration::from_millis(1);
    match end.iter().find_map(|t| t.overload(late)) {
        Some(why) => Err(format!("the emulator could not keep up: {why}").into()),
        None => Ok(()),
    }
}

/// One direction's last second.
fn line(which: &str, before: &Traffic, now: &Traffic) -> String {
    let bits = |f: fn(&Traffic) -> u64| (f(now) - f(before)) as f64 * 8.0 / 1e6;
    format!(
        "{which}: {:.1} Mb/s in, {:.1} out; lost {}, queue full {}, marked {}, waiting {}, late p99 \
         {:.0} us{}",
        bits(|t| t.seen_bytes),
        bits(|t| t.passed_bytes),
        now.lost_frames,
        now.queue_frames,
        now.marked,
        now.waiting(),
        now.late_p99 as f64 / 1e3,
        match now.overload(Duration::MAX) {
            Some(why) => format!("; OVERLOAD: {why}"),
            None => String::new(),
        }
    )
}

/// Keeps SIGINT and SIGTERM for [`signalled`].
fn hold_signals() -> Result<libc::sigset_t> {
    // SAFETY: all-zero is a valid sigset_t to hand to sigemptyset; the others take pointers to the
    // live set, and a null pointer where the old mask is not wanted.
    let (rc, set) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        let rc = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        (rc, set)
    };
    if rc == 0 {
        Ok(set)
    } else {
        Err(std::io::Error::from_raw_os_error(rc).into())
    }
}

/// Waits up to `seconds` for one of the signals; true if one has come.
fn signalled(set: &libc::sigset_t, seconds: i64) -> bool {
    let time = libc::timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    // SAFETY: both pointers are to live values; a null pointer where the details are not wanted.
    unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &raw const time) > 0 }
}
