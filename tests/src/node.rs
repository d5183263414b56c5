//! Daemons under test: `ctp96d` and `ctp96` as a user runs them, one daemon a host of a
//! [`Lab`](crate::lab::Lab).
//!
//! The programs are taken from `CTP96_BIN_DIR`, or from the folder that Cargo built them into
//! beside the running test.

use crate::lab::Host;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a daemon may take to answer after its start. Not a speed requirement: a daemon that
/// never answers must not hang the test.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Path of one of our programs.
///
/// # Panics
/// It is not there; the message says how to build it.
pub fn program(name: &str) -> PathBuf {
    let dir = match std::env::var_os("CTP96_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            // target/<profile>/deps/<test>
            let test = std::env::current_exe().expect("a running test has a path");
            let profile = test.parent().and_then(Path::parent);
            profile
                .expect("Cargo puts tests two folders deep")
                .to_owned()
        }
    };
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace`, or set CTP96_BIN_DIR",
        path.display()
    );
    path
}

/// A folder that is removed when the value goes.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one below the system's folder for such files.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("ctp96-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        TempDir(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One end of a pair of daemons.
pub struct Node<'a> {
    host: &'a Host,
    dir: PathBuf,
    child: Option<Child>,
}

impl<'a> Node<'a> {
    /// Makes the folder and the identity of a node; starts nothing yet.
    ///
    /// # Panics
    /// A program is missing or fails.
    pub fn new(host: &'a Host, dir: &Path) -> Node<'a> {
        std::fs::create_dir_all(dir.join("in")).expect("the node's folder");
        let node = Node {
            host,
            dir: dir.to_owned(),
            child: None,
        };
        let identity = node.dir.join("identity.key");
        node.ctp96([OsStr::new("keys"), OsStr::new("gen"), identity.as_os_str()]);
        node
    }

    /// Folder that the peer may write to.
    pub fn inbox(&self) -> PathBuf {
        self.dir.join("in")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Public key, as the peer's configuration wants it.
    pub fn public_key(&self) -> String {
        let identity = self.dir.join("identity.key");
        let out = self.ctp96([OsStr::new("keys"), OsStr::new("pub"), identity.as_os_str()]);
        out.trim().to_owned()
    }

    /// Writes the configuration: this node knows `peer`, may call it, and lets it write to the
    /// inbox. `extra` is more TOML for the sections before the peers.
    pub fn configure(&self, peer: &Node, cpu: usize, extra: &str) {
        self.configure_family(peer, &[cpu], false, extra);
    }

    /// As [`Node::configure`], with several lane cores, and over IPv6 if `v6`.
    pub fn configure_family(&self, peer: &Node, cpus: &[usize], v6: bool, extra: &str) {
        let d = self.dir.display();
        let addr = |host: &Host| -> IpAddr {
            if v6 {
                host.v6().into()
            } else {
                host.v4().into()
            }
        };
        let text = format!(
            "[node]\nidentity = \"{d}/identity.key\"\nlisten = \"{}\"\ncores = {cpus:?}\n\
             state_dir = \"{d}/state\"\ncontrol_socket = \"{d}/control.sock\"\n{extra}\n\
             [[peer]]\nname = \"peer\"\nkey = \"{}\"\nendpoint = \"{}\"\n\
             [[peer.recv]]\npath = \"{d}/in\"\n",
            addr(self.host),
            peer.public_key(),
            SocketAddr::new(addr(peer.host), 9696),
        );
        std::fs::write(self.dir.join("ctp96d.toml"), text).expect("the configuration");
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Panics
    /// It ends, or never answers; the message has its log.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("the log");
        let mut command = self.host.command(program("ctp96d"));
        command.arg("--config").arg(self.dir.join("ctp96d.toml"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("ctp96d starts"));
        let started = Instant::now();
        while !self
            .ask(r#"{"op":"status"}"#)
            .is_some_and(|r| r["ok"] == true)
        {
            let status = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().expect("our child"));
            assert!(status.is_none(), "ctp96d ended: {status:?}\n{}", self.log());
            assert!(
                started.elapsed() < START_LIMIT,
                "ctp96d does not answer\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the daemon as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// One request to the daemon; `None` when it cannot be reached.
    pub fn ask(&self, request: &str) -> Option<serde_json::Value> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(START_LIMIT)).ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// A counter of the daemon.
    ///
    /// # Panics
    /// The daemon does not answer, or has no counter of that name.
    pub fn counter(&self, name: &str) -> u64 {
        let reply = self.ask(r#"{"op":"counters","check":false}"#);
        let value = reply.as_ref().and_then(|r| {
            let rows = r["counters"].as_array()?;
            rows.iter().find(|c| c["name"] == name)?["value"].as_u64()
        });
        value.unwrap_or_else(|| panic!("no counter {name} in {reply:?}"))
    }

    /// The latest job in one direction, as `ctp96 --json jobs` has it.
    pub fn job(&self, sending: bool) -> Option<serde_json::Value> {
        let reply = self.ask(r#"{"op":"jobs"}"#)?;
        let jobs = reply["jobs"].as_array()?;
        jobs.iter().rfind(|j| j["sending"] == sending).cloned()
    }

    /// A `ctp96` command for this node's daemon.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program("ctp96"));
        command
            .arg("--socket")
            .arg(self.socket())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs `ctp96` and returns its standard output.
    ///
    /// # Panics
    /// It fails; the message has what it said, and the daemon's log.
    pub fn ctp96<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let out = self.command(args).output().expect("ctp96 starts");
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        assert!(
            out.status.success(),
            "ctp96 failed ({}):\n{}{}\nlog:\n{}",
            out.status,
            text(&out.stdout),
            text(&out.stderr),
            self.log()
        );
        text(&out.stdout)
    }

    /// Starts `ctp96 --json send` with `args`; [`Sending::finish`] waits for it.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn send<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Sending {
        let mut command = self.command(["--json", "send"]);
        command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Sending(command.spawn().expect("ctp96 starts"))
    }

    fn proc_file(&self, name: &str) -> String {
        let pid = self.child.as_ref().expect("the daemon runs").id();
        std::fs::read_to_string(format!("/proc/{pid}/{name}")).expect("the daemon runs")
    }

    /// Resident memory of the daemon, bytes.
    pub fn resident(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        let kib = line.trim().trim_end_matches("kB").trim();
        kib.parse::<u64>().expect("a number") * 1024
    }

    /// Processor time that the daemon has used, all threads.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc_file("stat");
        // The second field is the name in parentheses, which may hold anything.
        let rest = stat.rsplit_once(')').expect("a name in parentheses").1;
        let field = |n: usize| {
            rest.split_whitespace()
                .nth(n)
                .and_then(|f| f.parse::<u64>().ok())
        };
        let ticks = field(11).expect("utime") + field(12).expect("stime");
        // SAFETY: sysconf takes a number and touches no memory of ours.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
        Duration::from_millis(ticks * 1000 / per_second)
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.dir.display(), self.log());
        }
        self.kill();
    }
}

/// A running `ctp96 --json send`.
pub struct Sending(Child);

impl Sending {
    /// Waits for its end and returns the last line that it printed.
    ///
    /// # Panics
    /// It failed; the message has what it said.
    pub fn finish(self) -> serde_json::Value {
        let out = self.0.wait_with_output().expect("our child");
        let stdout = String::from_utf8_lossy(&out.stdout);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(
            out.status.success(),
            "ctp96 send failed ({}):\n{stdout}{stderr}",
            out.status
        );
        let last = stdout.lines().last().expect("a result");
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {last}"))
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|s| s.is_none())
    }
}
