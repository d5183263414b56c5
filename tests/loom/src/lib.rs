//! The very sources of the rooms `base`, `window` and `ring`, built for loom by `scripts/test`.

#[path = "../../../dataplane/src/base/mod.rs"]
pub mod base;
#[path = "../../../dataplane/src/ring/mod.rs"]
pub mod ring;
#[path = "../../../dataplane/src/window/mod.rs"]
pub mod window;
