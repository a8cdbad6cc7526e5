//! The aggregates: one retractable implementation each, used by streams and by reads.
//!
//! An [`Accumulator`] holds the state of one aggregate of one group. It takes rows with diffs of any sign and size in
//! any order, and what it says depends on the sum of the diffs per row only: a retraction leaves no residue, not even
//! in floats. What cannot be kept in a few numbers is a [`Multiset`] of inputs, kept in the order of their values.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};
use storage::keys::Keys;

use crate::error::{Error, Result};

mod array_agg;
mod avg;
mod bool_and_or;
mod count;
mod distinct;
pub(crate) mod exact_float;
mod min_max;
pub mod multiset;
pub(crate) mod numeric_sum;
mod string_agg;
mod sum;

pub(crate) use avg::int_avg;
pub use multiset::Multiset;
pub(crate) use sum::{bigint_sum, numeric_sum};

/// One aggregate of an [`crate::operators::Aggregate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AggregateCall {
    /// Which.
    pub kind: AggregateKind,
    /// Its argument columns; empty for `count(*)`.
    pub args: Vec<usize>,
    /// A boolean column: only rows where it is true count (FILTER).
    pub filter: Option<usize>,
    /// Each different argument counts once.
    pub distinct: bool,
    /// The type of the result.
    pub returns: DataType,
}

/// The aggregates that exist. Argument types are those of the columns: the planner has cast them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AggregateKind {
    /// `count(*)` without argument, `count(x)` with one. bigint.
    Count,
    /// `sum`: smallint and int to bigint; bigint and numeric to numeric; real, double and interval to themselves.
    Sum,
    /// `avg`: of integers and numerics numeric, of floats double, of interval interval.
    Avg,
    /// `min` of any ordered type.
    Min,
    /// `max` of any ordered type.
    Max,
    /// `bool_and`, `every`
    BoolAnd,
    /// `bool_or`
    BoolOr,
    /// `string_agg(text, delimiter)`: in the order of the input's row order keys.
    StringAgg,
    /// `array_agg`
    ArrayAgg,
}

/// The arguments of one aggregate for a whole batch, in the form that its accumulators read row by row.
pub struct Input {
    /// The argument columns; integers of all widths as bigint where only their value counts.
    pub args: Vec<ArrayRef>,
    /// The arguments as order-preserving bytes, for those that keep a multiset.
    pub keys: Option<Keys>,
    /// What DISTINCT hands on.
    pub inner: Option<Box<Input>>,
}

impl Input {
    /// The arguments as they are.
    pub fn plain(args: &[ArrayRef]) -> Input {
        Input { args: args.to_vec(), keys: None, inner: None }
    }

    /// Whether the first argument is NULL in `row`; `count(*)` has no argument and no NULL.
    pub fn is_null(&self, row: usize) -> bool {
        self.args.first().is_some_and(|arg| arg.is_null(row))
    }

    /// The encoded arguments of `row`.
    pub fn key(&self, row: usize) -> &[u8] {
        self.keys.as_ref().expect("the accumulator encodes its arguments").get(row)
    }
}

/// The state of one aggregate of one group.
pub trait Accumulator: Send + Sync {
    /// Brings the arguments of a batch into the form that [`Accumulator::add`] reads. Depends on the kind of the
    /// accumulator only: what one has prepared, all of the same call can read.
    fn prepare(&self, args: &[ArrayRef]) -> Result<Input> {
        Ok(Input::plain(args))
    }

    /// Adds `diff` times the arguments in `row`.
    fn add(&mut self, input: &Input, row: usize, diff: i64);

    /// The aggregate of all that was added; of the call's type.
    ///
    /// # Errors
    /// `Invalid` when the result has no representation (a sum that overflows).
    fn value(&self) -> Result<ScalarValue>;

    /// Appends the state, without what is in [`Accumulator::multiset`].
    fn encode(&self, out: &mut Vec<u8>);

    /// Adds what [`Accumulator::encode`] wrote to the state.
    fn merge(&mut self, bytes: &[u8]) -> Result<()>;

    /// The inputs that are kept one by one, if any.
    fn multiset(&mut self) -> Option<&mut Multiset> {
        None
    }

    /// Called after the multiset was filled from elsewhere, for what is derived from it.
    fn restored(&mut self) -> Result<()> {
        Ok(())
    }

    /// Bytes in memory.
    fn bytes(&self) -> usize;

    /// Adds `diff` times row `row` of `args`. For many rows, prepare once and add.
    fn apply(&mut self, args: &[ArrayRef], row: usize, diff: i64) -> Result<()> {
        let args: Vec<ArrayRef> = args.iter().map(|arg| arg.slice(row, 1)).collect();
        let input = self.prepare(&args)?;
        self.add(&input, 0, diff);
        Ok(())
    }

    /// Adds every row of `args` (`n` rows) with its diff, or once.
    fn apply_all(&mut self, args: &[ArrayRef], n: usize, diffs: Option<&Int64Array>) -> Result<()> {
        let input = self.prepare(args)?;
        (0..n).for_each(|row| self.add(&input, row, diffs.map_or(1, |d| d.value(row))));
        Ok(())
    }

    /// The whole state, the multiset included.
    fn state(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(multiset) = self.multiset() {
            multiset.encode(&mut out);
        } else {
            self.encode(&mut out);
        }
        out
    }

    /// Adds a whole state to this one.
    fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        match self.multiset() {
            Some(multiset) => multiset.merge(bytes)?,
            None => return self.merge(bytes),
        }
        self.restored()
    }
}

/// A fresh accumulator for `call` over arguments of `arg_types`. The call's FILTER is the caller's to apply.
pub fn accumulator(call: &AggregateCall, arg_types: &[DataType]) -> Result<Box<dyn Accumulator>> {
    let returns = &call.returns;
    // DISTINCT changes nothing for these.
    let idempotent =
        matches!(call.kind, AggregateKind::Min | AggregateKind::Max | AggregateKind::BoolAnd | AggregateKind::BoolOr);
    if call.distinct && !idempotent {
        let plain = AggregateCall { distinct: false, ..call.clone() };
        return Ok(Box::new(distinct::Distinct::new(plain, arg_types)?));
    }
    Ok(match call.kind {
        AggregateKind::Count => Box::new(count::Count::default()),
        AggregateKind::Sum => sum::new(arg_type(call, arg_types)?, returns)?,
        AggregateKind::Avg => avg::new(arg_type(call, arg_types)?)?,
        AggregateKind::Min => Box::new(min_max::MinMax::new(arg_type(call, arg_types)?, false)),
        AggregateKind::Max => Box::new(min_max::MinMax::new(arg_type(call, arg_types)?, true)),
        AggregateKind::BoolAnd => Box::new(bool_and_or::BoolAndOr::new(true)),
        AggregateKind::BoolOr => Box::new(bool_and_or::BoolAndOr::new(false)),
        AggregateKind::StringAgg => Box::new(string_agg::StringAgg::new(arg_types)?),
        AggregateKind::ArrayAgg => Box::new(array_agg::ArrayAgg::new(arg_types, returns)?),
    })
}

/// Like [`accumulator`], for an input without retractions: `min` and `max` keep one value instead of all.
pub fn append_only_accumulator(call: &AggregateCall, arg_types: &[DataType]) -> Result<Box<dyn Accumulator>> {
    match call.kind {
        AggregateKind::Min | AggregateKind::Max => {
            let max = call.kind == AggregateKind::Max;
            Ok(Box::new(min_max::Extreme::new(arg_type(call, arg_types)?, max)))
        }
        _ => accumulator(call, arg_types),
    }
}

fn arg_type<'a>(call: &AggregateCall, arg_types: &'a [DataType]) -> Result<&'a DataType> {
    arg_types.first().ok_or_else(|| Error::Failed(format!("{} without an argument", call.kind.name())))
}

fn unsupported(kind: AggregateKind, arg: &DataType) -> Error {
    Error::Unsupported(format!("{}({arg}) is not supported", kind.name()))
}

/// A column of integers as bigint.
fn as_bigint(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Int64 => Arc::clone(array),
        _ => arrow::compute::cast(array, &DataType::Int64)?,
    })
}

impl AggregateKind {
    /// Its SQL name.
    pub fn name(self) -> &'static str {
        match self {
            AggregateKind::Count => "count",
            AggregateKind::Sum => "sum",
            AggregateKind::Avg => "avg",
            AggregateKind::Min => "min",
            AggregateKind::Max => "max",
            AggregateKind::BoolAnd => "bool_and",
            AggregateKind::BoolOr => "bool_or",
            AggregateKind::StringAgg => "string_agg",
            AggregateKind::ArrayAgg => "array_agg",
        }
    }
}

impl std::fmt::Display for AggregateCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let args: Vec<String> = self.args.iter().map(|i| format!("${i}")).collect();
        let args = if args.is_empty() { "*".to_string() } else { args.join(", ") };
        write!(f, "{}({}{args})", self.kind.name(), if self.distinct { "DISTINCT " } else { "" })?;
        if let Some(filter) = self.filter {
            write!(f, " FILTER (WHERE ${filter})")?;
        }
        Ok(())
    }
}

/// Writes and reads the fixed-width parts of states.
mod bytes {
    use super::{Error, Result};

    pub(super) fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
        let (head, tail) =
            bytes.split_at_checked(n).ok_or_else(|| Error::Failed("an aggregate's state is cut short".into()))?;
        *bytes = tail;
        Ok(head)
    }

    pub(super) fn take_i64(bytes: &mut &[u8]) -> Result<i64> {
        Ok(i64::from_le_bytes(take(bytes, 8)?.try_into().expect("eight bytes")))
    }

    pub(super) fn take_i128(bytes: &mut &[u8]) -> Result<i128> {
        Ok(i128::from_le_bytes(take(bytes, 16)?.try_into().expect("sixteen bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// States of parts, merged, are the state of the whole: for every aggregate, with and without DISTINCT.
    #[test]
    fn states_of_parts_merge() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None, Some(3), Some(5), Some(-1), Some(5)]));
        let numeric = DataType::FixedSizeBinary(storage::types::NUMERIC_BYTES);
        for (kind, returns) in [
            (AggregateKind::Count, DataType::Int64),
            (AggregateKind::Sum, numeric.clone()),
            (AggregateKind::Avg, numeric),
            (AggregateKind::Min, DataType::Int64),
            (AggregateKind::Max, DataType::Int64),
            (AggregateKind::ArrayAgg, DataType::List(arrow_schema::Field::new("item", DataType::Int64, true).into())),
        ] {
            for distinct in [false, true] {
                let call = AggregateCall { kind, args: vec![0], filter: None, distinct, returns: returns.clone() };
                let fresh = || accumulator(&call, &[DataType::Int64]).unwrap();
                let (mut whole, mut merged) = (fresh(), fresh());
                whole.apply_all(&[Arc::clone(&numbers)], 6, None).unwrap();
                for first in [0, 2, 4] {
                    let mut part = fresh();
                    part.apply_all(&[numbers.slice(first, 2)], 2, None).unwrap();
                    merged.restore(&part.state()).unwrap();
                }
                assert_eq!(whole.value().unwrap(), merged.value().unwrap(), "{call}");
                for row in 0..6 {
                    merged.apply(&[Arc::clone(&numbers)], row, -1).unwrap();
                }
                assert_eq!(merged.value().unwrap(), fresh().value().unwrap(), "{call}");
            }
        }
    }
}
