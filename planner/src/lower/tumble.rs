//! TUMBLE.

use std::sync::Arc;

use arrow_schema::Schema;
use streaming::operators::Tumble;

use super::{Lowering, Node, field};
use crate::error::Result;
use crate::nodes;

impl Lowering {
    pub(super) fn tumble(&mut self, tumble: &nodes::Tumble) -> Result<Node> {
        let input = self.lower(&tumble.input)?;
        let n = tumble.input.schema().fields().len();
        let input = self.exactly(input, n);
        let time = tumble.input.schema().index_of_column(&tumble.time)?;
        let data_type = input.schema.field(time).data_type().clone();
        let mut fields = input.schema.fields().to_vec();
        for name in ["window_start", "window_end"] {
            fields.push(Arc::new(field(name, data_type.clone())));
        }
        let schema = Arc::new(Schema::new(fields));
        let operator = Tumble { time, size_us: tumble.size_us, offset_us: tumble.offset_us, schema };
        Ok(self.add(operator, &[input.index], input.append_only))
    }
}
