//! Which correlated subqueries DataFusion's own decorrelation takes without changing what they mean.
//!
//! It pulls the conditions that name the outer query up to the top of the subquery. A condition does not pass the side of an outer
//! join that is padded (the padded row would come before it), nor a window function, which would see other rows. One that holds a
//! scalar subquery of its own would end as the condition of a join, where none is unnested. Such subqueries go the general way:
//! [`super::dependent`].

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan};

use super::dependent::is_correlated;
use crate::expr::subquery_of;

/// Whether conditions can be pulled up through everything in the subquery.
pub fn is_simple(subquery: &LogicalPlan) -> bool {
    let mut simple = true;
    let found = subquery.apply(|node| {
        simple = match node {
            LogicalPlan::Window(_) => !is_correlated(node),
            LogicalPlan::Join(join) => match join.join_type {
                JoinType::Inner => true,
                JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                    !is_correlated(&join.right) && !node.contains_outer_reference()
                }
                JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    !is_correlated(&join.left) && !node.contains_outer_reference()
                }
                JoinType::Full => !is_correlated(node),
            },
            LogicalPlan::Filter(filter) => {
                !split_conjunction(&filter.predicate).into_iter().any(is_pulled_with_subquery)
            }
            _ => true,
        };
        Ok(if simple { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    simple && found.is_ok()
}

fn is_pulled_with_subquery(term: &Expr) -> bool {
    let holds = |is: fn(&Expr) -> bool| term.exists(|e| Ok(is(e))).unwrap_or(true);
    holds(|e| matches!(e, Expr::OuterReferenceColumn(..))) && holds(|e| subquery_of(e).is_some())
}
