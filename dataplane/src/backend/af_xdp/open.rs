//! From settings to sockets: which interface, which queues, how much memory, and what to say when
//! it cannot be.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use xdp_prog::{AttachMode, Options, Program};

use super::bare::Bare;
use super::inlet::Inlet;
use super::netlink::{Link, Netlink, offers};
use super::nic::{KernelSide, Nic};
use super::paths::Paths;
use super::retry::Retry;
use super::rx::{RxSide, headroom};
use super::socket::{Inflow, Summing, Xsk, XskConfig};
use super::tx::{FRAME_AT, TxSide};
use super::{AfXdp, MAX_QUEUES, device};
use crate::backend::frame::Region;
use crate::backend::udp::{Mmsg, UdpConfig};
use crate::backend::{Backend, Stats};
use crate::base::limits::{FRAME_OVERHEAD, symbol_len_for_mtu};
use crate::wire::eth::{ETH_LEN, MAX_VLAN_TAGS, VLAN_LEN};

/// Room that the kernel keeps before each frame for XDP programs (XDP_PACKET_HEADROOM).
const KERNEL_HEADROOM: usize = 256;
/// Sizes of a chunk: the kernel takes powers of two from 2,048 to a page.
const SMALL_CHUNK: usize = 2048;
const LARGE_CHUNK: usize = 4096;
/// Receive chunks where a frame fits one chunk: 8 MiB.
const RX_CHUNKS: u16 = 4096;
/// Receive chunks where a frame takes several: 32 MiB.
const RX_CHUNKS_GATHERED: u16 = 8192;
/// Frames for sending: more than a lane core builds in one round for a few lanes.
const TX_FRAMES: u16 = 1024;
/// Payload of a frame that [`Backend::rx_capacity_bytes`] counts with.
const SMALLEST_COUNTED: usize = 1200;
/// Handshake frames that one source may send a second. A session takes two.
const HANDSHAKES_PER_SECOND: u32 = 100;
/// Link MTU up to which every driver gives whole packets in one buffer.
const ONE_BUFFER_MTU: usize = 1500;

/// Whether the driver may read and write our memory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ZeroCopy {
    /// Where the driver can.
    #[default]
    Auto,
    /// Or not at all: opening fails where the driver cannot.
    On,
    /// The kernel copies every frame.
    Off,
}

/// Who completes UDP checksums over IPv6; over IPv4 frames go without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// The device where the driver takes such requests (transmit metadata), or whoever has to in copy
    /// mode, which on a veth pair is nobody. Else this process.
    #[default]
    Auto,
    /// This process.
    Software,
    /// The kernel, at once and in copy mode only: to see what `Auto` asks for done.
    Kernel,
}

/// Settings of the AF_XDP backend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AfXdpConfig {
    /// Interface; without one, the interface that has the address listened on.
    pub interface: Option<String>,
    /// Where the XDP program runs.
    pub mode: AttachMode,
    /// Whether to copy.
    pub zero_copy: ZeroCopy,
    /// Receive queues of each core, the first of which it also sends on; without them, one for each
    /// core from 0 on.
    pub queues: Option<Vec<Vec<u32>>>,
    /// Whether another XDP program may be taken off the interface.
    pub replace_foreign: bool,
    /// Who completes UDP checksums.
    pub checksum: Checksum,
}

/// Sizes of the frame memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Geometry {
    chunk: usize,
    /// Chunks of one frame to send.
    run: usize,
    multi_buffer: bool,
    rx_chunks: u16,
    headroom: usize,
}

impl Geometry {
    fn of(mtu: usize, v6: bool) -> Geometry {
        let headroom = headroom(v6);
        let received = KERNEL_HEADROOM + headroom + ETH_LEN + MAX_VLAN_TAGS * VLAN_LEN + mtu;
        let sent = FRAME_AT + symbol_len_for_mtu(mtu) + FRAME_OVERHEAD;
        let chunk = if received.max(sent) <= SMALL_CHUNK {
            SMALL_CHUNK
        } else {
            LARGE_CHUNK
        };
        let multi_buffer = received.max(sent) > chunk;
        Geometry {
            chunk,
            run: sent.div_ceil(chunk),
            multi_buffer,
            rx_chunks: if multi_buffer {
                RX_CHUNKS_GATHERED
            } else {
                RX_CHUNKS
            },
            headroom,
        }
    }

    /// The same with room for what arrives on so many queues.
    fn with_queues(self, n: usize) -> Geometry {
        let n = n.clamp(1, MAX_QUEUES) as u16;
        Geometry {
            rx_chunks: self.rx_chunks * n,
            ..self
        }
    }

    fn rx_bytes(&self) -> usize {
        usize::from(self.rx_chunks) * self.chunk
    }

    fn tx_entries(&self) -> u32 {
        (u32::from(TX_FRAMES) * self.run as u32).next_power_of_two()
    }
}

/// The place of one core at an interface, to be opened by its thread.
pub struct Seat {
    nic: Arc<Nic>,
    queue: u32,
    /// Further ones, from which it only receives.
    more: Vec<u32>,
    kernel: Mmsg,
    kernel_ready: Arc<AtomicBool>,
    inlets: Arc<[Inlet]>,
    me: usize,
    geometry: Geometry,
    zero_copy: ZeroCopy,
    generic: bool,
    summing: Summing,
    /// Whether the driver completes checksums with zero-copy.
    driver_sums: bool,
}

/// What [`open`] has made.
pub struct Opened {
    /// One for each core.
    pub seats: Vec<Seat>,
    /// To look at the interface from elsewhere.
    pub watch: Watch,
    /// Interface and mode, and what the operator should know, as a sentence.
    pub why: String,
}

/// The interface as those see it who have no socket there.
pub struct Watch(Arc<Nic>);

impl Watch {
    /// What the XDP program has decided about packets so far, by name.
    pub fn verdicts(&self) -> Vec<(&'static str, u64)> {
        let verdicts = self.0.verdicts();
        verdicts.map_or_else(Vec::new, |v| v.entries().collect())
    }
}

fn refuse<T>(text: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(text.into()))
}

fn interface(cfg: &AfXdpConfig, listen: IpAddr) -> io::Result<Link> {
    let name = match &cfg.interface {
        Some(name) => name.clone(),
        None if listen.is_unspecified() => {
            return refuse(
                "AF_XDP works on one interface: set af_xdp.interface, or listen on an address of \
                 the interface",
            );
        }
        None => match device::owner_of(listen)? {
            Some(name) => name,
            None => return refuse(format!("no interface here has the address {listen}")),
        },
    };
    let mut netlink = Netlink::open(libc::NETLINK_ROUTE, 0)?;
    let link = match netlink.link_by_name(&name) {
        Ok(link) => link,
        Err(e) => return refuse(format!("interface {name}: {e}")),
    };
    if link.mac.is_none() {
        return refuse(format!("interface {name} is no Ethernet interface"));
    }
    if let Some((below, _)) = link.vlan {
        let below = netlink
            .link(below)
            .map_or_else(|_| "the one below".to_owned(), |l| l.name);
        return refuse(format!(
            "{name} is a VLAN interface, which has no queues of its own: set af_xdp.interface to \
             {below}"
        ));
    }
    Ok(link)
}

/// Why `auto` does not take AF_XDP here; nothing where it should. It takes it only where the driver
/// does zero-copy: elsewhere UDP with segmentation offload is several times faster.
pub fn why_not_by_default(cfg: &AfXdpConfig, listen: IpAddr) -> Option<String> {
    let link = match interface(cfg, listen) {
        Ok(link) => link,
        Err(e) => return Some(e.to_string()),
    };
    let driver = device::driver(&link.name);
    match offers(link.index).map(|o| o.zero_copy) {
        Ok(true) if cfg.zero_copy != ZeroCopy::Off => None,
        Ok(true) => Some("af_xdp.zero_copy is off".to_owned()),
        Ok(false) => Some(format!(
            "the driver of {} ({driver}) does no AF_XDP zero-copy, and copying is slower than UDP \
             with segmentation offload",
            link.name
        )),
        Err(e) => Some(format!(
            "the kernel does not say whether the driver of {} ({driver}) does AF_XDP zero-copy \
             ({e})",
            link.name
        )),
    }
}

/// Puts the XDP program on the interface and reserves ports `listen`, one for each of `cores`.
/// Frames are those of paths with `mtu`.
///
/// # Errors
/// A sentence that says what stands in the way.
pub fn open(cfg: &AfXdpConfig, listen: SocketAddr, cores: usize, mtu: usize) -> io::Result<Opened> {
    let link = interface(cfg, listen.ip())?;
    let name = &link.name;
    let have = device::rx_queues(name);
    let queues = match &cfg.queues {
        Some(list) => list.clone(),
        None => (0..cores as u32).map(|q| vec![q]).collect(),
    };
    if queues.len() != cores {
        return refuse(format!(
            "af_xdp.queues has {} entries for {cores} lane cores; each core takes one",
            queues.len()
        ));
    }
    if let Some(q) = queues.iter().find(|q| !(1..=MAX_QUEUES).contains(&q.len())) {
        return refuse(format!(
            "af_xdp.queues gives a core {} queues; it takes 1 to {MAX_QUEUES}",
            q.len()
        ));
    }
    let all: Vec<u32> = queues.concat();
    if let Some(q) = all.iter().find(|q| **q >= have) {
        return refuse(format!(
            "interface {name} has no receive queue {q}: it has {have}, and {cores} lane cores take \
             one each; give it more (ethtool -L {name} combined {}), or lower node.cores",
            q + 1
        ));
    }
    if let Some(q) = (1..all.len()).find(|&i| all[..i].contains(&all[i])) {
        return refuse(format!("af_xdp.queues names queue {} twice", all[q]));
    }
    let mut kernel = Vec::with_capacity(cores);
    let mut ports = Vec::with_capacity(cores);
    for core in 0..cores {
        let port = match ports.first() {
            Some(first) => first + core as u16,
            None => listen.port(),
        };
        let socket = Mmsg::open(&UdpConfig {
            rx_buffers: 32,
            tx_buffers: 32,
            // A generic XDP program sees joined datagrams as one, which is no frame.
            gso: false,
            gro: false,
            ..UdpConfig::new(SocketAddr::new(listen.ip(), port))
        })?;
        ports.push(socket.local_addr().port());
        kernel.push(socket);
    }
    let geometry = Geometry::of(mtu, listen.is_ipv6());
    let options = Options {
        ports: ports.clone(),
        addresses: match listen.ip() {
            ip if ip.is_unspecified() => Vec::new(),
            ip => vec![ip],
        },
        mode: cfg.mode,
        replace_foreign: cfg.replace_foreign,
        frags: geometry.multi_buffer || link.mtu > ONE_BUFFER_MTU,
        handshakes_per_second: HANDSHAKES_PER_SECOND,
        queues: have,
    };
    let program = Program::attach(name, &options).map_err(|e| io::Error::other(e.to_string()))?;
    let generic = program.mode() == AttachMode::Generic;
    let mut why = format!(
        "AF_XDP on {name} (driver {}), XDP program in {} mode",
        device::driver(name),
        program.mode()
    );
    if let Some(reason) = program.mode_reason() {
        why = format!("{why} because {reason}");
    }
    if have as usize > all.len() {
        why = format!(
            "{why}; {have} receive queues and {} of them with a socket: frames on the others go \
             through the kernel",
            all.len()
        );
    }
    if link.mtu < mtu {
        why = format!(
            "{why}; the MTU of {name} is {} and node.mtu {mtu}: full frames will not fit",
            link.mtu
        );
    }
    let sides: Vec<_> = kernel
        .iter()
        .map(|k| KernelSide {
            fd: k.fd(),
            ready: Arc::new(AtomicBool::new(false)),
            core: k.wakeup(),
        })
        .collect();
    let ready: Vec<_> = sides.iter().map(|s| s.ready.clone()).collect();
    let inlets: Arc<[Inlet]> = if cores > 1 {
        let all = ports.iter().zip(&kernel);
        all.map(|(&port, k)| Inlet::new(port, k.wakeup())).collect()
    } else {
        Arc::new([])
    };
    let summing = match cfg.checksum {
        // Each piece of a frame of several would need bytes before it that are not the frame's.
        _ if geometry.multi_buffer => Summing::Ours,
        Checksum::Auto => Summing::Below,
        Checksum::Software => Summing::Ours,
        Checksum::Kernel => Summing::Kernel,
    };
    let driver_sums = offers(link.index).is_ok_and(|o| o.tx_checksum);
    let nic = Arc::new(Nic::start(&link, listen.ip(), program, sides)?);
    let seats = kernel.into_iter().zip(queues).zip(ready).enumerate();
    let seats = seats
        .map(|(me, ((kernel, mut queues), kernel_ready))| Seat {
            nic: nic.clone(),
            geometry: geometry.with_queues(queues.len()),
            // None of the lists is empty.
            more: queues.split_off(1),
            queue: queues[0],
            kernel,
            kernel_ready,
            inlets: inlets.clone(),
            me,
            zero_copy: cfg.zero_copy,
            generic,
            summing,
            driver_sums,
        })
        .collect();
    Ok(Opened {
        seats,
        watch: Watch(nic),
        why,
    })
}

impl Seat {
    /// Maps the frame memory and binds a socket; nothing is sent to it yet.
    fn socket(&self) -> io::Result<(Arc<Region>, Xsk, Vec<Inflow>)> {
        let g = self.geometry;
        let len = g.rx_bytes() + usize::from(TX_FRAMES) * g.chunk * g.run;
        let region = Region::new(len).map_err(io::Error::other)?;
        let cfg = XskConfig {
            ifindex: self.nic.shared.ifindex,
            queue: self.queue,
            zero_copy: if self.generic && self.zero_copy == ZeroCopy::Auto {
                ZeroCopy::Off
            } else {
                self.zero_copy
            },
            multi_buffer: g.multi_buffer,
            chunk: g.chunk as u32,
            headroom: g.headroom as u32,
            // Of one queue's share.
            rx_entries: (u32::from(g.rx_chunks) / (1 + self.more.len() as u32)).next_power_of_two(),
            tx_entries: g.tx_entries(),
            summing: self.summing,
        };
        // SAFETY: the region is page aligned and zeroed. Those who call this (`open` and
        // `open_bare`) keep it as long as the socket, and hand it to `RxSide` and `TxSide`, which
        // touch only chunks that the rings gave them.
        let xsk = unsafe { Xsk::open(region.at(0, len), len, &cfg)? };
        let more = self.more.iter().map(|&queue| xsk.share(&cfg, queue));
        let more = more.collect::<io::Result<_>>()?;
        Ok((region, xsk, more))
    }

    /// Opens a socket without backend: only frames, for measuring against.
    ///
    /// # Errors
    /// As for [`Seat::open`].
    pub fn open_bare(self) -> io::Result<Bare> {
        let (g, (region, xsk, _)) = (self.geometry, self.socket()?);
        let tx = TxSide::new(region.clone(), g.rx_bytes(), (g.chunk, g.run), TX_FRAMES);
        let (local, rx) = (self.kernel.local_addr(), (g.chunk, g.rx_chunks));
        Bare::new((region, xsk), tx, rx, self.nic, self.queue, local)
    }

    /// Maps the frame memory, binds the socket to its queue and has frames sent to it.
    ///
    /// # Errors
    /// A sentence that says what stands in the way.
    pub fn open(self) -> io::Result<AfXdp> {
        let (g, local) = (self.geometry, self.kernel.local_addr());
        let (region, mut xsk, mut more) = self.socket()?;
        let (pool, sources) = ((g.chunk, g.rx_chunks), more.len() + 1);
        let mut rx = RxSide::new(region.clone(), pool, sources, local.is_ipv6())
            .map_err(io::Error::other)?;
        rx.refill(0, &mut xsk.fill);
        for (i, inflow) in more.iter_mut().enumerate() {
            rx.refill(i + 1, &mut inflow.fill);
        }
        let tx = TxSide::new(region.clone(), g.rx_bytes(), (g.chunk, g.run), TX_FRAMES);
        let mut dropped = vec![self.nic.set_socket(self.queue, xsk.fd())?];
        for inflow in &more {
            dropped.push(self.nic.set_socket(inflow.queue, inflow.fd())?);
        }
        // What came before the socket was there.
        self.kernel_ready.store(true, Ordering::Relaxed);
        let mode = if xsk.zero_copy { "zero-copy" } else { "copy" };
        let pages = if region.is_huge() {
            "2 MiB"
        } else {
            "ordinary"
        };
        let mut note = format!(
            "{mode} mode, chunks of {} bytes in {} MiB of {pages} pages{}",
            g.chunk,
            region.size() >> 20,
            if xsk.busy_poll { ", busy polling" } else { "" }
        );
        let sum_below = match xsk.summing {
            Summing::Ours => false,
            Summing::Below => !xsk.zero_copy || self.driver_sums,
            Summing::Kernel => true,
        };
        if local.is_ipv6() {
            note = format!(
                "{note}, checksums {}",
                match (sum_below, xsk.zero_copy) {
                    (false, _) => "by this process",
                    (true, true) => "by the NIC",
                    (true, false) => "by the kernel or the device",
                }
            );
        }
        if let Some(why) = &xsk.note {
            note = format!("{note}; {why}");
        }
        if !more.is_empty() {
            note = format!("{note}; {sources} queues in one memory");
        }
        // All may come on one queue.
        let frames = usize::from(g.rx_chunks) / sources;
        Ok(AfXdp {
            name: match (xsk.zero_copy, self.generic) {
                (true, _) => "af_xdp-zerocopy",
                (false, false) => "af_xdp-copy",
                (false, true) => "af_xdp-generic",
            },
            xsk,
            more,
            dropped,
            turn: 0,
            rx,
            tx,
            paths: Paths::new(local.port()),
            wakeup: self.kernel.wakeup(),
            kernel: self.kernel,
            kernel_ready: self.kernel_ready,
            nic: self.nic,
            queue: self.queue,
            local,
            inlets: self.inlets,
            given: 0,
            retry: Retry::default(),
            me: self.me,
            // A quarter is left for what is being read.
            capacity: frames / 4 * 3 * SMALLEST_COUNTED,
            refused: 0,
            sum_below,
            note,
            stats: Stats::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_fit_their_chunks() {
        for (mtu, chunk, run, multi) in [
            (1280, 2048, 1, false),
            (1500, 2048, 1, false),
            (3400, 4096, 1, false),
            (9000, 4096, 3, true),
            (9216, 4096, 3, true),
        ] {
            for v6 in [false, true] {
                let g = Geometry::of(mtu, v6);
                assert_eq!(
                    (g.chunk, g.run, g.multi_buffer),
                    (chunk, run, multi),
                    "{mtu}"
                );
                assert!(g.tx_entries() >= u32::from(TX_FRAMES) * run as u32);
            }
        }
    }

    #[test]
    fn what_cannot_be_says_why() {
        let any = AfXdpConfig::default();
        let e = why_not_by_default(&any, [0, 0, 0, 0].into()).expect("no interface");
        assert!(e.contains("af_xdp.interface"), "{e}");
        let e = why_not_by_default(&any, [203, 0, 113, 7].into()).expect("not ours");
        assert!(e.contains("203.0.113.7"), "{e}");
        let e = why_not_by_default(&any, [127, 0, 0, 1].into()).expect("loopback");
        assert!(e.contains("zero-copy"), "{e}");
        let none = AfXdpConfig {
            interface: Some("ctp96-none".into()),
            ..any
        };
        let e = open(&none, ([127, 0, 0, 1], 0).into(), 1, 1500);
        let e = e.err().expect("no such interface").to_string();
        assert!(e.contains("ctp96-none"), "{e}");
    }
}
