//! Finds the first rows of each partition in what users write as a ranking and a condition on it:
//!
//! ```text
//! Filter rank <= 3                                   Projection ..
//!   Projection ..                              =>      TopN limit 3
//!     Window row_number() PARTITION BY p ORDER BY o      input
//!       input
//! ```
//!
//! So a stream keeps what it needs for three rows instead of renumbering whole partitions.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result as DfResult};
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Window};
use streaming::operators::top_n::RankKind;

use crate::error::Result;
use crate::expr::{integer, seen_as};
use crate::nodes::TopN;

/// Rewrites every ranking with a condition on it.
pub fn recognise(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan
        .transform_down(|node| {
            let LogicalPlan::Filter(filter) = &node else { return Ok(Transformed::no(node)) };
            Ok(match rewrite(filter)? {
                Some(plan) => Transformed::yes(plan),
                None => Transformed::no(node),
            })
        })?
        .data)
}

fn rewrite(filter: &Filter) -> DfResult<Option<LogicalPlan>> {
    // Down to the window, and the name that its result has at each step.
    let mut path = vec![];
    let mut node = filter.input.as_ref();
    let window = loop {
        match node {
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => {
                path.push(node);
                node = node.inputs()[0];
            }
            LogicalPlan::Window(window) => break window,
            _ => return Ok(None),
        }
    };
    let Some((function, kind)) = ranking(window) else { return Ok(None) };
    let rank_index = window.schema.fields().len() - 1;
    let (qualifier, rank_field) = window.schema.qualified_field(rank_index);
    let mut rank = vec![Column::new(qualifier.cloned(), rank_field.name())];
    for step in path.iter().rev() {
        rank = match step {
            LogicalPlan::Projection(p) => (p.expr.iter().zip(p.schema.columns()))
                .filter(|(e, _)| matches!(seen_as(e), Expr::Column(c) if rank.contains(c)))
                .map(|(_, c)| c)
                .collect(),
            other => {
                let positions: Vec<usize> =
                    rank.iter().filter_map(|c| other.inputs()[0].schema().index_of_column(c).ok()).collect();
                let columns = other.schema().columns();
                positions.into_iter().map(|i| columns[i].clone()).collect()
            }
        };
    }

    // The bounds that the conditions set; a condition that the range says in full is dropped.
    let (mut low, mut high) = (1_i64, None::<i64>);
    let mut rest = Vec::new();
    for term in split_conjunction_owned(filter.predicate.clone()) {
        if let Some(greatest) = greatest_of(&term, &rank) {
            high = Some(high.map_or(greatest, |h| h.min(greatest)));
            rest.push(term);
            continue;
        }
        let Some((op, value)) = comparison(&term, &rank) else {
            rest.push(term);
            continue;
        };
        let (from, to) = match op {
            Operator::Eq => (Some(value), Some(value)),
            Operator::Lt => (None, Some(value.saturating_sub(1))),
            Operator::LtEq => (None, Some(value)),
            Operator::Gt => (Some(value.saturating_add(1)), None),
            Operator::GtEq => (Some(value), None),
            _ => {
                rest.push(term);
                continue;
            }
        };
        high = to.map(|t| high.map_or(t, |h| h.min(t))).or(high);
        match (from, kind) {
            (Some(from), RankKind::RowNumber) => low = low.max(from),
            // Ranks repeat: how many rows stand before the first of rank n is not known.
            (Some(_), _) => rest.push(term),
            (None, _) => {}
        }
    }
    let Some(high) = high else { return Ok(None) };
    let limit = (high - low + 1).max(0) as u64;
    let offset = (low - 1) as u64;
    let mut plan = TopN::plan(
        window.input.as_ref().clone(),
        function.params.partition_by.clone(),
        function.params.order_by.clone(),
        kind,
        offset,
        Some(limit),
        Some(rank_field.clone()),
    )?;
    for step in path.into_iter().rev() {
        plan = step.with_new_exprs(step.expressions(), vec![plan])?;
    }
    if let Some(rest) = conjunction(rest) {
        plan = LogicalPlanBuilder::from(plan).filter(rest)?.build()?;
    }
    Ok(Some(plan))
}

/// The only window function, if it is a ranking.
fn ranking(window: &Window) -> Option<(&WindowFunction, RankKind)> {
    let [e] = window.window_expr.as_slice() else { return None };
    let Expr::WindowFunction(function) = seen_as(e) else { return None };
    let kind = match function.fun.name() {
        "row_number" => RankKind::RowNumber,
        "rank" => RankKind::Rank,
        "dense_rank" => RankKind::DenseRank,
        _ => return None,
    };
    Some((function, kind))
}

/// The greatest constant of `rank IN (constants)`.
fn greatest_of(term: &Expr, rank: &[Column]) -> Option<i64> {
    let Expr::InList(list) = term else { return None };
    let is_rank = matches!(seen_as(&list.expr), Expr::Column(c) if rank.contains(c));
    let values: Option<Vec<i64>> = list.list.iter().map(integer).collect();
    values?.into_iter().max().filter(|_| is_rank && !list.negated)
}

/// `rank <op> constant`, either way round.
fn comparison(term: &Expr, rank: &[Column]) -> Option<(Operator, i64)> {
    let Expr::BinaryExpr(binary) = term else { return None };
    let is_rank = |e: &Expr| matches!(seen_as(e), Expr::Column(c) if rank.contains(c));
    if is_rank(&binary.left) {
        Some((binary.op, integer(&binary.right)?))
    } else if is_rank(&binary.right) {
        Some((binary.op.swap()?, integer(&binary.left)?))
    } else {
        None
    }
}
