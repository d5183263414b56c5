//! The pool of receive buffers.

use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::Arc;

use super::frame::{Burst, Region, next_owner};
use crate::mem::ArenaError;

/// Bytes before the first payload byte, so that what follows a 24-byte frame header is 64-byte
/// aligned (see `FRAME_PAD` in `tx`).
pub(crate) use super::tx::FRAME_PAD;

/// Bytes of one receive buffer: the largest UDP payload (65,507), room in front for the kernel's
/// control data, and a multiple of the page so that payloads keep their place within a page.
pub(crate) const RX_STRIDE: usize = (64 << 10) + 4096;

/// Fixed receive buffers, lent out as [`Burst`]s. The last one returned is lent first, so the
/// working set stays as small as the traffic allows.
pub(crate) struct BurstPool {
    region: Arc<Region>,
    free: Vec<u16>,
    lent: usize,
    owner: u32,
}

impl BurstPool {
    /// Maps `count` buffers of [`RX_STRIDE`] bytes.
    pub(crate) fn new(count: u16) -> Result<BurstPool, ArenaError> {
        Ok(BurstPool {
            region: Region::new(usize::from(count) * RX_STRIDE)?,
            free: (0..count).rev().collect(),
            lent: 0,
            owner: next_owner(),
        })
    }

    /// Bursts lent out.
    pub(crate) fn lent(&self) -> usize {
        self.lent
    }

    /// Takes an empty buffer out of the pool, to be filled and given to [`BurstPool::lend`] or
    /// put back with [`BurstPool::put`].
    pub(crate) fn take(&mut self) -> Option<u16> {
        self.free.pop()
    }

    /// Puts back a buffer that [`BurstPool::take`] gave.
    pub(crate) fn put(&mut self, index: u16) {
        debug_assert!(!self.free.contains(&index));
        self.free.push(index);
    }

    /// Address of buffer `index` plus `offset`, with `len` bytes behind it inside the buffer.
    pub(crate) fn at(&self, index: u16, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset + len <= RX_STRIDE);
        self.region.at(usize::from(index) * RX_STRIDE + offset, len)
    }

    /// Lends buffer `index`, taken before and holding `len` bytes at `offset`, as a burst.
    pub(crate) fn lend(
        &mut self,
        index: u16,
        offset: usize,
        (len, segment): (usize, usize),
        from: SocketAddr,
        ecn: u8,
    ) -> Burst {
        let ptr = self.at(index, offset, len);
        self.lent += 1;
        // SAFETY: `at` checked the range; the mapping starts zeroed, so it is initialised; the
        // buffer is off the free list until `reclaim`, and `Drop` keeps the mapping while any
        // burst is out.
        unsafe { Burst::new(ptr, (len, segment.max(1)), from, ecn, index, self.owner) }
    }

    /// Takes a burst apart and gives the index of its buffer, which is then as after
    /// [`BurstPool::take`]. A burst of another pool is a caller's mistake: it leaks.
    pub(crate) fn reclaim(&mut self, burst: Burst) -> Option<u16> {
        let (owner, index) = (burst.owner, burst.index);
        std::mem::forget(burst);
        debug_assert_eq!(owner, self.owner, "burst released to another backend");
        if owner != self.owner {
            return None;
        }
        self.lent -= 1;
        Some(index)
    }
}

impl Drop for BurstPool {
    fn drop(&mut self) {
        if self.lent > 0 {
            self.region.leak();
        }
    }
}
