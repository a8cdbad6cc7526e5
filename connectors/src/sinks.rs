//! The connectors of sinks, and what they share: a batch's changes as deletes, inserts and updates of keys.

use std::collections::HashMap;
use std::sync::Arc;

use storage::Batch;
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::sink::{Sink, SinkSpec, SinkType};

use crate::options::{OptionDoc, Options, invalid, invalid_hint};
use crate::{blackhole, file, kafka, mysql, postgres};

pub(crate) mod work;

/// An outside system that takes changes.
pub trait SinkConnector: Send + Sync {
    /// What `connector = '...'` says.
    fn name(&self) -> &'static str;

    /// The options that it knows besides `connector`.
    fn options(&self) -> &'static [OptionDoc];

    /// Opens the sink that `spec` describes; does not connect yet.
    fn sink(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>>;

    /// Opens the sinks of a group, which deliver in one transaction; does not connect yet.
    fn group(&self, specs: &[SinkSpec], _functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        let name = specs.first().map_or("", |spec| spec.name.as_str());
        let message =
            format!("sink \"{name}\" cannot be in a group: connector \"{}\" has no transactions", self.name());
        Err(Error::Unsupported(format!("{message} of several sinks\nHINT:  kafka, mysql and postgres have.")))
    }
}

/// Every connector of sinks.
pub const ALL: &[&dyn SinkConnector] = &[
    &blackhole::Blackhole,
    &file::sink::FileSinks,
    &kafka::sink::KafkaSinks,
    &mysql::MysqlSinks,
    &postgres::PostgresSinks,
    &blackhole::Print,
];

/// Opens a sink, or those of a group.
pub fn open(specs: &[SinkSpec], functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
    let Some(spec) = specs.first() else { return Err(Error::Failed("a group without a sink".into())) };
    let name = spec.options.iter().find(|(name, _)| name == "connector").map_or("", |(_, value)| value.as_str());
    let known = || ALL.iter().map(|connector| connector.name()).collect::<Vec<_>>().join(", ");
    let found = ALL.iter().find(|connector| connector.name().eq_ignore_ascii_case(name));
    match found {
        Some(connector) if spec.group.is_some() => connector.group(specs, functions),
        Some(connector) => connector.sink(spec, functions),
        None if RISINGWAVES.contains(&name.to_ascii_lowercase().as_str()) => {
            let message = format!("a sink of connector \"{name}\" is not supported yet");
            Err(Error::Unsupported(format!("{message}\nHINT:  There are: {}.", known())))
        }
        None => {
            let message = format!("there is no connector \"{name}\" for sinks");
            Err(invalid_hint(message, format!("The connectors of sinks are: {}.", known())))
        }
    }
}

/// What users of other systems will ask for.
const RISINGWAVES: &[&str] = &[
    "azblob",
    "bigquery",
    "cassandra",
    "clickhouse",
    "deltalake",
    "doris",
    "dynamodb",
    "elasticsearch",
    "gcs",
    "google_pubsub",
    "iceberg",
    "jdbc",
    "kinesis",
    "mariadb",
    "mongodb",
    "mqtt",
    "nats",
    "opensearch",
    "pulsar",
    "redis",
    "redshift",
    "s3",
    "snowflake",
    "sqlserver",
    "starrocks",
    "webhdfs",
];

/// The options of `spec` for `connector`.
pub(crate) fn options(spec: &SinkSpec, connector: &dyn SinkConnector) -> Result<Options> {
    let owner = format!("connector \"{}\" of a sink", connector.name());
    Options::new(owner, &spec.options, &[crate::OPTIONS, connector.options()])
}

/// Refuses what a connector makes nothing of.
pub(crate) fn refuse_encoding(spec: &SinkSpec, connector: &str) -> Result<()> {
    if spec.encode == "json" && spec.encode_options.is_empty() && spec.key_encode.is_none() {
        return Ok(());
    }
    Err(invalid(format!("connector \"{connector}\" takes no ENCODE clause")))
}

/// Milliseconds since 1970.
pub(crate) fn millis() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// A change of a key: rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row that goes.
    pub before: Option<usize>,
    /// The row that comes.
    pub after: Option<usize>,
}

/// The changes of a batch, one per key in the order in which the keys first come; without a key, or if rows are only added,
/// one per row, as often as it is there.
pub(crate) fn changes(batch: &Batch, spec: &SinkSpec) -> Result<Vec<Change>> {
    let n = batch.num_rows();
    if spec.kind == SinkType::AppendOnly || spec.key.is_empty() {
        let copies = (0..n).flat_map(|row| std::iter::repeat_n(row, batch.diff(row).max(0) as usize));
        return Ok(copies.map(|row| Change { before: None, after: Some(row) }).collect());
    }
    let key: Vec<_> = spec.key.iter().map(|k| batch.column(*k).clone()).collect();
    let keys = storage::row::encode_rows(&key, n)?;
    let mut changes: Vec<Change> = Vec::with_capacity(n);
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(n);
    for row in 0..n {
        let place = *places.entry(keys.get(row)).or_insert_with(|| {
            changes.push(Change { before: None, after: None });
            changes.len() - 1
        });
        let diff = batch.diff(row);
        let side = if diff < 0 { &mut changes[place].before } else { &mut changes[place].after };
        if side.is_some() || diff.abs() != 1 {
            return Err(Error::Failed("the sink's key does not identify its rows".into()));
        }
        *side = Some(row);
    }
    Ok(changes)
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::array::{Int64Array, RecordBatch, StringViewArray};
    use storage::{Column, SqlType};

    use super::*;

    /// Shows values as Arrow does.
    pub(crate) use streaming::testing::TestFunctions as Plain;

    pub(crate) fn spec(connector: &str, kind: SinkType, options: &[(&str, &str)]) -> SinkSpec {
        let mut all = vec![("connector".to_string(), connector.to_string())];
        all.extend(options.iter().map(|(n, v)| (n.to_string(), v.to_string())));
        SinkSpec {
            name: "s".into(),
            id: "0123456789abcdef".into(),
            options: all,
            kind,
            encode: "json".into(),
            encode_options: vec![],
            key_encode: None,
            columns: vec![Column::new("id", SqlType::BigInt), Column::new("name", SqlType::Text)],
            types: vec!["bigint".into(), "text".into()],
            key: if kind == SinkType::AppendOnly { vec![] } else { vec![0] },
            on_error: Default::default(),
            group: None,
        }
    }

    pub(crate) fn batch(rows: &[(i64, &str, i64)]) -> Batch {
        let columns = [Column::new("id", SqlType::BigInt), Column::new("name", SqlType::Text)];
        let ids = Int64Array::from_iter_values(rows.iter().map(|r| r.0));
        let names = StringViewArray::from_iter_values(rows.iter().map(|r| r.1));
        let schema = storage::types::arrow_schema(&columns);
        let data = RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(names)]).expect("two columns");
        Batch::new(data, Some(Int64Array::from_iter_values(rows.iter().map(|r| r.2))))
    }

    #[test]
    fn changes_are_paired_by_key() {
        let upsert = spec("blackhole", SinkType::Upsert, &[]);
        let rows = batch(&[(1, "b", 1), (2, "x", -1), (1, "a", -1), (3, "n", 1)]);
        let pairs: Vec<_> = changes(&rows, &upsert).unwrap().iter().map(|c| (c.before, c.after)).collect();
        assert_eq!(pairs, [(Some(2), Some(0)), (Some(1), None), (None, Some(3))]);
        assert!(changes(&batch(&[(1, "a", 1), (1, "b", 1)]), &upsert).is_err());
        let append = spec("blackhole", SinkType::AppendOnly, &[]);
        let rows = batch(&[(1, "a", 2), (2, "b", 1)]);
        let rows: Vec<_> = changes(&rows, &append).unwrap().iter().map(|c| c.after).collect();
        assert_eq!(rows, [Some(0), Some(0), Some(1)]);
    }

    #[test]
    fn names_the_connectors_that_there_are() {
        let open = |name: &str| {
            super::open(&[spec(name, SinkType::AppendOnly, &[])], Arc::new(Plain)).err().unwrap().to_string()
        };
        assert!(open("kafak").starts_with("there is no connector \"kafak\" for sinks\nHINT:"), "{}", open("kafak"));
        assert!(open("redis").starts_with("a sink of connector \"redis\" is not supported yet"), "{}", open("redis"));
    }
}
