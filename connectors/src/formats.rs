//! The formats: each turns raw records into columns. A format never connects.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use storage::Column;
use streaming::error::{Error, Result};
use streaming::source::SourceSpec;

use crate::options::invalid;
use crate::transport::{Framing, RawRecords};

pub mod csv;
pub mod datetime;
pub mod fields;
pub mod json;

/// Something that records are encoded in.
pub trait Format: Send + Sync {
    /// How the records lie in a file.
    fn framing(&self) -> Framing {
        Framing::default()
    }

    /// Opens a decoder of `columns`: only these are read, the rest of a record is skipped.
    fn decoder(&self, columns: &[Column]) -> Result<Box<dyn Decoder>>;

    /// Tells `decoder` all columns of the source, if the format goes by their order.
    fn positional(&self, _all: &[Column], _decoder: &mut dyn Decoder) -> Result<()> {
        Ok(())
    }
}

/// Decodes records of one split.
pub trait Decoder: Send {
    /// Takes the line before the records of a file.
    fn header(&mut self, _line: &[u8]) -> Result<()> {
        Ok(())
    }

    /// Takes all columns of the source, if the format goes by their order.
    fn declared(&mut self, _all: &[Column]) -> Result<()> {
        Ok(())
    }

    /// One array per column and one row per record. A record that cannot be read has a fault, and anything in its row.
    fn decode(&mut self, records: &mut RawRecords, faults: &mut Faults) -> Result<Vec<ArrayRef>>;
}

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// As Postgres would number it.
    pub sqlstate: &'static str,
    /// In the user's words.
    pub reason: String,
}

impl Fault {
    /// A fault.
    pub fn new(sqlstate: &'static str, reason: impl Into<String>) -> Fault {
        Fault { sqlstate, reason: reason.into() }
    }
}

/// The faults of some records, the first of each.
#[derive(Debug, Default)]
pub struct Faults(BTreeMap<usize, Fault>);

impl Faults {
    /// Notes that `record` cannot be read.
    pub fn add(&mut self, record: usize, fault: Fault) {
        self.0.entry(record).or_insert(fault);
    }

    /// Whether every record could be read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `record` cannot be read.
    pub fn contains(&self, record: usize) -> bool {
        self.0.contains_key(&record)
    }
}

impl IntoIterator for Faults {
    type Item = (usize, Fault);
    type IntoIter = std::collections::btree_map::IntoIter<usize, Fault>;

    /// All of them by record.
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The format that `spec` names.
pub fn open(spec: &SourceSpec) -> Result<Arc<dyn Format>> {
    match spec.format.as_str() {
        "" | "plain" => {}
        other @ ("upsert" | "debezium" | "debezium_mongo" | "maxwell" | "canal" | "native") => {
            return Err(Error::Unsupported(format!("FORMAT {} is not supported yet", other.to_uppercase())));
        }
        other => return Err(invalid(format!("there is no format \"{other}\""))),
    }
    match spec.encode.as_str() {
        "" | "json" => Ok(Arc::new(json::Json::new(&spec.encode_options)?)),
        "csv" => Ok(Arc::new(csv::Csv::new(&spec.encode_options)?)),
        other @ ("avro" | "protobuf" | "bytes" | "parquet" | "text") => {
            Err(Error::Unsupported(format!("ENCODE {} is not supported yet", other.to_uppercase())))
        }
        other => Err(invalid(format!("there is no encoding \"{other}\""))),
    }
}
