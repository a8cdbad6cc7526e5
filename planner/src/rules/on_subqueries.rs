//! Subqueries in the condition of an inner join become conditions of a filter above it, where they are unnested.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, JoinType, Result as DfResult};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};

use super::dependent::is_correlated;
use crate::error::{Error, Result};
use crate::expr::subquery_of;

/// Rewrites every inner join whose condition holds a subquery.
///
/// # Errors
/// 0A000 for a scalar subquery in the condition of an outer join that depends on its rows: a filter above would drop the padded ones.
pub fn to_filters(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_subquery = |e: &Expr| subquery_of(e).is_some();
    super::rewrite_nodes(plan, |node| {
        let LogicalPlan::Join(mut join) = node else { return Ok(Transformed::no(node)) };
        let Some(filter) = join.filter.take() else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
        if !holds(&filter, &is_subquery)? {
            join.filter = Some(filter);
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        if join.join_type != JoinType::Inner {
            let depends = |e: &Expr| matches!(e, Expr::ScalarSubquery(s) if is_correlated(&s.subquery));
            if holds(&filter, &depends)? {
                return Err(refused());
            }
            join.filter = Some(filter);
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let (mut above, mut kept) = (vec![], vec![]);
        for term in split_conjunction_owned(filter) {
            if holds(&term, &is_subquery)? { above.push(term) } else { kept.push(term) }
        }
        join.filter = conjunction(kept);
        let above = conjunction(above).expect("a term with a subquery");
        Ok(Transformed::yes(LogicalPlanBuilder::from(LogicalPlan::Join(join)).filter(above)?.build()?))
    })
}

fn holds(e: &Expr, is: &dyn Fn(&Expr) -> bool) -> DfResult<bool> {
    e.exists(|e| Ok(is(e)))
}

fn refused() -> DataFusionError {
    Error::unsupported("a correlated subquery in the condition of an outer join is not supported yet")
        .with_hint("Compute its value in a subquery in FROM, and join that.")
        .into()
}
