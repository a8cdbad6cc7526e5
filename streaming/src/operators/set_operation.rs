//! INTERSECT and EXCEPT, with and without ALL: rows of the left input, as often as the right one lets them be there.
//!
//! Rule    Of rows that are equal by their keys, l on the left and r on the right, there come out: INTERSECT ALL
//!         min(l, r), EXCEPT ALL max(l - r, 0), INTERSECT one if both are there, EXCEPT one if only left ones are.
//!         If equal rows look different (1.0 and 1.00), the first ones in `order` come out.
//! State   `left`: (key, row) -> count. `right`: key -> count. Both grow with the different rows of their input, unless a
//!         column has a watermark on both sides: then rows leave when both have passed.
//! Epochs  Emits while the epoch is open, the difference that each batch makes.
//! Limits  None: a batch changes what comes out of its own keys only.

use std::collections::BTreeMap;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable, keys};

use super::hash_join::side::{NONE, Side, SideSpec};
use super::hash_join::task::batch;
use super::hash_join::{Expiry, Placement, stored};
use crate::error::Result;
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::watermark::Watermarks;

/// INTERSECT and EXCEPT, with and without ALL.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetOperation {
    /// Which rows come out.
    pub kind: SetKind,
    /// Whether equal rows count.
    pub all: bool,
    /// The columns that rows are compared by, of each input.
    pub keys: [Vec<usize>; 2],
    /// Columns of the left input that say which of several equal rows come out first; none if equal rows look equal.
    pub order: Vec<usize>,
    /// The key, as a place in `keys`, that has a watermark on both sides, by which rows are dropped.
    #[serde(default)]
    pub expires: Option<usize>,
    /// The output columns: all of the left input.
    pub schema: SchemaRef,
}

/// Which rows a set operation lets out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetKind {
    /// Those that are on both sides.
    Intersect,
    /// Those that are on the left side only.
    Except,
}

impl SetOperation {
    /// How many of `left` equal rows come out beside `right` ones on the other side.
    fn shown(&self, left: i64, right: i64) -> i64 {
        // Inside an epoch counts may be below zero for a moment.
        let (left, right) = (left.max(0), right.max(0));
        match (self.kind, self.all) {
            (SetKind::Intersect, true) => left.min(right),
            (SetKind::Intersect, false) => left.min(right).min(1),
            (SetKind::Except, true) => (left - right).max(0),
            (SetKind::Except, false) if right == 0 => left.min(1),
            (SetKind::Except, false) => 0,
        }
    }
}

impl Operator for SetOperation {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        self.keys.iter().map(|keys| Exchange::Hash(keys.clone())).collect()
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let inputs = ctx.inputs.clone();
        let spec = |i: usize| SideSpec {
            schema: &inputs[i],
            key_columns: &self.keys[i],
            keys_only: i == 1,
            tracks_matches: false,
            placement: Placement::Key(self.keys[i].clone()),
            order_by: None,
            expiry: self.expires.map(|key| Expiry {
                column: self.keys[i][key],
                other: self.keys[1 - i][key],
                own: true,
                null_equal: true,
            }),
        };
        let (sides, tables) = stored::open([spec(0), spec(1)], ctx)?;
        Ok(Box::new(SetOperationTask { node: self.clone(), sides, tables }))
    }
    fn describe(&self) -> String {
        format!("{}{}", format!("{:?}", self.kind).to_lowercase(), if self.all { " all" } else { "" })
    }
    fn state(&self) -> Option<String> {
        Some("one entry per different row of each input".into())
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let of = |side: usize, key: usize| inputs[side].get(self.keys[side][key]).copied().flatten();
        let mut marks: Watermarks = vec![None; self.schema.fields().len()];
        for (key, column) in self.keys[0].iter().enumerate() {
            // A row comes or goes with one of its kind on either side.
            marks[*column] = of(0, key).zip(of(1, key)).map(|(left, right)| left.both(right));
        }
        marks
    }
    fn expires_by(&self) -> Vec<(usize, usize)> {
        self.expires.iter().map(|key| (0, self.keys[0][*key])).collect()
    }
}

struct SetOperationTask {
    node: SetOperation,
    sides: [Side; 2],
    tables: [StateTable; 2],
}

/// A key that a batch touched.
struct Touched {
    /// How many of its rows were shown, and are now.
    shown: [i64; 2],
    /// Its rows on the left: number, and count before and now.
    rows: BTreeMap<u32, [i64; 2]>,
}

impl SetOperationTask {
    /// The keys of a batch, with what they show. The batch is in its side's state already.
    fn touched(&mut self, input: usize, delta: &Batch) -> Result<Vec<Touched>> {
        let entered = self.sides[input].enter(delta, true)?;
        let [left, right] = &self.sides;
        let total = |side: &Side, key: Option<u32>| key.map_or(0, |key| side.infos[key as usize].total);
        let mut by_left_key = BTreeMap::new();
        let mut touched = Vec::with_capacity(entered.totals.len());
        for (key, before) in &entered.totals {
            let now = self.sides[input].infos[*key as usize].total;
            let other = self.sides[1 - input].key_like(&self.sides[input], *key);
            let (left_key, shown) = match input {
                0 => {
                    let beside = total(right, other);
                    (Some(*key), [self.node.shown(*before, beside), self.node.shown(now, beside)])
                }
                _ => {
                    let beside = total(left, other);
                    (other, [self.node.shown(beside, *before), self.node.shown(beside, now)])
                }
            };
            let mut rows = BTreeMap::new();
            if let Some(key) = left_key {
                let mut link = left.infos[key as usize].head;
                while link != NONE {
                    let count = left.links[link as usize].count;
                    rows.insert(link, [count, count]);
                    link = left.links[link as usize].next;
                }
                by_left_key.insert(key, touched.len());
            }
            touched.push(Touched { shown, rows });
        }
        if input == 0 {
            for (i, row) in entered.rows.iter().enumerate() {
                let link = &left.links[*row as usize];
                let rows = &mut touched[by_left_key[&link.key]].rows;
                rows.entry(*row).or_insert([link.count; 2])[0] -= delta.diff(i);
            }
        }
        Ok(touched)
    }

    /// The left rows whose count in the output changes, and by how much.
    fn changes(&self, touched: &[Touched]) -> Result<Vec<(u32, i64)>> {
        let several: Vec<u32> =
            touched.iter().filter(|t| t.rows.len() > 1).flat_map(|t| t.rows.keys().copied()).collect();
        // The order of rows that are equal and look different.
        let mut places = BTreeMap::new();
        if !several.is_empty() {
            let columns = self.sides[0].columns(&several)?;
            let columns: Vec<_> = self.node.order.iter().map(|i| columns[*i].clone()).collect();
            let encoded = keys::encode_rows(&columns, &[], several.len())?;
            places.extend(several.iter().enumerate().map(|(i, row)| (*row, encoded.get(i).to_vec())));
        }
        let mut changes = Vec::new();
        for Touched { shown, rows } in touched {
            let mut rows: Vec<(u32, [i64; 2])> = rows.iter().map(|(row, counts)| (*row, *counts)).collect();
            rows.sort_by(|(a, _), (b, _)| places.get(a).cmp(&places.get(b)));
            let mut left = *shown;
            for (row, counts) in rows {
                let [before, now] = [0, 1].map(|when| {
                    let out = counts[when].clamp(0, left[when]);
                    left[when] -= out;
                    out
                });
                if now != before {
                    changes.push((row, now - before));
                }
            }
        }
        Ok(changes)
    }
}

impl Task for SetOperationTask {
    fn apply(&mut self, input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let touched = self.touched(input, delta)?;
        for changes in self.changes(&touched)?.chunks(OUTPUT_ROWS_MAX) {
            let rows: Vec<u32> = changes.iter().map(|(row, _)| *row).collect();
            let diffs = changes.iter().map(|(_, diff)| *diff).collect();
            out.emit(batch(&self.node.schema, self.sides[0].columns(&rows)?, diffs)?);
        }
        self.sides[input].collect();
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, _out: &mut Output) -> Result<Progress> {
        for (i, side) in self.sides.iter_mut().enumerate() {
            if side.expire(i, at)? == Progress::More {
                return Ok(Progress::More);
            }
        }
        Ok(stored::seal(&mut self.sides, &self.tables, at))
    }

    fn state_size(&self) -> StateSize {
        let [left, right] = &self.sides;
        left.size() + right.size()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::oracle;
    use crate::testing::{run, schema};

    const ROWS: &str = "a bigint, b text";

    fn node(kind: SetKind, all: bool) -> SetOperation {
        SetOperation { kind, all, keys: [vec![0, 1], vec![0, 1]], order: vec![], expires: None, schema: schema(ROWS) }
    }

    fn mark(at: i64) -> Option<crate::watermark::Watermark> {
        Some(crate::watermark::Watermark { at, floor: at, lateness: false, retracts: false })
    }

    #[test]
    fn rows_below_both_watermarks_leave_the_state_and_stay_out() {
        let input = schema(ROWS);
        for (kind, shown) in [(SetKind::Except, "(1,x)"), (SetKind::Intersect, "(2,y)")] {
            let node = SetOperation { expires: Some(0), ..node(kind, false) };
            let mut task = crate::testing::TestTask::new(node, &[input.clone(), input.clone()], 2);
            let rows = |rows: &[(Option<&str>, &str)]| {
                let row = |(a, b): &(Option<&str>, &str)| (vec![a.map(Into::into), Some(b.to_string())], 1);
                crate::testing::batch(&input, &rows.iter().map(row).collect::<Vec<_>>())
            };
            task.apply(0, &rows(&[(Some("1"), "x"), (Some("2"), "y"), (None, "n")]));
            task.apply(1, &rows(&[(Some("2"), "y"), (None, "n")]));
            let mut said = crate::testing::Counted::new();
            crate::testing::accumulate(&mut said, &task.seal_with(true, vec![vec![mark(9)], vec![mark(2)]]).0);
            assert!(said.contains_key(shown), "{said:?}");
            // Below 2, but for what has no time.
            assert_eq!(task.state_rows(), 4);
            assert!(task.seal_with(true, vec![vec![mark(9)], vec![mark(9)]]).0.is_empty());
            assert_eq!(task.state_rows(), 2);
            task.restart(1);
            task.apply(1, &rows(&[(None, "m")]));
            task.apply(0, &rows(&[(None, "m")]));
            crate::testing::accumulate(&mut said, &task.seal(true).0);
            assert_eq!(said.contains_key("(NULL,m)"), kind == SetKind::Intersect);
        }
    }

    #[test]
    fn equal_rows_that_look_different_come_out_in_order() {
        // Compared by the first column only.
        let node = SetOperation { keys: [vec![0], vec![0]], order: vec![1], ..node(SetKind::Except, true) };
        let script = "1 L +(1,a) +2(1,c) +(1,b) 2 R +(1,x) 3 R +2(1,y) 4 L -(1,a) 5 R -3(1,x) 6 L -2(1,c)";
        expect![[r#"
            1 +(1,a) +(1,b) +2(1,c)
            2 -(1,c)
            3 -(1,b) -(1,c)
            4 -(1,a)
            5 +(1,b) +2(1,c)
            6 -2(1,c)"#]]
        .assert_eq(&run(node, &[ROWS, ROWS], script));
    }

    const NUMBERED: &str = "(select a, b, row_number() over (partition by a, b) as n from t0) x
        where OP (select 1 from (select a as c, b as d, row_number() over (partition by a, b) as m from t1) y
            where (a is not distinct from c) and (b is not distinct from d) and n = m)";

    oracle!(
        intersect,
        node(SetKind::Intersect, false),
        [ROWS, ROWS],
        "select a, b from t0 intersect select a, b from t1"
    );
    oracle!(except, node(SetKind::Except, false), [ROWS, ROWS], "select a, b from t0 except select a, b from t1");
    oracle!(
        intersect_all,
        node(SetKind::Intersect, true),
        [ROWS, ROWS],
        &format!("select a, b from {}", NUMBERED.replace("OP", "exists"))
    );
    oracle!(
        except_all,
        node(SetKind::Except, true),
        [ROWS, ROWS],
        &format!("select a, b from {}", NUMBERED.replace("OP", "not exists"))
    );
}
