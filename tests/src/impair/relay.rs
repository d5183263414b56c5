//! The thread that carries frames from one port to the other.

use super::model::{Cause, Direction, Fate, Path, is_control, mark_ce};
use super::port::{BATCH, Batch, Port, clock, sleep_until, wait};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use ctp96::obs::hist::Histogram;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Frames taken from one port before the other has its turn.
const TURN: usize = 128;
/// How long a quiet relay sleeps before it looks for orders.
const IDLE_NS: u64 = 5_000_000;
/// Marks the slot of a frame that is not counted as traffic.
const CONTROL: u32 = 1 << 31;
/// A busy relay sleeps no longer than this, so that the ring does not fill meanwhile.
const DOZE_NS: u64 = 1_000_000;
/// Rounds between two looks at the kernel's count of frames that found the ring full.
const ROUNDS: u64 = 64;
/// A frame's stamp older than this is a clock that was set, not a frame that waited.
const STAMP_MAX_NS: u64 = 1_000_000_000;

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What one direction has counted; written by the relay alone.
        #[derive(Default)]
        pub struct Counts {
            $($(#[$doc])* pub $name: AtomicU64,)+
            /// How late frames came out, after their time, nanoseconds.
            pub late: Histogram,
        }
    };
}

counts! {
    /// Frames that arrived.
    seen_frames,
    /// Bytes of them.
    seen_bytes,
    /// Frames that came out, copies included.
    passed_frames,
    /// Bytes of them.
    passed_bytes,
    /// Address resolution and group membership, which pass unharmed and count nowhere else.
    control,
    /// Frames that the path lost.
    lost_frames,
    /// Frames that found the queue full.
    queue_frames,
    /// Most bytes that have waited.
    queue_high,
    /// Packets marked CE.
    marked,
    /// Frames that came out twice.
    duplicated,
    /// Frames that were held back.
    reordered,
    /// Frames that arrived while the ring was full: the emulator's failure.
    overflow,
    /// Frames that the kernel did not take at the far port: the emulator's failure.
    refused,
    /// Frames longer than a slot, dropped: an offload is on.
    oversized,
}

fn add(counter: &AtomicU64, n: u64) {
    // One writer, so load and store do what fetch_add would, without the bus lock.
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// An order to the relay.
pub enum Order {
    /// Behave like this from now on, and count here.
    Set {
        /// One path a direction.
        paths: [Path; 2],
        /// Decides about all chances.
        seed: u64,
        /// Where to count.
        counts: [Arc<Counts>; 2],
        /// Told when it is done.
        done: Sender<()>,
    },
}

/// Frames on their way in one direction.
struct Flow {
    model: Direction,
    counts: Arc<Counts>,
    /// Time to leave, number, slot. The number keeps equal times in order.
    waiting: BinaryHeap<Reverse<(u64, u64, u32)>>,
    number: u64,
}

impl Flow {
    fn new(path: Path, seed: u64, counts: Arc<Counts>, slots: usize) -> Flow {
        Flow {
            model: Direction::new(path, seed),
            counts,
            // Each may wait twice; the heap never grows beyond this.
            waiting: BinaryHeap::with_capacity(2 * slots),
            number: 0,
        }
    }

    fn push(&mut self, due: u64, slot: u32) {
        self.waiting.push(Reverse((due, self.number, slot)));
        self.number += 1;
    }

    /// Takes up to [`TURN`] frames that have arrived; says how many.
    fn arrive(&mut self, port: &mut Port, now: u64, real: u64) -> usize {
        for n in 0..TURN {
            let Some(frame) = port.take() else {
                return n;
            };
            // Time counts from the kernel's stamp: being late to look makes nothing late that is
            // still to wait.
            let age = real.saturating_sub(frame.stamp);
            let age = if age > STAMP_MAX_NS { 0 } else { age };
            let arrived = now.saturating_sub(age);
            let c = &self.counts;
            if is_control(port.bytes(frame.slot)) {
                add(&c.control, 1);
                let due = self.model.delay_only(arrived);
                self.push(due, frame.slot | CONTROL);
                continue;
            }
            add(&c.seen_frames, 1);
            add(&c.seen_bytes, frame.len as u64);
            if !frame.whole {
                add(&c.oversized, 1);
                port.release(frame.slot);
                continue;
            }
            match self.model.judge(arrived, frame.len) {
                Fate::Dropped(cause) => {
                    add(
                        match cause {
                            Cause::Queue => &c.queue_frames,
                            Cause::Loss => &c.lost_frames,
                        },
                        1,
                    );
                    port.release(frame.slot);
                }
                Fate::Passes {
                    due,
                    mark,
                    twice,
                    late,
                } => {
                    if mark && mark_ce(port.bytes_mut(frame.slot)) {
                        add(&c.marked, 1);
                    }
                    add(&c.reordered, u64::from(late));
                    if twice {
                        add(&c.duplicated, 1);
                        port.hold(frame.slot);
                        self.push(due, frame.slot);
                    }
                    self.push(due, frame.slot);
                }
            }
        }
        TURN
    }

    /// Sends what is due by `now`, up to one batch; says how many.
    fn leave(&mut self, now: u64, from: &mut Port, to: &Port, batch: &mut Batch) -> usize {
        let (mut slots, mut dues, mut n) = ([0; BATCH], [0; BATCH], 0);
        while n < BATCH {
            match self.waiting.peek() {
                Some(Reverse((due, ..))) if *due <= now => {}
                _ => break,
            }
            if let Some(Reverse((due, _, slot))) = self.waiting.pop() {
                (slots[n], dues[n]) = (slot, due);
                n += 1;
            }
        }
        if n == 0 {
            return 0;
        }
        let control = slots.map(|slot| slot & CONTROL != 0);
        let slots = slots.map(|slot| slot & !CONTROL);
        let taken = batch.send(from, &slots[..n], to);
        let left = clock(libc::CLOCK_MONOTONIC);
        let c = &self.counts;
        for i in 0..n {
            if control[i] {
                // Whoever sent it repeats it.
            } else if taken[i] {
                add(&c.passed_frames, 1);
                add(&c.passed_bytes, from.bytes(slots[i]).len() as u64);
                c.late.record(left.saturating_sub(dues[i]));
            } else {
                add(&c.refused, 1);
            }
            from.release(slots[i]);
        }
        n
    }

    fn next_due(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse((due, ..))| *due)
    }
}

/// Carries frames between `ports` until the sender of `orders` is gone.
pub fn run(
    mut ports: [Port; 2],
    paths: [Path; 2],
    seed: u64,
    counts: [Arc<Counts>; 2],
    granularity_ns: u64,
    orders: &Receiver<Order>,
) {
    let slots = ports.each_ref().map(Port::slots);
    let flow = |i: usize, path, seed: u64, counts| {
        // The directions must not lose the same frames.
        Flow::new(path, seed ^ (i as u64) << 63, counts, slots[i])
    };
    let [a, b] = counts;
    let mut flows = [flow(0, paths[0], seed, a), flow(1, paths[1], seed, b)];
    let mut batch = Batch::new();
    let mut delay_ns = least_delay(&paths);
    for round in 1_u64.. {
        match orders.try_recv() {
            Ok(Order::Set {
                paths,
                seed,
                counts,
                done,
            }) => {
                // What is under way stays so, by its old time and the new counters.
                for (i, (flow, counts)) in flows.iter_mut().zip(counts).enumerate() {
                    count_overflow(&ports[i], &flow.counts);
                    flow.model = Direction::new(paths[i], seed ^ (i as u64) << 63);
                    flow.counts = counts;
                }
                delay_ns = least_delay(&paths);
                // The owner may have gone meanwhile.
                let _ = done.send(());
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return,
        }
        let now = clock(libc::CLOCK_MONOTONIC);
        let real = clock(libc::CLOCK_REALTIME);
        let mut done = 0;
        let [left, right] = &mut ports;
        done += flows[0].arrive(left, now, real);
        done += flows[1].arrive(right, now, real);
        done += flows[0].leave(now, left, right, &mut batch);
        done += flows[1].leave(now, right, left, &mut batch);
        for (flow, port) in flows.iter().zip(&ports) {
            let high = flow.model.queue_high();
            flow.counts.queue_high.store(high, Ordering::Relaxed);
            if round % ROUNDS == 0 || done == 0 {
                count_overflow(port, &flow.counts);
            }
        }
        if done >= TURN {
            continue;
        }
        // Frames are awaited by the clock and not one by one: a wake-up for each would cost more
        // than carrying it. What has not arrived yet cannot be due before the least delay is over.
        let due = flows.iter().filter_map(Flow::next_due).min();
        match due {
            None if done == 0 => wait(&ports, IDLE_NS),
            due => {
                let soon = due.unwrap_or(u64::MAX).min(now + delay_ns);
                sleep_until(soon.min(now + DOZE_NS).max(now + granularity_ns));
            }
        }
    }
}

fn least_delay(paths: &[Path; 2]) -> u64 {
    let delays = paths.iter().map(|p| p.delay.as_nanos() as u64);
    delays.min().unwrap_or(0)
}

fn count_overflow(port: &Port, counts: &Counts) {
    // A refusal cannot happen on an open ring, and would show as frames that are missing.
    add(&counts.overflow, port.overflowed().unwrap_or(0));
}
