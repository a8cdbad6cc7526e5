//! The first rows of each partition in an order: ORDER BY ... LIMIT, and ROW_NUMBER/RANK/DENSE_RANK() <= n.

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};

/// The first rows of each partition in an order: ORDER BY ... LIMIT, and ROW_NUMBER/RANK/DENSE_RANK() <= n.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TopN {
    /// The partition columns; empty for one partition.
    pub partition: Vec<usize>,
    /// The order within a partition; ties are broken by the whole row.
    pub order: Vec<SortKey>,
    /// Rows skipped.
    pub offset: u64,
    /// Rows kept behind the offset; `None` for all.
    pub limit: Option<u64>,
    /// Which rank is compared and, if it is an output column (the last one, bigint), that it comes out.
    pub rank: Rank,
    /// The output columns.
    pub schema: SchemaRef,
}

impl Operator for TopN {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![if self.partition.is_empty() { Exchange::Single } else { Exchange::Hash(self.partition.clone()) }]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("top_n".into()))
    }
    fn describe(&self) -> String {
        String::new()
    }
}

/// One column of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortKey {
    /// The column.
    pub column: usize,
    /// DESC
    pub descending: bool,
    /// NULLS FIRST
    pub nulls_first: bool,
}

/// How rows of a partition are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rank {
    /// The numbering.
    pub kind: RankKind,
    /// Whether the number comes out as the last column.
    pub output: bool,
}

/// ROW_NUMBER (also LIMIT), RANK (also FETCH ... WITH TIES) or DENSE_RANK.
#[allow(missing_docs)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RankKind {
    RowNumber,
    Rank,
    DenseRank,
}
