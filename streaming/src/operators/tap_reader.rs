//! Reads another job's relation: its snapshot first, then its changes, epoch by epoch. The driver runs it.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// Reads another job's relation: its snapshot first, then its changes, epoch by epoch. The driver runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TapReader {
    /// What is read.
    pub relation: storage::RelationId,
    /// Its name, for EXPLAIN.
    pub name: String,
    /// The columns of the relation that come out, in this order.
    pub columns: Vec<usize>,
    /// Whether the relation only ever grows.
    pub append_only: bool,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for TapReader {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("tap_reader".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
