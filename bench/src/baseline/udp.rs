//! Datagrams over a bare UDP socket with segmentation offloads: what the kernel's path does with
//! nothing on top. It is the ceiling of the send and receive stages, and may lose datagrams.

use crate::Result;
use crate::peer::{self, Job, Meter, Ready, SideReport};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// After this long without a datagram the sender has ended.
const SILENCE: Duration = Duration::from_millis(300);
/// Segments of a super-packet at most, and its bytes at most.
const SEGMENTS: usize = 64;
const SUPER: usize = 65_000;
/// Receive buffer asked for, bytes.
const BUFFER: libc::c_int = 8 << 20;

/// How the datagrams are cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    /// Bytes of a datagram.
    pub frame: usize,
}

/// Sends the job's payload as fast as the socket takes it.
pub fn send(job: &Job, to: SocketAddr, setup: &Setup) -> Result<SideReport> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => [0_u16; 8].into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    let frame = setup.frame.clamp(1, SUPER);
    if !super::set_option(
        &socket,
        libc::SOL_UDP,
        libc::UDP_SEGMENT,
        frame as libc::c_int,
    ) {
        return Err(format!("UDP_SEGMENT: {}", io::Error::last_os_error()).into());
    }
    let buffer = vec![0x5a; (SUPER / frame).clamp(1, SEGMENTS) * frame];
    let meter = Meter::start()?;
    let mut left = job.bytes;
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        match socket.send(&buffer[..n]) {
            Ok(_) => left -= n as u64,
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => std::thread::yield_now(),
            Err(e) => return Err(e.into()),
        }
    }
    meter.stop(job.bytes)
}

/// Counts what arrives until the sender has ended.
pub fn receive(job: &Job, bind: IpAddr, _: &Setup) -> Result<SideReport> {
    let socket = UdpSocket::bind((bind, 0))?;
    super::set_buffer(&socket, false, BUFFER);
    if !super::set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1) {
        return Err(format!("UDP_GRO: {}", io::Error::last_os_error()).into());
    }
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    peer::say(&Ready {
        addr: socket.local_addr()?,
    })?;
    let mut buffer = vec![0; 1 << 16];
    let mut received = socket.recv(&mut buffer)? as u64;
    let (meter, started) = (Meter::start()?, Instant::now());
    socket.set_read_timeout(Some(SILENCE))?;
    let mut last = started;
    while received < job.bytes {
        match socket.recv(&mut buffer) {
            Ok(n) => {
                received += n as u64;
                last = Instant::now();
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                break;
            }
            Err(e) => return Err(e.into()),
        }
    }
    let mut report = meter.stop(received)?;
    // The silence at the end is no part of it.
    report.wall_s = (last - started).as_secs_f64().max(1e-9);
    Ok(report)
}
