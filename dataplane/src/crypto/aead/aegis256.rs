//! AEGIS-256 (draft-irtf-cfrg-aegis-aead) with a 128-bit tag, out of place: by our kernel where the
//! CPU has AES-NI, else by libaegis.
//!
//! What makes it worth having beside AEGIS-256X2 is that the kernel works on two frames at once. All
//! else is as there ([`aegis256x2`](super::aegis256x2)): the nonce, and that there is no key schedule.

#[cfg(target_arch = "x86_64")]
use super::aegis_ni::AesNi;
use super::aegis256x2::lengthen;
use super::{AeadError, KEY_LEN, NONCE_LEN};
use crate::base::limits::TAG_LEN;
use ::aegis::aegis256::Aegis256;
use zeroize::Zeroizing;

/// A key, wiped on drop.
pub(super) struct Key {
    key: Box<Zeroizing<[u8; KEY_LEN]>>,
    #[cfg(target_arch = "x86_64")]
    kernel: Option<AesNi>,
}

/// What opening found: one comparison of 128 bits, so how many of them agree shows in no time taken.
#[cfg(target_arch = "x86_64")]
#[inline]
fn judge(expected: [u8; TAG_LEN], tag: &[u8; TAG_LEN]) -> Result<(), AeadError> {
    // What did not verify is erased by the caller.
    match u128::from_ne_bytes(expected) == u128::from_ne_bytes(*tag) {
        true => Ok(()),
        false => Err(AeadError::Auth),
    }
}

impl Key {
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Key {
        let mut new = Key {
            key: Box::new(Zeroizing::new([0; KEY_LEN])),
            #[cfg(target_arch = "x86_64")]
            kernel: AesNi::detect(),
        };
        new.rekey(key);
        new
    }

    pub(super) fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        self.key.copy_from_slice(key);
    }

    /// Whether two frames at once are less work than one after the other.
    pub(super) fn pairs(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.kernel.is_some();
        #[cfg(not(target_arch = "x86_64"))]
        return false;
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
            *tag = kernel.seal_plain(&self.key, nonce, aad, plain, text);
            return Ok(());
        }
        let cipher = Aegis256::<TAG_LEN>::new(&self.key, &lengthen(nonce));
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
            let expected = kernel.open_plain(&self.key, nonce, aad, text, out);
            return judge(expected, tag);
        }
        let cipher = Aegis256::<TAG_LEN>::new(&self.key, &lengthen(nonce));
        // Dropped without a verified tag, the decryptor erases what it wrote.
        let mut decryptor = cipher.decryptor(aad, out);
        decryptor.update(text).map_err(|_| AeadError::Length)?;
        match decryptor.finalize(tag) {
            Ok(_) => Ok(()),
            Err(_) => Err(AeadError::Auth),
        }
    }

    /// Seals two messages whose texts and associated data are as long as each other's. `None`, and
    /// nothing written, where they are not or there is no kernel for it.
    #[inline]
    pub(super) fn seal_pair(
        &self,
        nonces: [&[u8; NONCE_LEN]; 2],
        aads: [&[u8]; 2],
        plains: [&[u8]; 2],
        outs: [&mut [u8]; 2],
    ) -> Option<()> {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = self.kernel
            && plains[0].len() == plains[1].len()
            && aads[0].len() == aads[1].len()
        {
            let [(text, tag), (text2, tag2)] = split_pair(plains[0].len(), outs)?;
            [*tag, *tag2] = kernel.seal_two(&self.key, nonces, aads, plains, [text, text2]);
            return Some(());
        }
        let _ = (nonces, aads, plains, outs);
        None
    }

    /// Opens two messages, as [`seal_pair`](Self::seal_pair) seals them; each is judged by itself.
    #[inline]
    pub(super) fn open_pair(
        &self,
        nonces: [&[u8; NONCE_LEN]; 2],
        aads: [&[u8]; 2],
        sealed: [&[u8]; 2],
        outs: [&mut [u8]; 2],
    ) -> Option<[Result<(), AeadError>; 2]> {
        #[cfg(target_arch = "x86_64")]
        if let Some(kernel) = self.kernel
            && outs[0].len() == outs[1].len()
            && aads[0].len() == aads[1].len()
        {
            let [a, b] = sealed;
            let (text, tag) = a.split_last_chunk::<TAG_LEN>()?;
            let (text2, tag2) = b.split_last_chunk::<TAG_LEN>()?;
            if text.len() != outs[0].len() || text2.len() != outs[0].len() {
                return None;
            }
            let [x, y] = kernel.open_two(&self.key, nonces, aads, [text, text2], outs);
            return Some([judge(x, tag), judge(y, tag2)]);
        }
        let _ = (nonces, aads, sealed, outs);
        None
    }
}

/// Text and tag of two outputs whose texts have `len` bytes.
#[cfg(target_arch = "x86_64")]
#[inline]
fn split_pair(len: usize, outs: [&mut [u8]; 2]) -> Option<[(&mut [u8], &mut [u8; TAG_LEN]); 2]> {
    let [a, b] = outs;
    let a = a.split_last_chunk_mut::<TAG_LEN>()?;
    let b = b.split_last_chunk_mut::<TAG_LEN>()?;
    (a.0.len() == len && b.0.len() == len).then_some([a, b])
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
        *tag = Aegis256::<TAG_LEN>::new(key, &lengthen(nonce)).encrypt_in_place(text, aad);
    }
}

/// Known answers of the draft's appendix A.3.
#[cfg(test)]
pub(super) mod vectors {
    /// Key of all of them.
    pub const KEY: &str = "1001000000000000000000000000000000000000000000000000000000000000";
    /// Nonce of all of them.
    pub const NONCE: &str = "1000020000000000000000000000000000000000000000000000000000000000";
    /// Associated data, message, ciphertext and tag.
    pub const VECTORS: [[&str; 4]; 5] = [
        [
            "",
            "00000000000000000000000000000000",
            "754fc3d8c973246dcc6d741412a4b236",
            "3fe91994768b332ed7f570a19ec5896e",
        ],
        ["", "", "", "e3def978a0f054afd1e761d7553afba3"],
        [
            "0001020304050607",
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
            "f373079ed84b2709faee373584585d60accd191db310ef5d8b11833df9dec711",
            "8d86f91ee606e9ff26a01b64ccbdd91d",
        ],
        [
            "0001020304050607",
            "000102030405060708090a0b0c0d",
            "f373079ed84b2709faee37358458",
            "c60b9c2d33ceb058f96e6dd03c215652",
        ],
        [
            "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\
             20212223242526272829",
            "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f\
             3031323334353637",
            "57754a7d09963e7c787583a2e7b859bb24fa1e04d49fd550b2511a358e3bca25\
             2a9b1b8b30cc4a67",
            "ab8a7d53fd0e98d727accca94925e128",
        ],
    ];

    pub fn hex<B: FromIterator<u8>>(text: &str) -> B {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::vectors::{KEY, NONCE, VECTORS, hex};
    use super::*;

    /// The draft's vectors have nonces of 32 bytes, which no lane has, so they go to the cipher
    /// itself, through the calls that `seal` and `open` make without the kernel.
    #[test]
    fn known_answers_of_the_draft_hold() {
        let [key, nonce] = [KEY, NONCE].map(|t| hex::<Vec<u8>>(t).try_into().unwrap());
        for [ad, message, text, tag] in VECTORS {
            let [ad, message, text, tag] = [ad, message, text, tag].map(hex::<Vec<u8>>);
            let cipher = Aegis256::<TAG_LEN>::new(&key, &nonce);
            let mut sealed = vec![0; message.len()];
            let mut encryptor = cipher.encryptor(&ad);
            encryptor.update(&message, &mut sealed);
            let got = encryptor.finalize();
            assert_eq!((&sealed, &got[..]), (&text, &tag[..]));
            let mut opened = vec![0; message.len()];
            let mut decryptor = cipher.decryptor(&ad, &mut opened);
            decryptor.update(&sealed).unwrap();
            assert!(decryptor.finalize(&got).is_ok());
            assert_eq!(opened, message);
        }
    }

    #[test]
    fn both_interfaces_agree_on_the_lengthened_nonce() {
        for len in [0, 1, 15, 31, 32, 33, 63, 64, 65, 192, 1408, 8896, 9088] {
            let nonce = [7, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, len as u8];
            let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let mut text = vec![0; len];
            let mut tag = [0; TAG_LEN];
            Key::new(&[3; 32])
                .seal(&nonce, &[9; 24], &plain, &mut text, &mut tag)
                .unwrap();
            let mut once = vec![0; len + TAG_LEN];
            seal_in_one_call(&[3; 32], &nonce, &[9; 24], &plain, &mut once);
            assert_eq!([&text[..], &tag].concat(), once);
        }
    }
}
