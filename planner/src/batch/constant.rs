//! SELECT without FROM: expressions over no columns, computed at once.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow_schema::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use super::row_expr::{is_row_expr, param_index};
use crate::error::{Error, Result};
use crate::expr;

/// One row of expressions over parameters.
pub struct Constant {
    exprs: Vec<Expr>,
    schema: SchemaRef,
}

impl Constant {
    /// The query as one row, if it is one.
    pub fn prepare(plan: &LogicalPlan) -> Option<Constant> {
        let LogicalPlan::Projection(projection) = plan else { return None };
        let LogicalPlan::EmptyRelation(empty) = projection.input.as_ref() else { return None };
        let simple = |e: &Expr| is_row_expr(e) && !e.any_column_refs();
        if !empty.produce_one_row || projection.expr.is_empty() || !projection.expr.iter().all(simple) {
            return None;
        }
        Some(Constant { exprs: projection.expr.clone(), schema: Arc::new(projection.schema.as_arrow().clone()) })
    }

    /// The row.
    pub fn run(&self, params: &[ScalarValue]) -> Result<SendableRecordBatchStream> {
        let mut columns = Vec::with_capacity(self.exprs.len());
        for e in &self.exprs {
            let e = with_params(e.clone(), params)?;
            columns.push(expr::evaluate(&e)?.to_array_of_size(1)?);
        }
        let fields: Vec<_> = self.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let schema = Arc::new(arrow_schema::Schema::new(fields));
        let batch = RecordBatch::try_new(schema.clone(), columns)?;
        Ok(one_batch(schema, batch))
    }
}

fn with_params(e: Expr, params: &[ScalarValue]) -> Result<Expr> {
    let e = e.transform_up(|e| {
        let Expr::Placeholder(placeholder) = &e else { return Ok(Transformed::no(e)) };
        let value = param_index(&placeholder.id).and_then(|i| params.get(i));
        match value {
            Some(value) => Ok(Transformed::yes(Expr::Literal(value.clone(), None))),
            None => Err(Error::new("42P02", format!("there is no parameter {}", placeholder.id)).into()),
        }
    })?;
    Ok(e.data)
}

/// A stream of one batch.
pub(super) fn one_batch(schema: SchemaRef, batch: RecordBatch) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Ok(batch)])))
}
