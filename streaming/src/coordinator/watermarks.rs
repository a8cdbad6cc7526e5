//! What is known of each job's columns: fixed before a target is given out, so all workers and all readers know the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use storage::RelationId;

use super::followed::Job;
use super::{Coordinator, State};
use crate::expr::Functions;
use crate::operator::Operator;
use crate::operators::TapReader;
use crate::plan::Plan;
use crate::watermark::{Watermark, Watermarks};

/// What is known of each node of a plan.
pub(super) type Known = Arc<Vec<Arc<Watermarks>>>;

impl Coordinator {
    /// What is known of the nodes of `job` as of `target`, if that is more than before.
    pub(super) fn watermarks(&self, state: &State, job: &Job, target: u64) -> Option<Known> {
        if !job.has_watermarks {
            return None;
        }
        let news = |relation: RelationId| {
            let owner = state.owner(relation)?;
            if has_processing_time(owner)
                && self.clock.processing_time(target) > self.clock.processing_time(job.known_at)
            {
                return Some(true);
            }
            Some(owner.control.history.lock().changed(target) > job.known_at)
        };
        if !job.upstreams.iter().any(|(_, upstream)| news(*upstream) == Some(true)) {
            return None;
        }
        Some(self.watermarks_at(state, job, target))
    }

    /// What is known of the nodes of `job` as of `target`.
    pub(super) fn watermarks_at(&self, state: &State, job: &Job, target: u64) -> Known {
        Arc::new(job.spec.plan.watermarks(&self.functions, &mut |_, reader| known_of_tap(state, reader, target)))
    }
}

/// What is known of what a tap hands out behind `target`.
fn known_of_tap(state: &State, reader: &TapReader, target: u64) -> Watermarks {
    let owner = state.owner(reader.relation).filter(|owner| owner.spec.relation == reader.relation);
    if let Some(owner) = owner.filter(|owner| has_processing_time(owner)) {
        return by_clock(owner, reader, owner.control.clock.processing_time(target));
    }
    let known = owner.and_then(|owner| owner.control.history.lock().at(target));
    let Some(known) = known else { return reader.watermarks.clone() };
    let column = |(i, unknown): (usize, &Option<_>)| {
        let unknown = (*unknown)?;
        let known = reader.watermarked_by(i).and_then(|(column, changes)| {
            let mark = known.get(column).copied().flatten()?;
            Some(Watermark { retracts: mark.retracts && changes, ..mark })
        });
        Some(known.unwrap_or(unknown))
    };
    reader.watermarks.iter().enumerate().map(column).collect()
}

/// Whether the rows of a relation are stamped with the time at which they are written.
pub(super) fn has_processing_time(owner: &Job) -> bool {
    owner.control.table.as_ref().is_some_and(|table| !table.processing_time.is_empty())
}

/// What is known of what a tap hands out when it is `at`.
fn by_clock(owner: &Job, reader: &TapReader, at: i64) -> Watermarks {
    let stamped = owner.control.table.as_ref().map_or(&[][..], |table| &table.processing_time);
    let column = |(i, unknown): (usize, &Option<Watermark>)| {
        let is_stamped = reader.watermarked_by(i).is_some_and(|(column, _)| stamped.contains(&column));
        unknown.map(|unknown| if is_stamped { Watermark { at, floor: at, ..unknown } } else { unknown })
    };
    reader.watermarks.iter().enumerate().map(column).collect()
}

impl Job {
    /// Remembers what is known as of `target`, before it is given out.
    pub(super) fn know(&mut self, target: u64, known: Option<Known>) {
        let Some(known) = known else { return };
        self.known_at = target;
        if let Some(root) = known.last() {
            self.control.history.lock().note(target, root);
        }
        *self.control.watermarks.lock() = known;
    }
}

/// Whether any column of a plan's nodes has a watermark.
pub(super) fn has_watermarks(plan: &Plan, functions: &Arc<dyn Functions>) -> bool {
    plan.watermark_columns(functions).iter().any(|marks| marks.iter().any(Option::is_some))
}

/// Whether an operator emits when a watermark moves.
pub(super) fn waits_for_watermark(plan: &Plan) -> bool {
    plan.nodes.iter().any(|node| node.operator.waits_for_watermark())
}

/// What readers of `relation` may still ask for.
pub(super) fn forget(state: &State) {
    for job in state.jobs.values() {
        let oldest = state
            .jobs
            .values()
            .filter(|reader| reader.upstreams.iter().any(|(_, upstream)| *upstream == job.spec.relation))
            .map(Job::reached)
            .min();
        job.control.history.lock().forget_before(oldest.unwrap_or(job.frontier).min(job.frontier));
    }
}

impl Job {
    pub(super) fn give_out(&self, target: u64) {
        let now = self.control.clock.time_of(target).max(self.control.now.load(Ordering::Acquire));
        self.control.now.store(now, Ordering::Release);
    }
}

/// Lets those run for whom time has passed: splits that have become idle, views that emit at intervals. Returns how long
/// that is to be looked at no more.
pub(super) fn look_at_time(state: &mut State) -> Duration {
    let mut next = Duration::MAX;
    for job in state.jobs.values_mut().filter(|job| job.is_live()) {
        if let Some(source) = &job.control.source
            && let Some(timeout) = source.event.as_ref().and_then(|event| event.spec.idle_timeout)
            && source.active.load(Ordering::Acquire)
        {
            let splits = source.splits.lock();
            let waits = splits.iter().filter(|split| !split.idle && split.offset >= split.replay_until);
            // One that has brought nothing since the start is looked at when another has.
            let since = waits.map(|split| split.last_record.map_or(Duration::ZERO, |at| at.elapsed())).max();
            if let Some(since) = since {
                if since >= timeout {
                    job.control.dirty.store(true, Ordering::Release);
                }
                next = next.min(timeout.saturating_sub(since).max(IDLE_LOOK_MIN));
            }
        }
        if let Some(every) = job.emits_every
            && let Some(ran_at) = job.ran_at
            && job.busy.is_none()
            && !job.is_input()
        {
            if ran_at.elapsed() >= every && !job.must_run {
                job.must_run = true;
                state.force_seal = true;
            }
            next = next.min(every.saturating_sub(ran_at.elapsed()).max(IDLE_LOOK_MIN));
        }
    }
    next
}

/// Time is not looked at more often than this.
const IDLE_LOOK_MIN: Duration = Duration::from_millis(1);
