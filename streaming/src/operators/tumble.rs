//! Adds `window_start` and `window_end` of the tumbling window that a row's time falls into. Rows without a time are dropped.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// Adds `window_start` and `window_end` of the tumbling window that a row's time falls into. Rows without a time are dropped.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tumble {
    /// The column with the event time (timestamp or timestamptz).
    pub time: usize,
    /// Length of a window in microseconds; positive.
    pub size_us: i64,
    /// Shift of the window starts against 1970-01-01 in microseconds.
    pub offset_us: i64,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for Tumble {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![Exchange::Same]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("tumble".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}
