//! What the compression suite compresses: made here, or found on the host.

use std::fmt::Write;
use std::io::Read;

/// Bytes of each corpus at most.
const LEN: usize = 4 << 20;

/// A named body of data.
pub struct Corpus {
    /// Name in tables, with where it came from.
    pub name: String,
    /// The data.
    pub bytes: Vec<u8>,
}

/// Text, an executable, JSON and random bytes.
pub fn all() -> Vec<Corpus> {
    let named = |name: &str, bytes| Corpus {
        name: name.to_owned(),
        bytes,
    };
    let mut all = vec![named("text", text(LEN)), named("json", json(LEN))];
    // The bench itself is an executable that every host which runs it has.
    if let Some(bytes) = std::env::current_exe().ok().and_then(head) {
        all.push(named("elf", bytes));
    }
    all.push(named("random", random(LEN)));
    all
}

/// The first bytes of a file; nothing if it has none.
fn head(path: std::path::PathBuf) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(LEN as u64).read_to_end(&mut bytes).ok()?;
    (!bytes.is_empty()).then_some(bytes)
}

/// A sequence that is the same on every host.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Incompressible bytes.
pub fn random(len: usize) -> Vec<u8> {
    let mut r = Random(0x9e37_79b9_7f4a_7c15);
    let mut out = vec![0; len];
    for piece in out.chunks_mut(8) {
        piece.copy_from_slice(&r.next().to_le_bytes()[..piece.len()]);
    }
    out
}

/// Lines of words with the frequencies of prose (rank r is drawn in proportion to 1/r), with numbers
/// and punctuation between.
pub fn text(len: usize) -> Vec<u8> {
    let mut r = Random(0x2545_f491_4f6c_dd1d);
    let syllables = [
        "an", "the", "re", "or", "ing", "to", "st", "con", "pla", "ne", "fra", "me", "lo", "tic",
        "ver", "sum", "de", "al", "ment", "qui",
    ];
    let words: Vec<String> = (0..4000)
        .map(|i| {
            let n = 1 + i.min(400) / 100 + (r.next() % 2) as usize;
            (0..n)
                .map(|_| syllables[(r.next() % syllables.len() as u64) as usize])
                .collect()
        })
        .collect();
    let mut out = String::with_capacity(len + 64);
    let mut column = 0;
    while out.len() < len {
        let unit = (r.next() >> 11) as f64 / (1_u64 << 53) as f64;
        // Inverse of the distribution of log-uniform ranks.
        let rank = (words.len() as f64).powf(unit) as usize - 1;
        let word = &words[rank.min(words.len() - 1)];
        out.push_str(word);
        column += word.len() + 1;
        match r.next() % 24 {
            0 => out.push_str(". "),
            1 => out.push_str(", "),
            2 => {
                let _ = write!(out, " {} ", r.next() % 10_000);
            }
            _ if column > 90 => {
                out.push('\n');
                column = 0;
            }
            _ => out.push(' '),
        }
    }
    let mut bytes = out.into_bytes();
    bytes.truncate(len);
    bytes
}

/// Log records, one object a line.
pub fn json(len: usize) -> Vec<u8> {
    let mut r = Random(0x1234_5678_9abc_def1);
    let mut out = String::with_capacity(len + 256);
    let mut id = 100_000_u64;
    while out.len() < len {
        id += r.next() % 7;
        let level = ["debug", "info", "info", "info", "warn", "error"][(r.next() % 6) as usize];
        let _ = writeln!(
            out,
            "{{\"id\":{id},\"time\":\"2026-11-23T{:02}:{:02}:{:02}.{:03}Z\",\"level\":\"{level}\",\"host\":\
             \"node-{:02}\",\"bytes\":{},\"latency_us\":{}.{:02},\"trace\":\"{:016x}\"}}",
            r.next() % 24,
            r.next() % 60,
            r.next() % 60,
            r.next() % 1000,
            r.next() % 40,
            r.next() % 1_000_000,
            r.next() % 5000,
            r.next() % 100,
            r.next()
        );
    }
    let mut bytes = out.into_bytes();
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpora_are_as_long_as_asked_and_the_same_each_time() {
        for make in [text, json, random] {
            let a = make(10_000);
            assert_eq!(a.len(), 10_000);
            assert_eq!(a, make(10_000));
        }
        let all = all();
        assert!(all.len() >= 3 && all.iter().all(|c| !c.bytes.is_empty()));
    }
}
