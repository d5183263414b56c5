//! The bounded ring between exactly one producer and one consumer.
//!
//! `tail` counts items ever pushed, `head` items ever popped, both wrapping; item `n` lives in cell
//! `n & mask`. Cells `head..tail` hold items and belong to the consumer, the others are empty and
//! belong to the producer. Each side keeps its own index in a plain field and the other's last
//! known value beside it, so the shared lines are read only when the cached value runs out.

use crate::base::sync::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell};
use crossbeam_utils::CachePadded;
use std::{cell::Cell, marker::PhantomData, mem::MaybeUninit, ops::Range};

struct Shared<T> {
    /// Items ever popped; written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// Items ever pushed; written by the producer.
    tail: CachePadded<AtomicUsize>,
    cells: Box<[UnsafeCell<MaybeUninit<T>>]>,
    producer_gone: AtomicBool,
    consumer_gone: AtomicBool,
}

// SAFETY: moving the ring moves the items in it, which are `Send`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: the two ends, each on one thread at a time, touch disjoint cells (see the top of the
// file): an index is moved by a Release store only after the cells it gives away were used, and
// the other end reads it with Acquire before it uses them.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[inline(always)]
    fn mask(&self) -> usize {
        self.cells.len() - 1
    }

    /// The cells of items `from..from + n` (`n <= capacity`), as the runs before and after the end
    /// of the storage.
    #[inline(always)]
    fn runs(&self, from: usize, n: usize) -> (Range<usize>, Range<usize>) {
        let at = from & self.mask();
        let first = n.min(self.cells.len() - at);
        (at..at + first, 0..n - first)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if !std::mem::needs_drop::<T>() {
            return;
        }
        let tail = self.tail.load(Ordering::Relaxed);
        let mut at = self.head.load(Ordering::Relaxed);
        while at != tail {
            let cell = &self.cells[at & self.mask()];
            // SAFETY: both ends are gone, and cells `head..tail` hold items that nobody popped.
            cell.with_mut(|p| unsafe { (*p).assume_init_drop() });
            at = at.wrapping_add(1);
        }
    }
}

/// Makes a ring that holds `capacity` items, rounded up to a power of two (at least 1).
pub fn spsc<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let shared = Arc::new(Shared {
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
        cells: (0..capacity.max(1).next_power_of_two())
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        producer_gone: AtomicBool::new(false),
        consumer_gone: AtomicBool::new(false),
    });
    let producer = Producer {
        shared: shared.clone(),
        tail: 0,
        head_seen: 0,
        not_sync: PhantomData,
    };
    let consumer = Consumer {
        shared,
        head: 0,
        tail_seen: 0,
        not_sync: PhantomData,
    };
    (producer, consumer)
}

/// The end that pushes. It can move to another thread but not be shared.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: usize,
    not_sync: PhantomData<Cell<()>>,
}

impl<T: Send> Producer<T> {
    /// Pushes one item, or gives it back where the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.room(1) == 0 {
            return Err(item);
        }
        let cell = &self.shared.cells[self.tail & self.shared.mask()];
        // SAFETY: there is room, so the cell at `tail` is empty and ours.
        cell.with_mut(|p| unsafe { (*p).write(item) });
        self.advance(1);
        Ok(())
    }

    /// Pushes as many of `items` as fit, in order, and says how many; the consumer sees them all at
    /// once.
    #[inline]
    pub fn push_slice(&mut self, items: &[T]) -> usize
    where
        T: Copy,
    {
        let n = self.room(items.len()).min(items.len());
        let (a, b) = self.shared.runs(self.tail, n);
        let cells = self.shared.cells[a].iter().chain(&self.shared.cells[b]);
        cells.zip(items).for_each(|(cell, item)| {
            // SAFETY: there is room for `n`, so the cells `tail..tail + n` are empty and ours.
            cell.with_mut(|p| unsafe { (*p).write(*item) });
        });
        self.advance(n);
        n
    }

    /// Pushes from `items` until it ends or the ring is full, and says how many; what does not fit
    /// stays in the iterator. The consumer sees them all at once.
    #[inline]
    pub fn push_from(&mut self, items: &mut impl Iterator<Item = T>) -> usize {
        let mut n = 0;
        // Asks again when the known room is used up, so that only a ring really full ends it.
        while n < self.room(n + 1) {
            let Some(item) = items.next() else { break };
            let cell = &self.shared.cells[self.tail.wrapping_add(n) & self.shared.mask()];
            // SAFETY: `n` is less than the room, so the cell at `tail + n` is empty and ours. Should the iterator
            // panic, the items written so far are forgotten, never popped twice.
            cell.with_mut(|p| unsafe { (*p).write(item) });
            n += 1;
        }
        self.advance(n);
        n
    }

    /// Items that fit now; the consumer can only raise it.
    pub fn free(&mut self) -> usize {
        self.room(usize::MAX)
    }

    /// Items that the ring holds when full.
    pub fn capacity(&self) -> usize {
        self.shared.cells.len()
    }

    /// Whether the consumer was dropped; what is pushed is dropped with the ring.
    pub fn consumer_gone(&self) -> bool {
        self.shared.consumer_gone.load(Ordering::Acquire)
    }

    /// Empty cells; looks at the consumer's index only where fewer than `wanted` are known.
    #[inline(always)]
    fn room(&mut self, wanted: usize) -> usize {
        let used = self.tail.wrapping_sub(self.head_seen);
        if self.shared.cells.len() - used < wanted {
            self.head_seen = self.shared.head.load(Ordering::Acquire);
        }
        self.shared.cells.len() - self.tail.wrapping_sub(self.head_seen)
    }

    #[inline(always)]
    fn advance(&mut self, n: usize) {
        if n > 0 {
            self.tail = self.tail.wrapping_add(n);
            self.shared.tail.store(self.tail, Ordering::Release);
        }
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.shared.producer_gone.store(true, Ordering::Release);
    }
}

/// The end that pops. It can move to another thread but not be shared.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail_seen: usize,
    not_sync: PhantomData<Cell<()>>,
}

impl<T: Send> Consumer<T> {
    /// Pops the oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.available(1) == 0 {
            return None;
        }
        let cell = &self.shared.cells[self.head & self.shared.mask()];
        // SAFETY: an item is there, so the cell at `head` is initialised and ours; moving `head`
        // next makes sure that it is read once.
        let item = cell.with(|p| unsafe { (*p).assume_init_read() });
        self.advance(1);
        Some(item)
    }

    /// The oldest item, left in place.
    #[inline]
    pub fn peek(&mut self) -> Option<&T> {
        if self.available(1) == 0 {
            return None;
        }
        let cell = &self.shared.cells[self.head & self.shared.mask()];
        // SAFETY: the cell at `head` is initialised and ours until `head` moves, which needs
        // `&mut self` and so the end of this borrow.
        Some(cell.with(|p| unsafe { (*p).assume_init_ref() }))
    }

    /// Pops up to `max` items onto the end of `out`, never past its capacity (so it never
    /// allocates), and says how many.
    #[inline]
    pub fn pop_into(&mut self, out: &mut Vec<T>, max: usize) -> usize {
        let max = max.min(out.capacity() - out.len());
        let n = self.available(max).min(max);
        let (a, b) = self.shared.runs(self.head, n);
        for run in [a, b] {
            out.extend(self.shared.cells[run].iter().map(|cell| {
                // SAFETY: cells `head..head + n` are initialised and ours, each is read once, and
                // `head` moves past them before anything else can run: the reserved `extend`
                // neither allocates nor panics.
                cell.with(|p| unsafe { (*p).assume_init_read() })
            }));
        }
        self.advance(n);
        n
    }

    /// Pops into the front of `out` as many as there are or fit, and says how many.
    #[inline]
    pub fn pop_slice(&mut self, out: &mut [T]) -> usize
    where
        T: Copy,
    {
        let n = self.available(out.len()).min(out.len());
        let (a, b) = self.shared.runs(self.head, n);
        let cells = self.shared.cells[a].iter().chain(&self.shared.cells[b]);
        out.iter_mut().zip(cells).for_each(|(to, cell)| {
            // SAFETY: cells `head..head + n` are initialised and ours.
            *to = cell.with(|p| unsafe { (*p).assume_init_read() });
        });
        self.advance(n);
        n
    }

    /// Items that can be popped now; the producer can only raise it.
    pub fn len(&mut self) -> usize {
        self.available(usize::MAX)
    }

    /// Whether there is nothing to pop now.
    pub fn is_empty(&mut self) -> bool {
        self.available(1) == 0
    }

    /// Items that the ring holds when full.
    pub fn capacity(&self) -> usize {
        self.shared.cells.len()
    }

    /// Whether the producer was dropped. What it pushed before can still be popped: once this is
    /// true, an empty ring stays empty.
    pub fn producer_gone(&self) -> bool {
        self.shared.producer_gone.load(Ordering::Acquire)
    }

    /// Items there are; looks at the producer's index only where fewer than `wanted` are known.
    #[inline(always)]
    fn available(&mut self, wanted: usize) -> usize {
        if self.tail_seen.wrapping_sub(self.head) < wanted {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
        }
        self.tail_seen.wrapping_sub(self.head)
    }

    #[inline(always)]
    fn advance(&mut self, n: usize) {
        if n > 0 {
            self.head = self.head.wrapping_add(n);
            self.shared.head.store(self.head, Ordering::Release);
        }
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.shared.consumer_gone.store(true, Ordering::Release);
    }
}
