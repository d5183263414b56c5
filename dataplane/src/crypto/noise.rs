//! The Noise handshake behind a CTP-96 session: `Noise_IKpsk2_25519_AESGCM_SHA256`.
//!
//! | message | Noise | content |
//! | --- | --- | --- |
//! | OFFER | `e, es, s, ss` | initiator's parameters |
//! | COUNTER | `e, ee, se, psk` | responder's parameters, or its authenticated refusal |
//! | ACCEPT | first transport message, nonce 0 | proof of the keys, negotiated values |
//!
//! The prologue is [`PROLOGUE`]; the pre-shared key is all zero where none is configured, and is the
//! place for a post-quantum shared secret. Keys after the last message, with `k1`, `k2` the Noise split
//! and `h` the handshake hash:
//!
//! ```text
//! prk     = HKDF-Extract-SHA256(salt = h, ikm = k1 | k2)
//! i2r     = HKDF-Expand(prk, "ctp96 session i2r", 32)
//! r2i     = HKDF-Expand(prk, "ctp96 session r2i", 32)
//! confirm = HKDF-Expand(prk, "ctp96 session confirm", 32)
//! ```
//!
//! `k1` itself seals ACCEPT and nothing else. ACCEPT carries `confirm`, which depends on `h` and on
//! both split keys: whoever sends it has the data-plane secrets and saw the same transcript.

use hkdf::Hkdf;
use sha2::Sha256;
use snow::{Builder, HandshakeState, StatelessTransportState};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::identity::{Identity, PublicKey};
use super::schedule::SessionSecrets;

/// Name of the Noise protocol.
pub const PROTOCOL: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";
/// Prologue: both sides mix it into the transcript, so another protocol's messages never verify.
pub const PROLOGUE: &[u8] = b"CTP-96 v1";
/// The pre-shared key of peers without one.
pub const NO_PSK: [u8; 32] = [0; 32];
/// Bytes that OFFER has beyond its payload: ephemeral key, sealed static key, tag.
pub const OFFER_OVERHEAD: usize = 32 + 48 + 16;
/// Bytes that COUNTER has beyond its payload: ephemeral key, tag.
pub const COUNTER_OVERHEAD: usize = 32 + 16;
/// Bytes that ACCEPT has beyond its payload: tag.
pub const ACCEPT_OVERHEAD: usize = 16;

const PSK_PLACE: u8 = 2;
const ACCEPT_NONCE: u64 = 0;

/// A handshake step failed. There is no detail on purpose: all failures look alike to the caller, as
/// they must to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the handshake message did not authenticate or could not be made")]
pub struct NoiseError;

impl From<snow::Error> for NoiseError {
    fn from(_: snow::Error) -> NoiseError {
        NoiseError
    }
}

impl From<hkdf::InvalidLength> for NoiseError {
    fn from(_: hkdf::InvalidLength) -> NoiseError {
        NoiseError
    }
}

fn builder(identity: &Identity) -> Result<Builder<'_>, NoiseError> {
    Ok(Builder::new(PROTOCOL.parse()?)
        .prologue(PROLOGUE)?
        .local_private_key(identity.secret())?)
}

/// The side that sends OFFER.
pub struct Initiator(HandshakeState);

impl Initiator {
    /// Starts towards `peer`.
    pub fn new(
        identity: &Identity,
        peer: &PublicKey,
        psk: &[u8; 32],
    ) -> Result<Initiator, NoiseError> {
        let state = builder(identity)?
            .remote_public_key(&peer.0)?
            .psk(PSK_PLACE, psk)?
            .build_initiator()?;
        Ok(Initiator(state))
    }

    /// Writes OFFER; gives its length, `payload.len() + OFFER_OVERHEAD`.
    pub fn write_offer(&mut self, payload: &[u8], out: &mut [u8]) -> Result<usize, NoiseError> {
        Ok(self.0.write_message(payload, out)?)
    }

    /// Reads COUNTER; gives the length of its payload. `payload` must be at least as long as `message`.
    /// After a failure the state is as before, so that a forgery cannot spoil the handshake.
    pub fn read_counter(
        &mut self,
        message: &[u8],
        payload: &mut [u8],
    ) -> Result<usize, NoiseError> {
        if payload.len() < message.len() {
            return Err(NoiseError);
        }
        Ok(self.0.read_message(message, payload)?)
    }

    /// The keys, after COUNTER was read.
    pub fn finish(self) -> Result<Finished, NoiseError> {
        Finished::new(self.0)
    }
}

/// The side that answers with COUNTER.
pub struct Responder(HandshakeState);

impl Responder {
    /// Reads OFFER. Gives the state, the authenticated public key of the initiator and the length of
    /// the payload. `payload` must be at least as long as `message`.
    ///
    /// The payload may be a replay (Noise §7.7): the caller checks its timestamp.
    pub fn read_offer(
        identity: &Identity,
        message: &[u8],
        payload: &mut [u8],
    ) -> Result<(Responder, PublicKey, usize), NoiseError> {
        if payload.len() < message.len() {
            return Err(NoiseError);
        }
        let mut state = builder(identity)?.build_responder()?;
        let n = state.read_message(message, payload)?;
        let key: [u8; 32] = state
            .get_remote_static()
            .and_then(|k| k.try_into().ok())
            .ok_or(NoiseError)?;
        Ok((Responder(state), PublicKey(key), n))
    }

    /// Writes COUNTER; gives its length, `payload.len() + COUNTER_OVERHEAD`.
    pub fn write_counter(
        &mut self,
        psk: &[u8; 32],
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<usize, NoiseError> {
        self.0.set_psk(usize::from(PSK_PLACE), psk)?;
        Ok(self.0.write_message(payload, out)?)
    }

    /// The keys, after COUNTER was written. They are confirmed only by ACCEPT.
    pub fn finish(self) -> Result<Finished, NoiseError> {
        Finished::new(self.0)
    }
}

/// Keys of a completed Noise exchange.
pub struct Finished {
    transport: StatelessTransportState,
    secrets: SessionSecrets,
    confirm: Zeroizing<[u8; 32]>,
}

impl Finished {
    fn new(mut state: HandshakeState) -> Result<Finished, NoiseError> {
        if !state.is_handshake_finished() {
            return Err(NoiseError);
        }
        let mut ikm = Zeroizing::new([0; 64]);
        let (mut k1, mut k2) = state.dangerously_get_raw_split();
        ikm[..32].copy_from_slice(&k1);
        ikm[32..].copy_from_slice(&k2);
        k1.zeroize();
        k2.zeroize();
        let prk = Hkdf::<Sha256>::new(Some(state.get_handshake_hash()), ikm.as_ref());
        let mut secrets = SessionSecrets {
            i2r: [0; 32],
            r2i: [0; 32],
        };
        let mut confirm = Zeroizing::new([0; 32]);
        prk.expand(b"ctp96 session i2r", &mut secrets.i2r)?;
        prk.expand(b"ctp96 session r2i", &mut secrets.r2i)?;
        prk.expand(b"ctp96 session confirm", confirm.as_mut())?;
        Ok(Finished {
            transport: state.into_stateless_transport_mode()?,
            secrets,
            confirm,
        })
    }

    /// The value that ACCEPT proves.
    pub fn confirm(&self) -> &[u8; 32] {
        &self.confirm
    }

    /// The data-plane secrets.
    pub fn into_secrets(self) -> SessionSecrets {
        self.secrets
    }

    /// Seals ACCEPT, as the initiator; gives its length, `payload.len() + ACCEPT_OVERHEAD`.
    ///
    /// Call it once: the nonce is fixed. A lost ACCEPT is repeated byte for byte.
    pub fn seal_accept(&self, payload: &[u8], out: &mut [u8]) -> Result<usize, NoiseError> {
        Ok(self.transport.write_message(ACCEPT_NONCE, payload, out)?)
    }

    /// Opens ACCEPT, as the responder. `payload` must be at least as long as `message`.
    pub fn open_accept(&self, message: &[u8], payload: &mut [u8]) -> Result<usize, NoiseError> {
        if payload.len() < message.len() {
            return Err(NoiseError);
        }
        Ok(self
            .transport
            .read_message(ACCEPT_NONCE, message, payload)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> (Identity, Identity) {
        (
            Identity::from_secret(&[1; 32]),
            Identity::from_secret(&[2; 32]),
        )
    }

    /// Runs a handshake; gives the finished state of both sides.
    fn run(psk_i: &[u8; 32], psk_r: &[u8; 32]) -> Result<(Finished, Finished), NoiseError> {
        let (a, b) = ids();
        let (mut m, mut p) = ([0; 512], [0; 512]);
        let mut i = Initiator::new(&a, &b.public(), psk_i)?;
        let n = i.write_offer(b"offer", &mut m)?;
        assert_eq!(n, 5 + OFFER_OVERHEAD);
        let (mut r, who, n) = Responder::read_offer(&b, &m[..n], &mut p)?;
        assert_eq!((who, &p[..n]), (a.public(), &b"offer"[..]));
        let n = r.write_counter(psk_r, b"counter", &mut m)?;
        assert_eq!(n, 7 + COUNTER_OVERHEAD);
        let n = i.read_counter(&m[..n], &mut p)?;
        assert_eq!(&p[..n], b"counter");
        Ok((i.finish()?, r.finish()?))
    }

    #[test]
    fn both_sides_get_the_same_distinct_secrets() {
        let (i, r) = run(&NO_PSK, &NO_PSK).unwrap();
        assert_eq!(i.confirm(), r.confirm());
        let (mut m, mut p) = ([0; 64], [0; 64]);
        let n = i.seal_accept(b"accept", &mut m).unwrap();
        assert_eq!(n, 6 + ACCEPT_OVERHEAD);
        let n = r.open_accept(&m[..n], &mut p).unwrap();
        assert_eq!(&p[..n], b"accept");
        let confirm = *i.confirm();
        let (i, r) = (i.into_secrets(), r.into_secrets());
        assert_eq!((i.i2r, i.r2i), (r.i2r, r.r2i));
        assert_ne!(i.i2r, i.r2i);
        assert_ne!(i.i2r, confirm);
        let other = run(&NO_PSK, &NO_PSK).unwrap().0.into_secrets();
        assert_ne!(other.i2r, i.i2r, "every session has fresh keys");
    }

    #[test]
    fn the_psk_must_agree() {
        assert!(run(&[7; 32], &[7; 32]).is_ok());
        assert!(run(&[7; 32], &NO_PSK).is_err());
        assert!(run(&NO_PSK, &[7; 32]).is_err());
    }

    #[test]
    fn a_forged_counter_does_not_spoil_the_handshake() {
        let (a, b) = ids();
        let (mut m, mut p, mut q) = ([0; 512], [0; 512], [0; 512]);
        let mut i = Initiator::new(&a, &b.public(), &NO_PSK).unwrap();
        let n = i.write_offer(b"", &mut m).unwrap();
        let (mut r, _, _) = Responder::read_offer(&b, &m[..n], &mut p).unwrap();
        let n = r.write_counter(&NO_PSK, b"x", &mut m).unwrap();
        for at in 0..n {
            q[..n].copy_from_slice(&m[..n]);
            q[at] ^= 0x80;
            assert!(i.read_counter(&q[..n], &mut p).is_err(), "byte {at}");
            assert!(i.read_counter(&m[..at], &mut p).is_err(), "cut at {at}");
        }
        assert_eq!(i.read_counter(&m[..n], &mut p), Ok(1));
        assert_eq!(i.finish().unwrap().confirm(), r.finish().unwrap().confirm());
    }

    #[test]
    fn steps_out_of_order_and_short_buffers_are_errors() {
        let (a, b) = ids();
        let mut i = Initiator::new(&a, &b.public(), &NO_PSK).unwrap();
        assert!(i.read_counter(&[0; 100], &mut [0; 200]).is_err());
        assert!(i.write_offer(b"abc", &mut [0; 20]).is_err());
        let mut m = [0; 512];
        let n = i.write_offer(b"abc", &mut m).unwrap();
        assert!(Responder::read_offer(&b, &m[..n], &mut [0; 2]).is_err());
        assert!(i.finish().is_err());
    }

    proptest! {
        #[test]
        fn garbage_never_panics(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (a, b) = ids();
            let mut p = [0; 512];
            prop_assert!(Responder::read_offer(&b, &data, &mut p).is_err());
            let mut i = Initiator::new(&a, &b.public(), &NO_PSK).unwrap();
            i.write_offer(b"", &mut p).unwrap();
            prop_assert!(i.read_counter(&data, &mut p).is_err());
        }
    }
}
