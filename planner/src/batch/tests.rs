//! Reads over real snapshots.

use std::ops::Not;
use std::sync::Arc;

use arrow::util::pretty::pretty_format_batches;
use arrow_schema::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Subquery, lit};
use expect_test::{Expect, expect};
use futures::TryStreamExt;
use storage::keys::SortOption;
use storage::relation::RelationSpec;
use storage::store::StoreOptions;
use storage::{Batch, Epoch, RelationId, RelationSnapshot, Store};
use streaming::testing::{batch, schema};

use super::{Query, ReadLimits, Reads, RelationSource, TableRows, Tables};
use crate::error::Result;
use crate::expr::column;

/// `t(a int, b int, c text)` with key (a, b DESC).
struct Database {
    _dir: tempfile::TempDir,
    _store: Arc<Store>,
    snapshot: RelationSnapshot,
    changes: Vec<Batch>,
}

impl Tables for Database {
    fn table(&self, _relation: RelationId) -> Result<TableRows> {
        let snapshot = self.snapshot.clone();
        Ok(match self.changes.is_empty() {
            true => TableRows::Snapshot(snapshot),
            false => TableRows::Overlay { snapshot, changes: self.changes.clone() },
        })
    }
}

fn rows(rows: &[(i32, i32, &str)], diff: i64) -> Batch {
    let texts: Vec<_> = rows
        .iter()
        .map(|(a, b, c)| (vec![Some(a.to_string()), Some(b.to_string()), Some(c.to_string())], diff))
        .collect();
    batch(&schema("a int, b int, c text"), &texts)
}

fn database() -> Database {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::small()).unwrap();
    let mut spec = RelationSpec::new(RelationId(1), schema("a int, b int, c text"), vec![0, 1], true);
    let descending = SortOption { descending: true, nulls_first: true };
    spec.key_options = vec![SortOption::default(), descending];
    let relation = store.relation(spec).unwrap();
    let data = [(1, 1, "one"), (1, 2, "two"), (1, 3, "three"), (2, 1, "four"), (3, 5, "five")];
    relation.publish(0, Epoch(1), &rows(&data, 1)).unwrap();
    relation.advance(Epoch(1));
    let snapshot = relation.snapshot(Epoch(1)).unwrap();
    Database { _dir: dir, _store: store, snapshot, changes: vec![] }
}

fn t(from: usize) -> LogicalPlanBuilder {
    let types = [DataType::Int32, DataType::Int32, DataType::Utf8View];
    let fields: Vec<Field> =
        types.into_iter().enumerate().map(|(i, t)| Field::new(format!("c{}", from + i), t, true)).collect();
    let source = RelationSource::new(RelationId(1), Arc::new(Schema::new(fields)), vec![0, 1])
        .named("t", ["a", "b", "c"].map(String::from).to_vec());
    LogicalPlanBuilder::from(source.scan_plan().unwrap())
}

fn c(n: usize) -> Expr {
    column(format!("c{n}"))
}

fn param(n: usize, data_type: DataType) -> Expr {
    Expr::Placeholder(Placeholder::new_with_field(format!("${n}"), Some(Arc::new(Field::new("", data_type, true)))))
}

fn reads() -> Reads {
    Reads::new(ReadLimits::default()).unwrap()
}

fn run(plan: LogicalPlan, params: &[ScalarValue], database: &Database) -> Result<String> {
    let query = Query::new(plan)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let way = if query.point().is_some() { "point lookup\n" } else { "" };
    runtime.block_on(async {
        let batches: Vec<_> = query.run(params, database, &reads()).await?.try_collect().await?;
        Ok(format!("{way}{}\n", pretty_format_batches(&batches)?))
    })
}

fn check(plan: LogicalPlanBuilder, params: &[ScalarValue], database: &Database, expected: Expect) {
    let text = run(plan.build().unwrap(), params, database);
    expected.assert_eq(&text.unwrap_or_else(|error| format!("{} {error}\n", error.sqlstate)));
}

#[test]
fn looks_up_a_key() {
    let plan = t(1)
        .filter(
            c(1).eq(param(1, DataType::Int32)).and(c(2).eq(lit(2_i32))).and(c(3).not_eq(param(2, DataType::Utf8View))),
        )
        .unwrap()
        .project(vec![c(3).alias("c7"), param(2, DataType::Utf8View).alias("c8")])
        .unwrap();
    let text = |s: &str| ScalarValue::Utf8View(Some(s.into()));
    let one = ScalarValue::Int32(Some(1));
    check(
        plan.clone(),
        &[one.clone(), text("x")],
        &database(),
        expect![[r#"
        point lookup
        +-----+----+
        | c7  | c8 |
        +-----+----+
        | two | x  |
        +-----+----+
    "#]],
    );
    check(
        plan.clone(),
        &[one, text("two")],
        &database(),
        expect![[r#"
        point lookup
        +----+----+
        | c7 | c8 |
        +----+----+
        +----+----+
    "#]],
    );
    check(
        plan,
        &[ScalarValue::Int32(None), text("x")],
        &database(),
        expect![[r#"
        point lookup
        +----+----+
        | c7 | c8 |
        +----+----+
        +----+----+
    "#]],
    );
}

#[test]
fn reads_a_part_of_the_key() {
    let plan = t(1).filter(c(1).eq(lit(1_i32)).and(c(2).gt(lit(1_i32)))).unwrap();
    check(
        plan,
        &[],
        &database(),
        expect![[r#"
            point lookup
            +----+----+-------+
            | c1 | c2 | c3    |
            +----+----+-------+
            | 1  | 3  | three |
            | 1  | 2  | two   |
            +----+----+-------+
        "#]],
    );
    let plan = t(1).filter(c(1).gt_eq(lit(2_i32))).unwrap().project(vec![c(3)]).unwrap();
    check(
        plan.sort(vec![c(3).sort(true, false)]).unwrap(),
        &[],
        &database(),
        expect![[r#"
        +------+
        | c3   |
        +------+
        | five |
        | four |
        +------+
    "#]],
    );
}

#[test]
fn sees_the_changes_of_the_transaction() {
    let mut database = database();
    database.changes =
        vec![rows(&[(1, 2, "two")], -1), rows(&[(1, 2, "zwei"), (9, 9, "nine")], 1), rows(&[(2, 1, "four")], -1)];
    let sorted = t(1).sort(vec![c(1).sort(true, false), c(2).sort(true, false)]).unwrap();
    check(
        sorted,
        &[],
        &database,
        expect![[r#"
        +----+----+-------+
        | c1 | c2 | c3    |
        +----+----+-------+
        | 1  | 1  | one   |
        | 1  | 2  | zwei  |
        | 1  | 3  | three |
        | 3  | 5  | five  |
        | 9  | 9  | nine  |
        +----+----+-------+
    "#]],
    );
    let plan = t(1).filter(c(1).eq(lit(1_i32)).and(c(2).eq(lit(2_i32)))).unwrap();
    check(
        plan,
        &[],
        &database,
        expect![[r#"
        point lookup
        +----+----+------+
        | c1 | c2 | c3   |
        +----+----+------+
        | 1  | 2  | zwei |
        +----+----+------+
    "#]],
    );
}

#[test]
fn limits_and_counts() {
    let plan = t(1).sort(vec![c(2).sort(false, true), c(1).sort(true, false)]).unwrap().limit(1, Some(2)).unwrap();
    check(
        plan.project(vec![c(3)]).unwrap(),
        &[],
        &database(),
        expect![[r#"
        +-------+
        | c3    |
        +-------+
        | three |
        | two   |
        +-------+
    "#]],
    );
    let count = datafusion::functions_aggregate::count::count_udaf().call(vec![lit(1_i64)]).alias("c9");
    check(
        t(1).aggregate(Vec::<Expr>::new(), vec![count]).unwrap(),
        &[],
        &database(),
        expect![[r#"
        +----+
        | c9 |
        +----+
        | 5  |
        +----+
    "#]],
    );
}

#[test]
fn computes_without_reading() {
    let plan = LogicalPlanBuilder::empty(true)
        .project(vec![lit(1_i32).alias("c1"), param(1, DataType::Boolean).not().alias("c2")])
        .unwrap();
    check(
        plan,
        &[ScalarValue::Boolean(Some(true))],
        &database(),
        expect![[r#"
        +----+-------+
        | c1 | c2    |
        +----+-------+
        | 1  | false |
        +----+-------+
    "#]],
    );
}

#[test]
fn refuses_several_rows_of_a_scalar_subquery() {
    let several = t(11).project(vec![c(11)]).unwrap().build().unwrap();
    let several = Subquery { subquery: Arc::new(several), outer_ref_columns: vec![], spans: Default::default() };
    let plan = t(1).filter(c(1).eq(Expr::ScalarSubquery(several))).unwrap();
    check(
        plan,
        &[],
        &database(),
        expect![[r#"
        21000 more than one row returned by a subquery used as an expression
    "#]],
    );
}

#[test]
fn reads_through_an_index() {
    use crate::catalog::{Catalog, Object, ObjectKind};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::small()).unwrap();
    // The index of t by c: its columns are c, a, b.
    let columns = schema("c text, a int, b int");
    let relation = store.relation(RelationSpec::new(RelationId(2), columns.clone(), vec![0, 1, 2], true)).unwrap();
    let row = |c: &str, a: i32, b: i32| (vec![Some(c.to_string()), Some(a.to_string()), Some(b.to_string())], 1);
    relation.publish(0, Epoch(1), &batch(&columns, &[row("x", 1, 2), row("x", 3, 4), row("y", 5, 6)])).unwrap();
    relation.advance(Epoch(1));
    let index = Database { _dir: dir, _store: store, snapshot: relation.snapshot(Epoch(1)).unwrap(), changes: vec![] };
    let mut catalog = Catalog::default();
    catalog.insert(Object {
        id: RelationId(2),
        name: "t_c_idx".into(),
        kind: ObjectKind::Index,
        depends_on: vec![RelationId(1)],
        source_columns: vec![2, 0, 1],
        stream_key: vec![0, 1, 2],
        ..Object::default()
    });
    let text = ScalarValue::Utf8View(Some("x".into()));
    let plan = t(1).filter(c(3).eq(param(1, DataType::Utf8View))).unwrap().project(vec![c(2), c(1)]).unwrap();
    let query = Query::new(plan.build().unwrap()).unwrap().with_indexes(&catalog).unwrap().expect("an index");
    assert_eq!(query.relations(), [RelationId(2)]);
    assert!(query.point().is_some());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches: Vec<_> =
        runtime.block_on(async { query.run(&[text], &index, &reads()).await.unwrap().try_collect().await.unwrap() });
    expect![[r#"
        +----+----+
        | c2 | c1 |
        +----+----+
        | 2  | 1  |
        | 4  | 3  |
        +----+----+
    "#]]
    .assert_eq(&format!("{}\n", pretty_format_batches(&batches).unwrap()));
    let by_key = t(1).filter(c(1).eq(lit(1_i32))).unwrap();
    let by_key = Query::new(by_key.build().unwrap()).unwrap();
    assert!(by_key.with_indexes(&catalog).unwrap().is_none(), "the relation's own key does as well");
}
