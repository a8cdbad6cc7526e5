//! A relation against a multiset of rows per epoch, under random histories.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::*;
use storage::{
    Batch, Checkpoint, Epoch, Relation, RelationId, RelationSnapshot, RelationSpec, SortOption, Store, keys,
};

use crate::open;

type Row = (Option<i64>, Option<String>, i64);
type Rows = BTreeMap<Row, i64>;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("t", DataType::Utf8View, true),
        Field::new("v", DataType::Int64, true),
    ]))
}

fn batch(rows: &[(Row, i64)]) -> Batch {
    let k: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|((k, ..), _)| *k)));
    let t: ArrayRef = Arc::new(StringViewArray::from_iter(rows.iter().map(|((_, t, _), _)| t.as_deref())));
    let v: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|((.., v), _)| *v)));
    let diffs = Int64Array::from_iter_values(rows.iter().map(|(_, d)| *d));
    Batch::new(RecordBatch::try_new(schema(), vec![k, t, v]).unwrap(), Some(diffs))
}

fn rows_of(batches: impl Iterator<Item = storage::Result<RecordBatch>>) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        let (k, t, v) =
            (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string_view(), batch.column(2));
        for i in 0..batch.num_rows() {
            let text = t.is_valid(i).then(|| t.value(i).to_string());
            rows.push((k.is_valid(i).then(|| k.value(i)), text, v.as_primitive::<Int64Type>().value(i)));
        }
    }
    rows
}

fn expand(rows: &Rows) -> Vec<Row> {
    rows.iter().flat_map(|(row, n)| std::iter::repeat_n(row.clone(), *n as usize)).collect()
}

fn encoded(spec: &RelationSpec, row: &Row, columns: usize) -> Vec<u8> {
    let data = batch(&[(row.clone(), 1)]);
    let columns: Vec<ArrayRef> = spec.key[..columns].iter().map(|c| data.column(*c).clone()).collect();
    if columns.is_empty() { Vec::new() } else { keys::encode(&columns, &spec.key_options).unwrap().get(0).to_vec() }
}

fn check(snapshot: &RelationSnapshot, model: &Rows) {
    let spec = snapshot.spec();
    let mut all = rows_of(snapshot.scan(None, 0..256));
    all.sort();
    assert_eq!(all, expand(model), "epoch {}", snapshot.epoch());
    assert_eq!(snapshot.rows_estimate(), all.len() as u64);

    // In parts, and with a projection.
    let parts: usize = [0..3, 3..100, 100..256].into_iter().map(|part| rows_of(snapshot.scan(None, part)).len()).sum();
    assert_eq!(parts, all.len());
    let mut projected: Vec<i64> = snapshot
        .scan(Some(&[2, 0]), 0..256)
        .flat_map(|b| b.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    projected.sort();
    let mut values: Vec<i64> = all.iter().map(|row| row.2).collect();
    values.sort();
    assert_eq!(projected, values);

    // In key order, whole and in ranges.
    let key = |row: &Row| encoded(spec, row, spec.key.len());
    let mut ordered = all.clone();
    ordered.sort_by_key(|row| key(row));
    let found: Vec<_> = rows_of(snapshot.scan_range(Bound::Unbounded, Bound::Unbounded, None));
    assert_eq!(found.iter().map(&key).collect::<Vec<_>>(), ordered.iter().map(&key).collect::<Vec<_>>());
    for columns in 0..=spec.key.len() {
        for (a, b) in [((Some(1), None, 0), (Some(3), Some("b".to_string()), 0)), ((None, None, 0), (Some(0), None, 0))]
        {
            let (low, high) = (encoded(spec, &a, columns), encoded(spec, &b, columns));
            let prefix = |row: &Row| encoded(spec, row, columns);
            type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);
            let cases: [(Bounds, Box<dyn Fn(&Row) -> bool>); 4] = [
                ((Bound::Included(low.clone()), Bound::Included(high.clone())), {
                    let (low, high) = (low.clone(), high.clone());
                    Box::new(move |row| prefix(row) >= low && prefix(row) <= high)
                }),
                ((Bound::Excluded(low.clone()), Bound::Unbounded), {
                    let low = low.clone();
                    Box::new(move |row| columns > 0 && prefix(row) > low)
                }),
                ((Bound::Unbounded, Bound::Excluded(high.clone())), {
                    let high = high.clone();
                    Box::new(move |row| columns > 0 && prefix(row) < high)
                }),
                ((Bound::Included(low.clone()), Bound::Included(low.clone())), {
                    let low = low.clone();
                    Box::new(move |row| prefix(row) == low)
                }),
            ];
            for ((lower, upper), matches) in cases {
                // A bound without columns stands for all keys: nothing is after or before all of them.
                let mut found = rows_of(snapshot.scan_range(lower.clone(), upper.clone(), None));
                found.sort();
                let expected: Vec<Row> = all.iter().filter(|row| matches(row)).cloned().collect();
                assert_eq!(found, expected, "{columns} columns, {lower:?} to {upper:?}");
            }
        }
    }

    // By key.
    for k in [None, Some(0), Some(1), Some(4)] {
        let probe = batch(&[((k, Some("b".to_string()), 0), 1)]);
        let columns: Vec<ArrayRef> = spec.key.iter().map(|c| probe.column(*c).clone()).collect();
        let found = snapshot.get(&columns).unwrap();
        let mut found = rows_of(found.into_iter().map(Ok));
        found.sort();
        let wanted = encoded(spec, &(k, Some("b".to_string()), 0), spec.key.len());
        assert_eq!(found, all.iter().filter(|row| key(row) == wanted).cloned().collect::<Vec<_>>());
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// An epoch: rows that come, how they are cut into batches, and in what order those are published.
    Epoch {
        changes: Vec<(u8, u8, i64)>,
        pieces: usize,
        turn: usize,
    },
    /// Many epochs with one change each.
    Busy(u64),
    /// Epochs without changes.
    Quiet(u64),
    /// A checkpoint of an epoch so far back.
    Checkpoint(u64),
    /// A checkpoint of other things.
    Other,
    Reopen,
    /// A snapshot so far back, checked now and again at the end.
    Read(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0u8..6, 0u8..4, -2i64..4);
    prop_oneof![
        8 => (prop::collection::vec(change, 0..12), 1usize..4, 0usize..4)
            .prop_map(|(changes, pieces, turn)| Step::Epoch { changes, pieces, turn }),
        1 => (1u64..80).prop_map(Step::Busy),
        1 => (1u64..40).prop_map(Step::Quiet),
        3 => (0u64..4).prop_map(Step::Checkpoint),
        1 => Just(Step::Other),
        1 => Just(Step::Reopen),
        3 => (0u64..31).prop_map(Step::Read),
    ]
}

fn spec() -> impl Strategy<Value = RelationSpec> {
    let key = prop::sample::select(vec![vec![0], vec![0, 1], vec![1], vec![]]);
    let option = any::<(bool, bool)>().prop_map(|(descending, nulls_first)| SortOption { descending, nulls_first });
    (key, any::<bool>(), prop::collection::vec(option, 0..3), 0usize..3).prop_map(|(key, unique, options, placed)| {
        let mut spec = RelationSpec::new(RelationId(9), schema(), key, unique);
        spec.key_options = options;
        spec.vnode_columns.truncate(placed);
        spec
    })
}

/// The changes of an epoch as the model and a job see them: consistent, and with some detours.
fn changes_of(spec: &RelationSpec, model: &mut Rows, changes: &[(u8, u8, i64)]) -> Vec<(Row, i64)> {
    let mut out = Vec::new();
    for (k, t, v) in changes {
        let k = (*k > 0).then_some(i64::from(*k) - 1);
        let t = [None, Some("a"), Some("b"), Some("a longer text\0with a zero")][*t as usize].map(str::to_string);
        let row = (k, t, *v);
        if !spec.unique {
            // Negative values take a row away if there is one.
            if *v < 0 {
                if let Some((row, n)) = model.iter_mut().next() {
                    out.push((row.clone(), -1));
                    *n -= 1;
                }
            } else {
                out.push((row.clone(), 1));
                *model.entry(row).or_default() += 1;
            }
        } else {
            let key = encoded(spec, &row, spec.key.len());
            let before = model.keys().find(|r| encoded(spec, r, spec.key.len()) == key).cloned();
            if let Some(before) = before {
                model.remove(&before);
                out.push((before, -1));
            }
            if *v >= 0 {
                model.insert(row.clone(), 1);
                out.push((row, 1));
            }
        }
        model.retain(|_, n| *n != 0);
    }
    out
}

struct Setup {
    store: Arc<Store>,
    relation: Arc<Relation>,
}

fn start(dir: &std::path::Path, spec: &RelationSpec) -> Setup {
    let store = open(dir, 12);
    let relation = store.relation(spec.clone()).unwrap();
    Setup { store, relation }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_what_a_multiset_would(spec in spec(), steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let mut at = start(dir.path(), &spec);
        // The rows as of every epoch since the last start.
        let mut history: BTreeMap<u64, Rows> = BTreeMap::from([(0, Rows::new())]);
        let mut held: Vec<(RelationSnapshot, Rows)> = Vec::new();
        let mut epoch = 0;
        for step in steps {
            match step {
                Step::Epoch { changes, pieces, turn } => {
                    let mut model = history[&epoch].clone();
                    epoch += 1;
                    let changes = changes_of(&spec, &mut model, &changes);
                    if !changes.is_empty() {
                        let mut pieces: Vec<_> = changes.chunks(changes.len().div_ceil(pieces)).collect();
                        let turn = turn % pieces.len();
                        pieces.rotate_left(turn);
                        for (worker, piece) in pieces.into_iter().enumerate() {
                            at.relation.publish(worker, Epoch(epoch), &batch(piece)).unwrap();
                        }
                    }
                    at.relation.advance(Epoch(epoch));
                    history.insert(epoch, model);
                }
                Step::Busy(epochs) => {
                    for _ in 0..epochs {
                        let mut model = history[&epoch].clone();
                        epoch += 1;
                        let changes = changes_of(&spec, &mut model, &[(epoch as u8 % 6, epoch as u8 / 7 % 4, 1)]);
                        at.relation.publish(0, Epoch(epoch), &batch(&changes)).unwrap();
                        at.relation.advance(Epoch(epoch));
                        history.insert(epoch, model);
                    }
                }
                Step::Quiet(epochs) => {
                    for _ in 0..epochs {
                        let model = history[&epoch].clone();
                        epoch += 1;
                        history.insert(epoch, model);
                    }
                    at.relation.advance(Epoch(epoch));
                }
                Step::Checkpoint(back) => {
                    let last = at.store.last_checkpoint().0;
                    let up_to = epoch.saturating_sub(back).max(last);
                    at.relation.cut(Epoch(up_to));
                    let relations = vec![(at.relation.clone(), Epoch(up_to))];
                    at.store.checkpoint(Checkpoint { epoch: Epoch(up_to), relations, ..Default::default() }).unwrap();
                }
                Step::Other => {
                    let meta = vec![(b"k".to_vec(), Some(epoch.to_be_bytes().to_vec()))];
                    let epoch = at.store.last_checkpoint();
                    at.store.checkpoint(Checkpoint { epoch, meta, ..Default::default() }).unwrap();
                }
                Step::Reopen => {
                    epoch = at.store.last_checkpoint().0;
                    held.clear();
                    drop(at);
                    at = start(dir.path(), &spec);
                    prop_assert_eq!(at.store.last_checkpoint(), Epoch(epoch));
                    history.retain(|e, _| *e <= epoch);
                }
                Step::Read(back) => {
                    let read = epoch.saturating_sub(back);
                    match at.relation.snapshot(Epoch(read)) {
                        Ok(snapshot) => {
                            check(&snapshot, &history[&read]);
                            held.push((snapshot, history[&read].clone()));
                        }
                        // Before a start or an old checkpoint.
                        Err(_) => prop_assert!(read < at.store.last_checkpoint().0),
                    }
                }
            }
        }
        check(&at.relation.snapshot(Epoch(epoch)).unwrap(), &history[&epoch]);
        for (snapshot, model) in held {
            check(&snapshot, &model);
        }
    }
}

fn simple(dir: &std::path::Path, unique: bool) -> Setup {
    start(dir, &RelationSpec::new(RelationId(9), schema(), vec![0], unique))
}

fn row(k: i64, v: i64) -> Row {
    (Some(k), None, v)
}

#[test]
fn a_late_retraction_of_a_passing_row_leaves_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), true);
    // Two workers, out of order: 1 -> 2 -> 3, where the second half comes first.
    at.relation.publish(0, Epoch(1), &batch(&[(row(7, 1), 1)])).unwrap();
    at.relation.advance(Epoch(1));
    at.relation.publish(1, Epoch(2), &batch(&[(row(7, 3), 1), (row(7, 2), -1)])).unwrap();
    at.relation.publish(0, Epoch(2), &batch(&[(row(7, 2), 1), (row(7, 1), -1)])).unwrap();
    at.relation.advance(Epoch(2));
    let rows = |epoch| rows_of(at.relation.snapshot(Epoch(epoch)).unwrap().scan(None, 0..256));
    assert_eq!((rows(1), rows(2)), (vec![row(7, 1)], vec![row(7, 3)]));
    assert_eq!(at.relation.snapshot(Epoch(2)).unwrap().rows_estimate(), 1);
}

#[test]
fn old_runs_are_merged_and_new_epochs_stay_apart() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), true);
    for epoch in 1..=1000 {
        at.relation.publish(0, Epoch(epoch), &batch(&[(row(epoch as i64 % 50, epoch as i64), 1)])).unwrap();
        at.relation.advance(Epoch(epoch));
        let (_, runs) = at.relation.memory();
        assert!(runs <= 32 + 32, "{runs} runs at epoch {epoch}");
    }
    for back in 0..32 {
        let snapshot = at.relation.snapshot(Epoch(1000 - back)).unwrap();
        assert_eq!(rows_of(snapshot.scan(None, 0..256)).iter().map(|r| r.2).max(), Some(1000 - back as i64));
    }
    assert!(at.relation.snapshot(Epoch(701)).is_err());
}

#[test]
fn reads_a_few_epochs_before_the_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), true);
    for epoch in 1..=10 {
        at.relation.publish(0, Epoch(epoch), &batch(&[(row(1, epoch as i64), 1)])).unwrap();
        at.relation.advance(Epoch(epoch));
    }
    let relations = vec![(at.relation.clone(), Epoch(10))];
    at.store.checkpoint(Checkpoint { epoch: Epoch(10), relations, ..Default::default() }).unwrap();
    for epoch in 1..=10 {
        let rows = rows_of(at.relation.snapshot(Epoch(epoch)).unwrap().scan(None, 0..256));
        assert_eq!(rows, [row(1, epoch as i64)]);
    }
}

#[test]
#[should_panic(expected = "relation 9 holds a row -1 times")]
fn a_count_below_zero_is_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), false);
    at.relation.publish(0, Epoch(1), &batch(&[(row(1, 1), -1)])).unwrap();
    rows_of(at.relation.snapshot(Epoch(1)).unwrap().scan(None, 0..256));
}

#[test]
fn scans_more_than_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), true);
    let rows: Vec<_> = (0..30_000).map(|i| (row(i, i * 2), 1)).collect();
    at.relation.publish(0, Epoch(1), &batch(&rows)).unwrap();
    at.relation.advance(Epoch(1));
    let relations = vec![(at.relation.clone(), Epoch(1))];
    at.store.checkpoint(Checkpoint { epoch: Epoch(1), relations, ..Default::default() }).unwrap();
    at.relation.publish(0, Epoch(2), &batch(&[(row(5, 10), -1), (row(40_000, 1), 1)])).unwrap();
    at.relation.advance(Epoch(2));
    let snapshot = at.relation.snapshot(Epoch(2)).unwrap();
    let sizes: Vec<usize> = snapshot.scan(Some(&[0]), 0..256).map(|b| b.unwrap().num_rows()).collect();
    assert_eq!((sizes.iter().sum::<usize>(), sizes[0]), (30_000, 8192));
    let ordered = rows_of(snapshot.scan_range(Bound::Unbounded, Bound::Unbounded, None));
    assert!(ordered.is_sorted() && ordered.len() == 30_000);
    assert_eq!(snapshot.rows_estimate(), 30_000);
}

#[test]
fn counts_equal_rows_and_hands_each_out() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), false);
    at.relation.publish(0, Epoch(1), &batch(&[(row(1, 1), 20_000), (row(1, 2), 1)])).unwrap();
    at.relation.advance(Epoch(1));
    let snapshot = at.relation.snapshot(Epoch(1)).unwrap();
    let sizes: Vec<usize> = snapshot.scan(None, 0..256).map(|b| b.unwrap().num_rows()).collect();
    assert_eq!(sizes, [8192, 8192, 3617]);
    assert_eq!(snapshot.rows_estimate(), 20_001);
}

#[test]
fn a_new_relation_is_empty_as_of_every_epoch_before_its_first_change() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), true);
    at.store.checkpoint(Checkpoint { epoch: Epoch(50), ..Default::default() }).unwrap();
    let mut spec = at.relation.spec().clone();
    spec.id = RelationId(10);
    let late = at.store.relation(spec.clone()).unwrap();
    // A view that is created while nothing happens is filled as of the last epoch there is.
    late.publish(0, Epoch(50), &batch(&[(row(1, 1), 1)])).unwrap();
    late.advance(Epoch(50));
    assert_eq!(rows_of(late.snapshot(Epoch(50)).unwrap().scan(None, 0..256)), [row(1, 1)]);
    assert_eq!(late.snapshot(Epoch(49)).unwrap().rows_estimate(), 0);
    // A slow job's relation is durable as of an epoch before the checkpoint's.
    late.publish(0, Epoch(52), &batch(&[(row(2, 2), 1)])).unwrap();
    late.advance(Epoch(52));
    let relations = vec![(late.clone(), Epoch(51))];
    at.store.checkpoint(Checkpoint { epoch: Epoch(60), relations, ..Default::default() }).unwrap();
    drop((at, late));
    let store = open(dir.path(), 12);
    let late = store.relation(spec).unwrap();
    assert_eq!((store.last_checkpoint(), late.newest()), (Epoch(60), Epoch(51)));
    late.publish(0, Epoch(52), &batch(&[(row(2, 2), 1)])).unwrap();
    late.advance(Epoch(60));
    assert_eq!(
        rows_of(late.snapshot(Epoch(60)).unwrap().scan_range(Bound::Unbounded, Bound::Unbounded, None)),
        [row(1, 1), row(2, 2)]
    );
}

#[test]
#[should_panic(expected = "relation 9 gets changes of epoch 3 but is complete up to 3")]
fn changes_of_a_complete_epoch_are_a_bug() {
    let dir = tempfile::tempdir().unwrap();
    let at = simple(dir.path(), true);
    at.relation.advance(Epoch(3));
    at.relation.publish(0, Epoch(3), &batch(&[(row(1, 1), 1)])).unwrap();
}
