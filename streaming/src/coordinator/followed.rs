//! A job as the coordinator knows it: where it stands, and how large its next step is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use storage::{Epoch, Relation, RelationId};
use tokio::sync::oneshot;

use super::exact::Steps;
use super::restart::Failures;
use crate::clock::Clock;
use crate::error::Result;
use crate::job::JobControl;
use crate::operators::AnyOperator;
use crate::spec::{CatalogChanges, JobSpec};
use crate::status::JobState;

/// How long a step of a job that is behind should take, by how fast its last ones were: a cut is never much farther away.
const STEP_TIME: Duration = Duration::from_millis(200);
/// Rows that wait for a job in one step's epochs, at most, and at least so that a step is worth its while. One epoch alone
/// may have more.
pub(super) const STEP_ROWS: std::ops::RangeInclusive<usize> = 4096..=262_144;
/// The same for a job that makes much out of few rows.
const STEP_ROWS_LEAST: usize = 16;
/// Rows that a step of such a job should publish, about.
const PUBLISHED_ROWS: usize = 262_144;
/// Changes of a step that the coordinator brings into one order by itself.
const ORDERED_AT_ONCE: usize = 131_072;

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
    /// The relation of its late rows.
    pub late: Option<Arc<Relation>>,
    /// The relation can be read at this epoch.
    pub frontier: u64,
    /// Up to here it has taken what its inputs published. Only a job that waits for the outside is at later epochs without: for
    /// room in its outbox, or for the answers of a lookup, while what comes stays in its inboxes.
    pub taken: u64,
    /// The same as of its last cut.
    pub cut_taken: u64,
    /// What it is doing.
    pub stage: Stage,
    pub(super) upstreams: Vec<(usize, RelationId)>,
    /// Which epochs its steps reached across.
    pub(super) steps: Steps,
    pub(super) busy: Option<u64>,
    pub(super) busy_since: Instant,
    /// Rows that a step should have.
    pub(super) step_rows: usize,
    pub(super) not_before: u64,
    /// Brings the changes of its step into one order.
    pub(super) ordering: Option<JoinHandle<()>>,
    pub(super) ran_since_cut: bool,
    /// An input may have published changes of epochs up to the frontier since: the next step takes them.
    pub(super) must_run: bool,
    /// Whether something is known of its columns, ever.
    pub(super) has_watermarks: bool,
    /// Whether it runs when a watermark moves, though nothing changed.
    pub(super) waits_for_watermark: bool,
    /// Whether it runs for every epoch, as time passes.
    pub(super) follows_the_clock: bool,
    /// The epoch that its watermarks are as of.
    pub(super) known_at: u64,
    /// How long after a change at most it wants to run again, though nothing changed since.
    pub(super) emits_every: Option<Duration>,
    /// When it last ran because something changed, until it has run for the time that has passed since.
    pub(super) ran_at: Option<Instant>,
    /// Where it stands in the checkpoint under way.
    pub cut: Cut,
    /// Its clients are told when it can be read.
    pub(super) created: Option<oneshot::Sender<Result<()>>>,
    pub(super) catalog: Option<CatalogChanges>,
    /// What is known of its failures.
    pub failures: Failures,
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
    /// It is down: its state is in it as it was, with what has come to it since.
    Aside,
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
    /// It has failed, and starts again after a pause.
    Restarting,
    /// It replays what came since its last checkpoint.
    Resuming,
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

impl Job {
    pub(super) fn is_input(&self) -> bool {
        self.control.source.is_some() || self.control.table.is_some()
    }

    /// The epoch that it is at, or on its way to.
    pub(super) fn reach(&self) -> u64 {
        self.busy.unwrap_or(self.frontier).max(self.frontier)
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Committing | Stage::Resuming)
    }

    /// The relation object behind one of the job's ids.
    pub fn relation_of(&self, id: RelationId) -> Option<&Arc<Relation>> {
        match id {
            id if id == self.spec.errors => Some(&self.errors),
            id if self.spec.late() == Some(id) => self.late.as_ref(),
            _ => self.relation.as_ref(),
        }
    }

    /// What it publishes.
    pub(super) fn relation_ids(&self) -> Vec<RelationId> {
        [self.spec.relation, self.spec.errors].into_iter().chain(self.spec.late()).collect()
    }

    /// Everything that it keeps.
    pub fn relations(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.relation.iter().chain([&self.errors]).chain(&self.late)
    }

    /// Keeps what the job's relations have up to `epoch` apart from what comes later.
    pub(super) fn announce(&self, epoch: u64) {
        for relation in self.relations() {
            relation.cut(Epoch(epoch));
        }
    }

    /// Whether it is over its memory budget and has to wait for a checkpoint: what a step would add could not leave memory
    /// before.
    pub(super) fn waits_for_memory(&self) -> bool {
        self.stage == Stage::Running && self.cut != Cut::Wanted && self.control.memory.is_over()
    }

    /// Whether it can take nothing, since too much waits for the outside.
    pub(super) fn is_full(&self) -> bool {
        self.stage == Stage::Running && self.control.is_full()
    }

    /// Whether its next steps go with the clock, and take of what its inputs published what they can.
    fn lags(&self) -> bool {
        self.control.outbox.is_some() || self.control.may_lag() && (self.taken < self.frontier || self.is_full())
    }

    /// The group that it delivers with, if it is a sink's.
    pub fn group(&self) -> Option<&str> {
        match &self.spec.plan.nodes.last()?.operator {
            AnyOperator::Sink(sink) => sink.spec.group.as_deref(),
            _ => None,
        }
    }

    /// Whether it is at a later epoch than what it has taken, and could take more. A group's sinks do at checkpoints.
    pub(super) fn is_to_go_on(&self) -> bool {
        self.group().is_none()
            && self.taken < self.frontier
            && self.busy.is_none()
            && !self.must_run
            && self.is_live()
            && !self.is_full()
    }

    /// The farthest epoch up to `limit` that its next step may reach. A sink's goes with the clock.
    pub(super) fn step(&self, limit: u64) -> u64 {
        if self.lags() { limit } else { self.bounded(self.frontier, limit) }
    }

    /// The epoch up to which a step to `target` takes what its inputs published; the sinks of its group do up to `together`.
    pub(super) fn take(&self, target: u64, together: Option<u64>) -> u64 {
        match self.lags() {
            false => target,
            true if self.is_full() => self.taken,
            true if self.group().is_some() => {
                together.filter(|at| (self.taken..=target).contains(at)).unwrap_or(self.taken)
            }
            true => self.bounded(self.taken, target),
        }
    }

    /// The farthest epoch up to `limit` so that not too much of what waits lies between.
    fn bounded(&self, from: u64, limit: u64) -> u64 {
        if limit <= from {
            return limit;
        }
        let mut rows = 0;
        let mut last = None;
        for (epoch, waiting) in self.control.waiting.lock().range(from + 1..=limit) {
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
    pub(super) fn stepped(&mut self, target: u64) {
        let mut waiting = self.control.waiting.lock();
        let later = waiting.split_off(&(target.min(self.taken) + 1));
        let rows: usize = std::mem::replace(&mut *waiting, later).into_values().sum();
        let took = self.busy_since.elapsed();
        let said = self.control.rows_published.swap(0, Ordering::Relaxed) as usize;
        if said > PUBLISHED_ROWS && rows > 0 {
            // It makes much out of few rows.
            self.step_rows = (rows as u128 * PUBLISHED_ROWS as u128 / said as u128) as usize;
            self.step_rows = self.step_rows.clamp(STEP_ROWS_LEAST, *STEP_ROWS.end());
        } else if self.step_rows < *STEP_ROWS.start() {
            let small = said <= PUBLISHED_ROWS / 2 && rows >= self.step_rows / 2;
            self.step_rows = (self.step_rows << usize::from(small)).min(*STEP_ROWS.start());
        } else if rows >= *STEP_ROWS.start() / 2 {
            // Smaller steps tell more of the clock than of the job.
            let rate = rows as f64 / took.as_secs_f64().max(1e-6);
            self.step_rows = ((rate * STEP_TIME.as_secs_f64()) as usize).clamp(*STEP_ROWS.start(), *STEP_ROWS.end());
        }
    }

    pub(super) fn issue(&mut self, target: u64, take: u64, cut: bool) {
        debug_assert!(self.busy.is_none() && target > self.control.target.load(Ordering::Acquire));
        self.taken = take;
        if cut {
            self.control.cut.store(target, Ordering::Release);
            self.cut_taken = take;
        }
        if self.control.may_lag() {
            self.control.take.store(take, Ordering::Release);
        }
        self.give_out(target);
        self.control.target.store(target, Ordering::Release);
        self.busy = Some(target);
        self.busy_since = Instant::now();
        self.ran_at = Some(self.busy_since);
        self.ran_since_cut = true;
        self.control.wake();
    }

    /// Whether the changes of its step are in one order, so that its relations can advance at once. A large step is ordered by a
    /// thread of its own, while all others go on.
    pub(super) fn is_ordered(&mut self, clock: &Arc<Clock>) -> bool {
        if let Some(thread) = self.ordering.take_if(|thread| thread.is_finished()) {
            // It did not finish: whoever comes to the same place here will tell.
            let _ = thread.join();
            return true;
        }
        let Some(target) = self.busy.filter(|_| self.ordering.is_none()) else { return false };
        let large = |relation: &&Arc<Relation>| relation.unordered(Epoch(target)) > ORDERED_AT_ONCE;
        let relations: Vec<Arc<Relation>> = self.relations().filter(large).cloned().collect();
        if relations.is_empty() {
            return true;
        }
        let notify = clock.notify.clone();
        let order = move || {
            relations.iter().for_each(|relation| relation.order(Epoch(target)));
            notify.notify();
        };
        self.ordering = std::thread::Builder::new().name("order".into()).spawn(order).ok();
        self.ordering.is_none()
    }

    pub(super) fn advance(&mut self, epoch: u64) {
        if epoch > self.frontier {
            self.frontier = epoch;
            self.relations().for_each(|relation| relation.advance(Epoch(epoch)));
        }
    }

    /// Nothing came up to `epoch`: there is nothing to run for.
    pub(super) fn pass(&mut self, epoch: u64) {
        if self.taken >= self.frontier && self.group().is_none() {
            self.taken = epoch;
        }
        self.advance(epoch);
    }

    /// The epoch up to which all that came in is in its state.
    pub fn reached(&self) -> u64 {
        if self.group().is_some() {
            let waits = self.control.waiting.lock().range(self.taken + 1..).next().map(|(epoch, _)| *epoch);
            return waits.map_or(self.frontier, |epoch| self.frontier.min(epoch - 1));
        }
        if self.control.may_lag() { self.frontier.min(self.taken) } else { self.frontier }
    }

    /// For status.
    pub fn state(&self) -> JobState {
        match self.stage {
            Stage::Running => JobState::Running,
            Stage::Restarting | Stage::Resuming => JobState::Restarting,
            Stage::Failed => JobState::Failed,
            _ => JobState::Creating,
        }
    }
}
