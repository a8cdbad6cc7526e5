//! `avg`: the sum over the count. Of integers and numerics numeric, of floats double, of intervals interval.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{Int64Type, IntervalMonthDayNanoType};
use arrow_schema::{DataType, IntervalUnit};
use datafusion::common::ScalarValue;
use storage::numeric::Numeric;
use storage::types::NUMERIC_BYTES;

use super::exact_float::ExactFloat;
use super::numeric_sum::{NumericSum, out_of_range};
use super::sum::{IntSum, IntervalSum, float_at, interval_scalar, numeric_scalar, numeric_sum};
use super::{Accumulator, AggregateKind, Input, as_bigint, unsupported};
use crate::error::Result;

pub(super) fn new(arg: &DataType) -> Result<Box<dyn Accumulator>> {
    Ok(Box::new(Avg(match arg {
        DataType::Int16 | DataType::Int32 | DataType::Int64 => Sum::Int(IntSum::default()),
        DataType::FixedSizeBinary(NUMERIC_BYTES) => Sum::Numeric(NumericSum::default()),
        DataType::Float32 | DataType::Float64 => Sum::Float(ExactFloat::default()),
        DataType::Interval(IntervalUnit::MonthDayNano) => Sum::Interval(IntervalSum::default()),
        other => return Err(unsupported(AggregateKind::Avg, other)),
    })))
}

/// The average of integers as numeric.
pub(crate) fn int_avg(sum: i128, count: i64) -> Result<Numeric> {
    numeric_sum(sum)?.div(&Numeric::from_i64(count)).map_err(out_of_range)
}

#[derive(Debug)]
enum Sum {
    Int(IntSum),
    Numeric(NumericSum),
    Float(ExactFloat),
    Interval(IntervalSum),
}

#[derive(Debug)]
struct Avg(Sum);

impl Accumulator for Avg {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        Ok(match self.0 {
            Sum::Int(_) => Input::plain(&[as_bigint(&args[0])?]),
            _ => Input::plain(args),
        })
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if input.is_null(row) {
            return;
        }
        let arg = &input.args[0];
        match &mut self.0 {
            Sum::Int(sum) => sum.add(arg.as_primitive::<Int64Type>().value(row), diff),
            Sum::Numeric(sum) => sum.add(&Numeric::from_bytes(arg.as_fixed_size_binary().value(row)), diff),
            Sum::Float(sum) => sum.add(float_at(arg, row), diff),
            Sum::Interval(sum) => sum.add(arg.as_primitive::<IntervalMonthDayNanoType>().value(row), diff),
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        Ok(match &self.0 {
            Sum::Int(sum) if sum.count > 0 => numeric_scalar(Some(int_avg(sum.sum, sum.count)?)),
            Sum::Int(_) => numeric_scalar(None),
            Sum::Numeric(sum) if sum.count() > 0 => {
                let count = Numeric::from_i64(sum.count());
                numeric_scalar(Some(sum.value()?.div(&count).map_err(out_of_range)?))
            }
            Sum::Numeric(_) => numeric_scalar(None),
            Sum::Float(sum) if sum.count() > 0 => ScalarValue::Float64(Some(sum.value()? / sum.count() as f64)),
            Sum::Float(_) => ScalarValue::Float64(None),
            Sum::Interval(sum) if sum.count > 0 => {
                let count = sum.count as f64;
                interval_scalar(Some(scaled(sum.fields()?, |field| field / count)))?
            }
            Sum::Interval(_) => interval_scalar(None)?,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.0 {
            Sum::Int(sum) => sum.encode(out),
            Sum::Numeric(sum) => sum.encode(out),
            Sum::Float(sum) => sum.encode(out),
            Sum::Interval(sum) => sum.encode(out),
        }
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.0 {
            Sum::Int(sum) => sum.merge(bytes),
            Sum::Numeric(sum) => sum.merge(bytes),
            Sum::Float(sum) => sum.merge(bytes),
            Sum::Interval(sum) => sum.merge(bytes),
        }
    }

    fn bytes(&self) -> usize {
        match &self.0 {
            Sum::Numeric(sum) => sum.bytes(),
            Sum::Float(sum) => sum.bytes(),
            _ => size_of::<Self>(),
        }
    }
}

/// An interval with each field multiplied or divided by a number, as Postgres does it: the remainder of the months becomes
/// days of 1/30 month, that of the days becomes time, both rounded to microseconds.
pub(super) fn scaled((months, days, micros): (i32, i32, i64), by: impl Fn(f64) -> f64) -> (i32, i32, i64) {
    const DAY_SECONDS: f64 = 86_400.0;
    let rounded = |seconds: f64| (seconds * 1e6).round_ties_even() / 1e6;
    let (exact_months, exact_days) = (by(f64::from(months)), by(f64::from(days)));
    let whole_months = exact_months as i32;
    let mut whole_days = exact_days as i32;
    let month_days = rounded((exact_months - f64::from(whole_months)) * 30.0);
    let day_part = exact_days - f64::from(whole_days) + month_days - month_days.trunc();
    let mut seconds = rounded(day_part * DAY_SECONDS);
    if seconds.abs() >= DAY_SECONDS {
        whole_days += (seconds / DAY_SECONDS) as i32;
        seconds -= (seconds / DAY_SECONDS).trunc() * DAY_SECONDS;
    }
    whole_days += month_days as i32;
    (whole_months, whole_days, (by(micros as f64) + seconds * 1e6).round_ties_even() as i64)
}
