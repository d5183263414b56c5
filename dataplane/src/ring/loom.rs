//! Every interleaving of the ring and of the wake-up protocols, on small instances.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p ctp96 --lib --release ring::loom`. A lost wake-up
//! shows as a deadlock, which loom reports.

use super::*;
use ::loom::{
    model::Builder,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use std::{
    collections::BTreeSet,
    future::poll_fn,
    pin::pin,
    task::{Context, Poll, Wake, Waker},
};

/// Wakes a thread of the model that sleeps in [`block_on`].
struct Alarm(Mutex<bool>, Condvar);

impl Wake for Alarm {
    fn wake(self: std::sync::Arc<Self>) {
        *self.0.lock().expect("loom mutexes are never poisoned") = true;
        self.1.notify_one();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let alarm = std::sync::Arc::new(Alarm(Mutex::new(false), Condvar::new()));
    let waker = Waker::from(alarm.clone());
    loop {
        if let Poll::Ready(v) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return v;
        }
        let mut rung = alarm.0.lock().expect("loom mutexes are never poisoned");
        while !*rung {
            rung = alarm.1.wait(rung).expect("loom mutexes are never poisoned");
        }
        *rung = false;
    }
}

/// Runs `model` over its interleavings and gives the set of its outcomes, so that each test can
/// also say which ones it must have met.
fn outcomes<O: Ord + Send + 'static>(model: impl Fn() -> O + Send + Sync + 'static) -> BTreeSet<O> {
    let all = std::sync::Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let seen = all.clone();
    let mut b = Builder::new();
    b.preemption_bound = Some(3);
    b.check(move || {
        let outcome = model();
        seen.lock().expect("no model panics here").insert(outcome);
    });
    let mut all = all.lock().expect("no model panics here");
    std::mem::take(&mut *all)
}

#[test]
fn ring_keeps_order_and_drops_the_rest() {
    let seen = outcomes(|| {
        let (mut p, mut c) = spsc::<std::sync::Arc<u32>>(2);
        let count = std::sync::Arc::new(0);
        let item = count.clone();
        let producer = thread::spawn(move || {
            let mut pushed = 0;
            for i in 1..=3 {
                let mut item = item.clone();
                *std::sync::Arc::make_mut(&mut item) = i;
                if p.push(item).is_ok() {
                    pushed += 1;
                }
            }
            pushed
        });
        let mut last = 0;
        let mut popped = 0;
        for _ in 0..2 {
            if let Some(v) = c.pop() {
                assert!(*v > last);
                last = *v;
                popped += 1;
            }
        }
        let pushed = producer.join().expect("the producer finishes");
        assert!(c.producer_gone() && c.len() == pushed - popped);
        (pushed, popped)
    });
    let all = [(2, 0), (2, 1), (2, 2), (3, 1), (3, 2)];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn ring_moves_batches_around_the_end() {
    let seen = outcomes(|| {
        let (mut p, mut c) = spsc::<u32>(2);
        // Start in the middle of the storage, so that the batches wrap.
        assert!(p.push(0).is_ok() && c.pop() == Some(0));
        let producer = thread::spawn(move || {
            let n = p.push_slice(&[1, 2, 3]);
            assert_eq!(n, 2);
            n + p.push_from(&mut [3, 4].into_iter())
        });
        let mut out = Vec::with_capacity(4);
        c.pop_into(&mut out, 4);
        let mut one = [0];
        let n = c.pop_slice(&mut one);
        out.extend(&one[..n]);
        let pushed = producer.join().expect("the producer finishes");
        let mut rest = Vec::with_capacity(4);
        c.pop_into(&mut rest, 4);
        out.append(&mut rest);
        assert_eq!(out, (1..=pushed as u32).collect::<Vec<_>>());
        pushed
    });
    assert_eq!(seen, BTreeSet::from([2, 3, 4]));
}

#[test]
fn a_thread_never_sleeps_through_a_notification() {
    outcomes(|| {
        let shared = Arc::new((Notify::new(), AtomicBool::new(false)));
        let other = shared.clone();
        let waiter = thread::spawn(move || {
            assert!(other.0.wait(None, || other.1.load(Ordering::Relaxed)));
        });
        shared.1.store(true, Ordering::Relaxed);
        shared.0.notify();
        waiter.join().expect("the waiter wakes");
    });
}

#[test]
fn a_task_never_sleeps_through_a_notification() {
    outcomes(|| {
        let shared = Arc::new((Notify::new(), AtomicBool::new(false)));
        let other = shared.clone();
        let task = thread::spawn(move || {
            block_on(poll_fn(|cx| {
                other.0.poll(cx, || other.1.load(Ordering::Relaxed))
            }));
        });
        shared.1.store(true, Ordering::Relaxed);
        shared.0.notify();
        task.join().expect("the task wakes");
    });
}

#[test]
fn a_task_sees_both_of_two_notifiers() {
    outcomes(|| {
        let shared = Arc::new((
            Notify::new(),
            AtomicBool::new(false),
            AtomicBool::new(false),
        ));
        let (first, second) = (shared.clone(), shared.clone());
        let one = thread::spawn(move || {
            first.1.store(true, Ordering::Relaxed);
            first.0.notify();
        });
        let two = thread::spawn(move || {
            second.2.store(true, Ordering::Relaxed);
            second.0.notify();
        });
        block_on(poll_fn(|cx| {
            shared.0.poll(cx, || {
                shared.1.load(Ordering::Relaxed) && shared.2.load(Ordering::Relaxed)
            })
        }));
        one.join().expect("the first notifier finishes");
        two.join().expect("the second notifier finishes");
    });
}

#[test]
fn a_sleeper_sees_the_work_or_gets_the_signal() {
    let seen = outcomes(|| {
        let shared = Arc::new((SleepFlag::new(), AtomicBool::new(false)));
        let other = shared.clone();
        let waker = thread::spawn(move || {
            other.1.store(true, Ordering::Relaxed);
            other.0.claim()
        });
        shared.0.prepare();
        let saw_work = shared.1.load(Ordering::Relaxed);
        let signalled = waker.join().expect("the waker finishes");
        assert!(saw_work || signalled, "the sleeper would sleep on");
        assert_eq!(
            shared.0.cancel(),
            !signalled,
            "one of the two ends the sleep"
        );
        (saw_work, signalled)
    });
    let all = [(true, false), (false, true), (true, true)];
    assert_eq!(seen, BTreeSet::from(all));
}
