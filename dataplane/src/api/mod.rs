//! The library interface: a node, its sessions, and the two ends of each lane.
//!
//! ```
//! use ctp96::api::Node;
//! use ctp96::crypto::identity::Identity;
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let wait = Duration::from_secs(10);
//! let (a, b) = (Identity::generate()?, Identity::generate()?);
//! let any = "127.0.0.1:0".parse()?;
//! let server = Node::builder(b.clone()).listen(any).peer("a", a.public(), None).start()?;
//! let client = Node::builder(a)
//!     .listen(any)
//!     .peer("b", b.public(), Some(server.local_addr()))
//!     .start()?;
//! let out = client.connect(&b.public(), wait)?;
//! let inc = server.accept(wait)?;
//! let (mut tx, _) = out.lane(0)?;
//! let (_, mut rx) = inc.lane(0)?;
//!
//! tx.send(b"hello")?; // a message, copied into a slot
//! let mut slot = tx.claim(wait)?; // or written straight into one
//! slot[..5].copy_from_slice(b"world");
//! slot.commit(5);
//!
//! let mut message = Vec::new();
//! rx.recv(&mut message)?;
//! assert_eq!(message, b"hello");
//! assert_eq!(&rx.slot(wait)?[..], b"world");
//! tx.wait_witnessed(wait)?; // the peer has verified and taken both
//! # Ok(())
//! # }
//! ```

mod error;
mod message;
mod node;
mod receiver;
mod sender;
mod session;

pub use crate::engine::{ConnectError, StartError};
pub use error::{Closed, RecvError, SendError};
pub use node::{Node, NodeBuilder};
pub use receiver::{LaneReceiver, SlotView};
pub use sender::{Claim, LaneSender};
pub use session::{Session, lane_ends};
