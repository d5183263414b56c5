//! Receipts: a statement, signed by the receiver, that it holds an object whole.
//!
//! Anybody can check one offline: [`Receipt::verify`] recomputes the canonical bytes and checks the
//! Ed25519 signature against the receipt key inside. That the key belongs to the receiver is what the
//! handshake attests (the key is bound into its transcript): a checker who has learned the
//! receiver's key beforehand uses [`Receipt::verify_from`].
//!
//! Canonical bytes (integers little-endian):
//! `"CTP-96 receipt" | 0 | version u8 | sender 32 | receiver 32 | receipt key 32 | size u64 |
//! completed u64 | BLAKE3 32 | name length u32 | name UTF-8`.

use ed25519_dalek::{Signature, Signer, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::base64;
use super::identity::{Identity, PublicKey};

/// Version of the receipt format.
pub const RECEIPT_VERSION: u8 = 1;
/// Longest object name in a receipt, bytes of UTF-8.
pub const MAX_OBJECT_NAME: usize = 4096;
/// Longest JSON text that is taken for a receipt, bytes. A name may be escaped sixfold.
pub const MAX_RECEIPT_JSON: usize = 6 * MAX_OBJECT_NAME + 2048;

const DOMAIN: &[u8] = b"CTP-96 receipt\0";

/// Why a receipt is not valid.
#[derive(Debug, Error)]
pub enum ReceiptError {
    /// Not JSON of a receipt.
    #[error("not a receipt: {0}")]
    Text(#[from] serde_json::Error),
    /// Text of more than [`MAX_RECEIPT_JSON`] bytes.
    #[error("a receipt has at most {MAX_RECEIPT_JSON} bytes of text, this has {0}")]
    TooLong(usize),
    /// A version this program does not know.
    #[error("receipt version {0} is not supported, only {RECEIPT_VERSION}")]
    Version(u8),
    /// A name of more than [`MAX_OBJECT_NAME`] bytes.
    #[error("an object name has at most {MAX_OBJECT_NAME} bytes, this has {0}")]
    Name(usize),
    /// The receipt key is not an Ed25519 public key.
    #[error("the receipt key is not a valid Ed25519 key")]
    Key,
    /// The signature does not belong to this statement and key.
    #[error("the signature does not match: the receipt was altered or signed by another key")]
    Signature,
    /// Signed by another receipt key than the expected one.
    #[error("the receipt is signed by another key than the expected one")]
    OtherSigner,
}

/// What a receiver states about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Who sent the object.
    pub sender: PublicKey,
    /// Name of the object.
    pub object: String,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its bytes.
    pub blake3: [u8; 32],
    /// When it was complete and checked, seconds since the Unix epoch.
    pub completed_unix_s: u64,
}

/// A signed statement; its text form is JSON with keys, digest and signature in base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Format version, [`RECEIPT_VERSION`].
    pub version: u8,
    /// Public key of the sender.
    pub sender: PublicKey,
    /// Public key of the receiver, who signed.
    pub receiver: PublicKey,
    /// Ed25519 receipt key of the receiver.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub receipt_key: [u8; 32],
    /// Name of the object.
    pub object: String,
    /// Size of the object in bytes.
    pub size: u64,
    /// BLAKE3 of the object.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub blake3: [u8; 32],
    /// Completion time, seconds since the Unix epoch.
    pub completed_unix_s: u64,
    /// Ed25519 signature of the canonical bytes.
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub signature: [u8; 64],
}

fn to_text<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&base64::encode(bytes))
}

fn from_text<'de, D: Deserializer<'de>, const N: usize>(d: D) -> Result<[u8; N], D::Error> {
    let text = String::deserialize(d)?;
    let mut out = [0; N];
    base64::decode(text.as_bytes(), &mut out)
        .map_err(|_| serde::de::Error::custom(format!("expected base64 of {N} bytes")))?;
    Ok(out)
}

impl Receipt {
    /// States and signs, as the receiver.
    ///
    /// # Errors
    /// [`ReceiptError::Name`] for a name of more than [`MAX_OBJECT_NAME`] bytes.
    pub fn issue(receiver: &Identity, what: Statement) -> Result<Receipt, ReceiptError> {
        let key = receiver.receipt_signing_key();
        let mut receipt = Receipt {
            version: RECEIPT_VERSION,
            sender: what.sender,
            receiver: receiver.public(),
            receipt_key: key.verifying_key().to_bytes(),
            object: what.object,
            size: what.size,
            blake3: what.blake3,
            completed_unix_s: what.completed_unix_s,
            signature: [0; 64],
        };
        receipt.signature = key.sign(&receipt.canonical()?).to_bytes();
        Ok(receipt)
    }

    /// The bytes that are signed.
    ///
    /// # Errors
    /// [`ReceiptError::Version`] and [`ReceiptError::Name`]: such receipts have no canonical form.
    pub fn canonical(&self) -> Result<Vec<u8>, ReceiptError> {
        if self.version != RECEIPT_VERSION {
            return Err(ReceiptError::Version(self.version));
        }
        if self.object.len() > MAX_OBJECT_NAME {
            return Err(ReceiptError::Name(self.object.len()));
        }
        let mut b = Vec::with_capacity(DOMAIN.len() + 149 + self.object.len());
        b.extend_from_slice(DOMAIN);
        b.push(self.version);
        b.extend_from_slice(&self.sender.0);
        b.extend_from_slice(&self.receiver.0);
        b.extend_from_slice(&self.receipt_key);
        b.extend_from_slice(&self.size.to_le_bytes());
        b.extend_from_slice(&self.completed_unix_s.to_le_bytes());
        b.extend_from_slice(&self.blake3);
        b.extend_from_slice(&(self.object.len() as u32).to_le_bytes());
        b.extend_from_slice(self.object.as_bytes());
        Ok(b)
    }

    /// Checks the signature against the receipt key inside (RFC 8032, strict: weak keys and malleable
    /// signatures are refused).
    pub fn verify(&self) -> Result<(), ReceiptError> {
        let bytes = self.canonical()?;
        let key = VerifyingKey::from_bytes(&self.receipt_key).map_err(|_| ReceiptError::Key)?;
        key.verify_strict(&bytes, &Signature::from_bytes(&self.signature))
            .map_err(|_| ReceiptError::Signature)
    }

    /// [`Receipt::verify`], and that `receipt_key` is the signer: for a checker who knows it.
    pub fn verify_from(&self, receipt_key: &[u8; 32]) -> Result<(), ReceiptError> {
        if self.receipt_key != *receipt_key {
            return Err(ReceiptError::OtherSigner);
        }
        self.verify()
    }

    /// The JSON text.
    ///
    /// # Errors
    /// None that a receipt can cause; the type is the serializer's.
    pub fn to_json(&self) -> Result<String, ReceiptError> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Reads the JSON text. The signature is not checked yet: call [`Receipt::verify`].
    pub fn from_json(text: &str) -> Result<Receipt, ReceiptError> {
        if text.len() > MAX_RECEIPT_JSON {
            return Err(ReceiptError::TooLong(text.len()));
        }
        Ok(serde_json::from_str(text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn receipt(object: &str) -> Receipt {
        Receipt::issue(
            &Identity::from_secret(&[9; 32]),
            Statement {
                sender: Identity::from_secret(&[8; 32]).public(),
                object: object.to_owned(),
                size: 123_456_789,
                blake3: *blake3::hash(b"content").as_bytes(),
                completed_unix_s: 1_790_000_000,
            },
        )
        .unwrap()
    }

    #[test]
    fn a_receipt_survives_its_text_form_and_verifies() {
        let r = receipt("backup/\"2026\".tar");
        let text = r.to_json().unwrap();
        let back = Receipt::from_json(&text).unwrap();
        assert_eq!(back, r);
        back.verify().unwrap();
        back.verify_from(&Identity::from_secret(&[9; 32]).receipt_key())
            .unwrap();
        assert!(matches!(
            back.verify_from(&Identity::from_secret(&[8; 32]).receipt_key()),
            Err(ReceiptError::OtherSigner)
        ));
    }

    #[test]
    fn every_changed_field_breaks_it() {
        let good = receipt("a");
        let other = Identity::from_secret(&[7; 32]);
        let changes: [(&str, fn(&mut Receipt, &Identity)); 9] = [
            ("version", |r, _| r.version = 2),
            ("sender", |r, o| r.sender = o.public()),
            ("receiver", |r, o| r.receiver = o.public()),
            ("key", |r, o| r.receipt_key = o.receipt_key()),
            ("object", |r, _| r.object.push('b')),
            ("size", |r, _| r.size += 1),
            ("blake3", |r, _| r.blake3[31] ^= 1),
            ("time", |r, _| r.completed_unix_s -= 1),
            ("signature", |r, _| r.signature[0] ^= 1),
        ];
        for (name, change) in changes {
            let mut r = good.clone();
            change(&mut r, &other);
            assert!(r.verify().is_err(), "{name} changed, yet it verifies");
        }
        good.verify().unwrap();
    }

    #[test]
    fn every_flipped_bit_of_the_signature_breaks_it() {
        let good = receipt("a");
        for bit in 0..512 {
            let mut r = good.clone();
            r.signature[bit / 8] ^= 1 << (bit % 8);
            assert!(r.verify().is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_weak_key_is_refused() {
        let mut r = receipt("a");
        r.receipt_key = [0; 32];
        r.receipt_key[0] = 1; // the neutral element: verifies anything without the strict check
        r.signature = [0; 64];
        r.signature[0] = 1;
        assert!(r.verify().is_err());
    }

    #[test]
    fn text_with_extra_or_missing_fields_or_too_long_is_refused() {
        let text = receipt("a").to_json().unwrap();
        let extra = text.replacen('{', "{\"paid\": true,", 1);
        assert!(matches!(
            Receipt::from_json(&extra),
            Err(ReceiptError::Text(_))
        ));
        let missing = text.replacen("\"size\"", "\"sizes\"", 1);
        assert!(matches!(
            Receipt::from_json(&missing),
            Err(ReceiptError::Text(_))
        ));
        let long = " ".repeat(MAX_RECEIPT_JSON + 1);
        assert!(matches!(
            Receipt::from_json(&long),
            Err(ReceiptError::TooLong(_))
        ));
        for cut in 0..text.len() {
            assert!(Receipt::from_json(&text[..cut]).is_err());
        }
    }

    #[test]
    fn names_are_bounded_and_the_longest_fits_the_text_bound() {
        let long = "\u{1}".repeat(MAX_OBJECT_NAME);
        let r = receipt(&long);
        Receipt::from_json(&r.to_json().unwrap())
            .unwrap()
            .verify()
            .unwrap();
        let mut r = r;
        r.object.push('x');
        assert!(matches!(r.verify(), Err(ReceiptError::Name(_))));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(s in ".{0,300}") {
            let _ = Receipt::from_json(&s);
        }
    }
}
