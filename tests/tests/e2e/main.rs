//! Two daemons in two network namespaces, driven by the command-line program, as a user does it.
//!
//! `CTP96_E2E_MIB` sets the MiB sent each way (default 1,024), `CTP96_E2E_LONG_MIB` those of the
//! long transfer (default 10,240). Over AF_XDP those of a daemon that is killed are twice
//! `CTP96_E2E_XDP_MIB` (default 64), those of the long transfer 16 times. One test runs at a time:
//! they share two cores and the disk.

mod af_xdp;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tests::lab::{Lab, LabConfig, Offloads};
use tests::node::{Node, Sending, TempDir, program};
use tests::require::Requirement::{BpfLoss, Ethtool, Netns};
use tests::require_or_skip;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed says nothing about the next one.
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn mib(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Name below a folder, and BLAKE3 of the content.
type Hashes = BTreeMap<PathBuf, blake3::Hash>;

fn hashes(root: &Path) -> Hashes {
    fn walk(root: &Path, dir: &Path, out: &mut Hashes) {
        for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, out);
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            let mut file = File::open(&path).expect("a file");
            let mut buf = vec![0; 1 << 20];
            loop {
                match file.read(&mut buf).expect("readable") {
                    0 => break,
                    n => hasher.update(&buf[..n]),
                };
            }
            let name = path.strip_prefix(root).expect("below the root").to_owned();
            out.insert(name, hasher.finalize());
        }
    }
    let mut out = Hashes::new();
    walk(root, root, &mut out);
    out
}

/// Incompressible data, text, a real ELF binary, an empty file, a one-byte file, and a folder of
/// small files: `mib` MiB in all, different for every `seed`.
fn make_files(dir: &Path, seed: u64, mib: u64) {
    std::fs::create_dir_all(dir.join("small/deep")).expect("folders");
    let mut noise = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    let mut fill = |name: &str, bytes: u64| {
        let mut file = BufWriter::new(File::create(dir.join(name)).expect("a file"));
        let mut buf = vec![0; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let n = left.min(buf.len() as u64) as usize;
            noise.fill(&mut buf[..n]);
            file.write_all(&buf[..n]).expect("room on the disk");
            left -= n as u64;
        }
    };
    fill("noise.bin", (mib << 20) / 2 + 12_345);
    fill("noise2.bin", (mib << 20) / 4 + 1);
    fill("one-byte", 1);
    fill("empty", 0);
    for i in 0..40u64 {
        let deep = if i % 2 == 0 { "deep/" } else { "" };
        fill(&format!("small/{deep}{i:02}"), i * 997);
    }
    let mut text = BufWriter::new(File::create(dir.join("log.txt")).expect("a file"));
    for i in 0..(mib << 20) / 4 / 64 {
        writeln!(
            text,
            "{i:>12} seed {seed} lane {:>3} slot {:>4} READY, all is well",
            i % 128,
            i % 96
        )
        .expect("room on the disk");
    }
    drop(text);
    std::fs::copy(program("ctp96d"), dir.join("ctp96d.elf")).expect("room on the disk");
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("a folder")
        .flatten()
        .map(|e| e.path())
        .collect();
    names.sort();
    names
}

/// Two started daemons that know each other.
fn pair<'a>(lab: &'a Lab, dir: &Path, extra: &str) -> [Node<'a>; 2] {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut a = Node::new(&lab.left, &dir.join("a"));
    let mut b = Node::new(&lab.right, &dir.join("b"));
    a.configure(&b, 0, extra);
    b.configure(&a, 1 % cpus, extra);
    a.start();
    b.start();
    [a, b]
}

fn lab(offloads: Offloads) -> Lab {
    Lab::new(&LabConfig {
        mtu: 1500,
        offloads,
    })
    .expect("the requirement was probed")
}

fn send_folder(node: &Node, dir: &Path) -> Sending {
    let mut args = names(dir);
    args.push("peer".into());
    node.send(args)
}

fn assert_done(outcome: &Value) {
    assert_eq!(outcome["ok"], true, "{outcome}");
    assert_eq!(outcome["job"]["state"], "done", "{outcome}");
    assert_eq!(
        outcome["job"]["bytes_done"], outcome["job"]["bytes_total"],
        "{outcome}"
    );
}

/// The books of both sides must balance.
fn assert_balanced(nodes: &[Node; 2]) {
    for node in nodes {
        node.ctp96(["counters", "--check"]);
        assert_eq!(node.counter("frames_outstanding"), 0);
    }
}

fn report(what: &str, outcome: &Value) {
    println!(
        "{what}: {} MB in {:.1} s, {} MB resumed, {} MB sent, {} reconnects",
        outcome["job"]["bytes_total"].as_u64().unwrap_or(0) / 1_000_000,
        outcome["wall_s"].as_f64().unwrap_or(0.0),
        outcome["job"]["bytes_resumed"].as_u64().unwrap_or(0) / 1_000_000,
        outcome["job"]["bytes_sent"].as_u64().unwrap_or(0) / 1_000_000,
        outcome["job"]["reconnects"],
    );
}

/// Sends a folder each way at once and compares everything.
fn both_ways(what: &str, lab: &Lab, dir: &TempDir) {
    let size = mib("CTP96_E2E_MIB", 1024);
    let nodes = pair(lab, dir.path(), "");
    let sources = ["from-a", "from-b"].map(|n| dir.path().join(n));
    for (seed, source) in sources.iter().enumerate() {
        make_files(source, seed as u64 + 1, size);
    }
    let sending = [0, 1].map(|i| send_folder(&nodes[i], &sources[i]));
    for outcome in sending.map(Sending::finish) {
        report(what, &outcome);
        assert_done(&outcome);
    }
    for (i, source) in sources.iter().enumerate() {
        let (want, got) = (hashes(source), hashes(&nodes[1 - i].inbox()));
        assert_eq!(want.len(), 46);
        assert_eq!(want, got, "what side {i} sent is not what arrived");
    }
    assert_balanced(&nodes);
}

#[test]
fn a_gigabyte_each_way_at_once() {
    require_or_skip!(Netns);
    let _alone = alone();
    both_ways(
        "both ways",
        &lab(Offloads::Whole),
        &TempDir::new("e2e-both"),
    );
}

#[test]
fn a_gigabyte_each_way_through_two_percent_loss() {
    require_or_skip!(Netns, BpfLoss, Ethtool);
    let _alone = alone();
    let lab = lab(Offloads::PerFrame);
    for host in lab.hosts() {
        host.lose_received(0.02)
            .expect("the requirement was probed");
    }
    both_ways("both ways, 2 % loss", &lab, &TempDir::new("e2e-loss"));
    for host in lab.hosts() {
        let c = host
            .loss_counts()
            .expect("tc answers")
            .expect("it is attached");
        println!("{} of {} frames dropped", c.dropped, c.frames);
        let share = c.dropped as f64 / c.frames as f64;
        assert!(c.dropped > 1000 && (0.015..0.025).contains(&share), "{c:?}");
    }
}

/// Waits until half of the sender's job is durable at the receiver, and says how many bytes that
/// was.
fn wait_for_half(sender: &Node, sending: &mut Sending) -> u64 {
    loop {
        if let Some(job) = sender.job(true) {
            let (done, total) = (number(&job, "bytes_done"), number(&job, "bytes_total"));
            if total > 0 && done * 2 >= total {
                return done;
            }
        }
        assert!(
            sending.running(),
            "it was over before half of it was durable"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn number(job: &Value, field: &str) -> u64 {
    job[field]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {field} in {job}"))
}

/// Kills one daemon in the middle of a transfer over a plain pair; see [`killed_in`].
/// `size` MiB are sent at `rate`; `node` is more TOML for the section [node].
fn killed_at_half(what: &str, victim: usize, size: u64, rate: &str, node: &str) {
    let dir = TempDir::new(&format!("e2e-kill-{}", what.replace(' ', "-")));
    let lab = lab(Offloads::Whole);
    let extra = format!("{node}\n{}", slowly(rate));
    let nodes = pair(&lab, dir.path(), &extra);
    killed_in(what, victim, size, nodes, dir.path());
}

/// A slow link, so that what the sender hears of the receiver's disk is not stale: at full speed the
/// rest has often arrived before the news that half of it is durable.
fn slowly(rate: &str) -> String {
    format!("[cc]\nmode = \"fixed:{rate}\"\n")
}

/// Kills one daemon in the middle of a transfer from the first to the second, starts it again,
/// and lets the command that was started first end. Then everything is there, the books balance,
/// and what was durable was not sent again. `size` MiB are sent.
fn killed_in(what: &str, victim: usize, size: u64, mut nodes: [Node<'_>; 2], dir: &Path) {
    let source = dir.join("source");
    make_files(&source, 7, size);
    let mut sending = send_folder(&nodes[0], &source);
    let durable = wait_for_half(&nodes[0], &mut sending);
    nodes[victim].kill();
    let left: Vec<_> = hashes(&nodes[1].inbox()).into_iter().collect();
    // The lanes' windows are full by now: nothing more is handed to them.
    let sent_before = nodes[0].job(true).map_or(0, |j| number(&j, "bytes_sent"));
    nodes[victim].start();
    let outcome = sending.finish();
    report(what, &outcome);
    // The harness shows them when the test fails.
    nodes.iter().for_each(|n| println!("{}", n.log()));
    assert_done(&outcome);
    let want = hashes(&source);
    for (name, hash) in left {
        // What was visible when the daemon died was whole: a file appears only when complete.
        if want.contains_key(&name) {
            assert_eq!(want[&name], hash, "{} was there in part", name.display());
        }
    }
    assert_eq!(want, hashes(&nodes[1].inbox()), "{what}");
    assert_balanced(&nodes);

    let job = &outcome["job"];
    assert!(number(job, "bytes_resumed") > 0, "{job}");
    // A restarted sender's job is a new one, which has lost no session yet.
    let sender_died = u64::from(victim == 0);
    assert_eq!(outcome["restarts"], sender_died, "{outcome}");
    let lost = number(job, "reconnects");
    assert!(lost + sender_died >= 1, "{job}");
    // Each further session that a starved machine loses costs what was not durable yet.
    let slack = (64 << 20) + (lost + sender_died - 1) * (256 << 20);
    let sent_after = number(job, "bytes_sent") - sent_before;
    let missing = number(job, "bytes_total") - durable;
    assert!(
        sent_after <= missing + slack,
        "{sent_after} sent, {missing} were missing: {job}"
    );
}

#[test]
fn a_receiver_killed_at_half_resumes() {
    require_or_skip!(Netns);
    let _alone = alone();
    killed_at_half("receiver killed", 1, mib("CTP96_E2E_MIB", 1024), "80MB", "");
}

#[test]
fn a_sender_killed_at_half_resumes() {
    require_or_skip!(Netns);
    let _alone = alone();
    killed_at_half("sender killed", 0, mib("CTP96_E2E_MIB", 1024), "80MB", "");
}

#[test]
fn memory_does_not_grow_and_an_idle_daemon_sleeps() {
    require_or_skip!(Netns);
    let _alone = alone();
    idle_after_a_long_transfer("long", mib("CTP96_E2E_LONG_MIB", 10 * 1024), "");
}

fn idle_after_a_long_transfer(what: &str, long: u64, node: &str) {
    let dir = TempDir::new(&format!("e2e-{what}"));
    let lab = lab(Offloads::Whole);
    let nodes = pair(&lab, dir.path(), node);
    let run = |mib: u64| {
        let source = format!("zero:{mib}MiB");
        let outcome = nodes[0]
            .send(["--source", source.as_str(), "--sink", "discard", "peer"])
            .finish();
        report("zeros to discard", &outcome);
        assert_done(&outcome);
        nodes.each_ref().map(Node::resident)
    };
    // The first transfer touches every buffer of its session.
    let before = run((long / 10).max(64));
    let after = run(long);
    println!("resident before {before:?}, after {after:?}");
    for (before, after) in before.iter().zip(after) {
        assert!(
            after < before + (16 << 20),
            "resident memory grew from {before} to {after} bytes"
        );
    }
    assert_balanced(&nodes);

    // The session is open and nothing moves.
    let cpu = || nodes.each_ref().map(Node::cpu_time);
    std::thread::sleep(Duration::from_secs(1));
    let (started, before) = (std::time::Instant::now(), cpu());
    std::thread::sleep(Duration::from_secs(5));
    let (span, after) = (started.elapsed(), cpu());
    for (before, after) in before.iter().zip(after) {
        let used = after - *before;
        println!("idle daemon: {used:?} of processor time in {span:?}");
        assert!(
            used * 50 < span,
            "an idle daemon used {used:?} of processor time in {span:?}"
        );
    }
}
