//! AES-256-GCM of the RustCrypto project: portable, out of place, and the reference that
//! [`calibrate`](crate::crypto::calibrate()) compares the others with.

use super::{AeadError, KEY_LEN, NONCE_LEN};
use crate::base::limits::TAG_LEN;
use ::aes_gcm::aead::inout::InOutBuf;
use ::aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

/// A key schedule; the crate wipes it on drop (feature `zeroize`).
pub(super) struct Key(Box<Aes256Gcm>);

impl Key {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Key {
        Key(Box::new(Aes256Gcm::new(key.into())))
    }

    pub(super) fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        *self.0 = Aes256Gcm::new(key.into());
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
        let buffer = InOutBuf::new(plain, text).map_err(|_| AeadError::Length)?;
        let sealed = self.0.encrypt_inout_detached(nonce.into(), aad, buffer);
        tag.copy_from_slice(&sealed.map_err(|_| AeadError::Provider)?);
        Ok(())
    }

    #[inline]
    pub(super) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        text: &[u8],
        tag: &[u8; TAG_LEN],
        out: &mut [u8],
    ) -> Result<(), AeadError> {
        let buffer = InOutBuf::new(text, out).map_err(|_| AeadError::Length)?;
        self.0
            .decrypt_inout_detached(nonce.into(), aad, buffer, tag.into())
            .map_err(|_| AeadError::Auth)
    }
}
