//! A cursor: a query whose rows are taken as they are asked for, forward only.

use arrow::array::RecordBatch;
use futures::StreamExt;
use planner::statement::FetchCount;

use crate::error::Result;
use crate::fields::Field;
use crate::outcome::Rows;

/// A query that is read piece by piece.
pub struct Cursor {
    /// The rows to come.
    pub rows: Rows,
    left: Option<(RecordBatch, usize)>,
    hold: bool,
    /// When it was declared and with what, for `pg_cursors`.
    pub text: String,
}

impl Cursor {
    /// A cursor before its first row.
    pub fn new(rows: Rows, hold: bool, text: &str) -> Cursor {
        Cursor { rows, left: None, hold, text: text.to_owned() }
    }

    /// Whether it outlives the transaction.
    pub fn is_holdable(&self) -> bool {
        self.hold
    }

    /// The columns.
    pub fn fields(&self) -> &[Field] {
        &self.rows.fields
    }

    /// The next rows.
    pub async fn fetch(&mut self, count: FetchCount) -> Result<Vec<RecordBatch>> {
        let (mut batches, mut n) = (Vec::new(), 0);
        let max = match count {
            FetchCount::Next(max) => max as usize,
            FetchCount::All => usize::MAX,
        };
        while n < max {
            let (batch, from) = match self.left.take() {
                Some(left) => left,
                None => match self.rows.batches.next().await.transpose()? {
                    Some(batch) => (batch, 0),
                    None => break,
                },
            };
            let take = (batch.num_rows() - from).min(max - n);
            batches.push(batch.slice(from, take));
            n += take;
            if from + take < batch.num_rows() {
                self.left = Some((batch, from + take));
            }
        }
        Ok(batches)
    }
}
