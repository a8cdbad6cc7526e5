//! The engine end to end, without SQL: tables, sources, views over them, restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use futures::executor::block_on;
use storage::{Batch, Column, Epoch, RelationId, SqlType, Store, StoreOptions};
use streaming::aggregates::{AggregateCall, AggregateKind};
use streaming::engine::{Engine, EngineConfig, JobSpec, JobState, Keeping};
use streaming::expr::Functions;
use streaming::operators::hash_join::{HashJoin, JoinKind};
use streaming::operators::{Aggregate, AnyOperator, Distinct, Materialize, Project, Source, TableSource, TapReader};
use streaming::plan::Plan;
use streaming::source::{self, Offset, Read, Records, SourceSpec, Sources, Split, SplitReader};

/// `slow`: its argument, after a pause for each batch that a test sets. `fragile`: its argument, unless a test has set how
/// often it panics instead.
#[derive(Default)]
struct TestFunctions {
    pause_ms: Arc<AtomicI64>,
    panics: Arc<AtomicI64>,
}

impl Functions for TestFunctions {
    fn scalar(&self, name: &str) -> Option<Arc<datafusion::logical_expr::ScalarUDF>> {
        use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
        let pause = self.pause_ms.clone();
        let slow = move |args: &[ColumnarValue]| {
            std::thread::sleep(Duration::from_millis(pause.load(Ordering::SeqCst) as u64));
            Ok(args[0].clone())
        };
        let panics = self.panics.clone();
        let fragile = move |args: &[ColumnarValue]| {
            let left = panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| (left > 0).then_some(left - 1));
            assert!(left.is_err(), "it broke");
            Ok(args[0].clone())
        };
        let code: datafusion::logical_expr::ScalarFunctionImplementation = match name {
            "slow" => Arc::new(slow),
            "fragile" => Arc::new(fragile),
            _ => return None,
        };
        Some(Arc::new(create_udf(name, vec![DataType::Int64], DataType::Int64, Volatility::Immutable, code)))
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
            again: Vec::new(),
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
    panics: Arc<AtomicI64>,
    numbers: Numbers,
    workers: usize,
    restarts_max: usize,
}

impl World {
    fn new(workers: usize) -> World {
        let numbers = Numbers { limit: Arc::default(), columns: columns(&["k", "v"]) };
        World {
            dir: tempfile::tempdir().expect("a folder"),
            pause_ms: Arc::default(),
            panics: Arc::default(),
            numbers,
            workers,
            restarts_max: FORGIVING,
        }
    }

    fn start(&self, jobs: &[JobSpec]) -> Engine {
        let store = Store::open(self.dir.path(), StoreOptions::default()).expect("a store");
        let config = EngineConfig {
            workers: self.workers,
            checkpoint_interval: Duration::from_millis(50),
            restarts_max: self.restarts_max,
            restart_pause: Duration::from_millis(1),
            restart_window: if self.restarts_max == FORGIVING { Duration::from_millis(20) } else { HOUR },
            ..EngineConfig::default()
        };
        let functions = Arc::new(TestFunctions { pause_ms: self.pause_ms.clone(), panics: self.panics.clone() });
        Engine::start(config, store, functions, Arc::new(self.numbers.clone()), jobs.to_vec()).expect("an engine")
    }
}

/// Failures that a job may have if they are soon forgiven.
const FORGIVING: usize = 1000;
const HOUR: Duration = Duration::from_secs(3600);
const TABLE: u32 = 16384;
const SOURCE: u32 = 16390;

fn table() -> JobSpec {
    let mut plan = Plan::default();
    let names = ["id", "v"];
    let source = plan.add(
        TableSource {
            relation: RelationId(TABLE),
            event_time: None,
            ttl: None,
            processing_time: vec![],
            schema: schema(&names),
        },
        vec![],
    );
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
    JobSpec {
        relation: RelationId(id),
        name: name.into(),
        plan,
        columns: columns(names),
        errors: RelationId(id + 1),
        keeping: Keeping::default(),
    }
}

/// count(*), per k, over the columns (k) of `upstream`.
fn count_per_key(id: u32, upstream: u32, column: usize) -> JobSpec {
    count_of(id, upstream, column, None)
}

/// The same, behind a projection with a function.
fn count_of(id: u32, upstream: u32, column: usize, function: Option<&str>) -> JobSpec {
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
    if let Some(function) = function {
        let call = streaming::expr::Expr::Call {
            function: function.into(),
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
            count_of(16420, SOURCE, 0, Some("slow")),
            count_per_key(16430, 16400, 1),
            count_of(16440, TABLE, 1, Some("slow")),
            count_of(16450, 16420, 1, Some("slow")),
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
            // Views of one source need not be equally far.
            wait_for("all records in the other view", || total(&engine, 16400) == round * 180_000);
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

const SIBLING: u32 = 16400;
const FRAGILE: u32 = 16410;
const ABOVE: u32 = 16420;
const OF_SOURCE: u32 = 16430;
const FRAGILE_OF_SOURCE: u32 = 16440;
const JOBS_OF_FRAGILE: [u32; 2] = [FRAGILE, FRAGILE_OF_SOURCE];

/// Two views of a table and two of a source, one of each with a function that panics; and a view of such a view.
fn fragile_jobs() -> Vec<JobSpec> {
    vec![
        table(),
        numbers(),
        count_per_key(SIBLING, TABLE, 1),
        count_of(FRAGILE, TABLE, 1, Some("fragile")),
        count_per_key(ABOVE, FRAGILE, 1),
        count_per_key(OF_SOURCE, SOURCE, 0),
        count_of(FRAGILE_OF_SOURCE, SOURCE, 0, Some("fragile")),
    ]
}

fn create_all(engine: &Engine) {
    for job in fragile_jobs() {
        block_on(engine.create(job, vec![])).expect("created");
    }
}

/// All views at one epoch, at least `at_least`, are what they should be.
fn check_fragile(engine: &Engine, at_least: Epoch) {
    let ids = [SIBLING, FRAGILE, ABOVE, OF_SOURCE, FRAGILE_OF_SOURCE].map(RelationId);
    let view = block_on(engine.read(&ids, at_least)).expect("all views");
    let [sibling, fragile, above, of_source, fragile_of_source] = ids.map(|id| rows_of(&view.relations[&id]));
    assert_eq!(sibling, fragile);
    assert_eq!(of_source, fragile_of_source);
    let mut counts = std::collections::BTreeMap::new();
    fragile.iter().for_each(|row| *counts.entry(row[1]).or_insert(0) += 1);
    assert_eq!(above, counts.into_iter().map(|(count, n)| vec![count, n]).collect::<Vec<_>>());
}

/// Inserts a row and, now and then, takes an older one back.
fn write_some(engine: &Engine, i: i64) -> Epoch {
    let mut rows = vec![(i, i % 7, 1)];
    if i % 3 == 2 {
        rows.push((i - 1, (i - 1) % 7, -1));
    }
    write(engine, &rows)
}

fn state_of(engine: &Engine, relation: u32) -> streaming::engine::JobStatus {
    let status = engine.status();
    status.jobs.into_iter().find(|job| job.relation == RelationId(relation)).expect("the job")
}

#[test]
fn a_job_that_panics_goes_on_from_its_last_checkpoint() {
    for workers in [1, 2] {
        let world = World::new(workers);
        let engine = world.start(&[]);
        create_all(&engine);
        for i in 0..120 {
            world.numbers.limit.fetch_add(7, Ordering::SeqCst);
            let epoch = write_some(&engine, i);
            if i % 11 == 5 {
                world.panics.store(1 + i % 3, Ordering::SeqCst);
            }
            // Nobody else waits for it.
            rows(&engine, SIBLING, epoch);
            if i % 29 == 7 {
                std::thread::sleep(Duration::from_millis(60));
            }
            if i % 17 == 3 {
                check_fragile(&engine, epoch);
            }
        }
        world.panics.store(0, Ordering::SeqCst);
        let epoch = block_on(engine.flush()).expect("flushed");
        check_fragile(&engine, epoch);
        let restarts: u64 = JOBS_OF_FRAGILE.iter().map(|id| state_of(&engine, *id).restarts).sum();
        assert!(restarts >= 4, "{restarts}");
        assert_eq!(state_of(&engine, SIBLING).failures, 0);
        assert_eq!(state_of(&engine, ABOVE).failures, 0);
        engine.shutdown().expect("a clean end");
    }
}

#[test]
fn a_job_that_fails_too_often_waits_to_be_resumed() {
    for workers in [1, 2] {
        let world = World { restarts_max: 2, ..World::new(workers) };
        let mut engine = world.start(&[]);
        create_all(&engine);
        world.numbers.limit.store(100, Ordering::SeqCst);
        check_fragile(&engine, write_some(&engine, 0));
        world.panics.store(i64::MAX, Ordering::SeqCst);
        let mut i = 1;
        let mut write_more = |engine: &Engine| {
            for _ in 0..20 {
                world.numbers.limit.fetch_add(5, Ordering::SeqCst);
                let epoch = write_some(engine, i);
                rows(engine, SIBLING, epoch);
                i += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        for restart in [false, true] {
            write_more(&engine);
            let failed = |id: &u32| state_of(&engine, *id).state == streaming::engine::JobState::Failed;
            wait_for("both have given up", || JOBS_OF_FRAGILE.iter().all(failed));
            let error = block_on(engine.read(&[RelationId(ABOVE)], Epoch(0))).err().expect("an error");
            assert!(error.to_string().contains("it broke"), "{error}");
            block_on(engine.flush()).expect("others are complete");
            if restart {
                engine.crash();
                engine = world.start(&fragile_jobs());
                write_more(&engine);
                let failed = |id: &u32| state_of(&engine, *id).state == streaming::engine::JobState::Failed;
                assert!(JOBS_OF_FRAGILE.iter().all(failed), "they still wait");
            }
            world.panics.store(0, Ordering::SeqCst);
            for id in JOBS_OF_FRAGILE {
                block_on(engine.resume_job(RelationId(id))).expect("resumed");
            }
            check_fragile(&engine, write_some(&engine, 100_000 + restart as i64));
            check_fragile(&engine, block_on(engine.flush()).expect("flushed"));
            world.panics.store(i64::MAX, Ordering::SeqCst);
        }
        engine.crash();
    }
}

#[test]
fn a_crash_while_a_job_is_down_changes_nothing() {
    for workers in [1, 2] {
        let world = World::new(workers);
        let mut engine = world.start(&[]);
        create_all(&engine);
        let mut i = 0;
        for round in 0..9 {
            for _ in 0..15 {
                world.numbers.limit.fetch_add(11, Ordering::SeqCst);
                let epoch = write_some(&engine, i);
                rows(&engine, SIBLING, epoch);
                i += 1;
                if i % 9 == 4 {
                    world.panics.store(if round % 2 == 0 { i64::MAX } else { 2 }, Ordering::SeqCst);
                }
                if round % 3 != 0 {
                    std::thread::sleep(Duration::from_millis(8));
                }
            }
            engine.crash();
            if round % 4 != 1 {
                world.panics.store(0, Ordering::SeqCst);
            }
            engine = world.start(&fragile_jobs());
            if round % 4 != 1 {
                check_fragile(&engine, Epoch(0));
            }
        }
        world.panics.store(0, Ordering::SeqCst);
        let epoch = block_on(engine.flush()).expect("flushed");
        check_fragile(&engine, epoch);
        assert_eq!(rows(&engine, SIBLING, epoch).iter().map(|row| row[1]).sum::<i64>(), i - i / 3);
        engine.shutdown().expect("a clean end");
    }
}

/// A step of a slow view reaches across several epochs: the newest one at which it and a quick view were both exact lies
/// before what either has. After FLUSH, and after a crash, that must not be one before what everybody was told is there.
#[test]
fn nobody_reads_what_was_before_a_flush_or_a_crash() {
    let world = World::new(2);
    let jobs = [
        table(),
        count_per_key(16400, TABLE, 1),
        count_of(16410, TABLE, 1, Some("slow")),
        count_of(16420, TABLE, 1, Some("slow")),
        count_per_key(16430, TABLE, 1),
    ];
    let mut engine = world.start(&[]);
    for job in &jobs {
        block_on(engine.create(job.clone(), vec![])).expect("created");
    }
    world.pause_ms.store(3, Ordering::SeqCst);
    let views = [16400, 16410, 16420, 16430].map(RelationId);
    let check = |engine: &Engine, mark: i64, when: &str| {
        for _ in 0..8 {
            let read = block_on(engine.read(&views, Epoch(0))).expect("readable");
            for view in views {
                let there = rows_of(&read.relations[&view]).iter().any(|row| row[0] == mark);
                assert!(there, "{when}: {view:?} as of {} lacks {mark}", read.epoch);
            }
        }
    };
    let mut next = 0;
    for round in 0..24 {
        let mark = 1000 + round;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (engine, stop) = (&engine, &stop);
            let from = next;
            let noise = scope.spawn(move || {
                let mut id = from;
                while !stop.load(Ordering::SeqCst) {
                    id += 1;
                    write(engine, &[(id, id % 7, 1)]);
                    std::thread::sleep(Duration::from_micros(300));
                }
                id
            });
            std::thread::sleep(Duration::from_millis(20));
            write(engine, &[(-mark, mark, 1)]);
            if round % 3 < 2 {
                block_on(engine.flush()).expect("flushed");
                check(engine, mark, "after FLUSH");
            }
            stop.store(true, Ordering::SeqCst);
            next = noise.join().expect("no panic");
        });
        if round % 3 > 0 {
            engine.crash();
            engine = world.start(&jobs);
            check(&engine, mark, "after a crash");
        }
    }
    engine.shutdown().expect("a clean end");
}

/// `SELECT DISTINCT` of a column: an operator that cannot drop anything from memory.
fn distinct_of(id: u32, upstream: u32, column: usize) -> JobSpec {
    let mut job = count_per_key(id, upstream, column);
    let names = ["k"];
    job.plan.nodes.truncate(1);
    job.plan.add(Distinct { schema: schema(&names) }, vec![0]);
    let key_order = vec![];
    let root = Materialize { relation: RelationId(id), key: vec![0], key_order, unique: true, schema: schema(&names) };
    job.plan.add(root, vec![1]);
    job.columns = columns(&names);
    job
}

fn memory_of(engine: &Engine, relation: u32) -> u64 {
    let jobs = engine.status().jobs;
    jobs.iter().find(|job| job.relation.0 == relation).expect("a job").memory_bytes
}

/// A view with ten times the state that it may keep in memory answers the same, also after a crash, and keeps to its budget.
#[test]
fn state_may_be_ten_times_the_budget() {
    const BUDGET: u64 = 128 << 10;
    const NUMBERS: i64 = 20_000;
    for workers in [1, 2] {
        let world = World::new(workers);
        let jobs = [numbers(), count_per_key(16400, SOURCE, 1), count_per_key(16420, SOURCE, 1)];
        let mut engine = world.start(&[]);
        for job in &jobs {
            block_on(engine.create(job.clone(), vec![])).expect("a job");
        }
        block_on(engine.set_memory(RelationId(16420), Some(BUDGET))).expect("a budget");
        let total = |engine: &Engine, view: u32| rows(engine, view, Epoch(0)).iter().map(|r| r[1]).sum::<i64>();
        for limit in [NUMBERS / 4, NUMBERS / 2, NUMBERS] {
            world.numbers.limit.store(limit, Ordering::SeqCst);
            wait_for("all rows in both views", || {
                total(&engine, 16400) == 3 * limit && total(&engine, 16420) == 3 * limit
            });
            if limit == NUMBERS / 2 {
                engine.crash();
                engine = world.start(&jobs);
                let status = engine.status();
                let job = status.jobs.iter().find(|job| job.relation.0 == 16420).expect("a job");
                assert_eq!(job.memory_budget, Some(BUDGET));
            }
        }
        block_on(engine.flush()).expect("a checkpoint");
        let (all, bounded) = (memory_of(&engine, 16400), memory_of(&engine, 16420));
        assert!(bounded <= BUDGET && all >= 8 * BUDGET, "{bounded} of {all} bytes, the budget is {BUDGET}");
        assert_eq!(rows(&engine, 16420, Epoch(0)), rows(&engine, 16400, Epoch(0)));
        engine.shutdown().expect("a clean end");
    }
}

/// What cannot leave memory stops its own job, which says what to do; nobody else stops, and with more memory it goes on.
#[test]
fn a_job_that_cannot_keep_to_its_budget_stops_alone() {
    let world = World::new(2);
    let engine = world.start(&[]);
    for job in [numbers(), count_per_key(16400, SOURCE, 0), distinct_of(16420, SOURCE, 1)] {
        block_on(engine.create(job, vec![])).expect("a job");
    }
    block_on(engine.set_memory(RelationId(16420), Some(100_000))).expect("a budget");
    let status = || engine.status().jobs.into_iter().find(|job| job.relation.0 == 16420).expect("a job");
    wait_for("the end of the job", || {
        world.numbers.limit.fetch_add(100, Ordering::SeqCst);
        status().state == JobState::Failed
    });
    let error = status().error.unwrap_or_default();
    assert!(error.starts_with("out of memory: the job's memory budget is 97 kB, and what it cannot drop"), "{error}");
    let end = world.numbers.limit.fetch_add(1000, Ordering::SeqCst) + 1000;
    let total = |view: u32| rows(&engine, view, Epoch(0)).iter().map(|r| r[1]).sum::<i64>();
    wait_for("the rows of the other", || total(16400) == 3 * end);
    assert_eq!(status().restarts, 0);
    block_on(engine.set_memory(RelationId(16420), None)).expect("no budget");
    block_on(engine.resume_job(RelationId(16420))).expect("it goes on");
    wait_for("its rows", || status().state == JobState::Running && rows(&engine, 16420, Epoch(0)).len() as i64 == end);
    engine.shutdown().expect("a clean end");
}

/// Every row of a table beside every other: what an input of n rows makes n * n of.
fn pairs_of(id: u32, upstream: u32) -> JobSpec {
    let mut job = count_per_key(id, upstream, 0);
    let names = ["k", "j"];
    job.plan.nodes.truncate(1);
    let second = job.plan.nodes[0].operator.clone();
    job.plan.add(second, vec![]);
    let join = HashJoin {
        kind: JoinKind::Inner,
        keys: [vec![], vec![]],
        null_equal: vec![],
        ranges: [None, None],
        expiry: [None, None],
        condition: None,
        append_only: [false, false],
        alone: false,
        schema: schema(&names),
    };
    job.plan.add(join, vec![0, 1]);
    let key = vec![0, 1];
    let schema = schema(&names);
    job.plan.add(Materialize { relation: RelationId(id), key, key_order: vec![], unique: true, schema }, vec![2]);
    job.columns = columns(&names);
    job
}

/// While a join explodes, in its first step and in later ones, writes to other tables are visible in the views over them again and
/// again.
#[test]
fn others_go_on_while_a_join_explodes() {
    const ROWS: i64 = 600;
    const OTHER: u32 = 16500;
    for workers in [1, 2] {
        let world = World::new(workers);
        let engine = world.start(&[]);
        let mut other = table();
        (other.relation, other.errors, other.name) = (RelationId(OTHER), RelationId(OTHER + 1), "o".into());
        for node in &mut other.plan.nodes {
            match &mut node.operator {
                AnyOperator::TableSource(table) => table.relation = RelationId(OTHER),
                AnyOperator::Materialize(root) => root.relation = RelationId(OTHER),
                _ => {}
            }
        }
        for job in [table(), other, count_per_key(16400, TABLE, 1)] {
            block_on(engine.create(job, vec![])).expect("a job");
        }
        let many: Vec<(i64, i64, i64)> = (0..ROWS).map(|i| (i, i % 7, 1)).collect();
        block_on(engine.write(vec![(RelationId(OTHER), changes(&many))])).expect("written");
        let (mut next, mut seen) = (0, 0);
        let mut write_and_read = |engine: &Engine| {
            let epoch = write(engine, &[(next, 1, 1)]);
            next += 1;
            assert_eq!(rows(engine, 16400, epoch), vec![vec![1, next]]);
        };
        std::thread::scope(|scope| {
            let created = scope.spawn(|| block_on(engine.create(pairs_of(16510, OTHER), vec![])));
            while !created.is_finished() {
                write_and_read(&engine);
                seen += 1;
            }
            created.join().expect("no panic").expect("a view");
        });
        assert!(seen >= 5, "{seen} epochs while {ROWS} * {ROWS} rows were made");
        // As many again, one by one with all that are there.
        let more: Vec<(i64, i64, i64)> = (ROWS..ROWS + 200).map(|i| (i, i % 7, 1)).collect();
        let epoch = block_on(engine.write(vec![(RelationId(OTHER), changes(&more))])).expect("written");
        let shows = || {
            let jobs = engine.status().jobs;
            jobs.iter().find(|job| job.relation.0 == 16510).expect("a job").epoch
        };
        let mut seen = 0;
        while shows() < epoch {
            write_and_read(&engine);
            seen += 1;
        }
        assert!(seen >= 5, "{seen} epochs while the join took in a change");
        let all = block_on(engine.read(&[RelationId(16510)], epoch)).expect("a view");
        let total: usize =
            all.relations[&RelationId(16510)].scan(None, 0..256).map(|batch| batch.expect("rows").num_rows()).sum();
        assert_eq!(total as i64, (ROWS + 200) * (ROWS + 200));
        engine.shutdown().expect("a clean end");
    }
}
