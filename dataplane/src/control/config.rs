//! The daemon's configuration: a TOML file, checked as a whole before anything starts.
//!
//! Every key has a default that works, so an empty file is a valid configuration. Mistakes are
//! reported all at once, each with its line, the key, the value, what is allowed and, for a
//! misspelt key, the nearest one that exists. [`EXAMPLE`] is the annotated example.

mod check;
mod schema;
mod sizes;
mod value;

pub use value::{ByteSize, CcMode, Cores, Lanes, Rate, Repair};

use crate::base::limits;
use crate::codec::Policy;
use crate::verify::Level;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// The annotated example: every key with its unit, range, default and how to size it. As it
/// stands it equals the defaults; keys without a default are commented out with a bare `#`.
pub const EXAMPLE: &str = include_str!("../../../docs/ctp96d.example.toml");

/// The daemon's configuration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This node: identity, addresses, cores.
    pub node: Node,
    /// AF_XDP.
    pub af_xdp: AfXdp,
    /// Memory.
    pub memory: Memory,
    /// What this node proposes for each session.
    pub session: Session,
    /// The longest path, for `session.lanes = "auto"`.
    pub path: PathHint,
    /// Encryption.
    pub crypto: Crypto,
    /// Compression.
    pub compression: Compression,
    /// End-to-end verification.
    pub verify: Verify,
    /// Congestion control.
    pub cc: Cc,
    /// Forward error correction.
    pub fec: Fec,
    /// The peers; anybody else gets no answer.
    #[serde(rename = "peer")]
    pub peers: Vec<Peer>,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Private key file.
    pub identity: PathBuf,
    /// Local address of the sockets.
    pub listen: IpAddr,
    /// Base UDP port; lane core `i` listens on `port + i`.
    pub port: u16,
    /// Cores that run lanes.
    pub cores: Cores,
    /// Largest MTU used on any path, bytes.
    pub mtu: usize,
    /// Whether paths are probed for what they carry.
    pub mtu_discovery: bool,
    /// Whether data is marked ECN-capable.
    pub ecn: bool,
    /// How datagrams reach the kernel.
    pub backend: Backend,
    /// Where the state of transfers is kept.
    pub state_dir: PathBuf,
    /// Unix socket of the control API.
    pub control_socket: PathBuf,
    /// Whether peers may measure against this node with bytes that are thrown away.
    pub allow_discard: bool,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            identity: "/etc/ctp96/identity.key".into(),
            listen: IpAddr::from([0, 0, 0, 0]),
            port: limits::DEFAULT_PORT,
            cores: Cores::Auto,
            mtu: 1500,
            mtu_discovery: true,
            ecn: true,
            backend: Backend::Auto,
            state_dir: "/var/lib/ctp96".into(),
            control_socket: "/run/ctp96/control.sock".into(),
            allow_discard: true,
        }
    }
}

/// How datagrams reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The fastest that works on this host.
    #[default]
    Auto,
    /// Batched system calls: sendmmsg and recvmmsg with GSO and GRO.
    Udp,
    /// io_uring with GSO and GRO.
    IoUring,
    /// The same, with zero-copy sends.
    IoUringZc,
    /// AF_XDP.
    AfXdp,
}

/// `[af_xdp]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AfXdp {
    /// Network interface; without one, the interface that has `node.listen`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Where the XDP program runs.
    pub mode: XdpMode,
    /// Whether the driver reads and writes our memory itself.
    pub zero_copy: ZeroCopy,
    /// Receive queues of each core; without them, one for each from 0 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<Queues>>,
    /// Whether another XDP program may be taken off the interface.
    pub replace_foreign: bool,
    /// Who computes UDP checksums.
    pub checksum: Checksum,
}

/// Who computes UDP checksums over IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksum {
    /// The device where it can.
    #[default]
    Auto,
    /// The daemon.
    Software,
}

/// Receive queues of one core.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Queues {
    /// One.
    One(u32),
    /// Several, the first of which it also sends on.
    Several(Vec<u32>),
}

impl Queues {
    /// Their numbers.
    pub fn list(&self) -> Vec<u32> {
        match self {
            Queues::One(queue) => vec![*queue],
            Queues::Several(queues) => queues.clone(),
        }
    }
}

/// Where an XDP program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpMode {
    /// In the driver where it can, else in the kernel's common receive path.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the kernel's common receive path.
    Generic,
}

/// Whether AF_XDP works without copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroCopy {
    /// Where the driver can.
    #[default]
    Auto,
    /// Or not at all.
    On,
    /// Never.
    Off,
}

/// `[memory]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// Bytes for the slot arena, taken at start.
    pub budget: ByteSize,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            budget: ByteSize(512 << 20),
        }
    }
}

/// `[session]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Session {
    /// Lanes of each session.
    pub lanes: Lanes,
    /// Slots of each lane that may be in flight.
    pub window_slots: usize,
    /// Weights of the first lanes; the others have 1.
    pub lane_weights: Vec<u32>,
    /// How long a part-filled slot waits for more data, microseconds.
    pub linger_us: u64,
    /// Silence after which a keepalive is sent, seconds.
    pub keepalive_s: u64,
    /// Silence after which a session is closed, seconds.
    pub idle_close_s: u64,
}

impl Default for Session {
    fn default() -> Self {
        Session {
            lanes: Lanes::Count(4),
            window_slots: limits::WINDOW_SLOTS,
            lane_weights: Vec::new(),
            linger_us: limits::SLOT_LINGER_NS / 1_000,
            keepalive_s: limits::KEEPALIVE_NS / 1_000_000_000,
            idle_close_s: limits::IDLE_CLOSE_NS / 1_000_000_000,
        }
    }
}

/// `[path]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathHint {
    /// What it carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Its round trip, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_ms: Option<u64>,
}

/// `[crypto]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Crypto {
    /// Suites to offer.
    pub suite: CryptoSuite,
    /// Implementation of AES-256-GCM.
    pub provider: CryptoProvider,
}

/// Suites to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum CryptoSuite {
    /// The one that is measured to be fastest here, and those before it in this list.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// AES-256-GCM only.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// AEGIS-256X2 only.
    #[serde(rename = "aegis-256x2")]
    Aegis256x2,
    /// AEGIS-256 only.
    #[serde(rename = "aegis-256")]
    Aegis256,
}

/// An implementation of AES-256-GCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CryptoProvider {
    /// The fastest on this CPU, by a few milliseconds of measurement at start.
    #[default]
    Auto,
    /// ring.
    Ring,
    /// AWS-LC.
    AwsLc,
    /// RustCrypto aes-gcm.
    AesGcm,
}

impl CryptoProvider {
    /// The name used in the file; `None` for automatic choice.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            CryptoProvider::Auto => None,
            CryptoProvider::Ring => Some("ring"),
            CryptoProvider::AwsLc => Some("aws-lc"),
            CryptoProvider::AesGcm => Some("aes-gcm"),
        }
    }
}

/// `[compression]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Compression {
    /// Policy of lanes whose sender asks for none in particular.
    pub policy: Policy,
}

/// `[verify]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// Digest of slots and of the chain.
    pub level: Level,
}

/// `[cc]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cc {
    /// How the sending rate is found.
    pub mode: CcMode,
}

/// `[fec]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fec {
    /// Repair symbols sent ahead.
    pub repair: Repair,
}

/// `[[peer]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// Name used on the command line and in reports.
    pub name: String,
    /// Public key, base64.
    pub key: String,
    /// Where to reach it; without one the peer must call first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// File with the pre-shared key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psk_file: Option<PathBuf>,
    /// Directories that it may write to; none means that it may not send objects here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recv: Vec<RecvRule>,
}

/// `[[peer.recv]]`: a directory that a peer may write to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecvRule {
    /// The directory; the peer can reach nothing outside it.
    pub path: PathBuf,
    /// Most bytes that it may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; `None` for what is not written there.
    pub line: Option<usize>,
    /// What is wrong, what is allowed, and how to mend it.
    pub message: String,
}

/// Why a configuration cannot be used. `Display` gives one line for each problem.
#[derive(Debug)]
pub struct ConfigError {
    /// The file, where it came from one.
    pub file: Option<PathBuf>,
    /// Every mistake found, in the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            match (&self.file, problem.line) {
                (Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
                (Some(file), None) => write!(f, "{}: ", file.display())?,
                (None, Some(line)) => write!(f, "line {line}: ")?,
                (None, None) => {}
            }
            f.write_str(&problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads, parses and validates a file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let named = |problems| ConfigError {
            file: Some(path.to_owned()),
            problems,
        };
        let text = std::fs::read_to_string(path).map_err(|e| {
            named(vec![Problem {
                line: None,
                message: format!("cannot read the configuration: {e}"),
            }])
        })?;
        Config::parse(&text).map_err(|e| named(e.problems))
    }

    /// Parses and validates the text of a configuration.
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let fail = |problems| ConfigError {
            file: None,
            problems,
        };
        let line = |at: usize| Some(1 + text.bytes().take(at).filter(|&b| b == b'\n').count());
        let toml_problem = |e: &toml::de::Error, context: String| Problem {
            line: e.span().and_then(|s| line(s.start)),
            message: format!("{context}{}", e.message().trim_end().replace('\n', "; ")),
        };
        let table = DeTable::parse(text)
            .map_err(|e| fail(vec![toml_problem(&e, "not valid TOML: ".to_owned())]))?;
        let index = schema::Index::of(table.get_ref());
        if !index.unknown.is_empty() {
            let mut unknown = index.unknown;
            unknown.sort();
            let problems = unknown.into_iter().map(|(at, message)| Problem {
                line: line(at),
                message,
            });
            return Err(fail(problems.collect()));
        }
        let config: Config = toml::from_str(text).map_err(|e| {
            let key = e.span().and_then(|s| index.key_at(s.start));
            let mut problem = toml_problem(&e, key.map_or(String::new(), |k| format!("{k}: ")));
            let hint = key.map_or("", |k| schema::hint(&schema::without_positions(k)));
            if !hint.is_empty() {
                problem.message.push_str(&format!("; allowed: {hint}"));
            }
            fail(vec![problem])
        })?;
        let mut problems: Vec<Problem> = config
            .complaints()
            .into_iter()
            .map(|c| {
                let hint = schema::hint(&schema::without_positions(&c.path));
                Problem {
                    line: index.position(&c.path).and_then(line),
                    message: format!("{} {}; allowed: {hint}{}", c.path, c.what, c.fix),
                }
            })
            .collect();
        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by_key(|p| p.line);
        Err(fail(problems))
    }

    /// The configuration as TOML, defaults included.
    pub fn to_toml(&self) -> String {
        // Cannot fail: every type here has a TOML form. An empty text would be the defaults.
        toml::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
