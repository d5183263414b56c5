//! Loader-side constants of the CTP-96 XDP program.
