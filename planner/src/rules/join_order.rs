//! The order of many joins: each input is joined where something connects it with those before, so that no product is
//! built that a condition would have cut down.
//!
//! ```text
//! a, b, c, d WHERE a.x = c.x AND b.y = d.y AND c.z < a.z
//!
//! connected parts   {a, c} and {b, d}, in the order of the query
//! inside a part     first by equalities, then by any other condition, in the order of the query
//! at last           the parts with each other: (a JOIN c) CROSS JOIN (b JOIN d)
//! ```
//!
//! Nothing is known of sizes here: a stream's inputs grow as they like.

use datafusion::common::tree_node::Transformed;
use datafusion::common::{JoinType, NullEquality, Result as DfResult};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, Operator};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::nodes::reads_only;

/// The rule.
#[derive(Debug, Default)]
pub struct JoinOrder;

impl OptimizerRule for JoinOrder {
    fn name(&self) -> &str {
        "join_order"
    }
    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }
    fn supports_rewrite(&self) -> bool {
        true
    }
    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let (mut terms, joins) = match &plan {
            LogicalPlan::Filter(filter) if is_inner(&filter.input) => {
                (split_conjunction_owned(filter.predicate.clone()), filter.input.as_ref())
            }
            join if is_inner(join) => (vec![], join),
            _ => return Ok(Transformed::no(plan)),
        };
        let mut inputs = vec![];
        flatten(joins, &mut inputs, &mut terms);
        if inputs.len() < 3 {
            return Ok(Transformed::no(plan));
        }
        let outputs = plan.schema().columns();
        let ordered = ordered(inputs, terms)?;
        let ordered = match ordered.schema().columns() == outputs {
            true => ordered,
            false => LogicalPlanBuilder::from(ordered).project(outputs.into_iter().map(Expr::Column))?.build()?,
        };
        Ok(if ordered == plan { Transformed::no(plan) } else { Transformed::yes(ordered) })
    }
}

fn is_inner(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Join(Join { join_type: JoinType::Inner, null_equality, .. })
        if *null_equality == NullEquality::NullEqualsNothing)
}

/// The inputs of nested inner joins in the order of the query, and all their conditions.
fn flatten(plan: &LogicalPlan, inputs: &mut Vec<LogicalPlan>, terms: &mut Vec<Expr>) {
    match plan {
        LogicalPlan::Join(join) if is_inner(plan) => {
            flatten(&join.left, inputs, terms);
            flatten(&join.right, inputs, terms);
            terms.extend(join.on.iter().map(|(l, r)| l.clone().eq(r.clone())));
            terms.extend(join.filter.iter().cloned().flat_map(split_conjunction_owned));
        }
        plan => inputs.push(plan.clone()),
    }
}

/// The inputs joined part by part.
fn ordered(inputs: Vec<LogicalPlan>, mut terms: Vec<Expr>) -> DfResult<LogicalPlan> {
    // Which inputs each condition reads.
    let reads = |term: &Expr| -> Vec<usize> {
        let columns = term.column_refs();
        (0..inputs.len()).filter(|&i| columns.iter().any(|c| inputs[i].schema().has_column(c))).collect()
    };
    let read: Vec<Vec<usize>> = terms.iter().map(reads).collect();
    let equalities: Vec<bool> = terms.iter().map(|term| is_equality(term, &inputs)).collect();
    let mut left: Vec<usize> = (0..inputs.len()).collect();
    let mut all: Option<LogicalPlan> = None;
    while !left.is_empty() {
        let mut part = vec![left.remove(0)];
        let mut plan = inputs[part[0]].clone();
        while let Some(next) = next(&part, &left, &read, &equalities) {
            let right = left.remove(next);
            part.push(right);
            plan = join(plan, inputs[right].clone(), &mut terms)?;
        }
        all = Some(match all {
            None => plan,
            Some(before) => join(before, plan, &mut terms)?,
        });
    }
    let all = all.expect("a join has inputs");
    // What reads one input only, or none: it is pushed down by its own rule.
    match conjunction(terms) {
        Some(rest) => Ok(LogicalPlan::Filter(Filter::try_new(rest, all.into())?)),
        None => Ok(all),
    }
}

/// Which of the inputs that are `left` comes next behind those of `part`: the first that an equality connects, or else
/// the first that any condition does.
fn next(part: &[usize], left: &[usize], read: &[Vec<usize>], equalities: &[bool]) -> Option<usize> {
    let connects = |input: usize, reads: &[usize]| {
        reads.contains(&input) && reads.len() > 1 && reads.iter().all(|i| *i == input || part.contains(i))
    };
    let by = |equal: bool| {
        left.iter().position(|&input| {
            read.iter().zip(equalities).any(|(reads, &equality)| (equality || !equal) && connects(input, reads))
        })
    };
    // A condition over three inputs connects them, although no two of them can be joined by it.
    let share =
        |&input: &usize| read.iter().any(|reads| reads.contains(&input) && reads.iter().any(|i| part.contains(i)));
    by(true).or_else(|| by(false)).or_else(|| left.iter().position(share))
}

fn is_equality(term: &Expr, inputs: &[LogicalPlan]) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = term else { return false };
    let side = |e: &Expr| inputs.iter().position(|input| reads_only(e, input));
    matches!((side(left), side(right)), (Some(l), Some(r)) if l != r)
}

/// An inner join by all of `terms` that it has the columns for, and that need both sides.
fn join(left: LogicalPlan, right: LogicalPlan, terms: &mut Vec<Expr>) -> DfResult<LogicalPlan> {
    let has = |plan: &LogicalPlan, term: &Expr| term.column_refs().iter().any(|c| plan.schema().has_column(c));
    let (both, rest): (Vec<Expr>, Vec<Expr>) = std::mem::take(terms).into_iter().partition(|term| {
        let all = |c: &&datafusion::common::Column| left.schema().has_column(c) || right.schema().has_column(c);
        has(&left, term) && has(&right, term) && term.column_refs().iter().all(all)
    });
    *terms = rest;
    let mut keys = (vec![], vec![]);
    let mut others = vec![];
    for term in both {
        match &term {
            Expr::BinaryExpr(BinaryExpr { left: l, op: Operator::Eq, right: r }) => {
                let (l, r) = match (reads_only(l, &left) && reads_only(r, &right), reads_only(r, &left)) {
                    (true, _) => (l, r),
                    (false, true) if reads_only(l, &right) => (r, l),
                    _ => {
                        others.push(term);
                        continue;
                    }
                };
                keys.0.push(l.as_ref().clone());
                keys.1.push(r.as_ref().clone());
            }
            _ => others.push(term),
        }
    }
    let builder = LogicalPlanBuilder::from(left);
    match (keys.0.is_empty(), conjunction(others)) {
        (true, None) => builder.cross_join(right)?.build(),
        (_, filter) => builder.join_with_expr_keys(right, JoinType::Inner, keys, filter)?.build(),
    }
}
