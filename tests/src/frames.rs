//! Valid frames, from which the tests of every parser of frames start.

use ctp96::wire::{FrameKind, Header};

/// A frame: the header and as many bytes after it as the header says.
pub fn frame(header: Header) -> Vec<u8> {
    let mut bytes = vec![0x5a; header.frame_len()];
    if let Some(first) = bytes.first_chunk_mut() {
        header.encode(first);
    }
    bytes
}

/// Header of symbol number `symbol` of `k`.
pub fn symbol(symbol: u8, k: u8, slot: u64, len: u16) -> Header {
    Header {
        kind: FrameKind::Symbol,
        epoch: 2,
        lane: 5,
        symbol,
        session: 0x0102_0304,
        pn: 77,
        slot: slot as u32,
        k,
        class: (slot % 96) as u8,
        len,
        part: false,
    }
}

/// Frames of every kind, the smallest and nearly the largest among them.
pub fn corpus() -> Vec<Vec<u8>> {
    vec![
        frame(symbol(0, 64, 95, 1408)),
        frame(symbol(95, 64, 96, 64)),
        frame(symbol(32, 1, 1 << 20, 8896)),
        frame(Header {
            part: true,
            ..symbol(3, 64, 97, 768)
        }),
        frame(Header::control(9, 127, 1, 100)),
        frame(Header::handshake(FrameKind::Offer, 0, 400)),
        frame(Header::handshake(FrameKind::Counter, 3, 500)),
        frame(Header::handshake(FrameKind::Accept, 3, 64)),
        frame(Header::handshake(FrameKind::Cookie, 3, 0)),
    ]
}
