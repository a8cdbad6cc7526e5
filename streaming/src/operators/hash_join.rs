//! Joins two changing inputs on equal keys. Without keys: every pair (the right side is broadcast).

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::expr::Expr;
/// Joins two changing inputs on equal keys. Without keys: every pair (the right side is broadcast).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HashJoin {
    /// Which rows come out.
    pub kind: JoinKind,
    /// Key columns of the left and the right input, equally many and of equal Arrow types.
    pub keys: [Vec<usize>; 2],
    /// Per key: whether NULL equals NULL (IS NOT DISTINCT FROM); in `=`, a NULL key matches nothing.
    pub null_equal: Vec<bool>,
    /// Further condition over the left columns followed by the right columns; part of the ON clause.
    pub condition: Option<Expr>,
    /// Per side: whether the planner proved that no row is ever retracted.
    pub append_only: [bool; 2],
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for HashJoin {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("hash_join".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}

/// Which rows a join emits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinKind {
    /// Every matching pair.
    Inner,
    /// Also each left row without a match, padded with NULLs.
    Left,
    /// Also each right row without a match.
    Right,
    /// Both.
    Full,
    /// The left rows that have a match; only the left columns come out.
    Semi,
    /// The left rows that have no match; only the left columns come out.
    Anti,
    /// NOT IN: like `Anti`, but no row comes out when the right side holds a NULL key, and a left NULL key only
    /// when the right side is empty.
    NullAwareAnti,
    /// The left columns and a boolean: whether there is a match.
    Mark,
}
