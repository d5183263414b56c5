//! Another program's BPF link: found by interface and program, and detached.
//!
//! Holds the crate's only unsafe code: the `bpf` system call, for three commands that the BPF
//! library does not offer.

use crate::netlink::Attached;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_OBJ_GET_INFO_BY_FD: i64 = 15;
const BPF_LINK_GET_FD_BY_ID: i64 = 30;
const BPF_LINK_GET_NEXT_ID: i64 = 31;
const BPF_LINK_DETACH: i64 = 34;
const BPF_LINK_TYPE_XDP: u32 = 6;

/// `union bpf_attr` for the commands used here; they read and write only the first 16 bytes, and
/// the kernel wants the rest to be zero.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr {
    first: u32,
    second: u32,
    pointer: u64,
    zero: [u64; 4],
}

/// `struct bpf_link_info`; the variant for XDP begins with the interface number.
#[repr(C, align(8))]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    ifindex: u32,
    rest: [u32; 27],
}

/// Detaches the link that holds `program` on the interface. False if no link holds it: then it
/// was attached through netlink.
pub(crate) fn detach_link(ifindex: u32, program: Attached) -> io::Result<bool> {
    let mut id = 0;
    while let Some(next) = next_link(id)? {
        id = next;
        // A link may vanish between two calls.
        let Some(fd) = gone_is_none(open_link(id))? else {
            continue;
        };
        let info = info(&fd)?;
        if info.kind == BPF_LINK_TYPE_XDP && info.program == program.id && info.ifindex == ifindex {
            let mut attr = Attr {
                first: fd.as_raw_fd().cast_unsigned(),
                ..Attr::default()
            };
            return bpf(BPF_LINK_DETACH, &mut attr).map(|_| true);
        }
    }
    Ok(false)
}

fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

fn next_link(after: u32) -> io::Result<Option<u32>> {
    let mut attr = Attr {
        first: after,
        ..Attr::default()
    };
    gone_is_none(bpf(BPF_LINK_GET_NEXT_ID, &mut attr)).map(|found| found.map(|_| attr.second))
}

fn open_link(id: u32) -> io::Result<OwnedFd> {
    let mut attr = Attr {
        first: id,
        ..Attr::default()
    };
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns or closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn info(link: &OwnedFd) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = Attr {
        first: link.as_raw_fd().cast_unsigned(),
        second: size_of::<LinkInfo>() as u32,
        pointer: std::ptr::from_mut(&mut info).expose_provenance() as u64,
        ..Attr::default()
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

fn bpf(command: i64, attr: &mut Attr) -> io::Result<i32> {
    // SAFETY: the pointer and the length are those of a live, exclusively borrowed `Attr`. Of the
    // commands used in this file only BPF_OBJ_GET_INFO_BY_FD follows a pointer in it, to a live
    // `LinkInfo` of plain integers whose size is in `second`.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<Attr>(),
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(rc).map_err(io::Error::other)
}
