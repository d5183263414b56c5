//! The bare forwarder on a socket of `xsk-rs`, with the settings and the loop of that on our own rings
//! (`Bare::forward`).

use crate::Result;
use crate::peer::{self, Ready};
use crate::rings::SILENCE;
use ::tests::lab::LINK;
use ::tests::reference::Reference;
use ctp96::backend::af_xdp::{AttachMode, turn_round};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long to look for more before sleeping.
const LINGER: Duration = Duration::from_micros(50);

/// Sends back what comes until none has come for [`SILENCE`]: how many frames, and the time from
/// the first to the last.
pub fn forward(listen: SocketAddr, mtu: usize, mode: AttachMode) -> Result<(u64, Duration)> {
    let mut socket = Reference::open(LINK, listen, mtu, mode)?;
    peer::say(&Ready {
        addr: socket.local_addr()?,
    })?;
    let mut total = 0;
    let mut span: Option<(Instant, Instant)> = None;
    loop {
        let n = socket.echo(turn_round)?;
        total += n;
        if n > 0 {
            let now = Instant::now();
            span = Some((span.map_or(now, |s| s.0), now));
            continue;
        }
        std::thread::yield_now();
        match span {
            Some((first, last)) if last.elapsed() > SILENCE => return Ok((total, last - first)),
            Some((_, last)) if last.elapsed() < LINGER => {}
            _ => socket.wait(SILENCE)?,
        }
    }
}
