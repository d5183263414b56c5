//! CTP-96 dataplane library.
#![deny(missing_docs)]
pub mod api;
pub mod backend;
pub mod base;
pub mod codec;
pub mod control;
pub mod crypto;
pub mod engine;
pub mod fec;
pub mod mem;
pub mod obs;
pub mod proto;
pub mod ring;
pub mod service;
pub mod stage;
pub mod verify;
pub mod window;
pub mod wire;
