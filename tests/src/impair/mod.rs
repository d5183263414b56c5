//! A path with delay, rate, queue and loss between the two hosts of a lab, in user space: for
//! kernels without netem, and for impairments whose every decision can be repeated and counted.
//!
//! ```text
//!   left ctp0 ===== to-a [ wire: ring -> model -> sendmmsg ] to-b ===== ctp0 right
//! ```
//!
//! A third namespace lies between the hosts. Its two interfaces belong to an [`Emulator`], one
//! thread that takes frames from one (`port`), asks the `model` what becomes of them, and sends
//! them out of the other when their time has come. Segmentation and checksum offloads of the hosts
//! are off: frames cross one by one and complete, as on a wire.
//!
//! Times count from the kernel's stamp at a frame's arrival. So a frame that has milliseconds to
//! wait leaves on time even where the thread looks at it late; how late frames did leave is counted
//! ([`Traffic::late_p99`]). [`Traffic::overload`] says whether the emulator, and not the path that it
//! emulates, was the bottleneck; a measurement during which it was is worth nothing.
//!
//! The thread asks for real-time priority (SCHED_FIFO), because it must win against the programs
//! that are measured. It allocates nothing per frame: frames stay in the ring that the kernel put
//! them into until they leave.

pub mod model;
mod port;
mod relay;

pub use model::{Loss, Path};

use crate::lab::{Lab, LabConfig, LabError, Offloads, TO_LEFT, TO_RIGHT};
use crossbeam_channel::{Sender, bounded};
use port::Port;
use relay::{Counts, Order};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How the emulator itself works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest MTU of the interfaces, bytes.
    pub mtu: u32,
    /// Frames that can be on their way in each direction: rate x delay and a full queue must fit.
    /// 1,600 bytes of kernel memory each at MTU 1500.
    pub frames: usize,
    /// How often the thread looks at least, while there is traffic. Frames leave up to this late,
    /// and arrive downstream in groups as long as this.
    pub granularity: Duration,
    /// CPU to stay on.
    pub core: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mtu: 1500,
            frames: 16_384,
            granularity: Duration::from_micros(20),
            core: None,
        }
    }
}

/// Real-time priority that the thread asks for: the lowest, which is above everything else.
const PRIORITY: libc::c_int = 1;

/// What one direction has done since it was last [set](Emulator::set).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames that arrived.
    pub seen_frames: u64,
    /// Bytes of them, Ethernet headers included.
    pub seen_bytes: u64,
    /// Frames that came out, copies included.
    pub passed_frames: u64,
    /// Bytes of them.
    pub passed_bytes: u64,
    /// Address resolution and group membership, which pass unharmed and count nowhere else.
    pub control: u64,
    /// Frames that the path lost.
    pub lost_frames: u64,
    /// Frames that found the queue full.
    pub queue_frames: u64,
    /// Most bytes that have waited for the rate.
    pub queue_high: u64,
    /// Packets marked CE.
    pub marked: u64,
    /// Frames that came out twice.
    pub duplicated: u64,
    /// Frames that were held back.
    pub reordered: u64,
    /// Frames that arrived while the ring was full.
    pub overflow: u64,
    /// Frames that the kernel did not take at the far port.
    pub refused: u64,
    /// Frames too long for the MTU, dropped: super-packets.
    pub oversized: u64,
    /// How late frames came out, median, nanoseconds.
    pub late_p50: u64,
    /// The same, 99th percentile.
    pub late_p99: u64,
    /// The same, the worst.
    pub late_max: u64,
}

impl Traffic {
    fn of(c: &Counts) -> Traffic {
        let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let late = c.late.snapshot();
        Traffic {
            seen_frames: n(&c.seen_frames),
            seen_bytes: n(&c.seen_bytes),
            passed_frames: n(&c.passed_frames),
            passed_bytes: n(&c.passed_bytes),
            control: n(&c.control),
            lost_frames: n(&c.lost_frames),
            queue_frames: n(&c.queue_frames),
            queue_high: n(&c.queue_high),
            marked: n(&c.marked),
            duplicated: n(&c.duplicated),
            reordered: n(&c.reordered),
            overflow: n(&c.overflow),
            refused: n(&c.refused),
            oversized: n(&c.oversized),
            late_p50: late.value_at_quantile(0.5),
            late_p99: late.value_at_quantile(0.99),
            late_max: late.max(),
        }
    }

    /// Frames that are still on their way.
    pub fn waiting(&self) -> u64 {
        let out = self.passed_frames + self.lost_frames + self.queue_frames;
        let gone = out + self.refused + self.oversized;
        (self.seen_frames + self.duplicated).saturating_sub(gone)
    }

    /// Why these figures are the emulator's and not the path's: it lost frames by itself, or one in a
    /// hundred left more than `late` after its time.
    pub fn overload(&self, late: Duration) -> Option<String> {
        let own = [
            (self.overflow, "found the emulator's ring full"),
            (self.refused, "were refused at the far port"),
            (
                self.oversized,
                "were super-packets (an offload of the hosts is on)",
            ),
        ];
        if let Some((n, what)) = own.iter().find(|(n, _)| *n > 0) {
            return Some(format!("{n} frames {what}"));
        }
        let p99 = Duration::from_nanos(self.late_p99);
        (p99 > late)
            .then(|| format!("frames left up to {p99:.1?} late (p99), more than {late:.1?}"))
    }
}

/// The thread between two interfaces; it ends when this is dropped.
pub struct Emulator {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    counts: Mutex<[Arc<Counts>; 2]>,
    options: Options,
    scheduling: String,
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emulator")
            .field("options", &self.options)
            .field("scheduling", &self.scheduling)
            .finish_non_exhaustive()
    }
}

impl Emulator {
    /// Joins two interfaces of the calling thread's network namespace by a path without
    /// impairments. What arrives at the first leaves at the second, and the other way round; nothing
    /// else must forward between them.
    ///
    /// # Errors
    /// No such interface, no CAP_NET_RAW, or no memory for the rings.
    pub fn start(interfaces: [&str; 2], options: &Options) -> Result<Emulator, LabError> {
        let frame = options.mtu as usize + model::ETHERNET as usize;
        let open = |name: &str| {
            Port::open(name, frame, options.frames)
                .map_err(|e| LabError::new(format!("packet socket on {name}: {e}")))
        };
        let ports = [open(interfaces[0])?, open(interfaces[1])?];
        let counts = [Arc::new(Counts::default()), Arc::new(Counts::default())];
        let (orders, inbox) = bounded(1);
        let (told, tell) = bounded(1);
        let (own, core) = (counts.clone(), options.core);
        let granularity_ns = options.granularity.as_nanos() as u64;
        let thread = std::thread::Builder::new()
            .name("ctp96-impair".to_owned())
            .spawn(move || {
                let how = prioritise(core);
                let ready = how.is_ok();
                // Received below, before anything else is done with the channel.
                let _ = told.send(how);
                if ready {
                    let paths = [Path::default(); 2];
                    relay::run(ports, paths, 0, own, granularity_ns, &inbox);
                }
            })
            .map_err(|e| LabError::new(format!("the emulator's thread: {e}")))?;
        let scheduling = tell
            .recv()
            .map_err(|_| LabError::new("the emulator's thread ended early"))??;
        Ok(Emulator {
            orders: Some(orders),
            thread: Some(thread),
            counts: Mutex::new(counts),
            options: options.clone(),
            scheduling,
        })
    }

    /// How the thread is scheduled, for people: where it is not by real-time priority, other load
    /// makes it late.
    pub fn scheduling(&self) -> &str {
        &self.scheduling
    }

    /// Makes the two directions (from the first interface to the second, and back) behave like this,
    /// and starts their counters at zero. `seed` decides about every chance; the same seed and the
    /// same arrivals give the same losses. Frames that are under way leave at their old time.
    ///
    /// # Errors
    /// Figures that make no sense, or more bytes under way than the emulator has room for.
    pub fn set(&self, paths: &[Path; 2], seed: u64) -> Result<(), LabError> {
        for path in paths {
            path.check(self.options.mtu).map_err(LabError::new)?;
            // Full frames: what is shorter comes on top, and is counted if it finds no room.
            let frame = u64::from(self.options.mtu) + model::ETHERNET;
            let most = path.most_bytes().unwrap_or(0).div_ceil(frame);
            if most > self.options.frames as u64 {
                return Err(LabError::new(format!(
                    "rate x delay and a full queue are {most} frames, and there is room for {}",
                    self.options.frames
                )));
            }
        }
        let fresh = [Arc::new(Counts::default()), Arc::new(Counts::default())];
        let (done, answer) = bounded(1);
        let order = Order::Set {
            paths: *paths,
            seed,
            counts: fresh.clone(),
            done,
        };
        let gone = || LabError::new("the emulator's thread has ended");
        let orders = self.orders.as_ref().ok_or_else(gone)?;
        orders.send(order).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?;
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What both directions have done since the last [`Emulator::set`].
    pub fn traffic(&self) -> [Traffic; 2] {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.each_ref().map(|c| Traffic::of(c))
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // The relay ends when nobody can give it orders any more.
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed; there is nobody to pass it on to here.
            let _ = thread.join();
        }
    }
}

impl Lab {
    /// Two hosts with an emulator between them, which passes everything until it is told otherwise
    /// ([`Lab::emulator`], [`Emulator::set`]); the first direction is from left to right. All offloads
    /// of the hosts are off, and they know each other's hardware addresses. Needs `ethtool`.
    ///
    /// # Errors
    /// As for [`Lab::new`] and [`Emulator::start`].
    pub fn with_emulator(options: &Options) -> Result<Lab, LabError> {
        let mut lab = Lab::with_wire(&LabConfig {
            mtu: options.mtu,
            offloads: Offloads::Off,
        })?;
        lab.left.know(&lab.right)?;
        lab.right.know(&lab.left)?;
        let wire = lab.wire().ok_or_else(|| LabError::new("no wire"))?;
        let emulator = wire.run(|| Emulator::start([TO_LEFT, TO_RIGHT], options))??;
        lab.set_emulator(emulator);
        Ok(lab)
    }
}

/// Puts the calling thread on its CPU and before all others, as far as that is allowed; says how.
fn prioritise(core: Option<usize>) -> Result<String, LabError> {
    if let Some(core) = core {
        // SAFETY: all-zero is a valid, empty cpu_set_t; CPU_SET checks its bounds; pointer and
        // length are those of the live set.
        let rc = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(core, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
        };
        if rc != 0 {
            let e = std::io::Error::last_os_error();
            return Err(LabError::new(format!("cannot stay on CPU {core}: {e}")));
        }
    }
    // SAFETY: all-zero is a valid sched_param, and the pointer is to a live one.
    let rc = unsafe {
        let mut param: libc::sched_param = std::mem::zeroed();
        param.sched_priority = PRIORITY;
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param)
    };
    if rc == 0 {
        return Ok("real-time (SCHED_FIFO)".to_owned());
    }
    let why = std::io::Error::last_os_error();
    // SAFETY: takes three integers; a thread's id 0 means the calling thread on Linux.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) } == 0 {
        return Ok(format!("nice -20 (SCHED_FIFO: {why})"));
    }
    Ok(format!("like any other thread (SCHED_FIFO: {why})"))
}
