//! What of a transfer is durable, written down so that it survives a kill at any moment.
//!
//! The journal names only bytes that were made durable *before* it was written, and replaces its
//! predecessor by a rename, so whatever a reader finds is true. Layout (little-endian):
//! `C96J`, version `u32` = 1, transfer id (32), number of done ranges `u32`, of partial objects
//! `u32`; per done range: first index `u32`, count `u32`; per partial object: index `u32`, number of
//! extents `u32`, and per extent start `u64`, end `u64`; at last BLAKE3 of all before it (32).

use super::extents::Extents;
use super::message::Reader;
use super::sys;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;

const MAGIC: &[u8; 8] = b"C96J\x01\0\0\0";
const NAME: &str = "journal";
const NEXT: &str = "journal.new";
/// A journal never has more bytes than this.
const MAX_LEN: u64 = 64 << 20;

/// Durable state of a transfer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// Objects that have their final name: `first..first + count`.
    pub done: Vec<(u32, u32)>,
    /// Durable bytes of partial objects.
    pub partial: BTreeMap<u32, Extents>,
}

impl Journal {
    /// The bytes of the file.
    pub fn encode(&self, id: &[u8; 32]) -> Vec<u8> {
        let mut b = MAGIC.to_vec();
        b.extend_from_slice(id);
        b.extend_from_slice(&(self.done.len() as u32).to_le_bytes());
        b.extend_from_slice(&(self.partial.len() as u32).to_le_bytes());
        for (first, count) in &self.done {
            b.extend_from_slice(&first.to_le_bytes());
            b.extend_from_slice(&count.to_le_bytes());
        }
        for (index, e) in &self.partial {
            b.extend_from_slice(&index.to_le_bytes());
            b.extend_from_slice(&(e.ranges().len() as u32).to_le_bytes());
            for (start, end) in e.ranges() {
                b.extend_from_slice(&start.to_le_bytes());
                b.extend_from_slice(&end.to_le_bytes());
            }
        }
        let sum = blake3::hash(&b);
        b.extend_from_slice(sum.as_bytes());
        b
    }

    /// Reads the bytes of a file; `None` for anything but a whole journal of this transfer.
    pub fn decode(bytes: &[u8], id: &[u8; 32]) -> Option<Journal> {
        let (body, sum) = bytes.split_last_chunk::<32>()?;
        if blake3::hash(body) != *sum {
            return None;
        }
        let mut r = Reader(body);
        if r.array()? != *MAGIC || r.array()? != *id {
            return None;
        }
        let (done, partial) = (r.u32()?, r.u32()?);
        let mut j = Journal::default();
        for _ in 0..done {
            j.done.push((r.u32()?, r.u32()?));
        }
        for _ in 0..partial {
            let (index, n) = (r.u32()?, r.u32()?);
            let e = j.partial.entry(index).or_default();
            for _ in 0..n {
                e.add(r.u64()?, r.u64()?);
            }
        }
        r.at_end().then_some(j)
    }

    /// Replaces the journal in `dir`, durably.
    pub fn store(&self, dir: BorrowedFd, id: &[u8; 32]) -> std::io::Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        let mut f = sys::open_at(dir, NEXT, flags, 0o600)?;
        f.write_all(&self.encode(id))?;
        f.sync_data()?;
        sys::rename_at(dir, NEXT, dir, NAME)?;
        std::fs::File::from(dir.try_clone_to_owned()?).sync_all()
    }

    /// The journal in `dir`; an empty one where there is none that is whole.
    pub fn load(dir: BorrowedFd, id: &[u8; 32]) -> Journal {
        let mut b = Vec::new();
        let read = sys::open_at(dir, NAME, libc::O_RDONLY, 0)
            .and_then(|f| f.take(MAX_LEN).read_to_end(&mut b));
        read.ok()
            .and_then(|_| Journal::decode(&b, id))
            .unwrap_or_default()
    }
}

/// Sorted indices as ranges `(first, count)`.
pub fn ranges(sorted: impl IntoIterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for i in sorted {
        match out.last_mut() {
            Some((first, count)) if *first + *count == i => *count += 1,
            _ => out.push((i, 1)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::testdir::TestDir;
    use proptest::prelude::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    fn some() -> Journal {
        let mut j = Journal {
            done: ranges([0, 1, 2, 5, 9, 10]),
            ..Journal::default()
        };
        assert_eq!(j.done, [(0, 3), (5, 1), (9, 2)]);
        j.partial.entry(4).or_default().add(10, 20);
        j.partial.entry(4).or_default().add(64, 1 << 40);
        j.partial.entry(7).or_default().add(0, 1);
        j
    }

    #[test]
    fn it_survives_the_disk_and_belongs_to_one_transfer() {
        let t = TestDir::new("journal");
        let d = File::open(t.path()).unwrap();
        let (id, j) = ([7; 32], some());
        assert_eq!(Journal::load(d.as_fd(), &id), Journal::default());
        Journal::default().store(d.as_fd(), &id).unwrap();
        j.store(d.as_fd(), &id).unwrap();
        assert_eq!(Journal::load(d.as_fd(), &id), j);
        assert_eq!(Journal::load(d.as_fd(), &[8; 32]), Journal::default());
    }

    #[test]
    fn a_torn_write_is_never_believed() {
        let t = TestDir::new("journal-torn");
        let d = File::open(t.path()).unwrap();
        let (id, j) = ([7; 32], some());
        let b = j.encode(&id);
        for cut in 0..b.len() {
            assert_eq!(Journal::decode(&b[..cut], &id), None);
            let mut flipped = b.clone();
            flipped[cut] ^= 1;
            assert_eq!(Journal::decode(&flipped, &id), None);
        }
        // Killed while the next one was being written: the last whole one counts.
        j.store(d.as_fd(), &id).unwrap();
        std::fs::write(t.path().join(NEXT), &b[..b.len() / 2]).unwrap();
        assert_eq!(Journal::load(d.as_fd(), &id), j);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(b in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut signed = b.clone();
            signed.extend_from_slice(blake3::hash(&b).as_bytes());
            let _ = Journal::decode(&signed, &[0; 32]);
            let mut headed = MAGIC.to_vec();
            headed.extend([0; 32]);
            headed.extend(&b);
            let sum = *blake3::hash(&headed).as_bytes();
            headed.extend(sum);
            let _ = Journal::decode(&headed, &[0; 32]);
        }
    }
}
