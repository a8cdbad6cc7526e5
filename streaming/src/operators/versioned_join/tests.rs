use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect;
use storage::Batch;

use super::*;
use crate::expr::BinaryOp;
use crate::testing::{Counted, Random, TestTask, accumulate, batch, schema};

const LEFT: &str = "k bigint, at bigint, a text";
const RIGHT: &str = "k bigint, at bigint, b text, deleted boolean";

fn node(outer: bool) -> VersionedJoin {
    VersionedJoin {
        outer,
        keys: [vec![0], vec![0]],
        times: [1, 1],
        deleted: Some(3),
        ties: vec![],
        condition: None,
        schema: schema("k bigint, at bigint, a text, j bigint, from_ bigint, b text, deleted boolean"),
    }
}

fn mark(at: i64) -> Option<Watermark> {
    Some(Watermark { at, floor: at, lateness: false, retracts: false })
}

fn marks(left: i64, right: i64) -> Vec<Watermarks> {
    vec![vec![None, mark(left), None], vec![None, mark(right), None, None]]
}

type Row = Vec<Option<String>>;

fn row(values: &[&str]) -> Row {
    values.iter().map(|value| (*value != "NULL").then(|| value.to_string())).collect()
}

fn of(line: &str, rows: &[&[&str]]) -> Batch {
    batch(&schema(line), &rows.iter().map(|values| (row(values), 1)).collect::<Vec<_>>())
}

fn said(task: &mut TestTask, left: i64, right: i64) -> String {
    let (batches, errors) = task.seal_with(true, marks(left, right));
    assert!(errors.is_empty() && batches.iter().all(Batch::is_append_only));
    let mut rows = Counted::new();
    accumulate(&mut rows, &batches);
    rows.keys().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_row_waits_for_both_watermarks_and_meets_the_version_of_its_time() {
    let mut task = TestTask::new(node(true), &[schema(LEFT), schema(RIGHT)], 1);
    task.apply(0, &of(LEFT, &[&["1", "12", "x"], &["1", "9", "y"], &["2", "12", "z"], &["NULL", "11", "n"]]));
    task.apply(0, &of(LEFT, &[&["1", "20", "at the change"], &["1", "NULL", "no time"]]));
    task.apply(1, &of(RIGHT, &[&["1", "10", "b10", "false"], &["1", "20", "b20", "false"]]));
    expect!["(1,NULL,no time,NULL,NULL,NULL,NULL)"].assert_eq(&said(&mut task, 30, 9));
    expect!["(1,9,y,NULL,NULL,NULL,NULL)"].assert_eq(&said(&mut task, 30, 10));
    expect!["(1,12,x,1,10,b10,false) (2,12,z,NULL,NULL,NULL,NULL) (NULL,11,n,NULL,NULL,NULL,NULL)"]
        .assert_eq(&said(&mut task, 30, 20));
    expect!["(1,20,at the change,1,20,b20,false)"].assert_eq(&said(&mut task, 21, 30));
    // Only the last version is left.
    assert_eq!(task.state_rows(), 1);
}

#[test]
fn a_deleted_key_has_no_version_until_the_next() {
    let mut task = TestTask::new(node(true), &[schema(LEFT), schema(RIGHT)], 1);
    task.apply(1, &of(RIGHT, &[&["1", "10", "b10", "false"], &["1", "50", "b50", "false"]]));
    // What began behind the end is gone with it.
    task.apply(1, &of(RIGHT, &[&["1", "20", "b50", "true"]]));
    task.apply(1, &of(RIGHT, &[&["1", "30", "b30", "false"]]));
    task.apply(0, &of(LEFT, &[&["1", "15", "p"], &["1", "20", "q"], &["1", "30", "r"], &["1", "55", "s"]]));
    expect![
        "(1,15,p,1,10,b10,false) (1,20,q,NULL,NULL,NULL,NULL) (1,30,r,1,30,b30,false) (1,55,s,1,30,b30,false)"
    ]
    .assert_eq(&said(&mut task, 60, 60));
    task.apply(1, &of(RIGHT, &[&["1", "60", "b30", "true"]]));
    assert_eq!(said(&mut task, 70, 70), "");
    assert_eq!(task.state_rows(), 0);
}

#[test]
fn a_condition_is_asked_of_the_version_that_is_found() {
    let differs =
        Expr::Binary { op: BinaryOp::NotEq, left: Box::new(Expr::Column(2)), right: Box::new(Expr::Column(5)) };
    for outer in [true, false] {
        let node = VersionedJoin { condition: Some(differs.clone()), ..node(outer) };
        let mut task = TestTask::new(node, &[schema(LEFT), schema(RIGHT)], 1);
        task.apply(1, &of(RIGHT, &[&["1", "10", "b10", "false"], &["1", "20", "b20", "false"]]));
        task.apply(0, &of(LEFT, &[&["1", "25", "b20"], &["1", "26", "b10"], &["2", "26", "b10"]]));
        let all = said(&mut task, 60, 60);
        let padded = "(1,25,b20,NULL,NULL,NULL,NULL) ";
        assert_eq!(all.contains(padded), outer, "{all}");
        assert!(all.contains("(1,26,b10,1,20,b20,false)"), "{all}");
    }
}

#[test]
fn of_versions_of_one_time_the_last_by_the_ties_counts() {
    let node = VersionedJoin { ties: vec![2], deleted: None, ..node(false) };
    let mut task = TestTask::new(node, &[schema(LEFT), schema(RIGHT)], 1);
    task.apply(1, &of(RIGHT, &[&["1", "10", "m", "false"], &["1", "10", "z", "false"], &["1", "10", "a", "false"]]));
    task.apply(0, &of(LEFT, &[&["1", "10", "x"]]));
    assert_eq!(said(&mut task, 11, 11), "(1,10,x,1,10,z,false)");
}

/// Against a batch computation over all that ever came: each left row that is below both watermarks with what the changes,
/// applied one after the other, leave of its key at its time.
fn check(seed: u64, outer: bool, workers: usize, restart: Option<usize>) {
    let inputs = [schema(LEFT), schema(RIGHT)];
    let mut task = TestTask::new(node(outer), &inputs, workers);
    let mut random = Random::new(seed);
    let mut history: BTreeMap<usize, BTreeMap<i64, Option<String>>> = BTreeMap::new();
    let mut waiting: Vec<(usize, i64, String)> = Vec::new();
    let (mut all, mut expected) = (Counted::new(), Counted::new());
    let (mut left, mut right) = (0, 0);
    for epoch in 0..30 {
        for _ in 0..random.below(8) {
            let (key, ahead) = (random.below(3), random.below(12) as i64);
            if random.one_in(2) {
                let (time, a) = (left + ahead, format!("a{}", random.below(3)));
                task.apply(0, &of(LEFT, &[&[&key.to_string(), &time.to_string(), &a]]));
                waiting.push((key, time, a));
            } else {
                let (time, b) = (right + ahead, format!("b{}", random.below(9)));
                let deleted = random.one_in(4);
                task.apply(1, &of(RIGHT, &[&[&key.to_string(), &time.to_string(), &b, &deleted.to_string()]]));
                let of_key = history.entry(key).or_default();
                if deleted {
                    of_key.split_off(&time);
                }
                of_key.insert(time, (!deleted).then_some(b));
            }
        }
        left += random.below(6) as i64;
        right += random.below(6) as i64;
        let decided = left.min(right);
        for (key, time, a) in waiting.extract_if(.., |(_, time, _)| *time < decided) {
            let version = history.get(&key).and_then(|of_key| of_key.range(..=time).next_back());
            let pair = match version {
                Some((from, Some(b))) => format!("({key},{time},{a},{key},{from},{b},false)"),
                _ if outer => format!("({key},{time},{a},NULL,NULL,NULL,NULL)"),
                _ => continue,
            };
            *expected.entry(pair).or_default() += 1;
        }
        let restarts = restart.filter(|_| epoch % 10 == 5);
        let (batches, errors) = task.seal_with(restarts.is_some() || random.one_in(3), marks(left, right));
        assert!(errors.is_empty() && batches.iter().all(Batch::is_append_only));
        accumulate(&mut all, &batches);
        assert_eq!(all, expected, "seed {seed}, {workers} workers, epoch {epoch}");
        // Those that wait, and the versions that can still be asked for.
        let kept: usize = history
            .values()
            .map(|of_key| {
                let last = of_key.range(..=decided).next_back().filter(|(_, b)| b.is_some()).map(|(from, _)| *from);
                of_key.keys().filter(|from| **from > decided || Some(**from) == last).count()
            })
            .sum();
        let rows = waiting.iter().collect::<BTreeSet<_>>().len() + kept;
        assert!(task.state_rows() <= rows as u64, "seed {seed}, epoch {epoch}: {} of {rows}", task.state_rows());
        if let Some(workers) = restarts {
            task.restart(workers);
        }
    }
    assert!(!expected.is_empty());
}

#[test]
fn agrees_with_a_batch_computation() {
    for seed in 0..8 {
        for outer in [true, false] {
            check(seed, outer, 1, None);
            check(seed, outer, 2, Some(4));
            check(seed, outer, 4, Some(1));
        }
    }
}
