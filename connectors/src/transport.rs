//! What moves records without looking into them, and what a format gets to see of them.

use std::time::Duration;

use streaming::error::Result;
use streaming::source::{Offset, Split};

/// An outside system that holds records. It never parses one.
pub trait Transport: Send + Sync {
    /// The splits that exist now.
    fn splits(&self) -> Result<Vec<Split>>;

    /// How often new splits may appear; `None` for never.
    fn discovery_interval(&self) -> Option<Duration>;

    /// The end of `split` as of now.
    fn end(&self, split: &str) -> Result<Option<Offset>>;

    /// Tells the outside system how far the source is durably read.
    fn committed(&self, _offsets: &[(String, Offset)]) {}

    /// Opens a reader of `split` at `from`.
    fn open(&self, split: &str, from: Offset, wanted: Wanted) -> Result<Box<dyn TransportReader>>;
}

/// Reads the records of one split, in order.
pub trait TransportReader: Send {
    /// Waits up to `timeout`, then puts at most about `rows_max` records into `records`, which is empty.
    fn read(&mut self, rows_max: usize, timeout: Duration, records: &mut RawRecords) -> Result<Arrival>;

    /// The line before the first record, if the format asked for one.
    fn header(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Records.
    Records(Offset),
    /// None for now.
    Idle(Offset),
    /// None, now and later.
    End(Offset),
}

/// What of a record is read besides its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The key.
    pub key: bool,
    /// The headers.
    pub headers: bool,
}

/// How records lie in a stream of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// A line break between two of these belongs to the record.
    pub quote: Option<u8>,
    /// The first line is not a record.
    pub header: bool,
}

/// A part of one of the buffers of [`RawRecords`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Its first byte.
    pub start: u32,
    /// Its length.
    pub len: u32,
}

impl Bytes {
    /// The bytes in their buffer.
    pub fn of(self, buffer: &[u8]) -> &[u8] {
        &buffer[self.start as usize..][..self.len as usize]
    }
}

/// One record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawRecord {
    /// Its value in `values`; `None` for a record without one (a tombstone).
    pub value: Option<Bytes>,
    /// Its key in `rest`.
    pub key: Option<Bytes>,
    /// Its offset in the split.
    pub offset: i64,
    /// When it was written, in microseconds since 1970; `None` if unknown.
    pub timestamp: Option<i64>,
}

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawHeader {
    /// The record's place in `records`.
    pub record: usize,
    /// The header's name.
    pub name: String,
    /// Its value in `rest`.
    pub value: Option<Bytes>,
}

/// Some records of one split. Their values lie behind one another, with a byte that no UTF-8 sequence may contain
/// between them (a line break), so that all of them are checked for UTF-8 in one pass.
#[derive(Clone, Debug, Default)]
pub struct RawRecords {
    /// The values.
    pub values: Vec<u8>,
    /// Keys and header values.
    pub rest: Vec<u8>,
    /// The records.
    pub records: Vec<RawRecord>,
    /// Their headers, if wanted.
    pub headers: Vec<RawHeader>,
    /// The values as they came, if a decoder had to change `values`.
    pub bad_values: Vec<u8>,
}

impl RawRecords {
    /// Empties the buffers and keeps their memory.
    pub fn clear(&mut self) {
        self.values.clear();
        self.rest.clear();
        self.records.clear();
        self.headers.clear();
        self.bad_values.clear();
    }

    /// The value of `record` as it came.
    pub fn value(&self, record: &RawRecord) -> Option<&[u8]> {
        let values = if self.bad_values.is_empty() { &self.values } else { &self.bad_values };
        record.value.map(|value| value.of(values))
    }

    /// Adds `value` to the values and returns where it lies.
    pub fn push_value(&mut self, value: &[u8]) -> Bytes {
        let start = self.values.len() as u32;
        self.values.extend_from_slice(value);
        self.values.push(b'\n');
        Bytes { start, len: value.len() as u32 }
    }

    /// Adds a key or a header's value and returns where it lies.
    pub fn push_rest(&mut self, value: &[u8]) -> Bytes {
        let start = self.rest.len() as u32;
        self.rest.extend_from_slice(value);
        Bytes { start, len: value.len() as u32 }
    }
}
