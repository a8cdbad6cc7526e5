//! Adds `window_start` and `window_end` of each window that a row lies in: TUMBLE, HOP and CUMULATE, over a time or over
//! the number of a row. Rows without a time are dropped.
//!
//! Rule    Windows begin at `offset + n * slide` and hold what is `start <= time < end`. TUMBLE: one window of `size` a row.
//!         HOP: every window of `size` that holds the time; none where `slide > size` leaves a gap. CUMULATE: windows that
//!         begin together and end `step` after each other. An infinite time lies in one infinite window.
//! State   None.
//! Epochs  Emits while the epoch is open.
//! Limits  A batch with many windows a row is said in several activations.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::error::Result;
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Task, TaskContext, WatermarkContext,
};
use crate::watermark::Watermarks;

/// Adds `window_start` and `window_end` of each window that a row lies in. Rows without a time are dropped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TimeWindow {
    /// The column with the event time (timestamp or timestamptz), or with the row's number (bigint).
    pub time: usize,
    /// The windows.
    pub windows: Windows,
    /// The output columns.
    pub schema: SchemaRef,
}

/// Where windows begin and end: microseconds, or numbers of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Windows {
    /// Their lengths.
    pub shape: Shape,
    /// Shift of their starts against 1970-01-01, or against 0.
    pub offset: i64,
}

/// The lengths of windows; all positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// One window after the other.
    Tumble {
        /// Length of a window.
        size: i64,
    },
    /// A window begins every `slide`.
    Hop {
        /// From one start to the next.
        slide: i64,
        /// Length of a window.
        size: i64,
    },
    /// Windows that begin together and grow by `step` up to `size`.
    Cumulate {
        /// From one end to the next.
        step: i64,
        /// Length of the longest; a multiple of `step`.
        size: i64,
    },
}

impl Shape {
    /// How many windows a row may lie in.
    pub fn windows_max(self) -> i64 {
        match self {
            Shape::Tumble { .. } => 1,
            Shape::Hop { slide, size } => size / slide + i64::from(size % slide != 0),
            Shape::Cumulate { step, size } => size / step,
        }
    }
}

impl Windows {
    /// The windows that hold `time`, the earlier ones first.
    pub fn of(self, time: i64, mut hold: impl FnMut(i64, i64)) {
        if time == i64::MAX || time == i64::MIN {
            return hold(time, time);
        }
        // In more bits than a time has: a window may begin before the first and end after the last.
        let (time, offset) = (i128::from(time), i128::from(self.offset));
        let mut hold = |start: i128, end: i128| hold(clamped(start), clamped(end));
        let start = |every: i64| time - (time - offset).rem_euclid(i128::from(every));
        match self.shape {
            Shape::Tumble { size } => hold(start(size), start(size) + i128::from(size)),
            Shape::Hop { slide, size } => {
                let (last, slide, size) = (start(slide), i128::from(slide), i128::from(size));
                // Those that begin more than `size` ago have ended.
                let n = (size - (time - last) + slide - 1).div_euclid(slide);
                for i in (0..n).rev() {
                    hold(last - i * slide, last - i * slide + size);
                }
            }
            Shape::Cumulate { step, size } => {
                let (start, step) = (start(size), i128::from(step));
                let first = (time - start).div_euclid(step) + 1;
                for i in first..=i128::from(size).div_euclid(step) {
                    hold(start, start + i * step);
                }
            }
        }
    }
}

impl Windows {
    /// The first window that holds `time`; in a gap, one that is before those behind it.
    fn first(self, time: i64) -> (i64, i64) {
        let mut first = None;
        self.of(time, |start, end| {
            first.get_or_insert((start, end));
        });
        first.unwrap_or((time, time))
    }
}

fn clamped(time: i128) -> i64 {
    time.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Times, or numbers of rows, as integers.
pub fn integers(times: &ArrayRef) -> Int64Array {
    match times.data_type() {
        DataType::Int64 => times.as_primitive::<Int64Type>().clone(),
        _ => times.as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>(),
    }
}

/// The same of `data_type`.
pub fn times(integers: Vec<i64>, data_type: &DataType) -> ArrayRef {
    let integers = Int64Array::from(integers);
    match data_type {
        DataType::Timestamp(_, zone) => {
            Arc::new(integers.reinterpret_cast::<TimestampMicrosecondType>().with_timezone_opt(zone.clone()))
        }
        _ => Arc::new(integers),
    }
}

impl Operator for TimeWindow {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Ok(Box::new(TimeWindowTask { node: self.clone(), left: None }))
    }
    fn describe(&self) -> String {
        format!("time ${}, {:?}", self.time, self.windows)
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let mut marks = inputs[0].clone();
        let time = marks.get(self.time).copied().flatten();
        marks.resize(self.schema.fields().len() - 2, None);
        // Rows from `at` on lie in the first window that holds `at`, or in later ones.
        marks.push(time.map(|time| time.map(|at| self.windows.first(at).0)));
        marks.push(time.map(|time| time.map(|at| self.windows.first(at).1)));
        marks
    }
}

struct TimeWindowTask {
    node: TimeWindow,
    /// A batch of rows with a time, and the first of them whose windows are not said yet.
    left: Option<(Batch, usize)>,
}

impl Task for TimeWindowTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let times = delta.column(self.node.time);
        let timed = match times.nulls() {
            Some(nulls) if nulls.null_count() > 0 => delta.filter(&BooleanArray::new(nulls.inner().clone(), None))?,
            _ => delta.clone(),
        };
        self.left = Some((timed, 0));
        self.resume(out)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        let Some((batch, mut row)) = self.left.take() else { return Ok(Progress::Done) };
        let time = batch.column(self.node.time).clone();
        let integers = integers(&time);
        while row < batch.num_rows() {
            if out.is_full() {
                self.left = Some((batch, row));
                return Ok(Progress::More);
            }
            let (mut rows, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
            while row < batch.num_rows() && rows.len() < OUTPUT_ROWS_MAX {
                self.node.windows.of(integers.value(row), |start, end| {
                    rows.push(row as u32);
                    starts.push(start);
                    ends.push(end);
                });
                row += 1;
            }
            // One window for every row of the batch: nothing moves.
            let all = rows.len() == batch.num_rows() && rows.iter().enumerate().all(|(i, row)| i == *row as usize);
            let rows = if all { batch.clone() } else { batch.take(&UInt32Array::from(rows))? };
            let mut columns = rows.data().columns().to_vec();
            columns.extend([starts, ends].map(|bounds| times(bounds, time.data_type())));
            out.emit(rows.with_data(RecordBatch::try_new(self.node.schema.clone(), columns)?));
        }
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;
    use crate::testing::schema;

    fn of(shape: Shape, offset: i64, time: i64) -> Vec<(i64, i64)> {
        let mut windows = vec![];
        Windows { shape, offset }.of(time, |start, end| windows.push((start, end)));
        assert!(windows.len() as i64 <= shape.windows_max());
        windows
    }

    #[test]
    fn windows_begin_at_the_offset() {
        let tumble = Shape::Tumble { size: 10 };
        assert_eq!(of(tumble, 0, 25), [(20, 30)]);
        assert_eq!(of(tumble, 0, -1), [(-10, 0)]);
        assert_eq!(of(tumble, 7, 25), [(17, 27)]);
        assert_eq!(of(tumble, 7, i64::MAX), [(i64::MAX, i64::MAX)]);
        assert_eq!(of(tumble, 0, i64::MIN + 1), [(i64::MIN, i64::MIN + 8)]);
    }

    #[test]
    fn a_time_lies_in_each_window_that_has_not_ended() {
        let hop = |slide, size| Shape::Hop { slide, size };
        assert_eq!(of(hop(5, 10), 0, 12), [(5, 15), (10, 20)]);
        assert_eq!(of(hop(5, 10), 0, 15), [(10, 20), (15, 25)]);
        assert_eq!(of(hop(5, 12), 0, 11), [(0, 12), (5, 17), (10, 22)]);
        assert_eq!(of(hop(5, 12), 0, 13), [(5, 17), (10, 22)]);
        assert_eq!(of(hop(5, 10), 3, -1), [(-7, 3), (-2, 8)]);
        // Windows with gaps between them.
        assert_eq!(of(hop(10, 3), 0, 22), [(20, 23)]);
        assert_eq!(of(hop(10, 3), 0, 23), []);
        assert_eq!(of(hop(5, 10), 0, i64::MIN), [(i64::MIN, i64::MIN)]);
    }

    #[test]
    fn windows_grow_by_steps() {
        let cumulate = Shape::Cumulate { step: 5, size: 15 };
        assert_eq!(of(cumulate, 0, 0), [(0, 5), (0, 10), (0, 15)]);
        assert_eq!(of(cumulate, 0, 9), [(0, 10), (0, 15)]);
        assert_eq!(of(cumulate, 1, 15), [(1, 16)]);
    }

    const INPUT: &str = "ts timestamp, a bigint";

    fn node(shape: Shape, offset: i64) -> TimeWindow {
        let schema = schema("ts timestamp, a bigint, window_start timestamp, window_end timestamp");
        TimeWindow { time: 0, windows: Windows { shape, offset }, schema }
    }

    const HOUR: i64 = 3_600_000_000;

    oracle!(
        tumble,
        node(Shape::Tumble { size: 2 * HOUR }, HOUR),
        [INPUT],
        "select ts, a, s, s + interval '2 hours' from (select ts, a,
         date_bin(interval '2 hours', ts, timestamp '1970-01-01 01:00:00') s from t0 where ts is not null)"
    );
    // The windows that begin in the last three slides, if they have not ended.
    oracle!(
        hop,
        node(Shape::Hop { slide: 2 * HOUR, size: 5 * HOUR }, HOUR),
        [INPUT],
        "select ts, a, s, s + interval '5 hours' from (select ts, a,
         date_bin(interval '2 hours', ts, timestamp '1970-01-01 01:00:00') - n s from t0
         cross join (values (interval '0 hours'), (interval '2 hours'), (interval '4 hours')) v(n) where ts is not null) where ts < s + interval '5 hours'"
    );
    oracle!(
        cumulate,
        node(Shape::Cumulate { step: 2 * HOUR, size: 6 * HOUR }, 0),
        [INPUT],
        "select ts, a, s, s + n from (select ts, a, n,
         date_bin(interval '6 hours', ts, timestamp '1970-01-01 00:00:00') s
         from t0 cross join (values (interval '2 hours'), (interval '4 hours'), (interval '6 hours')) v(n)
         where ts is not null) where ts < s + n"
    );
}
