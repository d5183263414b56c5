//! The ring against a queue, and the wake-ups with real threads and descriptors.

use super::*;
use proptest::prelude::*;
use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

const STRESS: u64 = if cfg!(miri) { 50 } else { 20_000 };

proptest! {
    #[test]
    fn agrees_with_a_vecdeque(cap in 1usize..40, ops in proptest::collection::vec((0u8..7, 0usize..50), 1..300)) {
        let (mut p, mut c) = spsc::<u32>(cap);
        let mut o = VecDeque::new();
        let cap = p.capacity();
        let mut next = 0u32;
        for (op, n) in ops {
            let fit = n.min(cap - o.len());
            let have = n.min(o.len());
            let items: Vec<u32> = (next..).take(n).collect();
            match op {
                0 => {
                    let want = if o.len() < cap { o.push_back(next); Ok(()) } else { Err(next) };
                    prop_assert_eq!(p.push(next), want);
                }
                1 => {
                    prop_assert_eq!(p.push_slice(&items), fit);
                    o.extend(&items[..fit]);
                }
                2 => {
                    let mut it = items.iter().copied();
                    prop_assert_eq!(p.push_from(&mut it), fit);
                    prop_assert_eq!(it.len(), n - fit);
                    o.extend(&items[..fit]);
                }
                3 => {
                    prop_assert_eq!(c.peek().copied(), o.front().copied());
                    prop_assert_eq!(c.pop(), o.pop_front());
                }
                4 => {
                    let mut out = Vec::with_capacity(20);
                    out.push(7);
                    let want = have.min(out.capacity() - 1);
                    prop_assert_eq!(c.pop_into(&mut out, n), want);
                    prop_assert_eq!(&out[1..], o.drain(..want).collect::<Vec<_>>());
                }
                5 => {
                    let mut out = vec![0; n];
                    prop_assert_eq!(c.pop_slice(&mut out), have);
                    prop_assert_eq!(&out[..have], o.drain(..have).collect::<Vec<_>>());
                }
                _ => {
                    prop_assert_eq!((p.free(), c.len()), (cap - o.len(), o.len()));
                    prop_assert_eq!(c.is_empty(), o.is_empty());
                }
            }
            next = next.wrapping_add(n as u32 + 1);
        }
    }
}

#[test]
fn items_cross_threads_whole_and_in_order() {
    let (mut p, mut c) = spsc::<[u64; 2]>(64);
    let producer = thread::spawn(move || {
        let mut next = 0;
        while next < STRESS * 10 {
            let n = (next % 45 + 1).min(STRESS * 10 - next);
            let batch: Vec<[u64; 2]> = (next..next + n).map(|i| [i, !i]).collect();
            let mut rest = &batch[..];
            while !rest.is_empty() {
                rest = &rest[p.push_slice(rest)..];
                thread::yield_now();
            }
            next += n;
        }
    });
    let mut out = Vec::with_capacity(32);
    let mut want = 0;
    while want < STRESS * 10 {
        if c.pop_into(&mut out, 32) == 0 {
            thread::yield_now();
        }
        for [a, b] in out.drain(..) {
            assert_eq!((a, b), (want, !want));
            want += 1;
        }
    }
    producer.join().expect("the producer finishes");
    assert!(c.producer_gone() && c.is_empty());
}

#[test]
fn items_left_inside_are_dropped_once() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let (mut p, mut c) = spsc(4);
    for _ in 0..3 {
        drop(p.push(Counted(drops.clone())));
        drop(c.pop());
    }
    for _ in 0..5 {
        drop(p.push(Counted(drops.clone())));
    }
    // Three popped, and the one that did not fit.
    assert_eq!(drops.load(Ordering::Relaxed), 4);
    drop(c);
    assert!(p.consumer_gone());
    drop(p);
    assert_eq!(drops.load(Ordering::Relaxed), 8);
}

#[test]
fn a_thread_waits_until_its_condition_or_its_timeout() {
    let n = Notify::new();
    assert!(n.wait(None, || true));
    assert!(!n.wait(Some(Duration::ZERO), || false));
    assert!(!n.wait(Some(Duration::from_millis(1)), || false));
    let mut calls = 0;
    assert!(n.wait(Some(Duration::MAX), || {
        calls += 1;
        calls == 2
    }));
}

/// Two threads take turns; each turn is one notification that must not be lost, or the test hangs.
#[test]
fn no_notification_of_a_thread_is_lost() {
    let shared = Arc::new((Notify::new(), Notify::new(), AtomicU64::new(0)));
    let other = shared.clone();
    let t = thread::spawn(move || {
        for i in 0..STRESS {
            assert!(
                other
                    .0
                    .wait(None, || other.2.load(Ordering::Acquire) == 2 * i + 1)
            );
            other.2.store(2 * i + 2, Ordering::Release);
            other.1.notify();
        }
    });
    for i in 0..STRESS {
        shared.2.store(2 * i + 1, Ordering::Release);
        shared.0.notify();
        assert!(
            shared
                .1
                .wait(None, || shared.2.load(Ordering::Acquire) == 2 * i + 2)
        );
    }
    t.join().expect("the other side finishes");
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(v) => return v,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn no_notification_of_a_task_is_lost() {
    let shared = Arc::new((Notify::new(), Notify::new(), AtomicU64::new(0)));
    let other = shared.clone();
    let t = thread::spawn(move || {
        for i in 0..STRESS {
            block_on(poll_fn(|cx| {
                other
                    .0
                    .poll(cx, || other.2.load(Ordering::Acquire) == 2 * i + 1)
            }));
            other.2.store(2 * i + 2, Ordering::Release);
            other.1.notify();
        }
    });
    for i in 0..STRESS {
        shared.2.store(2 * i + 1, Ordering::Release);
        shared.0.notify();
        // A thread on one side and a task on the other of the same pair.
        assert!(
            shared
                .1
                .wait(None, || shared.2.load(Ordering::Acquire) == 2 * i + 2)
        );
    }
    t.join().expect("the task finishes");
}

#[test]
fn a_wakeup_signals_only_a_sleeper_and_only_once() {
    let w = Wakeup::new().expect("an eventfd");
    assert!(!w.wake(), "the core is awake");
    assert!(!w.sleep(Some(Duration::ZERO)).expect("poll"));
    w.prepare_sleep();
    assert!(w.wake() && !w.wake());
    assert!(w.sleep(None).expect("poll"));
    w.cancel();
    assert!(
        !w.sleep(Some(Duration::ZERO)).expect("poll"),
        "the signal was taken back"
    );
    w.prepare_sleep();
    w.cancel();
    assert!(!w.wake());
}

#[test]
fn no_wakeup_of_a_core_is_lost() {
    let (mut p, mut c) = spsc::<u64>(8);
    let core = Arc::new(Wakeup::new().expect("an eventfd"));
    let waker = core.clone();
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    let app = thread::spawn(move || {
        for i in 0..STRESS {
            while p.push(i).is_err() {
                thread::yield_now();
            }
            waker.wake();
            if i % 7 == 0 {
                thread::yield_now();
            }
        }
        finished.store(true, Ordering::Release);
        waker.wake();
    });
    let mut want = 0;
    while want < STRESS {
        while let Some(i) = c.pop() {
            assert_eq!(i, want);
            want += 1;
        }
        core.prepare_sleep();
        if c.is_empty() && !done.load(Ordering::Acquire) {
            core.sleep(None).expect("poll");
        }
        core.cancel();
    }
    app.join().expect("the application finishes");
}
