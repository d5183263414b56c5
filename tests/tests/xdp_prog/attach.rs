//! Attaching to real interfaces: a veth pair between two namespaces.

use super::{PORT, options};
use ctp96::wire::Header;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tests::frames::{frame, symbol};
use tests::lab::{Host, LINK, Lab, LabConfig, Offloads};
use tests::require::Requirement::{BpfLoss, Netns, Xdp};
use tests::xdp::CountingSocket;
use tests::{loss, require_or_skip};
use xdp_prog::{AttachError, AttachMode, Hook, Options, Program};

/// Tells a copy of this test program which interface to attach to.
const CHILD: &str = "CTP96_XDP_CHILD";

fn lab(mtu: u32) -> Lab {
    let offloads = Offloads::Whole;
    Lab::new(&LabConfig { mtu, offloads }).expect("the requirement was probed")
}

fn with_mode(mode: AttachMode) -> Options {
    Options {
        mode,
        ..options(false)
    }
}

fn try_attach(host: &Host, options: &Options) -> Result<Program, AttachError> {
    host.run(|| Program::attach(LINK, options)).unwrap()
}

fn attach(host: &Host, options: &Options) -> Program {
    try_attach(host, options).unwrap_or_else(|e| panic!("{e}"))
}

/// What `ip` says about the interface, and `ethtool` about its features.
fn state(host: &Host) -> String {
    let link = host.ip(&["-d", "link", "show", LINK]).unwrap();
    let features = host.command("ethtool").args(["-k", LINK]).output();
    // Not everywhere; its absence hides no difference that `ip` shows.
    let features = features.map(|o| o.stdout).unwrap_or_default();
    format!("{link}{}", String::from_utf8_lossy(&features))
}

/// The number of the XDP program that `ip` shows on the interface.
fn program_id(host: &Host) -> Option<u64> {
    let text = host.ip(&["-j", "-d", "link", "show", LINK]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json[0]["xdp"]["prog"]["id"].as_u64()
}

fn ping(lab: &Lab, to: IpAddr) {
    let output = lab
        .right
        .command("ping")
        .args(["-c", "2", "-i", "0.05", "-W", "2", &to.to_string()])
        .output();
    // Without ping there is UDP on another port.
    let Ok(output) = output else {
        return other_port(lab, to);
    };
    assert!(output.status.success(), "ping {to}: {output:?}");
}

fn other_port(lab: &Lab, to: IpAddr) {
    let receiver = socket(&lab.left, to, PORT + 1);
    let sender = socket(&lab.right, lab.right.addrs()[usize::from(to.is_ipv6())], 0);
    assert!(arrives(&sender, &receiver, b"other"));
}

fn socket(host: &Host, addr: IpAddr, port: u16) -> UdpSocket {
    let socket = host
        .run(|| UdpSocket::bind(SocketAddr::new(addr, port)))
        .unwrap()
        .unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    socket
}

fn arrives(from: &UdpSocket, to: &UdpSocket, bytes: &[u8]) -> bool {
    from.send_to(bytes, to.local_addr().unwrap()).unwrap();
    let mut got = [0; 10_000];
    matches!(to.recv(&mut got), Ok(n) if &got[..n] == bytes)
}

#[test]
fn attaching_and_dropping_leaves_the_interface_as_it_was() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let before = (state(&lab.left), state(&lab.right));
    for (mode, hook) in [
        (AttachMode::Native, AttachMode::Native),
        (AttachMode::Generic, AttachMode::Generic),
        (AttachMode::Auto, AttachMode::Native),
    ] {
        for frags in [false, true] {
            let options = Options {
                frags,
                ..with_mode(mode)
            };
            let program = attach(&lab.left, &options);
            assert_eq!((program.mode(), program.mode_reason()), (hook, None));
            assert_eq!(program_id(&lab.left), program.id().map(u64::from));
            assert!(program.is_attached());
            assert_eq!(program.mtu(), 1500);
            let shown = state(&lab.left);
            let word = match hook {
                AttachMode::Generic => " xdpgeneric ",
                _ => " xdp ",
            };
            assert!(shown.contains(word), "{shown}");
            for to in lab.left.addrs() {
                ping(&lab, to);
            }
            drop(program);
            assert_eq!((state(&lab.left), state(&lab.right)), before);
        }
    }
}

/// Runs in a copy of this program that a test started: attaches, says so, and waits to be killed.
#[test]
fn child_process() {
    let Ok(interface) = std::env::var(CHILD) else {
        return;
    };
    let mut out = std::io::stdout();
    match Program::attach(&interface, &options(false)) {
        Ok(program) => {
            writeln!(out, "\nattached {:?}", program.mode()).unwrap();
            let _ = std::io::stdin().lines().next();
        }
        Err(e) => writeln!(out, "\nrefused {e}").unwrap(),
    }
}

/// Starts a copy of this program on the host, `with` another program in front of it, and returns it
/// with what it said.
fn child(host: &Host, with: &[&str]) -> (Child, String) {
    let exe = std::env::current_exe().unwrap();
    let mut all: Vec<&str> = with.to_vec();
    all.extend([
        exe.to_str().unwrap(),
        "attach::child_process",
        "--exact",
        "--nocapture",
    ]);
    let mut child = spawn(host.command(all[0]).args(&all[1..]));
    let out = BufReader::new(child.stdout.take().unwrap());
    let said = out
        .lines()
        .map_while(Result::ok)
        .find(|l| l.starts_with("attached") || l.starts_with("refused"));
    (child, said.expect("the child says how it went"))
}

fn spawn(command: &mut Command) -> Child {
    command
        .env(CHILD, LINK)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_process_leaves_no_program_behind() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let before = state(&lab.left);
    let (mut child, said) = child(&lab.left, &[]);
    assert_eq!(said, "attached Native");
    assert!(program_id(&lab.left).is_some());
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    assert_eq!(state(&lab.left), before);
}

#[test]
fn a_process_needs_two_capabilities_and_is_told_which_it_lacks() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let all_but = |caps: &str| vec!["setpriv".to_owned(), format!("--bounding-set={caps}")];
    if Command::new("setpriv").arg("--version").output().is_err() {
        return tests::require::skip("there is no setpriv here");
    }
    for (caps, wanted) in [
        ("-all,+bpf,+net_admin", "attached Native"),
        ("-all,+net_admin", "lacks CAP_BPF."),
        ("-all,+bpf", "lacks CAP_NET_ADMIN."),
        ("-all", "lacks CAP_BPF and CAP_NET_ADMIN."),
    ] {
        let with = all_but(caps);
        let with: Vec<&str> = with.iter().map(String::as_str).collect();
        let (mut child, said) = child(&lab.left, &with);
        assert!(said.contains(wanted), "{caps}: {said}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(program_id(&lab.left), None);
}

#[test]
fn a_foreign_program_on_a_link_stays_unless_it_is_to_be_displaced() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let first = attach(&lab.left, &with_mode(mode));
        refused_then_displaced(&lab, &first.id().unwrap(), mode);
        assert!(!first.is_attached());
    }
}

#[test]
fn a_foreign_program_of_another_tool_stays_unless_it_is_to_be_displaced() {
    require_or_skip!(Netns, Xdp, BpfLoss);
    let lab = lab(1500);
    let source = "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n\
        SEC(\"xdp\") int other(struct xdp_md *c) { return XDP_PASS; }\n\
        char _license[] SEC(\"license\") = \"GPL\";\n";
    let object = loss::compile_bpf("other", source, &[]).unwrap();
    let object = object.to_str().unwrap();
    for (keyword, mode) in [
        ("xdpdrv", AttachMode::Native),
        ("xdpgeneric", AttachMode::Generic),
    ] {
        lab.left
            .ip(&[
                "link", "set", "dev", LINK, keyword, "obj", object, "sec", "xdp",
            ])
            .unwrap();
        let id = program_id(&lab.left).expect("ip attached it") as u32;
        refused_then_displaced(&lab, &id, mode);
    }
}

/// Program `id` is on the left interface in `mode`. Leaves the interface without a program.
fn refused_then_displaced(lab: &Lab, id: &u32, mode: AttachMode) {
    let other_mode = match mode {
        AttachMode::Generic => AttachMode::Native,
        _ => AttachMode::Generic,
    };
    for try_mode in [AttachMode::Auto, mode, other_mode] {
        let error = try_attach(&lab.left, &with_mode(try_mode)).unwrap_err();
        let text = error.to_string();
        let AttachError::Foreign {
            id: shown, hook, ..
        } = error
        else {
            panic!("{text}");
        };
        assert_eq!(shown, *id);
        assert_eq!(hook == Hook::Generic, mode == AttachMode::Generic);
        assert!(text.contains("replace_foreign") && text.contains(&format!("id {id} (")));
        assert_eq!(program_id(&lab.left), Some(u64::from(*id)), "it stayed");
    }
    let options = Options {
        replace_foreign: true,
        ..with_mode(AttachMode::Auto)
    };
    let program = attach(&lab.left, &options);
    assert_eq!(program.mode(), AttachMode::Native);
    assert_ne!(program.id(), Some(*id));
    drop(program);
    assert_eq!(program_id(&lab.left), None);
}

#[test]
fn two_interfaces_count_apart_and_each_packet_once() {
    require_or_skip!(Netns, Xdp);
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let lab = lab(1500);
        let left = attach(&lab.left, &with_mode(mode));
        let right_options = Options {
            ports: vec![PORT + 10],
            ..with_mode(mode)
        };
        let right = attach(&lab.right, &right_options);
        for (i, to) in lab.left.addrs().into_iter().enumerate() {
            ping(&lab, to);
            let before = (left.verdicts().unwrap(), right.verdicts().unwrap());
            let receiver = socket(&lab.left, to, PORT);
            let sender = socket(&lab.right, lab.right.addrs()[i], 0);
            let good = [
                frame(symbol(3, 8, 7, 1344)),
                frame(Header::control(9, 1, 1, 100)),
            ];
            for _ in 0..5 {
                for bad in [&b"hello"[..], &[0; 40], &[0x41; 100]] {
                    let to = receiver.local_addr().unwrap();
                    sender.send_to(bad, to).unwrap();
                }
                // Good frames have no AF_XDP socket here, so the kernel's socket gets them, and
                // nothing that was sent before them.
                for good in &good {
                    assert!(arrives(&sender, &receiver, good), "{mode} {to}");
                }
            }
            let after = (left.verdicts().unwrap(), right.verdicts().unwrap());
            assert_eq!(after.0.no_socket - before.0.no_socket, 10);
            assert_eq!(after.0.malformed - before.0.malformed, 5, "hello");
            assert_eq!(after.0.foreign - before.0.foreign, 10, "versions 0 and 4");
            assert_eq!(after.0.redirected, 0);
            // The right one saw no frame of its port, and lets everything pass.
            assert_eq!(after.1.no_socket + after.1.malformed + after.1.foreign, 0);
            assert!(after.1.passed >= before.1.passed);
        }
        drop(right);
        assert!(left.is_attached() && program_id(&lab.right).is_none());
    }
}

#[test]
fn good_frames_reach_the_socket_of_their_queue_and_others_the_kernel() {
    require_or_skip!(Netns, Xdp);
    // The peer has no XDP program: receiving needs nothing there.
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let lab = lab(1500);
        let mut program = attach(&lab.left, &with_mode(mode));
        let index = program.ifindex();
        let xdp = lab.left.run(|| CountingSocket::bound(index, 0));
        let xdp = xdp.unwrap().unwrap();
        program.set_socket(0, xdp.as_fd()).unwrap();
        let good = frame(symbol(3, 8, 7, 1344));
        for (i, to) in lab.left.addrs().into_iter().enumerate() {
            ping(&lab, to);
            let before = xdp.frames().unwrap();
            let kernel = socket(&lab.left, to, PORT);
            let sender = socket(&lab.right, lab.right.addrs()[i], 0);
            for _ in 0..20 {
                sender.send_to(&good, kernel.local_addr().unwrap()).unwrap();
            }
            // Behind the others on the wire, and not for the socket: tells that they are through.
            other_port(&lab, to);
            assert_eq!(xdp.frames().unwrap() - before, 20, "{mode} {to}");
            assert_eq!(program.verdicts().unwrap().redirected, 20 * (i as u64 + 1));
            program.clear_socket(0);
            assert!(arrives(&sender, &kernel, &good), "{mode} {to}");
            program.set_socket(0, xdp.as_fd()).unwrap();
        }
        // A socket that is closed, by whatever end of its owner, leaves the queue to the kernel.
        drop(xdp);
        let to = lab.left.v4().into();
        let kernel = socket(&lab.left, to, PORT);
        let sender = socket(&lab.right, lab.right.v4().into(), 0);
        assert!(arrives(&sender, &kernel, &good), "{mode}");
        let verdicts = program.verdicts().unwrap();
        assert_eq!((verdicts.redirected, verdicts.no_socket), (40, 3));
        assert!(program.set_socket(4000, std::io::stdin().as_fd()).is_err());
        assert!(program.set_socket(0, std::io::stdin().as_fd()).is_err());
    }
}

#[test]
fn only_named_addresses_are_the_daemons() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let options = Options {
        addresses: vec![lab.left.v4().into()],
        ..options(false)
    };
    let program = attach(&lab.left, &options);
    for (i, to) in lab.left.addrs().into_iter().enumerate() {
        let receiver = socket(&lab.left, to, PORT);
        let sender = socket(&lab.right, lab.right.addrs()[i], 0);
        assert!(arrives(&sender, &receiver, &frame(symbol(3, 8, 7, 64))));
    }
    let verdicts = program.verdicts().unwrap();
    // The IPv6 address was not named: its frame was passed as anybody's, and so was ARP and the like.
    assert_eq!(verdicts.no_socket, 1, "{verdicts:?}");
    assert!(verdicts.passed >= 1, "{verdicts:?}");
}

#[test]
fn a_large_mtu_needs_frags_in_native_mode_and_auto_says_why_it_is_generic() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(9000);
    let error = try_attach(&lab.left, &with_mode(AttachMode::Native)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, AttachError::Refused { .. }), "{text}");
    assert!(
        text.contains("MTU 9000") && text.contains("frags"),
        "{text}"
    );
    let program = attach(&lab.left, &with_mode(AttachMode::Auto));
    assert_eq!(program.mode(), AttachMode::Generic);
    let reason = program.mode_reason().expect("native mode was refused");
    assert!(
        reason.contains("native") && reason.contains("MTU 9000"),
        "{reason}"
    );
    drop(program);
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let options = Options {
            frags: true,
            ..with_mode(mode)
        };
        let program = attach(&lab.left, &options);
        for (i, to) in lab.left.addrs().into_iter().enumerate() {
            let receiver = socket(&lab.left, to, PORT);
            let sender = socket(&lab.right, lab.right.addrs()[i], 0);
            let large = frame(symbol(3, 8, 7, 8896));
            assert!(arrives(&sender, &receiver, &large), "{mode} {to}");
        }
        assert_eq!(program.verdicts().unwrap().no_socket, 2, "{mode}");
    }
}

#[test]
fn the_program_stays_while_the_interface_goes_down_and_ends_with_it() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let program = attach(&lab.left, &options(false));
    let index = program.ifindex();
    lab.left.set_link_up(false).unwrap();
    assert!(program.is_attached());
    lab.left.set_link_up(true).unwrap();
    assert!(program.is_attached() && program.ifindex() == index);
    ping(&lab, lab.left.v4().into());
    assert!(program.verdicts().unwrap().passed > 0);
    lab.left.ip(&["link", "del", LINK]).unwrap();
    assert!(!program.is_attached());
}

#[test]
fn an_interface_that_is_not_here_is_named() {
    require_or_skip!(Netns, Xdp);
    let lab = lab(1500);
    let attach = || Program::attach("ctp9", &options(false));
    let error = lab.left.run(attach).unwrap().unwrap_err();
    assert!(matches!(&error, AttachError::NoInterface(name) if name == "ctp9"));
}
