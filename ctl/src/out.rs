//! What goes to the terminal, and how the command ends.

use serde::Serialize;
use std::io::{self, Write};
use std::process::ExitCode;

/// Why the command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// It was tried, and failed.
    Failed(String),
    /// What was asked for makes no sense.
    Usage(String),
    /// There is no daemon to ask.
    Unreachable(String),
    /// What was printed already says what is wrong.
    Reported,
}

impl Failure {
    /// The exit status, as the help text documents it.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Failed(_) | Failure::Reported => 1,
            Failure::Usage(_) => 2,
            Failure::Unreachable(_) => 3,
        })
    }

    /// The sentence.
    pub fn text(&self) -> &str {
        match self {
            Failure::Failed(t) | Failure::Usage(t) | Failure::Unreachable(t) => t,
            Failure::Reported => "",
        }
    }
}

/// Prints to standard output. A reader that has gone (`ctp96 status | head -1`) ends the command
/// quietly.
pub fn text(text: &str) {
    let mut out = io::stdout().lock();
    if out
        .write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

/// Prints one JSON value on one line.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => text(&format!("{line}\n")),
        Err(e) => note(&format!("ctp96: the reply has no JSON form: {e}\n")),
    }
}

/// Writes to standard error.
pub fn note(text: &str) {
    // Nobody is left to tell that standard error is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Says why the command failed: for people on standard error, with `--json` also as an object.
pub fn complain(f: &Failure, as_json: bool) {
    if matches!(f, Failure::Reported) {
        return;
    }
    if as_json {
        json(&serde_json::json!({ "ok": false, "error": f.text() }));
    }
    note(&format!("ctp96: {}\n", f.text()));
}
