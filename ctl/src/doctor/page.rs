//! The findings as a page for people.

use super::{Finding, Status, System};
use std::fmt::Write as _;

/// Columns that the page takes.
const WIDTH: usize = 100;

/// The page: a head, then one section for each area in the order of the findings.
pub fn render(host: &System, findings: &[Finding]) -> String {
    let count = |s| findings.iter().filter(|f| f.status == s).count();
    let mut out = format!(
        "Linux {} on {}, {}, {} of {} CPUs for this process\n\
         {} bad, {} to improve, {} as they should be, {} for information\n",
        host.kernel.release,
        host.kernel.arch,
        host.cpus.model,
        host.cpus.allowed.len(),
        host.cpus.online,
        count(Status::Bad),
        count(Status::Warn),
        count(Status::Ok),
        count(Status::Info)
    );
    let mut area = "";
    for f in findings {
        if f.area != area {
            area = &f.area;
            let _ = writeln!(out, "\n{area}");
        }
        let mark = match f.status {
            Status::Ok => "ok",
            Status::Info => "-",
            Status::Warn => "warn",
            Status::Bad => "BAD",
        };
        wrap(&mut out, &format!("  {mark:<5} "), 8, &f.what);
        // What is as it should be takes one line; --json has the effect of everything.
        if f.status != Status::Ok {
            wrap(&mut out, "        ", 8, &f.effect);
        }
        if let Some(fix) = &f.fix {
            wrap(&mut out, "        fix: ", 13, fix);
        }
    }
    out
}

/// Adds `text` behind `first`, later lines indented, no line longer than [`WIDTH`] if words allow.
fn wrap(out: &mut String, first: &str, indent: usize, text: &str) {
    if text.is_empty() {
        return;
    }
    let mut line = first.to_owned();
    let mut used = false;
    for word in text.split_whitespace() {
        if used && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(out, "{line}");
            line = " ".repeat(indent);
            used = false;
        }
        if used {
            line.push(' ');
        }
        line.push_str(word);
        used = true;
    }
    let _ = writeln!(out, "{line}");
}

#[cfg(test)]
mod tests {
    use super::super::tests::good;
    use super::*;

    #[test]
    fn the_page_has_sections_and_fits() {
        let mut a = Finding::warn("few huge pages ".repeat(12), "slow").fix("sysctl -w x=1");
        a.area = "memory".into();
        let mut b = Finding::ok("fine", "an effect that only --json shows");
        b.area = "eth1".into();
        let page = render(&good(), &[a, b]);
        assert!(page.contains("0 bad, 1 to improve, 1 as they should be"));
        assert!(page.contains("\n\nmemory\n  warn  few huge"), "{page}");
        assert!(page.contains("        fix: sysctl -w x=1\n"));
        assert!(page.contains("\n\neth1\n  ok    fine\n"));
        assert!(!page.contains("only --json"));
        assert!(page.lines().all(|l| l.chars().count() <= WIDTH), "{page}");
    }
}
