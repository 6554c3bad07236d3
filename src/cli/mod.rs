//! Subcommands, one file each.

pub mod image;
