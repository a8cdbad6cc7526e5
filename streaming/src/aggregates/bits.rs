//! `bit_and`, `bit_or` and `bit_xor` of integers: how many inputs have each bit.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::Int64Type;
use arrow_schema::DataType;
use datafusion::common::ScalarValue;

use super::{Accumulator, AggregateKind, Input, as_bigint, bytes, unsupported};
use crate::error::Result;

pub(super) struct Bits {
    kind: AggregateKind,
    returns: DataType,
    count: i64,
    set: Box<[i64; 64]>,
}

impl Bits {
    pub(super) fn new(kind: AggregateKind, arg: &DataType) -> Result<Self> {
        match arg {
            DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                Ok(Bits { kind, returns: arg.clone(), count: 0, set: Box::new([0; 64]) })
            }
            other => Err(unsupported(kind, other)),
        }
    }
}

impl Accumulator for Bits {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        Ok(Input::plain(&[as_bigint(&args[0])?]))
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if input.is_null(row) {
            return;
        }
        self.count += diff;
        let value = input.args[0].as_primitive::<Int64Type>().value(row);
        for (bit, count) in self.set.iter_mut().enumerate() {
            *count += diff * (value >> bit & 1);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let is_set = |count: i64| match self.kind {
            AggregateKind::BitAnd => count == self.count,
            AggregateKind::BitOr => count > 0,
            _ => count % 2 != 0,
        };
        let value = (0..64).fold(0_i64, |all, bit| all | i64::from(is_set(self.set[bit])) << bit);
        let value = (self.count > 0).then_some(value);
        // The sign was extended: the lower bits are the value in any width.
        Ok(match self.returns {
            DataType::Int16 => ScalarValue::Int16(value.map(|v| v as i16)),
            DataType::Int32 => ScalarValue::Int32(value.map(|v| v as i32)),
            _ => ScalarValue::Int64(value),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.count.to_le_bytes());
        self.set.iter().for_each(|count| out.extend(count.to_le_bytes()));
    }

    fn merge(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.count += bytes::take_i64(&mut bytes)?;
        for count in self.set.iter_mut() {
            *count += bytes::take_i64(&mut bytes)?;
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + 512
    }
}
