//! Rows that a target refuses: written down, and only then left out.
//!
//! ```text
//!  delivery ─ refused ─▶ found ─ the job's cut ─▶ `$errors` and, beside the entry, the rows' numbers ─ durable ─▶ left out
//! ```
//!
//! Both are one checkpoint, so after any crash a row is refused again, or it is in `$errors` once and leaves no more. Until
//! that is durable its entry, and those behind it, wait.

use std::collections::BTreeSet;
use std::ops::Range;

use arrow::array::UInt32Array;
use storage::Batch;
use storage::table::StateTable;

use super::{Outbox, key, read};
use crate::error::Result;
use crate::operator::RowError;
use crate::sink::{Position, Refused};

/// What the key of an entry's refused rows has behind that of the entry.
pub(super) const KEY_END: &[u8] = &[1];
/// Errors that one cut writes down: `$errors` takes so many of an epoch.
const ERRORS_PER_CUT_MAX: usize = 5000;

/// The rows of an entry that the target refuses.
#[derive(Default)]
pub(super) struct Refusals {
    rows: BTreeSet<u32>,
    /// Not written down yet.
    found: Vec<RowError>,
    /// The cut in which the last of them were.
    written: u64,
    /// They were, but the job has gone back since: `$errors` has them, the rows' numbers are to be written again.
    again: bool,
}

impl Refusals {
    /// As they are kept beside the entry.
    pub(super) fn read(value: &[u8]) -> Option<Refusals> {
        let (rows, []) = value.as_chunks::<4>() else { return None };
        let rows = rows.iter().map(|row| u32::from_le_bytes(*row)).collect();
        Some(Refusals { rows, ..Refusals::default() })
    }
}

fn key_of(position: Position) -> Vec<u8> {
    [&key(position), KEY_END].concat()
}

impl Outbox {
    /// The target refuses rows of an entry.
    pub(super) fn refuse(&self, table: &StateTable, position: Position, refused: &[&Refused]) -> Result<()> {
        self.progress.lock().refused += refused.len() as u64;
        // The attempt saw the entry without the rows that were refused before.
        let all = read(table, position)?.num_rows() as u32;
        let mut refusals = self.refusals.lock();
        let entry = refusals.entry(position).or_default();
        let shown: Vec<u32> = (0..all).filter(|row| !entry.rows.contains(row)).collect();
        for refused in refused {
            entry.rows.extend(refused.rows.iter().filter_map(|row| shown.get(*row)));
            entry.found.push(RowError {
                diff: 1,
                reason: refused.reason.clone(),
                sqlstate: refused.sqlstate.clone(),
                raw: Some(refused.raw.clone()),
                ..RowError::default()
            });
        }
        Ok(())
    }

    /// Whether there are refused rows that are not written down yet.
    pub fn has_refused(&self) -> bool {
        self.refusals.lock().values().any(|refusals| refusals.again || !refusals.found.is_empty())
    }

    /// Writes down, in the cut at `epoch`, the refused rows of the entries of `vnodes`; returns what `$errors` is to say.
    pub fn write_refused(&self, table: &StateTable, vnodes: Range<usize>, epoch: u64) -> Vec<RowError> {
        let mut errors = Vec::new();
        for (position, refusals) in self.refusals.lock().iter_mut() {
            let is_ours = vnodes.contains(&(position.vnode as usize));
            let many = errors.len() + refusals.found.len() > ERRORS_PER_CUT_MAX && !errors.is_empty();
            if is_ours && (refusals.again || !refusals.found.is_empty()) && !many {
                refusals.again = false;
                let rows: Vec<u8> = refusals.rows.iter().flat_map(|row| row.to_le_bytes()).collect();
                table.put(position.vnode, &key_of(*position), &rows);
                errors.append(&mut refusals.found);
                refusals.written = epoch;
            }
        }
        errors
    }

    /// Whether an entry has rows that may not be left out yet, as of the last durable cut.
    pub(super) fn is_in_question(&self, position: Position, durable: u64) -> bool {
        let refusals = self.refusals.lock();
        refusals
            .get(&position)
            .is_some_and(|refusals| refusals.again || !refusals.found.is_empty() || refusals.written > durable)
    }

    /// The job goes back to what is `durable`: what was written down since has to be once more.
    pub(super) fn rewind_refused(&self, durable: u64) {
        for refusals in self.refusals.lock().values_mut() {
            refusals.again |= refusals.written > durable;
        }
    }

    /// An entry goes, and what is known of it.
    pub(super) fn forget_refused(&self, table: &StateTable, position: Position) {
        if self.refusals.lock().remove(&position).is_some() {
            table.delete(position.vnode, &key_of(position));
        }
    }

    /// The changes of an entry without those that are left out.
    pub(super) fn read(&self, table: &StateTable, position: Position) -> Result<Batch> {
        let all = read(table, position)?;
        match self.refusals.lock().get(&position) {
            None => Ok(all),
            Some(refusals) => {
                let left = (0..all.num_rows() as u32).filter(|row| !refusals.rows.contains(row));
                Ok(all.take(&UInt32Array::from_iter_values(left))?)
            }
        }
    }
}
