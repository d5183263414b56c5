//! Interval logs of HdrHistogram: what `ctp96 record` writes and other tools write too.

use crate::out::Failure;
use ctp96::control::api::{HistReply, HistRow, hdr_from_base64};
use ctp96::obs::Hist;
use hdrhistogram::Histogram as Hdr;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriter, IntervalLogWriterBuilder, LogEntry, Tag,
};
use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

/// What the maximum in a line is divided by: the tools of HdrHistogram take values for nanoseconds
/// and show milliseconds.
const NS_PER_MS: f64 = 1e6;
/// The line above the intervals, as the Java tools write it.
const LEGEND: &str = "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
                      \"Interval_Compressed_Histogram\"\n";

/// A buffer that is filled in one place and emptied in another, so that a log grows by whole
/// intervals only.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs `body` with a log on `out`.
///
/// # Errors
/// What `body` says, or that the head of the log cannot be written.
pub fn write<W: Write, T>(
    out: W,
    began: SystemTime,
    comment: &str,
    body: impl FnOnce(&mut Log<'_, '_, W>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let pending = Shared::default();
    let (mut sink, mut serializer) = (pending.clone(), V2DeflateSerializer::new());
    let lines = IntervalLogWriterBuilder::new()
        .add_comment(comment)
        .add_comment("[Histogram log format version 1.3]")
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(&mut sink, &mut serializer)
        .map_err(|e| cannot_write(&e))?;
    pending.0.borrow_mut().extend_from_slice(LEGEND.as_bytes());
    let mut log = Log {
        out,
        pending,
        lines,
    };
    log.flush()?;
    body(&mut log)
}

/// A log that is being written.
pub struct Log<'a, 'b, W> {
    out: W,
    pending: Shared,
    lines: IntervalLogWriter<'a, 'b, Shared, V2DeflateSerializer>,
}

impl<W: Write> Log<'_, '_, W> {
    /// Writes one interval: a line for each histogram, under its name as the tag. `at` counts from
    /// the time that the log began.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn interval<'h>(
        &mut self,
        at: Duration,
        len: Duration,
        hists: impl Iterator<Item = (&'h str, &'h Hdr<u64>)>,
    ) -> Result<(), Failure> {
        for (name, values) in hists {
            self.lines
                .write_histogram(values, at, len, Tag::new(name))
                .map_err(|e| Failure::Failed(format!("cannot write the interval: {e}")))?;
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let mut pending = self.pending.0.borrow_mut();
        self.out
            .write_all(&pending)
            .and_then(|()| self.out.flush())
            .map_err(|e| cannot_write(&e))?;
        pending.clear();
        Ok(())
    }
}

fn cannot_write(e: &io::Error) -> Failure {
    Failure::Failed(format!("cannot write the log: {e}"))
}

/// A log, read and summed over its intervals.
#[derive(Debug)]
pub struct Summed {
    /// A row for each tag, in the order in which they appear.
    pub hists: HistReply,
    /// Intervals of the tag that has most.
    pub intervals: usize,
    /// From the first start to the last end.
    pub span: Duration,
}

impl Summed {
    /// Where the figures come from, as a phrase.
    pub fn origin(&self, path: &Path) -> String {
        format!(
            "{}: {} intervals over {:.1} s",
            path.display(),
            self.intervals,
            self.span.as_secs_f64()
        )
    }
}

/// Reads a log.
///
/// # Errors
/// It cannot be read, or is none; the sentence has the line.
pub fn read(path: &Path) -> Result<Summed, Failure> {
    let shown = path.display();
    let text = std::fs::read(path)
        .map_err(|e| Failure::Failed(format!("cannot read the log {shown}: {e}")))?;
    parse(&text).map_err(|e| Failure::Failed(format!("{shown}: {e}")))
}

struct OneTag {
    name: String,
    intervals: usize,
    sum: Hdr<u64>,
}

fn parse(text: &[u8]) -> Result<Summed, String> {
    let line_of = |offset: usize| 1 + text[..offset].iter().filter(|&&c| c == b'\n').count();
    let mut tags: Vec<OneTag> = Vec::new();
    let (mut first, mut last) = (Duration::MAX, Duration::ZERO);
    for entry in IntervalLogIterator::new(text) {
        let interval = match entry {
            Ok(LogEntry::Interval(i)) => i,
            Ok(_) => continue,
            Err(hdrhistogram::serialization::interval_log::LogIteratorError::ParseError {
                offset,
            }) => {
                return Err(format!(
                    "line {} is none of an HdrHistogram interval log",
                    line_of(offset)
                ));
            }
        };
        let name = interval.tag().map_or("untagged", |t| t.as_str());
        let at = interval.start_timestamp();
        let values = hdr_from_base64(interval.encoded_histogram()).ok_or_else(|| {
            format!(
                "the histogram of {name} at {:.3} s is damaged",
                at.as_secs_f64()
            )
        })?;
        (first, last) = (
            first.min(at),
            last.max(at.saturating_add(interval.duration())),
        );
        match tags.iter_mut().find(|t| t.name == name) {
            Some(tag) => {
                tag.intervals += 1;
                // Cannot fail: it grows to what it has to hold.
                tag.sum.add(&values).map_err(|e| e.to_string())?;
            }
            None => {
                let mut sum = values;
                sum.auto(true);
                tags.push(OneTag {
                    name: name.to_owned(),
                    intervals: 1,
                    sum,
                });
            }
        }
    }
    if tags.is_empty() {
        return Err("there is no interval in it".into());
    }
    let row = |t: &OneTag| {
        let label = Hist::from_name(&t.name).map_or("", Hist::label);
        HistRow::named(&t.name, label, &t.sum)
    };
    Ok(Summed {
        hists: HistReply {
            hists: tags.iter().map(row).collect(),
        },
        intervals: tags.iter().map(|t| t.intervals).max().unwrap_or(0),
        span: last.saturating_sub(first),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ctp96::obs::Histogram;

    fn written(intervals: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let (rtt, idle) = (Histogram::new(), Histogram::new().snapshot());
        write(&mut out, SystemTime::UNIX_EPOCH, "by a test", |log| {
            for i in 0..intervals {
                let snapshot = rtt.snapshot();
                rtt.record_n(1_000_000 * (i + 1), 10);
                let gained = super::super::since(&rtt.snapshot(), &snapshot);
                let second = Duration::from_secs(1);
                let hists = [("rtt", &gained), ("stage_seal", &idle)];
                log.interval(second * i as u32, second, hists.into_iter())?;
            }
            Ok(())
        })
        .expect("memory takes it");
        out
    }

    #[test]
    fn a_log_is_read_back() {
        let text = written(3);
        let shown = String::from_utf8_lossy(&text);
        assert!(shown.starts_with("#by a test\n#[Histogram log format version 1.3]\n"));
        assert!(shown.contains("#[StartTime: 0.000 (seconds since epoch)]"));
        assert!(shown.contains("\nTag=rtt,2.000,1.000,3.0"), "{shown}");
        let log = parse(&text).expect("it is a log");
        assert_eq!((log.intervals, log.span), (3, Duration::from_secs(3)));
        let [rtt, seal] = &log.hists.hists[..] else {
            panic!("two tags")
        };
        assert_eq!((rtt.name.as_str(), rtt.summary.count), ("rtt", 30));
        assert_eq!((seal.name.as_str(), seal.summary.count), ("stage_seal", 0));
        assert!(rtt.summary.max.abs_diff(3_000_000) < 60_000);
        assert!(rtt.label.starts_with("Round trip"));
    }

    #[test]
    fn damage_is_named() {
        let whole = String::from_utf8(written(2)).expect("text");
        let cut = whole.trim_end();
        for (text, want) in [
            (String::new(), "no interval"),
            ("what is this\n".into(), "line 1 is none"),
            (cut.into(), "line 10 is none"),
            (whole.replace("HISTF", "HISTG"), "damaged"),
        ] {
            let e = parse(text.as_bytes()).expect_err("it is damaged");
            assert!(e.contains(want), "{want}: {e}\n{text}");
        }
    }
}
