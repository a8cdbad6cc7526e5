//! `x NOT IN (subquery)` as a condition, where the subquery depends on the row, and `(a, b) [NOT] IN (subquery)`:
//!
//! ```text
//! x NOT IN (s)  =>  NOT EXISTS (s WHERE (s.c = x) IS NOT FALSE)
//! ```
//!
//! It holds if no row of the subquery is equal or could be, NULLs being unknown. The same is true of a subquery that
//! depends on nothing, which stays as it is unless `x` is a constant: a null-aware anti join finds its rows by their hash.
//!
//! The test of a row comes as a CASE whose value is NULL where nothing is known. As a condition that is as good as
//! false:
//!
//! ```text
//! CASE WHEN EXISTS (e) THEN true WHEN EXISTS (n) THEN NULL ELSE false END   =>  EXISTS (e)
//! CASE WHEN EXISTS (e) THEN false WHEN EXISTS (n) THEN NULL ELSE true END   =>  NOT EXISTS (e) AND NOT EXISTS (n)
//! ```

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{Case, Exists, InSubquery};
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
                    Expr::Case(test) => negated(test).as_ref().and_then(of_row),
                    _ => None,
                },
                Expr::Case(test) => of_row(test),
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

/// `None` for a value that is looked up in a subquery that depends on nothing, and for a test of a value from further out.
fn not_exists(test: &InSubquery, input: &LogicalPlan) -> DfResult<Option<Expr>> {
    let subquery = &test.subquery.subquery;
    let local = test.expr.column_refs().iter().all(|c| input.schema().has_column(c));
    let passed_on = test.expr.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(..))))?;
    // Without a column there is nothing to hash, and the test of a constant is pushed into the subquery: away from its NULLs.
    let hashed = !is_correlated(subquery) && test.expr.any_column_refs();
    if hashed || !local || passed_on {
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

/// The condition that the test of a row is.
fn of_row(case: &Case) -> Option<Expr> {
    let [(equal, found), (unknown, null)] = case.when_then_expr.as_slice() else { return None };
    let (Expr::Exists(equal), Expr::Exists(unknown)) = (equal.as_ref(), unknown.as_ref()) else { return None };
    let (found, null, otherwise) = (truth(found)?, truth(null)?, truth(case.else_expr.as_deref()?)?);
    let not = |exists: &Exists| Expr::Exists(Exists { negated: !exists.negated, ..exists.clone() });
    match (case.expr.is_none(), found, null, otherwise) {
        (true, Some(true), None, Some(false)) => Some(Expr::Exists(equal.clone())),
        (true, Some(false), None, Some(true)) => Some(not(equal).and(not(unknown))),
        _ => None,
    }
}

/// The same test with the other answer.
fn negated(case: &Case) -> Option<Case> {
    let not = |e: &Expr| Some(Box::new(Expr::Literal(ScalarValue::Boolean(truth(e)?.map(|value| !value)), None)));
    let when_then_expr = case.when_then_expr.iter().map(|(when, then)| Some((when.clone(), not(then)?)));
    let else_expr = Some(not(case.else_expr.as_deref()?)?);
    Some(Case { expr: case.expr.clone(), when_then_expr: when_then_expr.collect::<Option<_>>()?, else_expr })
}

/// A boolean constant: true, false or NULL.
fn truth(e: &Expr) -> Option<Option<bool>> {
    match e {
        Expr::Literal(ScalarValue::Boolean(value), _) => Some(*value),
        _ => None,
    }
}
