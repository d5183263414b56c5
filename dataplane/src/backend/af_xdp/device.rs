//! What a network device says about itself: driver and queues, asked by ethtool's ioctl (sysfs may
//! show another network namespace than the one we are in).

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const IFNAMSIZ: usize = 16;

/// struct ifreq with its pointer member.
#[repr(C)]
struct Request {
    name: [u8; IFNAMSIZ],
    data: *mut u32,
    pad: [u8; 16],
}

/// Asks with a buffer of words whose first is the command.
fn ethtool(name: &str, words: &mut [u32; 64]) -> io::Result<()> {
    // Any socket serves.
    let socket = UdpSocket::bind("0.0.0.0:0").or_else(|_| UdpSocket::bind("[::]:0"))?;
    let mut request = Request {
        name: [0; IFNAMSIZ],
        data: words.as_mut_ptr(),
        pad: [0; 16],
    };
    let n = name.len().min(IFNAMSIZ - 1);
    request.name[..n].copy_from_slice(&name.as_bytes()[..n]);
    // SAFETY: the request is laid out as struct ifreq and live; the buffer behind it is longer
    // than what either command used here writes (36 and 196 bytes).
    let r = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Receive queues in use; one where the driver does not say.
pub(super) fn rx_queues(name: &str) -> u32 {
    let mut words = [0; 64];
    words[0] = ETHTOOL_GCHANNELS;
    match ethtool(name, &mut words) {
        // rx_count and combined_count.
        Ok(()) => (words[5] + words[8]).max(1),
        Err(_) => 1,
    }
}

/// Name of the driver.
pub(super) fn driver(name: &str) -> String {
    let mut words = [0; 64];
    words[0] = ETHTOOL_GDRVINFO;
    if ethtool(name, &mut words).is_err() {
        return "unknown".to_owned();
    }
    let bytes: Vec<u8> = words[1..9].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Name of the interface that has address `ip`.
pub(super) fn owner_of(ip: IpAddr) -> io::Result<Option<String>> {
    let mut list = std::ptr::null_mut::<libc::ifaddrs>();
    // SAFETY: the kernel's answer is put in a list that is freed below.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut found = None;
    let mut at = list;
    while !at.is_null() && found.is_none() {
        // SAFETY: a live element of the list.
        let entry = unsafe { &*at };
        at = entry.ifa_next;
        if entry.ifa_addr.is_null() {
            continue;
        }
        // SAFETY: an address that is not null has a family, and is as long as that says.
        let addr: Option<IpAddr> = unsafe {
            match i32::from((*entry.ifa_addr).sa_family) {
                libc::AF_INET => {
                    let a = &*entry.ifa_addr.cast::<libc::sockaddr_in>();
                    Some(IpAddr::from(a.sin_addr.s_addr.to_ne_bytes()))
                }
                libc::AF_INET6 => {
                    let a = &*entry.ifa_addr.cast::<libc::sockaddr_in6>();
                    Some(IpAddr::from(a.sin6_addr.s6_addr))
                }
                _ => None,
            }
        };
        if addr == Some(ip) {
            // SAFETY: names in the list end with a zero byte.
            let name = unsafe { CStr::from_ptr(entry.ifa_name) };
            found = Some(name.to_string_lossy().into_owned());
        }
    }
    // SAFETY: the list that getifaddrs made, freed once; nothing borrowed from it is left.
    unsafe { libc::freeifaddrs(list) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_an_owner_and_at_least_one_queue() {
        let lo = owner_of([127, 0, 0, 1].into()).expect("the kernel answers");
        assert_eq!(lo.as_deref(), Some("lo"));
        assert_eq!(owner_of([203, 0, 113, 7].into()).expect("answers"), None);
        assert!(rx_queues("lo") >= 1);
        assert_eq!(driver("ctp96-none"), "unknown");
    }
}
