//! The changes that INSERT, UPDATE, DELETE and TRUNCATE make to a table. The driver runs it: it has no input.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// The changes that INSERT, UPDATE, DELETE and TRUNCATE make to a table. The driver runs it: it has no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableSource {
    /// The table.
    pub relation: storage::RelationId,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for TableSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("table_source".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
