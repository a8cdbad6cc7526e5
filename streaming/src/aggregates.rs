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
use storage::keys::{Keys, SortOption};

use crate::error::{Error, Result};

mod approximate;
mod avg;
mod bits;
mod bool_and_or;
mod collect;
mod count;
mod distinct;
pub(crate) mod exact_float;
mod min_max;
pub mod multiset;
pub(crate) mod numeric_sum;
mod pick;
mod regression;
mod sum;
mod variance;

pub(crate) use avg::int_avg;
pub use distinct::has_forms;
pub use multiset::Multiset;
pub(crate) use sum::{bigint_sum, numeric_sum};

/// One aggregate of an [`crate::operators::Aggregate`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AggregateCall {
    /// Which.
    pub kind: AggregateKind,
    /// Its argument columns; empty for `count(*)`. The columns of ORDER BY stand behind the aggregate's own.
    pub args: Vec<usize>,
    /// How each of the last arguments is sorted: ORDER BY inside the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub order: Vec<SortOption>,
    /// A boolean column: only rows where it is true count (FILTER).
    pub filter: Option<usize>,
    /// Each different argument counts once.
    pub distinct: bool,
    /// The type of the result.
    pub returns: DataType,
}

impl AggregateCall {
    /// Whether each different input is kept.
    pub fn keeps_values(&self, append_only: bool) -> bool {
        self.kind.keeps_inputs(append_only) || self.distinct && !self.kind.is_idempotent()
    }
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
    /// `string_agg(text, delimiter)`
    StringAgg,
    /// `array_agg`
    ArrayAgg,
    /// `jsonb_agg` of jsonb
    JsonbAgg,
    /// `jsonb_object_agg(text, jsonb)`
    JsonbObjectAgg,
    /// `bit_and` of integers
    BitAnd,
    /// `bit_or`
    BitOr,
    /// `bit_xor`
    BitXor,
    /// `any_value`: the smallest, so that it does not depend on the order of rows
    AnyValue,
    /// `first_value(x ORDER BY ...)`
    FirstValue,
    /// `last_value(x ORDER BY ...)`
    LastValue,
    /// `min_by(x, y)`, `arg_min`: the x of the smallest y
    MinBy,
    /// `max_by(x, y)`, `arg_max`
    MaxBy,
    /// `var_pop`
    VarPop,
    /// `var_samp`, `variance`
    VarSamp,
    /// `stddev_pop`
    StddevPop,
    /// `stddev_samp`, `stddev`
    StddevSamp,
    /// `corr(y, x)` of doubles, like all of this family
    Corr,
    /// `covar_pop`
    CovarPop,
    /// `covar_samp`
    CovarSamp,
    /// `regr_avgx`
    RegrAvgx,
    /// `regr_avgy`
    RegrAvgy,
    /// `regr_count`
    RegrCount,
    /// `regr_intercept`
    RegrIntercept,
    /// `regr_r2`
    RegrR2,
    /// `regr_slope`
    RegrSlope,
    /// `regr_sxx`
    RegrSxx,
    /// `regr_sxy`
    RegrSxy,
    /// `regr_syy`
    RegrSyy,
    /// `percentile_cont(double, fraction)`, ordered by the value
    PercentileCont,
    /// `percentile_disc(value, fraction)`, ordered by the value
    PercentileDisc,
    /// `mode(value)`, ordered by the value
    Mode,
    /// `approx_count_distinct`
    ApproxCountDistinct,
    /// `approx_percentile(double, fraction, relative error)`
    ApproxPercentile,
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
    if call.distinct && !call.kind.is_idempotent() {
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
        AggregateKind::BitAnd | AggregateKind::BitOr | AggregateKind::BitXor => {
            Box::new(bits::Bits::new(call.kind, arg_type(call, arg_types)?)?)
        }
        AggregateKind::VarPop | AggregateKind::VarSamp | AggregateKind::StddevPop | AggregateKind::StddevSamp => {
            Box::new(variance::Variance::new(call.kind, arg_type(call, arg_types)?)?)
        }
        AggregateKind::Corr
        | AggregateKind::CovarPop
        | AggregateKind::CovarSamp
        | AggregateKind::RegrAvgx
        | AggregateKind::RegrAvgy
        | AggregateKind::RegrCount
        | AggregateKind::RegrIntercept
        | AggregateKind::RegrR2
        | AggregateKind::RegrSlope
        | AggregateKind::RegrSxx
        | AggregateKind::RegrSxy
        | AggregateKind::RegrSyy => match arg_types {
            [DataType::Float64, DataType::Float64] => Box::new(regression::Regression::new(call.kind)),
            _ => return Err(unsupported(call.kind, arg_type(call, arg_types)?)),
        },
        AggregateKind::StringAgg
        | AggregateKind::ArrayAgg
        | AggregateKind::JsonbAgg
        | AggregateKind::JsonbObjectAgg
        | AggregateKind::PercentileCont
        | AggregateKind::PercentileDisc
        | AggregateKind::Mode => Box::new(collect::Collect::new(call, arg_types)?),
        AggregateKind::AnyValue
        | AggregateKind::FirstValue
        | AggregateKind::LastValue
        | AggregateKind::MinBy
        | AggregateKind::MaxBy => Box::new(pick::Pick::new(call, arg_types, false)?),
        AggregateKind::ApproxCountDistinct => Box::new(approximate::CountDistinct::default()),
        AggregateKind::ApproxPercentile => match arg_types {
            [DataType::Float64, DataType::Float64, DataType::Float64, ..] => {
                Box::new(approximate::Percentile::default())
            }
            _ => return Err(unsupported(call.kind, arg_type(call, arg_types)?)),
        },
    })
}

/// Like [`accumulator`], for an input without retractions: `min`, `max` and those that are one of their inputs keep one
/// value instead of all.
pub fn append_only_accumulator(call: &AggregateCall, arg_types: &[DataType]) -> Result<Box<dyn Accumulator>> {
    match call.kind {
        AggregateKind::Min | AggregateKind::Max => {
            let max = call.kind == AggregateKind::Max;
            Ok(Box::new(min_max::Extreme::new(arg_type(call, arg_types)?, max)))
        }
        kind if kind.picks() => Ok(Box::new(pick::Pick::new(call, arg_types, true)?)),
        _ => accumulator(call, arg_types),
    }
}

/// A DataFusion error of a value that was made here.
fn failed(error: datafusion::common::DataFusionError) -> Error {
    Error::Failed(error.to_string())
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
    /// All of them.
    pub const ALL: [AggregateKind; 40] = {
        use AggregateKind::*;
        [
            Count,
            Sum,
            Avg,
            Min,
            Max,
            BoolAnd,
            BoolOr,
            StringAgg,
            ArrayAgg,
            JsonbAgg,
            JsonbObjectAgg,
            BitAnd,
            BitOr,
            BitXor,
            AnyValue,
            FirstValue,
            LastValue,
            MinBy,
            MaxBy,
            VarPop,
            VarSamp,
            StddevPop,
            StddevSamp,
            Corr,
            CovarPop,
            CovarSamp,
            RegrAvgx,
            RegrAvgy,
            RegrCount,
            RegrIntercept,
            RegrR2,
            RegrSlope,
            RegrSxx,
            RegrSxy,
            RegrSyy,
            PercentileCont,
            PercentileDisc,
            Mode,
            ApproxCountDistinct,
            ApproxPercentile,
        ]
    };

    /// Whether it is a number of rows: zero over none, never NULL.
    pub fn is_count(self) -> bool {
        matches!(self, AggregateKind::Count | AggregateKind::RegrCount | AggregateKind::ApproxCountDistinct)
    }

    /// Whether it is the same if each different input counts once: DISTINCT changes nothing.
    pub fn is_idempotent(self) -> bool {
        use AggregateKind::*;
        self.picks() || matches!(self, Min | Max | BoolAnd | BoolOr | BitAnd | BitOr | ApproxCountDistinct)
    }

    /// Whether it puts its inputs one behind the other.
    pub fn is_in_order(self) -> bool {
        use AggregateKind::*;
        matches!(self, StringAgg | ArrayAgg | JsonbAgg | JsonbObjectAgg)
    }

    /// Whether each different input is kept, with or without retractions.
    pub fn keeps_inputs(self, append_only: bool) -> bool {
        use AggregateKind::*;
        match self {
            StringAgg | ArrayAgg | JsonbAgg | JsonbObjectAgg | PercentileCont | PercentileDisc | Mode => true,
            Min | Max => !append_only,
            kind => kind.picks() && !append_only,
        }
    }

    /// Whether what any number of rows adds to it is a few numbers: parts of a group can be combined before they travel.
    pub fn combines(self, append_only: bool) -> bool {
        use AggregateKind::*;
        !self.keeps_inputs(append_only) && !matches!(self, ApproxCountDistinct | ApproxPercentile)
    }

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
            AggregateKind::JsonbAgg => "jsonb_agg",
            AggregateKind::JsonbObjectAgg => "jsonb_object_agg",
            AggregateKind::BitAnd => "bit_and",
            AggregateKind::BitOr => "bit_or",
            AggregateKind::BitXor => "bit_xor",
            AggregateKind::AnyValue => "any_value",
            AggregateKind::FirstValue => "first_value",
            AggregateKind::LastValue => "last_value",
            AggregateKind::MinBy => "min_by",
            AggregateKind::MaxBy => "max_by",
            AggregateKind::VarPop => "var_pop",
            AggregateKind::VarSamp => "var_samp",
            AggregateKind::StddevPop => "stddev_pop",
            AggregateKind::StddevSamp => "stddev_samp",
            AggregateKind::Corr => "corr",
            AggregateKind::CovarPop => "covar_pop",
            AggregateKind::CovarSamp => "covar_samp",
            AggregateKind::RegrAvgx => "regr_avgx",
            AggregateKind::RegrAvgy => "regr_avgy",
            AggregateKind::RegrCount => "regr_count",
            AggregateKind::RegrIntercept => "regr_intercept",
            AggregateKind::RegrR2 => "regr_r2",
            AggregateKind::RegrSlope => "regr_slope",
            AggregateKind::RegrSxx => "regr_sxx",
            AggregateKind::RegrSxy => "regr_sxy",
            AggregateKind::RegrSyy => "regr_syy",
            AggregateKind::PercentileCont => "percentile_cont",
            AggregateKind::PercentileDisc => "percentile_disc",
            AggregateKind::Mode => "mode",
            AggregateKind::ApproxCountDistinct => "approx_count_distinct",
            AggregateKind::ApproxPercentile => "approx_percentile",
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

    /// Appends `n` states, each behind its length.
    pub(super) fn put_parts(out: &mut Vec<u8>, put: impl Fn(usize, &mut Vec<u8>), n: usize) {
        for part in 0..n {
            let at = out.len();
            out.extend([0; 4]);
            put(part, out);
            let len = (out.len() - at - 4) as u32;
            out[at..at + 4].copy_from_slice(&len.to_le_bytes());
        }
    }

    /// One of the states that [`put_parts`] wrote.
    pub(super) fn take_part<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
        let len = u32::from_le_bytes(take(bytes, 4)?.try_into().expect("four bytes"));
        take(bytes, len as usize)
    }

    pub(super) fn take_i128(bytes: &mut &[u8]) -> Result<i128> {
        Ok(i128::from_le_bytes(take(bytes, 16)?.try_into().expect("sixteen bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// States of parts, merged, are the state of the whole, and what is retracted leaves nothing behind: for every
    /// aggregate, with and without DISTINCT.
    #[test]
    fn states_of_parts_merge() {
        use AggregateKind::*;
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(3), None, Some(3), Some(5), Some(-1), Some(5)]));
        let doubles = arrow::compute::cast(&ints, &DataType::Float64).unwrap();
        let half: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.5; 6]));
        let texts = arrow::compute::cast(&ints, &DataType::Utf8View).unwrap();
        let names = arrow::compute::cast(&doubles, &DataType::Utf8View).unwrap();
        let truths: ArrayRef = arrow::compute::cast(&ints, &DataType::Boolean).unwrap();
        let numeric = DataType::FixedSizeBinary(storage::types::NUMERIC_BYTES);
        let list = DataType::List(arrow_schema::Field::new("item", DataType::Int64, true).into());
        let one = |column: &ArrayRef| vec![Arc::clone(column)];
        let two = |a: &ArrayRef, b: &ArrayRef| vec![Arc::clone(a), Arc::clone(b)];
        let mut cases: Vec<(AggregateKind, Vec<ArrayRef>, usize, DataType)> = vec![
            (Count, one(&ints), 0, DataType::Int64),
            (Sum, one(&ints), 0, numeric.clone()),
            (Avg, one(&doubles), 0, DataType::Float64),
            (Min, one(&ints), 0, DataType::Int64),
            (Max, one(&texts), 0, DataType::Utf8View),
            (BoolAnd, one(&truths), 0, DataType::Boolean),
            (BoolOr, one(&truths), 0, DataType::Boolean),
            (BitAnd, one(&ints), 0, DataType::Int64),
            (BitOr, one(&ints), 0, DataType::Int64),
            (BitXor, one(&ints), 0, DataType::Int64),
            (ArrayAgg, one(&ints), 0, list),
            (StringAgg, two(&texts, &names), 0, DataType::Utf8View),
            (JsonbAgg, one(&texts), 0, DataType::Utf8View),
            (AnyValue, one(&ints), 0, DataType::Int64),
            (FirstValue, two(&ints, &texts), 1, DataType::Int64),
            (LastValue, two(&ints, &texts), 1, DataType::Int64),
            (MinBy, two(&texts, &ints), 0, DataType::Utf8View),
            (MaxBy, two(&texts, &ints), 0, DataType::Utf8View),
            (PercentileCont, vec![doubles.clone(), half.clone(), doubles.clone()], 1, DataType::Float64),
            (PercentileDisc, vec![ints.clone(), half.clone(), ints.clone()], 1, DataType::Int64),
            (Mode, two(&ints, &ints), 1, DataType::Int64),
            (RegrCount, two(&doubles, &half), 0, DataType::Int64),
            (ApproxCountDistinct, one(&ints), 0, DataType::Int64),
            (ApproxPercentile, vec![doubles.clone(), half.clone(), half.clone()], 0, DataType::Float64),
        ];
        for kind in [VarPop, VarSamp, StddevPop, StddevSamp] {
            cases.push((kind, one(&ints), 0, numeric.clone()));
            cases.push((kind, one(&doubles), 0, DataType::Float64));
        }
        for kind in
            [Corr, CovarPop, CovarSamp, RegrAvgx, RegrAvgy, RegrIntercept, RegrR2, RegrSlope, RegrSxx, RegrSxy, RegrSyy]
        {
            cases.push((kind, two(&doubles, &doubles), 0, DataType::Float64));
        }
        for (kind, args, n_order, returns) in cases {
            for distinct in [false, true] {
                let types: Vec<DataType> = args.iter().map(|arg| arg.data_type().clone()).collect();
                let call = AggregateCall {
                    kind,
                    args: (0..args.len()).collect(),
                    order: vec![SortOption::default(); n_order],
                    filter: None,
                    distinct,
                    returns: returns.clone(),
                };
                for append_only in [false, true] {
                    let fresh = || match append_only {
                        false => accumulator(&call, &types).unwrap(),
                        true => append_only_accumulator(&call, &types).unwrap(),
                    };
                    let (mut whole, mut merged) = (fresh(), fresh());
                    whole.apply_all(&args, 6, None).unwrap();
                    for first in [0, 2, 4] {
                        let mut part = fresh();
                        let args: Vec<ArrayRef> = args.iter().map(|arg| arg.slice(first, 2)).collect();
                        part.apply_all(&args, 2, None).unwrap();
                        merged.restore(&part.state()).unwrap();
                    }
                    let value = whole.value().unwrap();
                    assert_eq!(value, merged.value().unwrap(), "{call}");
                    assert_eq!(value.data_type(), returns, "{call}");
                    if !append_only {
                        (0..6).for_each(|row| merged.apply(&args, row, -1).unwrap());
                        assert_eq!(merged.value().unwrap(), fresh().value().unwrap(), "{call}");
                    }
                }
            }
        }
    }
}
