//! AEGIS-256 (draft-irtf-cfrg-aegis-aead) with a 128-bit tag, out of place: by our kernel where the
//! CPU has AES-NI, else by libaegis.
//!
//! What makes it worth having beside AEGIS-256X2 is that the kernels work on several frames at once:
//! two with AES-NI, four with VAES. All else is as there
//! ([`aegis256x2`](super::aegis256x2)): the nonce, and that there is no key schedule.

#[cfg(target_arch = "x86_64")]
use super::aegis_ni::{AesNi, wide::Wide};
use super::aegis256x2::lengthen;
use super::{AeadError, KEY_LEN, MAX_GROUP, NONCE_LEN};
use crate::base::limits::TAG_LEN;
use ::aegis::aegis256::Aegis256;
use zeroize::Zeroizing;

/// A key, wiped on drop.
pub(super) struct Key {
    key: Box<Zeroizing<[u8; KEY_LEN]>>,
    #[cfg(target_arch = "x86_64")]
    kernel: Option<AesNi>,
    /// For several frames at once.
    #[cfg(target_arch = "x86_64")]
    wide: Option<Wide>,
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
            #[cfg(target_arch = "x86_64")]
            wide: Wide::detect(),
        };
        new.rekey(key);
        new
    }

    pub(super) fn rekey(&mut self, key: &[u8; KEY_LEN]) {
        self.key.copy_from_slice(key);
    }

    /// How many frames at once are the least work for each; 1 where groups gain nothing.
    pub(super) fn group(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        return match (self.wide, self.kernel) {
            (Some(_), _) => MAX_GROUP,
            (None, Some(_)) => 2,
            (None, None) => 1,
        };
        #[cfg(not(target_arch = "x86_64"))]
        return 1;
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

    /// Seals two to [`group`](Self::group) messages whose texts and associated data are as long as
    /// each other's. `None`, and nothing written, where they are not or are more or fewer.
    pub(super) fn seal_group(
        &self,
        nonces: &[&[u8; NONCE_LEN]],
        aads: &[&[u8]],
        plains: &[&[u8]],
        outs: &mut [&mut [u8]],
    ) -> Option<()> {
        #[cfg(target_arch = "x86_64")]
        {
            let len = plains.first()?.len();
            let counts = [nonces.len(), aads.len(), plains.len(), outs.len()];
            let alike = plains.iter().all(|p| p.len() == len)
                && outs.iter().all(|o| o.len() == len + TAG_LEN);
            if !(alike && self.is_group(counts, aads)) {
                return None;
            }
            let mut texts: [&mut [u8]; MAX_GROUP] = Default::default();
            for (text, out) in texts.iter_mut().zip(outs.iter_mut()) {
                *text = &mut out[..len];
            }
            let texts = &mut texts[..plains.len()];
            let mut tags = [[0; TAG_LEN]; MAX_GROUP];
            if let Some(wide) = self.wide {
                tags = wide.seal(&self.key, nonces, aads, plains, texts);
            } else if let (Some(ni), [n, m], [a, b], [p, q], [t, u]) =
                (self.kernel, nonces, aads, plains, texts)
            {
                [tags[0], tags[1]] = ni.seal_two(&self.key, [n, m], [a, b], [p, q], [t, u]);
            } else {
                return None;
            }
            for (out, tag) in outs.iter_mut().zip(tags) {
                if let Some(place) = out.last_chunk_mut() {
                    *place = tag;
                }
            }
            Some(())
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (nonces, aads, plains, outs);
            None
        }
    }

    /// Opens messages as [`seal_group`](Self::seal_group) seals them; each is judged by itself. What
    /// was found is in the order of the messages.
    pub(super) fn open_group(
        &self,
        nonces: &[&[u8; NONCE_LEN]],
        aads: &[&[u8]],
        sealed: &[&[u8]],
        outs: &mut [&mut [u8]],
    ) -> Option<[Result<(), AeadError>; MAX_GROUP]> {
        #[cfg(target_arch = "x86_64")]
        {
            let len = outs.first()?.len();
            let counts = [nonces.len(), aads.len(), sealed.len(), outs.len()];
            let alike = outs.iter().all(|o| o.len() == len)
                && sealed.iter().all(|s| s.len() == len + TAG_LEN);
            if !(alike && self.is_group(counts, aads)) {
                return None;
            }
            let mut texts: [&[u8]; MAX_GROUP] = Default::default();
            for (text, sealed) in texts.iter_mut().zip(sealed) {
                *text = &sealed[..len];
            }
            let texts = &texts[..sealed.len()];
            let mut tags = [[0; TAG_LEN]; MAX_GROUP];
            if let Some(wide) = self.wide {
                tags = wide.open(&self.key, nonces, aads, texts, outs);
            } else if let (Some(ni), [n, m], [a, b], [t, u], [x, y]) =
                (self.kernel, nonces, aads, texts, outs)
            {
                [tags[0], tags[1]] = ni.open_two(&self.key, [n, m], [a, b], [t, u], [x, y]);
            } else {
                return None;
            }
            let mut results = [Err(AeadError::Auth); MAX_GROUP];
            for ((result, sealed), tag) in results.iter_mut().zip(sealed).zip(tags) {
                *result = match sealed.last_chunk() {
                    Some(found) => judge(tag, found),
                    None => Err(AeadError::Length),
                };
            }
            Some(results)
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (nonces, aads, sealed, outs);
            None
        }
    }

    /// Whether there are as many of each kind, which a kernel takes at once, and the associated data
    /// are as long as each other.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn is_group(&self, counts: [usize; 4], aads: &[&[u8]]) -> bool {
        let [n, ..] = counts;
        (2..=self.group()).contains(&n)
            && counts == [n; 4]
            && aads.iter().all(|a| a.len() == aads[0].len())
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
