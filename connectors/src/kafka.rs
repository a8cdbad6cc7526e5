//! Kafkas.
use crate::Connector;
use crate::options::OptionDoc;
use std::sync::Arc;
use streaming::error::{Error, Result};
use streaming::source::{Source, SourceSpec};
/// The connector.
pub struct Kafka;
impl Connector for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }
    fn options(&self) -> &'static [OptionDoc] {
        &[]
    }
    fn source(&self, _spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        Err(Error::Unsupported("connector \"kafka\" is not supported yet".into()))
    }
}
