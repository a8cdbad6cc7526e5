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
//! A job that is over its memory budget takes nothing but the step that it is cut with: what it has changed can leave memory
//! then, and checkpoints come sooner.
//!
//! A job that takes several epochs in one step has not been at those between: it can be read *exactly* as of the epochs at
//! which its steps, and those of all that it reads, ended (`exact.rs`). A read takes the newest epoch that is exact for all its
//! relations, and sets a *pin*, an epoch that all of them will stop at, if that is not the newest that they have.
//!
//! Invariants: one target in flight a job; a job's target never exceeds what all its inputs have completed, nor the cut of
//! one of them while it is not cut itself; nothing is read as of an epoch that is not exact.

mod creation;
mod cuts;
mod exact;
mod followed;
pub mod freshness;
pub mod groups;
mod reads;
pub mod restart;
mod watermarks;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use storage::{RelationId, Store};
use tokio::sync::oneshot;

pub use self::followed::{Cut, Job, Stage};
use self::freshness::SealTimes;
use self::groups::Group;
pub use self::reads::ReadView;
use self::reads::{Flush, Reader};
use crate::checkpoint::{self, Writer};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::expr::Functions;
use crate::lookup::Lookups;
use crate::runtime::{Command, Runtime};
use crate::spec::{CatalogChanges, EngineConfig};
use crate::table_log::TableLog;
use crate::visible::VisibleLog;

/// An open epoch is not sealed before this while jobs are busy, so that a heavy load gets bigger epochs.
const EPOCH_INTERVAL_BUSY: Duration = Duration::from_millis(20);
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
    /// When epochs were sealed.
    pub seal_times: SealTimes,
    checkpointed_at: Instant,
    checkpoint: Checkpoint,
    changed_since_checkpoint: bool,
    force_seal: bool,
    want_checkpoint: bool,
    pending: Vec<Change>,
    writing: Vec<Change>,
    pins: BTreeSet<u64>,
    /// The groups of sinks.
    groups: BTreeMap<String, Group>,
    /// Epochs that the jobs over which somebody read will stop at, so that the next read finds a newer one.
    wishes: Vec<(u64, Vec<RelationId>)>,
    readers: Vec<Reader>,
    flushes: Vec<Flush>,
    /// Nothing is read as of an epoch before this, by anybody: what FLUSH was answered for, and after a restart what had been
    /// visible.
    pub floor: u64,
    /// Set when the coordinator shall stop.
    pub stopping: bool,
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
            seal_times: SealTimes::default(),
            checkpointed_at: now,
            checkpoint: Checkpoint::Idle,
            changed_since_checkpoint: false,
            force_seal: false,
            want_checkpoint: false,
            pending: Vec::new(),
            writing: Vec::new(),
            pins: BTreeSet::new(),
            groups: BTreeMap::new(),
            wishes: Vec::new(),
            readers: Vec::new(),
            flushes: Vec::new(),
            floor: 0,
            stopping: false,
        }
    }

    /// The job that maintains `relation`, be it its rows or what was set aside.
    pub fn owner(&self, relation: RelationId) -> Option<&Job> {
        self.jobs.get(&relation).or_else(|| self.jobs.values().find(|job| job.spec.is_aside(relation)))
    }

    /// The open epoch is sealed though nothing came in it.
    pub fn force_seal(&mut self) {
        self.force_seal = true;
    }

    fn frontier(&self, relation: RelationId) -> u64 {
        // What has failed changes nothing: those who read it go on, but cannot be read (see `try_read`) until it has
        // started again and said what it had missed.
        self.owner(relation).map_or(0, |job| match job.stage {
            Stage::Failed | Stage::Restarting => self.sealed,
            Stage::Resuming => job.failures.behind,
            _ => job.frontier,
        })
    }

    /// Whether `relation`, or something that it reads, waits for its next start.
    pub fn waits_for_a_restart(&self, relation: RelationId) -> bool {
        self.owner(relation).is_some_and(|job| {
            job.is_down() || job.upstreams.iter().any(|(_, upstream)| self.waits_for_a_restart(*upstream))
        })
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
        Self::look_outside(state);
        let restart_in = self.restart(state);
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
        let due_in = watermarks::look_at_time(state);
        let dirty = state.jobs.values().any(|job| job.control.dirty.load(Ordering::Acquire));
        let since = state.sealed_at.elapsed();
        if state.force_seal {
            return self.config.epoch_interval_min.max(Duration::from_micros(50));
        }
        if dirty {
            let idle = Self::idle(state);
            let interval = if idle { self.config.epoch_interval_min } else { EPOCH_INTERVAL_BUSY };
            // A busy source tells when it is done.
            return interval.saturating_sub(since).min(restart_in).max(Duration::from_micros(50));
        }
        let checkpoint_in = if state.changed_since_checkpoint && matches!(state.checkpoint, Checkpoint::Idle) {
            self.checkpoint_interval(state).saturating_sub(state.checkpointed_at.elapsed())
        } else {
            HEARTBEAT
        };
        checkpoint_in.min(HEARTBEAT).min(due_in).min(restart_in).max(Duration::from_micros(50))
    }

    /// Lets jobs go on that waited for the outside: sinks that have more to take and room for it (what their targets refuse is
    /// written down too), and lookups that were answered.
    fn look_outside(state: &mut State) {
        for job in state.jobs.values_mut() {
            if !job.control.may_lag() {
                continue;
            }
            let refused = job.control.outbox.as_ref().is_some_and(|outbox| outbox.has_refused());
            state.changed_since_checkpoint |= job.is_live() && refused;
            let answered = |lookups: &Lookups| job.is_live() && job.busy.is_none() && lookups.take_ready();
            let answered = job.control.lookups.as_ref().is_some_and(|lookups| answered(lookups));
            if answered || job.is_to_go_on() {
                job.must_run = true;
                state.force_seal = true;
            }
        }
        state.changed_since_checkpoint |= state.groups_have_news();
    }

    /// Takes up what the workers have done.
    fn collect(&self, state: &mut State) {
        let failed: Vec<RelationId> = state
            .jobs
            .iter()
            .filter(|(_, job)| !job.is_down() && job.control.failed.load(Ordering::Acquire))
            .map(|(id, _)| *id)
            .collect();
        for id in failed {
            let job = state.jobs.get_mut(&id).expect("listed");
            let message = job.control.error.lock().clone().unwrap_or_default();
            tracing::error!(job = job.spec.name, "job failed: {message}");
            let waits = state.pending.iter().position(|change| change.created == Some(id));
            let done = match job.stage {
                Stage::Running | Stage::Resuming => None,
                Stage::Committing => match waits.filter(|_| !matches!(job.cut, Cut::Done(_))) {
                    Some(at) => Some(state.pending.swap_remove(at).done),
                    // A checkpoint has it.
                    None => None,
                },
                _ => Some(job.created.take()),
            };
            let Some(done) = done else {
                self.halt(state, id, message);
                continue;
            };
            job.stage = Stage::Failed;
            job.busy = None;
            self.runtime.send(Command::Remove(id));
            if let Some(created) = done {
                let error = match job.control.out_of_memory.load(Ordering::Acquire) {
                    true => Error::invalid("53200", message),
                    false => Error::Failed(message),
                };
                let _ = created.send(Err(error));
            }
            state.want_checkpoint = true;
        }
        let reading = |job: &Job| job.stage == Stage::Reading;
        for job in state.jobs.values_mut() {
            let done = job.control.done.load(Ordering::Acquire);
            if job.busy.is_some_and(|target| done >= target) && job.is_ordered(&self.clock) {
                let target = job.busy.take().expect("checked");
                if job.cut == Cut::Issued(target) && !job.is_input() {
                    job.cut = Cut::Done(target);
                    job.ran_since_cut = false;
                    if job.stage == Stage::Running
                        && let Some(message) = job.control.memory.stop_after_cut()
                    {
                        job.control.fail_of_memory(message);
                    }
                    job.control.lookups.iter().for_each(|lookups| lookups.note());
                }
                job.stepped(target);
                if !job.is_input() {
                    job.steps.note(job.frontier, target);
                }
                let was_reading = reading(job);
                // The snapshots that the job began with are read.
                job.control.starts.lock().clear();
                job.control.announce_event_time(target, job.spec.columns.len());
                if let Some(source) = &job.control.source {
                    let announced = source.event.as_ref().map(|event| event.at.load(Ordering::Acquire));
                    self.visible.note(job.spec.relation, &source.splits.lock(), announced);
                }
                job.advance(target);
                job.note_position();
                if job.stage == Stage::Resuming {
                    job.resumed();
                }
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
        let waits = |job: &Job| job.follows_the_clock && !job.is_down() || !job.control.subscribers.lock().is_empty();
        // Windows of processing time close though nothing happens.
        let closes = || {
            state.jobs.values().any(watermarks::has_processing_time)
                && state.jobs.values().any(|job| job.waits_for_watermark && !job.is_down())
        };
        let beat = since >= HEARTBEAT && (state.jobs.values().any(waits) || closes());
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
                    job.issue(epoch, epoch, false);
                } else {
                    job.advance(epoch);
                }
            }
        });
        let sealed = state.sealed;
        state.seal_times.sealed(sealed, state.sealed_at);
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
            // What is down is in it as it was.
            for job in state.jobs.values_mut().filter(|job| job.failures.down.is_some()) {
                job.cut = Cut::Aside;
                job.failures.limits = None;
            }
        }
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
            if job.waits_for_memory() {
                continue;
            }
            let resuming = job.stage == Stage::Resuming;
            if resuming && job.control.installed.load(Ordering::Acquire) < self.config.workers {
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
            if resuming {
                // One step, to where nobody has been without it.
                if limit <= job.failures.behind {
                    state.force_seal |= state.sealed <= job.failures.behind;
                    continue;
                }
            } else {
                if let Some(pin) = state.pins.range(job.frontier + 1..).next() {
                    limit = limit.min(*pin);
                }
                limit = job.step(limit);
            }
            if limit <= job.frontier {
                continue;
            }
            if let (true, Some(group), Checkpoint::Jobs(at)) = (cut, job.group(), &state.checkpoint) {
                let (group, at) = (group.to_owned(), *at);
                if !state.may_cut_group(&group, at) {
                    continue;
                }
            }
            let job = &state.jobs[&id];
            let group = job.group();
            let take = if resuming { limit } else { job.take(limit, group.map(|group| state.together(group))) };
            let known = self.watermarks(state, job, take);
            let news = || {
                job.follows_the_clock
                    || (known.is_some() && job.waits_for_watermark)
                    || job.upstreams.iter().any(|(_, upstream)| {
                        state.owner(*upstream).is_some_and(|u| u.control.changed.load(Ordering::Acquire) > job.frontier)
                    })
            };
            // The sinks of a group run for what they take together.
            let changed = job.must_run || if group.is_some() { take > job.taken } else { news() };
            let limits = if cut { Self::inbox_limits(state, job) } else { HashMap::new() };
            let job = state.jobs.get_mut(&id).expect("present");
            job.know(take, known);
            if cut {
                job.announce(limit);
            }
            let writes = job.control.outbox.as_ref().is_some_and(|outbox| outbox.wants_cut());
            if !changed && !(cut && (job.ran_since_cut || writes)) {
                job.pass(limit);
                if cut {
                    job.cut = Cut::Done(limit);
                    job.cut_taken = job.taken;
                }
                moved = true;
            } else {
                if cut {
                    *job.control.cut_limits.lock() = limits;
                    job.cut = Cut::Issued(limit);
                }
                job.must_run = false;
                job.issue(limit, take, cut);
            }
        }
        moved
    }
}
