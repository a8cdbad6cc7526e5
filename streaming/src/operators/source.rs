//! Reads the splits of an external source. The driver runs it: it has no input.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// Reads the splits of an external source. The driver runs it: it has no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The source as the catalog describes it.
    pub spec: crate::source::SourceSpec,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Source {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("source".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
