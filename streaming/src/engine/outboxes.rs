//! The outboxes of the engine's sinks: opened with their jobs, and delivered from.

use std::sync::Arc;

use storage::{RelationId, Store};

use super::into_table;
use super::tables::Tables;
use crate::error::{Error, Result};
use crate::expr::Functions;
use crate::operators::{AnyOperator, Sink};
use crate::outbox::{self, Outbox};
use crate::source::Sources;
use crate::spec::JobSpec;

/// The key that a paused sink has.
pub fn paused_key(relation: RelationId) -> Vec<u8> {
    format!("engine/paused/{}", relation.0).into_bytes()
}

/// What a sink's job ends in; `None` for other jobs.
pub fn root(spec: &JobSpec) -> Option<&Sink> {
    match spec.plan.nodes.last().map(|node| &node.operator) {
        Some(AnyOperator::Sink(sink)) => Some(sink),
        _ => None,
    }
}

/// The outbox of a sink's job with what waits in it; `None` for other jobs.
pub fn open(store: &Arc<Store>, spec: &JobSpec, durable: u64) -> Result<Option<Arc<Outbox>>> {
    let Some(sink) = root(spec) else { return Ok(None) };
    let paused = store.meta_get(&paused_key(spec.relation))?.is_some();
    let (table, _) = outbox::table(store, spec)?;
    Ok(Some(Arc::new(Outbox::open(&table, durable, sink.outbox_bytes_max, paused)?)))
}

/// The target of a sink's job.
pub fn sink(
    spec: &JobSpec,
    tables: &Arc<Tables>,
    sources: &dyn Sources,
    functions: &Arc<dyn Functions>,
) -> Result<Arc<dyn crate::sink::Sink>> {
    let sink = root(spec).ok_or_else(|| Error::Failed("the job is not a sink's".into()))?;
    let into_table = |(name, value): &(String, String)| name == "connector" && value == into_table::CONNECTOR;
    if sink.spec.options.iter().any(into_table) {
        return Ok(Arc::new(into_table::IntoTable::new(&sink.spec, tables.clone())?));
    }
    sources.sink(&sink.spec, functions.clone())
}
