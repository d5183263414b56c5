//! Counting under valgrind, the baseline, and the comparison of the two.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// A count may be so much above its baseline, as a share, where everything that makes the code is
/// what it was.
pub const TIGHT: f64 = 0.02;
/// As [`TIGHT`], where compiler, C library or valgrind is another one.
pub const LOOSE: f64 = 0.25;
/// Instructions that a call may always be above its baseline: a call of ten has no 2 %.
pub const SLACK: f64 = 2.0;

/// Why nothing could be compared.
#[derive(Debug)]
pub enum Trouble {
    /// This machine lacks something that counting needs.
    Lacking(String),
    /// It should have worked.
    Failed(String),
}

/// What the instructions of a call depend on besides its source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Makers {
    /// Architecture.
    pub arch: String,
    /// Compiler.
    pub rustc: String,
    /// C compiler of what is C in the dependencies.
    pub cc: String,
    /// C library.
    pub libc: String,
    /// What counts, and which CPU it pretends to be.
    pub valgrind: String,
}

/// The stored counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Baseline {
    /// What they were made with.
    pub makers: Makers,
    /// Instructions of one call.
    pub calls: BTreeMap<String, f64>,
}

fn line_of(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().next()?.trim().to_owned();
    out.status.success().then_some(line)
}

impl Makers {
    /// Those of this program on this machine.
    ///
    /// # Errors
    /// There is no valgrind.
    pub fn here() -> Result<Makers, Trouble> {
        let valgrind = line_of("valgrind", &["--version"])
            .ok_or_else(|| Trouble::Lacking("no valgrind here: apt-get install valgrind".into()))?;
        let libc = line_of("getconf", &["GNU_LIBC_VERSION"]);
        Ok(Makers {
            arch: std::env::consts::ARCH.to_owned(),
            rustc: env!("COUNTS_RUSTC").to_owned(),
            cc: env!("COUNTS_CC").to_owned(),
            libc: libc.unwrap_or_else(|| "unknown".to_owned()),
            valgrind,
        })
    }

    /// What differs, as `what: theirs, here ours`.
    fn differences(&self, here: &Makers) -> Vec<String> {
        [
            ("compiler", &self.rustc, &here.rustc),
            ("C compiler", &self.cc, &here.cc),
            ("C library", &self.libc, &here.libc),
            ("valgrind", &self.valgrind, &here.valgrind),
        ]
        .into_iter()
        .filter(|(_, a, b)| a != b)
        .map(|(what, a, b)| format!("{what}: {a} in the baseline, {b} here"))
        .collect()
    }
}

impl Baseline {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, or belongs to another architecture.
    pub fn load(path: &Path) -> Result<Baseline, Trouble> {
        let failed = |e: String| Trouble::Failed(format!("{}: {e}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let it: Baseline = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let arch = std::env::consts::ARCH;
        if it.makers.arch != arch {
            let why = format!("the baseline is for {}, this is {arch}", it.makers.arch);
            return Err(Trouble::Lacking(why));
        }
        Ok(it)
    }
}

/// Counts the instructions of each call by running `program run` under callgrind.
///
/// # Errors
/// valgrind does not start, or its output is not understood.
pub fn count(program: &Path, burden: Option<&str>) -> Result<BTreeMap<String, f64>, Trouble> {
    let failed = |e: String| Trouble::Failed(e);
    let dir = std::env::temp_dir().join(format!("ctp96-counts-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| failed(format!("{}: {e}", dir.display())))?;
    let counted = count_in(&dir, program, burden);
    let _ = std::fs::remove_dir_all(&dir);
    counted
}

fn count_in(
    dir: &Path,
    program: &Path,
    burden: Option<&str>,
) -> Result<BTreeMap<String, f64>, Trouble> {
    let failed = |e: String| Trouble::Failed(e);
    // A dump for each time that this function was run, with what it and all below it took.
    let pattern = "ctp96_counted";
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--zero-before={pattern}"))
        .arg(format!("--dump-after={pattern}"))
        .arg(format!(
            "--callgrind-out-file={}",
            dir.join("out").display()
        ))
        .arg(program)
        .arg("run")
        // The environment lies on the stack: another one moves every array on it.
        .env_clear()
        .env("PATH", "/usr/bin:/bin");
    if let Some(name) = burden {
        command.args(["--burden", name]);
    }
    let out = command
        .output()
        .map_err(|e| failed(format!("valgrind: {e}")))?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(failed(format!(
            "valgrind ended with {}: {said}",
            out.status
        )));
    }
    let names = String::from_utf8_lossy(&out.stdout).into_owned();
    let mut raw = Vec::new();
    for (i, line) in names.lines().enumerate() {
        let (times, name) = line
            .split_once(' ')
            .ok_or_else(|| failed(format!("`{line}` names no call")))?;
        let times: f64 = times.parse().map_err(|_| failed(line.to_owned()))?;
        let path = dir.join(format!("out.{}", i + 1));
        let dump = std::fs::read_to_string(&path)
            .map_err(|e| failed(format!("{}: {e}", path.display())))?;
        let total =
            totals(&dump).ok_or_else(|| failed(format!("{name}: a dump without totals")))?;
        raw.push((name.to_owned(), total, times));
    }
    per_call(&raw).ok_or_else(|| failed("nothing was counted".into()))
}

/// Instructions of a dump of callgrind.
fn totals(dump: &str) -> Option<f64> {
    let line = dump.lines().find_map(|l| l.strip_prefix("totals:"))?;
    line.trim().parse().ok()
}

/// Instructions of one call, the counting's own taken off; `raw` is name, total and times.
fn per_call(raw: &[(String, f64, f64)]) -> Option<BTreeMap<String, f64>> {
    let (_, total, times) = raw.iter().find(|r| r.0 == crate::EMPTY)?;
    let empty = total / times;
    let of = |(name, total, times): &(String, f64, f64)| {
        let own = (total / times - empty).max(0.0);
        // Tenths: a call that takes another path now and then is no whole number.
        (name.clone(), (own * 10.0).round() / 10.0)
    };
    Some(raw.iter().filter(|r| r.0 != crate::EMPTY).map(of).collect())
}

/// A call against its baseline.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Within the tolerance.
    Same,
    /// More instructions than the tolerance allows.
    Worse,
    /// Fewer by more than the tolerance.
    Better,
    /// Not in the baseline.
    New,
    /// In the baseline and not counted.
    Gone,
}

/// One line of the comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The call.
    pub name: String,
    /// Instructions in the baseline.
    pub before: Option<f64>,
    /// Instructions now.
    pub now: Option<f64>,
    /// What to think of it.
    pub verdict: Verdict,
}

/// Everything compared.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// A row for each call.
    pub rows: Vec<Row>,
    /// What the makers differ in.
    pub differences: Vec<String>,
    /// The tolerance that follows.
    pub tolerance: f64,
}

/// Holds counts against a baseline.
pub fn compare(baseline: &Baseline, here: &Makers, counts: &BTreeMap<String, f64>) -> Comparison {
    let differences = baseline.makers.differences(here);
    let tolerance = if differences.is_empty() { TIGHT } else { LOOSE };
    let mut rows: Vec<Row> = Vec::new();
    for (name, &before) in &baseline.calls {
        let now = counts.get(name).copied();
        let verdict = match now {
            None => Verdict::Gone,
            Some(now) if now > before * (1.0 + tolerance) + SLACK => Verdict::Worse,
            Some(now) if now < before * (1.0 - tolerance) - SLACK => Verdict::Better,
            Some(_) => Verdict::Same,
        };
        rows.push(Row {
            name: name.clone(),
            before: Some(before),
            now,
            verdict,
        });
    }
    for (name, &now) in counts {
        if !baseline.calls.contains_key(name) {
            rows.push(Row {
                name: name.clone(),
                before: None,
                now: Some(now),
                verdict: Verdict::New,
            });
        }
    }
    Comparison {
        rows,
        differences,
        tolerance,
    }
}

impl Comparison {
    /// Calls that fail the gate: those that became dearer, and those that nobody holds any more
    /// against anything. `lacking` are those that this CPU has not.
    pub fn failures(&self, lacking: &[(String, String)]) -> Vec<&Row> {
        let excused = |r: &Row| r.verdict == Verdict::Gone && lacking.iter().any(|l| l.0 == r.name);
        let bad = |r: &&Row| !matches!(r.verdict, Verdict::Same | Verdict::Better) && !excused(r);
        self.rows.iter().filter(bad).collect()
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut out = String::new();
        for d in &self.differences {
            let _ = writeln!(out, "other {d}");
        }
        let _ = writeln!(
            out,
            "instructions a call may be {:.0} % and {SLACK:.0} above its baseline\n\n| call | \
             baseline | now | change | verdict |\n| --- | --- | --- | --- | --- |",
            self.tolerance * 100.0
        );
        for r in &self.rows {
            let shown = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{v:.1}"));
            let change = match (r.before, r.now) {
                (Some(a), Some(b)) if a > 0.0 => format!("{:+.1} %", (b / a - 1.0) * 100.0),
                _ => "-".to_owned(),
            };
            let verdict = match r.verdict {
                Verdict::Same => "same",
                Verdict::Worse => "WORSE",
                Verdict::Better => "better",
                Verdict::New => "NEW",
                Verdict::Gone => "GONE",
            };
            let (before, now) = (shown(r.before), shown(r.now));
            let _ = writeln!(
                out,
                "| {} | {before} | {now} | {change} | {verdict} |",
                r.name
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn makers() -> Makers {
        Makers {
            arch: "x86_64".into(),
            rustc: "rustc 1".into(),
            cc: "cc 1".into(),
            libc: "glibc 1".into(),
            valgrind: "valgrind-1".into(),
        }
    }

    fn of(calls: &[(&str, f64)]) -> BTreeMap<String, f64> {
        calls.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
    }

    fn verdicts(baseline: &[(&str, f64)], here: &Makers, now: &[(&str, f64)]) -> Vec<Verdict> {
        let baseline = Baseline {
            makers: makers(),
            calls: of(baseline),
        };
        let c = compare(&baseline, here, &of(now));
        c.rows.into_iter().map(|r| r.verdict).collect()
    }

    #[test]
    fn what_is_dearer_than_the_tolerance_is_worse() {
        let v = |now| verdicts(&[("a", 1000.0)], &makers(), &[("a", now)])[0].clone();
        assert_eq!(v(1000.0), Verdict::Same);
        assert_eq!(v(1022.0), Verdict::Same);
        assert_eq!(v(1022.1), Verdict::Worse);
        assert_eq!(v(977.0), Verdict::Better);
        // Two instructions of ten are no regression, three are.
        let v = |now| verdicts(&[("a", 10.0)], &makers(), &[("a", now)])[0].clone();
        assert_eq!((v(12.0), v(13.0)), (Verdict::Same, Verdict::Worse));
    }

    #[test]
    fn another_compiler_is_given_more_room() {
        let other = Makers {
            rustc: "rustc 2".into(),
            ..makers()
        };
        let v = |now| verdicts(&[("a", 1000.0)], &other, &[("a", now)])[0].clone();
        assert_eq!(v(1200.0), Verdict::Same);
        assert_eq!(v(1300.0), Verdict::Worse);
        assert_eq!(makers().differences(&other).len(), 1);
    }

    #[test]
    fn a_call_that_is_not_held_against_anything_fails() {
        let baseline = Baseline {
            makers: makers(),
            calls: of(&[("a", 1.0), ("b", 1.0)]),
        };
        let c = compare(&baseline, &makers(), &of(&[("b", 1.0), ("c", 1.0)]));
        let names = |lacking: &[(String, String)]| {
            let failed = c.failures(lacking);
            failed.iter().map(|r| r.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["a", "c"]);
        let lacking = [("a".to_owned(), "no AVX2".to_owned())];
        assert_eq!(names(&lacking), ["c"]);
        let table = c.table();
        assert!(table.contains("| a | 1.0 | - | - | GONE |") && table.contains("NEW"));
    }

    #[test]
    fn the_counting_itself_is_taken_off() {
        let raw = [
            (crate::EMPTY.to_owned(), 1_000.0, 100.0),
            ("a".to_owned(), 500.0, 10.0),
        ];
        let calls = per_call(&raw).expect("an empty call");
        assert_eq!(calls, of(&[("a", 40.0)]));
        assert!(per_call(&raw[1..]).is_none());
        assert_eq!(totals("events: Ir\ntotals: 123\n"), Some(123.0));
        assert_eq!(totals("events: Ir\n"), None);
    }
}
