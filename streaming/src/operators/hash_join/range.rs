//! Rows of one side in the order of a column, so that a comparison with the other side finds a range of them.

use std::collections::BTreeSet;
use std::ops::Bound;

use arrow::array::{Array, ArrayRef};
use serde::{Deserialize, Serialize};
use storage::Batch;
use storage::keys::{self, Keys, SortOption};

use crate::error::Result;

/// How the rows of one side are found: they are kept in the order of a column, between two values that a row of the
/// other side has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The column of this side that its rows are ordered by.
    pub column: usize,
    /// The column of the other side that it is above, and whether it may be equal.
    pub above: Option<(usize, bool)>,
    /// The column of the other side that it is below, and whether it may be equal.
    pub below: Option<(usize, bool)>,
}

impl Range {
    pub(super) fn order_by(&self) -> OrderBy {
        OrderBy { columns: vec![self.column], descending: false }
    }
}

/// What the rows of a side are ordered by.
#[derive(Clone, Debug)]
pub(in crate::operators) struct OrderBy {
    /// The columns; a row whose first is NULL is in no order.
    pub(in crate::operators) columns: Vec<usize>,
    /// Whether the first goes from high to low.
    pub(in crate::operators) descending: bool,
}

/// The rows of a side, key by key in their order.
#[derive(Default)]
pub(in crate::operators) struct OrderedRows {
    rows: BTreeSet<(u32, Box<[u8]>, u32)>,
    bytes: usize,
}

/// A place in the order: the ordering value and the number of a row.
pub(in crate::operators) type Place = (Box<[u8]>, u32);

/// A bound of a range: the encoded value, and whether it belongs to the range.
type Limit<'a> = Option<(&'a [u8], bool)>;

impl OrderedRows {
    pub(in crate::operators) fn insert(&mut self, key: u32, value: &[u8], row: u32) {
        self.bytes += ENTRY_BYTES + value.len();
        self.rows.insert((key, value.into(), row));
    }

    pub(in crate::operators) fn remove(&mut self, key: u32, value: &[u8], row: u32) {
        self.bytes -= ENTRY_BYTES + value.len();
        self.rows.remove(&(key, value.into(), row));
    }

    pub(in crate::operators) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The rows of a key in a range, in their order; those behind `after` if it is given.
    pub(in crate::operators) fn between<'a>(
        &'a self,
        key: u32,
        above: Limit,
        below: Limit,
        after: Option<Place>,
    ) -> impl Iterator<Item = (&'a [u8], u32)> + use<'a> {
        let from = match (after, above) {
            (Some((value, row)), _) => Bound::Excluded((key, value, row)),
            (None, Some((value, true))) => Bound::Included((key, value.into(), 0)),
            (None, Some((value, false))) => Bound::Excluded((key, value.into(), u32::MAX)),
            (None, None) => Bound::Included((key, Box::default(), 0)),
        };
        let to = match below {
            Some((value, true)) => Bound::Included((key, value.into(), u32::MAX)),
            Some((value, false)) => Bound::Excluded((key, value.into(), 0)),
            // No key has this number.
            None => Bound::Excluded((key + 1, Box::default(), 0)),
        };
        let empty = match (&from, &to) {
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
            _ => false,
        };
        let range = (!empty).then(|| self.rows.range((from, to)));
        range.into_iter().flatten().map(|(_, value, row)| (value.as_ref(), *row))
    }
}

impl OrderedRows {
    /// The last row of a key whose value is below `value` or, if `inclusive`, begins with it.
    pub(in crate::operators) fn last(&self, key: u32, value: &[u8], inclusive: bool) -> Option<u32> {
        let end = if inclusive { keys::after_prefix(value) } else { Some(value.to_vec()) };
        let to = match end {
            Some(end) => (key, end.into(), 0),
            None => (key + 1, Box::default(), 0),
        };
        let found = self.rows.range((key, Box::default(), 0)..to).next_back();
        found.map(|(_, _, row)| *row)
    }

    /// The rows of the key just before a place and just behind it, the latter with its value.
    pub(in crate::operators) fn neighbours(&self, key: u32, place: &Place) -> (Option<u32>, Option<(&[u8], u32)>) {
        let at = (key, place.0.clone(), place.1);
        let before = self.rows.range((key, Box::default(), 0)..at.clone()).next_back();
        let behind = self.rows.range((Bound::Excluded(at), Bound::Excluded((key + 1, Box::default(), 0)))).next();
        (before.map(|(_, _, row)| *row), behind.map(|(_, value, row)| (value.as_ref(), *row)))
    }
}

/// What an entry costs besides its value: its share of a node, and the value's own allocation.
const ENTRY_BYTES: usize = 48;

/// What a batch says about the other side's order.
pub(super) struct Between {
    above: Option<(Values, bool)>,
    below: Option<(Values, bool)>,
}

/// The ordering values of a batch.
pub(in crate::operators) struct Values {
    keys: Keys,
    nulls: Option<arrow::buffer::NullBuffer>,
}

impl Values {
    pub(in crate::operators) fn of(delta: &Batch, order: &OrderBy) -> Result<Values> {
        Values::of_columns(delta.data().columns(), order)
    }

    pub(in crate::operators) fn of_columns(columns: &[ArrayRef], order: &OrderBy) -> Result<Values> {
        let first = SortOption { descending: order.descending, nulls_first: false };
        let picked: Vec<ArrayRef> = order.columns.iter().map(|column| columns[*column].clone()).collect();
        Ok(Values { keys: keys::encode(&picked, &[first])?, nulls: picked[0].logical_nulls() })
    }

    /// The encoded value of a row; `None` for NULL.
    pub(in crate::operators) fn get(&self, row: usize) -> Option<&[u8]> {
        self.nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)).then(|| self.keys.get(row))
    }
}

impl Between {
    /// What the rows of `delta` ask of the other side, which is ordered as `range` says.
    pub(super) fn of(delta: &Batch, range: &Range) -> Result<Between> {
        let values = |limit: Option<(usize, bool)>| -> Result<Option<(Values, bool)>> {
            let Some((column, inclusive)) = limit else { return Ok(None) };
            let order = OrderBy { columns: vec![column], descending: false };
            Ok(Some((Values::of(delta, &order)?, inclusive)))
        };
        Ok(Between { above: values(range.above)?, below: values(range.below)? })
    }

    /// The rows of `key` that a row of the batch asks for. A comparison with NULL finds none.
    pub(super) fn find<'a>(
        &self,
        row: usize,
        rows: &'a OrderedRows,
        key: u32,
        after: Option<Place>,
    ) -> impl Iterator<Item = (&'a [u8], u32)> + use<'a> {
        let limit = |limit: &'_ Option<(Values, bool)>| match limit {
            None => Some(None),
            Some((values, inclusive)) => values.get(row).map(|value| Some((value.to_vec(), *inclusive))),
        };
        let limits = limit(&self.above).zip(limit(&self.below));
        let found = limits.map(|(above, below)| {
            let above = above.as_ref().map(|(value, inclusive)| (value.as_slice(), *inclusive));
            let below = below.as_ref().map(|(value, inclusive)| (value.as_slice(), *inclusive));
            rows.between(key, above, below, after)
        });
        found.into_iter().flatten()
    }
}
