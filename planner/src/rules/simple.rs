//! Which correlated subqueries DataFusion's own decorrelation takes without changing what they mean.
//!
//! It pulls the conditions that name the outer query up to the top of the subquery. A condition does not pass the side of an outer
//! join that is padded (the padded row would come before it), nor a window function, which would see other rows. Such subqueries go
//! the general way: [`super::dependent`].

use datafusion::common::JoinType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;

use super::dependent::is_correlated;

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
            _ => true,
        };
        Ok(if simple { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    simple && found.is_ok()
}
