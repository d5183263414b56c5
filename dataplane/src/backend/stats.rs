//! What a backend counted, and why a frame can be dropped on its way out.

/// Why a committed frame was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropCause {
    /// The kernel had no buffer for it time after time (EAGAIN, ENOBUFS, ENOMEM).
    NoBuffer,
    /// Longer than the link or the path takes (EMSGSIZE).
    TooLong,
    /// The peer's host answered that nobody listens (ECONNREFUSED).
    Refused,
    /// A local firewall or policy forbids it (EPERM, EACCES).
    Forbidden,
    /// No route, or the link is down (ENETUNREACH, EHOSTUNREACH, ENETDOWN, EHOSTDOWN).
    Unreachable,
    /// Anything else.
    Other,
}

impl DropCause {
    /// All causes, in the order of [`Stats::tx_dropped`].
    pub const ALL: [DropCause; 6] = [
        DropCause::NoBuffer,
        DropCause::TooLong,
        DropCause::Refused,
        DropCause::Forbidden,
        DropCause::Unreachable,
        DropCause::Other,
    ];

    /// The cause behind an errno of a send call.
    pub fn of_errno(errno: i32) -> DropCause {
        match errno {
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => DropCause::NoBuffer,
            libc::EMSGSIZE => DropCause::TooLong,
            libc::ECONNREFUSED => DropCause::Refused,
            libc::EPERM | libc::EACCES => DropCause::Forbidden,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => {
                DropCause::Unreachable
            }
            _ => DropCause::Other,
        }
    }

    /// A word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            DropCause::NoBuffer => "no_buffer",
            DropCause::TooLong => "too_long",
            DropCause::Refused => "refused",
            DropCause::Forbidden => "forbidden",
            DropCause::Unreachable => "unreachable",
            DropCause::Other => "other",
        }
    }
}

/// What a backend has done since it was made. Every frame committed is in exactly one of
/// `tx_frames`, `tx_dropped` and `tx_pending`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bursts handed out.
    pub rx_bursts: u64,
    /// Datagrams in them.
    pub rx_frames: u64,
    /// Payload bytes in them.
    pub rx_bytes: u64,
    /// Datagrams longer than a receive buffer, dropped.
    pub rx_truncated: u64,
    /// Datagrams without any payload, or from no IP address, dropped.
    pub rx_empty: u64,
    /// Socket buffers that the kernel dropped because the receive queue was full (SO_RXQ_OVFL); one
    /// may hold several datagrams.
    pub rx_kernel_drops: u64,
    /// Errors that the socket reported on receive and that were survived.
    pub rx_errors: u64,
    /// Times the receive side ran out of buffers.
    pub rx_no_buffer: u64,
    /// Datagrams that came past the kernel's network stack (AF_XDP), as part of `rx_frames`.
    pub rx_direct: u64,
    /// Frames passed on to the core that their port belongs to, because they came in on another
    /// core's queue; that core counts them as received.
    pub rx_misdirected: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Payload bytes sent.
    pub tx_bytes: u64,
    /// Sends that carried them; `tx_frames / tx_sends` is the gain of segmentation offload.
    pub tx_sends: u64,
    /// Sends put off because the kernel had no buffer.
    pub tx_retries: u64,
    /// Frames committed and neither sent nor dropped yet.
    pub tx_pending: u64,
    /// Frames claimed and cancelled.
    pub tx_cancelled: u64,
    /// Frames sent past the kernel's network stack (AF_XDP), as part of `tx_frames`.
    pub tx_direct: u64,
    /// Frames that the device had no room for and dropped after they were handed over (AF_XDP in
    /// copy mode); they are in `tx_frames`.
    pub tx_lost_below: u64,
    /// Frames dropped, by [`DropCause`] in the order of [`DropCause::ALL`].
    pub tx_dropped: [u64; DropCause::ALL.len()],
}

impl Stats {
    /// Frames dropped for `cause`.
    pub fn dropped(&self, cause: DropCause) -> u64 {
        self.tx_dropped[cause as usize]
    }

    /// Frames dropped for whatever cause.
    pub fn dropped_total(&self) -> u64 {
        self.tx_dropped.iter().sum()
    }

    /// The sums of both.
    pub(super) fn plus(mut self, other: &Stats) -> Stats {
        // Named one by one, so that a new counter cannot be forgotten.
        let Stats {
            rx_bursts,
            rx_frames,
            rx_bytes,
            rx_truncated,
            rx_empty,
            rx_kernel_drops,
            rx_errors,
            rx_no_buffer,
            rx_direct,
            rx_misdirected,
            tx_frames,
            tx_bytes,
            tx_sends,
            tx_retries,
            tx_pending,
            tx_cancelled,
            tx_direct,
            tx_lost_below,
            tx_dropped,
        } = *other;
        self.rx_bursts += rx_bursts;
        self.rx_frames += rx_frames;
        self.rx_bytes += rx_bytes;
        self.rx_truncated += rx_truncated;
        self.rx_empty += rx_empty;
        self.rx_kernel_drops += rx_kernel_drops;
        self.rx_errors += rx_errors;
        self.rx_no_buffer += rx_no_buffer;
        self.rx_direct += rx_direct;
        self.rx_misdirected += rx_misdirected;
        self.tx_frames += tx_frames;
        self.tx_bytes += tx_bytes;
        self.tx_sends += tx_sends;
        self.tx_retries += tx_retries;
        self.tx_pending += tx_pending;
        self.tx_cancelled += tx_cancelled;
        self.tx_direct += tx_direct;
        self.tx_lost_below += tx_lost_below;
        for (sum, n) in self.tx_dropped.iter_mut().zip(tx_dropped) {
            *sum += n;
        }
        self
    }
}
