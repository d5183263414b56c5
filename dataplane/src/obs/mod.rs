//! Room `obs`.
