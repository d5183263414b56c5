//! The emulated path: what was asked for comes out, in counts. No test asserts that something was
//! fast enough; a delay may only be longer than asked on a busy machine, never shorter.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use tests::impair::model::{Cause, Direction, Fate};
use tests::impair::{Emulator, Loss, Options, Path, Traffic};
use tests::lab::{Host, Lab};
use tests::require::Requirement::{Ethtool, Netns};
use tests::require_or_skip;

const SILENCE: Duration = Duration::from_millis(500);

fn lab() -> Lab {
    Lab::with_emulator(&Options::default()).expect("the requirement was probed")
}

fn emulator(lab: &Lab) -> &Emulator {
    lab.emulator().expect("the lab was made with one")
}

fn option(socket: &UdpSocket, level: i32, name: i32, value: i32) {
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

/// A UDP socket inside `host`, with room for everything that these tests send.
fn socket(host: &Host, addr: IpAddr) -> UdpSocket {
    let socket = host
        .run(|| UdpSocket::bind(SocketAddr::new(addr, 0)))
        .unwrap()
        .unwrap();
    option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 64 << 20);
    option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 64 << 20);
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

/// A connected pair, left and right, over which something has crossed already.
fn pair(lab: &Lab) -> [UdpSocket; 2] {
    let left = socket(&lab.left, lab.left.v4().into());
    let right = socket(&lab.right, lab.right.v4().into());
    left.connect(right.local_addr().unwrap()).unwrap();
    right.connect(left.local_addr().unwrap()).unwrap();
    left.send(b"hello").unwrap();
    assert_eq!(right.recv(&mut [0; 9]).unwrap(), 5);
    [left, right]
}

/// Sends `count` datagrams of `len` bytes that carry their number, in groups small enough for the
/// kernel's queues between the two.
fn send_numbered(from: &UdpSocket, count: u64, len: usize) {
    let mut datagram = vec![0; len];
    for n in 0..count {
        datagram[..8].copy_from_slice(&n.to_le_bytes());
        from.send(&datagram).unwrap();
        if n % 200 == 199 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The numbers that arrive until nothing more does.
fn receive_numbered(to: &UdpSocket) -> Vec<u64> {
    let (mut arrived, mut buf) = (Vec::new(), [0; 2048]);
    while to.recv(&mut buf).is_ok() {
        arrived.push(u64::from_le_bytes(buf[..8].try_into().unwrap()));
    }
    arrived
}

/// The emulator did its work: nothing was lost by itself, and nothing is unaccounted for.
fn conserved(t: &Traffic) {
    assert_eq!((t.overflow, t.refused, t.oversized), (0, 0, 0), "{t:?}");
    assert_eq!(t.waiting(), 0, "{t:?}");
}

#[test]
fn a_path_without_impairments_passes_everything_in_order() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let [left, right] = pair(&lab);
    emulator(&lab).set(&[Path::default(); 2], 1).unwrap();
    send_numbered(&left, 3000, 1472);
    assert_eq!(receive_numbered(&right), (0..3000).collect::<Vec<_>>());
    send_numbered(&right, 3000, 100);
    assert_eq!(receive_numbered(&left), (0..3000).collect::<Vec<_>>());
    let [there, back] = emulator(&lab).traffic();
    for (t, len) in [(there, 1514), (back, 142)] {
        conserved(&t);
        assert_eq!((t.seen_frames, t.seen_bytes), (3000, 3000 * len));
        assert_eq!((t.passed_frames, t.passed_bytes), (3000, 3000 * len));
    }
}

#[test]
fn exactly_the_frames_that_the_model_says_are_lost() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let [left, right] = pair(&lab);
    let count = 4000;
    for loss in [Loss::Random(0.1), Loss::bursts(0.05, 6.0)] {
        let path = Path {
            loss,
            ..Path::default()
        };
        emulator(&lab).set(&[path, Path::default()], 42).unwrap();
        send_numbered(&left, count, 64);
        let mut model = Direction::new(path, 42);
        let survives = |_: &u64| model.judge(0, 106) != Fate::Dropped(Cause::Loss);
        let expected: Vec<u64> = (0..count).filter(survives).collect();
        assert_eq!(receive_numbered(&right), expected, "{loss:?}");
        let [there, back] = emulator(&lab).traffic();
        conserved(&there);
        assert_eq!(there.lost_frames, count - expected.len() as u64);
        assert_eq!(back.lost_frames, 0);
    }
}

#[test]
fn nothing_arrives_before_its_delay() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let [left, right] = pair(&lab);
    let path = |ms| Path {
        delay: Duration::from_millis(ms),
        ..Path::default()
    };
    emulator(&lab).set(&[path(20), path(5)], 1).unwrap();
    let mut best = Duration::MAX;
    for n in 0..10_u64 {
        let sent = Instant::now();
        left.send(&n.to_le_bytes()).unwrap();
        right.recv(&mut [0; 8]).unwrap();
        let half = sent.elapsed();
        assert!(half >= Duration::from_millis(20), "{half:?}");
        right.send(&n.to_le_bytes()).unwrap();
        left.recv(&mut [0; 8]).unwrap();
        let whole = sent.elapsed();
        assert!(whole >= Duration::from_millis(25), "{whole:?}");
        best = best.min(whole);
    }
    eprintln!("25 ms of delay: best round trip of ten {best:?}");
}

#[test]
fn the_rate_holds_and_the_queue_drops_the_rest() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let [left, right] = pair(&lab);
    // 1,014 bytes a frame take 8.1 ms; fifty fit the queue.
    let (rate, len, count) = (1_000_000, 1014_u64, 80);
    let path = Path {
        rate,
        queue: 50 * len,
        ..Path::default()
    };
    emulator(&lab).set(&[path, Path::default()], 1).unwrap();
    let began = Instant::now();
    send_numbered(&left, count, 1014 - 42);
    let sending = began.elapsed().as_secs_f64();
    let arrived = receive_numbered(&right);
    let took = began.elapsed() - SILENCE;
    let [there, _] = emulator(&lab).traffic();
    conserved(&there);
    assert_eq!(there.passed_frames, arrived.len() as u64);
    assert_eq!(there.queue_frames, count - there.passed_frames);
    // All that fit at once, and what the rate carried away while the rest came (or was held up for
    // 80 ms on its way to the emulator).
    let drained = (sending + 0.08) * rate as f64 / 8.0 / len as f64;
    let most = 50.0 + drained + 1.0;
    assert!(there.passed_frames >= 50, "{there:?}");
    assert!(there.passed_frames as f64 <= most, "{most} {there:?}");
    assert!(there.queue_high <= path.queue && there.queue_high > 49 * len);
    // The last frame cannot have left before the rate had carried all of them.
    let least = there.passed_bytes as f64 * 8.0 / rate as f64;
    assert!(
        took.as_secs_f64() >= least,
        "{took:?} for {least} s of frames"
    );
}

#[test]
fn copies_and_latecomers_are_those_of_the_model() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let [left, right] = pair(&lab);
    let path = Path {
        duplicate: 0.05,
        reorder: 0.05,
        reorder_by: Duration::from_millis(100),
        ..Path::default()
    };
    emulator(&lab).set(&[path, Path::default()], 5).unwrap();
    let count = 1000;
    send_numbered(&left, count, 64);
    let mut model = Direction::new(path, 5);
    let (mut expected, mut late) = (Vec::new(), 0);
    for n in 0..count {
        let Fate::Passes { twice, late: l, .. } = model.judge(0, 106) else {
            panic!("nothing is lost");
        };
        expected.extend(std::iter::repeat_n(n, 1 + usize::from(twice)));
        late += u64::from(l);
    }
    let mut arrived = receive_numbered(&right);
    assert!(!arrived.is_sorted(), "latecomers are overtaken");
    arrived.sort_unstable();
    assert_eq!(arrived, expected);
    let [there, _] = emulator(&lab).traffic();
    conserved(&there);
    assert_eq!(there.duplicated, expected.len() as u64 - count);
    assert_eq!(there.reordered, late);
}

#[test]
fn what_waits_long_is_marked_if_it_may_be() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let [left, right] = pair(&lab);
    option(&right, libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    let path = Path {
        rate: 2_000_000,
        queue: 1 << 20,
        mark: 20_000,
        ..Path::default()
    };
    for (ect, marks) in [(0, false), (2, true)] {
        emulator(&lab).set(&[path, Path::default()], 1).unwrap();
        option(&left, libc::IPPROTO_IP, libc::IP_TOS, ect);
        send_numbered(&left, 100, 958);
        let (mut ce, mut all) = (0, 0);
        while let Some(tos) = receive_tos(&right) {
            all += 1;
            ce += u64::from(tos & 3 == 3);
        }
        let [there, _] = emulator(&lab).traffic();
        conserved(&there);
        assert_eq!((all, there.marked), (100, ce));
        assert_eq!(ce > 0, marks, "{ce}");
        // The first twenty find less than the threshold waiting.
        assert!(ce <= 80, "{ce}");
    }
}

/// The type of service of the next datagram.
fn receive_tos(socket: &UdpSocket) -> Option<u8> {
    let (mut data, mut control) = ([0_u8; 2048], [0_u64; 8]);
    let mut vector = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    // SAFETY: all-zero is a valid msghdr; its pointers are to live memory of the lengths given; the
    // control messages are walked with the library's own macros and read as the byte that
    // IP_RECVTOS delivers.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        if libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) < 0 {
            return None;
        }
        let mut at = libc::CMSG_FIRSTHDR(&raw const message);
        while !at.is_null() {
            if (*at).cmsg_level == libc::IPPROTO_IP && (*at).cmsg_type == libc::IP_TOS {
                return Some(*libc::CMSG_DATA(at));
            }
            at = libc::CMSG_NXTHDR(&raw const message, at);
        }
    }
    panic!("a datagram without its type of service")
}

#[test]
fn tcp_crosses_whole_over_both_families() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let path = Path {
        rate: 200_000_000,
        delay: Duration::from_millis(1),
        loss: Loss::Random(0.005),
        ..Path::default()
    };
    emulator(&lab).set(&[path, path], 9).unwrap();
    let sent: Vec<u8> = (0..2_000_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
    for addr in lab.right.addrs() {
        let listener = lab.right.run(|| TcpListener::bind((addr, 0))).unwrap();
        let listener = listener.unwrap();
        let to = listener.local_addr().unwrap();
        let got = std::thread::scope(|scope| {
            let receiver = scope.spawn(|| {
                let mut got = Vec::new();
                let (mut stream, _) = listener.accept().unwrap();
                stream.read_to_end(&mut got).unwrap();
                got
            });
            let stream = lab.left.run(|| TcpStream::connect(to)).unwrap();
            stream.unwrap().write_all(&sent).unwrap();
            receiver.join().unwrap()
        });
        assert!(got == sent, "{addr}: {} bytes", got.len());
    }
    let [there, back] = emulator(&lab).traffic();
    // Not one super-packet crossed, and losses were the path's.
    for t in [there, back] {
        assert_eq!((t.overflow, t.refused, t.oversized), (0, 0, 0), "{t:?}");
    }
    assert!(there.lost_frames > 0);
}

#[test]
fn what_has_no_room_is_refused_with_its_reason() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let path = Path {
        rate: 10_000_000_000,
        queue: 1 << 20,
        delay: Duration::from_secs(1),
        ..Path::default()
    };
    let refused = emulator(&lab).set(&[path, path], 1).unwrap_err();
    assert!(refused.to_string().contains("room for 16384"), "{refused}");
    let path = Path {
        loss: Loss::Random(7.0),
        ..Path::default()
    };
    assert!(emulator(&lab).set(&[path, path], 1).is_err());
    assert!(Emulator::start(["no-such-if0", "lo"], &Options::default()).is_err());
}

#[test]
fn a_ring_that_is_too_small_is_told_from_the_path() {
    require_or_skip!(Netns, Ethtool);
    // The smallest ring is one block, of 157 frames.
    let options = Options {
        frames: 100,
        ..Options::default()
    };
    let lab = Lab::with_emulator(&options).unwrap();
    let [left, right] = pair(&lab);
    let path = Path {
        delay: Duration::from_secs(1),
        ..Path::default()
    };
    emulator(&lab).set(&[path, Path::default()], 1).unwrap();
    right
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    send_numbered(&left, 400, 64);
    let arrived = receive_numbered(&right).len() as u64;
    let [there, _] = emulator(&lab).traffic();
    assert_eq!(arrived, there.passed_frames);
    // What hosts send by themselves may find the ring full as well.
    assert!(
        there.overflow >= 400 - arrived && arrived < 400,
        "{there:?}"
    );
    let why = there.overload(Duration::MAX).unwrap();
    assert!(why.contains("ring full"), "{why}");
}
