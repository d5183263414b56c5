//! Where a run takes place: over a veth pair between two namespaces, over loopback, or from this
//! host to another on which `ctp96-bench serve` runs.

use crate::Result;
use crate::peer::{Job, Peer, Role};
use ::tests::lab::{Lab, LabConfig, Offloads};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Port on which `serve` listens for the control connection.
pub const CONTROL_PORT: u16 = 9695;
/// A job is one line; a longer one is no job.
const JOB_MAX: u64 = 64 << 10;

/// A place with two ends.
pub enum Site {
    /// Two namespaces of this host, joined by a veth pair; removed with the value.
    Veth(Lab),
    /// This host's loopback interface.
    Loopback {
        /// MTU that the frames are cut for, bytes.
        mtu: u32,
    },
    /// This host sends, another receives.
    Remote {
        /// Control address of the other host's `serve`.
        control: SocketAddr,
        /// MTU of the path, bytes.
        mtu: u32,
    },
}

impl Site {
    /// A veth pair with super-packets whole, or with every frame crossing alone.
    ///
    /// # Errors
    /// The namespaces cannot be made.
    pub fn veth(mtu: u32, per_frame: bool) -> Result<Site> {
        let offloads = match per_frame {
            true => Offloads::PerFrame,
            false => Offloads::Whole,
        };
        Ok(Site::Veth(Lab::new(&LabConfig { mtu, offloads })?))
    }

    /// Two namespaces with a path between them that [`Site::emulator`] sets. TCP gets buffers for any
    /// path that fits, and remembers nothing from one connection to the next.
    ///
    /// # Errors
    /// The namespaces or the emulator cannot be made.
    pub fn path(options: &::tests::impair::Options) -> Result<Site> {
        let lab = Lab::with_emulator(options)?;
        fair_tcp(&lab)?;
        Ok(Site::Veth(lab))
    }

    /// What emulates the path, if anything does.
    pub fn emulator(&self) -> Option<&::tests::impair::Emulator> {
        match self {
            Site::Veth(lab) => lab.emulator(),
            _ => None,
        }
    }

    /// The host named on the command line, `HOST` or `HOST:PORT`.
    ///
    /// # Errors
    /// The name does not resolve.
    pub fn remote(to: &str, mtu: u32) -> Result<Site> {
        let with_port = match to.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, CONTROL_PORT).to_string(),
            Err(_) if to.contains(':') => to.to_owned(),
            Err(_) => format!("{to}:{CONTROL_PORT}"),
        };
        let mut found = with_port
            .to_socket_addrs()
            .map_err(|e| format!("{with_port}: {e}"))?;
        let control = found
            .next()
            .ok_or_else(|| format!("{with_port} has no address"))?;
        Ok(Site::Remote { control, mtu })
    }

    /// MTU, bytes.
    pub fn mtu(&self) -> u32 {
        match self {
            Site::Veth(lab) => lab.mtu(),
            Site::Loopback { mtu } | Site::Remote { mtu, .. } => *mtu,
        }
    }

    /// Name in tables.
    pub fn name(&self) -> &'static str {
        match self {
            Site::Veth(lab) if lab.emulator().is_some() => "path",
            Site::Veth(_) => "veth",
            Site::Loopback { .. } => "loopback",
            Site::Remote { .. } => "remote",
        }
    }

    /// Address that the receiver listens on.
    pub fn bind(&self) -> IpAddr {
        match self {
            Site::Veth(lab) => lab.right.v4().into(),
            Site::Loopback { .. } => Ipv4Addr::LOCALHOST.into(),
            Site::Remote { control, .. } => control.ip(),
        }
    }

    /// Starts the sending end.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn sender(&self, job: &Job) -> Result<Peer> {
        let exe = std::env::current_exe()?;
        match self {
            Site::Veth(lab) => Peer::spawn(lab.left.command(exe), job),
            _ => Peer::spawn(Command::new(exe), job),
        }
    }

    /// Starts the receiving end.
    ///
    /// # Errors
    /// The process cannot be started, or the other host does not answer.
    pub fn receiver(&self, job: &Job) -> Result<Peer> {
        let exe = std::env::current_exe()?;
        match self {
            Site::Veth(lab) => Peer::spawn(lab.right.command(exe), job),
            Site::Loopback { .. } => Peer::spawn(Command::new(exe), job),
            Site::Remote { control, .. } => {
                let stream = TcpStream::connect_timeout(control, Duration::from_secs(10))
                    .map_err(|e| format!("ctp96-bench serve at {control}: {e}"))?;
                Peer::over(stream, job)
            }
        }
    }
}

/// Largest buffer of a TCP socket on emulated paths, bytes: several times any product of rate and
/// round trip that is measured.
pub const TCP_BUFFER: u32 = 64 << 20;

/// Lets TCP's auto-tuning grow to [`TCP_BUFFER`] in both namespaces, and keeps it from starting a
/// connection with what the one before, of another congestion control, has left in the cache.
///
/// # Errors
/// The kernel refuses.
pub fn fair_tcp(lab: &Lab) -> Result<()> {
    for host in lab.hosts() {
        host.set_sysctl("ipv4/tcp_rmem", &format!("4096 131072 {TCP_BUFFER}"))?;
        host.set_sysctl("ipv4/tcp_wmem", &format!("4096 65536 {TCP_BUFFER}"))?;
        host.set_sysctl("ipv4/tcp_no_metrics_save", "1")?;
    }
    Ok(())
}

/// Runs the receiving end of whoever connects, one at a time, until the process is ended.
///
/// # Errors
/// The address cannot be listened on.
pub fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).map_err(|e| format!("{listen}: {e}"))?;
    eprintln!("waiting for ctp96-bench --to on {}", listener.local_addr()?);
    loop {
        let (stream, from) = listener.accept()?;
        match serve_one(stream) {
            Ok(()) => eprintln!("{from}: done"),
            Err(e) => eprintln!("{from}: {e}"),
        }
    }
}

fn serve_one(stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new((&stream).take(JOB_MAX)).read_line(&mut line)?;
    let job = receive_job(&line)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("peer")
        .stdin(Stdio::piped())
        .stdout(std::os::fd::OwnedFd::from(stream.try_clone()?))
        .spawn()?;
    let mut wrote = Ok(());
    if let Some(mut input) = child.stdin.take() {
        wrote = serde_json::to_writer(&mut input, &job)
            .map_err(Into::into)
            .and_then(|()| input.write_all(b"\n"));
    }
    // The other side keeps the connection open for as long as it wants the run.
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    loop {
        if child.try_wait()?.is_some() {
            return Ok(wrote?);
        }
        match (&stream).read(&mut [0; 64]) {
            Ok(0) => {
                // The last words may be on their way out: give it a moment to end by itself.
                std::thread::sleep(Duration::from_millis(500));
                let _ = child.kill();
                child.wait()?;
                return Ok(());
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {}
            Err(e) => {
                let _ = child.kill();
                child.wait()?;
                return Err(e.into());
            }
        }
    }
}

/// A job from the network: only receiving is done for others.
fn receive_job(line: &str) -> Result<Job> {
    let job: Job = serde_json::from_str(line).map_err(|e| format!("no job: {e}"))?;
    match job.role {
        Role::Receive { .. } => Ok(job),
        Role::Send { .. } => Err("asked to send, which is not done for others".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Stack;

    #[test]
    fn a_remote_site_takes_names_addresses_and_ports() {
        let control = |to: &str| match Site::remote(to, 1500) {
            Ok(Site::Remote { control, .. }) => Some(control.to_string()),
            _ => None,
        };
        assert_eq!(control("127.0.0.1").as_deref(), Some("127.0.0.1:9695"));
        assert_eq!(control("::1").as_deref(), Some("[::1]:9695"));
        assert_eq!(control("127.0.0.1:7").as_deref(), Some("127.0.0.1:7"));
        assert_eq!(control("127.0.0.1:99999"), None);
    }

    #[test]
    fn nobody_is_made_to_send() {
        let job = |role| Job {
            role,
            bytes: 1,
            chunk: 1,
            core: 0,
            congestion: String::new(),
            stack: Stack::Tcp,
            seconds: None,
        };
        let bind = Ipv4Addr::LOCALHOST.into();
        let receive = serde_json::to_string(&job(Role::Receive { bind })).unwrap();
        assert!(receive_job(&receive).is_ok());
        let to = "192.0.2.1:80".parse().unwrap();
        let send = serde_json::to_string(&job(Role::Send { to })).unwrap();
        assert!(receive_job(&send).is_err());
        assert!(receive_job("{}").is_err());
    }
}
