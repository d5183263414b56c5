//! What the kernel says about paths. It is asked on the control thread, because that takes system
//! calls; the lanes make of it what they think right.

use super::Control;
use crate::backend::mtu::kernel_mtu;
use crate::base::limits::{FRAME_OVERHEAD, MAX_SYMBOL_LEN, SYMBOL_ALIGN};
use crate::stage::udp_overhead;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// Longest symbol whose frame fits what the kernel believes the path to `to` to carry; nothing where
/// it knows no path.
pub(super) fn symbol_len(to: SocketAddr) -> Option<u16> {
    let mtu = kernel_mtu(to).ok()?;
    let room = mtu.checked_sub(udp_overhead(&to) + FRAME_OVERHEAD)?;
    let symbol = room.min(MAX_SYMBOL_LEN) / SYMBOL_ALIGN * SYMBOL_ALIGN;
    u16::try_from(symbol).ok().filter(|&s| s > 0)
}

impl Control {
    /// Asks the kernel again for the sessions whose lanes want to know.
    pub(super) fn refresh_hints(&self) {
        for live in self.sessions.values() {
            if !live.shared.mtu_wanted.swap(false, Ordering::Relaxed) {
                continue;
            }
            let Some(symbol) = symbol_len(live.addr) else {
                continue;
            };
            let hint = &live.shared.mtu_hint;
            if hint.swap(u32::from(symbol), Ordering::Relaxed) != u32::from(symbol) {
                for (lane, _) in &live.lanes {
                    lane.core.wake();
                }
            }
        }
    }
}
