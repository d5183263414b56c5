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
use crate::backend::frame::Region;
use crate::backend::poll;
use crate::wire::eth::{self, ETH_LEN, Flow, Template, UDP_LEN, VLAN_LEN};

/// How long to wait for the kernel to find a neighbour.
const DISCOVERY: Duration = Duration::from_secs(5);
/// Frames under way at most between a generator and its forwarder: several batches, and fewer than a
/// socket has room for.
const WINDOW: u64 = 512;
/// Pieces of the longest frame.
const MAX_PIECES: u32 = 4;
/// A generator takes what has not come back for so long as lost.
const LOST: Duration = Duration::from_millis(20);

/// What came of frames that a forwarder sent back.
#[derive(Debug, Clone, Copy)]
pub struct Echoed {
    /// Frames sent.
    pub sent: u64,
    /// Frames that came back.
    pub back: u64,
    /// From the first sent to the last that came back.
    pub took: Duration,
}

/// Sends frames, counts what comes, or sends it back.
pub struct Bare {
    xsk: Xsk,
    tx: TxSide,
    region: Arc<Region>,
    chunk: usize,
    nic: Arc<Nic>,
    queue: u32,
    local: SocketAddr,
}

impl Bare {
    pub(super) fn new(
        (region, mut xsk): (Arc<Region>, Xsk),
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
            region,
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
            return Err(too_long());
        }
        let mut written = 0;
        for f in places {
            let fits = self.tx.commit(f, header_len, None, |b| template.write(b));
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
                written += u64::from(self.tx.commit(f, header_len, None, |_| true));
            }
            sent += self.tx.post(&mut self.xsk).frames;
        }
        Ok(start.elapsed())
    }

    /// Sends `count` frames of `len` bytes to `to`, where [`Bare::forward`] sends them back, some
    /// hundreds under way at a time. `fill` writes each frame, as an application writes its data.
    ///
    /// # Errors
    /// The neighbour is not found, or the frame does not fit.
    pub fn send_and_count(
        &mut self,
        to: SocketAddr,
        len: usize,
        count: u64,
        mut fill: impl FnMut(&mut [u8]),
    ) -> io::Result<Echoed> {
        let template = self.template(to)?;
        let header_len = template.header_len();
        if len > self.tx.room() {
            return Err(too_long());
        }
        let (mut written, mut back, mut lost) = (0u64, 0, 0);
        let start = Instant::now();
        let mut last = start;
        while back + lost < count {
            self.tx.reap(&mut self.xsk);
            let under_way = written.saturating_sub(back + lost);
            let room = WINDOW.saturating_sub(under_way).min(count - written);
            for _ in 0..room.min(u64::from(TX_BATCH)) {
                let Some(mut f) = self.tx.claim(len, 0) else {
                    break;
                };
                fill(&mut f);
                written += u64::from(self.tx.commit(f, header_len, None, |b| template.write(b)));
            }
            if self.tx.queued() > 0 {
                self.tx.post(&mut self.xsk);
            }
            let came = self.count();
            if came > 0 {
                // One that was given up may come after all.
                back += came;
                lost = lost.min(written.saturating_sub(back));
                last = Instant::now();
            } else if room == 0 || written == count {
                std::thread::yield_now();
                if last.elapsed() > LOST {
                    lost = written.saturating_sub(back);
                    last = Instant::now();
                }
            }
        }
        Ok(Echoed {
            sent: written,
            back,
            took: last - start,
        })
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

    /// Takes what has come and gives its chunks back: how many frames.
    fn count(&mut self) -> u64 {
        let (mut got, mut any) = (0, false);
        while let Some(desc) = self.xsk.rx.pop() {
            any = true;
            got += u64::from(desc.options & libc::XDP_PKT_CONTD == 0);
            let chunk = desc.addr / self.chunk as u64 * self.chunk as u64;
            self.xsk.fill.push(chunk);
        }
        if any {
            self.xsk.rx.release();
            self.xsk.fill.publish();
        }
        got
    }

    /// As a lane core does that has nothing to do: looks a few times more, then sleeps. `false`
    /// when nothing has come for `silence` since `last`.
    fn idle(&self, last: Option<Instant>, silence: Duration) -> io::Result<bool> {
        std::thread::yield_now();
        match last {
            Some(last) if last.elapsed() > silence => return Ok(false),
            Some(last) if last.elapsed() < Duration::from_micros(50) => {}
            _ => poll::readable([self.xsk.fd().as_raw_fd()], Some(silence))?,
        }
        Ok(true)
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
            let came = self.count();
            got += came;
            if came > 0 {
                let now = Instant::now();
                span = Some((span.map_or(now, |s| s.0), now));
            } else if !self.idle(span.map(|s| s.1), silence)? {
                break;
            }
        }
        Ok((got, span.map_or(Duration::ZERO, |(a, b)| b - a)))
    }

    /// Sends back what comes, each frame in the very chunk in which it came with its addresses
    /// exchanged, until none has come for `silence`: how many, and the time from the first to the
    /// last. Nothing is copied here, and nothing looked at behind the headers.
    ///
    /// # Errors
    /// The socket cannot be polled.
    pub fn forward(&mut self, silence: Duration) -> io::Result<(u64, Duration)> {
        let mut total = 0;
        let mut span: Option<(Instant, Instant)> = None;
        loop {
            self.recycle();
            let n = self.forward_batch();
            total += n;
            if n > 0 {
                let now = Instant::now();
                span = Some((span.map_or(now, |s| s.0), now));
                // Copy mode: a call sends until the ring is empty or the device is full.
                let mut calls = 0;
                while self.xsk.tx.waiting() > 0 && calls < TX_BATCH {
                    calls += 1;
                    if self.xsk.kick_tx().is_err() {
                        self.recycle();
                    }
                }
            } else if !self.idle(span.map(|s| s.1), silence)? {
                return Ok((total, span.map_or(Duration::ZERO, |(a, b)| b - a)));
            }
        }
    }

    /// Chunks that were sent go back to the kernel for receiving.
    fn recycle(&mut self) {
        let mut any = false;
        while let Some(addr) = self.xsk.completion.pop() {
            any = true;
            self.xsk
                .fill
                .push(addr / self.chunk as u64 * self.chunk as u64);
        }
        if any {
            self.xsk.completion.release();
            self.xsk.fill.publish();
        }
    }

    fn forward_batch(&mut self) -> u64 {
        let (mut frames, mut first, mut any) = (0, true, false);
        let mut keep = true;
        // The kernel shows all pieces of a frame at once.
        while !first || (frames < u64::from(TX_BATCH) && self.xsk.tx.has_room(MAX_PIECES)) {
            let Some(desc) = self.xsk.rx.pop() else {
                break;
            };
            any = true;
            if first {
                let ptr = self.region.at(desc.addr as usize, desc.len as usize);
                // SAFETY: `at` checked the range; the chunk came from the receive ring, so it is
                // ours until it is in the transmit ring or the fill ring.
                let bytes =
                    unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr(), desc.len as usize) };
                keep = turn_round(bytes);
            }
            first = desc.options & libc::XDP_PKT_CONTD == 0;
            if keep {
                self.xsk.tx.push(libc::xdp_desc {
                    options: desc.options & libc::XDP_PKT_CONTD,
                    ..desc
                });
                frames += u64::from(first);
            } else {
                self.xsk
                    .fill
                    .push(desc.addr / self.chunk as u64 * self.chunk as u64);
            }
        }
        if any {
            self.xsk.rx.release();
            self.xsk.tx.publish();
            self.xsk.fill.publish();
        }
        frames
    }
}

fn too_long() -> io::Error {
    io::Error::other("the frame does not fit")
}

/// Exchanges both ends of a datagram: MAC addresses, IP addresses and ports. Checksums stay right,
/// for they are sums. What is no UDP datagram is left alone and refused.
pub fn turn_round(frame: &mut [u8]) -> bool {
    // Behind this buffer there may be others.
    let Ok(datagram) = eth::parse(frame, usize::MAX) else {
        return false;
    };
    let mut ip = ETH_LEN;
    while matches!(frame.get(ip - 2..ip), Some(&[0x81, 0x00] | &[0x88, 0xa8])) {
        ip += VLAN_LEN;
    }
    let (addresses, len) = match datagram.from {
        SocketAddr::V4(_) => (ip + 12, 4),
        SocketAddr::V6(_) => (ip + 8, 16),
    };
    for (at, len) in [
        (0, 6),
        (addresses, len),
        (datagram.payload.start - UDP_LEN, 2),
    ] {
        let Some(both) = frame.get_mut(at..at + 2 * len) else {
            return false;
        };
        let (a, b) = both.split_at_mut(len);
        a.swap_with_slice(b);
    }
    true
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.nic.clear_socket(self.queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_turned_round_is_the_answer() {
        for (src, dst) in [
            ("10.96.0.1:9696", "10.96.0.2:9700"),
            ("[fd96::1]:9696", "[fd96::2]:9700"),
        ] {
            for vlan in [None, Some(7)] {
                let there = Flow {
                    src_mac: [2, 0, 0, 0, 0, 1],
                    dst_mac: [2, 0, 0, 0, 0, 2],
                    vlan,
                    src: src.parse().expect("address"),
                    dst: dst.parse().expect("address"),
                };
                let back = Flow {
                    src_mac: there.dst_mac,
                    dst_mac: there.src_mac,
                    vlan,
                    src: there.dst,
                    dst: there.src,
                };
                let [mut frame, want] = [there, back].map(|flow| {
                    let t = Template::new(&flow).expect("one family");
                    let mut f = vec![0x5a; t.header_len() + 100];
                    assert!(t.write(&mut f));
                    f
                });
                assert!(turn_round(&mut frame));
                if vlan.is_none() && dst.starts_with('1') {
                    assert_eq!(frame, want);
                }
                // The flow label of IPv6 is made of the ports and stays as it was.
                let parsed = eth::parse(&frame, frame.len()).expect("a datagram");
                assert_eq!((parsed.from, parsed.to), (there.dst, there.src));
                assert_eq!(frame[..12], want[..12]);
                assert_eq!(frame[frame.len() - 100..], want[want.len() - 100..]);
            }
        }
        assert!(!turn_round(&mut [0; 60]));
        assert!(!turn_round(&mut [0; 3]));
    }
}
