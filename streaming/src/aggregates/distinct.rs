//! DISTINCT in front of any aggregate: each different input counts once, as long as it is there at all.

use arrow::array::{Array, ArrayRef};
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use storage::keys::{self, SortOption};

use super::{Accumulator, AggregateCall, Input, Multiset, accumulator};
use crate::error::Result;

pub(super) struct Distinct {
    /// The aggregate behind the DISTINCT.
    call: AggregateCall,
    inner: Box<dyn Accumulator>,
    arg_types: Vec<DataType>,
    values: Multiset,
}

impl Distinct {
    pub(super) fn new(call: AggregateCall, arg_types: &[DataType]) -> Result<Self> {
        let inner = accumulator(&call, arg_types)?;
        Ok(Distinct { call, inner, arg_types: arg_types.to_vec(), values: Multiset::default() })
    }

    fn options(&self) -> Vec<SortOption> {
        vec![SortOption::default(); self.arg_types.len()]
    }
}

impl Accumulator for Distinct {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        let keys = keys::encode(args, &self.options())?;
        Ok(Input { args: args.to_vec(), keys: Some(keys), inner: Some(Box::new(self.inner.prepare(args)?)) })
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
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
        let present = self.values.iter().filter(|(_, count)| *count > 0).map(|(key, _)| key);
        let columns = keys::decode(&self.arg_types, &self.options(), present)?;
        let n = columns.first().map_or(0, |c| c.len());
        self.inner = accumulator(&self.call, &self.arg_types)?;
        self.inner.apply_all(&columns, n, None)
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.values.bytes() + self.inner.bytes()
    }
}
