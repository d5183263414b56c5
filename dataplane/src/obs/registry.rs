//! The writers of a process, and the sums over them.

use super::counters::{Counter, CounterSet};
use super::hist::{Hist, HistSet, empty_hdr};
use hdrhistogram::Histogram as Hdr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counters and histograms of one writing thread.
#[derive(Debug, Default)]
pub struct ThreadStats {
    /// The thread's counters.
    pub counters: CounterSet,
    /// The thread's histograms.
    pub hists: HistSet,
    name: String,
    writer: Option<Writer>,
}

impl ThreadStats {
    /// Statistics that belong to no registry, for tests and tools.
    pub fn new(name: impl Into<String>) -> ThreadStats {
        ThreadStats {
            name: name.into(),
            ..ThreadStats::default()
        }
    }

    /// What writes here, where that is a core or an end of a lane.
    pub fn writer(&self) -> Option<Writer> {
        self.writer
    }

    /// The writer's name, such as `core 3`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Who writes: its name says what the figures are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A lane core, by number.
    Core(usize),
    /// An end of a lane in the hands of the application.
    LaneEnd {
        /// Our index of the session.
        session: u32,
        /// Lane number.
        lane: usize,
        /// Whether it sends.
        sends: bool,
    },
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Writer::Core(id) => write!(f, "core {id}"),
            Writer::LaneEnd {
                session,
                lane,
                sends,
            } => {
                let end = if sends { "send" } else { "receive" };
                write!(f, "session {session:08x} lane {lane} {end}")
            }
        }
    }
}

struct Inner {
    live: Vec<Arc<ThreadStats>>,
    /// What writers that are gone had counted.
    retired: Vec<u64>,
    retired_hists: Vec<Hdr<u64>>,
}

impl Inner {
    /// Folds writers that nobody else holds into the retired sums: totals stay, memory does not
    /// grow with the number of lanes ever opened.
    fn retire(&mut self) {
        let (retired, hists) = (&mut self.retired, &mut self.retired_hists);
        self.live.retain_mut(|stats| {
            // Exclusive access proves that the writer is gone and orders us after its last store.
            let Some(last) = Arc::get_mut(stats) else {
                return true;
            };
            last.counters.add_to(retired);
            last.hists.merge_into(hists);
            false
        });
    }
}

/// Knows every writer of a process. The lock is taken by whoever attaches or reads, never by a
/// writer that counts.
pub struct Registry {
    inner: Mutex<Inner>,
}

impl Registry {
    /// No writers.
    pub fn new() -> Registry {
        Registry {
            inner: Mutex::new(Inner {
                live: Vec::new(),
                retired: vec![0; Counter::COUNT],
                retired_hists: Hist::ALL.iter().map(|_| empty_hdr()).collect(),
            }),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the sums usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Statistics for a new writer. When the writer drops its last handle, its totals are kept.
    pub fn attach(&self, name: impl Into<String>) -> Arc<ThreadStats> {
        self.keep(ThreadStats::new(name))
    }

    /// [`Registry::attach`] for a writer that [`Registry::hists_of`] can tell from others.
    pub fn attach_writer(&self, writer: Writer) -> Arc<ThreadStats> {
        self.keep(ThreadStats {
            writer: Some(writer),
            ..ThreadStats::new(writer.to_string())
        })
    }

    fn keep(&self, stats: ThreadStats) -> Arc<ThreadStats> {
        let stats = Arc::new(stats);
        let mut inner = self.lock();
        inner.retire();
        inner.live.push(Arc::clone(&stats));
        stats
    }

    /// The sums of all counters over all writers, past and present, in the order of
    /// [`Counter::ALL`].
    pub fn counters(&self) -> Vec<u64> {
        let mut inner = self.lock();
        inner.retire();
        let mut sums = inner.retired.clone();
        for stats in &inner.live {
            stats.counters.add_to(&mut sums);
        }
        sums
    }

    /// All histograms merged over all writers, in the order of [`Hist::ALL`].
    pub fn hists(&self) -> Vec<Hdr<u64>> {
        let mut inner = self.lock();
        inner.retire();
        let mut out = inner.retired_hists.clone();
        for stats in &inner.live {
            stats.hists.merge_into(&mut out);
        }
        out
    }

    /// The histograms of the living writers that `wanted` accepts, merged, in the order of
    /// [`Hist::ALL`].
    pub fn hists_of(&self, wanted: impl Fn(Writer) -> bool) -> Vec<Hdr<u64>> {
        let mut out: Vec<_> = Hist::ALL.iter().map(|_| empty_hdr()).collect();
        for stats in &self.lock().live {
            if stats.writer.is_some_and(&wanted) {
                stats.hists.merge_into(&mut out);
            }
        }
        out
    }

    /// The live writers, for a view per core.
    pub fn writers(&self) -> Vec<Arc<ThreadStats>> {
        self.lock().live.clone()
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::new()
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Registry({} writers)", self.lock().live.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_survive_their_writers() {
        let r = Registry::new();
        let keep = r.attach("core 0");
        keep.counters.add(Counter::RxFrames, 1);
        for _ in 0..10 {
            let gone = r.attach("lane");
            gone.counters.add(Counter::RxFrames, 2);
            gone.hists.record(Hist::Rtt, 1_000);
        }
        assert_eq!(r.counters()[Counter::RxFrames as usize], 21);
        assert_eq!(r.counters()[Counter::RxFrames as usize], 21);
        assert_eq!(r.hists()[Hist::Rtt as usize].len(), 10);
        assert_eq!(r.writers().len(), 1);
        assert_eq!(r.writers()[0].name(), "core 0");
    }

    #[test]
    fn writers_are_told_apart() {
        let r = Registry::new();
        let end = |session, lane, sends| Writer::LaneEnd {
            session,
            lane,
            sends,
        };
        let stats = [
            r.attach_writer(Writer::Core(1)),
            r.attach_writer(end(7, 1, true)),
            r.attach_writer(end(8, 1, false)),
            r.attach("core 1"),
        ];
        for (i, s) in stats.iter().enumerate() {
            s.hists.get(Hist::Rtt).record_n(1_000, 1 << i);
        }
        let count = |wanted: &dyn Fn(Writer) -> bool| r.hists_of(wanted)[Hist::Rtt as usize].len();
        assert_eq!(count(&|w| w == Writer::Core(1)), 1);
        assert_eq!(
            count(&|w| matches!(w, Writer::LaneEnd { lane: 1, .. })),
            2 + 4
        );
        assert_eq!(count(&|_| true), 7);
        assert_eq!(r.hists()[Hist::Rtt as usize].len(), 15);
        assert_eq!(stats[1].name(), "session 00000007 lane 1 send");
    }
}
