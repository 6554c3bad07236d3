//! Parses arguments, starts the role, prints the error.

fn main() {}
