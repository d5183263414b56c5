//! Plain TCP: large writes on one side, large reads on the other, nothing checked.

use super::Payload;
use crate::Result;
use crate::contender::{Contender, Sample, Task};
use crate::load::{Head, Latency, Pace};
use crate::peer::{self, End, Job, Meter, NodeReport, Ready, SideReport};
use crate::site::Site;
use ctp96::base::clock::host_monotonic_ns;
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

/// A stall this long means that the other side is gone.
const STALL: Duration = Duration::from_secs(30);

/// Plain TCP with one congestion control.
pub struct Tcp {
    /// Name that the kernel knows it by, such as `cubic`.
    pub congestion: String,
}

impl Contender for Tcp {
    fn name(&self) -> String {
        format!("tcp {}", self.congestion)
    }

    fn transfer(&self, site: &Site, task: &Task) -> Result<Sample> {
        peer::run_pair(site, task, &self.congestion, peer::Stack::Tcp)
    }
}

/// Congestion controls that this kernel offers.
pub fn available() -> Vec<String> {
    std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control")
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Sends the job's payload to `to`.
pub fn send(job: &Job, to: SocketAddr) -> Result<SideReport> {
    let mut payload = Payload::new(job.bytes, job.chunk)?;
    let mut stream = connect(job, to)?;
    let meter = Meter::start()?;
    let end = job.end();
    stream.set_write_timeout(Some(end.tick()))?;
    let mut sent = 0;
    while let Some(piece) = payload.next_piece() {
        let n = write_until(&mut stream, piece, &end)?;
        sent += n as u64;
        if n < piece.len() {
            break;
        }
    }
    if end.is_set() {
        abort_on_close(&stream)?;
    } else {
        stream.read_exact(&mut [0])?;
    }
    meter.stop(sent)
}

/// Writes all of `piece`, or what can be written until `end`.
fn write_until(stream: &mut TcpStream, piece: &[u8], end: &End) -> io::Result<usize> {
    let mut at = 0;
    while at < piece.len() && !end.passed() {
        match stream.write(&piece[at..]) {
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if waits(&e) && end.is_set() => {}
            Err(_) if end.over() => break,
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// Whether an error only says that the socket's timeout has passed.
fn waits(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Has the kernel throw away what is queued when the socket is closed: it would go on sending into
/// the next run.
fn abort_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the descriptor is open, and pointer and length are those of one live value.
    let rc = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Accepts one connection and receives the job's payload.
pub fn receive(job: &Job, bind: IpAddr) -> Result<SideReport> {
    // A receiver of small messages reads ahead, as every program over TCP does.
    let mut buffer = vec![0; job.chunk.max(64 << 10)];
    let mut stream = accept(job, bind)?;
    let meter = Meter::start()?;
    let end = job.end();
    stream.set_read_timeout(Some(end.tick()))?;
    let mut received = 0;
    while received < job.bytes && !end.over() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => received += n as u64,
            Err(e) if waits(&e) && end.is_set() => {}
            Err(e) => return Err(e.into()),
        }
    }
    let report = meter.stop(received)?;
    if end.is_set() {
        abort_on_close(&stream)?;
    } else {
        stream.write_all(&[1])?;
    }
    Ok(report)
}

/// Messages that are due at their own times, as CTP-96 sends them at a held rate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Paced {
    /// Bytes of a message.
    pub len: usize,
    /// Time between two, nanoseconds.
    pub interval_ns: u64,
    /// Parts of the run that are looked at one by one.
    pub windows: usize,
}

/// Sends the job's payload to `to`, each message when it is due.
pub fn send_paced(job: &Job, to: SocketAddr, setup: &Paced) -> Result<SideReport> {
    let mut payload = Payload::new(job.bytes, setup.len)?;
    let mut message = vec![0; setup.len];
    let mut stream = connect(job, to)?;
    let meter = Meter::start()?;
    let mut pace = Pace::new(setup.interval_ns);
    while let Some(piece) = payload.next_piece() {
        let message = &mut message[..piece.len()];
        message.copy_from_slice(piece);
        pace.wait().write(message);
        stream.write_all(message)?;
    }
    stream.read_exact(&mut [0])?;
    meter.stop(job.bytes)
}

/// Accepts one connection, receives the job's payload and takes the latency of each message.
pub fn receive_paced(job: &Job, bind: IpAddr, setup: &Paced) -> Result<SideReport> {
    let mut message = vec![0; setup.len];
    let mut stream = BufReader::with_capacity(256 << 10, accept(job, bind)?);
    let messages = job.bytes / setup.len.max(1) as u64;
    let mut latency = Latency::new(messages, setup.windows.max(1));
    let meter = Meter::start()?;
    for n in 0..messages {
        stream.read_exact(&mut message)?;
        let head = Head::read(&message).ok_or("a message without its head")?;
        latency.add(n, &head, message.len(), host_monotonic_ns());
    }
    let mut report = meter.stop(messages * setup.len as u64)?;
    stream.get_mut().write_all(&[1])?;
    let mut seen = NodeReport {
        side: "receive".to_owned(),
        ..NodeReport::default()
    };
    latency.into_report(&mut seen);
    report.node = Some(seen);
    Ok(report)
}

/// Connects with the job's congestion control.
pub fn connect(job: &Job, to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    prepare(&stream, &job.congestion)?;
    Ok(stream)
}

/// Listens, says where, and takes the first connection.
pub fn accept(job: &Job, bind: IpAddr) -> Result<TcpStream> {
    let listener = TcpListener::bind((bind, 0))?;
    peer::say(&Ready {
        addr: listener.local_addr()?,
    })?;
    let (stream, _) = listener.accept()?;
    prepare(&stream, &job.congestion)?;
    Ok(stream)
}

/// Buffer sizes stay the kernel's: its auto-tuning is what everybody runs.
fn prepare(stream: &TcpStream, congestion: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    // SAFETY: the descriptor is open, and pointer and length are those of one live string.
    let rc = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            congestion.as_ptr().cast(),
            congestion.len() as libc::socklen_t,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(format!(
            "congestion control {congestion}: {}",
            io::Error::last_os_error()
        )
        .into())
    }
}
