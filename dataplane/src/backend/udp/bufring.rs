//! The ring of provided buffers that a multishot receive takes from.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use crate::backend::frame::Region;

/// Provided buffers: this side appends buffer ids, the kernel takes them in that order.
pub(super) struct BufRing {
    region: Arc<Region>,
    entries: u16,
    tail: u16,
}

impl BufRing {
    /// Registers an empty ring of `entries` (a power of two up to 32,768) as group `group`.
    pub(super) fn register(ring: &IoUring, entries: u16, group: u16) -> io::Result<BufRing> {
        let bytes = usize::from(entries) * size_of::<BufRingEntry>();
        let region = Region::new(bytes).map_err(io::Error::other)?;
        let addr = region.at(0, bytes).as_ptr() as u64;
        // SAFETY: the mapping is page aligned and large enough, and nothing but this value uses
        // it. It is released only after the ring is gone: `Uring` drops its ring first.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(addr, entries, group, 0)?;
        }
        Ok(BufRing {
            region,
            entries,
            tail: 0,
        })
    }

    /// Appends buffer `id`; the caller never has more than `entries` of them in the ring.
    pub(super) fn push(&mut self, id: u16, data: NonNull<u8>, len: usize) {
        let at = usize::from(self.tail & (self.entries - 1)) * size_of::<BufRingEntry>();
        let entry = self.region.at(at, size_of::<BufRingEntry>());
        // SAFETY: `at` checked the range; the kernel reads an entry only up to the tail published
        // below, and this entry lies behind it. Zeroed bytes are a valid entry. The setters leave
        // the last two bytes alone, which in entry 0 are the tail.
        let entry = unsafe { entry.cast::<BufRingEntry>().as_mut() };
        entry.set_addr(data.as_ptr() as u64);
        entry.set_len(len as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        let base = self.region.at(0, size_of::<BufRingEntry>());
        // SAFETY: entry 0 of the ring is mapped and initialised; its tail field is two bytes,
        // two-byte aligned, and shared with the kernel, so it is accessed as an atomic.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base.as_ptr().cast()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
