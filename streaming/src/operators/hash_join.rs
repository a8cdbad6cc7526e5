//! Joins two changing inputs: on equal keys, by a range of an order, or without either, where every pair is looked at
//! (the right side is on every worker then).
//!
//! Rule    A pair (l, r) is emitted once, by the side that arrives second: Δl ⋈ R now, and a later Δr ⋈ (L + Δl).
//!         A row without a match comes out padded (outer), as it is (anti), or with false (mark); when the number of
//!         its matches leaves or reaches zero, that is taken back or emitted.
//! State   `left`, `right`: (join key, row) -> count, and with a condition the number of matches. The right side of a
//!         semi, anti or mark join without a condition keeps its keys only. Both grow with their inputs, unless
//!         they have an [`Expiry`]: then rows leave as the watermarks pass. A side with a [`Range`] is also kept in an order, in memory only.
//! Epochs  Emits while the epoch is open; nothing to do at the seal but to save.
//! Memory  Keys leave it with their rows when the job is short of it, and come back when a row of either side asks for
//!         them. Not where every pair is looked at, nor for NOT IN.
//! Limits  A key with many matches leaves in pieces of OUTPUT_ROWS_MAX, over as many activations as it takes; so do the
//!         rows that gain or lose their match, and what a checkpoint saves.
//!
//! Both sides are linear in their diffs, so counts below zero, as they occur inside an epoch when a retraction overtakes
//! its insertion, cancel out in the output as they do in the state.

pub(in crate::operators) mod expiry;
mod evict;
mod flips;
mod pairs;
pub(in crate::operators) mod range;
pub(in crate::operators) mod side;
pub(in crate::operators) mod stored;
pub(in crate::operators) mod task;
#[cfg(test)]
mod tests;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::expr::Expr;
use crate::operator::{Exchange, Operator, Task, TaskContext, WatermarkContext};
use crate::watermark::{Watermark, Watermarks};
pub use expiry::Expiry;
pub use range::Range;
use task::HashJoinTask;

/// Joins two changing inputs on equal keys, by ranges, or without either: every pair (the right side is broadcast).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HashJoin {
    /// Which rows come out.
    pub kind: JoinKind,
    /// Key columns of the left and the right input, equally many and of equal Arrow types.
    pub keys: [Vec<usize>; 2],
    /// Per key: whether NULL equals NULL (IS NOT DISTINCT FROM); in `=`, a NULL key matches nothing.
    pub null_equal: Vec<bool>,
    /// Per side: how its rows are found among those with the same key. The condition holds the comparisons too.
    pub ranges: [Option<Range>; 2],
    /// Per side: when its rows can be dropped.
    #[serde(default)]
    pub expiry: [Option<Expiry>; 2],
    /// Further condition over the left columns followed by the right columns; part of the ON clause.
    pub condition: Option<Expr>,
    /// Per side: whether the planner proved that no row is ever retracted.
    pub append_only: [bool; 2],
    /// Whether all rows are on one worker whatever their keys are: inside a recursive query.
    #[serde(default)]
    pub alone: bool,
    /// The output columns.
    pub schema: SchemaRef,
}

/// Which rows a join emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinKind {
    /// Every matching pair.
    Inner,
    /// Also each left row without a match, padded with NULLs.
    Left,
    /// Also each right row without a match.
    Right,
    /// Both.
    Full,
    /// The left rows that have a match; only the left columns come out.
    Semi,
    /// The left rows that have no match; only the left columns come out.
    Anti,
    /// NOT IN: like `Anti`, but no row comes out when the right side holds a NULL key, and a left NULL key only
    /// when the right side is empty.
    NullAwareAnti,
    /// The left columns and a boolean: whether there is a match.
    Mark,
}

impl JoinKind {
    /// Whether pairs come out.
    fn pairs(self) -> bool {
        matches!(self, JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full)
    }

    /// Whether it depends on the number of its matches what comes out for a row of `side`.
    fn counts_matches(self, side: usize) -> bool {
        match self {
            JoinKind::Inner => false,
            JoinKind::Right => side == 1,
            JoinKind::Full => true,
            _ => side == 0,
        }
    }

    /// Whether a row alone comes out, by whether it has a match.
    fn shows(self, matched: bool) -> bool {
        match self {
            JoinKind::Mark => true,
            JoinKind::Semi => matched,
            _ => !matched,
        }
    }
}

impl Operator for HashJoin {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        self.placements()
            .map(|placement| match placement {
                Placement::Key(columns) => Exchange::Hash(columns),
                Placement::Same => Exchange::Same,
                Placement::Broadcast => Exchange::Broadcast,
                Placement::Single => Exchange::Single,
            })
            .to_vec()
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let memory_max = ctx.memory_max;
        Ok(Box::new(HashJoinTask::open(self, ctx, memory_max)?))
    }
    fn describe(&self) -> String {
        let keys = self.keys[0].iter().zip(&self.keys[1]).zip(&self.null_equal);
        let mut terms: Vec<String> = keys
            .map(|((l, r), null)| format!("left.${l} {} right.${r}", if *null { "IS NOT DISTINCT FROM" } else { "=" }))
            .collect();
        terms.extend(self.condition.as_ref().map(ToString::to_string));
        let on = if terms.is_empty() { "every pair".into() } else { terms.join(" AND ") };
        format!("{}, {on}", format!("{:?}", self.kind).to_lowercase())
    }
    fn state(&self) -> Option<String> {
        let kept = if self.keeps_keys_only() { "the left rows and the right keys" } else { "the rows of both inputs" };
        let mut state = match self.placements() {
            [_, Placement::Broadcast] => format!("{kept}, the right ones on every worker"),
            [Placement::Single, _] => format!("{kept}, on one worker"),
            _ => kept.into(),
        };
        let interval = |range: &Option<Range>| range.as_ref().is_some_and(|r| r.above.is_some() && r.below.is_some());
        state += match self.expiry.each_ref().map(Option::is_some) {
            [true, true] => "; dropped as the watermarks pass",
            [true, false] => "; the left ones dropped as the watermarks pass, the right ones grow",
            [false, true] => "; the right ones dropped as the watermarks pass, the left ones grow",
            [false, false] if self.ranges.iter().all(interval) => "; grows, as no watermark bounds it",
            [false, false] => "",
        };
        Some(state)
    }
    fn watermarks(&self, inputs: &[Watermarks], ctx: &WatermarkContext) -> Watermarks {
        // The sides of which each row that comes out shows its own columns.
        let shown = match self.kind {
            JoinKind::Inner => [true, true],
            JoinKind::Right => [false, true],
            JoinKind::Full => [false, false],
            _ => [true, false],
        };
        let of = |side: usize, column: usize| inputs[side].get(column).copied().flatten();
        let mut marks: Watermarks = vec![None; self.schema.fields().len()];
        for side in (0..2).filter(|side| shown[*side]) {
            let first = if side == 0 { 0 } else { ctx.inputs[0].fields().len() };
            for (column, other) in self.lower_bounds(side) {
                // A change comes from a new row of this side, or of the other one that a row here is not below.
                let mark = of(side, column).zip(of(1 - side, other)).map(|(own, other)| own.both(other));
                let known: &mut Option<Watermark> = &mut marks[first + column];
                *known = known.or(mark);
            }
        }
        marks
    }
}

impl HashJoin {
    /// Columns of a side that are in no pair below a column of the other side: keys, and what ranges are above.
    pub fn lower_bounds(&self, side: usize) -> Vec<(usize, usize)> {
        let keys = self.keys[side].iter().zip(&self.keys[1 - side]).zip(&self.null_equal);
        let keys = keys.filter(|(_, null_equal)| !**null_equal).map(|((own, other), _)| (*own, *other));
        let range = self.ranges[side].as_ref();
        let range = range.and_then(|range| range.above.map(|(other, _)| (range.column, other)));
        keys.chain(range).collect()
    }

    fn placements(&self) -> [Placement; 2] {
        match self.kind {
            _ if self.alone => [Placement::Single, Placement::Single],
            JoinKind::NullAwareAnti => [Placement::Key(self.keys[0].clone()), Placement::Broadcast],
            _ if !self.keys[0].is_empty() => self.keys.clone().map(Placement::Key),
            // An unmatched right row must know of all left rows.
            JoinKind::Right | JoinKind::Full => [Placement::Single, Placement::Single],
            _ => [Placement::Same, Placement::Broadcast],
        }
    }

    /// Whether all that matters of a right row is that it is there.
    fn keeps_keys_only(&self) -> bool {
        !self.kind.pairs() && self.condition.is_none()
    }
}

/// Where the rows of a side are.
#[derive(Clone, Debug)]
pub(in crate::operators) enum Placement {
    /// On the worker of their key's vnode.
    Key(Vec<usize>),
    /// Where they came from: saved under a vnode of that worker.
    Same,
    /// Everywhere; each worker saves its share.
    Broadcast,
    /// On worker 0.
    Single,
}
