//! Rows that come out alone, by whether they have a match: those of the batch, and those of the other side whose first
//! match came with the batch or whose last one went.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_null_array};
use arrow_schema::SchemaRef;
use storage::Batch;

use super::JoinKind;
use super::side::NONE;
use super::task::{HashJoinTask, Pending, STEPS_MAX, batch};
use crate::error::Result;
use crate::operator::{OUTPUT_ROWS_MAX, Output, Progress};

/// Rows of the other side that come out or go.
pub(super) enum Flips {
    /// With a condition: rows whose number of matches changed, and whether they had one before.
    Rows { touched: Vec<(u32, bool)>, next: usize },
    /// Without one: keys whose rows all have a match now, or all have none; and the next row of the key in work.
    Keys { keys: Vec<(u32, bool)>, next: usize, link: Option<u32> },
    /// NOT IN, when the right side is no longer empty, or got its first NULL, or the other way round: every key is
    /// looked at, from this number on.
    Every { before: Globals, had: hashbrown::HashMap<u32, bool>, next: u32, link: Option<(u32, bool)> },
}

/// What decides about all rows of a NOT IN: whether the right side has rows, and whether one is NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Globals {
    some: bool,
    null: bool,
}

impl Globals {
    /// Whether NOT IN keeps a left row from coming out.
    fn excludes(self, null_key: bool, matched: bool) -> bool {
        self.some && (null_key || self.null || matched)
    }
}

impl HashJoinTask {
    pub(super) fn globals(&self) -> Globals {
        let right = &self.sides[1];
        Globals { some: right.total > 0, null: right.null_total > 0 }
    }

    /// What comes out for the rows of the batch themselves, apart from pairs.
    pub(super) fn emit_own(&mut self, pending: &mut Pending, out: &mut Output) -> Result<()> {
        let own = pending.input;
        if self.condition.is_some() {
            for (row, matches) in pending.entered.rows.iter().zip(&pending.matches) {
                self.sides[own].set_matches(*row, *matches);
            }
        } else {
            let other = &self.sides[1 - own];
            for (matches, key) in pending.matches.iter_mut().zip(&pending.other_keys) {
                *matches = key.map_or(0, |key| other.infos[key as usize].total);
            }
        }
        let globals = self.globals();
        let null_keys = &pending.entered.null_keys;
        let matched: Vec<bool> = (0..pending.delta.num_rows())
            .map(|row| match self.kind {
                JoinKind::NullAwareAnti => globals.excludes(null_keys[row], pending.matches[row] > 0),
                _ => pending.matches[row] > 0,
            })
            .collect();
        let rows = 0..matched.len() as u32;
        let picked: Vec<u32> = rows.filter(|row| self.kind.shows(matched[*row as usize])).collect();
        let matched: Vec<bool> = picked.iter().map(|row| matched[*row as usize]).collect();
        let taken = pending.delta.take(&UInt32Array::from(picked))?;
        self.emit_alone(own, taken.data().columns().to_vec(), &matched, |row| taken.diff(row), out)
    }

    /// Emits rows of one side alone: padded, as they are, or with their mark.
    fn emit_alone(
        &self,
        side: usize,
        own: Vec<ArrayRef>,
        matched: &[bool],
        diff: impl Fn(usize) -> i64,
        out: &mut Output,
    ) -> Result<()> {
        let n = matched.len();
        if n == 0 {
            return Ok(());
        }
        let nulls = |schema: &SchemaRef| schema.fields().iter().map(|f| new_null_array(f.data_type(), n)).collect();
        let columns: Vec<ArrayRef> = match self.kind {
            JoinKind::Semi | JoinKind::Anti | JoinKind::NullAwareAnti => own,
            JoinKind::Mark => {
                let mut columns = own;
                columns.push(Arc::new(BooleanArray::from(matched.to_vec())));
                columns
            }
            _ => {
                let padding: Vec<ArrayRef> = nulls(&self.inputs[1 - side]);
                let (mut columns, right) = if side == 0 { (own, padding) } else { (padding, own) };
                columns.extend(right);
                columns
            }
        };
        out.emit(batch(&self.schema, columns, (0..n).map(diff).collect())?);
        Ok(())
    }

    /// Which rows of the other side may have gained or lost their match by this batch.
    pub(super) fn flips(&self, pending: &mut Pending) -> Flips {
        let touched = std::mem::take(&mut pending.touched);
        if self.condition.is_some() || !self.kind.counts_matches(1 - pending.input) {
            return Flips::Rows { touched, next: 0 };
        }
        let (own, other) = (&self.sides[pending.input], &self.sides[1 - pending.input]);
        let not_in = self.kind == JoinKind::NullAwareAnti;
        if not_in && pending.globals != self.globals() {
            let had = pending.entered.totals.iter().map(|(key, total)| (*key, *total > 0)).collect();
            return Flips::Every { before: pending.globals, had, next: 0, link: None };
        }
        let globals = self.globals();
        let keys = pending.entered.totals.iter().filter_map(|(key, before)| {
            let (was, is) = (*before > 0, own.infos[*key as usize].total > 0);
            let other_key = (is != was).then(|| other.key_like(own, *key))??;
            if not_in {
                let null = other.infos[other_key as usize].null;
                let (was, is) = (globals.excludes(null, was), globals.excludes(null, is));
                return (was != is).then_some((other_key, is));
            }
            Some((other_key, is))
        });
        Flips::Keys { keys: keys.collect(), next: 0, link: None }
    }

    /// The next rows of the other side that come out or go, at most `max`, and whether they have a match now. `None`:
    /// there are no more.
    fn next_flips(&mut self, flips: &mut Flips, side: usize, max: usize) -> Option<Vec<(u32, bool)>> {
        let mut rows = Vec::new();
        match flips {
            Flips::Rows { touched, next } => {
                if *next == touched.len() {
                    return None;
                }
                let end = touched.len().min(*next + max);
                for (row, was) in &touched[*next..end] {
                    let is = self.sides[side].end_touch(*row);
                    rows.extend((is != *was).then_some((*row, is)));
                }
                *next = end;
            }
            Flips::Keys { keys, next, link } => {
                if *next == keys.len() {
                    return None;
                }
                while rows.len() < max && *next < keys.len() {
                    let (key, is) = keys[*next];
                    let at = link.unwrap_or(self.sides[side].infos[key as usize].head);
                    *link = self.walk(side, at, is, max, &mut rows);
                    *next += usize::from(link.is_none());
                }
            }
            Flips::Every { before, had, next, link } => {
                let after = self.globals();
                if link.is_none() && *next as usize == self.sides[side].infos.len() {
                    return None;
                }
                for _ in 0..max {
                    if rows.len() == max {
                        break;
                    }
                    if let Some((at, is)) = link.take() {
                        *link = self.walk(side, at, is, max, &mut rows).map(|at| (at, is));
                        continue;
                    }
                    let Some(info) = self.sides[side].infos.get(*next as usize).copied() else { break };
                    let key = *next;
                    *next += 1;
                    if info.head == NONE {
                        continue;
                    }
                    let own_key = self.sides[1 - side].key_like(&self.sides[side], key);
                    let is = own_key.is_some_and(|key| self.sides[1 - side].infos[key as usize].total > 0);
                    let was = own_key.and_then(|key| had.get(&key).copied()).unwrap_or(is);
                    let (was, is) = (before.excludes(info.null, was), after.excludes(info.null, is));
                    if was != is {
                        *link = Some((info.head, is));
                    }
                }
            }
        }
        Some(rows)
    }

    /// Takes rows of a chain from `link` on until there are `max`; returns where to go on.
    fn walk(&self, side: usize, mut link: u32, is: bool, max: usize, rows: &mut Vec<(u32, bool)>) -> Option<u32> {
        while link != NONE && rows.len() < max {
            rows.push((link, is));
            link = self.sides[side].links[link as usize].next;
        }
        (link != NONE).then_some(link)
    }

    pub(super) fn emit_flips(&mut self, pending: &mut Pending, out: &mut Output) -> Result<Progress> {
        let side = 1 - pending.input;
        let Some(flips) = &mut pending.flips else { return Ok(Progress::Done) };
        let mut steps = 0;
        while let Some(part) = self.next_flips(flips, side, OUTPUT_ROWS_MAX / 2) {
            // A mark changes: the old row goes, the new one comes. Elsewhere one of the two is not shown.
            let mut rows = Vec::with_capacity(part.len() * 2);
            for (row, is) in part {
                rows.extend(self.kind.shows(!is).then_some((row, !is, -1)));
                rows.extend(self.kind.shows(is).then_some((row, is, 1)));
            }
            let links: Vec<u32> = rows.iter().map(|(row, ..)| *row).collect();
            let matched: Vec<bool> = rows.iter().map(|(_, matched, _)| *matched).collect();
            let columns = self.sides[side].columns(&links)?;
            let diff = |i: usize| rows[i].2 * self.sides[side].links[links[i] as usize].count;
            self.emit_alone(side, columns, &matched, diff, out)?;
            steps += OUTPUT_ROWS_MAX / 2;
            if out.is_full() || steps >= STEPS_MAX {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    /// Emits the rows that cannot match because a key is NULL, and returns the others. They need no state. (NOT IN
    /// keeps them: its right side may become empty.)
    pub(super) fn set_aside_unmatchable(&self, input: usize, delta: &Batch, out: &mut Output) -> Result<Batch> {
        if self.kind == JoinKind::NullAwareAnti {
            return Ok(delta.clone());
        }
        let mut matchable = None;
        for (column, null_equal) in self.sides[input].key_columns.iter().zip(&self.null_equal) {
            let nulls = delta.column(*column).logical_nulls().filter(|n| !null_equal && n.null_count() > 0);
            if let Some(nulls) = nulls {
                matchable = Some(match matchable {
                    None => nulls.inner().clone(),
                    Some(matchable) => &matchable & nulls.inner(),
                });
            }
        }
        let Some(matchable) = matchable else { return Ok(delta.clone()) };
        if self.kind.counts_matches(input) && self.kind.shows(false) {
            let alone = delta.filter(&BooleanArray::new(!&matchable, None))?;
            let matched = vec![false; alone.num_rows()];
            self.emit_alone(input, alone.data().columns().to_vec(), &matched, |row| alone.diff(row), out)?;
        }
        Ok(delta.filter(&BooleanArray::new(matchable, None))?)
    }
}
