//! Packets that cross a real interface with the program on it.

use super::{PORT, attach, lab, options, program_id, with_mode};
use ctp96::wire::Header;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use tests::frames::{frame, symbol};
use tests::lab::{Host, Lab, LabConfig, Offloads};
use tests::require::Requirement::{Ethtool, Netns, Xdp};
use tests::require_or_skip;
use tests::xdp::CountingSocket;
use xdp_prog::{AttachMode, Options};

pub fn ping(lab: &Lab, to: IpAddr) {
    let output = lab
        .right
        .command("ping")
        .args(["-c", "2", "-i", "0.05", "-W", "2", &to.to_string()])
        .output();
    // Without ping there is UDP on another port.
    let Ok(output) = output else {
        return other_port(lab, to);
    };
    assert!(output.status.success(), "ping {to}: {output:?}");
}

fn other_port(lab: &Lab, to: IpAddr) {
    let receiver = socket(&lab.left, to, PORT + 1);
    let sender = socket(&lab.right, lab.right.addrs()[usize::from(to.is_ipv6())], 0);
    assert!(arrives(&sender, &receiver, b"other"));
}

pub fn socket(host: &Host, addr: IpAddr, port: u16) -> UdpSocket {
    let socket = host
        .run(|| UdpSocket::bind(SocketAddr::new(addr, port)))
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    socket
}

pub fn arrives(from: &UdpSocket, to: &UdpSocket, bytes: &[u8]) -> bool {
    from.send_to(bytes, to.local_addr().unwrap()).unwrap();
    let mut got = [0; 10_000];
    matches!(to.recv(&mut got), Ok(n) if &got[..n] == bytes)
}

#[test]
fn two_interfaces_count_apart_and_each_packet_once() {
    require_or_skip!(Netns, Xdp);
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let lab = lab(1500);
        let left = attach(&lab.left, &with_mode(mode));
        let right_options = Options {
            ports: vec![PORT + 10],
            ..with_mode(mode)
        };
        let right = attach(&lab.right, &right_options);
        for (i, to) in lab.left.addrs().into_iter().enumerate() {
            ping(&lab, to);
            let before = (left.verdicts().unwrap(), right.verdicts().unwrap());
            let receiver = socket(&lab.left, to, PORT);
            let sender = socket(&lab.right, lab.right.addrs()[i], 0);
            let good = [
                frame(symbol(3, 8, 7, 1344)),
                frame(Header::control(9, 1, 1, 100)),
            ];
            for _ in 0..5 {
                for bad in [&b"hello"[..], &[0; 40], &[0x41; 100]] {
                    let to = receiver.local_addr().unwrap();
                    sender.send_to(bad, to).unwrap();
                }
                // Good frames have no AF_XDP socket here, so the kernel's socket gets them, and
                // nothing that was sent before them.
                for good in &good {
                    assert!(arrives(&sender, &receiver, good), "{mode} {to}");
                }
            }
            let after = (left.verdicts().unwrap(), right.verdicts().unwrap());
            assert_eq!(after.0.no_socket - before.0.no_socket, 10);
            assert_eq!(after.0.malformed - before.0.malformed, 5, "hello");
            assert_eq!(after.0.foreign - before.0.foreign, 10, "versions 0 and 4");
            assert_eq!(after.0.redirected, 0);
            // The right one saw no frame of its port, and lets everything pass.
            assert_eq!(after.1.no_socket + after.1.malformed + after.1.foreign, 0);
            assert!(after.1.passed >= before.1.passed);
        }
        drop(right);
        assert!(left.is_attached() && program_id(&lab.right).is_none());
    }
}

#[test]
fn good_frames_reach_the_socket_of_their_queue_and_others_the_kernel() {
    require_or_skip!(Netns, Xdp);
    // The peer has no XDP program: receiving needs nothing there.
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let lab = lab(1500);
        let mut program = attach(&lab.left, &with_mode(mode));
        let index = program.ifindex();
        let xdp = lab.left.run(|| CountingSocket::bound(index, 0));
        let xdp = xdp.unwrap().unwrap();
        program.set_socket(0, xdp.as_fd()).unwrap();
        let good = frame(symbol(3, 8, 7, 1344));
        for (i, to) in lab.left.addrs().into_iter().enumerate() {
            ping(&lab, to);
            let before = xdp.frames().unwrap();
            let kernel = socket(&lab.left, to, PORT);
            let sender = socket(&lab.right, lab.right.addrs()[i], 0);
            for _ in 0..20 {
                sender.send_to(&good, kernel.local_addr().unwrap()).unwrap();
            }
            // Behind the others on the wire, and not for the socket: tells that they are through.
            other_port(&lab, to);
            assert_eq!(xdp.frames().unwrap() - before, 20, "{mode} {to}");
            assert_eq!(program.verdicts().unwrap().redirected, 20 * (i as u64 + 1));
            program.clear_socket(0);
            assert!(arrives(&sender, &kernel, &good), "{mode} {to}");
            program.set_socket(0, xdp.as_fd()).unwrap();
        }
        // A socket that is closed, by whatever end of its owner, leaves the queue to the kernel.
        drop(xdp);
        let to = lab.left.v4().into();
        let kernel = socket(&lab.left, to, PORT);
        let sender = socket(&lab.right, lab.right.v4().into(), 0);
        assert!(arrives(&sender, &kernel, &good), "{mode}");
        let verdicts = program.verdicts().unwrap();
        assert_eq!((verdicts.redirected, verdicts.no_socket), (40, 3));
        assert!(program.set_socket(4000, std::io::stdin().as_fd()).is_err());
        assert!(program.set_socket(0, std::io::stdin().as_fd()).is_err());
    }
}

#[test]
fn only_named_addresses_are_the_daemons() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let options = Options {
        addresses: vec![lab.left.v4().into()],
        ..options(false)
    };
    let program = attach(&lab.left, &options);
    for (i, to) in lab.left.addrs().into_iter().enumerate() {
        let receiver = socket(&lab.left, to, PORT);
        let sender = socket(&lab.right, lab.right.addrs()[i], 0);
        assert!(arrives(&sender, &receiver, &frame(symbol(3, 8, 7, 64))));
    }
    let verdicts = program.verdicts().unwrap();
    // The IPv6 address was not named: its frame was passed as anybody's, and so was ARP and the like.
    assert_eq!(verdicts.no_socket, 1, "{verdicts:?}");
    assert!(verdicts.passed >= 1, "{verdicts:?}");
}

/// Sends ten frames in one call, which the peer's interface may leave in one packet.
fn ten_frames_at_once(lab: &Lab, options: &Options) -> (u64, u64) {
    let program = attach(&lab.left, options);
    let receiver = socket(&lab.left, lab.left.v4().into(), PORT);
    let sender = socket(&lab.right, lab.right.v4().into(), 0);
    let frame = frame(symbol(3, 8, 7, 1344));
    let len = frame.len() as i32;
    // SAFETY: the descriptor is open and the option value is a live i32 of the length given.
    let rc = unsafe {
        libc::setsockopt(
            sender.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const len).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(rc, 0);
    let burst = frame.repeat(10);
    let to = receiver.local_addr().unwrap();
    assert_eq!(sender.send_to(&burst, to).unwrap(), burst.len());
    other_port(lab, lab.left.v4().into());
    let verdicts = program.verdicts().unwrap();
    (verdicts.no_socket, verdicts.malformed)
}

#[test]
fn super_packets_of_a_veth_peer_come_apart_in_native_mode_only() {
    require_or_skip!(Netns, Xdp, Ethtool);
    for frags in [false, true] {
        let with = |mode| Options {
            frags,
            ..with_mode(mode)
        };
        let whole = lab(1500);
        let native = ten_frames_at_once(&whole, &with(AttachMode::Native));
        assert_eq!(native, (10, 0), "the kernel turns the peer's offload off");
        // docs/OPERATIONS.md says what to do about this one.
        let generic = ten_frames_at_once(&whole, &with(AttachMode::Generic));
        assert_eq!(generic, (0, 1), "ten frames in one datagram are no frame");
        let apart = Lab::new(&LabConfig {
            mtu: 1500,
            offloads: Offloads::PerFrame,
        });
        let generic = ten_frames_at_once(&apart.unwrap(), &with(AttachMode::Generic));
        assert_eq!(generic, (10, 0));
    }
}

#[test]
fn a_tcp_transfer_crosses_the_program_unharmed() {
    require_or_skip!(Netns, Xdp);
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let lab = lab(1500);
        let program = attach(&lab.left, &with_mode(mode));
        let to = SocketAddr::new(lab.left.v4().into(), PORT);
        let listener = lab.left.run(|| TcpListener::bind(to)).unwrap().unwrap();
        let sent: Vec<u8> = (0..8 << 20)
            .map(|i: u32| (i.wrapping_mul(i) >> 7) as u8)
            .collect();
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let stream = lab.right.run(|| TcpStream::connect(to)).unwrap();
                stream.unwrap().write_all(&sent).unwrap();
            });
            let (mut stream, _) = listener.accept().unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            stream.read_to_end(&mut received).unwrap();
        });
        assert!(received == sent, "{mode}");
        let verdicts = program.verdicts().unwrap();
        assert_eq!(verdicts.malformed + verdicts.foreign, 0, "{verdicts:?}");
    }
}
