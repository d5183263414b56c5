//! Opens what a node needs and starts its threads.

use super::command::{CoreCommand, CoreEvent};
use super::config::{BackendChoice, EngineConfig, SuiteChoice};
use super::control::{Call, ConnectReply, Control, CoreLink, SessionEnds};
use super::core::Core;
use super::error::{ConnectError, StartError};
use super::snapshot::{CoreInfo, EngineInfo, Snapshot};
use super::{bypass, run, topology};
use crate::backend::Backend;
use crate::backend::af_xdp::AfXdp;
use crate::backend::udp::{self, Choice, UdpConfig};
use crate::base::Clock;
use crate::codec::Policy;
use crate::crypto::Provider;
use crate::crypto::calibrate::{Calibration, calibrate};
use crate::crypto::identity::PublicKey;
use crate::fec::Fec;
use crate::mem::Arena;
use crate::obs::{Registry, Writer};
use crate::proto::manager::{Indices, Manager, Options};
use crate::ring::Wakeup;
use crate::stage::{CloseReason, Lane};
use crate::verify::Level;
use crate::wire::handshake::{Attestation, Params, SUITE_AES_256_GCM, suite_name};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Sessions that may wait for `accept`.
const ACCEPT_BACKLOG: usize = 64;
/// Commands to a core, and events from all cores, under way at most.
const CHANNEL: usize = 4096;
/// Time given to the choice of suite and AES-256-GCM provider at start.
const CALIBRATION: Duration = Duration::from_millis(12);

/// A running engine: lane cores and the control thread.
pub struct Engine {
    info: EngineInfo,
    local: SocketAddr,
    registry: Registry,
    compression: Policy,
    bypass: Option<bypass::Watch>,
    calls: Sender<Call>,
    accepted: Receiver<SessionEnds>,
    snapshot: Arc<Mutex<Snapshot>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Started {
    addr: SocketAddr,
    name: &'static str,
    why: String,
    wakeup: Arc<Wakeup>,
    rx_capacity: usize,
}

/// Numbers this run: the high half is the same for every node of a host until it reboots, the low
/// half is random.
fn boot_id() -> Result<u64, StartError> {
    let mut low = [0; 4];
    getrandom::fill(&mut low).map_err(|e| StartError::Io {
        what: "the system's random numbers".into(),
        source: std::io::Error::other(e.to_string()),
    })?;
    // Without the file (no procfs) hosts cannot be told apart, so none counts as the same: the
    // high half is then random too.
    let host = match std::fs::read("/proc/sys/kernel/random/boot_id") {
        Ok(id) => xxhash_rust::xxh3::xxh3_64(&id) as u32,
        Err(_) => xxhash_rust::xxh3::xxh3_64(&low) as u32,
    };
    Ok(u64::from(host) << 32 | u64::from(u32::from_le_bytes(low)))
}

fn describe(c: &Calibration) -> String {
    let suites = [&c.aegis_256x2, &c.aegis_256];
    let figures = c.speeds.iter().chain(suites).map(|s| {
        format!(
            "{} {:.1}/{:.1}",
            s.provider.name(),
            s.seal_gbps,
            s.open_gbps
        )
    });
    let figures = figures.collect::<Vec<_>>().join(", ");
    format!("at {} bytes, GB/s seal/open: {figures}", c.symbol_len)
}

/// The best suite to offer, the provider of AES-256-GCM, and why.
fn choose_aead(cfg: &EngineConfig) -> (u8, Provider, String) {
    let measured = match (cfg.suite, cfg.provider) {
        (SuiteChoice::Auto, _) | (_, None) => Some(calibrate(cfg.symbol_len(), CALIBRATION)),
        (_, Some(_)) => None,
    };
    let (provider, why) = match (cfg.provider, &measured) {
        (Some(p), None) => (p, "asked for".to_owned()),
        (Some(p), Some(c)) => (p, format!("asked for; {}", describe(c))),
        (None, Some(c)) => (c.provider, format!("fastest here {}", describe(c))),
        // The match above measures whenever no provider is asked for.
        (None, None) => (Provider::AesGcm, "the portable one".to_owned()),
    };
    let suite = match (cfg.suite.only(), &measured) {
        (Some(suite), _) => suite,
        (None, Some(c)) => c.best_suite(provider),
        (None, None) => SUITE_AES_256_GCM,
    };
    (suite, provider, why)
}

/// Names this build to peers.
fn build_id() -> [u8; 16] {
    let mut id = [0; 16];
    let text = concat!("ctp96 ", env!("CARGO_PKG_VERSION")).as_bytes();
    let n = text.len().min(id.len());
    id[..n].copy_from_slice(&text[..n]);
    id
}

impl Engine {
    /// Checks the settings, sizes memory, opens one backend per core and starts every thread.
    pub fn start(cfg: EngineConfig) -> Result<Engine, StartError> {
        cfg.check()?;
        let symbol_len = cfg.symbol_len();
        let (suite, provider, provider_why) = choose_aead(&cfg);
        let buf_len = Lane::buf_len(symbol_len).next_multiple_of(4096);
        let arena = Arena::new(cfg.memory_bytes() / buf_len, buf_len)?;
        let clock = Clock::start();
        let registry = Registry::new();
        let (events_tx, events) = bounded(CHANNEL);
        let indices = Arc::new(Indices::default());
        let mut threads = Vec::new();
        let mut links = Vec::new();
        let mut infos = Vec::new();
        let mut backend_why = String::new();
        let mut local = SocketAddr::new(cfg.listen, cfg.port);
        let bypass::Choice {
            sockets,
            watch,
            why: bypass_why,
        } = bypass::choose(&cfg)?;
        let mut sockets = sockets.into_iter();
        for id in 0..cfg.cores.len() {
            // With port 0 the first core's port decides the others.
            let addr = SocketAddr::new(
                cfg.listen,
                if cfg.port == 0 && id == 0 {
                    0
                } else {
                    local.port() + id as u16
                },
            );
            let (commands, rx) = bounded(CHANNEL);
            let (ready, started) = bounded(1);
            let spec = CoreSpec {
                id,
                cpu: cfg.cores[id],
                packets: match sockets.next() {
                    Some(socket) => Packets::AfXdp(Box::new(socket)),
                    None => Packets::Udp(
                        UdpConfig::new(addr),
                        match cfg.backend {
                            BackendChoice::Udp => Choice::Mmsg,
                            BackendChoice::IoUring => Choice::Uring,
                            BackendChoice::IoUringZeroCopy => Choice::UringZeroCopy,
                            BackendChoice::Auto | BackendChoice::AfXdp => Choice::Auto,
                        },
                    ),
                },
                commands: rx,
                events: events_tx.clone(),
                stats: registry.attach_writer(Writer::Core(id)),
                indices: indices.clone(),
                clock,
                ready,
            };
            let spawned = std::thread::Builder::new()
                .name(format!("ctp96-core-{id}"))
                .spawn(move || core_thread(spec));
            let io = |what: String| move |source| StartError::Io { what, source };
            threads.push(spawned.map_err(io(format!("the thread of core {id}")))?);
            let s = match started.recv() {
                Ok(r) => r.map_err(io(format!("UDP {addr} for core {id}")))?,
                Err(_) => {
                    let source = std::io::Error::other("its thread ended");
                    return Err(StartError::Io {
                        what: format!("core {id}"),
                        source,
                    });
                }
            };
            if id == 0 {
                local = s.addr;
                backend_why = match &bypass_why {
                    Some(why) if watch.is_some() => format!("{why}; {}", s.why),
                    Some(why) => format!("{}; {why}", s.why),
                    None => s.why.clone(),
                };
            }
            infos.push(CoreInfo {
                id,
                cpu: cfg.cores[id],
                addr: s.addr.to_string(),
                backend: s.name.to_owned(),
                rx_capacity_bytes: s.rx_capacity,
            });
            links.push(CoreLink {
                commands,
                wakeup: s.wakeup,
                rx_capacity: s.rx_capacity,
            });
        }
        drop(events_tx);
        let boot_id = boot_id()?;
        let info = EngineInfo {
            public_key: cfg.identity.public().to_string(),
            cores: infos,
            symbol_len,
            mtu: cfg.mtu,
            mtu_discovery: cfg.mtu_discovery,
            ecn: cfg.ecn,
            window_slots: cfg.window,
            verify: cfg.level.to_string(),
            suite: suite_name(suite).to_owned(),
            provider: provider.name().to_owned(),
            provider_why,
            fec_kernel: Fec::detect().kernel().name().to_owned(),
            backend_why,
            boot_id,
        };
        let local_params = Params {
            session_index: 0,
            lanes: cfg.lanes as u8,
            cores: cfg.cores.len() as u8,
            base_port: local.port(),
            symbol_len: symbol_len as u16,
            window_slots: cfg.window as u8,
            boot_id,
            timestamp: 0,
            attestation: Attestation {
                suite,
                witness: cfg.level as u8,
                fail_closed: 1,
                build: build_id(),
                receipt_key: cfg.identity.receipt_key(),
            },
        };
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let at_zero = (unix.as_nanos() as u64).saturating_sub(clock.now());
        let mut options = Options::new(at_zero, &local_params);
        options.indices = indices;
        // A peer with the weaker level is let in: the session uses the stronger of the two.
        options.policy.min_witness = Level::Fast as u8;
        if let Some(suite) = cfg.suite.only() {
            options.policy.suite = suite;
        }
        let manager = Manager::new(
            cfg.identity.clone(),
            local_params,
            cfg.peers.clone(),
            options,
        )
        .map_err(|e| StartError::Config(e.to_string()))?;
        let (calls, calls_rx) = bounded(CHANNEL);
        let (accept_tx, accepted) = bounded(ACCEPT_BACKLOG);
        let snapshot = Arc::new(Mutex::new(Snapshot::default()));
        let compression = cfg.compression;
        let control = Control::new(
            cfg,
            provider,
            suite,
            manager,
            boot_id,
            links,
            arena,
            clock,
            events,
            calls_rx,
            accept_tx,
            snapshot.clone(),
            registry.attach("control"),
        );
        let spawned = std::thread::Builder::new()
            .name("ctp96-control".into())
            .spawn(move || control.run());
        threads.push(spawned.map_err(|source| StartError::Io {
            what: "the control thread".into(),
            source,
        })?);
        let threads = Mutex::new(threads);
        Ok(Engine {
            info,
            local,
            registry,
            compression,
            bypass: watch,
            calls,
            accepted,
            snapshot,
            threads,
        })
    }

    /// Opens a session; see [`crate::api::Node::connect`].
    pub fn connect(
        &self,
        peer: PublicKey,
        addr: Option<SocketAddr>,
        timeout: Duration,
    ) -> ConnectReply {
        let (reply, answer) = bounded(1);
        let call = Call::Connect {
            peer,
            addr,
            timeout,
            reply,
        };
        self.calls.send(call).map_err(|_| ConnectError::Stopped)?;
        answer.recv().unwrap_or(Err(ConnectError::Stopped))
    }

    /// The next session that a peer has opened, or `None` after `timeout`.
    pub fn accept(&self, timeout: Duration) -> Result<Option<SessionEnds>, ConnectError> {
        match self.accepted.recv_timeout(timeout) {
            Ok(s) => Ok(Some(s)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(ConnectError::Stopped),
        }
    }

    /// Ends a session.
    pub fn close(&self, index: u32, reason: CloseReason) {
        let _ = self.calls.send(Call::Close { index, reason });
    }

    /// Facts that stay the same while it runs.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Address of core 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Statistics of every thread.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Compression of lanes whose user sets none.
    pub fn compression(&self) -> Policy {
        self.compression
    }

    /// What the XDP program on the interface has decided about packets, by name; empty without
    /// AF_XDP.
    pub fn verdicts(&self) -> Vec<(&'static str, u64)> {
        self.bypass.as_ref().map_or_else(Vec::new, |w| w.verdicts())
    }

    /// Sessions, lanes and memory, at most a tenth of a second old.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.calls.send(Call::Stop);
        let threads = self
            .threads
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        // The control thread is last in the list and stops the cores.
        for t in threads.drain(..).rev() {
            let _ = t.join();
        }
    }
}

/// Where a core gets its packets from.
enum Packets {
    /// To be opened by the core's thread, which a ring belongs to.
    Udp(UdpConfig, Choice),
    AfXdp(Box<AfXdp>),
}

struct CoreSpec {
    id: usize,
    cpu: Option<usize>,
    packets: Packets,
    commands: Receiver<CoreCommand>,
    events: Sender<CoreEvent>,
    stats: Arc<crate::obs::ThreadStats>,
    indices: Arc<Indices>,
    clock: Clock,
    ready: Sender<std::io::Result<Started>>,
}

struct CoreRest {
    id: usize,
    commands: Receiver<CoreCommand>,
    events: Sender<CoreEvent>,
    stats: Arc<crate::obs::ThreadStats>,
    indices: Arc<Indices>,
    clock: Clock,
    ready: Sender<std::io::Result<Started>>,
}

fn core_thread(spec: CoreSpec) {
    let rest = CoreRest {
        id: spec.id,
        commands: spec.commands,
        events: spec.events,
        stats: spec.stats,
        indices: spec.indices,
        clock: spec.clock,
        ready: spec.ready,
    };
    if let Some(cpu) = spec.cpu
        && let Err(e) = topology::pin_current(cpu)
    {
        let _ = rest.ready.send(Err(std::io::Error::other(e.to_string())));
        return;
    }
    match spec.packets {
        Packets::AfXdp(socket) => {
            let why = socket.note().to_owned();
            run_core(rest, *socket, why);
        }
        Packets::Udp(config, choice) => match udp::open(&config, choice) {
            Ok((socket, why)) => {
                let why = match socket.offload_note() {
                    Some(note) => format!("{why}; {note}"),
                    None => why,
                };
                run_core(rest, socket, why);
            }
            Err(e) => {
                let _ = rest.ready.send(Err(e));
            }
        },
    }
}

fn run_core<B: Backend>(rest: CoreRest, backend: B, why: String) {
    let started = Started {
        addr: backend.local_addr(),
        name: backend.name(),
        why,
        wakeup: backend.wakeup(),
        rx_capacity: backend.rx_capacity_bytes(),
    };
    let (stats, clock) = (rest.stats, rest.clock);
    let (commands, events) = (rest.commands, rest.events);
    let mut core = Core::new(
        rest.id,
        backend,
        commands,
        events,
        stats.clone(),
        rest.indices,
    );
    if rest.ready.send(Ok(started)).is_ok() {
        run(&mut core, clock, &stats.counters);
    }
}
