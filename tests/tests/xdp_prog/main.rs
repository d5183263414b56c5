//! The XDP program: that it decides as the library's parser does, and that it comes to an interface
//! and leaves it as promised.

mod attach;
mod corpus;
mod limit;

use xdp_prog::{Loaded, Options};

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
