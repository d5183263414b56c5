//! The command without a daemon: help, mistakes, exit codes, keys and receipts.

use ctp96::crypto::identity::Identity;
use ctp96::crypto::receipt::{Receipt, Statement};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn ctp96(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ctp96"))
        .args(args)
        .env_remove("CTP96_SOCKET")
        .output()
        .expect("the command runs")
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

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = std::env::temp_dir().join(format!("ctp96-cli-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("temporary directory");
        Dir(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn help_teaches() {
    let o = ctp96(&["--help"]);
    assert_eq!(code(&o), 0);
    for want in [
        "Examples:",
        "Exit status: 0 done, 1 failed, 2 bad usage, 3",
        "CTP96_SOCKET",
    ] {
        assert!(out(&o).contains(want), "{want}: {}", out(&o));
    }
    for sub in [
        "send", "counters", "status", "peers", "lanes", "hist", "record", "top", "jobs", "cancel",
        "stop", "doctor", "queues",
    ] {
        let o = ctp96(&[sub, "--help"]);
        assert_eq!(code(&o), 0, "{sub}");
        assert!(out(&o).contains("Usage: ctp96"), "{sub}");
    }
    assert!(out(&ctp96(&["send", "--help"])).contains("ctp96 send backup.tar archive"));
}

#[test]
fn mistakes_exit_with_2() {
    for args in [
        &["frobnicate"][..],
        &["send"],
        &["send", "archive"],
        &["send", "--source", "zero", "archive"],
        &["send", "--source", "zero:1QiB", "archive"],
        &["send", "--lanes", "0", "/etc/passwd", "archive"],
        &["send", "--compress", "rar", "/etc/passwd", "archive"],
        &[
            "send",
            "--sink",
            "discard",
            "--source",
            "zero:1",
            "archive:dir",
        ],
        &["cancel", "first"],
        &["hist", "--lane", "128"],
        &["hist", "--csv", "--plot"],
        &["hist", "--lane", "1", "--log", "x"],
        &["--json", "hist", "--html"],
        &["record"],
        &["record", "--to", "x", "--every", "1ms"],
        &["record", "--to", "x", "--for", "soon"],
        &["top", "--sort", "colour"],
        &["--json", "top", "--once"],
        &["queues"],
        &["queues", "apply"],
        &["queues", "plan", "lo", "--port", "0"],
        &["queues", "plan", "lo", "--set", "rx-gro"],
        &["queues", "plan", "lo", "--cpus", "3-1"],
    ] {
        let o = ctp96(args);
        assert_eq!(code(&o), 2, "{args:?}: {}", err(&o));
        assert!(!err(&o).is_empty(), "{args:?}");
    }
    let o = ctp96(&["stauts"]);
    assert!(err(&o).contains("status"), "{}", err(&o));
}

#[test]
fn without_a_daemon_it_exits_with_3_and_says_how_to_start_one() {
    let dir = Dir::new("nobody");
    let socket = dir.path("none.sock");
    for args in [
        &["status"][..],
        &["peers"],
        &["lanes"],
        &["hist"],
        &["hist", "--lane", "0", "--csv"],
        &["record", "--to", "/nonexistent/log", "--for", "1s"],
        &["top", "--once"],
        &["counters", "--check"],
        &["jobs"],
        &["cancel", "1"],
        &["stop"],
        &["send", "--source", "zero:1", "--sink", "discard", "b"],
    ] {
        let o = ctp96(&[&["--socket", &socket][..], args].concat());
        assert_eq!(code(&o), 3, "{args:?}: {}", err(&o));
        assert!(
            err(&o).contains("is ctp96d running?"),
            "{args:?}: {}",
            err(&o)
        );
        assert!(err(&o).contains(&socket), "{args:?}: {}", err(&o));
    }
    let o = ctp96(&["--json", "--socket", &socket, "status"]);
    assert_eq!(code(&o), 3);
    let value: serde_json::Value = serde_json::from_slice(&o.stdout).expect("JSON for programs");
    assert_eq!(value["ok"], false);
    let o = Command::new(env!("CARGO_BIN_EXE_ctp96"))
        .arg("status")
        .env("CTP96_SOCKET", dir.path("other.sock"))
        .output()
        .expect("the command runs");
    assert!(err(&o).contains("other.sock"), "{}", err(&o));
    let gone = ctp96(&["--socket", &socket, "send", "/nonexistent/file", "b"]);
    assert_eq!(
        code(&gone),
        1,
        "a missing file is found before the daemon is asked"
    );
}

#[test]
fn keys_are_made_once_and_shown() {
    let dir = Dir::new("keys");
    let file = dir.path("id.key");
    let made = ctp96(&["keys", "gen", &file]);
    assert_eq!((code(&made), out(&made).trim().len()), (0, 44));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&file)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(out(&ctp96(&["keys", "pub", &file])), out(&made));
    let shown = out(&ctp96(&["keys", "show", &file]));
    assert!(shown.contains(out(&made).trim()) && shown.contains("receipt key"));
    let secret = std::fs::read_to_string(&file).expect("readable");
    assert!(!shown.contains(secret.trim()));
    let again = ctp96(&["keys", "gen", &file]);
    assert_eq!(code(&again), 1);
    assert!(err(&again).contains("--force"), "{}", err(&again));
    assert_eq!(code(&ctp96(&["keys", "gen", "--force", &file])), 0);
    assert_ne!(out(&ctp96(&["keys", "pub", &file])), out(&made));
    let json: serde_json::Value =
        serde_json::from_slice(&ctp96(&["--json", "keys", "show", &file]).stdout).expect("JSON");
    assert_eq!(json["public_key"].as_str().map(str::len), Some(44));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("set");
    let open = ctp96(&["keys", "pub", &file]);
    assert_eq!(code(&open), 1);
    assert!(err(&open).contains("chmod 600"), "{}", err(&open));
}

fn issue(dir: &Dir, content: &[u8]) -> (String, Identity) {
    let receiver = Identity::generate().expect("randomness");
    let receipt = Receipt::issue(
        &receiver,
        Statement {
            sender: Identity::generate().expect("randomness").public(),
            object: "a file".into(),
            size: content.len() as u64,
            blake3: *blake3::hash(content).as_bytes(),
            completed_unix_s: 1_790_000_000,
        },
    )
    .expect("a short name");
    let path = dir.path("receipt");
    std::fs::write(&path, receipt.to_json().expect("JSON")).expect("written");
    (path, receiver)
}

#[test]
fn receipts_are_verified() {
    let dir = Dir::new("receipt");
    let (receipt, receiver) = issue(&dir, b"content");
    let verify = |more: &[&str]| ctp96(&[&["receipt", "verify", &receipt][..], more].concat());
    let o = verify(&[]);
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert!(out(&o).contains("valid: \"a file\", 7B"), "{}", out(&o));

    let file = dir.path("file");
    std::fs::write(&file, "content").expect("written");
    assert_eq!(code(&verify(&["--file", &file])), 0);
    std::fs::write(&file, "c0ntent").expect("written");
    let o = verify(&["--file", &file]);
    assert_eq!(code(&o), 1);
    assert!(err(&o).contains("BLAKE3"), "{}", err(&o));
    std::fs::write(&file, "longer content").expect("written");
    assert!(err(&verify(&["--file", &file])).contains("14 bytes"));

    let id = Path::new(&dir.path("id.key")).to_owned();
    receiver.save(&id, false).expect("saved");
    let shown = out(&ctp96(&["keys", "show", &id.display().to_string()]));
    let key = shown
        .lines()
        .find_map(|l| l.strip_prefix("receipt key  "))
        .expect("a line");
    assert_eq!(code(&verify(&["--key", key])), 0);
    let other = Identity::generate()
        .expect("randomness")
        .public()
        .to_string();
    assert_eq!(code(&verify(&["--key", &other])), 1);
    assert_eq!(code(&verify(&["--key", "short"])), 2);

    let text = std::fs::read_to_string(&receipt).expect("readable");
    std::fs::write(&receipt, text.replace("a file", "b file")).expect("written");
    let o = verify(&[]);
    assert_eq!(code(&o), 1);
    assert!(err(&o).contains("signature"), "{}", err(&o));
}
