//! A job's plan: operators and who feeds whom. Plain data: the planner builds it, the catalog keeps it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::expr::Functions;
use crate::operator::{Operator, WatermarkContext};
use crate::operators::{AnyOperator, TapReader};
use crate::watermark::Watermarks;

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

    /// What is known of each node's columns in all later epochs, if `tap` says what is known of what the taps read.
    pub fn watermarks(
        &self,
        functions: &Arc<dyn Functions>,
        tap: &mut dyn FnMut(usize, &TapReader) -> Watermarks,
    ) -> Vec<Arc<Watermarks>> {
        let mut known: Vec<Arc<Watermarks>> = Vec::with_capacity(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            let marks = match &node.operator {
                AnyOperator::TapReader(reader) => tap(i, reader),
                _ if node.inputs.is_empty() => Vec::new(),
                operator => {
                    let schemas: Vec<_> = node.inputs.iter().map(|&n| self.nodes[n].operator.schema()).collect();
                    let inputs: Vec<Watermarks> = node.inputs.iter().map(|&n| known[n].as_ref().clone()).collect();
                    if inputs.iter().all(|marks| marks.iter().all(Option::is_none)) {
                        Vec::new()
                    } else {
                        operator.watermarks(&inputs, &WatermarkContext { inputs: &schemas, functions })
                    }
                }
            };
            known.push(Arc::new(marks));
        }
        known
    }

    /// Which columns of each node have a watermark, and of what kind: their values are unknown.
    pub fn watermark_columns(&self, functions: &Arc<dyn Functions>) -> Vec<Arc<Watermarks>> {
        self.watermarks(functions, &mut |_, reader| reader.watermarks.clone())
    }

    /// The node that everything leads to.
    pub fn root(&self) -> &PlanNode {
        self.nodes.last().expect("a plan has a node")
    }
}
