//! Exactly one row out of at most one: a row of NULLs over no input, an error row over several (a scalar subquery).

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// Exactly one row out of at most one: a row of NULLs over no input, an error row over several (a scalar subquery).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SingleRow {

    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for SingleRow {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Single]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("single_row".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
