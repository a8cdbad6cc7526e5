//! UNION ALL. UNION is a distinct over it.

use datafusion::logical_expr::Union;
use streaming::operators::UnionAll;

use super::{Lowering, Node};
use crate::error::Result;

impl Lowering {
    pub(super) fn union(&mut self, union: &Union) -> Result<Node> {
        let n = union.schema.fields().len();
        let mut inputs = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            let node = self.lower(input)?;
            // Where nobody reads a column, each branch brings another one along.
            inputs.push(if n == 0 { self.presence(&node)? } else { self.exactly(node, n) });
        }
        let schema = inputs[0].schema.clone();
        // Operators may be told apart by their columns' names alone: all branches carry the first one's.
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let named: Vec<Node> = inputs
            .into_iter()
            .map(|node| if node.schema == schema { node } else { self.pick(&node, &all, Some(&names)) })
            .collect();
        let indexes: Vec<usize> = named.iter().map(|n| n.index).collect();
        let append_only = named.iter().all(|n| n.append_only);
        Ok(self.add(UnionAll { n_inputs: indexes.len(), schema }, &indexes, append_only))
    }
}
