//! The instruction counts of the hot calls against the stored baseline, in a release build:
//! `cargo test --release -p ctp96-counts`.

use std::process::{Command, Output};

fn counts(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_ctp96-counts");
    let out = Command::new(program).args(args).output();
    out.expect("ctp96-counts starts")
}

fn said(out: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&out.stdout) + &text(&out.stderr)
}

#[cfg(not(debug_assertions))]
#[test]
fn no_hot_call_takes_more_instructions_than_its_baseline() {
    let out = counts(&["check"]);
    match out.status.code() {
        Some(0) => {}
        Some(3) => tests::require::skip(said(&out).trim()),
        _ => panic!("{}", said(&out)),
    }
}

#[cfg(not(debug_assertions))]
#[test]
fn a_call_that_does_its_work_twice_is_caught() {
    for call in ["header/parse", "lane/seal 1408"] {
        let out = counts(&["check", "--burden", call]);
        let said = said(&out);
        match out.status.code() {
            Some(1) => {}
            Some(3) => return tests::require::skip(said.trim()),
            _ => panic!("{call} went unnoticed: {said}"),
        }
        let row = said.lines().find(|l| l.starts_with(&format!("| {call} |")));
        assert!(row.is_some_and(|r| r.ends_with("| WORSE |")), "{said}");
    }
}

#[cfg(debug_assertions)]
#[test]
fn counts_of_a_debug_build_are_refused() {
    let out = counts(&["check"]);
    match out.status.code() {
        Some(2) => assert!(said(&out).contains("need a release build")),
        Some(3) => tests::require::skip(said(&out).trim()),
        _ => panic!("{}", said(&out)),
    }
}

#[test]
fn every_call_runs() {
    let out = counts(&["run"]);
    assert!(out.status.success(), "{}", said(&out));
    let lines = said(&out).lines().count();
    assert!(lines > 40, "{lines} calls");
}
