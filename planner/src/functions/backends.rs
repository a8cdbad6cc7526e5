//! `pg_cancel_backend` and `pg_terminate_backend`: what the server does with its connections, which only it knows.

use std::sync::OnceLock;

use super::rows::*;
use super::{Definition, functions};
use crate::types::error;

/// Asks the connection of an id to stop its statement, or (`true`) to end. Whether there is one.
pub type Signal = fn(i32, bool) -> bool;

static SIGNAL: OnceLock<Signal> = OnceLock::new();

/// The server that connections belong to introduces itself; the first one counts.
pub fn set_signal(signal: Signal) {
    SIGNAL.get_or_init(|| signal);
}

fn ask(pid: i32, terminate: bool) -> Row<bool> {
    let signal = SIGNAL.get().ok_or_else(|| error("0A000", "there are no connections here"))?;
    Ok(signal(pid, terminate))
}

/// The rows of the table.
pub fn functions() -> Vec<Definition> {
    let list = functions! {
        "pg_cancel_backend" pg_cancel_backend (Int4) -> Bool = |pid| ask(pid, false);
        "pg_terminate_backend" pg_terminate_backend (Int4) -> Bool = |pid| ask(pid, true);
    };
    list.into_iter().map(Definition::volatile).collect()
}
