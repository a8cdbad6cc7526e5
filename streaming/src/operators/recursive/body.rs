//! The body of a recursive query: operators that run one after the other, inside one task.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use storage::Batch;

use super::Recursive;
use crate::error::Result;
use crate::operator::{Operator, Output, Progress, Seal, StateSize, Task, TaskContext};

/// The name of the column that carries a row's round.
pub const ROUND: &str = "round";

pub(super) struct Body {
    /// The columns of leaf 0.
    rounds: SchemaRef,
    n_leaves: usize,
    nodes: Vec<Node>,
}

struct Node {
    task: Box<dyn Task>,
    /// Leaves first, then nodes.
    inputs: Vec<usize>,
}

impl Body {
    pub(super) fn open(recursive: &Recursive, ctx: &mut TaskContext) -> Result<Body> {
        let mut fields = recursive.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(ROUND, DataType::Int64, false)));
        let rounds: SchemaRef = Arc::new(Schema::new(fields));
        let mut schemas = vec![rounds.clone()];
        schemas.extend(ctx.inputs.iter().skip(1).cloned());
        let mut nodes = Vec::with_capacity(recursive.body.len());
        for (i, node) in recursive.body.iter().enumerate() {
            let open = &mut ctx.open_table;
            let mut open_table = |name: &str| open(&format!("{i}.{name}"));
            let mut inner = TaskContext {
                worker: ctx.worker,
                workers: ctx.workers,
                inputs: node.inputs.iter().map(|&input| schemas[input].clone()).collect(),
                functions: ctx.functions,
                memory_max: u64::MAX,
                lookups: None,
                open_table: &mut open_table,
            };
            nodes.push(Node { task: node.operator.start(&mut inner)?, inputs: node.inputs.clone() });
            schemas.push(node.operator.schema());
        }
        Ok(Body { rounds, n_leaves: recursive.n_inputs, nodes })
    }

    /// Rows with the round that they are in.
    pub(super) fn with_round(&self, rows: &Batch, rounds: Int64Array) -> Result<Batch> {
        let mut columns = rows.data().columns().to_vec();
        columns.push(Arc::new(rounds));
        Ok(rows.with_data(RecordBatch::try_new(self.rounds.clone(), columns)?))
    }

    /// What the last node makes of a batch of a leaf.
    pub(super) fn apply(&mut self, leaf: usize, delta: &Batch, out: &mut Output) -> Result<Vec<Batch>> {
        let mut said: Vec<Vec<Batch>> = vec![Vec::new(); self.n_leaves + self.nodes.len()];
        said[leaf].push(delta.clone());
        for (i, node) in self.nodes.iter_mut().enumerate() {
            for (n, &input) in node.inputs.iter().enumerate() {
                for delta in said[input].clone() {
                    let mut own = Output::default();
                    let mut progress = node.task.apply(n, &delta, &mut own)?;
                    while progress == Progress::More {
                        said[self.n_leaves + i].extend(own.take_batches());
                        progress = node.task.resume(&mut own)?;
                    }
                    said[self.n_leaves + i].extend(own.take_batches());
                    own.take_errors().into_iter().for_each(|error| out.error(error));
                }
            }
        }
        // A body without nodes makes the same rows again.
        Ok(said.pop().unwrap_or_default())
    }

    pub(super) fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        // What is known of the query's inputs is not known of a round's.
        let at = &Seal { watermarks: Vec::new(), ..at.clone() };
        for node in &mut self.nodes {
            if node.task.seal(at, out)? == Progress::More {
                return Ok(Progress::More);
            }
        }
        Ok(Progress::Done)
    }

    pub(super) fn state_size(&self) -> StateSize {
        self.nodes.iter().map(|node| node.task.state_size()).fold(StateSize::default(), |all, size| all + size)
    }
}
