//! `RETRY ERRORS`: records that could not be decoded are decoded once more, and a source goes on in another format.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use storage::{Epoch, Relation, RelationId, failpoint};

use super::{Engine, off_thread};
use crate::coordinator::{Coordinator, Stage};
use crate::discovery;
use crate::error::{Error, Result};
use crate::job::{JobControl, SourceControl};
use crate::operators::AnyOperator;
use crate::retention::{Tried, error_ids};
use crate::retries::{RETRIED, retried_key, set_aside_key};
use crate::row_errors::{OFFSET, RAW, RAW_BYTES_MAX, SPLIT};
use crate::source::{FailedRecord, Offset, SourceSpec, Split};
use crate::spec::CatalogChanges;

/// How often it is asked whether a source has got to where it shall.
const POLL: Duration = Duration::from_millis(2);

/// What became of errors that were tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Records that are rows now.
    pub entered: usize,
    /// Records that failed again.
    pub failed: usize,
    /// Errors that are of no record: what failed there is a row already.
    pub others: usize,
    /// The epoch that shows it.
    pub epoch: Epoch,
}

/// An error of a record.
struct Failed {
    id: i64,
    record: FailedRecord,
}

impl Engine {
    /// Decodes the records of these errors of a source once more. Those that can be are rows from one epoch on, in which they
    /// are errors no more; of the others `$errors` tells the new reason. All of that is durable when the future resolves.
    ///
    /// # Errors
    /// `Invalid` while the source's job is down, `Unavailable` if the outside system is needed and does not answer.
    pub async fn retry_errors(&self, source: RelationId, ids: Vec<i64>) -> Result<Retried> {
        // Two that try the same error would both find it.
        let alone = self.tables.lock_of(source).lock_owned().await;
        let coordinator = self.coordinator.clone();
        // Once begun it is finished, whether somebody waits for it or not.
        off_thread(move || {
            let _alone = alone;
            retry(&coordinator, source, &ids)
        })
        .await
    }

    /// Goes on with a source in another format, and makes that and `catalog` durable in one step: what was read before is as
    /// it was, what is read later is in the new format. Records that have failed enter only by [`Engine::retry_errors`].
    ///
    /// # Errors
    /// `Invalid` if a job that reads the source is down: it would read records again that it has read in the old format.
    pub async fn reformat(&self, relation: RelationId, spec: SourceSpec, catalog: CatalogChanges) -> Result<()> {
        let alone = self.tables.lock_of(relation).lock_owned().await;
        let (coordinator, sources) = (self.coordinator.clone(), self.sources.clone());
        off_thread(move || {
            let _alone = alone;
            let source = sources.open(&spec)?;
            let (control, errors) = running(&coordinator, relation)?;
            let of_source = of_source(&control)?;
            let reads = Hold::new(&control, of_source)?;
            // What has been read is durable everywhere, so nobody reads it again.
            coordinator.flush().blocking_recv().map_err(|_| Error::Cancelled)??;
            readers_run(&coordinator, relation)?;
            let mut aside = of_source.retries.left_out();
            for failed in failed_records(&errors, None)?.0 {
                aside.push((failed.record.split, failed.record.offset));
            }
            let mut catalog = catalog;
            catalog.push((set_aside_key(relation), Some(serde_json::to_vec(&aside).expect("plain data"))));
            coordinator.drop_jobs(&[], catalog).blocking_recv().map_err(|_| Error::Cancelled)??;
            of_source.retries.leave_out(aside);
            of_source.retries.replace(source);
            if let Some(job) = coordinator.state.lock().jobs.get_mut(&relation)
                && let Some(AnyOperator::Source(operator)) = job.spec.plan.nodes.first_mut().map(|n| &mut n.operator)
            {
                operator.spec = spec;
            }
            drop(reads);
            Ok(())
        })
        .await
    }
}

/// Keeps a source from being read.
struct Hold<'a> {
    control: &'a JobControl,
    source: &'a SourceControl,
}

impl<'a> Hold<'a> {
    fn new(control: &'a JobControl, source: &'a SourceControl) -> Result<Hold<'a>> {
        source.held.store(true, Ordering::Release);
        let hold = Hold { control, source };
        let version = hold.changed();
        while !source.acknowledged.iter().all(|seen| seen.load(Ordering::Acquire) >= version) {
            still_runs(control)?;
            std::thread::sleep(POLL);
        }
        Ok(hold)
    }

    fn changed(&self) -> u64 {
        let version = self.source.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.control.wake();
        version
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.source.held.store(false, Ordering::Release);
        self.changed();
    }
}

fn retry(coordinator: &Arc<Coordinator>, relation: RelationId, ids: &[i64]) -> Result<Retried> {
    let (control, errors) = running(coordinator, relation)?;
    let source = of_source(&control)?;
    let (failed, others) = failed_records(&errors, Some(ids))?;
    let mut retried = Retried { others, ..Retried::default() };
    let mut tried = Tried::default();
    let (mut good, mut good_ids) = (Vec::new(), Vec::new());
    let columns: Vec<usize> = (0..=source.source.columns().len()).collect();
    let inner = source.retries.inner();
    for Failed { id, record } in failed {
        // A row already, and the error is there since the server ended before it was gone.
        if source.retries.place(&record.split, record.offset).is_some() {
            tried.left.push(id);
            continue;
        }
        let is_whole = record.value.as_ref().is_some_and(|value| value.len() < RAW_BYTES_MAX);
        let whole = match is_whole && !inner.needs_whole_records() {
            true => Some(record),
            false => inner.fetch(&record.split, record.offset)?,
        };
        let Some(whole) = whole else {
            tried.failed.insert(id, ("the record is not where it was read any more".into(), "02000".into()));
            continue;
        };
        match inner.decode(&whole, 0, &columns)?.errors.pop() {
            Some(error) => drop(tried.failed.insert(id, (error.reason, error.sqlstate))),
            None => {
                good.push(whole);
                good_ids.push(id);
            }
        }
    }
    (retried.entered, retried.failed) = (good.len(), tried.failed.len());
    if !good.is_empty() {
        enter(coordinator, relation, &control, good)?;
        // Whoever reads it later reads these, too.
        if !source.active.load(Ordering::Acquire) {
            tried.left.append(&mut good_ids);
        }
    }
    if !tried.is_empty() {
        let mut told = control.tried.lock();
        told.left.append(&mut tried.left);
        told.failed.extend(tried.failed);
        drop(told);
        coordinator.clock.enter(&control.dirty);
        control.wake();
    }
    retried.epoch = coordinator.flush().blocking_recv().map_err(|_| Error::Cancelled)??;
    Ok(retried)
}

/// Makes rows of records, from one epoch on.
fn enter(
    coordinator: &Arc<Coordinator>,
    relation: RelationId,
    control: &JobControl,
    records: Vec<FailedRecord>,
) -> Result<()> {
    let source = of_source(control)?;
    if !discovery::add_split(coordinator, control, Split { id: RETRIED.into(), start: Offset(0) }) {
        return Err(Error::Cancelled);
    }
    let first = source.retries.len();
    let key = |i: usize| retried_key(relation, first + i);
    let kept = records.iter().enumerate();
    let kept = kept.map(|(i, record)| (key(i), Some(serde_json::to_vec(record).expect("plain data")))).collect();
    let keep = || coordinator.drop_jobs(&[], kept).blocking_recv().map_err(|_| Error::Cancelled)?;
    failpoint::around("retry/keep", keep)?;
    let until = Offset((first + records.len()) as i64);
    source.retries.add(records);
    source.version.fetch_add(1, Ordering::AcqRel);
    control.wake();
    let read = || -> Result<()> {
        let at = |source: &SourceControl| source.splits.lock().iter().find(|s| s.id == RETRIED).map(|s| s.offset);
        while source.active.load(Ordering::Acquire) && at(source) < Some(until) {
            still_runs(control)?;
            std::thread::sleep(POLL);
        }
        Ok(())
    };
    failpoint::around("retry/enter", read)
}

/// The job of a source, which runs, and its errors.
fn running(coordinator: &Coordinator, relation: RelationId) -> Result<(Arc<JobControl>, Arc<Relation>)> {
    let state = coordinator.state.lock();
    let job = state.jobs.get(&relation).ok_or_else(|| Error::NotFound("the source does not exist any more".into()))?;
    if job.stage != Stage::Running {
        let message =
            format!("\"{}\" does not run\nHINT:  Try again once it does; see ALTER ... RESUME.", job.spec.name);
        return Err(Error::invalid("55000", message));
    }
    Ok((job.control.clone(), job.errors.clone()))
}

fn of_source(control: &JobControl) -> Result<&SourceControl> {
    control.source.as_ref().ok_or_else(|| Error::Failed("it is no source".into()))
}

fn still_runs(control: &JobControl) -> Result<()> {
    if control.failed.load(Ordering::Acquire) {
        let why = control.error.lock().clone().unwrap_or_default();
        return Err(Error::Failed(format!("the source has failed: {why}")));
    }
    Ok(())
}

/// Refuses a source one of whose readers is down.
fn readers_run(coordinator: &Coordinator, relation: RelationId) -> Result<()> {
    let state = coordinator.state.lock();
    let reads = |plan: &crate::plan::Plan| {
        let mut operators = plan.nodes.iter().map(|node| &node.operator);
        operators.any(|operator| matches!(operator, AnyOperator::TapReader(tap) if tap.relation == relation))
    };
    match state.jobs.values().find(|job| reads(&job.spec.plan) && job.stage != Stage::Running) {
        None => Ok(()),
        Some(job) => {
            let message = format!("\"{}\", which reads the source, does not run", job.spec.name);
            Err(Error::invalid("55000", format!("{message}\nHINT:  Wait for it, RESUME it, or drop it.")))
        }
    }
}

/// The records of these errors, or of all, and how many of them are of no record.
fn failed_records(errors: &Relation, ids: Option<&[i64]>) -> Result<(Vec<Failed>, usize)> {
    let ids: Option<std::collections::HashSet<i64>> = ids.map(|ids| ids.iter().copied().collect());
    let snapshot = errors.snapshot(errors.newest())?;
    let (mut records, mut others) = (Vec::new(), 0);
    for batch in snapshot.scan(None, 0..storage::batch::VNODES) {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let id = error_ids(&batch).value(row);
            if ids.as_ref().is_some_and(|ids| !ids.contains(&id)) {
                continue;
            }
            match failed_record(&batch, row) {
                Some(record) => records.push(Failed { id, record }),
                None => others += 1,
            }
        }
    }
    // As they came: what was first stays first.
    records.sort_by_key(|failed| failed.id);
    Ok((records, others))
}

fn failed_record(batch: &RecordBatch, row: usize) -> Option<FailedRecord> {
    let splits = batch.column(SPLIT).as_string_view();
    let offsets = batch.column(OFFSET).as_primitive::<Int64Type>();
    let raws = batch.column(RAW).as_binary_view();
    (splits.is_valid(row) && offsets.is_valid(row)).then(|| FailedRecord {
        split: splits.value(row).to_owned(),
        offset: offsets.value(row),
        value: raws.is_valid(row).then(|| raws.value(row).to_vec()),
        ..FailedRecord::default()
    })
}
