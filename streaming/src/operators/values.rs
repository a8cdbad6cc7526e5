//! Constant rows, once, in the job's first epoch (on worker 0).
//!
//! Rule    The rows come out at the first seal of the job's life, never again.
//! State   `emitted`: one entry, once they are out.
//! Epochs  Emits at the first seal.
//! Limits  Pieces of OUTPUT_ROWS_MAX rows.

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use datafusion::common::ScalarValue;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable};

use crate::error::{Error, Result};
use crate::expr::Literal;
use crate::operator::{Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, Seal, Task, TaskContext};

/// Constant rows, once, in the job's first epoch (on worker 0).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Values {
    /// Rows of literals.
    pub rows: Vec<Vec<Literal>>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Values {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let table = ctx.table("emitted")?;
        let pending = if ctx.worker == 0 && table.is_new() { Some(batch(&self.rows, &self.schema)?) } else { None };
        Ok(Box::new(ValuesTask { pending, unsaved: false, table }))
    }
    fn describe(&self) -> String {
        format!("{} row{}", self.rows.len(), if self.rows.len() == 1 { "" } else { "s" })
    }
}

struct ValuesTask {
    pending: Option<Batch>,
    /// Whether the rows came out after the last checkpoint.
    unsaved: bool,
    table: StateTable,
}

impl Task for ValuesTask {
    fn apply(&mut self, _input: usize, _delta: &Batch, _out: &mut Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        if let Some(batch) = self.pending.take() {
            for first in (0..batch.num_rows()).step_by(OUTPUT_ROWS_MAX) {
                out.emit(batch.slice(first, OUTPUT_ROWS_MAX.min(batch.num_rows() - first)));
            }
            self.unsaved = true;
        }
        if at.checkpoint && std::mem::take(&mut self.unsaved) {
            self.table.put(0, b"", b"");
        }
        Ok(Progress::Done)
    }
}

fn batch(rows: &[Vec<Literal>], schema: &SchemaRef) -> Result<Batch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for i in 0..schema.fields().len() {
        let values = rows.iter().map(|row| row[i].to_scalar()).collect::<Result<Vec<_>>>()?;
        if !values.is_empty() {
            columns.push(ScalarValue::iter_to_array(values).map_err(|e| Error::Failed(e.to_string()))?);
        }
    }
    if rows.is_empty() {
        return Ok(Batch::empty(schema.clone()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(Batch::inserts(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;
    use crate::testing::schema;

    fn node() -> Values {
        let literal = |value: ScalarValue| Literal::from_scalar(&value).unwrap();
        let rows = vec![
            vec![literal(ScalarValue::Int64(Some(1))), literal(ScalarValue::Utf8View(Some("a".into())))],
            vec![literal(ScalarValue::Int64(None)), literal(ScalarValue::Utf8View(None))],
        ];
        Values { rows, schema: schema("a bigint, b text") }
    }

    #[test]
    fn rows_come_out_once() {
        assert_eq!(crate::testing::run(node(), &[], "1 2"), "1 +(1,a) +(NULL,NULL)\n2");
    }

    // The harness wants an input to change; the values do not look at it.
    oracle!(values, Ignoring, ["x bigint"], "select * from (values (1, 'a'), (null, null))");

    #[derive(Clone, Debug)]
    struct Ignoring;

    impl Operator for Ignoring {
        fn schema(&self) -> SchemaRef {
            node().schema()
        }
        fn inputs(&self) -> Vec<Exchange> {
            vec![Exchange::Same]
        }
        fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
            node().start(ctx)
        }
        fn describe(&self) -> String {
            node().describe()
        }
    }
}
