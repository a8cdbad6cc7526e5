//! What a statement is run with and what it answers, as the protocol and the session see it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use planner::ScalarValue;
use planner::catalog::Object;
use storage::SqlType;

use crate::copy_format::{LineReader, Options};
use crate::error::Result;
use crate::fields::{Field, Style};

/// What a statement answers.
pub enum Outcome {
    /// It is done: the command tag.
    Done(String),
    /// Rows, as they come.
    Rows(Rows),
    /// It wants data.
    CopyIn(CopyIn),
    /// It has data.
    CopyOut(CopyOut),
}

/// Rows, as they come.
pub struct Rows {
    /// The columns.
    pub fields: Vec<Field>,
    /// The rows. Dropping them stops the query.
    pub batches: BoxStream<'static, Result<RecordBatch>>,
    /// The command tag.
    pub tag: RowsTag,
    /// Whether each batch is sent at once.
    pub flush: bool,
    /// How values are written.
    pub style: Style,
    /// Rows that are sent already.
    pub sent: u64,
}

impl Rows {
    /// Rows that are all there.
    pub fn ready(fields: Vec<Field>, batch: RecordBatch, tag: RowsTag, style: Style) -> Rows {
        let batches = Box::pin(futures::stream::iter([Ok(batch)]));
        Rows { fields, batches, tag, flush: false, style, sent: 0 }
    }
}

/// The command tag of a statement that returns rows.
#[derive(Clone, Debug, PartialEq)]
pub enum RowsTag {
    /// `SELECT n`
    Select,
    /// `FETCH n`
    Fetch,
    /// A tag without a number, such as `EXPLAIN`.
    Fixed(&'static str),
    /// A tag that is known before the rows, such as `INSERT 0 3`.
    Known(String),
}

impl RowsTag {
    /// The tag after `n` rows.
    pub fn text(&self, n: u64) -> String {
        match self {
            RowsTag::Select => format!("SELECT {n}"),
            RowsTag::Fetch => format!("FETCH {n}"),
            RowsTag::Fixed(tag) => (*tag).to_owned(),
            RowsTag::Known(tag) => tag.clone(),
        }
    }
}

/// The parameters that a statement is run with.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    /// Their types.
    pub types: Vec<SqlType>,
    /// Their values.
    pub values: Vec<ScalarValue>,
}

impl Parameters {
    /// The types as binding wants them.
    pub fn known(&self) -> Vec<Option<SqlType>> {
        self.types.iter().cloned().map(Some).collect()
    }
}

/// Rows on their way out: `COPY ... TO STDOUT`.
pub struct CopyOut {
    /// The rows.
    pub rows: Rows,
    /// How they are written.
    pub options: Options,
}

/// Rows on their way in: `COPY ... FROM STDIN`.
pub struct CopyIn {
    /// Where they go.
    pub table: Arc<Object>,
    /// Positions of the columns, in the order in which values come.
    pub columns: Vec<usize>,
    /// What came and is not a whole line yet.
    pub lines: LineReader,
    /// How many rows were inserted.
    pub rows: u64,
}
