//! Watermarks: what is known of a column's values in all later epochs.
//!
//! ```text
//!  source, table ──▶ tap (epoch e: ts >= w) ──▶ filter ──▶ tumble: window_start >= w' ──▶ aggregate by window_start
//! ```
//!
//! A watermark belongs to a column of a node's output *as of an epoch*: it bounds the changes of all epochs behind it. What
//! the taps of a job know as of its target is fixed before the target is given out, and each operator says what follows
//! from it for its own output ([`Operator::watermarks`]): a pure function, so all workers know the same. A task gets the
//! watermarks of its inputs with the seal ([`Seal::watermark`]): there it closes windows and drops state.
//!
//! Values are in the column's own unit: microseconds of a timestamp, days of a date, whole numbers.
//!
//! [`Operator::watermarks`]: crate::operator::Operator::watermarks
//! [`Seal::watermark`]: crate::operator::Seal::watermark

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::expr::{self, Expr, Functions};

/// What is known of one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// What lies below is complete, but for what the allowed lateness lets in: windows below it close. `i64::MIN` while
    /// nothing is known yet.
    pub at: i64,
    /// No new row below this will come: `at` less the allowed lateness.
    pub floor: i64,
    /// Whether `floor` may be less than `at`.
    pub lateness: bool,
    /// Whether rows below the floor may still be changed or deleted: those of a table that is not append-only.
    pub retracts: bool,
}

/// What is known of each column of a node's output.
pub type Watermarks = Vec<Option<Watermark>>;

impl Watermark {
    /// There is a watermark, and nothing is known of its value yet.
    pub fn unknown(lateness: bool, retracts: bool) -> Watermark {
        Watermark { at: i64::MIN, floor: i64::MIN, lateness, retracts }
    }

    /// Below this nothing comes any more, neither rows nor changes of rows: state below it can be dropped.
    pub fn bound(&self) -> Option<i64> {
        (!self.retracts && self.floor > i64::MIN).then_some(self.floor)
    }

    /// Whether state can ever be dropped by it.
    pub fn bounds_state(&self) -> bool {
        !self.retracts
    }

    /// What holds of a column that gets the values of both.
    pub fn both(self, other: Watermark) -> Watermark {
        Watermark {
            at: self.at.min(other.at),
            floor: self.floor.min(other.floor),
            lateness: self.lateness || other.lateness,
            retracts: self.retracts || other.retracts,
        }
    }

    /// The watermark of a column that is computed by a function which never falls where its argument rises.
    pub fn map(self, f: impl Fn(i64) -> i64) -> Watermark {
        let f = |value| if value == i64::MIN { value } else { f(value) };
        Watermark { at: f(self.at), floor: f(self.floor), ..self }
    }
}

/// A column whose values can have a watermark.
pub fn can_have_watermark(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(TimeUnit::Microsecond, _)
            | DataType::Date32
            | DataType::Int64
            | DataType::Int32
            | DataType::Int16
    )
}

/// The values of such a column as numbers; NULL stays NULL.
pub fn values(column: &ArrayRef) -> Int64Array {
    use arrow::array::AsArray;
    use arrow::datatypes::{Date32Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType};
    match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().clone(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            column.as_primitive::<TimestampMicrosecondType>().reinterpret_cast()
        }
        DataType::Date32 => column.as_primitive::<Date32Type>().unary(Into::into),
        DataType::Int32 => column.as_primitive::<Int32Type>().unary(Into::into),
        DataType::Int16 => column.as_primitive::<Int16Type>().unary(Into::into),
        other => panic!("a column of type {other} has no watermark"),
    }
}

/// The watermark of what `expr` computes over rows of `schema` whose columns have the watermarks `input`.
pub fn of_expr(
    expr: &Expr,
    schema: &SchemaRef,
    input: &[Option<Watermark>],
    functions: &Arc<dyn Functions>,
) -> Option<Watermark> {
    if let Expr::Column(column) = expr {
        return input.get(*column).copied().flatten();
    }
    let column = monotone_in(expr)?;
    let mark = input.get(column).copied().flatten()?;
    let evaluator = expr::compile(expr, schema, functions).ok()?;
    if !can_have_watermark(evaluator.data_type()) {
        return None;
    }
    // What cannot be computed for this value (out of range) is not known.
    let value = |at: i64| {
        let row = row_with(schema, column, at)?;
        let array = evaluator.evaluate(&row).ok()?;
        (!array.is_null(0)).then(|| values(&array).value(0))
    };
    Some(mark.map(|at| value(at).unwrap_or(i64::MIN)))
}

/// What is known of rows that come from several inputs: only what holds of all of them.
pub fn of_all(inputs: &[Watermarks], columns: usize) -> Watermarks {
    let of = |column: usize| {
        let marks = inputs.iter().map(|marks| marks.get(column).copied().flatten());
        marks.reduce(|a, b| Some(a?.both(b?))).flatten()
    };
    (0..columns).map(of).collect()
}

/// One row in which only one column has a value.
fn row_with(schema: &SchemaRef, column: usize, value: i64) -> Option<Batch> {
    let data_type = schema.field(column).data_type();
    let number: ArrayRef = Arc::new(Int64Array::from(vec![value]));
    let number = match data_type {
        // Arrow casts no bigint to a date.
        DataType::Date32 => cast(&cast(&number, &DataType::Int32).ok()?, data_type).ok()?,
        _ => cast(&number, data_type).ok()?,
    };
    let columns = schema.fields().iter().enumerate().map(|(i, field)| match i == column {
        true => number.clone(),
        false => new_null_array(field.data_type(), 1),
    });
    let nullable = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    let schema = Arc::new(arrow_schema::Schema::new(nullable));
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Some(Batch::inserts(RecordBatch::try_new_with_options(schema, columns.collect(), &options).ok()?))
}

/// The functions that never fall where one of their arguments rises, with that argument; all others must be constants.
const MONOTONE: &[(&str, usize)] = &[
    ("timestamp_pl_interval", 0),
    ("interval_pl_timestamp", 1),
    ("timestamp_mi_interval", 0),
    ("date_pl_interval", 0),
    ("interval_pl_date", 1),
    ("date_mi_interval", 0),
    ("timestamptz_pl_interval", 0),
    ("interval_pl_timestamptz", 1),
    ("timestamptz_mi_interval", 0),
    ("timestamp_trunc", 1),
    ("timestamptz_trunc", 1),
    ("timestamptz_trunc_zone", 1),
    ("timestamp_bin", 1),
    ("timestamptz_bin", 1),
    ("date_of_timestamp", 0),
    ("date_of_timestamptz", 0),
];

/// The column that an expression is monotone in, if it is in one.
fn monotone_in(expr: &Expr) -> Option<usize> {
    let (argument, rest) = match expr {
        Expr::Column(column) => return Some(*column),
        Expr::Cast { expr, .. } => return monotone_in(expr),
        Expr::Call { function, args, .. } => {
            let (_, place) = MONOTONE.iter().find(|(name, _)| name == function)?;
            let argument = args.get(*place)?;
            (argument, args.iter().enumerate().filter(|(i, _)| i != place).map(|(_, a)| a).collect::<Vec<_>>())
        }
        _ => return None,
    };
    let constants: Option<Vec<ScalarValue>> = rest.into_iter().map(constant).collect();
    let constants = constants?;
    // Where clocks are put back, a day later or the beginning of the hour may lie before that of an earlier moment.
    let stop_watch = |value: &ScalarValue| match value {
        ScalarValue::IntervalMonthDayNano(Some(span)) => Some(span.months == 0 && span.days == 0),
        _ => None,
    };
    let zoned = constants.iter().filter_map(text).any(|text| !is_unit(text) && !is_utc(text));
    if zoned && !constants.iter().filter_map(stop_watch).any(|only_time| only_time) {
        return None;
    }
    monotone_in(argument)
}

fn constant(expr: &Expr) -> Option<ScalarValue> {
    match expr {
        Expr::Literal(literal) => literal.to_scalar().ok().filter(|value| !value.is_null()),
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<&str> {
    match value {
        ScalarValue::Utf8View(Some(text)) | ScalarValue::Utf8(Some(text)) => Some(text),
        _ => None,
    }
}

fn is_unit(text: &str) -> bool {
    const UNITS: [&str; 12] = [
        "microseconds",
        "milliseconds",
        "second",
        "minute",
        "hour",
        "day",
        "week",
        "month",
        "quarter",
        "year",
        "decade",
        "century",
    ];
    UNITS.iter().any(|unit| text.eq_ignore_ascii_case(unit))
}

fn is_utc(zone: &str) -> bool {
    ["utc", "etc/utc", "gmt", "z", "zulu"].iter().any(|utc| zone.eq_ignore_ascii_case(utc))
}

/// The watermarks of a relation's columns as of its epochs, oldest first; what was before the first is unknown.
#[derive(Clone, Default, Debug)]
pub struct History(std::collections::VecDeque<(u64, Arc<Watermarks>)>);

/// Epochs whose watermarks are kept. Beyond that every second one is forgotten: a job that is far behind then knows less
/// of the epochs between, which is never wrong.
const HISTORY_MAX: usize = 8192;

impl History {
    /// As of `epoch` and until the next.
    pub fn note(&mut self, epoch: u64, watermarks: &Arc<Watermarks>) {
        match self.0.back_mut() {
            Some((_, last)) if *last == *watermarks => return,
            Some((last_epoch, last)) if *last_epoch == epoch => {
                *last = watermarks.clone();
                return;
            }
            _ => {}
        }
        if self.0.len() == HISTORY_MAX {
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.0.push_back((epoch, watermarks.clone()));
    }

    /// As of `epoch`.
    pub fn at(&self, epoch: u64) -> Option<Arc<Watermarks>> {
        let after = self.0.partition_point(|(e, _)| *e <= epoch);
        after.checked_sub(1).map(|i| self.0[i].1.clone())
    }

    /// The newest epoch up to `epoch` in which they changed.
    pub fn changed(&self, epoch: u64) -> u64 {
        let after = self.0.partition_point(|(e, _)| *e <= epoch);
        after.checked_sub(1).map_or(0, |i| self.0[i].0)
    }

    /// The newest.
    pub fn last(&self) -> Option<Arc<Watermarks>> {
        self.0.back().map(|(_, watermarks)| watermarks.clone())
    }

    /// Nobody will ask for an epoch before `epoch` any more.
    pub fn forget_before(&mut self, epoch: u64) {
        let after = self.0.partition_point(|(e, _)| *e <= epoch);
        self.0.drain(..after.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at: i64) -> Watermark {
        Watermark { at, floor: at - 5, lateness: true, retracts: false }
    }

    #[test]
    fn a_watermark_of_nothing_known_stays_so() {
        assert_eq!(Watermark::unknown(false, false).map(|at| at + 1).at, i64::MIN);
        assert_eq!(mark(10).map(|at| at * 2).floor, 10);
        assert_eq!(Watermark::unknown(false, false).bound(), None);
        assert_eq!(mark(10).bound(), Some(5));
        assert_eq!(Watermark { retracts: true, ..mark(10) }.bound(), None);
    }

    #[test]
    fn a_history_is_asked_by_epoch() {
        let mut history = History::default();
        let of = |at| Arc::new(vec![Some(mark(at))]);
        history.note(3, &of(10));
        history.note(5, &of(10));
        history.note(7, &of(20));
        let at = |epoch| history.at(epoch).map(|marks| marks[0].unwrap().at);
        assert_eq!([at(2), at(3), at(6), at(7), at(9)], [None, Some(10), Some(10), Some(20), Some(20)]);
        assert_eq!([history.changed(2), history.changed(6), history.changed(9)], [0, 3, 7]);
        history.forget_before(8);
        assert_eq!(history.0.len(), 1);
    }

    #[test]
    fn a_history_forgets_epochs_in_between() {
        let mut history = History::default();
        for epoch in 0..3 * HISTORY_MAX as u64 {
            history.note(epoch, &Arc::new(vec![Some(mark(epoch as i64))]));
        }
        assert!(history.0.len() <= HISTORY_MAX);
        let last = 3 * HISTORY_MAX as u64 - 1;
        assert_eq!(history.at(last).unwrap()[0].unwrap().at, last as i64);
        assert!(history.at(last / 2).unwrap()[0].unwrap().at <= last as i64 / 2);
    }
}
