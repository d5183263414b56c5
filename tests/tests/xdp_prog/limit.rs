//! The ration of handshake frames, by source.

use super::{PORT, decide, options};
use ctp96::wire::{FrameKind, Header};
use std::time::{Duration, Instant};
use tests::frames::{frame, symbol};
use tests::require::Requirement::Xdp;
use tests::require_or_skip;
use tests::xdp::{ethernet, ethertype, ipv4, ipv6, protocol, udp};
use xdp_prog::{Loaded, Options};

fn program(handshakes_per_second: u32) -> Loaded {
    let options = Options {
        handshakes_per_second,
        ..options(true)
    };
    Loaded::new(&options).unwrap_or_else(|e| panic!("{e}"))
}

fn v4(source: u8, header: Header) -> Vec<u8> {
    let datagram = udp(PORT, &frame(header));
    ethernet(
        &[],
        ethertype::IPV4,
        &ipv4(source, 0, 0, protocol::UDP, &datagram),
    )
}

fn v6(network: u8, host: u8, header: Header) -> Vec<u8> {
    let datagram = udp(PORT, &frame(header));
    let packet = ipv6(network, host, &[], protocol::UDP, &datagram);
    ethernet(&[], ethertype::IPV6, &packet)
}

fn offer() -> Header {
    Header::handshake(FrameKind::Offer, 0, 400)
}

fn passed(program: &Loaded, packet: &[u8], times: u32) -> u32 {
    let results = (0..times).map(|_| decide(program, packet, None));
    // There is no socket, so what is good goes to the kernel.
    let good = results.filter(|v| match *v {
        "no_socket" => true,
        "rate_limited" => false,
        other => panic!("{other}"),
    });
    good.count() as u32
}

#[test]
fn each_source_has_a_ration_of_its_own() {
    require_or_skip!(Xdp);
    let program = program(5);
    // What comes back while the packets run is in proportion to the time, however slow the machine.
    let start = Instant::now();
    let refilled = |start: Instant| start.elapsed().as_millis() as u32 / 200 + 1;
    let first = passed(&program, &v4(1, offer()), 100);
    assert!(first >= 5 && first <= 5 + refilled(start), "{first} of 100");
    // Another source, another ration; an IPv6 source with the same bits is a third.
    assert!(passed(&program, &v4(2, offer()), 5) == 5);
    assert!(passed(&program, &v6(1, 1, offer()), 5) == 5);
    assert!(passed(&program, &v6(2, 1, offer()), 5) == 5);
    // Another host of the first IPv6 network shares its ration, which is used up.
    let start_v6 = Instant::now();
    let shared = passed(&program, &v6(1, 9, offer()), 20);
    assert!(shared <= refilled(start.min(start_v6)), "{shared} of 20");
}

#[test]
fn every_kind_of_handshake_frame_counts_and_sealed_frames_do_not() {
    require_or_skip!(Xdp);
    let program = program(1);
    let start = Instant::now();
    let kinds = [
        FrameKind::Offer,
        FrameKind::Counter,
        FrameKind::Accept,
        FrameKind::Cookie,
    ];
    let good: u32 = kinds
        .map(|kind| passed(&program, &v4(1, Header::handshake(kind, 7, 64)), 10))
        .iter()
        .sum();
    let most = 2 + start.elapsed().as_secs() as u32;
    assert!(good >= 1 && good <= most, "{good} of 40 in {most} s");
    assert_eq!(
        passed(&program, &v4(1, Header::control(9, 1, 1, 100)), 50),
        50
    );
    assert_eq!(passed(&program, &v4(1, symbol(0, 8, 7, 128)), 50), 50);
}

#[test]
fn a_ration_comes_back_with_time_and_zero_means_no_limit() {
    require_or_skip!(Xdp);
    let limited = program(20);
    let packet = v4(1, offer());
    while passed(&limited, &packet, 1) == 1 {}
    std::thread::sleep(Duration::from_millis(120));
    // 120 ms at 20 a second are two frames and a bit.
    assert_eq!(passed(&limited, &packet, 2), 2);
    assert_eq!(passed(&program(0), &packet, 2000), 2000);
}

#[test]
fn more_sources_than_the_table_holds_still_get_through_and_are_limited() {
    require_or_skip!(Xdp);
    let program = program(1);
    // 65,536 networks and more: the table forgets the oldest and takes the new.
    for network in 0..70_000u32 {
        let mut packet = v6(0, 1, Header::handshake(FrameKind::Offer, 0, 0));
        packet[22..26].copy_from_slice(&network.to_be_bytes());
        assert_eq!(program.test_run(&packet, None).unwrap(), super::PASS);
    }
    let verdicts = program.verdicts().unwrap();
    assert_eq!((verdicts.no_socket, verdicts.rate_limited), (70_000, 0));
    assert!(passed(&program, &v4(1, offer()), 50) < 50);
}
