//! Pinned lane cores, the control thread beside them, and what joins protocol and backend.

mod bypass;
mod command;
mod config;
mod control;
mod core;
mod early;
mod error;
mod run;
mod snapshot;
mod start;
pub mod topology;
mod turns;

pub use command::{CoreCommand, CoreEvent};
pub use config::{BackendChoice, EngineConfig, SuiteChoice};
pub use control::{ConnectReply, SessionEnds};
pub use core::Core;
pub use error::{ConnectError, StartError};
pub use run::run;
pub use snapshot::{CoreInfo, EngineInfo, LaneInfo, SessionInfo, Snapshot};
pub use start::Engine;
