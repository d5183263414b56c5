//! From the handshake's two secrets to the keys of each lane, direction and epoch.
//!
//! All derivations are HKDF-Expand with SHA-256 (RFC 5869 §2.3). The Extract step is left out, as
//! §3.3 allows: both inputs are already uniform 32-byte keys (the two outputs of Noise `Split()`).
//! Labels are ASCII without a terminator; `lane` is one byte.
//!
//! ```text
//! direction secret            i2r or r2i, 32 bytes, from the handshake
//! secret_0      = HKDF-Expand(direction secret, "ctp96 lane" || lane, 32)
//! key_e || iv_e = HKDF-Expand(secret_e,         "ctp96 key",          32 + 12)
//! secret_(e+1)  = HKDF-Expand(secret_e,         "ctp96 epoch",        32)
//! nonce         = iv_e XOR (0x00000000 || packet number, big endian)   (as RFC 8446 §5.3)
//! ```
//!
//! Each lane has its own chain, so that a lane that moves on forgets its past keys for good, even
//! while an idle lane of the same session still is in an earlier epoch.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const LABEL_LANE: &[u8] = b"ctp96 lane";
const LABEL_KEY: &[u8] = b"ctp96 key";
const LABEL_EPOCH: &[u8] = b"ctp96 epoch";

/// Which way frames of a session flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the node that sent the OFFER.
    InitiatorToResponder,
    /// From the node that answered it.
    ResponderToInitiator,
}

impl Direction {
    /// The direction in which a node sends.
    pub fn sending(initiator: bool) -> Direction {
        if initiator {
            Direction::InitiatorToResponder
        } else {
            Direction::ResponderToInitiator
        }
    }

    /// The other direction: that in which the same node receives.
    pub fn reverse(self) -> Direction {
        match self {
            Direction::InitiatorToResponder => Direction::ResponderToInitiator,
            Direction::ResponderToInitiator => Direction::InitiatorToResponder,
        }
    }
}

/// The two secrets that a handshake agrees on. Wiped on drop; `Debug` does not show them.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionSecrets {
    /// Protects frames from the initiator to the responder.
    pub i2r: [u8; 32],
    /// Protects frames from the responder to the initiator.
    pub r2i: [u8; 32],
}

impl SessionSecrets {
    /// The secret of one direction, as [`LaneSealer`](super::LaneSealer) and
    /// [`LaneOpener`](super::LaneOpener) take it.
    pub fn direction(&self, direction: Direction) -> &[u8; 32] {
        match direction {
            Direction::InitiatorToResponder => &self.i2r,
            Direction::ResponderToInitiator => &self.r2i,
        }
    }
}

impl std::fmt::Debug for SessionSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSecrets(..)")
    }
}

/// AES-256 key and GCM initialisation vector of one lane, direction and epoch. Wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial {
    /// AES-256 key.
    pub key: [u8; 32],
    /// XORed with the packet number to make the nonce.
    pub iv: [u8; 12],
}

/// The chain of epochs of one lane and direction: hands out key material epoch by epoch, and
/// cannot go back. Wiped on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct KeyChain {
    secret: [u8; 32],
}

impl KeyChain {
    /// The chain of `lane` under a direction's secret, before epoch 0.
    pub fn new(direction_secret: &[u8; 32], lane: u8) -> KeyChain {
        let mut chain = KeyChain { secret: [0; 32] };
        let label = [LABEL_LANE, &[lane]];
        expand(direction_secret, &label, &mut chain.secret);
        chain
    }

    /// Key material of the next epoch (0 at the first call); the chain moves on. Two HKDF
    /// expansions, no allocation.
    pub fn next_epoch(&mut self) -> KeyMaterial {
        let mut okm = Zeroizing::new([0u8; 44]);
        expand(&self.secret, &[LABEL_KEY], &mut *okm);
        let mut material = KeyMaterial {
            key: [0; 32],
            iv: [0; 12],
        };
        material.key.copy_from_slice(&okm[..32]);
        material.iv.copy_from_slice(&okm[32..]);
        let mut next = Zeroizing::new([0u8; 32]);
        expand(&self.secret, &[LABEL_EPOCH], &mut *next);
        self.secret.copy_from_slice(&*next);
        material
    }
}

fn expand(secret: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    // 32 bytes is the output length of SHA-256, the shortest key that from_prk accepts.
    let prk = Hkdf::<Sha256>::from_prk(secret).expect("32 bytes make a SHA-256 PRK");
    // At most 44 bytes are asked for; the limit is 255 * 32.
    prk.expand_multi_info(info, out)
        .expect("44 bytes are within the HKDF limit");
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;

    /// HMAC-SHA256 (RFC 2104), written out, as an oracle that shares no code with `hkdf`.
    fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
        let mut pad = [0u8; 64];
        pad[..key.len()].copy_from_slice(key);
        let inner = Sha256::new()
            .chain_update(pad.map(|b| b ^ 0x36))
            .chain_update(message)
            .finalize();
        let outer = Sha256::new()
            .chain_update(pad.map(|b| b ^ 0x5c))
            .chain_update(inner);
        outer.finalize().into()
    }

    /// HKDF-Expand (RFC 5869 §2.3) of up to 64 bytes.
    fn oracle(secret: &[u8], info: &[u8]) -> [u8; 64] {
        let t1 = hmac(secret, &[info, &[1]].concat());
        let t2 = hmac(secret, &[&t1[..], info, &[2]].concat());
        let mut out = [0; 64];
        out[..32].copy_from_slice(&t1);
        out[32..].copy_from_slice(&t2);
        out
    }

    #[test]
    fn expand_matches_rfc_5869_case_1() {
        let prk = hex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
        let info = hex("f0f1f2f3f4f5f6f7f8f9");
        let okm = hex(
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        );
        let mut out = [0u8; 42];
        expand(&prk.clone().try_into().unwrap(), &[&info], &mut out);
        assert_eq!(out[..], okm[..]);
        assert_eq!(oracle(&prk, &info)[..42], okm[..]);
    }

    #[test]
    fn derivations_are_those_documented() {
        let secret = [7u8; 32];
        let mut chain = KeyChain::new(&secret, 200);
        let mut at: [u8; 64] = oracle(&secret, b"ctp96 lane\xc8");
        for _ in 0..3 {
            let expected = oracle(&at[..32], b"ctp96 key");
            let got = chain.next_epoch();
            assert_eq!(got.key[..], expected[..32]);
            assert_eq!(got.iv[..], expected[32..44]);
            at = oracle(&at[..32], b"ctp96 epoch");
        }
    }

    #[test]
    fn lanes_directions_and_epochs_share_no_key() {
        let secrets = SessionSecrets {
            i2r: [1; 32],
            r2i: [2; 32],
        };
        let mut seen = std::collections::BTreeSet::new();
        for direction in [Direction::sending(true), Direction::sending(true).reverse()] {
            for lane in 0..=127 {
                let mut chain = KeyChain::new(secrets.direction(direction), lane);
                for _ in 0..4 {
                    let material = chain.next_epoch();
                    assert!(
                        seen.insert(material.key)
                            && seen.insert({
                                let mut iv = [0; 32];
                                iv[..12].copy_from_slice(&material.iv);
                                iv
                            })
                    );
                }
            }
        }
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let secrets = SessionSecrets {
            i2r: [0xAB; 32],
            r2i: [0xCD; 32],
        };
        assert_eq!(format!("{secrets:?}"), "SessionSecrets(..)");
    }

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
            .collect()
    }
}
