//! The engine as the server sees it: jobs are created and dropped, tables written, relations read, at epochs.

mod expired_rows;
mod into_table;
mod outboxes;
mod restored;
mod retry;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use storage::{Batch, Epoch, RelationId, RelationSnapshot, Store};

use crate::checkpoint::{self, SourceMeta, Writer};
use crate::clock::Clock;
pub use crate::clock::Stamp;
pub use crate::coordinator::ReadView;
use crate::coordinator::freshness::SealTimes;
use crate::coordinator::groups::points_key;
use crate::coordinator::{Coordinator, Job, Stage, State};
use crate::discovery;
use crate::error::{Error, Result};
use crate::event_time::Announced;
use crate::expr::Functions;
pub use crate::job::Changes;
use crate::job::{JobControl, SourceControl, SplitState, TableControl};
use crate::lookup;
use crate::memory::{NO_BUDGET, memory_key};
use crate::operator::StateSize;
use crate::operators::AnyOperator;
use crate::outbox::{self, Deliveries, Outbox};
use crate::plan::PlanNode;
use crate::retries::{Retrying, retried_prefix, set_aside_key};
use crate::row_errors::on_error_key;
pub use crate::row_errors::{ErrorsKept, Keeping, OnError};
use crate::runtime::Runtime;
use crate::sink::SinkSpec;
use crate::source::Sources;
pub use crate::spec::{CatalogChanges, EngineConfig, JobSpec};
pub use crate::status::{EngineStatus, JobState, JobStatus, MemoryStatus, SinkStatus, SplitStatus, TtlStatus};
use crate::table_log::TableLog;
use crate::ttl::Ttl;
use crate::visible::{Visible, VisibleLog};
use crate::watermark::Watermark;
pub use restored::take_up;
pub use retry::Retried;

use tables::Tables;

/// A running subscription.
pub struct Subscription {
    /// The snapshot that the changes follow.
    pub snapshot: RelationSnapshot,
    /// The epoch of the snapshot.
    pub epoch: Epoch,
    /// The changes. A reader that does not keep up gets them merged; dropping it ends the subscription.
    pub changes: tokio::sync::mpsc::Receiver<Changes>,
}

/// A running engine. All methods may be called from any thread; futures need no particular runtime.
pub struct Engine {
    coordinator: Arc<Coordinator>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    sources: Arc<dyn Sources>,
    log: Arc<TableLog>,
    next_relation: AtomicU32,
    tables: Arc<Tables>,
    stop_discovery: Arc<AtomicBool>,
    deliveries: Deliveries,
}

/// Relation ids are Postgres' OIDs of the relations: the user's begin where Postgres' do.
const FIRST_RELATION: u32 = 16384;
/// Row ids set aside at each start: more than one server run will ever hand out.
const ROW_IDS_RESERVED: i64 = 1 << 36;
/// The key of the next relation id.
const NEXT_RELATION_KEY: &[u8] = b"engine/next_relation";
/// The key of the first row id that was never set aside.
const NEXT_ROW_ID_KEY: &[u8] = b"engine/next_row_id";
/// How often the workers are asked whether they have built the dataflows of a restart.
const INSTALL_POLL: Duration = Duration::from_micros(200);
/// How often a recovering source is asked whether it has caught up with what was visible.
const RECOVERY_POLL: Duration = Duration::from_millis(2);
/// The stack of the coordinator. Pages that nothing touches cost nothing.
const COORDINATOR_STACK_BYTES: usize = 16 << 20;
/// How long a restart waits for sources that do not answer before it serves what it has.
const RECOVERY_MAX: Duration = Duration::from_secs(15);

impl Engine {
    /// Starts workers over `store` and takes up every job in `jobs` (those the catalog holds, upstream before
    /// downstream) at the last checkpoint. Returns when what was visible before is visible again.
    ///
    /// # Errors
    /// `Corrupt` if the table log or a state table cannot be read.
    pub fn start(
        config: EngineConfig,
        store: Arc<Store>,
        functions: Arc<dyn Functions>,
        sources: Arc<dyn Sources>,
        jobs: Vec<JobSpec>,
    ) -> Result<Engine> {
        let durable = store.last_checkpoint().0;
        // What was being created or dropped when the server ended.
        let kept: Vec<RelationId> =
            jobs.iter().flat_map(|spec| [spec.relation, spec.errors].into_iter().chain(spec.late())).collect();
        store.purge_except(&kept)?;
        lookup::purge(store.dir(), &kept);
        let row_id = store.meta_get(NEXT_ROW_ID_KEY)?.and_then(|b| b.try_into().ok()).map_or(1, i64::from_be_bytes);
        let reserve = vec![(NEXT_ROW_ID_KEY.to_vec(), Some((row_id + ROW_IDS_RESERVED).to_be_bytes().to_vec()))];
        // Durable before the first of them is given to a row: after a crash in the next moment, the log would bring that row
        // back, and its id would be given out once more.
        let epoch = store.last_checkpoint();
        let reserved =
            store.checkpoint(storage::Checkpoint { epoch, meta: reserve.clone(), ..storage::Checkpoint::default() });
        let clock = Arc::new(Clock::with_memory(durable.max(1) + 1, config.memory_bytes));
        clock.recovering.store(true, Ordering::Release);
        let workers = config.workers;
        let notify = clock.notify.clone();
        let log = Arc::new(TableLog::open(&store)?);
        let visible = VisibleLog::read(store.dir());
        let coordinator = Arc::new(Coordinator {
            visible: VisibleLog::open(store.dir(), durable.max(1)),
            log: log.clone(),
            runtime: Runtime::start(workers)?,
            writer: Writer::start(store.clone(), move || notify.notify()),
            state: Mutex::new(State::new(durable.max(1) + 1, durable)),
            clock,
            store: store.clone(),
            functions: functions.clone(),
            config,
        });
        if let Err(error) = reserved {
            // Nothing is written before a checkpoint succeeds, and the first one has it.
            coordinator.state.lock().checkpoint_error = Some(error);
            drop(coordinator.drop_jobs(&[], reserve));
        }
        let kept = coordinator.config.errors_kept;
        let mut last = FIRST_RELATION - 1;
        let mut sinks = Vec::new();
        let mut ordered = jobs;
        ordered.sort_by_key(|spec| spec.relation);
        for spec in ordered {
            last = last.max(spec.relation.0).max(spec.errors.0).max(spec.late().map_or(0, |late| late.0));
            let failed = store.meta_get(&checkpoint::failed_key(spec.relation))?;
            let failed = failed.map(|message| String::from_utf8_lossy(&message).into_owned());
            let mut control = JobControl::new(spec.relation, spec.name.clone(), coordinator.clock.clone());
            (*control.kept.lock(), *control.origin.lock()) = (spec.keeping.kept(kept), origin(&spec));
            let fails = store.meta_get(&on_error_key(spec.relation))?.is_some();
            control.fails_on_error.store(fails, Ordering::Release);
            control.memory.set_budget(budget(store.meta_get(&memory_key(spec.relation))?.as_deref()));
            let announced = store.meta_get(&checkpoint::event_key(spec.relation))?;
            let announced = announced.and_then(|bytes| bytes.try_into().ok()).map_or(i64::MIN, i64::from_be_bytes);
            let event = || {
                let event = spec.event_time()?.clone();
                Some(Announced::new(event, announced, visible.announced(spec.relation)))
            };
            match spec.plan.nodes.first().map(|node| &node.operator) {
                Some(AnyOperator::Source(source)) => {
                    let meta = store.meta_get(&checkpoint::source_key(spec.relation))?.unwrap_or_default();
                    let meta = serde_json::from_slice::<SourceMeta>(&meta).map_err(|error| {
                        storage::Error::Corrupt(format!("the offsets of source \"{}\": {error}", spec.name))
                    })?;
                    let source = Retrying::open(sources.open(&source.spec)?, &store, spec.relation)?;
                    let mut splits = meta.splits;
                    for split in &mut splits {
                        visible.restore(spec.relation, split);
                    }
                    control.source = Some(source_control(source, splits, workers, event()));
                }
                Some(AnyOperator::TableSource(source)) if spec.plan.nodes.len() == 2 => {
                    let applied = store.meta_get(&checkpoint::table_key(spec.relation))?;
                    let applied = applied.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
                    // All that was written is in the log: what was announced follows from it again.
                    let event = spec.event_time().map(|event| Announced::new(event.clone(), announced, i64::MIN));
                    let (at, ttl) = (AtomicI64::new(announced), Mutex::new(source.ttl));
                    let processing_time = source.processing_time.clone();
                    let table = TableControl { event, at, ttl, processing_time, ..TableControl::default() };
                    table.applied.store(applied, Ordering::Release);
                    table.noted.store(applied, Ordering::Release);
                    control.table = Some(table);
                }
                _ => {}
            }
            control.lookups = outboxes::lookups(&store, &spec, &*sources, &functions)?;
            if let Some(outbox) = outboxes::open(&store, &spec, durable)? {
                control.outbox = Some(outbox);
                sinks.push(spec.clone());
                if let Some(group) = &outboxes::sink_spec(&spec)?.group
                    && !coordinator.state.lock().has_group(group)
                {
                    coordinator.state.lock().restore_group(group, &store)?;
                }
            }
            coordinator.resume(spec, control, durable.max(1), failed)?;
        }
        // Nothing may be published before all that read it are subscribed: the coordinator seals nothing until then.
        let installed = |job: &Job| job.is_ready(workers);
        while !coordinator.state.lock().jobs.values().all(installed) {
            std::thread::sleep(INSTALL_POLL);
        }
        {
            // Readers of a source need their columns again.
            let state = coordinator.state.lock();
            for job in state.jobs.values() {
                coordinator.take_up_projection(&state, job);
            }
        }
        let next = store.meta_get(NEXT_RELATION_KEY)?.and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let thread = std::thread::Builder::new()
            .name("coordinator".into())
            // Plans are copied as deep as their expressions are.
            .stack_size(COORDINATOR_STACK_BYTES)
            .spawn({
                let coordinator = coordinator.clone();
                move || coordinator.run()
            })
            .expect("the system has a thread to spare");
        let engine = Engine {
            thread: Mutex::new(Some(thread)),
            sources,
            log,
            next_relation: AtomicU32::new(next.max(last + 1)),
            tables: Arc::new(Tables::new(coordinator.clone(), row_id)),
            stop_discovery: Arc::default(),
            deliveries: Deliveries::default(),
            coordinator,
        };
        let replayed = engine.replay()?;
        engine.catch_up(&visible, replayed);
        engine.coordinator.clock.recovering.store(false, Ordering::Release);
        // A sink into a table sees what was replayed.
        for spec in sinks {
            let sink = outboxes::sink_spec(&spec)?;
            if !engine.deliveries.has(sink.progress_id()) {
                engine.deliver(sink)?;
            }
        }
        discovery::start(&engine.coordinator, engine.stop_discovery.clone());
        expired_rows::start(&engine.tables, engine.stop_discovery.clone());
        Ok(engine)
    }

    /// Brings back the acknowledged changes of tables that the checkpoint does not hold.
    fn replay(&self) -> Result<u64> {
        let mut last = 0;
        self.log.replay(&mut |sequence, changes| {
            let state = self.coordinator.state.lock();
            let changes: Vec<_> = changes
                .into_iter()
                .filter_map(|(relation, batch)| {
                    let job = state.jobs.get(&relation)?;
                    let table = job.control.table.as_ref()?;
                    (sequence > table.applied.load(Ordering::Acquire)).then(|| (job.control.clone(), batch))
                })
                .collect();
            drop(state);
            if !changes.is_empty() {
                last = enqueue(&self.coordinator.clock, &changes, sequence);
            }
            Ok(())
        })?;
        Ok(last)
    }

    /// Waits until everything that was visible before the server ended is visible again.
    fn catch_up(&self, visible: &Visible, replayed: u64) {
        let begun = std::time::Instant::now();
        let is_unannounced = |job: &Job| {
            job.control.source.as_ref().is_some_and(|source| {
                let event = source.event.as_ref();
                source.active.load(Ordering::Acquire)
                    && event.is_some_and(|event| event.at.load(Ordering::Acquire) < event.before)
            })
        };
        // What was announced is announced again at the end of a step, also if no record is to be read again.
        for job in self.coordinator.state.lock().jobs.values().filter(|job| is_unannounced(job)) {
            self.coordinator.clock.enter(&job.control.dirty);
        }
        let behind = || {
            let state = self.coordinator.state.lock();
            if state.jobs.values().any(is_unannounced) {
                return true;
            }
            let is_behind = |((relation, number), offset): (&(RelationId, u16), &i64)| {
                let source = state.jobs.get(relation).and_then(|job| job.control.source.as_ref());
                source.is_some_and(|source| {
                    source.active.load(Ordering::Acquire)
                        && source.splits.lock().iter().any(|s| s.number == *number && s.offset.0 < *offset)
                })
            };
            visible.offsets.iter().any(is_behind)
        };
        while behind() {
            if begun.elapsed() > RECOVERY_MAX {
                tracing::warn!("a source does not answer: views may be behind what was visible before the restart");
                break;
            }
            std::thread::sleep(RECOVERY_POLL);
        }
        let (views, sealed) = {
            let mut state = self.coordinator.state.lock();
            let runs = |job: &&Job| job.relation.is_some() && matches!(job.stage, Stage::Running | Stage::Resuming);
            let views: Vec<RelationId> = state.jobs.values().filter(runs).map(|job| job.spec.relation).collect();
            // Each view is waited for below. But several are read as of an epoch at which all of them were exact, which may
            // be one before what the log brought back.
            let mut sealed = state.sealed.max(replayed);
            // What a lookup was answered comes out with the next step.
            if state.jobs.values().any(|job| job.control.lookups.as_ref().is_some_and(|lookups| lookups.owes())) {
                state.force_seal();
                sealed = sealed.max(state.sealed + 1);
            }
            state.floor = sealed;
            (views, sealed)
        };
        for view in views {
            let Ok(Err(mut waits)) = self.coordinator.read(&[view], sealed) else { continue };
            // One that fails again, or that reads such a one, is answered later.
            while matches!(waits.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty))
                && !self.coordinator.state.lock().waits_for_a_restart(view)
            {
                std::thread::sleep(RECOVERY_POLL);
            }
        }
    }

    /// A relation id that was never used.
    pub fn allocate_relation(&self) -> RelationId {
        RelationId(self.next_relation.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates a job and makes it and `catalog` durable in one step. Resolves when the job's relation can be read.
    /// Dropping the future cancels the job and undoes everything.
    ///
    /// # Errors
    /// `Unavailable` if a source's outside system does not answer; `Failed` with the job's message if it fails.
    pub async fn create(&self, job: JobSpec, catalog: CatalogChanges) -> Result<()> {
        self.refuse_without_checkpoints()?;
        let mut control = JobControl::new(job.relation, job.name.clone(), self.coordinator.clock.clone());
        *control.kept.lock() = job.keeping.kept(self.coordinator.config.errors_kept);
        *control.origin.lock() = origin(&job);
        match job.plan.nodes.first().map(|node| &node.operator) {
            Some(AnyOperator::Source(source)) => {
                let sources = self.sources.clone();
                let spec = source.spec.clone();
                let (source, splits) = off_thread(move || {
                    let source = sources.open(&spec)?;
                    let splits = source.splits()?;
                    Ok((source, splits))
                })
                .await?;
                let source = Retrying::open(source, &self.coordinator.store, job.relation)?;
                let splits =
                    splits.into_iter().enumerate().map(|(i, split)| discovery::new_split(split, i as u16)).collect();
                let event = job.event_time().map(|event| Announced::new(event.clone(), i64::MIN, i64::MIN));
                control.source = Some(source_control(source, splits, self.coordinator.config.workers, event));
            }
            Some(AnyOperator::TableSource(source)) if job.plan.nodes.len() == 2 => {
                let event = job.event_time().map(|event| Announced::new(event.clone(), i64::MIN, i64::MIN));
                let (at, ttl) = (AtomicI64::new(i64::MIN), Mutex::new(source.ttl));
                let processing_time = source.processing_time.clone();
                let table = TableControl { event, at, ttl, processing_time, ..TableControl::default() };
                control.table = Some(table);
            }
            _ => {}
        }
        let relation = job.relation;
        let spec = job.clone();
        let store = &self.coordinator.store;
        let own = catalog.iter().find(|(key, _)| *key == memory_key(relation));
        control.memory.set_budget(budget(own.and_then(|(_, value)| value.as_deref())));
        control.lookups = outboxes::lookups(store, &job, &*self.sources, &self.coordinator.functions)?;
        control.outbox = outboxes::open(store, &job, 0)?;
        let is_sink = control.outbox.is_some();
        if is_sink {
            // The target is asked before anything begins.
            let sink = self.sink(std::slice::from_ref(&spec))?;
            off_thread(move || sink.prepare()).await?;
        }
        let mut catalog = catalog;
        let undo: CatalogChanges = catalog.iter().map(|(key, _)| (key.clone(), None)).collect();
        let next = self.next_relation.load(Ordering::Relaxed);
        catalog.push((NEXT_RELATION_KEY.to_vec(), Some(next.to_be_bytes().to_vec())));
        let created = self.coordinator.create(job, control, catalog)?;
        let mut leaves = None;
        if let Ok(sink) = outboxes::sink_spec(&spec)
            && sink.group.is_some()
        {
            // The thread knows of it before there is a point that it is in; and no more if it comes to nothing.
            leaves = Some(outboxes::Leaves::new(self, sink.clone()));
            self.deliver(sink)?;
        }
        let mut undo = Undo { coordinator: &self.coordinator, relation, catalog: Some(undo) };
        let result = created.await.map_err(|_| Error::Cancelled)?;
        if result.is_ok() {
            undo.catalog = None;
        }
        if is_sink {
            let sink = outboxes::sink_spec(&spec)?;
            match (&result, leaves) {
                (Ok(()), None) => self.deliver(sink)?,
                (Ok(()), Some(leaves)) => leaves.stays(),
                (Err(_), Some(_)) => drop(undo),
                (Err(_), None) => {
                    let sink = self.sink(std::slice::from_ref(&spec))?;
                    off_thread(move || Ok(sink.forget())).await?;
                }
            }
        }
        result
    }

    /// The target of a sink's job, or of those of a group.
    fn sink(&self, specs: &[JobSpec]) -> Result<Arc<dyn crate::sink::Sink>> {
        outboxes::sink(specs, &self.tables, &*self.sources, &self.coordinator.functions)
    }

    /// Starts to deliver what is in the outbox of a sink, with the others of its group.
    fn deliver(&self, sink: &SinkSpec) -> Result<()> {
        let id = sink.progress_id();
        let jobs: Vec<(JobSpec, Arc<Outbox>)> = {
            let state = self.coordinator.state.lock();
            let of_thread = |job: &&Job| outboxes::sink_spec(&job.spec).is_ok_and(|spec| spec.progress_id() == id);
            let jobs = state.jobs.values().filter(of_thread);
            jobs.filter_map(|job| Some((job.spec.clone(), job.control.outbox.clone()?))).collect()
        };
        let (specs, all): (Vec<JobSpec>, Vec<Arc<Outbox>>) = jobs.into_iter().unzip();
        let Some(first) = specs.first() else {
            self.deliveries.forget(id);
            if let Some(group) = &sink.group {
                self.coordinator.state.lock().forget_group(group);
            }
            return Ok(());
        };
        let mut members = Vec::new();
        for (spec, outbox) in specs.iter().zip(all) {
            let (table, _) = outbox::table(&self.coordinator.store, spec)?;
            members.push(outbox::Member { outbox, table });
        }
        let points = sink.group.as_deref().map(|group| self.coordinator.state.lock().points(group));
        self.deliveries.start(id, &first.name, points, members, self.sink(&specs)?);
        Ok(())
    }

    fn refuse_without_checkpoints(&self) -> Result<()> {
        match &self.coordinator.state.lock().checkpoint_error {
            Some(error) => Err(error.clone().into()),
            None => Ok(()),
        }
    }

    /// Drops jobs (downstream before upstream) and makes that and `catalog` durable in one step.
    ///
    /// # Errors
    /// Why checkpoints do not succeed, while they do not: `DiskFull` mostly.
    pub async fn drop(&self, jobs: Vec<RelationId>, catalog: CatalogChanges) -> Result<()> {
        self.refuse_without_checkpoints()?;
        let mut catalog = catalog;
        catalog.extend(jobs.iter().map(|job| (outboxes::paused_key(*job), None)));
        catalog.extend(jobs.iter().flat_map(|job| [(on_error_key(*job), None), (memory_key(*job), None)]));
        for job in &jobs {
            catalog.push((set_aside_key(*job), None));
            let retried = self.coordinator.store.meta_scan(&retried_prefix(*job))?;
            catalog.extend(retried.into_iter().map(|(key, _)| (key, None)));
        }
        let (sinks, running): (Vec<SinkSpec>, Vec<Arc<Outbox>>) = {
            let state = self.coordinator.state.lock();
            let specs = jobs.iter().filter_map(|id| outboxes::sink_spec(&state.jobs.get(id)?.spec).ok().cloned());
            let specs: Vec<SinkSpec> = specs.collect();
            let outboxes = jobs.iter().filter_map(|id| state.jobs.get(id)?.control.outbox.clone());
            let stays =
                |group: &str| state.jobs.iter().any(|(id, job)| job.group() == Some(group) && !jobs.contains(id));
            let groups = specs.iter().filter_map(|spec| spec.group.as_deref()).filter(|group| !stays(group));
            catalog.extend(groups.map(|group| (points_key(group), None)));
            (specs, outboxes.filter(|outbox| !outbox.is_paused()).collect())
        };
        running.iter().for_each(|outbox| outbox.pause(true));
        let dropped = self.coordinator.drop_jobs(&jobs, catalog).await.map_err(|_| Error::Cancelled)?;
        match &dropped {
            Ok(()) => {
                for sink in &sinks {
                    self.deliver(sink)?;
                }
                jobs.iter().for_each(|job| lookup::forget(self.coordinator.store.dir(), *job));
            }
            Err(_) => running.iter().for_each(|outbox| outbox.pause(false)),
        }
        dropped
    }

    /// Holds the deliveries of a sink, or lets them go on; that is durable when the future resolves.
    ///
    /// # Errors
    /// `NotFound` if there is no such sink.
    pub async fn pause_sink(&self, relation: RelationId, paused: bool) -> Result<()> {
        let outbox = {
            let state = self.coordinator.state.lock();
            state.jobs.get(&relation).and_then(|job| job.control.outbox.clone())
        };
        let outbox = outbox.ok_or_else(|| Error::NotFound("the sink does not exist any more".into()))?;
        let change = (outboxes::paused_key(relation), paused.then(Vec::new));
        self.coordinator.drop_jobs(&[], vec![change]).await.map_err(|_| Error::Cancelled)??;
        outbox.pause(paused);
        Ok(())
    }

    /// Names a job anew, for status and messages. The catalog says so already.
    pub fn rename(&self, relation: RelationId, name: &str) {
        if let Some(job) = self.coordinator.state.lock().jobs.get_mut(&relation) {
            job.spec.name = name.to_owned();
            *job.control.origin.lock() = origin(&job.spec);
        }
    }

    /// Starts a job again that has failed; that it does is durable when the future resolves. Nothing happens to a job that runs.
    ///
    /// # Errors
    /// `NotFound` if there is no such job, `Invalid` if it can only be created again.
    pub async fn resume_job(&self, relation: RelationId) -> Result<()> {
        self.coordinator.restart_now(relation)?;
        self.coordinator.drop_jobs(&[], Vec::new()).await.map_err(|_| Error::Cancelled)?
    }

    /// Chooses what becomes of a job's rows that fail; that it does is durable when the future resolves.
    ///
    /// # Errors
    /// `NotFound` if there is no such job.
    pub async fn set_on_error(&self, relation: RelationId, on_error: OnError) -> Result<()> {
        let missing = || Error::NotFound("the job does not exist any more".into());
        let change = (on_error_key(relation), (on_error == OnError::Fail).then(Vec::new));
        self.coordinator.drop_jobs(&[], vec![change]).await.map_err(|_| Error::Cancelled)??;
        let state = self.coordinator.state.lock();
        let job = state.jobs.get(&relation).ok_or_else(missing)?;
        job.control.fails_on_error.store(on_error == OnError::Fail, Ordering::Release);
        Ok(())
    }

    /// Chooses how much is kept of what a job sets aside. The catalog says so already.
    pub fn set_keeping(&self, relation: RelationId, keeping: Keeping) {
        if let Some(job) = self.coordinator.state.lock().jobs.get_mut(&relation) {
            job.spec.keeping = keeping;
            *job.control.kept.lock() = keeping.kept(self.coordinator.config.errors_kept);
        }
    }

    /// Gives a job a memory budget of its own, or takes it away; that it has is durable when the future resolves.
    ///
    /// # Errors
    /// `NotFound` if there is no such job.
    pub async fn set_memory(&self, relation: RelationId, bytes: Option<u64>) -> Result<()> {
        let missing = || Error::NotFound("the job does not exist any more".into());
        self.coordinator.drop_jobs(&[], vec![memory_change(relation, bytes)]).await.map_err(|_| Error::Cancelled)??;
        let state = self.coordinator.state.lock();
        let job = state.jobs.get(&relation).ok_or_else(missing)?;
        job.control.memory.set_budget(bytes);
        self.coordinator.clock.notify.notify();
        Ok(())
    }

    /// Makes changes of the catalog durable that concern no job.
    ///
    /// # Errors
    /// Why checkpoints do not succeed, while they do not: `DiskFull` mostly.
    pub async fn change_catalog(&self, catalog: CatalogChanges) -> Result<()> {
        let mut catalog = catalog;
        let next = self.next_relation.load(Ordering::Relaxed);
        catalog.push((NEXT_RELATION_KEY.to_vec(), Some(next.to_be_bytes().to_vec())));
        self.drop(Vec::new(), catalog).await
    }

    /// Rows of a table leave by themselves from now on as `ttl` says; `catalog` has it.
    ///
    /// # Errors
    /// `NotFound` if there is no such table, and as [`Engine::change_catalog`].
    pub async fn set_ttl(&self, table: RelationId, ttl: Ttl, catalog: CatalogChanges) -> Result<()> {
        let control = {
            let state = self.coordinator.state.lock();
            state.jobs.get(&table).map(|job| job.control.clone()).filter(|control| control.table.is_some())
        };
        let control = control.ok_or_else(|| Error::NotFound("the table does not exist any more".into()))?;
        self.change_catalog(catalog).await?;
        *control.table.as_ref().expect("just looked").ttl.lock() = Some(ttl);
        Ok(())
    }

    /// Writes to tables, atomically: all changes in one epoch. The batches have the table's columns (hidden ones
    /// included) and diffs; the caller holds the tables' [`Engine::lock_tables`] since it read what they depend on.
    /// Resolves, with the epoch, once the changes are in the synced log; a read `at_least` that epoch sees them.
    ///
    /// # Errors
    /// `DiskFull` if the log cannot grow: nothing is written then.
    pub async fn write(&self, changes: Vec<(RelationId, Batch)>) -> Result<Epoch> {
        let receive = self.tables.write(changes)?;
        receive.await.map_err(|_| Error::Cancelled)?.map_err(Error::from)
    }

    /// Waits until nobody else writes to `tables` (sorted), and keeps it so until the guard is dropped.
    pub async fn lock_tables(&self, tables: &[RelationId]) -> TableLocks {
        let mut guards = Vec::new();
        for table in tables {
            guards.push(self.tables.lock_of(*table).lock_owned().await);
        }
        TableLocks { _guards: guards }
    }

    /// The time that rows are stamped with which are written now: the processing time stands until it is dropped, which must
    /// not be before they are written.
    pub fn stamp(&self) -> Stamp {
        self.coordinator.clock.stamp()
    }

    /// A number that was never used for a row before, the first of `n` (hidden row ids of tables without a key).
    pub fn allocate_row_ids(&self, n: u64) -> i64 {
        self.tables.allocate_row_ids(n)
    }

    /// Reads several relations as of one epoch that all can serve, at least `at_least`.
    ///
    /// # Errors
    /// `Failed` if one of them, or something that it reads, has failed.
    pub async fn read(&self, relations: &[RelationId], at_least: Epoch) -> Result<ReadView> {
        match self.coordinator.read(relations, at_least.0)? {
            Ok(view) => Ok(view),
            Err(waits) => waits.await.map_err(|_| Error::Cancelled)?,
        }
    }

    /// Subscribes to a relation's changes.
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub async fn subscribe(&self, relation: RelationId, at_least: Epoch) -> Result<Subscription> {
        let (send, changes) = tokio::sync::mpsc::channel(SUBSCRIPTION_MESSAGES_MAX);
        let subscriber = self.coordinator.subscribe(relation, send)?;
        let begun = self.coordinator.in_flight(relation).max(at_least.0);
        let mut view = self.read(&[relation], Epoch(begun)).await?;
        let snapshot = view.relations.remove(&relation).expect("asked for");
        subscriber.delivered.store(view.epoch.0, Ordering::Release);
        self.coordinator.clock.notify.notify();
        Ok(Subscription { snapshot, epoch: view.epoch, changes })
    }

    /// Waits until everything that was written or read from sources before the call is visible and durable.
    ///
    /// # Errors
    /// Why checkpoints do not succeed, while they do not: `DiskFull` mostly.
    pub async fn flush(&self) -> Result<Epoch> {
        self.coordinator.flush().await.map_err(|_| Error::Cancelled)?
    }

    /// What is going on.
    pub fn status(&self) -> EngineStatus {
        let state = self.coordinator.state.lock();
        let jobs = state.jobs.values().map(|job| job_status(job, &state.seal_times)).collect();
        EngineStatus {
            epoch: Epoch(state.sealed),
            checkpoint: Epoch(state.durable),
            checkpoint_duration: state.last_checkpoint.duration,
            checkpoint_rows: state.last_checkpoint.rows,
            checkpoints: state.last_checkpoint.count,
            checkpoint_error: state.checkpoint_error.as_ref().map(ToString::to_string),
            memory: self.memory(),
            jobs,
        }
    }

    fn memory(&self) -> MemoryStatus {
        let clock = &self.coordinator.clock;
        let bytes = |count: &AtomicI64| count.load(Ordering::Relaxed).max(0) as u64;
        MemoryStatus {
            state: clock.memory.state(),
            inboxes: bytes(&clock.memory.inboxes),
            changes: bytes(&clock.memory.changes),
            checkpoint: bytes(&clock.memory.checkpoint),
            spilled: bytes(&clock.spilled_bytes),
            budget: Some(clock.memory.budget).filter(|budget| *budget != NO_BUDGET),
        }
    }

    /// Takes a last checkpoint and stops the workers.
    ///
    /// # Errors
    /// As the checkpoint.
    pub fn shutdown(self) -> Result<()> {
        let waits = self.coordinator.flush();
        let result = wait(waits).and_then(|result| result.map(drop));
        self.stop();
        result
    }

    /// Stops the workers without a checkpoint, as a crash would.
    pub fn crash(self) {
        self.stop();
    }

    fn stop(&self) {
        self.stop_discovery.store(true, Ordering::Release);
        // A sink into a table waits for the coordinator.
        self.deliveries.stop();
        self.coordinator.state.lock().stopping = true;
        self.coordinator.clock.notify.notify();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
        self.coordinator.runtime.stop();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The change of the catalog that gives a job a memory budget, or takes it away.
pub fn memory_change(relation: RelationId, bytes: Option<u64>) -> (Vec<u8>, Option<Vec<u8>>) {
    (memory_key(relation), bytes.map(|bytes| bytes.to_be_bytes().to_vec()))
}

fn budget(stored: Option<&[u8]>) -> Option<u64> {
    stored?.try_into().ok().map(u64::from_be_bytes)
}

/// Removes a job whose creation was given up.
struct Undo<'a> {
    coordinator: &'a Coordinator,
    relation: RelationId,
    catalog: Option<CatalogChanges>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(catalog) = self.catalog.take() {
            drop(self.coordinator.drop_jobs(&[self.relation], catalog));
        }
    }
}

/// Messages that may wait for a subscription's reader; what comes meanwhile is merged.
const SUBSCRIPTION_MESSAGES_MAX: usize = 16;
/// Queues changes of tables under one epoch, and returns it.
fn enqueue(clock: &Clock, changes: &[(Arc<JobControl>, Batch)], sequence: u64) -> u64 {
    let dirty = changes.iter().map(|(control, _)| &control.dirty);
    let epoch = clock.enter_all(dirty, |epoch| {
        for (control, batch) in changes {
            let table = control.table.as_ref().expect("a table job");
            table.queue.lock().push_back((epoch, sequence, batch.clone()));
        }
    });
    changes.iter().for_each(|(control, _)| control.wake());
    epoch
}

/// Waits on this thread, whatever kind of thread it is.
fn wait<R>(mut receiver: tokio::sync::oneshot::Receiver<R>) -> Result<R> {
    use tokio::sync::oneshot::error::TryRecvError;
    loop {
        match receiver.try_recv() {
            Ok(result) => return Ok(result),
            Err(TryRecvError::Closed) => return Err(Error::Cancelled),
            Err(TryRecvError::Empty) => std::thread::sleep(RECOVERY_POLL),
        }
    }
}

/// Runs blocking work on a thread of its own.
async fn off_thread<R: Send + 'static>(act: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("open source".into())
        .spawn(move || drop(send.send(act())))
        .expect("the system has a thread to spare");
    receive.await.map_err(|_| Error::Failed("opening the source panicked".into()))?
}

/// Where the rows of a job come from: a source's or table's own, or those of what it reads.
fn origin(spec: &JobSpec) -> String {
    let mut names: Vec<&str> = Vec::new();
    for node in &spec.plan.nodes {
        if let AnyOperator::TapReader(tap) = &node.operator
            && !names.contains(&tap.name.as_str())
        {
            names.push(&tap.name);
        }
    }
    if names.is_empty() { spec.name.clone() } else { names.join(", ") }
}

fn source_control(
    source: Retrying,
    splits: Vec<SplitState>,
    workers: usize,
    event: Option<Announced>,
) -> SourceControl {
    let source = Arc::new(source);
    SourceControl {
        source: source.clone(),
        retries: source,
        held: Arc::default(),
        event,
        durable_splits: AtomicUsize::new(splits.len()),
        splits: Mutex::new(splits),
        version: AtomicU64::new(0),
        acknowledged: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        projection: Mutex::new(Arc::new(Vec::new())),
        projections: Mutex::new(BTreeMap::from([(0, Arc::new(Vec::new()))])),
        active: AtomicBool::new(false),
        noted: Mutex::new(None),
    }
}

fn job_status(job: &Job, times: &SealTimes) -> JobStatus {
    let control = &job.control;
    let mut operators: BTreeMap<usize, StateSize> = BTreeMap::new();
    // What publishes at a sink's end is no node of the plan.
    for ((node, _), size) in control.sizes.lock().range(..(job.spec.plan.nodes.len(), 0)) {
        let sum = operators.entry(*node).or_default();
        sum.rows += size.rows;
        sum.bytes += size.bytes;
    }
    let splits = control.source.as_ref().map(|source| source.splits.lock().clone()).unwrap_or_default();
    JobStatus {
        relation: job.spec.relation,
        name: job.spec.name.clone(),
        state: job.state(),
        error: if job.is_down() { job.failures.last.clone() } else { control.error.lock().clone() }
            .or_else(|| control.lookups.as_ref().and_then(|lookups| lookups.error())),
        failures: job.failures.at.len() as u64,
        restarts: job.failures.restarts,
        last_failure: job.failures.last.clone(),
        restarts_in: job.failures.due.map(|due| due.saturating_duration_since(std::time::Instant::now())),
        epoch: Epoch(job.reached()),
        behind: times.behind(job.reached()),
        rows_read: control.rows_read.load(Ordering::Relaxed),
        rows_total: *control.rows_total.lock(),
        rows_waiting: control.rows_waiting.load(Ordering::Relaxed).max(0) as u64,
        memory_bytes: control.memory.used(),
        memory_budget: control.memory.budget(),
        operators: operators.into_iter().map(|(n, size)| (n, job.spec.plan.nodes[n].operator.name(), size)).collect(),
        splits: splits
            .into_iter()
            .map(|s| SplitStatus {
                id: s.id,
                offset: s.offset.0,
                end: s.end.map(|end| end.0),
                watermark: Some(s.progress.at).filter(|at| *at > i64::MIN),
                idle: s.idle,
                error: s.error.or(s.end_error),
            })
            .collect(),
        watermarks: known_watermarks(job),
        ttl: ttl_status(job),
        late_rows: control.event().map(|event| event.late_rows.load(Ordering::Relaxed)),
        rows_in: control.rows_in.load(Ordering::Relaxed),
        bytes_in: control.bytes_in.load(Ordering::Relaxed),
        row_errors: control.row_errors.load(Ordering::Relaxed),
        row_errors_dropped: control.row_errors_dropped.load(Ordering::Relaxed),
        late_dropped: control.late_dropped.load(Ordering::Relaxed),
        kept: *control.kept.lock(),
        sink: control.outbox.as_ref().map(|outbox| outbox.status()),
    }
}

fn ttl_status(job: &Job) -> Option<TtlStatus> {
    let Some(table) = job.control.table.as_ref() else {
        let micros = |node: &PlanNode| match &node.operator {
            AnyOperator::Ttl(ttl) => Some(ttl.micros),
            _ => None,
        };
        let micros = job.spec.plan.nodes.iter().find_map(micros)?;
        return Some(TtlStatus { column: None, micros, expired_rows: job.control.forgotten.lock().values().sum() });
    };
    let ttl = (*table.ttl.lock())?;
    let expired_rows = table.expired_rows.load(Ordering::Relaxed);
    Some(TtlStatus { column: Some(ttl.column), micros: ttl.micros, expired_rows })
}

/// The columns of a job's relation that have a watermark, and what is known of them as of what is visible.
fn known_watermarks(job: &Job) -> Vec<(usize, Option<Watermark>)> {
    let known = job.control.history.lock().at(job.frontier);
    let known = known.iter().flat_map(|marks| marks.iter().enumerate());
    let known = known.filter_map(|(c, mark)| Some((c, Some((*mark)?))));
    let at = job.control.clock.processing_time(job.frontier);
    let clock = Watermark { at, floor: at, lateness: false, retracts: false };
    let by_clock = job.control.table.iter().flat_map(|table| &table.processing_time).map(|c| (*c, Some(clock)));
    known.chain(by_clock).map(|(c, mark)| (c, mark.filter(|mark| mark.at > i64::MIN))).collect()
}

/// The right to write to some tables.
pub struct TableLocks {
    _guards: Vec<tokio::sync::OwnedMutexGuard<()>>,
}
