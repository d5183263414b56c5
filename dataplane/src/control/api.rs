//! The local control API: one JSON object a line, over a Unix socket.
//!
//! A request names an operation, `{"op":"job","id":3}`; the reply is `{"ok":true, ...}` or
//! `{"ok":false,"error":"sentence"}`. A connection may carry any number of requests, one after the
//! other. The structs here are both what the daemon writes and what the `ctp96` command reads.

mod parse;

pub use parse::{MAX_REQUEST_LEN, MAX_WAIT_MS, parse_request};

use crate::codec::Policy;
use crate::crypto::base64;
use crate::crypto::receipt::Receipt;
use crate::engine::{EngineInfo, LaneInfo, SessionInfo};
use crate::obs::{Counter, Hist, Summary};
use crate::stage::PathStatus;
use hdrhistogram::Histogram as Hdr;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest reply that a client takes, bytes.
pub const MAX_REPLY_LEN: usize = 64 << 20;

/// Why a request was refused or failed: one sentence for the person who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ApiError(pub String);

/// A request to the daemon.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// The node, its memory and what it chose at start: [`StatusReply`].
    Status,
    /// The configured peers with their sessions: [`PeersReply`].
    Peers,
    /// The lanes of every session: [`LanesReply`].
    Lanes,
    /// Latency histograms: [`HistReply`].
    Hist {
        /// Those of the lane with this number, in every session, instead of the node's.
        #[serde(skip_serializing_if = "Option::is_none")]
        lane: Option<usize>,
    },
    /// Counters: [`CountersReply`].
    Counters {
        /// Also check the conservation equations, waiting up to two seconds for a quiet moment.
        check: bool,
    },
    /// Starts a transfer: [`SendReply`].
    Send(SendRequest),
    /// One job, perhaps after waiting for it to change: [`JobReply`].
    Job {
        /// Its number.
        id: u64,
        /// Answer only once its version is greater than this.
        since: Option<u64>,
        /// How long to wait for that at most, milliseconds, up to [`MAX_WAIT_MS`].
        wait_ms: u64,
    },
    /// Every job since the daemon started: [`JobsReply`].
    Jobs,
    /// Ends a job: [`DoneReply`].
    Cancel {
        /// Its number.
        id: u64,
    },
    /// Stops the daemon, sessions closed and journals written: [`DoneReply`].
    Stop,
}

/// What to send, and where.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SendRequest {
    /// Peer name, or its public key.
    pub peer: String,
    /// What to send.
    #[serde(flatten)]
    pub source: SendSource,
    /// Where it goes.
    #[serde(flatten)]
    pub dest: SendDest,
    /// Lanes to use; all of the session's where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lanes: Option<usize>,
    /// Compression; the daemon's setting where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compress: Option<Policy>,
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SendSource {
    /// Files and directories, by absolute paths on the daemon's host.
    Files(Vec<String>),
    /// This many zero bytes.
    Zero(u64),
    /// This many bytes that no codec can shrink.
    Random(u64),
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SendDest {
    /// A directory below, or equal to, one that the peer lets us write to; "" is its first.
    Dir(String),
    /// Nowhere: the peer counts and checks the bytes and drops them. Always true.
    Discard(bool),
}

impl Request {
    /// The request as one line, with its newline.
    pub fn to_line(&self) -> String {
        // Cannot fail: every field is a number, a string or a list of strings, and no map key is
        // anything but a string. An empty line would be refused by the daemon.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// A reply of any kind, as the daemon writes it.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<StatusReply>),
    /// To [`Request::Peers`].
    Peers(PeersReply),
    /// To [`Request::Lanes`].
    Lanes(LanesReply),
    /// To [`Request::Hist`].
    Hist(HistReply),
    /// To [`Request::Counters`].
    Counters(CountersReply),
    /// To [`Request::Send`].
    Send(SendReply),
    /// To [`Request::Job`].
    Job(Box<JobReply>),
    /// To [`Request::Jobs`].
    Jobs(JobsReply),
    /// To [`Request::Cancel`] and [`Request::Stop`].
    Done(DoneReply),
}

/// The outcome of a request as one line, with its newline.
pub fn reply_line(outcome: &Result<Reply, ApiError>) -> String {
    #[derive(Serialize)]
    struct Yes<'a> {
        ok: bool,
        #[serde(flatten)]
        reply: &'a Reply,
    }
    #[derive(Serialize)]
    struct No<'a> {
        ok: bool,
        error: &'a str,
    }
    let text = match outcome {
        Ok(reply) => serde_json::to_string(&Yes { ok: true, reply }),
        Err(e) => serde_json::to_string(&No {
            ok: false,
            error: &e.0,
        }),
    };
    // Cannot fail, as above; were it to, the client still gets a reply that it understands.
    text.unwrap_or_else(|_| "{\"ok\":false,\"error\":\"the reply has no JSON form\"}".into()) + "\n"
}

/// Reads a reply line of the expected kind.
///
/// # Errors
/// The daemon's own sentence, or what is wrong with the line.
pub fn parse_reply<T: DeserializeOwned>(line: &[u8]) -> Result<T, ApiError> {
    let odd = |what: String| {
        ApiError(format!(
            "the daemon's reply cannot be read ({what}); are both of one version?"
        ))
    };
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|e| odd(e.to_string()))?;
    match value.get("ok").and_then(serde_json::Value::as_bool) {
        Some(true) => serde_json::from_value(value).map_err(|e| odd(e.to_string())),
        Some(false) => {
            let error = value.get("error").and_then(serde_json::Value::as_str);
            Err(ApiError(
                error
                    .unwrap_or("the daemon refused without a reason")
                    .to_owned(),
            ))
        }
        None => Err(odd("no field `ok`".to_owned())),
    }
}

/// The node as it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReply {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Address of core 0.
    pub listen: String,
    /// Seconds since the start.
    pub uptime_s: f64,
    /// What it chose at start, and why.
    pub engine: EngineInfo,
    /// Its memory.
    pub memory: MemoryReply,
    /// Peers configured.
    pub peers: usize,
    /// Sessions open.
    pub sessions: usize,
    /// Lanes open.
    pub lanes: usize,
    /// Jobs that have not ended.
    pub jobs_active: usize,
    /// Compression of lanes whose sender asks for none in particular.
    pub compression: Policy,
    /// Where the state of transfers is kept.
    pub state_dir: String,
    /// What the XDP program has decided about packets; empty without AF_XDP.
    #[serde(default)]
    pub xdp: Vec<VerdictRow>,
    /// What the paths of each session carry.
    #[serde(default)]
    pub paths: Vec<PathRow>,
}

/// The paths of one session: each lane has its own.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PathRow {
    /// Name of the peer.
    pub peer: String,
    /// Our index of the session.
    pub session: u32,
    /// Longest IP packet sent on the lane's path that carries most, bytes.
    pub mtu_max: u32,
    /// The path that carries least.
    pub least: PathStatus,
}

/// A verdict of the XDP program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerdictRow {
    /// Its name.
    pub name: String,
    /// Packets that met it.
    pub packets: u64,
}

/// The memory budget and what holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemoryReply {
    /// Bytes for slot buffers, taken at start; it never grows.
    pub total_bytes: u64,
    /// Of these, lent to lanes.
    pub lent_bytes: u64,
    /// Bytes of one buffer: a slot of the largest symbols, rounded up to pages.
    pub buffer_bytes: u64,
    /// Buffers of one lane: a window each way, and those for codec and repair symbols.
    pub buffers_per_lane: u64,
    /// Bytes of one lane.
    pub lane_bytes: u64,
    /// Bytes of one session.
    pub session_bytes: u64,
    /// Whether they are on 2 MiB pages.
    pub huge_pages: bool,
    /// Resident memory of the process, bytes; 0 where the system does not tell.
    pub resident_bytes: u64,
}

/// The configured peers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeersReply {
    /// In the order of the configuration.
    pub peers: Vec<PeerReply>,
}

/// One configured peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerReply {
    /// Name.
    pub name: String,
    /// Public key, base64.
    pub key: String,
    /// Where we would connect to.
    pub endpoint: Option<String>,
    /// Directories that it may write to.
    pub recv: Vec<String>,
    /// Open sessions with it.
    pub sessions: Vec<SessionInfo>,
}

/// The lanes of every session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LanesReply {
    /// By session, then lane.
    pub lanes: Vec<LaneInfo>,
    /// The sessions that they belong to.
    pub sessions: Vec<SessionInfo>,
}

/// Latency histograms since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistReply {
    /// One for each quantity.
    pub hists: Vec<HistRow>,
}

/// One histogram.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistRow {
    /// Machine-readable name.
    pub name: String,
    /// What is measured.
    pub label: String,
    /// Percentiles, nanoseconds.
    pub summary: Summary,
    /// Whose values these are where not the whole node's: `lane 3`, or `core 1`, which has those
    /// of all of its lanes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The whole histogram, HdrHistogram V2 in base64.
    pub hdr: String,
}

impl HistRow {
    /// The row of one quantity.
    pub fn of(hist: Hist, values: &Hdr<u64>) -> HistRow {
        HistRow::named(hist.name(), hist.label(), values)
    }

    /// The row of a histogram of nanoseconds from elsewhere, such as a log.
    pub fn named(name: &str, label: &str, values: &Hdr<u64>) -> HistRow {
        let mut raw = Vec::new();
        // Fails only where counts exceed what the format holds; the percentiles are there still.
        let encoded = V2Serializer::new().serialize(values, &mut raw).is_ok();
        HistRow {
            name: name.to_owned(),
            label: label.to_owned(),
            summary: Summary::of(values),
            of: None,
            hdr: if encoded {
                base64::encode(&raw)
            } else {
                String::new()
            },
        }
    }

    /// The whole histogram; `None` where the text holds none.
    pub fn values(&self) -> Option<Hdr<u64>> {
        hdr_from_base64(&self.hdr)
    }
}

/// Reads a histogram as [`HistRow`] and HdrHistogram's interval logs have it: V2 in base64, deflated
/// or not.
pub fn hdr_from_base64(text: &str) -> Option<Hdr<u64>> {
    let text = text.as_bytes();
    let padding = text.iter().rev().take_while(|&&c| c == b'=').count();
    let len = (text.len() / 4 * 3)
        .checked_sub(padding)
        .filter(|&n| n > 0)?;
    let mut raw = vec![0; len];
    base64::decode(text, &mut raw).ok()?;
    Deserializer::new().deserialize(&mut raw.as_slice()).ok()
}

/// Counters since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CountersReply {
    /// In table order.
    pub counters: Vec<CounterRow>,
    /// The check of the conservation equations, where it was asked for.
    pub check: Option<CheckReply>,
}

/// One counter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CounterRow {
    /// Machine-readable name.
    pub name: String,
    /// What is counted.
    pub label: String,
    /// Value.
    pub value: u64,
}

impl CounterRow {
    /// The rows of a snapshot in the order of [`Counter::ALL`].
    pub fn all(snapshot: &[u64]) -> Vec<CounterRow> {
        let row = |(c, &value): (&Counter, &u64)| CounterRow {
            name: c.name().to_owned(),
            label: c.label().to_owned(),
            value,
        };
        Counter::ALL.iter().zip(snapshot).map(row).collect()
    }
}

/// Whether the books balance.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckReply {
    /// Equations checked.
    pub equations: usize,
    /// The broken ones, each with its sums and terms.
    pub broken: Vec<String>,
    /// Whether the counters stood still. While data moves, a frame may be caught between two
    /// counters, so a broken equation proves something only where this is true.
    pub at_rest: bool,
}

/// A transfer was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendReply {
    /// Number of its job.
    pub id: u64,
}

/// One job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobReply {
    /// Random number of the daemon's run: job numbers mean something only within one.
    pub boot_id: u64,
    /// The job.
    pub job: Job,
}

/// Every job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobsReply {
    /// By number.
    pub jobs: Vec<Job>,
}

/// Done; nothing more to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneReply {}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The session is being opened.
    Connecting,
    /// Data moves.
    Running,
    /// Something has to happen first; `why` says what. It goes on by itself.
    Waiting,
    /// Every byte is durable at the receiver, and verified.
    Done,
    /// It ended without; `why` says how.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            JobState::Done | JobState::Failed | JobState::Cancelled
        )
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            JobState::Connecting => "connecting",
            JobState::Running => "running",
            JobState::Waiting => "waiting",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// A transfer, ours or a peer's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Number.
    pub id: u64,
    /// Whether we send.
    pub sending: bool,
    /// Peer name.
    pub peer: String,
    /// Where it stands.
    pub state: JobState,
    /// Why it waits or failed, or the first thing that went wrong.
    pub why: Option<String>,
    /// Objects in all: files, and directories.
    pub files_total: u64,
    /// Objects that are durable at the receiver under their final name.
    pub files_done: u64,
    /// Objects that failed.
    pub files_failed: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes verified and durable at the receiver.
    pub bytes_done: u64,
    /// Of these, bytes that were durable there before, and were not sent again.
    pub bytes_resumed: u64,
    /// Bytes handed to the lanes, those of lost sessions included.
    pub bytes_sent: u64,
    /// When it began, seconds since the Unix epoch.
    pub started_unix_s: u64,
    /// Seconds since it began, up to its end.
    pub elapsed_s: f64,
    /// Bytes per second while data moved; resumed ones do not count.
    pub bytes_per_s: f64,
    /// Sessions that were lost on the way.
    pub reconnects: u64,
    /// Objects that failed or were skipped, and why; the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Receipts signed by the receiver (verification level `full`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<Receipt>,
    /// Grows with every change.
    pub version: u64,
}

#[cfg(test)]
mod tests;
