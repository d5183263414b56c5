//! Route netlink, as far as the loader needs it: what an interface is and which XDP programs are on
//! it, and taking a program off that was attached through netlink.
//!
//! Requests go to the network namespace of the thread that opened the socket.

use socket2::{Domain, Protocol, Socket, Type};
use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
/// RTEXT_FILTER_SKIP_STATS: no counters in the answer.
const SKIP_STATS: u32 = 1 << 3;
const HEADER: usize = 16;
const LINK_HEADER: usize = 16;
/// Twice the kernel's NLMSG_GOODSIZE on 4 KiB pages; an answer about one link fits.
const ANSWER_LEN: usize = 32 << 10;
const NAME_MAX: usize = 15;

/// Where on an interface an XDP program hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver.
    Native,
    /// In the kernel's common receive path.
    Generic,
    /// On the device itself.
    Hardware,
}

impl Hook {
    /// The XDP_FLAGS_*_MODE bit.
    pub(crate) const fn flags(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
            Self::Hardware => 1 << 3,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Hardware => "hardware",
        })
    }
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The kernel's number of the program, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Where it hangs.
    pub hook: Hook,
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub programs: Vec<Attached>,
}

/// Which interface is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which<'a> {
    Name(&'a str),
    Index(u32),
}

/// A socket into the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink(Socket);

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::from(libc::SOCK_RAW),
            Some(Protocol::from(libc::NETLINK_ROUTE)),
        )?;
        // The kernel answers before `send` returns; the limit only guards against waiting for ever.
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self(socket))
    }

    /// Asks for one interface; `None` if there is none of this name or number.
    pub fn link(&self, which: Which<'_>) -> io::Result<Option<Link>> {
        let mut index = 0;
        let mut attributes = Vec::new();
        put(&mut attributes, IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
        match which {
            Which::Name(name) => {
                if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
                    return Ok(None);
                }
                let name = [name.as_bytes(), &[0]].concat();
                put(&mut attributes, IFLA_IFNAME, &name);
            }
            Which::Index(n) => index = n,
        }
        match self.exchange(RTM_GETLINK, 0, index, &attributes) {
            Ok(Some(link)) => Ok(Some(link)),
            Ok(None) => Err(io::ErrorKind::InvalidData.into()),
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes the program off a hook, if it was put there through netlink.
    pub fn remove(&self, index: u32, hook: Hook) -> io::Result<()> {
        let mut xdp = Vec::new();
        put(&mut xdp, IFLA_XDP_FD, &(-1i32).to_ne_bytes());
        put(&mut xdp, IFLA_XDP_FLAGS, &hook.flags().to_ne_bytes());
        let mut attributes = Vec::new();
        put(&mut attributes, IFLA_XDP | NLA_F_NESTED, &xdp);
        self.exchange(RTM_SETLINK, NLM_F_ACK, index, &attributes)
            .map(drop)
    }

    fn exchange(
        &self,
        kind: u16,
        flags: u16,
        index: u32,
        attributes: &[u8],
    ) -> io::Result<Option<Link>> {
        self.0.send(&request(kind, flags, index, attributes))?;
        let mut answer = vec![0; ANSWER_LEN];
        let n = (&self.0).read(&mut answer)?;
        parse(answer.get(..n).unwrap_or_default())
    }
}

fn request(kind: u16, flags: u16, index: u32, attributes: &[u8]) -> Vec<u8> {
    let len = HEADER + LINK_HEADER + attributes.len();
    let mut out = Vec::with_capacity(len);
    out.extend((len as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    out.extend(1u32.to_ne_bytes()); // sequence number
    out.extend(0u32.to_ne_bytes()); // our port: the kernel fills it in
    out.extend([0; 4]); // family, padding, device type
    out.extend(index.to_ne_bytes());
    out.extend([0; 8]); // device flags, and which of them change
    out.extend(attributes);
    out
}

/// Attributes are 4-byte aligned.
fn put(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend((value.len() as u16 + 4).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`; ends at the first that is not whole.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !NLA_F_NESTED;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn parse(answer: &[u8]) -> io::Result<Option<Link>> {
    let broken = || io::Error::from(io::ErrorKind::InvalidData);
    let len = u32_at(answer, 0).ok_or_else(broken)? as usize;
    let body = answer.get(HEADER..len).ok_or_else(broken)?;
    match u16_at(answer, 4) {
        Some(NLMSG_ERROR) => {
            let code = u32_at(body, 0).ok_or_else(broken)?.cast_signed();
            match code {
                0 => Ok(None),
                _ => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            }
        }
        Some(RTM_NEWLINK) => parse_link(body).map(Some).ok_or_else(broken),
        _ => Err(broken()),
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let mut link = Link {
        index: u32_at(body, 4)?,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(LINK_HEADER..)?) {
        match kind {
            IFLA_IFNAME => {
                let name = value.split(|&b| b == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_XDP => link.programs = parse_xdp(value),
            _ => {}
        }
    }
    Some(link)
}

fn parse_xdp(bytes: &[u8]) -> Vec<Attached> {
    let mut programs = Vec::new();
    let (mut only, mut only_hook) = (None, None);
    for (kind, value) in attributes(bytes) {
        let mut found = |hook| {
            if let Some(id) = u32_at(value, 0) {
                programs.push(Attached { id, hook });
            }
        };
        match kind {
            IFLA_XDP_DRV_PROG_ID => found(Hook::Native),
            IFLA_XDP_SKB_PROG_ID => found(Hook::Generic),
            IFLA_XDP_HW_PROG_ID => found(Hook::Hardware),
            IFLA_XDP_PROG_ID => only = u32_at(value, 0),
            IFLA_XDP_ATTACHED => {
                only_hook = match value.first() {
                    Some(1) => Some(Hook::Native),
                    Some(2) => Some(Hook::Generic),
                    Some(3) => Some(Hook::Hardware),
                    _ => None,
                }
            }
            _ => {}
        }
    }
    // Kernels that name no program by its hook name the only one and where it is.
    if let (true, Some(id), Some(hook)) = (programs.is_empty(), only, only_hook) {
        programs.push(Attached { id, hook });
    }
    programs
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let b = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found_by_name_and_number() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link(Which::Name("lo")).unwrap().expect("lo");
        assert_eq!((lo.name.as_str(), lo.programs.len()), ("lo", 0));
        assert!(lo.index > 0 && lo.mtu > 0);
        assert_eq!(netlink.link(Which::Index(lo.index)).unwrap(), Some(lo));
    }

    #[test]
    fn an_interface_that_is_not_there_is_none() {
        let netlink = Netlink::open().unwrap();
        for name in [
            "",
            "ctp96-none",
            "a-name-that-is-too-long-for-linux",
            "a\0b",
        ] {
            assert_eq!(netlink.link(Which::Name(name)).unwrap(), None, "{name:?}");
        }
        assert_eq!(netlink.link(Which::Index(u32::MAX >> 1)).unwrap(), None);
    }

    #[test]
    fn answers_are_read_attribute_by_attribute() {
        let mut xdp = Vec::new();
        put(&mut xdp, IFLA_XDP_ATTACHED, &[4]);
        put(&mut xdp, IFLA_XDP_DRV_PROG_ID, &7u32.to_ne_bytes());
        put(&mut xdp, IFLA_XDP_HW_PROG_ID, &9u32.to_ne_bytes());
        let mut all = Vec::new();
        put(&mut all, IFLA_IFNAME, b"eth7\0");
        put(&mut all, IFLA_XDP | NLA_F_NESTED, &xdp);
        put(&mut all, IFLA_MTU, &9000u32.to_ne_bytes());
        let message = request(RTM_NEWLINK, 0, 3, &all);
        let link = parse(&message).unwrap().unwrap();
        assert_eq!(
            (link.index, link.mtu, link.name.as_str()),
            (3, 9000, "eth7")
        );
        let hooks: Vec<_> = link.programs.iter().map(|p| (p.id, p.hook)).collect();
        assert_eq!(hooks, [(7, Hook::Native), (9, Hook::Hardware)]);
        for cut in 0..message.len() {
            let _ = parse(&message[..cut]);
            let mut bad = message.clone();
            bad[cut] ^= 0xff;
            let _ = parse(&bad);
        }
    }

    #[test]
    fn an_old_kernel_names_the_only_program_with_its_mode() {
        let mut xdp = Vec::new();
        put(&mut xdp, IFLA_XDP_ATTACHED, &[2]);
        put(&mut xdp, IFLA_XDP_PROG_ID, &5u32.to_ne_bytes());
        let generic = Attached {
            id: 5,
            hook: Hook::Generic,
        };
        assert_eq!(parse_xdp(&xdp), [generic]);
    }
}
