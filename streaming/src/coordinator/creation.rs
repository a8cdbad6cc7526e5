//! Jobs come and go: installed, subscribed to their inputs, reading those as of one epoch, committed; resumed; dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use storage::{Epoch, RelationId};
use tokio::sync::oneshot;

use super::exact::Steps;
use super::followed::{Cut, Job, STEP_ROWS, Stage, Wait};
use super::restart::Failures;
use super::{Change, Coordinator, State, watermarks};
use crate::checkpoint;
use crate::error::{Error, Result};
use crate::event_time::Judge;
use crate::job::{JobControl, Start};
use crate::operator::Operator;
use crate::operators::AnyOperator;
use crate::runtime::{Command, Installation};
use crate::spec::{CatalogChanges, JobSpec};

impl Coordinator {
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
        if let Some(group) = job.group() {
            state.join_group(group, &job);
        }
        self.install(&job);
        state.jobs.insert(job.spec.relation, job);
        drop(state);
        self.clock.notify.notify();
        Ok(receive)
    }

    /// Takes up a job at the checkpoint, before the coordinator runs.
    pub fn resume(&self, spec: JobSpec, control: JobControl, epoch: u64, failed: Option<String>) -> Result<()> {
        let mut failed = failed;
        let mut job = self.job(spec, control, Stage::Running)?;
        let state_epoch = epoch;
        let epoch = match self.store.meta_get(&checkpoint::cut_key(job.spec.relation))? {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| {
                storage::Error::Corrupt(format!("the epoch at which job \"{}\" was cut", job.spec.name))
            })?),
            None => epoch,
        };
        job.frontier = epoch;
        job.taken = match self.store.meta_get(&checkpoint::taken_key(job.spec.relation))? {
            Some(bytes) => u64::from_be_bytes(bytes.try_into().map_err(|_| {
                storage::Error::Corrupt(format!("the epoch up to which sink \"{}\" has taken", job.spec.name))
            })?),
            None => epoch,
        };
        let taken = job.taken;
        if !job.is_input() {
            job.steps.begin(epoch);
        }
        job.control.target.store(epoch, Ordering::Release);
        job.control.done.store(epoch, Ordering::Release);
        // Who was cut before it has its changes up to the checkpoint waiting.
        job.control.changed.store(state_epoch, Ordering::Release);
        job.failures = Failures::restored(epoch, taken);
        job.must_run |= job.control.lookups.as_ref().is_some_and(|lookups| lookups.owes());
        if job.control.may_lag() {
            job.control.take.store(taken, Ordering::Release);
        }
        let aside = checkpoint::aside(&self.store, job.spec.relation)?;
        let was_down = aside.is_some();
        let mut stopped = None;
        if let Some(aside) = aside {
            // Its state is older than what it has published; others may have gone up to the checkpoint without it.
            job.frontier = aside.shown.max(epoch);
            (job.failures.rereads, job.failures.noted) = (aside.rereads, true);
            stopped = aside.stopped;
            if aside.lost {
                failed = stopped.take().or(failed);
            }
        }
        job.note_position();
        let lives = failed.is_none() && stopped.is_none();
        if let Some(message) = failed {
            job.lose(message);
        } else if let Some(message) = stopped {
            job.failures.last = Some(message);
            job.stage = Stage::Failed;
            self.park_stopped(&mut job);
        } else if was_down && !job.is_input() {
            job.begin_resuming(state_epoch);
            // Until it has caught up nobody can say whether more was visible before the start.
            job.steps.begin(state_epoch + 1);
        }
        let mut state = self.state.lock();
        if let Some(event) = job.control.event() {
            job.control.history.lock().note(epoch, &event.watermarks(job.spec.columns.len()));
        }
        // What it has closed already is known again before those who read it go on.
        let known = self.watermarks(&state, &job, taken);
        job.know(taken, known);
        job.must_run |= job.waits_for_watermark;
        let id = job.spec.relation;
        state.jobs.insert(id, job);
        self.set_starts(&state, id);
        if lives {
            self.install(&state.jobs[&id]);
        }
        Ok(())
    }

    fn job(&self, spec: JobSpec, control: JobControl, stage: Stage) -> Result<Job> {
        let relation = checkpoint::open_relation(&self.store, &spec)?;
        let errors = checkpoint::open_errors(&self.store, &spec)?;
        let late = checkpoint::open_late(&self.store, &spec)?;
        Ok(Job {
            upstreams: upstreams(&spec),
            control: Arc::new(control),
            relation,
            errors,
            late,
            frontier: 0,
            taken: 0,
            cut_taken: 0,
            stage,
            steps: Steps::default(),
            busy: None,
            busy_since: Instant::now(),
            step_rows: *STEP_ROWS.end() / 4,
            not_before: 0,
            ordering: None,
            ran_since_cut: false,
            must_run: false,
            has_watermarks: watermarks::has_watermarks(&spec.plan, &self.functions),
            waits_for_watermark: watermarks::waits_for_watermark(&spec.plan),
            follows_the_clock: spec.plan.nodes.iter().any(|node| node.operator.follows_the_clock()),
            known_at: 0,
            emits_every: spec.plan.nodes.iter().filter_map(|node| node.operator.emits_every()).min(),
            ran_at: None,
            cut: Cut::Outside,
            created: None,
            catalog: None,
            failures: Failures::default(),
            spec,
        })
    }

    pub(super) fn install(&self, job: &Job) {
        self.runtime.send(Command::Install(Arc::new(self.installation_of(job, job.control.clone(), false))));
    }

    /// The same for a job that the workers have parked.
    pub(super) fn install_again(&self, job: &Job) {
        self.runtime.send(Command::Install(Arc::new(self.installation_of(job, job.control.clone(), true))));
    }

    pub(super) fn installation_of(&self, job: &Job, control: Arc<JobControl>, again: bool) -> Installation {
        Installation {
            spec: job.spec.clone(),
            control,
            relation: job.relation.clone(),
            errors: job.errors.clone(),
            late: job.late.clone(),
            store: self.store.clone(),
            functions: self.functions.clone(),
            again,
        }
    }

    /// Brings new jobs from one stage to the next.
    pub(super) fn install_new(&self, state: &mut State) {
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
            job.note_position();
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
        let root = state.jobs[&id].spec.plan.nodes.last().map(|node| &node.operator);
        let with_snapshot = !matches!(root, Some(AnyOperator::Sink(sink)) if !sink.snapshot);
        let mut starts = Vec::new();
        let mut target = 0;
        let mut first = u64::MAX;
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
            (first, target) = (first.min(epoch), target.max(epoch));
            let start = match (&owner.control.source, owner.relation_of(*upstream)) {
                _ if !with_snapshot => Ok(Start::Resume { epoch }),
                (Some(source), _) if *upstream == owner.spec.relation => {
                    let splits = source.splits.lock().clone();
                    let columns = source.projection.lock().clone();
                    let judge = owner.spec.event_time();
                    let judge = judge.map(|event| Judge::new(event, &owner.spec.columns, &self.functions)).transpose();
                    let source = source.source.clone();
                    let start = |judge: Option<Judge>| Start::Records {
                        source,
                        splits,
                        columns,
                        judge: judge.map(Arc::new),
                        epoch,
                    };
                    judge.map(start).map_err(|error| error.to_string())
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
        // Without inputs any epoch will do.
        let target = if upstreams.is_empty() { sealed } else { target.max(1) };
        let known = self.watermarks(state, &state.jobs[&id], target);
        let job = state.jobs.get_mut(&id).expect("present");
        let rows = starts.iter().map(|(_, start)| match start {
            Start::Snapshot { snapshot, .. } => Some(snapshot.rows_estimate()),
            Start::Records { .. } | Start::Resume { .. } | Start::Again { .. } => None,
        });
        *job.control.rows_total.lock() = rows.sum();
        job.control.starts.lock().extend(starts);
        job.stage = Stage::Reading;
        job.know(target, known);
        // Of an input that is behind the others, changes up to the target are still to come: the next step takes them.
        job.must_run = first < target && !upstreams.is_empty();
        job.steps.begin(if job.must_run { target + 1 } else { target });
        job.issue(target, target, false);
    }

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

    /// Removes jobs; their state and `catalog` go with the next checkpoint.
    pub fn drop_jobs(&self, jobs: &[RelationId], catalog: CatalogChanges) -> oneshot::Receiver<Result<()>> {
        let (send, receive) = oneshot::channel();
        let mut state = self.state.lock();
        let mut dropped = Vec::new();
        for id in jobs {
            if let Some(job) = state.jobs.remove(id) {
                self.runtime.send(Command::Remove(*id));
                dropped.extend([job.spec.relation, job.spec.errors]);
                dropped.extend(job.spec.late());
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
pub(super) fn constants(spec: &JobSpec) -> Vec<usize> {
    let is_constant = |n: &crate::plan::PlanNode| matches!(n.operator, AnyOperator::Values(_));
    spec.plan.nodes.iter().enumerate().filter(|(_, n)| is_constant(n)).map(|(i, _)| i).collect()
}

/// Adds columns to what a source's shared readers read; returns the version that has them.
fn widen(source: &crate::job::SourceControl, columns: &[usize]) -> u64 {
    let mut projection = source.projection.lock();
    let mut wider: BTreeSet<usize> = projection.iter().copied().collect();
    wider.extend(columns);
    if source.event.is_some() {
        // A row that is late is kept whole.
        wider.extend(0..=source.source.columns().len());
    }
    let active = source.active.swap(true, Ordering::AcqRel);
    if !active || wider.len() > projection.len() {
        *projection = Arc::new(wider.into_iter().collect());
        source.projections.lock().insert(projection.len(), projection.clone());
        return source.version.fetch_add(1, Ordering::AcqRel) + 1;
    }
    source.version.load(Ordering::Acquire)
}
