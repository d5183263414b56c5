//! Options of the suites, and what is done with what they measured.

mod values;

pub use values::{burst, multiple, per_cent, rtt};

use super::{Job, run, table};
use crate::schema::{Document, Method};
use crate::units::{parse_bits, parse_bytes};
use crate::{Result, diff, html};
use clap::Args;
use std::path::PathBuf;
use values::{frame, held_rate, lanes, message, queues, seconds};

/// What all suites take.
#[derive(Args, Debug)]
pub struct Common {
    /// Short runs: 3 rounds of about 0.3 s a case.
    #[arg(long)]
    quick: bool,
    /// Measured rounds; each runs every case once (default 5, with --quick 3).
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Rounds before them that are not counted; they also find out how much to move.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    warmup: u32,
    /// Length that a measurement aims at, seconds (default 2, with --quick 0.3).
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Throughput that is aimed at, bytes per second.
    #[arg(long, value_parser = parse_bytes, default_value = "25GB")]
    target: u64,
    /// CPU of the sender, and of measurements on one core.
    #[arg(long, default_value_t = 0)]
    sender_core: usize,
    /// CPU of the receiver.
    #[arg(long, default_value_t = 1)]
    receiver_core: usize,
    /// Write everything as JSON to this file, for diff and report.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures as CSV to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a report that a browser shows to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Where the suites that need two ends run.
#[derive(Args, Debug, Clone)]
pub struct Place {
    /// memory, loopback, veth (made and removed; needs root); memory is for throughput only.
    #[arg(long, value_delimiter = ',', default_value = "veth")]
    over: Vec<String>,
    /// Send to a host on which `ctp96-bench serve` runs, instead.
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "over")]
    to: Option<String>,
    /// MTUs, bytes.
    #[arg(long, value_delimiter = ',', default_value = "1500", value_parser = clap::value_parser!(u32).range(1280..=9216))]
    pub mtu: Vec<u32>,
    /// Packet path of CTP-96: auto, udp, io_uring or af_xdp (veth only).
    #[arg(long, default_value = "auto", value_parser = ["auto", "udp", "io_uring", "af_xdp"])]
    pub backend: String,
    /// Turn segmentation offloads of the veth pair off, so that every frame crosses alone.
    #[arg(long)]
    pub per_frame: bool,
}

impl Place {
    fn at(over: &[&str], mtu: &[u32]) -> Place {
        Place {
            over: over.iter().map(|s| (*s).to_owned()).collect(),
            to: None,
            mtu: mtu.to_vec(),
            backend: "auto".to_owned(),
            per_frame: false,
        }
    }

    /// Names of the sites.
    pub fn over(&self) -> Vec<String> {
        match &self.to {
            Some(host) => vec![format!("host:{host}")],
            None => self.over.clone(),
        }
    }

    /// Whether shared memory was asked for.
    pub fn has_memory(&self) -> bool {
        self.to.is_none() && self.over.iter().any(|o| o == "memory")
    }
}

/// Bulk transfer.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Throughput {
    /// Cipher suites of CTP-96.
    #[arg(long, value_delimiter = ',', default_value = "aes-256-gcm,aegis-256x2,aegis-256", value_parser = ["auto", "aes-256-gcm", "aegis-256x2", "aegis-256"])]
    pub suite: Vec<String>,
    /// Where.
    #[command(flatten)]
    pub site: Place,
}

impl Default for Throughput {
    fn default() -> Self {
        Throughput {
            suite: ["aes-256-gcm", "aegis-256x2", "aegis-256"]
                .map(str::to_owned)
                .to_vec(),
            site: Place::at(&["memory", "loopback", "veth"], &[1500, 9000]),
        }
    }
}

/// Streams over lanes.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Concurrency {
    /// Streams at a time, 1 to 1,024 (a list).
    #[arg(long, value_delimiter = ',', default_value = "1,4,16,64,256,1024", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub concurrency: Vec<u32>,
    /// Lanes that they share at most.
    #[arg(long, default_value_t = 4, value_parser = lanes)]
    pub lanes: usize,
    /// Bytes of a message.
    #[arg(long, value_parser = message, default_value = "16KiB")]
    pub message: u64,
    /// Where.
    #[command(flatten)]
    pub site: Place,
}

impl Default for Concurrency {
    fn default() -> Self {
        Concurrency {
            concurrency: vec![1, 16, 128, 1024],
            lanes: 4,
            message: 16 << 10,
            site: Place::at(&["veth"], &[1500]),
        }
    }
}

/// Message sizes.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Payload {
    /// Bytes of a message, 32 to 16 MiB (a list).
    #[arg(long, value_delimiter = ',', default_value = "1KiB,4KiB,16KiB,64KiB,256KiB,1MiB,16MiB", value_parser = message)]
    pub payload: Vec<u64>,
    /// Where.
    #[command(flatten)]
    pub site: Place,
}

impl Default for Payload {
    fn default() -> Self {
        Payload {
            payload: vec![1 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20],
            site: Place::at(&["veth"], &[1500]),
        }
    }
}

/// Codecs.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Compression {
    /// Codecs with levels (a list): lz4, zstd:-5..3, deflate:1..12.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "lz4,zstd:-5,zstd:1,zstd:3,deflate:1,deflate:6"
    )]
    pub codec: Vec<String>,
}

impl Default for Compression {
    fn default() -> Self {
        let codec = ["lz4", "zstd:-5", "zstd:1", "deflate:1", "deflate:6"];
        Compression {
            codec: codec.map(str::to_owned).to_vec(),
        }
    }
}

/// Ciphers.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Encryption {
    /// Bytes of a frame's payload (a list).
    #[arg(long, value_delimiter = ',', default_value = "64,256,1408,8896,16384", value_parser = frame)]
    pub frame: Vec<usize>,
}

impl Default for Encryption {
    fn default() -> Self {
        Encryption {
            frame: vec![64, 1408, 8896],
        }
    }
}

/// Verification levels.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Verification {
    /// Where.
    #[command(flatten)]
    pub site: Place,
}

impl Default for Verification {
    fn default() -> Self {
        Verification {
            site: Place::at(&["veth"], &[1500]),
        }
    }
}

/// The CPU's extensions.
#[derive(Args, Debug, Default)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Acceleration {}

/// Packet paths.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Network {
    /// Backends (a list): udp, io_uring, af_xdp.
    #[arg(long, value_delimiter = ',', default_value = "udp,io_uring,af_xdp", value_parser = ["udp", "io_uring", "af_xdp"])]
    pub backend: Vec<String>,
    /// MTUs, bytes (a list).
    #[arg(long, value_delimiter = ',', default_value = "1500,9000", value_parser = clap::value_parser!(u32).range(1280..=9216))]
    pub mtu: Vec<u32>,
    /// How super-packets cross (a list): whole, or per-frame with segmentation offloads off.
    #[arg(long, value_delimiter = ',', default_value = "whole,per-frame", value_parser = ["whole", "per-frame"])]
    pub gso: Vec<String>,
    /// Queues, with a lane and a lane core for each (a list).
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = queues)]
    pub queues: Vec<usize>,
    /// Where (a list): veth or loopback.
    #[arg(long, value_delimiter = ',', default_value = "veth", value_parser = ["veth", "loopback"])]
    pub over: Vec<String>,
}

impl Default for Network {
    fn default() -> Self {
        let own = |names: &[&str]| names.iter().map(|s| (*s).to_owned()).collect();
        Network {
            backend: own(&["udp", "io_uring", "af_xdp"]),
            mtu: vec![1500, 9000],
            gso: own(&["whole", "per-frame"]),
            queues: vec![1, 2],
            over: own(&["veth"]),
        }
    }
}

/// Held rates.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Sustained {
    /// Rates, bytes per second (a list).
    #[arg(long, value_delimiter = ',', default_value = "100MB,300MB,600MB", value_parser = held_rate)]
    pub rate: Vec<u64>,
    /// Length of a run, seconds (default 120, with --quick 10).
    #[arg(long, value_parser = seconds)]
    pub duration: Option<f64>,
    /// Bytes of a message.
    #[arg(long, value_parser = message, default_value = "64KiB")]
    pub message: u64,
    /// Runs of each rate.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: u32,
    /// Where.
    #[command(flatten)]
    pub site: Place,
}

impl Default for Sustained {
    fn default() -> Self {
        Sustained {
            rate: vec![100_000_000, 300_000_000],
            duration: None,
            message: 64 << 10,
            repeat: 1,
            site: Place::at(&["veth"], &[1500]),
        }
    }
}

/// Lossy and long paths.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Paths {
    /// Rate of the path, bits a second (300Mbit, 1G), Ethernet headers included. Where the emulator
    /// cannot keep up with it, runs are repeated and then refused.
    #[arg(long, value_parser = parse_bits, default_value = "300Mbit")]
    pub rate: u64,
    /// Round trips, milliseconds (a list).
    #[arg(long, value_delimiter = ',', default_value = "1,20,50", value_parser = rtt)]
    pub rtt: Vec<f64>,
    /// Loss on the way there, per cent (a list).
    #[arg(long, value_delimiter = ',', default_value = "0,0.1,1,5", value_parser = per_cent)]
    pub loss: Vec<f64>,
    /// Loss on the way back (acknowledgements), per cent.
    #[arg(long, default_value = "0", value_parser = per_cent)]
    pub loss_back: f64,
    /// Frames that are lost in a row on average; 1: each by itself.
    #[arg(long, default_value = "1", value_parser = burst)]
    pub burst: f64,
    /// Loss over a veth pair without rate and delay, per cent (a list), by tc-bpf at the receiver;
    /// every frame crosses alone.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = per_cent)]
    pub direct: Vec<f64>,
    /// Stacks (a list).
    #[arg(long, value_delimiter = ',', default_values_t = super::paths::STACKS.map(String::from), value_parser = super::paths::STACKS)]
    pub stack: Vec<String>,
    /// Length of a run, seconds, starting up included (default 5, with --quick 2).
    #[arg(long, value_parser = seconds)]
    pub duration: Option<f64>,
    /// Queue in front of the rate, in multiples of rate x round trip.
    #[arg(long, default_value = "1", value_parser = multiple)]
    pub queue_bdp: f64,
    /// The queue's bytes at least: what one burst of a sender needs.
    #[arg(long, value_parser = parse_bytes, default_value = "192KiB")]
    pub queue_min: u64,
    /// MTU, bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(1280..=9216))]
    pub mtu: u32,
    /// Packet path of CTP-96: auto, udp or io_uring.
    #[arg(long, default_value = "auto", value_parser = ["auto", "udp", "io_uring"])]
    pub backend: String,
    /// Cipher suite of CTP-96; QUIC has AES-256-GCM, TCP none.
    #[arg(long, default_value = "auto", value_parser = ["auto", "aes-256-gcm", "aegis-256x2", "aegis-256"])]
    pub suite: String,
    /// Decides which frames are lost; each round takes the next.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Frames that the emulator has room for in each direction (1.6 KB of kernel memory each).
    #[arg(long, default_value_t = 16_384)]
    pub frames: usize,
    /// CPU of the emulator; by default it moves to whichever has nothing better to do.
    #[arg(long)]
    pub emulator_core: Option<usize>,
}

impl Default for Paths {
    fn default() -> Paths {
        Paths {
            rate: 300_000_000,
            rtt: vec![20.0],
            loss: vec![0.0, 1.0],
            loss_back: 0.0,
            burst: 1.0,
            direct: vec![1.0],
            stack: super::paths::STACKS.map(str::to_owned).to_vec(),
            duration: None,
            queue_bdp: 1.0,
            queue_min: 192 << 10,
            mtu: 1500,
            backend: "auto".to_owned(),
            suite: "auto".to_owned(),
            seed: 1,
            frames: 16_384,
            emulator_core: None,
        }
    }
}

/// Runs `jobs`, prints the tables and writes the files that were asked for.
///
/// # Errors
/// Nothing could be measured, a case failed, or a file cannot be written.
pub fn measure(common: &Common, jobs: &[Job]) -> Result<()> {
    let method = Method {
        warmup: common.warmup,
        runs: common.runs.unwrap_or(if common.quick { 3 } else { 5 }),
        seconds: common
            .seconds
            .unwrap_or(if common.quick { 0.3 } else { 2.0 }),
        sender_core: common.sender_core,
        receiver_core: common.receiver_core,
        target: common.target as f64,
        quick: common.quick,
    };
    let doc = run(method, jobs, &mut |line| eprintln!("{line}"))?;
    println!("{}", table::document(&doc));
    if let Some(suite) = doc.suite("paths") {
        println!("{}", super::paths::verdict(suite));
    }
    write_files(&doc, common)?;
    let failures = doc.failures();
    if failures.is_empty() {
        Ok(())
    } else {
        Err(format!("{} cases failed:\n{}", failures.len(), failures.join("\n")).into())
    }
}

fn write_files(doc: &Document, common: &Common) -> Result<()> {
    let write = |path: &Option<PathBuf>, text: &dyn Fn() -> Result<String>| match path {
        Some(path) => {
            std::fs::write(path, text()?).map_err(|e| format!("{}: {e}", path.display()).into())
        }
        None => Ok(()),
    };
    write(&common.json, &|| {
        Ok(serde_json::to_string_pretty(doc)? + "\n")
    })?;
    write(&common.csv, &|| Ok(doc.csv()))?;
    write(&common.html, &|| Ok(html::report(doc)))
}

/// Two documents to compare.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Diff {
    /// The earlier run.
    before: PathBuf,
    /// The later run.
    after: PathBuf,
    /// Changes below this are never counted, per cent.
    #[arg(long, default_value_t = 5.0)]
    at_least: f64,
    /// Show also what did not change.
    #[arg(long)]
    all: bool,
    /// Print the comparison as JSON.
    #[arg(long)]
    json: bool,
}

/// Compares; true if something became worse.
///
/// # Errors
/// A file is no document.
pub fn compare(o: &Diff) -> Result<bool> {
    let (before, after) = (Document::load(&o.before)?, Document::load(&o.after)?);
    let changes = diff::compare(&before, &after, o.at_least / 100.0);
    if o.json {
        println!("{}", serde_json::to_string_pretty(&changes)?);
    } else {
        println!("{}", changes.table(o.all));
    }
    Ok(changes.regressed())
}

/// A document to show.
#[derive(Args, Debug)]
// The command of the same name has a group of that name already.
#[group(skip)]
pub struct Report {
    /// What a suite wrote with --json.
    document: PathBuf,
    /// Write the report for a browser to this file.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write CSV to this file.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// Shows a document again.
///
/// # Errors
/// The file is no document, or the report cannot be written.
pub fn show(o: &Report) -> Result<()> {
    let doc = Document::load(&o.document)?;
    for (path, text) in [
        (&o.html, html::report as fn(&Document) -> String),
        (&o.csv, Document::csv),
    ] {
        if let Some(path) = path {
            std::fs::write(path, text(&doc)).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    if o.html.is_none() && o.csv.is_none() {
        println!("{}", table::document(&doc));
    }
    Ok(())
}
