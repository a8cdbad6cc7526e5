//! Groups rows and keeps aggregates per group, under retraction. Without group columns: exactly one row, also over no input.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::aggregates::AggregateCall;
/// Groups rows and keeps aggregates per group, under retraction. Without group columns: exactly one row, also over no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Aggregate {
    /// The group columns of the input; they come out first, in this order.
    pub group: Vec<usize>,
    /// The aggregates; they come out behind the group columns.
    pub calls: Vec<AggregateCall>,
    /// Whether the planner proved that no row is ever retracted from the input.
    pub append_only: bool,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Aggregate {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.group.is_empty() { Exchange::Single } else { Exchange::Hash(self.group.clone()) }]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("aggregate".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
