//! `ctp96 doctor` and `ctp96 queues` on interfaces that the test made.

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tests::lab::{Host, LINK, Lab, LabConfig};
use tests::node::{TempDir, program};
use tests::require::Requirement::{Ethtool, Netns};
use tests::require_or_skip;

/// A pair with two queues beside the lab's own, both ends in the left namespace.
const NIC: &str = "q0";
const PEER: &str = "q1";

fn lab() -> Lab {
    Lab::new(&LabConfig::default()).expect("the requirement was probed")
}

fn add_pair(host: &Host) {
    let queues = ["numtxqueues", "2", "numrxqueues", "2"];
    let end = [&["link", "add", NIC][..], &queues].concat();
    let peer = [&["type", "veth", "peer", "name", PEER][..], &queues].concat();
    host.ip(&[end, peer].concat()).unwrap();
    for name in [NIC, PEER] {
        host.ip(&["link", "set", name, "up"]).unwrap();
    }
}

fn ctp96(host: &Host, args: &[&str]) -> Output {
    host.command(program("ctp96"))
        .args(args)
        .output()
        .expect("it runs")
}

fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

fn code(o: &Output) -> i32 {
    o.status.code().expect("it exits by itself")
}

fn json(o: &Output) -> Value {
    serde_json::from_slice(&o.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", out(o), err(o)))
}

/// What `queues` may change, as `queues show` has it.
fn settings(host: &Host, name: &str) -> Value {
    let o = ctp96(host, &["--json", "queues", "show", name]);
    assert_eq!(code(&o), 0, "{}", err(&o));
    json(&o)["settings"].take()
}

/// Where a test keeps its journal.
struct Dir(TempDir);

impl Dir {
    fn new(name: &str) -> Dir {
        Dir(TempDir::new(&format!("doctor-{name}")))
    }

    fn state(&self) -> &str {
        self.0.path().to_str().expect("a path of plain letters")
    }

    fn journal(&self) -> PathBuf {
        self.0.path().join(format!("queues-{NIC}.json"))
    }

    /// A directory with an `ethtool` that is this script, where `$real` is the true one.
    fn ethtool(&self, script: &str) -> PathBuf {
        let bin = self.0.path().join("bin");
        fs::create_dir_all(&bin).expect("temporary directory");
        let file = bin.join("ethtool");
        let real = which("ethtool");
        fs::write(
            &file,
            format!("#!/bin/sh\nreal={}\n{script}\n", real.display()),
        )
        .unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        bin
    }
}

fn which(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|d| Path::new(d).join(name))
        .find(|p| p.is_file())
        .expect("the requirement was probed")
}

/// `queues apply` of one queue and GRO switched on: two steps, offload first.
fn apply_command(host: &Host, dir: &Dir, extra: &[&str]) -> Command {
    let mut command = host.command(program("ctp96"));
    command.args([
        "queues",
        "apply",
        NIC,
        "--queues",
        "1",
        "--set",
        "rx-gro=on",
    ]);
    command.args(["--state", dir.state()]).args(extra);
    command
}

fn restore(host: &Host, dir: &Dir) -> Output {
    ctp96(host, &["queues", "restore", NIC, "--state", dir.state()])
}

#[test]
fn doctor_reads_a_veth_as_copy_mode() {
    require_or_skip!(Netns);
    let lab = lab();
    let o = ctp96(&lab.left, &["--json", "doctor", "--interface", LINK]);
    let report = json(&o);
    let findings = report["findings"].as_array().expect("a list");
    let bad = findings.iter().filter(|f| f["status"] == "bad").count();
    assert_eq!(report["bad"], bad);
    assert_eq!(report["ok"], bad == 0);
    assert_eq!(code(&o), i32::from(bad > 0), "{}", out(&o));
    assert_eq!(err(&o), "");
    for f in findings {
        for field in ["area", "what", "status", "effect"] {
            assert!(
                f[field].as_str().is_some_and(|t| !t.is_empty()),
                "{field}: {f}"
            );
        }
    }
    let of_link = |text: &str| {
        findings
            .iter()
            .find(|f| f["area"] == LINK && f["what"].as_str().is_some_and(|w| w.contains(text)))
            .unwrap_or_else(|| panic!("no {text}: {findings:#?}"))
    };
    assert!(
        of_link("driver veth")["what"]
            .as_str()
            .unwrap()
            .contains("MTU 1500")
    );
    assert_eq!(of_link("copy mode only")["status"], "info");
    let nic = &report["interfaces"][0];
    assert_eq!((&nic["name"], &nic["kind"]), (&LINK.into(), &"veth".into()));
    assert_eq!(nic["xdp"]["zero_copy"], false);
    assert_eq!(nic["settings"]["channels"]["rx"], 1);
    assert!(nic["settings"]["coalesce"]["unreadable"].as_str().is_some());

    lab.left.set_link_up(false).unwrap();
    let o = ctp96(&lab.left, &["doctor", "--interface", LINK]);
    assert_eq!(code(&o), 1, "a link that is down is bad: {}", out(&o));
    assert!(
        out(&o).contains(&format!("fix: ip link set {LINK} up")),
        "{}",
        out(&o)
    );
    let o = ctp96(&lab.left, &["doctor", "--interface", "eth77"]);
    assert_eq!(code(&o), 1);
    assert!(
        err(&o).contains("eth77") && err(&o).contains(LINK),
        "{}",
        err(&o)
    );
}

#[test]
fn without_rights_the_doctor_says_which() {
    require_or_skip!(Netns);
    let lab = lab();
    // Root without capabilities: another user might not reach the program's folder.
    let o = lab
        .left
        .command("setpriv")
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .arg(program("ctp96"))
        .args(["doctor", "--interface", LINK])
        .output()
        .expect("setpriv runs");
    // Lines are wrapped between words.
    let page: Vec<_> = out(&o).split_whitespace().map(str::to_owned).collect();
    let page = page.join(" ");
    assert_eq!(code(&o), 1, "{page}{}", err(&o));
    for text in [
        "AF_XDP: the socket is refused",
        "it needs CAP_NET_RAW, and this process (user 0) lacks CAP_NET_RAW",
        "AF_XDP: the XDP program is refused",
        "lacks CAP_BPF, CAP_NET_ADMIN",
        "fix: setcap cap_net_admin",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert_eq!(err(&o), "", "the page says it all");
}

#[test]
fn queues_are_changed_and_everything_comes_back() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let host = &lab.left;
    add_pair(host);
    let dir = Dir::new("apply");
    let before = settings(host, NIC);
    let others = [settings(host, PEER), settings(host, LINK)];
    assert_eq!(before["channels"]["rx"], 2, "{before}");

    let o = ctp96(
        host,
        &["queues", "plan", NIC, "--queues", "1", "--port", "9696"],
    );
    assert_eq!(code(&o), 0, "{}", err(&o));
    for text in [
        &format!("\nethtool -L {NIC} rx 1 tx 1\n"),
        &format!("#   undo: ethtool -L {NIC} rx 2 tx 2\n"),
        "left as it is: RSS table: not readable",
        "left as it is: steering port 9696",
    ] {
        let text = text.replace("not readable", "the driver has no such setting");
        assert!(out(&o).contains(&text), "{text}: {}", out(&o));
    }
    assert_eq!(settings(host, NIC), before, "a plan changes nothing");

    let o = apply_command(host, &dir, &[]).output().expect("it runs");
    assert_eq!(code(&o), 0, "{}{}", out(&o), err(&o));
    let gro = format!("+ ethtool -K {NIC} rx-gro on\n");
    let channels = format!("+ ethtool -L {NIC} rx 1 tx 1\n");
    assert!(
        out(&o).starts_with(&format!("{gro}{channels}")),
        "{}",
        out(&o)
    );
    let now = settings(host, NIC);
    assert_eq!(now["channels"]["rx"], 1);
    assert_eq!(now["features"]["rx-gro"]["on"], true);
    assert_eq!([settings(host, PEER), settings(host, LINK)], others);
    assert!(dir.journal().is_file());

    let again = apply_command(host, &dir, &[]).output().expect("it runs");
    assert_eq!(code(&again), 1);
    assert!(
        err(&again).contains(&format!("ctp96 queues restore {NIC}")),
        "{}",
        err(&again)
    );

    let o = restore(host, &dir);
    assert_eq!(code(&o), 0, "{}{}", out(&o), err(&o));
    assert!(
        out(&o).contains(&format!("+ ethtool -L {NIC} rx 2 tx 2\n")),
        "{}",
        out(&o)
    );
    assert_eq!(settings(host, NIC), before);
    assert!(!dir.journal().exists());
    let o = restore(host, &dir);
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert!(out(&o).contains("nothing to undo"));

    // What a veth does not have is refused where it was asked for.
    let o = ctp96(host, &["queues", "plan", NIC, "--rx-usecs", "5"]);
    assert_eq!(code(&o), 1);
    assert!(
        err(&o).contains("moderation of q0: the driver has no such setting"),
        "{}",
        err(&o)
    );
    let o = ctp96(host, &["queues", "plan", NIC, "--queues", "3"]);
    assert!(err(&o).contains("1 to 2 queues"), "{}", err(&o));
}

#[test]
fn a_crash_in_the_middle_is_undone() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let host = &lab.left;
    add_pair(host);
    let before = settings(host, NIC);
    for (name, script) in [
        (
            "crash-before",
            r#"case "$1" in -L) kill -9 $PPID; exit 1;; esac; exec $real "$@""#,
        ),
        (
            "crash-after",
            r#"$real "$@"; rc=$?; case "$1" in -L) kill -9 $PPID;; esac; exit $rc"#,
        ),
    ] {
        let dir = Dir::new(name);
        let path = format!("{}:/usr/sbin:/usr/bin:/bin", dir.ethtool(script).display());
        let o = apply_command(host, &dir, &[])
            .env("PATH", path)
            .output()
            .expect("it runs");
        assert_eq!(o.status.code(), None, "killed: {}{}", out(&o), err(&o));
        assert_ne!(
            settings(host, NIC),
            before,
            "{name}: the first step was done"
        );
        let o = restore(host, &dir);
        assert_eq!(code(&o), 0, "{name}: {}{}", out(&o), err(&o));
        assert_eq!(settings(host, NIC), before, "{name}");
        assert!(!dir.journal().exists(), "{name}");
    }
}

#[test]
fn a_step_that_fails_takes_the_others_back() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let host = &lab.left;
    add_pair(host);
    let before = settings(host, NIC);
    let dir = Dir::new("fail");
    let script = r#"case "$*" in *"rx 1"*) echo no such luck >&2; exit 7;; esac; exec $real "$@""#;
    let path = format!("{}:/usr/sbin:/usr/bin:/bin", dir.ethtool(script).display());
    let o = apply_command(host, &dir, &[])
        .env("PATH", path)
        .output()
        .expect("it runs");
    assert_eq!(code(&o), 1, "{}", out(&o));
    assert!(err(&o).contains("no such luck"), "{}", err(&o));
    assert!(
        err(&o).contains("Everything is as it was before"),
        "{}",
        err(&o)
    );
    assert_eq!(settings(host, NIC), before);
    assert!(!dir.journal().exists());
}

#[test]
fn the_default_route_is_guarded_and_lost_interfaces_are_noticed() {
    require_or_skip!(Netns, Ethtool);
    let lab = lab();
    let host = &lab.left;
    add_pair(host);
    let dir = Dir::new("route");
    host.ip(&["route", "add", "default", "dev", NIC]).unwrap();
    let before = settings(host, NIC);
    let o = apply_command(host, &dir, &[]).output().expect("it runs");
    assert_eq!(code(&o), 1);
    assert!(err(&o).contains("--yes-default-route"), "{}", err(&o));
    assert_eq!(settings(host, NIC), before);
    let o = apply_command(host, &dir, &["--yes-default-route"])
        .output()
        .expect("it runs");
    assert_eq!(code(&o), 0, "{}", err(&o));

    let o = restore(&lab.right, &dir);
    assert_eq!(code(&o), 1, "{}", out(&o));
    assert!(err(&o).contains("another network namespace"), "{}", err(&o));
    assert!(dir.journal().is_file());
    let o = restore(host, &dir);
    assert_eq!(code(&o), 0, "{}", err(&o));

    // What is so already is no step, and no journal is left.
    let all = ["--yes-default-route", "--state", dir.state()];
    let o = ctp96(
        host,
        &[
            &["--json", "queues", "apply", NIC, "--queues", "2"],
            &all[..],
        ]
        .concat(),
    );
    assert_eq!(
        json(&o)["commands"].as_array().map(Vec::len),
        Some(0),
        "{}",
        out(&o)
    );
    assert!(!dir.journal().exists());

    let o = apply_command(host, &dir, &["--yes-default-route"])
        .output()
        .expect("it runs");
    assert_eq!(code(&o), 0, "{}", err(&o));
    // Made anew, it has lost those settings: a journal of the old one is of no use.
    host.ip(&["link", "del", NIC]).unwrap();
    add_pair(host);
    let fresh = settings(host, NIC);
    let o = apply_command(host, &dir, &[]).output().expect("it runs");
    assert_eq!(code(&o), 0, "{}", err(&o));
    let o = restore(host, &dir);
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert_eq!(settings(host, NIC), fresh);
    let o = apply_command(host, &dir, &[]).output().expect("it runs");
    assert_eq!(code(&o), 0, "{}", err(&o));
    host.ip(&["link", "del", NIC]).unwrap();
    add_pair(host);
    let fresh = settings(host, NIC);
    let o = restore(host, &dir);
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert!(out(&o).contains("made anew"), "{}", out(&o));
    assert_eq!(settings(host, NIC), fresh);
    assert!(!dir.journal().exists());
}
