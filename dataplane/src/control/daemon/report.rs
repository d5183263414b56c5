//! What the daemon says about itself: replies, and the summary at start.

use super::setup::Sizes;
use super::{Daemon, PublicKey};
use crate::control::api::{Job, JobState, MemoryReply, PathRow};
use crate::control::config::Config;
use crate::engine::{SessionInfo, Snapshot};
use crate::obs::text;
use crate::service::{Direction, JobState as State, JobStatus};
use std::fmt::Write as _;

pub(super) fn memory(sizes: &Sizes, snapshot: &Snapshot) -> MemoryReply {
    MemoryReply {
        total_bytes: snapshot.memory_bytes as u64,
        lent_bytes: snapshot.memory_lent_bytes as u64,
        buffer_bytes: sizes.buffer as u64,
        buffers_per_lane: sizes.per_lane as u64,
        lane_bytes: (sizes.buffer * sizes.per_lane) as u64,
        session_bytes: sizes.session as u64,
        huge_pages: snapshot.huge_pages,
        resident_bytes: resident_bytes().unwrap_or(0),
    }
}

/// What the paths of each session carry.
pub(super) fn paths(snapshot: &Snapshot) -> Vec<PathRow> {
    let row = |s: &SessionInfo| {
        let lanes = snapshot.lanes.iter().filter(|l| l.session == s.index);
        let paths = lanes.map(|l| l.status.path).filter(|p| p.mtu > 0);
        let least = paths.clone().min_by_key(|p| p.mtu)?;
        Some(PathRow {
            peer: s.peer.clone(),
            session: s.index,
            mtu_max: paths.map(|p| p.mtu).max()?,
            least,
        })
    };
    snapshot.sessions.iter().filter_map(row).collect()
}

/// Resident memory of this process.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}

fn peer_name(key: &PublicKey, config: &Config) -> String {
    let text = key.to_string();
    match config.peers.iter().find(|p| p.key == text) {
        Some(p) => p.name.clone(),
        None => text,
    }
}

pub(super) fn job(s: &JobStatus, config: &Config) -> Job {
    let (state, why) = match &s.state {
        State::Connecting => (JobState::Connecting, None),
        State::Running => (JobState::Running, None),
        State::Waiting { why } => (JobState::Waiting, Some(why.clone())),
        State::Done => (JobState::Done, None),
        State::Failed { why } => (JobState::Failed, Some(why.clone())),
        State::Cancelled => (JobState::Cancelled, None),
    };
    Job {
        id: s.id.0,
        sending: s.direction == Direction::Send,
        peer: peer_name(&s.peer, config),
        state,
        why: why.or_else(|| s.error.clone()),
        files_total: s.files_total,
        files_done: s.files_done,
        files_failed: s.files_failed,
        bytes_total: s.bytes_total,
        bytes_done: s.bytes_done,
        bytes_resumed: s.bytes_resumed,
        bytes_sent: s.bytes_sent,
        started_unix_s: s.started_unix_s,
        elapsed_s: s.elapsed_s,
        bytes_per_s: s.rate,
        reconnects: s.reconnects,
        notes: s.notes.clone(),
        receipts: s.receipts.clone(),
        version: s.version,
    }
}

impl Daemon {
    /// What a start-up log should say: who, where, on what, and why that.
    pub fn summary(&self) -> String {
        let (info, config) = (self.node.info(), &self.config);
        let mut out = String::new();
        let mut line = |what: &str, text: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  {what:<9} {text}");
        };
        line("key", info.public_key.clone());
        for c in &info.cores {
            let cpu = c
                .cpu
                .map_or("not pinned".to_owned(), |n| format!("CPU {n}"));
            line(
                &format!("core {}", c.id),
                format!("{cpu}, UDP {}, {}", c.addr, c.backend),
            );
        }
        line("backend", info.backend_why.clone());
        line(
            "AEAD",
            format!(
                "offers {}; AES-256-GCM by {}: {}",
                info.suite, info.provider, info.provider_why
            ),
        );
        line(
            "FEC",
            format!(
                "{} kernel, symbols of {} bytes, {} slots a window",
                info.fec_kernel, info.symbol_len, info.window_slots
            ),
        );
        line(
            "verify",
            format!("{}, compression {}", info.verify, config.compression.policy),
        );
        let snapshot = self.node.snapshot();
        line(
            "memory",
            format!(
                "{} for slots, {} a session of {} lanes that can have {} in flight, {} pages",
                text::bytes(config.memory.budget.0),
                text::bytes(self.sizes.session as u64),
                self.sizes.lanes,
                text::bytes(self.sizes.window as u64),
                if snapshot.huge_pages {
                    "2 MiB"
                } else {
                    "4 KiB"
                },
            ),
        );
        let peers: Vec<_> = config
            .peers
            .iter()
            .map(|p| match &p.endpoint {
                Some(e) => format!("{} at {e}", p.name),
                None => format!("{} (calls us)", p.name),
            })
            .collect();
        line(
            "peers",
            if peers.is_empty() {
                "none: nobody can connect; add a [[peer]] table".to_owned()
            } else {
                peers.join(", ")
            },
        );
        line("control", config.node.control_socket.display().to_string());
        out
    }
}
