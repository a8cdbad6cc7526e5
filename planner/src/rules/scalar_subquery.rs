//! An uncorrelated scalar subquery of a stream becomes a column of a cross join with its single row:
//!
//! ```text
//! Filter x > (s)        Projection x
//!   input         =>      Filter x > scalar_1
//!                           CrossJoin
//!                             input
//!                             SingleRow
//!                               s AS scalar_1
//! ```

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery};

use super::dependent::is_correlated;
use crate::error::Result;
use crate::expr::column;
use crate::nodes::SingleRow;

/// Rewrites the plan, subqueries inside subqueries first.
pub fn uncorrelated_to_single_row(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut n = 0;
    super::rewrite_nodes(plan, |node| {
        let rewritable = matches!(
            node,
            LogicalPlan::Filter(_) | LogicalPlan::Projection(_) | LogicalPlan::Sort(_) | LogicalPlan::Aggregate(_)
        );
        if !rewritable {
            return Ok(Transformed::no(node));
        }
        let mut found: Vec<(Subquery, String)> = Vec::new();
        let names: Vec<_> = node.schema().iter().map(|(q, f)| (q.cloned(), f.name().clone())).collect();
        let passes_through = !matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_));
        let input = node.inputs()[0].clone();
        let mut position = 0;
        let exprs = node.expressions().into_iter().map(|e| {
            let e = e.transform_up(|e| {
                let Expr::ScalarSubquery(subquery) = e else { return Ok(Transformed::no(e)) };
                if is_correlated(&subquery.subquery) {
                    return Ok(Transformed::no(Expr::ScalarSubquery(subquery)));
                }
                let known = found.iter().find(|(s, _)| *s == subquery).map(|(_, name)| name.clone());
                let name = known.unwrap_or_else(|| {
                    n += 1;
                    let name = format!("scalar_{n}");
                    found.push((subquery, name.clone()));
                    name
                });
                Ok(Transformed::yes(column(name)))
            })?;
            let keep = e.transformed && !passes_through && !matches!(e.data, Expr::Alias(_));
            let (qualifier, name) = names.get(position).cloned().unwrap_or_default();
            position += 1;
            Ok(if keep { e.data.alias_qualified(qualifier, name) } else { e.data })
        });
        let exprs = exprs.collect::<DfResult<Vec<_>>>()?;
        if found.is_empty() {
            return Ok(Transformed::no(node));
        }
        let mut joined = LogicalPlanBuilder::from(input);
        for (subquery, name) in found {
            let value = Expr::Column(subquery.subquery.schema().columns().swap_remove(0)).alias(name);
            let only =
                LogicalPlanBuilder::from(Arc::unwrap_or_clone(subquery.subquery)).project(vec![value])?.build()?;
            joined = joined.cross_join(SingleRow::plan(only))?;
        }
        let outputs: Vec<Expr> = node.schema().columns().into_iter().map(Expr::Column).collect();
        let mut plan = node.with_new_exprs(exprs, vec![joined.build()?])?;
        if passes_through {
            plan = LogicalPlanBuilder::from(plan).project(outputs)?.build()?;
        }
        Ok(Transformed::yes(plan))
    })
}
