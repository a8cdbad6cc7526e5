//! `x NOT IN (subquery)` as a condition, where the subquery depends on the row:
//!
//! ```text
//! x NOT IN (s)  =>  NOT EXISTS (s WHERE (s.c = x) IS NOT FALSE)
//! ```
//!
//! It holds if no row of the subquery is equal or could be, NULLs being unknown. The same is true of a subquery that
//! depends on nothing, which stays as it is: a null-aware anti join finds its rows by their hash.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable, Filter, LogicalPlan, LogicalPlanBuilder, Subquery};

use super::dependent::is_correlated;
use crate::error::Result;

/// Rewrites the conditions of the plan, those of its subqueries first.
pub fn to_not_exists(plan: LogicalPlan) -> Result<LogicalPlan> {
    super::rewrite_nodes(plan, |node| {
        let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
        let mut changed = false;
        let terms = split_conjunction_owned(filter.predicate.clone()).into_iter().map(|term| {
            let rewritten = match &term {
                Expr::InSubquery(test) if test.negated => not_exists(test, &filter.input)?,
                Expr::Not(e) => match e.as_ref() {
                    Expr::InSubquery(test) if !test.negated => not_exists(test, &filter.input)?,
                    _ => None,
                },
                _ => None,
            };
            changed |= rewritten.is_some();
            Ok(rewritten.unwrap_or(term))
        });
        let predicate = conjunction(terms.collect::<DfResult<Vec<_>>>()?);
        match predicate {
            Some(predicate) if changed => {
                Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)))
            }
            _ => Ok(Transformed::no(LogicalPlan::Filter(filter))),
        }
    })
}

/// `None` for a subquery that depends on nothing, and for a test of a value from further out.
fn not_exists(test: &InSubquery, input: &LogicalPlan) -> DfResult<Option<Expr>> {
    let subquery = &test.subquery.subquery;
    let local = test.expr.column_refs().iter().all(|c| input.schema().has_column(c));
    let passed_on = test.expr.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(..))))?;
    if !is_correlated(subquery) || !local || passed_on {
        return Ok(None);
    }
    let x = test.expr.as_ref().clone().transform_up(|e| match e {
        Expr::Column(column) => {
            let (_, field) = Expr::Column(column.clone()).to_field(input.schema())?;
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        e => Ok(Transformed::no(e)),
    })?;
    let member = Expr::Column(subquery.schema().columns().swap_remove(0));
    let possible = Expr::IsNotFalse(Box::new(member.eq(x.data)));
    let plan = LogicalPlanBuilder::from(subquery.as_ref().clone()).filter(possible)?.build()?;
    let outer_ref_columns = plan.all_out_ref_exprs();
    let subquery = Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: test.subquery.spans.clone() };
    Ok(Some(Expr::Exists(Exists { subquery, negated: true })))
}
