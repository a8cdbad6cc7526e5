//! DISTINCT in front of any aggregate: each different input counts once, as long as it is there at all.
//!
//! Equal values need not be the same bytes: 1.0 and 1.00, one month and thirty days, 0 and -0. Of several forms of one
//! value the one whose bytes come first counts, so that it does not depend on the order in which rows came.
//!
//! ```text
//! key     [what is compared, of each argument][the arguments]     the second part only where it can differ
//! ```

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, FixedSizeBinaryBuilder};
use arrow::datatypes::{Float32Type, Float64Type, IntervalMonthDayNanoType};
use arrow_schema::{DataType, IntervalUnit};
use datafusion::common::ScalarValue;
use storage::keys::{self, SortOption};
use storage::numeric::Numeric;
use storage::types::NUMERIC_BYTES;

use super::{Accumulator, AggregateCall, Input, Multiset, accumulator};
use crate::error::{Error, Result};

pub(super) struct Distinct {
    /// The aggregate behind the DISTINCT.
    call: AggregateCall,
    inner: Box<dyn Accumulator>,
    arg_types: Vec<DataType>,
    /// Whether equal arguments may be different bytes.
    forms: bool,
    values: Multiset,
}

impl Distinct {
    pub(super) fn new(call: AggregateCall, arg_types: &[DataType]) -> Result<Self> {
        let inner = accumulator(&call, arg_types)?;
        let forms = arg_types.iter().any(has_forms);
        Ok(Distinct { call, inner, arg_types: arg_types.to_vec(), forms, values: Multiset::default() })
    }

    /// The key of arguments, and the length of what is compared in it.
    fn columns(&self, args: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        if !self.forms {
            return Ok(args.to_vec());
        }
        let mut columns = identities(args)?;
        columns.extend_from_slice(args);
        Ok(columns)
    }

    /// The arguments in some keys.
    fn decode<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        if !self.forms {
            return Ok(keys::decode(&self.arg_types, &self.options(), keys)?);
        }
        let mut types: Vec<DataType> = self.arg_types.iter().map(identity_type).collect();
        types.extend_from_slice(&self.arg_types);
        let mut columns = keys::decode(&types, &vec![SortOption::default(); types.len()], keys)?;
        Ok(columns.split_off(self.arg_types.len()))
    }

    fn options(&self) -> Vec<SortOption> {
        vec![SortOption::default(); self.arg_types.len()]
    }

    fn add_form(&mut self, input: &Input, row: usize, diff: i64) -> Result<()> {
        let key = input.key(row);
        let types: Vec<DataType> = self.arg_types.iter().map(identity_type).collect();
        let prefix = keys::prefix_len(&types, &self.options(), key)?;
        let before = self.values.first_with(&key[..prefix]).map(<[u8]>::to_vec);
        self.values.add(key, diff);
        let after = self.values.first_with(&key[..prefix]).map(<[u8]>::to_vec);
        if before == after {
            return Ok(());
        }
        for (form, diff) in [(before, -1), (after, 1)] {
            let Some(form) = form else { continue };
            if form == key {
                self.inner.add(input.inner.as_ref().expect("prepare made it"), row, diff);
            } else {
                let args = self.decode(std::iter::once(form.as_slice()))?;
                self.inner.apply(&args, 0, diff)?;
            }
        }
        Ok(())
    }
}

/// Whether equal values of the type may be different bytes.
pub fn has_forms(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::FixedSizeBinary(NUMERIC_BYTES)
            | DataType::Interval(IntervalUnit::MonthDayNano)
            | DataType::Float32
            | DataType::Float64
    )
}

fn identity_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Interval(IntervalUnit::MonthDayNano) => DataType::Decimal128(38, 0),
        other => other.clone(),
    }
}

/// Columns whose bytes are equal where the values of `columns` are.
pub(super) fn identities(columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    columns.iter().map(identity).collect()
}

fn identity(column: &ArrayRef) -> Result<ArrayRef> {
    Ok(match column.data_type() {
        DataType::FixedSizeBinary(NUMERIC_BYTES) => {
            let mut out = FixedSizeBinaryBuilder::new(NUMERIC_BYTES);
            for value in column.as_fixed_size_binary().iter() {
                match value {
                    Some(value) => out.append_value(Numeric::from_bytes(value).trim_scale().to_bytes())?,
                    None => out.append_null(),
                }
            }
            Arc::new(out.finish())
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let lengths = column.as_primitive::<IntervalMonthDayNanoType>().iter().map(|value| {
                let days = |v: i32| i128::from(v) * 86_400_000_000_000;
                value.map(|v| days(v.months) * 30 + days(v.days) + i128::from(v.nanoseconds))
            });
            let lengths = lengths.collect::<Decimal128Array>().with_precision_and_scale(38, 0);
            Arc::new(lengths.map_err(|e| Error::Failed(e.to_string()))?)
        }
        // Minus zero is zero.
        DataType::Float32 => Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| v + 0.0)),
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| v + 0.0)),
        _ => Arc::clone(column),
    })
}

impl Accumulator for Distinct {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        let columns = self.columns(args)?;
        let keys = keys::encode(&columns, &vec![SortOption::default(); columns.len()])?;
        Ok(Input { args: args.to_vec(), keys: Some(keys), inner: Some(Box::new(self.inner.prepare(args)?)) })
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if self.forms {
            // Bytes that this accumulator wrote itself can be read.
            self.add_form(input, row, diff).expect("a key of this accumulator");
            return;
        }
        let (before, after) = self.values.add(input.key(row), diff);
        let change = i64::from(after > 0) - i64::from(before > 0);
        if change != 0 {
            self.inner.add(input.inner.as_ref().expect("prepare made it"), row, change);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        self.inner.value()
    }

    // What the inner aggregate holds follows from the values.
    fn encode(&self, _out: &mut Vec<u8>) {}

    fn merge(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }

    fn restored(&mut self) -> Result<()> {
        let mut present: Vec<&[u8]> = self.values.iter().filter(|(_, count)| *count > 0).map(|(key, _)| key).collect();
        if self.forms {
            let types: Vec<DataType> = self.arg_types.iter().map(identity_type).collect();
            let lengths = present
                .iter()
                .map(|key| Ok(keys::prefix_len(&types, &self.options(), key)?))
                .collect::<Result<Vec<_>>>()?;
            let mut last: Option<&[u8]> = None;
            let firsts = present.iter().zip(lengths).filter(|(key, len)| {
                let prefix = Some(&key[..*len]);
                prefix != std::mem::replace(&mut last, prefix)
            });
            present = firsts.map(|(key, _)| *key).collect();
        }
        let columns = self.decode(present.into_iter())?;
        let n = columns.first().map_or(0, |c| c.len());
        self.inner = accumulator(&self.call, &self.arg_types)?;
        self.inner.apply_all(&columns, n, None)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.values.bytes() + self.inner.bytes()
    }
}
