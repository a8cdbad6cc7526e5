//! Window functions over one partition, in its order: what streams and reads both compute.
//!
//! A partition is [`Rows`]: how many there are, the order columns of each as bytes, and any range of them as columns. So
//! a stream decodes only what a change can affect, and a read hands over the columns that it has.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use arrow_schema::DataType;
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};
use storage::keys::{self, SortOption};

use crate::aggregates::{self, Accumulator, AggregateCall, AggregateKind};
use crate::error::{Error, Result};

/// One window function of a [`crate::operators::Window`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowCall {
    /// Which.
    pub kind: WindowKind,
    /// Its argument columns.
    pub args: Vec<usize>,
    /// A boolean column: only rows where it is true count (FILTER, aggregates only).
    pub filter: Option<usize>,
    /// The rows that it sees; of no meaning for those that see the whole partition.
    pub frame: Frame,
    /// The type of the result.
    pub returns: DataType,
}

/// The window functions. Numbers among the arguments are bigint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WindowKind {
    /// `row_number()`
    RowNumber,
    /// `rank()`
    Rank,
    /// `dense_rank()`
    DenseRank,
    /// `percent_rank()`
    PercentRank,
    /// `cume_dist()`
    CumeDist,
    /// `ntile(n)`
    Ntile,
    /// `lag(x [, offset [, default]])`
    Lag {
        /// The offset, if it is the same for all rows.
        reach: Option<u64>,
        /// IGNORE NULLS
        #[serde(default)]
        ignore_nulls: bool,
    },
    /// `lead(x [, offset [, default]])`
    Lead {
        /// The offset, if it is the same for all rows.
        reach: Option<u64>,
        /// IGNORE NULLS
        #[serde(default)]
        ignore_nulls: bool,
    },
    /// `first_value(x)`
    FirstValue {
        /// IGNORE NULLS
        ignore_nulls: bool,
    },
    /// `last_value(x)`
    LastValue {
        /// IGNORE NULLS
        ignore_nulls: bool,
    },
    /// `nth_value(x, n)`
    NthValue {
        /// IGNORE NULLS
        ignore_nulls: bool,
    },
    /// An aggregate over the frame.
    Aggregate(AggregateKind),
}

/// Which rows around a row a function sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// What the bounds count.
    pub units: Units,
    /// Where it begins.
    pub start: Bound,
    /// Where it ends; the bound belongs to it.
    pub end: Bound,
    /// Which of its rows it is without.
    #[serde(default)]
    pub exclude: Exclude,
}

/// Rows that a frame is without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Exclude {
    /// EXCLUDE NO OTHERS
    #[default]
    NoOthers,
    /// EXCLUDE CURRENT ROW
    CurrentRow,
    /// EXCLUDE GROUP: the current row and its peers.
    Group,
    /// EXCLUDE TIES: the peers of the current row.
    Ties,
}

/// What the bounds of a frame count.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Units {
    Rows,
    Range,
    Groups,
    /// The rows around a row that follow each other within a gap. Both bounds are the column that holds, for each row, the
    /// last value of the order column that still continues its session.
    Session,
}

/// A bound of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bound {
    /// UNBOUNDED PRECEDING or FOLLOWING
    Unbounded,
    /// n PRECEDING, in rows or groups
    Preceding(u64),
    /// CURRENT ROW
    Current,
    /// n FOLLOWING, in rows or groups
    Following(u64),
    /// x PRECEDING or FOLLOWING of a range: the column that holds the order column's value there.
    Value(usize),
}

impl Default for Frame {
    fn default() -> Frame {
        Frame { units: Units::Range, start: Bound::Unbounded, end: Bound::Current, exclude: Exclude::NoOthers }
    }
}

/// A partition in its order.
pub trait Rows {
    /// How many rows.
    fn len(&self) -> usize;

    /// The order columns of a row, as bytes that are equal for peers and ascend.
    fn order(&self, row: usize) -> &[u8];

    /// The columns of some rows.
    fn columns(&self, rows: Range<usize>) -> Result<Vec<ArrayRef>>;

    /// The first row of a row's peers.
    fn peers_from(&self, row: usize) -> usize {
        let order = self.order(row);
        if row == 0 || self.order(row - 1) != order {
            return row;
        }
        first(0..row, |i| self.order(i) >= order)
    }

    /// The row behind a row's peers.
    fn peers_to(&self, row: usize) -> usize {
        let (order, n) = (self.order(row), self.len());
        if row + 1 == n || self.order(row + 1) != order {
            return row + 1;
        }
        first(row + 1..n, |i| self.order(i) > order)
    }
}

/// The first number of a range for which `is` holds; it holds for all behind that. The range's end if for none.
fn first(range: Range<usize>, is: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if is(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// Rows that are looked at together in search of a session's bounds.
const SESSION_STEP: usize = 64;

/// The frames of the rows of a partition.
struct Frames<'a, R: Rows> {
    rows: &'a R,
    frame: &'a Frame,
    /// How the only order column is sorted, for bounds that are values.
    option: SortOption,
}

impl<R: Rows> Frames<'_, R> {
    /// The values that bound the frames of some rows, as bytes of the order column.
    fn values(&self, bound: Bound, rows: Range<usize>) -> Result<Option<keys::Keys>> {
        let Bound::Value(column) = bound else { return Ok(None) };
        let columns = self.rows.columns(rows)?;
        Ok(Some(keys::encode(&columns[column..=column], &[self.option])?))
    }

    fn start(&self, row: usize, value: Option<&[u8]>) -> usize {
        let n = self.rows.len();
        match (self.frame.units, self.frame.start) {
            (_, Bound::Unbounded) => 0,
            (Units::Rows, Bound::Preceding(k)) => row.saturating_sub(clipped(k)),
            (Units::Rows, Bound::Following(k)) => row.saturating_add(clipped(k)).min(n),
            (Units::Rows, _) => row,
            (_, Bound::Value(_)) => first(0..n, |i| self.rows.order(i) >= value.unwrap_or_default()),
            (_, Bound::Preceding(k)) => {
                let mut at = self.rows.peers_from(row);
                let mut left = k;
                while left > 0 && at > 0 {
                    (at, left) = (self.rows.peers_from(at - 1), left - 1);
                }
                at
            }
            (_, Bound::Following(k)) => {
                let mut at = self.rows.peers_from(row);
                let mut left = k;
                while left > 0 && at < n {
                    (at, left) = (self.rows.peers_to(at), left - 1);
                }
                at
            }
            (_, Bound::Current) => self.rows.peers_from(row),
        }
    }

    fn end(&self, row: usize, value: Option<&[u8]>) -> usize {
        let n = self.rows.len();
        match (self.frame.units, self.frame.end) {
            (_, Bound::Unbounded) => n,
            (Units::Rows, Bound::Preceding(k)) => (row + 1).saturating_sub(clipped(k)),
            (Units::Rows, Bound::Following(k)) => (row + 1).saturating_add(clipped(k)).min(n),
            (Units::Rows, _) => row + 1,
            (_, Bound::Value(_)) => first(0..n, |i| self.rows.order(i) > value.unwrap_or_default()),
            (_, Bound::Preceding(k)) => {
                let mut at = self.rows.peers_to(row);
                let mut left = k;
                while left > 0 && at > 0 {
                    (at, left) = (self.rows.peers_from(at - 1), left - 1);
                }
                at
            }
            (_, Bound::Following(k)) => {
                let mut at = self.rows.peers_to(row);
                let mut left = k;
                while left > 0 && at < n {
                    (at, left) = (self.rows.peers_to(at), left - 1);
                }
                at
            }
            (_, Bound::Current) => self.rows.peers_to(row),
        }
    }

    /// The rows between `from` and `to` that the next row does not continue the session of, and the bound's meaning.
    fn last_of_session(&self, from: usize, to: usize, backward: bool) -> Result<Option<usize>> {
        let Some(values) = self.values(self.frame.end, from..to)? else { return Ok(None) };
        let is_last = |row: &usize| self.rows.order(row + 1) > values.get(row - from);
        Ok(if backward { (from..to).rev().find(is_last) } else { (from..to).find(is_last) })
    }

    fn session_start(&self, row: usize) -> Result<usize> {
        let mut at = row;
        while at > 0 {
            let from = at.saturating_sub(SESSION_STEP);
            if let Some(last) = self.last_of_session(from, at, true)? {
                return Ok(last + 1);
            }
            at = from;
        }
        Ok(0)
    }

    fn session_end(&self, row: usize) -> Result<usize> {
        let last = self.rows.len() - 1;
        let mut at = row;
        while at < last {
            let to = (at + SESSION_STEP).min(last);
            if let Some(last) = self.last_of_session(at, to, false)? {
                return Ok(last + 1);
            }
            at = to;
        }
        Ok(last + 1)
    }

    /// The sessions of some rows.
    fn sessions(&self, rows: Range<usize>) -> Result<Vec<Range<usize>>> {
        let mut frames: Vec<Range<usize>> = Vec::with_capacity(rows.len());
        for row in rows {
            match frames.last() {
                Some(last) if last.contains(&row) => frames.push(last.clone()),
                Some(last) => frames.push(last.end..self.session_end(row)?),
                None => frames.push(self.session_start(row)?..self.session_end(row)?),
            }
        }
        Ok(frames)
    }

    /// What a row's frame is after its exclusion: parts in their order, some of them empty.
    fn parts(&self, row: usize, frame: &Range<usize>) -> [Range<usize>; 3] {
        let within = |from: usize, to: usize| {
            let (from, to) = (from.clamp(frame.start, frame.end), to.clamp(frame.start, frame.end));
            from..to.max(from)
        };
        let n = self.rows.len();
        match self.frame.exclude {
            Exclude::NoOthers => [frame.clone(), frame.end..frame.end, frame.end..frame.end],
            Exclude::CurrentRow => [within(0, row), within(row + 1, n), frame.end..frame.end],
            Exclude::Group => {
                let (from, to) = (self.rows.peers_from(row), self.rows.peers_to(row));
                [within(0, from), within(to, n), frame.end..frame.end]
            }
            Exclude::Ties => {
                let (from, to) = (self.rows.peers_from(row), self.rows.peers_to(row));
                [within(0, from), within(row, row + 1), within(to, n)]
            }
        }
    }

    fn start_of(&self, row: usize) -> Result<usize> {
        if self.frame.units == Units::Session {
            return self.session_start(row);
        }
        let values = self.values(self.frame.start, row..row + 1)?;
        Ok(self.start(row, values.as_ref().map(|v| v.get(0))))
    }

    fn end_of(&self, row: usize) -> Result<usize> {
        if self.frame.units == Units::Session {
            return self.session_end(row);
        }
        let values = self.values(self.frame.end, row..row + 1)?;
        Ok(self.end(row, values.as_ref().map(|v| v.get(0))))
    }

    /// The frames of some rows; an empty one has its end where it begins.
    fn of(&self, rows: Range<usize>) -> Result<Vec<Range<usize>>> {
        if self.frame.units == Units::Session {
            return self.sessions(rows);
        }
        let starts = self.values(self.frame.start, rows.clone())?;
        let ends = self.values(self.frame.end, rows.clone())?;
        let mut frames: Vec<Range<usize>> = Vec::with_capacity(rows.len());
        let first_row = rows.start;
        for row in rows {
            // Peers have one frame, unless it counts rows.
            let same =
                self.frame.units != Units::Rows && row > first_row && self.rows.order(row) == self.rows.order(row - 1);
            if let (true, Some(last)) = (same, frames.last()) {
                frames.push(last.clone());
                continue;
            }
            let start = self.start(row, starts.as_ref().map(|v| v.get(row - first_row)));
            let end = self.end(row, ends.as_ref().map(|v| v.get(row - first_row)));
            frames.push(start..end.max(start));
        }
        Ok(frames)
    }
}

fn clipped(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// What a function says of some rows: a value each, or why there is none.
pub type Results = Vec<Result<ScalarValue>>;

/// What `call` says of the rows in `range`.
///
/// # Errors
/// If rows cannot be read; what is wrong with a row's own values is in its result.
pub fn evaluate(call: &WindowCall, rows: &impl Rows, option: SortOption, range: Range<usize>) -> Result<Results> {
    let n = rows.len();
    Ok(match call.kind {
        WindowKind::RowNumber => range.map(|i| Ok(bigint(i + 1))).collect(),
        WindowKind::Rank => range.map(|i| Ok(bigint(rows.peers_from(i) + 1))).collect(),
        WindowKind::DenseRank => dense_ranks(rows, range),
        WindowKind::PercentRank => {
            let share = |i| if n <= 1 { 0.0 } else { rows.peers_from(i) as f64 / (n - 1) as f64 };
            range.map(|i| Ok(ScalarValue::Float64(Some(share(i))))).collect()
        }
        WindowKind::CumeDist => {
            range.map(|i| Ok(ScalarValue::Float64(Some(rows.peers_to(i) as f64 / n as f64)))).collect()
        }
        WindowKind::Ntile => ntiles(call, rows, range)?,
        WindowKind::Lag { ignore_nulls: true, .. } => shifted_over_nulls(call, rows, range, -1)?,
        WindowKind::Lead { ignore_nulls: true, .. } => shifted_over_nulls(call, rows, range, 1)?,
        WindowKind::Lag { .. } => shifted(call, rows, range, -1)?,
        WindowKind::Lead { .. } => shifted(call, rows, range, 1)?,
        WindowKind::FirstValue { .. } | WindowKind::LastValue { .. } | WindowKind::NthValue { .. } => {
            picked(call, rows, option, range)?
        }
        WindowKind::Aggregate(kind) => aggregated(kind, call, rows, option, range)?,
    })
}

fn bigint(n: usize) -> ScalarValue {
    ScalarValue::Int64(Some(n as i64))
}

fn dense_ranks(rows: &impl Rows, range: Range<usize>) -> Results {
    let (mut rank, mut peers_to) = (0, 0);
    let mut results = Vec::with_capacity(range.len());
    for row in range {
        while peers_to <= row {
            (rank, peers_to) = (rank + 1, rows.peers_to(peers_to));
        }
        results.push(Ok(bigint(rank)));
    }
    results
}

/// The buckets of all rows are decided by the first row's argument.
fn ntiles(call: &WindowCall, rows: &impl Rows, range: Range<usize>) -> Result<Results> {
    if range.is_empty() {
        return Ok(vec![]);
    }
    let columns = rows.columns(0..1)?;
    let buckets = columns[call.args[0]].as_primitive::<Int64Type>();
    if buckets.is_null(0) {
        return Ok(range.map(|_| Ok(ScalarValue::Int32(None))).collect());
    }
    let buckets = buckets.value(0);
    if buckets <= 0 {
        let wrong = || Error::invalid("22014", "argument of ntile must be greater than zero");
        return Ok(range.map(|_| Err(wrong())).collect());
    }
    let (n, k) = (rows.len() as i64, buckets);
    let (size, larger) = (n / k, n % k);
    let of = |i: i64| {
        let in_larger = larger * (size + 1);
        if i < in_larger { i / (size + 1) + 1 } else { larger + (i - in_larger) / size.max(1) + 1 }
    };
    Ok(range.map(|i| Ok(ScalarValue::Int32(Some(of(i as i64) as i32)))).collect())
}

fn value_at(column: &ArrayRef, row: usize) -> Result<ScalarValue> {
    ScalarValue::try_from_array(column, row).map_err(|e| Error::Failed(e.to_string()))
}

fn null(call: &WindowCall) -> Result<ScalarValue> {
    ScalarValue::try_from(&call.returns).map_err(|e| Error::Failed(e.to_string()))
}

/// `lag` and `lead`.
fn shifted(call: &WindowCall, rows: &impl Rows, range: Range<usize>, direction: i128) -> Result<Results> {
    let own = rows.columns(range.clone())?;
    let offsets = call.args.get(1).map(|arg| own[*arg].as_primitive::<Int64Type>().clone());
    // The row that each looks at; `None` where the offset is NULL.
    let target = |row: usize| -> Option<i128> {
        let offset = match &offsets {
            None => 1,
            Some(offsets) if offsets.is_null(row - range.start) => return None,
            Some(offsets) => i128::from(offsets.value(row - range.start)),
        };
        Some(row as i128 + direction * offset)
    };
    let inside = |target: i128| usize::try_from(target).ok().filter(|t| *t < rows.len());
    let seen: Vec<usize> = range.clone().filter_map(|row| target(row).and_then(inside)).collect();
    let (Some(from), Some(to)) = (seen.iter().min(), seen.iter().max()) else {
        return range.clone().map(|row| Ok(missing(call, &own, row - range.start, target(row).is_none()))).collect();
    };
    let values = rows.columns(*from..to + 1)?;
    let mut results = Vec::with_capacity(range.len());
    for row in range.clone() {
        results.push(match target(row).map(inside) {
            Some(Some(at)) => value_at(&values[call.args[0]], at - from),
            other => missing(call, &own, row - range.start, other.is_none()),
        });
    }
    Ok(results)
}

/// The rows of `columns[arg]` in `range` that are not NULL.
fn valid_rows(rows: &impl Rows, arg: usize, range: Range<usize>) -> Result<Vec<usize>> {
    let values = &rows.columns(range.clone())?[arg];
    Ok(range.clone().filter(|row| values.is_valid(row - range.start)).collect())
}

/// The rows before `before` that are not NULL, the last `n` of them at least if there are so many; ascending.
fn valid_before(rows: &impl Rows, arg: usize, before: usize, n: usize) -> Result<Vec<usize>> {
    let (mut found, mut at): (Vec<Vec<usize>>, usize) = (vec![], before);
    while at > 0 && found.iter().map(Vec::len).sum::<usize>() < n {
        let from = at.saturating_sub(NULLS_STEP);
        found.push(valid_rows(rows, arg, from..at)?);
        at = from;
    }
    Ok(found.into_iter().rev().flatten().collect())
}

/// The rows from `from` on that are not NULL, the first `n` of them at least if there are so many.
fn valid_behind(rows: &impl Rows, arg: usize, from: usize, n: usize) -> Result<Vec<usize>> {
    let (mut found, mut at) = (vec![], from);
    while at < rows.len() && found.len() < n {
        let to = (at + NULLS_STEP).min(rows.len());
        found.extend(valid_rows(rows, arg, at..to)?);
        at = to;
    }
    Ok(found)
}

/// Rows that are looked at together in search of values that are not NULL.
const NULLS_STEP: usize = 64;

/// `lag` and `lead` with IGNORE NULLS: offsets count rows whose value is not NULL; an offset of 0 is the row itself.
fn shifted_over_nulls(call: &WindowCall, rows: &impl Rows, range: Range<usize>, direction: i128) -> Result<Results> {
    let own = rows.columns(range.clone())?;
    let offsets = call.args.get(1).map(|arg| own[*arg].as_primitive::<Int64Type>().clone());
    let offset = |row: usize| match &offsets {
        None => Some(direction),
        Some(offsets) if offsets.is_null(row - range.start) => None,
        Some(offsets) => Some(direction * i128::from(offsets.value(row - range.start))),
    };
    let far = |sign: i128| range.clone().filter_map(offset).map(|n| (n * sign).max(0)).max().unwrap_or(0);
    let count = |n: i128| usize::try_from(n).unwrap_or(usize::MAX);
    let mut valid = valid_before(rows, call.args[0], range.start, count(far(-1)))?;
    valid.extend(valid_rows(rows, call.args[0], range.clone())?);
    valid.extend(valid_behind(rows, call.args[0], range.end, count(far(1)))?);
    let mut results = Vec::with_capacity(range.len());
    for row in range.clone() {
        let offset = offset(row);
        // The first that is not NULL behind the row, or the row itself.
        let (at, behind) = (valid.partition_point(|v| *v < row), valid.partition_point(|v| *v <= row));
        let target = match offset {
            None => None,
            Some(0) => Some(row),
            Some(n) if n > 0 => valid.get(behind.saturating_add(count(n - 1))).copied(),
            Some(n) => at.checked_sub(count(-n)).and_then(|i| valid.get(i)).copied(),
        };
        results.push(match target {
            Some(target) => value_at(&rows.columns(target..target + 1)?[call.args[0]], 0),
            None => missing(call, &own, row - range.start, offset.is_none()),
        });
    }
    Ok(results)
}

/// What `lag` and `lead` say where there is no row: the default, or NULL.
fn missing(call: &WindowCall, own: &[ArrayRef], row: usize, no_offset: bool) -> Result<ScalarValue> {
    match call.args.get(2) {
        Some(default) if !no_offset => value_at(&own[*default], row),
        _ => null(call),
    }
}

/// `first_value`, `last_value` and `nth_value`.
fn picked(call: &WindowCall, rows: &impl Rows, option: SortOption, range: Range<usize>) -> Result<Results> {
    let of = Frames { rows, frame: &call.frame, option };
    let frames = of.of(range.clone())?;
    let (from, to) = reach(&frames);
    let columns = rows.columns(from..to)?;
    let first_row = range.start;
    let values = columns.get(call.args[0]).ok_or_else(|| Error::Failed("a window function without argument".into()))?;
    let nth = match call.kind {
        WindowKind::NthValue { .. } => Some(rows.columns(range)?[call.args[1]].as_primitive::<Int64Type>().clone()),
        _ => None,
    };
    let mut results = Vec::with_capacity(frames.len());
    for (i, frame) in frames.iter().enumerate() {
        let parts =
            of.parts(first_row + i, frame).map(|part| part.start - from.min(part.start)..part.end - from.min(part.end));
        let mut seen = parts.iter().cloned().flatten();
        let valid = |row: &usize| values.is_valid(*row);
        let at = match call.kind {
            WindowKind::FirstValue { ignore_nulls: true } => seen.find(valid),
            WindowKind::LastValue { ignore_nulls: true } => seen.rfind(valid),
            WindowKind::FirstValue { .. } => seen.next(),
            WindowKind::LastValue { .. } => seen.next_back(),
            kind => match nth.as_ref().filter(|nth| nth.is_valid(i)).map(|nth| nth.value(i)) {
                Some(n) if n <= 0 => {
                    results.push(Err(Error::invalid("22016", "argument of nth_value must be greater than zero")));
                    continue;
                }
                Some(n) => {
                    let n = usize::try_from(n - 1).unwrap_or(usize::MAX);
                    match kind {
                        WindowKind::NthValue { ignore_nulls: true } => seen.filter(valid).nth(n),
                        _ => nth_of(&parts, n),
                    }
                }
                None => None,
            },
        };
        results.push(match at {
            Some(at) => value_at(values, at),
            None => null(call),
        });
    }
    Ok(results)
}

/// The row at place `n` of these parts.
fn nth_of(parts: &[Range<usize>], mut n: usize) -> Option<usize> {
    for part in parts {
        if n < part.len() {
            return Some(part.start + n);
        }
        n -= part.len();
    }
    None
}

/// The rows that some frames cover.
fn reach(frames: &[Range<usize>]) -> (usize, usize) {
    let covered = || frames.iter().filter(|frame| !frame.is_empty());
    let from = covered().map(|frame| frame.start).min().unwrap_or(0);
    (from, covered().map(|frame| frame.end).max().unwrap_or(from))
}

/// An aggregate over the frame: what enters a frame is added, what leaves it is retracted.
fn aggregated(
    kind: AggregateKind,
    call: &WindowCall,
    rows: &impl Rows,
    option: SortOption,
    range: Range<usize>,
) -> Result<Results> {
    let of = Frames { rows, frame: &call.frame, option };
    let first_row = range.start;
    let frames = of.of(range)?;
    let (from, to) = reach(&frames);
    let columns = rows.columns(from..to)?;
    let mut args: Vec<ArrayRef> = call.args.iter().map(|arg| columns[*arg].clone()).collect();
    let mut order = vec![];
    if kind.is_in_order() {
        // In the order of the partition.
        args.push(Arc::new(Int64Array::from_iter_values(from as i64..to as i64)));
        order.push(SortOption::default());
    }
    let types: Vec<DataType> = args.iter().map(|arg| arg.data_type().clone()).collect();
    let aggregate = AggregateCall {
        kind,
        args: (0..args.len()).collect(),
        order,
        filter: None,
        distinct: false,
        returns: call.returns.clone(),
    };
    let fresh = || aggregates::accumulator(&aggregate, &types);
    let mut sum = fresh()?;
    let input = sum.prepare(&args)?;
    let filter = call.filter.map(|column| columns[column].as_boolean().clone());
    let counts = |row: usize| filter.as_ref().is_none_or(|f| f.is_valid(row) && f.value(row));
    let add = |sum: &mut Box<dyn Accumulator>, rows: Range<usize>, diff: i64| {
        rows.map(|row| row - from).filter(|row| counts(*row)).for_each(|row| sum.add(&input, row, diff));
    };
    let mut at = 0..0;
    let mut results: Results = Vec::with_capacity(frames.len());
    let whole = call.frame.exclude == Exclude::NoOthers;
    for (i, frame) in frames.into_iter().enumerate() {
        if let (true, Some(last)) = (frame == at && whole, results.last()) {
            let last = last.clone();
            results.push(last);
            continue;
        }
        let moved = frame.start.abs_diff(at.start) + frame.end.abs_diff(at.end);
        if at.is_empty() || moved > frame.len() || frame.start >= at.end || frame.end <= at.start {
            sum = fresh()?;
            add(&mut sum, frame.clone(), 1);
        } else {
            add(&mut sum, frame.start..at.start, 1);
            add(&mut sum, at.start..frame.start, -1);
            add(&mut sum, at.end..frame.end, 1);
            add(&mut sum, frame.end..at.end, -1);
        }
        if whole {
            results.push(sum.value());
        } else {
            // What is between the parts goes and comes back.
            let parts = of.parts(first_row + i, &frame);
            let gaps = [parts[0].end..parts[1].start, parts[1].end..parts[2].start];
            gaps.iter().for_each(|gap| add(&mut sum, gap.clone(), -1));
            results.push(sum.value());
            gaps.into_iter().for_each(|gap| add(&mut sum, gap, 1));
        }
        at = frame;
    }
    Ok(results)
}

/// What of a partition a change between its first `head` and its last `tail` rows affects outside of what changed: the
/// first row of the head, and how many rows of the tail.
pub fn affected(
    call: &WindowCall,
    old: &impl Rows,
    new: &impl Rows,
    option: SortOption,
    head: usize,
    tail: usize,
) -> Result<(usize, usize)> {
    let same_count = old.len() == new.len();
    // Rows of the tail that are peers of its first.
    let first_peers = |rows: &dyn Fn() -> usize| if tail == 0 { 0 } else { rows() };
    let peers = first_peers(&|| {
        let at = new.len() - tail;
        new.peers_to(at) - at
    });
    let all = (0, tail);
    Ok(match call.kind {
        WindowKind::RowNumber => (head, if same_count { 0 } else { tail }),
        WindowKind::Rank => (head, if same_count { peers } else { tail }),
        WindowKind::DenseRank => (head, tail),
        WindowKind::PercentRank if same_count => (head, peers),
        WindowKind::CumeDist if same_count && head == 0 => (0, peers),
        WindowKind::CumeDist if same_count => (new.peers_from(head - 1).min(old.peers_from(head - 1)), peers),
        WindowKind::Ntile if same_count && head > 0 => (head, 0),
        WindowKind::PercentRank | WindowKind::CumeDist | WindowKind::Ntile => all,
        WindowKind::Lag { reach: Some(reach), ignore_nulls: true }
        | WindowKind::Lead { reach: Some(reach), ignore_nulls: true } => {
            // As far as there are so many values that are not NULL between a row and what changed. A constant that is
            // negative makes the one the other.
            let (n, arg) = (clipped(reach), call.args[0]);
            let before = valid_before(new, arg, head, n)?;
            let from = match before.len().checked_sub(n) {
                Some(i) => before.get(i).copied().unwrap_or(head),
                None => 0,
            };
            let behind = valid_behind(new, arg, new.len() - tail, n)?;
            let rows = match n.checked_sub(1) {
                None => 0,
                Some(last) => behind.get(last).map_or(tail, |row| row + 1 - (new.len() - tail)),
            };
            (from, rows)
        }
        WindowKind::Lag { reach, .. } | WindowKind::Lead { reach, .. } => match reach {
            Some(reach) => (head.saturating_sub(clipped(reach)), tail.min(clipped(reach))),
            None => all,
        },
        WindowKind::FirstValue { .. }
        | WindowKind::LastValue { .. }
        | WindowKind::NthValue { .. }
        | WindowKind::Aggregate(_) => {
            let was = Frames { rows: old, frame: &call.frame, option };
            let is = Frames { rows: new, frame: &call.frame, option };
            let failure = std::cell::RefCell::new(None);
            let noted = |result: Result<bool>| {
                result.unwrap_or_else(|error| {
                    failure.borrow_mut().get_or_insert(error);
                    true
                })
            };
            // Bounds never go back from row to row: of the head a last part sees what changed, of the tail a first.
            let from = first(0..head, |row| noted((|| Ok(was.end_of(row)? > head || is.end_of(row)? > head))()));
            let (old_tail, new_tail) = (old.len() - tail, new.len() - tail);
            let rows = first(0..tail, |i| {
                noted((|| Ok(was.start_of(old_tail + i)? >= old_tail && is.start_of(new_tail + i)? >= new_tail))())
            });
            match failure.into_inner() {
                Some(error) => return Err(error),
                None => (from, rows),
            }
        }
    })
}

impl WindowKind {
    /// Its SQL name.
    pub fn name(self) -> &'static str {
        match self {
            WindowKind::RowNumber => "row_number",
            WindowKind::Rank => "rank",
            WindowKind::DenseRank => "dense_rank",
            WindowKind::PercentRank => "percent_rank",
            WindowKind::CumeDist => "cume_dist",
            WindowKind::Ntile => "ntile",
            WindowKind::Lag { .. } => "lag",
            WindowKind::Lead { .. } => "lead",
            WindowKind::FirstValue { .. } => "first_value",
            WindowKind::LastValue { .. } => "last_value",
            WindowKind::NthValue { .. } => "nth_value",
            WindowKind::Aggregate(kind) => kind.name(),
        }
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bound = |bound: Bound, side: &str| match bound {
            Bound::Unbounded => format!("unbounded {side}"),
            Bound::Preceding(n) => format!("{n} preceding"),
            Bound::Current => "current row".to_string(),
            Bound::Following(n) => format!("{n} following"),
            Bound::Value(column) => format!("${column}"),
        };
        let units = format!("{:?}", self.units).to_lowercase();
        write!(f, "{units} between {} and {}", bound(self.start, "preceding"), bound(self.end, "following"))
    }
}
