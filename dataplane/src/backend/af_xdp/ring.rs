//! The rings that an AF_XDP socket shares with the kernel: one side writes entries and moves the
//! producer index, the other reads them and moves the consumer index.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// One ring, mapped. `T` is the type of its entries, as the kernel defines it.
struct Ring<T> {
    base: NonNull<u8>,
    map_len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
}

// SAFETY: the pointers go into a mapping that this value owns; entries are reached only through
// `Producer` and `Consumer`, which need `&mut` for it.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps the ring of `size` entries (a power of two) at `page_offset` of socket `fd`.
    ///
    /// # Safety
    /// `T` must be the kernel's type of this ring's entries, any bytes of which are a valid value,
    /// and `off` what XDP_MMAP_OFFSETS said about this ring, which must have been made with `size`.
    unsafe fn map(
        fd: BorrowedFd<'_>,
        page_offset: i64,
        off: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Ring<T>> {
        let map_len = off.desc as usize + size as usize * size_of::<T>();
        // SAFETY: a fresh shared mapping at an address of the kernel's choice aliases nothing.
        let p = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                page_offset,
            )
        };
        let base = match NonNull::new(p.cast::<u8>()) {
            Some(base) if p != libc::MAP_FAILED => base,
            _ => return Err(io::Error::last_os_error()),
        };
        // SAFETY: the kernel gave these offsets for this mapping, whose length covers the indices
        // and `size` entries; they are aligned for what they point to.
        unsafe {
            let at = |o: u64| base.add(o as usize);
            Ok(Ring {
                base,
                map_len,
                producer: at(off.producer).cast(),
                consumer: at(off.consumer).cast(),
                flags: at(off.flags).cast(),
                entries: at(off.desc).cast(),
                size,
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned, inside the mapping, and only ever accessed atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn entry(&self, index: u32) -> NonNull<T> {
        // SAFETY: the mask keeps the index inside the entries.
        unsafe { self.entries.add((index & (self.size - 1)) as usize) }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; nobody else knows its address.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.map_len) };
    }
}

/// Our end of a ring that the kernel reads: fill, or transmit.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    next: u32,
    /// The consumer index as last read.
    taken: u32,
}

impl<T: Copy> Producer<T> {
    /// # Safety
    /// As for `Ring::map`; the kernel must be this ring's consumer.
    pub(super) unsafe fn map(
        fd: BorrowedFd<'_>,
        page_offset: i64,
        off: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Producer<T>> {
        // SAFETY: the caller's promise.
        let ring = unsafe { Ring::map(fd, page_offset, off, size)? };
        let next = ring.producer().load(Ordering::Relaxed);
        let taken = ring.consumer().load(Ordering::Acquire);
        Ok(Producer { ring, next, taken })
    }

    /// Whether `n` more entries fit.
    #[inline]
    pub(super) fn has_room(&mut self, n: u32) -> bool {
        if self.ring.size - self.next.wrapping_sub(self.taken) < n {
            self.taken = self.ring.consumer().load(Ordering::Acquire);
        }
        self.ring.size - self.next.wrapping_sub(self.taken) >= n
    }

    /// Writes one entry; the kernel sees it after [`Producer::publish`]. `false`: no room.
    #[inline]
    pub(super) fn push(&mut self, entry: T) -> bool {
        if !self.has_room(1) {
            return false;
        }
        // SAFETY: between the consumer's index and the end of the ring entries are ours to write.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows the kernel everything pushed.
    #[inline]
    pub(super) fn publish(&self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Entries pushed that the kernel has not taken.
    #[inline]
    pub(super) fn waiting(&mut self) -> u32 {
        self.taken = self.ring.consumer().load(Ordering::Acquire);
        self.next.wrapping_sub(self.taken)
    }

    /// Entries that the kernel had taken when it was last looked, modulo 2^32.
    #[inline]
    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    /// Whether the kernel wants a system call before it goes on.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// Our end of a ring that the kernel writes: receive, or completion.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    next: u32,
    /// The producer index as last read.
    filled: u32,
}

impl<T: Copy> Consumer<T> {
    /// # Safety
    /// As for `Ring::map`; the kernel must be this ring's producer.
    pub(super) unsafe fn map(
        fd: BorrowedFd<'_>,
        page_offset: i64,
        off: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Consumer<T>> {
        // SAFETY: the caller's promise.
        let ring = unsafe { Ring::map(fd, page_offset, off, size)? };
        let next = ring.consumer().load(Ordering::Relaxed);
        let filled = next;
        Ok(Consumer { ring, next, filled })
    }

    /// Takes the oldest entry; the kernel may reuse its place after [`Consumer::release`].
    #[inline]
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.next == self.filled {
            self.filled = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.filled {
                return None;
            }
        }
        // SAFETY: the kernel has written the entries up to its producer index, and leaves them
        // alone until `release`.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Whether an entry waits.
    pub(super) fn has_some(&self) -> bool {
        self.next != self.ring.producer().load(Ordering::Acquire)
    }

    /// Gives the places of everything popped back to the kernel.
    #[inline]
    pub(super) fn release(&self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}
