//! One poll call for the backends that sleep without a ring.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Sleeps until one of `fds` is readable or `timeout` passes; a signal ends it early.
pub(super) fn readable<const N: usize>(
    fds: [RawFd; N],
    timeout: Option<Duration>,
) -> io::Result<()> {
    which_readable(fds, timeout).map(drop)
}

/// As [`readable`], and says which of `fds` are.
pub(super) fn which_readable<const N: usize>(
    fds: [RawFd; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut set = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    let ts = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs().min(i32::MAX as u64) as libc::time_t,
        tv_nsec: t.subsec_nanos() as libc::c_long,
    });
    let ts = ts.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `set` holds N valid entries, `ts` is null or a live timespec, no signal mask.
    let n = unsafe { libc::ppoll(set.as_mut_ptr(), N as libc::nfds_t, ts, std::ptr::null()) };
    if n < 0 {
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
    Ok(set.map(|p| p.revents != 0))
}
