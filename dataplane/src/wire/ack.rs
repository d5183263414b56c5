//! The acknowledgement of one lane: cumulative, so a lost one costs nothing.
//!
//! | bytes | field |
//! | --- | --- |
//! | 0..8 | base: every slot below is complete |
//! | 8..20 | complete set: bit i is slot base + i |
//! | 20..28 | largest data packet number received (zero while `received` is zero) |
//! | 28..36 | data frames received, duplicates not counted |
//! | 36..40 | delay between the arrival of the largest packet number and this ack, microseconds |
//! | 40..44 | frames that arrived marked CE, modulo 2^32 |
//! | 44..52 | frames lost before FEC, as seen from gaps in packet numbers |
//! | 52..60 | credit: slots below this number may be sent |
//! | 60..64 | bytes that the receiver's socket can hold |
//! | 64 | number of reports, at most 16 |
//! | then | reports of 14 bytes: offset from base, deficit, have-set (12 bytes), offsets rising |

use super::{CONTROL_PN_BIT, Reader, Writer};
use crate::base::Bits96;
use crate::base::limits::{MAX_DATA_SYMBOLS, MAX_DEFICITS, WINDOW_SLOTS};

/// Bytes of an acknowledgement without reports.
pub const ACK_FIXED_LEN: usize = 65;
/// Bytes of one report.
pub const REPORT_LEN: usize = 14;
/// Bytes of the longest acknowledgement.
pub const ACK_MAX_LEN: usize = ACK_FIXED_LEN + MAX_DEFICITS * REPORT_LEN;

/// What the receiver has of one incomplete slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// The slot is base + offset; 0..=95.
    pub offset: u8,
    /// Symbols that are still missing before the slot can be decoded, 0..=64.
    pub deficit: u8,
    /// Symbols received: bit i below k is data symbol i, bit k + j is repair symbol j.
    pub have: Bits96,
}

/// Why bytes are not an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AckError {
    /// The body is not exactly as long as its fields say.
    #[error("acknowledgement of the wrong length")]
    Length,
    /// More than 16 reports.
    #[error("too many reports")]
    Count,
    /// A report's offset is 96 or above, not above the one before it, or its deficit is above 64.
    #[error("report out of range")]
    Report,
    /// A packet number of the control space.
    #[error("packet number out of range")]
    PacketNumber,
}

/// A decoded acknowledgement. The peer chose every value: the sender side of a lane judges them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ack {
    /// Every slot below this one is complete.
    pub base: u64,
    /// Bit i: slot base + i is complete.
    pub complete: Bits96,
    /// Largest data packet number received; meaningless while `received` is zero.
    pub largest_pn: u64,
    /// Data frames received on this lane since it opened, duplicates not counted.
    pub received: u64,
    /// Microseconds from the arrival of `largest_pn` to the making of this ack.
    pub delay_us: u32,
    /// Frames that arrived with the CE mark, modulo 2^32.
    pub ce: u32,
    /// Frames that never arrived as far as gaps in packet numbers tell.
    pub lost_before_fec: u64,
    /// Slots below this number may be sent.
    pub credit: u64,
    /// Bytes of frames that the receiver's socket can hold.
    pub inflight_limit: u32,
    n: u8,
    reports: [Report; MAX_DEFICITS],
}

impl Ack {
    /// The reports, oldest slot first.
    pub fn reports(&self) -> &[Report] {
        self.reports.get(..self.n as usize).unwrap_or(&[])
    }

    /// Adds a report; gives `false` where 16 are there already, where the offset does not rise or a
    /// value is out of range.
    pub fn push_report(&mut self, r: Report) -> bool {
        let n = self.n as usize;
        let rises = match n {
            0 => true,
            _ => self.reports[n - 1].offset < r.offset,
        };
        let fits = (r.offset as usize) < WINDOW_SLOTS && r.deficit as usize <= MAX_DATA_SYMBOLS;
        if n >= MAX_DEFICITS || !rises || !fits {
            return false;
        }
        self.reports[n] = r;
        self.n += 1;
        true
    }

    /// Encoded length in bytes.
    pub fn encoded_len(&self) -> usize {
        ACK_FIXED_LEN + self.n as usize * REPORT_LEN
    }

    pub(crate) fn write(&self, w: &mut Writer<'_>) -> Option<()> {
        w.put(&self.base.to_le_bytes())?;
        w.put(&self.complete.to_bytes())?;
        w.put(&self.largest_pn.to_le_bytes())?;
        w.put(&self.received.to_le_bytes())?;
        w.put(&self.delay_us.to_le_bytes())?;
        w.put(&self.ce.to_le_bytes())?;
        w.put(&self.lost_before_fec.to_le_bytes())?;
        w.put(&self.credit.to_le_bytes())?;
        w.put(&self.inflight_limit.to_le_bytes())?;
        w.put(&[self.n])?;
        for r in self.reports() {
            w.put(&[r.offset, r.deficit])?;
            w.put(&r.have.to_bytes())?;
        }
        Some(())
    }

    /// Writes the body; gives its length, or `None` where `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut w = Writer::new(out);
        self.write(&mut w)?;
        Some(w.written())
    }

    /// Reads a body of exactly `body.len()` bytes.
    ///
    /// # Errors
    /// See [`AckError`]; nothing else about the values is checked here.
    pub fn decode(body: &[u8]) -> Result<Ack, AckError> {
        let mut r = Reader::new(body);
        let (mut ack, n) = Ack::read_fixed(&mut r).ok_or(AckError::Length)?;
        if n as usize > MAX_DEFICITS {
            return Err(AckError::Count);
        }
        if ack.largest_pn & CONTROL_PN_BIT != 0 {
            return Err(AckError::PacketNumber);
        }
        for _ in 0..n {
            let report = Ack::read_report(&mut r).ok_or(AckError::Length)?;
            if !ack.push_report(report) {
                return Err(AckError::Report);
            }
        }
        if !r.is_empty() {
            return Err(AckError::Length);
        }
        Ok(ack)
    }

    fn read_fixed(r: &mut Reader<'_>) -> Option<(Ack, u8)> {
        let ack = Ack {
            base: r.u64()?,
            complete: Bits96::from_bytes(r.array()?),
            largest_pn: r.u64()?,
            received: r.u64()?,
            delay_us: r.u32()?,
            ce: r.u32()?,
            lost_before_fec: r.u64()?,
            credit: r.u64()?,
            inflight_limit: r.u32()?,
            n: 0,
            reports: [Report::default(); MAX_DEFICITS],
        };
        Some((ack, r.u8()?))
    }

    fn read_report(r: &mut Reader<'_>) -> Option<Report> {
        Some(Report {
            offset: r.u8()?,
            deficit: r.u8()?,
            have: Bits96::from_bytes(r.array()?),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        /// Any acknowledgement that has an encoding.
        pub(crate) fn any_ack()(
            words: [u64; 5], small: [u32; 3], sets in proptest::collection::vec(
                (0u8..96, 0u8..=64, any::<[u8; 12]>()), 0..20), complete: [u8; 12],
        ) -> Ack {
            let mut ack = Ack {
                base: words[0], complete: Bits96::from_bytes(complete),
                largest_pn: words[1] >> 1, received: words[2], lost_before_fec: words[3],
                credit: words[4], delay_us: small[0], ce: small[1], inflight_limit: small[2],
                ..Ack::default()
            };
            for (offset, deficit, have) in sets {
                ack.push_report(Report { offset, deficit, have: Bits96::from_bytes(have) });
            }
            ack
        }
    }

    #[test]
    fn known_answer() {
        let mut ack = Ack {
            base: 1,
            complete: Bits96::first(9),
            largest_pn: 2,
            received: 3,
            delay_us: 4,
            ce: 5,
            lost_before_fec: 6,
            credit: 7,
            inflight_limit: 8,
            ..Ack::default()
        };
        assert!(ack.push_report(Report {
            offset: 95,
            deficit: 64,
            have: Bits96::first(1),
        }));
        let mut out = [0xffu8; ACK_MAX_LEN];
        assert_eq!(ack.encode(&mut out), Some(79));
        #[rustfmt::skip]
        let want = [
            1, 0, 0, 0, 0, 0, 0, 0,  0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            2, 0, 0, 0, 0, 0, 0, 0,  3, 0, 0, 0, 0, 0, 0, 0,  4, 0, 0, 0,  5, 0, 0, 0,
            6, 0, 0, 0, 0, 0, 0, 0,  7, 0, 0, 0, 0, 0, 0, 0,  8, 0, 0, 0,
            1,  95, 64, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(&out[..79], &want[..]);
        assert_eq!(Ack::decode(&want), Ok(ack));
    }

    #[test]
    fn bad_values_are_refused() {
        let mut ack = Ack::default();
        for offset in 0..16 {
            assert!(ack.push_report(Report {
                offset,
                ..Report::default()
            }));
        }
        assert!(!ack.push_report(Report {
            offset: 20,
            ..Report::default()
        }));
        let mut out = [0u8; ACK_MAX_LEN];
        assert_eq!(ack.encode(&mut out), Some(ACK_MAX_LEN));
        assert_eq!(ack.encode(&mut [0u8; ACK_MAX_LEN - 1]), None);
        let with = |at: usize, v: u8| {
            let mut b = out;
            b[at] = v;
            Ack::decode(&b)
        };
        assert_eq!(with(64, 17), Err(AckError::Count));
        assert_eq!(with(64, 15), Err(AckError::Length));
        assert_eq!(with(27, 0x80), Err(AckError::PacketNumber));
        assert_eq!(with(65, 96), Err(AckError::Report));
        assert_eq!(with(65, 1), Err(AckError::Report));
        assert_eq!(with(66, 65), Err(AckError::Report));
    }

    proptest! {
        #[test]
        fn round_trip_and_truncation(ack in any_ack(), cut: u16) {
            let mut out = [0u8; ACK_MAX_LEN];
            let n = ack.encode(&mut out).unwrap();
            prop_assert_eq!(n, ack.encoded_len());
            prop_assert_eq!(Ack::decode(&out[..n]), Ok(ack));
            prop_assert!(Ack::decode(&out[..cut as usize % n]).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), n in 0u8..18) {
            let mut bytes = bytes;
            if let Some(b) = bytes.get_mut(64) {
                *b = n;
            }
            if let Ok(ack) = Ack::decode(&bytes) {
                let mut out = [0u8; ACK_MAX_LEN];
                let n = ack.encode(&mut out).unwrap();
                prop_assert_eq!(&out[..n], &bytes[..]);
            }
        }
    }
}
