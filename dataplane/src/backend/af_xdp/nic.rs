//! What the sockets of all cores share: the interface with our XDP program on it, and a thread that
//! follows routes, neighbours and the sockets' drop counters, so that the cores need no system call for
//! them.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use xdp_prog::{Program, Verdicts};

use super::netlink::{CHANGES, Link, Netlink};
use super::paths::{Hop, Hops, MAX_PATHS};
use super::socket::{XskDrops, drops};
use crate::ring::Wakeup;

/// How often a next hop without a MAC address is looked for again.
const RETRY: Duration = Duration::from_secs(1);
/// How often the kernel is asked to make sure of a neighbour: our frames do not show it that the
/// neighbour is in use, and it would forget it.
const CONFIRM: Duration = Duration::from_secs(20);
/// Changes that come in a row are taken together.
const SETTLE: Duration = Duration::from_millis(10);

/// How often the drop counters of the sockets are read.
const SAMPLE: Duration = Duration::from_millis(100);

/// What a socket had dropped when the watcher last looked.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    rx: AtomicU64,
    refused: AtomicU64,
}

impl Dropped {
    pub(super) fn get(&self) -> XskDrops {
        XskDrops {
            rx: self.rx.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// A socket whose drops are read. Its descriptor keeps the queue taken, so it goes with the socket.
struct Sampled {
    queue: u32,
    fd: OwnedFd,
    dropped: Arc<Dropped>,
}

/// The kernel's socket of one core, as the watcher sees it.
pub(super) struct KernelSide {
    pub(super) fd: RawFd,
    /// Raised when something may be there to read.
    pub(super) ready: Arc<AtomicBool>,
    pub(super) core: Arc<Wakeup>,
}

/// State that the watcher writes and cores read.
pub(super) struct Shared {
    pub(super) hops: Hops,
    pub(super) ifindex: u32,
    /// Where it listens; unspecified: any of the host's addresses.
    listen: IpAddr,
    asks: Sender<IpAddr>,
    wakeup: Wakeup,
    stop: AtomicBool,
    sampled: Mutex<Vec<Sampled>>,
}

impl Shared {
    fn sampled(&self) -> std::sync::MutexGuard<'_, Vec<Sampled>> {
        self.sampled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the watcher find the way to `ip`. A full queue costs nothing: the next frame to it asks
    /// again only after the table changed, and until then it goes through the kernel.
    pub(super) fn ask(&self, ip: IpAddr) {
        if self.asks.try_send(ip).is_ok() {
            self.wakeup.wake();
        }
    }
}

/// An interface in use. Dropping it takes the program off and ends the watcher.
pub(super) struct Nic {
    pub(super) shared: Arc<Shared>,
    program: Mutex<Program>,
    watcher: Option<JoinHandle<()>>,
}

impl Nic {
    /// Starts the watcher. `program` is on the interface that `link` describes.
    pub(super) fn start(
        link: &Link,
        listen: IpAddr,
        program: Program,
        kernel: Vec<KernelSide>,
    ) -> io::Result<Nic> {
        let (asks, inbox) = bounded(MAX_PATHS);
        let shared = Arc::new(Shared {
            hops: Hops::default(),
            ifindex: link.index,
            listen,
            asks,
            wakeup: Wakeup::new()?,
            stop: AtomicBool::new(false),
            sampled: Mutex::new(Vec::new()),
        });
        let watcher = Watcher {
            shared: shared.clone(),
            inbox,
            events: Netlink::open(libc::NETLINK_ROUTE, CHANGES)?,
            questions: Netlink::open(libc::NETLINK_ROUTE, 0)?,
            poll: Poll::new()?,
            kernel,
        };
        let thread = std::thread::Builder::new()
            .name("ctp96-neighbour".into())
            .spawn(move || watcher.run())?;
        Ok(Nic {
            shared,
            program: Mutex::new(program),
            watcher: Some(thread),
        })
    }

    fn program(&self) -> std::sync::MutexGuard<'_, Program> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frames of `queue` go to `socket` from now on; gives where its drops can be read.
    pub(super) fn set_socket(
        &self,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> io::Result<Arc<Dropped>> {
        let fd = socket.try_clone_to_owned()?;
        self.program()
            .set_socket(queue, socket)
            .map_err(|e| io::Error::other(e.to_string()))?;
        let dropped = Arc::<Dropped>::default();
        self.shared.sampled().push(Sampled {
            queue,
            fd,
            dropped: dropped.clone(),
        });
        self.shared.wakeup.wake();
        Ok(dropped)
    }

    /// Frames of `queue` go to the kernel again.
    pub(super) fn clear_socket(&self, queue: u32) {
        self.program().clear_socket(queue);
        self.shared.sampled().retain(|s| s.queue != queue);
    }

    /// What the program has decided so far.
    pub(super) fn verdicts(&self) -> Option<Verdicts> {
        self.program().verdicts().ok()
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wakeup.wake();
        if let Some(thread) = self.watcher.take() {
            let _ = thread.join();
        }
    }
}

/// An epoll instance.
struct Poll(OwnedFd);

impl Poll {
    fn new() -> io::Result<Poll> {
        // SAFETY: epoll_create1 takes no pointers.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Poll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn add(&self, fd: RawFd, events: i32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: data,
        };
        // SAFETY: a live event; the descriptors are only numbers to this call.
        let r =
            unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
        if r < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Numbers of what became ready; empty after a timeout or a signal.
    fn wait(&self, out: &mut [libc::epoll_event; 16], timeout: Duration) -> usize {
        let ms = timeout.as_millis().min(60_000) as i32;
        // SAFETY: room for as many events as is said.
        let n = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                out.as_mut_ptr(),
                out.len() as i32,
                ms.max(1),
            )
        };
        n.max(0) as usize
    }
}

struct Watcher {
    shared: Arc<Shared>,
    inbox: Receiver<IpAddr>,
    events: Netlink,
    questions: Netlink,
    poll: Poll,
    kernel: Vec<KernelSide>,
}

/// Numbers in the poll set; kernel sockets have theirs from 0.
const EVENTS: u64 = u64::MAX;
const WAKEUP: u64 = u64::MAX - 1;

impl Watcher {
    fn run(mut self) {
        let both = libc::EPOLLIN;
        // Without these it still works, by its timer alone.
        let _ = self.poll.add(self.events.fd(), both, EVENTS);
        let _ = self.poll.add(self.shared.wakeup.fd(), both, WAKEUP);
        for (i, k) in self.kernel.iter().enumerate() {
            let _ = self.poll.add(k.fd, libc::EPOLLIN | libc::EPOLLET, i as u64);
        }
        let mut confirmed = Instant::now();
        // When it last looked for the ways to all peers.
        let mut looked = Instant::now();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        while !self.shared.stop.load(Ordering::Acquire) {
            let lacking = self.shared.hops.all().iter().any(|(_, known)| !known);
            let mut due = CONFIRM.saturating_sub(confirmed.elapsed());
            if lacking {
                due = due.min(RETRY.saturating_sub(looked.elapsed()));
            }
            let timeout = match self.sample() {
                true => due.min(SAMPLE),
                false => due,
            };
            self.shared.wakeup.prepare_sleep();
            let n = if self.inbox.is_empty() && !self.shared.stop.load(Ordering::Acquire) {
                self.poll.wait(&mut events, timeout)
            } else {
                0
            };
            self.shared.wakeup.cancel();
            let late = n == 0 && timeout == due;
            let mut changed = late;
            for e in &events[..n] {
                match e.u64 {
                    EVENTS => changed = true,
                    WAKEUP => {}
                    i => {
                        if let Some(k) = self.kernel.get(i as usize) {
                            k.ready.store(true, Ordering::Release);
                            k.core.wake();
                        }
                    }
                }
            }
            while let Ok(ip) = self.inbox.try_recv() {
                self.resolve(ip, true);
            }
            if changed {
                looked = Instant::now();
                if n > 0 {
                    // Nobody waits for this: frames go through the kernel meanwhile.
                    std::thread::sleep(SETTLE);
                }
                self.events.drain();
                let confirm = confirmed.elapsed() >= CONFIRM;
                if confirm {
                    confirmed = Instant::now();
                }
                for (ip, known) in self.shared.hops.all() {
                    self.resolve(ip, confirm || (!known && late));
                }
            }
        }
    }

    /// Reads what the sockets have dropped; says whether there are any.
    fn sample(&self) -> bool {
        let sampled = self.shared.sampled();
        for s in sampled.iter() {
            let now = drops(s.fd.as_fd());
            s.dropped.rx.store(now.rx, Ordering::Relaxed);
            s.dropped.refused.store(now.refused, Ordering::Relaxed);
        }
        !sampled.is_empty()
    }

    /// Finds the way to `ip` and stores it; `discover` also makes the kernel look for the
    /// neighbour.
    fn resolve(&mut self, ip: IpAddr, discover: bool) {
        let hop = self.hop(ip, discover);
        self.shared.hops.set(ip, hop);
    }

    /// Nothing where the kernel has to send: no route, no MAC address yet, an address of this host,
    /// a way through another interface, or the interface is down.
    fn hop(&mut self, ip: IpAddr, discover: bool) -> Option<Hop> {
        let route = self.questions.route(ip).ok().filter(|r| r.unicast)?;
        let link = self.questions.link(route.oif).ok()?;
        let ours = self.shared.ifindex;
        let vlan = match link.vlan {
            _ if link.index == ours => None,
            Some((below, tag)) if below == ours => Some(tag),
            _ => return None,
        };
        if !link.running {
            return None;
        }
        let next = route.gateway.unwrap_or(ip);
        let dst_mac = self.questions.neighbour(route.oif, next);
        if discover {
            // Its answer comes as a change.
            let _ = self.questions.discover(route.oif, next);
        }
        let source = if self.shared.listen.is_unspecified() {
            route.source?
        } else {
            self.shared.listen
        };
        Some(Hop {
            src_mac: link.mac?,
            dst_mac: dst_mac?,
            vlan,
            source,
            mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        })
    }
}
