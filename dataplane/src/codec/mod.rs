//! Compression of slots, and the decision whether it pays.
//!
//! A [`Compressor`] owns its contexts for as long as a lane lives: making one per block costs 7 to
//! 70 % of the compression itself. It looks at a block before it compresses it
//! ([`looks_compressible`]), keeps
//! the result only if it saves at least 1/16 of the block, and backs off while it keeps losing. A
//! [`Decompressor`] writes into a destination whose length is the exact expected length; no input,
//! however hostile, makes it write elsewhere or panic.
//!
//! # Length leaks: compression before encryption
//!
//! Encryption hides content but not length, and a compressed length depends on content. Where one
//! stream mixes a secret with text that an attacker chooses (cookies beside a query string, say),
//! the attacker can guess the secret piece by piece by watching how well his guesses compress:
//! CRIME (2012) and BREACH (2013) did this to TLS. So choose `none` for such streams. Bulk data
//! that one party produced (files, disk images, logs) is not exposed in this way. A slot is
//! compressed on its own, so nothing leaks from one slot to the next.

mod compress;
mod decompress;
mod policy;
mod probe;

pub use compress::{Compressor, MAX_BLOCK_LEN};
pub use decompress::{DecompressError, Decompressor};
pub use policy::{Codec, CodecId, Policy, PolicyError};
pub use probe::looks_compressible;
