//! Functions that return several rows, which are lists by now.

use std::sync::Arc;

use arrow_schema::{Field, Schema};
use datafusion::common::NullHandling;
use datafusion::logical_expr::Unnest as DfUnnest;
use streaming::operators::Unnest;

use super::{Lowering, Node, field, unsupported};
use crate::error::Result;

impl Lowering {
    pub(super) fn unnest(&mut self, unnest: &DfUnnest) -> Result<Node> {
        let n = unnest.input.schema().fields().len();
        let in_place = unnest.dependency_indices.iter().copied().eq(0..n);
        let deep = unnest.list_type_columns.iter().any(|(_, list)| list.depth != 1);
        if !in_place || deep || !unnest.struct_type_columns.is_empty() {
            return Err(unsupported("this form of unnest"));
        }
        let outer = match unnest.options.null_handling {
            NullHandling::Drop => false,
            NullHandling::PreserveAndExpandEmpty => true,
            NullHandling::Preserve => return Err(unsupported("this form of unnest")),
        };
        let input = self.lower(&unnest.input)?;
        let input = self.exactly(input, n);
        let lists = unnest.list_type_columns.iter().map(|(column, _)| *column).collect();
        let types = unnest.schema.fields().iter();
        let fields: Vec<Field> = types.enumerate().map(|(c, f)| field(input.name(c), f.data_type().clone())).collect();
        let schema = Arc::new(Schema::new(fields));
        Ok(self.add(Unnest { lists, outer, schema }, &[input.index], input.append_only))
    }
}
