//! Payload rate and CPU cost of the UDP backends: one sending core, one receiving core.
//!
//! `cargo run --release -p ctp96 --example udp_speed -- [loopback|veth]... [mmsg|uring|uring-zc]...`
//!
//! Loopback needs nothing. `veth` needs root and `ip`: each side unshares a network namespace and a
//! veth pair joins them, so nothing outside is touched and all of it goes with the process. The
//! sender keeps at most a window in flight that the receiver's queue holds, so loss is zero unless
//! printed. Figures are the median of five runs, each a fresh pair of sockets.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use ctp96::backend::udp::{self, Choice, UdpConfig};
use ctp96::backend::{Backend, Burst};

type Error = Box<dyn std::error::Error + Send + Sync>;

const RUNS: usize = 5;

struct Shared {
    seen: AtomicU64,
    done: AtomicBool,
    barrier: Barrier,
}

#[derive(Default, Clone, Copy)]
struct Side {
    bytes: u64,
    frames: u64,
    calls: u64,
    kernel_drops: u64,
    seconds: f64,
    cpu: f64,
}

fn cpu_seconds() -> f64 {
    // SAFETY: all-zero bytes are a valid rusage.
    let mut u: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `u` is a live rusage.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut u) };
    let t = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    t(u.ru_utime) + t(u.ru_stime)
}

fn pin(core: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        eprintln!("cannot pin to core {core}");
    }
}

fn config(ip: IpAddr) -> UdpConfig {
    let mut c = UdpConfig::new((ip, 0).into());
    let env = |name| std::env::var(name).ok().and_then(|v| v.parse().ok());
    c.rx_buffers = env("RX_BUFFERS").unwrap_or(c.rx_buffers);
    c.tx_buffers = env("TX_BUFFERS").unwrap_or(c.tx_buffers);
    c
}

fn receive(
    ip: IpAddr,
    choice: Choice,
    shared: &Shared,
    addr: &Sender<(SocketAddr, usize)>,
) -> Result<Side, Error> {
    let (mut b, _) = udp::open(&config(ip), choice)?;
    addr.send((b.local_addr(), b.rx_capacity_bytes()))?;
    let mut out: Vec<Burst> = Vec::with_capacity(32);
    let (mut side, mut sum) = (Side::default(), 0u64);
    shared.barrier.wait();
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut last = start;
    loop {
        let n = b.recv(&mut out)?;
        side.calls += 1;
        if n == 0 {
            if shared.done.load(Ordering::Acquire) && last.elapsed() > Duration::from_millis(20) {
                break;
            }
            b.wait(Some(Duration::from_millis(5)))?;
            continue;
        }
        for mut burst in out.drain(..) {
            let mut newest = 0;
            for s in burst.segments_mut() {
                side.bytes += s.len() as u64;
                side.frames += 1;
                newest = s[..8].try_into().map_or(0, u64::from_le_bytes);
                sum = sum.wrapping_add(newest);
            }
            shared.seen.fetch_max(newest + 1, Ordering::Release);
            b.release(burst);
        }
        last = Instant::now();
    }
    std::hint::black_box(sum);
    side.kernel_drops = b.stats().rx_kernel_drops;
    side.seconds = (last - start).as_secs_f64();
    side.cpu = cpu_seconds() - cpu;
    Ok(side)
}

fn send(
    ip: IpAddr,
    choice: Choice,
    shared: &Shared,
    addr: &Receiver<(SocketAddr, usize)>,
    (len, total): (usize, u64),
) -> Result<Side, Error> {
    let (mut b, _) = udp::open(&config(ip), choice)?;
    let (to, capacity) = addr.recv()?;
    let window = (capacity.min(2 << 20) / len) as u64;
    let frames = total / len as u64;
    let (mut side, mut next) = (Side::default(), 0u64);
    shared.barrier.wait();
    let cpu = cpu_seconds();
    let mut progress = (Instant::now(), 0);
    while next < frames {
        let seen = shared.seen.load(Ordering::Acquire);
        let mut batch = 0;
        while next < frames && next - seen.min(next) < window && batch < 16 * (65_000 / len) {
            let Some(mut f) = b.claim(&to, len) else {
                break;
            };
            f[..8].copy_from_slice(&next.to_le_bytes());
            b.commit(f);
            next += 1;
            batch += 1;
        }
        let r = b.flush()?;
        side.calls += 1;
        side.frames += r.sent_frames;
        if batch > 0 {
            progress = (Instant::now(), seen);
        } else if progress.0.elapsed() > Duration::from_millis(200) {
            // The end of the window was lost: go on as if it had arrived.
            shared.seen.fetch_max(next, Ordering::Release);
        } else {
            // Asleep, so that waiting for the receiver is not counted as the cost of sending.
            b.wait(Some(Duration::from_micros(20)))?;
        }
    }
    side.cpu = cpu_seconds() - cpu;
    side.bytes = side.frames * len as u64;
    shared.done.store(true, Ordering::Release);
    Ok(side)
}

fn ip(args: &str) -> Result<(), Error> {
    let status = Command::new("ip").args(args.split_whitespace()).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`ip {args}` failed").into())
    }
}

fn unshare() -> Result<(), Error> {
    // SAFETY: no pointers; only the calling thread changes its network namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

/// One measured transfer. `mtu` of 0 means loopback.
fn transfer(mtu: usize, choice: Choice, len: usize, total: u64) -> Result<(Side, Side), Error> {
    let shared = Shared {
        seen: AtomicU64::new(0),
        done: AtomicBool::new(false),
        barrier: Barrier::new(2),
    };
    let (addr_tx, addr_rx) = channel();
    let (tid_tx, tid_rx) = channel::<i32>();
    let (up_tx, up_rx) = channel::<()>();
    std::thread::scope(|s| {
        let shared = &shared;
        let receiver = s.spawn(move || -> Result<Side, Error> {
            pin(1);
            let mut at: IpAddr = [127, 0, 0, 1].into();
            if mtu > 0 {
                unshare()?;
                // SAFETY: no arguments, cannot fail.
                tid_tx.send(unsafe { libc::gettid() })?;
                up_rx.recv()?;
                ip("addr add 10.96.0.2/24 dev ctpb")?;
                ip(&format!("link set ctpb mtu {mtu} up"))?;
                at = [10, 96, 0, 2].into();
            }
            receive(at, choice, shared, &addr_tx)
        });
        let sender = s.spawn(move || -> Result<Side, Error> {
            pin(0);
            let mut at: IpAddr = [127, 0, 0, 1].into();
            if mtu > 0 {
                unshare()?;
                let tid = tid_rx.recv()?;
                ip(&format!(
                    "link add ctpa type veth peer name ctpb netns {tid}"
                ))?;
                ip("addr add 10.96.0.1/24 dev ctpa")?;
                ip(&format!("link set ctpa mtu {mtu} up"))?;
                up_tx.send(())?;
                at = [10, 96, 0, 1].into();
            }
            send(at, choice, shared, &addr_rx, (len, total))
        });
        let join = |h: std::thread::ScopedJoinHandle<'_, Result<Side, Error>>| {
            h.join().unwrap_or_else(|_| Err("a side panicked".into()))
        };
        Ok((join(sender)?, join(receiver)?))
    })
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let wants = |words: &[&str], w: &str| {
        args.iter().any(|a| a == w) || !args.iter().any(|a| words.contains(&a.as_str()))
    };
    let (paths, kinds) = (["loopback", "veth"], ["mmsg", "uring", "uring-zc"]);
    println!(
        "path           datagram backend  GB/s   CPU s/GB (send + receive)  lost  frames/call"
    );
    for (path, mtu, len) in [
        ("loopback", 0, 1448),
        ("loopback", 0, 8936),
        ("veth", 1500, 1448),
        ("veth", 9000, 8936),
    ] {
        if !wants(&paths, path) {
            continue;
        }
        // Taken in turn, so that a change of the machine's mood hits both.
        let mut results = kinds.map(|_| Vec::new());
        for _ in 0..RUNS {
            for (kind, results) in kinds.iter().zip(&mut results) {
                if wants(&kinds, kind) {
                    results.push(transfer(mtu, kind.parse()?, len, 2 << 30)?);
                }
            }
        }
        for (kind, results) in kinds.iter().zip(&results) {
            if results.is_empty() {
                continue;
            }
            let of = |f: &dyn Fn(&(Side, Side)) -> f64| median(results.iter().map(f).collect());
            println!(
                "{path:8} {mtu:5} {len:9} {kind:8} {:5.2}   {:.3} ({:.3} + {:.3})  {:11.4} %  {:.0}",
                of(&|(_, r)| r.bytes as f64 / r.seconds / 1e9),
                of(&|(s, r)| (s.cpu + r.cpu) / r.bytes as f64 * 1e9),
                of(&|(s, r)| s.cpu / r.bytes as f64 * 1e9),
                of(&|(_, r)| r.cpu / r.bytes as f64 * 1e9),
                of(&|(s, r)| (s.frames - r.frames.min(s.frames)) as f64 * 100.0 / s.frames as f64),
                of(&|(_, r)| r.frames as f64 / r.calls as f64),
            );
        }
    }
    Ok(())
}
