use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parking_lot::Mutex;
use storage::{Column, SqlType, row};

use super::*;
use crate::lookup::{Asking, CacheLimits, Lookup, Lookups};
use crate::testing::{Counted, Random, TestTask, accumulate, batch as rows_of, schema};

const LEFT: &str = "k bigint, a text";

/// A table outside: the names of each number. It may be away.
#[derive(Default)]
struct Outside {
    names: Mutex<BTreeMap<i64, Vec<String>>>,
    away: Mutex<bool>,
    asked: Mutex<usize>,
    cache: CacheLimits,
}

struct Connection(Arc<Outside>);

struct Table(Arc<Outside>);

impl Lookup for Table {
    fn connect(&self) -> Result<Box<dyn Asking>> {
        Ok(Box::new(Connection(self.0.clone())))
    }
    fn cache(&self) -> CacheLimits {
        self.0.cache
    }
}

impl Asking for Connection {
    fn ask(&mut self, keys: &RecordBatch) -> Result<Vec<Answer>> {
        if *self.0.away.lock() {
            return Err(Error::Unavailable("the table is away".into()));
        }
        *self.0.asked.lock() += keys.num_rows();
        let names = self.0.names.lock();
        let answer = |key: i64| {
            if key == 3 {
                return Answer { rows: vec![], refused: Some(("no name".into(), "22000".into())) };
            }
            let there = names.get(&key).cloned().unwrap_or_default();
            let texts: ArrayRef = Arc::new(arrow::array::StringViewArray::from_iter_values(&there));
            let encoded = row::encode_rows(&[texts], there.len()).unwrap();
            Answer { rows: encoded.iter().map(<[u8]>::to_vec).collect(), refused: None }
        };
        Ok(keys.column(0).as_primitive::<Int64Type>().values().iter().map(|key| answer(*key)).collect())
    }
}

fn node(outer: bool, append_only: bool) -> LookupJoin {
    let columns = vec![Column::new("id", SqlType::BigInt), Column::new("name", SqlType::Text)];
    LookupJoin {
        outer,
        keys: vec![0],
        table: LookupSpec { name: "names".into(), options: vec![], columns },
        table_keys: vec![0],
        wanted: vec![1],
        condition: None,
        append_only,
        schema: schema("k bigint, a text, name text"),
    }
}

fn lookups(dir: &std::path::Path, outside: &Arc<Outside>, stored: u64) -> Arc<Lookups> {
    let table: Arc<dyn Lookup> = Arc::new(Table(outside.clone()));
    Lookups::open(&dir.join("lookups"), BTreeMap::from([(0, table)]), stored).unwrap()
}

struct World {
    task: TestTask,
    outside: Arc<Outside>,
    said: Counted,
    errors: i64,
}

impl World {
    fn new(outer: bool, append_only: bool, workers: usize, outside: Outside) -> World {
        let outside = Arc::new(outside);
        let dir = tempfile(&outside);
        let task = TestTask::with_lookups(node(outer, append_only), &[schema(LEFT)], workers, lookups(&dir, &outside, 0));
        World { task, outside, said: Counted::new(), errors: 0 }
    }

    fn apply(&mut self, changes: &[(i64, &str, i64)]) {
        let rows: Vec<_> =
            changes.iter().map(|(k, a, diff)| (vec![Some(k.to_string()), Some(a.to_string())], *diff)).collect();
        self.task.apply(0, &rows_of(&schema(LEFT), &rows));
    }

    fn seal(&mut self, checkpoint: bool) {
        let (batches, errors) = self.task.seal(checkpoint);
        accumulate(&mut self.said, &batches);
        self.errors += errors.iter().map(|error| error.diff).sum::<i64>();
        if checkpoint {
            let lookups = self.task.lookups.clone().unwrap();
            lookups.note();
            lookups.committed();
        }
    }

    /// As after a SIGKILL: what was said since the checkpoint is not known to the state.
    fn crash(&mut self, workers: usize) {
        let stored = self.task.lookups.take().unwrap().noted();
        self.task.stop();
        self.task.lookups = Some(lookups(&tempfile(&self.outside), &self.outside, stored));
        self.task.restart(workers);
    }

    fn name(&self, key: i64, names: &[&str]) {
        self.outside.names.lock().insert(key, names.iter().map(|name| (*name).to_owned()).collect());
    }

    fn said(&self) -> Vec<String> {
        self.said.iter().map(|(row, n)| format!("{n}{row}")).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(tempfile(&self.outside));
    }
}

fn tempfile(outside: &Arc<Outside>) -> std::path::PathBuf {
    std::env::temp_dir().join(format!("headwater-lookup-{}-{:p}", std::process::id(), Arc::as_ptr(outside)))
}

#[test]
fn a_row_keeps_the_answer_that_it_was_given() {
    let mut world = World::new(true, false, 1, Outside::default());
    world.name(1, &["x", "y"]);
    world.apply(&[(1, "a", 1), (2, "b", 2), (3, "c", 1)]);
    world.seal(false);
    assert_eq!(world.said(), ["1(1,a,x)", "1(1,a,y)", "2(2,b,NULL)"]);
    assert_eq!(world.errors, 1);
    world.name(1, &["z"]);
    world.apply(&[(1, "d", 1), (3, "c", -1)]);
    world.seal(true);
    assert_eq!(world.said(), ["1(1,a,x)", "1(1,a,y)", "1(1,d,z)", "2(2,b,NULL)"]);
    assert_eq!(world.errors, 0);
    world.crash(2);
    world.apply(&[(1, "a", -1), (2, "b", -1)]);
    world.seal(false);
    assert_eq!(world.said(), ["1(1,d,z)", "1(2,b,NULL)"]);
}

#[test]
fn rows_wait_while_the_outside_is_away_and_can_go_unanswered() {
    let mut world = World::new(false, false, 1, Outside::default());
    world.name(1, &["x"]);
    *world.outside.away.lock() = true;
    world.apply(&[(1, "a", 1), (1, "b", 1)]);
    world.seal(true);
    assert!(world.said.is_empty());
    let lookups = world.task.lookups.clone().unwrap();
    assert_eq!((lookups.rows_waiting(), lookups.error().as_deref()), (2, Some("the table is away")));
    world.crash(1);
    world.apply(&[(1, "b", -1)]);
    *world.outside.away.lock() = false;
    while world.said.is_empty() {
        world.seal(false);
    }
    assert_eq!(world.said(), ["1(1,a,x)"]);
    assert_eq!(world.task.lookups.as_ref().unwrap().error(), None);
}

#[test]
fn remembered_answers_are_not_asked_for_again() {
    let cache = CacheLimits { max_rows: 10, ttl: Duration::from_secs(3600) };
    let mut world = World::new(false, true, 1, Outside { cache, ..Outside::default() });
    world.name(1, &["x"]);
    for row in ["a", "b", "c"] {
        world.apply(&[(1, row, 1)]);
        world.seal(false);
    }
    assert_eq!(world.said(), ["1(1,a,x)", "1(1,b,x)", "1(1,c,x)"]);
    assert_eq!(*world.outside.asked.lock(), 1);
}

/// Whatever the outside says the second time, what was visible before a crash is so again after the same changes came.
fn check(seed: u64, workers: [usize; 2], append_only: bool) {
    let mut random = Random::new(seed);
    let mut world = World::new(random.one_in(2), append_only, workers[0], Outside::default());
    let mut there: BTreeMap<(i64, &str), i64> = BTreeMap::new();
    for _ in 0..4 {
        let mut since: Vec<Vec<(i64, &str, i64)>> = Vec::new();
        world.seal(true);
        let (durable, errors) = (world.said.clone(), world.errors);
        for _ in 0..random.below(5) {
            let key = random.below(4) as i64;
            let name = format!("name {}", random.below(1000));
            world.name(key, &[name.as_str()][..random.below(2)]);
            let mut changes = Vec::new();
            for _ in 0..random.below(4) {
                let row = (random.below(4) as i64, ["a", "b"][random.below(2)]);
                let count = there.entry(row).or_default();
                let diff = if *count > 0 && !append_only && random.one_in(2) { -1 } else { 1 };
                *count += diff;
                changes.push((row.0, row.1, diff));
            }
            world.apply(&changes);
            world.seal(false);
            since.push(changes);
        }
        let (before, errors_before) = (world.said.clone(), world.errors);
        (world.said, world.errors) = (durable, errors);
        world.name(random.below(4) as i64, &["another"]);
        world.crash(workers[1]);
        world.task.recovering = true;
        let merged = random.one_in(2);
        for changes in since {
            world.apply(&changes);
            if !merged {
                world.seal(false);
            }
        }
        world.seal(false);
        assert_eq!(world.said, before, "seed {seed}, merged {merged}");
        assert_eq!(world.errors, errors_before, "seed {seed}");
        world.task.recovering = false;
    }
    let gone: Vec<_> = there.iter().filter(|(_, n)| **n > 0).map(|((k, a), n)| (*k, *a, -*n)).collect();
    if !append_only {
        world.apply(&gone);
        world.seal(false);
        assert!(world.said.is_empty() && world.errors == 0, "seed {seed}: {:?}", world.said);
    }
}

#[test]
fn what_was_visible_is_so_again_after_a_crash() {
    for seed in 0..2 {
        check(seed, [1, 1], false);
        check(seed, [2, 3], false);
        check(seed, [2, 1], true);
    }
}
