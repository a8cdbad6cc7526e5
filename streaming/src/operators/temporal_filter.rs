//! A filter over the time: rows enter and leave by themselves as it passes.
//!
//! ```text
//!  at > now() - interval '1 hour'         bound = now - 1 hour      rows over which the bound has passed are out
//!  at <= now()                            bound = now               rows over which the bound has passed are in
//! ```
//!
//! Rule    `column <comparison> bound`, where the bound is computed from the epoch's time alone. At each seal the rows that
//!         changed, and those that the bound moved over since the last one. The time never goes back: it is part of the
//!         state.
//! State   `rows`: (value, row) -> count; the rows that the bound may still move over. All rows if it can fall (a day of a
//!         time zone with summer time, a month).
//! Epochs  Collects changes; everything is emitted at the seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX. A checkpoint's step puts SAVE_MAX entries into the table at most.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};
use storage::keys::{self, SortOption};
use storage::{Batch, StateTable};

use crate::error::{Error, Result};
use crate::expr::{self, Evaluator, Expr};
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext,
};

/// Entries that one step of a checkpoint puts into the table.
const SAVE_MAX: usize = 65_536;
const VNODES: usize = 256;

/// A filter over the time: rows enter and leave by themselves as it passes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TemporalFilter {
    /// The column that is compared with the bound.
    pub column: usize,
    /// How: `column <comparison> bound`.
    pub comparison: Comparison,
    /// The bound, over a row whose only column is the time (timestamptz).
    pub bound: Expr,
    /// Whether the bound never falls as time passes.
    pub rises: bool,
    /// The output columns, which are the input's.
    pub schema: SchemaRef,
}

/// How a column is compared with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Comparison {
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
}

impl Comparison {
    /// As it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
        }
    }

    /// Whether a row is in once the bound has moved over it.
    pub fn enters(self) -> bool {
        matches!(self, Comparison::Less | Comparison::LessOrEqual)
    }
}

/// The columns of a bound's only row.
pub fn now_schema() -> SchemaRef {
    let now = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![Field::new("now", now, false)]))
}

impl Operator for TemporalFilter {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Hash(vec![self.column])]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let table = ctx.table("rows")?;
        let types = ctx.inputs[0].fields().iter().map(|f| f.data_type().clone()).collect();
        let own = |vnode: &u8| *vnode as usize * ctx.workers / VNODES == ctx.worker;
        let mut task = TemporalFilterTask {
            bound: expr::compile(&self.bound, &now_schema(), ctx.functions)?,
            vnodes: (0..=u8::MAX).filter(own).collect(),
            node: self.clone(),
            types,
            rows: BTreeMap::new(),
            pending: BTreeMap::new(),
            now: i64::MIN,
            cut: Cut::Start,
            sealing: false,
            emitting: Vec::new(),
            changed: hashbrown::HashSet::new(),
            saved_now: i64::MIN,
            bytes: 0,
            table,
        };
        task.load()?;
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        format!("${} {} {:?}", self.column, self.comparison.sign(), self.bound)
    }
    fn state(&self) -> Option<String> {
        Some(match (self.rises, self.comparison.enters()) {
            (false, _) => "every row of the input".into(),
            (true, true) => "the rows whose time is still to come".into(),
            (true, false) => "the rows whose time is not over".into(),
        })
    }
    fn follows_the_clock(&self) -> bool {
        true
    }
}

/// A row: the bytes of its value, then of the whole row; how many of them are the value's.
type Key = (Arc<[u8]>, u32);

#[derive(Clone, Copy)]
struct Kept {
    order: u32,
    count: i64,
    vnode: u8,
}

/// How far the bound has moved: over all rows whose bytes are below.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cut {
    /// Over none.
    Start,
    /// Over those before these bytes.
    Before(Vec<u8>),
    /// The bound is NULL: no row is in.
    Nowhere,
}

struct TemporalFilterTask {
    node: TemporalFilter,
    bound: Evaluator,
    types: Vec<DataType>,
    /// Those of this worker.
    vnodes: Vec<u8>,
    rows: BTreeMap<Arc<[u8]>, Kept>,
    /// Changes of this epoch, with their diffs.
    pending: BTreeMap<Arc<[u8]>, Kept>,
    /// The time of the last seal.
    now: i64,
    cut: Cut,
    /// Whether the epoch's changes are already among what is to be emitted.
    sealing: bool,
    emitting: Vec<(Key, i64)>,
    /// Rows changed since the last checkpoint, with their vnodes.
    changed: hashbrown::HashSet<(u8, Arc<[u8]>)>,
    saved_now: i64,
    bytes: usize,
    table: StateTable,
}

impl Task for TemporalFilterTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        let n = delta.num_rows();
        let value = delta.column(self.node.column);
        let values = keys::encode_rows(std::slice::from_ref(value), &[SortOption::default()], n)?;
        let rows = keys::encode_rows(delta.data().columns(), &[], n)?;
        let vnodes = storage::batch::vnodes(std::slice::from_ref(value), n);
        for i in (0..n).filter(|i| value.is_valid(*i)) {
            let key: Arc<[u8]> = [values.get(i), rows.get(i)].concat().into();
            let order = values.get(i).len() as u32;
            self.pending.entry(key).or_insert(Kept { order, count: 0, vnode: vnodes[i] }).count += delta.diff(i);
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        if !self.sealing {
            self.sealing = true;
            self.settle(at.now)?;
        }
        while !self.emitting.is_empty() {
            if out.is_full() {
                return Ok(Progress::More);
            }
            let from = self.emitting.len().saturating_sub(OUTPUT_ROWS_MAX);
            let rows = self.emitting.split_off(from);
            self.emit(&rows, out)?;
        }
        if at.checkpoint && !self.save() {
            return Ok(Progress::More);
        }
        self.sealing = false;
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.rows.len() as u64, bytes: (self.bytes + self.rows.len() * 48) as u64 }
    }
}

impl TemporalFilterTask {
    /// How far the bound is moved at a time.
    fn cut_at(&self, now: i64) -> Result<Cut> {
        if now == i64::MIN {
            return Ok(Cut::Start);
        }
        let now: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![now]).with_timezone("UTC"));
        let row = Batch::inserts(RecordBatch::try_new(now_schema(), vec![now])?);
        let bound = self.bound.evaluate(&row).map_err(|e| Error::Failed(e.to_string()))?;
        if bound.is_null(0) {
            return Ok(Cut::Nowhere);
        }
        let mut bytes = keys::encode(&[bound], &[SortOption::default()])?.get(0).to_vec();
        // Whether the bound itself is moved over.
        if matches!(self.node.comparison, Comparison::Greater | Comparison::LessOrEqual) {
            // The first bytes behind all that begin with these: values of one type are as long or do not begin alike.
            while bytes.last() == Some(&u8::MAX) {
                bytes.pop();
            }
            match bytes.last_mut() {
                Some(last) => *last += 1,
                None => return Err(Error::Failed("a bound without bytes".into())),
            }
        }
        Ok(Cut::Before(bytes))
    }

    /// Whether a row is in.
    fn is_in(&self, key: &[u8], cut: &Cut) -> bool {
        match cut {
            Cut::Start => !self.node.comparison.enters(),
            Cut::Nowhere => false,
            Cut::Before(bytes) => (*key < **bytes) == self.node.comparison.enters(),
        }
    }

    /// Takes up the changes of the epoch, and what the time does.
    fn settle(&mut self, now: i64) -> Result<()> {
        // Never back: not even if the clock was set back while the server was down.
        self.now = self.now.max(now);
        let (old, new) = (self.cut.clone(), self.cut_at(self.now)?);
        if old != new {
            let between = match (&old, &new) {
                (Cut::Before(a), Cut::Before(b)) => {
                    (Bound::Included(a.min(b).as_slice()), Bound::Excluded(a.max(b).as_slice()))
                }
                (Cut::Start, Cut::Before(b)) | (Cut::Before(b), Cut::Start) => {
                    (Bound::Unbounded, Bound::Excluded(b.as_slice()))
                }
                _ => (Bound::Unbounded, Bound::Unbounded),
            };
            for (key, kept) in self.rows.range::<[u8], _>(between) {
                let diff = i64::from(self.is_in(key, &new)) - i64::from(self.is_in(key, &old));
                if diff != 0 {
                    self.emitting.push(((key.clone(), kept.order), diff * kept.count));
                }
            }
        }
        self.cut = new;
        for (key, change) in std::mem::take(&mut self.pending) {
            if change.count == 0 {
                continue;
            }
            if self.is_in(&key, &self.cut) {
                self.emitting.push(((key.clone(), change.order), change.count));
            }
            // What the bound has moved over does not come back; its retraction needs nothing that is kept.
            let over = matches!(&self.cut, Cut::Before(bytes) if *key < **bytes);
            if !(self.node.rises && over) {
                self.keep(key, change)?;
            }
        }
        if let (true, Cut::Before(bytes)) = (self.node.rises, &self.cut) {
            let from = (Bound::Unbounded, Bound::Excluded(bytes.as_slice()));
            let over: Vec<Arc<[u8]>> = self.rows.range::<[u8], _>(from).map(|(key, _)| key.clone()).collect();
            for key in over {
                self.forget(&key);
            }
        }
        Ok(())
    }

    fn keep(&mut self, key: Arc<[u8]>, change: Kept) -> Result<()> {
        self.changed.insert((change.vnode, key.clone()));
        let there = self.rows.get_mut(&key);
        let count = there.as_ref().map_or(0, |kept| kept.count) + change.count;
        match there {
            _ if count < 0 => {
                return Err(Error::Failed("more rows of a temporal filter were retracted than were inserted".into()));
            }
            Some(kept) if count > 0 => kept.count = count,
            Some(_) => self.forget(&key),
            None => {
                self.bytes += key.len();
                self.rows.insert(key, change);
            }
        }
        Ok(())
    }

    fn forget(&mut self, key: &Arc<[u8]>) {
        if let Some(kept) = self.rows.remove(key) {
            self.bytes -= key.len();
            self.changed.insert((kept.vnode, key.clone()));
        }
    }

    fn emit(&self, changes: &[(Key, i64)], out: &mut Output) -> Result<()> {
        let rows = changes.iter().map(|((key, order), _)| &key[*order as usize..]);
        let columns = keys::decode(&self.types, &[], rows)?;
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let data = RecordBatch::try_new_with_options(self.node.schema.clone(), columns, &options)?;
        let diffs = changes.iter().map(|(_, diff)| *diff);
        let all_new = diffs.clone().all(|diff| diff == 1);
        out.emit(Batch::new(data, (!all_new).then(|| Int64Array::from_iter_values(diffs))));
        Ok(())
    }

    /// Puts what changed since the last checkpoint into the table: rows, and under no bytes at all, for each vnode, the time.
    /// Returns whether that was all.
    fn save(&mut self) -> bool {
        let some: Vec<_> = self.changed.iter().take(SAVE_MAX).cloned().collect();
        for (vnode, key) in some {
            match self.rows.get(&key) {
                None => self.table.delete(vnode, &key),
                Some(kept) => {
                    let value = [kept.count.to_le_bytes().as_slice(), &kept.order.to_le_bytes()].concat();
                    self.table.put(vnode, &key, &value);
                }
            }
            self.changed.remove(&(vnode, key));
        }
        if !self.changed.is_empty() {
            return false;
        }
        if self.saved_now != self.now {
            self.saved_now = self.now;
            for vnode in &self.vnodes {
                self.table.put(*vnode, &[], &self.now.to_le_bytes());
            }
        }
        true
    }

    fn load(&mut self) -> Result<()> {
        if self.table.is_new() {
            return Ok(());
        }
        let broken = || Error::Failed("a row of a temporal filter in the store is broken".into());
        let (rows, bytes, now) = (&mut self.rows, &mut self.bytes, &mut self.now);
        let mut wrong = false;
        self.table.scan(&mut |vnode, key, value| {
            let (head, tail) = value.split_at_checked(8).unwrap_or_default();
            let Ok(number) = head.try_into().map(i64::from_le_bytes) else {
                wrong = true;
                return Ok(());
            };
            if key.is_empty() {
                *now = number.max(*now);
            } else if let Ok(order) = tail.try_into().map(u32::from_le_bytes)
                && order as usize <= key.len()
            {
                *bytes += key.len();
                rows.insert(key.into(), Kept { order, count: number, vnode });
            } else {
                wrong = true;
            }
            Ok(())
        })?;
        if wrong {
            return Err(broken());
        }
        self.saved_now = self.now;
        self.cut = self.cut_at(self.now)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::oracle;
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};

    const INPUT: &str = "ts timestamp, a bigint";

    fn node(comparison: Comparison, rises: bool) -> TemporalFilter {
        let bound = Expr::Cast {
            expr: Box::new(Expr::Column(0)),
            to: DataType::Timestamp(TimeUnit::Microsecond, None),
        };
        TemporalFilter { column: 0, comparison, bound, rises, schema: schema(INPUT) }
    }

    oracle!(after, node(Comparison::Greater, true), [INPUT], "select * from t0 where ts > timestamp '1970-01-01'");
    oracle!(until, node(Comparison::LessOrEqual, false), [INPUT], "select * from t0 where ts <= timestamp '1970-01-01'");

    /// Lets time pass over random changes; the time may go back, which the filter does not follow.
    fn passes(comparison: Comparison, rises: bool, seed: u64) {
        let mut random = Random::new(seed);
        let mut task = TestTask::new(node(comparison, rises), &[schema(INPUT)], 1 + seed as usize % 3);
        let mut rows: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        let mut said = Counted::new();
        let mut now = 0;
        for epoch in 0..60_i64 {
            let mut changes = vec![];
            for _ in 0..random.below(6) {
                let row = (random.below(200) as i64, random.below(3) as i64);
                let there = rows.get(&row).copied().unwrap_or(0);
                let diff = if there > 0 && random.one_in(2) { -1 } else { 1 };
                rows.insert(row, there + diff);
                changes.push((vec![Some(row.0.to_string()), Some(row.1.to_string())], diff));
            }
            task.apply(0, &batch(&schema(INPUT), &changes));
            task.now = epoch * 4 - if random.one_in(4) { 10 } else { 0 };
            now = now.max(task.now);
            let restarts = random.one_in(10);
            let (batches, errors) = task.seal(restarts || random.one_in(3));
            assert!(errors.is_empty());
            accumulate(&mut said, &batches);
            let is_in = |ts: i64| match comparison {
                Comparison::Greater => ts > now,
                Comparison::GreaterOrEqual => ts >= now,
                Comparison::Less => ts < now,
                Comparison::LessOrEqual => ts <= now,
            };
            let expected: Vec<i64> = rows.iter().filter(|((ts, _), n)| is_in(*ts) && **n > 0).map(|(_, n)| *n).collect();
            assert_eq!(said.values().sum::<i64>(), expected.iter().sum::<i64>(), "{comparison:?} {seed} {epoch}");
            assert_eq!(said.len(), expected.len());
            if rises {
                let waiting = rows.iter().filter(|((ts, _), n)| **n > 0 && *ts > now).count() as u64;
                assert!(task.state_rows() <= waiting + rows.keys().filter(|(ts, _)| *ts == now).count() as u64);
            }
            if restarts {
                task.restart(1 + random.below(4));
            }
        }
    }

    #[test]
    fn rows_enter_and_leave_as_time_passes() {
        for seed in 0..6 {
            for comparison in [
                Comparison::Greater,
                Comparison::GreaterOrEqual,
                Comparison::Less,
                Comparison::LessOrEqual,
            ] {
                passes(comparison, true, seed);
                passes(comparison, false, seed);
            }
        }
    }
}
