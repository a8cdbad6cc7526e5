//! The equalities in a join's condition become its keys.
//!
//! A join's keys are all compared by `=` or all by IS NOT DISTINCT FROM. Where both stand, those of `=` are the keys and
//! the others stay conditions: DataFusion's own rule takes an `=` that is found later into the keys of a join that takes
//! NULLs for equal.

use datafusion::common::tree_node::Transformed;
use datafusion::common::{NullEquality, Result as DfResult};
use datafusion::logical_expr::utils::{can_hash, conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Join, LogicalPlan, Operator, binary_expr};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::nodes::reads_only;

/// The rule.
#[derive(Debug, Default)]
pub struct Equalities;

impl OptimizerRule for Equalities {
    fn name(&self) -> &str {
        "equalities"
    }
    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }
    fn supports_rewrite(&self) -> bool {
        true
    }
    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        match plan {
            LogicalPlan::Join(join) if join.filter.is_some() => with_keys(join),
            plan => Ok(Transformed::no(plan)),
        }
    }
}

type Pairs = Vec<(Expr, Expr)>;

fn with_keys(mut join: Join) -> DfResult<Transformed<LogicalPlan>> {
    let terms = join.filter.iter().cloned().flat_map(split_conjunction_owned);
    let (mut equal, mut same, mut rest): (Pairs, Pairs, Vec<Expr>) = Default::default();
    for term in terms {
        match pair(&term, &join) {
            Some((Operator::Eq, pair)) => equal.push(pair),
            Some((_, pair)) => same.push(pair),
            None => rest.push(term),
        }
    }
    let null_safe = join.null_equality == NullEquality::NullEqualsNull && !join.on.is_empty();
    if equal.is_empty() && (same.is_empty() || !(null_safe || join.on.is_empty())) {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    let on = std::mem::take(&mut join.on);
    if null_safe {
        same.splice(0..0, on)
    } else {
        equal.splice(0..0, on)
    };
    if equal.is_empty() {
        (join.on, join.null_equality) = (same, NullEquality::NullEqualsNull);
    } else {
        (join.on, join.null_equality) = (equal, NullEquality::NullEqualsNothing);
        rest.extend(same.into_iter().map(|(l, r)| binary_expr(l, Operator::IsNotDistinctFrom, r)));
    }
    join.filter = conjunction(rest);
    Ok(Transformed::yes(LogicalPlan::Join(join)))
}

/// `left = right` or `left IS NOT DISTINCT FROM right`, each over its side only.
fn pair(term: &Expr, join: &Join) -> Option<(Operator, (Expr, Expr))> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = term else { return None };
    if !matches!(op, Operator::Eq | Operator::IsNotDistinctFrom) {
        return None;
    }
    let (l, r) = if reads_only(left, &join.left) && reads_only(right, &join.right) {
        (left, right)
    } else if reads_only(right, &join.left) && reads_only(left, &join.right) {
        (right, left)
    } else {
        return None;
    };
    let hashable = can_hash(&l.get_type(join.left.schema()).ok()?);
    hashable.then(|| (*op, (l.as_ref().clone(), r.as_ref().clone())))
}
