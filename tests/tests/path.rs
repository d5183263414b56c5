//! Path MTU and congestion marks over real sockets: two hosts and a router between them, which
//! carries less than the hosts' interfaces do, from the start or from the middle of a transfer, and
//! says so by ICMP or not.

use ctp96::api::{LaneSender, Node, NodeBuilder, Session};
use ctp96::crypto::identity::Identity;
use ctp96::engine::{BackendChoice, LaneInfo};
use ctp96::obs::Counter;
use ctp96::proto::{EcnState, PmtuOrigin, PmtuState};
use ctp96::stage::PathStatus;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tests::lab::{Host, Lab, LabConfig, Treatment};
use tests::require::Requirement::{BpfLoss, Netns};
use tests::require_or_skip;

/// Only reached when a test is about to fail; nothing is asserted about how long anything takes.
const WAIT: Duration = Duration::from_secs(120);
const PORT: u16 = 9696;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lab(mtu: u32) -> Lab {
    let config = LabConfig {
        mtu,
        ..LabConfig::default()
    };
    Lab::with_router(&config).expect("the requirement was probed")
}

fn addr(host: &Host, v6: bool) -> SocketAddr {
    match v6 {
        true => (host.v6(), PORT).into(),
        false => (host.v4(), PORT).into(),
    }
}

/// Two nodes on the hosts of a lab, with a session from left to right.
struct Pair {
    left: Node,
    right: Node,
    out: Session,
    inc: Session,
}

fn pair(lab: &Lab, v6: bool, f: impl Fn(NodeBuilder) -> NodeBuilder + Sync) -> Pair {
    let (a, b) = (
        Identity::generate().expect("random"),
        Identity::generate().expect("random"),
    );
    let (here, there) = (addr(&lab.left, v6), addr(&lab.right, v6));
    let start = |host: &Host, builder: NodeBuilder| {
        let node = host.run(move || builder.start()).expect("the namespace");
        node.expect("the node starts")
    };
    let builder = Node::builder(b.clone()).listen(there).lanes(1, 96);
    let right = start(&lab.right, f(builder.peer("left", a.public(), None)));
    let builder = Node::builder(a).listen(here).lanes(1, 96);
    let left = start(&lab.left, f(builder.peer("right", b.public(), Some(there))));
    let out = left.connect(&b.public(), WAIT).expect("connects");
    let inc = right.accept(WAIT).expect("accepts");
    Pair {
        left,
        right,
        out,
        inc,
    }
}

fn noise(n: usize, mut x: u64) -> Vec<u8> {
    let byte = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..n).map(byte).collect()
}

impl Pair {
    /// What the sending lane knows of its path.
    fn path(&self) -> PathStatus {
        let lanes: Vec<LaneInfo> = self.left.snapshot().lanes;
        lanes.first().map(|l| l.status.path).unwrap_or_default()
    }

    /// Waits until the path is as `f` wants it.
    fn await_path(&self, what: &str, f: impl Fn(&PathStatus) -> bool) -> PathStatus {
        let start = Instant::now();
        loop {
            let p = self.path();
            if f(&p) {
                return p;
            }
            assert!(start.elapsed() < WAIT, "{what}: {p:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends `messages` of 300 KB from left to right and compares each; `at` is called with the
    /// number of each message before it goes. Then the books must balance.
    fn transfer(&self, messages: u64, at: impl Fn(u64, &mut LaneSender)) {
        const LEN: usize = 300_000;
        let (mut tx, _back) = self.out.lane(0).expect("lane 0");
        let (_reply, mut rx) = self.inc.lane(0).expect("lane 0");
        std::thread::scope(|s| {
            s.spawn(move || {
                let mut m = Vec::new();
                for n in 0..messages {
                    rx.recv_timeout(&mut m, WAIT).expect("a message");
                    assert!(m == noise(LEN, n + 1), "message {n} differs");
                }
                rx.recv_timeout(&mut m, WAIT).expect_err("the end");
            });
            for n in 0..messages {
                at(n, &mut tx);
                tx.send(&noise(LEN, n + 1)).expect("sends");
            }
            let status = tx.status();
            tx.finish(WAIT)
                .unwrap_or_else(|e| panic!("{e}: {status:?}"));
        });
    }

    fn counter(&self, right: bool, c: Counter) -> u64 {
        let node = if right { &self.right } else { &self.left };
        node.registry().counters()[c as usize]
    }
}

#[test]
fn a_path_that_carries_everything_is_used_at_full_size() {
    require_or_skip!(Netns);
    let _alone = alone();
    for (mtu, symbol) in [(1500, 1408), (9000, 8896)] {
        let lab = lab(mtu);
        let p = pair(&lab, false, |b| b.mtu(mtu as usize));
        p.await_path("settled", |p| p.state == PmtuState::Complete);
        p.transfer(40, |_, _| ());
        let path = p.path();
        assert_eq!((path.symbol_len, path.origin), (symbol, PmtuOrigin::Probe));
        assert_eq!(path.mtu, u32::from(symbol) + 68);
        assert_eq!((path.probes_lost, path.black_holes), (0, 0));
    }
}

#[test]
fn jumbo_frames_on_a_host_with_a_small_interface_need_no_search() {
    require_or_skip!(Netns);
    let _alone = alone();
    let lab = lab(1500);
    let p = pair(&lab, false, |b| b.mtu(9000));
    let path = p.await_path("settled", |p| p.state == PmtuState::Complete);
    assert_eq!((path.symbol_len, path.origin), (1408, PmtuOrigin::Hint));
    p.transfer(40, |_, tx| assert!(tx.slot_capacity() <= 64 * 1408));
}

fn smaller_from_the_start(v6: bool, hidden: bool) {
    let lab = lab(1500);
    if hidden {
        lab.treat(Treatment::HideTooBig).expect("the program");
    }
    lab.set_path_mtu(1400).expect("the router");
    let p = pair(&lab, v6, |b| b);
    p.transfer(40, |_, _| ());
    let path = p.await_path("settled", |p| p.state == PmtuState::Complete);
    // 1,400 less headers: 1,332 bytes over IPv4, 1,312 over IPv6.
    assert_eq!(path.symbol_len, 1280, "{path:?}");
    assert_eq!(path.black_holes, 0);
    if hidden {
        assert_eq!(path.origin, PmtuOrigin::Probe);
    }
}

#[test]
fn a_router_with_a_smaller_link_is_found_by_ipv4() {
    require_or_skip!(Netns);
    let _alone = alone();
    smaller_from_the_start(false, false);
}

#[test]
fn a_router_with_a_smaller_link_is_found_by_ipv6() {
    require_or_skip!(Netns);
    let _alone = alone();
    smaller_from_the_start(true, false);
}

#[test]
fn a_router_that_says_nothing_is_found_too() {
    require_or_skip!(Netns, BpfLoss);
    let _alone = alone();
    for v6 in [false, true] {
        smaller_from_the_start(v6, true);
    }
}

fn black_hole(v6: bool, hidden: bool, backend: BackendChoice) {
    let lab = lab(1500);
    if hidden {
        lab.treat(Treatment::HideTooBig).expect("the program");
    }
    let p = pair(&lab, v6, |b| b.backend(backend));
    p.await_path("settled", |p| p.state == PmtuState::Complete);
    p.transfer(120, |n, tx| {
        if n == 40 {
            lab.set_path_mtu(1400).expect("the router");
        }
        if n > 100 {
            assert!(tx.slot_capacity() <= 64 * 1408);
        }
    });
    let settled = |p: &PathStatus| p.black_holes > 0 && p.state == PmtuState::Complete;
    let path = p.await_path("settled again", settled);
    assert_eq!((path.symbol_len, path.black_holes), (1280, 1), "{path:?}");
    // What was cut for longer frames went in parts.
    assert!(p.counter(false, Counter::TxSymbolParts) > 0);
    assert!(p.counter(true, Counter::RxSymbolParts) > 0);
    assert_eq!(p.counter(true, Counter::CoherenceViolations), 0);
}

#[test]
fn a_path_that_shrinks_in_mid_transfer_loses_nothing() {
    require_or_skip!(Netns);
    let _alone = alone();
    black_hole(false, false, BackendChoice::Udp);
    black_hole(true, false, BackendChoice::IoUring);
}

#[test]
fn a_black_hole_in_mid_transfer_loses_nothing() {
    require_or_skip!(Netns, BpfLoss);
    let _alone = alone();
    black_hole(false, true, BackendChoice::IoUring);
    black_hole(true, true, BackendChoice::Udp);
}

fn marks(v6: bool, backend: BackendChoice) {
    let lab = lab(1500);
    lab.treat(Treatment::Mark(20)).expect("the program");
    let p = pair(&lab, v6, |b| b.backend(backend));
    p.transfer(100, |_, _| ());
    let ecn = p.await_path("marks", |p| p.ecn.ce > 0).ecn;
    assert_eq!(ecn.state, EcnState::Capable, "{ecn:?}");
    assert!(p.counter(true, Counter::RxFramesCe) > 0);
    assert_eq!(p.counter(false, Counter::EcnFailures), 0);
    // Marked frames still leave in super-packets.
    let frames = p.counter(false, Counter::TxFramesEct);
    assert!(frames > p.counter(false, Counter::TxFrames) * 8 / 10);
}

#[test]
fn marks_of_a_congested_router_reach_the_sender() {
    require_or_skip!(Netns, BpfLoss);
    let _alone = alone();
    marks(false, BackendChoice::Udp);
    marks(true, BackendChoice::IoUring);
}

#[test]
fn a_router_that_clears_marks_is_noticed_and_no_more_are_sent() {
    require_or_skip!(Netns, BpfLoss);
    let _alone = alone();
    for v6 in [false, true] {
        let lab = lab(1500);
        lab.treat(Treatment::Bleach).expect("the program");
        let p = pair(&lab, v6, |b| b);
        p.transfer(40, |_, _| ());
        let ecn = p
            .await_path("cleared marks", |p| p.ecn.state == EcnState::Bleached)
            .ecn;
        // Ten, and what was claimed together with the tenth.
        assert!((10..14).contains(&ecn.sent), "v6 {v6}: {ecn:?}");
        assert_eq!(p.counter(false, Counter::EcnFailures), 1);
    }
}
