//! Deletes the rows of tables that are older than their `ttl`.
//!
//! A row that leaves is deleted as by a DELETE: under the lock of its table, through the synced log. So what has left is a
//! fact, the same after a crash, for every view and for every sink, and nobody writes to a row that is about to leave.
//!
//! Rule    A row leaves once the time in its column is more than `micros` ago; NULL never is.
//! Limits  ROWS_MAX rows a write. A table is looked through again when a row can be due, and so that this takes a part of
//!         LOOK_SHARE of one thread at most: rows of a table that takes long to look through leave that much later.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use storage::{Batch, RelationId, RelationSnapshot};
use tokio::sync::OwnedMutexGuard;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

use super::tables::Tables;
use crate::clock::wall_clock;
use crate::coordinator::{Coordinator, Stage};
use crate::error::{Error, Result};
use crate::job::JobControl;
use crate::ttl::Ttl;
use crate::watermark;

/// Rows that leave in one write, at most.
const ROWS_MAX: usize = 10_000;
/// How often it is looked whether a row is due.
const TICK: Duration = Duration::from_millis(100);
/// A table is not looked through more often.
const LOOK_MIN: Duration = Duration::from_millis(500);
/// Looking through a table takes one part in so many of the time.
const LOOK_SHARE: u32 = 20;
/// How often an answer is asked for, while one is waited for.
const POLL: Duration = Duration::from_millis(1);

/// Starts the thread; it ends with the engine, or soon after `stop` is set.
pub fn start(tables: &Arc<Tables>, stop: Arc<AtomicBool>) {
    let tables = Arc::downgrade(tables);
    let look = move || {
        let mut looks = Looks { tables, stop, of: BTreeMap::new() };
        while looks.all() {
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new().name("ttl".into()).spawn(look).expect("the system has a thread to spare");
}

/// The tables that are looked at.
struct Looks {
    tables: Weak<Tables>,
    stop: Arc<AtomicBool>,
    of: BTreeMap<RelationId, Look>,
}

/// The keys of rows that are due.
type Leaving = (RecordBatch, Locking);
type Locking = Pin<Box<dyn Future<Output = OwnedMutexGuard<()>> + Send>>;

/// Where we are with one table.
struct Look {
    ttl: Ttl,
    /// Not before this.
    at: Instant,
    /// When the next row is due as far as known, by the wall clock.
    due: i64,
    /// The epoch that is known.
    epoch: u64,
    /// Rows are due, and the lock of the table is waited for.
    leaving: Option<Leaving>,
}

impl Looks {
    /// Looks at every table; false once the engine has stopped.
    fn all(&mut self) -> bool {
        let Some(tables) = self.tables.upgrade().filter(|_| !self.is_stopped()) else { return false };
        let found = with_ttl(&tables.coordinator);
        self.of.retain(|id, _| found.iter().any(|(control, _)| control.relation == *id));
        for (control, ttl) in found {
            let mut look = self.of.remove(&control.relation).unwrap_or_else(|| Look::new(ttl));
            if look.ttl != ttl {
                look = Look::new(ttl);
            }
            if let Err(error) = self.look(&tables, &control, &mut look) {
                tracing::warn!(table = control.name, "rows that are older than the ttl stay for now: {error}");
                look.at = Instant::now() + LOOK_MIN * LOOK_SHARE;
            }
            self.of.insert(control.relation, look);
        }
        !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn look(&self, tables: &Arc<Tables>, control: &JobControl, look: &mut Look) -> Result<()> {
        let now = wall_clock();
        if look.leaving.is_none() {
            if look.at > Instant::now() || !look.is_due(now, control) {
                return Ok(());
            }
            look.leaving = self.find(tables, control, look, now)?;
        }
        let Some((keys, locking)) = &mut look.leaving else { return Ok(()) };
        let Poll::Ready(guard) = locking.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { return Ok(()) };
        let left = self.expire(tables, control, look.ttl, keys, now);
        drop(guard);
        look.leaving = None;
        control.table.as_ref().expect("a table job").expired_rows.fetch_add(left?, Ordering::Relaxed);
        Ok(())
    }

    /// Looks through a table: the keys of rows that are due, and the lock that is waited for, if there are any.
    fn find(&self, tables: &Arc<Tables>, control: &JobControl, look: &mut Look, now: i64) -> Result<Option<Leaving>> {
        let begun = Instant::now();
        let Some(view) = self.answer(tables.try_read_latest(&[control.relation])?)? else { return Ok(None) };
        let (keys, due) = due_keys(&view.relations[&control.relation], look.ttl, now)?;
        look.due = match look.ttl.stamped {
            // What is inserted later is due later.
            true => due.min(now.saturating_add(look.ttl.micros)),
            false => due,
        };
        look.epoch = view.epoch.0;
        let pause = if keys.num_rows() == ROWS_MAX { Duration::ZERO } else { LOOK_MIN };
        look.at = Instant::now() + pause.max(begun.elapsed() * LOOK_SHARE);
        // Writers wait in a row, and so do we; but no table waits for the lock of another one.
        let locking: Locking = Box::pin(tables.lock_of(control.relation).lock_owned());
        Ok((keys.num_rows() > 0).then_some((keys, locking)))
    }

    /// Deletes those of the rows with `keys` that are still due, under the lock of the table; says how many.
    fn expire(
        &self,
        tables: &Arc<Tables>,
        control: &JobControl,
        ttl: Ttl,
        keys: &RecordBatch,
        now: i64,
    ) -> Result<u64> {
        let id = control.relation;
        let Some(view) = self.answer(tables.try_read_latest(&[id])?)? else { return Ok(0) };
        let snapshot = &view.relations[&id];
        let mut rows = Vec::new();
        for i in 0..keys.num_rows() {
            let key: Vec<ArrayRef> = keys.columns().iter().map(|column| column.slice(i, 1)).collect();
            let row = snapshot.get(&key)?.filter(|row| row.num_rows() == 1);
            rows.extend(row.filter(|row| ttl.is_over(&watermark::values(row.column(ttl.column)), 0, now)));
        }
        if rows.is_empty() {
            return Ok(0);
        }
        let columns = concat_batches(&rows[0].schema(), &rows)?.columns().to_vec();
        let leave = Batch::inserts(RecordBatch::try_new(snapshot.schema(), columns)?).negate();
        let written = tables.write(vec![(id, leave)])?;
        Ok(self.answer(Err(written))?.map_or(0, |_| rows.len() as u64))
    }

    /// Waits for an answer, but not for an engine that stops.
    fn answer<T, E: Into<Error>>(
        &self,
        answer: std::result::Result<T, Receiver<std::result::Result<T, E>>>,
    ) -> Result<Option<T>> {
        let mut waits = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(waits) => waits,
        };
        loop {
            match waits.try_recv() {
                Ok(answer) => return answer.map(Some).map_err(Into::into),
                Err(TryRecvError::Closed) => return Ok(None),
                Err(TryRecvError::Empty) if self.is_stopped() => return Ok(None),
                Err(TryRecvError::Empty) => std::thread::sleep(POLL),
            }
        }
    }
}

impl Look {
    fn new(ttl: Ttl) -> Look {
        Look { ttl, at: Instant::now(), due: i64::MIN, epoch: 0, leaving: None }
    }

    fn is_due(&self, now: i64, control: &JobControl) -> bool {
        let changed = control.changed.load(Ordering::Acquire) > self.epoch;
        now > self.due || (changed && !self.ttl.stamped)
    }
}

/// The tables that are live and have a ttl.
fn with_ttl(coordinator: &Coordinator) -> Vec<(Arc<JobControl>, Ttl)> {
    let state = coordinator.state.lock();
    let of = |job: &crate::coordinator::Job| {
        let ttl = (*job.control.table.as_ref()?.ttl.lock())?;
        (job.stage == Stage::Running).then(|| (job.control.clone(), ttl))
    };
    state.jobs.values().filter_map(of).collect()
}

/// The keys of rows (of some of them, if they are many) that are due at `now`, and when the next of the others is.
fn due_keys(snapshot: &RelationSnapshot, ttl: Ttl, now: i64) -> Result<(RecordBatch, i64)> {
    let columns: Vec<usize> = [ttl.column].iter().chain(&snapshot.spec().key).copied().collect();
    let schema = Arc::new(snapshot.schema().project(&columns[1..])?);
    let (mut some, mut n, mut next) = (Vec::new(), 0, i64::MAX);
    for batch in snapshot.scan(Some(&columns), 0..VNODES) {
        let batch = batch?;
        let times = watermark::values(batch.column(0));
        let leaves: BooleanArray = (0..batch.num_rows()).map(|row| Some(ttl.is_over(&times, row, now))).collect();
        let due = |row: usize| times.is_valid(row).then(|| times.value(row).saturating_add(ttl.micros));
        let later = (0..batch.num_rows()).filter(|row| !leaves.value(*row)).filter_map(due).min();
        next = later.unwrap_or(i64::MAX).min(next);
        let keys = batch.project(&(1..columns.len()).collect::<Vec<_>>())?;
        let keys = filter_record_batch(&keys, &leaves)?;
        let keys = keys.slice(0, keys.num_rows().min(ROWS_MAX - n));
        n += keys.num_rows();
        some.push(RecordBatch::try_new(schema.clone(), keys.columns().to_vec())?);
        if n == ROWS_MAX {
            // There may be more.
            next = i64::MIN;
            break;
        }
    }
    Ok((concat_batches(&schema, &some)?, next))
}

/// All of a relation's.
const VNODES: usize = 256;
