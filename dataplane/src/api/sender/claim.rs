//! Slots that the application fills in place.

use super::LaneSender;
use crate::base::limits::SLOT_PREAMBLE_LEN;
use crate::mem::SlotBuf;
use std::ops::{Deref, DerefMut};

/// A slot of the arena that the caller fills in place; derefs to its content bytes.
///
/// Dropping it without [`Claim::commit`] sends nothing.
pub struct Claim<'a> {
    pub(super) lane: &'a mut LaneSender,
    pub(super) buf: Option<SlotBuf>,
    pub(super) room: usize,
    pub(in crate::api) flags: u8,
}

impl Claim<'_> {
    /// Sends the first `len` bytes as one message; `len` above the capacity is cut to it.
    pub fn commit(mut self, len: usize) {
        if let Some(buf) = self.buf.take() {
            let len = len.min(self.room);
            self.lane.commit(buf, len, None, self.flags);
        }
    }

    /// Copies `content` into the slot and sends it as one message; what exceeds the capacity is cut
    /// off. Quicker than writing and [`Claim::commit`]: the digest is taken while copying.
    pub fn fill(mut self, content: &[u8]) {
        if let Some(buf) = self.buf.take() {
            let len = content.len().min(self.room);
            self.lane
                .commit(buf, len, Some(&content[..len]), self.flags);
        }
    }
}

impl Deref for Claim<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let end = SLOT_PREAMBLE_LEN + self.room;
        self.buf
            .as_ref()
            .map_or(&[], |b| &b[SLOT_PREAMBLE_LEN..end])
    }
}

impl DerefMut for Claim<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let end = SLOT_PREAMBLE_LEN + self.room;
        match self.buf.as_mut() {
            Some(b) => &mut b[SLOT_PREAMBLE_LEN..end],
            None => &mut [],
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.lane.free.extend(self.buf.take());
    }
}
