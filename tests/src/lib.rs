//! Helpers shared by the CTP-96 integration tests and benchmarks.
//!
//! - [`lab`]: two network namespaces joined by a veth pair.
//! - [`loss`]: random frame loss on that pair, made by a tc-bpf program.
//! - [`impair`]: delay, rate, queue and loss between the two, in user space.
//! - [`node`]: the daemon and the command-line program on a host of the lab.
//! - [`require`]: what a test needs from the machine, and what happens where it is missing.
//! - [`frames`]: valid frames, from which the tests of parsers start.
//! - [`fuzz`]: a deterministic mutation fuzzer for stable Rust.
//! - [`rig`]: two lane cores on one thread in virtual time, joined by any backend.
//! - [`scenario`]: the protocol core over any path, in virtual time, without payload.
//! - [`mod@reference`]: an AF_XDP socket of `xsk-rs`, beside which ours are checked and measured.
//! - [`xdp`]: packets, and what the XDP program must decide about them.
//! - [`rooms`]: the import rule of the library's modules.
#![deny(missing_docs)]

pub mod frames;
pub mod fuzz;
pub mod impair;
pub mod lab;
pub mod loss;
pub mod node;
pub mod reference;
pub mod require;
pub mod rig;
pub mod rooms;
pub mod scenario;
pub mod xdp;
