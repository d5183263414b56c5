//! The AF_XDP backend by itself, over a veth pair between two namespaces: what every backend has to
//! do, and what only this one can get wrong.

mod queues;
mod reference;
mod wire;

use ctp96::api::Node;
use ctp96::backend::af_xdp::{self, AfXdp, AfXdpConfig, AttachMode, ZeroCopy};
use ctp96::backend::{Backend, Burst, DropCause};
use ctp96::crypto::identity::Identity;
use ctp96::engine::BackendChoice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use tests::frames::symbol;
use tests::lab::{Host, LINK, Lab, LabConfig, Offloads, tool};
use tests::require::Requirement::{Ethtool, Netns, Xdp};
use tests::require_or_skip;

/// Only reached when a test is about to fail; nothing is asserted about how long anything takes.
const GIVE_UP: Duration = Duration::from_secs(30);

fn lab(mtu: u32) -> Lab {
    let offloads = Offloads::Whole;
    Lab::new(&LabConfig { mtu, offloads }).expect("the requirement was probed")
}

fn config(mode: AttachMode) -> AfXdpConfig {
    AfXdpConfig {
        mode,
        ..AfXdpConfig::default()
    }
}

/// Opens one backend for each of `cores` on an address of `host`.
fn try_open(
    host: &Host,
    ip: IpAddr,
    cfg: &AfXdpConfig,
    cores: usize,
    mtu: u32,
) -> Result<Vec<AfXdp>, String> {
    host.run(|| {
        let opened = af_xdp::open(cfg, SocketAddr::new(ip, 0), cores, mtu as usize);
        let seats = opened.map_err(|e| e.to_string())?.seats;
        let sockets = seats.into_iter().map(|s| s.open());
        sockets
            .collect::<std::io::Result<_>>()
            .map_err(|e| e.to_string())
    })
    .expect("the namespace")
}

fn open(host: &Host, ip: IpAddr, mode: AttachMode, mtu: u32) -> AfXdp {
    let mut v = try_open(host, ip, &config(mode), 1, mtu).unwrap_or_else(|e| panic!("{e}"));
    v.pop().expect("one")
}

/// Frame number `n` with a symbol of `len` bytes that depend on the number.
fn content(n: u64, len: u16) -> Vec<u8> {
    let mut header = symbol(0, 64, 0, len);
    header.pn = n;
    let mut f = tests::frames::frame(header);
    for (i, b) in f[24..].iter_mut().enumerate() {
        *b = (n as u8).wrapping_mul(31) ^ (i as u8) ^ (i >> 8) as u8;
    }
    f
}

fn put<B: Backend>(b: &mut B, to: SocketAddr, n: u64, len: u16) -> bool {
    let bytes = content(n, len);
    let Some(mut f) = b.claim(&to, bytes.len()) else {
        return false;
    };
    f.copy_from_slice(&bytes);
    b.commit(f);
    true
}

/// Receives until `n` datagrams are there.
fn collect<B: Backend>(b: &mut B, n: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let (mut got, mut out) = (Vec::new(), Vec::<Burst>::with_capacity(64));
    let start = Instant::now();
    while got.len() < n && start.elapsed() < GIVE_UP {
        if b.recv(&mut out).expect("recv") == 0 {
            b.wait(Some(Duration::from_millis(50))).expect("wait");
        }
        for mut burst in out.drain(..) {
            let from = burst.from();
            got.extend(burst.segments_mut().map(|s| (from, s.to_vec())));
            b.release(burst);
        }
    }
    assert_eq!(got.len(), n, "datagrams are missing: {:?}", b.stats());
    got
}

/// Sends single frames until one goes the short way; the peer takes them all.
fn until_direct<A: Backend, B: Backend>(a: &mut A, b: &mut B) {
    let to = b.local_addr();
    until_direct_to(a, b, to);
}

fn until_direct_to<A: Backend, B: Backend>(a: &mut A, b: &mut B, to: SocketAddr) {
    let (start, before) = (Instant::now(), a.stats().tx_direct);
    while a.stats().tx_direct == before {
        assert!(start.elapsed() < GIVE_UP, "never direct: {:?}", a.stats());
        assert!(put(a, to, 0, 64));
        a.flush().expect("flush");
        std::thread::sleep(Duration::from_millis(20));
        let mut out = Vec::with_capacity(64);
        b.recv(&mut out).expect("recv");
        out.drain(..).for_each(|x| b.release(x));
    }
    // Those that the kernel had kept until it knew the neighbour.
    let mut out = Vec::with_capacity(64);
    while {
        b.wait(Some(Duration::from_millis(100))).expect("wait");
        b.recv(&mut out).expect("recv") > 0
    } {
        out.drain(..).for_each(|x| b.release(x));
    }
}

/// Frames of many lengths arrive intact, in order, and past the kernel, and nothing leaks.
fn mixed_sizes(mode: AttachMode, mtu: u32, v6: bool) {
    let lab = lab(mtu);
    let ip = |h: &Host| -> IpAddr { if v6 { h.v6().into() } else { h.v4().into() } };
    let mut a = open(&lab.left, ip(&lab.left), mode, mtu);
    let mut b = open(&lab.right, ip(&lab.right), mode, mtu);
    until_direct(&mut a, &mut b);
    let (sa, sb) = (a.stats(), b.stats());
    let lens: &[u16] = match mtu {
        9000 => &[
            8896,
            64,
            8896,
            1408,
            4032,
            4096,
            3968,
            7936,
            8000 / 64 * 64,
            128,
        ],
        _ => &[1408, 64, 1408, 128, 704, 1344],
    };
    let mut n = 0;
    for round in 0..40 {
        let mut want = Vec::new();
        for i in 0..150 {
            let len = lens[(i * (round + 1)) % lens.len()];
            assert!(put(&mut a, b.local_addr(), n, len));
            want.push(content(n, len));
            n += 1;
        }
        let r = a.flush().expect("flush");
        assert_eq!((r.sent_frames, r.pending_frames), (150, 0));
        for ((from, bytes), want) in collect(&mut b, 150).into_iter().zip(want) {
            assert_eq!(from, a.local_addr());
            assert!(bytes == want, "a frame of {} bytes is damaged", want.len());
        }
    }
    let (da, db) = (a.stats(), b.stats());
    assert_eq!(da.tx_direct - sa.tx_direct, n, "{da:?}");
    assert_eq!(db.rx_direct - sb.rx_direct, n, "{db:?}");
    assert_eq!(da.tx_bytes - sa.tx_bytes, db.rx_bytes - sb.rx_bytes);
    assert_eq!(
        (da.tx_pending, da.dropped_total(), db.rx_kernel_drops),
        (0, 0, 0)
    );
    assert!(
        (da.tx_sends - sa.tx_sends) * 16 < n,
        "one call for few frames: {da:?}"
    );
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
}

#[test]
fn mixed_sizes_arrive_intact_native() {
    require_or_skip!(Netns, Xdp);
    mixed_sizes(AttachMode::Native, 1500, false);
    mixed_sizes(AttachMode::Native, 1500, true);
}

#[test]
fn mixed_sizes_arrive_intact_generic() {
    require_or_skip!(Netns, Xdp);
    mixed_sizes(AttachMode::Generic, 1500, false);
    mixed_sizes(AttachMode::Generic, 9000, true);
}

#[test]
fn frames_of_several_buffers_arrive_intact() {
    require_or_skip!(Netns, Xdp);
    mixed_sizes(AttachMode::Native, 9000, false);
    mixed_sizes(AttachMode::Native, 9000, true);
}

#[test]
fn an_exhausted_pool_refuses_and_recovers() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let mut a = open(&lab.left, lab.left.v4().into(), AttachMode::Native, 1500);
    let mut b = open(&lab.right, lab.right.v4().into(), AttachMode::Native, 1500);
    until_direct(&mut a, &mut b);
    let to = b.local_addr();
    for round in 0..3 {
        let bytes = content(round, 1408);
        let mut held = Vec::new();
        while let Some(mut f) = a.claim(&to, bytes.len()) {
            f.copy_from_slice(&bytes);
            held.push(f);
            assert!(held.len() < 100_000, "the pool has no end");
        }
        let n = held.len();
        assert!(n >= 1000, "{n}");
        assert_eq!(a.outstanding(), n);
        assert_eq!(a.flush().expect("flush").sent_frames, 0);
        let cancelled = held.pop().expect("many");
        a.cancel(cancelled);
        held.drain(..).for_each(|f| a.commit(f));
        assert_eq!(a.outstanding(), 0);
        assert_eq!(a.flush().expect("flush").sent_frames, n as u64 - 1);
        for (_, got) in collect(&mut b, n - 1) {
            assert!(got == bytes);
        }
    }
    assert_eq!(a.stats().tx_cancelled, 3);
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
}

#[test]
fn a_wait_ends_for_each_of_its_reasons() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let mut a = open(&lab.left, lab.left.v4().into(), AttachMode::Native, 1500);
    let mut b = open(&lab.right, lab.right.v4().into(), AttachMode::Native, 1500);
    until_direct(&mut a, &mut b);
    b.wait(Some(Duration::from_millis(1))).expect("timeout");
    b.wait(Some(Duration::ZERO)).expect("no timeout at all");
    assert!(put(&mut a, b.local_addr(), 7, 64));
    a.flush().expect("flush");
    // Without a timeout: these hang if nothing wakes them.
    b.wait(None).expect("a frame");
    assert_eq!(collect(&mut b, 1)[0].1, content(7, 64));
    let w = b.wakeup();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                w.wake();
                std::thread::yield_now();
            }
        });
        for _ in 0..50 {
            b.wait(None).expect("wake-up during the sleep");
        }
        done.store(true, std::sync::atomic::Ordering::Release);
    });
    // What the XDP program passes up comes in through the kernel's socket: a fragmented datagram.
    let host = lab.left.v4();
    let plain = lab.left.run(|| UdpSocket::bind((host, 0)));
    let plain = plain.expect("the namespace").expect("a port");
    let big = content(9, 4096);
    plain
        .send_to(&big, b.local_addr())
        .expect("sent in fragments");
    b.wait(None).expect("a datagram at the kernel's socket");
    assert_eq!(collect(&mut b, 1)[0].1, big);
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
}

#[test]
fn what_is_longer_than_the_path_is_dropped_and_counted() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let mut a = open(&lab.left, lab.left.v4().into(), AttachMode::Native, 1500);
    let mut b = open(&lab.right, lab.right.v4().into(), AttachMode::Native, 1500);
    until_direct(&mut a, &mut b);
    assert!(put(&mut a, b.local_addr(), 1, 1472));
    let r = a.flush().expect("flush");
    assert_eq!((r.sent_frames, r.dropped_frames), (0, 1), "{:?}", a.stats());
    assert_eq!(a.outstanding(), 0);
}

#[test]
fn neighbours_and_links_that_come_and_go_are_followed() {
    require_or_skip!(Netns, Xdp);
    for v6 in [false, true] {
        let lab = lab(1500);
        let ip = |h: &Host| -> IpAddr { if v6 { h.v6().into() } else { h.v4().into() } };
        let mut a = open(&lab.left, ip(&lab.left), AttachMode::Native, 1500);
        let mut b = open(&lab.right, ip(&lab.right), AttachMode::Native, 1500);
        until_direct(&mut a, &mut b);
        let to = ip(&lab.right).to_string();
        // Forgotten: frames take the kernel's way, which finds the neighbour again.
        lab.left
            .ip(&["neigh", "del", &to, "dev", LINK])
            .expect("known until now");
        until_direct(&mut a, &mut b);
        lab.left.set_link_up(false).expect("down");
        let start = Instant::now();
        let before = a.stats();
        while a.stats().dropped_total() == before.dropped_total() {
            assert!(start.elapsed() < GIVE_UP, "{:?}", a.stats());
            // The pool may be full of frames that the dead link does not take.
            put(&mut a, b.local_addr(), 0, 64);
            a.flush().expect("a dead link is no end");
            std::thread::sleep(Duration::from_millis(10));
        }
        lab.left.set_link_up(true).expect("up");
        until_direct(&mut a, &mut b);
        until_direct(&mut b, &mut a);
        assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
    }
}

#[test]
fn a_socket_on_every_address_serves_both_families() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let named = AfXdpConfig {
        interface: Some(LINK.to_owned()),
        ..config(AttachMode::Native)
    };
    let any = "::".parse().expect("an address");
    let b = try_open(&lab.right, any, &named, 1, 1500);
    let mut b = b.expect("it opens").pop().expect("one");
    let port = b.local_addr().port();
    for (from, to) in lab.left.addrs().into_iter().zip(lab.right.addrs()) {
        let mut a = open(&lab.left, from, AttachMode::Native, 1500);
        let to = SocketAddr::new(to, port);
        until_direct_to(&mut a, &mut b, to);
        assert!(put(&mut a, to, 5, 1408));
        a.flush().expect("flush");
        let (from, bytes) = collect(&mut b, 1).remove(0);
        // An IPv4 peer is shown as IPv4, and the answer comes from the address it wrote to.
        assert_eq!((from, bytes), (a.local_addr(), content(5, 1408)));
        until_direct_to(&mut b, &mut a, from);
        assert!(put(&mut b, from, 6, 1408));
        b.flush().expect("flush");
        assert_eq!(collect(&mut a, 1), [(to, content(6, 1408))]);
        assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
    }
}

#[test]
fn frames_on_another_cores_queue_find_their_core() {
    require_or_skip!(Netns, Ethtool, Xdp);
    let lab = lab(1500);
    for host in lab.hosts() {
        host.set_queues(2).expect("the requirement was probed");
    }
    let mut a = open(&lab.left, lab.left.v4().into(), AttachMode::Native, 1500);
    let ip = lab.right.v4().into();
    let b = try_open(&lab.right, ip, &config(AttachMode::Native), 2, 1500);
    let Ok([mut b0, mut b1]) = <[AfXdp; 2]>::try_from(b.expect("two queues")) else {
        panic!("two backends");
    };
    until_direct(&mut a, &mut b0);
    // Everything of `a` arrives on queue 0; these are for the core of queue 1.
    let want: Vec<_> = (0..100).map(|n| content(n, 704)).collect();
    for n in 0..100 {
        assert!(put(&mut a, b1.local_addr(), n, 704));
    }
    // The address is known, so the path is too after one round.
    a.flush().expect("flush");
    let mut got = Vec::new();
    let start = Instant::now();
    let mut out = Vec::with_capacity(64);
    while got.len() < 100 && start.elapsed() < GIVE_UP {
        // What came for this core on the other queue, before the way was known.
        b0.recv(&mut out).expect("recv");
        out.drain(..).for_each(|burst| b0.release(burst));
        b1.recv(&mut out).expect("recv");
        for mut burst in out.drain(..) {
            got.extend(burst.segments_mut().map(|s| s.to_vec()));
            b1.release(burst);
        }
    }
    assert_eq!(got, want);
    for n in 0..50 {
        assert!(put(&mut a, b1.local_addr(), n, 704));
    }
    a.flush().expect("flush");
    let before = b0.stats().rx_misdirected;
    let start = Instant::now();
    while b0.stats().rx_misdirected < before + 50 && start.elapsed() < GIVE_UP {
        b0.recv(&mut out).expect("recv");
        out.drain(..).for_each(|burst| b0.release(burst));
    }
    for (i, (_, bytes)) in collect(&mut b1, 50).into_iter().enumerate() {
        assert!(bytes == content(i as u64, 704));
    }
    assert_eq!((b0.outstanding(), b1.outstanding()), (0, 0));
}

#[test]
fn what_cannot_be_had_is_refused_with_the_reason() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let ip = lab.left.v4().into();
    let refused = |cfg: &AfXdpConfig, cores: usize, want: &str| {
        let e = try_open(&lab.left, ip, cfg, cores, 1500)
            .err()
            .expect("refused");
        assert!(e.contains(want), "{want}: {e}");
    };
    let auto = AfXdpConfig::default();
    let forced = AfXdpConfig {
        zero_copy: ZeroCopy::On,
        ..auto.clone()
    };
    refused(&forced, 1, "zero-copy");
    refused(&auto, 64, "no receive queue");
    let wrong = AfXdpConfig {
        queues: Some(vec![vec![0], vec![1]]),
        ..auto.clone()
    };
    refused(&wrong, 1, "each core takes one");
    // A second one on the same interface must not take the first one's place.
    let first = open(&lab.left, ip, AttachMode::Native, 1500);
    refused(&auto, 1, "already has an XDP program");
    drop(first);
    drop(open(&lab.left, ip, AttachMode::Native, 1500));
}

#[test]
fn auto_takes_udp_on_veth_and_says_why() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let start = |choice: BackendChoice| {
        let identity = Identity::generate().expect("random");
        let listen = SocketAddr::new(lab.left.v4().into(), 0);
        let node = lab.left.run(|| {
            let builder = Node::builder(identity).listen(listen).backend(choice);
            builder.start()
        });
        node.expect("the namespace").expect("it starts")
    };
    let node = start(BackendChoice::Auto);
    let why = node.info().backend_why.clone();
    assert!(node.info().cores[0].backend.starts_with("udp"), "{why}");
    assert!(
        why.contains("does no AF_XDP zero-copy") && why.contains("veth"),
        "{why}"
    );
    assert!(node.verdicts().is_empty());
    drop(node);
    let node = start(BackendChoice::AfXdp);
    assert_eq!(node.info().cores[0].backend, "af_xdp-copy");
    assert!(node.info().backend_why.contains(LINK), "{:?}", node.info());
    assert!(!node.verdicts().is_empty());
}

/// Three hosts: the middle one runs two nodes, each on an interface of its own.
#[test]
fn two_nodes_on_two_interfaces_of_one_host() {
    require_or_skip!(Netns, Xdp);
    let (one, two) = (lab(1500), lab(1500));
    // The second pair's right end moves to the first pair's right host, under another name.
    let other = "ctp1";
    let middle = one.right.name();
    two.right.ip(&["link", "set", LINK, "down"]).expect("down");
    two.right
        .ip(&["link", "set", LINK, "name", other, "netns", middle])
        .expect("moved");
    for args in [
        &["addr", "add", "10.97.0.2/24", "dev", other][..],
        &["link", "set", other, "up"],
    ] {
        one.right.ip(args).expect("set up");
    }
    two.left
        .ip(&["addr", "add", "10.97.0.1/24", "dev", LINK])
        .expect("set up");
    let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let native = AttachMode::Native;
    let mut a = open(&one.left, one.left.v4().into(), native, 1500);
    let mut b = open(&one.right, one.right.v4().into(), native, 1500);
    let mut c = open(&two.left, ip("10.97.0.1"), native, 1500);
    let mut d = open(&one.right, ip("10.97.0.2"), native, 1500);
    until_direct(&mut a, &mut b);
    until_direct(&mut c, &mut d);
    until_direct(&mut d, &mut c);
    until_direct(&mut b, &mut a);
    // An address beyond the other interface is served through the kernel.
    let before = d.stats().tx_direct;
    for n in 0..20 {
        assert!(put(&mut d, a.local_addr(), n, 64));
        d.flush().expect("flush");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(d.stats().tx_direct, before);
    for x in [&a, &b, &c, &d] {
        assert_eq!(x.outstanding(), 0);
    }
    drop((a, b, c, d));
    tool("ip", &["-n", middle, "link", "del", other]).expect("removed");
}
