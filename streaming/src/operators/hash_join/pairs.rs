//! The pairs of a batch with the rows of the other side, piece by piece.

use arrow::array::{Array, AsArray, BooleanArray, UInt32Array};
use storage::Batch;

use super::range::Place;
use super::side::NONE;
use super::task::{HashJoinTask, Pending, batch};
use crate::error::Result;
use crate::expr;
use crate::operator::{OUTPUT_ROWS_MAX, Output};
use crate::operators::with_schema;

/// Where the walk over the candidates of a row goes on.
pub(super) enum Cursor {
    /// With this row of the key's chain.
    Chain(u32),
    /// Behind this place of the order.
    Order(Place),
}

#[derive(Default)]
pub(super) struct Pairs {
    /// Rows of the batch.
    pub(super) rows: Vec<u32>,
    /// Rows of the other side.
    pub(super) links: Vec<u32>,
}

impl Pairs {
    fn push(&mut self, row: usize, link: u32) {
        self.rows.push(row as u32);
        self.links.push(link);
    }

    fn is_full(&self) -> bool {
        self.rows.len() == OUTPUT_ROWS_MAX
    }

    fn filter(&mut self, keep: &BooleanArray) {
        let mut at = (0..).map(|i| keep.value(i));
        self.rows.retain(|_| at.next().unwrap_or(false));
        let mut at = (0..).map(|i| keep.value(i));
        self.links.retain(|_| at.next().unwrap_or(false));
    }
}

impl HashJoinTask {
    /// The next pairs of the batch with the other side, one piece.
    pub(super) fn next_pairs(&self, pending: &mut Pending) -> Pairs {
        let other = &self.sides[1 - pending.input];
        let mut pairs = Pairs::default();
        while pending.row < pending.delta.num_rows() {
            let cursor = pending.cursor.take();
            let key = pending.other_keys[pending.row];
            pending.cursor = match (key, &pending.between) {
                (None, _) => None,
                (Some(key), Some(between)) => {
                    let after = match cursor {
                        Some(Cursor::Order(place)) => Some(place),
                        _ => None,
                    };
                    let mut last = None;
                    for (value, link) in between.find(pending.row, &other.order, key, after) {
                        pairs.push(pending.row, link);
                        if pairs.is_full() {
                            last = Some(Cursor::Order((value.into(), link)));
                            break;
                        }
                    }
                    last
                }
                (Some(key), None) => {
                    let mut link = match cursor {
                        Some(Cursor::Chain(link)) => link,
                        _ => other.infos[key as usize].head,
                    };
                    while link != NONE && !pairs.is_full() {
                        pairs.push(pending.row, link);
                        link = other.links[link as usize].next;
                    }
                    (link != NONE).then_some(Cursor::Chain(link))
                }
            };
            if pending.cursor.is_some() {
                return pairs;
            }
            pending.row += 1;
            if pairs.is_full() {
                return pairs;
            }
        }
        pairs
    }

    pub(super) fn join_pairs(&mut self, pending: &mut Pending, mut pairs: Pairs, out: &mut Output) -> Result<()> {
        if pairs.rows.is_empty() {
            return Ok(());
        }
        let (own, other) = (pending.input, 1 - pending.input);
        let mut joined = self.pair_batch(pending, &pairs)?;
        if let Some(condition) = &self.condition {
            let values = condition.evaluate_rows(&joined);
            expr::row_errors(&joined, &values.failures).into_iter().for_each(|error| out.error(error));
            let passed = values.array.as_boolean();
            let passed = BooleanArray::new(
                passed.nulls().map_or_else(|| passed.values().clone(), |nulls| passed.values() & nulls.inner()),
                None,
            );
            pairs.filter(&passed);
            if self.kind.pairs() {
                joined = joined.filter(&passed)?;
            }
            let (counts_own, counts_other) = (self.kind.counts_matches(own), self.kind.counts_matches(other));
            for (row, link) in pairs.rows.iter().zip(&pairs.links) {
                if counts_own {
                    pending.matches[*row as usize] += self.sides[other].links[*link as usize].count;
                }
                if counts_other {
                    let was = self.sides[other].add_matches(*link, pending.delta.diff(*row as usize));
                    pending.touched.extend(was.map(|was| (*link, was)));
                }
            }
        }
        if self.kind.pairs() {
            out.emit(with_schema(&joined, &self.schema)?);
        }
        Ok(())
    }

    /// Left and right columns of pairs, each with the product of the diffs.
    fn pair_batch(&self, pending: &Pending, pairs: &Pairs) -> Result<Batch> {
        let (own, other) = (pending.input, 1 - pending.input);
        let taken = pending.delta.take(&UInt32Array::from(pairs.rows.clone()))?;
        let decoded = self.sides[other].values(&pairs.links)?;
        let keys = self.sides[own].key_columns.iter().map(|i| taken.column(*i).clone()).collect();
        let other_columns = self.sides[other].assemble(keys, decoded);
        let own_columns = taken.data().columns().to_vec();
        let (mut columns, right) = if own == 0 { (own_columns, other_columns) } else { (other_columns, own_columns) };
        columns.extend(right);
        let counts = pairs.links.iter().map(|link| self.sides[other].links[*link as usize].count);
        let diffs: Vec<i64> =
            pairs.rows.iter().zip(counts).map(|(row, count)| pending.delta.diff(*row as usize) * count).collect();
        batch(&self.joint, columns, diffs)
    }
}
