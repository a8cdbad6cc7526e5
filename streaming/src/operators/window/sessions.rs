//! Sessions that a watermark has closed: their rows are dropped, since nothing that is said of them can change any more.
//!
//! ```text
//!  rows of a partition   x x  x     x x      x            a row continues a session up to its `end`: time and gap
//!  ends                  ───────┤   ─────┤   ─────┤
//!  watermark                          ▲                   the first session is closed: later rows are behind its end
//! ```

use std::collections::BTreeSet;

use arrow::array::Array;
use arrow_schema::DataType;
use storage::keys;

use super::{Row, Window};
use crate::error::Result;
use crate::expiry::DROPPED_PER_STEP;
use crate::operator::{Progress, Seal};
use crate::partitions::Partitions;
use crate::watermark::{self, Watermarks};
use crate::windows::{Bound, Exclude, Units, WindowCall, WindowKind};

/// Rows that are looked at together.
const STEP: usize = 256;

/// How far the sessions of an operator's partitions are closed.
pub(super) struct Sessions {
    /// The order column, and that with the last value of it that continues a row's session.
    time: usize,
    end: usize,
    /// Partitions by an end of their first session, and those changed since that was looked at.
    due: BTreeSet<(i64, u32)>,
    touched: Vec<u32>,
    /// Whether all partitions were looked at: from the first watermark on.
    begun: bool,
}

/// The order column of an operator whose functions all look at sessions, and the one with the sessions' ends.
pub(super) fn columns(node: &Window) -> Option<(usize, usize)> {
    let first = node.order.first().filter(|key| !key.descending)?;
    let end = |call: &WindowCall| match (&call.kind, call.frame.units, call.frame.end) {
        (
            WindowKind::FirstValue { .. }
            | WindowKind::LastValue { .. }
            | WindowKind::NthValue { .. }
            | WindowKind::Aggregate(_),
            Units::Session,
            Bound::Value(end),
        ) => Some(end),
        _ => None,
    };
    let one = end(node.calls.first()?)?;
    node.calls.iter().all(|call| end(call) == Some(one)).then_some((first.column, one))
}

/// What is known of what the functions say: a session that ends below the watermark does not change, so no change is of an
/// end below it.
pub(super) fn watermarks(node: &Window, input: &Watermarks, marks: &mut Watermarks) {
    let Some((time, end)) = columns(node) else { return };
    let behind = node.schema.fields().len() - node.calls.len();
    for (i, call) in node.calls.iter().enumerate() {
        let plain = call.filter.is_none() && call.frame.exclude == Exclude::NoOthers;
        if plain && call.kind == (WindowKind::LastValue { ignore_nulls: false }) && call.args == [end] {
            marks[behind + i] = input.get(time).copied().flatten();
        }
    }
}

impl Sessions {
    pub(super) fn of(node: &Window) -> Option<Sessions> {
        let (time, end) = columns(node)?;
        Some(Sessions { time, end, due: BTreeSet::new(), touched: Vec::new(), begun: false })
    }

    /// A partition changes in this epoch.
    pub(super) fn touch(&mut self, partition: u32) {
        if self.begun {
            self.touched.push(partition);
        }
    }

    /// Drops the rows of the sessions that are closed. `More`: there are more.
    pub(super) fn drop_closed(
        &mut self,
        partitions: &mut Partitions<Vec<Row>>,
        types: &[DataType],
        at: &Seal,
    ) -> Result<Progress> {
        let Some(bound) = at.bound(0, self.time) else { return Ok(Progress::Done) };
        if !std::mem::replace(&mut self.begun, true) {
            self.touched = partitions.numbers();
        }
        for number in std::mem::take(&mut self.touched) {
            let Some(first) = partitions.rows_of(number).and_then(|rows| rows.first()) else { continue };
            if let Some((_, end)) = self.times(types, std::slice::from_ref(first))?[0] {
                self.due.insert((end, number));
            }
        }
        let mut looked = 0;
        while let Some((end, number)) = self.due.first().copied().filter(|(end, _)| *end < bound) {
            if looked >= DROPPED_PER_STEP {
                return Ok(Progress::More);
            }
            self.due.remove(&(end, number));
            let Some(rows) = partitions.rows_of(number) else { continue };
            let (closed, open) = self.closed(types, rows, bound)?;
            looked += closed + 1;
            let gone = rows.drain(..closed).map(|row| row.key).collect();
            partitions.forget(number, gone);
            self.due.extend(open.map(|end| (end, number)));
        }
        Ok(Progress::Done)
    }

    /// How many of the first rows are in closed sessions, and the end of the first session that is open.
    fn closed(&self, types: &[DataType], rows: &[Row], bound: i64) -> Result<(usize, Option<i64>)> {
        let (mut closed, mut at, mut last) = (0, 0, None);
        for rows in rows.chunks(STEP) {
            for times in self.times(types, rows)? {
                if let Some(end) = last.filter(|end| times.is_none_or(|(time, _)| time > *end)) {
                    if end >= bound {
                        return Ok((closed, Some(end)));
                    }
                    closed = at;
                }
                // What has no time stands behind all that have one.
                let Some((_, end)) = times else { return Ok((closed, None)) };
                last = Some(end);
                at += 1;
            }
        }
        Ok(match last {
            Some(end) if end < bound => (at, None),
            last => (closed, last),
        })
    }

    /// The times and ends of rows that have both.
    fn times(&self, types: &[DataType], rows: &[Row]) -> Result<Vec<Option<(i64, i64)>>> {
        let columns = keys::decode(types, &[], rows.iter().map(|row| &row.key[row.order as usize..]))?;
        let (times, ends) = (watermark::values(&columns[self.time]), watermark::values(&columns[self.end]));
        let of = |i: usize| (times.is_valid(i) && ends.is_valid(i)).then(|| (times.value(i), ends.value(i)));
        Ok((0..rows.len()).map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::operator::Operator;
    use crate::operators::top_n::SortKey;
    use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};
    use crate::watermark::Watermark;
    use crate::windows::Frame;

    const INPUT: &str = "p bigint, o bigint, e bigint, v bigint";
    const GAP: i64 = 3;

    fn node() -> Window {
        let frame = Frame {
            units: Units::Session,
            start: Bound::Value(2),
            end: Bound::Value(2),
            exclude: Exclude::NoOthers,
        };
        let call = |kind, arg| WindowCall {
            kind,
            args: vec![arg],
            filter: None,
            frame: frame.clone(),
            returns: DataType::Int64,
        };
        Window {
            partition: vec![0],
            order: vec![SortKey { column: 1, descending: false, nulls_first: false }],
            calls: vec![
                call(WindowKind::FirstValue { ignore_nulls: false }, 1),
                call(WindowKind::LastValue { ignore_nulls: false }, 2),
            ],
            schema: schema("p bigint, o bigint, e bigint, v bigint, first bigint, last bigint"),
        }
    }

    fn mark(at: i64) -> Option<Watermark> {
        Some(Watermark { at, floor: at, lateness: false, retracts: false })
    }

    /// All rows that ever came, each with the bounds of its session; and how many are in sessions that can still change.
    fn expected(rows: &BTreeMap<(i64, i64, i64), i64>, bound: i64) -> (Counted, u64) {
        let (mut all, mut open) = (Counted::new(), 0);
        for (&(p, o, v), &count) in rows {
            let times: Vec<i64> = rows.keys().filter(|row| row.0 == p).map(|row| row.1).collect();
            let (mut first, mut last) = (o, o);
            while let Some(before) = times.iter().copied().filter(|t| *t < first && *t + GAP >= first).max() {
                first = before;
            }
            while let Some(next) = times.iter().copied().filter(|t| *t > last && *t <= last + GAP).min() {
                last = next;
            }
            all.insert(format!("({p},{o},{},{v},{first},{})", o + GAP, last + GAP), count);
            if last + GAP >= bound {
                open += count as u64;
            }
        }
        (all, open)
    }

    fn check(seed: u64, workers: usize, restart: Option<usize>) {
        let input = schema(INPUT);
        let mut task = TestTask::new(node(), &[input.clone()], workers);
        let mut random = Random::new(seed);
        let (mut rows, mut said, mut bound) = (BTreeMap::new(), Counted::new(), 0);
        for epoch in 0..40 {
            for _ in 0..random.below(5) {
                let (p, o, v) = (random.below(3) as i64, bound + random.below(9) as i64, random.below(2) as i64);
                let values = [p, o, o + GAP, v].map(|n| Some(n.to_string())).to_vec();
                task.apply(0, &batch(&input, &[(values, 1)]));
                *rows.entry((p, o, v)).or_default() += 1;
            }
            bound += random.below(4) as i64;
            let restarts = restart.filter(|_| epoch % 10 == 5);
            let marks = vec![None, mark(bound), None, None];
            let (batches, errors) = task.seal_with(restarts.is_some() || random.one_in(3), vec![marks]);
            assert!(errors.is_empty());
            accumulate(&mut said, &batches);
            let (all, open) = expected(&rows, bound);
            assert_eq!(said, all, "seed {seed}, {workers} workers, epoch {epoch}");
            assert!(task.state_rows() <= open, "seed {seed}, {workers} workers, epoch {epoch}");
            if let Some(workers) = restarts {
                task.restart(workers);
            }
        }
    }

    #[test]
    fn rows_of_closed_sessions_are_dropped_and_what_is_said_stays_right() {
        for seed in 0..6 {
            check(seed, 1, None);
            check(seed, 2, Some(4));
            check(seed, 4, Some(1));
        }
    }

    #[test]
    fn the_end_of_a_session_has_a_watermark() {
        let functions: std::sync::Arc<dyn crate::expr::Functions> = std::sync::Arc::new(crate::testing::TestFunctions);
        let context = crate::operator::WatermarkContext { inputs: &[schema(INPUT)], functions: &functions };
        let marks = node().watermarks(&[vec![None, mark(7), None, None]], &context);
        assert_eq!(marks, vec![None, None, None, None, None, mark(7)]);
    }
}
