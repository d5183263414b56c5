//! Room `control`: the daemon's configuration, its local API, and what joins both to a node.
//!
//! [`config`] is the TOML file. [`api`] has the requests and replies of the control socket,
//! [`server`] and [`client`] the two ends of it. [`daemon`] starts a node and its service from a
//! configuration and answers the requests; [`signals`] ends it.

pub mod api;
pub mod client;
pub mod config;
// pub mod daemon;
mod nearest;
pub mod server;
pub mod signals;
