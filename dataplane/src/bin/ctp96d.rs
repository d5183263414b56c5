//! ctp96d
fn main() {}
