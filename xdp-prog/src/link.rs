//! BPF links of XDP programs: our own, and other programs' links, found by interface and program.
//!
//! Holds the crate's only unsafe code: the `bpf` system call. The BPF library cannot detach a link
//! that it did not make, and where the kernel refuses a link it attaches through netlink instead,
//! which outlives the process.

use crate::netlink::{Attached, Hook};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_OBJ_GET_INFO_BY_FD: i64 = 15;
const BPF_LINK_CREATE: i64 = 28;
const BPF_LINK_GET_FD_BY_ID: i64 = 30;
const BPF_LINK_GET_NEXT_ID: i64 = 31;
const BPF_LINK_DETACH: i64 = 34;
const BPF_ATTACH_TYPE_XDP: u32 = 37;
const BPF_LINK_TYPE_XDP: u32 = 6;

/// `union bpf_attr` for the commands used here, which read and write only the first 16 bytes; the
/// kernel wants the rest to be zero. Some commands have a pointer in `third` and `fourth`.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr {
    first: u32,
    second: u32,
    third: u32,
    fourth: u32,
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

/// Our program on an interface. The kernel detaches it when the last descriptor of the link is
/// closed, so also when the process is killed.
#[derive(Debug)]
pub(crate) struct XdpLink(OwnedFd);

impl XdpLink {
    pub fn create(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<Self> {
        let mut attr = Attr {
            first: program.as_raw_fd().cast_unsigned(),
            second: ifindex,
            third: BPF_ATTACH_TYPE_XDP,
            fourth: hook.flags(),
            ..Attr::default()
        };
        let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns or closes it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

impl Drop for XdpLink {
    fn drop(&mut self) {
        // Closing would do, but not at once while another process looks at the link or has just been
        // forked. It fails only if the interface is gone, and the program with it.
        let _ = detach(self.0.as_fd());
    }
}

fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr {
        first: link.as_raw_fd().cast_unsigned(),
        ..Attr::default()
    };
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Detaches the link that holds `program` on the interface. False if no link holds it: then it
/// was attached through netlink.
pub(crate) fn detach_other(ifindex: u32, program: Attached) -> io::Result<bool> {
    let mut id = 0;
    while let Some(next) = next_link(id)? {
        id = next;
        let Some(fd) = gone_is_none(open_link(id))? else {
            continue;
        };
        let info = info(&fd)?;
        if info.kind == BPF_LINK_TYPE_XDP && info.program == program.id && info.ifindex == ifindex {
            return detach(fd.as_fd()).map(|()| true);
        }
    }
    Ok(false)
}

/// A link may vanish between two calls, and one that is still being made answers EAGAIN.
fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EAGAIN)) => Ok(None),
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
    let address = std::ptr::from_mut(&mut info).expose_provenance() as u64;
    // A u64 in two halves, in the order of the machine.
    let halves = address.to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = halves;
    let mut attr = Attr {
        first: link.as_raw_fd().cast_unsigned(),
        second: size_of::<LinkInfo>() as u32,
        third: u32::from_ne_bytes([a, b, c, d]),
        fourth: u32::from_ne_bytes([e, f, g, h]),
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
