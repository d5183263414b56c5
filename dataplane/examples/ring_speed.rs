//! Million items a second through the SPSC ring across two pinned threads, beside
//! crossbeam-channel, and the cost of a slot's way through the window and of an idle wake-up.
//!
//! `cargo run --release -p ctp96 --example ring_speed [million items]`

use crossbeam_channel::bounded;
use ctp96::{
    engine::topology::{Topology, pin_current},
    ring::{Notify, Wakeup, spsc},
    window::window,
};
use std::{hint::black_box, hint::spin_loop, thread, time::Instant};

const CAPACITY: usize = 1024;
const BATCH: usize = 32;
const ROUNDS: usize = 5;

/// Waits a moment for the other side: gives the CPU away after a while, as it may need this one.
fn pause(idle: &mut u32) {
    *idle += 1;
    if idle.is_multiple_of(128) {
        thread::yield_now();
    } else {
        spin_loop();
    }
}

/// Median over the rounds of million items a second; `producer` runs on its own thread.
fn across<P, C>(items: u64, cpus: (usize, usize), mut make: impl FnMut() -> (P, C)) -> f64
where
    P: FnOnce(u64) + Send + 'static,
    C: FnOnce(u64) -> u64 + Send + 'static,
{
    let mut rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (producer, consumer) = make();
            let consumer = thread::spawn(move || {
                pin(cpus.1);
                consumer(items)
            });
            let producer = thread::spawn(move || {
                pin(cpus.0);
                let start = Instant::now();
                producer(items);
                start
            });
            let start = producer.join().expect("the producer finishes");
            let sum = consumer.join().expect("the consumer finishes");
            let rate = items as f64 / start.elapsed().as_secs_f64() / 1e6;
            assert_eq!(sum, items * (items - 1) / 2, "items were lost or doubled");
            rate
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

fn pin(cpu: usize) {
    if let Err(e) = pin_current(cpu) {
        eprintln!("{e}");
    }
}

/// Median over the rounds of nanoseconds for one of `n` calls.
fn cost(n: u64, mut f: impl FnMut(u64)) -> f64 {
    let mut costs: Vec<f64> = (0..ROUNDS as u64)
        .map(|round| {
            let start = Instant::now();
            (round * n..(round + 1) * n).for_each(&mut f);
            start.elapsed().as_nanos() as f64 / n as f64
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    costs[ROUNDS / 2]
}

fn main() {
    let millions = std::env::args().nth(1).and_then(|a| a.parse().ok());
    let items: u64 = millions.unwrap_or(20) * 1_000_000;
    let topology = Topology::detect().expect("an affinity mask");
    let lanes = topology.lane_cpus(Some(2));
    let cpus = (lanes[0].id, lanes[lanes.len() - 1].id);
    println!("CPUs {cpus:?}, {items} items, medians of {ROUNDS}");

    let single = across(items, cpus, || {
        let (mut p, mut c) = spsc::<u64>(CAPACITY);
        let produce = move |n: u64| {
            let mut idle = 0;
            for i in 0..n {
                while p.push(i).is_err() {
                    pause(&mut idle);
                }
            }
        };
        let consume = move |n: u64| {
            let (mut sum, mut got, mut idle) = (0u64, 0, 0);
            while got < n {
                match c.pop() {
                    Some(v) => {
                        sum += v;
                        got += 1;
                    }
                    None => pause(&mut idle),
                }
            }
            sum
        };
        (produce, consume)
    });
    println!("ring, single            {single:8.1} million items/s");

    let batched = across(items, cpus, || {
        let (mut p, mut c) = spsc::<u64>(CAPACITY);
        let produce = move |n: u64| {
            let mut batch = [0u64; BATCH];
            let (mut next, mut idle) = (0, 0);
            while next < n {
                let len = BATCH.min((n - next) as usize);
                batch.iter_mut().zip(next..).for_each(|(to, i)| *to = i);
                let mut rest = &batch[..len];
                while !rest.is_empty() {
                    match p.push_slice(rest) {
                        0 => pause(&mut idle),
                        k => rest = &rest[k..],
                    }
                }
                next += len as u64;
            }
        };
        let consume = move |n: u64| {
            let mut out = Vec::with_capacity(BATCH);
            let (mut sum, mut got, mut idle) = (0u64, 0, 0);
            while got < n {
                match c.pop_into(&mut out, BATCH) {
                    0 => pause(&mut idle),
                    k => got += k as u64,
                }
                sum += out.drain(..).sum::<u64>();
            }
            sum
        };
        (produce, consume)
    });
    println!("ring, batches of {BATCH}     {batched:8.1} million items/s");

    let channel = across(items / 10, cpus, || {
        let (tx, rx) = bounded::<u64>(CAPACITY);
        let produce = move |n: u64| (0..n).for_each(|i| tx.send(i).expect("a receiver"));
        let consume = move |_| rx.iter().sum::<u64>();
        (produce, consume)
    });
    println!("crossbeam-channel       {channel:8.1} million items/s");

    let slots = across(items / 10, cpus, || {
        let (mut w, mut r) = window::<u64, 96>();
        let produce = move |n: u64| {
            let mut idle = 0;
            for seq in 0..n {
                while w.begin(seq, seq).is_err() {
                    pause(&mut idle);
                }
                w.publish(seq);
            }
        };
        let consume = move |n: u64| {
            let (mut sum, mut idle) = (0u64, 0);
            for seq in 0..n {
                while !r.take(seq) {
                    pause(&mut idle);
                }
                sum += r.get(seq).copied().unwrap_or(0);
                r.release(seq);
            }
            sum
        };
        (produce, consume)
    });
    println!("window, two threads     {:8.1} ns a slot", 1e3 / slots);

    pin(cpus.0);
    let (mut w, mut r) = window::<u64, 96>();
    let cycle = cost(items / 10, |seq| {
        let _ = w.begin(seq, seq);
        if let Some(v) = w.get_mut(seq) {
            *v += 1;
        }
        w.publish(seq);
        r.take(seq);
        black_box(r.get(seq));
        r.release(seq);
        black_box(w.reclaim(seq));
    });
    println!("window, one thread      {cycle:8.1} ns a whole slot cycle");

    let notify = Notify::new();
    let idle = cost(items / 10, |_| black_box(&notify).notify());
    println!("Notify, nobody waits    {idle:8.1} ns");
    let wakeup = Wakeup::new().expect("an eventfd");
    let awake = cost(items / 10, |_| {
        black_box(black_box(&wakeup).wake());
    });
    println!("Wakeup, core awake      {awake:8.1} ns");
}
