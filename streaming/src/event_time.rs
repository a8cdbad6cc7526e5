//! Event time at its origin: how far a split or a table is, which rows are late, and what is announced of it.
//!
//! ```text
//!  record  0    1    2    3    4        of one split; watermark = ts - 10, no allowed lateness
//!  ts      20   25   12   40   29
//!  before  -    10   15   15   30       a row is judged by the records before it in its split: 12 and 29 are late
//! ```
//!
//! Whether a record is late depends on the records before it in its split, and on nothing else: so it is decided the same
//! when it is read again, after a crash or by the first reader of a new job. What the splits announce together is the
//! least of theirs. A split that was left out of that (idle, or new) takes up what was announced with its next record: it
//! is *raised*, at that record's offset. Raises are a part of the split's state, and of the log of what was visible.
//!
//! A table is judged write by write: the rows of one statement have no order among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, Field, SchemaRef};
use serde::{Deserialize, Serialize};
use storage::{Batch, Column, RelationId, SqlType};

use crate::error::Result;
use crate::expr::{self, Evaluator, Expr, Functions};
use crate::operator::RowError;
use crate::row_errors::now_us;
use crate::watermark::{self, Watermark, Watermarks};

/// `WATERMARK FOR column AS expr`, with its options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventTime {
    /// The column with the event time.
    pub column: usize,
    /// What a row says of the others: none before this will come. Over the relation's columns, of the column's type.
    pub expr: Expr,
    /// The number of the relation's columns that are not hidden: those of `<name>$late`.
    pub visible: usize,
    /// Whether the relation's rows are never changed.
    pub append_only: bool,
    /// How far below the watermark a row is still taken, in the column's unit (microseconds, days).
    pub lateness: i64,
    /// A split that brings nothing for so long does not hold the others back.
    pub idle_timeout: Option<Duration>,
    /// A split whose watermark is farther ahead of the source's is not read on.
    pub max_drift: Option<i64>,
    /// The relation that `<name>$late` reads.
    pub late: RelationId,
    /// Whether it says when a row was late, so that the old ones can go.
    #[serde(default)]
    pub stamped: bool,
}

/// How far the event time of one split or table is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Its watermark; `i64::MIN` before the first row.
    pub at: i64,
    /// What it would be without raises.
    own: i64,
    /// By offset.
    pub raises: Vec<Raise>,
}

/// From the record at `offset` on the watermark of a split was at least `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Raise {
    /// The offset.
    pub offset: i64,
    /// The watermark.
    pub at: i64,
    /// A record was late by it.
    pub used: bool,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { at: i64::MIN, own: i64::MIN, raises: Vec::new() }
    }
}

impl Progress {
    /// As of the beginning of a split: with what is to come over it.
    pub fn from_start(raises: Vec<Raise>) -> Progress {
        Progress { raises, ..Progress::default() }
    }

    /// A table's, as of a checkpoint.
    pub fn of_table(at: i64) -> Progress {
        Progress { at, own: at, raises: Vec::new() }
    }

    /// From the record at `offset` on the watermark is at least `at`.
    pub fn raise(&mut self, offset: i64, at: i64) {
        self.raises.push(Raise { offset, at, used: false });
    }

    /// Takes up what was raised before a crash, after the checkpoint.
    pub fn restore(&mut self, raises: &[Raise]) {
        self.raises.extend(raises);
        self.raises.sort_unstable();
        self.raises.dedup_by_key(|raise| (raise.offset, raise.at));
    }
}

/// What all threads see of a source's or table's event time.
pub struct Announced {
    /// What it was declared as.
    pub spec: EventTime,
    /// What is announced, `i64::MIN` for nothing.
    pub at: AtomicI64,
    /// The epoch that it is as of.
    pub epoch: AtomicU64,
    /// What was announced before a restart: it is again once every split is where it was visible.
    pub before: i64,
    /// Rows that were late since the server started.
    pub late_rows: AtomicU64,
    /// As of the checkpoint under way.
    pub noted: AtomicI64,
}

impl Announced {
    /// Nothing is known yet but what was announced at the last checkpoint and before the restart.
    pub fn new(spec: EventTime, at: i64, before: i64) -> Announced {
        let before = before.max(at);
        Announced {
            spec,
            at: AtomicI64::new(at),
            epoch: AtomicU64::new(0),
            before,
            late_rows: AtomicU64::new(0),
            noted: AtomicI64::new(at),
        }
    }

    /// What is known of the relation's columns if `at` is announced.
    pub fn watermarks(&self, columns: usize) -> Arc<Watermarks> {
        let mut marks = vec![None; columns];
        marks[self.spec.column] = Some(self.spec.watermark(self.at.load(Ordering::Acquire)));
        Arc::new(marks)
    }

    /// What is announced at the end of `epoch`, at which `at` is known. Never less than before.
    pub fn announce(&self, epoch: u64, at: i64) {
        self.at.fetch_max(at, Ordering::AcqRel);
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
    }
}

impl EventTime {
    /// The number of the columns of `<name>$late`, the last ones, that are not shown.
    pub fn late_hidden(&self) -> usize {
        1 + usize::from(self.stamped)
    }

    /// The column of `<name>$late` that says when.
    pub fn late_at(&self) -> Option<usize> {
        self.stamped.then_some(self.visible + 1)
    }

    /// What is known of the column if `at` is announced.
    pub fn watermark(&self, at: i64) -> Watermark {
        Watermark { at, floor: self.floor(at), lateness: self.lateness > 0, retracts: !self.append_only }
    }

    fn floor(&self, at: i64) -> i64 {
        at.saturating_sub(self.lateness)
    }
}

/// One split as it is announced.
#[derive(Clone, Copy, Debug)]
pub struct SplitTime {
    /// Its watermark.
    pub at: i64,
    /// Whether it is left out.
    pub idle: bool,
}

/// What a source announces, if its splits are there; never less than `before`.
pub fn announce(splits: &[SplitTime], before: i64) -> i64 {
    let active = splits.iter().filter(|split| !split.idle).map(|split| split.at).min();
    // Nobody is there who could be held back.
    let at = active.or_else(|| splits.iter().map(|split| split.at).max());
    at.unwrap_or(i64::MIN).max(before)
}

/// The columns of `<name>$late`: the relation's own, the watermark that the row was below, and, hidden, when that was
/// and what tells rows apart.
pub fn late_columns(columns: &[Column], spec: &EventTime) -> Vec<Column> {
    let plain = |c: &Column| Column { not_null: false, ..c.clone() };
    let mut late: Vec<Column> = columns.iter().take(spec.visible).map(plain).collect();
    late.push(Column { name: "_watermark".into(), not_null: false, ..columns[spec.column].clone() });
    if spec.stamped {
        late.push(Column::new("_at", SqlType::TimestampTz));
    }
    late.push(Column { not_null: true, ..Column::new("_late_id", SqlType::Text) });
    late
}

/// Judges the rows of one source or table.
#[derive(Clone)]
pub struct Judge {
    spec: EventTime,
    expr: Evaluator,
    late: SchemaRef,
}

/// The columns that a history has behind those of its table, whose time is of the type `time`.
pub fn history_fields(time: &DataType) -> [Field; 2] {
    [Field::new("_valid_from", time.clone(), true), Field::new("_deleted", DataType::Boolean, true)]
}

/// What was judged.
pub struct Judged {
    /// The rows that are taken.
    pub taken: Batch,
    /// The rows that are late, as `<name>$late` has them.
    pub late: Batch,
    /// Rows whose watermark could not be computed: they are taken, and say nothing.
    pub errors: Vec<RowError>,
}

impl Judge {
    /// Judges rows of the relation with `columns` (hidden ones included).
    pub fn new(spec: &EventTime, columns: &[Column], functions: &Arc<dyn Functions>) -> Result<Judge> {
        let schema = storage::types::arrow_schema(columns);
        let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
        let expr = expr::compile(&spec.expr, &Arc::new(arrow_schema::Schema::new(nullable)), functions)?;
        let late = storage::types::arrow_schema(&late_columns(columns, spec));
        Ok(Judge { spec: spec.clone(), expr, late })
    }

    /// The records of a split, which end with their offsets in the low bits of the hidden row id, in their order.
    pub fn records(
        &self,
        split: &str,
        progress: &mut Progress,
        batch: &Batch,
        last_offset: Option<i64>,
    ) -> Result<Judged> {
        const OFFSET_MASK: i64 = (1 << 48) - 1;
        let n = batch.num_rows();
        let (times, says, errors) = self.read(batch);
        let ids = batch.data().columns().last().expect("the row id").as_primitive::<Int64Type>();
        let mut next_raise = progress.raises.partition_point(|raise| raise.at <= progress.at);
        let mut at_row: Vec<(u32, i64)> = Vec::new();
        let mut keep = vec![true; n];
        let (mut at, mut own) = (progress.at, progress.own);
        for row in 0..n {
            let offset = ids.value(row) & OFFSET_MASK;
            while let Some(raise) = progress.raises.get(next_raise).filter(|raise| raise.offset <= offset) {
                at = at.max(raise.at);
                next_raise += 1;
            }
            if times.is_valid(row) && times.value(row) < self.spec.floor(at) {
                keep[row] = false;
                at_row.push((row as u32, at));
                if own < at
                    && let Some(raise) = progress.raises[..next_raise].last_mut()
                {
                    raise.used = true;
                }
            }
            if let Some(says) = said(&says, row) {
                (at, own) = (at.max(says), own.max(says));
            }
        }
        // Control records and such at the end.
        while let (Some(raise), Some(last)) = (progress.raises.get(next_raise), last_offset)
            && raise.offset <= last
        {
            at = at.max(raise.at);
            next_raise += 1;
        }
        (progress.at, progress.own) = (at, own);
        // What the split has passed by itself, and no record was late by, came to nothing.
        progress.raises.retain(|raise| raise.used || raise.at > own);
        let ids: Vec<String> =
            at_row.iter().map(|(row, _)| format!("{split}:{}", ids.value(*row as usize) & OFFSET_MASK)).collect();
        self.judged(batch, keep, &at_row, ids, errors)
    }

    /// What one statement wrote to a table: rows that came with it are judged by what was written before. A row that
    /// takes the place of one with the same `key` is a change of that row, and as such never late.
    pub fn write(&self, sequence: u64, progress: &mut Progress, batch: &Batch, key: &[usize]) -> Result<Judged> {
        let n = batch.num_rows();
        let (times, says, errors) = self.read(batch);
        let floor = self.spec.floor(progress.at);
        let is_below = |row: usize| times.is_valid(row) && batch.diff(row) > 0 && times.value(row) < floor;
        let mut keep = vec![true; n];
        let mut at_row = Vec::new();
        if (0..n).any(is_below) {
            let columns: Vec<ArrayRef> = key.iter().map(|c| batch.column(*c).clone()).collect();
            let keys = storage::row::encode_rows(&columns, n)?;
            let replaced: hashbrown::HashSet<&[u8]> =
                (0..n).filter(|r| batch.diff(*r) < 0).map(|r| keys.get(r)).collect();
            for row in (0..n).filter(|row| is_below(*row)) {
                if !replaced.contains(keys.get(row)) {
                    keep[row] = false;
                    at_row.push((row as u32, progress.at));
                }
            }
        }
        for row in (0..n).filter(|row| batch.diff(*row) > 0) {
            if let Some(says) = said(&says, row) {
                progress.at = progress.at.max(says);
            }
        }
        let ids = at_row.iter().map(|(row, _)| format!("{sequence}:{row}")).collect();
        self.judged(batch, keep, &at_row, ids, errors)
    }

    /// What one statement, written when the watermark was `at`, makes of the history of a table whose rows can change:
    /// each change with the time from which on it counts, which is never below the watermark, and whether it is the end of
    /// its key. `None` for a table that only grows: there each row is a version.
    pub fn history(&self, at: i64, taken: &Batch, key: &[usize]) -> Result<Option<Batch>> {
        if self.spec.append_only || taken.num_rows() == 0 {
            return Ok(None);
        }
        let batch = if taken.is_append_only() { taken.clone() } else { taken.consolidate()? };
        let n = batch.num_rows();
        let keys: Vec<ArrayRef> = key.iter().map(|c| batch.column(*c).clone()).collect();
        let keys = storage::row::encode_rows(&keys, n)?;
        let stays: hashbrown::HashSet<&[u8]> = (0..n).filter(|r| batch.diff(*r) > 0).map(|r| keys.get(r)).collect();
        let rows: Vec<usize> = (0..n).filter(|r| batch.diff(*r) > 0 || !stays.contains(keys.get(*r))).collect();
        let times = watermark::values(batch.column(self.spec.column));
        let floor = self.spec.floor(at);
        let from = |row: &usize| match times.is_valid(*row) {
            true => Some(times.value(*row).max(floor)),
            // The end of a row without a time is now.
            false => (batch.diff(*row) < 0).then_some(floor),
        };
        let from: ArrayRef = Arc::new(rows.iter().map(from).collect::<Int64Array>());
        let deleted: BooleanArray = rows.iter().map(|row| Some(batch.diff(*row) < 0)).collect();
        let indices = rows.iter().map(|row| *row as u32).collect::<arrow::array::UInt32Array>();
        let mut columns = Batch::inserts(batch.data().clone()).take(&indices)?.data().columns().to_vec();
        let mut fields: Vec<Arc<Field>> = batch.schema().fields().to_vec();
        let time = fields[self.spec.column].data_type().clone();
        columns.extend([of_numbers(&from, &time)?, Arc::new(deleted) as ArrayRef]);
        fields.extend(history_fields(&time).map(Arc::new));
        let schema = Arc::new(arrow_schema::Schema::new(fields));
        Ok(Some(Batch::inserts(RecordBatch::try_new(schema, columns)?)))
    }

    /// The times of the rows, what each says of the others, and the errors of that.
    fn read(&self, batch: &Batch) -> (Int64Array, Int64Array, Vec<RowError>) {
        let times = watermark::values(batch.column(self.spec.column));
        let (says, errors) = match self.expr.evaluate(batch) {
            Ok(says) => (says, Vec::new()),
            Err(_) => {
                let values = self.expr.evaluate_rows(batch);
                (values.array, expr::row_errors(batch, &values.failures))
            }
        };
        (times, watermark::values(&says), errors)
    }

    fn judged(
        &self,
        batch: &Batch,
        keep: Vec<bool>,
        late: &[(u32, i64)],
        ids: Vec<String>,
        errors: Vec<RowError>,
    ) -> Result<Judged> {
        if late.is_empty() {
            return Ok(Judged { taken: batch.clone(), late: Batch::empty(self.late.clone()), errors });
        }
        let rows = arrow::array::UInt32Array::from_iter_values(late.iter().map(|(row, _)| *row));
        let rows = batch.take(&rows)?;
        let mut columns = rows.data().columns()[..self.spec.visible].to_vec();
        let marks: ArrayRef = Arc::new(Int64Array::from_iter_values(late.iter().map(|(_, at)| *at)));
        columns.push(of_numbers(&marks, self.late.field(columns.len()).data_type())?);
        if self.spec.stamped {
            let now = TimestampMicrosecondArray::from_value(now_us(), late.len());
            columns.push(Arc::new(now.with_timezone("UTC")));
        }
        columns.push(Arc::new(StringViewArray::from_iter_values(ids)));
        let late = RecordBatch::try_new(self.late.clone(), columns)?;
        Ok(Judged { taken: batch.filter(&BooleanArray::from(keep))?, late: Batch::new(late, None), errors })
    }
}

/// What a row says of the others, if that is a time: nothing follows from infinity.
fn said(says: &Int64Array, row: usize) -> Option<i64> {
    let is_time = says.is_valid(row) && says.value(row) != i64::MAX && says.value(row) != i64::MIN;
    is_time.then(|| says.value(row))
}

/// The inverse of [`watermark::values`].
fn of_numbers(numbers: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    Ok(match data_type {
        DataType::Date32 => cast(&cast(numbers, &DataType::Int32)?, data_type)?,
        _ => cast(numbers, data_type)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::Literal;
    use crate::testing::{TestFunctions, batch};
    use datafusion::common::ScalarValue;

    fn columns() -> Vec<Column> {
        vec![
            Column::new("ts", SqlType::BigInt),
            Column::new("says", SqlType::BigInt),
            Column::new("_row_id", SqlType::BigInt),
        ]
    }

    /// The watermark is what `says` says.
    fn judge(lateness: i64) -> Judge {
        let spec = EventTime {
            column: 0,
            expr: Expr::Column(1),
            visible: 2,
            append_only: true,
            lateness,
            idle_timeout: None,
            max_drift: None,
            late: RelationId(1),
            stamped: true,
        };
        let functions: Arc<dyn Functions> = Arc::new(TestFunctions);
        Judge::new(&spec, &columns(), &functions).unwrap()
    }

    /// Records from `offset` on: each its time and what it says.
    fn records(offset: i64, rows: &[(Option<i64>, Option<i64>)]) -> Batch {
        let text = |v: Option<i64>| v.map(|v| v.to_string());
        let rows: Vec<_> = rows
            .iter()
            .enumerate()
            .map(|(i, (ts, says))| (vec![text(*ts), text(*says), Some((offset + i as i64 | 3 << 48).to_string())], 1))
            .collect();
        batch(&storage::types::arrow_schema(&columns()), &rows)
    }

    fn times(batch: &Batch) -> Vec<Option<i64>> {
        batch.column(0).as_primitive::<Int64Type>().iter().collect()
    }

    #[test]
    fn a_record_is_judged_by_those_before_it_however_they_are_batched() {
        let rows = [(Some(20), Some(10)), (Some(25), Some(15)), (Some(14), Some(4)), (Some(15), Some(5)), (None, None)];
        let judge = judge(0);
        for cut in 0..rows.len() {
            let mut progress = Progress::default();
            let first = judge.records("s", &mut progress, &records(0, &rows[..cut]), None).unwrap();
            let second = judge.records("s", &mut progress, &records(cut as i64, &rows[cut..]), None).unwrap();
            let taken = [times(&first.taken), times(&second.taken)].concat();
            assert_eq!(taken, [Some(20), Some(25), Some(15), None], "cut at {cut}");
            assert_eq!([times(&first.late), times(&second.late)].concat(), [Some(14)]);
            assert_eq!(progress.at, 15);
        }
    }

    #[test]
    fn lateness_is_allowed_to_the_bound() {
        let mut progress = Progress::default();
        let rows = [(Some(20), Some(20)), (Some(15), None), (Some(14), None), (Some(10), None)];
        let judged = judge(5).records("s", &mut progress, &records(0, &rows), None).unwrap();
        assert_eq!(times(&judged.taken), [Some(20), Some(15)]);
        assert_eq!(times(&judged.late), [Some(14), Some(10)]);
        let at = judged.late.column(2).as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(at, [20, 20]);
        let ids: Vec<Option<&str>> = judged.late.column(4).as_string_view().iter().collect();
        assert_eq!(ids, [Some("s:2"), Some("s:3")]);
    }

    #[test]
    fn a_raise_counts_from_its_offset_on_whenever_it_is_read_again() {
        let rows = [(Some(20), Some(10)), (Some(21), Some(11)), (Some(30), Some(20)), (Some(60), Some(50))];
        let mut progress = Progress::default();
        progress.raise(2, 40);
        for again in 0..2 {
            progress = Progress::from_start(progress.raises);
            let judged = judge(0).records("s", &mut progress, &records(0, &rows), None).unwrap();
            assert_eq!(times(&judged.late), [Some(30)], "read {again}");
            assert_eq!(progress.at, 50);
        }
    }

    #[test]
    fn a_raise_that_came_to_nothing_is_forgotten() {
        let mut progress = Progress::default();
        progress.raise(0, 40);
        judge(0).records("s", &mut progress, &records(0, &[(Some(50), Some(45))]), None).unwrap();
        assert!(progress.raises.is_empty());
        progress.raise(1, 60);
        judge(0).records("s", &mut progress, &records(1, &[(Some(50), Some(45)), (Some(90), Some(80))]), None).unwrap();
        assert_eq!(progress.raises.len(), 1);
    }

    #[test]
    fn the_ends_of_time_say_nothing_and_days_are_jumped() {
        const DAY: i64 = 86_400_000_000;
        let rows = [
            (Some(i64::MAX), Some(i64::MAX)),
            (Some(i64::MIN), Some(i64::MIN)),
            (Some(5), Some(5)),
            (Some(9 * DAY), Some(9 * DAY)),
            (Some(i64::MIN), Some(i64::MIN)),
            (Some(i64::MAX), Some(i64::MAX)),
            (Some(8 * DAY), None),
        ];
        let mut progress = Progress::default();
        let judged = judge(0).records("s", &mut progress, &records(0, &rows), None).unwrap();
        assert_eq!(times(&judged.late), [Some(i64::MIN), Some(8 * DAY)]);
        assert_eq!(progress.at, 9 * DAY);
    }

    #[test]
    fn an_expression_that_fails_is_an_error_and_the_row_is_taken() {
        let one = Expr::Literal(Literal::from_scalar(&ScalarValue::Int64(Some(1))).unwrap());
        let mut judge = judge(0);
        let functions: Arc<dyn Functions> = Arc::new(TestFunctions);
        judge.spec.expr =
            Expr::Call { function: "int8_div".into(), args: vec![one, Expr::Column(1)], returns: DataType::Int64 };
        let judge = Judge::new(&judge.spec, &columns(), &functions).unwrap();
        let mut progress = Progress::default();
        let judged =
            judge.records("s", &mut progress, &records(0, &[(Some(1), Some(0)), (Some(0), Some(1))]), None).unwrap();
        assert_eq!((judged.errors.len(), times(&judged.taken).len(), progress.at), (1, 2, 1));
    }

    #[test]
    fn a_statement_is_judged_as_a_whole_and_a_changed_row_is_never_late() {
        let judge = judge(0);
        let mut progress = Progress::default();
        let write = |progress: &mut Progress, n, rows: &[(i64, i64, i64, i64)]| {
            let rows: Vec<_> = rows
                .iter()
                .map(|(ts, says, id, diff)| {
                    (vec![Some(ts.to_string()), Some(says.to_string()), Some(id.to_string())], *diff)
                })
                .collect();
            judge.write(n, progress, &batch(&storage::types::arrow_schema(&columns()), &rows), &[2]).unwrap()
        };
        let first = write(&mut progress, 1, &[(100, 90, 1, 1), (1, 1, 2, 1)]);
        assert_eq!(first.late.num_rows(), 0);
        let second =
            write(&mut progress, 2, &[(89, 0, 3, 1), (90, 0, 4, 1), (100, 90, 1, -1), (5, 0, 1, 1), (1, 1, 2, -1)]);
        assert_eq!(times(&second.late), [Some(89)]);
        assert_eq!(second.taken.num_rows(), 4);
        let ids: Vec<Option<&str>> = second.late.column(4).as_string_view().iter().collect();
        assert_eq!(ids, [Some("2:0")]);
    }

    #[test]
    fn the_least_split_is_announced_and_idle_ones_are_left_out() {
        let split = |at, idle| SplitTime { at, idle };
        assert_eq!(announce(&[split(5, false), split(9, false)], i64::MIN), 5);
        assert_eq!(announce(&[split(5, true), split(9, false)], i64::MIN), 9);
        assert_eq!(announce(&[split(5, true), split(9, true)], i64::MIN), 9);
        assert_eq!(announce(&[split(i64::MIN, false), split(9, false)], 3), 3);
        assert_eq!(announce(&[split(5, false)], 7), 7);
        assert_eq!(announce(&[], i64::MIN), i64::MIN);
    }
}
