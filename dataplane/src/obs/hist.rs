//! Latency histograms that cost a few nanoseconds to record and can be read at any time.

use hdrhistogram::Histogram as Hdr;
use serde::{Deserialize, Serialize};
// Not part of any lock-free algorithm, so plain under loom as well.
use std::sync::atomic::{AtomicU64, Ordering};

/// Sub-buckets per octave as a power of two: 32, so half a bucket is at most 1/64 of its value.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Largest value told apart, nanoseconds: one hour. Longer ones are recorded as this.
pub const MAX_NS: u64 = 3_600_000_000_000;
const BUCKETS: usize = bucket(MAX_NS) + 1;

/// Bucket of a value: exact below 64, then 32 equal steps per octave.
const fn bucket(ns: u64) -> usize {
    if ns < SUB as u64 {
        return ns as usize;
    }
    let exp = 63 - ns.leading_zeros();
    let step = (ns >> (exp - SUB_BITS)) as usize & (SUB - 1);
    (exp - SUB_BITS + 1) as usize * SUB + step
}

/// Middle of a bucket.
const fn middle(bucket: usize) -> u64 {
    if bucket < 2 * SUB {
        return bucket as u64;
    }
    let shift = (bucket / SUB - 1) as u32;
    let low = ((SUB + bucket % SUB) as u64) << shift;
    low + (1 << shift) / 2
}

/// A log-linear histogram of nanoseconds, 1 ns to 1 h, each value kept within 1.6 %.
///
/// Single-writer: one thread records with relaxed loads and stores, any number may take snapshots
/// meanwhile. About 10 KB.
pub struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Histogram {
        Histogram {
            buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }

    /// Records one value in nanoseconds; above [`MAX_NS`] counts as [`MAX_NS`].
    #[inline]
    pub fn record(&self, ns: u64) {
        self.record_n(ns, 1);
    }

    /// Records `n` equal values, such as those of a batch.
    #[inline]
    pub fn record_n(&self, ns: u64, n: u64) {
        if n == 0 {
            return;
        }
        let ns = ns.min(MAX_NS);
        let add = |cell: &AtomicU64, by: u64| {
            let v = cell.load(Ordering::Relaxed).wrapping_add(by);
            cell.store(v, Ordering::Relaxed);
        };
        add(&self.buckets[bucket(ns)], n);
        add(&self.sum, ns.wrapping_mul(n));
        if ns > self.max.load(Ordering::Relaxed) {
            self.max.store(ns, Ordering::Relaxed);
        }
    }

    /// Number of values recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).sum()
    }

    /// Sum of all values recorded, nanoseconds (wraps after 584 years).
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// A copy as an HdrHistogram (three significant digits), taken without stopping the writer.
    pub fn snapshot(&self) -> Hdr<u64> {
        let mut out = empty_hdr();
        self.merge_into(&mut out);
        out
    }

    /// Adds this histogram's values onto `out`: the way to merge over cores.
    pub fn merge_into(&self, out: &mut Hdr<u64>) {
        // The writer stores the bucket first and the maximum last, so a maximum read here may be
        // older than the buckets; each bucket is then only capped by its own upper end.
        let max = self.max.load(Ordering::Relaxed);
        let top = bucket(max);
        for (i, cell) in self.buckets.iter().enumerate() {
            let mut n = cell.load(Ordering::Relaxed);
            if n == 0 {
                continue;
            }
            if i == top {
                // The largest value is known exactly: keep it, so that `max` is not rounded.
                out.saturating_record(max);
                n -= 1;
            }
            let value = if i == top {
                middle(i).min(max)
            } else {
                middle(i)
            };
            out.saturating_record_n(value, n);
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram::new()
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Histogram({:?})", Summary::of(&self.snapshot()))
    }
}

/// An empty HdrHistogram wide enough for every value of a [`Histogram`].
pub fn empty_hdr() -> Hdr<u64> {
    // Cannot fail: the bounds are constants with low >= 1, high >= 2 * low and 0..=5 digits.
    Hdr::new_with_bounds(1, MAX_NS, 3).expect("constant bounds are valid")
}

macro_rules! hists {
    ($($variant:ident $name:literal $label:literal;)+) => {
        /// What a histogram measures, in nanoseconds.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Hist {
            $(#[doc = $label] $variant,)+
        }

        impl Hist {
            /// Every histogram in table order; `ALL[h as usize] == h`.
            pub const ALL: &'static [Hist] = &[$(Hist::$variant,)+];
            /// How many histograms there are.
            pub const COUNT: usize = Hist::ALL.len();

            /// Machine-readable name.
            pub const fn name(self) -> &'static str {
                match self { $(Hist::$variant => $name,)+ }
            }

            /// One sentence that says what is measured.
            pub const fn label(self) -> &'static str {
                match self { $(Hist::$variant => $label,)+ }
            }

            /// The histogram of that name.
            pub fn from_name(name: &str) -> Option<Hist> {
                Hist::ALL.iter().copied().find(|h| h.name() == name)
            }
        }
    };
}

hists! {
    OneWaySlot "one_way_slot" "Slot from seal to delivery, one way, both ends on the same host.";
    Rtt "rtt" "Round trip of a path, acknowledgement delay taken off.";
    StageDigest "stage_digest" "Digest of one slot's content.";
    StageCompress "stage_compress" "Compression of one slot, probe included.";
    StageRepair "stage_repair" "Computing one repair symbol.";
    StageSeal "stage_seal" "Sealing one batch of frames.";
    StageSend "stage_send" "Handing one batch of frames to the backend.";
    StageRecv "stage_recv" "Taking one batch of frames from the backend.";
    StageOpen "stage_open" "Parsing, replay check and opening one batch of frames.";
    StageDecode "stage_decode" "Erasure decoding of one slot that had losses.";
    StageDecompress "stage_decompress" "Decompression of one slot.";
}

impl Hist {
    /// Whether the ends of a lane record it. The others are recorded by the core, for all of its
    /// lanes together.
    pub const fn is_per_lane(self) -> bool {
        matches!(
            self,
            Hist::OneWaySlot | Hist::StageDigest | Hist::StageCompress | Hist::StageDecompress
        )
    }
}

/// One [`Histogram`] per [`Hist`], for one writer.
#[derive(Debug)]
pub struct HistSet {
    hists: Vec<Histogram>,
}

impl HistSet {
    /// All empty.
    pub fn new() -> HistSet {
        HistSet {
            hists: (0..Hist::COUNT).map(|_| Histogram::new()).collect(),
        }
    }

    /// Records one value, nanoseconds; only the owning thread may.
    #[inline]
    pub fn record(&self, h: Hist, ns: u64) {
        self.hists[h as usize].record(ns);
    }

    /// The histogram of one quantity.
    pub fn get(&self, h: Hist) -> &Histogram {
        &self.hists[h as usize]
    }

    /// Adds every histogram onto its counterpart in `out` (in the order of [`Hist::ALL`]).
    pub fn merge_into(&self, out: &mut [Hdr<u64>]) {
        for (h, o) in self.hists.iter().zip(out) {
            h.merge_into(o);
        }
    }
}

impl Default for HistSet {
    fn default() -> Self {
        HistSet::new()
    }
}

/// Percentiles of a histogram, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// Values recorded; the other fields are 0 when this is.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// Largest value.
    pub max: u64,
}

impl Summary {
    /// The summary of an HdrHistogram of nanoseconds.
    pub fn of(h: &Hdr<u64>) -> Summary {
        if h.is_empty() {
            return Summary::default();
        }
        Summary {
            count: h.len(),
            mean: h.mean(),
            p50: h.value_at_percentile(50.0),
            p90: h.value_at_percentile(90.0),
            p99: h.value_at_percentile(99.0),
            p999: h.value_at_percentile(99.9),
            max: h.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_are_contiguous_and_tight() {
        let mut last = 0;
        let mut v = 0u64;
        while v <= MAX_NS {
            let b = bucket(v);
            assert!(b == last || b == last + 1, "gap before {v}");
            last = b;
            let error = middle(b).abs_diff(v) as f64;
            assert!(error <= v as f64 / 64.0, "{v} is kept as {}", middle(b));
            v += (v / 4096).max(1);
        }
        assert_eq!(bucket(MAX_NS), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn percentiles_agree_with_sorting(mut values in proptest::collection::vec(
            prop_oneof![1u64..200, 1_000u64..1_000_000, 1u64..MAX_NS], 1..400)) {
            let h = Histogram::new();
            values.iter().for_each(|&v| h.record(v));
            values.sort_unstable();
            let snap = h.snapshot();
            prop_assert_eq!(snap.len(), values.len() as u64);
            prop_assert_eq!(h.sum(), values.iter().sum::<u64>());
            for p in [50.0, 90.0, 99.0, 99.9, 100.0] {
                let rank = ((p / 100.0 * values.len() as f64).ceil() as usize).max(1);
                let truth = values[rank - 1] as f64;
                let got = snap.value_at_percentile(p) as f64;
                // 1/64 from the buckets, 1/1000 from the copy, and one unit of rounding.
                prop_assert!((got - truth).abs() <= truth * 0.0167 + 1.0, "p{}: {} for {}", p, got, truth);
            }
        }
    }

    #[test]
    fn long_values_saturate_and_the_maximum_is_kept() {
        let h = Histogram::new();
        h.record(0);
        h.record(u64::MAX);
        let s = Summary::of(&h.snapshot());
        assert_eq!(s.count, 2);
        assert!(s.max.abs_diff(MAX_NS) <= MAX_NS / 1000);
    }

    #[test]
    fn cores_merge() {
        let (a, b) = (HistSet::new(), HistSet::new());
        (0..90).for_each(|_| a.record(Hist::Rtt, 100_000));
        (0..10).for_each(|_| b.record(Hist::Rtt, 5_000_000));
        let mut all: Vec<_> = Hist::ALL.iter().map(|_| empty_hdr()).collect();
        a.merge_into(&mut all);
        b.merge_into(&mut all);
        let s = Summary::of(&all[Hist::Rtt as usize]);
        assert_eq!(s.count, 100);
        assert!(s.p50.abs_diff(100_000) < 2_000 && s.p99.abs_diff(5_000_000) < 90_000);
        assert_eq!(
            Summary::of(&all[Hist::OneWaySlot as usize]),
            Summary::default()
        );
    }

    #[test]
    fn names_are_unique() {
        for (i, &h) in Hist::ALL.iter().enumerate() {
            assert_eq!(h as usize, i);
            assert_eq!(Hist::from_name(h.name()), Some(h));
        }
    }
}
