//! Messages out of slots.

use crate::base::limits::MAX_MESSAGE_LEN;
use crate::stage::SlotFlags;

/// Puts messages together: whole ones from a slot of records, large ones from a run of slots.
#[derive(Default)]
pub(super) struct Assembler {
    /// Records of the last slot, and how far they are read.
    records: Vec<u8>,
    at: usize,
    /// The message that is coming in, in parts.
    parts: Vec<u8>,
    whole: bool,
}

impl Assembler {
    /// Takes one slot's content; false when it cannot be part of a valid sequence.
    pub(super) fn take_slot(&mut self, content: &[u8], flags: SlotFlags) -> bool {
        if flags.has(SlotFlags::RECORDS) {
            if !self.parts.is_empty() || flags.has(SlotFlags::MORE) || !records_are_whole(content) {
                return false;
            }
            self.records.clear();
            self.records.extend_from_slice(content);
            self.at = 0;
            return true;
        }
        if self.parts.len() + content.len() > MAX_MESSAGE_LEN {
            return false;
        }
        self.parts.extend_from_slice(content);
        self.whole = !flags.has(SlotFlags::MORE);
        true
    }

    /// Moves the next whole message into `out`.
    pub(super) fn next_message(&mut self, out: &mut Vec<u8>) -> bool {
        if let Some(rest) = self.records.get(self.at..)
            && let Some((len, rest)) = rest.split_first_chunk::<4>()
        {
            let len = u32::from_le_bytes(*len) as usize;
            if let Some(m) = rest.get(..len) {
                out.clear();
                out.extend_from_slice(m);
                self.at += 4 + len;
                return true;
            }
        }
        if self.whole {
            self.whole = false;
            out.clear();
            std::mem::swap(out, &mut self.parts);
            return true;
        }
        false
    }
}

fn records_are_whole(mut c: &[u8]) -> bool {
    while !c.is_empty() {
        let Some((len, rest)) = c.split_first_chunk::<4>() else {
            return false;
        };
        let Some(rest) = rest.get(u32::from_le_bytes(*len) as usize..) else {
            return false;
        };
        c = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_out_one_by_one() {
        let mut a = Assembler::default();
        let mut slot = Vec::new();
        for m in [&b"one"[..], b"", b"three"] {
            slot.extend((m.len() as u32).to_le_bytes());
            slot.extend(m);
        }
        assert!(a.take_slot(&slot, SlotFlags(SlotFlags::RECORDS)));
        let mut out = vec![9];
        for m in [&b"one"[..], b"", b"three"] {
            assert!(a.next_message(&mut out));
            assert_eq!(out, m);
        }
        assert!(!a.next_message(&mut out));
    }

    #[test]
    fn parts_join_and_bad_framing_is_refused() {
        let mut a = Assembler::default();
        let mut out = Vec::new();
        assert!(a.take_slot(b"ab", SlotFlags(SlotFlags::MORE)));
        assert!(!a.next_message(&mut out));
        assert!(!a.take_slot(b"\0\0\0\0", SlotFlags(SlotFlags::RECORDS)));
        assert!(a.take_slot(b"c", SlotFlags(0)));
        assert!(a.next_message(&mut out));
        assert_eq!(out, b"abc");
        assert!(!a.take_slot(&[9, 0, 0, 0, 1], SlotFlags(SlotFlags::RECORDS)));
        assert!(a.take_slot(b"", SlotFlags(0)));
        assert!(a.next_message(&mut out) && out.is_empty());
    }

    #[test]
    fn a_message_over_the_limit_is_refused() {
        let mut a = Assembler::default();
        let part = vec![0; 8 << 20];
        assert!(a.take_slot(&part, SlotFlags(SlotFlags::MORE)));
        assert!(a.take_slot(&part, SlotFlags(SlotFlags::MORE)));
        assert!(!a.take_slot(&[1], SlotFlags(0)));
    }
}
