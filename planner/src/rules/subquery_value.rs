//! EXISTS and IN whose value is used otherwise than as a condition of WHERE become counts:
//!
//! ```text
//! EXISTS (s)   =>  (SELECT count(*) FROM s) > 0
//! x IN (s)     =>  CASE WHEN (SELECT count(*) FROM s WHERE s.c = x) > 0 THEN true
//!                       WHEN (SELECT count(*) FROM s) = 0 THEN false
//!                       WHEN x IS NULL THEN NULL
//!                       WHEN (SELECT count(*) FROM s WHERE s.c IS NULL) > 0 THEN NULL
//!                       ELSE false END
//! ```
//!
//! A condition on its own, possibly negated, is left: it becomes a semi or an anti join.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Subquery, lit, not, when};

use crate::error::Result;

/// Rewrites the plan, and its subqueries.
pub fn to_counts(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut names = Names(0);
    super::rewrite_nodes(plan, |node| match node {
        LogicalPlan::Filter(mut filter) => {
            let mut changed = false;
            let terms = split_conjunction_owned(filter.predicate.clone()).into_iter().map(|term| {
                if is_condition(&term) {
                    return Ok(term);
                }
                let term = names.value(term, &filter.input)?;
                changed |= term.transformed;
                Ok(term.data)
            });
            let terms = terms.collect::<datafusion::common::Result<Vec<_>>>()?;
            if changed && let Some(predicate) = conjunction(terms) {
                filter.predicate = predicate;
            }
            Ok(Transformed::new_transformed(LogicalPlan::Filter(filter), changed))
        }
        LogicalPlan::Projection(projection) => {
            let schema = projection.schema.clone();
            let mut changed = false;
            let mut exprs = Vec::with_capacity(projection.expr.len());
            for (i, e) in projection.expr.iter().enumerate() {
                let value = names.value(e.clone(), &projection.input)?;
                changed |= value.transformed;
                let (qualifier, field) = schema.qualified_field(i);
                exprs.push(if value.transformed && !matches!(value.data, Expr::Alias(_)) {
                    value.data.alias_qualified(qualifier.cloned(), field.name())
                } else {
                    value.data
                });
            }
            if !changed {
                return Ok(Transformed::no(LogicalPlan::Projection(projection)));
            }
            let plan = LogicalPlanBuilder::from(projection.input.as_ref().clone()).project(exprs)?.build()?;
            Ok(Transformed::yes(plan))
        }
        node => Ok(Transformed::no(node)),
    })
}

/// EXISTS or IN alone, possibly under NOT.
fn is_condition(term: &Expr) -> bool {
    match term {
        Expr::Not(e) => is_condition(e),
        Expr::Exists(_) | Expr::InSubquery(_) => true,
        _ => false,
    }
}

struct Names(usize);

impl Names {
    fn value(&mut self, e: Expr, input: &LogicalPlan) -> datafusion::common::Result<Transformed<Expr>> {
        e.transform_up(|e| match e {
            Expr::Exists(exists) => {
                let some = self.count(&exists.subquery, None)?.gt(lit(0_i64));
                Ok(Transformed::yes(if exists.negated { not(some) } else { some }))
            }
            Expr::InSubquery(test) => {
                let plan = &test.subquery.subquery;
                let member = Expr::Column(plan.schema().columns().swap_remove(0));
                let x = *test.expr.clone();
                let outer = outer_reference(x.clone(), input)?;
                let value = when(
                    self.count(&test.subquery, Some((member.clone().eq(outer.0), outer.1)))?.gt(lit(0_i64)),
                    lit(true),
                )
                .when(self.count(&test.subquery, None)?.eq(lit(0_i64)), lit(false))
                .when(x.is_null(), lit(ScalarValue::Boolean(None)))
                .when(
                    self.count(&test.subquery, Some((member.is_null(), vec![])))?.gt(lit(0_i64)),
                    lit(ScalarValue::Boolean(None)),
                )
                .otherwise(lit(false))?;
                Ok(Transformed::yes(if test.negated { not(value) } else { value }))
            }
            e => Ok(Transformed::no(e)),
        })
    }

    /// `(SELECT count(*) FROM subquery WHERE condition)`
    fn count(&mut self, subquery: &Subquery, condition: Option<(Expr, Vec<Expr>)>) -> datafusion::common::Result<Expr> {
        self.0 += 1;
        let mut outer = subquery.outer_ref_columns.clone();
        let mut plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone());
        if let Some((condition, columns)) = condition {
            plan = plan.filter(condition)?;
            outer.extend(columns.into_iter().filter(|c| !subquery.outer_ref_columns.contains(c)));
        }
        let count = count_udaf().call(vec![lit(1_i64)]).alias(format!("rows_{}", self.0));
        let plan = plan.aggregate(Vec::<Expr>::new(), vec![count])?.build()?;
        Ok(Expr::ScalarSubquery(Subquery {
            subquery: Arc::new(plan),
            outer_ref_columns: outer,
            spans: subquery.spans.clone(),
        }))
    }
}

/// `e` over the outer query's columns as an expression of the subquery, and the columns it refers to.
fn outer_reference(e: Expr, input: &LogicalPlan) -> datafusion::common::Result<(Expr, Vec<Expr>)> {
    let mut columns = Vec::new();
    let e = e.transform_up(|e| match e {
        Expr::Column(c) => {
            let (_, field) = Expr::Column(c.clone()).to_field(input.schema())?;
            let outer = Expr::OuterReferenceColumn(field, c);
            columns.push(outer.clone());
            Ok(Transformed::yes(outer))
        }
        e => Ok(Transformed::no(e)),
    })?;
    Ok((e.data, columns))
}
