//! One set of tests that every backend with a real or in-memory wire has to pass.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::udp::{Mmsg, UdpConfig, Uring};
use super::{Backend, Burst, mem};

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";
/// Only reached when a test is about to fail; nothing is asserted about how long anything takes.
const GIVE_UP: Duration = Duration::from_secs(20);

fn config(bind: &str) -> UdpConfig {
    UdpConfig {
        rx_buffers: 32,
        tx_buffers: 32,
        ..UdpConfig::new(bind.parse().expect("address"))
    }
}

fn mmsg(bind: &str) -> Mmsg {
    Mmsg::open(&config(bind)).expect("socket")
}

fn uring(bind: &str) -> Option<Uring> {
    match Uring::available() {
        Ok(()) => Some(Uring::open(&config(bind)).expect("ring")),
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

fn uring_zero_copy(bind: &str) -> Option<Uring> {
    Uring::available().ok()?;
    let config = UdpConfig {
        zero_copy: true,
        ..config(bind)
    };
    Some(Uring::open(&config).expect("ring"))
}

fn frame<B: Backend>(b: &mut B, to: SocketAddr, n: u64, len: usize) -> bool {
    let Some(mut f) = b.claim(&to, len) else {
        return false;
    };
    assert_eq!(f.len(), len);
    fill(&mut f, n);
    b.commit(f);
    true
}

/// Bytes that say which frame they belong to; the first eight (as far as there are) the number.
fn fill(f: &mut [u8], n: u64) {
    for (i, b) in f.iter_mut().enumerate() {
        *b = (n >> (8 * (i % 8))) as u8 ^ (i / 8) as u8;
    }
}

fn check(f: &[u8], n: u64) {
    let mut want = vec![0; f.len()];
    fill(&mut want, n);
    assert!(f == want, "frame {n} of {} bytes is damaged", f.len());
}

/// Receives until `n` datagrams are there; gives (sender, bytes) of each in order.
fn collect<B: Backend>(b: &mut B, n: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let (mut got, mut out) = (Vec::new(), Vec::<Burst>::with_capacity(8));
    let start = Instant::now();
    while got.len() < n && start.elapsed() < GIVE_UP {
        if b.recv(&mut out).expect("recv") == 0 {
            b.wait(Some(Duration::from_millis(50))).expect("wait");
        }
        for mut burst in out.drain(..) {
            let (from, segments) = (burst.from(), burst.segments());
            let before = got.len();
            got.extend(burst.segments_mut().map(|s| (from, s.to_vec())));
            assert_eq!(got.len() - before, segments);
            b.release(burst);
        }
        assert_eq!(out.capacity(), 8);
    }
    assert_eq!(got.len(), n, "datagrams are missing: {:?}", b.stats());
    got
}

/// Mixed lengths arrive intact, in order and in the same pieces.
fn mixed_sizes<A: Backend, B: Backend>(mut a: A, mut b: B) {
    let to = b.local_addr();
    let lens = [
        1448, 1448, 1448, 100, 1448, 1, 1, 1, 8936, 8936, 8936, 8936, 8936, 8936, 8936, 8936, 64,
        2000, 24, 1400, 65_000, 1200, 1200,
    ];
    let mut n = 0u64;
    for round in 0..20 {
        let mut want = Vec::new();
        for i in 0..lens.len() {
            let len = lens[(i * (round + 1)) % lens.len()];
            assert!(frame(&mut a, to, n, len));
            want.push((n, len));
            n += 1;
        }
        for _ in 0..70 {
            assert!(frame(&mut a, to, n, 300));
            want.push((n, 300));
            n += 1;
        }
        let r = a.flush().expect("flush");
        assert_eq!((r.sent_frames, r.pending_frames), (want.len() as u64, 0));
        for ((from, bytes), (n, len)) in collect(&mut b, want.len()).into_iter().zip(want) {
            assert_eq!((from, bytes.len()), (a.local_addr(), len), "frame {n}");
            check(&bytes, n);
        }
    }
    let (sa, sb) = (a.stats(), b.stats());
    assert_eq!((sa.tx_frames, sb.rx_frames), (n, n));
    assert_eq!((sa.tx_bytes, sa.tx_pending), (sb.rx_bytes, 0));
    assert!(sa.tx_sends < n / 2, "frames were not packed: {sa:?}");
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
}

/// Frames for two peers, taken in turn, each reach theirs.
fn two_peers<A: Backend, B: Backend>(mut a: A, mut b: B, mut c: B) {
    for n in 0..60 {
        let to = if n % 3 == 0 {
            b.local_addr()
        } else {
            c.local_addr()
        };
        assert!(frame(&mut a, to, n, 700));
        if n % 20 == 19 {
            a.flush().expect("flush");
        }
    }
    for (bytes, n) in collect(&mut b, 20).into_iter().zip((0..).step_by(3)) {
        check(&bytes.1, n);
    }
    for (bytes, n) in collect(&mut c, 40)
        .into_iter()
        .zip((0..).filter(|n| n % 3 != 0))
    {
        check(&bytes.1, n);
    }
    assert_eq!(a.outstanding() + b.outstanding() + c.outstanding(), 0);
}

/// An exhausted pool refuses, and gives again after a flush.
fn exhaustion<A: Backend, B: Backend>(mut a: A, mut b: B) {
    let to = b.local_addr();
    let mut held = Vec::new();
    let mut n = 0u64;
    while let Some(mut f) = a.claim(&to, 30_000) {
        fill(&mut f, n);
        held.push(f);
        n += 1;
        assert!(n < 10_000, "the pool has no end");
    }
    assert_eq!(a.outstanding(), n as usize);
    let r = a.flush().expect("flush");
    assert_eq!(r.sent_frames, 0, "frames still claimed must not leave");
    held.drain(..).for_each(|f| a.commit(f));
    assert_eq!(a.outstanding(), 0);
    assert_eq!(a.flush().expect("flush").sent_frames, n);
    for ((_, bytes), i) in collect(&mut b, n as usize).into_iter().zip(0..) {
        check(&bytes, i);
    }
    assert!(frame(&mut a, to, 0, 100));
    let f = a.claim(&to, 100).expect("room");
    a.cancel(f);
    assert_eq!(a.flush().expect("flush").sent_frames, 1);
    collect(&mut b, 1);
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
    assert_eq!(a.stats().tx_cancelled, 1);
}

/// `wait` ends on a datagram, on a wake-up and on the timeout.
fn waking<A: Backend, B: Backend + Send>(mut a: A, mut b: B) {
    b.wait(Some(Duration::from_millis(1))).expect("timeout");
    b.wait(Some(Duration::ZERO)).expect("no timeout at all");
    assert!(frame(&mut a, b.local_addr(), 7, 500));
    a.flush().expect("flush");
    // Without a timeout: these hang if nothing wakes them.
    b.wait(None).expect("datagram");
    check(&collect(&mut b, 1)[0].1, 7);
    for _ in 0..20 {
        let w = b.wakeup();
        w.prepare_sleep();
        w.wake();
        b.wait(None).expect("wake-up before the sleep");
    }
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
    // Not woken by what is over.
    assert!(frame(&mut a, b.local_addr(), 8, 500));
    a.flush().expect("flush");
    check(&collect(&mut b, 1)[0].1, 8);
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
}

/// 64 MiB with no more in flight than the receiver says it holds: nothing may be lost, even
/// though the receiver reads only when the window is full.
fn window<A: Backend, B: Backend>(mut a: A, mut b: B, len: usize) {
    let to = b.local_addr();
    let window = b.rx_capacity_bytes() / len;
    let total = (64 << 20) / len;
    let (mut sent, mut got) = (0, 0);
    while got < total {
        while sent < total && sent - got < window {
            if !frame(&mut a, to, sent as u64, len) {
                a.flush().expect("flush");
                if !frame(&mut a, to, sent as u64, len) {
                    break;
                }
            }
            sent += 1;
        }
        a.flush().expect("flush");
        for (_, bytes) in collect(&mut b, sent - got) {
            check(&bytes, got as u64);
            got += 1;
        }
    }
    assert_eq!(b.stats().rx_kernel_drops, 0);
    assert_eq!(a.stats().dropped_total(), 0);
    assert_eq!((a.outstanding(), b.outstanding()), (0, 0));
}

/// Junk that anybody can send is counted and survived.
fn junk<B: Backend>(mut b: B) {
    let s = std::net::UdpSocket::bind((b.local_addr().ip(), 0)).expect("socket");
    s.send_to(&[], b.local_addr()).expect("send");
    s.send_to(&[5; 40], b.local_addr()).expect("send");
    assert_eq!(collect(&mut b, 1)[0].1, [5; 40]);
    assert_eq!(b.stats().rx_empty, 1);
    // Nobody listens on a port just closed; what comes back must not end the backend.
    let to = s.local_addr().expect("bound");
    drop(s);
    for n in 0..5 {
        assert!(frame(&mut b, to, n, 100));
        b.flush().expect("flush");
    }
    // Refused by the kernel at once: broadcast without leave, port zero.
    let far: SocketAddr = match to {
        SocketAddr::V4(_) => ([255, 255, 255, 255], 9).into(),
        SocketAddr::V6(_) => "[::1]:0".parse().expect("address"),
    };
    assert!(frame(&mut b, far, 0, 100));
    b.flush().expect("flush");
    let st = b.stats();
    assert_eq!(st.tx_frames + st.dropped_total(), 6, "{st:?}");
    assert!(st.dropped_total() >= 1, "{st:?}");
    if to.is_ipv4() {
        assert_eq!(st.dropped(super::DropCause::Forbidden), 1);
    }
    assert_eq!(b.outstanding(), 0);
}

fn mem_pair() -> (mem::MemBackend, mem::MemBackend) {
    mem::pair(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into(), 256).expect("memory")
}

macro_rules! socket_suite {
    ($name:ident, $open:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn mixed_sizes_arrive_intact_and_in_order() {
                for bind in [V4, V6] {
                    if let (Some(a), Some(b)) = ($open(bind), $open(bind)) {
                        mixed_sizes(a, b);
                    }
                }
            }

            #[test]
            fn each_of_two_peers_gets_its_own() {
                for bind in [V4, V6] {
                    if let (Some(a), Some(b), Some(c)) = ($open(bind), $open(bind), $open(bind)) {
                        two_peers(a, b, c);
                    }
                }
            }

            #[test]
            fn an_exhausted_pool_refuses_and_recovers() {
                if let (Some(a), Some(b)) = ($open(V4), $open(V4)) {
                    exhaustion(a, b);
                }
            }

            #[test]
            fn a_wait_ends_for_each_of_its_reasons() {
                for bind in [V4, V6] {
                    if let (Some(a), Some(b)) = ($open(bind), $open(bind)) {
                        waking(a, b);
                    }
                }
            }

            #[test]
            fn a_window_within_the_capacity_loses_nothing() {
                for (bind, len) in [(V4, 1448), (V6, 8936), (V4, 1200)] {
                    if let (Some(a), Some(b)) = ($open(bind), $open(bind)) {
                        window(a, b, len);
                    }
                }
            }

            #[test]
            fn junk_and_refusals_are_survived() {
                for bind in [V4, V6] {
                    if let Some(b) = $open(bind) {
                        junk(b);
                    }
                }
            }

            #[test]
            fn a_dual_stack_socket_shows_ipv4_peers_as_ipv4() {
                if let (Some(a), Some(mut b)) = ($open(V4), $open("[::]:0")) {
                    let (mut a, port) = (a, b.local_addr().port());
                    assert!(frame(&mut a, ([127, 0, 0, 1], port).into(), 1, 100));
                    a.flush().expect("flush");
                    let (from, bytes) = collect(&mut b, 1).remove(0);
                    check(&bytes, 1);
                    assert_eq!(from, a.local_addr());
                    assert!(frame(&mut b, from, 2, 100));
                    b.flush().expect("flush");
                    check(&collect(&mut a, 1)[0].1, 2);
                }
            }

            #[test]
            fn it_works_without_offloads() {
                let plain = |bind: &str| UdpConfig {
                    gso: false,
                    gro: false,
                    ..config(bind)
                };
                let a = Mmsg::open(&plain(V4)).expect("socket");
                assert!(a.offload_note().is_some());
                if let Some(b) = $open(V4) {
                    two_peers_without_offload(a, b);
                }
            }
        }
    };
}

fn two_peers_without_offload<A: Backend, B: Backend>(mut a: A, mut b: B) {
    for n in 0..100 {
        assert!(frame(&mut a, b.local_addr(), n, 1000));
    }
    let r = a.flush().expect("flush");
    assert_eq!(r.sent_frames, 100);
    assert_eq!(a.stats().tx_sends, 100);
    for ((_, bytes), n) in collect(&mut b, 100).into_iter().zip(0..) {
        check(&bytes, n);
    }
}

socket_suite!(udp_mmsg, |bind: &str| Some(mmsg(bind)));
socket_suite!(udp_uring, |bind: &str| uring(bind));
socket_suite!(udp_uring_zero_copy, |bind: &str| uring_zero_copy(bind));

mod shared_memory {
    use super::*;

    #[test]
    fn mixed_sizes_arrive_intact_and_in_order() {
        let (a, b) = mem_pair();
        mixed_sizes(a, b);
    }

    #[test]
    fn an_exhausted_pool_refuses_and_recovers() {
        let (a, b) = mem_pair();
        exhaustion(a, b);
    }

    #[test]
    fn a_wait_ends_for_each_of_its_reasons() {
        let (a, b) = mem_pair();
        waking(a, b);
    }

    #[test]
    fn a_window_within_the_capacity_loses_nothing() {
        let (a, b) = mem_pair();
        window(a, b, 1448);
    }

    #[test]
    fn two_threads_pass_frames_both_ways() {
        let (a, b) = mem_pair();
        let echo = |mut x: mem::MemBackend, to: SocketAddr| {
            let (mut sent, mut got) = (0u64, 0u64);
            let mut out = Vec::with_capacity(16);
            while got < 20_000 || sent < 20_000 {
                while sent < 20_000 && sent < got + 500 && frame(&mut x, to, sent, 1448) {
                    sent += 1;
                }
                x.flush().expect("flush");
                if x.recv(&mut out).expect("recv") == 0 {
                    x.wait(Some(Duration::from_millis(1))).expect("wait");
                }
                for mut burst in out.drain(..) {
                    for s in burst.segments_mut() {
                        check(s, got);
                        got += 1;
                    }
                    x.release(burst);
                }
            }
            assert_eq!(x.outstanding(), 0);
            x
        };
        let (at, bt) = (b.local_addr(), a.local_addr());
        std::thread::scope(|s| {
            let h = s.spawn(move || echo(a, at));
            let b = echo(b, bt);
            // The ends live until both are done.
            drop((h.join().expect("no panic"), b));
        });
    }

    #[test]
    fn a_vanished_peer_is_survived() {
        let (mut a, b) = mem_pair();
        let to = b.local_addr();
        drop(b);
        for n in 0..1000 {
            assert!(frame(&mut a, to, n, 30_000) || a.flush().is_ok());
        }
        a.flush().expect("flush");
        assert!(a.claim(&to, 10).map(|f| a.cancel(f)).is_some());
    }
}
