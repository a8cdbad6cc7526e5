//! The aggregates that are one of their inputs: `first_value`, `last_value`, `any_value`, `min_by` and `max_by`.
//!
//! Inputs are kept in an order: that of ORDER BY (or of `min_by`'s second argument) and, where it does not decide, of the
//! values themselves. Without retractions the winner is enough.

use arrow::array::{Array, ArrayRef};
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use storage::keys::SortOption;

use super::collect::KeyLayout;
use super::{Accumulator, AggregateCall, AggregateKind, Input, Multiset, failed};
use crate::error::Result;

pub(super) struct Pick {
    layout: KeyLayout,
    returns: DataType,
    /// Whether the last of the order wins.
    last: bool,
    /// The argument that must not be NULL, as an index into the arguments.
    needs: Option<usize>,
    values: Values,
}

enum Values {
    All(Multiset),
    Best(Option<Box<[u8]>>),
}

impl Pick {
    pub(super) fn new(call: &AggregateCall, arg_types: &[DataType], append_only: bool) -> Result<Self> {
        let by_second = matches!(call.kind, AggregateKind::MinBy | AggregateKind::MaxBy);
        // `min_by(x, y)` is x, ordered by y, which stands behind it as ORDER BY's columns do.
        let order = if by_second { vec![SortOption::default()] } else { call.order.clone() };
        let needs = match call.kind {
            AggregateKind::AnyValue => Some(0),
            _ if by_second => Some(1),
            _ => None,
        };
        Ok(Pick {
            layout: KeyLayout::new(arg_types, &order)?,
            returns: call.returns.clone(),
            last: matches!(call.kind, AggregateKind::LastValue | AggregateKind::MaxBy),
            needs,
            values: if append_only { Values::Best(None) } else { Values::All(Multiset::default()) },
        })
    }

    fn offer(&mut self, key: &[u8]) {
        let Values::Best(best) = &mut self.values else { return };
        let better = match best {
            None => true,
            Some(best) if self.last => key > best.as_ref(),
            Some(best) => key < best.as_ref(),
        };
        if better {
            *best = Some(key.into());
        }
    }
}

impl Accumulator for Pick {
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        self.layout.prepare(args)
    }

    fn add(&mut self, input: &Input, row: usize, diff: i64) {
        if self.needs.is_some_and(|arg| input.args[arg].is_null(row)) {
            return;
        }
        match &mut self.values {
            Values::All(values) => drop(values.add(input.key(row), diff)),
            Values::Best(_) => self.offer(input.key(row)),
        }
    }

    fn value(&self) -> Result<ScalarValue> {
        let key = match &self.values {
            Values::All(values) => {
                let mut present = values.iter().filter(|(_, count)| *count > 0);
                let entry = if self.last { present.next_back() } else { present.next() };
                entry.map(|(key, _)| key)
            }
            Values::Best(best) => best.as_deref(),
        };
        let Some(key) = key else { return ScalarValue::try_from(&self.returns).map_err(failed) };
        let columns = self.layout.decode(std::iter::once(key))?;
        ScalarValue::try_from_array(&columns[0], 0).map_err(failed)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        if let Values::Best(Some(best)) = &self.values {
            out.extend(best);
        }
    }

    fn merge(&mut self, bytes: &[u8]) -> Result<()> {
        if !bytes.is_empty() {
            self.offer(bytes);
        }
        Ok(())
    }

    fn multiset(&mut self) -> Option<&mut Multiset> {
        match &mut self.values {
            Values::All(values) => Some(values),
            Values::Best(_) => None,
        }
    }

    fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::All(values) => values.bytes(),
            Values::Best(best) => best.as_ref().map_or(0, |best| best.len()),
        };
        size_of::<Self>() + values
    }
}

impl AggregateKind {
    /// Whether its value is one of its inputs.
    pub(super) fn picks(self) -> bool {
        use AggregateKind::*;
        matches!(self, FirstValue | LastValue | AnyValue | MinBy | MaxBy)
    }
}
