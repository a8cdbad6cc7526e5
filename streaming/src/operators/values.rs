//! Constant rows, once, in the job's first epoch (on worker 0).

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::expr::Literal;
/// Constant rows, once, in the job's first epoch (on worker 0).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Values {
    /// Rows of literals.
    pub rows: Vec<Vec<Literal>>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Values {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("values".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
