//! AEGIS-256X2 (draft-irtf-cfrg-aegis-aead) with a 128-bit tag, out of place: by our kernel where
//! the CPU has AES-NI, else by libaegis.
//!
//! A CPU with VAES has both lanes of the state in one register, for which libaegis has code and we
//! have none: there the library does it.
//!
//! **Nonce.** The cipher takes 32 bytes: the 12-byte nonce of the lane, then 20 zero bytes. It is
//! unique under a key because the 12 bytes are, which is all that the cipher asks of a nonce.
//!
//! There is no key schedule: the state is set up for each message. The kernel keeps it in registers;
//! the library wipes it after the message, but copies the key to the stack and does not wipe that.

#[cfg(target_arch = "x86_64")]
use super::aegis_ni::AesNi;
use super::{AeadError, KEY_LEN, NONCE_LEN};
use crate::base::limits::TAG_LEN;
use ::aegis::aegis256x2::Aegis256X2;
use zeroize::Zeroizing;

/// Nonce of AEGIS-256X2, bytes.
const LONG_NONCE_LEN: usize = 32;

/// A key, wiped on drop.
pub(super) struct Key {
    key: Box<Zeroizing<[u8; KEY_LEN]>>,
    #[cfg(target_arch = "x86_64")]
    kernel: Option<AesNi>,
}

/// Our kernel, unless the library is the faster one.
#[cfg(target_arch = "x86_64")]
fn kernel() -> Option<AesNi> {
    AesNi::detect().filter(|_| !is_x86_feature_detected!("vaes"))
}

/// The lane's nonce, lengthened with zeros.
#[inline]
pub(super) fn lengthen(nonce: &[u8; NONCE_LEN]) -> [u8; LONG_NONCE_LEN] {
    let mut long = [0; LONG_NONCE_LEN];
    long[..NONCE_LEN].copy_from_slice(nonce);
    long
}

impl Key {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Key {
        let mut new = Key {
            key: Box::new(Zeroizing::new([0; KEY_LEN])),
            #[cfg(target_arch = "x86_64")]
            kernel: kernel(),
        };
        new.rekey(key);
        new
    }

    pub(super) fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        self.key.copy_from_slice(key);
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
        // The crate panics on these, so they are ruled out first.
        if plain.len() != text.len() {
            return Err(AeadError::Length);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = self.kernel {
            *tag = kernel.seal(&self.key, &lengthen(nonce), aad, plain, text);
            return Ok(());
        }
        let cipher = Aegis256X2::<TAG_LEN>::new(&self.key, &lengthen(nonce));
        let mut encryptor = cipher.encryptor(aad);
        encryptor.update(plain, text);
        *tag = encryptor.finalize();
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
        if text.len() != out.len() {
            return Err(AeadError::Length);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = self.kernel {
            let expected = kernel.open(&self.key, &lengthen(nonce), aad, text, out);
            // One comparison of 128 bits: how many of them agree shows in no time taken.
            let same = u128::from_ne_bytes(expected) == u128::from_ne_bytes(*tag);
            // What did not verify is erased by the caller.
            return if same { Ok(()) } else { Err(AeadError::Auth) };
        }
        let cipher = Aegis256X2::<TAG_LEN>::new(&self.key, &lengthen(nonce));
        // Dropped without a verified tag, the decryptor erases what it wrote.
        let mut decryptor = cipher.decryptor(aad, out);
        decryptor.update(text).map_err(|_| AeadError::Length)?;
        match decryptor.finalize(tag) {
            Ok(_) => Ok(()),
            Err(_) => Err(AeadError::Auth),
        }
    }
}

/// Seals with the library's other interface (one call, in place), for [`calibrate`] to compare
/// with. `out` is ciphertext, then tag; nothing happens if its length does not fit.
///
/// [`calibrate`]: crate::crypto::calibrate()
pub(in crate::crypto) fn seal_in_one_call(
    key: &[u8; KEY_LEN],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    plain: &[u8],
    out: &mut [u8],
) {
    if let Some((text, tag)) = out.split_last_chunk_mut::<TAG_LEN>()
        && text.len() == plain.len()
    {
        text.copy_from_slice(plain);
        *tag = Aegis256X2::<TAG_LEN>::new(key, &lengthen(nonce)).encrypt_in_place(text, aad);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = *b"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
        \x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f";
    const NONCE: [u8; 32] = *b"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\
        \x20\x21\x22\x23\x24\x25\x26\x27\x28\x29\x2a\x2b\x2c\x2d\x2e\x2f";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The draft's vectors have nonces of 32 bytes, which no lane has, so they go to the cipher
    /// itself, through the calls that `seal` and `open` make.
    #[test]
    fn known_answers_of_the_draft_hold() {
        let message: Vec<u8> = b"\x04\x05\x06\x07".repeat(30);
        let ad = b"\x01\x02\x03\x04\x01\x02\x03\x04";
        let long = "72120c2ea8236180d67859001f4729077b7064c414384fe3a7b52f1571f4f8a7d0f01e18db4f\
            3bc0adb150702e5d147a8d36522132761b994c1bd395589e2ccf0790dfe2a3d12d61cd666b28598277\
            39db4037dd3124c78424459376f6cac08e1a7223a2a43e398ce6385cd654a19f481cba3b8f25910b42";
        let cases: [(&[u8], &[u8], &str, &str); 2] = [
            (b"", b"", "", "62cdbab084c83dacdb945bb446f049c8"),
            (ad, &message, long, "635d391828520bf1512763f0c8f5cdbd"),
        ];
        for (ad, message, text, tag) in cases {
            let cipher = Aegis256X2::<TAG_LEN>::new(&KEY, &NONCE);
            let mut sealed = vec![0; message.len()];
            let mut encryptor = cipher.encryptor(ad);
            encryptor.update(message, &mut sealed);
            let got = encryptor.finalize();
            assert_eq!((hex(&sealed), hex(&got)), (text.to_owned(), tag.to_owned()));
            let mut opened = vec![0; message.len()];
            let mut decryptor = cipher.decryptor(ad, &mut opened);
            decryptor.update(&sealed).unwrap();
            assert!(decryptor.finalize(&got).is_ok());
            assert_eq!(opened, message);
        }
    }

    #[test]
    fn both_interfaces_agree_on_the_lengthened_nonce() {
        for len in [0, 1, 15, 31, 32, 33, 63, 64, 65, 192, 1408, 8896, 9088] {
            let nonce = [7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, len as u8];
            let mut long = [0; 32];
            long[..12].copy_from_slice(&nonce);
            let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut expected = plain.clone();
            let tag = Aegis256X2::<16>::new(&KEY, &long).encrypt_in_place(&mut expected, &[9; 24]);
            expected.extend_from_slice(&tag);
            let mut text = vec![0; len];
            let mut tag = [0; TAG_LEN];
            Key::new(&KEY)
                .seal(&nonce, &[9; 24], &plain, &mut text, &mut tag)
                .unwrap();
            assert_eq!([&text[..], &tag].concat(), expected);
            let mut once = vec![0; len + TAG_LEN];
            seal_in_one_call(&KEY, &nonce, &[9; 24], &plain, &mut once);
            assert_eq!(once, expected);
        }
    }
}
