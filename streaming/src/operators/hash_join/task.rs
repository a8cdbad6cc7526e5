//! The join at work: a batch enters its side's state, meets the other side, and lets rows come out or go.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{Schema, SchemaRef};
use storage::{Batch, StateTable};

use super::flips::{Flips, Globals};
use super::pairs::Cursor;
use super::range::{Between, Range};
use super::side::{Entered, Side, SideSpec};
use super::{HashJoin, JoinKind, stored};
use crate::error::{Error, Result};
use crate::expr::{self, Evaluator};
use crate::operator::{Output, Progress, Seal, StateSize, Task, TaskContext};

/// Pairs, or rows of a side, looked at in one activation: a condition may reject them all, and then the output never
/// fills.
pub(super) const STEPS_MAX: usize = 262_144;

pub(in crate::operators) struct HashJoinTask {
    pub(super) kind: JoinKind,
    pub(super) null_equal: Vec<bool>,
    pub(super) condition: Option<Evaluator>,
    /// Left columns followed by right columns.
    pub(super) joint: SchemaRef,
    pub(super) schema: SchemaRef,
    pub(super) inputs: [SchemaRef; 2],
    ranges: [Option<Range>; 2],
    pub(super) sides: [Side; 2],
    tables: [StateTable; 2],
    /// What is left of the batch in work.
    pending: Option<Pending>,
    evicts: bool,
}

/// A batch on its way through the join: its rows are in their side's state already.
pub(super) struct Pending {
    pub(super) input: usize,
    pub(super) delta: Batch,
    pub(super) entered: Entered,
    /// Per row the number of its key on the other side.
    pub(super) other_keys: Vec<Option<u32>>,
    /// Where the other side is ordered: which of its rows each row asks for.
    pub(super) between: Option<Between>,
    /// For NOT IN: what was known of the whole right side before the batch.
    pub(super) globals: Globals,
    /// Number of matches per row, as far as looked at.
    pub(super) matches: Vec<i64>,
    /// The next row to join, and where among its candidates.
    pub(super) row: usize,
    pub(super) cursor: Option<Cursor>,
    /// Rows of the other side whose number of matches changed, and whether they had one before.
    pub(super) touched: Vec<(u32, bool)>,
    /// Rows of the other side that come out or go.
    pub(super) flips: Option<Flips>,
}

impl HashJoinTask {
    pub(in crate::operators) fn open(
        node: &HashJoin,
        ctx: &mut TaskContext,
        memory_max: u64,
    ) -> Result<HashJoinTask> {
        let inputs = [ctx.inputs[0].clone(), ctx.inputs[1].clone()];
        let fields: Vec<_> = inputs.iter().flat_map(|schema| schema.fields().iter().cloned()).collect();
        let joint: SchemaRef = Arc::new(Schema::new(fields));
        let condition = node.condition.as_ref().map(|e| expr::compile(e, &joint, ctx.functions)).transpose()?;
        if node.kind == JoinKind::NullAwareAnti && (node.keys[0].len() != 1 || condition.is_some()) {
            return Err(Error::Unsupported("NOT IN over several columns or with further conditions".into()));
        }
        if node.ranges.iter().any(Option::is_some) && condition.is_none() {
            return Err(Error::Failed("a join by ranges has no condition".into()));
        }
        let [left, right] = node.placements();
        let spec = |i: usize, placement| SideSpec {
            schema: &inputs[i],
            key_columns: &node.keys[i],
            keys_only: i == 1 && node.keeps_keys_only(),
            tracks_matches: condition.is_some(),
            placement,
            order_by: node.ranges[i].as_ref().map(Range::order_by),
            expiry: node.expiry[i].clone(),
        };
        // NOT IN looks at every key when its right side gets its first row or its first NULL.
        let evicts = node.kind != JoinKind::NullAwareAnti;
        let memory_max = if evicts { memory_max } else { u64::MAX };
        let (sides, tables) = stored::open_part([spec(0, left), spec(1, right)], ctx, memory_max)?;
        Ok(HashJoinTask {
            kind: node.kind,
            null_equal: node.null_equal.clone(),
            condition,
            joint,
            schema: node.schema.clone(),
            inputs,
            ranges: node.ranges.clone(),
            sides,
            tables,
            pending: None,
            evicts,
        })
    }

    fn pending(&self, input: usize, delta: Batch, entered: Entered, globals: Globals) -> Result<Pending> {
        let other_keys = self.sides[1 - input].find_keys(&entered.keys);
        let between = self.ranges[1 - input].as_ref().map(|range| Between::of(&delta, range)).transpose()?;
        Ok(Pending {
            input,
            matches: vec![0; delta.num_rows()],
            delta,
            entered,
            other_keys,
            between,
            globals,
            row: 0,
            cursor: None,
            touched: Vec::new(),
            flips: None,
        })
    }

    /// Joins the rows of the left side with the right one without keeping them. `More`: [`Task::resume`] goes on.
    pub(in crate::operators) fn probe(&mut self, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let delta = self.set_aside_unmatchable(0, delta, out)?;
        if delta.num_rows() == 0 {
            return Ok(Progress::Done);
        }
        let entered = self.sides[0].look_at(&delta)?;
        self.pending = Some(self.pending(0, delta, entered, self.globals())?);
        self.resume(out)
    }

    /// Keeps the rows of the right side without joining them.
    pub(in crate::operators) fn keep(&mut self, delta: &Batch) -> Result<()> {
        let delta = self.set_aside_unmatchable(1, delta, &mut Output::default())?;
        self.sides[1].enter(&delta, false)?;
        self.sides[1].collect();
        Ok(())
    }

    /// Joins as much as one activation may.
    fn go_on(&mut self, pending: &mut Pending, out: &mut Output) -> Result<Progress> {
        if self.kind.pairs() || self.condition.is_some() {
            let mut budget = STEPS_MAX;
            while pending.row < pending.delta.num_rows() {
                if out.is_full() || budget == 0 {
                    return Ok(Progress::More);
                }
                let pairs = self.next_pairs(pending);
                budget = budget.saturating_sub(pairs.rows.len().max(1));
                self.join_pairs(pending, pairs, out)?;
            }
        }
        if pending.flips.is_none() {
            if self.kind.counts_matches(pending.input) {
                self.emit_own(pending, out)?;
            }
            pending.flips = Some(self.flips(pending));
        }
        self.emit_flips(pending, out)
    }
}

impl Task for HashJoinTask {
    fn apply(&mut self, input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let delta = self.set_aside_unmatchable(input, delta, out)?;
        if delta.num_rows() == 0 {
            return Ok(Progress::Done);
        }
        let keys = self.sides[input].key_columns.clone();
        for (side, table) in self.sides.iter_mut().zip(&self.tables) {
            side.bring_back(&delta, &keys, table)?;
        }
        let globals = self.globals();
        let by_key = self.condition.is_none() && self.kind.counts_matches(1 - input);
        let entered = self.sides[input].enter(&delta, by_key)?;
        self.pending = Some(self.pending(input, delta, entered, globals)?);
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        let Some(mut pending) = self.pending.take() else { return Ok(Progress::Done) };
        if self.go_on(&mut pending, out)? == Progress::More {
            self.pending = Some(pending);
            return Ok(Progress::More);
        }
        self.sides[pending.input].collect();
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, _out: &mut Output) -> Result<Progress> {
        for (i, side) in self.sides.iter_mut().enumerate() {
            if side.expire(i, at)? == Progress::More {
                return Ok(Progress::More);
            }
        }
        Ok(stored::seal(&mut self.sides, &self.tables, at))
    }

    fn state_size(&self) -> StateSize {
        let [left, right] = &self.sides;
        left.size() + right.size()
    }

    fn evict(&mut self, to: u64) -> Result<()> {
        if self.evicts && self.pending.is_none() {
            let bytes = self.state_size().bytes.max(1);
            for side in &mut self.sides {
                let share = u128::from(to) * u128::from(side.size().bytes) / u128::from(bytes);
                side.evict(share as usize)?;
            }
        }
        Ok(())
    }
}

pub(in crate::operators) fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, diffs: Vec<i64>) -> Result<Batch> {
    let options = RecordBatchOptions::new().with_row_count(Some(diffs.len()));
    let data = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
    let all_new = diffs.iter().all(|diff| *diff == 1);
    Ok(Batch::new(data, (!all_new).then(|| Int64Array::from(diffs))))
}
