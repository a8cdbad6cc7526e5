//! The aggregates: one retractable implementation each, used by streams and by reads.

use arrow_schema::DataType;
use serde::{Deserialize, Serialize};

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
