//! The lab itself: what the end-to-end tests stand on.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::time::Duration;
use tests::lab::{Host, Lab, LabConfig, LabError, Offloads, sweep_stale};
use tests::require::Requirement::{BpfLoss, Ethtool, Netns};
use tests::require_or_skip;

const SILENCE: Duration = Duration::from_millis(300);

fn lab(mtu: u32, offloads: Offloads) -> Lab {
    Lab::new(&LabConfig { mtu, offloads }).expect("the requirement was probed")
}

/// A UDP socket inside `host`, with room for every datagram that these tests send.
fn socket(host: &Host, addr: IpAddr) -> UdpSocket {
    let socket = host
        .run(|| UdpSocket::bind(SocketAddr::new(addr, 0)))
        .unwrap()
        .unwrap();
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

fn set_option(socket: &UdpSocket, level: i32, name: i32, value: i32) {
    // SAFETY: the descriptor is open and the option value is a live i32 of the length given.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    assert_eq!(rc, 0, "setsockopt: {}", std::io::Error::last_os_error());
}

/// Sends datagrams of 8 bytes that carry their number, and returns the numbers that arrived.
fn send_numbered(lab: &Lab, count: u64, burst: u64) -> Vec<u64> {
    let to = socket(&lab.right, lab.right.v4().into());
    let from = socket(&lab.left, lab.left.v4().into());
    from.connect(to.local_addr().unwrap()).unwrap();
    if burst > 1 {
        set_option(&from, libc::SOL_UDP, libc::UDP_SEGMENT, 8);
    }
    for first in (0..count).step_by(burst as usize) {
        let bytes: Vec<u8> = (first..first + burst).flat_map(u64::to_le_bytes).collect();
        assert_eq!(from.send(&bytes).unwrap(), bytes.len());
    }
    let mut arrived = Vec::new();
    let mut buf = [0; 16];
    while let Ok(n) = to.recv(&mut buf) {
        assert_eq!(n, 8);
        arrived.push(u64::from_le_bytes(buf[..8].try_into().unwrap()));
    }
    arrived
}

#[test]
fn both_address_families_cross() {
    require_or_skip!(Netns);
    let lab = lab(1500, Offloads::Whole);
    cross_both(&lab);
}

#[test]
fn both_address_families_cross_after_a_flap() {
    require_or_skip!(Netns);
    let lab = lab(1500, Offloads::Whole);
    lab.right.set_link_up(false).unwrap();
    lab.right.set_link_up(true).unwrap();
    cross_both(&lab);
}

fn cross_both(lab: &Lab) {
    for (a, b) in lab.left.addrs().into_iter().zip(lab.right.addrs()) {
        let (from, to) = (socket(&lab.left, a), socket(&lab.right, b));
        let mut buf = [0; 16];
        // A datagram may be lost while a busy machine still resolves the neighbour.
        let arrived = (0..20).find_map(|_| {
            from.send_to(b"over", to.local_addr().unwrap()).unwrap();
            to.recv_from(&mut buf).ok()
        });
        let (n, peer) = arrived.expect("one of twenty datagrams arrives");
        assert_eq!(&buf[..n], b"over");
        assert_eq!(peer, from.local_addr().unwrap());
    }
}

#[test]
fn the_mtu_is_the_one_asked_for() {
    require_or_skip!(Netns);
    for mtu in [1500, 9000] {
        let lab = lab(mtu, Offloads::Whole);
        let to = socket(&lab.right, lab.right.v4().into());
        let from = socket(&lab.left, lab.left.v4().into());
        from.connect(to.local_addr().unwrap()).unwrap();
        set_option(
            &from,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        );
        let largest = mtu as usize - 28;
        assert_eq!(from.send(&vec![0; largest]).unwrap(), largest);
        let refused = from.send(&vec![0; largest + 1]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
    }
}

#[test]
fn a_command_runs_inside_and_the_lab_cleans_up() {
    require_or_skip!(Netns);
    let lab = lab(1500, Offloads::Whole);
    let names = [lab.left.name().to_owned(), lab.right.name().to_owned()];
    let mut child = lab
        .left
        .command("ip")
        .arg("addr")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(
        text.contains("10.96.0.1/24") && text.contains("fd96::1/64"),
        "{text}"
    );
    drop(lab);
    for name in names {
        assert!(!std::path::Path::new("/run/netns").join(name).exists());
    }
}

#[test]
fn a_panic_inside_reaches_the_test() {
    require_or_skip!(Netns);
    let lab = lab(1500, Offloads::Whole);
    let run = || lab.left.run(|| panic!("from inside"));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let panic = caught.map(|r: Result<(), LabError>| r.is_ok()).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"from inside"));
}

#[test]
fn labs_of_dead_processes_are_swept_and_others_are_not() {
    require_or_skip!(Netns);
    let lab = lab(1500, Offloads::Whole);
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let name = format!("ctp96-{dead}-0-a");
    tests::lab::tool("ip", &["netns", "add", &name]).unwrap();
    // Another test's lab may sweep it first; gone is what counts.
    sweep_stale();
    assert!(!std::path::Path::new("/run/netns").join(&name).exists());
    assert!(
        std::path::Path::new("/run/netns")
            .join(lab.left.name())
            .exists()
    );
}

#[test]
fn loss_is_as_configured_and_every_drop_is_counted() {
    require_or_skip!(Netns, BpfLoss);
    const SENT: u64 = 20_000;
    let lab = lab(1500, Offloads::Whole);
    assert_eq!(lab.right.loss_counts().unwrap(), None);
    assert_eq!(
        send_numbered(&lab, 500, 1).len(),
        500,
        "a lab without loss loses nothing"
    );

    lab.right.lose_received(0.02).unwrap();
    let arrived = send_numbered(&lab, SENT, 1).len() as u64;
    let counts = lab.right.loss_counts().unwrap().unwrap();
    // ARP frames pass the program too, so it may see a few more than were sent.
    assert!((SENT..SENT + 10).contains(&counts.frames), "{counts:?}");
    assert_eq!(
        arrived + counts.dropped,
        SENT,
        "what did not arrive was dropped by the program"
    );
    // Expected 400, standard deviation 20: six of them either way.
    assert!((280..=520).contains(&counts.dropped), "{counts:?}");

    lab.right.lose_received(1.0).unwrap();
    assert_eq!(send_numbered(&lab, 100, 1).len(), 0);
    lab.right.stop_losing().unwrap();
    assert_eq!(send_numbered(&lab, 100, 1).len(), 100);
}

/// Half of all packets are lost; returns how many bursts of ten arrived in part.
fn bursts_in_part(offloads: Offloads) -> usize {
    let lab = lab(1500, offloads);
    lab.right.lose_received(0.5).unwrap();
    let arrived = send_numbered(&lab, 2_000, 10);
    assert!(
        arrived.len() > 500 && arrived.len() < 1_500,
        "{} of 2000 arrived",
        arrived.len()
    );
    let in_burst = |b: u64| arrived.iter().filter(|n| *n / 10 == b).count();
    (0..200).filter(|b| !matches!(in_burst(*b), 0 | 10)).count()
}

#[test]
fn super_packets_are_lost_whole_with_offloads_and_by_frame_without() {
    require_or_skip!(Netns, BpfLoss, Ethtool);
    assert_eq!(bursts_in_part(Offloads::Whole), 0);
    assert!(bursts_in_part(Offloads::PerFrame) > 190);
}

#[test]
fn a_link_that_is_down_carries_nothing() {
    require_or_skip!(Netns);
    let lab = lab(1500, Offloads::Whole);
    let before = lab.right.link_counters().unwrap();
    assert_eq!(send_numbered(&lab, 10, 1).len(), 10);
    let after = lab.right.link_counters().unwrap();
    assert!(after.rx_packets >= before.rx_packets + 10);
    lab.right.set_link_up(false).unwrap();
    let from = socket(&lab.left, lab.left.v4().into());
    let lost = from.send_to(&[0], SocketAddr::new(lab.right.v4().into(), 9));
    assert_eq!(
        lab.right.link_counters().unwrap().rx_packets,
        after.rx_packets,
        "{lost:?}"
    );
}
