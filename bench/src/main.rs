//! `ctp96-bench`: what this machine does, beside what users pick today, in the same run.

mod baseline;
mod bottleneck;
mod contender;
mod corpus;
mod ctp;
mod diff;
mod host;
mod html;
mod impair;
mod load;
mod napi;
mod peer;
mod pipe;
mod rings;
mod schema;
mod site;
mod stats;
mod suite;
mod svg;
mod target;
mod transfer;
mod units;
mod xsk;

use ::tests::require::{Requirement, first_missing};
use baseline::{tcp, tls};
use clap::{Args, Parser, Subcommand};
use contender::{Contender, Task};
use std::process::ExitCode;
use suite::Job as Suite;
use suite::cli::{self, Common};
use transfer::Plan;

/// Errors of the bench are for people: a sentence, with its cause.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures CTP-96 beside what users pick today, in the same run: how fast this host is, why not
/// faster, and what the target would take.
#[derive(Parser)]
#[command(name = "ctp96-bench", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The nine suites of this host with their defaults: one document (with --quick in under ten
    /// minutes on two cores). Lossy and long paths are a table of their own: `paths`.
    All(Common),
    /// Bulk transfer over memory, loopback, veth or to another host, beside TCP, TLS 1.3 and QUIC.
    Throughput {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Throughput,
    },
    /// 1 to 1,024 streams of messages over the lanes of one session.
    Concurrency {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Concurrency,
    },
    /// Messages of 32 bytes to 16 MiB.
    Payload {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Payload,
    },
    /// Codec by level and corpus, on one core.
    Compression {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Compression,
    },
    /// Cipher suite by provider and frame size, on one core.
    Encryption {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Encryption,
    },
    /// Verification level fast against full.
    Verification {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Verification,
    },
    /// What the CPU's extensions bring, and what further cores do.
    Acceleration {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Acceleration,
    },
    /// Backend by MTU, offload and queues.
    Network {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Network,
    },
    /// Goodput over paths with a rate, a delay and loss, beside TCP and QUIC (needs root).
    ///
    /// A third namespace between the two hosts carries their frames in user space, byte by byte as
    /// the path would, and counts them; a run in which it could not keep up is repeated, then
    /// refused. Every stack has the same path, the same time and fair buffers.
    Paths {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Paths,
    },
    /// Two namespaces with a lossy and long path between them, to try any program over (needs root).
    Impair(impair::Impair),
    /// Held rates over a longer time: tail latency, drift and memory.
    Sustained {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        own: cli::Sustained,
    },
    /// What changed between two documents beyond their noise; exit code 1 if something is worse.
    Diff(cli::Diff),
    /// A document again: as tables, as a page for a browser, as CSV.
    Report(cli::Report),
    /// Receives for suites that another host runs with --to. Whoever reaches the port can make this
    /// host receive and burn a CPU meanwhile: for networks of your own.
    Serve {
        /// Address to listen on for control connections.
        #[arg(long, default_value = "0.0.0.0:9695")]
        listen: std::net::SocketAddr,
    },
    /// Bytes from one host to another over a veth pair, all contenders interleaved (needs root).
    Transfer {
        /// CTP-96 rows, each `backend[:level[:suite]]` (auto, udp, io_uring, io_uring_zc, af_xdp;
        /// fast, full; auto, aes-256-gcm, aegis-256x2, aegis-256).
        #[arg(
            long,
            value_delimiter = ',',
            default_value = "auto:fast:aes-256-gcm,auto:fast:aegis-256x2,auto:fast:aegis-256"
        )]
        ctp: Vec<String>,
        /// Leave TCP and TLS out: quicker, but with nothing to compare with.
        #[arg(long)]
        alone: bool,
        #[command(flatten)]
        link: Link,
    },
    /// Seal on one core and open on the other over shared memory, against the bare AEAD calls.
    Pipe {
        /// MTUs whose symbol lengths are used, bytes.
        #[arg(long, value_delimiter = ',', default_value = "1500,9000")]
        mtu: Vec<u32>,
        /// Payload of one run.
        #[arg(long, value_parser = units::parse_bytes, default_value = "4GiB")]
        bytes: u64,
        /// Rounds; the median is reported.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// Verification level: fast or full.
        #[arg(long, default_value = "fast")]
        verify: String,
        /// Suite: aes-256-gcm, aegis-256x2 or aegis-256.
        #[arg(long, default_value = "aes-256-gcm", value_parser = ["aes-256-gcm", "aegis-256x2", "aegis-256"])]
        suite: String,
        /// CPU that seals.
        #[arg(long, default_value_t = 0)]
        sender_core: usize,
        /// CPU that opens.
        #[arg(long, default_value_t = 1)]
        receiver_core: usize,
        /// Print everything measured as JSON instead of the table.
        #[arg(long)]
        json: bool,
    },
    /// Frames over bare AF_XDP sockets, ours and those of xsk-rs, against CTP-96 over AF_XDP on the
    /// same veth pair (needs root).
    Rings {
        /// MTUs of the veth pairs, bytes.
        #[arg(long, value_delimiter = ',', default_value = "1500,9000")]
        mtu: Vec<u32>,
        /// Payload of one run.
        #[arg(long, value_parser = units::parse_bytes, default_value = "1GiB")]
        bytes: u64,
        /// Rounds; the median is reported.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// XDP programs in generic mode instead of native.
        #[arg(long)]
        generic: bool,
        /// Threaded NAPI on both ends, each thread on the CPU of its side: the kernel's receive work
        /// then runs there, as with a network card, and not inside the sender's system call.
        #[arg(long)]
        napi_threads: bool,
        /// Suite of the CTP-96 rows.
        #[arg(long, default_value = "auto", value_parser = ["auto", "aes-256-gcm", "aegis-256x2", "aegis-256"])]
        suite: String,
        /// CPU of the sending process.
        #[arg(long, default_value_t = 0)]
        sender_core: usize,
        /// CPU of the receiving process.
        #[arg(long, default_value_t = 1)]
        receiver_core: usize,
        /// Print everything measured as JSON instead of the table.
        #[arg(long)]
        json: bool,
    },
    /// Only what users pick today, with a choice of congestion controls (needs root).
    Baseline {
        /// TCP congestion controls, of those that the kernel offers.
        #[arg(long, value_delimiter = ',', default_value = "cubic")]
        congestion: Vec<String>,
        #[command(flatten)]
        link: Link,
    },
    /// One side of a baseline run; the bench starts it itself.
    #[command(hide = true)]
    Peer,
    /// A cipher alone, with the CPU's extensions that the environment leaves it.
    #[command(hide = true)]
    Piece { core: usize, seconds: f64 },
}

#[derive(Args)]
struct Link {
    /// MTUs of the veth pairs, bytes.
    #[arg(long, value_delimiter = ',', default_value = "1500,9000")]
    mtu: Vec<u32>,
    /// Payload of one run.
    #[arg(long, value_parser = units::parse_bytes, default_value = "4GiB")]
    bytes: u64,
    /// Measured runs of each contender at each MTU; the median is reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Bytes that the application hands over at a time.
    #[arg(long, value_parser = units::parse_bytes, default_value = "256KiB")]
    chunk: u64,
    /// CPU of the sending thread.
    #[arg(long, default_value_t = 0)]
    sender_core: usize,
    /// CPU of the receiving thread.
    #[arg(long, default_value_t = 1)]
    receiver_core: usize,
    /// Turn segmentation offloads off, so that every frame crosses alone, as on a wire.
    #[arg(long)]
    per_frame: bool,
    /// Random loss at the receiving host, per cent (with --per-frame: of single frames).
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Print everything measured as JSON instead of the table.
    #[arg(long)]
    json: bool,
}

/// Runs suites, in a release build only.
fn suites(common: &Common, jobs: &[Suite]) -> Result<()> {
    refuse_debug()?;
    cli::measure(common, jobs)
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::All(common) => suites(&common, &Suite::all()),
        Command::Throughput { common, own } => suites(&common, &[Suite::Throughput(own)]),
        Command::Concurrency { common, own } => suites(&common, &[Suite::Concurrency(own)]),
        Command::Payload { common, own } => suites(&common, &[Suite::Payload(own)]),
        Command::Compression { common, own } => suites(&common, &[Suite::Compression(own)]),
        Command::Encryption { common, own } => suites(&common, &[Suite::Encryption(own)]),
        Command::Verification { common, own } => suites(&common, &[Suite::Verification(own)]),
        Command::Acceleration { common, own } => suites(&common, &[Suite::Acceleration(own)]),
        Command::Network { common, own } => suites(&common, &[Suite::Network(own)]),
        Command::Paths { common, own } => suites(&common, &[Suite::Paths(own)]),
        Command::Impair(o) => impair::run(&o),
        Command::Sustained { common, own } => suites(&common, &[Suite::Sustained(own)]),
        Command::Diff(o) => match cli::compare(&o) {
            Ok(true) => return ExitCode::FAILURE,
            Ok(false) => Ok(()),
            Err(e) => {
                eprintln!("ctp96-bench: {e}");
                return ExitCode::from(2);
            }
        },
        Command::Report(o) => cli::show(&o),
        Command::Serve { listen } => refuse_debug().and_then(|()| site::serve(listen)),
        Command::Peer => peer::serve(),
        Command::Piece { core, seconds } => suite::accel::piece(core, seconds),
        Command::Pipe {
            mtu,
            bytes,
            runs,
            verify,
            suite,
            sender_core,
            receiver_core,
            json,
        } => pipe(
            &pipe::Plan {
                mtus: mtu,
                bytes,
                runs,
                verify,
                suite,
                sender_core,
                receiver_core,
            },
            json,
        ),
        Command::Rings {
            mtu,
            bytes,
            runs,
            generic,
            napi_threads,
            suite,
            sender_core,
            receiver_core,
            json,
        } => rings(
            &rings::Plan {
                mtus: mtu,
                bytes,
                runs,
                generic,
                napi_threads,
                suite,
                sender_core,
                receiver_core,
            },
            json,
        ),
        Command::Transfer { ctp, alone, link } => {
            let reference = ["cubic".to_owned()];
            compare(&link, if alone { &[] } else { &reference }, &ctp)
        }
        Command::Baseline { congestion, link } => compare(&link, &congestion, &[]),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ctp96-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

/// The rows of a comparison, in the order in which they run.
type Contenders = Vec<Box<dyn Contender>>;

/// The rows of a comparison over TCP's `congestion` controls, the first of which is the reference.
fn baselines(congestion: &[String]) -> Result<(Contenders, Vec<String>)> {
    if congestion.is_empty() {
        return Ok((Contenders::new(), Vec::new()));
    }
    let offered = tcp::available();
    let (provider, rates) = tls::calibrate()?;
    let credentials = tls::Credentials::new(provider)?;
    let mut rows = Contenders::new();
    for (i, name) in congestion.iter().enumerate() {
        if !offered.contains(name) {
            return Err(format!("this kernel offers {}, not {name}", offered.join(", ")).into());
        }
        rows.push(Box::new(tcp::Tcp {
            congestion: name.clone(),
        }));
        rows.push(Box::new(tls::Tls {
            congestion: name.clone(),
            credentials: credentials.clone(),
            reference: i == 0,
        }));
    }
    let rates = rates
        .map(|(p, gb_per_s)| format!("{} {gb_per_s:.2}", p.name()))
        .join(", ");
    let note = format!(
        "TLS 1.3 AES-256-GCM by rustls with {} (GB/s sealing 16 KiB records here: {rates})",
        provider.name()
    );
    Ok((rows, vec![note]))
}

/// Why figures of this build would mislead.
fn refuse_debug() -> Result<()> {
    if cfg!(debug_assertions) {
        return Err("figures need a release build: cargo run --release -p ctp96-bench".into());
    }
    Ok(())
}

fn rings(plan: &rings::Plan, json: bool) -> Result<()> {
    refuse_debug()?;
    if let Some(reason) = first_missing(&[Requirement::Netns]) {
        return Err(reason.into());
    }
    let report = rings::run(plan, |line| eprintln!("{line}"))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.table());
    }
    Ok(())
}

fn pipe(plan: &pipe::Plan, json: bool) -> Result<()> {
    refuse_debug()?;
    let report = pipe::run(plan, |line| eprintln!("{line}"))?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.table());
    }
    Ok(())
}

fn compare(link: &Link, congestion: &[String], ctp: &[String]) -> Result<()> {
    refuse_debug()?;
    let mut needs = vec![Requirement::Netns];
    if link.per_frame {
        needs.push(Requirement::Ethtool);
    }
    if link.loss > 0.0 {
        needs.push(Requirement::BpfLoss);
    }
    if let Some(reason) = first_missing(&needs) {
        return Err(reason.into());
    }
    let plan = Plan {
        mtus: link.mtu.clone(),
        runs: link.runs as usize,
        per_frame: link.per_frame,
        loss: link.loss / 100.0,
        task: Task {
            bytes: link.bytes,
            chunk: usize::try_from(link.chunk)?,
            sender_core: link.sender_core,
            receiver_core: link.receiver_core,
        },
    };
    let (mut contenders, notes) = baselines(congestion)?;
    for row in ctp {
        contenders.push(Box::new(ctp::Ctp::parse(row)?));
    }
    let report = transfer::compare(&plan, &contenders, notes, |line| eprintln!("{line}"))?;
    if link.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.table());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_command_has_two_arguments_of_one_name() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_suite_takes_what_all_suites_take() {
        for suite in [
            "throughput",
            "concurrency",
            "payload",
            "compression",
            "encryption",
            "verification",
            "acceleration",
            "network",
            "sustained",
            "all",
        ] {
            let line = [
                "ctp96-bench",
                suite,
                "--quick",
                "--runs",
                "2",
                "--json",
                "x",
            ];
            let parsed = Cli::try_parse_from(line);
            assert!(parsed.is_ok(), "{suite}: {:?}", parsed.err());
        }
    }
}
