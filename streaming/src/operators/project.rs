//! Computes columns row by row.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::expr::Expr;
/// Computes columns row by row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Project {
    /// One expression per output column, over the input's columns.
    pub exprs: Vec<Expr>,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Project {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("project".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
