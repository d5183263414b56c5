//! All counters in one table, and the conservation equations that hold between them.

use std::fmt;
// Counters are no part of any lock-free algorithm, so they stay plain under loom.
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($variant:ident $name:literal $kind:ident $label:literal;)+) => {
        /// One counter. The variant's documentation is also its label.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Counter {
            $(#[doc = $label] $variant,)+
        }

        impl Counter {
            /// Every counter in table order; `ALL[c as usize] == c`.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)+];
            /// How many counters there are.
            pub const COUNT: usize = Counter::ALL.len();

            /// Machine-readable name, as used in JSON and in the metrics text.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)+ }
            }

            /// One sentence that says what is counted.
            pub const fn label(self) -> &'static str {
                match self { $(Counter::$variant => $label,)+ }
            }

            /// Whether this is a level set by its owner, not a count that only grows.
            pub const fn is_gauge(self) -> bool {
                match self { $(Counter::$variant => counters!(@$kind),)+ }
            }

            /// The counter of that name.
            pub fn from_name(name: &str) -> Option<Counter> {
                Counter::ALL.iter().copied().find(|c| c.name() == name)
            }
        }
    };
    (@count) => { false };
    (@gauge) => { true };
}

counters! {
    // Receive: every frame that arrives leaves by exactly one of the exits below it.
    RxFrames "rx_frames" count "Frames taken from the network.";
    RxBytes "rx_bytes" count "Bytes of the frames taken from the network, headers of CTP-96 included.";
    RxMalformed "rx_malformed" count "Frames refused by the parser: truncated, inconsistent lengths or unknown kind.";
    RxOversized "rx_oversized" count "Frames longer than any that this node could have been sent.";
    RxForeign "rx_foreign" count "Frames of an unknown session, lane or version.";
    RxHandshake "rx_handshake" count "Handshake frames handed to the session manager.";
    RxReplayed "rx_replayed" count "Frames whose packet number was seen before or is older than the replay window.";
    RxAuthFailed "rx_auth_failed" count "Frames whose authentication tag did not verify.";
    RxControl "rx_control" count "Authenticated control frames processed.";
    RxSymbolsStored "rx_symbols_stored" count "Authenticated symbols stored into a slot.";
    RxSymbolParts "rx_symbol_parts" count "Frames with a part of a symbol that was not whole yet.";
    RxSymbolsDuplicate "rx_symbols_duplicate" count "Symbols that the slot already had or no longer needs.";
    RxSymbolsOutOfWindow "rx_symbols_out_of_window" count "Symbols of a slot outside the coherence window.";
    RxSymbolsNoBuffer "rx_symbols_no_buffer" count "Symbols dropped because the class of their slot had no free buffer.";
    RxSymbolsInconsistent "rx_symbols_inconsistent" count "Symbols whose shape contradicts earlier symbols of their slot.";
    RxSocketDropped "rx_socket_dropped" count "Datagrams that the kernel dropped because the socket buffer was full.";
    RxFramesEct "rx_frames_ect" count "Frames that came marked ECN-capable or CE.";
    RxFramesCe "rx_frames_ce" count "Frames that came with the congestion mark (ECN CE).";
    RxPaired "rx_paired" count "Frames opened several at once, where the suite gains by that.";
    RxDirect "rx_direct" count "Frames received past the kernel's network stack (AF_XDP).";
    RxMisdirected "rx_misdirected" count "Frames that arrived on another core's queue than their port's and were passed on (AF_XDP).";
    RxErrors "rx_errors" count "Receives or sleeps that the backend reported as failed.";
    RxSlotsStarted "rx_slots_started" count "Slots that received a first symbol.";
    RxSlotsCompleted "rx_slots_completed" count "Slots whose data symbols are all present, with or without repair.";
    RxSlotsDecoded "rx_slots_decoded" count "Completed slots that needed erasure decoding.";
    RxSlotsAbandoned "rx_slots_abandoned" count "Slots started and never completed because their lane or session ended.";
    RxSlotsPending "rx_slots_pending" gauge "Slots started and not yet complete.";
    RxSlotsDelivered "rx_slots_delivered" count "Slots verified and handed to the application.";
    RxSlotsDroppedAtClose "rx_slots_dropped_at_close" count "Complete slots that nobody took before their lane closed.";
    RxSlotsMismatched "rx_slots_mismatched" count "Complete slots whose content failed decompression or its digest.";
    RxSlotsReadyPending "rx_slots_ready_pending" gauge "Complete slots that wait for the application.";
    // Transmit.
    TxSlotsCommitted "tx_slots_committed" count "Slots that the application committed for sending.";
    TxSlotsAcked "tx_slots_acked" count "Slots that the peer acknowledged as complete.";
    TxSlotsAbandoned "tx_slots_abandoned" count "Committed slots given up because their lane or session ended.";
    TxSlotsPending "tx_slots_pending" gauge "Committed slots that wait for their acknowledgement.";
    TxFrames "tx_frames" count "Frames built for the network.";
    TxBytes "tx_bytes" count "Bytes of the frames built for the network, headers of CTP-96 included.";
    TxSymbolsFirst "tx_symbols_first" count "Frames that carry a data symbol for the first time.";
    TxSymbolsRepair "tx_symbols_repair" count "Frames that carry a repair symbol.";
    TxSymbolsResent "tx_symbols_resent" count "Frames that carry a data symbol again.";
    TxSymbolParts "tx_symbol_parts" count "Frames with a further part of a symbol that is longer than the path carries.";
    TxControl "tx_control" count "Control frames built.";
    TxHandshake "tx_handshake" count "Handshake frames built.";
    TxFramesSent "tx_frames_sent" count "Frames that the backend accepted for sending.";
    TxFramesDropped "tx_frames_dropped" count "Frames that the backend could not send and dropped.";
    TxFramesEct "tx_frames_ect" count "Data frames sent marked ECN-capable, ECT(0).";
    TxPaired "tx_paired" count "Frames sealed several at once, where the suite gains by that.";
    TxDirect "tx_direct" count "Frames sent past the kernel's network stack (AF_XDP).";
    TxLostBelow "tx_lost_below" count "Frames that the device dropped for want of room after they were handed to it (AF_XDP).";
    FramesOutstanding "frames_outstanding" gauge "Frames taken from the backend and not given back; between two rounds of a core none are.";
    TxErrors "tx_errors" count "Flushes that the backend reported as failed.";
    // Payload and codec.
    PayloadBytesIn "payload_bytes_in" count "Application bytes committed for sending.";
    PayloadBytesOut "payload_bytes_out" count "Application bytes delivered.";
    BytesBeforeCodec "bytes_before_codec" count "Slot content before compression, bytes.";
    BytesAfterCodec "bytes_after_codec" count "Slot content after compression, bytes (equal where left raw).";
    // Protocol events.
    PtoFired "pto_fired" count "Probe timeouts that fired.";
    PmtuProbes "pmtu_probes" count "Path MTU probes sent.";
    PmtuProbesLost "pmtu_probes_lost" count "Path MTU probes lost while a small frame passed.";
    PmtuBlackHoles "pmtu_black_holes" count "Times that frames of the size in use stopped passing.";
    EcnFailures "ecn_failures" count "Lanes' paths found not to keep ECN marks.";
    Keepalives "keepalives" count "Keepalives sent.";
    AcksSent "acks_sent" count "Acknowledgements sent.";
    AcksReceived "acks_received" count "Acknowledgements received.";
    SessionsOpened "sessions_opened" count "Sessions established.";
    SessionsClosed "sessions_closed" count "Sessions ended, for whatever reason.";
    HandshakesRefused "handshakes_refused" count "Handshakes refused: unknown key, stale timestamp, weaker profile or bad message.";
    CoherenceProofsOk "coherence_proofs_ok" count "Coherence proofs that matched.";
    CoherenceViolations "coherence_violations" count "Coherence proofs that did not match; each one closed its lane.";
    EpochsRatcheted "epochs_ratcheted" count "Key epochs that ended and were replaced by the next.";
    // Core loop.
    CoreSteps "core_steps" count "Rounds of a core's loop.";
    CoreStepsIdle "core_steps_idle" count "Rounds of a core's loop that found nothing to do.";
    CoreSleeps "core_sleeps" count "Times that a core went to sleep for want of work.";
}

/// The counters of one writer.
///
/// Single-writer: only the owning thread may call [`CounterSet::add`] and [`CounterSet::store`].
/// A second writer would be no undefined behaviour, but its additions could be lost. Readers may
/// read at any time; while the owner runs, two counters need not be from the same instant.
#[repr(align(128))]
pub struct CounterSet {
    cells: [AtomicU64; Counter::COUNT],
}

impl CounterSet {
    /// All counters at zero.
    pub const fn new() -> CounterSet {
        CounterSet {
            cells: [const { AtomicU64::new(0) }; Counter::COUNT],
        }
    }

    /// Adds `n`. A relaxed load and store: no locked instruction.
    #[inline]
    pub fn add(&self, c: Counter, n: u64) {
        let cell = &self.cells[c as usize];
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Sets a gauge.
    #[inline]
    pub fn store(&self, c: Counter, value: u64) {
        self.cells[c as usize].store(value, Ordering::Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn get(&self, c: Counter) -> u64 {
        self.cells[c as usize].load(Ordering::Relaxed)
    }

    /// All values, in the order of [`Counter::ALL`].
    pub fn snapshot(&self) -> Vec<u64> {
        Counter::ALL.iter().map(|&c| self.get(c)).collect()
    }

    /// Adds every value onto `sums`, which must have [`Counter::COUNT`] elements to get them all.
    pub fn add_to(&self, sums: &mut [u64]) {
        for (sum, &c) in sums.iter_mut().zip(Counter::ALL) {
            *sum = sum.wrapping_add(self.get(c));
        }
    }
}

impl Default for CounterSet {
    fn default() -> Self {
        CounterSet::new()
    }
}

impl fmt::Debug for CounterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nonzero = Counter::ALL
            .iter()
            .filter(|&&c| self.get(c) != 0)
            .map(|&c| (c.name(), self.get(c)));
        f.debug_map().entries(nonzero).finish()
    }
}

/// The sums over several writers, in the order of [`Counter::ALL`].
pub fn merge<'a>(sets: impl IntoIterator<Item = &'a CounterSet>) -> Vec<u64> {
    let mut sums = vec![0; Counter::COUNT];
    for set in sets {
        set.add_to(&mut sums);
    }
    sums
}

/// A conservation equation: at a quiescent point the two sums are equal.
#[derive(Debug, PartialEq, Eq)]
pub struct Balance {
    /// What is conserved.
    pub name: &'static str,
    /// Counters whose sum is the left side.
    pub left: &'static [Counter],
    /// Counters whose sum is the right side.
    pub right: &'static [Counter],
}

use Counter::*;

/// The conservation equations. Whatever enters a stage leaves it by exactly one counted exit.
pub const BALANCES: &[Balance] = &[
    Balance {
        name: "every frame received has one fate",
        left: &[RxFrames],
        right: &[
            RxMalformed,
            RxOversized,
            RxForeign,
            RxHandshake,
            RxReplayed,
            RxAuthFailed,
            RxControl,
            RxSymbolsStored,
            RxSymbolParts,
            RxSymbolsDuplicate,
            RxSymbolsOutOfWindow,
            RxSymbolsNoBuffer,
            RxSymbolsInconsistent,
        ],
    },
    Balance {
        name: "every slot started completes, is abandoned or is pending",
        left: &[RxSlotsStarted],
        right: &[RxSlotsCompleted, RxSlotsAbandoned, RxSlotsPending],
    },
    Balance {
        name: "every complete slot is delivered, dropped at close, mismatched or waiting",
        left: &[RxSlotsCompleted],
        right: &[
            RxSlotsDelivered,
            RxSlotsDroppedAtClose,
            RxSlotsMismatched,
            RxSlotsReadyPending,
        ],
    },
    Balance {
        name: "every slot committed is acknowledged, abandoned or pending",
        left: &[TxSlotsCommitted],
        right: &[TxSlotsAcked, TxSlotsAbandoned, TxSlotsPending],
    },
    Balance {
        name: "every frame built has one purpose",
        left: &[TxFrames],
        right: &[
            TxSymbolsFirst,
            TxSymbolsRepair,
            TxSymbolsResent,
            TxSymbolParts,
            TxControl,
            TxHandshake,
        ],
    },
    Balance {
        name: "every frame built is sent or dropped",
        left: &[TxFrames],
        right: &[TxFramesSent, TxFramesDropped],
    },
];

/// A broken conservation equation, with both sums. `Display` names every term and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imbalance {
    /// The equation.
    pub balance: &'static Balance,
    /// Left sum.
    pub left: u64,
    /// Right sum.
    pub right: u64,
    /// Value of each term: left side first, then right.
    pub terms: Vec<(Counter, u64)>,
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |range: std::ops::Range<usize>| {
            self.terms[range]
                .iter()
                .map(|(c, v)| format!("{} {v}", c.name()))
                .collect::<Vec<_>>()
                .join(" + ")
        };
        let cut = self.balance.left.len().min(self.terms.len());
        write!(
            f,
            "{}: {} != {} ({} != {})",
            self.balance.name,
            self.left,
            self.right,
            side(0..cut),
            side(cut..self.terms.len())
        )
    }
}

/// Evaluates every equation of [`BALANCES`] on a snapshot in the order of [`Counter::ALL`] and
/// returns the broken ones; empty means that the books balance.
///
/// Only meaningful at a quiescent point: while cores run, a snapshot may catch a frame between two
/// counters. Values missing from a short snapshot count as zero.
pub fn check_balances(snapshot: &[u64]) -> Vec<Imbalance> {
    let value = |c: Counter| snapshot.get(c as usize).copied().unwrap_or(0);
    let sum = |side: &[Counter]| side.iter().fold(0u64, |a, &c| a.wrapping_add(value(c)));
    BALANCES
        .iter()
        .filter_map(|balance| {
            let (left, right) = (sum(balance.left), sum(balance.right));
            (left != right).then(|| Imbalance {
                balance,
                left,
                right,
                terms: balance
                    .left
                    .iter()
                    .chain(balance.right)
                    .map(|&c| (c, value(c)))
                    .collect(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_consistent() {
        let names: HashSet<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Counter::COUNT);
        for (i, &c) in Counter::ALL.iter().enumerate() {
            assert_eq!(c as usize, i);
            assert_eq!(Counter::from_name(c.name()), Some(c));
            assert!(c.label().ends_with('.'), "{} is no sentence", c.name());
            let level = ["_pending", "_outstanding"];
            assert_eq!(c.is_gauge(), level.iter().any(|l| c.name().ends_with(l)));
        }
    }

    #[test]
    fn sets_count_and_merge() {
        let (a, b) = (CounterSet::new(), CounterSet::new());
        a.add(RxFrames, 3);
        a.add(RxFrames, 4);
        b.add(RxFrames, 10);
        b.store(TxSlotsPending, 2);
        assert_eq!(a.get(RxFrames), 7);
        let m = merge([&a, &b]);
        assert_eq!(m[RxFrames as usize], 17);
        assert_eq!(m[TxSlotsPending as usize], 2);
        assert_eq!(m.len(), Counter::COUNT);
    }

    #[test]
    fn a_reader_sees_only_values_that_were_there() {
        let set = std::sync::Arc::new(CounterSet::new());
        let writer = std::sync::Arc::clone(&set);
        let t = std::thread::spawn(move || {
            for _ in 0..100_000 {
                writer.add(RxFrames, 1);
            }
        });
        let mut last = 0;
        while last < 100_000 {
            let now = set.get(RxFrames);
            assert!((last..=100_000).contains(&now));
            last = now;
            std::hint::spin_loop();
        }
        t.join().unwrap();
    }

    #[test]
    fn each_broken_equation_is_named_with_both_sums() {
        assert_eq!(check_balances(&[0; Counter::COUNT]), vec![]);
        for balance in BALANCES {
            for &c in balance.left.iter().chain(balance.right) {
                let set = CounterSet::new();
                set.add(c, 5);
                let broken = check_balances(&set.snapshot());
                let this = broken.iter().find(|i| i.balance == balance).unwrap();
                let on_left = balance.left.contains(&c);
                assert_eq!(
                    (this.left, this.right),
                    if on_left { (5, 0) } else { (0, 5) }
                );
                let text = this.to_string();
                assert!(text.contains(balance.name) && text.contains(&format!("{} 5", c.name())));
            }
        }
    }

    #[test]
    fn balanced_books_pass() {
        let set = CounterSet::new();
        for c in [
            RxFrames,
            RxSymbolsStored,
            TxFrames,
            TxSymbolsFirst,
            TxFramesSent,
        ] {
            set.add(c, 9);
        }
        assert_eq!(check_balances(&set.snapshot()), vec![]);
        assert_eq!(check_balances(&[]), vec![]);
    }
}
