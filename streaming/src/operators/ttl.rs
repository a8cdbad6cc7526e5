//! The `ttl` of a view: what its inputs have brought longer ago than that is forgotten.
//!
//! Rule    A row stays until `micros` have passed since it came (or changed: that is a row that goes and one that comes); then
//!         it is taken back. What is told later of a row that is forgotten, is nothing: it was taken back already. So the
//!         view is its query over the rows that came within that time, and all that it keeps is bounded by them.
//!         A row has come at the time of the job's last cut: a fact of the checkpoint that the job goes on from after a crash.
//! State   `rows`: row -> count and when it came; under no bytes at all, for each vnode, the time of the cut.
//! Epochs  Collects changes; everything is emitted at the seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX. A checkpoint's step puts SAVE_MAX entries into the table at most.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable, keys};

use crate::error::{Error, Result};
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::watermark::Watermarks;

/// Entries that one step of a checkpoint puts into the table.
const SAVE_MAX: usize = 65_536;
const VNODES: usize = 256;
/// Bytes of an entry besides the row's.
const ENTRY_BYTES: usize = 96;

/// Forgets rows that came too long ago.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ttl {
    /// How long a row stays, in microseconds.
    pub micros: i64,
    /// How long, for people.
    pub text: String,
    /// The output columns: the first ones of the input. Those behind only tell rows apart.
    pub schema: SchemaRef,
}

impl Operator for Ttl {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        // By the columns that come out: there are as many for every input.
        vec![Exchange::Hash((0..self.schema.fields().len()).collect())]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let table = ctx.table("rows")?;
        let types = ctx.inputs[0].fields().iter().map(|f| f.data_type().clone()).collect();
        let own = |vnode: &u8| *vnode as usize * ctx.workers / VNODES == ctx.worker;
        let mut task = TtlTask {
            node: self.clone(),
            types,
            vnodes: (0..=u8::MAX).filter(own).collect(),
            rows: HashMap::new(),
            by_time: BTreeSet::new(),
            pending: HashMap::new(),
            cut: None,
            sealing: false,
            emitting: Vec::new(),
            changed: HashSet::new(),
            bytes: 0,
            forgotten: 0,
            table,
        };
        task.load()?;
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        format!("not exact: forgets rows that came {} ago and did not change since", self.text)
    }
    fn state(&self) -> Option<String> {
        Some(format!("the rows of the last {}", self.text))
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        // What is forgotten may be of any time.
        let marks = inputs[0].iter().take(self.schema.fields().len());
        marks.map(|mark| mark.map(|mark| crate::watermark::Watermark { retracts: true, ..mark })).collect()
    }
    fn follows_the_clock(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy)]
struct Kept {
    count: i64,
    came_at: i64,
    vnode: u8,
}

struct TtlTask {
    node: Ttl,
    types: Vec<DataType>,
    /// Those of this worker.
    vnodes: Vec<u8>,
    rows: HashMap<Arc<[u8]>, Kept>,
    /// The same rows by when they came.
    by_time: BTreeSet<(i64, Arc<[u8]>)>,
    /// Changes of this epoch, with their diffs and vnodes.
    pending: HashMap<Arc<[u8]>, (i64, u8)>,
    /// The time of the last cut.
    cut: Option<i64>,
    /// Whether the epoch's changes are already among what is to be emitted.
    sealing: bool,
    emitting: Vec<(Arc<[u8]>, i64)>,
    /// Rows changed since the last checkpoint, with their vnodes.
    changed: HashSet<(u8, Arc<[u8]>)>,
    bytes: usize,
    forgotten: u64,
    table: StateTable,
}

impl Task for TtlTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        let n = delta.num_rows();
        let columns = delta.data().columns();
        let rows = keys::encode_rows(columns, &[], n)?;
        let vnodes = storage::batch::vnodes(&columns[..self.node.schema.fields().len()], n);
        for i in 0..n {
            self.pending.entry(rows.get(i).into()).or_insert((0, vnodes[i])).0 += delta.diff(i);
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        // Never back: not even if the clock was set back while the server was down.
        let now = self.cut.unwrap_or(at.now).max(at.now);
        if !self.sealing {
            self.sealing = true;
            self.settle(now);
        }
        while !self.emitting.is_empty() {
            if out.is_full() {
                return Ok(Progress::More);
            }
            let from = self.emitting.len().saturating_sub(OUTPUT_ROWS_MAX);
            let rows = self.emitting.split_off(from);
            self.emit(&rows, out)?;
        }
        if at.checkpoint && !self.save(now) {
            return Ok(Progress::More);
        }
        self.sealing = false;
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.rows.len() as u64, bytes: (self.bytes + self.rows.len() * ENTRY_BYTES) as u64 }
    }

    fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

impl TtlTask {
    /// Takes up the changes of the epoch, and forgets what is too old.
    fn settle(&mut self, now: i64) {
        let came_at = *self.cut.get_or_insert(now);
        for (row, (diff, vnode)) in std::mem::take(&mut self.pending) {
            let old = self.rows.get(&row).copied();
            let count = old.map_or(0, |kept| kept.count);
            // Of what is forgotten nothing is to be taken back.
            let after = (count + diff).max(0);
            if after == count {
                continue;
            }
            self.forget(&row);
            if after > 0 {
                let came_at = if diff > 0 { came_at } else { old.map_or(came_at, |kept| kept.came_at) };
                self.bytes += row.len();
                self.changed.insert((vnode, row.clone()));
                self.by_time.insert((came_at, row.clone()));
                self.rows.insert(row.clone(), Kept { count: after, came_at, vnode });
            }
            self.emitting.push((row, after - count));
        }
        while let Some((came_at, row)) = self.by_time.first()
            && came_at.saturating_add(self.node.micros) <= now
        {
            let row = row.clone();
            if let Some(kept) = self.forget(&row) {
                self.forgotten += kept.count as u64;
                self.emitting.push((row, -kept.count));
            }
        }
    }

    fn forget(&mut self, row: &Arc<[u8]>) -> Option<Kept> {
        let kept = self.rows.remove(row)?;
        self.bytes -= row.len();
        self.by_time.remove(&(kept.came_at, row.clone()));
        self.changed.insert((kept.vnode, row.clone()));
        Some(kept)
    }

    fn emit(&self, changes: &[(Arc<[u8]>, i64)], out: &mut Output) -> Result<()> {
        let mut columns = keys::decode(&self.types, &[], changes.iter().map(|(row, _)| &row[..]))?;
        columns.truncate(self.node.schema.fields().len());
        let options = RecordBatchOptions::new().with_row_count(Some(changes.len()));
        let data = RecordBatch::try_new_with_options(self.node.schema.clone(), columns, &options)?;
        out.emit(Batch::new(data, Some(Int64Array::from_iter_values(changes.iter().map(|(_, diff)| *diff)))));
        Ok(())
    }

    /// Puts what changed since the last checkpoint into the table. Returns whether that was all.
    fn save(&mut self, now: i64) -> bool {
        let some: Vec<_> = self.changed.iter().take(SAVE_MAX).cloned().collect();
        for entry in some {
            let (vnode, row) = &entry;
            match self.rows.get(row) {
                None => self.table.delete(*vnode, row),
                Some(kept) => {
                    let value = [kept.count.to_le_bytes(), kept.came_at.to_le_bytes()].concat();
                    self.table.put(*vnode, row, &value);
                }
            }
            self.changed.remove(&entry);
        }
        if !self.changed.is_empty() {
            return false;
        }
        self.cut = Some(now);
        for vnode in &self.vnodes {
            self.table.put(*vnode, &[], &now.to_le_bytes());
        }
        true
    }

    fn load(&mut self) -> Result<()> {
        if self.table.is_new() {
            return Ok(());
        }
        let (rows, by_time, bytes, cut) = (&mut self.rows, &mut self.by_time, &mut self.bytes, &mut self.cut);
        let mut wrong = false;
        self.table.scan(&mut |vnode, row, value| {
            let numbers: Vec<i64> =
                value.chunks_exact(8).map(|n| i64::from_le_bytes(n.try_into().expect("eight bytes"))).collect();
            match (row, numbers.as_slice()) {
                ([], [at]) => *cut = Some(cut.map_or(*at, |cut| cut.max(*at))),
                (row, [count, came_at]) if !row.is_empty() => {
                    let row: Arc<[u8]> = row.into();
                    *bytes += row.len();
                    by_time.insert((*came_at, row.clone()));
                    rows.insert(row, Kept { count: *count, came_at: *came_at, vnode });
                }
                _ => wrong = true,
            }
            Ok(())
        })?;
        if wrong {
            return Err(Error::Failed("a row of a view's ttl in the store is broken".into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::oracle;
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};

    const INPUT: &str = "a bigint, b text";

    fn node(micros: i64) -> Ttl {
        Ttl { micros, text: "a while".into(), schema: schema(INPUT) }
    }

    oracle!(young, node(1), [INPUT], "select * from t0");

    /// Rows come, change and go while time passes: what is there is what came within the time, over restarts too.
    #[test]
    fn rows_stay_for_their_time() {
        for seed in 0..4 {
            let mut random = Random::new(seed);
            let mut task = TestTask::new(node(20), &[schema(INPUT)], 1 + seed as usize % 3);
            // What the input holds, and what is to be there of it, with the time of the cut before it came.
            let mut there: BTreeMap<usize, i64> = BTreeMap::new();
            let mut young: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
            let mut said = Counted::new();
            let mut cut = None;
            for epoch in 0..80_i64 {
                task.now = epoch * 3;
                let came_at = *cut.get_or_insert(task.now);
                let mut changes: BTreeMap<usize, i64> = BTreeMap::new();
                for _ in 0..random.below(5) {
                    let row = random.below(12);
                    let count = there.entry(row).or_default();
                    let diff = if *count > 0 && random.one_in(2) { -1 } else { 1 };
                    *count += diff;
                    *changes.entry(row).or_default() += diff;
                }
                let rows: Vec<_> =
                    changes.iter().map(|(row, diff)| (vec![Some(row.to_string()), Some("x".into())], *diff)).collect();
                task.apply(0, &batch(&schema(INPUT), &rows));
                for (row, diff) in changes {
                    let (count, at) = young.get(&row).copied().unwrap_or((0, came_at));
                    let after = (count + diff).max(0);
                    let at = if after > count { came_at } else { at };
                    young.insert(row, (after, at));
                }
                young.retain(|_, (count, at)| *count > 0 && *at + 20 > task.now);
                let restarts = random.one_in(8);
                let saves = restarts || random.one_in(3);
                let (batches, errors) = task.seal(saves);
                assert!(errors.is_empty());
                accumulate(&mut said, &batches);
                assert_eq!(said.values().sum::<i64>(), young.values().map(|(n, _)| n).sum::<i64>(), "{seed} {epoch}");
                assert_eq!((said.len(), task.state_rows()), (young.len(), young.len() as u64), "{seed} {epoch}");
                if saves {
                    cut = Some(task.now);
                }
                if restarts {
                    task.restart(1 + random.below(4));
                }
            }
        }
    }
}
