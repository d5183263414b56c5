//! The two halves of a window and the cells that they share: all `unsafe` of the room is here.
//!
//! Ownership of a cell's value follows its word. Let `w` be the word of cell `i`:
//! - Only the writer moves `w` out of FREE, FILLING; only the reader moves it out of READY, TAKEN;
//!   out of OPEN either does, by compare-and-swap, so exactly one of them succeeds.
//! - The writer touches the value only in FREE or FILLING, the reader only in TAKEN.
//! - A hand-over to the reader is a Release store (OPEN, READY) read by an Acquire load or
//!   compare-and-swap; the way back is a Release store (FREE) read by an Acquire load.
//!
//! There is one `Writer` and one `Reader`, neither is `Clone` nor `Sync`, and values are reached
//! through `&mut self` (or through `&self` that hands out shared references only).

use super::word::{self, MAX_GENERATION, SlotState, SlotView, pack, place};
use crate::base::sync::{Arc, AtomicBool, AtomicU64, Ordering, UnsafeCell};
use crossbeam_utils::CachePadded;
use std::{cell::Cell, marker::PhantomData};

struct Words<const N: usize> {
    words: [CachePadded<AtomicU64>; N],
    /// loom remembers one last access of an atomic and forgets another thread's load when a load of
    /// the same thread follows; a counter bumped before each access shows it all of them. It is
    /// relaxed, so it orders nothing that the words themselves do not.
    #[cfg(loom)]
    probes: [AtomicU64; N],
    writer_gone: AtomicBool,
    reader_gone: AtomicBool,
}

impl<const N: usize> Words<N> {
    #[inline(always)]
    fn at(&self, i: usize) -> &AtomicU64 {
        #[cfg(loom)]
        self.probes[i].fetch_add(1, Ordering::Relaxed);
        &self.words[i]
    }

    #[inline(always)]
    fn is(&self, seq: u64, state: SlotState, order: Ordering) -> bool {
        let (i, generation) = place::<N>(seq);
        word::is(self.at(i).load(order), generation, state)
    }

    /// Moves `seq` on by a plain store; the caller is the only one who may leave its state.
    #[inline(always)]
    fn set(&self, seq: u64, state: SlotState, order: Ordering) {
        let (i, generation) = place::<N>(seq);
        self.at(i).store(pack(generation, state), order);
    }

    #[inline(always)]
    fn leave_open(&self, seq: u64, to: SlotState) -> bool {
        let (i, generation) = place::<N>(seq);
        generation <= MAX_GENERATION
            && self
                .at(i)
                .compare_exchange(
                    pack(generation, SlotState::Open),
                    pack(generation, to),
                    Ordering::Acquire,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    #[inline(always)]
    fn state(&self, seq: u64) -> Option<SlotState> {
        let (i, generation) = place::<N>(seq);
        let w = self.at(i).load(Ordering::Acquire);
        (word::generation(w) == generation).then(|| word::state(w))
    }
}

struct Cells<T, const N: usize>([CachePadded<UnsafeCell<Option<T>>>; N]);

// SAFETY: moving the cells moves the values in them, which are `Send`.
unsafe impl<T: Send, const N: usize> Send for Cells<T, N> {}
// SAFETY: the two halves, each on one thread at a time, are the only ones who reach a cell, and by
// the rules at the top of this file never the same cell at the same time; the Release/Acquire
// pair of each hand-over orders their accesses.
unsafe impl<T: Send, const N: usize> Sync for Cells<T, N> {}

/// Makes an empty window whose cells expect the slots `0..N`, and splits it in its two halves.
pub fn window<T: Send, const N: usize>() -> (Writer<T, N>, Reader<T, N>) {
    const { assert!(N > 0, "a window has at least one slot") };
    let words = Arc::new(Words {
        words: std::array::from_fn(|_| CachePadded::new(AtomicU64::new(pack(0, SlotState::Free)))),
        #[cfg(loom)]
        probes: std::array::from_fn(|_| AtomicU64::new(0)),
        writer_gone: AtomicBool::new(false),
        reader_gone: AtomicBool::new(false),
    });
    let cells = Arc::new(Cells(std::array::from_fn(|_| {
        CachePadded::new(UnsafeCell::new(None))
    })));
    let writer = Writer {
        words: words.clone(),
        cells: cells.clone(),
        not_sync: PhantomData,
    };
    let reader = Reader {
        words,
        cells,
        not_sync: PhantomData,
    };
    (writer, reader)
}

/// The half that fills slots.
///
/// It can move to another thread but not be shared:
/// ```compile_fail
/// fn shared<S: Sync>() {}
/// shared::<ctp96::window::Writer<u64, 96>>();
/// ```
pub struct Writer<T, const N: usize> {
    words: Arc<Words<N>>,
    cells: Arc<Cells<T, N>>,
    not_sync: PhantomData<Cell<()>>,
}

impl<T: Send, const N: usize> Writer<T, N> {
    /// Starts filling slot `seq` with `value`: FREE to FILLING.
    ///
    /// Gives `value` back where the cell does not wait for exactly this slot: it is in use, `seq`
    /// is over already, or it lies beyond the window. A value that an earlier slot left in the cell
    /// and that was not reclaimed is dropped.
    #[inline]
    pub fn begin(&mut self, seq: u64, value: T) -> Result<(), T> {
        let (i, generation) = place::<N>(seq);
        if generation == MAX_GENERATION || !self.is_free(seq) {
            return Err(value);
        }
        // SAFETY: the cell is FREE (Acquire in `is_free`), which only this half can change.
        let left = self.cells.0[i].with_mut(|p| unsafe { (*p).replace(value) });
        self.words.set(seq, SlotState::Filling, Ordering::Relaxed);
        drop(left);
        Ok(())
    }

    /// The value of a slot that is being filled; `None` in any other state.
    #[inline]
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        let (i, _) = place::<N>(seq);
        if !self.filling(seq) {
            return None;
        }
        // SAFETY: the cell is FILLING, so it is ours until this half moves it on, which needs
        // `&mut self` and so the end of this borrow.
        self.cells.0[i].with_mut(|p| unsafe { (*p).as_mut() })
    }

    /// As [`Writer::get_mut`], for reading.
    #[inline]
    pub fn get(&self, seq: u64) -> Option<&T> {
        let (i, _) = place::<N>(seq);
        if !self.filling(seq) {
            return None;
        }
        // SAFETY: as in `get_mut`; `&self` keeps this half from writing meanwhile.
        self.cells.0[i].with(|p| unsafe { (*p).as_ref() })
    }

    /// Hands a filled slot to the reader for good: FILLING to READY. Says whether it was FILLING.
    #[inline]
    pub fn publish(&mut self, seq: u64) -> bool {
        self.hand_over(seq, SlotState::Ready)
    }

    /// Lets the reader take the slot as it stands while more may still be added: FILLING to OPEN.
    /// Says whether it was FILLING.
    #[inline]
    pub fn open(&mut self, seq: u64) -> bool {
        self.hand_over(seq, SlotState::Open)
    }

    /// Takes an open slot back to add to it: OPEN to FILLING. `false` where the reader was faster
    /// (or the slot was not open): what comes next goes into a new slot.
    #[inline]
    pub fn reopen(&mut self, seq: u64) -> bool {
        self.words.leave_open(seq, SlotState::Filling)
    }

    /// Gives up a slot that is being filled: FILLING to FREE of the same generation.
    #[inline]
    pub fn cancel(&mut self, seq: u64) -> Option<T> {
        let (i, _) = place::<N>(seq);
        if !self.filling(seq) {
            return None;
        }
        // SAFETY: the cell is FILLING, so it is ours until this half moves it on.
        let value = self.cells.0[i].with_mut(|p| unsafe { (*p).take() });
        self.words.set(seq, SlotState::Free, Ordering::Relaxed);
        value
    }

    /// The value of a slot that the reader has released, once, as long as no later slot has begun
    /// in its cell.
    #[inline]
    pub fn reclaim(&mut self, seq: u64) -> Option<T> {
        let (i, generation) = place::<N>(seq);
        // A released cell is FREE in the next generation.
        let w = self.words.at(i).load(Ordering::Acquire);
        if generation >= MAX_GENERATION || !word::is(w, generation + 1, SlotState::Free) {
            return None;
        }
        // SAFETY: the cell is FREE (Acquire just above), which only this half can change.
        self.cells.0[i].with_mut(|p| unsafe { (*p).take() })
    }

    /// Whether slot `seq` can begin now.
    #[inline]
    pub fn is_free(&self, seq: u64) -> bool {
        self.words.is(seq, SlotState::Free, Ordering::Acquire)
    }

    /// State of slot `seq`; `None` where its cell is at another generation, so that the slot is
    /// over or lies beyond the window.
    #[inline]
    pub fn state(&self, seq: u64) -> Option<SlotState> {
        self.words.state(seq)
    }

    /// Whether the reader was dropped; nothing will be taken or released any more.
    pub fn reader_gone(&self) -> bool {
        self.words.reader_gone.load(Ordering::Acquire)
    }

    /// A handle that reads states and never values.
    pub fn observer(&self) -> Observer<N> {
        Observer(self.words.clone())
    }

    #[inline(always)]
    fn filling(&self, seq: u64) -> bool {
        // Relaxed: FILLING was stored by this half.
        self.words.is(seq, SlotState::Filling, Ordering::Relaxed)
    }

    #[inline(always)]
    fn hand_over(&mut self, seq: u64, to: SlotState) -> bool {
        let ours = self.filling(seq);
        if ours {
            self.words.set(seq, to, Ordering::Release);
        }
        ours
    }
}

impl<T, const N: usize> Drop for Writer<T, N> {
    fn drop(&mut self) {
        self.words.writer_gone.store(true, Ordering::Release);
    }
}

/// The half that takes slots.
///
/// It can move to another thread but not be shared:
/// ```compile_fail
/// fn shared<S: Sync>() {}
/// shared::<ctp96::window::Reader<u64, 96>>();
/// ```
pub struct Reader<T, const N: usize> {
    words: Arc<Words<N>>,
    cells: Arc<Cells<T, N>>,
    not_sync: PhantomData<Cell<()>>,
}

impl<T: Send, const N: usize> Reader<T, N> {
    /// State of slot `seq`; `None` where its cell is at another generation, so that the slot is
    /// over or lies beyond the window.
    #[inline]
    pub fn state(&self, seq: u64) -> Option<SlotState> {
        self.words.state(seq)
    }

    /// Takes a complete slot: READY to TAKEN. Says whether it was READY.
    #[inline]
    pub fn take(&mut self, seq: u64) -> bool {
        let ready = self.words.is(seq, SlotState::Ready, Ordering::Acquire);
        if ready {
            self.words.set(seq, SlotState::Taken, Ordering::Relaxed);
        }
        ready
    }

    /// Takes an open slot as it stands: OPEN to TAKEN. `false` where it is not open, or the writer
    /// was faster and adds to it.
    #[inline]
    pub fn take_open(&mut self, seq: u64) -> bool {
        self.words.leave_open(seq, SlotState::Taken)
    }

    /// The value of a taken slot; `None` in any other state.
    #[inline]
    pub fn get(&self, seq: u64) -> Option<&T> {
        let (i, _) = place::<N>(seq);
        if !self.taken(seq) {
            return None;
        }
        // SAFETY: the cell is TAKEN, so it is ours until `release`, which needs `&mut self`.
        self.cells.0[i].with(|p| unsafe { (*p).as_ref() })
    }

    /// As [`Reader::get`], for writing, such as decompressing in place.
    #[inline]
    pub fn get_mut(&mut self, seq: u64) -> Option<&mut T> {
        let (i, _) = place::<N>(seq);
        if !self.taken(seq) {
            return None;
        }
        // SAFETY: the cell is TAKEN, so it is ours until `release`, which needs `&mut self` and so
        // the end of this borrow.
        self.cells.0[i].with_mut(|p| unsafe { (*p).as_mut() })
    }

    /// Gives a taken slot back: TAKEN to FREE of the next generation, with its value still inside
    /// for [`Writer::reclaim`]. Says whether it was TAKEN.
    #[inline]
    pub fn release(&mut self, seq: u64) -> bool {
        let ours = self.taken(seq);
        if ours {
            let (i, generation) = place::<N>(seq);
            // No overflow: `begin` lets no slot of MAX_GENERATION in.
            let next = pack(generation + 1, SlotState::Free);
            self.words.at(i).store(next, Ordering::Release);
        }
        ours
    }

    /// The lowest READY slot of `from..from + N`. Reads up to `N` words.
    pub fn next_ready(&self, from: u64) -> Option<u64> {
        (from..from.saturating_add(N as u64))
            .find(|&seq| self.words.is(seq, SlotState::Ready, Ordering::Relaxed))
    }

    /// Whether the writer was dropped; what is READY or OPEN can still be taken.
    pub fn writer_gone(&self) -> bool {
        self.words.writer_gone.load(Ordering::Acquire)
    }

    /// A handle that reads states and never values.
    pub fn observer(&self) -> Observer<N> {
        Observer(self.words.clone())
    }

    #[inline(always)]
    fn taken(&self, seq: u64) -> bool {
        // Relaxed: TAKEN was stored by this half.
        self.words.is(seq, SlotState::Taken, Ordering::Relaxed)
    }
}

impl<T, const N: usize> Drop for Reader<T, N> {
    fn drop(&mut self) {
        self.words.reader_gone.store(true, Ordering::Release);
    }
}

/// Sees the states of a window from any thread and never a value; it keeps no value alive.
#[derive(Clone)]
pub struct Observer<const N: usize>(Arc<Words<N>>);

impl<const N: usize> Observer<N> {
    /// Every cell in order of class. Each entry is true of its own moment; the cells are not read
    /// at one common moment.
    pub fn snapshot(&self) -> [SlotView; N] {
        std::array::from_fn(|i| {
            let w = self.0.at(i).load(Ordering::Relaxed);
            let seq = word::generation(w)
                .saturating_mul(N as u64)
                .saturating_add(i as u64);
            SlotView {
                seq,
                state: word::state(w),
            }
        })
    }
}
