//! AES-256-GCM of `ring`, which works in place only: copy, then work where the copy is.

use super::{AeadError, KEY_LEN, NONCE_LEN};
use crate::base::limits::TAG_LEN;
use crate::crypto::copy;
use ::ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use std::mem::ManuallyDrop;

/// A key schedule, wiped on drop (`ring` itself does not).
pub(super) struct Key(Box<ManuallyDrop<LessSafeKey>>);

fn expand(key: &[u8; KEY_LEN]) -> LessSafeKey {
    // The only error is a key of another length than the algorithm's, which is KEY_LEN.
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes"))
}

impl Key {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Key {
        Key(Box::new(ManuallyDrop::new(expand(key))))
    }

    pub(super) fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        **self.0 = expand(key);
    }

    #[inline]
    pub(super) fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        text: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> Result<(), AeadError> {
        copy(text, plain);
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let sealed = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text);
        tag.copy_from_slice(sealed.map_err(|_| AeadError::Provider)?.as_ref());
        Ok(())
    }

    #[inline]
    pub(super) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), AeadError> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(*tag), text, 0..)
            .map_err(|_| AeadError::Auth)?;
        // No slower than copying first (example `aead_speed`), and `out` sees only text that has
        // been verified.
        copy(out, text);
        Ok(())
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: the value is dropped once, here, and not used again: its box holds it as
        // ManuallyDrop, so freeing the box runs no destructor over the zeros. The pointer comes
        // from the live box, hence is valid and aligned for writes of one LessSafeKey.
        unsafe {
            ManuallyDrop::drop(&mut self.0);
            zeroize::zeroize_flat_type(&raw mut *self.0);
        }
    }
}
