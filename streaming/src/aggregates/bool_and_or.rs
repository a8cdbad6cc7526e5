//! `bool_and` (`every`) and `bool_or`: how many inputs are true and how many false.

use arrow::array::AsArray;
use datafusion::common::ScalarValue;

use super::{Accumulator, Input, bytes};
use crate::error::Result;

#[derive(Debug)]
pub(super) struct BoolAndOr {
    and: bool,
    yes: i64,
    no: i64,
}

impl BoolAndOr {
    pub(super) fn new(and: bool) -> Self {
        BoolAndOr { and, yes: 0, no: 0 }
    }
}

impl Accumulator for BoolAndOr {
    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            let count = if input.args[0].as_boolean().value(row) { &mut self.yes } else { &mut self.no };
            *count += diff;
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let value = if self.and { self.no <= 0 } else { self.yes > 0 };
        Ok(ScalarValue::Boolean((self.yes > 0 || self.no > 0).then_some(value)))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.yes.to_le_bytes());
        out.extend(self.no.to_le_bytes());
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.yes += bytes::take_i64(&mut bytes)?;
        self.no += bytes::take_i64(&mut bytes)?;
        Ok(())
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}
