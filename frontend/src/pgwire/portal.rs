//! A portal: a prepared statement bound to its parameters.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::fields::Format;
use crate::outcome::{Parameters, Rows};
use crate::session::prepared::Prepared;

/// A prepared statement with its parameters, and how far it is executed.
pub struct Portal {
    /// The statement.
    pub prepared: Arc<Prepared>,
    /// What it is run with.
    pub parameters: Parameters,
    /// How its values are written.
    pub formats: Vec<Format>,
    /// How far it is.
    pub state: State,
}

/// How far a portal is executed.
pub enum State {
    /// Not at all.
    Ready,
    /// Some rows are sent.
    Suspended {
        /// Where they come from.
        rows: Rows,
        /// What is left of a batch.
        left: Option<(RecordBatch, usize)>,
    },
    /// All rows are sent.
    Finished,
}
