//! What watches a running daemon: `ctp96 record`, `ctp96 hist` and `ctp96 top`.

use ctp96::control::api::hdr_from_base64;
use ctp96::obs::Hist;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};
use tests::lab::{Lab, LabConfig, Offloads};
use tests::node::{Node, TempDir};
use tests::require::Requirement::Netns;
use tests::require_or_skip;

/// Nothing here takes this long; a hang must end.
const LIMIT: Duration = Duration::from_secs(60);

/// A running command that does not outlive the test.
struct Running(Option<Child>);

impl Running {
    /// As Ctrl-C does.
    fn interrupt(mut self) -> Output {
        let child = self.0.take().expect("it runs");
        // SAFETY: kill takes two integers; the target is our child, which nobody has waited for.
        unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
        child.wait_with_output().expect("our child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LIMIT, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Records `node` into `file`; what happens from now on is in it.
fn record(node: &Node, file: &Path) -> Running {
    let mut command = node.command(["--json", "record", "--every", "100ms", "--to"]);
    command
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let running = Running(Some(command.spawn().expect("ctp96 starts")));
    // The head is written after the first look.
    wait_until("the log has its head", || {
        std::fs::read_to_string(file).is_ok_and(|t| t.contains("StartTimestamp"))
    });
    running
}

/// Values of every histogram.
fn values(node: &Node) -> BTreeMap<String, u64> {
    let reply: Value = serde_json::from_str(&node.ctp96(["--json", "hist"])).expect("JSON");
    let rows = reply["hists"].as_array().expect("rows");
    let row = |r: &Value| {
        let name = r["name"].as_str().expect("a name").to_owned();
        (name, r["summary"]["count"].as_u64().expect("a count"))
    };
    rows.iter().map(row).collect()
}

fn counter(node: &Node, name: &str) -> u64 {
    let reply = node.ask(r#"{"op":"counters"}"#).expect("it answers");
    let rows = reply["counters"].as_array().expect("rows");
    let row = rows.iter().find(|r| r["name"] == name);
    row.and_then(|r| r["value"].as_u64()).expect(name)
}

/// The sums of a log by tag, and how many intervals have values.
fn parse(text: &str) -> (BTreeMap<String, u64>, usize) {
    let (mut sums, mut busy) = (BTreeMap::new(), BTreeMap::new());
    let mut last = Duration::ZERO;
    for entry in IntervalLogIterator::new(text.as_bytes()) {
        let LogEntry::Interval(i) = entry.expect("every line is of the format") else {
            continue;
        };
        assert!(i.start_timestamp() >= last, "the intervals are in order");
        last = i.start_timestamp();
        let encoded = i.encoded_histogram();
        // "HIST" is what the compressed form (cookie 0x1c849314) begins with in base64.
        assert!(encoded.starts_with("HISTF"), "{encoded}");
        let h = hdr_from_base64(encoded).expect("a histogram");
        let tag = i.tag().expect("a tag").as_str().to_owned();
        assert!(Hist::from_name(&tag).is_some(), "{tag}");
        *sums.entry(tag).or_insert(0) += h.len();
        *busy.entry(last).or_insert(0) += h.len();
    }
    (sums, busy.values().filter(|n| **n > 0).count())
}

#[test]
fn a_transfer_is_recorded_shown_and_read_back() {
    require_or_skip!(Netns);
    let dir = TempDir::new("live");
    let lab = Lab::new(&LabConfig {
        mtu: 1500,
        offloads: Offloads::Whole,
    })
    .expect("the requirement was probed");
    let (mut a, mut b) = (
        Node::new(&lab.left, &dir.path().join("a")),
        Node::new(&lab.right, &dir.path().join("b")),
    );
    // Slow enough for a look in the middle.
    let extra = "[cc]\nmode = \"fixed:20MB\"\n";
    a.configure(&b, 0, extra);
    b.configure(&a, 0, extra);
    a.start();
    b.start();

    // One transfer before: what came before the first look is not in the log.
    let send = |size: &str| a.send(["--source", size, "--sink", "discard", "peer"]);
    send("random:4MiB").finish();
    settle(&b);
    let (before, delivered) = (values(&b), counter(&b, "rx_slots_delivered"));

    let file = dir.path().join("run.hlog");
    let recorder = record(&b, &file);
    let mut sending = send("random:64MiB");
    wait_until("data arrives", || {
        counter(&b, "rx_slots_delivered") > delivered + 50
    });
    let screen = b.ctp96(["top", "--once", "--every", "300ms"]);
    let lane = b.ctp96(["hist", "--lane", "0"]);
    assert!(sending.running(), "it was over before the look:\n{screen}");
    sending.finish();
    settle(&b);
    let outcome = recorder.interrupt();
    let stderr = String::from_utf8_lossy(&outcome.stderr).into_owned();
    assert!(outcome.status.success(), "{stderr}");

    // Every value of the meantime is in the log, in the interval that it was recorded in.
    let text = std::fs::read_to_string(&file).expect("the log");
    let (sums, busy) = parse(&text);
    let gained: BTreeMap<String, u64> = values(&b)
        .into_iter()
        .map(|(name, n)| (name.clone(), n - before[&name]))
        .collect();
    // The core may have sent or received since the last interval: an idle session keeps itself
    // alive. What counts slots stands still.
    for name in ["one_way_slot", "stage_digest", "stage_decode"] {
        assert_eq!(sums[name], gained[name], "{name}\n{sums:?}\n{gained:?}");
    }
    assert_eq!(sums.len(), Hist::COUNT);
    assert_eq!(
        sums["one_way_slot"],
        counter(&b, "rx_slots_delivered") - delivered
    );
    assert!(sums["stage_recv"] > 0 && sums["stage_recv"] <= gained["stage_recv"]);
    assert!(busy > 5, "{busy} intervals have values");

    let said: Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    for (name, n) in &sums {
        assert_eq!(said["values"][name], *n, "{name}: {said}");
    }
    // Read back by the command.
    let mut back = b.command(["--json", "hist", "--log"]);
    let back = back.arg(&file).output().expect("it runs");
    let reply: Value = serde_json::from_slice(&back.stdout).expect("JSON");
    let rows = reply["hists"].as_array().expect("rows");
    assert_eq!(rows.len(), Hist::COUNT);
    for row in rows {
        let name = row["name"].as_str().expect("a name");
        assert_eq!(row["summary"]["count"], sums[name], "{name}");
    }
    // It is not overwritten by mistake.
    let again = b
        .command(["record", "--for", "50ms", "--to"])
        .arg(&file)
        .output();
    let again = again.expect("it runs");
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("--force"));

    the_screen_shows_it(&screen, &b);
    assert!(lane.contains("lane 0 alone:"), "{lane}");
    assert!(
        lane.contains("core 0, all of its lanes together:"),
        "{lane}"
    );
    let gone = b.command(["hist", "--lane", "127"]).output().expect("runs");
    assert_eq!(gone.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&gone.stderr);
    assert!(stderr.contains("no session has a lane 127"), "{stderr}");
    let piped = b.command(["top"]).output().expect("it runs");
    assert_eq!(
        piped.status.code(),
        Some(2),
        "standard output is no terminal"
    );
    assert!(String::from_utf8_lossy(&piped.stderr).contains("--once"));
    assert!(b.ctp96(["hist", "--plot"]).contains("percentile"));
    assert!(b.ctp96(["hist", "--csv"]).starts_with("histogram,of,count"));
    assert!(b.ctp96(["hist", "--html"]).starts_with("<!doctype html>"));
}

/// Waits until no slot has been delivered for a while.
fn settle(node: &Node) {
    let (mut last, mut since) = (u64::MAX, Instant::now());
    wait_until("slots stop coming", || {
        let now = counter(node, "rx_slots_delivered");
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(400)
    });
}

/// The screen in the middle of the transfer has its session, its lanes, its rate and its slots.
fn the_screen_shows_it(screen: &str, node: &Node) {
    let reply = node.ask(r#"{"op":"lanes"}"#).expect("it answers");
    let lanes = reply["lanes"].as_array().expect("lanes");
    assert!(!lanes.is_empty());
    let session = lanes[0]["session"].as_u64().expect("a number");
    let shown = format!("{session:08x}");
    let rows = screen
        .lines()
        .filter(|l| l.contains("peer") && l.contains(&shown) && !l.starts_with("session"));
    assert_eq!(rows.count(), lanes.len(), "{screen}");
    assert!(
        screen.contains(&format!("session {shown} peer ")),
        "{screen}"
    );
    let input = screen
        .lines()
        .find(|l| l.starts_with("in "))
        .expect("a rate");
    assert!(
        input.contains("MB/s [#") && input.contains("of 25 GB/s"),
        "{input}"
    );
    let slots = 96 * lanes.len();
    assert!(screen.contains("window in:"), "{screen}");
    assert!(screen.contains(&format!("of {slots} slots")), "{screen}");
    assert!(!screen.contains('\u{1b}'), "{screen}");
    for lane in lanes {
        for window in ["tx_slots", "rx_open", "rx_held"] {
            let bits = lane[window].as_str().expect("96 bits");
            assert_eq!(bits.len(), 24, "{lane}");
        }
    }
}
