//! Which epochs a job can be read as of.
//!
//! ```text
//!  a job's steps     ├────────┤10├─────────────────────┤15├──┤16
//!  exact as of       ...      10  (not 11, 12, 13, 14)  15    16
//! ```
//!
//! A step that takes several epochs merges them: what was between has never been there. So a job is exact as of the epochs
//! that none of its steps reaches across, if all that it reads is exact as of them too. Sources and tables take every epoch
//! by itself.

use std::collections::{BTreeSet, VecDeque};

use storage::RelationId;
use storage::relation::EPOCHS_READABLE_BACK;

use super::State;
use super::followed::{Job, Stage};

/// The last steps of a job that took several epochs.
#[derive(Debug, Default)]
pub struct Steps {
    /// Before this it is not known.
    since: u64,
    /// From where to where, oldest first: the epochs between are not exact.
    merged: VecDeque<(u64, u64)>,
}

impl Steps {
    /// The job is first exact as of `epoch`.
    pub fn begin(&mut self, epoch: u64) {
        self.since = epoch;
    }

    /// The job went from one epoch to another in one step.
    pub fn note(&mut self, from: u64, to: u64) {
        if to <= from + 1 {
            return;
        }
        self.merged.push_back((from, to));
        while let Some((_, end)) = self.merged.front()
            && end + EPOCHS_READABLE_BACK < to
        {
            self.since = self.since.max(*end);
            self.merged.pop_front();
        }
    }

    /// The newest epoch up to `epoch` that no step reaches across.
    fn newest(&self, epoch: u64) -> Option<u64> {
        let across = self.merged.iter().rev().find(|(from, to)| *from < epoch && epoch < *to);
        Some(across.map_or(epoch, |(from, _)| *from)).filter(|epoch| *epoch >= self.since)
    }
}

/// The jobs that maintain `relations`, and all that they read, directly or not.
pub fn all_upstreams<'a>(state: &'a State, relations: &[RelationId]) -> Vec<&'a Job> {
    let mut seen = BTreeSet::new();
    let mut open = relations.to_vec();
    let mut jobs = Vec::new();
    while let Some(relation) = open.pop() {
        if let Some(job) = state.owner(relation)
            && seen.insert(job.spec.relation)
        {
            open.extend(job.upstreams.iter().map(|(_, upstream)| *upstream));
            jobs.push(job);
        }
    }
    jobs
}

/// What changes no more holds nobody up; who reads it is refused elsewhere.
fn moves(job: &&&Job) -> bool {
    job.stage != Stage::Failed
}

/// The newest epoch up to `epoch` that all `jobs` are exact as of.
pub fn newest(jobs: &[&Job], epoch: u64) -> Option<u64> {
    let mut epoch = epoch;
    loop {
        let before = epoch;
        for job in jobs.iter().filter(moves) {
            epoch = job.steps.newest(epoch.min(job.frontier))?;
        }
        if epoch == before {
            return Some(epoch);
        }
    }
}

/// An epoch that all `jobs` can be made to stop at: none has gone, or is on its way, beyond it.
pub fn meeting(jobs: &[&Job]) -> u64 {
    let reach = |job: &&Job| job.steps.since.max(job.reach());
    jobs.iter().filter(moves).filter(|job| !job.is_input()).map(reach).max().unwrap_or(0)
}

/// Whether all `jobs` are as far as `epoch`.
pub fn have_come(jobs: &[&Job], epoch: u64) -> bool {
    jobs.iter().filter(moves).all(|job| job.frontier >= epoch)
}

/// An epoch at which all `jobs` should meet.
pub fn wish(jobs: &[&Job]) -> (u64, Vec<RelationId>) {
    (meeting(jobs), jobs.iter().map(|job| job.spec.relation).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_a_step_reached_across() {
        let mut steps = Steps::default();
        steps.begin(3);
        for (from, to) in [(3, 4), (4, 10), (10, 15), (15, 16)] {
            steps.note(from, to);
        }
        let newest: Vec<Option<u64>> = [2, 3, 4, 5, 9, 10, 11, 15, 16, 20].map(|e| steps.newest(e)).into();
        let expected = [None, Some(3), Some(4), Some(4), Some(4), Some(10), Some(10), Some(15), Some(16), Some(20)];
        assert_eq!(newest, expected);
    }

    #[test]
    fn forgets_what_cannot_be_read_any_more() {
        let mut steps = Steps::default();
        for n in 0..1000 {
            steps.note(n * 3, n * 3 + 3);
        }
        assert!(steps.merged.len() < 20, "{}", steps.merged.len());
        assert_eq!(steps.newest(100), None);
        assert_eq!(steps.newest(2999), Some(2997));
    }
}
