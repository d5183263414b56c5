//! The two sides of a baseline run, each a process of its own, so that `getrusage` tells their CPU
//! time apart.
//!
//! The bench starts itself again inside the lab's namespaces (`ctp96-bench peer`), writes a [`Job`]
//! as one JSON line to the child's standard input, and reads JSON lines from its output: the
//! receiver first says its port, then both say a [`SideReport`].

use crate::Result;
use crate::baseline::{quic, s2n, tcp, tls, udp};
use crate::contender::{Sample, Task};
use crate::schema::{Curve, Occupancy};
use crate::site::Site;
use crate::{ctp, rings};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a peer process is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Send or receive.
    pub role: Role,
    /// Payload of the run, bytes.
    pub bytes: u64,
    /// Bytes per write, and room per read.
    pub chunk: usize,
    /// CPU to run on.
    pub core: usize,
    /// TCP congestion control.
    pub congestion: String,
    /// What carries the bytes.
    pub stack: Stack,
    /// Move as much as possible in this time instead of `bytes`, seconds. The receiver's clock
    /// counts, from when the connection stands.
    #[serde(default)]
    pub seconds: Option<f64>,
}

impl Job {
    /// When this side is to stop; to be called when its meter starts.
    pub fn end(&self) -> End {
        let grace = match self.role {
            Role::Send { .. } => GRACE,
            Role::Receive { .. } => Duration::ZERO,
        };
        let over = |s: f64| Instant::now() + Duration::from_secs_f64(s);
        End {
            over: self.seconds.map(over),
            grace,
        }
    }
}

/// How long a sender goes on after its time, so that the receiver's last moments are like the
/// others.
const GRACE: Duration = Duration::from_secs(2);
/// A stall this long means that the other side is gone.
const STALL: Duration = Duration::from_secs(30);

/// The end of a run that is limited by time.
#[derive(Clone, Copy, Debug)]
pub struct End {
    over: Option<Instant>,
    grace: Duration,
}

impl End {
    /// Whether time limits the run at all.
    pub fn is_set(&self) -> bool {
        self.over.is_some()
    }

    /// Whether what goes wrong now is the run's end: for the receiver when its time is over. A sender
    /// cannot know the receiver's clock, but a receiver that leaves early says so itself.
    pub fn over(&self) -> bool {
        let since = |t| self.grace > Duration::ZERO || Instant::now() >= t;
        self.over.is_some_and(since)
    }

    /// Whether this side is to stop.
    pub fn passed(&self) -> bool {
        self.over.is_some_and(|t| Instant::now() >= t + self.grace)
    }

    /// How long one step may wait: until the end, or as long as a stall is not a failure.
    pub fn left(&self) -> Duration {
        match self.over {
            Some(t) => (t + self.grace).saturating_duration_since(Instant::now()),
            None => STALL,
        }
    }

    /// How long a blocking call on a socket may take before the end is looked at again.
    pub fn tick(&self) -> Duration {
        match self.over {
            Some(_) => Duration::from_millis(50),
            None => STALL,
        }
    }
}

/// What carries the bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Stack {
    /// Plain TCP.
    Tcp,
    /// TCP with messages at a held rate.
    PacedTcp(tcp::Paced),
    /// TLS 1.3 over TCP.
    Tls(tls::Credentials),
    /// CTP-96.
    Ctp(ctp::Setup),
    /// Frames over bare AF_XDP sockets.
    Bare(rings::Setup),
    /// QUIC by quinn.
    Quic(quic::Setup),
    /// QUIC by s2n-quic.
    S2n(s2n::Setup),
    /// Datagrams over a bare UDP socket with segmentation offloads.
    Udp(udp::Setup),
}

/// The side of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Connect and send.
    Send {
        /// The receiver.
        to: SocketAddr,
    },
    /// Accept and receive.
    Receive {
        /// Address to listen on; the port is the kernel's choice.
        bind: IpAddr,
    },
}

/// The receiver's first line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Where it listens.
    pub addr: SocketAddr,
}

/// What one side measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SideReport {
    /// Payload moved, bytes.
    pub bytes: u64,
    /// Time from first to last byte as this side saw it, seconds.
    pub wall_s: f64,
    /// CPU time of the process meanwhile, seconds; 0 where nobody asks for it.
    pub cpu_s: f64,
    /// What a node of CTP-96 saw, where it was asked.
    #[serde(default)]
    pub node: Option<NodeReport>,
}

/// Where a node's time went in one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// `send` or `receive`.
    pub side: String,
    /// Packet path in use.
    pub backend: String,
    /// Cipher suite and implementation in use.
    pub provider: String,
    /// Verification level.
    pub verify: String,
    /// Kernel of the erasure code.
    pub fec: String,
    /// Length of a symbol, bytes.
    pub symbol_len: usize,
    /// Payload moved, bytes.
    pub bytes: u64,
    /// Length of the run, seconds.
    pub wall_s: f64,
    /// CPU time of the process meanwhile, seconds.
    pub cpu_s: f64,
    /// Largest memory of the process, bytes.
    pub rss_max: u64,
    /// Stages: calls, and time in them, nanoseconds.
    pub stages: Vec<StageReport>,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Latency curves.
    pub curves: Vec<Curve>,
    /// Figures over the course of the run.
    pub series: BTreeMap<String, Vec<f64>>,
    /// Of the application's turns, the share at which the window had a slot for it at once: a free
    /// one to fill, or a complete one to take.
    #[serde(default)]
    pub at_once: Option<f64>,
    /// Slots in flight.
    pub occupancy: Option<Occupancy>,
}

/// One stage of one side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageReport {
    /// Name of its histogram.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Time in them, nanoseconds.
    pub total_ns: u64,
}

/// Measures one side: from `start` to `stop`.
pub struct Meter {
    started: Instant,
    cpu_s: f64,
}

impl Meter {
    /// Starts the clocks.
    pub fn start() -> Result<Self> {
        Ok(Self {
            cpu_s: process_cpu_seconds()?,
            started: Instant::now(),
        })
    }

    /// Stops them.
    pub fn stop(self, bytes: u64) -> Result<SideReport> {
        let wall_s = self.started.elapsed().as_secs_f64();
        Ok(SideReport {
            bytes,
            wall_s,
            cpu_s: process_cpu_seconds()? - self.cpu_s,
            node: None,
        })
    }
}

/// User and system time of this process so far, all threads. Packet work in softirq that runs on
/// top of a process is charged to that process unless the kernel has IRQ_TIME_ACCOUNTING.
fn process_cpu_seconds() -> Result<f64> {
    cpu_seconds(libc::RUSAGE_SELF)
}

/// User and system time of `RUSAGE_SELF` or `RUSAGE_CHILDREN`, seconds.
pub fn cpu_seconds(who: libc::c_int) -> Result<f64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a live rusage, which getrusage fills; all-zero is a valid value.
    let (rc, usage) = unsafe {
        (
            libc::getrusage(who, usage.as_mut_ptr()),
            usage.assume_init(),
        )
    };
    if rc != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

/// The child's side: does the job given on standard input.
pub fn serve() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line)?;
    pin(job.core)?;
    let report = match (&job.role, &job.stack) {
        (Role::Receive { bind }, Stack::Tcp) => tcp::receive(&job, *bind)?,
        (Role::Receive { bind }, Stack::Tls(tls)) => tls::receive(&job, *bind, tls)?,
        (Role::Receive { bind }, Stack::Ctp(setup)) => ctp::receive(&job, *bind, setup)?,
        (Role::Receive { bind }, Stack::Bare(setup)) => rings::receive(&job, *bind, setup)?,
        (Role::Receive { bind }, Stack::Quic(setup)) => quic::receive(&job, *bind, setup)?,
        (Role::Receive { bind }, Stack::S2n(setup)) => s2n::receive(&job, *bind, setup)?,
        (Role::Receive { bind }, Stack::Udp(setup)) => udp::receive(&job, *bind, setup)?,
        (Role::Send { to }, Stack::Udp(setup)) => udp::send(&job, *to, setup)?,
        (Role::Send { to }, Stack::S2n(setup)) => s2n::send(&job, *to, setup)?,
        (Role::Send { to }, Stack::Quic(setup)) => quic::send(&job, *to, setup)?,
        (Role::Send { to }, Stack::Bare(setup)) => rings::send(&job, *to, setup)?,
        (Role::Receive { bind }, Stack::PacedTcp(p)) => tcp::receive_paced(&job, *bind, p)?,
        (Role::Send { to }, Stack::PacedTcp(p)) => tcp::send_paced(&job, *to, p)?,
        (Role::Send { to }, Stack::Tcp) => tcp::send(&job, *to)?,
        (Role::Send { to }, Stack::Tls(tls)) => tls::send(&job, *to, tls)?,
        (Role::Send { to }, Stack::Ctp(setup)) => ctp::send(&job, *to, setup)?,
    };
    say(&report)
}

/// Writes one JSON line to standard output.
pub fn say(value: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Prints where a node's time went to standard error.
pub fn stages(side: &str, node: &ctp96::api::Node) {
    let hists = node.registry().hists();
    let rows = ctp96::obs::Hist::ALL.iter().zip(&hists);
    let rows = rows.map(|(h, d)| (h.name(), ctp96::obs::Summary::of(d)));
    eprintln!("{side}\n{}", ctp96::obs::text::hist_table(rows));
    let counters = node.registry().counters();
    eprintln!("{}", ctp96::obs::text::counter_table(&counters, false));
    eprintln!("{:#?}", node.snapshot().lanes);
}

/// Pins the calling thread to one CPU.
pub fn pin(core: usize) -> Result<()> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        Ok(())
    } else {
        Err(format!("cannot pin to CPU {core}").into())
    }
}

/// Runs sender and receiver at the two ends of `site` and puts their reports together.
pub fn run_pair(site: &Site, task: &Task, congestion: &str, stack: Stack) -> Result<Sample> {
    run_observed(site, task, congestion, stack).map(|(sample, _)| sample)
}

/// As [`run_pair`], with the reports of sender and receiver.
pub fn run_observed(
    site: &Site,
    task: &Task,
    congestion: &str,
    stack: Stack,
) -> Result<(Sample, [SideReport; 2])> {
    let [sent, received] = run_sides(site, task, congestion, stack)?;
    if sent.bytes != task.bytes || received.bytes != task.bytes {
        return Err(format!(
            "{} bytes asked, {} sent, {} received",
            task.bytes, sent.bytes, received.bytes
        )
        .into());
    }
    let sample = Sample {
        bytes: received.bytes,
        wall_s: sent.wall_s,
        send_cpu_s: sent.cpu_s,
        recv_cpu_s: received.cpu_s,
    };
    Ok((sample, [sent, received]))
}

/// As [`run_observed`], for stacks that may lose some of what they send.
pub fn run_sides(
    site: &Site,
    task: &Task,
    congestion: &str,
    stack: Stack,
) -> Result<[SideReport; 2]> {
    let other = match &stack {
        Stack::Ctp(setup) => Stack::Ctp(setup.swapped()),
        same => same.clone(),
    };
    let job = |role, core, stack| Job {
        role,
        bytes: task.bytes,
        chunk: task.chunk,
        core,
        congestion: congestion.to_owned(),
        stack,
        seconds: None,
    };
    let bind = site.bind();
    let receive = job(Role::Receive { bind }, task.receiver_core, stack);
    let mut receiver = site.receiver(&receive)?;
    let ready: Ready = receiver.hear()?;
    let send = job(Role::Send { to: ready.addr }, task.sender_core, other);
    let mut sender = site.sender(&send)?;
    // A sender that failed ends here; dropping the receiver then ends it too.
    Ok([sender.hear()?, receiver.hear()?])
}

/// Runs sender and receiver for `seconds` at the two ends of `site`, as fast as they can; gives their
/// reports. `stopped` is called when the receiver's time is over.
pub fn run_timed(
    site: &Site,
    cores: [usize; 2],
    seconds: f64,
    congestion: &str,
    stack: Stack,
    stopped: impl FnOnce(),
) -> Result<[SideReport; 2]> {
    let other = match &stack {
        Stack::Ctp(setup) => Stack::Ctp(setup.swapped()),
        same => same.clone(),
    };
    let job = |role, core, stack| Job {
        role,
        bytes: u64::MAX,
        chunk: 256 << 10,
        core,
        congestion: congestion.to_owned(),
        stack,
        seconds: Some(seconds),
    };
    let bind = site.bind();
    let mut receiver = site.receiver(&job(Role::Receive { bind }, cores[1], stack))?;
    let ready: Ready = receiver.hear()?;
    let mut sender = site.sender(&job(Role::Send { to: ready.addr }, cores[0], other))?;
    // A sender that fails early closes its output, and its receiver ends by itself or is killed.
    let received = receiver.hear();
    stopped();
    let sent = sender.hear()?;
    Ok([sent, received?])
}

/// A peer process; killed when dropped.
pub struct Peer {
    /// None for one on another host, which ends when its connection does.
    child: Option<Child>,
    output: Box<dyn BufRead>,
}

impl Peer {
    /// Starts one: this program as `command`, which may change its namespace.
    pub fn spawn(mut command: Command, job: &Job) -> Result<Self> {
        command
            .arg("peer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a peer process without pipes".into());
        };
        let peer = Self {
            child: Some(child),
            output: Box::new(BufReader::new(output)),
        };
        serde_json::to_writer(&mut input, job)?;
        input.write_all(b"\n")?;
        Ok(peer)
    }

    /// Has `serve` at the other end of `stream` start one.
    pub fn over(mut stream: TcpStream, job: &Job) -> Result<Self> {
        let line = serde_json::to_string(job)? + "\n";
        stream.write_all(line.as_bytes())?;
        Ok(Self {
            child: None,
            output: Box::new(BufReader::new(stream)),
        })
    }

    /// Its next line.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let how = match &mut self.child {
                Some(child) => child.wait()?.to_string(),
                None => "the other host closed the connection".to_owned(),
            };
            return Err(format!("a peer process ended early: {how}").into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Harmless if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
