//! `count(*)` and `count(x)`: the number of rows, or of those where x is not NULL.

use datafusion::common::ScalarValue;

use super::{Accumulator, Input, bytes};
use crate::error::Result;

#[derive(Debug, Default)]
pub(super) struct Count {
    rows: i64,
}

impl Accumulator for Count {
    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            self.rows += diff;
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.rows)))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.rows.to_le_bytes());
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.rows += bytes::take_i64(&mut bytes)?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}
