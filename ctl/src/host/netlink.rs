//! Netlink messages: links (rtnetlink), and XDP features, queues and NAPI instances (the generic
//! family `netdev`, Linux 6.3 and later).

use serde::{Deserialize, Serialize};

/// Message type of an error or acknowledgement.
pub const ERROR: u16 = 2;
/// Message type of the end of a list.
pub const DONE: u16 = 3;

const REQUEST: u16 = 1;
const MULTI: u16 = 2;
const DUMP: u16 = 0x300;
const GETLINK: u16 = 18;
const GENL_CTRL: u16 = 16;

/// What the header of a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Type.
    pub kind: u16,
    /// More follow.
    pub multipart: bool,
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

/// A number of 1, 2, 4 or 8 bytes, as attributes of the type `uint` have.
fn uint(b: &[u8]) -> Option<u64> {
    Some(match b.len() {
        1 => b[0].into(),
        2 => u16_at(b, 0)?.into(),
        4 => u32_at(b, 0)?.into(),
        8 => u64::from_ne_bytes(b.try_into().ok()?),
        _ => return None,
    })
}

fn align(n: usize) -> usize {
    (n + 3) & !3
}

/// The messages of a datagram; what is cut off or malformed ends the list.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let len = u32_at(rest, 0)? as usize;
        let header = Header {
            kind: u16_at(rest, 4)?,
            multipart: u16_at(rest, 6)? & MULTI != 0,
        };
        let payload = rest.get(16..len)?;
        rest = rest.get(align(len)..).unwrap_or_default();
        Some((header, payload))
    })
}

/// The error number in the payload of an [`ERROR`]; 0 is an acknowledgement.
pub fn errno(payload: &[u8]) -> i32 {
    u32_at(payload, 0).map_or(libc::EBADMSG, |n| (n as i32).wrapping_neg())
}

/// The attributes in `bytes`: type without its flags, payload.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let payload = rest.get(4..len)?;
        rest = rest.get(align(len)..).unwrap_or_default();
        Some((kind, payload))
    })
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut m = Vec::with_capacity(16 + body.len());
    m.extend((16 + body.len() as u32).to_ne_bytes());
    m.extend(kind.to_ne_bytes());
    m.extend(flags.to_ne_bytes());
    m.extend([0; 8]);
    m.extend(body);
    m
}

fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut a = Vec::new();
    a.extend((4 + payload.len() as u16).to_ne_bytes());
    a.extend(kind.to_ne_bytes());
    a.extend(payload);
    a.resize(align(a.len()), 0);
    a
}

fn generic(family: u16, command: u8, dump: bool, attributes: &[u8]) -> Vec<u8> {
    let body = [&[command, 1, 0, 0], attributes].concat();
    message(family, REQUEST | if dump { DUMP } else { 0 }, &body)
}

/// Asks for every link.
pub fn links_request() -> Vec<u8> {
    message(GETLINK, REQUEST | DUMP, &[0; 16])
}

/// Asks for the number of a generic family.
pub fn family_request(name: &str) -> Vec<u8> {
    let name = attribute(2, &[name.as_bytes(), &[0]].concat());
    generic(GENL_CTRL, 3, false, &name)
}

/// Asks for the XDP features of an interface.
pub fn device_request(family: u16, ifindex: u32) -> Vec<u8> {
    generic(family, 1, false, &attribute(1, &ifindex.to_ne_bytes()))
}

/// Asks for the queues of an interface.
pub fn queues_request(family: u16, ifindex: u32) -> Vec<u8> {
    generic(family, 10, true, &attribute(2, &ifindex.to_ne_bytes()))
}

/// Asks for the NAPI instances of an interface.
pub fn napis_request(family: u16, ifindex: u32) -> Vec<u8> {
    generic(family, 11, true, &attribute(1, &ifindex.to_ne_bytes()))
}

/// The number of the family in the answer to [`family_request`].
pub fn parse_family(payload: &[u8]) -> Option<u16> {
    let (_, id) = attributes(payload.get(4..)?).find(|(kind, _)| *kind == 1)?;
    u16_at(id, 0)
}

/// A link, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// IFF_UP.
    pub up: bool,
    /// IFF_RUNNING: it has a carrier.
    pub running: bool,
    /// IFF_LOOPBACK.
    pub loopback: bool,
    /// MTU.
    pub mtu: u32,
    /// Hardware address.
    pub address: String,
    /// Kind of a virtual link, such as `veth`.
    pub kind: Option<String>,
    /// XDP program on it.
    pub xdp: Option<Attached>,
}

/// An XDP program that is on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// 1 native, 2 generic, 3 in the NIC, 4 several.
    pub mode: u8,
    /// The program's number, where there is one program.
    pub program: Option<u32>,
}

/// A link from the payload of its message.
pub fn parse_link(payload: &[u8]) -> Option<Link> {
    let flags = u32_at(payload, 8)?;
    let mut link = Link {
        index: u32_at(payload, 4)?,
        up: flags & 1 != 0,
        loopback: flags & 8 != 0,
        running: flags & 0x40 != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            1 => {
                let hex: Vec<_> = value.iter().map(|b| format!("{b:02x}")).collect();
                link.address = hex.join(":");
            }
            3 => link.name = string(value),
            4 => link.mtu = u32_at(value, 0)?,
            18 => {
                link.kind = attributes(value)
                    .find(|(kind, _)| *kind == 1)
                    .map(|(_, v)| string(v));
            }
            43 => link.xdp = parse_attached(value),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_attached(nest: &[u8]) -> Option<Attached> {
    let mode = attributes(nest).find(|(kind, _)| *kind == 2)?.1;
    let mode = *mode.first().filter(|m| **m != 0)?;
    let program = attributes(nest)
        .find(|(kind, _)| *kind == 4)
        .and_then(|(_, v)| u32_at(v, 0));
    Some(Attached { mode, program })
}

fn string(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// What a driver does for XDP and AF_XDP, as the kernel reports it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// Verdicts PASS, DROP, ABORTED and TX: native XDP.
    pub native: bool,
    /// Verdict REDIRECT, which AF_XDP needs in native mode.
    pub redirect: bool,
    /// AF_XDP without copying.
    pub zero_copy: bool,
    /// Frames in several buffers on receive.
    pub multi_buffer: bool,
    /// Most buffers of a zero-copy frame; 1 is no multi-buffer.
    pub zero_copy_segments: u32,
    /// AF_XDP transmit metadata: the NIC computes checksums.
    pub tx_checksum: bool,
    /// AF_XDP transmit metadata: timestamps.
    pub tx_timestamp: bool,
    /// AF_XDP transmit metadata: launch time.
    pub tx_launch_time: bool,
    /// XDP receive metadata: timestamp.
    pub rx_timestamp: bool,
    /// XDP receive metadata: hash.
    pub rx_hash: bool,
}

/// The answer to [`device_request`].
pub fn parse_device(payload: &[u8]) -> Option<Xdp> {
    let mut xdp = Xdp::default();
    for (kind, value) in attributes(payload.get(4..)?) {
        let has = |bit: u64| uint(value).is_some_and(|v| v & bit != 0);
        match kind {
            3 => {
                xdp.native = has(1);
                xdp.redirect = has(2);
                xdp.zero_copy = has(8);
                xdp.multi_buffer = has(32);
            }
            4 => xdp.zero_copy_segments = u32_at(value, 0)?,
            5 => {
                xdp.rx_timestamp = has(1);
                xdp.rx_hash = has(2);
            }
            6 => {
                xdp.tx_timestamp = has(1);
                xdp.tx_checksum = has(2);
                xdp.tx_launch_time = has(4);
            }
            _ => {}
        }
    }
    Some(xdp)
}

/// A queue of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Number.
    pub id: u32,
    /// Receives; else it sends.
    pub rx: bool,
    /// The NAPI instance that serves it.
    pub napi: Option<u32>,
}

/// One answer to [`queues_request`].
pub fn parse_queue(payload: &[u8]) -> Option<Queue> {
    let (mut id, mut rx, mut napi) = (None, None, None);
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            1 => id = u32_at(value, 0),
            3 => rx = u32_at(value, 0).map(|t| t == 0),
            4 => napi = u32_at(value, 0),
            _ => {}
        }
    }
    Some(Queue {
        id: id?,
        rx: rx?,
        napi,
    })
}

/// One answer to [`napis_request`]: the instance and its interrupt.
pub fn parse_napi(payload: &[u8]) -> Option<(u32, u32)> {
    let (mut id, mut irq) = (None, None);
    for (kind, value) in attributes(payload.get(4..)?) {
        match kind {
            2 => id = u32_at(value, 0),
            3 => irq = u32_at(value, 0),
            _ => {}
        }
    }
    Some((id?, irq?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr_u32(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_ne_bytes())
    }

    #[test]
    fn a_link_is_read_from_its_attributes() {
        let mut body = vec![0; 4];
        body.extend(7_u32.to_ne_bytes());
        body.extend((1_u32 | 0x40).to_ne_bytes());
        body.extend([0; 4]);
        body.extend(attribute(1, &[2, 0, 0, 0, 0, 0xab]));
        body.extend(attribute(3, b"eth1\0"));
        body.extend(attr_u32(4, 9000));
        body.extend(attribute(18 | 0x8000, &attribute(1, b"veth\0")));
        let xdp = [attribute(2, &[1]), attr_u32(4, 42)].concat();
        body.extend(attribute(43 | 0x8000, &xdp));
        let link = parse_link(&body).expect("complete");
        assert_eq!((link.index, link.mtu), (7, 9000));
        assert!(link.up && link.running && !link.loopback);
        assert_eq!(link.kind.as_deref(), Some("veth"));
        assert_eq!(link.address, "02:00:00:00:00:ab");
        let attached = Attached {
            mode: 1,
            program: Some(42),
        };
        assert_eq!(link.xdp, Some(attached));
        // Mode 0 is "no program"; no name is no link.
        assert_eq!(parse_attached(&attribute(2, &[0])), None);
        assert_eq!(parse_link(&body[..16]), None);
    }

    #[test]
    fn features_queues_and_interrupts() {
        let head = [0; 4];
        let dev = [
            &head[..],
            &attribute(3, &(1_u64 | 2 | 8 | 32).to_ne_bytes()),
            &attr_u32(4, 17),
            &attribute(5, &2_u64.to_ne_bytes()),
            &attribute(6, &2_u64.to_ne_bytes()),
        ]
        .concat();
        let xdp = parse_device(&dev).expect("complete");
        assert!(xdp.native && xdp.redirect && xdp.zero_copy && xdp.multi_buffer);
        assert!(xdp.tx_checksum && !xdp.tx_timestamp && xdp.rx_hash && !xdp.rx_timestamp);
        assert_eq!(xdp.zero_copy_segments, 17);
        let queue = [&head[..], &attr_u32(1, 3), &attr_u32(3, 1), &attr_u32(4, 9)].concat();
        let want = Queue {
            id: 3,
            rx: false,
            napi: Some(9),
        };
        assert_eq!(parse_queue(&queue), Some(want));
        let napi = [&head[..], &attr_u32(2, 9), &attr_u32(3, 38)].concat();
        assert_eq!(parse_napi(&napi), Some((9, 38)));
        assert_eq!(parse_napi(&napi[..12]), None, "no interrupt");
    }

    #[test]
    fn messages_are_cut_apart_and_damage_ends_them() {
        let two = [message(20, MULTI, &[1, 2, 3, 4]), message(DONE, 0, &[0; 4])].concat();
        let found: Vec<_> = messages(&two).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].0.multipart && found[0].1 == [1, 2, 3, 4]);
        assert_eq!(found[1].0.kind, DONE);
        assert_eq!(messages(&two[..18]).count(), 0);
        let mut bad = two.clone();
        bad[0] = 3;
        assert_eq!(messages(&bad).count(), 0, "shorter than its header");
        assert_eq!(errno(&(-95_i32).to_ne_bytes()), 95);
        assert_eq!(errno(&[]), libc::EBADMSG);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
    }
}
