//! The outbox and its thread against a target that fails.

use std::sync::atomic::AtomicUsize;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, Field, Schema};
use storage::table::{DirtyHandle, TableId};
use storage::{Checkpoint, Epoch, RelationId, Store, StoreOptions};

use super::*;
use crate::error::Error;
use crate::sink::{Changes, Delivered, Delivery, Refused, Sink};

fn batch(values: &[i64]) -> Batch {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    Batch::new(RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values.to_vec()))]).expect("a column"), None)
}

/// Keeps values and a position in one step, refuses 13, as a target with transactions does; every third attempt fails, half of those
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
    fn deliver(&mut self, changes: &mut Changes<'_>, until: Position) -> Result<Delivered> {
        let attempt = self.0.attempts.fetch_add(1, Ordering::Relaxed);
        if attempt % 6 == 1 {
            return Err(Error::Unavailable("before".into()));
        }
        let (mut values, mut refused) = (Vec::new(), Vec::new());
        for (batch, change) in changes.enumerate() {
            let (_, change) = change?;
            let new = change.column(0).as_primitive::<Int64Type>().values();
            let bad = new.iter().enumerate().filter(|(_, value)| **value == 13).map(|(row, _)| Refused {
                batch,
                rows: vec![row],
                raw: b"13".to_vec(),
                reason: "bad luck".into(),
                sqlstate: "22000".into(),
            });
            refused.extend(bad);
            values.extend(new.iter().copied());
        }
        if !refused.is_empty() {
            return Ok(Delivered::Refused(refused));
        }
        let mut kept = self.0.kept.lock();
        kept.0.extend(values);
        kept.1 = Some(until);
        if attempt % 6 == 4 { Err(Error::Unavailable("after".into())) } else { Ok(Delivered::All) }
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
    fn put(&self, epoch: u64, number: u64, values: &[i64]) {
        self.outbox.put(&self.table, Position { epoch, vnode: 0, number }, epoch, &batch(values));
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
        deliveries.start("s", "s", None, vec![Member { outbox: self.outbox.clone(), table }], sink);
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
                f.put(epoch, number as u64, &values);
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
        f.put(epoch + 1, 0, &[666]);
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
    f.put(2, 0, &[1]);
    f.checkpoint(2);
    f.put(3, 0, &[2]);
    assert_eq!(f.outbox.status().state, "paused");
    assert_eq!(f.outbox.next(100, 100).len(), 1);
    f.outbox.pause(false);
    until(|| f.outbox.status().rows_waiting == 1);
    assert_eq!(target.kept.lock().0, [1]);
    f.checkpoint(3);
    until(|| f.outbox.status().rows_waiting == 0);
    assert_eq!(target.kept.lock().0, [1, 2]);
    assert!(f.outbox.wants_cut());
    f.outbox.trim(&f.table, 0..256);
    assert!(!f.outbox.wants_cut());
    f.checkpoint(4);
    deliveries.stop();
    drop(f);
    assert_eq!(open(dir.path(), 1 << 30).outbox.status().rows_waiting, 0);
}

#[test]
fn a_full_outbox_says_so_until_some_of_it_has_left() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = open(dir.path(), 4096);
    let many: Vec<i64> = (100..200).collect();
    let mut n = 0;
    while !f.outbox.is_full() {
        f.put(2, n, &many);
        n += 1;
    }
    assert_eq!((f.outbox.status().state, f.outbox.status().rows_waiting), ("full", n * 100));
    f.checkpoint(2);
    drop(f);
    let f = open(dir.path(), 4096);
    assert_eq!((f.outbox.status().rows_waiting, f.outbox.next(1_000_000, 1_000_000).len()), (n * 100, n as usize));
    assert!(f.outbox.is_full());
    let deliveries = f.deliver(&Arc::new(Target::default()));
    until(|| f.outbox.status().state == "running" && !f.outbox.is_full());
    deliveries.stop();
}

#[test]
fn transactions_are_bounded_and_keep_epochs_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let f = open(dir.path(), 1 << 30);
    for (epoch, number) in [(2, 0), (2, 1), (3, 0), (3, 1), (4, 0)] {
        f.put(epoch, number, &[0; 10]);
    }
    f.checkpoint(4);
    let epochs = |rows, epoch_rows| f.outbox.next(rows, epoch_rows).iter().map(|(p, _)| p.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(20, 100), [2, 2]);
    assert_eq!(epochs(30, 100), [2, 2, 3, 3]);
    assert_eq!(epochs(10, 10), [2]);
    assert_eq!(epochs(1000, 1000), [2, 2, 3, 3, 4]);
}

#[test]
fn what_is_refused_is_set_aside_once_and_the_rest_arrives_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let target = Arc::new(Target::default());
    let mut epoch = 10;
    let mut expected = Vec::new();
    let mut set_aside = 0;
    for restart in 0..3 {
        let f = open(dir.path(), 1 << 30);
        let deliveries = f.deliver(&target);
        epoch += 1;
        for (number, values) in [[1, 13, 2], [3, 4, 5], [13, 13, 6]].into_iter().enumerate() {
            let values = values.map(|value| if value == 13 { 13 } else { value + 100 * epoch as i64 });
            f.put(epoch, number as u64, &values);
            expected.extend(values.into_iter().filter(|value| *value != 13));
        }
        f.checkpoint(epoch);
        until(|| f.outbox.has_refused());
        if restart == 1 {
            // Found, and the server ends before that is durable: it is found again.
            f.outbox.write_refused(&f.table, 0..256, epoch + 1);
        } else {
            epoch += 1;
            set_aside += f.outbox.write_refused(&f.table, 0..256, epoch).len();
            assert!(!f.outbox.has_refused());
            f.checkpoint(epoch);
            until(|| f.outbox.status().rows_waiting == 0 || f.outbox.has_refused());
            while f.outbox.status().rows_waiting > 0 {
                epoch += 1;
                set_aside += f.outbox.write_refused(&f.table, 0..256, epoch).len();
                f.checkpoint(epoch);
                until(|| f.outbox.status().rows_waiting == 0 || f.outbox.has_refused());
            }
        }
        if restart == 2 {
            f.outbox.trim(&f.table, 0..256);
            f.checkpoint(epoch + 1);
        }
        deliveries.stop();
        epoch += 5;
    }
    assert_eq!(target.kept.lock().0, expected);
    assert_eq!(set_aside, 9);
    let f = open(dir.path(), 1 << 30);
    let mut left = 0;
    f.table.scan_all(&mut |_, _, _| Ok(left += 1)).expect("readable");
    assert_eq!(left, 0, "a trimmed entry leaves what is known of it behind");
}

#[test]
fn a_group_goes_from_point_to_point() {
    let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let fixtures = [open(one.path(), 1 << 30), open(other.path(), 1 << 30)];
    let [a, b] = &fixtures;
    for (f, epoch, number, rows) in [(a, 3, 0, 2), (b, 5, 0, 3), (a, 8, 1, 1), (b, 9, 1, 1), (b, 11, 2, 1)] {
        f.put(epoch, number, &vec![1; rows]);
    }
    let member = |f: &Fixture| {
        let (table, _) = f.store.table(TableId::new(RelationId(7), 1, 0), 0, 1).expect("a table");
        Member { outbox: f.outbox.clone(), table }
    };
    let members = [member(a), member(b)];
    let mut points = group::Points::default();
    let next = |points: &group::Points, rows| {
        let (entries, until) = group::next(&members, points, rows)?;
        Some((entries.iter().map(|(place, position, _)| (*place, position.epoch)).collect::<Vec<_>>(), until.epoch))
    };
    assert_eq!(next(&points, 100), None, "no checkpoint has all of them");
    for point in [6, 10] {
        points = group::Points::read(&points.with(point)).expect("as it was written");
    }
    fixtures.iter().for_each(|f| f.checkpoint(11));
    // Of the first point whatever it has; both if they have room.
    assert_eq!(next(&points, 1), Some((vec![(0, 3), (1, 5)], 6)));
    assert_eq!(next(&points, 100), Some((vec![(0, 3), (1, 5), (0, 8), (1, 9)], 10)));
    // What is refused of one holds that point, and not the one before.
    let refused = Refused { batch: 0, rows: vec![0], raw: vec![], reason: "no".into(), sqlstate: "22000".into() };
    let position = Position { epoch: 8, vnode: 0, number: 1 };
    a.outbox.refuse(&a.table, position, &[&refused]).expect("an entry");
    assert_eq!(next(&points, 100), Some((vec![(0, 3), (1, 5)], 6)));
    let until = Position { epoch: 6, vnode: u8::MAX, number: u64::MAX };
    fixtures.iter().for_each(|f| f.outbox.delivered(until));
    points.passed(6);
    assert_eq!(next(&points, 100), None);
    a.outbox.write_refused(&a.table, 0..256, 12);
    a.checkpoint(12);
    assert_eq!(next(&points, 100), Some((vec![(0, 8), (1, 9)], 10)));
    // The last point stays known when it is passed: what comes is behind it.
    points.passed(10);
    assert_eq!((points.last(), next(&points, 100)), (10, Some((vec![(0, 8), (1, 9)], 10))));
}

#[test]
fn points_have_a_bound_and_the_last_one_stays() {
    let points = group::Points::default();
    (1..=5000).for_each(|point| points.add(point));
    assert!(points.with(5001).len() / 8 <= 1026, "{}", points.with(5001).len());
    assert_eq!(points.last(), 5000);
}
