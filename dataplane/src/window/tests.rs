//! The window against an ordered map, and what its types promise.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

const N: usize = 96;

#[derive(Debug, Clone, Copy)]
enum Op {
    Begin,
    Write,
    Publish,
    Open,
    Reopen,
    Cancel,
    Take,
    TakeOpen,
    ReadTaken,
    Release,
    Reclaim,
}

fn op() -> impl Strategy<Value = Op> {
    use Op::*;
    // Steps forward are likelier than steps back, so that runs cross generations.
    prop_oneof![
        4 => Just(Begin), 2 => Just(Write), 4 => Just(Publish), 2 => Just(Open), 1 => Just(Reopen),
        1 => Just(Cancel), 4 => Just(Take), 2 => Just(TakeOpen), 2 => Just(ReadTaken),
        4 => Just(Release), 1 => Just(Reclaim),
    ]
}

/// The window as one ordered map of live slots, and the numbers each class has used up.
#[derive(Default)]
struct Oracle {
    live: BTreeMap<u64, (SlotState, u64)>,
    next: BTreeMap<u64, u64>,
    left: BTreeMap<u64, u64>,
}

impl Oracle {
    fn state(&self, seq: u64) -> Option<SlotState> {
        match self.live.get(&seq) {
            Some((state, _)) => Some(*state),
            None => (self.expected(seq) == seq).then_some(SlotState::Free),
        }
    }

    fn expected(&self, seq: u64) -> u64 {
        let class = seq % N as u64;
        self.next.get(&class).copied().unwrap_or(class)
    }

    fn go(&mut self, seq: u64, from: SlotState, to: SlotState) -> bool {
        match self.live.get_mut(&seq) {
            Some((state, _)) if *state == from => {
                *state = to;
                true
            }
            _ => false,
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_an_ordered_map(ops in proptest::collection::vec((op(), 0u64..6, 0u64..500), 1..800)) {
        use SlotState::*;
        let (mut w, mut r) = window::<u64, N>();
        let observer = w.observer();
        let mut o = Oracle::default();
        for (op, class, pick) in ops {
            // Few classes, and numbers near the one that the class expects: stale, fitting, future.
            let base = o.expected(class * 19);
            let seq = match pick % 10 {
                0 => base.saturating_sub(N as u64),
                1 => base + N as u64,
                2 => base + pick,
                _ => base,
            };
            match op {
                Op::Begin => {
                    let free = o.state(seq) == Some(Free);
                    prop_assert_eq!(w.is_free(seq), free);
                    prop_assert_eq!(w.begin(seq, pick), if free { Ok(()) } else { Err(pick) });
                    if free {
                        o.live.insert(seq, (Filling, pick));
                        o.left.remove(&(seq % N as u64));
                    }
                }
                Op::Write => {
                    let slot = o.live.get_mut(&seq).filter(|(s, _)| *s == Filling).map(|(_, v)| v);
                    let got = w.get_mut(seq);
                    prop_assert_eq!(got.is_some(), slot.is_some());
                    if let (Some(a), Some(b)) = (got, slot) {
                        prop_assert_eq!(*a, *b);
                        *a += 1000;
                        *b += 1000;
                    }
                }
                Op::Publish => prop_assert_eq!(w.publish(seq), o.go(seq, Filling, Ready)),
                Op::Open => prop_assert_eq!(w.open(seq), o.go(seq, Filling, Open)),
                Op::Reopen => prop_assert_eq!(w.reopen(seq), o.go(seq, Open, Filling)),
                Op::Cancel => {
                    let filling = o.state(seq) == Some(Filling);
                    let value = o.live.get(&seq).map(|(_, v)| *v).filter(|_| filling);
                    prop_assert_eq!(w.cancel(seq), value);
                    if filling {
                        o.live.remove(&seq);
                    }
                }
                Op::Take => prop_assert_eq!(r.take(seq), o.go(seq, Ready, Taken)),
                Op::TakeOpen => prop_assert_eq!(r.take_open(seq), o.go(seq, Open, Taken)),
                Op::ReadTaken => {
                    let want = o.live.get(&seq).filter(|(s, _)| *s == Taken).map(|(_, v)| *v);
                    prop_assert_eq!(r.get(seq).copied(), want);
                    prop_assert_eq!(r.get_mut(seq).copied(), want);
                }
                Op::Release => {
                    let taken = o.state(seq) == Some(Taken);
                    prop_assert_eq!(r.release(seq), taken);
                    if taken && let Some((_, v)) = o.live.remove(&seq) {
                        let class = seq % N as u64;
                        o.next.insert(class, seq + N as u64);
                        o.left.insert(class, v);
                    }
                }
                Op::Reclaim => {
                    let over = o.state(seq + N as u64) == Some(Free);
                    let want = over.then(|| o.left.remove(&(seq % N as u64))).flatten();
                    prop_assert_eq!(w.reclaim(seq), want);
                }
            }
            prop_assert_eq!(w.state(seq), o.state(seq));
            prop_assert_eq!(r.state(seq), o.state(seq));
            let live = observer.snapshot().into_iter().filter(|v| v.state != Free)
                .map(|v| (v.seq, v.state)).collect::<BTreeMap<_, _>>();
            prop_assert_eq!(live, o.live.iter().map(|(k, (s, _))| (*k, *s)).collect::<BTreeMap<_, _>>());
            let lowest = o.live.iter().find(|(k, (s, _))| *s == Ready && **k < N as u64).map(|(k, _)| *k);
            prop_assert_eq!(r.next_ready(0), lowest);
        }
    }
}

/// Counts its own drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn values_drop_once_and_with_the_halves_not_the_observer() {
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut w, mut r) = window::<Counted, 3>();
    let observer = w.observer();
    for seq in 0..3 {
        assert!(w.begin(seq, Counted(drops.clone())).is_ok());
        assert!(w.publish(seq));
    }
    assert!(r.take(0) && r.release(0) && r.take(1));
    // The next slot of the class drops what was not reclaimed.
    assert!(w.begin(3, Counted(drops.clone())).is_ok());
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    drop(w);
    assert!(r.writer_gone() && r.take(2));
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    drop(r);
    assert_eq!(drops.load(Ordering::Relaxed), 4);
    assert_eq!(observer.snapshot()[2].state, SlotState::Taken);
}

#[test]
fn numbers_at_the_end_of_the_range_are_refused_or_kept_apart() {
    let (mut w, mut r) = window::<u8, 3>();
    for seq in [3, 1 << 61, 3 << 61, u64::MAX, u64::MAX - 1, u64::MAX - 2] {
        assert_eq!(w.begin(seq, 7), Err(7), "slot {seq} is beyond the window");
        assert!(!w.publish(seq) && !w.reopen(seq) && !r.take(seq) && !r.take_open(seq));
        assert!(!r.release(seq) && w.reclaim(seq).is_none() && r.state(seq).is_none());
    }
    assert_eq!(r.next_ready(u64::MAX), None);
    assert!(w.begin(2, 1).is_ok());
}

#[test]
fn halves_move_to_threads_and_slots_arrive_whole_and_in_order() {
    const SLOTS: u64 = if cfg!(miri) { 200 } else { 100_000 };
    let (mut w, mut r) = window::<Vec<u64>, 7>();
    let writer = std::thread::spawn(move || {
        let mut spare: Vec<Vec<u64>> = (0..7).map(|_| Vec::with_capacity(4)).collect();
        for seq in 0..SLOTS {
            while !w.is_free(seq) {
                std::thread::yield_now();
            }
            if seq >= 7 {
                spare.extend(w.reclaim(seq - 7));
            }
            let mut v = spare.pop().expect("one value for each slot of the window");
            v.clear();
            v.push(seq);
            assert!(w.begin(seq, v).is_ok());
            assert!(w.open(seq));
            // Grow it if the reader lets us; what the reader sees must be whole either way.
            if w.reopen(seq) {
                w.get_mut(seq).expect("reopened").push(!seq);
                assert!(w.publish(seq));
            }
        }
    });
    for seq in 0..SLOTS {
        while !r.take(seq) && !r.take_open(seq) {
            std::thread::yield_now();
        }
        let v = r.get(seq).expect("taken");
        assert!(v.as_slice() == [seq] || v.as_slice() == [seq, !seq]);
        assert!(r.release(seq));
    }
    writer.join().expect("the writer finishes");
}
