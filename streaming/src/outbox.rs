//! The outbox of a sink: changes on their way outside, durable before they leave.
//!
//! ```text
//!  the job's operator `Sink` ─ at the seal ─▶ state table: epoch u64 BE | number u64 BE -> rows | time | batch
//!                                                │ checkpoint
//!  the delivery thread  ◀─ what is durable ──────┘     (rows that the target refuses: `refused.rs`)
//!      │ one transaction: the changes, and the position that they reach up to
//!      ▼
//!  the target ── position ─▶ entries up to it are deleted with the job's next cut
//! ```
//!
//! What is delivered is durable here, so a crash never takes back what a target has; and the target itself says how far it
//! is, so nothing is delivered twice. The thread is no worker's: a target that does not answer delays nobody. Several sinks may
//! share a thread and its transactions (`group.rs`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use storage::Batch;
use storage::table::StateTable;

use crate::clock::Notify;
use crate::dataflow::{decode_batch, encode_batch};
use crate::error::Result;
use crate::sink::Position;
use refused::Refusals;

mod delivery;
pub mod group;
mod refused;

pub use delivery::{Deliveries, Member};

/// Bytes of an entry in front of its batch: the number of rows and when they were sealed.
const HEAD_BYTES: usize = 16;

/// An outbox, as the operator on the workers, the coordinator and the delivery thread share it.
pub struct Outbox {
    entries: Mutex<BTreeMap<Position, Entry>>,
    /// Rows of entries that the target refuses.
    refusals: Mutex<BTreeMap<Position, Refusals>>,
    /// Bytes that may wait before the job takes no more.
    bytes_max: u64,
    /// The epoch that the checkpoint under way has the job at.
    noted: AtomicU64,
    /// The epoch up to which entries are durable.
    durable: AtomicU64,
    delivered: Mutex<Option<Position>>,
    /// Entries whose deletion no checkpoint has yet.
    trimmed: Mutex<Vec<(Position, Entry)>>,
    /// Wakes the thread: something can be delivered, or is not to be any more.
    wake: Mutex<Arc<Notify>>,
    /// Whether the thread of its group knows of it.
    joined: AtomicBool,
    /// In a group: what it puts in belongs to no earlier epoch, since the target may be there already.
    floor: AtomicU64,
    paused: AtomicBool,
    progress: Mutex<Progress>,
    rows: AtomicI64,
    bytes: AtomicI64,
}

/// What is known of an entry without reading it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rows: u64,
    bytes: u64,
    /// When it was sealed: microseconds since 1970.
    sealed: u64,
    /// The epoch of the job's step that put it in; 0 if that was before the server's start.
    step: u64,
}

/// What the delivery thread has done since the server started.
#[derive(Clone, Debug, Default)]
struct Progress {
    transactions: u64,
    rows: u64,
    retries: u64,
    refused: u64,
    /// The last error, and whether nothing was delivered since.
    error: Option<(String, bool)>,
}

/// How a sink's delivery stands.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SinkStatus {
    /// `running`, `retrying`, `full` or `paused`.
    pub state: &'static str,
    /// Rows that wait.
    pub rows_waiting: u64,
    /// Bytes that they take.
    pub bytes_waiting: u64,
    /// The epoch of the oldest change that waits.
    pub oldest_epoch: Option<u64>,
    /// For how long that waits.
    pub waiting: Duration,
    /// Up to where the target has everything, as far as it was asked.
    pub delivered: Option<u64>,
    /// Transactions since the server started.
    pub transactions: u64,
    /// Rows delivered since the server started.
    pub rows: u64,
    /// Failed attempts since the server started.
    pub retries: u64,
    /// Rows that the target refused since the server started.
    pub refused: u64,
    /// Why the last failed attempt failed.
    pub last_error: Option<String>,
}

impl Outbox {
    /// An outbox that holds what `table` does.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn open(table: &StateTable, durable: u64, bytes_max: u64, paused: bool) -> Result<Outbox> {
        let outbox = Outbox {
            entries: Mutex::default(),
            refusals: Mutex::default(),
            bytes_max,
            noted: AtomicU64::new(durable),
            durable: AtomicU64::new(durable),
            delivered: Mutex::new(None),
            trimmed: Mutex::default(),
            wake: Mutex::default(),
            joined: AtomicBool::new(false),
            floor: AtomicU64::new(0),
            paused: AtomicBool::new(paused),
            progress: Mutex::default(),
            rows: AtomicI64::new(0),
            bytes: AtomicI64::new(0),
        };
        if !table.is_new() {
            table.scan_all(&mut |vnode, key, value| {
                let corrupt = || storage::Error::Corrupt("an entry of a sink's outbox".into());
                let (epoch, rest) = key.split_first_chunk::<8>().ok_or_else(corrupt)?;
                let (number, rest) = rest.split_first_chunk::<8>().ok_or_else(corrupt)?;
                let position =
                    Position { epoch: u64::from_be_bytes(*epoch), vnode, number: u64::from_be_bytes(*number) };
                if rest == refused::KEY_END {
                    let refusals = Refusals::read(value).ok_or_else(corrupt)?;
                    outbox.refusals.lock().insert(position, refusals);
                    return Ok(());
                }
                let (rows, rest) = value.split_first_chunk::<8>().ok_or_else(corrupt)?;
                let sealed = rest.first_chunk::<8>().ok_or_else(corrupt)?;
                let (rows, sealed) = (u64::from_le_bytes(*rows), u64::from_le_bytes(*sealed));
                outbox.insert(position, Entry { rows, bytes: value.len() as u64, sealed, step: 0 });
                Ok(())
            })?;
        }
        outbox.raise_floor(outbox.newest());
        Ok(outbox)
    }

    fn insert(&self, position: Position, entry: Entry) {
        self.rows.fetch_add(entry.rows as i64, Ordering::Relaxed);
        self.bytes.fetch_add(entry.bytes as i64, Ordering::Relaxed);
        self.entries.lock().insert(position, entry);
    }

    /// The number of the next entry that a worker with this vnode writes.
    pub fn next_number(&self, vnode: u8) -> u64 {
        let entries = self.entries.lock();
        entries.keys().filter(|p| p.vnode == vnode).map(|p| p.number + 1).max().unwrap_or(0)
    }

    /// Puts changes into the outbox, in the job's step to the epoch `step`; a checkpoint at or behind that makes them durable.
    pub fn put(&self, table: &StateTable, position: Position, step: u64, changes: &Batch) {
        let sealed = now();
        let (rows, batch) = (changes.num_rows() as u64, encode_batch(changes));
        let value = [&rows.to_le_bytes()[..], &sealed.to_le_bytes(), &batch].concat();
        let bytes = value.len() as u64;
        table.put(position.vnode, &key(position), &value);
        self.insert(position, Entry { rows, bytes, sealed, step });
    }

    /// Whether so much waits that the job shall take no more. What it has taken already still comes.
    pub fn is_full(&self) -> bool {
        self.bytes_waiting() >= self.bytes_max
    }

    /// Bytes that may wait.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    fn bytes_waiting(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).max(0) as u64
    }

    /// Deletes what the target has of the entries in `table`, which are those of `vnodes`.
    pub fn trim(&self, table: &StateTable, vnodes: Range<usize>) {
        let Some(delivered) = *self.delivered.lock() else { return };
        let mut trimmed = self.trimmed.lock();
        self.entries.lock().retain(|position, entry| {
            let goes = *position <= delivered && vnodes.contains(&(position.vnode as usize));
            if goes {
                table.delete(position.vnode, &key(*position));
                self.forget_refused(table, *position);
                trimmed.push((*position, *entry));
            }
            !goes
        });
    }

    /// Whether there is something to trim or to write down, so that the job has a reason to be cut.
    pub fn wants_cut(&self) -> bool {
        if self.has_refused() {
            return true;
        }
        let Some(delivered) = *self.delivered.lock() else { return false };
        self.entries.lock().first_key_value().is_some_and(|(first, _)| *first <= delivered)
    }

    /// The job goes back to the last checkpoint that has it: what it put in since was never there, what it deleted is.
    pub fn rewind(&self) {
        let durable = self.durable.load(Ordering::Acquire);
        let mut entries = self.entries.lock();
        for (_, entry) in entries.extract_if(.., |_, entry| entry.step > durable) {
            self.rows.fetch_sub(entry.rows as i64, Ordering::Relaxed);
            self.bytes.fetch_sub(entry.bytes as i64, Ordering::Relaxed);
        }
        entries.extend(self.trimmed.lock().drain(..));
        drop(entries);
        self.rewind_refused(durable);
    }

    /// A checkpoint is being taken that has the job as of `epoch`.
    pub fn note(&self, epoch: u64) {
        // What was trimmed up to the cut is deleted with it; what is trimmed later is in the next one.
        self.trimmed.lock().clear();
        self.noted.store(epoch, Ordering::Release);
    }

    /// That checkpoint is durable.
    pub fn committed(&self) {
        let noted = self.noted.load(Ordering::Acquire);
        if self.durable.fetch_max(noted, Ordering::AcqRel) < noted {
            self.notify();
        }
    }

    /// Lets the thread look whether something can be delivered.
    pub fn notify(&self) {
        self.wake.lock().notify();
    }

    /// Holds deliveries, or lets them go on.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Release);
        self.notify();
    }

    /// Whether deliveries are held.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// The target has everything up to here.
    fn delivered(&self, until: Position) {
        let mut delivered = self.delivered.lock();
        let before = *delivered;
        if before.is_none_or(|before| before < until) {
            *delivered = Some(until);
            let entries = self.entries.lock();
            for (position, entry) in entries.range(..=until) {
                if before.is_none_or(|before| *position > before) {
                    self.rows.fetch_sub(entry.rows as i64, Ordering::Relaxed);
                    self.bytes.fetch_sub(entry.bytes as i64, Ordering::Relaxed);
                }
            }
        }
    }

    /// The durable entries that the target does not have, oldest first, of at most about `rows_max` rows, but those of one
    /// epoch are taken together up to `epoch_rows_max`.
    fn next(&self, rows_max: u64, epoch_rows_max: u64) -> Vec<(Position, u64)> {
        let durable = self.durable.load(Ordering::Acquire);
        let delivered = *self.delivered.lock();
        let mut taken: Vec<(Position, u64)> = Vec::new();
        let mut rows = 0;
        for (position, entry) in self.entries.lock().iter() {
            if position.epoch > durable {
                break;
            }
            if delivered.is_some_and(|delivered| *position <= delivered) {
                continue;
            }
            if self.is_in_question(*position, durable) {
                break;
            }
            if let Some((last, _)) = taken.last() {
                let max = if last.epoch == position.epoch { epoch_rows_max } else { rows_max };
                if rows + entry.rows > max {
                    break;
                }
            }
            rows += entry.rows;
            taken.push((*position, entry.rows));
        }
        taken
    }

    /// How delivery stands.
    pub fn status(&self) -> SinkStatus {
        let delivered = *self.delivered.lock();
        let oldest = {
            let entries = self.entries.lock();
            let waits = |(position, _): &(&Position, &Entry)| delivered.is_none_or(|d| **position > d);
            entries.iter().find(waits).map(|(position, entry)| (position.epoch, entry.sealed))
        };
        let progress = self.progress.lock().clone();
        let retrying = progress.error.as_ref().is_some_and(|(_, now)| *now);
        SinkStatus {
            state: if self.is_paused() {
                "paused"
            } else if self.is_full() {
                "full"
            } else if retrying {
                "retrying"
            } else {
                "running"
            },
            rows_waiting: self.rows.load(Ordering::Relaxed).max(0) as u64,
            bytes_waiting: self.bytes_waiting(),
            oldest_epoch: oldest.map(|(epoch, _)| epoch),
            waiting: oldest.map_or(Duration::ZERO, |(_, at)| Duration::from_micros(now().saturating_sub(at))),
            delivered: delivered.map(|position| position.epoch),
            transactions: progress.transactions,
            rows: progress.rows,
            retries: progress.retries,
            refused: progress.refused,
            last_error: progress.error.map(|(error, _)| error),
        }
    }
}

/// The changes of an entry, all of them.
fn read(table: &StateTable, position: Position) -> Result<Batch> {
    let value = table.get(position.vnode, &key(position))?;
    let value = value.filter(|value| value.len() >= HEAD_BYTES);
    let value = value.ok_or_else(|| storage::Error::Corrupt("a sink's outbox lacks an entry".into()))?;
    decode_batch(&value[HEAD_BYTES..])
}

fn key(position: Position) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&position.epoch.to_be_bytes());
    key[8..].copy_from_slice(&position.number.to_be_bytes());
    key
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// How an outbox is opened again: its table in `store`.
pub(crate) fn table(
    store: &Arc<storage::Store>,
    spec: &crate::spec::JobSpec,
) -> Result<(StateTable, storage::table::DirtyHandle)> {
    let node = spec.plan.nodes.len() as u32;
    Ok(store.table(storage::table::TableId::new(spec.relation, node, 0), 0, 1)?)
}

#[cfg(test)]
mod tests;
