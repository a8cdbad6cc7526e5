//! Subqueries in the condition of a join become what is unnested elsewhere: conditions of a filter above an inner join, and
//! columns of a side of an outer join.
//!
//! ```text
//! l LEFT JOIN r ON p(l, r, s)   =>   Project l, r
//!                                      l LEFT JOIN (Project r, d, s AS v   over   r CROSS JOIN d) ON p(l, r, v) AND l.x IS NOT DISTINCT FROM d
//! ```
//!
//! `d` holds what `s` looks at in `l`, each combination once: so each row of `r` stands once beside each row of `l`. Where `s` looks
//! at one side only, its value is a column of that side.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, JoinType, Result as DfResult};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr};

use super::dependent::conditions;
use crate::error::{Error, Result};
use crate::expr::{column, subquery_of};

/// Rewrites every join whose condition holds a subquery.
///
/// # Errors
/// 0A000 for a subquery in the condition of a full join that looks at both of its sides.
pub fn to_filters(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut n = 0;
    super::rewrite_nodes(plan, |node| {
        let LogicalPlan::Join(mut join) = node else { return Ok(Transformed::no(node)) };
        let Some(filter) = join.filter.take() else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
        if !holds_subquery(&filter)? {
            join.filter = Some(filter);
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        if join.join_type != JoinType::Inner {
            return outer(join, filter, &mut n).map(Transformed::yes);
        }
        let (mut above, mut kept) = (vec![], vec![]);
        for term in split_conjunction_owned(filter) {
            if holds_subquery(&term)? { above.push(term) } else { kept.push(term) }
        }
        join.filter = conjunction(kept);
        let above = conjunction(above).expect("a term with a subquery");
        Ok(Transformed::yes(LogicalPlanBuilder::from(LogicalPlan::Join(join)).filter(above)?.build()?))
    })
}

fn holds_subquery(e: &Expr) -> DfResult<bool> {
    e.exists(|e| Ok(subquery_of(e).is_some()))
}

/// An outer join, its condition without subqueries.
fn outer(join: Join, filter: Expr, n: &mut usize) -> DfResult<LogicalPlan> {
    let outputs: Vec<Expr> = join.schema.columns().into_iter().map(Expr::Column).collect();
    let mut sides = [join.left.as_ref().clone(), join.right.as_ref().clone()];
    let mut met = Vec::new();
    let filter = filter.transform_down(|e| {
        if subquery_of(&e).is_none() {
            return Ok(Transformed::no(e));
        }
        let looked_at = columns_of(&e)?;
        let of_left: Vec<&Column> = looked_at.iter().filter(|c| join.left.schema().has_column(c)).collect();
        let of_right = looked_at.iter().any(|c| join.right.schema().has_column(c));
        *n += 1;
        let value = format!("on_{n}");
        match (of_left.as_slice(), of_right) {
            (_, false) => sides[0] = with_value(&sides[0], e, &value)?,
            ([], true) => sides[1] = with_value(&sides[1], e, &value)?,
            _ => {
                let (beside, own) = match join.join_type {
                    JoinType::Left => (&join.left, 1),
                    JoinType::Right => (&join.right, 0),
                    _ => return Err(refused("a subquery over both sides of a full join in its condition")),
                };
                let (plan, on) = beside_other(&sides[own], beside, &looked_at, e, &value)?;
                sides[own] = plan;
                met.extend(on);
            }
        }
        Ok(Transformed::new(column(value), true, TreeNodeRecursion::Jump))
    })?;
    let mut all = conditions(&join);
    all.extend(split_conjunction_owned(filter.data));
    all.extend(met);
    let [left, right] = sides;
    LogicalPlanBuilder::from(left).join_on(right, join.join_type, all)?.project(outputs)?.build()
}

/// The columns of the join that a subquery looks at, and those further out.
fn columns_of(e: &Expr) -> DfResult<BTreeSet<Column>> {
    let mut found = BTreeSet::new();
    e.apply(|e| {
        let inside = subquery_of(e).map(|s| s.subquery.all_out_ref_exprs()).unwrap_or_default();
        found.extend(inside.into_iter().filter_map(|e| match e {
            Expr::OuterReferenceColumn(_, c) => Some(c),
            _ => None,
        }));
        if let Expr::Column(c) = e {
            found.insert(c.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn all_of(plan: &LogicalPlan) -> impl Iterator<Item = Expr> + use<> {
    plan.schema().columns().into_iter().map(Expr::Column)
}

/// A side of the join with a value beside its columns.
fn with_value(side: &LogicalPlan, e: Expr, value: &str) -> DfResult<LogicalPlan> {
    if matches!(side, LogicalPlan::Subquery(_)) {
        return Err(refused("a subquery that looks at a LATERAL item in the condition of its join"));
    }
    LogicalPlanBuilder::from(side.clone()).project(all_of(side).chain([e.alias(value)]))?.build()
}

/// The same for each of what the value looks at on the other side, and what tells which.
fn beside_other(
    side: &LogicalPlan,
    other: &LogicalPlan,
    looked_at: &BTreeSet<Column>,
    e: Expr,
    value: &str,
) -> DfResult<(LogicalPlan, Vec<Expr>)> {
    if matches!(side, LogicalPlan::Subquery(_)) {
        return Err(refused("a subquery that looks at a LATERAL item in the condition of its join"));
    }
    let theirs: Vec<&Column> = looked_at.iter().filter(|c| other.schema().has_column(c)).collect();
    let domain = LogicalPlanBuilder::from(other.clone())
        .project(theirs.iter().map(|c| Expr::Column((*c).clone())))?
        .distinct()?
        .build()?;
    let name = |at: usize| format!("{value}_{at}");
    let named = theirs.iter().enumerate().map(|(at, c)| Expr::Column((*c).clone()).alias(name(at)));
    let exprs: Vec<Expr> = all_of(side).chain(named).chain([e.alias(value)]).collect();
    let plan = LogicalPlanBuilder::from(side.clone()).cross_join(domain)?.project(exprs)?.build()?;
    let met = theirs
        .iter()
        .enumerate()
        .map(|(at, c)| binary_expr(Expr::Column((*c).clone()), Operator::IsNotDistinctFrom, column(name(at))));
    Ok((plan, met.collect()))
}

fn refused(what: &str) -> DataFusionError {
    Error::unsupported(format!("{what} is not supported yet"))
        .with_hint("Compute its value in a subquery in FROM, and join that.")
        .into()
}
