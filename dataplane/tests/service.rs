//! Object transfer between two nodes over loopback.

use ctp96::api::{LaneReceiver, LaneSender, Node};
use ctp96::codec::Policy;
use ctp96::crypto::identity::{Identity, PublicKey};
use ctp96::service::manifest::{Entry, Offer, encode_entries, transfer_id};
use ctp96::service::message::decode_reason;
use ctp96::service::record::{HEAD, Head, Kind, next_record};
use ctp96::service::{
    Dest, JobId, JobState, JobStatus, ReceiveRule, SendJob, Service, ServiceConfig, ServiceError,
    Source,
};
use ctp96::verify::Level;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[path = "service/hostile.rs"]
mod hostile;

/// Only ends a test that hangs.
const LONG: Duration = Duration::from_secs(120);

struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Ordering::Relaxed);
        let p = std::env::temp_dir().join(format!("ctp96-service-{}-{n}", std::process::id()));
        fs::create_dir_all(&p).unwrap();
        Dir(p)
    }
    fn sub(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone)]
struct Setup {
    listen: SocketAddr,
    level: Level,
    rate: Option<u64>,
    discard: bool,
    max_bytes: Option<u64>,
    rule: bool,
}

impl Default for Setup {
    fn default() -> Setup {
        let listen = "127.0.0.1:0".parse().unwrap();
        Setup {
            listen,
            level: Level::Fast,
            rate: None,
            discard: true,
            max_bytes: None,
            rule: true,
        }
    }
}

struct Host {
    service: Service,
    node: Node,
}

fn node(me: &Identity, peer: PublicKey, at: Option<SocketAddr>, s: &Setup) -> Node {
    let mut b = Node::builder(me.clone())
        .listen(s.listen)
        .peer("peer", peer, at)
        .lanes(2, 32)
        .compression(Policy::None)
        .verify(s.level);
    if let Some(r) = s.rate {
        b = b.fixed_rate(r);
    }
    b.start().unwrap()
}

fn host(dir: &Path, me: &Identity, peer: PublicKey, at: Option<SocketAddr>, s: &Setup) -> Host {
    let node = node(me, peer, at, s);
    let rule = ReceiveRule {
        peer,
        peer_name: "peer".into(),
        path: dir.join("in"),
        max_bytes: s.max_bytes,
    };
    let cfg = ServiceConfig {
        identity: me.clone(),
        state_dir: dir.join("state"),
        receive: if s.rule { vec![rule] } else { vec![] },
        allow_discard: s.discard,
    };
    Host {
        service: Service::start(node.clone(), cfg).unwrap(),
        node,
    }
}

struct Pair {
    dir: Dir,
    ids: [Identity; 2],
    a: Host,
    b: Host,
}

fn pair(a: Setup, b: Setup) -> Pair {
    let dir = Dir::new();
    let ids = [Identity::generate().unwrap(), Identity::generate().unwrap()];
    let hb = host(&dir.sub("b"), &ids[1], ids[0].public(), None, &b);
    let at = Some(hb.node.local_addr());
    let ha = host(&dir.sub("a"), &ids[0], ids[1].public(), at, &a);
    Pair {
        dir,
        ids,
        a: ha,
        b: hb,
    }
}

fn job(peer: &Identity, source: Source, dest: Dest) -> SendJob {
    SendJob {
        peer: peer.public(),
        source,
        dest,
        lanes: None,
        compression: None,
    }
}

fn finish(s: &Service, id: JobId) -> JobStatus {
    wait_for(s, id, |j| j.state.is_final())
}

fn wait_for(s: &Service, id: JobId, f: impl Fn(&JobStatus) -> bool) -> JobStatus {
    let start = std::time::Instant::now();
    let mut version = 0;
    loop {
        let j = s
            .wait_change(id, version, Duration::from_millis(100))
            .unwrap();
        if f(&j) {
            return j;
        }
        assert!(start.elapsed() < LONG, "still {j:?}");
        version = j.version;
    }
}

fn random(n: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; n];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// A tree with everything in it that may go wrong.
fn tree(at: &Path, seed: u64) {
    fs::create_dir_all(at.join("deep/er")).unwrap();
    fs::create_dir_all(at.join("no files")).unwrap();
    fs::write(at.join("empty"), "").unwrap();
    fs::write(at.join("one"), "1").unwrap();
    fs::write(at.join("big"), random(8 << 20, seed)).unwrap();
    fs::write(at.join("deep/er/\u{e4}"), random(100_001, seed + 1)).unwrap();
    for i in 0..200 {
        fs::write(at.join(format!("deep/{i}")), random(i * 7, seed + i as u64)).unwrap();
    }
    fs::set_permissions(at.join("one"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("/etc/passwd", at.join("link")).unwrap();
}

fn compare(a: &Path, b: &Path) {
    for e in fs::read_dir(a).unwrap() {
        let e = e.unwrap();
        let (x, y) = (e.path(), b.join(e.file_name()));
        let m = e.metadata().unwrap();
        if m.is_symlink() {
            assert!(!y.exists() && !y.is_symlink(), "{} was sent", x.display());
        } else if m.is_dir() {
            compare(&x, &y);
        } else {
            let n = fs::metadata(&y).unwrap();
            assert_eq!(
                (m.mode(), m.mtime(), m.mtime_nsec()),
                (n.mode(), n.mtime(), n.mtime_nsec())
            );
            assert!(
                fs::read(&x).unwrap() == fs::read(&y).unwrap(),
                "{} differs",
                x.display()
            );
        }
    }
}

fn assert_no_staging(root: &Path) {
    let left = fs::read_dir(root.join(".ctp96-partial")).unwrap().count();
    assert_eq!(left, 0, "staging directories left behind");
}

#[test]
fn trees_in_both_directions_at_once() {
    let p = pair(Setup::default(), Setup::default());
    let (ta, tb) = (p.dir.sub("tree-a"), p.dir.sub("tree-b"));
    tree(&ta, 1);
    tree(&tb, 2);
    // b has no address of a: it sends over the session that a opens.
    let ja = job(
        &p.ids[1],
        Source::Files(vec![ta.clone()]),
        Dest::Dir(String::new()),
    );
    let ia = p.a.service.send(ja).unwrap();
    wait_for(&p.a.service, ia, |j| j.state != JobState::Connecting);
    let jb = job(
        &p.ids[0],
        Source::Files(vec![tb.clone()]),
        Dest::Dir("some/where".into()),
    );
    let ib = p.b.service.send(jb).unwrap();
    let (sa, sb) = (finish(&p.a.service, ia), finish(&p.b.service, ib));
    for s in [&sa, &sb] {
        assert_eq!(s.state, JobState::Done, "{s:?}");
        assert_eq!((s.files_done, s.files_failed), (s.files_total, 0));
        assert_eq!(
            (s.bytes_done, s.bytes_sent, s.bytes_resumed),
            (s.bytes_total, s.bytes_total, 0)
        );
        assert_eq!(s.notes.len(), 1, "the link is noted: {:?}", s.notes);
        assert_eq!((s.reconnects, s.error.as_deref()), (0, None));
    }
    compare(&ta, &p.dir.sub("b/in/tree-a"));
    compare(&tb, &p.dir.sub("a/in/some/where/tree-b"));
    assert_no_staging(&p.dir.sub("b/in"));
    assert_no_staging(&p.dir.sub("a/in"));
    let theirs = p.b.service.jobs();
    assert!(
        theirs.iter().all(|j| j.state == JobState::Done) && theirs.len() == 2,
        "{theirs:?}"
    );
    // The same again replaces what is there.
    fs::write(p.dir.sub("b/in/tree-a/one"), "other").unwrap();
    let again = job(
        &p.ids[1],
        Source::Files(vec![ta.clone()]),
        Dest::Dir(String::new()),
    );
    let s = finish(&p.a.service, p.a.service.send(again).unwrap());
    assert_eq!(s.state, JobState::Done);
    compare(&ta, &p.dir.sub("b/in/tree-a"));
}

#[test]
fn level_full_gives_a_receipt_for_every_file() {
    let full = Setup {
        level: Level::Full,
        ..Setup::default()
    };
    let p = pair(full, Setup::default());
    let t = p.dir.sub("t");
    fs::create_dir_all(&t).unwrap();
    fs::write(t.join("x"), random(3_000_000, 9)).unwrap();
    fs::write(t.join("empty"), "").unwrap();
    let j = job(
        &p.ids[1],
        Source::Files(vec![t.clone()]),
        Dest::Dir(String::new()),
    );
    let s = finish(&p.a.service, p.a.service.send(j).unwrap());
    assert_eq!(s.state, JobState::Done, "{s:?}");
    assert_eq!(s.receipts.len(), 2);
    for r in &s.receipts {
        r.verify_from(&p.ids[1].receipt_key()).unwrap();
        assert_eq!(
            (r.sender, r.receiver),
            (p.ids[0].public(), p.ids[1].public())
        );
        let content = fs::read(p.dir.0.join(&r.object)).unwrap();
        assert_eq!(r.blake3, *blake3::hash(&content).as_bytes());
    }
}

#[test]
fn a_receiver_that_comes_back_is_not_sent_the_same_twice() {
    let slow = Setup {
        rate: Some(30_000_000),
        ..Setup::default()
    };
    let Pair { dir, ids, a, b } = pair(slow, Setup::default());
    let t = dir.sub("t");
    fs::create_dir_all(&t).unwrap();
    fs::write(t.join("0-small"), random(1000, 3)).unwrap();
    fs::write(t.join("1-large"), random(48 << 20, 4)).unwrap();
    let j = job(
        &ids[1],
        Source::Files(vec![t.clone()]),
        Dest::Dir(String::new()),
    );
    let id = a.service.send(j).unwrap();
    wait_for(&a.service, id, |j| j.bytes_sent > 16 << 20);
    let listen = b.node.local_addr();
    drop(b);
    wait_for(&a.service, id, |j| {
        matches!(j.state, JobState::Waiting { .. })
    });
    let b = host(
        &dir.sub("b"),
        &ids[1],
        ids[0].public(),
        None,
        &Setup {
            listen,
            ..Setup::default()
        },
    );
    let s = finish(&a.service, id);
    assert_eq!(s.state, JobState::Done, "{s:?}");
    assert!(s.reconnects >= 1 && s.bytes_resumed > 4 << 20, "{s:?}");
    // What was under way when the receiver went is sent again, what it had stored is not.
    assert!(
        s.bytes_sent < s.bytes_total + (s.bytes_total - s.bytes_resumed),
        "{s:?}"
    );
    compare(&t, &dir.sub("b/in/t"));
    assert_no_staging(&dir.sub("b/in"));
    drop(b);
}

#[test]
fn a_sender_that_is_started_anew_goes_on_where_it_stopped() {
    let slow = Setup {
        rate: Some(30_000_000),
        ..Setup::default()
    };
    let Pair { dir, ids, a, b } = pair(slow, Setup::default());
    let f = dir.sub("large");
    fs::write(&f, random(32 << 20, 5)).unwrap();
    let j = job(
        &ids[1],
        Source::Files(vec![f.clone()]),
        Dest::Dir(String::new()),
    );
    let id = a.service.send(j.clone()).unwrap();
    wait_for(&a.service, id, |j| j.bytes_sent > 12 << 20);
    drop(a);
    let a = host(
        &dir.sub("a"),
        &ids[0],
        ids[1].public(),
        Some(b.node.local_addr()),
        &Setup::default(),
    );
    let s = finish(&a.service, a.service.send(j).unwrap());
    assert_eq!(s.state, JobState::Done, "{s:?}");
    assert!(s.bytes_resumed > 4 << 20, "{s:?}");
    assert_eq!(s.bytes_sent, s.bytes_total - s.bytes_resumed);
    assert!(fs::read(&f).unwrap() == fs::read(dir.sub("b/in/large")).unwrap());
    let theirs = b.service.jobs();
    assert_eq!(
        theirs.len(),
        1,
        "one transfer, over two sessions: {theirs:?}"
    );
}

#[test]
fn a_file_that_changes_fails_and_the_others_arrive() {
    let slow = Setup {
        rate: Some(20_000_000),
        ..Setup::default()
    };
    let p = pair(slow, Setup::default());
    let (first, second) = (p.dir.sub("first"), p.dir.sub("second"));
    fs::write(&first, random(16 << 20, 6)).unwrap();
    fs::write(&second, random(1 << 20, 7)).unwrap();
    let files = Source::Files(vec![first.clone(), second.clone()]);
    let id =
        p.a.service
            .send(job(&p.ids[1], files, Dest::Dir(String::new())))
            .unwrap();
    wait_for(&p.a.service, id, |j| j.state == JobState::Running);
    fs::write(&second, "shorter").unwrap();
    let s = finish(&p.a.service, id);
    let JobState::Failed { why } = &s.state else {
        panic!("{s:?}")
    };
    assert!(
        why.contains("1 of 2") && why.contains("second") && why.contains("changed"),
        "{why}"
    );
    assert!(fs::read(&first).unwrap() == fs::read(p.dir.sub("b/in/first")).unwrap());
    assert!(!p.dir.sub("b/in/second").exists());
}

#[test]
fn generated_bytes_are_verified_and_thrown_away() {
    let p = pair(Setup::default(), Setup::default());
    for source in [
        Source::Zero(50_000_001),
        Source::Random(20_000_000),
        Source::Zero(0),
    ] {
        let mut j = job(&p.ids[1], source, Dest::Discard);
        j.lanes = Some(1);
        j.compression = Some(Policy::Auto);
        let s = finish(&p.a.service, p.a.service.send(j).unwrap());
        assert_eq!(s.state, JobState::Done, "{s:?}");
        assert_eq!(s.bytes_done, s.bytes_total);
    }
    assert!(!p.dir.sub("b/in").exists());
}

#[test]
fn policy_is_the_receivers_and_refusals_name_the_reason() {
    let try_one = |b: Setup, source: Source, dest: Dest, want: &str| {
        let p = pair(Setup::default(), b);
        let s = finish(
            &p.a.service,
            p.a.service.send(job(&p.ids[1], source, dest)).unwrap(),
        );
        let JobState::Failed { why } = &s.state else {
            panic!("{s:?}")
        };
        assert!(why.contains(want), "{why}");
        p
    };
    let dir = Dest::Dir(String::new());
    let base = Setup::default();
    let no_rule = Setup {
        rule: false,
        ..base.clone()
    };
    try_one(no_rule, Source::Zero(10), dir.clone(), "no receive rule");
    let small = Setup {
        max_bytes: Some(9),
        ..base.clone()
    };
    try_one(small, Source::Zero(10), dir.clone(), "max_bytes");
    let no_discard = Setup {
        discard: false,
        ..base.clone()
    };
    try_one(no_discard, Source::Zero(10), Dest::Discard, "discard");
    try_one(base.clone(), Source::Zero(1 << 60), dir, "make room");
    for d in ["../up", "/etc", "a/../b"] {
        let p = try_one(
            base.clone(),
            Source::Zero(10),
            Dest::Dir(d.into()),
            "refused",
        );
        assert!(!p.dir.sub("b/up").exists());
    }
}

#[test]
fn a_place_that_is_taken_fails_one_object_only() {
    let p = pair(Setup::default(), Setup::default());
    let t = p.dir.sub("t");
    fs::create_dir_all(&t).unwrap();
    fs::write(t.join("blocked"), "x").unwrap();
    fs::write(t.join("free"), "y").unwrap();
    fs::create_dir_all(p.dir.sub("b/in/t/blocked/dir")).unwrap();
    let j = job(&p.ids[1], Source::Files(vec![t]), Dest::Dir(String::new()));
    let s = finish(&p.a.service, p.a.service.send(j).unwrap());
    let JobState::Failed { why } = &s.state else {
        panic!("{s:?}")
    };
    assert!(why.contains("1 of 3") && why.contains("blocked"), "{why}");
    assert_eq!(fs::read(p.dir.sub("b/in/t/free")).unwrap(), b"y");
}

#[test]
fn a_cancelled_job_stops_and_the_next_one_runs() {
    let slow = Setup {
        rate: Some(40_000_000),
        ..Setup::default()
    };
    let p = pair(slow, Setup::default());
    let id =
        p.a.service
            .send(job(&p.ids[1], Source::Random(1 << 30), Dest::Discard))
            .unwrap();
    wait_for(&p.a.service, id, |j| j.bytes_sent > 0);
    let next =
        p.a.service
            .send(job(&p.ids[1], Source::Zero(5), Dest::Discard))
            .unwrap();
    assert!(p.a.service.cancel(id));
    assert_eq!(finish(&p.a.service, id).state, JobState::Cancelled);
    assert_eq!(finish(&p.a.service, next).state, JobState::Done);
    assert!(!p.a.service.cancel(JobId(999)) && p.a.service.job(JobId(999)).is_none());
}

#[test]
fn a_job_waits_for_a_peer_that_is_not_there() {
    let dir = Dir::new();
    let ids = [Identity::generate().unwrap(), Identity::generate().unwrap()];
    // A port that nobody has: bound and let go.
    let free = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let a = host(
        &dir.sub("a"),
        &ids[0],
        ids[1].public(),
        Some(free),
        &Setup::default(),
    );
    let id = a
        .service
        .send(job(&ids[1], Source::Zero(7), Dest::Dir(String::new())))
        .unwrap();
    let s = wait_for(&a.service, id, |j| {
        matches!(j.state, JobState::Waiting { .. })
    });
    let JobState::Waiting { why } = s.state else {
        unreachable!()
    };
    assert!(why.contains("no answer"), "{why}");
    let b = host(
        &dir.sub("b"),
        &ids[1],
        ids[0].public(),
        None,
        &Setup {
            listen: free,
            ..Setup::default()
        },
    );
    assert_eq!(finish(&a.service, id).state, JobState::Done);
    assert_eq!(fs::read(dir.sub("b/in/zero.bin")).unwrap(), [0; 7]);
    drop(b);
    let stranger = Identity::generate().unwrap();
    let id = a
        .service
        .send(job(&stranger, Source::Zero(7), Dest::Discard))
        .unwrap();
    assert!(matches!(
        finish(&a.service, id).state,
        JobState::Failed { .. }
    ));
}

#[test]
fn a_state_directory_has_one_owner() {
    let p = pair(Setup::default(), Setup::default());
    let cfg = ServiceConfig {
        identity: p.ids[0].clone(),
        state_dir: p.dir.sub("a/state"),
        receive: vec![],
        allow_discard: false,
    };
    assert!(matches!(
        Service::start(p.a.node.clone(), cfg),
        Err(ServiceError::Locked(_))
    ));
    let none = job(&p.ids[1], Source::Files(vec![]), Dest::Discard);
    assert!(matches!(p.a.service.send(none), Err(ServiceError::Nothing)));
}
