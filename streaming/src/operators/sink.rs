//! Puts the job's result into the outbox of a sink. The root of a sink's job.
//!
//! Rule    What changed since the last checkpoint, consolidated, as entries of the outbox.
//! State   The outbox: entries that the target does not have yet.
//! Epochs  Collects; writes at a cut, and at a seal before it if much has come. The rows that a relation has at the
//!         beginning are written as they come.
//! Limits  The outbox holds so many bytes. Past them the job takes no more: what comes waits in its inboxes, in front of it,
//!         until the target has taken some. Only the first rows must have room all at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_schema::SchemaRef;
use serde::{Deserialize, Serialize};
use storage::{Batch, StateTable};

use crate::error::{Error, Result};
use crate::job::JobControl;
use crate::operator::{Exchange, Operator, Output, Progress, Seal, StateSize, Task, TaskContext};
use crate::outbox::Outbox;
use crate::sink::{Position, SinkSpec};

/// Rows that are collected before they are written in the middle of a checkpoint's interval.
const ENTRY_ROWS: usize = 65_536;

/// Puts the job's result into the outbox of a sink. The root of a sink's job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sink {
    /// Where to, and how.
    pub spec: SinkSpec,
    /// Whether the rows that are there when the sink is created are delivered.
    pub snapshot: bool,
    /// Whether the input is a relation as it is, whose first rows no other change overtakes.
    pub direct: bool,
    /// Bytes that the outbox may hold.
    pub outbox_bytes_max: u64,
    /// The columns that are delivered. The input may have more behind them.
    pub schema: SchemaRef,
}

impl Operator for Sink {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
    fn inputs(&self) -> Vec<Exchange> {
        let key = &self.spec.key;
        vec![if key.is_empty() { Exchange::Same } else { Exchange::Hash(key.clone()) }]
    }
    fn start(&self, _ctx: &mut TaskContext) -> Result<Box<dyn Task>> {
        Err(Error::Unsupported("an outbox is filled by the driver".into()))
    }
    fn describe(&self) -> String {
        let connector = self.spec.options.iter().find(|(name, _)| name == "connector");
        let connector = connector.map_or("", |(_, value)| value.as_str());
        let names: Vec<&str> = self.schema.fields().iter().map(|f| f.name().as_str()).collect();
        let key: Vec<&str> = self.spec.key.iter().map(|k| names[*k]).collect();
        let key = if key.is_empty() { String::new() } else { format!(" key ({})", key.join(", ")) };
        let snapshot = if self.snapshot { "" } else { " without snapshot" };
        format!("{connector} {} ({}){key}{snapshot}", self.spec.kind.name(), names.join(", "))
    }
    fn state(&self) -> Option<String> {
        Some(format!("what the target does not have yet, up to {}", bytes_text(self.outbox_bytes_max)))
    }
}

/// A number of bytes for people.
fn bytes_text(bytes: u64) -> String {
    let units = [("GB", 30), ("MB", 20), ("kB", 10)];
    let unit = units.iter().find(|(_, shift)| bytes >= 1 << shift && bytes % (1 << shift) == 0);
    unit.map_or(format!("{bytes} bytes"), |(name, shift)| format!("{} {name}", bytes >> shift))
}

/// The operator on one worker.
pub struct SinkTask {
    node: Sink,
    outbox: Arc<Outbox>,
    table: StateTable,
    vnode: u8,
    next: u64,
    pending: Vec<Batch>,
    rows: usize,
    job: Arc<JobControl>,
    /// Whether the job reads the rows that are there when it begins, and no change overtakes them.
    begins: bool,
    /// In a group: what comes belongs to no earlier epoch than this.
    floor: u64,
    /// Whether it was not cut yet: nothing leaves before that.
    first: bool,
}

impl SinkTask {
    /// The operator of one worker.
    pub fn new(node: &Sink, job: Arc<JobControl>, outbox: Arc<Outbox>, table: StateTable) -> SinkTask {
        let vnode = table.vnodes().start as u8;
        let next = outbox.next_number(vnode);
        let first = job.target.load(Ordering::Acquire) == 0;
        let begins = node.direct && first;
        let (node, floor) = (node.clone(), outbox.floor());
        SinkTask { node, outbox, table, vnode, next, pending: Vec::new(), rows: 0, job, begins, floor, first }
    }

    /// The epoch that changes are of. The jobs of a group step to different epochs, but take what came up to the same.
    fn label(&self, epoch: u64) -> u64 {
        if self.node.spec.group.is_none() { epoch } else { self.job.take.load(Ordering::Acquire).max(self.floor) }
    }

    fn flush(&mut self, epoch: u64) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.rows = 0;
        let all = match &pending[..] {
            [] => return Ok(()),
            [one] => one.clone(),
            many => Batch::concat(&self.node.schema, many)?,
        };
        let all = if all.is_append_only() { all } else { all.consolidate()? };
        if all.num_rows() == 0 {
            return Ok(());
        }
        let position = Position { epoch: self.label(epoch), vnode: self.vnode, number: self.next };
        self.outbox.put(&self.table, position, epoch, &all);
        if self.first && self.outbox.is_full() {
            let max = bytes_text(self.outbox.bytes_max());
            let message = format!("the rows that are there do not fit into the outbox: it takes {max}");
            let hint = "Raise outbox.limit, or say snapshot = 'false'.";
            return Err(Error::Failed(format!("{message}\nHINT:  {hint}")));
        }
        self.next += 1;
        Ok(())
    }
}

impl Task for SinkTask {
    fn apply(&mut self, _input: usize, delta: &Batch, _out: &mut Output) -> Result<Progress> {
        let columns: Vec<usize> = (0..self.node.schema.fields().len()).collect();
        let delta = super::with_schema(&delta.project(&columns), &self.node.schema)?;
        self.rows += delta.num_rows();
        // No change overtakes the first rows of a relation: they need not wait for each other.
        let early = delta.is_append_only() && self.rows >= ENTRY_ROWS;
        self.pending.push(delta);
        if early && self.begins {
            self.flush(self.job.target.load(Ordering::Acquire))?;
        }
        Ok(Progress::Done)
    }

    fn seal(&mut self, at: &Seal, out: &mut Output) -> Result<Progress> {
        if at.checkpoint || self.rows >= ENTRY_ROWS {
            self.flush(at.epoch.0)?;
        }
        self.begins = false;
        if at.checkpoint {
            self.first = false;
            // The cut may be one at which the target is to be: what comes now is not in it.
            self.floor = self.floor.max(self.job.take.load(Ordering::Acquire) + 1);
            self.outbox.trim(&self.table, self.table.vnodes());
            let refused = self.outbox.write_refused(&self.table, self.table.vnodes(), at.epoch.0);
            refused.into_iter().for_each(|error| out.error(error));
        }
        Ok(Progress::Done)
    }

    fn state_size(&self) -> StateSize {
        if self.vnode != 0 {
            return StateSize::default();
        }
        let status = self.outbox.status();
        StateSize { rows: status.rows_waiting, bytes: 0 }
    }
}
