//! `sum`: of smallint and int bigint, of bigint and numeric numeric, of floats and intervals their own type.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Float32Type, Float64Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType};
use arrow_schema::{DataType, IntervalUnit};
use datafusion::common::ScalarValue;
use storage::numeric::Numeric;
use storage::types::NUMERIC_BYTES;

use super::exact_float::ExactFloat;
use super::numeric_sum::{NumericSum, out_of_range};
use super::{Accumulator, AggregateKind, Input, as_bigint, bytes, unsupported};
use crate::error::{Error, Result};

pub(super) fn new(arg: &DataType, returns: &DataType) -> Result<Box<dyn Accumulator>> {
    Ok(match arg {
        DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            Box::new(SumInt { numeric: *returns != DataType::Int64, sum: IntSum::default() })
        }
        DataType::FixedSizeBinary(NUMERIC_BYTES) => Box::new(SumNumeric::default()),
        DataType::Float32 => Box::new(SumFloat { single: true, sum: ExactFloat::default() }),
        DataType::Float64 => Box::new(SumFloat { single: false, sum: ExactFloat::default() }),
        DataType::Interval(IntervalUnit::MonthDayNano) => Box::new(SumInterval::default()),
        other => return Err(unsupported(AggregateKind::Sum, other)),
    })
}

/// A sum of integers and how many there are: exact for any number of rows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IntSum {
    pub(crate) sum: i128,
    pub(crate) count: i64,
}

impl IntSum {
    pub(crate) fn add(&mut self, value: i64, diff: i64) {
        self.sum += i128::from(value) * i128::from(diff);
        self.count += diff;
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.sum.to_le_bytes());
        out.extend(self.count.to_le_bytes());
    }

    pub(crate) fn merge(&mut self, mut state: &[u8]) -> Result<()> {
        self.sum += bytes::take_i128(&mut state)?;
        self.count += bytes::take_i64(&mut state)?;
        Ok(())
    }
}

/// A sum of integers as bigint.
pub(crate) fn bigint_sum(sum: i128) -> Result<i64> {
    i64::try_from(sum).map_err(|_| Error::invalid("22003", "bigint out of range"))
}

/// A sum of integers as numeric.
pub(crate) fn numeric_sum(sum: i128) -> Result<Numeric> {
    Numeric::from_i128(sum).map_err(out_of_range)
}

/// A numeric as a scalar of its Arrow type.
pub(super) fn numeric_scalar(value: Option<Numeric>) -> ScalarValue {
    ScalarValue::FixedSizeBinary(NUMERIC_BYTES, value.map(|v| v.to_bytes().to_vec()))
}

#[derive(Debug)]
struct SumInt {
    numeric: bool,
    sum: IntSum,
}

impl Accumulator for SumInt {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        Ok(Input::plain(&[as_bigint(&args[0])?]))
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            self.sum.add(input.args[0].as_primitive::<Int64Type>().value(row), diff);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let present = self.sum.count > 0;
        Ok(if self.numeric {
            numeric_scalar(if present { Some(numeric_sum(self.sum.sum)?) } else { None })
        } else {
            ScalarValue::Int64(if present { Some(bigint_sum(self.sum.sum)?) } else { None })
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.sum.encode(out);
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.merge(bytes)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

#[derive(Debug, Default)]
struct SumNumeric {
    sum: NumericSum,
}

impl Accumulator for SumNumeric {
    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            self.sum.add(&Numeric::from_bytes(input.args[0].as_fixed_size_binary().value(row)), diff);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        Ok(numeric_scalar(if self.sum.count() > 0 { Some(self.sum.value()?) } else { None }))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.sum.encode(out);
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.merge(bytes)
    }

    fn bytes(&self) -> usize {
        self.sum.bytes()
    }
}

/// The value of a float column of either width.
pub(super) fn float_at(array: &ArrayRef, row: usize) -> f64 {
    match array.data_type() {
        DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(row)),
        _ => array.as_primitive::<Float64Type>().value(row),
    }
}

#[derive(Debug)]
struct SumFloat {
    single: bool,
    sum: ExactFloat,
}

impl Accumulator for SumFloat {
    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            self.sum.add(float_at(&input.args[0], row), diff);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let value = if self.sum.count() > 0 { Some(self.sum.value()?) } else { None };
        if !self.single {
            return Ok(ScalarValue::Float64(value));
        }
        let single = value.map(|v| v as f32);
        if single.is_some_and(f32::is_infinite) && value.is_some_and(f64::is_finite) {
            return Err(Error::invalid("22003", "value out of range: overflow"));
        }
        Ok(ScalarValue::Float32(single))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.sum.encode(out);
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.merge(bytes)
    }

    fn bytes(&self) -> usize {
        self.sum.bytes()
    }
}

/// A sum of intervals, field by field, and how many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IntervalSum {
    months: i128,
    days: i128,
    micros: i128,
    pub(super) count: i64,
}

impl IntervalSum {
    pub(super) fn add(&mut self, value: IntervalMonthDayNano, diff: i64) {
        self.months += i128::from(value.months) * i128::from(diff);
        self.days += i128::from(value.days) * i128::from(diff);
        self.micros += i128::from(value.nanoseconds / 1000) * i128::from(diff);
        self.count += diff;
    }

    /// The fields: months, days, microseconds.
    pub(super) fn fields(&self) -> Result<(i32, i32, i64)> {
        let fields =
            (|| Some((self.months.try_into().ok()?, self.days.try_into().ok()?, i64::try_from(self.micros).ok()?)))();
        fields.ok_or_else(interval_out_of_range)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for n in [self.months, self.days, self.micros] {
            out.extend(n.to_le_bytes());
        }
        out.extend(self.count.to_le_bytes());
    }

    pub(super) fn merge(&mut self, mut state: &[u8]) -> Result<()> {
        for n in [&mut self.months, &mut self.days, &mut self.micros] {
            *n += bytes::take_i128(&mut state)?;
        }
        self.count += bytes::take_i64(&mut state)?;
        Ok(())
    }
}

pub(super) fn interval_out_of_range() -> Error {
    Error::invalid("22008", "interval out of range")
}

/// An interval as a scalar of its Arrow type.
pub(super) fn interval_scalar(fields: Option<(i32, i32, i64)>) -> Result<ScalarValue> {
    let value = match fields {
        None => None,
        Some((months, days, micros)) => {
            let nanos = micros.checked_mul(1000).ok_or_else(interval_out_of_range)?;
            Some(IntervalMonthDayNano::new(months, days, nanos))
        }
    };
    Ok(ScalarValue::IntervalMonthDayNano(value))
}

#[derive(Debug, Default)]
struct SumInterval {
    sum: IntervalSum,
}

impl Accumulator for SumInterval {
    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            self.sum.add(input.args[0].as_primitive::<IntervalMonthDayNanoType>().value(row), diff);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        interval_scalar(if self.sum.count > 0 { Some(self.sum.fields()?) } else { None })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.sum.encode(out);
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum.merge(bytes)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}
