//! `string_agg(text, delimiter)`: the texts that are not NULL, each but the first behind its delimiter.
//!
//! The order is that of the arguments behind the delimiter (ascending, NULLs last) if there are any, and of the texts
//! themselves where those do not decide: the same in a stream and in a read, whatever order the rows came in.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use storage::keys::{self, SortOption};

use super::{Accumulator, AggregateKind, Input, Multiset, unsupported};
use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct StringAgg {
    /// Types in the order of the key: the order keys, the text, the delimiter.
    types: Vec<DataType>,
    values: Multiset,
}

impl StringAgg {
    pub(super) fn new(arg_types: &[DataType]) -> Result<Self> {
        match arg_types {
            [DataType::Utf8View, DataType::Utf8View, order @ ..] => {
                let mut types = order.to_vec();
                types.extend([DataType::Utf8View, DataType::Utf8View]);
                Ok(StringAgg { types, values: Multiset::default() })
            }
            [other, ..] => Err(unsupported(AggregateKind::StringAgg, other)),
            [] => Err(Error::Failed("string_agg without an argument".into())),
        }
    }

    fn options(&self) -> Vec<SortOption> {
        vec![SortOption::default(); self.types.len()]
    }
}

impl Accumulator for StringAgg {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        let mut columns = args[2..].to_vec();
        columns.extend_from_slice(&args[..2]);
        let keys = keys::encode(&columns, &self.options())?;
        Ok(Input { args: args.to_vec(), keys: Some(keys), inner: None })
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if !input.is_null(row) {
            self.values.add(input.key(row), diff);
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let columns = keys::decode(&self.types, &self.options(), self.values.expanded())?;
        let (texts, delimiters) =
            (columns[self.types.len() - 2].as_string_view(), columns[self.types.len() - 1].as_string_view());
        if texts.is_empty() {
            return Ok(ScalarValue::Utf8View(None));
        }
        let mut all = String::new();
        for i in 0..texts.len() {
            if i > 0 && delimiters.is_valid(i) {
                all.push_str(delimiters.value(i));
            }
            all.push_str(texts.value(i));
        }
        Ok(ScalarValue::Utf8View(Some(all)))
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
