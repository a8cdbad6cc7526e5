//! Drives the jobs: seals epochs, hands out targets, takes checkpoints, answers readers.
//!
//! ```text
//!  sources, tables        views                                     readers
//!  ─ dirty ─▶ seal E ─▶   frontier of all it reads = F  ─▶ target F  ─▶ done ─▶ frontier F ─▶ snapshot as of F
//! ```
//!
//! Each job has a frontier of its own. A view whose inputs did not change advances without running; one that is behind
//! is given several epochs at once, as many as make a step of bounded size.
//!
//! A checkpoint C begins with the sources and tables, which are cut at epoch C. Then each job is cut at its own next step,
//! at an epoch that none of its inputs' cuts is before, and goes on; what waits in its inboxes up to its inputs' cuts is
//! part of its state (`inbox.rs`). So after a restart each job goes on at its own cut with all that had come for it.
//!
//! Invariants: one target in flight a job; a job's target never exceeds what all its inputs have completed, nor the cut of
//! one of them while it is not cut itself.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::{Batch, Epoch, Relation, RelationId, RelationSnapshot, Store};
use tokio::sync::oneshot;

use crate::checkpoint::{self, Taken, Writer};
use crate::clock::Clock;
use crate::engine::{CatalogChanges, Changes, EngineConfig, JobSpec, JobState, ReadView};
use crate::error::{Error, Result};
use crate::expr::Functions;
use crate::job::{JobControl, Start, Subscriber};
use crate::operators::AnyOperator;
use crate::runtime::{Command, Installation, Runtime};
use crate::source::Offset;
use crate::table_log::TableLog;
use crate::visible::VisibleLog;

/// An open epoch is not sealed before this while jobs are busy, so that a heavy load gets bigger epochs.
const EPOCH_INTERVAL_BUSY: Duration = Duration::from_millis(20);
/// How long a step of a job that is behind should take, by how fast its last ones were: a cut is never much farther away.
const STEP_TIME: Duration = Duration::from_millis(200);
/// Rows that wait for a job in one step's epochs, at most, and at least so that a step is worth its while. One epoch alone
/// may have more.
const STEP_ROWS: std::ops::RangeInclusive<usize> = 4096..=262_144;
/// An epoch is sealed at least this often, when only time moves.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Everything that the coordinator shares with the engine's callers.
pub struct Coordinator {
    /// The clock.
    pub clock: Arc<Clock>,
    /// The store.
    pub store: Arc<Store>,
    /// The workers.
    pub runtime: Runtime,
    /// The SQL functions.
    pub functions: Arc<dyn Functions>,
    /// How to run.
    pub config: EngineConfig,
    /// The jobs and who waits for what.
    pub state: Mutex<State>,
    /// Writes checkpoints.
    pub writer: Writer,
    /// What clients wrote to tables.
    pub log: Arc<TableLog>,
    /// How far sources are visible.
    pub visible: VisibleLog,
}

/// The jobs and who waits for what.
pub struct State {
    /// Jobs by relation; an upstream has a smaller number than what reads it.
    pub jobs: BTreeMap<RelationId, Job>,
    /// The last sealed epoch.
    pub sealed: u64,
    /// The last durable epoch.
    pub durable: u64,
    /// What the last checkpoint did.
    pub last_checkpoint: checkpoint::Statistics,
    /// Why checkpoints fail, while they do.
    pub checkpoint_error: Option<storage::Error>,
    sealed_at: Instant,
    checkpointed_at: Instant,
    checkpoint: Checkpoint,
    changed_since_checkpoint: bool,
    force_seal: bool,
    want_checkpoint: bool,
    pending: Vec<Change>,
    writing: Vec<Change>,
    pins: BTreeSet<u64>,
    readers: Vec<Reader>,
    flushes: Vec<Flush>,
    /// Set when the coordinator shall stop.
    pub stopping: bool,
}

/// A job as the coordinator knows it.
pub struct Job {
    /// What it runs.
    pub spec: JobSpec,
    /// Its shared part.
    pub control: Arc<JobControl>,
    /// The relation that it keeps; `None` for a source.
    pub relation: Option<Arc<Relation>>,
    /// The relation of its errors.
    pub errors: Arc<Relation>,
    /// The relation can be read at this epoch.
    pub frontier: u64,
    /// What it is doing.
    pub stage: Stage,
    upstreams: Vec<(usize, RelationId)>,
    busy: Option<u64>,
    busy_since: Instant,
    /// Rows that a step should have.
    step_rows: usize,
    not_before: u64,
    ran_since_cut: bool,
    /// Where it stands in the checkpoint under way.
    pub cut: Cut,
    /// Its clients are told when it can be read.
    created: Option<oneshot::Sender<Result<()>>>,
    catalog: Option<CatalogChanges>,
}

/// Where a job stands in the checkpoint under way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// It is not in it.
    Outside,
    /// It is to be cut at its next step.
    Wanted,
    /// It is being cut at this epoch.
    Issued(u64),
    /// The checkpoint has it as of this epoch.
    Done(u64),
}

/// The life of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// The workers build it.
    Installing,
    /// It is subscribed to its inputs; waits until each has completed an epoch begun since.
    Subscribed(BTreeMap<RelationId, Wait>),
    /// It reads its inputs' rows.
    Reading,
    /// It waits for its first checkpoint.
    Committing,
    /// It follows its inputs.
    Running,
    /// It is stopped.
    Failed,
}

/// What a new job waits for at one of its inputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Wait {
    /// A source whose readers take up a new version (projection) on every worker.
    Version(u64),
    /// The input's frontier.
    Frontier(u64),
}

/// A change of the catalog that waits for its checkpoint.
struct Change {
    catalog: CatalogChanges,
    dropped: Vec<RelationId>,
    /// The job that it creates.
    created: Option<RelationId>,
    done: Option<oneshot::Sender<Result<()>>>,
}

enum Checkpoint {
    Idle,
    Sources(u64),
    Jobs(u64),
    Writing(u64),
}

struct Reader {
    relations: Vec<RelationId>,
    at_least: u64,
    pin: Option<u64>,
    taken: BTreeMap<RelationId, RelationSnapshot>,
    send: Option<oneshot::Sender<Result<ReadView>>>,
}

struct Flush {
    epoch: Option<u64>,
    send: oneshot::Sender<Result<Epoch>>,
}

/// One past the last node that reads a tap.
fn upstreams(spec: &JobSpec) -> Vec<(usize, RelationId)> {
    let tap = |(node, n): (usize, &crate::plan::PlanNode)| match &n.operator {
        AnyOperator::TapReader(tap) => Some((node, tap.relation)),
        _ => None,
    };
    spec.plan.nodes.iter().enumerate().filter_map(tap).collect()
}

/// Nodes that speak without input.
fn constants(spec: &JobSpec) -> Vec<usize> {
    let is_constant = |n: &crate::plan::PlanNode| matches!(n.operator, AnyOperator::Values(_));
    spec.plan.nodes.iter().enumerate().filter(|(_, n)| is_constant(n)).map(|(i, _)| i).collect()
}

impl State {
    /// No jobs, at the epoch before `open`.
    pub fn new(open: u64, durable: u64) -> State {
        let now = Instant::now();
        State {
            jobs: BTreeMap::new(),
            sealed: open - 1,
            durable,
            last_checkpoint: checkpoint::Statistics::default(),
            checkpoint_error: None,
            sealed_at: now,
            checkpointed_at: now,
            checkpoint: Checkpoint::Idle,
            changed_since_checkpoint: false,
            force_seal: false,
            want_checkpoint: false,
            pending: Vec::new(),
            writing: Vec::new(),
            pins: BTreeSet::new(),
            readers: Vec::new(),
            flushes: Vec::new(),
            stopping: false,
        }
    }

    /// The job that maintains `relation`, be it its rows or its errors.
    pub fn owner(&self, relation: RelationId) -> Option<&Job> {
        self.jobs.get(&relation).or_else(|| self.jobs.values().find(|job| job.spec.errors == relation))
    }

    fn frontier(&self, relation: RelationId) -> u64 {
        // What has failed changes no more: those who read it go on, but cannot be read (see `try_read`).
        self.owner(relation).map_or(0, |job| if job.stage == Stage::Failed { self.sealed } else { job.frontier })
    }

    /// The failed job that `relation` depends on, if any.
    fn failed(&self, relation: RelationId) -> Option<&Job> {
        let job = self.owner(relation)?;
        if job.stage == Stage::Failed {
            return Some(job);
        }
        job.upstreams.iter().find_map(|(_, upstream)| self.failed(*upstream))
    }
}

impl Job {
    fn is_input(&self) -> bool {
        self.control.source.is_some() || self.control.table.is_some()
    }

    fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Committing)
    }

    /// The relation object behind one of the job's ids.
    pub fn relation_of(&self, id: RelationId) -> Option<&Arc<Relation>> {
        if id == self.spec.errors { Some(&self.errors) } else { self.relation.as_ref() }
    }

    /// Keeps what the job's relations have up to `epoch` apart from what comes later.
    fn announce(&self, epoch: u64) {
        for relation in self.relation.iter().chain([&self.errors]) {
            relation.cut(Epoch(epoch));
        }
    }

    /// The farthest epoch up to `limit` whose step is of bounded size.
    fn step(&self, limit: u64) -> u64 {
        if limit <= self.frontier {
            return limit;
        }
        let mut rows = 0;
        let mut last = None;
        for (epoch, waiting) in self.control.waiting.lock().range(self.frontier + 1..=limit) {
            rows += waiting;
            if rows > self.step_rows
                && let Some(last) = last
            {
                return last;
            }
            last = Some(*epoch);
        }
        limit
    }

    /// Learns from a step how large the next one should be.
    fn stepped(&mut self, target: u64) {
        let mut waiting = self.control.waiting.lock();
        let later = waiting.split_off(&(target + 1));
        let rows: usize = std::mem::replace(&mut *waiting, later).into_values().sum();
        // Small steps tell more of the clock than of the job.
        if rows >= *STEP_ROWS.start() / 2 {
            let rate = rows as f64 / self.busy_since.elapsed().as_secs_f64().max(1e-6);
            self.step_rows = ((rate * STEP_TIME.as_secs_f64()) as usize).clamp(*STEP_ROWS.start(), *STEP_ROWS.end());
        }
    }

    fn issue(&mut self, target: u64, cut: bool) {
        debug_assert!(self.busy.is_none() && target > self.control.target.load(Ordering::Acquire));
        if cut {
            self.control.cut.store(target, Ordering::Release);
        }
        self.control.target.store(target, Ordering::Release);
        self.busy = Some(target);
        self.busy_since = Instant::now();
        self.ran_since_cut = true;
        self.control.wake();
    }

    fn advance(&mut self, epoch: u64) {
        if epoch > self.frontier {
            self.frontier = epoch;
            if let Some(relation) = &self.relation {
                relation.advance(Epoch(epoch));
            }
            self.errors.advance(Epoch(epoch));
        }
    }

    /// For status.
    pub fn state(&self) -> JobState {
        match self.stage {
            Stage::Running => JobState::Running,
            Stage::Failed => JobState::Failed,
            _ => JobState::Creating,
        }
    }
}

impl Coordinator {
    /// Runs until told to stop: one thread.
    pub fn run(&self) {
        let mut timeout = Duration::ZERO;
        loop {
            self.clock.notify.wait(timeout);
            let mut state = self.state.lock();
            if state.stopping {
                return;
            }
            timeout = self.tick(&mut state);
        }
    }

    /// Does everything that can be done now; returns how long nothing has to be done, unless something happens.
    fn tick(&self, state: &mut State) -> Duration {
        self.collect(state);
        loop {
            let before = state.sealed;
            self.install_new(state);
            self.seal(state);
            while self.follow(state) {}
            self.checkpoint(state);
            if state.sealed == before {
                break;
            }
        }
        Self::answer_flushes(state);
        self.answer(state);
        self.publish(state);
        let dirty = state.jobs.values().any(|job| job.control.dirty.load(Ordering::Acquire));
        let since = state.sealed_at.elapsed();
        if dirty {
            let idle = Self::idle(state);
            let interval = if idle { self.config.epoch_interval_min } else { EPOCH_INTERVAL_BUSY };
            // A busy source tells when it is done.
            return interval.saturating_sub(since).max(Duration::from_micros(50));
        }
        let checkpoint_in = if state.changed_since_checkpoint && matches!(state.checkpoint, Checkpoint::Idle) {
            self.config.checkpoint_interval.saturating_sub(state.checkpointed_at.elapsed())
        } else {
            HEARTBEAT
        };
        checkpoint_in.min(HEARTBEAT).max(Duration::from_micros(50))
    }

    /// Takes up what the workers have done.
    fn collect(&self, state: &mut State) {
        let failed: Vec<RelationId> = state
            .jobs
            .iter()
            .filter(|(_, job)| job.stage != Stage::Failed && job.control.failed.load(Ordering::Acquire))
            .map(|(id, _)| *id)
            .collect();
        for id in failed {
            let job = state.jobs.get_mut(&id).expect("listed");
            let message = job.control.error.lock().clone().unwrap_or_default();
            tracing::error!(job = job.spec.name, "job failed: {message}");
            job.stage = Stage::Failed;
            job.busy = None;
            self.runtime.send(Command::Remove(id));
            if let Some(created) = job.created.take() {
                let _ = created.send(Err(Error::Failed(message)));
            }
            state.want_checkpoint = true;
        }
        let reading = |job: &Job| job.stage == Stage::Reading;
        for job in state.jobs.values_mut() {
            let done = job.control.done.load(Ordering::Acquire);
            if job.busy.is_some_and(|target| done >= target) {
                let target = job.busy.take().expect("checked");
                if job.cut == Cut::Issued(target) && !job.is_input() {
                    job.cut = Cut::Done(target);
                    job.ran_since_cut = false;
                }
                job.stepped(target);
                let was_reading = reading(job);
                // The snapshots that the job began with are read.
                job.control.starts.lock().clear();
                if let Some(source) = &job.control.source {
                    self.visible.note(job.spec.relation, &source.splits.lock());
                }
                job.advance(target);
                if was_reading {
                    job.stage = Stage::Committing;
                    state.want_checkpoint = true;
                    state.pending.push(Change {
                        catalog: job.catalog.take().unwrap_or_default(),
                        dropped: Vec::new(),
                        created: Some(job.spec.relation),
                        done: job.created.take(),
                    });
                }
                state.changed_since_checkpoint = true;
            }
        }
    }

    /// Brings new jobs from one stage to the next.
    fn install_new(&self, state: &mut State) {
        let ids: Vec<RelationId> = state.jobs.keys().copied().collect();
        for id in ids {
            let job = &state.jobs[&id];
            match &job.stage {
                Stage::Installing if job.control.installed.load(Ordering::Acquire) == self.config.workers => {
                    self.subscribed(state, id);
                }
                _ => {}
            }
            let job = &state.jobs[&id];
            if let Stage::Subscribed(waits) = &job.stage {
                let waits = waits.clone();
                let ready = state.sealed >= job.not_before
                    && waits.iter().all(|(upstream, wait)| self.is_over(state, *upstream, wait));
                if ready {
                    let more = self.versions_done(state, &waits);
                    let job = state.jobs.get_mut(&id).expect("present");
                    match more {
                        Some(waits) => {
                            job.stage = Stage::Subscribed(waits);
                            state.force_seal = true;
                        }
                        None => self.start_reading(state, id),
                    }
                }
            }
        }
    }

    fn is_over(&self, state: &State, upstream: RelationId, wait: &Wait) -> bool {
        let Some(job) = state.owner(upstream) else { return true };
        match wait {
            _ if job.stage == Stage::Failed => true,
            // Between two epochs the offsets of a source are exactly those of its frontier.
            Wait::Frontier(epoch) => job.frontier >= *epoch && (job.control.source.is_none() || job.busy.is_none()),
            Wait::Version(version) => {
                job.control.source.as_ref().is_none_or(|source| {
                    source.acknowledged.iter().all(|seen| seen.load(Ordering::Acquire) >= *version)
                })
            }
        }
    }

    /// Once every source's readers have taken up their version, the epoch that is open now must be complete too.
    fn versions_done(&self, state: &State, waits: &BTreeMap<RelationId, Wait>) -> Option<BTreeMap<RelationId, Wait>> {
        if waits.values().all(|wait| matches!(wait, Wait::Frontier(_))) {
            return None;
        }
        let open = state.sealed + 1;
        Some(waits.keys().map(|id| (*id, Wait::Frontier(open))).collect())
    }

    /// The job is subscribed on every worker: from now on nothing that its inputs publish is missed.
    fn subscribed(&self, state: &mut State, id: RelationId) {
        let job = &state.jobs[&id];
        if job.is_input() {
            let job = state.jobs.get_mut(&id).expect("present");
            job.frontier = 0;
            job.stage = Stage::Committing;
            let sealed = state.sealed;
            job.advance(sealed);
            job.control.target.store(sealed, Ordering::Release);
            job.control.done.store(sealed, Ordering::Release);
            job.control.wake();
            state.pending.push(Change {
                catalog: job.catalog.take().unwrap_or_default(),
                dropped: Vec::new(),
                created: Some(id),
                done: job.created.take(),
            });
            state.want_checkpoint = true;
            return;
        }
        let upstreams = job.upstreams.clone();
        let plan = job.spec.plan.clone();
        let mut waits = BTreeMap::new();
        for (node, upstream) in &upstreams {
            let Some(owner) = state.owner(*upstream) else { continue };
            let in_flight = owner.busy.unwrap_or(owner.frontier).max(owner.frontier);
            let mut wait = Wait::Frontier(in_flight.max(state.sealed + 1));
            if let Some(source) = &owner.control.source
                && *upstream == owner.spec.relation
            {
                let AnyOperator::TapReader(tap) = &plan.nodes[*node].operator else { unreachable!("an upstream") };
                wait = Wait::Version(widen(source, &tap.columns));
                owner.control.wake();
            }
            match waits.get(upstream) {
                Some(Wait::Version(_)) if !matches!(wait, Wait::Version(_)) => {}
                _ => drop(waits.insert(*upstream, wait)),
            }
        }
        // The job's first epoch lies behind every checkpoint that its relation was opened at.
        let not_before = state.sealed + 1;
        state.force_seal = true;
        let job = state.jobs.get_mut(&id).expect("present");
        job.not_before = not_before;
        job.stage = Stage::Subscribed(waits);
    }

    /// Fixes what each input's rows are read as of, and gives the job its first target.
    fn start_reading(&self, state: &mut State, id: RelationId) {
        let upstreams = state.jobs[&id].upstreams.clone();
        let mut starts = Vec::new();
        let mut target = 0;
        for (node, upstream) in &upstreams {
            let Some(owner) = state.owner(*upstream) else {
                let message = "a relation that the job reads was dropped".to_owned();
                return state.jobs[&id].control.fail(message);
            };
            if owner.stage == Stage::Failed {
                let message = format!("\"{}\", which it reads, has failed", owner.spec.name);
                return state.jobs[&id].control.fail(message);
            }
            let epoch = owner.frontier;
            target = target.max(epoch);
            let start = match (&owner.control.source, owner.relation_of(*upstream)) {
                (Some(source), _) if *upstream == owner.spec.relation => {
                    let splits = source.splits.lock();
                    let splits = splits.iter().map(|s| (s.id.clone(), s.number, s.start, s.offset)).collect();
                    Ok(Start::Records { source: source.source.clone(), splits, epoch })
                }
                (_, Some(relation)) => relation
                    .snapshot(Epoch(epoch))
                    .map(|snapshot| Start::Snapshot { snapshot, epoch })
                    .map_err(|error| error.to_string()),
                _ => Err("the relation keeps no rows".to_owned()),
            };
            match start {
                Ok(start) => starts.push((*node, start)),
                Err(message) => return state.jobs[&id].control.fail(message),
            }
        }
        let sealed = state.sealed;
        let job = state.jobs.get_mut(&id).expect("present");
        let rows = starts.iter().map(|(_, start)| match start {
            Start::Snapshot { snapshot, .. } => Some(snapshot.rows_estimate()),
            Start::Records { .. } | Start::Resume { .. } => None,
        });
        *job.control.rows_total.lock() = rows.sum();
        job.control.starts.lock().extend(starts);
        job.stage = Stage::Reading;
        // Without inputs any epoch will do.
        job.issue(if upstreams.is_empty() { sealed } else { target.max(1) }, false);
    }

    fn idle(state: &State) -> bool {
        state
            .jobs
            .values()
            .all(|job| !job.is_live() || job.is_input() || (job.busy.is_none() && job.frontier >= state.sealed))
    }

    /// Seals the open epoch if it is time.
    fn seal(&self, state: &mut State) {
        if matches!(state.checkpoint, Checkpoint::Sources(_)) {
            return;
        }
        if state.jobs.values().any(|job| job.is_input() && job.busy.is_some()) {
            return;
        }
        let since = state.sealed_at.elapsed();
        let dirty = state.jobs.values().any(|job| job.is_live() && job.control.dirty.load(Ordering::Acquire));
        let due = since >= self.config.epoch_interval_min && (since >= EPOCH_INTERVAL_BUSY || Self::idle(state));
        let beat = since >= HEARTBEAT && state.jobs.values().any(|job| !job.control.subscribers.lock().is_empty());
        let start = self.wants_checkpoint(state);
        if !(dirty && due || state.force_seal || beat || start) {
            return;
        }
        state.force_seal = false;
        state.sealed_at = Instant::now();
        let jobs = &mut state.jobs;
        state.sealed = self.clock.seal(|epoch| {
            for job in jobs.values_mut().filter(|job| job.is_input() && job.is_live()) {
                if job.control.dirty.swap(false, Ordering::AcqRel) {
                    job.issue(epoch, false);
                } else {
                    job.advance(epoch);
                }
            }
        });
        let sealed = state.sealed;
        for flush in state.flushes.iter_mut().filter(|flush| flush.epoch.is_none()) {
            flush.epoch = Some(sealed);
        }
        if start {
            state.checkpoint = Checkpoint::Sources(sealed);
            state.want_checkpoint = false;
            state.changed_since_checkpoint = false;
            state.checkpointed_at = Instant::now();
            // What is created from now on is in the next one.
            for job in state.jobs.values_mut().filter(|job| job.is_live()) {
                job.cut = if job.is_input() { Cut::Issued(sealed) } else { Cut::Wanted };
                if job.is_input() {
                    job.announce(sealed);
                }
            }
        }
    }

    /// How far the inputs of `job` let it go, and whether that is a cut. Every cut lies behind the frontiers of those that
    /// are not cut yet, so that each of them has a step left to be cut with.
    fn cut_limit(state: &State, job: &Job) -> (u64, bool) {
        let mut limit = u64::MAX;
        let mut all_done = true;
        for (_, upstream) in &job.upstreams {
            match state.owner(*upstream).filter(|owner| owner.stage != Stage::Failed).map(|owner| owner.cut) {
                Some(Cut::Done(at)) => limit = limit.min(at),
                Some(Cut::Issued(at)) => (limit, all_done) = (limit.min(at), false),
                Some(Cut::Wanted) => all_done = false,
                // It is not in the checkpoint, or it changes no more.
                Some(Cut::Outside) | None => {}
            }
        }
        if let Checkpoint::Sources(at) | Checkpoint::Jobs(at) = state.checkpoint {
            limit = limit.min(at);
        }
        if all_done { (limit, true) } else { (limit - 1, false) }
    }

    /// Lets every job follow its inputs; true if a frontier moved (so that who reads it can follow).
    fn follow(&self, state: &mut State) -> bool {
        let mut moved = false;
        let ids: Vec<RelationId> = state.jobs.keys().copied().collect();
        for id in ids {
            let job = &state.jobs[&id];
            if !job.is_live() || job.is_input() || job.busy.is_some() {
                continue;
            }
            let limit = job.upstreams.iter().map(|(_, upstream)| state.frontier(*upstream)).min();
            let mut limit = limit.unwrap_or(state.sealed);
            let mut cut = false;
            if job.cut == Cut::Wanted {
                let (at, is_cut) = Self::cut_limit(state, job);
                limit = limit.min(at);
                cut = is_cut;
            }
            if let Some(pin) = state.pins.range(job.frontier + 1..).next() {
                limit = limit.min(*pin);
            }
            limit = job.step(limit);
            if limit <= job.frontier {
                continue;
            }
            let changed = job.upstreams.iter().any(|(_, upstream)| {
                state.owner(*upstream).is_some_and(|u| u.control.changed.load(Ordering::Acquire) > job.frontier)
            });
            let limits = if cut { Self::inbox_limits(state, job) } else { HashMap::new() };
            let job = state.jobs.get_mut(&id).expect("present");
            if cut {
                job.announce(limit);
            }
            if !changed && !(cut && job.ran_since_cut) {
                if cut {
                    job.cut = Cut::Done(limit);
                }
                job.advance(limit);
                moved = true;
            } else {
                if cut {
                    *job.control.cut_limits.lock() = limits;
                    job.cut = Cut::Issued(limit);
                }
                job.issue(limit, cut);
            }
        }
        moved
    }

    /// Up to where what waits for `job` at each of its taps belongs to the checkpoint: its input's cut.
    fn inbox_limits(state: &State, job: &Job) -> HashMap<usize, u64> {
        let cut = |upstream: RelationId| match state.owner(upstream)?.cut {
            Cut::Done(at) => Some(at),
            _ => None,
        };
        job.upstreams.iter().map(|(node, upstream)| (*node, cut(*upstream).unwrap_or(u64::MAX))).collect()
    }

    fn wants_checkpoint(&self, state: &State) -> bool {
        let due = state.changed_since_checkpoint && state.checkpointed_at.elapsed() >= self.config.checkpoint_interval;
        matches!(state.checkpoint, Checkpoint::Idle) && (state.want_checkpoint || due)
    }

    /// Brings the checkpoint from one phase to the next.
    fn checkpoint(&self, state: &mut State) {
        if let Checkpoint::Sources(at) = state.checkpoint {
            let inputs = state.jobs.values().filter(|job| job.is_input() && job.is_live());
            if inputs.into_iter().all(|job| job.frontier >= at) {
                for job in state.jobs.values_mut().filter(|job| job.is_input() && job.is_live()) {
                    // One that was created since is as of an epoch that is sealed later.
                    if job.cut == Cut::Issued(at) {
                        job.cut = Cut::Done(at);
                        checkpoint::note_inputs(job);
                    }
                }
                self.visible.cut(at);
                state.checkpoint = Checkpoint::Jobs(at);
                while self.follow(state) {}
            }
        }
        if let Checkpoint::Jobs(at) = state.checkpoint {
            let has = |job: &Job| matches!(job.cut, Cut::Done(_)) || job.stage == Stage::Failed;
            let open = |job: &Job| job.is_live() && matches!(job.cut, Cut::Wanted | Cut::Issued(_));
            if !state.jobs.values().any(open) {
                let pending = std::mem::take(&mut state.pending);
                let (changes, later): (Vec<Change>, Vec<Change>) = pending
                    .into_iter()
                    .partition(|change| change.created.and_then(|id| state.jobs.get(&id)).is_none_or(has));
                state.pending = later;
                let mut taken = Taken { epoch: at, ..Taken::default() };
                for change in &changes {
                    taken.meta.extend(change.catalog.iter().cloned());
                    taken.dropped.extend(&change.dropped);
                }
                for job in state.jobs.values_mut() {
                    checkpoint::take(job, &mut taken);
                    job.cut = Cut::Outside;
                }
                state.writing = changes;
                state.checkpoint = Checkpoint::Writing(at);
                self.writer.write(taken);
            }
        }
        if let Checkpoint::Writing(at) = state.checkpoint
            && let Some(result) = self.writer.result()
        {
            match result {
                Ok(statistics) => {
                    state.durable = at;
                    if state.checkpoint_error.take().is_some() {
                        tracing::info!("checkpoints succeed again");
                    }
                    self.clock.held.store(false, Ordering::Relaxed);
                    state.last_checkpoint = statistics;
                    state.checkpoint = Checkpoint::Idle;
                    self.forget_before(state, at);
                    for job in state.jobs.values_mut() {
                        checkpoint::tell_committed(job);
                    }
                    for change in std::mem::take(&mut state.writing) {
                        if let Some(job) = change.created.and_then(|id| state.jobs.get_mut(&id))
                            && job.stage == Stage::Committing
                        {
                            job.stage = Stage::Running;
                        }
                        if let Some(done) = change.done {
                            let _ = done.send(Ok(()));
                        }
                    }
                    if state.flushes.iter().any(|flush| flush.epoch.is_none_or(|epoch| epoch > at))
                        || !state.pending.is_empty()
                    {
                        state.want_checkpoint = true;
                    }
                }
                // The writer goes on trying with the same changes; nothing is lost meanwhile.
                Err(error) => {
                    if state.checkpoint_error.is_none() {
                        tracing::error!(
                            "checkpoint failed, trying again; writes are refused and sources pause: {error}"
                        );
                    }
                    self.clock.held.store(true, Ordering::Relaxed);
                    for flush in state.flushes.drain(..) {
                        let _ = flush.send.send(Err(Error::Storage(error.clone())));
                    }
                    state.checkpoint_error = Some(error);
                }
            }
        }
    }

    /// What the checkpoint holds needs no log any more.
    fn forget_before(&self, state: &State, epoch: u64) {
        self.visible.committed(epoch);
        let noted = |job: &Job| job.control.table.as_ref().map(|table| table.noted.load(Ordering::Acquire));
        // Sequence numbers enter epochs in order: whatever is before the last one of the checkpoint is in it too.
        let last = state.jobs.values().filter_map(noted).max().unwrap_or(0);
        if last > 0
            && let Err(error) = self.log.truncate_before(last + 1)
        {
            tracing::warn!("old table log records could not be removed: {error}");
        }
    }

    /// Answers who waits for all that had come in: it is durable, and every view has it.
    fn answer_flushes(state: &mut State) {
        let follows = |job: &&Job| job.stage == Stage::Running;
        let visible = state.jobs.values().filter(follows).map(|job| job.frontier).min().unwrap_or(state.sealed);
        let complete = visible.min(state.durable);
        let is_over = |flush: &mut Flush| flush.epoch.is_some_and(|epoch| epoch <= complete);
        for flush in state.flushes.extract_if(.., is_over) {
            let _ = flush.send.send(Ok(Epoch(complete)));
        }
    }

    /// Answers the readers whose epoch has come.
    fn answer(&self, state: &mut State) {
        let mut readers = std::mem::take(&mut state.readers);
        readers.retain_mut(|reader| {
            if reader.send.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return false;
            }
            match Self::try_read(state, reader) {
                Ok(None) => true,
                Ok(Some(view)) => {
                    let _ = reader.send.take().expect("open").send(Ok(view));
                    false
                }
                Err(error) => {
                    let _ = reader.send.take().expect("open").send(Err(error));
                    false
                }
            }
        });
        state.readers = readers;
        state.pins = state.readers.iter().filter_map(|reader| reader.pin).collect();
    }

    /// Every relation as of one epoch; `None` if that epoch has not come yet.
    fn try_read(state: &State, reader: &mut Reader) -> Result<Option<ReadView>> {
        let mut frontiers = Vec::new();
        for id in &reader.relations {
            let job = state
                .owner(*id)
                .ok_or_else(|| Error::NotFound(format!("relation {} does not exist any more", id.0)))?;
            if let Some(failed) = state.failed(*id)
                && *id != failed.spec.errors
            {
                let why = failed.control.error.lock().clone().unwrap_or_default();
                return Err(Error::Failed(format!("\"{}\" has failed: {why}", failed.spec.name)));
            }
            let relation = job
                .relation_of(*id)
                .ok_or_else(|| Error::Unsupported(format!("\"{}\" keeps no rows", job.spec.name)))?;
            frontiers.push((*id, job.frontier, relation));
        }
        let newest = frontiers.iter().map(|(_, f, _)| *f).max().unwrap_or(state.sealed);
        let oldest = frontiers.iter().map(|(_, f, _)| *f).min().unwrap_or(state.sealed);
        let epoch = match reader.pin {
            Some(pin) => pin,
            None if oldest >= reader.at_least => oldest,
            None => {
                // Wait for the newest, which the others will reach and stop at.
                reader.pin = (newest >= reader.at_least && reader.relations.len() > 1).then_some(newest);
                return Ok(None);
            }
        };
        for (id, frontier, relation) in &frontiers {
            if *frontier >= epoch && !reader.taken.contains_key(id) {
                match relation.snapshot(Epoch(epoch)) {
                    Ok(snapshot) => drop(reader.taken.insert(*id, snapshot)),
                    // Too far back by now: wait for the slower ones at the newest epoch.
                    Err(_) => {
                        reader.taken.clear();
                        reader.pin = Some(newest.max(reader.at_least));
                        return Ok(None);
                    }
                }
            }
        }
        if reader.taken.len() < reader.relations.len() {
            reader.pin = Some(epoch);
            return Ok(None);
        }
        Ok(Some(ReadView { epoch: Epoch(epoch), relations: std::mem::take(&mut reader.taken) }))
    }

    /// Hands changes to the readers outside.
    fn publish(&self, state: &mut State) {
        for job in state.jobs.values() {
            let mut subscribers = job.control.subscribers.lock();
            subscribers.retain(|subscriber| deliver(subscriber, job.frontier));
        }
    }

    /// Adds a job and lets the workers build it.
    pub fn create(
        &self,
        spec: JobSpec,
        control: JobControl,
        catalog: CatalogChanges,
    ) -> Result<oneshot::Receiver<Result<()>>> {
        let (send, receive) = oneshot::channel();
        // Opening relations may wait for a checkpoint that is being written: nobody else should.
        let job = self.job(spec, control, Stage::Installing)?;
        let job = Job { created: Some(send), catalog: Some(catalog), ..job };
        let mut state = self.state.lock();
        self.install(&job);
        state.jobs.insert(job.spec.relation, job);
        drop(state);
        self.clock.notify.notify();
        Ok(receive)
    }

    /// Takes up a job at the checkpoint, before the coordinator runs.
    pub fn resume(&self, spec: JobSpec, control: JobControl, epoch: u64, failed: Option<String>) -> Result<()> {
        let mut job = self.job(spec, control, Stage::Running)?;
        let state_epoch = epoch;
        let epoch = match self.store.meta_get(&checkpoint::cut_key(job.spec.relation))? {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| {
                storage::Error::Corrupt(format!("the epoch at which job \"{}\" was cut", job.spec.name))
            })?),
            None => epoch,
        };
        job.frontier = epoch;
        job.control.target.store(epoch, Ordering::Release);
        job.control.done.store(epoch, Ordering::Release);
        // Who was cut before it has its changes up to the checkpoint waiting.
        job.control.changed.store(state_epoch, Ordering::Release);
        let mut nodes: Vec<usize> = job.upstreams.iter().map(|(node, _)| *node).collect();
        nodes.extend(constants(&job.spec));
        job.control.starts.lock().extend(nodes.into_iter().map(|node| (node, Start::Resume { epoch })));
        if let Some(message) = failed {
            *job.control.error.lock() = Some(message);
            job.control.failed.store(true, Ordering::Release);
            job.stage = Stage::Failed;
        } else {
            self.install(&job);
        }
        self.state.lock().jobs.insert(job.spec.relation, job);
        Ok(())
    }

    fn job(&self, spec: JobSpec, control: JobControl, stage: Stage) -> Result<Job> {
        let relation = checkpoint::open_relation(&self.store, &spec)?;
        let errors = checkpoint::open_errors(&self.store, &spec)?;
        Ok(Job {
            upstreams: upstreams(&spec),
            control: Arc::new(control),
            relation,
            errors,
            frontier: 0,
            stage,
            busy: None,
            busy_since: Instant::now(),
            step_rows: *STEP_ROWS.end() / 4,
            not_before: 0,
            ran_since_cut: false,
            cut: Cut::Outside,
            created: None,
            catalog: None,
            spec,
        })
    }

    fn install(&self, job: &Job) {
        self.runtime.send(Command::Install(Arc::new(Installation {
            spec: job.spec.clone(),
            control: job.control.clone(),
            relation: job.relation.clone(),
            errors: job.errors.clone(),
            store: self.store.clone(),
            functions: self.functions.clone(),
        })));
    }

    /// Removes jobs; their state and `catalog` go with the next checkpoint.
    pub fn drop_jobs(&self, jobs: &[RelationId], catalog: CatalogChanges) -> oneshot::Receiver<Result<()>> {
        let (send, receive) = oneshot::channel();
        let mut state = self.state.lock();
        let mut dropped = Vec::new();
        for id in jobs {
            if let Some(job) = state.jobs.remove(id) {
                self.runtime.send(Command::Remove(*id));
                dropped.extend([job.spec.relation, job.spec.errors]);
                if let Some(created) = job.created {
                    let _ = created.send(Err(Error::Cancelled));
                }
                for (_, upstream) in &job.upstreams {
                    let read = state.jobs.values().any(|j| j.upstreams.iter().any(|(_, u)| u == upstream));
                    if let Some(owner) = state.jobs.get(upstream)
                        && let Some(source) = &owner.control.source
                        && !read
                    {
                        source.active.store(false, Ordering::Release);
                        source.version.fetch_add(1, Ordering::AcqRel);
                        owner.control.wake();
                    }
                }
            }
        }
        state.pending.push(Change { catalog, dropped, created: None, done: Some(send) });
        state.want_checkpoint = true;
        drop(state);
        self.clock.notify.notify();
        receive
    }

    /// Reads relations as of one epoch: at once if it has come.
    pub fn read(
        &self,
        relations: &[RelationId],
        at_least: u64,
    ) -> Result<std::result::Result<ReadView, oneshot::Receiver<Result<ReadView>>>> {
        let mut state = self.state.lock();
        let mut reader =
            Reader { relations: relations.to_vec(), at_least, pin: None, taken: BTreeMap::new(), send: None };
        reader.relations.sort_unstable();
        reader.relations.dedup();
        if let Some(view) = Self::try_read(&state, &mut reader)? {
            return Ok(Ok(view));
        }
        let (send, receive) = oneshot::channel();
        reader.send = Some(send);
        if let Some(pin) = reader.pin {
            state.pins.insert(pin);
        }
        state.readers.push(reader);
        drop(state);
        self.clock.notify.notify();
        Ok(Err(receive))
    }

    /// Resolves when everything that has come in is visible and durable.
    pub fn flush(&self) -> oneshot::Receiver<Result<Epoch>> {
        let (send, receive) = oneshot::channel();
        let mut state = self.state.lock();
        state.flushes.push(Flush { epoch: None, send });
        state.force_seal = true;
        state.want_checkpoint = true;
        drop(state);
        self.clock.notify.notify();
        receive
    }

    /// Registers a reader of a relation's changes.
    pub fn subscribe(
        &self,
        relation: RelationId,
        changes: tokio::sync::mpsc::Sender<Changes>,
    ) -> Result<Arc<Subscriber>> {
        let state = self.state.lock();
        let job = state.owner(relation).ok_or_else(|| Error::NotFound("the relation does not exist".into()))?;
        let subscriber = Arc::new(Subscriber {
            inbox: Mutex::new(VecDeque::new()),
            relation,
            delivered: std::sync::atomic::AtomicU64::new(u64::MAX),
            changes,
        });
        job.control.subscribers.lock().push(subscriber.clone());
        Ok(subscriber)
    }

    /// The epoch that a relation must reach so that everything begun before this call is complete.
    pub fn in_flight(&self, relation: RelationId) -> u64 {
        let mut state = self.state.lock();
        state.force_seal = true;
        let epoch = state.owner(relation).map_or(0, |job| job.busy.unwrap_or(job.frontier).max(job.frontier));
        let input = state.owner(relation).is_some_and(Job::is_input);
        let epoch = if input { epoch.max(state.sealed + 1) } else { epoch };
        drop(state);
        self.clock.notify.notify();
        epoch
    }
}

/// Adds columns to what a source's shared readers read; returns the version that has them.
fn widen(source: &crate::job::SourceControl, columns: &[usize]) -> u64 {
    let mut projection = source.projection.lock();
    let mut wider: BTreeSet<usize> = projection.iter().copied().collect();
    wider.extend(columns);
    let active = source.active.swap(true, Ordering::AcqRel);
    if !active || wider.len() > projection.len() {
        *projection = Arc::new(wider.into_iter().collect());
        source.projections.lock().insert(projection.len(), projection.clone());
        return source.version.fetch_add(1, Ordering::AcqRel) + 1;
    }
    source.version.load(Ordering::Acquire)
}

/// Hands a reader everything up to `frontier`; false when it has gone.
fn deliver(subscriber: &Subscriber, frontier: u64) -> bool {
    let delivered = subscriber.delivered.load(Ordering::Acquire);
    if subscriber.changes.is_closed() {
        return false;
    }
    if delivered >= frontier {
        return true;
    }
    // No room: it gets more at once later.
    let Ok(permit) = subscriber.changes.try_reserve() else { return true };
    let mut batches: Vec<Batch> = Vec::new();
    let mut inbox = subscriber.inbox.lock();
    while inbox.front().is_some_and(|(epoch, _)| *epoch <= frontier) {
        let (epoch, batch) = inbox.pop_front().expect("the front");
        if epoch > delivered {
            batches.push(batch);
        }
    }
    drop(inbox);
    subscriber.delivered.store(frontier, Ordering::Release);
    permit.send(Changes { epoch: Epoch(frontier), batches });
    true
}

/// Where a split's reader stands and how far it could go, for lag.
pub fn lag(offset: Offset, end: Option<Offset>) -> Option<i64> {
    end.map(|end| (end.0 - offset.0).max(0))
}

impl Coordinator {
    /// After a restart: lets the sources' readers read what `job` needs.
    pub fn take_up_projection(&self, state: &State, job: &Job) {
        for (node, upstream) in &job.upstreams {
            let AnyOperator::TapReader(tap) = &job.spec.plan.nodes[*node].operator else { continue };
            if let Some(owner) = state.jobs.get(upstream)
                && let Some(source) = &owner.control.source
            {
                widen(source, &tap.columns);
                owner.control.wake();
            }
        }
    }
}
