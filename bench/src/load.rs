//! What an application does with the lanes of a session: bulk slots, messages of many streams, or
//! messages at a held rate.
//!
//! At a held rate every message has a time at which it is due, fixed before the run. Its latency
//! counts from there and not from when the sender got round to it, so that a stall is charged to
//! every message that it held up (what is called correction of coordinated omission).

mod held;

pub use held::{HEAD, Head, Latency, Pace};

use crate::Result;
use crate::baseline::Payload;
use crate::ctp::{STALL, Setup};
use crate::peer::{self, Job, Meter, NodeReport, SideReport, StageReport};
use crate::schema::{Curve, Occupancy};
use ctp96::api::{LaneReceiver, LaneSender, Node, Session};
use ctp96::base::clock::host_monotonic_ns;
use ctp96::base::limits::WINDOW_SLOTS;
use ctp96::crypto::Provider;
use ctp96::obs::{Counter, Hist};
use serde::{Deserialize, Serialize};

/// What the application does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Load {
    /// Fills slots of one lane in place, as fast as they are free.
    Slots,
    /// Sends messages of streams in turn, each stream on lane `stream mod lanes`.
    Messages {
        /// Streams, 1 or more.
        streams: u32,
        /// Bytes of a message, [`HEAD`] or more.
        len: usize,
    },
    /// As messages of one stream, but each is due at its own time.
    Paced {
        /// Bytes of a message, [`HEAD`] or more.
        len: usize,
        /// Time between two messages, nanoseconds.
        interval_ns: u64,
        /// Parts of the run that are looked at one by one.
        windows: usize,
    },
}

/// Slots between two looks at the windows.
const OCCUPANCY_EVERY: u64 = 61;

impl Load {
    /// Bytes that a run of about `bytes` really moves.
    pub fn whole(&self, bytes: u64) -> u64 {
        match self {
            Load::Slots => bytes,
            Load::Messages { len, .. } | Load::Paced { len, .. } => {
                let len = *len as u64;
                (bytes / len.max(1)).max(1) * len
            }
        }
    }
}

/// Checks a message size that came from the command line.
fn check_len(len: usize) -> Result<usize> {
    let most = ctp96::base::limits::MAX_MESSAGE_LEN;
    if (HEAD..=most).contains(&len) {
        Ok(len)
    } else {
        Err(format!("a message must have {HEAD} to {most} bytes").into())
    }
}

/// What [`send`] will send. It takes a while to make, so it is made before the session: the receiver's
/// clock runs from then on.
///
/// # Errors
/// The messages have a length that there is none of.
pub fn payload(job: &Job, load: &Load) -> Result<Payload> {
    match load {
        Load::Slots => Payload::new(job.bytes, job.chunk),
        Load::Messages { len, .. } | Load::Paced { len, .. } => {
            Payload::new(job.bytes, check_len(*len)?)
        }
    }
}

/// The sending application.
pub fn send(
    job: &Job,
    setup: &Setup,
    node: &Node,
    session: &Session,
    mut payload: Payload,
) -> Result<SideReport> {
    let mut lanes = Vec::new();
    for n in 0..session.lanes() {
        lanes.push(session.lane(n)?.0);
    }
    let first = lanes.first_mut().ok_or("a session without lanes")?;
    let mut watch = Watch::new(setup.lanes);
    let mut turns = Turns::default();
    let meter;
    match setup.load {
        Load::Slots => {
            payload.shorten(first.slot_capacity());
            meter = Meter::start()?;
            let (end, mut sent) = (job.end(), 0);
            'pieces: while let Some(piece) = payload.next_piece() {
                // A path that carries less than configured makes slots smaller.
                let mut rest = piece;
                while !rest.is_empty() {
                    let n = if let Ok(slot) = first.try_claim() {
                        turns.count(true);
                        let n = rest.len().min(slot.len());
                        slot.fill(&rest[..n]);
                        n
                    } else {
                        turns.count(false);
                        match first.claim(end.left()) {
                            Ok(slot) => {
                                let n = rest.len().min(slot.len());
                                slot.fill(&rest[..n]);
                                n
                            }
                            Err(_) if end.over() => break 'pieces,
                            Err(e) => return Err(e.into()),
                        }
                    };
                    sent += n as u64;
                    rest = &rest[n..];
                }
                if setup.observe {
                    watch.look(std::slice::from_ref(first));
                }
                if end.passed() {
                    break;
                }
            }
            if end.is_set() {
                let report = meter.stop(sent)?;
                return finish(report, "send", setup, node, |r| r.occupancy = watch.end());
            }
        }
        Load::Messages { streams, len } => {
            let mut message = vec![0; len];
            meter = Meter::start()?;
            let count = lanes.len() as u64;
            let mut n = 0_u64;
            while let Some(piece) = payload.next_piece() {
                let message = &mut message[..piece.len()];
                message.copy_from_slice(piece);
                let (stream, number) =
                    (n % u64::from(streams.max(1)), n / u64::from(streams.max(1)));
                let (due, sent) = (0, 0);
                Head {
                    stream,
                    number,
                    due,
                    sent,
                }
                .write(message);
                lanes[(stream % count) as usize].send(message)?;
                n += 1;
                if setup.observe {
                    watch.look(&lanes);
                }
            }
        }
        Load::Paced {
            len, interval_ns, ..
        } => {
            let mut message = vec![0; len];
            meter = Meter::start()?;
            let mut pace = Pace::new(interval_ns);
            while let Some(piece) = payload.next_piece() {
                let message = &mut message[..piece.len()];
                message.copy_from_slice(piece);
                pace.wait().write(message);
                first.send(message)?;
            }
        }
    }
    for lane in &mut lanes {
        lane.wait_witnessed(STALL)?;
    }
    let report = meter.stop(job.bytes)?;
    finish(report, "send", setup, node, |r| {
        r.occupancy = watch.end();
        r.at_once = turns.at_once();
    })
}

/// The receiving application.
pub fn receive(job: &Job, setup: &Setup, node: &Node, session: &Session) -> Result<SideReport> {
    let mut lanes = Vec::new();
    for n in 0..session.lanes() {
        lanes.push(session.lane(n)?.1);
    }
    let first = lanes.first_mut().ok_or("a session without lanes")?;
    let mut late = None;
    let mut turns = Turns::default();
    let meter = Meter::start()?;
    let mut received = 0;
    match setup.load {
        Load::Slots => {
            let end = job.end();
            while received < job.bytes && !end.over() {
                if let Ok(slot) = first.try_slot() {
                    turns.count(true);
                    received += slot.len() as u64;
                    continue;
                }
                turns.count(false);
                match first.slot(end.left()) {
                    Ok(slot) => received += slot.len() as u64,
                    Err(_) if end.over() => break,
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Load::Messages { streams, .. } => received = in_turn(&mut lanes, streams, job.bytes)?,
        Load::Paced { windows, len, .. } => {
            let messages = job.bytes / len.max(1) as u64;
            let mut watch = Latency::new(messages, windows.max(1));
            let mut message = Vec::new();
            for n in 0..messages {
                first.recv_timeout(&mut message, STALL)?;
                received += message.len() as u64;
                let head = Head::read(&message).ok_or("a message without its head")?;
                if head.number != n {
                    return Err(format!("message {n} expected, {} came", head.number).into());
                }
                watch.add(n, &head, message.len(), host_monotonic_ns());
            }
            late = Some(watch);
        }
    }
    let report = meter.stop(received)?;
    finish(report, "receive", setup, node, |r| {
        r.at_once = turns.at_once();
        if let Some(late) = late {
            late.into_report(r);
        }
    })
}

/// Receives messages in the order in which [`send`] sends them, and checks it.
fn in_turn(lanes: &mut [LaneReceiver], streams: u32, bytes: u64) -> Result<u64> {
    let (streams, count) = (u64::from(streams.max(1)), lanes.len() as u64);
    let (mut received, mut n) = (0, 0_u64);
    let mut message = Vec::new();
    while received < bytes {
        let (stream, number) = (n % streams, n / streams);
        lanes[(stream % count) as usize].recv_timeout(&mut message, STALL)?;
        let head = Head::read(&message).ok_or("a message without its head")?;
        if (head.stream, head.number) != (stream, number) {
            return Err(format!(
                "message {number} of stream {stream} expected, {} of {} came",
                head.number, head.stream
            )
            .into());
        }
        received += message.len() as u64;
        n += 1;
    }
    Ok(received)
}

/// Adds the node's own figures to a report, where they were asked for.
fn finish(
    mut report: SideReport,
    side: &str,
    setup: &Setup,
    node: &Node,
    more: impl FnOnce(&mut NodeReport),
) -> Result<SideReport> {
    if std::env::var_os("CTP96_BENCH_STAGES").is_some() {
        peer::stages(side, node);
    }
    if !setup.observe {
        return Ok(report);
    }
    let info = node.info();
    let hists = node.registry().hists();
    let counters = node.registry().counters();
    let mut own = NodeReport {
        side: side.to_owned(),
        backend: info
            .cores
            .first()
            .map_or(String::new(), |c| c.backend.clone()),
        provider: info.provider.clone(),
        verify: info.verify.clone(),
        fec: info.fec_kernel.clone(),
        symbol_len: info.symbol_len,
        bytes: report.bytes,
        wall_s: report.wall_s,
        cpu_s: report.cpu_s,
        rss_max: rss_max(),
        ..NodeReport::default()
    };
    for (h, hist) in Hist::ALL.iter().zip(&hists) {
        if hist.is_empty() {
            continue;
        }
        match h {
            Hist::OneWaySlot | Hist::Rtt => own.curves.push(Curve::of(h.name(), hist)),
            _ => own.stages.push(StageReport {
                name: h.name().to_owned(),
                calls: hist.len(),
                total_ns: (hist.mean() * hist.len() as f64) as u64,
            }),
        }
    }
    for (c, value) in Counter::ALL.iter().zip(&counters) {
        own.counters.insert(c.name().to_owned(), *value);
    }
    // The node's provider is the one for AES; which suite was agreed on is the session's.
    let agreed = node.snapshot().sessions.first().map(|s| s.suite.clone());
    let agreed = agreed.unwrap_or_default().to_ascii_lowercase();
    let asked = setup.suite();
    for aegis in [Provider::Aegis256x2, Provider::Aegis256].map(Provider::name) {
        if asked == aegis || (asked == "auto" && agreed == aegis) {
            own.provider = aegis.to_owned();
        }
    }
    more(&mut own);
    report.node = Some(own);
    Ok(report)
}

/// Largest memory of this process so far, bytes; 0 where the kernel does not say.
fn rss_max() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Memory of this process now, MiB.
fn rss_mib() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|v| v.parse().ok());
    pages.unwrap_or(0.0) * 4096.0 / (1 << 20) as f64
}

/// How often the application had to wait for the lane's core.
#[derive(Default)]
struct Turns {
    all: u64,
    at_once: u64,
}

impl Turns {
    fn count(&mut self, at_once: bool) {
        self.all += 1;
        self.at_once += u64::from(at_once);
    }

    fn at_once(&self) -> Option<f64> {
        (self.all > 0).then(|| self.at_once as f64 / self.all as f64)
    }
}

/// Counts which slots are in flight, now and then.
struct Watch {
    seen: Occupancy,
    next: u64,
}

impl Watch {
    fn new(lanes: usize) -> Watch {
        let counts = vec![0; lanes * WINDOW_SLOTS];
        Watch {
            seen: Occupancy {
                counts,
                ..Occupancy::default()
            },
            next: 0,
        }
    }

    fn look(&mut self, lanes: &[LaneSender]) {
        let sent: u64 = lanes.iter().map(LaneSender::slots_sent).sum();
        if sent < self.next {
            return;
        }
        self.next = sent + OCCUPANCY_EVERY;
        self.seen.samples += 1;
        for (lane, of_lane) in lanes.iter().zip(self.seen.counts.chunks_mut(WINDOW_SLOTS)) {
            let end = lane.slots_sent();
            let start = lane
                .slots_acked()
                .max(end.saturating_sub(WINDOW_SLOTS as u64));
            for slot in start..end {
                of_lane[(slot % WINDOW_SLOTS as u64) as usize] += 1;
            }
        }
    }

    fn end(self) -> Option<Occupancy> {
        (self.seen.samples > 0).then_some(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages_are_moved() {
        let messages = Load::Messages {
            streams: 3,
            len: 1000,
        };
        assert_eq!(messages.whole(2_500), 2_000);
        assert_eq!(messages.whole(10), 1_000);
        assert_eq!(Load::Slots.whole(10), 10);
        assert!(check_len(31).is_err() && check_len(32).is_ok());
        assert!(check_len((16 << 20) + 1).is_err());
    }
}
