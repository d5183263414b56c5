//! The XDP program of CTP-96 and its loader.
//!
//! The program (`bpf/ctp96.bpf.c`, compiled by the build script) runs in the kernel for each packet
//! that arrives on an interface. It hands CTP-96 frames to the AF_XDP socket of the queue they
//! arrived on, drops what is no frame, limits handshake frames by source, and passes everything
//! else to the kernel untouched. [`Program::attach`] loads it and puts it on an interface through a
//! BPF link, so that it leaves with the process, however that ends.

#![deny(missing_docs)]

mod error;
mod link;
mod netlink;
mod program;
pub mod rules;

pub use error::{AttachError, MapError};
pub use netlink::{Attached, Hook};
pub use program::{Loaded, Program};
pub use rules::Verdicts;

use std::fmt;
use std::net::IpAddr;

/// The program as an ELF object for the BPF machine.
pub const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ctp96.bpf.o"));

/// UDP ports that [`Options::ports`] may name.
pub const MAX_PORTS: usize = 128;

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// Native if the driver accepts, else generic.
    #[default]
    Auto,
    /// In the driver, before the kernel has made a socket buffer.
    Native,
    /// In the kernel's common receive path, on any interface, at the cost of a socket buffer for
    /// each packet.
    Generic,
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What the program takes from the interface, and how it is attached.
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon's UDP ports, at least one and at most [`MAX_PORTS`].
    pub ports: Vec<u16>,
    /// The daemon's own addresses on the interface; empty: any destination address. A host that
    /// forwards packets must name them, or frames for a daemon behind it stop here.
    pub addresses: Vec<IpAddr>,
    /// Where the program runs.
    pub mode: AttachMode,
    /// Remove another XDP program that is on the interface; it is not put back afterwards.
    pub replace_foreign: bool,
    /// Accept packets of several buffers. An MTU that does not fit one buffer needs it (on veth one
    /// above 3,498 bytes or so); the sockets must then be bound with `XDP_USE_SG`, and the driver
    /// must support it in native mode.
    pub frags: bool,
    /// Handshake frames that one source address (for IPv6: one /64 network) may send a second, and
    /// at once; 0: no limit.
    pub handshakes_per_second: u32,
    /// Receive queues of the interface. Queues up to 128 can always be given a socket.
    pub queues: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            addresses: Vec::new(),
            mode: AttachMode::Auto,
            replace_foreign: false,
            frags: false,
            handshakes_per_second: 100,
            queues: 1,
        }
    }
}
