//! Reads the splits of an external source.
//!
//! Rule    One shared reader a split: every job over the source sees the same records in the same epochs.
//! State   The offset and the watermark of each split, as of each sealed epoch; they enter the checkpoint.
//! Epochs  A record belongs to the epoch that is open when its batch is taken over.
//! Limits  A split that is too far ahead of the source's watermark waits. Pauses while the reader that is least behind has READ_AHEAD_ROWS waiting: nobody would be faster for more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::Batch;

use crate::driver::{JobContext, Leaf, Next};
use crate::error::{Error, Result};
use crate::event_time::{EventTime, Judge, Progress};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::reader::{self, Message, Reader};
use crate::source::{Offset, Records, SourceSpec};
use crate::tap::Taps;

/// Rows that a worker reads ahead of the job over the source that is least behind.
const READ_AHEAD_ROWS: usize = 131_072;

/// Reads the splits of an external source. The driver runs it: it has no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The source as the catalog describes it.
    pub spec: SourceSpec,
    /// `WATERMARK FOR ...`
    #[serde(default)]
    pub event_time: Option<EventTime>,
    /// The output columns: the source's and the hidden `_row_id`.
    pub schema: SchemaRef,
}

impl Operator for Source {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        vec![]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("a source is run by the driver".into()))
    }
    fn describe(&self) -> String {
        let connector = self.spec.options.iter().find(|(name, _)| name == "connector");
        format!("{} {}", connector.map_or("?", |(_, value)| value), self.spec.encode)
    }
    fn state(&self) -> Option<String> {
        Some("one offset per split".into())
    }
}

/// The shared readers of one worker's splits.
pub struct SourceLeaf {
    ctx: JobContext,
    taps: Taps,
    wake: Arc<dyn Fn() + Send + Sync>,
    splits: BTreeMap<u16, OwnSplit>,
    version: u64,
    turn: usize,
    /// The open epoch that this worker has emitted in, and where the splits were before it did.
    open: Option<(u64, Vec<Position>)>,
    judge: Option<Judge>,
    /// The last epoch that was handed out.
    sealed: u64,
}

struct OwnSplit {
    id: String,
    position: Offset,
    reader: Option<Reader>,
    progress: Progress,
    /// Left out of what the source announces, as of the last sealed epoch.
    idle: bool,
    /// Read to its end: nothing will come.
    ended: bool,
    last_record: Instant,
    /// Up to here it was visible before a restart: what is read again is judged as it was.
    replay_until: Offset,
}

/// Where a split is between two epochs.
#[derive(Clone)]
struct Position {
    number: u16,
    offset: Offset,
    progress: Progress,
    idle: bool,
}

impl SourceLeaf {
    /// The leaf of one worker.
    pub fn new(
        ctx: JobContext,
        taps: Taps,
        judge: Option<Judge>,
        wake: Arc<dyn Fn() + Send + Sync>,
    ) -> SourceLeaf {
        SourceLeaf { ctx, taps, wake, splits: BTreeMap::new(), version: 0, turn: 0, open: None, judge, sealed: 0 }
    }

    /// Opens and closes readers when the splits or the projection changed.
    fn take_up_version(&mut self) {
        let control = self.ctx.job.source.as_ref().expect("a source job");
        let version = control.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        let active = control.active.load(Ordering::Acquire) && !control.held.load(Ordering::Acquire);
        let projection = control.projection.lock().clone();
        let durable = control.durable_splits.load(Ordering::Acquire);
        for split in control.splits.lock().iter().take(durable) {
            if split.number as usize % self.ctx.workers != self.ctx.worker {
                continue;
            }
            let own = self.splits.entry(split.number).or_insert_with(|| OwnSplit {
                id: split.id.clone(),
                position: split.offset,
                reader: None,
                progress: split.progress.clone(),
                idle: false,
                ended: false,
                last_record: Instant::now(),
                replay_until: split.replay_until,
            });
            // What an old reader has read ahead is dropped: the new one begins where the last taken batch ended.
            own.reader = None;
            if active {
                let wake = self.wake.clone();
                own.reader = Some(reader::start(
                    control.source.clone(),
                    split.id.clone(),
                    split.number,
                    own.position,
                    projection.clone(),
                    Box::new(move || wake()),
                ));
            }
        }
        self.version = version;
        control.acknowledged[self.ctx.worker].store(version, Ordering::Release);
        self.ctx.job.clock.notify.notify();
    }

    fn positions(&self) -> Vec<Position> {
        let position = |(number, split): (&u16, &OwnSplit)| Position {
            number: *number,
            offset: split.position,
            progress: split.progress.clone(),
            idle: split.idle,
        };
        self.splits.iter().map(position).collect()
    }

    /// Whether the event time lets a split be read on.
    fn may_read(&self, own: &OwnSplit) -> bool {
        let control = self.ctx.job.source.as_ref().expect("a source job");
        let Some(event) = &control.event else { return true };
        // What it was left out of has to be known, so that it is raised to it.
        if own.idle && event.epoch.load(Ordering::Acquire) < self.sealed {
            return false;
        }
        let at = event.at.load(Ordering::Acquire);
        event.spec.max_drift.is_none_or(|drift| own.progress.at <= at.saturating_add(drift) || own.progress.at == i64::MIN)
    }

    /// The open epoch, in which something comes of this worker's splits.
    fn enter(&mut self) -> u64 {
        if let Some((epoch, _)) = &self.open {
            return *epoch;
        }
        let epoch = self.ctx.job.clock.enter(&self.ctx.job.dirty);
        self.open = Some((epoch, self.positions()));
        epoch
    }

    /// Sets the late rows of a split's records aside.
    fn judge(&mut self, number: u16, records: &Records, epoch: u64) -> Result<Batch> {
        let control = self.ctx.job.source.as_ref().expect("a source job");
        let (Some(judge), Some(event)) = (&self.judge, &control.event) else { return Ok(records.batch.clone()) };
        let own = self.splits.get_mut(&number).expect("own split");
        let announced = event.at.load(Ordering::Acquire).max(event.before);
        if own.position >= own.replay_until {
            if own.progress.at < announced {
                own.progress.raise(own.position.0, announced);
            }
        } else if records.next > own.replay_until {
            own.progress.raise(own.replay_until.0, announced);
        }
        (own.idle, own.last_record) = (false, Instant::now());
        let judged = judge.records(&own.id, &mut own.progress, &records.batch, Some(records.next.0 - 1))?;
        self.ctx.errors.borrow_mut().extend(judged.errors);
        if judged.late.num_rows() > 0 {
            event.late_rows.fetch_add(judged.late.num_rows() as u64, Ordering::Relaxed);
            self.ctx.late.borrow_mut().push((epoch, judged.late));
        }
        Ok(judged.taken)
    }

    fn report(&self, number: u16, error: Option<String>) {
        let control = self.ctx.job.source.as_ref().expect("a source job");
        if let Some(split) = control.splits.lock().iter_mut().find(|s| s.number == number) {
            split.error = error;
        }
    }
}

impl Leaf for SourceLeaf {
    fn next(&mut self, target: u64, sealed: u64) -> Next {
        self.take_up_version();
        // First the seal, then what belongs to the next epoch.
        if target > sealed {
            return Next::Nothing;
        }
        if self.ctx.job.clock.is_full() || self.taps.rows_waiting(self.ctx.job.relation) > READ_AHEAD_ROWS {
            return Next::Later;
        }
        let numbers: Vec<u16> = self.splits.keys().copied().collect();
        for i in 0..numbers.len() {
            let number = numbers[(self.turn + i) % numbers.len()];
            let own = self.splits.get(&number).expect("own split");
            if !self.may_read(own) {
                continue;
            }
            let own = self.splits.get_mut(&number).expect("own split");
            let Some(reader) = &own.reader else { continue };
            match reader.messages.try_recv() {
                Err(_) => continue,
                Ok(Message::Position(next)) => {
                    own.position = next;
                    self.report(number, None);
                }
                Ok(Message::End(next)) => {
                    own.position = next;
                    own.ended = true;
                    self.report(number, None);
                    // It holds the other splits back no more.
                    if self.judge.is_some() {
                        self.enter();
                    }
                }
                Ok(Message::Unavailable(error)) => self.report(number, Some(error)),
                Ok(Message::Failed(error)) => return Next::Failed(error),
                Ok(Message::Records(records)) => {
                    let epoch = self.enter();
                    let batch = match self.judge(number, &records, epoch) {
                        Ok(batch) => batch,
                        Err(error) => return Next::Failed(error.to_string()),
                    };
                    self.turn += i + 1;
                    self.splits.get_mut(&number).expect("own split").position = records.next;
                    self.ctx.job.bytes_in.fetch_add(records.bytes as u64, Ordering::Relaxed);
                    self.ctx.errors.borrow_mut().extend(records.errors);
                    if !records.again.is_empty() {
                        let entered = records.again.into_iter().map(|(split, offset)| (epoch, split, offset));
                        self.ctx.job.tried.lock().entered.extend(entered);
                    }
                    self.report(number, None);
                    if batch.num_rows() > 0 {
                        return Next::Batch(epoch, batch);
                    }
                }
            }
        }
        Next::Nothing
    }

    fn sealed(&mut self, target: u64, _checkpoint: bool) -> Result<()> {
        let control = self.ctx.job.source.as_ref().expect("a source job");
        let positions = match self.open.take() {
            Some((epoch, mut before)) if epoch > target => {
                self.open = Some((epoch, before.clone()));
                // Who has come back meanwhile took up what was known then, and not what this epoch will announce.
                before.iter_mut().for_each(|p| p.idle &= self.splits[&p.number].idle);
                before
            }
            _ => {
                let timeout = control.event.as_ref().and_then(|event| event.spec.idle_timeout);
                for own in self.splits.values_mut() {
                    let is_idle = own.ended || timeout.is_some_and(|timeout| own.last_record.elapsed() >= timeout);
                    own.idle |= is_idle && own.position >= own.replay_until;
                }
                self.positions()
            }
        };
        self.sealed = target;
        let mut splits = control.splits.lock();
        for position in positions {
            if let Some(split) = splits.iter_mut().find(|s| s.number == position.number) {
                (split.offset, split.progress, split.idle) = (position.offset, position.progress, position.idle);
                split.last_record = self.splits.get(&position.number).map(|own| own.last_record);
            }
        }
        Ok(())
    }
}
