//! Whether the values of a configuration make sense, each alone and together.

use super::{ByteSize, Config, Cores, Lanes, Repair};
use crate::base::limits;
use std::collections::HashSet;
use std::path::{Component, Path};

impl Config {
    pub(super) fn complaints(&self) -> Vec<Complaint> {
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
        if let Lanes::Count(n) = session.lanes {
            out.range("session.lanes", n as u64, 1, limits::MAX_LANES as u64);
        }
        if let Some(rtt) = self.path.rtt_ms {
            out.range("path.rtt_ms", rtt, 1, 10_000);
        }
        for (key, here, other) in [
            ("path.rate", self.path.rate.is_some(), "path.rtt_ms"),
            ("path.rtt_ms", self.path.rtt_ms.is_some(), "path.rate"),
        ] {
            let there = self.path.rate.is_some() && self.path.rtt_ms.is_some();
            if here && !there {
                out.add(key, format!("is set and {other} is not: one says nothing"));
            }
        }
        let slots = session.window_slots as u64;
        out.range(
            "session.window_slots",
            slots,
            8,
            limits::WINDOW_SLOTS as u64,
        );
        let weights = &session.lane_weights;
        let good = |w: &u32| (1..=crate::proto::path::MAX_WEIGHT).contains(w);
        if weights.len() > limits::MAX_LANES || !weights.iter().all(good) {
            out.add("session.lane_weights", format!("is {weights:?}"));
        }
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
        if let Some(name) = &self.af_xdp.interface
            && (!(1..=15).contains(&name.len()) || name.contains(['/', ' ']))
        {
            out.add("af_xdp.interface", format!("is {name:?}"));
        }
        if let Some(queues) = &self.af_xdp.queues {
            let different = queues.iter().collect::<HashSet<_>>().len() == queues.len();
            if !different || queues.is_empty() || queues.iter().any(|q| *q > 127) {
                out.add("af_xdp.queues", format!("is {queues:?}"));
            }
        }
        if session.lanes == Lanes::Auto
            && let Some(n) = self.lanes_for_path()
            && n > limits::WINDOWS_PER_BDP * limits::MAX_LANES as u64
        {
            let rate = self.path.rate.map_or_else(String::new, |r| r.to_string());
            let rtt = self.path.rtt_ms.unwrap_or(0);
            out.0.push(Complaint {
                path: "session.lanes".to_owned(),
                what: format!(
                    "is \"auto\", and {rate} over {rtt} ms at MTU {} is more than {} lanes of {slots} \
                     slots hold even where no frame is lost",
                    node.mtu,
                    limits::MAX_LANES
                ),
                fix: "; raise node.mtu, or set 128 and accept a lower rate",
            });
        }
        out.range("memory.budget", self.memory.budget.0, 16 << 20, 4 << 40);
        let needed = self.session_bytes();
        if out.0.is_empty() && self.memory.budget.0 < needed {
            let shown = ByteSize(needed.next_multiple_of(1 << 20));
            out.0.push(Complaint {
                path: "memory.budget".to_owned(),
                what: format!(
                    "is {}, and one session of {} lanes with {} slots at MTU {} takes {shown}",
                    self.memory.budget,
                    self.lanes(),
                    session.window_slots,
                    node.mtu
                ),
                fix: "; raise memory.budget, or lower session.lanes, session.window_slots or node.mtu",
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

/// A value that is not allowed, and the key that holds it.
pub(super) struct Complaint {
    pub path: String,
    pub what: String,
    pub fix: &'static str,
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
