//! AES-256-GCM of AWS-LC through its C interface, which encrypts and decrypts out of place: the
//! safe wrapper `aws-lc-rs` has that for opening only.

use super::{AeadError, KEY_LEN, NONCE_LEN};
use crate::base::limits::TAG_LEN;
use aws_lc_sys as sys;
use std::ptr::{NonNull, null, null_mut};

/// A key schedule on AWS-LC's heap, which wipes memory before it frees it.
///
/// `ctx` is `None` after an allocation or keying failure; then every operation fails.
pub(super) struct Key {
    ctx: Option<NonNull<sys::EVP_AEAD_CTX>>,
}

// SAFETY: the context is owned by this value alone and holds only the expanded key; nothing in it
// belongs to a thread. `openssl/aead.h` lists AES-256-GCM among the AEADs whose context may even be
// used by several threads at once.
unsafe impl Send for Key {}

impl Key {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Key {
        // SAFETY: takes no argument, is idempotent and thread-safe (it runs its body once). The
        // second call returns a pointer to a static description; the third reads KEY_LEN bytes of
        // `key` and returns an owned context or null.
        let ctx = unsafe {
            sys::CRYPTO_library_init();
            let aead = sys::EVP_aead_aes_256_gcm();
            sys::EVP_AEAD_CTX_new(aead, key.as_ptr(), KEY_LEN, TAG_LEN)
        };
        Key {
            ctx: NonNull::new(ctx),
        }
    }

    pub(super) fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        let Some(ctx) = self.ctx else { return };
        // SAFETY: `ctx` is a live context that `&mut self` makes exclusive. Cleaning up and then
        // initialising it again is its documented life cycle; neither step allocates for AES-GCM,
        // whose state lies inside the context, so the old schedule is overwritten in place.
        let keyed = unsafe {
            sys::EVP_AEAD_CTX_cleanup(ctx.as_ptr());
            let aead = sys::EVP_aead_aes_256_gcm();
            let engine = null_mut();
            sys::EVP_AEAD_CTX_init(ctx.as_ptr(), aead, key.as_ptr(), KEY_LEN, TAG_LEN, engine)
        };
        if keyed != 1 {
            self.free();
        }
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
        let ctx = self.ctx.ok_or(AeadError::Provider)?;
        if text.len() != plain.len() {
            return Err(AeadError::Length);
        }
        let mut tag_len = 0;
        // SAFETY: `ctx` is live and keyed. Each pointer comes from a slice and goes with that
        // slice's length: `plain`, `nonce` and `aad` are only read; exactly plain.len() bytes are
        // written to `text`, which is as long, and at most TAG_LEN bytes to `tag`. As Rust slices,
        // the two outputs overlap neither each other nor an input. No extra input is given.
        let sealed = unsafe {
            sys::EVP_AEAD_CTX_seal_scatter(
                ctx.as_ptr(),
                text.as_mut_ptr(),
                tag.as_mut_ptr(),
                &mut tag_len,
                TAG_LEN,
                nonce.as_ptr(),
                NONCE_LEN,
                plain.as_ptr(),
                plain.len(),
                null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        if sealed == 1 && tag_len == TAG_LEN {
            Ok(())
        } else {
            clear_errors();
            Err(AeadError::Provider)
        }
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
        let ctx = self.ctx.ok_or(AeadError::Provider)?;
        if text.len() != out.len() {
            return Err(AeadError::Length);
        }
        // SAFETY: `ctx` is live and keyed. Each pointer comes from a slice and goes with that
        // slice's length: `text`, `tag`, `nonce` and `aad` are only read; exactly text.len() bytes
        // are written to `out`, which is as long and, being a Rust slice, overlaps no input.
        let opened = unsafe {
            sys::EVP_AEAD_CTX_open_gather(
                ctx.as_ptr(),
                out.as_mut_ptr(),
                nonce.as_ptr(),
                NONCE_LEN,
                text.as_ptr(),
                text.len(),
                tag.as_ptr(),
                TAG_LEN,
                aad.as_ptr(),
                aad.len(),
            )
        };
        if opened == 1 {
            Ok(())
        } else {
            clear_errors();
            Err(AeadError::Auth)
        }
    }

    fn free(&mut self) {
        if let Some(ctx) = self.ctx.take() {
            // SAFETY: the context was made by EVP_AEAD_CTX_new, is owned by this value, and has
            // just been taken out of it, so that it is freed once and not used again.
            unsafe { sys::EVP_AEAD_CTX_free(ctx.as_ptr()) }
        }
    }
}

/// Empties the thread's error queue, where a forged frame leaves an entry that nobody reads.
#[cold]
fn clear_errors() {
    // SAFETY: takes no argument and touches only the calling thread's own queue.
    unsafe { sys::ERR_clear_error() }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.free();
    }
}
