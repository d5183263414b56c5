//! TLS 1.3 with AES-256-GCM over TCP, through rustls, at its best.
//!
//! The sender hands over large pieces, whose records leave in one vectored write; the receiver uses
//! rustls' unbuffered interface, which reads large pieces (the buffered one reads at most one
//! record a system call) and leaves the plaintext where it was decrypted.

use super::Payload;
use super::tcp::{accept, connect};
use crate::Result;
use crate::contender::{Contender, Sample, Task};
use crate::peer::{self, Job, Meter, SideReport};
use crate::site::Site;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite,
};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const AES_256_GCM: CipherSuite = CipherSuite::TLS13_AES_256_GCM_SHA384;
const AES_128_GCM: CipherSuite = CipherSuite::TLS13_AES_128_GCM_SHA256;
/// Name in the certificate.
pub const NAME: &str = "ctp96-bench";
/// Plaintext of a full TLS record, bytes.
const RECORD: usize = 16 * 1024;

/// Library that does the encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provider {
    /// ring.
    Ring,
    /// AWS-LC through aws-lc-rs.
    AwsLc,
}

impl Provider {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::AwsLc => "aws-lc-rs",
        }
    }

    /// With these suites, the first preferred.
    fn rustls(self, suites: &[CipherSuite]) -> Arc<CryptoProvider> {
        let mut provider = match self {
            Self::Ring => rustls::crypto::ring::default_provider(),
            Self::AwsLc => rustls::crypto::aws_lc_rs::default_provider(),
        };
        let place = |s: &SupportedCipherSuite| suites.iter().position(|&want| want == s.suite());
        provider.cipher_suites.retain(|s| place(s).is_some());
        provider.cipher_suites.sort_by_key(place);
        Arc::new(provider)
    }
}

/// The faster provider on this CPU, by sealing full records for a moment, and GB/s of each.
///
/// The best of many short slices, taken in turn: what the machine does besides slows both alike.
pub fn calibrate() -> Result<(Provider, [(Provider, f64); 2])> {
    let mut rates = [(Provider::Ring, 0.0_f64), (Provider::AwsLc, 0.0)];
    for _ in 0..20 {
        rates[0].1 = rates[0].1.max(ring_rate()?);
        rates[1].1 = rates[1].1.max(aws_lc_rate()?);
    }
    let best = if rates[0].1 >= rates[1].1 {
        Provider::Ring
    } else {
        Provider::AwsLc
    };
    Ok((best, rates))
}

/// Runs `seal` over full records for 3 ms, the first record not counted; GB/s.
fn seal_rate(mut seal: impl FnMut(&mut [u8]) -> bool) -> Result<f64> {
    let mut record = vec![0x5a; RECORD];
    let mut sealed = |record: &mut [u8]| {
        if seal(record) {
            Ok(RECORD)
        } else {
            Err("the provider refuses to seal")
        }
    };
    sealed(&mut record)?;
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < Duration::from_millis(3) {
        bytes += sealed(&mut record)?;
    }
    Ok(bytes as f64 / started.elapsed().as_secs_f64() / 1e9)
}

fn ring_rate() -> Result<f64> {
    use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| "ring refuses the key")?;
    let key = LessSafeKey::new(key);
    // One nonce for all: the output is thrown away.
    seal_rate(|record| {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        key.seal_in_place_separate_tag(nonce, Aad::from([0; 5]), record)
            .is_ok()
    })
}

fn aws_lc_rate() -> Result<f64> {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| "aws-lc refuses the key")?;
    let key = LessSafeKey::new(key);
    seal_rate(|record| {
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        key.seal_in_place_separate_tag(nonce, Aad::from([0; 5]), record)
            .is_ok()
    })
}

/// A self-signed certificate made for one run of the bench, and the provider to use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Credentials {
    /// Library that encrypts.
    pub provider: Provider,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Credentials {
    /// Makes a fresh certificate.
    pub fn new(provider: Provider) -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
        Ok(Self {
            provider,
            certificate: made.cert.der().to_vec(),
            key: made.signing_key.serialize_der(),
        })
    }

    fn client(&self) -> Result<ClientConfig> {
        self.client_with(&[AES_256_GCM])
    }

    /// For QUIC, whose first packets are AES-128-GCM by its specification; the payload is not.
    pub fn quic_client(&self) -> Result<ClientConfig> {
        self.client_with(&[AES_256_GCM, AES_128_GCM])
    }

    /// As [`Credentials::quic_client`], for the other side.
    pub fn quic_server(&self) -> Result<ServerConfig> {
        let mut config = self.server_with(&[AES_256_GCM, AES_128_GCM])?;
        config.max_early_data_size = 0;
        Ok(config)
    }

    fn client_with(&self, suites: &[CipherSuite]) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.certificate.clone()))?;
        Ok(
            ClientConfig::builder_with_provider(self.provider.rustls(suites))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_no_client_auth(),
        )
    }

    fn server(&self) -> Result<ServerConfig> {
        self.server_with(&[AES_256_GCM])
    }

    fn server_with(&self, suites: &[CipherSuite]) -> Result<ServerConfig> {
        let certificate = CertificateDer::from(self.certificate.clone());
        let key = PrivatePkcs8KeyDer::from(self.key.clone());
        let mut config = ServerConfig::builder_with_provider(self.provider.rustls(suites))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key.into())?;
        // Session tickets would be the only bytes to flow back.
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// TLS 1.3 over TCP with one congestion control.
pub struct Tls {
    /// Name that the kernel knows it by, such as `cubic`.
    pub congestion: String,
    /// Certificate and provider.
    pub credentials: Credentials,
    /// Whether ratios are given against this row.
    pub reference: bool,
}

impl Contender for Tls {
    fn name(&self) -> String {
        format!(
            "tls1.3 {} {}",
            self.credentials.provider.name(),
            self.congestion
        )
    }

    fn is_reference(&self) -> bool {
        self.reference
    }

    fn transfer(&self, site: &Site, task: &Task) -> Result<Sample> {
        peer::run_pair(
            site,
            task,
            &self.congestion,
            peer::Stack::Tls(self.credentials.clone()),
        )
    }
}

/// Sends the job's payload to `to`.
pub fn send(job: &Job, to: SocketAddr, credentials: &Credentials) -> Result<SideReport> {
    let mut payload = Payload::new(job.bytes, job.chunk)?;
    let mut stream = connect(job, to)?;
    let name = ServerName::try_from(NAME)?;
    let mut tls = ClientConnection::new(Arc::new(credentials.client()?), name)?;
    tls.set_buffer_limit(None);
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let meter = Meter::start()?;
    while let Some(piece) = payload.next_piece() {
        tls.writer().write_all(piece)?;
        while tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
    }
    rustls::Stream::new(&mut tls, &mut stream).read_exact(&mut [0])?;
    meter.stop(job.bytes)
}

/// Accepts one connection and receives the job's payload.
pub fn receive(job: &Job, bind: IpAddr, credentials: &Credentials) -> Result<SideReport> {
    let mut tls = UnbufferedServerConnection::new(Arc::new(credentials.server()?))?;
    // Ciphertext that has arrived is at `incoming[start..end]`.
    let mut incoming = vec![0; job.chunk + 2 * RECORD];
    let (mut start, mut end) = (0, 0);
    let mut outgoing = vec![0; 2 * RECORD];
    let mut pending = 0;
    let mut stream = accept(job, bind)?;
    let mut meter = None;
    let mut received = 0;
    loop {
        let UnbufferedStatus {
            mut discard, state, ..
        } = tls.process_tls_records(&mut incoming[start..end]);
        let mut starved = false;
        match state? {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    received += record.payload.len() as u64;
                    discard += record.discard;
                }
            }
            ConnectionState::EncodeTlsData(mut data) => {
                pending += data.encode(&mut outgoing[pending..])?;
            }
            ConnectionState::TransmitTlsData(data) => {
                stream.write_all(&outgoing[..pending])?;
                pending = 0;
                data.done();
            }
            ConnectionState::WriteTraffic(mut traffic) if received == job.bytes => {
                let report = meter
                    .take()
                    .ok_or("the payload came before the handshake's end")?;
                let report = Meter::stop(report, received)?;
                let n = traffic.encrypt(&[1], &mut outgoing)?;
                stream.write_all(&outgoing[..n])?;
                return Ok(report);
            }
            ConnectionState::WriteTraffic(_) => {
                if meter.is_none() {
                    meter = Some(Meter::start()?);
                }
                starved = true;
            }
            ConnectionState::BlockedHandshake => starved = true,
            other => return Err(format!("the connection ended early: {other:?}").into()),
        }
        start += discard;
        if starved {
            // What is left is less than a record; moving it keeps the buffer in cache.
            incoming.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            match stream.read(&mut incoming[end..])? {
                0 => return Err(format!("the connection ended after {received} bytes").into()),
                n => end += n,
            }
        }
    }
}
