//! `generate_series` as an array, for FROM to unnest.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, ListArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, IntervalMonthDayNanoType, TimestampMicrosecondType};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use storage::SqlType;
use streaming::expr::EvalError;

use super::literal::literal;
use super::{Binder, Typed, at};
use crate::error::{Error, Result};
use crate::types::datetime::Interval;

/// Rows that one series may have: they are all made at once.
const ROWS_MAX: usize = 100_000_000;

impl Binder<'_> {
    /// The array of a series, and the type of its elements.
    pub(super) fn series(&mut self, args: Vec<Typed>, place: Option<usize>) -> Result<(Expr, SqlType)> {
        if !(2..=3).contains(&args.len()) {
            let types: Vec<String> = args.iter().map(|a| crate::types::name(&a.ty)).collect();
            let message = format!("function generate_series({}) does not exist", types.join(", "));
            return Err(at(Error::new("42883", message), place));
        }
        let types: Vec<SqlType> = args.iter().take(2).map(|a| a.ty.clone()).collect();
        let has = |ty: SqlType| args.iter().any(|a| a.ty == ty);
        let item = match crate::functions::common_type(&types) {
            Some(SqlType::SmallInt | SqlType::Int) if !has(SqlType::BigInt) => SqlType::Int,
            Some(SqlType::SmallInt | SqlType::Int | SqlType::BigInt) => SqlType::BigInt,
            Some(SqlType::Timestamp | SqlType::Date) => SqlType::Timestamp,
            Some(SqlType::TimestampTz) => SqlType::TimestampTz,
            Some(SqlType::Text) if types.iter().all(|t| *t == SqlType::Unknown) => SqlType::Int,
            _ => {
                let types: Vec<String> = args.iter().map(|a| crate::types::name(&a.ty)).collect();
                let message = format!("generate_series({}) is not supported", types.join(", "));
                return Err(at(Error::unsupported(message), place));
            }
        };
        let timed = matches!(item, SqlType::Timestamp | SqlType::TimestampTz);
        if timed && args.len() == 2 {
            return Err(at(Error::new("42883", "generate_series of timestamps needs an interval"), place));
        }
        let mut exprs = vec![];
        for (i, arg) in args.into_iter().enumerate() {
            let ty = if timed && i == 2 { SqlType::Interval } else { item.clone() };
            exprs.push(self.implicit(arg, &ty)?);
        }
        if exprs.len() == 2 {
            exprs.push(match item {
                SqlType::Int => literal(ScalarValue::Int32(Some(1))),
                _ => literal(ScalarValue::Int64(Some(1))),
            });
        }
        let item_field = Arc::new(Field::new("item", item.arrow(), true));
        let function = Series { item: item_field, signature: Signature::user_defined(Volatility::Immutable) };
        let call = ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), exprs);
        Ok((Expr::ScalarFunction(call), item))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Series {
    item: Arc<Field>,
    signature: Signature,
}

impl ScalarUDFImpl for Series {
    fn name(&self) -> &str {
        "generate_series"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        Ok(types.to_vec())
    }
    fn return_type(&self, _: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::List(self.item.clone()))
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let rows = args.number_rows;
        let arrays = args.args.into_iter().map(|a| a.into_array(rows)).collect::<DfResult<Vec<_>>>()?;
        let mut ends = vec![0_usize];
        let null = |row: usize| arrays.iter().any(|a| a.is_null(row));
        let values: ArrayRef = match self.item.data_type() {
            DataType::Timestamp(_, zone) => {
                let (from, to) = (
                    arrays[0].as_primitive::<TimestampMicrosecondType>(),
                    arrays[1].as_primitive::<TimestampMicrosecondType>(),
                );
                let steps = arrays[2].as_primitive::<IntervalMonthDayNanoType>();
                let mut out: Vec<i64> = vec![];
                for row in 0..rows {
                    if !null(row) {
                        let step = steps.value(row);
                        let step = Interval { months: step.months, days: step.days, micros: step.nanoseconds / 1000 };
                        let size = step.total_micros();
                        check_step(size == 0)?;
                        let mut at = from.value(row);
                        while if size > 0 { at <= to.value(row) } else { at >= to.value(row) } {
                            out.push(at);
                            check_rows(out.len())?;
                            at = crate::functions::add_interval(at, step)
                                .map_err(|e| EvalError::external(e.sqlstate, e.message))?;
                        }
                    }
                    ends.push(out.len());
                }
                Arc::new(TimestampMicrosecondArray::from(out).with_timezone_opt(zone.clone()))
            }
            DataType::Int32 => {
                let column = |i: usize| arrays[i].as_primitive::<Int32Type>();
                let mut out: Vec<i32> = vec![];
                for row in 0..rows {
                    if !null(row) {
                        let (from, to, step) = (column(0).value(row), column(1).value(row), column(2).value(row));
                        check_step(step == 0)?;
                        let mut at = Some(from);
                        while let Some(n) = at.filter(|n| if step > 0 { *n <= to } else { *n >= to }) {
                            out.push(n);
                            check_rows(out.len())?;
                            at = n.checked_add(step);
                        }
                    }
                    ends.push(out.len());
                }
                Arc::new(Int32Array::from(out))
            }
            _ => {
                let column = |i: usize| arrays[i].as_primitive::<Int64Type>();
                let mut out: Vec<i64> = vec![];
                for row in 0..rows {
                    if !null(row) {
                        let (from, to, step) = (column(0).value(row), column(1).value(row), column(2).value(row));
                        check_step(step == 0)?;
                        let mut at = Some(from);
                        while let Some(n) = at.filter(|n| if step > 0 { *n <= to } else { *n >= to }) {
                            out.push(n);
                            check_rows(out.len())?;
                            at = n.checked_add(step);
                        }
                    }
                    ends.push(out.len());
                }
                Arc::new(Int64Array::from(out))
            }
        };
        let lengths = ends.windows(2).map(|w| w[1] - w[0]);
        let list = ListArray::try_new(self.item.clone(), OffsetBuffer::from_lengths(lengths), values, None)?;
        Ok(ColumnarValue::Array(Arc::new(list)))
    }
}

fn check_step(zero: bool) -> DfResult<()> {
    if zero { Err(EvalError::external("22023", "step size cannot equal zero")) } else { Ok(()) }
}

fn check_rows(rows: usize) -> DfResult<()> {
    if rows > ROWS_MAX { Err(EvalError::external("54000", "the series is too long")) } else { Ok(()) }
}
