//! Computes calls of immutable functions over constants once. What fails is left for the rows that reach it.

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, when};

use crate::error::{Error, Result};
use crate::expr::{constant, evaluate, is_foldable};

/// Folds the constants of a plan, and of its subqueries.
pub fn fold(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = super::rewrite_nodes(plan, |node| {
        // The output's names are part of the schema: a folded column keeps the name of what it was.
        let keep_names = matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_));
        if matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Extension(_)) {
            return Ok(Transformed::no(node));
        }
        node.map_expressions(|e| {
            if matches!(e, Expr::Column(_) | Expr::Literal(..)) {
                return Ok(Transformed::no(e));
            }
            let name = if keep_names { Some(e.qualified_name()) } else { None };
            let folded = e.transform_up(|e| {
                Ok(match if is_foldable(&e) { constant(&e) } else { None } {
                    Some(value) => Transformed::yes(Expr::Literal(value, None)),
                    None => Transformed::no(e),
                })
            })?;
            match name {
                Some((qualifier, name)) if folded.transformed => {
                    folded.map_data(|e| Ok(e.alias_qualified_if_changed(qualifier, name)))
                }
                _ => Ok(folded),
            }
        })
    })?;
    keep_nullable(plan)
}

/// A scalar subquery of a constant is NULL all the same where it has no row.
fn keep_nullable(plan: LogicalPlan) -> Result<LogicalPlan> {
    super::rewrite_nodes(plan, |node| {
        let node = match node {
            LogicalPlan::Projection(_) | LogicalPlan::Join(_) | LogicalPlan::Window(_) => node.recompute_schema()?,
            node => node,
        };
        node.map_expressions(|e| {
            e.transform_up(|e| match e {
                Expr::ScalarSubquery(subquery) if !subquery.subquery.schema().field(0).is_nullable() => {
                    let column = subquery.subquery.schema().columns().swap_remove(0);
                    let value = Expr::Column(column.clone());
                    let value = when(value.clone().is_not_null(), value).end()?;
                    let plan = LogicalPlanBuilder::from(subquery.subquery.as_ref().clone())
                        .project([value.alias_qualified(column.relation.clone(), &column.name)])?
                        .build()?;
                    Ok(Transformed::yes(Expr::ScalarSubquery(Subquery { subquery: plan.into(), ..subquery })))
                }
                e => Ok(Transformed::no(e)),
            })
        })
    })
}

trait KeepName {
    fn alias_qualified_if_changed(self, qualifier: Option<datafusion::common::TableReference>, name: String) -> Expr;
}

impl KeepName for Expr {
    fn alias_qualified_if_changed(self, q: Option<datafusion::common::TableReference>, name: String) -> Expr {
        if self.qualified_name() == (q.clone(), name.clone()) { self } else { self.alias_qualified(q, name) }
    }
}

/// The first constant whose computation fails. Postgres computes constants before it reads a row, whether there are rows or not:
/// all but those behind a constant that decides an AND, an OR or a CASE. The plan is folded.
pub fn failing(plan: &LogicalPlan) -> Option<Error> {
    let mut found = None;
    let _ = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            found = failing_in(e);
            Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })
    });
    found
}

#[::recursive::recursive]
fn failing_in(e: &Expr) -> Option<Error> {
    match e {
        Expr::BinaryExpr(b) if matches!(b.op, Operator::And | Operator::Or) => {
            let decided = truth(&b.left) == Some(b.op == Operator::Or);
            return failing_in(&b.left).or_else(|| if decided { None } else { failing_in(&b.right) });
        }
        Expr::Case(case) if case.expr.is_none() => {
            for (when, then) in &case.when_then_expr {
                let taken = match when.as_ref() {
                    Expr::Literal(..) => truth(when) == Some(true),
                    when => {
                        if let Some(error) = failing_in(when).or_else(|| failing_in(then)) {
                            return Some(error);
                        }
                        continue;
                    }
                };
                if taken {
                    return failing_in(then);
                }
            }
            return case.else_expr.as_ref().and_then(|e| failing_in(e));
        }
        Expr::Case(_) => return None,
        _ => {}
    }
    if is_foldable(e) {
        // Of a value, not of what this way of computing it cannot do.
        let of_a_value = |error: &Error| error.sqlstate.starts_with('2') || error.sqlstate == "54000";
        return evaluate(e).err().map(Error::from).filter(of_a_value);
    }
    let mut found = None;
    let _ = e.apply_children(|child| {
        found = failing_in(child);
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    found
}

fn truth(e: &Expr) -> Option<bool> {
    match e {
        Expr::Literal(ScalarValue::Boolean(value), _) => *value,
        _ => None,
    }
}
