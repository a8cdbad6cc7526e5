//! Adds `window_start` and `window_end` of the tumbling window that a row's time falls into. Rows without a time are
//! dropped.
//!
//! Rule    start = the largest `offset + n * size` that is not after the time; end = start + size. An infinite time
//!         lies in an infinite window.
//! State   None.
//! Epochs  Emits while the epoch is open.
//! Limits  None.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::error::Result;
use crate::operator::{Exchange, Operator, Output, Progress, Task, TaskContext, WatermarkContext};
use crate::watermark::Watermarks;

/// Adds `window_start` and `window_end` of the tumbling window that a row's time falls into. Rows without a time are dropped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tumble {
    /// The column with the event time (timestamp or timestamptz).
    pub time: usize,
    /// Length of a window in microseconds; positive.
    pub size_us: i64,
    /// Shift of the window starts against 1970-01-01 in microseconds.
    pub offset_us: i64,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Tumble {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Ok(Box::new(TumbleTask { node: self.clone() }))
    }
    fn describe(&self) -> String {
        let offset = if self.offset_us == 0 { String::new() } else { format!(", offset {} us", self.offset_us) };
        format!("time ${}, size {} us{offset}", self.time, self.size_us)
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let mut marks = inputs[0].clone();
        let time = marks.get(self.time).copied().flatten();
        marks.resize(self.schema.fields().len() - 2, None);
        let start = time.map(|time| time.map(|at| window_start(at, self.size_us, self.offset_us)));
        marks.push(start);
        marks.push(start.map(|start| start.map(|at| window_end(at, self.size_us))));
        marks
    }
}

struct TumbleTask {
    node: Tumble,
}

impl Task for TumbleTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let times = delta.column(self.node.time);
        let timed = match times.nulls() {
            Some(nulls) if nulls.null_count() > 0 => delta.filter(&BooleanArray::new(nulls.inner().clone(), None))?,
            _ => delta.clone(),
        };
        let times = timed.column(self.node.time).as_primitive::<TimestampMicrosecondType>();
        let (size, offset) = (self.node.size_us, self.node.offset_us);
        let starts = times.unary::<_, TimestampMicrosecondType>(|time| window_start(time, size, offset));
        let ends = starts.unary::<_, TimestampMicrosecondType>(|start| window_end(start, size));
        let zone = times.timezone().map(Into::<Arc<str>>::into);
        let mut columns = timed.data().columns().to_vec();
        for bound in [starts, ends] {
            columns.push(Arc::new(bound.with_timezone_opt(zone.clone())) as ArrayRef);
        }
        out.emit(timed.with_data(RecordBatch::try_new(self.node.schema.clone(), columns)?));
        Ok(Progress::Done)
    }
}

fn window_start(time: i64, size: i64, offset: i64) -> i64 {
    if time == i64::MAX || time == i64::MIN {
        return time;
    }
    let into = (i128::from(time) - i128::from(offset)).rem_euclid(i128::from(size));
    (i128::from(time) - into).max(i128::from(i64::MIN)) as i64
}

fn window_end(start: i64, size: i64) -> i64 {
    if start == i64::MIN { start } else { start.saturating_add(size) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;
    use crate::testing::schema;

    #[test]
    fn windows_begin_at_the_offset() {
        assert_eq!(window_start(25, 10, 0), 20);
        assert_eq!(window_start(-1, 10, 0), -10);
        assert_eq!(window_start(25, 10, 7), 17);
        assert_eq!(window_start(i64::MAX, 10, 7), i64::MAX);
        assert_eq!(window_end(i64::MIN, 10), i64::MIN);
        assert_eq!(window_start(i64::MIN + 1, 10, 0), i64::MIN);
    }

    oracle!(
        tumble,
        Tumble {
            time: 0,
            size_us: 7_200_000_000,
            offset_us: 3_600_000_000,
            schema: schema("ts timestamp, a bigint, window_start timestamp, window_end timestamp"),
        },
        ["ts timestamp, a bigint"],
        "select ts, a, s, s + interval '2 hours' from (select ts, a,
         date_bin(interval '2 hours', ts, timestamp '1970-01-01 01:00:00') s from t0 where ts is not null)"
    );
}
