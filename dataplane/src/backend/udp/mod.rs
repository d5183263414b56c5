//! UDP sockets with segmentation offload (UDP_SEGMENT on the way out, UDP_GRO on the way in).

mod bufring;
mod mmsg;
mod msg;
mod offload;
mod socket;
mod uring;

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use mmsg::Mmsg;
pub use uring::Uring;

use super::{Backend, Burst, FlushReport, Stats, TxFrame};
use crate::ring::Wakeup;

/// How to make a UDP backend.
#[derive(Debug, Clone)]
pub struct UdpConfig {
    /// Where to listen; port 0 lets the kernel choose. `[::]` serves IPv4 peers too.
    pub bind: SocketAddr,
    /// Receive queue as the kernel accounts for it, bytes. More than `net.core.rmem_max` needs
    /// CAP_NET_ADMIN; without it the limit is taken.
    pub rcvbuf: usize,
    /// Send queue, likewise.
    pub sndbuf: usize,
    /// Receive buffers of 68 KiB each, each holding one burst; a power of two.
    pub rx_buffers: u16,
    /// Send buffers of 64 KiB each, each holding one super-packet.
    pub tx_buffers: u16,
    /// Whether to use UDP_SEGMENT where the kernel has it.
    pub gso: bool,
    /// Whether to use UDP_GRO where the kernel has it.
    pub gro: bool,
    /// Whether io_uring sends without copying (SENDMSG_ZC). A buffer then comes back when the
    /// device is done with it, so more of them are in use.
    pub zero_copy: bool,
}

impl UdpConfig {
    /// The usual sizes.
    pub fn new(bind: SocketAddr) -> UdpConfig {
        UdpConfig {
            bind,
            rcvbuf: 32 << 20,
            sndbuf: 8 << 20,
            rx_buffers: 64,
            tx_buffers: 64,
            gso: true,
            gro: true,
            zero_copy: false,
        }
    }
}

/// Which UDP backend is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The one measured to cost less CPU a byte, which runs everywhere: `Mmsg`.
    #[default]
    Auto,
    /// `sendmmsg` and `recvmmsg`.
    Mmsg,
    /// io_uring; where it cannot be used, `Mmsg` instead.
    Uring,
    /// The same with zero-copy sends.
    UringZeroCopy,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(s: &str) -> Result<Choice, String> {
        match s {
            "auto" => Ok(Choice::Auto),
            "mmsg" => Ok(Choice::Mmsg),
            "uring" => Ok(Choice::Uring),
            "uring-zc" => Ok(Choice::UringZeroCopy),
            _ => Err(format!(
                "unknown UDP backend `{s}`; choose auto, mmsg, uring or uring-zc"
            )),
        }
    }
}

/// Either UDP backend; the match costs one predictable branch a batch.
// One per core and never moved in bulk, so the larger variant costs nothing.
#[allow(clippy::large_enum_variant)]
pub enum Udp {
    /// `sendmmsg` and `recvmmsg`.
    Mmsg(Mmsg),
    /// io_uring.
    Uring(Uring),
}

/// Opens a UDP backend and says in a sentence why it is this one.
pub fn open(config: &UdpConfig, choice: Choice) -> io::Result<(Udp, String)> {
    let mmsg = |why: String| Ok((Udp::Mmsg(Mmsg::open(config)?), why));
    match choice {
        Choice::Mmsg => mmsg("mmsg: asked for".into()),
        Choice::Uring | Choice::UringZeroCopy => match Uring::available() {
            Ok(()) => {
                let zero_copy = choice == Choice::UringZeroCopy || config.zero_copy;
                let ring = Uring::open(&UdpConfig {
                    zero_copy,
                    ..config.clone()
                })?;
                Ok((Udp::Uring(ring), "uring: asked for".into()))
            }
            Err(e) => mmsg(format!("mmsg: io_uring cannot be used: {e}")),
        },
        // Measured with `examples/udp_speed.rs` over loopback and veth.
        Choice::Auto => mmsg("mmsg: it costs less CPU a byte than io_uring".into()),
    }
}

macro_rules! each {
    ($self:ident, $b:ident => $e:expr) => {
        match $self {
            Udp::Mmsg($b) => $e,
            Udp::Uring($b) => $e,
        }
    };
}

impl Udp {
    /// Why segmentation offload is off, if it is.
    pub fn offload_note(&self) -> Option<String> {
        each!(self, b => b.offload_note())
    }
}

impl Backend for Udp {
    fn name(&self) -> &'static str {
        each!(self, b => b.name())
    }
    fn local_addr(&self) -> SocketAddr {
        each!(self, b => b.local_addr())
    }
    fn recv(&mut self, out: &mut Vec<Burst>) -> io::Result<usize> {
        each!(self, b => b.recv(out))
    }
    #[inline]
    fn release(&mut self, burst: Burst) {
        each!(self, b => b.release(burst))
    }
    #[inline]
    fn claim(&mut self, to: &SocketAddr, len: usize) -> Option<TxFrame> {
        each!(self, b => b.claim(to, len))
    }
    #[inline]
    fn claim_marked(&mut self, to: &SocketAddr, with: (u16, u8), len: usize) -> Option<TxFrame> {
        each!(self, b => b.claim_marked(to, with, len))
    }
    #[inline]
    fn claim_run<const N: usize>(
        &mut self,
        to: &SocketAddr,
        with: (u16, u8),
        len: usize,
    ) -> Option<[TxFrame; N]> {
        each!(self, b => b.claim_run(to, with, len))
    }
    #[inline]
    fn commit(&mut self, frame: TxFrame) {
        each!(self, b => b.commit(frame))
    }
    fn cut(&mut self) {
        each!(self, b => b.cut())
    }
    fn cancel(&mut self, frame: TxFrame) {
        each!(self, b => b.cancel(frame))
    }
    fn flush(&mut self) -> io::Result<FlushReport> {
        each!(self, b => b.flush())
    }
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        each!(self, b => b.wait(timeout))
    }
    fn wakeup(&self) -> Arc<Wakeup> {
        each!(self, b => b.wakeup())
    }
    fn rx_capacity_bytes(&self) -> usize {
        each!(self, b => b.rx_capacity_bytes())
    }
    fn outstanding(&self) -> usize {
        each!(self, b => b.outstanding())
    }
    fn stats(&self) -> Stats {
        each!(self, b => b.stats())
    }
}

/// Whether an errno of a socket call means that the socket, not the network, is broken.
fn fatal(errno: i32) -> bool {
    matches!(errno, libc::EBADF | libc::ENOTSOCK | libc::EFAULT)
}

/// How long to sleep at most: with frames waiting for kernel buffers only briefly, because nothing
/// announces that those are free again.
fn sleep_limit(timeout: Option<Duration>, pending: u64) -> Option<Duration> {
    const RETRY: Duration = Duration::from_micros(500);
    if pending == 0 {
        timeout
    } else {
        Some(timeout.map_or(RETRY, |t| t.min(RETRY)))
    }
}

/// Folds the socket's 32-bit drop counter into a 64-bit one.
#[derive(Debug, Default)]
struct DropCounter(u32);

impl DropCounter {
    fn update(&mut self, now: u32, total: &mut u64) {
        *total += u64::from(now.wrapping_sub(self.0));
        self.0 = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_counter_survives_a_wrap() {
        let (mut c, mut total) = (DropCounter::default(), 0);
        for (now, want) in [
            (5, 5),
            (5, 5),
            (u32::MAX, u32::MAX.into()),
            (2, (1 << 32) + 2),
        ] {
            c.update(now, &mut total);
            assert_eq!(total, want);
        }
    }

    #[test]
    fn pending_frames_shorten_the_sleep() {
        let s = Duration::from_secs(1);
        assert_eq!(sleep_limit(Some(s), 0), Some(s));
        assert_eq!(sleep_limit(None, 0), None);
        assert!(sleep_limit(None, 1) < Some(s) && sleep_limit(None, 1).is_some());
        assert_eq!(sleep_limit(Some(Duration::ZERO), 1), Some(Duration::ZERO));
    }
}
