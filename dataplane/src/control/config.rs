//! The daemon's configuration: a TOML file, checked as a whole before anything starts.
//!
//! Every key has a default that works, so an empty file is a valid configuration. Mistakes are
//! reported all at once, each with its line, the key, the value, what is allowed and, for a
//! misspelt key, the nearest one that exists. [`EXAMPLE`] is the annotated example.

mod schema;
mod value;

pub use value::{ByteSize, CcMode, Cores, Repair};

use crate::base::limits;
use crate::codec::Policy;
use crate::verify::Level;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};
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
    /// Memory.
    pub memory: Memory,
    /// What this node proposes for each session.
    pub session: Session,
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
    /// Smallest MTU of the paths used, bytes.
    pub mtu: usize,
    /// How datagrams reach the kernel.
    pub backend: Backend,
    /// Where the state of transfers is kept.
    pub state_dir: PathBuf,
    /// Unix socket of the control API.
    pub control_socket: PathBuf,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            identity: "/etc/ctp96/identity.key".into(),
            listen: IpAddr::from([0, 0, 0, 0]),
            port: limits::DEFAULT_PORT,
            cores: Cores::Auto,
            mtu: 1500,
            backend: Backend::Auto,
            state_dir: "/var/lib/ctp96".into(),
            control_socket: "/run/ctp96/control.sock".into(),
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
    pub lanes: usize,
    /// Slots of each lane that may be in flight.
    pub window_slots: usize,
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
            lanes: 4,
            window_slots: limits::WINDOW_SLOTS,
            linger_us: limits::SLOT_LINGER_NS / 1_000,
            keepalive_s: limits::KEEPALIVE_NS / 1_000_000_000,
            idle_close_s: limits::IDLE_CLOSE_NS / 1_000_000_000,
        }
    }
}

/// `[crypto]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Crypto {
    /// Implementation of AES-256-GCM.
    pub provider: CryptoProvider,
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

    /// Bytes of the slot arena that one session takes: a sending and a receiving window for each
    /// lane, of full slots at this MTU, in buffers rounded up to 4 KiB.
    pub fn session_bytes(&self) -> u64 {
        let mtu = self.node.mtu.clamp(limits::MIN_MTU, limits::MAX_MTU);
        let slot = limits::MAX_DATA_SYMBOLS * limits::symbol_len_for_mtu(mtu);
        let buffers = (self.session.lanes as u64).saturating_mul(self.session.window_slots as u64);
        buffers.saturating_mul(2 * slot.next_multiple_of(4096) as u64)
    }

    fn complaints(&self) -> Vec<Complaint> {
        let mut out = Complaints::default();
        let (node, session) = (&self.node, &self.session);
        let cores = match &node.cores {
            Cores::Auto => 1,
            Cores::Count(n) => *n,
            Cores::List(list) => list.len(),
        };
        out.range("node.cores", cores as u64, 1, limits::MAX_CORES as u64);
        if let Cores::List(list) = &node.cores
            && list.iter().collect::<HashSet<_>>().len() != list.len()
        {
            out.add("node.cores", "names a CPU twice");
        }
        if node.port == 0 || usize::from(node.port) + cores > 65_536 {
            out.add(
                "node.port",
                format!("is {}, with {cores} core(s)", node.port),
            );
        }
        let (min, max) = (limits::MIN_MTU as u64, limits::MAX_MTU as u64);
        out.range("node.mtu", node.mtu as u64, min, max);
        if node.identity.as_os_str().is_empty() {
            out.add("node.identity", "is empty");
        }
        out.directory("node.state_dir", &node.state_dir);
        // sockaddr_un holds 108 bytes with the final zero.
        if !node.control_socket.is_absolute() || node.control_socket.as_os_str().len() > 107 {
            let shown = node.control_socket.display();
            out.add("node.control_socket", format!("is \"{shown}\""));
        }
        out.range(
            "session.lanes",
            session.lanes as u64,
            1,
            limits::MAX_LANES as u64,
        );
        let slots = session.window_slots as u64;
        out.range(
            "session.window_slots",
            slots,
            8,
            limits::WINDOW_SLOTS as u64,
        );
        out.range("session.linger_us", session.linger_us, 0, 100_000);
        out.range("session.keepalive_s", session.keepalive_s, 1, 600);
        out.range("session.idle_close_s", session.idle_close_s, 2, 3_600);
        if session.keepalive_s.saturating_mul(2) > session.idle_close_s {
            let (k, i) = (session.keepalive_s, session.idle_close_s);
            out.add(
                "session.keepalive_s",
                format!("is {k} where idle_close_s is {i}"),
            );
        }
        out.range("memory.budget", self.memory.budget.0, 16 << 20, 4 << 40);
        let needed = self.session_bytes();
        if out.0.is_empty() && self.memory.budget.0 < needed {
            let shown = ByteSize(needed.next_multiple_of(1 << 20));
            out.0.push(Complaint {
                path: "memory.budget".to_owned(),
                what: format!(
                    "is {}, and one session of {} lanes with {} slots at MTU {} takes {shown}",
                    self.memory.budget, session.lanes, session.window_slots, node.mtu
                ),
                fix: "; raise memory.budget, or lower session.lanes or session.window_slots",
            });
        }
        if let Repair::Ahead(n) = self.fec.repair {
            let most = limits::MAX_REPAIR_SYMBOLS as u64;
            out.range("fec.repair", u64::from(n), 0, most);
        }
        self.peer_complaints(&mut out);
        out.0
    }

    fn peer_complaints(&self, out: &mut Complaints) {
        let (mut names, mut keys) = (HashSet::new(), HashSet::new());
        for (i, peer) in self.peers.iter().enumerate() {
            let at = |key: &str| format!("peer[{i}].{key}");
            if !is_peer_name(&peer.name) {
                out.add(at("name"), format!("is {:?}", peer.name));
            } else if !names.insert(&peer.name) {
                out.add(
                    at("name"),
                    format!("is {:?}, as another peer's is", peer.name),
                );
            }
            if !is_public_key(&peer.key) {
                out.add(at("key"), format!("is {:?}", peer.key));
            } else if !keys.insert(&peer.key) {
                out.add(at("key"), "is another peer's key as well");
            }
            if let Some(endpoint) = &peer.endpoint
                && !is_endpoint(endpoint)
            {
                out.add(at("endpoint"), format!("is {endpoint:?}"));
            }
            if peer
                .psk_file
                .as_ref()
                .is_some_and(|p| p.as_os_str().is_empty())
            {
                out.add(at("psk_file"), "is empty");
            }
            for (j, rule) in peer.recv.iter().enumerate() {
                out.directory(format!("peer[{i}].recv[{j}].path"), &rule.path);
            }
        }
    }
}

struct Complaint {
    path: String,
    what: String,
    fix: &'static str,
}

#[derive(Default)]
struct Complaints(Vec<Complaint>);

impl Complaints {
    fn add(&mut self, path: impl Into<String>, what: impl Into<String>) {
        self.0.push(Complaint {
            path: path.into(),
            what: what.into(),
            fix: "",
        });
    }

    fn range(&mut self, path: &str, value: u64, lowest: u64, highest: u64) {
        if !(lowest..=highest).contains(&value) {
            self.add(path, format!("is {value}"));
        }
    }

    fn directory(&mut self, path: impl Into<String>, dir: &Path) {
        if !dir.is_absolute() || dir.components().any(|c| c == Component::ParentDir) {
            self.add(path, format!("is \"{}\"", dir.display()));
        }
    }
}

/// Names appear in paths and on command lines (`PEER:DIR`).
fn is_peer_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// 32 bytes of standard base64 with padding: 43 digits, the last of which carries four bits, and
/// `=`.
fn is_public_key(key: &str) -> bool {
    let Some(digits) = key.strip_suffix('=') else {
        return false;
    };
    digits.len() == 43
        && digits
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        && digits.ends_with(|c| "AEIMQUYcgkosw048".contains(c))
}

/// A socket address, or a host name with a port.
fn is_endpoint(endpoint: &str) -> bool {
    if let Ok(addr) = endpoint.parse::<std::net::SocketAddr>() {
        return addr.port() != 0;
    }
    let Some((host, port)) = endpoint.rsplit_once(':') else {
        return false;
    };
    (1..=253).contains(&host.len())
        && host
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && host.bytes().any(|b| b.is_ascii_alphabetic())
        && port.parse::<u16>().is_ok_and(|p| p != 0)
}

#[cfg(test)]
mod tests;
