//! The outside world: where rows come from and where they go. Knows neither SQL text nor operators nor the store's files.
//!
//! A [`transport`] moves records and never parses one; a [`formats`] module parses records and never connects;
//! [`decoding`] puts the two together, so that m transports and n formats are m + n files. Generators ([`nexmark`],
//! [`datagen`]) make columns directly.
//!
//! In reading order: [`options`] (`WITH (...)`), [`transport`], [`formats`] ([`formats::json`] is the one that counts),
//! [`decoding`], then one module per outside system: [`kafka`], [`file`], [`nexmark`], [`datagen`].
//!
//! Sinks ([`sinks`]) go the other way: [`encoding`] writes rows, and a module per outside system delivers them.
//!
//! To add a connector: a module that implements [`Connector`], a line in [`ALL`], a page in `docs/connectors/`.
//!
//! ```
//! use streaming::source::{SourceSpec, Sources};
//!
//! let spec = SourceSpec {
//!     options: [("connector", "nexmark"), ("nexmark.table.type", "Bid"), ("nexmark.event.num", "100")]
//!         .map(|(name, value)| (name.to_string(), value.to_string()))
//!         .to_vec(),
//!     format: String::new(),
//!     encode: String::new(),
//!     encode_options: Vec::new(),
//!     columns: Vec::new(),
//! };
//! let source = connectors::Connectors.open(&spec)?;
//! assert_eq!(source.columns()[0].name, "auction");
//! # Ok::<(), streaming::error::Error>(())
//! ```

use std::sync::Arc;

use storage::Column;
use streaming::error::{Error, Result};
use streaming::expr::Functions;
use streaming::lookup::{Lookup, LookupSpec};
use streaming::sink::{Sink, SinkSpec};
use streaming::source::{Source, SourceSpec, Sources};

pub mod blackhole;
pub mod datagen;
pub mod decoding;
pub mod encoding;
pub mod file;
pub mod formats;
pub mod kafka;
pub mod mysql;
pub mod nexmark;
pub mod options;
pub mod postgres;
pub mod sinks;
pub mod transport;

use options::{OptionDoc, invalid, invalid_hint};

/// An outside system.
pub trait Connector: Send + Sync {
    /// What `connector = '...'` says.
    fn name(&self) -> &'static str;

    /// The options that it knows besides `connector`.
    fn options(&self) -> &'static [OptionDoc];

    /// The columns of a source, those that are known without being declared included.
    fn columns(&self, spec: &SourceSpec) -> Result<Vec<Column>> {
        if spec.columns.is_empty() {
            return Err(Error::invalid("42601", format!("a source of connector \"{}\" needs columns", self.name())));
        }
        decoding::declared_columns(spec)
    }

    /// Opens the source that `spec` describes. Does not ask whether the outside system is there: a server starts
    /// without it.
    fn source(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>>;

    /// The same source with everything fixed that depends on the moment of its creation (`latest`, `now`).
    fn fix(&self, spec: &SourceSpec) -> Result<SourceSpec> {
        Ok(spec.clone())
    }
}

/// Every connector.
pub const ALL: &[&dyn Connector] = &[&datagen::Datagen, &file::File, &kafka::Kafka, &nexmark::Nexmark];

/// The options that every connector knows.
pub const OPTIONS: &[OptionDoc] = &[OptionDoc { name: "connector", default: "", doc: "which connector" }];

/// All connectors, as the engine asks for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connectors;

impl Connectors {
    /// Completes what a CREATE SOURCE statement said, once, before it goes into the catalog: the columns that the
    /// connector knows by itself, and what depends on the moment (`scan.startup.mode = 'latest'` becomes offsets), so
    /// that a restart reads the very same records. Opens the source too, so what is wrong is said now.
    ///
    /// # Errors
    /// Whatever is wrong with the options, and `Unavailable` if the outside system does not answer.
    pub fn prepare(&self, spec: &SourceSpec) -> Result<SourceSpec> {
        let connector = find(spec)?;
        let mut spec = SourceSpec { columns: connector.columns(spec)?, ..spec.clone() };
        spec = connector.fix(&spec)?;
        let source = connector.source(&spec)?;
        source.splits()?;
        spec.columns = source.columns().to_vec();
        Ok(spec)
    }
}

impl Sources for Connectors {
    fn open(&self, spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        let connector = find(spec)?;
        if spec.columns.is_empty() {
            let spec = SourceSpec { columns: connector.columns(spec)?, ..spec.clone() };
            return connector.source(&spec);
        }
        connector.source(spec)
    }

    fn sink(&self, specs: &[SinkSpec], functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        sinks::open(specs, functions)
    }

    fn lookup(
        &self,
        spec: &LookupSpec,
        keys: &[usize],
        wanted: &[usize],
        functions: Arc<dyn Functions>,
    ) -> Result<Arc<dyn Lookup>> {
        postgres::lookup::open(spec, keys, wanted, functions)
    }
}

/// The connector that `spec` names.
pub fn find(spec: &SourceSpec) -> Result<&'static dyn Connector> {
    let all = || ALL.iter().map(|c| c.name()).collect::<Vec<_>>().join(", ");
    let Some((_, name)) = spec.options.iter().find(|(name, _)| name.eq_ignore_ascii_case("connector")) else {
        return Err(invalid_hint("the option \"connector\" is missing", format!("The connectors are: {}.", all())));
    };
    let found = ALL.iter().find(|connector| connector.name().eq_ignore_ascii_case(name));
    match found {
        Some(connector) => Ok(*connector),
        None if RISINGWAVES.contains(&name.to_ascii_lowercase().as_str()) => {
            Err(Error::Unsupported(format!("connector \"{name}\" is not supported yet\nHINT:  There are: {}.", all())))
        }
        None => {
            Err(invalid_hint(format!("there is no connector \"{name}\""), format!("The connectors are: {}.", all())))
        }
    }
}

/// Refuses FORMAT and ENCODE clauses where a connector makes its columns itself.
fn refuse_format(spec: &SourceSpec, connector: &str) -> Result<()> {
    let plain = matches!(spec.format.as_str(), "" | "plain" | "native");
    let native = matches!(spec.encode.as_str(), "" | "json" | "native");
    if plain && native && spec.encode_options.is_empty() {
        return Ok(());
    }
    Err(invalid(format!("connector \"{connector}\" takes no FORMAT or ENCODE clause")))
}

/// Connectors that users of other systems will ask for.
const RISINGWAVES: &[&str] = &[
    "adbc_snowflake",
    "azblob",
    "citus-cdc",
    "gcs",
    "google_pubsub",
    "iceberg",
    "kinesis",
    "mongodb-cdc",
    "mqtt",
    "mysql-cdc",
    "nats",
    "posix_fs",
    "postgres-cdc",
    "pulsar",
    "s3",
    "sqlserver-cdc",
    "webhook",
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of options in `docs/connectors/` are made from the code; `UPDATE_EXPECT=1` writes them.
    #[test]
    fn documents_every_option() {
        let folder = std::path::Path::new("../docs/connectors");
        let mut pages: Vec<(&str, &str, &[OptionDoc])> =
            ALL.iter().map(|connector| (connector.name(), connector.name(), connector.options())).collect();
        pages.push((postgres::lookup::NAME, postgres::lookup::NAME, postgres::lookup::OPTIONS));
        pages.push(("formats", "json", formats::json::OPTIONS));
        pages.push(("formats", "csv", formats::csv::OPTIONS));
        pages
            .extend(sinks::ALL.iter().filter(|c| !c.options().is_empty()).map(|c| ("../sinks", c.name(), c.options())));
        pages.push(("../sinks", "sink-json", encoding::OPTIONS));
        for (page, what, docs) in pages {
            let path = folder.join(format!("{page}.md"));
            let text = std::fs::read_to_string(&path).unwrap();
            let mark = format!("<!-- options:{what} -->\n");
            let (before, after) = text.split_once(&mark).unwrap_or_else(|| panic!("{page}.md has no {mark}"));
            let after = after.trim_start_matches('\n');
            let rest: String =
                after.lines().skip_while(|line| line.starts_with('|')).fold(String::new(), |mut all, line| {
                    all += line;
                    all.push('\n');
                    all
                });
            let fresh = format!("{before}{mark}\n{}\n{}", options::table(docs), rest.trim_start_matches('\n'));
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                std::fs::write(&path, &fresh).unwrap();
            } else {
                assert!(fresh == text, "{page}.md is stale: run the test with UPDATE_EXPECT=1");
            }
        }
    }

    #[test]
    fn names_the_connectors_that_there_are() {
        let open = |name: &str| {
            let spec = SourceSpec {
                options: vec![("connector".into(), name.into())],
                format: String::new(),
                encode: String::new(),
                encode_options: vec![],
                columns: vec![],
            };
            Connectors.open(&spec).err().unwrap()
        };
        let error = open("kafak").to_string();
        assert_eq!(error, "there is no connector \"kafak\"\nHINT:  The connectors are: datagen, file, kafka, nexmark.");
        assert!(matches!(open("kinesis"), Error::Unsupported(_)));
    }
}
