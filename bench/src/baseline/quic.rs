//! QUIC by quinn: one connection, one stream, AES-256-GCM, offloads and path MTU as it sets them.

use super::Payload;
use super::tls::{Credentials, NAME};
use crate::Result;
use crate::contender::{Contender, Sample, Task};
use crate::peer::{self, Job, Meter, Ready, SideReport};
use crate::site::Site;
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// A stall this long means that the other side is gone.
const STALL: Duration = Duration::from_secs(30);
/// How long a connection may take to part at the end of a run that time limits.
const PART: Duration = Duration::from_millis(200);
/// Bytes in flight at most: more than any path measured here has.
const WINDOW: u32 = 32 << 20;
/// Socket buffers, bytes.
const BUFFER: libc::c_int = 8 << 20;
/// IP and UDP headers, bytes.
const HEADERS: u32 = 48;

/// QUIC with one of quinn's congestion controls, by default its CUBIC.
pub struct Quic {
    /// Certificate and provider.
    pub credentials: Credentials,
}

impl Contender for Quic {
    fn name(&self) -> String {
        format!("quic quinn {}", self.credentials.provider.name())
    }

    fn transfer(&self, site: &Site, task: &Task) -> Result<Sample> {
        let setup = Setup::new(site, &self.credentials);
        peer::run_pair(site, task, "cubic", peer::Stack::Quic(setup))
    }
}

impl Setup {
    /// A run at `site`.
    pub fn new(site: &Site, credentials: &Credentials) -> Setup {
        let datagram = site.mtu().saturating_sub(HEADERS).clamp(1200, 65_000);
        Setup {
            credentials: credentials.clone(),
            datagram: datagram as u16,
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn transport(datagram: u16, congestion: &str) -> Result<Arc<TransportConfig>> {
    let mut config = TransportConfig::default();
    match congestion {
        "cubic" => config.congestion_controller_factory(Arc::new(CubicConfig::default())),
        "bbr" => config.congestion_controller_factory(Arc::new(BbrConfig::default())),
        other => return Err(format!("quinn has no congestion control {other}").into()),
    };
    config
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(u64::from(WINDOW))
        .max_idle_timeout(Some(STALL.try_into()?))
        // The path is known, so nothing has to be found out first.
        .initial_mtu(datagram);
    Ok(Arc::new(config))
}

/// A socket with buffers as large as the system lets it have.
fn socket(bind: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(bind)?;
    for send in [true, false] {
        super::set_buffer(&socket, send, BUFFER);
    }
    Ok(socket)
}

/// How a run is set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    credentials: Credentials,
    /// Bytes of a datagram.
    datagram: u16,
}

/// Sends the job's payload to `to`.
pub fn send(job: &Job, to: SocketAddr, setup: &Setup) -> Result<SideReport> {
    let mut payload = Payload::new(job.bytes, job.chunk)?;
    let crypto = QuicClientConfig::try_from(setup.credentials.quic_client()?)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport(setup.datagram, &job.congestion)?);
    runtime()?.block_on(async {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => [0, 0, 0, 0].into(),
            SocketAddr::V6(_) => [0_u16; 8].into(),
        };
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            None,
            socket((any, 0).into())?,
            Arc::new(quinn::TokioRuntime),
        )?;
        let connection = endpoint.connect_with(config, to, NAME)?.await?;
        let (mut tx, mut rx) = connection.open_bi().await?;
        let meter = Meter::start()?;
        let (end, mut sent) = (job.end(), 0);
        while let Some(piece) = payload.next_piece() {
            match tokio::time::timeout(end.left(), tx.write_all(piece)).await {
                Ok(Ok(())) => sent += piece.len() as u64,
                _ if end.over() => break,
                Ok(Err(e)) => return Err(e.into()),
                Err(e) => return Err(e.into()),
            }
        }
        if !end.is_set() {
            tx.finish()?;
            rx.read_exact(&mut [0]).await?;
        }
        let report = meter.stop(sent);
        connection.close(VarInt::from_u32(0), b"");
        // Its last word is repeated for as long as the other side might have missed it.
        let patience = if end.is_set() { PART } else { STALL };
        let _ = tokio::time::timeout(patience, endpoint.wait_idle()).await;
        report
    })
}

/// An error and what it comes from: quinn says only "connection lost" by itself.
fn with_cause(e: &dyn std::error::Error) -> String {
    match e.source() {
        Some(cause) => format!("{e}: {}", with_cause(cause)),
        None => e.to_string(),
    }
}

/// Whether data is taken in its order from quinn. Its BBR loses and repeats so much on a path with a queue
/// that the buffer which puts data in order ends the connection ("too many gaps in stream buffer"); then it
/// is taken as it comes and put in order here.
fn in_order(congestion: &str) -> bool {
    congestion != "bbr"
}

/// How far a stream has arrived without a gap.
#[derive(Default)]
struct Prefix {
    bytes: u64,
    /// Pieces beyond it: where they begin and end.
    later: BTreeMap<u64, u64>,
}

impl Prefix {
    fn add(&mut self, from: u64, len: u64) {
        let to = from.saturating_add(len);
        if from > self.bytes {
            let end = self.later.entry(from).or_insert(to);
            *end = to.max(*end);
            return;
        }
        self.bytes = self.bytes.max(to);
        while let Some(next) = self.later.first_entry() {
            if *next.key() > self.bytes {
                break;
            }
            self.bytes = self.bytes.max(next.remove());
        }
    }
}

/// Accepts one connection and receives the job's payload.
pub fn receive(job: &Job, bind: IpAddr, setup: &Setup) -> Result<SideReport> {
    let crypto = QuicServerConfig::try_from(setup.credentials.quic_server()?)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(transport(setup.datagram, &job.congestion)?);
    runtime()?.block_on(async {
        let endpoint = Endpoint::new(
            EndpointConfig::default(),
            Some(config),
            socket((bind, 0).into())?,
            Arc::new(quinn::TokioRuntime),
        )?;
        peer::say(&Ready {
            addr: endpoint.local_addr()?,
        })?;
        let incoming = tokio::time::timeout(STALL, endpoint.accept()).await?;
        let connection: Connection = incoming.ok_or("the endpoint is closed")?.await?;
        let (mut tx, mut rx) = connection.accept_bi().await?;
        let meter = Meter::start()?;
        let (end, mut received) = (job.end(), Prefix::default());
        let ordered = in_order(&job.congestion);
        while received.bytes < job.bytes && !end.over() {
            let chunk = rx.read_chunk(usize::MAX, ordered);
            match tokio::time::timeout(end.left(), chunk).await {
                Ok(Ok(Some(chunk))) => received.add(chunk.offset, chunk.bytes.len() as u64),
                Ok(Ok(None)) => break,
                _ if end.over() => break,
                Ok(Err(e)) => return Err(with_cause(&e).into()),
                Err(e) => return Err(e.into()),
            }
        }
        let report = meter.stop(received.bytes);
        if end.is_set() {
            connection.close(VarInt::from_u32(0), b"");
            let _ = tokio::time::timeout(PART, endpoint.wait_idle()).await;
            return report;
        }
        tx.write_all(&[1]).await?;
        tx.finish()?;
        // Leave when the other side has, so that the answer is not cut off.
        let _ = tokio::time::timeout(STALL, connection.closed()).await;
        report
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_gap_before_it_counts() {
        let mut p = Prefix::default();
        p.add(10, 5);
        p.add(20, 5);
        assert_eq!(p.bytes, 0);
        p.add(0, 10);
        assert_eq!(p.bytes, 15);
        p.add(12, 8);
        assert_eq!((p.bytes, p.later.len()), (25, 0));
        p.add(3, 4);
        assert_eq!(p.bytes, 25);
    }
}
