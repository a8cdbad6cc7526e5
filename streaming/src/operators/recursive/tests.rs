use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect;

use super::*;
use crate::expr::{BinaryOp, Expr};
use crate::operators::{Filter, HashJoin, Project, hash_join::JoinKind};
use crate::oracle;
use crate::testing::{Counted, Random, TestTask, accumulate, batch as rows, run, schema};

const START: &str = "x bigint";
const EDGES: &str = "s bigint, d bigint";

/// `t(x) AS (start UNION [ALL] SELECT d FROM t JOIN edges ON x = s)`
fn reach(distinct: bool) -> Recursive {
    let join = HashJoin {
        kind: JoinKind::Inner,
        keys: [vec![0], vec![0]],
        null_equal: vec![false],
        ranges: [None, None],
        expiry: [None, None],
        condition: None,
        append_only: [false; 2],
        alone: true,
        schema: schema("x bigint, round bigint, s bigint, d bigint"),
    };
    let project = Project { exprs: vec![Expr::Column(3), Expr::Column(1)], schema: schema("d bigint, round bigint") };
    let body = vec![
        PlanNode { operator: join.into(), inputs: vec![0, 1] },
        PlanNode { operator: project.into(), inputs: vec![2] },
    ];
    Recursive { body, n_inputs: 2, distinct, schema: schema(START) }
}

#[test]
fn a_row_goes_with_its_support_also_in_a_circle() {
    let script = "1 L +(1) R +(1,2) +(2,3) +(3,1) 2 R +(3,4) 3 L -(1) 4 L +(2) 5 R -(2,3)";
    expect![[r#"
        1 +(1) +(2) +(3)
        2 +(4)
        3 -(1) -(2) -(3) -(4)
        4 +(1) +(2) +(3) +(4)
        5 -(1) -(3) -(4)"#]]
    .assert_eq(&run(reach(true), &[START, EDGES], script));
}

#[test]
fn every_way_counts_with_union_all() {
    let script = "1 L +(1) R +(1,2) +(1,3) +(2,4) +(3,4) 2 R -(1,2) 3 L +(1)";
    expect![[r#"
        1 +(1) +(2) +(3) +2(4)
        2 -(2) -(4)
        3 +(1) +(3) +(4)"#]]
    .assert_eq(&run(reach(false), &[START, EDGES], script));
}

#[test]
fn what_does_not_end_is_an_error() {
    let said = run(reach(false), &[START, EDGES], "1 L +(1) 2 R +(1,1) 3 R -(1,1)");
    let rounds = ROUNDS_MAX;
    assert_eq!(
        said,
        format!(
            "1 +(1)\n2 +{rounds}(1) +!54001 the recursive query goes on after {rounds} rounds\n\
             3 -{rounds}(1) -!54001 the recursive query goes on after {rounds} rounds"
        )
    );
}

/// Random edges with circles, against a search.
fn check(seed: u64, workers: usize, restart: Option<usize>) {
    let inputs = [schema(START), schema(EDGES)];
    let mut task = TestTask::new(reach(true), &inputs, workers);
    let mut random = Random::new(seed);
    let (mut starts, mut edges) = (BTreeMap::<i64, i64>::new(), BTreeMap::<(i64, i64), i64>::new());
    let mut said = Counted::new();
    for epoch in 0..30 {
        for _ in 0..1 + random.below(4) {
            if random.one_in(4) {
                let x = random.below(7) as i64;
                let count = starts.entry(x).or_default();
                let diff = if *count > 0 && random.one_in(2) { -1 } else { 1 };
                *count += diff;
                task.apply(0, &rows(&inputs[0], &[(vec![Some(x.to_string())], diff)]));
            } else {
                let edge = (random.below(7) as i64, random.below(7) as i64);
                let count = edges.entry(edge).or_default();
                let diff = if *count > 0 { -1 } else { 1 };
                *count += diff;
                let row = vec![Some(edge.0.to_string()), Some(edge.1.to_string())];
                task.apply(1, &rows(&inputs[1], &[(row, diff)]));
            }
        }
        let mut found: BTreeSet<i64> = BTreeSet::new();
        let mut open: Vec<i64> = starts.iter().filter(|(_, n)| **n > 0).map(|(x, _)| *x).collect();
        while let Some(x) = open.pop() {
            if found.insert(x) {
                open.extend(edges.iter().filter(|((s, _), n)| *s == x && **n > 0).map(|((_, d), _)| *d));
            }
        }
        let restarts = restart.filter(|_| epoch == 15);
        let (batches, errors) = task.seal(restarts.is_some() || random.one_in(3));
        assert!(errors.is_empty(), "{errors:?}");
        accumulate(&mut said, &batches);
        let expected: Counted = found.iter().map(|x| (format!("({x})"), 1)).collect();
        assert_eq!(said, expected, "seed {seed}, epoch {epoch}: {edges:?} from {starts:?}");
        if let Some(workers) = restarts {
            task.restart(workers);
        }
    }
}

#[test]
fn agrees_with_a_search() {
    for seed in 0..12 {
        check(seed, 1, None);
        check(seed, 2, Some(3));
        check(seed, 3, Some(1));
    }
}

/// `t(x) AS (start UNION ALL SELECT x + 1 FROM t WHERE x < 3)`, without another input.
fn counting() -> Recursive {
    let three =
        Expr::Literal(crate::expr::Literal::from_scalar(&datafusion::common::ScalarValue::Int64(Some(3))).unwrap());
    let predicate = Expr::Binary { op: BinaryOp::Lt, left: Box::new(Expr::Column(0)), right: Box::new(three) };
    let filter = Filter { predicate, schema: schema("x bigint, round bigint") };
    let next = Expr::Case {
        when: (-2..3)
            .map(|n| {
                let literal = |n: i64| {
                    Expr::Literal(
                        crate::expr::Literal::from_scalar(&datafusion::common::ScalarValue::Int64(Some(n))).unwrap(),
                    )
                };
                let is =
                    Expr::Binary { op: BinaryOp::Eq, left: Box::new(Expr::Column(0)), right: Box::new(literal(n)) };
                (is, literal(n + 1))
            })
            .collect(),
        otherwise: None,
        returns: DataType::Int64,
    };
    let project = Project { exprs: vec![next, Expr::Column(1)], schema: schema("x bigint, round bigint") };
    let body = vec![
        PlanNode { operator: filter.into(), inputs: vec![0] },
        PlanNode { operator: project.into(), inputs: vec![1] },
    ];
    Recursive { body, n_inputs: 1, distinct: false, schema: schema(START) }
}

oracle!(
    counts_up,
    counting(),
    [START],
    "select x from t0 union all select n from t0 join (values (-1), (0), (1), (2), (3)) v(n) on x < n"
);
