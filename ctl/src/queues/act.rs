//! One change to the host, and how it is printed and made.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// Something to run or to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A program with its arguments.
    Command(Vec<String>),
    /// A value for a file of the kernel.
    Write {
        /// Absolute path.
        path: String,
        /// What to write.
        text: String,
    },
}

impl Act {
    /// A command from its words.
    pub fn command(words: &[&str]) -> Act {
        Act::Command(words.iter().map(|w| (*w).to_owned()).collect())
    }

    /// Makes the change.
    ///
    /// # Errors
    /// What the program or the kernel said, as a sentence.
    pub fn run(&self) -> Result<(), String> {
        match self {
            Act::Command(words) => run(words),
            Act::Write { path, text } => std::fs::write(path, text)
                .map_err(|e| format!("cannot write {text:?} to {path}: {e}")),
        }
    }
}

/// As a line for a shell.
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Command(words) => {
                let words: Vec<_> = words.iter().map(|w| quoted(w)).collect();
                f.write_str(&words.join(" "))
            }
            Act::Write { path, text } => write!(f, "echo {} > {}", quoted(text), quoted(path)),
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn run(words: &[String]) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else {
        return Err("an empty command".into());
    };
    // sbin is not in everybody's PATH, and ethtool lies there.
    let places = ["/usr/sbin", "/sbin"].map(|d| Path::new(d).join(program));
    let found = std::iter::once(program.into())
        .chain(places)
        .map(|p| {
            Command::new(p)
                .args(arguments)
                .stdin(Stdio::null())
                .output()
        })
        .find(|r| !matches!(r, Err(e) if e.kind() == io::ErrorKind::NotFound));
    let output = match found {
        None => {
            return Err(format!(
                "{program} is not installed (apt-get install {program})"
            ));
        }
        Some(Err(e)) => return Err(format!("cannot run {program}: {e}")),
        Some(Ok(output)) => output,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let said: Vec<_> = said.split_whitespace().collect();
    Err(format!("{}: {}", output.status, said.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_printed_as_a_shell_takes_them() {
        let a = Act::command(&["ethtool", "-L", "eth1", "combined", "4"]);
        assert_eq!(a.to_string(), "ethtool -L eth1 combined 4");
        let a = Act::command(&["echo", "a b", "it's"]);
        assert_eq!(a.to_string(), r"echo 'a b' 'it'\''s'");
        let a = Act::Write {
            path: "/proc/irq/3/smp_affinity_list".into(),
            text: "0-3".into(),
        };
        assert_eq!(a.to_string(), "echo 0-3 > /proc/irq/3/smp_affinity_list");
    }

    #[test]
    fn failures_say_what_the_program_said() {
        let e = Act::command(&["sh", "-c", "echo no such ring >&2; exit 3"]).run();
        assert!(e.is_err_and(|e| e.contains("3") && e.contains("no such ring")));
        let e = Act::command(&["ctp96-no-such-program"]).run();
        assert!(e.is_err_and(|e| e.contains("not installed")));
        assert!(Act::command(&["true"]).run().is_ok());
        let e = Act::Write {
            path: "/proc/ctp96/none".into(),
            text: "1".into(),
        };
        assert!(e.run().is_err_and(|e| e.contains("/proc/ctp96/none")));
    }
}
