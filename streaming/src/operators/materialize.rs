//! Keeps the job's result as a relation that can be read and tapped. The root of every job.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// Keeps the job's result as a relation that can be read and tapped. The root of every job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Materialize {
    /// The relation that is kept.
    pub relation: storage::RelationId,
    /// The columns that identify a row; the rows live on the worker of their hash. Empty: one partition.
    pub key: Vec<usize>,
    /// Whether `key` is unique; otherwise rows are counted.
    pub unique: bool,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Materialize {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.key.is_empty() { Exchange::Single } else { Exchange::Hash(self.key.clone()) }]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("materialize".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
