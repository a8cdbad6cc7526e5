//! `SELECT DISTINCT ON (k) ... ORDER BY k, o` becomes the first row of each `k` in the order:
//!
//! ```text
//! DistinctOn k, order o            Projection exprs
//!   input                 =>         Filter rank = 1
//!                                      Window row_number() PARTITION BY k ORDER BY o
//!                                        input
//! ```

use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, LogicalPlanBuilder, lit};

use crate::error::Result;
use crate::expr::column;
use crate::functions::window::row_number;

/// Rewrites every DISTINCT ON.
pub fn to_ranking(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut n = 0;
    super::rewrite_nodes(plan, |node| {
        let LogicalPlan::Distinct(Distinct::On(on)) = node else { return Ok(Transformed::no(node)) };
        n += 1;
        let rank = format!("distinct_on_{n}");
        let order = on.sort_expr.clone().unwrap_or_default();
        let names = on.schema.iter().map(|(q, f)| (q.cloned(), f.name().clone()));
        let outputs: Vec<Expr> = on
            .select_expr
            .iter()
            .zip(names)
            .map(|(e, (q, name))| {
                if e.qualified_name() == (q.clone(), name.clone()) {
                    e.clone()
                } else {
                    e.clone().unalias().alias_qualified(q, name)
                }
            })
            .collect();
        let ranked = row_number(on.on_expr.clone(), order).alias(&rank);
        let plan = LogicalPlanBuilder::from(on.input.as_ref().clone())
            .window(vec![ranked])?
            .filter(column(rank).eq(lit(1_u64)))?
            .project(outputs)?
            .build()?;
        Ok(Transformed::yes(plan))
    })
}
