//! Golden plans: a logical plan as the binder makes it, and the operators that it becomes.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use datafusion::common::JoinType;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::min_max::max_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{Exists, InSubquery, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Subquery, WindowFrame, cast, lit, not,
};
use expect_test::{Expect, expect};
use storage::{Column, RelationId, SqlType};
use streaming::operators::time_window::{Shape, Windows};

use crate::batch::RelationSource;
use crate::explain::explain_stream;
use crate::expr::column;
use crate::nodes::TimeWindow;

/// `orders(id primary key, customer, amount, at)` with its columns called c<from>...
pub(crate) fn orders(from: usize) -> LogicalPlanBuilder {
    let types = [SqlType::Int, SqlType::Int, SqlType::BigInt, SqlType::Timestamp];
    scan(1, "orders", &["id", "customer", "amount", "at"], &types, from, vec![0], false)
}

/// `customers(id primary key, name)`
pub(crate) fn customers(from: usize) -> LogicalPlanBuilder {
    scan(2, "customers", &["id", "name"], &[SqlType::Int, SqlType::Text], from, vec![0], false)
}

/// `clicks(customer, at)`: a source
pub(crate) fn clicks(from: usize) -> LogicalPlanBuilder {
    let types = [SqlType::Int, SqlType::Timestamp, SqlType::BigInt];
    scan(3, "clicks", &["customer", "at", "_row_id"], &types, from, vec![2], true)
}

fn scan(
    id: u32,
    name: &str,
    columns: &[&str],
    types: &[SqlType],
    from: usize,
    key: Vec<usize>,
    append_only: bool,
) -> LogicalPlanBuilder {
    let fields: Vec<Field> =
        types.iter().enumerate().map(|(i, t)| Field::new(format!("c{}", from + i), t.arrow(), true)).collect();
    let source = RelationSource::new(RelationId(id), Arc::new(Schema::new(fields)), key)
        .named(name, columns.iter().map(|c| c.to_string()).collect())
        .append_only(append_only);
    LogicalPlanBuilder::from(source.scan_plan().unwrap())
}

pub(crate) fn c(n: usize) -> Expr {
    column(format!("c{n}"))
}

fn sql_type(t: &DataType) -> SqlType {
    super::view::sql_type(t).unwrap()
}

fn subquery(plan: LogicalPlan, outer: Vec<Expr>) -> Subquery {
    Subquery { subquery: Arc::new(plan), outer_ref_columns: outer, spans: Default::default() }
}

fn outer(plan: &LogicalPlanBuilder, e: Expr) -> Expr {
    let (_, field) = e.to_field(plan.schema()).unwrap();
    let Expr::Column(column) = e else { panic!("a column") };
    Expr::OuterReferenceColumn(field, column)
}

fn check(plan: LogicalPlanBuilder, names: &[&str], expected: Expect) {
    check_plan(plan, names, true, expected);
}

fn check_plan(plan: LogicalPlanBuilder, names: &[&str], oracle: bool, expected: Expect) {
    let plan = plan.build().unwrap();
    let columns = names.iter().zip(plan.schema().fields());
    let columns = columns.map(|(n, f)| Column::new(*n, sql_type(f.data_type()))).collect();
    let query = plan.clone();
    let text = match super::view_of("v", RelationId(10), RelationId(11), plan, Default::default(), columns) {
        Ok(view) => {
            let plan = serde_json::to_string(&view.job.plan).unwrap();
            serde_json::from_str::<streaming::plan::Plan>(&plan).expect("a plan survives the catalog");
            if oracle {
                super::oracle::check(&view, query, false);
            }
            let hidden = if view.hidden > 0 { format!("hidden columns: {}\n", view.hidden) } else { String::new() };
            hidden + &explain_stream(&view.job.plan)
        }
        Err(error) => format!("{} {error}\n", error.sqlstate),
    };
    let text: String =
        text.lines().filter(|l| !l.trim_start().starts_with("state:")).map(|l| format!("{l}\n")).collect();
    expected.assert_eq(&text);
}

#[test]
fn filters_and_computes() {
    let plan = orders(1).filter(c(3).gt(lit(10_i64))).unwrap();
    let plan = plan.project(vec![c(2).alias("c5"), c(3).is_null().alias("c6")]).unwrap();
    check(
        plan,
        &["customer", "none"],
        expect![[r#"
        hidden columns: 1
        Materialize key _key_1
          -> Project customer, (amount IS NULL) AS none, id AS _key_1
            -> Filter (amount > 10)
              -> TapReader orders (id, customer, amount)
    "#]],
    );
}

#[test]
fn groups() {
    let plan = orders(1)
        .aggregate(
            vec![c(2)],
            vec![
                count_udaf().call(vec![lit(1_i64)]).alias("c5"),
                sum_udaf().call(vec![c(3)]).alias("c6"),
                count_udaf().call(vec![c(1)]).alias("c7"),
            ],
        )
        .unwrap();
    let plan = plan.filter(c(5).gt(lit(1_i64))).unwrap().project(vec![c(2), c(5), c(6)]).unwrap();
    check(
        plan,
        &["customer", "n", "total"],
        expect![[r#"
        Materialize key customer
          -> Project customer, count AS n, sum AS total
            -> Filter (count > 1)
              -> Aggregate by customer: count(*), sum(amount)
                -> TapReader orders (customer, amount)
    "#]],
    );
}

#[test]
fn hides_the_group_that_is_not_selected() {
    let plan = orders(1).aggregate(vec![c(2)], vec![count_udaf().call(vec![lit(1_i64)]).alias("c5")]).unwrap();
    check(
        plan.project(vec![c(5)]).unwrap(),
        &["n"],
        expect![[r#"
        hidden columns: 1
        Materialize key _key_1
          -> Project count AS n, customer AS _key_1
            -> Aggregate by customer: count(*)
              -> TapReader orders (customer)
    "#]],
    );
}

#[test]
fn aggregates_everything_to_one_row() {
    let plan = orders(1).aggregate(Vec::<Expr>::new(), vec![count_udaf().call(vec![lit(1_i64)]).alias("c5")]).unwrap();
    check(
        plan.project(vec![c(5)]).unwrap(),
        &["n"],
        expect![[r#"
        Materialize one row
          -> Project count AS n
            -> GlobalAggregate count(*)
              -> LocalAggregate count(*)
                -> TapReader orders (id)
    "#]],
    );
}

#[test]
fn joins_by_key() {
    let plan = orders(1)
        .join_on(customers(5).build().unwrap(), JoinType::Inner, [c(2).eq(c(5)), c(3).gt(lit(1_i64))])
        .unwrap();
    check(
        plan.project(vec![c(6), c(3)]).unwrap(),
        &["name", "amount"],
        expect![[r#"
            hidden columns: 1
            Materialize key _key_1
              -> Project name, amount, id AS _key_1
                -> HashJoin inner on customer = id
                  -> Filter (amount > 1)
                    -> TapReader orders (id, customer, amount)
                  -> TapReader customers (id, name)
        "#]],
    );
}

#[test]
fn left_joins_with_a_residual_condition() {
    let plan =
        customers(1).join_on(orders(3).build().unwrap(), JoinType::Left, [c(1).eq(c(4)), c(3).gt(c(1))]).unwrap();
    check(
        plan.project(vec![c(2), c(5)]).unwrap(),
        &["name", "amount"],
        expect![[r#"
        hidden columns: 2
        Materialize key _key_1, _key_2
          -> Project name, amount, id AS _key_1, id AS _key_2
            -> HashJoin left on id = customer AND (id > id)
              -> TapReader customers (id, name)
              -> TapReader orders (id, customer, amount)
    "#]],
    );
}

#[test]
fn joins_computed_keys() {
    let plan = orders(1)
        .join_on(
            clicks(5).build().unwrap(),
            JoinType::Inner,
            [cast(c(2), DataType::Int64).eq(cast(c(5), DataType::Int64))],
        )
        .unwrap();
    check(
        plan.project(vec![c(1), c(6)]).unwrap(),
        &["id", "at"],
        expect![[r#"
        hidden columns: 1
        Materialize key id, _key_1
          -> Project id, at, _row_id AS _key_1
            -> HashJoin inner on c2 = c5
              -> Project id, customer, customer AS c2
                -> TapReader orders (id, customer)
              -> Project customer, at, _row_id, customer AS c5 (append-only)
                -> TapReader clicks (customer, at, _row_id) (append-only)
    "#]],
    );
}

#[test]
fn joins_without_equality() {
    let plan = orders(1).join_on(customers(5).build().unwrap(), JoinType::Right, [c(2).lt(c(5))]).unwrap();
    check(
        plan.project(vec![c(1), c(5)]).unwrap(),
        &["id", "customer"],
        expect![[r#"
            Materialize key id, customer
              -> Project id, id AS customer
                -> RangeJoin left on (customer < id), left ordered by id, right ordered by customer
                  -> TapReader customers (id)
                  -> TapReader orders (id, customer)
        "#]],
    );
}

#[test]
fn shares_what_is_read_twice() {
    let totals = |from: usize| {
        let n = count_udaf().call(vec![lit(1_i64)]).alias(format!("c{}", from + 4));
        orders(from).aggregate(vec![c(from + 1)], vec![n]).unwrap()
    };
    let plan = totals(1).join_on(totals(11).build().unwrap(), JoinType::Inner, [c(5).eq(c(15))]).unwrap();
    check(
        plan.project(vec![c(2), c(12)]).unwrap(),
        &["a", "b"],
        expect![[r#"
        Materialize key a, b
          -> Project customer AS a, customer AS b
            -> HashJoin inner on count = count
              -> Aggregate #1 by customer: count(*)
                -> TapReader orders (customer)
              -> Aggregate #1 (as above)
    "#]],
    );
}

#[test]
fn unions() {
    let left = orders(1).project(vec![c(2)]).unwrap();
    let right = customers(5).project(vec![c(5)]).unwrap().build().unwrap();
    check(
        left.clone().union(right.clone()).unwrap(),
        &["id"],
        expect![[r#"
        Materialize rows counted
          -> Project customer AS id
            -> UnionAll 2 inputs
              -> TapReader orders (customer)
              -> Project id AS customer
                -> TapReader customers (id)
    "#]],
    );
    check(
        left.union(right).unwrap().distinct().unwrap(),
        &["id"],
        expect![[r#"
        Materialize key id
          -> Project customer AS id
            -> Distinct customer
              -> UnionAll 2 inputs
                -> TapReader orders (customer)
                -> Project id AS customer
                  -> TapReader customers (id)
    "#]],
    );
}

#[test]
fn keeps_the_first_rows() {
    let plan = orders(1).sort(vec![c(3).sort(false, true), c(1).sort(true, false)]).unwrap();
    let plan = plan.limit(2, Some(3)).unwrap().project(vec![c(2)]).unwrap();
    check(
        plan,
        &["customer"],
        expect![[r#"
        hidden columns: 1
        Materialize key _key_1
          -> Project customer, id AS _key_1
            -> TopN order amount DESC, id limit 3 offset 2
              -> TapReader orders (id, customer, amount)
    "#]],
    );
}

#[test]
fn limits_a_projection_of_a_sort() {
    let plan = orders(1).sort(vec![c(3).sort(false, true)]).unwrap();
    let plan = plan.project(vec![c(2).alias("c9")]).unwrap().limit(0, Some(3)).unwrap();
    check(
        plan,
        &["customer"],
        expect![[r#"
        hidden columns: 1
        Materialize key _key_1
          -> Project customer, id AS _key_1
            -> TopN order amount DESC limit 3
              -> TapReader orders (id, customer, amount)
    "#]],
    );
}

fn ranked(from: usize) -> LogicalPlanBuilder {
    let function = WindowFunction {
        fun: row_number_udwf().into(),
        params: WindowFunctionParams {
            args: vec![],
            partition_by: vec![c(from + 1)],
            order_by: vec![c(from + 2).sort(false, true)],
            window_frame: WindowFrame::new(Some(true)),
            filter: None,
            null_treatment: None,
            distinct: false,
        },
    };
    let plan = orders(from).window(vec![Expr::WindowFunction(Box::new(function)).alias("c8")]).unwrap();
    plan.project(vec![c(from), c(from + 1), cast(c(8), DataType::Int64).alias("c9")]).unwrap()
}

#[test]
fn recognises_a_ranking() {
    let plan = ranked(1).filter(c(9).lt_eq(lit(3_i64))).unwrap();
    check(
        plan.clone(),
        &["id", "customer", "rank"],
        expect![[r#"
        Materialize key id
          -> Project id, customer, row_number AS rank
            -> Project id, customer, amount, row_number
              -> TopN by customer order amount DESC limit 3
                -> TapReader orders (id, customer, amount)
    "#]],
    );
    check(
        plan.project(vec![c(1), c(2)]).unwrap(),
        &["id", "customer"],
        expect![[r#"
        Materialize key id
          -> Project id, customer
            -> TopN by customer order amount DESC limit 3
              -> TapReader orders (id, customer, amount)
    "#]],
    );
}

#[test]
fn refuses_other_windows() {
    check(
        ranked(1),
        &["id", "customer", "rank"],
        expect![[r#"
        0A000 the window function row_number is not supported in a materialized view yet
    "#]],
    );
}

#[test]
fn distinct_on_keeps_one_row_each() {
    let plan = orders(1)
        .distinct_on(
            vec![c(2)],
            vec![c(2), c(3).alias("c7")],
            Some(vec![c(2).sort(true, false), c(3).sort(false, true)]),
        )
        .unwrap();
    check(
        plan,
        &["customer", "amount"],
        expect![[r#"
        hidden columns: 1
        Materialize key _key_1
          -> Project customer, amount, id AS _key_1
            -> TopN by customer order amount DESC limit 1 (keeps the last of each)
              -> TapReader orders (id, customer, amount)
    "#]],
    );
}

#[test]
fn compares_with_an_uncorrelated_scalar_subquery() {
    let max = orders(11).aggregate(Vec::<Expr>::new(), vec![max_udaf().call(vec![c(13)]).alias("c15")]).unwrap();
    let plan = orders(1).filter(c(3).eq(Expr::ScalarSubquery(subquery(max.build().unwrap(), vec![])))).unwrap();
    check(
        plan.project(vec![c(1)]).unwrap(),
        &["id"],
        expect![[r#"
        Materialize key id
          -> Project id
            -> HashJoin inner on amount = max
              -> TapReader orders (id, amount)
              -> SingleRow
                -> Aggregate max(amount)
                  -> TapReader orders (amount)
    "#]],
    );
}

#[test]
fn joins_correlated_subqueries() {
    let all = customers(1);
    let id = outer(&all, c(1));
    let theirs = orders(11).filter(c(12).eq(id.clone())).unwrap();
    let exists =
        Expr::Exists(Exists { subquery: subquery(theirs.clone().build().unwrap(), vec![id.clone()]), negated: false });
    check(
        all.clone().filter(exists.clone()).unwrap(),
        &["id", "name"],
        expect![[r#"
        Materialize key id
          -> HashJoin semi on id = customer
            -> TapReader customers (id, name)
            -> TapReader orders (customer)
    "#]],
    );
    check(
        all.clone().filter(not(exists.clone())).unwrap(),
        &["id", "name"],
        expect![[r#"
        Materialize key id
          -> HashJoin anti on id = customer
            -> TapReader customers (id, name)
            -> TapReader orders (customer)
    "#]],
    );
    check(
        all.clone().project(vec![c(1), exists.alias("c20")]).unwrap(),
        &["id", "ordered"],
        expect![[r#"
            Materialize key id
              -> Project id, mark AS ordered
                -> HashJoin mark on id = customer
                  -> TapReader customers (id)
                  -> TapReader orders (customer)
        "#]],
    );
    let count =
        theirs.clone().aggregate(Vec::<Expr>::new(), vec![count_udaf().call(vec![lit(1_i64)]).alias("c16")]).unwrap();
    let count = Expr::ScalarSubquery(subquery(count.build().unwrap(), vec![id.clone()])).alias("c21");
    check(
        all.clone().project(vec![c(1), count]).unwrap(),
        &["id", "n"],
        expect![[r#"
            Materialize key id
              -> Project id, CASE WHEN (constant IS NULL) THEN 0 ELSE case END AS n
                -> HashJoin left on id = customer
                  -> TapReader customers (id)
                  -> Project CASE WHEN NOT (count IS NULL) THEN count END AS case, customer, constant
                    -> Aggregate by customer, constant: count(*)
                      -> Project customer, true AS constant
                        -> TapReader orders (customer)
        "#]],
    );
    let amount = theirs.project(vec![c(13)]).unwrap();
    let amount = Expr::ScalarSubquery(subquery(amount.build().unwrap(), vec![id])).alias("c22");
    // Random orders have several of a customer: rows fail, as they should.
    check_plan(
        all.project(vec![c(1), amount]).unwrap(),
        &["id", "amount"],
        false,
        expect![[r#"
            Materialize key id
              -> Project id, case AS amount
                -> HashJoin left on id = customer
                  -> TapReader customers (id)
                  -> Project CASE WHEN (count > 1) THEN more_than_one_row(max) ELSE max END AS case, customer
                    -> Aggregate by customer, constant: count(*), max(amount)
                      -> Project customer, true AS constant, amount
                        -> TapReader orders (amount, customer)
        "#]],
    );
}

#[test]
fn tests_membership() {
    let of = |plan: LogicalPlanBuilder, negated: bool| {
        Expr::InSubquery(InSubquery {
            expr: Box::new(c(2)),
            subquery: subquery(plan.build().unwrap(), vec![]),
            negated,
        })
    };
    let ids = || customers(11).project(vec![c(11)]).unwrap();
    check(
        orders(1).filter(of(ids(), false)).unwrap().project(vec![c(1)]).unwrap(),
        &["id"],
        expect![[r#"
        Materialize key id
          -> Project id
            -> HashJoin semi on customer = id
              -> TapReader orders (id, customer)
              -> TapReader customers (id)
    "#]],
    );
    check(
        orders(1).filter(of(ids(), true)).unwrap().project(vec![c(1)]).unwrap(),
        &["id"],
        expect![[r#"
        Materialize key id
          -> Project id
            -> HashJoin anti (NOT IN) on customer = id
              -> TapReader orders (id, customer)
              -> TapReader customers (id)
    "#]],
    );
    check(
        orders(1).project(vec![c(1), of(ids(), false).alias("c20")]).unwrap(),
        &["id", "known"],
        expect![[r#"
            Materialize key id
              -> Project id, CASE WHEN mark THEN true WHEN NOT mark THEN false WHEN ((customer IS NULL) OR mark) THEN NULL ELSE false END AS known
                -> NestedLoopJoin mark, every pair
                  -> NestedLoopJoin mark, every pair
                    -> HashJoin mark on customer = id
                      -> TapReader orders (id, customer)
                      -> TapReader #1 customers (id)
                    -> TapReader #1 (as above)
                  -> Filter (id IS NULL)
                    -> TapReader #1 (as above)
        "#]],
    );
}

#[test]
fn counts_clicks_per_window() {
    let plan = TimeWindow::plan(
        clicks(1).build().unwrap(),
        datafusion::common::Column::new_unqualified("c2"),
        Windows { shape: Shape::Tumble { size: 10_000_000 }, offset: 0 },
        ["c4", "c5"],
    );
    let plan = LogicalPlanBuilder::from(plan.unwrap())
        .aggregate(vec![c(4)], vec![count_udaf().call(vec![lit(1_i64)]).alias("c6")]);
    check(
        plan.unwrap().project(vec![c(4), c(6)]).unwrap(),
        &["window_start", "n"],
        expect![[r#"
        Materialize key window_start
          -> Project window_start, count AS n
            -> Aggregate by window_start: count(*)
              -> Project window_start (append-only)
                -> TimeWindow at every 10 seconds (append-only)
                  -> TapReader clicks (at) (append-only)
    "#]],
    );
}

#[test]
fn selects_constants() {
    let plan = LogicalPlanBuilder::empty(true).project(vec![lit(1_i32).alias("c1")]).unwrap();
    check(
        plan,
        &["one"],
        expect![[r#"
        Materialize one row (append-only)
          -> Project 1 AS one (append-only)
            -> Values 1 row (append-only)
    "#]],
    );
    let plan = LogicalPlanBuilder::values(vec![vec![lit(1_i32)], vec![lit(2_i32)]]).unwrap();
    check(
        plan,
        &["n"],
        expect![[r#"
        Materialize rows counted (append-only)
          -> Project column1 AS n (append-only)
            -> Values 2 rows (append-only)
    "#]],
    );
}
