//! `stddev` and `variance`, of a sample and of a population: from the exact sums of the values and of their squares.
//!
//! ```text
//! variance = (n * sum(x^2) - sum(x)^2) / (n * (n - 1))       n * n for a population
//! ```
//!
//! The difference is computed without rounding, so neither cancellation nor a retraction leaves anything behind. Of
//! integers and numerics the result is numeric with Postgres' scale, of floats double.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Int64Type;
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use storage::numeric::Numeric;
use storage::types::NUMERIC_BYTES;

use super::exact_float::{ExactFloat, Moments};
use super::numeric_sum::{NumericSum, out_of_range, variance};
use super::sum::{float_at, numeric_scalar};
use super::{Accumulator, AggregateKind, Input, as_bigint, bytes, unsupported};
use crate::error::Result;

enum Sums {
    Numeric { values: NumericSum, squares: NumericSum },
    Float { values: ExactFloat, squares: ExactFloat },
}

pub(super) struct Variance {
    sample: bool,
    root: bool,
    integers: bool,
    sums: Sums,
}

impl Variance {
    pub(super) fn new(kind: AggregateKind, arg: &DataType) -> Result<Self> {
        use AggregateKind::*;
        let integers = matches!(arg, DataType::Int16 | DataType::Int32 | DataType::Int64);
        let sums = match arg {
            DataType::Float32 | DataType::Float64 => {
                Sums::Float { values: ExactFloat::default(), squares: ExactFloat::default() }
            }
            DataType::FixedSizeBinary(NUMERIC_BYTES) => {
                Sums::Numeric { values: NumericSum::default(), squares: NumericSum::default() }
            }
            _ if integers => Sums::Numeric { values: NumericSum::default(), squares: NumericSum::default() },
            other => return Err(unsupported(kind, other)),
        };
        let (sample, root) = (matches!(kind, VarSamp | StddevSamp), matches!(kind, StddevPop | StddevSamp));
        Ok(Variance { sample, root, integers, sums })
    }
}

impl Accumulator for Variance {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        Ok(if self.integers { Input::plain(&[as_bigint(&args[0])?]) } else { Input::plain(args) })
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if input.is_null(row) {
            return;
        }
        let arg = &input.args[0];
        match &mut self.sums {
            Sums::Numeric { values, squares } => {
                let value = match self.integers {
                    true => Numeric::from_i64(arg.as_primitive::<Int64Type>().value(row)),
                    false => Numeric::from_bytes(arg.as_fixed_size_binary().value(row)),
                };
                values.add(&value, diff);
                squares.add_square(&value, diff);
            }
            Sums::Float { values, squares } => {
                let value = float_at(arg, row);
                values.add(value, diff);
                squares.add_product(value, value, diff);
            }
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        match &self.sums {
            Sums::Numeric { values, squares } => {
                let n = values.count();
                if n < 1 || self.sample && n < 2 {
                    return Ok(numeric_scalar(None));
                }
                let value = variance(values, squares, self.sample, self.root).map_err(out_of_range)?;
                Ok(numeric_scalar(Some(value)))
            }
            Sums::Float { values, squares } => {
                let n = values.count();
                if n < 1 || self.sample && n < 2 {
                    return Ok(ScalarValue::Float64(None));
                }
                let spread = Moments { n, x: values, y: values, xy: squares }.spread()?;
                let n = n as f64;
                let value = spread / (n * if self.sample { n - 1.0 } else { n });
                Ok(ScalarValue::Float64(Some(if self.root { value.sqrt() } else { value })))
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        bytes::put_parts(
            out,
            |part, out| match (&self.sums, part) {
                (Sums::Numeric { values, .. }, 0) => values.encode(out),
                (Sums::Numeric { squares, .. }, _) => squares.encode(out),
                (Sums::Float { values, .. }, 0) => values.encode(out),
                (Sums::Float { squares, .. }, _) => squares.encode(out),
            },
            2,
        );
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Result<()> {
        let (first, second) = (bytes::take_part(&mut bytes)?, bytes::take_part(&mut bytes)?);
        match &mut self.sums {
            Sums::Numeric { values, squares } => {
                values.merge(first)?;
                squares.merge(second)
            }
            Sums::Float { values, squares } => {
                values.merge(first)?;
                squares.merge(second)
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.sums {
                Sums::Numeric { values, squares } => values.bytes() + squares.bytes(),
                Sums::Float { values, squares } => values.bytes() + squares.bytes(),
            }
    }
}
