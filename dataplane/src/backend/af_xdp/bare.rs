//! A socket with nothing behind it: the rate of frames that the rings and the kernel allow, which
//! `ctp96-bench rings` compares the whole backend with.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::nic::Nic;
use super::socket::{TX_BATCH, Xsk};
use super::tx::TxSide;
use crate::backend::poll;
use crate::wire::eth::{Flow, Template};

/// How long to wait for the kernel to find a neighbour.
const DISCOVERY: Duration = Duration::from_secs(5);

/// Sends one frame over and over, or counts what comes.
pub struct Bare {
    xsk: Xsk,
    tx: TxSide,
    chunk: usize,
    nic: Arc<Nic>,
    queue: u32,
    local: SocketAddr,
}

impl Bare {
    pub(super) fn new(
        mut xsk: Xsk,
        tx: TxSide,
        (chunk, chunks): (usize, u16),
        nic: Arc<Nic>,
        queue: u32,
        local: SocketAddr,
    ) -> io::Result<Bare> {
        for i in 0..u64::from(chunks) {
            xsk.fill.push(i * chunk as u64);
        }
        xsk.fill.publish();
        nic.set_socket(queue, xsk.fd())?;
        Ok(Bare {
            xsk,
            tx,
            chunk,
            nic,
            queue,
            local,
        })
    }

    /// Where frames may be sent.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends `payload` to `to`, `count` times, as fast as the device takes it: the time that it
    /// took from the first to the last. Nothing is written per frame: every place holds the frame
    /// from the first round on.
    ///
    /// # Errors
    /// The neighbour is not found, or the frame does not fit.
    pub fn send(&mut self, to: SocketAddr, payload: &[u8], count: u64) -> io::Result<Duration> {
        let template = self.template(to)?;
        let header_len = template.header_len();
        // Write every place once, and send none of it.
        let mut places = Vec::new();
        while let Some(mut f) = self.tx.claim(payload.len(), 0) {
            f.copy_from_slice(payload);
            places.push(f);
        }
        if places.is_empty() {
            return Err(io::Error::other("the frame does not fit"));
        }
        let mut written = 0;
        for f in places {
            let fits = self.tx.commit(f, header_len, |b| template.write(b));
            written += u64::from(fits);
        }
        let (start, mut sent) = (Instant::now(), 0);
        sent += self.tx.post(&mut self.xsk).frames;
        while sent < count {
            self.tx.reap(&mut self.xsk);
            let most = u64::from(TX_BATCH).min(count.saturating_sub(written));
            for _ in 0..most {
                let Some(f) = self.tx.claim(payload.len(), 0) else {
                    break;
                };
                written += u64::from(self.tx.commit(f, header_len, |_| true));
            }
            sent += self.tx.post(&mut self.xsk).frames;
        }
        Ok(start.elapsed())
    }

    fn template(&self, to: SocketAddr) -> io::Result<Template> {
        let shared = &self.nic.shared;
        let start = Instant::now();
        shared.ask(to.ip());
        while start.elapsed() < DISCOVERY {
            if let Some(hop) = shared.hops.get(to.ip()) {
                let flow = Flow {
                    src_mac: hop.src_mac,
                    dst_mac: hop.dst_mac,
                    vlan: hop.vlan,
                    src: SocketAddr::new(hop.source, self.local.port()),
                    dst: to,
                };
                return Template::new(&flow)
                    .ok_or_else(|| io::Error::other("addresses of two families"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(io::Error::other(format!("no neighbour answers for {to}")))
    }

    /// Counts frames until `count` have come, or none for `silence` after the first: how many, and
    /// the time from the first to the last.
    ///
    /// # Errors
    /// The socket cannot be polled.
    pub fn receive(&mut self, count: u64, silence: Duration) -> io::Result<(u64, Duration)> {
        let mut got = 0;
        let mut span: Option<(Instant, Instant)> = None;
        while got < count {
            let before = got;
            while let Some(desc) = self.xsk.rx.pop() {
                got += u64::from(desc.options & libc::XDP_PKT_CONTD == 0);
                let chunk = desc.addr / self.chunk as u64 * self.chunk as u64;
                self.xsk.fill.push(chunk);
            }
            if got > before {
                self.xsk.rx.release();
                self.xsk.fill.publish();
                let now = Instant::now();
                span = Some((span.map_or(now, |s| s.0), now));
                continue;
            }
            // As a lane core does: look a few times more, then sleep.
            std::thread::yield_now();
            match span {
                Some((_, last)) if last.elapsed() > silence => break,
                Some((_, last)) if last.elapsed() < Duration::from_micros(50) => {}
                _ => poll::readable([self.xsk.fd().as_raw_fd()], Some(silence))?,
            }
        }
        Ok((
            got,
            span.map_or(Duration::ZERO, |(first, last)| last - first),
        ))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.nic.clear_socket(self.queue);
    }
}
