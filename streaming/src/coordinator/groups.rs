//! Groups of sinks: which epoch their jobs take changes up to, so that a checkpoint has all of them at the same.
//!
//! ```text
//!  a checkpoint: all that the group's sinks read is cut ─▶ an epoch up to which all of that is exact
//!                ─▶ each sink is cut with what came up to it ─▶ durable: a point, up to which the target may go
//! ```
//!
//! Where one of them does not get there (its outbox is full, it has failed, it is being created), there is no point, and the
//! target stays where it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use storage::{RelationId, Store};

use super::exact;
use super::followed::{Cut, Job, Stage};
use super::{Coordinator, State};
use crate::checkpoint::Taken;
use crate::error::Result;
use crate::outbox::group::Points;

/// A group of sinks, as far as the coordinator is concerned.
#[derive(Default)]
pub struct Group {
    /// The epoch up to which all of its sinks are to take changes; 0 if none was chosen since the start.
    together: u64,
    /// The checkpoint for which that was thought about.
    asked_at: u64,
    /// The checkpoint that is being written has all sinks at this epoch.
    noted: Option<u64>,
    points: Arc<Points>,
}

/// The key of a group's points.
pub fn points_key(group: &str) -> Vec<u8> {
    format!("engine/sink_group/{group}").into_bytes()
}

impl State {
    /// Takes up what the store knows of a group.
    pub fn restore_group(&mut self, group: &str, store: &Store) -> Result<()> {
        let points = match store.meta_get(&points_key(group))? {
            Some(bytes) => Points::read(&bytes)
                .ok_or_else(|| storage::Error::Corrupt(format!("the points of the sink group {group}")))?,
            None => Points::default(),
        };
        self.groups.insert(group.to_owned(), Group { points: Arc::new(points), ..Group::default() });
        Ok(())
    }

    /// Whether something is known of a group.
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// The points of a group.
    pub fn points(&mut self, group: &str) -> Arc<Points> {
        self.groups.entry(group.to_owned()).or_default().points.clone()
    }

    /// The epoch up to which the sinks of a group take changes; 0 if it is not known yet.
    pub(super) fn together(&self, group: &str) -> u64 {
        self.groups.get(group).map_or(0, |group| group.together)
    }

    /// What a sink that joins a group gives out is behind all that the target may have by then.
    pub(super) fn join_group(&mut self, group: &str, job: &Job) {
        let group = self.groups.entry(group.to_owned()).or_default();
        if let Some(outbox) = &job.control.outbox {
            outbox.raise_floor(group.together.max(group.points.last()) + 1);
        }
    }

    /// Nobody is in a group any more.
    pub fn forget_group(&mut self, group: &str) {
        self.groups.remove(group);
    }

    fn members(&self, group: &str) -> Vec<&Job> {
        self.jobs.values().filter(|job| job.group() == Some(group)).collect()
    }

    /// Whether something came to `job` that the target does not have at its group's point `last`.
    fn has_news(&self, job: &Job, last: u64) -> bool {
        job.control.outbox.as_ref().is_some_and(|outbox| outbox.is_beyond(last))
            || job.follows_the_clock
            || job.upstreams.iter().any(|(_, upstream)| {
                self.owner(*upstream).is_some_and(|u| u.control.changed.load(Ordering::Acquire) > job.taken)
            })
    }

    /// Whether there is something that the target does not have and could have after the next checkpoint.
    pub(super) fn groups_have_news(&self) -> bool {
        self.groups.iter().any(|(id, group)| {
            let last = group.points.last();
            let members = self.members(id);
            members.iter().any(|job| self.has_news(job, last)) && !members.iter().any(|job| holds(job))
        })
    }

    /// Whether the sinks of a group may be cut for the checkpoint `at`: all that any of them reads is.
    pub(super) fn may_cut_group(&mut self, group: &str, at: u64) -> bool {
        if self.groups.get(group).is_some_and(|group| group.asked_at == at) {
            return true;
        }
        let members = self.members(group);
        let inputs: Vec<RelationId> =
            members.iter().flat_map(|job| job.upstreams.iter().map(|(_, upstream)| *upstream)).collect();
        let is_open = |id: &RelationId| {
            self.owner(*id).is_some_and(|owner| owner.is_live() && matches!(owner.cut, Cut::Wanted | Cut::Issued(_)))
        };
        if inputs.iter().any(is_open) {
            return false;
        }
        let (next, wish) = self.next_together(group, &members, &inputs);
        let group = self.groups.entry(group.to_owned()).or_default();
        group.asked_at = at;
        group.together = next.unwrap_or(group.together);
        if let Some(wish) = wish {
            Coordinator::take_wishes(self, vec![wish]);
        }
        true
    }

    /// The next epoch that all of a group go on to, if there is one; otherwise where what they read should meet for that.
    fn next_together(
        &self,
        group: &str,
        members: &[&Job],
        inputs: &[RelationId],
    ) -> (Option<u64>, Option<(u64, Vec<RelationId>)>) {
        let Some(group) = self.groups.get(group) else { return (None, None) };
        let last = group.points.last();
        let jobs = exact::all_upstreams(self, inputs);
        // Until a sink is where the others are, they wait for it.
        let is_behind = |job: &&Job| holds(job) || job.taken < group.together;
        if !members.iter().any(|job| self.has_news(job, last))
            || members.iter().any(is_behind)
            || jobs.iter().any(|job| job.is_down())
        {
            return (None, None);
        }
        let cut = |id: &RelationId| match self.owner(*id)?.cut {
            Cut::Done(at) => Some(at),
            _ => None,
        };
        let limit = inputs.iter().filter_map(cut).min().unwrap_or(self.sealed);
        let floor = members.iter().map(|job| job.control.outbox.as_ref().map_or(0, |o| o.floor()).max(job.taken)).max();
        let least = floor.unwrap_or(0).max(last + 1).max(group.together + 1);
        match exact::newest(&jobs, limit) {
            Some(epoch) if epoch >= least => (Some(epoch), None),
            _ => (None, Some(exact::wish(&jobs))),
        }
    }

    /// Puts the points of groups whose sinks are all at one epoch into the checkpoint.
    pub(super) fn note_points(&mut self, taken: &mut Taken) {
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        for id in ids {
            let members = self.members(&id);
            let group = &self.groups[&id];
            let (at, last) = (group.together, group.points.last());
            let is_there = |job: &&Job| {
                let joined = job.control.outbox.as_ref().is_some_and(|outbox| outbox.has_joined());
                joined && !holds(job) && matches!(job.cut, Cut::Done(_)) && job.cut_taken == at
            };
            let is_beyond = |job: &&Job| job.control.outbox.as_ref().is_some_and(|outbox| outbox.is_beyond(last));
            let is_point = at > last && members.iter().all(is_there) && members.iter().any(is_beyond);
            if is_point {
                taken.meta.push((points_key(&id), Some(group.points.with(at))));
            }
            self.groups.get_mut(&id).expect("listed").noted = is_point.then_some(at);
        }
    }

    /// That checkpoint is durable.
    pub(super) fn points_durable(&mut self) {
        for (id, group) in &mut self.groups {
            let Some(at) = group.noted.take() else { continue };
            group.points.add(at);
            let of_group = self.jobs.values().filter(|job| job.group() == Some(id));
            of_group.filter_map(|job| job.control.outbox.as_ref()).for_each(|outbox| outbox.notify());
        }
    }
}

/// Whether the others of its group wait for a job: it is being created, or has failed.
fn holds(job: &Job) -> bool {
    !matches!(job.stage, Stage::Running | Stage::Committing)
}
