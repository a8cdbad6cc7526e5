//! What the joins that are nodes of their own have in common: two inputs, equalities, and the columns of both.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, JoinType, Result as DfResult};
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::{Expr, LogicalPlan};

/// The columns of both inputs.
pub(super) fn schema_of(left: &LogicalPlan, right: &LogicalPlan, outer: bool) -> DfResult<DFSchemaRef> {
    let kind = if outer { JoinType::Left } else { JoinType::Inner };
    Ok(Arc::new(build_join_schema(left.schema(), right.schema(), &kind)?))
}

/// Which columns of each input are needed for some of both and for these expressions.
pub(super) fn needed(left: &DFSchema, outputs: &[usize]) -> Vec<Vec<usize>> {
    let n = left.fields().len();
    let of_left: BTreeSet<usize> = outputs.iter().copied().filter(|&i| i < n).collect();
    let of_right: BTreeSet<usize> = outputs.iter().filter_map(|&i| i.checked_sub(n)).collect();
    vec![of_left.into_iter().collect(), of_right.into_iter().collect()]
}

/// `l1, r1, l2, r2, ...` as pairs.
pub(super) fn paired(exprs: Vec<Expr>) -> Vec<(Expr, Expr)> {
    let mut exprs = exprs.into_iter();
    std::iter::from_fn(|| Some((exprs.next()?, exprs.next()?))).collect()
}

/// Whether an expression reads columns of `plan` and no others.
pub fn reads_only(e: &Expr, plan: &LogicalPlan) -> bool {
    let columns = e.column_refs();
    !columns.is_empty() && columns.iter().all(|c| plan.schema().has_column(c))
}
