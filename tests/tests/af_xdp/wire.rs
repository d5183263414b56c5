//! What is on the wire: checksums that are completed below us, and the longest packet that a route
//! takes.

use super::*;
use ctp96::backend::af_xdp::Checksum;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use tests::lab::run_in;

/// Sees every packet that leaves or reaches the interface by the kernel's own stack.
struct Capture(OwnedFd);

impl Capture {
    fn open(host: &Host) -> Capture {
        let opened = host.run(|| {
            let all = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: socket takes no pointers.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(all)) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let patience = libc::timeval {
                tv_sec: 10,
                tv_usec: 0,
            };
            // SAFETY: a live timeval of the given length.
            unsafe {
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVTIMEO,
                    (&raw const patience).cast(),
                    size_of::<libc::timeval>() as libc::socklen_t,
                )
            };
            Ok(Capture(fd))
        });
        opened.expect("the namespace").expect("a packet socket")
    }

    /// The next packet to UDP port `port` with a payload of `len` bytes.
    fn next(&self, port: u16, len: usize) -> Vec<u8> {
        let mut buf = vec![0; 4096];
        loop {
            // SAFETY: the buffer is live and its length given.
            let n =
                unsafe { libc::recv(self.0.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
            assert!(n > 0, "nothing seen: {}", io::Error::last_os_error());
            let frame = &buf[..n as usize];
            if let Ok(d) = ctp96::wire::eth::parse(frame, frame.len())
                && (d.to.port(), d.payload.len()) == (port, len)
            {
                return frame.to_vec();
            }
        }
    }
}

/// The checksum in an IPv6 datagram without extension headers, and what RFC 768 wants there.
fn checksums(frame: &[u8]) -> (u16, u16) {
    let (ip, udp) = (14, 54);
    let mut sum = 0u32;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    };
    add(&frame[ip + 8..ip + 40]);
    add(&frame[ip + 4..ip + 6]);
    add(&[0, 17]);
    add(&frame[udp..udp + 6]);
    add(&frame[udp + 8..]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let want = match !(sum as u16) {
        0 => 0xffff,
        n => n,
    };
    (u16::from_be_bytes([frame[udp + 6], frame[udp + 7]]), want)
}

/// One frame of every kind of sender, as it is seen at the receiver by a host whose kernel looks.
fn on_the_wire(lab: &Lab, checksum: Checksum) -> (u16, u16) {
    let cfg = AfXdpConfig {
        checksum,
        ..config(AttachMode::Native)
    };
    let a = try_open(&lab.left, lab.left.v6().into(), &cfg, 1, 1500);
    let mut a = a.unwrap_or_else(|e| panic!("{e}")).pop().expect("one");
    assert!(
        a.note().contains(match checksum {
            Checksum::Software => "checksums by this process",
            _ => "checksums by the kernel",
        }),
        "{}",
        a.note()
    );
    // An ordinary socket hears it too: the kernel drops what it finds to be damaged.
    let at = SocketAddr::new(lab.right.v6().into(), 0);
    let plain = lab.right.run(|| UdpSocket::bind(at));
    let plain = plain.expect("the namespace").expect("a port");
    plain.set_read_timeout(Some(GIVE_UP)).expect("a timeout");
    let to = plain.local_addr().expect("bound");
    let (start, mut buf) = (Instant::now(), [0; 2048]);
    while a.stats().tx_direct == 0 {
        assert!(start.elapsed() < GIVE_UP, "never direct: {:?}", a.stats());
        assert!(put(&mut a, to, 0, 64));
        a.flush().expect("flush");
        plain.recv_from(&mut buf).expect("it hears every frame");
    }
    let seen = Capture::open(&lab.right);
    let want = content(5, 1344);
    assert!(put(&mut a, to, 5, 1344));
    a.flush().expect("flush");
    let (n, from) = plain.recv_from(&mut buf).expect("a datagram");
    assert_eq!((&buf[..n], from), (&want[..], a.local_addr()));
    let frame = seen.next(to.port(), want.len());
    let stats = a.stats();
    assert_eq!(
        (stats.rx_errors, stats.dropped_total()),
        (0, 0),
        "{stats:?}"
    );
    assert_eq!(a.outstanding(), 0);
    checksums(&frame)
}

/// The request for a checksum is understood by the kernel: it completes what it is told to, at once
/// where asked (XDP_UMEM_TX_SW_CSUM), before a device that cannot, and not at all on a veth pair,
/// where the sum over the payload is nobody's need.
#[test]
fn checksums_over_ipv6_are_completed_below_us() {
    require_or_skip!(Netns, Ethtool, Xdp);
    let lab = lab(1500);
    let (got, want) = on_the_wire(&lab, Checksum::Software);
    assert_eq!(got, want, "by ourselves");
    let (got, want) = on_the_wire(&lab, Checksum::Kernel);
    assert_eq!(got, want, "by the kernel at once");
    let (got, want) = on_the_wire(&lab, Checksum::Auto);
    assert_ne!(got, want, "veth needs no sum, so none was spent");
    run_in(&lab.left, "ethtool", &["-K", LINK, "tx", "off"]).expect("veth has the switch");
    let (got, want) = on_the_wire(&lab, Checksum::Auto);
    assert_eq!(got, want, "by the kernel before a device that cannot");
}

/// An administrator's MTU of a route is a bound, also where the interface takes longer packets.
#[test]
fn the_mtu_of_a_route_bounds_the_path() {
    require_or_skip!(Netns, Xdp);
    for v6 in [false, true] {
        let lab = lab(1500);
        let ip = |h: &Host| -> IpAddr { if v6 { h.v6().into() } else { h.v4().into() } };
        let to = ip(&lab.right);
        let host = format!("{to}/{}", if v6 { 128 } else { 32 });
        lab.left
            .ip(&["route", "add", &host, "dev", LINK, "mtu", "1400"])
            .expect("a route");
        let mut a = open(&lab.left, ip(&lab.left), AttachMode::Native, 1500);
        let mut b = open(&lab.right, to, AttachMode::Native, 1500);
        until_direct(&mut a, &mut b);
        let most = 1400 - 8 - if v6 { 40 } else { 20 };
        for (len, fits) in [(most, true), (most + 1, false), (1448, false)] {
            let before = a.stats();
            let mut f = a.claim(&b.local_addr(), len).expect("room");
            f.fill(7);
            a.commit(f);
            let r = a.flush().expect("flush");
            let after = a.stats();
            assert_eq!(r.sent_frames, u64::from(fits), "{len} bytes: {after:?}");
            let long = DropCause::TooLong;
            let dropped = after.dropped(long) - before.dropped(long);
            assert_eq!(dropped, u64::from(!fits), "{len} bytes: {after:?}");
        }
        // Lifted while in use.
        lab.left
            .ip(&["route", "replace", &host, "dev", LINK, "mtu", "1500"])
            .expect("a route");
        let (start, mut sent) = (Instant::now(), 0);
        while sent == 0 {
            assert!(start.elapsed() < GIVE_UP, "{:?}", a.stats());
            assert!(put(&mut a, b.local_addr(), 1, 1344));
            let mut f = a.claim(&b.local_addr(), most + 1).expect("room");
            f.fill(7);
            a.commit(f);
            sent = a.flush().expect("flush").sent_frames.saturating_sub(1);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(a.outstanding(), 0);
    }
}
