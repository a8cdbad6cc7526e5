//! All rows of all inputs.
//!
//! Rule    Every change comes out as it came in.
//! State   None.
//! Epochs  Emits while the epoch is open.
//! Limits  None.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::error::Result;
use crate::operator::{Exchange, Operator, Output, Progress, Task, TaskContext, WatermarkContext};
use crate::operators::with_schema;
use crate::watermark::{self, Watermarks};

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
        Ok(Box::new(UnionAllTask { schema: self.schema.clone() }))
    }
    fn describe(&self) -> String {
        format!("{} inputs", self.n_inputs)
    }
    fn watermarks(&self, inputs: &[Watermarks], _ctx: &WatermarkContext) -> Watermarks {
        watermark::of_all(inputs, self.schema.fields().len())
    }
}

struct UnionAllTask {
    schema: SchemaRef,
}

impl Task for UnionAllTask {
    fn apply(&mut self, _input: usize, delta: &Batch, out: &mut Output) -> Result<Progress> {
        // The inputs may name their columns differently.
        out.emit(with_schema(delta, &self.schema)?);
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle;
    use crate::testing::schema;

    oracle!(
        union_all,
        UnionAll { n_inputs: 3, schema: schema("x bigint") },
        ["a bigint", "b bigint", "c bigint"],
        "select a from t0 union all select b from t1 union all select c from t2"
    );
}
