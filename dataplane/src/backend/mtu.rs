//! What the kernel believes that a path carries.

use std::io;
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

/// The kernel's MTU of the path to `to`, bytes of IP packet: that of the interface or the route, or
/// what routers on the way have said (ICMP "fragmentation needed", "packet too big"), of which it
/// believes only what quotes a packet of ours. A few system calls and no packet; not for a lane core.
///
/// # Errors
/// There is no route, or no socket can be had.
pub fn kernel_mtu(to: SocketAddr) -> io::Result<usize> {
    let v4 = to.ip().to_canonical().is_ipv4();
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Only looks up the route: a connected socket knows its MTU.
    socket.connect(&to.into())?;
    let (level, option) = match v4 {
        true => (libc::IPPROTO_IP, libc::IP_MTU),
        false => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` and `len` live through the call, and `len` is the size of `value`.
    let r = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(value).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_the_mtu_of_its_interface() {
        let text = std::fs::read_to_string("/sys/class/net/lo/mtu").expect("loopback");
        let mtu: usize = text.trim().parse().expect("a number");
        // Of 65,536 an IPv4 packet can use all but one.
        let got = kernel_mtu(([127, 0, 0, 1], 9).into()).expect("a route");
        assert_eq!(got, mtu.min(65_535));
    }

    #[test]
    fn an_address_that_cannot_be_sent_to_is_an_error() {
        // Broadcast, which the socket has not asked for.
        assert!(kernel_mtu(([255, 255, 255, 255], 9).into()).is_err());
    }
}
