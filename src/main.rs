//! The `wanigan` command.
fn main() {}
