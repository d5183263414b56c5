//! The structure of the source: imports point one way, files stay short.

use std::fs;
use std::path::{Path, PathBuf};
use tests::rooms::{ORDER, violations};

/// Lines from which a file is reported as one to split.
const LONG: usize = 500;
/// Lines over which the test fails.
const TOO_LONG: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file under `dir`, build output excepted.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            files.extend(rust_files(&path));
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

#[test]
fn imports_point_to_earlier_rooms_only() {
    let src = root().join("dataplane/src");
    let mut wrong = Vec::new();
    let mut rooms = 0;
    for entry in fs::read_dir(&src).unwrap() {
        let dir = entry.unwrap().path();
        let room = dir.file_name().unwrap().to_string_lossy().into_owned();
        if !dir.is_dir() || room == "bin" {
            assert!(
                matches!(room.as_str(), "lib.rs" | "bin"),
                "{room}: is in no room"
            );
            continue;
        }
        assert!(
            ORDER.contains(&room.as_str()),
            "{room}: is no room of the order"
        );
        rooms += 1;
        for file in rust_files(&dir) {
            let below = file.strip_prefix(&dir).unwrap();
            let is_mod = below.file_name().is_some_and(|n| n == "mod.rs");
            let depth = below.components().count() + usize::from(!is_mod);
            let source = fs::read_to_string(&file).unwrap();
            for v in violations(&room, depth, &source) {
                wrong.push(format!(
                    "{}:{}: {room} uses {}",
                    file.display(),
                    v.line,
                    v.uses
                ));
            }
        }
    }
    assert!(
        rooms >= 10,
        "only {rooms} rooms found: looking in the wrong place?"
    );
    assert!(
        wrong.is_empty(),
        "the order is {}\n{}",
        ORDER.join(", "),
        wrong.join("\n")
    );
}

#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    for source in [
        "use crate::proto::LaneTx;",
        "use crate::{base::Nanos, proto::LaneTx};",
        "use crate::{\n    base::{limits, clock::{Clock}},\n    proto,\n};",
        "pub use crate :: proto as p;",
        "fn f() { crate::proto::run(); }",
        "use super::proto::LaneTx;",
        "mod tests { use super::super::proto::LaneTx; }",
        "mod a { mod b { } } mod tests { fn f() { super::super::proto::run(); } }",
        "/* a /* nested */ comment */ use crate::proto::X;",
        "const A: &str = \"\\\"\"; const C: char = '\"'; use crate::proto::X;",
        "struct S<'a>(&'a u8); use crate::proto::X;",
    ] {
        let found = violations("window", 1, source);
        assert_eq!(found.len(), 1, "{source}: {found:?}");
        assert_eq!(found[0].uses, "proto", "{source}");
    }
    let found = violations("window", 2, "use super::word;\n\nuse super::super::proto;");
    assert_eq!(found.iter().map(|v| v.line).collect::<Vec<_>>(), [3]);
    assert_eq!(
        violations("window", 1, "use crate::attic::X;").len(),
        1,
        "no such room"
    );
}

#[test]
fn right_imports_and_mentions_are_not_found() {
    for source in [
        "use crate::base::{limits, seq};",
        "use crate::{base::Nanos, window::word};",
        "use crate::window::proto;",
        "use self::word; mod tests { use super::*; use super::proto; }",
        "// use crate::proto::LaneTx;",
        "/// See [`crate::proto::LaneTx`].",
        "/* use crate::proto; */",
        "const A: &str = \"crate::proto\"; const B: &str = r#\"crate::\"proto\"#;",
        "pub(crate) fn f() {} pub(in crate::window) fn g() {}",
        "macro_rules! m { () => { $crate::proto::run() } } crate::my_macro!();",
        "pub(super) fn f() {} pub(in super) fn g() {}",
        "use crate::Error;",
        "fn f<'a>(x: &'a str) -> char { 'a' }",
    ] {
        assert_eq!(violations("window", 1, source), [], "{source}");
    }
}

#[test]
fn files_stay_short() {
    let mut too_long = Vec::new();
    for part in ["dataplane", "ctl", "bench", "tests", "xdp-prog"] {
        for file in rust_files(&root().join(part)) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            if lines > LONG {
                println!("{}: {lines} lines", file.display());
            }
            if lines > TOO_LONG {
                too_long.push(format!("{}: {lines}", file.display()));
            }
        }
    }
    assert!(
        too_long.is_empty(),
        "over {TOO_LONG} lines: {}",
        too_long.join(", ")
    );
}
