//! Packets as they arrive on an interface, and what the XDP program must decide about them, said
//! once more in Rust with the library's own parser.

use ctp96::wire::{Header, ParseError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// EtherTypes that the packets of these tests have.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A customer's VLAN tag.
    pub const VLAN: u16 = 0x8100;
    /// A provider's VLAN tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// Protocol numbers and IPv6 extension headers.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6 destination options.
    pub const OPTIONS: u8 = 60;
}

/// An Ethernet frame with VLAN tags of the given types, the outer one first.
pub fn ethernet(tags: &[u16], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (i, tag) in tags.iter().enumerate() {
        out.extend(tag.to_be_bytes());
        out.extend([0, 100 + i as u8]);
    }
    out.extend(kind.to_be_bytes());
    out.extend(body);
    out
}

/// An IPv4 packet from 192.0.2.`source` with options of as many bytes (a multiple of 4, up to 40) and
/// this fragment field.
pub fn ipv4(source: u8, options: usize, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options;
    let mut out = vec![0x40 | (header / 4) as u8, 0];
    out.extend(((header + payload.len()) as u16).to_be_bytes());
    out.extend([0, 1]);
    out.extend(fragment.to_be_bytes());
    out.extend([64, protocol, 0, 0, 192, 0, 2, source, 10, 96, 0, 1]);
    out.resize(header, 1); // no-operation options
    out.extend(payload);
    out
}

/// An IPv6 packet from 2001:db8:0:`network`::`host` with these extension headers of 8 bytes each,
/// the last of them naming `protocol`.
pub fn ipv6(network: u8, host: u8, headers: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = headers.len() * 8 + payload.len();
    let mut chain = headers.iter().copied().chain([protocol]);
    let mut out = vec![0x60, 0, 0, 0];
    out.extend((len as u16).to_be_bytes());
    out.push(chain.next().unwrap_or(protocol));
    out.push(64);
    out.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, network]);
    out.extend([0, 0, 0, 0, 0, 0, 0, host]);
    out.extend([0xfd, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    for next in chain {
        out.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    out.extend(payload);
    out
}

/// A UDP datagram to `port`.
pub fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = 9000u16.to_be_bytes().to_vec();
    out.extend(port.to_be_bytes());
    out.extend(((payload.len() + 8) as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    out
}

/// What the XDP program must decide, as the name of its verdict, where every queue has a socket and
/// no source is limited.
pub fn expected(packet: &[u8], ports: &[u16]) -> &'static str {
    let mut reader = Reader { packet, at: 0 };
    match reader.ethernet(ports) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

/// The verdict for what [`Header::parse`] said.
pub fn verdict_of(parsed: Result<Header, ParseError>) -> &'static str {
    match parsed {
        Ok(_) => "redirected",
        Err(e) if e.is_foreign() => "foreign",
        Err(_) => "malformed",
    }
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

type Verdict = Result<&'static str, &'static str>;

impl<'a> Reader<'a> {
    /// The next `n` bytes, or the verdict for a packet that ends before.
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (start, end) = (self.at, self.at + n);
        self.at = end;
        self.packet.get(start..end).ok_or("passed")
    }

    fn ethernet(&mut self, ports: &[u16]) -> Verdict {
        let mut kind = be16(self.take(14)?, 12);
        for _ in 0..2 {
            if kind == ethertype::VLAN || kind == ethertype::SERVICE_VLAN {
                kind = be16(self.take(4)?, 2);
            }
        }
        match kind {
            ethertype::IPV4 => self.ipv4(ports),
            ethertype::IPV6 => self.ipv6(ports),
            _ => Ok("passed"),
        }
    }

    fn ipv4(&mut self, ports: &[u16]) -> Verdict {
        let start = self.at;
        let ip = self.take(20)?;
        let (header, total) = (usize::from(ip[0] & 0xf) * 4, usize::from(be16(ip, 2)));
        let whole = ip[0] >> 4 == 4 && header >= 20 && total >= header;
        if !whole || start + total > self.packet.len() || ip[9] != protocol::UDP {
            return Ok("passed");
        }
        if be16(ip, 6) & 0x3fff != 0 {
            return Ok("fragment");
        }
        self.at = start + header;
        self.udp(start + total, ports)
    }

    fn ipv6(&mut self, ports: &[u16]) -> Verdict {
        let ip = self.take(40)?;
        let end = self.at + usize::from(be16(ip, 4));
        if ip[0] >> 4 != 6 || end > self.packet.len() {
            return Ok("passed");
        }
        let mut next = ip[6];
        let mut seen = 0;
        while matches!(next, protocol::HOP_BY_HOP | protocol::OPTIONS) && seen < 4 {
            let start = self.at;
            if start + 2 > end {
                return Ok("passed");
            }
            let header = self.take(2)?;
            self.at = start + (usize::from(header[1]) + 1) * 8;
            if self.at > end {
                return Ok("passed");
            }
            next = header[0];
            seen += 1;
        }
        match next {
            protocol::FRAGMENT => Ok("fragment"),
            protocol::UDP => self.udp(end, ports),
            _ => Ok("passed"),
        }
    }

    /// `end`: where the IP payload ends.
    fn udp(&mut self, end: usize, ports: &[u16]) -> Verdict {
        if self.at + 8 > end {
            return Ok("passed");
        }
        let start = self.at;
        let udp = self.take(8)?;
        if !ports.contains(&be16(udp, 2)) {
            return Ok("passed");
        }
        let len = usize::from(be16(udp, 4));
        // Too long for the IP packet, or with less than its own header.
        if len < 8 || start + len > end {
            return Ok("malformed");
        }
        let payload = &self.packet[self.at..start + len];
        Ok(verdict_of(Header::parse(payload)))
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// An AF_XDP socket with a receive ring, and no buffers to receive into: the kernel counts each frame
/// that it would have delivered.
#[derive(Debug)]
pub struct CountingSocket {
    fd: OwnedFd,
    // Registered with the socket for as long as it is open.
    _umem: Option<Box<Umem>>,
}

impl CountingSocket {
    /// A socket bound to nothing: enough for the program's socket map.
    ///
    /// # Errors
    /// The kernel has no AF_XDP, or does not allow it.
    pub fn unbound() -> io::Result<Self> {
        // SAFETY: socket takes three integers and returns a descriptor or -1.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns or closes it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut socket = Self { fd, _umem: None };
        socket.set(libc::XDP_RX_RING, &RING_ENTRIES)?;
        Ok(socket)
    }

    /// A socket bound to one queue of an interface, in copy mode.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn bound(ifindex: u32, queue: u32) -> io::Result<Self> {
        let mut socket = Self::unbound()?;
        let mut umem = Box::new(Umem([0; UMEM_LEN]));
        // SAFETY: every bit pattern of this struct of integers is valid.
        let mut reg: libc::xdp_umem_reg = unsafe { std::mem::zeroed() };
        reg.addr = umem.0.as_mut_ptr().expose_provenance() as u64;
        reg.len = UMEM_LEN as u64;
        reg.chunk_size = 4096;
        socket.set(libc::XDP_UMEM_REG, &reg)?;
        socket._umem = Some(umem);
        socket.set(libc::XDP_UMEM_FILL_RING, &RING_ENTRIES)?;
        socket.set(libc::XDP_UMEM_COMPLETION_RING, &RING_ENTRIES)?;
        // SAFETY: as above.
        let mut address: libc::sockaddr_xdp = unsafe { std::mem::zeroed() };
        address.sxdp_family = libc::AF_XDP as u16;
        address.sxdp_flags = libc::XDP_COPY;
        address.sxdp_ifindex = ifindex;
        address.sxdp_queue_id = queue;
        // SAFETY: the descriptor is open and the address is a live sockaddr_xdp of the length given.
        let rc = unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        };
        ok(rc)?;
        Ok(socket)
    }

    /// Frames that the kernel had no buffer for, which is all that came.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn frames(&self) -> io::Result<u64> {
        // SAFETY: every bit pattern of this struct of integers is valid.
        let mut statistics: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::xdp_statistics>() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the pointers are to a live struct and its length.
        let rc = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_XDP,
                libc::XDP_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        };
        ok(rc)?;
        Ok(statistics.rx_fill_ring_empty_descs)
    }

    fn set<T>(&mut self, option: i32, value: &T) -> io::Result<()> {
        // SAFETY: the descriptor is open and the value is live and of the length given. The one value
        // that holds an address, XDP_UMEM_REG, holds that of memory which the socket owns
        // and whose pages the kernel pins.
        let rc = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_XDP,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        ok(rc)
    }
}

impl AsFd for CountingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const RING_ENTRIES: u32 = 64;
const UMEM_LEN: usize = 16 * 4096;

fn ok(rc: i32) -> io::Result<()> {
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Memory for frames, in whole pages as the kernel wants it.
#[derive(Debug)]
#[repr(align(4096))]
struct Umem([u8; UMEM_LEN]);
