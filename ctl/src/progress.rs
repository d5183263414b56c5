//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use crate::out;
use ctp96::control::api::{Job, JobState};
use ctp96::obs::text::{bytes, duration, rate};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows how far a transfer is.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    last_line: Instant,
    last_said: String,
}

impl Progress {
    /// With `quiet` nothing is shown (the caller prints JSON).
    pub fn new(quiet: bool) -> Progress {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(bar);
        Progress {
            bar,
            quiet,
            last_line: Instant::now(),
            last_said: String::new(),
        }
    }

    /// Shows the state of the job.
    pub fn show(&mut self, job: &Job) {
        let said = match (job.state, &job.why) {
            (JobState::Connecting, _) => format!("connecting to {}", job.peer),
            (JobState::Waiting, Some(why)) => format!("waiting: {why}"),
            _ => String::new(),
        };
        if let Some(bar) = &self.bar {
            bar.set_length(job.bytes_total);
            bar.set_position(job.bytes_done);
            bar.set_message(format!("{} {said}", rate(job.bytes_per_s)));
        } else if job.state == JobState::Running && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.line(&plain(job));
        }
        // A change of state is told once, on a terminal too: it stays when the bar moves on.
        if said != self.last_said {
            if !said.is_empty() {
                self.line(&said);
            } else if self.last_said.starts_with("waiting") {
                self.line("going on");
            }
            self.last_said = said;
        }
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None if !self.quiet => out::note(&format!("{text}\n")),
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let template = "{bar:32} {percent:>3} %  {done} / {whole}  {eta}  {msg}";
    let bar = ProgressBar::new(0);
    // The template is a constant that a test parses; the default style would do as well.
    if let Ok(style) = ProgressStyle::with_template(template) {
        let done = |s: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&bytes(s.pos()));
        };
        let whole = |s: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&bytes(s.len().unwrap_or(0)));
        };
        bar.set_style(
            style
                .with_key("done", done)
                .with_key("whole", whole)
                .progress_chars("=> "),
        );
    }
    bar
}

/// One line without a terminal: `512.00 MiB of 1.00 GiB (50.0 %), 1.60 GB/s, 0.33 s left`.
fn plain(job: &Job) -> String {
    let share = if job.bytes_total == 0 {
        100.0
    } else {
        job.bytes_done as f64 / job.bytes_total as f64 * 100.0
    };
    let mut text = format!(
        "{} of {} ({share:.1} %), {}",
        bytes(job.bytes_done),
        bytes(job.bytes_total),
        rate(job.bytes_per_s)
    );
    let left = job.bytes_total.saturating_sub(job.bytes_done) as f64 / job.bytes_per_s;
    if left.is_finite() {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {} left", duration((left * 1e9) as u64));
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn job() -> Job {
        Job {
            id: 1,
            sending: true,
            peer: "b".into(),
            state: JobState::Running,
            why: None,
            files_total: 2,
            files_done: 1,
            files_failed: 0,
            bytes_total: 1 << 30,
            bytes_done: 1 << 29,
            bytes_resumed: 0,
            bytes_sent: 1 << 29,
            started_unix_s: 0,
            elapsed_s: 1.0,
            bytes_per_s: (1 << 29) as f64,
            reconnects: 0,
            notes: vec![],
            receipts: vec![],
            version: 1,
        }
    }

    #[test]
    fn plain_lines_never_divide_by_zero() {
        let mut j = job();
        assert_eq!(
            plain(&j),
            "512.00 MiB of 1.00 GiB (50.0 %), 536.87 MB/s, 1.00 s left"
        );
        j.bytes_per_s = 0.0;
        assert_eq!(plain(&j), "512.00 MiB of 1.00 GiB (50.0 %), 0.00 B/s");
        (j.bytes_total, j.bytes_done) = (0, 0);
        assert!(plain(&j).starts_with("0 B of 0 B (100.0 %)"));
    }

    #[test]
    fn the_template_of_the_bar_parses() {
        let bar = bar();
        bar.set_length(10);
        bar.finish_and_clear();
    }
}
