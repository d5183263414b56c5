//! The library interface: a node, its sessions, and the two ends of each lane.
//!
//! ```no_run
//! use ctp96::api::Node;
//! use ctp96::crypto::identity::Identity;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (a, b) = (Identity::generate()?, Identity::generate()?);
//! let server = Node::builder(b.clone()).listen("127.0.0.1:9700".parse()?)
//!     .peer("a", a.public_key(), None).start()?;
//! let client = Node::builder(a).listen("127.0.0.1:9710".parse()?)
//!     .peer("b", b.public_key(), Some("127.0.0.1:9700".parse()?)).start()?;
//! let out = client.connect(&b.public_key(), std::time::Duration::from_secs(5))?;
//! let inc = server.accept(std::time::Duration::from_secs(5))?;
//! let (mut tx, _) = out.lane(0)?;
//! let (_, mut rx) = inc.lane(0)?;
//! tx.send(b"hello")?;
//! let mut message = Vec::new();
//! rx.recv(&mut message)?;
//! assert_eq!(message, b"hello");
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
