//! Data-plane secrets of a session.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// The two directional secrets that a handshake leaves behind; erased when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SessionSecrets {
    /// Secret of the traffic from initiator to responder.
    pub i2r: [u8; 32],
    /// Secret of the traffic from responder to initiator.
    pub r2i: [u8; 32],
}
