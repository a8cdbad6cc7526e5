//! Files.
use crate::Connector;
use crate::options::OptionDoc;
use std::sync::Arc;
use streaming::error::{Error, Result};
use streaming::source::{Source, SourceSpec};
/// The connector.
pub struct File;
impl Connector for File {
    fn name(&self) -> &'static str {
        "file"
    }
    fn options(&self) -> &'static [OptionDoc] {
        &[]
    }
    fn source(&self, _spec: &SourceSpec) -> Result<Arc<dyn Source>> {
        Err(Error::Unsupported("connector \"file\" is not supported yet".into()))
    }
}
