//! The command line.

mod live;

pub use live::{HistArgs, HistForm, LaneOrder, RecordArgs, TopArgs};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ctp96::codec::Policy;
use ctp96::control::api::SendSource;
use ctp96::control::config::ByteSize;
use std::path::PathBuf;

/// Where the daemon's example configuration puts its control socket.
const DEFAULT_SOCKET: &str = "/run/ctp96/control.sock";
/// Where the daemon keeps its state by default, and `queues` its journal.
const DEFAULT_STATE: &str = "/var/lib/ctp96";

/// Sends files through the CTP-96 daemon of this host, and shows what it does.
#[derive(Debug, Parser)]
#[command(
    name = "ctp96",
    version,
    after_help = "\
Examples:
  ctp96 keys gen /etc/ctp96/identity.key     make this host's key, print its public half
  ctp96 status                               is it up, on which cores, with which memory
  ctp96 send backup.tar archive              send a file to the peer named archive
  ctp96 send *.iso archive:images            .. into a directory there
  ctp96 send --source zero:10GiB --sink discard archive
                                             measure: no disk at either end
  ctp96 top                                  what happens now, on one screen
  ctp96 hist                                 latencies and stage times
  ctp96 record --to run.hlog --for 60s       the same over time, for other tools
  ctp96 counters --check                     do the books balance?
  ctp96 doctor                               what this host can do, what stands in the way
  ctp96 queues plan eth1 --port 9696         a NIC queue for each lane core

Exit status: 0 done, 1 failed, 2 bad usage, 3 the daemon cannot be reached."
)]
pub struct Cli {
    /// Control socket of the daemon [default: $CTP96_SOCKET, or /run/ctp96/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print JSON, one object a line, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The control socket to use.
    pub fn socket(&self) -> PathBuf {
        let from_env = || std::env::var_os("CTP96_SOCKET").filter(|s| !s.is_empty());
        match &self.socket {
            Some(path) => path.clone(),
            None => from_env().map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the node: cores, packet path and why, cipher provider and why, memory, sessions
    Status,
    /// List the configured peers and the sessions with them
    Peers,
    /// List the lanes of every session: slots, congestion window, rate, losses
    Lanes,
    /// Show latency percentiles: one way, round trip, and each stage of the pipe
    #[command(after_help = "\
Without a form: count, mean, p50, p90, p99, p99.9 and the largest value of each histogram since the
daemon started.

With --lane the values of that lane number, since its sessions were opened. A lane has histograms of
its own for digest, compression, decompression and the way of a slot. The other stages and the round
trip are measured by the core, for all of its lanes together: these are shown for the core or cores
that the lane is on, and named so.

Examples:
  ctp96 hist
  ctp96 hist rtt stage_seal --plot      the percentile curves, in characters
  ctp96 hist --lane 0
  ctp96 hist --html > hist.html         one page with the curves; needs no network
  ctp96 hist --csv                      times in nanoseconds
  ctp96 hist --log run.hlog             sum of a log that `ctp96 record` made")]
    Hist(HistArgs),
    /// Record the histograms over time, in the log format of HdrHistogram
    #[command(after_help = "\
The file is an interval log of HdrHistogram (version 1.3: V2, compressed, base64), in nanoseconds, a
tag for each histogram. HistogramLogProcessor, HistogramLogAnalyzer and the HdrHistogram libraries
read it, and `ctp96 hist --log FILE` does. Each interval has what was recorded in it alone. It is
written when it ends, so that an interruption costs one interval at most; Ctrl-C costs none.

Examples:
  ctp96 record --to run.hlog                       until Ctrl-C
  ctp96 record --to run.hlog --every 100ms --for 60s
  ctp96 hist --log run.hlog --plot rtt")]
    Record(RecordArgs),
    /// Watch rates, lanes, stages and windows; q ends, ? explains
    #[command(after_help = "\
Rates count application bytes; the bar is a share of 25 GB/s. The stages are the time that each took
in the last interval, as a share of one core. The map shows the window of a session: 96 slots for
each lane, each character one slot or several; a full session of 128 lanes has 12,288, which are 48
pages (p00 to p47) of 256. The daemon refreshes it a few times a second.

Keys:
  q  end            p  pause             s  next order of the lanes
  up, down  lane    d  direction of map  ?  help

NO_COLOR and --no-colour leave colours out; nothing is said by colour alone.

Examples:
  ctp96 top
  ctp96 top --every 250ms --sort loss
  ctp96 top --once                     two looks a second apart, as text, for a pipe")]
    Top(TopArgs),
    /// Show what was counted, and check that every frame and slot is accounted for
    #[command(after_help = "\
With --check the daemon evaluates its conservation equations (every frame received has one fate,
every slot committed is acknowledged, abandoned or pending, ..) and waits up to two seconds for a
quiet moment, since a frame can be caught between two counters while data moves. If an equation is
broken the command names it, with its terms, and exits with 1.

Examples:
  ctp96 counters              counters that are not zero
  ctp96 counters --all        all of them, each with what it counts
  ctp96 counters --check      the verdict alone; with --all, the counters too")]
    Counters {
        /// Check the conservation equations; exit with 1 if one is broken
        #[arg(long)]
        check: bool,
        /// Include counters that are zero
        #[arg(long)]
        all: bool,
    },
    /// Make and show keys (needs no daemon)
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Send files or generated bytes to a peer, and wait until they are durable there
    #[command(after_help = "\
PEER is a name from the daemon's configuration, or a public key. DIR is a directory below the one
that the peer lets us write to. Files appear under their own names once they are whole and
verified, never before.

A transfer survives both daemons: if either is killed, the command says that it waits, and goes on
when it is back; what was durable is not sent again. So does running the same command once more
after an interruption. Ctrl-C ends only the command: see `ctp96 jobs` and `ctp96 cancel`.

Examples:
  ctp96 send backup.tar archive
  ctp96 send --compress zstd:1 logs/ archive:2026/11
  ctp96 send --source random:1GiB --sink discard archive     # the network and the pipe alone
  ctp96 --json send backup.tar archive | tail -1             # the result, for a program")]
    Send(SendArgs),
    /// List transfers since the daemon started, ours and those of peers
    Jobs,
    /// End a transfer; what is durable at the receiver stays there and is used next time
    Cancel {
        /// Its number, as `ctp96 jobs` shows it
        id: u64,
    },
    /// Check receipts (needs no daemon)
    Receipt {
        #[command(subcommand)]
        command: ReceiptCommand,
    },
    /// Stop the daemon in order: sessions closed, journals written
    Stop,
    /// Say what this host can do, what stands in the way, and what to do about it (needs no daemon)
    #[command(after_help = "\
Looks at kernel, rights, packet paths, memory, CPU and network interfaces. It changes nothing; to
see whether the kernel lets AF_XDP and io_uring be used it opens each once and closes it at once.
Run it as the user that the daemon runs as: rights are those of this process.

  ok    as it should be
  -     a fact to know
  warn  works, with the loss that it names
  BAD   a packet path is closed, or nothing can pass

Exit status: 0 if nothing is BAD, 1 if something is or the host cannot be looked at, 2 bad usage.

Examples:
  ctp96 doctor                       the host, and every interface that is up
  ctp96 doctor --interface eth1      the host and one interface
  ctp96 --json doctor | jq -r '.findings[] | select(.fix) | .fix'")]
    Doctor {
        /// Interface to look at; may be repeated [default: every one that is up, but loopback]
        #[arg(long, value_name = "NAME")]
        interface: Vec<String>,
    },
    /// Give each lane core a queue of the NIC, and take it back (needs no daemon)
    Queues {
        #[command(subcommand)]
        command: QueuesCommand,
    },
}

#[derive(Debug, Subcommand)]
pub enum QueuesCommand {
    /// Show queues, RSS, steering rules, moderation, offloads and interrupts of an interface
    Show {
        /// Interface
        interface: String,
    },
    /// Print the commands that apply would run, each with its inverse; change nothing
    Plan {
        #[command(flatten)]
        tune: TuneArgs,
    },
    /// Run the commands, after writing down how to undo them
    #[command(after_help = "\
Each command is printed before it runs. If one fails, those before it are undone. What was changed
is in a journal on disk before it is changed, so `ctp96 queues restore` undoes it after a crash as
well. No interface but the named one is touched.

Examples:
  ctp96 queues apply eth1 --port 9696            a queue, its interrupt and its port per lane core
  ctp96 queues apply eth1 --queues 8 --cpus 8-15
  ctp96 queues apply eth1 --set rx-gro-hw=off")]
    Apply {
        #[command(flatten)]
        tune: TuneArgs,
        /// Change the interface although a default route leads through it
        #[arg(long)]
        yes_default_route: bool,
        /// Directory of the journal
        #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
        state: PathBuf,
    },
    /// Undo what apply did, and check that everything is as it was before
    Restore {
        /// Interface
        interface: String,
        /// Directory of the journal
        #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
        state: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct TuneArgs {
    /// Interface; no other one is touched
    pub interface: String,
    /// Number of queues [default: one for each CPU, as many as the interface has]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub queues: Option<u32>,
    /// CPUs of the lane cores in order, such as 0-3,8 [default: those near the interface first]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// UDP port of lane core 0 (node.port): steer it to queue 0, the next one to queue 1, ..
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Interrupt at the latest so many microseconds after a frame [default: leave it]
    #[arg(long, value_name = "N")]
    pub rx_usecs: Option<u32>,
    /// Leave interrupts on the CPUs that they come to now
    #[arg(long)]
    pub keep_interrupts: bool,
    /// Switch an offload, by the name that `queues show` uses; may be repeated
    #[arg(long, value_name = "NAME=on|off", value_parser = crate::queues::parse_switch)]
    pub set: Vec<(String, bool)>,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make an identity: a private key file with mode 0600; prints its public key
    Gen {
        /// File to write; it is never overwritten unless --force is given
        file: PathBuf,
        /// Replace the file if there is one: peers will not know this node any more
        #[arg(long)]
        force: bool,
    },
    /// Print the public key of an identity, as it goes into `key = ".."` at the peers
    Pub {
        /// Identity file
        file: PathBuf,
    },
    /// Print the public key and the receipt key of an identity
    Show {
        /// Identity file
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum ReceiptCommand {
    /// Check the signature of a receipt, and say what it states
    #[command(after_help = "\
A receipt proves that the holder of its receipt key stated to have the object whole. Compare the
receipt key with the one that `ctp96 keys show` prints at the receiver to know that it is theirs,
and give the file to compare its bytes too.

Example:
  ctp96 receipt verify backup.tar.receipt --file backup.tar")]
    Verify {
        /// Receipt, JSON as `ctp96 --json jobs` and `send` print it
        receipt: PathBuf,
        /// Also compare size and BLAKE3 with this file
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Also demand that this receipt key has signed it (base64)
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct SendArgs {
    /// Files and directories to send, then the peer: FILE.. PEER[:DIR]
    #[arg(required = true, value_name = "FILE.. PEER[:DIR]")]
    pub what: Vec<String>,
    /// Send generated bytes instead of files: zero:SIZE or random:SIZE, such as zero:10GiB
    #[arg(long, value_name = "KIND:SIZE", value_parser = parse_source)]
    pub source: Option<SendSource>,
    /// What the peer does with the bytes
    #[arg(long, value_name = "SINK", default_value = "files")]
    pub sink: Sink,
    /// Lanes to use, 1 to 128 [default: all of the session's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=128))]
    pub lanes: Option<u16>,
    /// Compression: none, auto, lz4, deflate:1..12, zstd:-5..3 [default: the daemon's setting]
    #[arg(long, value_name = "POLICY")]
    pub compress: Option<Policy>,
    /// Write the receipts of the receiver to this directory (verification level "full")
    #[arg(long, value_name = "DIR")]
    pub receipts: Option<PathBuf>,
}

/// What the peer does with the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sink {
    /// Writes them to files
    Files,
    /// Verifies, counts and drops them
    Discard,
}

fn parse_source(text: &str) -> Result<SendSource, String> {
    let bad =
        || format!("{text:?} is no source; write zero:SIZE or random:SIZE, such as zero:1GiB");
    let (kind, size) = text.split_once(':').ok_or_else(bad)?;
    let size = size.parse::<ByteSize>()?.0;
    match kind {
        "zero" => Ok(SendSource::Zero(size)),
        "random" => Ok(SendSource::Random(size)),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sources_have_a_kind_and_a_size() {
        assert_eq!(parse_source("zero:1GiB"), Ok(SendSource::Zero(1 << 30)));
        assert_eq!(parse_source("random:1.5kB"), Ok(SendSource::Random(1500)));
        for bad in ["", "zero", "one:1", "zero:", "zero:1XB"] {
            assert!(parse_source(bad).is_err(), "{bad}");
        }
    }
}
