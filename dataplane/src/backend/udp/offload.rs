//! What to do with a send that the kernel refused.

use super::fatal;
use crate::backend::FlushReport;
use crate::backend::stats::{DropCause, Stats};
use crate::backend::tx::{Run, TxQueue};

/// State of segmentation offload on one socket.
///
/// A refused super-packet may mean that the path has no offload, or that its frames are too
/// long. The next frame, sent by itself, tells which.
#[derive(Debug, Default)]
pub(super) struct Offload {
    /// Errno that made us try a single frame.
    trial: Option<i32>,
    /// Errno after which single frames did go through: there is no offload.
    off: Option<i32>,
    disabled: bool,
}

/// How a flush goes on after a refused send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// With the same run, or what is now the oldest one.
    Again,
    /// Not now: the kernel has no room.
    Later,
    /// Not at all: the socket is broken.
    Fatal(i32),
}

impl Offload {
    /// Offload as the socket has it at first.
    pub(super) fn new(enabled: bool) -> Offload {
        Offload {
            disabled: !enabled,
            ..Offload::default()
        }
    }

    /// Why offload is off, if it is.
    pub(super) fn note(&self) -> Option<String> {
        if self.disabled {
            return Some(
                "segmentation offload is off: not configured, or no kernel support".into(),
            );
        }
        let e = std::io::Error::from_raw_os_error(self.off?);
        Some(format!(
            "segmentation offload is off: the kernel refused a super-packet ({e}) and took its frames one by one"
        ))
    }

    /// Whether the next frame shall tell what the last refusal meant.
    pub(super) fn on_trial(&self) -> bool {
        self.trial.is_some()
    }

    /// A run went out.
    #[inline]
    pub(super) fn sent(&mut self) {
        if let Some(errno) = self.trial.take() {
            self.off = Some(errno);
        }
    }

    /// A run was refused with `errno`.
    pub(super) fn refused(
        &mut self,
        tx: &mut TxQueue,
        run: Run,
        errno: i32,
        stats: &mut Stats,
        report: &mut FlushReport,
    ) -> Next {
        match errno {
            libc::EINTR => return Next::Again,
            e if fatal(e) => return Next::Fatal(e),
            libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM if tx.put_off(run, stats) => {
                return Next::Later;
            }
            libc::EINVAL | libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT if run.frames > 1 => {
                tx.offload = false;
                self.trial = Some(errno);
                return Next::Again;
            }
            _ => {}
        }
        if self.trial.take().is_some() {
            // The frame is refused by itself too, so offload was not the reason.
            tx.offload = true;
        }
        let cause = DropCause::of_errno(errno);
        tx.refuse(run, cause, stats, report);
        Next::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn queue(frames: usize) -> TxQueue {
        let to: SocketAddr = ([127, 0, 0, 1], 9).into();
        let mut q = TxQueue::new(4).expect("map");
        for _ in 0..frames {
            let mut f = q.claim(&to, 100).expect("room");
            f.fill(1);
            q.commit(f);
        }
        q.close();
        q
    }

    fn first(q: &mut TxQueue) -> Option<Run> {
        let mut first = None;
        q.runs(|r| {
            first = Some(r);
            false
        });
        first
    }

    #[test]
    fn a_path_without_offload_gets_single_frames() {
        let (mut q, mut o) = (queue(3), Offload::new(true));
        let (mut s, mut r) = (Stats::default(), FlushReport::default());
        let run = first(&mut q).expect("a run");
        assert_eq!(
            o.refused(&mut q, run, libc::EIO, &mut s, &mut r),
            Next::Again
        );
        for _ in 0..3 {
            let run = first(&mut q).expect("a frame");
            assert_eq!(run.frames, 1);
            o.sent();
            q.sent(run, &mut s, &mut r);
        }
        assert!(first(&mut q).is_none());
        assert!(!q.offload && o.note().is_some());
        assert_eq!((r.sent_frames, r.dropped_frames, q.pending()), (3, 0, 0));
    }

    #[test]
    fn frames_too_long_are_dropped_and_offload_stays() {
        let (mut q, mut o) = (queue(3), Offload::new(true));
        let (mut s, mut r) = (Stats::default(), FlushReport::default());
        while let Some(run) = first(&mut q) {
            let errno = if run.frames > 1 {
                libc::EINVAL
            } else {
                libc::EMSGSIZE
            };
            assert_eq!(o.refused(&mut q, run, errno, &mut s, &mut r), Next::Again);
        }
        assert!(q.offload && o.note().is_none());
        assert_eq!((s.dropped(DropCause::TooLong), q.pending()), (3, 0));
    }

    #[test]
    fn a_full_kernel_is_tried_again_but_not_for_ever() {
        let (mut q, mut o) = (queue(3), Offload::new(true));
        let (mut s, mut r) = (Stats::default(), FlushReport::default());
        let mut later = 0;
        while let Some(run) = first(&mut q) {
            match o.refused(&mut q, run, libc::ENOBUFS, &mut s, &mut r) {
                Next::Later => later += 1,
                Next::Again => {}
                Next::Fatal(e) => panic!("fatal {e}"),
            }
            assert!(later < 10_000);
        }
        assert_eq!((s.tx_retries, s.dropped(DropCause::NoBuffer)), (later, 3));
        assert!(later > 10);
    }

    #[test]
    fn every_cause_is_counted_and_only_a_broken_socket_is_fatal() {
        for (errno, cause) in [
            (libc::ECONNREFUSED, DropCause::Refused),
            (libc::EPERM, DropCause::Forbidden),
            (libc::ENETUNREACH, DropCause::Unreachable),
            (libc::EMSGSIZE, DropCause::TooLong),
            (libc::ENOTCONN, DropCause::Other),
        ] {
            let (mut q, mut o) = (queue(2), Offload::new(true));
            let (mut s, mut r) = (Stats::default(), FlushReport::default());
            let run = first(&mut q).expect("a run");
            assert_eq!(o.refused(&mut q, run, errno, &mut s, &mut r), Next::Again);
            assert_eq!(
                (s.dropped(cause), r.dropped_frames),
                (2, 2),
                "{}",
                cause.name()
            );
            assert_eq!(s.dropped_total(), 2);
        }
        let (mut q, mut o) = (queue(2), Offload::new(true));
        let (mut s, mut r) = (Stats::default(), FlushReport::default());
        let run = first(&mut q).expect("a run");
        let next = o.refused(&mut q, run, libc::EBADF, &mut s, &mut r);
        assert_eq!(next, Next::Fatal(libc::EBADF));
    }
}
