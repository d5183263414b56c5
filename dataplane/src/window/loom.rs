//! Every interleaving of a three-slot window. Values carry loom's own access tracking, so that a
//! use of a value that races with the other half fails the model even where the bytes come out right.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ctp96 --lib --release window::loom`.

use super::*;
use ::loom::{cell::UnsafeCell, model::Builder, thread};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

struct Tracked(UnsafeCell<u64>);

impl Tracked {
    fn new(v: u64) -> Tracked {
        Tracked(UnsafeCell::new(v))
    }

    fn set(&mut self, v: u64) {
        // SAFETY: `&mut self` is exclusive; loom fails the model if the window broke that.
        self.0.with_mut(|p| unsafe { *p = v });
    }

    fn get(&self) -> u64 {
        // SAFETY: `&self` excludes writers; loom fails the model if the window broke that.
        self.0.with(|p| unsafe { *p })
    }
}

/// Runs `model` over its interleavings and gives the set of its outcomes, so that each test can
/// also say which ones it must have met.
fn outcomes<O: Ord + Send + 'static>(model: impl Fn() -> O + Send + Sync + 'static) -> BTreeSet<O> {
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = all.clone();
    let mut b = Builder::new();
    b.preemption_bound = Some(4);
    b.check(move || {
        let outcome = model();
        seen.lock().expect("no model panics here").insert(outcome);
    });
    let mut all = all.lock().expect("no model panics here");
    std::mem::take(&mut *all)
}

#[test]
fn publish_take_release_and_reuse() {
    let seen = outcomes(|| {
        let (mut w, mut r) = window::<Tracked, 3>();
        let writer = thread::spawn(move || {
            // Out of order inside the window, as a receiver fills it.
            for seq in [1, 0] {
                assert!(w.begin(seq, Tracked::new(seq)).is_ok());
                w.get_mut(seq).expect("filling").set(seq + 10);
                assert!(w.publish(seq));
            }
            // The next generation of class 0, if the reader has released it already.
            let reused = match w.begin(3, Tracked::new(13)) {
                Ok(()) => w.publish(3),
                Err(v) => v.get() != 13,
            };
            (w, reused)
        });
        let mut taken = Vec::new();
        for seq in [0, 1, 3] {
            if r.take(seq) {
                let v = r.get_mut(seq).expect("taken");
                assert_eq!(v.get(), seq + 10);
                v.set(0);
                assert!(r.release(seq));
                taken.push(seq);
            }
        }
        let (mut w, reused) = writer.join().expect("the writer finishes");
        let ready = |&s: &u64| w.state(s) == Some(SlotState::Ready);
        let left = [0, 1, 3].iter().filter(|s| ready(s)).count();
        assert_eq!(taken.len() + left, 2 + usize::from(reused));
        assert!(w.begin(2, Tracked::new(2)).is_ok());
        (taken, reused)
    });
    // Slot 0 was published after slot 1, so whoever gets 0 gets 1 as well.
    let all = [
        (vec![], false),
        (vec![1], false),
        (vec![0, 1], false),
        (vec![0, 1], true),
        (vec![0, 1, 3], true),
    ];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn a_value_comes_back_through_reclaim() {
    let seen = outcomes(|| {
        let (mut w, mut r) = window::<Tracked, 3>();
        assert!(w.begin(0, Tracked::new(1)).is_ok() && w.publish(0));
        let reader = thread::spawn(move || {
            assert!(r.take(0));
            r.get_mut(0).expect("taken").set(2);
            assert!(r.release(0));
            r.take(3).then(|| r.get(3).map(Tracked::get))
        });
        if let Some(mut v) = w.reclaim(0) {
            assert_eq!(v.get(), 2);
            v.set(3);
            assert!(w.begin(3, v).is_ok() && w.publish(3));
        }
        let got = reader.join().expect("the reader finishes");
        got
    });
    assert_eq!(seen, BTreeSet::from([None, Some(Some(3))]));
}

#[test]
fn an_open_slot_goes_to_exactly_one_of_the_two() {
    let seen = outcomes(|| {
        let (mut w, mut r) = window::<Tracked, 3>();
        let reader = thread::spawn(move || {
            let got = r.take_open(0).then(|| {
                let v = r.get_mut(0).expect("taken");
                let n = v.get();
                v.set(99);
                assert!(r.release(0));
                n
            });
            (r, got)
        });
        assert!(w.begin(0, Tracked::new(1)).is_ok() && w.open(0));
        let grown = w.reopen(0);
        if grown {
            let v = w.get_mut(0).expect("ours again");
            assert_eq!(v.get(), 1);
            v.set(2);
            assert!(w.open(0));
        } else {
            assert!(w.get_mut(0).is_none() && !w.publish(0));
        }
        let (mut r, got) = reader.join().expect("the reader finishes");
        match got {
            Some(n) => assert!(n == 1 || (n == 2 && grown)),
            None => {
                assert!(grown, "nobody else could have stopped the writer");
                assert!(r.take_open(0));
                assert_eq!(r.get(0).map(Tracked::get), Some(2));
            }
        }
        (grown, got)
    });
    let all = [(false, Some(1)), (true, Some(2)), (true, None)];
    assert_eq!(seen, BTreeSet::from(all));
}
