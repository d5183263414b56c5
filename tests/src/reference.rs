//! An AF_XDP socket of the crate `xsk-rs`, that is of libxdp: the reference that the backend's own
//! sockets are checked and measured against.
//!
//! Ring sizes, frame memory and batches are those of the backend. The XDP program is the backend's
//! too: libxdp's own would give the socket everything that arrives, ARP included.

use std::error::Error as _;
use std::ffi::CString;
use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};
use xdp_prog::{AttachMode, Options, Program};
use xsk_rs::config::{
    BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig, SocketConfigBuilder, UmemConfig,
    UmemConfigBuilder,
};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

/// Frames of one wake-up.
const BATCH: u32 = 64;
/// Memory for frames that [`Reference::send`] writes.
const TX_FRAMES: u32 = 1024;
/// MTU up to which a frame fits one chunk.
const ONE_BUFFER_MTU: usize = 1500;
/// Pieces of the longest frame.
const MAX_PIECES: u32 = 3;
/// Before each received frame, so that its payload is aligned as in the backend.
const HEADROOM: u32 = 62;
/// Bytes of kernel memory for frames under way.
const SEND_BUFFER: i32 = 4 << 20;
/// Most frames that one wake-up sends in copy mode (Linux 6.17), not in libc yet.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
/// The kernel lets go of a queue some time after its socket was closed.
const LET_GO: Duration = Duration::from_secs(2);

/// A socket in copy mode on queue 0 of an interface.
///
/// Every chunk of the memory is in one place at a time: listed in `free`, with the kernel (in a ring,
/// or on its way from one to another), or in the hands of the method that took it off a ring.
pub struct Reference {
    // First, so that it is off the interface before the socket goes.
    _program: Program,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: Umem,
    /// Chunks from here on are for sending.
    first_tx: usize,
    tx_entries: u32,
    free: Vec<FrameDesc>,
    /// What was just taken off the receive ring.
    taken: Vec<FrameDesc>,
    /// What was just taken off the completion ring.
    done: Vec<FrameDesc>,
    /// Received and not wanted.
    refused: Vec<FrameDesc>,
    // Keeps the port, and the kernel from answering that nobody listens.
    port: UdpSocket,
}

impl Reference {
    /// Opens a socket for frames to `listen` on `interface` of the calling thread's namespace.
    /// Frames are those of an MTU of 1,500 or less, or of up to 9,216 in several buffers.
    ///
    /// # Errors
    /// A sentence that says what stands in the way.
    pub fn open(
        interface: &str,
        listen: SocketAddr,
        mtu: usize,
        mode: AttachMode,
    ) -> io::Result<Reference> {
        let gathered = mtu > ONE_BUFFER_MTU;
        let (chunk, rx_entries, tx_entries) = if gathered {
            (4096, 8192, 4096)
        } else {
            (2048, 4096, 1024)
        };
        let port = UdpSocket::bind(listen)?;
        let local = port.local_addr()?;
        let options = Options {
            ports: vec![local.port()],
            addresses: vec![local.ip()],
            mode,
            frags: gathered,
            ..Options::default()
        };
        let mut program = Program::attach(interface, &options).map_err(io::Error::other)?;
        let memory = UmemConfigBuilder::new()
            .frame_size(size(chunk)?)
            .frame_headroom(HEADROOM)
            .fill_queue_size(entries(rx_entries)?)
            .comp_queue_size(entries(tx_entries)?)
            .build()
            .map_err(io::Error::other)?;
        let several = if gathered {
            BindFlags::XDP_USE_SG
        } else {
            BindFlags::empty()
        };
        let config = SocketConfigBuilder::new()
            .rx_queue_size(entries(rx_entries)?)
            .tx_queue_size(entries(tx_entries)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | several)
            .build();
        let (umem, mut chunks) = map(memory, rx_entries + TX_FRAMES)?;
        let (tx, rx, mut fill, completion) = create(interface, config, &umem)?;
        let free = chunks.split_off(rx_entries as usize);
        // SAFETY: the chunks are of this memory, and nobody else has them.
        let filled = unsafe { fill.produce(&chunks) };
        if filled != chunks.len() {
            return Err(io::Error::other("the fill ring does not take its chunks"));
        }
        set(&rx, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER)?;
        // An older kernel has a bound of its own.
        let _ = set(&rx, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, BATCH as i32);
        // SAFETY: the socket is open for as long as `rx` lives, which is longer than this borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };
        program.set_socket(0, fd).map_err(io::Error::other)?;
        let pieces = if gathered { MAX_PIECES } else { 1 };
        let taken = vec![FrameDesc::default(); (BATCH * pieces + MAX_PIECES) as usize];
        Ok(Reference {
            _program: program,
            tx,
            rx,
            fill,
            completion,
            umem,
            first_tx: (rx_entries * chunk) as usize,
            tx_entries,
            free,
            taken,
            done: vec![FrameDesc::default(); BATCH as usize],
            refused: Vec::new(),
            port,
        })
    }

    /// Where frames may be sent.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }

    /// Puts `frame`, Ethernet header and all, in the transmit ring; it leaves with
    /// [`Reference::flush`]. `false`: there is no memory for it, or it does not fit one chunk.
    pub fn send(&mut self, frame: &[u8]) -> bool {
        self.recycle();
        let Some(mut desc) = self.free.pop() else {
            return false;
        };
        // SAFETY: the chunk is of this memory and was free, so it is ours alone.
        let mut data = unsafe { self.umem.data_mut(&mut desc) };
        let fits = data.cursor().write_all(frame).is_ok();
        // SAFETY: as above, and it is given away with this; nothing borrows it any more.
        if fits && unsafe { self.tx.produce_one(&desc) } == 1 {
            return true;
        }
        self.free.push(desc);
        false
    }

    /// Has the kernel send what is in the transmit ring: whether it took everything.
    ///
    /// # Errors
    /// The socket is of no more use.
    pub fn flush(&mut self) -> io::Result<bool> {
        // In copy mode a call sends until the ring is empty or the device is full.
        for _ in 0..BATCH {
            if self.waiting() == 0 {
                return Ok(true);
            }
            self.tx.wakeup()?;
            if self.waiting() > 0 {
                self.recycle();
            }
        }
        Ok(self.waiting() == 0)
    }

    /// Appends up to a batch of the frames that have come: how many.
    pub fn receive(&mut self, out: &mut Vec<Vec<u8>>) -> usize {
        let (n, mut frames, mut first) = (self.take(self.most()), 0, true);
        for desc in &self.taken[..n] {
            // SAFETY: the chunk comes from the receive ring and is given back below: until then it
            // is ours, and nobody writes to it.
            let data = unsafe { self.umem.data(desc) };
            match out.last_mut() {
                Some(frame) if !first => frame.extend_from_slice(data.contents()),
                _ => out.push(data.contents().to_vec()),
            }
            first = !desc.has_more_frames();
            frames += usize::from(first);
        }
        // SAFETY: chunks of this memory, taken off the receive ring and given away with this.
        let filled = unsafe { self.fill.produce(&self.taken[..n]) };
        debug_assert_eq!(filled, n, "the fill ring has room for every receive chunk");
        frames
    }

    /// Sends up to a batch of the frames that have come back, each in the chunks in which it came:
    /// how many. `turn` gets the first chunk of each, with all headers, and says whether it is to go.
    ///
    /// # Errors
    /// The socket is of no more use.
    pub fn echo(&mut self, mut turn: impl FnMut(&mut [u8]) -> bool) -> io::Result<u64> {
        self.recycle();
        let most = self.most();
        let room = self.tx.nb_free(most + MAX_PIECES);
        let n = self.take(most.min(room.saturating_sub(MAX_PIECES)));
        if n == 0 {
            return Ok(0);
        }
        let (mut kept, mut frames, mut first, mut keep) = (0, 0, true, true);
        for i in 0..n {
            let more = self.taken[i].has_more_frames();
            if first {
                // SAFETY: the chunk comes from the receive ring and is given away only below.
                let mut data = unsafe { self.umem.data_mut(&mut self.taken[i]) };
                keep = turn(data.contents_mut());
            }
            first = !more;
            if keep {
                self.taken[i].set_options(u32::from(more) * libc::XDP_PKT_CONTD);
                self.taken[kept] = self.taken[i];
                kept += 1;
                frames += u64::from(first);
            } else {
                self.refused.push(self.taken[i]);
            }
        }
        // SAFETY: chunks of this memory, taken off the receive ring and given away with this; those
        // refused are others, and they are listed nowhere afterwards.
        let (sent, filled) = unsafe {
            (
                self.tx.produce(&self.taken[..kept]),
                self.fill.produce(&self.refused),
            )
        };
        debug_assert_eq!((sent, filled), (kept, self.refused.len()), "there was room");
        self.refused.clear();
        self.flush()?;
        Ok(frames)
    }

    /// Sleeps until frames have come or `timeout` has passed.
    ///
    /// # Errors
    /// The socket cannot be polled.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.rx.poll(timeout.as_millis() as i32).map(drop)
    }

    /// Descriptors of a batch of frames.
    fn most(&self) -> u32 {
        self.taken.len() as u32 - MAX_PIECES
    }

    /// Takes up to `most` descriptors off the receive ring, and the rest of the last frame: how many.
    fn take(&mut self, most: u32) -> usize {
        // SAFETY: this socket's ring, and it has no memory but this one.
        let mut n = unsafe { self.rx.consume(&mut self.taken[..most as usize]) };
        // The kernel shows all pieces of a frame at once.
        while n > 0 && n < self.taken.len() && self.taken[n - 1].has_more_frames() {
            // SAFETY: as above.
            n += unsafe { self.rx.consume_one(&mut self.taken[n]) };
        }
        n
    }

    /// Descriptors in the transmit ring that the kernel has not taken.
    fn waiting(&mut self) -> u32 {
        self.tx_entries - self.tx.nb_free_exact()
    }

    /// Chunks that were sent go where they came from.
    fn recycle(&mut self) {
        loop {
            // SAFETY: this socket's ring, and it has no memory but this one.
            let n = unsafe { self.completion.consume(&mut self.done) };
            if n == 0 {
                return;
            }
            let mut received = 0;
            for i in 0..n {
                let desc = self.done[i];
                if desc.addr() >= self.first_tx {
                    self.free.push(desc);
                } else {
                    self.done[received] = desc;
                    received += 1;
                }
            }
            // SAFETY: chunks of this memory that the kernel has just given back, and that are not
            // among the free ones.
            let filled = unsafe { self.fill.produce(&self.done[..received]) };
            debug_assert_eq!(filled, received, "the fill ring has room for all of them");
        }
    }
}

fn entries(n: u32) -> io::Result<QueueSize> {
    QueueSize::new(n).map_err(io::Error::other)
}

fn size(chunk: u32) -> io::Result<xsk_rs::config::FrameSize> {
    xsk_rs::config::FrameSize::new(chunk).map_err(io::Error::other)
}

fn map(config: UmemConfig, chunks: u32) -> io::Result<(Umem, Vec<FrameDesc>)> {
    let chunks = NonZeroU32::new(chunks).ok_or_else(|| io::Error::other("no memory asked"))?;
    Umem::new(config, chunks, false).map_err(io::Error::other)
}

/// Binds a socket to queue 0.
fn create(
    interface: &str,
    config: SocketConfig,
    umem: &Umem,
) -> io::Result<(TxQueue, RxQueue, FillQueue, CompQueue)> {
    let name = Interface::new(CString::new(interface)?);
    let deadline = Instant::now() + LET_GO;
    loop {
        // SAFETY: no other socket is made with this memory, so none of its sockets has the queue.
        match unsafe { Socket::new(config, umem, &name, 0) } {
            Ok((tx, rx, Some((fill, completion)))) => return Ok((tx, rx, fill, completion)),
            Ok(_) => return Err(io::Error::other("libxdp made no fill ring")),
            Err(e) => {
                let cause = e.source().and_then(|e| e.downcast_ref::<io::Error>());
                let busy = cause.and_then(io::Error::raw_os_error) == Some(libc::EBUSY);
                if !busy || Instant::now() >= deadline {
                    let cause = cause.map_or_else(String::new, |c| format!(": {c}"));
                    return Err(io::Error::other(format!("{e}{cause}")));
                }
            }
        }
        std::thread::sleep(LET_GO / 100);
    }
}

fn set(rx: &RxQueue, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the socket is open, and the value is live and of the length given.
    let r = unsafe {
        libc::setsockopt(
            rx.fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if r == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
