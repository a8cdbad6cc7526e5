//! Memory: what counts, whose it is, and what is asked of whom when it is short.
//!
//! ```text
//!            the server's budget                       a job's budget
//!            operators' state of all jobs              its operators' state, on all workers
//!          + what waits in inboxes
//!          + changes that are not durable yet
//! ```
//!
//! Past a budget, in this order: operators drop what the store has (`Task::evict`), inboxes are spilled, the job takes nothing
//! before its next checkpoint, and then what cannot leave memory is too much: the job stops, alone, with 53200.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use storage::RelationId;

/// What a budget is when there is none.
pub const NO_BUDGET: u64 = u64::MAX;
/// Bytes that the inboxes of all jobs keep in memory together, at most; more is spilled.
const INBOXES_MAX: u64 = 256 << 20;
/// Checkpoints after which a job is still over its budget when it is stopped.
const CHECKPOINTS_OVER_MAX: u32 = 3;

/// The key of a job's budget; without it there is none.
pub fn memory_key(relation: RelationId) -> Vec<u8> {
    format!("engine/memory/{}", relation.0).into_bytes()
}

/// What is counted of the whole server.
#[derive(Debug)]
pub struct Memory {
    /// The budget of what is counted here.
    pub budget: u64,
    state: AtomicI64,
    /// What waits in the inboxes of all jobs and is not spilled.
    pub inboxes: AtomicI64,
    /// What was published and is not durable.
    pub changes: AtomicI64,
    /// What a checkpoint under way has taken.
    pub checkpoint: AtomicI64,
    /// Jobs that keep something.
    jobs: AtomicI64,
    over: AtomicU32,
}

impl Memory {
    /// Nothing is counted yet.
    pub fn new(budget: u64) -> Memory {
        Memory {
            budget,
            state: AtomicI64::new(0),
            inboxes: AtomicI64::new(0),
            changes: AtomicI64::new(0),
            checkpoint: AtomicI64::new(0),
            jobs: AtomicI64::new(0),
            over: AtomicU32::new(0),
        }
    }

    /// Bytes of the operators' state.
    pub fn state(&self) -> u64 {
        positive(&self.state)
    }

    /// Bytes besides the operators' state.
    fn others(&self) -> u64 {
        positive(&self.inboxes) + positive(&self.changes) + positive(&self.checkpoint)
    }

    /// All that is counted.
    pub fn used(&self) -> u64 {
        self.state() + self.others()
    }

    /// Bytes that the operators' state may take.
    fn room(&self) -> u64 {
        self.budget.saturating_sub(self.others())
    }

    /// Whether inboxes are to be spilled.
    pub fn inboxes_are_over(&self) -> bool {
        positive(&self.inboxes) > self.inboxes_max()
    }

    /// Bytes that the inboxes of all jobs keep in memory together.
    pub fn inboxes_max(&self) -> u64 {
        INBOXES_MAX.min(self.budget / 4)
    }

    /// After a checkpoint: whether the server was over its budget after each of the last ones, so that some job has to stop.
    pub fn is_over_for_long(&self) -> bool {
        over_for_long(&self.over, self.used() > self.budget)
    }
}

/// What is counted of one job.
#[derive(Debug)]
pub struct JobMemory {
    server: Arc<Memory>,
    budget: AtomicU64,
    state: AtomicI64,
    /// What waits in its inboxes and is not spilled.
    pub inboxes: AtomicI64,
    over: AtomicU32,
}

impl JobMemory {
    /// Nothing is counted yet.
    pub fn new(server: Arc<Memory>) -> JobMemory {
        server.jobs.fetch_add(1, Ordering::Relaxed);
        JobMemory {
            server,
            budget: AtomicU64::new(NO_BUDGET),
            state: AtomicI64::new(0),
            inboxes: AtomicI64::new(0),
            over: AtomicU32::new(0),
        }
    }

    /// The job's budget, if it has one of its own.
    pub fn budget(&self) -> Option<u64> {
        Some(self.budget.load(Ordering::Relaxed)).filter(|budget| *budget != NO_BUDGET)
    }

    /// Gives the job a budget of its own, or takes it away.
    pub fn set_budget(&self, budget: Option<u64>) {
        self.budget.store(budget.unwrap_or(NO_BUDGET), Ordering::Relaxed);
        self.over.store(0, Ordering::Relaxed);
    }

    /// Bytes of its operators' state.
    pub fn state(&self) -> u64 {
        positive(&self.state)
    }

    /// All that is counted of it.
    pub fn used(&self) -> u64 {
        self.state() + positive(&self.inboxes)
    }

    /// Bytes that its operators' state may take: its budget, or its part of what the server has for all.
    fn limit(&self) -> u64 {
        let own = self.budget.load(Ordering::Relaxed);
        let (all, room) = (self.server.state(), self.server.room());
        if all <= room {
            return own;
        }
        own.min((u128::from(self.state()) * u128::from(room) / u128::from(all.max(1))) as u64)
    }

    /// Whether its operators' state takes more than it may.
    pub fn is_over(&self) -> bool {
        self.state() > self.limit()
    }

    /// What a task whose state takes `own` bytes should come down to, if the job is over its budget: its part of half of
    /// it, so that it does not have to do so again soon.
    pub fn allowance(&self, own: u64) -> Option<u64> {
        let (state, limit) = (self.state(), self.limit());
        (state > limit).then(|| (u128::from(own) * u128::from(limit / 2) / u128::from(state.max(1))) as u64)
    }

    /// What may be read of the state tables at a start: by each of `tasks` tasks.
    pub fn share_at_start(&self, tasks: usize) -> u64 {
        let limit = self.budget.load(Ordering::Relaxed).min(self.server.budget);
        if limit == NO_BUDGET { NO_BUDGET } else { limit / 2 / tasks.max(1) as u64 }
    }

    /// Whether `bytes` more in its inboxes are to be spilled, by the job's own budget.
    pub fn inboxes_are_over(&self, bytes: usize) -> bool {
        self.budget().is_some_and(|budget| positive(&self.inboxes) + bytes as u64 > budget / 4)
    }

    /// While it grows within a step, where nothing can leave memory: why it has to stop, if it does. The server's memory is
    /// used up by a quarter more than its budget, and this job has more than its part of it.
    pub fn stop_within_step(&self) -> Option<String> {
        let server = &self.server;
        if server.budget == NO_BUDGET || server.used() <= server.budget.saturating_add(server.budget / 4) {
            return None;
        }
        let part = server.state() / server.jobs.load(Ordering::Relaxed).max(1) as u64;
        (self.state() >= part).then(|| self.stop_for_server())
    }

    /// Why the job is stopped for the server's budget.
    pub fn stop_for_server(&self) -> String {
        let (budget, state) = (self.server.budget, self.state());
        out_of_memory(
            &format!("the server's memory budget of {} is used up, and the job keeps {}", size(budget), size(state)),
            "Raise --memory-bytes, or bound the state (a watermark, a temporal filter); then ALTER ... RESUME.",
        )
    }

    /// After the job was cut for a checkpoint, and so has dropped from memory what it could: why it has to stop, if it was
    /// over its own budget each of the last times.
    pub fn stop_after_cut(&self) -> Option<String> {
        let budget = self.budget()?;
        let state = self.state();
        over_for_long(&self.over, state > budget).then(|| {
            out_of_memory(
                &format!(
                    "the job's memory budget is {}, and what it cannot drop from memory takes {}",
                    size(budget),
                    size(state)
                ),
                "ALTER ... SET (memory = '...') gives it more; then ALTER ... RESUME.",
            )
        })
    }
}

impl Drop for JobMemory {
    fn drop(&mut self) {
        self.server.jobs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one task counts of its job's memory; nothing any more when it is dropped.
pub struct Counted {
    memory: Arc<JobMemory>,
    bytes: i64,
}

impl Counted {
    /// Nothing yet.
    pub fn new(memory: Arc<JobMemory>) -> Counted {
        Counted { memory, bytes: 0 }
    }

    /// The task's state takes `bytes` now.
    pub fn set(&mut self, bytes: u64) {
        let change = bytes as i64 - self.bytes;
        self.bytes += change;
        self.memory.state.fetch_add(change, Ordering::Relaxed);
        self.memory.server.state.fetch_add(change, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

fn positive(bytes: &AtomicI64) -> u64 {
    bytes.load(Ordering::Relaxed).max(0) as u64
}

fn over_for_long(times: &AtomicU32, is_over: bool) -> bool {
    if is_over {
        times.fetch_add(1, Ordering::Relaxed) + 1 >= CHECKPOINTS_OVER_MAX
    } else {
        times.store(0, Ordering::Relaxed);
        false
    }
}

fn out_of_memory(what: &str, hint: &str) -> String {
    format!("out of memory: {what}\nHINT:  {hint}")
}

/// A size for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..0x2800 => format!("{bytes} bytes"),
        0x2800..0xa0_0000 => format!("{} kB", bytes >> 10),
        _ => format!("{} MB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_comes_down_to_half_of_what_it_may_take() {
        let server = Arc::new(Memory::new(NO_BUDGET));
        let job = Arc::new(JobMemory::new(server.clone()));
        let mut tasks = [1000, 3000].map(|bytes| {
            let mut counted = Counted::new(job.clone());
            counted.set(bytes);
            counted
        });
        assert_eq!((job.state(), job.allowance(1000)), (4000, None));
        job.set_budget(Some(2000));
        assert_eq!((job.allowance(1000), job.allowance(3000)), (Some(250), Some(750)));
        tasks[0].set(250);
        tasks[1].set(750);
        assert_eq!(job.allowance(750), None);
        drop(tasks);
        assert_eq!((job.state(), server.state()), (0, 0));
    }

    #[test]
    fn the_servers_budget_is_shared_by_size_and_what_waits_counts() {
        let server = Arc::new(Memory::new(1000));
        let jobs = [1, 2].map(|_| Arc::new(JobMemory::new(server.clone())));
        let mut tasks = jobs.clone().map(Counted::new);
        tasks[0].set(300);
        tasks[1].set(600);
        assert!(!jobs[0].is_over() && !jobs[1].is_over());
        server.inboxes.store(300, Ordering::Relaxed);
        // 700 of 900 may stay.
        assert_eq!((jobs[0].allowance(300), jobs[1].allowance(600)), (Some(116), Some(233)));
        assert_eq!(jobs[1].stop_within_step(), None);
        tasks[1].set(900);
        assert!(jobs[0].stop_within_step().is_none() && jobs[1].stop_within_step().is_some());
    }

    #[test]
    fn it_stops_when_it_was_over_after_several_checkpoints_in_a_row() {
        let job = Arc::new(JobMemory::new(Arc::new(Memory::new(NO_BUDGET))));
        let mut task = Counted::new(job.clone());
        job.set_budget(Some(1 << 20));
        task.set(3 << 20);
        assert!(job.stop_after_cut().is_none() && job.stop_after_cut().is_none());
        task.set(1 << 20);
        assert!(job.stop_after_cut().is_none());
        task.set(3 << 20);
        let said: Vec<_> = (0..3).filter_map(|_| job.stop_after_cut()).collect();
        assert_eq!(said.len(), 1);
        assert!(
            said[0].contains("budget is 1024 kB, and what it cannot drop from memory takes 3072 kB"),
            "{}",
            said[0]
        );
    }
}
