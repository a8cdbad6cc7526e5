//! How operators are tested: without a runtime, over simulated workers, against DataFusion.
//!
//! A test is written in the changelog notation, epochs and what changes in them:
//!
//! ```text
//! 1 L +(1,a) +3(2,b) R +(1,x)  2 L -(1,a)      inputs are called L and R (or 0, 1, ...); 0 if none is named
//! ```
//!
//! What comes out is written the same way, consolidated per epoch and sorted; errors stand behind, as `!22012`.
//! [`oracle!`] lets random changes through an operator and compares, at every epoch, what it has said so far with a
//! query over the rows that are there: with one worker, with two, with a restart in the middle, and with state that leaves
//! memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::Int64Type;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use datafusion::prelude::{SessionConfig, SessionContext};
use storage::store::{Checkpoint, StoreOptions};
use storage::table::{DirtyHandle, TableId};
use storage::{Batch, Epoch, RelationId, StateTable, Store};

use crate::error::Result;
use crate::expr::{EvalError, Expr, Functions, value_text};
use crate::lookup::{Lookups, TaskLookups};
use crate::operator::{Exchange, OUTPUT_ROWS_MAX, Operator, Output, Progress, RowError, Seal, Task, TaskContext};
use crate::watermark::Watermarks;

/// Rows of a collection, as text, with their counts.
pub type Counted = BTreeMap<String, i64>;

/// A schema from a line like `a bigint, b text`. Types: bigint, bigint[], int, double, text, boolean, timestamp, date,
/// numeric.
///
/// # Panics
/// If the line is not understood.
pub fn schema(line: &str) -> SchemaRef {
    let fields = line.split(',').map(str::trim).filter(|column| !column.is_empty()).map(|column| {
        let (name, ty) = column.split_once(' ').expect("a column is a name and a type");
        let ty = match ty {
            "bigint" => DataType::Int64,
            "int" => DataType::Int32,
            "double" => DataType::Float64,
            "text" => DataType::Utf8View,
            "boolean" => DataType::Boolean,
            "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "date" => DataType::Date32,
            "bigint[]" => DataType::new_list(DataType::Int64, true),
            "numeric" => DataType::FixedSizeBinary(storage::types::NUMERIC_BYTES),
            other => panic!("no type {other} in tests"),
        };
        Field::new(name, ty, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Div(Signature);

impl ScalarUDFImpl for Div {
    fn name(&self) -> &str {
        "int8_div"
    }
    fn signature(&self) -> &Signature {
        &self.0
    }
    fn return_type(&self, _: &[DataType]) -> std::result::Result<DataType, DataFusionError> {
        Ok(DataType::Int64)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> std::result::Result<ColumnarValue, DataFusionError> {
        let n = args.number_rows;
        let args: Vec<ArrayRef> =
            args.args.into_iter().map(|a| a.into_array(n)).collect::<std::result::Result<_, DataFusionError>>()?;
        let (a, b) = (args[0].as_primitive::<Int64Type>(), args[1].as_primitive::<Int64Type>());
        let values = a.iter().zip(b).map(|(a, b)| match (a, b) {
            (Some(_), Some(0)) => Err(EvalError::external("22012", "division by zero")),
            (Some(a), Some(b)) => Ok(Some(a / b)),
            _ => Ok(None),
        });
        let values: Vec<Option<i64>> = values.collect::<std::result::Result<_, DataFusionError>>()?;
        Ok(ColumnarValue::Array(Arc::new(Int64Array::from(values))))
    }
}

/// The functions of tests: `int8_div(bigint, bigint)`, which fails for a divisor of zero.
pub struct TestFunctions;

impl Functions for TestFunctions {
    fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let signature = Signature::any(2, Volatility::Immutable);
        (name == "int8_div").then(|| Arc::new(ScalarUDF::new_from_impl(Div(signature))))
    }
}

/// `int8_div(left, right)`
pub fn div(left: usize, right: usize) -> Expr {
    Expr::Call {
        function: "int8_div".into(),
        args: vec![Expr::Column(left), Expr::Column(right)],
        returns: DataType::Int64,
    }
}

/// Rows with diffs as a batch. Values are text, or NULL.
///
/// # Panics
/// If a value is not of its column's type.
pub fn batch(schema: &SchemaRef, rows: &[(Vec<Option<String>>, i64)]) -> Batch {
    let columns: Vec<ArrayRef> = (0..schema.fields().len())
        .map(|i| {
            let values = rows.iter().map(|(row, _)| scalar(schema.field(i).data_type(), row[i].as_deref()));
            if rows.is_empty() {
                return arrow::array::new_empty_array(schema.field(i).data_type());
            }
            ScalarValue::iter_to_array(values).expect("values of one type")
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let data = RecordBatch::try_new_with_options(schema.clone(), columns, &options).expect("columns of the schema");
    let all_new = rows.iter().all(|(_, diff)| *diff == 1);
    Batch::new(data, (!all_new).then(|| Int64Array::from_iter_values(rows.iter().map(|(_, diff)| *diff))))
}

fn scalar(ty: &DataType, text: Option<&str>) -> ScalarValue {
    match (ty, text) {
        (DataType::FixedSizeBinary(n), text) => {
            let number = text.map(|t| storage::numeric::Numeric::parse(t).expect("a numeric").to_bytes().to_vec());
            ScalarValue::FixedSizeBinary(*n, number)
        }
        (DataType::List(item), Some(text)) => {
            let items = text.trim_matches(['{', '}']).split(',').filter(|item| !item.is_empty());
            let items = items.map(|text| scalar(item.data_type(), Some(text).filter(|text| *text != "NULL")));
            ScalarValue::List(ScalarValue::new_list_nullable(&items.collect::<Vec<_>>(), item.data_type()))
        }
        (ty, None) => ScalarValue::try_from(ty).expect("every type has a NULL"),
        (DataType::Utf8View, Some(text)) => ScalarValue::Utf8View(Some(text.into())),
        (DataType::Timestamp(TimeUnit::Microsecond, None), Some(text)) => {
            ScalarValue::TimestampMicrosecond(Some(text.parse().expect("microseconds")), None)
        }
        (ty, Some(text)) => {
            ScalarValue::try_from_string(text.into(), ty).unwrap_or_else(|_| panic!("{text:?} is not a {ty}"))
        }
    }
}

/// An operator on simulated workers, over a store in a directory of its own.
pub struct TestTask {
    operator: Arc<dyn Operator>,
    inputs: Vec<SchemaRef>,
    functions: Arc<dyn Functions>,
    dir: PathBuf,
    store: Option<Arc<Store>>,
    workers: Vec<Worker>,
    epoch: u64,
    /// The wall clock of the next seals, in microseconds.
    pub now: i64,
    /// What may be read of the state tables at the next start.
    pub memory_max: u64,
    /// Whether what was visible before a restart is not visible again yet.
    pub recovering: bool,
    /// For a lookup join: what it asks.
    pub lookups: Option<Arc<Lookups>>,
    /// Where `Exchange::Same` puts the next row.
    next: usize,
    changes: Vec<Batch>,
    errors: Vec<RowError>,
}

struct Worker {
    task: Box<dyn Task>,
    handles: Vec<DirtyHandle>,
    out: Output,
}

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

impl TestTask {
    /// Starts `operator` over inputs of these columns.
    pub fn new(operator: impl Operator + 'static, inputs: &[SchemaRef], workers: usize) -> TestTask {
        TestTask::with_functions(operator, inputs, workers, Arc::new(TestFunctions))
    }

    /// The same, for plans that name functions.
    pub fn with_functions(
        operator: impl Operator + 'static,
        inputs: &[SchemaRef],
        workers: usize,
        functions: Arc<dyn Functions>,
    ) -> TestTask {
        let mut task = TestTask::stopped(operator, inputs, functions);
        task.start(workers).expect("the operator starts");
        task
    }

    fn stopped(operator: impl Operator + 'static, inputs: &[SchemaRef], functions: Arc<dyn Functions>) -> TestTask {
        let n = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("headwater-test-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        TestTask {
            operator: Arc::new(operator),
            inputs: inputs.to_vec(),
            functions,
            dir,
            store: None,
            workers: Vec::new(),
            epoch: 0,
            now: 0,
            memory_max: u64::MAX,
            recovering: false,
            lookups: None,
            next: 0,
            changes: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// A lookup join, with what it asks; how that is opened again is up to the test.
    pub fn with_lookups(
        operator: impl Operator + 'static,
        inputs: &[SchemaRef],
        workers: usize,
        lookups: Arc<Lookups>,
    ) -> TestTask {
        let mut task = TestTask::stopped(operator, inputs, Arc::new(TestFunctions));
        task.lookups = Some(lookups);
        task.start(workers).expect("the operator starts");
        task
    }

    fn start(&mut self, workers: usize) -> Result<()> {
        let store = Store::open(&self.dir, StoreOptions::small())?;
        for worker in 0..workers {
            let (mut handles, mut names) = (Vec::new(), Vec::<String>::new());
            let mut open_table = |name: &str| -> Result<StateTable> {
                assert!(!names.iter().any(|n| n == name), "table {name} is opened twice");
                names.push(name.to_string());
                let id = TableId::new(RelationId(1), 0, names.len() as u8 - 1);
                let (table, handle) = store.table(id, worker, workers)?;
                handles.push(handle);
                Ok(table)
            };
            let mut ctx = TaskContext {
                worker,
                workers,
                inputs: self.inputs.clone(),
                functions: &self.functions,
                memory_max: self.memory_max,
                lookups: self.lookups.as_ref().map(|lookups| TaskLookups {
                    lookups: lookups.clone(),
                    node: 0,
                    worker,
                    wake: Arc::new(|| {}),
                }),
                open_table: &mut open_table,
            };
            let task = self.operator.start(&mut ctx)?;
            self.workers.push(Worker { task, handles, out: Output::default() });
        }
        self.store = Some(store);
        Ok(())
    }

    /// Stops the operator.
    pub fn stop(&mut self) {
        self.workers.clear();
        self.store = None;
    }

    /// Stops the operator and starts it again, on `workers` workers, as of the last checkpoint.
    pub fn restart(&mut self, workers: usize) {
        self.stop();
        self.start(workers).expect("the operator starts again");
    }

    /// Changes of one input, placed on the workers as the operator asks.
    pub fn apply(&mut self, input: usize, delta: &Batch) {
        let n = self.workers.len();
        let parts = match &self.operator.inputs()[input] {
            Exchange::Hash(keys) => delta.split(keys, n).expect("keys can be hashed"),
            Exchange::Broadcast => vec![delta.clone(); n],
            Exchange::Single => vec![delta.clone()],
            Exchange::Same => {
                let mut parts = vec![Batch::empty(delta.schema()); n];
                self.next += 1;
                parts[self.next % n] = delta.clone();
                parts
            }
        };
        for (worker, part) in self.workers.iter_mut().zip(parts) {
            if part.num_rows() == 0 {
                continue;
            }
            let mut progress = worker.task.apply(input, &part, &mut worker.out).expect("the batch is applied");
            while progress == Progress::More {
                take(&mut worker.out, &mut self.changes, &mut self.errors);
                progress = worker.task.resume(&mut worker.out).expect("the batch is applied");
            }
            take(&mut worker.out, &mut self.changes, &mut self.errors);
        }
    }

    /// Rows of state on all workers.
    pub fn state_rows(&self) -> u64 {
        self.workers.iter().map(|worker| worker.task.state_size().rows).sum()
    }

    /// Bytes of state on all workers.
    pub fn state_bytes(&self) -> u64 {
        self.workers.iter().map(|worker| worker.task.state_size().bytes).sum()
    }

    /// Lets the operator drop what it can from memory until it takes `to` bytes on each worker.
    pub fn evict(&mut self, to: u64) {
        self.workers.iter_mut().for_each(|worker| worker.task.evict(to).expect("state is evicted"));
    }

    /// Ends the epoch and takes what was emitted in it.
    pub fn seal(&mut self, checkpoint: bool) -> (Vec<Batch>, Vec<RowError>) {
        self.seal_with(checkpoint, Vec::new())
    }

    /// The same with what is known of each input's columns behind the epoch.
    pub fn seal_with(&mut self, checkpoint: bool, watermarks: Vec<Watermarks>) -> (Vec<Batch>, Vec<RowError>) {
        self.epoch += 1;
        let watermarks = watermarks.into_iter().map(Arc::new).collect();
        let at = Seal {
            watermarks,
            now: self.now,
            recovering: self.recovering,
            ..Seal::plain(Epoch(self.epoch), checkpoint)
        };
        for worker in &mut self.workers {
            loop {
                match worker.task.seal(&at, &mut worker.out).expect("the epoch is sealed") {
                    Progress::Done => break,
                    Progress::More => {}
                    Progress::Wait => std::thread::sleep(std::time::Duration::from_micros(200)),
                }
                take(&mut worker.out, &mut self.changes, &mut self.errors);
            }
            take(&mut worker.out, &mut self.changes, &mut self.errors);
        }
        if checkpoint {
            let dirty = self.workers.iter().flat_map(|w| &w.handles).filter_map(DirtyHandle::take).collect();
            let checkpoint =
                Checkpoint { epoch: Epoch(self.epoch), dirty, relations: vec![], meta: vec![], drop: vec![] };
            self.store.as_ref().expect("started").checkpoint(checkpoint).expect("the checkpoint is written");
        }
        (std::mem::take(&mut self.changes), std::mem::take(&mut self.errors))
    }
}

impl Drop for TestTask {
    fn drop(&mut self) {
        self.workers.clear();
        self.store = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn take(out: &mut Output, changes: &mut Vec<Batch>, errors: &mut Vec<RowError>) {
    for batch in out.take_batches() {
        assert!(batch.num_rows() <= OUTPUT_ROWS_MAX, "a batch of {} rows was emitted", batch.num_rows());
        changes.push(batch);
    }
    errors.extend(out.take_errors());
}

/// Adds the rows of `batches` to a collection.
pub fn accumulate(rows: &mut Counted, batches: &[Batch]) {
    for batch in batches {
        for row in 0..batch.num_rows() {
            let text = crate::expr::row_text(batch.data(), row);
            let count = rows.entry(text.clone()).or_default();
            *count += batch.diff(row);
            if *count == 0 {
                rows.remove(&text);
            }
        }
    }
}

/// Runs a script in the changelog notation through `operator` and returns what comes out, one line per epoch.
///
/// # Panics
/// If the script is not understood, or the operator fails.
pub fn run(operator: impl Operator + 'static, inputs: &[&str], script: &str) -> String {
    let inputs: Vec<SchemaRef> = inputs.iter().map(|line| schema(line)).collect();
    let mut task = TestTask::new(operator, &inputs, 1);
    let mut said = Vec::new();
    for (epoch, changes) in parse(script, &inputs) {
        for (input, rows) in changes {
            task.apply(input, &batch(&inputs[input], &rows));
        }
        let (batches, errors) = task.seal(true);
        let mut rows = Counted::new();
        accumulate(&mut rows, &batches);
        let sign = |n: i64| match n {
            1 => "+".to_string(),
            -1 => "-".to_string(),
            n => format!("{n:+}"),
        };
        let mut line: Vec<String> = rows.iter().map(|(row, n)| format!("{}{row}", sign(*n))).collect();
        line.extend(errors.iter().map(|e| format!("{}!{} {}", sign(e.diff), e.sqlstate, e.reason)));
        said.push(format!("{epoch} {}", line.join(" ")).trim_end().to_string());
    }
    said.join("\n")
}

type Changes = Vec<(usize, Vec<(Vec<Option<String>>, i64)>)>;

fn parse(script: &str, inputs: &[SchemaRef]) -> Vec<(u64, Changes)> {
    let mut epochs: Vec<(u64, Changes)> = Vec::new();
    let mut input = 0;
    let mut rest = script.trim();
    while !rest.is_empty() {
        let is_row = rest.starts_with(['+', '-']);
        let end =
            if is_row { rest.find(')').expect("a row ends with )") + 1 } else { rest.find(' ').unwrap_or(rest.len()) };
        let (word, tail) = rest.split_at(end);
        rest = tail.trim_start();
        match word {
            "L" => input = 0,
            "R" => input = 1,
            row if is_row => {
                let (sign, values) = row.trim_end_matches(')').split_once('(').expect("a row begins with (");
                let diff = match sign {
                    "+" => 1,
                    "-" => -1,
                    n => n.parse().expect("a diff"),
                };
                let values: Vec<Option<String>> = if inputs[input].fields().is_empty() {
                    Vec::new()
                } else {
                    values.split(',').map(|v| (v != "NULL").then(|| v.to_string())).collect()
                };
                let (_, changes) = epochs.last_mut().expect("a row stands in an epoch");
                match changes.last_mut() {
                    Some((last, rows)) if *last == input => rows.push((values, diff)),
                    _ => changes.push((input, vec![(values, diff)])),
                }
            }
            epoch => {
                input = 0;
                epochs.push((epoch.parse().unwrap_or_else(|_| panic!("{epoch:?} is no epoch")), Changes::new()));
            }
        }
    }
    epochs
}

/// A small random number generator: the same numbers everywhere for one seed.
pub struct Random(u64);

impl Random {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A value of a type, or NULL.
    pub fn value(&mut self, ty: &DataType) -> Option<String> {
        if self.one_in(8) {
            return None;
        }
        let n = self.below(6);
        Some(match ty {
            DataType::Int64 | DataType::Int32 | DataType::Date32 => (n as i64 - 2).to_string(),
            DataType::Float64 => (n as f64 * 0.25 - 0.5).to_string(),
            DataType::Utf8View => ["", "a", "b", "a longer text than fits inline", "c", "ab"][n].into(),
            DataType::Boolean => (n % 2 == 0).to_string(),
            DataType::Timestamp(..) => (n as i64 * 3_600_000_000).to_string(),
            // Equal values of different scale among them.
            DataType::FixedSizeBinary(_) => ["0", "1.5", "1.50", "-2", "10", "0.001"][n].into(),
            DataType::List(_) => ["{}", "{1}", "{2,3}", "{3,NULL,3}", "{NULL}", "{1,2,3,4}"][n].into(),
            other => panic!("no random values of {other}"),
        })
    }
}

/// How an oracle's operator is run.
#[derive(Clone, Copy, Debug)]
pub struct OracleRun {
    /// Workers in the first half.
    pub workers: usize,
    /// Workers after a restart in the middle, if there is one.
    pub restart: Option<usize>,
    /// Whether rows are inserted only.
    pub append_only: bool,
    /// Whether state leaves memory now and then.
    pub evicts: bool,
}

/// Epochs per run of an oracle.
const EPOCHS: usize = 8;
const SEEDS: u64 = 4;

/// Runs random changes through `operator` and compares it, at every epoch, with the query `sql` over the tables `t0`,
/// `t1`, ... that hold the inputs. See [`oracle!`].
///
/// # Panics
/// If they differ.
pub fn check_oracle(operator: &(impl Operator + Clone + 'static), inputs: &[&str], sql: &str, append_only: bool) {
    for seed in 0..SEEDS {
        let runs = [(1, None, false), (2, None, true), (2, Some(3), false), (3, Some(1), true)];
        for (workers, restart, evicts) in runs {
            let run = OracleRun { workers, restart, append_only, evicts };
            check_run(operator.clone(), inputs, sql, run, seed);
        }
    }
}

fn check_run(operator: impl Operator + 'static, inputs: &[&str], sql: &str, run: OracleRun, seed: u64) {
    let inputs: Vec<SchemaRef> = inputs.iter().map(|line| schema(line)).collect();
    let mut random = Random::new(seed * 31 + run.workers as u64 + 7 * run.restart.unwrap_or(0) as u64);
    let mut task = TestTask::new(operator, &inputs, run.workers);
    let mut tables: Vec<BTreeMap<Vec<Option<String>>, i64>> = vec![BTreeMap::new(); inputs.len()];
    let mut said = Counted::new();
    for epoch in 0..EPOCHS {
        for _ in 0..1 + random.below(4) {
            let input = random.below(inputs.len());
            let rows = random_rows(&mut random, &inputs[input], &mut tables[input], run.append_only);
            // In two batches, in any order: a retraction may overtake its insertion inside an epoch.
            let (late, early): (Vec<_>, Vec<_>) = rows.into_iter().partition(|_| random.one_in(3));
            for rows in [early, late] {
                if !rows.is_empty() {
                    task.apply(input, &batch(&inputs[input], &rows));
                }
            }
        }
        let restarts = run.restart.filter(|_| epoch == EPOCHS / 2);
        let (batches, errors) = task.seal(restarts.is_some() || random.one_in(2));
        assert!(errors.is_empty(), "{errors:?}");
        accumulate(&mut said, &batches);
        let expected = query(&inputs, &tables, sql);
        assert!(
            said == expected,
            "{run:?}, seed {seed}, epoch {epoch}: over {tables:#?}\nthe operator says {said:#?}\nthe query {expected:#?}"
        );
        if let Some(workers) = restarts {
            task.memory_max = if run.evicts { random.below(300) as u64 } else { u64::MAX };
            task.restart(workers);
        }
        if run.evicts && random.one_in(2) {
            task.evict(random.below(2000) as u64);
        }
    }
}

/// Random changes of a table that leave no row with a count below zero.
fn random_rows(
    random: &mut Random,
    schema: &SchemaRef,
    table: &mut BTreeMap<Vec<Option<String>>, i64>,
    append_only: bool,
) -> Vec<(Vec<Option<String>>, i64)> {
    let mut rows = Vec::new();
    for _ in 0..random.below(8) {
        let retracts = !append_only && !table.is_empty() && random.one_in(2);
        let (row, diff) = if retracts {
            let at = random.below(table.len());
            let (row, count) = table.iter().nth(at).expect("below the length");
            (row.clone(), -(1 + random.below(*count as usize) as i64))
        } else {
            let row = schema.fields().iter().map(|f| random.value(f.data_type())).collect();
            (row, if random.one_in(4) { 3 } else { 1 })
        };
        let count = table.entry(row.clone()).or_default();
        *count += diff;
        if *count == 0 {
            table.remove(&row);
        }
        rows.push((row, diff));
    }
    rows
}

/// The rows of a query of DataFusion over the tables `t0`, `t1`, ...
fn query(inputs: &[SchemaRef], tables: &[BTreeMap<Vec<Option<String>>, i64>], sql: &str) -> Counted {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    for (i, (schema, table)) in inputs.iter().zip(tables).enumerate() {
        let rows: Vec<_> =
            table.iter().flat_map(|(row, n)| std::iter::repeat_n((row.clone(), 1), *n as usize)).collect();
        let data = batch(schema, &rows).data().clone();
        context.register_batch(&format!("t{i}"), data).expect("a table");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let batches = runtime
        .block_on(async { context.sql(sql).await?.collect().await })
        .unwrap_or_else(|error| panic!("the query of the oracle fails: {error}"));
    let mut rows = Counted::new();
    for data in batches {
        for row in 0..data.num_rows() {
            let values: Vec<String> = data.columns().iter().map(|c| value_text(c, row)).collect();
            *rows.entry(format!("({})", values.join(","))).or_default() += 1;
        }
    }
    rows
}

/// A test that an operator says, at every epoch, what a query in batch says over the same rows.
///
/// ```text
/// oracle!(counts, operator(), ["a bigint, b text"], "SELECT a, count(*) FROM t0 GROUP BY a");
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! oracle {
    ($name:ident, $operator:expr, [$($input:expr),* $(,)?], $sql:expr) => {
        #[test]
        fn $name() {
            $crate::testing::check_oracle(&$operator, &[$($input),*], $sql, false);
        }
    };
    ($name:ident, $operator:expr, [$($input:expr),* $(,)?], $sql:expr, append_only) => {
        #[test]
        fn $name() {
            $crate::testing::check_oracle(&$operator, &[$($input),*], $sql, true);
        }
    };
}
