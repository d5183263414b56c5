//! Every constant that bounds the protocol or the memory of a process, in one place.
//!
//! Changing a value marked *wire* changes the protocol: `docs/PROTOCOL.md` must change with it.

/// Slots in the coherence window of one lane (*wire*). Slot `n` has class `n % 96`.
pub const WINDOW_SLOTS: usize = 96;
/// Most data symbols in one slot (*wire*).
pub const MAX_DATA_SYMBOLS: usize = 64;
/// Most repair symbols of one slot (*wire*).
pub const MAX_REPAIR_SYMBOLS: usize = 32;
/// Most symbols of one slot, data and repair (*wire*).
pub const MAX_SYMBOLS: usize = MAX_DATA_SYMBOLS + MAX_REPAIR_SYMBOLS;
/// Most lanes of one session (*wire*).
pub const MAX_LANES: usize = 128;
/// Symbols are a multiple of this many bytes (*wire*).
pub const SYMBOL_ALIGN: usize = 64;
/// Clear frame header, bytes (*wire*).
pub const HEADER_LEN: usize = 24;
/// AEAD tag, bytes (*wire*).
pub const TAG_LEN: usize = 16;
/// Bytes of a frame that are not symbol payload.
pub const FRAME_OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// IPv6 + UDP header bytes; the larger family decides so that both fit.
pub const IP_UDP_OVERHEAD: usize = 48;
/// Smallest path MTU that CTP-96 uses, bytes.
pub const MIN_MTU: usize = 1280;
/// Largest symbol that goes over a path of which nothing is known (the BASE_PLPMTU of RFC 8899): its
/// frame is 1,192 bytes of UDP payload, 1,220 with IPv4 and 1,240 with IPv6 headers, which fits the
/// smallest MTU of IPv6 and is what QUIC, too, takes for granted (RFC 9000 section 14).
pub const BASE_SYMBOL_LEN: usize = symbol_len_for_mtu(MIN_MTU);
/// Largest path MTU that CTP-96 uses, bytes.
pub const MAX_MTU: usize = 9216;
/// Largest symbol, bytes: the largest multiple of 64 that fits `MAX_MTU`.
pub const MAX_SYMBOL_LEN: usize = symbol_len_for_mtu(MAX_MTU);
/// Largest CTP-96 frame (UDP payload), bytes.
pub const MAX_FRAME_LEN: usize = MAX_SYMBOL_LEN + FRAME_OVERHEAD;
/// Bytes at the start of every slot that describe its content (*wire*); content starts aligned.
pub const SLOT_PREAMBLE_LEN: usize = 64;
/// Bytes before the part of a symbol that travels in several frames (*wire*).
pub const PART_HEAD_LEN: usize = 64;
/// Most parts of one symbol (*wire*): as many as the largest one has at the base size.
pub const MAX_PARTS: usize = MAX_SYMBOL_LEN.div_ceil(BASE_SYMBOL_LEN - PART_HEAD_LEN);
/// Largest application message, bytes.
pub const MAX_MESSAGE_LEN: usize = 16 << 20;
/// Packet numbers remembered by the replay window of a lane.
pub const REPLAY_WINDOW: u64 = 16_384;
/// Most `{slot, have-set}` reports in one acknowledgement (*wire*).
pub const MAX_DEFICITS: usize = 16;
/// Slots between two coherence proofs (*wire*).
pub const COHERENCE_INTERVAL: u64 = 96;
/// Blocks (of 16 bytes) that one key may seal before the epoch ratchets.
pub const EPOCH_MAX_BLOCKS: u64 = 1 << 32;
/// Age at which the epoch ratchets, nanoseconds.
pub const EPOCH_MAX_AGE_NS: u64 = 120_000_000_000;
/// Hard stop: a key never seals this many blocks, whatever else fails.
pub const KEY_HARD_STOP_BLOCKS: u64 = 1 << 34;
/// Keepalive interval, nanoseconds.
pub const KEEPALIVE_NS: u64 = 10_000_000_000;
/// A session that hears nothing for this long is closed, nanoseconds.
pub const IDLE_CLOSE_NS: u64 = 30_000_000_000;
/// A part-filled slot is closed after this long without a flush, nanoseconds.
pub const SLOT_LINGER_NS: u64 = 20_000;
/// An acknowledgement is sent after this many complete slots.
pub const ACK_EVERY_SLOTS: u32 = 4;
/// An acknowledgement is sent at most this long after a slot is complete, or after
/// [`ACK_EVERY_BYTES`], nanoseconds.
pub const ACK_DELAY_NS: u64 = 100_000;
/// Bytes of symbols that are worth an acknowledgement of their own within a slot. One takes about
/// 200 bytes on the wire, so that is 0.4 %.
pub const ACK_EVERY_BYTES: u64 = 48 << 10;
/// Data in the middle of a slot is acknowledged after no frame has come for so long, nanoseconds: more
/// than the millisecond at which a slow sender is paced.
pub const ACK_QUIET_NS: u64 = 1_500_000;
/// And at the latest after this, nanoseconds.
pub const ACK_MAX_DELAY_NS: u64 = 8_000_000;
/// Default UDP port of the daemon; lane core `i` listens on `DEFAULT_PORT + i`.
pub const DEFAULT_PORT: u16 = 9696;
/// Most lane cores of one node (*wire*: ports are base..base+cores).
pub const MAX_CORES: usize = 64;
/// The target that reports are given against: 25 GB/s of payload.
pub const TARGET_BYTES_PER_S: f64 = 25e9;

/// Largest symbol length (a multiple of 64) whose frame fits `mtu` over IPv6 and UDP.
///
/// 1,500 gives 1,408 and 9,000 gives 8,896.
pub const fn symbol_len_for_mtu(mtu: usize) -> usize {
    let room = mtu - IP_UDP_OVERHEAD - FRAME_OVERHEAD;
    room - room % SYMBOL_ALIGN
}

/// `n` rounded up to the symbol alignment.
pub const fn align_symbol(n: usize) -> usize {
    n.div_ceil(SYMBOL_ALIGN) * SYMBOL_ALIGN
}

/// How a slot of `total` bytes (preamble included) is cut: `(k, symbol_len)`.
///
/// Full slots use symbols of `max_symbol`; a short slot uses the fewest symbols that hold it and
/// the shortest 64-byte multiple for each, so a small message does not pay for a full frame.
///
/// `total` must be in `1..=64 * max_symbol`; `max_symbol` a non-zero multiple of 64.
pub const fn cut_slot(total: usize, max_symbol: usize) -> (usize, usize) {
    let k = total.div_ceil(max_symbol);
    let len = align_symbol(total.div_ceil(k));
    (k, len)
}

/// Windows that a path's bandwidth-delay product needs: a slot that lost a symbol takes a second round
/// trip, one whose repair is lost too a third, and the window waits for it.
pub const WINDOWS_PER_BDP: u64 = 3;

/// Lanes whose windows together hold [`WINDOWS_PER_BDP`] times what a path of `bytes_per_s` and
/// `rtt_ns` has under way; may exceed [`MAX_LANES`].
///
/// A lane holds `window_slots` slots of 64 symbols of `symbol_len` bytes: 8.7 MB at MTU 1500, 54.7 MB
/// at MTU 9000. So 128 lanes fill 200 Gb/s over 91 ms at MTU 9000 (over 273 ms without loss).
pub fn lanes_for(bytes_per_s: u64, rtt_ns: u64, window_slots: usize, symbol_len: usize) -> u64 {
    let lane = window_slots.max(1) * MAX_DATA_SYMBOLS * symbol_len.max(1);
    let bdp = u128::from(bytes_per_s) * u128::from(rtt_ns) / 1_000_000_000;
    let lanes = (u128::from(WINDOWS_PER_BDP) * bdp).div_ceil(lane as u128);
    u64::try_from(lanes.max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_hold_three_products() {
        // 10 Gb/s over 20 ms are 25 MB; a lane holds 8.65 MB at MTU 1500.
        assert_eq!(lanes_for(1_250_000_000, 20_000_000, 96, 1408), 9);
        assert_eq!(lanes_for(1_250_000_000, 50_000, 96, 1408), 1);
        assert_eq!(lanes_for(25_000_000_000, 90_000_000, 96, 8896), 124);
        assert_eq!(lanes_for(25_000_000_000, 100_000_000, 96, 8896), 138);
        assert_eq!(lanes_for(u64::MAX, u64::MAX, 1, 64), u64::MAX);
        assert_eq!(lanes_for(0, 0, 0, 0), 1);
    }

    #[test]
    fn symbol_lengths_match_the_design() {
        assert_eq!(symbol_len_for_mtu(1500), 1408);
        assert_eq!(symbol_len_for_mtu(9000), 8896);
        assert_eq!((BASE_SYMBOL_LEN, MAX_PARTS), (1152, 9));
    }

    #[test]
    fn a_cut_holds_the_slot_and_never_exceeds_the_limits() {
        for max in [64, 1088, 1408, 8896] {
            for total in [
                1,
                63,
                64,
                65,
                128,
                max - 1,
                max,
                max + 1,
                17 * max + 5,
                64 * max,
            ] {
                if total == 0 || total > 64 * max {
                    continue;
                }
                let (k, len) = cut_slot(total, max);
                assert!(k * len >= total && k <= MAX_DATA_SYMBOLS && len <= max);
                assert!(len % SYMBOL_ALIGN == 0 && k >= 1);
            }
        }
    }
}
