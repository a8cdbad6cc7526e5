//! `min` and `max` of any ordered type.
//!
//! Under retraction all values are kept, in order; an input without retractions needs the winner only.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array};
use arrow::datatypes::IntervalMonthDayNanoType;
use arrow_schema::{DataType, IntervalUnit};
use datafusion::common::ScalarValue;
use storage::keys::{self, SortOption};

use super::{Accumulator, Input, Multiset};
use crate::error::{Error, Result};

const HOURS_24_US: i128 = 24 * 3600 * 1_000_000;

/// How values of one type become bytes in the order of SQL, and back.
#[derive(Debug)]
struct Order {
    data_type: DataType,
}

impl Order {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        let value = Arc::clone(&args[0]);
        let columns = match self.data_type {
            // An interval sorts by its length; the fields behind it say which of several equal ones it is.
            DataType::Interval(IntervalUnit::MonthDayNano) => vec![interval_lengths(&value), value],
            _ => vec![value],
        };
        let keys = keys::encode(&columns, &vec![SortOption::default(); columns.len()])?;
        Ok(Input { args: vec![Arc::clone(&args[0])], keys: Some(keys), inner: None })
    }

    fn decode(&self, key: Option<&[u8]>) -> Result<ScalarValue> {
        let Some(key) = key else { return ScalarValue::try_from(&self.data_type).map_err(broken) };
        let types = match self.data_type {
            DataType::Interval(_) => vec![DataType::Decimal128(38, 0), self.data_type.clone()],
            _ => vec![self.data_type.clone()],
        };
        let options = vec![SortOption::default(); types.len()];
        let columns = keys::decode(&types, &options, std::iter::once(key))?;
        ScalarValue::try_from_array(&columns[types.len() - 1], 0).map_err(broken)
    }
}

fn interval_lengths(array: &ArrayRef) -> ArrayRef {
    let lengths = array.as_primitive::<IntervalMonthDayNanoType>().iter().map(|value| {
        value.map(|v| (i128::from(v.months) * 30 + i128::from(v.days)) * HOURS_24_US + i128::from(v.nanoseconds / 1000))
    });
    let lengths = lengths.collect::<Decimal128Array>().with_precision_and_scale(38, 0);
    Arc::new(lengths.expect("38 digits are allowed"))
}

fn broken(error: datafusion::common::DataFusionError) -> Error {
    Error::Failed(error.to_string())
}

/// Keeps every value.
#[derive(Debug)]
pub(super) struct MinMax {
    order: Order,
    max: bool,
    values: Multiset,
}

impl MinMax {
    pub(super) fn new(data_type: &DataType, max: bool) -> Self {
        MinMax { order: Order { data_type: data_type.clone() }, max, values: Multiset::default() }
    }
}

impl Accumulator for MinMax {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        self.order.prepare(args)
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            self.values.add(input.key(row), diff);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let mut present = self.values.iter().filter(|(_, count)| *count > 0);
        let entry = if self.max { present.next_back() } else { present.next() };
        self.order.decode(entry.map(|(key, _)| key))
    }

    fn encode(&self, _out: &mut Vec<u8>) {}

    fn merge(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        Some(&mut self.values)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.values.bytes()
    }
}

/// Keeps the smallest or the largest value seen. Only for inputs that are never retracted.
#[derive(Debug)]
pub(super) struct Extreme {
    order: Order,
    max: bool,
    best: Option<Box<[u8]>>,
}

impl Extreme {
    pub(super) fn new(data_type: &DataType, max: bool) -> Self {
        Extreme { order: Order { data_type: data_type.clone() }, max, best: None }
    }

    fn offer(&mut self, key: &[u8]) {
        let better = match &self.best {
            None => true,
            Some(best) if self.max => key > best.as_ref(),
            Some(best) => key < best.as_ref(),
        };
        if better {
            self.best = Some(key.into());
        }
    }
}

impl Accumulator for Extreme {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        self.order.prepare(args)
    }

    fn add(&mut self, input: &Input, row: usize, _diff: i64) {
        if !input.is_null(row) {
            self.offer(input.key(row));
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        self.order.decode(self.best.as_deref())
    }

    fn encode(&self, out: &mut Vec<u8>) {
        if let Some(best) = &self.best {
            out.push(1);
            out.extend(best);
        }
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some((_, key)) = bytes.split_first() {
            self.offer(key);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.best.as_ref().map_or(0, |best| best.len())
    }
}
