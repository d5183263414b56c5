//! Base64 (RFC 4648 §4, padded, canonical) without secret-dependent branches or table look-ups:
//! private keys pass through here, so neither caches nor branch predictors may learn their digits.

/// Text that is not canonical base64 of the expected length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotBase64;

/// All ones where `lo <= c <= hi`, else zero. All arguments are below 2^30.
const fn in_range(c: i32, lo: i32, hi: i32) -> i32 {
    ((lo - 1 - c) & (c - hi - 1)) >> 31
}

/// The digit for a value below 64.
const fn digit(v: u8) -> u8 {
    let v = v as i32;
    let c = (in_range(v, 0, 25) & (v + 65))
        | (in_range(v, 26, 51) & (v + 71))
        | (in_range(v, 52, 61) & (v - 4))
        | (in_range(v, 62, 62) & 43)
        | (in_range(v, 63, 63) & 47);
    c as u8
}

/// The value of a digit, or -1.
const fn value(c: u8) -> i32 {
    let c = c as i32;
    // Each matching range adds `value + 1` to the -1 that stands for "none".
    -1 + (in_range(c, 65, 90) & (c - 64))
        + (in_range(c, 97, 122) & (c - 70))
        + (in_range(c, 48, 57) & (c + 5))
        + (in_range(c, 43, 43) & 63)
        + (in_range(c, 47, 47) & 64)
}

/// Characters that `n` bytes need.
pub(crate) const fn encoded_len(n: usize) -> usize {
    n.div_ceil(3) * 4
}

/// Encodes `data`.
pub(crate) fn encode(data: &[u8]) -> String {
    let mut s = String::with_capacity(encoded_len(data.len()));
    for chunk in data.chunks(3) {
        let mut b = [0u8; 3];
        b[..chunk.len()].copy_from_slice(chunk);
        let n = u32::from_be_bytes([0, b[0], b[1], b[2]]);
        for i in 0..4 {
            if i <= chunk.len() {
                s.push(char::from(digit((n >> (18 - 6 * i)) as u8 & 63)));
            } else {
                s.push('=');
            }
        }
    }
    s
}

/// Decodes `text` into the whole of `out`; wrong length, alphabet, padding or stray bits are refused.
/// On an error `out` holds nothing of use.
pub(crate) fn decode(text: &[u8], out: &mut [u8]) -> Result<(), NotBase64> {
    if text.len() != encoded_len(out.len()) {
        return Err(NotBase64);
    }
    let mut bad = 0i32;
    for (digits, bytes) in text.chunks_exact(4).zip(out.chunks_mut(3)) {
        let mut n = 0u32;
        for (i, &c) in digits.iter().enumerate() {
            if i <= bytes.len() {
                let v = value(c);
                bad |= v >> 31;
                n = n << 6 | (v as u32 & 63);
            } else {
                bad |= i32::from(c != b'=');
                n <<= 6;
            }
        }
        let b = n.to_be_bytes();
        bytes.copy_from_slice(&b[1..1 + bytes.len()]);
        bad |= i32::from(b[1 + bytes.len()..].iter().any(|&b| b != 0));
    }
    if bad == 0 { Ok(()) } else { Err(NotBase64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_4648_vectors() {
        for (plain, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), text);
            let mut out = vec![0; plain.len()];
            assert_eq!(decode(text.as_bytes(), &mut out), Ok(()));
            assert_eq!(out, plain.as_bytes());
        }
    }

    #[test]
    fn every_byte_is_a_digit_or_refused() {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for c in 0..=255u8 {
            let want = ALPHABET
                .iter()
                .position(|&a| a == c)
                .map_or(-1, |p| p as i32);
            assert_eq!(value(c), want, "byte {c}");
        }
        for (v, &c) in ALPHABET.iter().enumerate() {
            assert_eq!(digit(v as u8), c);
        }
    }

    #[test]
    fn stray_bits_and_padding_are_refused() {
        let mut one = [0u8; 1];
        assert_eq!(decode(b"Zh==", &mut one), Err(NotBase64));
        assert_eq!(decode(b"Zg=A", &mut one), Err(NotBase64));
        assert_eq!(decode(b"Zg", &mut one), Err(NotBase64));
        assert_eq!(decode(b"Z===", &mut one), Err(NotBase64));
    }

    proptest! {
        #[test]
        fn round_trip(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut out = vec![0; data.len()];
            prop_assert_eq!(decode(encode(&data).as_bytes(), &mut out), Ok(()));
            prop_assert_eq!(out, data);
        }

        #[test]
        fn garbage_never_panics(text in proptest::collection::vec(any::<u8>(), 0..100), n in 0usize..70) {
            let _ = decode(&text, &mut vec![0; n]);
        }
    }
}
