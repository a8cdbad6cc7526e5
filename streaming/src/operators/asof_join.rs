//! Joins each left row with the one right row of its key that is nearest in an order: the latest that is not later
//! (`l.ts >= r.ts`), or the earliest that is not earlier (`l.ts <= r.ts`).
//!
//! Rule    The match of a left row is the last right row of its key that stands before it. A right row that comes takes
//!         over the left rows between itself and the next right row; one that goes leaves them to the one before.
//!         Of right rows with the same time, the last one by the columns `ties` counts.
//! State   `left`, `right`: (join key, row) -> count, and both orders in memory. They grow with their inputs.
//! Epochs  Emits while the epoch is open; nothing to do at the seal but to save.
//! Limits  The left rows that a right row takes over leave in pieces, over as many activations as it takes.

use arrow::array::{ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{is_not_null, take};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable};

use super::hash_join::range::{OrderBy, OrderedRows, Place, Values};
use super::hash_join::side::{Side, SideSpec};
use super::hash_join::task::batch;
use super::hash_join::{Placement, stored};
use crate::error::Result;
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::watermark::Watermarks;

/// Joins each left row with the right row of its key that is nearest in an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AsofJoin {
    /// Whether a left row without a match comes out too, padded with NULLs.
    pub outer: bool,
    /// Key columns of the left and the right input, equally many and of equal Arrow types.
    pub keys: [Vec<usize>; 2],
    /// The columns that are compared, of equal Arrow types.
    pub times: [usize; 2],
    /// Whether the match is the earliest that is not earlier, instead of the latest that is not later.
    pub forward: bool,
    /// Whether a right row of the same time matches.
    pub inclusive: bool,
    /// Columns of the right input that tell rows of the same time apart.
    pub ties: Vec<usize>,
    /// The output columns: left columns followed by right columns.
    pub schema: SchemaRef,
}

impl AsofJoin {
    /// How the left time compares to the right one.
    pub fn sign(&self) -> &'static str {
        match (self.forward, self.inclusive) {
            (false, true) => ">=",
            (false, false) => ">",
            (true, true) => "<=",
            (true, false) => "<",
        }
    }

    fn placement(&self, side: usize) -> Placement {
        if self.keys[0].is_empty() { Placement::Single } else { Placement::Key(self.keys[side].clone()) }
    }

    fn order_by(&self, side: usize) -> OrderBy {
        let ties = if side == 1 { self.ties.as_slice() } else { &[] };
        OrderBy { columns: [&[self.times[side]], ties].concat(), descending: self.forward }
    }
}

impl Operator for AsofJoin {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        let exchange = |keys: &Vec<usize>| match keys.is_empty() {
            true => Exchange::Single,
            false => Exchange::Hash(keys.clone()),
        };
        self.keys.iter().map(exchange).collect()
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let inputs = ctx.inputs.clone();
        let spec = |i: usize, order_by| SideSpec {
            schema: &inputs[i],
            key_columns: &self.keys[i],
            keys_only: false,
            tracks_matches: false,
            placement: self.placement(i),
            order_by,
            expiry: None,
        };
        // Right rows enter their order one by one, see `take_over`.
        let (sides, tables) = stored::open([spec(0, Some(self.order_by(0))), spec(1, None)], ctx)?;
        let mut task = AsofJoinTask {
            node: self.clone(),
            right_schema: ctx.inputs[1].clone(),
            sides,
            tables,
            right_order: OrderedRows::default(),
            turns: Vec::new(),
            next: 0,
            behind: None,
        };
        task.order_right()?;
        Ok(Box::new(task))
    }
    fn describe(&self) -> String {
        let ([l, r], sign) = (self.times, self.sign());
        let pairs = self.keys[0].iter().zip(&self.keys[1]).map(|(l, r)| format!("left.${l} = right.${r} AND "));
        let kind = if self.outer { "left" } else { "inner" };
        format!("{kind}, {}left.${l} {sign} right.${r}", pairs.collect::<String>())
    }
    fn state(&self) -> Option<String> {
        Some("the rows of both inputs".into())
    }
    fn watermarks(&self, inputs: &[Watermarks], ctx: &WatermarkContext) -> Watermarks {
        let of = |side: usize, column: usize| inputs[side].get(column).copied().flatten();
        let both = |(left, right): (usize, usize)| of(0, left).zip(of(1, right)).map(|(left, right)| left.both(right));
        let n_left = ctx.inputs[0].fields().len();
        let mut marks: Watermarks = vec![None; self.schema.fields().len()];
        for (left, right) in self.keys[0].iter().copied().zip(self.keys[1].iter().copied()) {
            marks[left] = both((left, right));
            // Padded rows have a NULL there.
            marks[n_left + right] = marks[left];
        }
        // A right row takes over, or gives back, left rows that are not before it. Looking forward, also old ones.
        if !self.forward {
            let [left, right] = self.times;
            marks[left] = marks[left].or(both((left, right)));
        }
        marks
    }
}

struct AsofJoinTask {
    node: AsofJoin,
    right_schema: SchemaRef,
    sides: [Side; 2],
    tables: [StateTable; 2],
    /// The right rows that are there.
    right_order: OrderedRows,
    /// Right rows of the batch in work that come or go.
    turns: Vec<Turn>,
    /// The one in work, and behind which left row it goes on.
    next: usize,
    behind: Option<Place>,
}

/// A right row that comes or goes.
struct Turn {
    /// Its key on the right side.
    key: u32,
    place: Place,
    comes: bool,
}

impl AsofJoinTask {
    /// Orders the right rows that the last checkpoint had.
    fn order_right(&mut self) -> Result<()> {
        let links = &self.sides[1].links;
        let numbers: Vec<u32> = (0..links.len() as u32).filter(|n| links[*n as usize].count > 0).collect();
        for numbers in numbers.chunks(OUTPUT_ROWS_MAX) {
            let values = Values::of_columns(&self.sides[1].columns(numbers)?, &self.node.order_by(1))?;
            for (i, number) in numbers.iter().enumerate() {
                let value = values.get(i).expect("rows without a time are not kept");
                self.right_order.insert(self.sides[1].links[*number as usize].key, value, *number);
            }
        }
        Ok(())
    }

    /// Splits off the rows that cannot match: without a key or without a time.
    fn matchable(&self, input: usize, delta: &Batch) -> Result<(Batch, Batch)> {
        let mut columns = self.node.keys[input].iter().chain([&self.node.times[input]]);
        let first = is_not_null(delta.column(*columns.next().expect("a time at least")))?;
        let valid = columns
            .try_fold(first, |valid, column| arrow::compute::and(&valid, &is_not_null(delta.column(*column))?))?;
        Ok((delta.filter(&valid)?, delta.filter(&arrow::compute::not(&valid)?)?))
    }

    fn left_rows(&mut self, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let (delta, alone) = self.matchable(0, delta)?;
        let mut pieces = vec![(alone.clone(), vec![None; alone.num_rows()])];
        if delta.num_rows() > 0 {
            let entered = self.sides[0].enter(&delta, false)?;
            let values = Values::of(&delta, &self.node.order_by(0))?;
            let keys = self.sides[1].find_keys(&entered.keys);
            let found = keys.into_iter().enumerate().map(|(row, key)| {
                let value = values.get(row).expect("rows without a time are set aside");
                self.right_order.last(key?, value, self.node.inclusive)
            });
            let found = found.collect();
            pieces.push((delta, found));
            self.sides[0].collect();
        }
        for (left, right) in pieces {
            let diffs = (0..left.num_rows()).map(|row| left.diff(row)).collect();
            self.emit(left.data().columns().to_vec(), &right, diffs, out)?;
        }
        Ok(Progress::Done)
    }

    /// Emits left rows, each with its right row or padded.
    fn emit(&self, left: Vec<ArrayRef>, right: &[Option<u32>], diffs: Vec<i64>, out: &mut Output) -> Result<()> {
        let matched: Vec<u32> = right.iter().flatten().copied().collect();
        let decoded = match matched.is_empty() {
            true => self.right_schema.fields().iter().map(|f| new_null_array(f.data_type(), 0)).collect(),
            false => self.sides[1].columns(&matched)?,
        };
        let mut next = 0;
        let places: UInt32Array = right
            .iter()
            .map(|row| {
                row.map(|_| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let keep = is_not_null(&places)?;
        let all = self.node.outer || matched.len() == right.len();
        let mut columns = left;
        for column in decoded {
            columns.push(take(&column, &places, None)?);
        }
        let pairs = batch(&self.node.schema, columns, diffs)?;
        out.emit(if all { pairs } else { pairs.filter(&keep)? });
        Ok(())
    }

    fn right_rows(&mut self, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let (delta, _) = self.matchable(1, delta)?;
        if delta.num_rows() == 0 {
            return Ok(Progress::Done);
        }
        let entered = self.sides[1].enter(&delta, false)?;
        let values = Values::of(&delta, &self.node.order_by(1))?;
        let mut before = std::collections::BTreeMap::new();
        for (i, row) in entered.rows.iter().enumerate() {
            let now = self.sides[1].links[*row as usize].count;
            before.entry(*row).or_insert((now, i)).0 -= delta.diff(i);
        }
        self.turns = before
            .into_iter()
            .filter_map(|(row, (before, i))| {
                let link = &self.sides[1].links[row as usize];
                let comes = link.count > 0;
                let value = values.get(i).expect("rows without a time are set aside");
                (comes != (before > 0)).then(|| Turn { key: link.key, place: (value.into(), row), comes })
            })
            .collect();
        (self.next, self.behind) = (0, None);
        self.resume(out)
    }

    /// Hands left rows from one right row to another, a piece of one turn. Returns whether the turn is over.
    fn take_over(&mut self, out: &mut Output) -> Result<bool> {
        let Turn { key, place, comes } = &self.turns[self.next];
        if self.behind.is_none() && !comes {
            self.right_order.remove(*key, &place.0, place.1);
        }
        let (before, behind) = self.right_order.neighbours(*key, place);
        let left_key = self.sides[0].key_like(&self.sides[1], *key);
        let types = [self.right_schema.field(self.node.times[1]).data_type().clone()];
        let option = [storage::keys::SortOption { descending: self.node.forward, nulls_first: false }];
        let time = |value: &[u8]| -> Result<Vec<u8>> {
            Ok(value[..storage::keys::prefix_len(&types, &option, value)?].to_vec())
        };
        let from = time(&place.0)?;
        let to = behind.map(|(value, _)| time(value)).transpose()?;
        // Rows from the row's time on, up to the next one's: at the same time there is nothing between.
        let above = Some((from.as_slice(), self.node.inclusive));
        let below = to.as_ref().map(|to| (to.as_slice(), !self.node.inclusive));
        let mut rows = Vec::new();
        let mut last = None;
        if let Some(left_key) = left_key.filter(|_| to.as_ref() != Some(&from)) {
            for (value, row) in self.sides[0].order.between(left_key, above, below, self.behind.take()) {
                rows.push(row);
                if rows.len() == OUTPUT_ROWS_MAX / 2 {
                    last = Some((value.into(), row));
                    break;
                }
            }
        }
        let (old, new) = if *comes { (before, Some(place.1)) } else { (Some(place.1), before) };
        let over = last.is_none();
        if over && *comes {
            self.right_order.insert(*key, &place.0, place.1);
        }
        self.behind = last;
        if !rows.is_empty() {
            let columns = self.sides[0].columns(&rows)?;
            let twice: UInt32Array = (0..2 * rows.len()).map(|i| (i % rows.len()) as u32).collect();
            let columns = columns.iter().map(|c| take(c, &twice, None)).collect::<Result<Vec<_>, _>>()?;
            let right: Vec<_> = (0..2 * rows.len()).map(|i| if i < rows.len() { old } else { new }).collect();
            let count = |i: usize| self.sides[0].links[rows[i % rows.len()] as usize].count;
            let diffs = (0..2 * rows.len()).map(|i| if i < rows.len() { -count(i) } else { count(i) }).collect();
            self.emit(columns, &right, diffs, out)?;
        }
        Ok(over)
    }
}

impl Task for AsofJoinTask {
    fn apply(&mut self, input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        if input == 0 { self.left_rows(delta, out) } else { self.right_rows(delta, out) }
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        while self.next < self.turns.len() {
            if out.is_full() {
                return Ok(Progress::More);
            }
            if self.take_over(out)? {
                self.next += 1;
            }
        }
        self.turns.clear();
        self.sides[1].collect();
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, _out: &mut Output) -> Result<Progress> {
        Ok(stored::seal(&mut self.sides, &self.tables, at))
    }

    fn state_size(&self) -> StateSize {
        let [left, right] = &self.sides;
        left.size() + right.size() + StateSize { rows: 0, bytes: self.right_order.bytes() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::oracle;
    use crate::testing::{run, schema};

    const LEFT: &str = "k bigint, ts timestamp, a text";
    const RIGHT: &str = "j bigint, rt timestamp, b text";

    fn node(outer: bool, forward: bool, inclusive: bool) -> AsofJoin {
        AsofJoin {
            outer,
            keys: [vec![0], vec![0]],
            times: [1, 1],
            forward,
            inclusive,
            ties: vec![2],
            schema: schema(&format!("{LEFT}, {RIGHT}")),
        }
    }

    #[test]
    fn a_right_row_takes_over_what_stands_behind_it() {
        let script =
            "1 L +(1,10,a) +2(1,20,b) +(1,5,c) R +(1,8,x) 2 R +(1,15,y) 3 R -(1,8,x) 4 R +(1,15,z) 5 R -(1,15,z)";
        expect![[r#"
            1 +(1,1970-01-01T00:00:00.000005,c,NULL,NULL,NULL) +(1,1970-01-01T00:00:00.000010,a,1,1970-01-01T00:00:00.000008,x) +2(1,1970-01-01T00:00:00.000020,b,1,1970-01-01T00:00:00.000008,x)
            2 -2(1,1970-01-01T00:00:00.000020,b,1,1970-01-01T00:00:00.000008,x) +2(1,1970-01-01T00:00:00.000020,b,1,1970-01-01T00:00:00.000015,y)
            3 -(1,1970-01-01T00:00:00.000010,a,1,1970-01-01T00:00:00.000008,x) +(1,1970-01-01T00:00:00.000010,a,NULL,NULL,NULL)
            4 -2(1,1970-01-01T00:00:00.000020,b,1,1970-01-01T00:00:00.000015,y) +2(1,1970-01-01T00:00:00.000020,b,1,1970-01-01T00:00:00.000015,z)
            5 +2(1,1970-01-01T00:00:00.000020,b,1,1970-01-01T00:00:00.000015,y) -2(1,1970-01-01T00:00:00.000020,b,1,1970-01-01T00:00:00.000015,z)"#]]
        .assert_eq(&run(node(true, false, true), &[LEFT, RIGHT], script));
    }

    #[test]
    fn a_flood_of_left_rows_is_handed_over_in_pieces() {
        let mut task = crate::testing::TestTask::new(node(false, false, true), &[schema(LEFT), schema(RIGHT)], 1);
        let left: Vec<_> =
            (0..20_000).map(|i| (vec![Some("1".into()), Some(i.to_string()), Some("a".into())], 1)).collect();
        for part in left.chunks(5_000) {
            task.apply(0, &crate::testing::batch(&schema(LEFT), part));
        }
        let right = [(vec![Some("1".into()), Some("100".into()), Some("x".into())], 1)];
        task.apply(1, &crate::testing::batch(&schema(RIGHT), &right));
        let (batches, _) = task.seal(true);
        assert_eq!(batches.iter().map(Batch::num_rows).sum::<usize>(), 19_900);
        task.restart(1);
        task.apply(1, &crate::testing::batch(&schema(RIGHT), &[(right[0].0.clone(), -1)]));
        let (batches, _) = task.seal(true);
        assert_eq!(batches.iter().flat_map(|b| (0..b.num_rows()).map(|row| b.diff(row))).sum::<i64>(), -19_900);
    }

    /// The nearest row in batch. `SIGN` compares, `WAY` is the order to take the first of.
    fn nearest(join: &str, sign: &str, way: &str) -> String {
        format!(
            "select k, ts, a, j, rt, b from (select *, row_number() over (partition by id order by rt {way}, b desc nulls first) as n
             from (select *, row_number() over () as id from t0) l {join} t1 on k = j and ts {sign} rt) x where n = 1"
        )
    }

    oracle!(inner, node(false, false, true), [LEFT, RIGHT], &nearest("join", ">=", "desc"));
    oracle!(left, node(true, false, true), [LEFT, RIGHT], &nearest("left join", ">=", "desc"));
    oracle!(left_strict, node(true, false, false), [LEFT, RIGHT], &nearest("left join", ">", "desc"));
    oracle!(left_forward, node(true, true, true), [LEFT, RIGHT], &nearest("left join", "<=", "asc"));
    oracle!(inner_forward_strict, node(false, true, false), [LEFT, RIGHT], &nearest("join", "<", "asc"));
    oracle!(
        without_keys,
        AsofJoin { keys: [vec![], vec![]], ties: vec![2, 0], ..node(true, false, true) },
        [LEFT, RIGHT],
        &nearest("left join", ">=", "desc")
            .replace("k = j and", "")
            .replace("nulls first", "nulls first, j desc nulls first")
    );
}
