//! `array_agg(x)`: all inputs, NULLs too, as an array; NULL over no rows.
//!
//! The order is that of the arguments behind x (ascending, NULLs last) if there are any, and of the values themselves
//! where those do not decide.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow_schema::{DataType, Field};
use datafusion::common::ScalarValue;
use storage::keys::{self, SortOption};

use super::{Accumulator, AggregateKind, Input, Multiset, unsupported};
use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct ArrayAgg {
    /// Types in the order of the key: the order keys, then the value.
    types: Vec<DataType>,
    item: Arc<Field>,
    values: Multiset,
}

impl ArrayAgg {
    pub(super) fn new(arg_types: &[DataType], returns: &DataType) -> Result<Self> {
        let DataType::List(item) = returns else { return Err(unsupported(AggregateKind::ArrayAgg, returns)) };
        let Some((value, order)) = arg_types.split_first() else {
            return Err(Error::Failed("array_agg without an argument".into()));
        };
        let mut types = order.to_vec();
        types.push(value.clone());
        Ok(ArrayAgg { types, item: Arc::clone(item), values: Multiset::default() })
    }

    fn options(&self) -> Vec<SortOption> {
        vec![SortOption::default(); self.types.len()]
    }
}

impl Accumulator for ArrayAgg {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        let mut columns = args[1..].to_vec();
        columns.push(Arc::clone(&args[0]));
        let keys = keys::encode(&columns, &self.options())?;
        Ok(Input { args: args.to_vec(), keys: Some(keys), inner: None })
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        self.values.add(input.key(row), diff);
    }

    fn value(&self) -> Result<ScalarValue> {
        let mut columns = keys::decode(&self.types, &self.options(), self.values.expanded())?;
        let values = columns.pop().expect("the value is the last column");
        if values.is_empty() {
            return ScalarValue::try_from(&DataType::List(Arc::clone(&self.item)))
                .map_err(|e| Error::Failed(e.to_string()));
        }
        let offsets = OffsetBuffer::from_lengths([values.len()]);
        Ok(ScalarValue::List(Arc::new(ListArray::try_new(Arc::clone(&self.item), offsets, values, None)?)))
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
