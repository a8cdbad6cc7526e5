//! The subcommands, one file each.

pub mod backup;
pub mod demo;
pub mod inspect;
pub mod restore;
pub mod serve;
pub mod sql;
