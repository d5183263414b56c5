//! Ground floor: constants, the 96-bit set, sequence arithmetic, time and the std/loom switch.
//!
//! Nothing here knows about sockets, keys or lanes; every other room may import it.

pub mod bits96;
pub mod clock;
pub mod limits;
pub mod seq;
pub mod sync;

pub use bits96::Bits96;
pub use clock::{Clock, Nanos};
