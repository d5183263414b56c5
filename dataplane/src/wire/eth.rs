//! Ethernet, VLAN, IPv4, IPv6 and UDP headers, for a backend that builds its own frames.
//!
//! A [`Template`] holds the headers of one path. Per frame it fills in lengths and checksums:
//!
//! - IPv4 header checksum: from a sum that was made with the template, plus the length.
//! - UDP checksum over IPv4: zero, which RFC 768 defines as "none". The AEAD tag covers the payload
//!   far better, and a sum costs a pass over it. The price: a Linux peer on a plain UDP socket does
//!   not join such datagrams (GRO).
//! - UDP checksum over IPv6: computed ([`Template::write`]), or left to the device with the sum of the
//!   pseudo-header in its place ([`Template::write_partial`]). RFC 8200 asks for it, and Linux drops
//!   datagrams without.
//!
//! Received UDP checksums are not looked at: frames from a local stack (veth, loopback) carry only
//! the pseudo-header's part, and the AEAD tag decides anyway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// Ethernet header without VLAN tags, bytes.
pub const ETH_LEN: usize = 14;
/// One VLAN tag, bytes.
pub const VLAN_LEN: usize = 4;
/// IPv4 header without options, bytes.
pub const IPV4_LEN: usize = 20;
/// IPv6 header, bytes.
pub const IPV6_LEN: usize = 40;
/// UDP header, bytes.
pub const UDP_LEN: usize = 8;
/// Where the checksum stands in a UDP header.
pub const CHECKSUM_AT: usize = 6;
/// Longest headers that a [`Template`] writes, bytes.
pub const MAX_HEADERS: usize = ETH_LEN + VLAN_LEN + IPV6_LEN + UDP_LEN;
/// Most VLAN tags that [`parse`] passes over.
pub const MAX_VLAN_TAGS: usize = 2;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag (802.1Q).
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// EtherType of an outer VLAN tag (802.1ad).
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
/// IP protocol number of UDP.
pub const PROTO_UDP: u8 = 17;

const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments", and the fragment offset.
const FRAGMENT: u16 = 0x3fff;

/// A MAC address.
pub type Mac = [u8; 6];

/// Sums `bytes` as 16-bit words in memory order, an odd last byte padded with zero; fold it with
/// [`fold`].
pub fn sum(bytes: &[u8]) -> u64 {
    // 32-bit words into 64-bit sums: no carry is lost below 2^32 words, and the loop vectorises.
    let mut lanes = [0u64; 8];
    let mut chunks = bytes.chunks_exact(32);
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let mut pairs = chunks.remainder().chunks_exact(2);
    for pair in &mut pairs {
        total += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = pairs.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

/// Folds sums into the ones' complement checksum, as the two bytes that go on the wire.
pub fn fold(mut sum: u64) -> [u8; 2] {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_ne_bytes()
}

/// The ends of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Our MAC address.
    pub src_mac: Mac,
    /// MAC address of the next hop.
    pub dst_mac: Mac,
    /// VLAN to tag frames with.
    pub vlan: Option<u16>,
    /// Our address and port.
    pub src: SocketAddr,
    /// The peer's address and port.
    pub dst: SocketAddr,
}

/// The headers of a path, complete but for lengths and checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    bytes: [u8; MAX_HEADERS],
    len: usize,
    /// Where the IP header starts.
    ip: usize,
    v6: bool,
    /// IPv4: sum of the header. IPv6: sum of addresses and protocol.
    sum: u64,
    /// IPv6: sum of the ports.
    ports: u64,
}

impl Template {
    /// The headers of `flow`; nothing when its ends are of different families.
    pub fn new(flow: &Flow) -> Option<Template> {
        let mut t = Template {
            bytes: [0; MAX_HEADERS],
            len: 0,
            ip: 0,
            v6: flow.dst.is_ipv6(),
            sum: 0,
            ports: 0,
        };
        t.put(&flow.dst_mac);
        t.put(&flow.src_mac);
        if let Some(id) = flow.vlan {
            t.put(&ETHERTYPE_VLAN.to_be_bytes());
            t.put(&(id & 0x0fff).to_be_bytes());
        }
        let ports = [flow.src.port().to_be_bytes(), flow.dst.port().to_be_bytes()].concat();
        match (flow.src.ip(), flow.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                t.put(&ETHERTYPE_IPV4.to_be_bytes());
                t.ip = t.len;
                // Version and length, TOS, total length, then identification 0 (RFC 6864: it
                // means nothing in a datagram that is never fragmented).
                t.put(&[0x45, 0, 0, 0, 0, 0]);
                t.put(&DONT_FRAGMENT.to_be_bytes());
                t.put(&[HOP_LIMIT, PROTO_UDP, 0, 0]);
                t.put(&src.octets());
                t.put(&dst.octets());
                t.sum = sum(&t.bytes[t.ip..t.len]);
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                t.put(&ETHERTYPE_IPV6.to_be_bytes());
                t.ip = t.len;
                // The flow label lets routers spread lanes over equal paths (RFC 6438).
                let label = u32::from(flow.src.port()) << 4 ^ u32::from(flow.dst.port());
                t.put(&(6 << 28 | (label & 0xf_ffff)).to_be_bytes());
                t.put(&[0, 0, PROTO_UDP, HOP_LIMIT]);
                t.put(&src.octets());
                t.put(&dst.octets());
                t.sum = sum(&t.bytes[t.ip + 8..t.len]) + sum(&[0, PROTO_UDP]);
                t.ports = sum(&ports);
            }
            _ => return None,
        }
        t.put(&ports);
        t.put(&[0; 4]);
        Some(t)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Bytes of the headers.
    #[inline]
    pub fn header_len(&self) -> usize {
        self.len
    }

    /// Bytes of the headers that count towards the MTU.
    pub fn ip_overhead(&self) -> usize {
        self.len - self.ip
    }

    /// Where the UDP header starts.
    #[inline]
    pub fn udp_at(&self) -> usize {
        self.len - UDP_LEN
    }

    /// Whether datagrams of this path carry a UDP checksum.
    #[inline]
    pub fn has_checksum(&self) -> bool {
        self.v6
    }

    /// Writes the headers into `frame`, whose payload stands behind them already. A frame too
    /// short for headers, or too long for IP, is left alone and refused.
    #[inline]
    #[must_use]
    pub fn write(&self, frame: &mut [u8]) -> bool {
        self.fill(frame, |pseudo, body| {
            // `fill` has found the length to fit.
            let len = ((body.len() + UDP_LEN) as u16).to_be_bytes();
            match fold(pseudo + self.ports + sum(&len) + sum(body)) {
                // Zero would mean "none".
                [0, 0] => [0xff, 0xff],
                check => check,
            }
        })
    }

    /// As [`Template::write`], but where there is to be a UDP checksum its place holds only the sum
    /// of the pseudo-header. Whoever sends the frame sums from [`Template::udp_at`] to the end and
    /// puts the result [`CHECKSUM_AT`] bytes behind that.
    #[inline]
    #[must_use]
    pub fn write_partial(&self, frame: &mut [u8]) -> bool {
        self.fill(frame, |sum, _| fold(sum).map(|b| !b))
    }

    /// Sets the two ECN bits of headers that [`Template::write`] has written; false where the frame is
    /// shorter than these.
    #[inline]
    #[must_use]
    pub fn mark(&self, frame: &mut [u8], ecn: u8) -> bool {
        let Some(head) = frame.get_mut(self.ip..self.len) else {
            return false;
        };
        let ecn = ecn & 3;
        if self.v6 {
            // The traffic class lies across two bytes; the UDP checksum does not cover it.
            head[1] |= ecn << 4;
        } else if ecn != 0 {
            head[1] |= ecn;
            let check = fold(self.sum + sum(&[head[2], head[3]]) + sum(&[0, ecn]));
            head[10..12].copy_from_slice(&check);
        }
        true
    }

    #[inline]
    fn fill(&self, frame: &mut [u8], checksum: impl FnOnce(u64, &[u8]) -> [u8; 2]) -> bool {
        let Some(payload) = frame.len().checked_sub(self.len) else {
            return false;
        };
        let Ok(udp_len) = u16::try_from(payload + UDP_LEN) else {
            return false;
        };
        if udp_len > u16::MAX - IPV4_LEN as u16 {
            return false;
        }
        let (head, body) = frame.split_at_mut(self.len);
        head.copy_from_slice(&self.bytes[..self.len]);
        let udp = self.udp_at();
        let len = udp_len.to_be_bytes();
        head[udp + 4..udp + 6].copy_from_slice(&len);
        if self.v6 {
            head[self.ip + 4..self.ip + 6].copy_from_slice(&len);
            // The length stands in the pseudo-header, and the one in the UDP header is summed with
            // the rest of it.
            let check = checksum(self.sum + sum(&len), body);
            head[udp + CHECKSUM_AT..udp + CHECKSUM_AT + 2].copy_from_slice(&check);
        } else {
            let total = (udp_len + IPV4_LEN as u16).to_be_bytes();
            head[self.ip + 2..self.ip + 4].copy_from_slice(&total);
            let check = fold(self.sum + sum(&total));
            head[self.ip + 10..self.ip + 12].copy_from_slice(&check);
        }
        true
    }
}

/// A UDP datagram found in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub from: SocketAddr,
    /// Whom it is for.
    pub to: SocketAddr,
    /// ECN bits of the IP header.
    pub ecn: u8,
    /// Where the payload lies in the frame; it may reach beyond the bytes that were parsed.
    pub payload: Range<usize>,
}

/// Why a frame holds no datagram that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EthError {
    /// It ends inside a header, or a length field says more than there is.
    #[error("the frame is cut short, or a length in it is wrong")]
    Length,
    /// It is neither IPv4 nor IPv6, or does not carry UDP.
    #[error("the frame carries no UDP datagram")]
    NotUdp,
    /// It is one fragment of a datagram.
    #[error("the frame carries an IP fragment")]
    Fragment,
    /// The datagram is empty.
    #[error("the datagram is empty")]
    Empty,
}

/// Finds the datagram in a frame of `total` bytes whose first bytes are `head` (all of it, or as
/// far as it lies in one piece; the headers must be in there).
#[inline]
pub fn parse(head: &[u8], total: usize) -> Result<Datagram, EthError> {
    let u16_at = |at: usize| -> Result<u16, EthError> {
        let b = head.get(at..at + 2).and_then(|b| b.first_chunk::<2>());
        b.map(|b| u16::from_be_bytes(*b)).ok_or(EthError::Length)
    };
    let mut at = ETH_LEN;
    let mut kind = u16_at(at - 2)?;
    for _ in 0..MAX_VLAN_TAGS {
        if kind != ETHERTYPE_VLAN && kind != ETHERTYPE_QINQ {
            break;
        }
        at += VLAN_LEN;
        kind = u16_at(at - 2)?;
    }
    let ip = head.get(at..).ok_or(EthError::Length)?;
    let (src, dst, ecn, udp, end): (IpAddr, IpAddr, u8, usize, usize) = match kind {
        ETHERTYPE_IPV4 => {
            let ip = ip.first_chunk::<IPV4_LEN>().ok_or(EthError::Length)?;
            let header = usize::from(ip[0] & 0x0f) * 4;
            if ip[0] >> 4 != 4 || header < IPV4_LEN {
                return Err(EthError::Length);
            }
            if ip[9] != PROTO_UDP {
                return Err(EthError::NotUdp);
            }
            if u16::from_be_bytes([ip[6], ip[7]]) & FRAGMENT != 0 {
                return Err(EthError::Fragment);
            }
            let end = at + usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let addr = |i: usize| Ipv4Addr::new(ip[i], ip[i + 1], ip[i + 2], ip[i + 3]);
            let (src, dst) = (addr(12), addr(16));
            (src.into(), dst.into(), ip[1] & 3, at + header, end)
        }
        ETHERTYPE_IPV6 => {
            let ip = ip.first_chunk::<IPV6_LEN>().ok_or(EthError::Length)?;
            if ip[0] >> 4 != 6 {
                return Err(EthError::Length);
            }
            if ip[6] != PROTO_UDP {
                return Err(EthError::NotUdp);
            }
            let udp = at + IPV6_LEN;
            let end = udp + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
            let addr = |i: usize| {
                let mut a = [0; 16];
                a.copy_from_slice(&ip[i..i + 16]);
                Ipv6Addr::from(a)
            };
            let ecn = ip[1] >> 4 & 3;
            (addr(8).into(), addr(24).into(), ecn, udp, end)
        }
        _ => return Err(EthError::NotUdp),
    };
    // Short frames are padded, so the frame may be longer than the datagram, never shorter.
    if end > total {
        return Err(EthError::Length);
    }
    let (src_port, dst_port) = (u16_at(udp)?, u16_at(udp + 2)?);
    let payload = udp + UDP_LEN..udp + usize::from(u16_at(udp + 4)?);
    if payload.end < payload.start || payload.end > end {
        return Err(EthError::Length);
    }
    if payload.is_empty() {
        return Err(EthError::Empty);
    }
    Ok(Datagram {
        from: SocketAddr::new(src, src_port),
        to: SocketAddr::new(dst, dst_port),
        ecn,
        payload,
    })
}

#[cfg(test)]
#[path = "eth_tests.rs"]
mod tests;
