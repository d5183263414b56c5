//! CTP-96 as a contender: a node on each side, one lane core and the application on one CPU each.

use crate::Result;
use crate::contender::{Contender, Sample, Task};
use crate::load::{self, Load};
use crate::peer::{self, Job, Ready, SideReport};
use crate::site::Site;
use ::tests::lab::LINK;
use ctp96::api::{Node, NodeBuilder};
use ctp96::backend::af_xdp::{AfXdpConfig, AttachMode};
use ctp96::codec::Policy;
use ctp96::crypto::identity::Identity;
use ctp96::engine::{BackendChoice, SuiteChoice};
use ctp96::verify::Level;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A stall this long means that the other side is gone.
pub const STALL: Duration = Duration::from_secs(30);

/// How the nodes of a run are set up. The bytes are incompressible and compression is off, as it is
/// for the baselines.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Secret of this side's identity, made for the run.
    secret: [u8; 32],
    /// Secret of the other side's.
    peer: [u8; 32],
    /// Path MTU, bytes.
    mtu: usize,
    /// `auto`, `udp`, `io_uring` or `af_xdp`.
    backend: String,
    /// Where the XDP program runs.
    #[serde(default)]
    generic: bool,
    /// `fast` or `full`.
    verify: String,
    /// `auto`, `aes-256-gcm`, `aegis-256x2` or `aegis-256`.
    suite: String,
    /// Lanes of the session.
    pub lanes: usize,
    /// Lane cores of each side.
    pub cores: usize,
    /// What the application does with the lanes.
    pub load: Load,
    /// Whether both sides report where their time went.
    pub observe: bool,
}

/// CTP-96 over UDP with one backend, one verification level and one suite.
pub struct Ctp {
    /// `auto`, `udp`, `io_uring` or `af_xdp`.
    pub backend: String,
    /// `fast` or `full`.
    pub verify: String,
    /// `auto`, `aes-256-gcm`, `aegis-256x2` or `aegis-256`.
    pub suite: String,
}

impl Ctp {
    /// A row of the command line, `backend[:level[:suite]]`.
    pub fn parse(row: &str) -> Result<Ctp> {
        let mut parts = row.split(':');
        let backend = parts.next().unwrap_or_default();
        let verify = parts.next().unwrap_or("fast");
        let suite = parts.next().unwrap_or("auto");
        if !["auto", "udp", "io_uring", "io_uring_zc", "af_xdp"].contains(&backend)
            || !["fast", "full"].contains(&verify)
            || !["auto", "aes-256-gcm", "aegis-256x2", "aegis-256"].contains(&suite)
            || parts.next().is_some()
        {
            return Err(format!(
                "`{row}` is no row; give for instance auto:fast or udp:full:aegis-256x2"
            )
            .into());
        }
        Ok(Ctp {
            backend: backend.to_owned(),
            verify: verify.to_owned(),
            suite: suite.to_owned(),
        })
    }
}

impl Contender for Ctp {
    fn name(&self) -> String {
        format!("ctp96 {} {} {}", self.backend, self.verify, self.suite)
    }

    fn transfer(&self, site: &Site, task: &Task) -> Result<Sample> {
        let setup = Setup::new(site, self, false);
        peer::run_pair(site, task, "bbr-like", peer::Stack::Ctp(setup))
    }
}

impl Setup {
    /// A run of `row` at `site`, one lane, slots written in place; `generic` matters to AF_XDP alone.
    pub fn new(site: &Site, row: &Ctp, generic: bool) -> Setup {
        let (mut secret, mut peer) = ([0; 32], [0; 32]);
        // Keys for one run between two processes of this bench; they protect nothing else.
        for (i, b) in secret.iter_mut().chain(&mut peer).enumerate() {
            *b = (i as u8).wrapping_mul(37) ^ std::process::id() as u8;
        }
        Setup {
            secret,
            peer,
            mtu: site.mtu() as usize,
            backend: row.backend.clone(),
            generic,
            verify: row.verify.clone(),
            suite: row.suite.clone(),
            lanes: 1,
            cores: 1,
            load: Load::Slots,
            observe: false,
        }
    }

    /// `auto`, `aes-256-gcm`, `aegis-256x2` or `aegis-256`.
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// The same run seen from the other side.
    pub fn swapped(&self) -> Setup {
        Setup {
            secret: self.peer,
            peer: self.secret,
            ..self.clone()
        }
    }

    fn node(&self, core: usize, listen: SocketAddr, to: Option<SocketAddr>) -> Result<Node> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        // The first with the application, the others on the CPUs that follow.
        let place = |i| {
            if i == 0 {
                core
            } else {
                (core + i) % cpus.max(1)
            }
        };
        let cores: Vec<usize> = (0..self.cores).map(place).collect();
        let builder: NodeBuilder = Node::builder(Identity::from_secret(&self.secret));
        let peer = Identity::from_secret(&self.peer).public();
        Ok(builder
            .listen(listen)
            .peer("peer", peer, to)
            .pin(&cores)
            .mtu(self.mtu)
            .lanes(self.lanes, 96)
            .verify(self.verify.parse::<Level>()?)
            .backend(match self.backend.as_str() {
                "udp" => BackendChoice::Udp,
                "io_uring" => BackendChoice::IoUring,
                "io_uring_zc" => BackendChoice::IoUringZeroCopy,
                "af_xdp" => BackendChoice::AfXdp,
                _ => BackendChoice::Auto,
            })
            .af_xdp(AfXdpConfig {
                interface: Some(LINK.to_owned()),
                mode: if self.generic {
                    AttachMode::Generic
                } else {
                    AttachMode::Native
                },
                ..AfXdpConfig::default()
            })
            .suite(match self.suite.as_str() {
                "aes-256-gcm" => SuiteChoice::Aes256Gcm,
                "aegis-256x2" => SuiteChoice::Aegis256x2,
                "aegis-256" => SuiteChoice::Aegis256,
                _ => SuiteChoice::Auto,
            })
            .compression(Policy::None)
            .start()?)
    }
}

/// Sends the job's payload to `to`.
pub fn send(job: &Job, to: SocketAddr, setup: &Setup) -> Result<SideReport> {
    let any = SocketAddr::new(
        if to.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            [0u16; 8].into()
        },
        0,
    );
    let payload = load::payload(job, &setup.load)?;
    let node = setup.node(job.core, any, Some(to))?;
    let session = node.connect(&Identity::from_secret(&setup.peer).public(), STALL)?;
    load::send(job, setup, &node, &session, payload)
}

/// Accepts one session and receives the job's payload.
pub fn receive(job: &Job, bind: IpAddr, setup: &Setup) -> Result<SideReport> {
    let node = setup.node(job.core, SocketAddr::new(bind, 0), None)?;
    peer::say(&Ready {
        addr: node.local_addr(),
    })?;
    let session = node.accept(STALL)?;
    let report = load::receive(job, setup, &node, &session);
    // The last witness must leave before the node does; a run that time limits waits for none.
    if !job.end().is_set() {
        std::thread::sleep(Duration::from_millis(300));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_parse() {
        for (row, name) in [
            ("auto", "ctp96 auto fast auto"),
            ("udp:full", "ctp96 udp full auto"),
            ("auto:fast:aegis-256", "ctp96 auto fast aegis-256"),
            (
                "io_uring:fast:aegis-256x2",
                "ctp96 io_uring fast aegis-256x2",
            ),
        ] {
            assert_eq!(Ctp::parse(row).expect(row).name(), name);
        }
        for bad in [
            "",
            "tcp",
            "auto:slow",
            "auto:fast:aes",
            "auto:fast:auto:x",
            "auto::",
        ] {
            assert!(Ctp::parse(bad).is_err(), "{bad}");
        }
    }
}
