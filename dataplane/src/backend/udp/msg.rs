//! Message headers for batched socket calls: addresses and control data as the kernel lays them
//! out, and the arrays that `sendmmsg` and `recvmmsg` take.

use std::io;
use std::mem::size_of;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};

/// Bytes of `sockaddr_in6`, the longest address used.
pub(super) const NAME_LEN: usize = 28;
/// Room for received control data: TOS or traffic class, GRO size and the drop counter take 24
/// bytes each.
pub(super) const CONTROL_LEN: usize = 120;
const CMSG_HEADER: usize = size_of::<libc::cmsghdr>();
const CMSG_ALIGN: usize = size_of::<usize>();
/// Room for one UDP_SEGMENT control message.
const SEGMENT_LEN: usize = (CMSG_HEADER + 2).next_multiple_of(CMSG_ALIGN);
/// Room for one IP_TOS or IPV6_TCLASS control message.
const TOS_LEN: usize = (CMSG_HEADER + 4).next_multiple_of(CMSG_ALIGN);
/// Room for the control data of an outgoing message.
const TX_CONTROL_LEN: usize = SEGMENT_LEN + TOS_LEN;

/// What the control data of a received message said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Control {
    /// Length of each segment, when the kernel joined several.
    pub(super) segment: Option<usize>,
    /// ECN bits.
    pub(super) ecn: u8,
    /// The socket's drop counter, which the kernel attaches once it is not zero.
    pub(super) drops: Option<u32>,
}

/// Reads received control data; what it does not know or cannot read it passes over.
pub(super) fn parse_control(mut data: &[u8]) -> Control {
    let mut out = Control::default();
    let int = |b: &[u8]| -> Option<i32> { Some(i32::from_ne_bytes(b.get(..4)?.try_into().ok()?)) };
    while let Some((head, _)) = data.split_first_chunk::<CMSG_HEADER>() {
        let (len, rest) = head.split_at(size_of::<usize>());
        let len = len.try_into().map_or(0, usize::from_ne_bytes);
        let (Some(level), Some(kind)) = (int(rest), int(&rest[4..])) else {
            break;
        };
        let Some(body) = data.get(CMSG_HEADER..len) else {
            break;
        };
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // Two bytes on some kernels before 5.5, four since.
                let two = || {
                    Some(i32::from(u16::from_ne_bytes(
                        body.get(..2)?.try_into().ok()?,
                    )))
                };
                let n = int(body).or_else(two).and_then(|n| usize::try_from(n).ok());
                out.segment = n.filter(|&n| n > 0);
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // One byte for IPv4, an int for IPv6.
                let value = int(body).unwrap_or_else(|| body.first().map_or(0, |&b| b.into()));
                out.ecn = (value & 3) as u8;
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => out.drops = int(body).map(|n| n as u32),
            _ => {}
        }
        data = data.get(len.next_multiple_of(CMSG_ALIGN)..).unwrap_or(&[]);
    }
    out
}

/// Reads a socket address; IPv4 addresses inside IPv6 become plain IPv4.
pub(super) fn parse_name(b: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(b.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(b.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = b.get(4..8)?.try_into().ok()?;
            Some((ip, port).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(b.get(8..24)?).ok()?);
            if let Some(ip) = ip.to_ipv4_mapped() {
                return Some((ip, port).into());
            }
            let scope = u32::from_ne_bytes(b.get(24..28)?.try_into().ok()?);
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

/// Writes a socket address for a socket of the given family and gives its length.
fn encode_name(to: &SocketAddr, v6: bool, out: &mut [u8; NAME_LEN]) -> usize {
    out.fill(0);
    out[2..4].copy_from_slice(&to.port().to_be_bytes());
    let (ip, scope) = match to {
        SocketAddr::V4(a) if !v6 => {
            out[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            out[4..8].copy_from_slice(&a.ip().octets());
            return size_of::<libc::sockaddr_in>();
        }
        SocketAddr::V4(a) => (a.ip().to_ipv6_mapped(), 0),
        SocketAddr::V6(a) => (*a.ip(), a.scope_id()),
    };
    out[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    out[8..24].copy_from_slice(&ip.octets());
    out[24..28].copy_from_slice(&scope.to_ne_bytes());
    NAME_LEN
}

fn encode_segment(segment: usize, out: &mut [u8; SEGMENT_LEN]) {
    out.fill(0);
    let word = size_of::<usize>();
    out[..word].copy_from_slice(&(CMSG_HEADER + 2).to_ne_bytes());
    out[word..word + 4].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
    out[word + 4..word + 8].copy_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
    out[CMSG_HEADER..CMSG_HEADER + 2].copy_from_slice(&(segment as u16).to_ne_bytes());
}

/// Sets the ECN bits of the packets of a message, whatever the socket's family: an IPv4 peer of an
/// IPv6 socket is served by the kernel's IPv4 side.
fn encode_tos(ecn: u8, v4: bool, out: &mut [u8; TOS_LEN]) {
    out.fill(0);
    let word = size_of::<usize>();
    let (level, kind) = match v4 {
        true => (libc::IPPROTO_IP, libc::IP_TOS),
        false => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    };
    out[..word].copy_from_slice(&(CMSG_HEADER + 4).to_ne_bytes());
    out[word..word + 4].copy_from_slice(&level.to_ne_bytes());
    out[word + 4..word + 8].copy_from_slice(&kind.to_ne_bytes());
    out[CMSG_HEADER..CMSG_HEADER + 4].copy_from_slice(&i32::from(ecn & 3).to_ne_bytes());
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Side<const CONTROL: usize> {
    control: [u8; CONTROL],
    name: [u8; NAME_LEN],
}

/// Headers for a batch of messages, each with one buffer, one address and `CONTROL` bytes of
/// control data. All pointers lead into the boxes beside them or to what the caller set.
struct Batch<const CONTROL: usize> {
    headers: Box<[libc::mmsghdr]>,
    vecs: Box<[libc::iovec]>,
    sides: Box<[Side<CONTROL>]>,
}

// SAFETY: the raw pointers lead into the boxes, which move along, or to buffers of the pool that
// the batch's owner also owns.
unsafe impl<const CONTROL: usize> Send for Batch<CONTROL> {}

impl<const CONTROL: usize> Batch<CONTROL> {
    fn new(n: usize) -> Self {
        let side = Side {
            control: [0; CONTROL],
            name: [0; NAME_LEN],
        };
        let vec = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        // SAFETY: all-zero bytes are a valid mmsghdr: null pointers and zero lengths.
        let header: libc::mmsghdr = unsafe { std::mem::zeroed() };
        Batch {
            headers: vec![header; n].into_boxed_slice(),
            vecs: vec![vec; n].into_boxed_slice(),
            sides: vec![side; n].into_boxed_slice(),
        }
    }

    fn set(&mut self, i: usize, data: NonNull<u8>, len: usize, name: usize, control: usize) {
        self.vecs[i] = libc::iovec {
            iov_base: data.as_ptr().cast(),
            iov_len: len,
        };
        let side = &mut self.sides[i];
        let h = &mut self.headers[i].msg_hdr;
        h.msg_name = side.name.as_mut_ptr().cast();
        h.msg_namelen = name as libc::socklen_t;
        h.msg_iov = &mut self.vecs[i];
        h.msg_iovlen = 1;
        h.msg_control = side.control.as_mut_ptr().cast();
        h.msg_controllen = control as _;
        h.msg_flags = 0;
    }
}

/// Headers of outgoing messages.
pub(super) struct TxBatch {
    batch: Batch<TX_CONTROL_LEN>,
    v6: bool,
}

impl TxBatch {
    /// Room for `n` messages from a socket of the given family.
    pub(super) fn new(n: usize, v6: bool) -> TxBatch {
        TxBatch {
            batch: Batch::new(n),
            v6,
        }
    }

    /// Message `i`: `len` bytes at `data` to `to`, cut every `segment` bytes, in packets with the ECN
    /// bits `ecn`.
    pub(super) fn set(
        &mut self,
        i: usize,
        (data, len): (NonNull<u8>, usize),
        to: &SocketAddr,
        (segment, ecn): (usize, u8),
    ) {
        let side = &mut self.batch.sides[i];
        let name = encode_name(to, self.v6, &mut side.name);
        let mut control = 0;
        if segment < len
            && let Some(out) = side.control.first_chunk_mut()
        {
            encode_segment(segment, out);
            control = SEGMENT_LEN;
        }
        if ecn != 0
            && let Some(out) = side.control[control..].first_chunk_mut()
        {
            encode_tos(ecn, to.ip().to_canonical().is_ipv4(), out);
            control += TOS_LEN;
        }
        self.batch.set(i, data, len, name, control);
    }

    /// Header of message `i`, for a submission that reads it before the next `set`.
    pub(super) fn header(&self, i: usize) -> *const libc::msghdr {
        &self.batch.headers[i].msg_hdr
    }

    /// Sends the first `n` messages; gives how many went.
    ///
    /// # Safety
    /// The data that the last `set` of each of them named must be valid to read.
    pub(super) unsafe fn send(&mut self, fd: RawFd, n: usize) -> io::Result<usize> {
        let headers = &mut self.batch.headers[..n];
        // SAFETY: `headers` are `n` initialised headers whose pointers lead into boxes that are
        // alive, or to data that the caller vouches for; the call keeps none of them.
        let r = unsafe {
            libc::sendmmsg(
                fd,
                headers.as_mut_ptr(),
                n as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(r).map_err(|_| io::Error::last_os_error())
    }
}

/// One received message.
pub(super) struct Received {
    /// Payload bytes in the buffer.
    pub(super) len: usize,
    /// Whether the datagram was longer than the buffer.
    pub(super) truncated: bool,
    /// Who sent it.
    pub(super) from: Option<SocketAddr>,
    /// What the kernel told about it.
    pub(super) control: Control,
}

/// Headers of incoming messages.
pub(super) struct RxBatch(Batch<CONTROL_LEN>);

impl RxBatch {
    /// Room for `n` messages.
    pub(super) fn new(n: usize) -> RxBatch {
        RxBatch(Batch::new(n))
    }

    /// Message `i` goes to the `len` bytes at `data`.
    pub(super) fn set(&mut self, i: usize, data: NonNull<u8>, len: usize) {
        self.0.set(i, data, len, NAME_LEN, CONTROL_LEN);
    }

    /// Receives up to `n` messages without waiting; gives how many came.
    ///
    /// # Safety
    /// The memory that `set` named for each of them must be the caller's to write.
    pub(super) unsafe fn recv(&mut self, fd: RawFd, n: usize) -> io::Result<usize> {
        let headers = &mut self.0.headers[..n];
        // SAFETY: as in `TxBatch::send`; the buffers are the caller's to write.
        let r = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                n as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        usize::try_from(r).map_err(|_| io::Error::last_os_error())
    }

    /// What message `i` of the last `recv` was.
    pub(super) fn get(&self, i: usize) -> Received {
        let (header, side) = (&self.0.headers[i], &self.0.sides[i]);
        let h = &header.msg_hdr;
        let control = h.msg_controllen.min(CONTROL_LEN);
        let name = (h.msg_namelen as usize).min(NAME_LEN);
        Received {
            len: header.msg_len as usize,
            truncated: h.msg_flags & libc::MSG_TRUNC != 0,
            from: parse_name(&side.name[..name]),
            control: parse_control(&side.control[..control]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_both_ways() {
        for (v6, text, want) in [
            (false, "192.0.2.7:9696", "192.0.2.7:9696"),
            (true, "192.0.2.7:9696", "192.0.2.7:9696"),
            (true, "[2001:db8::1]:65535", "[2001:db8::1]:65535"),
            (true, "[fe80::1%3]:1", "[fe80::1%3]:1"),
        ] {
            let mut b = [0xAA; NAME_LEN];
            let n = encode_name(&text.parse().expect("address"), v6, &mut b);
            assert_eq!(n, if v6 { 28 } else { 16 });
            assert_eq!(parse_name(&b[..n]), want.parse().ok());
        }
        assert_eq!(parse_name(&[1, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(parse_name(&[]), None);
    }

    #[test]
    fn control_data_is_read_and_nonsense_passed_over() {
        let mut b = [0u8; SEGMENT_LEN];
        encode_segment(1448, &mut b);
        assert_eq!(
            parse_control(&b),
            Control::default(),
            "UDP_SEGMENT is not for us"
        );
        let cmsg = |level: i32, kind: i32, body: &[u8]| {
            let mut v = (CMSG_HEADER + body.len()).to_ne_bytes().to_vec();
            v.extend(level.to_ne_bytes());
            v.extend(kind.to_ne_bytes());
            v.extend(body);
            v.resize(v.len().next_multiple_of(CMSG_ALIGN), 0);
            v
        };
        let mut all = cmsg(libc::IPPROTO_IP, libc::IP_TOS, &[3]);
        all.extend(cmsg(99, 99, &[1; 11]));
        all.extend(cmsg(libc::SOL_UDP, libc::UDP_GRO, &1448i32.to_ne_bytes()));
        all.extend(cmsg(
            libc::SOL_SOCKET,
            libc::SO_RXQ_OVFL,
            &7u32.to_ne_bytes(),
        ));
        let want = Control {
            segment: Some(1448),
            ecn: 3,
            drops: Some(7),
        };
        assert_eq!(parse_control(&all), want);
        let six = cmsg(
            libc::IPPROTO_IPV6,
            libc::IPV6_TCLASS,
            &0x2Ai32.to_ne_bytes(),
        );
        assert_eq!(parse_control(&six).ecn, 2);
        for cut in 0..all.len() {
            parse_control(&all[..cut]);
        }
        parse_control(&[0xFF; 64]);
        parse_control(&[0; 64]);
    }
}
