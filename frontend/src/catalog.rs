//! What exists: the current catalog for everybody who binds a statement, one writer at a time, every object durable.
//!
//! An object is kept as JSON under `catalog/object/<id>`, together with its job, and changes in the same checkpoint
//! that the job begins or ends in: after a crash both are there or neither is. System relations are not kept; they
//! are part of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use planner::catalog::{Catalog, Object, ObjectKind};
use storage::{RelationId, Store};
use streaming::engine::{CatalogChanges, JobSpec};
use tokio::sync::{Mutex, MutexGuard};

use crate::error::Result;

const OBJECT_PREFIX: &str = "catalog/object/";
const SINK_GROUP_PREFIX: &str = "catalog/sink_group/";

/// Sinks that deliver in one transaction: what they share.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SinkGroup {
    /// Its name.
    pub name: String,
    /// Names it in its target, from its first sink to its last: the next first one begins anew.
    pub id: String,
    /// The options of all its sinks.
    pub options: Vec<(String, String)>,
}

impl SinkGroup {
    /// Where its sinks deliver to.
    pub fn connector(&self) -> Option<&str> {
        self.options.iter().find(|(name, _)| name == "connector").map(|(_, value)| value.as_str())
    }
}

/// Whether an object is a sink of a group.
pub fn is_in_group(object: &Object, group: &SinkGroup) -> bool {
    sink_spec(object).is_some_and(|spec| spec.group.as_ref() == Some(&group.id))
}

/// The catalog of a running server.
pub struct Catalogs {
    current: ArcSwap<Catalog>,
    /// Groups of sinks, by name.
    sink_groups: ArcSwap<BTreeMap<String, SinkGroup>>,
    /// Held by whoever changes it.
    writer: Mutex<()>,
    /// Objects whose jobs still read their inputs: nobody sees them, but their names and inputs are taken.
    creating: Arc<parking_lot::Mutex<BTreeMap<RelationId, Creating>>>,
}

/// An object on its way into the catalog.
#[derive(Clone, Debug)]
pub struct Creating {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: ObjectKind,
    /// What it reads.
    pub depends_on: Vec<RelationId>,
    /// The group of a sink.
    pub group: Option<String>,
}

/// An object's place until it is in the catalog; given up when dropped.
pub struct Place {
    id: RelationId,
    creating: Arc<parking_lot::Mutex<BTreeMap<RelationId, Creating>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.creating.lock().remove(&self.id);
    }
}

impl Catalogs {
    /// Reads the objects that the store keeps behind those that are part of the program, and the jobs to start, upstream before downstream.
    pub fn load(store: &Store, system: impl Iterator<Item = Object>) -> anyhow::Result<(Catalogs, Vec<JobSpec>)> {
        let objects = stored_objects(store)?;
        let jobs = in_order(&objects).into_iter().flat_map(|o| o.helpers.iter().chain(&o.job).cloned()).collect();
        let mut catalog = Catalog::default();
        for object in system.chain(objects) {
            catalog.insert(object);
        }
        let current = ArcSwap::from_pointee(catalog);
        let groups = stored::<SinkGroup>(store, SINK_GROUP_PREFIX)?;
        let sink_groups = ArcSwap::from_pointee(groups.into_iter().map(|group| (group.name.clone(), group)).collect());
        Ok((Catalogs { current, sink_groups, writer: Mutex::new(()), creating: Arc::default() }, jobs))
    }

    /// The catalog as of now.
    pub fn current(&self) -> Arc<Catalog> {
        self.current.load_full()
    }

    /// The right to change it.
    pub async fn lock(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().await
    }

    /// Takes an object's name and inputs while its job reads them. The catalog's lock is held.
    pub fn take_place(&self, object: &Object) -> Place {
        let creating = Creating {
            schema: object.schema.clone(),
            name: object.name.clone(),
            kind: object.kind,
            depends_on: object.depends_on.clone(),
            group: sink_spec(object).and_then(|spec| spec.group.clone()),
        };
        self.creating.lock().insert(object.id, creating);
        Place { id: object.id, creating: self.creating.clone() }
    }

    /// Whether an object of that name is on its way.
    pub fn is_name_taken(&self, schema: &str, name: &str) -> bool {
        self.creating.lock().values().any(|c| c.schema == schema && c.name == name)
    }

    /// The groups of sinks, by name.
    pub fn sink_groups(&self) -> Arc<BTreeMap<String, SinkGroup>> {
        self.sink_groups.load_full()
    }

    /// Shows a new group to everybody. It is durable.
    pub fn add_sink_group(&self, group: SinkGroup) {
        self.sink_groups.rcu(|groups| {
            let mut groups = BTreeMap::clone(groups);
            groups.insert(group.name.clone(), group.clone());
            groups
        });
    }

    /// Takes a group out of everybody's sight. That is durable.
    pub fn remove_sink_group(&self, name: &str) {
        self.sink_groups.rcu(|groups| {
            let mut groups = BTreeMap::clone(groups);
            groups.remove(name);
            groups
        });
    }

    /// The names of sinks on their way into a group.
    pub fn created_in(&self, group: &str) -> Vec<String> {
        let creating = self.creating.lock();
        creating.values().filter(|c| c.group.as_deref() == Some(group)).map(|c| c.name.clone()).collect()
    }

    /// An object on its way that reads `id`.
    pub fn created_over(&self, id: RelationId) -> Option<Creating> {
        self.creating.lock().values().find(|c| c.depends_on.contains(&id)).cloned()
    }

    /// Shows a new object to everybody. It is durable.
    pub fn add(&self, object: Object) {
        self.current.rcu(|current| {
            let mut catalog = Catalog::clone(current);
            catalog.insert(object.clone());
            catalog
        });
    }

    /// Takes objects out of everybody's sight. That is durable.
    pub fn remove(&self, ids: &[RelationId]) {
        self.current.rcu(|current| {
            let mut catalog = Catalog::clone(current);
            for id in ids {
                catalog.remove(*id);
            }
            catalog
        });
    }
}

/// The objects of a directory, for the server and for `headwater inspect`.
pub fn stored_objects(store: &Store) -> anyhow::Result<Vec<Object>> {
    stored(store, OBJECT_PREFIX)
}

fn stored<T: serde::de::DeserializeOwned>(store: &Store, prefix: &str) -> anyhow::Result<Vec<T>> {
    let entries = store.meta_scan(prefix.as_bytes())?;
    let parse = |(key, value): (Vec<u8>, Vec<u8>)| {
        let name = String::from_utf8_lossy(&key).into_owned();
        serde_json::from_slice(&value)
            .map_err(|error| anyhow::anyhow!("the catalog's entry {name} is corrupt: {error}"))
    };
    entries.into_iter().map(parse).collect()
}

/// The change that keeps an object.
pub fn keep(object: &Object) -> Result<CatalogChanges> {
    let json = serde_json::to_vec(object).map_err(|e| crate::error::Error::new("XX000", e.to_string()))?;
    // What is nested too deeply for the reader would be found at the next start only.
    if serde_json::from_slice::<Object>(&json).is_err() {
        return Err(crate::error::Error::new("54001", "statement is nested too deeply")
            .hint("Put intermediate results into views."));
    }
    Ok(vec![(key(object.id), Some(json))])
}

/// The change that keeps a group of sinks.
pub fn keep_sink_group(group: &SinkGroup) -> Result<CatalogChanges> {
    let json = serde_json::to_vec(group).map_err(|e| crate::error::Error::new("XX000", e.to_string()))?;
    Ok(vec![(format!("{SINK_GROUP_PREFIX}{}", group.name).into_bytes(), Some(json))])
}

/// The change that forgets a group of sinks.
pub fn forget_sink_group(name: &str) -> CatalogChanges {
    vec![(format!("{SINK_GROUP_PREFIX}{name}").into_bytes(), None)]
}

/// The changes that forget objects.
pub fn forget(ids: &[RelationId]) -> CatalogChanges {
    ids.iter().map(|&id| (key(id), None)).collect()
}

fn key(id: RelationId) -> Vec<u8> {
    format!("{OBJECT_PREFIX}{:010}", id.0).into_bytes()
}

/// Objects so that each stands behind what it depends on.
pub fn in_order(objects: &[Object]) -> Vec<&Object> {
    let by_id: BTreeMap<RelationId, &Object> = objects.iter().map(|o| (o.id, o)).collect();
    let mut done = BTreeSet::new();
    let mut order = Vec::new();
    fn visit<'a>(
        object: &'a Object,
        by_id: &BTreeMap<RelationId, &'a Object>,
        done: &mut BTreeSet<RelationId>,
        order: &mut Vec<&'a Object>,
    ) {
        if done.insert(object.id) {
            for upstream in object.depends_on.iter().filter_map(|id| by_id.get(id)) {
                visit(upstream, by_id, done, order);
            }
            order.push(object);
        }
    }
    for object in objects {
        visit(object, &by_id, &mut done, &mut order);
    }
    order
}

/// Everything that depends on `id`, directly or not, nearest first.
pub fn dependents(catalog: &Catalog, id: RelationId) -> Vec<Object> {
    let mut found: Vec<Object> = Vec::new();
    let mut wanted = vec![id];
    let mut at = 0;
    while at < wanted.len() {
        for object in catalog.dependents(wanted[at]) {
            if !wanted.contains(&object.id) {
                wanted.push(object.id);
                found.push(Object::clone(&object));
            }
        }
        at += 1;
    }
    found
}

/// Whether a relation's rows are kept by the engine.
pub fn is_stored(object: &Arc<Object>) -> bool {
    matches!(object.kind, ObjectKind::Table | ObjectKind::MaterializedView | ObjectKind::Index)
}

/// The options of a source.
pub fn source_options(object: &Object) -> Option<&[(String, String)]> {
    use streaming::operators::AnyOperator;
    if let Some(lookup) = &object.lookup {
        return Some(&lookup.options);
    }
    let job = object.job.as_ref()?;
    job.plan.nodes.iter().find_map(|node| match &node.operator {
        AnyOperator::Source(source) => Some(source.spec.options.as_slice()),
        _ => None,
    })
}

/// The connector of a source.
pub fn connector(object: &Object) -> Option<&str> {
    source_options(object)?.iter().find(|(name, _)| name == "connector").map(|(_, value)| value.as_str())
}

/// What a sink does.
pub fn sink_spec(object: &Object) -> Option<&streaming::sink::SinkSpec> {
    use streaming::operators::AnyOperator;
    match object.job.as_ref()?.plan.nodes.last().map(|node| &node.operator) {
        Some(AnyOperator::Sink(sink)) => Some(&sink.spec),
        _ => None,
    }
}

/// The connector of a sink.
pub fn sink_connector(spec: &streaming::sink::SinkSpec) -> Option<&str> {
    spec.options.iter().find(|(name, _)| name == "connector").map(|(_, value)| value.as_str())
}

/// What Postgres calls a kind of object.
pub fn kind_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Table | ObjectKind::System => "table",
        ObjectKind::Source => "source",
        ObjectKind::View => "view",
        ObjectKind::MaterializedView => "materialized view",
        ObjectKind::Index => "index",
        ObjectKind::Sink => "sink",
    }
}

pub use planner::catalog::quote_ident;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_start_behind_what_they_read() {
        let object = |id, on: &[u32]| Object {
            id: RelationId(id),
            depends_on: on.iter().map(|&i| RelationId(i)).collect(),
            ..Default::default()
        };
        let objects = [object(1, &[3]), object(2, &[]), object(3, &[2])];
        let order: Vec<u32> = in_order(&objects).iter().map(|o| o.id.0).collect();
        assert_eq!(order, [2, 3, 1]);
    }
}
