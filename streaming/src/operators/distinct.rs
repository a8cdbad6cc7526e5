//! Each different row once, as long as at least one is there.
//!
//! Rule    A row comes out when its count rises above zero and is retracted when it falls back to zero.
//! State   `rows`: row -> count; one entry per different row.
//! Epochs  Emits while the epoch is open, the difference that each batch makes.
//! Limits  None: a batch makes at most one change per row of its own.

use arrow::array::{Int64Array, UInt32Array};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable};

use crate::byte_table::{LOOKUP_ROWS, hash_bytes};
use crate::counted_rows::CountedRows;
use crate::error::Result;
use crate::operator::{Exchange, Operator, Output, Progress, Seal, StateSize, Task, TaskContext, WatermarkContext};
use crate::operators::with_schema;
use crate::watermark::Watermarks;

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
        Ok(Box::new(DistinctTask { rows, table, schema: self.schema.clone() }))
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
}

struct DistinctTask {
    rows: CountedRows,
    table: StateTable,
    schema: SchemaRef,
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
        for (number, was, row) in touched {
            let change = i64::from(self.rows.count(number) > 0) - i64::from(was);
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

    oracle!(distinct, node(), ["a bigint, b text"], "select distinct a, b from t0");
}
