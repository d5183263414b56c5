//! The backend against a socket of `xsk-rs` at the other end: what either sends, the other receives
//! byte for byte.

use super::*;
use ctp96::backend::af_xdp::turn_round;
use ctp96::wire::Header;
use std::net::SocketAddrV4;
use tests::reference::Reference;

/// Headers before the payload: Ethernet, IPv4, UDP.
const HEADERS: usize = 14 + 20 + 8;
/// UDP payloads from a small one to the longest that an MTU of 1,500 takes.
const PAYLOADS: std::ops::RangeInclusive<usize> = 64..=1472;
/// Frames sent before any is waited for.
const BATCH: usize = 64;

fn reference(host: &Host, mode: AttachMode, mtu: u32) -> Reference {
    let listen = SocketAddr::new(host.v4().into(), 0);
    host.run(|| Reference::open(LINK, listen, mtu as usize, mode))
        .expect("the namespace")
        .unwrap_or_else(|e| panic!("{e}"))
}

/// A frame of `len` bytes that depend on its length.
fn payload(len: usize) -> Vec<u8> {
    let body = len as u16 - Header::control(0, 0, 0, 0).frame_len() as u16;
    let mut f = tests::frames::frame(Header::control(7, 0, len as u64, body));
    assert_eq!(f.len(), len);
    for (i, b) in f[24..].iter_mut().enumerate() {
        *b = (len as u8).wrapping_mul(31) ^ (i as u8) ^ (i >> 8) as u8;
    }
    f
}

/// One end of the pair as it is named in headers.
#[derive(Clone, Copy)]
struct End {
    mac: [u8; 6],
    addr: SocketAddrV4,
}

impl End {
    fn of(host: &Host, addr: SocketAddr) -> End {
        let text = host.mac().expect("an Ethernet interface");
        let bytes: Vec<u8> = text
            .split(':')
            .map(|b| u8::from_str_radix(b, 16).expect("hexadecimal"))
            .collect();
        let SocketAddr::V4(addr) = addr else {
            panic!("{addr} is no IPv4 address");
        };
        End {
            mac: bytes.try_into().expect("six bytes"),
            addr,
        }
    }
}

/// `payload` from one end to the other as RFC 791 and RFC 768 have it: not to be fragmented, lives
/// for 64 hops, and no UDP checksum.
fn packet(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let mut out = [&to.mac[..], &from.mac, &[0x08, 0x00]].concat();
    out.extend([0x45, 0]);
    out.extend((payload.len() as u16 + 28).to_be_bytes());
    out.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    out.extend(from.addr.ip().octets());
    out.extend(to.addr.ip().octets());
    let words = out[14..].chunks(2);
    let mut sum: u32 = words
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    out[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    out.extend(from.addr.port().to_be_bytes());
    out.extend(to.addr.port().to_be_bytes());
    out.extend((payload.len() as u16 + 8).to_be_bytes());
    out.extend([0, 0]);
    assert_eq!(out.len(), HEADERS);
    out.extend(payload);
    out
}

/// Sends single frames until one goes the short way. Those before it, which the kernel sends, may
/// arrive later: they are `content(0, 64)`.
fn until_sent_directly(a: &mut AfXdp, r: &mut Reference, to: SocketAddr) {
    let start = Instant::now();
    while a.stats().tx_direct == 0 {
        assert!(start.elapsed() < GIVE_UP, "never direct: {:?}", a.stats());
        assert!(put(a, to, 0, 64));
        a.flush().expect("flush");
        r.wait(Duration::from_millis(20)).expect("wait");
        r.receive(&mut Vec::new());
    }
}

/// The next `n` frames that the reference receives, but those of [`until_sent_directly`].
fn heard(r: &mut Reference, n: usize) -> Vec<Vec<u8>> {
    let (mut got, start, early) = (Vec::new(), Instant::now(), content(0, 64));
    while got.len() < n && start.elapsed() < GIVE_UP {
        let mut out = Vec::new();
        if r.receive(&mut out) == 0 {
            r.wait(Duration::from_millis(50)).expect("wait");
        }
        got.extend(out.into_iter().filter(|f| f[HEADERS..] != early));
    }
    got
}

/// Frames of every length both ways, headers and all.
fn both_ways(mode: AttachMode) {
    let lab = lab(1500);
    let mut a = open(&lab.left, lab.left.v4().into(), mode, 1500);
    let mut r = reference(&lab.right, mode, 1500);
    let at = r.local_addr().expect("bound");
    let (ours, theirs) = (End::of(&lab.left, a.local_addr()), End::of(&lab.right, at));
    until_sent_directly(&mut a, &mut r, at);
    let before = a.stats();
    let lens: Vec<usize> = PAYLOADS.collect();
    for lens in lens.chunks(BATCH) {
        for &len in lens {
            let mut f = a.claim(&at, len).expect("room");
            f.copy_from_slice(&payload(len));
            a.commit(f);
        }
        let report = a.flush().expect("flush");
        assert_eq!(report.sent_frames, lens.len() as u64, "{:?}", a.stats());
        let got = heard(&mut r, lens.len());
        assert_eq!(got.len(), lens.len(), "frames are missing: {:?}", a.stats());
        for (got, &len) in got.iter().zip(lens) {
            let want = packet(ours, theirs, &payload(len));
            assert!(*got == want, "sent by us: {got:02x?}, not {want:02x?}");
        }
        for &len in lens {
            assert!(r.send(&packet(theirs, ours, &payload(len))), "room");
        }
        assert!(r.flush().expect("flush"), "the kernel takes them");
        for ((from, got), &len) in collect(&mut a, lens.len()).iter().zip(lens) {
            assert_eq!(*from, at);
            assert!(
                *got == payload(len),
                "received by us, {len} bytes: {got:02x?}"
            );
        }
    }
    let after = a.stats();
    let n = lens.len() as u64;
    assert_eq!(after.tx_direct - before.tx_direct, n, "{after:?}");
    assert_eq!(after.rx_direct - before.rx_direct, n, "{after:?}");
    assert_eq!(
        (after.rx_errors, after.dropped_total()),
        (0, 0),
        "{after:?}"
    );
    assert_eq!(a.outstanding(), 0);
}

#[test]
fn xsk_rs_and_we_receive_what_the_other_sends_native() {
    require_or_skip!(Netns, Xdp);
    both_ways(AttachMode::Native);
}

#[test]
fn xsk_rs_and_we_receive_what_the_other_sends_generic() {
    require_or_skip!(Netns, Xdp);
    both_ways(AttachMode::Generic);
}

/// What `xsk-rs` sends back in the memory in which it came, as it does for `ctp96-bench rings`.
fn there_and_back(mtu: u32, lens: &[u16]) {
    let lab = lab(mtu);
    let native = AttachMode::Native;
    let mut a = open(&lab.left, lab.left.v4().into(), native, mtu);
    let mut r = reference(&lab.right, native, mtu);
    let at = r.local_addr().expect("bound");
    until_sent_directly(&mut a, &mut r, at);
    for round in 0..40 {
        let numbers = round * BATCH as u64..(round + 1) * BATCH as u64;
        let frame = |n: u64| (n + 1, lens[(n + round) as usize % lens.len()]);
        let want: Vec<_> = numbers.map(frame).collect();
        for &(n, len) in &want {
            assert!(put(&mut a, at, n, len));
        }
        a.flush().expect("flush");
        let (start, mut back) = (Instant::now(), 0);
        while back < BATCH as u64 {
            assert!(start.elapsed() < GIVE_UP, "{back}: {:?}", a.stats());
            // The early ones are not sent back.
            back += r
                .echo(|f| f[HEADERS..] != content(0, 64) && turn_round(f))
                .expect("echo");
            r.wait(Duration::from_millis(1)).expect("wait");
        }
        for ((from, got), (n, len)) in collect(&mut a, BATCH).into_iter().zip(want) {
            assert_eq!(from, at);
            assert!(got == content(n, len), "frame {n} of {len} bytes");
        }
    }
    assert_eq!(a.outstanding(), 0);
}

#[test]
fn what_xsk_rs_sends_back_is_what_came() {
    require_or_skip!(Netns, Xdp);
    there_and_back(1500, &[1408, 64, 1408, 128, 704]);
    there_and_back(9000, &[8896, 64, 4032, 8896, 3968, 4096]);
}
