//! Drops the groups that lie below the watermark of a group column. The rows that are out stay out.

use arrow::array::Array;
use storage::StateTable;

use super::{EXPIRES, FLAGS, Groups, LIVE, STORED};
use crate::error::Result;
use crate::expiry::{DROPPED_PER_STEP, Expiry};
use crate::operator::{OUTPUT_ROWS_MAX, Progress, Seal};
use crate::watermark;

/// Groups by the value of one of their columns.
pub(super) struct ByColumn {
    /// Which of the group columns.
    column: usize,
    pub(super) expiry: Expiry,
    /// Groups that were emitted since, some of which are new.
    pub(super) fresh: Vec<u32>,
}

impl Groups {
    /// Drops what lies below the watermark, if there is one; `More` if there was too much for one step.
    pub(super) fn expire(&mut self, at: &Seal, tables: &mut [StateTable; 2]) -> Result<Progress> {
        if self.expiry.is_none() {
            let bounded = |c: &usize| at.watermark(0, *c).is_some_and(|mark| mark.bounds_state());
            let Some(column) = self.layout.group.iter().position(bounded) else { return Ok(Progress::Done) };
            let live = |number: &u32| self.record(*number)[FLAGS] & LIVE != 0;
            let fresh = (0..self.capacity() as u32).filter(live).collect();
            self.expiry = Some(ByColumn { column, expiry: Expiry::default(), fresh });
        }
        self.take_up_fresh()?;
        let Some(by) = &mut self.expiry else { return Ok(Progress::Done) };
        let column = by.column;
        let Some(bound) = at.bound(0, self.layout.group[column]) else { return Ok(Progress::Done) };
        let mut numbers = by.expiry.take_below(bound, DROPPED_PER_STEP);
        let more = by.expiry.has_below(bound);
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| self.record(*number)[FLAGS] & LIVE != 0);
        for numbers in numbers.chunks(OUTPUT_ROWS_MAX) {
            let keys = self.key_columns(numbers)?;
            let values = watermark::values(&keys[column]);
            let vnodes = storage::batch::vnodes(&keys, numbers.len());
            for (i, &number) in numbers.iter().enumerate() {
                // The number may have been given to another group since.
                if values.is_null(i) || values.value(i) >= bound {
                    continue;
                }
                if self.record(number)[FLAGS] & STORED != 0 {
                    self.delete_stored(number, vnodes[i], tables)?;
                }
                self.remove(number);
            }
        }
        Ok(if more { Progress::More } else { Progress::Done })
    }

    pub(super) fn capacity(&self) -> usize {
        self.words.len() / self.layout.stride
    }

    fn take_up_fresh(&mut self) -> Result<()> {
        let Some(by) = &mut self.expiry else { return Ok(()) };
        let column = by.column;
        let mut fresh = std::mem::take(&mut by.fresh);
        fresh.retain(|number| self.record(*number)[FLAGS] & (LIVE | EXPIRES) == LIVE);
        for numbers in fresh.chunks(OUTPUT_ROWS_MAX) {
            let keys = self.key_columns(numbers)?;
            let values = watermark::values(&keys[column]);
            for (i, &number) in numbers.iter().enumerate() {
                self.words[number as usize * self.layout.stride + FLAGS] |= EXPIRES;
                if let Some(by) = self.expiry.as_mut().filter(|_| values.is_valid(i)) {
                    by.expiry.add(values.value(i), number);
                }
            }
        }
        Ok(())
    }

    /// The group and its values leave the store with the next checkpoint.
    fn delete_stored(&mut self, number: u32, vnode: u8, tables: &mut [StateTable; 2]) -> Result<()> {
        let key = self.key_bytes(number);
        tables[0].delete(vnode, &key);
        let n = self.prototypes.len();
        for own in 0..n {
            let accumulator = self.own[number as usize * n + own].as_mut();
            if accumulator.is_some_and(|accumulator| accumulator.multiset().is_some()) {
                for (entry, _) in tables[1].scan_prefix(vnode, &super::values_prefix(own, &key))? {
                    tables[1].delete(vnode, &entry);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Aggregate;
    use crate::aggregates::{AggregateCall, AggregateKind};
    use crate::testing::{Counted, TestTask, accumulate, batch, schema};
    use crate::watermark::Watermark;

    fn call(kind: AggregateKind, args: Vec<usize>, returns: arrow_schema::DataType) -> AggregateCall {
        AggregateCall { kind, args, order: vec![], filter: None, distinct: false, returns }
    }

    /// Rows of windows of 10, over an hour of them: as many groups are kept in the end as after the first windows.
    fn hour(group: Vec<usize>, out: &str) {
        use arrow_schema::DataType::Int64;
        let input = schema("w bigint, k text, v bigint");
        let calls = vec![call(AggregateKind::Count, vec![], Int64), call(AggregateKind::Min, vec![2], Int64)];
        let columns = group.len();
        let node = Aggregate { group, calls, append_only: false, partials: None, schema: schema(out) };
        let mut task = TestTask::new(node, std::slice::from_ref(&input), 2);
        let (mut said, mut most) = (Counted::new(), 0);
        for second in 0..3600i64 {
            let rows: Vec<_> = (0..3)
                .map(|i| {
                    // Up to 15 behind, and the watermark is 20 behind.
                    let at = second - (second * 7 + i) % 16;
                    let row = [at.div_euclid(10) * 10, i % 2, at].map(|v| Some(v.to_string()));
                    (row.to_vec(), 1)
                })
                .collect();
            task.apply(0, &batch(&input, &rows));
            let at = (second - 20).div_euclid(10) * 10;
            let mark = Watermark { at, floor: at, lateness: false, retracts: false };
            let (batches, errors) = task.seal_with(second % 5 == 0, vec![vec![Some(mark), None, None]]);
            assert!(errors.is_empty());
            accumulate(&mut said, &batches);
            if second == 100 {
                most = task.state_rows();
            }
            if second > 100 {
                assert!(task.state_rows() <= most + 2 * columns as u64, "{} rows at {second}", task.state_rows());
            }
            if second % 1000 == 999 {
                task.seal_with(true, vec![vec![Some(mark), None, None]]);
                task.restart(1 + second as usize % 3);
            }
        }
        // Every window stays in the output, with all its rows.
        let windows = said.len() as i64 / columns as i64;
        assert!((360..=363).contains(&windows), "{windows} windows");
        let count = |row: &String| row.trim_matches(['(', ')']).split(',').nth(columns).unwrap().parse::<i64>().unwrap();
        assert_eq!(said.keys().map(count).sum::<i64>(), 3 * 3600);
    }

    #[test]
    fn state_is_flat_by_window() {
        hour(vec![0], "w bigint, n bigint, least bigint");
    }

    #[test]
    fn state_is_flat_by_window_and_key() {
        hour(vec![1, 0], "k text, w bigint, n bigint, least bigint");
    }

    #[test]
    fn nothing_is_dropped_where_rows_may_still_be_taken_back() {
        let input = schema("w bigint, v bigint");
        let calls = vec![call(AggregateKind::Count, vec![], arrow_schema::DataType::Int64)];
        let node = Aggregate { group: vec![0], calls, append_only: false, partials: None, schema: schema("w bigint, n bigint") };
        let mut task = TestTask::new(node, std::slice::from_ref(&input), 1);
        let row = |diff| batch(&input, &[(vec![Some("1".into()), None], diff)]);
        let mark = Watermark { at: 100, floor: 100, lateness: false, retracts: true };
        task.apply(0, &row(2));
        task.seal_with(true, vec![vec![Some(mark), None]]);
        assert_eq!(task.state_rows(), 1);
        task.apply(0, &row(-1));
        let mut said = Counted::new();
        accumulate(&mut said, &task.seal_with(true, vec![vec![Some(mark), None]]).0);
        assert_eq!(said.into_iter().collect::<Vec<_>>(), [("(1,1)".to_string(), 1), ("(1,2)".to_string(), -1)]);
    }
}
