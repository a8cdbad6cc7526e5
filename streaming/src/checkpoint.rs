//! Makes an epoch durable: what is in it, and the thread that writes it.
//!
//! ```text
//!  Taken = dirty rows of relations and operators up to C + source offsets + table log position + catalog changes
//! ```
//!
//! The writer puts all of it into the store in one atomic step while the workers go on. If that fails (a full disk) it
//! tries again with the same changes until it succeeds: nothing may be left out, since nobody else has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use storage::table::DirtyRun;
use storage::{Epoch, Relation, RelationId, RelationSpec, Result, Store};

use crate::coordinator::{Cut, Job, Stage};
use crate::event_time::late_columns;
use crate::job::{Reread, SplitState};
use crate::lookup::answered_key;
use crate::operators::AnyOperator;
use crate::spec::{CatalogChanges, JobSpec};

/// How long the writer waits before it tries a failed checkpoint again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Everything that one checkpoint makes durable.
#[derive(Default)]
pub struct Taken {
    /// The epoch.
    pub epoch: u64,
    /// Dirty entries of the operators' state tables.
    pub runs: Vec<DirtyRun>,
    /// Relations whose rows become durable, each up to its job's cut.
    pub relations: Vec<(Arc<Relation>, Epoch)>,
    /// Keys of the catalog and of the engine itself.
    pub meta: CatalogChanges,
    /// Relations whose rows and state go.
    pub dropped: Vec<RelationId>,
}

/// What a checkpoint cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// How long it took.
    pub duration: Duration,
    /// Rows written.
    pub rows: u64,
    /// Checkpoints so far.
    pub count: u64,
}

/// What is kept of a source between its readers' runs.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct SourceMeta {
    /// The splits and their offsets.
    pub splits: Vec<SplitState>,
}

/// The key of a source's splits.
pub fn source_key(relation: RelationId) -> Vec<u8> {
    format!("engine/source/{}", relation.0).into_bytes()
}

/// What the keys of [`table_key`] begin with.
pub const TABLE_PREFIX: &[u8] = b"engine/table/";

/// The key of the last change of a table that a checkpoint holds.
pub fn table_key(relation: RelationId) -> Vec<u8> {
    [TABLE_PREFIX, relation.0.to_string().as_bytes()].concat()
}

/// The key of what is announced of the event time of a source or table.
pub fn event_key(relation: RelationId) -> Vec<u8> {
    format!("engine/event/{}", relation.0).into_bytes()
}

/// The key of why a job is stopped.
pub fn failed_key(relation: RelationId) -> Vec<u8> {
    format!("engine/failed/{}", relation.0).into_bytes()
}

/// The key of the epoch at which a job was cut, if that is before the checkpoint's.
pub fn cut_key(relation: RelationId) -> Vec<u8> {
    format!("engine/cut/{}", relation.0).into_bytes()
}

/// The key of the epoch up to which a job has taken what its inputs published, if that is before its cut.
pub fn taken_key(relation: RelationId) -> Vec<u8> {
    format!("engine/taken/{}", relation.0).into_bytes()
}

/// The key of a job that was down at the checkpoint.
pub fn aside_key(relation: RelationId) -> Vec<u8> {
    format!("engine/aside/{}", relation.0).into_bytes()
}

/// What the store knows of a job that was down at the checkpoint.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Aside {
    /// The epoch that its relation is as of.
    pub shown: u64,
    /// What it has to read again.
    pub rereads: Vec<Reread>,
    /// Why it waits for a client to start it again, if it does.
    pub stopped: Option<String>,
    /// Whether it cannot go on at all.
    #[serde(default)]
    pub lost: bool,
}

/// What the last checkpoint knows of a job that was down; `None` if it was not.
pub fn aside(store: &Store, relation: RelationId) -> Result<Option<Aside>> {
    let Some(bytes) = store.meta_get(&aside_key(relation))? else { return Ok(None) };
    let corrupt = |error| storage::Error::Corrupt(format!("what a failed job starts again with: {error}"));
    Ok(Some(serde_json::from_slice(&bytes).map_err(corrupt)?))
}

/// Puts a job that is down into `taken`: what it has published, and what waits for it. Its state stays as it is.
fn take_aside(job: &mut Job, taken: &mut Taken) {
    let id = job.spec.relation;
    let shown = job.frontier;
    job.relations().for_each(|relation| relation.cut(Epoch(shown)));
    taken.relations.extend(job.relations().map(|r| (r.clone(), Epoch(shown))));
    taken.runs.append(&mut job.control.cut_runs.lock());
    let limits = job.failures.limits.take().unwrap_or_default();
    let durable = |reread: &&Reread| limits.get(&reread.node).is_none_or(|limit| reread.upto <= *limit);
    let rereads = job.failures.rereads.iter().filter(durable).cloned().collect();
    let stopped = (job.stage == Stage::Failed).then(|| job.failures.last.clone().unwrap_or_default());
    // A table starts again with the server, from its log.
    let stopped = stopped.filter(|_| job.control.table.is_none());
    let aside = serde_json::to_vec(&Aside { shown, rereads, stopped, lost: job.is_lost() }).expect("plain data");
    taken.meta.push((aside_key(id), Some(aside)));
    let cut = job.failures.state_epoch();
    taken.meta.push((cut_key(id), (cut < taken.epoch).then(|| cut.to_be_bytes().to_vec())));
    job.failures.noted = true;
    if job.control.source.is_some() {
        let meta = serde_json::to_vec(&SourceMeta { splits: job.failures.splits.clone() }).expect("plain data");
        taken.meta.push((source_key(id), Some(meta)));
    }
    if job.control.table.is_some() {
        taken.meta.push((table_key(id), Some(job.failures.applied.to_be_bytes().to_vec())));
    }
    if let Some(event) = job.control.event() {
        let at = event.at.load(Ordering::Acquire);
        taken.meta.push((event_key(id), Some(at.to_be_bytes().to_vec())));
    }
}

/// Remembers where a source or table is as of the epoch that it has just completed.
pub fn note_inputs(job: &Job) {
    if let Some(source) = &job.control.source {
        *source.noted.lock() = Some(source.splits.lock().clone());
    }
    if let Some(table) = &job.control.table {
        table.noted.store(table.applied.load(Ordering::Acquire), Ordering::Release);
    }
    if let Some(event) = job.control.event() {
        event.noted.store(event.at.load(Ordering::Acquire), Ordering::Release);
    }
}

/// Moves what changed in `job` up to its cut into `taken`.
pub fn take(job: &mut Job, taken: &mut Taken) {
    let id = job.spec.relation;
    if job.cut == Cut::Aside {
        return take_aside(job, taken);
    }
    let Cut::Done(cut) = job.cut else { return };
    let taken_up_to = if job.control.may_lag() { job.cut_taken.min(cut) } else { cut };
    job.failures.writing = Some((cut, taken_up_to));
    if std::mem::take(&mut job.failures.noted) {
        job.failures.rereads.clear();
        taken.meta.push((aside_key(id), None));
    }
    taken.runs.append(&mut job.control.cut_runs.lock());
    taken.relations.extend(job.relations().map(|r| (r.clone(), Epoch(cut))));
    if let Some(event) = job.control.event() {
        let at = event.noted.load(Ordering::Acquire);
        taken.meta.push((event_key(id), Some(at.to_be_bytes().to_vec())));
    }
    taken.meta.push((cut_key(id), (cut < taken.epoch).then(|| cut.to_be_bytes().to_vec())));
    if let Some(outbox) = &job.control.outbox {
        outbox.note(cut);
    }
    if let Some(lookups) = &job.control.lookups {
        taken.meta.push((answered_key(id), Some(lookups.noted().to_be_bytes().to_vec())));
    }
    if job.control.may_lag() {
        let at = job.cut_taken;
        taken.meta.push((taken_key(id), (at < cut).then(|| at.to_be_bytes().to_vec())));
    }
    if let Some(source) = &job.control.source
        && let Some(splits) = source.noted.lock().clone()
    {
        let meta = serde_json::to_vec(&SourceMeta { splits }).expect("plain data");
        taken.meta.push((source_key(id), Some(meta)));
    }
    if let Some(table) = &job.control.table {
        let applied = table.noted.load(Ordering::Acquire);
        taken.meta.push((table_key(id), Some(applied.to_be_bytes().to_vec())));
    }
}

/// Tells the outside systems how far records are durably read, and lets leave what is durable now.
pub fn tell_committed(job: &Job) {
    if let Some(outbox) = &job.control.outbox {
        outbox.committed();
    }
    if let Some(lookups) = &job.control.lookups {
        lookups.committed();
    }
    if let Some(source) = &job.control.source
        && let Some(splits) = source.noted.lock().take()
    {
        let offsets: Vec<_> = splits.into_iter().map(|s| (s.id, s.offset)).collect();
        source.source.committed(&offsets);
    }
}

/// The relation that a job keeps; `None` for a source.
pub fn open_relation(store: &Arc<Store>, spec: &JobSpec) -> Result<Option<Arc<Relation>>> {
    let Some(AnyOperator::Materialize(root)) = spec.plan.nodes.last().map(|node| &node.operator) else {
        return Ok(None);
    };
    let relation = store.relation(RelationSpec {
        id: root.relation,
        schema: root.schema.clone(),
        key: root.key.clone(),
        key_options: root.key_order.clone(),
        vnode_columns: root.key.clone(),
        unique: root.unique,
    })?;
    Ok(Some(relation))
}

/// The relation of a job's errors.
pub fn open_errors(store: &Arc<Store>, spec: &JobSpec) -> Result<Arc<Relation>> {
    store.relation(RelationSpec {
        id: spec.errors,
        schema: storage::types::arrow_schema(&spec.keeping.columns()),
        key: vec![0],
        key_options: Vec::new(),
        vnode_columns: vec![0],
        unique: true,
    })
}

/// The relation of a job's late rows, if it has an event time.
pub fn open_late(store: &Arc<Store>, spec: &JobSpec) -> Result<Option<Arc<Relation>>> {
    let Some(event) = spec.event_time() else { return Ok(None) };
    let columns = late_columns(&spec.columns, event);
    let key = columns.len() - 1;
    let relation = store.relation(RelationSpec {
        id: event.late,
        schema: storage::types::arrow_schema(&columns),
        key: vec![key],
        key_options: Vec::new(),
        vnode_columns: vec![key],
        unique: true,
    })?;
    Ok(Some(relation))
}

/// The thread that writes checkpoints.
pub struct Writer {
    requests: Option<Sender<Taken>>,
    results: Receiver<Result<Statistics>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread; `wake` is called with each result.
    pub fn start(store: Arc<Store>, wake: impl Fn() + Send + 'static) -> Writer {
        let (requests, receive) = bounded::<Taken>(1);
        let (send, results) = bounded(4);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                let mut count = 0;
                for taken in receive {
                    let begun = Instant::now();
                    let epoch = Epoch(taken.epoch);
                    // The store keeps the entries of a step that failed; the rest is said again.
                    let mut dirty = taken.runs;
                    loop {
                        let result = store.checkpoint(storage::Checkpoint {
                            epoch,
                            dirty: std::mem::take(&mut dirty),
                            relations: taken.relations.clone(),
                            meta: taken.meta.clone(),
                            drop: taken.dropped.clone(),
                        });
                        let failed = result.is_err();
                        let result = result.map(|done| {
                            count += 1;
                            Statistics { duration: begun.elapsed(), rows: done.rows, count }
                        });
                        // Full only when nobody looks at the results of failures: the last one is enough.
                        let _ = send.try_send(result);
                        wake();
                        if !failed || stopped.load(Ordering::Acquire) {
                            break;
                        }
                        std::thread::sleep(RETRY_PAUSE);
                    }
                }
            })
            .expect("the system has a thread to spare");
        Writer { requests: Some(requests), results, stop, thread: Some(thread) }
    }

    /// Asks for a checkpoint to be written. The one before must have succeeded.
    pub fn write(&self, taken: Taken) {
        let requests = self.requests.as_ref().expect("running");
        requests.send(taken).expect("the writer lives as long as its handle");
    }

    /// A result, if there is a new one.
    pub fn result(&self) -> Option<Result<Statistics>> {
        self.results.try_recv().ok()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
