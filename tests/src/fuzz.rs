//! A deterministic mutation fuzzer that runs on stable Rust, inside `cargo test`.
//!
//! It starts from valid inputs that the target supplies, and feeds the target every prefix of
//! each, then mutations: bit flips, interesting integers, truncation, extension, splices, removed
//! and repeated ranges. The same seed gives the same inputs, so a finding can be repeated.
//!
//! `FUZZ_ITERS` sets the mutations per target (default 200,000), `FUZZ_SEED` the seed.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Mutations per target where `FUZZ_ITERS` says nothing.
pub const DEFAULT_ITERS: u64 = 200_000;
/// The seed where `FUZZ_SEED` says nothing.
pub const DEFAULT_SEED: u64 = 0x00c7_b096_5eed_0001;
/// Longest input that a mutation may make, bytes: more than the largest frame.
pub const MAX_INPUT: usize = 16 * 1024;

/// How much to fuzz and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Mutated inputs to try.
    pub iters: u64,
    /// Seed of the mutations.
    pub seed: u64,
}

impl Plan {
    /// The plan of the environment: `FUZZ_ITERS` and `FUZZ_SEED`, or the defaults.
    ///
    /// # Panics
    /// One of them is set to something that is not a decimal number.
    pub fn from_env() -> Self {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
            Err(_) => default,
        };
        Self {
            iters: number("FUZZ_ITERS", DEFAULT_ITERS),
            seed: number("FUZZ_SEED", DEFAULT_SEED),
        }
    }

    /// The same plan with one `n`th of the mutations, at least one.
    #[must_use]
    pub fn share(self, n: u64) -> Self {
        Self {
            iters: (self.iters / n).max(1),
            ..self
        }
    }
}

/// What a run without a finding did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Inputs tried: valid ones, their prefixes, and mutations.
    pub inputs: u64,
    /// Inputs that the target accepted.
    pub accepted: u64,
}

/// An input that made the target panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name of the target.
    pub target: String,
    /// Seed of the run.
    pub seed: u64,
    /// How many inputs had been tried before this one.
    pub nth: u64,
    /// The input itself.
    pub input: Vec<u8>,
    /// What the panic said.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fuzz target {} panicked: {}\n  seed {} (set FUZZ_SEED), input number {}, {} bytes:\n  ",
            self.target,
            self.message,
            self.seed,
            self.nth,
            self.input.len()
        )?;
        self.input
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Fuzzes `target` by the environment's [`Plan`] and prints what was done.
///
/// The target returns whether it accepted the input. It must accept every member of `corpus`: a
/// corpus that bounces off the first check would fuzz nothing behind it.
///
/// # Panics
/// The target panicked (the message has the input in hex), or refused a member of the corpus.
pub fn fuzz(name: &str, corpus: &[Vec<u8>], target: impl FnMut(&[u8]) -> bool) -> Report {
    fuzz_with(name, Plan::from_env(), corpus, target)
}

/// As [`fuzz`], by a plan of the caller's: for targets too slow for the whole of
/// [`Plan::from_env`], which take a [`Plan::share`] of it.
///
/// # Panics
/// As [`fuzz`].
pub fn fuzz_with(
    name: &str,
    plan: Plan,
    corpus: &[Vec<u8>],
    target: impl FnMut(&[u8]) -> bool,
) -> Report {
    match run(name, plan, corpus, target) {
        Ok(report) => {
            println!(
                "fuzz {name}: {} inputs, {} accepted, seed {}",
                report.inputs, report.accepted, plan.seed
            );
            report
        }
        Err(finding) => panic!("{finding}"),
    }
}

/// Fuzzes `target` by `plan`; see [`fuzz`].
///
/// # Errors
/// The first input that made the target panic.
///
/// # Panics
/// The corpus is empty, or the target refused a member of it.
pub fn run(
    name: &str,
    plan: Plan,
    corpus: &[Vec<u8>],
    mut target: impl FnMut(&[u8]) -> bool,
) -> Result<Report, Finding> {
    assert!(!corpus.is_empty(), "fuzz target {name} has no corpus");
    let mut report = Report {
        inputs: 0,
        accepted: 0,
    };
    let mut attempt = |input: &[u8]| {
        let nth = report.inputs;
        report.inputs += 1;
        match catch_unwind(AssertUnwindSafe(|| target(input))) {
            Ok(accepted) => {
                report.accepted += u64::from(accepted);
                Ok(accepted)
            }
            Err(panic) => Err(Finding {
                target: name.to_owned(),
                seed: plan.seed,
                nth,
                input: input.to_vec(),
                message: message_of(panic.as_ref()),
            }),
        }
    };
    for (i, valid) in corpus.iter().enumerate() {
        assert!(
            attempt(valid)?,
            "fuzz target {name} refuses member {i} of its corpus"
        );
    }
    for valid in corpus {
        for len in 0..valid.len().min(MAX_INPUT) {
            attempt(&valid[..len])?;
        }
    }
    let mut mutator = Mutator::new(plan.seed);
    let mut input = Vec::with_capacity(MAX_INPUT);
    for _ in 0..plan.iters {
        mutator.next_input(corpus, &mut input);
        attempt(&input)?;
    }
    Ok(report)
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// Integers at which parsers break: limits of the widths, and of the protocol's own fields.
const INTERESTING: [u64; 22] = [
    0,
    1,
    7,
    8,
    63,
    64,
    65,
    95,
    96,
    97,
    127,
    128,
    255,
    256,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 63,
    (1 << 63) - 1,
    u64::MAX,
];

/// Makes mutated inputs from valid ones, the same ones for the same seed.
struct Mutator {
    state: u64,
}

impl Mutator {
    fn new(seed: u64) -> Self {
        // xorshift stays at zero for ever if it starts there.
        Self {
            state: seed ^ 0x9e37_79b9_7f4a_7c15 | 1,
        }
    }

    /// xorshift64* (Vigna 2016): full period, good high bits, one multiplication.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`, which must not be zero.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    fn next_input(&mut self, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
        input.clear();
        input.extend_from_slice(&corpus[self.below(corpus.len())]);
        // Mostly one or two mutations, so that inputs get past the first checks.
        let mutations = 1 + (self.next().trailing_zeros() as usize).min(7);
        for _ in 0..mutations {
            self.mutate(corpus, input);
        }
        input.truncate(MAX_INPUT);
    }

    fn mutate(&mut self, corpus: &[Vec<u8>], input: &mut Vec<u8>) {
        if input.is_empty() {
            return self.extend(input);
        }
        let len = input.len();
        match self.below(9) {
            0 => {
                let bit = self.below(len * 8);
                input[bit / 8] ^= 1 << (bit % 8);
            }
            1 => {
                let at = self.below(len);
                input[at] = self.next() as u8;
            }
            2 | 3 => self.interesting(input),
            4 => {
                let at = self.below(len);
                let delta = 1 + self.below(16) as u8;
                input[at] = if self.below(2) == 0 {
                    input[at].wrapping_add(delta)
                } else {
                    input[at].wrapping_sub(delta)
                };
            }
            5 => {
                let keep = self.below(len);
                input.truncate(keep);
            }
            6 => self.extend(input),
            7 => {
                // Splice: the head of this input, the tail of another member.
                let other = &corpus[self.below(corpus.len())];
                let keep = self.below(len + 1);
                let from = self.below(other.len() + 1);
                input.truncate(keep);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let start = self.below(len);
                let end = start + 1 + self.below((len - start).min(64));
                let end = end.min(len);
                if self.below(2) == 0 {
                    input.drain(start..end);
                } else {
                    input.extend_from_within(start..end);
                }
            }
        }
    }

    fn interesting(&mut self, input: &mut [u8]) {
        let value = INTERESTING[self.below(INTERESTING.len())];
        let width = [1, 2, 4, 8][self.below(4)].min(input.len());
        let at = self.below(input.len() - width + 1);
        let field = &mut input[at..at + width];
        field.copy_from_slice(&value.to_le_bytes()[..width]);
        if self.below(4) == 0 {
            field.reverse();
        }
    }

    fn extend(&mut self, input: &mut Vec<u8>) {
        // Short tails mostly; now and then one longer than any frame.
        let longest = [4, 64, 1024, MAX_INPUT][self.below(4)];
        let more = 1 + self.below(longest.min(MAX_INPUT - input.len().min(MAX_INPUT - 1)));
        let random = self.below(2) == 0;
        for _ in 0..more {
            let byte = if random { self.next() as u8 } else { 0 };
            input.push(byte);
        }
    }
}
