//! Trial calls: what the kernel says when a packet path is really opened.

use super::sys;
use serde::Serialize;
use std::io;

/// Outcome of each trial; `None` is success, else the error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Trials {
    /// An io_uring.
    pub io_uring: Option<i32>,
    /// An XDP program, loaded and not attached.
    pub xdp_program: Option<i32>,
    /// An AF_XDP socket.
    pub af_xdp: Option<i32>,
}

impl Trials {
    /// Makes each thing once and closes it.
    pub fn run() -> Trials {
        let number = |r: io::Result<()>| r.err().map(|e| e.raw_os_error().unwrap_or(libc::EIO));
        Trials {
            io_uring: number(sys::try_io_uring()),
            xdp_program: number(sys::try_xdp_program()),
            af_xdp: number(sys::try_af_xdp()),
        }
    }
}
