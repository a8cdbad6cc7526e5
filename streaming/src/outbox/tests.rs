//! The outbox and its thread against a target that fails.

use std::sync::atomic::AtomicUsize;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, Field, Schema};
use storage::table::{DirtyHandle, TableId};
use storage::{Checkpoint, Epoch, RelationId, Store, StoreOptions};

use super::*;
use crate::error::Error;
use crate::sink::{Delivery, Sink};

fn batch(values: &[i64]) -> Batch {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    Batch::new(RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).expect("a column"), None)
}

/// Keeps values and a position in one step, as a target with transactions does; every third attempt fails, half of those
/// after the step: then the answer is lost, not the transaction.
#[derive(Default)]
struct Target {
    kept: Mutex<(Vec<i64>, Option<Position>)>,
    attempts: AtomicUsize,
}

struct Connection(Arc<Target>);

struct TargetSink(Arc<Target>);

impl Sink for TargetSink {
    fn prepare(&self) -> Result<()> {
        Ok(())
    }
    fn connect(&self) -> Result<Box<dyn Delivery>> {
        Ok(Box::new(Connection(self.0.clone())))
    }
}

impl Delivery for Connection {
    fn position(&self) -> Option<Position> {
        self.0.kept.lock().1
    }
    fn deliver(&mut self, changes: &mut dyn Iterator<Item = Result<Batch>>, until: Position) -> Result<()> {
        let attempt = self.0.attempts.fetch_add(1, Ordering::Relaxed);
        if attempt % 6 == 1 {
            return Err(Error::Unavailable("before".into()));
        }
        let mut values: Vec<i64> = Vec::new();
        for change in changes {
            values.extend(change?.column(0).as_primitive::<Int64Type>().values());
        }
        let mut kept = self.0.kept.lock();
        kept.0.extend(values);
        kept.1 = Some(until);
        if attempt % 6 == 4 { Err(Error::Unavailable("after".into())) } else { Ok(()) }
    }
}

struct Fixture {
    store: Arc<Store>,
    table: StateTable,
    dirty: DirtyHandle,
    outbox: Arc<Outbox>,
}

fn open(dir: &std::path::Path, bytes_max: u64) -> Fixture {
    let store = Store::open(dir, StoreOptions::default()).expect("a store");
    let (table, dirty) = store.table(TableId::new(RelationId(7), 1, 0), 0, 1).expect("a table");
    let durable = store.last_checkpoint().0;
    let outbox = Arc::new(Outbox::open(&table, durable, bytes_max, false).expect("readable"));
    Fixture { store, table, dirty, outbox }
}

impl Fixture {
    fn put(&self, epoch: u64, number: u64, values: &[i64]) -> bool {
        self.outbox.put(&self.table, Position { epoch, vnode: 0, number }, &batch(values))
    }

    fn checkpoint(&self, epoch: u64) {
        self.outbox.note(epoch);
        let dirty = self.dirty.take().into_iter().collect();
        self.store.checkpoint(Checkpoint { epoch: Epoch(epoch), dirty, ..Default::default() }).expect("room");
        self.outbox.committed();
    }

    fn deliver(&self, target: &Arc<Target>) -> Deliveries {
        let deliveries = Deliveries::default();
        let (table, _) = self.store.table(TableId::new(RelationId(7), 1, 0), 0, 1).expect("a table");
        let sink = Arc::new(TargetSink(target.clone()));
        deliveries.start(RelationId(7), "s", self.outbox.clone(), table, sink);
        deliveries
    }
}

fn until(what: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn everything_arrives_once_and_in_order_through_errors_and_restarts() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = Arc::new(Target::default());
    let mut expected = Vec::new();
    let mut epoch = 10;
    for restart in 0..3 {
        let f = open(dir.path(), 1 << 30);
        let deliveries = f.deliver(&target);
        for _ in 0..8 {
            epoch += 1;
            for number in 0..2 {
                let values = [epoch as i64 * 10 + number, -1];
                assert!(f.put(epoch, number as u64, &values));
                expected.extend(values);
            }
            f.checkpoint(epoch);
        }
        until(|| f.outbox.status().rows_waiting == 0);
        if restart > 0 {
            f.outbox.trim(&f.table, 0..256);
            f.checkpoint(epoch);
        }
        // Never made durable: it must not leave.
        assert!(f.put(epoch + 1, 0, &[666]));
        deliveries.stop();
        drop((f, deliveries));
        epoch += 5;
    }
    assert_eq!(target.kept.lock().0, expected);
    assert!(target.attempts.load(Ordering::Relaxed) > 6);
}

#[test]
fn nothing_leaves_before_it_is_durable_nor_while_it_is_paused() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = Arc::new(Target::default());
    let f = open(dir.path(), 1 << 30);
    f.outbox.pause(true);
    let deliveries = f.deliver(&target);
    assert!(f.put(2, 0, &[1]));
    f.checkpoint(2);
    assert!(f.put(3, 0, &[2]));
    assert_eq!(f.outbox.status().state, "paused");
    assert_eq!(f.outbox.next(100, 100).len(), 1);
    f.outbox.pause(false);
    until(|| f.outbox.status().rows_waiting == 1);
    assert_eq!(target.kept.lock().0, [1]);
    f.checkpoint(3);
    until(|| f.outbox.status().rows_waiting == 0);
    assert_eq!(target.kept.lock().0, [1, 2]);
    assert!(f.outbox.wants_trim());
    f.outbox.trim(&f.table, 0..256);
    assert!(!f.outbox.wants_trim());
    f.checkpoint(4);
    deliveries.stop();
    drop(f);
    assert_eq!(open(dir.path(), 1 << 30).outbox.status().rows_waiting, 0);
}

#[test]
fn a_full_outbox_takes_no_more_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = open(dir.path(), 4096);
    let many: Vec<i64> = (0..100).collect();
    let mut n = 0;
    while f.put(2, n, &many) {
        n += 1;
    }
    assert!(n > 0 && f.outbox.status().bytes_waiting <= 4096);
    assert_eq!(f.outbox.status().rows_waiting, n * 100);
    f.checkpoint(2);
    drop(f);
    let f = open(dir.path(), 4096);
    assert_eq!((f.outbox.status().rows_waiting, f.outbox.next(1_000_000, 1_000_000).len()), (n * 100, n as usize));
}

#[test]
fn transactions_are_bounded_and_keep_epochs_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = open(dir.path(), 1 << 30);
    for (epoch, number) in [(2, 0), (2, 1), (3, 0), (3, 1), (4, 0)] {
        assert!(f.put(epoch, number, &[0; 10]));
    }
    f.checkpoint(4);
    let epochs = |rows, epoch_rows| f.outbox.next(rows, epoch_rows).iter().map(|(p, _)| p.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(20, 100), [2, 2]);
    assert_eq!(epochs(30, 100), [2, 2, 3, 3]);
    assert_eq!(epochs(10, 10), [2]);
    assert_eq!(epochs(1000, 1000), [2, 2, 3, 3, 4]);
}
