//! WHERE, HAVING and what rules leave of ON.

use datafusion::logical_expr::Filter as DfFilter;
use streaming::operators::Filter;

use super::{Lowering, Node, expr};
use crate::error::Result;

impl Lowering {
    pub(super) fn filter(&mut self, filter: &DfFilter) -> Result<Node> {
        let input = self.lower(&filter.input)?;
        let predicate = expr::lower(&filter.predicate, filter.input.schema())?;
        let schema = input.schema.clone();
        Ok(self.add(Filter { predicate, schema }, &[input.index], input.append_only))
    }
}
