//! Frame memory and the two move-only handles to it.
//!
//! A [`Region`] is one mapping. Its owner (a pool) hands out disjoint byte ranges of it as
//! [`Burst`]s and [`TxFrame`]s and takes each back before it hands the range out again; that is
//! the whole aliasing argument. A handle carries no reference count: a pool that is dropped while
//! handles are out keeps its mapping alive for ever instead (see [`Region::leak`]).

use std::fmt;
use std::mem;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::mem::{Arena, ArenaError, SlotBuf};

/// One mapping that frames live in.
pub(crate) struct Region {
    _buf: SlotBuf,
    base: NonNull<u8>,
    len: usize,
    huge: bool,
}

// SAFETY: `base` is a plain address; bytes behind it are reached only through handles, each of
// which has its range for itself.
unsafe impl Send for Region {}
// SAFETY: as above; `Region` itself never reads or writes the bytes.
unsafe impl Sync for Region {}

impl Region {
    /// Maps at least `bytes` bytes, page aligned and zeroed.
    pub(crate) fn new(bytes: usize) -> Result<Arc<Region>, ArenaError> {
        let exhausted = ArenaError::Exhausted {
            free: 0,
            total: 1,
            asked: 1,
        };
        let arena = Arena::new(1, bytes)?;
        let huge = arena.stats().huge;
        let mut buf = arena.take(1)?.pop().ok_or(exhausted)?;
        let len = buf.len();
        // From here on the token is only kept, never dereferenced: `base` is the way in.
        let base = NonNull::from(&mut buf[..]).cast();
        Ok(Arc::new(Region {
            _buf: buf,
            base,
            len,
            huge,
        }))
    }

    /// Address of `len` bytes at `offset`; the range is checked, the access is the caller's proof.
    #[inline]
    pub(crate) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset <= self.len && len <= self.len - offset);
        // SAFETY: just checked to lie inside the mapping.
        unsafe { self.base.add(offset) }
    }

    /// Bytes mapped.
    pub(crate) fn size(&self) -> usize {
        self.len
    }

    /// Whether the kernel gave 2 MiB pages.
    pub(crate) fn is_huge(&self) -> bool {
        self.huge
    }

    /// Keeps the mapping for the rest of the process, because handles into it are still out.
    pub(crate) fn leak(self: &Arc<Region>) {
        mem::forget(self.clone());
    }
}

static NEXT_OWNER: AtomicU32 = AtomicU32::new(1);

/// A number that tells the handles of one pool from those of another.
pub(crate) fn next_owner() -> u32 {
    NEXT_OWNER.fetch_add(1, Ordering::Relaxed)
}

/// What a handle does that goes out of scope instead of back to its pool.
///
/// In release builds the bytes leak and `outstanding()` keeps telling; a debug build stops.
#[cold]
fn dropped_unreturned(what: &str) {
    if !cfg!(debug_assertions) || std::thread::panicking() {
        return;
    }
    if cfg!(test) {
        // Debug builds of the tests only; no input can get here.
        panic!("{what} dropped without being returned to its backend");
    }
    eprintln!("{what} dropped without being returned to its backend");
    std::process::abort();
}

/// What was received in one piece: one or more datagrams of one peer, all of the same length
/// except the last, which may be shorter.
///
/// Hand it back with [`Backend::release`](super::Backend::release); it is neither `Copy` nor
/// `Clone`, and a debug build aborts when one is dropped.
#[must_use = "a burst must go back to its backend"]
pub struct Burst {
    ptr: NonNull<u8>,
    len: u32,
    segment: u32,
    pub(super) index: u16,
    ecn: u8,
    queue: u16,
    pub(super) owner: u32,
    from: SocketAddr,
}

/// [`Burst::queue`] of a burst that came through a socket.
const NO_QUEUE: u16 = u16::MAX;

// SAFETY: a burst has its bytes for itself, wherever it is moved.
unsafe impl Send for Burst {}
// SAFETY: through `&Burst` the bytes can only be read.
unsafe impl Sync for Burst {}

impl Burst {
    /// Makes the handle to `len` bytes at `ptr`, cut every `segment` bytes.
    ///
    /// # Safety
    /// The bytes must be initialised, must stay mapped for as long as the handle lives, and nothing
    /// else may touch them until the handle is taken apart by its pool.
    pub(super) unsafe fn new(
        ptr: NonNull<u8>,
        (len, segment): (usize, usize),
        from: SocketAddr,
        ecn: u8,
        index: u16,
        owner: u32,
    ) -> Burst {
        debug_assert!(len > 0 && segment > 0);
        Burst {
            ptr,
            len: len as u32,
            segment: segment as u32,
            index,
            ecn,
            queue: NO_QUEUE,
            owner,
            from,
        }
    }

    /// Notes the receive queue of the network device that it came in on.
    pub(super) fn on_queue(mut self, queue: u16) -> Burst {
        self.queue = queue;
        self
    }

    /// Receive queue of the network device that it came in on, where the backend knows.
    pub fn queue(&self) -> Option<u16> {
        Some(self.queue).filter(|&q| q != NO_QUEUE)
    }

    /// Who sent it. An IPv4 peer is always shown as IPv4, whatever kind of socket heard it.
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// The two ECN bits of the IP header (RFC 3168): 0 not capable, 1 or 2 capable, 3 congestion
    /// experienced.
    pub fn ecn(&self) -> u8 {
        self.ecn
    }

    /// Bytes of all segments together.
    pub fn total_len(&self) -> usize {
        self.len as usize
    }

    /// Length of every segment but the last.
    pub fn segment_len(&self) -> usize {
        self.segment as usize
    }

    /// Datagrams in the burst, at least one.
    pub fn segments(&self) -> usize {
        (self.len as usize).div_ceil(self.segment as usize)
    }

    /// The datagrams in the order in which they came, each to be read or decrypted in place.
    pub fn segments_mut(&mut self) -> std::slice::ChunksMut<'_, u8> {
        let segment = self.segment as usize;
        self.bytes_mut().chunks_mut(segment)
    }

    /// The datagrams one behind the other: each [`segment_len`](Self::segment_len) begins one.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `Burst::new`'s caller promised the bytes to this handle, and `&mut self` makes
        // this the only slice of them.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl Drop for Burst {
    fn drop(&mut self) {
        dropped_unreturned("Burst");
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst")
            .field("from", &self.from)
            .field("len", &self.len)
            .field("segment", &self.segment)
            .finish_non_exhaustive()
    }
}

/// Room for one outgoing datagram; derefs to exactly the bytes that were claimed.
///
/// Hand it back with [`Backend::commit`](super::Backend::commit) or
/// [`Backend::cancel`](super::Backend::cancel); a debug build aborts when one is dropped. The bytes
/// hold what was there before: fill all of them.
#[must_use = "a frame must be committed or cancelled"]
pub struct TxFrame {
    ptr: NonNull<u8>,
    len: u32,
    pub(super) buf: u16,
    pub(super) segment: u16,
    pub(super) owner: u32,
}

// SAFETY: a frame has its bytes for itself, wherever it is moved.
unsafe impl Send for TxFrame {}
// SAFETY: through `&TxFrame` the bytes can only be read.
unsafe impl Sync for TxFrame {}

impl TxFrame {
    /// Makes the handle to `len` bytes at `ptr`: segment `segment` of buffer `buf`.
    ///
    /// # Safety
    /// As for [`Burst::new`].
    pub(super) unsafe fn new(
        ptr: NonNull<u8>,
        len: usize,
        (buf, segment): (u16, u16),
        owner: u32,
    ) -> TxFrame {
        TxFrame {
            ptr,
            len: len as u32,
            buf,
            segment,
            owner,
        }
    }
}

impl Deref for TxFrame {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `TxFrame::new`'s caller promised the bytes to this handle.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for TxFrame {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len as usize) }
    }
}

impl Drop for TxFrame {
    fn drop(&mut self) {
        dropped_unreturned("TxFrame");
    }
}

impl fmt::Debug for TxFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TxFrame({}.{}, {} B)", self.buf, self.segment, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "TxFrame dropped")]
    fn a_lost_frame_stops_the_test() {
        let region = Region::new(4096).expect("map");
        region.leak();
        // SAFETY: the range is inside the mapping, which was just leaked, and has no other user.
        drop(unsafe { TxFrame::new(region.at(64, 10), 10, (0, 0), next_owner()) });
    }

    #[test]
    #[should_panic(expected = "Burst dropped")]
    fn a_lost_burst_stops_the_test() {
        let region = Region::new(4096).expect("map");
        region.leak();
        let from = ([127, 0, 0, 1], 1).into();
        // SAFETY: as above; the mapping is zeroed, so initialised.
        drop(unsafe { Burst::new(region.at(0, 100), (100, 30), from, 0, 0, next_owner()) });
    }

    #[test]
    fn a_burst_is_cut_into_equal_segments_and_a_shorter_last_one() {
        let region = Region::new(4096).expect("map");
        let from = ([127, 0, 0, 1], 1).into();
        // SAFETY: the range is inside the mapping, zeroed, and has no other user.
        let mut b = unsafe { Burst::new(region.at(0, 100), (100, 30), from, 3, 0, 1) };
        assert_eq!(b.segments(), 4);
        assert_eq!(
            b.segments_mut().map(|s| s.len()).collect::<Vec<_>>(),
            [30, 30, 30, 10]
        );
        assert_eq!((b.ecn(), b.total_len(), b.from()), (3, 100, from));
        mem::forget(b);
    }
}
