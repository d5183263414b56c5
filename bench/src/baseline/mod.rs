//! What users pick today, measured the same way in the same run: plain TCP, TLS 1.3
//! over TCP, and QUIC; and the bare UDP socket beneath.

pub mod quic;
pub mod s2n;
pub mod tcp;
pub mod tls;
pub mod udp;

use crate::Result;
use std::os::fd::AsRawFd;

/// Memory that a sender streams from, bytes: more than the caches, so that it reads as an
/// application's data does.
const POOL: usize = 64 << 20;

/// Asks for a socket buffer of `bytes`: beyond the system's limit where that is allowed.
pub fn set_buffer(socket: &std::net::UdpSocket, send: bool, bytes: libc::c_int) {
    let names = match send {
        true => [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF],
        false => [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF],
    };
    // The second is cut to the limit and cannot fail in a way that matters.
    let _ = names
        .into_iter()
        .find(|&name| set_option(socket, libc::SOL_SOCKET, name, bytes));
}

/// Sets an integer option of a socket; false if the kernel refuses.
pub fn set_option(
    socket: &std::net::UdpSocket,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> bool {
    // SAFETY: the descriptor is open, and pointer and length are those of one live integer.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    rc == 0
}

/// Pre-generated payload, handed out in chunks, over and over.
pub struct Payload {
    pool: Vec<u8>,
    chunk: usize,
    at: usize,
    left: u64,
}

impl Payload {
    /// `bytes` of incompressible payload in pieces of at most `chunk`.
    pub fn new(bytes: u64, chunk: usize) -> Result<Self> {
        if chunk == 0 || chunk > POOL {
            return Err(format!("a chunk must be 1 to {POOL} bytes").into());
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut pool = vec![0; POOL];
        for piece in pool.chunks_mut(8) {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            piece.copy_from_slice(&state.to_le_bytes()[..piece.len()]);
        }
        Ok(Self {
            pool,
            chunk,
            at: 0,
            left: bytes,
        })
    }

    /// Pieces of at most `chunk` from here on, where that is fewer bytes than until now.
    pub fn shorten(&mut self, chunk: usize) {
        self.chunk = self.chunk.min(chunk.max(1));
    }

    /// The next piece; `None` after the last byte.
    pub fn next_piece(&mut self) -> Option<&[u8]> {
        if self.left == 0 {
            return None;
        }
        if self.at + self.chunk > self.pool.len() {
            self.at = 0;
        }
        let len = self.left.min(self.chunk as u64) as usize;
        let start = self.at;
        self.at += self.chunk;
        self.left -= len as u64;
        Some(&self.pool[start..start + len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_exactly_its_bytes() {
        for (bytes, chunk) in [(0, 1000), (1, 1000), (130 << 20, 1 << 20), (2501, 1000)] {
            let mut payload = Payload::new(bytes, chunk).unwrap();
            let mut total = 0;
            while let Some(piece) = payload.next_piece() {
                assert!(!piece.is_empty() && piece.len() <= chunk);
                total += piece.len() as u64;
            }
            assert_eq!(total, bytes);
        }
        // A path that carries less makes pieces shorter, and no byte more or fewer.
        let mut payload = Payload::new((64 << 20) + 1500, 1000).unwrap();
        let mut total = payload.next_piece().unwrap().len();
        payload.shorten(900);
        payload.shorten(950);
        while let Some(piece) = payload.next_piece() {
            assert!(!piece.is_empty() && piece.len() <= 900);
            total += piece.len();
        }
        assert_eq!(total, (64 << 20) + 1500);
        assert!(Payload::new(1, 0).is_err());
    }
}
