//! From a configuration to the settings of node and service.

use crate::backend::af_xdp::{self, AfXdpConfig, AttachMode};
use crate::base::limits::{MAX_DATA_SYMBOLS, MAX_LANES};
use crate::control::config::{
    AfXdp, Backend, ByteSize, CcMode, Checksum, Config, Cores, CryptoSuite, Lanes, Peer, Queues,
    Repair, XdpMode, ZeroCopy,
};
use crate::crypto::base64;
use crate::crypto::identity::{Identity, IdentityError, PublicKey};
use crate::engine::topology::{Topology, TopologyError};
use crate::engine::{BackendChoice, EngineConfig, StartError, SuiteChoice};
use crate::obs::text;
use crate::proto::CcKind;
use crate::proto::manager::PeerConfig;
use crate::service::{ReceiveRule, ServiceConfig};
use crate::stage::{Lane, bufs_per_lane};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is no identity file.
    #[error("no identity at {0}; make one with `ctp96 keys gen {0}`")]
    NoIdentity(String),
    /// The identity file cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The CPUs asked for are not there, or may not be used.
    #[error("node.cores: {0}")]
    Cores(#[from] TopologyError),
    /// A setting that the file format allows and this host does not.
    #[error("{0}")]
    Setting(String),
    /// The node does not start.
    #[error(transparent)]
    Node(#[from] StartError),
    /// The service does not start.
    #[error("{0}")]
    Service(String),
}

/// Sizes that follow from the configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of one slot buffer.
    pub buffer: usize,
    /// Buffers of one lane.
    pub per_lane: usize,
    /// Bytes of one session.
    pub session: usize,
    /// Lanes of one session.
    pub lanes: usize,
    /// Payload that one session can have in flight, bytes.
    pub window: usize,
}

/// What node and service are started with.
pub(super) struct Plan {
    pub engine: EngineConfig,
    pub service: ServiceConfig,
    pub sizes: Sizes,
    /// What will not work as it stands, as sentences.
    pub warnings: Vec<String>,
}

impl Plan {
    pub(super) fn of(config: &Config) -> Result<Plan, SetupError> {
        let identity = identity(&config.node.identity)?;
        let mut engine = EngineConfig::new(identity);
        engine.listen = config.node.listen;
        engine.port = config.node.port;
        engine.cores = cores(&config.node.cores)?;
        engine.mtu = config.node.mtu;
        engine.mtu_discovery = config.node.mtu_discovery;
        engine.ecn = config.node.ecn;
        engine.backend = match config.node.backend {
            Backend::Auto => BackendChoice::Auto,
            Backend::Udp => BackendChoice::Udp,
            Backend::IoUring => BackendChoice::IoUring,
            Backend::IoUringZc => BackendChoice::IoUringZeroCopy,
            Backend::AfXdp => BackendChoice::AfXdp,
        };
        engine.af_xdp = af_xdp(&config.af_xdp);
        let budget = usize::try_from(config.memory.budget.0);
        engine.memory = Some(budget.unwrap_or(usize::MAX));
        engine.lanes = match config.session.lanes {
            Lanes::Count(n) => n,
            Lanes::Auto => config.lanes().max(engine.cores.len()),
        };
        engine.window = config.session.window_slots;
        engine.linger = config.session.linger_us * 1_000;
        engine.keepalive = config.session.keepalive_s * 1_000_000_000;
        engine.idle_close = config.session.idle_close_s * 1_000_000_000;
        engine.suite = match config.crypto.suite {
            CryptoSuite::Auto => SuiteChoice::Auto,
            CryptoSuite::Aes256Gcm => SuiteChoice::Aes256Gcm,
            CryptoSuite::Aegis256x2 => SuiteChoice::Aegis256x2,
            CryptoSuite::Aegis256 => SuiteChoice::Aegis256,
        };
        engine.provider = match config.crypto.provider.name() {
            None => None,
            Some(name) => Some(
                name.parse()
                    .map_err(|e| SetupError::Setting(format!("{e}")))?,
            ),
        };
        engine.level = config.verify.level;
        engine.compression = config.compression.policy;
        engine.congestion = match config.cc.mode {
            CcMode::Auto => CcKind::Bbr,
            CcMode::Cubic => CcKind::Cubic,
            CcMode::Fixed { bytes_per_s } => CcKind::Fixed(bytes_per_s),
        };
        engine.lane_weights = config.session.lane_weights.clone();
        engine.repair_ahead = match config.fec.repair {
            Repair::Auto => None,
            Repair::Ahead(n) => Some(n),
        };
        let mut receive = Vec::new();
        for peer in &config.peers {
            let p = peer_config(peer, config.node.listen, &engine.identity)?;
            receive.extend(peer.recv.iter().map(|r| ReceiveRule {
                peer: p.key,
                peer_name: peer.name.clone(),
                path: r.path.clone(),
                max_bytes: r.max_bytes.map(|b| b.0),
            }));
            engine.peers.push(p);
        }
        engine.check()?;
        enough_memory(engine.memory_bytes() as u64)?;
        let sizes = Sizes {
            buffer: Lane::buf_len(engine.symbol_len()).next_multiple_of(4096),
            per_lane: bufs_per_lane(engine.window),
            session: engine.session_bytes(),
            lanes: engine.lanes,
            window: engine.lanes * engine.window * MAX_DATA_SYMBOLS * engine.symbol_len(),
        };
        let service = ServiceConfig {
            identity: engine.identity.clone(),
            state_dir: config.node.state_dir.clone(),
            receive,
            allow_discard: config.node.allow_discard,
        };
        Ok(Plan {
            engine,
            service,
            sizes,
            warnings: warnings(config),
        })
    }
}

/// Refuses a budget that the host cannot give, before the arena takes every page of it.
fn enough_memory(wanted: u64) -> Result<(), SetupError> {
    let Ok(info) = fs::read_to_string("/proc/meminfo") else {
        return Ok(());
    };
    let field = |name: &str| {
        let line = info.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let (Some(available), huge, size) = (
        field("MemAvailable:"),
        field("HugePages_Free:").unwrap_or(0),
        field("Hugepagesize:").unwrap_or(0),
    ) else {
        return Ok(());
    };
    let (available, huge) = (available << 10, huge.saturating_mul(size << 10));
    if wanted <= available || wanted <= huge {
        return Ok(());
    }
    Err(SetupError::Setting(format!(
        "memory.budget is {}, and this host has {} available and {} in free huge pages; lower it, \
         with session.lanes, session.window_slots or node.mtu if a session needs as much",
        ByteSize(wanted),
        text::bytes(available),
        text::bytes(huge)
    )))
}

fn af_xdp(config: &AfXdp) -> AfXdpConfig {
    AfXdpConfig {
        interface: config.interface.clone(),
        mode: match config.mode {
            XdpMode::Auto => AttachMode::Auto,
            XdpMode::Native => AttachMode::Native,
            XdpMode::Generic => AttachMode::Generic,
        },
        zero_copy: match config.zero_copy {
            ZeroCopy::Auto => af_xdp::ZeroCopy::Auto,
            ZeroCopy::On => af_xdp::ZeroCopy::On,
            ZeroCopy::Off => af_xdp::ZeroCopy::Off,
        },
        queues: config
            .queues
            .as_ref()
            .map(|all| all.iter().map(Queues::list).collect()),
        replace_foreign: config.replace_foreign,
        checksum: match config.checksum {
            Checksum::Auto => af_xdp::Checksum::Auto,
            Checksum::Software => af_xdp::Checksum::Software,
        },
    }
}

fn identity(path: &Path) -> Result<Identity, SetupError> {
    Identity::load(path).map_err(|e| match e {
        IdentityError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            SetupError::NoIdentity(path.display().to_string())
        }
        e => e.into(),
    })
}

fn cores(wanted: &Cores) -> Result<Vec<Option<usize>>, SetupError> {
    let topology = Topology::detect()?;
    let chosen = match wanted {
        Cores::Auto => {
            let all = topology.lane_cpus(None);
            // The first one is left to the system, and to the threads that read and write files.
            if all.len() > 1 {
                all[1..].to_vec()
            } else {
                all.to_vec()
            }
        }
        Cores::Count(n) => {
            let cpus = topology.lane_cpus(Some(*n));
            if cpus.len() < *n {
                return Err(SetupError::Setting(format!(
                    "node.cores is {n}, and this process may use {} CPUs; lower it, or widen the \
                     affinity mask or the cgroup's cpuset",
                    topology.cpus().len()
                )));
            }
            cpus.to_vec()
        }
        Cores::List(list) => topology.select(list)?,
    };
    Ok(chosen.iter().map(|c| Some(c.id)).collect())
}

fn peer_config(peer: &Peer, listen: IpAddr, ours: &Identity) -> Result<PeerConfig, SetupError> {
    let bad = |text: String| SetupError::Setting(format!("peer {:?}: {text}", peer.name));
    let key: PublicKey = peer.key.parse().map_err(|e| bad(format!("{e}")))?;
    if key == ours.public() {
        return Err(bad("its key is this node's own".into()));
    }
    if !ours.is_usable_peer(&key) {
        return Err(bad(
            "its key is no usable X25519 key; ask its owner again".into()
        ));
    }
    let endpoint = match &peer.endpoint {
        None => None,
        Some(text) => Some(resolve(text, listen).map_err(bad)?),
    };
    let psk = match &peer.psk_file {
        None => None,
        Some(path) => Some(shared_key(path).map_err(bad)?),
    };
    Ok(PeerConfig {
        key,
        name: peer.name.clone(),
        endpoint,
        psk,
    })
}

/// The address behind an endpoint, of the family that the sockets listen on.
fn resolve(endpoint: &str, listen: IpAddr) -> Result<SocketAddr, String> {
    let found: Vec<SocketAddr> = endpoint
        .to_socket_addrs()
        .map_err(|e| format!("endpoint {endpoint}: the name cannot be resolved: {e}"))?
        .collect();
    let fits = |a: &&SocketAddr| a.is_ipv4() == listen.is_ipv4();
    found.iter().find(fits).copied().ok_or_else(|| {
        let (have, other) = if listen.is_ipv4() {
            ("IPv4", "::")
        } else {
            ("IPv6", "0.0.0.0")
        };
        format!(
            "endpoint {endpoint} has no {have} address, and node.listen = \"{listen}\" is {have}; \
             listen on \"{other}\" instead"
        )
    })
}

/// Reads a pre-shared key: 32 bytes of base64 in a file that only its owner may read.
fn shared_key(path: &Path) -> Result<[u8; 32], String> {
    let shown = path.display();
    let mut text = String::new();
    let read = File::open(path).and_then(|f| {
        let mode = f.metadata()?.mode();
        f.take(256).read_to_string(&mut text)?;
        Ok(mode)
    });
    let mode = read.map_err(|e| format!("pre-shared key {shown}: {e}"))?;
    if mode & 0o077 != 0 {
        return Err(format!(
            "pre-shared key {shown} is open to group or others; run: chmod 600 {shown}"
        ));
    }
    let mut key = [0; 32];
    base64::decode(text.trim().as_bytes(), &mut key)
        .map_err(|_| format!("pre-shared key {shown} is not 32 bytes of base64, 44 characters"))?;
    Ok(key)
}

fn warnings(config: &Config) -> Vec<String> {
    let mut out = Vec::new();
    if let (Lanes::Auto, Some(wanted)) = (config.session.lanes, config.lanes_for_path()) {
        let most = MAX_LANES as u64;
        let (asked, taken) = (wanted.min(most), config.lanes() as u64);
        if wanted > most {
            out.push(format!(
                "session.lanes = \"auto\": the stated path asks for {wanted} lanes, so that slots that lost \
                 frames can wait for them at the full rate; {MAX_LANES} is the most"
            ));
        }
        if asked > taken {
            let needed = ByteSize(config.session_bytes_of(asked).next_multiple_of(1 << 20));
            out.push(format!(
                "session.lanes = \"auto\": the stated path asks for {asked} lanes, and memory.budget = \
                 \"{}\" holds {taken} of them, so its full rate may not be reached; one session with all \
                 takes {needed}",
                config.memory.budget
            ));
        }
    }
    for peer in &config.peers {
        for rule in &peer.recv {
            if !fs::metadata(&rule.path).is_ok_and(|m| m.is_dir()) {
                let (path, name) = (rule.path.display(), &peer.name);
                out.push(format!(
                    "{path}, where {name} may write, is not a directory (yet); make it with: mkdir \
                     -p {path}"
                ));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir =
                std::env::temp_dir().join(format!("ctp96-setup-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).expect("temporary directory");
            Dir(dir)
        }

        fn config(&self, more: &str) -> Config {
            let dir = self.0.display();
            let node = format!(
                "[node]\nidentity = \"{dir}/key\"\nlisten = \"127.0.0.1\"\nstate_dir = \
                 \"{dir}/state\"\ncontrol_socket = \"{dir}/s\"\n{more}"
            );
            Config::parse(&node).expect("a valid configuration")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn error(config: &Config) -> String {
        Plan::of(config).err().expect("refused").to_string()
    }

    #[test]
    fn a_missing_identity_says_how_to_make_one() {
        let dir = Dir::new("identity");
        let e = error(&dir.config(""));
        assert!(e.contains("ctp96 keys gen"), "{e}");
    }

    #[test]
    fn auto_takes_the_lanes_that_the_budget_holds_and_says_what_is_missing() {
        let dir = Dir::new("budget");
        let with = |budget| {
            let path = "[path]\nrate = \"10Gbit/s\"\nrtt_ms = 20";
            let more =
                format!("[memory]\nbudget = \"{budget}\"\n[session]\nlanes = \"auto\"\n{path}");
            dir.config(&more)
        };
        let all = with("512MiB");
        assert_eq!((all.lanes(), warnings(&all).len()), (9, 0));
        let some = with("100MiB");
        assert_eq!(some.lanes(), 5);
        assert!(some.session_bytes() <= 100 << 20);
        let said = warnings(&some);
        assert_eq!(said.len(), 1);
        for part in ["asks for 9 lanes", "\"100MiB\" holds 5", "takes 164MiB"] {
            assert!(said[0].contains(part), "{part}: {}", said[0]);
        }
    }

    #[test]
    fn settings_arrive_at_engine_and_service() {
        let dir = Dir::new("settings");
        Identity::from_secret(&[1; 32])
            .save(&dir.0.join("key"), false)
            .expect("saved");
        let other = Identity::from_secret(&[2; 32]).public();
        let config = dir.config(&format!(
            "cores = 1\nport = 1234\nmtu = 9000\nmtu_discovery = false\necn = false\nbackend = \"udp\"\n[memory]\nbudget = \
             \"1GiB\"\n[session]\nlanes = 3\nlane_weights = [4, 1]\nkeepalive_s = 5\nlinger_us = 0\n[crypto]\nsuite = \
             \"aegis-256x2\"\nprovider = \"aws-lc\"\n[verify]\nlevel = \"full\"\n[cc]\nmode = \"fixed:1GB/s\"\n[fec]\nrepair \
             = 4\n[[peer]]\nname = \"b\"\nkey = \"{other}\"\nendpoint = \
             \"127.0.0.1:9\"\n[[peer.recv]]\npath = \"/nonexistent/in\"\nmax_bytes = \"1GB\"\n"
        ));
        let plan = Plan::of(&config).expect("a good plan");
        let e = &plan.engine;
        assert_eq!(
            (e.port, e.mtu, e.lanes, e.repair_ahead),
            (1234, 9000, 3, Some(4))
        );
        assert!(!e.mtu_discovery && !e.ecn);
        assert_eq!((e.backend, e.cores.len()), (BackendChoice::Udp, 1));
        assert_eq!(e.provider.map(|p| p.name()), Some("aws-lc"));
        assert_eq!(e.suite, SuiteChoice::Aegis256x2);
        assert_eq!(
            (e.congestion, &e.lane_weights[..]),
            (CcKind::Fixed(1_000_000_000), &[4, 1][..])
        );
        assert_eq!(
            e.peers[0].endpoint,
            Some("127.0.0.1:9".parse().expect("an address"))
        );
        assert_eq!((e.peers[0].key, e.memory), (other, Some(1 << 30)));
        assert_eq!(
            plan.sizes.session,
            3 * plan.sizes.per_lane * plan.sizes.buffer
        );
        let rule = &plan.service.receive[0];
        assert_eq!((rule.peer, rule.max_bytes), (other, Some(1_000_000_000)));
        assert_eq!(
            (e.linger, e.keepalive, e.idle_close),
            (0, 5_000_000_000, 30_000_000_000)
        );
        // The directory is not there yet.
        assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    }

    #[test]
    fn what_this_host_cannot_do_is_refused() {
        let dir = Dir::new("refused");
        let ours = Identity::from_secret(&[1; 32]);
        ours.save(&dir.0.join("key"), false).expect("saved");
        let psk = dir.0.join("psk");
        fs::write(&psk, "short").expect("written");
        fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).expect("set");
        let other = Identity::from_secret(&[2; 32]).public();
        let peer = |key: &PublicKey, more: &str| {
            dir.config(&format!(
                "[[peer]]\nname = \"b\"\nkey = \"{key}\"\n{more}\n"
            ))
        };
        for (config, want) in [
            (dir.config("cores = 64"), "node.cores"),
            (dir.config("cores = [1000]"), "node.cores: CPU 1000"),
            (
                dir.config("[memory]\nbudget = \"4TiB\""),
                "memory.budget is 4TiB, and this host has",
            ),
            (peer(&ours.public(), ""), "this node's own"),
            (peer(&PublicKey([0; 32]), ""), "no usable X25519 key"),
            (
                peer(&other, "endpoint = \"[::1]:9\""),
                "listen on \"::\" instead",
            ),
            (
                peer(&other, "psk_file = \"/nonexistent/psk\""),
                "pre-shared key",
            ),
            (
                peer(&other, &format!("psk_file = \"{}\"", psk.display())),
                "44 characters",
            ),
        ] {
            if std::thread::available_parallelism().is_ok_and(|n| n.get() >= 64) {
                continue;
            }
            let e = error(&config);
            assert!(e.contains(want), "{want}: {e}");
        }
    }
}
