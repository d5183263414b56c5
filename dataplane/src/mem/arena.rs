//! The slot arena: one mapping, made at start, cut into equal buffers.
//!
//! A [`SlotBuf`] is a token: it is neither `Copy` nor `Clone`, holding one is the exclusive right
//! to its bytes, and dropping it gives the buffer back. Lanes take their buffers when they open
//! and return them when they close, so the lock below is never touched by the data path.

use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Why an arena could not be made or could not lend.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel refused the mapping.
    #[error(
        "cannot map {bytes} bytes for the slot arena: {source}; lower `memory.budget` or free memory"
    )]
    Map {
        /// Size asked for.
        bytes: usize,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Fewer buffers are free than were asked for.
    #[error(
        "the slot arena has {free} of {total} buffers free, {asked} were asked for; raise `memory.budget`, or use fewer lanes or a smaller window"
    )]
    Exhausted {
        /// Buffers free now.
        free: usize,
        /// Buffers there are.
        total: usize,
        /// Buffers asked for.
        asked: usize,
    },
}

/// How an arena is used at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaStats {
    /// Bytes of one buffer.
    pub buf_len: usize,
    /// Buffers in all.
    pub total: usize,
    /// Buffers lent out.
    pub lent: usize,
    /// Whether the kernel gave reserved 2 MiB pages; else they are transparent ones, as far as it has
    /// them, and small ones.
    pub huge: bool,
}

struct Inner {
    base: NonNull<u8>,
    map_len: usize,
    buf_len: usize,
    total: usize,
    huge: bool,
    free: Mutex<Vec<u32>>,
}

// SAFETY: `base` is only read; the bytes behind it are reached through `SlotBuf` alone, whose
// index came off the free list and so is held by one token at a time.
unsafe impl Send for Inner {}
// SAFETY: as above; the free list has its own lock.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: `base..base + map_len` is the mapping made in `Arena::new`; every token holds an
        // `Arc` of this value, so none is left when it is dropped.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.map_len) };
    }
}

/// A pool of equal, 4 KiB-aligned buffers.
#[derive(Clone)]
pub struct Arena(Arc<Inner>);

const HUGE: usize = 2 << 20;

impl Arena {
    /// Maps `count` buffers of at least `buf_len` bytes each (rounded up to 4 KiB), with 2 MiB
    /// pages where the host has them reserved, else with transparent ones where it gives them, and
    /// touches every page so that nothing grows later.
    pub fn new(count: usize, buf_len: usize) -> Result<Arena, ArenaError> {
        let buf_len = buf_len.max(1).next_multiple_of(4096);
        let bytes = (buf_len * count.max(1)).next_multiple_of(HUGE);
        let error = |source| ArenaError::Map { bytes, source };
        let reserved = map(bytes, libc::MAP_HUGETLB | libc::MAP_POPULATE);
        let huge = reserved.is_ok();
        let base = match reserved {
            Ok(base) => base,
            Err(_) => map_transparent(bytes).map_err(error)?,
        };
        let free = Mutex::new((0..count as u32).rev().collect());
        Ok(Arena(Arc::new(Inner {
            base,
            map_len: bytes,
            buf_len,
            total: count,
            huge,
            free,
        })))
    }

    /// Takes `n` buffers, or none at all.
    pub fn take(&self, n: usize) -> Result<Vec<SlotBuf>, ArenaError> {
        let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < n {
            return Err(ArenaError::Exhausted {
                free: free.len(),
                total: self.0.total,
                asked: n,
            });
        }
        let at = free.len() - n;
        Ok(free
            .drain(at..)
            .rev()
            .map(|index| SlotBuf {
                arena: self.0.clone(),
                index,
            })
            .collect())
    }

    /// How full the arena is.
    pub fn stats(&self) -> ArenaStats {
        let free = self
            .0
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len();
        ArenaStats {
            buf_len: self.0.buf_len,
            total: self.0.total,
            lent: self.0.total - free,
            huge: self.0.huge,
        }
    }
}

fn map(bytes: usize, flags: i32) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases nothing that
    // exists.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    match NonNull::new(p.cast::<u8>()) {
        Some(base) if p != libc::MAP_FAILED => Ok(base),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Maps `bytes`, a multiple of 2 MiB, at such a multiple, asks for transparent huge pages, and touches
/// all of it.
fn map_transparent(bytes: usize) -> io::Result<NonNull<u8>> {
    let all = map(bytes + HUGE, 0)?;
    let head = all.addr().get().next_multiple_of(HUGE) - all.addr().get();
    // SAFETY: less than `HUGE` bytes into a mapping that is longer.
    let base = unsafe { all.add(head) };
    // SAFETY: the two ends of the fresh mapping, of less than `HUGE` bytes together with `bytes`
    // between them; nobody knows their addresses. Both are multiples of a page, and one of no bytes
    // is refused and stays as it is.
    unsafe {
        libc::munmap(all.as_ptr().cast(), head);
        libc::munmap(base.add(bytes).as_ptr().cast(), HUGE - head);
    }
    // SAFETY: the fresh mapping; both are hints about it. A kernel that refuses the first gives small
    // pages.
    let populated = unsafe {
        libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
        libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE)
    };
    if populated == 0 {
        return Ok(base);
    }
    let e = io::Error::last_os_error();
    if e.raw_os_error() != Some(libc::EINVAL) {
        // SAFETY: the mapping made above, whose address nobody else knows.
        unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
        return Err(e);
    }
    // Linux before 5.14.
    for page in (0..bytes).step_by(4096) {
        // SAFETY: inside the mapping, which nobody else knows.
        unsafe { base.add(page).write_volatile(0) };
    }
    Ok(base)
}

/// The exclusive right to one buffer of an [`Arena`]; derefs to its bytes.
pub struct SlotBuf {
    arena: Arc<Inner>,
    index: u32,
}

impl SlotBuf {
    fn ptr(&self) -> *mut u8 {
        // SAFETY: `index < total`, so the offset stays inside the mapping.
        unsafe {
            self.arena
                .base
                .as_ptr()
                .add(self.index as usize * self.arena.buf_len)
        }
    }
}

impl std::ops::Deref for SlotBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the buffer is mapped and initialised (zero pages), and this token is the only
        // way to it; `&self` keeps writers out.
        unsafe { std::slice::from_raw_parts(self.ptr(), self.arena.buf_len) }
    }
}

impl std::ops::DerefMut for SlotBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr(), self.arena.buf_len) }
    }
}

impl Drop for SlotBuf {
    fn drop(&mut self) {
        // Capacity is `total` and never exceeded, so the push does not allocate.
        self.arena
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(self.index);
    }
}

impl std::fmt::Debug for SlotBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SlotBuf({})", self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_distinct_and_come_back() {
        let a = Arena::new(4, 5000).expect("small mapping");
        let mut v = a.take(4).expect("four there are");
        assert!(a.take(1).is_err());
        for (i, b) in v.iter_mut().enumerate() {
            b.fill(i as u8 + 1);
        }
        for (i, b) in v.iter().enumerate() {
            assert!(b.iter().all(|&x| x == i as u8 + 1));
            assert_eq!(b.as_ptr() as usize % 4096, 0);
        }
        drop(v);
        assert_eq!(a.stats().lent, 0);
    }

    #[test]
    fn an_impossible_arena_is_an_error() {
        assert!(matches!(
            Arena::new(1 << 20, 1 << 30),
            Err(ArenaError::Map { .. })
        ));
    }
}
