//! The single row of an uncorrelated scalar subquery.

use streaming::operators::SingleRow;

use super::{Lowering, Node};
use crate::error::Result;
use crate::nodes;

impl Lowering {
    pub(super) fn single_row(&mut self, single: &nodes::SingleRow) -> Result<Node> {
        let input = self.lower(&single.input)?;
        let schema = input.schema.clone();
        Ok(self.add(SingleRow { schema }, &[input.index], false))
    }
}
