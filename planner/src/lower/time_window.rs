//! TUMBLE, HOP and CUMULATE.

use std::sync::Arc;

use arrow_schema::Schema;
use streaming::operators::TimeWindow;

use super::{Lowering, Node, field};
use crate::error::Result;
use crate::nodes;

impl Lowering {
    pub(super) fn time_window(&mut self, window: &nodes::TimeWindow) -> Result<Node> {
        let input = self.lower(&window.input)?;
        let n = window.input.schema().fields().len();
        let input = self.exactly(input, n);
        let time = window.input.schema().index_of_column(&window.time)?;
        let data_type = input.schema.field(time).data_type().clone();
        let mut fields = input.schema.fields().to_vec();
        for name in ["window_start", "window_end"] {
            fields.push(Arc::new(field(name, data_type.clone())));
        }
        let schema = Arc::new(Schema::new(fields));
        let operator = TimeWindow { time, windows: window.windows, schema };
        Ok(self.add(operator, &[input.index], input.append_only))
    }
}
