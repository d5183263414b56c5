//! Messages that carry the time at which they were due, and what became of them.

use super::rss_mib;
use crate::peer::NodeReport;
use crate::schema::Curve;
use ctp96::base::clock::host_monotonic_ns;
use ctp96::obs::hist::empty_hdr;
use std::time::Duration;

/// Bytes at the front of a message: stream, number in the stream, when it was due and when sending
/// began.
pub const HEAD: usize = 32;

/// The front of a message.
pub struct Head {
    pub(super) stream: u64,
    pub(super) number: u64,
    pub(super) due: u64,
    pub(super) sent: u64,
}

impl Head {
    /// Puts it there; a message shorter than [`HEAD`] gets what fits.
    pub fn write(&self, message: &mut [u8]) {
        let words = [self.stream, self.number, self.due, self.sent];
        for (at, word) in message.chunks_exact_mut(8).zip(words) {
            at.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// The front of a message that has one.
    pub fn read(message: &[u8]) -> Option<Head> {
        let (words, _) = message.get(..HEAD)?.as_chunks::<8>();
        let word = |i: usize| u64::from_le_bytes(words[i]);
        Some(Head {
            stream: word(0),
            number: word(1),
            due: word(2),
            sent: word(3),
        })
    }
}

/// When each message of a held rate is due: fixed at the start, whatever happens meanwhile.
pub struct Pace {
    start: u64,
    interval_ns: u64,
    n: u64,
}

impl Pace {
    /// From now on, one each `interval_ns`.
    pub fn new(interval_ns: u64) -> Pace {
        precise_sleep();
        Pace {
            start: host_monotonic_ns(),
            interval_ns,
            n: 0,
        }
    }

    /// Sleeps until the next is due, not at all where it is late, and gives its head.
    pub fn wait(&mut self) -> Head {
        let due = self.start + self.n * self.interval_ns;
        let now = host_monotonic_ns();
        if now < due {
            std::thread::sleep(Duration::from_nanos(due - now));
        }
        let head = Head {
            stream: 0,
            number: self.n,
            due,
            sent: host_monotonic_ns(),
        };
        self.n += 1;
        head
    }
}

/// Lets short sleeps end when they should and not up to 50 us later.
fn precise_sleep() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory of ours. A kernel that
    // refuses leaves the default, which only makes the sender later.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000_u64) };
}

/// Latencies of a paced run, and how they develop.
pub struct Latency {
    messages: u64,
    due: hdrhistogram::Histogram<u64>,
    sent: hdrhistogram::Histogram<u64>,
    parts: Vec<Part>,
}

struct Part {
    hist: hdrhistogram::Histogram<u64>,
    bytes: u64,
    first: u64,
    last: u64,
    rss_mib: f64,
}

impl Latency {
    /// For so many messages, looked at in `windows` parts.
    pub fn new(messages: u64, windows: usize) -> Latency {
        let part = || Part {
            hist: empty_hdr(),
            bytes: 0,
            first: u64::MAX,
            last: 0,
            rss_mib: 0.0,
        };
        Latency {
            messages,
            due: empty_hdr(),
            sent: empty_hdr(),
            parts: std::iter::repeat_with(part).take(windows).collect(),
        }
    }

    /// Message `n`, of `len` bytes, came at `now`.
    pub fn add(&mut self, n: u64, head: &Head, len: usize, now: u64) {
        let latency = now.saturating_sub(head.due);
        self.due.saturating_record(latency);
        self.sent.saturating_record(now.saturating_sub(head.sent));
        let windows = self.parts.len() as u64;
        let at = (n * windows / self.messages.max(1)).min(windows - 1);
        let part = &mut self.parts[at as usize];
        if part.bytes == 0 {
            part.first = now;
            part.rss_mib = rss_mib();
        }
        part.hist.saturating_record(latency);
        part.bytes += len as u64;
        part.last = now;
    }

    /// Curves and series.
    pub fn into_report(self, report: &mut NodeReport) {
        report.curves.push(Curve::of("from when due", &self.due));
        report.curves.push(Curve::of("from when sent", &self.sent));
        let mut add = |name: &str, value: &dyn Fn(&Part) -> f64| {
            let values = self.parts.iter().filter(|p| p.last > p.first).map(value);
            report.series.insert(name.to_owned(), values.collect());
        };
        add("gb_per_s", &|p| p.bytes as f64 / (p.last - p.first) as f64);
        add("p50_us", &|p| p.hist.value_at_percentile(50.0) as f64 / 1e3);
        add("p99_us", &|p| p.hist.value_at_percentile(99.0) as f64 / 1e3);
        add("receiver_rss_mib", &|p| p.rss_mib);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back() {
        let mut message = vec![0; 40];
        let (stream, number, due, sent) = (7, 8, u64::MAX, 1);
        Head {
            stream,
            number,
            due,
            sent,
        }
        .write(&mut message);
        let h = Head::read(&message).unwrap();
        assert_eq!((h.stream, h.number, h.due, h.sent), (7, 8, u64::MAX, 1));
        assert!(Head::read(&message[..31]).is_none());
    }

    #[test]
    fn a_stall_is_charged_to_all_that_it_held_up() {
        // Due every 10 us; the sender stalls for 1 ms before the sixth of 100 and then catches up
        // at once. Each takes 5 us from when it was really sent.
        let mut latency = Latency::new(100, 4);
        for n in 0..100_u64 {
            let due = 1_000_000 + n * 10_000;
            let sent = if n < 5 { due } else { due.max(2_050_000) };
            let head = Head {
                stream: 0,
                number: n,
                due,
                sent,
            };
            latency.add(n, &head, 100, sent + 5_000);
        }
        let mut report = NodeReport::default();
        latency.into_report(&mut report);
        let p50 = |i: usize| report.curves[i].at(50.0).unwrap();
        assert!(p50(0) > 400_000, "{} from when due", p50(0));
        assert!(p50(1) < 5_100, "{} from when sent", p50(1));
        assert_eq!(report.curves[0].count, 100);
    }
}
