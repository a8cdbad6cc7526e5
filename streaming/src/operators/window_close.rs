//! Holds rows back until the watermark has passed their window: EMIT ON WINDOW CLOSE and EMIT EVERY.
//!
//! Rule    A row leaves when the watermark of its window column passes the row's value: what it says then is final. With
//!         an allowed lateness, what changes later leaves at once. Without one, changes below the watermark are dropped:
//!         a table may take rows back long after their window. With an interval, what changed also leaves at most once in
//!         each. A row whose window is NULL lies in none and never leaves.
//! State   `rows`: row -> count, of what did not leave yet. `closed`: up to where windows were closed, if that is needed.
//! Epochs  Collects while the epoch is open, emits at the seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX rows; yields when the output is full.

use std::time::Duration;

use arrow::array::{Array, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable};

use crate::byte_table::hash_bytes;
use crate::counted_rows::CountedRows;
use crate::error::{Error, Result};
use crate::expiry::Expiry;
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::watermark::{self, Watermarks};

/// Holds rows back until the watermark has passed their window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WindowClose {
    /// The column with the watermark: a row leaves when that passes its value. `None`: only the interval lets it leave.
    pub column: Option<usize>,
    /// What changed leaves at most once in this time, though its window is open.
    pub every: Option<Duration>,
    /// Whether rows that change after their window's close are changed in the output: within the allowed lateness.
    pub updates: bool,
    /// The columns by whose hash rows are placed; empty: on one worker.
    pub key: Vec<usize>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for WindowClose {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.key.is_empty() { Exchange::Single } else { Exchange::Hash(self.key.clone()) }]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let tables = [ctx.table("rows")?, ctx.table("closed")?];
        let mut task = WindowCloseTask {
            node: self.clone(),
            rows: CountedRows::load(&tables[0])?,
            expiry: Expiry::default(),
            closed: load_closed(&tables[1])?,
            emitted_at: None,
            sealing: None,
            tables,
        };
        task.index_all()?;
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        let every = self.every.map(|every| format!("every {every:?}"));
        let column = self.column.map(|c| format!("when {} is passed", self.schema.field(c).name()));
        every.into_iter().chain(column).collect::<Vec<_>>().join(", ")
    }
    fn state(&self) -> Option<String> {
        Some(match self.column {
            Some(_) => "the rows of open windows".into(),
            None => "what changed since it was last emitted".into(),
        })
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let mut marks = inputs[0].clone();
        if self.every.is_none() {
            // A row that waits may be old by every other column.
            for (c, mark) in marks.iter_mut().enumerate() {
                *mark = mark.filter(|_| Some(c) == self.column);
                if let Some(mark) = mark {
                    mark.retracts &= self.updates;
                }
            }
        } else {
            marks.clear();
        }
        marks
    }
    fn expires_by(&self) -> Vec<(usize, usize)> {
        self.column.iter().map(|column| (0, *column)).collect()
    }
    fn waits_for_watermark(&self) -> bool {
        self.column.is_some()
    }
    fn emits_every(&self) -> Option<Duration> {
        self.every
    }
}

struct WindowCloseTask {
    node: WindowClose,
    /// What did not leave yet: for an open window its rows, for an interval what changed.
    rows: CountedRows,
    expiry: Expiry,
    /// Up to where windows are closed.
    closed: i64,
    /// When everything left for the last time.
    emitted_at: Option<i64>,
    /// While a seal is not finished: what is to leave.
    sealing: Option<Leaving>,
    /// `rows` and `closed`.
    tables: [StateTable; 2],
}

/// What leaves with one seal.
#[derive(Clone, Copy)]
struct Leaving {
    below: i64,
    /// The rest too: the interval is over.
    all: bool,
}

/// Rows without a window, or without a column that has one, wait behind all others.
const NO_WINDOW: i64 = i64::MAX;

impl WindowCloseTask {
    /// The windows of the rows of a batch; NULL for none.
    fn windows(&self, data: &RecordBatch) -> Option<Int64Array> {
        self.node.column.map(|column| watermark::values(data.column(column)))
    }

    fn index_all(&mut self) -> Result<()> {
        let numbers: Vec<u32> = self.rows.numbers().collect();
        for numbers in numbers.chunks(OUTPUT_ROWS_MAX) {
            let data = self.decode(numbers)?;
            let windows = self.windows(&data);
            for (i, number) in numbers.iter().enumerate() {
                self.expiry.add(window_at(windows.as_ref(), i), *number);
            }
        }
        Ok(())
    }

    fn decode(&self, numbers: &[u32]) -> Result<RecordBatch> {
        let types: Vec<_> = self.node.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let columns = storage::row::decode(&types, numbers.iter().map(|n| self.rows.row(*n)))?;
        let options = RecordBatchOptions::new().with_row_count(Some(numbers.len()));
        Ok(RecordBatch::try_new_with_options(self.node.schema.clone(), columns, &options)?)
    }

    /// What leaves with the seal.
    fn leaving(&mut self, at: &Seal) -> Leaving {
        if let Some(leaving) = self.sealing {
            return leaving;
        }
        let mark = self.node.column.and_then(|column| at.watermark(0, column));
        let below = mark.map_or(i64::MIN, |mark| mark.at).max(self.closed);
        let all = self.node.every.is_some_and(|every| {
            let due = self.emitted_at.is_none_or(|last| at.now.saturating_sub(last) >= every.as_micros() as i64);
            due || at.recovering
        });
        if all {
            self.emitted_at = Some(at.now);
        }
        if below > self.closed {
            self.closed = below;
        }
        Leaving { below, all }
    }

    /// Lets those of `numbers` leave whose window is below `below`.
    fn emit(&mut self, mut numbers: Vec<u32>, below: i64, out: &mut Output) -> Result<()> {
        // A number may stand there twice, or for a row that has left since, or for another row by now.
        numbers.sort_unstable();
        numbers.dedup();
        let mut live: Vec<u32> = numbers.iter().copied().filter(|n| self.rows.count(*n) != 0).collect();
        if below < i64::MAX && !live.is_empty() {
            let windows = self.windows(&self.decode(&live)?);
            let mut at = 0..;
            live.retain(|_| at.next().is_some_and(|i| window_at(windows.as_ref(), i) < below));
        }
        for numbers in live.chunks(OUTPUT_ROWS_MAX) {
            let counts: Vec<i64> = numbers.iter().map(|n| self.rows.count(*n)).collect();
            if !self.node.updates && self.node.every.is_none() && counts.iter().any(|count| *count < 0) {
                return Err(Error::Failed("a row of an open window was retracted that was not there".into()));
            }
            let all_new = counts.iter().all(|count| *count == 1);
            let batch = Batch::new(self.decode(numbers)?, (!all_new).then(|| Int64Array::from(counts)));
            out.emit(batch);
            for number in numbers {
                self.rows.forget(*number, &mut self.tables[0]);
            }
        }
        // What cancelled itself out meanwhile.
        for number in numbers {
            if self.rows.count(number) == 0 {
                self.rows.forget(number, &mut self.tables[0]);
            }
        }
        Ok(())
    }
}

fn window_at(windows: Option<&Int64Array>, row: usize) -> i64 {
    windows.filter(|windows| windows.is_valid(row)).map_or(NO_WINDOW, |windows| windows.value(row))
}

impl Task for WindowCloseTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        let n = delta.num_rows();
        let keys = storage::row::encode_rows(delta.data().columns(), n)?;
        let placed: Vec<_> = self.node.key.iter().map(|c| delta.column(*c).clone()).collect();
        let vnodes = storage::batch::vnodes(&placed, n);
        let windows = self.windows(delta.data());
        // Without an interval a row without a window would wait for ever.
        let waits_for_ever = |window: i64| window == NO_WINDOW && self.node.every.is_none();
        let is_final = |window: i64| window < self.closed && !self.node.updates && self.node.every.is_none();
        let mut fresh = Vec::new();
        for row in 0..n {
            let window = window_at(windows.as_ref(), row);
            if waits_for_ever(window) || is_final(window) {
                continue;
            }
            let diff = delta.diff(row);
            let number = self.rows.add(hash_bytes(keys.get(row)), keys.get(row), vnodes[row], diff);
            if self.rows.count(number) == diff {
                fresh.push((window, number));
            }
        }
        fresh.into_iter().for_each(|(window, number)| self.expiry.add(window, number));
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        let leaving = self.leaving(at);
        let below = if leaving.all { i64::MAX } else { leaving.below };
        loop {
            if out.is_full() {
                self.sealing = Some(leaving);
                return Ok(Progress::More);
            }
            let mut numbers = self.expiry.take_below(below, OUTPUT_ROWS_MAX);
            if numbers.is_empty() && leaving.all {
                // Those of no window.
                numbers = self.expiry.take(NO_WINDOW);
            }
            if numbers.is_empty() {
                break;
            }
            self.emit(numbers, below, out)?;
        }
        self.sealing = None;
        if at.checkpoint {
            self.rows.save(&mut self.tables[0]);
            // Needed for every part of the rows, however many workers there will be.
            if self.node.column.is_some() && !self.node.updates && self.closed > i64::MIN {
                for vnode in self.tables[1].vnodes() {
                    self.tables[1].put(vnode as u8, b"", &self.closed.to_le_bytes());
                }
            }
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.rows.len() as u64, bytes: self.rows.bytes() as u64 }
    }
}

fn load_closed(table: &StateTable) -> Result<i64> {
    let mut closed = i64::MIN;
    if !table.is_new() {
        table.scan(&mut |_, _, value| {
            let value = value.try_into().map_err(|_| storage::Error::Corrupt("up to where windows are closed".into()))?;
            closed = closed.max(i64::from_le_bytes(value));
            Ok(())
        })?;
    }
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::oracle;
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};
    use crate::watermark::Watermark;

    const COLUMNS: &str = "w bigint, k text";

    fn node(every: Option<Duration>, updates: bool) -> WindowClose {
        WindowClose { column: Some(0), every, updates, key: vec![0, 1], schema: schema(COLUMNS) }
    }

    fn mark(at: i64) -> Vec<Watermarks> {
        vec![vec![Some(Watermark { at, floor: at, lateness: false, retracts: false }), None]]
    }

    fn said(batches: &[Batch]) -> Counted {
        let mut rows = Counted::new();
        accumulate(&mut rows, batches);
        rows
    }

    fn change(w: Option<i64>, k: &str, diff: i64) -> Batch {
        batch(&schema(COLUMNS), &[(vec![w.map(|w| w.to_string()), Some(k.into())], diff)])
    }

    // With an interval that is always over, what comes in goes out.
    oracle!(always_due, node(Some(Duration::ZERO), false), [COLUMNS], "select w, k from t0");

    #[test]
    fn rows_leave_once_when_their_window_is_passed_over_any_history() {
        for seed in 0..12 {
            let mut random = Random::new(seed);
            let mut task = TestTask::new(node(None, false), &[schema(COLUMNS)], 1 + random.below(3));
            let (mut open, mut out) = (BTreeMap::<(i64, String), i64>::new(), Counted::new());
            let (mut at, mut expected) = (0i64, Counted::new());
            for _ in 0..40 {
                for _ in 0..random.below(6) {
                    let row = (at + random.below(8) as i64, ["a", "b"][random.below(2)].to_string());
                    let count = open.entry(row.clone()).or_default();
                    let diff = if *count > 0 && random.one_in(2) { -1 } else { 1 + random.below(2) as i64 };
                    *count += diff;
                    task.apply(0, &change(Some(row.0), &row.1, diff));
                }
                task.apply(0, &change(None, "no window", 1));
                at += if random.one_in(9) { 1000 } else { random.below(4) as i64 };
                let restarts = random.one_in(6);
                let (batches, _) = task.seal_with(restarts || random.one_in(2), mark(at));
                assert!(batches.iter().all(|b| (0..b.num_rows()).all(|row| b.diff(row) > 0)), "only ever grows");
                accumulate(&mut out, &batches);
                while let Some(first) = open.first_entry().filter(|first| first.key().0 < at) {
                    let ((w, k), count) = first.remove_entry();
                    if count > 0 {
                        *expected.entry(format!("({w},{k})")).or_default() += count;
                    }
                }
                assert_eq!(out, expected, "seed {seed}");
                let waiting = open.values().filter(|count| **count > 0).count() as u64;
                assert!(task.state_rows() >= waiting && task.state_rows() <= open.len() as u64);
                if restarts {
                    task.restart(1 + random.below(4));
                }
            }
        }
    }

    #[test]
    fn what_is_taken_back_behind_the_watermark_stays_unless_lateness_is_allowed() {
        for (updates, expected) in [(false, None), (true, Some(-1))] {
            let mut task = TestTask::new(node(None, updates), &[schema(COLUMNS)], 2);
            task.apply(0, &change(Some(5), "a", 1));
            assert!(said(&task.seal_with(false, mark(5)).0).is_empty());
            assert_eq!(said(&task.seal_with(true, mark(6)).0).values().sum::<i64>(), 1);
            task.restart(3);
            task.apply(0, &change(Some(5), "a", -1));
            assert_eq!(said(&task.seal_with(false, mark(6)).0).values().next().copied(), expected);
        }
    }

    #[test]
    fn an_interval_lets_changes_leave_at_most_once_in_it() {
        let mut task = TestTask::new(node(Some(Duration::from_micros(10)), false), &[schema(COLUMNS)], 1);
        let mut counts = Vec::new();
        for (now, w, diff) in [(100, 50, 1), (105, 50, 1), (109, 50, 1), (110, 60, 1), (115, 3, 1), (116, 50, -1), (125, 50, -1)] {
            task.now = now;
            task.apply(0, &change(Some(w), "a", diff));
            let (batches, _) = task.seal_with(false, mark(5));
            counts.push(said(&batches).values().copied().collect::<Vec<_>>());
        }
        // The fifth lies in a window that is closed; what cancels out in an interval is never seen.
        assert_eq!(counts, [vec![1], vec![], vec![], vec![2, 1], vec![1], vec![], vec![-2]]);
    }
}
