//! What a job's dataflow (on the workers) and its coordinator tell each other. Plain shared memory: no timely in here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use storage::table::DirtyRun;
use storage::{Batch, Epoch, RelationId, RelationSnapshot};

use crate::clock::Clock;
use crate::event_time::{self, Announced, Judge, Progress, SplitTime};
use crate::lookup::Lookups;
use crate::memory::JobMemory;
use crate::operator::{Seal, StateSize};
use crate::outbox::Outbox;
use crate::retention::Tried;
use crate::retries::Retrying;
use crate::row_errors::ErrorsKept;
use crate::source::{Offset, Source};
use crate::ttl::Ttl;
use crate::watermark::{History, Watermarks};

/// The part of a job that all threads see.
///
/// The coordinator sets a *target*: the epoch up to which the job's leaves hand out what they have. When every operator
/// on every worker has sealed it, the workers raise `done`. One target is in flight at a time.
pub struct JobControl {
    /// The relation that the job maintains.
    pub relation: RelationId,
    /// The object's name.
    pub name: String,
    /// The clock.
    pub clock: Arc<Clock>,
    /// What it keeps in memory.
    pub memory: Arc<JobMemory>,
    /// The epoch in flight, or the last one. 0 before the first.
    pub target: AtomicU64,
    /// The epoch up to which the taps hand out what waits, where that is less than the target: of a sink whose outbox is
    /// full, or that has more to catch up on than one step takes. Set before the target.
    pub take: AtomicU64,
    /// The target that is a cut for a checkpoint.
    pub cut: AtomicU64,
    /// The last target that is sealed everywhere.
    pub done: AtomicU64,
    /// What is known of each node's columns behind the target; empty if nothing is. Set before the target.
    pub watermarks: Mutex<Arc<Vec<Arc<Watermarks>>>>,
    /// What is known of the relation's columns, by epoch.
    pub history: Mutex<History>,
    /// The wall clock when the target was given out.
    pub now: AtomicI64,
    /// A source or table has emitted in the open epoch.
    pub dirty: AtomicBool,
    /// The newest epoch in which the job's relation changed.
    pub changed: AtomicU64,
    /// Workers that have built the dataflow.
    pub installed: AtomicUsize,
    /// The job is stopped.
    pub failed: AtomicBool,
    /// It replays what came since its last checkpoint: nothing may be held back.
    pub resuming: AtomicBool,
    /// It takes more memory than it may: it does not start again by itself.
    pub out_of_memory: AtomicBool,
    /// Why.
    pub error: Mutex<Option<String>>,
    /// Wakes the leaves and operators of every worker.
    pub wakers: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
    /// Where each tap reader (by node index) begins; set before the first target.
    pub starts: Mutex<HashMap<usize, Start>>,
    /// Dirty state of the operators, as of the cut.
    pub cut_runs: Mutex<Vec<DirtyRun>>,
    /// State sizes by (node, worker).
    pub sizes: Mutex<BTreeMap<(usize, usize), StateSize>>,
    /// Rows that operators have forgotten, by (node, worker).
    pub forgotten: Mutex<BTreeMap<(usize, usize), u64>>,
    /// Rows that came in.
    pub rows_in: AtomicU64,
    /// Rows that it has published since its step began, or since the last one ended.
    pub rows_published: AtomicU64,
    /// Bytes that came in from outside.
    pub bytes_in: AtomicU64,
    /// Rows and records that failed.
    pub row_errors: AtomicU64,
    /// Errors that were dropped: too many at once, or too old.
    pub row_errors_dropped: AtomicU64,
    /// Late rows that were dropped: too many, or too old.
    pub late_dropped: AtomicU64,
    /// How much is kept of what failed or was late.
    pub kept: Mutex<ErrorsKept>,
    /// Where the rows come from, as `<name>$errors` says it.
    pub origin: Mutex<String>,
    /// What became of errors that were tried again, and is still to be told.
    pub tried: Mutex<Tried>,
    /// Whether the job stops at a row that fails.
    pub fails_on_error: AtomicBool,
    /// Rows read of snapshots.
    pub rows_read: AtomicU64,
    /// Rows that the snapshots have, if known.
    pub rows_total: Mutex<Option<u64>>,
    /// Rows waiting in the job's inboxes.
    pub rows_waiting: std::sync::atomic::AtomicI64,
    /// The same by epoch, for epochs behind the last target: how far a target may be so that its step stays small.
    pub waiting: Mutex<BTreeMap<u64, usize>>,
    /// For the cut under way: up to which epoch each tap reader (by node index) stores what waits for it.
    pub cut_limits: Mutex<HashMap<usize, u64>>,
    /// For a source job.
    pub source: Option<SourceControl>,
    /// For a table job.
    pub table: Option<TableControl>,
    /// For a sink's job.
    pub outbox: Option<Arc<Outbox>>,
    /// For a job with lookup joins.
    pub lookups: Option<Arc<Lookups>>,
    /// Readers outside the workers.
    pub subscribers: Mutex<Vec<Arc<Subscriber>>>,
}

/// Where a tap reader begins.
#[derive(Clone)]
pub enum Start {
    /// With the rows of a relation as of `epoch`; changes up to it are skipped.
    Snapshot {
        /// The rows.
        snapshot: RelationSnapshot,
        /// The epoch.
        epoch: u64,
    },
    /// With the records of a source up to where its shared reader was at `epoch`.
    Records {
        /// The source.
        source: Arc<dyn Source>,
        /// Its splits, to be read from their start up to their offset.
        splits: Vec<SplitState>,
        /// Which of the records are late.
        judge: Option<Arc<Judge>>,
        /// The columns that its shared readers read. They are read here too, so that a record that cannot be decoded is
        /// set aside by both, whichever of its columns the job wants.
        columns: Arc<Vec<usize>>,
        /// The epoch.
        epoch: u64,
    },
    /// The state is restored: changes up to `epoch` are in it.
    Resume {
        /// The epoch.
        epoch: u64,
    },
    /// The same, but some records of the source are to be read again.
    Again {
        /// The source.
        source: Arc<dyn Source>,
        /// The records.
        stretches: Vec<Stretch>,
        /// Which of the records are late.
        judge: Option<Arc<Judge>>,
        /// The epoch.
        epoch: u64,
    },
}

/// Records of a source that a job has to read again when it starts again.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Reread {
    /// The tap reader.
    pub node: usize,
    /// They were published up to this epoch.
    pub upto: u64,
    /// The records.
    pub stretches: Vec<Stretch>,
}

/// Some records of a split, one after the other.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Stretch {
    /// The split's id.
    pub id: String,
    /// The split's number.
    pub number: u16,
    /// The first.
    pub from: Offset,
    /// One past the last.
    pub until: Offset,
    /// How far the split's event time is before the first, and what it was raised to since.
    pub progress: Progress,
    /// The columns that the shared readers read, and so decided which records cannot be decoded.
    pub columns: Vec<usize>,
}

/// The part of a source job that all threads see.
pub struct SourceControl {
    /// The source, with the records that were put through again.
    pub source: Arc<dyn Source>,
    /// The same, to put more of them through.
    pub retries: Arc<Retrying>,
    /// Nothing is read while this is set, whoever reads.
    pub held: Arc<AtomicBool>,
    /// Its event time, if it has one.
    pub event: Option<Announced>,
    /// Its splits; offsets are as of the last sealed epoch.
    pub splits: Mutex<Vec<SplitState>>,
    /// How many of the splits a checkpoint holds. The others are not read yet: after a crash they might get other numbers,
    /// and nobody would know how far they were visible.
    pub durable_splits: AtomicUsize,
    /// Raised when the splits or the projection change, or the source is paused.
    pub version: AtomicU64,
    /// The version that each worker has taken up.
    pub acknowledged: Vec<AtomicU64>,
    /// The columns that somebody reads, sorted.
    pub projection: Mutex<Arc<Vec<usize>>>,
    /// Every projection there was, by its length: it only ever grows, so the number of its columns names a batch's.
    pub projections: Mutex<BTreeMap<usize, Arc<Vec<usize>>>>,
    /// Whether somebody reads.
    pub active: AtomicBool,
    /// The splits as of the checkpoint under way.
    pub noted: Mutex<Option<Vec<SplitState>>>,
}

/// One split of a source.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct SplitState {
    /// Its id.
    pub id: String,
    /// Its number: never reused in the source.
    pub number: u16,
    /// Where a reader without a checkpoint begins.
    pub start: Offset,
    /// The next record to read, as of the last sealed epoch.
    pub offset: Offset,
    /// How far its event time is.
    #[serde(default)]
    pub progress: Progress,
    /// Whether it does not hold the other splits' event time back.
    #[serde(skip)]
    pub idle: bool,
    /// When a record last came of it.
    #[serde(skip)]
    pub last_record: Option<std::time::Instant>,
    /// Up to here it was visible before the restart.
    #[serde(skip)]
    pub replay_until: Offset,
    /// The end when it was last asked.
    #[serde(skip)]
    pub end: Option<Offset>,
    /// Why its reader cannot read, while it cannot.
    #[serde(skip)]
    pub error: Option<String>,
    /// Why its end is not known, while it is not.
    #[serde(skip)]
    pub end_error: Option<String>,
}

/// The part of a table job that all threads see.
#[derive(Default)]
pub struct TableControl {
    /// Acknowledged changes that wait for their epoch: (epoch, log sequence number, changes).
    pub queue: Mutex<VecDeque<(u64, u64, Batch)>>,
    /// The last log sequence number in a sealed epoch.
    pub applied: AtomicU64,
    /// The same as of the checkpoint under way.
    pub noted: AtomicU64,
    /// Its event time, if it has one.
    pub event: Option<Announced>,
    /// Its watermark as of the last sealed epoch.
    pub at: AtomicI64,
    /// When its rows leave by themselves.
    pub ttl: Mutex<Option<Ttl>>,
    /// Columns with the time at which a row was written.
    pub processing_time: Vec<usize>,
    /// Rows that have left since the server started.
    pub expired_rows: AtomicU64,
}

/// The changes of one sealed epoch (or of several, merged) of a relation. Empty batches are progress.
pub struct Changes {
    /// All changes up to here are handed over.
    pub epoch: Epoch,
    /// What changed since the last message.
    pub batches: Vec<Batch>,
}

/// A reader outside the workers.
pub struct Subscriber {
    /// Changes by epoch, as the workers publish them.
    pub inbox: Mutex<VecDeque<(u64, Batch)>>,
    /// Which of the job's relations is read.
    pub relation: RelationId,
    /// The epoch up to which changes were handed over; `u64::MAX` until the snapshot is taken.
    pub delivered: AtomicU64,
    /// Where they go.
    pub changes: tokio::sync::mpsc::Sender<Changes>,
}

impl JobControl {
    /// A job that was never run.
    pub fn new(relation: RelationId, name: String, clock: Arc<Clock>) -> JobControl {
        let memory = Arc::new(JobMemory::new(clock.memory.clone()));
        JobControl {
            memory,
            out_of_memory: AtomicBool::new(false),
            relation,
            name,
            clock,
            target: AtomicU64::new(0),
            take: AtomicU64::new(u64::MAX),
            cut: AtomicU64::new(0),
            done: AtomicU64::new(0),
            watermarks: Mutex::default(),
            history: Mutex::default(),
            now: AtomicI64::new(0),
            dirty: AtomicBool::new(false),
            changed: AtomicU64::new(0),
            installed: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            resuming: AtomicBool::new(false),
            error: Mutex::new(None),
            wakers: Mutex::default(),
            starts: Mutex::default(),
            cut_runs: Mutex::default(),
            sizes: Mutex::default(),
            forgotten: Mutex::default(),
            rows_in: AtomicU64::new(0),
            rows_published: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            row_errors: AtomicU64::new(0),
            row_errors_dropped: AtomicU64::new(0),
            late_dropped: AtomicU64::new(0),
            kept: Mutex::default(),
            origin: Mutex::default(),
            tried: Mutex::default(),
            fails_on_error: AtomicBool::new(false),
            rows_read: AtomicU64::new(0),
            rows_total: Mutex::new(None),
            rows_waiting: std::sync::atomic::AtomicI64::new(0),
            waiting: Mutex::default(),
            cut_limits: Mutex::default(),
            source: None,
            table: None,
            outbox: None,
            lookups: None,
            subscribers: Mutex::default(),
        }
    }

    /// Whether it may be at a later epoch than what it has taken: it waits for the outside, while what comes stays in its
    /// inboxes.
    pub fn may_lag(&self) -> bool {
        self.outbox.is_some() || self.lookups.is_some()
    }

    /// Whether it can take nothing more before the outside has taken or said something.
    pub fn is_full(&self) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.is_full())
            || self.lookups.as_ref().is_some_and(|lookups| lookups.is_full())
    }

    /// Stops the job with a message; the first one counts.
    pub fn fail(&self, message: String) {
        self.error.lock().get_or_insert(message);
        self.failed.store(true, Ordering::Release);
        self.clock.notify.notify();
    }

    /// Stops the job since it takes more memory than it may.
    pub fn fail_of_memory(&self, message: String) {
        self.out_of_memory.store(true, Ordering::Release);
        self.fail(message);
    }

    /// What is announced of the source's or table's event time.
    pub fn event(&self) -> Option<&Announced> {
        let of_source = self.source.as_ref().and_then(|source| source.event.as_ref());
        of_source.or_else(|| self.table.as_ref()?.event.as_ref())
    }

    /// The source or table has completed `epoch`: announces what follows for its event time.
    pub fn announce_event_time(&self, epoch: u64, columns: usize) {
        let Some(event) = self.event() else { return };
        let at = match (&self.source, &self.table) {
            (Some(source), _) => {
                let splits = source.splits.lock();
                let replayed = splits.iter().all(|split| split.offset >= split.replay_until);
                let times: Vec<SplitTime> =
                    splits.iter().map(|split| SplitTime { at: split.progress.at, idle: split.idle }).collect();
                event_time::announce(&times, if replayed { event.before } else { i64::MIN })
            }
            (_, Some(table)) => table.at.load(Ordering::Acquire),
            _ => return,
        };
        event.announce(epoch, at);
        self.history.lock().note(epoch, &event.watermarks(columns));
        // Splits that waited for this.
        self.wake();
    }

    /// The end of `epoch`, the target, for the operator that the nodes `from` feed.
    pub fn seal(&self, epoch: Epoch, checkpoint: bool, from: &[usize]) -> Seal {
        let all = self.watermarks.lock().clone();
        let watermarks = if all.is_empty() { Vec::new() } else { from.iter().map(|n| all[*n].clone()).collect() };
        let now = self.now.load(Ordering::Acquire);
        let recovering = self.clock.recovering.load(Ordering::Acquire) || self.resuming.load(Ordering::Acquire);
        Seal { epoch, checkpoint, watermarks, now, recovering }
    }

    /// Wakes the leaves and operators on every worker.
    pub fn wake(&self) {
        for wake in self.wakers.lock().iter() {
            wake();
        }
    }

    /// Hands `batch`, published at `epoch`, to the readers outside the workers.
    pub fn publish(&self, relation: RelationId, epoch: u64, batch: &Batch) {
        for subscriber in self.subscribers.lock().iter() {
            if subscriber.relation == relation {
                subscriber.inbox.lock().push_back((epoch, batch.clone()));
            }
        }
    }
}
