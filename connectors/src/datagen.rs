//! Datagens.
use crate::Connector;
use crate::options::OptionDoc;
use std::sync::Arc;
use streaming::error::{Error, Result};
use streaming::source::{Source, SourceSpec};
/// The connector.
pub struct Datagen;
impl Connector for Datagen {
    fn name(&self) -> &'static str {
        "datagen"
    }
    fn options(&self) -> &'static [OptionDoc] {
        &[]
    }
    fn source(&self, _spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        Err(Error::Unsupported("connector \"datagen\" is not supported yet".into()))
    }
}
