//! QUIC by s2n-quic: one connection, one stream, AES-256-GCM by AWS-LC or ring through rustls,
//! offloads as it sets them.

use super::Payload;
use super::tls::{Credentials, NAME};
use crate::Result;
use crate::contender::{Contender, Sample, Task};
use crate::peer::{self, Job, Meter, Ready, SideReport};
use crate::site::Site;
use bytes::Bytes;
use s2n_quic::client::Connect;
use s2n_quic::provider::io::tokio::Provider as Io;
use s2n_quic::provider::limits::Limits;
use s2n_quic::provider::tls::rustls::{Client as ClientTls, Server as ServerTls};
use s2n_quic::{Client, Server};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A stall this long means that the other side is gone.
const STALL: Duration = Duration::from_secs(30);
/// How long the end of a connection may take, which nothing depends on: the word that closes it is
/// sent once and can be lost.
const CLOSING: Duration = Duration::from_millis(300);
/// Bytes in flight at most: more than any path measured here has.
const WINDOW: u32 = 32 << 20;
/// Socket buffers, bytes.
const BUFFER: usize = 8 << 20;
/// Application protocol that both sides name, as QUIC wants it.
const ALPN: &[u8] = b"ctp96-bench";

/// QUIC with s2n-quic's CUBIC.
pub struct S2n {
    /// Certificate and provider.
    pub credentials: Credentials,
}

impl Contender for S2n {
    fn name(&self) -> String {
        format!("quic s2n-quic {}", self.credentials.provider.name())
    }

    fn transfer(&self, site: &Site, task: &Task) -> Result<Sample> {
        let stack = peer::Stack::S2n(Setup {
            credentials: self.credentials.clone(),
            mtu: site.mtu().clamp(1280, 9216) as u16,
        });
        peer::run_pair(site, task, "cubic", stack)
    }
}

/// How a run is set up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    credentials: Credentials,
    /// Bytes of an IP packet.
    mtu: u16,
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

fn limits() -> Result<Limits> {
    let window = u64::from(WINDOW);
    Ok(Limits::new()
        .with_data_window(window)?
        .with_bidirectional_local_data_window(window)?
        .with_bidirectional_remote_data_window(window)?
        .with_max_send_buffer_size(WINDOW)?
        .with_max_idle_timeout(STALL)?)
}

/// Sockets with large buffers. The path is known, so its MTU has not to be found out first.
fn io(bind: SocketAddr, mtu: u16) -> Result<Io> {
    Ok(Io::builder()
        .with_receive_address(bind)?
        .with_send_buffer_size(BUFFER)?
        .with_recv_buffer_size(BUFFER)?
        .with_max_mtu(mtu)?
        .with_initial_mtu(mtu)?
        .build()?)
}

/// Sends the job's payload to `to`.
pub fn send(job: &Job, to: SocketAddr, setup: &Setup) -> Result<SideReport> {
    let mut payload = Payload::new(job.bytes, job.chunk)?;
    let mut tls = setup.credentials.quic_client()?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    runtime()?.block_on(async {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => [0, 0, 0, 0].into(),
            SocketAddr::V6(_) => [0_u16; 8].into(),
        };
        let client = Client::builder()
            .with_tls(ClientTls::from(tls))?
            .with_io(io((any, 0).into(), setup.mtu)?)?
            .with_limits(limits()?)?
            .start()
            .map_err(|e| e.to_string())?;
        let connect = Connect::new(to).with_server_name(NAME);
        let mut connection = client.connect(connect).await?;
        let mut stream = connection.open_bidirectional_stream().await?;
        let meter = Meter::start()?;
        while let Some(piece) = payload.next_piece() {
            // The stream keeps what it is given until it is acknowledged, so it gets a copy, as
            // quinn makes one.
            stream.send(Bytes::copy_from_slice(piece)).await?;
        }
        stream.finish()?;
        let answer = stream.receive().await?;
        let report = meter.stop(job.bytes);
        if answer.is_none_or(|a| a.is_empty()) {
            return Err("the receiver ended without its word that all has come".into());
        }
        connection.close(0_u8.into());
        // The endpoint has to live for as long as it takes to say so.
        let mut client = client;
        let _ = tokio::time::timeout(CLOSING, client.wait_idle()).await;
        report
    })
}

/// Accepts one connection and receives the job's payload.
pub fn receive(job: &Job, bind: IpAddr, setup: &Setup) -> Result<SideReport> {
    let mut tls = setup.credentials.quic_server()?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    runtime()?.block_on(async {
        let mut server = Server::builder()
            .with_tls(ServerTls::from(tls))?
            .with_io(io((bind, 0).into(), setup.mtu)?)?
            .with_limits(limits()?)?
            .start()
            .map_err(|e| e.to_string())?;
        peer::say(&Ready {
            addr: server.local_addr()?,
        })?;
        let accepted = tokio::time::timeout(STALL, server.accept()).await?;
        let mut connection = accepted.ok_or("the endpoint is closed")?;
        let stream = connection.accept_bidirectional_stream().await?;
        let mut stream = stream.ok_or("the connection ended without a stream")?;
        let meter = Meter::start()?;
        let mut received = 0;
        let mut chunks: [Bytes; 64] = std::array::from_fn(|_| Bytes::new());
        while received < job.bytes {
            let (count, open) = stream.receive_vectored(&mut chunks).await?;
            for chunk in &mut chunks[..count] {
                received += std::mem::take(chunk).len() as u64;
            }
            if !open {
                break;
            }
        }
        let report = meter.stop(received);
        stream.send(Bytes::from_static(&[1])).await?;
        // Done when the other side has it; it may be gone by then, which is as well.
        let _ = tokio::time::timeout(CLOSING, stream.close()).await;
        report
    })
}
