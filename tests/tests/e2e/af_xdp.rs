//! The same over AF_XDP: every combination that decides how frames travel, with ordinary traffic
//! beside it.

use super::*;
use serde_json::json;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use tests::lab::{Host, LINK};
use tests::require::Requirement::Xdp;

/// A way for frames.
#[derive(Clone, Copy, Debug)]
struct Case {
    mtu: u32,
    mode: &'static str,
    queues: u32,
    v6: bool,
}

impl Case {
    fn name(&self) -> String {
        format!(
            "MTU {}, {}, {} queue(s), IPv{}",
            self.mtu,
            self.mode,
            self.queues,
            if self.v6 { 6 } else { 4 }
        )
    }

    fn lab(&self) -> Lab {
        let lab = Lab::new(&LabConfig {
            mtu: self.mtu,
            offloads: Offloads::Whole,
        });
        let lab = lab.expect("the requirement was probed");
        for host in lab.hosts() {
            host.set_queues(self.queues)
                .expect("the requirement was probed");
        }
        lab
    }

    fn nodes<'a>(&self, lab: &'a Lab, dir: &Path) -> [Node<'a>; 2] {
        self.nodes_with(lab, dir, [self.queues as usize; 2])
    }

    /// With so many cores, each on a queue of its own.
    fn nodes_with<'a>(&self, lab: &'a Lab, dir: &Path, count: [usize; 2]) -> [Node<'a>; 2] {
        self.configured(lab, dir, count, "")
    }

    /// With `more` in both configurations, a section of its own.
    fn configured<'a>(
        &self,
        lab: &'a Lab,
        dir: &Path,
        count: [usize; 2],
        more: &str,
    ) -> [Node<'a>; 2] {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        // As many different CPUs as queues; a host with one CPU has one queue's worth of cores.
        let cores = |first: usize| -> Vec<usize> {
            let all = (0..count[first]).map(|i| (first + i) % cpus);
            all.collect()
        };
        let extra = format!(
            "mtu = {}\nbackend = \"af_xdp\"\n[af_xdp]\nmode = \"{}\"\n[memory]\nbudget = \
             \"1GiB\"\n[session]\nlanes = 2\nwindow_slots = 48\n{more}",
            self.mtu, self.mode
        );
        let mut a = Node::new(&lab.left, &dir.join("a"));
        let mut b = Node::new(&lab.right, &dir.join("b"));
        a.configure_family(&b, &cores(0), self.v6, &extra);
        b.configure_family(&a, &cores(1), self.v6, &extra);
        a.start();
        b.start();
        [a, b]
    }
}

fn addr(host: &Host, v6: bool) -> IpAddr {
    if v6 {
        host.v6().into()
    } else {
        host.v4().into()
    }
}

/// Bytes that a TCP connection carries beside us.
const TCP_BYTES: usize = 16 << 20;

/// A TCP transfer from left to right; the receiver's hash must be the sender's.
fn tcp_beside(lab: &Lab, v6: bool) {
    let to = SocketAddr::new(addr(&lab.right, v6), 5001);
    let listener = lab.right.run(|| TcpListener::bind(to));
    let listener = listener.expect("the namespace").expect("a port");
    let mut data = vec![0; TCP_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    let got = std::thread::scope(|s| {
        let receiver = s.spawn(|| {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut got = Vec::with_capacity(TCP_BYTES);
            stream.read_to_end(&mut got).expect("a whole transfer");
            got
        });
        let stream = lab.left.run(|| TcpStream::connect(to));
        let mut stream = stream.expect("the namespace").expect("a connection");
        stream.write_all(&data).expect("it takes all");
        drop(stream);
        receiver.join().expect("no panic")
    });
    assert!(got == data, "TCP beside AF_XDP is damaged");
}

/// Ordinary traffic over the same pair, which must go on: a TCP transfer and ten pings, of which
/// `at_least` are answered.
fn others_beside(lab: &Lab, v6: bool, what: &str, at_least: usize) {
    let pings = std::thread::scope(|s| {
        let pings = s.spawn(|| pings_beside(lab, v6));
        tcp_beside(lab, v6);
        pings.join().expect("no panic")
    });
    if let Some(answered) = pings {
        assert!(
            answered >= at_least,
            "{what}: {answered} of 10 pings answered"
        );
    }
}

/// Pings beside us; how many were answered of ten.
fn pings_beside(lab: &Lab, v6: bool) -> Option<usize> {
    let to = addr(&lab.right, v6).to_string();
    let mut ping = lab.left.command("ping");
    ping.args(["-c", "10", "-i", "0.2", "-W", "5", "-q", &to]);
    // Not every machine has it; TCP says the same.
    let out = ping.output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let received = text.split(" received").next()?.rsplit(' ').next()?;
    Some(received.parse().unwrap_or_else(|_| panic!("{text}")))
}

fn has_program(host: &Host) -> bool {
    let text = host.ip(&["-j", "-d", "link", "show", LINK]);
    let json: Value = serde_json::from_str(&text.expect("ip works")).expect("its JSON");
    json[0]["xdp"]["prog"]["id"].is_u64()
}

/// Frames of one direction: what the sender handed to its socket is what the receiver took from
/// its own, or was counted as lost on the way.
fn assert_no_frame_unaccounted(from: &Node, to: &Node, what: &str) {
    let xdp = |name: &str| -> u64 {
        let status = to.ask(r#"{"op":"status"}"#).expect("the daemon answers");
        let rows = status["xdp"].as_array().expect("it runs AF_XDP").clone();
        let row = rows.iter().find(|r| r["name"] == name);
        row.unwrap_or_else(|| panic!("no {name} in {rows:?}"))["packets"]
            .as_u64()
            .expect("a number")
    };
    // Counters of the cores are published every tenth of a second, and what is idle still sends
    // keepalives: look until two looks agree.
    let look = || {
        [
            from.counter("tx_frames_sent"),
            from.counter("tx_direct"),
            from.counter("tx_lost_below"),
            to.counter("rx_direct"),
            to.counter("rx_misdirected"),
            to.counter("rx_socket_dropped"),
            xdp("redirected"),
            xdp("no_socket"),
            xdp("rate_limited") + xdp("foreign") + xdp("malformed"),
        ]
    };
    let mut before = look();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(300));
        let now = look();
        if now == before {
            break;
        }
        before = now;
    }
    let [
        all,
        sent,
        lost,
        direct,
        misdirected,
        dropped,
        redirected,
        passed,
        refused,
    ] = before;
    println!(
        "{what}: {sent} frames sent, {lost} lost in the device, {redirected} redirected, {direct} \
         received, {misdirected} on another core's queue, {dropped} dropped at the socket"
    );
    assert!(sent > 1000 && direct > 1000, "{what}: AF_XDP was not used");
    assert_eq!(refused, 0, "{what}: the XDP program refused frames");
    assert_eq!(to.counter("frames_outstanding"), 0, "{what}");
    assert_eq!(redirected, direct + misdirected + dropped, "{what}");
    // The first frames go through the kernel, which has to find the neighbour; they are the only
    // ones whose fate there we do not count.
    // Frames that came before the socket was there were passed to the kernel.
    let arrived = redirected + passed + lost;
    assert!(
        sent <= arrived && arrived <= all && all - sent <= all / 50,
        "{what}: {all} sent in all, {sent} of them directly, and {arrived} arrived or were counted"
    );
}

/// Every node runs AF_XDP in the case's mode.
fn assert_mode(case: &Case, nodes: &[Node; 2]) {
    for node in nodes {
        let status = node.ask(r#"{"op":"status"}"#).expect("the daemon answers");
        let core = &status["engine"]["cores"][0]["backend"];
        let want = if case.mode == "generic" {
            "af_xdp-generic"
        } else {
            "af_xdp-copy"
        };
        assert_eq!(core, want, "{status}");
    }
}

/// `size` MiB each way.
fn both_ways_over(case: Case, size: u64) {
    let what = case.name();
    let dir = TempDir::new(&format!(
        "xdp-{}-{}-{}-{}",
        case.mtu, case.mode, case.queues, case.v6
    ));
    let lab = case.lab();
    let mut nodes = case.nodes(&lab, dir.path());
    assert_mode(&case, &nodes);
    assert!(lab.hosts().into_iter().all(has_program));
    let sources = ["from-a", "from-b"].map(|n| dir.path().join(n));
    for (seed, source) in sources.iter().enumerate() {
        make_files(source, seed as u64 + 1, size);
    }
    let sending = [0, 1].map(|i| send_folder(&nodes[i], &sources[i]));
    others_beside(&lab, case.v6, &what, 8);
    for outcome in sending.map(Sending::finish) {
        report(&what, &outcome);
        assert_done(&outcome);
    }
    for (i, source) in sources.iter().enumerate() {
        let (want, got) = (hashes(source), hashes(&nodes[1 - i].inbox()));
        assert_eq!(want.len(), 46);
        assert_eq!(want, got, "{what}: what side {i} sent is not what arrived");
    }
    assert_balanced(&nodes);
    assert_no_frame_unaccounted(&nodes[0], &nodes[1], &format!("{what}, left to right"));
    assert_no_frame_unaccounted(&nodes[1], &nodes[0], &format!("{what}, right to left"));
    // As many queues on one side as on the other: natively every lane reaches the queue of its core.
    // The generic hook of a veth pair sees all frames on queue 0, whatever queue they were sent on.
    for node in &nodes {
        // A machine that starves a daemon may cost it a session; the lanes of one that was replaced
        // have carried nothing of late.
        let live: Vec<_> = lanes(node)
            .into_iter()
            .filter(|lane| lane["closed"].is_null())
            .collect();
        assert!(!live.is_empty(), "{what}: no lane is open");
        for lane in live {
            let home = lane["core"].clone();
            let queue = match case.mode {
                "generic" => json!(0),
                _ => home.clone(),
            };
            assert_eq!(lane["peer_queue"], json!([queue, home]), "{what}: {lane}");
            assert_eq!(lane["queue"], queue, "{what}: {lane}");
            if queue == home {
                assert_eq!(lane["flow"], json!(0), "{what}: {lane}");
            }
        }
    }
    // However a daemon ends, the interface is as it was.
    nodes.iter_mut().for_each(Node::kill);
    assert!(!lab.hosts().into_iter().any(has_program), "{what}");
}

macro_rules! cases {
    ($($run:ident { $($name:ident: $mtu:literal $mode:literal $queues:literal $v6:literal;)+ })+) => {
        $($(#[test]
        fn $name() {
            require_or_skip!(Netns, Ethtool, Xdp);
            let _alone = alone();
            $run(Case {
                mtu: $mtu,
                mode: $mode,
                queues: $queues,
                v6: $v6,
            });
        })+)+
    };
}

fn a_gigabyte(case: Case) {
    both_ways_over(case, mib("CTP96_E2E_MIB", 1024));
}

fn with_receiver_killed(case: Case) {
    killed_over(case, 1);
}

fn with_sender_killed(case: Case) {
    killed_over(case, 0);
}

// In the first group every pair of values of two properties is there at least once, in each of the
// others every value of every property; but loss is made by a bridge that has one queue.
cases! {
    a_gigabyte {
        mtu_1500_native_one_queue_ipv4: 1500 "native" 1 false;
        mtu_9000_native_two_queues_ipv4: 9000 "native" 2 false;
        mtu_1500_native_two_queues_ipv6: 1500 "native" 2 true;
        mtu_1500_generic_one_queue_ipv6: 1500 "generic" 1 true;
        mtu_1500_generic_two_queues_ipv4: 1500 "generic" 2 false;
        mtu_9000_native_one_queue_ipv6: 9000 "native" 1 true;
        mtu_9000_generic_one_queue_ipv4: 9000 "generic" 1 false;
        mtu_9000_generic_two_queues_ipv6: 9000 "generic" 2 true;
    }
    with_loss {
        loss_mtu_1500_native_ipv4: 1500 "native" 1 false;
        loss_mtu_1500_generic_ipv6: 1500 "generic" 1 true;
        loss_mtu_9000_native_ipv6: 9000 "native" 1 true;
        loss_mtu_9000_generic_ipv4: 9000 "generic" 1 false;
    }
    with_receiver_killed {
        receiver_killed_mtu_1500_native_one_queue_ipv4: 1500 "native" 1 false;
        receiver_killed_mtu_1500_generic_two_queues_ipv6: 1500 "generic" 2 true;
        receiver_killed_mtu_9000_native_two_queues_ipv4: 9000 "native" 2 false;
        receiver_killed_mtu_9000_generic_one_queue_ipv6: 9000 "generic" 1 true;
    }
    with_sender_killed {
        sender_killed_mtu_1500_native_two_queues_ipv6: 1500 "native" 2 true;
        sender_killed_mtu_9000_generic_one_queue_ipv4: 9000 "generic" 1 false;
    }
}

/// The lanes of a node, as `ctp96 lanes --json` gives them.
fn lanes(node: &Node) -> Vec<Value> {
    let reply = node.ask(r#"{"op":"lanes"}"#).expect("the daemon answers");
    let lanes = reply["lanes"].as_array().expect("a list").clone();
    assert!(!lanes.is_empty());
    lanes
}

/// A pair of veth interfaces puts frames on the queue that has the sender's number, whatever their
/// ports: from one queue no port reaches the second. The lane is reported as astray, other ports
/// are tried, and its frames arrive all the same, from core to core.
#[test]
fn a_lane_astray_is_reported_and_steered_and_loses_nothing() {
    require_or_skip!(Netns, Ethtool, Xdp);
    let _alone = alone();
    let size = mib("CTP96_E2E_XDP_MIB", 64);
    let dir = TempDir::new("xdp-astray");
    let case = Case {
        mtu: 1500,
        mode: "native",
        queues: 2,
        v6: false,
    };
    let lab = case.lab();
    let mut nodes = case.nodes_with(&lab, dir.path(), [1, 2]);
    let source = dir.path().join("from-a");
    make_files(&source, 1, size);
    let outcome = send_folder(&nodes[0], &source).finish();
    assert_done(&outcome);
    assert_eq!(hashes(&source), hashes(&nodes[1].inbox()));
    let [home, astray] = <[Value; 2]>::try_from(lanes(&nodes[0])).expect("two lanes");
    assert_eq!(home["peer_queue"], json!([0, 0]), "{home}");
    assert_eq!(home["flows_tried"], json!(0), "{home}");
    assert_eq!(astray["peer_queue"], json!([0, 1]), "{astray}");
    assert!(astray["flows_tried"].as_u64() >= Some(1), "{astray}");
    assert!(nodes[1].counter("rx_misdirected") > 1000);
    assert_balanced(&nodes);
    nodes.iter_mut().for_each(Node::kill);
}

/// Through a bridge that loses frames in both directions.
fn with_loss(case: Case) {
    require_or_skip!(BpfLoss);
    let size = mib("CTP96_E2E_MIB", 1024);
    let what = format!("{}, 2 % loss", case.name());
    let dir = TempDir::new(&format!("e2e-loss-xdp-{}-{}", case.mtu, case.mode));
    let config = LabConfig {
        mtu: case.mtu,
        offloads: Offloads::PerFrame,
    };
    let lab = Lab::with_lossy_bridge(&config, 0.02).expect("the requirement was probed");
    let nodes = case.nodes(&lab, dir.path());
    assert_mode(&case, &nodes);
    let sources = ["from-a", "from-b"].map(|n| dir.path().join(n));
    for (seed, source) in sources.iter().enumerate() {
        make_files(source, seed as u64 + 1, size);
    }
    let sending = [0, 1].map(|i| send_folder(&nodes[i], &sources[i]));
    // The bridge takes 4 % of them: six of ten in one of a million rounds.
    others_beside(&lab, case.v6, &what, 5);
    for outcome in sending.map(Sending::finish) {
        report(&what, &outcome);
        assert_done(&outcome);
    }
    for (i, source) in sources.iter().enumerate() {
        assert_eq!(hashes(source), hashes(&nodes[1 - i].inbox()), "{what}");
    }
    assert_balanced(&nodes);
    let counts = lab.bridge_counts().expect("tc answers");
    let (seen, dropped) = counts.expect("there is a bridge");
    println!("{what}: {dropped} of {seen} frames dropped");
    let share = dropped as f64 / seen as f64;
    let enough = seen / 100;
    assert!(
        dropped > enough && (0.015..0.025).contains(&share),
        "{share}"
    );
    for node in &nodes {
        let (all, direct) = (node.counter("rx_frames"), node.counter("rx_direct"));
        assert!(direct * 10 > all * 9, "{direct} of {all} frames directly");
    }
}

/// A daemon is killed in the middle; see [`killed_in`].
fn killed_over(case: Case, victim: usize) {
    let size = 2 * mib("CTP96_E2E_XDP_MIB", 64);
    let what = format!("{}, {} killed", case.name(), ["sender", "receiver"][victim]);
    let dir = TempDir::new(&format!("xdp-kill-{victim}-{}-{}", case.mtu, case.mode));
    let lab = case.lab();
    let nodes = case.configured(&lab, dir.path(), [case.queues as usize; 2], &slowly("20MB"));
    assert_mode(&case, &nodes);
    std::thread::scope(|s| {
        s.spawn(|| others_beside(&lab, case.v6, &what, 8));
        killed_in(&what, victim, size, nodes, dir.path());
    });
}

const NODE: &str = "backend = \"af_xdp\"";

#[test]
fn memory_does_not_grow_and_an_idle_daemon_sleeps_over_af_xdp() {
    require_or_skip!(Netns, Xdp);
    let _alone = alone();
    idle_after_a_long_transfer("long-xdp", 16 * mib("CTP96_E2E_XDP_MIB", 64), NODE);
}
