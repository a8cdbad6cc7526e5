//! What a sink is to the engine: a target that takes changes together with how far they reach.
//!
//! A connector and a format together implement [`Sink`]; the engine knows neither. That each change is there once is
//! the target's transaction: it keeps the [`Position`] beside the changes, and says it when asked.

use std::fmt;
use std::str::FromStr;

use storage::{Batch, Column};

use crate::error::{Error, Result};

/// Where an entry of an outbox stands: what is delivered is everything up to a position, and nothing behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The epoch that the entry's changes reach up to.
    pub epoch: u64,
    /// Names the worker that wrote it.
    pub vnode: u8,
    /// Tells a worker's entries of one epoch apart.
    pub number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.epoch, self.vnode, self.number)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Position> {
        let mut parts = text.split('/');
        let mut next = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (epoch, vnode, number) = (next(), next(), next());
        match (epoch, vnode.and_then(|v| u8::try_from(v).ok()), number, parts.next()) {
            (Some(epoch), Some(vnode), Some(number), None) => Ok(Position { epoch, vnode, number }),
            _ => Err(Error::Failed(format!("\"{text}\" is not a position that a sink keeps"))),
        }
    }
}

/// What becomes of rows that change or go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkType {
    /// They do not: only new rows are delivered.
    #[default]
    AppendOnly,
    /// The newest row of each key, or that there is none.
    Upsert,
    /// Each change with the row before and the row after.
    Debezium,
}

impl SinkType {
    /// As `type = '...'` has it.
    pub fn name(self) -> &'static str {
        match self {
            SinkType::AppendOnly => "append-only",
            SinkType::Upsert => "upsert",
            SinkType::Debezium => "debezium",
        }
    }
}

/// What a CREATE SINK statement said: plain data, kept in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SinkSpec {
    /// The sink's name when it was created.
    pub name: String,
    /// Names the sink in its target, for ever: no other sink of any server has it.
    pub id: String,
    /// The `WITH (...)` options in the order written, values without quotes.
    pub options: Vec<(String, String)>,
    /// What becomes of rows that change or go.
    pub kind: SinkType,
    /// `ENCODE y`, lower case; `json` when left out.
    pub encode: String,
    /// The options behind `ENCODE y (...)`.
    pub encode_options: Vec<(String, String)>,
    /// `KEY ENCODE z`, lower case.
    pub key_encode: Option<String>,
    /// The columns that are delivered.
    pub columns: Vec<Column>,
    /// What Postgres calls their types, with modifiers.
    pub types: Vec<String>,
    /// The columns that identify a row, if any.
    pub key: Vec<usize>,
    /// What becomes of rows that the target refuses.
    #[serde(default)]
    pub on_error: OnError,
    /// The group that it delivers with, named as `id` names a sink.
    #[serde(default)]
    pub group: Option<String>,
}

impl SinkSpec {
    /// What the target's position is kept under: the group's, or the sink's own.
    pub fn progress_id(&self) -> &str {
        self.group.as_ref().unwrap_or(&self.id)
    }
}

/// What becomes of rows that the target refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnError {
    /// They go to `<sink>$errors`, and the others are delivered.
    #[default]
    Table,
    /// They hold the sink until the target takes them.
    Fail,
}

/// A target. Cheap to share; it connects when it is told to.
pub trait Sink: Send + Sync {
    /// Asks the target, once, when the sink is created, whether it will take the rows: makes a topic or a table if
    /// that was asked for, and compares columns.
    ///
    /// # Errors
    /// Whatever is wrong with it, in words for who wrote the statement.
    fn prepare(&self) -> Result<()>;

    /// Connects for delivery. Whoever delivered for the same sink before can do so no more.
    ///
    /// # Errors
    /// `Unavailable` mostly; it is tried again.
    fn connect(&self) -> Result<Box<dyn Delivery>>;

    /// The sink was dropped: what the target keeps for it besides the rows may go.
    fn forget(&self) {}
}

/// A connection to a target, used by one thread.
pub trait Delivery: Send {
    /// Up to where the target has everything; `None` if it has nothing or does not know.
    fn position(&self) -> Option<Position>;

    /// Delivers changes and that they reach up to `until`: all of it or nothing. With each batch comes the sink that it is of,
    /// by its place in the group; 0 where there is none. A batch has for each key at most one row
    /// that goes and one that comes. After an error the connection is given up.
    ///
    /// If the target refuses some of the rows, nothing is delivered, and the same changes come again without them: each row
    /// leaves or is set aside, never both.
    ///
    /// # Errors
    /// Anything: it is tried again with the same changes, on a new connection.
    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered>;
}

/// What is to be delivered: batches with the place of their sink in its group.
pub type Changes<'a> = dyn Iterator<Item = Result<(usize, Batch)>> + 'a;

/// How an attempt to deliver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The target has all of it.
    All,
    /// It has nothing, since it refuses these: at least one, [`REFUSED_MAX`] at most.
    Refused(Vec<Refused>),
}

/// Rows that one attempt may name as refused.
pub const REFUSED_MAX: usize = 1000;

/// A change that the target refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The batch, by its place among those of the attempt.
    pub batch: usize,
    /// Its rows that are left out: the one that comes, and with it the one that it replaces.
    pub rows: Vec<usize>,
    /// The row as text.
    pub raw: Vec<u8>,
    /// Why, in the target's words.
    pub reason: String,
    /// Five characters.
    pub sqlstate: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_written_and_read() {
        let position = Position { epoch: u64::MAX, vnode: 128, number: 7 };
        assert_eq!(position.to_string().parse::<Position>().expect("written by us"), position);
        for wrong in ["", "1/2", "1/2/3/4", "1/300/1", "a/1/1"] {
            assert!(wrong.parse::<Position>().is_err(), "{wrong}");
        }
    }
}
