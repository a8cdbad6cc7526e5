//! All rows of all inputs.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// All rows of all inputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnionAll {
    /// The number of inputs.
    pub n_inputs: usize,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for UnionAll {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same; self.n_inputs]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("union_all".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
