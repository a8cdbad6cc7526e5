//! Reads the splits of an external source.
//!
//! Rule    One shared reader a split: every job over the source sees the same records in the same epochs.
//! State   The offset of each split, as of each sealed epoch; it enters the checkpoint.
//! Epochs  A record belongs to the epoch that is open when its batch is taken over.
//! Limits  Pauses while the reader that is least behind has READ_AHEAD_ROWS waiting: nobody would be faster for more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::driver::{JobContext, Leaf, Next};
use crate::error::{Error, Result};
use crate::operator::{Exchange, Operator, Task, TaskContext};
use crate::reader::{self, Message, Reader};
use crate::source::{Offset, SourceSpec};
use crate::tap::Taps;

/// Rows that a worker reads ahead of the job over the source that is least behind.
const READ_AHEAD_ROWS: usize = 131_072;

/// Reads the splits of an external source. The driver runs it: it has no input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The source as the catalog describes it.
    pub spec: SourceSpec,
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
    /// The open epoch that this worker has emitted in, and the offsets before it did.
    open: Option<(u64, Vec<(u16, Offset)>)>,
}

struct OwnSplit {
    position: Offset,
    reader: Option<Reader>,
}

impl SourceLeaf {
    /// The leaf of one worker.
    pub fn new(ctx: JobContext, taps: Taps, wake: Arc<dyn Fn() + Send + Sync>) -> SourceLeaf {
        SourceLeaf { ctx, taps, wake, splits: BTreeMap::new(), version: 0, turn: 0, open: None }
    }

    /// Opens and closes readers when the splits or the projection changed.
    fn take_up_version(&mut self) {
        let control = self.ctx.job.source.as_ref().expect("a source job");
        let version = control.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        let active = control.active.load(Ordering::Acquire);
        let projection = control.projection.lock().clone();
        let durable = control.durable_splits.load(Ordering::Acquire);
        for split in control.splits.lock().iter().take(durable) {
            if split.number as usize % self.ctx.workers != self.ctx.worker {
                continue;
            }
            let own =
                self.splits.entry(split.number).or_insert(OwnSplit { position: split.offset, reader: None });
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

    fn positions(&self) -> Vec<(u16, Offset)> {
        self.splits.iter().map(|(number, split)| (*number, split.position)).collect()
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
            let own = self.splits.get_mut(&number).expect("own split");
            let Some(reader) = &own.reader else { continue };
            match reader.messages.try_recv() {
                Err(_) => continue,
                Ok(Message::Position(next)) => {
                    own.position = next;
                    self.report(number, None);
                }
                Ok(Message::Unavailable(error)) => self.report(number, Some(error)),
                Ok(Message::Failed(error)) => return Next::Failed(error),
                Ok(Message::Records(records)) => {
                    let epoch = match &self.open {
                        Some((epoch, _)) => *epoch,
                        None => {
                            let epoch = self.ctx.job.clock.enter(&self.ctx.job.dirty);
                            self.open = Some((epoch, self.positions()));
                            epoch
                        }
                    };
                    self.turn += i + 1;
                    self.splits.get_mut(&number).expect("own split").position = records.next;
                    self.ctx.job.bytes_in.fetch_add(records.bytes as u64, Ordering::Relaxed);
                    self.ctx.errors.borrow_mut().extend(records.errors);
                    self.report(number, None);
                    if records.batch.num_rows() > 0 {
                        return Next::Batch(epoch, records.batch);
                    }
                }
            }
        }
        Next::Nothing
    }

    fn sealed(&mut self, target: u64, _checkpoint: bool) -> Result<()> {
        let positions = match self.open.take() {
            Some((epoch, before)) if epoch > target => {
                self.open = Some((epoch, before.clone()));
                before
            }
            _ => self.positions(),
        };
        let control = self.ctx.job.source.as_ref().expect("a source job");
        let mut splits = control.splits.lock();
        for (number, position) in positions {
            if let Some(split) = splits.iter_mut().find(|s| s.number == number) {
                split.offset = position;
            }
        }
        Ok(())
    }
}
