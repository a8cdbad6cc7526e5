//! An inbox: the published changes that one reader of a tap has not taken yet, on one worker.
//!
//! ```text
//!  push ─▶ in memory ─▶ spilled to a file once the inboxes of all jobs pass their budget ─▶ pop
//!               └─────▶ stored with a checkpoint that is taken while it waits: epoch u64 BE | number u64 BE -> batch
//! ```
//!
//! What waits is a part of the checkpoint like any state: the reader is cut where it is, and after a restart finds what
//! had come for it meanwhile. So neither a checkpoint nor what is read waits for a reader that is behind.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use storage::table::StateTable;
use storage::{Batch, failpoint};

use crate::dataflow::{decode_batch, encode_batch};
use crate::error::{Error, Result};
use crate::job::JobControl;
use crate::operators::TapReader;

/// Bytes that one inbox keeps in memory whatever the others do: a reader that keeps up is never slowed by one that does
/// not.
const INBOX_BYTES_KEPT: usize = 1 << 20;
/// What waits for one reader on one worker, oldest first.
pub struct Inbox {
    deliveries: VecDeque<Delivery>,
    reader: Arc<JobControl>,
    /// The columns that the reader takes, and how it names them.
    columns: Vec<usize>,
    /// Whether it takes a table's history instead of its changes; see [`TapReader::history`].
    ///
    /// [`TapReader::history`]: crate::operators::TapReader::history
    pub history: bool,
    schema: SchemaRef,
    table: StateTable,
    /// The number of the next delivery that is stored.
    next: u64,
    spill: Spill,
    rows: usize,
    /// Bytes in memory.
    bytes: usize,
}

struct Delivery {
    epoch: u64,
    rows: usize,
    content: Content,
    /// Where it is stored, once a checkpoint holds it.
    stored: Option<(u8, [u8; 16])>,
}

enum Content {
    Memory {
        batch: Batch,
        bytes: usize,
    },
    Spilled {
        at: u64,
        len: usize,
    },
    /// In the state table only.
    Stored,
}

impl Inbox {
    /// The inbox of one of `reader`'s leaves with what was waiting at the last checkpoint. It spills into `dir`.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn open(reader: Arc<JobControl>, tap: &TapReader, table: StateTable, dir: PathBuf) -> Result<Inbox> {
        let schema = tap.schema.clone();
        let mut inbox = Inbox {
            deliveries: VecDeque::new(),
            reader,
            columns: tap.columns.clone(),
            history: tap.history.is_some(),
            schema,
            table,
            next: 0,
            spill: Spill { dir, file: None, end: 0, waiting: 0 },
            rows: 0,
            bytes: 0,
        };
        if !inbox.table.is_new() {
            inbox.restore()?;
        }
        Ok(inbox)
    }

    fn restore(&mut self) -> Result<()> {
        let mut found = Vec::new();
        self.table.scan(&mut |vnode, key, value| {
            let corrupt = || storage::Error::Corrupt("what waited for a reader of a tap".into());
            let key: [u8; 16] = key.try_into().map_err(|_| corrupt())?;
            let rows = value.first_chunk().ok_or_else(corrupt)?;
            found.push((vnode, key, u64::from_le_bytes(*rows) as usize));
            Ok(())
        })?;
        found.sort_unstable_by_key(|(_, key, _)| *key);
        for (vnode, key, rows) in found {
            let half = |at: usize| u64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"));
            self.next = self.next.max(half(8) + 1);
            self.add(Delivery { epoch: half(0), rows, content: Content::Stored, stored: Some((vnode, key)) });
        }
        Ok(())
    }

    /// Takes a published batch of the relation; `projection` says which of its columns it has, if not all.
    pub fn push(&mut self, epoch: u64, batch: &Batch, projection: Option<&[usize]>) {
        match self.project(batch, projection) {
            Ok(batch) => self.give(epoch, batch),
            // Read before the source's readers took up the columns of this one, which begins behind it: it reads those
            // records itself, or skips them.
            Err(_) if self.reader.target.load(Ordering::Acquire) == 0 => {}
            Err(error) => self.reader.fail(error.to_string()),
        }
    }

    fn project(&self, batch: &Batch, projection: Option<&[usize]>) -> Result<Batch> {
        let place = |column: &usize| match projection {
            None => Ok(*column),
            Some(projection) => projection.binary_search(column),
        };
        let places: std::result::Result<Vec<usize>, usize> = self.columns.iter().map(place).collect();
        let places =
            places.map_err(|_| Error::Failed("the source's reader does not read a column that is needed".into()))?;
        // A history has two columns behind those of the table.
        let behind = if self.history { batch.data().num_columns() - 2..batch.data().num_columns() } else { 0..0 };
        let columns = places.into_iter().chain(behind).map(|c| batch.column(c).clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let data = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(Batch::new(data, batch.diffs().cloned()))
    }

    /// Takes a batch that has the reader's columns already.
    pub fn give(&mut self, epoch: u64, batch: Batch) {
        let (content, rows) = self.content(batch);
        self.add(Delivery { epoch, rows, content, stored: None });
    }

    /// Forgets what came of epochs after `epoch`.
    pub fn forget_after(&mut self, epoch: u64) {
        let keep = self.deliveries.partition_point(|d| d.epoch <= epoch);
        for delivery in self.deliveries.split_off(keep) {
            self.rows -= delivery.rows;
            self.reader.rows_waiting.fetch_sub(delivery.rows as i64, Ordering::Relaxed);
            if let Some(waiting) = self.reader.waiting.lock().get_mut(&delivery.epoch) {
                *waiting = waiting.saturating_sub(delivery.rows);
            }
            self.release(&delivery.content);
            if let Some((vnode, key)) = &delivery.stored {
                self.table.delete(*vnode, key);
            }
        }
    }

    /// In memory if there is room, else in the file, if that has room.
    fn content(&mut self, batch: Batch) -> (Content, usize) {
        let (rows, bytes) = (batch.num_rows(), batch.bytes());
        if self.is_over_budget(bytes) || failpoint::is_wanted("inbox/spill") {
            match self.spill.write(&encode_batch(&batch)) {
                Ok((at, len)) => {
                    self.reader.clock.spilled_bytes.fetch_add(len as i64, Ordering::Relaxed);
                    return (Content::Spilled { at, len }, rows);
                }
                // A full disk: memory is all that is left, and sources pause above the budget.
                Err(error) => tracing::warn!(job = self.reader.name, "an inbox cannot be spilled: {error}"),
            }
        }
        self.bytes += bytes;
        self.count(bytes as i64);
        (Content::Memory { batch, bytes }, rows)
    }

    /// Whether `bytes` more are too much for memory.
    fn is_over_budget(&self, bytes: usize) -> bool {
        self.reader.memory.inboxes_are_over(bytes)
            || self.reader.clock.memory.inboxes_are_over() && self.bytes + bytes > INBOX_BYTES_KEPT
    }

    fn count(&self, bytes: i64) {
        self.reader.memory.inboxes.fetch_add(bytes, Ordering::Relaxed);
        self.reader.clock.memory.inboxes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn add(&mut self, delivery: Delivery) {
        self.rows += delivery.rows;
        self.reader.rows_waiting.fetch_add(delivery.rows as i64, Ordering::Relaxed);
        *self.reader.waiting.lock().entry(delivery.epoch).or_default() += delivery.rows;
        self.deliveries.push_back(delivery);
    }

    /// Rows that wait.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many of the deliveries up to `target` there are, and whether they are of several epochs.
    pub fn waiting(&self, target: u64) -> (usize, bool) {
        let count = self.deliveries.partition_point(|d| d.epoch <= target);
        (count, count > 0 && self.deliveries[0].epoch != self.deliveries[count - 1].epoch)
    }

    /// The oldest delivery, with its epoch, if that is at most `target`.
    ///
    /// # Errors
    /// If what was spilled or stored cannot be read back.
    pub fn pop(&mut self, target: u64) -> Result<Option<(u64, Batch)>> {
        if self.deliveries.front().is_none_or(|d| d.epoch > target) {
            return Ok(None);
        }
        let delivery = self.deliveries.pop_front().expect("the front");
        self.rows -= delivery.rows;
        self.reader.rows_waiting.fetch_sub(delivery.rows as i64, Ordering::Relaxed);
        let batch = match &delivery.content {
            Content::Memory { batch, .. } => batch.clone(),
            Content::Spilled { at, len } => self.decode(&self.spill.read(*at, *len)?)?,
            Content::Stored => self.decode(&self.stored(&delivery)?)?,
        };
        self.release(&delivery.content);
        if let Some((vnode, key)) = &delivery.stored {
            self.table.delete(*vnode, key);
        }
        Ok(Some((delivery.epoch, batch)))
    }

    fn stored(&self, delivery: &Delivery) -> Result<Vec<u8>> {
        let (vnode, key) = delivery.stored.as_ref().expect("stored");
        let value = self.table.get(*vnode, key)?;
        let lost = || storage::Error::Corrupt("what waited for a reader of a tap is gone".into());
        Ok(value.ok_or_else(lost)?.split_off(8))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Batch> {
        let batch = decode_batch(bytes)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.data().columns().to_vec();
        let data = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?;
        Ok(Batch::new(data, batch.diffs().cloned()))
    }

    /// Gives back the room that `content` took.
    fn release(&mut self, content: &Content) {
        match content {
            Content::Memory { bytes, .. } => {
                self.bytes -= bytes;
                self.count(-(*bytes as i64));
            }
            Content::Spilled { len, .. } => {
                self.spill.forget();
                self.reader.clock.spilled_bytes.fetch_sub(*len as i64, Ordering::Relaxed);
            }
            Content::Stored => {}
        }
    }

    /// Puts what waits, up to `limit`, into the state table, for the checkpoint that the reader is being cut for.
    ///
    /// # Errors
    /// If what was spilled cannot be read back.
    pub fn store(&mut self, limit: u64) -> Result<()> {
        let vnode = self.table.vnodes().start as u8;
        for i in 0..self.deliveries.partition_point(|d| d.epoch <= limit) {
            let delivery = &self.deliveries[i];
            if delivery.stored.is_some() {
                continue;
            }
            let bytes = match &delivery.content {
                Content::Memory { batch, .. } => encode_batch(batch),
                Content::Spilled { at, len } => self.spill.read(*at, *len)?,
                Content::Stored => unreachable!("has no place"),
            };
            let mut key = [0; 16];
            key[..8].copy_from_slice(&delivery.epoch.to_be_bytes());
            key[8..].copy_from_slice(&self.next.to_be_bytes());
            self.next += 1;
            let value = [&(delivery.rows as u64).to_le_bytes()[..], &bytes].concat();
            self.table.put(vnode, &key, &value);
            self.deliveries[i].stored = Some((vnode, key));
            // One copy is enough where memory is short or the disk has it anyway.
            if self.is_over_budget(0) || matches!(self.deliveries[i].content, Content::Spilled { .. }) {
                let content = std::mem::replace(&mut self.deliveries[i].content, Content::Stored);
                self.release(&content);
            }
        }
        Ok(())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.reader.rows_waiting.fetch_sub(self.rows as i64, Ordering::Relaxed);
        for delivery in std::mem::take(&mut self.deliveries) {
            self.release(&delivery.content);
        }
    }
}

/// A file without a name: it goes with the process.
struct Spill {
    dir: PathBuf,
    file: Option<File>,
    end: u64,
    /// Deliveries in the file that are still waited for.
    waiting: usize,
}

impl Spill {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<(u64, usize)> {
        if self.file.is_none() {
            self.file = Some(tempfile::tempfile_in(&self.dir)?);
        }
        let at = self.end;
        let file = self.file.as_ref().expect("just opened");
        failpoint::around("inbox/spill", || file.write_all_at(bytes, at))?;
        self.end += bytes.len() as u64;
        self.waiting += 1;
        Ok((at, bytes.len()))
    }

    fn read(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let unreadable = |error| Error::Failed(format!("what an inbox has spilled cannot be read: {error}"));
        self.file.as_ref().expect("written before").read_exact_at(&mut bytes, at).map_err(unreadable)?;
        Ok(bytes)
    }

    /// One delivery is taken; the file is emptied with the last one.
    fn forget(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.end = 0;
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow_schema::{DataType, Field, Schema};
    use storage::table::TableId;
    use storage::{RelationId, Store, StoreOptions};

    use super::*;
    use crate::clock::Clock;

    fn batch(values: &[i64]) -> Batch {
        let schema =
            Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Int64, true)]));
        let a = Int64Array::from(values.to_vec());
        let b = Int64Array::from_iter_values(values.iter().map(|v| v * 10));
        Batch::new(RecordBatch::try_new(schema, vec![Arc::new(a), Arc::new(b)]).expect("two columns"), None)
    }

    fn tap(column: usize) -> TapReader {
        TapReader {
            relation: RelationId(1),
            name: "t".into(),
            columns: vec![column],
            append_only: true,
            history: None,
            watermarks: vec![],
            schema: Arc::new(Schema::new(vec![Field::new("c1", DataType::Int64, true)])),
        }
    }

    fn values(batch: &Batch) -> Vec<i64> {
        use arrow::array::AsArray;
        batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec()
    }

    #[test]
    fn spills_past_the_budget_and_hands_everything_out_in_order() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(dir.path(), StoreOptions::default()).expect("a store");
        let control = Arc::new(JobControl::new(RelationId(7), "v".into(), Arc::new(Clock::new(2))));
        let (table, _) = store.table(TableId::new(RelationId(7), 1, 0), 0, 1).expect("a table");
        let mut inbox = Inbox::open(control.clone(), &tap(1), table, dir.path().to_owned()).expect("an inbox");
        let many: Vec<i64> = (0..100_000).collect();
        inbox.push(2, &batch(&many), None);
        // Another job's inbox takes all the memory that there is.
        control.clock.memory.inboxes.fetch_add(control.clock.memory.inboxes_max() as i64, Ordering::Relaxed);
        inbox.push(3, &batch(&many), None);
        inbox.push(3, &batch(&[5]), Some(&[0, 1]));
        assert!(control.clock.spilled_bytes.load(Ordering::Relaxed) > 100_000 * 8);
        assert_eq!(inbox.waiting(3), (3, true));
        let mut taken = Vec::new();
        while let Some((epoch, batch)) = inbox.pop(3).expect("readable") {
            taken.push((epoch, values(&batch).len(), values(&batch)[0]));
        }
        assert_eq!(taken, [(2, 100_000, 0), (3, 100_000, 0), (3, 1, 50)]);
        assert_eq!(control.clock.spilled_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(control.clock.memory.inboxes.load(Ordering::Relaxed), control.clock.memory.inboxes_max() as i64);
        assert_eq!(control.rows_waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_waits_at_a_checkpoint_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let id = TableId::new(RelationId(7), 1, 0);
        let control = || Arc::new(JobControl::new(RelationId(7), "v".into(), Arc::new(Clock::new(2))));
        let open = |store: &Arc<Store>| {
            let (table, dirty) = store.table(id, 0, 1).expect("a table");
            (Inbox::open(control(), &tap(0), table, dir.path().to_owned()).expect("an inbox"), dirty)
        };
        let store = Store::open(dir.path(), StoreOptions::default()).expect("a store");
        let write = |store: &Arc<Store>, epoch: u64, dirty: &storage::table::DirtyHandle| {
            let dirty = dirty.take().into_iter().collect();
            let checkpoint = storage::Checkpoint { epoch: storage::Epoch(epoch), dirty, ..Default::default() };
            store.checkpoint(checkpoint).expect("room");
        };
        {
            let (mut inbox, dirty) = open(&store);
            inbox.push(2, &batch(&[1]), None);
            inbox.push(4, &batch(&[2, 3]), None);
            inbox.push(6, &batch(&[4]), None);
            assert_eq!(values(&inbox.pop(2).expect("readable").expect("one").1), [1]);
            inbox.store(4).expect("stored");
            write(&store, 5, &dirty);
        }
        {
            // What came after the limit is published again by who was cut there.
            let (mut inbox, dirty) = open(&store);
            assert_eq!(inbox.rows(), 2);
            inbox.push(6, &batch(&[4]), None);
            let (epoch, batch) = inbox.pop(9).expect("readable").expect("one");
            assert_eq!((epoch, values(&batch)), (4, vec![2, 3]));
            inbox.store(6).expect("stored");
            write(&store, 7, &dirty);
        }
        let (mut inbox, _) = open(&store);
        let (epoch, batch) = inbox.pop(9).expect("readable").expect("one");
        assert_eq!((epoch, values(&batch)), (6, vec![4]));
        assert!(inbox.pop(9).expect("readable").is_none());
    }
}
