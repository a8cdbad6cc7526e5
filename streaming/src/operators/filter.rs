//! Keeps the rows for which a condition is true.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::expr::Expr;
/// Keeps the rows for which a condition is true.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Filter {
    /// A boolean expression over the input's columns.
    pub predicate: Expr,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Filter {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("filter".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
