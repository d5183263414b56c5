//! One AF_XDP socket: registering the frame memory, making the rings, binding to a queue.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use super::ZeroCopy;
use super::ring::{Consumer, Producer};

/// Bytes that the kernel reads before a frame that asks for something (struct xsk_tx_metadata).
pub(super) const METADATA_LEN: usize = 24;

/// Not in libc yet: most frames that one wake-up sends in copy mode (Linux 6.17).
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
const SO_BUSY_POLL: i32 = 46;
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;
/// Microseconds that the kernel may poll the device in one call where busy polling is on.
const BUSY_POLL_US: i32 = 20;
/// Frames of one wake-up; measured as the best size (docs/PERF_NOTES.md).
pub(super) const TX_BATCH: u32 = 64;
/// The kernel lets go of a queue some time after its socket was closed (it waits for readers and
/// frees the memory from a work queue), so a daemon that starts again finds it busy for so long.
const LET_GO: Duration = Duration::from_secs(2);
/// Kernel memory for frames under way in copy mode, bytes.
const SEND_BUFFER: i32 = 8 << 20;

/// Who sums what is left of UDP checksums when a frame asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Summing {
    /// Nobody: frames come with their checksums.
    Ours,
    /// The driver with zero-copy. In copy mode whoever has to do it further on: the device, the
    /// kernel before a device that cannot, or nobody where the frame never leaves this host.
    Below,
    /// The kernel, at once (XDP_UMEM_TX_SW_CSUM, copy mode only): a check of the others.
    Kernel,
}

/// What to open.
#[derive(Debug, Clone, Copy)]
pub(super) struct XskConfig {
    pub(super) ifindex: u32,
    pub(super) queue: u32,
    pub(super) zero_copy: ZeroCopy,
    /// Whether frames may be longer than a chunk.
    pub(super) multi_buffer: bool,
    pub(super) chunk: u32,
    pub(super) headroom: u32,
    /// Entries of the fill and the receive ring.
    pub(super) rx_entries: u32,
    /// Entries of the transmit and the completion ring.
    pub(super) tx_entries: u32,
    pub(super) summing: Summing,
}

/// Frames that the kernel dropped on the way to the socket, and descriptors it refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct XskDrops {
    pub(super) rx: u64,
    pub(super) refused: u64,
}

/// A bound socket with its four rings.
pub(super) struct Xsk {
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) rx: Consumer<libc::xdp_desc>,
    pub(super) tx: Producer<libc::xdp_desc>,
    pub(super) zero_copy: bool,
    pub(super) multi_buffer: bool,
    pub(super) busy_poll: bool,
    /// Who sums what frames leave open.
    pub(super) summing: Summing,
    /// What was wanted and not had, for the status.
    pub(super) note: Option<String>,
    fd: OwnedFd,
}

/// An error with what was being done, keeping its kind and number readable.
fn context(what: &str, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what}: {e}"))
}

impl Xsk {
    /// Registers `len` bytes at `memory` as frame memory and binds to the queue.
    ///
    /// # Safety
    /// The memory must be page aligned, initialised and mapped for as long as the socket is open,
    /// and must be read and written only as the rings allow: a chunk that the kernel has belongs to
    /// the kernel.
    pub(super) unsafe fn open(memory: NonNull<u8>, len: usize, cfg: &XskConfig) -> io::Result<Xsk> {
        let fd = new_socket()?;
        let (summing, refused) = match register(fd.as_fd(), memory, len, cfg, cfg.summing) {
            Ok(()) => (cfg.summing, None),
            // An older kernel, which knows no metadata.
            Err(e) if cfg.summing != Summing::Ours && e.raw_os_error() == Some(libc::EINVAL) => {
                register(fd.as_fd(), memory, len, cfg, Summing::Ours)
                    .map_err(|e| explain_memory(len, e))?;
                (
                    Summing::Ours,
                    Some("no transmit metadata (Linux before 6.11)"),
                )
            }
            Err(e) => return Err(explain_memory(len, e)),
        };
        for (option, entries) in [
            (libc::XDP_UMEM_FILL_RING, cfg.rx_entries),
            (libc::XDP_UMEM_COMPLETION_RING, cfg.tx_entries),
            (libc::XDP_RX_RING, cfg.rx_entries),
            (libc::XDP_TX_RING, cfg.tx_entries),
        ] {
            set(fd.as_fd(), libc::SOL_XDP, option, &entries)
                .map_err(|e| context(&format!("making a ring of {entries} entries"), e))?;
        }
        let off: libc::xdp_mmap_offsets = get(fd.as_fd(), libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let b = fd.as_fd();
        let (rx_n, tx_n) = (cfg.rx_entries, cfg.tx_entries);
        let ring = |e| context("mapping a ring", e);
        // SAFETY: the entry types are those of linux/if_xdp.h, the sizes those set above, the
        // offsets the kernel's; the kernel reads fill and transmit and writes the other two.
        let (fill, completion, rx, tx) = unsafe {
            (
                Producer::map(b, libc::XDP_UMEM_PGOFF_FILL_RING as i64, &off.fr, rx_n)
                    .map_err(ring)?,
                Consumer::map(
                    b,
                    libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64,
                    &off.cr,
                    tx_n,
                )
                .map_err(ring)?,
                Consumer::map(b, libc::XDP_PGOFF_RX_RING, &off.rx, rx_n).map_err(ring)?,
                Producer::map(b, libc::XDP_PGOFF_TX_RING, &off.tx, tx_n).map_err(ring)?,
            )
        };
        let (zero_copy, multi_buffer, mut note) = bind(b, cfg)?;
        if let Some(refused) = refused {
            note = Some(note.map_or(refused.to_owned(), |n| format!("{n}; {refused}")));
        }
        // The rest is worth having and no reason to stop.
        let _ = set(
            b,
            libc::SOL_SOCKET,
            libc::SO_SNDBUFFORCE,
            &(SEND_BUFFER / 2),
        )
        .or_else(|_| set(b, libc::SOL_SOCKET, libc::SO_SNDBUF, &(SEND_BUFFER / 2)));
        let _ = set(b, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &TX_BATCH.min(tx_n));
        // Polling the device from our own thread pays where the driver does the work; in copy mode
        // the sender's kernel has done it already.
        let busy_poll = zero_copy
            && set(b, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1i32).is_ok()
            && set(b, libc::SOL_SOCKET, SO_BUSY_POLL, &BUSY_POLL_US).is_ok()
            && set(b, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &(TX_BATCH as i32)).is_ok();
        Ok(Xsk {
            fill,
            completion,
            rx,
            tx,
            zero_copy,
            multi_buffer,
            busy_poll,
            summing,
            note,
            fd,
        })
    }

    /// Opens a socket that receives from another queue of the interface into the same memory, in the
    /// same mode.
    pub(super) fn share(&self, cfg: &XskConfig, queue: u32) -> io::Result<Inflow> {
        let fd = new_socket()?;
        let b = fd.as_fd();
        // The kernel wants a completion ring, which nothing ever enters.
        for (option, entries) in [
            (libc::XDP_UMEM_FILL_RING, cfg.rx_entries),
            (libc::XDP_UMEM_COMPLETION_RING, 2),
            (libc::XDP_RX_RING, cfg.rx_entries),
        ] {
            set(b, libc::SOL_XDP, option, &entries)
                .map_err(|e| context(&format!("making a ring of {entries} entries"), e))?;
        }
        let off: libc::xdp_mmap_offsets = get(b, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let ring = |e| context("mapping a ring", e);
        let n = cfg.rx_entries;
        // SAFETY: as in `open`.
        let (fill, rx) = unsafe {
            (
                Producer::map(b, libc::XDP_UMEM_PGOFF_FILL_RING as i64, &off.fr, n)
                    .map_err(ring)?,
                Consumer::map(b, libc::XDP_PGOFF_RX_RING, &off.rx, n).map_err(ring)?,
            )
        };
        let with = self.fd.as_raw_fd() as u32;
        bind_to(b, cfg.ifindex, queue, libc::XDP_SHARED_UMEM, with)
            .map_err(|e| explain_bind("shared", &XskConfig { queue, ..*cfg }, e))?;
        Ok(Inflow {
            fill,
            rx,
            queue,
            fd,
        })
    }

    /// The descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Tells the kernel to send what is in the transmit ring.
    pub(super) fn kick_tx(&self) -> io::Result<()> {
        // SAFETY: no buffer, no address.
        let r = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                std::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null(),
                0,
            )
        };
        if r >= 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Tells the kernel to look at the fill ring and the device.
    pub(super) fn kick_rx(&self) {
        kick_rx(self.fd());
    }

    /// What the kernel dropped since the socket was made.
    pub(super) fn drops(&self) -> XskDrops {
        drops(self.fd())
    }
}

/// A further socket of a core: its queue's frames come into the memory of the core's own socket.
pub(super) struct Inflow {
    pub(super) fill: Producer<u64>,
    pub(super) rx: Consumer<libc::xdp_desc>,
    pub(super) queue: u32,
    fd: OwnedFd,
}

impl Inflow {
    /// The descriptor.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// As [`Xsk::kick_rx`].
    pub(super) fn kick_rx(&self) {
        kick_rx(self.fd());
    }

    /// As [`Xsk::drops`].
    pub(super) fn drops(&self) -> XskDrops {
        drops(self.fd())
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(explain_socket(io::Error::last_os_error()));
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers frame memory; what it may be is for the caller of [`Xsk::open`] to promise.
fn register(
    fd: BorrowedFd<'_>,
    memory: NonNull<u8>,
    len: usize,
    cfg: &XskConfig,
    summing: Summing,
) -> io::Result<()> {
    let (flags, tx_metadata_len) = match summing {
        Summing::Ours => (0, 0),
        Summing::Below => (libc::XDP_UMEM_TX_METADATA_LEN, METADATA_LEN as u32),
        Summing::Kernel => (
            libc::XDP_UMEM_TX_METADATA_LEN | libc::XDP_UMEM_TX_SW_CSUM,
            METADATA_LEN as u32,
        ),
    };
    let umem = libc::xdp_umem_reg {
        addr: memory.as_ptr() as u64,
        len: len as u64,
        chunk_size: cfg.chunk,
        headroom: cfg.headroom,
        flags,
        tx_metadata_len,
    };
    set(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
}

fn kick_rx(fd: BorrowedFd<'_>) {
    // What it answers shows in the rings.
    // SAFETY: no buffer, no address.
    unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}

pub(super) fn drops(fd: BorrowedFd<'_>) -> XskDrops {
    match get::<libc::xdp_statistics>(fd, libc::SOL_XDP, libc::XDP_STATISTICS) {
        // The counter of an empty fill ring also grows while nothing is lost (a driver that looks
        // ahead), and a frame lost to it is in `rx_dropped` as well.
        Ok(s) => XskDrops {
            rx: s.rx_dropped + s.rx_ring_full,
            refused: s.rx_invalid_descs + s.tx_invalid_descs,
        },
        Err(_) => XskDrops::default(),
    }
}

fn bind_to(
    fd: BorrowedFd<'_>,
    ifindex: u32,
    queue: u32,
    flags: u16,
    shared: u32,
) -> io::Result<()> {
    let addr = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared,
    };
    let deadline = Instant::now() + LET_GO;
    loop {
        // SAFETY: a live address of the given length.
        let r = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const addr).cast(),
                size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
            )
        };
        if r == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(e);
        }
        std::thread::sleep(LET_GO / 100);
    }
}

/// Binds in the best way that is allowed and possible: whether zero-copy and multi-buffer are on,
/// and why not, where something was wanted.
fn bind(fd: BorrowedFd<'_>, cfg: &XskConfig) -> io::Result<(bool, bool, Option<String>)> {
    let try_bind = |mode: u16| {
        let sg = if cfg.multi_buffer {
            libc::XDP_USE_SG
        } else {
            0
        };
        let flags = mode | libc::XDP_USE_NEED_WAKEUP | sg;
        bind_to(fd, cfg.ifindex, cfg.queue, flags, 0)
    };
    let refused = match cfg.zero_copy {
        ZeroCopy::Off => None,
        ZeroCopy::Auto | ZeroCopy::On => match try_bind(libc::XDP_ZEROCOPY) {
            Ok(()) => return Ok((true, cfg.multi_buffer, None)),
            Err(e) if cfg.zero_copy == ZeroCopy::On => {
                return Err(explain_bind("zero-copy", cfg, e));
            }
            Err(e) => Some(format!("zero-copy refused by the driver ({e})")),
        },
    };
    match try_bind(libc::XDP_COPY) {
        Ok(()) => Ok((false, cfg.multi_buffer, refused)),
        Err(e) => Err(explain_bind("copy", cfg, e)),
    }
}

fn explain_memory(len: usize, e: io::Error) -> io::Error {
    let hint = match e.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            " (the memlock limit is too low: give the daemon CAP_IPC_LOCK or raise LimitMEMLOCK)"
        }
        _ => "",
    };
    context(&format!("registering {len} bytes of frame memory{hint}"), e)
}

fn explain_bind(mode: &str, cfg: &XskConfig, e: io::Error) -> io::Error {
    let hint = match e.raw_os_error() {
        Some(libc::EBUSY) => "; another AF_XDP socket has this queue",
        Some(libc::EINVAL) if cfg.multi_buffer => {
            "; the interface has no such queue, or the kernel is older than 6.6 and knows no frames \
             of several buffers: lower node.mtu to what fits one"
        }
        Some(libc::EINVAL) => "; the interface has no such queue",
        Some(libc::EOPNOTSUPP) => "; the driver does not offer it",
        Some(libc::ENETDOWN) => "; the interface is down",
        _ => "",
    };
    let what = format!("binding AF_XDP in {mode} mode to queue {}{hint}", cfg.queue);
    context(&what, e)
}

fn explain_socket(e: io::Error) -> io::Error {
    let hint = match e.raw_os_error() {
        Some(libc::EPERM) => {
            "AF_XDP needs CAP_NET_RAW (and CAP_NET_ADMIN and CAP_BPF for its program)"
        }
        Some(libc::EAFNOSUPPORT) => "the kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        _ => "opening an AF_XDP socket",
    };
    context(hint, e)
}

fn set<T>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is live and its size is given.
    let r = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Options that the kernel fills as plain numbers.
fn get<T: PlainNumbers>(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<T> {
    // SAFETY: all-zero bytes are a valid value of a `PlainNumbers`.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is live and `len` its size; the kernel writes no more than that.
    let r = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if r != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < size_of::<T>() {
        return Err(io::Error::other("the kernel is too old for this option"));
    }
    Ok(value)
}

/// Structs of integers alone.
///
/// # Safety
/// Every byte pattern must be a valid value.
unsafe trait PlainNumbers {}
// SAFETY: integers only.
unsafe impl PlainNumbers for libc::xdp_mmap_offsets {}
// SAFETY: integers only.
unsafe impl PlainNumbers for libc::xdp_statistics {}
