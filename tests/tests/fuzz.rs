//! Fuzz targets, one line each, and the canary that proves that the driver finds what is there.

use tests::fuzz::{DEFAULT_SEED, Plan, run};

/// A message as a careless parser reads it: a type byte, a length, and a body of that length.
fn careless(input: &[u8]) -> bool {
    let Some((&[kind, lo, hi], body)) = input.split_first_chunk::<3>() else {
        return false;
    };
    let len = usize::from(u16::from_le_bytes([lo, hi]));
    if kind != 0x96 {
        return false;
    }
    // The bug: the length is the sender's word, and nobody compared it with what arrived.
    body[..len].iter().all(|b| *b == 7)
}

fn careless_corpus() -> Vec<Vec<u8>> {
    vec![vec![0x96, 4, 0, 7, 7, 7, 7], vec![0x96, 0, 0]]
}

#[test]
fn the_canary_is_found_and_the_finding_repeats() {
    let plan = Plan {
        iters: 10_000,
        seed: DEFAULT_SEED,
    };
    let found = run("canary", plan, &careless_corpus(), careless).unwrap_err();
    assert!(found.message.contains("out of range"), "{found}");
    assert!(
        std::panic::catch_unwind(|| careless(&found.input)).is_err(),
        "{found}"
    );
    assert_eq!(
        run("canary", plan, &careless_corpus(), careless).unwrap_err(),
        found
    );
    let hex: String = found.input.iter().map(|b| format!("{b:02x}")).collect();
    assert!(found.to_string().contains(&hex));
}

#[test]
fn a_bug_behind_two_fields_is_reached_by_mutation() {
    let deep = |input: &[u8]| {
        let fields = input.first_chunk::<8>().map(|f| u64::from_le_bytes(*f));
        // Needs two fields at once, neither of which any prefix of the corpus has.
        assert!(
            fields != Some(0x0000_0060_0000_ffff),
            "both fields at their limits"
        );
        true
    };
    let plan = Plan {
        iters: 2_000_000,
        seed: DEFAULT_SEED,
    };
    let found = run("deep", plan, &[vec![0; 8]], deep).unwrap_err();
    assert!(found.nth > 8, "{found}");
}

#[test]
#[should_panic(expected = "refuses member 0 of its corpus")]
fn a_corpus_that_the_target_refuses_is_an_error() {
    let _ = run("refusing", Plan { iters: 1, seed: 1 }, &[vec![1]], |_| {
        false
    });
}

#[test]
fn another_seed_gives_other_inputs() {
    let inputs = |seed| {
        let mut seen = Vec::new();
        run("recorder", Plan { iters: 50, seed }, &[vec![0; 8]], |i| {
            seen.push(i.to_vec());
            true
        })
        .unwrap();
        seen
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}
