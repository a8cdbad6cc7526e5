//! Which expressions can be computed without planning, and the parameters in them.

use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::Expr;

use crate::functions::sleep::waits;

/// The value of parameter `id` (`$1`) among `params`.
pub(crate) fn param_index(id: &str) -> Option<usize> {
    id.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// Whether an expression can be computed from a row alone, at once.
pub(super) fn is_row_expr(e: &Expr) -> bool {
    !e.exists(|e| {
        if let Expr::ScalarFunction(call) = e
            && waits(&call.func)
        {
            return Ok(true);
        }
        Ok(matches!(
            e,
            Expr::ScalarSubquery(_)
                | Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::AggregateFunction(_)
                | Expr::WindowFunction(_)
                | Expr::OuterReferenceColumn(..)
                | Expr::Unnest(_)
        ))
    })
    .unwrap_or(true)
}
