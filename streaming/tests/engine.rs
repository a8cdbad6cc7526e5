//! The engine end to end, without SQL: tables, sources, views over them, restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::executor::block_on;
use storage::{Batch, Column, Epoch, RelationId, SqlType, Store, StoreOptions};
use streaming::aggregates::{AggregateCall, AggregateKind};
use streaming::engine::{Engine, EngineConfig, JobSpec};
use streaming::expr::Functions;
use streaming::operators::{Aggregate, Materialize, Project, Source, TableSource, TapReader};
use streaming::plan::Plan;
use streaming::source::{self, Offset, Read, Records, SourceSpec, Sources, Split, SplitReader};

/// Only `slow`: its argument, after a pause for each batch that a test sets.
#[derive(Default)]
struct TestFunctions {
    pause_ms: Arc<AtomicI64>,
}

impl Functions for TestFunctions {
    fn scalar(&self, name: &str) -> Option<Arc<datafusion::logical_expr::ScalarUDF>> {
        use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
        let pause = self.pause_ms.clone();
        let slow = move |args: &[ColumnarValue]| {
            std::thread::sleep(Duration::from_millis(pause.load(Ordering::SeqCst) as u64));
            Ok(args[0].clone())
        };
        let udf = || create_udf("slow", vec![DataType::Int64], DataType::Int64, Volatility::Immutable, Arc::new(slow));
        (name == "slow").then(|| Arc::new(udf()))
    }
}

/// Numbers 0, 1, 2, ... up to a limit that the test raises.
#[derive(Clone)]
struct Numbers {
    limit: Arc<AtomicI64>,
    columns: Vec<Column>,
}

impl source::Source for Numbers {
    fn columns(&self) -> &[Column] {
        &self.columns
    }
    fn splits(&self) -> streaming::Result<Vec<Split>> {
        Ok((0..3).map(|i| Split { id: i.to_string(), start: Offset(0) }).collect())
    }
    fn open(
        &self,
        _: &str,
        number: u16,
        from: Offset,
        projection: &[usize],
    ) -> streaming::Result<Box<dyn SplitReader>> {
        Ok(Box::new(NumbersReader { limit: self.limit.clone(), number, at: from.0, projection: projection.to_vec() }))
    }
    fn end(&self, _: &str) -> streaming::Result<Option<Offset>> {
        Ok(Some(Offset(self.limit.load(Ordering::SeqCst))))
    }
}

struct NumbersReader {
    limit: Arc<AtomicI64>,
    number: u16,
    at: i64,
    projection: Vec<usize>,
}

impl SplitReader for NumbersReader {
    fn read(&mut self, rows_max: usize, timeout: Duration) -> streaming::Result<Read> {
        let end = self.limit.load(Ordering::SeqCst).min(self.at + rows_max.min(500) as i64);
        if end <= self.at {
            std::thread::sleep(timeout.min(Duration::from_millis(2)));
            return Ok(Read::Idle { next: Offset(self.at) });
        }
        let values: Vec<i64> = (self.at..end).collect();
        let columns: Vec<(Field, ArrayRef)> = self
            .projection
            .iter()
            .map(|c| match c {
                0 => (field("k"), Arc::new(Int64Array::from_iter_values(values.iter().map(|v| v % 10))) as ArrayRef),
                1 => (field("v"), Arc::new(Int64Array::from(values.clone())) as ArrayRef),
                _ => {
                    let ids = values.iter().map(|v| (self.number as i64) << 48 | v);
                    (field("_row_id"), Arc::new(Int64Array::from_iter_values(ids)) as ArrayRef)
                }
            })
            .collect();
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("same rows");
        let records = values.len();
        self.at = end;
        Ok(Read::Records(Records {
            batch: Batch::inserts(batch),
            errors: Vec::new(),
            next: Offset(end),
            records,
            bytes: records * 16,
        }))
    }
}

impl Sources for Numbers {
    fn open(&self, _: &SourceSpec) -> streaming::Result<Arc<dyn source::Source>> {
        Ok(Arc::new(self.clone()))
    }
}

fn field(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn schema(names: &[&str]) -> SchemaRef {
    Arc::new(Schema::new(names.iter().map(|n| field(n)).collect::<Vec<_>>()))
}

fn columns(names: &[&str]) -> Vec<Column> {
    names.iter().map(|n| Column::new(*n, SqlType::BigInt)).collect()
}

struct World {
    dir: tempfile::TempDir,
    pause_ms: Arc<AtomicI64>,
    numbers: Numbers,
    workers: usize,
}

impl World {
    fn new(workers: usize) -> World {
        let numbers = Numbers { limit: Arc::default(), columns: columns(&["k", "v"]) };
        World { dir: tempfile::tempdir().expect("a folder"), pause_ms: Arc::default(), numbers, workers }
    }

    fn start(&self, jobs: &[JobSpec]) -> Engine {
        let store = Store::open(self.dir.path(), StoreOptions::default()).expect("a store");
        let config = EngineConfig {
            workers: self.workers,
            checkpoint_interval: Duration::from_millis(50),
            ..EngineConfig::default()
        };
        let functions = Arc::new(TestFunctions { pause_ms: self.pause_ms.clone() });
        Engine::start(config, store, functions, Arc::new(self.numbers.clone()), jobs.to_vec()).expect("an engine")
    }
}

const TABLE: u32 = 16384;
const SOURCE: u32 = 16390;

fn table() -> JobSpec {
    let mut plan = Plan::default();
    let names = ["id", "v"];
    let source =
        plan.add(TableSource { relation: RelationId(TABLE), event_time: None, schema: schema(&names) }, vec![]);
    let root = Materialize {
        relation: RelationId(TABLE),
        key: vec![0],
        key_order: vec![],
        unique: true,
        schema: schema(&names),
    };
    plan.add(root, vec![source]);
    job(TABLE, "t", plan, &names)
}

fn numbers() -> JobSpec {
    let spec = SourceSpec {
        options: vec![],
        format: "plain".into(),
        encode: "json".into(),
        encode_options: vec![],
        columns: columns(&["k", "v"]),
    };
    let mut plan = Plan::default();
    plan.add(Source { spec, event_time: None, schema: schema(&["k", "v", "_row_id"]) }, vec![]);
    job(SOURCE, "numbers", plan, &["k", "v", "_row_id"])
}

fn job(id: u32, name: &str, plan: Plan, names: &[&str]) -> JobSpec {
    JobSpec { relation: RelationId(id), name: name.into(), plan, columns: columns(names), errors: RelationId(id + 1) }
}

/// count(*), per k, over the columns (k) of `upstream`.
fn count_per_key(id: u32, upstream: u32, column: usize) -> JobSpec {
    count_of(id, upstream, column, false)
}

/// The same; with `slow`, behind a projection that takes its time.
fn count_of(id: u32, upstream: u32, column: usize, slow: bool) -> JobSpec {
    let mut plan = Plan::default();
    let tap = TapReader {
        relation: RelationId(upstream),
        name: "up".into(),
        columns: vec![column],
        append_only: upstream == SOURCE,
        history: None,
        watermarks: vec![],
        schema: schema(&["k"]),
    };
    let mut tap = plan.add(tap, vec![]);
    if slow {
        let call = streaming::expr::Expr::Call {
            function: "slow".into(),
            args: vec![streaming::expr::Expr::Column(0)],
            returns: DataType::Int64,
        };
        tap = plan.add(Project { exprs: vec![call], schema: schema(&["k"]) }, vec![tap]);
    }
    let count = AggregateCall {
        kind: AggregateKind::Count,
        args: vec![],
        order: vec![],
        filter: None,
        distinct: false,
        returns: DataType::Int64,
    };
    let aggregate = Aggregate {
        group: vec![0],
        calls: vec![count],
        append_only: false,
        partials: None,
        schema: schema(&["k", "count"]),
    };
    let aggregate = plan.add(aggregate, vec![tap]);
    let root = Materialize {
        relation: RelationId(id),
        key: vec![0],
        key_order: vec![],
        unique: true,
        schema: schema(&["k", "count"]),
    };
    plan.add(root, vec![aggregate]);
    job(id, "counts", plan, &["k", "count"])
}

fn rows(engine: &Engine, relation: u32, at_least: Epoch) -> Vec<Vec<i64>> {
    let view = block_on(engine.read(&[RelationId(relation)], at_least)).expect("a view");
    rows_of(&view.relations[&RelationId(relation)])
}

fn rows_of(snapshot: &storage::RelationSnapshot) -> Vec<Vec<i64>> {
    let mut rows = Vec::new();
    for batch in snapshot.scan(None, 0..256) {
        let batch = batch.expect("a batch");
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|c| c.as_primitive::<Int64Type>().value(row)).collect());
        }
    }
    rows.sort();
    rows
}

fn changes(rows: &[(i64, i64, i64)]) -> Batch {
    let ids = Int64Array::from_iter_values(rows.iter().map(|r| r.0));
    let values = Int64Array::from_iter_values(rows.iter().map(|r| r.1));
    let diffs = Int64Array::from_iter_values(rows.iter().map(|r| r.2));
    assert_eq!(ids.null_count(), 0);
    let data = RecordBatch::try_new(schema(&["id", "v"]), vec![Arc::new(ids), Arc::new(values)]).expect("same rows");
    Batch::new(data, Some(diffs))
}

fn write(engine: &Engine, rows: &[(i64, i64, i64)]) -> Epoch {
    block_on(engine.write(vec![(RelationId(TABLE), changes(rows))])).expect("written")
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..5000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("never: {what}");
}

#[test]
fn a_write_is_visible_to_the_next_read() {
    for workers in [1, 2] {
        let world = World::new(workers);
        let engine = world.start(&[]);
        block_on(engine.create(table(), vec![(b"catalog/t".to_vec(), Some(b"t".to_vec()))])).expect("a table");
        let view = count_per_key(16400, TABLE, 1);
        block_on(engine.create(view, vec![])).expect("a view");
        let epoch = write(&engine, &[(1, 7, 1), (2, 7, 1), (3, 8, 1)]);
        assert_eq!(rows(&engine, TABLE, epoch), vec![vec![1, 7], vec![2, 7], vec![3, 8]]);
        assert_eq!(rows(&engine, 16400, epoch), vec![vec![7, 2], vec![8, 1]]);
        let epoch = write(&engine, &[(1, 7, -1), (1, 8, 1)]);
        assert_eq!(rows(&engine, 16400, epoch), vec![vec![7, 1], vec![8, 2]]);
        engine.shutdown().expect("a clean end");
    }
}

#[test]
fn a_view_created_later_sees_all_rows() {
    for workers in [1, 2] {
        let world = World::new(workers);
        let engine = world.start(&[]);
        block_on(engine.create(table(), vec![])).expect("a table");
        let many: Vec<(i64, i64, i64)> = (0..20_000).map(|i| (i, i % 7, 1)).collect();
        write(&engine, &many);
        block_on(engine.create(count_per_key(16400, TABLE, 1), vec![])).expect("a view");
        block_on(engine.create(count_per_key(16410, 16400, 1), vec![])).expect("a view on a view");
        let total: i64 = rows(&engine, 16400, Epoch(0)).iter().map(|r| r[1]).sum();
        assert_eq!(total, 20_000);
        let groups: i64 = rows(&engine, 16410, Epoch(0)).iter().map(|r| r[1]).sum();
        assert_eq!(groups, 7);
        let epoch = write(&engine, &[(100_000, 100, 1)]);
        assert_eq!(rows(&engine, 16410, epoch).iter().map(|r| r[1]).sum::<i64>(), 8);
        engine.shutdown().expect("a clean end");
    }
}

#[test]
fn acknowledged_writes_survive_a_crash() {
    for workers in [1, 2] {
        let world = World::new(workers);
        let view = count_per_key(16400, TABLE, 1);
        let engine = world.start(&[]);
        block_on(engine.create(table(), vec![])).expect("a table");
        block_on(engine.create(view.clone(), vec![])).expect("a view");
        let mut next = 0;
        let mut engine = Some(engine);
        for round in 0..6 {
            let running = engine.take().expect("running");
            for _ in 0..20 {
                write(&running, &[(next, next % 5, 1)]);
                next += 1;
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_millis(3));
                }
            }
            running.crash();
            let running = world.start(&[table(), view.clone()]);
            assert_eq!(rows(&running, TABLE, Epoch(0)).len() as i64, next, "round {round}");
            assert_eq!(rows(&running, 16400, Epoch(0)).iter().map(|r| r[1]).sum::<i64>(), next, "round {round}");
            engine = Some(running);
        }
    }
}

#[test]
fn each_record_counts_once() {
    for workers in [1, 2] {
        let world = World::new(workers);
        let view = count_per_key(16400, SOURCE, 0);
        let engine = world.start(&[]);
        block_on(engine.create(numbers(), vec![])).expect("a source");
        block_on(engine.create(view.clone(), vec![])).expect("a view");
        let total = |engine: &Engine, view: u32| rows(engine, view, Epoch(0)).iter().map(|r| r[1]).sum::<i64>();
        world.numbers.limit.store(10_000, Ordering::SeqCst);
        wait_for("30000 records", || total(&engine, 16400) == 30_000);
        // A second view catches up by a reader of its own and joins the shared one.
        let second = count_per_key(16420, SOURCE, 1);
        block_on(engine.create(second.clone(), vec![])).expect("a second view");
        assert_eq!(total(&engine, 16420), 30_000);
        world.numbers.limit.store(12_000, Ordering::SeqCst);
        wait_for("36000 records", || total(&engine, 16400) == 36_000 && total(&engine, 16420) == 36_000);
        engine.crash();
        world.numbers.limit.store(13_000, Ordering::SeqCst);
        let engine = world.start(&[numbers(), view.clone(), second.clone()]);
        assert!(total(&engine, 16400) >= 36_000, "reads never go back");
        wait_for("39000 records", || total(&engine, 16400) == 39_000 && total(&engine, 16420) == 39_000);
        engine.shutdown().expect("a clean end");
    }
}

/// A view that is far behind holds up neither the checkpoints nor the views beside it, and what waits for it is there after
/// a crash: for it, and for who reads it.
#[test]
fn a_slow_view_delays_nobody_and_loses_nothing() {
    for workers in [1, 2] {
        let world = World::new(workers);
        let jobs = [
            numbers(),
            table(),
            count_per_key(16400, SOURCE, 0),
            count_of(16420, SOURCE, 0, true),
            count_per_key(16430, 16400, 1),
            count_of(16440, TABLE, 1, true),
            count_of(16450, 16420, 1, true),
        ];
        let mut engine = world.start(&[]);
        for job in &jobs {
            block_on(engine.create(job.clone(), vec![])).expect("a job");
        }
        let total = |engine: &Engine, view: u32| {
            let state = engine.status().jobs.iter().find(|j| j.relation.0 == view).map(|j| j.epoch);
            let view = block_on(engine.read(&[RelationId(view)], Epoch(0))).expect("a view").relations
                [&RelationId(view)]
                .clone();
            assert!(view.epoch() >= state.expect("a job"));
            rows_of(&view).iter().map(|r| r[1]).sum::<i64>()
        };
        for round in 1..=3 {
            world.pause_ms.store(160, Ordering::SeqCst);
            for i in 0..50 {
                world.numbers.limit.fetch_add(1200, Ordering::SeqCst);
                write(&engine, &[(round * 1000 + i, i % 5, 1)]);
            }
            let behind =
                |engine: &Engine| engine.status().jobs.iter().any(|j| j.relation.0 == 16420 && j.rows_waiting > 0);
            wait_for("somebody who is behind", || behind(&engine));
            let before = engine.status();
            wait_for("checkpoints", || engine.status().checkpoints >= before.checkpoints + 2);
            assert!(behind(&engine), "the checkpoints waited for the slow view");
            engine.crash();
            world.pause_ms.store(0, Ordering::SeqCst);
            engine = world.start(&jobs);
            wait_for("all records", || total(&engine, 16420) == round * 180_000);
            assert_eq!(total(&engine, 16400), round * 180_000);
            assert_eq!(total(&engine, 16440), round * 50);
            assert_eq!(total(&engine, 16430), 10);
            assert_eq!(total(&engine, 16450), 10);
        }
        engine.shutdown().expect("a clean end");
    }
}

#[test]
fn two_views_of_one_source_agree_at_every_moment() {
    let world = World::new(2);
    let engine = world.start(&[]);
    block_on(engine.create(numbers(), vec![])).expect("a source");
    block_on(engine.create(count_per_key(16400, SOURCE, 0), vec![])).expect("a view");
    block_on(engine.create(count_per_key(16420, SOURCE, 0), vec![])).expect("a view");
    for step in 1..200 {
        world.numbers.limit.store(step * 100, Ordering::SeqCst);
        let both = [RelationId(16400), RelationId(16420)];
        let view = block_on(engine.read(&both, Epoch(0))).expect("both");
        assert_eq!(rows_of(&view.relations[&both[0]]), rows_of(&view.relations[&both[1]]));
    }
    engine.shutdown().expect("a clean end");
}

#[test]
fn a_failing_job_leaves_the_others_running() {
    let world = World::new(2);
    let engine = world.start(&[]);
    block_on(engine.create(table(), vec![])).expect("a table");
    block_on(engine.create(count_per_key(16400, TABLE, 1), vec![])).expect("a view");
    // A plan that names a column which its input does not have: the projection cannot start.
    let mut plan = Plan::default();
    let tap = TapReader {
        relation: RelationId(TABLE),
        name: "t".into(),
        columns: vec![0],
        append_only: false,
        history: None,
        watermarks: vec![],
        schema: schema(&["id"]),
    };
    let tap = plan.add(tap, vec![]);
    let project = Project { exprs: vec![streaming::expr::Expr::Column(9)], schema: schema(&["x"]) };
    let project = plan.add(project, vec![tap]);
    let root = Materialize {
        relation: RelationId(16410),
        key: vec![],
        key_order: vec![],
        unique: false,
        schema: schema(&["x"]),
    };
    plan.add(root, vec![project]);
    let error = block_on(engine.create(job(16410, "broken", plan, &["x"]), vec![]));
    assert!(error.is_err());
    let epoch = write(&engine, &[(1, 1, 1)]);
    assert_eq!(rows(&engine, 16400, epoch), vec![vec![1, 1]]);
    block_on(engine.drop(vec![RelationId(16410)], vec![])).expect("dropped");
    let epoch = write(&engine, &[(2, 1, 1)]);
    assert_eq!(rows(&engine, 16400, epoch), vec![vec![1, 2]]);
    engine.shutdown().expect("a clean end");
}

#[test]
fn a_subscription_adds_up_to_the_view() {
    let world = World::new(2);
    let engine = world.start(&[]);
    block_on(engine.create(table(), vec![])).expect("a table");
    write(&engine, &[(1, 1, 1)]);
    let mut subscription = block_on(engine.subscribe(RelationId(TABLE), Epoch(0))).expect("a subscription");
    let mut sum = rows_of(&subscription.snapshot).len() as i64;
    let mut last = Epoch(0);
    for i in 2..50 {
        last = write(&engine, &[(i, i, 1)]);
    }
    loop {
        let changes = block_on(subscription.changes.recv()).expect("changes");
        for batch in &changes.batches {
            sum += (0..batch.num_rows()).map(|row| batch.diff(row)).sum::<i64>();
        }
        if changes.epoch >= last {
            break;
        }
    }
    assert_eq!(sum, 49);
    engine.shutdown().expect("a clean end");
}
