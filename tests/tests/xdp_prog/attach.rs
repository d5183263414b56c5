//! Attaching to real interfaces and leaving them: a veth pair between two namespaces.

use super::traffic::{arrives, ping, socket};
use super::{PORT, attach, lab, options, program_id, try_attach, with_mode};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use tests::frames::{frame, symbol};
use tests::lab::{Host, LINK, Lab};
use tests::require::Requirement::{BpfLoss, Netns, Xdp};
use tests::{loss, require_or_skip};
use xdp_prog::{AttachError, AttachMode, Hook, Options, Program};

/// Tells a copy of this test program which interface to attach to.
const CHILD: &str = "CTP96_XDP_CHILD";

/// What `ip` says about the interface, and `ethtool` about its features.
fn state(host: &Host) -> String {
    let link = host.ip(&["-d", "link", "show", LINK]).unwrap();
    let features = host.command("ethtool").args(["-k", LINK]).output();
    // Not everywhere; its absence hides no difference that `ip` shows.
    let features = features.map(|o| o.stdout).unwrap_or_default();
    format!("{link}{}", String::from_utf8_lossy(&features))
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
