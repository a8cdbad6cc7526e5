//! Window functions: each row with what functions say of it among the rows of its partition.
//!
//! Rule    At the end of an epoch, for each partition that changed: the rows that a change can affect, with what the
//!         functions say now, minus what they said. How far a change reaches depends on the function: `row_number` on
//!         all rows behind it (none if the number of rows is the same), `lag(x, 2)` on two, a frame on the rows whose
//!         frames hold it.
//! State   `rows`: (partition, order, row) -> count; every row of the input, but for sessions and partitions that watermarks
//!         have closed. What was said is computed again.
//! Epochs  Collects changes; everything is emitted at the seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX; a partition is computed in one step. A frame that begins at the partition's start is
//!         summed up from there. A checkpoint's step puts SAVE_MAX entries into the table at most.

mod sessions;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow_schema::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};
use storage::keys::{self, SortOption};
use storage::Batch;

use self::sessions::Sessions;
use super::top_n::SortKey;
use crate::error::{Error, Result};
use crate::operator::{
    Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, RowError, Seal, StateSize, Task, TaskContext, WatermarkContext,
};
use crate::partitions::{self, Kept, Partitions, Pending, Settled};
use crate::watermark::Watermarks;
use crate::windows::{self, Results, Rows, WindowCall};

/// Each row with what window functions say of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Window {
    /// The partition columns; empty for one partition.
    pub partition: Vec<usize>,
    /// The order within a partition; ties are broken by the whole row.
    pub order: Vec<SortKey>,
    /// The functions; their values come out behind the input's columns.
    pub calls: Vec<WindowCall>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Window {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.partition.is_empty() { Exchange::Single } else { Exchange::Hash(self.partition.clone()) }]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let table = ctx.table("rows")?;
        let types = ctx.inputs[0].fields().iter().map(|f| f.data_type().clone()).collect();
        let partitions = Partitions::open(&self.partition, &self.order, &ctx.inputs[0], table)?;
        let sessions = Sessions::of(self);
        Ok(Box::new(WindowTask { node: self.clone(), types, partitions, sessions, changes: Vec::new() }))
    }
    fn describe(&self) -> String {
        let calls = self.calls.iter().map(|call| {
            let args: Vec<String> = call.args.iter().map(|i| format!("${i}")).collect();
            format!("{}({})", call.kind.name(), args.join(", "))
        });
        let mut terms = vec![calls.collect::<Vec<_>>().join(", ")];
        if !self.partition.is_empty() {
            let columns: Vec<String> = self.partition.iter().map(|i| format!("${i}")).collect();
            terms.push(format!("partition by {}", columns.join(", ")));
        }
        if !self.order.is_empty() {
            let order: Vec<String> = self.order.iter().map(ToString::to_string).collect();
            terms.push(format!("order by {}", order.join(", ")));
        }
        terms.join(" ")
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        let mut marks = partitions::watermarks(&self.partition, self.schema.fields().len(), &inputs[0]);
        sessions::watermarks(self, &inputs[0], &mut marks);
        marks
    }
    fn expires_by(&self) -> Vec<(usize, usize)> {
        let time = sessions::columns(self).map(|(time, _)| time);
        self.partition.iter().copied().chain(time).map(|column| (0, column)).collect()
    }
    fn state(&self) -> Option<String> {
        let sessions = sessions::columns(self).is_some();
        Some(if sessions { "the rows of sessions" } else { "every row of the input" }.into())
    }
}

/// A row: bytes of the order columns, then of the whole row. A row that is there twice stands twice.
#[derive(Clone, Debug)]
struct Row {
    key: Arc<[u8]>,
    order: u32,
}

impl Kept for Vec<Row> {
    fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
    fn find(&self, key: &[u8]) -> Option<(u32, u64)> {
        let from = self.partition_point(|row| *row.key < *key);
        let count = self[from..].partition_point(|row| *row.key == *key);
        (count > 0).then(|| (self[from].order, count as u64))
    }
    fn load(&mut self, key: &[u8], order: u32, count: u64) -> Result<()> {
        let row = Row { key: key.into(), order };
        self.extend((0..count).map(|_| row.clone()));
        Ok(())
    }
    fn take_all(&mut self) -> Vec<Arc<[u8]>> {
        std::mem::take(self).into_iter().map(|row| row.key).collect()
    }
}

/// The rows of a partition in three pieces, so that the old and the new ones can share two.
struct Pieces<'a> {
    head: &'a [Row],
    middle: &'a [Row],
    tail: &'a [Row],
    types: &'a [DataType],
}

impl Pieces<'_> {
    fn row(&self, i: usize) -> &Row {
        let behind = i.checked_sub(self.head.len());
        match behind {
            None => &self.head[i],
            Some(i) if i < self.middle.len() => &self.middle[i],
            Some(i) => &self.tail[i - self.middle.len()],
        }
    }
}

impl Rows for Pieces<'_> {
    fn len(&self) -> usize {
        self.head.len() + self.middle.len() + self.tail.len()
    }
    fn order(&self, row: usize) -> &[u8] {
        let row = self.row(row);
        &row.key[..row.order as usize]
    }
    fn columns(&self, rows: Range<usize>) -> Result<Vec<ArrayRef>> {
        let rows = rows.map(|i| self.row(i)).map(|row| &row.key[row.order as usize..]);
        Ok(keys::decode(self.types, &[], rows)?)
    }
}

/// A row that is out or comes out, with what the functions say of it.
struct Said {
    row: Row,
    values: Results,
    diff: i64,
}

struct WindowTask {
    node: Window,
    types: Vec<DataType>,
    partitions: Partitions<Vec<Row>>,
    /// If all functions look at sessions.
    sessions: Option<Sessions>,
    /// While a seal is not finished: what is not emitted yet.
    changes: Vec<Said>,
}

impl Task for WindowTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        self.partitions.add(delta)?;
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        loop {
            while !self.changes.is_empty() {
                if out.is_full() {
                    return Ok(Progress::More);
                }
                let from = self.changes.len().saturating_sub(OUTPUT_ROWS_MAX);
                let changes = self.changes.split_off(from);
                self.emit(changes, out)?;
            }
            if let Some((sessions, partition)) = self.sessions.as_mut().zip(self.partitions.next_dirty()) {
                sessions.touch(partition);
            }
            let (node, types, changes) = (&self.node, &self.types, &mut self.changes);
            if !self.partitions.settle_next(|rows, pending| settle(node, types, rows, pending, changes))? {
                break;
            }
        }
        self.partitions.drop_below(at)?;
        if let Some(sessions) = &mut self.sessions
            && sessions.drop_closed(&mut self.partitions, &self.types, at)? == Progress::More
        {
            return Ok(Progress::More);
        }
        if at.checkpoint && !self.partitions.save() {
            return Ok(Progress::More);
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        self.partitions.size()
    }
}

impl WindowTask {
    fn emit(&self, changes: Vec<Said>, out: &mut Output) -> Result<()> {
        let mut rows = Vec::with_capacity(changes.len());
        let mut diffs = Vec::with_capacity(changes.len());
        let mut values: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(changes.len()); self.node.calls.len()];
        for said in changes {
            if let Some(error) = said.values.iter().find_map(|value| value.as_ref().err()) {
                out.error(self.row_error(&said.row, said.diff, error)?);
                continue;
            }
            values.iter_mut().zip(said.values).for_each(|(column, value)| column.extend(value));
            rows.push(said.row);
            diffs.push(said.diff);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut columns = keys::decode(&self.types, &[], rows.iter().map(|row| &row.key[row.order as usize..]))?;
        for column in values {
            columns.push(ScalarValue::iter_to_array(column).map_err(|e| Error::Failed(e.to_string()))?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let data = RecordBatch::try_new_with_options(self.node.schema.clone(), columns, &options)?;
        let all_new = diffs.iter().all(|diff| *diff == 1);
        out.emit(Batch::new(data, (!all_new).then(|| Int64Array::from(diffs))));
        Ok(())
    }

    fn row_error(&self, row: &Row, diff: i64, error: &Error) -> Result<RowError> {
        let sqlstate = match error {
            Error::Invalid { sqlstate, .. } => sqlstate,
            _ => "XX000",
        };
        let columns = keys::decode(&self.types, &[], std::iter::once(&row.key[row.order as usize..]))?;
        let values: Vec<String> = columns.iter().map(|column| crate::expr::value_text(column, 0)).collect();
        Ok(RowError {
            diff,
            reason: error.to_string(),
            sqlstate: sqlstate.to_string(),
            raw: Some(format!("({})", values.join(",")).into_bytes()),
            ..RowError::default()
        })
    }

}

/// Applies a partition's changes, and notes what they change in what is said.
fn settle(
    node: &Window,
    types: &[DataType],
    rows: &mut Vec<Row>,
    pending: &Pending,
    changes: &mut Vec<Said>,
) -> Result<Settled> {
    let option = node.order.first().map(SortKey::option).unwrap_or_default();
    let (Some((first, _)), Some((last, _))) = (pending.first_key_value(), pending.last_key_value()) else {
        return Ok(Settled::default());
    };
    let head = rows.partition_point(|row| row.key < *first);
    let middle = head + rows[head..].partition_point(|row| row.key <= *last);
    let new_middle = merged(&rows[head..middle], pending)?;
    let (before, tail) = (&rows[head..middle], &rows[middle..]);
    let old = Pieces { head: &rows[..head], middle: before, tail, types };
    let new = Pieces { head: &rows[..head], middle: &new_middle, tail, types };
    let (mut from, mut behind) = (head, 0);
    for call in &node.calls {
        let (first, more) = windows::affected(call, &old, &new, option, head, tail.len())?;
        (from, behind) = (from.min(first), behind.max(more));
    }
    differences(&node.calls, option, [&old, &new], from, behind, changes)?;
    let bytes = |rows: &[Row]| rows.iter().map(|row| row.key.len() as isize).sum::<isize>();
    let settled = Settled {
        entries: new_middle.len() as isize - (middle - head) as isize,
        bytes: bytes(&new_middle) - bytes(before),
        ..Settled::default()
    };
    rows.splice(head..middle, new_middle);
    Ok(settled)
}

/// Rows with changes of their counts applied.
fn merged(rows: &[Row], pending: &Pending) -> Result<Vec<Row>> {
    let mut out = Vec::with_capacity(rows.len() + pending.len());
    let mut at = 0;
    for (key, (order, diff)) in pending {
        let from = at + rows[at..].partition_point(|row| row.key < *key);
        let to = from + rows[from..].partition_point(|row| row.key == *key);
        out.extend_from_slice(&rows[at..from]);
        let count = usize::try_from((to - from) as i64 + diff)
            .map_err(|_| Error::Failed("more rows of a window were retracted than were inserted".into()))?;
        out.extend(std::iter::repeat_n(Row { key: key.clone(), order: *order }, count));
        at = to;
    }
    out.extend_from_slice(&rows[at..]);
    Ok(out)
}

/// What is said of the rows from `from` on up to `behind` rows of the tail: now, minus what was.
fn differences(
    calls: &[WindowCall],
    option: SortOption,
    sides: [&Pieces; 2],
    from: usize,
    behind: usize,
    changes: &mut Vec<Said>,
) -> Result<()> {
    let mut said: hashbrown::HashMap<(Arc<[u8]>, String), (u32, Results, i64)> = hashbrown::HashMap::new();
    for (rows, diff) in [(sides[0], -1), (sides[1], 1)] {
        let to = rows.head.len() + rows.middle.len() + behind;
        let columns = calls
            .iter()
            .map(|call| windows::evaluate(call, rows, option, from..to))
            .collect::<Result<Vec<Results>>>()?;
        let mut columns: Vec<_> = columns.into_iter().map(Vec::into_iter).collect();
        for i in from..to {
            let values: Results =
                columns.iter_mut().map(|c| c.next().unwrap_or_else(|| Err(Error::Failed("a value is missing".into())))).collect();
            let row = rows.row(i);
            let entry = said.entry((row.key.clone(), format!("{values:?}"))).or_insert((row.order, values, 0));
            entry.2 += diff;
        }
    }
    let different = said.into_iter().filter(|(_, (_, _, diff))| *diff != 0);
    changes.extend(different.map(|((key, _), (order, values, diff))| Said { row: Row { key, order }, values, diff }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::aggregates::AggregateKind;
    use crate::oracle;
    use crate::testing::{run, schema};
    use crate::windows::{Bound, Exclude, Frame, Units, WindowKind};

    const INPUT: &str = "p bigint, o bigint, s text, v bigint";

    fn call(kind: WindowKind, args: &[usize], frame: Frame, returns: DataType) -> WindowCall {
        WindowCall { kind, args: args.to_vec(), filter: None, frame, returns }
    }

    fn ranking(kind: WindowKind) -> WindowCall {
        let returns = match kind {
            WindowKind::PercentRank | WindowKind::CumeDist => DataType::Float64,
            _ => DataType::Int64,
        };
        call(kind, &[], Frame::default(), returns)
    }

    fn frame(units: Units, start: Bound, end: Bound) -> Frame {
        Frame { units, start, end, exclude: Exclude::NoOthers }
    }

    fn sum(frame: Frame) -> WindowCall {
        let numeric = DataType::FixedSizeBinary(storage::types::NUMERIC_BYTES);
        call(WindowKind::Aggregate(AggregateKind::Sum), &[3], frame, numeric)
    }

    /// Ordered by o, s, v, all NULLS LAST: what ties is equal.
    fn node(partition: &[usize], order: &[usize], calls: &[WindowCall]) -> Window {
        let order = order.iter().map(|&column| SortKey { column, descending: false, nulls_first: false }).collect();
        let mut fields = schema(INPUT).fields().to_vec();
        fields.extend(calls.iter().enumerate().map(|(i, call)| {
            Arc::new(arrow_schema::Field::new(format!("w{i}"), call.returns.clone(), true))
        }));
        let schema = Arc::new(arrow_schema::Schema::new(fields));
        Window { partition: partition.to_vec(), order, calls: calls.to_vec(), schema }
    }

    #[test]
    fn a_change_in_the_middle_reaches_what_sees_it() {
        let lag = call(WindowKind::Lag { reach: Some(1), ignore_nulls: false }, &[3], Frame::default(), DataType::Int64);
        let said = run(
            node(&[0], &[1], &[lag]),
            &[INPUT],
            "1 +(1,1,a,10) +(1,2,b,20) +(1,3,c,30) +(1,4,d,40) 2 -(1,2,b,20) 3 +(1,0,e,0)",
        );
        expect![[r#"
            1 +(1,1,a,10,NULL) +(1,2,b,20,10) +(1,3,c,30,20) +(1,4,d,40,30)
            2 -(1,2,b,20,10) +(1,3,c,30,10) -(1,3,c,30,20)
            3 +(1,0,e,0,NULL) +(1,1,a,10,0) -(1,1,a,10,NULL)"#]]
        .assert_eq(&said);
    }

    #[test]
    fn a_wrong_argument_is_an_error_of_the_row() {
        let nth = call(WindowKind::NthValue { ignore_nulls: false }, &[2, 3], Frame::default(), DataType::Utf8View);
        let said = run(node(&[0], &[1], &[nth]), &[INPUT], "1 +(1,1,a,1) +(1,2,b,0) 2 -(1,2,b,0)");
        expect![[r#"
            1 +(1,1,a,1,a) +!22016 argument of nth_value must be greater than zero
            2 -!22016 argument of nth_value must be greater than zero"#]]
        .assert_eq(&said);
    }

    const OVER: &str = "over (partition by p order by o nulls last, s nulls last, v nulls last";

    fn select(calls: &[&str]) -> String {
        format!("select p, o, s, v, {} from t0", calls.join(", "))
    }

    oracle!(
        rankings,
        node(&[0], &[1], &[
            ranking(WindowKind::Rank),
            ranking(WindowKind::DenseRank),
            ranking(WindowKind::PercentRank),
            ranking(WindowKind::CumeDist),
        ]),
        [INPUT],
        &select(&["rank() over w", "dense_rank() over w", "percent_rank() over w", "cume_dist() over w"])
            .replace("over w", "over (partition by p order by o nulls last)")
    );
    oracle!(
        neighbours,
        node(&[0], &[1, 2, 3], &[
            ranking(WindowKind::RowNumber),
            call(WindowKind::Lag { reach: Some(1), ignore_nulls: false }, &[3], Frame::default(), DataType::Int64),
            call(WindowKind::Lead { reach: Some(1), ignore_nulls: false }, &[2], Frame::default(), DataType::Utf8View),
        ]),
        [INPUT],
        &select(&["row_number() over w)", "lag(v) over w)", "lead(s) over w)"]).replace("over w", OVER)
    );
    oracle!(
        rows_around,
        node(&[0], &[1, 2, 3], &[
            sum(frame(Units::Rows, Bound::Preceding(2), Bound::Following(1))),
            sum(frame(Units::Rows, Bound::Unbounded, Bound::Current)),
            sum(frame(Units::Rows, Bound::Following(1), Bound::Unbounded)),
        ]),
        [INPUT],
        &select(&[
            "sum(v) over w rows between 2 preceding and 1 following)",
            "sum(v) over w rows unbounded preceding)",
            "sum(v) over w rows between 1 following and unbounded following)",
        ])
        .replace("over w", OVER)
        .replace("sum(v)", "sum(arrow_cast(v, 'Decimal128(38, 0)'))")
    );
    oracle!(
        peers,
        node(&[0], &[1], &[
            sum(Frame::default()),
            call(
                WindowKind::Aggregate(AggregateKind::Min),
                &[2],
                frame(Units::Groups, Bound::Preceding(1), Bound::Following(1)),
                DataType::Utf8View,
            ),
            call(WindowKind::Aggregate(AggregateKind::Count), &[], frame(Units::Range, Bound::Current, Bound::Unbounded), DataType::Int64),
        ]),
        [INPUT],
        &select(&[
            "sum(arrow_cast(v, 'Decimal128(38, 0)')) over (partition by p order by o nulls last)",
            "min(s) over (partition by p order by o nulls last groups between 1 preceding and 1 following)",
            "count(*) over (partition by p order by o nulls last range between current row and unbounded following)",
        ])
    );
    oracle!(
        values_of_the_frame,
        node(&[], &[1, 2, 3, 0], &[
            call(WindowKind::FirstValue { ignore_nulls: false }, &[3], frame(Units::Rows, Bound::Preceding(1), Bound::Following(1)), DataType::Int64),
            call(WindowKind::LastValue { ignore_nulls: false }, &[3], frame(Units::Rows, Bound::Preceding(1), Bound::Following(1)), DataType::Int64),
        ]),
        [INPUT],
        &select(&["first_value(v) over w", "last_value(v) over w"])
            .replace("over w", "over (order by o nulls last, s nulls last, v nulls last, p nulls last rows between 1 preceding and 1 following)")
    );

    fn with_session(order: &[usize], calls: &[WindowCall]) -> Window {
        node(&[0], order, calls)
    }

    const SESSION: Frame =
        Frame { units: Units::Session, start: Bound::Value(3), end: Bound::Value(3), exclude: Exclude::NoOthers };

    #[test]
    fn sessions_merge_and_split() {
        let counted = call(WindowKind::Aggregate(AggregateKind::Count), &[], SESSION, DataType::Int64);
        // `v` is the last value of `o` that continues the session.
        let script = "1 +(1,10,a,15) +(1,20,b,25) 2 +(1,15,c,20) 3 -(1,15,c,20) 4 +(1,25,d,30)";
        expect![[r#"
            1 +(1,10,a,15,1) +(1,20,b,25,1)
            2 -(1,10,a,15,1) +(1,10,a,15,3) +(1,15,c,20,3) -(1,20,b,25,1) +(1,20,b,25,3)
            3 +(1,10,a,15,1) -(1,10,a,15,3) -(1,15,c,20,3) +(1,20,b,25,1) -(1,20,b,25,3)
            4 -(1,20,b,25,1) +(1,20,b,25,2) +(1,25,d,30,2)"#]]
        .assert_eq(&run(with_session(&[1], &[counted]), &[INPUT], script));
    }

    // A row is the first of its session if the one before it ended before: NULLs are the greatest.
    oracle!(
        sessions,
        with_session(&[1], &[
            call(WindowKind::Aggregate(AggregateKind::Count), &[], SESSION, DataType::Int64),
            call(WindowKind::FirstValue { ignore_nulls: false }, &[1], SESSION, DataType::Int64),
            call(WindowKind::LastValue { ignore_nulls: false }, &[3], SESSION, DataType::Int64),
        ]),
        [INPUT],
        "with b as (select *, row_number() over (partition by p order by o nulls last, s nulls last, v nulls last) n,
           case when lag(1) over (partition by p order by o nulls last, s nulls last, v nulls last) is null then 0
           when coalesce(o, 9000000000000000000) > coalesce(lag(v) over
             (partition by p order by o nulls last, s nulls last, v nulls last), 9000000000000000000) then 1 else 0 end f from t0),
         i as (select *, sum(f) over (partition by p order by n) k from b)
         select p, o, s, v, count(*) over (partition by p, k),
           first_value(o) over (partition by p, k order by n),
           last_value(v) over (partition by p, k order by n rows between unbounded preceding and unbounded following) from i"
    );
    oracle!(
        neighbours_with_values,
        node(&[0], &[1, 2, 3], &[
            call(WindowKind::Lag { reach: Some(1), ignore_nulls: true }, &[3], Frame::default(), DataType::Int64),
            call(WindowKind::Lead { reach: Some(1), ignore_nulls: true }, &[2], Frame::default(), DataType::Utf8View),
            call(WindowKind::FirstValue { ignore_nulls: true }, &[3], frame(Units::Rows, Bound::Current, Bound::Unbounded), DataType::Int64),
        ]),
        [INPUT],
        &select(&[
            "lag(v) ignore nulls over w)",
            "lead(s) ignore nulls over w)",
            "first_value(v) ignore nulls over w rows between current row and unbounded following)",
        ])
        .replace("over w", OVER)
    );

    fn count(units: Units, bounds: [Bound; 2], exclude: Exclude) -> WindowCall {
        let frame = Frame { units, start: bounds[0], end: bounds[1], exclude };
        call(WindowKind::Aggregate(AggregateKind::Count), &[3], frame, DataType::Int64)
    }

    // What a frame is without: what it has, less what it is without.
    oracle!(
        frames_without_rows,
        node(&[0], &[1], &[
            count(Units::Range, [Bound::Unbounded, Bound::Unbounded], Exclude::CurrentRow),
            count(Units::Range, [Bound::Unbounded, Bound::Unbounded], Exclude::Group),
            count(Units::Range, [Bound::Unbounded, Bound::Current], Exclude::Ties),
            count(Units::Groups, [Bound::Preceding(1), Bound::Following(1)], Exclude::Group),
        ]),
        [INPUT],
        "select p, o, s, v, count(v) over (partition by p) - own, count(v) over (partition by p) - peers,
           count(v) over (partition by p order by o nulls last) - peers + own,
           count(v) over (partition by p order by o nulls last groups between 1 preceding and 1 following) - peers
         from (select *, case when v is null then 0 else 1 end own, count(v) over (partition by p, o) peers from t0)"
    );
}
