//! Making the UDP socket of a lane core and setting its options.

use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::UdpConfig;

/// Bytes of kernel memory that one payload byte may cost in the receive queue, in datagrams of
/// 1,200 bytes and more. Over loopback it is 1.0 for what crosses in one piece and 1.6 to 1.9
/// for single datagrams; a NIC driver that spends a 4 KiB page and 256 bytes of bookkeeping on
/// each 1,448-byte datagram needs 3.0.
const COST_PER_BYTE: usize = 3;

/// A bound, non-blocking UDP socket with the options that the data path wants.
pub(super) struct UdpSocket {
    socket: Socket,
    /// Where it is bound.
    pub(super) local: SocketAddr,
    /// Whether it is an IPv6 socket (which may also serve IPv4).
    pub(super) v6: bool,
    /// Size of the receive queue as the kernel accounts for it, bytes.
    pub(super) rcvbuf: usize,
    /// Whether UDP_SEGMENT may be used.
    pub(super) gso: bool,
}

impl UdpSocket {
    /// Binds the socket. A missing offload or a smaller buffer than asked for is no error.
    pub(super) fn open(config: &UdpConfig) -> io::Result<UdpSocket> {
        let v6 = config.bind.is_ipv6();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        if v6 {
            socket.set_only_v6(!config.bind.ip().is_unspecified())?;
        }
        socket.bind(&config.bind.into())?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the socket has no IP address"))?;
        let fd = socket.as_raw_fd();
        buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, config.rcvbuf)?;
        buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, config.sndbuf)?;
        // Do-not-fragment without the kernel's own guess of the path MTU: probing is ours.
        let probe = libc::IP_PMTUDISC_PROBE;
        set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, probe).or_else(|e| allow(v6, e))?;
        set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1).or_else(|e| allow(v6, e))?;
        if v6 {
            let probe = libc::IPV6_PMTUDISC_PROBE;
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, probe)?;
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        }
        set(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        if config.gro {
            // Kernels before 5.0 refuse it; then every datagram is a burst of its own.
            let _ = set(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
        }
        // Zero leaves the socket as it is; a kernel without the option answers ENOPROTOOPT.
        let gso = config.gso && set(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        let rcvbuf = socket.recv_buffer_size()?;
        Ok(UdpSocket {
            socket,
            local,
            v6,
            rcvbuf,
            gso,
        })
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Payload bytes that surely fit the receive queue. A quarter is left out because the kernel
    /// gives the room of datagrams already read back only in steps of that size.
    pub(super) fn capacity(&self) -> usize {
        self.rcvbuf / 4 * 3 / COST_PER_BYTE
    }
}

/// IPv4 options of an IPv6 socket are a bonus.
fn allow(v6: bool, e: io::Error) -> io::Result<()> {
    if v6 { Ok(()) } else { Err(e) }
}

/// Sets a buffer size beyond the system's limit where the process may, else up to the limit.
fn buffer(fd: RawFd, force: i32, plain: i32, bytes: usize) -> io::Result<()> {
    // The kernel doubles the number for its own bookkeeping.
    let n = (bytes / 2).min(i32::MAX as usize / 4) as i32;
    set(fd, libc::SOL_SOCKET, force, n).or_else(|_| set(fd, libc::SOL_SOCKET, plain, n))
}

fn set(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option value is a live i32 and `len` is its size.
    let r = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), len) };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
