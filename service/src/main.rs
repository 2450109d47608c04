//! The command `fastmap`.

fn main() {}
