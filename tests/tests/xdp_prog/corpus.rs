//! BPF_PROG_TEST_RUN on the bytes that the library's parser is tested with: the program must decide
//! what [`ctp96::wire::Header::parse`] says.

use super::{PORT, decide, options};
use ctp96::base::limits;
use ctp96::wire::header::VERSION;
use ctp96::wire::{FrameKind, Header, ParseError};
use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd;
use tests::frames;
use tests::fuzz::{Plan, fuzz_with};
use tests::require::Requirement::Xdp;
use tests::require_or_skip;
use tests::xdp::{
    CountingSocket, ethernet, ethertype, expected, ipv4, ipv6, protocol, udp, verdict_of,
};
use xdp_prog::{Loaded, rules};

/// The kernel runs a single-buffer program on a packet of one page at most, less its own needs.
const ONE_BUFFER: usize = 3300;
const ETHERNET_LEN: usize = 14;

/// Both variants of the program, with a socket on queue 0, the only one of these runs.
struct Pair {
    single: Loaded,
    frags: Loaded,
    /// Closed, it would leave the map.
    _socket: CountingSocket,
    /// Whether the kernel can be told how much lies in the first buffer.
    splits: bool,
}

impl Pair {
    fn new() -> Self {
        let socket = CountingSocket::unbound().unwrap();
        let load = |frags| {
            let mut program = Loaded::new(&options(frags)).unwrap_or_else(|e| panic!("{e}"));
            program.set_socket(0, socket.as_fd()).unwrap();
            program
        };
        let (single, frags) = (load(false), load(true));
        let splits = frags.test_run(&[0; 64], Some(32)).is_ok();
        if !splits {
            println!("this kernel runs no packets with a shorter first buffer");
        }
        Self {
            single,
            frags,
            _socket: socket,
            splits,
        }
    }

    fn check(&self, packet: &[u8]) -> &'static str {
        let wanted = expected(packet, &options(true).ports);
        if packet.len() <= ONE_BUFFER {
            assert_eq!(decide(&self.single, packet, None), wanted, "one buffer");
        }
        assert_eq!(decide(&self.frags, packet, None), wanted, "as it comes");
        if self.splits {
            // Between the headers and in the middle of each.
            for first in [14, 16, 20, 34, 42, 50, 60, 100] {
                if first < packet.len() {
                    let got = decide(&self.frags, packet, Some(first as u32));
                    assert_eq!(got, wanted, "{first} of {} bytes first", packet.len());
                }
            }
        }
        wanted
    }
}

/// Frames that break one rule each, with the rule.
fn bad_frames() -> Vec<(ParseError, Vec<u8>)> {
    let good = frames::frame(frames::symbol(3, 8, 7, 128));
    let mut out = Vec::new();
    let mut bad = |error, change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        out.push((error, frame));
    };
    bad(ParseError::Truncated, &|f| f.truncate(23));
    bad(ParseError::Truncated, &|f| f.clear());
    bad(ParseError::Oversized, &|f| {
        f.resize(limits::MAX_FRAME_LEN + 1, 0)
    });
    bad(ParseError::Version, &|f| f[0] = 0x21);
    bad(ParseError::Kind, &|f| f[0] = 0x10);
    bad(ParseError::Kind, &|f| f[0] = 0x17);
    bad(ParseError::Reserved, &|f| f[1] = 8);
    bad(ParseError::Lane, &|f| f[2] = 128);
    bad(ParseError::SymbolIndex, &|f| f[3] = 40);
    bad(ParseError::PacketNumber, &|f| f[15] |= 0x80);
    bad(ParseError::SymbolCount, &|f| f[20] = 0);
    bad(ParseError::SymbolCount, &|f| f[20] = 65);
    bad(ParseError::Class, &|f| f[21] = 96);
    bad(ParseError::SymbolLen, &|f| f[22] = 127);
    bad(ParseError::SymbolLen, &|f| f[22] = 0);
    bad(ParseError::SymbolLen, &|f| (f[1], f[22]) = (4, 64));
    bad(ParseError::Length, &|f| f.push(0));
    bad(ParseError::Length, &|f| f.truncate(100));
    let mut control = frames::frame(Header::control(9, 127, 1, 100));
    control[15] = 0;
    out.push((ParseError::PacketNumber, control));
    let mut control = frames::frame(Header::control(9, 127, 1, 100));
    control[1] = 4;
    out.push((ParseError::Reserved, control));
    for at in [1, 2, 3, 8, 15, 16, 19, 20, 21] {
        let mut offer = frames::frame(Header::handshake(FrameKind::Offer, 0, 400));
        offer[at] = 1;
        out.push((ParseError::Reserved, offer));
    }
    out
}

/// The frame in packets of every shape that the program looks into.
fn shapes(frame: &[u8]) -> Vec<Vec<u8>> {
    use ethertype::{IPV4, IPV6, SERVICE_VLAN, VLAN};
    use protocol::{HOP_BY_HOP, OPTIONS, UDP};
    let datagram = udp(PORT, frame);
    let tags: [&[u16]; 4] = [&[], &[VLAN], &[SERVICE_VLAN, VLAN], &[VLAN, SERVICE_VLAN]];
    let mut out = Vec::new();
    for tags in tags {
        for options in [0, 4, 40] {
            out.push(ethernet(tags, IPV4, &ipv4(1, options, 0, UDP, &datagram)));
        }
        let headers: [&[u8]; 4] = [&[], &[HOP_BY_HOP], &[HOP_BY_HOP, OPTIONS], &[OPTIONS; 4]];
        for headers in headers {
            out.push(ethernet(tags, IPV6, &ipv6(1, 1, headers, UDP, &datagram)));
        }
    }
    // Padding behind the IP packet, and surplus behind the datagram, are not the frame's.
    let mut padded = out[0].clone();
    padded.extend([0xee; 40]);
    out.push(padded);
    let surplus = [&datagram[..], &[0xee; 12]].concat();
    out.push(ethernet(&[], IPV4, &ipv4(1, 0, 0, UDP, &surplus)));
    // Do not fragment: no fragment.
    out.push(ethernet(&[], IPV4, &ipv4(1, 0, 0x4000, UDP, &datagram)));
    out
}

/// Packets that are the kernel's, with the verdict.
fn others(frame: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    use ethertype::{IPV4, IPV6, VLAN};
    use protocol::{FRAGMENT, OPTIONS, ROUTING, TCP, UDP};
    let datagram = udp(PORT, frame);
    let v4 = |body: &[u8]| ethernet(&[], IPV4, body);
    let v6 = |body: &[u8]| ethernet(&[], IPV6, body);
    let plain = ipv4(1, 0, 0, UDP, &datagram);
    let changed = |at: usize, to: u8| {
        let mut ip = plain.clone();
        ip[at] = to;
        v4(&ip)
    };
    vec![
        ("passed", v4(&ipv4(1, 0, 0, UDP, &udp(PORT + 1, frame)))),
        ("passed", v4(&ipv4(1, 0, 0, TCP, &datagram))),
        ("passed", ethernet(&[VLAN; 3], IPV4, &plain)),
        ("passed", ethernet(&[], 0x0806, &plain)),
        ("passed", ethernet(&[], 0x88f7, &plain)),
        ("passed", changed(0, 0x44)),
        ("passed", changed(0, 0x65)),
        ("passed", changed(2, 0xff)),
        ("passed", v4(&ipv4(1, 0, 0, UDP, &datagram[..7]))),
        ("fragment", v4(&ipv4(1, 0, 0x2000, UDP, &datagram))),
        ("fragment", v4(&ipv4(1, 0, 100, UDP, &datagram))),
        ("passed", v4(&ipv4(1, 0, 100, TCP, &datagram))),
        ("fragment", v6(&ipv6(1, 1, &[FRAGMENT], UDP, &datagram))),
        ("passed", v6(&ipv6(1, 1, &[ROUTING], UDP, &datagram))),
        ("passed", v6(&ipv6(1, 1, &[OPTIONS; 5], UDP, &datagram))),
        ("passed", v6(&ipv6(1, 1, &[], TCP, &datagram))),
    ]
}

#[test]
fn the_shared_constants_are_the_librarys() {
    let same = [
        (rules::VERSION, usize::from(VERSION)),
        (rules::KIND_SYMBOL, FrameKind::Symbol as usize),
        (rules::KIND_CONTROL, FrameKind::Control as usize),
        (rules::KIND_OFFER, FrameKind::Offer as usize),
        (rules::HEADER_LEN, limits::HEADER_LEN),
        (rules::TAG_LEN, limits::TAG_LEN),
        (rules::MAX_LANES, limits::MAX_LANES),
        (rules::MAX_DATA_SYMBOLS, limits::MAX_DATA_SYMBOLS),
        (rules::MAX_REPAIR_SYMBOLS, limits::MAX_REPAIR_SYMBOLS),
        (rules::WINDOW_SLOTS, limits::WINDOW_SLOTS),
        (rules::SYMBOL_ALIGN, limits::SYMBOL_ALIGN),
        (rules::MAX_SYMBOL_LEN, limits::MAX_SYMBOL_LEN),
        (rules::MAX_FRAME_LEN, limits::MAX_FRAME_LEN),
        (rules::PART_HEAD_LEN, limits::PART_HEAD_LEN),
    ];
    for (i, (rule, limit)) in same.into_iter().enumerate() {
        assert_eq!(rule, limit as u64, "constant number {i} of this list");
    }
    let kinds: Vec<u8> = (0..16)
        .filter(|n| FrameKind::from_nibble(*n).is_some())
        .collect();
    let shared: Vec<u8> = (rules::KIND_SYMBOL as u8..=rules::KIND_LAST as u8).collect();
    assert_eq!(kinds, shared);
    for kind in kinds.into_iter().filter_map(FrameKind::from_nibble) {
        assert_eq!(kind.is_handshake(), kind as u64 >= rules::KIND_OFFER);
    }
}

#[test]
fn every_shape_and_every_broken_rule_is_decided_as_the_parser_says() {
    require_or_skip!(Xdp);
    let pair = Pair::new();
    for (i, frame) in frames::corpus().iter().enumerate() {
        for (n, packet) in shapes(frame).iter().enumerate() {
            assert_eq!(pair.check(packet), "redirected", "frame {i}, shape {n}");
        }
        for (n, (verdict, packet)) in others(frame).iter().enumerate() {
            assert_eq!(pair.check(packet), *verdict, "frame {i}, packet {n}");
        }
    }
    for (error, frame) in bad_frames() {
        assert_eq!(Header::parse(&frame), Err(error));
        for (n, packet) in shapes(&frame).iter().enumerate() {
            assert_eq!(
                pair.check(packet),
                verdict_of(Err(error)),
                "{error}, shape {n}"
            );
        }
    }
}

#[test]
fn the_librarys_corpus_and_its_mutations_are_decided_as_the_parser_says() {
    require_or_skip!(Xdp);
    let pair = Pair::new();
    let mut shape = 0;
    let mut errors = HashSet::new();
    let plan = Plan::from_env().share(20);
    fuzz_with("frame to XDP", plan, &frames::corpus(), |frame| {
        // One frame in one shape: the next one has the next shape.
        let all = shapes(&frame[..frame.len().min(limits::MAX_FRAME_LEN + 8)]);
        shape = (shape + 1) % all.len();
        let verdict = pair.check(&all[shape]);
        let parsed = Header::parse(frame);
        assert_eq!(verdict, verdict_of(parsed));
        parsed.map_err(|e| errors.insert(e)).is_ok()
    });
    // Truncated, Oversized, Version, Kind, Reserved, Lane, PacketNumber, SymbolCount, SymbolIndex,
    // Class, SymbolLen, Length.
    assert_eq!(errors.len(), 12, "rules that were broken: {errors:?}");
}

#[test]
fn mutated_packets_are_decided_as_the_reference_says() {
    require_or_skip!(Xdp);
    let pair = Pair::new();
    let corpus: Vec<_> = frames::corpus().iter().flat_map(|f| shapes(f)).collect();
    let (corpus, _): (Vec<_>, Vec<_>) = corpus.into_iter().partition(|p| p.len() < 600);
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let plan = Plan::from_env().share(10);
    fuzz_with("packet to XDP", plan, &corpus, |packet| {
        if packet.len() < ETHERNET_LEN {
            return false; // no driver delivers it, and the kernel refuses to run it
        }
        let verdict = pair.check(packet);
        *seen.entry(verdict).or_default() += 1;
        verdict == "redirected"
    });
    println!("{seen:?}");
    for verdict in ["passed", "fragment", "redirected", "foreign", "malformed"] {
        assert!(seen.contains_key(verdict), "no packet was {verdict}");
    }
}
