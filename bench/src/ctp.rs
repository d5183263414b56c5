//! CTP-96 as a contender: a node on each side, one lane core and the application on one CPU each.

use crate::Result;
use crate::baseline::Payload;
use crate::contender::{Contender, Sample, Task};
use crate::peer::{self, Job, Meter, Ready, SideReport};
use ::tests::lab::{LINK, Lab};
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
const STALL: Duration = Duration::from_secs(30);

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
    /// `auto`, `aes-256-gcm` or `aegis-256x2`.
    suite: String,
}

/// CTP-96 over UDP with one backend, one verification level and one suite.
pub struct Ctp {
    /// `auto`, `udp`, `io_uring` or `af_xdp`.
    pub backend: String,
    /// `fast` or `full`.
    pub verify: String,
    /// `auto`, `aes-256-gcm` or `aegis-256x2`.
    pub suite: String,
}

impl Ctp {
    /// A row of the command line, `backend[:level[:suite]]`.
    pub fn parse(row: &str) -> Result<Ctp> {
        let mut parts = row.split(':');
        let backend = parts.next().unwrap_or_default();
        let verify = parts.next().unwrap_or("fast");
        let suite = parts.next().unwrap_or("auto");
        if !["auto", "udp", "io_uring", "af_xdp"].contains(&backend)
            || !["fast", "full"].contains(&verify)
            || !["auto", "aes-256-gcm", "aegis-256x2"].contains(&suite)
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

    fn transfer(&self, lab: &Lab, task: &Task) -> Result<Sample> {
        let setup = Setup::new(lab, self, false);
        peer::run_pair(lab, task, "bbr-like", peer::Stack::Ctp(setup))
    }
}

impl Setup {
    /// A run of `row` in `lab`; `generic` matters to AF_XDP alone.
    pub fn new(lab: &Lab, row: &Ctp, generic: bool) -> Setup {
        let (mut secret, mut peer) = ([0; 32], [0; 32]);
        // Keys for one run between two processes of this bench; they protect nothing else.
        for (i, b) in secret.iter_mut().chain(&mut peer).enumerate() {
            *b = (i as u8).wrapping_mul(37) ^ std::process::id() as u8;
        }
        Setup {
            secret,
            peer,
            mtu: lab.mtu() as usize,
            backend: row.backend.clone(),
            generic,
            verify: row.verify.clone(),
            suite: row.suite.clone(),
        }
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
        let builder: NodeBuilder = Node::builder(Identity::from_secret(&self.secret));
        let peer = Identity::from_secret(&self.peer).public();
        Ok(builder
            .listen(listen)
            .peer("peer", peer, to)
            .pin(&[core])
            .mtu(self.mtu)
            .lanes(1, 96)
            .verify(self.verify.parse::<Level>()?)
            .backend(match self.backend.as_str() {
                "udp" => BackendChoice::Udp,
                "io_uring" => BackendChoice::IoUring,
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
    let node = setup.node(job.core, any, Some(to))?;
    let session = node.connect(&Identity::from_secret(&setup.peer).public(), STALL)?;
    let (mut lane, _) = session.lane(0)?;
    let mut payload = Payload::new(job.bytes, job.chunk.min(lane.slot_capacity()))?;
    let meter = Meter::start()?;
    while let Some(piece) = payload.next_piece() {
        let mut slot = lane.claim(STALL)?;
        slot[..piece.len()].copy_from_slice(piece);
        slot.commit(piece.len());
    }
    lane.wait_witnessed(STALL)?;
    let report = meter.stop(job.bytes);
    if std::env::var_os("CTP96_BENCH_STAGES").is_some() {
        peer::stages("send", &node);
    }
    report
}

/// Accepts one session and receives the job's payload.
pub fn receive(job: &Job, bind: IpAddr, setup: &Setup) -> Result<SideReport> {
    let node = setup.node(job.core, SocketAddr::new(bind, 0), None)?;
    peer::say(&Ready {
        addr: node.local_addr(),
    })?;
    let session = node.accept(STALL)?;
    let (_, mut lane) = session.lane(0)?;
    let meter = Meter::start()?;
    let mut received = 0;
    while received < job.bytes {
        received += lane.slot(STALL)?.len() as u64;
    }
    let report = meter.stop(received);
    if std::env::var_os("CTP96_BENCH_STAGES").is_some() {
        peer::stages("receive", &node);
    }
    // The last witness must leave before the node does.
    std::thread::sleep(Duration::from_millis(300));
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
