//! What a job had published since the checkpoint that it starts again from.
//!
//! ```text
//!  state as of T   ──replays──▶  D2 = what it says of T..t      published at t: D2 - D1
//!  published up to F             D1 = what it said of T..F      so the relation, and all who read it, are right at t
//! ```
//!
//! Nobody who reads the job has to go back with it, and it need not say the same again: what it owes is kept in a state
//! table until it has published the difference, so that a crash in between changes nothing.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Int64Type;
use arrow_schema::SchemaRef;
use storage::{Batch, StateTable};

use crate::dataflow::{decode_batch, encode_batch};
use crate::error::Result;
use crate::operator::RowError;

/// Which of a job's relations an entry is of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OwedTo {
    /// The rows that it keeps.
    Rows = 0,
    /// Its `<name>$errors`.
    Errors = 1,
}

/// What one worker's root has to take back.
pub struct Owed {
    table: StateTable,
}

impl Owed {
    /// Kept in `table`: relation u8 | number u64 BE -> batch.
    pub fn new(table: StateTable) -> Owed {
        Owed { table }
    }

    /// Where it is kept.
    pub fn into_table(self) -> StateTable {
        self.table
    }

    fn entries(&self) -> Result<Vec<(u8, Vec<u8>, Vec<u8>)>> {
        let mut entries = Vec::new();
        self.table.scan(&mut |vnode, key, value| {
            entries.push((vnode, key.to_vec(), value.to_vec()));
            Ok(())
        })?;
        Ok(entries)
    }

    /// More was published.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn add(&self, to: OwedTo, batches: &[Batch]) -> Result<()> {
        let vnode = self.table.vnodes().start as u8;
        let mut number = self.entries()?.len() as u64;
        for batch in batches {
            let key = [&[to as u8][..], &number.to_be_bytes()].concat();
            self.table.put(vnode, &key, &encode_batch(batch));
            number += 1;
        }
        Ok(())
    }

    /// What was published, of rows with `schema` and of errors. It is owed no more.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn settle(&self, schema: &SchemaRef) -> Result<(Vec<Batch>, PublishedErrors)> {
        let mut rows = Vec::new();
        let mut errors = PublishedErrors::default();
        for (vnode, key, value) in self.entries()? {
            let batch = decode_batch(&value)?;
            if key[0] == OwedTo::Rows as u8 {
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let columns = batch.data().columns().to_vec();
                let data = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
                rows.push(Batch::new(data, batch.diffs().cloned()));
            } else {
                errors.add(&batch);
            }
            self.table.delete(vnode, &key);
        }
        Ok((rows, errors))
    }
}

type ErrorContent = (Option<String>, Option<i64>, Option<Vec<u8>>, String, String);

/// Errors that were published already: a log, so what is said again is left out.
#[derive(Default)]
pub struct PublishedErrors(HashMap<ErrorContent, i64>);

impl PublishedErrors {
    fn add(&mut self, batch: &Batch) {
        let data = batch.data();
        let text = |column: usize, row: usize| {
            let values = data.column(column).as_string_view();
            values.is_valid(row).then(|| values.value(row).to_owned())
        };
        let (offsets, raws) = (data.column(2).as_primitive::<Int64Type>(), data.column(3).as_binary_view());
        // Old errors that were forgotten meanwhile are no matter.
        for row in (0..batch.num_rows()).filter(|row| batch.diff(*row) > 0) {
            let offset = offsets.is_valid(row).then(|| offsets.value(row));
            let raw = raws.is_valid(row).then(|| raws.value(row).to_vec());
            let (reason, sqlstate) = (text(4, row).unwrap_or_default(), text(5, row).unwrap_or_default());
            *self.0.entry((text(1, row), offset, raw, reason, sqlstate)).or_default() += batch.diff(row);
        }
    }

    /// The errors that are new.
    pub fn new_of(&mut self, errors: Vec<RowError>) -> Vec<RowError> {
        if self.0.is_empty() {
            return errors;
        }
        let is_new = |error: &RowError| {
            let content =
                (error.split.clone(), error.offset, error.raw.clone(), error.reason.clone(), error.sqlstate.clone());
            match self.0.get_mut(&content).filter(|times| error.diff > 0 && **times > 0) {
                Some(times) => {
                    *times -= 1;
                    false
                }
                None => true,
            }
        };
        errors.into_iter().filter(is_new).collect()
    }
}
