//! Brings correlated scalar subqueries into the form that the decorrelation takes: one aggregated row, and correlation
//! by equality of plain columns.
//!
//! ```text
//! (SELECT e FROM s WHERE f(k) = outer.x)
//!   => (SELECT CASE WHEN count(*) > 1 THEN error 21000 ELSE max(e) END
//!       FROM (SELECT *, f(k) AS key FROM s) WHERE key = outer.x)
//! ```

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    BinaryExpr, Expr, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF, Subquery, lit, when,
};

use crate::error::Result;
use crate::expr::column;

/// Rewrites the correlated subqueries of a plan.
pub fn prepare(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut n = 0;
    super::rewrite_nodes(plan, |node| {
        node.map_expressions(|e| {
            e.transform_up(|e| {
                Ok(match e {
                    Expr::ScalarSubquery(subquery) if depends(&subquery.subquery) => {
                        let plan = plain_keys(subquery.subquery.as_ref().clone(), &mut n)?;
                        let plan = if is_single_row(&plan) { plan } else { single_row(plan, &mut n)? };
                        let subquery = Subquery { subquery: Arc::new(plan), ..subquery };
                        Transformed::yes(Expr::ScalarSubquery(subquery))
                    }
                    e => Transformed::no(e),
                })
            })
        })
    })
}

/// Whether a plan, or a subquery in it, refers to a query around it.
fn depends(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let _ = plan.apply_with_subqueries(|node| {
        found |= node.contains_outer_reference();
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

/// Whether the plan is an aggregate over everything, so that it has one row.
fn is_single_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(p) => is_single_row(&p.input),
        LogicalPlan::SubqueryAlias(a) => is_single_row(&a.input),
        LogicalPlan::Sort(s) => is_single_row(&s.input),
        _ => false,
    }
}

/// `max` of the only row, and an error if there are several.
fn single_row(plan: LogicalPlan, n: &mut usize) -> DfResult<LogicalPlan> {
    *n += 1;
    let value = Expr::Column(plan.schema().columns().swap_remove(0));
    let (qualifier, field) = plan.schema().qualified_field(0);
    let (qualifier, name, data_type) = (qualifier.cloned(), field.name().clone(), field.data_type().clone());
    let (rows, only) = (format!("single_rows_{n}"), format!("single_value_{n}"));
    let error = ScalarUDF::new_from_impl(crate::functions::more_than_one_row::MoreThanOneRow::new());
    let error = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(error), vec![column(&only)]));
    let guarded = when(column(&rows).gt(lit(1_i64)), error).otherwise(column(&only))?;
    let _ = data_type;
    LogicalPlanBuilder::from(plan)
        .aggregate(
            Vec::<Expr>::new(),
            vec![count_udaf().call(vec![lit(1_i64)]).alias(&rows), max_udaf().call(vec![value]).alias(&only)],
        )?
        .project(vec![guarded.alias_qualified(qualifier, name)])?
        .build()
}

/// Gives each local side of a correlated equality a column of its own.
fn plain_keys(plan: LogicalPlan, n: &mut usize) -> DfResult<LogicalPlan> {
    let plan = plan.transform_up(|node| {
        let LogicalPlan::Filter(filter) = node else { return Ok(Transformed::no(node)) };
        let mut keys = Vec::new();
        let terms = split_conjunction_owned(filter.predicate.clone()).into_iter().map(|term| match term {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
                let mut side = |local: Box<Expr>, outer: &Expr| {
                    let wrapped = !matches!(*local, Expr::Column(_)) && local.any_column_refs() && !is_outer(&local);
                    if !wrapped || !is_outer(outer) || outer.any_column_refs() {
                        return local;
                    }
                    *n += 1;
                    let name = format!("correlation_key_{n}");
                    keys.push(local.alias(&name));
                    Box::new(column(name))
                };
                let left = side(left, &right);
                let right = side(right, &left);
                Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right })
            }
            term => term,
        });
        let predicate = conjunction(terms.collect::<Vec<_>>());
        let (Some(predicate), false) = (predicate, keys.is_empty()) else {
            return Ok(Transformed::no(LogicalPlan::Filter(filter)));
        };
        let columns: Vec<Expr> = filter.input.schema().columns().into_iter().map(Expr::Column).collect();
        let plan = LogicalPlanBuilder::from(filter.input.as_ref().clone())
            .project(columns.iter().cloned().chain(keys))?
            .filter(predicate)?
            .project(columns)?
            .build()?;
        Ok(Transformed::yes(plan))
    })?;
    Ok(plan.data)
}

fn is_outer(e: &Expr) -> bool {
    e.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(..)))).unwrap_or(false)
}
