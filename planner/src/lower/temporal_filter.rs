//! WHERE over now().

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr as DfExpr, ExprSchemable};
use streaming::expr::Expr;
use streaming::operators::TemporalFilter;
use streaming::operators::temporal_filter::now_schema;

use super::{Lowering, Node, expr, field};
use crate::error::Result;
use crate::expr::column;
use crate::functions::epoch_time::is_epoch_time;
use crate::nodes;

impl Lowering {
    pub(super) fn temporal_filter(&mut self, filter: &nodes::TemporalFilter) -> Result<Node> {
        let n = filter.input.schema().fields().len();
        let input = self.lower(&filter.input)?;
        let input = self.exactly(input, n);
        let value = expr::lower(&filter.value, filter.input.schema())?;
        let (input, place) = match value {
            Expr::Column(place) => (input, place),
            value => {
                let mut exprs: Vec<Expr> = (0..input.width()).map(Expr::Column).collect();
                let mut fields: Vec<Field> = input.schema.fields().iter().map(|f| f.as_ref().clone()).collect();
                fields.push(field(&expr::label(&filter.value), filter.value.get_type(filter.input.schema())?));
                exprs.push(value);
                (self.project(&input, exprs, Arc::new(Schema::new(fields))), n)
            }
        };
        let now = |e: DfExpr| Ok(if is_epoch_time(&e) { Transformed::yes(column("now")) } else { Transformed::no(e) });
        let bound = filter.bound.clone().transform_up(now)?.data;
        let bound = expr::lower(&bound, &DFSchema::try_from(now_schema().as_ref().clone())?)?;
        let operator = TemporalFilter {
            column: place,
            comparison: filter.comparison,
            bound,
            rises: filter.rises,
            schema: input.schema.clone(),
        };
        let append_only = input.append_only && filter.rises && filter.comparison.enters();
        let kept = self.add(operator, &[input.index], append_only);
        Ok(self.exactly(kept, n))
    }
}
