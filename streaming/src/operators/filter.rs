//! Keeps the rows for which a condition is true.
//!
//! Rule    A change passes with its diff if the condition is true of its row; false and NULL drop it.
//! State   None.
//! Epochs  Emits while the epoch is open.
//! Limits  A row whose condition fails is left out and reported, with its diff: a retraction takes the error back.

use arrow::array::{Array, AsArray, BooleanArray};
use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::error::Result;
use crate::expr::{self, Evaluator, Expr};
use crate::operator::{Exchange, Operator, Output, Progress, Task, TaskContext, WatermarkContext};
use crate::operators::with_schema;
use crate::watermark::Watermarks;

/// Keeps the rows for which a condition is true.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Filter {
    /// A boolean expression over the input's columns.
    pub predicate: Expr,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Filter {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        let predicate = expr::compile(&self.predicate, &ctx.inputs[0], ctx.functions)?;
        Ok(Box::new(FilterTask { predicate, schema: self.schema.clone() }))
    }
    fn describe(&self) -> String {
        self.predicate.to_string()
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        inputs[0].clone()
    }
}

struct FilterTask {
    predicate: Evaluator,
    schema: SchemaRef,
}

impl Task for FilterTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        let keep = match self.predicate.evaluate(delta) {
            Ok(keep) => keep,
            Err(_) => {
                let values = self.predicate.evaluate_rows(delta);
                expr::row_errors(delta, &values.failures).into_iter().for_each(|error| out.error(error));
                values.array
            }
        };
        out.emit(with_schema(&delta.filter(&true_only(keep.as_boolean()))?, &self.schema)?);
        Ok(Progress::Done)
    }
}

/// NULL is not true.
fn true_only(condition: &BooleanArray) -> BooleanArray {
    match condition.nulls() {
        Some(nulls) => BooleanArray::new(condition.values() & nulls.inner(), None),
        None => condition.clone(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::*;
    use crate::expr::{BinaryOp, Literal};
    use crate::oracle;
    use crate::testing::{div, run, schema};

    fn node() -> Filter {
        let one = Expr::Literal(Literal::from_scalar(&ScalarValue::Int64(Some(1))).unwrap());
        let predicate = Expr::Binary { op: BinaryOp::Gt, left: Box::new(Expr::Column(0)), right: Box::new(one) };
        Filter { predicate, schema: schema("a bigint, b text") }
    }

    oracle!(filter, node(), ["a bigint, b text"], "select a, b from t0 where a > 1");

    #[test]
    fn an_error_is_taken_back_with_its_row() {
        let one = Expr::Literal(Literal::from_scalar(&ScalarValue::Int64(Some(1))).unwrap());
        let predicate = Expr::Binary { op: BinaryOp::Gt, left: Box::new(div(0, 1)), right: Box::new(one) };
        let node = Filter { predicate, schema: schema("a bigint, b bigint") };
        let said = run(node, &["a bigint, b bigint"], "1 +(6,2) +(1,0) +(1,1) 2 -(1,0) -(6,2)");
        assert_eq!(said, "1 +(6,2) +!22012 division by zero\n2 -(6,2) -!22012 division by zero");
    }
}
