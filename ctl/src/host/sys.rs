//! The system calls that look at a host: ethtool's ioctl, netlink, and trial calls.
//!
//! Nothing here changes a setting. A trial object (a ring, a program, a socket) is closed at once.

use super::netlink;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// An ethtool question whose answer has a fixed size: (command, size of its structure).
#[derive(Debug, Clone, Copy)]
pub struct Fixed(u32, usize);

/// `struct ethtool_drvinfo`.
pub const DRIVER: Fixed = Fixed(0x3, 196);
/// `struct ethtool_cmd`, which has the speed.
pub const LINK: Fixed = Fixed(0x1, 44);
/// `struct ethtool_coalesce`.
pub const COALESCE: Fixed = Fixed(0xe, 92);
/// `struct ethtool_ringparam`.
pub const RINGS: Fixed = Fixed(0x10, 36);
/// `struct ethtool_channels`.
pub const CHANNELS: Fixed = Fixed(0x3c, 36);

const GRXFH: u32 = 0x29;
const GRXCLSRLCNT: u32 = 0x2e;
const GRXCLSRLALL: u32 = 0x30;
const GSSET_INFO: u32 = 0x37;
const GSTRINGS: u32 = 0x1b;
const GFEATURES: u32 = 0x3a;
const GRSSH: u32 = 0x46;
const FEATURE_STRINGS: u32 = 4;
/// Length of a name in a string set.
pub const STRING_LEN: usize = 32;
/// Size of `struct ethtool_rxnfc`, and where its number of rules and their locations lie.
const RXNFC_LEN: usize = 192;
/// Offset of the number of rules in `struct ethtool_rxnfc`.
pub const RXNFC_COUNT: usize = 184;
/// Offset of the locations in `struct ethtool_rxnfc`.
pub const RXNFC_LOCATIONS: usize = 188;
/// Size of `struct ethtool_rxfh` before table and key.
pub const RXFH_HEAD: usize = 24;
/// More entries than any string set, table or rule list has; a larger count is not believed.
const MANY: u32 = 1 << 16;

fn put(buf: &mut [u8], at: usize, value: u32) {
    buf[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn get(buf: &[u8], at: usize) -> u32 {
    let mut b = [0; 4];
    b.copy_from_slice(&buf[at..at + 4]);
    u32::from_ne_bytes(b)
}

/// Asks one ethtool question about an interface.
///
/// # Safety
/// For the command in the first four bytes of `buf`, and the counts that follow it, the kernel
/// must write no more than `buf.len()` bytes.
unsafe fn ethtool(ifname: &str, buf: &mut [u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel reads a C string.
    if ifname.is_empty() || ifname.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = buf.as_mut_ptr().cast();
    // SAFETY: `request` is a complete ifreq whose data pointer is the start of `buf`, which lives
    // until after the call; that the kernel stays inside it is the caller's promise.
    let rc = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The answer to a question of fixed size.
pub fn fixed(ifname: &str, question: Fixed) -> io::Result<Vec<u8>> {
    let Fixed(command, len) = question;
    let mut buf = vec![0; len];
    put(&mut buf, 0, command);
    // SAFETY: `Fixed` values exist only in this file, each with the size of the structure that its
    // command fills in; the kernel writes exactly that structure.
    unsafe { ethtool(ifname, &mut buf)? };
    Ok(buf)
}

/// `struct ethtool_rxfh` with indirection table and key of the main context.
pub fn rss(ifname: &str) -> io::Result<Vec<u8>> {
    let mut head = vec![0; RXFH_HEAD];
    put(&mut head, 0, GRSSH);
    // SAFETY: with sizes of zero the kernel writes the head alone.
    unsafe { ethtool(ifname, &mut head)? };
    let (table, key) = (get(&head, 8), get(&head, 12));
    if table > MANY || key > MANY {
        return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
    }
    let mut buf = vec![0; RXFH_HEAD + 4 * table as usize + key as usize];
    put(&mut buf, 0, GRSSH);
    put(&mut buf, 8, table);
    put(&mut buf, 12, key);
    // SAFETY: there is room for the head, `table` words and `key` bytes; the kernel refuses with
    // EINVAL if the device's sizes are no longer these.
    unsafe { ethtool(ifname, &mut buf)? };
    Ok(buf)
}

/// Which header fields the receive hash of a flow type takes, as the kernel's bit set.
pub fn hash_fields(ifname: &str, flow_type: u32) -> io::Result<u64> {
    let mut buf = vec![0; RXNFC_LEN];
    put(&mut buf, 0, GRXFH);
    put(&mut buf, 4, flow_type);
    // SAFETY: the kernel writes one ethtool_rxnfc, which is RXNFC_LEN bytes.
    unsafe { ethtool(ifname, &mut buf)? };
    let mut fields = [0; 8];
    fields.copy_from_slice(&buf[8..16]);
    Ok(u64::from_ne_bytes(fields))
}

/// `struct ethtool_rxnfc` with the locations of the steering rules; its data is the table's size.
pub fn rules(ifname: &str) -> io::Result<Vec<u8>> {
    let mut count = vec![0; RXNFC_LEN];
    put(&mut count, 0, GRXCLSRLCNT);
    // SAFETY: the kernel writes one ethtool_rxnfc, which is RXNFC_LEN bytes.
    unsafe { ethtool(ifname, &mut count)? };
    let rules = get(&count, RXNFC_COUNT);
    if rules > MANY {
        return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
    }
    let mut buf = vec![0; RXNFC_LEN + 4 * rules as usize];
    put(&mut buf, 0, GRXCLSRLALL);
    put(&mut buf, RXNFC_COUNT, rules);
    // SAFETY: there is room for the structure and `rules` locations behind it; the kernel writes at
    // most as many as were asked for.
    unsafe { ethtool(ifname, &mut buf)? };
    // The size of the table comes with the count.
    buf[8..16].copy_from_slice(&count[8..16]);
    Ok(buf)
}

/// Names of the features and their state: an `ethtool_gstrings` and an `ethtool_gfeatures`.
pub fn features(ifname: &str) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut info = vec![0; 20];
    put(&mut info, 0, GSSET_INFO);
    info[8..16].copy_from_slice(&(1_u64 << FEATURE_STRINGS).to_ne_bytes());
    // SAFETY: one string set is asked for, so the kernel writes the head of 16 bytes and one count.
    unsafe { ethtool(ifname, &mut info)? };
    let count = get(&info, 16);
    if count == 0 || count > MANY {
        return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
    }
    let mut names = vec![0; 12 + STRING_LEN * count as usize];
    put(&mut names, 0, GSTRINGS);
    put(&mut names, 4, FEATURE_STRINGS);
    put(&mut names, 8, count);
    // SAFETY: the number of features is a constant of the running kernel, so the kernel writes the
    // head of 12 bytes and `count` names of 32 bytes.
    unsafe { ethtool(ifname, &mut names)? };
    let blocks = count.div_ceil(32);
    let mut state = vec![0; 8 + 16 * blocks as usize];
    put(&mut state, 0, GFEATURES);
    put(&mut state, 4, blocks);
    // SAFETY: there is room for the head and `blocks` blocks of four words; the kernel copies no
    // more blocks than were asked for.
    unsafe { ethtool(ifname, &mut state)? };
    Ok((names, state))
}

/// Sends a netlink request and returns the payloads of the answers.
pub fn netlink(protocol: i32, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let domain = Domain::from(libc::AF_NETLINK);
    let mut socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    // Without an address the message goes to the kernel.
    socket.send(request)?;
    let mut answers = Vec::new();
    let mut buf = vec![0; 1 << 16];
    loop {
        let len = socket.read(&mut buf)?;
        for (header, payload) in netlink::messages(&buf[..len]) {
            match header.kind {
                netlink::DONE => return Ok(answers),
                netlink::ERROR => {
                    return match netlink::errno(payload) {
                        0 => Ok(answers),
                        e => Err(io::Error::from_raw_os_error(e)),
                    };
                }
                _ => answers.push(payload.to_vec()),
            }
            if !header.multipart {
                return Ok(answers);
            }
        }
    }
}

/// Tries to make an AF_XDP socket.
pub fn try_af_xdp() -> io::Result<()> {
    Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None).map(drop)
}

/// Tries to make an io_uring.
pub fn try_io_uring() -> io::Result<()> {
    io_uring::IoUring::new(8).map(drop)
}

/// The fields of `union bpf_attr` that loading a program needs.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// Tries to load the smallest XDP program, which passes every frame; it is attached nowhere.
pub fn try_xdp_program() -> io::Result<()> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const PROG_TYPE_XDP: u32 = 6;
    // r0 = XDP_PASS; exit
    let insns: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"Apache-2.0";
    let attr = ProgLoad {
        prog_type: PROG_TYPE_XDP,
        insn_cnt: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` is the beginning of a bpf_attr and its size is given, the kernel takes the
    // rest for zero; instructions and licence live until after the call, and the kernel only reads.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of::<ProgLoad>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a return value of zero or more is a new descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_interface_can_have_are_refused() {
        for name in ["", "a-name-of-sixteen", "ctp96-none"] {
            let e = fixed(name, DRIVER).expect_err("there is none");
            assert_eq!(e.raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
    }
}
