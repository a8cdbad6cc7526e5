//! The subcommands, one file each.

pub mod demo;
pub mod inspect;
pub mod serve;
pub mod sql;
