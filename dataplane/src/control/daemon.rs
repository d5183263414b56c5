//! A node and its service, started from a configuration, and what they answer on the control
//! socket.

mod report;
mod setup;

pub use setup::SetupError;

use super::api::{
    ApiError, CheckReply, CounterRow, CountersReply, DoneReply, HistReply, HistRow, Job, JobReply,
    JobsReply, LanesReply, PeerReply, PeersReply, Reply, Request, SendDest, SendReply, SendRequest,
    SendSource, StatusReply, VerdictRow,
};
use super::config::Config;
use super::nearest::nearest;
use super::server::Handler;
use super::signals::raise_stop;
use crate::api::Node;
use crate::crypto::identity::PublicKey;
use crate::engine::Snapshot;
use crate::obs::{BALANCES, Counter, Hist, Writer, check_balances};
use crate::service::{Dest, JobId, SendJob, Service, Source};
use setup::Plan;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a check of the books waits for a quiet moment.
const CHECK_PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at the counters.
const CHECK_PAUSE: Duration = Duration::from_millis(25);

/// How long the start waits for the node's first snapshot.
const FIRST_SNAPSHOT: Duration = Duration::from_secs(1);

/// A running daemon.
pub struct Daemon {
    node: Node,
    service: Service,
    config: Config,
    sizes: setup::Sizes,
    warnings: Vec<String>,
}

impl Daemon {
    /// Checks a configuration against this host: key files, CPUs, peers, memory. Opens nothing.
    ///
    /// # Errors
    /// The first thing that would keep the daemon from starting.
    pub fn check(config: &Config) -> Result<(), SetupError> {
        Plan::of(config).map(drop)
    }

    /// Starts node and service.
    ///
    /// # Errors
    /// What is missing or in the way, and the way out.
    pub fn start(config: Config) -> Result<Daemon, SetupError> {
        let plan = Plan::of(&config)?;
        let (sizes, warnings) = (plan.sizes, plan.warnings);
        let node = Node::from_config(plan.engine)?;
        let service = Service::start(node.clone(), plan.service)
            .map_err(|e| SetupError::Service(e.to_string()))?;
        // The control thread publishes its first snapshot a moment after it starts; what is said
        // about memory needs it.
        let deadline = Instant::now() + FIRST_SNAPSHOT;
        while node.snapshot().memory_bytes == 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Daemon {
            node,
            service,
            config,
            sizes,
            warnings,
        })
    }

    /// What will not work as it stands, but keeps nothing else from working.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Sessions, lanes and memory now.
    pub fn snapshot(&self) -> Snapshot {
        self.node.snapshot()
    }

    /// Every job since the start.
    pub fn jobs(&self) -> Vec<Job> {
        self.service
            .jobs()
            .iter()
            .map(|j| report::job(j, &self.config))
            .collect()
    }

    /// The public key of a peer, given by name or as a key.
    fn peer_key(&self, given: &str) -> Result<PublicKey, ApiError> {
        let peers = &self.config.peers;
        let found = peers.iter().find(|p| p.name == given || p.key == given);
        if let Some(key) = found.and_then(|p| p.key.parse().ok()) {
            return Ok(key);
        }
        let names = || peers.iter().map(|p| p.name.as_str());
        Err(ApiError(match nearest(given, names()) {
            Some(best) => format!("no peer {given:?} is configured; did you mean {best:?}?"),
            None if peers.is_empty() => format!(
                "no peer {given:?} is configured, nor any other; add a [[peer]] table to the \
                 configuration and restart ctp96d"
            ),
            None => format!(
                "no peer {given:?} is configured; there are {}",
                names().collect::<Vec<_>>().join(", ")
            ),
        }))
    }

    fn status(&self) -> StatusReply {
        let snapshot = self.node.snapshot();
        StatusReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: self.node.local_addr().to_string(),
            uptime_s: snapshot.uptime_s,
            engine: self.node.info().clone(),
            memory: report::memory(&self.sizes, &snapshot),
            peers: self.config.peers.len(),
            sessions: snapshot.sessions.len(),
            lanes: snapshot.lanes.len(),
            jobs_active: self.jobs().iter().filter(|j| !j.state.is_final()).count(),
            compression: self.config.compression.policy,
            state_dir: self.config.node.state_dir.display().to_string(),
            xdp: self
                .node
                .verdicts()
                .into_iter()
                .map(|(name, packets)| VerdictRow {
                    name: name.to_owned(),
                    packets,
                })
                .collect(),
            paths: report::paths(&snapshot),
        }
    }

    fn peers(&self) -> PeersReply {
        let snapshot = self.node.snapshot();
        let peer = |p: &super::config::Peer| PeerReply {
            name: p.name.clone(),
            key: p.key.clone(),
            endpoint: p.endpoint.clone(),
            recv: p
                .recv
                .iter()
                .map(|r| r.path.display().to_string())
                .collect(),
            sessions: snapshot
                .sessions
                .iter()
                .filter(|s| s.peer_key == p.key)
                .cloned()
                .collect(),
        };
        PeersReply {
            peers: self.config.peers.iter().map(peer).collect(),
        }
    }

    fn hists(&self) -> HistReply {
        let hists = self.node.registry().hists();
        HistReply {
            hists: Hist::ALL
                .iter()
                .zip(&hists)
                .map(|(&h, v)| HistRow::of(h, v))
                .collect(),
        }
    }

    /// What the lanes of that number have recorded, and the cores that they are on.
    fn lane_hists(&self, lane: usize) -> Result<HistReply, ApiError> {
        let snapshot = self.node.snapshot();
        let mut cores: Vec<usize> = snapshot
            .lanes
            .iter()
            .filter(|l| usize::from(l.status.lane) == lane)
            .map(|l| l.status.core)
            .collect();
        cores.sort_unstable();
        cores.dedup();
        if cores.is_empty() {
            return Err(ApiError(format!(
                "no session has a lane {lane} now; `ctp96 lanes` lists those there are"
            )));
        }
        let registry = self.node.registry();
        let of_lane =
            registry.hists_of(|w| matches!(w, Writer::LaneEnd { lane: n, .. } if n == lane));
        let of_core = registry.hists_of(|w| matches!(w, Writer::Core(id) if cores.contains(&id)));
        let names: Vec<_> = cores.iter().map(usize::to_string).collect();
        let core = format!("core {}", names.join("+"));
        let row = |&h: &Hist| {
            let (values, of) = if h.is_per_lane() {
                (&of_lane, format!("lane {lane}"))
            } else {
                (&of_core, core.clone())
            };
            HistRow {
                of: Some(of),
                ..HistRow::of(h, &values[h as usize])
            }
        };
        Ok(HistReply {
            hists: Hist::ALL.iter().map(row).collect(),
        })
    }

    fn counters(&self, check: bool) -> CountersReply {
        let mut now = self.node.registry().counters();
        let check = check.then(|| {
            let deadline = Instant::now() + CHECK_PATIENCE;
            loop {
                // Balanced, and the same again a moment later: nothing was on its way.
                std::thread::sleep(CHECK_PAUSE);
                let before = std::mem::replace(&mut now, self.node.registry().counters());
                let at_rest = in_balances(&before) == in_balances(&now);
                let broken = check_balances(&now);
                if (broken.is_empty() && at_rest) || Instant::now() >= deadline {
                    return CheckReply {
                        equations: BALANCES.len(),
                        broken: broken.iter().map(ToString::to_string).collect(),
                        at_rest,
                    };
                }
            }
        });
        CountersReply {
            counters: CounterRow::all(&now),
            check,
        }
    }

    fn send(&self, r: SendRequest) -> Result<SendReply, ApiError> {
        let id = self
            .service
            .send(SendJob {
                peer: self.peer_key(&r.peer)?,
                source: match r.source {
                    SendSource::Files(f) => {
                        Source::Files(f.into_iter().map(PathBuf::from).collect())
                    }
                    SendSource::Zero(n) => Source::Zero(n),
                    SendSource::Random(n) => Source::Random(n),
                },
                dest: match r.dest {
                    SendDest::Dir(d) => Dest::Dir(d),
                    SendDest::Discard(_) => Dest::Discard,
                },
                lanes: r.lanes,
                compression: r.compress,
            })
            .map_err(|e| ApiError(e.to_string()))?;
        Ok(SendReply { id: id.0 })
    }

    fn job(&self, id: u64, since: Option<u64>, wait_ms: u64) -> Result<JobReply, ApiError> {
        let now = self.service.job(JobId(id)).ok_or_else(|| no_job(id))?;
        let job = match since {
            Some(v) if now.version <= v && wait_ms > 0 => {
                let wait = Duration::from_millis(wait_ms);
                self.service
                    .wait_change(JobId(id), v, wait)
                    .ok_or_else(|| no_job(id))?
            }
            _ => now,
        };
        let job = report::job(&job, &self.config);
        Ok(JobReply {
            boot_id: self.node.info().boot_id,
            job,
        })
    }
}

fn no_job(id: u64) -> ApiError {
    ApiError(format!(
        "no job {id} since this daemon started; `ctp96 jobs` lists them"
    ))
}

/// The values that a conservation equation speaks of; the others change even at rest.
fn in_balances(snapshot: &[u64]) -> Vec<u64> {
    let value = |c: &Counter| snapshot.get(*c as usize).copied().unwrap_or(0);
    BALANCES
        .iter()
        .flat_map(|b| b.left.iter().chain(b.right))
        .map(value)
        .collect()
}

impl Handler for Daemon {
    fn handle(&self, request: Request) -> Result<Reply, ApiError> {
        Ok(match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::Peers => Reply::Peers(self.peers()),
            Request::Lanes => {
                let s = self.node.snapshot();
                Reply::Lanes(LanesReply {
                    lanes: s.lanes,
                    sessions: s.sessions,
                })
            }
            Request::Hist { lane: None } => Reply::Hist(self.hists()),
            Request::Hist { lane: Some(n) } => Reply::Hist(self.lane_hists(n)?),
            Request::Counters { check } => Reply::Counters(self.counters(check)),
            Request::Send(r) => Reply::Send(self.send(r)?),
            Request::Job { id, since, wait_ms } => {
                Reply::Job(Box::new(self.job(id, since, wait_ms)?))
            }
            Request::Jobs => Reply::Jobs(JobsReply { jobs: self.jobs() }),
            Request::Cancel { id } => {
                if !self.service.cancel(JobId(id)) {
                    return Err(no_job(id));
                }
                Reply::Done(DoneReply {})
            }
            Request::Stop => {
                raise_stop();
                Reply::Done(DoneReply {})
            }
        })
    }
}
