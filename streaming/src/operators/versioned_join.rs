//! Joins each row of the left input, once, with the version that its key had at the row's time: the temporal join in
//! event time.
//!
//! ```text
//!  versions of k     10 ├── a ──┤ 20 ├── b ──┤ 30 deleted            decided: below the watermarks of both sides
//!  left rows of k        12 → a         25 → b        31 → none
//! ```
//!
//! Rule    The version of a key at a time is the last one that begins at or before it. A row is said when both watermarks
//!         have passed its time: what it meets is known then and never changes, so the output is append-only.
//! State   `left`: row -> count, those that wait. `right`: (key, time) -> version; of those at or before the watermarks
//!         only the last of each key.
//! Epochs  Everything is said at the seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX. A step drops DROPPED_PER_STEP versions, about.

mod versions;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_null_array};
use arrow::compute::{is_not_null, is_null, take};
use arrow_schema::{DataType, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable, row};

use self::versions::Versions;
use super::hash_join::task::batch;
use crate::byte_table::hash_bytes;
use crate::counted_rows::CountedRows;
use crate::error::{Error, Result};
use crate::expiry::Expiry;
use crate::expr::{self, Evaluator, Expr};
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::watermark::{self, Watermark, Watermarks};

/// Joins each left row, once, with the version of its key at its time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VersionedJoin {
    /// Whether a left row without a version comes out too, padded with NULLs.
    pub outer: bool,
    /// Key columns of the left and the right input, equally many and of equal Arrow types.
    pub keys: [Vec<usize>; 2],
    /// The time of a left row, and the one from which on a right row is its key's version: both with a watermark.
    pub times: [usize; 2],
    /// The column of the right input that says of a version that its key has none from its time on.
    pub deleted: Option<usize>,
    /// Columns of the right input by which the last of several versions of one time is chosen; without any it is the last
    /// that came.
    pub ties: Vec<usize>,
    /// What the version must fulfil too, over the left columns followed by the right columns.
    pub condition: Option<Expr>,
    /// The output columns: left columns followed by right columns.
    pub schema: SchemaRef,
}

impl VersionedJoin {
    /// Below this both sides are complete.
    fn decided(&self, of: impl Fn(usize, usize) -> Option<i64>) -> Option<i64> {
        Some(of(0, self.times[0])?.min(of(1, self.times[1])?))
    }
}

impl Operator for VersionedJoin {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        self.keys.iter().map(|keys| Exchange::Hash(keys.clone())).collect()
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let (waiting, right) = (ctx.table("left")?, ctx.table("right")?);
        let [left_schema, right_schema] = [ctx.inputs[0].clone(), ctx.inputs[1].clone()];
        let fields: Vec<_> = [&left_schema, &right_schema].iter().flat_map(|s| s.fields().iter().cloned()).collect();
        let joint = Arc::new(Schema::new(fields));
        let types = |schema: &SchemaRef| schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let mut task = VersionedJoinTask {
            condition: self.condition.as_ref().map(|e| expr::compile(e, &joint, ctx.functions)).transpose()?,
            types: [types(&left_schema), types(&right_schema)],
            left: CountedRows::load(&waiting)?,
            due: Expiry::default(),
            ready: Vec::new(),
            versions: Versions::load(right)?,
            waiting,
            joint,
            node: self.clone(),
        };
        task.order_left()?;
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        let pairs = self.keys[0].iter().zip(&self.keys[1]).map(|(l, r)| format!("left.${l} = right.${r}, "));
        let kind = if self.outer { "left" } else { "inner" };
        format!("{kind}, {}as of left.${}", pairs.collect::<String>(), self.times[0])
    }
    fn state(&self) -> Option<String> {
        Some("the left rows that wait, and each key's version at the watermarks and later ones".into())
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let mut marks = vec![None; self.schema.fields().len()];
        let of = |side: usize| inputs[side].get(self.times[side]).copied().flatten();
        if let Some((left, right)) = of(0).zip(of(1)).filter(|(l, r)| l.bounds_state() && r.bounds_state()) {
            // What came out is all there is below: a row within the allowed lateness has waited for it.
            let floor = left.floor.min(right.floor);
            marks[self.times[0]] = Some(Watermark { at: floor, floor, lateness: false, retracts: false });
        }
        marks
    }
    fn expires_by(&self) -> Vec<(usize, usize)> {
        vec![(0, self.times[0])]
    }
    fn waits_for_watermark(&self) -> bool {
        true
    }
}

struct VersionedJoinTask {
    node: VersionedJoin,
    /// The column types of both inputs.
    types: [Vec<DataType>; 2],
    /// Left columns followed by right columns.
    joint: SchemaRef,
    condition: Option<Evaluator>,
    /// Left rows that wait, and when they are due.
    left: CountedRows,
    due: Expiry,
    /// Numbers of those that are due now.
    ready: Vec<u32>,
    waiting: StateTable,
    versions: Versions,
}

impl VersionedJoinTask {
    /// Finds out when the rows of the last checkpoint are due.
    fn order_left(&mut self) -> Result<()> {
        let numbers: Vec<u32> = self.left.numbers().collect();
        for numbers in numbers.chunks(OUTPUT_ROWS_MAX) {
            let times = watermark::values(&self.left_columns(numbers)?[self.node.times[0]]);
            for (number, time) in numbers.iter().zip(times.values()) {
                self.due.add(*time, *number);
            }
        }
        Ok(())
    }

    fn left_columns(&self, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(row::decode(&self.types[0], numbers.iter().map(|number| self.left.row(*number)))?)
    }

    fn keep_left(&mut self, delta: &Batch, out: &mut Output) -> Result<()> {
        // Without a time there is no version, and no watermark that would say so.
        let valid = is_not_null(delta.column(self.node.times[0]))?;
        if self.node.outer && valid.true_count() < delta.num_rows() {
            let delta = delta.filter(&is_null(delta.column(self.node.times[0]))?)?;
            let diffs = (0..delta.num_rows()).map(|row| delta.diff(row)).collect();
            self.emit(delta.data().columns().to_vec(), &vec![None; delta.num_rows()], diffs, out)?;
        }
        let delta = delta.filter(&valid)?;
        let n = delta.num_rows();
        let keys: Vec<ArrayRef> = self.node.keys[0].iter().map(|c| delta.column(*c).clone()).collect();
        let vnodes = storage::batch::vnodes(&keys, n);
        let rows = row::encode_rows(delta.data().columns(), n)?;
        let times = watermark::values(delta.column(self.node.times[0]));
        for i in 0..n {
            let number = self.left.add(hash_bytes(rows.get(i)), rows.get(i), vnodes[i], delta.diff(i));
            if self.left.count(number) == delta.diff(i) {
                self.due.add(times.value(i), number);
            }
        }
        Ok(())
    }

    fn keep_right(&mut self, delta: &Batch) -> Result<()> {
        let n = delta.num_rows();
        let columns = |columns: &[usize]| columns.iter().map(|c| delta.column(*c).clone()).collect::<Vec<_>>();
        let keys = columns(&self.node.keys[1]);
        let vnodes = storage::batch::vnodes(&keys, n);
        let keys = Keys::of(&keys, n)?;
        let rows = row::encode_rows(delta.data().columns(), n)?;
        let ties = columns(&self.node.ties);
        let ties = storage::keys::encode_rows(&ties, &vec![Default::default(); ties.len()], n)?;
        let times = watermark::values(delta.column(self.node.times[1]));
        let deleted = self.node.deleted.map(|column| delta.column(column).as_boolean().clone());
        for i in 0..n {
            let Some(key) = keys.get(i).filter(|_| times.is_valid(i)) else { continue };
            if delta.diff(i) < 0 {
                return Err(Error::Failed("a version was taken back".into()));
            }
            if deleted.as_ref().is_some_and(|deleted| deleted.is_valid(i) && deleted.value(i)) {
                self.versions.end(vnodes[i], key, times.value(i));
            } else {
                self.versions.begin(vnodes[i], key, times.value(i), ties.get(i), rows.get(i));
            }
        }
        Ok(())
    }

    /// Says a piece of the rows that are due.
    fn say(&mut self, out: &mut Output) -> Result<()> {
        let numbers = self.ready.split_off(self.ready.len().saturating_sub(OUTPUT_ROWS_MAX));
        let numbers: Vec<u32> = numbers.into_iter().filter(|number| self.left.count(*number) != 0).collect();
        let columns = self.left_columns(&numbers)?;
        let keys: Vec<ArrayRef> = self.node.keys[0].iter().map(|c| columns[*c].clone()).collect();
        let keys = Keys::of(&keys, numbers.len())?;
        let times = watermark::values(&columns[self.node.times[0]]);
        let found = (0..numbers.len()).map(|i| self.versions.at(keys.get(i)?, times.value(i)).map(Into::into));
        let found: Vec<Option<Box<[u8]>>> = found.collect();
        let diffs = numbers.iter().map(|number| self.left.count(*number)).collect();
        self.emit(columns, &found, diffs, out)?;
        for number in numbers {
            self.left.forget(number, &mut self.waiting);
        }
        Ok(())
    }

    /// Emits left rows, each with its version or padded.
    fn emit(
        &self,
        left: Vec<ArrayRef>,
        versions: &[Option<Box<[u8]>>],
        diffs: Vec<i64>,
        out: &mut Output,
    ) -> Result<()> {
        let matched = row::decode(&self.types[1], versions.iter().flatten().map(AsRef::as_ref))?;
        let pairs = |places: &UInt32Array| -> Result<Batch> {
            let mut columns = left.clone();
            for (column, data_type) in matched.iter().zip(&self.types[1]) {
                columns.push(match column.is_empty() {
                    true => new_null_array(data_type, places.len()),
                    false => take(column, places, None)?,
                });
            }
            batch(&self.joint, columns, diffs.clone())
        };
        let mut next = 0..;
        let mut places: UInt32Array = versions.iter().map(|v| v.as_ref().and_then(|_| next.next())).collect();
        let mut joined = pairs(&places)?;
        if let Some(condition) = &self.condition {
            let candidates = is_not_null(&places)?;
            let candidates = joined.filter(&candidates)?;
            let values = condition.evaluate_rows(&candidates);
            expr::row_errors(&candidates, &values.failures).into_iter().for_each(|error| out.error(error));
            let passed = values.array.as_boolean();
            let passes = |place: u32| passed.is_valid(place as usize) && passed.value(place as usize);
            places = places.iter().map(|place| place.filter(|place| passes(*place))).collect();
            joined = pairs(&places)?;
        }
        if !self.node.outer {
            let keep: BooleanArray = is_not_null(&places)?;
            joined = joined.filter(&keep)?;
        }
        out.emit(super::with_schema(&joined, &self.node.schema)?);
        Ok(())
    }
}

impl Task for VersionedJoinTask {
    fn apply(&mut self, input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        match input {
            0 => self.keep_left(delta, out)?,
            _ => self.keep_right(delta)?,
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        if let Some(decided) = self.node.decided(|input, column| at.bound(input, column)) {
            while !self.ready.is_empty() || self.due.has_below(decided) {
                if out.is_full() {
                    return Ok(Progress::More);
                }
                if self.ready.is_empty() {
                    self.ready = self.due.take_below(decided, OUTPUT_ROWS_MAX);
                }
                self.say(out)?;
            }
            if self.versions.forget(decided) == Progress::More {
                return Ok(Progress::More);
            }
        }
        if at.checkpoint {
            self.left.save(&mut self.waiting);
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        let waiting = StateSize { rows: self.left.len() as u64, bytes: self.left.bytes() as u64 };
        waiting + self.versions.size()
    }
}

/// Join keys as bytes; one with a NULL in it is none.
struct Keys {
    bytes: storage::keys::Keys,
    nulls: Vec<arrow::buffer::NullBuffer>,
}

impl Keys {
    fn of(columns: &[ArrayRef], n: usize) -> Result<Keys> {
        let nulls = columns.iter().filter_map(|column| column.logical_nulls()).collect();
        Ok(Keys { bytes: row::encode_rows(columns, n)?, nulls })
    }

    fn get(&self, row: usize) -> Option<&[u8]> {
        self.nulls.iter().all(|nulls| nulls.is_valid(row)).then(|| self.bytes.get(row))
    }
}

#[cfg(test)]
mod tests;
