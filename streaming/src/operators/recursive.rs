//! WITH RECURSIVE: rows, and what a query makes of them, and what it makes of that, until there is nothing new.
//!
//! Rule    Round 0 has the rows of the first input; round r + 1 what the body makes of those of round r. UNION keeps a
//!         row in the first round that has it only, UNION ALL in each. The rows of all rounds come out.
//! State   `rows`: row -> its rounds and how often each has it (UNION only); and that of the body's operators, whose
//!         rows carry their round as their last column.
//! Epochs  Emits at the seal, round by round: what a round changes is known before the next one begins, so a row whose
//!         support goes takes back all that hangs on it and nothing supports itself.
//! Limits  A round is one step. A row in a round after ROUNDS_MAX is an error.
//!
//! The body is linear in the rows of a round (what Postgres allows there), so that the rounds need no state each: one
//! join has the rows of all rounds.

mod body;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable, row};

use crate::byte_table::{ByteTable, hash_bytes};
use crate::error::{Error, Result};
use crate::expr;
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, RowError, Seal, StateSize, Task, TaskContext,
};
use crate::operators::hash_join::task::batch;
use crate::plan::PlanNode;
use body::Body;

/// WITH RECURSIVE.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recursive {
    /// What makes the rows of a round from those of the one before; the last node's are the new ones. An input below
    /// the number of this operator's inputs is a leaf: 0 the rows of the last round with their round behind them, and
    /// n the n-th input. Those from there on are the nodes in their order.
    pub body: Vec<PlanNode>,
    /// The number of this operator's inputs: the first rows, and what else the body reads.
    pub n_inputs: usize,
    /// UNION: a row counts once, in its first round.
    pub distinct: bool,
    /// The output columns.
    pub schema: SchemaRef,
}

/// Rounds, at most.
pub const ROUNDS_MAX: u32 = 10_000;

impl Operator for Recursive {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Single; self.n_inputs]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let table = ctx.table("rows")?;
        let body = Body::open(self, ctx)?;
        let types = self.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let mut task = RecursiveTask {
            node: self.clone(),
            types,
            body,
            rows: ByteTable::default(),
            entries: Vec::new(),
            pending: BTreeMap::new(),
            dirty: BTreeMap::new(),
            changed: BTreeSet::new(),
            table,
        };
        task.load()?;
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        if self.distinct { "union".into() } else { "union all".into() }
    }
    fn state(&self) -> Option<String> {
        Some(match self.distinct {
            true => "one entry per row and what its body keeps, on one worker".into(),
            false => "what its body keeps, on one worker".into(),
        })
    }
}

/// A row that some round has.
#[derive(Clone, Debug, Default)]
struct Entry {
    /// How often each round has it, before it is kept in its first one only.
    counts: BTreeMap<u32, i64>,
    /// The rounds in which it came out; one at the end of an epoch.
    shown: BTreeSet<u32>,
}

impl Entry {
    fn first(&self) -> Option<u32> {
        self.counts.iter().find(|(_, count)| **count > 0).map(|(round, _)| *round)
    }
}

struct RecursiveTask {
    node: Recursive,
    types: Vec<DataType>,
    body: Body,
    rows: ByteTable,
    entries: Vec<Entry>,
    /// What came for each round, as rows and diffs.
    pending: BTreeMap<u32, BTreeMap<Vec<u8>, i64>>,
    /// Rows that have to be looked at in a round because of what an earlier one changed.
    dirty: BTreeMap<u32, BTreeSet<u32>>,
    /// Rows to save.
    changed: BTreeSet<u32>,
    table: StateTable,
}

impl RecursiveTask {
    /// Puts what the body made aside for its round: one more than that of the rows that it was made of.
    fn set_aside(&mut self, batches: Vec<Batch>) -> Result<()> {
        let width = self.types.len();
        for made in batches {
            let rows = row::encode_rows(&made.data().columns()[..width], made.num_rows())?;
            let rounds = made.column(width).as_primitive::<Int64Type>();
            for i in 0..made.num_rows() {
                self.add(rounds.value(i) as u32 + 1, rows.get(i), made.diff(i));
            }
        }
        Ok(())
    }

    fn add(&mut self, round: u32, row: &[u8], diff: i64) {
        let rows = self.pending.entry(round).or_default();
        let count = rows.entry(row.to_vec()).or_default();
        *count += diff;
        if *count == 0 {
            rows.remove(row);
        }
    }

    /// What a round changes, once all earlier ones have been through: rows and diffs.
    fn changes(&mut self, round: u32) -> Vec<(Vec<u8>, i64)> {
        let came = self.pending.remove(&round).unwrap_or_default();
        if !self.node.distinct {
            return came.into_iter().collect();
        }
        let mut touched = self.dirty.remove(&round).unwrap_or_default();
        for (row, diff) in came {
            let number = self.number(&row);
            let counts = &mut self.entries[number as usize].counts;
            let count = counts.entry(round).or_default();
            *count += diff;
            if *count == 0 {
                counts.remove(&round);
            }
            touched.insert(number);
        }
        let mut changes = Vec::new();
        for number in touched {
            self.changed.insert(number);
            let entry = &mut self.entries[number as usize];
            let first = entry.first();
            let is = first == Some(round);
            if is && entry.shown.insert(round) {
                changes.push((self.rows.get(number).to_vec(), 1));
                // It came out in a later round before.
                entry.shown.range(round + 1..).for_each(|later| {
                    self.dirty.entry(*later).or_default().insert(number);
                });
            } else if !is && entry.shown.remove(&round) {
                changes.push((self.rows.get(number).to_vec(), -1));
            }
            if let Some(later) = first.filter(|first| *first > round && !entry.shown.contains(first)) {
                self.dirty.entry(later).or_default().insert(number);
            }
        }
        changes
    }

    fn number(&mut self, row: &[u8]) -> u32 {
        let hash = hash_bytes(row);
        self.rows.find(hash, row).unwrap_or_else(|| {
            let number = self.rows.insert(hash, row);
            match self.entries.get_mut(number as usize) {
                Some(entry) => *entry = Entry::default(),
                None => self.entries.push(Entry::default()),
            }
            number
        })
    }

    /// Emits what a round changes, and lets the body make the next one of it.
    fn emit(&mut self, round: u32, changes: &[(Vec<u8>, i64)], out: &mut Output) -> Result<()> {
        for part in changes.chunks(OUTPUT_ROWS_MAX) {
            let columns = row::decode(&self.types, part.iter().map(|(row, _)| row.as_slice()))?;
            let diffs: Vec<i64> = part.iter().map(|(_, diff)| *diff).collect();
            let changed = batch(&self.node.schema, columns, diffs)?;
            let rounds = Int64Array::from_value(i64::from(round), part.len());
            let made = self.body.apply(0, &self.body.with_round(&changed, rounds)?, out)?;
            self.set_aside(made)?;
            out.emit(changed);
        }
        Ok(())
    }

    /// Rows beyond the last round are errors.
    fn refuse(&mut self, round: u32, out: &mut Output) -> Result<()> {
        let rows: Vec<(Vec<u8>, i64)> = self.pending.remove(&round).unwrap_or_default().into_iter().collect();
        for part in rows.chunks(OUTPUT_ROWS_MAX) {
            let columns = row::decode(&self.types, part.iter().map(|(row, _)| row.as_slice()))?;
            let shown = batch(&self.node.schema, columns, vec![1; part.len()])?;
            for (i, (_, diff)) in part.iter().enumerate() {
                out.error(RowError {
                    diff: *diff,
                    reason: format!("the recursive query goes on after {ROUNDS_MAX} rounds"),
                    sqlstate: "54001".into(),
                    raw: Some(expr::row_text(shown.data(), i).into_bytes()),
                    ..RowError::default()
                });
            }
        }
        Ok(())
    }

    /// Saves what changed since the last checkpoint.
    ///
    /// ```text
    /// [row] -> [round 4][count 8] ...
    /// ```
    fn save(&mut self) {
        for number in std::mem::take(&mut self.changed) {
            let counts = &self.entries[number as usize].counts;
            let row = self.rows.get(number);
            if counts.is_empty() {
                self.table.delete(0, row);
                self.rows.remove(number);
                continue;
            }
            let value: Vec<u8> = counts
                .iter()
                .flat_map(|(round, count)| round.to_le_bytes().into_iter().chain(count.to_le_bytes()))
                .collect();
            self.table.put(0, row, &value);
        }
    }

    fn load(&mut self) -> Result<()> {
        if self.table.is_new() {
            return Ok(());
        }
        let mut stored = Vec::new();
        self.table.scan(&mut |_, row, value| {
            stored.push((row.to_vec(), value.to_vec()));
            Ok(())
        })?;
        for (row, value) in stored {
            let number = self.number(&row);
            let entry = &mut self.entries[number as usize];
            for part in value.chunks(12) {
                let (round, count) = part
                    .split_first_chunk::<4>()
                    .and_then(|(round, rest)| Some((round, rest.first_chunk::<8>()?)))
                    .ok_or_else(|| Error::Failed("a row of a recursive query in the store is broken".into()))?;
                entry.counts.insert(u32::from_le_bytes(*round), i64::from_le_bytes(*count));
            }
            entry.shown.extend(entry.first());
        }
        Ok(())
    }
}

impl Task for RecursiveTask {
    fn apply(&mut self, input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        if input == 0 {
            let rows = row::encode_rows(delta.data().columns(), delta.num_rows())?;
            for i in 0..delta.num_rows() {
                self.add(0, rows.get(i), delta.diff(i));
            }
        } else {
            // It meets the rows of all rounds as they were before this epoch; what these change meets it later.
            let made = self.body.apply(input, delta, out)?;
            self.set_aside(made)?;
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        loop {
            let next = self.pending.keys().chain(self.dirty.keys()).min().copied();
            let Some(round) = next else { break };
            if round > ROUNDS_MAX {
                self.refuse(round, out)?;
                continue;
            }
            let changes = self.changes(round);
            self.emit(round, &changes, out)?;
            if out.is_full() {
                return Ok(Progress::More);
            }
        }
        if at.checkpoint {
            self.save();
        }
        self.body.seal(at, out)
    }

    fn state_size(&self) -> StateSize {
        let entries: usize = self.entries.iter().map(|e| size_of::<Entry>() + e.counts.len() * 16).sum();
        StateSize { rows: self.rows.len() as u64, bytes: (self.rows.bytes() + entries) as u64 } + self.body.state_size()
    }
}
