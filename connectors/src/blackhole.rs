//! Sinks without a target: `blackhole` forgets what it is given, `print` writes it to the server's log.

use std::sync::Arc;

use streaming::error::Result;
use streaming::expr::Functions;
use streaming::sink::{Changes, Delivered, Delivery, Position, Sink, SinkSpec};

use crate::encoding::Encoder;
use crate::options::OptionDoc;
use crate::sinks::{self, SinkConnector};

/// Forgets what it is given.
pub struct Blackhole;

/// Writes what it is given to the log.
pub struct Print;

impl SinkConnector for Blackhole {
    fn name(&self) -> &'static str {
        "blackhole"
    }

    fn options(&self) -> &'static [OptionDoc] {
        &[]
    }

    fn sink(&self, spec: &SinkSpec, _functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        sinks::options(spec, self)?;
        sinks::refuse_encoding(spec, "blackhole")?;
        Ok(Arc::new(Nowhere { print: None }))
    }
}

impl SinkConnector for Print {
    fn name(&self) -> &'static str {
        "print"
    }

    fn options(&self) -> &'static [OptionDoc] {
        &[]
    }

    fn sink(&self, spec: &SinkSpec, functions: Arc<dyn Functions>) -> Result<Arc<dyn Sink>> {
        sinks::options(spec, self)?;
        Ok(Arc::new(Nowhere { print: Some(Arc::new((spec.name.clone(), Encoder::new(spec, functions)?))) }))
    }
}

#[derive(Clone)]
struct Nowhere {
    print: Option<Arc<(String, Encoder)>>,
}

impl Sink for Nowhere {
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    fn connect(&self) -> Result<Box<dyn Delivery>> {
        Ok(Box::new(self.clone()))
    }
}

impl Delivery for Nowhere {
    fn position(&self) -> Option<Position> {
        None
    }

    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered> {
        for batch in changes {
            let (_, batch) = batch?;
            let Some(print) = &self.print else { continue };
            let (sink, encoder) = &**print;
            for row in 0..batch.num_rows() {
                let mut text = String::new();
                encoder.row(&batch, row, &mut text);
                tracing::info!(target: "print", sink, epoch = until.epoch, diff = batch.diff(row), "{text}");
            }
        }
        Ok(Delivered::All)
    }
}
