//! The AEADs of frames (96-bit nonce, 128-bit tag) behind one seam: AES-256-GCM (NIST SP 800-38D),
//! and AEGIS-256X2 and AEGIS-256 (draft-irtf-cfrg-aegis-aead) where both ends offer them.
//!
//! AES-256-GCM has three implementations: which is fastest depends on the CPU, so
//! [`calibrate`](super::calibrate()) measures them at start. All are out of place, because the
//! dataplane seals from a slot into a frame and opens from a frame into a slot: `aws-lc` and
//! `aes-gcm` do that in the cipher pass itself, `ring` copies and then works in place while the
//! bytes are hot.
//!
//! Up to [`MAX_GROUP`] frames may be handed over at once. AEGIS-256 gains by that, as far as the
//! instructions of the CPU go; the others take one after the other.
//!
//! Keys are boxed: moving one leaves no copy of its schedule behind, and [`SealKey::rekey`] replaces
//! a key without allocation.

pub(super) mod aegis256;
pub(super) mod aegis256x2;
#[cfg(target_arch = "x86_64")]
mod aegis_ni;
mod aes_gcm;
mod aws_lc;
mod ring;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

use crate::base::limits::TAG_LEN;
use crate::wire::handshake::{SUITE_AEGIS_256, SUITE_AEGIS_256X2, SUITE_AES_256_GCM};
use std::fmt;
use std::str::FromStr;

/// Key of every suite, bytes.
pub const KEY_LEN: usize = 32;
/// Nonce of every suite, bytes.
pub const NONCE_LEN: usize = 12;
/// Most messages that are sealed or opened at once.
pub const MAX_GROUP: usize = 4;

/// An implementation of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The `ring` crate (BoringSSL's assembly); in place.
    Ring,
    /// AWS-LC, the AWS fork of BoringSSL; out of place.
    AwsLc,
    /// The RustCrypto `aes-gcm` crate: portable, the reference; out of place.
    AesGcm,
    /// AEGIS-256X2, another suite than the others': our kernel or libaegis; out of place.
    Aegis256x2,
    /// AEGIS-256, a third suite: our kernel, which takes several frames at once, or libaegis; out of place.
    Aegis256,
}

impl Provider {
    /// Every provider of AES-256-GCM, the mandatory suite.
    pub const ALL: [Provider; 3] = [Provider::Ring, Provider::AwsLc, Provider::AesGcm];

    /// The name that configuration and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Ring => "ring",
            Provider::AwsLc => "aws-lc",
            Provider::AesGcm => "aes-gcm",
            Provider::Aegis256x2 => "aegis-256x2",
            Provider::Aegis256 => "aegis-256",
        }
    }

    /// The suite that it implements, as on the wire.
    pub fn suite(self) -> u8 {
        match self {
            Provider::Ring | Provider::AwsLc | Provider::AesGcm => SUITE_AES_256_GCM,
            Provider::Aegis256x2 => SUITE_AEGIS_256X2,
            Provider::Aegis256 => SUITE_AEGIS_256,
        }
    }

    /// The provider of a suite, of which `aes_gcm` is the one for AES-256-GCM; `None` for a suite
    /// that is not known.
    pub fn for_suite(suite: u8, aes_gcm: Provider) -> Option<Provider> {
        match suite {
            SUITE_AES_256_GCM => Some(aes_gcm),
            SUITE_AEGIS_256X2 => Some(Provider::Aegis256x2),
            SUITE_AEGIS_256 => Some(Provider::Aegis256),
            _ => None,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No provider has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown AES-GCM provider {0:?}: expected ring, aws-lc or aes-gcm")]
pub struct UnknownProvider(pub String);

impl FromStr for Provider {
    type Err = UnknownProvider;

    /// Parses the [`name`](Provider::name) of an AES-256-GCM provider.
    fn from_str(text: &str) -> Result<Provider, UnknownProvider> {
        let found = Provider::ALL.into_iter().find(|p| p.name() == text);
        found.ok_or_else(|| UnknownProvider(text.to_owned()))
    }
}

/// Why a seal or an open failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AeadError {
    /// The output is not as long as the input calls for, or a sealed input is shorter than a tag.
    #[error("buffer lengths do not fit the AEAD")]
    Length,
    /// The tag does not verify: key, nonce, associated data, text or tag differ.
    #[error("authentication failed")]
    Auth,
    /// The implementation refused to work (out of memory while it was keyed, or text too long).
    #[error("the AEAD provider failed")]
    Provider,
}

/// Key schedule of one provider. Each is boxed, so a move copies a pointer.
enum Cipher {
    Ring(ring::Key),
    AwsLc(aws_lc::Key),
    AesGcm(aes_gcm::Key),
    Aegis256x2(aegis256x2::Key),
    Aegis256(aegis256::Key),
}

impl Cipher {
    fn new(provider: Provider, key: &[u8; KEY_LEN]) -> Cipher {
        match provider {
            Provider::Ring => Cipher::Ring(ring::Key::new(key)),
            Provider::AwsLc => Cipher::AwsLc(aws_lc::Key::new(key)),
            Provider::AesGcm => Cipher::AesGcm(aes_gcm::Key::new(key)),
            Provider::Aegis256x2 => Cipher::Aegis256x2(aegis256x2::Key::new(key)),
            Provider::Aegis256 => Cipher::Aegis256(aegis256::Key::new(key)),
        }
    }

    fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        match self {
            Cipher::Ring(k) => k.rekey(key),
            Cipher::AwsLc(k) => k.rekey(key),
            Cipher::AesGcm(k) => k.rekey(key),
            Cipher::Aegis256x2(k) => k.rekey(key),
            Cipher::Aegis256(k) => k.rekey(key),
        }
    }

    fn provider(&self) -> Provider {
        match self {
            Cipher::Ring(_) => Provider::Ring,
            Cipher::AwsLc(_) => Provider::AwsLc,
            Cipher::AesGcm(_) => Provider::AesGcm,
            Cipher::Aegis256x2(_) => Provider::Aegis256x2,
            Cipher::Aegis256(_) => Provider::Aegis256,
        }
    }

    fn group(&self) -> usize {
        match self {
            Cipher::Aegis256(k) => k.group(),
            _ => 1,
        }
    }
}

/// A key that seals. `Debug` shows the provider only; the key schedule is wiped on drop.
pub struct SealKey(Cipher);

impl SealKey {
    /// Expands `key` for `provider`. Allocates.
    pub fn new(provider: Provider, key: &[u8; KEY_LEN]) -> SealKey {
        SealKey(Cipher::new(provider, key))
    }

    /// Replaces the key, for the same provider and without allocation.
    pub fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        self.0.rekey(key);
    }

    /// The provider in use.
    pub fn provider(&self) -> Provider {
        self.0.provider()
    }

    /// Encrypts `plain` and authenticates it with `aad`; `out` becomes ciphertext, then tag. The
    /// caller guarantees that `nonce` is used once under this key.
    ///
    /// # Errors
    /// [`AeadError::Length`] if `out` is not 16 bytes longer than `plain` (and `out` is left as it
    /// was); [`AeadError::Provider`] if the provider fails (and `out` is zeroed).
    #[inline]
    pub fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<(), AeadError> {
        match out.split_last_chunk_mut::<TAG_LEN>() {
            Some((text, tag)) if text.len() == plain.len() => {
                let sealed = match &self.0 {
                    Cipher::Ring(k) => k.seal(nonce, aad, plain, text, tag),
                    Cipher::AwsLc(k) => k.seal(nonce, aad, plain, text, tag),
                    Cipher::AesGcm(k) => k.seal(nonce, aad, plain, text, tag),
                    Cipher::Aegis256x2(k) => k.seal(nonce, aad, plain, text, tag),
                    Cipher::Aegis256(k) => k.seal(nonce, aad, plain, text, tag),
                };
                if sealed.is_err() {
                    out.fill(0);
                }
                sealed
            }
            _ => Err(AeadError::Length),
        }
    }

    /// How many messages at once are the least work for each, up to [`MAX_GROUP`]; 1 where
    /// [`seal_group`](Self::seal_group) gains nothing over calls of [`seal`](Self::seal).
    pub fn group(&self) -> usize {
        self.0.group()
    }

    /// [`seal`](Self::seal) for several messages at once, which may differ in everything but the key.
    ///
    /// # Errors
    /// For each message as for `seal`; none depends on another's.
    #[inline]
    pub fn seal_group<const N: usize>(
        &self,
        nonces: [&[u8; NONCE_LEN]; N],
        aads: [&[u8]; N],
        plains: [&[u8]; N],
        mut outs: [&mut [u8]; N],
    ) -> [Result<(), AeadError>; N] {
        if let Cipher::Aegis256(k) = &self.0
            && k.seal_group(&nonces, &aads, &plains, &mut outs).is_some()
        {
            return [Ok(()); N];
        }
        let mut results = [Ok(()); N];
        for (i, out) in outs.into_iter().enumerate() {
            results[i] = self.seal(nonces[i], aads[i], plains[i], out);
        }
        results
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealKey({})", self.provider())
    }
}

/// A key that opens. `Debug` shows the provider only; the key schedule is wiped on drop.
pub struct OpenKey(Cipher);

impl OpenKey {
    /// Expands `key` for `provider`. Allocates.
    pub fn new(provider: Provider, key: &[u8; KEY_LEN]) -> OpenKey {
        OpenKey(Cipher::new(provider, key))
    }

    /// Replaces the key, for the same provider and without allocation.
    pub fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        self.0.rekey(key);
    }

    /// The provider in use.
    pub fn provider(&self) -> Provider {
        self.0.provider()
    }

    /// Verifies `sealed` (ciphertext, then tag) with `aad` and decrypts it to `out`. `sealed` may
    /// be overwritten.
    ///
    /// `out` is written before the tag has been verified and is zeroed when it does not verify: do
    /// not point it at bytes that are still needed (a symbol already held, for one).
    ///
    /// # Errors
    /// [`AeadError::Length`] if `out` is not 16 bytes shorter than `sealed` (and `out` is left as
    /// it was); [`AeadError::Auth`] if the tag does not verify, [`AeadError::Provider`] if the
    /// provider fails (and `out` is all zeros for both).
    #[inline]
    pub fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &mut [u8],
        out: &mut [u8],
    ) -> Result<(), AeadError> {
        match sealed.split_last_chunk_mut::<TAG_LEN>() {
            Some((text, tag)) if text.len() == out.len() => {
                let opened = match &self.0 {
                    Cipher::Ring(k) => k.open(nonce, aad, text, tag, out),
                    Cipher::AwsLc(k) => k.open(nonce, aad, text, tag, out),
                    Cipher::AesGcm(k) => k.open(nonce, aad, text, tag, out),
                    Cipher::Aegis256x2(k) => k.open(nonce, aad, text, tag, out),
                    Cipher::Aegis256(k) => k.open(nonce, aad, text, tag, out),
                };
                if opened.is_err() {
                    out.fill(0);
                }
                opened
            }
            _ => Err(AeadError::Length),
        }
    }

    /// How many messages at once are the least work for each, as for [`SealKey::group`].
    pub fn group(&self) -> usize {
        self.0.group()
    }

    /// [`open`](Self::open) for several messages at once, which may differ in everything but the key.
    ///
    /// # Errors
    /// For each message as for `open`; none depends on another's.
    #[inline]
    pub fn open_group<const N: usize>(
        &self,
        nonces: [&[u8; NONCE_LEN]; N],
        aads: [&[u8]; N],
        sealed: [&mut [u8]; N],
        mut outs: [&mut [u8]; N],
    ) -> [Result<(), AeadError>; N] {
        let mut results = [Ok(()); N];
        if let Cipher::Aegis256(k) = &self.0
            && let Some(opened) =
                k.open_group(&nonces, &aads, &sealed.each_ref().map(|s| &**s), &mut outs)
        {
            for ((result, opened), out) in results.iter_mut().zip(opened).zip(outs) {
                *result = opened;
                if opened.is_err() {
                    out.fill(0);
                }
            }
            return results;
        }
        for (i, (sealed, out)) in sealed.into_iter().zip(outs).enumerate() {
            results[i] = self.open(nonces[i], aads[i], sealed, out);
        }
        results
    }
}

impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenKey({})", self.provider())
    }
}
