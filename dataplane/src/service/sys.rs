//! The system calls that `std` lacks: names resolved relative to an open directory, so that no
//! symbolic link and no concurrent rename can lead out of a receive root. All `unsafe` of the
//! service is here.

use std::ffi::CString;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn text(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::new(ErrorKind::InvalidInput, "a name contains NUL"))
}

fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn done(r: libc::c_int) -> Result<()> {
    if r < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Opens `name`, one component, in `dir`; never through a symbolic link.
pub fn open_at(dir: BorrowedFd, name: &str, flags: i32, mode: u32) -> Result<File> {
    let c = text(name)?;
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `dir` is open for the call and `c` is NUL-terminated.
    let fd = unsafe { libc::openat(dir.as_raw_fd(), c.as_ptr(), flags, mode) };
    owned(fd.into()).map(File::from)
}

/// Makes a directory; fine when there is one already.
pub fn mkdir_at(dir: BorrowedFd, name: &str, mode: u32) -> Result<()> {
    let c = text(name)?;
    // SAFETY: as in `open_at`.
    match done(unsafe { libc::mkdirat(dir.as_raw_fd(), c.as_ptr(), mode) }) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        r => r,
    }
}

/// Renames one component to another, replacing what is there.
pub fn rename_at(from: BorrowedFd, old: &str, to: BorrowedFd, new: &str) -> Result<()> {
    let (a, b) = (text(old)?, text(new)?);
    // SAFETY: both directories are open for the call and both names NUL-terminated.
    done(unsafe { libc::renameat(from.as_raw_fd(), a.as_ptr(), to.as_raw_fd(), b.as_ptr()) })
}

/// Removes a file.
pub fn unlink_at(dir: BorrowedFd, name: &str) -> Result<()> {
    let c = text(name)?;
    // SAFETY: as in `open_at`.
    done(unsafe { libc::unlinkat(dir.as_raw_fd(), c.as_ptr(), 0) })
}

/// Bytes that we may still write to the file system of `dir`.
pub fn free_bytes(dir: BorrowedFd) -> Result<u64> {
    // SAFETY: statvfs is plain data, for which zeros are valid.
    let mut s: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `dir` is open and `s` is writable.
    done(unsafe { libc::fstatvfs(dir.as_raw_fd(), &mut s) })?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}

/// Makes everything written to the file system of `dir` durable.
pub fn sync_fs(dir: BorrowedFd) -> Result<()> {
    // SAFETY: `dir` is open.
    done(unsafe { libc::syncfs(dir.as_raw_fd()) })
}

fn openat2_dir(root: BorrowedFd, rel: &str) -> Result<OwnedFd> {
    let c = text(rel)?;
    let how = OpenHow {
        flags: (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS,
    };
    // SAFETY: `root` is open, `c` NUL-terminated, and `how` has the size given.
    owned(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            root.as_raw_fd(),
            c.as_ptr(),
            &how as *const OpenHow,
            size_of::<OpenHow>(),
        )
    })
}

/// Opens the directory `rel` (a checked name, or empty) below `root`, following no symbolic link
/// and never leaving `root`; makes missing directories if `create`.
pub fn open_dir_beneath(root: BorrowedFd, rel: &str, create: bool) -> Result<OwnedFd> {
    if rel.is_empty() {
        return root.try_clone_to_owned();
    }
    match openat2_dir(root, rel) {
        Ok(fd) => return Ok(fd),
        // An old kernel or a seccomp filter: the walk below is as strict.
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOSYS | libc::EPERM | libc::EAGAIN)
            ) => {}
        Err(e) if create && e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    walk(root, rel, create)
}

/// As [`open_dir_beneath`], one component after the other, each opened without following links.
/// `rel` has no `..` (checked by `check_name`), so every step goes down.
fn walk(root: BorrowedFd, rel: &str, create: bool) -> Result<OwnedFd> {
    let mut dir = root.try_clone_to_owned()?;
    for c in rel.split('/') {
        if matches!(c, "" | "." | "..") {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "not a plain relative name",
            ));
        }
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let next = match open_at(dir.as_fd(), c, flags, 0) {
            Err(e) if create && e.kind() == ErrorKind::NotFound => {
                mkdir_at(dir.as_fd(), c, 0o777)?;
                open_at(dir.as_fd(), c, flags, 0)
            }
            r => r,
        };
        dir = next?.into();
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::testdir::TestDir;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_way_leads_out_of_the_root() {
        let t = TestDir::new("sys");
        let (root, outside) = (t.path().join("root"), t.path().join("outside"));
        std::fs::create_dir_all(root.join("in/side")).unwrap();
        std::fs::create_dir_all(outside.join("deep")).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink("in", root.join("inner")).unwrap();
        let r = File::open(&root).unwrap();
        for f in [open_dir_beneath, walk] {
            assert!(f(r.as_fd(), "in/side", false).is_ok());
            assert!(f(r.as_fd(), "new/er/dir", true).is_ok());
            for hostile in [
                "link",
                "link/deep",
                "link/new",
                "inner/side",
                "..",
                "in/../..",
                "/etc",
            ] {
                assert!(f(r.as_fd(), hostile, true).is_err(), "{hostile}");
            }
            assert!(f(r.as_fd(), "absent", false).is_err());
            std::fs::remove_dir_all(root.join("new")).unwrap();
        }
        assert!(!outside.join("new").exists());
        symlink("/etc/passwd", root.join("file")).unwrap();
        assert!(open_at(r.as_fd(), "file", libc::O_RDONLY, 0).is_err());
    }

    #[test]
    fn rename_replaces_a_link_and_not_its_target() {
        let t = TestDir::new("sys-rename");
        std::fs::write(t.path().join("target"), "old").unwrap();
        std::fs::write(t.path().join("new"), "new").unwrap();
        symlink("target", t.path().join("name")).unwrap();
        let d = File::open(t.path()).unwrap();
        rename_at(d.as_fd(), "new", d.as_fd(), "name").unwrap();
        assert_eq!(std::fs::read(t.path().join("target")).unwrap(), b"old");
        assert_eq!(std::fs::read(t.path().join("name")).unwrap(), b"new");
        assert!(free_bytes(d.as_fd()).unwrap() > 0);
        sync_fs(d.as_fd()).unwrap();
        unlink_at(d.as_fd(), "name").unwrap();
        assert!(!t.path().join("name").exists());
    }
}
