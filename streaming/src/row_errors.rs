//! What a job keeps of the rows and records that failed: `<name>$errors`, so many and for so long; or that it stops at one

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, BinaryViewArray, BooleanArray, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use storage::{Batch, Column, Epoch, Relation, RelationId};

use crate::error::Result;
use crate::operator::RowError;

/// The columns of every `<name>$errors`.
pub fn error_columns() -> Vec<Column> {
    use storage::SqlType::*;
    let mut columns = vec![
        Column::new("error_id", BigInt),
        Column::new("split", Text),
        Column::new("offset", BigInt),
        Column::new("raw", Bytea),
        Column::new("reason", Text),
        Column::new("sqlstate", Text),
        Column::new("at", TimestampTz),
    ];
    columns[0].not_null = true;
    columns
}

/// The key of what becomes of a job's rows that fail; without it they go to the table.
pub fn on_error_key(relation: RelationId) -> Vec<u8> {
    format!("engine/on_error/{}", relation.0).into_bytes()
}

/// What becomes of a row that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It goes to `<name>$errors`, and the job goes on.
    #[default]
    Table,
    /// The job stops.
    Fail,
}

/// How many errors are kept of a job, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct ErrorsKept {
    /// So many, the newest.
    pub max: usize,
    /// No longer than this.
    pub time: Duration,
}

/// Errors kept of one epoch and worker: more are dropped, since a broken stream must not fill the disk in a second.
const ERRORS_PER_EPOCH_MAX: usize = 10_000;
/// What is kept of a record that failed.
const RAW_BYTES_MAX: usize = 64 << 10;
/// How many more there may be before the oldest are looked for, as a part of those that are kept.
const SLACK_PART: usize = 10;
/// How often old errors are looked for, in microseconds.
const LOOK_INTERVAL_US: i64 = 60 * 1_000_000;

fn now_us() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// The rows of `$errors` for what failed in an epoch, and how many were too many. A retraction of a failed row is no new
/// error.
pub fn error_batch(epoch: u64, worker: usize, errors: Vec<RowError>) -> Result<(Batch, usize)> {
    let mut errors: Vec<RowError> = errors.into_iter().filter(|e| e.diff > 0).collect();
    let dropped = errors.len().saturating_sub(ERRORS_PER_EPOCH_MAX);
    errors.truncate(ERRORS_PER_EPOCH_MAX);
    let n = errors.len();
    let id = |i: usize| (epoch << 22 | (worker as u64 & 0xff) << 14 | i as u64) as i64;
    let raw = |e: &RowError| e.raw.as_deref().map(|raw| raw[..raw.len().min(RAW_BYTES_MAX)].to_vec());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values((0..n).map(id))),
        Arc::new(errors.iter().map(|e| e.split.as_deref()).collect::<StringViewArray>()),
        Arc::new(errors.iter().map(|e| e.offset).collect::<Int64Array>()),
        Arc::new(errors.iter().map(raw).collect::<BinaryViewArray>()),
        Arc::new(errors.iter().map(|e| Some(e.reason.as_str())).collect::<StringViewArray>()),
        Arc::new(errors.iter().map(|e| Some(e.sqlstate.as_str())).collect::<StringViewArray>()),
        Arc::new(TimestampMicrosecondArray::from_value(now_us(), n).with_timezone("UTC")),
    ];
    let schema = storage::types::arrow_schema(&error_columns());
    Ok((Batch::new(RecordBatch::try_new(schema, columns)?, None), dropped))
}

/// Takes old errors back out of `$errors`. One worker does it for all.
#[derive(Default)]
pub struct Retention {
    looked_at_us: i64,
    /// When errors were taken out last: what is older than that still has them.
    forgot_at: Epoch,
}

impl Retention {
    /// The errors to take out at `epoch`, when it is time to look for them.
    pub fn outdated(&mut self, relation: &Relation, epoch: Epoch, kept: ErrorsKept) -> Result<Option<Batch>> {
        let now = now_us();
        let newest = relation.newest();
        let rows = relation.rows_estimate() as usize;
        let many = rows > kept.max + kept.max / SLACK_PART;
        let long_ago = now - self.looked_at_us >= LOOK_INTERVAL_US;
        if rows == 0 || !(many || long_ago) || newest < self.forgot_at {
            return Ok(None);
        }
        self.looked_at_us = now;
        let outdated = outdated(relation, now.saturating_sub(kept.time.as_micros() as i64), kept.max)?;
        if outdated.is_some() {
            self.forgot_at = epoch;
        }
        Ok(outdated)
    }
}

/// The errors from before `since`, and the oldest of those beyond `kept`, as changes that take them out.
fn outdated(relation: &Relation, since: i64, kept: usize) -> Result<Option<Batch>> {
    let snapshot = relation.snapshot(relation.newest())?;
    let all = 0..storage::batch::VNODES;
    let mut ids: Vec<(i64, i64)> = Vec::new();
    for batch in snapshot.scan(Some(&[0, 6]), all.clone()) {
        let batch = batch?;
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        let numbers = batch.column(0).as_primitive::<Int64Type>();
        ids.extend(numbers.values().iter().copied().zip(times.values().iter().copied()));
    }
    // Ids grow with the epochs.
    ids.sort_unstable();
    let first_kept = ids.len().checked_sub(kept).and_then(|at| ids.get(at)).map_or(i64::MIN, |(id, _)| *id);
    let first_kept = if kept == 0 { i64::MAX } else { first_kept };
    let is_old = |id: i64, at: i64| id < first_kept || at < since;
    if !ids.iter().any(|(id, at)| is_old(*id, *at)) {
        return Ok(None);
    }
    let mut old = Vec::new();
    for batch in snapshot.scan(None, all) {
        let batch = batch?;
        let (ids, at) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(6));
        let at = at.as_primitive::<TimestampMicrosecondType>();
        let chosen = ids.values().iter().zip(at.values()).map(|(id, at)| Some(is_old(*id, *at)));
        old.push(Batch::inserts(filter_record_batch(&batch, &chosen.collect::<BooleanArray>())?).negate());
    }
    Ok(Some(Batch::concat(&snapshot.schema(), &old)?))
}

#[cfg(test)]
mod tests {
    use storage::{RelationSpec, Store};

    use super::*;

    fn error(reason: &str) -> RowError {
        RowError { split: None, offset: None, raw: None, reason: reason.into(), sqlstate: "22012".into(), diff: 1 }
    }

    #[test]
    fn keeps_the_newest_and_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), storage::StoreOptions::default()).unwrap();
        let schema = storage::types::arrow_schema(&error_columns());
        let relation = store.relation(RelationSpec::new(RelationId(1), schema, vec![0], true)).unwrap();
        for epoch in 1..=3 {
            let (batch, dropped) = error_batch(epoch, 0, vec![error("a"), error("b")]).unwrap();
            assert_eq!((batch.num_rows(), dropped), (2, 0));
            relation.publish(0, Epoch(epoch), &batch).unwrap();
            relation.advance(Epoch(epoch));
        }
        assert!(outdated(&relation, 0, 6).unwrap().is_none());
        let old = outdated(&relation, 0, 4).unwrap().unwrap();
        let mut ids = old.data().column(0).as_primitive::<Int64Type>().values().to_vec();
        ids.sort_unstable();
        assert_eq!(ids, [1 << 22, 1 << 22 | 1]);
        assert_eq!((old.diff(0), old.diff(1)), (-1, -1));
        relation.publish(0, Epoch(4), &old).unwrap();
        relation.advance(Epoch(4));
        assert_eq!(relation.snapshot(Epoch(4)).unwrap().rows_estimate(), 4);
        assert_eq!(outdated(&relation, i64::MAX, 4).unwrap().unwrap().num_rows(), 4);
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let (batch, dropped) = error_batch(1, 0, vec![error("a"); ERRORS_PER_EPOCH_MAX + 5]).unwrap();
        assert_eq!((batch.num_rows(), dropped), (ERRORS_PER_EPOCH_MAX, 5));
        let long = RowError { raw: Some(vec![b'x'; RAW_BYTES_MAX + 1]), ..error("a") };
        let (batch, _) = error_batch(1, 0, vec![long]).unwrap();
        assert_eq!(batch.column(3).as_binary_view().value(0).len(), RAW_BYTES_MAX);
    }
}
