//! Authenticated encryption, key schedule, key usage limits and replay protection.
//!
//! - [`aead`]: AES-256-GCM (three implementations), AEGIS-256X2 and AEGIS-256 behind one seam.
//! - [`mod@calibrate`]: which implementation is fastest on the running CPU.
//! - [`schedule`]: session secrets to lane keys.
//! - [`lane`]: the two ends of one lane, with epochs and usage limits.
//! - [`replay`]: the packet numbers already accepted.
//! - [`identity`], [`noise`], [`receipt`]: who we are, how a session starts, what we sign.

pub mod aead;
pub(crate) mod base64;
pub mod calibrate;
pub(crate) mod copy;
pub mod identity;
pub mod lane;
pub mod noise;
pub mod receipt;
pub mod replay;
pub mod schedule;

pub use aead::{AeadError, MAX_GROUP, OpenKey, Provider, SealKey};
pub use calibrate::{Calibration, calibrate};
pub use copy::copy;
pub use lane::{LaneOpener, LaneSealer, OpenError, SealError};
pub use replay::ReplayWindow;
pub use schedule::{Direction, SessionSecrets};
