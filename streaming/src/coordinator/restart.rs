//! Jobs that have failed start again by themselves, from where the last checkpoint has them.
//!
//! ```text
//!  fails ─▶ Halting ─▶ Halted ─▶ Parking ─▶ Parked ─ pause over ─▶ Resuming ─ one step ─▶ Running
//!            │          │          │          └ checkpoints take its inboxes along, its state stays where it is
//!            │          │          └ what came to it since its state is put into its inboxes again
//!            │          └ until the store has a whole checkpoint of it, and its sources are between two epochs
//!            └ its dataflow goes; what it published of the epoch at which it failed is taken back everywhere
//! ```
//!
//! Its state is as of its cut `T`, what it has published reaches up to its frontier `F`. Its first step replays all that
//! came since `T` and ends at an epoch `t` that nobody has passed; its root publishes the difference to what it had said
//! (`owed.rs`). Nobody else goes back: who reads it has gone on with what there was, and cannot be read between `F` and `t`.
//!
//! What came to it since `T` is not kept for this: it is in the inboxes of the checkpoint, in the relations' changes since
//! theirs, and at the sources, which are read again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::{Epoch, RelationId};

use super::followed::{Cut, Job, Stage};
use super::{Checkpoint, Coordinator, State};
use crate::checkpoint::{self, SourceMeta};
use crate::error::{Error, Result};
use crate::event_time::{Announced, Judge};
use crate::job::{JobControl, Reread, SourceControl, SplitState, Start, Stretch};
use crate::operators::AnyOperator;
use crate::owed::OwedTo;
use crate::runtime::{Acknowledged, Command, Halt, ParkedTap, Parking};

/// The longest pause before a start.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a job that cannot start yet is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where a job that has failed is on its way to its next start.
#[derive(Clone, Debug)]
pub enum Down {
    /// The workers drop its dataflow.
    Halting(Arc<Acknowledged>),
    /// It waits for the checkpoint that it is a part of, and for its sources to be between two epochs.
    Halted,
    /// The workers put what it needs into its inboxes.
    Parking(Arc<Acknowledged>),
    /// It can start.
    Parked,
    /// It cannot: what it would need is not there.
    Lost,
}

/// What is known of a job's failures.
#[derive(Debug, Default)]
pub struct Failures {
    /// When it failed, the last ones.
    pub at: VecDeque<Instant>,
    /// The last message.
    pub last: Option<String>,
    /// How often it has started again since the server did.
    pub restarts: u64,
    /// When it starts again, while it waits for that.
    pub due: Option<Instant>,
    pub(super) down: Option<Down>,
    /// The state of its operators is as of this epoch in the store; `None` before its first checkpoint.
    pub(super) durable: Option<u64>,
    /// And up to this epoch it had taken what its inputs published.
    pub(super) taken: u64,
    /// The same two for the checkpoint that is being written.
    pub(crate) writing: Option<(u64, u64)>,
    /// While it resumes: others may have gone up to here without it.
    pub(super) behind: u64,
    /// What it has to read again of its sources.
    pub(crate) rereads: Vec<Reread>,
    /// Up to where what waits for it belongs to the checkpoint under way, by node, once the workers were told.
    pub(crate) limits: Option<HashMap<usize, u64>>,
    storing: Option<Arc<Acknowledged>>,
    /// The store says that it is down.
    pub(crate) noted: bool,
    /// Where a source was at its frontier.
    pub(crate) splits: Vec<SplitState>,
    /// The last write to a table at its frontier.
    pub(crate) applied: u64,
}

impl Failures {
    /// The epoch that the job's state in the store is as of.
    pub fn state_epoch(&self) -> u64 {
        self.durable.unwrap_or(0)
    }

    /// A job whose state is as of `durable`, when it had taken what came up to `taken`.
    pub(super) fn restored(durable: u64, taken: u64) -> Failures {
        Failures { durable: Some(durable), taken, ..Failures::default() }
    }
}

impl Job {
    /// Whether it runs no dataflow now: it changes nothing.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self.stage, Stage::Failed | Stage::Restarting)
    }

    /// Whether what it would need to start again is gone for good.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.failures.down, Some(Down::Lost)) && self.control.table.is_none()
    }

    /// Whether its workers have done what a start of the server waits for.
    pub(crate) fn is_ready(&self, workers: usize) -> bool {
        match &self.failures.down {
            Some(Down::Parking(acknowledged)) => acknowledged.is_complete(workers),
            Some(_) => true,
            None => self.stage == Stage::Failed || self.control.installed.load(Ordering::Acquire) == workers,
        }
    }

    /// Remembers where an input is, for the case that it fails in its next epoch.
    pub(super) fn note_position(&mut self) {
        if let Some(source) = &self.control.source {
            self.failures.splits = source.splits.lock().clone();
        }
        if let Some(table) = &self.control.table {
            self.failures.applied = table.applied.load(Ordering::Acquire);
        }
    }

    /// Nothing is known of it but that it failed: it has to be created again.
    pub(super) fn lose(&mut self, message: String) {
        self.stage = Stage::Failed;
        self.failures.last = Some(message);
        self.failures.down = Some(Down::Lost);
    }
}

impl Coordinator {
    /// A job that runs has failed.
    pub(super) fn halt(&self, state: &mut State, id: RelationId, message: String) {
        let job = state.jobs.get_mut(&id).expect("present");
        job.busy = None;
        let now = Instant::now();
        let failures = &mut job.failures;
        failures.last = Some(message);
        failures.at.retain(|at| now.duration_since(*at) < self.config.restart_window);
        failures.at.push_back(now);
        let times = failures.at.len();
        // A table's writes are with its clients and in the log: a start of the server brings them back.
        let out_of_memory = job.control.out_of_memory.load(Ordering::Acquire);
        let gives_up = times > self.config.restarts_max || job.control.table.is_some() || out_of_memory;
        job.stage = if gives_up { Stage::Failed } else { Stage::Restarting };
        let pause = self.config.restart_pause * (1u32 << (times - 1).min(16));
        failures.due = (!gives_up).then(|| now + pause.min(PAUSE_MAX));
        // What it has done for its cut is of no use if it did not get there.
        if matches!(job.cut, Cut::Wanted | Cut::Issued(_)) {
            job.cut = Cut::Aside;
            failures.limits = None;
        }
        let acknowledged = Arc::new(Acknowledged::default());
        failures.down = Some(Down::Halting(acknowledged.clone()));
        let published = job.relation_ids();
        self.runtime.send(Command::Halt(Arc::new(Halt { relation: id, published, after: job.frontier, acknowledged })));
        job.relations().for_each(|relation| relation.retract(Epoch(job.frontier)));
        state.changed_since_checkpoint = true;
    }

    /// Brings jobs that have failed nearer to their next start; returns when there is something to do.
    pub(super) fn restart(&self, state: &mut State) -> Duration {
        let mut next = Duration::MAX;
        let ids: Vec<RelationId> =
            state.jobs.iter().filter(|(_, job)| job.failures.down.is_some()).map(|(id, _)| *id).collect();
        for id in ids {
            let workers = self.config.workers;
            let may_park = matches!(state.jobs[&id].failures.down, Some(Down::Halted)) && self.may_park(state, id);
            let job = state.jobs.get_mut(&id).expect("listed");
            let down = job.failures.down.clone().expect("listed");
            match &down {
                Down::Halting(acknowledged) if acknowledged.is_complete(workers) => {
                    let after = job.frontier;
                    // A worker may have published before it heard of the end.
                    job.relations().for_each(|relation| relation.retract(Epoch(after)));
                    for subscriber in job.control.subscribers.lock().iter() {
                        subscriber.inbox.lock().retain(|(epoch, _)| *epoch <= after);
                    }
                    if job.cut == Cut::Aside || job.cut == Cut::Outside {
                        job.control.cut_runs.lock().clear();
                    }
                    let is_table = job.control.table.is_some();
                    job.failures.down = Some(match (is_table, job.control.source.is_some()) {
                        (true, _) => Down::Lost,
                        (_, true) => Down::Parked,
                        _ => Down::Halted,
                    });
                    next = Duration::ZERO;
                }
                Down::Halted if may_park => {
                    if let Err(error) = self.park(state, id) {
                        let message = format!("cannot start again: {error}");
                        tracing::error!(job = state.jobs[&id].spec.name, "{message}");
                        state.jobs.get_mut(&id).expect("listed").lose(message);
                    }
                }
                Down::Parking(acknowledged) if acknowledged.is_complete(workers) => {
                    match acknowledged.error.lock().take() {
                        None => job.failures.down = Some(Down::Parked),
                        Some(error) => job.lose(format!("cannot start again: {error}")),
                    }
                    next = Duration::ZERO;
                }
                Down::Parked if job.stage == Stage::Restarting => {
                    let left =
                        job.failures.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now()));
                    let between = matches!(state.checkpoint, Checkpoint::Idle | Checkpoint::Writing(_));
                    if left > Duration::ZERO {
                        next = next.min(left);
                    } else if !between {
                        next = next.min(LOOK_AGAIN);
                    } else {
                        self.start_again(state, id);
                        next = Duration::ZERO;
                    }
                }
                Down::Halting(_) | Down::Halted | Down::Parking(_) => next = next.min(LOOK_AGAIN),
                Down::Parked | Down::Lost => {}
            }
        }
        next
    }

    /// Whether the store has what the job's state is, and its sources' offsets are those of their frontiers.
    fn may_park(&self, state: &State, id: RelationId) -> bool {
        let job = &state.jobs[&id];
        let between = |relation: RelationId| {
            let owner = state.owner(relation);
            owner.is_none_or(|owner| owner.control.source.is_none() || owner.busy.is_none())
        };
        !matches!(state.checkpoint, Checkpoint::Writing(_))
            && !matches!(job.cut, Cut::Done(_))
            && job.upstreams.iter().all(|(_, upstream)| between(*upstream))
    }

    /// Finds what came to the job since its state, and lets the workers put it into its inboxes.
    fn park(&self, state: &mut State, id: RelationId) -> Result<()> {
        let job = &state.jobs[&id];
        let durable = job.failures.durable.ok_or_else(|| Error::Failed("no checkpoint has it".into()))?;
        let mut rereads = checkpoint::aside(&self.store, id)?.map_or_else(Vec::new, |aside| aside.rereads);
        let mut taps = HashMap::new();
        for (node, upstream) in &job.upstreams {
            if matches!(&job.spec.plan.nodes[*node].operator, AnyOperator::TapReader(tap) if tap.history.is_some()) {
                let message = "it reads the versions of a table's rows, and those before its failure are not kept";
                return Err(Error::Failed(message.into()));
            }
            let gone = || Error::Failed("a relation that it reads was dropped".into());
            let owner = state.owner(*upstream).ok_or_else(gone)?;
            let after = owner.frontier;
            // The checkpoint under way has the input as of its cut, and what came later is not in it.
            let cut = match owner.cut {
                Cut::Done(at) if at < after => Some(at),
                _ => None,
            };
            let mut tap = ParkedTap { after: Some(after), changes: Vec::new() };
            match (&owner.control.source, owner.relation_of(*upstream)) {
                (Some(source), _) if *upstream == owner.spec.relation => {
                    let noted = source.noted.lock().clone().filter(|_| cut.is_some());
                    let meta = self.store.meta_get(&checkpoint::source_key(*upstream))?.unwrap_or_default();
                    let meta = serde_json::from_slice::<SourceMeta>(&meta)
                        .map_err(|error| storage::Error::Corrupt(format!("the offsets of a source: {error}")))?;
                    let now = source.splits.lock().clone();
                    let mut from = meta.splits;
                    let mut columns = source.projection.lock().to_vec();
                    if source.event.is_some() {
                        columns = (0..=source.source.columns().len()).collect();
                    }
                    for (until, upto) in noted.into_iter().zip(cut).chain([(now.clone(), after)]) {
                        rereads.push(Reread { node: *node, upto, stretches: stretches(&from, &until, &now, &columns) });
                        from = until;
                    }
                }
                (_, Some(relation)) => {
                    let mut from = relation.durable();
                    for to in cut.into_iter().chain([after]).map(Epoch).filter(|to| *to > relation.durable()) {
                        tap.changes.push((to.0, relation.changes(from, to)?));
                        from = to;
                    }
                }
                _ => return Err(Error::Failed("the relation keeps no rows".into())),
            }
            taps.insert(*node, tap);
        }
        let frontier = Epoch(job.frontier);
        let mut owed = Vec::new();
        for (to, relation) in job.relation.iter().map(|r| (OwedTo::Rows, r)).chain([(OwedTo::Errors, &job.errors)]) {
            if relation.durable() < frontier {
                owed.push((to, relation.changes(relation.durable(), frontier)?));
            }
        }
        let control = self.fresh_control(job, durable);
        let acknowledged = Arc::new(Acknowledged::default());
        let installation = self.installation_of(job, control.clone(), true);
        self.runtime.send(Command::Park(Arc::new(Parking {
            installation,
            taps,
            owed,
            acknowledged: acknowledged.clone(),
        })));
        let job = state.jobs.get_mut(&id).expect("present");
        if let Some(outbox) = &job.control.outbox {
            outbox.rewind();
        }
        job.control = control;
        job.failures.rereads = rereads;
        job.failures.down = Some(Down::Parking(acknowledged));
        Ok(())
    }

    /// Lets the workers take what waits at the last checkpoint for a job that was down then, and waits for `RESUME`.
    pub(super) fn park_stopped(&self, job: &mut Job) {
        let acknowledged = Arc::new(Acknowledged::default());
        if job.is_input() {
            job.failures.down = Some(if job.control.table.is_some() { Down::Lost } else { Down::Parked });
            job.note_position();
            return;
        }
        let tap = |(node, _): &(usize, RelationId)| (*node, ParkedTap { after: None, changes: Vec::new() });
        self.runtime.send(Command::Park(Arc::new(Parking {
            installation: self.installation_of(job, job.control.clone(), true),
            taps: job.upstreams.iter().map(tap).collect(),
            owed: Vec::new(),
            acknowledged: acknowledged.clone(),
        })));
        job.failures.down = Some(Down::Parking(acknowledged));
    }

    /// A shared part for the job's next start, whose state is as of `durable`.
    fn fresh_control(&self, job: &Job, durable: u64) -> Arc<JobControl> {
        let old = &job.control;
        let mut control = JobControl::new(old.relation, old.name.clone(), old.clock.clone());
        control.target.store(durable, Ordering::Release);
        control.done.store(durable, Ordering::Release);
        control.changed.store(old.changed.load(Ordering::Acquire), Ordering::Release);
        control.now.store(old.now.load(Ordering::Acquire), Ordering::Release);
        *control.history.lock() = old.history.lock().clone();
        control.outbox = old.outbox.clone();
        control.memory.set_budget(old.memory.budget());
        control.lookups = old.lookups.clone();
        control.fails_on_error.store(old.fails_on_error.load(Ordering::Acquire), Ordering::Release);
        *control.kept.lock() = *old.kept.lock();
        *control.origin.lock() = old.origin.lock().clone();
        *control.tried.lock() = std::mem::take(&mut *old.tried.lock());
        control.late_dropped.store(old.late_dropped.load(Ordering::Relaxed), Ordering::Relaxed);
        if control.may_lag() {
            control.take.store(job.failures.taken, Ordering::Release);
        }
        *control.subscribers.lock() = std::mem::take(&mut *old.subscribers.lock());
        let counters = [
            (&control.rows_in, &old.rows_in),
            (&control.bytes_in, &old.bytes_in),
            (&control.row_errors, &old.row_errors),
            (&control.row_errors_dropped, &old.row_errors_dropped),
        ];
        counters.iter().for_each(|(new, old)| new.store(old.load(Ordering::Relaxed), Ordering::Relaxed));
        control.rows_read.store(old.rows_read.load(Ordering::Relaxed), Ordering::Relaxed);
        control.source = old.source.as_ref().map(|source| source_again(source, &job.failures.splits));
        Arc::new(control)
    }

    /// Lets the workers build the job's dataflow again.
    fn start_again(&self, state: &mut State, id: RelationId) {
        let job = state.jobs.get_mut(&id).expect("present");
        job.failures.restarts += 1;
        job.failures.down = None;
        job.failures.due = None;
        tracing::info!(job = job.spec.name, "starting again");
        if job.is_input() {
            let control = self.fresh_control(&state.jobs[&id], state.sealed);
            let sealed = state.sealed;
            let job = state.jobs.get_mut(&id).expect("present");
            job.control = control;
            job.advance(sealed);
            job.stage = Stage::Running;
            self.install(job);
            return;
        }
        self.set_starts(state, id);
        let sealed = state.sealed;
        let job = state.jobs.get_mut(&id).expect("present");
        job.begin_resuming(sealed);
        state.force_seal = true;
        self.install_again(&state.jobs[&id]);
    }

    /// Where each tap of a job begins that starts again.
    pub(super) fn set_starts(&self, state: &State, id: RelationId) {
        let job = &state.jobs[&id];
        let epoch = job.failures.taken;
        for (node, upstream) in &job.upstreams {
            let stretches: Vec<Stretch> = job
                .failures
                .rereads
                .iter()
                .filter(|reread| reread.node == *node)
                .flat_map(|r| r.stretches.clone())
                .collect();
            let owner = state.owner(*upstream).filter(|_| !stretches.is_empty());
            let start = match owner.and_then(|owner| Some((owner, owner.control.source.as_ref()?))) {
                Some((owner, source)) => {
                    let judge =
                        owner.spec.event_time().map(|event| Judge::new(event, &owner.spec.columns, &self.functions));
                    match judge.transpose() {
                        Ok(judge) => {
                            Start::Again { source: source.source.clone(), stretches, judge: judge.map(Arc::new), epoch }
                        }
                        Err(error) => return job.control.fail(error.to_string()),
                    }
                }
                None => Start::Resume { epoch },
            };
            job.control.starts.lock().insert(*node, start);
        }
        for node in super::creation::constants(&job.spec) {
            job.control.starts.lock().insert(node, Start::Resume { epoch });
        }
    }

    /// At a checkpoint: lets what waits for jobs that are down be stored. True once it is.
    pub(super) fn store_waiting(&self, state: &mut State) -> bool {
        let ids: Vec<RelationId> =
            state.jobs.iter().filter(|(_, job)| job.cut == Cut::Aside).map(|(id, _)| *id).collect();
        let mut complete = true;
        for id in ids {
            let limits = Self::inbox_limits(state, &state.jobs[&id]);
            let job = state.jobs.get_mut(&id).expect("listed");
            match &job.failures.down {
                Some(Down::Parked) if !job.is_input() => {}
                Some(Down::Parked | Down::Lost) => {
                    job.failures.limits = Some(limits);
                    continue;
                }
                _ => {
                    complete = false;
                    continue;
                }
            }
            match &job.failures.storing {
                Some(storing) if storing.is_complete(self.config.workers) => {
                    let error = storing.error.lock().take();
                    job.failures.storing = None;
                    job.failures.limits = Some(limits);
                    if let Some(error) = error {
                        job.lose(format!("cannot start again: {error}"));
                    }
                }
                Some(_) => complete = false,
                None if job.failures.limits.is_some() => {}
                None => {
                    let acknowledged = Arc::new(Acknowledged::default());
                    job.failures.storing = Some(acknowledged.clone());
                    self.runtime.send(Command::Store { relation: id, limits: Arc::new(limits), acknowledged });
                    complete = false;
                }
            }
        }
        complete
    }

    /// Starts a job again that has failed, now.
    pub fn restart_now(&self, relation: RelationId) -> Result<()> {
        let mut state = self.state.lock();
        let job = state.jobs.get_mut(&relation);
        let job = job.ok_or_else(|| Error::NotFound("the job does not exist any more".into()))?;
        if job.is_down() {
            if job.failures.down.is_none() || matches!(job.failures.down, Some(Down::Lost)) {
                let why = job.failures.last.clone().unwrap_or_default();
                let message =
                    format!("\"{}\" cannot be resumed: {why}\nHINT:  Drop it and create it again.", job.spec.name);
                return Err(Error::invalid("55000", message));
            }
            job.failures.at.clear();
            job.failures.due = None;
            job.stage = Stage::Restarting;
        }
        drop(state);
        self.clock.notify.notify();
        Ok(())
    }
}

impl Job {
    /// The workers build it; its first step ends behind `sealed`, up to where others may have gone without it.
    pub(super) fn begin_resuming(&mut self, sealed: u64) {
        self.failures.behind = sealed;
        self.control.resuming.store(true, Ordering::Release);
        self.must_run = true;
        self.known_at = 0;
        self.taken = self.failures.taken;
        self.ran_at = None;
        self.stage = Stage::Resuming;
    }

    /// It has caught up.
    pub(super) fn resumed(&mut self) {
        self.control.resuming.store(false, Ordering::Release);
        self.stage = Stage::Running;
    }
}

/// What lies between two positions of a source.
fn stretches(from: &[SplitState], until: &[SplitState], now: &[SplitState], columns: &[usize]) -> Vec<Stretch> {
    let find = |splits: &[SplitState], id: &str| splits.iter().find(|split| split.id == id).cloned();
    let stretch = |split: &SplitState| {
        let before = find(from, &split.id);
        let begin = before.as_ref().map_or(split.start, |before| before.offset);
        let mut progress = before.map(|before| before.progress).unwrap_or_default();
        // It is judged as it was.
        progress.restore(&find(now, &split.id)?.progress.raises);
        let (id, number, until) = (split.id.clone(), split.number, split.offset);
        let columns = columns.to_vec();
        (begin < until).then_some(Stretch { id, number, from: begin, until, progress, columns })
    };
    until.iter().filter_map(stretch).collect()
}

/// A source's shared part for its next start: where it was at its last complete epoch.
fn source_again(old: &SourceControl, splits: &[SplitState]) -> SourceControl {
    let event = old.event.as_ref().map(|event| {
        let at = event.at.load(Ordering::Acquire);
        let again = Announced::new(event.spec.clone(), at, event.before);
        again.epoch.store(event.epoch.load(Ordering::Acquire), Ordering::Release);
        again.late_rows.store(event.late_rows.load(Ordering::Relaxed), Ordering::Relaxed);
        again
    });
    let projections: BTreeMap<usize, Arc<Vec<usize>>> = old.projections.lock().clone();
    SourceControl {
        source: old.source.clone(),
        retries: old.retries.clone(),
        held: old.held.clone(),
        event,
        splits: Mutex::new(splits.to_vec()),
        durable_splits: AtomicUsize::new(old.durable_splits.load(Ordering::Acquire).min(splits.len())),
        version: AtomicU64::new(old.version.load(Ordering::Acquire) + 1),
        acknowledged: old.acknowledged.iter().map(|_| AtomicU64::new(0)).collect(),
        projection: Mutex::new(old.projection.lock().clone()),
        projections: Mutex::new(projections),
        active: AtomicBool::new(old.active.load(Ordering::Acquire)),
        noted: Mutex::new(None),
    }
}
