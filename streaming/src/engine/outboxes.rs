//! What jobs have outside: the outboxes of sinks, opened with their jobs and delivered from, and what lookups ask.

use std::sync::Arc;

use storage::{RelationId, Store};

use super::tables::Tables;
use super::{Engine, into_table};
use crate::error::{Error, Result};
use crate::expr::Functions;
use crate::lookup::Lookups;
use crate::operators::{AnyOperator, Sink};
use crate::outbox::{self, Outbox};
use crate::sink::SinkSpec;
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

/// What a sink's job delivers.
pub fn sink_spec(spec: &JobSpec) -> Result<&SinkSpec> {
    root(spec).map(|sink| &sink.spec).ok_or_else(|| Error::Failed("the job is not a sink's".into()))
}

/// The lookup joins of a job with the log of their answers; `None` for other jobs.
pub fn lookups(
    store: &Store,
    spec: &JobSpec,
    sources: &dyn Sources,
    functions: &Arc<dyn Functions>,
) -> Result<Option<Arc<Lookups>>> {
    Lookups::of(store, spec, &|join| sources.lookup(&join.table, &join.table_keys, &join.wanted, functions.clone()))
}

/// The target of a sink's job, or of those of a group.
pub fn sink(
    specs: &[JobSpec],
    tables: &Arc<Tables>,
    sources: &dyn Sources,
    functions: &Arc<dyn Functions>,
) -> Result<Arc<dyn crate::sink::Sink>> {
    let specs: Vec<SinkSpec> = specs.iter().map(|spec| sink_spec(spec).cloned()).collect::<Result<_>>()?;
    let into_table = |(name, value): &(String, String)| name == "connector" && value == into_table::CONNECTOR;
    match &specs[..] {
        [alone] if alone.options.iter().any(into_table) => {
            Ok(Arc::new(into_table::IntoTable::new(alone, tables.clone())?))
        }
        specs => sources.sink(specs, functions.clone()),
    }
}

/// A sink that is being created in a group: when dropped, the others deliver without it unless it stays.
pub struct Leaves<'a> {
    engine: &'a Engine,
    sink: SinkSpec,
    stays: bool,
}

impl<'a> Leaves<'a> {
    /// A sink that is not there yet.
    pub fn new(engine: &'a Engine, sink: SinkSpec) -> Leaves<'a> {
        Leaves { engine, sink, stays: false }
    }

    /// It was created.
    pub fn stays(mut self) {
        self.stays = true;
    }
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if !self.stays
            && let Err(error) = self.engine.deliver(&self.sink)
        {
            tracing::warn!(sink = self.sink.name, "the others of its group cannot be delivered: {error}");
        }
    }
}
