//! Computes columns row by row.
//!
//! Rule    A change comes out with its diff and the values of the expressions over its row.
//! State   None.
//! Epochs  Emits while the epoch is open.
//! Limits  A row of which a value fails is left out and reported once, with its diff: a retraction takes the error back.

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::error::Result;
use crate::expr::{self, Evaluator, Expr};
use crate::operator::{Exchange, Operator, Output, Progress, Task, TaskContext, WatermarkContext};
use crate::watermark::{self, Watermarks};

/// Computes columns row by row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Project {
    /// One expression per output column, over the input's columns.
    pub exprs: Vec<Expr>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Project {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let compile = |e| expr::compile(e, &ctx.inputs[0], ctx.functions);
        let evaluators = self.exprs.iter().map(compile).collect::<Result<_>>()?;
        Ok(Box::new(ProjectTask { evaluators, schema: self.schema.clone() }))
    }
    fn describe(&self) -> String {
        self.exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    fn watermarks(&self, inputs: &[Watermarks], ctx: &WatermarkContext) -> Watermarks {
        let of = |e: &Expr| watermark::of_expr(e, &ctx.inputs[0], &inputs[0], ctx.functions);
        self.exprs.iter().map(of).collect()
    }
}

struct ProjectTask {
    evaluators: Vec<Evaluator>,
    schema: SchemaRef,
}

impl Task for ProjectTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let columns: Result<Vec<ArrayRef>, _> = self.evaluators.iter().map(|e| e.evaluate(delta)).collect();
        match columns {
            Ok(columns) => out.emit(self.batch(delta, columns)?),
            Err(_) => self.apply_rows(delta, out)?,
        }
        Ok(Progress::Done)
    }
}

impl ProjectTask {
    /// Some value of some row fails.
    fn apply_rows(&self, delta: &Batch, out: &mut Output) -> Result<()> {
        let (mut columns, mut failures) = (Vec::new(), Vec::new());
        for evaluator in &self.evaluators {
            let values = evaluator.evaluate_rows(delta);
            columns.push(values.array);
            failures.extend(values.failures);
        }
        expr::row_errors(delta, &failures).into_iter().for_each(|error| out.error(error));
        let keep = expr::without(delta.num_rows(), &failures);
        out.emit(self.batch(delta, columns)?.filter(&keep)?);
        Ok(())
    }

    fn batch(&self, delta: &Batch, columns: Vec<ArrayRef>) -> Result<Batch> {
        let options = RecordBatchOptions::new().with_row_count(Some(delta.num_rows()));
        let data = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(delta.with_data(data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::BinaryOp;
    use crate::oracle;
    use crate::testing::{div, run, schema};

    fn node() -> Project {
        let column = |i| Box::new(Expr::Column(i));
        let less = Expr::Binary { op: BinaryOp::Lt, left: column(0), right: column(2) };
        Project { exprs: vec![Expr::Column(1), less], schema: schema("b text, less boolean") }
    }

    oracle!(project, node(), ["a bigint, b text, c bigint"], "select b, a < c from t0");

    #[test]
    fn no_column_is_still_a_row() {
        let node = Project { exprs: vec![], schema: schema("") };
        assert_eq!(run(node, &["a bigint"], "1 +2(1) 2 -(1)"), "1 +2()\n2 -()");
    }

    #[test]
    fn an_error_is_reported_once_and_taken_back_with_its_row() {
        let node = Project {
            exprs: vec![div(0, 1), Expr::Column(0), div(0, 1)],
            schema: schema("q bigint, a bigint, r bigint"),
        };
        let said = run(node, &["a bigint, b bigint"], "1 +(6,2) +2(1,0) 2 -2(1,0)");
        assert_eq!(said, "1 +(3,6,3) +2!22012 division by zero\n2 -2!22012 division by zero");
    }
}
