use datafusion::common::ScalarValue;
use expect_test::expect;

use super::*;
use crate::expr::{BinaryOp, Expr};
use crate::oracle;
use crate::testing::{self, Counted, Random, TestTask, div, run, schema};
use crate::watermark::Watermark;
use storage::Batch;

const LEFT: &str = "k bigint, a text";
const RIGHT: &str = "b text, j bigint";

fn node(kind: JoinKind) -> HashJoin {
    let line = match kind {
        JoinKind::Semi | JoinKind::Anti | JoinKind::NullAwareAnti => LEFT.to_string(),
        JoinKind::Mark => format!("{LEFT}, m boolean"),
        _ => format!("{LEFT}, {RIGHT}"),
    };
    HashJoin {
        kind,
        keys: [vec![0], vec![1]],
        null_equal: vec![false],
        ranges: [None, None],
        expiry: [None, None],
        condition: None,
        append_only: [false; 2],
        alone: false,
        schema: schema(&line),
    }
}

/// `a <> b`
fn with_condition(kind: JoinKind) -> HashJoin {
    let column = |i| Box::new(Expr::Column(i));
    let condition = Expr::Binary { op: BinaryOp::NotEq, left: column(1), right: column(2) };
    HashJoin { condition: Some(condition), ..node(kind) }
}

fn without_keys(join: HashJoin) -> HashJoin {
    HashJoin { keys: [vec![], vec![]], null_equal: vec![], ..join }
}

#[test]
fn retracts_a_match() {
    let script = "1 L +(1,a) R +(x,1) 2 L -(1,a) 3 R -(x,1)";
    expect![[r#"
        1 +(1,a,x,1)
        2 -(1,a,x,1)
        3"#]]
    .assert_eq(&run(node(JoinKind::Inner), &[LEFT, RIGHT], script));
}

#[test]
fn diffs_multiply() {
    let script = "1 L +2(1,a) R +3(x,1) 2 R -(x,1)";
    expect![[r#"
        1 +6(1,a,x,1)
        2 -2(1,a,x,1)"#]]
    .assert_eq(&run(node(JoinKind::Inner), &[LEFT, RIGHT], script));
}

#[test]
fn a_padded_row_goes_when_a_match_comes() {
    let script = "1 L +2(1,a) +(NULL,n) 2 R +(x,1) +(y,1) 3 R -(x,1) 4 R -(y,1)";
    expect![[r#"
        1 +2(1,a,NULL,NULL) +(NULL,n,NULL,NULL)
        2 -2(1,a,NULL,NULL) +2(1,a,x,1) +2(1,a,y,1)
        3 -2(1,a,x,1)
        4 +2(1,a,NULL,NULL) -2(1,a,y,1)"#]]
    .assert_eq(&run(node(JoinKind::Left), &[LEFT, RIGHT], script));
}

#[test]
fn a_null_on_the_right_empties_not_in() {
    let script = "1 L +(1,a) +(NULL,n) 2 R +(x,2) 3 R +(y,NULL) 4 R -(y,NULL) 5 R -(x,2)";
    expect![[r#"
        1 +(1,a) +(NULL,n)
        2 -(NULL,n)
        3 -(1,a)
        4 +(1,a)
        5 +(NULL,n)"#]]
    .assert_eq(&run(node(JoinKind::NullAwareAnti), &[LEFT, RIGHT], script));
}

#[test]
fn a_condition_that_fails_is_an_error_and_no_match() {
    let one = Expr::Literal(crate::expr::Literal::from_scalar(&ScalarValue::Int64(Some(1))).unwrap());
    let condition = Expr::Binary { op: BinaryOp::Gt, left: Box::new(div(1, 2)), right: Box::new(one) };
    let join = HashJoin {
        condition: Some(condition),
        keys: [vec![0], vec![1]],
        schema: schema("k bigint, a bigint, b bigint, j bigint"),
        ..node(JoinKind::Left)
    };
    let said = run(join, &["k bigint, a bigint", "b bigint, j bigint"], "1 R +2(0,1) L +(1,4) 2 R +(2,1) 3 R -2(0,1)");
    expect![[r#"
        1 +(1,4,NULL,NULL) +2!22012 division by zero
        2 +(1,4,2,1) -(1,4,NULL,NULL)
        3 -2!22012 division by zero"#]]
    .assert_eq(&said);
}

#[test]
fn a_key_with_many_matches_leaves_in_pieces() {
    let mut task = crate::testing::TestTask::new(node(JoinKind::Inner), &[schema(LEFT), schema(RIGHT)], 1);
    let row = |i: usize, left: bool| {
        let (key, text) = (Some("7".to_string()), Some(format!("row {i}")));
        (if left { vec![key, text] } else { vec![text, key] }, 1)
    };
    let left: Vec<_> = (0..600).map(|i| row(i, true)).collect();
    let right: Vec<_> = (0..600).map(|i| row(i, false)).collect();
    task.apply(0, &crate::testing::batch(&schema(LEFT), &left));
    task.apply(1, &crate::testing::batch(&schema(RIGHT), &right));
    let (batches, _) = task.seal(false);
    assert_eq!(batches.iter().map(Batch::num_rows).sum::<usize>(), 360_000);
}

macro_rules! oracles {
    ($($name:ident, $kind:ident, $sql:expr;)*) => {
        mod plain { use super::*; $(oracle!($name, node(JoinKind::$kind), [LEFT, RIGHT], &$sql.replace("ON", "k = j"));)* }
        mod conditional { use super::*; $(oracle!($name, with_condition(JoinKind::$kind), [LEFT, RIGHT],
            &$sql.replace("ON", "k = j and a <> b"));)* }
        mod keyless { use super::*; $(oracle!($name, without_keys(with_condition(JoinKind::$kind)), [LEFT, RIGHT],
            &$sql.replace("ON", "a <> b"));)* }
        mod every_pair { use super::*; $(oracle!($name, without_keys(node(JoinKind::$kind)), [LEFT, RIGHT],
            &$sql.replace("ON", "true"));)* }
    };
}

oracles! {
    inner, Inner, "select * from t0 join t1 on ON";
    left, Left, "select * from t0 left join t1 on ON";
    right, Right, "select * from t0 right join t1 on ON";
    full, Full, "select * from t0 full join t1 on ON";
    semi, Semi, "select * from t0 where exists (select 1 from t1 where ON)";
    anti, Anti, "select * from t0 where not exists (select 1 from t1 where ON)";
    mark, Mark, "select k, a, true from t0 where exists (select 1 from t1 where ON)
        union all select k, a, false from t0 where not exists (select 1 from t1 where ON)";
}

oracle!(
    null_aware_anti,
    node(JoinKind::NullAwareAnti),
    [LEFT, RIGHT],
    "select * from t0 where (select count(*) from t1) = 0 or (k is not null
     and (select count(*) from t1 where j is null) = 0 and not exists (select 1 from t1 where k = j))"
);
oracle!(
    null_equal,
    HashJoin { null_equal: vec![true], ..node(JoinKind::Full) },
    [LEFT, RIGHT],
    "select * from t0 full join t1 on k is not distinct from j"
);

const POINTS: &str = "k bigint, x bigint, a text";
const SPANS: &str = "j bigint, lo bigint, hi bigint";

/// `lo <= x and x < hi`: the points ordered by x, the spans by lo; with the keys k = j, or without.
fn between(kind: JoinKind, keyed: bool) -> HashJoin {
    let compare = |op, l, r| Expr::Binary { op, left: Box::new(Expr::Column(l)), right: Box::new(Expr::Column(r)) };
    let (low, high) = (compare(BinaryOp::LtEq, 4, 1), compare(BinaryOp::Lt, 1, 5));
    let line = match kind {
        JoinKind::Semi | JoinKind::Anti => POINTS.to_string(),
        JoinKind::Mark => format!("{POINTS}, m boolean"),
        _ => format!("{POINTS}, {SPANS}"),
    };
    HashJoin {
        kind,
        keys: if keyed { [vec![0], vec![0]] } else { [vec![], vec![]] },
        null_equal: if keyed { vec![false] } else { vec![] },
        ranges: [
            Some(Range { column: 1, above: Some((1, true)), below: Some((2, false)) }),
            Some(Range { column: 1, above: None, below: Some((1, true)) }),
        ],
        expiry: [None, None],
        condition: Some(Expr::Binary { op: BinaryOp::And, left: Box::new(low), right: Box::new(high) }),
        append_only: [false; 2],
        alone: false,
        schema: schema(&line),
    }
}

macro_rules! range_oracles {
    ($($name:ident, $kind:ident, $keyed:literal, $sql:expr;)*) => {
        mod range { use super::*; $(oracle!($name, between(JoinKind::$kind, $keyed), [POINTS, SPANS],
            &$sql.replace("ON", if $keyed { "k = j and lo <= x and x < hi" } else { "lo <= x and x < hi" }));)* }
    };
}

range_oracles! {
    inner, Inner, false, "select * from t0 join t1 on ON";
    inner_keyed, Inner, true, "select * from t0 join t1 on ON";
    left, Left, false, "select * from t0 left join t1 on ON";
    full, Full, false, "select * from t0 full join t1 on ON";
    full_keyed, Full, true, "select * from t0 full join t1 on ON";
    semi, Semi, false, "select * from t0 where exists (select 1 from t1 where ON)";
    anti_keyed, Anti, true, "select * from t0 where not exists (select 1 from t1 where ON)";
}

#[test]
fn a_range_looks_at_no_other_rows() {
    // A condition that fails for the pairs outside of the range: they are not looked at.
    let pass = Expr::Binary { op: BinaryOp::Gt, left: Box::new(div(1, 4)), right: Box::new(div(4, 4)) };
    let join = HashJoin {
        condition: Some(pass),
        ranges: [Some(Range { column: 1, above: Some((1, false)), below: None }), None],
        ..between(JoinKind::Inner, false)
    };
    let said = run(join, &[POINTS, SPANS], "1 L +(1,0,a) +(1,5,b) R +(1,2,0) 2 R +(1,0,0)");
    expect![[r#"
        1 +(1,5,b,1,2,0)
        2 +!22012 division by zero"#]]
    .assert_eq(&said);
}

#[test]
fn a_flood_flips_in_pieces() {
    let left: Vec<_> = (0..20_000).map(|i| (vec![Some("7".to_string()), Some(format!("row {i}"))], 1)).collect();
    let right = [(vec![Some("x".to_string()), Some("7".to_string())], 1)];
    for kind in [JoinKind::Anti, JoinKind::NullAwareAnti, JoinKind::Left] {
        let mut task = crate::testing::TestTask::new(node(kind), &[schema(LEFT), schema(RIGHT)], 1);
        for part in left.chunks(5_000) {
            task.apply(0, &crate::testing::batch(&schema(LEFT), part));
        }
        task.seal(true);
        task.restart(1);
        task.apply(1, &crate::testing::batch(&schema(RIGHT), &right));
        let (batches, _) = task.seal(true);
        let gone: i64 = batches.iter().flat_map(|b| (0..b.num_rows()).map(|row| b.diff(row).min(0))).sum();
        assert_eq!(gone, -20_000, "{kind:?}");
    }
}

/// What a join by `a.t BETWEEN b.lo AND b.hi` and key keeps while both watermarks rise, against one that keeps all.
fn expires(kind: JoinKind, keyed: bool, own: bool, seed: u64, workers: usize) {
    let (left, right) = ("k bigint, t bigint", "lo bigint, t bigint, hi bigint, j bigint");
    let compare = |op, left, right| Expr::Binary {
        op,
        left: Box::new(Expr::Column(left)),
        right: Box::new(Expr::Column(right)),
    };
    let condition = Expr::Binary {
        op: BinaryOp::And,
        left: Box::new(compare(BinaryOp::GtEq, 1, 2)),
        right: Box::new(compare(BinaryOp::LtEq, 1, 4)),
    };
    let keys = if keyed { [vec![0], vec![3]] } else { [vec![], vec![]] };
    let shown = match kind {
        JoinKind::Semi | JoinKind::Anti => left.to_string(),
        JoinKind::Mark => format!("{left}, m boolean"),
        _ => "k bigint, t bigint, lo bigint, u bigint, hi bigint, j bigint".to_string(),
    };
    let all = HashJoin {
        kind,
        null_equal: vec![false; keys[0].len()],
        keys,
        ranges: [Some(Range { column: 1, above: Some((0, true)), below: Some((2, true)) }), None],
        expiry: [None, None],
        condition: Some(condition),
        append_only: [!own; 2],
        alone: false,
        schema: schema(&shown),
    };
    // b.hi is never below a.t in a pair.
    let expiry = [Expiry { column: 1, other: 0, own, null_equal: false }, Expiry { column: 2, other: 1, own, null_equal: false }].map(Some);
    let few = HashJoin { expiry, ..all.clone() };
    let inputs = [schema(left), schema(right)];
    let mut tasks = [all, few].map(|node| TestTask::new(node, &inputs, workers));
    let mut random = Random::new(seed);
    let mut said = [Counted::new(), Counted::new()];
    let mut known: [Vec<Vec<Option<String>>>; 2] = Default::default();
    let mark = |at| Some(Watermark { at, floor: at, lateness: false, retracts: false });
    let mut now = 100_i64;
    for epoch in 0..40 {
        let floor = now - 10;
        for side in 0..2 {
            let mut rows = Vec::new();
            for _ in 0..random.below(6) {
                let place = (0..known[side].len()).find(|_| own && random.one_in(12));
                let of = |row: &Vec<Option<String>>| row[1].as_ref().and_then(|t| t.parse::<i64>().ok()).unwrap_or(0);
                if let Some(place) = place.filter(|place| of(&known[side][*place]) >= floor) {
                    rows.push((known[side].swap_remove(place), -1));
                    continue;
                }
                let t = floor + random.below(20) as i64;
                let k = Some(random.below(3).to_string());
                let row = match side {
                    0 => vec![k, Some(t.to_string())],
                    _ => vec![Some((t - 5).to_string()), Some(t.to_string()), Some((t + 3).to_string()), k],
                };
                known[side].push(row.clone());
                rows.push((row, 1));
            }
            for task in &mut tasks {
                task.apply(side, &testing::batch(&inputs[side], &rows));
            }
        }
        now += random.below(8) as i64;
        // No later row and no change of one is below what the next epoch may bring.
        let floor = now - 10;
        let marks = vec![vec![None, mark(floor)], vec![mark(floor - 5), mark(floor), mark(floor + 3), None]];
        for (task, said) in tasks.iter_mut().zip(&mut said) {
            let (batches, errors) = task.seal_with(epoch == 20, marks.clone());
            assert!(errors.is_empty());
            testing::accumulate(said, &batches);
        }
        assert_eq!(said[0], said[1], "{kind:?}, seed {seed}, epoch {epoch}");
        if epoch == 20 {
            tasks.iter_mut().for_each(|task| task.restart(workers));
        }
    }
    assert!(tasks[1].state_rows() <= 160 * workers as u64, "{kind:?}: {} rows", tasks[1].state_rows());
}

#[test]
fn rows_leave_as_the_watermarks_pass() {
    let kinds = [JoinKind::Inner, JoinKind::Left, JoinKind::Semi, JoinKind::Anti, JoinKind::Mark];
    for (seed, kind) in (0_u64..).zip(kinds) {
        let workers = 1 + seed as usize % 2;
        expires(kind, true, true, seed, workers);
        expires(kind, true, false, seed, workers);
        expires(kind, false, true, seed, workers);
    }
    expires(JoinKind::Full, true, true, 4, 2);
    expires(JoinKind::Right, true, false, 5, 1);
}

#[test]
fn equal_keys_leave_on_both_sides() {
    let expiry = [Expiry { column: 0, other: 1, own: true, null_equal: false }, Expiry { column: 1, other: 0, own: true, null_equal: false }].map(Some);
    for kind in [JoinKind::Inner, JoinKind::Left, JoinKind::Semi, JoinKind::Anti, JoinKind::Mark, JoinKind::Full] {
        let inputs = [schema(LEFT), schema(RIGHT)];
        let mut task = TestTask::new(HashJoin { expiry: expiry.clone(), ..node(kind) }, &inputs, 2);
        let mark = |at| Some(Watermark { at, floor: at, lateness: false, retracts: false });
        for at in 0..60_i64 {
            let key = Some(at.to_string());
            task.apply(0, &testing::batch(&inputs[0], &[(vec![key.clone(), Some("a".into())], 1)]));
            task.apply(1, &testing::batch(&inputs[1], &[(vec![Some("x".into()), key], 1)]));
            task.seal_with(at % 7 == 0, vec![vec![mark(at - 3), None], vec![None, mark(at - 2)]]);
        }
        assert!(task.state_rows() <= 24, "{kind:?}: {} rows", task.state_rows());
    }
}
