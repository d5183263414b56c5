//! Whether a node takes AF_XDP, and its sockets if it does.

use super::config::{BackendChoice, EngineConfig};
use super::error::StartError;
use super::topology;
use crate::backend::af_xdp::{self, AfXdp, Seat, ZeroCopy};
use std::io;
use std::net::SocketAddr;

pub(super) use crate::backend::af_xdp::Watch;

/// What was decided.
#[derive(Default)]
pub(super) struct Choice {
    /// One for each core, or none: then UDP it is.
    pub(super) sockets: Vec<AfXdp>,
    pub(super) watch: Option<Watch>,
    /// The reason, where there is one to give.
    pub(super) why: Option<String>,
}

/// Opens AF_XDP where it is asked for, or where `auto` is and the driver does zero-copy.
pub(super) fn choose(cfg: &EngineConfig) -> Result<Choice, StartError> {
    match cfg.backend {
        BackendChoice::Udp | BackendChoice::IoUring | BackendChoice::IoUringZeroCopy => {
            Ok(Choice::default())
        }
        BackendChoice::AfXdp => open(cfg, cfg.af_xdp.zero_copy).map_err(|source| StartError::Io {
            what: "AF_XDP".into(),
            source,
        }),
        BackendChoice::Auto => {
            let no = match af_xdp::why_not_by_default(&cfg.af_xdp, cfg.listen) {
                Some(no) => no,
                // Copying is not what this choice is for.
                None => match open(cfg, ZeroCopy::On) {
                    Ok(choice) => return Ok(choice),
                    Err(e) => e.to_string(),
                },
            };
            Ok(Choice {
                why: Some(format!("not AF_XDP: {no}")),
                ..Choice::default()
            })
        }
    }
}

fn open(cfg: &EngineConfig, zero_copy: ZeroCopy) -> io::Result<Choice> {
    let settings = af_xdp::AfXdpConfig {
        zero_copy,
        ..cfg.af_xdp.clone()
    };
    let listen = SocketAddr::new(cfg.listen, cfg.port);
    let opened = af_xdp::open(&settings, listen, cfg.cores.len(), cfg.mtu)?;
    let seats = opened.seats.into_iter().zip(&cfg.cores);
    let sockets = seats.map(|(seat, cpu)| open_on(seat, *cpu));
    Ok(Choice {
        sockets: sockets.collect::<io::Result<_>>()?,
        watch: Some(opened.watch),
        why: Some(opened.why),
    })
}

/// Opens on the CPU that will use the memory, so that it is taken from that CPU's node.
fn open_on(seat: Seat, cpu: Option<usize>) -> io::Result<AfXdp> {
    let opened = std::thread::scope(|s| {
        let thread = s.spawn(move || {
            if let Some(cpu) = cpu {
                topology::pin_current(cpu).map_err(|e| io::Error::other(e.to_string()))?;
            }
            seat.open()
        });
        thread.join()
    });
    opened.unwrap_or_else(|_| Err(io::Error::other("the thread that opened it ended")))
}
