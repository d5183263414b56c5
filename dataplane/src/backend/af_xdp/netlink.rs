//! What the kernel knows about interfaces, routes and neighbours, asked over netlink.
//!
//! A small hand-written client: four questions and one subscription. Nothing here is called on the
//! data path.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::wire::eth::Mac;

const NLMSG_HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Room for one answer; the kernel's largest messages here are about 4 KiB.
const ROOM: usize = 32 << 10;

/// Changes of links, neighbours, addresses and routes.
pub(super) const CHANGES: u32 = (libc::RTMGRP_LINK
    | libc::RTMGRP_NEIGH
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE) as u32;

/// Attributes of route, neighbour and link messages (linux/rtnetlink.h, neighbour.h, if_link.h).
mod attr {
    pub(super) const RTA_DST: u16 = 1;
    pub(super) const RTA_OIF: u16 = 4;
    pub(super) const RTA_GATEWAY: u16 = 5;
    pub(super) const RTA_PREFSRC: u16 = 7;
    pub(super) const RTA_METRICS: u16 = 8;
    pub(super) const RTA_CACHEINFO: u16 = 12;
    pub(super) const RTA_VIA: u16 = 18;
    pub(super) const RTAX_MTU: u16 = 2;
    pub(super) const NDA_DST: u16 = 1;
    pub(super) const NDA_LLADDR: u16 = 2;
    pub(super) const IFLA_ADDRESS: u16 = 1;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_MTU: u16 = 4;
    pub(super) const IFLA_LINK: u16 = 5;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    pub(super) const IFLA_INFO_DATA: u16 = 2;
    pub(super) const IFLA_VLAN_ID: u16 = 1;
    pub(super) const CTRL_FAMILY_ID: u16 = 1;
    pub(super) const CTRL_FAMILY_NAME: u16 = 2;
    pub(super) const NETDEV_IFINDEX: u16 = 1;
    pub(super) const NETDEV_XDP_FEATURES: u16 = 3;
    pub(super) const NETDEV_XSK_FEATURES: u16 = 6;
}

/// Neighbour states in which the MAC address may be used: permanent, without ARP, reachable, stale,
/// delay, probe.
const USABLE: u16 = 0x80 | 0x40 | 0x02 | 0x04 | 0x08 | 0x10;
const NTF_USE: u8 = 0x01;
const RTN_UNICAST: u8 = 1;
/// NETDEV_XDP_ACT_XSK_ZEROCOPY
const XDP_ACT_ZEROCOPY: u64 = 8;
/// NETDEV_XSK_FLAGS_TX_CHECKSUM
const XSK_TX_CHECKSUM: u64 = 2;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
    pub(super) mtu: usize,
    /// Up, with a carrier.
    pub(super) running: bool,
    /// Index of the interface that a VLAN interface lies on, and its tag.
    pub(super) vlan: Option<(u32, u16)>,
}

/// How the kernel would send to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) oif: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    /// To another host: not to ourselves, and no broadcast.
    pub(super) unicast: bool,
    /// Longest IP packet that the administrator allows on it. What the kernel has learned from
    /// messages of routers is left out: anybody can forge those, and the protocol finds out by itself.
    pub(super) mtu: Option<usize>,
}

/// What the driver of an interface offers to AF_XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Offers {
    pub(super) zero_copy: bool,
    /// Transmit metadata that asks for a checksum.
    pub(super) tx_checksum: bool,
}

/// A netlink socket.
pub(super) struct Netlink {
    fd: OwnedFd,
    seq: u32,
    buf: Vec<u8>,
}

impl Netlink {
    /// Opens a socket of `protocol` (NETLINK_ROUTE or NETLINK_GENERIC) that hears `groups`.
    pub(super) fn open(protocol: i32, groups: u32) -> io::Result<Netlink> {
        // SAFETY: socket takes no pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all-zero bytes are a valid sockaddr_nl.
        let mut addr: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        addr.nl_family = libc::AF_NETLINK as u16;
        addr.nl_groups = groups;
        // SAFETY: a live address of the given length.
        let r = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const addr).cast(),
                size_of::<libc::sockaddr_nl>() as libc::socklen_t,
            )
        };
        if r < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Netlink {
            fd,
            seq: 0,
            buf: vec![0; ROOM],
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Reads away everything that has come; says whether there was anything. After an overrun (too
    /// many changes at once) there was.
    pub(super) fn drain(&mut self) -> bool {
        let mut any = false;
        while match self.receive(libc::MSG_DONTWAIT) {
            Ok(_) => true,
            Err(e) => e.raw_os_error() == Some(libc::ENOBUFS),
        } {
            any = true;
        }
        any
    }

    fn receive(&mut self, flags: i32) -> io::Result<usize> {
        // SAFETY: the buffer is live and its length given.
        let n = unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                self.buf.as_mut_ptr().cast(),
                self.buf.len(),
                flags,
            )
        };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((n as usize).min(self.buf.len()))
    }

    /// Sends one request and gives kind and body of the answer; `None` for a bare acknowledgement.
    fn ask(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<Option<(u16, Vec<u8>)>> {
        self.seq = self.seq.wrapping_add(1);
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        let mut m = Vec::with_capacity(NLMSG_HEADER + body.len());
        m.extend_from_slice(&((NLMSG_HEADER + body.len()) as u32).to_ne_bytes());
        m.extend_from_slice(&kind.to_ne_bytes());
        m.extend_from_slice(&flags.to_ne_bytes());
        m.extend_from_slice(&self.seq.to_ne_bytes());
        m.extend_from_slice(&[0; 4]);
        m.extend_from_slice(body);
        // SAFETY: the message is live and its length given.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), m.as_ptr().cast(), m.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        loop {
            let n = self.receive(0)?;
            let mut rest = &self.buf[..n];
            while let Some((kind, seq, body, next)) = message(rest) {
                rest = next;
                if seq != self.seq {
                    continue;
                }
                return match kind {
                    NLMSG_DONE => Ok(None),
                    NLMSG_ERROR => match i32_at(body, 0) {
                        Some(0) => Ok(None),
                        Some(e) => Err(io::Error::from_raw_os_error(-e)),
                        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
                    },
                    _ => Ok(Some((kind, body.to_vec()))),
                };
            }
        }
    }

    fn link_request(&mut self, index: u32, name: Option<&str>) -> io::Result<Link> {
        let mut b = vec![0; 16];
        b[4..8].copy_from_slice(&index.to_ne_bytes());
        if let Some(name) = name {
            let mut text = name.as_bytes().to_vec();
            text.push(0);
            put(&mut b, attr::IFLA_IFNAME, &text);
        }
        let answer = self.ask(libc::RTM_GETLINK, 0, &b)?;
        let (_, body) = answer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        parse_link(&body).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    pub(super) fn link_by_name(&mut self, name: &str) -> io::Result<Link> {
        self.link_request(0, Some(name))
    }

    pub(super) fn link(&mut self, index: u32) -> io::Result<Link> {
        self.link_request(index, None)
    }

    /// How the kernel would send to `to`; an error when it has no route.
    pub(super) fn route(&mut self, to: IpAddr) -> io::Result<Route> {
        let (family, addr) = octets(to);
        let mut b = vec![0; 12];
        b[0] = family;
        b[1] = (addr.len() * 8) as u8;
        put(&mut b, attr::RTA_DST, &addr);
        let answer = self.ask(libc::RTM_GETROUTE, 0, &b)?;
        let (_, body) = answer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        parse_route(&body).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// MAC address of a neighbour, if it is known.
    pub(super) fn neighbour(&mut self, ifindex: u32, ip: IpAddr) -> Option<Mac> {
        let b = neighbour_request(ifindex, ip, 0);
        let (_, body) = self.ask(libc::RTM_GETNEIGH, 0, &b).ok()??;
        let state = u16::from_ne_bytes(*body.get(8..10)?.first_chunk()?);
        if state & USABLE == 0 {
            return None;
        }
        let mac = attrs(body.get(12..)?).find(|a| a.0 == attr::NDA_LLADDR)?;
        mac.1.try_into().ok()
    }

    /// Makes the kernel look for a neighbour, or make sure of one that it has not heard for long.
    pub(super) fn discover(&mut self, ifindex: u32, ip: IpAddr) -> io::Result<()> {
        let b = neighbour_request(ifindex, ip, NTF_USE);
        let flags = libc::NLM_F_ACK | libc::NLM_F_CREATE;
        self.ask(libc::RTM_NEWNEIGH, flags, &b).map(drop)
    }
}

fn neighbour_request(ifindex: u32, ip: IpAddr, flags: u8) -> Vec<u8> {
    let (family, addr) = octets(ip);
    let mut b = vec![0; 12];
    b[0] = family;
    b[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    b[10] = flags;
    put(&mut b, attr::NDA_DST, &addr);
    b
}

/// What the driver of an interface says that it offers; an error where the kernel cannot say (Linux
/// before 6.3).
pub(super) fn offers(ifindex: u32) -> io::Result<Offers> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut n = Netlink::open(libc::NETLINK_GENERIC, 0)?;
    // Command, version, two reserved bytes.
    let mut b = vec![libc::CTRL_CMD_GETFAMILY as u8, 1, 0, 0];
    put(&mut b, attr::CTRL_FAMILY_NAME, b"netdev\0");
    let (_, body) = n
        .ask(libc::GENL_ID_CTRL as u16, 0, &b)?
        .ok_or_else(invalid)?;
    let id = attrs(body.get(4..).unwrap_or_default())
        .find(|a| a.0 == attr::CTRL_FAMILY_ID)
        .and_then(|a| Some(u16::from_ne_bytes(*a.1.first_chunk()?)))
        .ok_or_else(invalid)?;
    // NETDEV_CMD_DEV_GET
    let mut b = vec![1, 1, 0, 0];
    put(&mut b, attr::NETDEV_IFINDEX, &ifindex.to_ne_bytes());
    let (_, body) = n.ask(id, 0, &b)?.ok_or_else(invalid)?;
    let flags = |kind| {
        let mut all = attrs(body.get(4..).unwrap_or_default());
        let found = all.find(|a| a.0 == kind)?;
        Some(u64::from_ne_bytes(*found.1.first_chunk()?))
    };
    let xdp = flags(attr::NETDEV_XDP_FEATURES).ok_or_else(invalid)?;
    // Linux before 6.8 knows no metadata.
    let xsk = flags(attr::NETDEV_XSK_FEATURES).unwrap_or(0);
    Ok(Offers {
        zero_copy: xdp & XDP_ACT_ZEROCOPY != 0,
        tx_checksum: xsk & XSK_TX_CHECKSUM != 0,
    })
}

/// Kind, sequence number and body of the first message, and what follows it.
fn message(b: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*b.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*b.get(4..)?.first_chunk()?);
    let seq = u32::from_ne_bytes(*b.get(8..)?.first_chunk()?);
    let body = b.get(NLMSG_HEADER..len)?;
    let next = b.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, seq, body, next))
}

/// Kind and value of each attribute, as far as they are well formed.
fn attrs(mut b: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*b.first_chunk()?));
        // The two highest bits say "nested" and "network byte order".
        let kind = u16::from_ne_bytes(*b.get(2..)?.first_chunk()?) & 0x3fff;
        let value = b.get(4..len)?;
        b = b.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn put(b: &mut Vec<u8>, kind: u16, value: &[u8]) {
    b.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    b.extend_from_slice(&kind.to_ne_bytes());
    b.extend_from_slice(value);
    b.resize(b.len().next_multiple_of(4), 0);
}

fn octets(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(a) => (libc::AF_INET as u8, a.octets().to_vec()),
        IpAddr::V6(a) => (libc::AF_INET6 as u8, a.octets().to_vec()),
    }
}

fn ip(b: &[u8]) -> Option<IpAddr> {
    match b.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(b).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(b).ok()?).into()),
        _ => None,
    }
}

fn i32_at(b: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

fn u32_of(b: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*b.first_chunk()?))
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let flags = i32_at(body, 8)?;
    let mut link = Link {
        index: u32::try_from(i32_at(body, 4)?).ok()?,
        name: String::new(),
        mac: None,
        mtu: 0,
        running: flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0,
        vlan: None,
    };
    let (mut below, mut tag) = (None, None);
    for (kind, value) in attrs(body.get(16..)?) {
        match kind {
            attr::IFLA_ADDRESS => link.mac = value.try_into().ok(),
            attr::IFLA_IFNAME => {
                let name = value.split(|&c| c == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            attr::IFLA_MTU => link.mtu = u32_of(value)? as usize,
            attr::IFLA_LINK => below = u32_of(value),
            attr::IFLA_LINKINFO => {
                let is_vlan =
                    attrs(value).any(|(k, v)| k == attr::IFLA_INFO_KIND && v.starts_with(b"vlan"));
                let data = attrs(value).find(|a| a.0 == attr::IFLA_INFO_DATA);
                if let (true, Some((_, data))) = (is_vlan, data) {
                    tag = attrs(data)
                        .find(|a| a.0 == attr::IFLA_VLAN_ID)
                        .and_then(|a| Some(u16::from_ne_bytes(*a.1.first_chunk()?)));
                }
            }
            _ => {}
        }
    }
    link.vlan = below.zip(tag);
    Some(link)
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let mut route = Route {
        oif: 0,
        gateway: None,
        source: None,
        unicast: *body.get(7)? == RTN_UNICAST,
        mtu: None,
    };
    let mut learned = false;
    for (kind, value) in attrs(body.get(12..)?) {
        match kind {
            attr::RTA_OIF => route.oif = u32_of(value)?,
            attr::RTA_GATEWAY => route.gateway = ip(value),
            // A gateway of the other family: two bytes of family, then the address.
            attr::RTA_VIA => route.gateway = ip(value.get(2..)?),
            attr::RTA_PREFSRC => route.source = ip(value),
            attr::RTA_METRICS => {
                let mtu = attrs(value).find(|a| a.0 == attr::RTAX_MTU);
                route.mtu = mtu.and_then(|a| u32_of(a.1)).map(|n| n as usize);
            }
            // struct rta_cacheinfo: what has a time to live was learned.
            attr::RTA_CACHEINFO => learned = i32_at(value, 8).is_some_and(|t| t != 0),
            _ => {}
        }
    }
    if learned {
        route.mtu = None;
    }
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loopback_is_described_as_it_is() {
        let mut n = Netlink::open(libc::NETLINK_ROUTE, 0).expect("netlink");
        let lo = n.link_by_name("lo").expect("every host has it");
        assert_eq!((lo.name.as_str(), lo.mac), ("lo", Some([0; 6])));
        assert_eq!(n.link(lo.index).expect("the same"), lo);
        let e = n.link_by_name("ctp96-none").expect_err("no such interface");
        assert_eq!(e.raw_os_error(), Some(libc::ENODEV));
        let r = n.route([127, 0, 0, 1].into()).expect("every host has it");
        assert!(
            !r.unicast && r.oif == lo.index && r.gateway.is_none(),
            "{r:?}"
        );
        assert_eq!(n.neighbour(lo.index, [127, 0, 0, 77].into()), None);
        assert_eq!(offers(lo.index).unwrap_or_default(), Offers::default());
    }

    #[test]
    fn attributes_come_back_as_they_went_in() {
        let mut b = Vec::new();
        put(&mut b, 5, b"abc");
        put(&mut b, 6 | 0x8000, b"");
        put(&mut b, 7, b"12345678");
        let all: Vec<_> = attrs(&b).collect();
        assert_eq!(all, [(5, &b"abc"[..]), (6, b""), (7, b"12345678")]);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (parse_link(&b), parse_route(&b), attrs(&b).count(), message(&b));
        }
    }
}
