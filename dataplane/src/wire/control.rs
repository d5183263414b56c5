//! Plaintext of a control frame: a sequence of `{type u8, len u16, body}`.
//!
//! | type | message | body |
//! | --- | --- | --- |
//! | 0 | padding | any bytes |
//! | 1 | ack | see [`crate::wire::ack`] |
//! | 2 | witness | upto u64, level u8, chain 32 bytes |
//! | 3 | ping | id u64, time u64 |
//! | 4 | pong | id u64, time u64, as in the ping |
//! | 5 | lane close | reason u16, final slot u64 |
//! | 6 | session close | reason u16 |
//! | 7 | arrival | queue u16, home u16 |
//! | 8 | ecn | frames that arrived with ECT(0), ECT(1), CE: u64 each |
//!
//! A receiver skips types that it does not know, so that later versions can add some.

use super::ack::{ACK_MAX_LEN, Ack, AckError};
use super::{Reader, Writer};

/// Bytes before each message's body.
pub const MESSAGE_HEADER_LEN: usize = 3;
/// Bytes of the longest message other than padding, its header included.
pub const MAX_MESSAGE_ENCODED: usize = MESSAGE_HEADER_LEN + ACK_MAX_LEN;

const PADDING: u8 = 0;
const ACK: u8 = 1;
const WITNESS: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
const LANE_CLOSE: u8 = 5;
const SESSION_CLOSE: u8 = 6;
const ARRIVAL: u8 = 7;
const ECN: u8 = 8;

/// One control message.
// An acknowledgement is decoded into place once per few slots; boxing it would allocate there.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// This many bytes without meaning.
    Padding(u16),
    /// What the receiver has and how much it can take.
    Ack(Ack),
    /// The receiver's receipt for a prefix of the lane.
    Witness {
        /// Slots below this one were delivered to the application.
        upto: u64,
        /// Witness level, as negotiated.
        level: u8,
        /// Chain value over the digests of those slots.
        chain: [u8; 32],
    },
    /// Asks for a pong and for a prompt acknowledgement.
    Ping {
        /// Chosen by the sender.
        id: u64,
        /// Sender's clock, nanoseconds; comes back unchanged.
        t: u64,
    },
    /// Answers a ping.
    Pong {
        /// As in the ping.
        id: u64,
        /// As in the ping.
        t: u64,
    },
    /// The sender ends its lane.
    LaneClose {
        /// Why; zero is a normal end.
        reason: u16,
        /// Slots below this one were sent.
        final_slot: u64,
    },
    /// The whole session ends.
    SessionClose {
        /// Why; zero is a normal end.
        reason: u16,
    },
    /// Where the lane's frames arrive, from a receiver that listens on a queue of a network device.
    Arrival {
        /// Receive queue of the latest one.
        queue: u16,
        /// Receive queue of the lane's core.
        home: u16,
    },
    /// How the data frames that the acknowledgement behind it counts as received were marked.
    Ecn(EcnCounts),
    /// A message of a later version: skip it.
    Unknown {
        /// Its type.
        kind: u8,
    },
}

/// Data frames received since the lane opened, by the ECN codepoint that they came with (RFC 3168);
/// what is in none of the three came as not ECN-capable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EcnCounts {
    /// ECT(0), the mark that this implementation sends.
    pub ect0: u64,
    /// ECT(1).
    pub ect1: u64,
    /// Congestion experienced.
    pub ce: u64,
}

/// Why the plaintext of a control frame cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ControlError {
    /// A message runs past the end of the frame.
    #[error("control message truncated")]
    Truncated,
    /// A body of the wrong length for its type.
    #[error("control message of the wrong length")]
    Length,
    /// A bad acknowledgement.
    #[error(transparent)]
    Ack(#[from] AckError),
}

impl Message {
    /// Encoded length in bytes, header included; zero for [`Message::Unknown`].
    pub fn encoded_len(&self) -> usize {
        let body = match self {
            Message::Padding(n) => *n as usize,
            Message::Ack(a) => a.encoded_len(),
            Message::Witness { .. } => 41,
            Message::Ping { .. } | Message::Pong { .. } => 16,
            Message::LaneClose { .. } => 10,
            Message::SessionClose { .. } => 2,
            Message::Arrival { .. } => 4,
            Message::Ecn(_) => 24,
            Message::Unknown { .. } => return 0,
        };
        MESSAGE_HEADER_LEN + body
    }

    /// Writes the message at the start of `out`; gives the bytes written, or `None` where `out` is
    /// too short (then `out` holds no complete message) or the message is [`Message::Unknown`].
    pub fn encode_into(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.encoded_len();
        let body = len.checked_sub(MESSAGE_HEADER_LEN)? as u16;
        let out = out.get_mut(..len)?;
        let mut w = Writer::new(out);
        let [lo, hi] = body.to_le_bytes();
        let head = |kind| [kind, lo, hi];
        match self {
            Message::Padding(_) => {
                w.put(&head(PADDING))?;
                out.get_mut(MESSAGE_HEADER_LEN..)?.fill(0);
            }
            Message::Ack(a) => {
                w.put(&head(ACK))?;
                a.write(&mut w)?;
            }
            Message::Witness { upto, level, chain } => {
                w.put(&head(WITNESS))?;
                w.put(&upto.to_le_bytes())?;
                w.put(&[*level])?;
                w.put(chain)?;
            }
            Message::Ping { id, t } => {
                w.put(&head(PING))?;
                w.put(&id.to_le_bytes())?;
                w.put(&t.to_le_bytes())?;
            }
            Message::Pong { id, t } => {
                w.put(&head(PONG))?;
                w.put(&id.to_le_bytes())?;
                w.put(&t.to_le_bytes())?;
            }
            Message::LaneClose { reason, final_slot } => {
                w.put(&head(LANE_CLOSE))?;
                w.put(&reason.to_le_bytes())?;
                w.put(&final_slot.to_le_bytes())?;
            }
            Message::SessionClose { reason } => {
                w.put(&head(SESSION_CLOSE))?;
                w.put(&reason.to_le_bytes())?;
            }
            Message::Arrival { queue, home } => {
                w.put(&head(ARRIVAL))?;
                w.put(&queue.to_le_bytes())?;
                w.put(&home.to_le_bytes())?;
            }
            Message::Ecn(n) => {
                w.put(&head(ECN))?;
                w.put(&n.ect0.to_le_bytes())?;
                w.put(&n.ect1.to_le_bytes())?;
                w.put(&n.ce.to_le_bytes())?;
            }
            Message::Unknown { .. } => return None,
        }
        Some(len)
    }

    fn decode(kind: u8, body: &[u8]) -> Result<Message, ControlError> {
        match kind {
            PADDING => Ok(Message::Padding(body.len() as u16)),
            ACK => Ok(Message::Ack(Ack::decode(body)?)),
            WITNESS..=ECN => {
                let mut r = Reader::new(body);
                let m = Message::decode_fixed(kind, &mut r).ok_or(ControlError::Length)?;
                if r.is_empty() {
                    Ok(m)
                } else {
                    Err(ControlError::Length)
                }
            }
            _ => Ok(Message::Unknown { kind }),
        }
    }

    fn decode_fixed(kind: u8, r: &mut Reader<'_>) -> Option<Message> {
        Some(match kind {
            WITNESS => Message::Witness {
                upto: r.u64()?,
                level: r.u8()?,
                chain: r.array()?,
            },
            PING => Message::Ping {
                id: r.u64()?,
                t: r.u64()?,
            },
            PONG => Message::Pong {
                id: r.u64()?,
                t: r.u64()?,
            },
            LANE_CLOSE => Message::LaneClose {
                reason: r.u16()?,
                final_slot: r.u64()?,
            },
            SESSION_CLOSE => Message::SessionClose { reason: r.u16()? },
            ARRIVAL => Message::Arrival {
                queue: r.u16()?,
                home: r.u16()?,
            },
            ECN => Message::Ecn(EcnCounts {
                ect0: r.u64()?,
                ect1: r.u64()?,
                ce: r.u64()?,
            }),
            _ => Message::Unknown { kind },
        })
    }
}

/// Reads the messages of a control frame's plaintext; ends after the first error.
#[derive(Clone, Copy, Debug)]
pub struct Iter<'a> {
    rest: Reader<'a>,
    failed: bool,
}

impl<'a> Iter<'a> {
    /// Over the plaintext of one control frame.
    pub fn new(plain: &'a [u8]) -> Iter<'a> {
        Iter {
            rest: Reader::new(plain),
            failed: false,
        }
    }

    fn split(&mut self) -> Option<(u8, &'a [u8])> {
        let kind = self.rest.u8()?;
        let len = self.rest.u16()?;
        Some((kind, self.rest.take(len as usize)?))
    }
}

impl Iterator for Iter<'_> {
    type Item = Result<Message, ControlError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        let m = match self.split() {
            Some((kind, body)) => Message::decode(kind, body),
            None => Err(ControlError::Truncated),
        };
        self.failed = m.is_err();
        Some(m)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ack::tests::any_ack;
    use proptest::prelude::*;

    fn any_message() -> impl Strategy<Value = Message> {
        prop_oneof![
            (0u16..50).prop_map(Message::Padding),
            any_ack().prop_map(Message::Ack),
            any::<(u64, u8, [u8; 32])>().prop_map(|(upto, level, chain)| Message::Witness {
                upto,
                level,
                chain
            }),
            any::<(u64, u64)>().prop_map(|(id, t)| Message::Ping { id, t }),
            any::<(u64, u64)>().prop_map(|(id, t)| Message::Pong { id, t }),
            any::<(u16, u64)>()
                .prop_map(|(reason, final_slot)| Message::LaneClose { reason, final_slot }),
            any::<u16>().prop_map(|reason| Message::SessionClose { reason }),
            any::<(u16, u16)>().prop_map(|(queue, home)| Message::Arrival { queue, home }),
            any::<(u64, u64, u64)>().prop_map(|(ect0, ect1, ce)| Message::Ecn(EcnCounts {
                ect0,
                ect1,
                ce
            })),
        ]
    }

    #[test]
    fn known_answer() {
        let mut out = [0xeeu8; 64];
        let m = Message::LaneClose {
            reason: 0x0102,
            final_slot: 3,
        };
        assert_eq!(m.encode_into(&mut out), Some(13));
        assert_eq!(out[..13], [5, 10, 0, 2, 1, 3, 0, 0, 0, 0, 0, 0, 0]);
        let m = Message::Ping { id: 1, t: 2 };
        assert_eq!(m.encode_into(&mut out), Some(19));
        let want = [3, 16, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(out[..19], want);
        let m = Message::SessionClose { reason: 7 };
        assert_eq!(m.encode_into(&mut out), Some(5));
        assert_eq!(out[..5], [6, 2, 0, 7, 0]);
        let m = Message::Ecn(EcnCounts {
            ect0: 1,
            ect1: 0,
            ce: 2,
        });
        assert_eq!(m.encode_into(&mut out), Some(27));
        assert_eq!(out[..5], [8, 24, 0, 1, 0]);
        assert_eq!((out[18], out[19], out[26]), (0, 2, 0));
        assert_eq!(Message::Padding(2).encode_into(&mut out), Some(5));
        assert_eq!(out[..5], [0, 2, 0, 0, 0]);
        let m = Message::Witness {
            upto: 1,
            level: 9,
            chain: [7; 32],
        };
        assert_eq!(m.encode_into(&mut out), Some(44));
        assert_eq!(out[..13], [2, 41, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 7]);
        assert_eq!(m.encode_into(&mut out[..43]), None);
    }

    #[test]
    fn unknown_types_are_skipped_and_bad_lengths_end_the_frame() {
        let plain = [200, 1, 0, 9, 6, 2, 0, 7, 0];
        let got: Vec<_> = Iter::new(&plain).collect();
        let close = Message::SessionClose { reason: 7 };
        assert_eq!(got, [Ok(Message::Unknown { kind: 200 }), Ok(close)]);
        let plain = [6, 3, 0, 7, 0, 0, 6, 2, 0, 7, 0];
        let got: Vec<_> = Iter::new(&plain).collect();
        assert_eq!(got, [Err(ControlError::Length)]);
        let got: Vec<_> = Iter::new(&[6, 3]).collect();
        assert_eq!(got, [Err(ControlError::Truncated)]);
    }

    proptest! {
        #[test]
        fn round_trip(ms in proptest::collection::vec(any_message(), 0..6), cut: u16) {
            let mut out = vec![0u8; 6 * MAX_MESSAGE_ENCODED];
            let mut at = 0;
            for m in &ms {
                let n = m.encode_into(&mut out[at..]).unwrap();
                prop_assert_eq!(n, m.encoded_len());
                at += n;
            }
            let got: Result<Vec<_>, _> = Iter::new(&out[..at]).collect();
            prop_assert_eq!(got, Ok(ms));
            // A cut frame yields at most one error and then ends.
            let cut = cut as usize % (at + 1);
            prop_assert!(Iter::new(&out[..cut]).filter(Result::is_err).count() <= 1);
        }

        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0u8..10, fit: bool) {
            if let Some(b) = bytes.first_mut() {
                *b = kind;
            }
            if fit && bytes.len() >= 3 {
                let len = (bytes.len() - 3) as u16;
                bytes[1..3].copy_from_slice(&len.to_le_bytes());
            }
            let n = Iter::new(&bytes).count();
            prop_assert!(n <= bytes.len());
        }
    }
}
