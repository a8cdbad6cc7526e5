//! Each different row once, as long as at least one is there.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// Each different row once, as long as at least one is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Distinct {

    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Distinct {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Hash((0..self.schema.fields().len()).collect())]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("distinct".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
