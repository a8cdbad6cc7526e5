//! Takes out of what a job set aside what is too much, too old, or was put through again.
//!
//! `<name>$errors` and `<name>$late` are relations of the job, so what goes is a change of an epoch like any other: whoever
//! reads them sees it go, and it is as durable as the rest of the epoch. One worker does it for all.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use storage::{Batch, Epoch, Relation};

use crate::error::Result;
use crate::row_errors::{AT, ATTEMPTS, ERROR_ID, ErrorsKept, OFFSET, REASON, SPLIT, SQLSTATE, now_us};

/// How many more there may be before the oldest are looked for, as a part of those that are kept.
const SLACK_PART: usize = 10;
/// How often old ones are looked for, in microseconds.
const LOOK_INTERVAL_US: i64 = 60 * 1_000_000;

/// What became of errors that were tried again.
#[derive(Debug, Default)]
pub struct Tried {
    /// Records that are rows of the source now: their splits and offsets, and the epoch that they are rows from.
    pub entered: Vec<(u64, String, i64)>,
    /// Errors that are no more, by their ids.
    pub left: Vec<i64>,
    /// Errors that failed again, by their ids: the reason and the SQLSTATE now.
    pub failed: HashMap<i64, (String, String)>,
}

impl Tried {
    /// What is known by the end of `epoch`.
    pub fn until(&mut self, epoch: u64) -> Tried {
        Tried {
            entered: self.entered.extract_if(.., |(entered, ..)| *entered <= epoch).collect(),
            left: std::mem::take(&mut self.left),
            failed: std::mem::take(&mut self.failed),
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entered.is_empty() && self.left.is_empty() && self.failed.is_empty()
    }
}

/// What goes out of a relation, and what comes back in another form.
#[derive(Default)]
pub struct Outdated {
    /// The changes.
    pub changes: Vec<Batch>,
    /// How many rows were dropped since they were too many or too old.
    pub dropped: usize,
}

/// Watches over one of the relations of what was set aside.
pub struct Retention {
    /// The column that says when.
    time: usize,
    /// The column that tells the order of those of the same moment, if any does.
    id: Option<usize>,
    looked_at_us: i64,
    /// When something was taken out last: what is older than that still has it.
    changed_at: Epoch,
}

impl Retention {
    /// Of `<name>$errors`.
    pub fn of_errors() -> Retention {
        Retention { time: AT, id: Some(ERROR_ID), looked_at_us: 0, changed_at: Epoch(0) }
    }

    /// Of `<name>$late`, whose column `time` says when.
    pub fn of_late(time: usize) -> Retention {
        Retention { time, id: None, looked_at_us: 0, changed_at: Epoch(0) }
    }

    /// What goes at `epoch`: what is known of those that were `tried` again, and, when it is time to look for them, those
    /// that are too many or too old.
    pub fn outdated(&mut self, relation: &Relation, epoch: Epoch, kept: ErrorsKept, tried: &Tried) -> Result<Outdated> {
        let now = now_us();
        let rows = relation.rows_estimate() as usize;
        let many = rows > kept.max + kept.max / SLACK_PART;
        let long_ago = now - self.looked_at_us >= LOOK_INTERVAL_US;
        let looks = (rows > 0 && (many || long_ago)) || !tried.is_empty();
        if !looks || relation.newest() < self.changed_at {
            return Ok(Outdated::default());
        }
        self.looked_at_us = now;
        let outdated = self.look(relation, now.saturating_sub(kept.time.as_micros() as i64), kept.max, tried)?;
        if !outdated.changes.is_empty() {
            self.changed_at = epoch;
        }
        Ok(outdated)
    }

    /// Those from before `since`, the oldest of those beyond `kept`, and those that were tried again.
    fn look(&self, relation: &Relation, since: i64, kept: usize, tried: &Tried) -> Result<Outdated> {
        let snapshot = relation.snapshot(relation.newest())?;
        let all = 0..storage::batch::VNODES;
        let mut ages: Vec<(i64, i64)> = Vec::new();
        let columns: Vec<usize> = self.id.into_iter().chain([self.time]).collect();
        for batch in snapshot.scan(Some(&columns), all.clone()) {
            let batch = batch?;
            let times = batch.column(batch.num_columns() - 1).as_primitive::<TimestampMicrosecondType>().values();
            match self.id {
                Some(_) => {
                    let ids = batch.column(0).as_primitive::<Int64Type>().values();
                    ages.extend(times.iter().copied().zip(ids.iter().copied()));
                }
                // Any order will do, as long as it is that of the next scan.
                None => {
                    let first = ages.len() as i64;
                    ages.extend(times.iter().copied().zip(first..));
                }
            }
        }
        ages.sort_unstable();
        let first_kept = match ages.len().checked_sub(kept) {
            Some(at) => ages.get(at).copied().unwrap_or((i64::MAX, i64::MAX)),
            None => (i64::MIN, i64::MIN),
        };
        let is_old = |at: i64, id: i64| (at, id) < first_kept || at < since;
        let mut outdated = Outdated::default();
        if tried.is_empty() && !ages.iter().any(|(at, id)| is_old(*at, *id)) {
            return Ok(outdated);
        }
        let entered: HashSet<(&str, i64)> = tried.entered.iter().map(|(_, split, at)| (split.as_str(), *at)).collect();
        let left: HashSet<i64> = tried.left.iter().copied().collect();
        let mut seen = 0;
        for batch in snapshot.scan(None, all) {
            let batch = batch?;
            let first = seen;
            seen += batch.num_rows() as i64;
            let at = batch.column(self.time).as_primitive::<TimestampMicrosecondType>();
            let id = |row: usize| match self.id {
                Some(column) => batch.column(column).as_primitive::<Int64Type>().value(row),
                None => first + row as i64,
            };
            let mut goes = vec![false; batch.num_rows()];
            let mut fails = vec![false; batch.num_rows()];
            for row in 0..batch.num_rows() {
                let was_tried = !tried.is_empty() && (left.contains(&id(row)) || has_entered(&batch, row, &entered));
                fails[row] = !was_tried && tried.failed.contains_key(&id(row));
                let old = !was_tried && !fails[row] && is_old(at.value(row), id(row));
                outdated.dropped += usize::from(old);
                goes[row] = was_tried || old || fails[row];
            }
            if goes.contains(&true) {
                let gone = filter_record_batch(&batch, &BooleanArray::from(goes))?;
                outdated.changes.push(Batch::inserts(gone).negate());
            }
            if fails.contains(&true) {
                let failed = filter_record_batch(&batch, &BooleanArray::from(fails))?;
                outdated.changes.push(Batch::inserts(failed_again(&failed, &tried.failed)?));
            }
        }
        Ok(outdated)
    }
}

/// Whether the record of an error is a row of the source now.
fn has_entered(batch: &RecordBatch, row: usize, entered: &HashSet<(&str, i64)>) -> bool {
    let splits = batch.column(SPLIT).as_string_view();
    let offsets = batch.column(OFFSET).as_primitive::<Int64Type>();
    splits.is_valid(row) && offsets.is_valid(row) && entered.contains(&(splits.value(row), offsets.value(row)))
}

/// Errors that were tried once more.
fn failed_again(batch: &RecordBatch, why: &HashMap<i64, (String, String)>) -> Result<RecordBatch> {
    let ids = batch.column(ERROR_ID).as_primitive::<Int64Type>();
    let why: Vec<&(String, String)> = ids.values().iter().map(|id| &why[id]).collect();
    let mut columns = batch.columns().to_vec();
    columns[REASON] = Arc::new(why.iter().map(|(reason, _)| Some(reason.as_str())).collect::<StringViewArray>());
    columns[SQLSTATE] = Arc::new(why.iter().map(|(_, state)| Some(state.as_str())).collect::<StringViewArray>());
    let now = TimestampMicrosecondArray::from_value(now_us(), batch.num_rows()).with_timezone("UTC");
    columns[AT] = Arc::new(now) as ArrayRef;
    if let Some(attempts) = columns.get(ATTEMPTS) {
        let attempts = attempts.as_primitive::<Int32Type>().values().iter().map(|n| n.saturating_add(1));
        columns[ATTEMPTS] = Arc::new(Int32Array::from_iter_values(attempts));
    }
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// The ids of some errors.
pub fn error_ids(batch: &RecordBatch) -> &Int64Array {
    batch.column(ERROR_ID).as_primitive::<Int64Type>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use storage::{RelationId, RelationSpec, Store};

    use super::*;
    use crate::operator::RowError;
    use crate::row_errors::{Keeping, error_batch};

    const ALWAYS: Duration = Duration::from_secs(3600);

    fn error(reason: &str, offset: i64) -> RowError {
        let split = Some("s".to_owned());
        let (reason, sqlstate) = (reason.into(), "22012".into());
        RowError { split, offset: Some(offset), reason, sqlstate, diff: 1, ..RowError::default() }
    }

    struct Kept {
        _dir: tempfile::TempDir,
        relation: Arc<Relation>,
        retention: Retention,
    }

    /// Two errors in each of three epochs.
    fn kept() -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), storage::StoreOptions::default()).unwrap();
        let schema = storage::types::arrow_schema(&Keeping::default().columns());
        let relation = store.relation(RelationSpec::new(RelationId(1), schema, vec![0], true)).unwrap();
        for epoch in 1..=3 {
            let errors = vec![error("a", epoch as i64 * 2), error("b", epoch as i64 * 2 + 1)];
            let (batch, dropped) = error_batch(Keeping::default(), "s", epoch, 0, errors).unwrap();
            assert_eq!((batch.num_rows(), dropped), (2, 0));
            relation.publish(0, Epoch(epoch), &batch).unwrap();
            relation.advance(Epoch(epoch));
        }
        Kept { _dir: dir, relation, retention: Retention::of_errors() }
    }

    impl Kept {
        /// What goes at `epoch`, which is then over.
        fn outdated(&mut self, epoch: u64, max: usize, time: Duration, tried: &Tried) -> usize {
            let kept = ErrorsKept { max, time };
            let outdated = self.retention.outdated(&self.relation, Epoch(epoch), kept, tried).unwrap();
            outdated.changes.iter().for_each(|batch| self.relation.publish(0, Epoch(epoch), batch).unwrap());
            self.relation.advance(Epoch(epoch));
            outdated.dropped
        }

        fn offsets(&self) -> Vec<i64> {
            let snapshot = self.relation.snapshot(self.relation.newest()).unwrap();
            let batches: Vec<RecordBatch> =
                snapshot.scan(Some(&[OFFSET]), 0..storage::batch::VNODES).map(|batch| batch.unwrap()).collect();
            let offsets = batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec());
            let mut offsets: Vec<i64> = offsets.collect();
            offsets.sort_unstable();
            offsets
        }
    }

    #[test]
    fn keeps_the_newest_and_not_for_ever() {
        let mut kept = kept();
        assert_eq!(kept.outdated(4, 6, ALWAYS, &Tried::default()), 0);
        assert_eq!(kept.outdated(5, 4, ALWAYS, &Tried::default()), 2);
        assert_eq!(kept.offsets(), [4, 5, 6, 7]);
        assert_eq!(kept.outdated(6, 0, ALWAYS, &Tried::default()), 4);
        assert!(kept.offsets().is_empty());
        assert_eq!(self::kept().outdated(4, 9, Duration::ZERO, &Tried::default()), 6);
    }

    #[test]
    fn what_was_tried_goes_or_tells_of_it() {
        let mut kept = kept();
        let failed = (4 << 22 | 1, ("c".to_owned(), "22003".to_owned()));
        let mut tried = Tried::default();
        tried.entered = vec![(4, "s".into(), 2), (9, "s".into(), 3), (4, "other".into(), 6)];
        tried.left = vec![3 << 22];
        tried.failed = HashMap::from([failed, (2 << 22, ("c".into(), "22003".into()))]);
        let now = tried.until(4);
        assert_eq!(tried.entered.len(), 1, "what enters later is not known yet");
        assert_eq!(kept.outdated(4, 100, ALWAYS, &now), 0);
        assert_eq!(kept.offsets(), [3, 4, 5, 7]);
        let snapshot = kept.relation.snapshot(Epoch(4)).unwrap();
        let mut told = 0;
        for batch in snapshot.scan(None, 0..storage::batch::VNODES) {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                let again = batch.column(OFFSET).as_primitive::<Int64Type>().value(row) == 4;
                told += usize::from(again);
                let reason = batch.column(REASON).as_string_view().value(row).to_owned();
                assert_eq!((reason == "c", again), (again, again));
                let attempts = batch.column(ATTEMPTS).as_primitive::<Int32Type>().value(row);
                assert_eq!(attempts, 1 + i32::from(again));
            }
        }
        assert_eq!(told, 1);
    }
}
