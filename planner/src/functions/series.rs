//! `generate_series` as an array, for FROM and select lists to unnest.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Int32Type, Int64Type, IntervalMonthDayNanoType, TimestampMicrosecondType,
};
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use storage::SqlType;
use storage::numeric::Numeric;
use streaming::expr::EvalError;

use super::datetime::{add, add_zoned, zone};
use super::rows::{Input, Num, Output};
use crate::types::datetime::Interval;

/// Rows that one call may have: they are all made at once.
const ROWS_MAX: usize = 100_000_000;

/// What plans call the series of a type.
pub const SYMBOL: &str = "generate_series";

/// The series of a type: start, stop and step, and for moments the time zone, to an array.
pub fn series(symbol: &str, item: &SqlType) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Series {
        symbol: symbol.to_string(),
        item: item.clone(),
        signature: Signature::user_defined(Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Series {
    symbol: String,
    item: SqlType,
    signature: Signature,
}

impl ScalarUDFImpl for Series {
    fn name(&self) -> &str {
        &self.symbol
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        Ok(types.to_vec())
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(SqlType::Array(Box::new(self.item.clone())).arrow())
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.into_iter().map(|a| a.into_array(rows)).collect::<DfResult<Vec<_>>>()?;
        let mut ends = Ends { rows, ends: Vec::with_capacity(rows) };
        let values: ArrayRef = match &self.item {
            SqlType::Timestamp | SqlType::TimestampTz => ends.moments(&self.item, &arrays)?,
            SqlType::Numeric => ends.numerics(&arrays)?,
            SqlType::Int => ends.integers::<Int32Type>(&arrays, i32::checked_add)?,
            _ => ends.integers::<Int64Type>(&arrays, i64::checked_add)?,
        };
        let item = Arc::new(Field::new("item", self.item.arrow(), true));
        let lengths = ends.ends.iter().scan(0, |from, &to| Some(to - std::mem::replace(from, to)));
        let list = ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), values, None)?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}

/// Where the series of each row ends among the values of all.
struct Ends {
    rows: usize,
    ends: Vec<usize>,
}

impl Ends {
    /// Makes the series of each row; a row with a NULL has none. `next` is given a row and the value before, or none.
    fn make<T>(
        &mut self,
        arrays: &[ArrayRef],
        mut series: impl FnMut(usize, &mut dyn FnMut(T) -> DfResult<()>) -> DfResult<()>,
        mut push: impl FnMut(T) -> DfResult<()>,
    ) -> DfResult<()> {
        let mut n = 0;
        for row in 0..self.rows {
            if !arrays.iter().any(|a| a.is_null(row)) {
                series(row, &mut |value| {
                    n += 1;
                    if n > ROWS_MAX {
                        return Err(EvalError::external("54000", "the series is too long"));
                    }
                    push(value)
                })?;
            }
            self.ends.push(n);
        }
        Ok(())
    }

    fn integers<T: ArrowPrimitiveType>(
        &mut self,
        arrays: &[ArrayRef],
        add: fn(T::Native, T::Native) -> Option<T::Native>,
    ) -> DfResult<ArrayRef>
    where
        T::Native: PartialOrd + Default,
    {
        let column = |i: usize, row: usize| arrays[i].as_primitive::<T>().value(row);
        let mut out = arrow::array::PrimitiveBuilder::<T>::new();
        let each = |row: usize, say: &mut dyn FnMut(T::Native) -> DfResult<()>| {
            let (from, to, step) = (column(0, row), column(1, row), column(2, row));
            let zero = T::Native::default();
            check_step(step == zero)?;
            let mut at = Some(from);
            while let Some(n) = at.filter(|n| if step > zero { *n <= to } else { *n >= to }) {
                say(n)?;
                at = add(n, step);
            }
            Ok(())
        };
        self.make(arrays, each, |n| {
            out.append_value(n);
            Ok(())
        })?;
        Ok(Arc::new(out.finish()))
    }

    fn numerics(&mut self, arrays: &[ArrayRef]) -> DfResult<ArrayRef> {
        type Numbers = <Num as Input>::Array;
        let columns: Vec<&Numbers> =
            arrays.iter().map(|a| a.as_any().downcast_ref::<Numbers>().expect("the binder cast it")).collect();
        let mut out = <Num as Output>::builder(self.rows);
        let each = |row: usize, say: &mut dyn FnMut(Numeric) -> DfResult<()>| {
            let [from, to, step] = [0, 1, 2].map(|i| <Num as Input>::get(columns[i], row));
            for (what, value) in [("start value", &from), ("stop value", &to), ("step size", &step)] {
                if !value.is_finite() {
                    let message = format!("{what} cannot be {}", if value.is_nan() { "NaN" } else { "infinity" });
                    return Err(EvalError::external("22023", message));
                }
            }
            check_step(step.is_zero())?;
            let mut at = from;
            while if step.signum() > 0 { at <= to } else { at >= to } {
                say(at)?;
                at = at.add(&step).map_err(|e| EvalError::external("22003", e.to_string()))?;
            }
            Ok(())
        };
        self.make(arrays, each, |n| <Num as Output>::push(&mut out, n).map_err(super::rows::external))?;
        Ok(<Num as Output>::finish(out))
    }

    fn moments(&mut self, item: &SqlType, arrays: &[ArrayRef]) -> DfResult<ArrayRef> {
        let times = |i: usize, row: usize| arrays[i].as_primitive::<TimestampMicrosecondType>().value(row);
        let steps = arrays[2].as_primitive::<IntervalMonthDayNanoType>();
        let mut out: Vec<i64> = vec![];
        let each = |row: usize, say: &mut dyn FnMut(i64) -> DfResult<()>| {
            let step = steps.value(row);
            let step = Interval { months: step.months, days: step.days, micros: step.nanoseconds / 1000 };
            let size = step.total_micros();
            check_step(size == 0)?;
            let zone = match item {
                SqlType::TimestampTz => {
                    Some(zone(arrays[3].as_string_view().value(row)).map_err(super::rows::external)?)
                }
                _ => None,
            };
            let (mut at, to) = (times(0, row), times(1, row));
            while if size > 0 { at <= to } else { at >= to } {
                say(at)?;
                let next = match &zone {
                    Some(zone) => add_zoned(at, step, zone),
                    None => add(at, step),
                };
                at = next.map_err(super::rows::external)?;
            }
            Ok(())
        };
        self.make(arrays, each, |at| {
            out.push(at);
            Ok(())
        })?;
        Ok(Arc::new(TimestampMicrosecondArray::from(out).with_data_type(item.arrow())))
    }
}

fn check_step(zero: bool) -> DfResult<()> {
    if zero { Err(EvalError::external("22023", "step size cannot equal zero")) } else { Ok(()) }
}
