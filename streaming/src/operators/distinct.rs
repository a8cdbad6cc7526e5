//! Each different row once, as long as at least one is there.
//!
//! Rule    A row comes out when its count rises above zero and is retracted when it falls back to zero.
//! State   `rows`: row -> count; one entry per different row. Below the watermark of a column nothing is kept.
//! Epochs  Emits while the epoch is open, the difference that each batch makes.
//! Limits  None: a batch makes at most one change per row of its own.

use arrow::array::{Array, Int64Array, UInt32Array};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable};

use crate::byte_table::{LOOKUP_ROWS, hash_bytes};
use crate::counted_rows::CountedRows;
use crate::error::Result;
use crate::expiry::{DROPPED_PER_STEP, Expiry};
use crate::operator::{Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext};
use crate::operators::with_schema;
use crate::watermark::{self, Watermarks};

/// Each different row once, as long as at least one is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Distinct {
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Distinct {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Hash((0..self.schema.fields().len()).collect())]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let table = ctx.table("rows")?;
        let rows = CountedRows::load(&table)?;
        Ok(Box::new(DistinctTask { rows, table, schema: self.schema.clone(), expiry: None }))
    }
    fn describe(&self) -> String {
        String::new()
    }
    fn state(&self) -> Option<String> {
        Some("one entry per different row".into())
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        inputs[0].clone()
    }
    fn expires_by(&self) -> Vec<(usize, usize)> {
        (0..self.schema.fields().len()).map(|column| (0, column)).collect()
    }
}

struct DistinctTask {
    rows: CountedRows,
    table: StateTable,
    schema: SchemaRef,
    /// The column by whose watermark rows are dropped, and the rows by it; `None` until it is known to have one.
    expiry: Option<(usize, Expiry)>,
}

impl DistinctTask {
    /// Drops what lies below a watermark: no change of it will come. The rows stay in the output.
    fn expire(&mut self, at: &Seal) -> Result<Progress> {
        let bounded = |c: &usize| at.watermark(0, *c).is_some_and(|mark| mark.bounds_state());
        if self.expiry.is_none()
            && let Some(column) = (0..self.schema.fields().len()).find(bounded)
        {
            let numbers: Vec<u32> = self.rows.numbers().collect();
            let types: Vec<_> = self.schema.fields().iter().map(|f| f.data_type().clone()).collect();
            let mut expiry = Expiry::default();
            for numbers in numbers.chunks(OUTPUT_ROWS_MAX) {
                let columns = storage::row::decode(&types, numbers.iter().map(|n| self.rows.row(*n)))?;
                let values = watermark::values(&columns[column]);
                numbers.iter().enumerate().filter(|(i, _)| values.is_valid(*i)).for_each(|(i, number)| {
                    expiry.add(values.value(i), *number);
                });
            }
            self.expiry = Some((column, expiry));
        }
        let Some((column, expiry)) = &mut self.expiry else { return Ok(Progress::Done) };
        let Some(bound) = at.bound(0, *column) else { return Ok(Progress::Done) };
        let types: Vec<_> = self.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let mut numbers = expiry.take_below(bound, DROPPED_PER_STEP);
        numbers.sort_unstable();
        numbers.dedup();
        // A number may have been given to another row since.
        numbers.retain(|number| self.rows.count(*number) != 0);
        if !numbers.is_empty() {
            let columns = storage::row::decode(&types, numbers.iter().map(|n| self.rows.row(*n)))?;
            let values = watermark::values(&columns[*column]);
            for (i, number) in numbers.into_iter().enumerate() {
                if values.is_valid(i) && values.value(i) < bound {
                    self.rows.forget(number, &mut self.table);
                }
            }
        }
        Ok(if expiry.has_below(bound) { Progress::More } else { Progress::Done })
    }
}

impl Task for DistinctTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let keys = storage::row::encode_rows(delta.data().columns(), delta.num_rows())?;
        let vnodes = storage::batch::vnodes(delta.data().columns(), delta.num_rows());
        let hashes: Vec<u64> = keys.iter().map(hash_bytes).collect();
        // Number of a row of the state, whether it was there, and a row of the batch that looks like it.
        let mut touched: Vec<(u32, bool, u32)> = Vec::with_capacity(delta.num_rows());
        let mut before = hashbrown::HashSet::new();
        for (block, hashes) in hashes.chunks(LOOKUP_ROWS).enumerate() {
            self.rows.touch(hashes);
            for (i, hash) in hashes.iter().enumerate() {
                let row = block * LOOKUP_ROWS + i;
                let diff = delta.diff(row);
                let number = self.rows.add(*hash, keys.get(row), vnodes[row], diff);
                if before.insert(number) {
                    touched.push((number, self.rows.count(number) - diff > 0, row as u32));
                }
            }
        }
        let (mut rows, mut diffs) = (Vec::new(), Vec::new());
        let values = self.expiry.as_ref().map(|(column, _)| watermark::values(delta.column(*column)));
        for (number, was, row) in touched {
            let change = i64::from(self.rows.count(number) > 0) - i64::from(was);
            if let (Some((_, expiry)), Some(values)) = (&mut self.expiry, &values)
                && !was
                && values.is_valid(row as usize)
            {
                expiry.add(values.value(row as usize), number);
            }
            if change != 0 {
                rows.push(row);
                diffs.push(change);
            }
            self.rows.collect(number);
        }
        let all_new = diffs.iter().all(|diff| *diff == 1);
        let data = with_schema(&delta.take(&UInt32Array::from(rows))?, &self.schema)?.data().clone();
        out.emit(Batch::new(data, (!all_new).then(|| Int64Array::from(diffs))));
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, _out: &mut Output) -> Result<Progress> {
        if self.expire(at)? == Progress::More {
            return Ok(Progress::More);
        }
        if at.checkpoint {
            self.rows.save(&mut self.table);
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        StateSize { rows: self.rows.len() as u64, bytes: self.rows.bytes() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::oracle;
    use crate::testing::{run, schema};

    fn node() -> Distinct {
        Distinct { schema: schema("a bigint, b text") }
    }

    #[test]
    fn a_row_stays_as_long_as_one_is_there() {
        let script = "1 +2(1,a) +(NULL,b) 2 -(1,a) 3 -(1,a) +(1,a) 4 -(1,a)";
        expect![[r#"
            1 +(1,a) +(NULL,b)
            2
            3
            4 -(1,a)"#]]
        .assert_eq(&run(node(), &["a bigint, b text"], script));
    }

    #[test]
    fn what_lies_below_the_watermark_is_dropped_and_stays_out() {
        use crate::testing::{TestTask, batch};
        use crate::watermark::Watermark;
        let mark = |at| vec![vec![Some(Watermark { at, floor: at, lateness: false, retracts: false }), None]];
        let schema = schema("a bigint, b text");
        let mut task = TestTask::new(node(), std::slice::from_ref(&schema), 2);
        let rows = |from: i64| (from..from + 10).map(|a| (vec![Some(a.to_string()), None], 1)).collect::<Vec<_>>();
        let mut said = 0;
        for step in 0..20 {
            task.apply(0, &batch(&schema, &rows(step * 10)));
            let (batches, _) = task.seal_with(step % 3 == 0, mark(step * 10 + 5));
            said += batches.iter().map(Batch::num_rows).sum::<usize>();
            assert_eq!(task.state_rows(), 5, "step {step}");
            if step == 12 {
                task.restart(3);
            }
        }
        assert_eq!(said, 200);
    }

    oracle!(distinct, node(), ["a bigint, b text"], "select distinct a, b from t0");
}
