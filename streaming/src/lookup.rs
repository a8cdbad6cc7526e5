//! What a lookup join asks the outside: a table there, found by its key, and what was answered.
//!
//! ```text
//!  task ──keys──▶ asker (a thread) ──▶ the outside          the answers of a step go to a synced log
//!       ◀─answers─                                          before anybody sees what came of them
//! ```
//!
//! What was visible stays so: a job that starts again from its last checkpoint takes the answers that it was given since
//! from the log, and asks for those only that it has not.

pub mod answers;
pub mod asker;
mod cache;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use storage::log::Log;
use storage::{Column, RelationId, Store};

use crate::error::Result;
use crate::operators::AnyOperator;
use crate::spec::JobSpec;
use answers::Answer;

/// Rows of a job that may wait for answers; then it takes no more.
pub const ROWS_WAITING_MAX: u64 = 65_536;

/// A table outside, as the catalog keeps it: plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LookupSpec {
    /// Its name here, for messages.
    pub name: String,
    /// The `WITH (...)` options in the order written, values without quotes.
    pub options: Vec<(String, String)>,
    /// Its columns.
    pub columns: Vec<Column>,
}

/// A table outside that is asked by some of its columns for some.
pub trait Lookup: Send + Sync {
    /// Connects; called on a thread of its own.
    ///
    /// # Errors
    /// Any is a reason to try again later.
    fn connect(&self) -> Result<Box<dyn Asking>>;

    /// How many answers are remembered, and for how long.
    fn cache(&self) -> CacheLimits;
}

/// A connection to a table outside.
pub trait Asking: Send {
    /// What the table has now for each of `keys`, whose columns are those that it is asked by.
    ///
    /// # Errors
    /// Any is a reason to connect again and to ask again.
    fn ask(&mut self, keys: &RecordBatch) -> Result<Vec<Answer>>;
}

/// How many answers are remembered, and for how long.
#[derive(Clone, Copy, Debug, Default)]
pub struct CacheLimits {
    /// Rows, at most; an answer without rows counts as one. None at all if 0.
    pub max_rows: usize,
    /// Older answers are asked for again.
    pub ttl: Duration,
}

/// What the lookup joins of a job share on all workers, also over its restarts.
pub struct Lookups {
    tables: BTreeMap<usize, Arc<dyn Lookup>>,
    log: Arc<Log>,
    /// The last record of the log.
    last: AtomicU64,
    /// The last one that is in the state, as of the job's last cut, and the same as of the last checkpoint.
    noted: AtomicU64,
    durable: AtomicU64,
    /// Rows that wait, by (node, worker).
    waiting: Mutex<BTreeMap<(usize, usize), u64>>,
    /// Why the outside does not answer, by (node, worker).
    errors: Mutex<BTreeMap<(usize, usize), String>>,
    /// By (node, worker): answers of the log are not used yet.
    owed: Mutex<BTreeSet<(usize, usize)>>,
    /// An answer came that no step waits for.
    ready: AtomicBool,
}

/// Where the logs of answers are in a data directory.
fn folder(dir: &Path) -> PathBuf {
    dir.join("lookups")
}

/// The key of the last record of a job's log that a checkpoint holds.
pub fn answered_key(relation: RelationId) -> Vec<u8> {
    format!("engine/answered/{}", relation.0).into_bytes()
}

/// Removes the logs of jobs that are no more.
pub fn purge(dir: &Path, keep: &[RelationId]) {
    let Ok(entries) = std::fs::read_dir(folder(dir)) else { return };
    for entry in entries.flatten() {
        let kept = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(RelationId);
        if !kept.is_some_and(|id| keep.contains(&id))
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::warn!("an old log of answers could not be removed: {error}");
        }
    }
}

/// Removes the log of a job that is dropped.
pub fn forget(dir: &Path, relation: RelationId) {
    let folder = folder(dir).join(relation.0.to_string());
    if folder.exists()
        && let Err(error) = std::fs::remove_dir_all(&folder)
    {
        tracing::warn!("a log of answers could not be removed: {error}");
    }
}

impl Lookups {
    /// Those of a job; `None` if it has no lookup join.
    ///
    /// # Errors
    /// What `open` says of a table, and `Corrupt` if the log cannot be read.
    pub fn of(
        store: &Store,
        spec: &JobSpec,
        open: &dyn Fn(&crate::operators::LookupJoin) -> Result<Arc<dyn Lookup>>,
    ) -> Result<Option<Arc<Lookups>>> {
        let mut tables = BTreeMap::new();
        for (node, plan_node) in spec.plan.nodes.iter().enumerate() {
            if let AnyOperator::LookupJoin(join) = &plan_node.operator {
                tables.insert(node, open(join)?);
            }
        }
        if tables.is_empty() {
            return Ok(None);
        }
        let stored = store.meta_get(&answered_key(spec.relation))?.and_then(|b| b.try_into().ok());
        let stored = stored.map_or(0, u64::from_be_bytes);
        Ok(Some(Lookups::open(&folder(store.dir()).join(spec.relation.0.to_string()), tables, stored)?))
    }

    /// The joins of `tables`, by node, with their log in `dir`. The state has what its first `stored` records say.
    ///
    /// # Errors
    /// `Corrupt` if the log cannot be read.
    pub fn open(dir: &Path, tables: BTreeMap<usize, Arc<dyn Lookup>>, stored: u64) -> Result<Arc<Lookups>> {
        let io = |error: std::io::Error| storage::Error::Io(format!("could not make \"{}\": {error}", dir.display()));
        std::fs::create_dir_all(dir).map_err(io)?;
        let log = Log::open(dir, stored)?;
        let mut last = stored;
        log.replay(0, &mut |sequence, _| {
            last = last.max(sequence);
            Ok(())
        })?;
        Ok(Arc::new(Lookups {
            tables,
            log,
            last: AtomicU64::new(last),
            noted: AtomicU64::new(stored),
            durable: AtomicU64::new(stored),
            waiting: Mutex::default(),
            errors: Mutex::default(),
            owed: Mutex::default(),
            ready: AtomicBool::new(last > stored),
        }))
    }

    /// Whether so many rows wait that the job takes no more.
    pub fn is_full(&self) -> bool {
        self.rows_waiting() >= ROWS_WAITING_MAX
    }

    /// Rows that wait for answers.
    pub fn rows_waiting(&self) -> u64 {
        self.waiting.lock().values().sum()
    }

    /// Why the outside does not answer, while it does not.
    pub fn error(&self) -> Option<String> {
        self.errors.lock().values().next().cloned()
    }

    /// Whether an answer came that no step waits for; the next one is told again.
    pub fn take_ready(&self) -> bool {
        self.ready.swap(false, Ordering::AcqRel)
    }

    /// Whether answers that were visible before the job started again are not used yet.
    pub fn owes(&self) -> bool {
        !self.owed.lock().is_empty() || self.last.load(Ordering::Acquire) > self.durable.load(Ordering::Acquire)
    }

    /// The job was cut: its state has all that was answered.
    pub fn note(&self) {
        // While some of the log is not used, all of it is kept.
        if self.owed.lock().is_empty() {
            self.noted.store(self.last.load(Ordering::Acquire), Ordering::Release);
        }
    }

    /// The last record that is in the state as of the last cut.
    pub fn noted(&self) -> u64 {
        self.noted.load(Ordering::Acquire)
    }

    /// The cut is durable.
    pub fn committed(&self) {
        let noted = self.noted();
        self.durable.store(noted, Ordering::Release);
        if let Err(error) = self.log.truncate_before(noted + 1) {
            tracing::warn!("old answers could not be removed: {error}");
        }
    }
}

/// How one lookup join of one worker gets at what it needs.
#[derive(Clone)]
pub struct TaskLookups {
    /// What all of the job share.
    pub lookups: Arc<Lookups>,
    /// The join's node.
    pub node: usize,
    /// The worker.
    pub worker: usize,
    /// Wakes the workers and the coordinator.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

impl TaskLookups {
    /// The table that is asked; `None` if the job has no lookup join at that node.
    pub fn table(&self) -> Option<Arc<dyn Lookup>> {
        self.lookups.tables.get(&self.node).cloned()
    }

    /// So many rows wait.
    pub fn waits(&self, rows: u64) {
        self.lookups.waiting.lock().insert((self.node, self.worker), rows);
    }

    /// Whether the outside answers, and why not.
    pub fn report(&self, error: Option<String>) {
        let mut errors = self.lookups.errors.lock();
        match error {
            Some(error) => errors.insert((self.node, self.worker), error),
            None => errors.remove(&(self.node, self.worker)),
        };
    }

    /// An answer came that no step waits for.
    pub fn ready(&self) {
        self.lookups.ready.store(true, Ordering::Release);
        (self.wake)();
    }

    /// Says whether answers of the log are still to be used.
    pub fn owes(&self, some: bool) {
        let mut owed = self.lookups.owed.lock();
        match some {
            true => owed.insert((self.node, self.worker)),
            false => owed.remove(&(self.node, self.worker)),
        };
    }

    /// Appends a record; `done` is called once it is on the disk.
    pub fn append(&self, record: Vec<u8>, done: impl FnOnce(storage::Result<()>) + Send + 'static) {
        let (lookups, wake) = (self.lookups.clone(), self.wake.clone());
        let done = move |result: storage::Result<u64>| {
            let result = result.map(|sequence| {
                lookups.last.fetch_max(sequence, Ordering::AcqRel);
            });
            done(result);
            wake();
        };
        self.lookups.log.append_synced(record, Box::new(done));
    }

    /// Calls `f` with every record of the log that the state does not have.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn replay(&self, f: &mut dyn FnMut(&[u8])) -> Result<()> {
        let from = self.lookups.durable.load(Ordering::Acquire) + 1;
        self.lookups.log.replay(from, &mut |_, record| {
            f(record);
            Ok(())
        })?;
        Ok(())
    }
}
