//! The XDP program: that it decides as the library's parser does, and that it comes to an interface
//! and leaves it as promised.

mod attach;
mod corpus;
mod limit;
mod traffic;

use tests::lab::{Host, LINK, Lab, LabConfig, Offloads};
use xdp_prog::{AttachError, AttachMode, Loaded, Options, Program};

const PORT: u16 = 9696;
const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;

fn options(frags: bool) -> Options {
    Options {
        ports: vec![PORT, 9700, 65535],
        frags,
        handshakes_per_second: 0,
        ..Options::default()
    }
}

/// Runs the program on the packet and returns the verdict that it counted, having compared the
/// action with it.
fn decide(program: &Loaded, packet: &[u8], first_buffer: Option<u32>) -> &'static str {
    let before = program.verdicts().unwrap();
    let action = program.test_run(packet, first_buffer).unwrap();
    let after = program.verdicts().unwrap();
    let changed: Vec<_> = before
        .entries()
        .zip(after.entries())
        .filter(|(b, a)| b != a)
        .collect();
    let [((name, old), (_, new))] = changed[..] else {
        panic!("not one verdict was counted but {changed:?}");
    };
    assert_eq!(new, old + 1, "{name}");
    let wanted = match name {
        "redirected" => REDIRECT,
        "foreign" | "malformed" | "rate_limited" => DROP,
        _ => PASS,
    };
    assert_eq!(action, wanted, "action of {name}");
    name
}

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

/// The number of the XDP program that `ip` shows on the interface.
fn program_id(host: &Host) -> Option<u64> {
    let text = host.ip(&["-j", "-d", "link", "show", LINK]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json[0]["xdp"]["prog"]["id"].as_u64()
}
