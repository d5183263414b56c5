//! The list of objects of a transfer, and the number that names the transfer.

use super::message::Reader;
use super::path::{NameError, check_name};
use crate::crypto::identity::PublicKey;
use std::collections::HashSet;

/// Most objects of one transfer.
pub const MAX_OBJECTS: usize = 1_000_000;
/// Most bytes of a manifest on the wire.
pub const MAX_MANIFEST: usize = 64 << 20;
/// Longest destination directory in an offer, bytes.
const MAX_DEST: usize = 4096;

/// One object: a regular file or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name relative to the destination, see [`check_name`].
    pub name: String,
    /// Bytes; 0 for a directory.
    pub size: u64,
    /// Modification time, nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// `st_mode` of Linux: type and permission bits.
    pub mode: u32,
}

impl Entry {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.name.len() as u16).to_le_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.mtime_ns.to_le_bytes());
        out.extend_from_slice(&self.mode.to_le_bytes());
    }

    fn encoded_len(&self) -> usize {
        22 + self.name.len()
    }
}

/// What begins a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Transfer id.
    pub id: [u8; 32],
    /// The receiver verifies and throws the bytes away.
    pub discard: bool,
    /// The same job offered this transfer before.
    pub again: bool,
    /// The sender wants whole-object digests and receipts.
    pub full: bool,
    /// Directory at the receiver; empty for its default.
    pub dest: String,
    /// Objects.
    pub count: u32,
    /// Bytes of all objects.
    pub total: u64,
}

/// Why a manifest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not in the format.
    #[error("the manifest is malformed")]
    Malformed,
    /// A bad name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The same name twice.
    #[error("the name {0:?} is in the manifest twice")]
    Twice(String),
    /// Neither file nor directory.
    #[error("{0:?} is neither a regular file nor a directory")]
    Special(String),
    /// Too many objects or bytes of names.
    #[error("a transfer has at most {MAX_OBJECTS} objects and 64 MiB of names; send it in parts")]
    TooLarge,
    /// Count, sum or id does not fit the entries.
    #[error("the manifest does not match its own summary")]
    Summary,
}

impl Offer {
    /// The body of the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut b = self.id.to_vec();
        b.push(u8::from(self.discard) | u8::from(self.again) << 1 | u8::from(self.full) << 2);
        b.extend_from_slice(&self.count.to_le_bytes());
        b.extend_from_slice(&self.total.to_le_bytes());
        b.extend_from_slice(self.dest.as_bytes());
        b
    }

    /// Reads the body of the message.
    pub fn decode(body: &[u8]) -> Result<Offer, ManifestError> {
        let mut r = Reader(body);
        let read = (|| Some((r.array()?, r.u8()?, r.u32()?, r.u64()?)))();
        let (id, flags, count, total) = read.ok_or(ManifestError::Malformed)?;
        let dest = std::str::from_utf8(r.0)
            .map_err(|_| ManifestError::Malformed)?
            .to_owned();
        if flags > 7 || dest.len() > MAX_DEST {
            return Err(ManifestError::Malformed);
        }
        if count as usize > MAX_OBJECTS {
            return Err(ManifestError::TooLarge);
        }
        let (discard, again, full) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        Ok(Offer {
            id,
            discard,
            again,
            full,
            dest,
            count,
            total,
        })
    }
}

/// Bodies of `Entries` messages of at most `max` bytes each.
pub fn encode_entries(entries: &[Entry], max: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut b = Vec::new();
    for e in entries {
        if !b.is_empty() && b.len() + e.encoded_len() > max {
            all.push(std::mem::take(&mut b));
        }
        e.encode(&mut b);
    }
    if !b.is_empty() {
        all.push(b);
    }
    all
}

/// Appends the entries of one message; everything about each of them is checked.
pub fn decode_entries(body: &[u8], out: &mut Vec<Entry>) -> Result<(), ManifestError> {
    let mut r = Reader(body);
    while !r.at_end() {
        let read = (|| {
            let len = r.u16()?;
            let name = r.bytes(usize::from(len))?;
            Some((name, r.u64()?, r.u64()? as i64, r.u32()?))
        })();
        let (name, size, mtime_ns, mode) = read.ok_or(ManifestError::Malformed)?;
        let name = String::from_utf8(name.to_vec()).map_err(|e| NameError {
            name: String::from_utf8_lossy(e.as_bytes())
                .chars()
                .take(200)
                .collect(),
            why: "it is not UTF-8",
        })?;
        check_name(&name)?;
        let kind = mode & libc::S_IFMT;
        if kind != libc::S_IFREG && !(kind == libc::S_IFDIR && size == 0) {
            return Err(ManifestError::Special(name));
        }
        // File systems count in i64.
        if size > i64::MAX as u64 {
            return Err(ManifestError::Malformed);
        }
        if out.len() == MAX_OBJECTS {
            return Err(ManifestError::TooLarge);
        }
        out.push(Entry {
            name,
            size,
            mtime_ns,
            mode,
        });
    }
    Ok(())
}

/// Sum of the sizes, unless it overflows.
pub fn total(entries: &[Entry]) -> Option<u64> {
    entries.iter().try_fold(0u64, |n, e| n.checked_add(e.size))
}

/// The transfer id: BLAKE3 of the sender's key, the destination and every entry in order.
pub fn transfer_id(sender: &PublicKey, discard: bool, dest: &str, entries: &[Entry]) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    h.update(b"CTP-96 transfer v1\0");
    h.update(&sender.0);
    h.update(&[u8::from(discard)]);
    h.update(&(dest.len() as u32).to_le_bytes());
    h.update(dest.as_bytes());
    let mut b = Vec::new();
    for e in entries {
        b.clear();
        e.encode(&mut b);
        h.update(&b);
    }
    *h.finalize().as_bytes()
}

/// Checks a complete list against its offer: count, sum, id, no name twice.
pub fn check(offer: &Offer, sender: &PublicKey, entries: &[Entry]) -> Result<(), ManifestError> {
    if entries.len() != offer.count as usize
        || total(entries) != Some(offer.total)
        || transfer_id(sender, offer.discard, &offer.dest, entries) != offer.id
    {
        return Err(ManifestError::Summary);
    }
    unique(entries)
}

/// No name may be there twice.
pub fn unique(entries: &[Entry]) -> Result<(), ManifestError> {
    let mut seen = HashSet::with_capacity(entries.len());
    match entries.iter().find(|e| !seen.insert(&e.name)) {
        Some(e) => Err(ManifestError::Twice(e.name.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REG: u32 = libc::S_IFREG | 0o644;

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.into(),
            size: 5,
            mtime_ns: -3,
            mode: REG,
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(b in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Offer::decode(&b);
            let _ = decode_entries(&b, &mut Vec::new());
        }

        #[test]
        fn entries_survive_the_wire(names in proptest::collection::vec("[a-z]{1,40}", 0..50), size in 0u64..1 << 62, mtime_ns: i64, max in 1usize..500) {
            let entries: Vec<_> = names.into_iter().map(|name| Entry { name, size, mtime_ns, mode: REG }).collect();
            let mut back = Vec::new();
            for m in encode_entries(&entries, max) {
                decode_entries(&m, &mut back).expect("just encoded");
            }
            prop_assert_eq!(back, entries);
        }
    }

    #[test]
    fn a_manifest_is_bound_to_its_id() {
        let key = PublicKey([3; 32]);
        let entries = vec![entry("a"), entry("b")];
        let id = transfer_id(&key, false, "d", &entries);
        let offer = Offer {
            id,
            discard: false,
            again: true,
            full: false,
            dest: "d".into(),
            count: 2,
            total: 10,
        };
        assert_eq!(Offer::decode(&offer.encode()), Ok(offer.clone()));
        assert_eq!(check(&offer, &key, &entries), Ok(()));
        assert!(check(&offer, &PublicKey([4; 32]), &entries).is_err());
        assert!(
            check(
                &Offer {
                    dest: "e".into(),
                    ..offer.clone()
                },
                &key,
                &entries
            )
            .is_err()
        );
        assert!(
            check(
                &Offer {
                    count: 1,
                    ..offer.clone()
                },
                &key,
                &entries
            )
            .is_err()
        );
        let mut other = entries.clone();
        other[1].mtime_ns += 1;
        assert!(check(&offer, &key, &other).is_err());
        assert_eq!(
            unique(&[entry("a"), entry("a")]),
            Err(ManifestError::Twice("a".into()))
        );
    }

    #[test]
    fn bad_entries_are_refused() {
        let one = |e: Entry| {
            let m = encode_entries(&[e], 1 << 20);
            decode_entries(&m[0], &mut Vec::new())
        };
        assert_eq!(one(entry("a/b")), Ok(()));
        assert!(matches!(one(entry("../b")), Err(ManifestError::Name(_))));
        assert!(matches!(
            one(Entry {
                mode: libc::S_IFIFO,
                ..entry("a")
            }),
            Err(ManifestError::Special(_))
        ));
        assert!(
            one(Entry {
                size: u64::MAX,
                ..entry("a")
            })
            .is_err()
        );
        let mut m = encode_entries(&[entry("abc")], 1 << 20).remove(0);
        m[2] = 0xff;
        assert!(matches!(
            decode_entries(&m, &mut Vec::new()),
            Err(ManifestError::Name(_))
        ));
    }
}
