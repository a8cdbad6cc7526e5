//! A job's plan: operators and who feeds whom. Plain data: the planner builds it, the catalog keeps it.

use serde::{Deserialize, Serialize};

use crate::operators::AnyOperator;

/// Operators in topological order: inputs stand before the nodes they feed, the root is last. A node may feed several.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The nodes.
    pub nodes: Vec<PlanNode>,
}

/// An operator and the indexes of the nodes that feed it, in the order of its inputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PlanNode {
    /// The operator.
    pub operator: AnyOperator,
    /// Indexes into [`Plan::nodes`], all smaller than this node's own.
    pub inputs: Vec<usize>,
}

impl Plan {
    /// Adds a node and returns its index.
    pub fn add(&mut self, operator: impl Into<AnyOperator>, inputs: Vec<usize>) -> usize {
        debug_assert!(inputs.iter().all(|&i| i < self.nodes.len()));
        self.nodes.push(PlanNode { operator: operator.into(), inputs });
        self.nodes.len() - 1
    }

    /// The node that everything leads to.
    pub fn root(&self) -> &PlanNode {
        self.nodes.last().expect("a plan has a node")
    }
}
