//! SQL to rows: every query as a view over random changes and as a read over the same rows.

use std::sync::Arc;

use storage::{Column, RelationId, SqlType};

use crate::catalog::{Catalog, Object, ObjectKind};
use crate::lower::oracle;
use crate::statement::{Query, Statement};
use crate::{Settings, bind_view, parse, plan_bound_view};

fn catalog() -> Catalog {
    use SqlType::*;
    let mut catalog = Catalog::default();
    let mut add =
        |id: u32, name: &str, kind: ObjectKind, columns: &[(&str, SqlType)], key: Vec<usize>, hidden: usize| {
            catalog.insert(Object {
                id: RelationId(id),
                name: name.into(),
                kind,
                columns: columns.iter().map(|(n, t)| Column::new(*n, t.clone())).collect(),
                hidden,
                append_only: kind == ObjectKind::Source,
                primary_key: if hidden == 0 { key.clone() } else { vec![] },
                stream_key: key,
                ..Object::default()
            });
        };
    let orders =
        [("id", Int), ("customer", Int), ("amount", BigInt), ("price", Numeric), ("note", Text), ("at", Timestamp)];
    add(16384, "orders", ObjectKind::Table, &orders, vec![0], 0);
    add(16386, "customers", ObjectKind::Table, &[("id", Int), ("name", Text), ("active", Boolean)], vec![0], 0);
    let clicks = [("customer", Int), ("at", Timestamp), ("ratio", Double), ("_row_id", BigInt)];
    add(16388, "clicks", ObjectKind::Source, &clicks, vec![3], 1);
    catalog
}

fn query(sql: &str) -> Query {
    match parse(sql).unwrap_or_else(|e| panic!("{sql}\n{e:?}")).pop().map(|p| p.statement) {
        Some(Statement::Query(query)) => query,
        other => panic!("not a query: {other:?}"),
    }
}

fn check(sql: &str) {
    check_with(sql, Settings::default());
}

/// A view's plan as a session with these settings makes it.
fn check_with(sql: &str, settings: Settings) -> String {
    let catalog = catalog();
    let query = query(sql);
    let fail = |e: crate::Error| -> ! { panic!("{sql}\n{} {e} {:?}", e.sqlstate, e.hint) };
    let bound = bind_view(&catalog, &settings, &query).unwrap_or_else(|e| fail(e));
    let names: Vec<String> = (1..=bound.columns.len()).map(|i| format!("column{i}")).collect();
    let mut next = 20_000;
    let view = plan_bound_view(bound, "v", &names, &mut || {
        next += 1;
        RelationId(next)
    });
    let view = view.unwrap_or_else(|e| fail(e));
    // The same query as a read; a source has no rows to read outside of a test.
    let read = bind_view(&catalog, &settings, &query).unwrap_or_else(|e| fail(e));
    eprintln!("{sql}");
    oracle::check(&view, read.plan, true);
    crate::explain::explain_stream(&view.job.plan)
}

fn settings(values: &[(&str, &str)]) -> Settings {
    let values = values.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Settings { values, ..Settings::default() }
}

#[test]
fn groups_in_two_phases() {
    let forced = settings(&[("force_two_phase_agg", "on"), ("force_split_distinct_agg", "on")]);
    for sql in [
        "SELECT customer, count(*), sum(amount), avg(price), bool_or(amount > 1), stddev(amount) FROM orders GROUP BY customer",
        "SELECT note, customer, count(note), sum(amount) FILTER (WHERE id > 1) FROM orders GROUP BY note, customer",
        "SELECT customer, min(ratio), max(at), count(*), first_value(ratio ORDER BY at, ratio) FROM clicks GROUP BY customer",
        "SELECT customer, count(DISTINCT note), count(*) FROM orders GROUP BY customer HAVING count(DISTINCT note) > 1",
        "SELECT customer, count(DISTINCT note) FILTER (WHERE amount > 1), count(DISTINCT note), sum(DISTINCT amount), count(DISTINCT price) FROM orders GROUP BY customer",
        "SELECT customer, count(DISTINCT customer), avg(DISTINCT id), count(DISTINCT at) FROM clicks, (SELECT 1 AS id) x GROUP BY customer",
        "SELECT count(DISTINCT ratio), count(DISTINCT customer), sum(customer), min(at) FROM clicks",
        "SELECT count(DISTINCT amount) FROM orders WHERE false",
        "SELECT a, count(*) FROM (SELECT amount > 1 AS a FROM orders) x GROUP BY a",
        "SELECT customer, note, count(DISTINCT amount), grouping(note) FROM orders GROUP BY ROLLUP (customer, note)",
        "SELECT n, count(*) FROM (SELECT customer, count(*) AS n FROM orders GROUP BY customer) x GROUP BY n",
    ] {
        let plan = check_with(sql, forced.clone());
        assert!(plan.contains("LocalAggregate") && plan.contains("GlobalAggregate"), "{sql}\n{plan}");
        assert_eq!(plan.contains("Distinct "), sql.contains("DISTINCT"), "{sql}\n{plan}");
    }
    // What needs every value in one place has one phase.
    for sql in [
        "SELECT customer, min(amount), count(*) FROM orders GROUP BY customer",
        "SELECT customer, sum(DISTINCT price) FROM orders GROUP BY customer",
        "SELECT array_agg(amount ORDER BY amount), count(*) FROM orders",
    ] {
        let plan = check_with(sql, forced.clone());
        assert!(!plan.contains("LocalAggregate"), "{sql}\n{plan}");
    }
}

#[test]
fn phases_are_chosen_where_rows_fall_into_few_groups() {
    let count = |plan: String| plan.matches("LocalAggregate").count();
    for (sql, phases) in [
        ("SELECT count(*), sum(amount) FROM orders", 1),
        ("SELECT count(DISTINCT note), count(*) FROM orders", 2),
        ("SELECT active, count(*) FROM customers GROUP BY active", 1),
        ("SELECT customer, count(*) FROM orders GROUP BY customer", 0),
        ("SELECT active, id, count(*) FROM customers GROUP BY active, id", 0),
    ] {
        assert_eq!(count(check_with(sql, Settings::default())), phases, "{sql}");
        assert_eq!(count(check_with(sql, settings(&[("enable_two_phase_agg", "off")]))), 0, "{sql}");
    }
    let sql = "SELECT count(DISTINCT note), count(*) FROM orders";
    assert_eq!(count(check_with(sql, settings(&[("enable_split_distinct_agg", "off")]))), 0);
}

macro_rules! views {
    ($($name:ident: $($sql:literal),+ $(,)?;)*) => { $(#[test] fn $name() { $(check($sql);)+ })* };
}

views! {
    projects_and_filters:
        "SELECT id, amount + 1 FROM orders WHERE amount > 1",
        "SELECT upper(note) || '!', CASE WHEN amount > 2 THEN 'many' ELSE 'few' END FROM orders WHERE note IS NOT NULL",
        "SELECT * FROM clicks",
        "SELECT price * 2, price::text, coalesce(note, 'none') FROM orders WHERE price = 1.5",
        "SELECT id FROM orders WHERE note LIKE 'a%' OR note IN ('b', 'c') OR amount BETWEEN 1 AND 2";
    groups:
        "SELECT customer, count(*), sum(amount), avg(amount), min(at), max(note) FROM orders GROUP BY customer",
        "SELECT count(*), sum(price), avg(price) FROM orders",
        "SELECT price, count(*) FROM orders GROUP BY price",
        "SELECT ratio, count(*) FROM clicks GROUP BY ratio",
        "SELECT customer, count(DISTINCT note), count(note) FILTER (WHERE amount > 0) FROM orders GROUP BY customer HAVING count(*) > 1",
        "SELECT customer % 2, sum(amount + 1) * 2 FROM orders GROUP BY customer % 2",
        "SELECT date_trunc('day', at), max(price) FROM orders GROUP BY 1";
    statistics:
        "SELECT customer, variance(amount), stddev_pop(price), var_samp(id), bit_and(id), bit_or(amount), bit_xor(id) FROM orders GROUP BY customer",
        "SELECT stddev(ratio), var_pop(ratio), corr(ratio, customer), covar_samp(ratio, customer), regr_slope(customer, ratio), regr_count(ratio, customer) FROM clicks",
        "SELECT customer, stddev(amount), sum(DISTINCT price), count(DISTINCT price), corr(amount, id) FILTER (WHERE amount > 0) FROM orders GROUP BY customer",
        "SELECT customer, approx_count_distinct(note), approx_percentile(0.5) WITHIN GROUP (ORDER BY amount) FROM orders GROUP BY customer";
    ordered_aggregates:
        "SELECT customer, array_agg(amount ORDER BY note DESC, id), string_agg(note, ',' ORDER BY id), first_value(note ORDER BY id), last_value(note ORDER BY amount, id) FROM orders GROUP BY customer",
        "SELECT customer, array_agg(DISTINCT note ORDER BY note), jsonb_agg(amount ORDER BY id), jsonb_object_agg(id, note), any_value(price) FROM orders GROUP BY customer",
        "SELECT percentile_cont(0.3) WITHIN GROUP (ORDER BY amount), percentile_disc(0.5) WITHIN GROUP (ORDER BY price DESC), mode() WITHIN GROUP (ORDER BY note) FROM orders",
        "SELECT customer, min_by(id, amount), max_by(note, price), arg_min(id, note) FILTER (WHERE amount > 0) FROM orders GROUP BY customer",
        "SELECT first_value(customer ORDER BY at), last_value(ratio ORDER BY at DESC), max_by(customer, ratio), any_value(ratio), min(at) FROM clicks";
    grouping_sets:
        "SELECT customer, note, count(*), grouping(customer, note) FROM orders GROUP BY ROLLUP (customer, note)",
        "SELECT price, customer % 2, sum(amount), grouping(price) FROM orders GROUP BY CUBE (price, customer % 2)",
        "SELECT customer, max(id) FROM orders GROUP BY GROUPING SETS ((customer), ()) HAVING count(*) > 1";
    distincts:
        "SELECT DISTINCT customer FROM orders",
        "SELECT DISTINCT price FROM orders",
        "SELECT DISTINCT customer, note FROM orders WHERE amount > 0";
    joins:
        "SELECT o.id, c.name FROM orders o JOIN customers c ON o.customer = c.id",
        "SELECT o.id, c.name FROM orders o LEFT JOIN customers c ON o.customer = c.id AND c.active",
        "SELECT c.id, o.amount FROM orders o RIGHT JOIN customers c ON o.customer = c.id",
        "SELECT c.id, o.id FROM orders o FULL JOIN customers c ON o.customer = c.id",
        "SELECT a.id, b.id FROM orders a JOIN orders b ON a.price = b.price AND a.id < b.id",
        "SELECT a.id, b.customer FROM customers a, clicks b WHERE a.id = b.customer",
        "SELECT a.id, b.id FROM customers a CROSS JOIN orders b WHERE a.id > b.amount",
        "SELECT name, n FROM customers c LEFT JOIN (SELECT customer, count(*) AS n FROM orders GROUP BY customer) o ON o.customer = c.id",
        "SELECT customers.id FROM customers JOIN orders USING (id)",
        "SELECT * FROM customers NATURAL JOIN (SELECT customer AS id, amount FROM orders) o",
        "SELECT * FROM customers NATURAL LEFT JOIN (SELECT customer AS id, amount FROM orders) o",
        "SELECT id, c.id, o.id FROM customers c FULL JOIN orders o USING (id)",
        "SELECT a.id, b.id FROM orders a FULL JOIN customers b ON a.customer = b.id AND a.amount > 1",
        "SELECT a.id, b.id FROM orders a, customers b";
    many_joins:
        "SELECT o.id, c.id, k.at, p.id FROM orders o, customers c, clicks k, orders p WHERE o.customer = c.id AND p.customer = k.customer",
        "SELECT o.id, c.id, p.id FROM orders o, customers c, orders p WHERE o.amount < c.id AND c.id = p.customer AND o.id + p.id > c.id",
        "SELECT count(*) FROM orders o, customers c, orders p, clicks k WHERE o.id + c.id = p.id AND k.customer = 1",
        "SELECT * FROM (SELECT o.id AS a, c.id AS b FROM orders o CROSS JOIN customers c) x JOIN orders p ON p.id = x.a AND p.customer = x.b",
        "SELECT o.id, c.name, k.ratio FROM customers c JOIN orders o ON o.customer = c.id LEFT JOIN clicks k ON k.customer = c.id JOIN orders q ON q.id = o.id";
    recursive_queries:
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT n FROM t",
        "WITH RECURSIVE t(n) AS (SELECT id FROM customers UNION SELECT o.customer FROM t JOIN orders o ON o.id = t.n) SELECT n FROM t",
        "WITH RECURSIVE t AS (SELECT id, customer FROM orders WHERE amount > 1 UNION SELECT t.id, o.customer FROM orders o, t WHERE o.id = t.customer) SELECT * FROM t",
        "WITH RECURSIVE t(x) AS (SELECT id FROM orders UNION SELECT o.customer + 0 FROM t, orders o WHERE o.amount > t.x AND o.id < t.x) SELECT count(*), max(x) FROM t",
        "WITH RECURSIVE t(x) AS (SELECT id FROM customers UNION SELECT o.customer FROM t JOIN orders o ON o.id = t.x AND o.note <> 'a' WHERE EXISTS (SELECT 1 FROM clicks c WHERE c.customer = o.id)) SELECT a.x, b.x FROM t a JOIN t b ON a.x = b.x",
        "WITH RECURSIVE t(a, b) AS (SELECT id, 0 FROM orders UNION ALL SELECT t.a, t.b + 1 FROM t WHERE t.b < 2), u AS (SELECT * FROM t WHERE b > 0) SELECT a, sum(b) FROM u GROUP BY a",
        "WITH RECURSIVE plain AS (SELECT id FROM orders UNION SELECT id FROM customers) SELECT * FROM plain";
    ranges:
        "SELECT a.id, b.id FROM orders a JOIN orders b ON a.amount BETWEEN b.id AND b.customer",
        "SELECT a.id, b.id FROM orders a LEFT JOIN orders b ON a.price < b.price",
        "SELECT a.id, b.id FROM orders a RIGHT JOIN orders b ON a.note > b.note",
        "SELECT a.id, b.id FROM orders a FULL JOIN customers b ON a.amount > b.id",
        "SELECT a.id, b.id FROM orders a FULL JOIN customers b ON a.amount <> b.id",
        "SELECT a.id FROM orders a WHERE EXISTS (SELECT 1 FROM clicks b WHERE b.at >= a.at AND b.at < a.at + INTERVAL '2 hours')",
        "SELECT a.id FROM orders a WHERE NOT EXISTS (SELECT 1 FROM clicks b WHERE b.ratio > a.amount)",
        "SELECT a.id, b.at FROM orders a JOIN clicks b ON a.customer = b.customer AND b.at BETWEEN a.at - INTERVAL '1 hour' AND a.at + INTERVAL '1 hour'";
    unions:
        "SELECT id FROM orders UNION ALL SELECT id FROM customers",
        "SELECT id FROM orders UNION SELECT customer FROM clicks",
        "SELECT id, note FROM orders UNION ALL SELECT id, name FROM customers UNION ALL SELECT 1, 'one'",
        "SELECT id FROM orders INTERSECT SELECT id FROM customers",
        "SELECT id FROM orders EXCEPT SELECT id FROM customers",
        "SELECT customer FROM orders INTERSECT ALL SELECT customer FROM clicks",
        "SELECT customer FROM orders EXCEPT ALL SELECT id FROM customers",
        "SELECT price FROM orders EXCEPT ALL SELECT price FROM orders WHERE amount > 1",
        "SELECT price, customer FROM orders INTERSECT ALL SELECT price, id FROM orders",
        "SELECT price FROM orders INTERSECT SELECT price FROM orders WHERE amount > 1",
        "SELECT note, customer FROM orders EXCEPT SELECT name, id FROM customers",
        "SELECT id FROM customers c WHERE EXISTS (SELECT customer FROM orders EXCEPT SELECT customer FROM clicks)",
        "SELECT count(*) FROM (SELECT note FROM orders EXCEPT ALL SELECT name FROM customers) x";
    asof_joins:
        "SELECT o.id, c.ratio FROM orders o ASOF JOIN clicks c ON o.customer = c.customer AND o.at >= c.at",
        "SELECT o.id, c.ratio, c.at FROM orders o ASOF LEFT JOIN clicks c ON o.customer = c.customer AND o.at < c.at",
        "SELECT o.id, p.id FROM orders o ASOF LEFT JOIN orders p MATCH_CONDITION (o.at > p.at) ON o.customer = p.customer",
        "SELECT o.id, p.id, p.price FROM orders o ASOF JOIN orders p ON p.price >= o.price AND p.note = o.note",
        "SELECT o.id, p.price FROM orders o ASOF LEFT JOIN (SELECT price, note FROM orders) p ON p.price <= o.price";
    subqueries:
        "SELECT id FROM orders WHERE amount = (SELECT max(amount) FROM orders)",
        "SELECT id, (SELECT count(*) FROM orders o WHERE o.customer = c.id) FROM customers c",
        "SELECT id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id AND o.amount > 1)",
        "SELECT id FROM customers c WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)",
        "SELECT id FROM orders WHERE customer IN (SELECT id FROM customers WHERE active)",
        "SELECT id FROM customers WHERE id NOT IN (SELECT customer FROM orders)",
        "SELECT id FROM customers c WHERE id NOT IN (SELECT customer FROM orders o WHERE o.amount < c.id)",
        "SELECT id FROM orders WHERE (customer, amount) IN (SELECT id, id FROM customers)",
        "SELECT id FROM orders WHERE (customer, amount) NOT IN (SELECT id, id FROM customers)",
        "SELECT id FROM orders o WHERE NOT (customer, note) IN (SELECT id, name FROM customers c WHERE c.id < o.amount)",
        "SELECT id, (customer, note) NOT IN (SELECT id, name FROM customers) FROM orders",
        "SELECT id FROM orders o WHERE amount NOT IN (SELECT id FROM customers c WHERE c.id = o.customer)",
        "SELECT id FROM orders o WHERE NOT (note IN (SELECT p.note FROM orders p WHERE p.customer = o.customer AND p.id <> o.id))",
        "SELECT id, customer IN (SELECT id FROM customers) FROM orders",
        "SELECT id, EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id) FROM customers c",
        "SELECT id FROM customers c WHERE active OR EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id)",
        "SELECT id, (SELECT name FROM customers c WHERE c.id = o.customer) FROM orders o",
        "SELECT id FROM orders o WHERE amount > (SELECT avg(amount) FROM orders p WHERE p.customer = o.customer)",
        "SELECT id FROM orders o WHERE amount >= (SELECT max(amount) FROM orders p WHERE p.price = o.price)",
        "WITH big AS (SELECT * FROM orders WHERE amount > 1) SELECT a.id, b.id FROM big a JOIN big b ON a.customer = b.customer";
    correlated_in_any_way:
        "SELECT o.id, p.id FROM orders o LEFT JOIN orders p ON o.note < p.note WHERE p.customer = (SELECT min(q.amount) FROM orders q WHERE p.note <> q.note)",
        "SELECT id, (SELECT sum(amount) FROM orders p WHERE p.amount < o.amount) FROM orders o",
        "SELECT id, (SELECT count(*) FROM customers c WHERE c.id = o.customer AND o.amount > 1) FROM orders o",
        "SELECT id, (SELECT name FROM customers c WHERE c.id = o.customer AND o.note IS NOT NULL) FROM orders o",
        "SELECT id, (SELECT p.note FROM orders p WHERE p.customer = o.customer ORDER BY p.amount DESC, p.id LIMIT 1) FROM orders o",
        "SELECT id FROM customers c WHERE EXISTS (SELECT customer FROM orders o WHERE o.amount > c.id GROUP BY customer HAVING count(*) > 1)",
        "SELECT id FROM customers c WHERE active OR EXISTS (SELECT 1 FROM orders o WHERE o.amount > c.id)",
        "SELECT id, c.id IN (SELECT o.amount FROM orders o WHERE o.customer < c.id) FROM customers c",
        "SELECT id FROM orders o WHERE amount < (SELECT max(x.n) FROM (SELECT customer, sum(amount) AS n FROM orders p WHERE p.id <> o.id GROUP BY customer) x)",
        "SELECT c.id, x.n FROM customers c, LATERAL (SELECT count(*) AS n FROM orders o WHERE o.amount > c.id) x",
        "SELECT c.id, x.id FROM customers c LEFT JOIN LATERAL (SELECT id FROM orders o WHERE o.customer = c.id ORDER BY amount, id LIMIT 2) x ON true",
        "SELECT id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE o.customer = c.id AND EXISTS (SELECT 1 FROM clicks k WHERE k.customer = c.id AND k.at > o.at))",
        "SELECT id FROM orders o WHERE amount > ALL (SELECT p.amount FROM orders p WHERE p.customer = o.customer AND p.id <> o.id)",
        "SELECT id, amount > ANY (SELECT id FROM customers) FROM orders";
    top_n:
        "SELECT id FROM orders ORDER BY amount DESC, id LIMIT 3",
        "SELECT id, customer FROM orders ORDER BY price, id LIMIT 2 OFFSET 1",
        "SELECT customer, id, r FROM (SELECT customer, id, row_number() OVER (PARTITION BY customer ORDER BY amount DESC, id) AS r FROM orders) x WHERE r <= 2",
        "SELECT DISTINCT ON (customer) customer, id FROM orders ORDER BY customer, amount DESC, id",
        "SELECT id, customer FROM orders ORDER BY customer FETCH FIRST 2 ROWS WITH TIES",
        "SELECT customer, id FROM (SELECT customer, id, rank() OVER (PARTITION BY customer ORDER BY amount) AS r FROM orders) x WHERE r IN (1, 2) ORDER BY id";
    window_functions:
        "SELECT id, row_number() OVER (PARTITION BY customer ORDER BY amount, id), rank() OVER (ORDER BY price), dense_rank() OVER (ORDER BY note DESC NULLS LAST) FROM orders",
        "SELECT id, lag(amount) OVER w, lead(note, 2, 'none') OVER w, first_value(price) OVER w, last_value(id) OVER w, nth_value(id, 2) OVER w FROM orders WINDOW w AS (PARTITION BY customer ORDER BY at, id)",
        "SELECT id, sum(amount) OVER (PARTITION BY customer), count(*) OVER (), avg(price) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING) FROM orders",
        "SELECT id, sum(amount) OVER (ORDER BY amount RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING), min(note) OVER (ORDER BY at DESC RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW), max(id) OVER (ORDER BY price GROUPS 1 PRECEDING) FROM orders",
        "SELECT id, percent_rank() OVER w, cume_dist() OVER w, ntile(3) OVER (w ORDER BY id) FROM orders WINDOW w AS (PARTITION BY customer), w2 AS (w ORDER BY amount)",
        "SELECT customer, count(*), sum(count(*)) OVER (ORDER BY customer) FROM orders GROUP BY customer",
        "SELECT id, count(*) FILTER (WHERE amount > 0) OVER (PARTITION BY note ORDER BY id), array_agg(id) OVER (ORDER BY id ROWS 2 PRECEDING), stddev(amount) OVER (PARTITION BY customer ORDER BY id) FROM orders";
    windows:
        "SELECT window_start, count(*) FROM TUMBLE(clicks, at, INTERVAL '2 hours') GROUP BY window_start",
        "SELECT window_start, window_end, customer, sum(ratio) FROM TUMBLE(clicks, at, INTERVAL '1 day') GROUP BY window_start, window_end, customer",
        "SELECT customer, window_start, window_end FROM HOP(clicks, at, INTERVAL '2 hours', INTERVAL '5 hours')",
        "SELECT window_start, window_end, count(*) FROM TABLE(CUMULATE(TABLE clicks, DESCRIPTOR(at), INTERVAL '1' HOUR, INTERVAL '3' HOUR)) GROUP BY window_start, window_end",
        "SELECT customer, window_start, window_end FROM SESSION(orders, at, INTERVAL '1 hour' PARTITION BY customer) ORDER BY id",
        "SELECT id, window_start, window_end FROM COUNT_WINDOW(orders, 3, 2 PARTITION BY customer ORDER BY at) ORDER BY id";
    constants:
        "SELECT 1, 'a', NULL",
        "VALUES (1, 'a'), (2, 'b')",
        "SELECT 1 WHERE false";
}

#[test]
fn says_what_is_not_there() {
    let catalog = Arc::new(catalog());
    for (sql, sqlstate) in [
        ("SELECT nothing FROM orders", "42703"),
        ("SELECT * FROM nowhere", "42P01"),
        ("SELECT id, sum(DISTINCT amount) OVER (PARTITION BY customer) FROM orders", "0A000"),
        ("SELECT percentile_cont(amount) WITHIN GROUP (ORDER BY amount) FROM orders", "0A000"),
    ] {
        let bound = bind_view(&catalog, &Settings::default(), &query(sql));
        let planned = bound.and_then(|b| plan_bound_view(b, "v", &[], &mut || RelationId(1)));
        match planned {
            Ok(_) => panic!("{sql} was planned"),
            Err(error) => assert_eq!(error.sqlstate, sqlstate, "{sql}: {error}"),
        }
    }
}
