//! The structures that ethtool's ioctl fills in, decoded.

use super::sys::{RXFH_HEAD, RXNFC_COUNT, RXNFC_LOCATIONS, STRING_LEN};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

fn word(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn text(b: &[u8]) -> String {
    let end = b.iter().position(|c| *c == 0).unwrap_or(b.len());
    String::from_utf8_lossy(&b[..end]).into_owned()
}

/// Driver and bus address.
pub fn driver(b: &[u8]) -> Option<(String, String)> {
    Some((text(b.get(4..36)?), text(b.get(100..132)?)))
}

/// Speed in Mbit/s; `None` where the link has none or does not know it.
pub fn speed(b: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(b.get(at..at + 2)?.try_into().ok()?));
    let speed = u32::from(half(12)?) | u32::from(half(28)?) << 16;
    (speed != 0 && speed != u32::MAX && speed != 0xffff).then_some(speed)
}

/// Queues as ethtool counts them. A maximum of 0 means that this kind is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// Queues that only receive.
    pub rx: u32,
    /// Queues that only send.
    pub tx: u32,
    /// Pairs of both.
    pub combined: u32,
    /// Most that only receive.
    pub max_rx: u32,
    /// Most that only send.
    pub max_tx: u32,
    /// Most pairs.
    pub max_combined: u32,
}

impl Channels {
    /// Receive queues now.
    pub fn receiving(&self) -> u32 {
        self.combined + self.rx
    }

    /// Most receive queues.
    pub fn most(&self) -> u32 {
        if self.max_combined > 0 {
            self.max_combined
        } else {
            self.max_rx.min(self.max_tx)
        }
    }
}

/// `struct ethtool_channels`.
pub fn channels(b: &[u8]) -> Option<Channels> {
    Some(Channels {
        max_rx: word(b, 4)?,
        max_tx: word(b, 8)?,
        max_combined: word(b, 16)?,
        rx: word(b, 20)?,
        tx: word(b, 24)?,
        combined: word(b, 32)?,
    })
}

/// Descriptors of the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// Receive.
    pub rx: u32,
    /// Send.
    pub tx: u32,
    /// Most for receive.
    pub max_rx: u32,
    /// Most for send.
    pub max_tx: u32,
}

/// `struct ethtool_ringparam`.
pub fn rings(b: &[u8]) -> Option<Rings> {
    Some(Rings {
        max_rx: word(b, 4)?,
        max_tx: word(b, 16)?,
        rx: word(b, 20)?,
        tx: word(b, 32)?,
    })
}

/// Interrupt moderation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coalesce {
    /// Microseconds after a frame until the interrupt, receive.
    pub rx_usecs: u32,
    /// Frames until the interrupt, receive.
    pub rx_frames: u32,
    /// The same for send.
    pub tx_usecs: u32,
    /// The same for send.
    pub tx_frames: u32,
    /// The driver chooses, receive.
    pub adaptive_rx: bool,
    /// The driver chooses, send.
    pub adaptive_tx: bool,
}

/// `struct ethtool_coalesce`.
pub fn coalesce(b: &[u8]) -> Option<Coalesce> {
    Some(Coalesce {
        rx_usecs: word(b, 4)?,
        rx_frames: word(b, 8)?,
        tx_usecs: word(b, 20)?,
        tx_frames: word(b, 24)?,
        adaptive_rx: word(b, 40)? != 0,
        adaptive_tx: word(b, 44)? != 0,
    })
}

/// The indirection table: hash modulo its length gives the queue.
pub fn rss_table(b: &[u8]) -> Option<Vec<u32>> {
    let len = word(b, 8)? as usize;
    (0..len).map(|i| word(b, RXFH_HEAD + 4 * i)).collect()
}

/// How `ethtool -X` would write a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableForm {
    /// `equal N`: entry `i` is queue `i mod N`.
    Equal(u32),
    /// `weight ..`: one run of entries for each queue, in order.
    Weight(Vec<u32>),
}

/// The arguments of `ethtool -X` that make `table`; `None` where it has no such form.
pub fn table_form(table: &[u32]) -> Option<TableForm> {
    let n = table.iter().max()?.checked_add(1)?;
    if table.iter().zip(0_u32..).all(|(q, i)| *q == i % n) {
        return Some(TableForm::Equal(n));
    }
    let mut weights = vec![0_u32; n as usize];
    for q in table {
        weights[*q as usize] += 1;
    }
    // Weights that add up to the table's length give each queue exactly so many entries.
    let runs = weights
        .iter()
        .zip(0_u32..)
        .flat_map(|(w, q)| std::iter::repeat_n(q, *w as usize));
    table
        .iter()
        .copied()
        .eq(runs)
        .then_some(TableForm::Weight(weights))
}

/// Steering rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Locations in use.
    pub locations: Vec<u32>,
    /// Locations there are; 0 where the driver does not say.
    pub size: u32,
}

/// `struct ethtool_rxnfc` with locations.
pub fn rules(b: &[u8]) -> Option<Rules> {
    let count = word(b, RXNFC_COUNT)? as usize;
    let locations: Option<Vec<u32>> = (0..count)
        .map(|i| word(b, RXNFC_LOCATIONS + 4 * i))
        .collect();
    // The top bit says that the driver chooses locations by itself.
    let size = word(b, 8)? & 0x7fff_ffff;
    Some(Rules {
        locations: locations?,
        size,
    })
}

/// One feature of `ethtool -k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// It is on.
    pub on: bool,
    /// It can be changed.
    pub changeable: bool,
}

/// Features by the kernel's names, such as `rx-gro`.
pub fn features(names: &[u8], state: &[u8]) -> Option<BTreeMap<String, Feature>> {
    let count = word(names, 8)? as usize;
    let mut all = BTreeMap::new();
    for i in 0..count {
        let name = text(names.get(12 + STRING_LEN * i..12 + STRING_LEN * (i + 1))?);
        if name.is_empty() {
            continue;
        }
        let block = 8 + 16 * (i / 32);
        let has = |at: usize| Some(word(state, block + at)? & (1 << (i % 32)) != 0);
        all.insert(
            name,
            Feature {
                on: has(8)?,
                changeable: has(0)? && !has(12)?,
            },
        );
    }
    Some(all)
}

/// The letters of `ethtool -N .. rx-flow-hash` for the kernel's bit set.
pub fn hash_letters(fields: u64) -> String {
    [
        (1 << 1, 'm'),
        (1 << 2, 'v'),
        (1 << 3, 't'),
        (1 << 4, 's'),
        (1 << 5, 'd'),
        (1 << 6, 'f'),
        (1 << 7, 'n'),
        (1 << 31, 'r'),
    ]
    .into_iter()
    .filter(|(bit, _)| fields & bit != 0)
    .map(|(_, letter)| letter)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(w: &[u32]) -> Vec<u8> {
        w.iter().flat_map(|w| w.to_ne_bytes()).collect()
    }

    #[test]
    fn structures_are_decoded_where_the_kernel_puts_their_fields() {
        let c = channels(&words(&[0x3c, 1, 2, 3, 8, 5, 6, 7, 4])).expect("complete");
        let want = Channels {
            max_rx: 1,
            max_tx: 2,
            max_combined: 8,
            rx: 5,
            tx: 6,
            combined: 4,
        };
        assert_eq!(c, want);
        assert_eq!((c.receiving(), c.most()), (9, 8));
        assert_eq!(channels(&[0; 35]), None);
        let r = rings(&words(&[0x10, 4096, 0, 0, 2048, 512, 0, 0, 256])).expect("complete");
        assert_eq!((r.max_rx, r.max_tx, r.rx, r.tx), (4096, 2048, 512, 256));
        let mut fields = [0; 23];
        fields[1] = 50;
        fields[2] = 64;
        fields[5] = 25;
        fields[6] = 32;
        fields[10] = 1;
        let c = coalesce(&words(&fields)).expect("complete");
        assert_eq!(
            (c.rx_usecs, c.rx_frames, c.tx_usecs, c.tx_frames),
            (50, 64, 25, 32)
        );
        assert!(c.adaptive_rx && !c.adaptive_tx);
        let mut d = vec![0; 196];
        d[4..8].copy_from_slice(b"veth");
        d[100..107].copy_from_slice(b"0000:01");
        assert_eq!(driver(&d), Some(("veth".into(), "0000:01".into())));
        let mut link = vec![0; 44];
        link[12..14].copy_from_slice(&(400_000_u32 as u16).to_ne_bytes());
        link[28..30].copy_from_slice(&((400_000_u32 >> 16) as u16).to_ne_bytes());
        assert_eq!(speed(&link), Some(400_000));
        link[12..14].copy_from_slice(&[0xff; 2]);
        link[28..30].copy_from_slice(&[0xff; 2]);
        assert_eq!(speed(&link), None, "unknown");
    }

    #[test]
    fn tables_are_written_back_only_where_ethtool_can() {
        assert_eq!(table_form(&[0, 1, 2, 0]), Some(TableForm::Equal(3)));
        assert_eq!(table_form(&[0, 0, 0, 0]), Some(TableForm::Equal(1)));
        let skewed = Some(TableForm::Weight(vec![3, 0, 1]));
        assert_eq!(table_form(&[0, 0, 0, 2]), skewed);
        assert_eq!(table_form(&[1, 0, 1, 0]), None, "no form of ethtool");
        assert_eq!(table_form(&[]), None);
        let mut raw = words(&[0x46, 0, 2, 3, 0, 0, 1, 0]);
        raw.extend([9; 3]);
        assert_eq!(rss_table(&raw), Some(vec![1, 0]));
        assert_eq!(rss_table(&raw[..28]), None);
    }

    #[test]
    fn rules_features_and_hashes() {
        let mut r = vec![0; 192];
        r[8..12].copy_from_slice(&(0x8000_0000_u32 | 1024).to_ne_bytes());
        r[RXNFC_COUNT..RXNFC_COUNT + 4].copy_from_slice(&2_u32.to_ne_bytes());
        r[RXNFC_LOCATIONS..RXNFC_LOCATIONS + 4].copy_from_slice(&1023_u32.to_ne_bytes());
        assert_eq!(rules(&r), None, "one location is cut off");
        r.extend(words(&[7]));
        r[RXNFC_LOCATIONS + 4..RXNFC_LOCATIONS + 8].copy_from_slice(&7_u32.to_ne_bytes());
        let got = rules(&r).expect("complete");
        assert_eq!((got.locations, got.size), (vec![1023, 7], 1024));

        let mut names = words(&[0x1b, 4, 33]);
        names.resize(12 + 33 * STRING_LEN, 0);
        names[12..18].copy_from_slice(b"rx-gro");
        let last = 12 + 32 * STRING_LEN;
        names[last..last + 6].copy_from_slice(b"rx-lro");
        // available, requested, active, never changed; two blocks
        let state = words(&[0x3a, 2, 1, 1, 1, 0, 1, 0, 0, 1]);
        let all = features(&names, &state).expect("complete");
        assert_eq!(all.len(), 2, "features without a name do not count");
        let gro = Feature {
            on: true,
            changeable: true,
        };
        assert_eq!(all["rx-gro"], gro);
        let lro = Feature {
            on: false,
            changeable: false,
        };
        assert_eq!(all["rx-lro"], lro);

        assert_eq!(hash_letters(0xf0), "sdfn");
        assert_eq!(hash_letters(0), "");
    }
}
