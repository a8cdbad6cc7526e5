//! Checkpoints: when one begins, where each job is cut for it, and what is done once it is durable.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use storage::RelationId;

use super::followed::{Cut, Job, Stage};
use super::{Change, Checkpoint, Coordinator, State, watermarks};
use crate::checkpoint::{self, Taken};
use crate::error::Error;

/// How much sooner a checkpoint is taken while a job waits for one to get room in memory.
const PRESSED_PART: u32 = 5;

impl Coordinator {
    pub(super) fn wants_checkpoint(&self, state: &State) -> bool {
        let due = state.changed_since_checkpoint && state.checkpointed_at.elapsed() >= self.checkpoint_interval(state);
        matches!(state.checkpoint, Checkpoint::Idle) && (state.want_checkpoint || due)
    }

    /// How often checkpoints are taken: sooner while somebody waits for one to get room in memory.
    pub(super) fn checkpoint_interval(&self, state: &State) -> Duration {
        let interval = self.config.checkpoint_interval;
        if state.jobs.values().any(Job::waits_for_memory) { interval / PRESSED_PART } else { interval }
    }

    /// How far the inputs of `job` let it go, and whether that is a cut. Every cut lies behind the frontiers of those that
    /// are not cut yet, so that each of them has a step left to be cut with.
    pub(super) fn cut_limit(state: &State, job: &Job) -> (u64, bool) {
        let mut limit = u64::MAX;
        let mut all_done = true;
        for (_, upstream) in &job.upstreams {
            match state.owner(*upstream).map(|owner| owner.cut) {
                Some(Cut::Done(at)) => limit = limit.min(at),
                Some(Cut::Issued(at)) => (limit, all_done) = (limit.min(at), false),
                Some(Cut::Wanted) => all_done = false,
                // It is not in the checkpoint, or it changes no more.
                Some(Cut::Outside | Cut::Aside) | None => {}
            }
        }
        if let Checkpoint::Sources(at) | Checkpoint::Jobs(at) = state.checkpoint {
            limit = limit.min(at);
        }
        if all_done { (limit, true) } else { (limit - 1, false) }
    }

    /// Up to where what waits for `job` at each of its taps belongs to the checkpoint: its input's cut.
    pub(super) fn inbox_limits(state: &State, job: &Job) -> HashMap<usize, u64> {
        let cut = |upstream: RelationId| match state.owner(upstream)?.cut {
            Cut::Done(at) => Some(at),
            _ => None,
        };
        job.upstreams.iter().map(|(node, upstream)| (*node, cut(*upstream).unwrap_or(u64::MAX))).collect()
    }

    /// Brings the checkpoint from one phase to the next.
    pub(super) fn checkpoint(&self, state: &mut State) {
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
            if !state.jobs.values().any(open) && self.store_waiting(state) {
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
                state.note_points(&mut taken);
                for job in state.jobs.values_mut() {
                    checkpoint::take(job, &mut taken);
                    job.cut = Cut::Outside;
                }
                let bytes: usize = taken.runs.iter().map(|run| run.bytes()).sum();
                self.clock.memory.checkpoint.store(bytes as i64, Ordering::Relaxed);
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
                    self.clock.memory.checkpoint.store(0, Ordering::Relaxed);
                    self.look_at_memory(state);
                    if state.checkpoint_error.take().is_some() {
                        tracing::info!("checkpoints succeed again");
                    }
                    self.clock.held.store(false, Ordering::Relaxed);
                    state.last_checkpoint = statistics;
                    state.checkpoint = Checkpoint::Idle;
                    self.forget_before(state, at);
                    watermarks::forget(state);
                    for job in state.jobs.values_mut() {
                        checkpoint::tell_committed(job);
                        if let Some(cut) = job.failures.writing.take() {
                            (job.failures.durable, job.failures.taken) = (Some(cut.0), cut.1);
                        }
                    }
                    state.points_durable();
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

    /// Counts what is not durable, and stops the largest job if the server was over its budget for several checkpoints.
    fn look_at_memory(&self, state: &mut State) {
        let bytes = |job: &Job| job.relations().map(|relation| relation.memory().0).sum::<usize>();
        let changes: usize = state.jobs.values().map(bytes).sum();
        self.clock.memory.changes.store(changes as i64, Ordering::Relaxed);
        if self.clock.memory.is_over_for_long()
            && let Some(job) = state.jobs.values().max_by_key(|job| job.control.memory.state())
        {
            job.control.fail_of_memory(job.control.memory.stop_for_server());
        }
    }

    /// What the checkpoint holds needs no log any more.
    pub(super) fn forget_before(&self, state: &State, epoch: u64) {
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
}
