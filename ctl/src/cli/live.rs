//! Arguments of what watches a running daemon.

use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// How histograms are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HistForm {
    /// A table for people.
    Table,
    /// Comma-separated values.
    Csv,
    /// Curves in characters.
    Plot,
    /// A page with curves.
    Html,
}

#[derive(Debug, Args)]
pub struct HistArgs {
    /// Histograms to show, by name [default: all]
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Those of the lane with this number instead of the whole node's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..128))]
    pub lane: Option<u8>,
    /// Read them from an interval log instead (needs no daemon)
    #[arg(long, value_name = "FILE", conflicts_with = "lane")]
    pub log: Option<PathBuf>,
    /// A line for each histogram, comma-separated, times in nanoseconds
    #[arg(long, group = "form")]
    csv: bool,
    /// Plot the percentile curves in characters
    #[arg(long, group = "form")]
    plot: bool,
    /// Print one self-contained page with the curves
    #[arg(long, group = "form")]
    html: bool,
}

impl HistArgs {
    /// The form that was asked for.
    pub fn form(&self) -> HistForm {
        match (self.csv, self.plot, self.html) {
            (true, ..) => HistForm::Csv,
            (_, true, _) => HistForm::Plot,
            (_, _, true) => HistForm::Html,
            _ => HistForm::Table,
        }
    }
}

#[derive(Debug, Args)]
pub struct RecordArgs {
    /// File to write; one that is there already stays unless --force is given
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Length of an interval, such as 1s, 250ms or 1m; at least 50ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub every: Duration,
    /// How long to record [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = parse_interval)]
    pub span: Option<Duration>,
    /// Replace the file
    #[arg(long)]
    pub force: bool,
}

/// Order of the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LaneOrder {
    /// By session, then number
    Lane,
    /// Most slots a second first, both directions
    Rate,
    /// Most bytes in flight first
    Flight,
    /// Longest round trip first
    Rtt,
    /// Most frames lost since the lane was opened first
    Loss,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    /// Time between two looks, such as 1s or 250ms; at least 50ms
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    pub every: Duration,
    /// Print one screen as plain text and end
    #[arg(long)]
    pub once: bool,
    /// Order of the lanes
    #[arg(long, value_name = "ORDER", default_value = "lane")]
    pub sort: LaneOrder,
    /// Use no colours (NO_COLOR in the environment does the same)
    #[arg(long, alias = "no-color")]
    pub no_colour: bool,
}

/// A time of at least 50 ms: a number with ms, s, m or h; seconds without.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let unit = match text[split..].trim() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no time; write 250ms, 1s, 5m or 1h")),
    };
    let number: f64 = text[..split]
        .parse()
        .map_err(|_| format!("{text:?} is no time; write 250ms, 1s, 5m or 1h"))?;
    let seconds = number * unit;
    if !(0.05..=1e7).contains(&seconds) {
        return Err("at least 50ms, and no more than 100 days".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, ms) in [("250ms", 250), ("1", 1000), ("1.5s", 1500), ("2m", 120_000)] {
            assert_eq!(
                parse_interval(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
        for bad in [
            "", "s", "1d", "1ms", "0", "-1s", "1e3s", "inf", "NaN", "99999h",
        ] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
