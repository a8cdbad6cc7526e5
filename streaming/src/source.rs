//! What a source is to the engine: splits with offsets, and a reader for each that hands over batches.
//!
//! A connector and a format together implement [`Source`]; the engine knows neither.

use std::sync::Arc;
use std::time::Duration;

use storage::{Batch, Column};

use crate::error::{Error, Result};
use crate::expr::Functions;
use crate::lookup::{Lookup, LookupSpec};
use crate::operator::RowError;
use crate::sink::{Sink, SinkSpec};

/// A position in a split: the number of the next record to read. Kafka's offset, a file's byte, a generator's event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Offset(pub i64);

/// One independently read part of a source: a Kafka partition, a file, a share of a generator's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Stable name, unique in the source.
    pub id: String,
    /// Where a reader without a checkpoint begins.
    pub start: Offset,
}

/// A source that is ready to be read. Cheap to share; readers are opened by it on threads of their own.
pub trait Source: Send + Sync {
    /// The columns that a record decodes to. Behind them stands the hidden `_row_id` (bigint): unique in the source
    /// and the same whenever the record is read again.
    fn columns(&self) -> &[Column];

    /// The splits that exist now. Asked again every [`Source::discovery_interval`].
    ///
    /// # Errors
    /// `Unavailable` if the outside system does not answer.
    fn splits(&self) -> Result<Vec<Split>>;

    /// How often new splits may appear; `None` for never.
    fn discovery_interval(&self) -> Option<Duration> {
        None
    }

    /// Opens a reader of `split` at `from`. `split_number` is unique among the source's splits and never reused: the
    /// reader forms `_row_id` as `split_number << 48 | offset`.
    ///
    /// `projection` lists the columns that are read (sorted; `columns().len()` stands for `_row_id`). A reader returns
    /// batches of exactly those columns in that order, and should not spend time on the others.
    fn open(&self, split: &str, split_number: u16, from: Offset, projection: &[usize]) -> Result<Box<dyn SplitReader>>;

    /// Decodes a record that could not be decoded when it was read, as a reader with this projection would now, as a row of
    /// this id.
    ///
    /// # Errors
    /// `Unsupported` if the source's records cannot fail.
    fn decode(&self, _record: &FailedRecord, _row_id: i64, _projection: &[usize]) -> Result<Records> {
        Err(Error::Unsupported("records of this source cannot be decoded again".into()))
    }

    /// Reads a record once more; `None` if it is not there any more.
    ///
    /// # Errors
    /// `Unavailable` if the outside system does not answer.
    fn fetch(&self, _split: &str, _offset: i64) -> Result<Option<FailedRecord>> {
        Ok(None)
    }

    /// Whether rows have something of a record besides its value.
    fn needs_whole_records(&self) -> bool {
        false
    }

    /// The end of `split` as of now, for lag and for the end of a catch-up; `None` if there is none (a generator).
    fn end(&self, split: &str) -> Result<Option<Offset>>;

    /// Tells the outside system how far the source is durably read. Only for people's monitoring; may do nothing.
    fn committed(&self, _offsets: &[(String, Offset)]) {}
}

/// Reads one split on a thread of its own.
pub trait SplitReader: Send {
    /// Waits up to `timeout` for records and hands over at most about `rows_max` of them.
    ///
    /// # Errors
    /// `Unavailable` asks the engine to open the reader again at the last offset after a pause.
    fn read(&mut self, rows_max: usize, timeout: Duration) -> Result<Read>;
}

/// What a reader has to say.
pub enum Read {
    /// Records.
    Records(Records),
    /// Nothing came. `next` may be beyond the last record's offset (a partition may end in control markers).
    Idle {
        /// The reader's position.
        next: Offset,
    },
    /// A bounded split is read to its end.
    End {
        /// The reader's position.
        next: Offset,
    },
}

/// A record that could not be decoded, with all that belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct FailedRecord {
    /// The split that it was read from.
    pub split: String,
    /// Where.
    pub offset: i64,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// When it was written, in microseconds since 1970.
    pub timestamp: Option<i64>,
}

/// Some decoded records of a split, in its order.
pub struct Records {
    /// The rows, in the projection's columns. Without diffs unless the format carries changes (CDC).
    pub batch: Batch,
    /// Records that could not be decoded.
    pub errors: Vec<RowError>,
    /// The position after them.
    pub next: Offset,
    /// Number of records, decoded or not.
    pub records: usize,
    /// Their size on the wire in bytes.
    pub bytes: usize,
    /// Of records that are put through again: the splits and offsets that they were read from first.
    pub again: Vec<(String, i64)>,
}

/// Makes a [`Source`] or a [`Sink`] out of what a CREATE statement said. Implemented where the connectors are known.
pub trait Sources: Send + Sync {
    /// Opens the source that `options` (the `WITH` clause; `format` and `encode` options included) describe.
    fn open(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>>;

    /// Opens the sink that `specs` describe, several if they are a group; does not connect yet. Values become text by
    /// `functions`.
    fn sink(&self, specs: &[SinkSpec], _functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        let name = specs.first().map_or("", |spec| spec.name.as_str());
        Err(Error::Unsupported(format!("sink \"{name}\" has no connector")))
    }

    /// Opens a table outside that is asked for its columns `wanted` by its columns `keys`; does not connect yet. Keys become
    /// text by `functions`.
    fn lookup(
        &self,
        spec: &LookupSpec,
        _keys: &[usize],
        _wanted: &[usize],
        _functions: Arc<dyn Functions>,
    ) -> Result<Arc<dyn Lookup>> {
        Err(Error::Unsupported(format!("table \"{}\" has no connector", spec.name)))
    }
}

/// What a CREATE SOURCE statement said: plain data, kept in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SourceSpec {
    /// The `WITH (...)` options in the order written, values without quotes.
    pub options: Vec<(String, String)>,
    /// `FORMAT x`, lower case; `plain` when left out.
    pub format: String,
    /// `ENCODE y`, lower case; `json` when left out.
    pub encode: String,
    /// The options behind `ENCODE y (...)`.
    pub encode_options: Vec<(String, String)>,
    /// The declared columns.
    pub columns: Vec<Column>,
}
