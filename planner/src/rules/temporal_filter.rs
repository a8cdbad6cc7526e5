//! Conditions over `now()` in a view:
//!
//! ```text
//! Filter a AND at > now() - x AND at <= now()          TemporalFilter at <= now()
//!   input                                       =>       TemporalFilter at > now() - x
//!                                                          Filter a
//!                                                            input
//! ```
//!
//! One side is computed from the row, the other one from the time. Anything else that asks for the time is refused.

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator};
use streaming::operators::temporal_filter::Comparison;

use crate::error::{Error, Result};
use crate::functions::epoch_time::is_epoch_time;
use crate::nodes::TemporalFilter;

/// Makes temporal filters of all conditions over the time.
///
/// # Errors
/// If the time is asked for in another way.
pub fn recognise(plan: LogicalPlan) -> Result<LogicalPlan> {
    if !asks_for_time(&plan) {
        return Ok(plan);
    }
    let plan = plan.transform_up(|node| match &node {
        LogicalPlan::Filter(filter) if has_time(&filter.predicate) => {
            Ok(rewrite(filter)?.map_or_else(|| Transformed::no(node), Transformed::yes))
        }
        _ => Ok(Transformed::no(node)),
    })?;
    if asks_for_time(&plan.data) {
        return Err(Error::unsupported("this use of now() is not supported in a materialized view").with_hint(
            "Compare what is computed from a row with what is computed from now() in WHERE, as in at > now() - interval \
             '1 hour', joined with AND to other conditions.",
        ));
    }
    Ok(plan.data)
}

fn rewrite(filter: &Filter) -> datafusion::common::Result<Option<LogicalPlan>> {
    let (mut bounds, mut rest) = (vec![], vec![]);
    for term in split_conjunction_owned(filter.predicate.clone()) {
        if !has_time(&term) {
            rest.push(term);
            continue;
        }
        let Some(found) = compared(&term) else { return Ok(None) };
        bounds.extend(found);
    }
    let mut plan = LogicalPlanBuilder::from(filter.input.as_ref().clone());
    if let Some(rest) = conjunction(rest) {
        plan = plan.filter(rest)?;
    }
    let mut plan = plan.build()?;
    for (value, comparison, bound) in bounds {
        let rises = rises(&bound);
        plan = TemporalFilter::plan(plan, value, comparison, bound, rises);
    }
    Ok(Some(plan))
}

/// A condition as comparisons of what a row computes with what the time does.
fn compared(term: &Expr) -> Option<Vec<(Expr, Comparison, Expr)>> {
    use Comparison::{Greater, GreaterOrEqual, Less, LessOrEqual};
    if let Expr::Between(Between { expr, negated: false, low, high }) = term {
        let side =
            |op, bound: &Expr| compared(&Expr::BinaryExpr(BinaryExpr::new(expr.clone(), op, Box::new(bound.clone()))));
        // A bound without the time is an ordinary condition; `BETWEEN` is rarely written so, and can be written apart.
        return Some([side(Operator::GtEq, low)?, side(Operator::LtEq, high)?].concat());
    }
    let Expr::BinaryExpr(binary) = term else { return None };
    let of_row = |e: &Expr| !has_time(e) && e.any_column_refs();
    let of_time = |e: &Expr| has_time(e) && !e.any_column_refs();
    let (value, op, bound) = if of_row(&binary.left) && of_time(&binary.right) {
        (&binary.left, binary.op, &binary.right)
    } else if of_time(&binary.left) && of_row(&binary.right) {
        (&binary.right, binary.op.swap()?, &binary.left)
    } else {
        return None;
    };
    let comparisons = match op {
        Operator::Gt => vec![Greater],
        Operator::GtEq => vec![GreaterOrEqual],
        Operator::Lt => vec![Less],
        Operator::LtEq => vec![LessOrEqual],
        Operator::Eq => vec![GreaterOrEqual, LessOrEqual],
        _ => return None,
    };
    Some(comparisons.into_iter().map(|c| (value.as_ref().clone(), c, bound.as_ref().clone())).collect())
}

/// Whether a bound never falls as time passes. A day of a zone with summer time does, and so does a month.
fn rises(bound: &Expr) -> bool {
    match bound {
        e if is_epoch_time(e) => true,
        Expr::Cast(cast) => rises(&cast.expr),
        Expr::Alias(alias) => rises(&alias.expr),
        Expr::ScalarFunction(ScalarFunction { func, args }) => {
            let zone = |e: &Expr| matches!(e, Expr::Literal(ScalarValue::Utf8View(Some(zone)), _) if is_utc(zone));
            let in_utc = args.last().is_some_and(zone);
            let (steady, time) = match (func.name(), args.as_slice()) {
                ("timestamptz_pl_interval" | "timestamptz_mi_interval", [time, span, ..]) => {
                    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(span)), _) = span else { return false };
                    (span.months == 0 && (span.days == 0 || in_utc), time)
                }
                (name, [time, ..]) if name.starts_with("cast[timestamp with time zone,") => (in_utc, time),
                ("timestamptz_trunc", [_, time, ..]) => (in_utc, time),
                _ => return false,
            };
            steady && rises(time)
        }
        _ => false,
    }
}

fn is_utc(zone: &str) -> bool {
    ["utc", "etc/utc", "gmt"].iter().any(|name| zone.eq_ignore_ascii_case(name))
}

fn has_time(e: &Expr) -> bool {
    e.exists(|e| Ok(is_epoch_time(e))).unwrap_or(false)
}

/// Whether any expression of the plan asks for the time.
fn asks_for_time(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            found |= has_time(e);
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}
