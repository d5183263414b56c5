//! An AF_PACKET socket on one interface: frames come in through a ring that the kernel shares with
//! us (TPACKET_V2, packet_mmap in the kernel's documentation), stay in it until they are sent on, and
//! leave by `sendmmsg` past the queueing discipline.
//!
//! Version 2 of the ring and not 3: version 3 shows frames by the block, a millisecond or more
//! after they came.

use std::ffi::CString;
use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

// linux/if_packet.h; the libc crate has none of these for glibc.
const PACKET_RX_RING: libc::c_int = 5;
const PACKET_STATISTICS: libc::c_int = 6;
const PACKET_VERSION: libc::c_int = 10;
const PACKET_QDISC_BYPASS: libc::c_int = 20;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const TPACKET_V2: libc::c_int = 1;
const STATUS_KERNEL: u32 = 0;
const STATUS_USER: u32 = 1;

/// `struct tpacket2_hdr`.
#[repr(C)]
struct Header {
    status: AtomicU32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    sec: u32,
    nsec: u32,
    vlan_tci: u16,
    vlan_tpid: u16,
    padding: [u8; 4],
}

/// `struct tpacket_req`.
#[repr(C)]
struct RingRequest {
    block_size: u32,
    block_nr: u32,
    frame_size: u32,
    frame_nr: u32,
}

/// Before the frame in its slot: header, `sockaddr_ll` and alignment, with room to spare.
const BEFORE: usize = 96;
/// Blocks are what the kernel allocates in one piece.
const BLOCK: usize = 256 << 10;
/// Frames that one call sends.
pub const BATCH: usize = 32;
/// Send buffer of the socket, bytes; a veth pair hands frames over at once, so it hardly fills.
const SEND_BUFFER: libc::c_int = 16 << 20;

/// A frame in the ring.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Where it lies, for the other calls.
    pub slot: u32,
    /// Its length on the wire, bytes.
    pub len: usize,
    /// When the kernel received it, nanoseconds of the real-time clock.
    pub stamp: u64,
    /// False if it was longer than a slot: a super-packet, because an offload is on.
    pub whole: bool,
}

/// One end.
pub struct Port {
    fd: OwnedFd,
    map: NonNull<u8>,
    map_len: usize,
    slot_len: usize,
    per_block: usize,
    /// How often each slot is wanted still; zero: it is the kernel's.
    holds: Vec<u8>,
    next: usize,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread; all access to it
// goes through `&self` or `&mut self`, and a Port is never shared (no Sync).
unsafe impl Send for Port {}

fn check(rc: libc::c_int) -> io::Result<libc::c_int> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn set<T>(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the descriptor is open, and pointer and length are those of one live value.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(rc).map(drop)
}

impl Port {
    /// Opens a port on the interface `name` of the calling thread's network namespace, with room for
    /// at least `slots` frames of `frame_len` bytes.
    ///
    /// # Errors
    /// No such interface, no CAP_NET_RAW, or no memory.
    pub fn open(name: &str, frame_len: usize, slots: usize) -> io::Result<Port> {
        let c_name = CString::new(name)?;
        // SAFETY: the pointer is to a live string that ends in zero.
        let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        // No protocol yet: nothing arrives before the ring is there and the interface is chosen.
        // SAFETY: takes three integers.
        let fd = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        set(&fd, libc::SOL_PACKET, PACKET_VERSION, &TPACKET_V2)?;
        set(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1)?;
        set(&fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1)?;
        if set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER).is_err() {
            // Cut to the system's limit without the right to go beyond it.
            set(&fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &SEND_BUFFER)?;
        }
        let slot_len = (frame_len + BEFORE).next_multiple_of(64);
        let per_block = BLOCK / slot_len;
        if per_block == 0 {
            let text = format!("frames of {frame_len} bytes are too long");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let blocks = slots.div_ceil(per_block).max(1);
        let slots = blocks * per_block;
        let map_len = blocks * BLOCK;
        let too_many = |_| io::Error::new(io::ErrorKind::InvalidInput, "too many frames");
        let request = RingRequest {
            block_size: BLOCK as u32,
            block_nr: u32::try_from(blocks).map_err(too_many)?,
            frame_size: slot_len as u32,
            frame_nr: u32::try_from(slots).map_err(too_many)?,
        };
        set(&fd, libc::SOL_PACKET, PACKET_RX_RING, &request)?;
        // SAFETY: a fresh shared mapping of the ring just made, at an address of the kernel's choice.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        let map = match NonNull::new(map.cast::<u8>()) {
            Some(map) if map.as_ptr().cast::<libc::c_void>() != libc::MAP_FAILED => map,
            _ => return Err(io::Error::last_os_error()),
        };
        let port = Port {
            fd,
            map,
            map_len,
            slot_len,
            per_block,
            holds: vec![0; slots],
            next: 0,
        };
        // SAFETY: all-zero is a valid sockaddr_ll.
        let mut addr: libc::sockaddr_ll = unsafe { zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        addr.sll_ifindex = index as libc::c_int;
        // SAFETY: pointer and length are those of one live sockaddr_ll.
        check(unsafe {
            libc::bind(
                port.fd.as_raw_fd(),
                (&raw const addr).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(port)
    }

    /// Frames that the ring holds.
    pub fn slots(&self) -> usize {
        self.holds.len()
    }

    fn start(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.holds.len());
        let at = slot / self.per_block * BLOCK + slot % self.per_block * self.slot_len;
        // SAFETY: block < blocks and the slot lies within its block, so `at` is inside the mapping.
        unsafe { self.map.as_ptr().add(at) }
    }

    fn status(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: `start` is inside the mapping, which lives as long as self, and aligned to 64;
        // the status word is only ever accessed atomically, by the kernel and by us.
        unsafe { &*self.start(slot).add(offset_of!(Header, status)).cast() }
    }

    /// The next frame that has arrived; it stays in the ring until [`Port::release`].
    pub fn take(&mut self) -> Option<Taken> {
        let slot = self.next;
        if self.holds[slot] > 0 || self.status(slot).load(Ordering::Acquire) & STATUS_USER == 0 {
            return None;
        }
        self.next = (slot + 1) % self.holds.len();
        self.holds[slot] = 1;
        // SAFETY: the slot starts with a header that the kernel has filled in and, since its status
        // is "user" (read with acquire), no longer writes to.
        let header = unsafe { &*self.start(slot).cast::<Header>() };
        Some(Taken {
            slot: slot as u32,
            len: header.len as usize,
            stamp: u64::from(header.sec) * 1_000_000_000 + u64::from(header.nsec),
            whole: header.snaplen == header.len,
        })
    }

    /// Wants a frame once more: it needs one more [`Port::release`].
    pub fn hold(&mut self, slot: u32) {
        let holds = &mut self.holds[slot as usize];
        assert!(*holds > 0, "the frame is the kernel's");
        *holds += 1;
    }

    /// Gives a frame back to the kernel, once nobody wants it any more.
    pub fn release(&mut self, slot: u32) {
        let holds = &mut self.holds[slot as usize];
        assert!(*holds > 0, "the frame is the kernel's");
        *holds -= 1;
        if *holds == 0 {
            self.status(slot as usize)
                .store(STATUS_KERNEL, Ordering::Release);
        }
    }

    fn span(&self, slot: u32) -> (*mut u8, usize) {
        assert!(self.holds[slot as usize] > 0, "the frame is the kernel's");
        let start = self.start(slot as usize);
        // SAFETY: as in `take`.
        let header = unsafe { &*start.cast::<Header>() };
        let at = usize::from(header.mac);
        // Never beyond the slot, whatever the header says.
        let len = (header.snaplen as usize).min(self.slot_len.saturating_sub(at));
        // SAFETY: `at` is at most the slot's length where `len` is above zero.
        (unsafe { start.add(at.min(self.slot_len)) }, len)
    }

    /// The bytes of a frame that was taken.
    pub fn bytes(&self, slot: u32) -> &[u8] {
        let (at, len) = self.span(slot);
        // SAFETY: the span lies in a slot that is ours until it is released, which takes &mut self.
        unsafe { std::slice::from_raw_parts(at, len) }
    }

    /// The bytes of a frame that was taken, to change them.
    pub fn bytes_mut(&mut self, slot: u32) -> &mut [u8] {
        let (at, len) = self.span(slot);
        // SAFETY: as in `bytes`, and &mut self excludes every other access.
        unsafe { std::slice::from_raw_parts_mut(at, len) }
    }

    /// Frames that arrived while the ring was full, since the last call.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn overflowed(&self) -> io::Result<u64> {
        let mut stats = [0_u32; 2];
        let mut len = size_of_val(&stats) as libc::socklen_t;
        // SAFETY: pointer and length are those of the live array, which is a `struct tpacket_stats`.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &raw mut len,
            )
        })?;
        Ok(u64::from(stats[1]))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nothing refers to it any more.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

/// Room for one call of `sendmmsg`.
pub struct Batch {
    vectors: Box<[libc::iovec; BATCH]>,
    messages: Box<[libc::mmsghdr; BATCH]>,
}

// SAFETY: the pointers inside are written and read within one call of `send` only.
unsafe impl Send for Batch {}

impl Batch {
    /// Empty.
    pub fn new() -> Batch {
        // SAFETY: all-zero is a valid iovec and a valid mmsghdr.
        unsafe {
            Batch {
                vectors: Box::new(zeroed()),
                messages: Box::new(zeroed()),
            }
        }
    }

    /// Sends up to [`BATCH`] frames of `from` out of `to`; false for each that the kernel did not
    /// take.
    pub fn send(&mut self, from: &Port, slots: &[u32], to: &Port) -> [bool; BATCH] {
        let mut taken = [true; BATCH];
        let count = slots.len().min(BATCH);
        for (i, &slot) in slots[..count].iter().enumerate() {
            let (at, len) = from.span(slot);
            self.vectors[i] = libc::iovec {
                iov_base: at.cast(),
                iov_len: len,
            };
            let message = &mut self.messages[i].msg_hdr;
            message.msg_iov = &raw mut self.vectors[i];
            message.msg_iovlen = 1;
        }
        let mut done = 0;
        while done < count {
            // SAFETY: the messages from `done` on are initialised, their vectors point into slots of
            // `from` that are held and not changed during the call; the kernel only reads them.
            let rc = unsafe {
                libc::sendmmsg(
                    to.fd.as_raw_fd(),
                    self.messages[done..].as_mut_ptr(),
                    (count - done) as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if rc > 0 {
                done += rc as usize;
            } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                // It stands at the first that it does not take.
                taken[done] = false;
                done += 1;
            }
        }
        taken
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

/// Sleeps until a frame arrives at one of `ports` or `timeout_ns` has passed. Only for ports of
/// which no frame is held: the kernel reports others as ready.
pub fn wait(ports: &[Port; 2], timeout_ns: u64) {
    let poll = |p: &Port| libc::pollfd {
        fd: p.fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = [poll(&ports[0]), poll(&ports[1])];
    let timeout = timespec(timeout_ns);
    // SAFETY: pointer and count are those of the live array, and the timeout lives; a failure (a
    // signal) ends the wait early, which is harmless.
    unsafe { libc::ppoll(fds.as_mut_ptr(), 2, &raw const timeout, std::ptr::null()) };
}

/// Sleeps until `at` nanoseconds of the monotonic clock.
pub fn sleep_until(at: u64) {
    let at = timespec(at);
    // SAFETY: the time is live; a failure (a signal) ends the sleep early, which is harmless.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &raw const at,
            std::ptr::null_mut(),
        )
    };
}

/// Nanoseconds of a clock.
pub fn clock(id: libc::clockid_t) -> u64 {
    let mut t = timespec(0);
    // SAFETY: the pointer is to a live timespec; the clocks asked for exist on every Linux.
    unsafe { libc::clock_gettime(id, &raw mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn timespec(ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    }
}
