//! Replies as text for people.

use ctp96::control::api::{
    CheckReply, CounterRow, CountersReply, Job, JobState, JobsReply, LanesReply, PathRow,
    PeersReply, StatusReply,
};
use ctp96::obs::text::{bytes, count, duration, rate, rate_and_target};
use ctp96::proto::{EcnState, PmtuOrigin, PmtuState};
use ctp96::stage::PathStatus;
use std::fmt::Write as _;

// Writing to a String cannot fail, so the results of writeln! are dropped throughout this file.

fn seconds(s: f64) -> String {
    duration((s.max(0.0) * 1e9) as u64)
}

/// `ctp96 status`
pub fn status(r: &StatusReply) -> String {
    let (e, m) = (&r.engine, &r.memory);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "ctp96d {}, process {}, up {}, listening on {}",
        r.version,
        r.pid,
        seconds(r.uptime_s),
        r.listen
    );
    let _ = writeln!(out, "public key  {}", e.public_key);
    let _ = writeln!(
        out,
        "now         {} sessions, {} lanes, {} transfers under way; {} peers configured",
        r.sessions, r.lanes, r.jobs_active, r.peers
    );
    for c in &e.cores {
        let cpu = c
            .cpu
            .map_or("not pinned".to_owned(), |n| format!("CPU {n}"));
        let _ = writeln!(
            out,
            "core {:<6} {cpu}, {}, {}, socket holds {} of payload",
            c.id,
            c.addr,
            c.backend,
            bytes(c.rx_capacity_bytes as u64)
        );
    }
    let _ = writeln!(out, "backend     {}", e.backend_why);
    if !r.xdp.is_empty() {
        let verdicts = r.xdp.iter().filter(|v| v.packets > 0);
        let verdicts = verdicts.map(|v| format!("{} {}", v.packets, v.name.replace('_', " ")));
        let verdicts = verdicts.collect::<Vec<_>>().join(", ");
        let none = "nothing yet";
        let text = if verdicts.is_empty() { none } else { &verdicts };
        let _ = writeln!(out, "            packets seen by the XDP program: {text}");
    }
    let _ = writeln!(
        out,
        "AEAD        offers {}; AES-256-GCM by {}: {}",
        e.suite, e.provider, e.provider_why
    );
    let _ = writeln!(
        out,
        "FEC         {} kernel; symbols of {} bytes, 64 to a slot of {}, {} slots a window",
        e.fec_kernel,
        e.symbol_len,
        bytes(64 * e.symbol_len as u64),
        e.window_slots
    );
    let _ = writeln!(
        out,
        "path        MTU up to {}{}; ECN {}",
        e.mtu,
        if e.mtu_discovery {
            ", searched for on each path"
        } else {
            ", taken as it is (mtu_discovery is off)"
        },
        if e.ecn {
            "where the path keeps it"
        } else {
            "off"
        }
    );
    for p in &r.paths {
        let _ = writeln!(out, "            {}: {}", p.peer, path(p));
    }
    let _ = writeln!(
        out,
        "verify      {}; compression {}",
        e.verify, r.compression
    );
    let _ = writeln!(
        out,
        "memory      {} for slots on {} pages, taken at start: {} lent, {} free",
        bytes(m.total_bytes),
        if m.huge_pages { "2 MiB" } else { "4 KiB" },
        bytes(m.lent_bytes),
        bytes(m.total_bytes.saturating_sub(m.lent_bytes))
    );
    let lanes = m.session_bytes.checked_div(m.lane_bytes).unwrap_or(0);
    let _ = writeln!(
        out,
        "            a session takes {}: {lanes} lanes of {}, each {} buffers of {}; it can have {} \
         in flight",
        bytes(m.session_bytes),
        bytes(m.lane_bytes),
        m.buffers_per_lane,
        bytes(m.buffer_bytes),
        bytes(lanes * (e.window_slots * 64 * e.symbol_len) as u64)
    );
    let room = m.total_bytes.checked_div(m.session_bytes).unwrap_or(0);
    let _ = writeln!(
        out,
        "            room for {room} sessions at once; the whole process has {} resident",
        bytes(m.resident_bytes)
    );
    let _ = writeln!(out, "state       {}", r.state_dir);
    out
}

/// What the paths of a session carry, as one phrase.
fn path(p: &PathRow) -> String {
    let least = &p.least;
    let range = if p.mtu_max > least.mtu {
        format!("{} to {}", least.mtu, p.mtu_max)
    } else {
        least.mtu.to_string()
    };
    format!(
        "packets of {range} bytes ({}), ECN {}",
        mtu_state(least),
        ecn_state(least.ecn.state)
    )
}

/// Where a path MTU came from, and what is being done about it.
fn mtu_state(p: &PathStatus) -> String {
    let from = match p.origin {
        PmtuOrigin::Configured => "as configured",
        PmtuOrigin::Base => "the base size",
        PmtuOrigin::Probe => "proven by probe",
        PmtuOrigin::Hint => "named by the kernel, proven by probe",
        PmtuOrigin::BlackHole => "the base size after a black hole",
    };
    match p.state {
        PmtuState::Fixed | PmtuState::Complete => from.to_owned(),
        PmtuState::Base | PmtuState::Searching => format!("{from}, larger ones are tried"),
        PmtuState::Checking => format!("{from}, in doubt"),
        PmtuState::Error => format!("{from}, which does not pass either"),
    }
}

fn ecn_state(s: EcnState) -> &'static str {
    match s {
        EcnState::Off => "off",
        EcnState::Testing => "testing",
        EcnState::Unknown => "unknown",
        EcnState::Capable => "capable",
        EcnState::Bleached => "not used: the path clears marks",
        EcnState::Mangled => "not used: the path changes marks",
        EcnState::Dropped => "not used: the path drops marked frames",
    }
}

/// `ctp96 peers`
pub fn peers(r: &PeersReply) -> String {
    if r.peers.is_empty() {
        return "no peers: add a [[peer]] table to the configuration and restart ctp96d\n".into();
    }
    let mut out = String::new();
    for p in &r.peers {
        let endpoint = p.endpoint.as_deref().unwrap_or("no endpoint, it calls us");
        let _ = writeln!(out, "{:<16} {}  {endpoint}", p.name, p.key);
        for dir in &p.recv {
            let _ = writeln!(out, "    may write to {dir}");
        }
        for s in &p.sessions {
            let _ = writeln!(
                out,
                "    session {:08x}  {}, {} by {}, {} lanes, {}, RTT {}, heard {} ago",
                s.index,
                s.addr,
                seconds(s.age_s),
                if s.initiator { "us" } else { "them" },
                s.lanes,
                s.suite,
                duration(s.srtt_ns),
                seconds(s.quiet_s)
            );
        }
        if p.sessions.is_empty() {
            let _ = writeln!(out, "    no session");
        }
    }
    out
}

/// A state as the replies spell it.
fn word(state: &impl serde::Serialize) -> String {
    match serde_json::to_value(state) {
        Ok(serde_json::Value::String(s)) => s,
        _ => "?".to_owned(),
    }
}

/// `ctp96 lanes`
pub fn lanes(r: &LanesReply) -> String {
    if r.lanes.is_empty() {
        return "no sessions, so no lanes\n".into();
    }
    let mut out = format!(
        "{:<16}{:>9}{:>5}{:>5}{:>11}{:>11}{:>11}{:>12}{:>12}{:>13}{:>10}{:>8}{:>8}{:>8}{:>9}{:>10}{:>9}{:>11}{:>10}{:>9}\n",
        "peer",
        "session",
        "lane",
        "core",
        "tx slot",
        "acked",
        "rx slot",
        "in flight",
        "cwnd",
        "pacing",
        "RTT",
        "lost",
        "repair",
        "resent",
        "rx queue",
        "tx queue",
        "path MTU",
        "search",
        "ECN",
        "CE"
    );
    for l in &r.lanes {
        let s = &l.status;
        let peer = r
            .sessions
            .iter()
            .find(|i| i.index == l.session)
            .map_or("?", |i| &i.peer);
        let pacing = if s.pacing_rate == 0 {
            "-".into()
        } else {
            rate(s.pacing_rate as f64)
        };
        let _ = write!(
            out,
            "{peer:<16} {:08x}{:>5}{:>5}{:>11}{:>11}{:>11}{:>12}{:>12}{pacing:>13}{:>10}{:>8}{:>8}{:>8}{:>9}{:>10}{:>9}{:>11}{:>10}{:>9}",
            l.session,
            s.lane,
            s.core,
            s.tx_next,
            s.tx_acked,
            s.rx_released,
            bytes(s.in_flight),
            bytes(s.cwnd),
            duration(s.srtt_ns),
            s.lost,
            s.repair,
            s.resent,
            s.queue.map_or("-".into(), |q| q.to_string()),
            match s.peer_queue {
                None => "-".into(),
                Some((is, wanted)) if is == wanted => is.to_string(),
                Some((is, wanted)) => format!("{is} not {wanted}"),
            },
            s.path.mtu,
            word(&s.path.state),
            word(&s.path.ecn.state),
            s.path.ecn.ce
        );
        match &l.closed {
            Some(why) => {
                let _ = writeln!(out, "  closed: {why}");
            }
            None => out.push('\n'),
        }
    }
    out
}

/// `ctp96 counters`: those that are not zero, or all; of a check alone only the verdict.
pub fn counters(r: &CountersReply, all: bool) -> String {
    let mut out = String::new();
    let shown = |c: &&CounterRow| all || (c.value != 0 && r.check.is_none());
    for c in r.counters.iter().filter(shown) {
        let _ = writeln!(out, "{:<28}{:>20}  {}", c.name, count(c.value), c.label);
    }
    if let Some(c) = &r.check
        && c.broken.is_empty()
    {
        let _ = writeln!(
            out,
            "the books balance: {} equations hold{}",
            c.equations,
            if c.at_rest { "" } else { ", while data moves" }
        );
    }
    out
}

/// Broken equations as a failure.
pub fn broken(c: &CheckReply) -> String {
    let when = if c.at_rest {
        "at rest, so something is counted wrongly or lost: please report it"
    } else {
        "while data moves, when a frame may be caught between two counters; check again at rest"
    };
    format!(
        "{} of {} equations are broken, {when}:\n  {}",
        c.broken.len(),
        c.equations,
        c.broken.join("\n  ")
    )
}

/// `ctp96 jobs`
pub fn jobs(r: &JobsReply) -> String {
    if r.jobs.is_empty() {
        return "no transfers since the daemon started\n".into();
    }
    let mut out = format!(
        "{:>5}  {:<4}  {:<16}{:<11}{:>13}{:>26}{:>12}  {}\n",
        "job", "", "peer", "state", "objects", "bytes", "resumed", "rate"
    );
    for j in &r.jobs {
        let _ = write!(
            out,
            "{:>5}  {:<4}  {:<16}{:<11}{:>13}{:>26}{:>12}  {}",
            j.id,
            if j.sending { "to" } else { "from" },
            j.peer,
            j.state.name(),
            format!("{}/{}", j.files_done, j.files_total),
            format!("{} / {}", bytes(j.bytes_done), bytes(j.bytes_total)),
            bytes(j.bytes_resumed),
            job_rate(j)
        );
        match &j.why {
            Some(why) => {
                let _ = writeln!(out, "  {why}");
            }
            None => out.push('\n'),
        }
        for note in &j.notes {
            let _ = writeln!(out, "         {note}");
        }
    }
    out
}

fn job_rate(j: &Job) -> String {
    match j.state {
        JobState::Connecting | JobState::Waiting => "-".into(),
        _ => rate_and_target(j.bytes_per_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_show_is_said() {
        let lanes_text = lanes(&LanesReply {
            lanes: vec![],
            sessions: vec![],
        });
        assert!(lanes_text.starts_with("no sessions"));
        assert!(jobs(&JobsReply { jobs: vec![] }).starts_with("no transfers"));
        assert!(peers(&PeersReply { peers: vec![] }).contains("[[peer]]"));
    }

    #[test]
    fn the_books_are_reported() {
        let row = |name: &str, value| CounterRow {
            name: name.into(),
            label: "X.".into(),
            value,
        };
        let mut r = CountersReply {
            counters: vec![row("rx_frames", 1234), row("tx_frames", 0)],
            check: None,
        };
        let text = counters(&r, false);
        assert!(text.contains("1,234") && !text.contains("tx_frames"));
        assert!(counters(&r, true).contains("tx_frames"));
        r.check = Some(CheckReply {
            equations: 6,
            broken: vec![],
            at_rest: true,
        });
        assert_eq!(counters(&r, false), "the books balance: 6 equations hold\n");
        assert!(counters(&r, true).contains("1,234"));
        let check = CheckReply {
            equations: 6,
            broken: vec!["a: 1 != 2".into()],
            at_rest: false,
        };
        assert!(broken(&check).contains("1 of 6") && broken(&check).contains("a: 1 != 2"));
        r.check = Some(check);
        assert!(!counters(&r, false).contains("balance"));
    }
}
